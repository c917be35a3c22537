"""Where a schedule jumps, bends and varies fast: what an integrator must know of it before the first step.

A step that is adapted to the solution cannot see a pulse that lies between two evaluations. Here the formula itself is
examined, by bounds over intervals (`intervals`), which no pulse escapes however short: its breakpoints become stops of
the integration, and its variation bounds the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .expressions import Expression, _kinked_calls, jumps_at_integers
from .intervals import bounds, node_bounds

Array = NDArray[np.float64]

# Most stops, and most intervals on which the schedule is followed.
MOST_STOPS, MOST_INTERVALS = 10_000, 100_000
# Largest change of the schedule within one step, relative to its largest value, and the share of its integral below
# which a change does not count.
CHANGE, NEGLIGIBLE = 0.25, 1e-9
# Intervals whose widths differ by less than this are stepped through alike.
SAME_STEP = 8.0
EPS = 2.220446049250313e-16


@lru_cache(maxsize=256)
def is_constant(text: str) -> bool:
    """Whether a schedule does not depend on the time."""
    return not Expression(text, ("t",)).variables


@lru_cache(maxsize=256)
def is_one(text: str) -> bool:
    """Whether a schedule is the number 1, and changes nothing."""
    return is_constant(text) and float(Expression(text, ("t",)).evaluate(np)) == 1.0


@lru_cache(maxsize=256)
def pieces(text: str, start: float, stop: float) -> tuple[tuple[float, float], ...]:
    """Return the pieces of [start, stop] on which a schedule is smooth and varies alike.

    Parameters
    ----------
    text : str
        Formula in ``t``.
    start, stop : float

    Returns
    -------
    tuple of (end, longest step)
        In the order of time; the last end is `stop`. Empty for a constant schedule.

    Raises
    ------
    ValueError
        For a schedule that is not finite somewhere, or that changes too often to be followed.
    """
    formula = Expression(text, ("t",))
    if not formula.variables or not stop > start:
        return ()
    edges = [start, *breakpoints(formula, start, stop), stop]
    with np.errstate(all="ignore"):
        ends = np.asarray(formula.evaluate(np, t=np.array(edges)), dtype=float) + np.zeros(len(edges))
    if not np.isfinite(ends).all():
        raise ValueError(f"the schedule {text!r} is not finite at t = {edges[int(np.argmin(np.isfinite(ends)))]:.6g}")
    inner = [(a + margin(a, stop - start), b - margin(b, stop - start)) for a, b in pairwise(edges)]
    leaves = _leaves(formula, np.array(inner))
    out: list[tuple[float, float]] = []
    for b, (low, high) in zip(edges[1:], leaves, strict=True):
        widths = high - low
        groups = [[0, 1]]
        for k in range(1, len(widths)):
            here = widths[groups[-1][0] : k + 1]
            if here.max() > SAME_STEP * here.min():
                groups.append([k, k])
            groups[-1][1] = k + 1
        for first, last in groups:
            longest = float(widths[first:last].min()) if len(widths) > 1 else np.inf
            out.append((b if last == len(widths) else float(high[last - 1]), longest))
    return tuple(out)


def together(*several: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return the pieces of several schedules at once: every end, and the shortest of their longest steps."""
    several = tuple(one for one in several if one)
    if len(several) < 2:
        return tuple(several[0]) if several else ()
    out = []
    for end in sorted({end for one in several for end, _ in one}):
        here = [next((step for stop, step in one if stop >= end), np.inf) for one in several]
        out.append((end, min(here)))
    return tuple(out)


def largest(text: str, start: float, stop: float) -> float:
    """Return a time at which a schedule is about as large as it gets, in absolute value."""
    formula = Expression(text, ("t",))
    if not formula.variables or not stop > start:
        return start
    ends = [start, *(end for end, _ in pieces(text, start, stop))]
    times = np.unique(np.concatenate([np.linspace(a, b, 19)[1:-1] for a, b in pairwise(ends)]))
    values = abs(np.asarray(formula.evaluate(np, t=times), dtype=float) + 0.0 * times)
    return float(times[int(np.argmax(values))])


def margin(t: float, span: float) -> float:
    """Return how far beside a breakpoint the schedule is evaluated: beyond the rounding of its place."""
    return 32.0 * EPS * max(abs(t), 1e-3 * span)


def breakpoints(formula: Expression, start: float, stop: float) -> list[float]:
    """Return the times in (start, stop) where a schedule may jump or bend, increasing.

    They are the zeros of the arguments of step, sign, abs, relu, clip, min, max, floor, mod, ..., found by bisection of
    every interval whose bounds contain one.
    """
    found: list[Array] = []
    for argument, level in _kinked_calls(formula.tree):
        found.append(_crossings(_difference(argument, level, formula), start, stop, formula.text))
    for argument in jumps_at_integers(formula.tree):
        found.append(_crossings(_to_integer(argument, formula), start, stop, formula.text))
    gap = 4.0 * margin(stop, stop - start)
    out: list[float] = []
    for t in np.sort(np.concatenate([np.zeros(0), *found])):
        if start + gap < t < stop - gap and (not out or t - out[-1] > gap):
            out.append(float(t))
    if len(out) > MOST_STOPS:
        raise ValueError(_too_often(formula.text, f"it has {len(out)} jumps or bends"))
    return out


def _too_often(text: str, why: str) -> str:
    return f"the schedule {text!r} changes too often to be followed: {why}; write its average, or shorten the time"


def _difference(argument: Any, level: Any, formula: Expression) -> Any:
    def crosses(low: Array, high: Array) -> tuple[Array, Array]:
        t = {"t": (low, high)}
        one, two = (node_bounds(side, formula.hermite, t) for side in (argument, level))
        return one[0] - two[1], one[1] - two[0]

    return crosses


def _to_integer(argument: Any, formula: Expression) -> Any:
    """Bounds that contain 0 where the argument may meet an integer."""

    def crosses(low: Array, high: Array) -> tuple[Array, Array]:
        one = node_bounds(argument, formula.hermite, {"t": (low, high)})
        meets = np.floor(one[1]) >= np.ceil(one[0])
        return np.where(meets, one[0] - np.floor(one[1]), 1.0), np.where(meets, one[1] - np.ceil(one[0]), 1.0)

    return crosses


def _crossings(crosses: Any, start: float, stop: float, text: str) -> Array:
    """Bisect every interval whose bounds contain 0, down to rounding; return where they remain."""
    low, high = np.array([start]), np.array([stop])
    kept: list[tuple[Array, Array]] = []
    while len(low):
        with np.errstate(all="ignore"):
            below, above = crosses(low, high)
        # Identically zero is no crossing: whatever makes it so jumps elsewhere.
        alive = ~((below > 0) | (above < 0) | ((below == 0) & (above == 0)))
        small = high - low <= 4.0 * EPS * np.maximum(np.maximum(abs(low), abs(high)), 1e-3 * (stop - start))
        kept.append((low[alive & small], high[alive & small]))
        low, high = low[alive & ~small], high[alive & ~small]
        if len(low) > 4 * MOST_STOPS:
            raise ValueError(_too_often(text, "more jumps or bends than can be told apart"))
        low, high = _halves(low, high)
    low, high = (np.concatenate(part) for part in zip(*kept, strict=True))
    order = np.argsort(low)
    places: list[list[float]] = []
    for a, b in zip(low[order], high[order], strict=True):
        # Neighbours hold one and the same place.
        if places and a <= places[-1][1] + 2.0 * (b - a):
            places[-1][1] = max(places[-1][1], float(b))
        else:
            places.append([float(a), float(b)])
    return np.array([_shortest(a, b) for a, b in places])


def _shortest(low: float, high: float) -> float:
    """Return the number of fewest decimals in an interval: the place as it was written, where it was."""
    middle = 0.5 * (low + high)
    return next((r for r in (round(middle, digits) for digits in range(17)) if low <= r <= high), middle)


def _halves(low: Array, high: Array) -> tuple[Array, Array]:
    middle = 0.5 * (low + high)
    return np.stack([low, middle], axis=1).ravel(), np.stack([middle, high], axis=1).ravel()


def _leaves(formula: Expression, inner: Array) -> list[tuple[Array, Array]]:
    """Return, for each smooth part, the intervals on which the schedule hardly changes."""
    low, high = inner[:, 0], inner[:, 1]
    owner = np.arange(len(inner), dtype=np.int64)
    kept: list[tuple[Array, Array, NDArray[np.int64]]] = []
    count, size, area = 0, 0.0, 0.0
    while len(low):
        below, above = bounds(formula, "t", low, high)
        with np.errstate(all="ignore"):
            middle = np.abs(np.asarray(formula.evaluate(np, t=0.5 * (low + high)), dtype=float) + 0.0 * low)
        if not np.isfinite(middle).all():
            t = 0.5 * (low + high)[~np.isfinite(middle)][0]
            raise ValueError(f"the schedule {formula.text!r} is not finite at t = {t:.6g}")
        size = max(size, float(middle.max()))
        area = max(area, float(middle @ (high - low)))
        change, width = above - below, high - low
        fine = (change <= CHANGE * size) | (change * width <= NEGLIGIBLE * area)
        tiny = width <= 8.0 * EPS * np.maximum(abs(low), abs(high))
        if (tiny & ~fine).any():
            t = low[tiny & ~fine][0]
            raise ValueError(f"the schedule {formula.text!r} is not bounded, or not continuous, near t = {t:.6g}")
        kept.append((low[fine], high[fine], owner[fine]))
        count += int(fine.sum())
        if count + 2 * int((~fine).sum()) > MOST_INTERVALS:
            raise ValueError(_too_often(formula.text, f"more than {MOST_INTERVALS} significant changes"))
        owner = np.repeat(owner[~fine], 2)
        low, high = _halves(low[~fine], high[~fine])
    low, high, owner = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    order = np.lexsort((low, owner))
    low, high, owner = low[order], high[order], owner[order]
    return [(low[owner == k], high[owner == k]) for k in range(len(inner))]
