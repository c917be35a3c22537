"""One step of an explicit Runge-Kutta method given by its table."""

from __future__ import annotations

import math

from ..native import njit
from .common import OPTIONS, first_bad, scaled_norm, step_factor
from .layout import (
    ACCEPTED,
    AFTER_REJECT,
    COMPONENT,
    ERR,
    ERR_OLD,
    H_DID,
    N_RHS,
    NOT_FINITE,
    RATIO,
    RTOL,
    STEP_SIGNATURE,
    TOO_LARGE,
    Compiled,
    H,
    Integers,
    T,
    Vector,
)

# Rows of ws: the s stage derivatives, the derivative at the new state (row s), the extra stages of the interpolant,
# then the argument of the last stage. Rows of table: a (s), b, nodes, error, second error, extra stages, interpolant.


@njit("void(f8[:, ::1], i8, f8[:, ::1], i8, f8, f8[::1], f8[::1])", **OPTIONS)
def combine(table: Vector, row: int, k: Vector, terms: int, h: float, y: Vector, out: Vector) -> None:
    """out = y + h sum_j table[row, j] k[j]; zero coefficients cost nothing."""
    n = y.size
    for i in range(n):
        out[i] = 0.0
    for j in range(terms):
        a = table[row, j]
        if a != 0.0:
            for i in range(n):
                out[i] += a * k[j, i]
    for i in range(n):
        out[i] = y[i] + h * out[i]


@njit(STEP_SIGNATURE, **OPTIONS)
def explicit_step(
    rhs: Compiled, jac: Compiled, st: Vector, cnt: Integers, info: Integers, control: Vector, table: Vector,
    y: Vector, f: Vector, ynew: Vector, fnew: Vector, atol: Vector, p: Vector, work: Vector, ws: Vector,
    pivots: Integers, nested: Vector,
) -> int:  # fmt: skip
    """Attempt one step of size st[H]; leave the new state, the next step size and the stiffness ratio."""
    s, extra = info[0], info[1]
    n = y.size
    t, h = st[T], st[H]
    last = s + 1 + extra
    for i in range(n):
        ws[0, i] = f[i]
    for j in range(1, s):
        combine(table, j, ws, j, h, y, ynew)
        if j == s - 1:
            for i in range(n):
                ws[last, i] = ynew[i]
        rhs(t + table[s + 1, j] * h, ynew, ws[j], p, work)
    combine(table, s, ws, s, h, y, ynew)
    rhs(t + h, ynew, fnew, p, work)
    cnt[N_RHS] += s
    for i in range(n):
        ws[s, i] = fnew[i]

    num = den = 0.0
    for i in range(n):
        d = fnew[i] - ws[s - 1, i]
        g = ynew[i] - ws[last, i]
        num += d * d
        den += g * g
    size = 0.0
    for i in range(n):
        size += ynew[i] * ynew[i]
    # The last stage and the new state share their time: |df|/|dy| estimates the dominant eigenvalue of the Jacobian,
    # but only where the difference is more than rounding.
    st[RATIO] = abs(h) * math.sqrt(num / den) / control[5] if den > 1e-26 * size else 0.0

    error = ws[last]  # the argument of the last stage has served
    for i in range(n):
        error[i] = 0.0
    for j in range(s + 1):
        a = table[s + 2, j]
        if a != 0.0:
            for i in range(n):
                error[i] += a * ws[j, i]
    err = abs(h) * scaled_norm(error, y, ynew, atol, st[RTOL])
    if info[3] == 1 and err > 0.0:
        # Hairer's combination of the fifth- and third-order estimates of DOP853.
        for i in range(n):
            error[i] = 0.0
        for j in range(s + 1):
            a = table[s + 3, j]
            if a != 0.0:
                for i in range(n):
                    error[i] += a * ws[j, i]
        err3 = abs(h) * scaled_norm(error, y, ynew, atol, st[RTOL])
        err = err * err / math.sqrt(err * err + 0.01 * err3 * err3)
    st[ERR] = err
    bad = -1
    if not math.isfinite(err):
        bad = first_bad(ws, s + 1)
        if bad < 0:
            # The derivatives are finite but their combination overflowed.
            for i in range(n):
                if not math.isfinite(ynew[i]) or not math.isfinite(error[i]):
                    bad = i
                    break
    if bad >= 0 or not math.isfinite(err):
        cnt[COMPONENT] = bad
        st[H] = 0.2 * h
        cnt[AFTER_REJECT] = 1
        return NOT_FINITE
    factor = step_factor(err, st[ERR_OLD], control, cnt[AFTER_REJECT] == 1)
    st[H] = h * factor
    if err > 1.0:
        cnt[AFTER_REJECT] = 1
        return TOO_LARGE
    cnt[AFTER_REJECT] = 0
    st[ERR_OLD] = max(err, 1e-4)
    st[H_DID] = h
    return ACCEPTED


@njit(STEP_SIGNATURE, **OPTIONS)
def explicit_interpolant(
    rhs: Compiled, jac: Compiled, st: Vector, cnt: Integers, info: Integers, control: Vector, table: Vector,
    y: Vector, f: Vector, ynew: Vector, fnew: Vector, atol: Vector, p: Vector, work: Vector, ws: Vector,
    pivots: Integers, nested: Vector,
) -> int:  # fmt: skip
    """Fill the rows of the interpolant over the step just accepted; evaluates the extra stages it needs."""
    s, extra, rows = info[0], info[1], info[2]
    n = y.size
    h = st[H_DID]
    argument = ws[s + 1 + extra]
    for j in range(extra):
        combine(table, s + 4 + j, ws, s + 1 + j, h, y, argument)
        rhs(st[T] + table[s + 1, s + 1 + j] * h, argument, ws[s + 1 + j], p, work)
    cnt[N_RHS] += extra
    for i in range(n):
        nested[0, i] = ynew[i] - y[i]
    first = s + 4 + extra
    for r in range(1, rows):
        for i in range(n):
            nested[r, i] = 0.0
        for j in range(s + 1 + extra):
            a = table[first + r - 1, j]
            if a != 0.0:
                for i in range(n):
                    nested[r, i] += h * a * ws[j, i]
    for r in range(rows, nested.shape[0]):
        for i in range(n):
            nested[r, i] = 0.0
    return ACCEPTED
