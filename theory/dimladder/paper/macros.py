r"""\newcommand macros: every number of a paper comes from the result file, none is typed."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..results import Measurement, Result
from .plan import components, curve_axis, format_coordinate, grid_axes, size_axis, statistical_names, suffixes
from .tables import scalars
from .tex import escape, macro_name, number, render, rounded

MAX_COMPONENTS = 64


def macros(results: Sequence[Result], note: str, prefix: str = "dl") -> str:
    r"""Return ``\newcommand`` lines.

    Names are the prefix and words of letters only (digits are spelled: ``Q_{01}`` at the end is ``\dlQZeroOneFinal``):

    * ``\dlAlgorithmLearningRate`` ...: each number or word of the run file;
    * ``\dlNullError``, ``\dlNullErrorSe``: each number without axes, and its standard error;
    * ``\dlGeneralizationErrorFinal``: each component of a curve at the last point of its grid; the measured one, at the
      largest size, ends in ``FinalSimulated`` with ``FinalSimulatedSe``;
    * ``\dlVersion``, ``\dlProblemHash``.
    """
    rows: dict[str, tuple[str, str]] = {}

    def add(parts: Iterable[str], text: str, comment: str) -> None:
        name = prefix + macro_name(*parts)
        while name in rows:
            name += "X"
        rows[name] = (text, comment.replace("\n", " "))

    first = results[0]
    add(
        ["version"],
        escape(str(first.provenance["versions"].get("dimladder", "unknown"))),
        "version that computed the result",
    )
    add(["problem hash"], escape(str(first.provenance.get("problem_hash") or "none")), "content hash of the problem")
    for key, value in _leaves(tomllib.loads(first.problem_toml)):
        if isinstance(value, bool | int | float | str):
            add(key.split("."), number(value, 12), key)
    for name, _, value, se in scalars(results):
        _add_value(add, [name], value, se, name)
    told = suffixes(results)
    for position, result in sorted(enumerate(results), key=lambda r: isinstance(r[1], Measurement)):
        for parts, value, se, comment in _finals(result, told[position]):
            _add_value(add, parts, value, se, comment)
    return render("macros.tex", note=note, rows=[(n, t, c) for n, (t, c) in rows.items()])


def _add_value(add: Any, parts: list[str], value: float, se: float, comment: str) -> None:
    if math.isfinite(se):
        shown, error = rounded(value, se)
        add(parts, shown, comment)
        add([*parts, "se"], error, f"standard error of {comment}")
    else:
        add(parts, number(value), comment)


def _leaves(table: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _finals(result: Result, told: str) -> Iterable[tuple[list[str], float, float, str]]:
    data, size, errors = result.dataset, size_axis(result), statistical_names(result)
    for name in (n for n in result if n not in errors):
        axis = curve_axis(result, name)
        if axis is None or axis == size or grid_axes(result) or not np.issubdtype(data[name].dtype, np.number):
            continue
        items = list(components(result, name, axis))
        if len(items) > MAX_COMPONENTS:
            continue
        last = data.coords[axis].values[-1]
        for _, _, where in items:
            pick = {**where, axis: -1} | ({str(size): -1} if size in data[name].dims else {})
            labels = [format_coordinate(data.coords[a].values[i]) for a, i in where.items()]
            se = float(data[name + "_se"].isel(pick).values) if name + "_se" in result else math.nan
            ending = f"final{told}" if size is None else "final simulated"
            text = f"{name}[{','.join(labels)}]" if labels else name
            at = f"{text} at {axis} = {format_coordinate(last)}{told.replace(' at ', ', ')}"
            if size is not None:
                at += f", {size} = {data.coords[size].values[-1]}"
            yield [name, *labels, ending], float(data[name].isel(pick).values), se, at
