"""The equations of a problem as a document that compiles by itself."""

from __future__ import annotations

from ..typeset.words import escape
from .draw import layout_of
from .tex import render

# Figures narrower than this go into one of two columns.
_COLUMN = 4.0


def columns_of(style: str, width: str | float | None = None) -> int:
    """Return how many columns the page has that figures of this style, or width, go into."""
    return 2 if layout_of(style, width)[1] < _COLUMN else 1


def equations_document(body: str, *, title: str = "", note: str = "", columns: int = 1, preamble: str = "") -> str:
    r"""Return a LaTeX document of displayed equations.

    Parameters
    ----------
    body : str
        What ``System.latex(columns)`` returns, or an ``\\input`` of a file that holds it.
    title, note : str
        Plain text (escaped here), above the equations and in a comment.
    columns : {1, 2}
        Columns of the page.
    preamble : str
        Further LaTeX for the preamble.
    """
    return render(
        "equations.tex",
        title=escape(title),
        note=" ".join(note.split()),
        body=body.strip(),
        option="twocolumn" if columns == 2 else "onecolumn",
        preamble=preamble,
    )
