"""Results as columns: what the terminal prints and what CSV files hold."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .container import Result


# What a reader looks at first.
FIRST = ("generalization_error", "test_error", "mse", "test_mse")


def main_axis(result: Result) -> str | None:
    """Return the axis a curve is drawn against: time, else the numeric one that most variables share."""
    coords, variables = result._labelled()
    counts = {
        name: (sum(name in dims for dims, _ in variables.values()), len(c))
        for name, c in coords.items()
        if np.issubdtype(c.dtype, np.number) and c.size > 1 and not name.endswith("'")
    }
    if "time" in counts:
        return "time"
    grid = {n: k for n, k in counts.items() if not _is_index(coords[n])} or counts
    return max(grid, key=lambda n: (grid[n][0], grid[n][1])) if grid else None


def _is_index(values: Any) -> bool:
    return np.issubdtype(values.dtype, np.integer) and bool(np.array_equal(values, np.arange(len(values))))


def columns(result: Result, axis: str | None = None) -> dict[str, np.ndarray]:
    """Return one column a component of every variable that has the axis, the axis itself first.

    A component is named like ``Q[0,1]`` or ``generalization_error[deep]``. With no axis at all, every
    variable without axes becomes a column of length one.
    """
    coords, variables = result._labelled()
    axis = axis or main_axis(result)
    out: dict[str, np.ndarray] = {}
    if axis is not None:
        out[axis] = coords[axis]
    for name, (dims, array) in variables.items():
        if axis is None and array.ndim == 0:
            out[name] = np.atleast_1d(array)
        if axis is None or axis not in dims:
            continue
        others = [d for d in dims if d != axis]
        moved = np.moveaxis(array, dims.index(axis), 0)
        # Counted, not inferred: a solve that failed before its first time has no rows.
        flat = moved.reshape(len(moved), math.prod(moved.shape[1:]))
        for k, index in enumerate(itertools.product(*map(range, moved.shape[1:]))):
            labels = [short(coords[d][i]) for d, i in zip(others, index, strict=True)]
            out[f"{name}[{','.join(labels)}]" if labels else name] = flat[:, k]
    return out


def text_table(result: Result, axis: str | None = None, limit: int = 12) -> str:
    """Return the scalars and the curves of a result as aligned text, at most `limit` columns a block.

    The second half of a symmetric matrix is left out. A measured value stands with its standard error in its last
    digits: ``0.1234(12)``.
    """
    variables = result._labelled()[1]
    numbers = _measured({n: np.atleast_1d(v) for n, (_, v) in variables.items() if v.ndim == 0})
    lines = [f"{n} = {cells[0]}" for n, cells in numbers.items()]
    axis = axis or main_axis(result)
    done: set[str] = set()
    axes = [a for a in [axis] if a is not None]
    axes += [d for dims, _ in variables.values() for d in dims if d not in axes][:8]
    for current in dict.fromkeys(axes):
        found = columns(result, current)
        table = {k: v for k, v in found.items() if k == current or k.split("[")[0] not in done}
        done.update(k.split("[")[0] for k in table if k != current)
        shown = _measured(_without_mirrors(result, table))
        names = sorted((k for k in shown if k != current), key=lambda k: k.partition("[")[0] not in FIRST)
        for start in range(0, len(names), limit):
            block = [current, *names[start : start + limit]]
            cells = [[n, *shown[n]] for n in block]
            widths = [max(map(len, column)) for column in cells]
            lines += [
                "",
                *("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in zip(*cells, strict=True)),
            ]
    return "\n".join(lines).strip() + "\n"


def _without_mirrors(result: Result, table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leave out the components of symmetric matrices whose mirror image is there."""
    out: dict[str, np.ndarray] = {}
    known = result._labelled()[1]
    for name, values in table.items():
        variable, bracket, labels = name.rstrip("]").partition("[")
        base = variable if variable in known else ""
        dims = result.dims(base)[-2:] if base else []
        mirror = f"{variable}[{','.join([*labels.split(',')[:-2], *labels.split(',')[:-3:-1]])}]" if bracket else ""
        twice = len(dims) == 2 and dims[0] == dims[1] and mirror in out
        if not (twice and np.array_equal(out[mirror], values, equal_nan=values.dtype.kind == "f")):
            out[name] = values
    return out


def _measured(table: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """Return the cells of each column, standard errors drawn into the values they belong to."""
    out: dict[str, list[str]] = {}
    for name, values in table.items():
        variable, bracket, rest = name.partition("[")
        errors = table.get(f"{variable}_se{bracket}{rest}")
        if variable.endswith("_se") and f"{variable.removesuffix('_se')}{bracket}{rest}" in table:
            continue
        if variable.endswith("_skewness") and f"{variable.removesuffix('_skewness')}{bracket}{rest}" in table:
            continue
        cells = [short(v) for v in values]
        out[name] = cells if errors is None else [in_brackets(v, e) for v, e in zip(values, errors, strict=True)]
    return out


def in_brackets(value: float, error: float) -> str:
    """Return a value with two digits of its standard error behind it, ``0.1234(12)``.

    Examples
    --------
    >>> in_brackets(0.123456, 0.0012), in_brackets(3.2, 0.0), in_brackets(1234.5, 210.0)
    ('0.1235(12)', '3.2', '1230(210)')
    """
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return short(value)
    places = 1 - math.floor(math.log10(float(f"{error:.1e}")))
    if places > 9:
        return f"{value:.{places + 1}g} +- {error:.2g}"
    if places < 0:
        return f"{round(value, places):.0f}({round(error, places):.0f})"
    return f"{value:.{places}f}({error * 10**places:.0f})"


def short(value: Any) -> str:
    """Return a number or a name as short text."""
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)
