"""Reused batches on a single-index target: spherical SGD that takes several steps on each sample.

Student ``w`` on the unit sphere, label y = s*(z) + noise xi with z = w* . x; correlation loss -y s(w . x). Each sample
moves w by ``(eta/d) y s'(w . x) x``, `uses` times in a row, then w is put back on the sphere. The second step sees the
field shifted by eta y s'(lambda), which raises the label to powers: a target whose information exponent is above one
can have drift at m = 0. Time = samples / d.

Source: Lee, Oko, Suzuki & Wu, arXiv:2406.01581 (the phenomenon; the flow is derived here).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...problem import Expression, OdeSolver, Problem, Simulation, SingleIndex, Spec, TimeGrid
from ...problem.activations import ACTIVATIONS
from ...problem.expressions import HermiteConvention
from ...symbolic.systems import Equation, OrderParameter, Solution, Step, Variable
from ..base import Theory
from .averages import SampleAverages, overlap_drifts, symbols
from .flow import AveragedFlow

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


class Perceptron(Spec, frozen=True, kw_only=True, tag_field="kind", tag="perceptron"):
    """f(x) = s(w . x), |w| = 1, given by s' as a formula in ``x``; ``He`` follows `hermite`, as in the target."""

    activation_derivative: str
    hermite: HermiteConvention = "probabilists"

    def __post_init__(self) -> None:
        _ = self.slope

    @property
    def slope(self) -> Expression:
        """The derivative s' in ``x``."""
        return Expression(ACTIVATIONS.get(self.activation_derivative, self.activation_derivative), ("x",), self.hermite)


class ReusedSphericalSGD(Spec, frozen=True, kw_only=True, tag_field="kind", tag="reused-spherical-sgd"):
    """w += (learning_rate/d) y s'(w . x) x, `uses` times on each sample, then |w| = 1; ``uses = 1`` is one-pass SGD."""

    learning_rate: float
    uses: int = 2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 1 <= self.uses <= 8:
            raise ValueError(f"uses must lie between 1 (one-pass) and 8 steps on each sample, got {self.uses}")


class InitialOverlap(Spec, frozen=True, kw_only=True):
    """m(0) = w . w*."""

    overlap: float = 0.0

    def __post_init__(self) -> None:
        if not -1 <= self.overlap <= 1:
            raise ValueError(f"overlap is a cosine: it must lie in [-1, 1], got {self.overlap}")


class BatchReuse(Problem, frozen=True, kw_only=True):
    """What a run file with ``theory = "batch-reuse"`` may say."""

    target: SingleIndex
    student: Perceptron
    algorithm: ReusedSphericalSGD
    initial: InitialOverlap = InitialOverlap()
    grid: TimeGrid
    solver: OdeSolver = OdeSolver(rtol=1e-6, atol=1e-8)
    simulation: Simulation = Simulation()


OVERLAP = OrderParameter("overlap", (), "m", "w . w*, cosine of student and target")


def reused_fields(slope: Any, uses: int, eta: Any) -> tuple[tuple[Any, ...], Any]:
    """Return the fields at each use of a sample, and the sum G of its gradients, |x|^2/d = 1.

    ``slope`` is s' as a function of a sympy field.
    """
    _, lam, y, _ = symbols()
    fields, gain = [lam], y * slope(lam)
    for _use in range(uses - 1):
        fields.append(lam + eta * gain)
        gain = gain + y * slope(fields[-1])
    return tuple(fields), gain


class OverlapFlow(AveragedFlow):
    """dm/dtau, one scalar."""

    order_parameters = (OVERLAP,)

    def structure(self) -> tuple[Any, ...]:
        p: BatchReuse = self.problem  # type: ignore[assignment]
        link, student = p.target, p.student
        return (link.link, link.hermite, student.activation_derivative, student.hermite, p.algorithm.uses)

    def averages(self) -> SampleAverages:
        import sympy as sp

        p: BatchReuse = self.problem  # type: ignore[assignment]
        x, m, eta = sp.symbols("x m eta", real=True)
        z = symbols()[0]
        slope = p.student.slope.sympy(x=x)
        fields, gain = reused_fields(lambda u: slope.subs(x, u), p.algorithm.uses, eta)
        (drift,) = overlap_drifts(gain, eta, m, sp.Integer(1), spherical=True)
        return SampleAverages(
            fields, p.target.expression.sympy(z=z), slope, {m: drift}, {}, sp.Integer(1), (eta,)
        )  # fmt: skip

    def parameter_values(self) -> tuple[float, ...]:
        return (self.problem.algorithm.learning_rate,)  # type: ignore[attr-defined]

    def initial_state(self) -> Array:
        return np.array([self.problem.initial.overlap])  # type: ignore[attr-defined]

    def names(self) -> list[str]:
        return ["m"]

    def states(self, solution: Solution) -> Array:
        return np.asarray(solution.variables["overlap"].values)[:, None]

    def variables(self, times: Array, states: Array) -> dict[str, Variable]:
        return {"overlap": Variable(("time",), states[:, 0], OVERLAP.latex, OVERLAP.meaning)}

    def equations(self) -> list[Equation]:
        import sympy as sp

        p: BatchReuse = self.problem  # type: ignore[assignment]
        lam, z, eta, m, x, g = (sp.Symbol(s, real=True) for s in ("lambda", "z", "eta", "m", "x", "G"))
        shown = {symbols()[1]: lam, sp.Symbol("eta", real=True): eta}
        slope = sp.Function("s'", real=True)
        _, gain = reused_fields(slope, p.algorithm.uses, eta)
        (drift,) = overlap_drifts(g, eta, m, sp.Integer(1), spherical=True)
        average = sp.Function(r"\mathbb{E}")
        rows = [Equation.of("overlap", r"\dot m", average(drift.subs(shown)))]
        rows.append(Equation.of("gradients", "G", gain.subs(shown), "all gradients of one sample, |x|^2/d = 1"))
        rows.append(Equation.of("slope", r"s'(x)", p.student.slope.sympy(x=x)))
        rows.append(
            Equation.of("label", "y", p.target.expression.sympy(z=z) + sp.Float(p.target.noise, 6) * sp.Symbol(r"\xi"))
            if p.target.noise
            else Equation.of("label", "y", p.target.expression.sympy(z=z))
        )
        law = r"(z, \lambda) \sim \mathcal{N}\bigl(0, \begin{pmatrix} 1 & m \\ m & 1 \end{pmatrix}\bigr)"
        return [*rows, Equation("fields", law)]

    def derivation(self) -> list[Step]:
        rows = {e.label: e for e in self.equations()}
        text = r"w \leftarrow w + \tfrac{\eta}{d}\,G\,x,\quad m \leftarrow \frac{m + \eta G z/d}"
        text += r"{\sqrt{1 + 2\eta G\lambda/d + \eta^2 G^2 |x|^2/d^2}}"
        return [
            Step(
                "One sample",
                "Every use of the sample moves its own field: lambda becomes lambda + eta y s'(lambda) |x|^2/d, and "
                "|x|^2/d tends to 1. All uses together add (eta/d) G x.",
                (rows["gradients"], rows["slope"], rows["label"]),
            ),
            Step("Back to the sphere", "The overlap after the sample, exactly.", (Equation("update", text),)),
            Step(
                "Drift",
                "The coefficient of 1/d, averaged over a fresh sample; fluctuations average out over d samples.",
                (rows["overlap"], rows["fields"]),
            ),
        ]


class BatchReuseTheory(Theory):
    """Several steps on each sample."""

    name = "batch-reuse"
    title = "Reused batches on a single-index target"
    summary = "Overlap of a spherical perceptron that takes several SGD steps on each sample of a single-index target."
    problem_type = BatchReuse
    references = ("lee2024neural", "dandi2024benefits")
    assumptions = (
        "isotropic Gaussian inputs, learning rate eta/d, d to infinity at samples / d fixed",
        "correlation loss; the weight is put back on the unit sphere",
    )
    limits = (
        "uses = 1: one-pass SGD, no drift at m = 0 when the information exponent of the link exceeds one",
        "a start at m = 0 without drift stays there for a time of order log d: give a start of order 1/sqrt d",
    )

    def derive(self, problem: BatchReuse) -> OverlapFlow:
        """Return the scalar flow."""
        return OverlapFlow(problem)


THEORY = BatchReuseTheory()
