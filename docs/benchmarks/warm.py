"""What a curve costs once everything is compiled: call by call, prepared, and as a point of a sweep.

python docs/benchmarks/warm.py [calls | sweep | long]     default: all

The committee is that of `peers.Case`: erf, K = M = 4, first layer, from a deterministic start. *bare* is the integrator
alone, called with arrays; *prepared* is ``dimladder.prepare``, *solve* is ``dimladder.solve``. The sweep has 1000
learning rates to t = 60 with 50 output times (*long*: to t = 400); its throughput is compared with that of the bare
integrator in as many threads as there are processors. Milliseconds of CPU for calls, of wall time for the sweep: the
machine must be quiet.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from peers import Case

import dimladder as dl
from dimladder.numerics.ode import integrate

RATE = "algorithm.learning_rate"
POINTS = 1000


def committee(end: float, times: int) -> dl.Problem:
    """The problem of the benchmarks to a last time, with a number of output times."""
    problem = Case(4, 4, both_layers=False, noise=0.0, end=end).flow().problem
    grid = [end] if times == 1 else np.linspace(0.0, end, times).tolist()
    return dl.replace(problem, {"grid.time": grid, "solver.rtol": 1e-6})


def bare(problem: dl.Problem) -> Callable[[], Any]:
    """The integrator with the arrays of a problem."""
    flow: Any = dl.derive(problem)
    asked, y0, p = flow.integration(), flow.initial_state(), flow.parameters()
    return lambda: integrate(y0=y0, p=p, **asked)


def least(function: Callable[[], Any], clock: Callable[[], float] = time.process_time, count: int = 60) -> float:
    """Return the least milliseconds of several calls."""
    function()
    best = np.inf
    for _ in range(count):
        begin = clock()
        function()
        best = min(best, clock() - begin)
    return 1e3 * best


def calls() -> None:
    """Print the costs of one call."""
    print(f"{'CPU ms a call':<32}{'bare':>8}{'prepared':>10}{'solve':>8}")
    for name, end, times in (("50 times to t = 400", 400.0, 50), ("t = 400 alone", 400.0, 1), ("50 to 60", 60.0, 50)):
        problem = committee(end, times)
        prepared = dl.prepare(problem, [RATE])
        found = least(bare(problem)), least(lambda p=prepared: p([0.5])), least(lambda p=problem: dl.solve(p))
        print(f"{name:<32}{found[0]:8.2f}{found[1]:10.2f}{found[2]:8.2f}")


def sweep(end: float = 60.0) -> None:
    """Print the throughput of a sweep to a last time against that of the bare integrator."""
    workers = len(os.sched_getaffinity(0))
    problem, rates = committee(end, 50), np.linspace(0.2, 0.8, POINTS)
    flow: Any = dl.derive(problem)
    asked, y0 = flow.integration(), flow.initial_state()
    prepared = dl.prepare(problem, [RATE])
    rows = [prepared.system([float(rate)]).parameters() for rate in rates]

    def alone() -> None:
        def some(part: list[Any]) -> None:
            for row in part:
                integrate(y0=y0, p=row, **asked)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(some, [rows[k::workers] for k in range(workers)]))

    def stored() -> None:
        with tempfile.TemporaryDirectory() as folder:
            dl.sweep(problem, {RATE: rates}, executor=f"local:{workers}", out=Path(folder) / "sweep")

    ways = {
        "the integrator alone": alone,
        "prepare(...).many": lambda: prepared.many([[float(rate)] for rate in rates], workers=workers),
        "sweep": lambda: dl.sweep(problem, {RATE: rates}, executor=f"local:{workers}"),
        "sweep, stored": stored,
    }
    found = {name: least(way, time.perf_counter, 5) for name, way in ways.items()}
    first = found["the integrator alone"]
    print(f"{POINTS} points to t = {end:g}, {workers} threads{'':<2}{'wall ms':>8}{'throughput':>12}")
    for name, spent in found.items():
        print(f"{name:<32}{spent:10.0f}{100 * first / spent:10.0f} %")


if __name__ == "__main__":
    for part in sys.argv[1:] or ["calls", "sweep", "long"]:
        {"calls": calls, "sweep": sweep, "long": lambda: sweep(400.0)}[part]()
