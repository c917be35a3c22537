"""Derivatives of a function of one number that can only be evaluated, with an estimate of their error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Steps are divided by this, and the table has at most so many rows.
RATIO, ROWS = 2.0, 9
EPS = float(np.finfo(float).eps)
# An error of so many roundings is not improved on.
LEFT = 4.0
# Halvings of the first step until the function is defined on both sides; then one side must do.
TRIALS = 3


def derivative(function: Callable[[float], Array | None], x: float, step: float) -> tuple[Array, Array]:
    """Differentiate by differences extrapolated to a vanishing step (Ridders 1982).

    Long steps keep rounding small, extrapolation removes what they add: of a function with a relative error of 1e-15,
    that is smooth over `step`, about twelve digits remain.

    Parameters
    ----------
    function : callable
        ``function(x) -> array``, or None where it is not defined. Differences are central where it is defined on both
        sides, else one-sided.
    x : float
    step : float
        The longest step, > 0: of the size over which the function changes by a small multiple of itself.

    Returns
    -------
    value, error : arrays
        The derivative of each entry, and the difference of the two best extrapolations, or their rounding.

    Raises
    ------
    ValueError
        When the function is defined on neither side.
    """
    for _ in range(TRIALS):
        high, low = function(x + step), function(x - step)
        if high is not None and low is not None:
            return _extrapolated(lambda h, ends: (ends[0] - ends[1]) / (2.0 * h), (high, low), 2, function, x, step)
        step /= RATIO
    here = function(x)
    for sign in (1.0, -1.0) if here is not None else ():
        end = function(x + sign * step)
        if end is not None:
            return _extrapolated(_one_sided(sign, here), (end,), 1, function, x, sign * step)  # type: ignore[arg-type]
    raise ValueError(f"the function is defined on neither side of {x:.9g}")


def fourth_order(function: Callable[[float], Array | None], step: float) -> tuple[Array, Array]:
    """Return the derivative at 0 by differences of fourth order, where the step is known to suit, and 0 as its error.

    Raises
    ------
    ValueError
        When the function is not defined on both sides.
    """
    ends = [function(s * step) for s in (1.0, -1.0, 2.0, -2.0)]
    if any(e is None for e in ends):
        raise ValueError("the function is not defined on both sides of 0")
    a, b, c, d = (np.asarray(e) for e in ends)
    value = (8.0 * (a - b) - (c - d)) / (12.0 * step)
    return value, np.zeros_like(value)


def _one_sided(sign: float, here: Array) -> Callable[[float, tuple[Array, ...]], Array]:
    return lambda h, ends: sign * (ends[0] - here) / h


def _extrapolated(
    quotient: Callable[[float, tuple[Array, ...]], Array], ends: tuple[Array, ...], order: int,
    function: Callable[[float], Array | None], x: float, step: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Fill the table row by row; keep, entry by entry, the number that changed least. `step` is signed on one side."""
    row = [quotient(abs(step), ends)]
    value, error, size = row[0], np.full_like(row[0], np.inf), EPS * np.max(np.abs(ends), axis=0)
    rounding = size / abs(step)
    for _ in range(1, ROWS):
        step /= RATIO
        moved = [function(x + step)] + ([function(x - step)] if order == 2 else [])
        if any(m is None for m in moved):
            break
        above, row = row, [quotient(abs(step), tuple(m for m in moved if m is not None))]
        factor = 1.0
        for j, older in enumerate(above):
            factor *= RATIO**order
            row.append((factor * row[j] - older) / (factor - 1.0))
            change = np.maximum(abs(row[-1] - row[-2]), abs(row[-1] - older))
            better = change <= error
            value, error = np.where(better, row[-1], value), np.where(better, change, error)
            rounding = np.where(better, size / abs(step), rounding)
        # Rounding has begun to grow everywhere, or is all that is left.
        if (abs(row[-1] - above[-1]) >= 2.0 * error).all() or (error <= LEFT * rounding).all():
            break
    # Differences that agree by chance are no better than their rounding; what does not change at all has none.
    return value, np.maximum(error, np.where(value == 0.0, 0.0, rounding))
