"""What type each name and expression of a function has, found from the types of its arguments."""

from __future__ import annotations

import ast
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .types import BOOL, F64, I64, VOID, Array, Refused, Signature, Tuple, Type

ROUND = {"floor": "llvm.floor.f64", "ceil": "llvm.ceil.f64"}


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


def flat(name: str, kind: Any, spelled: Callable[[Any], str] | None = None) -> list[str]:
    """Return the parameters by which functions translated here pass a value to each other."""
    if isinstance(kind, Array):
        return [f"ptr {name}", *(f"i64 {name}.{k}" for k in range(kind.ndim))]
    return [f"{(spelled or llvm)(kind)} {name}"]


def llvm(kind: Any) -> str:
    """Return the LLVM type of a scalar, an address or a tuple."""
    if isinstance(kind, Signature):
        return "ptr"
    if isinstance(kind, Tuple):
        return f"{{ {', '.join(llvm(m) for m in kind.members)} }}"
    return str(kind.llvm)


def integer(e: ast.expr) -> int | None:
    """Return the value of a literal integer."""
    if isinstance(e, ast.Constant) and type(e.value) is int:
        return e.value
    if isinstance(e, ast.UnaryOp) and isinstance(e.op, ast.USub):
        inner = integer(e.operand)
        return None if inner is None else -inner
    return None


def indices_of(e: ast.Subscript) -> list[ast.expr]:
    return list(e.slice.elts) if isinstance(e.slice, ast.Tuple) else [e.slice]


def is_shape(e: ast.Subscript) -> bool:
    return isinstance(e.value, ast.Attribute) and e.value.attr == "shape"


def shape_of(e: ast.Call) -> list[ast.expr]:
    first = e.args[0]
    return list(first.elts) if isinstance(first, ast.Tuple) else [first]


class Inference:
    """One function for arguments of given types: what its names are."""

    def __init__(self, unit: Any, kernel: Any, arguments: tuple[Any, ...], name: str) -> None:
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
            if isinstance(e.op, ast.Div) or (isinstance(e.op, ast.Pow) and integer(e.right) is None):
                return F64
            if isinstance(e.op, ast.Pow):
                return left if (integer(e.right) or 0) >= 0 else F64
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
            if is_shape(e):
                return I64
            kind, indices = self.type_of(e.value), indices_of(e)
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
            if f.attr == "view":
                kind, wanted = self.type_of(f.value), {"np.int64": I64, "np.float64": F64}.get(ast.unparse(e.args[0]))
                if wanted is None:
                    raise Refused(ast.unparse(e))
                return None if kind is None else Array(wanted, kind.ndim) if isinstance(kind, Array) else wanted
            if f.attr == "reshape":
                kind = self.type_of(f.value)
                return None if kind is None else Array(kind.element, len(shape_of(e)))
            if ast.unparse(f) == "np.empty":
                return Array(I64 if len(e.args) > 1 else F64, len(shape_of(e)))
            if ast.unparse(f) == "np.int64":
                return I64
            if not (isinstance(f.value, ast.Name) and f.value.id == "math"):
                raise Refused(ast.unparse(f))
            return BOOL if f.attr in ("isfinite", "isnan", "isinf") else I64 if f.attr in ROUND else F64
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
