"""`sweep`: a theory over a Cartesian product of parameters, point by point, in parallel, resumable."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, DimladderError, ResultFileError, SolveError, UsageError
from .problem import Problem, Range, axis_values, parse_override, to_builtins
from .solve import loads, replace, solve

if TYPE_CHECKING:
    import xarray as xr

    from .results import LearningCurve, PhaseDiagram

log = logging.getLogger("dimladder.sweep")
Progress = Callable[[int, int, str], None]
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Point:
    """One grid point as it travels to a worker: plain text, no closure."""

    index: int
    run_file: str
    key: str


@dataclass(frozen=True)
class Answer:
    """What a worker returns: the curve's dataset, or why there is none."""

    index: int
    status: str
    message: str
    dataset: xr.Dataset | None


def sweep(
    problem: Problem,
    grid: Mapping[str, Sequence[Any]],
    *,
    executor: str | Executor = "local:1",
    resume: bool = False,
    force: bool = False,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> PhaseDiagram:
    """Solve a problem at every point of a grid of parameters.

    Parameters
    ----------
    problem : Problem
    grid : mapping
        Dotted key -> values, e.g. ``{"algorithm.learning_rate": [0.1, 0.2], "target.noise": [0.0, 0.3]}``. The last key
        varies fastest.
    executor : str or concurrent.futures.Executor
        ``"local:N"``: N processes (1: this one), one thread each. ``"dask:ADDRESS"``: a dask cluster. In a script that
        starts processes, guard the entry with ``if __name__ == "__main__":``.
    resume : bool
        Use the finished points in `out`; points that failed are tried again.
    force : bool
        Start anew in a folder that is not empty.
    out : path, optional
        Run folder. Every finished point is written there at once (``points/``), at the end ``result.nc``.
    progress : callable, optional
        ``progress(done, total, label)`` after each point.

    Returns
    -------
    PhaseDiagram
        Each variable has the swept keys as first dimensions; ``status`` (and ``message``) says how each point ended. A
        point that failed keeps its row: its values are NaN.

    Raises
    ------
    ConfigError
        When no point of the grid is a valid problem.
    ResultFileError
        When `out` is not empty and neither `resume` nor `force` is given.
    """
    axes = _axes(grid)
    points, answers = _points(problem, axes)
    store = None if out is None else _Store(Path(out), resume=resume, force=force)
    if store is not None:
        for point in points:
            kept = store.load(point)
            if kept is not None:
                answers[point.index] = kept
    missing = [p for p in points if p.index not in answers]
    total = len(points) + sum(a.status == "invalid" for a in answers.values())
    for answer in _compute(missing, executor, store):
        answers[answer.index] = answer
        if progress is not None:
            progress(len(answers), total, answer.status)
    diagram = _assemble(problem, axes, [answers[i] for i in sorted(answers)])
    if store is not None:
        store.finish(problem, diagram)
    return diagram


def parse_grid(text: str) -> tuple[str, list[Any]]:
    """Read ``a.b=lo:hi:n``, ``a.b=lo:hi:n:log`` or ``a.b=v1,v2,...`` (values in TOML syntax, bare words are strings).

    Whole ends give whole numbers when every point is one.

    Examples
    --------
    >>> parse_grid("algorithm.learning_rate=0.1:1.0:4")[1]
    [0.1, 0.4, 0.7, 1.0]
    """
    key, equals, values = (part.strip() for part in text.partition("="))
    hint = "write it as a.b=lo:hi:n, a.b=lo:hi:n:log or a.b=v1,v2,..."
    if not equals or not key or not values:
        raise UsageError(f"cannot read the grid {text!r}", where="--grid", hint=hint)
    pieces = values.split(":")
    if len(pieces) in (3, 4) and "," not in values and '"' not in values:
        return key, _range(pieces, text, hint)
    try:
        return key, list(tomllib.loads(f"v = [{values}]")["v"])
    except tomllib.TOMLDecodeError:
        pass
    try:
        return key, [parse_override(f"{key}={v}")[1] for v in values.split(",")]
    except ConfigError as error:
        raise UsageError(f"cannot read the grid {text!r}", where="--grid", why=error.why, hint=hint) from None


def _range(pieces: list[str], text: str, hint: str) -> list[Any]:
    try:
        low, high, count = float(pieces[0]), float(pieces[1]), int(pieces[2])
        spacing = pieces[3] if len(pieces) == 4 else "linear"
        if spacing not in ("linear", "log"):
            raise ValueError(f"the spacing is {spacing!r}, not log")
        found = list(axis_values(Range(start=low, stop=high, points=count, spacing=spacing)))  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(f"cannot read the grid {text!r}", where="--grid", why=str(error), hint=hint) from None
    whole = all(p.strip().lstrip("+-").isdigit() for p in pieces[:2]) and all(
        abs(v - round(v)) <= 1e-9 * abs(v) for v in found
    )
    return [round(v) for v in found] if whole else found


def _axes(grid: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    axes = {key: (values.tolist() if hasattr(values, "tolist") else list(values)) for key, values in grid.items()}
    if not axes:
        raise UsageError("there is nothing to sweep", where="grid", hint='give at least one key, {"a.b": [1, 2]}')
    for key, values in axes.items():
        if not values:
            raise UsageError(f"the grid of {key!r} is empty", where="grid")
        if len({repr(v) for v in values}) != len(values):
            raise UsageError(f"the grid of {key!r} repeats a value", where="grid", why=str(values))
    return axes


def _points(problem: Problem, axes: Mapping[str, list[Any]]) -> tuple[list[Point], dict[int, Answer]]:
    """Return the valid points, and the answer of each point that is no valid problem."""
    points, invalid = [], {}
    refused: DimladderError | None = None
    for index, values in enumerate(itertools.product(*axes.values())):
        try:
            here = replace(problem, dict(zip(axes, values, strict=True)))
            points.append(Point(index, here.to_toml(), here.content_hash))
        except DimladderError as error:
            refused = refused or error
            invalid[index] = Answer(index, "invalid", str(error.why or error.what), None)
    if refused is not None and not points:
        raise ConfigError(
            "no point of the grid is a valid problem",
            where=refused.where,
            why=refused.why or refused.what,
            hint=refused.hint,
        )
    return points, invalid


def _solve_point(point: Point) -> Answer:
    """Solve one point: a failure is an answer with its status, never an exception."""
    try:
        return Answer(point.index, "success", "", solve(loads(point.run_file, source="sweep")).dataset)
    except SolveError as error:
        partial: LearningCurve | None = error.partial
        return Answer(point.index, error.status, str(error.why or error.what), getattr(partial, "dataset", None))
    except DimladderError as error:
        return Answer(point.index, type(error).__name__, str(error.why or error.what), None)
    except (ArithmeticError, ValueError, MemoryError) as error:
        log.warning("point %d failed: %r", point.index, error)
        return Answer(point.index, type(error).__name__, str(error), None)


def _solve_chunk(points: Sequence[Point], folder: str | None) -> list[Answer]:
    """Solve some points in a worker; with a folder, each is on disk before the next begins."""
    answers = []
    for point in points:
        answer = _solve_point(point)
        if folder is not None:
            _write(Path(folder), point, answer)
        answers.append(answer)
    return answers


def _quiet_worker() -> None:
    # Ctrl-C is for the parent, which knows what is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _compute(points: list[Point], executor: str | Executor, store: _Store | None) -> Iterator[Answer]:
    if not points:
        return
    if isinstance(executor, Executor):
        yield from _submit(points, executor, 4 * len(points), store, shared_disk=False)
        return
    kind, _, argument = executor.partition(":")
    if kind == "dask":
        yield from _submit(points, _dask(argument), 64, store, shared_disk=False)
        return
    if kind != "local" or not (argument == "" or (argument.isdigit() and int(argument) > 0)):
        raise UsageError(f"there is no executor {executor!r}", where="executor", hint="use local:N or dask:ADDRESS")
    workers = int(argument) if argument else os.cpu_count() or 1
    # The first point here: what it compiles is in the cache when the workers start.
    first = points if workers == 1 else points[:1]
    for point in first:
        answer = _solve_point(point)
        if store is not None:
            store.save(point, answer)
        yield answer
    rest = points[len(first) :]
    if rest:
        with _one_thread(), _pool(min(workers, len(rest))) as pool:
            yield from _submit(rest, pool, workers, store, shared_disk=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    # Inherited by the workers, which must not run N threads each on N cores.
    before = {name: os.environ.get(name) for name in _THREADS}
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
    import multiprocessing

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
        pool.shutdown(wait=finished, cancel_futures=True)


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


def _submit(
    points: list[Point], pool: Executor, workers: int, store: _Store | None, *, shared_disk: bool
) -> Iterator[Answer]:
    # About eight chunks a worker: few messages, and no worker idle for long at the end.
    size = max(1, len(points) // (8 * workers))
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    folder = str(store.points) if store is not None and shared_disk else None
    waiting: dict[Future[list[Answer]], list[Point]] = {pool.submit(_solve_chunk, c, folder): c for c in chunks}
    for done in as_completed(waiting):
        chunk = waiting[done]
        try:
            answers = done.result()
        except BrokenProcessPool as error:
            why = f"a worker process died ({error}); out of memory?"
            answers = [Answer(p.index, "worker-died", why, None) for p in chunk]
        for point, answer in zip(chunk, answers, strict=True):
            if store is not None and folder is None:
                store.save(point, answer)
            yield answer


def _write(folder: Path, point: Point, answer: Answer) -> None:
    from .results import LearningCurve

    if answer.dataset is not None:
        LearningCurve(answer.dataset).save(folder / f"{point.key}.nc")
        return
    problem = loads(point.run_file, source="sweep")
    LearningCurve.build(problem, {}, {}, status=answer.status, message=answer.message).save(folder / f"{point.key}.nc")


class _Store:
    """The finished points of a sweep on disk, one file each, named by the problem."""

    def __init__(self, folder: Path, *, resume: bool, force: bool) -> None:
        from .results import claim_folder

        claim_folder(folder, resume=resume, force=force)
        self.folder, self.points, self.resume = folder, folder / "points", resume
        self.points.mkdir(parents=True, exist_ok=True)
        for unfinished in self.points.glob(".*.tmp"):
            # Left by a worker that was stopped while it wrote.
            unfinished.unlink(missing_ok=True)

    def load(self, point: Point) -> Answer | None:
        """Return the stored answer of a point that succeeded."""
        from .results import open_result

        file = self.points / f"{point.key}.nc"
        if not (self.resume and file.exists()):
            return None
        try:
            kept = open_result(file)
        except ResultFileError as error:
            log.warning("%s is computed again: %s", file, error.why)
            return None
        return Answer(point.index, "success", "", kept.dataset) if kept.status == "success" else None

    def save(self, point: Point, answer: Answer) -> None:
        _write(self.points, point, answer)

    def finish(self, problem: Problem, diagram: PhaseDiagram) -> None:
        from .results import write_text

        write_text(self.folder / "resolved.toml", problem.to_toml())
        diagram.save(self.folder / "result.nc")


def _assemble(problem: Problem, axes: Mapping[str, list[Any]], answers: list[Answer]) -> PhaseDiagram:
    import numpy as np

    from .results import PhaseDiagram

    lengths = tuple(len(v) for v in axes.values())
    good = [a for a in answers if a.status == "success" and a.dataset is not None]
    coords: dict[str, Any] = {key: _coordinate(values) for key, values in axes.items()}
    own = _shared_coords([a.dataset for a in good if a.dataset is not None])
    variables: dict[str, Any] = {}
    names = dict.fromkeys(str(n) for a in good if a.dataset is not None for n in a.dataset.data_vars)
    for name in names:
        first = next(a.dataset[name] for a in good if a.dataset is not None and name in a.dataset)
        dims = tuple(map(str, first.dims))
        numeric = np.issubdtype(first.dtype, np.number) or first.dtype == bool
        block = np.full(
            (len(answers), *(len(own[d]) for d in dims)), np.nan if numeric else "", dtype=float if numeric else object
        )
        for row, answer in enumerate(answers):
            if answer.status == "success" and answer.dataset is not None and name in answer.dataset:
                array = answer.dataset[name]
                # A point may have fewer indices (a narrower student) or other coordinates than its neighbours.
                where: Any = np.ix_(*(np.flatnonzero(np.isin(own[d], array.coords[d].values)) for d in dims))
                block[(row, *where)] = array.values
        if not numeric:
            block = block.astype(str)
        text = first.attrs
        variables[name] = (
            (*axes, *dims), block.reshape(*lengths, *block.shape[1:]), text.get("latex", ""), text.get("long_name", ""),
            text.get("units"),
        )  # fmt: skip
    for name, values, meaning in (
        ("status", [a.status for a in answers], "how the point ended"),
        ("message", [a.message for a in answers], "why it ended so"),
    ):
        variables[name] = (tuple(axes), np.array(values, dtype=str).reshape(lengths), "", meaning, None)
    failed = sum(a.status != "success" for a in answers)
    return PhaseDiagram.build(
        problem, {**coords, **own}, variables, status="success" if not failed else "incomplete",
        message=f"{failed} of {len(answers)} points failed" if failed else "",
        stats={"grid": list(axes), "points": len(answers), "failed": failed},
        extra={"grid": {k: to_builtins(v) for k, v in axes.items()}},
    )  # fmt: skip


def _coordinate(values: list[Any]) -> Any:
    import numpy as np

    if all(isinstance(v, bool | int | float) for v in values):
        return np.asarray(values, dtype=float if any(isinstance(v, float) for v in values) else int)
    return np.array([v if isinstance(v, str) else repr(v) for v in values], dtype=str)


def _shared_coords(datasets: list[xr.Dataset]) -> dict[str, Any]:
    """Return the coordinates that hold every point: the common one, or the sorted union."""
    import numpy as np

    found: dict[str, Any] = {}
    for data in datasets:
        for name, coordinate in data.coords.items():
            values = coordinate.values
            known = found.get(str(name))
            if known is None or not np.array_equal(known, values):
                found[str(name)] = values if known is None else np.union1d(known, values)
    return found
