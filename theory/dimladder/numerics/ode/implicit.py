"""One step of an implicit method: Rosenbrock (Rodas5P) and backward differentiation, with dense linear algebra.

Jacobians are the caller's, or finite differences. LU factors are row-major with partial pivoting: the systems have
tens to hundreds of unknowns, where the call into a library would cost as much as the work.
"""

from __future__ import annotations

import math

import numpy as np

from ..linear import factorise, solve_factored
from ..native import njit
from .common import OPTIONS, first_bad, scaled_norm, step_factor
from .layout import (
    ACCEPTED,
    AFTER_REJECT,
    AUTONOMOUS,
    BDF_H,
    BDF_READY,
    COMPONENT,
    DRIFT,
    ERR,
    ERR_OLD,
    H_DID,
    HAS_JAC,
    J_FRESH,
    LU_READY,
    MOVED,
    N_EQUAL,
    N_JAC,
    N_LU,
    N_RHS,
    NO_CONVERGENCE,
    NOT_FINITE,
    ORDER,
    POWER,
    PREDICTED,
    PSI,
    RATIO,
    RHO,
    RTOL,
    SQUARE,
    STEP_SIGNATURE,
    T_JAC,
    TOO_LARGE,
    VALUE,
    Compiled,
    H,
    Integers,
    T,
    Vector,
)

EPS = 2.220446049250313e-16
ROOT_EPS = 1.4901161193847656e-08
NEWTON = 4  # most iterations of a step
NEGLIGIBLE = 0.05  # size of a Newton correction, in units of the tolerance, that a step can do without
# Real stability interval of the explicit methods, against which implicit steps are measured (DOP853 6.1, Tsit5 3.5).
EXPLICIT_INTERVAL = 5.0


@njit("i8(RHS, JAC, f8[::1], i8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[:, ::1], f8[:, ::1])", **OPTIONS)
def jacobian(
    rhs: Compiled, jac: Compiled, st: Vector, cnt: Integers, y: Vector, f: Vector, atol: Vector, p: Vector,
    work: Vector, ws: Vector, out: Vector,
) -> int:  # fmt: skip
    """J[i, j] = d f_i / d y_j at (st[T_JAC], y), where the right-hand side is f; and its spectral radius, roughly.

    Returns the first row with an entry that is not finite, or -1. Finite differences step along the flow, by sqrt(eps)
    of the size that matters to the tolerance.
    """
    n = y.size
    t = st[T_JAC]
    if cnt[HAS_JAC] == 1:
        jac(t, y, out, p, work)
    else:
        largest = 0.0
        for i in range(n):
            largest = max(largest, abs(y[i]))
        moved, value = ws[MOVED], ws[VALUE]
        for i in range(n):
            moved[i] = y[i]
        for j in range(n):
            size = max(abs(y[j]), atol[j] / st[RTOL], 1e-6 * largest)
            moved[j] = y[j] + (ROOT_EPS * size if f[j] * st[H] >= 0.0 else -ROOT_EPS * size)
            inverse = 1.0 / (moved[j] - y[j])
            rhs(t, moved, value, p, work)
            for i in range(n):
                out[i, j] = (value[i] - f[i]) * inverse
            moved[j] = y[j]
        cnt[N_RHS] += n
    cnt[N_JAC] += 1
    for i in range(n):
        for j in range(n):
            if not math.isfinite(out[i, j]):
                return i
    # Power iteration, from the vector it ended with last time.
    vector, image = ws[POWER], ws[VALUE]
    rho = 0.0
    for _ in range(8):
        norm = 0.0
        for i in range(n):
            norm += vector[i] * vector[i]
        norm = math.sqrt(norm)
        if not (norm > 1e-250 and norm < 1e250):
            for i in range(n):
                vector[i] = 1.0 + 0.1 * (i % 7)
            norm = 1.0
        total = 0.0
        for i in range(n):
            acc = 0.0
            for j in range(n):
                acc += out[i, j] * vector[j]
            image[i] = acc / norm
            total += image[i] * image[i]
        rho = math.sqrt(total)
        for i in range(n):
            vector[i] = image[i]
    st[RHO] = rho
    return -1


@njit(STEP_SIGNATURE, **OPTIONS)
def rosenbrock_step(
    rhs: Compiled, jac: Compiled, st: Vector, cnt: Integers, info: Integers, control: Vector, table: Vector,
    y: Vector, f: Vector, ynew: Vector, fnew: Vector, atol: Vector, p: Vector, work: Vector, ws: Vector,
    pivots: Integers, nested: Vector,
) -> int:  # fmt: skip
    """Attempt one step of a Rosenbrock method, (I/(h gamma) - J) u_j = f_j + sum_l C_jl u_l / h + h d_j df/dt.

    Rows of ws: u_0..u_7, then those named at the top, J and the LU factors. Rows of table: a (8), C (8), nodes, d,
    interpolant (3).
    """
    n, s = y.size, info[0]
    t, h = st[T], st[H]
    value, drift = ws[VALUE], ws[DRIFT]
    if cnt[BDF_READY] == 0:
        for i in range(n):
            ws[POWER, i] = 0.0
        cnt[BDF_READY] = 1
    if cnt[J_FRESH] == 0:
        st[T_JAC] = t
        bad = jacobian(rhs, jac, st, cnt, y, f, atol, p, work, ws, ws[SQUARE : SQUARE + n])
        if bad >= 0:
            cnt[COMPONENT] = bad
            st[H] = 0.2 * h
            return NOT_FINITE
        if cnt[AUTONOMOUS] == 1:
            for i in range(n):
                drift[i] = 0.0
        else:
            later = t + math.copysign(max(1e-7 * abs(h), 1e3 * EPS * abs(t)), h)
            rhs(later, y, drift, p, work)
            cnt[N_RHS] += 1
            for i in range(n):
                drift[i] = (drift[i] - f[i]) / (later - t)
        cnt[J_FRESH] = 1
    lu = SQUARE + n
    diagonal = 1.0 / (h * control[6])
    for i in range(n):
        for j in range(n):
            ws[lu + i, j] = -ws[SQUARE + i, j]
        ws[lu + i, i] += diagonal
    cnt[N_LU] += 1
    if not factorise(ws, lu, n, pivots):
        st[H] = 0.2 * h
        cnt[AFTER_REJECT] = 1
        return NO_CONVERGENCE
    bad = -1
    for j in range(s):
        for i in range(n):
            ynew[i] = y[i]
        for k in range(j):
            a = table[j, k]
            if a != 0.0:
                for i in range(n):
                    ynew[i] += a * ws[k, i]
        if j == 0:
            for i in range(n):
                value[i] = f[i]
        else:
            rhs(t + table[2 * s, j] * h, ynew, value, p, work)
            cnt[N_RHS] += 1
            for i in range(n):
                if bad < 0 and not math.isfinite(value[i]):
                    bad = i
        d = h * table[2 * s + 1, j]
        for i in range(n):
            ws[j, i] = value[i] + d * drift[i]
        for k in range(j):
            c = table[s + j, k] / h
            if c != 0.0:
                for i in range(n):
                    ws[j, i] += c * ws[k, i]
        solve_factored(ws, lu, n, pivots, ws[j])
    error = ws[s - 1]
    for i in range(n):
        ynew[i] += error[i]
    err = scaled_norm(error, y, ynew, atol, st[RTOL])
    st[ERR] = err
    if bad >= 0 or not math.isfinite(err):
        cnt[COMPONENT] = bad if bad >= 0 else first_bad(ws, s)
        st[H] = 0.2 * h
        cnt[AFTER_REJECT] = 1
        return NOT_FINITE
    st[H] = h * step_factor(err, st[ERR_OLD], control, cnt[AFTER_REJECT] == 1)
    if err > 1.0:
        cnt[AFTER_REJECT] = 1
        return TOO_LARGE
    rhs(t + h, ynew, fnew, p, work)
    cnt[N_RHS] += 1
    for i in range(n):
        if not math.isfinite(fnew[i]):
            cnt[COMPONENT] = i
            st[H] = 0.2 * h
            cnt[AFTER_REJECT] = 1
            return NOT_FINITE
    cnt[AFTER_REJECT] = 0
    cnt[J_FRESH] = 0
    st[ERR_OLD] = max(err, 1e-4)
    st[H_DID] = h
    st[RATIO] = abs(h) * st[RHO] / EXPLICIT_INTERVAL
    return ACCEPTED


@njit(STEP_SIGNATURE, **OPTIONS)
def rosenbrock_interpolant(
    rhs: Compiled, jac: Compiled, st: Vector, cnt: Integers, info: Integers, control: Vector, table: Vector,
    y: Vector, f: Vector, ynew: Vector, fnew: Vector, atol: Vector, p: Vector, work: Vector, ws: Vector,
    pivots: Integers, nested: Vector,
) -> int:  # fmt: skip
    """Fill the rows of the interpolant over the step just accepted."""
    n, s = y.size, info[0]
    for i in range(n):
        nested[0, i] = ynew[i] - y[i]
    for r in range(1, nested.shape[0]):
        for i in range(n):
            nested[r, i] = 0.0
        if r < info[2]:
            for j in range(s):
                a = table[2 * s + 1 + r, j]
                for i in range(n):
                    nested[r, i] += a * ws[j, i]
    return ACCEPTED


@njit("void(f8[:, ::1], i8, f8)", **OPTIONS)
def rescale(differences: Vector, order: int, factor: float) -> None:
    """Backward differences for a step `factor` times as long (Shampine & Reichelt 1997, section 2.2)."""
    m = order + 1
    n = differences.shape[1]
    scaled, unit, product = np.empty((6, 6)), np.empty((6, 6)), np.empty((6, 6))
    for j in range(m):
        scaled[0, j] = unit[0, j] = 1.0
    for i in range(1, m):
        scaled[i, 0] = unit[i, 0] = 0.0
        for j in range(1, m):
            scaled[i, j] = scaled[i - 1, j] * (i - 1 - factor * j) / i
            unit[i, j] = unit[i - 1, j] * (i - 1.0 - j) / i
    for i in range(m):
        for j in range(m):
            acc = 0.0
            for k in range(m):
                acc += scaled[i, k] * unit[k, j]
            product[i, j] = acc
    column = np.empty(6)
    for c in range(n):
        for j in range(m):
            acc = 0.0
            for i in range(m):
                acc += product[i, j] * differences[i, c]
            column[j] = acc
        for j in range(m):
            differences[j, c] = column[j]


@njit(STEP_SIGNATURE, **OPTIONS)
def bdf_step(
    rhs: Compiled, jac: Compiled, st: Vector, cnt: Integers, info: Integers, control: Vector, table: Vector,
    y: Vector, f: Vector, ynew: Vector, fnew: Vector, atol: Vector, p: Vector, work: Vector, ws: Vector,
    pivots: Integers, nested: Vector,
) -> int:  # fmt: skip
    """Attempt one step of the numerical differentiation formulas of order 1 to 5 in quasi-constant step size.

    Shampine & Reichelt 1997. The Jacobian is kept until Newton's iteration fails, the factors while step and order
    stay. Rows of ws: the backward differences (8), then those named at the top. Rows of table: gamma, alpha, error
    constants, interpolant (5).
    """
    n, h = y.size, st[H]
    lu = SQUARE + n
    if cnt[BDF_READY] == 0:
        for i in range(n):
            ws[0, i] = y[i]
            ws[1, i] = h * f[i]
            ws[POWER, i] = 0.0
        cnt[ORDER], cnt[N_EQUAL] = 1, 0
        st[BDF_H] = h
        st[T_JAC] = st[T]
        bad = jacobian(rhs, jac, st, cnt, y, f, atol, p, work, ws, ws[SQUARE : SQUARE + n])
        if bad >= 0:
            cnt[COMPONENT] = bad
            st[H] = 0.2 * h
            return NOT_FINITE
        cnt[J_FRESH], cnt[LU_READY], cnt[BDF_READY] = 1, 0, 1
    order = cnt[ORDER]
    if h != st[BDF_H]:
        rescale(ws, order, h / st[BDF_H])
        st[BDF_H] = h
        cnt[N_EQUAL] = 0
        cnt[LU_READY] = 0
    tnew = st[T] + h
    predicted, psi, d, change = ws[PREDICTED], ws[PSI], ws[DRIFT], ws[VALUE]
    alpha = table[1, order]
    c = h / alpha
    for i in range(n):
        acc = ws[0, i]
        known = 0.0
        for j in range(1, order + 1):
            acc += ws[j, i]
            known += table[0, j] * ws[j, i]
        predicted[i] = acc
        psi[i] = known / alpha
    tolerance = max(10.0 * EPS / st[RTOL], min(0.03, math.sqrt(st[RTOL])))
    iterations = 0
    while True:
        if cnt[LU_READY] == 0:
            for i in range(n):
                for j in range(n):
                    ws[lu + i, j] = -c * ws[SQUARE + i, j]
                ws[lu + i, i] += 1.0
            cnt[N_LU] += 1
            if not factorise(ws, lu, n, pivots):
                st[H] = 0.5 * h
                return NO_CONVERGENCE
            cnt[LU_READY] = 1
        converged = False
        bad = -1
        old = -1.0
        for i in range(n):
            ynew[i] = predicted[i]
            d[i] = 0.0
        for k in range(NEWTON):
            iterations = k + 1
            rhs(tnew, ynew, fnew, p, work)
            cnt[N_RHS] += 1
            for i in range(n):
                if not math.isfinite(fnew[i]):
                    bad = i
                    break
                change[i] = c * fnew[i] - psi[i] - d[i]
            if bad >= 0:
                break
            solve_factored(ws, lu, n, pivots, change)
            norm = scaled_norm(change, predicted, predicted, atol, st[RTOL])
            rate = norm / old if old > 0.0 else -1.0
            slow = rate >= 0.0 and (rate >= 1.0 or rate ** (NEWTON - k) / (1.0 - rate) * norm > tolerance)
            if slow and old < NEGLIGIBLE:
                # Rounding, amplified by a long step near a fixed point: no better state can be had, none is needed.
                converged = True
                break
            if slow or not math.isfinite(norm):
                break
            for i in range(n):
                ynew[i] += change[i]
                d[i] += change[i]
            if norm < 1e-3 * tolerance or (rate >= 0.0 and rate / (1.0 - rate) * norm < tolerance):
                converged = True
                break
            old = norm
        if converged:
            break
        if cnt[J_FRESH] == 1 or bad >= 0:
            st[H] = (0.2 if bad >= 0 else 0.5) * h
            cnt[COMPONENT] = bad
            cnt[AFTER_REJECT] = 1
            return NOT_FINITE if bad >= 0 else NO_CONVERGENCE
        # An old Jacobian may be to blame: a new one, at the prediction.
        st[T_JAC] = tnew
        rhs(tnew, predicted, fnew, p, work)
        cnt[N_RHS] += 1
        bad = jacobian(rhs, jac, st, cnt, predicted, fnew, atol, p, work, ws, ws[SQUARE : SQUARE + n])
        if bad >= 0:
            cnt[COMPONENT] = bad
            cnt[BDF_READY] = 0  # start again from the last good state
            st[H] = 0.2 * h
            return NOT_FINITE
        cnt[J_FRESH], cnt[LU_READY] = 1, 0

    safety = 0.9 * (2.0 * NEWTON + 1.0) / (2.0 * NEWTON + iterations)
    err = abs(table[2, order]) * scaled_norm(d, ynew, ynew, atol, st[RTOL])
    st[ERR] = err
    if err > 1.0:
        st[H] = h * max(control[2], safety * err ** (-1.0 / (order + 1.0)))
        cnt[AFTER_REJECT] = 1
        return TOO_LARGE
    cnt[AFTER_REJECT] = 0
    cnt[J_FRESH] = 0
    cnt[N_EQUAL] += 1
    st[H_DID] = h
    st[RATIO] = abs(h) * st[RHO] / EXPLICIT_INTERVAL
    for i in range(n):
        # Newton's equation gives the derivative at the new state without another evaluation.
        fnew[i] = (psi[i] + d[i]) / c
        ws[order + 2, i] = d[i] - ws[order + 1, i]
        ws[order + 1, i] = d[i]
        for j in range(order, 0, -1):
            ws[j, i] += ws[j + 1, i]
        ws[0, i] = ynew[i]
    if cnt[N_EQUAL] < order + 1:
        return ACCEPTED
    below = above = math.inf
    if order > 1:
        below = abs(table[2, order - 1]) * scaled_norm(ws[order], ynew, ynew, atol, st[RTOL])
    if order < info[0]:
        above = abs(table[2, order + 1]) * scaled_norm(ws[order + 2], ynew, ynew, atol, st[RTOL])
    best, chosen = 0.0, order
    for candidate in range(order - 1, order + 2):
        e = below if candidate < order else (err if candidate == order else above)
        gain = e ** (-1.0 / (candidate + 1.0)) if e > 0.0 else math.inf
        if gain > best:
            best, chosen = gain, candidate
    cnt[ORDER] = chosen
    st[H] = h * min(control[3], safety * best)
    return ACCEPTED


@njit(STEP_SIGNATURE, **OPTIONS)
def bdf_interpolant(
    rhs: Compiled, jac: Compiled, st: Vector, cnt: Integers, info: Integers, control: Vector, table: Vector,
    y: Vector, f: Vector, ynew: Vector, fnew: Vector, atol: Vector, p: Vector, work: Vector, ws: Vector,
    pivots: Integers, nested: Vector,
) -> int:  # fmt: skip
    """Rows of the interpolant from the backward differences at the end of the step (not yet rescaled)."""
    n = y.size
    for i in range(n):
        nested[0, i] = ynew[i] - y[i]
    for r in range(1, nested.shape[0]):
        for i in range(n):
            nested[r, i] = 0.0
        if r < info[2]:
            for j in range(1, cnt[ORDER] + 1):
                a = table[3 + r, j]
                for i in range(n):
                    nested[r, i] += a * ws[j, i]
    return ACCEPTED
