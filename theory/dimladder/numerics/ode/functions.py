"""From what the user passes to addresses of compiled functions."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..addresses import addresses, numba_type
from ..native import Native
from ..native.types import Signature
from . import layout

__all__ = ["Event", "Interpreted", "compiled"]

_compiled: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Event:
    """A function of the state whose sign changes are located.

    Parameters
    ----------
    function : callable
        ``g(t, y, p) -> float``, compiled by numba or compiled on the spot.
    direction : int
        +1: only where g grows through zero; -1: only where it falls; 0: both.
    terminal : bool
        Stop there.
    """

    function: Any
    direction: int = 0
    terminal: bool = False

    def __post_init__(self) -> None:
        if self.direction not in (-1, 0, 1):
            raise ValueError(f"the direction of an event is -1, 0 or 1, got {self.direction!r}")


@dataclass(frozen=True, eq=False)
class Interpreted:
    """A right-hand side that stays in Python: ``function(t, y)`` or ``function(t, y, p)`` returning dy/dt.

    For functions that numba cannot compile. Every evaluation takes the interpreter lock and some microseconds on top of
    the function itself; trajectories of a batch do not run in parallel. An exception in it stops the integration and is
    raised by `integrate`.
    """

    function: Callable[..., Any]
    with_parameters: bool = True
    raised: list[BaseException] = field(default_factory=list)

    def evaluate(self, t: float, y: NDArray[np.float64], dy: NDArray[np.float64], p: NDArray[np.float64]) -> None:
        if self.raised:
            dy[:] = np.nan
            return
        try:
            dy[:] = self.function(t, y.copy(), p) if self.with_parameters else self.function(t, y.copy())
        except BaseException as error:  # it cannot cross the compiled code: kept, and raised on the other side
            self.raised.append(error)
            dy[:] = np.nan


_interpreted: dict[int, Interpreted] = {}
_keys = itertools.count(1)


def register(function: Interpreted) -> int:
    """Make `function` known to the trampoline, which finds it by the key in the last slot of the workspace."""
    key = next(_keys)
    _interpreted[key] = function
    return key


def release(key: int) -> None:
    """Forget a function registered before."""
    del _interpreted[key]


def _call_interpreted(
    t: float, y: NDArray[np.float64], dy: NDArray[np.float64], p: NDArray[np.float64], work: NDArray[np.float64]
) -> None:
    _interpreted[int(work[-1])].evaluate(t, y, dy, p)


@cache
def trampoline() -> Any:
    """Return the compiled right-hand side that calls the interpreted one (compiled when first needed)."""
    from numba import objmode

    from ..jit import njit

    @njit(numba_type(layout.RHS).signature)
    def rhs(t, y, dy, p, work):  # type: ignore[no-untyped-def]
        with objmode():
            _call_interpreted(t, y, dy, p, work)

    return rhs


def compiled(function: Any, ftype: Signature, what: str) -> Any:
    """Return `function` as a numba function with an implementation for the type, compiling a plain Python one.

    Raises
    ------
    TypeError
        If it is not callable, or numba cannot compile it for this signature.
    """
    if isinstance(function, Native):
        return function
    from numba import errors

    from ..jit import njit

    signature = numba_type(ftype).signature
    known = hasattr(function, "get_compile_result")
    try:
        if hasattr(function, "_sig") and hasattr(function, "_pyfunc"):
            # A cfunc has no entry of the kind that compiled code calls.
            if function._sig != signature:
                raise TypeError(f"{what} has the signature {function._sig}; needed: {signature}")
            function = function._pyfunc
        if known:
            addresses(function, ftype)
            return function
        if not callable(function):
            raise TypeError(f"{what} must be a function, got {type(function).__name__}")
        if function not in _compiled:
            _compiled[function] = njit(signature)(function)
        return _compiled[function]
    except errors.NumbaError as error:
        reason = str(error).strip().splitlines()
        raise TypeError(
            f"numba cannot compile {what} {getattr(function, '__name__', function)!r} as {signature}: {reason[0]}"
            f"{' ' + reason[1] if len(reason) > 1 else ''}; write it in numba's subset of Python, or wrap a right-hand "
            "side f(t, y, p) -> dy in Interpreted(...)"
        ) from error
