"""Points of a quadrature over several Gaussian fields with means, axis by axis, split where the integrand has kinks.

The axes are taken in the order in which they are given: f = mean + L zeta with L the triangular root of the covariance.
The rule of an axis is split at the kinks of its own field, and where an output, known but for this field and those that
it determines, meets a kink of the loss or changes its sign. A field that those before determine has one point.

Generated modules are self-contained: `POINTS_SOURCE` is the source text of these functions. They call functions of the
module: the activation ``g``, and ``own_kinks(axis, mean, L, zeta, f, top, order, K, c, label, tested, ties, out)``,
which fills the kinks along an axis, given the fields before it, and returns their number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .basics import OPTIONS
from .conditional import normal_nodes, self_contained, spacing
from .fields import triangular_root
from .native import njit

Array = NDArray[np.float64]

__all__ = [
    "POINTS_SOURCE",
    "add_levels",
    "along_axis",
    "axis_capacity",
    "beyond",
    "crossing",
    "derivatives",
    "given_mean",
    "insert",
    "next_point",
]


@njit(**OPTIONS)
def axis_capacity(L: Array, rule: Array, most: int) -> int:
    """Return the most nodes that `normal_nodes` makes along an axis with at most so many kinks."""
    scale = 1e-3
    for q in range(L.shape[0]):
        scale = max(scale, L[q, q])
    return int(2 * rule[1] / spacing(rule, scale)) + 3 + (rule.size - 2) // 2 * (int(0.5 * rule[1]) + most + 2)


@njit(**OPTIONS)
def next_point(stop: int, mean: Array, L: Array, order: Array, K: int, c: Array, label: float, tested: bool,
               own_kinks: Any, ties: Array, kinks: Array, rule: Array, z: Array, w: Array, counts: Array, at: Array,
               zeta: Array, weight: Array, f: Array) -> bool:  # fmt: skip
    """Go to the next point of the axes before `stop`, and return whether there is one; begin with ``counts[0] = -1``.

    Fills ``zeta``, ``f`` and the product ``weight[stop]`` of the weights. All arrays are of floats.
    """
    cutoff = 0.01 * math.exp(-0.5 * rule[1] * rule[1])
    opened = counts[0] < 0.0
    depth = 0 if opened else stop - 1
    if opened:
        counts[0] = 0.0
        weight[0] = 1.0
        if stop == 0:
            return True
    elif stop == 0:
        return False
    else:
        at[depth] += 1.0
    while True:
        if opened:
            opened = False
            if depth == stop:
                return True
            at[depth] = 0.0
            spread = L[depth, depth]
            if spread == 0.0:
                z[depth, 0] = 0.0
                w[depth, 0] = 1.0
                counts[depth] = 1.0
            else:
                found = own_kinks(depth, mean, L, zeta, f, rule[1], order, K, c, label, tested, ties, kinks)
                centre = given_mean(depth, depth, mean, L, zeta)
                counts[depth] = normal_nodes(kinks[:found], centre, spread, rule, z[depth], w[depth])
        if at[depth] >= counts[depth]:
            depth -= 1
            if depth < 0:
                return False
            at[depth] += 1.0
            continue
        zeta[depth] = z[depth, int(at[depth])]
        weight[depth + 1] = weight[depth] * w[depth, int(at[depth])]
        if weight[depth + 1] < cutoff:
            # Beyond the range in all dimensions together there is no weight.
            at[depth] += 1.0
            continue
        f[depth] = given_mean(depth, depth, mean, L, zeta) + L[depth, depth] * zeta[depth]
        depth += 1
        opened = True


@njit(**OPTIONS)
def given_mean(axis: int, known: int, mean: Array, L: Array, zeta: Array) -> float:
    """Return the mean of the field of an axis given those before `known`."""
    total = mean[axis]
    for r in range(known):
        total += L[axis, r] * zeta[r]
    return total


@njit(**OPTIONS)
def insert(value: float, values: Array, count: int) -> int:
    """Put a finite number into a sorted list of `count`, while there is room; return how many there are."""
    if not math.isfinite(value) or count == values.size:
        return count
    place = count
    while place > 0 and values[place - 1] > value:
        values[place] = values[place - 1]
        place -= 1
    values[place] = value
    return count + 1


@njit(**OPTIONS)
def along_axis(u: float, g: Any, rest: float, ties: Array, number: int) -> float:
    """Return ``rest + sum_j a_j g(b_j + s_j u)`` for the first rows (a, b, s) of `ties`."""
    total = rest
    for j in range(number):
        total += ties[j, 0] * g(ties[j, 1] + ties[j, 2] * u)
    return total


@njit(**OPTIONS)
def crossing(rest: float, ties: Array, number: int, level: float, left: float, right: float, g: Any, at_left: float,
             at_right: float) -> float:  # fmt: skip
    """Return the u in (left, right) with ``along_axis(u) = level``, between values of two signs.

    By false position (Illinois), every third step a bisection.
    """
    a, b, at_a, at_b, side = left, right, at_left, at_right, 0
    for step in range(90):
        middle = 0.5 * (a + b)
        if step % 3 < 2 and at_b != at_a:
            middle = min(max(b - at_b * (b - a) / (at_b - at_a), a), b)
        value = along_axis(middle, g, rest, ties, number) - level
        if (value < 0.0) == (at_left < 0.0):
            a, at_a = middle, value
            if side == 1:
                at_b *= 0.5
            side = 1
        else:
            b, at_b = middle, value
            if side == 2:
                at_a *= 0.5
            side = 2
        if value == 0.0 or b - a <= 4e-16 * (abs(a) + abs(b)):
            return middle
    return a


@njit(**OPTIONS)
def beyond(rest: float, ties: Array, number: int, level: float, left: float, right: float, g: Any,
           at_middle: float) -> float:  # fmt: skip
    """Return a u in (left, right) where ``along_axis(u) - level`` has not the sign of its middle; NaN if there is none.

    It is sought at the extremum that is next to zero, by golden section.
    """
    side = 1.0 if at_middle > 0.0 else -1.0
    a, b = left, right
    c, d = b - 0.6180339887498949 * (b - a), a + 0.6180339887498949 * (b - a)
    at_c = side * (along_axis(c, g, rest, ties, number) - level)
    at_d = side * (along_axis(d, g, rest, ties, number) - level)
    for _ in range(24):
        if at_c < 0.0:
            return c
        if at_d < 0.0:
            return d
        if at_c < at_d:
            b, d, at_d = d, c, at_c
            c = b - 0.6180339887498949 * (b - a)
            at_c = side * (along_axis(c, g, rest, ties, number) - level)
        else:
            a, c, at_c = c, d, at_d
            d = a + 0.6180339887498949 * (b - a)
            at_d = side * (along_axis(d, g, rest, ties, number) - level)
    return math.nan


@njit(**OPTIONS)
def add_levels(rest: float, ties: Array, number: int, level: float, low: float, high: float, monotone: bool, g: Any,
               kinks: Array, count: int) -> int:  # fmt: skip
    """Add the solutions u in (low, high) of ``along_axis(u) = level`` to sorted kinks; return their number.

    Found by the change of sign between 64 points, or the ends where g is monotone and all rows go the same way; two
    solutions between the same points where the function turns there.
    """
    if not math.isfinite(level):
        return count
    cells = 64
    if monotone:
        cells = 1
        for j in range(1, number):
            if ties[j, 0] * ties[j, 2] * ties[0, 0] * ties[0, 2] < 0.0:
                cells = 64
    left, at_left = low, along_axis(low, g, rest, ties, number) - level
    before, at_before = left, math.inf
    for cell in range(1, cells + 1):
        right = low + (high - low) * cell / cells
        at_right = along_axis(right, g, rest, ties, number) - level
        if (at_left < 0.0) != (at_right < 0.0):
            count = insert(crossing(rest, ties, number, level, left, right, g, at_left, at_right), kinks, count)
        elif (
            math.isfinite(at_before) and (at_before < 0.0) == (at_left < 0.0)
            and abs(at_left) < abs(at_before) and abs(at_left) < abs(at_right)
        ):
            turn = beyond(rest, ties, number, level, before, right, g, at_left)
            if math.isfinite(turn):
                there = along_axis(turn, g, rest, ties, number) - level
                count = insert(crossing(rest, ties, number, level, before, turn, g, at_before, there), kinks, count)
                count = insert(crossing(rest, ties, number, level, turn, right, g, there, at_right), kinks, count)
        before, at_before, left, at_left = left, at_left, right, at_right
    return count


@njit(**OPTIONS)
def derivatives(moments: Array, L: Array, H: Array) -> None:
    """Fill H with H C = E[b (f - mean)], from ``moments`` = E[b zeta], f = mean + L zeta: regression on the fields.

    Where b is smooth, H is E[db/df] up to what vanishes on the range of C = L L^T; determined fields get none.
    """
    n = L.shape[0]
    for i in range(moments.shape[0]):
        for q in range(n - 1, -1, -1):
            total = moments[i, q]
            for r in range(q + 1, n):
                total -= H[i, r] * L[r, q]
            H[i, q] = total / L[q, q] if L[q, q] > 0.0 else 0.0


_POINTS = (
    spacing, normal_nodes, triangular_root, axis_capacity, given_mean, next_point, insert, along_axis, crossing,
    beyond, add_levels, derivatives,
)  # fmt: skip
POINTS_SOURCE = self_contained(_POINTS)
