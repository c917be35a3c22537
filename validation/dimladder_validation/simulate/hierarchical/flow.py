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

from ..base import Backend, Closing, Experiment, Sample, chunks
from ..model_code import derivative
from .replicas import Realizations
from .target import Realization, level_sizes

# Samples drawn together: a block and its temporaries stay in the processor's cache.
BLOCK = 2048
# W2 = identity while the first layer learns: a neuron sees sigma(sigma(w.x)).
COMPOSITIONS = 2


class FirstLayerExperiment(Experiment):
    """Measures |P_W* w|^2, averaged over a few neurons of each replica, and its part on positive readouts."""

    theory = "hierarchical-flow"
    batch_size = 4
    device_batch_size = 256
    neurons = 8

    def closing(self, problem: Any) -> Closing:
        return Closing(slowest=0.25, reason="dropped Hermite orders are smaller by d_eff^-1/2, d^-1/4 at eps = 1/2")

    def at_size(self, problem: Any, size: int) -> Any:
        import dimladder

        return dimladder.replace(problem, {"limit.d": size})

    def numbers(self, problem: Any, size: int, backend: Backend) -> int:
        fields = level_sizes(problem.target, size)[0] + self.neurons
        return 8 * BLOCK * fields + 2 * self.neurons * size

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        times = np.array(problem.grid.values("time"))
        steps = math.ceil(float(times.max(initial=0.0)))
        overlap, upper = (v.mean(axis=-1) for v in neurons(problem, size, streams, backend, steps, self.neurons))
        grid = np.arange(steps + 1.0)
        at_times = np.array([np.interp(times, grid, row) for row in overlap])
        positive = np.array([np.interp(times, grid, row) for row in upper])
        return Sample(
            {"time": times},
            {"subspace_overlap": (("time",), at_times), "positive_readout_overlap": (("time",), positive)},
        )


def neurons(
    problem: Any, d: int, streams: Sequence[np.random.Generator], backend: Backend, steps: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train neurons and return their squared overlaps with the subspace, and with its a > 0 part, at every step.

    The neurons of a replica share z and the labels. Each has its own draw of x along itself: the law of every single
    neuron is exact, that of pairs is not.

    Parameters
    ----------
    problem : Problem
    d : int
    streams : sequence of Generator
        One a replica.
    backend : Backend
    steps, count : int

    Returns
    -------
    overlap, positive : (replicas, steps + 1, count) arrays
    """
    xp, target, algorithm = backend.xp, problem.target, problem.algorithm
    d_eff = level_sizes(target, d)[0]
    # Coordinates are chosen along the hidden directions: the law of everything measured does not depend on them.
    drawn = [Realization(target, d, np.zeros((1, d_eff, 0)), _readouts(target, d, s), backend) for s in streams]
    truths = Realizations.of(drawn)
    positive = backend.asarray(np.stack([(t.readouts[0].reshape(-1) > 0).astype(float) for t in drawn]))[:, None, :]
    if math.isinf(algorithm.batch_ratio):
        raise SimulationError(
            "an infinite batch cannot be drawn", where="algorithm.batch_ratio", hint="give a finite value, such as 20"
        )
    n = max(1, round(algorithm.batch_ratio * d * d_eff))
    sigma = activation(problem.student.activation)
    eta = problem.student.sign * algorithm.step * math.sqrt(d_eff)
    start = np.stack([s.standard_normal((count, d)) for s in streams])
    start /= np.linalg.norm(start, axis=-1, keepdims=True)
    # The d - d_eff - 1 directions orthogonal to W* and to the neuron: an isotropic normal vector, known by its length.
    free = np.zeros((len(streams), steps, count))
    if d > d_eff + 1:
        free = np.stack([s.chisquare(d - d_eff - 1, (steps, count)) for s in streams])
    w, free = backend.asarray(start[:, :, :d_eff]), backend.asarray(np.sqrt(free))
    rest = backend.asarray(np.linalg.norm(start[:, :, d_eff:], axis=-1))
    inputs, noises = ([s.spawn(1)[0] for s in streams] for _ in range(2))
    record = [(xp.sum(w**2, axis=-1), xp.sum(positive * w**2, axis=-1))]
    for step in range(steps):
        along, drift, square = 0.0 * w, 0.0 * rest, 0.0 * rest
        for block in chunks(n, BLOCK):
            x = backend.normal(inputs, (block, d_eff + count))
            z, perpendicular = x[:, :, :d_eff], x[:, :, d_eff:]
            y = truths.link([truths.features_of(z)])
            if target.noise:
                y = y + target.noise * backend.normal(noises, (block,))
            field = xp.matmul(z, xp.matrix_transpose(w)) + rest[:, None, :] * perpendicular
            weight = y[..., None] * slope(sigma, field, COMPOSITIONS, backend)
            along = along + xp.matmul(xp.matrix_transpose(weight), z)
            drift = drift + xp.sum(weight * perpendicular, axis=1)
            square = square + xp.sum(weight * weight, axis=1)
        other = xp.sqrt(square) * free[:, step, :] / n
        along, drift = along / n, drift / n
        radial = xp.sum(w * along, axis=-1) + rest * drift
        w = w + eta * (along - radial[..., None] * w)
        rest = xp.hypot(rest + eta * (drift - radial * rest), eta * other)
        norm = xp.sqrt(xp.sum(w * w, axis=-1) + rest * rest)
        w, rest = w / norm[..., None], rest / norm
        record.append((xp.sum(w**2, axis=-1), xp.sum(positive * w**2, axis=-1)))
    overlap, part = (backend.to_numpy(xp.stack(v, axis=1)).astype(float) for v in zip(*record, strict=True))
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
