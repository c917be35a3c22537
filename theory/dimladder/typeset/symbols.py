r"""The symbols of a formula: what a table of notation has to explain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .tree import Atom, Command, Fence, Group, Node, Script, Table, parse, write

# A dot is a derivative, of the same symbol.
_ACCENTS = r"\bar \hat \tilde \vec \check \breve \widehat \widetilde \overline \underline"
ACCENTS = frozenset(_ACCENTS.split())
ALPHABETS = frozenset([r"\mathbf", r"\mathcal", r"\mathbb", r"\mathsf", r"\mathfrak", r"\boldsymbol", r"\bm"])
NAMES = frozenset([r"\mathrm", r"\operatorname", r"\operatorname*", r"\mathit"])
_GREEK = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi varpi rho varrho sigma
tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell langle
"""
LETTERS = frozenset("\\" + word for word in _GREEK.split())
# Signs in a script that make another symbol of a letter; others (powers, transposes, inverses) do not.
MARKS = frozenset([r"\star", "*", r"\ast", r"\infty", r"\perp", r"\partial", r"\pm", "+", "-"])
TRANSPOSE = Script("^", [Atom("T")])
# Functions that nobody needs to be told.
_KNOWN = "log exp sin cos tan tanh sinh cosh max min sup inf det arg ln lim arcsin arccos arctan asin"
KNOWN = frozenset(_KNOWN.split())


@dataclass(frozen=True)
class Occurrence:
    r"""A symbol as it stands in a formula.

    Attributes
    ----------
    name : str
        LaTeX of the letter with its accents, and with what marks it: ``\hat q``, ``f_\star``, ``R_{\mathrm{test}}``.
    scripts : str
        What stands below it and is no mark: indices, or a letter that names it.
    """

    name: str
    scripts: str = ""


def symbols(latex: str) -> list[Occurrence]:
    """Return each symbol of a formula once, in the order met; those of scripts, arguments and fractions too."""
    return list(dict.fromkeys(_walk(parse(latex))))


def heads(latex: str) -> list[Occurrence]:
    """Return the symbols that stand at the top of a formula, such as the two of ``i, k``, without their indices."""
    return list(dict.fromkeys(_walk(parse(latex), deep=False)))


def _walk(nodes: Sequence[Node], deep: bool = True) -> Iterator[Occurrence]:
    place = 0
    while place < len(nodes):
        node = nodes[place]
        place += 1
        scripts: list[Script] = []
        while place < len(nodes) and (isinstance(nodes[place], Script) or nodes[place] == Atom("'")):
            if isinstance(script := nodes[place], Script):
                scripts.append(script)
            place += 1
        if (name := _name(node)) and not _differential(node, nodes[place:]):
            yield _occurrence(name, scripts)
        elif deep or isinstance(node, Group):
            for part in _parts(node):
                yield from _walk(part, deep)
        if deep:
            for script in scripts:
                if not _is_mark(script) and script != TRANSPOSE:
                    yield from _walk(script.children)


def _differential(node: Node, after: Sequence[Node]) -> bool:
    return isinstance(node, Command) and node.name == r"\mathrm" and write([node]) == r"\mathrm{d}"


def _name(node: Node) -> str:
    """Return the LaTeX of a node that is a symbol by itself, else an empty text."""
    match node:
        case Atom(text):
            return text if text in LETTERS or (len(text) == 1 and text.isalpha()) else ""
        case Command(name) if name in NAMES:
            word = node.arguments[0][0]
            return "" if isinstance(word, Atom) and word.text in KNOWN else write([node]).replace("*", "")
        case Command(name) if name in ALPHABETS or (name in ACCENTS and _single(node.arguments[0])):
            return write([node])
    return ""


def _single(nodes: Sequence[Node]) -> bool:
    """Whether an accent stands on one symbol, with its scripts."""
    return bool(nodes) and bool(_name(nodes[0])) and all(isinstance(n, Script) or n == Atom("'") for n in nodes[1:])


def _parts(node: Node) -> list[Sequence[Node]]:
    match node:
        case Group(children) | Fence(_, children, _):
            return [children]
        case Command(name, arguments) if name not in (r"\text", r"\textrm", r"\texttt", *NAMES):
            return list(arguments)
        case Table(_, rows):
            return [cell for row in rows for cell in row]
    return []


def _occurrence(name: str, scripts: Sequence[Script]) -> Occurrence:
    marks, below = "", ""
    for script in scripts:
        if _is_mark(script):
            marks += script.mark + "{" + write(script.children) + "}"
        elif script.mark == "_":
            below += write(script.children)
    return Occurrence(name + marks, below.replace(" ", "").replace(",", ""))


def _is_mark(script: Script) -> bool:
    """Whether a script makes another symbol of a letter: a word, a star; no power, no index."""
    return all(_marks(node) for node in script.children)


def _marks(node: Node) -> bool:
    if isinstance(node, Atom):
        return node.text in MARKS
    return isinstance(node, Command) and node.name in (*NAMES, r"\text")
