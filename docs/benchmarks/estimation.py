"""A 200-point learning curve of the estimation engine (logistic loss, noisy signs), against plain Python iterations.

The baselines are our own: damped iterations of the same three equations (V, q, m) to the same tolerance, from the last
point's state.

* ``vectorised``: NumPy arrays over the panels' nodes and a vectorised proximal bisection; the whole curve.
* ``quad``: SciPy's adaptive quadrature over a proximal point found by SciPy's scalar minimiser, in the style of the
  field's reference codes; a few points, since a curve would take hours.

Other lines time the engine alone: robust regression with the best ridge, ridge regression in closed form, deep
features, Bayes-optimal curves. Run: ``python docs/benchmarks/estimation.py``
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

import dimladder as dl

NOISE, RIDGE, TOLERANCE, DAMPING = 0.3, 0.1, 1e-10, 0.5
RUNS = Path(__file__).parents[1] / "gallery" / "runs"
X, W = np.polynomial.hermite_e.hermegauss(200)
W = W / W.sum()


def vectorised(V: float, q: float, m: float) -> tuple[float, float, float]:
    """E f^2, -E f', E d_z f over nodes of the field; both labels alike."""
    omega = np.sqrt(q) * X
    low, high = omega.copy(), omega + V
    for _ in range(60):
        u = 0.5 * (low + high)
        above = u - omega - V / (1.0 + np.exp(u)) > 0.0
        high, low = np.where(above, u, high), np.where(above, low, u)
    s = 1.0 / (1.0 + np.exp(u))
    curvature = s * (1.0 - s)
    spread = np.sqrt(1.0 + NOISE**2 - m * m / q)
    t = m / q * omega / spread
    chance, push = ndtr(t), np.exp(-t * t / 2) / np.sqrt(2 * np.pi) / spread
    weights = 2.0 * W
    response = curvature / (1.0 + V * curvature)
    return (
        float(weights @ (chance * s**2)), float(weights @ (chance * response)), float(weights @ (push * s))
    )  # fmt: skip


def by_quad(V: float, q: float, m: float) -> tuple[float, float, float]:
    """The same with SciPy, one node at a time."""
    spread = np.sqrt(1.0 + NOISE**2 - m * m / q)

    def parts(x: float) -> tuple[float, float, float]:
        omega = np.sqrt(q) * x
        found = minimize_scalar(lambda u: np.logaddexp(0, -u) + (u - omega) ** 2 / (2 * V), options={"xtol": 1e-11})
        s = 1.0 / (1.0 + np.exp(found.x))
        t = m / q * omega / spread
        density = np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
        push = np.exp(-t * t / 2) / np.sqrt(2 * np.pi) / spread
        bend = s * (1 - s) / (1 + V * s * (1 - s))
        return ndtr(t) * s**2 * density, ndtr(t) * bend * density, push * s * density

    return tuple(2.0 * quad(lambda x, k=k: parts(x)[k], -8, 8, epsabs=1e-9, limit=200)[0] for k in range(3))  # type: ignore[return-value]


def damped(
    alpha: float, channel: Callable[[float, float, float], tuple[float, float, float]], state: np.ndarray,
    tolerance: float,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """Plain damped iteration for (V, q, m)."""
    V, q, m = state
    for iteration in range(1, 100_000):
        ff, fv, fz = channel(V, q, m)
        qh, vh, mh = alpha * ff, alpha * fv, alpha * fz
        r = 1.0 / (RIDGE + vh)
        new = np.array([r, r * r * (qh + mh * mh), r * mh])
        old = np.array([V, q, m])
        V, q, m = old + DAMPING * (new - old)
        if np.max(np.abs(new - old) / np.abs(old)) < tolerance:
            return np.array([V, q, m]), iteration
    raise RuntimeError("no convergence")


def timed(problem: Any, repeats: int = 5) -> float:
    """Least CPU time of solving, compiled code warm."""
    dl.solve(problem)
    best = np.inf
    for _ in range(repeats):
        begin = time.process_time()
        dl.solve(problem)
        best = min(best, time.process_time() - begin)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--quad-points", type=int, default=1)
    args = parser.parse_args()
    ratios = np.geomspace(0.3, 10.0, args.points)
    problem = dl.problem(
        target={"kind": "index", "formula": f"sign(z + {NOISE}*n1)"}, student={"kind": "linear"},
        loss={"function": "logistic", "ridge": RIDGE}, algorithm={"kind": "minimise"},
        grid={"sample_ratio": ratios.tolist()},
    )  # fmt: skip
    ours, curve = timed(problem), dl.solve(problem)

    begin, state, iterations, gap = time.process_time(), np.array([5.0, 0.3, 0.2]), 0, 0.0
    for i, alpha in enumerate(ratios):
        state, used = damped(float(alpha), vectorised, state, TOLERANCE)
        iterations += used
        gap = max(gap, float(np.max(np.abs(state / [float(curve[n][i]) for n in ("V", "q", "m")] - 1))))
    plain = time.process_time() - begin

    begin, chosen = time.process_time(), np.linspace(0, args.points - 1, args.quad_points + 2).astype(int)[1:-1]
    for i in chosen:
        damped(float(ratios[i]), by_quad, 0.98 * np.array([float(curve[n][i]) for n in ("V", "q", "m")]), 1e-8)
    slow = (time.process_time() - begin) / len(chosen)
    print(f"CPU seconds, one thread; numpy {np.__version__}")
    print(f"engine, {args.points} points, with errors and calibration: {ours:.4f}")
    print(f"damped, vectorised, {args.points} points: {plain:.2f} ({iterations} iterations; largest gap {gap:.1e})")
    print(f"damped, quad and minimiser, a point: {slow:.1f}")
    print(f"ratios: {plain / ours:.0f}, {slow * args.points / ours:.0f} (a point, times {args.points})")
    for name in ("estimation-huber", "estimation-random-features", "estimation-deep-features", "estimation-bayes"):
        print(f"{name}: {timed(dl.load(RUNS / f'{name}.toml')):.4f}")


if __name__ == "__main__":
    main()
