"""How a prediction changes with the numbers of its problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import DimladderError, SolveError, UsageError
from .numerics.differences import derivative
from .prepare import Prepared, prepare
from .problem import Problem
from .solve import with_solver
from .tangents import Tangents, step_of, tangents_of

if TYPE_CHECKING:
    from .results import LearningCurve
    from .symbolic.systems import Solution, Variable

__all__ = ["numbers", "sensitivity", "slopes", "tight"]

Array = NDArray[np.float64]
# Differences are taken of solutions to this accuracy.
RTOL, ATOL = 1e-11, 1e-13


def sensitivity(problem: Problem, keys: Sequence[str], **solver: Any) -> LearningCurve:
    """Differentiate a theory's prediction in numbers of its problem.

    A flow is integrated together with its derivatives, and a map carries them along, as the compiled equations give
    them exactly (``stats["method"]`` is "tangents"); those of a fixed point solve its linearised equations
    ("implicit"); of whatever else there is, differences of the solution are extrapolated ("differences"). Each number
    comes with an estimate of its error.

    Parameters
    ----------
    problem : Problem
        Of any theory.
    keys : sequence of str
        Dotted keys of numbers, e.g. ``["algorithm.learning_rate", "initial.M.0.1"]``.
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
        For a key whose value is no real number.
    SolveError
        When the problem itself cannot be solved.

    Notes
    -----
    At the end of a number's range, such as ``noise = 0``, the derivative is the one-sided one. Many keys cost no more
    than the state and the parameters of the equations have entries: derivatives in all of them are combinations of
    those. `optimise`, which wants one number's derivatives in a control at many times, carries a costate back.
    """
    from .results import LearningCurve

    solver = tight(problem, solver)
    prepared = prepare(problem, keys, **solver)
    base = numbers(prepared)
    solution = prepared.solution(base)
    values, errors, method = slopes(prepared, base, solution)
    variables: dict[str, Any] = {}
    for name, variable in solution.variables.items():
        if name in values:
            text = variable.long_name or name
            dims = ("parameter", *variable.dims)
            latex = rf"\partial_{{\theta}} {variable.latex}" if variable.latex else ""
            variables[name] = (dims, values[name], latex, f"derivative of: {text}", variable.units)
            variables[f"{name}_error"] = (dims, errors[name], "", f"estimated error of the derivative of: {text}", None)
    coords = {"parameter": np.array(prepared.vary), **solution.coords}
    return LearningCurve.build(prepared.problem, coords, variables, stats={"method": method})


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
    prepared: Prepared, base: Sequence[float], solution: Solution
) -> tuple[dict[str, Array], dict[str, Array], str]:
    """Return the derivatives of every numeric variable, with a first axis over the open keys, their errors, and how."""
    names = [n for n, v in solution.variables.items() if np.issubdtype(np.asarray(v.values).dtype, np.floating)]
    shapes = {n: np.shape(solution.variables[n].values) for n in names}

    def flattened(variables: Mapping[str, Variable]) -> Array | None:
        parts = [np.asarray(variables[n].values, dtype=float) for n in names]
        if any(p.shape != shapes[n] for n, p in zip(names, parts, strict=True)):
            return None
        return np.concatenate([p.ravel() for p in parts])

    tangents = tangents_of(prepared, base)
    found, method = None if tangents is None else _by_tangents(tangents, flattened), "differences"
    if found is not None and tangents is not None:
        method = tangents.method
    else:
        found = _by_differences(prepared, base, flattened)
    values: dict[str, Array] = {}
    errors: dict[str, Array] = {}
    start = 0
    for n in names:
        size = int(np.prod(shapes[n]))
        values[n], errors[n] = (a[:, start : start + size].reshape(-1, *shapes[n]) for a in found)
        start += size
    return values, errors, method


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
    if not np.isfinite(rows).all():
        return None
    return np.stack(rows), np.stack(bounds)


def tight(problem: Problem, solver: dict[str, Any]) -> dict[str, Any]:
    """Return solver settings of which differences can be taken."""
    section = with_solver(problem, solver).solver
    for name, least in (("rtol", RTOL), ("atol", ATOL)):
        if name not in solver and isinstance(getattr(section, name, None), float):
            solver = {**solver, name: min(getattr(section, name), least)}
    return solver
