"""The ridge that minimises an observable, by the derivative along the fixed point."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ...errors import SolveError
from ...numerics.differences import fourth_order
from ...numerics.implicit import response
from ...numerics.scalars import find_root

Array = NDArray[np.float64]
# The ridge is searched for between these.
RIDGE_RANGE = (1e-8, 1e8)
# Of differences: averages are exact to 1e-14, so that derivatives are to 1e-11.
_STEP = 4e-4
# A minimum is one point where, this far on either side in log ridge, the slope is more than a part of that on the other
# side, and than what its differences lose to rounding.
_ASIDE, _FLAT, _ROUNDING = 0.5, 1e-8, 1e-12
_HINT = "give loss.ridge as a number, or another loss.optimise"


def slope_along(
    residual: Callable[[Array, float], Array], value: Callable[[Array, float], float], x: Array
) -> float:  # fmt: skip
    """Return the derivative of an observable in log ridge, along the root x of R(x; log ridge) = 0.

    Parameters
    ----------
    residual : callable
        ``residual(x, s) -> array (n,)``, with log ridge moved by s; coordinates are of order one.
    value : callable
        ``value(x, s)``, the observable.
    x : array (n,)
    """

    def rows(states: Array, s: float = 0.0) -> Array:
        return np.stack([residual(row, s) for row in states])

    moved = response(rows, x[None], [(lambda s: rows(x[None], s), _STEP)], fourth_order, _STEP)[0][0, 0]
    size = _STEP / max(1.0, float(np.max(np.abs(moved))))
    return float(fourth_order(lambda s: np.array(value(x + s * moved, s)), size)[0])


def least_in_ridge(slope: Callable[[float], float], t: float, sample_ratio: float) -> float:
    """Return the logarithm of the ridge at which the slope of an observable in it vanishes.

    The root is bracketed by a walk that begins at `t`, then found by `find_root`.

    Raises
    ------
    SolveError
        When the observable has no minimum inside `RIDGE_RANGE`, or an interval of them: the signs of a Huber or hinge
        fit, for instance, are the same at every ridge that keeps all samples where the loss is linear.
    """
    # Fixed points start from the last: at a root, where the slope is rounding, a second visit may see another sign.
    slope = cache(slope)
    low, high = (math.log(r) for r in RIDGE_RANGE)
    first = here = slope(t)
    direction, stride, last = (-1.0 if first > 0 else 1.0), 0.5, t
    while here != 0.0 and (here > 0) == (first > 0):
        last, t = t, min(max(t + direction * stride, low), high)
        here, stride = slope(t), 1.6 * stride
        if t in (low, high) and (here > 0) == (first > 0):
            side = "smallest" if t == low else "largest"
            still = "still improves" if abs(here) > _ROUNDING else "no longer changes"
            raise SolveError(
                "there is no best ridge", status="no_minimum", where=f"sample_ratio = {sample_ratio:g}",
                why=f"the observable {still} at the {side} ridge tried, {math.exp(t):g}", hint=_HINT,
            )  # fmt: skip
    root = t if here == 0.0 else find_root(slope, min(last, t), max(last, t), xtol=1e-10, rtol=1e-14)
    below, above = abs(slope(root - _ASIDE)), abs(slope(root + _ASIDE))
    least = max(_FLAT * max(below, above), _ROUNDING)
    if min(below, above) <= least:
        side = "all" if max(below, above) <= least else "smaller" if below < above else "larger"
        raise SolveError(
            "the best ridge is not unique", status="no_minimum", where=f"sample_ratio = {sample_ratio:g}",
            why=f"the observable is the same at {side} ridges near {math.exp(root):.3g}", hint=_HINT,
        )  # fmt: skip
    return root
