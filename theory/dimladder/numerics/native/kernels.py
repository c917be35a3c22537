"""Functions that wait to be compiled: the decorator of generated modules, and of the integrators."""

from __future__ import annotations

import ast
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from types import FunctionType
from typing import Any

from . import types as spoken
from .functions import Native
from .machine import compiled
from .tangents import Carrying, Tangents
from .tape import Recorded
from .types import F64, Refused, Signature

log = logging.getLogger("dimladder.native")
# Functions that make a callable of two addresses -> its type; `register` fills it.
FUNCTION_TYPES: dict[str, Signature] = {}


def value_type(function: str, name: str, text: str) -> Signature:
    """Make ``function(c_address, native_address)`` a callable of that signature, whose type others name `name`."""
    FUNCTION_TYPES[function] = found = spoken.function_type(name, text)
    return found


def enabled() -> bool:
    """Whether code is translated here; ``DIMLADDER_NATIVE=0`` leaves it to numba."""
    return os.environ.get("DIMLADDER_NATIVE", "1") != "0"


class Kernel:
    """A function of the subset: interpreted when it is called among others, compiled where it has a signature."""

    def __init__(self, py_func: Callable[..., Any], signature: Signature | None, options: Mapping[str, Any]) -> None:
        self.py_func, self.signature, self.options = py_func, signature, dict(options)
        # Whether loops are unrolled and vectorised, which takes half of the time to compile; numba has no such choice.
        self.wide = bool(self.options.pop("wide", True))
        self.__name__, self.__module__ = py_func.__name__, py_func.__module__
        self.__doc__ = py_func.__doc__
        if self.options.get("error_model") != "numpy":
            raise Refused(f"{self.__name__} raises where it divides by zero")

    @property
    def scope(self) -> Mapping[str, Any]:
        """Global names the function may use."""
        return self.py_func.__globals__

    @property
    def node(self) -> ast.FunctionDef:
        """Its syntax tree; not kept, which would take a hundred times the memory of the text."""
        found = _functions(self.py_func.__code__.co_filename).get(self.__name__)
        if found is None:
            raise Refused(f"the source of {self.__name__}")
        return found

    @cached_property
    def native(self) -> Native:
        """The function, compiled by itself with all that it calls."""
        if self.signature is None:
            raise Refused(f"{self.__name__} has no signature")
        stamp = _stamp(Path(self.py_func.__code__.co_filename).parent) + self.py_func.__module__ + self.__name__
        return compiled(stamp, [(self.__name__, self, self.signature)], FUNCTION_TYPES)[self.__name__]

    @cached_property
    def compiled(self) -> Any:
        """The function compiled by itself: here, or by numba where that is asked for or cannot be."""
        try:
            return self.native if enabled() else self.by_numba
        except Refused as refused:
            log.info("%s is compiled by numba: %s", self.__name__, refused)
            return self.by_numba

    @cached_property
    def of_numbers(self) -> Any:
        """The function compiled for real numbers, of which it returns one."""
        count = self.py_func.__code__.co_argcount
        return Kernel(self.py_func, Signature(F64, (F64,) * count), self.options | {"wide": False}).compiled

    @cached_property
    def by_numba(self) -> Any:
        """The same function compiled by numba, with all that it calls."""
        from ..jit import njit

        function = self.py_func
        used = {n: self.scope[n] for n in function.__code__.co_names if n in self.scope}
        scope = dict(self.scope) | {n: k.by_numba for n, k in used.items() if isinstance(k, Kernel)}
        scope |= {n: v.numba_form for n, v in used.items() if hasattr(v, "numba_form")}
        again = FunctionType(function.__code__, scope, function.__name__)
        return njit(**self.options)(again)

    def __call__(self, *arguments: Any) -> Any:
        return self.py_func(*arguments)


@lru_cache(maxsize=16)
def _functions(path: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}


@cache
def _stamp(folder: Path) -> str:
    """Return a hash of the sources that a kernel of this folder may call: of all kernels, where it is one of ours."""
    ours = Path(__file__).resolve().parents[1]
    paths = ours.rglob("*.py") if folder.resolve().is_relative_to(ours) else folder.glob("*.py")
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def njit(signature: Any = None, **options: Any) -> Any:
    """Decorate a function of the subset, as ``numba.njit`` decorates one of numba's."""
    if callable(signature) and not isinstance(signature, Signature):
        return Kernel(signature, None, options)
    spoken_signature = spoken.signature(signature) if isinstance(signature, str) else signature
    return lambda function: Kernel(function, spoken_signature, options)


def _carrying(stamp: str, name: str, kernel: Kernel, kind: type[Carrying]) -> Native:
    assert kernel.signature is not None
    return compiled(stamp + name, [(name, kernel, kernel.signature)], FUNCTION_TYPES, kind)[name]


def module_functions(namespace: Mapping[str, Any], stamp: str) -> dict[str, Native]:
    """Compile the functions of a generated module that have signatures, together."""
    kernels = {n: k for n, k in namespace.items() if isinstance(k, Kernel) and k.signature is not None}
    entries = [(name, k, k.signature) for name, k in kernels.items() if k.signature]
    if any(isinstance(v, Kernel) and v.__module__ != namespace.get("__name__") for v in namespace.values()):
        stamp += _stamp(Path(__file__).parent)
    found = compiled(stamp, entries, FUNCTION_TYPES)
    for name, function in found.items():
        function.py_func = kernels[name].py_func
        function.with_tangents = cache(partial(_carrying, stamp, name, kernels[name], Tangents))
        function.with_tape = cache(partial(_carrying, stamp, name, kernels[name], Recorded))
    return found
