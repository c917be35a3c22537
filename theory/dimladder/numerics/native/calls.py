"""Calls of a function, as LLVM: of others translated here, of `math`, through addresses; arrays of its own."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any

from .expressions import Expressions, Typed, Value, integer, module_of
from .types import BOOL, F64, I64, VOID, Array, Refused, Tuple, number

# Functions of `math` that LLVM has, and those of the C library.
_LLVM = {n: f"llvm.{n}.f64" for n in ("sqrt", "exp", "log", "sin", "cos", "fabs", "copysign", "pow", "floor", "ceil")}
_LIBM = {
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cosh", "erf", "erfc", "expm1", "fmod", "hypot",
    "log10", "log1p", "log2", "sinh", "tan", "tanh",
}  # fmt: skip
_BUILTIN = {"int", "float", "bool", "len", "abs", "min", "max", "borrowed"}
_LARGEST_LOCAL = 1024


class Calls(Expressions):
    """Emits the code of calls."""

    def library(self, name: str, arguments: Sequence[str]) -> str:
        return self.call_library(name, arguments)

    def value_call(self, e: ast.Call) -> Typed:
        f = e.func
        if e.keywords:
            raise Refused(ast.unparse(e))
        if isinstance(f, ast.Attribute):
            return self.call_attribute(f, e)
        if not isinstance(f, ast.Name):
            raise Refused(ast.unparse(f))
        if f.id in self.types:
            return self.call_address(f.id, e)
        if f.id in self.unit.function_types:
            # The second address is that of the native code.
            return self.op(f"inttoptr i64 {self.whole(e.args[1])} to ptr"), self.unit.function_types[f.id]
        if f.id in _BUILTIN:
            found: Typed = getattr(self, f"call_{f.id}")(*e.args)
            return found
        given = [self.value(a) for a in e.args]
        kernel = self.scope.get(f.id)
        if not hasattr(kernel, "node"):
            raise Refused(f"the function {f.id}")
        callee = self.unit.instance(kernel, tuple(kind for _, kind in given))
        passed = ", ".join(["ptr %state", *(p for value, kind in given for p in self.passed(value, kind))])
        if callee.result == VOID:
            self.out(f"call void @{callee.name}({passed})")
            return None, VOID
        kind = callee.result
        whole = self.op(f"call {self.llvm(kind)} @{callee.name}({passed})")
        if not isinstance(kind, Tuple):
            return whole, kind
        members = enumerate(kind.members)
        return [(self.op(f"extractvalue {self.llvm(kind)} {whole}, {k}"), m) for k, m in members], kind

    def passed(self, value: Value, kind: Any) -> list[str]:
        if isinstance(kind, Array):
            return [f"ptr {value[0]}", *(f"i64 {n}" for n in value[1])]
        return [f"{self.llvm(kind)} {value}"]

    def call_attribute(self, f: ast.Attribute, e: ast.Call) -> Typed:
        module = module_of(f)
        if module == "math":
            return self.call_math(f.attr, [self.real(a) for a in e.args])
        if module == "np":
            if f.attr == "empty":
                return self.local_array(e)
            if f.attr == "int64":
                return self.call_int(*e.args)
        elif f.attr == "view":
            value, kind = self.value(f.value)
            wanted = {"int64": I64, "float64": F64}.get(getattr(e.args[0], "attr", ""))
            if wanted is not None and isinstance(kind, Array):
                return value, Array(wanted, kind.ndim)
            if (kind, wanted) == (I64, F64):
                return self.widened(self.op(f"bitcast i64 {value} to double")), F64
        elif f.attr == "reshape":
            (pointer, _), kind = self.value(f.value)
            shape = [self.whole(n) for n in shape_of(e)]
            return (pointer, shape), Array(kind.element, len(shape))
        raise Refused(ast.unparse(e))

    def call_int(self, e: ast.expr) -> Typed:
        value, kind = self.value(e)
        if kind == F64:
            return self.op(f"fptosi double {self.plain(value)} to i64"), I64
        return self.convert(value, kind, I64), I64

    def call_float(self, e: ast.expr) -> Typed:
        return self.real(e), F64

    def call_bool(self, e: ast.expr) -> Typed:
        return self.test(e), BOOL

    def call_len(self, e: ast.expr) -> Typed:
        (_, shape), _ = self.value(e)
        return shape[0], I64

    def call_borrowed(self, e: ast.expr) -> Typed:
        return self.value(e)

    def call_abs(self, e: ast.expr) -> Typed:
        value, kind = self.value(e)
        if kind == F64:
            return self.library("fabs", [value]), F64
        negative = self.op(f"icmp slt i64 {value}, 0")
        return self.op(f"select i1 {negative}, i64 {self.op(f'sub nsw i64 0, {value}')}, i64 {value}"), I64

    def call_min(self, *given: ast.expr) -> Typed:
        return self.extreme(given, "lt")

    def call_max(self, *given: ast.expr) -> Typed:
        return self.extreme(given, "gt")

    def extreme(self, given: Sequence[ast.expr], order: str) -> Typed:
        found = self.value(given[0])
        for e in given[1:]:
            other = self.value(e)
            found = self.selected(self.ordered(f"o{order}", f"s{order}", other, found), other, found)
        return found

    def local_array(self, e: ast.Call) -> Typed:
        """An array on the stack: of fixed shape anywhere, of any size where the function allocates it once."""
        kind = Array(I64 if len(e.args) > 1 else F64, len(shape_of(e)))
        element, known = self.llvm(kind.element), [self.known(n) for n in shape_of(e)]
        if None not in known and math.prod(known) <= _LARGEST_LOCAL:  # type: ignore[arg-type]
            return (self.slot(f"[{math.prod(known)} x {element}], align 64"), [str(n) for n in known]), kind  # type: ignore[arg-type]
        if self.loops:
            raise Refused(f"{ast.unparse(e)}: an array of any size in a loop")
        shape = [self.whole(n) for n in shape_of(e)]
        return (self.op(f"alloca {element}, i64 {self.product(shape)}, align 64"), shape), kind

    def known(self, e: ast.expr) -> int | None:
        """Return an integer that is written down, here or as a constant of the module."""
        if isinstance(e, ast.Name) and e.id not in self.types:
            value = self.scope.get(e.id)
            return value if type(value) is int else None
        return integer(e)

    def call_math(self, name: str, given: list[str]) -> Typed:
        if name == "isnan":
            return self.op(f"fcmp uno double {self.plain(given[0])}, 0.0"), BOOL
        if name in ("isfinite", "isinf"):
            size = self.call_library("fabs", [self.plain(given[0])])
            return self.op(f"fcmp {'olt' if name == 'isfinite' else 'oeq'} double {size}, {number(math.inf)}"), BOOL
        if name in ("floor", "ceil"):
            return self.op(f"fptosi double {self.call_library(name, [self.plain(given[0])])} to i64"), I64
        if name not in _LLVM and name not in _LIBM:
            raise Refused(f"math.{name}")
        return self.library(name, given), F64

    def call_library(self, name: str, arguments: Sequence[str]) -> str:
        """Call a function of LLVM or of the C library on doubles."""
        target = _LLVM.get(name, name)
        pure = "" if name in _LLVM else " nounwind memory(none)"
        self.unit.declarations[f"declare double @{target}({', '.join(['double'] * len(arguments))}){pure}"] = None
        flags = self.fast if name in _LLVM else ""
        return self.op(f"call {flags}double @{target}({', '.join(f'double {a}' for a in arguments)})")

    def call_address(self, name: str, e: ast.Call) -> Typed:
        """Call through an address, as numba's native code is called: it returns a status, and writes its result."""
        pointer, kind = self.value_name(ast.Name(name))
        given = [
            (self.convert(*self.value(a), wanted), wanted) for a, wanted in zip(e.args, kind.arguments, strict=True)
        ]
        # Functions without a result write a null pointer there.
        result, raised = self.slot("ptr" if kind.result == VOID else kind.result.llvm), self.slot("ptr")
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
        strides = ["8"]
        for length in reversed(shape[1:]):
            strides.insert(0, self.op(f"mul nsw i64 {strides[0]}, {length}"))
        words = ["ptr null", "ptr null", f"i64 {self.product(shape)}", "i64 8", f"ptr {pointer}"]
        return words + [f"i64 {n}" for n in (*shape, *strides)]


def shape_of(e: ast.Call) -> list[ast.expr]:
    first = e.args[0]
    return list(first.elts) if isinstance(first, ast.Tuple) else [first]
