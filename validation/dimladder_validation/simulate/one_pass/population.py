"""Averages over the fields of a one-pass problem, at given overlaps: its errors on fresh inputs."""

from __future__ import annotations

import numpy as np

from dimladder.numerics.jit import njit, types

from .gram_frame import MATRIX, VECTOR, square_root
from .gram_kernel import LOSS, MODEL, Function


@njit(
    types.void(MATRIX, MATRIX, MATRIX, types.boolean, VECTOR, MATRIX, VECTOR, VECTOR, MODEL, LOSS, VECTOR),
    cache=True,
    nogil=True,
)
def population_means(
    points: np.ndarray,
    added: np.ndarray,
    covariance: np.ndarray,
    losses: bool,
    mean: np.ndarray,
    v: np.ndarray,
    row: np.ndarray,
    label: np.ndarray,
    model: Function,
    value_of: Function,
    out: np.ndarray,
) -> None:
    """Averages over fields N(mean, covariance) of the M teachers, then the K students, over normal points (N, M + K).

    ``out``: mean of |target - output|^2/2, of [output target < 0] (of several outputs: of the largest being another
    than that of the target), and of the loss of labels with the noise ``added`` (N, Y) where `losses`.
    """
    k_count, outputs = v.shape[1], v.shape[0]
    count = covariance.shape[0]
    m_count = count - k_count
    root = np.empty((count, count))
    square_root(covariance, root)
    fields = np.empty(count)
    g, dg = np.empty(k_count), np.empty(k_count)
    target, output = np.empty(outputs), np.empty(outputs)
    squares, wrong, loss = 0.0, 0.0, 0.0
    for p in range(points.shape[0]):
        for i in range(count):
            total = mean[i]
            for j in range(i + 1):
                total += root[i, j] * points[p, j]
            fields[i] = total
        model(fields[m_count:], fields[:m_count], row, label, g, dg, target)
        largest, truth = 0, 0
        for o in range(outputs):
            output[o] = 0.0
            for i in range(k_count):
                output[o] += v[o, i] * g[i]
            squares += (target[o] - output[o]) ** 2
            if output[o] > output[largest]:
                largest = o
            if target[o] > target[truth]:
                truth = o
        if largest != truth or (outputs == 1 and target[0] * output[0] < 0.0):
            wrong += 1.0
        if losses:
            for o in range(outputs):
                target[o] += added[p, o]
            loss += value_of(output, target)
    out[0] = 0.5 * squares / points.shape[0]
    out[1] = wrong / points.shape[0]
    out[2] = loss / points.shape[0]
