"""Roots and minima of a function of one number, and the normal law on arrays, without SciPy.

Importing ``scipy.optimize`` takes longer than most curves of this library, and so does ``scipy.special``. What a curve
needs of them is short: a root in a bracket, a minimum between bounds, the normal distribution function at some points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Minimum", "between", "expit", "find_minimum", "find_root", "ndtr", "ndtri"]

Array = NDArray[np.float64]
_EPSILON = float(np.finfo(float).eps)
_GOLDEN = 0.5 * (3.0 - math.sqrt(5.0))
# From here on the import of scipy.special is soon paid for: its functions are twenty times faster.
MANY = 20_000


def find_root(
    f: Callable[[float], Any], low: float, high: float, *, xtol: float = 2e-12, rtol: float = 4 * _EPSILON,
    max_evaluations: int = 500,
) -> float:  # fmt: skip
    """Return x between `low` and `high` with f(x) = 0, found by bisection and inverse quadratic interpolation.

    Parameters
    ----------
    f : callable
        Of opposite signs at the two ends (one may be zero); may be infinite there, and may jump.
    xtol, rtol : float
        The bracket at the end is no wider than ``xtol + rtol |x|``.
    max_evaluations : int

    Raises
    ------
    ValueError
        When f has one sign at both ends, or is no number.
    RuntimeError
        When the evaluations do not suffice.

    Notes
    -----
    Chandrupatla, Adv. Eng. Software 28 (1997) 145: interpolation where the three last points say that it is safe, else
    bisection, so that a jump or a flat root costs no more than bisecting does.
    """
    a, b = float(low), float(high)
    fa, fb = float(f(a)), float(f(b))
    if fa == 0.0:
        return a
    if fb == 0.0:
        return b
    if math.isnan(fa) or math.isnan(fb) or (fa > 0.0) == (fb > 0.0):
        raise ValueError(f"the function must change its sign between {low!r} and {high!r}, it is {fa!r} and {fb!r}")
    share = 0.5
    for _ in range(max_evaluations):
        x = a + share * (b - a)
        fx = float(f(x))
        if math.isnan(fx):
            raise ValueError(f"the function is no number at {x!r}")
        # [a, b] brackets the root, a is the newest point, c the one that was dropped.
        if (fx > 0.0) == (fa > 0.0):
            c, fc = a, fa
        else:
            c, fc, b, fb = b, fb, a, fa
        a, fa = x, fx
        best = a if abs(fa) < abs(fb) else b
        width, allowed = abs(b - a), xtol + rtol * abs(best)
        if fa == 0.0 or width <= allowed or width <= _EPSILON * abs(best):
            return a if fa == 0.0 else best
        share = 0.5
        if fc not in (fa, fb) and c != b and all(map(math.isfinite, (fa, fb, fc))):
            along, height = (a - b) / (c - b), (fa - fb) / (fc - fb)
            if height * height < along and (1.0 - height) ** 2 < 1.0 - along:
                share = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        least = min(0.5, 0.5 * allowed / width)
        share = min(max(share, least), 1.0 - least)
    raise RuntimeError(f"no root between {low!r} and {high!r} after {max_evaluations} evaluations")


class Minimum(NamedTuple):
    """Where a function is least, and how large it is there."""

    x: float
    value: float


def find_minimum(
    f: Callable[[float], Any], low: float, high: float, *, xtol: float = 1e-5, max_evaluations: int = 500
) -> Minimum:
    """Return a local minimum of f between `low` and `high`, by golden sections and parabolas (Brent 1973, chapter 5).

    The least one where f falls, then rises. f is never evaluated at the ends.

    Parameters
    ----------
    xtol : float
        Absolute error of x; below ``1e-8 |x|`` rounding of f decides.

    Raises
    ------
    RuntimeError
        When the evaluations do not suffice.
    """
    a, b = float(low), float(high)
    best = second = third = a + _GOLDEN * (b - a)
    fbest = fsecond = fthird = float(f(best))
    step = before = 0.0
    for _ in range(max_evaluations):
        middle = 0.5 * (a + b)
        least = math.sqrt(_EPSILON) * abs(best) + xtol / 3.0
        if abs(best - middle) <= 2.0 * least - 0.5 * (b - a):
            return Minimum(best, fbest)
        golden = True
        if abs(before) > least:
            # The parabola through the three best points: its vertex is best + p/q.
            r, q = (best - second) * (fbest - fthird), (best - third) * (fbest - fsecond)
            p, q = (best - third) * q - (best - second) * r, 2.0 * (q - r)
            p, q = (-p, q) if q > 0.0 else (p, -q)
            # Taken where it lies inside, and the steps halve every other time.
            if abs(p) < abs(0.5 * q * before) and q * (a - best) < p < q * (b - best):
                golden, before, step = False, step, p / q
                if min(best + step - a, b - best - step) < 2.0 * least:
                    step = math.copysign(least, middle - best)
        if golden:
            before = (a if best >= middle else b) - best
            step = _GOLDEN * before
        x = best + (step if abs(step) >= least else math.copysign(least, step))
        fx = float(f(x))
        if fx <= fbest:
            a, b = (best, b) if x >= best else (a, best)
            third, fthird, second, fsecond, best, fbest = second, fsecond, best, fbest, x, fx
            continue
        a, b = (a, x) if x >= best else (x, b)
        if fx <= fsecond or second == best:
            third, fthird, second, fsecond = second, fsecond, x, fx
        elif fx <= fthird or third in (best, second):
            third, fthird = x, fx
    raise RuntimeError(f"no minimum between {low!r} and {high!r} after {max_evaluations} evaluations")


def _each(function: Callable[[float], float], x: Array) -> Array:
    return np.fromiter(map(function, x.ravel().tolist()), float, x.size).reshape(x.shape)


def ndtr(x: Any) -> Array:
    """Return P(Z < x), Z standard normal, of every entry."""
    x = np.asarray(x, dtype=float)
    if x.size > MANY:
        from scipy.special import ndtr as many

        return np.asarray(many(x))
    return 0.5 * _each(math.erfc, x * -math.sqrt(0.5))


def between(low: Any, high: Any) -> Array:
    """Return P(low < Z < high) of every pair, with small relative error in both tails."""
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    upper = low > 0.0
    return ndtr(np.where(upper, -low, high)) - ndtr(np.where(upper, -high, low))


def ndtri(p: Any) -> Array:
    """Return x with P(Z < x) = p of every entry; infinite at 0 and 1, NaN outside."""
    p = np.asarray(p, dtype=float)
    if p.size > MANY:
        from scipy.special import ndtri as many

        return np.asarray(many(p))
    from statistics import NormalDist

    normal = NormalDist()
    with np.errstate(invalid="ignore"):
        inside = (p > 0.0) & (p < 1.0)
        ends = np.where(p == 0.0, -np.inf, np.where(p == 1.0, np.inf, np.nan))
    return np.where(inside, _each(normal.inv_cdf, np.where(inside, p, 0.5)), ends)


def expit(x: Any) -> Array:
    """Return 1/(1 + exp(-x)) of every entry, with small relative error on both sides."""
    x = np.asarray(x, dtype=float)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0.0, 1.0, small) / (1.0 + small)
