"""Equations with free and summed indices, and the loops they become.

The printed equation and the compiled loop are two prints of one object: a `Tensor` such as
``N[i, k] = Sum(Sum(c[a] c[b] E[...], a), b)`` over named index ranges, with the auxiliary vectors (`Vector`) that the
averages introduced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from .gaussian import Law

INDENT = "    "


@dataclass(frozen=True)
class Range:
    """An index range: how it is printed (``j = 1..K``) and how it is looped over (``range(start, stop)``)."""

    name: str
    latex_stop: str
    start: str
    stop: str


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


# ---------------------------------------------------------------------------------------------------------------------
# Loops


@dataclass(frozen=True)
class SymmetricArray:
    """A symmetric matrix in memory; the writer lets the index of the innermost loop run along a row."""

    element: Callable[[Any, Any], str]


class LoopWriter:
    """Prints tensors as nested loops over flat-backed arrays.

    Vectors are computed where their given indices become known; factors that depend on one summed index only are
    hoisted into vectors of their own; a symmetric double sum runs over half of its pairs.

    Parameters
    ----------
    indices : Indices
    arrays : mapping
        Name of an `IndexedBase` -> name of the array in the source. The first index of ``T``-like arrays may need an
        offset: give a callable that returns the source of the element.
    write : callable
        Prints a scalar sympy expression.
    """

    def __init__(self, indices: Indices, arrays: Mapping[str, Any], write: Callable[[Any, Callable[[Any], str]], str]):
        self.indices, self.arrays, self._write = indices, arrays, write
        self.buffers: list[str] = []
        self._hoisted: dict[Any, Any] = {}
        self._counter = 0
        self.inner = ""
        self.pair_buffers: list[str] = []
        self.prologue: list[str] = []
        self._loops: list[Any] = []

    def scalar(self, expression: Any) -> str:
        """Return the source of a scalar expression."""
        return self._write(expression, self.element)

    def element(self, indexed: Any) -> str:
        """Return the source of one array element."""
        name = str(indexed.base)
        if name in self.arrays:
            place = self.arrays[name]
            if isinstance(place, SymmetricArray):
                first, second = indexed.indices
                return place.element(second, first) if str(first) == self.inner else place.element(first, second)
            return place(*indexed.indices) if callable(place) else f"{place}[{', '.join(map(str, indexed.indices))}]"
        # Vectors live in buffers over their last index; given indices are fixed by the loops around.
        return f"{name}[{indexed.indices[-1]}]"

    def tensor(self, stage: Tensor) -> list[str]:
        """Return the loops that fill ``stage.lhs``."""
        loops = [index for index in stage.lhs.indices if not index.is_Integer]
        lines: list[str] = []
        self._loops, self.prologue = loops, []
        needed = self._vectors(stage.rhs)
        body = self._prepare(stage.rhs, loops)
        pending = [*needed, *self._new]
        indent = ""
        for depth, index in enumerate(loops):
            span = self.indices.ranges[index]
            stop = f"{loops[0]} + 1" if stage.symmetric and depth == 1 else span.stop
            lines.append(f"{indent}for {index} in range({span.start}, {stop}):")
            indent += INDENT
            known = set(loops[: depth + 1])
            ready = [v for v in pending if set(v.given) <= known]
            pending = [v for v in pending if v not in ready]
            for vector in ready:
                lines += self._vector(vector, indent)
        value, before = self._sums(body, indent)
        lines += before
        lines.append(f"{indent}{self.element(stage.lhs)} = {value}")
        if stage.symmetric and not callable(self.arrays.get(str(stage.lhs.base))):
            i, k = loops
            lines.append(f"{indent}{self.element(stage.lhs.base[k, i])} = {self.element(stage.lhs)}")
        return self.prologue + lines

    def scalar_sum(self, expression: Any) -> list[str]:
        """Return the lines of a function body that returns an expression without free indices."""
        lines: list[str] = []
        self._loops, self.prologue = [], []
        needed = self._vectors(expression)
        body = self._prepare(expression, ())
        for vector in [*needed, *self._new]:
            lines += self._vector(vector, "")
        value, before = self._sums(body, "")
        return [*lines, *self.prologue, *before, f"return {value}"]

    def _vectors(self, expression: Any) -> list[Vector]:
        """Return the vectors an expression needs, dependencies first."""
        order: list[Vector] = []

        def visit(e: Any) -> None:
            for indexed in sorted(e.atoms(sp.Indexed), key=str):
                vector = self.indices.vectors.get(str(indexed.base))
                if vector is not None and vector not in order:
                    visit(vector.rhs)
                    order.append(vector)

        visit(expression)
        for vector in order:
            if str(vector.lhs.base) not in self.buffers:
                self.buffers.append(str(vector.lhs.base))
        return order

    def _vector(self, vector: Vector, indent: str) -> list[str]:
        over = vector.lhs.indices[-1]
        span = self.indices.ranges[over]
        outer, inner = _split(vector.rhs, {over})
        lines = []
        scale = ""
        if outer != 1:
            lines.append(f"{indent}scale = {self.scalar(outer)}")
            scale = "scale * "
        lines.append(f"{indent}for {over} in range({span.start}, {span.stop}):")
        value = self.scalar(inner)
        lines.append(f"{indent}{INDENT}{self.element(vector.lhs)} = {scale}{_bracket(value) if scale else value}")
        return lines

    # Hoisting -----------------------------------------------------------------------------------------------------

    def _prepare(self, expression: Any, loops: Sequence[Any]) -> Any:
        """Replace parts of summands that depend on one summed index by vectors; they are left in ``self._new``."""
        self._new: list[Vector] = []
        sums = {s: self._hoist_sum(s, loops) for s in expression.atoms(sp.Sum)}
        return expression.xreplace(sums)

    def _hoist_sum(self, total: Any, loops: Sequence[Any]) -> Any:
        summed = [limit[0] for limit in total.limits]
        inner = set(summed) | {i for i in loops if i in total.free_symbols and i is loops[-1] and len(summed) == 1}
        return sp.Sum(self._hoist(total.function, inner, loops), *total.limits)

    def _hoist(self, e: Any, inner: set[Any], loops: Sequence[Any]) -> Any:
        used = _depends(e, inner)
        if len(used) <= 1:
            return self._lift(e, used.pop(), loops) if used and _costly(e) else e
        if e.is_Mul or e.is_Add:
            groups: dict[Any, list[Any]] = {}
            for part in e.args:
                groups.setdefault(frozenset(_depends(part, inner)), []).append(part)
            args = []
            for key, parts in groups.items():
                joined = e.func(*parts)
                if len(key) == 1 and _costly(joined):
                    args.append(self._lift(joined, next(iter(key)), loops))
                else:
                    args += [self._hoist(p, inner, loops) for p in parts]
            return e.func(*args)
        return e.func(*(self._hoist(a, inner, loops) for a in e.args)) if e.args else e

    def _lift(self, e: Any, index: Any, loops: Sequence[Any]) -> Any:
        # Written over the sum's own index kind, so that students and teachers keep their own ranges.
        slot = sp.Symbol(f"o_{self.indices.ranges[index].name}", integer=True)
        self.indices.ranges.setdefault(slot, self.indices.ranges[index])
        rhs = e.xreplace({index: slot})
        given = tuple(i for i in loops if e.has(i) and i != index)
        key = (given, slot, rhs)
        if key not in self._hoisted:
            self._counter += 1
            base = sp.IndexedBase(f"h{self._counter}")
            self._hoisted[key] = Vector(base[(*given, slot)], rhs)
            self.buffers.append(str(base))
        vector = self._hoisted[key]
        if vector not in self._new:
            self._new.append(vector)
        return vector.lhs.base[(*given, index)]

    # Sums ---------------------------------------------------------------------------------------------------------

    def _sums(self, expression: Any, indent: str) -> tuple[str, list[str]]:
        lines: list[str] = []
        replaced = {}
        for total in sorted(expression.atoms(sp.Sum), key=sp.default_sort_key):
            self._counter += 1
            name = f"sum{self._counter}"
            outer, inner = _split(total.function, {limit[0] for limit in total.limits})
            lines += self._sum(name, inner, [limit[0] for limit in total.limits], indent)
            replaced[total] = outer * sp.Symbol(name)
        return self.scalar(expression.xreplace(replaced)), lines

    def _sum(self, name: str, summand: Any, over: list[Any], indent: str) -> list[str]:
        spans = [self.indices.ranges[i] for i in over]
        lines = [f"{indent}{name} = 0.0"]
        a = over[0]
        lines.append(f"{indent}for {a} in range({spans[0].start}, {spans[0].stop}):")
        deep = indent + INDENT
        self.inner = str(over[-1])
        if len(over) == 1:
            return [*lines, f"{deep}{name} += {self.scalar(summand)}"]
        if len(over) > 2:
            raise NotImplementedError("sums over more than two indices")
        b = over[1]
        outer, inner = _split(summand, {b})
        half = spans[0] == spans[1] and self._symmetric(summand, a, b)
        if half and (flat := self._flat(name, summand, a, b, indent)):
            return flat
        lines.append(f"{deep}row = 0.0")
        lines.append(f"{deep}for {b} in range({spans[1].start}, {a if half else spans[1].stop}):")
        lines.append(f"{deep}{INDENT}row += {self.scalar(inner)}")
        if half:
            diagonal = self.scalar(inner.xreplace({b: a}))
            lines.append(f"{deep}row = 2.0 * row + {_bracket(diagonal)}")
        factor = self.scalar(outer)
        lines.append(f"{deep}{name} += row" + ("" if outer == 1 else f" * {_bracket(factor)}"))
        return lines

    def _flat(self, name: str, summand: Any, a: Any, b: Any, indent: str) -> list[str]:
        """Print a symmetric double sum of weight x arcsine as one long loop over all pairs.

        The arcsine is nearly all the cost, and the rows of a triangle are too short for SIMD: arguments are gathered in
        a buffer whose length is padded (with zero weights) to a multiple of 16.
        """
        arcsines = [f for f in sp.Mul.make_args(summand) if isinstance(f, sp.asin)]
        if len(arcsines) != 1:
            return []
        weight = summand / arcsines[0]
        if weight.free_symbols & set(self._loops):
            return []
        span = self.indices.ranges[a]
        pairs, weights = f"pairs{self._counter}", f"weights{self._counter}"
        self.pair_buffers += [pairs, weights]
        double = f"for {a} in range({span.start}, {span.stop}):", f"{INDENT}for {b} in range({span.start}, {a} + 1):"
        self.inner = str(b)
        self.prologue += [
            "size = 0",
            *double,
            f"{INDENT * 2}{weights}[size] = {self.scalar(weight)} * (1.0 if {a} == {b} else 2.0)",
            f"{INDENT * 2}size += 1",
            "while size % 16:",
            f"{INDENT}{weights}[size] = 0.0",
            f"{INDENT}{pairs}[size] = 0.0",
            f"{INDENT}size += 1",
        ]
        return [
            f"{indent}pair = 0",
            *(indent + line for line in double),
            f"{indent}{INDENT * 2}{pairs}[pair] = {self.scalar(arcsines[0].args[0])}",
            f"{indent}{INDENT * 2}pair += 1",
            f"{indent}{name} = 0.0",
            f"{indent}for pair in range(size):",
            f"{indent}{INDENT}{name} += {weights}[pair] * asin({pairs}[pair])",
        ]

    def _symmetric(self, summand: Any, a: Any, b: Any) -> bool:
        swapped = summand.xreplace({a: b, b: a})
        return bool(_sorted_indices(swapped) == _sorted_indices(summand))


def _sorted_indices(e: Any) -> Any:
    """Write symmetric entries and calls with sorted indices, so that equal ones compare equal."""
    e = e.replace(
        lambda x: isinstance(x, sp.Indexed) and len(x.indices) == 2 and str(x.base) in ("C", "Q", "T"),
        lambda x: x.base[tuple(sorted(x.indices, key=str))],
    )
    return e.replace(lambda x: hasattr(x, "sorted_arguments"), lambda x: x.sorted_arguments())


def _depends(e: Any, over: Iterable[Any]) -> set[Any]:
    free = e.free_symbols
    return {i for i in over if i in free}


def _costly(e: Any) -> bool:
    return not (e.is_Atom or isinstance(e, sp.Indexed) or e.is_number)


def _split(e: Any, over: set[Any]) -> tuple[Any, Any]:
    """Return (the factors free of the indices, the others)."""
    parts = sp.Mul.make_args(e)
    outer = [p for p in parts if not _depends(p, over)]
    inner = [p for p in parts if _depends(p, over)]
    return sp.Mul(*outer), sp.Mul(*inner)


def _bracket(source: str) -> str:
    return f"({source})" if any(sign in source for sign in "+-") else source
