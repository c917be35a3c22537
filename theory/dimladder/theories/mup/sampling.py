"""Nodes of the single-site averages: scrambled Sobol points in the order of time, or plain Monte Carlo."""

from __future__ import annotations

import numpy as np

from ...numerics.sampling import Sampler, normals
from ...problem.training import Training
from .march import Nodes


def dimensions(training: Training) -> list[tuple[int, int]]:
    """Return the number of normals of u and of r for each layer, as an upper bound on the ranks of their kernels."""
    k, kt, layers = training.times * training.samples, training.times * training.points, training.layers
    return [(training.points if index == 0 else kt, 1 if index == layers - 1 else k) for index in range(layers)]


def sampled_nodes(
    training: Training, samples: int, generator: np.random.Generator, sampler: Sampler = "sobol"
) -> list[Nodes]:
    """Return independent nodes for every layer.

    Sobol dimensions follow time, u before r, because early innovations carry most of the variance. The sequence is
    scrambled, so each scramble is an unbiased rule.
    """
    nodes = []
    for index, (forward, backward) in enumerate(dimensions(training)):
        order_u, order_r = _time_order(training, index, forward, backward)
        stream = generator.spawn(1)[0]
        points = normals(forward + backward, samples, stream, sampler)
        nodes.append(
            Nodes(
                np.ascontiguousarray(points[order_u]), np.ascontiguousarray(points[order_r]),
                np.full(samples, 1.0 / samples),
            )
        )  # fmt: skip
    return nodes


def _time_order(training: Training, index: int, forward: int, backward: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the Sobol dimensions of u and of r, interleaved in time."""
    per_u = training.points if forward > training.points else forward
    per_r = training.samples if backward > 1 else 1
    keys = [(row // per_u, 0, row) for row in range(forward)] + [(row // per_r, 1, row) for row in range(backward)]
    place = {key: i for i, key in enumerate(sorted(keys))}
    return (
        np.array([place[(row // per_u, 0, row)] for row in range(forward)]),
        np.array([place[(row // per_r, 1, row)] for row in range(backward)]),
    )
