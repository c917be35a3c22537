"""The same plan as pgfplots source: the same points and legends, in the fonts and sizes of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..typeset.words import escape, label_tex
from .draw import drawn_line, drawn_marks, layout_of, legend_columns, named_runs, panels_across
from .plan import Panel, Plan
from .sheets import Sheet, to_csv
from .tex import render

_DASHES = ("solid", "densely dashed", "densely dotted", "dash dot")
# Inches that a picture keeps beside its axes: labels at the left, at the right, between panels; with bars of colour.
_LEFT, _RIGHT, _BETWEEN = 0.5, 0.08, 0.62
_BAR, _BETWEEN_MAPS = 0.95, 1.6
# Inches of an entry of a panel's legend, whose lines are short, without its text; of a row of it.
_ENTRY, _ROW = 0.3, 0.14
_MARKS = ("*", "square*", "diamond*", "triangle*", "pentagon*", "oplus*")


def pgfplots(plan: Plan, style: str, note: str, width: str | float | None = None) -> tuple[str, dict[str, str]]:
    """Return the tikzpicture, and the CSV file of each panel: what is drawn, and nothing else.

    Parameters
    ----------
    plan : Plan
    style : str
        Its width sets the size of the picture.
    note : str
        One line about where the numbers come from, put in a comment.
    width : str or float, optional
        Instead of that of the style.
    """
    _, inches, across = layout_of(style, width)
    across = panels_across(across, len(plan.panels))
    maps = any(p.map_z is not None for p in plan.panels)
    between = _BETWEEN_MAPS if maps else _BETWEEN
    wide = (inches - _LEFT - (_BAR if maps else _RIGHT) - (across - 1) * between) / across
    files: dict[str, str] = {}
    panels: list[dict[str, Any]] = []
    for position, panel in enumerate(plan.panels):
        name = f"figure_{'abcdefghijkl'[position % 12]}.csv" if position < 12 else f"figure_{position + 1}.csv"
        if panel.map_z is not None:
            files[name] = to_csv(_map_sheet(panel))
            panels.append(
                {"options": _map_options(panel), "plots": [], "map": _map_plot(panel, name), "legend_title": ""}
            )
        else:
            plots, sheet = _plots(panel, name)
            files[name] = to_csv(sheet)
            panels.append(
                {"options": _options(panel, wide), "plots": plots, "map": "",
                 "legend_title": label_tex(panel.legend_title)}
            )  # fmt: skip
    colours = list(dict.fromkeys([s.colour for p in plan.panels for s in p.series] + [c for c, _ in plan.runs]))
    rows = max((_legend_rows(p, wide) for p in plan.panels[across:]), default=0)
    runs = [
        {"style": f"{colour_name(c)}, line width=1.6pt, no marks", "label": label_tex(t)} for c, t in named_runs(plan)
    ]
    shared = _shared(plan)
    body = render(
        "figure.tex",
        note=note,
        panels=panels,
        across=across,
        rows=-(-len(plan.panels) // across),
        left=f"{_LEFT}in",
        right=f"{_BAR if maps else _RIGHT}in",
        separation=f"{between}in",
        vertical=f"{0.6 + _ROW * rows:.2f}in",
        panel_width=f"{wide:.3f}in",
        panel_height=f"{max(0.66 * wide, 0.85):.3f}in",
        colours=[(colour_name(c), c.lstrip("#").upper()) for c in colours],
        shared=shared if len(shared) > 1 else [],
        shared_columns=legend_columns(inches, [e["label"] for e in shared]) if shared else 1,
        runs=runs,
        runs_columns=legend_columns(inches, [e["label"] for e in runs]) if runs else 1,
    )
    return body, files


def _shared(plan: Plan) -> list[dict[str, str]]:
    """Return the entries of the legend below: line = theory, marker = size."""
    shared = []
    if any(s.kind == "theory" for p in plan.panels for s in p.series):
        shared += [
            {"style": f"darkgray, {_DASHES[i % 4]}, thick", "label": label_tex(t)}
            for i, t in enumerate(plan.theory_labels)
        ]
    if plan.limit_label:
        shared.append({"style": "darkgray, densely dotted", "label": label_tex(plan.limit_label)})
    for i, text in enumerate(plan.size_labels):
        fill = _fill(i == len(plan.size_labels) - 1, "darkgray")
        mark = f"darkgray, only marks, mark={_MARKS[i % 6]}, mark options={{{fill}}}"
        shared.append({"style": mark, "label": label_tex(text)})
    return shared


def colour_name(colour: str) -> str:
    """Return the name under which a colour is defined in the LaTeX source."""
    return "dl" + colour.lstrip("#").upper()


def _fill(solid: bool, colour: str) -> str:
    return f"solid, fill={colour}" if solid else f"solid, fill={colour}!25"


def _options(panel: Panel, inches: float) -> list[str]:
    options = [f"xlabel={{{label_tex(panel.x_label)}}}", f"ylabel={{{label_tex(panel.y_label)}}}"]
    options += ["xmode=log"] * panel.x_log + ["ymode=log"] * panel.y_log
    if panel.categories:
        ticks = ",".join(str(i) for i in range(len(panel.categories)))
        names = ",".join("{" + escape(c) + "}" for c in panel.categories)
        options += [f"xtick={{{ticks}}}", f"xticklabels={{{names}}}"]
        options += ["x tick label style={rotate=90}"] * (len(panel.categories) > 4)
    if panel.counted:
        options.append("xtick=data" if len(panel.series) == 1 else "xtick distance=1")
    labels = _legend_labels(panel)
    if len(labels) > 1:
        options.append(f"legend columns={legend_columns(inches, labels, _ENTRY)}")
    return options


def _legend_labels(panel: Panel) -> list[str]:
    labels = [s.label for s in panel.series if s.label]
    return [*labels, panel.legend_title] if panel.legend_title else labels


def _legend_rows(panel: Panel, inches: float) -> int:
    labels = _legend_labels(panel)
    return -(-len(labels) // legend_columns(inches, labels, _ENTRY)) if len(labels) > 1 else 0


def _plots(panel: Panel, file: str) -> tuple[list[dict[str, Any]], Sheet]:
    marks = {s.style for s in panel.series if s.kind == "simulation"}
    plots, sheet = [], Sheet()
    for number, s in enumerate(panel.series, start=1):
        name, x, y = colour_name(s.colour), f"x{number}", f"y{number}"
        table = f"x={x}, y={y}"
        limit = s.y[~np.isfinite(s.x)] if s.kind == "theory" else s.y[:0]
        if s.kind == "theory":
            sheet[x], sheet[y] = (s.x, s.y) if panel.categories else drawn_line(s, panel)
            style = f"{name}, thick, {_DASHES[s.style % 4]}"
            if panel.categories:
                style = f"{name}, only marks, mark=-, mark size=4pt, very thick"
            elif panel.counted or len(sheet[x]) < 2:
                style += ", mark=*, mark options={solid}"
            elif s.stairs:
                style += ", const plot"
        else:
            at = drawn_marks(s, panel)
            sheet[x], sheet[y] = s.x[at], s.y[at]
            fill = _fill(s.style == max(marks), name)
            style = f"{name}, only marks, mark={_MARKS[s.style % 6]}, mark options={{{fill}}}"
            if s.se is not None:
                sheet[f"e{number}"] = np.where(np.isfinite(s.se[at]), s.se[at], 0.0)
                style += ", error bars/y dir=both, error bars/y explicit"
                table += f", y error=e{number}"
        plots.append(
            {"style": style, "table": table, "file": file, "label": label_tex(s.label) if s.label else "",
             "limits": [f"{v:.8g}" for v in limit if np.isfinite(v)], "colour": name}
        )  # fmt: skip
    return plots, sheet


def _map_sheet(panel: Panel) -> Sheet:
    assert panel.map_x is not None
    assert panel.map_y is not None
    assert panel.map_z is not None
    x, y = np.meshgrid(panel.map_x, panel.map_y)
    return {"x": x.ravel(), "y": y.ravel(), "z": panel.map_z.ravel()}


def _map_options(panel: Panel) -> list[str]:
    return [
        *_options(panel, 3.0),
        "colorbar",
        "colormap/viridis",
        f"colorbar style={{axis y line*=right, axis x line*=box, width=6pt, ylabel={{{label_tex(panel.z_label)}}}}}",
        "enlargelimits=false",
    ]


def _map_plot(panel: Panel, name: str) -> str:
    assert panel.map_x is not None
    options = f"matrix plot*, mesh/cols={len(panel.map_x)}, point meta=explicit"
    return rf"\addplot[{options}] table[x=x, y=y, meta=z, col sep=comma]{{{name}}};"


def standalone(body: str, packages: Mapping[str, str] | None = None) -> str:
    """Return a document that compiles by itself and shows `body` (a file name to input)."""
    return render("standalone.tex", body=body, packages=dict(packages or {}))
