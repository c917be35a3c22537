"""Formulas as MathML, which browsers typeset by themselves: no script, no fonts, no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .plain import LETTERS, SPACED
from .tree import WORDS, Atom, Command, Fence, Group, Node, Script, Table, parse

_FUNCTIONS = "log exp sin cos tan tanh sinh cosh max min sup inf det arg ln lim arcsin arctan arccos dim Pr Re Im deg"
FUNCTIONS = frozenset(_FUNCTIONS.split())
SPACES = {",": 0.17, ":": 0.22, ";": 0.28, " ": 0.33, "!": -0.17, "quad": 1.0, "qquad": 2.0}
SIZES = ("bigl", "bigr", "Bigl", "Bigr", "big", "Big", "bigm", "Bigm", "biggl", "biggr", "Biggl", "Biggr", "middle")
STYLES = ("displaystyle", "textstyle", "scriptstyle", "limits", "nolimits", "rm", "bf", "it", "notag", "nonumber")
OPERATORS = frozenset("()[]|/,;:!·×⋆*∘⊙′⟨⟩‖⌊⌋⌈⌉…∧∨⊗⊕∖∪∩⊂∣") | SPACED
LARGE = {"sum": "∑", "prod": "∏", "int": "∫", "iint": "∬", "oint": "∮", "bigcup": "⋃", "bigcap": "⋂"}
ACCENTS = {"bar": "¯", "overline": "¯", "hat": "^", "widehat": "^", "tilde": "~", "widetilde": "~", "dot": "˙",
           "ddot": "¨", "vec": "→", "check": "ˇ", "breve": "˘", "overbrace": "⏞"}  # fmt: skip
VARIANTS = {"mathbb": 0x1D538, "mathcal": 0x1D49C, "mathbf": 0x1D400, "boldsymbol": 0, "bm": 0, "mathsf": 0x1D5A0}
# Letters that Unicode keeps elsewhere than in their alphabet.
ELSEWHERE = {
    "mathbb": dict(zip("CHNPQRZ", "ℂℍℕℙℚℝℤ", strict=True)),
    "mathcal": dict(zip("BEFHILMRego", "ℬℰℱℋℐℒℳℛℯℊℴ", strict=True)),
}
MORE = {"mathbb1": "𝟙", "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]", "colon": ":", "bullet": "•",
        "lVert": "‖", "rVert": "‖", "|": "‖", "&": "&", "%": "%", "_": "_", "#": "#", "$": "$", "Longrightarrow": "⟹",
        "implies": "⟹", "iff": "⟺", "leftarrow": "←", "gets": "←", "Rightarrow": "⇒", "gtrsim": "≳", "lesssim": "≲",
        "cong": "≅", "emptyset": "∅", "Re": "Re", "triangle": "△", "square": "□", "downarrow": "↓", "uparrow": "↑",
        "searrow": "↘", "nearrow": "↗", "vdots": "⋮", "ddots": "⋱", "asymp": "≍", "succ": "≻", "prec": "≺",
        "succeq": "⪰", "preceq": "⪯", "bigoplus": "⨁", "flat": "♭", "sharp": "♯", "top": "⊤", "bot": "⊥",
        "longrightarrow": "⟶", "gg": "≫", "ll": "≪", "subseteq": "⊆", "cdots": "⋯", "mathbin": "", "colonequals": "≔",
        "leftrightarrow": "↔", "hookrightarrow": "↪", "star": "⋆", "varnothing": "∅", "ni": "∋",
        "Leftrightarrow": "⇔"}  # fmt: skip


def mathml(latex: str, display: bool = False, unknown: list[str] | None = None) -> str:
    """Return a formula as a ``<math>`` element.

    Parameters
    ----------
    latex : str
    display : bool
        On a line of its own.
    unknown : list, optional
        Receives the commands that are not known; they are shown by their names.
    """
    writer = _Writer([] if unknown is None else unknown)
    block = ' display="block"' if display else ""
    return f"<math{block}>{writer.row(parse(latex))}</math>"


class _Writer:
    def __init__(self, unknown: list[str]) -> None:
        self.unknown = unknown

    def row(self, nodes: Sequence[Node]) -> str:
        """Return nodes side by side, scripts put on what stands before them."""
        out: list[str] = []
        place = 0
        while place < len(nodes):
            node = nodes[place]
            place += 1
            base = "<mrow></mrow>" if isinstance(node, Script) else self.node(node)
            scripts = {node.mark: node.children} if isinstance(node, Script) else {}
            while place < len(nodes):
                after = nodes[place]
                if isinstance(after, Script):
                    scripts[after.mark] = [*scripts.get(after.mark, []), *after.children]
                elif after == Atom("'"):
                    scripts["^"] = [*scripts.get("^", []), Atom("\\prime")]
                elif after != Atom("\\limits"):
                    break
                place += 1
            out.append(self.scripted(node, base, scripts))
        return "<mrow>" + "".join(out) + "</mrow>"

    def scripted(self, node: Node, base: str, scripts: dict[str, Sequence[Node]]) -> str:
        if not scripts:
            return base
        limits = isinstance(node, Atom) and node.text.removeprefix("\\") in {*LARGE, "max", "min", "sup", "inf", "lim"}
        limits = limits and node != Atom("\\int")
        limits |= isinstance(node, Command) and node.name in ("\\operatorname*", "\\underbrace", "\\overbrace")
        down, up = ("munder", "mover") if limits else ("msub", "msup")
        parts = [self.row(scripts[mark]) for mark in ("_", "^") if mark in scripts]
        name = down + up.removeprefix("m") if len(parts) == 2 else down if "_" in scripts else up
        return f"<{name}>{base}{''.join(parts)}</{name}>"

    def node(self, node: Node) -> str:
        match node:
            case Atom(text):
                return self.atom(text)
            case Group(children):
                return self.row(children)
            case Command():
                return self.command(node)
            case Fence(left, children, right):
                return f"<mrow>{self.bracket(left)}{self.row(children)}{self.bracket(right)}</mrow>"
            case Table(name, rows):
                return self.table(name, rows)
            case Script():
                return self.row([node])

    def bracket(self, text: str) -> str:
        name = text.removeprefix("\\")
        sign = "" if name == "." else MORE.get(name) or LETTERS.get(name, name)
        return f'<mo fence="true" stretchy="true">{escape(sign)}</mo>' if sign else ""

    def atom(self, text: str) -> str:
        name = text.removeprefix("\\")
        if text == name:
            if name[0].isdigit() or name == ".":
                return f"<mn>{name}</mn>"
            sign = {"-": "−", "*": "∗"}.get(name, name)
            stretch = ' stretchy="false"' if name in "()[]|/" else ""
            return f"<mi>{escape(name)}</mi>" if name.isalpha() else f"<mo{stretch}>{escape(sign)}</mo>"
        if name in SPACES:
            return f'<mspace width="{SPACES[name]}em"/>'
        if name in LARGE:
            return f'<mo largeop="true">{LARGE[name]}</mo>'
        if name in FUNCTIONS:
            return f"<mi>{name}</mi><mo>&#x2061;</mo>"
        if name in SIZES or name in STYLES or name in ("\n", "mathopen", "mathclose"):
            return ""
        if name in ("{", "}"):
            return f'<mo stretchy="false">{name}</mo>'
        found = MORE.get(name) or LETTERS.get(name)
        if found is None:
            self.unknown.append(text)
            return f"<mtext>{escape(text)}</mtext>"
        return f"<mo>{escape(found)}</mo>" if not found.isalpha() or found in OPERATORS else f"<mi>{found}</mi>"

    def command(self, node: Command) -> str:
        name = node.name.removeprefix("\\")
        if node.name in WORDS:
            assert isinstance(node.arguments[0][0], Atom)
            text = node.arguments[0][0].text
            for written, shown in (
                ("\\ ", "\u00a0"),
                ("\\_", "_"),
                ("{-}", "-"),
                ("{", ""),
                ("}", ""),
                ("\\,", "\u2009"),
                ("\\text", ""),
                ("$", ""),
            ):
                text = text.replace(written, shown)
            if name in ("text", "textrm", "texttt", "mathtt"):
                return f"<mtext>{escape(text).replace(' ', '&#xa0;')}</mtext>"
            if "\\" in text or "^" in text or "_" in text:
                return self.row(parse(text))
            word = f'<mi mathvariant="normal">{escape(text.strip())}</mi>'
            return word + ("<mo>&#x2061;</mo>" if name.startswith("operatorname") else "")
        if name == "substack":
            return self.stack(node.arguments[0])
        bodies = [self.row(a) for a in node.arguments]
        if name in ("frac", "dfrac", "tfrac"):
            return f"<mfrac>{bodies[0]}{bodies[1]}</mfrac>"
        if name in ("binom", "tbinom"):
            return f'<mrow><mo>(</mo><mfrac linethickness="0">{bodies[0]}{bodies[1]}</mfrac><mo>)</mo></mrow>'
        if name == "sqrt":
            root = f"<mroot>{bodies[0]}{self.row(parse(node.option))}</mroot>"
            return root if node.option else f"<msqrt>{bodies[0]}</msqrt>"
        if name in ACCENTS:
            return f'<mover accent="true">{bodies[0]}<mo>{ACCENTS[name]}</mo></mover>'
        if name in ("underbrace", "underline"):
            return f"<munder>{bodies[0]}<mo>{'⏟' if name == 'underbrace' else '_'}</mo></munder>"
        if name in VARIANTS:
            return self.variant(name, node.arguments[0]) or bodies[0]
        if name in ("overset", "stackrel"):
            return f"<mover>{bodies[1]}{bodies[0]}</mover>"
        if name == "underset":
            return f"<munder>{bodies[1]}{bodies[0]}</munder>"
        if name == "phantom":
            return f"<mphantom>{bodies[0]}</mphantom>"
        return bodies[0]

    def variant(self, name: str, nodes: Sequence[Node]) -> str:
        """Return letters of another alphabet, or "" where Unicode has none of them."""
        if not all(isinstance(n, Atom) and len(n.text) == 1 for n in nodes):
            return f'<mrow style="font-weight: bold">{self.row(nodes)}</mrow>' if name in ("bm", "boldsymbol") else ""
        text = "".join(n.text for n in nodes if isinstance(n, Atom))
        base = VARIANTS[name] or VARIANTS["mathbf"]
        shown = ""
        for c in text:
            if c in ELSEWHERE.get(name, {}):
                shown += ELSEWHERE[name][c]
            elif c == "1" and name in ("mathbb", "mathbf"):
                shown += "𝟙" if name == "mathbb" else "𝟏"
            elif c.isascii() and c.isalpha():
                shown += chr(base + (ord(c) - ord("A") if c.isupper() else 26 + ord(c) - ord("a")))
            else:
                shown += c
        return f"<mi>{shown}</mi>"

    def stack(self, nodes: Sequence[Node]) -> str:
        rows: list[list[Node]] = [[]]
        for node in nodes:
            if node == Atom("\\\\"):
                rows.append([])
            else:
                rows[-1].append(node)
        return "<mtable>" + "".join(f"<mtr><mtd>{self.row(r)}</mtd></mtr>" for r in rows) + "</mtable>"

    def table(self, name: str, rows: Sequence[Sequence[Sequence[Node]]]) -> str:
        kind = name.partition("{")[0]
        aligned = kind in ("aligned", "align", "split")
        side = "right left" if aligned else "left" if kind == "cases" else "center"

        def cell(place: int, nodes: Sequence[Node]) -> str:
            sides = side.split()
            return f'<mtd style="text-align: {sides[place % len(sides)]}; padding-top: .2em">{self.row(nodes)}</mtd>'

        body = "".join(f"<mtr>{''.join(cell(c, n) for c, n in enumerate(row))}</mtr>" for row in rows)
        left, right = {"cases": ("{", ""), "pmatrix": ("(", ")"), "bmatrix": ("[", "]")}.get(kind, ("", ""))
        marks = [f'<mo fence="true" stretchy="true">{b}</mo>' if b else "" for b in (left, right)]
        shown = ' displaystyle="true"' if aligned or kind == "gathered" else ""
        return f"<mrow>{marks[0]}<mtable{shown}>{body}</mtable>{marks[1]}</mrow>"
