"""Spherical correlation-loss SGD of single first-layer neurons on fresh batches.

Given z = W* x and the component of x along the neuron, the rest of the batch gradient is exactly normal and isotropic:
only (n, d_eff + 1) numbers a step are drawn instead of (n, d), without approximation (`algorithm_one.first_layer` is the
same with whole inputs; a test compares the two).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from dimladder.errors import SimulationError
from dimladder.problem import activation, axis_values

from .base import Backend, Experiment, Sample, chunks
from .hierarchical_target import Realization, level_sizes

# Samples drawn together: a block and its temporaries stay in the processor's cache.
BLOCK = 4096


class FirstLayerExperiment(Experiment):
    """Measures |P_W* w|^2 of one neuron a replica, and its parts on each readout value."""

    theory = "hierarchical-flow"
    batch_size = 4
    # Dropped Hermite orders of the population gradient are smaller by d_eff^(-1/2).
    correction_exponent = None

    def at_size(self, problem: Any, size: int) -> Any:
        import dimladder

        return dimladder.replace(problem, {"limit.d": size})

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        times = np.array(axis_values(problem.grid.time))
        steps = math.ceil(float(times.max(initial=0.0)))
        overlap = np.empty((len(streams), steps + 1))
        upper = np.empty((len(streams), steps + 1))
        for r, stream in enumerate(streams):
            overlap[r], upper[r] = neuron(problem, size, stream, backend, steps)
        grid = np.arange(steps + 1.0)
        at_times = np.array([np.interp(times, grid, row) for row in overlap])
        positive = np.array([np.interp(times, grid, row) for row in upper])
        return Sample(
            {"time": times},
            {"subspace_overlap": (("time",), at_times), "positive_readout_overlap": (("time",), positive)},
        )


def neuron(
    problem: Any, d: int, stream: np.random.Generator, backend: Backend, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train one neuron and return its squared overlap with the subspace, and with its a > 0 part, at every step.

    Parameters
    ----------
    problem : FirstLayerFlow
    d : int
    stream : Generator
    backend : Backend
    steps : int

    Returns
    -------
    overlap, positive : (steps + 1,) arrays
    """
    xp, target, algorithm = backend.xp, problem.target, problem.algorithm
    d_eff = level_sizes(target, d)[0]
    # Coordinates are chosen along the hidden directions: the law of everything measured does not depend on them.
    truth = Realization(target, d, np.zeros((1, d_eff, 0)), _readouts(target, d, stream), backend)
    a = truth.readouts[0].reshape(-1)
    if math.isinf(algorithm.batch_ratio):
        raise SimulationError(
            "an infinite batch cannot be drawn", where="algorithm.batch_ratio", hint="give a finite value, such as 20"
        )
    n = max(1, round(algorithm.batch_ratio * d * d_eff))
    sigma = activation(problem.student.activation)
    eta = problem.student.sign * algorithm.step * math.sqrt(d_eff)
    start = stream.standard_normal(d)
    start /= np.linalg.norm(start)
    w, rest = start[:d_eff], float(np.linalg.norm(start[d_eff:]))
    record = [(float(w @ w), float(w[a > 0] @ w[a > 0]))]
    for _ in range(steps):
        along, drift, square = np.zeros(d_eff), 0.0, 0.0
        for block in chunks(n, BLOCK):
            drawn = backend.normal([stream], (block, d_eff + 1))[0]
            z, perpendicular = drawn[:, :d_eff], drawn[:, d_eff]
            y = truth.link(truth.features_of(xp.reshape(z, (block, 1, d_eff))))
            if target.noise:
                y = y + target.noise * backend.normal([stream], (block,))[0]
            field = z @ backend.asarray(w) + rest * perpendicular
            weight = y * slope(sigma, field, problem.student.compositions, backend)
            along += backend.to_numpy(weight @ z).astype(float)
            drift += float(xp.sum(weight * perpendicular))
            square += float(xp.sum(weight * weight))
        # The d - d_eff - 1 directions orthogonal to W* and to the neuron: an isotropic normal vector, known by its length.
        other = math.sqrt(square * stream.chisquare(d - d_eff - 1)) / n if d > d_eff + 1 else 0.0
        along, drift = along / n, drift / n
        radial = float(w @ along) + rest * drift
        w = w + eta * (along - radial * w)
        rest = math.hypot(rest + eta * (drift - radial * rest), eta * other)
        norm = math.hypot(float(np.linalg.norm(w)), rest)
        w, rest = w / norm, rest / norm
        record.append((float(w @ w), float(w[a > 0] @ w[a > 0])))
    overlap, positive = np.array(record).T
    return overlap, positive


def slope(sigma: Any, field: Any, compositions: int, backend: Backend) -> Any:
    """Return the derivative of sigma composed with itself, at `field`, by the chain rule."""
    derivative = derivative_of(sigma)
    xp = backend.xp
    result = derivative.evaluate(xp, x=field) + 0.0 * field
    for _ in range(compositions - 1):
        field = sigma.evaluate(xp, x=field)
        result = result * (derivative.evaluate(xp, x=field) + 0.0 * field)
    return result


@lru_cache(maxsize=32)
def derivative_of(sigma: Any) -> Any:
    """Return the derivative of an activation as a formula, so that it can be evaluated on any array namespace."""
    import sympy as sp

    from dimladder.problem.expressions import Expression, drop_atoms

    x = sp.Symbol("x", real=True)
    text = _formula(drop_atoms(sp.diff(sigma.sympy(), x)))
    return Expression(text)


def _formula(expression: Any) -> str:
    import sympy as sp

    step = sp.Function("step")
    plain = expression.replace(sp.Heaviside, lambda u, *_: step(u))
    return str(sp.N(plain, 17)) if plain.atoms(sp.Float) else str(plain)


def _readouts(target: Any, d: int, stream: np.random.Generator) -> tuple[np.ndarray, ...]:
    from dimladder.theories.hierarchical.readouts import draw_readout

    sizes = level_sizes(target, d)
    return tuple(
        draw_readout(target, below, stream).reshape(above, below // above)
        for below, above in zip(sizes, sizes[1:], strict=False)
    )


EXPERIMENT = FirstLayerExperiment()
