"""Loops for tensors over named indices: what `tensors` prints as an equation, written as source code.

Vectors are computed where their given indices become known, and factors that depend on one summed index only are
hoisted into vectors of their own. A symmetric double sum runs over half of its pairs.

A tensor that is a double sum for every pair (i, k), such as ``N[i, k]``, is written across the pairs: sums over units
are outside, and the innermost loop runs along all pairs at once ("lanes"). A committee has few units, too few to fill
SIMD registers, but many pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp

from .tensors import Indices, Tensor, Vector

INDENT = "    "
# Lanes are padded to a multiple of this, the doubles of the widest SIMD register.
LANE_WIDTH = 8
# Functions with a cheaper form near zero: name of that form, and where it holds.
SHORT = {sp.asin: ("asin_short", 0.5)}


@dataclass(frozen=True)
class SymmetricArray:
    """A symmetric matrix in memory; the writer lets the index of the innermost loop run along a row."""

    element: Callable[[Any, Any], str]


class LoopWriter:
    """Prints tensors as nested loops over flat-backed arrays.

    Parameters
    ----------
    indices : Indices
    arrays : mapping
        Name of an `IndexedBase` -> name of the array in the source. The first index of ``T``-like arrays may need an
        offset: give a callable that returns the source of the element.
    write : callable
        Prints a scalar sympy expression.

    Attributes
    ----------
    buffers : dict
        Scratch arrays that the printed code needs: name -> shape, as source (``("N",)``, ``("N", "lanes")``); the
        caller sets ``lanes``.
    """

    LANES = "lanes"

    def __init__(self, indices: Indices, arrays: Mapping[str, Any], write: Callable[[Any, Callable[[Any], str]], str]):
        self.indices, self.arrays, self._write = indices, arrays, write
        self.buffers: dict[str, tuple[str, ...]] = {}
        self._hoisted: dict[Any, Vector] = {}
        self._counter = 0
        self._inner = ""
        # Vectors that exist in every lane; those of one loop only are copied there for the loops along the lanes.
        self._in_lanes: set[str] = set()
        self._copied: set[str] = set()

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
                return place.element(second, first) if str(first) == self._inner else place.element(first, second)
            return place(*indexed.indices) if callable(place) else f"{place}[{', '.join(map(str, indexed.indices))}]"
        # Vectors live in buffers over their last index; given indices are fixed by the loops around.
        last = indexed.indices[-1]
        if name in self._copied:
            return f"{name}_lanes[{last}, lane]"
        return f"{name}[{last}, lane]" if name in self._in_lanes else f"{name}[{last}]"

    def tensor(self, stage: Tensor) -> list[str]:
        """Return the loops that fill ``stage.lhs``."""
        loops = [index for index in stage.lhs.indices if not index.is_Integer]
        body, pending = self._prepare(stage.rhs, loops)
        sums = sorted(body.atoms(sp.Sum), key=sp.default_sort_key)
        if stage.symmetric and any(len(s.limits) == 2 for s in sums) and all(self._vectorises(s, loops) for s in sums):
            return self._across(stage, body, pending, loops, sums)
        ready, pending = _known(pending, [])
        lines = [line for vector in ready for line in self._vector(vector, "")]
        indent = ""
        for depth, index in enumerate(loops):
            span = self.indices.ranges[index]
            stop = f"{loops[0]} + 1" if stage.symmetric and depth == 1 else span.stop
            lines.append(f"{indent}for {index} in range({span.start}, {stop}):")
            indent += INDENT
            ready, pending = _known(pending, loops[: depth + 1])
            for vector in ready:
                lines += self._vector(vector, indent)
        value, before = self._sums(body, indent)
        lines += before
        lines.append(f"{indent}{self.element(stage.lhs)} = {value}")
        if stage.symmetric:
            lines += self._mirror(stage, loops, indent)
        return lines

    def scalar_sum(self, expression: Any) -> list[str]:
        """Return the lines of a function body that returns an expression without free indices."""
        body, vectors = self._prepare(expression, ())
        lines = [line for vector in vectors for line in self._vector(vector, "")]
        value, before = self._sums(body, "")
        return [*lines, *before, f"return {value}"]

    def _mirror(self, stage: Tensor, loops: Sequence[Any], indent: str) -> list[str]:
        if callable(self.arrays.get(str(stage.lhs.base))):
            return []
        i, k = loops
        return [f"{indent}{self.element(stage.lhs.base[k, i])} = {self.element(stage.lhs)}"]

    # Vectors ------------------------------------------------------------------------------------------------------

    def _prepare(self, expression: Any, loops: Sequence[Any]) -> tuple[Any, list[Vector]]:
        """Return the expression with hoisted summands, and the vectors it needs, dependencies first."""
        order: list[Vector] = []

        def visit(e: Any) -> None:
            for indexed in sorted(e.atoms(sp.Indexed), key=str):
                vector = self.indices.vectors.get(str(indexed.base))
                if vector is not None and vector not in order:
                    visit(vector.rhs)
                    order.append(vector)

        visit(expression)
        for vector in order:
            self._reserve(vector)
        lifted: list[Vector] = []
        sums = {s: self._hoist_sum(s, loops, lifted) for s in expression.atoms(sp.Sum)}
        return expression.xreplace(sums), order + lifted

    def _reserve(self, vector: Vector) -> None:
        span = self.indices.ranges[vector.lhs.indices[-1]]
        self.buffers.setdefault(str(vector.lhs.base), (span.stop,))

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

    def _hoist_sum(self, total: Any, loops: Sequence[Any], lifted: list[Vector]) -> Any:
        summed = [limit[0] for limit in total.limits]
        inner = set(summed) | {i for i in loops if i in total.free_symbols and i is loops[-1] and len(summed) == 1}
        outer, varying = _split(total.function, set(summed))
        if _depends(varying, inner) == set(summed) and len(summed) == 1:
            return outer * sp.Sum(varying, *total.limits)
        return outer * sp.Sum(self._hoist(varying, inner, loops, lifted), *total.limits)

    def _hoist(self, e: Any, inner: set[Any], loops: Sequence[Any], lifted: list[Vector]) -> Any:
        """Replace parts that depend on one of the indices `inner` only by vectors, which are added to `lifted`."""
        used = _depends(e, inner)
        if len(used) <= 1:
            return self._lift(e, used.pop(), loops, lifted) if used and _costly(e) else e
        if e.is_Mul or e.is_Add:
            groups: dict[Any, list[Any]] = {}
            for part in e.args:
                groups.setdefault(frozenset(_depends(part, inner)), []).append(part)
            args = []
            for key, parts in groups.items():
                joined = e.func(*parts)
                if len(key) == 1 and _costly(joined):
                    args.append(self._lift(joined, next(iter(key)), loops, lifted))
                else:
                    args += [self._hoist(p, inner, loops, lifted) for p in parts]
            return e.func(*args)
        return e.func(*(self._hoist(a, inner, loops, lifted) for a in e.args)) if e.args else e

    def _lift(self, e: Any, index: Any, loops: Sequence[Any], lifted: list[Vector]) -> Any:
        # Written over the sum's own index kind, so that students and teachers keep their own ranges.
        slot = sp.Symbol(f"o_{self.indices.ranges[index].name}", integer=True)
        self.indices.ranges.setdefault(slot, self.indices.ranges[index])
        rhs = e.xreplace({index: slot})
        given = tuple(i for i in loops if e.has(i) and i != index)
        key = (given, slot, rhs)
        if key not in self._hoisted:
            self._counter += 1
            self._hoisted[key] = Vector(sp.IndexedBase(f"h{self._counter}")[(*given, slot)], rhs)
            self._reserve(self._hoisted[key])
        vector = self._hoisted[key]
        if vector not in lifted:
            lifted.append(vector)
        return vector.lhs.base[(*given, index)]

    # Sums ---------------------------------------------------------------------------------------------------------

    def _sums(self, expression: Any, indent: str) -> tuple[str, list[str]]:
        lines: list[str] = []
        replaced = {}
        for total in sorted(expression.atoms(sp.Sum), key=sp.default_sort_key):
            self._counter += 1
            name = f"sum{self._counter}"
            lines += self._sum(name, total.function, [limit[0] for limit in total.limits], indent)
            replaced[total] = sp.Symbol(name)
        return self.scalar(expression.xreplace(replaced)), lines

    def _sum(self, name: str, summand: Any, over: list[Any], indent: str) -> list[str]:
        spans = [self.indices.ranges[i] for i in over]
        lines = [f"{indent}{name} = 0.0"]
        a = over[0]
        lines.append(f"{indent}for {a} in range({spans[0].start}, {spans[0].stop}):")
        deep = indent + INDENT
        self._inner = str(over[-1])
        if len(over) == 1:
            return [*lines, f"{deep}{name} += {self.scalar(summand)}"]
        if len(over) > 2:
            raise NotImplementedError("sums over more than two indices")
        b = over[1]
        outer, inner = _split(summand, {b})
        half = self.symmetric(summand, a, b)
        lines.append(f"{deep}row = 0.0")
        lines.append(f"{deep}for {b} in range({spans[1].start}, {a if half else spans[1].stop}):")
        lines.append(f"{deep}{INDENT}row += {self.scalar(inner)}")
        if half:
            diagonal = self.scalar(inner.xreplace({b: a}))
            lines.append(f"{deep}row = 2.0 * row + {_bracket(diagonal)}")
        factor = self.scalar(outer)
        lines.append(f"{deep}{name} += row" + ("" if outer == 1 else f" * {_bracket(factor)}"))
        return lines

    def symmetric(self, summand: Any, a: Any, b: Any) -> bool:
        """Whether a summand is the same with two indices of one range exchanged."""
        if self.indices.ranges[a] != self.indices.ranges[b]:
            return False
        swapped = summand.xreplace({a: b, b: a})
        return bool(_sorted_indices(swapped) == _sorted_indices(summand))

    # Lanes --------------------------------------------------------------------------------------------------------

    def _vectorises(self, total: Any, loops: Sequence[Any]) -> bool:
        """Whether the summand reads nothing of the pair (i, k) but its vectors, and calls no function of indices."""
        if any(hasattr(f, "kernel") for f in total.function.atoms(sp.Function)):
            return False
        plain = total.function.xreplace({v: sp.Dummy() for v in total.function.atoms(sp.Indexed) if self._given(v)})
        return not plain.free_symbols & set(loops)

    def _given(self, indexed: Any) -> tuple[Any, ...]:
        """Return the loop indices of a vector's element; none for an array's."""
        return () if str(indexed.base) in self.arrays else tuple(indexed.indices[:-1])

    def _across(self, stage: Tensor, body: Any, vectors: list[Vector], loops: list[Any], sums: list[Any]) -> list[str]:
        """Return the loops of ``T[i, k] = rest + coefficient x sum over units``, with the pairs (i, k) innermost."""
        i, k = loops
        stand_in = {total: sp.Dummy() for total in sums}
        outside = sp.expand(body.xreplace(stand_in))
        one, both, along = self._split_vectors(vectors, outside)
        self._in_lanes = {str(v.lhs.base) for v in (*both, *along)}
        for name in self._in_lanes:
            self.buffers[name] = (*self.buffers[name][:1], self.LANES)
        # Vectors of i alone that the loops along the lanes read are spread over the lanes.
        read = {str(v.base) for e in [*sums, *(v.rhs for v in along)] for v in e.atoms(sp.Indexed)}
        spread = [v for v in one if str(v.lhs.base) in read and v.given]
        for vector in spread:
            self.buffers[f"{vector.lhs.base}_lanes"] = (*self.buffers[str(vector.lhs.base)], self.LANES)
        rows = {}
        for total in sums:
            self._counter += 1
            rows[total] = f"sums{self._counter}", f"factors{self._counter}"
            self.buffers |= dict.fromkeys(rows[total], (self.LANES,))

        span = self.indices.ranges[i]
        pairs = f"for {i} in range({span.start}, {span.stop}):", f"{INDENT}for {k} in range({span.start}, {i} + 1):"
        deep = INDENT * 2
        lines = [line for v in one if not v.given for line in self._vector(v, "")]
        lines += ["lane = 0", pairs[0]]
        lines += [line for v in one if v.given for line in self._vector(v, INDENT)]
        lines.append(pairs[1])
        for vector in spread:
            over, base = vector.lhs.indices[-1], vector.lhs.base
            s = self.indices.ranges[over]
            lines += [f"{deep}for {over} in range({s.start}, {s.stop}):"]
            lines += [f"{deep}{INDENT}{base}_lanes[{over}, lane] = {base}[{over}]"]
        lines += [line for v in both for line in self._vector(v, deep)]
        for total, (_, factors) in rows.items():
            lines.append(f"{deep}{factors}[lane] = {self.scalar(outside.coeff(stand_in[total]))}")
        rest = outside.subs(dict.fromkeys(stand_in.values(), 0))
        lines += [f"{deep}{self.element(stage.lhs)} = {self.scalar(rest)}", f"{deep}lane += 1"]

        self._copied = {str(v.lhs.base) for v in spread}
        for vector in along:
            over = vector.lhs.indices[-1]
            s = self.indices.ranges[over]
            lines += [f"for {over} in range({s.start}, {s.stop}):", f"{INDENT}for lane in range({self.LANES}):"]
            lines.append(f"{deep}{self.element(vector.lhs)} = {self.scalar(vector.rhs)}")
        for total, (name, _) in rows.items():
            lines += self._lane_sum(name, total)
        self._copied = set()

        lines += ["lane = 0", *pairs]
        added = " + ".join(f"{factors}[lane] * {name}[lane]" for name, factors in rows.values())
        lines += [f"{deep}{self.element(stage.lhs)} += {added}", *self._mirror(stage, loops, deep), f"{deep}lane += 1"]
        self._in_lanes = set()
        return lines

    def _split_vectors(self, vectors: list[Vector], outside: Any) -> tuple[list[Vector], list[Vector], list[Vector]]:
        """Return the vectors of one loop index or none; those of a pair; those that are computed along the lanes.

        The last read nothing but variances and vectors of their own unit, and the expression `outside` the sums does
        not read them.
        """
        one = [v for v in vectors if len(v.given) < 2]
        pair: list[Vector] = []
        along: list[Vector] = []
        read = {str(e.base) for e in outside.atoms(sp.Indexed)}
        # From the last to the first: whatever reads a vector has been met before it.
        for vector in reversed([v for v in vectors if len(v.given) == 2]):
            own = vector.lhs.indices[-1]
            entries = vector.rhs.atoms(sp.Indexed)
            alone = all(e.indices[-1] == own and (self._given(e) or set(e.indices) == {own}) for e in entries)
            if alone and str(vector.lhs.base) not in read:
                along.insert(0, vector)
            else:
                pair.insert(0, vector)
                read |= {str(e.base) for e in entries}
        return one, pair, along

    def _lane_sum(self, name: str, total: Any) -> list[str]:
        over = [limit[0] for limit in total.limits]
        lines = [f"for lane in range({self.LANES}):", f"{INDENT}{name}[lane] = 0.0"]
        half = len(over) == 2 and self.symmetric(total.function, *over)
        parts = sp.Mul.make_args(total.function)
        varying = [p for p in parts if any(self._given(e) for e in p.atoms(sp.Indexed))]
        weight = self.scalar(sp.Mul(*(p for p in parts if p not in varying)))
        if half:
            weight = f"{_bracket(weight)} * (1.0 if {over[0]} == {over[1]} else 2.0)"
        short = half and len(varying) == 1 and type(varying[0]) in SHORT
        if short:
            lines += self._wide(name, varying[0], *over)
        indent = ""
        for depth, index in enumerate(over):
            span = self.indices.ranges[index]
            stop = f"{over[0]} + 1" if half and depth else span.stop
            lines.append(f"{indent}for {index} in range({span.start}, {stop}):")
            indent += INDENT
        lines.append(f"{indent}weight = {weight}")

        def along(value: str, indent: str) -> list[str]:
            return [f"{indent}for lane in range({self.LANES}):", f"{indent}{INDENT}{name}[lane] += weight * {value}"]

        full = _bracket(self.scalar(sp.Mul(*varying)))
        if not short:
            return [*lines, *along(full, indent)]
        cheaper = f"{SHORT[type(varying[0])][0]}({self.scalar(varying[0].args[0])})"
        test = " and ".join(f"{name}_wide[{index}] == 0.0" for index in over)
        return [
            *lines,
            f"{indent}if {test}:", *along(cheaper, indent + INDENT), f"{indent}else:", *along(full, indent + INDENT),
        ]  # fmt: skip

    def _wide(self, name: str, function: Any, a: Any, b: Any) -> list[str]:
        """Count the lanes where the argument of a symmetric function, on its diagonal, leaves the short form's range.

        The arguments x(a, b) are covariances divided by scales of a and of b: by Cauchy's inequality, none is larger
        than x(a, a) or x(b, b), so N counts answer for N^2 arguments. A count is a sum, which fills SIMD registers.
        """
        counts = f"{name}_wide"
        span = self.indices.ranges[a]
        self.buffers[counts] = (span.stop,)
        diagonal = self.scalar(function.args[0].xreplace({b: a}))
        # The forms agree to rounding a little beyond: a unit variance sits exactly on the edge.
        edge = SHORT[type(function)][1] * (1 + 1e-9)
        return [
            f"for {a} in range({span.start}, {span.stop}):",
            f"{INDENT}outside = 0",
            f"{INDENT}for lane in range({self.LANES}):",
            f"{INDENT * 2}outside += {diagonal} > {edge!r}",
            f"{INDENT}{counts}[{a}] = outside",
        ]


def _known(vectors: Sequence[Vector], loops: Sequence[Any]) -> tuple[list[Vector], list[Vector]]:
    """Return the vectors whose given indices are all among `loops`, and the others."""
    ready = [v for v in vectors if set(v.given) <= set(loops)]
    return ready, [v for v in vectors if v not in ready]


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
    # A label that knows its place is an index, not a number to be kept.
    return not (e.is_Atom or isinstance(e, sp.Indexed) or e.is_number or hasattr(e, "place"))


def _split(e: Any, over: set[Any]) -> tuple[Any, Any]:
    """Return (the factors free of the indices, the others)."""
    parts = sp.Mul.make_args(e)
    outer = [p for p in parts if not _depends(p, over)]
    inner = [p for p in parts if _depends(p, over)]
    return sp.Mul(*outer), sp.Mul(*inner)


def _bracket(source: str) -> str:
    return f"({source})" if any(sign in source for sign in "+-") else source
