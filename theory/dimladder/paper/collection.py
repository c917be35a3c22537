"""Many comparisons in one report: a page whose curves zoom, and a document for LaTeX."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DimladderError, UsageError
from ..results import Result, gather
from ..typeset.words import escape
from .page import VERDICTS, comparison_of, judged, panels_of, provenance_rows, script
from .plan import COLOURS
from .tex import render

log = logging.getLogger("dimladder.export")
# Curves shown of one comparison.
MOST_PANELS = 4


@dataclass(frozen=True)
class Section:
    """One comparison of a report.

    Attributes
    ----------
    row : sequence of str
        Its line in the table of all; the first cell is its name.
    verdict, headline : str
    reasons : sequence of str
    folder : Path or None
        Its run folder, where there is one with results.
    origin : str
        Where its numbers come from, in a line.
    """

    row: Sequence[str]
    verdict: str
    headline: str
    reasons: Sequence[str]
    folder: Path | None
    origin: str = ""


def collection_page(title: str, subtitle: str, head: Sequence[str], sections: Sequence[Section]) -> str:
    """Return one HTML page that needs no other file and no network."""
    data: list[Any] = []
    shown = []
    for number, section in enumerate(sections):
        results = _results(section)
        panels = _panels(results, section, len(data))
        data += [numbers for _, numbers in panels]
        measured = next((r for r in results if r.kind == "measurement"), results[0] if results else None)
        shown.append({
            **_common(section), "anchor": f"case{number}", "row": list(section.row), "reasons": list(section.reasons),
            "headline": section.headline, "panels": [html for html, _ in panels],
            "judged": judged(comparison_of(section.folder)),
            "problem": measured.problem_toml if measured is not None else "",
            "provenance": provenance_rows(measured) if measured is not None else [],
        })  # fmt: skip
    return render("collection.html", title=title, subtitle=subtitle, head=list(head), sections=shown, **script(data))


def collection_document(title: str, note: str, head: Sequence[str], sections: Sequence[Section], root: Path) -> str:
    """Return a LaTeX document that compiles in the folder `root`, with the figures of the run folders below it."""
    shown = []
    for section in sections:
        figure = None if section.folder is None else section.folder / "figure.pdf"
        there = figure is not None and figure.is_file()
        shown.append({
            **_common(section), "row": [escape(cell) for cell in section.row], "headline": escape(section.headline),
            "reasons": [escape(reason) for reason in section.reasons], "origin": escape(section.origin),
            "figure": figure.relative_to(root).as_posix() if there and figure is not None else "",
        })  # fmt: skip
    return render(
        "collection.tex", title=escape(title), note=note, columns="l" * len(head), head=[escape(h) for h in head],
        sections=shown,
    )  # fmt: skip


def with_curves(results: Sequence[Result], names: Sequence[str]) -> list[str]:
    """Return which of these variables have an axis besides the size."""
    found = next((r for r in results if r.kind == "measurement"), None)
    return [n for n in names if found is not None and n in found and found[n].ndim > 1]


def _common(section: Section) -> dict[str, str]:
    return {"word": section.verdict.upper(), "colour": VERDICTS.get(section.verdict, COLOURS[7])}


def _results(section: Section) -> list[Result]:
    if section.folder is None or not (section.folder / "result.nc").is_file():
        return []
    try:
        return gather(section.folder)
    except DimladderError as error:
        log.warning("%s: its results cannot be shown: %s", section.row[0], str(error).splitlines()[0])
        return []


def _panels(results: Sequence[Result], section: Section, before: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    names = with_curves(results, list(comparison_of(section.folder).get("by_variable", {})))
    try:
        return panels_of(results, before, names[:MOST_PANELS] or None)[:MOST_PANELS] if results else []
    except UsageError as error:  # of numbers alone there is no curve
        log.info("%s: %s", section.row[0], error.what)
        return []
