"""Compiled functions as Python sees them, and as compiled code calls them.

A function translated here has two entries. ``NAME`` is called as numba calls its own native code, so that it may stand
wherever compiled code takes the address of a function of numba, and the other way round; ``NAME.flat`` takes an array
as pointer and shape, and is what Python calls.
"""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from .types import BOOL, F64, I64, VOID, Array, Signature, flat, llvm


class _State(ctypes.Structure):
    """What a function of numba, called by its address, has raised: numba's status, and where it describes it."""

    _fields_ = (("status", ctypes.c_int32), ("what", ctypes.c_void_p))

    def exception(self) -> BaseException:
        if self.status < 0 or not self.what:
            return RuntimeError("a compiled function raised an exception")
        # numba keeps the class and its arguments pickled: pointer, length.
        described = _Described.from_address(self.what)
        kind, arguments, *_ = pickle.loads(ctypes.string_at(described.pickled, described.length))
        found: BaseException = kind(*(arguments or ()))
        return found


class _Described(ctypes.Structure):
    _fields_ = (("pickled", ctypes.c_void_p), ("length", ctypes.c_int32))


class Native:
    """One compiled function: its address for other compiled code, a call from Python, and the Python it came from."""

    py_func: Any = None
    # The same function of numbers that carry derivatives, and of those that know their place on a tape.
    with_tangents: Callable[[], Native] | None = None
    with_tape: Callable[[], Native] | None = None

    def __init__(self, engine: Any, name: str, signature: Signature) -> None:
        self.__name__, self.signature = name, signature
        self.address = int(engine.get_function_address(name))
        # Of every argument, what an array must be; None for a number.
        self._arrays = [
            (_DTYPE[kind.element], kind.ndim) if isinstance(kind, Array) else None for kind in signature.arguments
        ]
        words: list[Any] = [ctypes.c_void_p]
        for kind in signature.arguments:
            if isinstance(kind, Array):
                words += [ctypes.c_void_p, *[ctypes.c_int64] * kind.ndim]
            else:
                words.append(ctypes.c_void_p if isinstance(kind, Signature) else _C[kind])
        result: Any = None if signature.result == VOID else _C[signature.result]
        self._call = ctypes.CFUNCTYPE(result, *words)(engine.get_function_address(f"{name}.flat"))

    def __call__(self, *arguments: Any) -> Any:
        state = _State()
        if len(arguments) != len(self._arrays):
            raise TypeError(f"{self.__name__} takes {len(self._arrays)} arguments, got {len(arguments)}")
        found = self._call(ctypes.addressof(state), *self._flat(arguments))
        if state.status:
            raise state.exception()
        return found

    def _flat(self, arguments: Sequence[Any]) -> list[Any]:
        words: list[Any] = []
        for value, array in zip(arguments, self._arrays, strict=False):
            if array is None:
                words.append(value)
            else:
                words += _words(value, *array)
        return words

    def bound(self, *arguments: Any) -> Callable[..., Any]:
        """Return the function of what follows these arguments, which are numbers; one thread at a time calls it.

        The arrays are looked up once: for many of them that takes longer than a short call.
        """
        return _Bound(self, arguments)


class _Bound:
    """A function with its first arguments, which live as long as it does."""

    def __init__(self, function: Native, arguments: Sequence[Any]) -> None:
        self._state, self._arguments = _State(), arguments
        self._call = partial(function._call, ctypes.addressof(self._state), *function._flat(arguments))

    def __call__(self, *numbers: Any) -> Any:
        self._state.status = 0
        found = self._call(*numbers)
        if self._state.status:
            raise self._state.exception()
        return found


_C = {F64: ctypes.c_double, I64: ctypes.c_int64, BOOL: ctypes.c_bool}
_first, _address = ctypes.c_char.from_buffer, ctypes.addressof
_DTYPE = {F64: np.dtype(np.float64), I64: np.dtype(np.int64)}


def _words(value: Any, dtype: Any, ndim: int) -> list[int]:
    shape = value.shape
    if value.dtype != dtype or len(shape) != ndim or not value.flags.c_contiguous:
        raise TypeError(
            f"compiled code takes contiguous arrays of {dtype} and {ndim} dimensions, got {value.dtype} of shape "
            f"{shape}"
        )
    try:
        # A tenth of the time that NumPy takes to say where the array lies.
        return [_address(_first(value)), *shape]
    except (TypeError, ValueError):
        # Read-only, or empty.
        return [value.__array_interface__["data"][0], *shape]


def entries(name: str, inner: str, signature: Signature) -> list[str]:
    """Return the two entries of a function `inner`."""
    kinds, result = signature.arguments, llvm(signature.result)
    names = [f"%a{k}" for k in range(len(kinds))]
    parameters = ", ".join(p for n, k in zip(names, kinds, strict=True) for p in flat(n, k))
    numba, read = ["ptr %result", "ptr %raised"], []
    for n, kind in zip(names, kinds, strict=True):
        if isinstance(kind, Array):
            numba += [f"ptr {n}.owner", f"ptr {n}.parent", f"i64 {n}.items", f"i64 {n}.bytes", f"ptr {n}"]
            numba += [f"i64 {n}.{k}" for k in range(kind.ndim)] + [f"i64 {n}.stride{k}" for k in range(kind.ndim)]
        elif kind == BOOL:
            numba.append(f"i8 {n}.byte")
            read.append(f"{n} = trunc i8 {n}.byte to i1")
        else:
            numba.append(f"{llvm(kind)} {n}")
    call = f"call {result} @{inner}({', '.join(['ptr %state', parameters])})"
    value = "" if signature.result == VOID else "%r = "
    stored = []
    if signature.result == BOOL:
        stored = ["%byte = zext i1 %r to i8", "store i8 %byte, ptr %result"]
    elif value:
        stored = [f"store {result} %r, ptr %result"]
    fresh = ["%state = alloca {i32, ptr}", "store {i32, ptr} zeroinitializer, ptr %state"]
    status = [
        "%place = getelementptr {i32, ptr}, ptr %state, i32 0, i32 1", "%what = load ptr, ptr %place",
        "store ptr %what, ptr %raised", "%status = load i32, ptr %state", "ret i32 %status",
    ]  # fmt: skip
    back = f"ret {result} %r" if value else "ret void"
    head = f'define i32 @"{name}"({", ".join(numba)}) nounwind {{'
    lines = [head, *read, *fresh, f"{value}{call}", *stored, *status, "}"]
    lines += [f'define {result} @"{name}.flat"(ptr %state, {parameters}) nounwind {{', f"{value}{call}", back, "}"]
    return lines
