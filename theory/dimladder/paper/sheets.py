"""CSV: wide tables, one row a coordinate, a component a column, its standard error beside it."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..results import Measurement, Result, short
from .axes import column_name, curve_axis, size_axis, statistical_names
from .labels import Names
from .runs import Runs, members, swept_keys

Sheet = dict[str, np.ndarray]


def stems(results: Sequence[Result]) -> list[str]:
    """Return what the files of each result are called: ``theory``, ``simulation``, and what tells several apart."""
    found = {m.source: m for m in members(results) if not swept_keys(m.result)}
    runs = Runs(list(found.values()), Names())
    names = []
    for source, result in enumerate(results):
        words = runs.words(found[source]) if source in found else []
        kind = "simulation" if isinstance(result, Measurement) else "theory"
        names.append("_".join([kind, *(re.sub(r"[^A-Za-z0-9.+-]+", "-", w).strip("-.") for w in words)]))
    if len(set(names)) < len(names):
        raise UsageError(
            "the files of these results cannot be told apart", where="source", hint="export them one by one"
        )
    return names


def file_name(result: Result, stem_: str, axis: str | None, size: Any = None) -> str:
    """Return the name of the CSV file of one axis, and of one size of a measurement."""
    parts = [stem_] + ([] if axis is None else [axis.replace(".", "-").replace("'", "")])
    if size is not None:
        parts.append(f"{size_axis(result)}{short(size)}")
    return "_".join(parts) + ".csv"


def sheets(result: Result, stem_: str = "theory") -> dict[str, Sheet]:
    """Return file name -> columns.

    Every variable goes into the file of the axis it is drawn against; variables without any axis share
    ``<stem>.csv`` with a single row. Each size of a measurement has its own
    files, so that every file is one plain table.
    Indices count from 0, as in Python. A sweep is one long table: a row a grid point, with its status.
    """
    if swept_keys(result):
        return {f"{stem_}.csv": _long(result)}
    data, size = result.dataset, size_axis(result)
    out: dict[str, Sheet] = {}
    runs: list[int | None] = [None] if size is None else list(range(data.sizes[size]))
    errors = statistical_names(result)
    for name in (n for n in result if n not in errors):
        axis = curve_axis(result, name)
        for run in [None] if axis == size else runs:
            at = None if run is None or size is None else data.coords[size].values[run]
            file = file_name(result, stem_, axis, at)
            sheet = out.setdefault(file, {} if axis is None else {axis: data.coords[axis].values})
            others = [str(d) for d in data[name].dims if d not in (axis, None if run is None else size)]
            for index in itertools.product(*(range(data.sizes[a]) for a in others)):
                pick: dict[str, int] = dict(zip(others, index, strict=True))
                labels = [short(data.coords[a].values[i]) for a, i in pick.items()]
                if run is not None and size in data[name].dims:
                    pick[str(size)] = run
                sheet[column_name(name, labels)] = np.atleast_1d(data[name].isel(pick).values)
                if name + "_se" in result:
                    sheet[column_name(name, labels, se=True)] = np.atleast_1d(data[name + "_se"].isel(pick).values)
    return out


def _long(result: Result) -> Sheet:
    """Return a sweep as one table whose rows are grid points, and points of any further curve axis."""
    data, axes = result.dataset, swept_keys(result)
    curves = {str(d) for n in result for d in data[n].dims if d not in axes and d == curve_axis(result, n)}
    rows = [*axes, *sorted(curves)]
    lengths = [data.sizes[a] for a in rows]
    mesh = np.meshgrid(*(data.coords[a].values for a in rows), indexing="ij")
    sheet: Sheet = {a: m.ravel() for a, m in zip(rows, mesh, strict=True)}
    for name in result:
        others = [str(d) for d in data[name].dims if d not in rows]
        for index in itertools.product(*(range(data.sizes[a]) for a in others)):
            pick = dict(zip(others, index, strict=True))
            labels = [short(data.coords[a].values[i]) for a, i in pick.items()]
            part = data[name].isel(pick)
            missing = {a: data.coords[a] for a in rows if a not in part.dims}
            values = part.expand_dims(missing).transpose(*rows).values
            sheet[column_name(name, labels)] = np.broadcast_to(values, lengths).ravel()
    return sheet


def to_csv(sheet: Sheet) -> str:
    """Return a table as CSV text; numbers are written so that they read back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(sheet)
    length = max(len(v) for v in sheet.values())
    for row in range(length):
        writer.writerow(_cell(v[row]) if row < len(v) else "nan" for v in sheet.values())
    return text.getvalue()


def _cell(value: Any) -> str:
    return repr(float(value)) if isinstance(value, float | np.floating) else str(value)
