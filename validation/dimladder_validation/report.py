"""Comparisons and campaigns as aligned Markdown: readable in a terminal, in a repository and in a notebook."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .along import Along
    from .campaign import Outcome
    from .compare import Comparison


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned Markdown table; a bar inside a cell is escaped."""
    cells = [[text.replace("|", r"\|") for text in row] for row in [header, *rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    lines = ["| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines) + "\n"


def number(value: float, digits: int = 2) -> str:
    """Return a number for a table; a dash where there is none."""
    return "-" if not math.isfinite(value) else f"{value:.{digits}f}"


def comparison_report(comparison: Comparison) -> str:
    """Return the verdict, one row a variable, and the reasons."""
    sizes = ", ".join(f"{s:g}" for s in sorted(comparison.measurement[comparison.size].values))
    replicas = comparison.measurement.stats.get("replicas", "?")
    rows = [
        [
            v.name, v.verdict, str(v.entries), number(v.max_z), f"{v.p_value:.2g}", v.at,
            f"{v.fit.exponent:.2f} +- {v.fit.exponent_se:.2f}" if v.fit.known else "-",
            number(v.limit_z), f"{100 * v.visible:.2g} %",
        ]
        for v in comparison.variables
    ]  # fmt: skip
    header = ["variable", "verdict", "entries", "max z", "p", "at", "exponent", "limit z", "visible"]
    lines = [
        f"{comparison.curve.theory}: {comparison.verdict.upper()} ({headline(comparison)})",
        "",
        f"{comparison.size} = {sizes}; {replicas} replicas; {comparison.n_comparisons} distinct comparisons, |z| up to "
        f"{comparison.threshold:.2f} allowed (Student, family-wise level {comparison.settings.alpha:g})",
        "",
        markdown_table(header, rows),
        *(f"- {reason}" for reason in comparison.reasons),
        "",
        "max z: largest |simulation - theory| at the largest size, in standard errors; p: chance of that, or of what",
        "was extrapolated, somewhere among all comparisons with a right theory; exponent: gap ~ size^-a where it is",
        "most significant; limit z: as max z, for the gap extrapolated to infinite size, where that was needed;",
        "visible: the deviation from the theory at the largest size that would be significant in half of the entries.",
    ]
    return "\n".join(lines) + "\n"


def along_report(theory: str, points: Sequence[Along]) -> str:
    """Return one row a point of a grid, and the errors."""
    keys = list(points[0].values)
    rows = []
    for point in points:
        values = [f"{v:.6g}" if isinstance(v, float) else str(v) for v in point.values.values()]
        c = point.comparison
        numbers = ["-"] * 3 if c is None else [number(c.max_z), f"{c.p_value:.2g}", f"{100 * c.visible:.2g} %"]
        rows.append([*values, point.verdict, *numbers])
    table = markdown_table([*keys, "verdict", "max z", "p", "visible"], rows)
    met = sum(p.verdict == "agree" for p in points)
    lines = [f"{theory}: {met} of {len(points)} points agree", "", table]
    lines += [f"- {', '.join(f'{k} = {v}' for k, v in p.values.items())}: {p.error}" for p in points if p.error]
    return "\n".join(lines)


def headline(comparison: Comparison) -> str:
    """Return what a verdict is worth: family-wise p-value, visible deviation, and the replicas that would decide."""
    parts = [f"family-wise p = {comparison.p_value:.2g}"] if math.isfinite(comparison.p_value) else []
    if math.isfinite(comparison.visible):
        parts.append(f"a deviation of {100 * comparison.visible:.2g} % would have been seen")
    if comparison.verdict == "inconclusive" and comparison.replicas_wanted is not None:
        parts.append(f"about {comparison.replicas_wanted} replicas would decide")
    return "; ".join(parts) or "nothing could be judged"


def origin(comparison: Comparison) -> str:
    """Return where the numbers of a comparison come from, in a line."""
    measured = comparison.measurement
    record, stats = measured.provenance, measured.stats
    sizes = ", ".join(f"{s:g}" for s in sorted(measured[comparison.size].values))
    parts = [
        f"problem {record.get('problem_hash', '?')}", f"seed {stats.get('seed', '?')}", f"{comparison.size} = {sizes}",
        f"{stats.get('replicas', '?')} replicas", f"{stats.get('dtype', '?')} on {stats.get('device', '?')}",
        f"dimladder {record.get('versions', {}).get('dimladder', '?')}", f"computed {record.get('created', '?')}",
    ]  # fmt: skip
    return "; ".join(parts)


HEAD = ("case", "theory", "expected", "verdict", "as expected", "max z", "p", "exponent", "time")


def campaign_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Return one row a case, under `HEAD`."""
    return [
        [
            o.name, o.theory, o.expected, o.verdict, "yes" if o.as_expected else "NO", number(o.max_z),
            "-" if math.isnan(o.p_value) else f"{o.p_value:.2g}",
            f"{o.exponent:.2f} +- {o.exponent_se:.2f}" if math.isfinite(o.exponent) else "-", f"{o.seconds:.1f} s",
        ]
        for o in outcomes
    ]  # fmt: skip


def campaign_headline(title: str, outcomes: Sequence[Outcome]) -> str:
    """Return how many cases came out as expected."""
    return f"{title}: {sum(o.as_expected for o in outcomes)} of {len(outcomes)} cases as expected"


def campaign_report(title: str, outcomes: Sequence[Outcome]) -> str:
    """Return one row a case, and the reasons of the cases that did not come out as expected."""
    lines = [campaign_headline(title, outcomes), "", markdown_table(HEAD, campaign_rows(outcomes))]
    for outcome in outcomes:
        if not outcome.as_expected:
            lines += [f"{outcome.name}:", *(f"- {reason}" for reason in outcome.reasons), ""]
    return "\n".join(lines)
