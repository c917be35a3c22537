"""What the first curve costs: CPU seconds of `dimladder solve` with an empty cache, and of later processes.

python docs/benchmarks/cold_start.py [NAME ...]     names of run files; default: three kinds of theory

Three columns: *first*, nothing compiled on this machine; *theory*, the library's own functions compiled by
another problem, this one's equations not; *again*, a second process. CPU time of the child process, so that a loaded
machine changes little but the comparison of processors.
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


def cpu_seconds(run: Path, cache: Path) -> float:
    """Solve a run file in a process of its own, and return the CPU seconds it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "DIMLADDER_CACHE": str(cache)}
    command = [sys.executable, "-m", "dimladder", "solve", str(run), "--json", "-q"]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(names: list[str]) -> None:
    print(f"{'run file':<28} {'first':>7} {'theory':>7} {'again':>7}   CPU seconds")
    for name in names or DEFAULT:
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


if __name__ == "__main__":
    main(sys.argv[1:])
