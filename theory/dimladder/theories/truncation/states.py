"""Explicit zero-loss ReLU networks of clustered data, and the 2^Q truncation states with their corrected costs.

Q clusters in R^Q with independent labels are cut, one a layer, to single points, and a last affine layer sends those
to the labels: zero loss without training. Leaving some clusters active gives 2^Q states. Their costs as printed in
the source are wrong except for the two constant states, and mixed states are not critical points of the full cost
(docs/theory/truncation.md has the proof; tests check both). States are labelled by strings, "000" to "111" in binary
order: character j is 1 if class j stays active. Source: arXiv:2309.10639, Theorems 2.3-2.5, with errata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ...errors import DomainError
from ...problem import Problem, Spec
from ...problem.sections import check_replicas, check_sizes
from ...symbolic.systems import ClosedForm, Equation, OrderParameter, Recursion, Solution, Step, Variable
from ..base import Theory

if TYPE_CHECKING:
    from .geometry import ClusteredData, Cones


class BallClusters(Spec, frozen=True, kw_only=True, tag_field="kind", tag="clusters"):
    """Q clusters in R^Q, class j uniform in a ball about ``separation e_j + mean_jitter N(0, 1)``; see
    `geometry.ball_clusters`.

    `counts` are the N_j; labels are ``e_j + label_jitter N(0, 1)``.
    """

    classes: int
    counts: tuple[int, ...]
    separation: float
    mean_jitter: float = 0.0
    radius: float
    label_jitter: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"classes must be at least 2, got {self.classes}")
        if len(self.counts) != self.classes:
            raise ValueError(f"counts must list one number a class: {len(self.counts)} for {self.classes} classes")
        if min(self.counts) < 1:
            raise ValueError("every class needs at least one point")
        if self.separation <= 0 or self.radius < 0 or self.mean_jitter < 0 or self.label_jitter < 0:
            raise ValueError("separation must be positive; radius, mean_jitter and label_jitter must not be negative")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    def load(self) -> ClusteredData:
        """Return the points and labels."""
        from .geometry import ball_clusters

        return ball_clusters(
            self.classes, self.counts, self.separation, self.mean_jitter, self.radius, self.seed, self.label_jitter
        )


class ExplicitPoints(Spec, frozen=True, kw_only=True, tag_field="kind", tag="points"):
    """The data themselves: ``points[j][i]`` is point i of class j, ``labels[j]`` the label vector of class j (unit
    vectors by default).
    """

    points: tuple[tuple[tuple[float, ...], ...], ...]
    labels: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        sizes = {len(x) for group in self.points for x in group}
        if len(self.points) < 2 or any(not group for group in self.points) or len(sizes) != 1:
            raise ValueError("points must list at least two non-empty classes of points of one dimension")
        if self.labels and (
            len(self.labels) != len(self.points) or any(len(y) != len(self.points) for y in self.labels)
        ):
            raise ValueError("labels must list one vector a class, each with one entry a class")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.points)

    def load(self) -> ClusteredData:
        """Return the points and labels."""
        import numpy as np

        from .geometry import ClusteredData

        labels = np.array(self.labels).T if self.labels else np.eye(len(self.points))
        return ClusteredData(tuple(np.array(group).T for group in self.points), labels)


class PointsFile(Spec, frozen=True, kw_only=True, tag_field="kind", tag="file"):
    """Data in a NumPy ``.npz`` file: ``x`` (N, Q) inputs, ``label`` (N,) classes 0..Q-1, optional ``y`` (Q, Q), row
    j the label of class j.
    """

    path: str
    classes: int

    def load(self) -> ClusteredData:
        """Return the points and labels."""
        from pathlib import Path

        import numpy as np

        from .geometry import ClusteredData

        if not Path(self.path).is_file():
            raise DomainError("the data file does not exist", where="data.path", why=self.path)
        with np.load(self.path, allow_pickle=False) as file:
            missing = {"x", "label"} - set(file.files)
            if missing:
                raise DomainError(
                    "the data file lacks arrays",
                    where=f"data.path: {self.path}",
                    why=f"no {', '.join(sorted(missing))}",
                )
            x, label = np.asarray(file["x"], dtype=float), np.asarray(file["label"])
            y = np.asarray(file["y"], dtype=float).T if "y" in file.files else np.eye(self.classes)
        if x.ndim != 2 or label.shape != (x.shape[0],) or set(np.unique(label)) != set(range(self.classes)):
            raise DomainError(
                "the data file does not fit the problem",
                where=f"data.path: {self.path}",
                why=f"x has shape {x.shape}, label {label.shape} with values {np.unique(label)[:8]}; "
                f"expected (N, dimension), (N,), and classes 0..{self.classes - 1}",
            )
        return ClusteredData(tuple(x[label == j].T for j in range(self.classes)), y)


class ReluTruncation(Spec, frozen=True, kw_only=True, tag_field="kind", tag="relu-truncation"):
    """The explicit network.

    Attributes
    ----------
    layers : int
        Hidden layers, at least one a class.
    shifts : tuple of float
        |mu_j|, how far each cluster is moved towards the barycentre when it is cut; by default 4 delta sqrt Q for the
        explicit network and the middle of the admissible interval for the states.
    theta : float or None
        Opening of the cones in degrees; by default half-way between the smallest possible and 180.
    assumptions : "required" or "reported"
        Whether violated geometric assumptions stop the solve, or are only listed in its message.
    """

    layers: int
    shifts: tuple[float, ...] = ()
    theta: float | None = None
    assumptions: Literal["required", "reported"] = "required"

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers must be positive, got {self.layers}")
        if any(not s > 0 for s in self.shifts):
            raise ValueError("shifts are distances |mu_j| and must be positive")
        if self.theta is not None and not 0 < self.theta < 180:
            raise ValueError(f"theta must lie between 0 and 180 degrees, got {self.theta}")


class StateGrid(Spec, frozen=True, kw_only=True):
    """Which truncation states: "all", or a list of labels such as "011"."""

    state: Literal["all"] | tuple[str, ...] = "all"

    def __post_init__(self) -> None:
        if self.state != "all" and (not self.state or any(not s or set(s) - {"0", "1"} for s in self.state)):
            raise ValueError("state must be 'all' or a list of labels made of 0 and 1, such as '011'")


class EvaluationSamples(Spec, frozen=True, kw_only=True):
    """Sizes and statistics of the experiment: points drawn from the clusters to measure the costs."""

    samples: tuple[int, ...] = (400, 1600, 6400)
    replicas: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.samples, "samples")
        check_replicas(self.replicas)


class Truncation(Problem, frozen=True, kw_only=True):
    """Clustered data and the explicit ReLU network that fits them."""

    data: BallClusters | ExplicitPoints | PointsFile
    student: ReluTruncation
    grid: StateGrid = StateGrid()
    simulation: EvaluationSamples = EvaluationSamples()

    def __post_init__(self) -> None:
        q = self.data.classes
        if self.student.layers < q:
            raise ValueError(f"student.layers must be at least the number of classes, {q}: one cluster is cut a layer")
        if self.student.shifts and len(self.student.shifts) != q:
            raise ValueError(f"student.shifts must list one number a class, {q}")
        if self.grid.state != "all" and any(len(s) != q for s in self.grid.state):
            raise ValueError(f"grid.state labels must have one character a class, {q}")

    def states(self) -> tuple[str, ...]:
        """Labels asked for, in binary order for "all"."""
        if self.grid.state != "all":
            return self.grid.state
        q = self.data.classes
        return tuple(format(n, f"0{q}b") for n in range(2**q))

    def geometry(self) -> tuple[ClusteredData, Cones]:
        """Load the data, work out the cones, and insist on the assumptions unless they are only to be reported.

        Data of more dimensions than classes are projected on the span of the class means: a first layer that does so
        costs nothing.
        """
        import math

        from .geometry import cones
        from .shallow import project

        data = self.data.load()
        if data.dimension > data.classes:
            data = project(data)
        theta = None if self.student.theta is None else math.radians(self.student.theta)
        found = cones(data, theta=theta)
        if self.student.assumptions == "required":
            found.require()
        return data, found

    def shifts(self, geometry: Cones, state: Any = None) -> Any:
        """mu_j of the explicit network (`state` None) or of a state; negative where a cluster is cut."""
        import numpy as np

        from .geometry import default_shifts

        mu = default_shifts(geometry, state)
        if self.student.shifts:
            cut = np.ones(len(mu), dtype=bool) if state is None else ~np.asarray(state, dtype=bool)
            mu = np.where(cut, -np.array(self.student.shifts), mu)
        return mu


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


class NoiseToSignal(Recursion):
    """Layer-by-layer map of the class means and fluctuations; delta_P is read off after each layer."""

    order_parameters = (NOISE,)

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

        from .geometry import hidden_layers
        from .landscape import noise_to_signal_by_layer

        problem: Truncation = self.problem  # type: ignore[assignment]
        data, geometry = problem.geometry()
        layers = hidden_layers(data, geometry, problem.shifts(geometry))
        values = noise_to_signal_by_layer(data, layers, [True] * data.classes, problem.student.layers)
        return Solution(
            {"layer": np.arange(problem.student.layers + 1)},
            {NOISE.name: Variable(NOISE.dims, values, NOISE.latex, NOISE.meaning)},
        )


class TruncationStates(ClosedForm):
    """Costs of the truncation states in closed form, with the direct measurements that say which are critical."""

    order_parameters = (COST, NOISE, *STATE_COSTS)

    def equations(self) -> list[Equation]:
        """The costs, squared, and the matrices they are made of."""
        from . import formulas

        e = formulas.expressions()
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
            Equation.of("S", "S", e["S"], "Schur complement; c_inv = 1/c, or 0 if c = 0"),
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

        from .geometry import explicit_minimiser, hidden_layers
        from .landscape import examine, formula_costs, is_critical, parse_state

        problem: Truncation = self.problem  # type: ignore[assignment]
        data, geometry = problem.geometry()
        enforce = problem.student.assumptions == "required"
        shifts = problem.shifts(geometry)
        network = explicit_minimiser(data, problem.student.layers, geometry=geometry, shifts=shifts, enforce=enforce)
        recursion = NoiseToSignal(problem).solve()
        labels = problem.states()
        costs, reports = [], []
        for label in labels:
            state = parse_state(label)
            mu = problem.shifts(geometry, state)
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


class TruncationTheory(Theory):
    """Explicit minimisers and truncation states."""

    name = "truncation"
    title = "Truncation states of clustered data"
    summary = (
        "A ReLU network with one layer a class fits clustered data exactly by formula; its 2^Q truncation "
        "states have closed-form costs."
    )
    problem_type = Truncation
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

    def derive(self, problem: Truncation) -> TruncationStates:
        """Return the closed forms of all states, with the layer recursion of the noise-to-signal ratio."""
        return TruncationStates(problem)

    def describe(self, problem: Truncation) -> dict[str, Any]:
        """Return the geometry of the clusters and which assumptions they violate."""
        import math

        from .geometry import cones
        from .shallow import project

        data = problem.data.load()
        if data.dimension > data.classes:
            data = project(data)
        found = cones(data)
        return {
            "delta": data.radius,
            "largest opening (degrees)": float(found.openings.max()) * 180 / math.pi,
            "admissible |mu|": (found.threshold, found.cap),
            "violations": [v.message for v in found.violations],
        }


THEORY = TruncationTheory()
