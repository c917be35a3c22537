"""Expressions of a function, as LLVM."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .types import BOOL, F64, I64, Array, Refused, Tuple, llvm, number, unify

_FLOAT_OP = {ast.Add: "fadd", ast.Sub: "fsub", ast.Mult: "fmul", ast.Div: "fdiv"}
_INT_OP = {
    ast.Add: "add nsw", ast.Sub: "sub nsw", ast.Mult: "mul nsw", ast.LShift: "shl", ast.RShift: "ashr",
    ast.BitAnd: "and",
}  # fmt: skip
_FLOAT_CMP = {ast.Lt: "olt", ast.LtE: "ole", ast.Gt: "ogt", ast.GtE: "oge", ast.Eq: "oeq", ast.NotEq: "une"}
_INT_CMP = {ast.Lt: "slt", ast.LtE: "sle", ast.Gt: "sgt", ast.GtE: "sge", ast.Eq: "eq", ast.NotEq: "ne"}
_CONVERT = {
    (I64, F64): "sitofp i64 {} to double", (BOOL, F64): "uitofp i1 {} to double", (BOOL, I64): "zext i1 {} to i64",
    (I64, BOOL): "icmp ne i64 {}, 0", (F64, BOOL): "fcmp une double {}, 0.0",
}  # fmt: skip
# Both sides of a conditional expression are computed where they are made of these.
_CHEAP = (ast.Name, ast.Constant, ast.UnaryOp, ast.BinOp, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Load)
_LARGEST_POWER = 64

Value = Any  # a name or number of LLVM; (pointer, shape) of an array; a list of (value, type) of a tuple
Typed = tuple[Value, Any]


class Expressions:
    """Emits the code of expressions, line by line; a name has the type of what it is first assigned."""

    # How a real number is represented: `tangents` has another way.
    aligned = ""

    def __init__(self, unit: Any, kernel: Any, name: str) -> None:
        self.unit, self.kernel, self.name = unit, kernel, name
        self.scope: Mapping[str, Any] = kernel.scope
        flags = kernel.options.get("fastmath", ())
        self.fast = "fast " if flags is True else "".join(f"{f} " for f in sorted(flags or ()))
        self.types: dict[str, Any] = {}
        self.body: list[str] = []
        self.slots: list[str] = []
        self.loops: list[tuple[str, str]] = []
        self.count, self.dead = 0, False

    def llvm(self, kind: Any) -> str:
        """Return the LLVM type of a value."""
        return llvm(kind)

    def number(self, value: float) -> str:
        """Return a real constant."""
        return number(value)

    def widened(self, value: str) -> str:
        """Return a double as a real number."""
        return value

    def plain(self, value: str) -> str:
        """Return the value of a real number as a double."""
        return value

    def arithmetic(self, op: type[ast.operator], x: str, y: str) -> str:
        """Return the sum, difference, product or quotient of two real numbers."""
        return self.op(f"{_FLOAT_OP[op]} {self.fast}double {x}, {y}")

    def negated(self, value: str) -> str:
        """Return minus a real number."""
        return self.op(f"fneg {self.fast}{self.llvm(F64)} {value}")

    def library(self, name: str, arguments: Sequence[str]) -> str:
        """Return a function of `math` of real numbers."""
        raise NotImplementedError

    # Lines ------------------------------------------------------------------------------------------------------------

    def fresh(self, prefix: str = "%v") -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def out(self, line: str) -> None:
        if not self.dead:
            self.body.append(f"  {line}")

    def op(self, line: str) -> str:
        name = self.fresh()
        self.out(f"{name} = {line}")
        return name

    def slot(self, kind: str, name: str = "") -> str:
        """Return a place on the stack; the optimiser makes registers of them."""
        name = name or self.fresh("%slot")
        self.slots.append(f"{name} = alloca {kind}")
        return name

    def label(self, name: str) -> None:
        self.body.append(f"{name}:")
        self.dead = False

    def jump(self, label: str) -> None:
        self.out(f"br label %{label}")
        self.dead = True

    def branch(self, test: str, yes: str, no: str) -> None:
        self.out(f"br i1 {test}, label %{yes}, label %{no}")
        self.dead = True

    def product(self, lengths: Sequence[str]) -> str:
        total = lengths[0]
        for length in lengths[1:]:
            total = self.op(f"mul nsw i64 {total}, {length}")
        return total

    # Values -----------------------------------------------------------------------------------------------------------

    def value(self, e: ast.expr) -> Typed:
        """Emit an expression; return its value and type."""
        emit = getattr(self, f"value_{type(e).__name__.lower()}", None)
        if emit is None:
            raise Refused(ast.unparse(e))
        found: Typed = emit(e)
        return found

    def whole(self, e: ast.expr) -> str:
        return str(self.convert(*self.value(e), I64))

    def real(self, e: ast.expr) -> str:
        return str(self.convert(*self.value(e), F64))

    def test(self, e: ast.expr) -> str:
        return str(self.convert(*self.value(e), BOOL))

    def convert(self, value: Value, kind: Any, wanted: Any) -> Value:
        if isinstance(kind, Tuple) and isinstance(wanted, Tuple) and len(value) == len(wanted.members):
            whole = "undef"
            for k, ((part, found), to) in enumerate(zip(value, wanted.members, strict=True)):
                part = self.convert(part, found, to)
                whole = self.op(f"insertvalue {self.llvm(wanted)} {whole}, {self.llvm(to)} {part}, {k}")
            return whole
        if kind == wanted:
            return value
        rule = _CONVERT.get((kind, wanted))
        if rule is None:
            raise Refused(f"{kind} where {wanted} is needed")
        if wanted != F64:
            return self.op(rule.format(self.plain(value) if kind == F64 else value))
        if kind == I64 and value.lstrip("-").isdigit():
            return self.number(int(value))
        return self.widened(self.op(rule.format(value)))

    def constant_value(self, value: Any) -> Typed:
        if isinstance(value, float):
            return self.number(value), F64
        if not isinstance(value, bool | int):
            raise Refused(f"the constant {value!r}")
        return str(int(value)), BOOL if isinstance(value, bool) else I64

    def value_constant(self, e: ast.Constant) -> Typed:
        return self.constant_value(e.value)

    def value_name(self, e: ast.Name) -> Typed:
        kind = self.types.get(e.id)
        if isinstance(kind, Array):
            shape = [self.op(f"load i64, ptr %{e.id}.{k}.slot") for k in range(kind.ndim)]
            return (self.op(f"load ptr, ptr %{e.id}.slot"), shape), kind
        if kind is not None:
            return self.op(f"load {self.llvm(kind)}, ptr %{e.id}.slot"), kind
        value = self.scope.get(e.id)
        if isinstance(value, np.ndarray) and value.dtype in (np.float64, np.int64):
            kind = Array(F64 if value.dtype == np.float64 else I64, value.ndim)
            return (self.unit.constant(e.id, value), [str(n) for n in value.shape]), kind
        if not isinstance(value, bool | int | float):
            raise Refused(f"the name {e.id}")
        return self.constant_value(value)

    def value_tuple(self, e: ast.Tuple) -> Typed:
        members = [self.value(m) for m in e.elts]
        return members, Tuple(tuple(kind for _, kind in members))

    def value_attribute(self, e: ast.Attribute) -> Typed:
        if e.attr == "size":
            (_, shape), _ = self.value(e.value)
            return self.product(shape), I64
        if module_of(e) == "math" and e.attr in ("pi", "e", "inf", "nan"):
            return self.number(getattr(math, e.attr)), F64
        raise Refused(ast.unparse(e))

    def value_subscript(self, e: ast.Subscript) -> Typed:
        if isinstance(e.value, ast.Attribute) and e.value.attr == "shape":
            (_, shape), _ = self.value(e.value.value)
            return shape[integer(e.slice) or 0], I64
        place, kind = self.place(e)
        return (place, kind) if isinstance(kind, Array) else (self.load(place, kind), kind)

    def load(self, place: Value, kind: Any) -> str:
        return self.op(f"load {self.llvm(kind)}, ptr {place[0]}{self.aligned}")

    def place(self, e: ast.Subscript) -> Typed:
        """Return the address that an index reaches with the shape of what is left there, and the type of that."""
        (pointer, shape), kind = self.value(e.value)
        indices = e.slice.elts if isinstance(e.slice, ast.Tuple) else [e.slice]
        if not isinstance(kind, Array) or len(indices) > kind.ndim:
            raise Refused(f"the index {ast.unparse(e)}")
        offset = "0"
        rest = list(shape[len(indices) :])
        for k, length in enumerate(shape):
            index = indices[k] if k < len(indices) else None
            if isinstance(index, ast.Slice):
                if k != len(indices) - 1 or index.step is not None:
                    raise Refused(ast.unparse(e))
                first = "0" if index.lower is None else self.whole(index.lower)
                last = length if index.upper is None else self.whole(index.upper)
                rest = [self.op(f"sub nsw i64 {last}, {first}"), *rest]
            elif index is None:
                first = "0"
            else:
                first = self.whole(index)
                if (integer(index) or 0) < 0:
                    first = self.op(f"add nsw i64 {length}, {first}")
            scaled = offset if offset == "0" else self.op(f"mul nsw i64 {offset}, {length}")
            offset = first if scaled == "0" else scaled if first == "0" else self.op(f"add nsw i64 {scaled}, {first}")
        found = self.op(f"getelementptr inbounds {self.llvm(kind.element)}, ptr {pointer}, i64 {offset}")
        return (found, rest), Array(kind.element, len(rest)) if rest else kind.element

    def value_unaryop(self, e: ast.UnaryOp) -> Typed:
        if isinstance(e.op, ast.Not):
            return self.op(f"xor i1 {self.test(e.operand)}, true"), BOOL
        if isinstance(e.operand, ast.Constant) and isinstance(e.op, ast.USub):
            return self.constant_value(-e.operand.value)  # type: ignore[operator]
        value, kind = self.value(e.operand)
        if isinstance(e.op, ast.UAdd):
            return value, kind
        if isinstance(e.op, ast.USub) and kind in (F64, I64):
            return self.negated(value) if kind == F64 else self.op(f"sub nsw i64 0, {value}"), kind
        raise Refused(ast.unparse(e))

    def value_binop(self, e: ast.BinOp) -> Typed:
        whole = integer(e.right)
        if isinstance(e.op, ast.Pow) and whole is not None and abs(whole) <= _LARGEST_POWER:
            return self.power(self.value(e.left), whole)
        return self.binary(e.op, self.value(e.left), self.value(e.right))

    def binary(self, op: ast.operator, left: Typed, right: Typed) -> Typed:
        kind = type(op)
        if kind in (ast.Div, ast.Pow) or F64 in (left[1], right[1]):
            x, y = self.convert(*left, F64), self.convert(*right, F64)
            if kind is ast.Pow:
                return self.library("pow", [x, y]), F64
            if kind not in _FLOAT_OP:
                raise Refused(f"{kind.__name__} of floats")
            return self.arithmetic(kind, x, y), F64
        x, y = self.convert(*left, I64), self.convert(*right, I64)
        if kind in _INT_OP:
            return self.op(f"{_INT_OP[kind]} i64 {x}, {y}"), I64
        if kind not in (ast.FloorDiv, ast.Mod):
            raise Refused(kind.__name__)
        # Towards minus infinity, as Python divides.
        divisor = int(y) if y.isdigit() else 0
        if divisor and divisor & (divisor - 1) == 0:
            shift = f"ashr i64 {x}, {divisor.bit_length() - 1}"
            return self.op(shift if kind is ast.FloorDiv else f"and i64 {x}, {divisor - 1}"), I64
        rest = self.op(f"srem i64 {x}, {y}")
        opposite = self.op(f"icmp slt i64 {self.op(f'xor i64 {rest}, {y}')}, 0")
        below = self.op(f"and i1 {self.op(f'icmp ne i64 {rest}, 0')}, {opposite}")
        if kind is ast.Mod:
            return self.op(f"select i1 {below}, i64 {self.op(f'add i64 {rest}, {y}')}, i64 {rest}"), I64
        return self.op(f"sub i64 {self.op(f'sdiv i64 {x}, {y}')}, {self.op(f'zext i1 {below} to i64')}"), I64

    def power(self, base: Typed, exponent: int) -> Typed:
        """Return a power by repeated squaring."""
        if exponent < 0:
            below, _ = self.power((self.convert(*base, F64), F64), -exponent)
            return self.arithmetic(ast.Div, self.number(1.0), below), F64
        found: Typed | None = None
        square = base
        while exponent:
            if exponent & 1:
                found = self.binary(ast.Mult(), found, square) if found else square
            exponent >>= 1
            if exponent:
                square = self.binary(ast.Mult(), square, square)
        return found or (("1", I64) if base[1] == I64 else (self.number(1.0), F64))

    def value_compare(self, e: ast.Compare) -> Typed:
        left, result = self.value(e.left), ""
        for op, operand in zip(e.ops, e.comparators, strict=True):
            right = self.value(operand)
            if type(op) not in _INT_CMP:
                raise Refused(ast.unparse(e))
            here = self.ordered(_FLOAT_CMP[type(op)], _INT_CMP[type(op)], left, right)
            result = self.op(f"and i1 {result}, {here}") if result else here
            left = right
        return result, BOOL

    def ordered(self, real: str, whole: str, left: Typed, right: Typed) -> str:
        """Return how two numbers compare."""
        kind = F64 if F64 in (left[1], right[1]) else I64
        x, y = self.convert(*left, kind), self.convert(*right, kind)
        if kind == F64:
            return self.op(f"fcmp {real} double {self.plain(x)}, {self.plain(y)}")
        return self.op(f"icmp {whole} i64 {x}, {y}")

    def value_boolop(self, e: ast.BoolOp) -> Typed:
        first, *rest = e.values
        if not rest:
            return self.test(first), BOOL
        others, both = ast.BoolOp(e.op, rest), isinstance(e.op, ast.And)
        decided = ast.Constant(not both)
        return self.value_ifexp(ast.IfExp(first, *((others, decided) if both else (decided, others))))

    def value_ifexp(self, e: ast.IfExp) -> Typed:
        test = self.test(e.test)
        if all(isinstance(n, _CHEAP) for side in (e.body, e.orelse) for n in ast.walk(side)):
            return self.selected(test, self.value(e.body), self.value(e.orelse))
        yes, no, end = self.fresh("then"), self.fresh("else"), self.fresh("end")
        self.branch(test, yes, no)
        before, sides = self.body, []
        for label, side in ((yes, e.body), (no, e.orelse)):
            self.body = []
            self.label(label)
            sides.append((self.value(side), self.body))
        kind = unify(sides[0][0][1], sides[1][0][1])
        slot = self.slot(self.llvm(kind))
        for value, lines in sides:
            self.body, self.dead = lines, False
            self.out(f"store {self.llvm(kind)} {self.convert(*value, kind)}, ptr {slot}")
            self.jump(end)
            before += lines
        self.body = before
        self.label(end)
        return self.op(f"load {self.llvm(kind)}, ptr {slot}"), kind

    def selected(self, test: str, first: Typed, second: Typed) -> Typed:
        """Return one of two values, both of which are there."""
        kind = unify(first[1], second[1])
        if isinstance(kind, Array):
            (p, shape), (q, other) = first[0], second[0]
            both = zip(shape, other, strict=True)
            lengths = [self.op(f"select i1 {test}, i64 {a}, i64 {b}") for a, b in both]
            return (self.op(f"select i1 {test}, ptr {p}, ptr {q}"), lengths), kind
        x, y = self.convert(*first, kind), self.convert(*second, kind)
        return self.op(f"select i1 {test}, {self.llvm(kind)} {x}, {self.llvm(kind)} {y}"), kind


def integer(e: ast.expr) -> int | None:
    """Return the value of a literal integer."""
    if isinstance(e, ast.Constant) and type(e.value) is int:
        return e.value
    if isinstance(e, ast.UnaryOp) and isinstance(e.op, ast.USub):
        inner = integer(e.operand)
        return None if inner is None else -inner
    return None


def module_of(e: ast.Attribute) -> str:
    return e.value.id if isinstance(e.value, ast.Name) and e.value.id in ("math", "np") else ""
