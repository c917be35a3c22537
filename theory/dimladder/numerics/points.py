"""Points of a quadrature over several Gaussian fields with means, axis by axis, split where the integrand has kinks.

The axes are taken in the order in which they are given. The rule of an axis is split at the kinks of its own field, and
where an output ``rest + weight g(field)``, known but for this field, meets a kink of the loss or changes its sign. A
field that those before determine has one point.

Generated modules are self-contained: `POINTS_SOURCE` is the source text of these functions. They call functions of the
module: the activation ``g``, and ``own_kinks(axis, f, mean, spread, top, order, K, c, label, tested, out)``, which
fills the kinks along an axis, given the fields before it, and returns their number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .conditional import normal_nodes, self_contained, spacing
from .fields import triangular_root
from .jit import njit

Array = NDArray[np.float64]

__all__ = ["POINTS_SOURCE", "add_levels", "axis_capacity", "derivatives", "insert", "next_point"]


@njit(cache=True)
def axis_capacity(L: Array, rule: Array, most: int) -> int:
    """Return the most nodes that `normal_nodes` makes along an axis with at most so many kinks."""
    scale = 1e-3
    for q in range(L.shape[0]):
        scale = max(scale, L[q, q])
    return int(2 * rule[1] / spacing(rule, scale)) + 3 + (rule.size - 2) // 2 * 8 * (most + 2)


@njit(cache=True)
def next_point(mean: Array, L: Array, order: Array, K: int, c: Array, label: float, tested: bool, own_kinks: Any,
               kinks: Array, rule: Array, z: Array, w: Array, counts: Array, at: Array, means: Array, zeta: Array,
               weight: Array, f: Array) -> bool:  # fmt: skip
    """Go to the next point of all axes but the last, and return whether there is one; begin with ``at[-1] = -1``.

    ``L`` is the lower triangular root of the covariance. Fills ``zeta`` (f = mean + L zeta), ``f`` and the product
    ``weight[last]`` of the weights, and ``means[last]``, the mean of the last field given the others.
    """
    last = f.size - 1
    cutoff = 0.01 * math.exp(-0.5 * rule[1] * rule[1])
    depth = last - 1
    opened = at[last] < 0
    if opened:
        at[last] = 0
        weight[0] = 1.0
        depth = 0
    elif last == 0:
        return False
    else:
        at[depth] += 1
    while True:
        if opened:
            opened = False
            means[depth] = mean[depth]
            for r in range(depth):
                means[depth] += L[depth, r] * zeta[r]
            if depth == last:
                return True
            at[depth] = 0
            if L[depth, depth] == 0.0:
                z[depth, 0], w[depth, 0], counts[depth] = 0.0, 1.0, 1
            else:
                spread = L[depth, depth]
                found = own_kinks(depth, f, means[depth], spread, rule[1], order, K, c, label, tested, kinks)
                counts[depth] = normal_nodes(kinks[:found], means[depth], spread, rule, z[depth], w[depth])
        if at[depth] == counts[depth]:
            depth -= 1
            if depth < 0:
                return False
            at[depth] += 1
            continue
        zeta[depth] = z[depth, at[depth]]
        weight[depth + 1] = weight[depth] * w[depth, at[depth]]
        if weight[depth + 1] < cutoff:
            # Beyond the range in all dimensions together there is no weight.
            at[depth] += 1
            continue
        f[depth] = means[depth] + L[depth, depth] * zeta[depth]
        depth += 1
        opened = True


@njit(cache=True)
def insert(value: float, values: Array, count: int) -> int:
    """Put a finite number into a sorted list of `count`; return how many there are."""
    if not math.isfinite(value):
        return count
    place = count
    while place > 0 and values[place - 1] > value:
        values[place] = values[place - 1]
        place -= 1
    values[place] = value
    return count + 1


@njit(cache=True)
def add_levels(rest: float, weight: float, level: float, low: float, high: float, g: Any, kinks: Array, count: int
               ) -> int:  # fmt: skip
    """Add the solutions u in (low, high) of ``rest + weight g(u) = level`` to sorted kinks; return their number.

    Found by the change of sign between 64 points, then by bisection.
    """
    if weight == 0.0 or not math.isfinite(level):
        return count
    cells = 64
    left, at_left = low, rest + weight * g(low) - level
    for cell in range(1, cells + 1):
        right = low + (high - low) * cell / cells
        at_right = rest + weight * g(right) - level
        if (at_left < 0.0) != (at_right < 0.0) and count < kinks.size:
            a, b = left, right
            for _ in range(60):
                middle = 0.5 * (a + b)
                if (rest + weight * g(middle) - level < 0.0) == (at_left < 0.0):
                    a = middle
                else:
                    b = middle
            count = insert(a, kinks, count)
        left, at_left = right, at_right
    return count


@njit(cache=True)
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


POINTS_SOURCE = self_contained(
    (spacing, normal_nodes, triangular_root, axis_capacity, next_point, insert, add_levels, derivatives)
)
