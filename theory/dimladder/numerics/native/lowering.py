"""The Python that we print and integrate with, translated to LLVM.

The subset: functions of float64 and int64 numbers, of contiguous arrays of them and of addresses of such functions;
assignments, loops over ranges, conditions, the functions of `math`. Arrays are views, nothing is allocated. Types are
inferred from the arguments. Whatever else is met raises `Refused`, and numba compiles the module instead.
"""

from __future__ import annotations

import ast
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .types import BOOL, F64, I64, VOID, Array, Refused, Signature, Tuple, Type

# math.name -> function of LLVM, or of the C library.
_LLVM = {n: f"llvm.{f}.f64" for n, f in {
    "sqrt": "sqrt", "exp": "exp", "log": "log", "sin": "sin", "cos": "cos", "fabs": "fabs", "copysign": "copysign",
    "pow": "pow",
}.items()}  # fmt: skip
_LIBM = {
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cosh", "erf", "erfc", "expm1", "fmod", "hypot", "log10",
    "log1p", "log2", "sinh", "tan", "tanh",
}  # fmt: skip
_ROUND = {"floor": "llvm.floor.f64", "ceil": "llvm.ceil.f64"}
_FLOAT_OP = {ast.Add: "fadd", ast.Sub: "fsub", ast.Mult: "fmul", ast.Div: "fdiv"}
_INT_OP = {ast.Add: "add nsw", ast.Sub: "sub nsw", ast.Mult: "mul nsw"}
_FLOAT_CMP = {ast.Lt: "olt", ast.LtE: "ole", ast.Gt: "ogt", ast.GtE: "oge", ast.Eq: "oeq", ast.NotEq: "une"}
_INT_CMP = {ast.Lt: "slt", ast.LtE: "sle", ast.Gt: "sgt", ast.GtE: "sge", ast.Eq: "eq", ast.NotEq: "ne"}
# Both sides of a conditional expression are computed where they are made of these.
_CHEAP = (ast.Name, ast.Constant, ast.UnaryOp, ast.BinOp, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Load)
_LARGEST_POWER = 64
_LARGEST_LOCAL = 1024

Value = Any  # a name or number of LLVM; (pointer, shape) of an array; a list of (value, type) of a tuple
Typed = tuple[Value, Any]


def number(value: float) -> str:
    """Return a float64 as LLVM writes it, exactly."""
    return f"0x{struct.unpack('<Q', struct.pack('<d', float(value)))[0]:016X}"


def unify(first: Any, second: Any) -> Any:
    """Return the type that holds both; None stands for a type that is not known yet."""
    if first is None or second is None or first == second:
        return second if first is None else first
    if isinstance(first, Type) and isinstance(second, Type):
        return F64 if F64 in (first, second) else I64
    raise Refused(f"one name for {first} and {second}")


def flat(name: str, kind: Any) -> list[str]:
    """Return the parameters by which functions translated here pass a value to each other."""
    if isinstance(kind, Array):
        return [f"ptr {name}", *(f"i64 {name}.{k}" for k in range(kind.ndim))]
    return [f"{llvm(kind)} {name}"]


def llvm(kind: Any) -> str:
    """Return the LLVM type of a scalar, an address or a tuple."""
    if isinstance(kind, Signature):
        return "ptr"
    if isinstance(kind, Tuple):
        return f"{{ {', '.join(llvm(m) for m in kind.members)} }}"
    return str(kind.llvm)


class Unit:
    """One LLVM module: the functions asked for and all that they call, once for each combination of types."""

    def __init__(self, function_types: Mapping[str, Signature]) -> None:
        self.function_types = function_types
        self.instances: dict[Any, Function] = {}
        self.declarations: dict[str, None] = {}
        self.text: list[str] = []

    def instance(self, kernel: Any, arguments: tuple[Any, ...]) -> Function:
        """Return the function for arguments of these types, its types inferred."""
        key = kernel, arguments
        if key not in self.instances:
            self.instances[key] = Function(self, kernel, arguments, f"{kernel.__name__}.{len(self.instances)}")
            self.instances[key].infer()
        return self.instances[key]

    def emitted(self, kernel: Any, arguments: tuple[Any, ...]) -> Function:
        """Return the function, translated."""
        found = self.instance(kernel, arguments)
        if not found.done:
            found.done = True
            self.text.append(found.emit())
        return found

    def constant(self, name: str, values: np.ndarray) -> str:
        kind = "double" if values.dtype == np.float64 else "i64"
        items = ", ".join(f"{kind} {number(v) if kind == 'double' else int(v)}" for v in values.ravel())
        label = f"@{name}"
        line = f"{label} = private unnamed_addr constant [{values.size} x {kind}] [{items}], align 64"
        self.declarations[line] = None
        return label

    def ir(self) -> str:
        """Return the whole module."""
        return "\n".join([*self.declarations, *self.text]) + "\n"


class Function:
    """One function for arguments of given types."""

    def __init__(self, unit: Unit, kernel: Any, arguments: tuple[Any, ...], name: str) -> None:
        self.unit, self.kernel, self.arguments, self.name = unit, kernel, arguments, name
        self.node: ast.FunctionDef = kernel.node
        self.scope: Mapping[str, Any] = kernel.scope
        self.parameters = [a.arg for a in self.node.args.args]
        if len(self.parameters) != len(arguments):
            raise Refused(f"{kernel.__name__} takes {len(self.parameters)} arguments, not {len(arguments)}")
        self.types: dict[str, Any] = dict(zip(self.parameters, arguments, strict=True))
        self.result: Any = None
        self.done = self.settled = False
        flags = kernel.options.get("fastmath", ())
        self.fast = "fast " if flags is True else "".join(f"{f} " for f in sorted(flags or ()))
        self.count = 0
        self.body: list[str] = []
        self.slots: list[str] = []
        self.loops: list[tuple[str, str]] = []
        self.dead = False

    # Types ----------------------------------------------------------------------------------------------------------

    def infer(self) -> None:
        """Find the type of every name: pass over all assignments until nothing changes."""
        binding = ast.Assign | ast.AugAssign | ast.For | ast.Return
        statements = [s for s in ast.walk(self.node) if isinstance(s, binding)]
        while True:
            before = dict(self.types), self.result
            for s in statements:
                if isinstance(s, ast.Assign):
                    for target in s.targets:
                        self.bind(target, s.value)
                elif isinstance(s, ast.AugAssign):
                    self.bind(s.target, ast.BinOp(s.target, s.op, s.value))
                elif isinstance(s, ast.For):
                    if not isinstance(s.target, ast.Name):
                        raise Refused("a loop over more than one name")
                    self.types[s.target.id] = unify(self.types.get(s.target.id), I64)
                elif s.value is not None:
                    self.result = unify(self.result, self.type_of(s.value))
            if before == (self.types, self.result):
                break
        if self.result is None:
            self.result = VOID
        self.settled = True

    def bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            kind = unify(self.types.get(target.id), self.type_of(value))
            if kind is not None:
                self.types[target.id] = kind
        elif isinstance(target, ast.Tuple):
            if isinstance(value, ast.Tuple):
                for t, v in zip(target.elts, value.elts, strict=True):
                    self.bind(t, v)
            elif isinstance(value, ast.IfExp):
                self.bind(target, value.body)
                self.bind(target, value.orelse)
            else:
                kind = self.type_of(value)
                if kind is not None:
                    for t, k in zip(target.elts, kind.members, strict=True):
                        if not isinstance(t, ast.Name):
                            raise Refused("a tuple unpacked into elements")
                        self.types[t.id] = unify(self.types.get(t.id), k)

    def type_of(self, e: ast.expr) -> Any:
        """Return the type of an expression; None while it depends on a name that has none yet."""
        if isinstance(e, ast.Constant):
            kind = {bool: BOOL, int: I64, float: F64}.get(type(e.value))
            if kind is None:
                raise Refused(f"the constant {e.value!r}")
            return kind
        if isinstance(e, ast.Name):
            return self.types[e.id] if e.id in self.types else self.outer_type(e.id)
        if isinstance(e, ast.BinOp):
            left, right = self.type_of(e.left), self.type_of(e.right)
            if isinstance(e.op, ast.Div) or (isinstance(e.op, ast.Pow) and _integer(e.right) is None):
                return F64
            if isinstance(e.op, ast.Pow):
                return left if (_integer(e.right) or 0) >= 0 else F64
            return None if left is None or right is None else I64 if unify(left, right) == BOOL else unify(left, right)
        if isinstance(e, ast.UnaryOp):
            return BOOL if isinstance(e.op, ast.Not) else self.type_of(e.operand)
        if isinstance(e, ast.Compare | ast.BoolOp):
            return BOOL
        if isinstance(e, ast.IfExp):
            return unify(self.type_of(e.body), self.type_of(e.orelse))
        if isinstance(e, ast.Tuple):
            members = tuple(self.type_of(m) for m in e.elts)
            return None if None in members else Tuple(members)
        if isinstance(e, ast.Attribute):
            if isinstance(e.value, ast.Name) and e.value.id == "math":
                return F64
            if e.attr == "size":
                return I64
        if isinstance(e, ast.Subscript):
            if _is_shape(e):
                return I64
            kind, indices = self.type_of(e.value), _indices(e)
            if kind is None:
                return None
            if not isinstance(kind, Array) or len(indices) > kind.ndim:
                raise Refused(f"the index {ast.unparse(e)}")
            left = kind.ndim - len(indices) + isinstance(indices[-1], ast.Slice)
            return Array(kind.element, left) if left else kind.element
        if isinstance(e, ast.Call):
            return self.type_of_call(e)
        raise Refused(ast.unparse(e))

    def type_of_call(self, e: ast.Call) -> Any:
        f = e.func
        if isinstance(f, ast.Attribute):
            if f.attr == "reshape":
                kind = self.type_of(f.value)
                return None if kind is None else Array(kind.element, len(_shape_of(e)))
            if ast.unparse(f) == "np.empty":
                return Array(F64, len(_shape_of(e)))
            if not (isinstance(f.value, ast.Name) and f.value.id == "math"):
                raise Refused(ast.unparse(f))
            return BOOL if f.attr in ("isfinite", "isnan", "isinf") else I64 if f.attr in _ROUND else F64
        if not isinstance(f, ast.Name):
            raise Refused(ast.unparse(f))
        if f.id in ("int", "len", "float", "bool"):
            return {"float": F64, "bool": BOOL}.get(f.id, I64)
        kinds = tuple(self.type_of(a) for a in e.args)
        if f.id in self.unit.function_types and f.id not in self.types:
            return self.unit.function_types[f.id]
        if f.id == "borrowed":
            return kinds[0]
        if None in kinds:
            return None
        if f.id in ("min", "max", "abs"):
            found = None
            for kind in kinds:
                found = unify(found, kind)
            return found
        if f.id in self.types:
            return self.types[f.id].result if self.types[f.id] is not None else None
        callee = self.unit.instance(self.kernel_named(f.id), kinds)
        return callee.result if callee.settled else None

    def kernel_named(self, name: str) -> Any:
        found = self.scope.get(name)
        if not hasattr(found, "node"):
            raise Refused(f"the function {name}")
        return found

    def outer_type(self, name: str) -> Any:
        value = self.scope.get(name)
        if isinstance(value, np.ndarray) and value.dtype in (np.float64, np.int64):
            return Array(F64 if value.dtype == np.float64 else I64, value.ndim)
        if isinstance(value, bool | int | float):
            return {bool: BOOL, int: I64}.get(type(value), F64)
        # A name that is assigned further on has no type yet; one that never is fails when it is read.
        return None

    # Code -----------------------------------------------------------------------------------------------------------

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

    def emit(self) -> str:
        """Return the definition."""
        for name, kind in self.types.items():
            if isinstance(kind, Array):
                self.slots.append(f"%{name}.slot = alloca ptr")
                self.slots += [f"%{name}.{k}.slot = alloca i64" for k in range(kind.ndim)]
            else:
                self.slots.append(f"%{name}.slot = alloca {llvm(kind)}")
        for name, kind in zip(self.parameters, self.arguments, strict=True):
            given = f"%in.{name}"
            shape = [f"{given}.{k}" for k in range(kind.ndim)] if isinstance(kind, Array) else None
            self.store(name, given if shape is None else (given, shape), kind)
        self.block(self.node.body)
        if not self.dead:
            self.out("ret void" if self.result == VOID else "unreachable")
        if isinstance(self.result, Array):
            raise Refused(f"{self.kernel.__name__} returns an array")
        given = [p for n, k in zip(self.parameters, self.arguments, strict=True) for p in flat(f"%in.{n}", k)]
        parameters = ", ".join(["ptr %state", *given])
        inline = " alwaysinline" if self.kernel.options.get("forceinline") else ""
        head = f"define internal {llvm(self.result)} @{self.name}({parameters}) nounwind{inline} {{"
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
                values = [
                    (self.op(f"extractvalue {llvm(kind)} {whole}, {k}"), m) for k, m in enumerate(kind.members)
                ]
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
            old = self.op(f"load {llvm(kind)}, ptr {place}")
            value, found = self.binary(s.op, (old, kind), self.value(s.value), s.value)
            self.out(f"store {llvm(kind)} {self.convert(value, found, kind)}, ptr {place}")
        elif isinstance(s.target, ast.Name):
            self.assign(s.target, *self.value(ast.BinOp(s.target, s.op, s.value)))
        else:
            raise Refused(ast.unparse(s))

    def do_return(self, s: ast.Return) -> None:
        if s.value is None:
            self.out("ret void")
        else:
            value, kind = self.value(s.value)
            self.out(f"ret {llvm(self.result)} {self.convert(value, kind, self.result)}")
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
        step = _integer(call.args[2]) if len(call.args) == 3 else 1
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
            if isinstance(element, Array):
                raise Refused(ast.unparse(target))
            place, _ = self.place(target)
            self.out(f"store {llvm(element)} {self.convert(value, kind, element)}, ptr {place}")
        else:
            raise Refused(ast.unparse(target))

    def store(self, name: str, value: Value, kind: Any) -> None:
        wanted = self.types[name]
        if isinstance(wanted, Array):
            pointer, shape = value
            self.out(f"store ptr {pointer}, ptr %{name}.slot")
            for k, length in enumerate(shape):
                self.out(f"store i64 {length}, ptr %{name}.{k}.slot")
        else:
            self.out(f"store {llvm(wanted)} {self.convert(value, kind, wanted)}, ptr %{name}.slot")

    def convert(self, value: Value, kind: Any, wanted: Any) -> Value:
        if kind == wanted:
            return value
        rule = {
            (I64, F64): "sitofp i64 {} to double", (BOOL, F64): "uitofp i1 {} to double",
            (BOOL, I64): "zext i1 {} to i64", (I64, BOOL): "icmp ne i64 {}, 0", (F64, BOOL): "fcmp une double {}, 0.0",
        }.get((kind, wanted))  # fmt: skip
        if rule is None:
            raise Refused(f"{kind} where {wanted} is needed")
        if kind == I64 and wanted == F64 and value.lstrip("-").isdigit():
            return number(int(value))
        return self.op(rule.format(value))

    def whole(self, e: ast.expr) -> str:
        return str(self.convert(*self.value(e), I64))

    def real(self, e: ast.expr) -> str:
        return str(self.convert(*self.value(e), F64))

    def test(self, e: ast.expr) -> str:
        return str(self.convert(*self.value(e), BOOL))

    # Expressions ----------------------------------------------------------------------------------------------------

    def value(self, e: ast.expr) -> Typed:
        """Emit an expression; return its value and type."""
        if isinstance(e, ast.Constant):
            kind = self.type_of(e)
            return (number(e.value) if kind == F64 else str(int(e.value))), kind  # type: ignore[arg-type]
        if isinstance(e, ast.Name):
            return self.read(e.id)
        if isinstance(e, ast.BinOp):
            right = (None, I64) if isinstance(e.op, ast.Pow) and _integer(e.right) is not None else None
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
                whole = self.op(f"insertvalue {llvm(kind)} {whole}, {llvm(member)} {value}, {k}")
            return whole, kind
        if isinstance(e, ast.Attribute):
            return self.attribute(e)
        if isinstance(e, ast.Subscript):
            if _is_shape(e):
                (_, shape), _ = self.value(e.value.value)  # type: ignore[attr-defined]
                return shape[_integer(e.slice) or 0], I64
            kind = self.type_of(e)
            if isinstance(kind, Array):
                return self.place(e), kind
            return self.op(f"load {llvm(kind)}, ptr {self.place(e)[0]}"), kind
        if isinstance(e, ast.Call):
            return self.call(e)
        raise Refused(ast.unparse(e))

    def read(self, name: str) -> Typed:
        kind = self.types.get(name)
        if isinstance(kind, Array):
            shape = [self.op(f"load i64, ptr %{name}.{k}.slot") for k in range(kind.ndim)]
            return (self.op(f"load ptr, ptr %{name}.slot"), shape), kind
        if kind is not None:
            return self.op(f"load {llvm(kind)}, ptr %{name}.slot"), kind
        kind, value = self.outer_type(name), self.scope.get(name)
        if kind is None:
            raise Refused(f"the name {name}")
        if isinstance(value, np.ndarray):
            return (self.unit.constant(name, value), [str(n) for n in value.shape]), kind
        return (number(value) if kind == F64 else str(int(value))), kind  # type: ignore[arg-type]

    def attribute(self, e: ast.Attribute) -> Typed:
        if e.attr == "size":
            (_, shape), _ = self.value(e.value)
            size = shape[0]
            for length in shape[1:]:
                size = self.op(f"mul nsw i64 {size}, {length}")
            return size, I64
        if isinstance(e.value, ast.Name) and e.value.id == "math" and e.attr in ("pi", "e", "inf", "nan"):
            return number(getattr(math, e.attr)), F64
        raise Refused(ast.unparse(e))

    def place(self, e: ast.Subscript) -> Typed:
        """Return the address that an index reaches, and the shape of what is left there."""
        (pointer, shape), kind = self.value(e.value)
        indices = _indices(e)
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
                if (_integer(index) or 0) < 0:
                    first = self.op(f"add nsw i64 {length}, {first}")
            scaled = offset if offset == "0" else self.op(f"mul nsw i64 {offset}, {length}")
            offset = first if scaled == "0" else scaled if first == "0" else self.op(f"add nsw i64 {scaled}, {first}")
        return self.op(f"getelementptr inbounds {kind.element.llvm}, ptr {pointer}, i64 {offset}"), rest

    def unary(self, e: ast.UnaryOp) -> Typed:
        if isinstance(e.op, ast.Not):
            return self.op(f"xor i1 {self.test(e.operand)}, true"), BOOL
        if isinstance(e.operand, ast.Constant) and isinstance(e.op, ast.USub):
            kind = self.type_of(e.operand)
            return (number(-e.operand.value) if kind == F64 else str(-int(e.operand.value))), kind  # type: ignore
        value, kind = self.value(e.operand)
        if isinstance(e.op, ast.UAdd):
            return value, kind
        if isinstance(e.op, ast.USub) and kind == F64:
            return self.op(f"fneg {self.fast}double {value}"), F64
        if isinstance(e.op, ast.USub) and kind == I64:
            return self.op(f"sub nsw i64 0, {value}"), I64
        raise Refused(ast.unparse(e))

    def binary(self, op: ast.operator, left: Typed, right: Typed, exponent: ast.expr) -> Typed:
        if isinstance(op, ast.Pow):
            return self.power(left, right, _integer(exponent))
        (a, first), (b, second) = left, right
        if isinstance(op, ast.Div) or F64 in (first, second):
            if type(op) not in _FLOAT_OP:
                raise Refused(f"{type(op).__name__} of floats")
            x, y = self.convert(a, first, F64), self.convert(b, second, F64)
            return self.op(f"{_FLOAT_OP[type(op)]} {self.fast}double {x}, {y}"), F64
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
                exponent = number(whole), F64
            x, y = self.convert(*base, F64), self.convert(*exponent, F64)
            return self.library("pow", [x, y]), F64
        if whole < 0:
            base = self.convert(*base, F64), F64
        found: Typed = ("1", I64) if base[1] == I64 else (number(1.0), F64)
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
            return self.op(f"fdiv {self.fast}double {number(1.0)}, {found[0]}"), F64
        return found

    def compare(self, e: ast.Compare) -> Typed:
        left, result = self.value(e.left), ""
        for op, operand in zip(e.ops, e.comparators, strict=True):
            right = self.value(operand)
            if type(op) not in _INT_CMP:
                raise Refused(ast.unparse(e))
            wide = F64 if F64 in (left[1], right[1]) else I64
            x, y = self.convert(*left, wide), self.convert(*right, wide)
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
        if _cheap(e.body) and _cheap(e.orelse):
            x, y = (self.convert(*self.value(side), kind) for side in (e.body, e.orelse))
            return self.op(f"select i1 {test}, {llvm(kind)} {x}, {llvm(kind)} {y}"), kind
        slot, yes, no, end = self.fresh("%choice"), self.fresh("then"), self.fresh("else"), self.fresh("end")
        self.slots.append(f"{slot} = alloca {llvm(kind)}")
        self.branch(test, yes, no)
        for label, side in ((yes, e.body), (no, e.orelse)):
            self.label(label)
            self.out(f"store {llvm(kind)} {self.convert(*self.value(side), kind)}, ptr {slot}")
            self.jump(end)
        self.label(end)
        return self.op(f"load {llvm(kind)}, ptr {slot}"), kind

    # Calls ----------------------------------------------------------------------------------------------------------

    def library(self, name: str, arguments: Sequence[str]) -> str:
        """Call a function of LLVM or of the C library on floats."""
        target = _LLVM.get(name) or _ROUND.get(name) or name
        pure = "" if target.startswith("llvm") else " nounwind memory(none)"
        self.unit.declarations[f"declare double @{target}({', '.join(['double'] * len(arguments))}){pure}"] = None
        flags = self.fast if target.startswith("llvm") else ""
        return self.op(f"call {flags}double @{target}({', '.join(f'double {a}' for a in arguments)})")

    def call(self, e: ast.Call) -> Typed:
        f = e.func
        if e.keywords:
            raise Refused(ast.unparse(e))
        if isinstance(f, ast.Attribute):
            if f.attr == "reshape":
                (pointer, _), _ = self.value(f.value)
                return (pointer, [self.whole(n) for n in _shape_of(e)]), self.type_of(e)
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
        return self.op(f"call {llvm(callee.result)} @{callee.name}({passed})"), callee.result

    @staticmethod
    def passed(value: Value, kind: Any) -> list[str]:
        if isinstance(kind, Array):
            return [f"ptr {value[0]}", *(f"i64 {n}" for n in value[1])]
        return [f"{llvm(kind)} {value}"]

    def call_int(self, e: ast.Call) -> Typed:
        value, kind = self.value(e.args[0])
        return (self.op(f"fptosi double {value} to i64") if kind == F64 else self.convert(value, kind, I64)), I64

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
            word = f"fcmp o{order} double" if kind == F64 else f"icmp s{order} i64"
            better = self.op(f"{word} {other}, {found}")
            found = self.op(f"select i1 {better}, {llvm(kind)} {other}, {llvm(kind)} {found}")
        return found, kind

    def local_array(self, e: ast.Call) -> Typed:
        """A small array of fixed shape, on the stack."""
        lengths = [_integer(n) if not isinstance(n, ast.Name) else self.scope.get(n.id) for n in _shape_of(e)]
        if not all(isinstance(n, int) for n in lengths) or math.prod(lengths) > _LARGEST_LOCAL:  # type: ignore
            raise Refused(f"{ast.unparse(e)}: nothing is allocated")
        place = self.fresh("%local")
        self.slots.append(f"{place} = alloca [{math.prod(lengths)} x double], align 64")  # type: ignore[arg-type]
        return (place, [str(n) for n in lengths]), self.type_of(e)

    def math_call(self, name: str, e: ast.Call) -> Typed:
        given = [self.real(a) for a in e.args]
        if name == "isnan":
            return self.op(f"fcmp uno double {given[0]}, 0.0"), BOOL
        if name in ("isfinite", "isinf"):
            size = self.library("fabs", given)
            return self.op(f"fcmp {'olt' if name == 'isfinite' else 'oeq'} double {size}, {number(math.inf)}"), BOOL
        if name in _ROUND:
            return self.op(f"fptosi double {self.library(name, given)} to i64"), I64
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
        return (None, VOID) if kind.result == VOID else (self.op(f"load {llvm(kind.result)}, ptr {result}"), kind.result)

    def numba_passed(self, value: Value, kind: Any) -> list[str]:
        """Return the words of an argument: of an array, what numba keeps of it (no owner, so no reference counts)."""
        if not isinstance(kind, Array):
            return [f"{llvm(kind)} {value}"]
        pointer, shape = value
        strides, count = ["8"], shape[-1]
        for length in reversed(shape[1:]):
            strides.insert(0, self.op(f"mul nsw i64 {strides[0]}, {length}"))
        for length in shape[:-1]:
            count = self.op(f"mul nsw i64 {count}, {length}")
        words = ["ptr null", "ptr null", f"i64 {count}", "i64 8", f"ptr {pointer}"]
        return words + [f"i64 {n}" for n in (*shape, *strides)]


def _integer(e: ast.expr) -> int | None:
    """Return the value of a literal integer."""
    if isinstance(e, ast.Constant) and type(e.value) is int:
        return e.value
    if isinstance(e, ast.UnaryOp) and isinstance(e.op, ast.USub):
        inner = _integer(e.operand)
        return None if inner is None else -inner
    return None


def _indices(e: ast.Subscript) -> list[ast.expr]:
    return list(e.slice.elts) if isinstance(e.slice, ast.Tuple) else [e.slice]


def _is_shape(e: ast.Subscript) -> bool:
    return isinstance(e.value, ast.Attribute) and e.value.attr == "shape"


def _shape_of(e: ast.Call) -> list[ast.expr]:
    first = e.args[0]
    return list(first.elts) if isinstance(first, ast.Tuple) else list(e.args)


def _cheap(e: ast.expr) -> bool:
    return all(isinstance(n, _CHEAP) for n in ast.walk(e))
