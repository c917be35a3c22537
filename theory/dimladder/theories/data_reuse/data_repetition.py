"""Data repetition: SGD whose gradient is taken after a trial step on the same sample (look-ahead or sharpness-aware).

Student f(x) = a s(w . x / sqrt d), label y = h(w* . x / sqrt d) + noise xi. With L the loss of one fresh sample

    w <- w - eta grad L(w - rho grad L(w)),   eta, rho in units where a step moves a field by O(1/d) resp. O(1),

`displacement` = rho > 0 looks ahead (two uses of the sample), < 0 is sharpness-aware minimisation, 0 one-pass SGD.
Time = samples / d. Nothing projects the weight: its norm is an order parameter.

Source: Arnaboldi, Dandi, Krzakala, Pesce & Stephan, arXiv:2405.15459; one student unit here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...problem import Expression, OdeSolver, Problem, Simulation, SingleIndex, Spec, TimeGrid, activation
from ...problem.expressions import drop_atoms
from ...symbolic.systems import Equation, OrderParameter, Solution, Step, Variable
from ..base import Theory
from .averages import SampleAverages, overlap_drifts, symbols
from .flow import AveragedFlow

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


class OneUnit(Spec, frozen=True, kw_only=True, tag_field="kind", tag="two-layer"):
    """f(x) = readout s(w . x / sqrt d): one hidden unit, its readout fixed."""

    activation: str
    width: int = 1
    readout: float = 1.0

    def __post_init__(self) -> None:
        activation(self.activation)
        if self.width != 1:
            raise ValueError(
                f"width must be 1, got {self.width}: displaced fields of several units share one residual, and the "
                "kinks of their average are not split here"
            )
        if not (math.isfinite(self.readout) and self.readout != 0):
            raise ValueError(f"readout must be finite and not zero, got {self.readout}")

    @property
    def expression(self) -> Expression:
        """The activation in ``x``."""
        return activation(self.activation)


class DisplacedSGD(Spec, frozen=True, kw_only=True, tag_field="kind", tag="displaced-sgd"):
    """w <- w - (learning_rate/d) grad L(w - (displacement/d) grad L(w)), fields of order 1, both on one sample."""

    learning_rate: float
    displacement: float = 0.0
    loss: Literal["square", "correlation"] = "square"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not math.isfinite(self.displacement):
            raise ValueError(f"displacement must be finite, got {self.displacement}")


class InitialOverlaps(Spec, frozen=True, kw_only=True):
    """M = w . w* / d and Q = |w|^2 / d at time 0, each a 1 x 1 matrix."""

    M: tuple[tuple[float, ...], ...] = ((0.0,),)
    Q: tuple[tuple[float, ...], ...] = ((1.0,),)

    def __post_init__(self) -> None:
        if any(len(a) != 1 or len(a[0]) != 1 for a in (self.M, self.Q)):
            raise ValueError("M and Q must be 1 x 1 matrices: one student, one teacher direction")
        m, q = self.M[0][0], self.Q[0][0]
        if not (math.isfinite(q) and q > 0 and m * m <= q):
            raise ValueError(f"overlaps of vectors need Q > 0 and M^2 <= Q, got M = {m}, Q = {q}")


class DataRepetition(Problem, frozen=True, kw_only=True):
    """What a run file with ``theory = "data-repetition"`` may say."""

    target: SingleIndex
    student: OneUnit
    algorithm: DisplacedSGD
    initial: InitialOverlaps = InitialOverlaps()
    grid: TimeGrid
    solver: OdeSolver = OdeSolver(rtol=1e-7, atol=1e-9)
    simulation: Simulation = Simulation()


STUDENT, TEACHER = "student", "teacher"


class RepetitionFlow(AveragedFlow):
    """dM/dtau and dQ/dtau."""

    order_parameters = (
        OrderParameter("M", (STUDENT, TEACHER), "M", "w . w* / d"),
        OrderParameter("Q", (STUDENT, STUDENT), "Q", "|w|^2 / d", symmetric=True),
        OrderParameter("generalization_error", (), r"\epsilon_g", "half the squared error on the noiseless label"),
    )

    def structure(self) -> tuple[Any, ...]:
        p: DataRepetition = self.problem  # type: ignore[assignment]
        return (p.target.link, p.target.hermite, p.student.activation, p.algorithm.loss)

    def residual(self, output: Any) -> Any:
        """Minus the derivative of the loss in the output: y - f, or y for the correlation loss."""
        y = symbols()[2]
        return y - output if self.problem.algorithm.loss == "square" else y  # type: ignore[attr-defined]

    def averages(self) -> SampleAverages:
        import sympy as sp

        p: DataRepetition = self.problem  # type: ignore[assignment]
        z, lam, _, y0 = symbols()
        x, m, q, eta, rho, a = sp.symbols("x M Q eta rho a", real=True)
        shape = p.student.expression.sympy(x=x)
        slope = drop_atoms(sp.diff(shape, x))

        def gradient(field: Any) -> Any:
            return a * slope.subs(x, field) * self.residual(a * shape.subs(x, field))

        displaced = lam + rho * gradient(lam)
        # The gradient at the displaced field enters by one symbol: it is expanded only after the drift is derived.
        gain = sp.Symbol("G", real=True)
        drifts = [e.subs(gain, gradient(displaced)) for e in overlap_drifts(gain, eta, m, q, spherical=False)]
        error = (y0 - a * shape.subs(x, lam)) ** 2 / 2
        return SampleAverages(
            (lam, displaced),
            p.target.expression.sympy(z=z),
            sp.Tuple(shape, slope),
            dict(zip((m, q), drifts, strict=True)),
            {"generalization_error": error},
            q,
            (eta, rho, a),
        )

    def parameter_values(self) -> tuple[float, ...]:
        p: DataRepetition = self.problem  # type: ignore[assignment]
        return (p.algorithm.learning_rate, p.algorithm.displacement, p.student.readout)

    def initial_state(self) -> Array:
        start = self.problem.initial  # type: ignore[attr-defined]
        return np.array([start.M[0][0], start.Q[0][0]])

    def names(self) -> list[str]:
        return ["M[0,0]", "Q[0,0]"]

    def states(self, solution: Solution) -> Array:
        return np.stack([np.asarray(solution.variables[k].values)[:, 0, 0] for k in ("M", "Q")], axis=1)

    def variables(self, times: Array, states: Array) -> dict[str, Variable]:
        m, q, error = self.order_parameters
        values = self.averaged(states)["generalization_error"]
        return {
            m.name: Variable(("time", *m.dims), states[:, :1, None], m.latex, m.meaning),
            q.name: Variable(("time", *q.dims), states[:, 1:, None], q.latex, q.meaning),
            error.name: Variable(("time",), values, error.latex, error.meaning),
        }

    def equations(self) -> list[Equation]:
        import sympy as sp

        p: DataRepetition = self.problem  # type: ignore[assignment]
        lam, z, y, eta, rho, a, x = (sp.Symbol(n, real=True) for n in ("lambda", "z", "y", "eta", "rho", "a", "x"))
        m, q, gain, moved = (sp.Symbol(n, real=True) for n in ("M", "Q", "G", r"\tilde\lambda"))
        shown = {symbols()[1]: lam}
        shape, slope = sp.Function("s", real=True), sp.Function("s'", real=True)
        average = sp.Function(r"\mathbb{E}")
        drift_m, drift_q = (e.subs(shown) for e in overlap_drifts(gain, eta, m, q, spherical=False))
        residual = {u: self.residual(a * shape(u)) for u in (lam, moved)}
        formula = p.student.expression.sympy(x=x)
        label = p.target.expression.sympy(z=z)
        if p.target.noise:
            label = label + sp.Float(p.target.noise, 6) * sp.Symbol(r"\xi")
        law = r"(z, \lambda) \sim \mathcal{N}\bigl(0, \begin{pmatrix} 1 & M \\ M & Q \end{pmatrix}\bigr)"
        error = (sp.Symbol("y_0") - a * shape(lam)) ** 2 / 2
        return [
            Equation.of("M", r"\dot M", average(drift_m)),
            Equation.of("Q", r"\dot Q", average(drift_q)),
            Equation.of("gradient", gain, a * slope(moved) * residual[moved], "gradient at the displaced field"),
            Equation.of("displaced", moved, lam + rho * a * slope(lam) * residual[lam], "|x|^2/d = 1"),
            Equation.of("generalization_error", r"\epsilon_g", average(error), "y_0: the label without noise"),
            Equation.of("activation", "s(x)", formula),
            Equation.of("label", y, label),
            Equation("fields", law),
        ]

    def derivation(self) -> list[Step]:
        rows = {e.label: e for e in self.equations()}
        update = r"M \leftarrow M + \tfrac{\eta}{d} G z,\quad Q \leftarrow Q + \tfrac{2\eta}{d} G\lambda + "
        update += r"\tfrac{\eta^2}{d} G^2 \tfrac{|x|^2}{d}"
        return [
            Step(
                "Trial step",
                "It moves the weight along x by O(1/d), and therefore the field of the same sample by O(1): "
                "|x|^2/d tends to 1.",
                (rows["displaced"], rows["gradient"], rows["activation"], rows["label"]),
            ),
            Step("Real step", "The overlaps after one sample.", (Equation("update", update),)),
            Step(
                "Drift",
                "The coefficients of 1/d, averaged over a fresh sample.",
                (rows["M"], rows["Q"], rows["fields"], rows["generalization_error"]),
            ),
        ]


class DataRepetitionTheory(Theory):
    """Displaced SGD of one unit."""

    name = "data-repetition"
    title = "Learning a single index by repeating data"
    summary = "Overlaps of one unit trained by SGD whose gradient is taken after a trial step on the same sample."
    problem_type = DataRepetition
    references = ("arnaboldi2024repetita", "dandi2024benefits")
    assumptions = (
        "isotropic Gaussian inputs, one fresh sample a step, d to infinity at samples / d fixed",
        "one student unit with a fixed readout, one teacher direction of norm sqrt d",
    )
    limits = (
        "displacement = 0: one-pass SGD",
        "a start at M = 0 without drift (even links) stays there; weak recovery then takes d log d samples",
    )

    def derive(self, problem: DataRepetition) -> RepetitionFlow:
        """Return the flow of M and Q."""
        return RepetitionFlow(problem)


THEORY = DataRepetitionTheory()
