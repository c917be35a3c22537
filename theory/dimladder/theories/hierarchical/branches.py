"""Layer-wise learning of a target of several branches (MIGHT) with constants: the theory of a run file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from ...problem import Refusal
from ...problem.grids import Simulation
from ...symbolic.equations import picker
from ...symbolic.systems import Equation, OrderParameter, Solution, Step, Variable
from ..base import Reads
from .letters import BRANCHES
from .stages import GRID, TARGET, StageSystem, StageTheory

if TYPE_CHECKING:
    from ...problem import Problem

# Orders of the link above the first below this share of Var T leave stage 2 alone.
NO_POWER = 1e-12


class BranchSystem(StageSystem):
    """q_m(n1) -> R_m(n1, n2) -> mse(n1, n2) of the branches m."""

    letters = BRANCHES

    references = ("dandi2025depth", "baik2005phase")

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        from .analysis import levels

        self.target, self.algorithm = problem.target, problem.algorithm
        self.level = levels(self.target)[0]
        second = self.algorithm.second
        if second.degrees == "top" or second.weights == "top":
            self.degrees: tuple[int, ...] = (self.level.degree,)
        elif second.degrees == "all":
            self.degrees = tuple(j for j in range(1, self.level.degree + 1) if self.level.fractions[j])
        else:
            self.degrees = tuple(sorted(second.degrees))

    @property
    def order_parameters(self) -> tuple[OrderParameter, ...]:  # type: ignore[override]
        first, both = self.axes[0], self.axes
        return (
            OrderParameter(
                "subspace_overlap", (first, "branch"), "q_m", "mean over the directions of a branch of |P_hat w*_i|^2"
            ),
            OrderParameter(
                "feature_correlation", (*both, "branch"), "R_m", "multiple correlation of h_m with the learned features"
            ),
            OrderParameter("mse", both, r"\varepsilon", "E[(f* - f)^2] without label noise"),
            OrderParameter("test_mse", both, r"\varepsilon + \Delta", "E[(y - f)^2]"),
            OrderParameter("null_mse", (), r"\varepsilon_0", "E[f*^2], the error of f = 0"),
            OrderParameter(
                "weak_recovery_ratio", ("branch",), r"\alpha_c^{(m)}",
                "n1/(d d_eff) at which the first direction of a branch is seen, d_eff -> infinity",
            ),
        )  # fmt: skip

    def equations(self) -> list[Equation]:
        return [*self._second_order(), *self._first_order()]

    def _second_order(self) -> list[Equation]:
        """Return the equations of flattened stages."""
        first, second = self.algorithm.first.estimator, self.algorithm.second.estimator
        if "flattened" not in (first, second):
            return []
        rows = [
            Equation(
                "spikes",
                r"\frac1{g_k} + R(g_k) = H_k(g_k), \quad \pi_k = \left(1 - \frac{H_k'(g_k)}{z'(g_k)}\right)^{-1}, "
                r"\quad R = \mathbb{E}\left[\frac{T_0}{1 - g T_0/\delta}\right], \quad "
                r"H_k = \mathbb{E}\left[\frac{(e_k \cdot u)^2\, T_0}{1 - g T_0/\delta}\right]",
                note="delta quadratics a sample; e_k: eigenvectors of E[T_0 u u^T]; z = 1/g + R; 0 where z' >= 0",
            )
        ]
        if first == "flattened":
            rows.append(
                Equation(
                    "folded",
                    r"q_m = \left(1 - \frac{d_1}{a^2 d}\, \frac{\sum_k \pi_k (1 - \pi_k)\, e_{km}^2}"
                    r"{(\sum_k \pi_k\, e_{km}^2)^2}\right)_+",
                    note="leading eigenvectors of the sum of squares of the folded eigenvectors",
                )
            )
        if second == "flattened":
            rows.append(
                Equation(
                    "learned",
                    r"P = \sum_k \pi_k\, (M e_k)(M e_k)^T, \quad M_{mm}^2 = v_2 \langle a^2 q_m^2 \rangle, \quad "
                    r"R_m = \sqrt{P_{mm}}",
                    note="the same for M u and the quadratics of the learned coordinates",
                )
            )
        return rows

    def _first_order(self) -> list[Equation]:
        rows = [
            Equation(
                "signal", r"C_{tm} = \mathbb{E}[T_t(y)\, u_m], \quad S_{tt'} = \mathrm{Cov}(T_t, T_{t'})",
                note="u_m = h_m/s; T_0 is the transform of stage 1, T_t those of stage 2",
            ),
            Equation(
                "threshold",
                r"\alpha_c^{(m)}(a) = \frac{\mathrm{Var}\, T_0}{2 C_{0m}^2 v_2 a^2}, \quad "
                r"q_m(a) = \left(1 - \alpha_c^{(m)}(a)/\alpha\right)_+",
                note="n1 = alpha d d_eff; the r d_eff leading eigenvectors are kept",
            ),
            Equation(
                "shares",
                r"V_{mj} = v_j \langle a^2 q_m^j \rangle, \quad F_{tt'j} = \sum_m C_{tm} C_{t'm} V_{mj}, \quad "
                r"r_j = D_j/n_2, \quad D_j = \binom{r d_1 + j - 1}{j}",
            ),
            Equation(
                "gain",
                r"A_{tj} = \frac1{1 + \chi_t l_{tj}}, \quad \chi_t = \tau_t + \chi_t \sum_j r_j A_{tj}",
                note="penalties lam_tj = tau_t l_tj of label t",
            ),
            Equation(
                "noise",
                r"E_{tt'} = \frac{e_{tt'}}{1 - \sum_j r_j A_{tj} A_{t'j}}, \quad "
                r"e_{tt'} = \sum_j (1 - A_{tj})(1 - A_{t'j}) F_{tt'j} + S_{tt'} - \sum_j F_{tt'j}",
                note="estimates from the same samples share their noise",
            ),
            Equation(
                "features",
                r"Q_{tt'} = \sum_j A_{tj} A_{t'j} (F_{tt'j} + r_j E_{tt'}), \quad K_{tm} = C_{tm} \sum_j A_{tj} V_{mj}",
            ),
            Equation("explained", r"P = K^T Q^{-1} K, \quad R_m = \sqrt{P_{mm}}"),
            Equation(
                "readout",
                rf"\varepsilon = \mathbb{{E}} g^2 - \sum_{{|\alpha| \le {self.algorithm.third.degree}}} "
                r"\hat g_\alpha^2 \prod_i p_i^{\alpha_i}",
                note="Hermite coefficients of the link in the eigenbasis of P, with its eigenvalues p_i",
            ),
        ]  # fmt: skip
        if self.flattened:
            rows = [row for row in rows if row.label != "threshold"]
        if self.algorithm.second.estimator == "flattened":
            kept = ("signal", "threshold", "readout")
            rows = [row for row in rows if row.label in kept]
        return rows

    def derivation(self) -> list[Step]:
        pick = picker(self.equations())
        return [
            Step(
                "Stage 1: subspaces of the branches",
                "The quadratics of x see the features at second order: the leading eigenvectors of their "
                "label-weighted covariance fold to matrices whose squares add up."
                if self.flattened
                else "Each branch has spikes of its own, sqrt2 C_m beta_2 a_i/(s sqrt d_eff), on one semicircle of "
                "variance Var T d/n1.",
                pick("signal", "threshold", "spikes", "folded"),
            ),
            Step(
                "Stage 2: learned features",
                "The leading eigenvectors of the label-weighted covariance of the quadratics of the learned "
                "coordinates are the learned features."
                if self.algorithm.second.estimator == "flattened"
                else "Ridge regression of T_t(y) on the polynomials of the learned coordinates finds the combination "
                "sum_m C_tm u_m of the features. Only as many directions as C has rank are found.",
                pick("shares", "gain", "noise", "features", "learned"),
            ),
            Step(
                "Stage 3: readout of all of them",
                "True and learned features are jointly normal.",
                pick("explained", "readout"),
            ),
        ]

    def _thresholds(self) -> Any:
        """Return the n1/(d d_eff) at which a branch begins to be seen."""
        from ...problem.hierarchy import effective_dimension
        from .branch_flattening import flattening_ratios
        from .branch_stages import branch_thresholds
        from .flattening import quadratic_count

        first, d = self.algorithm.first, self.problem.limit.d
        if first.estimator == "covariance":
            return branch_thresholds(self.target, first.label_transform)
        assert d is not None
        unit = d * effective_dimension(d, self.target.exponents[0])
        return flattening_ratios(self.target, first.label_transform) * quadratic_count(d) / unit

    def solve(self) -> Solution:
        import numpy as np

        from ...problem.hierarchy import effective_dimension
        from .branch_flattening import flattened_explained, flattened_squares
        from .branch_links import branch_moments, captured, null_error
        from .branch_stages import (
            DrawnBranches,
            feature_counts,
            leading_features,
            leading_fit,
            leading_squares,
        )
        from .flattening import quadratic_count
        from .union import feature_count

        target, grid, algorithm, d = self.target, self.problem.grid, self.algorithm, self.problem.limit.d
        second, third, transform = algorithm.second, algorithm.third, algorithm.first.label_transform
        moments, total = branch_moments(target, tuple(second.label_transforms)), null_error(target)
        counts, unit, d_eff = None, 1.0, 0
        if d is not None:
            d_eff = effective_dimension(d, target.exponents[0])
            counts = feature_counts(target, self.degrees, d)
            unit = float(feature_count(target.branches * d_eff, self.level.degree))
        if grid.kappa is not None:
            samples = [max(1, round(d**kappa)) for kappa in grid.values("kappa")]
            rows = [(n / (d * d_eff), [n / unit]) for n in samples]
        else:
            ratios = grid.values("second_ratio") or [n / unit for n in grid.values("second_samples")]
            rows = [(first, list(ratios)) for first in grid.values("first_ratio")]
        drawn = DrawnBranches.draw(target, d_eff, len(second.label_transforms)) if self.refined else None
        if drawn is not None:
            total = float(np.mean(drawn.clean**2))
        overlaps: list[Any] = []
        correlations: list[Any] = []
        fits: list[Any] = []
        for first, deltas in rows:
            crowded = [
                np.array([1.0 / delta if j == self.level.degree else 0.0 for j in self.degrees])
                if counts is None else counts / (delta * unit)
                for delta in deltas
            ]  # fmt: skip
            if drawn is not None:
                assert d is not None
                assert counts is not None
                q, seen, along = drawn.subspace(transform, first, d)
                overlaps.append(q.mean(axis=1))
                made = drawn.directions(self.degrees, seen, along)
                found = [drawn.second_stage(second, self.degrees, *made, r, counts, third) for r in crowded]
            else:
                if algorithm.first.estimator == "flattened" and math.isfinite(first):
                    assert d is not None
                    ratio = first * d * d_eff / quadratic_count(d)
                    overlap, squares = flattened_squares(target, transform, ratio, d, d_eff, self.level.degree)
                else:
                    overlap, squares = leading_squares(target, transform, first)
                overlaps.append(overlap)
                if second.estimator == "flattened":
                    held = squares[:, 2] * float(self.level.fractions[2])
                    per = 1.0 if self.level.degree == 2 else unit / quadratic_count(target.branches * d_eff)
                    known = [flattened_explained(target, transform, delta * per, held) for delta in deltas]
                else:
                    known = [
                        leading_features(target, moments, second, self.degrees, squares, r, counts).explained
                        for r in crowded
                    ]
                best = [total - captured(target, explained, third.degree) for explained in known]
                found = [
                    (np.sqrt(np.clip(np.diag(explained), 0.0, 1.0)), leading_fit(target, explained, third, error))
                    for explained, error in zip(known, best, strict=True)
                ]
            correlations.append([c for c, _ in found])
            fits.append([[fit.median, fit.low, fit.high] for _, fit in found])
        name, both = self.axes[0], self.axes
        errors, correlation = np.array(fits), np.array(correlations)
        if grid.kappa is not None:
            errors, correlation = errors[:, 0], correlation[:, 0]
        mse = errors[..., 0]
        values = {
            "subspace_overlap": np.array(overlaps),
            "feature_correlation": correlation,
            "mse": mse,
            "test_mse": mse + target.noise**2,
            "null_mse": np.array(total),
            "weak_recovery_ratio": self._thresholds(),
        }
        coords: dict[str, Any] = {axis: np.array(grid.values(axis)) for axis in dict.fromkeys((name, *both))}
        coords["branch"] = np.arange(1, target.branches + 1)
        variables = {p.name: Variable(p.dims, values[p.name], p.latex, p.meaning) for p in self.order_parameters}
        if math.isfinite(third.samples):
            for place, (bound, text) in enumerate((("low", "10 %"), ("high", "90 %")), 1):
                variables[f"mse_{bound}"] = Variable(
                    both, errors[..., place], rf"\varepsilon_{{\mathrm{{{bound}}}}}",
                    f"{text} of the fits of stage 3 have a smaller mse",
                )  # fmt: skip
        return Solution(coords, variables)


class BranchTheory(StageTheory):
    """Sharp stage-by-stage learning curves of a target of several branches: this project's own."""

    name = "hierarchical-branches"
    title = "Layer-wise learning of several hierarchical branches, with constants"
    summary = "Overlap of every branch's subspace, correlation of every feature, and error, over the samples of stages."
    reads: ClassVar[Reads] = {
        "target": {"hierarchical": f"{TARGET} branches"}, "algorithm": {"layerwise": "first second third"},
        "limit": "d", "grid": GRID,
    }  # fmt: skip
    simulation = Simulation(sizes=(144, 256, 576), replicas=8)
    assumptions = (
        "x standard normal; r branches of d_eff = d^eps orthonormal directions each, all of one polynomial",
        "fresh samples in each stage; labels centred before stages 1 and 2",
        "stage 1 keeps the r d_eff eigenvectors of largest modulus",
        "only the first order of the link reaches the fitted degrees: orders 2..k/k_0 vanish, k_0 the lowest degree",
    )
    limits = (
        "everything with constants here is this project's own; the paper has the case of equal slopes, where one step "
        "finds the symmetric combination of the features",
        "leading order is off by O(d_eff^-1/2), much where a transform has a large second order; order = refined takes "
        "the subspaces and the law of the labels at the actual d, sample norms and readout at leading order",
        "branches that no first moment of the label sees (a parity) have overlap 0 by covariances and regressions; "
        'estimator = "flattened" of both stages sees their second order, at leading order in every size, for labels '
        "without heavy tails (a bounded label_transform): with them no eigenvector detaches here",
        "third.samples finite: mse is the median over fits, mse_low and mse_high hold 80 % of them",
        "at most 4 branches; a link with kinks is split at zero of every feature only",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Yield what the stages cannot do."""
        import numpy as np

        from .analysis import levels
        from .branch_links import branch_moments

        target, algorithm, grid = problem.target, problem.algorithm, problem.grid
        second, third = algorithm.second, algorithm.third
        if target.branches == 1:
            yield Refusal("target.branches", "several branches, got 1", "hierarchical-layerwise takes one")
            return
        if target.branches > 4:
            yield Refusal("target.branches", f"at most 4, got {target.branches}")
            return
        if len(target.exponents) > 1:
            yield Refusal("target.exponents", f"one hidden level, got {len(target.exponents)} exponents")
            return
        yield from self.axes_asked(grid)
        if algorithm.first.label_transform == "optimal":
            yield Refusal(
                "algorithm.first.label_transform", "is no single function for several branches", "a formula in y"
            )
            return
        yield from self.flattening(problem)
        if "flattened" in (algorithm.first.estimator, second.estimator) and algorithm.first.order == "refined":
            yield Refusal(
                "algorithm.first.order", "flattened quadratics of several branches have leading order only", '"leading"'
            )
        if isinstance(problem.limit.d, tuple):
            yield Refusal("limit.d", "one dimension, got several")
        yield from self.without_dimension(problem)
        asking = self.depending_on_dimension(problem)
        if problem.limit.d is not None and not any(asking.values()):
            yield Refusal(
                "limit.d", "nothing that is asked depends on the dimension",
                f"leave it out, or ask {next(iter(asking))}",
            )  # fmt: skip
        if second.weights == "units":
            yield Refusal("algorithm.second.weights", "'units' are for one branch")
        if third.basis != "hermite" or third.ridge:
            yield Refusal(
                "algorithm.third", "several features are read out by Hermite polynomials without a penalty: the rank "
                "of several features is none, and products of Hermite polynomials are not orthonormal at finite d",
                'basis = "hermite", no ridge',
            )  # fmt: skip
        made = target.branches if second.estimator == "flattened" else len(second.label_transforms)
        terms = math.comb(made + third.degree, third.degree)
        if third.samples < terms + 2:
            yield Refusal(
                "algorithm.third.samples",
                f"{third.samples:g} labels for {terms} products of the features: below {terms + 2} the error of a fit "
                "has no finite spread",
                "give more labels, or a lower degree",
            )
        level = levels(target)[0]
        if isinstance(second.degrees, tuple) and max(second.degrees) > level.degree:
            yield Refusal("algorithm.second.degrees", f"the polynomial has degree {level.degree}")
        lowest = int(np.flatnonzero(level.fractions)[0])
        if level.degree // lowest > 2:
            yield Refusal(
                "target.features", f"degrees {lowest}..{level.degree}: the third order of the link reaches stage 2",
                "the highest degree less than three times the lowest",
            )  # fmt: skip
        elif level.degree // lowest == 2:
            moments = branch_moments(target, tuple(second.label_transforms))
            if float(np.max(np.abs(moments.second))) > math.sqrt(NO_POWER * float(np.max(moments.covariance))):
                yield Refusal(
                    "target.link", "its second order reaches the fitted degrees, where it is no part of a feature",
                    f"a polynomial without degree {lowest}, or transforms without a second order",
                )  # fmt: skip

    def derive(self, problem: Problem) -> BranchSystem:
        return BranchSystem(problem)

    def describe(self, problem: Problem) -> dict[str, Any]:
        from .assumptions import describe_target
        from .branch_links import branch_moments, seen_directions

        target, algorithm = problem.target, problem.algorithm
        moments = branch_moments(target, tuple(algorithm.second.label_transforms))
        values = seen_directions(target)
        seen = int((values > 1e-6).sum())
        return {
            "weak recovery of the branches, n1/(d d_eff)": self.derive(problem)._thresholds().tolist(),
            "E[T u_m] of the transforms of stage 2": moments.first.round(6).tolist(),
            "directions of the features that transforms of the label see": f"{seen} of {target.branches} (singular "
            f"values {', '.join(f'{v:.3g}' for v in values)})",
            **describe_target(target),
        }


THEORY = BranchTheory()
