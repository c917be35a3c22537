"""The compiled loop over the trajectories of a batch; it reaches the driver through its address."""

from __future__ import annotations

import math

import numpy as np
from numba.core import sigutils

from ..addresses import addresses, from_addresses_of
from ..jit import njit, types
from . import driver, layout
from .common import OPTIONS
from .layout import (
    I_OUT,
    N_EVENTS,
    N_FOUND,
    NEED_SPACE,
    RUNNING,
    Integers,
    T,
    Vector,
)


def _function_type(text: str) -> types.FunctionType:
    arguments, returned = sigutils.normalize_signature(text)
    return types.FunctionType(returned(*arguments))


_START, _ADVANCE = _function_type(driver.START_SIGNATURE), _function_type(driver.ADVANCE_SIGNATURE)
as_scalar = layout.as_scalar.numba_form
as_start, as_advance = from_addresses_of(_START), from_addresses_of(_ADVANCE)


def loop_addresses() -> np.ndarray:
    """Addresses of the driver, the first argument of `advance_many`."""
    return np.array([addresses(driver.start, _START), addresses(driver.advance, _ADVANCE)], np.int64)


@njit(
    "void(i8[:, ::1], i8[:, ::1], f8[::1], i8[::1], i8[::1], f8[::1], f8[:, ::1], i8[::1], f8[::1], f8[:, ::1],"
    "f8[::1], f8, f8[:, ::1], f8[:, ::1], f8[::1], i8[::1], i8[:, ::1], f8[:, :, ::1], f8[:, ::1], f8[:, ::1],"
    "i8[:, ::1], f8[:, :, ::1], i8, i8)",
    **OPTIONS,
)
def advance_many(
    loop: Vector, address: Vector, st0: Vector, cnt0: Integers,
    info_e: Integers, control_e: Vector, table_e: Vector, info_i: Integers, control_i: Vector, table_i: Vector,
    t_eval: Vector, start_order: float, y0: Vector, p0: Vector, atol: Vector, sizes: Integers, event_flags: Integers,
    out: Vector, final: Vector, reals: Vector, integers: Integers, found_out: Vector, low: int, high: int,
) -> None:  # fmt: skip
    """Integrate the trajectories low..high-1, one after the other, in a workspace of its own.

    loop: addresses of `driver.start` and `driver.advance`. sizes = (length of work, rows of ws, rows of the
    interpolant). reals and integers receive the final states of the solver, with the driver's answer in the last column
    of integers. Of the events of a trajectory, the first found_out.shape[1] are kept.
    """
    start, advance = as_start(loop[0, 0], loop[0, 1]), as_advance(loop[1, 0], loop[1, 1])
    n, m, n_events = y0.shape[1], p0.shape[1], cnt0[N_EVENTS]
    st, cnt = np.empty_like(st0), np.empty_like(cnt0)
    y, f, ynew, fnew = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    p, work = np.empty(m), np.empty(sizes[0])
    ws, nested, pivots = np.empty((sizes[1], n)), np.zeros((sizes[2], n)), np.empty(n, np.int64)
    result = np.empty((t_eval.size, n))
    segments, segment_rows = np.empty((0, n + 2)), np.empty((0, sizes[2], n))
    event_state, switches = np.empty((n_events, 3)), np.empty((0, 3))
    found = np.empty((4 * n_events + 4, n + 2))
    for trajectory in range(low, high):
        st[:] = st0
        cnt[:] = cnt0
        y[:] = y0[trajectory]
        p[:] = p0[trajectory]
        work[:] = 0.0
        for i_out in range(cnt[I_OUT]):
            result[i_out] = y
        code = start(address, st, cnt, y, f, fnew, ynew, atol, p, work, start_order)
        for e in range(n_events):
            event_state[e, 0] = as_scalar(address[7 + e, 0], address[7 + e, 1])(st[T], y, p)
        while code in (RUNNING, NEED_SPACE):
            if code == NEED_SPACE:
                larger = np.empty((2 * found.shape[0], n + 2))
                larger[: found.shape[0]] = found
                found = larger
            code = advance(
                address, st, cnt, info_e, control_e, table_e, info_i, control_i, table_i, t_eval, result,
                y, f, ynew, fnew, atol, p, work, ws, pivots, nested, segments, segment_rows,
                event_state, event_flags, found, switches, 1 << 40,
            )  # fmt: skip
        reached = cnt[I_OUT]
        out[trajectory, :reached] = result[:reached]
        out[trajectory, reached:] = math.nan
        final[trajectory] = y
        reals[trajectory] = st
        integers[trajectory, : cnt.size] = cnt
        integers[trajectory, cnt.size] = code
        kept = min(cnt[N_FOUND], found_out.shape[1])
        found_out[trajectory, :kept] = found[:kept]
