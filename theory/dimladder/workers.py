"""Points of a sweep, solved here, by local processes, or by any executor, and logged by who solves them."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .batch import in_chunks, is_plain_flow, solutions
from .errors import DimladderError, SolveError
from .executors import (
    DIED,
    MOST_BARREN,
    Place,
    local_pool,
    local_workers,
    marked,
    one_thread_each,
    remote,
    terminable,
)  # fmt: skip
from .prepare import Prepared, prepare
from .registry import load_file
from .solve import derive, loads

if TYPE_CHECKING:
    from .problem import Problem
    from .results import Record, RecordWriter
    from .symbolic.systems import Solution, System

log = logging.getLogger("dimladder.sweep")
# Flows are solved on threads where a point takes less CPU time than this, in chunks of about so long.
LONG_POINT, CHUNK = 0.1, 0.1
# Workers that a cluster is taken for which does not say how many it has.
_GUESSED = 16


@dataclass(frozen=True, slots=True)
class Point:
    """One grid point as it travels to a worker: plain text and values, no closure.

    Attributes
    ----------
    index : int
    run_file : str
        The problem; all points of a sweep share it, where only values within sections change.
    key : str
        Hash of the problem at this point.
    theory_file : str
        Where the theory is a local file.
    vary, values : tuple
        Keys of the problem and what they are here.
    """

    index: int
    run_file: str
    key: str
    theory_file: str = ""
    vary: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()


# Shared by the many answers that hold no arrays.
_EMPTY: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Answer:
    """How a point ended: its arrays, or why there are none.

    Attributes
    ----------
    index : int
        Of the point.
    status, message : str
    coords : dict
        Every axis of the variables.
    variables : dict
        Name -> (axes, values, attributes).
    logged : bool
        Whether it is in a log, where its arrays are then.
    """

    index: int
    status: str
    message: str
    coords: dict[str, np.ndarray] = field(default_factory=lambda: _EMPTY)
    variables: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]] = field(default_factory=lambda: _EMPTY)
    logged: bool = False

    def without_arrays(self) -> Answer:
        """Return what is left to know of an answer that is in a log."""
        return replace(self, coords=_EMPTY, variables=_EMPTY, logged=True)


Solve = Callable[[Point], Answer]
# Points with their answers, that arrive together.
Answered = Sequence[tuple[Point, Answer]]


def solve_point(point: Point) -> Answer:
    """Solve one point: a failure is an answer with its status, never an exception."""
    try:
        system = _system(point)
        return system if isinstance(system, Answer) else _answer(point, system.solve())
    except Exception as error:
        return _failed(point, error)


def _system(point: Point) -> System | Answer:
    """Return the equations of a point; an answer where its values state no problem."""
    if not point.vary:
        return derive(_problem(point.run_file, point.theory_file))
    prepared = _prepared(point.run_file, point.theory_file, point.vary)
    try:
        problem = prepared.at(point.values)
    except DimladderError as error:
        return Answer(point.index, "invalid", str(error.why or error.what))
    return prepared.system_of(problem)


def _failed(point: Point, error: Exception) -> Answer:
    if isinstance(error, SolveError):
        return _answer(point, error)
    if isinstance(error, DimladderError):
        return Answer(point.index, type(error).__name__, str(error.why or error.what))
    log.warning("point %d failed: %r", point.index, error)
    return Answer(point.index, type(error).__name__, str(error))


def _problem(run_file: str, theory_file: str) -> Problem:
    if theory_file:
        load_file(theory_file)
    return loads(run_file, source="sweep")


@lru_cache(maxsize=4)
def _prepared(run_file: str, theory_file: str, vary: tuple[str, ...]) -> Prepared:
    """Return the solver that the points of a sweep share in this process."""
    return prepare(_problem(run_file, theory_file), vary)


def _answer(point: Point, found: Solution | SolveError) -> Answer:
    from .results import labelled

    if isinstance(found, SolveError):
        status, message, solution = found.status, str(found.why or found.what), found.partial
    else:
        status, message, solution = "success", "", found
    if solution is None:
        return Answer(point.index, status, message)
    variables = {n: (v.dims, v.values, v.latex, v.long_name, v.units) for n, v in solution.variables.items()}
    return Answer(point.index, status, message, *labelled(solution.coords, variables))


def _like(model: Solution, answered: Answer, point: Point, solution: Solution) -> Answer | None:
    """Return the answer of a solution that differs from one before in its numbers only; None where it is another."""
    same = solution.coords.keys() == model.coords.keys() and solution.variables.keys() == model.variables.keys()
    if not same or any(values is not model.coords[name] for name, values in solution.coords.items()):
        return None
    variables = {}
    for name, variable in solution.variables.items():
        axes, values, attributes = answered.variables[name]
        numbers = np.asarray(variable.values)
        if variable.dims != model.variables[name].dims or numbers.shape != values.shape:
            return None
        variables[name] = axes, numbers, attributes
    return Answer(point.index, "success", "", answered.coords, variables)


def record(writer: RecordWriter, answered: Sequence[tuple[Point, Answer]]) -> None:
    """Append answers to a log: those of one shape on the same axes as one record, their arrays stacked."""
    groups: dict[Any, list[tuple[Point, Answer]]] = {}
    for point, answer in answered:
        shapes = tuple((n, dims, v.shape, v.dtype.char) for n, (dims, v, _) in answer.variables.items())
        axes = tuple((name, id(values)) for name, values in answer.coords.items())
        groups.setdefault((shapes, axes), []).append((point, answer))
    for members in groups.values():
        answers = [answer for _, answer in members]
        first = answers[0]
        header = {
            "keys": [p.key for p, _ in members], "status": [a.status for a in answers],
            "message": [a.message for a in answers],
            "variables": {name: [dims, attributes] for name, (dims, _, attributes) in first.variables.items()},
        }  # fmt: skip
        arrays = {f"c:{name}": values for name, values in first.coords.items()}
        arrays |= {f"v:{name}": np.stack([a.variables[name][1] for a in answers]) for name in first.variables}
        writer.append(header, arrays)


def recorded(folder: Path) -> tuple[dict[str, Answer], set[str]]:
    """Return the finished answers of a folder of logs by key, and the keys that were begun and not finished."""
    from .results import read_records

    done: dict[str, Answer] = {}
    begun: set[str] = set()
    for found in read_records(folder):
        if "begun" in found.header:
            begun.add(found.header["begun"])
            continue
        for key, answer in answers_of(found):
            if key not in done or done[key].status != "success":
                done[key] = answer
    return done, begun - set(done)


def answers_of(found: Record) -> Iterator[tuple[str, Answer]]:
    """Return the answers of a record with their keys; their arrays are those of the record."""
    header = found.header
    coords = {n[2:]: v for n, v in found.arrays.items() if n.startswith("c:")}
    for k, (key, status, message) in enumerate(zip(*(header[n] for n in ("keys", "status", "message")), strict=True)):
        variables = {n: (tuple(d), found.arrays[f"v:{n}"][k], a) for n, (d, a) in header["variables"].items()}
        yield key, Answer(-1, status, message, coords, variables)


def compute(
    points: Sequence[Point], executor: str | Executor, folder: Path | None, solve: Solve = solve_point
) -> Generator[tuple[Point, Answer], None, None]:
    """Solve points in any order.

    With a folder, each is in a log there as soon as it is finished, written by the worker that solved it, and answers
    come without their arrays. Workers that do not see the folder send theirs here, to be logged.

    `solve` never raises; processes find it by its name.

    Raises
    ------
    UsageError
        For an executor that does not exist, or a cluster that does not answer.
    ResultFileError
        When a log cannot be written.
    """
    workers = local_workers(executor)
    if workers is None:
        with remote(executor) as found, marked(folder) as place:
            cores = found.cores or min(_GUESSED, max(1, len(points) // 8))
            yield from _logged(_submitted(points, found.executor, cores, place, solve, mend=False), folder)
            if place is not None:
                _close_writers(place)
        return
    left: list[Point] = []
    yield from _logged(_here(points, workers, solve, left), folder)
    if left:
        yield from _processes(left, workers, folder, solve)


def _here(points: Sequence[Point], workers: int, solve: Solve, left: list[Point]) -> Iterator[Answered]:
    """Solve in this process what is best solved here; `left` is filled with the others."""
    # The first point always: what it compiles is in the cache when the workers start.
    for point in points[:1]:
        yield [(point, solve(point))]
    rest = points[1:]
    if rest and solve is solve_point and (size := _chunk_size(points[0])):
        yield from _threads(rest, workers, size)
    elif workers == 1:
        yield from ([(point, solve(point))] for point in rest)
    else:
        left.extend(rest)


def _chunk_size(point: Point) -> int:
    """Return how many points like this are integrated together on a thread; 0 where processes are better.

    Flows that take a few milliseconds are: their compiled code holds no lock, and a process takes longer to start than
    hundreds of them.
    """
    system = _system(point)
    if isinstance(system, Answer) or not is_plain_flow(system):
        return 0
    begin = time.thread_time()
    with suppress(SolveError):
        system.solve()
    spent = time.thread_time() - begin
    return 0 if spent > LONG_POINT else max(1, int(CHUNK / max(spent, 1e-6)))


def _threads(points: Sequence[Point], workers: int, size: int) -> Iterator[Answered]:
    """Solve on threads of this process, some points at a time."""
    with terminable():
        yield from in_chunks(_flows, points, workers, size)


def _flows(points: Sequence[Point]) -> Answered:
    """Solve some points, flows of one compiled code by one call of the integrator."""
    answers: dict[int, Answer] = {}
    systems: list[tuple[Point, System]] = []
    for point in points:
        try:
            system = _system(point)
        except Exception as error:
            system = _failed(point, error)
        if isinstance(system, Answer):
            answers[point.index] = system
        else:
            systems.append((point, system))
    try:
        found = solutions([system for _, system in systems], workers=1)
    except Exception:  # of one of them: it is found by itself
        return [(p, answers.get(p.index) or solve_point(p)) for p in points]
    model: tuple[Solution, Answer] | None = None
    for (point, _), solution in zip(systems, found, strict=True):
        answer = None if model is None or isinstance(solution, SolveError) else _like(*model, point, solution)
        if answer is None:
            answer = _answer(point, solution)
            if not isinstance(solution, SolveError):
                model = solution, answer
        answers[point.index] = answer
    return [(p, answers[p.index]) for p in points]


def _logged(answers: Iterator[Answered], folder: Path | None) -> Iterator[tuple[Point, Answer]]:
    """Log what is not in a log yet, and let go of the arrays of what is."""
    if folder is None:
        yield from chain.from_iterable(answers)
        return
    from .results import RecordWriter

    writer: RecordWriter | None = None
    try:
        for some in answers:
            rest = [(point, answer) for point, answer in some if not answer.logged]
            if rest:
                writer = writer or RecordWriter(folder)
                record(writer, rest)
            yield from ((point, answer.without_arrays()) for point, answer in some)
    finally:
        if writer is not None:
            writer.close()


def _processes(
    points: Sequence[Point], workers: int, folder: Path | None, solve: Solve
) -> Iterator[tuple[Point, Answer]]:
    """Solve by a pool that is made anew when a process dies.

    Processes log what they begin and finish. When one dies, what it finished is read back, the points that were under
    way are tried again one at a time, in a process of their own, and the one that kills that too has its answer.
    """
    with (
        tempfile.TemporaryDirectory(prefix="dimladder-") as temporary,
        marked(folder or Path(temporary), arrays=folder is None) as place,
        one_thread_each(),
        terminable(),
    ):
        assert place is not None
        waiting = {p.index: p for p in points}
        suspects: dict[int, Point] = {}
        barren = 0
        while waiting or suspects:
            alone = not waiting
            now = [next(iter(suspects.values()))] if alone else list(waiting.values())
            try:
                with local_pool(1 if alone else min(workers, len(now))) as pool:
                    for point, answer in chain.from_iterable(_submitted(now, pool, workers, place, solve)):
                        waiting.pop(point.index, None)
                        suspects.pop(point.index, None)
                        barren = 0
                        yield point, answer
                continue
            except BrokenProcessPool as error:
                log.warning("a worker process died (%s): what it had finished is kept", error)
            done, begun = recorded(Path(place.folder))
            barren += 1
            for point in now:
                if point.key in done:
                    answer = replace(done[point.key], index=point.index)
                    answer = answer if place.arrays else answer.without_arrays()
                elif alone or barren >= MOST_BARREN:
                    answer = Answer(point.index, "worker-died", DIED)
                else:
                    if point.key in begun:
                        suspects[point.index] = point
                        waiting.pop(point.index, None)
                        barren = 0
                    continue
                waiting.pop(point.index, None)
                suspects.pop(point.index, None)
                yield point, answer


def _submitted(
    points: Sequence[Point], pool: Executor, workers: int, place: Place | None, solve: Solve, *, mend: bool = True
) -> Iterator[Answered]:
    """Solve by an executor; a broken pool is an exception where the caller mends it, else the points' answer."""
    # About eight chunks a worker: few messages, and no worker idle for long at the end.
    size = max(1, len(points) // (8 * workers))
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    waiting: dict[Future[list[Answer]], Sequence[Point]] = {pool.submit(_chunk, c, place, solve): c for c in chunks}
    for done in as_completed(waiting):
        chunk = waiting.pop(done)
        try:
            answers = done.result()
        except DimladderError:
            raise
        except Exception as error:  # a broken pool, or whatever a cluster raises when it loses a worker
            if mend and isinstance(error, BrokenProcessPool):
                raise
            answers = [Answer(p.index, "worker-died", f"{type(error).__name__}: {error}") for p in chunk]
        yield list(zip(chunk, answers, strict=True))


def _chunk(points: Sequence[Point], place: Place | None, solve: Solve) -> list[Answer]:
    """Solve some points in a worker; with a folder that it sees, each is logged before the next begins."""
    writer = None if place is None else _writer(place)
    if place is None or writer is None:
        return [solve(point) for point in points]
    answers = []
    for point in points:
        writer.append({"begun": point.key})
        answer = solve(point)
        record(writer, [(point, answer)])
        answers.append(replace(answer, logged=True) if place.arrays else answer.without_arrays())
    return answers


# The log of each thread of this process in each folder, and the computation that it belongs to.
_writers: dict[tuple[str, int], tuple[str, RecordWriter]] = {}


def _writer(place: Place) -> RecordWriter | None:
    """Return the log of this thread; None where the folder is not the one that was meant."""
    from .results import RecordWriter

    mine = place.folder, threading.get_ident()
    token, writer = _writers.get(mine, ("", None))
    if writer is None or token != place.token:
        if writer is not None:
            writer.close()
        if not place.seen():
            return None
        writer = RecordWriter(Path(place.folder))
        _writers[mine] = place.token, writer
    return writer


def _close_writers(place: Place) -> None:
    """Close the logs of an executor's threads in this process, once all they were given is done."""
    for mine in [key for key, (token, _) in _writers.items() if key[0] == place.folder and token == place.token]:
        _writers.pop(mine)[1].close()
