"""The equations of a problem as a document that compiles by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .tex import escape, render

_ALIGN = re.compile(r"\\begin\{(align|equation|gather)\*?\}(.*?)\\end\{\1\*?\}", re.DOTALL)


def equations_document(blocks: Sequence[str], *, title: str = "", note: str = "", preamble: str = "") -> str:
    r"""Return a standalone LaTeX document of displayed equations.

    Parameters
    ----------
    blocks : sequence of str
        What ``System.latex()`` returns: ``align``, ``gather`` or ``equation`` environments, or bare mathematics.
        The page grows to the longest line, so that no equation is broken or cut.
    title, note : str
        Plain text (escaped here), above the equations and in a comment.
    preamble : str
        Further LaTeX for the preamble.
    """
    bodies = []
    for block in blocks:
        found = list(_ALIGN.finditer(block))
        bodies += [_inner(m.group(1), m.group(2)) for m in found] if found else [block.strip()]
    return render(
        "equations.tex",
        title=escape(title),
        note=" ".join(note.split()),
        bodies=[b for b in bodies if b],
        preamble=preamble,
    )


def _inner(environment: str, body: str) -> str:
    # A displayed environment takes the width of the page; the page here takes the width of the equations.
    body = re.sub(r"\\(label|tag\*?)\{[^{}]*\}|\\(nonumber|notag)\b", "", body).strip()
    inner = {"align": "aligned", "gather": "gathered"}.get(environment)
    return f"\\begin{{{inner}}}\n{body}\n\\end{{{inner}}}" if inner else body
