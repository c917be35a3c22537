"""Equations with free and summed indices.

The printed equation and the compiled loop (`loops`) are two prints of one object: a `Tensor` such as
``N[i, k] = Sum(Sum(c[a] c[b] E[...], a), b)`` over named index ranges, with the auxiliary vectors (`Vector`) that the
averages introduced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from .gaussian import Law


@dataclass(frozen=True)
class Range:
    """An index range: how it is printed (``j = 1..K``) and how it is looped over (``range(start, stop)``).

    ``field`` is the letter of its fields.
    """

    name: str
    latex_stop: str
    start: str
    stop: str
    field: str = "f"


@dataclass(frozen=True)
class Vector:
    """``base[given..., over] = rhs``: an auxiliary quantity, a vector over its last index at given other indices."""

    lhs: Any
    rhs: Any

    @property
    def given(self) -> tuple[Any, ...]:
        """The indices that are fixed while the vector is computed."""
        return tuple(self.lhs.indices[:-1])


@dataclass(frozen=True)
class Tensor:
    """``lhs = rhs`` for every value of the indices of `lhs` (an `Indexed`); `rhs` may hold `sympy.Sum` over indices."""

    lhs: Any
    rhs: Any
    symmetric: bool = False


@dataclass
class Indices:
    """The index symbols in use and their ranges, and the auxiliary vectors met so far."""

    ranges: dict[Any, Range]
    vectors: dict[str, Vector] = field(default_factory=dict)
    generic: Any = None
    names: dict[Any, str] = field(default_factory=dict)

    def sum(self, expression: Any, *indices: Any) -> Any:
        """Return the printed and compiled sum over the whole range of each index."""
        limits = [(i, 1, sp.Symbol(self.ranges[i].latex_stop, integer=True, positive=True)) for i in indices]
        return sp.Sum(expression, *limits)


class IndexedLaw(Law):
    """A law whose labels are index symbols; tilting subtracts one rank-one matrix, kept as a named vector.

    With ``u_a = sqrt(p) C_ia / sqrt(1 + p C_ii)`` the tilted covariance is ``C_ab - u_a u_b``: the Schur complement of
    the classical formulas, at two multiplications an entry.

    Parameters
    ----------
    covariance : callable
        ``covariance(a, b)`` for two index symbols.
    indices : Indices
        Where the vectors are recorded; ``indices.generic`` is the index symbol they are written with.
    """

    def __init__(
        self, covariance: Callable[[Any, Any], Any], indices: Indices, chain: tuple[tuple[Any, Any], ...] = ()
    ) -> None:
        super().__init__(covariance, key=chain)
        self.indices, self.chain = indices, chain

    def _changed(self, a: Any, gain: Any, how: Any) -> IndexedLaw:
        chain = (*self.chain, (a, how))
        given = tuple(label for label, _ in chain)

        def vector(b: Any) -> Any:
            # Named when first needed: a tilt that only gives a weight leaves no vector behind.
            base = sp.IndexedBase(_name(chain, self.indices))
            if str(base) not in self.indices.vectors:
                c = self.indices.generic
                root = sp.sqrt(sp.fraction(gain)[0]) / sp.sqrt(sp.fraction(gain)[1])
                self.indices.vectors[str(base)] = Vector(base[(*given, c)], root * self.cov(a, c))
            return base[(*given, b)]

        return IndexedLaw(lambda b, c: self.cov(b, c) - vector(b) * vector(c), self.indices, chain)


def _name(chain: tuple[tuple[Any, Any], ...], indices: Indices) -> str:
    """u for the first tilt, w for the second, ...; a second precision or another base index gets a number."""
    letter = "uwst"[min(len(chain) - 1, 3)]
    seen = indices.names
    same = [key for key in seen if len(key) == len(chain)]
    if chain not in seen:
        seen[chain] = letter if not same else f"{letter}{len(same)}"
    return seen[chain]
