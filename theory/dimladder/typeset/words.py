"""Plain words with formulas between dollars, for LaTeX, a terminal and HTML."""

from __future__ import annotations

import re
from html import escape as escape_html

from .mathml import mathml
from .plain import plain

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip
# Letters that pdflatex does not read without a font package, and that titles of this field use.
_SIGNS = {
    "μ": r"$\mu$", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "ε": r"$\varepsilon$",
    "η": r"$\eta$", "θ": r"$\theta$", "κ": r"$\kappa$", "λ": r"$\lambda$", "ρ": r"$\rho$", "σ": r"$\sigma$",
    "τ": r"$\tau$", "φ": r"$\varphi$", "ψ": r"$\psi$", "ω": r"$\omega$", "Δ": r"$\Delta$", "Σ": r"$\Sigma$",
    "∞": r"$\infty$", "→": r"$\to$", "≤": r"$\le$", "≥": r"$\ge$", "≈": r"$\approx$", "×": r"$\times$", "±": r"$\pm$",
    "·": r"$\cdot$", "²": r"$^2$", "³": r"$^3$", "−": "$-$", "…": r"\dots{}",
}  # fmt: skip


def escape(text: str) -> str:
    """Return `text` so that LaTeX prints it as it is.

    Examples
    --------
    >>> escape("50% of x_1 & y")
    '50\\\\% of x\\\\_1 \\\\& y'
    """
    return "".join(_SPECIAL.get(c) or _SIGNS.get(c) or _letter(c) for c in re.sub(r"\s+", " ", text))


def _letter(c: str) -> str:
    """Return a letter that every engine compiles: pdflatex knows those of European languages only."""
    if " " <= c < "\x7f" or "\xa1" <= c < "\u0180":
        return c
    if not c.isprintable():
        return " "
    # Only the engines that read Unicode take the first branch; the other skips it unread.
    return rf"\ifdefined\Umathcode {c}\else ?\fi{{}}"


def label_tex(label: str) -> str:
    """Escape the words of a label and leave its mathematics, between dollars, alone."""
    return "".join(f"${part}$" if i % 2 else escape(part) for i, part in enumerate(label.split("$")))


def label_text(label: str) -> str:
    """Return a label for a terminal: its mathematics, between dollars, in Unicode."""
    return "".join(plain(part) if i % 2 else part for i, part in enumerate(label.split("$")))


def label_html(label: str) -> str:
    """Return a label as HTML: words escaped, what stands between dollars typeset."""
    return "".join(mathml(part) if i % 2 else escape_html(part) for i, part in enumerate(label.split("$")))
