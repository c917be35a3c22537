"""Which quadrature averages what has no closed form: the coarsest whose refinement changes nothing that matters."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SolveError

if TYPE_CHECKING:
    from .flow import OnePassFlow

Array = NDArray[np.float64]
# Of each family the rules, coarse to fine; dy/dt at a state with a given rule.
Families = list[list[Array]]
Velocity = Callable[[Array, Array], Array]
# From coarse to fine: order of Mehler's series, trapezoidal step, Gauss-Legendre order of a panel.
SIZES = ((8, 0.7, 8), (10, 0.6, 10), (12, 0.5, 12), (16, 0.38, 16), (24, 0.3, 20), (36, 0.22, 24))
REACH = 7.5
# Over all fields at once: how many of these sizes their number leaves affordable, and log2 of the points beyond.
AFFORDABLE = {1: 6, 2: 6, 3: 5, 4: 3}
SOBOL = (11, 12, 13, 14, 15, 16)
# States of a curve at which its rule is held to the accuracy asked.
TRIED = 7
# Values of the label noise, level by level, for a loss that is not quadratic: sharp where outputs are large.
NOISE_NODES = (16, 24, 32, 48, 64, 96)
# The same where only displaced fields make what a sample moves nonlinear in the noise.
SMOOTH_NOISE_NODES = (6, 8, 10, 14, 20, 28)


def levels(flow: OnePassFlow) -> list[list[Array]]:
    """Return families of quadratures of a flow, each coarse to fine, as its generated code reads them."""
    from ...numerics.conditional import quadrature_rule

    module = flow.module()
    if module.ROUTE == "fields":
        families = _over_fields(flow.K + flow.M)
        return [
            [np.concatenate([_noise(flow, count), rule]) for count, rule in zip(NOISE_NODES, family, strict=False)]
            for family in families
        ]
    degree = module.POLYNOMIAL_DEGREE
    if degree:
        # The series ends at the degree, and the rule reaches far enough for the tails of the powers: exact at any scale
        # of the fields.
        sizes: tuple[tuple[int, float, int], ...] = ((degree + 1, -0.35, 8), (degree + 2, -0.3, 8))
        reach = 14.0
    else:
        sizes, reach = SIZES, REACH
    return [[np.concatenate([[order], quadrature_rule(step, reach, panel)]) for order, step, panel in sizes]]


def _over_fields(dimension: int) -> list[list[Array]]:
    """Nested rules where they are affordable, then points, for what has kinks that no axis meets."""
    from ...numerics.fields import sobol_rule

    return [family for family in (_nested(dimension), [sobol_rule(m, dimension) for m in SOBOL]) if family]


def _nested(dimension: int) -> list[Array]:
    from ...numerics.fields import nested_rule

    # The range grows with the order: what functions that grow miss beyond it shows in the change from level to level.
    sizes = SIZES[: AFFORDABLE.get(dimension, 0)]
    return [nested_rule(step, panel, 6.5 + 0.5 * k) for k, (_, step, panel) in enumerate(sizes)]


def source_levels(
    dimension: int, noisy: bool, linear: bool, counts: tuple[int, ...] = NOISE_NODES
) -> list[list[Array]]:
    """Return families of quadratures over the fields of one source, each coarse to fine, as printed code reads them.

    Parameters
    ----------
    dimension : int
        The most fields that any source has.
    noisy : bool
        Whether labels have noise.
    linear : bool
        Whether what a sample moves is linear in the noise: two values have its mean and its variance.
    counts : tuple of int
        Values of the noise, level by level, where it is not.
    """
    from ...numerics.quadrature import gauss_hermite

    def values(count: int) -> Array:
        two = np.array([-1.0, 1.0]), np.array([0.5, 0.5])
        nodes, weights = (two if linear else gauss_hermite(count)) if noisy else (np.zeros(1), np.ones(1))
        return np.concatenate([[len(nodes)], np.stack([nodes, weights], axis=1).ravel()])

    return [
        [np.concatenate([values(count), rule]) for count, rule in zip(counts, family, strict=False)]
        for family in _over_fields(dimension)
    ]


def sign_rule(dimension: int, rtol: float) -> Array:
    """Return the rule that counts wrong signs where averages need none; the last axis needs no nodes.

    Parameters
    ----------
    dimension : int
        The most fields that any source has.
    rtol : float
        What is asked of quadratures: one level finer for a tenth of the default 1e-7, one coarser for ten times it.
    """
    from ...numerics.fields import nested_rule, sobol_rule

    axes, steps = max(1, dimension - 1), _steps(rtol)
    if axes > 3:
        return np.concatenate([[1.0, 0.0, 1.0], sobol_rule(min(max(SOBOL[2] + steps, SOBOL[0]), SOBOL[-1]), axes)])
    # With three axes the coarsest nested rule is right to about 3e-7, with one fine ones cost nothing.
    family = _nested(axes) + ([nested_rule(0.1, 32, 9.5)] if axes == 1 else [])
    level = {1: 5, 2: 3, 3: 0}[axes] + steps
    return np.concatenate([[1.0, 0.0, 1.0], family[min(max(level, 0), len(family) - 1)]])


def _steps(rtol: float) -> int:
    return round(float(np.log10(1e-7 / rtol)))


@lru_cache(maxsize=8)
def class_rule(dimension: int, rtol: float) -> Array:
    """Return the points that count wrong classes: regions of the fields have edges that no axis is split at.

    Parameters
    ----------
    dimension : int
        The most fields that any source has; the last axis needs no points.
    rtol : float
        What is asked of quadratures: twice the points for a tenth of the default 1e-7, half of them for ten times it.
    """
    from ...numerics.fields import sobol_rule

    axes = max(1, dimension - 1)
    power = min(10 + axes, 13) + _steps(rtol)
    return np.concatenate([[1.0, 0.0, 1.0], sobol_rule(min(max(power, 9), 16), axes)])


def _noise(flow: OnePassFlow, count: int) -> Array:
    """Return the number of values of the label noise, then each value with its weight; `count` where they matter."""
    from ...numerics.quadrature import gauss_hermite

    noise = flow.p.target.noise
    if noise == 0:
        values, weights = np.zeros(1), np.ones(1)
    elif flow.p.loss.form.name not in ("square", "correlation"):
        values, weights = gauss_hermite(count)
    else:
        # The error is linear in the noise: two values have its mean and its variance.
        values, weights = np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    return np.concatenate([[len(values)], np.stack([noise * values, weights], axis=1).ravel()])


def choose(flow: OnePassFlow, rtol: float) -> Array:
    """Return the coarsest rule whose refinement changes the initial velocity, at full rate, by less than `rtol`.

    Where none does, the one that changes it least.
    """
    candidates = levels(flow)
    if flow.module().ROUTE == "conditional" and flow.module().POLYNOMIAL_DEGREE:
        return candidates[0][0]
    return coarsest(candidates, flow.velocity, flow.initial_state()[None], rtol)


def coarsest(families: Families, velocity: Velocity, states: Array, rtol: float) -> Array:
    """Return the coarsest rule whose refinement changes ``velocity(y, rule)`` at all states (m, n) by less than `rtol`.

    Where none does, the one that changes it least; see `choose`.
    """
    reached: list[tuple[float, int]] = []
    for family in families:
        before, change = [velocity(y, family[0]) for y in states], np.inf
        for level, finer in itertools.pairwise(family):
            after = [velocity(y, finer) for y in states]
            change = _change(before, after)
            if change <= rtol:
                return level
            before = after
        reached.append((change, len(reached)))
    return families[min(reached)[1]][-1]


def _change(before: list[Array], after: list[Array]) -> float:
    """Return the largest change, relative to velocities of size one and more."""
    return max(float(abs(a - b).max()) / max(1.0, float(abs(a).max())) for b, a in zip(before, after, strict=True))


def finer(families: Families, velocity: Velocity, used: Array, states: Array, rtol: float) -> Array | None:
    """Return the rule that a curve needs, where the one that it was computed with is too coarse on it.

    Parameters
    ----------
    used : array
        Chosen for the beginning; None is returned where nothing finer is known, or nothing finer is needed.
    states : array (time, n)
        Along the curve, of which some are tried.
    """
    family = next(f for f in families if any(np.array_equal(other, used) for other in f))
    place = next(k for k, other in enumerate(family) if np.array_equal(other, used))
    if place + 1 == len(family):
        return None
    tried = np.ascontiguousarray(states[np.unique(np.linspace(0, len(states) - 1, TRIED).astype(int))])
    if _change([velocity(y, used) for y in tried], [velocity(y, family[place + 1]) for y in tried]) <= rtol:
        return None
    found = coarsest([family[place + 1 :], *(f for f in families if f is not family)], velocity, tried, rtol)
    return None if np.array_equal(found, used) else found


def error(flow: OnePassFlow, used: Array, states: Array) -> float:
    """Return the largest change of dy/dt over states (time, n) when the rule is refined by one level."""
    return refinement(levels(flow), flow.velocity, used, states)


def refinement(families: Families, velocity: Velocity, used: Array, states: Array) -> float:
    """Return the largest change of ``velocity(y, rule)`` over states (time, n) when the rule is refined a level."""
    family = next(f for f in families if any(np.array_equal(other, used) for other in f))
    place = next(k for k, other in enumerate(family) if np.array_equal(other, used))
    other = family[place + 1] if place + 1 < len(family) else family[place - 1]
    changes = [velocity(y, used) - velocity(y, other) for y in (np.ascontiguousarray(state) for state in states)]
    return float(abs(np.array(changes)).max())


def settle(flow: Any, like: Any = None) -> None:
    """Give a flow the quadrature that its curve needs, or that of another flow."""
    if flow.module().ROUTE == "closed":
        return
    if like is not None:
        flow.rule = like.rule
        return
    with suppress(SolveError):
        # A curve that ends early keeps the rule of its start.
        flow.solve()
