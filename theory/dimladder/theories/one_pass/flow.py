"""The flow of one one-pass problem: its numbers, its compiled module, its variables."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache, cached_property
from operator import attrgetter
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DerivationError
from ...problem import Expression, activation, schedules
from ...problem.geometry import Start, start, teacher_count
from ...problem.targets import Committee
from ...symbolic import store
from ...symbolic.equations import Equation, OrderParameter, Step
from ...symbolic.systems import Flow, Solution, Variable
from ...symbolic.times import time_function
from . import letters
from . import quadrature_rules as rules
from .differences import tail
from .erf_sums import PLAIN, ErfMixture, erf_mixture
from .kink_axes import target_kinks

if TYPE_CHECKING:
    from ...problem import Problem
    from .derivation import Derived
    from .notation import Setting

log = logging.getLogger("dimladder.one_pass")
Array = NDArray[np.float64]
# Losses whose step is linear in output and label.
QUADRATIC = ("square", "correlation")
SAFETY = 0.05
# Sections that say nothing of the training, and keys of the algorithm that decide the form of the equations.
UNTRAINED = attrgetter("data", "target", "student", "loss", "initial", "limit", "grid", "solver")
STRUCTURAL = attrgetter("schedule", "regime", "spherical")
# e_g of a student near its target is known to this many tolerances of the overlaps, times the power of the target.
RESOLUTION = 20.0
# Overlaps are of order one: beyond this factor the dynamics has diverged, however slowly it goes on growing.
BLOW_UP = 1e4
# Rounding of the velocity where kinked units nearly coincide; a tighter tolerance only takes more steps.
KINKED_FLOOR = 5e-11

# Of a quadrature over all fields.
MOST_FIELDS = 400


class OnePassFlow(Flow):
    """dQ/dt, dM/dt and, where the readout is trained, da/dt; time is steps / d."""

    letters = letters.PLAIN

    time_unit = "steps / d"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.p: Any = problem
        self.start: Start = start(problem)
        self.K, self.M = self.start.M.shape
        self.trained = problem.student.train_readout
        self.order_parameters = order_parameters()
        self._seen: tuple[Array, Array] | None = None
        self._asked: dict[str, Any] | None = None

    # Derivation ---------------------------------------------------------------------------------------------------

    @cached_property
    def mixtures(self) -> tuple[ErfMixture, ErfMixture] | None:
        """Students' and teachers' activations as sums of erfs, where the averages are taken that way."""
        target, asked = self.p.target, self.p.solver.averages
        accuracy = self.p.solver.quadrature_rtol
        student = erf_mixture(self.p.student.expression, accuracy)
        teacher: ErfMixture | None = PLAIN
        if isinstance(target, Committee):
            teacher = erf_mixture(activation(target.activation), accuracy)
        found = None
        if student is not None and teacher is not None and self.p.loss.form.name in QUADRATIC:
            # Single erfs have closed forms of their own. A constant is not followed through averages of a function f*.
            several = max(len(student.weights), len(teacher.weights)) > 1 or not (student.exact and teacher.exact)
            if several and (isinstance(target, Committee) or student.constant == 0.0):
                found = student, teacher
        if found is not None and asked != "quadrature" and (isinstance(target, Committee) or self._closes()):
            return found
        if asked == "mixture":
            raise DerivationError(
                "this problem cannot be averaged as a network of erfs", where="solver.averages",
                why="that takes activations that are sums of erf(s x), tanh(s x), sigmoid(s x) and numbers, a loss "
                "that is square or correlation, and a target whose averages with erfs have closed forms",
                hint='drop solver.averages or set it to "quadrature"',
            )  # fmt: skip
        return None

    def _closes(self) -> bool:
        """Whether the averages of an erf student with the target have closed forms; kept in the store."""

        def check() -> str:
            from .derivation import derive

            return f"CLOSES = {derive(self._erf_setting()).route == 'closed'}\n"

        return bool(store.module(("one-pass erf student", self._target_structure()), check).CLOSES)

    def _target_structure(self) -> dict[str, Any]:
        target = self.p.target
        if isinstance(target, Committee):
            return {"kind": "committee", "activation": target.activation}
        return {"kind": "index", "formula": target.formula, "hermite": target.hermite}

    def structure(self) -> dict[str, Any]:
        """Return what decides the form of the equations; widths and every number are parameters."""
        target, algorithm, student = self._target_structure(), self.p.algorithm, self.p.student.activation
        if self.mixtures is not None:
            student = "sum of erfs"
            target |= {"activation": student} if isinstance(self.p.target, Committee) else {}
        return {
            "target": target,
            "directions": 0 if isinstance(self.p.target, Committee) else teacher_count(self.p),
            "activation": student,
            "student_hermite": self.p.student.hermite,
            "train_readout": self.trained,
            "loss": self.p.loss.form.name,
            "spherical": algorithm.spherical,
            "regime": algorithm.regime,
            "scheduled": self.scheduled,
        }

    @property
    def scheduled(self) -> bool:
        """Whether a schedule multiplies the rates."""
        return not schedules.is_one(self.p.algorithm.schedule)

    def setting(self) -> Setting:
        """Return the setting of the derivation."""
        return self._setting() if self.mixtures is None else self._erf_setting()

    def _erf_setting(self) -> Setting:
        import sympy as sp

        from ...symbolic.factors import X

        erf = sp.erf(X / sp.sqrt(2))
        teacher = erf if isinstance(self.p.target, Committee) else None
        smooth: dict[str, Any] = {"student_kinks": (), "teacher_kinks": ()}
        return replace(self._setting(), student=erf, teacher=teacher, mixture=True, **smooth)

    def _setting(self) -> Setting:
        from ...symbolic.factors import X
        from .notation import Setting

        target, algorithm = self.p.target, self.p.algorithm
        committee = isinstance(target, Committee)
        kinked: dict[str, Any] = {}
        if not isinstance(target, Committee):
            kinked["target_axes"], kinked["target_kinks"] = target_kinks(target, teacher_count(self.p))
        return Setting(
            student=self.p.student.expression.sympy(x=X),
            teacher=activation(target.activation).sympy(x=X) if isinstance(target, Committee) else None,
            target=None if committee else _target(target),
            directions=0 if committee else teacher_count(self.p),
            loss=self.p.loss.form.name,
            train_readout=self.trained,
            spherical=algorithm.spherical,
            regime=algorithm.regime,
            schedule=Expression(algorithm.schedule, ("t",)).sympy(),
            student_kinks=self.p.student.expression.kinks("x"),
            teacher_kinks=activation(target.activation).kinks("x") if isinstance(target, Committee) else (),
            **kinked,
        )

    @cached_property
    def derived(self) -> Derived:
        """The symbolic equations; derived on first use, never for a problem whose module is in the store."""
        from .derivation import derive

        return derive(self.setting())

    def equations(self) -> list[Equation]:
        from .explanation import definitions, flow_equations, mixture_equations, moment_equations, of_units

        rows, averages = definitions(self.derived.setting), moment_equations(self.derived)
        flow = flow_equations(self.derived)
        if self.mixtures is None:
            return rows + averages + flow
        return rows + mixture_equations(self.mixtures, self._setting()) + of_units(averages + flow)

    def derivation(self) -> list[Step]:
        from .explanation import explain, mixture_step

        steps = [*explain(self.derived), tail.close_step(tail.absence(self))]
        if self.mixtures is None:
            return steps
        return [*steps[:3], mixture_step(self.mixtures, self._setting()), *steps[3:]]

    def module(self) -> ModuleType:
        return self._module

    @cached_property
    def _module(self) -> ModuleType:
        return store.module(("one-pass", self.structure()), self._source, native=True)

    def _source(self) -> str:
        from .generate import source

        return source(self.derived, f"one-pass: {self.structure()}")

    def jacobian(self) -> Any:
        """Return the compiled Jacobian where averages have closed forms, and are not those of a sum of erfs."""
        own = self._jacobian_module
        return None if own is None else own.jac

    @cached_property
    def _jacobian_module(self) -> ModuleType | None:
        if self.mixtures is not None or self.module().ROUTE != "closed":
            return None

        def source() -> str:
            from .derivation import derive
            from .jacobian_code import jacobian_source

            log.info("deriving and compiling the Jacobian")
            return jacobian_source(self.derived, derive(self.setting(), inline=False))

        source.__module__ = __name__
        return store.module(("one-pass jacobian", self.structure()), source, native=True)

    # Numbers ------------------------------------------------------------------------------------------------------

    def initial_state(self) -> Array:
        s = self.start
        return np.concatenate([s.Q[lower_triangle(self.K)], s.M.ravel(), s.a if self.trained else []])

    def names(self) -> list[str]:
        names = [f"Q[{i},{k}]" for i in range(self.K) for k in range(i + 1)]
        names += [f"M[{i},{m}]" for i in range(self.K) for m in range(self.M)]
        return names + ([f"a[{i}]" for i in range(self.K)] if self.trained else [])

    def parameters(self) -> Array:
        return self._parameters.copy()

    @cached_property
    def _parameters(self) -> Array:
        plain = self.plain_parameters()
        if self.mixtures is not None:
            return np.concatenate([plain, *(m.parameters for m in self.mixtures)])
        return plain if self.module().ROUTE == "closed" else np.concatenate([plain, self.rule])

    def plain_parameters(self) -> Array:
        """Return the parameters that every route has."""
        algorithm, s = self.p.algorithm, self.start
        rate = algorithm.learning_rate
        readout_rate = algorithm.readout_learning_rate
        scalars = [
            self.K, self.M, rate, rate if readout_rate is None else readout_rate, self.p.target.noise,
            algorithm.weight_decay, algorithm.readout_weight_decay, algorithm.batch_size,
            time_function(algorithm.schedule).address if self.scheduled else 0.0,
        ]  # fmt: skip
        return np.concatenate([scalars, s.A, s.T.ravel(), s.a]).astype(float)

    @cached_property
    def rule(self) -> Array:
        """The quadrature of averages without closed form."""
        return rules.choose(self, self.p.solver.quadrature_rtol)

    def settle(self, like: Any = None) -> None:
        rules.settle(self, like)

    def velocity(self, y: Array, rule: Array) -> Array:
        """Return dy/dt with a given quadrature, where the schedule is largest: a warm-up begins with no rate at all."""
        out = np.empty_like(y)
        p = np.concatenate([self.plain_parameters(), rule])
        self.module().rhs(self._full_rate, y, out, p, np.zeros(self.work_size()))
        return out

    @cached_property
    def _full_rate(self) -> float:
        """A time at which the schedule is largest."""
        return schedules.largest(self.p.algorithm.schedule, 0.0, float(self.times()[-1]))

    @property
    def schedule_texts(self) -> dict[str, str]:
        return {"algorithm.schedule": self.p.algorithm.schedule}

    @property
    def conserved(self) -> tuple[int, ...]:
        """The norms, on the sphere: the diagonal of Q, row by row of its lower triangle."""
        return tuple(i * (i + 3) // 2 for i in range(self.K)) if self.p.algorithm.spherical else ()

    def inherit(self, model: Flow) -> None:
        """Where rates, decays or batches differ only, all but the parameters is the same."""
        assert isinstance(model, OnePassFlow)
        sections, keys = zip(UNTRAINED(self.p), UNTRAINED(model.p), strict=True), STRUCTURAL
        if any(mine is not other for mine, other in sections) or keys(self.p.algorithm) != keys(model.p.algorithm):
            return
        if model._asked is None:
            model._asked = model.integration()
        self._asked = model._asked
        vars(self).update(mixtures=model.mixtures, _module=model._module)
        if model.module().ROUTE == "closed":
            vars(self)["target_size"] = model.target_size

    def integration(self) -> dict[str, Any]:
        # A Jacobian, once it is asked for, needs a larger scratch array.
        if self._asked is None or "_jacobian_module" in vars(self):
            return super().integration()
        return dict(self._asked)

    def integrator_options(self) -> dict[str, Any]:
        # Errors made before a plateau is left grow while it is left: the asked tolerance is for the curve.
        settings = self.p.solver
        implicit = settings.method in ("bdf", "rodas")
        return {
            "jac": self.jacobian() if implicit else None,
            "rtol": self._tolerance(settings.rtol),
            "atol": self._tolerance(settings.atol, 0.01),
            "blow_up": BLOW_UP * max(1.0, float(abs(self.initial_state()).max())),
            "autonomous": schedules.is_constant(self.p.algorithm.schedule),
            # Where stability limits explicit steps, interpolants are a thousand times worse than steps.
            "output": "step" if self.module().ROUTE == "closed" else "interpolate",
        }

    def _tolerance(self, asked: float, scale: float = 1.0) -> float:
        """Return the integrator's tolerance for one that is asked of the curve."""
        floor = KINKED_FLOOR if self.p.student.expression.kinks("x") else 1e-14
        return max(SAFETY * asked, floor * scale)

    @cached_property
    def target_size(self) -> float:
        """E[f*^2]/2, the error of a student whose readouts are zero."""
        return tail.target_size(self)

    def finish(self, times: Array, states: Array, status: str, message: str, stats: dict[str, Any]) -> Solution:
        if status == "step_underflow":
            # Steep activations diverge in finite time, before any bound is met: say which overlap grows.
            from ...numerics.ode import integrate

            bound = 5.0 * max(1.0, float(abs(self.initial_state()).max()))
            again = integrate(y0=self.initial_state(), p=self.parameters(), **{**self.integration(), "blow_up": bound})
            if again.status == "blow_up":
                status = "blow_up"
                message = f"{again.message} and its rate diverges at t = {stats.get('t_failed', again.t[-1]):.6g}"
        if self.mixtures is not None:
            stats = {**stats, "activation_error": max(m.error for m in self.mixtures)}
        if self.module().ROUTE != "closed" and len(states):
            finer = rules.finer(rules.levels(self), self.velocity, self.rule, states, self.p.solver.quadrature_rtol)
            if finer is not None and status == "success" and not self.module().POLYNOMIAL_DEGREE:
                # Chosen at the start, too coarse later: once more.
                self.rule = finer
                vars(self).pop("_parameters", None)
                return self.solve()
            worst = rules.error(self, self.rule, states[[0, len(states) // 2, -1]])
            stats = {**stats, "quadrature_error": worst}
        end = tail.continued(self, np.asarray(times), states) if status == "success" and len(states) else None
        if end is None:
            return self._resolved(super().finish(times, states, status, message, stats))
        states = states.copy()
        states[end.rows] = end.states
        stats = {**stats, "differences_from": end.begin, "nodes": end.nodes}
        solution = super().finish(times, states, status, message, stats)
        error = solution.variables["generalization_error"]
        kept = np.asarray(error.values)[: -len(end.rows)]
        solution.variables["generalization_error"] = replace(error, values=np.concatenate([kept, end.errors]))
        return solution

    def _resolved(self, solution: Solution) -> Solution:
        """Say below which value e_g, a difference of overlaps, is only their error: it may be negative there."""
        values = np.asarray(solution.variables["generalization_error"].values)
        resolution = RESOLUTION * self._tolerance(self.p.solver.rtol) * self.target_size
        if values.size and values.min() < resolution:
            solution.stats["generalization_error_resolution"] = resolution
            if values.min() < 0:
                log.warning(
                    "e_g is known to %.1e only: below that it is the overlaps' error, here negative", resolution
                )
        return solution

    def work_size(self) -> int:
        counts = [] if self.mixtures is None else [len(m.weights) for m in self.mixtures]
        if self.module().ROUTE == "fields" and self.K + self.M > MOST_FIELDS:
            raise DerivationError(
                f"averages over {self.K + self.M} fields at once, at most {MOST_FIELDS} are taken",
                where="student.width", why="matrices of all fields lie on the stack of a thread",
                hint="fewer units, or a loss and a target whose averages are taken field by field",
            )  # fmt: skip
        size = int(self.module().work_size(self.K, self.M, *counts))
        if "_jacobian_module" in vars(self) and self._jacobian_module is not None:
            # Both work in one scratch array, one after the other.
            size = max(size, int(self._jacobian_module.work_size(self.K, self.M)))
        return size

    # Variables ----------------------------------------------------------------------------------------------------

    def unpack(self, states: Array) -> tuple[Array, Array, Array]:
        """Return Q (time, K, K), M (time, K, M) and a (time, K) of states of shape (time, n)."""
        K, M = self.K, self.M
        count = K * (K + 1) // 2
        Q = states.take(places_of_pairs(K), axis=1)
        overlap = states[:, count : count + K * M].reshape(-1, K, M)
        if self.trained:
            return Q, overlap, states[:, count + K * M :]
        a = np.empty((len(states), K))
        a[:] = self.start.a
        return Q, overlap, a

    def generalization_error(self, states: Array) -> Array:
        """Return E[(f - f*)^2]/2, without label noise, for states of shape (time, n)."""
        # Asked of one array twice: by the tail, and as a variable.
        if self._seen is None or self._seen[0] is not states:
            self._seen = states, self._observe("generalization_error", states)
        return self._seen[1]

    def _observe(self, name: str, states: Array) -> Array:
        from ...numerics.rows import over_rows

        observable, p, work = getattr(self.module(), name), self.parameters(), np.zeros(self.work_size())
        return over_rows(observable, states, p, work)

    def variables(self, times: Array, states: Array) -> dict[str, Variable]:
        Q, M, a = self.unpack(states)
        values = {"Q": Q, "M": M, "a": a}
        out = {
            "generalization_error": Variable(
                ("time",), self.generalization_error(states), r"\varepsilon_g", "E[(f* - f)^2]/2 without label noise"
            )
        }
        if self.p.loss.form.name not in QUADRATIC:
            average = self._observe("population_loss", states)
            out["test_loss"] = Variable(("time",), average, r"\mathbb{E}[\ell]", "E[loss(f, y)], label noise included")
        for op in self.order_parameters:
            out[op.name] = Variable(("time", *op.dims), values[op.name], op.latex, op.meaning)
        return out


@cache
def lower_triangle(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of the lower triangle, row by row."""
    return np.tril_indices(size)


@cache
def places_of_pairs(size: int) -> NDArray[np.intp]:
    """Return where each entry of a symmetric matrix stands in its lower triangle."""
    i, k = lower_triangle(size)
    places = np.empty((size, size), dtype=np.intp)
    places[i, k] = places[k, i] = np.arange(len(i))
    return places


@cache
def order_parameters() -> tuple[OrderParameter, ...]:
    """Return the order parameters of one-pass SGD."""
    return (
        OrderParameter("Q", ("student", "student"), "Q_{ik}", "student-student overlap w_i.w_k/d", symmetric=True),
        OrderParameter("M", ("student", "teacher"), "M_{im}", "student-teacher overlap w_i.w*_m/d"),
        OrderParameter("a", ("student",), "a_{i}", "student readout"),
    )


def _target(target: Any) -> Any:
    import sympy as sp

    return target.expression.sympy().subs(sp.Symbol("z", real=True), sp.Symbol("z1", real=True))
