"""The learning staircase of a hierarchical target: plateau heights for kernels, two-layer and deep networks."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from ...problem import Refusal
from ...problem.grids import Simulation
from ...symbolic.equations import picker
from ...symbolic.systems import ClosedForm, Equation, OrderParameter, Solution, Step, Variable
from ..base import Reads, Theory
from . import COORDINATES
from .letters import PLATEAUS
from .stages import TARGET

if TYPE_CHECKING:
    from ...problem import Problem
    from .staircase import Staircase

# degree_mass is given up to this degree.
LARGEST_MASS = 8


class PlateauSystem(ClosedForm):
    """E(learner, kappa) of a hierarchical target as d -> infinity."""

    letters = PLATEAUS

    order_parameters = (
        OrderParameter("mse", ("learner", "kappa"), r"\varepsilon", "E[(f* - f)^2] without label noise"),
        OrderParameter(
            "threshold", ("level",), r"\kappa_l", "log n / log d at which a deep network has learned level l"
        ),
        OrderParameter("null_mse", (), r"\varepsilon_0", "E[f*^2], the error of f = 0"),
        OrderParameter("degree_mass", ("degree",), "F_t", "squared norm of the degree-t part of f* in x"),
    )
    references = ("dandi2025depth",)

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        from .staircase import Staircase

        self.target = problem.target
        largest = max(*problem.grid.values("kappa"), float(LARGEST_MASS))
        self.staircase: Staircase = Staircase.of(problem.target, largest)

    def degree_generating_functions(self, largest: int = 8) -> tuple[Any, list[Any]]:
        """Return A(t), the degree law of h in x, and the masses F_0, ..., F_largest, all in sympy.

        A_1(t) = t and A_{l+1}(t) = sum_j v_j A_l(t)^j; F_t = sum_m mu_m^2 [t^t] A(t)^m. The computation by profiles in
        `staircase` must agree with it (a test compares them).
        """
        import sympy as sp

        t = sp.Symbol("t")
        law = t
        for level in self.staircase.levels:
            law = sum(
                sp.nsimplify(float(v), rational=True, tolerance=1e-12) * law**j
                for j, v in enumerate(level.fractions)
                if v
            )
            law = sp.expand(law)
        lowest = min(m[0] for m in sp.Poly(law, t).monoms())
        total = sum(
            sp.Float(float(mu), 15) * law**m
            for m, mu in enumerate(self.staircase.link.masses)
            if m * lowest <= largest and mu > 1e-28
        )
        polynomial = sp.Poly(sp.expand(total), t)
        return law, [polynomial.coeff_monomial(t**k) for k in range(largest + 1)]

    def equations(self) -> list[Equation]:
        import sympy as sp

        law, masses = self.degree_generating_functions()
        rows = [
            Equation.of("null_mse", r"\varepsilon_0", sp.Float(self.staircase.null_error, 8), "E[f*^2]"),
            Equation.of("degrees of h", "A(t)", law, "generating function of the degrees of h in x"),
            Equation(
                "degree mass", r"F_t = \sum_m \mu_m^2 \, [t^t] A(t)^m", note="squared norm of the degree-t part of f*"
            ),
        ]
        rows += [
            Equation.of(f"F_{k}", f"F_{{{k}}}", sp.Float(float(f), 8)) for k, f in enumerate(masses) if abs(f) > 1e-14
        ]
        rows += [
            Equation(
                "kernel",
                r"\varepsilon_{\mathrm{kernel}}(\kappa) = \varepsilon_0 - \sum_{t \le \lfloor\kappa\rfloor} F_t",
            ),
            Equation(
                "two-layer",
                r"\varepsilon_{\mathrm{two\text{-}layer}}(\kappa) = \varepsilon_0 - "
                r"\sum_{t \le \lfloor\kappa/\epsilon_1\rfloor} F_t \quad (\kappa \ge \kappa_1)",
                note="the kernel's value below kappa_1",
            ),
            Equation(
                "deep",
                r"\varepsilon_{\mathrm{deep}}(\kappa) = \varepsilon_0 - \sum_m \mu_m^2 \rho_L^m - R(\kappa), \quad "
                r"\rho_{l+1} = \sum_{j:\, j\epsilon_l + 2\omega_{l+1}(2) \le \kappa} v_{l,j}\, \rho_l^j, \quad "
                r"\rho_1 = 1[\kappa \ge \kappa_1]",
                note="R: not fully learned below, but of degree <= kappa/eps_l in the features of a learned level",
            ),
        ]
        for made in self.staircase.levels_learned:
            symbol = rf"\kappa_{{{made.level}}}"
            value = sp.Float(made.kappa, 8) if made.known else None
            latex = f"{symbol} = {made.kappa:.6g}" if made.known else rf"{symbol} \text{{ unknown}}"
            rows.append(Equation(f"threshold {made.level}", latex, value, f"{made.status}: {made.reason}"))
        return rows

    def derivation(self) -> list[Step]:
        pick = picker(self.equations())
        return [
            Step(
                "Hermite expansion of the link",
                "h is a sum of many independent terms, so it is normal with variance s^2 and f* = sum_m mu_m h_m(h/s).",
                pick("null_mse"),
            ),
            Step(
                "Degrees in the input",
                "He_m(h) is, to leading order in d, the sum over distinct indices of products of m feature polynomials "
                "(Prop. 9 of the paper): degrees in x add, and their law multiplies.",
                pick("degrees of h", "degree mass", *(f"F_{k}" for k in range(9))),
            ),
            Step(
                "What n = d^kappa samples determine",
                "In D dimensions, n samples determine the polynomials of degree floor(log n / log D): D = d for "
                "a kernel, "
                "d^eps_l on learned features. A feature of degree k of d^eps_{l-1} inputs costs d^(k eps_{l-1}) "
                "samples, "
                "and there are d^eps_l of them.",
                pick(
                    "kernel",
                    "two-layer",
                    "deep",
                    *(f"threshold {l}" for l in range(1, len(self.staircase.thresholds) + 1)),
                ),
            ),
        ]

    def solve(self) -> Solution:
        import numpy as np

        from .staircase import LEARNERS

        kappa = self.problem.grid.values("kappa")
        stairs = self.staircase
        errors = np.array([[stairs.error(learner, k) for k in kappa] for learner in LEARNERS])
        degrees = range(LARGEST_MASS + 1)
        masses = 0.0 - np.diff([stairs.null_error, *(stairs.error_at_depth(0, float(k)) for k in degrees)])
        depth = np.arange(1, len(stairs.thresholds) + 1)
        meaning = {p.name: p for p in self.order_parameters}

        def variable(name: str, values: Any) -> Variable:
            p = meaning[name]
            return Variable(p.dims, values, p.latex, p.meaning)

        unknown = [f"level {t.level} has no threshold: {t.reason}" for t in stairs.levels_learned if not t.known]
        return Solution(
            {"learner": list(LEARNERS), "kappa": np.array(kappa), "level": depth, "degree": np.array(degrees)},
            {
                "mse": variable("mse", errors),
                "threshold": variable("threshold", np.array(stairs.thresholds)),
                "null_mse": variable("null_mse", np.array(stairs.null_error)),
                "degree_mass": variable("degree_mass", masses),
            },
            message="; ".join(unknown),
        )


class Plateaus(Theory):
    """Exact heights of the staircase of Fig. 1 of the paper, for any polynomials, link and depth."""

    name = "hierarchical-plateaus"
    title = "Learning staircase of kernels, two-layer and deep networks on a hierarchical target"
    summary = (
        "Asymptotic mean squared error at n = d^kappa for the three classes of learner, and the thresholds of depth."
    )
    reads: ClassVar[Reads] = {
        "target": {"hierarchical": f"{TARGET} branches"},
    }
    coordinates: ClassVar = COORDINATES
    axes = ("kappa",)
    simulation = Simulation(sizes=(64, 128, 256), replicas=8)
    references = ("dandi2025depth",)
    assumptions = (
        "x standard normal in d dimensions, hidden directions orthonormal, d^eps_l features at level l in "
        "disjoint blocks",
        "d -> infinity at fixed kappa: polylogarithmic factors and constants in n do not count",
        "readouts of mean square one and no dominating entry",
        "features of a level have zero mean",
    )
    limits = (
        "the exponents are the paper's theorem for three layers (A1-A3) and its counting argument beyond; "
        "the heights and deeper trees are this project's own",
        "where the assumptions fail, the threshold is a spectral upper bound of this project or, without one, NaN with "
        "the reason: the deep and two-layer curves then stay at the kernel's",
        "that two-layer networks learn nothing more is the paper's conjecture",
        "a degree-1 component of the first polynomial is counted as one more degree; the spike it makes is not "
        "exploited",
        "several branches must share exponents and polynomials",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Yield what the axis of sample exponents cannot be."""
        kappa = problem.grid.values("kappa")
        if min(kappa) < 0:
            yield Refusal("grid.kappa", f"exponents of a number of samples are not negative, got {min(kappa)}")
        if any(b < a for a, b in pairwise(kappa)):
            yield Refusal("grid.kappa", "must increase")

    def derive(self, problem: Problem) -> PlateauSystem:
        return PlateauSystem(problem)

    def describe(self, problem: Problem) -> dict[str, Any]:
        from .assumptions import describe_target
        from .staircase import LEARNERS, Staircase

        stairs = Staircase.of(problem.target)
        return {
            "degrees of the levels": [level.degree for level in stairs.levels],
            "thresholds": list(stairs.thresholds),
            **{f"jumps of {learner}": list(stairs.jumps(learner, 4.0)) for learner in LEARNERS},
            **describe_target(problem.target),
        }


THEORY = Plateaus()
