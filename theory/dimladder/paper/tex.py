"""Text for LaTeX: numbers, macro names, templates; escaping is `typeset.words`."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

from ..results.table import in_brackets
from ..typeset.words import escape

# Commands of mathematics that symbols of variables are made of.
_MATHEMATICS = r"""
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho varrho sigma tau
upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar nabla partial infty
sum prod int frac tfrac dfrac sqrt bar hat tilde vec dot ddot check breve widehat widetilde overline underline mathrm
mathbf mathcal mathbb mathsf mathit mathfrak boldsymbol bm text textrm rm bf operatorname left right big Big bigl bigr
Bigl Bigr langle rangle lVert rVert lvert rvert Vert vert lfloor rfloor lceil rceil cdot times star ast circ prime
dagger perp parallel pm mp to rightarrow leftarrow le ge leq geq neq sim simeq approx propto in mid quad max min sup inf
log exp sin cos tan tanh arg det dim lim Re Im Pr deg ln tr not over limits dots ldots cdots mathop displaystyle
textstyle scriptstyle
"""
_COMMANDS = frozenset(_MATHEMATICS.split())
_DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")


def safe_mathematics(latex: str) -> bool:
    r"""Return whether a symbol from a file may be put between dollars as it is.

    A file may come from anybody: what is not letters, digits, brackets and the commands of mathematics (``\input``,
    comments, unbalanced braces, ends of paragraphs) is not let into a paper.
    """
    if not latex or len(latex) > 400 or not latex.isprintable() or re.search(r"[%#&$]|\^\^|\\[^A-Za-z,;:! {}|]", latex):
        return False
    depth = 0
    for c in latex:
        depth += {"{": 1, "}": -1}.get(c, 0)
        if depth < 0:
            return False
    return depth == 0 and set(re.findall(r"\\([A-Za-z]+)", latex)) <= _COMMANDS


def words(name: str) -> str:
    """Return a variable or key name as words: ``algorithm.learning_rate`` becomes ``learning rate``."""
    return name.rsplit(".", 1)[-1].replace("_", " ")


def macro_name(*parts: str) -> str:
    """Return a LaTeX command name of letters only: ``learning_rate`` becomes ``LearningRate``, ``Q 0`` ``QZero``."""
    pieces = re.findall(r"[A-Za-z]+|\d|[.+-](?=\d)", " ".join(parts))
    spoken = {".": "Point", "-": "Minus", "+": "Plus"}
    return "".join(
        _DIGITS[int(p)] if p.isdigit() else spoken[p] if p in spoken else p[0].upper() + p[1:] for p in pieces
    )


def number(value: Any, digits: int = 6) -> str:
    """Return a number for LaTeX, in text or in mathematics: ``0.0123``, ``\\ensuremath{1.2\\times10^{-7}}``."""
    if isinstance(value, bool | str):
        return escape(str(value).lower() if isinstance(value, bool) else value)
    value = float(value) if not float(value).is_integer() or abs(float(value)) >= 1e15 else int(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "--" if math.isnan(value) else rf"\ensuremath{{{'-' if value < 0 else ''}\infty}}"
    if isinstance(value, int) and abs(value) < 10**digits:
        return _signed(str(value))
    return _signed(_scientific(f"{value:.{digits}g}"))


def rounded(value: float, se: float) -> tuple[str, str]:
    """Return value and uncertainty with two significant digits of the uncertainty.

    Examples
    --------
    >>> rounded(0.123456, 0.00123)
    ('0.1235', '0.0012')
    """
    if not (math.isfinite(se) and se > 0 and math.isfinite(value)):
        return number(value), number(se)
    places = 1 - math.floor(math.log10(float(f"{se:.1e}")))
    if 0 <= places <= 9:
        return _signed(f"{value:.{places}f}"), f"{se:.{places}f}"
    if places < 0:
        return _signed(f"{round(value, places):.0f}"), f"{round(se, places):.0f}"
    exponent = math.floor(math.log10(max(abs(value), se)))
    scaled = [f"{v / 10**exponent:.{max(places + exponent, 0)}f}e{exponent}" for v in (value, se)]
    return _signed(_scientific(scaled[0])), _scientific(scaled[1])


def with_error(value: float, se: float) -> str:
    """Return a value with the two digits of its uncertainty in brackets behind its own last digits.

    Examples
    --------
    >>> with_error(0.123456, 0.00123), with_error(1234.5, 21.0), with_error(3.0, 0.0)
    ('0.1235(12)', '1234(21)', '3')
    """
    if not (math.isfinite(se) and se > 0 and math.isfinite(value)):
        return number(value)
    if se < 1e-8:
        # Tiny: digits of a common power of ten.
        power = math.floor(math.log10(max(abs(value), se)))
        return rf"\ensuremath{{{in_brackets(value / 10.0**power, se / 10.0**power)}\times10^{{{power}}}}}"
    return _signed(in_brackets(value, se))


def _scientific(text: str) -> str:
    mantissa, e, exponent = text.partition("e")
    return rf"\ensuremath{{{mantissa}\times10^{{{int(exponent)}}}}}" if e else text


def _signed(text: str) -> str:
    return rf"\ensuremath{{{text}}}" if text.startswith("-") else text


@cache
def _environment() -> Any:
    import jinja2

    # The default braces would fight with LaTeX's.
    return jinja2.Environment(
        loader=jinja2.PackageLoader("dimladder.paper", "templates"),
        block_start_string="((*", block_end_string="*))", variable_start_string="(((", variable_end_string=")))",
        comment_start_string="((=", comment_end_string="=))", trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, undefined=jinja2.StrictUndefined, autoescape=False,
    )  # fmt: skip


def render(template: str, **values: Any) -> str:
    """Return a template of ``paper/templates`` filled in."""
    return str(_environment().get_template(template).render(**values))
