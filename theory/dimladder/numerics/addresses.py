"""First-class functions made from addresses: how compiled code takes other compiled code.

A compiled function takes other compiled functions as *addresses* and turns them into numba first-class functions
inside: it is compiled once for all of them, is cached on disk, and a call costs microseconds (unboxing one dispatcher
into a first-class function argument costs sixty).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from . import native
from .jit import types

__all__ = ["addresses", "from_addresses_of", "packed"]

Compiled = Callable[..., Any]


def from_addresses_of(ftype: types.FunctionType) -> Compiled:
    """Return the compiled function that makes a first-class function of this type from two addresses."""

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


_known: weakref.WeakKeyDictionary[Any, dict[Any, tuple[int, int]]] = weakref.WeakKeyDictionary()


def addresses(function: Any, ftype: types.FunctionType) -> tuple[int, int]:
    """Return the addresses (C wrapper, native code) of a compiled function; one of numba is compiled for the type.

    A function translated by `native` has the second kind only, given twice: callers take it where there is one.
    The caller keeps `function` alive while the addresses are in use.
    """
    known = _known.setdefault(function, {})
    if ftype not in known:
        known[ftype] = _look_up(function, ftype.signature)
    return known[ftype]


def _look_up(function: Any, signature: Any) -> tuple[int, int]:
    if isinstance(function, native.Kernel):
        return _look_up(function.compiled, signature)
    if isinstance(function, native.Native):
        return function.address, function.address
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


def packed(functions: Sequence[tuple[Any, types.FunctionType]]) -> NDArray[np.float64]:
    """Return the addresses of functions as the bits of real numbers, two a function, for arrays of parameters.

    Compiled code reads them by ``p[:2].view(np.int64)``.
    """
    bits = [a for function, ftype in functions for a in addresses(function, ftype)]
    return np.array(bits, dtype=np.int64).view(np.float64)
