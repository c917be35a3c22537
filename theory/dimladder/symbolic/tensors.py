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
    the classical formulas, at two multiplications an entry. A mean is one more column of the covariance: the tilted one
    is ``mu_a - u_a u_*`` with ``u_* = sqrt(p) mu_i / sqrt(1 + p C_ii)``, a vector too.

    Parameters
    ----------
    covariance : callable
        ``covariance(a, b)`` for two index symbols.
    indices : Indices
        Where the vectors are recorded; ``indices.generic`` is the index symbol they are written with.
    mean : callable, optional
        ``mean(a)`` for an index symbol; zero when left out.
    """

    def __init__(
        self,
        covariance: Callable[[Any, Any], Any],
        indices: Indices,
        chain: tuple[tuple[Any, Any], ...] = (),
        mean: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(covariance, mean, key=chain)
        self.indices, self.chain = indices, chain

    def _changed(self, a: Any, gain: Any, how: Any) -> IndexedLaw:
        chain = (*self.chain, (a, how))
        given = tuple(label for label, _ in chain)

        root = sp.sqrt(sp.fraction(gain)[0]) / sp.sqrt(sp.fraction(gain)[1])
        c = self.indices.generic

        # Vectors are named when first needed: a tilt that only gives a weight leaves none behind.
        def recorded(name: str, rhs: Callable[[], Any]) -> Any:
            base = sp.IndexedBase(name)
            if name not in self.indices.vectors:
                self.indices.vectors[name] = Vector(base[(*given, c)], rhs())
            return base

        def vector(b: Any) -> Any:
            return recorded(_name(chain, self.indices), lambda: root * self.cov(a, c))[(*given, b)]

        def mean(b: Any) -> Any:
            shifted = lambda: self.mean(c) - vector(c) * root * self.mean(a)  # noqa: E731
            return recorded(f"mu_{_name(chain, self.indices)}", shifted)[(*given, b)]

        changed = lambda b, c: self.cov(b, c) - vector(b) * vector(c)  # noqa: E731
        return IndexedLaw(changed, self.indices, chain, None if self.centred else mean)


def _name(chain: tuple[tuple[Any, Any], ...], indices: Indices) -> str:
    """u for the first tilt, w for the second, ...; a second precision or another base index gets a number."""
    letter = "uwst"[min(len(chain) - 1, 3)]
    seen = indices.names
    same = [key for key in seen if len(key) == len(chain)]
    if chain not in seen:
        seen[chain] = letter if not same else f"{letter}{len(same)}"
    return seen[chain]
