"""Types and signatures of compiled code, as numba writes them: ``void(f8, f8[::1])``, ``types.float64[::1]``."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any


class Refused(Exception):
    """Code outside the subset that is translated; numba compiles it."""


@dataclass(frozen=True)
class Type:
    """A scalar: its name in LLVM. Indexing gives the type of an array, a call that of a signature."""

    llvm: str

    def __getitem__(self, axes: Any) -> Array:
        axes = axes if isinstance(axes, tuple) else (axes,)
        if axes[-1] != slice(None, None, 1):
            raise Refused("arrays are contiguous, [..., ::1]")
        return Array(self, len(axes))

    def __call__(self, *arguments: Any) -> Signature:
        return Signature(self, arguments)


@dataclass(frozen=True)
class Array:
    """A C-contiguous array: in code a pointer to the first element, and its shape."""

    element: Type
    ndim: int

    def __call__(self, *arguments: Any) -> Signature:
        return Signature(self, arguments)


@dataclass(frozen=True)
class Tuple:
    """Several values returned together."""

    members: tuple[Any, ...]


@dataclass(frozen=True)
class Signature:
    """What a function takes and returns; as the type of a value: the address of such a function."""

    result: Any
    arguments: tuple[Any, ...]

    @cached_property
    def _hash(self) -> int:
        return hash((self.result, self.arguments))

    def __hash__(self) -> int:
        return self._hash


F64, I64, BOOL, VOID = Type("double"), Type("i64"), Type("i1"), Type("void")
_NAMES: dict[str, Any] = {"f8": F64, "i8": I64, "b1": BOOL, "void": VOID}


def signature(text: str) -> Signature:
    """Return a signature of the library's own that is given as text, such as ``"i8(f8[:, ::1], i8)"``."""
    found: Signature = eval(text, {"__builtins__": {}}, _NAMES)
    return found


def function_type(name: str, text: str) -> Signature:
    """Return a signature, and make it a type that other signatures may name."""
    _NAMES[name] = found = signature(text)
    return found


class types:
    """What generated modules name of ``numba.types``."""

    float64, int64, boolean, void = F64, I64, BOOL, VOID


def unify(first: Any, second: Any) -> Any:
    """Return the type of a value that has one type or the other."""
    if first == second:
        return first
    if isinstance(first, Type) and isinstance(second, Type):
        return F64 if F64 in (first, second) else I64
    raise Refused(f"{first} or {second}")


def number(value: float) -> str:
    """Return a float64 as LLVM writes it, exactly."""
    return f"0x{struct.unpack('<Q', struct.pack('<d', float(value)))[0]:016X}"


def llvm(kind: Any) -> str:
    """Return the LLVM type of a scalar, an address or a tuple."""
    if isinstance(kind, Signature):
        return "ptr"
    if isinstance(kind, Tuple):
        return f"{{ {', '.join(llvm(m) for m in kind.members)} }}"
    if not isinstance(kind, Type):
        raise Refused(f"{kind} in a register")
    return kind.llvm


def flat(name: str, kind: Any, spelled: Callable[[Any], str] = llvm) -> list[str]:
    """Return the parameters by which functions translated here pass a value to each other."""
    if isinstance(kind, Array):
        return [f"ptr {name}", *(f"i64 {name}.{k}" for k in range(kind.ndim))]
    return [f"{spelled(kind)} {name}"]
