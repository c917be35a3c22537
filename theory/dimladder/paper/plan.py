"""What a figure shows, before it is drawn: the same plan becomes a matplotlib figure and a pgfplots source."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..errors import UsageError, did_you_mean
from ..results import Measurement, Result, main_axis, short
from .axes import (
    Array,
    column_name,
    components,
    curve_axis,
    is_numeric,
    size_axis,
    statistical_names,
)  # fmt: skip
from .labels import Names, is_index, plain, with_indices
from .runs import Member, Runs, members, swept_keys

# Okabe and Ito's colours, which every kind of colour vision tells apart, in an order whose neighbours differ most.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MAX_PANELS = 6
_LOGARITHMIC = re.compile(r"error|risk|loss|cost|gap|eigenvalue|residual|norm")


@dataclass(frozen=True)
class Series:
    """One line of theory, or the markers of one simulated size.

    `style` counts the theories of a run (solid, dashed, ...) or simulated sizes (circle, square, ...). `label` stands
    in the legend of the panel and is empty when shown before; `component` and `run_label` are full names for tables.
    `line` is the theory at more points than were asked for: what is drawn, where it is known.
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
    run: int = 0
    run_label: str = ""
    told: str = ""
    stairs: bool = False
    line: tuple[Array, Array] | None = None


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
    runs: list[tuple[str, str]] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    # A map: two parameters and a value, instead of series.
    map_y: Array | None = None
    map_z: Array | None = None
    map_x: Array | None = None
    z_label: str = ""


@dataclass
class Plan:
    """A figure: its panels, and what all panels share: colour = run, line = theory, marker = size.

    `runs` holds colour and label of every run, empty where there is one; `left_out` says what is not drawn.
    """

    panels: list[Panel]
    runs: list[tuple[str, str]]
    theory_labels: list[str]
    size_labels: list[str]
    limit_label: str
    left_out: list[str]


def make(
    results: Sequence[Result],
    variables: Sequence[str] | None = None,
    names: Names | None = None,
    lines: Mapping[int, Result] | None = None,
) -> Plan:
    """Decide what to draw.

    Parameters
    ----------
    results : sequence of Result
        Any number of theories, measurements and sweeps of the same variables.
    variables : sequence of str, optional
        Names in the wanted order. Default: every variable with an axis, six panels at most.
    names : Names, optional
        How variables and coordinates are typeset.
    lines : mapping, optional
        Position of a theory -> the same theory at more points, of which its line is drawn.

    Raises
    ------
    UsageError
        For an unknown variable, when nothing can be drawn, or for a map of two parameters beside other results.
    """
    names = (names or Names()).of(results)
    known = list(dict.fromkeys(n for r in _theories_first(results) for n in r if n not in statistical_names(r)))
    for name in variables or ():
        if name not in known:
            raise UsageError(
                f"there is no variable {name!r} to draw", where="variables", hint=did_you_mean(name, known)
            )
    if len(results) > 1 and any(len(swept_keys(r)) > 1 for r in results):
        raise UsageError(
            "a map of two parameters leaves no room for other results", where="source",
            hint="export the sweep by itself, or sweep one parameter",
        )  # fmt: skip
    panels: list[Panel] = []
    left_out: list[str] = []
    for name in variables or _on_main_axis(results, known):
        having = [r for r in results if name in r and _drawable(r, name)]
        if having:
            panels += _panels(name, results, _theories_first(having)[0], names, lines or {}, left_out)
    if not panels:
        raise UsageError(
            "there is nothing to draw: no variable depends on a coordinate", hint="use the csv, tex or macros format"
        )
    if variables is None:
        left_out += [p.y_label for p in panels[MAX_PANELS:]]
        panels = panels[:MAX_PANELS]
        drawn = {p.variable for p in panels}
        left_out += [n for n in known if n not in drawn and any(n in r and _drawable(r, n) for r in results)]
    limits = [p.x_label for p in panels if any(not np.isfinite(s.x).all() for s in p.series)]
    sizes = _sizes(results)
    named = [f"${n} = {s}$" if len(n) == 1 else f"{names.axis(n)} = {s}" for n, s in sizes]
    limit = rf"{limits[0]} $\to\infty$" if limits else ""
    told = {s.style: s.told for p in panels for s in p.series if s.kind == "theory"}
    curves = ["theory"] if len(told) < 2 else [told[k] or "theory" for k in sorted(told)]
    if len(curves) > 1 and sizes:
        curves = [f"theory, {label}" for label in curves]
    return Plan(panels, _shared_runs(panels), curves, named, limit, list(dict.fromkeys(left_out)))


def _shared_runs(panels: list[Panel]) -> list[tuple[str, str]]:
    """Return the runs that the panels share; a panel with others names them in its own legend."""
    shared = next((p.runs for p in panels if p.runs), [])
    for panel in panels:
        if panel.runs and panel.runs != shared:
            first = {s.run: i for i, s in reversed(list(enumerate(panel.series)))}
            panel.series = [
                replace(s, label=s.run_label) if first[s.run] == i else s for i, s in enumerate(panel.series)
            ]
    return shared


def _on_main_axis(results: Sequence[Result], known: list[str]) -> list[str]:
    """Return the variables that share the axis most of them are drawn against."""
    axes = {}
    for name in known:
        first = next(r for r in _theories_first(results) if name in r)
        if _drawable(first, name):
            axes[name] = str(curve_axis(first, name))
    if not axes or any(len(swept_keys(r)) > 1 for r in results):
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
    return is_numeric(values) and curve_axis(result, name) is not None and bool(np.isfinite(values).any())


def _sizes(results: Sequence[Result]) -> list[tuple[str, Any]]:
    found = []
    for r in results:
        axis = size_axis(r)
        if axis:
            found += [(axis, v) for v in r.dataset.coords[axis].values.tolist()]
    return list(dict.fromkeys(found))


def _panels(
    name: str, results: Sequence[Result], first: Result, names: Names, lines: Mapping[int, Result], left_out: list[str]
) -> list[Panel]:
    if len(swept_keys(first)) >= 2 and set(swept_keys(first)) <= set(map(str, first.dataset[name].dims)):
        return _maps(first, name, names)
    axis = curve_axis(first, name)
    assert axis is not None
    found = [m for m in members(results, axis, name) if name in m.result]
    runs = Runs(found, names, axis)
    drawn = [m for m in found if _coordinate(m, name, axis) is not None]
    left_out += [f"{name} of {runs.label(m) or m.result.kind}" for m in found if m not in drawn]
    if all(m.result is not first for m in drawn):
        # All its points are told by theories of their own.
        first = drawn[0].result
    fixed = next(m.at for m in drawn if m.result is first)
    items = list(components(first, name, axis, fixed))
    axes = items[0][0]
    if len(runs) == 1:
        colours, labels = _colours(first, name, axis, fixed, names)
        panels = [(names.variable(first, name), [index for _, index, _ in items])]
        run_colours = [""]
    else:
        # Colour tells the runs apart, so every component has axes of its own.
        run_colours = _run_colours(runs)
        colours = dict.fromkeys((index for _, index, _ in items), "")
        labels = dict.fromkeys(colours, "")
        panels = [
            (names.component(first, name, axes, index) if axes else names.variable(first, name), [index])
            for _, index, _ in items
        ]
    return [
        _panel(
            name, label, axis, first, drawn, runs, run_colours, {k: colours[k] for k in picked}, labels, names, lines
        )
        for label, picked in panels
    ]


def _panel(
    name: str, y_label: str, axis: str, first: Result, drawn: Sequence[Member], runs: Runs, run_colours: Sequence[str],
    colours: dict[tuple[int, ...], str], labels: dict[tuple[int, ...], str], names: Names, lines: Mapping[int, Result],
) -> Panel:  # fmt: skip
    values = first.dataset.coords[axis].values
    panel = Panel(name, axis, names.axis(axis), y_label)
    if not is_numeric(values):
        panel.categories = tuple(map(str, values))
    elif len(values) <= 12 and np.issubdtype(values.dtype, np.integer) and np.all(np.diff(values) == 1):
        panel.counted = True
    others = [str(d) for d in first.dataset[name].dims if d not in (axis, size_axis(first), *drawn[0].at)]
    if len(others) == 1 and len(labels) > 1 and len(runs) == 1 and _spoken(first, others[0]):
        panel.legend_title = names.axis(others[0])
        at = first.dataset.coords[others[0]].values
        labels = {k: plain(at[k[0]]) if text else "" for k, text in labels.items()}
    if len(runs) > 1:
        panel.runs = list(zip(run_colours, runs.labels, strict=True))
    sizes = _sizes([m.result for m in drawn])
    kind = "simulation" if drawn[0].measured else "theory"
    shown: set[str] = set()
    # A measurement may know no symbols: its components are named as the first result names them.
    called: dict[str, str] = {}
    for member in drawn:
        for s in _series(member, name, axis, runs, sizes, colours, labels, names, lines.get(member.source)):
            once = s.label if s.label not in shown and s.kind == kind else ""
            shown.add(once)
            colour = run_colours[s.run] or s.colour
            panel.series.append(
                replace(s, label=once, component=called.setdefault(s.column, s.component), colour=colour)
            )
    labelled = [s for s in panel.series if s.label]
    if len(labelled) == 1:
        # A single curve is named by the axis.
        panel.series = [replace(s, label="") for s in panel.series]
        panel.y_label = labelled[0].label if labelled[0].label.startswith("$") else panel.y_label
    panel.x_log = not panel.categories and _log_axis(values)
    panel.y_log = _log_values(name, panel.series)
    return panel


def _coordinate(member: Member, name: str, axis: str) -> Array | None:
    """Return where a member's values lie on the axis: its own coordinate, or its parameter of that name."""
    data = member.result.dataset
    if axis in data[name].dims:
        x = data.coords[axis].values
        return x if is_numeric(x) else np.arange(len(x), dtype=float)
    value = member.parameters.get(axis)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return np.array([value], dtype=float) if number else None


def _run_colours(runs: Runs) -> list[str]:
    count = len(runs)
    return sequential(count) if count > len(COLOURS) or (runs.ordered and count > 2) else list(COLOURS[:count])


def _spoken(result: Result, axis: str) -> bool:
    values = result.dataset.coords[axis].values
    return is_numeric(values) and not is_index(values)


def _stairs(x: Array, y: Array) -> bool:
    """Return whether a curve is constant between isolated jumps, and so is drawn as a staircase."""
    if len(x) < 8 or not np.isfinite(y).all():
        return False
    jumps = np.abs(np.diff(y)) > 1e-12 * np.max(np.abs(y), initial=1e-300)
    return bool(jumps.any() and jumps.mean() <= 0.2 and not (jumps[1:] & jumps[:-1]).any())


def _series(
    member: Member, name: str, axis: str, runs: Runs, sizes: list[tuple[str, Any]], colours: dict[tuple[int, ...], str],
    labels: dict[tuple[int, ...], str], names: Names, dense: Result | None,
) -> Iterator[Series]:  # fmt: skip
    result, data, size = member.result, member.result.dataset, size_axis(member.result)
    x = _coordinate(member, name, axis)
    assert x is not None
    split = size is not None and size != axis and size in data[name].dims
    runs_of_sizes: list[int | None] = list(range(data.sizes[size])) if split else [None]
    whole = data[name].isel({k: i for k, i in member.at.items() if k in data[name].dims})
    told = runs.line_label(member)
    for axes, index, where in components(result, name, axis, member.at):
        if index not in colours:
            continue
        text = [short(data.coords[a].values[i]) for a, i in where.items()]
        full = names.component(result, name, axes, index) if where else names.variable(result, name)
        for run in runs_of_sizes:
            pick = where if run is None else {**where, str(size): run}
            y = np.atleast_1d(np.asarray(whole.isel(pick).values, dtype=float))
            se = None
            if name + "_se" in result:
                se = np.atleast_1d(np.asarray(data[name + "_se"].isel(pick).values, dtype=float))
            mark = (
                runs.line(member) if run is None else sizes.index((str(size), data.coords[size].values.tolist()[run]))
            )
            line = None
            if dense is not None and name in dense and axis in dense.dataset[name].dims:
                finer = dense.dataset[name].isel({k: i for k, i in member.at.items() if k in dense.dataset[name].dims})
                line = (
                    dense.dataset.coords[axis].values,
                    np.asarray(finer.isel(where).values, dtype=float),
                )
            yield Series(
                "simulation" if member.measured else "theory", x, y, se, colours[index], mark, labels[index], full,
                column_name(name, text), member.source, runs.index(member), runs.label(member), told,
                not member.measured and _stairs(x, y), line,
            )  # fmt: skip


def _colours(
    result: Result, name: str, axis: str, fixed: Iterable[str], names: Names
) -> tuple[dict[tuple[int, ...], str], dict[tuple[int, ...], str]]:
    """Return a colour and a label for each component: one each when few, one a group when many."""
    items = list(components(result, name, axis, fixed))
    axes = items[0][0]
    keys = [index for _, index, _ in items]
    coords = [result.dataset.coords[a].values for a in axes]
    if not axes:
        return {(): COLOURS[0]}, {(): names.variable(result, name)}
    if len(axes) == 1 and is_numeric(coords[0]) and not is_index(coords[0]) and len(keys) > 1:
        shades = sequential(len(keys))
        return dict(zip(keys, shades, strict=True)), {k: names.component(result, name, axes, k) for k in keys}
    if len(keys) <= len(COLOURS):
        return dict(zip(keys, COLOURS, strict=False)), {k: names.component(result, name, axes, k) for k in keys}
    latex = names.symbol(result, name)
    if any(b == a + "'" for a, b in itertools.combinations(axes, 2)):
        a = next(i for i, (u, v) in enumerate(itertools.pairwise(axes)) if v == u + "'")
        diagonal = {k: k[a] == k[a + 1] for k in keys}
        spoken = {
            True: f"${with_indices(latex, name, ['i', 'i'])}$",
            False: f"${with_indices(latex, name, ['i', 'j'])}$ ($i<j$)",
        }
        return {k: COLOURS[0 if diagonal[k] else 1] for k in keys}, {k: spoken[diagonal[k]] for k in keys}
    last = len(coords[-1])
    if len(axes) >= 2 and last <= len(COLOURS) and is_index(coords[-1]):
        free = ["i", "j", "k", "l"][: len(axes) - 1]
        return (
            {k: COLOURS[k[-1]] for k in keys},
            {k: f"${with_indices(latex, name, [*free, str(k[-1] + 1)])}$" for k in keys},
        )
    # Too many to name: shades from the first to the last, which are named.
    shades = sequential(len(keys))
    texts = {k: names.component(result, name, axes, k) if k in (keys[0], keys[-1]) else "" for k in keys}
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


def _maps(result: Result, name: str, names: Names) -> list[Panel]:
    """Return one map a component over the two longest swept parameters, at the end of any other grid."""
    data = result.dataset
    x, y = sorted(swept_keys(result), key=lambda a: -data.sizes[a])[:2]
    x, y = sorted((x, y), key=swept_keys(result).index)

    def ends_last(a: str) -> bool:
        values = data.coords[a].values
        return a in swept_keys(result) or (is_numeric(values) and not is_index(values))

    ends = {str(a): -1 for a in data[name].dims if a not in (x, y) and ends_last(str(a))}
    axes = [str(a) for a in data[name].dims if a not in (x, y, *ends)]
    panels = []
    for index in itertools.product(*(range(data.sizes[a]) for a in axes)):
        values = data[name].isel({**ends, **dict(zip(axes, index, strict=True))}).transpose(y, x).values
        label = names.component(result, name, axes, index) if axes else names.variable(result, name)
        at = "".join(f", {names.axis(a)} = {short(data.coords[a].values[-1])}" for a in ends)
        panels.append(
            Panel(
                name,
                x,
                names.axis(x),
                names.axis(y),
                _log_axis(data.coords[x].values),
                _log_axis(data.coords[y].values),
                map_x=np.asarray(data.coords[x].values, float),
                map_y=np.asarray(data.coords[y].values, float),
                map_z=np.asarray(values, float),
                z_label=label + at,
            )
        )
    return panels
