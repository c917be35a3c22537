"""Maps of few numbers, iterated in compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .addresses import addresses
from .basics import OPTIONS
from .native import njit
from .ode.layout import RHS, as_rhs

Array = NDArray[np.float64]


@njit("void(i8, i8, f8[:, ::1], f8[::1], f8[::1])", **OPTIONS)
def _iterate(c_address: Any, native_address: Any, states: Any, p: Any, work: Any) -> None:
    step = as_rhs(c_address, native_address)
    for n in range(states.shape[0] - 1):
        step(float(n), states[n], states[n + 1], p, work)


def iterate(step: Any, start: Array, steps: int, p: Array, work_size: int = 0) -> Array:
    """Return the states after 0, 1, ..., `steps` steps, shape (steps + 1, n).

    Parameters
    ----------
    step : compiled function ``step(n, x, out, p, work)`` of the type of right-hand sides
        Writes the state after step n + 1 into `out`.
    """
    states = np.empty((steps + 1, len(start)))
    states[0] = start
    _iterate.compiled(*addresses(step, RHS), states, p, np.zeros(max(1, work_size)))
    return states
