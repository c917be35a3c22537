"""The report of a campaign: one page of HTML, one of Markdown, one document for LaTeX, and a figure a case."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dimladder.errors import UsageError

from .report import HEAD, campaign_headline, campaign_rows, markdown_table

if TYPE_CHECKING:
    from .campaign import Outcome
    from .compare import Comparison

log = logging.getLogger("dimladder.validate")
# Cases may run on threads; matplotlib does not.
_DRAWING = threading.Lock()
FILES = ("report.html", "report.md", "report.tex")


def draw(comparison: Comparison, folder: Path) -> None:
    """Write the figure of a case, ``figure.pdf`` and ``figure.png``; of numbers without an axis there is none."""
    from dimladder.paper import export
    from dimladder.paper.collection import with_curves

    results = [*dict.fromkeys(comparison.curves.values()), comparison.measurement]
    names = with_curves(results, [v.name for v in comparison.variables])
    try:
        with _DRAWING:
            export(results, folder, ["pdf", "png"], variables=names[:6] or None)
    except UsageError as error:
        log.info("no figure in %s: %s", folder, error.what)


def write_report(title: str, outcomes: Sequence[Outcome], root: Path) -> None:
    """Write the three reports into the folder of a campaign."""
    from dimladder.paper.collection import Section, collection_document, collection_page
    from dimladder.results import write_text

    sections = [
        Section(
            row, o.verdict, f"{o.headline or 'nothing was judged'} (expected: {o.expected})", o.reasons,
            root / o.name if o.verdict != "error" else None, o.origin,
        )
        for row, o in zip(campaign_rows(outcomes), outcomes, strict=True)
    ]  # fmt: skip
    headline = campaign_headline(title, outcomes)
    _, _, counted = headline.rpartition(": ")
    write_text(root / "report.html", collection_page(title, counted, HEAD, sections))
    write_text(root / "report.tex", collection_document(title, headline, HEAD, sections, root))
    write_text(root / "report.md", _markdown(headline, outcomes, root))


def _markdown(headline: str, outcomes: Sequence[Outcome], root: Path) -> str:
    lines = [f"# {headline}", "", markdown_table(HEAD, campaign_rows(outcomes))]
    for o in outcomes:
        lines += [f"## {o.name}", "", f"{o.verdict.upper()}: {o.headline or 'nothing was judged'}", ""]
        lines += [*(f"- {reason}" for reason in o.reasons), ""]
        if o.verdict != "error" and (root / o.name / "figure.png").is_file():
            lines += [f"![{o.name}]({o.name}/figure.png)", ""]
        lines += [o.origin, ""] if o.origin else []
    return "\n".join(lines)
