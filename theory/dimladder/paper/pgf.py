"""The same plan as pgfplots source that reads the CSV files: fonts and sizes are then those of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..results import Result
from .draw import STYLES
from .plan import Panel, Plan, Series, size_axis
from .sheets import Sheet, file_name, to_csv
from .tex import escape, render

_DASHES = ("solid", "densely dashed", "densely dotted", "dash dot")
_MARKS = ("*", "square*", "diamond*", "triangle*", "pentagon*", "oplus*")


def pgfplots(
    plan: Plan, results: Sequence[Result], stems: Sequence[str], style: str, note: str
) -> tuple[str, dict[str, str]]:
    """Return the tikzpicture and the CSV files of its maps (curves read the files of `sheets`).

    Parameters
    ----------
    plan : Plan
    results, stems : sequences
        The results the plan was made of, and what their files are called.
    style : str
        Its width sets the size of the picture.
    note : str
        One line about where the numbers come from, put in a comment.
    """
    width, across = STYLES.get(style, STYLES["single"])
    count = len(plan.panels)
    across = 2 if across == 3 and count == 4 else min(across, count)
    extra: dict[str, str] = {}
    panels: list[dict[str, Any]] = []
    for position, panel in enumerate(plan.panels):
        if panel.map_z is not None:
            name = f"map{position + 1}_{panel.variable}.csv"
            extra[name] = to_csv(_map_sheet(panel))
            panels.append(
                {"options": _map_options(panel, name), "plots": [], "map": _map_plot(panel, name), "legend_title": ""}
            )
        else:
            plots = _plots(panel, results, stems)
            panels.append(
                {"options": _options(panel), "plots": plots, "map": "", "legend_title": _tex(panel.legend_title)}
            )
    colours = list(dict.fromkeys(s.colour for p in plan.panels for s in p.series))
    shared = [
        {"style": f"darkgray, {_DASHES[i % 4]}, thick", "label": _tex(t)} for i, t in enumerate(plan.theory_labels)
    ]
    if plan.limit_label:
        shared.append({"style": "darkgray, densely dotted", "label": _tex(plan.limit_label)})
    for i, text in enumerate(plan.size_labels):
        fill = _fill(i == len(plan.size_labels) - 1, "darkgray")
        mark = f"darkgray, only marks, mark={_MARKS[i % 6]}, mark options={{{fill}}}"
        shared.append({"style": mark, "label": _tex(text)})
    rows = -(-count // across)
    maps = any(p.map_z is not None for p in plan.panels)
    body = render(
        "figure.tex",
        note=note,
        panels=panels,
        across=across,
        rows=rows,
        separation="1.6in" if maps else "0.62in",
        panel_width=f"{width / across - (1.05 if maps else 0.28):.3f}in",
        panel_height=f"{0.62 * width / across:.3f}in",
        colours=[(colour_name(c), c.lstrip("#")) for c in colours],
        shared=shared if len(shared) > 1 else [],
        shared_columns=min(len(shared), max(1, int(width // 0.8))),
    )
    return body, extra


def colour_name(colour: str) -> str:
    """Return the name under which a colour is defined in the LaTeX source."""
    return "dl" + colour.lstrip("#").upper()


def _fill(solid: bool, colour: str) -> str:
    return f"solid, fill={colour}" if solid else f"solid, fill={colour}!25"


def _tex(label: str) -> str:
    """Escape the words of a label and leave its mathematics alone."""
    return "".join(f"${part}$" if i % 2 else escape(part) for i, part in enumerate(label.split("$")))


def _options(panel: Panel) -> list[str]:
    options = [f"xlabel={{{_tex(panel.x_label)}}}", f"ylabel={{{_tex(panel.y_label)}}}"]
    options += ["xmode=log"] * panel.x_log + ["ymode=log"] * panel.y_log
    if panel.categories:
        ticks = ",".join(str(i) for i in range(len(panel.categories)))
        names = ",".join("{" + escape(c) + "}" for c in panel.categories)
        options += [f"xtick={{{ticks}}}", f"xticklabels={{{names}}}"]
        options += ["x tick label style={rotate=90}"] * (len(panel.categories) > 4)
    labels = [s.label for s in panel.series if s.label]
    if panel.counted:
        options.append("xtick=data" if len(panel.series) == 1 else "xtick distance=1")
    if panel.legend_title:
        labels.append(panel.legend_title)
    if len(labels) > 1:
        options.append(f"legend columns={min(4, len(labels))}")
    return options


def _plots(panel: Panel, results: Sequence[Result], stems: Sequence[str]) -> list[dict[str, Any]]:
    marks = {s.style for s in panel.series if s.kind == "simulation"}
    plots = []
    for s in panel.series:
        result = results[s.source]
        name = colour_name(s.colour)
        x = r"x expr=\coordindex" if panel.categories else f"x={panel.x_name}"
        size = size_axis(result)
        at = None
        if s.kind == "simulation" and size != panel.x_name and size is not None:
            at = _size_of(s, panel, result, size)
        file = file_name(result, stems[s.source], panel.x_name, at)
        if s.kind == "theory":
            style = f"{name}, thick, {_DASHES[s.style % 4]}"
            table = f"{x}, y={s.column}"
            limit = s.y[~np.isfinite(s.x)]
            if panel.categories:
                style = f"{name}, only marks, mark=-, mark size=4pt, very thick"
            elif panel.counted:
                style += ", mark=*, mark options={solid}"
            elif s.stairs:
                style += ", const plot"
        else:
            fill = _fill(s.style == max(marks), name)
            style = f"{name}, only marks, mark={_MARKS[s.style % 6]}, mark options={{{fill}}}"
            table = f"{x}, y={s.column}"
            if s.se is not None:
                style += ", error bars/y dir=both, error bars/y explicit"
                table += f", y error={s.column}_se"
            limit = s.y[:0]
        plots.append(
            {"style": style, "table": table, "file": file, "label": _tex(s.label) if s.label else "",
             "limits": [f"{v:.8g}" for v in limit if np.isfinite(v)], "colour": name}
        )  # fmt: skip
    return plots


def _size_of(s: Series, panel: Panel, result: Result, size: str) -> Any:
    values = result.dataset.coords[size].values
    # Styles number the sizes of all measurements in the order met; within one result they are consecutive.
    styles = sorted({t.style for t in panel.series if t.kind == "simulation" and t.source == s.source})
    return values[styles.index(s.style)]


def _map_sheet(panel: Panel) -> Sheet:
    assert panel.map_x is not None
    assert panel.map_y is not None
    assert panel.map_z is not None
    x, y = np.meshgrid(panel.map_x, panel.map_y)
    return {"x": x.ravel(), "y": y.ravel(), "z": panel.map_z.ravel()}


def _map_options(panel: Panel, name: str) -> list[str]:
    return [
        *_options(panel),
        "colorbar",
        "colormap/viridis",
        f"colorbar style={{axis y line*=right, axis x line*=box, width=6pt, ylabel={{{_tex(panel.z_label)}}}}}",
        "enlargelimits=false",
    ]


def _map_plot(panel: Panel, name: str) -> str:
    assert panel.map_x is not None
    options = f"matrix plot*, mesh/cols={len(panel.map_x)}, point meta=explicit"
    return rf"\addplot[{options}] table[x=x, y=y, meta=z, col sep=comma]{{{name}}};"


def standalone(body: str, packages: Mapping[str, str] | None = None) -> str:
    """Return a document that compiles by itself and shows `body` (a file name to input)."""
    return render("standalone.tex", body=body, packages=dict(packages or {}))
