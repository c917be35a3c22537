"""Spherical correlation-loss SGD of first-layer neurons on fresh batches.

Given z = W* x and the component of x along the neuron, the rest of the batch gradient is exactly normal and isotropic:
only d_eff + 1 numbers a sample are drawn instead of d, without approximation (`algorithm_one.first_layer` is the
same with whole inputs; a test compares the two).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dimladder.errors import SimulationError
from dimladder.problem import activation
from dimladder.problem.hierarchy import draw_readout

from .base import Backend, Closing, Experiment, Sample, chunks
from .hierarchical_target import Realization, level_sizes
from .model_code import derivative

# Samples drawn together: a block and its temporaries stay in the processor's cache.
BLOCK = 4096
# W2 = identity while the first layer learns: a neuron sees sigma(sigma(w.x)).
COMPOSITIONS = 2


class FirstLayerExperiment(Experiment):
    """Measures |P_W* w|^2, averaged over a few neurons of each replica, and its part on positive readouts."""

    theory = "hierarchical-flow"
    batch_size = 4
    neurons = 8

    def closing(self, problem: Any) -> Closing:
        return Closing(slowest=0.25, reason="dropped Hermite orders are smaller by d_eff^-1/2, d^-1/4 at eps = 1/2")

    def at_size(self, problem: Any, size: int) -> Any:
        import dimladder

        return dimladder.replace(problem, {"limit.d": size})

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        times = np.array(problem.grid.values("time"))
        steps = math.ceil(float(times.max(initial=0.0)))
        overlap = np.empty((len(streams), steps + 1))
        upper = np.empty((len(streams), steps + 1))
        for r, stream in enumerate(streams):
            overlap[r], upper[r] = (
                v.mean(axis=1) for v in neurons(problem, size, stream, backend, steps, self.neurons)
            )
        grid = np.arange(steps + 1.0)
        at_times = np.array([np.interp(times, grid, row) for row in overlap])
        positive = np.array([np.interp(times, grid, row) for row in upper])
        return Sample(
            {"time": times},
            {"subspace_overlap": (("time",), at_times), "positive_readout_overlap": (("time",), positive)},
        )


def neurons(
    problem: Any, d: int, stream: np.random.Generator, backend: Backend, steps: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train neurons and return their squared overlaps with the subspace, and with its a > 0 part, at every step.

    The neurons of a replica share z and the labels. Each has its own draw of x along itself: the law of every single
    neuron is exact, that of pairs is not.

    Parameters
    ----------
    problem : Problem
    d : int
    stream : Generator
    backend : Backend
    steps, count : int

    Returns
    -------
    overlap, positive : (steps + 1, count) arrays
    """
    xp, target, algorithm = backend.xp, problem.target, problem.algorithm
    d_eff = level_sizes(target, d)[0]
    # Coordinates are chosen along the hidden directions: the law of everything measured does not depend on them.
    truth = Realization(target, d, np.zeros((1, d_eff, 0)), _readouts(target, d, stream), backend)
    positive = truth.readouts[0].reshape(-1) > 0
    if math.isinf(algorithm.batch_ratio):
        raise SimulationError(
            "an infinite batch cannot be drawn", where="algorithm.batch_ratio", hint="give a finite value, such as 20"
        )
    n = max(1, round(algorithm.batch_ratio * d * d_eff))
    sigma = activation(problem.student.activation)
    eta = problem.student.sign * algorithm.step * math.sqrt(d_eff)
    start = stream.standard_normal((count, d))
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    w, rest = start[:, :d_eff], np.linalg.norm(start[:, d_eff:], axis=1)
    record = [(np.sum(w**2, axis=1), np.sum(w[:, positive] ** 2, axis=1))]
    for _ in range(steps):
        along, drift, square = np.zeros((count, d_eff)), np.zeros(count), np.zeros(count)
        for block in chunks(n, BLOCK):
            drawn = backend.normal([stream], (block, d_eff + count))[0, ...]
            z, perpendicular = drawn[:, :d_eff], drawn[:, d_eff:]
            y = truth.link(truth.features_of(z[:, None, :]))
            if target.noise:
                y = y + target.noise * backend.normal([stream], (block,))[0, ...]
            field = xp.matmul(z, backend.asarray(w.T.copy())) + backend.asarray(rest) * perpendicular
            weight = y[:, None] * slope(sigma, field, COMPOSITIONS, backend)
            along += backend.to_numpy(xp.matmul(xp.permute_dims(weight, (1, 0)), z)).astype(float)
            drift += backend.to_numpy(xp.sum(weight * perpendicular, axis=0)).astype(float)
            square += backend.to_numpy(xp.sum(weight * weight, axis=0)).astype(float)
        # The d - d_eff - 1 directions orthogonal to W* and to the neuron: an isotropic normal vector, known by its
        # length.
        free = stream.chisquare(d - d_eff - 1, count) if d > d_eff + 1 else np.zeros(count)
        other = np.sqrt(square * free) / n
        along, drift = along / n, drift / n
        radial = np.sum(w * along, axis=1) + rest * drift
        w = w + eta * (along - radial[:, None] * w)
        rest = np.hypot(rest + eta * (drift - radial * rest), eta * other)
        norm = np.hypot(np.linalg.norm(w, axis=1), rest)
        w, rest = w / norm[:, None], rest / norm
        record.append((np.sum(w**2, axis=1), np.sum(w[:, positive] ** 2, axis=1)))
    overlap, part = (np.array(v) for v in zip(*record, strict=True))
    return overlap, part


def slope(sigma: Any, field: Any, compositions: int, backend: Backend) -> Any:
    """Return the derivative of sigma composed with itself, at `field`, by the chain rule."""
    first = derivative(sigma)
    xp = backend.xp
    result = first.evaluate(xp, x=field) + 0.0 * field
    for _ in range(compositions - 1):
        field = sigma.evaluate(xp, x=field)
        result = result * (first.evaluate(xp, x=field) + 0.0 * field)
    return result


def _readouts(target: Any, d: int, stream: np.random.Generator) -> tuple[np.ndarray, ...]:
    sizes = level_sizes(target, d)
    return tuple(
        draw_readout(target, below, stream).reshape(above, below // above) for below, above in itertools.pairwise(sizes)
    )


EXPERIMENT = FirstLayerExperiment()
