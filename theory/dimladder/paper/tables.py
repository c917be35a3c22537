"""booktabs tables: theory beside simulation, uncertainties in the notation of the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..results import Measurement, Result
from .labels import axis_label
from .plan import Plan, Series
from .tex import escape, number, render, rounded, words

MAX_ROWS = 12
MAX_COLUMNS = 8


def table(results: Sequence[Result], plan: Plan | None, note: str) -> str:
    """Return LaTeX tables: one of the numbers without axes, one a panel of the plan, at most twelve rows each.

    The rows are spread evenly over the coordinate; every row is in the CSV files.
    """
    blocks = []
    numbers = scalars(results)
    if numbers:
        blocks.append(
            {
                "columns": "ll",
                "head": ["quantity", "value"],
                "rows": [[label, _pair(v, se)] for _, label, v, se in numbers],
                "comment": "",
            }
        )
    for panel in plan.panels if plan is not None else []:
        if panel.map_z is None and panel.series:
            blocks.append(_block(panel.x_label, panel.categories, panel.series))
    return render("table.tex", note=note, blocks=blocks)


def scalars(results: Sequence[Result]) -> list[tuple[str, str, float, float]]:
    """Return (name, label, value, standard error or NaN) of every number without axes, theories before measurements.

    A measured number is that of the largest size.
    """
    from .labels import variable_label
    from .plan import size_axis, statistical_names, suffixes

    found = []
    told = suffixes(results)
    for position, result in sorted(enumerate(results), key=lambda r: isinstance(r[1], Measurement)):
        size, errors = size_axis(result), statistical_names(result)
        for name in (n for n in result if n not in errors):
            array = result.dataset[name]
            if not np.issubdtype(array.dtype, np.number) or [d for d in array.dims if d != size]:
                continue
            pick = {} if size is None else {size: -1}
            where = "" if size is None else f", {axis_label(size)} = {number(result.dataset.coords[size].values[-1])}"
            se = float(result.dataset[name + "_se"].isel(pick).values) if name + "_se" in result else math.nan
            key = name + told[position] if size is None else f"{name} simulated"
            where = told[position] if size is None else where
            text = (
                words(name)
                + (f" {symbol_}" if (symbol_ := variable_label(result, name)).startswith("$") else "")
                + where
            )
            found.append((key, _tex(text), float(array.isel(pick).values), se))
    return found


def _tex(label: str) -> str:
    return "".join(f"${part}$" if i % 2 else escape(part) for i, part in enumerate(label.split("$")))


def _pair(value: float, se: float) -> str:
    if not math.isfinite(se):
        return number(value)
    shown, error = rounded(value, se)
    return rf"{shown} \ensuremath{{\pm}} {error}" if se > 0 else shown


def _block(x_label: str, categories: Sequence[str], series: list[Series]) -> dict[str, Any]:
    theory = [s for s in series if s.kind == "theory"]
    largest = max((s.style for s in series if s.kind == "simulation"), default=0)
    measured = {s.column: s for s in series if s.kind == "simulation" and s.style == largest}
    picked: list[tuple[str, Series]] = []
    for s in theory:
        picked.append(("theory" if s.style == 0 else f"theory {s.style + 1}", s))
        if s.style == 0 and s.column in measured:
            picked.append(("simulation", measured.pop(s.column)))
    picked += [("simulation", s) for s in measured.values()]
    shown = picked[:MAX_COLUMNS]
    rest = f"{len(picked) - len(shown)} more columns are in the CSV files" if len(picked) > len(shown) else ""
    x = shown[0][1].x
    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_ROWS)).round().astype(int))
    body = []
    for row in rows:
        first = escape(categories[row]) if categories else number(x[row])
        body.append([first, *(_at(s, x[row]) for _, s in shown)])
    head = [_tex(x_label), *(_tex(s.component) + ("" if kind == "theory" else f" ({kind})") for kind, s in shown)]
    return {"columns": "r" * len(head), "head": head, "rows": body, "comment": rest}


def _at(s: Series, x: float) -> str:
    found = np.flatnonzero((s.x == x) | (np.isnan(s.x) & np.isnan(x)))
    if not len(found):
        return "--"
    row = int(found[0])
    return _pair(float(s.y[row]), math.nan if s.se is None else float(s.se[row]))
