"""Descriptions: order parameters, printed equations, steps of a derivation, right-hand sides in sympy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


def in_words(name: str) -> str:
    r"""Return a variable without a symbol for mathematics: ``train_loss`` is ``\mathrm{train\ loss}``."""
    return r"\mathrm{" + name.replace("_", r"\ ") + "}"


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
        import sympy as sp

        left = lhs if isinstance(lhs, str) else sp.latex(lhs, **settings)
        return cls(label, f"{left} = {sp.latex(rhs, **settings)}", (lhs, rhs), note)


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
