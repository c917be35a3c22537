"""Two more explicit ReLU networks of clustered data: one hidden layer, and one hyperplane a class.

The shallow network (arXiv:2309.10370) keeps the span of the class means and kills the rest; its costs are closed forms
in Delta = Pen (sum_j Cov_j) Pen^T. The separable one (arXiv:2405.07098) cuts one class a layer by a hyperplane, however
elongated the classes are; after l cuts the least cost over the last layer is that of the truncation state in which
those classes have collapsed, and after all of them it is zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from ...errors import DomainError
from ...problem import Problem
from ...problem.grids import Simulation
from ...problem.truncation.stated import given, load
from ...symbolic.systems import ClosedForm, Equation, OrderParameter, Solution, Step, Variable
from ..base import Reads, Refusal, Theory
from .states import LETTERS, TruncationStates

DATA: Mapping[str | None, str] = {"points/clusters": "*", "points/classes": "*", "points/class-file": "*"}
SHALLOW = (
    OrderParameter("noise_to_signal", (), r"\delta_P", "largest |Pen P dx| over the points", "O(delta)"),
    OrderParameter(
        "construction_cost", (), r"C_{\mathrm{shallow}}", "cost of the network with last layer Y Pen: the printed bound"
    ),
    OrderParameter("coarse_bound", (), r"C_{\mathrm{coarse}}", "what the bound is bounded by"),
    OrderParameter("linear_cost", (), r"C_{\mathrm{lin}}", "least cost over the last layer with its bias tied to it"),
    OrderParameter("affine_cost", (), r"C_{\mathrm{aff}}", "least cost over the last layer and its bias"),
)
SEPARABLE = (
    OrderParameter("cost", (), "C_N", "cost of the explicit network, by a forward pass"),
    OrderParameter("linear_cost", ("layer",), r"C_{\mathrm{lin}}", "least cost after l cuts, cumulative bias 0"),
    OrderParameter("affine_cost", ("layer",), r"C_{\mathrm{aff}}", "least cost over last layer and bias after l cuts"),
    OrderParameter("margin", ("cut",), r"g_l", "distance of the nearest point from the hyperplane of a cut"),
    OrderParameter("cut_class", ("cut",), r"j_l", "the class that is cut"),
    OrderParameter("fraction", ("cut",), r"\phi_l", "where p_j lies on the way from the class mean to the barycentre"),
)


def _last_layer(problem: Problem) -> list[Equation]:
    """The equations of the least costs, those of the truncation states."""
    kept = ("Delta", "linear_cost", "c", "S", "affine_cost")
    return [e for e in TruncationStates(problem).equations() if e.label in kept]


def _variables(order_parameters: Iterable[OrderParameter], values: dict[str, Any]) -> dict[str, Variable]:
    import numpy as np

    return {p.name: Variable(p.dims, np.asarray(values[p.name]), p.latex, p.meaning) for p in order_parameters}


class ShallowConstruction(ClosedForm):
    """Costs of the network with one hidden layer."""

    order_parameters = SHALLOW
    letters = (
        LETTERS
        + r"""
P             :: projector on the span of the class means
\mathrm{Pen}  :: barycentric coordinates of a point
\delta_P      :: largest fluctuation in barycentric coordinates
C_{\mathrm{shallow}} :: cost of the construction
C_{\mathrm{coarse}} :: bound of that cost
Q             :: number of classes
"""
    )

    def equations(self) -> list[Equation]:
        """The projector, the bound and the least costs."""
        return [
            Equation("pen", r"\mathrm{Pen} = (X^\top X)^{-1}X^\top,\quad P = X\,\mathrm{Pen}"),
            Equation("noise_to_signal", r"\delta_P = \sup_{j,i}|\mathrm{Pen}\,P\,\delta x_{ji}|"),
            Equation(
                "construction_cost", r"C_{\mathrm{shallow}}^2 = \operatorname{tr} Y\Delta Y^\top",
                note="last layer Y Pen on what the hidden layer keeps; here X has as many rows as dimensions",
            ),
            Equation("coarse_bound", r"C_{\mathrm{coarse}} = \sqrt Q\,\|Y\|\,\delta_P"),
            *_last_layer(self.problem),
        ]  # fmt: skip

    def derivation(self) -> list[Step]:
        equations = {e.label: e for e in self.equations()}
        return [
            Step(
                "One hidden layer projects",
                "An orthogonal W_1 whose first Q rows span the class means, with biases +beta on these and -beta on "
                "the others, is linear on P x and zero on the rest once beta exceeds every |W_1 x|.",
                (equations["pen"], equations["noise_to_signal"]),
            ),
            Step(
                "The printed bound is the cost of one last layer",
                "W_2 = Y Pen sends every class mean to its label, so that only fluctuations are left.",
                (equations["construction_cost"], equations["coarse_bound"]),
            ),
            Step(
                "The best last layer",
                "It improves on the bound by a relative O(delta_P^2) with the bias tied to the weights "
                "(b_2 = -W_2 b_1), and by more with the bias free.",
                tuple(equations[k] for k in ("Delta", "linear_cost", "c", "S", "affine_cost")),
            ),
        ]

    def solve(self) -> Solution:
        """Evaluate the closed forms."""
        import numpy as np

        from ...problem.truncation.clusters import project
        from ...problem.truncation.shallow import bounds
        from .landscape import formula_costs

        data = given(self.problem.data)
        found, flat = bounds(data), project(data)
        linear, affine, _ = formula_costs(flat, flat.means, np.ones(data.classes, dtype=bool))
        values = {
            "noise_to_signal": found.noise_to_signal, "construction_cost": found.bound, "linear_cost": linear,
            "coarse_bound": found.coarse_bound, "affine_cost": affine,
        }  # fmt: skip
        return Solution({}, _variables(SHALLOW, values), stats={"dimension": data.dimension})


class SeparableConstruction(ClosedForm):
    """Costs after every cut of the network of hyperplanes."""

    order_parameters = SEPARABLE
    letters = (
        LETTERS
        + r"""
h_l           :: unit normal of the hyperplane of cut $l$
j_l           :: class of cut $l$
\phi_l        :: where the hyperplane meets the way from the class mean to the barycentre
\bar x        :: barycentre of the class means
g_l           :: margin of cut $l$
x             :: any other point that is left
k             :: cuts made before
"""
    )

    def equations(self) -> list[Equation]:
        """The cuts, and the least cost after each."""
        return [
            Equation("base_point", r"p_{j_l} = \bar x_{j_l} + \phi_l(\bar x - \bar x_{j_l})"),
            Equation(
                "cut", r"h_l\cdot(x_{j_li} - p_{j_l}) \le -g_l,\quad h_l\cdot(x - p_{j_l}) \ge g_l",
                note="x: points of the classes that are left, and p of those cut before; g_l is the largest possible",
            ),
            *_last_layer(self.problem),
        ]  # fmt: skip

    def derivation(self) -> list[Step]:
        equations = {e.label: e for e in self.equations()}
        return [
            Step(
                "One hyperplane a class",
                "Linear programmes of largest margin find the order and the hyperplanes; the cone of a layer is "
                "opened until it is almost the half-space, so that the class behind it collapses to p.",
                (equations["base_point"], equations["cut"]),
            ),
            Step(
                "The best last layer after l cuts",
                "The classes that were cut are points, the others are untouched: a truncation state.",
                tuple(equations[k] for k in ("Delta", "linear_cost", "c", "S", "affine_cost")),
            ),
        ]

    def solve(self) -> Solution:
        """Find the cuts and evaluate the closed forms after each.

        Raises
        ------
        DomainError
            If the classes cannot be cut one after the other, or the points p_j are linearly dependent.
        """
        import numpy as np

        from ...problem.truncation.separable import base_points, separable_network
        from .landscape import formula_costs

        data = load(self.problem.data)
        chain = cuts_of(self.problem, data)
        network = separable_network(data, chain)
        base, state, costs = base_points(chain), np.ones(data.classes, dtype=bool), []
        for cut in (None, *chain):
            if cut is not None:
                state[cut.cluster] = False
            costs.append(formula_costs(data, base, state)[:2])
        table = np.array(costs)
        values = {
            "cost": data.cost(network(data.inputs)), "linear_cost": table[:, 0], "affine_cost": table[:, 1],
            "margin": [c.margin for c in chain], "cut_class": [float(c.cluster) for c in chain],
            "fraction": [c.fraction for c in chain],
        }  # fmt: skip
        coords = {"layer": np.arange(data.classes + 1), "cut": np.arange(1, data.classes + 1)}
        return Solution(coords, _variables(SEPARABLE, values))


def cuts_of(problem: Problem, data: Any) -> Any:
    """Return the cuts, in the order asked for."""
    from ...problem.truncation.separable import sequential_cuts

    try:
        return sequential_cuts(data, problem.student.order or None)
    except DomainError as error:
        raise DomainError(
            error.what, where="student.order" if problem.student.order else "data", why=error.why, hint=error.hint
        ) from None


class ShallowTheory(Theory):
    """The shallow construction."""

    name = "truncation-shallow"
    title = "Clustered data and one hidden ReLU layer"
    summary = (
        "A ReLU network with one hidden layer keeps the span of the class means; its costs are closed forms in the "
        "noise-to-signal ratio."
    )
    reads: ClassVar[Reads] = {"data": DATA, "student": {"truncation-shallow": ""}, "algorithm": {"construct": ""}}
    simulation = Simulation(sizes=(400, 1600, 6400), replicas=16)
    references = ("chen2023shallow", "chen2023geometric")
    assumptions = ("at least as many input dimensions as classes; labels and class means linearly independent",)
    limits = ("bounds of the least cost of this architecture, not its minimum: training may do better",)

    def derive(self, problem: Problem) -> ShallowConstruction:
        """Return the closed forms."""
        return ShallowConstruction(problem)


class SeparableTheory(Theory):
    """The construction for sequentially separable data."""

    name = "truncation-separable"
    title = "Clustered data and one hyperplane a class"
    summary = (
        "A ReLU network with one layer a class fits sequentially linearly separable data exactly; the least cost after "
        "every cut is a closed form."
    )
    reads: ClassVar[Reads] = {
        "data": DATA, "student": {"truncation-separable": "order"}, "algorithm": {"construct": ""},
    }  # fmt: skip
    coordinates: ClassVar = {"cut": ("cut $l$", "")}
    simulation = Simulation(sizes=(400, 1600, 6400), replicas=16)
    references = ("chen2025interpretable", "chen2023geometric")
    assumptions = (
        "an order of the classes in which a hyperplane through a point between mean and barycentre cuts each from all "
        "later ones and from the points of the earlier ones",
    )
    limits = ("zero loss on the data given: what a new point of an elongated class does is not said",)

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse an order that does not list every class once."""
        order, classes = problem.student.order, problem.data.classes
        if order and sorted(order) != list(range(classes)):
            yield Refusal("student.order", f"every class from 0 to {classes - 1} once, got {list(order)}")

    def derive(self, problem: Problem) -> SeparableConstruction:
        """Return the closed forms after every cut."""
        return SeparableConstruction(problem)


SHALLOW_THEORY, SEPARABLE_THEORY = ShallowTheory(), SeparableTheory()
