"""Formulas for a terminal: one line of Unicode, with brackets wherever two dimensions are lost."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .tree import WORDS, Atom, Command, Fence, Group, Node, Script, Table, parse

_LETTERS = """
alpha=α beta=β gamma=γ delta=δ epsilon=ϵ varepsilon=ε zeta=ζ eta=η theta=θ vartheta=ϑ iota=ι kappa=κ mu=μ nu=ν xi=ξ
pi=π varpi=ϖ rho=ρ varrho=ϱ sigma=σ tau=τ upsilon=υ phi=φ varphi=φ chi=χ psi=ψ omega=ω Gamma=Γ Delta=Δ Theta=Θ
Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Upsilon=Υ Phi=Φ Psi=Ψ Omega=Ω ell=ℓ hbar=ℏ nabla=∇ partial=∂ infty=∞ sum=Σ prod=Π int=∫
langle=⟨ rangle=⟩ cdot=· times=× star=⋆ ast=* circ=∘ odot=⊙ prime=′ dagger=† top=ᵀ perp=⊥ parallel=∥ pm=± mp=∓ to=→
rightarrow=→ mapsto=↦ le=≤ leq=≤ ge=≥ geq=≥ ne=≠ neq=≠ sim=~ simeq=≃ approx=≈ propto=∝ equiv=≡ ll=≪ gg=≫ mid=|
vert=| lvert=| rvert=| Vert=‖ lVert=‖ rVert=‖ lfloor=⌊ rfloor=⌋ lceil=⌈ rceil=⌉ ldots=… dots=… cdots=… cup=∪ cap=∩
subset=⊂ setminus=∖ forall=∀ exists=∃ wedge=∧ vee=∨ otimes=⊗ oplus=⊕ lambda=λ in=∈ not=¬
leftarrow=← Leftrightarrow=⇔ Rightarrow=⇒ ni=∋
"""
LETTERS = dict(word.split("=", 1) for word in _LETTERS.split()) | {"quad": "   ", "qquad": "      "}
NOTHING = ("left", "right", "bigl", "bigr", "Bigl", "Bigr", "big", "Big", "displaystyle", "textstyle", "limits", "!")
SUPERSCRIPTS = dict(zip("0123456789+-()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", strict=True)) | {"ᵀ": "ᵀ", "⋆": "⋆", "′": "′", "*": "*"}
SUBSCRIPTS = dict(zip("0123456789+-()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True))
ACCENTS = {"\\bar": "\u0304", "\\overline": "\u0304", "\\hat": "\u0302", "\\widehat": "\u0302", "\\tilde": "\u0303",
           "\\widetilde": "\u0303", "\\dot": "\u0307", "\\ddot": "\u0308", "\\vec": "\u20d7"}  # fmt: skip
BLACKBOARD = {"E": "E", "P": "P", "R": "ℝ", "N": "ℕ", "Z": "ℤ", "1": "1", "S": "S"}
SPACED = frozenset(
    ["=", "+", "-", "±", "∓", "<", ">", "≤", "≥", "≠", "≈", "~", "≃", "∝", "≡", "≪", "≫", "→", "←", "↦", "∈"]
)


def plain(latex: str) -> str:
    r"""Return a formula as one line of text.

    Examples
    --------
    >>> plain(r"\frac{\mathrm{d} M_{im}}{\mathrm{d} t} = - \eta D_{im} a_{i}")
    'dMᵢₘ/dt = -η Dᵢₘ aᵢ'
    """
    return " ".join(_line(parse(latex)).split(" ")).strip()


def _line(nodes: Sequence[Node]) -> str:
    words: list[str] = []
    operand = signed = False
    for node in nodes:
        text = _word(node)
        bare = text.strip()
        if isinstance(node, Script) or bare == "'":
            text = "′" if bare == "'" else text
            words[-1:] = [words[-1] + text if words else text]
            continue
        if not text:
            continue
        if bare in SPACED and isinstance(node, Atom):
            signed = not operand and bare in "+-"
            words.append(bare if signed else f" {bare} ")
            operand = False
            continue
        if signed:
            words[-1] += text
        else:
            words.append(text)
        operand, signed = bare not in ("(", "[", ",", "⟨", "|"), False
    return _spaced(words)


def _spaced(words: Sequence[str]) -> str:
    """Join factors, with a space where they would run together."""
    out = ""
    for word in words:
        apart = out and word and out[-1] not in " ([⟨⌊⌈|/{·" and word[0] not in " )]⟩⌋⌉|,;:/}!′·^_"
        bracket = word[:1] in ("(", "[") and out[-1:] != ")"
        out += (" " if apart and not bracket else "") + word
        if word[:1] in (",", ";"):
            out += " "
    return re.sub(r"(?<=\S) {2}(?=\S)", " ", out)


def _word(node: Node) -> str:
    match node:
        case Atom(text):
            name = text.removeprefix("\\")
            if text == name:
                return name
            if text == "\\\\":
                return ", "
            if name in LETTERS:
                return LETTERS[name]
            return (
                "" if name in NOTHING else {",": "", ";": " ", ":": " ", " ": " ", "{": "{", "}": "}"}.get(name, name)
            )
        case Group(children):
            return _line(children)
        case Command():
            return _command(node)
        case Fence(left, children, right):
            return _bracket(left) + _line(children).strip() + _bracket(right)
        case Table(name, rows):
            body = "; ".join(", ".join(_line(cell).strip() for cell in row if cell) for row in rows)
            return "{" + body + "}" if name == "cases" else "[" + body + "]"
        case Script():
            return _script(node)


def _bracket(text: str) -> str:
    name = text.removeprefix("\\")
    return "" if text == "." else LETTERS.get(name, name)


def _command(node: Command) -> str:
    if node.name in WORDS:
        assert isinstance(node.arguments[0][0], Atom)
        return node.arguments[0][0].text.replace("\\ ", " ").replace("\\_", "_").strip()
    first = _line(node.arguments[0]).strip()
    if node.name in ("\\frac", "\\tfrac", "\\dfrac"):
        return (
            f"{_factor(first, node.arguments[0])}/{_factor(_line(node.arguments[1]).strip(), node.arguments[1], True)}"
        )
    if node.name in ("\\binom", "\\tbinom"):
        return f"binom({first}, {_line(node.arguments[1]).strip()})"
    if node.name == "\\sqrt":
        return ("√" if not node.option else f"{node.option}√") + (first if _is_word(first) else f"({first})")
    if node.name in ACCENTS:
        return first[:1] + ACCENTS[node.name] + first[1:]
    if node.name == "\\mathbb":
        return BLACKBOARD.get(first, first)
    if node.name == "\\substack":
        return first.replace("\\\\", ", ")
    return first


def _is_word(text: str) -> bool:
    return len(text) == 1 or text.replace(".", "").isdigit()


def _factor(text: str, nodes: Sequence[Node], below: bool = False) -> str:
    """Put brackets around what a fraction bar held together."""
    loose = any(isinstance(n, Atom) and LETTERS.get(n.text.removeprefix("\\"), n.text) in SPACED for n in nodes)
    symbols = [n for n in nodes if not isinstance(n, Script)]
    if symbols[:1] in ([Atom("\\partial")], [Command("\\mathrm", [[Atom("d")]])]) and (len(symbols) < 3 or below):
        return text.replace("d ", "d", 1).replace("∂ ", "∂", 1)
    return f"({text})" if loose or (len(symbols) > 1 and (below or "/" in text)) else text


def _script(node: Script) -> str:
    text = _line(node.children).strip()
    for sign in SPACED:
        text = text.replace(f" {sign} ", sign)
    table = SUPERSCRIPTS if node.mark == "^" else SUBSCRIPTS
    text = text.replace(", ", ",")
    squeezed = text.replace(" ", "").replace(",", "") if node.mark == "_" else text.replace(" ", "")
    if squeezed and all(c in table for c in squeezed) and (node.mark == "_" or len(squeezed) <= 3):
        return "".join(table[c] for c in squeezed)
    if len(squeezed) == 1:
        return node.mark + squeezed
    return f"{node.mark}({text})" if node.mark == "^" else f"_{{{text}}}"
