"""Cost of one right-hand side of the general one-pass flow against blocks, clusters and width; prints a table.

The time is that of the explicit integrator divided by its evaluations, on one thread, of the best of four runs.
"""

from __future__ import annotations

import time
from typing import Any

import dimladder as dl
from dimladder.numerics.ode import integrate

COMMITTEE = """
schema = 2
[target]
kind = "committee"
readout = [1.0, 1.0]
noise = 0.1
[student]
kind = "two-layer"
width = 2
[algorithm]
kind = "one-pass"
learning_rate = 0.3
[initial]
kind = "random"
overlap = 0.1
seed = 3
[grid]
time = [0.0, 100.0]
"""


def cost(problem: Any) -> tuple[float, int]:
    """Return microseconds for one evaluation of dy/dt, and the number of unknowns."""
    flow = dl.derive(problem)
    options = {**flow.integration(), "method": "dop853"}
    best = float("inf")
    for _ in range(4):
        begin = time.process_time()
        result = integrate(y0=flow.initial_state(), p=flow.parameters(), **options)
        best = min(best, (time.process_time() - begin) / result.stats["n_rhs"])
    return 1e6 * best, len(result.y_final)


def row(name: str, changed: dict[str, Any], base: float | None = None) -> float:
    """Print one line of the table."""
    microseconds, unknowns = cost(dl.loads(COMMITTEE, changed))
    ratio = "" if base is None else f"{microseconds / base:.1f}"
    print(f"| {name} | {unknowns} | {microseconds:.2f} | {ratio} |", flush=True)
    return microseconds


def width(units: int) -> dict[str, Any]:
    """Return what sets K = M = units."""
    return {"student.width": units, "target.readout": [1.0] * units}


def main() -> None:
    print("| K = M = 2, erf | unknowns | us a right-hand side | against one block |\n|---|---|---|---|")
    row("plain flow", {})
    one = row("1 block", {"data.spectrum": {"exponent": 0.5, "levels": 1}})
    for levels in (2, 8, 32, 100, 300):
        row(f"{levels} blocks", {"data.spectrum": {"exponent": 0.5, "levels": levels}}, one)
    for clusters in (1, 2, 4, 8):
        mixture = {"kind": "mixture", "weights": [1 / clusters] * clusters, "variances": [1.0] * clusters}
        means = [[(-1.0) ** c, float(c // 2)] for c in range(clusters)]
        row(f"{clusters} clusters with means, labels by the teacher", {"data": mixture | {"means": means}}, one)
    relu = {"student.activation": "relu", "target.activation": "relu"}
    row("1 block, ReLU", {"data.spectrum": {"exponent": 0.5, "levels": 1}} | relu, one)
    means = {"kind": "mixture", "weights": [0.5, 0.5], "variances": [1.0, 1.0], "means": [[-1.0, 0.0], [1.0, 0.0]]}
    row("2 clusters with means, ReLU, labels by the teacher", {"data": means} | relu, one)
    for units in (4, 8):
        row(f"8 blocks, K = M = {units}", {"data.spectrum": {"exponent": 0.5, "levels": 8}, **width(units)}, one)
        row(f"plain flow, K = M = {units}", width(units))


if __name__ == "__main__":
    main()
