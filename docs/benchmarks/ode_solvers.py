"""Time the integrators against their peers on order-parameter flows of erf committees.

    python docs/benchmarks/ode_solvers.py            # prints the tables
    python docs/benchmarks/ode_solvers.py --write    # and writes ode_solvers.md beside this file

All solvers run in one process on one thread, interleaved; times are CPU times, the least of several repeats, after
compilation. Errors are max |y - y_ref| at the last time, with the reference at rtol = 1e-13. Peers that are not
installed are skipped with a line that says so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import naive_rhs  # noqa: E402
import numpy as np  # noqa: E402
from numba import njit  # noqa: E402
from peers import Case, Generated, HandWritten, Run  # noqa: E402

from dimladder.numerics.ode import integrate, integrate_batch  # noqa: E402

CASES = (Case(2, 2, False, 0.0, 150.0), Case(4, 4, False, 0.0, 400.0), Case(10, 4, True, 0.1, 400.0))
TAILS = (Case(4, 2, True, 0.1, 1e5), Case(4, 4, False, 0.0, 1e4))
# The table shows two tolerances; ratios at equal error interpolate between all of them.
SHOWN = (1e-6, 1e-9)
TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
# Tolerances at which Euler's accuracy is looked for.
LOOSE = (3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
HERE = Path(__file__).parent


def contenders(
    case: Case, tolerances: tuple[float, ...], leave_out: tuple[str, ...] = ()
) -> dict[str, dict[float, Run]]:
    """Every solver that can be imported, by name and tolerance (Euler: by step)."""
    ours, hand = Generated(case), HandWritten(case)
    makers: dict[str, Callable[[float], Run]] = {
        "dimladder dop853": lambda r: ours.ours("dop853", r),
        "dimladder tsit5": lambda r: ours.ours("tsit5", r),
        "dimladder auto": lambda r: ours.ours("auto", r),
        "dimladder dop853, hand-written rhs": lambda r: hand.ours("dop853", r),
        "numbalsoda dop853, same rhs": lambda r: ours.numbalsoda("dop853", r),
        "numbalsoda lsoda, same rhs": lambda r: ours.numbalsoda("lsoda", r),
        "SciPy DOP853, same rhs": lambda r: ours.scipy("DOP853", r),
        "SciPy LSODA, same rhs": lambda r: ours.scipy("LSODA", r),
        "SciPy DOP853, NumPy rhs": lambda r: hand.scipy_numpy("DOP853", r),
        "SciPy RK45, NumPy rhs": lambda r: hand.scipy_numpy("RK45", r),
        "diffrax Tsit5, jitted": lambda r: hand.diffrax("Tsit5", r),
        "diffrax Dopri8, jitted": lambda r: hand.diffrax("Dopri8", r),
    }
    # heyoka compiles for minutes from K = 4 on.
    if case.students <= 2:
        makers["heyoka Taylor"] = hand.heyoka
    out: dict[str, dict[float, Run]] = {}
    for name, make in makers.items():
        if name in leave_out:
            continue
        try:
            out[name] = {r: make(r) for r in tolerances}
        except ImportError as error:
            print(f"skipped: {name} ({error})")
    euler_steps = (1e-2, 1e-3) if case.students <= 4 else (2e-2, 1e-2)
    out["explicit Euler, same rhs"] = {dt: ours.euler(dt) for dt in euler_steps}
    return out


def least_time(runs: list[Run], repeats: int, least: float = 0.15, most: float = 2.0) -> list[float]:
    """CPU time of each, the least over interleaved repeats: more of them for short runs, fewer for long ones."""
    best = [np.inf] * len(runs)
    spent = [0.0] * len(runs)
    for repeat in range(100):
        for i, run in enumerate(runs):
            if spent[i] > most or (repeat >= repeats and spent[i] > least):
                continue
            begin = time.process_time()
            run()
            took = time.process_time() - begin
            best[i] = min(best[i], took)
            spent[i] += took
    return best


def measure(
    case: Case, tolerances: tuple[float, ...], repeats: int, leave_out: tuple[str, ...] = ()
) -> list[tuple[str, float, float, float, int]]:
    """Rows (solver, tolerance or step, CPU seconds, error, evaluations)."""
    solvers = contenders(case, tolerances, leave_out)
    flat = [(name, setting, run) for name, runs in solvers.items() for setting, run in runs.items()]
    references = {True: HandWritten(case).reference, False: Generated(case).reference}
    by_hand = ("hand-written", "NumPy", "diffrax", "heyoka")
    results = []
    for name, setting, run in flat:
        y, evaluations = run()
        error = float(np.abs(y - references[any(word in name for word in by_hand)]).max())
        results.append((name, setting, error, evaluations))
    times = least_time([run for _, _, run in flat], repeats)
    return [(n, s, t, e, k) for (n, s, e, k), t in zip(results, times, strict=True)]


def at_equal_error(rows: list[tuple[str, float, float, float, int]], error: float) -> dict[str, float]:
    """CPU seconds for this error, by interpolation in logarithms along the runs that no other run beats in both.

    Where even the cheapest run is more accurate, that run counts. Euler's cost is the inverse of its error. NaN where a
    solver does not reach the error.
    """
    out: dict[str, float] = {}
    for name in dict.fromkeys(row[0] for row in rows):
        points = sorted((row[2], row[3]) for row in rows if row[0] == name)
        if "Euler" in name:
            seconds, reached = points[-1]
            out[name] = seconds * max(reached / error, 1.0)
            continue
        front: list[tuple[float, float]] = []
        for seconds, reached in points:
            if not front or reached < front[-1][1]:
                front.append((seconds, reached))
        costs, errors = np.array(front).T
        out[name] = float(np.exp(np.interp(-np.log(error), -np.log(errors), np.log(costs), right=np.nan)))
    return out


def main_tables(repeats: int) -> list[str]:
    lines = []
    for case in CASES:
        print("...", case.label, flush=True)
        rows = measure(case, TOLERANCES, repeats)
        lines += [f"### {case.label}", ""]
        lines += ["| solver | setting | CPU ms | error | evaluations |", "|---|---|---|---|---|"]
        for name, setting, seconds, error, evaluations in rows:
            if setting not in SHOWN and "Euler" not in name:
                continue
            kind = "dt" if "Euler" in name else "rtol"
            count = str(evaluations) if evaluations else "-"
            lines.append(f"| {name} | {kind} {setting:g} | {1e3 * seconds:.3g} | {error:.1e} | {count} |")
        lines += ["", "CPU time at equal error, relative to the cheaper of dimladder tsit5 and dop853:", ""]
        lines += ["| solver | error 1e-6 | error 1e-9 |", "|---|---|---|"]
        equal = [at_equal_error(rows, error) for error in (1e-6, 1e-9)]
        least = [min(e["dimladder tsit5"], e["dimladder dop853"]) for e in equal]
        for name in equal[0]:
            ratios = [e[name] / one for e, one in zip(equal, least, strict=True)]
            cells = [f"{ratio:.2g}" if np.isfinite(ratio) else "-" for ratio in ratios]
            if "Euler" in name:
                cells = [f"{float(c):.0e} (from its order)" for c in cells]
            lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
        lines.append("")
    return lines


def euler_table(repeats: int) -> list[str]:
    """The plain C++ program with a fixed step against the cheapest of ours that is at least as accurate."""
    lines = [
        "## Explicit Euler with a fixed step, in C++",
        "",
        "`euler.cpp` (g++ -O3): every average a function of four indices, dt = 0.01. Ours: the cheapest of tsit5 and",
        "dop853 at rtol 3e-3, 1e-3, ..., 1e-5 with a smaller error.",
        "",
        "| case | C++ ms | error | ours ms | error | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for case in CASES:
        ours = Generated(case)
        try:
            seconds, error = ours.euler_cpp(0.01)
        except ImportError as missing:
            print(f"skipped: C++ Euler ({missing})")
            return []
        runs = [ours.ours(method, rtol) for method in ("tsit5", "dop853") for rtol in LOOSE]
        errors = [float(np.abs(run()[0] - ours.reference).max()) for run in runs]
        spent, reached = min((t, e) for t, e in zip(least_time(runs, repeats), errors, strict=True) if e < error)
        row = f"| {case.label} | {1e3 * seconds:.3g} | {error:.1e} | {1e3 * spent:.3g} | {reached:.1e} |"
        lines.append(f"{row} {seconds / spent:.0f} |")
    return [*lines, ""]


def tail_table(repeats: int) -> list[str]:
    lines = [
        "## Long tails",
        "",
        "rtol = 1e-8, atol = 1e-11. Evaluations include those spent on finite-difference Jacobians, for every solver.",
        "",
    ]
    for case in TAILS:
        print("... tail", case.label, flush=True)
        ours = Generated(case)
        runs = {f"dimladder {m}": ours.ours(m, 1e-8) for m in ("dop853", "bdf", "rodas5p", "auto")}
        runs |= {f"SciPy {m}, same rhs": ours.scipy(m, 1e-8) for m in ("LSODA", "BDF", "Radau")}
        try:
            runs["numbalsoda lsoda, same rhs"] = ours.numbalsoda("lsoda", 1e-8)
        except ImportError as error:
            print(f"skipped: numbalsoda lsoda ({error})")
        lines += [f"### {case.label}", "", "| solver | evaluations | CPU ms | error |", "|---|---|---|---|"]
        for name, run in runs.items():
            try:
                y, evaluations = run()
            except AssertionError as failure:
                # At a fixed point to rounding, some solvers shrink their steps to nothing.
                lines.append(f"| {name} | - | - | fails: {failure} |")
                continue
            (seconds,) = least_time([run], repeats)
            error = float(np.abs(y - ours.reference).max())
            lines.append(f"| {name} | {evaluations or '-'} | {1e3 * seconds:.3g} | {error:.1e} |")
        result = integrate(ours.rhs, ours.y0, [case.end], p=ours.p, work_size=ours.work_size, rtol=1e-8, atol=1e-11)
        changes = "; ".join(f"to {s.method} at t = {s.t:.4g}" for s in result.stats["switches"])
        lines += ["", f"`auto`: {changes or 'no change of method'}.", ""]
    return lines


def rhs_table() -> list[str]:
    """Microseconds of one right-hand side: as derived, by hand on units, and with four-index functions."""
    lines = [
        "## One right-hand side",
        "",
        "Both layers, sigma = 0.1; microseconds. `derived`: sums across pairs of students. `by hand`: the same Schur",
        "form with the same arcsine, sums over units (`erf_rhs.py`). `four indices`: classical determinants",
        "(`naive_rhs.py`).",
        "",
        "| K, M | derived | by hand | four indices | arcsines | ns an arcsine |",
        "|---|---|---|---|---|---|",
    ]
    for k, m in ((1, 1), (2, 2), (4, 4), (8, 4), (10, 4), (16, 4), (32, 4)):
        case = Case(k, m, True, 0.1, 1.0)
        ours, hand = Generated(case), HandWritten(case)
        count = max(20, round(2e5 / (k * (k + m)) ** 1.8))
        cost = [
            evaluations(ours.rhs, ours.y0, ours.p, ours.work_size, count),
            evaluations(hand.rhs, hand.y0, hand.p, hand.work_size, count),
            evaluations(naive_rhs.rhs, hand.y0, hand.p, naive_rhs.work_size(k, m), max(5, count // 10)),
        ]
        arcsines = k * (k + 1) // 2 * (k + m) * (k + m + 1) // 2
        times = " | ".join(f"{1e6 * c:.3g}" for c in cost)
        lines.append(f"| {k}, {m} | {times} | {arcsines} | {1e9 * cost[0] / arcsines:.2g} |")
    return [*lines, ""]


def evaluations(rhs: Any, y: np.ndarray, p: np.ndarray, work_size: int, count: int) -> float:
    """CPU seconds of one evaluation, the least over repeats."""

    @njit
    def repeat(y, dy, p, work, count):
        for _ in range(count):
            rhs(0.0, y, dy, p, work)
            y[0] += 1e-16 * dy[0]

    arguments = y.copy(), np.empty_like(y), p, np.zeros(work_size)
    repeat(*arguments, 1)
    return least_time([lambda: repeat(*arguments, count)], 15)[0] / count


def batch_table(repeats: int) -> list[str]:
    print("... batch")
    case, size = CASES[0], 1000
    ours = Generated(case)
    rng = np.random.default_rng(0)
    y0 = np.repeat(ours.y0[None], size, axis=0)
    y0[:, 3:7] += 0.05 * rng.normal(size=(size, 4))  # the overlaps with the teacher
    options = {"p": ours.p, "work_size": ours.work_size, "method": "dop853", "rtol": 1e-6, "atol": 1e-9}
    wall: dict[int, float] = {}
    cpu: dict[int, float] = {}
    results = {}
    for workers in (1, 2) * max(8, repeats):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        results[workers] = integrate_batch(ours.rhs, y0, [case.end], workers=workers, **options)
        wall[workers] = min(wall.get(workers, np.inf), time.perf_counter() - begin)
        cpu[workers] = min(cpu.get(workers, np.inf), time.process_time() - begin_cpu)
    alone, together = machine_limit(repeats)
    same = bool(np.array_equal(results[1].y, results[2].y))
    return [
        "## A batch of 1000 initial conditions",
        "",
        f"{case.label}, rtol 1e-6. Wall time: one thread {wall[1]:.3f} s, two threads {wall[2]:.3f} s "
        f"(parallel efficiency {100 * wall[1] / (2 * wall[2]):.0f} %; load of the machine {os.getloadavg()[0]:.1f} on "
        f"{os.cpu_count()} processors). CPU time: {cpu[1]:.3f} s and {cpu[2]:.3f} s, so two threads do "
        f"{100 * cpu[1] / cpu[2]:.0f} % useful work where processors are free. Results bitwise equal: {same}.",
        "",
        f"Two processes that share nothing and run a loop of arithmetic reach {100 * alone / together:.0f} % on this "
        f"machine (one alone {1e3 * alone:.0f} ms, two at once {1e3 * together:.0f} ms).",
        "",
    ]


def machine_limit(repeats: int) -> tuple[float, float]:
    """Seconds of a loop of arithmetic in one process, and in two at once (the slower of the two)."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2) as pool:
        list(pool.map(busy, [1, 1]))
        alone = min(pool.submit(busy, 20).result() for _ in range(2 * repeats))
        together = min(max(pool.map(busy, [20, 20])) for _ in range(2 * repeats))
    return alone, together


def busy(times: int) -> float:
    """Wall seconds of a loop of arithmetic."""
    begin = time.perf_counter()
    total = 0.0
    for _ in range(times):
        total += spin(200_000)
    assert total > 0
    return time.perf_counter() - begin


@njit(cache=True)
def spin(count):
    """A loop of arithmetic that fits in registers."""
    x = 0.5
    for _ in range(count):
        x = x * 0.999999 + 1.0 / (1.0 + x * x)
    return x


def versions() -> str:
    names = ("dimladder", "numba", "numpy", "scipy", "diffrax", "jax", "heyoka", "numbalsoda")
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return f"Python {platform.python_version()}; " + ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write ode_solvers.md")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    lines = [
        "# Solvers of order-parameter flows, timed",
        "",
        "Measured by `python docs/benchmarks/ode_solvers.py --write`; what is measured, and how, stands at the top of",
        "that file. `same rhs` is the compiled right-hand side that dimladder derives; the others use the hand-written",
        "equations (`erf_rhs.py`). Ratios move by 10 to 20 % from run to run on a quiet machine; where load exceeds",
        "the processors, times below a millisecond are uncertain by up to a factor of two.",
        f"Load of the machine at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors.",
        "",
        versions() + ".",
        "",
        *rhs_table(),
        *batch_table(arguments.repeats),
        *euler_table(arguments.repeats),
        *tail_table(arguments.repeats),
        *main_tables(arguments.repeats),
        "Work-precision diagram (`python docs/benchmarks/work_precision.py`):",
        "",
        "![CPU time against error](work_precision.png)",
        "",
    ]
    text = "\n".join(lines)
    print(text)
    if arguments.write:
        (HERE / "ode_solvers.md").write_text(text)


if __name__ == "__main__":
    main()
