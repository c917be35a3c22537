"""One unit whose gradient sees displaced fields: several steps on each sample, or a gradient after a trial step on it.

A step moves the weight along the sample x by O(1/d), and therefore the field of the same x by O(1): |x|^2/d -> 1. With
g(lambda) = -a s'(lambda) dl/df the descent direction at a field,

    uses = r:            lambda_0 = lambda, lambda_(j+1) = lambda_j + eta g(lambda_j),   G = sum_j g(lambda_j)
    displacement = rho:  G = g(lambda + rho g(lambda));  rho > 0 looks ahead, < 0 is sharpness-aware minimisation

and w <- w + (eta/d) G x, put back to its norm where the problem is spherical. The second step sees the label raised to
powers: a target whose information exponent is above one can have drift at M = 0. Time = samples / d.

Sources: Lee, Oko, Suzuki & Wu, arXiv:2406.01581 (reuse); Arnaboldi, Dandi, Krzakala, Pesce & Stephan, arXiv:2405.15459
(look-ahead); the flow is derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import SolveError
from ...problem import Expression, activation, schedules
from ...problem.expressions import drop_atoms
from ...problem.geometry import start
from ...problem.targets import Committee
from ...symbolic.equations import Equation, OrderParameter, Step, latex
from ...symbolic.systems import Flow, Solution, Variable
from ...symbolic.times import time_function
from .differences.tail import close_step
from .letters import DISPLACED
from .sample_averages import Averages, SampleAverages, module_source, overlap_drifts, symbols

if TYPE_CHECKING:
    from types import ModuleType

    import numpy.typing as npt

    from ...problem import Problem

    Array = npt.NDArray[np.float64]

ORDER_PARAMETERS = (
    OrderParameter("M", ("student", "teacher"), "M", "w . w* / d"),
    OrderParameter("Q", ("student", "student"), "Q", "|w|^2 / d", symmetric=True),
)
ERROR = OrderParameter("generalization_error", (), r"\varepsilon_g", "half the squared error on the noiseless label")


def displaced_fields(gradient: Callable[[Any], Any], field: Any, rate: Any, rho: Any, uses: int) -> tuple[Any, Any]:
    """Return the fields of one sample at each use of it, and the sum G of the gradients that move the weight.

    ``gradient`` gives the descent direction at a sympy field.
    """
    if uses == 1 and rho == 0:
        return (field,), gradient(field)
    if uses == 1:
        moved = field + rho * gradient(field)
        return (field, moved), gradient(moved)
    fields, gain = [field], gradient(field)
    for _ in range(uses - 1):
        fields.append(field + rate * gain)
        gain = gain + gradient(fields[-1])
    return tuple(fields), gain


class DisplacedFlow(Flow):
    """dM/dt and dQ/dt of one unit and one direction."""

    letters = DISPLACED

    time_unit = "samples / d"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.start = start(problem)
        # Given by its slope alone, the student has no output.
        self.order_parameters = ORDER_PARAMETERS if problem.student.slope else (*ORDER_PARAMETERS, ERROR)

    # Equations ----------------------------------------------------------------------------------------------------

    def structure(self) -> tuple[Any, ...]:
        """Return what decides the printed code, with faithful ``repr``."""
        target, student, rule = self.problem.target, self.problem.student, self.problem.algorithm
        label = (target.activation, "units") if isinstance(target, Committee) else (target.formula, target.hermite)
        return (
            *label, student.slope or student.activation, bool(student.slope), student.hermite,
            self.problem.loss.form.name, rule.uses, bool(rule.displacement), rule.spherical, self.scheduled,
            bool(target.noise),
        )  # fmt: skip

    def label(self) -> Any:
        """Return the noiseless label as an expression in z."""
        import sympy as sp

        target, z = self.problem.target, symbols()[0]
        if isinstance(target, Committee):
            return float(self.start.A[0]) * activation(target.activation).sympy(x=z)
        return target.expression.sympy().subs({sp.Symbol(name, real=True): z for name in ("z", "z1")})

    def shape(self) -> tuple[Any, Any]:
        """Return the activation (None where only the slope is given) and its slope, in x."""
        import sympy as sp

        x, student = sp.Symbol("x", real=True), self.problem.student
        if student.slope:
            return None, student.slope_expression.sympy(x=x)
        formula = student.expression.sympy(x=x)
        return formula, drop_atoms(sp.diff(formula, x))

    def gradient(
        self, readout: Any, value: Callable[[Any], Any] | None, slope: Callable[[Any], Any]
    ) -> Callable[[Any], Any]:
        """Return -a s'(u) dl/df at the output a s(u), as a function of the field u."""
        import sympy as sp

        y = symbols()[2]
        descent = -self.problem.loss.form.slope
        f = sp.Symbol("f", real=True)

        def at(field: Any) -> Any:
            error = descent.subs({f: readout * value(field), sp.Symbol("y", real=True): y}) if value is not None else y
            return readout * slope(field) * error

        return at

    def averages(self) -> SampleAverages:
        """Return the integrands in sympy."""
        import sympy as sp

        rule = self.problem.algorithm
        _, lam, _, y0 = symbols()
        x, m, q, eta, rho, a, kappa = sp.symbols("x M Q eta rho a kappa", real=True)
        shape, slope = self.shape()
        value = None if shape is None else lambda u: shape.subs(x, u)
        gradient = self.gradient(a, value, lambda u: slope.subs(x, u))
        fields, gain = displaced_fields(gradient, lam, eta, rho if rule.displacement else 0, rule.uses)
        drifts = overlap_drifts(sp.Symbol("G", real=True), eta, m, q, kappa, spherical=rule.spherical)
        return SampleAverages(
            fields, self.label(), slope if shape is None else sp.Tuple(shape, slope), gain,
            dict(zip((m, q), drifts, strict=True)),
            {} if shape is None else {ERROR.name: (y0 - a * shape.subs(x, lam)) ** 2 / 2},
            q, (eta, rho, a, kappa, sp.Symbol("schedule_at")), self.scheduled, bool(self.problem.target.noise),
        )  # fmt: skip

    def equations(self) -> list[Equation]:
        import sympy as sp

        rule = self.problem.algorithm
        lam, eta, rho, a = (sp.Symbol(n, real=True) for n in ("lambda", "eta", "rho", "a"))
        m, q, gain, kappa = (sp.Symbol(n, real=True) for n in ("M", "Q", "G", "kappa"))
        shown = {symbols()[1]: lam}
        s, ds, average = sp.Function("s", real=True), sp.Function("s'", real=True), sp.Function(r"\mathbb{E}")
        formula, slope = self.shape()
        gradient = sp.Function("g", real=True)
        _, total = displaced_fields(gradient, lam, eta, rho if rule.displacement else 0, rule.uses)
        drift_m, drift_q = (e.subs(shown) for e in overlap_drifts(gain, eta, m, q, kappa, spherical=rule.spherical))
        left = {"M": r"\frac{\mathrm{d} M}{\mathrm{d} t}", "Q": r"\frac{\mathrm{d} Q}{\mathrm{d} t}"}
        rows = [Equation.of("M", left["M"], average(drift_m)), Equation.of("Q", left["Q"], average(drift_q))]
        rows.append(Equation.of("gradients", gain, total.subs(shown), "all gradients of one sample, |x|^2/d = 1"))
        descent = self.gradient(a, None if formula is None else s, ds)(lam)
        rows.append(Equation.of("gradient", gradient(lam), descent, "descent direction at a field"))
        if formula is not None:
            rows.append(Equation.of("activation", "s(x)", formula))
        rows.append(Equation.of("slope", "s'(x)", slope))
        label, noise = self.label(), self.problem.target.noise
        rows.append(Equation.of("label", "y", label + (sp.Float(noise, 6) * sp.Symbol(r"\xi") if noise else 0)))
        if self.scheduled:
            schedule = Expression(rule.schedule, ("t",)).sympy()
            rows.append(Equation("schedule", rf"\eta = \eta_0\, s(t),\quad s(t) = {latex(schedule)}"))
        law = r"(z, \lambda) \sim \mathcal{N}\bigl(0, \begin{pmatrix} 1 & M \\ M & Q \end{pmatrix}\bigr)"
        rows.append(Equation("fields", law))
        if formula is not None:
            error = (sp.Symbol("y_0") - a * s(lam)) ** 2 / 2
            rows.append(Equation.of(ERROR.name, ERROR.latex, average(error), "y_0: the label without noise"))
        return rows

    def derivation(self) -> list[Step]:
        rows = {e.label: e for e in self.equations()}
        update = r"M \leftarrow (1 - \kappa/d) M + \tfrac{\eta}{d} G z,\quad Q \leftarrow (1 - 2\kappa/d) Q + "
        update += r"\tfrac{2\eta}{d} G\lambda + \tfrac{\eta^2}{d} G^2 \tfrac{|x|^2}{d}"
        steps = [Equation("update", update)]
        if self.problem.algorithm.spherical:
            steps.append(Equation("sphere", r"w \leftarrow w\,|w^{\rm old}|/|w|"))
        model = [rows[k] for k in ("activation", "slope", "label", "fields") if k in rows]
        last = [rows[k] for k in ("M", "Q", "schedule", ERROR.name) if k in rows]
        return [
            Step("Model", "One student unit and one teacher direction.", tuple(model)),
            Step(
                "Gradients of one sample",
                "A step moves the weight along x by O(1/d), and therefore the field of the same sample by O(1): "
                "|x|^2/d tends to 1.",
                (rows["gradient"], rows["gradients"]),
            ),
            Step("Overlaps after one sample", "To first order in 1/d.", tuple(steps)),
            Step("Flow", "The coefficients of 1/d, averaged over a fresh sample.", tuple(last)),
            close_step("it is derived for gradients that no step on the same sample has moved"),
        ]

    def module(self) -> ModuleType:
        from ...symbolic import store

        return store.module(("displaced", *self.structure()), self._source, native=True)

    def _source(self) -> str:
        return module_source(self.averages(), f"one-pass, displaced fields: {self.structure()}")

    # Numbers ------------------------------------------------------------------------------------------------------

    def initial_state(self) -> Array:
        return np.array([self.start.M[0, 0], self.start.Q[0, 0]])

    def names(self) -> list[str]:
        return ["M[0,0]", "Q[0,0]"]

    @property
    def scheduled(self) -> bool:
        """Whether a schedule multiplies the learning rate."""
        return not schedules.is_one(self.problem.algorithm.schedule)

    @property
    def schedule_texts(self) -> dict[str, str]:
        return {"algorithm.schedule": self.problem.algorithm.schedule}

    @property
    def conserved(self) -> tuple[int, ...]:
        """The norm, on the sphere."""
        return (1,) if self.problem.algorithm.spherical else ()

    @property
    def accuracy(self) -> float:
        """Accuracy of the averages: no finer than the integrator's."""
        solver: Any = self.problem.solver
        return max(float(solver.quadrature_rtol), float(solver.rtol))

    def integrator_options(self) -> dict[str, Any]:
        # Steps that resolve the rounding of the averages would only be rejected.
        solver: Any = self.problem.solver
        return {"rtol": max(solver.rtol, self.accuracy), "atol": max(solver.atol, self.accuracy)}

    @cached_property
    def _sample(self) -> Averages:
        rule, noise = self.problem.algorithm, float(self.problem.target.noise)
        schedule = time_function(rule.schedule).address if self.scheduled else 0.0
        head = (rule.learning_rate, rule.displacement, float(self.start.a[0]), rule.weight_decay, schedule)
        # Where a later use of the sample follows a step of changing size, its field depends on the time.
        steady = rule.uses == 1 or not self.scheduled
        return Averages(self.module(), head, noise, steady)

    def _choose(self, states: Array, least: int = 0) -> tuple[Array, float, int]:
        return self._sample.choose(states, float(states[:, 1].max()), self.accuracy, least)

    @cached_property
    def _refined(self) -> dict[str, Any]:
        p, _, level = self._choose(self.initial_state()[None, :])
        return {"p": p, "level": level}

    def parameters(self) -> Array:
        p: Array = self._refined["p"]
        return p

    def work_size(self) -> int:
        """A schedule changes a copy of the parameters."""
        return len(self.parameters()) if self.scheduled else 0

    @property
    def settled(self) -> bool:
        """Tables of averages over the noise are made anew for every number."""
        return not (self._sample.noise and self._sample.tabulated)

    def settle(self, like: Any = None) -> None:
        """Refine the averages as the curve needs, or average as another flow does."""
        if like is None:
            with suppress(SolveError):
                # A curve that ends early keeps the averages of its start.
                self.solve()
            return
        p = like.parameters().copy()
        p[: len(self._sample.head)] = self._sample.head
        self._refined |= {"p": p, "level": like._refined["level"]}

    def solve(self) -> Solution:
        """Integrate; then average the reached states more finely, and integrate again if that changes them."""
        while True:
            solution = super().solve()
            states = np.stack([np.asarray(solution.variables[k].values)[:, 0, 0] for k in ("M", "Q")], axis=1)
            p, error, level = self._choose(states[:: max(1, len(states) // 8)], self._refined["level"])
            if level == self._refined["level"]:
                solution.stats["quadrature_error"] = error
                return solution
            self._refined |= {"p": p, "level": level}

    def variables(self, times: Array, states: Array) -> dict[str, Variable]:
        out = {
            op.name: Variable(("time", *op.dims), states[:, k, None, None], op.latex, op.meaning)
            for k, op in enumerate(ORDER_PARAMETERS)
        }
        if ERROR in self.order_parameters:
            error = self._sample.at(states, self.parameters())[:, 0, self.module().STATES]
            out[ERROR.name] = Variable(("time",), error, ERROR.latex, ERROR.meaning)
        return out
