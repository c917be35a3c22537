"""What a paper embeds, with lines of theory drawn through many points: the exporters of `paper`, and a finer solve."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DimladderError, UsageError
from .kept_equations import equation_rows, equations_text
from .solve import derive, loads, replace, solve

if TYPE_CHECKING:
    import numpy as np

    from .problem import Problem
    from .results import Result, Source

log = logging.getLogger("dimladder.export")
POINTS = 240
# Kinds of system whose time to solve hardly depends on how many points are asked for; of the others, as many points are
# solved as take no more than so many seconds.
_CHEAP = ("flow",)
SECONDS = 3.0
# Sweeps of more points than so many are families of lines that are not told apart anyway.
MOST_SWEPT = 24


def export(
    source: Source | Sequence[Source],
    to: str | Path,
    formats: Sequence[str] = ("pdf", "pgf", "csv", "tex", "macros", "bib", "equations"),
    style: str = "single",
    *,
    variables: Sequence[str] | None = None,
    prefix: str = "dl",
    labels: Mapping[str, str] | None = None,
    axes: Mapping[str, str] | None = None,
    width: str | float | None = None,
    refine: bool = True,
) -> list[Path]:
    r"""Write what a paper embeds, and return the files.

    Parameters
    ----------
    source, to, formats, style, variables, prefix, width
        As in `dimladder.paper.export`: results or paths, a folder, and what to write.
    labels : mapping, optional
        Name of a variable, or dotted key of a parameter -> LaTeX of its symbol, such as ``{"Q": "q_{ij}"}``.
    axes : mapping, optional
        Name of a coordinate -> text of the axis, such as ``{"time": "samples over $d$"}``.
    refine : bool
        Solve again at more points, and draw the lines through them; tables and CSV files keep the points asked for.

    Raises
    ------
    UsageError, ResultFileError
        As in `dimladder.paper.export`.
    """
    from .paper import Names
    from .paper.bundle import export as write

    names = Names(dict(labels or {}), dict(axes or {}))
    finer: Callable[[Result], Result | None] | None = refined if refine else None
    return write(
        source,
        to,
        formats,
        style,
        variables=variables,
        prefix=prefix,
        names=names,
        width=width,
        refine=finer,
        equations=equations_of,
        notation=notation_of,
    )


def report(
    source: Source | Sequence[Source],
    to: str | Path,
    *,
    variables: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
    axes: Mapping[str, str] | None = None,
    refine: bool = True,
) -> Path:
    """Write one HTML page that holds all of a result and needs no network, and return its path.

    Curves to zoom into, the equations typeset, the verdict of a comparison (from its run folder), the problem, where
    the numbers come from, and the data as CSV files to download.

    Parameters
    ----------
    source, variables, labels, axes, refine
        As in `export`.
    to : path
        The file.

    Raises
    ------
    UsageError, ResultFileError
        As in `export`.
    """
    from .paper import Names
    from .paper.page import page
    from .paper.runs import differing, same
    from .results import gather, write_text

    results = same(gather(source))
    lines = _finer(results, refine)
    first = next((r for r in results if r.problem_toml), None)
    problem = None if first is None else _problem_of(first, "equations")
    rows = [] if problem is None else equation_rows(problem)
    folder = Path(source) if isinstance(source, str | Path) and Path(source).is_dir() else None
    text = page(
        results, rows, folder=folder, variables=variables,
        names=Names(dict(labels or {}), dict(axes or {})), lines=lines,
        notation="" if problem is None else equations_text(problem, "notation as html", varied=differing(results)),
    )  # fmt: skip
    write_text(Path(to), text)
    return Path(to)


def equations_of(result: Result, columns: int) -> str:
    """Return the LaTeX of the equations behind a result, broken for a page of so many columns.

    Raises
    ------
    UsageError
        When the result does not hold the problem it answers.
    """
    return equations_text(_problem_of(result, "equations"), "latex", columns)


def notation_of(result: Result, columns: int, varied: Collection[str] = ()) -> str:
    """Return the LaTeX of the table that says what every symbol of those equations means.

    `varied` are keys whose numbers are left out, because results that stand together differ in them.

    Raises
    ------
    UsageError
        As `equations_of`.
    """
    return equations_text(_problem_of(result, "notation"), "notation as latex", columns, varied)


def _problem_of(result: Result, wanted: str) -> Problem:
    if not result.problem_toml:
        raise UsageError(
            "this result does not hold the problem that it answers", where=f"formats: {wanted}",
            hint=f"solve the run file again with -o DIR, or leave {wanted} out of --format",
        )  # fmt: skip
    return loads(result.problem_toml, source="the result")


def figure(results: Sequence[Result], *, refine: bool = True, **options: Any) -> Any:
    """Return a matplotlib figure of theories and measurements.

    Parameters
    ----------
    results : sequence of Result
    refine : bool
        Draw the lines of theories through a finer solve, where that takes a few seconds at most.
    **options
        ``variables``, ``style``, ``names``, ``width``, as in `dimladder.paper.figure`.
    """
    from .paper.draw import figure as draw
    from .paper.runs import same

    results = same(results)
    return draw(results, lines=_finer(results, refine), **options)


def _finer(results: Sequence[Result], refine: bool) -> dict[int, Result]:
    """Return the theories that can be drawn more finely, by position."""
    from .results import Measurement

    found = {i: refined(r) for i, r in enumerate(results) if refine and not isinstance(r, Measurement)}
    return {i: r for i, r in found.items() if r is not None}


def refined(result: Result, points: int = POINTS) -> Result | None:
    """Solve a curve again at about `points` points, those that were asked for among them.

    Returns None where a line through the points of the result will do, or nothing finer is known: grids that are fine
    already or only count, systems whose every point takes its time, problems that cannot be stated again, and results
    that the present code does not reproduce to 0.1 %.
    """
    import numpy as np

    from .results import PhaseDiagram, main_axis

    axis = main_axis(result)
    swept = list(result.stats.get("grid", [])) if isinstance(result, PhaseDiagram) else []
    if axis in swept or len(swept) > 1:
        return None
    if not result.problem_toml or result.status != "success" or axis is None:
        return None
    asked = result.dataset.coords[axis].values
    if not np.issubdtype(asked.dtype, np.floating) or len(asked) >= points // 2:
        return None
    try:
        problem = loads(result.problem_toml, source="the result")
        if swept and (len(result.dataset.coords[swept[0]]) > MOST_SWEPT or derive(problem).kind not in _CHEAP):
            return None
        if derive(problem).kind not in _CHEAP:
            points = min(points, _affordable(problem, len(asked)))
            if points < 2 * len(asked):
                return None
        fine = replace(problem, {f"grid.{axis}": _between(asked, points).tolist()})
        found = _swept(fine, result, swept[0]) if swept else solve(fine)
    except DimladderError as error:
        log.info("lines are drawn through the points of the result: %s", error.why or error.what)
        return None
    return found if _agrees(result, found, axis, asked) else None


def _swept(problem: Problem, result: Result, key: str) -> Result:
    """Return a sweep again, of a problem with more points."""
    from .sweep import sweep

    values = result.dataset.coords[key].values.tolist()
    return sweep(problem, {key: values})


def _affordable(problem: Problem, count: int) -> int:
    """Return how many points of a problem take no more than `SECONDS`, where its own are so many."""
    taken = 0.0
    for _ in range(2):
        # The first may compile and import; it is asked once more where it took no time to speak of.
        begin = time.perf_counter()
        solve(problem)
        taken = time.perf_counter() - begin
        if taken <= SECONDS / 100 or taken > SECONDS:
            break
    return int(count * SECONDS / max(taken, 1e-6))


def _between(asked: np.ndarray, points: int) -> np.ndarray:
    """Return the points asked for, and others between them: geometrically where they are far apart."""
    import numpy as np

    finite = asked[np.isfinite(asked)]
    each = max(2, -(-points // max(len(finite) - 1, 1)))
    parts = [
        np.geomspace(a, b, each + 1)[1:-1] if a > 0 and b > 1.5 * a else np.linspace(a, b, each + 1)[1:-1]
        for a, b in pairwise(finite)
    ]
    return np.unique(np.concatenate([asked, *parts]))


def _agrees(result: Result, found: Result, axis: str, asked: np.ndarray) -> bool:
    import numpy as np

    if axis not in found.dataset.dims:
        return False
    at = np.searchsorted(found.dataset.coords[axis].values, asked)
    for name in result:
        before = result.dataset[name]
        if axis not in before.dims or not np.issubdtype(before.dtype, np.number):
            continue
        now = found.dataset[name].isel({axis: at}).values if name in found else np.nan
        scale = np.nanmax(np.abs(before.values), initial=0.0)
        if np.shape(now) != before.shape or not np.allclose(
            now, before.values, rtol=0, atol=1e-3 * scale, equal_nan=True
        ):
            log.warning("%s is not what is computed today: lines are drawn through the points of the result", name)
            return False
    return True
