"""Rest points of a theory's flow: find, classify, follow in a parameter, critical values, escape from plateaus.

All of them speak the problem's language: keys of the run file and names of variables. The work is done by
`numerics.equilibria` on the compiled right-hand side.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import DimladderError, SolveError, UsageError, did_you_mean
from .numerics.scalars import find_root
from .prepare import prepare
from .problem import Problem
from .solve import derive

if TYPE_CHECKING:
    from .numerics.equilibria import Equilibrium
    from .results import LearningCurve
    from .symbolic.systems import Flow


def _flow(problem: Problem) -> Flow:
    from .symbolic.systems import Flow

    system = derive(problem)
    if not isinstance(system, Flow):
        raise DimladderError(
            f"the theory {problem.theory!r} has no equilibria", why=f"its system is a {system.kind}, not a flow"
        )
    return system


def _autonomous(problem: Problem) -> Flow:
    """Return the flow, unless it depends on time: then it has no rest points."""
    from .problem.schedules import is_constant

    flow = _flow(problem)
    for key, text in flow.schedule_texts.items():
        if not is_constant(text):
            raise DimladderError(
                "a flow whose rates change in time has no equilibria", where=key, why=f"the schedule is {text!r}",
                hint="set it to its value at late times, such as \"0.5\", for the rest points there",
            )  # fmt: skip
    return flow


def _arguments(flow: Flow) -> dict[str, Any]:
    return {
        "p": flow.parameters(), "jac": flow.jacobian(), "work_size": flow.work_size(), "fixed": flow.conserved,
    }  # fmt: skip


def _report(problem: Problem, flow: Flow, points: Sequence[Equilibrium], axis: str, values: Sequence[float]) -> Any:
    from .results import LearningCurve

    states = np.stack([p.y for p in points])
    variables = {
        name: ((axis, *v.dims[1:]), v.values, v.latex, v.long_name, v.units)
        for name, v in flow.variables(np.full(len(points), np.inf), states).items()
        if v.dims[:1] == ("time",)
    }
    modes = np.stack([p.eigenvalues for p in points])
    real, imaginary = r"\mathrm{Re}\,\lambda", r"\mathrm{Im}\,\lambda"
    variables |= {
        "eigenvalue_real": ((axis, "mode"), modes.real, real, "growth rate of a mode", "1/time"),
        "eigenvalue_imag": ((axis, "mode"), modes.imag, imaginary, "frequency of a mode", "1/time"),
        "unstable_directions": ((axis,), [p.unstable_directions for p in points], "", "number of growing modes", None),
        "residual": ((axis,), [p.residual for p in points], "", "largest |dx/dt|", "1/time"),
    }
    stats = {"status": [p.status for p in points], "stability": [p.stability for p in points]}
    return LearningCurve.build(problem, {axis: values}, variables, stats=stats)


def equilibrium(problem: Problem, start: Sequence[float] | None = None, t_max: float = 1e6) -> LearningCurve:
    """Find where a flow comes to rest.

    Parameters
    ----------
    problem : Problem
        Of a theory whose system is a Flow.
    start : sequence of float, optional
        A first guess of the state, in the order of ``derive(problem).names()``, polished by Newton's iteration: finds
        unstable points too. Without it the flow is followed from the problem's initial condition.
    t_max : float
        Longest time to follow the flow, in the theory's unit.

    Returns
    -------
    LearningCurve
        The theory's variables on the axis ``time = [inf]``, with ``eigenvalue_real``, ``eigenvalue_imag`` (mode; by
        decreasing growth rate), ``unstable_directions`` and ``residual``. ``stats["stability"]`` is "stable",
        "unstable" or "marginal".

    Raises
    ------
    DimladderError
        For a theory that is no flow, and for a flow whose rates change in time.
    SolveError
        When no rest point is reached; the message says how far it is.
    """
    from .numerics import equilibria

    flow = _autonomous(problem)
    rhs = flow.module().rhs
    if start is not None:
        point = equilibria.polish(rhs, np.asarray(start, dtype=float), **_arguments(flow))
    else:
        point = equilibria.find(rhs, flow.initial_state(), t_max=t_max, **_arguments(flow))
    if not point.success:
        raise SolveError(
            "no equilibrium was reached",
            status=point.status,
            partial=_report(problem, flow, [point], "time", [np.inf]),
            why=point.message,
            hint="a larger t_max, or a start closer to the rest point",
        )
    return _report(problem, flow, [point], "time", [np.inf])


def _speed(flow: Flow, y: Any) -> float:
    """Return max |dy/dt| at a state; infinity outside the domain."""
    out = np.empty_like(y)
    flow.module().rhs(0.0, np.ascontiguousarray(y), out, flow.parameters(), np.zeros(max(1, flow.work_size())))
    return float(abs(out).max()) if np.isfinite(out).all() else np.inf


class _Branch:
    """A rest point as a function of one number, from its expansion to first order at the nearest known value.

    dy/dv solves J dy/dv = -F_p dp/dv, with J and F_p the derivatives of the compiled equations, exactly, in the state
    and in their parameters p; these are numbers that follow from v.
    """

    def __init__(self, problem: Problem, key: str) -> None:
        self.prepared = prepare(problem, [key])
        self.known: list[tuple[float, Any, Any]] = []

    def flow(self, value: float) -> Flow:
        """Return the flow at a value."""
        return _autonomous(self.prepared.at([value]))

    def at(self, value: float, start: Any = None) -> Equilibrium:
        """Return the rest point at a value; from `start`, or where the flow comes to rest, while none is known."""
        from .numerics import equilibria

        flow = self.flow(value)
        rhs, arguments = flow.module().rhs, _arguments(flow)
        guesses = [] if start is None else [np.asarray(start, dtype=float)]
        if self.known:
            near, y, slope = min(self.known, key=lambda k: abs(k[0] - value))
            guesses += [y, y + (value - near) * slope]
        if guesses:
            # The one that is closest to rest: far from the known value, or near a fold, the slope says nothing.
            point = equilibria.polish(rhs, min(guesses, key=partial(_speed, flow)), **arguments)
        else:
            point = equilibria.find(rhs, flow.initial_state(), **arguments)
        if point.success:
            self.known.append((value, point.y, self.slope(flow, value, point.y)))
        return point

    def slope(self, flow: Flow, value: float, y: Any) -> Any:
        """Return dy/dv of the rest point; zero where it has none."""
        from .numerics import equilibria
        from .numerics.differences import derivative

        def parameters(at: float) -> Any:
            try:
                return self.flow(at).parameters()
            except DimladderError:
                return None

        try:
            direction, _ = derivative(parameters, value, 0.1 * (abs(value) or 1.0))
        except ValueError:
            return np.zeros_like(y)
        return equilibria.response(flow.module().rhs, y, direction=direction, **_arguments(flow))


def follow_equilibrium(
    problem: Problem, key: str, values: Sequence[float], start: Sequence[float] | None = None
) -> LearningCurve:
    """Follow a rest point while one number of the run file changes.

    Each point starts Newton's iteration on the tangent of the branch at its predecessor. Where the branch ends (a fold)
    the remaining points are kept as rows with status "not_converged" and NaN values: none is dropped.

    Parameters
    ----------
    problem : Problem
    key : str
        Dotted key, e.g. ``"algorithm.learning_rate"``; the form of the equations must not depend on it.
    values : sequence of float
    start : sequence of float, optional
        State near the rest point at ``values[0]``; by default where the flow comes to rest there.

    Returns
    -------
    LearningCurve
        As `equilibrium`, on the axis `key`.
    """
    from dataclasses import replace as with_fields

    branch = _Branch(problem, key)
    flow = branch.flow(float(values[0]))
    points: list[Equilibrium] = []
    for value in values:
        point = branch.at(float(value), start)
        if not point.success:
            lost, modes = np.full_like(point.y, np.nan), np.full_like(point.eigenvalues, np.nan)
            point = with_fields(point, y=lost, eigenvalues=modes, unstable_directions=-1)
        points.append(point)
    return _report(problem, flow, points, key, values)


def critical_value(
    problem: Problem, key: str, low: float, high: float, start: Sequence[float], rtol: float = 1e-10
) -> tuple[float, float]:
    """Return the bracket of the value of `key` at which a rest point gains or loses an unstable direction.

    Parameters
    ----------
    problem, key
        As in `follow_equilibrium`.
    low, high : float
        Values between which the number of unstable directions changes.
    start : sequence of float
        State near the rest point; it is followed from value to value, and polished at each.
    rtol : float
        Width of the bracket, relative.

    Raises
    ------
    ValueError
        When nothing changes between `low` and `high`.
    SolveError
        When the rest point cannot be followed.
    """
    from .numerics import equilibria

    branch = _Branch(problem, key)

    def unstable(value: float) -> int:
        point = branch.at(value, start)
        if not point.success:
            raise SolveError(
                "the rest point was lost", status=point.status, where=f"{key} = {value:.9g}", why=point.message,
                hint="narrow the bracket, or begin closer",
            )  # fmt: skip
        return point.unstable_directions

    at_low = unstable(low)
    return equilibria.critical_parameter(lambda value: unstable(value) == at_low, low, high, rtol=rtol)


def check_component(flow: Flow, variable: str, index: tuple[int, ...]) -> None:
    """Refuse a name that is no variable in time, and an index that is none of its components."""
    start = flow.variables(np.zeros(1), flow.initial_state().reshape(1, -1))
    known = {name: np.asarray(v.values).shape[1:] for name, v in start.items() if v.dims[:1] == ("time",)}
    if variable not in known:
        raise UsageError(
            f"the theory has no variable {variable!r} in time", where="variable", hint=did_you_mean(variable, known)
        )
    shape = known[variable]
    if len(index) != len(shape) or any(not -n <= i < n for i, n in zip(index, shape, strict=True)):
        of = f"of shape {shape}: give an index such as {(0,) * len(shape)}" if shape else "one number: give no index"
        raise UsageError(f"{variable!r} has no component {index}", where="index", why=f"it is {of}")


def escape_time(problem: Problem, variable: str, level: float, t_max: float, index: Sequence[int] = ()) -> float:
    """Return the first time at which a variable of the theory crosses a level; infinity if not before `t_max`.

    Parameters
    ----------
    problem : Problem
        Of a theory whose system is a Flow.
    variable : str
        Name, e.g. ``"generalization_error"``.
    level : float
    t_max : float
        In the theory's unit of time.
    index : sequence of int
        Which component of a matrix variable, e.g. ``(0, 0)``.

    Raises
    ------
    UsageError
        When there is no such variable, or `index` does not say which of its components.
    SolveError
        When the integration fails before the crossing.
    """
    from .numerics.ode import integrate

    flow = _flow(problem)
    check_component(flow, variable, tuple(index))
    if not 0 < t_max < np.inf or not np.isfinite(level):
        raise UsageError("a level and a last time > 0 are numbers", where="escape_time", why=f"{level = }, {t_max = }")
    asked = {**flow.integration(), "t_eval": [t_max]}
    result = integrate(y0=flow.initial_state(), p=flow.parameters(), dense=True, **asked)
    curve = result.dense
    if curve is None:
        return np.inf

    def gap(t: float) -> float:
        state = np.asarray(curve(t), dtype=float).reshape(1, -1)
        values = np.asarray(flow.variables(np.array([t]), state)[variable].values)[0]
        return float(values[tuple(index)]) - level

    # Steps of the integrator resolve the curve: look for the change of sign between their ends.
    times = np.unique(np.concatenate([[0.0], np.asarray(curve.knots, dtype=float), [result.t_final]]))
    before = gap(0.0)
    for a, b in pairwise(times):
        after = gap(float(b))
        if before == 0.0 or before * after < 0:
            return float(a) if before == 0.0 else float(find_root(gap, a, b, xtol=1e-12 * max(1.0, b)))
        before = after
    if result.status not in ("success", "event", "converged"):
        raise SolveError(
            "the integration ended before the escape", status=result.status, why=result.message,
            where=f"time {result.t_final:.6g}", hint="a smaller learning rate or t_max",
        )  # fmt: skip
    return np.inf
