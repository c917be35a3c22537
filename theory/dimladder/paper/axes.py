"""What the axes of a result's variables mean: sizes, swept parameters, the axis of a curve, components across it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..results import Measurement, Result, main_axis
from .labels import is_index
from .runs import swept_keys

Array = NDArray[Any]


def size_axis(result: Result) -> str | None:
    """Return the size coordinate of a measurement (``d``, ``width``, ...); None for a theory."""
    if not isinstance(result, Measurement):
        return None
    named = result.stats.get("size")
    if named in result.dataset.dims:
        return str(named)
    first = next((v.dims[0] for v in result.dataset.data_vars.values() if v.ndim), None)
    return None if first is None else str(first)


def statistical_names(result: Result) -> set[str]:
    """Return the variables that are standard errors of others."""
    return {n for n in result if n.endswith("_se") and n[:-3] in result}


def column_name(name: str, labels: Sequence[str], se: bool = False) -> str:
    """Return the CSV column of a component: ``Q_0_1``, ``generalization_error_deep``, ``Q_0_1_se``."""
    parts = [name, *(re.sub(r"[^A-Za-z0-9.+-]+", "-", text) for text in labels)]
    return "_".join(parts) + ("_se" if se else "")


def curve_axis(result: Result, name: str) -> str | None:
    """Return the axis a variable is drawn against, or None when it has none of two points or more."""
    data = result.dataset
    size = size_axis(result)
    candidates = [str(d) for d in data[name].dims if d != size and len(data.coords[d]) > 1 and not str(d).endswith("'")]
    if not candidates:
        return size if size in data[name].dims and data.sizes[size] > 1 else None
    swept = [a for a in swept_keys(result) if a in candidates]
    grids = [a for a in candidates if is_numeric(data.coords[a].values) and not is_index(data.coords[a].values)]
    plain = [a for a in grids if a not in swept]
    if plain:
        main = main_axis(result)
        return main if main in plain else max(plain, key=lambda a: data.sizes[a])
    return (swept or grids or candidates)[0]


def components(
    result: Result, name: str, axis: str | None, fixed: Iterable[str] = ()
) -> Iterator[tuple[list[str], tuple[int, ...], dict[str, int]]]:
    """Yield (axes, index, selection) of every component across `axis`; a symmetric matrix gives its upper triangle.

    Axes in `fixed` have been selected already.
    """
    data, size = result.dataset, size_axis(result)
    axes = [str(d) for d in data[name].dims if d not in (axis, size, *fixed)]
    pair = [(a, b) for a, b in itertools.combinations(axes, 2) if b == a + "'"]
    symmetric = bool(pair) and _symmetric(data[name], *pair[0])
    for index in itertools.product(*(range(data.sizes[a]) for a in axes)):
        where = dict(zip(axes, index, strict=True))
        if symmetric and where[pair[0][0]] > where[pair[0][1]]:
            continue
        yield axes, index, where


def _symmetric(array: Any, a: str, b: str) -> bool:
    other = array.values.swapaxes(array.dims.index(a), array.dims.index(b))
    return bool(np.allclose(array.values, other, rtol=1e-9, atol=1e-12, equal_nan=True))


def is_numeric(values: Array) -> bool:
    """Return whether a coordinate or variable holds numbers."""
    return bool(np.issubdtype(values.dtype, np.number))
