"""What the points of a large sweep cost beyond solving them: storing, putting together, resuming, memory, disk.

python docs/benchmarks/at_scale.py [POINTS [END]]     default: 100000 points to t = 400 and to t = 5

The committee of ``online-erf.toml`` (three students, both layers, eleven times, rtol 1e-10) over learning rates and
noises. Each row is a process of its own; CPU seconds, so that other work on the machine hardly counts. Storing is the
time in the functions that log and that put the data set together: as a difference of two sweeps it would drown in the
noise of solving. Solving is the rest.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import dimladder as dl

RUN = Path(__file__).parents[1] / "gallery" / "runs" / "online-erf.toml"
NOISES = 50


def peak() -> float:
    """Return the largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# Module -> its functions that store.
STORING = {"dimladder.workers": ["record"], "dimladder.sweep": ["survey", "assemble_logged"]}


def count_storing() -> list[float]:
    """Let the functions that store add their CPU seconds to a list."""
    spent: list[float] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            begin = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                spent.append(time.thread_time() - begin)

        return call

    for module, names in STORING.items():
        for name in names:
            setattr(sys.modules[module], name, counted(getattr(sys.modules[module], name)))
    return spent


def one(points: int, end: float, resume: bool, folder: str) -> dict[str, float]:
    """Sweep in this process, into the folder."""
    problem = dl.load(RUN, {"grid.time": [0.0, *np.geomspace(end / 50, end, 10).tolist()]})
    rates = np.linspace(0.05, 1.0, points // NOISES).tolist()
    grid = {"algorithm.learning_rate": rates, "target.noise": np.linspace(0, 0.5, NOISES).tolist()}
    # Compiles, imports all of it, and is not counted.
    with tempfile.TemporaryDirectory() as temporary:
        dl.sweep(problem, {key: values[:2] for key, values in grid.items()}, out=temporary, force=True)
    spent, before, begin = count_storing(), peak(), time.process_time()
    dl.sweep(problem, grid, out=folder, resume=resume)
    total = time.process_time() - begin
    return {"ms": 1e3 * total / points, "storing": 1e3 * sum(spent) / points, "MB before": before, "MB": peak()}


def main(points: int, ends: list[float]) -> None:
    """Print a row for each end."""
    print("| to t | solve | store | resume | store + resume | memory MB | disk a point |")
    print("|---|---|---|---|---|---|---|")
    for end in ends:
        with tempfile.TemporaryDirectory() as folder:
            found = {}
            for mode in ("store", "resume"):
                command = [sys.executable, __file__, "one", str(points), str(end), mode, f"{folder}/sweep"]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[mode] = json.loads(done.stdout)
            disk = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()) / points
        store, resume = found["store"]["storing"], found["resume"]["ms"]
        solve = found["store"]["ms"] - store
        share = (store + resume) / solve
        memory = f"{found['store']['MB before']:.0f} -> {found['store']['MB']:.0f}"
        print(
            f"| {end:g} | {solve:.3f} ms | {store:.3f} ms | {resume:.3f} ms | {100 * share:.1f} % of solving | "
            f"{memory} | {disk / 1e3:.1f} kB |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(one(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "resume", sys.argv[5])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, [float(e) for e in sys.argv[2:]] or [400.0, 5.0])
