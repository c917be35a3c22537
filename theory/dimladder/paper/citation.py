"""What to cite: BibTeX of exactly what a result rests on, and a sentence for the methods section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from ..choose import build_problem, find
from ..errors import DimladderError, did_you_mean
from ..problem import Problem, parse_document, read
from ..results import LearningCurve, Measurement, Result, gather, open_result
from ..typeset.words import escape
from .axes import size_axis
from .bibliography import Entry, parse

SOFTWARE_KEY = "dimladder"


@dataclass(frozen=True)
class Citation:
    """References and a methods sentence.

    Attributes
    ----------
    keys : tuple of str
        BibTeX keys, the theory's papers first, the software last.
    bibtex : str
        Their entries.
    methods : str
        A sentence in plain text.
    methods_latex : str
        The same with ``\\cite`` commands, escaped.
    """

    keys: tuple[str, ...]
    bibtex: str
    methods: str
    methods_latex: str

    def __str__(self) -> str:
        return f"{self.methods}\n\n{self.bibtex}"


def cite(source: Problem | Result | str | Path | Sequence[Result]) -> Citation:
    """Return what to cite for a problem, a run file, a result or a run folder.

    Parameters
    ----------
    source : Problem, Result, path, or sequence of Result

    Returns
    -------
    Citation
        BibTeX of the papers behind exactly this, and a sentence for the methods section.

    Raises
    ------
    DimladderError
        When the theory names a reference that is in no ``references.bib``.
    """
    results: list[Result] = []
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix == ".toml":
            source = _problem(read(path), str(path), path.parent)
        else:
            results = gather(path)
    elif isinstance(source, Result):
        results = [source]
    elif not isinstance(source, Problem):
        results = list(source)
    problem = source if isinstance(source, Problem) else _problem(results[0].problem_toml, "the result's run file")
    theory = find(problem.theory)
    keys = tuple(theory.references_for(problem))
    known = {**_entries_beside(type(theory).__module__), **_entries_beside("dimladder.theories")}
    for key in keys:
        if key not in known:
            raise DimladderError(
                f"the theory {theory.name!r} cites {key!r}, which is in no references.bib",
                hint=did_you_mean(key, known),
            )
    software = software_entry()
    bibtex = "\n\n".join([known[k].text for k in keys] + [software]) + "\n"
    plain, latex = _sentence(theory.title, problem, keys, [known[k] for k in keys], results)
    return Citation((*keys, SOFTWARE_KEY), bibtex, plain, latex)


def _problem(text: str, source: str, folder: Path | None = None) -> Problem:
    return build_problem(parse_document(text, source), source=source, folder=folder)


@cache
def _entries_beside(module: str) -> dict[str, Entry]:
    """Return the entries of ``BIBTEX`` in `module`, and of every ``references.bib`` in the packages that hold it."""
    import importlib

    found: dict[str, Entry] = {}
    own = getattr(importlib.import_module(module), "BIBTEX", "")
    if own:
        found |= parse(own, f"BIBTEX of {module}")
    parts = module.split(".")
    for depth in range(len(parts), 0, -1):
        package = importlib.import_module(".".join(parts[:depth]))
        if hasattr(package, "__path__"):
            bib = files(package).joinpath("references.bib")
            if bib.is_file():
                found |= parse(bib.read_text(encoding="utf-8"), str(bib))
    return found


def software_entry() -> str:
    """Return the BibTeX entry of this software, with the installed version."""
    return (
        f"@software{{{SOFTWARE_KEY},\n  author  = {{{{The dimladder developers}}}},\n"
        "  title   = {{dimladder}: order-parameter theories of learning in high dimension},\n"
        f"  version = {{{version('dimladder')}}},\n  year    = {{2026}},\n}}"
    )


def _short(entry: Entry) -> str:
    names = [n.split(",")[0].strip().strip("{}") for n in entry.fields["author"].split(" and ")]
    names = [
        n.replace(r"{\'a}", "á").replace(r"{\'e}", "é").replace(r"{\~n}", "ñ").replace(r"{\'c}", "ć") for n in names
    ]
    who = names[0] if len(names) == 1 else f"{names[0]} and {names[1]}" if len(names) == 2 else f"{names[0]} et al."
    return f"{who} {entry.fields['year']}"


def _sentence(
    title: str, problem: Problem, keys: tuple[str, ...], entries: Sequence[Entry], results: Sequence[Result]
) -> tuple[str, str]:
    release = version("dimladder")
    about = f"the theory '{problem.theory}' ({title})"
    solver = getattr(problem, "solver", None)
    rtol = getattr(solver, "rtol", None)
    tolerance = f" at relative tolerance {rtol:g}" if rtol is not None else ""
    said: list[str] = []
    for m in (r for r in results if isinstance(r, Measurement)):
        axis = size_axis(m)
        count = m.stats.get("replicas")
        if axis and count:
            sizes = ", ".join(str(s) for s in m.dataset.coords[axis].values.tolist())
            said.append(
                f" Markers show means over {count} independent simulations at {axis} = {sizes} "
                f"(seed {m.stats.get('seed')}); error bars are one standard error of the mean."
            )
    # Several runs of one design are described once.
    tail = "".join(dict.fromkeys(said))
    subject = (
        "The predictions follow"
        if not results or any(isinstance(r, LearningCurve) for r in results)
        else "The setting is that of"
    )
    plain_refs = "; ".join(map(_short, entries))
    plain = f"{subject} {about}" + (f" of {plain_refs}" if plain_refs else "")
    latex = f"{subject} {escape(about)}" + (rf"~\cite{{{','.join(keys)}}}" if keys else "")
    hashes = list(dict.fromkeys(str(r.provenance.get("problem_hash")) for r in results)) or [problem.content_hash]
    which = f"problem {hashes[0]}" if len(hashes) == 1 else f"problems {', '.join(hashes)}"
    what = f", computed with dimladder {release}{tolerance} ({which})."
    return plain + what + tail, latex + escape(what).replace(
        "dimladder", rf"dimladder~\cite{{{SOFTWARE_KEY}}}", 1
    ) + escape(tail)


__all__ = ["SOFTWARE_KEY", "Citation", "cite", "open_result", "software_entry"]
