"""Whole jobs, from source to curve: what a user waits for with dimladder, and with the script he would write instead.

    python docs/benchmarks/whole_jobs.py [--python PATH] [--settings FILE] [CASE ...]

Cases: erf2, erf4, erf10 (K = M, first layer, 50 output times), mixture (200 points). *FILE* keeps the tolerances that
were found, so that a second run only takes the times.

Every job runs in a process of its own, and again in a second one: *first*, nothing compiled before; *later*, whatever
the tool keeps on disk is there; *warm*, the least of several further curves in that process. CPU seconds of the process
and its children, imports included. Jobs of one case are at equal error: each has the loosest of its tolerances that
comes within `ERROR` of a reference in all overlaps at all output times. *PATH* is the Python of an environment with JAX
and diffrax (``pip install jax diffrax scipy numba``), which dimladder does not need.

The scripts: NumPy right-hand side in SciPy's DOP853; hand-written loops under numba, cached, in the same; JAX arrays in
diffrax's Tsit5 and Dopri8 under ``jax.jit``; `euler.cpp`, compiled by g++ -O3, with the fixed step 0.01 and the
averages over four fields as in published codes (its error is what it is). The mixture: damped iterations of the same
equations over 120 Gauss-Hermite nodes, with NumPy, under numba, and under ``jax.jit``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ERROR = 1e-6
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
# Students (as many teachers), last time.
ERF = {"erf2": (2, 150.0), "erf4": (4, 400.0), "erf10": (10, 400.0)}
RATE, TIMES = 0.5, 50
Curve = Callable[[], np.ndarray]


def overlaps(y: np.ndarray, k: int) -> np.ndarray:
    """Return Q and R of states in the order of `erf_numpy`, one row a time."""
    i, j = np.triu_indices(k)
    q = np.empty((len(y), k, k))
    q[:, i, j] = q[:, j, i] = y[:, : len(i)]
    return np.concatenate([q.reshape(len(y), -1), y[:, len(i) : len(i) + k * k]], axis=1)


def erf_dimladder(case: str, rtol: float, prepared: bool = False, method: str = "auto") -> Curve:
    from erf_numpy import initial_state

    import dimladder as dl

    k, end = ERF[case]
    start = overlaps(initial_state(k, k)[None], k)[0]
    problem = dl.problem(
        target={"kind": "committee", "activation": "erf", "readout": [1.0] * k, "overlap": np.eye(k)},
        student={"kind": "two-layer", "width": k, "activation": "erf", "train_readout": False},
        algorithm={"kind": "one-pass", "learning_rate": RATE},
        initial={"Q": start[: k * k].reshape(k, k), "M": start[k * k :].reshape(k, k), "a": [1.0] * k},
        grid={"time": np.linspace(0.0, end, TIMES)},
        solver={"rtol": rtol, "method": method},
    )

    solver = dl.prepare(problem, ["algorithm.learning_rate"]) if prepared else None

    def curve() -> np.ndarray:
        solution: Any = dl.solve(problem) if solver is None else solver([RATE])
        return np.concatenate([np.asarray(solution[n]).reshape(TIMES, -1) for n in ("Q", "M")], axis=1)

    return curve


def erf_scipy(case: str, rtol: float, rhs: Callable[..., Any] | None = None) -> Curve:
    from erf_numpy import generalisation_error, initial_state, rhs_numpy
    from scipy.integrate import solve_ivp

    k, end = ERF[case]
    function = rhs or (lambda t, y: rhs_numpy(t, y, k, k, RATE, 0.0, 0.0))

    def curve() -> np.ndarray:
        times = np.linspace(0.0, end, TIMES)
        found = solve_ivp(
            function, (0, end), initial_state(k, k), method="DOP853", t_eval=times, rtol=rtol, atol=1e-3 * rtol
        ).y.T
        [generalisation_error(y, k, k) for y in found]
        return overlaps(found, k)

    return curve


def erf_numba(case: str, rtol: float) -> Curve:
    from erf_rhs import rhs, work_size

    k, _ = ERF[case]
    p, work = np.array([RATE, 0.0, 0.0, k, k]), np.zeros(work_size(k, k))

    def function(t: float, y: np.ndarray) -> np.ndarray:
        dy = np.empty_like(y)
        rhs(t, y, dy, p, work)
        return dy

    return erf_scipy(case, rtol, function)


def erf_jax(case: str, rtol: float, method: str) -> Curve:
    import diffrax
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from erf_numpy import generalisation_error, initial_state, rhs_numpy

    k, end = ERF[case]
    times = jnp.linspace(0.0, end, TIMES)

    @jax.jit
    def solve(y: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: rhs_numpy(t, y, k, k, RATE, 0.0, 0.0, xp=jnp)),
            getattr(diffrax, method)(), 0.0, end, None, y, max_steps=100_000, saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=1e-3 * rtol),
        ).ys  # fmt: skip

    def curve() -> np.ndarray:
        found = np.asarray(solve(jnp.asarray(initial_state(k, k))))
        [generalisation_error(y, k, k) for y in found]
        return overlaps(found, k)

    return curve


def erf_cpp(case: str, dt: float) -> Curve:
    from erf_numpy import initial_state

    k, end = ERF[case]
    program = Path(tempfile.mkdtemp()) / "euler"
    subprocess.run(["g++", "-O3", "-std=c++17", str(HERE / "euler.cpp"), "-o", str(program)], check=True)

    def curve() -> np.ndarray:
        numbers = (k, k, 0, RATE, 0.0, end, dt)
        text = subprocess.run([program, *map(str, numbers)], check=True, capture_output=True, text=True).stdout
        y = np.array(text.split()[1:], dtype=float)
        # It prints the last state: the first of the rows is that of the start.
        return overlaps(np.stack([initial_state(k, k), y]), k)[[0] * (TIMES - 1) + [1]]

    return curve


def mixture_dimladder(case: str, rtol: float) -> Curve:
    import dimladder as dl

    run = HERE.parent / "gallery" / "runs" / "estimation-mixture.toml"
    problem = dl.replace(
        dl.load(run), {"grid.sample_ratio": {"start": 0.3, "stop": 6.0, "points": 200}, "solver.rtol": rtol}
    )

    def curve() -> np.ndarray:
        found = dl.solve(problem)
        return np.stack([np.asarray(found[n]) for n in ("V", "q", "m", "bias")], axis=1)

    return curve


def mixture_numpy(case: str, tolerance: float) -> Curve:
    import mixture_scripts

    return lambda: mixture_scripts.by_numpy(tolerance)


def mixture_numba(case: str, tolerance: float) -> Curve:
    import mixture_scripts

    return mixture_scripts.by_numba(tolerance)


def mixture_jax(case: str, tolerance: float) -> Curve:
    import mixture_scripts

    return mixture_scripts.by_jax(tolerance)


Job = Callable[[str, float], Curve]
JOBS: dict[str, dict[str, Job]] = {
    "erf": {
        "dimladder": erf_dimladder,
        "dimladder, prepared": lambda case, rtol: erf_dimladder(case, rtol, prepared=True),
        "dimladder, prepared, dp5": lambda case, rtol: erf_dimladder(case, rtol, prepared=True, method="dp5"),
        "NumPy + SciPy": erf_scipy,
        "numba + SciPy": erf_numba,
        "JAX + diffrax Tsit5": lambda case, rtol: erf_jax(case, rtol, "Tsit5"),
        "JAX + diffrax Dopri8": lambda case, rtol: erf_jax(case, rtol, "Dopri8"),
        "C++, Euler 0.01": erf_cpp,
    },
    "mixture": {
        "dimladder": mixture_dimladder, "NumPy": mixture_numpy, "numba": mixture_numba, "JAX": mixture_jax,
    },
}  # fmt: skip
# A fixed step, not a tolerance.
FIXED = {"C++, Euler 0.01": 0.01}


def spent() -> float:
    """CPU seconds of this process and of its children."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in both)


def work(case: str, name: str, rtol: float, out: str, repeats: int) -> None:
    """Do one job in this process: print its times, write its curve."""
    curve = JOBS["erf" if case in ERF else case][name](case, rtol)
    found = curve()
    cold, warm = spent(), np.inf
    # The program in C++ is a child; of this process there is a finer clock.
    clock = spent if "C++" in name else time.process_time
    for _ in range(repeats):
        begin = clock()
        curve()
        warm = min(warm, clock() - begin)
        if warm > 2.0:
            break
    np.save(out, found)
    print(json.dumps({"cold": cold, "warm": warm}))


def run(python: str, case: str, name: str, rtol: float, cache: str, repeats: int = 0) -> tuple[dict[str, float], Any]:
    """Do one job in a process of its own."""
    environment = {**os.environ, "DIMLADDER_CACHE": cache, "NUMBA_CACHE_DIR": cache if "numba" in name else ""}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    if "numba" not in name:
        del environment["NUMBA_CACHE_DIR"]
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/curve.npy"
        command = [python, __file__, "--work", case, name, repr(rtol), out, str(repeats)]
        text = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        return json.loads(text.splitlines()[-1]), np.load(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=[*ERF, "mixture"])
    parser.add_argument("--python", default="", help="Python of an environment with jax and diffrax")
    parser.add_argument("--settings", type=Path, help="JSON of the tolerances found, read and written")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        case, name, rtol, out, repeats = args.work
        work(case, name, float(rtol), out, int(repeats))
        return
    known = json.loads(args.settings.read_text()) if args.settings and args.settings.exists() else {}
    for case in args.cases:
        print(f"\n{case:<31}{'setting':>9}{'first':>8}{'later':>8}{'warm':>10}{'error':>9}")
        for name in JOBS["erf" if case in ERF else case]:
            python = args.python if "JAX" in name else sys.executable
            if not python:
                print(f"{name:<31} skipped: no --python")
                continue
            key = f"{case}: {name}"
            if key not in known:
                known[key] = setting_of(case, name, python)
                if args.settings:
                    args.settings.write_text(json.dumps(known, indent=1))
            row(case, name, python, *known[key])


@cache
def reference_of(case: str) -> np.ndarray:
    """Return the curve that errors are measured from."""
    with tempfile.TemporaryDirectory() as kept:
        return run(sys.executable, case, "dimladder", 1e-11, kept)[1]


def setting_of(case: str, name: str, python: str) -> tuple[float, float]:
    """Return the loosest tolerance that is accurate enough, and the error at it."""
    with tempfile.TemporaryDirectory() as kept:
        for setting in [FIXED[name]] if name in FIXED else TOLERANCES:
            _, found = run(python, case, name, setting, kept)
            # The program in C++ prints its last state.
            error = float(abs(found - reference_of(case))[-1 if name in FIXED else slice(None)].max())
            if error <= ERROR:
                break
    return setting, error


def row(case: str, name: str, python: str, setting: float, error: float) -> None:
    """Print the times of one job."""
    with tempfile.TemporaryDirectory() as cache:
        first, _ = run(python, case, name, setting, cache)
        later, _ = run(python, case, name, setting, cache, repeats=20)
    times = f"{first['cold']:8.2f}{later['cold']:8.2f}{later['warm']:10.5f}"
    print(f"{name:<31}{setting:9.0e}{times}{error:9.1e}", flush=True)


if __name__ == "__main__":
    main()
