"""The best value of a control at every time: a schedule that minimises what a theory predicts at the end.

The control is constant on intervals. The flow is integrated through them, and a costate is carried back, as
`sensitivity` does by ``method="adjoint"``: the exact gradient in all values of the control, for a few integrations.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .adjoint import cotangents
from .choose import find
from .equilibria import check_component
from .errors import DimladderError, SolveError, UsageError
from .numerics.differences import derivative
from .numerics.scalars import find_minimum
from .prepare import prepare
from .problem import Problem
from .sensitivity import numbers, tight
from .solve import replace
from .tangents import TangentFlow, step_of

if TYPE_CHECKING:
    from .results import LearningCurve

__all__ = ["Optimum", "optimise"]

log = logging.getLogger("dimladder.optimise")
Array = NDArray[np.float64]
# Values of a constant control among which the best is looked for before it is refined.
TRIED = 24
# A diverging control counts as so many times the objective of the start.
DIVERGED = 1e3
MOST_ITERATIONS = 500
# What a number may be at all, where that is less than all positive numbers.
RANGES = {"student.dropout": (1e-6, 1.0), "data.tasks.": (0.0, 1.0), "algorithm.batch_size": (1.0, math.inf)}


@dataclass(frozen=True)
class Optimum:
    """A schedule that nearby ones do not improve.

    Attributes
    ----------
    times : array (intervals + 1,)
        Ends of the intervals on which the control is constant.
    values : array (intervals,)
        The control.
    objective : float
        The variable at the last time.
    constant, constant_objective : float
        The best constant control, and what it reaches.
    slope : float
        Largest derivative of the objective in a value that is not at its bound, relative: objective' value/objective.
    problem : Problem
        With this schedule, where the control is a learning rate or may be a formula in the time; otherwise as given.
    """

    times: Array
    values: Array
    objective: float
    constant: float
    constant_objective: float
    slope: float
    problem: Problem
    control: str
    variable: str

    def curve(self) -> LearningCurve:
        """Return the schedule as a result: ``control(time)``, by the beginnings of its intervals."""
        from .results import LearningCurve

        variables = {
            "control": (("time",), self.values, "u", f"{self.control} from this time on", None),
            "objective": ((), self.objective, "", f"{self.variable} at the last time", None),
            "constant_control": ((), self.constant, "", f"the best constant {self.control}", None),
            "constant_objective": ((), self.constant_objective, "", f"{self.variable} under it", None),
        }
        stats = {"control": self.control, "variable": self.variable, "slope": self.slope, "stop": self.times[-1]}
        return LearningCurve.build(self.problem, {"time": self.times[:-1]}, variables, stats=stats)


def optimise(
    problem: Problem,
    control: str = "algorithm.learning_rate",
    *,
    variable: str = "generalization_error",
    index: Sequence[int] = (),
    intervals: int = 20,
    minimum: float | None = None,
    maximum: float | None = None,
    **solver: Any,
) -> Optimum:
    """Find the schedule of a control that minimises a variable at the last time of the grid.

    Parameters
    ----------
    problem : Problem
        Of a theory whose system is a Flow with tangents (`sensitivity` says which have). What it schedules already
        multiplies the control.
    control : str
        Dotted key of a number that the start of the flow does not depend on.
    variable : str
        What is minimised; `index` says which component of a matrix.
    intervals : int
        Equal intervals of time on which the control is constant.
    minimum, maximum : float
        Bounds of the control; by default 0 and ten times the problem's own value, within the range of the number.
    **solver
        Fields of the ``[solver]`` section to replace; ``rtol`` and ``atol`` are 1e-11 and 1e-13 unless the problem asks
        for less.

    Returns
    -------
    Optimum

    Raises
    ------
    DimladderError
        For a theory without tangents, and a control that the start depends on.
    SolveError
        When even the best constant control diverges.

    Notes
    -----
    A local optimum: the search begins at the best constant. With plateaus there can be several. Where the control
    changes the law of the samples, so does what an error at the last time means; `error` of a source that keeps its law
    does not.

    References
    ----------
    Saad & Rattray 1997, Globally optimal parameters for on-line learning in multilayer neural networks.
    """
    search = _Search(problem, control, variable, tuple(index), intervals, solver)
    own = numbers(search.prepared)[0]
    least, most = next((r for key, r in RANGES.items() if control.startswith(key)), (0.0, math.inf))
    low = least if minimum is None else float(minimum)
    high = min(10.0 * own, most) if maximum is None else float(maximum)
    if not low < high:
        raise UsageError(
            "the control has no room", where=control, why=f"it must lie between {low:g} and {high:g}",
            hint="give minimum and maximum",
        )  # fmt: skip
    constant, reached = search.best_constant(low, high)
    values, objective, gradient = search.descend(np.full(intervals, constant), low, high)
    inside = (values > low + 1e-9 * (high - low)) & (values < high - 1e-9 * (high - low))
    slope = float(np.max(abs(gradient * values / objective), where=inside, initial=0.0))
    if objective > reached:
        values, objective = np.full(intervals, constant), reached
    scheduled = _scheduled(problem, control, search.times, values)
    return Optimum(search.times, values, objective, constant, reached, slope, scheduled, control, variable)


class _Search:
    """The objective and its gradient in the values of the control."""

    def __init__(
        self, problem: Problem, control: str, variable: str, index: tuple[int, ...], intervals: int,
        solver: dict[str, Any],
    ) -> None:  # fmt: skip
        if intervals < 1:
            raise UsageError("a schedule has at least one interval", where="intervals", why=f"got {intervals}")
        self.prepared = prepare(problem, [control], **tight(problem, solver))
        base = numbers(self.prepared)
        flow = TangentFlow.of(self.prepared, base)
        if flow is None:
            raise DimladderError(
                f"the theory {problem.theory!r} has no tangents of this problem", where=control,
                why="an optimal schedule needs a flow whose compiled equations can be differentiated",
                hint="dimladder sensitivity says how a derivative is taken",
            )  # fmt: skip
        if abs(flow.start_slopes).max() > 0:
            raise UsageError(f"the start of the flow depends on {control!r}", where="control")
        check_component(flow.system, variable, index)
        self.flow, self.variable, self.index = flow, variable, index
        last = float(flow.system.times()[-1])
        self.times = np.linspace(0.0, last, intervals + 1)

    def value(self, system: Any, states: Array) -> Array:
        """Return the objective in each of some states at the last time."""
        found = system.variables(np.full(len(states), self.times[-1]), states)[self.variable]
        values: Any = np.asarray(found.values, dtype=float)
        return np.asarray(values[(slice(None), *self.index)])

    def constant(self, u: float) -> float:
        """Return the objective of a constant control; infinity where it diverges."""
        try:
            solution = self.prepared.solution([u])
        except DimladderError:
            return math.inf
        values = np.asarray(solution.variables[self.variable].values, dtype=float)
        return float(values[(-1, *self.index)])

    def best_constant(self, low: float, high: float) -> tuple[float, float]:

        tried = np.linspace(low, high, TRIED)
        found = np.array([self.constant(float(u)) for u in tried])
        best = int(np.argmin(found))
        if not np.isfinite(found[best]):
            raise SolveError("every constant control diverges", status="blow_up", hint="lower the maximum")
        left, right = tried[max(0, best - 1)], tried[min(TRIED - 1, best + 1)]
        result = find_minimum(self.constant, left, right, xtol=1e-9)
        return (result.x, result.value) if result.value < found[best] else (float(tried[best]), found[best])

    def descend(self, start: Array, low: float, high: float) -> tuple[Array, float, Array]:
        from scipy.optimize import minimize

        scale = self.objective(start)[0]
        diverged = 0

        def asked(values: Array) -> tuple[float, Array]:
            nonlocal diverged
            objective, gradient = self.objective(values)
            if not (np.isfinite(objective) and np.isfinite(gradient).all()):
                diverged += 1
                return DIVERGED, np.zeros_like(values)
            return objective / scale, gradient / scale

        options = {"maxiter": MOST_ITERATIONS, "maxfun": 4 * MOST_ITERATIONS, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 30}
        bounds = [(low, high)] * len(start)
        found = minimize(asked, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        log.info("%s after %d gradients, of which %d diverged", found.message, found.nfev, diverged)
        objective, gradient = self.objective(found.x)
        return found.x, objective, gradient

    def objective(self, values: Array) -> tuple[float, Array]:
        """Return the variable at the end and its gradient; infinity where the flow diverges."""
        y, paths = self.flow.start, []
        for u, begin, end in zip(values, self.times[:-1], self.times[1:], strict=True):
            p, slope = self._parameters(float(u))
            path = self.flow.path(p, np.array([end]), y, begin)
            if path is None:
                return math.inf, np.zeros_like(values)
            y = path.states[-1]
            paths.append((path, p, slope))
        objective, costate, own = self._end(float(values[-1]), y)
        gradient, n = np.empty_like(values), len(y)
        for k in range(len(values) - 1, -1, -1):
            path, p, slope = paths[k]
            carried = self.flow.pulled(path, p, costate[None], path.nodes)[0]
            costate, gradient[k] = carried[:n], carried[n:] @ slope
        gradient[-1] += own
        return objective, gradient

    def _parameters(self, u: float) -> tuple[Array, Array]:
        """Return the parameters of the equations at a value of the control, and their derivatives in it."""

        def parameters(x: float) -> Array | None:
            here = self.flow.at(0, x)
            return None if here is None else np.asarray(here.parameters())

        here = parameters(u)
        assert here is not None
        return here, derivative(parameters, u, step_of(u))[0]

    def _end(self, u: float, y: Array) -> tuple[float, Array, float]:
        """Return the objective in the last state, its derivative in it, and in the last value of the control itself.

        An error depends on the law of the samples at its time.
        """
        last, t = self.flow.at(0, u), float(self.times[-1])
        shape = np.shape(last.variables(np.array([t]), y[None])[self.variable].values)[1:]
        costate = cotangents(last, [self.variable], t, y)[0].reshape(*shape, len(y))[self.index]

        def at(x: float) -> Array | None:
            system = self.flow.at(0, x)
            return None if system is None else self.value(system, y[None])

        own = derivative(at, u, step_of(u))[0]
        return float(self.value(last, y[None])[0]), costate, float(own[0])


def _scheduled(problem: Problem, control: str, times: Array, values: Array) -> Problem:
    """Return the problem under the schedule, where the control may be a formula in the time."""
    if any(control == key or control.startswith(f"{key}.") for key in find(problem.theory).timed):
        return replace(problem, {control: _steps(times, values) if np.ptp(values) else float(values[0])})
    largest = float(values.max())
    schedule = getattr(problem.algorithm, "schedule", None)
    if control != "algorithm.learning_rate" or schedule != "1" or largest <= 0:
        return problem
    return replace(problem, {"algorithm.learning_rate": largest, "algorithm.schedule": _steps(times, values / largest)})


def _steps(times: Array, values: Array) -> str:
    """Return a formula in the time that has these values on the intervals between the times."""
    terms = [repr(float(values[0]))]
    for t, jump in zip(times[1:-1], np.diff(values), strict=True):
        if jump != 0.0:
            terms.append(f"{'+' if jump > 0 else '-'} {abs(float(jump))!r}*step(t - {float(t)!r})")
    return " ".join(terms)
