"""Nodes of averages over a few correlated Gaussian fields: nested one-dimensional rules, split at the kinks of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .basics import OPTIONS
from .conditional import normal_nodes, quadrature_rule, spacing
from .native import njit

Array = NDArray[np.float64]
MOST_NODES = 1000  # on either side of zero

__all__ = ["nested_points", "triangular"]


@njit("i8(f8[:, ::1], i8, f8[::1], f8[::1], f8, f8[:, ::1], f8[::1], f8[::1], f8[::1], f8[:, ::1], f8[::1])", **OPTIONS)
def _extend(root, q, kinks, rule, cutoff, normal, weights, z, w, grown, grown_weights):  # type: ignore[no-untyped-def]
    """Fill the points of the first q + 1 fields, given those of the first q; return how many count."""
    total = 0
    for p in range(weights.size):
        mean = 0.0
        for r in range(q):
            mean += root[q, r] * normal[p, r]
        count = 1
        z[0], w[0] = 0.0, 1.0
        if root[q, q] > 0.0:
            count = normal_nodes(kinks, mean, root[q, q], rule, z, w)
        for i in range(count):
            weight = weights[p] * w[i]
            if weight < cutoff:
                continue
            for r in range(q):
                grown[total, r] = normal[p, r]
            grown[total, q] = z[i]
            grown_weights[total] = weight
            total += 1
    return total


def nested_points(
    covariance: Array, kinks: Sequence[Sequence[float]], step: float = 0.25, order: int = 20, top: float = 8.5
) -> tuple[Array, Array]:
    """Return points (fields, P) and weights of an average over fields of a covariance, each kinked at its own points.

    Parameters
    ----------
    covariance : (D, D) array
        Positive semi-definite; a field that the earlier ones determine gets no nodes of its own. Where it is not finite
        the average is NaN.
    kinks : sequence of D sequences
        Ascending, in units of the field.
    step : float
        Step of the trapezoidal rule in units of a field without kinks, see `conditional.spacing`.
    order : int
        Gauss-Legendre nodes of a panel between kinks.
    top : float
        Range in standard deviations.
    """
    if not np.isfinite(covariance).all():
        return np.zeros((len(covariance), 1)), np.full(1, math.nan)
    root = triangular(covariance)
    # Fields of any size get a bounded number of nodes.
    step = max(step, float(np.diag(root).max()) * top / MOST_NODES)
    rule, cutoff = quadrature_rule(step, top, order), 1e-2 * math.exp(-0.5 * top * top)
    normal, weights = np.zeros((1, 0)), np.ones(1)
    for q, own in enumerate(kinks):
        size = 1
        if root[q, q] > 0:
            size = int(2 * top / spacing(rule, root[q, q])) + 3 + order * 8 * (len(own) + 2)
        grown, mass = np.empty((len(weights) * size, q + 1)), np.empty(len(weights) * size)
        z, w, ends = np.empty(size), np.empty(size), np.array(own, dtype=float)
        count = _extend.compiled(root, q, ends, rule, cutoff, normal, weights, z, w, grown, mass)
        normal, weights = grown[:count], mass[:count]
    return root @ normal.T, weights


def triangular(gram: Array) -> Array:
    """Return the lower triangular root of a positive semi-definite matrix; a lost pivot gives a zero column."""
    root = np.zeros_like(gram)
    for j in range(len(gram)):
        pivot = gram[j, j] - root[j, :j] @ root[j, :j]
        if pivot > 1e-14 * gram[j, j]:
            root[j:, j] = (gram[j:, j] - root[j:, :j] @ root[j, :j]) / math.sqrt(pivot)
    return root
