"""Convex empirical risk minimisation on Gaussian mixtures: square, logistic and hinge losses by state evolution.

Source: Mignacco et al. 2020 (two clusters), Loureiro et al. 2021a (K clusters), Loureiro et al. 2021b (teacher).
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...problem import Problem, Simulation, Spec
from ..base import Theory
from .sections import ClusterLabels, FixedPointSolver, Index, RatioGrid, check_weights

if TYPE_CHECKING:
    from .mixture_erm_system import MixtureSystem
    from .multiclass import MulticlassSystem


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


class LinearStudent(Spec, frozen=True, kw_only=True, tag_field="kind", tag="linear"):
    """w.x + b, minimising (1/d) sum_i loss(y_i, w.x_i + b) + (ridge/2)|w|^2 (the bias is not penalised).

    ``square`` is (1/2)(y - u)^2, ``logistic`` log(1 + exp(-y u)), ``hinge`` max(0, 1 - y u). Multi-class, with one
    output
    and one row of w a cluster: ``cross-entropy`` is -log softmax(u)_c, ``one-hot`` (1/2)|e_c - u|^2.
    """

    loss: Literal["square", "logistic", "hinge", "cross-entropy", "one-hot"] = "logistic"
    ridge: float
    bias: bool = True

    def __post_init__(self) -> None:
        if not (self.ridge > 0 and math.isfinite(self.ridge)):
            raise ValueError(f"ridge must be positive and finite, got {self.ridge}")


MULTICLASS = ("cross-entropy", "one-hot")


class MixtureERM(Problem, frozen=True, kw_only=True):
    """Samples = sample_ratio * d from a Gaussian mixture, a linear student, a convex loss.

    With ``target.kind = "single-index"`` the label is link(xi . x), |xi| = 1 (or the given coordinates); logistic and
    hinge losses then need a link with values -1 and +1.
    """

    data: MixtureInputs
    student: LinearStudent
    target: ClusterLabels | Index = ClusterLabels()
    grid: RatioGrid
    solver: FixedPointSolver = FixedPointSolver()
    simulation: Simulation = Simulation()

    def __post_init__(self) -> None:
        if self.student.loss in MULTICLASS:
            if not isinstance(self.target, ClusterLabels) or self.target.labels:
                raise ValueError(f"the {self.student.loss} loss labels each cluster by its own class: drop the target")
            if len(self.data.weights) < 2:
                raise ValueError(f"the {self.student.loss} loss needs at least two clusters")
            if self.data.spectrum or self.data.spikes:
                raise ValueError(
                    f"the {self.student.loss} loss is solved for scalar covariances: drop spectrum and spikes"
                )
            return
        if isinstance(self.target, ClusterLabels):
            labels = self.target.values(len(self.data.weights))
            if self.student.loss != "square" and any(abs(y) != 1 for y in labels):
                raise ValueError(f"the {self.student.loss} loss needs labels -1 and +1, got {list(labels)}")
            present = {y for y, w in zip(labels, self.data.weights, strict=True) if w > 0}
            if self.student.bias and len(present) < 2:
                raise ValueError(
                    "all clusters of positive weight have the same label: the bias alone fits it, unpenalised; "
                    "give the other label some weight, or set student.bias = false"
                )
            return
        width = len(self.data.coordinates()[0])
        if isinstance(self.target.direction, tuple) and len(self.target.direction) > max(width, 1):
            raise ValueError(f"target.direction has {len(self.target.direction)} coordinates, the frame has {width}")
        if self.target.direction == "aligned" and width == 0:
            raise ValueError('target.direction = "aligned" needs means or spikes to be aligned with')
        if self.student.loss != "square":
            if self.target.noise:
                raise ValueError(
                    f"additive label noise has no meaning with the {self.student.loss} loss: use noise = 0"
                )
            if binary_link(self.target) is None:
                raise ValueError(
                    f'the {self.student.loss} loss needs labels -1 and +1, such as link = "sign(z)"; got '
                    f"{self.target.link!r}"
                )


def binary_link(target: Index) -> tuple[float, tuple[float, ...]] | None:
    """Return the label below the first threshold and the thresholds, or None when the link is not two-valued."""
    link = target.expression
    cuts = link.kinks("z") if link.variables else ()
    if not cuts:
        return None
    edges = [cuts[0] - 1.0, *cuts, cuts[-1] + 1.0]
    probes = [a + (b - a) * f for a, b in itertools.pairwise(edges) for f in (0.31, 0.77)]
    values = [float(link.evaluate(np, z=np.asarray(z))) for z in probes]
    pairs = list(zip(values[::2], values[1::2], strict=True))
    if any(a != b or abs(a) != 1 for a, b in pairs):
        return None
    signs = [a for a, _ in pairs]
    kept = tuple(c for c, a, b in zip(cuts, signs, signs[1:], strict=False) if a != b)
    return signs[0], kept


class MixtureERMTheory(Theory):
    name = "mixture-erm"
    title = "Convex losses on Gaussian mixtures"
    summary = (
        "State evolution of square, logistic and hinge losses with ridge on Gaussian mixtures, also with a teacher."
    )
    problem_type = MixtureERM
    references = ("mignacco2020role", "loureiro2021mixtures", "loureiro2021curves")
    assumptions = (
        "d and the samples go to infinity with a fixed ratio; the number of clusters, means and spikes is finite",
        "cluster covariances are diagonal in one basis: shares of the dimensions, and finitely many frame directions",
        "the penalty is positive, so that the minimiser exists and is unique",
    )
    limits = (
        "sample_ratio to 0: V = tr(Sigma)/(d ridge), q = 0",
        "square loss, one cluster: ridge regression's deterministic equivalent",
        "ridge to 0: diverges below the separability threshold for the logistic loss",
    )

    def derive(self, problem: MixtureERM) -> MixtureSystem | MulticlassSystem:
        system: MixtureSystem | MulticlassSystem
        if problem.student.loss in MULTICLASS:
            from .multiclass import MulticlassSystem

            system = MulticlassSystem(problem)
        else:
            from .mixture_erm_system import MixtureSystem

            system = MixtureSystem(problem)
        system.references, system.assumptions = self.references, self.assumptions
        return system


THEORY = MixtureERMTheory()
