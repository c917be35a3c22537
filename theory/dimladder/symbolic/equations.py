"""Descriptions: order parameters, printed equations, steps of a derivation, right-hand sides in sympy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any


def in_words(name: str) -> str:
    r"""Return a variable without a symbol for mathematics: ``train_loss`` is ``\mathrm{train\ loss}``."""
    return r"\mathrm{" + name.replace("_", r"\ ") + "}"


def latex(expression: Any, **settings: Any) -> str:
    """Return a sympy expression in LaTeX as people write it: ramps as max(0, x), steps as 1[x > 0], averages E[...]."""
    import sympy as sp

    expression = sp.sympify(expression)
    ramps = {m: _ramp(m) for m in expression.atoms(sp.Mul) if m.has(sp.Heaviside)}
    printer = _printer()({"diff_operator": "rd", **settings})
    return str(printer.doprint(expression.xreplace({m: r for m, r in ramps.items() if r != m})))


def _ramp(product: Any) -> Any:
    """Return a product with each x**n times its own step as max(0, x)**n."""
    import sympy as sp

    factors = list(product.args)
    for step in [f for f in factors if isinstance(f, sp.Heaviside)]:
        powers = (f for f in factors if f.as_base_exp()[0] == step.args[0] and f.as_base_exp()[1].is_positive)
        power = next(powers, None)
        if power is not None:
            factors.remove(step)
            factors[factors.index(power)] = sp.Max(0, step.args[0]) ** power.as_base_exp()[1]
    return sp.Mul(*factors, evaluate=False) if len(factors) > 1 else factors[0]


@cache
def _printer() -> Any:
    from sympy.printing.latex import LatexPrinter

    class Printer(LatexPrinter):  # type: ignore[misc]
        def _print_Heaviside(self, expr: Any, exp: Any = None) -> str:
            text = rf"1\left[{self._print(expr.args[0])} > 0\right]"
            return f"{text}^{{{exp}}}" if exp else text

        def _print_Function(self, expr: Any, exp: Any = None) -> str:
            name = str(expr.func.__name__)
            if name.startswith(r"\mathbb{E}"):
                text = rf"{name}\left[{', '.join(map(self._print, expr.args))}\right]"
                return f"{text}^{{{exp}}}" if exp else text
            if re.fullmatch(r"[A-Za-z]'+", name) and not exp:
                return rf"{name}\left({', '.join(map(self._print, expr.args))}\right)"
            return str(super()._print_Function(expr, exp))

    return Printer


@dataclass(frozen=True)
class OrderParameter:
    """A named quantity that describes learning as d grows.

    Attributes
    ----------
    name : str
        Variable name, the same in theory, simulation and files.
    dims : tuple of str
        Index names, without time: ``("student", "teacher")``; empty for a scalar.
    latex : str
        How it is printed, e.g. ``M_{in}``.
    meaning : str
        One clause, with the microscopic definition.
    scaling : str
        How it scales with d.
    units : str or None
    symmetric : bool
        Whether it is a symmetric matrix.
    """

    name: str
    dims: tuple[str, ...]
    latex: str
    meaning: str
    scaling: str = "O(1)"
    units: str | None = None
    symmetric: bool = False


@dataclass(frozen=True)
class Equation:
    """One printed equation: LaTeX always, and the symbolic form it was printed from where there is one."""

    label: str
    latex: str
    sympy: Any = None
    note: str = ""

    @classmethod
    def of(cls, label: str, lhs: Any, rhs: Any, note: str = "", **settings: Any) -> Equation:
        """Print ``lhs = rhs`` (sympy expressions, or a LaTeX string on the left)."""
        left = lhs if isinstance(lhs, str) else latex(lhs, **settings)
        return cls(label, f"{left} = {latex(rhs, **settings)}", (lhs, rhs), note)


def picker(rows: Iterable[Equation]) -> Callable[..., tuple[Equation, ...]]:
    """Return a function of labels that returns their equations, in its order: labels that are not there fall out."""
    by_label = {row.label: row for row in rows}
    return lambda *labels: tuple(by_label[label] for label in labels if label in by_label)


@dataclass(frozen=True)
class Step:
    """One step of a derivation, as ``derive --explain`` prints it."""

    title: str
    text: str
    equations: tuple[Equation, ...] = ()


@dataclass(frozen=True)
class Equations:
    """Symbolic right-hand sides of an explicit system of scalars.

    Attributes
    ----------
    state : mapping
        Symbol of each component -> its right-hand side.
    parameters : tuple of Symbol
        In the order of the parameter vector.
    observables : mapping
        Name -> expression in state and parameters.
    time : Symbol or None
    """

    state: Mapping[Any, Any]
    parameters: Sequence[Any]
    observables: Mapping[str, Any] = field(default_factory=dict)
    time: Any = None
