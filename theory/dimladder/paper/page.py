"""One self-contained page about a result: curves to zoom into, equations, verdict, provenance, data to take along."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import ResultFileError
from ..results import Result
from ..typeset import lines, mathml
from ..typeset.words import label_html
from .citation import cite
from .labels import Names
from .plan import COLOURS, Panel, Plan, make
from .sheets import sheets, stems, to_csv
from .tables import scalars
from .tex import render

VERDICTS = {"agree": COLOURS[2], "disagree": COLOURS[1], "inconclusive": COLOURS[4]}
# Width of a line of the page, in em of its formulas.
PAGE = 46.0
SIGNS = {"theory": "—┄┈┅", "simulation": "○■◆▲"}


def page(
    results: Sequence[Result],
    equations: Sequence[tuple[str, str, str]],
    *,
    folder: Path | None = None,
    variables: Sequence[str] | None = None,
    names: Names | None = None,
    lines: Mapping[int, Result] | None = None,
    notation: str = "",
) -> str:
    """Return the page as HTML that needs no other file and no network.

    Parameters
    ----------
    results : sequence of Result
        Theories and measurements.
    equations : sequence of (label, LaTeX, note)
    folder : path, optional
        Run folder of a comparison, whose verdict is shown; of one along a grid the verdicts of its points.
    variables, names, lines
        As in `dimladder.paper.figure`.
    notation : str
        What the symbols of the equations mean, as an HTML table.
    """
    first = results[0]
    plan = make(results, variables, names, lines)
    panels = [p for p in plan.panels if p.map_z is None]
    shown = [_panel(k, p, plan) for k, p in enumerate(panels)]
    comparison = comparison_of(folder)
    return render(
        "report.html",
        title=first.title or first.theory,
        subtitle=f"{first.theory}, {', '.join(sorted({r.kind.replace('-', ' ') for r in results}))}",
        verdict=_verdict(comparison),
        panels=[html for html, _ in shown],
        tables=judged(comparison) or _points(folder),
        numbers=[[label_html(label), _number(v, se)] for _, label, v, se in scalars(results, names)],
        equations=[{"label": a, "lines": _lines(b), "note": c} for a, b, c in equations],
        notation=notation,
        problem=first.problem_toml,
        files=_files(results),
        provenance=provenance_rows(first),
        bibtex=cite(results).bibtex,
        **script([data for _, data in shown]),
    )


def panels_of(
    results: Sequence[Result], offset: int = 0, variables: Sequence[str] | None = None
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return what the template shows of every curve, and the numbers that its script draws.

    `offset` is how many panels stand before them on the page.
    """
    plan = make(results, variables, None, None)
    panels = [p for p in plan.panels if p.map_z is None]
    return [_panel(offset + k, p, plan) for k, p in enumerate(panels)]


def script(data: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the script of a page, and its numbers as text."""
    return {
        # Data inside of a script: no text of a file may end it.
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "script": files("dimladder.paper").joinpath("templates/report.js").read_text(encoding="utf-8"),
    }


def provenance_rows(result: Result) -> list[list[str]]:
    """Return where a result comes from, as rows of a table."""
    return [[k, v if isinstance(v, str) else json.dumps(v)] for k, v in result.provenance.items()]


def _panel(number: int, panel: Panel, plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    series = []
    colours: dict[str, str] = {}
    signs: dict[str, str] = {}
    for s in panel.series:
        x, y = s.line if s.line is not None else (s.x, s.y)
        name = ", ".join(t for t in (s.component, s.run_label) if t)
        colours.setdefault(name, s.colour)
        points = {"x": _plain(x), "y": _plain(y), "se": None if s.se is None else _plain(s.se)}
        series.append({"kind": s.kind, "colour": s.colour, "style": s.style, "name": name, **points})
        told = plan.size_labels if s.kind == "simulation" else plan.theory_labels
        if s.style < len(told):
            signs.setdefault(told[s.style], SIGNS[s.kind][s.style % len(SIGNS[s.kind])])
    legend = [{"colour": c, "sign": "●", "html": label_html(n)} for n, c in colours.items() if len(colours) > 1]
    legend += [{"colour": "inherit", "sign": sign, "html": label_html(n)} for n, sign in signs.items()]
    html = {"x_html": label_html(panel.x_label), "y_html": label_html(panel.y_label), "legend": legend}
    logs = {"x_log": bool(panel.x_log), "y_log": bool(panel.y_log)}
    return html, {"id": number, "name": panel.variable, "series": series, **logs}


def _lines(latex: str) -> list[str]:
    """Return a formula as lines of MathML that fit the page."""
    return [mathml(line, display=True) for line in lines(latex, PAGE)]


def _plain(values: Any) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values]


def _number(value: float, se: float) -> str:
    return f"{value:.6g}" if not math.isfinite(se) else f"{value:.6g} ± {se:.2g}"


def comparison_of(folder: Path | None) -> dict[str, Any]:
    """Return the stored comparison of a run folder; empty where there is none."""
    file = None if folder is None else folder / "comparison.json"
    if file is None or not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ResultFileError("the comparison cannot be read", where=str(file), why=str(error)) from None


def _verdict(comparison: Mapping[str, Any]) -> dict[str, Any] | None:
    if not comparison:
        return None
    parts = []
    if comparison.get("p_value") is not None:
        parts.append(f"family-wise p = {comparison['p_value']:.2g}")
    if comparison.get("visible_deviation") is not None:
        parts.append(f"a deviation of {100 * comparison['visible_deviation']:.2g} % would have been seen")
    if comparison["verdict"] == "inconclusive" and comparison.get("replicas_wanted") is not None:
        parts.append(f"about {comparison['replicas_wanted']} replicas would decide")
    word = comparison["verdict"]
    colour = VERDICTS.get(word, COLOURS[7])
    reasons = comparison.get("reasons", [])
    return {"word": word.upper(), "colour": colour, "headline": "; ".join(parts), "reasons": reasons}


def judged(comparison: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return head and rows of the table of judged variables."""
    found = comparison.get("by_variable")
    if not found:
        return None
    head = ["variable", "verdict", "largest z", "p"]
    rows = [[n, v["verdict"], _cell(v.get("max_z")), _cell(v.get("p_value"))] for n, v in found.items()]
    return {"head": head, "rows": rows}


def _points(folder: Path | None) -> dict[str, Any] | None:
    """Return the verdicts of a comparison along a grid, a row a point."""
    found = sorted(folder.glob("*/comparison.json")) if folder is not None else []
    if not found:
        return None
    points = {file.parent.name: comparison_of(file.parent) for file in found}
    rows = [[name, c["verdict"], _cell(c.get("max_z")), _cell(c.get("p_value"))] for name, c in points.items()]
    return {"head": ["point", "verdict", "largest z", "p"], "rows": rows}


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.3g}"


def _files(results: Sequence[Result]) -> list[dict[str, str]]:
    out = []
    for result, stem in zip(results, stems(results), strict=True):
        for file, sheet in sheets(result, stem).items():
            text = to_csv(sheet).encode()
            out.append({"name": file, "base64": base64.b64encode(text).decode()})
    return out
