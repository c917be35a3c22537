"""Two-layer networks after one giant gradient step on fresh Gaussian-mixture data.

Source: Demir & Dogan 2025 (setting, conditional Gaussian equivalence, Hermite model); the error curves are
deterministic
equivalents given the stepped first layer, averaged over draws of it (this library; see docs/theory/mixtures.md).
"""

from __future__ import annotations

import math
from typing import Any, Literal

from ...problem import Problem, Spec, activation
from ...problem.mixtures import binary_link
from ..base import Theory
from .random_features import InputSimulation
from .sections import ClusterLabels, Index, RatioGrid, check_weights


class SpikedMixture(Spec, frozen=True, kw_only=True, tag_field="kind", tag="gaussian-mixture"):
    """x | c ~ N(mean_c, bulk_c + theta sum_j s_cj gamma_cj gamma_cj^T), theta = n^((1 - split) total).

    Attributes
    ----------
    weights : tuple of float
    spikes : tuple of tuple of float
        Relative strengths s_cj, one row a cluster (empty: no spikes anywhere).
    shared_spikes : bool
        Whether spike j has the same direction in every cluster; otherwise all directions are orthonormal.
    alignment : float
        Overlap of spike j of every later cluster with spike j of the first (not with shared spikes).
    means : "zero", "opposite" or tuple of tuple of float
        Coordinates of the means in a frame of orthonormal directions: those of the spikes first, then new ones.
        ``"opposite"``: +-1 along a direction of its own.
    covariance : float, one for each cluster, or (with `spectrum`) one for each group, or clusters x groups
        Eigenvalues of the bulk.
    spectrum : tuple of float
        Shares of the dimensions held by each bulk group.
    """

    weights: tuple[float, ...] = (0.5, 0.5)
    spikes: tuple[tuple[float, ...], ...] = ()
    shared_spikes: bool = False
    alignment: float = 0.0
    means: Literal["zero", "opposite"] | tuple[tuple[float, ...], ...] = "zero"
    covariance: float | tuple[float | tuple[float, ...], ...] = 1.0
    spectrum: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_weights(self.weights)
        clusters = len(self.weights)
        if self.spikes and len(self.spikes) != clusters:
            raise ValueError(f"spikes has {len(self.spikes)} rows for {clusters} clusters")
        if any(not (math.isfinite(s) and s >= 0) for row in self.spikes for s in row):
            raise ValueError("relative spike strengths must be finite and not negative")
        if not -1 <= self.alignment <= 1:
            raise ValueError(f"alignment is a cosine: it must lie in [-1, 1], got {self.alignment}")
        if self.alignment and self.shared_spikes:
            raise ValueError("alignment has no meaning with shared_spikes = true: drop one of them")
        if isinstance(self.means, tuple):
            if len(self.means) != clusters:
                raise ValueError(f"means has {len(self.means)} rows for {clusters} clusters")
            if len({len(row) for row in self.means}) != 1:
                raise ValueError("every row of means must have the same number of coordinates")
        elif self.means == "opposite" and clusters != 2:
            raise ValueError(f'means = "opposite" is for two clusters, there are {clusters}')
        self._base().eigenvalues()

    def _base(self) -> Any:
        from .sections import MixtureInputs

        return MixtureInputs(weights=self.weights, means="zero", covariance=self.covariance, spectrum=self.spectrum)

    def eigenvalues(self) -> tuple[tuple[float, ...], ...]:
        """Bulk eigenvalues, clusters x groups."""
        rows: tuple[tuple[float, ...], ...] = self._base().eigenvalues()
        return rows

    def bulk(self, n: int) -> Any:
        """Bulk variances, clusters x n."""
        import numpy as np

        edges = np.round(np.cumsum([0.0, *(self.spectrum or (1.0,))]) * n).astype(int)
        group = np.repeat(np.arange(edges.size - 1), np.diff(edges))
        return np.array(self.eigenvalues())[:, group]

    def spike_frame(self) -> tuple[list[list[Any]], list[list[float]]]:
        """Coordinates of every spike in an orthonormal frame, and relative strengths, cluster by cluster."""
        import numpy as np

        rows: tuple[tuple[float, ...], ...] = self.spikes or ((),) * len(self.weights)
        widest = max(len(r) for r in rows)
        coordinates: list[list[Any]] = []
        next_new = widest
        for c, row in enumerate(rows):
            own = []
            for j in range(len(row)):
                vector = np.zeros(len(rows) * max(widest, 1))
                if self.shared_spikes or c == 0:
                    vector[j] = 1.0
                elif abs(self.alignment) == 1.0:
                    vector[j] = self.alignment
                else:
                    vector[j] = self.alignment
                    vector[next_new] = math.sqrt(1.0 - self.alignment**2)
                    next_new += 1
                own.append(vector)
            coordinates.append(own)
        used = max([j + 1 for own in coordinates for v in own for j in np.flatnonzero(v)], default=0)
        return [[v[:used] for v in own] for own in coordinates], [list(r) for r in rows]

    def mean_rows(self) -> list[tuple[float, ...]]:
        """Coordinates of the means in the frame of the spikes; empty when they vanish."""
        if self.means == "zero":
            return []
        if self.means == "opposite":
            coordinates, _ = self.spike_frame()
            own = max([v.size for rows in coordinates for v in rows], default=0)
            return [(0.0,) * own + (1.0,), (0.0,) * own + (-1.0,)]
        assert isinstance(self.means, tuple)
        return list(self.means)


class ImageMixture(Spec, frozen=True, kw_only=True, tag_field="kind", tag="images"):
    """Two or more classes of real images, each a cluster with its own covariance; see `images`.

    The theory replaces the images by Gaussians with the class means and covariances; the experiment uses the images.
    The
    network and its polynomial model agree on real images, a Gaussian mixture with the class covariances in general does
    not (docs/theory/mixtures.md): compare before trusting.

    Attributes
    ----------
    path : str
        Folder of IDX files; empty for the digits of scikit-learn (64 pixels).
    classes : tuple of int
    weights : tuple of float
    keep_means : bool
        Keep the class means (only the common mean is removed) instead of centring each class.
    """

    path: str = ""
    classes: tuple[int, ...] = (0, 1)
    weights: tuple[float, ...] = (0.5, 0.5)
    keep_means: bool = False

    def __post_init__(self) -> None:
        check_weights(self.weights)
        if len(self.classes) != len(self.weights):
            raise ValueError(f"classes has {len(self.classes)} entries, weights {len(self.weights)}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be distinct, got {list(self.classes)}")


class TwoLayer(Spec, frozen=True, kw_only=True, tag_field="kind", tag="two-layer"):
    """f(x) = w . sigma(F x)/sqrt k, F rows N(0, I/tr Sigma), w ~ N(0, I/k), k = width_ratio n."""

    activation: str = "relu"
    width_ratio: float = 1.0

    def __post_init__(self) -> None:
        activation(self.activation)
        if not (self.width_ratio > 0 and math.isfinite(self.width_ratio)):
            raise ValueError(f"width_ratio = k/n must be positive, got {self.width_ratio}")


class OneGradientStep(Spec, frozen=True, kw_only=True, tag_field="kind", tag="one-gradient-step"):
    """One step on F with a fresh batch, then a readout on fresh data.

    Attributes
    ----------
    total, split : float
        beta and alpha: learning rate eta = n^(alpha beta), spike strength theta = n^((1 - alpha) beta).
    readout : {"ridge", "logistic", "hinge"}
    ridge : float
        As in (1/2m) sum (.)^2 + (ridge/2)|w|^2, or (1/m) sum loss + (ridge/2)|w|^2.
    rate_factor : float
        Prefactor of the learning rate; 0 leaves the first layer as drawn (random features on the mixture).
    batch_ratio : float or None
        Size of the step's batch over n; None: that of the readout's sample.
    hermite_degree : int or None
        Degree of the polynomial model; None: the published rule.
    equivalent : {"auto", "one-bulk", "clusters", "conditional"}
        Deterministic equivalent of the ridge readout: clusters that share their bulk, clusters that do not, or
        conditional on the distinguished projections (needed for learning rates of order n). "auto" chooses by the
        bulks.
    nodes : int
        Quadrature nodes over the distinguished projections (conditional equivalents, logistic and hinge readouts).
    """

    total: float
    split: float = 0.5
    readout: Literal["ridge", "logistic", "hinge"] = "ridge"
    ridge: float = 1e-4
    rate_factor: float = 1.0
    batch_ratio: float | None = None
    hermite_degree: int | None = None
    equivalent: Literal["auto", "one-bulk", "clusters", "conditional"] = "auto"
    nodes: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.total <= 1:
            raise ValueError(f"total must lie in [0, 1], got {self.total}")
        if not 0 <= self.split <= 1:
            raise ValueError(f"split must lie in [0, 1], got {self.split}")
        if not (self.ridge > 0 and math.isfinite(self.ridge)):
            raise ValueError(f"ridge must be positive, got {self.ridge}")
        if not (self.rate_factor >= 0 and math.isfinite(self.rate_factor)):
            raise ValueError(f"rate_factor must be finite and not negative, got {self.rate_factor}")
        if self.batch_ratio is not None and not self.batch_ratio > 0:
            raise ValueError(f"batch_ratio must be positive, got {self.batch_ratio}")
        if self.hermite_degree is not None and not 0 <= self.hermite_degree <= 12:
            raise ValueError(f"hermite_degree must lie between 0 and 12, got {self.hermite_degree}")
        if self.nodes < 2:
            raise ValueError(f"nodes must be at least 2, got {self.nodes}")


class FiniteLimit(Spec, frozen=True, kw_only=True):
    """Size at which the equivalents are evaluated, and how many first layers are drawn."""

    n: int = 400
    draws: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 10:
            raise ValueError(f"n must be at least 10, got {self.n}")
        if self.draws < 1:
            raise ValueError(f"draws must be positive, got {self.draws}")


class GiantStep(Problem, frozen=True, kw_only=True):
    """n input dimension, k = width_ratio n neurons, m = sample_ratio n samples for the step and m for the readout."""

    data: SpikedMixture | ImageMixture
    target: Index | ClusterLabels
    student: TwoLayer
    algorithm: OneGradientStep
    limit: FiniteLimit = FiniteLimit()
    grid: RatioGrid
    simulation: InputSimulation = InputSimulation()

    def __post_init__(self) -> None:
        if isinstance(self.data, ImageMixture):
            if not isinstance(self.target, ClusterLabels):
                raise ValueError('images are labelled by their class: use target.kind = "cluster-labels"')
            if self.algorithm.readout != "ridge" or self.algorithm.equivalent == "conditional":
                raise ValueError(
                    "images have no finite set of distinguished projections: use the ridge readout, not a "
                    "conditional equivalent"
                )
        if isinstance(self.target, ClusterLabels):
            values = self.target.values(len(self.data.weights))
            if self.algorithm.readout != "ridge" and any(abs(y) != 1 for y in values):
                raise ValueError(f"the {self.algorithm.readout} readout needs labels -1 and +1, got {list(values)}")
            return
        assert isinstance(self.data, SpikedMixture)
        if self.target.direction == "aligned":
            if not any(self.data.spikes) and self.data.means == "zero":
                raise ValueError('target.direction = "aligned" needs spikes or means to be aligned with')
            if self.data.alignment == -1 and len(self.data.weights) == 2:
                raise ValueError(
                    'with alignment = -1 the spike directions cancel: target.direction = "aligned" is undefined'
                )
        if self.algorithm.readout != "ridge" and (self.target.noise or binary_link(self.target) is None):
            raise ValueError(
                f'the {self.algorithm.readout} readout needs labels -1 and +1: use target.kind = "cluster-labels", '
                f"or a link such "
                f'as "sign(z)" without noise; got link {self.target.link!r}, noise {self.target.noise}'
            )

    def spike_strength(self, n: int) -> float:
        """theta = n^((1 - split) total)."""
        return float(n ** ((1.0 - self.algorithm.split) * self.algorithm.total))

    def learning_rate(self, n: int) -> float:
        """eta = rate_factor n^(split total)."""
        return float(self.algorithm.rate_factor * n ** (self.algorithm.split * self.algorithm.total))

    @property
    def is_classification(self) -> bool:
        """Whether errors are 0/1 (logistic and hinge readouts)."""
        return self.algorithm.readout != "ridge"

    @property
    def spiked(self) -> bool:
        """Whether the data spread over a few directions (images always do)."""
        return isinstance(self.data, ImageMixture) or any(s > 0 for row in self.data.spikes for s in row)

    @property
    def signal(self) -> Literal["aligned", "random", "clusters"]:
        """How the labels relate to the distinguished directions of the data."""
        if isinstance(self.target, ClusterLabels):
            return "clusters"
        return "random" if self.target.direction == "random" else "aligned"

    def degrees(self) -> tuple[int, int]:
        """(degree of the polynomial model, degree needed by the sharper rule)."""
        from .degrees import needed_degree, sufficient_degree

        algorithm = self.algorithm
        chosen = (
            algorithm.hermite_degree if algorithm.hermite_degree is not None else sufficient_degree(algorithm.total)
        )
        return chosen, needed_degree(algorithm.total, algorithm.split, self.signal, self.spiked)


class GiantStepTheory(Theory):
    name = "giant-step"
    title = "Two-layer network after one giant gradient step on a Gaussian mixture"
    summary = (
        "Errors of ridge, logistic and hinge readouts after one gradient step, and of the equivalent polynomial model."
    )
    problem_type = GiantStep
    references = ("demir2025asymptotic", "ba2022high", "moniri2024theory", "cui2024asymptotics", "dandi2025random")
    assumptions = (
        "n, k, m grow with fixed ratios; a fresh batch for the step and fresh data for the readout",
        "conditional Gaussian equivalence: features are Gaussian given the cluster and the distinguished projections",
        "total < 1 for the polynomial model; one-bulk and clusters equivalents need shifts that vanish (total < 1)",
    )
    limits = (
        "rate_factor = 0 and no spikes: random features with ridge",
        "polynomial degree to infinity: the network itself",
        "equal bulks: the equivalent by clusters becomes that of one bulk",
    )

    def derive(self, problem: GiantStep) -> Any:
        from .giant_step_system import GiantStepSystem

        system = GiantStepSystem(problem)
        system.references, system.assumptions = self.references_for(problem), self.assumptions
        return system


THEORY = GiantStepTheory()

__all__ = ["THEORY", "GiantStep", "GiantStepTheory"]
