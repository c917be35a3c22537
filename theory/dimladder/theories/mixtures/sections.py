"""Sections shared by the mixture theories: data, targets, solver."""

from __future__ import annotations

import math
from typing import Literal

from ...problem import Axis, Expression, Spec, axis_values
from ...problem.expressions import HermiteConvention
from ...problem.targets import check_noise


class RatioGrid(Spec, frozen=True, kw_only=True):
    """Sample ratios, samples / input dimension, at which the curve is asked for (any order)."""

    sample_ratio: Axis

    def __post_init__(self) -> None:
        ratios = axis_values(self.sample_ratio)
        if not ratios:
            raise ValueError("sample_ratio must not be empty")
        if any(not (math.isfinite(a) and a > 0) for a in ratios):
            raise ValueError("every sample_ratio must be positive and finite")


class FixedPointSolver(Spec, frozen=True, kw_only=True):
    """Settings of the fixed-point iteration.

    Attributes
    ----------
    rtol : float
        Relative residual of the equations and relative size of the last Newton step.
    damping : float
        Share of the new value in the iteration that precedes Newton's method, in (0, 1].
    memory : int
        Depth of the Anderson acceleration; 0 is plain damped iteration.
    newton_steps : int
        Most Newton steps at a time; 0 switches the polish off.
    max_iterations : int
    """

    rtol: float = 1e-10
    damping: float = 0.5
    memory: int = 4
    newton_steps: int = 25
    max_iterations: int = 3000

    def __post_init__(self) -> None:
        if not 1e-14 <= self.rtol < 1e-2:
            raise ValueError(f"rtol must lie in [1e-14, 1e-2), got {self.rtol}")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping is the share of the new value: it must lie in (0, 1], got {self.damping}")
        if self.memory < 0 or self.newton_steps < 0 or self.max_iterations < 1:
            raise ValueError("memory and newton_steps must not be negative, max_iterations must be positive")


class ClusterLabels(Spec, frozen=True, kw_only=True, tag_field="kind", tag="cluster-labels"):
    """The label of a point is that of its cluster.

    Attributes
    ----------
    labels : tuple of float
        One label a cluster; empty: +1, -1 for two clusters (the first cluster is y = +1).
    """

    labels: tuple[float, ...] = ()

    def values(self, clusters: int) -> tuple[float, ...]:
        """Labels of the clusters.

        Raises
        ------
        ValueError
            When they are not given for other than two clusters, or their number is wrong.
        """
        if not self.labels:
            if clusters != 2:
                raise ValueError(f"give target.labels, one for each of the {clusters} clusters")
            return (1.0, -1.0)
        if len(self.labels) != clusters:
            raise ValueError(f"target.labels has {len(self.labels)} entries for {clusters} clusters")
        return self.labels


class Index(Spec, frozen=True, kw_only=True, tag_field="kind", tag="single-index"):
    """y = link(xi . x) + noise, one direction xi of the input space.

    Attributes
    ----------
    link : str
        Formula in ``z``.
    noise : float
        Standard deviation of additive noise.
    direction : "aligned", "random" or tuple of float
        ``"aligned"``: the sum of the distinguished directions of the data (spikes; means where there are none);
        ``"random"``: orthogonal to all of them; or coordinates in their frame. Normalisation: see the theory.
    """

    link: str
    noise: float = 0.0
    direction: Literal["aligned", "random"] | tuple[float, ...] = "random"
    hermite: HermiteConvention = "probabilists"

    def __post_init__(self) -> None:
        check_noise(self.noise)
        Expression(self.link, ("z",), self.hermite)
        if isinstance(self.direction, tuple) and not any(self.direction):
            raise ValueError("direction must not be the zero vector")

    @property
    def expression(self) -> Expression:
        """The link as a formula in ``z``."""
        return Expression(self.link, ("z",), self.hermite)


def check_weights(weights: tuple[float, ...]) -> None:
    """Raise `ValueError` unless the weights are probabilities."""
    if not weights:
        raise ValueError("weights must list one probability a cluster")
    if any(not (0 <= w <= 1) for w in weights):
        raise ValueError(f"weights must lie in [0, 1], got {list(weights)}")
    if abs(sum(weights) - 1.0) > 1e-9:
        raise ValueError(f"weights must sum to 1, got {list(weights)} (sum {sum(weights):g})")


class MixtureInputs(Spec, frozen=True, kw_only=True, tag_field="kind", tag="gaussian-mixture"):
    """x | cluster c ~ N(mu_c, Sigma_c) in dimension d; overlaps of order one: |mu_c| = O(1), Sigma_c = O(1).

    Attributes
    ----------
    weights : tuple of float
        Probabilities of the clusters.
    means : "opposite", "zero" or tuple of tuple of float
        ``"opposite"``: +mu and -mu, |mu| = 1 (two clusters); or coordinates of each mean in a frame of orthonormal
        directions e_1, e_2, ...
    covariance : float, or one for each cluster, or (with `spectrum`) one for each bulk group, or clusters x groups
        Eigenvalues of the bulk.
    spectrum : tuple of float
        Shares of the dimensions held by each bulk group; empty: one group.
    spikes : tuple of tuple of float
        For each cluster, the extra variance along e_1, e_2, ... (one bulk group only).
    """

    weights: tuple[float, ...] = (0.5, 0.5)
    means: Literal["opposite", "zero"] | tuple[tuple[float, ...], ...] = "opposite"
    covariance: float | tuple[float | tuple[float, ...], ...] = 1.0
    spectrum: tuple[float, ...] = ()
    spikes: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        check_weights(self.weights)
        clusters = len(self.weights)
        if self.means == "opposite" and clusters != 2:
            raise ValueError(f'means = "opposite" is for two clusters, there are {clusters}: give their coordinates')
        if isinstance(self.means, tuple):
            if len(self.means) != clusters:
                raise ValueError(f"means has {len(self.means)} rows for {clusters} clusters")
            if len({len(row) for row in self.means}) != 1:
                raise ValueError("every row of means must have the same number of coordinates")
        if self.spectrum:
            if any(f <= 0 for f in self.spectrum) or abs(sum(self.spectrum) - 1) > 1e-9:
                raise ValueError(
                    f"spectrum lists positive shares of the dimensions that sum to 1, got {list(self.spectrum)}"
                )
            if self.spikes:
                raise ValueError("spikes need a bulk of one group: drop spectrum or spikes")
        if self.spikes and len(self.spikes) != clusters:
            raise ValueError(f"spikes has {len(self.spikes)} rows for {clusters} clusters")
        if len({len(row) for row in self.spikes}) > 1:
            raise ValueError("every row of spikes must have the same number of directions (use 0 where there is none)")
        table = self.eigenvalues()
        if any(not (e > 0 and math.isfinite(e)) for row in table for e in row):
            raise ValueError(f"covariance eigenvalues must be positive and finite, got {self.covariance}")
        if any(table[c][0] + s < 0 for c, row in enumerate(self.spikes) for s in row):
            raise ValueError("a spike may not make a variance negative")

    def eigenvalues(self) -> tuple[tuple[float, ...], ...]:
        """Bulk eigenvalues, clusters x groups."""
        clusters, groups = len(self.weights), max(len(self.spectrum), 1)
        value = self.covariance
        if not isinstance(value, tuple):
            return ((float(value),) * groups,) * clusters
        nested = [isinstance(v, tuple) for v in value]
        if all(nested):
            rows = tuple(tuple(float(e) for e in row) for row in value)  # type: ignore[union-attr]
            if len(rows) != clusters or any(len(row) != groups for row in rows):
                raise ValueError(f"covariance must be {clusters} rows of {groups}: clusters x groups of spectrum")
            return rows
        if any(nested):
            raise ValueError("covariance mixes numbers and lists")
        flat = tuple(float(v) for v in value)  # type: ignore[arg-type]
        if self.spectrum:
            if len(flat) != groups:
                raise ValueError(f"covariance has {len(flat)} entries for the {groups} groups of spectrum")
            return (flat,) * clusters
        if len(flat) != clusters:
            raise ValueError(f"covariance has {len(flat)} entries for {clusters} clusters")
        return tuple((v,) for v in flat)

    def coordinates(self) -> tuple[tuple[float, ...], ...]:
        """Means in the frame, clusters x directions, padded to the directions of the spikes."""
        if self.means == "opposite":
            rows: tuple[tuple[float, ...], ...] = ((1.0,), (-1.0,))
        elif self.means == "zero":
            rows = ((),) * len(self.weights)
        else:
            assert isinstance(self.means, tuple)
            rows = self.means
        width = max(len(rows[0]), len(self.spikes[0]) if self.spikes else 0)
        return tuple(tuple(row) + (0.0,) * (width - len(row)) for row in rows)
