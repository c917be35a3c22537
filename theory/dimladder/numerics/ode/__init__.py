"""Compiled adaptive integrators for ordinary differential equations y' = f(t, y; p).

The integrators are compiled once and cached on disk; a new model costs the compilation of its own right-hand side only.

>>> import numpy as np
>>> from numba import njit
>>> from dimladder.numerics.ode import integrate
>>> @njit("void(f8, f8[::1], f8[::1], f8[::1], f8[::1])")
... def decay(t, y, dy, p, work):
...     dy[0] = -p[0] * y[0]
>>> result = integrate(decay, [1.0], [0.0, 1.0], p=[2.0])
>>> bool(abs(result.y[1, 0] - np.exp(-2.0)) < 1e-8)
True
"""

from .api import Event, Interpreted, explicit_for, integrate, integrate_batch
from .result import DenseOutput, OdeBatch, OdeResult, Switch

__all__ = [
    "DenseOutput",
    "Event",
    "Interpreted",
    "OdeBatch",
    "OdeResult",
    "Switch",
    "explicit_for",
    "integrate",
    "integrate_batch",
]
