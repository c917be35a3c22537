"""The same functions on numbers that carry their derivatives: exact tangents of whatever is printed.

A real number becomes a vector of four: its value, and its derivatives in three directions. Sums and products are those
of the vectors, functions follow the chain rule, comparisons and indices look at the value. An array of them is an array
of four times as many doubles. `tape` has numbers that carry something else, by the same chain rule.
"""

from __future__ import annotations

import ast
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .expressions import Typed, Value
from .lowering import Function
from .types import F64, VOID, Array, Refused, Signature, Tuple, flat, llvm, number

LANES = 4
VECTOR = f"<{LANES} x double>"
_SPREAD = f"<{LANES} x i32> zeroinitializer"
_TANGENTS = f"<{LANES} x i1> <i1 false, i1 true, i1 true, i1 true>"


class Carrying(Function):
    """Emits a function of numbers that are vectors: a value, and what is carried along; of a constant, zeros."""

    lanes: ClassVar[int]
    # Arrays of NumPy lie at multiples of 16 only.
    aligned = ", align 8"

    @classmethod
    def vector_type(cls) -> str:
        """Return the LLVM type of a number."""
        return f"<{cls.lanes} x double>"

    @classmethod
    def constant(cls, value: float) -> str:
        return f"<double {number(value)}{', double 0.0' * (cls.lanes - 1)}>"

    def llvm(self, kind: Any) -> str:
        if kind == F64:
            return self.vector_type()
        return f"{{ {', '.join(self.llvm(m) for m in kind.members)} }}" if isinstance(kind, Tuple) else llvm(kind)

    def number(self, value: float) -> str:
        return self.constant(value)

    @classmethod
    def array_of(cls, values: np.ndarray) -> tuple[str, list[str]]:
        return cls.vector_type(), [cls.constant(v) for v in values.ravel()]

    def widened(self, value: str) -> str:
        return self.op(f"insertelement {self.vector_type()} zeroinitializer, double {value}, i32 0")

    def plain(self, value: str) -> str:
        return self.op(f"extractelement {self.vector_type()} {value}, i32 0")

    @classmethod
    def adapted(cls, name: str, signature: Signature) -> tuple[str, list[str]]:
        # From outside, arrays are longer ones of doubles: the last axis holds the vectors.
        if signature.result != VOID:
            raise Refused("tangents of a function that returns something")
        seen = cls.seen(signature).arguments
        names = [f"%a{k}" for k in range(len(seen))]
        given, lines = ["ptr %state"], []
        for n, kind in zip(names, signature.arguments, strict=False):
            if isinstance(kind, Array):
                last = f"{n}.{kind.ndim - 1}"
                lines.append(f"{last}.q = sdiv i64 {last}, {cls.lanes}")
                given += [f"ptr {n}", *(f"i64 {n}.{k}" for k in range(kind.ndim - 1)), f"i64 {last}.q"]
            elif kind == F64:
                vector = cls.vector_type()
                lines.append(f"{n}.v = insertelement {vector} zeroinitializer, double {n}, i32 0")
                given.append(f"{vector} {n}.v")
            else:
                given.append(f"{llvm(kind)} {n}")
        parameters = ", ".join(["ptr %state", *(p for n, k in zip(names, seen, strict=True) for p in flat(n, k))])
        lines += cls.laid_out(f"call void @{name}({', '.join(given)})", names[-1])
        head = f"define internal void @{name}.long({parameters}) nounwind {{"
        return f"{name}.long", [head, *lines, "ret void", "}"]

    @classmethod
    def laid_out(cls, call: str, tape: str) -> list[str]:
        """Return the call; `tape` is the last argument that callers see."""
        return [call]

    @abstractmethod
    def chained(self, value: str, *parts: tuple[str, str]) -> str:
        """Return the number of that value whose differential is the sum of slope times that of an argument."""

    def call_address(self, name: str, e: ast.Call) -> Typed:
        """Call a function of the time, which has no derivative; of others the code at the address knows none."""
        if not all(isinstance(a, ast.Name) and a.id == "t" for a in e.args):
            raise Refused(f"the derivative of {ast.unparse(e)}")
        return super().call_address(name, e)

    def numba_passed(self, value: Value, kind: Any) -> list[str]:
        return [f"double {self.plain(value)}"]

    def scalar(self, word: str, x: str, y: str) -> str:
        return self.op(f"{word} double {x}, {y}")

    def library(self, name: str, arguments: Sequence[str]) -> str:
        u = [self.plain(a) for a in arguments]
        value = self.call_library(name, u)
        one, half = number(1.0), number(0.5)
        x = u[0]

        def call(other: str, *given: str) -> str:
            return self.call_library(other, given)

        def over(denominator: str, numerator: str = one) -> str:
            return self.scalar("fdiv", numerator, denominator)

        def square(v: str) -> str:
            return self.scalar("fmul", v, v)

        if name in ("copysign", "pow", "atan2", "hypot"):
            y = u[1]
            if name == "copysign":
                signs = self.scalar("fmul", call("copysign", one, x), call("copysign", one, y))
                return self.chained(value, (signs, arguments[0]))
            if name == "pow":
                first = self.scalar("fmul", y, call("pow", x, self.scalar("fsub", y, one)))
                # Where the base is not positive, the exponent is a constant.
                positive = self.op(f"fcmp ogt double {x}, 0.0")
                log = call("log", self.op(f"select i1 {positive}, double {x}, double {one}"))
                return self.chained(value, (first, arguments[0]), (self.scalar("fmul", value, log), arguments[1]))
            if name == "hypot":
                return self.chained(value, (over(value, x), arguments[0]), (over(value, y), arguments[1]))
            size = self.scalar("fadd", square(x), square(y))
            minus = self.op(f"fneg double {x}")
            return self.chained(value, (over(size, y), arguments[0]), (over(size, minus), arguments[1]))
        bell = {"erf": 2.0 / math.sqrt(math.pi), "erfc": -2.0 / math.sqrt(math.pi)}
        if name in bell:
            slope = self.scalar("fmul", number(bell[name]), call("exp", self.op(f"fneg double {square(x)}")))
        elif name in ("sqrt", "exp", "log", "sin", "cos", "fabs", "sinh", "cosh", "expm1", "log1p"):
            slope = {
                "sqrt": lambda: over(value, half), "exp": lambda: value, "log": lambda: over(x),
                "sin": lambda: call("cos", x), "cos": lambda: self.op(f"fneg double {call('sin', x)}"),
                "fabs": lambda: call("copysign", one, x), "sinh": lambda: call("cosh", x),
                "cosh": lambda: call("sinh", x), "expm1": lambda: self.scalar("fadd", value, one),
                "log1p": lambda: over(self.scalar("fadd", one, x)),
            }[name]()  # fmt: skip
        elif name in ("tan", "tanh"):
            slope = self.scalar("fadd" if name == "tan" else "fsub", one, square(value))
        elif name in ("asin", "acos", "asinh", "acosh"):
            inside = {"asinh": ("fadd", square(x), one), "acosh": ("fsub", square(x), one)}.get(
                name, ("fsub", one, square(x))
            )
            slope = over(call("sqrt", self.scalar(*inside)))
            slope = self.op(f"fneg double {slope}") if name == "acos" else slope
        elif name in ("atan", "atanh"):
            slope = over(self.scalar("fadd" if name == "atan" else "fsub", one, square(x)))
        elif name in ("log2", "log10"):
            slope = over(self.scalar("fmul", x, number(math.log(2.0 if name == "log2" else 10.0))))
        else:
            raise Refused(f"the derivative of {name}")
        return self.chained(value, (slope, arguments[0]))


class Tangents(Carrying):
    """Emits a function of numbers that carry derivatives."""

    lanes = LANES

    def spread(self, value: str) -> str:
        """Return a vector of copies of the first element."""
        return self.op(f"shufflevector {VECTOR} {value}, {VECTOR} undef, {_SPREAD}")

    def only_tangents(self, value: str) -> str:
        """Return the vector with 0 in place of the value."""
        return self.op(f"select {_TANGENTS}, {VECTOR} {value}, {VECTOR} zeroinitializer")

    def vector(self, word: str, x: str, y: str) -> str:
        return self.op(f"{word} {self.fast}{VECTOR} {x}, {y}")

    def arithmetic(self, op: type[ast.operator], x: str, y: str) -> str:
        if op is ast.Mult:
            return self.vector(
                "fadd",
                self.vector("fmul", self.spread(x), y),
                self.vector("fmul", self.spread(y), self.only_tangents(x)),
            )
        if op is ast.Div:
            # (x + dx)/(y + dy) = x/y + (dx - (x/y) dy)/y
            below = self.spread(y)
            quotient = self.vector("fdiv", self.spread(x), below)
            return self.vector(
                "fdiv", self.vector("fsub", x, self.vector("fmul", quotient, self.only_tangents(y))), below
            )
        return self.vector("fadd" if op is ast.Add else "fsub", x, y)

    def chained(self, value: str, *parts: tuple[str, str]) -> str:
        """Return the number of that value whose tangents are the sum of slope times argument."""
        total = "zeroinitializer"
        for slope, argument in parts:
            term = self.vector("fmul", self.spread(self.widened(slope)), argument)
            total = term if total == "zeroinitializer" else self.vector("fadd", total, term)
        return self.op(f"insertelement {VECTOR} {total}, double {value}, i32 0")
