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
