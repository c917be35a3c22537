"""`compare_along`: theory against simulation along parameters, point by point, in parallel, resumable."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimladder.errors import UsageError
from dimladder.progress import Progress, stage

if TYPE_CHECKING:
    from dimladder.problem import Problem

    from .compare import Comparison

log = logging.getLogger("dimladder.validate")


@dataclass(frozen=True)
class Along:
    """One point: the values of the parameters, and the comparison there or the error that came instead."""

    values: dict[str, Any]
    comparison: Comparison | None
    error: str = ""
    folder: Path | None = None

    @property
    def verdict(self) -> str:
        """``agree``, ``disagree``, ``inconclusive`` or ``error``."""
        return "error" if self.comparison is None else self.comparison.verdict


@dataclass(frozen=True)
class _Task:
    run_file: str
    theory_file: str
    folder: str
    simulation: Mapping[str, Any]
    judging: Mapping[str, Any]


def compare_along(
    problem: Problem,
    grid: Mapping[str, Sequence[Any]],
    *,
    executor: str | Executor = "local:1",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    variables: Sequence[str] | None = None,
    alpha: float = 0.01,
    resolution: float = 0.2,
    progress: Progress | None = None,
    **simulate_options: Any,
) -> list[Along]:
    """Compare theory and simulation at every point of a grid of parameters.

    Parameters
    ----------
    problem : Problem
    grid : mapping
        Dotted key -> values, as in `dimladder.sweep`; the last key varies fastest.
    executor : str or concurrent.futures.Executor
        ``"local:N"``, ``"dask:ADDRESS"`` or an executor: points at the same time. Numbers do not depend on it.
    out : path, optional
        Folder of the results, one run folder a point, named by its values: `dimladder.export` of all is one figure.
    resume, force : bool
        Go on from what is finished there; begin anew.
    variables, alpha, resolution
        As in `compare`, at each point.
    progress : callable, optional
        ``progress(done, total, label)`` after each point.
    **simulate_options
        Arguments of `simulate`: ``d``, ``replicas``, ``device``, ``dtype``, ``seed``.

    Returns
    -------
    list of Along
        In the order of the grid. A point that raised, or whose process was killed, has its error; the others are there.

    Raises
    ------
    UsageError
        For a grid without values, or an executor that does not exist.
    """
    from dimladder.executors import each
    from dimladder.registry import file_of
    from dimladder.solve import replace
    from dimladder.sweep import plain_values

    grid = {key: plain_values(values) for key, values in grid.items()}
    if not grid or not all(len(values) for values in grid.values()):
        raise UsageError("a grid needs at least one key and one value each", where="grid")
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    file = file_of(problem.theory)
    judging = {"variables": tuple(variables) if variables else None, "alpha": alpha, "resolution": resolution}
    simulation = {**simulate_options, "resume": resume, "force": force}
    tasks = []
    for values in points:
        place = "" if out is None else str(Path(out) / name_of(values))
        options = simulation if place else dict(simulate_options)
        tasks.append(_Task(replace(problem, values).to_toml(), str(file or ""), place, options, judging))
    found: dict[int, Along] = {}
    with stage("comparing", progress) as tell:
        tell(0, len(points), "")
        for number, result in each(_run, tasks, executor):
            folder = Path(tasks[number].folder) if tasks[number].folder else None
            if isinstance(result, BaseException):
                log.warning("%s: %s", name_of(points[number]), result)
                found[number] = Along(points[number], None, str(result), folder)
            else:
                found[number] = Along(points[number], result, folder=folder)
            tell(len(found), len(points), "")
    return [found[number] for number in range(len(points))]


def name_of(values: Mapping[str, Any]) -> str:
    """Return a folder name for the values of some parameters: ``learning_rate=0.1,noise=0.2``."""
    text = ",".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in values.items())
    return "".join(c if c.isalnum() or c in "=,.+-_" else "_" for c in text)[:120]


def _run(task: _Task) -> Comparison:
    from dimladder.registry import load_file
    from dimladder.solve import loads

    from .compare import compare, save
    from .simulate import simulate

    if task.theory_file:
        load_file(task.theory_file)
    problem = loads(task.run_file, source="a point of the grid")
    folder = Path(task.folder) if task.folder else None
    options = dict(task.simulation)
    if folder is not None:
        options |= {"out": folder}
    comparison = compare(problem, simulate(problem, options.pop("d", None), **options), **task.judging)
    if folder is not None:
        save(comparison, folder)
    return comparison


def worst(points: Sequence[Along]) -> str:
    """Return the verdict over all points: an error, else disagree, else inconclusive, else agree."""
    verdicts = {p.verdict for p in points}
    return next(v for v in ("error", "disagree", "inconclusive", "agree") if v in verdicts)
