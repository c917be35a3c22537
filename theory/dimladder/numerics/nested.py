"""Nodes of averages over a few correlated Gaussian fields: nested one-dimensional rules, split at the kinks of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .conditional import normal_nodes, quadrature_rule, spacing
from .jit import njit

Array = NDArray[np.float64]
MOST_NODES = 1000  # on either side of zero

__all__ = ["nested_points", "triangular"]


@njit(cache=True)
def _nodes(root: Array, kinks: Array, starts: Array, rule: Array, cutoff: float) -> tuple[Array, Array]:
    fields = root.shape[0]
    normal, weights = np.zeros((1, 0)), np.ones(1)
    for q in range(fields):
        own = kinks[starts[q] : starts[q + 1]]
        scale = root[q, q]
        size = 1
        if scale > 0.0:
            size = int(2 * rule[1] / spacing(rule, scale)) + 3 + (rule.size - 2) // 2 * 8 * (own.size + 2)
        z, w = np.zeros(size), np.ones(size)
        grown, grown_weights = np.empty((len(weights) * size, q + 1)), np.empty(len(weights) * size)
        total = 0
        for p in range(len(weights)):
            mean = 0.0
            for r in range(q):
                mean += root[q, r] * normal[p, r]
            count = normal_nodes(own, mean, scale, rule, z, w) if scale > 0.0 else 1
            for i in range(count):
                weight = weights[p] * w[i]
                if weight < cutoff:
                    continue
                grown[total, :q] = normal[p]
                grown[total, q] = z[i]
                grown_weights[total] = weight
                total += 1
        normal, weights = grown[:total], grown_weights[:total]
    return normal, weights


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
    starts = np.cumsum([0, *(len(k) for k in kinks)])
    flat = np.array([k for own in kinks for k in own], dtype=float)
    cutoff = 1e-2 * math.exp(-0.5 * top * top)
    normal, weights = _nodes(root, flat, starts, quadrature_rule(step, top, order), cutoff)
    return root @ normal.T, weights


def triangular(gram: Array) -> Array:
    """Return the lower triangular root of a positive semi-definite matrix; a lost pivot gives a zero column."""
    root = np.zeros_like(gram)
    for j in range(len(gram)):
        pivot = gram[j, j] - root[j, :j] @ root[j, :j]
        if pivot > 1e-14 * gram[j, j]:
            root[j:, j] = (gram[j:, j] - root[j:, :j] @ root[j, :j]) / math.sqrt(pivot)
    return root
