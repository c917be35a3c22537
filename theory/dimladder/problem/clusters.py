"""A mixture at one size: clusters with their means, bulks and spikes, points and labels drawn from them.

Theories and experiments read it. Directions are rows in an orthonormal frame; with an isotropic bulk the frame is the
first axes, which loses nothing where everything else is rotation invariant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import Mixture
from .spec import Problem
from .targets import ClusterLabels

Array = NDArray[np.float64]


def bulk(data: Mixture, n: int) -> Array:
    """Return the bulk variances in n dimensions, clusters x n; the blocks hold their shares of them, rounded."""
    edges = np.round(np.cumsum([0.0, *data.shares]) * n).astype(int)
    return np.array(data.eigenvalues())[:, np.repeat(np.arange(edges.size - 1), np.diff(edges))]


def spike_frame(data: Mixture) -> tuple[list[list[Array]], list[list[float]]]:
    """Return the coordinates of every spike in an orthonormal frame, and relative strengths, cluster by cluster."""
    rows: tuple[tuple[float, ...], ...] = data.spikes or ((),) * len(data.weights)
    widest = max(len(row) for row in rows)
    coordinates: list[list[Array]] = []
    new = widest
    for c, row in enumerate(rows):
        own = []
        for j in range(len(row)):
            vector = np.zeros(len(rows) * max(widest, 1))
            vector[j] = 1.0 if data.shared_spikes or c == 0 else data.alignment
            if abs(vector[j]) != 1.0:
                vector[new] = math.sqrt(1.0 - data.alignment**2)
                new += 1
            own.append(vector)
        coordinates.append(own)
    used = max([j + 1 for own in coordinates for v in own for j in np.flatnonzero(v)], default=0)
    return [[v[:used] for v in own] for own in coordinates], [list(row) for row in rows]


def mean_rows(data: Mixture) -> list[tuple[float, ...]]:
    """Return the coordinates of the means, the directions of the spikes first, then new ones; empty when they vanish.

    ``"opposite"`` is +-1 along a direction of its own.
    """
    if data.means == "zero":
        return []
    if data.means == "opposite":
        coordinates, _ = spike_frame(data)
        own = max([v.size for rows in coordinates for v in rows], default=0)
        return [(0.0,) * own + (1.0,), (0.0,) * own + (-1.0,)]
    return list(data.means)


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

    @property
    def bulk_scale(self) -> float:
        """b = sqrt(n/tr Sigma): standard deviation of a first-layer field that no spike reaches."""
        return math.sqrt(self.n / self.trace)

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


def mixture_clusters(problem: Problem, n: int, strength: float = 1.0) -> Clusters:
    """Return the clusters of a Gaussian mixture in n dimensions; see `images.clusters` for any data.

    Parameters
    ----------
    strength : float
        What relative strengths of spikes are multiplied by.

    Raises
    ------
    ConfigError
        When n is smaller than the number of distinguished directions.
    """
    from ..errors import ConfigError

    data = problem.data
    weights = np.array(data.weights)
    coordinates, strengths = spike_frame(data)
    rows_of_means = mean_rows(data)
    width = max([v.size for rows in coordinates for v in rows] + [len(rows_of_means[0]) if rows_of_means else 0])
    random_target = not isinstance(problem.target, ClusterLabels) and problem.target.direction == "random"
    frame_size = width + int(random_target)
    if frame_size > n:
        raise ConfigError(f"n = {n} dimensions do not hold the {frame_size} distinguished directions", where="limit.n")
    variances = bulk(data, n)
    frame = np.eye(frame_size, n)
    if data.spectrum is not None:
        generator = np.random.default_rng(0)
        frame = np.linalg.qr(generator.standard_normal((n, frame_size)))[0].T

    def place(row: Any) -> Array:
        row = np.asarray(row, dtype=float)
        return row @ frame[: row.size]

    spikes = tuple(
        (strength * np.array(s), np.array([place(r) for r in rows]).reshape(len(rows), n))
        for s, rows in zip(strengths, coordinates, strict=True)
    )
    means = np.array([place(row) for row in rows_of_means]) if rows_of_means else np.zeros((weights.size, n))
    built = Clusters(weights, means, variances, spikes, None)
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
    return Clusters(weights, means, variances, spikes, direction)


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
    problem: Problem, data: Clusters, x: Array, cluster: NDArray[np.int64], stream: np.random.Generator
) -> Array:
    """Labels of a sample."""
    target = problem.target
    if isinstance(target, ClusterLabels):
        return np.array(target.values(data.weights.size))[cluster]
    assert data.target is not None
    y = np.broadcast_to(target.expression.evaluate(np, z=x @ data.target), cluster.shape).astype(float)
    return y + target.noise * stream.standard_normal(cluster.size) if target.noise else y
