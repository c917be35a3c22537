"""A Gaussian mixture as numbers: clusters in an orthonormal frame, and a teacher among their directions.

Read by the estimation engine and by its experiment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .data import Mixture
from .spec import Problem
from .targets import ClusterLabels, Index


def cluster_targets(problem: Problem) -> tuple[float | Index, ...]:
    """Return what labels the points of each cluster: a number, or a formula in the field z = w*.x."""
    clusters = len(problem.data.weights)
    if isinstance(problem.target, Index):
        return (problem.target,) * clusters
    return (problem.target or ClusterLabels()).laws(clusters)


@dataclass(frozen=True)
class MixtureGeometry:
    """Clusters and teacher in a frame of orthonormal directions.

    Attributes
    ----------
    coordinates : list of rows
        Means, clusters x directions.
    spikes : list of rows
        Extra variances along the directions, clusters x directions.
    teacher : list of float
        Coordinates of w*; empty where no label depends on it.
    kinds : tuple of int
        Which of the distinct covariances a cluster has.
    eigen, kind_spikes
        Bulk eigenvalues (a row a kind) and extra variances of the distinct covariances.
    shares : tuple of float
        Shares of the dimensions held by the blocks of the bulk.
    """

    coordinates: list[list[float]]
    spikes: list[list[float]]
    teacher: list[float]
    kinds: tuple[int, ...]
    eigen: list[tuple[float, ...]]
    kind_spikes: list[tuple[float, ...]]
    shares: tuple[float, ...]

    @property
    def spiked(self) -> bool:
        """Whether any direction has a variance of its own."""
        return any(any(row) for row in self.spikes)

    def teacher_field(self, cluster: int) -> tuple[float, float]:
        """Mean and variance of nu = xi.x under a cluster."""
        k, t = self.kinds[cluster], np.array(self.teacher)
        mean = float(np.dot(t, self.coordinates[cluster]))
        if self.spiked:
            return mean, float(np.sum(t**2 * (self.eigen[k][0] + np.array(self.kind_spikes[k]))))
        return mean, float(np.sum(t**2) * np.dot(self.shares, self.eigen[k]))


def mixture_geometry(problem: Problem) -> MixtureGeometry:
    """Return the clusters of a problem and its teacher, a unit vector (or the given coordinates)."""
    data: Mixture = problem.data
    target = problem.target
    coordinates = [list(row) for row in data.coordinates()]
    width = len(coordinates[0])
    spikes = [list(row) + [0.0] * (width - len(row)) for row in data.spikes or ((),) * len(data.weights)]
    teacher: list[float] = []
    if any(isinstance(label, Index) and label.fields for label in cluster_targets(problem)):
        if target.direction == "random":
            for row in (*coordinates, *spikes):
                row.append(0.0)
            teacher = [0.0] * width + [1.0]
        elif target.direction == "aligned":
            frame = spikes if data.spikes else coordinates
            total = np.array([float(any(row[j] for row in frame)) for j in range(width)])
            teacher = list(total / np.linalg.norm(total))
        else:
            teacher = [*target.direction, *[0.0] * (width - len(target.direction))]
    eigen = data.eigenvalues()
    signatures = [(row, tuple(spikes[c])) for c, row in enumerate(eigen)]
    distinct = list(dict.fromkeys(signatures))
    return MixtureGeometry(
        coordinates, spikes, teacher, tuple(distinct.index(s) for s in signatures), [s[0] for s in distinct],
        [s[1] for s in distinct], data.shares,
    )  # fmt: skip
