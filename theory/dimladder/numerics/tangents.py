"""A flow together with its derivatives in numbers: dy/dt = F(t, y, p) and ds/dt = F_y s + F_p dp/dtheta, exactly.

F on numbers that carry derivatives (`native`) gives both products at once, in three directions a call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .native import Native, njit
from .native.tangents import LANES
from .ode.common import OPTIONS
from .ode.layout import Vector, as_rhs

__all__ = ["along", "rhs", "tangent_parameters", "work_size"]

Array = NDArray[np.float64]
DIRECTIONS = LANES - 1
# Of the parameters: lengths of state, directions, parameters and scratch array, and the address of F.
HEAD = 5


@njit("void(f8, f8[::1], f8[::1], f8[::1], f8[::1])", **OPTIONS)
def rhs(t: float, y: Vector, dy: Vector, p: Vector, work: Vector) -> None:
    """The state, then its derivative in each direction; see `tangent_parameters`."""
    n, m, k = int(p[0]), int(p[1]), int(p[2])
    function = as_rhs(int(p[4]), int(p[4]))
    slopes = HEAD + k
    state, velocity = work[: 4 * n], work[4 * n : 8 * n]
    parameters, scratch = work[8 * n : 8 * n + 4 * k], work[8 * n + 4 * k :]
    for first in range(0, m, DIRECTIONS):
        for lane in range(LANES):
            direction = first + lane - 1
            for i in range(n):
                value = 0.0
                if lane == 0:
                    value = y[i]
                elif direction < m:
                    value = y[(direction + 1) * n + i]
                state[4 * i + lane] = value
            for j in range(k):
                value = 0.0
                if lane == 0:
                    value = p[HEAD + j]
                elif direction < m:
                    value = p[slopes + direction * k + j]
                parameters[4 * j + lane] = value
        function(t, state, velocity, parameters, scratch)
        for i in range(n):
            dy[i] = velocity[4 * i]
        for lane in range(1, LANES):
            direction = first + lane - 1
            if direction < m:
                for i in range(n):
                    dy[(direction + 1) * n + i] = velocity[4 * i + lane]


def tangent_parameters(function: Native, n: int, p: Array, slopes: Array, size: int) -> Array:
    """Return the parameters of `rhs`.

    Parameters
    ----------
    function : Native
        F, of numbers that carry derivatives.
    n : int
        Length of the state.
    p : array (k,)
        Parameters of F.
    slopes : array (m, k)
        Their derivatives in each direction.
    size : int
        Length of the scratch array of F.
    """
    # Addresses are below 2^53: a double holds them.
    return np.concatenate([[n, len(slopes), len(p), size, function.address], p, slopes.ravel()])


def work_size(n: int, k: int, size: int) -> int:
    """Return the length of the scratch array of `rhs`."""
    return 8 * n + 4 * k + 4 * max(size, 1)


def along(function: Native, t: float, y: Array, p: Array, size: int, states: Array, slopes: Array) -> Array:
    """Return the derivatives of F at one point, in directions (states[j], slopes[j]): shape (directions, n)."""
    n, m, k = len(y), len(states), len(p)
    full: Any = np.concatenate([y, states.ravel()])
    out = np.empty_like(full)
    work = np.zeros(work_size(n, k, size))
    rhs.compiled(t, full, out, tangent_parameters(function, n, p, slopes, size), work)
    return out[n:].reshape(m, n)
