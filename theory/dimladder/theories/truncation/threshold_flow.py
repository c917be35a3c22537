"""Effective gradient flow of a truncation threshold in one rotated coordinate: t' = F(t)(target - t).

When every hidden weight matrix is a rotation (a positive diagonal matrix commutes with relu and drops out) and the
rotations are held, gradient flow of the biases decouples: each rotated coordinate k of a layer has a threshold t_k =
-(R beta)_k below which data are cut, and ``t_k' = sum_j pi_j F_jk(t_k) (eta_jk - t_k)``, with F_jk the distribution
function of the coordinate in class j, eta_jk the rotated target and pi_j = N_j/N. Time is in units where a fully
truncated data set relaxes at rate 1; the dimension does not appear. Source: arXiv:2501.07400, in the form derived in
docs/theory/truncation.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ...problem import OdeSolver, Problem
from ...problem.coordinates import EmpiricalCoordinate, components, points
from ...problem.grids import Simulation
from ...symbolic.explicit import ExplicitFlow
from ...symbolic.systems import Equation, Equations, OrderParameter, Solution, Step, System, Variable
from ..base import Reads, Refusal, Theory

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


THRESHOLD = OrderParameter(
    "threshold",
    (),
    r"\vartheta",
    "threshold -(R beta)_k below which a rotated coordinate of the data is cut",
    units="units of the data",
)
LAWS = ("gaussian", "uniform", "exponential", "mixture", "empirical")
MEANINGS = {
    "truncated_fraction": (r"F(\vartheta)", "fraction of the data that is truncated"),
    "cost": (r"c(\vartheta)", "half the mean squared distance of the truncated data from their targets"),
}


def _named(variables: dict[str, Variable]) -> dict[str, Variable]:
    for name, (latex, meaning) in MEANINGS.items():
        v = variables[name]
        variables[name] = Variable(v.dims, v.values, latex, meaning)
    return variables


def _derivation(equations: Sequence[Equation]) -> list[Step]:
    return [
        Step(
            "Truncation in rotated coordinates",
            "A hidden layer with weight matrix (positive diagonal) x (rotation R) acts on its input as tau(x) = R^T "
            "relu(R(x + beta)) - beta. "
            "In the coordinates z = R x it replaces z_k by max(z_k, h_k), with the threshold h_k = -(R beta)_k.",
            (Equation("truncation", r"z_k \mapsto \max(z_k, \vartheta_k)"),),
        ),
        Step(
            "The cost pulled back to the input layer",
            "With the last layer held, the cost is half the mean squared distance of the truncated data from the "
            "pulled-back targets. "
            "It is a sum over coordinates, each a function of its own threshold.",
            (Equation("potential", r"c(\vartheta) = \frac12 \mathbb{E}\,[(\max(z, \vartheta) - \eta)^2]"),),
        ),
        Step(
            "Gradient flow",
            "d max(z, h)/dh is 1 where z <= h and 0 elsewhere, so dc/dh = E[1(z <= h)(h - eta)] = F(h)(h - eta), and "
            "h' = -dc/dh. "
            "Only truncated points pull; where F = 0 the threshold rests on the plateau of the all-active minimum.",
            tuple(equations),
        ),
    ]


LETTERS = r"""
\eta, \eta_1  :: value that the points of a cluster are to take
m, m_1        :: mean of a cluster along the coordinate
s, s_1        :: standard deviation of a cluster along the coordinate
a, a_1, b, b_1 :: ends of a uniform cluster
o, o_1        :: start of an exponential cluster
\pi_1         :: share of a cluster
z_i           :: points in the coordinate
\eta_i        :: values that points are to take
N             :: number of points
i             :: points
F             :: fraction of the data that is truncated
c             :: half the mean squared distance of the truncated data from their targets
t             :: time, in units in which a fully cut data set relaxes
"""


class PopulationFlow(ExplicitFlow):
    """Infinitely many points: F is the closed distribution function of the law."""

    time_unit = "relaxation time of a fully truncated data set"
    order_parameters = (THRESHOLD,)
    letters = LETTERS
    shown: ClassVar[Mapping[str, str]] = {name: latex for name, (latex, _) in MEANINGS.items()}

    @property
    def _kinds(self) -> tuple[Any, ...]:
        return tuple(type(c) for c in components(self.problem.data)[1])

    def structure(self) -> tuple[Any, ...]:
        return tuple(kind.__name__ for kind in self._kinds)

    def build(self) -> Equations:
        import sympy as sp

        # Time is t, so the threshold has another letter here.
        t = sp.Symbol("vartheta", real=True)
        single = len(self._kinds) == 1
        velocity, fraction, cost, symbols = sp.S(0), sp.S(0), sp.S(0), []
        for j, kind in enumerate(self._kinds):
            label = "" if single else f"_{j}"
            weight, eta = sp.Symbol(f"pi{label or '_0'}", positive=True), sp.Symbol(f"eta{label}", real=True)
            own = [sp.Symbol(f"{name}{label}", real=True) for name in kind.names]
            symbols += [eta, *own] if single else [weight, eta, *own]
            share = sp.S(1) if single else weight
            cdf = kind.cdf(t, *own)
            velocity += share * cdf * (eta - t)
            fraction += share * cdf
            cost += share * kind.potential(t, eta, *own)
        return Equations({t: velocity}, tuple(symbols), {"truncated_fraction": fraction, "cost": cost})

    def parameter_values(self) -> list[float]:
        weights, clusters = components(self.problem.data)
        single = len(clusters) == 1
        return [
            x
            for w, c in zip(weights, clusters, strict=True)
            for x in ((c.target, *c.values()) if single else (w, c.target, *c.values()))
        ]

    def initial_values(self) -> list[float]:
        return [self.problem.initial.threshold]

    def variables(self, times: Array, states: Array) -> dict[str, Variable]:
        return _named(super().variables(times, states))

    def derivation(self) -> list[Step]:
        return _derivation(self.equations())


class EmpiricalFlow(System):
    """Finitely many points: piecewise linear, solved exactly from one order statistic to the next."""

    kind = "flow"
    order_parameters = (THRESHOLD,)
    letters = LETTERS

    def equations(self) -> list[Equation]:
        import sympy as sp

        count, i = sp.symbols("N i", integer=True, positive=True)
        t, z, eta = sp.Symbol("vartheta", real=True), sp.IndexedBase("z"), sp.IndexedBase("eta")
        step = sp.Heaviside(t - z[i], 1)
        clipped = sp.Max(z[i], t)
        return [
            Equation.of(
                "threshold",
                r"\frac{\mathrm{d} \vartheta}{\mathrm{d} t}",
                sp.Sum(step * (eta[i] - t), (i, 1, count)) / count,
            ),
            Equation.of("truncated_fraction", MEANINGS["truncated_fraction"][0], sp.Sum(step, (i, 1, count)) / count),
            Equation.of("cost", MEANINGS["cost"][0], sp.Sum((clipped - eta[i]) ** 2, (i, 1, count)) / (2 * count)),
        ]

    def derivation(self) -> list[Step]:
        exact = Equation(
            "between order statistics",
            r"\vartheta(t) = \bar\eta_n - (\bar\eta_n - \vartheta_0)\, e^{-n t/N},\quad \bar\eta_n = \tfrac1n "
            r"\sum_{z_i \le \vartheta} \eta_i",
        )
        return [
            *_derivation(self.equations()),
            Step("Exact solution", "Between two order statistics n is constant and the flow is linear.", (exact,)),
        ]

    def python(self) -> str:
        import inspect

        from ...numerics import threshold_path

        return inspect.getsource(threshold_path)

    def solve(self) -> Solution:
        import numpy as np

        from ...numerics.threshold_path import fraction_and_cost, threshold_path

        problem = self.problem
        z, eta = points(problem.data)
        times = np.array(problem.grid.values("time"))
        path = threshold_path(z, eta, problem.initial.threshold, times)
        fraction, cost = fraction_and_cost(z, eta, path)
        p = THRESHOLD
        variables = {
            p.name: Variable(("time",), path, p.latex, p.meaning, p.units),
            "truncated_fraction": Variable(("time",), fraction),
            "cost": Variable(("time",), cost),
        }
        return Solution({"time": times}, _named(variables))


class TruncationFlowTheory(Theory):
    """t' = F(t)(target - t): the one-coordinate reduction of gradient flow on truncations."""

    name = "truncation-flow"
    title = "Gradient flow of a truncation threshold"
    summary = (
        "The threshold below which a ReLU layer cuts its data moves as t' = F(t)(target - t), F the "
        "distribution function of the data."
    )
    reads: ClassVar[Reads] = {
        "data": dict.fromkeys((f"coordinate/{law}" for law in LAWS), "*"),
        "algorithm": {"gradient-flow": ""},
        "initial": {"explicit": "threshold"},
    }
    axes = ("time",)
    solver = OdeSolver()
    simulation = Simulation(sizes=(100, 400, 1600, 6400), replicas=40)
    references = ("chen2025derivation", "chen2023geometric")
    assumptions = (
        "hidden weights are positive diagonal matrices times rotations, and the rotations are held",
        "the last layer is held; the cost is Euclidean after pulling the labels back to input space",
        "infinitely many points for a law with a density; exact for finitely many with data.law = 'empirical'",
    )
    limits = (
        "F(t) = 0: a plateau, the all-active degenerate minimum",
        "F = 1: exponential relaxation at rate 1 (N_l/N for one cluster of several)",
        "N points: deviations of order N^-1/2, bias of order 1/N",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse a flow that starts nowhere."""
        if problem.initial.threshold is None:
            yield Refusal("initial.threshold", "is required", "where the flow starts, in the units of the data")

    def derive(self, problem: Problem) -> System:
        """Return the flow: closed for a law with a density, event-driven for data."""
        if isinstance(problem.data, EmpiricalCoordinate):
            return EmpiricalFlow(problem)
        return PopulationFlow(problem)


THEORY = TruncationFlowTheory()
