"""First-class functions made from addresses: how compiled code takes other compiled code.

A compiled function takes other compiled functions as *addresses* and turns them into numba first-class functions
inside: it is compiled once for all of them, is cached on disk, and a call costs microseconds (unboxing one dispatcher
into a first-class function argument costs sixty).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import native
from .native.types import BOOL, F64, I64, VOID, Array, Signature

__all__ = ["FromAddresses", "addresses", "borrowed", "from_addresses_of", "numba_type", "packed"]

Compiled = Callable[..., Any]
# numba is imported where it compiles, which most processes never need.


@cache
def numba_type(kind: Any) -> Any:
    """Return what numba calls a type of `native`; its own types stay."""
    from .jit import types

    if isinstance(kind, Signature):
        return types.FunctionType(numba_type(kind.result)(*(numba_type(a) for a in kind.arguments)))
    if isinstance(kind, Array):
        return types.Array(numba_type(kind.element), kind.ndim, "C")
    return {F64: types.float64, I64: types.int64, BOOL: types.boolean, VOID: types.void}.get(kind, kind)


def from_addresses_of(ftype: Any) -> Compiled:
    """Return the function, for code of numba, that makes a first-class function of this type from two addresses."""
    from numba.core import cgutils
    from numba.extending import intrinsic

    from .jit import types

    ftype = numba_type(ftype)

    @intrinsic
    def from_addresses(typingctx: Any, c_address: Any, jit_address: Any) -> Any:
        """First-class function of this type from the addresses of its C wrapper and of its native code (or 0)."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = context.get_value_type(types.voidptr)
            struct = cgutils.create_struct_proxy(ftype)(context, builder)
            struct.c_addr = builder.inttoptr(args[0], pointer)
            struct.py_addr = pointer(None)
            struct.jit_addr = builder.inttoptr(args[1], pointer)
            return struct._getvalue()

        return ftype(types.int64, types.int64), codegen

    return from_addresses


class FromAddresses:
    """``as_kind(c_address, native_address)``, the function there: `native` knows the name, numba the `numba_form`."""

    def __init__(self, kind: Signature) -> None:
        self.kind = kind

    @cached_property
    def numba_form(self) -> Compiled:
        """The same for code of numba."""
        return from_addresses_of(self.kind)

    @property
    def _numba_type_(self) -> Any:
        """How numba sees the name in the code of a function."""
        from numba.core.registry import cpu_target

        form, context = self.numba_form, cpu_target.typing_context
        # Intrinsics that were made since the last compilation are not known before.
        context.refresh()
        return context.resolve_value_type(form)

    def __call__(self, c_address: int, native_address: int) -> Any:
        """Return the function there, for code that is interpreted."""
        return _called[native_address]


class _Borrowed:
    """The array without its reference count, which numba would change by atomic operations at every slice and call.

    The caller of the compiled function keeps the memory alive while it runs.
    """

    def __call__(self, array: Any) -> Any:
        return array

    @cached_property
    def numba_form(self) -> Compiled:
        """The same for code of numba."""
        from numba.core import cgutils
        from numba.extending import intrinsic

        @intrinsic
        def borrowed(typingctx: Any, array: Any) -> Any:
            """The array, without an owner."""

            def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                view = context.make_array(array)(context, builder, args[0])
                view.meminfo = cgutils.get_null_value(view.meminfo.type)
                view.parent = cgutils.get_null_value(view.parent.type)
                return view._getvalue()

            return array(array), codegen

        found: Compiled = borrowed
        return found


borrowed = _Borrowed()
# Functions by the address of their native code, for code that is interpreted.
_called: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_known: weakref.WeakKeyDictionary[Any, dict[Any, tuple[int, int]]] = weakref.WeakKeyDictionary()


def addresses(function: Any, ftype: Any) -> tuple[int, int]:
    """Return the addresses (C wrapper, native code) of a compiled function; one of numba is compiled for the type.

    A function translated by `native` has the second kind only, given twice: callers take it where there is one.
    The caller keeps `function` alive while the addresses are in use.
    """
    if isinstance(function, native.Native):
        _called[function.address] = function
        return function.address, function.address
    known = _known.setdefault(function, {})
    if ftype not in known:
        known[ftype] = _look_up(function, ftype)
        _called[known[ftype][1]] = function
    return known[ftype]


def _look_up(function: Any, ftype: Any) -> tuple[int, int]:
    if isinstance(function, native.Kernel):
        return _look_up(function.compiled, ftype)
    if isinstance(function, native.Native):
        return function.address, function.address
    signature = numba_type(ftype).signature
    if not hasattr(function, "get_compile_result"):
        return int(function.address), 0
    if signature.args not in function.overloads:
        function.compile(signature)
    result = function.get_compile_result(signature)
    library, names = result.library, result.fndesc
    return (
        library.get_pointer_to_function(names.llvm_cfunc_wrapper_name),
        library.get_pointer_to_function(names.llvm_func_name),
    )


def packed(functions: Sequence[tuple[Any, Any]]) -> NDArray[np.float64]:
    """Return the addresses of functions as the bits of real numbers, two a function, for arrays of parameters.

    Compiled code reads them by ``p[:2].view(np.int64)``.
    """
    bits = [a for function, ftype in functions for a in addresses(function, ftype)]
    return np.array(bits, dtype=np.int64).view(np.float64)
