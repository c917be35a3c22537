"""Measured curves from plain tables: CSV, or JSON as the command line prints it."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError, did_you_mean
from .problem import Problem
from .problem.spec import Spec
from .solve import replace

__all__ = ["measured_table"]

Array = NDArray[np.float64]


def measured_table(path: str | Path, problem: Problem) -> tuple[Problem, dict[str, tuple[Array, Array]]]:
    """Read a measured curve, and put the problem on its grid.

    Parameters
    ----------
    path : str or Path
        A CSV file with a header: an axis of ``[grid]``, such as ``time``, then variables, each with its standard
        error beside it: ``generalization_error``, ``generalization_error_se``. Or a JSON file as ``simulate --json``
        prints it; of several sizes the last counts.
    problem : Problem

    Returns
    -------
    problem : Problem
        With the axis of the file.
    measurement : dict
        Name -> (values, standard errors), as `fit` takes them.

    Raises
    ------
    UsageError
        When the file is no such table.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the measured curve cannot be read", where=str(file), why=str(error)) from None
    coords, columns = _json(text, file) if file.suffix == ".json" else _csv(text, file)
    grid: Any = problem.grid
    axes = [n for n in grid.__struct_fields__ if n in coords] if isinstance(grid, Spec) else []
    if len(axes) != 1:
        raise UsageError(
            "the measured curve has no axis of the problem", where=str(file),
            why=f"its columns are {', '.join(coords)}",
            hint=f"name one of them as in [grid]: {', '.join(grid.__struct_fields__)}",
        )  # fmt: skip
    axis = coords[axes[0]]
    if not np.isfinite(axis).all():
        raise UsageError(f"{axes[0]} has a gap", where=str(file), hint="a number in every row")
    order = np.argsort(axis, kind="stable")
    found = {}
    for name in columns:
        if f"{name}_se" in columns:
            pair = [np.asarray(columns[n], dtype=float) for n in (name, f"{name}_se")]
            if any(len(p) != len(axis) for p in pair):
                raise UsageError("a column has another length than the axis", where=f"{file}: {name}")
            found[name] = pair[0][order], pair[1][order]
        elif name.endswith("_se") and name[:-3] not in columns:
            raise UsageError(
                f"{name!r} is the standard error of nothing", where=str(file), hint=did_you_mean(name[:-3], columns)
            )
    if not found:
        raise UsageError(
            "nothing is measured with a standard error", where=str(file),
            hint="give each variable a second column, such as generalization_error_se",
        )  # fmt: skip
    return replace(problem, {f"grid.{axes[0]}": axis[order].tolist()}), found


def _csv(text: str, file: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    rows = [row for row in csv.reader(text.splitlines()) if row and not row[0].lstrip().startswith("#")]
    if len(rows) < 2:
        raise UsageError("the table is empty", where=str(file), hint="a header, then one row a point")
    names = [cell.strip() for cell in rows[0]]
    columns: dict[str, list[float]] = {name: [] for name in names}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(names):
            raise UsageError(
                f"row {number} has {len(row)} cells of {len(names)}", where=str(file), hint="separate them by commas"
            )
        for name, cell in zip(names, row, strict=True):
            try:
                columns[name].append(float(cell) if cell.strip() else math.nan)
            except ValueError:
                raise UsageError(
                    "a cell is no number", where=f"{file}, row {number}, {name}", why=f"it is {cell.strip()!r}",
                    hint="separate cells by commas, and write 0.5 with a point",
                ) from None  # fmt: skip
    arrays = {name: np.array(values) for name, values in columns.items()}
    return arrays, arrays


def _json(text: str, file: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    try:
        document = json.loads(text)
        coords = {n: v for n, v in document["coords"].items() if all(isinstance(x, int | float) for x in v)}
        variables = document["variables"]
        axes = {n: np.array(v, dtype=float) for n, v in coords.items()}
        columns = {}
        for name, variable in variables.items():
            dims, values = variable["dims"], np.array(variable["values"], dtype=float)
            if len(dims) == 2 and dims[0] in ("d", "n", "size"):
                dims, values = dims[1:], values[-1]
            if len(dims) == 1:
                columns[name] = values
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            "this is not what --json prints", where=str(file), why=repr(error), hint="coords and variables of a result"
        ) from None
    return axes, columns
