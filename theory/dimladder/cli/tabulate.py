"""Small tables of the command line: aligned text, LaTeX or CSV."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..problem import Problem

FORMATS = ("text", "tex", "csv")


def add_table(parser: argparse.ArgumentParser) -> None:
    """Add ``--grid`` and ``--format``."""
    parser.add_argument(
        "--grid", action="append", default=[], metavar="a.b=lo:hi:n[:log]",
        help="a row for each value of one key: a range, or a list v1,v2,...; may be repeated",
    )  # fmt: skip
    parser.add_argument("--format", default="text", choices=FORMATS, help="default text")


def problems(problem: Problem, grids: Sequence[str]) -> Iterator[tuple[dict[str, Any], Problem]]:
    """Yield the values of the swept keys, and the problem with them."""
    from ..solve import replace
    from ..sweep import parse_grid

    axes = dict(parse_grid(text) for text in grids)
    for values in itertools.product(*axes.values()):
        changes = dict(zip(axes, values, strict=True))
        yield changes, replace(problem, changes) if changes else problem


def cell(value: Any) -> str:
    """Return a value for a table in text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write(head: Sequence[str], rows: Sequence[Sequence[Any]], form: str, note: str = "") -> str:
    """Return a table as aligned text, as a booktabs ``tabular`` or as CSV."""
    if form == "csv":
        import csv
        import io

        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([head, *rows])
        return out.getvalue()
    if form == "tex":
        from ..paper.tables import simple_table

        return simple_table(head, rows, note)
    texts = [list(head), *([cell(v) for v in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    # Words begin, and numbers end, at one place.
    words = [any(isinstance(v, str) for v in column) for column in zip(*rows, strict=True)] or [True] * len(head)

    def line(cells: Sequence[str]) -> str:
        placed = [c.ljust(w) if k else c.rjust(w) for c, w, k in zip(cells, widths, words, strict=True)]
        return "  ".join(placed).rstrip() + "\n"

    return "".join(map(line, texts))
