"""One large gradient step on the first layer of a two-layer network, at one size: what theory and experiment draw.

The theory's equivalents hold for a given stepped first layer, so both sides look at the same one: n input dimensions,
k = width_ratio n neurons, a fresh batch for the step, m = sample_ratio n samples for the readout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .activations import activation
from .algorithms import OneStep
from .clusters import Clusters, labels
from .images import clusters
from .spec import Problem

Array = NDArray[np.float64]
# Degrees above this are numerically harmful at accessible sizes (He_5 of large fields explodes); Demir & Dogan's cap.
MAX_DEGREE = 4
# Values of [limit] that are not given.
DIMENSION, DRAWS = 400, 8


def dimension(problem: Problem) -> int:
    """Return n of the theory."""
    return int(problem.limit.n or DIMENSION)


def spike_strength(algorithm: OneStep, n: int) -> float:
    """Return theta = n^((1 - split) total)."""
    return float(n ** ((1.0 - algorithm.split) * algorithm.total))


def learning_rate(algorithm: OneStep, n: int) -> float:
    """Return eta = rate_factor n^(split total)."""
    return float(algorithm.rate_factor * n ** (algorithm.split * algorithm.total))


def width(problem: Problem, n: int) -> int:
    """Return the number k of neurons."""
    return max(1, round(problem.student.layers[0].width_ratio * n))


def samples(problem: Problem, n: int) -> list[int]:
    """Return the samples of the readout at each ratio."""
    return [max(1, round(a * n)) for a in problem.grid.values("sample_ratio")]


def batch_sizes(problem: Problem, n: int) -> list[int]:
    """Return the batch of the step at each ratio."""
    fixed = problem.algorithm.batch_ratio
    return samples(problem, n) if fixed is None else [max(1, round(fixed * n))] * len(samples(problem, n))


def readout_ridge(problem: Problem, count: int, n: int) -> float:
    """Return the ridge of (1/m) sum of losses + (ridge/2)|w|^2 for m = `count` samples."""
    if problem.loss.ridge is not None:
        return float(problem.loss.ridge) / count
    k = width(problem, n)
    return float(problem.loss.per_sample(k) / k)


def sufficient_degree(total: float, cap: int = MAX_DEGREE) -> int:
    """Degree of the published rule, l = ceil(beta/(1 - beta)) and at least 1, capped.

    (l - 1)/l < beta <= l/(l + 1); the edge belongs to the smaller degree.
    """
    edge = 1e-9
    if total >= 1.0 - edge:
        return cap
    return min(cap, max(1, math.ceil(total / (1.0 - total) - edge)))


def polynomial_degree(algorithm: OneStep) -> int:
    """Return the degree of the polynomial model: the one asked for, or that of the published rule."""
    return sufficient_degree(algorithm.total) if algorithm.hermite_degree is None else algorithm.hermite_degree


def mixture(problem: Problem, n: int) -> Clusters:
    """Return the clusters in n dimensions, spikes at their strength."""
    return clusters(problem, n, spike_strength(problem.algorithm, n))


@dataclass(frozen=True)
class Draw:
    """One first layer, its output weights, and the batch of the step, long enough for every sample ratio."""

    first: Array
    second: Array
    batch: Array
    batch_labels: Array


def draw(problem: Problem, data: Clusters, stream: np.random.Generator) -> Draw:
    """Draw one first layer and the longest batch."""
    first, second = initial_network(data, width(problem, data.n), stream)
    x, cluster = data.sample(stream, max(batch_sizes(problem, data.n)))
    return Draw(first, second, x, labels(problem, data, x, cluster, stream))


def step(problem: Problem, drawn: Draw, batch: int) -> Network:
    """Take the step on the first `batch` points of the draw's batch."""
    return gradient_step(problem, drawn.first, drawn.second, drawn.batch[:batch], drawn.batch_labels[:batch])


@dataclass(frozen=True)
class Network:
    """First layer before and after the step.

    Attributes
    ----------
    first : ndarray, shape (k, n)
        F, rows N(0, I/tr Sigma).
    second : ndarray, shape (k,)
        w, N(0, I/k).
    stepped : ndarray, shape (k, n)
        F + eta G.
    spike : ndarray, shape (n,)
        v = X~^T y~/(m sqrt k): G = abar w v^T + remainder.
    """

    first: Array
    second: Array
    stepped: Array
    spike: Array


def initial_network(data: Clusters, width: int, stream: np.random.Generator) -> tuple[Array, Array]:
    """F with rows N(0, I/tr Sigma), w ~ N(0, I/k)."""
    first = stream.standard_normal((width, data.n)) / math.sqrt(data.trace)
    return first, stream.standard_normal(width) / math.sqrt(width)


def gradient_step(problem: Problem, first: Array, second: Array, x: Array, y: Array) -> Network:
    """One step on the first layer with squared loss mean(.)^2/2 over the batch and learning rate eta (Demir & Dogan
    2025)."""
    width, samples = first.shape[0], y.size
    sigma = activation(problem.student.layers[0].activation)
    eta = learning_rate(problem.algorithm, x.shape[1])
    fields = x @ first.T
    values = np.broadcast_to(sigma.evaluate(np, x=fields), fields.shape)
    residual = y - values @ second / math.sqrt(width)
    slope = sigma.derivative("x")(x=fields) if sigma.variables else np.zeros_like(fields)
    gradient = ((slope * residual[:, None]) * (second / math.sqrt(width))).T @ x / samples
    spike = x.T @ y / (samples * math.sqrt(width))
    return Network(first, second, first + eta * gradient, spike)
