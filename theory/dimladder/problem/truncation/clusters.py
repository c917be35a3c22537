"""Labelled clusters: means, fluctuations, the weighted cost, and the generator of balls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ...errors import DomainError
from .networks import Array


@dataclass(frozen=True)
class ClusteredData:
    """Labelled points, one array a class.

    Parameters
    ----------
    points : tuple of (M, N_j) arrays
        Inputs, one column a point.
    labels : (Q, Q) array
        Column j is the label vector of class j.

    Raises
    ------
    DomainError
        If shapes disagree, a class is empty, or a number is not finite.
    """

    points: tuple[Array, ...]
    labels: Array

    def __post_init__(self) -> None:
        classes = len(self.points)
        if classes < 2:
            raise DomainError("clustered data need at least two classes", why=f"got {classes}")
        if self.labels.shape != (classes, classes):
            raise DomainError(
                "the labels must form a square matrix, one column a class",
                why=f"{classes} classes but labels of shape {self.labels.shape}",
            )
        dimension = self.points[0].shape[0]
        for j, x in enumerate(self.points):
            if x.ndim != 2 or x.shape[0] != dimension or x.shape[1] == 0:
                raise DomainError(
                    "each class needs a non-empty (dimension, count) array of points",
                    where=f"class {j}",
                    why=f"shape {x.shape}, expected ({dimension}, N_j)",
                )
            if not np.all(np.isfinite(x)):
                raise DomainError("points must be finite", where=f"class {j}")

    @property
    def classes(self) -> int:
        """Number Q of classes."""
        return len(self.points)

    @property
    def dimension(self) -> int:
        """Input dimension M."""
        return int(self.points[0].shape[0])

    @property
    def counts(self) -> tuple[int, ...]:
        """Points per class."""
        return tuple(x.shape[1] for x in self.points)

    @cached_property
    def means(self) -> Array:
        """(M, Q) class means, the matrix the papers call the reduced data."""
        return np.stack([x.mean(axis=1) for x in self.points], axis=1)

    @cached_property
    def fluctuations(self) -> tuple[Array, ...]:
        """Points minus their class mean."""
        return tuple(x - x.mean(axis=1, keepdims=True) for x in self.points)

    @cached_property
    def covariances(self) -> tuple[Array, ...]:
        """(M, M) covariance of each class, normalised by N_j."""
        return tuple(d @ d.T / d.shape[1] for d in self.fluctuations)

    @cached_property
    def barycentre(self) -> Array:
        """Mean of the class means (not of the data, unless the counts are equal)."""
        return self.means.mean(axis=1)

    @cached_property
    def radii(self) -> Array:
        """(Q,) largest distance of a point of each class from its class mean."""
        return np.array([np.linalg.norm(d, axis=0).max() for d in self.fluctuations])

    @property
    def radius(self) -> float:
        """delta: the largest of `radii`."""
        return float(self.radii.max())

    @cached_property
    def inputs(self) -> Array:
        """(M, N) all points, class after class."""
        return np.concatenate(self.points, axis=1)

    @cached_property
    def classes_of_points(self) -> npt.NDArray[np.int64]:
        """(N,) class of each column of `inputs`."""
        return np.repeat(np.arange(self.classes), self.counts)

    @cached_property
    def weights(self) -> Array:
        """(N,) weights 1/N_j of the cost."""
        return 1.0 / np.array(self.counts, dtype=float)[self.classes_of_points]

    @cached_property
    def outputs(self) -> Array:
        """(Q, N) label of each point."""
        return self.labels[:, self.classes_of_points]

    def cost(self, predictions: Array) -> float:
        """C_N = sqrt( sum_j (1/N_j) sum_i |prediction_ji - y_j|^2 )."""
        return math.sqrt(float(np.sum(self.weights * np.sum((predictions - self.outputs) ** 2, axis=0))))


def ball_clusters(
    classes: int,
    counts: Sequence[int],
    separation: float,
    mean_jitter: float,
    radius: float,
    seed: int,
    label_jitter: float = 0.3,
    dimension: int = 0,
    elongation: float = 1.0,
) -> ClusteredData:
    """Draw Q clusters, points uniform in balls of R^M, the same for the same arguments on every machine.

    M is `dimension`, or Q where that is 0.

    Class j has mean ``separation e_j + mean_jitter xi_j`` (exactly: the points are re-centred) and label
    ``e_j + label_jitter xi'_j``, with xi, xi' standard Gaussian. Order of draws from
    ``numpy.random.default_rng(seed)``: the (M, Q) matrix of xi (column j for class j); for each class an (M, N_j)
    Gaussian matrix of directions, then N_j uniforms for the radial part ``radius U^(1/M)``; the (Q, Q) matrix of xi';
    last, where balls are stretched, an (M, Q) Gaussian matrix whose columns point along the long axes.
    """
    rng = np.random.default_rng(seed)
    m = dimension or classes
    means = separation * np.eye(m)[:, :classes] + mean_jitter * rng.standard_normal((m, classes))
    fluctuations = []
    for count in counts:
        direction = rng.standard_normal((m, count))
        direction /= np.linalg.norm(direction, axis=0)
        offsets = radius * direction * rng.random(count) ** (1.0 / m)
        fluctuations.append(offsets - offsets.mean(axis=1, keepdims=True))
    labels = np.eye(classes) + label_jitter * rng.standard_normal((classes, classes))
    if elongation != 1.0:
        axes = rng.standard_normal((m, classes))
        axes /= np.linalg.norm(axes, axis=0)
        fluctuations = [
            x + (elongation - 1.0) * np.outer(axis, axis @ x) for axis, x in zip(axes.T, fluctuations, strict=True)
        ]
    points = [mean[:, None] + x for mean, x in zip(means.T, fluctuations, strict=True)]
    return ClusteredData(tuple(points), labels)


def pseudo_inverse(data: ClusteredData) -> Array:
    """Pen = (X^T X)^{-1} X^T, (Q, M)."""
    if data.dimension < data.classes:
        raise DomainError(
            "the shallow construction needs at least as many dimensions as classes",
            why=f"dimension {data.dimension}, classes {data.classes}",
        )
    smallest, largest = np.linalg.svd(data.means, compute_uv=False)[[-1, 0]]
    if smallest <= 1e-12 * largest:
        raise DomainError("the class means are linearly dependent", why=f"smallest singular value {smallest:.3g}")
    return np.asarray(np.linalg.pinv(data.means), dtype=float)


def project(data: ClusteredData) -> ClusteredData:
    """Orthonormal coordinates on the span of the class means: clustered data in Q dimensions, for the deep
    construction.
    """
    pseudo_inverse(data)
    basis = np.linalg.qr(data.means)[0]
    return ClusteredData(tuple(basis.T @ x for x in data.points), data.labels)
