"""`export`: a result as everything a paper embeds."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from ..errors import UsageError, did_you_mean
from ..results import Measurement, Result, Source, gather, write_text
from .citation import cite
from .equations import columns_of, equations_document
from .labels import Names
from .macros import macros
from .plan import Plan, make
from .runs import differing, same
from .sheets import sheets, stems, to_csv
from .tables import tables

log = logging.getLogger("dimladder.export")

FORMATS = ("pdf", "png", "svg", "pgf", "csv", "tex", "macros", "bib", "equations", "notation")


def export(
    source: Source | Sequence[Source],
    to: str | Path,
    formats: Sequence[str] = ("pdf", "pgf", "csv", "tex", "macros", "bib"),
    style: str = "single",
    *,
    variables: Sequence[str] | None = None,
    prefix: str = "dl",
    names: Names | None = None,
    width: str | float | None = None,
    refine: Callable[[Result], Result | None] | None = None,
    equations: Callable[[Result, int], str] | None = None,
    notation: Callable[[Result, int, Collection[str]], str] | None = None,
) -> list[Path]:
    r"""Write what a paper embeds, and return the files.

    Parameters
    ----------
    source : Result, path, or several
        A `LearningCurve`, a `Measurement`, a `PhaseDiagram`, a ``.nc`` file, or a run folder (that of a comparison
        holds both). A theory and its measurement together share axes and colours.
    to : path
        Folder, made if missing. Files of the same names are replaced.
    formats : sequence of str
        ``pdf``, ``png``, ``svg``: ``figure.*``. ``pgf``: ``figure_pgf.tex`` (compiles by itself) around
        ``figure_body.tex`` and a CSV file for each panel. ``csv``: one row a coordinate, ``_se`` columns. ``tex``:
        booktabs tables, ``table.tex``, and of several variables each in a file of its own. ``macros``:
        ``macros.tex``. ``bib``: ``references.bib`` and ``methods.tex``. ``equations``: ``equations_body.tex``, broken
        to the column of the style, around it ``equations.tex``, which compiles by itself. ``notation``:
        ``notation.tex``, what every symbol in them means, to be input.
    style : str
        ``single``, ``double``, ``neurips``, ``slides``, or a ``.mplstyle`` file.
    variables : sequence of str, optional
        What to draw, one panel each. Default: the first six panels.
    prefix : str
        First letters of every macro.
    names : Names, optional
        How variables and coordinates are typeset, instead of as the theory says.
    width : str or float, optional
        Of figures, instead of the style's: ``column``, ``text``, inches, or a length such as ``8.6cm``.
    refine : callable, optional
        Returns a theory at more points than were asked for, of which lines are drawn; `dimladder.export` solves again.
    equations, notation : callable, optional
        Return the LaTeX of the equations behind a result, and of the table of their symbols, for a page of so many
        columns; the table without the numbers of some keys. `dimladder.export` derives.

    Raises
    ------
    UsageError
        For an unknown format, style or variable, or a figure of nothing but scalars.
    ResultFileError
        When a result cannot be read or a file cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"there is no format {name!r}", where="formats", hint=did_you_mean(name, FORMATS))
    if not prefix.isalpha():
        raise UsageError(f"the prefix of macros must be letters, got {prefix!r}", where="prefix")
    results = same(gather(source))
    names = (names or Names()).of(results)
    _same_theory(results)
    folder = Path(to)
    note = _note(results)
    plan = None
    if {"pdf", "png", "svg", "pgf", "tex"} & set(formats):
        try:
            fine = {"pdf", "png", "svg", "pgf"} & set(formats) and refine is not None
            plan = make(results, variables, names, _lines(results, refine) if fine and refine is not None else {})
        except UsageError:
            # Tables of scalars need no figure; a figure that was asked for does.
            if {"pdf", "png", "svg", "pgf"} & set(formats) or variables:
                raise
    written: list[Path] = []

    def put(name: str, text: str) -> None:
        write_text(folder / name, text)
        written.append(folder / name)

    if plan is not None and plan.left_out:
        log.warning("not drawn: %s; --variables names what to draw", ", ".join(plan.left_out))
    if "csv" in formats:
        for result, name in zip(results, stems(results), strict=True):
            for file, sheet in sheets(result, name).items():
                put(file, to_csv(sheet))
    for suffix in ("pdf", "png", "svg"):
        if suffix in formats:
            assert plan is not None
            from .draw import draw, save

            written.append(save(draw(plan, style, width), folder / f"figure.{suffix}", style))
    if "pgf" in formats:
        assert plan is not None
        _pgf(plan, style, width, note, put)
    if "tex" in formats:
        for file, text in tables(results, plan, note, names).items():
            put(file, text)
    if "macros" in formats:
        put("macros.tex", macros(results, note, prefix))
    if "bib" in formats:
        citation = cite(results)
        put("references.bib", citation.bibtex)
        put("methods.tex", f"% {note}\n{citation.methods_latex}\n")
    if "equations" in formats:
        if equations is None:
            raise UsageError("nothing derives equations here", where="formats: equations", hint="use dimladder.export")
        columns = columns_of(style, width)
        put("equations_body.tex", f"% {note}\n{equations(results[0], columns)}")
        title = results[0].title or results[0].theory
        document = equations_document(r"\input{equations_body}", title=title, note=note, columns=columns)
        put("equations.tex", document)
    if "notation" in formats:
        if notation is None:
            raise UsageError("nothing derives equations here", where="formats: notation", hint="use dimladder.export")
        table = notation(results[0], columns_of(style, width), differing(results))
        put("notation.tex", f"% {note}\n{table}")
    return written


def _lines(results: Sequence[Result], refine: Callable[[Result], Result | None]) -> dict[int, Result]:
    """Return the theories that can be drawn more finely, by position."""
    finer = {i: refine(r) for i, r in enumerate(results) if not isinstance(r, Measurement)}
    return {i: r for i, r in finer.items() if r is not None}


def _pgf(plan: Plan, style: str, width: str | float | None, note: str, put: Callable[[str, str], None]) -> None:
    from .pgf import pgfplots, standalone

    body, files = pgfplots(plan, style, note, width)
    for file, text in files.items():
        put(file, text)
    put("figure_body.tex", body)
    put("figure_pgf.tex", standalone("figure_body.tex"))


def _same_theory(results: Sequence[Result]) -> None:
    names = sorted({r.theory for r in results})
    if len(names) > 1:
        raise UsageError(
            "these results belong to different theories",
            where="source",
            why=", ".join(names),
            hint="export them one by one",
        )


def _note(results: Sequence[Result]) -> str:
    first = results[0]
    record = first.provenance
    made = record.get("created", datetime.date.today().isoformat())
    release = record["versions"].get("dimladder", "")
    name = first.theory or "result"
    stopped = sorted({r.status for r in results if r.status != "success"})
    if stopped:
        made += f"; INCOMPLETE ({', '.join(stopped)})"
    hashes = sorted({str(r.provenance.get("problem_hash")) for r in results})
    which = f"problem {hashes[0]}" if len(hashes) == 1 else f"problems {', '.join(hashes)}"
    return " ".join(f"{name}: {which}, dimladder {release}, computed {made}".split())
