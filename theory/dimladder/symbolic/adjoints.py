"""Derivatives of straight-line programs, backwards: the gradient of an average in the covariances it reads.

A `Program` of a kernel names its parts; one pass from the value back to the entries of the covariance gives every
derivative at a small multiple of the program's own cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from .programs import Program, live


@dataclass(frozen=True)
class Adjoint:
    """A gradient as statements: intermediate adjoints in the order they are computed, then the derivatives.

    Attributes
    ----------
    statements : list of (symbol, expression)
    gradient : dict
        Entry of the covariance (an `Indexed`) -> derivative of the program's value.
    """

    statements: list[tuple[Any, Any]]
    gradient: dict[Any, Any]


def adjoint(program: Program) -> Adjoint:
    """Differentiate a program in every entry of the covariance that it reads."""
    statements: list[tuple[Any, Any]] = []
    total: dict[Any, Any] = {}

    def pull(expression: Any, weight: Any) -> None:
        for atom in _atoms(expression):
            slope = partial_derivative(expression, atom)
            if slope != 0:
                total[atom] = total.get(atom, sp.Integer(0)) + weight * slope

    pull(program.value, sp.Integer(1))
    for name, expression in reversed(live(program)):
        if name not in total:
            continue
        weight = sp.Symbol(f"b_{name}", real=True)
        statements.append((weight, total.pop(name)))
        pull(expression, weight)
    return Adjoint(statements, {atom: e for atom, e in total.items() if isinstance(atom, sp.Indexed)})


def partial_derivative(expression: Any, atom: Any) -> Any:
    """Return the derivative in one entry or symbol, all other entries fixed, whatever values their indices take."""
    entries = {e: sp.Dummy(real=True) for e in expression.atoms(sp.Indexed)}
    slope = sp.diff(expression.xreplace(entries), entries.get(atom, atom))
    return slope.xreplace({v: k for k, v in entries.items()})


def _atoms(expression: Any) -> list[Any]:
    """Return the entries and names that an expression depends on; the indices of entries are not variables."""
    entries = expression.atoms(sp.Indexed)
    inside = {s for entry in entries for s in entry.free_symbols}
    names = {s for s in expression.free_symbols if isinstance(s, sp.Symbol) and s not in inside}
    return sorted([*entries, *(s for s in names if not s.is_integer)], key=sp.default_sort_key)
