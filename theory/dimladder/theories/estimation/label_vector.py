"""A label law and a loss as numbers: the vector that one compiled call averages over (`numerics.label_channel`)."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...numerics import label_channel
from .channel import PANEL, Channel, Loss
from .labels import Component, LabelLaw

Array = NDArray[np.float64]
# Relative agreement of the trapezoidal rule with the panels at which its step is kept.
_AGREEMENT = 1e-12
_HALVINGS = 5


def constant_law(y: float) -> LabelLaw:
    """Return the law of a label that is certain."""
    import sympy as sp

    only = Component(1.0, "thresholds", 0.0, 1.0, 0.0, sp.Float(y), labels=(y,))
    return LabelLaw((only,), f"{y:g}", only)


def vector(loss: Loss, law: LabelLaw, rho: float = 1.0, fineness: float = 1.0) -> Array:
    """Return the numbers of `numerics.label_channel.law_averages` for a loss and a law in a field of variance rho."""
    route, reach = label_channel.PANELS, loss.strip
    if loss.pieces.linear_slope:
        route = label_channel.CLOSED
    elif not loss.pieces.kinks and (step := trapezoid_reach(loss)):
        route, reach = label_channel.TRAPEZOID, step
    channel = Channel(loss, law, rho, fineness)
    rows = [_component(channel, c) for c in law.components]
    return label_channel.flatten(loss.module(), route, PANEL / fineness, reach / fineness, rows)


def _component(channel: Channel, c: Component) -> label_channel.Component:
    route = channel.route(c)
    if route == "residual":
        kind, data = label_channel.RESIDUAL, np.array([c.slope, c.intercept])
    elif route == "thresholds":
        labels, table, offsets = c.table()
        kind, data = label_channel.THRESHOLDS, np.concatenate([[labels.size], labels, offsets, table.ravel()])
    else:
        weights, fields, values, residual = channel.outer(c)
        kind, data = label_channel.NODES, np.concatenate([[residual, weights.size], weights, fields, values])
    return label_channel.Component(kind, c.probability, c.gain, c.variance(channel.rho), c.outer, data)


@lru_cache(maxsize=64)
def trapezoid_reach(loss: Loss) -> float:
    """Twice the step in the field at which the trapezoidal rule is exact to 1e-12 for a loss without kinks; 0: none is.

    The width of the strip in which the proximal map is analytic is not known for a formula: the rule is compared with
    panels at several responses, variances and labels, and its step halved until they agree.
    """
    module, reach = loss.module(), 2.0 * loss.strip
    labels = {y: [_component(Channel(loss, constant_law(y), 1.0), constant_law(y).components[0])] for y in (-1.0, 1.0)}
    probes = list(itertools.product(labels, (0.3, 3.0, 30.0, 1e3), (0.5, 2.0, 10.0), (-1.0, 2.0)))

    def tried(route: float, reach: float) -> Array:
        out = np.empty((len(probes), 7))
        for row, (y, V, s, b) in zip(out, probes, strict=True):
            p = label_channel.flatten(module, route, PANEL, reach, labels[y])
            label_channel.law_averages(p, 0, V, s * s, 0.0, b, True, row)
        return out[:, :5]

    exact = tried(label_channel.PANELS, loss.strip)
    for _ in range(_HALVINGS):
        gap = np.abs(tried(label_channel.TRAPEZOID, reach) - exact) / (1e-3 + np.abs(exact))
        if float(np.max(gap, initial=0.0)) <= _AGREEMENT:
            return reach
        reach *= 0.5
    return 0.0
