"""The same functions on numbers that know their place on a tape: exact cotangents of whatever is printed.

A real number becomes a vector of two: its value, and its place on a tape; 0 is the place of all constants. Whatever is
computed of a number with a place writes a row there: the places of its two arguments, each followed by the derivative
in it. Read backwards, the rows carry derivatives of a result in every number to the arguments (Griewank & Walther 2008,
chapter 3). An array of such numbers is an array of twice as many doubles.
"""

from __future__ import annotations

import ast

from .tangents import Carrying
from .types import F64, Array, Signature, number

LANES = 2
# Of a row: place and derivative, twice. The first row of a tape holds the number of those in use.
ROW = 4
# What functions hand to each other: numba's status and exception, the tape, how many rows are used, how many there are.
STATE = "{i32, ptr, ptr, i64, i64}"
_NUMBER = f"<{LANES} x double>"
_RECORD = f"""
define internal double @record(ptr %state, double %i, double %di, double %j, double %dj) nounwind alwaysinline {{
entry:
  %sum = fadd double %i, %j
  %constant = fcmp oeq double %sum, 0.0
  br i1 %constant, label %none, label %some
none:
  ret double 0.0
some:
  %used = getelementptr {STATE}, ptr %state, i32 0, i32 3
  %before = load i64, ptr %used
  %place = add nsw i64 %before, 1
  store i64 %place, ptr %used
  %most = getelementptr {STATE}, ptr %state, i32 0, i32 4
  %rows = load i64, ptr %most
  %fits = icmp slt i64 %place, %rows
  br i1 %fits, label %write, label %end
write:
  %where = getelementptr {STATE}, ptr %state, i32 0, i32 2
  %tape = load ptr, ptr %where
  %at = mul i64 %place, {ROW}
  %row = getelementptr double, ptr %tape, i64 %at
  store double %i, ptr %row
  %row.1 = getelementptr double, ptr %row, i64 1
  store double %di, ptr %row.1
  %row.2 = getelementptr double, ptr %row, i64 2
  store double %j, ptr %row.2
  %row.3 = getelementptr double, ptr %row, i64 3
  store double %dj, ptr %row.3
  br label %end
end:
  %found = sitofp i64 %place to double
  ret double %found
}}"""


class Recorded(Carrying):
    """Emits a function of numbers that know their place on a tape."""

    lanes = LANES

    @classmethod
    def seen(cls, signature: Signature) -> Signature:
        return Signature(signature.result, (*signature.arguments, Array(F64, 1)))

    @classmethod
    def laid_out(cls, call: str, tape: str) -> list[str]:
        def member(k: int, kind: str, value: str) -> list[str]:
            return [f"%m{k} = getelementptr {STATE}, ptr %long, i32 0, i32 {k}", f"store {kind} {value}, ptr %m{k}"]

        return [
            f"%long = alloca {STATE}", f"%used = load double, ptr {tape}", "%begin = fptosi double %used to i64",
            f"%rows = sdiv i64 {tape}.0, {ROW}",
            *member(0, "i32", "0"), *member(1, "ptr", "null"), *member(2, "ptr", tape), *member(3, "i64", "%begin"),
            *member(4, "i64", "%rows"), call.replace("ptr %state", "ptr %long", 1),
            "%end = load i64, ptr %m3", "%now = sitofp i64 %end to double", f"store double %now, ptr {tape}",
            "%status = load i32, ptr %m0", "%what = load ptr, ptr %m1", "store i32 %status, ptr %state",
            "%place = getelementptr {i32, ptr}, ptr %state, i32 0, i32 1", "store ptr %what, ptr %place",
        ]  # fmt: skip

    def arithmetic(self, op: type[ast.operator], x: str, y: str) -> str:
        a, b, one = self.plain(x), self.plain(y), number(1.0)
        if op is ast.Mult:
            return self.chained(self.scalar(f"fmul {self.fast}", a, b), (b, x), (a, y))
        if op is ast.Div:
            quotient = self.scalar(f"fdiv {self.fast}", a, b)
            inverse = self.scalar("fdiv", one, b)
            return self.chained(
                quotient, (inverse, x), (self.op(f"fneg double {self.scalar('fmul', quotient, inverse)}"), y)
            )
        word, sign = ("fadd", one) if op is ast.Add else ("fsub", number(-1.0))
        return self.chained(self.scalar(f"{word} {self.fast}", a, b), (one, x), (sign, y))

    def negated(self, value: str) -> str:
        return self.chained(self.op(f"fneg {self.fast}double {self.plain(value)}"), (number(-1.0), value))

    def chained(self, value: str, *parts: tuple[str, str]) -> str:
        self.unit.declarations[_RECORD] = None
        given = [f"double {self.op(f'extractelement {_NUMBER} {x}, i32 1')}, double {slope}" for slope, x in parts]
        given += ["double 0.0, double 0.0"] * (2 - len(given))
        place = self.op(f"call double @record(ptr %state, {', '.join(given)})")
        return self.op(f"insertelement {_NUMBER} {self.widened(value)}, double {place}, i32 1")
