"""What the points of a large sweep cost beyond solving them: storing, putting together, resuming, memory, disk.

python docs/benchmarks/at_scale.py [POINTS [END]]     default: 100000 points to t = 400 and to t = 5

The committee of ``online-erf.toml`` (three students, both layers, eleven times, rtol 1e-10) over learning rates and
noises. Each row is a process of its own; CPU seconds, so that other work on the machine does not count. Solving alone
is measured with a tenth of the points, which costs the same a point.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import dimladder as dl

RUN = Path(__file__).parents[1] / "gallery" / "runs" / "online-erf.toml"
NOISES = 50


def peak() -> float:
    """Return the largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(points: int, end: float, mode: str, folder: str) -> dict[str, float]:
    """Sweep in this process: ``solve`` keeps nothing, ``store`` and ``resume`` use the folder."""
    problem = dl.load(RUN, {"grid.time": [0.0, *np.geomspace(end / 50, end, 10).tolist()]})
    rates = np.linspace(0.05, 1.0, points // NOISES).tolist()
    grid = {"algorithm.learning_rate": rates, "target.noise": np.linspace(0, 0.5, NOISES).tolist()}
    # Compiles, imports all of it, and is not counted.
    with tempfile.TemporaryDirectory() as temporary:
        dl.sweep(problem, {key: values[:2] for key, values in grid.items()}, out=temporary, force=True)
    before, begin = peak(), time.process_time()
    options: dict[str, Any] = {} if mode == "solve" else {"out": folder, "resume": mode == "resume"}
    dl.sweep(problem, grid, **options)
    return {"ms": 1e3 * (time.process_time() - begin) / points, "MB before": before, "MB": peak()}


def main(points: int, ends: list[float]) -> None:
    """Print a row for each end."""
    print("| to t | solve | + store | resume | store + resume | memory MB | disk a point |")
    print("|---|---|---|---|---|---|---|")
    for end in ends:
        with tempfile.TemporaryDirectory() as folder:
            found = {}
            for mode, count in (("solve", points // 10), ("store", points), ("resume", points)):
                command = [sys.executable, __file__, "one", str(count), str(end), mode, f"{folder}/sweep"]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[mode] = json.loads(done.stdout)
            disk = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()) / points
        solve, store, resume = (found[mode]["ms"] for mode in ("solve", "store", "resume"))
        share = (store - solve + resume) / solve
        memory = f"{found['store']['MB before']:.0f} -> {found['store']['MB']:.0f}"
        print(
            f"| {end:g} | {solve:.3f} ms | {store - solve:.3f} ms | {resume:.3f} ms | {100 * share:.1f} % of solving | "
            f"{memory} | {disk / 1e3:.1f} kB |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(one(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], sys.argv[5])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, [float(e) for e in sys.argv[2:]] or [400.0, 5.0])
