"""Expressions of a function, as LLVM."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .inference import ROUND, Inference, indices_of, integer, is_shape, llvm, number, shape_of
from .types import BOOL, F64, I64, VOID, Array, Refused

# math.name -> function of LLVM, or of the C library.
_LLVM = {n: f"llvm.{f}.f64" for n, f in {
    "sqrt": "sqrt", "exp": "exp", "log": "log", "sin": "sin", "cos": "cos", "fabs": "fabs", "copysign": "copysign",
    "pow": "pow",
}.items()}  # fmt: skip
_LIBM = {
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cosh", "erf", "erfc", "expm1", "fmod", "hypot",
    "log10", "log1p", "log2", "sinh", "tan", "tanh",
}  # fmt: skip
_FLOAT_OP = {ast.Add: "fadd", ast.Sub: "fsub", ast.Mult: "fmul", ast.Div: "fdiv"}
_INT_OP = {
    ast.Add: "add nsw", ast.Sub: "sub nsw", ast.Mult: "mul nsw", ast.LShift: "shl", ast.RShift: "ashr",
    ast.BitAnd: "and",
}  # fmt: skip
_FLOAT_CMP = {ast.Lt: "olt", ast.LtE: "ole", ast.Gt: "ogt", ast.GtE: "oge", ast.Eq: "oeq", ast.NotEq: "une"}
_INT_CMP = {ast.Lt: "slt", ast.LtE: "sle", ast.Gt: "sgt", ast.GtE: "sge", ast.Eq: "eq", ast.NotEq: "ne"}
# Both sides of a conditional expression are computed where they are made of these.
_CHEAP = (ast.Name, ast.Constant, ast.UnaryOp, ast.BinOp, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Load)
_LARGEST_POWER = 64
_LARGEST_LOCAL = 1024

Value = Any  # a name or number of LLVM; (pointer, shape) of an array; a list of (value, type) of a tuple
Typed = tuple[Value, Any]


class Expressions(Inference):
    """Emits the code of expressions, line by line."""

    # How a real number is represented: `tangents` has another way.
    aligned = ""

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
        """Return a real number with its sign turned."""
        return self.op(f"fneg {self.fast}{self.llvm(F64)} {value}")

    def library(self, name: str, arguments: Sequence[str]) -> str:
        """Return a function of `math` of real numbers."""
        return self.call_library(name, arguments)

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

    def label(self, name: str) -> None:
        self.body.append(f"{name}:")
        self.dead = False

    def jump(self, label: str) -> None:
        self.out(f"br label %{label}")
        self.dead = True

    def branch(self, test: str, yes: str, no: str) -> None:
        self.out(f"br i1 {test}, label %{yes}, label %{no}")
        self.dead = True

    def store(self, name: str, value: Value, kind: Any) -> None:
        wanted = self.types[name]
        if isinstance(wanted, Array):
            pointer, shape = value
            self.out(f"store ptr {pointer}, ptr %{name}.slot")
            for k, length in enumerate(shape):
                self.out(f"store i64 {length}, ptr %{name}.{k}.slot")
        else:
            self.out(f"store {self.llvm(wanted)} {self.convert(value, kind, wanted)}, ptr %{name}.slot")

    def convert(self, value: Value, kind: Any, wanted: Any) -> Value:
        if kind == wanted:
            return value
        rule = {
            (I64, F64): "sitofp i64 {} to double", (BOOL, F64): "uitofp i1 {} to double",
            (BOOL, I64): "zext i1 {} to i64", (I64, BOOL): "icmp ne i64 {}, 0", (F64, BOOL): "fcmp une double {}, 0.0",
        }.get((kind, wanted))  # fmt: skip
        if rule is None:
            raise Refused(f"{kind} where {wanted} is needed")
        if wanted != F64:
            return self.op(rule.format(self.plain(value) if kind == F64 else value))
        if kind == I64 and value.lstrip("-").isdigit():
            return self.number(int(value))
        return self.widened(self.op(rule.format(value)))

    def whole(self, e: ast.expr) -> str:
        return str(self.convert(*self.value(e), I64))

    def real(self, e: ast.expr) -> str:
        return str(self.convert(*self.value(e), F64))

    def test(self, e: ast.expr) -> str:
        return str(self.convert(*self.value(e), BOOL))

    def value(self, e: ast.expr) -> Typed:
        """Emit an expression; return its value and type."""
        if isinstance(e, ast.Constant):
            kind = self.type_of(e)
            return (self.number(e.value) if kind == F64 else str(int(e.value))), kind  # type: ignore[arg-type]
        if isinstance(e, ast.Name):
            return self.read(e.id)
        if isinstance(e, ast.BinOp):
            right = (None, I64) if isinstance(e.op, ast.Pow) and integer(e.right) is not None else None
            left = self.value(e.left)
            return self.binary(e.op, left, right or self.value(e.right), e.right)
        if isinstance(e, ast.UnaryOp):
            return self.unary(e)
        if isinstance(e, ast.Compare):
            return self.compare(e)
        if isinstance(e, ast.BoolOp):
            return self.logical(e)
        if isinstance(e, ast.IfExp):
            return self.conditional(e)
        if isinstance(e, ast.Tuple):
            kind = self.type_of(e)
            whole = "undef"
            for k, (m, member) in enumerate(zip(e.elts, kind.members, strict=True)):
                value = self.convert(*self.value(m), member)
                whole = self.op(f"insertvalue {self.llvm(kind)} {whole}, {self.llvm(member)} {value}, {k}")
            return whole, kind
        if isinstance(e, ast.Attribute):
            return self.attribute(e)
        if isinstance(e, ast.Subscript):
            if is_shape(e):
                (_, shape), _ = self.value(e.value.value)  # type: ignore[attr-defined]
                return shape[integer(e.slice) or 0], I64
            kind = self.type_of(e)
            if isinstance(kind, Array):
                return self.place(e), kind
            return self.op(f"load {self.llvm(kind)}, ptr {self.place(e)[0]}{self.aligned}"), kind
        if isinstance(e, ast.Call):
            return self.call(e)
        raise Refused(ast.unparse(e))

    def read(self, name: str) -> Typed:
        kind = self.types.get(name)
        if isinstance(kind, Array):
            shape = [self.op(f"load i64, ptr %{name}.{k}.slot") for k in range(kind.ndim)]
            return (self.op(f"load ptr, ptr %{name}.slot"), shape), kind
        if kind is not None:
            return self.op(f"load {self.llvm(kind)}, ptr %{name}.slot"), kind
        kind, value = self.outer_type(name), self.scope.get(name)
        if kind is None:
            raise Refused(f"the name {name}")
        if isinstance(value, np.ndarray):
            return (self.unit.constant(name, value), [str(n) for n in value.shape]), kind
        return (self.number(value) if kind == F64 else str(int(value))), kind  # type: ignore[arg-type]

    def attribute(self, e: ast.Attribute) -> Typed:
        if e.attr == "size":
            (_, shape), _ = self.value(e.value)
            size = shape[0]
            for length in shape[1:]:
                size = self.op(f"mul nsw i64 {size}, {length}")
            return size, I64
        if isinstance(e.value, ast.Name) and e.value.id == "math" and e.attr in ("pi", "e", "inf", "nan"):
            return self.number(getattr(math, e.attr)), F64
        raise Refused(ast.unparse(e))

    def place(self, e: ast.Subscript) -> Typed:
        """Return the address that an index reaches, and the shape of what is left there."""
        (pointer, shape), kind = self.value(e.value)
        indices = indices_of(e)
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
        return self.op(f"getelementptr inbounds {self.llvm(kind.element)}, ptr {pointer}, i64 {offset}"), rest

    def unary(self, e: ast.UnaryOp) -> Typed:
        if isinstance(e.op, ast.Not):
            return self.op(f"xor i1 {self.test(e.operand)}, true"), BOOL
        if isinstance(e.operand, ast.Constant) and isinstance(e.op, ast.USub):
            kind = self.type_of(e.operand)
            return (self.number(-e.operand.value) if kind == F64 else str(-int(e.operand.value))), kind  # type: ignore
        value, kind = self.value(e.operand)
        if isinstance(e.op, ast.UAdd):
            return value, kind
        if isinstance(e.op, ast.USub) and kind == F64:
            return self.negated(value), F64
        if isinstance(e.op, ast.USub) and kind == I64:
            return self.op(f"sub nsw i64 0, {value}"), I64
        raise Refused(ast.unparse(e))

    def binary(self, op: ast.operator, left: Typed, right: Typed, exponent: ast.expr) -> Typed:
        if isinstance(op, ast.Pow):
            return self.power(left, right, integer(exponent))
        (a, first), (b, second) = left, right
        if isinstance(op, ast.Div) or F64 in (first, second):
            if type(op) not in _FLOAT_OP:
                raise Refused(f"{type(op).__name__} of floats")
            x, y = self.convert(a, first, F64), self.convert(b, second, F64)
            return self.arithmetic(type(op), x, y), F64
        x, y = self.convert(a, first, I64), self.convert(b, second, I64)
        if type(op) in _INT_OP:
            return self.op(f"{_INT_OP[type(op)]} i64 {x}, {y}"), I64
        if not isinstance(op, ast.FloorDiv | ast.Mod):
            raise Refused(type(op).__name__)
        # Towards minus infinity, as Python divides.
        divisor = int(y) if y.isdigit() else 0
        if divisor and divisor & (divisor - 1) == 0:
            shift = f"ashr i64 {x}, {divisor.bit_length() - 1}"
            return self.op(shift if isinstance(op, ast.FloorDiv) else f"and i64 {x}, {divisor - 1}"), I64
        rest = self.op(f"srem i64 {x}, {y}")
        opposite = self.op(f"icmp slt i64 {self.op(f'xor i64 {rest}, {y}')}, 0")
        below = self.op(f"and i1 {self.op(f'icmp ne i64 {rest}, 0')}, {opposite}")
        if isinstance(op, ast.Mod):
            return self.op(f"select i1 {below}, i64 {self.op(f'add i64 {rest}, {y}')}, i64 {rest}"), I64
        return self.op(f"sub i64 {self.op(f'sdiv i64 {x}, {y}')}, {self.op(f'zext i1 {below} to i64')}"), I64

    def power(self, base: Typed, exponent: Typed, whole: int | None) -> Typed:
        if whole is None or abs(whole) > _LARGEST_POWER:
            if whole is not None:
                exponent = self.number(whole), F64
            x, y = self.convert(*base, F64), self.convert(*exponent, F64)
            return self.library("pow", [x, y]), F64
        if whole < 0:
            base = self.convert(*base, F64), F64
        found: Typed = ("1", I64) if base[1] == I64 else (self.number(1.0), F64)
        square, left = base, abs(whole)
        first = True
        while left:
            if left & 1:
                found = square if first else self.binary(ast.Mult(), found, square, ast.Constant(0))
                first = False
            left >>= 1
            if left:
                square = self.binary(ast.Mult(), square, square, ast.Constant(0))
        if whole < 0:
            return self.arithmetic(ast.Div, self.number(1.0), found[0]), F64
        return found

    def compare(self, e: ast.Compare) -> Typed:
        left, result = self.value(e.left), ""
        for op, operand in zip(e.ops, e.comparators, strict=True):
            right = self.value(operand)
            if type(op) not in _INT_CMP:
                raise Refused(ast.unparse(e))
            wide = F64 if F64 in (left[1], right[1]) else I64
            x, y = self.convert(*left, wide), self.convert(*right, wide)
            if wide == F64:
                x, y = self.plain(x), self.plain(y)
            word = f"fcmp {_FLOAT_CMP[type(op)]} double" if wide == F64 else f"icmp {_INT_CMP[type(op)]} i64"
            here = self.op(f"{word} {x}, {y}")
            result = self.op(f"and i1 {result}, {here}") if result else here
            left = right
        return result, BOOL

    def logical(self, e: ast.BoolOp) -> Typed:
        slot, end = self.fresh("%bool"), self.fresh("end")
        self.slots.append(f"{slot} = alloca i1")
        for k, operand in enumerate(e.values):
            found = self.test(operand)
            self.out(f"store i1 {found}, ptr {slot}")
            if k < len(e.values) - 1:
                following = self.fresh("more")
                self.branch(found, *((following, end) if isinstance(e.op, ast.And) else (end, following)))
                self.label(following)
        self.jump(end)
        self.label(end)
        return self.op(f"load i1, ptr {slot}"), BOOL

    def conditional(self, e: ast.IfExp) -> Typed:
        kind, test = self.type_of(e), self.test(e.test)
        if isinstance(kind, Array):
            (p, shape), (q, other) = self.value(e.body)[0], self.value(e.orelse)[0]
            both = zip(shape, other, strict=True)
            lengths = [self.op(f"select i1 {test}, i64 {a}, i64 {b}") for a, b in both]
            return (self.op(f"select i1 {test}, ptr {p}, ptr {q}"), lengths), kind
        if cheap(e.body) and cheap(e.orelse):
            x, y = (self.convert(*self.value(side), kind) for side in (e.body, e.orelse))
            return self.op(f"select i1 {test}, {self.llvm(kind)} {x}, {self.llvm(kind)} {y}"), kind
        slot, yes, no, end = self.fresh("%choice"), self.fresh("then"), self.fresh("else"), self.fresh("end")
        self.slots.append(f"{slot} = alloca {self.llvm(kind)}")
        self.branch(test, yes, no)
        for label, side in ((yes, e.body), (no, e.orelse)):
            self.label(label)
            self.out(f"store {self.llvm(kind)} {self.convert(*self.value(side), kind)}, ptr {slot}")
            self.jump(end)
        self.label(end)
        return self.op(f"load {self.llvm(kind)}, ptr {slot}"), kind

    def call_library(self, name: str, arguments: Sequence[str]) -> str:
        """Call a function of LLVM or of the C library on doubles."""
        target = _LLVM.get(name) or ROUND.get(name) or name
        pure = "" if target.startswith("llvm") else " nounwind memory(none)"
        self.unit.declarations[f"declare double @{target}({', '.join(['double'] * len(arguments))}){pure}"] = None
        flags = self.fast if target.startswith("llvm") else ""
        return self.op(f"call {flags}double @{target}({', '.join(f'double {a}' for a in arguments)})")

    def call(self, e: ast.Call) -> Typed:
        f = e.func
        if e.keywords:
            raise Refused(ast.unparse(e))
        if isinstance(f, ast.Attribute):
            if f.attr == "view":
                (value, kind), wanted = self.value(f.value), self.type_of(e)
                if not isinstance(kind, Array):
                    value = self.widened(self.op(f"bitcast i64 {self.convert(value, kind, I64)} to double"))
                return value, wanted
            if f.attr == "reshape":
                (pointer, _), _ = self.value(f.value)
                return (pointer, [self.whole(n) for n in shape_of(e)]), self.type_of(e)
            if f.attr == "int64":
                return self.call_int(e)
            return self.local_array(e) if f.attr == "empty" else self.math_call(f.attr, e)
        if not isinstance(f, ast.Name):
            raise Refused(ast.unparse(f))
        if f.id in self.types:
            return self.call_address(f.id, e)
        if f.id in self.unit.function_types:
            # The second address is that of the native code.
            return self.op(f"inttoptr i64 {self.whole(e.args[1])} to ptr"), self.unit.function_types[f.id]
        simple = getattr(self, f"call_{f.id}", None)
        if simple is not None and f.id in ("int", "float", "bool", "len", "abs", "min", "max", "borrowed"):
            found: Typed = simple(e)
            return found
        given = [self.value(a) for a in e.args]
        callee = self.unit.emitted(self.kernel_named(f.id), tuple(kind for _, kind in given))
        passed = ", ".join(["ptr %state", *(p for value, kind in given for p in self.passed(value, kind))])
        if callee.result == VOID:
            self.out(f"call void @{callee.name}({passed})")
            return None, VOID
        return self.op(f"call {self.llvm(callee.result)} @{callee.name}({passed})"), callee.result

    def passed(self, value: Value, kind: Any) -> list[str]:
        if isinstance(kind, Array):
            return [f"ptr {value[0]}", *(f"i64 {n}" for n in value[1])]
        return [f"{self.llvm(kind)} {value}"]

    def call_int(self, e: ast.Call) -> Typed:
        value, kind = self.value(e.args[0])
        if kind == F64:
            return self.op(f"fptosi double {self.plain(value)} to i64"), I64
        return self.convert(value, kind, I64), I64

    def call_float(self, e: ast.Call) -> Typed:
        return self.real(e.args[0]), F64

    def call_bool(self, e: ast.Call) -> Typed:
        return self.test(e.args[0]), BOOL

    def call_len(self, e: ast.Call) -> Typed:
        (_, shape), _ = self.value(e.args[0])
        return shape[0], I64

    def call_borrowed(self, e: ast.Call) -> Typed:
        return self.value(e.args[0])

    def call_abs(self, e: ast.Call) -> Typed:
        value, kind = self.value(e.args[0])
        if kind == F64:
            return self.library("fabs", [value]), F64
        negative = self.op(f"icmp slt i64 {value}, 0")
        return self.op(f"select i1 {negative}, i64 {self.op(f'sub nsw i64 0, {value}')}, i64 {value}"), I64

    def call_min(self, e: ast.Call) -> Typed:
        return self.extreme(e, "lt")

    def call_max(self, e: ast.Call) -> Typed:
        return self.extreme(e, "gt")

    def extreme(self, e: ast.Call, order: str) -> Typed:
        kind = self.type_of(e)
        found = self.convert(*self.value(e.args[0]), kind)
        for a in e.args[1:]:
            other = self.convert(*self.value(a), kind)
            if kind == F64:
                better = self.op(f"fcmp o{order} double {self.plain(other)}, {self.plain(found)}")
            else:
                better = self.op(f"icmp s{order} i64 {other}, {found}")
            found = self.op(f"select i1 {better}, {self.llvm(kind)} {other}, {self.llvm(kind)} {found}")
        return found, kind

    def local_array(self, e: ast.Call) -> Typed:
        """An array on the stack: of fixed shape anywhere, of any size where the function allocates it once."""
        kind = self.type_of(e)
        element, lengths = self.llvm(kind.element), [self.known(n) for n in shape_of(e)]
        if None not in lengths and math.prod(lengths) <= _LARGEST_LOCAL:  # type: ignore[arg-type]
            place = self.fresh("%local")
            self.slots.append(f"{place} = alloca [{math.prod(lengths)} x {element}], align 64")  # type: ignore[arg-type]
            return (place, [str(n) for n in lengths]), kind
        if self.loops:
            raise Refused(f"{ast.unparse(e)}: an array of any size in a loop")
        shape = [self.whole(n) for n in shape_of(e)]
        total = shape[0]
        for length in shape[1:]:
            total = self.op(f"mul nsw i64 {total}, {length}")
        return (self.op(f"alloca {element}, i64 {total}, align 64"), shape), kind

    def known(self, e: ast.expr) -> int | None:
        """Return an integer that is written down, here or as a constant of the module."""
        if isinstance(e, ast.Name) and e.id not in self.types:
            value = self.scope.get(e.id)
            return value if type(value) is int else None
        return integer(e)

    def math_call(self, name: str, e: ast.Call) -> Typed:
        given = [self.real(a) for a in e.args]
        if name == "isnan":
            return self.op(f"fcmp uno double {self.plain(given[0])}, 0.0"), BOOL
        if name in ("isfinite", "isinf"):
            size = self.call_library("fabs", [self.plain(given[0])])
            return self.op(f"fcmp {'olt' if name == 'isfinite' else 'oeq'} double {size}, {number(math.inf)}"), BOOL
        if name in ROUND:
            rounded = self.call_library(name, [self.plain(given[0])])
            return self.op(f"fptosi double {rounded} to i64"), I64
        if name not in _LLVM and name not in _LIBM:
            raise Refused(f"math.{name}")
        return self.library(name, given), F64

    def call_address(self, name: str, e: ast.Call) -> Typed:
        """Call through an address, as numba's native code is called; see `abi`."""
        pointer, kind = self.read(name)
        given = []
        for a, wanted in zip(e.args, kind.arguments, strict=True):
            value, found = self.value(a)
            given.append((value if found == wanted else self.convert(value, found, wanted), wanted))
        # Functions without a result write a null pointer there.
        result = self.fresh("%result")
        self.slots.append(f"{result} = alloca {'ptr' if kind.result == VOID else kind.result.llvm}")
        raised = self.fresh("%raised")
        self.slots.append(f"{raised} = alloca ptr")
        passed = ", ".join(p for value, wanted in given for p in self.numba_passed(value, wanted))
        status = self.op(f"call i32 {pointer}(ptr {result}, ptr {raised}, {passed})")
        # 0: fine; -2: None. Anything else is an exception, kept for whoever called from Python.
        odd, raising, on = self.op(f"add i32 {status}, 2"), self.fresh("raising"), self.fresh("on")
        fine = self.op(f"or i1 {self.op(f'icmp eq i32 {status}, 0')}, {self.op(f'icmp eq i32 {odd}, 0')}")
        self.branch(fine, on, raising)
        self.label(raising)
        self.out(f"store i32 {status}, ptr %state")
        kept = self.op("getelementptr {i32, ptr}, ptr %state, i32 0, i32 1")
        self.out(f"store ptr {self.op(f'load ptr, ptr {raised}')}, ptr {kept}")
        self.jump(on)
        self.label(on)
        if kind.result == VOID:
            return None, VOID
        found = self.op(f"load {kind.result.llvm}, ptr {result}")
        return self.widened(found) if kind.result == F64 else found, kind.result

    def numba_passed(self, value: Value, kind: Any) -> list[str]:
        """Return the words of an argument: of an array, what numba keeps of it (no owner, so no reference counts)."""
        if kind == BOOL:
            return [f"i8 {self.op(f'zext i1 {value} to i8')}"]
        if not isinstance(kind, Array):
            return [f"{self.llvm(kind)} {value}"]
        pointer, shape = value
        strides, count = ["8"], shape[-1]
        for length in reversed(shape[1:]):
            strides.insert(0, self.op(f"mul nsw i64 {strides[0]}, {length}"))
        for length in shape[:-1]:
            count = self.op(f"mul nsw i64 {count}, {length}")
        words = ["ptr null", "ptr null", f"i64 {count}", "i64 8", f"ptr {pointer}"]
        return words + [f"i64 {n}" for n in (*shape, *strides)]


def cheap(e: ast.expr) -> bool:
    return all(isinstance(n, _CHEAP) for n in ast.walk(e))
