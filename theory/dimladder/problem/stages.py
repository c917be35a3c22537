"""Algorithms that learn a hierarchical target stage by stage: kinds of [algorithm]."""

from __future__ import annotations

import math
from typing import Literal

from .activations import activation
from .checks import at_least, formula, not_negative, positive
from .spec import Spec


class FirstStage(Spec, frozen=True, kw_only=True):
    """The subspace of the first layer from n1 samples.

    Attributes
    ----------
    order : {"leading", "refined"}
        Of the theory: for many hidden directions in a far larger dimension, or at the actual numbers.
    estimator : {"covariance", "flattened"}
        Leading eigenvectors of the label-weighted covariance of x; or of the leading eigenvector, folded to a matrix,
        of that of the quadratics x_i x_j, which sees links whose first order vanishes from n1 ~ d^2 samples.
    label_transform : str
        Acts on the labels first: ``"identity"``, a formula in ``y``, or ``"optimal"``, the conditional mean of the
        order of the feature that the estimator sees, E[h | y] or E[h^2 - 1 | y].
    """

    order: Literal["leading", "refined"] = "leading"
    estimator: Literal["covariance", "flattened"] = "covariance"
    label_transform: str = "identity"

    def __post_init__(self) -> None:
        if self.label_transform not in ("identity", "optimal"):
            formula("label_transform", self.label_transform, ("y",))


class SecondStage(Spec, frozen=True, kw_only=True):
    """The feature, from n2 samples: ridge regression on the polynomials of several degrees of the learned subspace.

    Attributes
    ----------
    estimator : {"ridge", "flattened"}
        ``flattened``: in place of a regression, the leading eigenvector of the label-weighted covariance of the
        quadratics of the learned subspace, with the transform of stage 1; it sees even links. The other keys are those
        of the regression.
    ridge : float or "optimal"
        Penalty of the highest degree: (1/n) |y - f|^2 + sum_j lam_j |theta_j|^2; or the one of the smallest error.
    degrees : "all", "top" or sequence of int
        Every degree with weight in the label, the degree k of the polynomial alone, or those listed.
    weights : {"optimal", "flat", "kernel", "top", "units"}
        lam_j in the ratio D_j/F_j of the number of features to the label's power; equal; ridge D_j; the highest alone.
        ``units``: in place of polynomials, one preconditioned step of random units with penalty `ridge`.
    units : int
        Their number p; each has weights uniform on the unit sphere of the learned subspace, and no bias.
    activation : str
        Of the units.
    label_transforms : sequence of str
        With several branches: functions of the label that are regressed, each of which gives one learned feature;
        ``"identity"`` or formulas in ``y``.
    """

    estimator: Literal["ridge", "flattened"] = "ridge"
    ridge: float | Literal["optimal"] = "optimal"
    degrees: Literal["all", "top"] | tuple[int, ...] = "all"
    weights: Literal["flat", "kernel", "optimal", "top", "units"] = "optimal"
    units: int = 0
    activation: str = "tanh(2*x - 1)"
    label_transforms: tuple[str, ...] = ("identity",)

    def __post_init__(self) -> None:
        if not self.label_transforms:
            raise ValueError("label_transforms must list at least one function of the label")
        for text in self.label_transforms:
            if text != "identity":
                formula("label_transforms", text, ("y",))
        if isinstance(self.ridge, float):
            not_negative(ridge=self.ridge)
        if isinstance(self.degrees, tuple) and (not self.degrees or min(self.degrees) < 1):
            raise ValueError(f"degrees must list degrees of at least 1, got {list(self.degrees)}")
        if (self.weights == "units") != (self.units > 0):
            raise ValueError('units, their number, goes with weights = "units"')
        if self.weights == "units":
            if self.degrees != "all":
                raise ValueError("degrees belong to polynomials: units have all of them")
            if self.ridge == 0.0:
                raise ValueError("ridge must be positive for units")
            activation(self.activation)


class ThirdStage(Spec, frozen=True, kw_only=True):
    """Readout of the learned feature by a polynomial of that `degree`, in one of three bases.

    Attributes
    ----------
    degree : int
    samples : float
        Labels it is fitted on; infinite: the best readout.
    ridge : float
        Penalty lam n on the coefficients of the orthonormal basis.
    basis : {"hermite", "rank", "clip"}
        Hermite polynomials of the standardised feature, Legendre polynomials of its rank, or Hermite polynomials of the
        feature clipped at 2.5 standard deviations. The last two are bounded, and do with few labels.
    """

    degree: int = 7
    samples: float = math.inf
    ridge: float = 0.0
    basis: Literal["hermite", "rank", "clip"] = "hermite"

    def __post_init__(self) -> None:
        if not 0 <= self.degree <= 40:
            raise ValueError(f"degree must lie in 0..40, got {self.degree}")
        if not self.samples > 0:
            raise ValueError(f"samples must be positive, got {self.samples}")
        not_negative(ridge=self.ridge)
        if self.basis == "clip" and self.ridge:
            raise ValueError('ridge must be 0 with basis = "clip", whose functions are not orthonormal')


class Layerwise(Spec, frozen=True, kw_only=True, tag_field="kind", tag="layerwise"):
    """Three stages, each layer on its own samples."""

    first: FirstStage = FirstStage()
    second: SecondStage = SecondStage()
    third: ThirdStage = ThirdStage()


class Learners(Spec, frozen=True, kw_only=True, tag_field="kind", tag="learners"):
    """Kernels and networks side by side, each on n = d^kappa samples.

    Attributes
    ----------
    networks : sequence of {"layerwise", "reinitialised", "fresh", "joint", "two-layer"}
        Trained in the simulation, by gradient descent as in practice: layer after layer, the same with later layers
        drawn anew or with new samples for each layer, all layers at once, one hidden layer.
    recipes : sequence of {"repository", "paper"}
        Published hyper-parameters: of the authors' code, or of the paper's appendix.
    steps : (int, int) or None
        Gradient steps of layers 1 and 2 in place of the recipe's (15 log d and 5 d^1.5).
    second_width : int or None
        Units of the second layer in place of the recipe's.
    records : int
        How often overlaps and losses are taken along the training.
    kernel_ridge : float
        lam of the kernel 1 + x.x' + (x.x')^2, penalty lam n.
    first, second, third
        The three stages of the learner with a sharp theory.
    """

    networks: tuple[Literal["layerwise", "reinitialised", "fresh", "joint", "two-layer"], ...] = (
        "layerwise", "joint", "two-layer",
    )  # fmt: skip
    recipes: tuple[Literal["repository", "paper"], ...] = ("repository",)
    steps: tuple[int, int] | None = None
    second_width: int | None = None
    records: int = 12
    kernel_ridge: float = 1.0
    first: FirstStage = FirstStage(order="refined")
    second: SecondStage = SecondStage()
    third: ThirdStage = ThirdStage(degree=11, basis="rank")

    def __post_init__(self) -> None:
        for name in ("networks", "recipes"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name} must list at least one, each once, got {list(given)}")
        at_least(2, records=self.records)
        at_least(1, second_width=self.second_width)
        positive(kernel_ridge=self.kernel_ridge)
        if self.steps is not None and min(self.steps) < 1:
            raise ValueError(f"steps must be at least 1, got {list(self.steps)}")

    @property
    def stages(self) -> Layerwise:
        """The three stages as an algorithm of their own."""
        return Layerwise(first=self.first, second=self.second, third=self.third)
