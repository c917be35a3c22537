"""What the first curve costs: CPU seconds of `dimladder solve` with an empty cache, and of later processes.

python docs/benchmarks/cold_start.py [NAME ...]     names of run files; default: three kinds of theory
python docs/benchmarks/cold_start.py --changes      what a change of the first run file costs, its caches full

Three columns: *first*, nothing compiled on this machine; *theory*, the library's own functions compiled by
another problem, this one's equations not; *again*, a second process. CPU time of the child process, so that a loaded
machine changes little but the comparison of processors. ``DIMLADDER_NATIVE=0`` leaves everything to numba.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = Path(__file__).resolve().parents[1] / "gallery" / "runs"
DEFAULT = ("online-erf", "estimation-mixture", "hierarchical-layerwise")
CHANGES = {
    "the same": (),
    "another rate": ("algorithm.learning_rate=0.3",),
    "another width": (
        "student.width=2", "initial.Q=[[0.5, 0.0], [0.0, 0.5]]", "initial.M=[[0.1, 0.0], [0.0, 0.1]]",
        "initial.a=[1.0, 1.0]",
    ),
    "another schedule": ("algorithm.schedule='1/(1 + t/10)'",),
    "another activation": ("student.activation='x**3'", "target.activation='x**3'", "algorithm.learning_rate=0.01"),
    "kinked units": ("student.activation=relu", "target.activation=relu"),
    "another loss": ("loss.function=logistic", "target.noise=0.0", "solver.rtol=1e-6"),
}  # fmt: skip


def cpu_seconds(run: Path, cache: Path, overrides: tuple[str, ...] = ()) -> float:
    """Solve a run file in a process of its own, and return the CPU seconds it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "DIMLADDER_CACHE": str(cache)}
    command = [sys.executable, "-m", "dimladder", "solve", str(run), "--json", "-q"]
    command += [word for text in overrides for word in ("--set", text)]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_curves(names: list[str]) -> None:
    """Print the three columns of each run file."""
    print(f"{'run file':<28} {'first':>7} {'theory':>7} {'again':>7}   CPU seconds")
    for name in names:
        run = RUNS / f"{name}.toml"
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder)
            first = cpu_seconds(run, cache)
            again = cpu_seconds(run, cache)
            # The printed modules and what was compiled of them go; the compiled library stays.
            for path in (cache / "generated").glob("*"):
                path.unlink()
            for path in (cache / "compiled").glob("generated_*"):
                shutil.rmtree(path)
            print(f"{name:<28} {first:7.1f} {cpu_seconds(run, cache):7.1f} {again:7.1f}", flush=True)


def changes() -> None:
    """Print what each change of a solved problem costs in a process of its own, the first time and the second."""
    run = RUNS / f"{DEFAULT[0]}.toml"
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        cpu_seconds(run, cache)
        print(f"{'change of ' + DEFAULT[0]:<28} {'first':>7} {'again':>7}   CPU seconds")
        for name, overrides in CHANGES.items():
            first = cpu_seconds(run, cache, overrides)
            print(f"{name:<28} {first:7.1f} {cpu_seconds(run, cache, overrides):7.1f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--changes"]:
        changes()
    else:
        first_curves(sys.argv[1:] or list(DEFAULT))
