r"""Displayed equations that fit a column: broken at their signs, brackets and fractions opened where they must be.

Widths are estimated in em of the document's own size, a little on the wide side; `tests/unit/test_typeset.py` compiles
what is printed where a TeX is at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .tree import WORDS, Atom, Command, Fence, Group, Node, Script, Table, parse, write

# Widths in em of what a page of one column and a column of two leave beside an equation's number.
COLUMNS = {1: 31.0, 2: 18.5}
INDENT = 2.0
_RELATIONS = r"= < > \le \ge \leq \geq \approx \sim \propto \to \mapsto \in \equiv \simeq \ll \gg"
RELATIONS = frozenset(_RELATIONS.split())
SIGNS = frozenset([r"+", r"-", r"\pm", r"\mp"])
OPENING = frozenset([r"(", r"[", r"\{", r"\langle", r"\lfloor", r"\lceil", r"\bigl", r"\Bigl"])
CLOSING = frozenset([r")", r"]", r"\}", r"\rangle", r"\rfloor", r"\rceil"])
SPACES = {"\\,": 0.17, "\\:": 0.22, "\\;": 0.28, "\\ ": 0.33, "\\!": -0.17, "\\quad": 1.0, "\\qquad": 2.0, "~": 0.33}
NARROW = dict.fromkeys("ABCDEFGHKLOPRSTUVXYZ", 0.72) | dict.fromkeys("mwMWNQ", 0.92)
NARROW |= dict.fromkeys("ijlt.,;:|'!()[]", 0.36) | dict.fromkeys("fIr1s", 0.5)
LARGE = frozenset([r"\sum", r"\prod", r"\int", r"\iint", r"\oint"])
_FUNCTIONS = r"\log \exp \sin \cos \tan \tanh \sinh \cosh \max \min \sup \inf \det \arg \ln \lim \arcsin \arctan"
FUNCTIONS = frozenset(_FUNCTIONS.split())
# Prices of a break, against 1 for an empty line: the deeper a bracket, the dearer.
PRICE = {"relation": 0.15, "space": 0.0, "sign": 0.05, "product": 0.6, "average": 0.7}
DEPTH_PRICE = 0.25
SCRIPT = 0.72


def width(nodes: Sequence[Node]) -> float:
    """Return the width of nodes in em, as displayed."""
    total, scripts = 0.0, 0.0
    over = False
    for node in nodes:
        if isinstance(node, Script):
            inner = SCRIPT * width(node.children)
            # A subscript and a superscript stand above each other, and limits above and below their sign.
            total += max(0.0, inner - scripts)
            scripts = max(scripts, inner)
            continue
        over = isinstance(node, Atom) and node.text in LARGE
        scripts = 1.4 if over else 0.0
        total += _width(node)
    return total


def width_of(latex: str) -> float:
    """Return the width of a formula in em, as displayed."""
    return width(parse(latex))


def _width(node: Node) -> float:
    match node:
        case Atom(text):
            if text in SPACES:
                return SPACES[text]
            if text in RELATIONS:
                return 1.35
            if text in SIGNS or text in ("\\cdot", "\\times", "\\circ", "\\odot"):
                return 1.25 if text in SIGNS else 0.75
            if text in LARGE:
                return 1.6
            if text in FUNCTIONS:
                return 0.55 * (len(text) - 1) + 0.17
            if text.startswith(("\\big", "\\Big", "\\limits", "\\display")):
                return 0.15
            if text in (",", ";"):
                return 0.45
            if text[0].isdigit():
                return 0.5 * len(text)
            return NARROW.get(text, 0.62 if text.startswith("\\") else 0.57)
        case Group(children):
            return width(children)
        case Command(name, arguments):
            if name in WORDS:
                assert isinstance(arguments[0][0], Atom)
                return 0.52 * len(arguments[0][0].text.replace("\\ ", " ")) + 0.17
            inner = max(width(a) for a in arguments)
            if name == "\\frac" or name == "\\dfrac":
                return inner + 0.3
            if name in ("\\tfrac", "\\binom", "\\tbinom"):
                return SCRIPT * inner + (0.3 if name == "\\tfrac" else 0.9)
            return inner + (0.95 if name == "\\sqrt" else 0.0)
        case Fence(_, children, _):
            tall = any((isinstance(n, Command) and n.name == "\\frac") or isinstance(n, Table) for n in children)
            return width(children) + (1.5 if tall else 0.95)
        case Table(_, rows):
            columns = max(len(row) for row in rows)
            return sum(max(width(row[c]) if c < len(row) else 0.0 for row in rows) for c in range(columns)) + columns
        case Script():
            return SCRIPT * width(node.children)


@dataclass(frozen=True)
class Piece:
    """A run of nodes that stays together; `price` is what a new line before it costs, None where there may be none."""

    nodes: tuple[Node, ...]
    price: float | None

    @property
    def width(self) -> float:
        return width(self.nodes)


def pieces(nodes: Sequence[Node], products: bool = False) -> list[Piece]:
    """Cut a formula where a new line may begin: before relations and signs, after wide spaces."""
    out: list[Piece] = []
    run: list[Node] = []
    price: float | None = None
    depth = opened = 0

    def cut(kind: str) -> None:
        nonlocal run, price
        if run:
            out.append(Piece(tuple(run), price))
            run = []
        price = PRICE[kind] + DEPTH_PRICE * opened

    base: Node | None = None
    for place, node in enumerate(nodes):
        text = node.text if isinstance(node, Atom) else ""
        before, base = base, node if not isinstance(node, Script) else base
        last = before.text if isinstance(before, Atom) else "x" if before is not None else ""
        if text in OPENING:
            if text in ("\\bigl", "\\Bigl"):
                opened += 1
            elif last not in ("\\bigl", "\\Bigl"):
                depth += 1
        elif text in CLOSING and last not in ("\\bigr", "\\Bigr"):
            depth = max(0, depth - 1)
        elif text in ("\\bigr", "\\Bigr"):
            opened = max(0, opened - 1)
        if depth == 0 and place:
            binary = last not in RELATIONS and last not in SIGNS and last not in OPENING and last not in (",", "")
            if text in RELATIONS:
                cut("relation")
            elif text in SIGNS and binary:
                cut("sign")
            elif last in ("\\quad", "\\qquad"):
                cut("space")
            elif (products and last in ("\\,", ",")) or (
                products and binary and (_is_named(node) or (_is_factor(node) and not _takes_argument(before)))
            ):
                cut("product")
            elif products and _is_average(node) and last in LARGE:
                # Better before an average than within it.
                cut("average")
        run.append(node)
    if run:
        out.append(Piece(tuple(run), price))
    return out


def _takes_argument(node: Node | None) -> bool:
    """Whether what follows this node belongs to it: a sign of a sum, a function, an average, a derivative."""
    if isinstance(node, Command):
        return node.name in (*WORDS, "\\mathbb", "\\mathcal", "\\frac")
    return isinstance(node, Atom) and (
        node.text in LARGE | FUNCTIONS or node.text.isalpha() or node.text == "'" or node.text[0].isdigit()
    )


def _is_average(node: Node) -> bool:
    return isinstance(node, Command) and node.name == "\\mathbb"


def _is_named(node: Node) -> bool:
    """Whether this is a named function, which is no argument of what stands before it."""
    return isinstance(node, Command) and node.name in ("\\mathcal", "\\operatorname")


def _is_factor(node: Node) -> bool:
    """Whether a product may be broken before this node."""
    return isinstance(node, Fence | Table) or (isinstance(node, Command) and node.name == "\\frac") or (
        isinstance(node, Atom) and node.text in LARGE | {"\\mathbb"}
    )  # fmt: skip


def _sum_of(nodes: Sequence[Node]) -> bool:
    return sum(1 for p in pieces(nodes) if p.price is not None) > 0


def _bracketed(nodes: Sequence[Node], left: str = "(", right: str = ")") -> list[Node]:
    return [Atom("\\Bigl"), Atom(left), *nodes, Atom("\\Bigr"), Atom(right)]


def opened(node: Node, space: float, lift: Lift) -> list[Node] | None:
    """Return a bracket, fraction or root written so that it can be broken, or shorter; None where it cannot be."""
    if isinstance(node, Fence) and node.left != ".":
        if _sum_of(node.children) or Atom("\\,") in node.children:
            return _bracketed(node.children, node.left, node.right)
        return [Fence(node.left, lift(node.children), node.right)] if width(node.children) > 2 else None
    if isinstance(node, Table) and node.name == "cases" and all(len(row) == 2 for row in node.rows):
        where: list[Node] = [Atom("\\quad"), Command("\\text", [[Atom("for ")]])]
        rows: list[list[Sequence[Node]]] = []
        for value, condition in node.rows:
            rows += [[value], [[*where, *condition]]]
        return [Table("cases", rows)]
    if isinstance(node, Command) and node.name in ("\\frac", "\\dfrac"):
        above, below = node.arguments
        if width(below) > space / 2:
            return [Command("\\frac", [above, lift(below)])]
        number: list[Node] = []
        while above and isinstance(above[0], Atom) and above[0].text.isdigit():
            number, above = [*number, above[0]], above[1:]
        body = _bracketed(above) if _sum_of(above) else list(above)
        return [Command("\\frac", [number or [Atom("1")], below]), *body] if above else None
    if isinstance(node, Command) and node.name == "\\sqrt" and width(node.arguments[0]) > 2:
        return [Command("\\sqrt", [lift(node.arguments[0])], node.option)]
    return None


Lift = Callable[[Sequence[Node]], list[Node]]


def lines(latex: str, space: float, first: float | None = None, lift: Lift | None = None) -> list[str]:
    """Break a formula into lines.

    Parameters
    ----------
    latex : str
    space : float
        Width of a line, in em.
    first : float, optional
        Width of the first line.
    lift : callable, optional
        Takes the nodes of an expression that is too wide to stay where it is, and returns the symbol that stands for
        it from now on. Without it such expressions stay, too wide.

    Returns
    -------
    list of str
        The first is `latex` itself where it fits. What cannot be broken stays too wide.
    """
    nodes = parse(latex)
    first = space if first is None else first
    while True:
        for products in (False, True):
            cut = pieces(nodes, products)
            broken = _fill(cut, space, first)
            if broken is not None:
                return [write(line) for line in broken]
        widest = max(cut, key=lambda p: p.width)
        better = None if lift is None else _open_widest(nodes, widest, min(space, first), lift)
        if better is None:
            return [write(line) for line in _fill(cut, space, first, wide=True) or [tuple(nodes)]]
        nodes = better


def _open_widest(nodes: Sequence[Node], piece: Piece, space: float, lift: Lift) -> list[Node] | None:
    """Open the widest node of a piece that can be opened."""
    for node in sorted((n for n in piece.nodes if not isinstance(n, Atom | Script)), key=lambda n: -width([n])):
        into = opened(node, space, lift)
        if into is not None:
            place = next(i for i, n in enumerate(nodes) if n is node)
            return [*nodes[:place], *into, *nodes[place + 1 :]]
    return None


def _fill(cut: Sequence[Piece], space: float, first: float, wide: bool = False) -> list[tuple[Node, ...]] | None:
    """Return the cheapest lines of pieces; None where one does not fit, unless a piece may be too `wide`."""
    n = len(cut)
    widths = [p.width for p in cut]
    best = [math.inf] * n + [0.0]
    nexts = [n] * (n + 1)
    for start in range(n - 1, -1, -1):
        total = 0.0
        room = first if start == 0 else space - INDENT
        for stop in range(start + 1, n + 1):
            total += widths[stop - 1]
            if total > room and not (wide and stop == start + 1):
                break
            if stop < n and cut[stop].price is None:
                continue
            slack = max(0.0, 1 - total / room) if stop < n else 0.0
            cost = best[stop] + slack**2 + (0.5 + (cut[stop].price or 0.0) if stop < n else 0.0)
            if cost < best[start]:
                best[start], nexts[start] = cost, stop
    if math.isinf(best[0]):
        return None
    out, at = [], 0
    while at < n:
        out.append(tuple(node for p in cut[at : nexts[at]] for node in p.nodes))
        at = nexts[at]
    return out


def displayed(equations: Sequence[str], columns: int = 1) -> str:
    r"""Return numbered displayed equations that fit a page of one column, or a column of two.

    Pages may break between equations. Needs amsmath and amssymb.

    Parameters
    ----------
    equations : sequence of str
        Each ``left = right``, or a formula without a relation.
    columns : {1, 2}
    """
    space = COLUMNS[columns]
    sides = [_sides(equation) for equation in equations]
    column = max((width(parse(left)) for left, right in sides if right), default=0.0)
    together = column <= space / 3
    rows: list[str] = []
    count = 0

    def row(left: str, right: str) -> None:
        nonlocal count
        lifted: list[tuple[str, str]] = []

        def lift(nodes: Sequence[Node]) -> list[Node]:
            nonlocal count
            text = write(nodes)
            known = [name for name, what in lifted if what == text]
            if not known:
                count += 1
                lifted.append((rf"\Xi_{{{count}}}", text))
                known = [lifted[-1][0]]
            return parse(known[0])

        own = column if together else width(parse(left))
        if not right:
            broken = lines(left, space - (column if together else 0.0), lift=lift)
            body = [f"& {line}" if n == 0 else rf"&\quad {line}" for n, line in enumerate(broken)]
        elif own + width(parse(right)) > space and (own > space / 3 or _whole(right, space - INDENT, together)):
            body = lines(left, space) + [rf"\quad {line}" for line in lines(right, space - INDENT, lift=lift)]
            body = ["& " + line for line in body]
        else:
            broken = lines(right, space - own, space - own, lift)
            body = [f"{left} &{line}" if n == 0 else rf"&\quad {line}" for n, line in enumerate(broken)]
        if together:
            rows.append(" \\notag \\\\\n  ".join(body))
        elif len(body) == 1:
            rows.append(body[0].replace("&", "", 1))
        else:
            rows.append("\\begin{aligned}\n    " + " \\\\\n    ".join(body) + "\n  \\end{aligned}")
        for name, text in lifted:
            row(name, f"= {text}")

    for left, right in sides:
        row(left, right)
    name = "align" if together else "gather"
    text = " \\\\\n  ".join(rows)
    return f"{{\\allowdisplaybreaks\n\\begin{{{name}}}\n  {text}\n\\end{{{name}}}}}\n"


def _whole(right: str, space: float, together: bool) -> bool:
    """Whether a right side has no place to break, fits a line of its own, and may stand there."""
    nodes = parse(right)
    return not together and width(nodes) <= space and len(pieces(nodes)) == 1


def _sides(equation: str) -> tuple[str, str]:
    """Return what stands before the first relation outside of brackets, and the rest with the relation."""
    cut = pieces(parse(equation))
    for place, piece in enumerate(cut):
        head = piece.nodes[0]
        if place and isinstance(head, Atom) and head.text in RELATIONS:
            return write([n for p in cut[:place] for n in p.nodes]), write([n for p in cut[place:] for n in p.nodes])
    return equation, ""
