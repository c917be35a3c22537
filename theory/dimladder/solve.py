"""The verbs on one problem: load, state, derive, solve."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .choose import build_problem, find
from .errors import ConfigError, SolveError
from .problem import Problem, Spec, parse_document, read, to_builtins
from .problem.targets import expanded
from .progress import stage
from .registry import register
from .theories import Theory

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
        A TOML file. A theory in a local file, ``theory = "./mine.py"``, is looked for beside it.
    overrides : mapping, optional
        Dotted keys to values, e.g. ``{"algorithm.learning_rate": 0.1}``.

    Raises
    ------
    ConfigError
        With file, key path, value and a suggestion.
    """
    return loads(read(path), overrides, source=str(path), folder=Path(path).parent)


def loads(
    text: str,
    overrides: Mapping[str, Any] | None = None,
    source: str = "<text>",
    folder: Path | None = None,
) -> Problem:
    """Read a problem from TOML text.

    Parameters
    ----------
    text : str
    overrides : mapping, optional
        As in `load`.
    source : str
        What messages call the text.
    folder : Path, optional
        Where a theory's local file is looked for.

    Raises
    ------
    ConfigError
        As `load` does.
    """
    return build_problem(parse_document(text, source), overrides, source, folder)


def problem(theory: str | Theory | None = None, *, title: str = "", **sections: Any) -> Problem:
    """State a problem in Python, through the same checks as a run file.

    Parameters
    ----------
    theory : str or Theory, optional
        Who answers: a name, the path of a local file, or a theory. Default: chosen.
    title : str
    **sections
        ``data``, ``target``, ``student``, ``loss``, ``algorithm``, ``initial``, ``limit``, ``grid``, ``solver``,
        ``simulation``: dictionaries as in a run file, in which NumPy arrays and ranges may stand, or section objects.

    Raises
    ------
    ConfigError
        With key path, value and a suggestion.

    Examples
    --------
    >>> import dimladder as dl
    >>> dl.problem(
    ...     data={"samples": 20, "dimension": 60},
    ...     target={"kind": "index", "formula": "z"},
    ...     student={"kind": "deep", "activation": "linear", "hidden_layers": 1, "initial_norm": 0.5},
    ...     algorithm={"kind": "gradient-flow"},
    ...     grid={"time": [0.0, 1.0, 10.0]},
    ... ).theory
    'two-layer-linear'
    """
    document: dict[str, Any] = {"title": title} if title else {}
    if isinstance(theory, Theory):
        theory = _known(theory)
    if theory is not None:
        document["theory"] = theory
    document |= {name: _plain(section) for name, section in sections.items() if section is not None}
    return build_problem(document, source="dl.problem")


def _plain(value: Any) -> Any:
    """Return arrays, ranges and sections as what a run file would hold."""
    if isinstance(value, Spec):
        return to_builtins(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _known(theory: Theory) -> str:
    register("theories", theory)
    return theory.name


def replace(problem: Problem, overrides: Mapping[str, Any]) -> Problem:
    """Return the problem with dotted keys replaced and everything checked again.

    Parameters
    ----------
    problem : Problem
    overrides : mapping
        Dotted keys to values, as in `load`.

    Raises
    ------
    ConfigError
        For a key that does not exist, and for values that state no problem.

    Examples
    --------
    >>> import dimladder as dl
    >>> faster = dl.replace(problem, {"algorithm.learning_rate": 0.5})  # doctest: +SKIP
    """
    return build_problem(to_builtins(problem), overrides, "overrides")


def for_theory(problem: Problem, theory: str | Theory) -> Problem:
    """Return the same question asked of another theory, with its own settings and sizes.

    Raises
    ------
    ConfigError
        When that theory refuses it.
    """
    name = _known(theory) if isinstance(theory, Theory) else theory
    document = to_builtins(problem)
    if name != problem.theory:
        document = {k: v for k, v in document.items() if k not in ("solver", "simulation")}
    return build_problem({**document, "theory": name}, source="problem")


def with_solver(problem: Problem, options: Mapping[str, Any]) -> Problem:
    """Return the problem with fields of its ``[solver]`` section replaced."""
    if not options:
        return problem
    if problem.solver is None:
        raise ConfigError(
            f"the theory {problem.theory!r} has no solver settings", where=", ".join(options), hint="drop the options"
        )
    return replace(problem, {f"solver.{name}": value for name, value in options.items()})


def derive(problem: Problem) -> System:
    """Return the equations of a problem: print them with ``.latex()``, ``.explain()``, ``.sympy()``, ``.python()``.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    System
        Its ``order_parameters`` say shape, scaling with d and meaning of every variable.

    Raises
    ------
    DerivationError
        Where no equations follow: what is asked is outside the theory, or has no averages.
    """
    system: System = find(problem.theory).derive(problem)
    return system


def solve(problem: Problem, *, theory: str | Theory | None = None, **solver: Any) -> LearningCurve:
    """Compute the theory's curve.

    Parameters
    ----------
    problem : Problem
    theory : str or Theory, optional
        Who answers, instead of the problem's own theory: a name, the path of a local file, or a theory.
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
    problem = with_solver(problem if theory is None else for_theory(problem, theory), solver)
    if log.isEnabledFor(logging.INFO) and (text := expanded(problem.target)):
        log.info("target: %s", text)
    try:
        with stage("solving"):
            solution = derive(problem).solve()
    except SolveError as error:
        if error.partial is not None:
            error.partial = as_curve(problem, error.partial)
        raise
    for text in find(problem.theory).warnings(problem):
        log.warning("%s", text)
    _warn(problem, solution)
    return as_curve(problem, solution)


def stored_errors(computed: LearningCurve | Solution) -> dict[str, float]:
    """Return the errors that a curve reports of itself: of quadrature, of replaced activations, of particles."""
    stats = computed.stats
    return {name: float(stats[name]) for name in STORED_ERRORS if stats.get(name)}


def _warn(problem: Problem, solution: Solution) -> None:
    """Say which error of the curve exceeds the tolerance asked for: no smaller step would show it."""
    section = getattr(problem, "solver", None)
    for name, error in stored_errors(solution).items():
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
        coordinates=find(problem.theory).coordinates,
    )
