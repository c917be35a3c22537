"""booktabs tables: theory beside the simulation of the same run, uncertainties in the notation of the paper."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..results import Result
from ..typeset.words import escape, label_tex
from .axes import is_numeric, size_axis, statistical_names
from .labels import Names, axis_label
from .plan import Panel, Plan, Series
from .runs import Runs, members, swept_keys
from .tex import number, render, with_error, words

MAX_ROWS = 12
# Characters that fit side by side into a column of a two-column paper set small, or a page set normally.
MAX_WIDTH = 100
MAX_COLUMNS = 8


def tables(results: Sequence[Result], plan: Plan | None, note: str, names: Names | None = None) -> dict[str, str]:
    """Return LaTeX tables by file: the numbers without axes, and for each variable as many as its columns need.

    ``table.tex`` holds all of them; where there are several, each has a file of its own too, such as ``table_Q.tex``.
    Twelve rows at most, spread evenly over the coordinate; every row is in the CSV files.
    """
    names = names or Names()
    blocks: dict[str, list[dict[str, Any]]] = {}
    numbers = list(scalars(results, names))
    if numbers:
        rows = [[label, _pair(v, se)] for _, label, v, se in numbers]
        blocks["numbers"] = [_plain_block(["quantity", "value"], rows)]
    for panel in plan.panels if plan is not None else []:
        if panel.map_z is None and panel.series:
            blocks.setdefault(panel.variable, []).extend(_blocks(panel))
    files = {"table.tex": render("table.tex", note=note, blocks=[b for own in blocks.values() for b in own])}
    if len(blocks) > 1:
        files |= {f"table_{name}.tex": render("table.tex", note=note, blocks=own) for name, own in blocks.items()}
    return files


def _plain_block(head: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {"columns": "l" * len(head), "spans": [], "head": list(head), "rows": list(rows), "comment": ""}


def simple_table(head: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> str:
    """Return one booktabs table of words and numbers; words are escaped."""

    def cell(value: Any) -> str:
        if isinstance(value, list | tuple):
            return ", ".join(map(cell, value))
        return number(value) if isinstance(value, int | float) else escape(str(value))

    texts = [[cell(v) for v in row] for row in rows]
    return render("table.tex", note=note, blocks=[_plain_block([escape(h) for h in head], texts)])


def scalars(results: Sequence[Result], names: Names | None = None) -> Iterator[tuple[list[str], str, float, float]]:
    """Yield (words of a name, label, value, standard error or NaN) of every number without axes, theories first.

    A measured number is that of the largest size. Those of several runs carry the parameters that tell them apart.
    """
    names = names or Names()
    found = [m for m in members(results) if not swept_keys(m.result)]
    if not found:
        return
    runs = Runs(found, names)
    # In the order of the runs, whatever the order of the results.
    for member in sorted(found, key=lambda m: (m.measured, runs.index(m))):
        result, size, errors = member.result, size_axis(member.result), statistical_names(member.result)
        for name in (n for n in result if n not in errors):
            array = result.dataset[name]
            if not is_numeric(array) or [d for d in array.dims if d != size]:
                continue
            pick = {} if size is None else {size: -1}
            where = ["" if size is None else f"{axis_label(size)} = {number(result.dataset.coords[size].values[-1])}"]
            where += [runs.label(member), runs.line_label(member) if size is None else ""]
            se = float(result.dataset[name + "_se"].isel(pick).values) if name + "_se" in result else math.nan
            symbol = names.variable(result, name)
            text = ", ".join(filter(None, [words(name) + (f" {symbol}" if "$" in symbol else ""), *where]))
            spoken = [name, *(["simulated"] if size is not None else []), *told(runs.words(member))]
            yield spoken, label_tex(text), float(array.isel(pick).values), se


def told(pairs: Sequence[str]) -> list[str]:
    """Return the words of a macro that say at which parameters."""
    return ["at", *pairs] if pairs else []


def _pair(value: float, se: float) -> str:
    return with_error(value, se) if math.isfinite(se) else number(value)


def _groups(panel: Panel) -> list[list[tuple[str, Series]]]:
    """Return (kind, series) of each component run by run: its theories, then the largest size of its simulation."""
    groups: list[list[tuple[str, Series]]] = []
    order = list(dict.fromkeys((s.run, s.column) for s in sorted(panel.series, key=lambda s: s.run)))
    for run, column in order:
        own = [s for s in panel.series if (s.run, s.column) == (run, column)]
        measured = [s for s in own if s.kind == "simulation"]
        largest = max((s.style for s in measured), default=0)
        theories = [("theory", s) for s in own if s.kind == "theory"]
        groups.append(theories + [("simulation", s) for s in measured if s.style == largest])
    return groups


def _blocks(panel: Panel) -> list[dict[str, Any]]:
    groups = _groups(panel)
    everywhere = np.unique(np.concatenate([s.x for group in groups for _, s in group]))
    picked = np.unique(np.linspace(0, len(everywhere) - 1, min(len(everywhere), MAX_ROWS)).round().astype(int))
    rows = everywhere[picked]
    comment = f"{len(rows)} of {len(everywhere)} rows; all are in the CSV files" if len(rows) < len(everywhere) else ""
    shown = [panel.categories[int(x)] if panel.categories else number(x) for x in rows]
    first = [label_tex(panel.x_label), *(escape(t) if panel.categories else t for t in shown)]
    groups_of_cells = [
        _Group(_title(group[0][1]), [[_head(kind, s), *(_at(s, x) for x in rows)] for kind, s in group])
        for group in groups
    ]
    return [_block(first, part, comment) for part in _parts(groups_of_cells, _width(first))]


@dataclass(frozen=True)
class _Group:
    """Columns of one component of one run, under one title: those of the theory, then of the simulation."""

    title: str
    columns: list[list[str]]

    @property
    def width(self) -> int:
        """Characters side by side."""
        return max(sum(map(_width, self.columns)), _width([self.title]))


def _parts(groups: list[_Group], first: int) -> Iterator[list[_Group]]:
    """Put groups of columns side by side into tables that fit the page: none is left out, none split."""
    part: list[_Group] = []
    used = first
    for group in groups:
        count = sum(len(g.columns) for g in part) + len(group.columns)
        if part and (used + group.width > MAX_WIDTH or count > MAX_COLUMNS):
            yield part
            part, used = [], first
        part = [*part, group]
        used += group.width
    yield part


def _block(first: list[str], part: list[_Group], comment: str) -> dict[str, Any]:
    columns = [column for group in part for column in group.columns]
    spans, rules, at = [""], "", 2
    for group in part:
        count = len(group.columns)
        spans.append(rf"\multicolumn{{{count}}}{{c}}{{{group.title}}}")
        rules += rf"\cmidrule(lr){{{at}-{at + count - 1}}}"
        at += count
    plain = all(len(group.columns) == 1 and group.columns[0][0] == "theory" for group in part)
    return {
        "columns": "r" * (1 + len(columns)),
        "spans": [] if plain else spans,
        "rules": rules,
        "head": [first[0], *(group.title for group in part)] if plain else [first[0], *(c[0] for c in columns)],
        "rows": [[first[i], *(column[i] for column in columns)] for i in range(1, len(first))],
        "comment": comment,
    }


def _width(column: list[str]) -> int:
    return 2 + max(len(re.sub(r"\\[A-Za-z]+|[${}\\]", "", cell)) for cell in column)


def _title(s: Series) -> str:
    return label_tex(", ".join(filter(None, [s.component, s.run_label])))


def _head(kind: str, s: Series) -> str:
    return label_tex(", ".join(filter(None, [kind, s.told if kind == "theory" else ""])))


def _at(s: Series, x: float) -> str:
    found = np.flatnonzero((s.x == x) | (np.isnan(s.x) & np.isnan(x)))
    if not len(found):
        return "--"
    row = int(found[0])
    return _pair(float(s.y[row]), math.nan if s.se is None else float(s.se[row]))
