"""The flow of one online-SGD problem: its numbers, its compiled module, its variables."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...problem import Committee, Expression, activation, to_builtins
from ...symbolic import store
from ...symbolic.equations import Equation, OrderParameter, Step
from ...symbolic.systems import Flow, Solution, Variable
from . import tail
from .initial import Start, start, teacher_count
from .sections import OnlineProblem

if TYPE_CHECKING:
    from .derivation import Derived
    from .notation import Setting

Array = NDArray[np.float64]
SAFETY = 0.05
# Overlaps are of order one: beyond this factor the dynamics has diverged, however slowly it goes on growing.
BLOW_UP = 1e4
# Rounding of the velocity where kinked units nearly coincide; a tighter tolerance only takes more steps.
KINKED_FLOOR = 5e-11
# Conditional quadrature aims at this accuracy of dy/dt, or at the solver's rtol where that is looser.
QUADRATURE_TOLERANCE = 1e-7


class OnlineFlow(Flow):
    """dQ/dt, dM/dt and, where the readout is trained, da/dt; time is steps / d."""

    time_unit = "steps / d"

    def __init__(self, problem: OnlineProblem) -> None:
        super().__init__(problem)
        self.p: OnlineProblem = problem
        self.start: Start = start(problem)
        self.K, self.M = self.start.M.shape
        self.trained = problem.student.train_readout
        self.order_parameters = order_parameters()
        self._chosen_rule: Array | None = None

    # Derivation ---------------------------------------------------------------------------------------------------

    def structure(self) -> dict[str, Any]:
        """Return what decides the form of the equations; widths and every number are parameters."""
        target, algorithm = to_builtins(self.p.target), self.p.algorithm
        for number in ("noise", "readout", "overlap"):
            target.pop(number, None)
        return {
            "target": target,
            "directions": 0 if isinstance(self.p.target, Committee) else teacher_count(self.p),
            "activation": self.p.student.activation,
            "train_readout": self.trained,
            "loss": algorithm.loss,
            "spherical": algorithm.spherical,
            "regime": algorithm.regime,
            "schedule": algorithm.schedule,
        }

    def setting(self) -> Setting:
        """Return the setting of the derivation."""
        from ...symbolic.factors import X
        from .notation import Setting

        target, algorithm = self.p.target, self.p.algorithm
        committee = isinstance(target, Committee)
        return Setting(
            student=activation(self.p.student.activation).sympy(x=X),
            teacher=activation(target.activation).sympy(x=X) if isinstance(target, Committee) else None,
            target=None if committee else _target(target),
            directions=0 if committee else teacher_count(self.p),
            loss=algorithm.loss,
            train_readout=self.trained,
            spherical=algorithm.spherical,
            regime=algorithm.regime,
            schedule=Expression(algorithm.schedule, ("t",)).sympy(),
            student_kinks=_kinks(self.p.student.activation),
            teacher_kinks=_kinks(target.activation) if isinstance(target, Committee) else (),
        )

    @cached_property
    def derived(self) -> Derived:
        """The symbolic equations; derived on first use, never for a problem whose module is in the store."""
        from .derivation import derive

        return derive(self.setting())

    def equations(self) -> list[Equation]:
        from .explanation import flow_equations, moment_equations

        return moment_equations(self.derived) + flow_equations(self.derived)

    def derivation(self) -> list[Step]:
        return self.derived.steps

    def module(self) -> ModuleType:
        return store.module(("online-sgd", self.structure()), self._source)

    def _source(self) -> str:
        from .generate import source

        return source(self.derived, f"online-sgd: {self.structure()}")

    # Numbers ------------------------------------------------------------------------------------------------------

    def initial_state(self) -> Array:
        s = self.start
        return np.concatenate([s.Q[np.tril_indices(self.K)], s.M.ravel(), s.a if self.trained else []])

    def names(self) -> list[str]:
        names = [f"Q[{i},{k}]" for i in range(self.K) for k in range(i + 1)]
        names += [f"M[{i},{m}]" for i in range(self.K) for m in range(self.M)]
        return names + ([f"a[{i}]" for i in range(self.K)] if self.trained else [])

    def parameters(self) -> Array:
        algorithm, s = self.p.algorithm, self.start
        rate = algorithm.learning_rate
        readout_rate = algorithm.readout_learning_rate
        scalars = [
            self.K, self.M, rate, rate if readout_rate is None else readout_rate, self.p.target.noise,
            algorithm.weight_decay, algorithm.readout_weight_decay, algorithm.batch_size,
        ]  # fmt: skip
        plain = np.concatenate([scalars, s.A, s.T.ravel(), s.a]).astype(float)
        if not self.module().QUADRATURE:
            return plain
        return np.concatenate([plain, self._rule(plain)])

    def _rule(self, plain: Array) -> Array:
        """Choose the coarsest quadrature whose refinement changes the initial velocity by less than the tolerance."""
        degree = self.module().POLYNOMIAL_DEGREE
        if self._chosen_rule is None and degree:
            # The series ends at the degree, and the rule reaches far enough for the tails of the powers: exact at any
            # scale of the fields.
            self._chosen_rule = _levels(((degree + 1, -0.35, 8),), 14.0)[0]
        if self._chosen_rule is None:
            tolerance = max(QUADRATURE_TOLERANCE, self.p.solver.rtol)
            levels = _levels()
            chosen = levels[-1]
            before = self._velocity(self.initial_state(), np.concatenate([plain, levels[0]]))
            for level, finer in itertools.pairwise(levels):
                after = self._velocity(self.initial_state(), np.concatenate([plain, finer]))
                if abs(after - before).max() <= tolerance * max(1.0, float(abs(after).max())):
                    chosen = level
                    break
                before = after
            self._chosen_rule = chosen
        return self._chosen_rule

    def _velocity(self, y: Array, p: Array) -> Array:
        velocity = np.empty_like(y)
        self.module().rhs(0.0, y, velocity, p, np.zeros(self.work_size()))
        return velocity

    def quadrature_error(self, states: Array) -> float:
        """Return the largest change of dy/dt over the given states when the quadrature is refined by one level."""
        parameters, levels = self.parameters(), _levels()
        used = self._rule(parameters)
        plain = parameters[: len(parameters) - len(used)]
        if self.module().POLYNOMIAL_DEGREE:
            levels = [used, _levels(((int(used[0]) + 1, -0.3, 8),), 15.0)[0]]
        level = next((q for q, other in enumerate(levels) if np.array_equal(other, used)), len(levels) - 2)
        finer = levels[level + 1] if level + 1 < len(levels) else levels[level - 1]
        changes = [
            self._velocity(y, parameters) - self._velocity(y, np.concatenate([plain, finer]))
            for y in map(np.ascontiguousarray, states)
        ]
        return float(abs(np.array(changes)).max())

    def integrator_options(self) -> dict[str, Any]:
        # Errors made before a plateau is left grow while it is left: the asked tolerance is for the curve.
        settings = self.p.solver
        floor = KINKED_FLOOR if _kinks(self.p.student.activation) else 1e-14
        return {
            "rtol": max(SAFETY * settings.rtol, floor),
            "atol": max(SAFETY * settings.atol, floor / 100),
            "blow_up": BLOW_UP * max(1.0, float(abs(self.initial_state()).max())),
            "autonomous": self.p.algorithm.schedule.strip() == "1",
        }

    def finish(self, times: Array, states: Array, status: str, message: str, stats: dict[str, Any]) -> Solution:
        if status == "step_underflow":
            # Steep activations diverge in finite time, before any bound is met: say which overlap grows.
            from ...numerics.ode import integrate

            bound = 5.0 * max(1.0, float(abs(self.initial_state()).max()))
            again = integrate(y0=self.initial_state(), p=self.parameters(), **{**self.integration(), "blow_up": bound})
            if again.status == "blow_up":
                status = "blow_up"
                message = f"{again.message} and its rate diverges at t = {stats.get('t_failed', again.t[-1]):.6g}"
        if self.module().QUADRATURE and len(states):
            stats = {**stats, "quadrature_error": self.quadrature_error(states[[0, len(states) // 2, -1]])}
        end = tail.continued(self, np.asarray(times), states) if status == "success" and len(states) else None
        if end is None:
            return super().finish(times, states, status, message, stats)
        states = states.copy()
        states[end.rows] = end.states
        stats = {**stats, "differences_from": end.begin, "nodes": end.nodes}
        solution = super().finish(times, states, status, message, stats)
        error = solution.variables["generalization_error"]
        kept = np.asarray(error.values)[: -len(end.rows)]
        solution.variables["generalization_error"] = replace(error, values=np.concatenate([kept, end.errors]))
        return solution

    def work_size(self) -> int:
        return int(self.module().work_size(self.K, self.M))

    # Variables ----------------------------------------------------------------------------------------------------

    def unpack(self, states: Array) -> tuple[Array, Array, Array]:
        """Return Q (time, K, K), M (time, K, M) and a (time, K) of states of shape (time, n)."""
        K, M = self.K, self.M
        count = K * (K + 1) // 2
        i, k = np.tril_indices(K)
        Q = np.empty((len(states), K, K))
        Q[:, i, k] = Q[:, k, i] = states[:, :count]
        overlap = states[:, count : count + K * M].reshape(-1, K, M)
        a = states[:, count + K * M :] if self.trained else np.broadcast_to(self.start.a, (len(states), K))
        return Q, overlap, a

    def generalization_error(self, states: Array) -> Array:
        """Return E[(f - f*)^2]/2, without label noise, for states of shape (time, n)."""
        module, p, work = self.module(), self.parameters(), np.zeros(self.work_size())
        return np.array([module.generalization_error(np.ascontiguousarray(y), p, work) for y in states])

    def variables(self, times: Array, states: Array) -> dict[str, Variable]:
        Q, M, a = self.unpack(states)
        values = {"Q": Q, "M": M, "a": a}
        out = {
            "generalization_error": Variable(
                ("time",), self.generalization_error(states), r"\varepsilon_g", "E[(f* - f)^2]/2 without label noise"
            )
        }
        for op in self.order_parameters:
            out[op.name] = Variable(("time", *op.dims), values[op.name], op.latex, op.meaning)
        return out


def order_parameters() -> tuple[OrderParameter, ...]:
    """Return the order parameters of online SGD."""
    return (
        OrderParameter("Q", ("student", "student"), "Q_{ik}", "student-student overlap w_i.w_k/d", symmetric=True),
        OrderParameter("M", ("student", "teacher"), "M_{im}", "student-teacher overlap w_i.w*_m/d"),
        OrderParameter("a", ("student",), "a_{i}", "student readout"),
    )


# From coarse to fine: order of Mehler's series, trapezoidal step, Gauss-Legendre panels.
SIZES = ((8, 0.7, 8), (10, 0.6, 10), (12, 0.5, 12), (16, 0.38, 16), (24, 0.3, 20), (36, 0.22, 24))


def _levels(sizes: tuple[tuple[int, float, int], ...] = SIZES, reach: float = 7.5) -> list[Array]:
    """Return the quadratures as the generated code reads them; `reach` is their range in standard deviations."""
    from ...numerics.conditional import quadrature_rule

    return [np.concatenate([[order], quadrature_rule(step, reach, panel)]) for order, step, panel in sizes]


def _kinks(text: str) -> tuple[float, ...]:
    return activation(text).kinks("x")


def _target(target: Any) -> Any:
    formula = target.formula if hasattr(target, "formula") else target.expression
    expression = formula.sympy()
    import sympy as sp

    return expression.subs(sp.Symbol("z", real=True), sp.Symbol("z1", real=True))
