"""The LaTeX of formulas as a tree: what this project prints of it, not all that TeX can do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|[{}^_&]|\s+|\d+(?:\.\d+)?|.", re.DOTALL)
# How many arguments in braces a command takes.
_ONE = r"""
\mathrm \mathbf \mathcal \mathbb \mathsf \mathit \mathfrak \boldsymbol \bm \text \textrm \texttt \mathtt \mathrel
\operatorname \operatorname* \bar \hat \tilde \vec \dot \ddot \check \breve \widehat \widetilde \overline \underline
\mathop \substack \underbrace \overbrace \phantom \sqrt
"""
_TWO = r"\frac \tfrac \dfrac \binom \tbinom \stackrel \overset \underset"
ARGUMENTS = dict.fromkeys(_ONE.split(), 1) | dict.fromkeys(_TWO.split(), 2)
# A sum ends here.
_ENDS = r"= < > , ; | : \le \ge \leq \geq \approx \sim \propto \to \in \mid"
ENDS = frozenset(_ENDS.split())
# Functions that LaTeX has a command of its own for.
STANDARD = {"asin": "\\arcsin", "acos": "\\arccos", "atan": "\\arctan", "log": "\\log"}
# Arguments that are words: spaces in them count, and nothing in them is a formula.
WORDS = ("\\text", "\\textrm", "\\texttt", "\\mathtt", "\\mathrm", "\\operatorname", "\\operatorname*")


@dataclass(frozen=True)
class Atom:
    """One character, or a command without arguments."""

    text: str


@dataclass(frozen=True)
class Group:
    """``{...}``."""

    children: Sequence[Node]


@dataclass(frozen=True)
class Script:
    """``^{...}`` or ``_{...}``: it belongs to the node before it."""

    mark: str
    children: Sequence[Node]


@dataclass(frozen=True)
class Command:
    """A command with its arguments; those of `WORDS` hold one `Atom`, their text."""

    name: str
    arguments: Sequence[Sequence[Node]]
    option: str = ""


@dataclass(frozen=True)
class Fence:
    r"""``\left( ... \right)``."""

    left: str
    children: Sequence[Node]
    right: str


@dataclass(frozen=True)
class Table:
    r"""``\begin{cases} ... \end{cases}`` and its like: rows of cells."""

    name: str
    rows: Sequence[Sequence[Sequence[Node]]]


Node = Atom | Group | Script | Command | Fence | Table


class _Reader:
    def __init__(self, text: str) -> None:
        self.tokens = TOKEN.findall(text)
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def skip_spaces(self) -> None:
        while self.peek().isspace():
            self.at += 1

    def until(self, *ends: str) -> list[Node]:
        """Read nodes up to one of the tokens `ends`, which stays, or to the end of the text."""
        out: list[Node] = []
        while self.at < len(self.tokens) and self.peek() not in ends:
            if self.peek().isspace():
                self.at += 1
            else:
                out.append(self.node())
        return out

    def node(self) -> Node:
        token = self.take()
        if token == "{":
            children = self.until("}")
            self.take()
            return Group(children)
        if token in ("^", "_"):
            return Script(token, self.argument())
        if token == r"\left":
            return self.fence()
        if token == r"\begin":
            return self.table()
        if token in ARGUMENTS:
            option = ""
            if token == r"\sqrt":
                self.skip_spaces()
                if self.peek() == "[":
                    while (piece := self.take()) not in ("]", ""):
                        option += piece if piece != "[" else ""
            if token in WORDS:
                return Command(token, [[Atom(self.words())]])
            return Command(token, [self.argument() for _ in range(ARGUMENTS[token])], option)
        return Atom(token)

    def argument(self) -> Sequence[Node]:
        self.skip_spaces()
        if self.peek().isdigit() and len(self.peek()) > 1:
            # Without braces an argument is one digit.
            first, rest = self.peek()[0], self.peek()[1:]
            self.tokens[self.at] = rest
            return [Atom(first)]
        node = self.node()
        return node.children if isinstance(node, Group) else [node]

    def words(self) -> str:
        self.skip_spaces()
        if self.peek() != "{":
            return self.take()
        depth, text = 0, ""
        while self.at < len(self.tokens):
            token = self.take()
            depth += {"{": 1, "}": -1}.get(token, 0)
            if depth == 0:
                break
            text += token
        return text[1:]

    def fence(self) -> Fence:
        self.skip_spaces()
        left = self.take()
        children = self.until(r"\right")
        self.take()
        self.skip_spaces()
        return Fence(left, children, self.take())

    def table(self) -> Table:
        name = self.words()
        if name in ("array", "tabular"):
            name += "{" + self.words() + "}"
        rows: list[list[Sequence[Node]]] = [[]]
        while self.at < len(self.tokens):
            rows[-1].append(self.until("&", r"\\", r"\end"))
            token = self.take()
            if token == r"\\":
                rows.append([])
            elif token != "&":
                break
        self.words()
        return Table(name, [row for row in rows if any(row)])


def parse(latex: str) -> list[Node]:
    """Return the nodes of a formula, without braces that print nothing, and sums with a positive term first."""
    return _inner(_Reader(latex).until())


def _inner(nodes: Sequence[Node]) -> list[Node]:
    return positive_first([tidy(node) for node in _joined(nodes)])


def positive_first(nodes: Sequence[Node]) -> list[Node]:
    """Return ``b - a`` for ``- a + b``, on each side of relations and commas."""
    terms: list[list[Node]] = [[]]
    out: list[Node] = []

    def flush() -> None:
        nonlocal terms
        plus = next((n for n, t in enumerate(terms) if t and t[0] == Atom("+")), None)
        if plus is not None and terms[0] and terms[0][0] == Atom("-"):
            # What trails the last term, such as a space before a second formula, stays at the end.
            first = terms.pop(plus)[1:]
            tail: list[Node] = []
            while plus == len(terms) and first and isinstance(first[-1], Atom) and first[-1].text.startswith("\\q"):
                tail.insert(0, first.pop())
            terms = [first, *terms, tail]
        out.extend(n for t in terms for n in t)
        terms = [[]]

    depth = 0
    for node in nodes:
        text = node.text if isinstance(node, Atom) else ""
        depth += (text in ("(", "[", "\\{", "\\langle")) - (text in (")", "]", "\\}", "\\rangle"))
        if depth == 0 and (text in ENDS or text.startswith("\\q")):
            if text.startswith("\\q"):
                terms[-1].append(node)
                flush()
            else:
                flush()
                out.append(node)
        elif depth == 0 and text in ("+", "-") and (terms[-1] or len(terms) > 1):
            terms.append([node])
        else:
            terms[-1].append(node)
    flush()
    return out


def _joined(nodes: Sequence[Node]) -> list[Node]:
    """Take away braces around a single symbol or bracket, which print nothing."""
    out: list[Node] = []
    for node in nodes:
        alone = isinstance(node, Group) and len(node.children) == 1
        out.append(node.children[0] if alone and isinstance(node, Group) else node)
    return out


def tidy(node: Node) -> Node:
    """Return a node with superfluous braces taken away at every depth."""
    match node:
        case Group() | Script() | Fence():
            return replace(node, children=_inner(node.children))
        case Command("\\operatorname", [[Atom(word)]]) if word in STANDARD:
            return Atom(STANDARD[word])
        case Command() if node.name not in WORDS:
            return replace(node, arguments=[_inner(a) for a in node.arguments])
        case Table():
            return replace(node, rows=[[_inner(c) for c in row] for row in node.rows])
    return node


def write(nodes: Sequence[Node]) -> str:
    """Return the LaTeX of nodes."""
    out = ""
    for node in nodes:
        text = _write(node)
        if re.search(r"\\[A-Za-z]+$", out) and re.match(r"[A-Za-z]", text):
            out += " "
        out += f" {text} " if text in ("=", "+", "-", "\\le", "\\ge", "\\approx", "\\sim") else text
    return re.sub(r"  +", " ", out).strip()


def _write(node: Node) -> str:
    match node:
        case Atom():
            return node.text
        case Group():
            return "{" + write(node.children) + "}"
        case Script():
            return f"{node.mark}{{{write(node.children)}}}"
        case Command():
            option = f"[{node.option}]" if node.option else ""
            bodies = [a[0].text if node.name in WORDS and isinstance(a[0], Atom) else write(a) for a in node.arguments]
            return node.name + option + "".join(f"{{{body}}}" for body in bodies)
        case Fence():
            return rf"\left{node.left} {write(node.children)} \right{node.right}"
        case Table():
            rows = r" \\ ".join(" & ".join(write(cell) for cell in row) for row in node.rows)
            return rf"\begin{{{node.name}}} {rows} \end{{{node.name.partition('{')[0]}}}"
