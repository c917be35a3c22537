"""A plan drawn by matplotlib: theory as lines, simulation as markers with error bars of the same colour."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError, did_you_mean
from ..results import Result, write_atomically
from .labels import Names, drawable
from .plan import Panel, Plan, Series, make
from .tex import words

LINES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)))
MARKERS = "osD^vP"
# Name -> (width in inches, panels side by side).
STYLES = {"single": (3.375, 1), "double": (7.0, 3), "neurips": (5.5, 2), "slides": (10.0, 2)}
# Widths of LaTeX's article at 10 pt: a column of two (that of REVTeX is 3.375 in), and the text of one.
WIDTHS = {"column": 3.17, "text": 4.77}
UNITS = {"in": 1.0, "": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}
NARROWEST, WIDEST = 1.5, 20.0
MAX_MARKS = 25


def inches_of(width: str | float) -> float:
    """Return a width in inches: ``column``, ``text``, a number, or one with a unit (in, cm, mm, pt).

    Raises
    ------
    UsageError
        For anything else, and for widths that no page has.
    """
    text = str(width).strip().lower()
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(in|cm|mm|pt|)", text)
    if text not in WIDTHS and found is None:
        raise UsageError(
            f"cannot read the width {width!r}", where="--width",
            hint="write column, text, inches such as 3.25, or a length such as 8.6cm or 246pt",
        )  # fmt: skip
    inches = WIDTHS[text] if found is None else float(found[1]) * UNITS[found[2]]
    if not NARROWEST <= inches <= WIDEST:
        raise UsageError(
            f"a figure of {inches:.3g} in is no figure for a page", where="--width",
            hint=f"between {NARROWEST:g} and {WIDEST:g} in",
        )  # fmt: skip
    return inches


def layout_of(style: str, width: str | float | None = None) -> tuple[list[str], float, int]:
    """Return the style sheets, the width in inches and the panels a row; `width` takes the place of the style's own."""
    sheets, inches, across = style_files(style)
    if width is None:
        return sheets, inches, across
    inches = inches_of(width)
    return sheets, inches, _across(inches)


def _across(inches: float) -> int:
    return 1 if inches < 4.5 else 2 if inches < 6.5 else 3


def style_files(style: str) -> tuple[list[str], float, int]:
    """Return the style sheets, the width and the panels a row of a style: one of `STYLES` or a ``.mplstyle`` file."""
    folder = Path(__file__).parent / "templates"
    base = str(folder / "base.mplstyle")
    if style in STYLES:
        width, across = STYLES[style]
        return [base] + ([str(folder / "slides.mplstyle")] if style == "slides" else []), width, across
    if Path(style).is_file():
        import matplotlib as mpl

        settings = mpl.rc_params_from_file(style, use_default_template=False)
        size = settings.get("figure.figsize", [STYLES["single"][0], 0])
        return [base, style], float(size[0]), _across(size[0])
    raise UsageError(
        f"there is no style {style!r}", where="--style", hint=did_you_mean(style, STYLES) + "; or a .mplstyle file"
    )


def sheets_of(style: str = "double") -> list[str]:
    """Return the style sheets of a style, for ``matplotlib.pyplot.style.use``: pictures of your own look like ours.

    Parameters
    ----------
    style : str
        ``single``, ``double``, ``neurips``, ``slides``, or the path of a ``.mplstyle`` file.

    Raises
    ------
    UsageError
        For an unknown style.
    """
    return style_files(style)[0]


def key(figure: Any, theory: str = "theory", simulation: str = "simulation") -> None:
    """Say below a matplotlib figure what lines and markers are.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    theory, simulation : str
        What a line, and what a marker, is; an empty text leaves that one out.
    """
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color="0.25", label=theory)] if theory else []
    handles += [Line2D([], [], color="0.25", ls="", marker="o", ms=3.2, label=simulation)] if simulation else []
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def panels_across(most: int, count: int) -> int:
    """Return how many panels stand side by side: at most `most`, but no column of more than two."""
    if most == 3 and count == 4:
        return 2
    return min(max(most, 2) if count > 2 else most, count)


def figure(
    results: Sequence[Result],
    *,
    variables: Sequence[str] | None = None,
    style: str = "single",
    names: Names | None = None,
    lines: Mapping[int, Result] | None = None,
    width: str | float | None = None,
) -> Any:
    """Return a matplotlib figure of theories and measurements.

    Parameters
    ----------
    results : sequence of Result
    variables : sequence of str, optional
        One panel each, in this order.
    style : str
        ``single`` (3.375 in, one column), ``double`` (7 in, two columns), ``neurips`` (5.5 in), ``slides``, or the path
        of a ``.mplstyle`` file, which is applied on top of the base style.
    names : Names, optional
        How variables and coordinates are typeset.
    lines : mapping, optional
        Position of a theory -> the same theory at more points, of which its line is drawn.
    width : str or float, optional
        Of the figure, instead of the style's: ``column``, ``text``, inches, or a length such as ``8.6cm``.
    """
    return draw(make(results, variables, names, lines), style, width)


def draw(plan: Plan, style: str = "single", width: str | float | None = None) -> Any:
    """Draw a plan; see `figure`."""
    from matplotlib import style as sheet
    from matplotlib.figure import Figure

    sheets, inches, across = layout_of(style, width)
    with sheet.context(sheets):
        count = len(plan.panels)
        across = panels_across(across, count)
        down = math.ceil(count / across)
        each = inches / across
        tall = max((_legend_rows(p, each) for p in plan.panels), default=0)
        height = (
            down * (max(0.66 * each, 1.45) + 0.14 * tall) + (0.3 if _shared(plan) else 0.0) + 0.13 * bool(plan.runs)
        )
        fig = Figure(figsize=(inches, height), layout="constrained")
        _styled_canvas(fig, sheets)
        axes = fig.subplots(down, across, squeeze=False)
        for position, panel in enumerate(plan.panels):
            ax = axes.flat[position]
            _draw_map(fig, ax, panel) if panel.map_z is not None else _draw_panel(ax, panel)
            if count > 1:
                ax.annotate(
                    f"({'abcdefghijkl'[position]})", (0, 1), xycoords="axes fraction", xytext=(-0.4, 0.35),
                    textcoords="offset fontsize", ha="right", va="bottom",
                )  # fmt: skip
        for ax in axes.flat[count:]:
            ax.remove()
        _shared_legend(fig, plan)
        # Draw once inside the style, so that late settings (fonts, ticks) are those of the style too.
        fig.canvas.draw()
    return fig


def _styled_canvas(fig: Any, sheets: Any) -> None:
    """Give a figure a canvas that keeps its style: matplotlib looks fonts up when it writes, not when it draws."""
    from matplotlib import style as sheet
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    class Canvas(FigureCanvasAgg):  # type: ignore[misc]
        def print_figure(self, *args: Any, **options: Any) -> Any:
            with sheet.context(sheets):
                return super().print_figure(*args, **options)

    Canvas(fig)


def save(fig: Any, target: Path, style: str = "single", dpi: int = 220) -> Path:
    """Write a figure atomically; the suffix decides the format. No date is kept: equal data give equal files."""
    from matplotlib import style as sheet

    metadata: dict[str, Any] = (
        {"Creator": None, "Producer": None, "CreationDate": None} if target.suffix == ".pdf" else {}
    )
    with sheet.context(style_files(style)[0]):
        write_atomically(target, lambda t: fig.savefig(t, format=target.suffix[1:], dpi=dpi, metadata=metadata))
    return target


def _legend_rows(panel: Panel, inches: float) -> int:
    labels = [s.label for s in panel.series if s.label]
    if len(labels) < 2:
        return 0
    return math.ceil(len(labels) / _legend_columns(labels, inches)) + bool(panel.legend_title)


def _legend_columns(labels: list[str], inches: float) -> int:
    widest = max(_visible(label) for label in labels)
    entry = 0.26 + 0.055 * widest if _compact(inches) else 0.42 + 0.062 * widest
    return int(min(len(labels), max(1, (inches - 0.6) // entry)))


def _compact(inches: float) -> bool:
    """Return whether a panel is so narrow that its legend has short lines."""
    return inches < 2.2


def _visible(label: str) -> int:
    return len(re.sub(r"\\[A-Za-z]+|[${}_^\\]", "", label))


def _draw_panel(ax: Any, panel: Panel) -> None:
    handles, names = [], []
    styles = {s.style for s in panel.series if s.kind == "simulation"}
    for s in panel.series:
        s = _visible_part(s, panel)
        handle = _line(ax, s, panel) if s.kind == "theory" else _marks(ax, s, panel, last=s.style == max(styles))
        if s.label:
            handles.append(handle)
            names.append(drawable(s.label, words(panel.variable)))
    ax.autoscale_view()
    _scales(ax, panel)
    if panel.counted:
        ax.set_xticks(np.unique(np.concatenate([s.x for s in panel.series])))
    if panel.categories:
        ax.set_xlim(-0.6, len(panel.categories) - 0.4)
        ax.set_xticks(range(len(panel.categories)), panel.categories, rotation=0 if len(panel.categories) < 5 else 90)
    ax.set_xlabel(drawable(panel.x_label, words(panel.x_name)))
    ax.set_ylabel(drawable(panel.y_label, words(panel.variable)))
    if len(names) > 1:
        inches = ax.get_position().width * ax.figure.get_figwidth()
        # Above the axes: a legend inside would cover data sooner or later.
        ax.legend(
            handles, names, loc="lower left", bbox_to_anchor=(0.0, 1.01), ncols=_legend_columns(names, inches + 0.6),
            borderaxespad=0.0, **({"handlelength": 0.9, "columnspacing": 0.8} if _compact(inches + 0.6) else {}),
            title=drawable(panel.legend_title, "") or None, title_fontsize="small", alignment="left",
        )  # fmt: skip


def _scales(ax: Any, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis, logarithmic, limits in (
        (ax.xaxis, panel.x_log, ax.dataLim.intervalx), (ax.yaxis, panel.y_log, ax.dataLim.intervaly)
    ):  # fmt: skip
        if not logarithmic:
            continue
        (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)("log")
        low, high = limits
        if axis is ax.xaxis and low > 1e-3 and high < 1e4 and high / low < 500:
            # Fewer than three decades: plain numbers at 1, 2, 5 instead of two or three powers of ten.
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 120 else (1.0,)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def drawn_line(s: Series, panel: Panel) -> tuple[Any, Any]:
    """Return the points that a line of theory joins: the finer ones where they are known, none at infinity."""
    x, y = s.line if s.line is not None and not panel.counted else (s.x, s.y)
    # A logarithmic axis begins at the first point asked for, not at the first of a finer line.
    first = np.min(s.x[s.x > 0].astype(float), initial=np.inf)
    keep = np.isfinite(x) & ((x >= first) if panel.x_log else True)
    return x[keep], y[keep]


def _visible_part(s: Series, panel: Panel) -> Series:
    """Return the points that a logarithmic axis has room for: those with a positive coordinate."""
    keep = s.x > 0 if panel.x_log else np.ones(len(s.x), dtype=bool)
    return replace(s, x=s.x[keep], y=s.y[keep], se=None if s.se is None else s.se[keep])


def _line(ax: Any, s: Series, panel: Panel) -> Any:
    finite = np.isfinite(s.x)
    marker = "." if finite.sum() < 2 or panel.counted else ""
    x, y = drawn_line(s, panel)
    if panel.categories:
        # Categories have no order to join: a short bar at each.
        (handle,) = ax.plot(s.x, s.y, ls="", marker="_", ms=9, mew=1.4, color=s.colour, zorder=2)
        return handle
    (handle,) = ax.plot(
        x, y, ls=LINES[s.style % len(LINES)], color=s.colour, marker=marker, zorder=2,
        drawstyle="steps-post" if s.stairs else "default", lw=0.8 if panel.counted else None,
    )  # fmt: skip
    for y in s.y[~finite]:
        # The value at an infinite coordinate is the height the curve tends to.
        ax.axhline(y, ls=(0, (1, 2)), lw=0.7, color=s.colour, zorder=1)
        ax.update_datalim([(s.x[finite][-1], y)])
    if s.se is not None and np.nanmax(s.se, initial=0.0) > 0:
        ax.fill_between(
            s.x[finite], (s.y - s.se)[finite], (s.y + s.se)[finite], color=s.colour, alpha=0.2, lw=0, zorder=1
        )
    return handle


def drawn_marks(s: Series, panel: Panel) -> Any:
    """Return which points of a simulation have markers: finite ones, thinned evenly to `MAX_MARKS`."""
    picked = np.flatnonzero(np.isfinite(s.x) & np.isfinite(s.y) & ((s.x > 0) if panel.x_log else True))
    return picked[:: -(-len(picked) // MAX_MARKS)] if len(picked) > MAX_MARKS else picked


def _marks(ax: Any, s: Series, panel: Panel, last: bool) -> Any:
    from matplotlib.colors import to_rgb

    picked = drawn_marks(s, panel)
    # The largest size is filled; the smaller ones are pale inside, so that overlapping markers stay legible.
    pale = tuple(1 - 0.25 * (1 - c) for c in to_rgb(s.colour))
    se = None if s.se is None else np.where(np.isfinite(s.se), s.se, 0.0)[picked]
    return ax.errorbar(
        s.x[picked], s.y[picked], yerr=se, fmt=MARKERS[s.style % len(MARKERS)], color=s.colour,
        mfc=s.colour if last else pale, mec=s.colour, ms=3.2, mew=0.7, elinewidth=0.8, capsize=1.5, capthick=0.7,
        zorder=3,
    )  # fmt: skip


def _draw_map(fig: Any, ax: Any, panel: Panel) -> None:
    assert panel.map_x is not None
    assert panel.map_y is not None
    assert panel.map_z is not None
    from matplotlib.colors import LogNorm

    z = np.ma.masked_invalid(panel.map_z)
    positive = z.count() and z.min() > 0 and z.max() / z.min() > 100
    shown = ax.pcolormesh(
        panel.map_x,
        panel.map_y,
        z,
        cmap="viridis",
        shading="nearest",
        rasterized=True,
        norm=LogNorm() if positive else None,
    )
    # A failed point is a row of the sweep without a value: hatched, never hidden.
    ax.patch.set(facecolor="0.9", hatch="////", edgecolor="0.6")
    bar = fig.colorbar(shown, ax=ax, pad=0.02)
    bar.set_label(drawable(panel.z_label, words(panel.variable)))
    _scales(ax, panel)
    ax.set_xlabel(drawable(panel.x_label, words(panel.x_name)))
    ax.set_ylabel(drawable(panel.y_label, panel.y_label))


def _shared(plan: Plan) -> bool:
    kinds = {s.kind for p in plan.panels for s in p.series}
    return "simulation" in kinds or len(plan.theory_labels) > 1 or bool(plan.limit_label) or bool(plan.runs)


def named_runs(plan: Plan) -> list[tuple[str, str]]:
    """Return colour and label of the runs that a legend names: all, or five of a long ordered row."""
    if len(plan.runs) <= 10:
        return plan.runs
    picked = np.unique(np.linspace(0, len(plan.runs) - 1, 5).round().astype(int))
    return [plan.runs[i] for i in picked]


def _shared_legend(fig: Any, plan: Plan) -> None:
    from matplotlib.lines import Line2D

    if not _shared(plan):
        return
    if plan.runs:
        entries = [
            Line2D([], [], color=c, lw=2.4, solid_capstyle="butt", label=drawable(t, re.sub(r"[\\$]", "", t)))
            for c, t in named_runs(plan)
        ]
        fig.legend(handles=entries, loc="outside upper center", ncols=_columns(fig, entries))
    handles = []
    if any(s.kind == "theory" for p in plan.panels for s in p.series):
        handles = [
            Line2D([], [], color="0.25", ls=LINES[i % len(LINES)], label=drawable(label, f"theory {i + 1}"))
            for i, label in enumerate(plan.theory_labels)
        ]
    largest = len(plan.size_labels) - 1
    handles += [
        Line2D(
            [], [], color="0.25", ls="", marker=MARKERS[i % len(MARKERS)], ms=3.2, mew=0.7,
            mfc="0.25" if i == largest else "0.8", mec="0.25", label=drawable(label, label.strip("$")),
        )
        for i, label in enumerate(plan.size_labels)
    ]  # fmt: skip
    if plan.limit_label:
        text = drawable(plan.limit_label, "limit")
        handles.append(Line2D([], [], color="0.25", lw=0.7, ls=(0, (1, 2)), label=text))
    if len(handles) < 2:
        return
    columns = _columns(fig, handles)
    sizes = len(plan.size_labels)
    if len(plan.theory_labels) == sizes == columns and len(handles) == 2 * sizes:
        # Legends fill column by column: the line of each size, increasing, stands above its markers.
        handles = [h for pair in zip(handles[:sizes][::-1], handles[sizes:], strict=True) for h in pair]
    fig.legend(handles=handles, loc="outside lower center", ncols=columns)


def _columns(fig: Any, handles: Sequence[Any]) -> int:
    """Return the columns of a legend below or above the figure: rows of equal length that fit its width."""
    return legend_columns(fig.get_figwidth(), [str(h.get_label()) for h in handles])


def legend_columns(inches: float, labels: Sequence[str], entry: float = 0.34) -> int:
    """Return the most columns of which labels of these lengths fit into a width, in rows of equal length.

    `entry` is what a line and the spaces around it take, in inches.
    """
    widest = max(map(_visible, labels))
    most = max(1, int(inches // (entry + 0.058 * widest)))
    return math.ceil(len(labels) / math.ceil(len(labels) / most))
