"""Explicit zero-loss ReLU networks of clustered data, and the 2^Q truncation states with their corrected costs.

Q clusters in R^Q with independent labels are cut, one a layer, to single points, and a last affine layer sends those
to the labels: zero loss without training. Leaving some clusters active gives 2^Q states. Their costs as printed in
the source are wrong except for the two constant states, and mixed states are not critical points of the full cost
(docs/theory/truncation.md has the proof; tests check both). States are labelled by strings, "000" to "111" in binary
order: character j is 1 if class j stays active. Source: arXiv:2309.10639, Theorems 2.3-2.5, with errata.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from ...errors import DomainError
from ...problem import Problem
from ...problem.grids import Simulation
from ...problem.truncation.stated import clusters_and_cones, load, parse_state, shifts_of, states_of
from ...symbolic.systems import ClosedForm, Equation, OrderParameter, Recursion, Solution, Step, Variable
from ..base import Reads, Refusal, Theory

COST = OrderParameter(
    "cost", (), "C_N", "cost of the explicit network, sqrt(sum_j mean_i |x_ji - y_j|^2), by a forward pass"
)
NOISE = OrderParameter(
    "noise_to_signal",
    ("layer",),
    r"\delta_P^{(l)}",
    "largest fluctuation in barycentric coordinates after l truncations",
    "O(delta)",
)
STATE_COSTS = (
    OrderParameter(
        "linear_cost", ("state",), r"C_{\mathrm{lin}}", "least cost over the last layer with cumulative bias 0"
    ),
    OrderParameter("affine_cost", ("state",), r"C_{\mathrm{aff}}", "least cost over the last layer and its bias"),
    OrderParameter(
        "printed_cost",
        ("state",),
        r"C_{\mathrm{printed}}",
        "the value printed in arXiv:2309.10639, Eq. (2.85), kept for comparison",
    ),
)
LETTERS = r"""
X, X^{(l)}    :: class means as columns; those that layers before cut are replaced by base points
X_0           :: class means before any truncation
\Sigma        :: covariance of the active classes
\Delta        :: covariance in barycentric coordinates
Y             :: labels as columns
e             :: $(1, \dots, 1)/\sqrt Q$
e_l           :: unit vector of class $l$
V             :: orthonormal basis of the complement of $e$
c             :: variance along $e$
c_{\mathrm{inv}} :: $1/c$, or 0 where $c$ is
S             :: covariance without what a free bias removes
p_l           :: base point of class $l$
\bar x_l      :: mean of class $l$
\delta x_{ji} :: fluctuation of a point about the mean of its class
x_{ji}        :: point $i$ of class $j$
l             :: layers, one a class
j             :: classes
i             :: points of a class
"""


class NoiseToSignal(Recursion):
    """Layer-by-layer map of the class means and fluctuations; delta_P is read off after each layer."""

    order_parameters = (NOISE,)
    letters = LETTERS

    def equations(self) -> list[Equation]:
        """The map of one truncation layer, and the ratio."""
        import sympy as sp

        q = sp.Symbol("Q", integer=True, positive=True)
        before, after = sp.MatrixSymbol("X^{(l-1)}", q, q), sp.MatrixSymbol("X^{(l)}", q, q)
        unit, base, mean = (sp.MatrixSymbol(n, q, 1) for n in ("e_l", "p_l", r"\bar{x}_l"))
        return [
            Equation.of(
                "means", after, before + (base - mean) * unit.T, "if layer l cuts class l; the identity otherwise"
            ),
            Equation(
                "fluctuations",
                r"\delta x_{ji}^{(l)} = \begin{cases} 0 & j = l \text{ and layer } l \text{ cuts} \\ \delta "
                r"x_{ji}^{(l-1)} & \text{else} \end{cases}",
            ),
            Equation(
                "noise_to_signal", r"\delta_P^{(l)} = \sup_{j,i} \bigl| (X^{(l)})^{-1} \delta x_{ji}^{(l)} \bigr|"
            ),
        ]

    def solve(self) -> Solution:
        """Return delta_P after layers 0..L of the explicit network."""
        import numpy as np

        from ...problem.truncation.geometry import hidden_layers
        from .landscape import noise_to_signal_by_layer

        problem = self.problem
        data, geometry = clusters_and_cones(problem)
        layers = hidden_layers(data, geometry, shifts_of(problem, geometry))
        values = noise_to_signal_by_layer(data, layers, [True] * data.classes, problem.student.layers)
        return Solution(
            {"layer": np.arange(problem.student.layers + 1)},
            {NOISE.name: Variable(NOISE.dims, values, NOISE.latex, NOISE.meaning)},
        )


class TruncationStates(ClosedForm):
    """Costs of the truncation states in closed form, with the direct measurements that say which are critical."""

    order_parameters = (COST, NOISE, *STATE_COSTS)
    letters = LETTERS

    def equations(self) -> list[Equation]:
        """The costs, squared, and the matrices they are made of."""
        import sympy as sp

        from . import formulas

        e, inverse = formulas.expressions(), {sp.Symbol("c_inv", nonnegative=True): r"c_{\mathrm{inv}}"}
        return [
            Equation.of(
                "Delta",
                r"\Delta",
                e["Delta"],
                "X: class means with collapsed ones replaced by base points; Sigma: active covariances",
            ),
            Equation.of(
                "linear_cost", r"C_{\mathrm{lin}}^2", e["linear_cost"], "cumulative bias of the last layer clamped to 0"
            ),
            Equation.of("c", "c", e["c"], "e = (1,...,1)/sqrt Q, V an orthonormal basis of its complement"),
            Equation.of("S", "S", e["S"], "Schur complement; c_inv = 1/c, or 0 if c = 0", symbol_names=inverse),
            Equation.of("affine_cost", r"C_{\mathrm{aff}}^2", e["affine_cost"], "bias of the last layer free"),
            Equation.of(
                "printed_cost",
                r"C_{\mathrm{printed}}^2",
                e["linear_cost"].subs(formulas.delta_symbol(), e["Delta_printed"]),
                "as printed: class means before truncation; right only for constant states",
            ),
            *NoiseToSignal(self.problem).equations(),
        ]

    def derivation(self) -> list[Step]:
        """From the network to truncation maps, to the last-layer optimum, to the proof that mixed states are not
        critical.
        """
        equations = {e.label: e for e in self.equations()}
        return [
            Step(
                "A network is a chain of truncations",
                "With cumulative parameters W^(l), b^(l), the hidden layers give X^(l) = W^(l) X^(tau,l) + b^(l), "
                "where X^(tau,l) is the input after l "
                "truncation maps. Layer l cuts the ball about class mean l to its base point p_l = mean_l - mu_l f_l "
                "and leaves all others alone.",
                (Equation("truncation map", r"\tau_{W,b}(x) = W^{-1}(\mathrm{relu}(W x + b) - b)"),),
            ),
            Step(
                "The best last layer",
                "For frozen hidden layers the cost is quadratic in the last layer; completing the square in "
                "barycentric coordinates gives its minimum.",
                tuple(equations[k] for k in ("Delta", "linear_cost", "c", "S", "affine_cost", "printed_cost")),
            ),
            Step(
                "Mixed states are not critical",
                "The bias of layer j moves the base point p_j of a collapsed class freely, so a critical point has "
                "W^T r_j = 0 for every collapsed j. At the "
                "best last layer the residuals lie in the range of W, hence r_j = 0 and only active classes enter "
                "its normal equations, whose solution "
                "has lower rank than W must have: a contradiction unless all classes are active or all collapsed.",
                (
                    Equation(
                        "base-point gradient", r"\partial C^2/\partial p_j = 2 W^T r_j,\quad r_j = W p_j + b - y_j"
                    ),
                ),
            ),
            Step(
                "Noise to signal, layer by layer",
                "One layer changes one class mean and removes its fluctuations; the ratio need not fall, because the "
                "mean moves towards the barycentre.",
                tuple(equations[k] for k in ("means", "fluctuations", "noise_to_signal")),
            ),
        ]

    def python(self) -> str:
        from . import formulas

        return formulas.source()

    def solve(self) -> Solution:
        """Evaluate the formulas, and build the network of every state to measure its gradient.

        Raises
        ------
        DomainError
            If a geometric assumption fails (the message names the cluster), or a state does not cut the clusters it
            should.
        """
        import numpy as np

        from ...problem.truncation.geometry import explicit_minimiser, hidden_layers
        from .landscape import examine, formula_costs, is_critical

        problem = self.problem
        data, geometry = clusters_and_cones(problem)
        enforce = problem.student.assumptions == "required"
        shifts = shifts_of(problem, geometry)
        network = explicit_minimiser(data, problem.student.layers, geometry=geometry, shifts=shifts, enforce=enforce)
        recursion = NoiseToSignal(problem).solve()
        labels = states_of(problem)
        costs, reports = [], []
        for label in labels:
            state = parse_state(label)
            mu = shifts_of(problem, geometry, state)
            costs.append(formula_costs(data, hidden_layers(data, geometry, mu).base_points, state))
            reports.append(examine(data, geometry, mu, state))
        table = np.array(costs)
        variables = {
            COST.name: Variable((), np.float64(data.cost(network(data.inputs))), COST.latex, COST.meaning),
            **recursion.variables,
        }
        for column, p in enumerate(STATE_COSTS):
            variables[p.name] = Variable(p.dims, table[:, column], p.latex, p.meaning)
        measured: dict[str, tuple[Any, str, str]] = {
            "hidden_gradient_norm": (
                np.array([r.bias_gradient for r in reports]),
                r"\max_j |\partial C^2/\partial b_j|_\infty",
                "largest component of dC^2/db over the layers of collapsed classes (all layers if none is), at the "
                "affine optimum",
            ),
            "full_gradient_norm": (
                np.array([r.full_gradient for r in reports]),
                r"|\nabla C^2|_\infty",
                "largest component of the gradient in all weights and biases",
            ),
            "critical": (
                np.array([is_critical(data, parse_state(s), r) for s, r in zip(labels, reports, strict=True)]),
                "",
                "whether the state is a critical point of the full cost",
            ),
        }
        for name, (values, latex, meaning) in measured.items():
            variables[name] = Variable(("state",), values, latex, meaning)
        coords: dict[str, Any] = {"layer": recursion.coords["layer"], "state": np.array(labels)}
        measured_costs = np.array([(r.linear, r.affine) for r in reports])
        gap = np.abs(table[:, :2] - measured_costs).max(axis=1)
        worst = int(gap.argmax())
        # The formulas hold exactly when every layer cuts its own cluster and no other.
        if enforce and gap[worst] > 1e-8 * max(1.0, float(np.abs(data.labels).max())):
            raise DomainError(
                "a truncation state does not cut the clusters it should",
                where=f"state {labels[worst]}",
                why=f"formula and least squares differ by {gap[worst]:.3g}",
                hint="check student.shifts and student.theta against the admissible interval",
            )
        violations = [v.message for v in geometry.violations]
        stats: dict[str, Any] = {
            "delta": data.radius,
            "theta_degrees": float(np.degrees(geometry.theta)),
            "stretch": geometry.stretch,
            "shift_interval": list(geometry.interval),
            "reach": geometry.reach,
            "formula_minus_least_squares": float(gap[worst]),
            "violations": violations,
        }
        return Solution(coords, variables, message="; ".join(violations), stats=stats)


def state_network(problem: Problem, label: str) -> Any:
    """Return the network of one truncation state with its affine last layer, where training may start."""
    from .landscape import examine

    data, geometry = clusters_and_cones(problem)
    state = parse_state(label)
    return examine(data, geometry, shifts_of(problem, geometry, state), state).network


class TruncationTheory(Theory):
    """Explicit minimisers and truncation states."""

    name = "truncation"
    title = "Truncation states of clustered data"
    summary = (
        "A ReLU network with one layer a class fits clustered data exactly by formula; its 2^Q truncation "
        "states have closed-form costs."
    )
    reads: ClassVar[Reads] = {
        "data": {"points/clusters": "*", "points/classes": "*", "points/class-file": "*"},
        "student": {"truncation": "layers shifts theta assumptions"},
        "algorithm": {"construct": ""},
        "grid": "state",
    }
    simulation = Simulation(sizes=(400, 1600, 6400), replicas=16)
    references = ("chen2023geometric", "chen2023shallow", "chen2025interpretable", "ewald2025explicit")
    assumptions = (
        "as many input dimensions, hidden units and hidden layers (or more layers) as classes; labels and class "
        "means linearly independent",
        "each cluster lies in a ball of radius delta < c0 |mean - barycentre|, c0 = 1/4, and sees all others in a "
        "cone of opening < 180 degrees",
        "cut clusters move by |mu_j| between 2 delta sqrt Q and the cap min(D, 0.95 min_j |mean_j - barycentre|)",
    )
    limits = (
        "mixed states are minima only while the hidden layers are frozen: they are never critical points of the full "
        "cost",
        "the all-active state is a degenerate local minimum with value affine_cost, below the printed one",
        "printed_cost is kept for comparison with the source: it is right (for a clamped bias) only for the two "
        "constant states",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse fewer layers than classes, and lists that do not have an entry a class."""
        student, state = problem.student, problem.grid.state
        classes = problem.data.classes
        if student.layers < classes:
            why = f"at least the number of classes, {classes}: one cluster is cut a layer"
            yield Refusal("student.layers", why)
        if student.shifts and len(student.shifts) != classes:
            yield Refusal("student.shifts", f"one number a class, {classes}, got {len(student.shifts)}")
        for label in () if state is None or state == "all" else state:
            if len(label) != classes or set(label) - {"0", "1"}:
                why = f"labels made of 0 and 1, {classes} characters, one a class, such as {'01' * classes:.{classes}}"
                yield Refusal("grid.state", f"{why}; got {label!r}")

    def derive(self, problem: Problem) -> TruncationStates:
        """Return the closed forms of all states, with the layer recursion of the noise-to-signal ratio."""
        return TruncationStates(problem)

    def describe(self, problem: Problem) -> dict[str, Any]:
        """Return the geometry of the clusters and which assumptions they violate."""
        import math

        from ...problem.truncation.geometry import cones

        data = load(problem.data)
        found = cones(data)
        return {
            "delta": data.radius,
            "largest opening (degrees)": float(found.openings.max()) * 180 / math.pi,
            "admissible |mu|": (found.threshold, found.cap),
            "violations": [v.message for v in found.violations],
        }


THEORY = TruncationTheory()
