"""The Python that we print and integrate with, translated to LLVM.

The subset: functions of float64 and int64 numbers, of contiguous arrays of them and of addresses of such functions;
assignments, loops over ranges, conditions, the functions of `math`. Arrays are views, or of the function's own on the
stack; nothing else is allocated. Arguments have the types they are called with, a name that of what it is first
assigned, in the order of the text; a whole number may follow a real one, not the other way round. Whatever else is met
raises `Refused`, and numba compiles the module instead.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from .calls import Calls
from .expressions import Value
from .types import I64, VOID, Array, Refused, Signature, Tuple, flat, number, unify


class Unit:
    """One LLVM module: the functions asked for and all that they call, once for each combination of types."""

    def __init__(self, function_types: Mapping[str, Signature], translator: type[Function]) -> None:
        self.function_types, self.translator = function_types, translator
        self.instances: dict[Any, Function] = {}
        self.declarations: dict[str, None] = {}
        self.text: list[str] = []

    def instance(self, kernel: Any, arguments: tuple[Any, ...]) -> Function:
        """Return the function for arguments of these types, translated."""
        key = kernel, arguments
        if key not in self.instances:
            found = self.translator(self, kernel, f"{kernel.__name__}.{len(self.instances)}")
            self.instances[key] = found
            self.text.append(found.emit(arguments))
        return self.instances[key]

    def constant(self, name: str, values: np.ndarray) -> str:
        """Return the address of a constant array."""
        if values.dtype == np.float64:
            kind, numbers = self.translator.array_of(values)
        else:
            kind, numbers = "i64", [str(int(v)) for v in values.ravel()]
        items = ", ".join(f"{kind} {v}" for v in numbers)
        line = f"@{name} = private unnamed_addr constant [{values.size} x {kind}] [{items}], align 64"
        self.declarations[line] = None
        return f"@{name}"

    def ir(self) -> str:
        """Return the whole module."""
        return "\n".join([*self.declarations, *self.text]) + "\n"


class Function(Calls):
    """One function for arguments of given types: its statements."""

    # Of what is returned; none is known before the first `return`.
    result: Any = None

    @classmethod
    def seen(cls, signature: Signature) -> Signature:
        """Return the signature as callers see it."""
        return signature

    @classmethod
    def adapted(cls, name: str, signature: Signature) -> tuple[str, list[str]]:
        """Return the function that callers reach, and its text if it is another than `name`."""
        return name, []

    @classmethod
    def array_of(cls, values: np.ndarray) -> tuple[str, list[str]]:
        """Return the LLVM type of the elements of a constant array, and the elements."""
        return "double", [number(v) for v in values.ravel()]

    def emit(self, arguments: tuple[Any, ...]) -> str:
        """Return the definition."""
        node: ast.FunctionDef = self.kernel.node
        names = [a.arg for a in node.args.args]
        if len(names) != len(arguments):
            raise Refused(f"{self.kernel.__name__} takes {len(names)} arguments, not {len(arguments)}")
        for name, kind in zip(names, arguments, strict=True):
            shape = [f"%in.{name}.{k}" for k in range(kind.ndim)] if isinstance(kind, Array) else None
            self.store(name, f"%in.{name}" if shape is None else (f"%in.{name}", shape), kind)
        self.block(node.body)
        self.result = self.result or VOID
        if not self.dead:
            self.out("ret void" if self.result == VOID else "unreachable")
        given = [p for n, k in zip(names, arguments, strict=True) for p in flat(f"%in.{n}", k, self.llvm)]
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
        if not isinstance(s.targets[0], ast.Tuple):
            value, kind = self.value(s.value)
            for t in s.targets:
                self.assign(t, value, kind)
        elif isinstance(s.value, ast.IfExp):
            yes, no = (ast.Assign(s.targets, v) for v in (s.value.body, s.value.orelse))
            self.do_if(ast.If(s.value.test, [yes], [no]))
        else:
            values, kind = self.value(s.value)
            if not isinstance(kind, Tuple):
                raise Refused(ast.unparse(s))
            for t, (value, member) in zip(s.targets[0].elts, values, strict=True):
                self.assign(t, value, member)

    def assign(self, target: ast.expr, value: Value, kind: Any) -> None:
        if isinstance(target, ast.Name):
            self.store(target.id, value, kind)
        elif isinstance(target, ast.Subscript):
            place, wanted = self.place(target)
            if isinstance(wanted, Array):
                self.fill(place, self.convert(value, kind, wanted.element), wanted)
            else:
                self.write(place[0], self.convert(value, kind, wanted), wanted)
        else:
            raise Refused(ast.unparse(target))

    def store(self, name: str, value: Value, kind: Any) -> None:
        """Assign to a name; `_` is for what nobody reads."""
        if name == "_":
            return
        new, wanted = name not in self.types, self.types.setdefault(name, kind)
        value = self.held(name, value, kind, wanted)
        if isinstance(wanted, Array):
            pointer, shape = value
            words = [("ptr", pointer, f"%{name}.slot")]
            words += [("i64", length, f"%{name}.{k}.slot") for k, length in enumerate(shape)]
        else:
            words = [(self.llvm(wanted), value, f"%{name}.slot")]
        for spelled, word, place in words:
            if new:
                self.slot(spelled, place)
            self.out(f"store {spelled} {word}, ptr {place}")

    def held(self, name: str, value: Value, kind: Any, wanted: Any) -> Value:
        """Return a value as one of the type that a name has had from the first, which must hold it."""
        both = [(kind, wanted)]
        if isinstance(kind, Tuple) and isinstance(wanted, Tuple) and len(kind.members) == len(wanted.members):
            both = list(zip(kind.members, wanted.members, strict=True))
        if any(unify(found, held) != held for found, held in both):
            raise Refused(f"{name} is {kind} here, and {wanted} where it is first assigned")
        return self.convert(value, kind, wanted)

    def write(self, place: str, value: str, kind: Any) -> None:
        self.out(f"store {self.llvm(kind)} {value}, ptr {place}{self.aligned}")

    def fill(self, place: Value, value: str, kind: Array) -> None:
        """Store one number in all elements of an array."""

        def body(now: str) -> None:
            at = self.op(f"getelementptr inbounds {self.llvm(kind.element)}, ptr {place[0]}, i64 {now}")
            self.write(at, value, kind.element)

        self.counted("0", self.product(place[1]), 1, body)

    def do_augassign(self, s: ast.AugAssign) -> None:
        if isinstance(s.target, ast.Subscript):
            place, kind = self.place(s.target)
            value, found = self.binary(s.op, (self.load(place, kind), kind), self.value(s.value))
            self.write(place[0], self.convert(value, found, kind), kind)
        else:
            read = ast.Name(s.target.id) if isinstance(s.target, ast.Name) else s.target
            self.assign(s.target, *self.value(ast.BinOp(read, s.op, s.value)))

    def do_return(self, s: ast.Return) -> None:
        if s.value is None:
            self.out("ret void")
        else:
            value, kind = self.value(s.value)
            self.result = self.result or kind
            self.out(f"ret {self.llvm(self.result)} {self.held('the result', value, kind, self.result)}")
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
        call, target = s.iter, s.target
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "range") or s.orelse:
            raise Refused(ast.unparse(s.iter))
        bounds = [self.whole(a) for a in call.args[:2]]
        low, high = bounds if len(bounds) == 2 else ("0", bounds[0])
        step = self.known(call.args[2]) if len(call.args) == 3 else 1
        if not step or not isinstance(target, ast.Name):
            raise Refused(ast.unparse(s.iter))

        def body(now: str) -> None:
            self.store(target.id, now, I64)
            self.block(s.body)

        self.counted(low, high, step, body)

    def counted(self, low: str, high: str, step: int, body: Callable[[str], None]) -> None:
        """Emit a loop; `body` emits what is done at a number."""
        counter = self.slot("i64")
        self.out(f"store i64 {low}, ptr {counter}")
        head, inside, following, end = (self.fresh(n) for n in ("head", "body", "next", "end"))
        self.jump(head)
        self.label(head)
        now = self.op(f"load i64, ptr {counter}")
        self.branch(self.op(f"icmp {'slt' if step > 0 else 'sgt'} i64 {now}, {high}"), inside, end)
        self.label(inside)
        self.loops.append((following, end))
        body(now)
        self.loops.pop()
        self.jump(following)
        self.label(following)
        here = self.op(f"load i64, ptr {counter}")
        self.out(f"store i64 {self.op(f'add nsw i64 {here}, {step}')}, ptr {counter}")
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
