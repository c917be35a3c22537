"""The finite-n objects of the giant-step theory: clusters, target, two-layer network, and its one gradient step.

Everything here is a sample or a matrix at one size; theory and experiment share it, so that both see the same network.
Directions are rows in an orthonormal frame; with an isotropic bulk the frame is the first axes, which loses nothing
because the bulk and the initial weights are rotation invariant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...problem import activation
from .sections import ClusterLabels

if TYPE_CHECKING:
    from .giant_step import GiantStep

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Clusters:
    """x | c ~ N(mean_c, diag(bulk_c) + sum_j theta_cj gamma_cj gamma_cj^T), and a target direction xi.

    Attributes
    ----------
    weights : ndarray, shape (K,)
    means : ndarray, shape (K, n)
    bulk : ndarray, shape (K, n)
    spikes : tuple of (ndarray (s_c,), ndarray (s_c, n))
        Strengths theta and unit directions of each cluster.
    target : ndarray, shape (n,), or None
        xi, of length ||Sigma||_2^{-1/2} with Sigma the average covariance.
    """

    weights: Array
    means: Array
    bulk: Array
    spikes: tuple[tuple[Array, Array], ...]
    target: Array | None

    @property
    def n(self) -> int:
        return int(self.bulk.shape[1])

    @cached_property
    def trace(self) -> float:
        """tr Sigma of the average covariance."""
        spikes = [float(np.sum(strength)) for strength, _ in self.spikes]
        return float(self.weights @ (self.bulk.sum(axis=1) + np.array(spikes)))

    def covariance_times(self, cluster: int, rows: Array) -> Array:
        """rows @ Sigma_c, in O(n) a row and spike."""
        strength, directions = self.spikes[cluster]
        out = rows * self.bulk[cluster]
        if strength.size:
            out = out + (rows @ directions.T * strength) @ directions
        return np.asarray(out)

    def sample(self, stream: np.random.Generator, count: int) -> tuple[Array, NDArray[np.int64]]:
        """Draw `count` points and their clusters; a longer draw from an equal stream is not an extension of a shorter
        one."""
        cluster = stream.choice(self.weights.size, size=count, p=self.weights)
        x = stream.standard_normal((count, self.n))
        widest = max(strength.size for strength, _ in self.spikes)
        extra = stream.standard_normal((count, widest)) if widest else np.zeros((count, 0))
        for c in range(self.weights.size):
            rows = cluster == c
            strength, directions = self.spikes[c]
            x[rows] *= np.sqrt(self.bulk[c])
            if strength.size:
                # Strengths may be negative (a dip of variance): then the direction is shrunk instead of boosted.
                for j, (theta, direction) in enumerate(zip(strength, directions, strict=True)):
                    if theta >= 0:
                        x[rows] += np.outer(math.sqrt(theta) * extra[rows, j], direction)
                    else:
                        inner = x[rows] @ direction
                        base = float(direction**2 @ self.bulk[c])
                        x[rows] += np.outer((math.sqrt(max(base + theta, 0.0) / base) - 1.0) * inner, direction)
            x[rows] += self.means[c]
        return x, cluster

    def field(self, cluster: int, direction: Array) -> tuple[float, float]:
        """Mean and variance of direction.x under a cluster."""
        return float(direction @ self.means[cluster]), float(
            self.covariance_times(cluster, direction[None, :])[0] @ direction
        )


def clusters(problem: GiantStep, n: int) -> Clusters:
    """Build the clusters of a problem at input dimension n."""
    from .giant_step import ImageMixture

    data, scale = problem.data, problem.spike_strength(n)
    if isinstance(data, ImageMixture):
        from .images import image_clusters

        return image_clusters(data, scale, n)
    weights = np.array(data.weights)
    coordinates, strengths = data.spike_frame()
    mean_rows = data.mean_rows()
    width = max([row.size for rows in coordinates for row in rows] + [len(mean_rows[0]) if mean_rows else 0])
    random_target = not isinstance(problem.target, ClusterLabels) and problem.target.direction == "random"
    frame_size = width + int(random_target)
    if frame_size > n:
        raise ValueError(f"limit.n = {n} is smaller than the {frame_size} distinguished directions")
    bulk = data.bulk(n)
    frame = np.eye(frame_size, n)
    if data.spectrum:
        generator = np.random.default_rng(0)
        frame = np.linalg.qr(generator.standard_normal((n, frame_size)))[0].T

    def place(row: Any) -> Array:
        row = np.asarray(row, dtype=float)
        return row @ frame[: row.size]

    spikes = tuple(
        (scale * np.array(s), np.array([place(r) for r in rows]).reshape(len(rows), n))
        for s, rows in zip(strengths, coordinates, strict=True)
    )
    means = np.array([place(row) for row in mean_rows]) if mean_rows else np.zeros((weights.size, n))
    built = Clusters(weights, means, bulk, spikes, None)
    if isinstance(problem.target, ClusterLabels):
        return built
    if random_target:
        direction = frame[width]
    elif problem.target.direction == "aligned":
        direction = (
            np.sum([d for _, rows in spikes for d in rows], axis=0)
            if any(s.size for s, _ in spikes)
            else means.sum(axis=0)
        )
        if not np.linalg.norm(direction) > 1e-12:
            direction = means[0] - means[-1]
    else:
        direction = place(problem.target.direction)
    direction = direction / np.linalg.norm(direction) / math.sqrt(operator_norm(built))
    return Clusters(weights, means, bulk, spikes, direction)


def operator_norm(data: Clusters) -> float:
    """||Sigma||_2 of the average covariance (means not included)."""
    average = data.weights @ data.bulk
    rows = [
        d * math.sqrt(w * s)
        for w, (strength, dirs) in zip(data.weights, data.spikes, strict=True)
        for s, d in zip(strength, dirs, strict=True)
        if s > 0
    ]
    if not rows:
        return float(average.max())
    u = np.array(rows)
    if np.ptp(average) == 0:
        return float(average[0] + np.linalg.eigvalsh(u @ u.T).max())
    return float(np.linalg.eigvalsh(np.diag(average) + u.T @ u).max())


def labels(
    problem: GiantStep, data: Clusters, x: Array, cluster: NDArray[np.int64], stream: np.random.Generator
) -> Array:
    """Labels of a sample."""
    target = problem.target
    if isinstance(target, ClusterLabels):
        return np.array(target.values(data.weights.size))[cluster]
    assert data.target is not None
    y = np.broadcast_to(target.expression.evaluate(np, z=x @ data.target), cluster.shape).astype(float)
    return y + target.noise * stream.standard_normal(cluster.size) if target.noise else y


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


def gradient_step(problem: GiantStep, first: Array, second: Array, x: Array, y: Array) -> Network:
    """One step on the first layer with squared loss mean(.)^2/2 over the batch and learning rate eta (Demir & Dogan
    2025)."""
    width, samples = first.shape[0], y.size
    sigma = activation(problem.student.activation)
    eta = problem.learning_rate(x.shape[1])
    fields = x @ first.T
    values = np.broadcast_to(sigma.evaluate(np, x=fields), fields.shape)
    residual = y - values @ second / math.sqrt(width)
    slope = sigma.derivative("x")(x=fields) if sigma.variables else np.zeros_like(fields)
    gradient = ((slope * residual[:, None]) * (second / math.sqrt(width))).T @ x / samples
    spike = x.T @ y / (samples * math.sqrt(width))
    return Network(first, second, first + eta * gradient, spike)
