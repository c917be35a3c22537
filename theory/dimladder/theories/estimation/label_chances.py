"""Probabilities of labels given a Gaussian field, and the panels their averages are taken on."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from ...numerics.scalars import between, expit
from .labels import Component

Array = NDArray[np.float64]
_TAIL = 9.5


def component_chances(c: Component, omega: Array, V: float, values: tuple[float, ...]) -> tuple[Array, Array]:
    """P(y | omega) of one component and its derivative in omega, for each of `values`."""
    centre, spread = c.gain * omega, math.sqrt(c.gain**2 * V + c.inner)
    P, dP = np.zeros((len(values), omega.size)), np.zeros((len(values), omega.size))
    if c.kind == "thresholds":
        edges = (-math.inf, *c.cuts, math.inf)
        for (low, high), label in zip(itertools.pairwise(edges), c.labels, strict=True):
            a, b = (low - centre) / spread, (high - centre) / spread
            mass = between(a, b)
            push = (np.exp(-(a**2) / 2) - np.exp(-(b**2) / 2)) / math.sqrt(2 * math.pi) * c.gain / spread
            P[values.index(label)] += mass
            dP[values.index(label)] += push
    else:
        x, w = panels(set(), 0.5)
        p = expit(c.function(centre[:, None] + spread * x))
        plus, slope = p @ w, (p @ (w * x)) * c.gain / spread
        i, j = values.index(1.0), values.index(-1.0)
        P[i], P[j], dP[i], dP[j] = plus, 1.0 - plus, slope, -slope
    if c.flip:
        order = [values.index(-y) for y in values]
        P, dP = (1 - c.flip) * P + c.flip * P[order], (1 - c.flip) * dP + c.flip * dP[order]
    return P, dP


def panels(ends: set[float], width: float) -> tuple[Array, Array]:
    """Nodes and weights of the standard normal law on panels between `ends`, 16 nodes each."""
    from ...numerics.quadrature import gauss_legendre

    points = sorted(e for e in ends | {-_TAIL, _TAIL} if -_TAIL <= e <= _TAIL)
    edges = [points[0]]
    for a, b in itertools.pairwise(points):
        n = max(1, math.ceil((b - a) / width))
        edges += [a + (b - a) * (j + 1) / n for j in range(n)]
    x0, w0 = gauss_legendre(16)
    low, high = np.array(edges[:-1])[:, None], np.array(edges[1:])[:, None]
    x = ((low + high) / 2 + (high - low) / 2 * x0).ravel()
    w = ((high - low) / 2 * w0).ravel() * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return x, w
