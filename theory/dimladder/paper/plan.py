"""What a figure shows, before it is drawn: the same plan becomes a matplotlib figure and a pgfplots source."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError, did_you_mean
from ..results import Measurement, PhaseDiagram, Result, main_axis
from .labels import axis_label, component_label, is_index, plain, symbol, variable_label, with_indices

Array = NDArray[Any]

# Okabe and Ito's colours, which every kind of colour vision tells apart, in an order whose neighbours differ most.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MAX_PANELS = 6
_LOGARITHMIC = re.compile(r"error|risk|loss|cost|gap|eigenvalue|residual|norm")


@dataclass(frozen=True)
class Series:
    """One line of theory, or the markers of one simulated size.

    `style` counts theory curves (solid, dashed, ...) or simulated sizes (circle, square, ...). `label` stands in the
    legend and is empty when shown before; `component` is the full name of this very component, for tables.
    """

    kind: Literal["theory", "simulation"]
    x: Array
    y: Array
    se: Array | None
    colour: str
    style: int
    label: str
    component: str
    column: str
    source: int
    stairs: bool = False


@dataclass
class Panel:
    """One pair of axes."""

    variable: str
    x_name: str
    x_label: str
    y_label: str
    x_log: bool = False
    y_log: bool = False
    categories: tuple[str, ...] = ()
    # Few whole numbers (layers, degrees): points that a thin line joins, ticks at whole numbers.
    counted: bool = False
    legend_title: str = ""
    series: list[Series] = field(default_factory=list)
    # A map: two parameters and a value, instead of series.
    map_y: Array | None = None
    map_z: Array | None = None
    map_x: Array | None = None
    z_label: str = ""


@dataclass
class Plan:
    """A figure: its panels, and the names of the styles that all panels share."""

    panels: list[Panel]
    theory_labels: list[str]
    size_labels: list[str]
    limit_label: str
    left_out: list[str]


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


def grid_axes(result: Result) -> list[str]:
    """Return the swept parameters of a phase diagram."""
    if not isinstance(result, PhaseDiagram):
        return []
    return [str(a) for a in result.stats.get("grid", []) if a in result.dataset.dims]


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
    swept = [a for a in grid_axes(result) if a in candidates]
    grids = [a for a in candidates if _numeric(data.coords[a].values) and not is_index(data.coords[a].values)]
    plain = [a for a in grids if a not in swept]
    if plain:
        main = main_axis(result)
        return main if main in plain else max(plain, key=lambda a: data.sizes[a])
    return (swept or grids or candidates)[0]


def components(
    result: Result, name: str, axis: str | None
) -> Iterator[tuple[list[str], tuple[int, ...], dict[str, int]]]:
    """Yield (axes, index, selection) of every component across `axis`; a symmetric matrix gives its upper triangle."""
    data, size = result.dataset, size_axis(result)
    axes = [str(d) for d in data[name].dims if d not in (axis, size)]
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


def _numeric(values: Array) -> bool:
    return bool(np.issubdtype(values.dtype, np.number))


def make(results: Sequence[Result], variables: Sequence[str] | None = None) -> Plan:
    """Decide what to draw.

    Parameters
    ----------
    results : sequence of Result
        Any number of theories and measurements of the same variables.
    variables : sequence of str, optional
        Names in the wanted order. Default: every variable with an axis, six panels at most.

    Raises
    ------
    UsageError
        For an unknown variable, or when nothing can be drawn.
    """
    known = list(dict.fromkeys(n for r in _theories_first(results) for n in r if n not in statistical_names(r)))
    for name in variables or ():
        if name not in known:
            raise UsageError(
                f"there is no variable {name!r} to draw", where="variables", hint=did_you_mean(name, known)
            )
    theories = [r for r in results if not isinstance(r, Measurement)]
    panels: list[Panel] = []
    left_out: list[str] = []
    chosen = list(variables or _on_main_axis(results, known))
    for name in chosen:
        having = [(i, r) for i, r in enumerate(results) if name in r and _drawable(r, name)]
        if having:
            panels += _panels(name, having, theories)
    if not panels:
        raise UsageError(
            "there is nothing to draw: no variable depends on a coordinate", hint="use the csv, tex or macros format"
        )
    if variables is None:
        panels = panels[:MAX_PANELS]
        left_out = [n for n in known if n not in {p.variable for p in panels}]
    limits = [p.x_label for p in panels if any(not np.isfinite(s.x).all() for s in p.series)]
    sizes = _sizes(results)
    named = [f"${n} = {s}$" if len(n) == 1 else f"{n} = {s}" for n, s in sizes]
    limit = rf"{limits[0]} $\to\infty$" if limits else ""
    curves = _curve_labels(theories)
    if len(curves) > 1 and sizes:
        curves = [f"theory, {label}" for label in curves]
    return Plan(panels, curves, named, limit, left_out)


def _on_main_axis(results: Sequence[Result], known: list[str]) -> list[str]:
    """Return the variables that share the axis most of them are drawn against."""
    axes = {}
    for name in known:
        first = next(r for r in _theories_first(results) if name in r)
        if _drawable(first, name):
            axes[name] = str(curve_axis(first, name))
    if not axes or any(len(grid_axes(r)) > 1 for r in results):
        return list(axes) or known
    counts = {a: list(axes.values()).count(a) for a in axes.values()}
    best = max(counts, key=lambda a: counts[a])
    main = main_axis(_theories_first(results)[0])
    if main is not None and 2 * counts.get(main, 0) >= counts[best]:
        best = main
    return [n for n, a in axes.items() if a == best]


def _theories_first(results: Sequence[Result]) -> list[Result]:
    return sorted(results, key=lambda r: isinstance(r, Measurement))


def _drawable(result: Result, name: str) -> bool:
    values = result.dataset[name].values
    return _numeric(values) and curve_axis(result, name) is not None and bool(np.isfinite(values).any())


def _sizes(results: Sequence[Result]) -> list[tuple[str, Any]]:
    found = []
    for r in results:
        axis = size_axis(r)
        if axis:
            found += [(axis, v) for v in r.dataset.coords[axis].values.tolist()]
    return list(dict.fromkeys(found))


def _curve_labels(theories: Sequence[Result]) -> list[str]:
    """Name several theory curves by the parameters in which they differ."""
    import tomllib

    if len(theories) < 2:
        return ["theory"] * len(theories)
    flat = [_flatten(tomllib.loads(r.problem_toml)) for r in theories]
    keys = [
        k for k in dict.fromkeys(k for f in flat for k in f) if len({repr(f.get(k)) for f in flat}) > 1 and k != "title"
    ]
    return [
        ", ".join(f"{axis_label(k)} = {f.get(k)}" for k in keys[:2]) or f"theory {i + 1}" for i, f in enumerate(flat)
    ]


def suffixes(results: Sequence[Result]) -> dict[int, str]:
    """Return what tells results apart, by position: nothing for the first theory and for measurements."""
    theories = [i for i, r in enumerate(results) if not isinstance(r, Measurement)]
    labels = _curve_labels([results[i] for i in theories])
    named = {i: f" at {label.replace('$', '')}" for i, label in zip(theories, labels, strict=True) if i != theories[0]}
    return {i: named.get(i, "") for i in range(len(results))}


def _flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            out |= _flatten(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out


def _panels(name: str, having: list[tuple[int, Result]], theories: list[Result]) -> list[Panel]:
    first = having[0][1]
    if len(grid_axes(first)) >= 2 and set(grid_axes(first)) <= set(map(str, first.dataset[name].dims)):
        return _maps(first, name)
    axis = curve_axis(first, name)
    assert axis is not None
    values = first.dataset.coords[axis].values
    panel = Panel(name, axis, axis_label(axis), variable_label(first, name))
    if not _numeric(values):
        panel.categories = tuple(map(str, values))
    elif len(values) <= 12 and np.issubdtype(values.dtype, np.integer) and np.all(np.diff(values) == 1):
        panel.counted = True
    colours, labels = _colours(first, name, axis)
    others = next(components(first, name, axis))[0]
    if len(others) == 1 and len(labels) > 1 and _spoken(first, others[0]):
        panel.legend_title = axis_label(others[0])
        at = first.dataset.coords[others[0]].values
        labels = {k: plain(at[k[0]]) if text else "" for k, text in labels.items()}
    sizes = _sizes([r for _, r in having])
    shown: set[str] = set()
    # A measurement may know no symbols: its components are named as the first result names them.
    names: dict[str, str] = {}
    for source, result in having:
        style = theories.index(result) if result in theories else 0
        for s in _series(result, name, axis, source, style, sizes, colours, labels):
            once = (
                s.label
                if s.label not in shown and s.kind == ("theory" if having[0][1] in theories else "simulation")
                else ""
            )
            shown.add(once)
            named = names.setdefault(s.column, s.component)
            panel.series.append(replace(s, label=once, component=named))
    labelled = [s for s in panel.series if s.label]
    if len(labelled) == 1:
        # A single curve is named by the axis.
        panel.series = [replace(s, label="") for s in panel.series]
        panel.y_label = labelled[0].label if labelled[0].label.startswith("$") else panel.y_label
    panel.x_log = not panel.categories and _log_axis(values)
    panel.y_log = _log_values(name, panel.series)
    return [panel]


def _spoken(result: Result, axis: str) -> bool:
    values = result.dataset.coords[axis].values
    return _numeric(values) and not is_index(values)


def _stairs(x: Array, y: Array) -> bool:
    """Return whether a curve is constant between isolated jumps, and so is drawn as a staircase."""
    if len(x) < 8 or not np.isfinite(y).all():
        return False
    jumps = np.abs(np.diff(y)) > 1e-12 * np.max(np.abs(y), initial=1e-300)
    return bool(jumps.any() and jumps.mean() <= 0.2 and not (jumps[1:] & jumps[:-1]).any())


def _series(
    result: Result, name: str, axis: str, source: int, style: int, sizes: list[tuple[str, Any]],
    colours: dict[tuple[int, ...], str], labels: dict[tuple[int, ...], str],
) -> Iterable[Series]:  # fmt: skip
    data, size = result.dataset, size_axis(result)
    kind: Literal["theory", "simulation"] = "theory" if size is None else "simulation"
    if axis not in data[name].dims:
        return
    x = data.coords[axis].values
    if not _numeric(x):
        x = np.arange(len(x), dtype=float)
    split = size is not None and size != axis and size in data[name].dims
    runs: list[int | None] = list(range(data.sizes[size])) if split else [None]
    for _, index, where in components(result, name, axis):
        if index not in colours:
            continue
        text = [format_coordinate(data.coords[a].values[i]) for a, i in where.items()]
        full = component_label(result, name, list(where), index) if where else variable_label(result, name)
        for run in runs:
            pick = where if run is None else {**where, str(size): run}
            y = np.asarray(data[name].isel(pick).values, dtype=float)
            se = np.asarray(data[name + "_se"].isel(pick).values, dtype=float) if name + "_se" in result else None
            mark = style if run is None else sizes.index((str(size), data.coords[size].values.tolist()[run]))
            yield Series(
                kind,
                x,
                y,
                se,
                colours[index],
                mark,
                labels[index],
                full,
                column_name(name, text),
                source,
                kind == "theory" and _stairs(x, y),
            )


def format_coordinate(value: Any) -> str:
    """Return a coordinate as short text."""
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def _colours(result: Result, name: str, axis: str) -> tuple[dict[tuple[int, ...], str], dict[tuple[int, ...], str]]:
    """Return a colour and a label for each component: one each when few, one a group when many."""
    items = list(components(result, name, axis))
    axes = items[0][0]
    keys = [index for _, index, _ in items]
    coords = [result.dataset.coords[a].values for a in axes]
    if not axes:
        return {(): COLOURS[0]}, {(): variable_label(result, name)}
    if len(axes) == 1 and _numeric(coords[0]) and not is_index(coords[0]) and len(keys) > 1:
        shades = sequential(len(keys))
        return dict(zip(keys, shades, strict=True)), {k: component_label(result, name, axes, k) for k in keys}
    if len(keys) <= len(COLOURS):
        return dict(zip(keys, COLOURS, strict=False)), {k: component_label(result, name, axes, k) for k in keys}
    latex = symbol(result, name)
    if any(b == a + "'" for a, b in itertools.combinations(axes, 2)):
        a = next(i for i, (u, v) in enumerate(itertools.pairwise(axes)) if v == u + "'")
        diagonal = {k: k[a] == k[a + 1] for k in keys}
        names = {
            True: f"${with_indices(latex, name, ['i', 'i'])}$",
            False: f"${with_indices(latex, name, ['i', 'j'])}$ ($i<j$)",
        }
        return {k: COLOURS[0 if diagonal[k] else 1] for k in keys}, {k: names[diagonal[k]] for k in keys}
    last = len(coords[-1])
    if len(axes) >= 2 and last <= len(COLOURS) and is_index(coords[-1]):
        free = ["i", "j", "k", "l"][: len(axes) - 1]
        return (
            {k: COLOURS[k[-1]] for k in keys},
            {k: f"${with_indices(latex, name, [*free, str(k[-1] + 1)])}$" for k in keys},
        )
    # Too many to name: shades from the first to the last, which are named.
    shades = sequential(len(keys))
    texts = {k: component_label(result, name, axes, k) if k in (keys[0], keys[-1]) else "" for k in keys}
    return dict(zip(keys, shades, strict=True)), texts


def sequential(count: int) -> list[str]:
    """Return `count` colours from dark to light of a perceptually uniform map, none too pale for print."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](0.88 * i / max(count - 1, 1))) for i in range(count)]


def _log_axis(values: Array) -> bool:
    """Return whether a grid is spaced geometrically enough for a logarithmic axis."""
    x = np.asarray(values, dtype=float)
    if np.any(x < 0):
        return False
    x = x[np.isfinite(x) & (x > 0)]
    if len(x) < 4:
        return False
    gaps = np.diff(x)
    return bool(x[-1] / x[0] >= 10 and np.all(gaps > 0) and gaps[-1] / gaps[0] > 6)


def _log_values(name: str, series: list[Series]) -> bool:
    values = np.concatenate([s.y[np.isfinite(s.y)] for s in series]) if series else np.zeros(0)
    return bool(len(values) and _LOGARITHMIC.search(name) and values.min() > 0 and values.max() / values.min() >= 30)


def _maps(result: Result, name: str) -> list[Panel]:
    """Return one map a component over the two longest swept parameters, at the end of any other grid."""
    data = result.dataset
    x, y = sorted(grid_axes(result), key=lambda a: -data.sizes[a])[:2]
    x, y = sorted((x, y), key=grid_axes(result).index)

    def ends_last(a: str) -> bool:
        values = data.coords[a].values
        return a in grid_axes(result) or (_numeric(values) and not is_index(values))

    ends = {str(a): -1 for a in data[name].dims if a not in (x, y) and ends_last(str(a))}
    axes = [str(a) for a in data[name].dims if a not in (x, y, *ends)]
    panels = []
    for index in itertools.islice(itertools.product(*(range(data.sizes[a]) for a in axes)), 4):
        values = data[name].isel({**ends, **dict(zip(axes, index, strict=True))}).transpose(y, x).values
        label = component_label(result, name, axes, index) if axes else variable_label(result, name)
        at = "".join(f", {axis_label(a)} = {format_coordinate(data.coords[a].values[-1])}" for a in ends)
        panels.append(
            Panel(
                name,
                x,
                axis_label(x),
                axis_label(y),
                _log_axis(data.coords[x].values),
                _log_axis(data.coords[y].values),
                map_x=np.asarray(data.coords[x].values, float),
                map_y=np.asarray(data.coords[y].values, float),
                map_z=np.asarray(values, float),
                z_label=label + at,
            )
        )
    return panels
