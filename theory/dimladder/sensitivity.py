"""How a prediction changes with the numbers of its problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .adjoint import by_adjoint
from .errors import DimladderError, SolveError, UsageError, did_you_mean
from .numerics.differences import derivative
from .prepare import Prepared, prepare
from .problem import Problem
from .problem.config import value_at
from .problem.overlaps import mirrored
from .solve import with_solver
from .tangents import Tangents, step_of, tangents_of

if TYPE_CHECKING:
    from .results import LearningCurve
    from .symbolic.systems import Solution, Variable

__all__ = ["entries", "numbers", "sensitivity", "slopes", "tight"]

Array = NDArray[np.float64]
# Differences are taken of solutions to this accuracy.
RTOL, ATOL = 1e-11, 1e-13
# Where derivatives have a larger relative error, it is seen whether differences have a smaller one.
DOUBTFUL = 1e-9
# Method -> what is solved, printed with the result.
EQUATIONS = {
    "tangents": r"\dot s = \partial_y F\, s + \partial_p F\, \partial_\theta p, \quad s = \partial_\theta y",
    "adjoint": r"\dot\lambda = -(\partial_y F)^{\mathsf T}\lambda, \quad \partial_\theta g = \lambda(0) \cdot "
    r"\partial_\theta y(0) + \int_0^T \lambda \cdot \partial_p F\, \partial_\theta p\, \mathrm{d} t, \quad "
    r"\lambda(T) = \partial_y g",
    "implicit": r"\partial_x R\, \partial_\theta x = -\partial_\theta R, \quad R(x; \theta) = 0",
    "differences": r"\partial_\theta x = \lim_{h \to 0} \frac{x(\theta + h) - x(\theta - h)}{2 h}",
}
METHODS = ("auto", *EQUATIONS)


def sensitivity(
    problem: Problem, keys: Sequence[str], *, variables: Sequence[str] | None = None, method: str = "auto",
    **solver: Any,
) -> LearningCurve:  # fmt: skip
    """Differentiate a theory's prediction in numbers of its problem.

    A flow is integrated together with its derivatives, and a map carries them along, as the compiled equations give
    them exactly ("tangents"); for few readings and many numbers, the derivatives of the readings are carried back to
    the start instead ("adjoint"). Those of a fixed point solve its linearised equations ("implicit"); of whatever else
    there is, differences of the solution are extrapolated ("differences"). ``stats["method"]`` says which it was,
    ``stats["equation"]`` prints it, and each number comes with an estimate of its error.

    Parameters
    ----------
    problem : Problem
        Of any theory.
    keys : sequence of str
        Dotted keys of numbers, e.g. ``["algorithm.learning_rate", "initial.M.0.1"]``, or of arrays of numbers, which
        stand for all their entries: ``"initial.M"``. Of a symmetric matrix (``initial.Q``) the entries on and above
        the diagonal count, each moved with its mirror image.
    variables : sequence of str, optional
        Which variables are differentiated; default: all.
    method : {"auto", "tangents", "adjoint", "implicit", "differences"}
        "auto" takes the first that the theory has (differences, where their error is smaller), and of a flow or a map
        "adjoint" where that is cheaper: where the variables asked for, at all times of the grid, are few numbers, and
        the keys are many. (The integrator's own method is ``solver.method`` of the problem.)
    **solver
        Fields of the ``[solver]`` section to replace. Where the theory has ``rtol`` and ``atol``, they are 1e-11 and
        1e-13 unless the problem asks for less.

    Returns
    -------
    LearningCurve
        The names of the theory's variables, each with the first axis ``parameter`` (the keys):
        ``found["generalization_error"].sel(parameter=key)`` is d(generalization_error)/d(key), in units of the
        variable over that of the key. ``<name>_error`` is the estimated error of it.

    Raises
    ------
    UsageError
        For a key whose value is no real number, a variable that there is not, and a method that the theory does not
        have for this problem.
    SolveError
        When the problem itself cannot be solved.

    Notes
    -----
    Of theories on samples (multi-pass training, muP networks, giant steps) differences keep the random numbers: they
    are those of the computed curve, to the errors stated; how far that is from the limit, another seed tells.

    At the end of a number's range, such as ``noise = 0``, the derivative is the one-sided one. With tangents, many keys
    cost no more than the state and the parameters of the equations have entries: derivatives in all of them are
    combinations of those. The adjoint costs the same for any number of keys, and one more sweep a reading; it needs an
    explicit integration, and variables in time. `optimise` descends along it.

    References
    ----------
    Griewank & Walther 2008, Evaluating Derivatives. Hager 2000, Runge-Kutta methods in optimal control and the
    transformed adjoint system.
    """
    from .results import LearningCurve

    solver = tight(problem, solver)
    prepared = prepare(problem, entries(problem, keys), **solver)
    base = numbers(prepared)
    solution = prepared.solution(base)
    values, errors, how = slopes(prepared, base, solution, variables, method)
    found: dict[str, Any] = {}
    for name, variable in solution.variables.items():
        if name in values:
            text = variable.long_name or name
            dims = ("parameter", *variable.dims)
            latex = rf"\partial_{{\theta}} {variable.latex}" if variable.latex else ""
            found[name] = (dims, values[name], latex, f"derivative of: {text}", variable.units)
            found[f"{name}_error"] = (dims, errors[name], "", f"estimated error of the derivative of: {text}", None)
    coords = {"parameter": np.array(prepared.vary), **solution.coords}
    return LearningCurve.build(prepared.problem, coords, found, stats={"method": how, "equation": EQUATIONS[how]})


def entries(problem: Problem, keys: Sequence[str]) -> list[str]:
    """Return the keys, with those of arrays replaced by the keys of all their entries."""
    found: list[str] = []

    def walk(key: str, value: Any) -> None:
        if isinstance(value, list) and value:
            for k, part in enumerate(value):
                walk(f"{key}.{k}", part)
            return
        # Of two mirror images, that above the diagonal.
        if key not in found and not (mirrored(key) in found and mirrored(key) != key):
            found.append(key)

    for key in keys:
        value = value_at(problem, key)
        if isinstance(value, list):
            walk(key, value)
        else:
            found.append(key)
    return found


def numbers(prepared: Prepared) -> list[float]:
    """Return the values of the open keys, which must be real numbers.

    Raises
    ------
    UsageError
        For one that is not.
    """
    values = prepared.base_values()
    for key, value in zip(prepared.vary, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float):
            kind = "not given" if value is None else "a list" if isinstance(value, list) else f"{value!r}"
            raise UsageError(
                f"there is no derivative in {key!r}", where=key, why=f"it is {kind}, not a number",
                hint=f"name one entry, {key}.0" if isinstance(value, list) else "name a number of the problem",
            )  # fmt: skip
    return [float(v) for v in values]


def slopes(
    prepared: Prepared, base: Sequence[float], solution: Solution, variables: Sequence[str] | None = None,
    method: str = "auto", doubtful: float = DOUBTFUL,
) -> tuple[dict[str, Array], dict[str, Array], str]:  # fmt: skip
    """Return the derivatives of numeric variables, with a first axis over the open keys, their errors, and how.

    With ``method="auto"``, derivatives whose relative error is more than `doubtful` are also found by differences, and
    the better of the two count.
    """
    if method not in METHODS:
        raise UsageError(
            f"there is no method {method!r}", where="method", hint=did_you_mean(method, METHODS) or ", ".join(METHODS)
        )
    known = [n for n, v in solution.variables.items() if np.issubdtype(np.asarray(v.values).dtype, np.floating)]
    for name in variables or ():
        if name not in known:
            raise UsageError(
                f"the theory has no variable {name!r} of real numbers", where="variables",
                hint=did_you_mean(name, known),
            )  # fmt: skip
    names = known if variables is None else list(dict.fromkeys(variables))
    shapes = {n: np.shape(solution.variables[n].values) for n in names}

    def flattened(found: Mapping[str, Variable]) -> Array | None:
        parts = [np.asarray(found[n].values, dtype=float) for n in names]
        if any(p.shape != shapes[n] for n, p in zip(names, parts, strict=True)):
            return None
        return np.concatenate([p.ravel() for p in parts])

    tangents = None if method == "differences" else tangents_of(prepared, base)
    in_time = all(solution.variables[n].dims[:1] == ("time",) for n in names)
    found, how = None, "differences"
    if tangents is not None and method in ("auto", "adjoint") and in_time:
        readings = sum(int(np.prod(shapes[n])) for n in names)
        if method == "adjoint" or tangents.fewer_backwards(readings):
            found, how = by_adjoint(tangents, names), "adjoint"
    if found is None and tangents is not None and method in ("auto", tangents.method):
        found, how = _by_tangents(tangents, flattened), tangents.method
    if method == "differences" or (method == "auto" and (found is None or _unsure(found) > doubtful)):
        other = _by_differences(prepared, base, flattened)
        if found is None or _unsure(other) < _unsure(found):
            found, how = other, "differences"
    if found is None:
        raise UsageError(
            f"these derivatives are not found by {method!r}", where="method", why=_lacking(method, tangents, in_time),
            hint='method = "auto" takes what there is',
        )  # fmt: skip
    values: dict[str, Array] = {}
    errors: dict[str, Array] = {}
    start = 0
    for n in names:
        size = int(np.prod(shapes[n]))
        values[n], errors[n] = (a[:, start : start + size].reshape(-1, *shapes[n]) for a in found)
        start += size
    return values, errors, how


def _unsure(found: tuple[Array, Array]) -> float:
    """Return the largest error of derivatives in a number, relative to the largest of them."""
    values, errors = (np.where(np.isfinite(a), abs(a), 0.0).max(axis=1) for a in found)
    return float(np.max(errors / np.maximum(values, 1e-300), where=values > 0.0, initial=0.0))


def _lacking(method: str, tangents: Tangents | None, in_time: bool) -> str:
    if tangents is None:
        return "the theory has none but differences for this problem"
    if method != tangents.method and (method, tangents.method) != ("adjoint", "tangents"):
        return f"those of this theory are found by {tangents.method!r}"
    if method == "adjoint" and not in_time:
        return "it takes variables in time"
    return "no explicit integration arrives, or a reading or the equations are not smooth: the error would be too large"


def _by_differences(
    prepared: Prepared, base: Sequence[float], flattened: Callable[[Mapping[str, Variable]], Array | None]
) -> tuple[Array, Array]:
    rows = []
    for k, key in enumerate(prepared.vary):

        def moved(x: float, k: int = k) -> Array | None:
            try:
                return flattened(prepared.solution([*base[:k], x, *base[k + 1 :]]).variables)
            except DimladderError:
                # Outside the range of the number, or nothing to be solved there.
                return None

        try:
            rows.append(derivative(moved, base[k], step_of(base[k])))
        except ValueError:
            raise SolveError(
                f"the derivative in {key!r} cannot be taken", status="no_neighbours", where=f"{key} = {base[k]:g}",
                why="the problem has no solution on either side of the value",
            ) from None  # fmt: skip
    return np.stack([r[0] for r in rows]), np.stack([r[1] for r in rows])


def _by_tangents(
    tangents: Tangents, flattened: Callable[[Mapping[str, Variable]], Array | None]
) -> tuple[Array, Array] | None:
    """Read the variables off states that move as their derivatives say; None where that cannot be."""
    solved = tangents.solved()
    if solved is None:
        return None
    states, slopes, errors = solved
    rows, bounds = [], []
    for k, x in enumerate(tangents.base):

        def read(step: float, k: int = k, x: float = x) -> Array | None:
            here = tangents.at(k, x + step)
            try:
                return None if here is None else flattened(tangents.read(here, states + step * slopes[k]))
            except DimladderError:
                return None

        # What the states leave open, as the variables see it.
        def open_(step: float, k: int = k) -> Array | None:
            return flattened(tangents.read(tangents.system, states + step * errors[k]))

        try:
            value, error = derivative(read, 0.0, step_of(x))
        except ValueError:
            return None
        still, _ = derivative(open_, 0.0, 1e-3)
        rows.append(value)
        bounds.append(error + abs(still))
    # What is not there, such as a threshold, has no derivative either.
    here = flattened(tangents.read(tangents.system, states))
    there = np.isfinite(here) if here is not None else False
    values = np.stack(rows)
    return (values, np.stack(bounds)) if np.isfinite(values[:, there]).all() else None


def tight(problem: Problem, solver: dict[str, Any]) -> dict[str, Any]:
    """Return solver settings of which differences can be taken."""
    section = with_solver(problem, solver).solver
    for name, least in (("rtol", RTOL), ("atol", ATOL)):
        if name not in solver and isinstance(getattr(section, name, None), float):
            solver = {**solver, name: min(getattr(section, name), least)}
    return solver
