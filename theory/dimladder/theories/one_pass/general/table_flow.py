"""The flow of one problem with blocks, sources or several tracked vectors: its numbers, module and variables."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ....errors import DerivationError
from ....problem import Expression, schedules
from ....problem.update_table import Table, table
from ....symbolic import store
from ....symbolic.equations import Equation, Step
from ....symbolic.systems import Flow, Solution, Variable
from .. import quadrature_rules as rules
from ..erf_sums import PLAIN, ErfMixture, erf_mixture
from ..flow import BLOW_UP, QUADRATIC, RESOLUTION, SAFETY
from ..letters import TABLE
from . import numbers, variables

if TYPE_CHECKING:
    from ....problem import Problem
    from ..source_averages import SourceAverages
    from .derivation import Derived
    from .notation import Form

log = logging.getLogger("dimladder.one_pass")
Array = NDArray[np.float64]
# Unknowns beyond which implicit steps cost more than the explicit ones that stability asks for.
LARGE = 150
# Fields of a source from which on sums of erfs are cheaper than nested quadrature, or reach what it no longer does;
# where there are no means, pairs of erfs are arcsines.
FEWEST_SUMMED, FEWEST_CENTRED = 4, 3


class GeneralFlow(Flow):
    """dGamma^b/dt and, where the readout is trained, da/dt; time is steps / d.

    Biases are overlaps with a direction of their own, in a last block that the covariances do not see.

    Parameters
    ----------
    problem : Problem
    given : Table, optional
        A table written by hand; the problem then only gives grid, solver and the formula of an index target.
    """

    letters = TABLE

    time_unit = "steps / d"

    def __init__(self, problem: Problem, given: Table | None = None) -> None:
        super().__init__(problem)
        self.p: Any = problem
        self.table = table(problem) if given is None else given
        t = self.table
        self.biased = t.bias_rate is not None
        self.K, self.M, self.D = t.K, t.M, t.D + self.biased
        self.S, self.B = len(t.species), len(t.shares) + self.biased
        self.V, self.F = self.S * self.K, self.M + self.D
        self.trained = bool(getattr(problem.student, "train_readout", False))
        # With dropout the full network is tested: sources of its own, which emit nothing.
        # So is the student without the noise of its training.
        noisy = (t.input_noise > 0 and not t.hidden) or t.weight_noise > 0
        self.tested = len(t.head) if noisy or (t.masks != 1.0).any() else 0
        self.order_parameters = variables.order_parameters(self)

    # Derivation ---------------------------------------------------------------------------------------------------

    @property
    def centred(self) -> bool:
        """Whether every field has mean zero and no label an offset."""
        constants = self.sums is not None and any(one.constant for one in self.sums)
        return self._zero_means and not constants

    @property
    def _zero_means(self) -> bool:
        return not (self.biased or self.table.means.any() or self.table.labels.any())

    def structure(self) -> dict[str, Any]:
        """Return what decides the form of the equations; counts and every number are parameters."""
        t = self.table
        texts = [None if f is None else (f.text, f.hermite) for f in (t.activation, t.teacher, *t.index)]
        return {
            **dict(zip(("student", "teacher"), texts, strict=False)),
            "index": texts[2:],
            "directions": t.M if t.index else 0,
            "outputs": t.Y,
            "argmax": t.argmax,
            "written": t.coefficients and [None if row is None else row.text for row in t.coefficients],
            "species": t.species if t.coefficients else (),
            "sampled": t.sampled_drift and [[f and f.text for f in row] for row in t.sampled_drift],
            "kicked": t.kicked,
            "loss": t.loss.name,
            "centred": self.centred,
            "signs": t.signs,
            "erfs": self.sums and [one.parameters.tolist() for one in self.sums],
            "train_readout": self.trained,
            "spherical": t.spherical,
            "regime": t.regime,
            "scheduled": self.scheduled,
            "timed": bool(self.formulas),
            "uses": t.uses,
            "trial": bool(t.displacement),
            "episodes": t.episodes is not None,
            **self._extras,
        }

    @property
    def formulas(self) -> tuple[str, ...]:
        """The distinct formulas of the numbers that change in time."""
        return tuple(dict.fromkeys(entry.formula.text for entry in self.table.timed))

    @property
    def scheduled(self) -> bool:
        """Whether a schedule multiplies the rates."""
        return not schedules.is_one(self.table.schedule)

    @property
    def _extras(self) -> dict[str, bool]:
        t = self.table
        return {
            "feedback": t.feedback is not None, "stirred": t.input_noise > 0, "blurred": t.weight_noise > 0,
            "drifting": self.drifting,
        }  # fmt: skip

    @property
    def drifting(self) -> bool:
        """Whether teachers move on their own: their overlaps are then part of the state."""
        return self.table.fixed_drift is not None

    @cached_property
    def form(self) -> Form:
        """What decides the form of the equations."""
        from .notation import Form

        t = self.table
        schedule = Expression(t.schedule, ("t",)).sympy() if self.scheduled else 1
        written = t.coefficients is not None
        return Form(
            self.trained, t.spherical, self.centred, written, vector=t.Y > 1, regime=t.regime, schedule=schedule,
            timed=bool(self.formulas), sampled=sum(f is not None for row in t.sampled_drift or () for f in row),
            kicked=t.kicked, **self._extras,
        )  # fmt: skip

    @cached_property
    def averages(self) -> SourceAverages:
        """The averages of one source."""
        import sympy as sp

        from ....symbolic.factors import X
        from ..kink_axes import target_kinks
        from ..notation import Setting
        from ..source_averages import SourceAverages

        t = self.table
        student = t.activation.sympy(x=X)
        if t.Y > 1:
            return self._vector_averages(student)
        kinked: dict[str, Any] = {}
        if t.index:
            kinked["target_axes"], kinked["target_kinks"] = target_kinks(self.p.target, t.M)
        setting = Setting(
            student=student,
            teacher=None if t.index else student if t.teacher is None else t.teacher.sympy(x=X),
            target=_fields(t.index[0]) if t.index else None,
            directions=t.M if t.index else 0,
            loss=t.loss.name,
            train_readout=self.trained,
            student_kinks=t.activation.kinks("x"),
            teacher_kinks=() if t.teacher is None else t.teacher.kinks("x"),
            **kinked,
        )
        if t.coefficients is not None:
            return SourceAverages(
                setting, self.centred, t.species, t.coefficients, signs=t.signs, sampled_drift=t.sampled_drift
            )
        if self.sums is not None:
            erf = sp.erf(X / sp.sqrt(2))
            erfs = replace(
                setting, student=erf, teacher=None if t.index else erf, student_kinks=(), teacher_kinks=(), mixture=True
            )
            found = SourceAverages(erfs, self.centred, signs=t.signs, sums=self.sums, summed=setting)
            if found.route == "closed":
                return found
        if self.p.solver.averages == "mixture":
            raise DerivationError(
                "this problem cannot be averaged as a network of erfs", where="solver.averages",
                why="that takes one output, a gradient that is no written rule, activations that are sums of erf(s x), "
                "tanh(s x), sigmoid(s x) and numbers, a square or correlation loss, and a target whose averages with "
                "erfs have closed forms",
                hint='drop solver.averages or set it to "quadrature"',
            )  # fmt: skip
        return SourceAverages(
            setting, self.centred, signs=t.signs, uses=t.uses, trial=bool(t.displacement),
            episodes=t.episodes is not None,
        )  # fmt: skip

    @cached_property
    def sums(self) -> tuple[ErfMixture, ErfMixture] | None:
        """Activations of students and teachers as sums of erfs, where their averages are taken that way.

        Quadrature over few fields is as accurate and cheaper.
        """
        t, asked, accuracy = self.table, self.p.solver.averages, self.p.solver.quadrature_rtol
        special = t.coefficients is not None or t.uses > 1 or t.displacement or t.episodes is not None or t.Y > 1
        if asked == "quadrature" or special or t.loss.name not in QUADRATIC:
            return None
        if asked == "auto" and self._most_fields < (FEWEST_CENTRED if self._zero_means else FEWEST_SUMMED):
            return None
        student = erf_mixture(t.activation, accuracy)
        teacher = PLAIN if t.teacher is None else erf_mixture(t.teacher, accuracy)
        if student is None or teacher is None or (t.index and student.constant):
            return None
        plain = student.same_as(PLAIN) and (t.teacher is None or teacher.same_as(PLAIN))
        return None if plain else (student, teacher)

    def _vector_averages(self, student: Any) -> SourceAverages:
        from ....symbolic.factors import X
        from ..kink_axes import label_planes
        from ..notation import Setting
        from ..vector_averages import VectorAverages

        t = self.table
        setting = Setting(
            student=student, teacher=student if t.teacher is None else t.teacher.sympy(x=X), loss="square",
            train_readout=self.trained, student_kinks=t.activation.kinks("x"),
            teacher_kinks=() if t.teacher is None else t.teacher.kinks("x"),
        )  # fmt: skip
        loss: Any = t.loss
        index = tuple(_fields(f) for f in t.index)
        planes = label_planes(t.index, t.argmax, t.M)
        return VectorAverages(
            setting, self.centred, loss=loss, index=index, argmax=t.argmax, planes=planes, classes=t.classes
        )

    @cached_property
    def derived(self) -> Derived:
        """The symbolic equations; derived on first use, never for a problem whose module is in the store."""
        from .derivation import derive

        return derive(self.form)

    def equations(self) -> list[Equation]:
        from .explanation import equations

        return equations(self)

    def derivation(self) -> list[Step]:
        from .explanation import explain

        return explain(self)

    def module(self) -> ModuleType:
        return self._module

    @cached_property
    def _module(self) -> ModuleType:
        return store.module(("one-pass general", self.structure()), self._source, native=True)

    def _source(self) -> str:
        from ..source_code import source_functions
        from ..vector_averages import VectorAverages
        from ..vector_code import vector_functions
        from . import code

        averages = self.averages
        functions = vector_functions(averages) if isinstance(averages, VectorAverages) else source_functions(averages)
        ends = {"ROUTE": averages.route, "LINEAR_IN_NOISE": averages.linear_in_noise}
        title = f"one-pass: {self.structure()}"
        # A step moves the fields of its own sample by |x|^2/d; the other samples of a batch move them by less.
        step = "step * length[c] / batch" if averages.displaced else "step" if averages.takes_rate else ""
        return code.source(self.derived, functions, title, ends, step)

    # Numbers ------------------------------------------------------------------------------------------------------

    @cached_property
    def gram(self) -> Array:
        """Overlaps by block of all vectors at time 0, biases included, shape (B, n, n)."""
        return numbers.gram(self)

    @cached_property
    def plain_parameters(self) -> Array:
        """The parameters but for a quadrature."""
        return numbers.parameters(self)

    def initial_state(self) -> Array:
        p, q = np.tril_indices(self.V)
        cross = self.gram[:, : self.V, self.V :].transpose(1, 2, 0)
        parts = [self.gram[:, p, q].T.ravel(), cross.ravel()]
        if self.drifting:
            f, g = (self.V + place for place in np.tril_indices(self.F))
            parts.append(self.gram[:, f, g].T.ravel())
        return np.concatenate([*parts, self.table.a.ravel() if self.trained else np.zeros(0)])

    def names(self) -> list[str]:
        """Return what each component is: ``Q_block[b,p,q]`` in block b of several, vectors species by species."""
        last = self.B - 1 if self.biased else self.B

        def name(kind: str, at: str, b: int) -> str:
            if b == last:
                return f"{kind}[{at}]" if kind == "bias" else f"{kind}_bias[{at}]"
            return f"{kind}[{at}]" if last == 1 and kind != "bias" else f"{kind}_block[{b},{at}]"

        fixed = [("M", m) for m in range(self.M)] + [("mean_overlap", r) for r in range(self.table.D)]
        pairs = [("Q", f"{p},{q}") for p in range(self.V) for q in range(p + 1)]
        for p in range(self.V):
            pairs += [(kind, f"{p},{at}") for kind, at in fixed] + ([("bias", str(p))] if self.biased else [])
        if self.drifting:
            pairs += [("T", f"{f},{g}") for f in range(self.F) for g in range(f + 1)]
        shape = variables.readout_shape(self)
        readouts = [f"a[{','.join(map(str, at))}]" for at in np.ndindex(*shape.values())] if self.trained else []
        return [name(kind, at, b) for kind, at in pairs for b in range(self.B)] + readouts

    def parameters(self) -> Array:
        return np.concatenate([self.plain_parameters, self._packed(self.rule)])

    def _packed(self, rule: Array) -> Array:
        """Return a quadrature as the module reads it: for several outputs, then the one that counts wrong classes."""
        if self.table.Y == 1:
            return rule
        classes = np.zeros(0)
        if self.table.classes:
            classes = rules.class_rule(self._most_fields, self.p.solver.quadrature_rtol)
        return np.concatenate([[float(rule.size)], rule, classes])

    @cached_property
    def rule(self) -> Array:
        """The quadrature of averages without closed form; empty where they have one."""
        episodes = self.table.episodes
        if episodes is not None:
            return np.array([episodes.length, episodes.needed, episodes.reward, episodes.penalty], dtype=float)
        if self.module().ROUTE == "closed":
            # Only wrong signs are counted by points.
            if not self.table.signs:
                return np.zeros(0)
            return rules.sign_rule(self._most_fields, self.p.solver.quadrature_rtol)
        return rules.coarsest(self.families, self.averaged, self.initial_state()[None], self.p.solver.quadrature_rtol)

    def settle(self, like: Any = None) -> None:
        rules.settle(self, like)

    @property
    def _most_fields(self) -> int:
        """The number of fields of the source that reads most."""
        t = self.table
        own = self.V if t.coefficients is not None else self.K
        heard = (t.teacher_rows != 0.0).reshape(len(t.teacher_rows), t.Y, t.M).any(axis=1)
        return own + int(heard.sum(axis=1).max(initial=0))

    @cached_property
    def families(self) -> list[list[Array]]:
        """The quadratures to choose from."""
        linear = bool(self.module().LINEAR_IN_NOISE)
        smooth = self.averages.displaced and self.table.loss.name in QUADRATIC
        counts = rules.SMOOTH_NOISE_NODES if smooth else rules.NOISE_NODES
        noisy = bool(self.table.noise.any()) and self.table.Y == 1
        return rules.source_levels(self._most_fields, noisy, linear, counts)

    def velocity(self, y: Array, rule: Array) -> Array:
        """Return dy/dt with a given quadrature, where the schedule is largest."""
        out = np.empty_like(y)
        t = schedules.largest(self.table.schedule, 0.0, float(self.times()[-1]))
        self.module().rhs(
            t, y, out, np.concatenate([self.plain_parameters, self._packed(rule)]), np.zeros(self.work_size())
        )
        return out

    def averaged(self, y: Array, rule: Array) -> Array:
        """Return what a quadrature averages at a state: dy/dt, and e_g, which a loss may leave to itself."""
        row = np.empty(self.S * self.table.sources * 3)
        p, work = np.concatenate([self.plain_parameters, self._packed(rule)]), np.zeros(self.work_size())
        self.module().observe(0.0, np.ascontiguousarray(y), row, p, work)
        return np.concatenate([self.velocity(y, rule), row.reshape(-1, 3)[:, 0]])

    def work_size(self) -> int:
        own = int(self.module().work_size(self.K, self.M, self.D, self.S, self.B, self.table.Y))
        return own + (len(self.plain_parameters) if self.formulas else 0)

    # Integration --------------------------------------------------------------------------------------------------

    @property
    def schedule_texts(self) -> dict[str, str]:
        # Formulas of one key are told apart by a number; what is wrong with one of them the table has said by the key.
        moving = {entry.formula.text: entry.key for entry in self.table.timed}
        return {"algorithm.schedule": self.table.schedule} | {
            f"{key} ({number})": text for number, (text, key) in enumerate(moving.items())
        }

    def pieces(self) -> tuple[tuple[float, float], ...]:
        last = float(self.times()[-1])
        switches = [time for time in self.table.switches if time < last]
        return schedules.together(super().pieces(), [(end, np.inf) for end in (*switches, last)] if switches else ())

    @property
    def conserved(self) -> tuple[int, ...]:
        """The norms, on the sphere, where they are components of the state: in a single block."""
        if not self.table.spherical or self.B > 1:
            return ()
        return tuple(i * (i + 3) // 2 for i in range(self.K))

    def integrator_options(self) -> dict[str, Any]:
        settings, size, t = self.p.solver, len(self.initial_state()), self.table
        return {
            "jac": None,
            # Many blocks: the largest eigenvalue limits explicit steps, which are cheaper than one dense Jacobian.
            "method": "dop853" if settings.method == "auto" and size > LARGE else settings.method,
            # Errors made before a plateau is left grow while it is left: the asked tolerance is for the curve.
            "rtol": max(SAFETY * settings.rtol, 1e-14),
            "atol": max(SAFETY * settings.atol, 1e-16),
            "blow_up": BLOW_UP * max(1.0, float(abs(self.initial_state()).max())),
            "autonomous": schedules.is_constant(self.table.schedule) and not (t.switches or t.timed),
            # Where stability limits explicit steps, interpolants are a thousand times worse than steps.
            "output": "step" if self.module().ROUTE == "closed" else "interpolate",
        }

    def finish(self, times: Array, states: Array, status: str, message: str, stats: dict[str, Any]) -> Solution:
        if len(self.rule) and len(states) and self.module().ROUTE != "closed":
            finer = rules.finer(self.families, self.averaged, self.rule, states, self.p.solver.quadrature_rtol)
            if finer is not None and status == "success":
                # Chosen at the start, too coarse later: once more.
                self.rule = finer
                return self.solve()
            worst = rules.refinement(self.families, self.averaged, self.rule, states[[0, len(states) // 2, -1]])
            stats = {**stats, "quadrature_error": worst}
        solution = super().finish(times, states, status, message, stats)
        values = np.asarray(solution.variables["generalization_error"].values)
        resolution = RESOLUTION * self.integrator_options()["rtol"] * max(1.0, float(values[0]) if len(values) else 1.0)
        if values.size and values.min() < resolution:
            solution.stats["generalization_error_resolution"] = resolution
            log.warning(
                "e_g is known to %.1e only: the difference form that resolves smaller errors is derived for isotropic, "
                "centred inputs and one tracked vector a unit", resolution,
            )  # fmt: skip
        return solution

    # Variables ----------------------------------------------------------------------------------------------------

    def unpack(self, states: Array) -> tuple[Array, Array, Array]:
        """Return overlaps by block, (time, B, V, V) and (time, B, V, F), and readouts (time, heads Y, K)."""
        return variables.unpack(self, states)

    def observed(self, times: Array, states: Array) -> Array:
        """Return error, classification error and loss, shape (time, species, source, 3)."""
        sources = self.table.sources
        out = np.empty((len(states), self.S, sources, 3))
        p, work, row = self.parameters(), np.zeros(self.work_size()), np.empty(self.S * sources * 3)
        observe, states = self.module().observe, np.ascontiguousarray(states)
        for place, t in enumerate(times):
            observe(t, states[place], row, p, work)
            out[place] = row.reshape(self.S, sources, 3)
        return out

    def variables(self, times: Array, states: Array) -> dict[str, Variable]:
        return variables.variables(self, times, states)


def _fields(index: Expression) -> Any:
    """Return a target in the symbols z1, z2, ..."""
    import sympy as sp

    return index.sympy().subs(sp.Symbol("z", real=True), sp.Symbol("z1", real=True))
