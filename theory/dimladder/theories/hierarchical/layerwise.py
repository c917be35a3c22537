"""Layer-wise learning of a hierarchical target with constants: subspace, then feature, then readout."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from ...errors import DomainError
from ...problem import Axis, Hierarchical, Problem, Simulation, Spec, axis_values
from ...symbolic.systems import ClosedForm, Equation, OrderParameter, Solution, Step, Variable
from ..base import Theory
from .flow import FiniteDimension

if TYPE_CHECKING:
    from .composition import Surface


class FirstStage(Spec, frozen=True, kw_only=True):
    """Spectral first layer: the d_eff leading eigenvectors of (1/n1) sum T(y) (x x^T - I)."""

    order: Literal["leading", "refined"] = "leading"
    label_transform: str = "identity"

    def __post_init__(self) -> None:
        if self.label_transform != "optimal":
            from .labels import transform_expression

            transform_expression(self.label_transform)


class SecondStage(Spec, frozen=True, kw_only=True):
    """Ridge regression on the degree-k polynomials of the learned subspace."""

    ridge: float | Literal["optimal"] = "optimal"

    def __post_init__(self) -> None:
        if isinstance(self.ridge, float) and not (self.ridge >= 0 and math.isfinite(self.ridge)):
            raise ValueError(f'ridge must be a finite number that is not negative, or "optimal", got {self.ridge}')


class ThirdStage(Spec, frozen=True, kw_only=True):
    """Polynomial readout of the learned feature, on `samples` labels."""

    degree: int = 7
    samples: float = math.inf
    ridge: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.degree <= 40:
            raise ValueError(f"degree must lie in 0..40, got {self.degree}")
        if not self.samples > 0:
            raise ValueError(f"samples must be positive, got {self.samples}")
        if not (self.ridge >= 0 and math.isfinite(self.ridge)):
            raise ValueError(f"ridge must be finite and not negative, got {self.ridge}")


class LayerwiseAlgorithm(Spec, frozen=True, kw_only=True):
    """The three stages."""

    kind: Literal["layerwise"] = "layerwise"
    first: FirstStage = FirstStage()
    second: SecondStage = SecondStage()
    third: ThirdStage = ThirdStage()


class RatioGrid(Spec, frozen=True, kw_only=True):
    """n1 = first_ratio d d_eff (infinite: the subspace is known) and n2 = second_ratio binom(d_eff + k - 1, k)."""

    first_ratio: Axis
    second_ratio: Axis

    def __post_init__(self) -> None:
        for name in ("first_ratio", "second_ratio"):
            values = axis_values(getattr(self, name))
            if not values or any(math.isnan(v) or v < 0 for v in values):
                raise ValueError(f"{name} must list numbers that are not negative (inf is allowed)")
        if any(v == 0 for v in axis_values(self.second_ratio)):
            raise ValueError("second_ratio must be positive")


class LayerwiseProblem(Problem, frozen=True, kw_only=True):
    """A three-level hierarchical target and the layer-wise learner."""

    target: Hierarchical
    algorithm: LayerwiseAlgorithm = LayerwiseAlgorithm()
    grid: RatioGrid
    limit: FiniteDimension | None = None
    simulation: Simulation = Simulation(d=(256, 576, 1024), replicas=8)

    def __post_init__(self) -> None:
        if self.algorithm.first.order == "refined" and self.limit is None:
            raise ValueError('order = "refined" needs the dimension: add [limit] with d = ...')


class LayerwiseSystem(ClosedForm):
    """q(n1) -> corr(h_hat, h*)(n1, n2) -> error(n1, n2)."""

    order_parameters = (
        OrderParameter("subspace_overlap", ("first_ratio",), "q", "mean over hidden directions of |P_hat w*_i|^2"),
        OrderParameter("feature_correlation", ("first_ratio", "second_ratio"), r"\rho", "corr(h_hat, h*)"),
        OrderParameter(
            "generalization_error", ("first_ratio", "second_ratio"), r"\varepsilon", "E[(f* - f)^2] without label noise"
        ),
        OrderParameter("prediction_error", ("first_ratio", "second_ratio"), r"\varepsilon + \Delta", "E[(y - f)^2]"),
        OrderParameter("weak_recovery_ratio", (), r"\alpha_c", "n1/(d d_eff) at which the first direction is seen"),
    )
    references = ("dandi2025depth", "baik2005phase")

    def __init__(self, problem: LayerwiseProblem) -> None:
        super().__init__(problem)
        self.spec = problem
        if len(problem.target.exponents) > 1:
            raise DomainError(
                "the sharp theory covers one hidden level", where="target.exponents",
                why=f"{len(problem.target.exponents)} exponents",
                hint='use theory = "hierarchical-plateaus" for deeper trees, or further.next_level of this package',
            )  # fmt: skip
        from .analysis import levels, link_of

        self.level = levels(problem.target)[0]
        self.link = link_of(problem.target)
        self.k = self.level.degree
        if problem.algorithm.first.order == "refined" and self.k != 2:
            raise DomainError(
                "the refined order is established for polynomials of degree 2", where="target.features",
                why=f"the degree is {self.k}", hint='use order = "leading"',
            )  # fmt: skip

    @property
    def refined(self) -> bool:
        """Whether the finite-size theory is asked for."""
        return self.spec.algorithm.first.order == "refined"

    def symbolic(self) -> dict[str, tuple[Any, Any]]:
        """Return the leading-order relations in sympy, label -> (left, right)."""
        import sympy as sp

        alpha, q, delta, lam = sp.symbols("alpha q delta lambda", positive=True)
        variance, tau, b2, a, s = sp.symbols("V tau_1 b_2 a s", positive=True)
        critical, kappa, gain, df2 = sp.symbols("alpha_c kappa A D_2", positive=True)
        c1, signal, noise, error, norm, v = sp.symbols("c_1 r_2 s_2 E q_2 v_k", positive=True)
        k = sp.Integer(self.k)
        return {
            "threshold": (critical, variance * s**2 / (2 * tau**2 * b2**2 * a**2)),
            "overlap": (q, sp.Max(0, 1 - critical / alpha)),
            "signal": (signal, c1**2 * v * a**2 * q**k),
            "kappa": (kappa, lam + kappa / (delta * (1 + kappa))),
            "gain": (gain, 1 / (1 + kappa)),
            "df2": (df2, gain**2 / delta),
            "fresh error": (error, (kappa**2 * gain**2 * signal + noise) / (1 - df2)),
            "norm": (norm, gain**2 * signal + df2 * error),
            "correlation": (sp.Symbol("rho", positive=True), gain * signal / (c1 * sp.sqrt(norm))),
        }

    def equations(self) -> list[Equation]:
        import sympy as sp

        notes = {
            "threshold": "V = Var T(y), tau_1 = E[T(y) h/s], b_2 = E[P h_2], s^2 = Var h; n1 = alpha d d_eff",
            "signal": "mean over the hidden directions; c_1 = E[g(h) h/s], v_k the degree-k fraction of Var h",
            "kappa": "positive root; n2 = delta binom(d_eff + k - 1, k)",
            "fresh error": "s_2 = Var y - r_2",
            "correlation": "corr(h_hat, h*); its ceiling is sqrt(r_2)/c_1",
        }
        rows = [
            Equation.of(label, left, right, notes.get(label, "")) for label, (left, right) in self.symbolic().items()
        ]
        degree = self.spec.algorithm.third.degree
        rows.append(
            Equation(
                "readout",
                rf"\varepsilon = \sum_j c_j^2 \left(1 - \rho^{{2j}} 1[j \le {degree}]\right)",
                note="c_j = E[g(h) h_j(h/s)]; label noise not included",
            )
        )
        rows += [
            Equation.of(f"c_{j}", f"c_{{{j}}}", sp.Float(float(c), 8))
            for j, c in enumerate(self.link.coefficients[: min(degree, 7) + 1])
            if abs(c) > 1e-12
        ]
        if self.refined:
            rows += [
                Equation(
                    "resolvent",
                    r"g(z) = \frac{1-\gamma}{z - R(g)} + \gamma \sum_c \frac{f_c}{z - R(g) - L_c(g)}",
                    note="gamma = d_eff/d; R = E[T/(1 - gT d/n1)], L_c = E[(z_c^2 - 1) T/(1 - gT d/n1)]",
                ),
                Equation(
                    "sample norms",
                    r"g_2 = \left(\lambda + \mathbb{E}\left[\frac{r}{1 + r g_2/\delta}\right]\right)^{-1}",
                    note="r = |phi(z)|^2/D; m and q_2 follow as in the documentation",
                ),
            ]
        return rows

    def derivation(self) -> list[Step]:
        by_label = {e.label: e for e in self.equations()}

        def pick(*labels: str) -> tuple[Equation, ...]:
            return tuple(by_label[x] for x in labels if x in by_label)

        return [
            Step(
                "Stage 1: subspace",
                "M = (1/n1) sum T(y) (x x^T - I) has one spike a hidden direction, sqrt2 tau_1 b_2 a_i/(s sqrt "
                "d_eff), on a "
                "semicircle of variance V d/n1: each detaches at its own alpha_c.",
                pick("threshold", "overlap", "resolvent"),
            ),
            Step(
                "Stage 2: feature",
                "Ridge regression on orthonormal polynomials of degree k of the learned subspace; everything in "
                "the label "
                "but its part linear in h is noise there.",
                pick("signal", "kappa", "gain", "df2", "fresh error", "norm", "correlation", "sample norms"),
            ),
            Step(
                "Stage 3: readout",
                "h and the learned feature are jointly normal, so Mehler's formula gives the degree-m regression.",
                pick("readout", *(f"c_{j}" for j in range(8))),
            ),
        ]

    def surface(self) -> Surface:
        """Compute the three quantities over the problem's grid."""
        import numpy as np

        from .composition import StageSettings, leading_surface, refined_surface

        algorithm, target = self.spec.algorithm, self.spec.target
        settings = StageSettings(
            algorithm.first.label_transform,
            algorithm.second.ridge,
            algorithm.third.degree,
            algorithm.third.samples,
            algorithm.third.ridge,
        )
        first, second = (
            np.array(axis_values(self.spec.grid.first_ratio)),
            np.array(axis_values(self.spec.grid.second_ratio)),
        )
        if self.refined:
            assert self.spec.limit is not None
            return refined_surface(target, settings, first, second, self.spec.limit.d)
        return leading_surface(target, settings, first, second)

    def solve(self) -> Solution:
        import numpy as np

        from .labels import label_moments
        from .spectral import leak_ratio

        surface = self.surface()
        values = {
            "subspace_overlap": surface.overlap,
            "feature_correlation": surface.correlation,
            "generalization_error": surface.error,
            "prediction_error": surface.error + self.spec.target.noise**2,
            "weak_recovery_ratio": np.array(surface.threshold),
        }
        variables = {p.name: Variable(p.dims, values[p.name], p.latex, p.meaning) for p in self.order_parameters}
        moments = label_moments(self.spec.target, self.spec.algorithm.first.label_transform)
        variables["leak_recovery_ratio"] = Variable(
            (),
            np.array(leak_ratio(self.spec.target, moments)),
            r"\alpha_c'",
            "threshold of n1/(d d_eff^2), second order in h",
        )
        return Solution(
            {
                "first_ratio": np.array(axis_values(self.spec.grid.first_ratio)),
                "second_ratio": np.array(axis_values(self.spec.grid.second_ratio)),
            },
            variables,
        )


class Layerwise(Theory):
    """Sharp stage-by-stage learning curves: this project's own theory of the paper's layer-wise algorithm."""

    name = "hierarchical-layerwise"
    title = "Layer-wise learning of a hierarchical target, with constants"
    summary = "Subspace overlap, feature correlation and generalisation error of the three stages over (n1, n2)."
    problem_type = LayerwiseProblem
    references = ("dandi2025depth", "baik2005phase")
    assumptions = (
        "x standard normal; one hidden level of d_eff = d^eps orthonormal directions, 1 << d_eff << d at leading order",
        "fresh samples in each stage; labels centred before stages 1 and 2",
        "stage 1 keeps the d_eff eigenvectors of largest modulus",
        "the transformed label has finite variance; heavy tails need a bounded transform",
    )
    limits = (
        "everything with constants here is this project's own; the paper has the exponents",
        "leading order is off by 10-100 % near the threshold at d ~ 1000; order = refined (degree 2) by 1-4 %",
        "degree 3: the same formulas, finite-size dominated below d_eff ~ 50",
        "b_2 tau_1 = 0: q = 0 at n ~ d d_eff; the second-order threshold is leak_recovery_ratio, in units d d_eff^2",
        "gaussian readouts: class averages; directions of large |a| detach first, so the threshold is 0",
        "first_ratio = inf: the subspace is known; second_ratio = inf with ridge 0: the feature is",
    )

    def derive(self, problem: LayerwiseProblem) -> LayerwiseSystem:
        return LayerwiseSystem(problem)


THEORY = Layerwise()
