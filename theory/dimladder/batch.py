"""Many problems at once: flows that share their compiled equations run in one call, on all processors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .errors import SolveError
from .problem import Problem
from .solve import as_curve, derive, with_solver

if TYPE_CHECKING:
    from .results import LearningCurve
    from .symbolic.systems import Flow, Solution, System


def solve_many(
    problems: Sequence[Problem], workers: int | None = None, **solver: Any
) -> list[LearningCurve | SolveError]:
    """Solve many problems; a failure is an entry of the answer, not an end to it.

    Flows whose equations are the same compiled code (other initial conditions, rates, noise, overlaps; the same grid
    and solver settings) are integrated together, in parallel threads and bitwise as `solve` would do one by one.

    Parameters
    ----------
    problems : sequence of Problem
    workers : int, optional
        Number of threads; default: the processors available to this process.
    **solver
        Fields of each ``[solver]`` section to replace.

    Returns
    -------
    list
        In the order of `problems`: a LearningCurve, or the SolveError with its status and what was reached.
    """
    answers: list[LearningCurve | SolveError] = []
    systems = [derive(with_solver(problem, solver)) for problem in problems]
    for system, answer in zip(systems, solutions(systems, workers), strict=True):
        if isinstance(answer, SolveError):
            if answer.partial is not None:
                answer.partial = as_curve(system.problem, answer.partial)
            answers.append(answer)
        else:
            answers.append(as_curve(system.problem, answer))
    return answers


def solutions(systems: Sequence[System], workers: int | None = None) -> list[Solution | SolveError]:
    """Solve many systems, flows of one compiled code together; a failure is an entry, its ``.partial`` a Solution."""
    from .symbolic.systems import Flow

    answers: list[Any] = [None] * len(systems)
    groups: dict[Any, list[tuple[int, Flow]]] = {}
    for position, system in enumerate(systems):
        if isinstance(system, Flow) and type(system).solve is Flow.solve:
            groups.setdefault(_group(system), []).append((position, system))
        else:
            answers[position] = _one(system)
    for members in groups.values():
        for (position, _), answer in zip(members, _together([s for _, s in members], workers), strict=True):
            answers[position] = answer
    return answers


def _one(system: System) -> Solution | SolveError:
    try:
        return system.solve()
    except SolveError as error:
        return error


def _group(system: Flow) -> Any:
    """Return what must agree for two flows to be integrated together."""
    options = system.integration()
    return tuple((k, v.tobytes() if hasattr(v, "tobytes") else repr(v)) for k, v in options.items() if k != "names")


def _together(systems: list[Flow], workers: int | None) -> list[Any]:
    import numpy as np

    from .numerics.ode import integrate_batch

    states = np.stack([s.initial_state() for s in systems])
    parameters = np.stack([s.parameters() for s in systems])
    batch = integrate_batch(y0=states, p=parameters, workers=workers, **systems[0].integration())
    answers: list[Any] = []
    for k, system in enumerate(systems):
        stats = {name: values[k] if np.ndim(values) else values for name, values in batch.stats.items()}
        arrived = ~np.isnan(batch.y[k]).any(axis=1)
        stats["t_failed"] = batch.t_final[k]
        try:
            answers.append(
                system.finish(batch.t[arrived], batch.y[k][arrived], batch.status[k], batch.message[k], stats)
            )
        except SolveError as error:
            answers.append(error)
    return answers
