"""Loops for sums of products over named indices, accumulated term by term with one index innermost.

`loops` writes the averages of a pair of fields; here every right-hand side is a contraction of arrays, such as
``X[i, p, b] = Sum(s[b] H[i, q] Gamma[p, q, b], q)``, and one index, the lane, is long and contiguous in memory: it is
kept innermost, so that the loop along it is SIMD code. What does not depend on the lane is multiplied up outside, and a
product that is zero already is not looped over further: matrices with few entries cost what their entries cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp

from .loops import INDENT
from .tensors import Indices, Tensor


@dataclass(frozen=True)
class Term:
    """``number x product of factors``, summed over indices."""

    number: Any
    factors: tuple[Any, ...]
    summed: tuple[Any, ...]

    def depends(self, index: Any) -> bool:
        """Whether a factor depends on an index."""
        return any(index in f.free_symbols for f in self.factors)


def terms_of(expression: Any) -> list[Term]:
    """Write an expression of sums, products, powers and indexed symbols as a list of terms."""
    if expression.is_Add:
        return [term for part in expression.args for term in terms_of(part)]
    if isinstance(expression, sp.Sum):
        over = tuple(limit[0] for limit in expression.limits)
        return [Term(t.number, t.factors, (*over, *t.summed)) for t in terms_of(expression.function)]
    if expression.is_Mul:
        found = [Term(sp.Integer(1), (), ())]
        for part in expression.args:
            found = [
                Term(a.number * b.number, a.factors + b.factors, a.summed + b.summed)
                for a in found
                for b in terms_of(part)
            ]
        return found
    if expression.is_Number:
        return [Term(expression, (), ())]
    return [Term(sp.Integer(1), (expression,), ())]


class ContractionWriter:
    """Prints tensors as accumulating loops.

    Parameters
    ----------
    indices : Indices
    element : callable
        Source of an `Indexed`, or of a scalar symbol.
    lane : Symbol
        The innermost index.
    given : tuple of Symbol
        Indices that the surrounding code loops over: they are known, and sums over them are left to it.
    where : mapping
        Index of a left-hand side -> source of a condition on which it is left out, such as the half of a symmetric one.
    """

    def __init__(
        self,
        indices: Indices,
        element: Callable[[Any], str],
        lane: Any,
        given: Sequence[Any] = (),
        where: Mapping[Any, str] | None = None,
    ) -> None:
        self.indices, self.element, self.lane = indices, element, lane
        self.given, self.where = set(given), dict(where or {})

    def tensor(self, stage: Tensor, clear: bool = True) -> list[str]:
        """Return the loops that set ``stage.lhs`` (or add to it, where not `clear`)."""
        free = list(dict.fromkeys(index for index in stage.lhs.indices if index not in self.given))
        outer = [index for index in free if index != self.lane]
        target = self.element(stage.lhs)
        lines = self.clear(stage) if clear else []
        for term in terms_of(sp.expand(stage.rhs)):
            lines += self._term(term, outer, self.lane in free, target)
        return lines

    def clear(self, stage: Tensor) -> list[str]:
        """Return the loops that set ``stage.lhs`` to zero."""
        free = dict.fromkeys(index for index in stage.lhs.indices if index not in self.given)
        outer = [index for index in free if index != self.lane]
        head, deep = self._head([*outer, *([self.lane] if self.lane in free else [])], "")
        return [*head, f"{deep}{self.element(stage.lhs)} = 0.0"]

    def _head(self, over: Sequence[Any], indent: str) -> tuple[list[str], str]:
        lines = []
        for index in over:
            span = self.indices.ranges[index]
            lines.append(f"{indent}for {index} in range({span.start}, {span.stop}):")
            indent += INDENT
            if index in self.where:
                lines += [f"{indent}if {self.where[index]}:", f"{indent}{INDENT}continue"]
        return lines, indent

    def _term(self, term: Term, outer: Sequence[Any], lane_free: bool, target: str) -> list[str]:
        inner = [f for f in term.factors if self.lane in f.free_symbols]
        waiting = [f for f in term.factors if f not in inner]
        known = set(self.given)
        lines: list[str] = []
        indent, name = "", ""

        def settle() -> None:
            """Multiply up the factors that are known by now."""
            nonlocal name, waiting
            ready = [f for f in waiting if not (f.free_symbols & self.indices.ranges.keys()) - known]
            waiting = [f for f in waiting if f not in ready]
            number = [] if name or term.number == 1 else [self._number(term.number)]
            parts = [*([name] if name else []), *number, *(self._source(f) for f in ready)]
            if not ready:
                return
            name = f"f{len(known - self.given)}"
            lines.append(f"{indent}{name} = {' * '.join(parts)}")
            if known - self.given:
                lines.extend([f"{indent}if {name} == 0.0:", f"{indent}{INDENT}continue"])

        settle()
        for index in [*outer, *(s for s in term.summed if s != self.lane and s not in self.given)]:
            head, indent = self._head([index], indent)
            lines += head
            known.add(index)
            settle()
        factor = name or self._number(term.number)
        if not inner and not lane_free:
            return [*lines, f"{indent}{target} += {factor}"]
        span = self.indices.ranges[self.lane]
        loop = f"{indent}for {self.lane} in range({span.start}, {span.stop}):"
        product = " * ".join(self._source(f) for f in inner)
        if lane_free:
            return [*lines, loop, f"{indent}{INDENT}{target} += {factor}{f' * {product}' if inner else ''}"]
        row = [f"{indent}row = 0.0", loop, f"{indent}{INDENT}row += {product}"]
        return [*lines, *row, f"{indent}{target} += {factor} * row"]

    def _source(self, factor: Any) -> str:
        if factor.is_Pow and factor.exp.is_Integer:
            base = self.element(factor.base)
            power = " * ".join([base] * abs(int(factor.exp)))
            return power if factor.exp > 0 else f"1.0 / ({power})"
        return self.element(factor)

    def _number(self, number: Any) -> str:
        return repr(float(number))
