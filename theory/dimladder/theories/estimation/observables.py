"""What is read off a solved point: errors, and the frequency of labels given the field.

The field of a fresh sample is u = b + omega, omega ~ N(0, q); the target field given it is N(m omega/q, rho - m^2/q).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...numerics.scalars import between, expit
from .labels import Component, LabelLaw
from .minimiser import Point

Array = NDArray[np.float64]


def positive_chance(law: LabelLaw, mean: Array, variance: float) -> Array:
    """P(y = 1) when the latent field is N(mean, variance): labels -1 and +1."""
    total = np.zeros_like(np.asarray(mean, dtype=float))
    for c in law.components:
        total += c.probability * _chance(c, np.asarray(mean, dtype=float), variance)
    return total


def _chance(c: Component, mean: Array, variance: float) -> Array:

    centre, spread = c.gain * mean, math.sqrt(c.gain**2 * variance + c.inner)
    if c.kind == "thresholds":
        edges = (-math.inf, *c.cuts, math.inf)
        out = np.zeros_like(centre)
        for (low, high), y in zip(itertools.pairwise(edges), c.labels, strict=True):
            if y > 0:
                a, b = (low - centre) / spread, (high - centre) / spread
                out += between(a, b)
    else:
        x = np.linspace(-9.5, 9.5, 400)
        w = np.exp(-(x**2) / 2)
        out = expit(c.function(centre[..., None] + spread * x)) @ (w / w.sum())
    return c.flip + (1.0 - 2.0 * c.flip) * out


@dataclass(frozen=True)
class FieldRule:
    """Nodes of omega and weights, with the frequency of y = 1 at each."""

    omega: Array
    weights: Array
    frequency: Array


def field_rule(law: LabelLaw, rho: float, q: float, m: float, b: float, marks: tuple[float, ...] = ()) -> FieldRule:
    """Panels in omega that resolve the turning of P(y = 1 | omega), split at the sign change of u and at `marks`."""
    from ...numerics.quadrature import gauss_legendre

    s, variance = math.sqrt(q), max(rho - m * m / q, 1e-24 * rho)
    ends = {-9.5, 9.5, -b / s, *(x / s for x in marks)}
    width = 0.75
    for c in law.components:
        spread = math.sqrt(c.gain**2 * variance + c.inner)
        slope = abs(c.gain * m) / s
        if slope > 0.0 and spread < 2.0 * slope:
            turn = spread / slope
            for cut in c.cuts:
                at = cut / (c.gain * m / s)
                ends |= {at + k * turn for k in (-8, -4, -2, -1, 0, 1, 2, 4, 8)}
    points = sorted(e for e in ends if -9.5 <= e <= 9.5)
    edges = [points[0]]
    for low, high in itertools.pairwise(points):
        panels = max(1, math.ceil((high - low) / width))
        edges += [low + (high - low) * (j + 1) / panels for j in range(panels)]
    x0, w0 = gauss_legendre(16)
    left, right = np.array(edges[:-1])[:, None], np.array(edges[1:])[:, None]
    x = ((left + right) / 2 + (right - left) / 2 * x0).ravel()
    w = ((right - left) / 2 * w0).ravel() * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    omega = s * x
    return FieldRule(omega, w, positive_chance(law, m / q * omega, variance))


def classification_error(law: LabelLaw, rho: float, q: float, m: float, b: float) -> float:
    """P(sign(u) differs from y) for labels -1 and +1."""
    rule = field_rule(law, rho, q, m, b)
    return float(rule.weights @ np.where(rule.omega + b > 0.0, 1.0 - rule.frequency, rule.frequency))


def mean_squared_error(law: LabelLaw, rho: float, point: Point) -> float:
    """E (u - f*)^2, f* the target without noise, flips and outliers."""
    from .equations import evaluated
    from .labels import component_moments

    mean, second, slope = component_moments(law.clean, rho)
    return evaluated("errors", point.q, point.m, point.b, mean, second, slope)[0]


__all__: list[Any] = ["FieldRule", "classification_error", "field_rule", "mean_squared_error", "positive_chance"]
