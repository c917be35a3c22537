"""A 200-point learning curve of the mixture fixed point (logistic loss, two clusters), against plain Python iterations.

Two baselines, both our own, both damped fixed-point iterations of the same equations to the same tolerance:

* ``quad``: the style of the field's reference codes: SciPy's adaptive quadrature over a proximal point found by SciPy's
  scalar minimiser, one node at a time. Timed on a few points, since a curve would take hours.
* ``vectorised``: the same iteration with NumPy arrays over Gauss-Hermite nodes and a vectorised proximal bisection.
  Timed
  on the whole curve.

Run: ``python docs/benchmarks/mixture_fixed_point.py``
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import numpy as np
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from dimladder.solve import load, replace, solve

RHO, LABELS, RIDGE = (0.3, 0.7), (1.0, -1.0), 0.1
TOLERANCE, DAMPING = 1e-8, 0.5


def quad_channel(y: float, mean: float, v: float, q: float) -> tuple[float, float, float]:
    """E f, E f^2, E l''/(1 + V l'') with SciPy, one node at a time."""

    def parts(xi: float) -> tuple[float, float]:
        omega = mean + np.sqrt(q) * xi
        prox = minimize_scalar(
            lambda u: np.logaddexp(0, -y * u) + (u - omega) ** 2 / (2 * v), options={"xtol": 1e-11}
        ).x
        s = 1 / (1 + np.exp(y * prox))
        return (prox - omega) / v, s * (1 - s) / (1 + v * s * (1 - s))

    density = lambda xi: np.exp(-xi * xi / 2) / np.sqrt(2 * np.pi)  # noqa: E731
    options = {"epsabs": 1e-9, "epsrel": 1e-9, "limit": 200}
    return (
        quad(lambda x: parts(x)[0] * density(x), -8, 8, **options)[0],
        quad(lambda x: parts(x)[0] ** 2 * density(x), -8, 8, **options)[0],
        quad(lambda x: parts(x)[1] * density(x), -8, 8, **options)[0],
    )


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(120)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def vectorised_channel(y: float, mean: float, v: float, q: float) -> tuple[float, float, float]:
    """The same averages with arrays over Gauss-Hermite nodes."""
    u = y * mean + np.sqrt(q) * NODES
    low, high = u.copy(), u + v
    for _ in range(55):
        p = 0.5 * (low + high)
        above = p - u - v / (1 + np.exp(p)) > 0
        high, low = np.where(above, p, high), np.where(above, low, p)
    s = 1 / (1 + np.exp(p))
    return y * float(WEIGHTS @ s), float(WEIGHTS @ s**2), float(WEIGHTS @ (s * (1 - s) / (1 + v * s * (1 - s))))


def damped(alpha: float, channel, state: np.ndarray, most: int = 100_000) -> tuple[np.ndarray, int]:  # type: ignore[no-untyped-def]
    """Plain damped iteration for (V, q, m, b) to a relative change of `TOLERANCE`."""
    v, q, m, b = state
    for iteration in range(1, most):
        f, ff, fv = np.array([channel(y, y * m + b, v, q) for y in LABELS]).T
        mh, qh, vh = alpha * np.dot(RHO, f * LABELS), alpha * np.dot(RHO, ff), alpha * np.dot(RHO, fv)
        r = 1 / (RIDGE + vh)
        new = np.array([r, r**2 * qh + (r * mh) ** 2, r * mh, b + np.dot(RHO, f) / np.dot(RHO, fv)])
        old = np.array([v, q, m, b])
        v, q, m, b = old + DAMPING * (new - old)
        if np.max(np.abs(new - old) / (np.abs(old) + 1e-3)) < TOLERANCE:
            return np.array([v, q, m, b]), iteration
    raise RuntimeError("no convergence")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--quad-points", type=int, default=1, help="points timed in the reference style")
    args = parser.parse_args()
    run = Path(__file__).parents[1] / "gallery" / "runs" / "estimation-mixture.toml"
    grid = {"start": 0.3, "stop": 6.0, "points": args.points}
    problem = replace(load(run), {"grid.sample_ratio": grid, "solver.rtol": TOLERANCE})
    solve(problem)  # compile
    ours = []
    for _ in range(5):
        begin = time.perf_counter()
        curve = solve(problem)
        ours.append(time.perf_counter() - begin)
    ratios = np.asarray(curve["sample_ratio"])

    begin, state, iterations, gap = time.perf_counter(), np.array([1.0, 1.0, 0.5, 0.0]), 0, 0.0
    for i, alpha in enumerate(ratios):
        state, used = damped(float(alpha), vectorised_channel, state)
        iterations += used
        reference = [float(curve[n][i]) for n in ("V", "q", "m", "bias")]
        gap = max(gap, float(np.max(np.abs(state / reference - 1))))
    vectorised = time.perf_counter() - begin

    chosen = ratios[np.linspace(0, len(ratios) - 1, args.quad_points + 2).astype(int)[1:-1]]
    begin, quad_iterations = time.perf_counter(), 0
    for alpha in chosen:
        # A warm start as good as a neighbour on the curve.
        near = np.array([np.interp(alpha * 0.98, ratios, np.asarray(curve[n])) for n in ("V", "q", "m", "bias")])
        _, used = damped(float(alpha), quad_channel, near)
        quad_iterations += used
    per_point = (time.perf_counter() - begin) / len(chosen)

    best = min(ours)
    print(f"machine: {platform.processor() or platform.machine()}, numpy {np.__version__}, one thread")
    print(f"dimladder, {len(ratios)} points:           {best:10.4f} s   (median of 5: {np.median(ours):.4f} s)")
    print(
        f"vectorised NumPy, {len(ratios)} points:    {vectorised:10.2f} s   ({iterations} iterations; largest "
        f"relative gap {gap:.1e})"
    )
    print(
        f"quad + minimiser, per point:      {per_point:10.2f} s   ({quad_iterations} iterations over {len(chosen)} "
        f"point(s))"
    )
    print(f"speed-up over vectorised NumPy:   {vectorised / best:10.0f} x")
    print(
        f"speed-up over quad + minimiser:   {per_point * len(ratios) / best:10.0f} x   (per-point time times "
        f"{len(ratios)})"
    )


if __name__ == "__main__":
    main()
