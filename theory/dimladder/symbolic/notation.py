r"""Tables of notation: what every symbol of some equations means, and the number it has in a problem.

A system keeps its words in `System.letters`, a line a symbol::

    \eta     :: learning rate :: algorithm.learning_rate
    i, k     :: hidden units

The third part is the key of the run file that sets the number, or several with ``or`` between them. Indices of a
symbol say that it has some, not which: ``Q_{ik}`` is also ``Q`` and ``Q_{jl}``; a line for ``R_w`` says nothing about
``R_u`` if that has a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ..typeset import mathml, plain, width_of
from ..typeset.symbols import Occurrence, heads, symbols
from ..typeset.words import label_html, label_tex, label_text
from .equations import Equation, OrderParameter

COMMON = r"""
\mathbb{E}               :: average
\mathbb{P}               :: probability
\mathcal{N}              :: normal law, with its mean and its covariance
\mathrm{Var}             :: variance
\mathrm{Cov}             :: covariance
\operatorname{Var}       :: variance
\operatorname{erf}       :: error function, $\frac{2}{\sqrt\pi}\int_0^x e^{-s^2} \mathrm{d}s$
\mathrm{erf}             :: error function, $\frac{2}{\sqrt\pi}\int_0^x e^{-s^2} \mathrm{d}s$
\operatorname{erfc}      :: complementary error function, $1 - \operatorname{erf}(x)$
\operatorname{sign}      :: sign
\mathrm{sign}            :: sign
\operatorname{tr}        :: trace
\mathrm{eig}             :: eigenvalues
\mathrm{Poisson}         :: Poisson law
\mathrm{Bernoulli}       :: law of 1 and 0
\mathrm{Bin}             :: binomial law
\operatorname{He}_n      :: Hermite polynomial of degree $n$, of leading coefficient 1
\mathbb{I}               :: identity matrix
\mathbb{1}               :: 1 where the condition holds, else 0
\delta_{ik}              :: 1 where the indices are equal, else 0
\pi                      :: 3.14159...
e                        :: 2.71828...
t                        :: time
d                        :: dimension of the input
"""


@dataclass(frozen=True)
class Symbol:
    """A line of a table of notation.

    Attributes
    ----------
    latex : str
        One symbol, or several that are told together, between commas.
    meaning : str
        Words; formulas between dollars.
    key : str
        Dotted key of the run file that gives its number; empty for what is derived.
    """

    latex: str
    meaning: str
    key: str = ""


@dataclass(frozen=True)
class Row:
    """A line as it is printed: the symbol, what it means, its number in the problem and where that is set."""

    latex: str
    meaning: str
    value: str = ""
    key: str = ""


class Notation(Sequence[Row]):
    """The symbols of some equations in the order met, each with its meaning.

    Prints as a table in a terminal (`text`), as LaTeX (`latex`), and by itself in a notebook.

    Attributes
    ----------
    missing : tuple of str
        LaTeX of symbols that nothing explains.
    """

    def __init__(self, rows: Iterable[Row], missing: Iterable[str] = ()) -> None:
        self._rows, self.missing = tuple(rows), tuple(missing)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def without(self, keys: Collection[str]) -> Notation:
        """Return the table without the numbers of these keys, as where several problems differ in them."""
        return Notation((replace(r, value="") if r.key in keys else r for r in self), self.missing)

    def text(self) -> str:
        """Return the table as lines of Unicode."""
        left = [plain(r.latex) for r in self]
        width = max(map(len, left), default=0)
        return "".join(
            f"{name:<{width}}  {label_text(r.meaning)}{f': {label_text(r.value)}' if r.value else ''}"
            f"{f'  [{r.key}]' if r.key else ''}\n"
            for name, r in zip(left, self, strict=True)
        )

    def latex(self, columns: int = 1) -> str:
        r"""Return the table as LaTeX that breaks over columns and pages; needs no package beyond amsmath and amssymb.

        Parameters
        ----------
        columns : {1, 2}
            Columns of the page.
        """
        share = 0.2 if columns == 1 else 0.27
        room = share * (34.5 if columns == 1 else 24.0)
        lines = [r"{\raggedright\parindent0pt\parskip2pt"]
        for r in self:
            meaning = label_tex(r.meaning) + (f": {label_tex(r.value)}" if r.value else "")
            wide = width_of(r.latex) > room
            # A symbol that is too wide for its column has a line for itself.
            name = rf"${r.latex}$\par\hspace*{{{share:g}\linewidth}}" if wide else (
                rf"\makebox[{share:g}\linewidth][l]{{${r.latex}$}}"
            )  # fmt: skip
            lines.append(rf"{name}\parbox[t]{{{0.99 - share:.2f}\linewidth}}{{\raggedright {meaning}}}\par")
        return "\n".join([*lines, "}\n"])

    def _repr_html_(self) -> str:
        return self.html()

    def _repr_latex_(self) -> str:
        return self.latex()

    def html(self) -> str:
        """Return the table as HTML, typeset by the browser itself."""
        cells = "".join(
            f"<tr><td>{mathml(r.latex)}</td><td>{label_html(r.meaning)}</td><td>{label_html(r.value)}</td>"
            f"<td><code>{label_html(r.key)}</code></td></tr>"
            for r in self
        )
        return f"<table>{cells}</table>"


@cache
def lines(text: str) -> tuple[Symbol, ...]:
    """Read a table as `System.letters` holds it."""
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        latex, meaning, *key = (part.strip() for part in line.split("::"))
        found.append(Symbol(latex, meaning, key[0] if key else ""))
    return tuple(found)


def notation(
    equations: Sequence[Equation],
    known: Sequence[Symbol],
    order_parameters: Sequence[OrderParameter],
    problem: Mapping[str, Any],
) -> Notation:
    """Return what explains the symbols of equations.

    Looked up in `known`, in the order parameters, in what is `COMMON`; and what an equation defines is at least there.
    """
    own = [
        Symbol(p.latex, f"{p.meaning}; {p.scaling}" + (f", in {p.units}" if p.units else "")) for p in order_parameters
    ]
    tables = [_index(known), _index(own), _index(lines(COMMON))]
    stated, defined = _defined(equations)
    rows: dict[str, Row] = {}
    parts: dict[str, list[str]] = {}
    missing: list[str] = []
    seen = list(dict.fromkeys(s for e in equations for s in symbols(e.latex)))
    # A letter that only names another symbol, such as the s of B_s, is no symbol.
    named = {s.scripts for s in seen if any(s in exact for exact, _ in tables)}
    for s in seen:
        found = None if s in stated else _look(s, tables)
        if found is not None:
            line, part = found
            rows.setdefault(line.latex, _row(line, problem))
            if part not in parts.setdefault(line.latex, []):
                parts[line.latex].append(part)
        elif (row := _of(s, stated) or _of(s, defined)) is not None:
            rows.setdefault(row.latex, row)
        elif s.scripts or s.name not in named:
            missing.append(_shown(s))
    # Of symbols that are told together those are printed that occur.
    printed = [replace(row, latex=", ".join(parts.get(latex, [latex]))) for latex, row in rows.items()]
    return Notation(printed, dict.fromkeys(missing))


def _row(line: Symbol, problem: Mapping[str, Any]) -> Row:
    """Return a line with its number: of several keys that say it, the one that this problem has."""
    keys = line.key.split(" or ")
    key = next((k for k in keys if _value(problem, k)), keys[0])
    return Row(line.latex, line.meaning, _value(problem, key), key)


def _shown(symbol: Occurrence) -> str:
    return symbol.name + (f"_{{{symbol.scripts}}}" if symbol.scripts else "")


_Found = tuple[Symbol, str]
_Index = tuple[dict[Occurrence, _Found], dict[str, _Found]]


def _index(known: Iterable[Symbol]) -> _Index:
    """Return line and printed part of each symbol with its indices, and by name alone for those that have any."""
    exact: dict[Occurrence, _Found] = {}
    indexed: dict[str, _Found] = {}
    for line in known:
        for part in line.latex.split(", "):
            for s in heads(part):
                exact.setdefault(s, (line, part))
                if s.scripts:
                    indexed.setdefault(s.name, (line, part))
    return exact, indexed


def _look(s: Occurrence, tables: Sequence[_Index]) -> _Found | None:
    """Return what tells of a symbol as it stands, or else of the same with other indices."""
    for exact, _ in tables:
        if s in exact:
            return exact[s]
    return next((indexed[s.name] for _, indexed in tables if s.name in indexed), None)


def _defined(equations: Sequence[Equation]) -> tuple[dict[Occurrence, Row], dict[Occurrence, Row]]:
    """Return what rows of symbols state, and what equations define on their left, with the label of the equation."""
    stated: dict[Occurrence, Row] = {}
    defined: dict[Occurrence, Row] = {}
    for e in equations:
        for clause in re.split(r"\\quad|,\\ ", e.latex):
            left, equals, right = clause.partition("=")
            # The arguments of a function on the left are no symbols that it defines.
            on_left = heads(re.split(r"\\left\(|\(", left)[0])
            if len(on_left) != 1:
                continue
            if e.label.startswith("symbol "):
                right = right.strip(" ,")
                number = bool(re.fullmatch(r"[-+.\de]+", right))
                meaning = f"${right}$: {e.note}" if right and not number else e.note
                stated.setdefault(on_left[0], Row(left.strip(), meaning, right if number else ""))
            elif equals:
                defined.setdefault(on_left[0], Row(left.strip(), e.note or f"defined: {e.label}"))
    return stated, defined


def _of(symbol: Occurrence, rows: Mapping[Occurrence, Row]) -> Row | None:
    """Return the row of a symbol, or of the same with other indices."""
    if symbol in rows:
        return rows[symbol]
    return next((row for s, row in rows.items() if s.name == symbol.name and bool(s.scripts)), None)


def _value(problem: Mapping[str, Any], key: str) -> str:
    """Return the number that a key of the problem has; empty for formulas, tables and what is not there."""
    at: Any = problem
    for part in key.split("."):
        at = at.get(part) if isinstance(at, Mapping) else None
    return f"{at:.6g}" if isinstance(at, int | float) and not isinstance(at, bool) else ""
