"""Points of a sweep, solved here, by local processes, or by any executor; a process that dies costs its own point."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .batch import in_chunks, is_plain_flow, solutions
from .errors import DimladderError, SolveError, UsageError
from .prepare import Prepared, prepare
from .registry import load_file
from .solve import derive, loads

if TYPE_CHECKING:
    from .problem import Problem
    from .results import RecordWriter
    from .symbolic.systems import Solution, System

log = logging.getLogger("dimladder.sweep")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# Flows are solved on threads where a point takes less CPU time than this, in chunks of about so long.
LONG_POINT, CHUNK = 0.1, 0.1
# Pools in a row that end before any point was begun: then it is not a point that kills them.
_MAX_BARREN = 3


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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
    """

    index: int
    status: str
    message: str
    coords: dict[str, np.ndarray] = field(default_factory=dict)
    variables: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]] = field(default_factory=dict)


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
    return derive(problem)


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
        shapes = tuple((n, dims, np.shape(v), np.asarray(v).dtype.str) for n, (dims, v, _) in answer.variables.items())
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
        header = found.header
        if "begun" in header:
            begun.add(header["begun"])
            continue
        coords = {n[2:]: v for n, v in found.arrays.items() if n.startswith("c:")}
        for k, (key, status, message) in enumerate(
            zip(*(header[n] for n in ("keys", "status", "message")), strict=True)
        ):
            variables = {n: (tuple(d), found.arrays[f"v:{n}"][k], a) for n, (d, a) in header["variables"].items()}
            done[key] = Answer(-1, status, message, coords, variables)
    return done, begun - set(done)


def compute(
    points: Sequence[Point], executor: str | Executor, folder: Path | None, solve: Solve = solve_point
) -> Generator[tuple[Point, Answer], None, None]:
    """Solve points in any order; with a folder, each is in a log there as soon as it is finished.

    `solve` never raises; processes find it by its name.

    Raises
    ------
    UsageError
        For an executor that does not exist.
    ResultFileError
        When a log cannot be written.
    """
    if isinstance(executor, Executor):
        yield from _logged(_submitted(points, executor, 4 * len(points), None, solve), folder)
        return
    kind, _, argument = executor.partition(":")
    if kind == "dask":
        yield from _logged(_submitted(points, _dask(argument), 64, None, solve), folder)
        return
    workers = _local(executor)
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
    with _terminable():
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
    if folder is None:
        yield from chain.from_iterable(answers)
        return
    from .results import RecordWriter

    writer = RecordWriter(folder)
    try:
        for some in answers:
            record(writer, some)
            yield from some
    finally:
        writer.close()


def _processes(
    points: Sequence[Point], workers: int, folder: Path | None, solve: Solve
) -> Iterator[tuple[Point, Answer]]:
    """Solve by a pool that is made anew when a process dies.

    Processes log what they begin and finish. When one dies, what it finished is read back, the points that were under
    way are tried again one at a time, in a process of their own, and the one that kills that too has its answer.
    """
    with tempfile.TemporaryDirectory(prefix="dimladder-") as temporary, _one_thread(), _terminable():
        place = folder if folder is not None else Path(temporary)
        waiting = {p.index: p for p in points}
        suspects: dict[int, Point] = {}
        barren = 0
        while waiting or suspects:
            alone = not waiting
            now = [next(iter(suspects.values()))] if alone else list(waiting.values())
            try:
                with _pool(1 if alone else min(workers, len(now))) as pool:
                    for point, answer in chain.from_iterable(_submitted(now, pool, workers, str(place), solve)):
                        waiting.pop(point.index, None)
                        suspects.pop(point.index, None)
                        barren = 0
                        yield point, answer
                continue
            except BrokenProcessPool as error:
                log.warning("a worker process died (%s): what it had finished is kept", error)
            done, begun = recorded(place)
            barren += 1
            for point in now:
                if point.key in done:
                    found = done[point.key]
                    answer = Answer(point.index, found.status, found.message, found.coords, found.variables)
                elif alone or barren >= _MAX_BARREN:
                    answer = Answer(point.index, "worker-died", "its process was killed: out of memory?")
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
    points: Sequence[Point], pool: Executor, workers: int, folder: str | None, solve: Solve
) -> Iterator[Answered]:
    # About eight chunks a worker: few messages, and no worker idle for long at the end.
    size = max(1, len(points) // (8 * workers))
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    waiting: dict[Future[list[Answer]], Sequence[Point]] = {pool.submit(_chunk, c, folder, solve): c for c in chunks}
    for done in as_completed(waiting):
        chunk = waiting[done]
        try:
            answers = done.result()
        except (BrokenProcessPool, DimladderError):
            raise
        except Exception as error:  # whatever a cluster raises when it loses a worker
            answers = [Answer(p.index, "worker-died", f"{type(error).__name__}: {error}") for p in chunk]
        yield list(zip(chunk, answers, strict=True))


def _chunk(points: Sequence[Point], folder: str | None, solve: Solve) -> list[Answer]:
    """Solve some points in a worker; with a folder, each is logged before the next begins."""
    if folder is None:
        return [solve(point) for point in points]
    writer = _writer(folder)
    answers = []
    for point in points:
        writer.append({"begun": point.key})
        answers.append(solve(point))
        record(writer, [(point, answers[-1])])
    return answers


# The log of this process, one for each folder.
_writers: dict[str, RecordWriter] = {}


def _writer(folder: str) -> RecordWriter:
    from .results import RecordWriter

    if folder not in _writers:
        _writers[folder] = RecordWriter(Path(folder))
    return _writers[folder]


def each(
    function: Callable[[Any], Any], tasks: Sequence[Any], executor: str | Executor = "local:1"
) -> Iterator[tuple[int, Any]]:
    """Call a function for each task, in any order, and yield (number of the task, result or the exception raised).

    Processes find the function by its name, so it stands at the top of a module. A process that dies costs the task it
    was at, which is then tried once more, alone.

    Raises
    ------
    UsageError
        For an executor that does not exist.
    """
    if isinstance(executor, Executor):
        yield from _results({executor.submit(function, t): i for i, t in enumerate(tasks)})
        return
    kind, _, argument = executor.partition(":")
    if kind == "dask":
        pool = _dask(argument)
        yield from _results({pool.submit(function, t): i for i, t in enumerate(tasks)})
        return
    workers = _local(executor)
    if workers == 1:
        for number, task in enumerate(tasks):
            try:
                yield number, function(task)
            except Exception as error:
                yield number, error
        return
    waiting = dict(enumerate(tasks))
    alone = False
    with _one_thread(), _terminable():
        while waiting:
            now = [next(iter(waiting))] if alone else list(waiting)
            try:
                with _pool(min(workers, len(now))) as pool:
                    for number, result in _results({pool.submit(function, waiting[n]): n for n in now}):
                        del waiting[number]
                        yield number, result
            except BrokenProcessPool as error:
                log.warning("a worker process died (%s): what it had finished is kept", error)
                if alone:
                    del waiting[now[0]]
                    yield now[0], SolveError("its process was killed: out of memory?", status="worker-died")
                alone = True


def _results(waiting: Mapping[Future[Any], int]) -> Iterator[tuple[int, Any]]:
    for done in as_completed(waiting):
        try:
            yield waiting[done], done.result()
        except BrokenProcessPool:
            raise
        except Exception as error:
            yield waiting[done], error


def _local(executor: str) -> int:
    """Return N of ``local:N``, the number of cores for ``local``."""
    kind, _, argument = executor.partition(":")
    if kind != "local" or not (argument == "" or (argument.isdecimal() and 0 < int(argument[:6]) < 10_000)):
        raise UsageError(f"there is no executor {executor!r}", where="executor", hint="use local:N or dask:ADDRESS")
    return int(argument) if argument else os.cpu_count() or 1


def _quiet_worker() -> None:
    # Ctrl-C is for the parent, which knows what is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _terminable() -> Iterator[None]:
    """Leave by an exception when asked to terminate, so that the workers end too.

    Only around waiting: compiled code does not come back to hear it.
    """

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _one_thread() -> Iterator[None]:
    # Inherited by the workers, which must not run N threads each on N cores.
    before: Mapping[str, str | None] = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    # Spawned, not forked: a fork would copy the locks of running threads.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_quiet_worker)
    finished = False
    try:
        yield pool
        finished = True
    finally:
        if not finished:
            # Interrupted: points under way are given up, finished ones are on disk.
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _dask(address: str) -> Executor:
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(
            "the executor dask needs the package distributed",
            why=str(error),
            hint="pip install 'dimladder[distributed]'",
        ) from None
    found: Executor = Client(address or None).get_executor()
    return found
