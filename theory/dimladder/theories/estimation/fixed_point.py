"""Small fixed points x = F(x) whose map is a few integrals: damped steps, then Newton on the few numbers.

The map is Python around compiled integrals, so that the solver may be Python too. Unknowns are free of bounds (the
caller takes logarithms); a state outside the map's domain is told by a non-finite value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Map = Callable[[Array], Array]


@dataclass
class Root:
    """Where the iteration stopped.

    Attributes
    ----------
    x : ndarray
    residual : float
        max |F(x) - x|, of logarithms: a relative error.
    evaluations : int
    success : bool
    message : str
    jacobian : ndarray or None
        Of F, at the last Newton step: a start for the next point of a curve.
    """

    x: Array
    residual: float
    evaluations: int
    success: bool
    message: str = ""
    jacobian: Array | None = None


def jacobian(function: Map, x: Array, step: float = 1e-6) -> Array:
    """Central differences of F."""
    out = np.empty((x.size, x.size))
    for i in range(x.size):
        e = np.zeros(x.size)
        e[i] = step
        out[:, i] = (function(x + e) - function(x - e)) / (2 * step)
    return out


def solve(
    function: Map,
    start: Array,
    rtol: float = 1e-12,
    damping: float = 0.5,
    max_iterations: int = 2000,
    newton_steps: int = 25,
    hand_over: float = 0.05,
    known: Array | None = None,
) -> Root:
    """Solve x = F(x).

    Damped steps bring max |F(x) - x| below `hand_over`; Newton's method finishes. Where Newton does not reduce the
    residual, the damped iteration goes on to a tenth of it.

    Parameters
    ----------
    rtol : float
        Of max |F(x) - x|.
    damping : float
        Share of the new value in a damped step.
    known : ndarray, optional
        A Jacobian of F near the solution: tried first as it is.
    """
    x = np.array(start, dtype=float)
    evaluations = 0

    def call(at: Array) -> Array:
        nonlocal evaluations
        evaluations += 1
        return np.asarray(function(at), dtype=float)

    new = call(x)
    best = _size(new - x)
    target = hand_over
    matrix: Array | None = known
    fresh = known is not None and best < 0.3
    steps = 0
    while evaluations < max_iterations:
        if best <= rtol:
            return Root(x, best, evaluations, True, jacobian=matrix)
        if (best < target or fresh) and steps < newton_steps:
            if not fresh or matrix is None:
                matrix = jacobian(function, x)
                evaluations += 2 * x.size
            steps += 1
            moved = _newton(call, x, new, best, matrix)
            if moved is None:
                # An old Jacobian that does not help is replaced; a fresh one that does not hands back.
                if fresh:
                    fresh = False
                    continue
                if best <= max(rtol, 1e-13):
                    return Root(x, best, evaluations, True, jacobian=matrix)
                target = 0.1 * min(best, target)
                if target < 1e-13:
                    break
                continue
            ratio = moved[2] / best
            x, new, best = moved
            # A chord step that gains a factor of 20 costs one map instead of 2 n + 1.
            fresh = ratio < 0.05
            continue
        x = x + damping * (new - x)
        new = call(x)
        size = _size(new - x)
        if not np.isfinite(size):
            return Root(x, np.inf, evaluations, False, "the map is not finite: the state left the domain")
        best = size
    message = f"residual {best:.3g} after {evaluations} evaluations"
    return Root(x, best, evaluations, best <= rtol, message, matrix)


def _size(gap: Array) -> float:
    return float(np.max(np.abs(gap))) if np.all(np.isfinite(gap)) else np.inf


def _newton(call: Map, x: Array, new: Array, best: float, matrix: Array) -> tuple[Array, Array, float] | None:
    try:
        step = np.linalg.solve(np.eye(x.size) - matrix, new - x)
    except np.linalg.LinAlgError:
        return None
    if not np.all(np.isfinite(step)):
        return None
    length = min(1.0, 3.0 / float(np.max(np.abs(step)) + 1e-300))
    for _ in range(6):
        trial = x + length * step
        value = call(trial)
        size = _size(value - trial)
        if size < best:
            return trial, value, size
        length *= 0.25
    return None


def sensitivity(function: Callable[[Array, float], Array], x: Array, at: float, step: float = 1e-5) -> Array:
    """dx/dt of the fixed point x = F(x; t), by one linear solve."""
    matrix = jacobian(lambda y: function(y, at), x)
    drive = (function(x, at + step) - function(x, at - step)) / (2 * step)
    return np.asarray(np.linalg.solve(np.eye(x.size) - matrix, drive))


__all__: list[Any] = ["Root", "jacobian", "sensitivity", "solve"]
