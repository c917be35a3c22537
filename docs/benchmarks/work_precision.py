"""Work-precision diagram of the solvers of `ode_solvers.py`: CPU time against achieved error.

python docs/benchmarks/work_precision.py         # writes work_precision.png beside this file
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
from ode_solvers import CASES, measure

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TOLERANCES = (1e-3, 1e-6, 1e-9, 1e-11)
# Near-doubles of other curves, and what is measured for one case only.
LEAVE_OUT = (
    "dimladder dop853, hand-written rhs",
    "dimladder auto",
    "diffrax Dopri8, jitted",
    "SciPy DOP853, NumPy rhs",
    "heyoka Taylor",
)


def main() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharex=True)
    colours: dict[str, str] = {}
    for axis, case in zip(axes, (CASES[0], CASES[1]), strict=True):
        rows = measure(case, TOLERANCES, 3, LEAVE_OUT)
        for name in dict.fromkeys(row[0] for row in rows):
            points = sorted((error, 1e3 * seconds) for n, _, seconds, error, _ in rows if n == name)
            line = "-" if name.startswith("dimladder") else "--"
            width = 2.0 if name.startswith("dimladder") else 1.0
            colour = colours.setdefault(name, f"C{len(colours)}")
            axis.loglog(*zip(*points, strict=True), line, c=colour, marker="o", markersize=3, lw=width, label=name)
        axis.set_title(case.label, fontsize=9)
        axis.set_xlabel("error at the last time")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("CPU time / ms")
    axes[0].invert_xaxis()
    axes[1].legend(fontsize=6.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("work_precision.png"), dpi=110)


if __name__ == "__main__":
    main()
