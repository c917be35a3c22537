"""Many problems at once: flows that share their compiled equations run in one call, on all processors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from .errors import SolveError
from .problem import Problem
from .solve import as_curve, derive, with_solver

A = TypeVar("A")
R = TypeVar("R")
# Most problems that are integrated by one call.
MOST_TOGETHER = 64
# Fewer of them are not worth a call of their own, which costs as much as one or two of them.
LEAST_TOGETHER = 4

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
    answers: list[Any] = [None] * len(systems)
    groups: list[tuple[dict[str, Any], list[int]]] = []
    for position, system in enumerate(systems):
        if not is_plain_flow(system):
            answers[position] = _one(system)
            continue
        asked = system.integration()
        for options, members in groups:
            if _agree(options, asked):
                members.append(position)
                break
        else:
            groups.append((asked, [position]))
    for options, members in groups:
        together = _together([systems[k] for k in members], options, workers)  # type: ignore[misc]
        for position, answer in zip(members, together, strict=True):
            answers[position] = answer
    return answers


def in_chunks(
    function: Callable[[Sequence[A]], R], items: Sequence[A], workers: int, size: int = MOST_TOGETHER
) -> Iterator[R]:
    """Call a function for chunks of items, on threads, and yield what it returns as it comes.

    For work that is done in compiled code, which holds no lock. Chunks have `size` items at most, and become smaller
    towards the end, so that no thread is without work for long.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        cuts = _cuts(len(items), workers, min(size, MOST_TOGETHER))
        for done in as_completed([pool.submit(function, items[i:j]) for i, j in pairwise(cuts)]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _cuts(count: int, workers: int, most: int) -> list[int]:
    """Return where so many items are cut: each worker's share of a quarter of what is left, down to a few."""
    cuts = [0]
    while cuts[-1] < count:
        left = count - cuts[-1]
        cuts.append(cuts[-1] + min(left, max(1, min(most, max(LEAST_TOGETHER, left // (4 * workers))))))
    return cuts


def is_plain_flow(system: System) -> TypeGuard[Flow]:
    """Whether a system is solved by one integration, which a batch can do for many."""
    from .symbolic.systems import Flow

    return isinstance(system, Flow) and type(system).solve is Flow.solve


def _one(system: System) -> Solution | SolveError:
    try:
        return system.solve()
    except SolveError as error:
        return error


def _agree(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two flows can be integrated together: one code, the same times and settings."""
    import numpy as np

    for name, one in first.items():
        other = second[name]
        if name == "names" or one is other:
            continue
        if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
            if not np.array_equal(one, other):
                return False
        elif type(one) is not type(other) or one != other:
            return False
    return True


def _together(systems: list[Flow], options: Mapping[str, Any], workers: int | None) -> list[Any]:
    import numpy as np

    from .numerics.ode import integrate_batch

    states = np.stack([s.initial_state() for s in systems])
    parameters = np.stack([s.parameters() for s in systems])
    batch = integrate_batch(y0=states, p=parameters, workers=workers, **options)
    gone: Any = np.isnan(batch.y).any(axis=2)
    incomplete = gone.any(axis=1).tolist()
    each = {name: values for name, values in batch.stats.items() if np.ndim(values)} | {"t_failed": batch.t_final}
    answers: list[Any] = []
    for k, system in enumerate(systems):
        stats = {**batch.stats, **{name: values[k] for name, values in each.items()}}
        t, y = batch.t, batch.y[k]
        if incomplete[k]:
            t, y = t[~gone[k]], y[~gone[k]]
        try:
            answers.append(system.finish(t, y, batch.status[k], batch.message[k], stats))
        except SolveError as error:
            answers.append(error)
    return answers
