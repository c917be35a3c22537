"""Observables of many states, in compiled code."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .addresses import FromAddresses, addresses
from .basics import OPTIONS
from .native import njit, value_type

__all__ = ["over_rows"]

Array = NDArray[np.float64]

OBSERVABLE = value_type("as_observable", "OBSERVABLE", "f8(f8[::1], f8[::1], f8[::1])")
as_observable = FromAddresses(OBSERVABLE)


@njit("void(i8, i8, f8[:, ::1], f8[::1], f8[::1], f8[::1])", **OPTIONS)
def _each(c_address: Any, native_address: Any, states: Any, p: Any, work: Any, out: Any) -> None:
    observable = as_observable(c_address, native_address)
    for k in range(out.size):
        out[k] = observable(states[k], p, work)


def over_rows(observable: Any, states: Array, p: Array, work: Array) -> Array:
    """Return an observable ``f(y, p, work)`` of every row of `states`; a plain function is called row by row."""
    if isinstance(observable, FunctionType):
        return np.array([observable(y, p, work) for y in states])
    out = np.empty(len(states))
    _each.compiled(*addresses(observable, OBSERVABLE), np.ascontiguousarray(states), p, work, out)
    return out
