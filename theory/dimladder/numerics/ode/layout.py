"""What the compiled kernels share: the meaning of each slot, the function types, and functions made from addresses.

Right-hand sides, Jacobians, steps and events enter as addresses (`numerics.addresses`): the integrator is compiled once
for every right-hand side and runs without the interpreter lock.

The constants below are frozen into the cached machine code of `explicit`, `implicit` and `driver`: whoever edits them
must touch those files too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import native
from ..addresses import FromAddresses
from ..addresses import borrowed as borrowed

Vector = NDArray[np.float64]
Integers = NDArray[np.int64]
Compiled = Callable[..., Any]

# Slots of the real state.
T, H, H_DID, ERR, ERR_OLD, T_END, H_MAX, H_MIN, RATIO, RHO, BLOW_UP, CONVERGED, RTOL, T_START, BDF_H, T_STOP, T_JAC = (
    range(17)
)
REALS = 17
# Slots of the integer state.
(
    N_RHS, N_STEPS, N_REJECTED, N_JAC, N_LU, COMPONENT, FAILURE, J_FRESH, I_OUT, N_SEGMENTS, N_FOUND, ACTIVE, STIFF,
    NONSTIFF, N_SWITCHES, ORDER, N_EQUAL, MAX_STEPS, N_EVENTS, STEP_TO_OUTPUTS, STORE_DENSE, AUTO, BDF_READY,
    AFTER_REJECT, AUTONOMOUS, LU_READY, HAS_JAC, HAS_DOMAIN, IMPLICIT_KIND,
) = range(29)  # fmt: skip
INTEGERS = 29
# Counts that are told, by name.
COUNTS = {
    "n_rhs": N_RHS, "n_steps": N_STEPS, "n_rejected": N_REJECTED, "n_jac": N_JAC, "n_lu": N_LU,
    "n_switches": N_SWITCHES,
}  # fmt: skip

# Rows of the workspace of the implicit methods after the first eight; the Jacobian begins at row SQUARE, its factors n
# rows further.
VALUE, DRIFT, POWER, MOVED, PSI, PREDICTED, SQUARE = range(8, 15)

# Answers of a step.
ACCEPTED, TOO_LARGE, NOT_FINITE, NO_CONVERGENCE, OUTSIDE = range(5)

# Answers of the driver. Positive: finished. Zero and negative: call again.
# NEED_IMPLICIT: `auto` changes to its implicit method, which is not compiled before that.
RUNNING, NEED_SPACE, NEED_IMPLICIT = 0, -1, -2
# Rows of the addresses: step and interpolant of the second method.
SECOND_METHOD = slice(5, 7)
DONE, EVENT, STEADY, OUT_OF_STEPS, UNDERFLOW, NAN, LEFT_DOMAIN, BLEW_UP = range(1, 9)

# step(rhs, jac, st, cnt, info, control, table, y, f, ynew, fnew, atol, p, work, ws, pivots, F) -> code
STEP_SIGNATURE = (
    "i8(RHS, JAC, f8[::1], i8[::1], i8[::1], f8[::1], f8[:, ::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1],"
    "f8[::1], f8[::1], f8[:, ::1], i8[::1], f8[:, ::1])"
)
RHS = native.value_type("as_rhs", "RHS", "void(f8, f8[::1], f8[::1], f8[::1], f8[::1])")
JAC = native.value_type("as_jac", "JAC", "void(f8, f8[::1], f8[:, ::1], f8[::1], f8[::1])")
SCALAR = native.value_type("as_scalar", "SCALAR", "f8(f8, f8[::1], f8[::1])")
STEP = native.value_type("as_step", "STEP", STEP_SIGNATURE)
as_rhs, as_jac, as_scalar, as_step = (FromAddresses(kind) for kind in (RHS, JAC, SCALAR, STEP))
