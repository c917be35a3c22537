"""Deeper trees learned level by level with constants: the theory of a run file; the numbers are those of `further`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from ...problem import Refusal
from ...problem.grids import Simulation
from ...symbolic.systems import ClosedForm, Equation, OrderParameter, Solution, Step, Variable
from ..base import Reads, Theory
from .letters import TREE
from .stages import TARGET

if TYPE_CHECKING:
    from ...problem import Problem


class TreeSystem(ClosedForm):
    """Q_1, Q_2, ... -> corr(h_hat, h) -> mse on n = d^kappa samples a level."""

    letters = TREE

    order_parameters = (
        OrderParameter(
            "level_overlap",
            ("kappa", "level"),
            "Q_l",
            "fraction of the features of level l that the learned ones explain",
        ),
        OrderParameter("feature_correlation", ("kappa",), r"\rho", "corr(h_hat, h) of the scalar feature"),
        OrderParameter("mse", ("kappa",), r"\varepsilon", "E[(f* - f)^2] without label noise"),
        OrderParameter("null_mse", (), r"\varepsilon_0", "E[f*^2], the error of f = 0, as d -> infinity"),
    )
    references = ("dandi2025depth", "baik2005phase")

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.target, self.transform = problem.target, problem.algorithm.first.label_transform

    def equations(self) -> list[Equation]:
        from .further import level_thresholds

        rows = [
            Equation(
                "threshold",
                r"\alpha_c^{(l)} = \frac{\mathrm{Var}\, T}{2 \tau_1^2\, v_2(P_l) \prod_{m > l} v_1(P_m)\, H_{l-1}^2}, "
                r"\quad q_l = \left(1 - \alpha_c^{(l)}/\alpha_l\right)_+",
                note="n = alpha_1 d d_1 = alpha_l D d_l; D polynomials of level l - 1; v_j: share of degree j; H_0 = 1",
            ),
            Equation("composition", r"Q_1 = q_1, \quad Q_{l+1} = H_l\, q_{l+1}, \quad H_l = \sum_j v_j(P_l)\, Q_l^j"),
            Equation(
                "readout",
                r"\varepsilon = \mathbb{E} g^2 - \sum_m c_m^2 \rho^{2m}",
                note="rho: ridge regression on the polynomials of the last level with optimal penalties",
            ),
        ]
        rows += [
            Equation(
                f"alpha_c {l}",
                rf"\alpha_c^{{({l})}} = {value:.8g}" if value < 1e300 else rf"\alpha_c^{{({l})}} = \infty",
                note="with the level below known",
            )
            for l, value in enumerate(level_thresholds(self.target, self.transform), 1)
        ]
        return rows

    def derivation(self) -> list[Step]:
        by_label = {e.label: e for e in self.equations()}
        return [
            Step(
                "One level after the other",
                "The features of a level are the leading eigenvectors of a label-weighted covariance of the quadratic "
                "features of the level below. Their signal passes the linear parts of all polynomials above.",
                tuple(e for label, e in by_label.items() if label not in ("composition", "readout")),
            ),
            Step(
                "Composition",
                "Polynomials of degree j of learned features overlap with those of the true ones by the power j.",
                (by_label["composition"],),
            ),
            Step(
                "Readout", "The scalar feature is fitted on the last level and read out.", (by_label["readout"],)
            ),
        ]  # fmt: skip

    def solve(self) -> Solution:
        import numpy as np

        from .analysis import link_of
        from .further import ascend

        kappa, d = self.problem.grid.values("kappa"), self.problem.limit.d
        count = len(self.target.exponents) + 1
        found = [ascend(self.target, d, [float(max(1, round(d**v)))] * count, self.transform) for v in kappa]
        values = {
            "level_overlap": np.array([a.overlaps for a in found]),
            "feature_correlation": np.array([a.correlation for a in found]),
            "mse": np.array([a.mse for a in found]),
            "null_mse": np.array(link_of(self.target).second_moment),
        }
        coords: dict[str, Any] = {"kappa": np.array(kappa), "level": np.arange(1, count)}
        variables = {p.name: Variable(p.dims, values[p.name], p.latex, p.meaning) for p in self.order_parameters}
        return Solution(coords, variables)


class TreeTheory(Theory):
    """Spectral estimates up a tree of quadratic levels, and ridge regression at its top: this project's own."""

    name = "hierarchical-tree"
    title = "A deeper tree learned level by level, with constants"
    summary = "What n = d^kappa samples a level make of every level of features, of the scalar feature, and the error."
    reads: ClassVar[Reads] = {
        "target": {"hierarchical": TARGET},
        "algorithm": {"layerwise": "first"},
        "limit": "d",
    }
    axes = ("kappa",)
    simulation = Simulation(sizes=(64, 100, 144), replicas=8)
    references = ("dandi2025depth", "baik2005phase")
    assumptions = (
        "x standard normal; a tree of disjoint blocks, every level below the top quadratic",
        "1 << d_L << ... << d_1 << d, blocks of many features; fresh samples for every level",
        "readouts of modulus one",
    )
    limits = (
        "everything with constants here is this project's own; the paper counts exponents",
        "leading order in every size: at four times its threshold q of the second level lies .2 below this at blocks "
        "of B = 6 to 12 features, .08 at 24: a gap roughly like B^-0.8",
        "only the first order of the link and linear parts of upper polynomials carry the signal down",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Yield what the ascent cannot do."""
        from .analysis import levels

        target, first = problem.target, problem.algorithm.first
        if len(target.exponents) == 1:
            yield Refusal("target.exponents", "two hidden levels at least", "hierarchical-layerwise takes one")
            return
        d = problem.limit.d
        if d is None or isinstance(d, tuple):
            yield Refusal("limit.d", "needs one dimension", "add [limit] with d = ...")
            return
        if target.readout not in ("ones", "rademacher"):
            yield Refusal("target.readout", f"{target.readout!r}: of modulus one", 'use "ones" or "rademacher"')
        if first.estimator != "covariance":
            yield Refusal("algorithm.first.estimator", f"{first.estimator!r}: for one hidden level", 'use "covariance"')
        if first.order == "refined":
            yield Refusal("algorithm.first.order", "a tree has leading order only", 'order = "leading"')
        degrees = [level.degree for level in levels(target)]
        if any(k != 2 for k in degrees[:-1]):
            yield Refusal("target.features", f"levels below the top must be quadratic, got degrees {degrees}")
        sizes = [d, *(int(d**e + 1e-9) for e in target.exponents), 1]
        if any(b >= a for a, b in pairwise(sizes)):
            yield Refusal(
                "limit.d", f"levels of {sizes} features do not shrink", "a larger d, or exponents further apart"
            )

    def derive(self, problem: Problem) -> TreeSystem:
        return TreeSystem(problem)

    def describe(self, problem: Problem) -> dict[str, Any]:
        from .assumptions import describe_target
        from .further import level_thresholds

        found = level_thresholds(problem.target, problem.algorithm.first.label_transform)
        return {"thresholds of the levels, n/(d d_1) and n/(D d_l)": list(found), **describe_target(problem.target)}


THEORY = TreeTheory()
