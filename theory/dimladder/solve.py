"""The verbs on one problem: load, derive, solve, check."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, SolveError
from .problem import Problem, apply_overrides, build, convert, parse_document, read, to_builtins
from .theories import find, problem_type

if TYPE_CHECKING:
    from .results import LearningCurve
    from .symbolic.systems import Solution, System

log = logging.getLogger("dimladder.solve")
# Errors that a solution reports of itself, relative to the size of what is averaged -> the setting that asks for less.
STORED_ERRORS = {
    "quadrature_error": "quadrature_rtol",
    "activation_error": "quadrature_rtol",
    "particle_error": "particle_tolerance",
}


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Problem:
    """Read a run file.

    Parameters
    ----------
    path : str or Path
        A TOML file.
    overrides : mapping, optional
        Dotted keys to values, e.g. ``{"algorithm.learning_rate": 0.1}``.

    Raises
    ------
    ConfigError
        With file, key path, value and a suggestion.
    """
    return loads(read(path), overrides, source=str(path))


def loads(text: str, overrides: Mapping[str, Any] | None = None, source: str = "<text>") -> Problem:
    """Read a problem from TOML text; see `load`."""
    document = apply_overrides(parse_document(text, source), overrides or {}, source)
    return build(document, problem_type, source)


def replace(problem: Problem, overrides: Mapping[str, Any]) -> Problem:
    """Return the problem with dotted keys replaced and everything checked again.

    Examples
    --------
    >>> import dimladder as dl
    >>> faster = dl.replace(problem, {"algorithm.learning_rate": 0.5})  # doctest: +SKIP
    """
    return convert(apply_overrides(to_builtins(problem), overrides, "overrides"), type(problem), "overrides")


def with_solver(problem: Problem, options: Mapping[str, Any]) -> Problem:
    """Return the problem with fields of its ``[solver]`` section replaced."""
    if not options:
        return problem
    if getattr(problem, "solver", None) is None:
        raise ConfigError(
            f"the theory {problem.theory!r} has no solver settings", where=", ".join(options), hint="drop the options"
        )
    return replace(problem, {f"solver.{name}": value for name, value in options.items()})


def derive(problem: Problem) -> System:
    """Return the equations of a problem: print them with ``.latex()``, ``.explain()``, ``.sympy()``, ``.python()``."""
    return find(problem.theory).derive(problem)


def solve(problem: Problem, **solver: Any) -> LearningCurve:
    """Compute the theory's curve.

    Parameters
    ----------
    problem : Problem
    **solver
        Fields of the problem's ``[solver]`` section to replace, such as ``rtol=1e-9`` or ``method="dop853"``.

    Returns
    -------
    LearningCurve
        ``curve["Q"]`` is an xarray DataArray.

    Raises
    ------
    SolveError
        When the computation stops early: ``.status`` says why, ``.partial`` is the LearningCurve of what was
        reached.
    """
    problem = with_solver(problem, solver)
    try:
        solution = derive(problem).solve()
    except SolveError as error:
        if error.partial is not None:
            error.partial = as_curve(problem, error.partial)
        raise
    curve = as_curve(problem, solution)
    _warn(problem, curve)
    return curve


def stored_errors(curve: LearningCurve) -> dict[str, float]:
    """Return the errors that a curve reports of itself: of quadrature, of replaced activations, of particles."""
    return {name: float(curve.stats[name]) for name in STORED_ERRORS if curve.stats.get(name)}


def _warn(problem: Problem, curve: LearningCurve) -> None:
    """Say which error of the curve exceeds the tolerance asked for: no smaller step would show it."""
    section = getattr(problem, "solver", None)
    for name, error in stored_errors(curve).items():
        setting = STORED_ERRORS[name]
        asked = getattr(section, setting, None)
        if asked is None:
            setting, asked = "rtol", getattr(section, "rtol", None)
        if asked is not None and error > asked:
            text = "%s = %.2g exceeds solver.%s = %.2g: about %.0f digits of the curve count (dimladder check)"
            log.warning(text, name, error, setting, asked, max(0.0, -math.log10(error)))


def as_curve(problem: Problem, solution: Solution) -> LearningCurve:
    """Put a solution into the labelled container."""
    from .results import LearningCurve

    return LearningCurve.build(
        problem,
        solution.coords,
        {n: (v.dims, v.values, v.latex, v.long_name, v.units) for n, v in solution.variables.items()},
        status=solution.status,
        message=solution.message,
        stats=solution.stats,
    )
