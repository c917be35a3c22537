"""The Python that we print and integrate with, translated to LLVM.

The subset: functions of float64 and int64 numbers, of contiguous arrays of them and of addresses of such functions;
assignments, loops over ranges, conditions, the functions of `math`. Arrays are views, or small ones of real numbers on
the stack; nothing else is allocated. Types are
inferred from the arguments. Whatever else is met raises `Refused`, and numba compiles the module instead.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .expressions import Expressions, Value
from .inference import flat, integer, number
from .types import I64, VOID, Array, Refused, Signature


class Unit:
    """One LLVM module: the functions asked for and all that they call, once for each combination of types."""

    def __init__(self, function_types: Mapping[str, Signature], translator: type[Function] | None = None) -> None:
        self.function_types, self.translator = function_types, translator or Function
        self.instances: dict[Any, Function] = {}
        self.declarations: dict[str, None] = {}
        self.text: list[str] = []

    def instance(self, kernel: Any, arguments: tuple[Any, ...]) -> Function:
        """Return the function for arguments of these types, its types inferred."""
        key = kernel, arguments
        if key not in self.instances:
            found = self.translator(self, kernel, arguments, f"{kernel.__name__}.{len(self.instances)}")
            self.instances[key] = found
            found.infer()
        return self.instances[key]

    def emitted(self, kernel: Any, arguments: tuple[Any, ...]) -> Function:
        """Return the function, translated."""
        found = self.instance(kernel, arguments)
        if not found.done:
            found.done = True
            self.text.append(found.emit())
        return found

    def constant(self, name: str, values: np.ndarray) -> str:
        if values.dtype == np.float64:
            kind, numbers = self.translator.array_of(values)
        else:
            kind, numbers = "i64", [str(int(v)) for v in values.ravel()]
        items = ", ".join(f"{kind} {v}" for v in numbers)
        label = f"@{name}"
        line = f"{label} = private unnamed_addr constant [{values.size} x {kind}] [{items}], align 64"
        self.declarations[line] = None
        return label

    def ir(self) -> str:
        """Return the whole module."""
        return "\n".join([*self.declarations, *self.text]) + "\n"


class Function(Expressions):
    """One function for arguments of given types: its statements."""

    @staticmethod
    def array_of(values: np.ndarray) -> tuple[str, list[str]]:
        """Return the LLVM type of the elements of a constant array, and the elements."""
        return "double", [number(v) for v in values.ravel()]

    def emit(self) -> str:
        """Return the definition."""
        for name, kind in self.types.items():
            if isinstance(kind, Array):
                self.slots.append(f"%{name}.slot = alloca ptr")
                self.slots += [f"%{name}.{k}.slot = alloca i64" for k in range(kind.ndim)]
            else:
                self.slots.append(f"%{name}.slot = alloca {self.llvm(kind)}")
        for name, kind in zip(self.parameters, self.arguments, strict=True):
            shape = [f"%in.{name}.{k}" for k in range(kind.ndim)] if isinstance(kind, Array) else None
            self.store(name, f"%in.{name}" if shape is None else (f"%in.{name}", shape), kind)
        self.block(self.node.body)
        if not self.dead:
            self.out("ret void" if self.result == VOID else "unreachable")
        if isinstance(self.result, Array):
            raise Refused(f"{self.kernel.__name__} returns an array")
        named = zip(self.parameters, self.arguments, strict=True)
        given = [p for n, k in named for p in flat(f"%in.{n}", k, self.llvm)]
        parameters = ", ".join(["ptr %state", *given])
        inline = " alwaysinline" if self.kernel.options.get("forceinline") else ""
        head = f"define internal {self.llvm(self.result)} @{self.name}({parameters}) nounwind{inline} {{"
        return "\n".join([head, "entry:", *(f"  {s}" for s in self.slots), *self.body, "}"])

    def block(self, statements: Iterable[ast.stmt]) -> None:
        for s in statements:
            if self.dead:
                return
            method = getattr(self, f"do_{type(s).__name__.lower()}", None)
            if method is None:
                raise Refused(ast.unparse(s))
            method(s)

    def do_expr(self, s: ast.Expr) -> None:
        if not isinstance(s.value, ast.Constant):
            self.value(s.value)

    def do_pass(self, s: ast.Pass) -> None:
        pass

    def do_assign(self, s: ast.Assign) -> None:
        target = s.targets[0]
        if isinstance(target, ast.Tuple):
            if isinstance(s.value, ast.IfExp):
                yes, no = (ast.Assign([target], v) for v in (s.value.body, s.value.orelse))
                self.do_if(ast.If(s.value.test, [yes], [no]))
                return
            if isinstance(s.value, ast.Tuple):
                values = [self.value(v) for v in s.value.elts]
            else:
                whole, kind = self.value(s.value)
                members = enumerate(kind.members)
                values = [(self.op(f"extractvalue {self.llvm(kind)} {whole}, {k}"), m) for k, m in members]
            for t, (value, kind) in zip(target.elts, values, strict=True):
                self.assign(t, value, kind)
            return
        value, kind = self.value(s.value)
        for t in s.targets:
            self.assign(t, value, kind)

    def do_augassign(self, s: ast.AugAssign) -> None:
        if isinstance(s.target, ast.Subscript):
            kind = self.type_of(s.target)
            place, _ = self.place(s.target)
            old = self.op(f"load {self.llvm(kind)}, ptr {place}{self.aligned}")
            value, found = self.binary(s.op, (old, kind), self.value(s.value), s.value)
            self.out(f"store {self.llvm(kind)} {self.convert(value, found, kind)}, ptr {place}{self.aligned}")
        elif isinstance(s.target, ast.Name):
            self.assign(s.target, *self.value(ast.BinOp(s.target, s.op, s.value)))
        else:
            raise Refused(ast.unparse(s))

    def do_return(self, s: ast.Return) -> None:
        if s.value is None:
            self.out("ret void")
        else:
            value, kind = self.value(s.value)
            self.out(f"ret {self.llvm(self.result)} {self.convert(value, kind, self.result)}")
        self.dead = True

    def do_if(self, s: ast.If) -> None:
        test, yes, no, end = self.test(s.test), self.fresh("then"), self.fresh("else"), self.fresh("end")
        self.branch(test, yes, no)
        for label, statements in ((yes, s.body), (no, s.orelse)):
            self.label(label)
            self.block(statements)
            self.jump(end)
        self.label(end)

    def do_for(self, s: ast.For) -> None:
        call = s.iter
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "range") or s.orelse:
            raise Refused(ast.unparse(s.iter))
        bounds = [self.whole(a) for a in call.args[:2]]
        low, high = bounds if len(bounds) == 2 else ("0", bounds[0])
        step = integer(call.args[2]) if len(call.args) == 3 else 1
        if not step or not isinstance(s.target, ast.Name):
            raise Refused(ast.unparse(s.iter))
        counter = self.fresh("%loop")
        self.slots.append(f"{counter} = alloca i64")
        self.out(f"store i64 {low}, ptr {counter}")
        head, body, following, end = (self.fresh(n) for n in ("head", "body", "next", "end"))
        self.jump(head)
        self.label(head)
        now = self.op(f"load i64, ptr {counter}")
        self.branch(self.op(f"icmp {'slt' if step > 0 else 'sgt'} i64 {now}, {high}"), body, end)
        self.label(body)
        self.store(s.target.id, now, I64)
        self.loops.append((following, end))
        self.block(s.body)
        self.loops.pop()
        self.jump(following)
        self.label(following)
        here = self.op(f"load i64, ptr {counter}")
        self.out(f"store i64 {self.op(f'add nsw i64 {here}, {step}')}, ptr {counter}")
        self.jump(head)
        self.label(end)

    def fill(self, place: str, shape: list[str], value: str, kind: Any) -> None:
        """Store one number in all elements of an array."""
        count = shape[0]
        for length in shape[1:]:
            count = self.op(f"mul nsw i64 {count}, {length}")
        counter = self.fresh("%loop")
        self.slots.append(f"{counter} = alloca i64")
        self.out(f"store i64 0, ptr {counter}")
        head, body, end = (self.fresh(n) for n in ("head", "body", "end"))
        self.jump(head)
        self.label(head)
        now = self.op(f"load i64, ptr {counter}")
        self.branch(self.op(f"icmp slt i64 {now}, {count}"), body, end)
        self.label(body)
        at = self.op(f"getelementptr inbounds {self.llvm(kind)}, ptr {place}, i64 {now}")
        self.out(f"store {self.llvm(kind)} {value}, ptr {at}{self.aligned}")
        self.out(f"store i64 {self.op(f'add nsw i64 {now}, 1')}, ptr {counter}")
        self.jump(head)
        self.label(end)

    def do_while(self, s: ast.While) -> None:
        head, body, end = (self.fresh(n) for n in ("head", "body", "end"))
        self.jump(head)
        self.label(head)
        self.branch(self.test(s.test), body, end)
        self.label(body)
        self.loops.append((head, end))
        self.block(s.body)
        self.loops.pop()
        self.jump(head)
        self.label(end)

    def do_break(self, s: ast.Break) -> None:
        self.jump(self.loops[-1][1])

    def do_continue(self, s: ast.Continue) -> None:
        self.jump(self.loops[-1][0])

    def assign(self, target: ast.expr, value: Value, kind: Any) -> None:
        if isinstance(target, ast.Name):
            self.store(target.id, value, kind)
        elif isinstance(target, ast.Subscript):
            element = self.type_of(target)
            place, shape = self.place(target)
            if isinstance(element, Array):
                if isinstance(kind, Array):
                    raise Refused(ast.unparse(target))
                self.fill(place, shape, self.convert(value, kind, element.element), element.element)
                return
            self.out(f"store {self.llvm(element)} {self.convert(value, kind, element)}, ptr {place}{self.aligned}")
        else:
            raise Refused(ast.unparse(target))
