"""Which quadrature averages what has no closed form: the coarsest whose refinement changes nothing that matters."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .flow import OnlineFlow

Array = NDArray[np.float64]
# From coarse to fine: order of Mehler's series, trapezoidal step, Gauss-Legendre order of a panel.
SIZES = ((8, 0.7, 8), (10, 0.6, 10), (12, 0.5, 12), (16, 0.38, 16), (24, 0.3, 20), (36, 0.22, 24))
REACH = 7.5
# Over all fields at once: how many of these sizes their number leaves affordable, and log2 of the points beyond.
AFFORDABLE = {1: 6, 2: 6, 3: 5, 4: 3}
SOBOL = (11, 12, 13, 14, 15, 16)
NOISE_NODES = 16


def levels(flow: OnlineFlow) -> list[Array]:
    """Return the quadratures of a flow, coarse to fine, as its generated code reads them."""
    from ...numerics.conditional import quadrature_rule

    module = flow.module()
    if module.ROUTE == "fields":
        return [np.concatenate([_noise(flow), rule]) for rule in _over_fields(flow.K + flow.M)]
    degree = module.POLYNOMIAL_DEGREE
    if degree:
        # The series ends at the degree, and the rule reaches far enough for the tails of the powers: exact at any scale
        # of the fields.
        sizes: tuple[tuple[int, float, int], ...] = ((degree + 1, -0.35, 8), (degree + 2, -0.3, 8))
        reach = 14.0
    else:
        sizes, reach = SIZES, REACH
    return [np.concatenate([[order], quadrature_rule(step, reach, panel)]) for order, step, panel in sizes]


def _over_fields(dimension: int) -> list[Array]:
    from ...numerics.fields import nested_rule, sobol_rule

    if dimension in AFFORDABLE:
        return [nested_rule(step, panel) for _, step, panel in SIZES[: AFFORDABLE[dimension]]]
    return [sobol_rule(m, dimension) for m in SOBOL]


def _noise(flow: OnlineFlow) -> Array:
    """Return the number of values of the label noise, then each value with its weight."""
    from ...numerics.quadrature import gauss_hermite

    noise = flow.p.target.noise
    if noise == 0:
        values, weights = np.zeros(1), np.ones(1)
    elif flow.p.algorithm.loss == "logistic":
        values, weights = gauss_hermite(NOISE_NODES)
    else:
        # The error is linear in the noise: two values have its mean and its variance.
        values, weights = np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    return np.concatenate([[len(values)], np.stack([noise * values, weights], axis=1).ravel()])


def choose(flow: OnlineFlow, rtol: float) -> Array:
    """Return the coarsest rule whose refinement changes the initial velocity by less than `rtol`, or the finest."""
    candidates = levels(flow)
    if flow.module().POLYNOMIAL_DEGREE:
        return candidates[0]
    y = flow.initial_state()
    before = flow.velocity(y, candidates[0])
    for level, finer in itertools.pairwise(candidates):
        after = flow.velocity(y, finer)
        if abs(after - before).max() <= rtol * max(1.0, float(abs(after).max())):
            return level
        before = after
    return candidates[-1]


def error(flow: OnlineFlow, used: Array, states: Array) -> float:
    """Return the largest change of dy/dt over states (time, n) when the rule is refined by one level."""
    candidates = levels(flow)
    place = next(k for k, other in enumerate(candidates) if np.array_equal(other, used))
    other = candidates[place + 1] if place + 1 < len(candidates) else candidates[place - 1]
    changes = [
        flow.velocity(y, used) - flow.velocity(y, other) for y in (np.ascontiguousarray(state) for state in states)
    ]
    return float(abs(np.array(changes)).max())
