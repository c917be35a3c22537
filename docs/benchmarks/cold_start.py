"""What the first curve costs: CPU seconds of `dimladder solve` with an empty cache, and of later processes.

python docs/benchmarks/cold_start.py [NAME ...]     names of run files; default: three kinds of theory
python docs/benchmarks/cold_start.py --changes [WORD ...]      what changes of a solved problem cost, caches full;
                                                    only those whose names contain one of the words
python docs/benchmarks/cold_start.py --gallery [NAME ...]      every example: first curve, later process, one more
                                                    solve in it

Three columns: *first*, nothing compiled on this machine; *theory*, the library's own functions compiled by
another problem, this one's equations not; *again*, a second process. CPU time of the child process, so that a loaded
machine changes little but the comparison of processors. ``DIMLADDER_NATIVE=0`` leaves everything to numba. The
package is byte-compiled first, as its installation does.
"""

from __future__ import annotations

import compileall
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import dimladder

# An environment that forbids byte code on disk would compile the package's own sources in every process: 0.1 s.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
RUNS = Path(__file__).resolve().parents[1] / "gallery" / "runs"
DEFAULT = ("online-erf", "truncation-flow", "estimation-mixture", "hierarchical-layerwise")
# What is changed of which run file; rows that begin with "then" change what the row before has changed once already.
CHANGES = {
    "nothing": ("online-erf", ()),
    "another rate": ("online-erf", ("algorithm.learning_rate=0.3",)),
    "another width": ("online-erf", (
        "student.width=2", "initial.Q=[[0.5, 0.0], [0.0, 0.5]]", "initial.M=[[0.1, 0.0], [0.0, 0.1]]",
        "initial.a=[1.0, 1.0]",
    )),
    "a schedule": ("online-erf", ("algorithm.schedule='1/(1 + t/10)'",)),
    "then another schedule": ("online-erf", ("algorithm.schedule='exp(-t/50) + 0.1*cos(t)'",)),
    "another activation": ("online-erf", (
        "student.activation='x**3'", "target.activation='x**3'", "algorithm.learning_rate=0.01",
    )),
    "kinked units": ("online-erf", ("student.activation=relu", "target.activation=relu")),
    "another loss": ("online-erf", ("loss.function=logistic", "target.noise=0.0", "solver.rtol=1e-6")),
    "blocks": ("online-power-law", ()),
    "then another spectrum": ("online-power-law", ("data.spectrum.exponent=0.8", "data.spectrum.levels=5")),
    "a fixed point": ("estimation-huber", ()),
    "then another parameter of the loss": (
        "estimation-huber", ("loss.function='huber(y - f, 0.7)'",),
    ),
    "then another law of the data": (
        "estimation-huber", ("data.spectrum.exponent=0.5", "target.outliers.probability=0.1"),
    ),
}  # fmt: skip


def cpu_seconds(run: Path, cache: Path, overrides: tuple[str, ...] = ()) -> float:
    """Solve a run file in a process of its own, and return the CPU seconds it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**ENVIRONMENT, "DIMLADDER_CACHE": str(cache)}
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


def changes(chosen: list[str]) -> None:
    """Print what each change of a solved problem costs in a process of its own, the first time and the second."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        cpu_seconds(RUNS / "online-erf.toml", cache)
        print(f"{'online-erf solved; then':<36} {'first':>7} {'again':>7}   CPU seconds")
        for name, (run, overrides) in CHANGES.items():
            if chosen and not any(word in name for word in chosen):
                continue
            first, again = (cpu_seconds(RUNS / f"{run}.toml", cache, overrides) for _ in range(2))
            print(f"{name:<36} {first:7.1f} {again:7.1f}", flush=True)


def gallery(names: list[str]) -> None:
    """Print what every run file takes: the first curve of an installation, a later process, one more solve in it."""
    again = "import sys, time, dimladder as dl; p = dl.load(sys.argv[1]); dl.solve(p); t = time.process_time(); "
    again += "dl.solve(p); print(time.process_time() - t)"
    print(f"{'run file':<28} {'first':>7} {'later':>7} {'curve':>7} {'rest':>7}   CPU seconds")
    for name in names or sorted(path.stem for path in RUNS.glob("*.toml")):
        run = RUNS / f"{name}.toml"
        with tempfile.TemporaryDirectory() as folder:
            first = cpu_seconds(run, Path(folder))
            whole = min(cpu_seconds(run, Path(folder)) for _ in range(2))
            environment = {**ENVIRONMENT, "DIMLADDER_CACHE": folder}
            shown = subprocess.run(
                [sys.executable, "-c", again, str(run)], capture_output=True, text=True, check=True, env=environment
            )
        curve = float(shown.stdout)
        print(f"{name:<28} {first:7.1f} {whole:7.2f} {curve:7.2f} {whole - curve:7.2f}", flush=True)


if __name__ == "__main__":
    compileall.compile_dir(Path(dimladder.__file__).parent, quiet=2)
    if sys.argv[1:2] == ["--gallery"]:
        gallery(sys.argv[2:])
    elif sys.argv[1:2] == ["--changes"]:
        changes(sys.argv[2:])
    else:
        first_curves(sys.argv[1:] or list(DEFAULT))
