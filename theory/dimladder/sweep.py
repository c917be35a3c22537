"""`sweep`: a theory over a Cartesian product of parameters, point by point, in parallel, resumable."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from .diagram import assemble, assemble_logged, survey
from .errors import ConfigError, DimladderError, UsageError
from .prepare import Prepared, prepare
from .problem import Problem, Range, axis_values, parse_override
from .problem.spec import MAX_POINTS
from .progress import Progress, stage
from .registry import file_of
from .results import PhaseDiagram, run_folder, write_text
from .results.records import SUFFIX
from .solve import replace
from .workers import Answer, Point, compute, solve_point


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
        ``"local:N"``: N workers: threads of this process for flows that take less than about 0.1 s a point, processes
        of one thread each for all else (1: this one). ``"dask:ADDRESS"``: a dask cluster, whose workers write their
        points themselves where they see `out`. In a script that starts processes, guard the entry with
        ``if __name__ == "__main__":``.
    resume : bool
        Use the finished points in `out`; points that failed are tried again.
    force : bool
        Start anew in a folder that is not empty.
    out : path, optional
        Run folder. Every finished point is appended to a log there at once (``points/``), at the end comes
        ``result.nc``.
    progress : callable, optional
        ``progress(done, total, label)`` after each point.

    Returns
    -------
    PhaseDiagram
        Each variable has the swept keys as first dimensions; ``status`` (and ``message``) says how each point ended. A
        point that failed keeps its row: its values are NaN. With `out` it lies in the file, and where that is large
        its arrays are read as they are used: memory does not grow with them.

    Raises
    ------
    ConfigError
        When no point of the grid is a valid problem.
    ResultFileError
        When `out` is not empty and neither `resume` nor `force` is given.
    """
    axes = _axes(grid)
    points, answers = _points(problem, axes)
    total = len(points) + len(answers)
    if out is None:
        _solve(points, answers, executor, None, progress, total)
        return assemble(problem, axes, [answers[i] for i in sorted(answers)])
    with run_folder(Path(out), resume=resume, force=force):
        store = Path(out) / "points"
        if force:
            for log in store.glob(f"*{SUFFIX}"):
                log.unlink()
        wanted = {p.key: p.index for p in points}
        found = survey(store, wanted)
        answers |= {i: answer for i, answer in found.answers.items() if answer.status == "success"}
        missing = [p for p in points if p.index not in answers]
        if missing:
            _solve(missing, answers, executor, store, progress, total)
            found = survey(store, wanted)
            answers |= {i: answer for i, answer in found.answers.items() if answer.status == "success"}
        write_text(Path(out) / "resolved.toml", problem.to_toml())
        ordered = [answers[i] for i in sorted(answers)]
        return assemble_logged(problem, axes, ordered, wanted, found, Path(out) / "result.nc")


def _solve(
    points: Sequence[Point], answers: dict[int, Answer], executor: str | Executor, store: Path | None,
    progress: Progress | None, total: int,
) -> None:  # fmt: skip
    """Solve points and add their answers; closed before the run folder is released, so that no worker writes then."""
    with closing(compute(points, executor, store, solve_point)) as finished, stage("sweeping", progress) as tell:
        for point, answer in finished:
            answers[point.index] = answer
            tell(len(answers), total, answer.status)


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
        raise UsageError(f"cannot read the grid {text[:120]!r}", where="--grid", hint=hint)
    pieces = values.split(":")
    if len(pieces) in (3, 4) and "," not in values and '"' not in values:
        return key, _range(pieces, text, hint)
    with suppress(ConfigError):
        return key, list(parse_override(f"{key}=[{values}]")[1])
    try:
        return key, [parse_override(f"{key}={v}")[1] for v in values.split(",")]
    except ConfigError as error:
        raise UsageError(f"cannot read the grid {text[:120]!r}", where="--grid", why=error.why, hint=hint) from None


def _range(pieces: list[str], text: str, hint: str) -> list[Any]:
    try:
        low, high, count = float(pieces[0]), float(pieces[1]), int(pieces[2])
        spacing = pieces[3] if len(pieces) == 4 else "linear"
        if spacing not in ("linear", "log"):
            raise ValueError(f"the spacing is {spacing!r}, not log")
        found = list(axis_values(Range(start=low, stop=high, points=count, spacing=spacing)))  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(f"cannot read the grid {text[:120]!r}", where="--grid", why=str(error), hint=hint) from None
    whole = all(p.strip().lstrip("+-").isdigit() for p in pieces[:2]) and all(
        abs(v - round(v)) <= 1e-9 * abs(v) for v in found
    )
    return [round(v) for v in found] if whole else found


def plain_values(values: Any) -> list[Any]:
    """Return the values of one key of a grid as Python's own: an array, or a list with NumPy's numbers in it."""
    return [v.tolist() if hasattr(v, "tolist") else v for v in values]


def _axes(grid: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    axes = {key: plain_values(values) for key, values in grid.items()}
    if not axes:
        raise UsageError("there is nothing to sweep", where="grid", hint='give at least one key, {"a.b": [1, 2]}')
    for key, values in axes.items():
        if not values:
            raise UsageError(f"the grid of {key!r} is empty", where="grid")
        if len({_key([v]) for v in values}) != len(values):
            raise UsageError(f"the grid of {key!r} repeats a value", where="grid", why=str(values)[:200])
    total = math.prod(map(len, axes.values()))
    if total > MAX_POINTS:
        raise UsageError("the grid is too large", where="grid", why=f"{total} points, at most {MAX_POINTS} are solved")
    return axes


def _points(problem: Problem, axes: Mapping[str, list[Any]]) -> tuple[list[Point], dict[int, Answer]]:
    """Return the points to be solved, and the answers of points that are no problems, as far as they are known."""
    points: list[Point] = []
    invalid: dict[int, Answer] = {}
    refused: DimladderError | None = None
    usable = False
    prepared = _prepared(problem, tuple(axes))
    text, file = problem.to_toml(), file_of(problem.theory)
    rest, keys = "" if prepared is None else prepared.rest_hash(), tuple(axes)
    for index, values in enumerate(itertools.product(*axes.values())):
        try:
            if prepared is None:
                here = replace(problem, dict(zip(axes, values, strict=True)))
                points.append(Point(index, here.to_toml(), here.content_hash, file_of(here.theory)))
                continue
            if not usable:
                # One is enough: whoever solves the others looks for himself.
                prepared.at(values)
                usable = True
            points.append(Point(index, text, f"{rest} {_key(values)}", file, keys, values))
        except DimladderError as error:
            refused = refused or error
            invalid[index] = Answer(index, "invalid", str(error.why or error.what))
    if refused is not None and not points:
        raise ConfigError(
            "no point of the grid is a valid problem",
            where=refused.where,
            why=refused.why or refused.what,
            hint=refused.hint,
        )
    return points, invalid


def _key(values: Sequence[Any]) -> str:
    """Return the values as text: 1 and 1.0 are one number."""
    return json.dumps([float(v) if type(v) is int else v for v in values])


def _prepared(problem: Problem, keys: tuple[str, ...]) -> Prepared | None:
    """Return the problem with these keys left open; None where they are not values within sections."""
    try:
        return prepare(problem, keys)
    except DimladderError:
        return None
