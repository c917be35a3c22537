"""
Students that reach their target: e_g as it is, and as the overlaps in double precision show it
===============================================================================================

.. image:: /gallery/figures/online_target.png

One student on one teacher of the same activation, without noise. Lines: the flow continued in differences from the
target. Dots: the modulus of e_g, computed from the overlaps of that very solution, where Q - 2M + 1 is the difference
of equal numbers.
"""

# sphinx_gallery_thumbnail_path = 'gallery/figures/online_target.png'
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dimladder as dl
from dimladder.paper.draw import save

plt.style.use(dl.style("double"))

HERE = Path(__file__).parent
TEXT = """
schema = 2
[target]
kind = "committee"
activation = "{activation}"
readout = [1.0]
[student]
kind = "two-layer"
width = 1
activation = "{activation}"
[algorithm]
kind = "one-pass"
learning_rate = 0.3
[initial]
Q = [[0.5]]
M = [[0.1]]
[grid]
time = {{ start = 0.0, stop = 400.0, points = 161 }}
[solver]
rtol = 1e-10
atol = 1e-12
"""


def main() -> None:
    picture, axes = plt.subplots(figsize=(3.9, 2.2), layout="constrained")
    for colour, activation in enumerate(("erf", "relu", "x**2 - 1", "sin")):
        rate = 0.05 if "**" in activation else 0.3
        problem = dl.loads(TEXT.format(activation=activation), {"algorithm.learning_rate": rate})
        curve = dl.solve(problem)
        times, error = curve["time"].values, curve["generalization_error"].values
        flow = dl.derive(problem)
        states = np.stack([curve["Q"].values[:, 0, 0], curve["M"].values[:, 0, 0]], axis=1)
        rounded = np.abs(flow.generalization_error(states))
        name = {"x**2 - 1": "$x^2-1$", "relu": "ReLU"}.get(activation, activation)
        axes.semilogy(times, error, color=f"C{colour}", label=name)
        axes.semilogy(times, np.maximum(rounded, 1e-40), ".", ms=3, color=f"C{colour}", alpha=0.6)
    axes.axhline(np.finfo(float).eps, color="0.6", lw=0.8, ls=":")
    axes.set(xlabel=r"$t$ = steps / $d$", ylabel=r"$\varepsilon_g$", ylim=(1e-36, 3), xlim=(0, 400))
    axes.legend(frameon=False)
    dl.key(picture, theory="in differences from the target", simulation="from the overlaps")
    save(picture, HERE / "figures" / "online_target.png", "double")


if __name__ == "__main__":
    main()
