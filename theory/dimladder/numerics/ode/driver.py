"""The compiled loop around the steps: outputs, events, domain, failures, and the choice between explicit and implicit.

It reaches every other compiled function through its address (`layout`), so that no cached machine code here goes stale
when a step or a model changes. It returns to the interpreter when its budget of steps or a buffer is used up.
"""

from __future__ import annotations

import math

from ..native import njit
from .common import OPTIONS, evaluate_nested, scaled_norm
from .layout import (
    ACCEPTED,
    ACTIVE,
    AFTER_REJECT,
    AUTO,
    BDF_READY,
    BLEW_UP,
    BLOW_UP,
    COMPONENT,
    CONVERGED,
    DONE,
    ERR_OLD,
    EVENT,
    FAILURE,
    H_DID,
    H_MAX,
    H_MIN,
    HAS_DOMAIN,
    I_OUT,
    IMPLICIT_KIND,
    J_FRESH,
    LEFT_DOMAIN,
    MAX_STEPS,
    N_EVENTS,
    N_FOUND,
    N_REJECTED,
    N_RHS,
    N_SEGMENTS,
    N_STEPS,
    N_SWITCHES,
    NAN,
    NEED_IMPLICIT,
    NEED_SPACE,
    NONSTIFF,
    NOT_FINITE,
    OUT_OF_STEPS,
    OUTSIDE,
    RATIO,
    RTOL,
    RUNNING,
    STEADY,
    STEP_TO_OUTPUTS,
    STIFF,
    STORE_DENSE,
    T_END,
    T_START,
    T_STOP,
    TOO_LARGE,
    UNDERFLOW,
    VALUE,
    H,
    Integers,
    T,
    Vector,
    as_jac,
    as_rhs,
    as_scalar,
    as_step,
    borrowed,
)

EPS = 2.220446049250313e-16
# Explicit steps at the edge of stability before the implicit method takes over, steps within it that clear the count,
# and implicit steps in a row that an explicit method could have made before it comes back: more for BDF, whose first
# steps are short, and more after each change, so that no sequence of changes can go on.
STIFF_STEPS, CLEAR_STEPS, BACK_STEPS = 12, 6, 10
# What is left must be worth the start of an implicit method: this many explicit steps.
WORTH_STEPS = 60.0

START_SIGNATURE = "i8(i8[:, ::1], f8[::1], i8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8)"
ADVANCE_SIGNATURE = (
    "i8(i8[:, ::1], f8[::1], i8[::1], i8[::1], f8[::1], f8[:, ::1], i8[::1], f8[::1], f8[:, ::1], f8[::1], f8[:, ::1],"
    "f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[:, ::1], i8[::1], f8[:, ::1],"
    "f8[:, ::1], f8[:, :, ::1], f8[:, ::1], i8[:, ::1], f8[:, ::1], f8[:, ::1], i8)"
)


@njit(START_SIGNATURE, **OPTIONS)
def start(
    address: Vector, st: Vector, cnt: Integers, y: Vector, f: Vector, fnew: Vector, ynew: Vector, atol: Vector,
    p: Vector, work: Vector, order: float,
) -> int:  # fmt: skip
    """Evaluate the right-hand side at the start and choose the first step (Hairer, Nørsett & Wanner, II.4)."""
    rhs = as_rhs(address[0, 0], address[0, 1])
    y, f, fnew, ynew, p, work = borrowed(y), borrowed(f), borrowed(fnew), borrowed(ynew), borrowed(p), borrowed(work)
    n = y.size
    t, span = st[T], st[T_END] - st[T]
    rhs(t, y, f, p, work)
    cnt[N_RHS] += 1
    for i in range(n):
        if not (math.isfinite(f[i]) and math.isfinite(y[i])):
            cnt[COMPONENT] = i
            return NAN
    if cnt[HAS_DOMAIN] == 1:
        inside = as_scalar(address[2, 0], address[2, 1])
        if not inside(t, y, p) >= 0.0:
            return LEFT_DOMAIN
    if st[CONVERGED] > 0.0:
        largest = 0.0
        for i in range(n):
            largest = max(largest, abs(f[i]))
        if largest <= st[CONVERGED]:
            return STEADY
    if span == 0.0:
        return DONE
    if st[H] == 0.0:
        d0, d1 = scaled_norm(y, y, y, atol, st[RTOL]), scaled_norm(f, y, y, atol, st[RTOL])
        h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
        h0 = min(h0, abs(span), st[H_MAX])
        sign = 1.0 if span > 0.0 else -1.0
        for i in range(n):
            ynew[i] = y[i] + sign * h0 * f[i]
        rhs(t + sign * h0, ynew, fnew, p, work)
        cnt[N_RHS] += 1
        for i in range(n):
            fnew[i] -= f[i]
        d2 = scaled_norm(fnew, y, y, atol, st[RTOL]) / h0
        big = max(d1, d2)
        if not math.isfinite(big):
            h1 = 1e-3 * h0  # the trial left the domain of the right-hand side: begin far inside it
        elif big <= 1e-15:
            h1 = max(1e-6, 1e-3 * h0)
        else:
            h1 = (0.01 / big) ** (1.0 / (order + 1.0))
        st[H] = sign * min(100.0 * h0, h1, abs(span), st[H_MAX])
    return RUNNING


@njit("i8(f8[::1], i8[::1], f8[::1], f8[::1])", **OPTIONS)
def diagnose(st: Vector, cnt: Integers, y: Vector, f: Vector) -> int:
    """Say why steps have shrunk to rounding: the domain, NaN, a finite-time blow-up, or none of these."""
    if cnt[FAILURE] == OUTSIDE:
        return LEFT_DOMAIN
    # Blow-up: some |y| is large, grows, and would double within a few of the smallest steps.
    for i in range(y.size):
        if abs(y[i]) > 1e6 and y[i] * f[i] * st[H] > 0.0 and abs(y[i]) < 1e6 * st[H_MIN] * abs(f[i]):
            cnt[COMPONENT] = i
            return BLEW_UP
    return NAN if cnt[FAILURE] == NOT_FINITE else UNDERFLOW


@njit(ADVANCE_SIGNATURE, **OPTIONS)
def advance(
    address: Vector, st: Vector, cnt: Integers,
    info_e: Integers, control_e: Vector, table_e: Vector, info_i: Integers, control_i: Vector, table_i: Vector,
    t_eval: Vector, out: Vector,
    y: Vector, f: Vector, ynew: Vector, fnew: Vector, atol: Vector, p: Vector, work: Vector, ws: Vector,
    pivots: Integers, nested: Vector,
    segments: Vector, segment_rows: Vector,
    event_state: Vector, event_flags: Integers, found: Vector, switches: Vector,
    budget: int,
) -> int:  # fmt: skip
    """Make up to `budget` attempts at a step; return a code of `layout`.

    address: rows rhs, jac, domain, explicit step and interpolant, implicit step and interpolant, then the events.
    segments[j] = (t, h, y...), segment_rows[j] = rows of the interpolant; found[j] = (t, event, y...);
    event_state = (g at the start, g at the end, time of the root) by event, event_flags = (direction, terminal);
    switches[j] = (t, method after, ratio that decided).
    """
    rhs = as_rhs(address[0, 0], address[0, 1])
    jac = as_jac(address[1, 0], address[1, 1])
    domain = as_scalar(address[2, 0], address[2, 1])
    step_e, dense_e = as_step(address[3, 0], address[3, 1]), as_step(address[4, 0], address[4, 1])
    step_i, dense_i = as_step(address[5, 0], address[5, 1]), as_step(address[6, 0], address[6, 1])
    y, f, ynew, fnew, atol, p = borrowed(y), borrowed(f), borrowed(ynew), borrowed(fnew), borrowed(atol), borrowed(p)
    work, ws, nested, pivots = borrowed(work), borrowed(ws), borrowed(nested), borrowed(pivots)
    n, n_out, n_events = y.size, t_eval.size, cnt[N_EVENTS]
    sign = 1.0 if st[T_END] > st[T_START] else -1.0
    rows = nested.shape[0]
    work_row = ws[VALUE]

    for _ in range(budget):
        t = st[T]
        if cnt[STORE_DENSE] == 1 and cnt[N_SEGMENTS] == segments.shape[0]:
            return NEED_SPACE
        if cnt[N_FOUND] + n_events > found.shape[0]:
            return NEED_SPACE
        if cnt[N_STEPS] + cnt[N_REJECTED] >= cnt[MAX_STEPS]:
            return OUT_OF_STEPS
        stop = st[T_END]
        if cnt[STEP_TO_OUTPUTS] == 1 and cnt[I_OUT] < n_out:
            stop = t_eval[cnt[I_OUT]]
        st[T_STOP] = stop
        left = abs(stop - t)
        st[H_MIN] = max(16.0 * EPS * abs(t), 1e-30 * abs(st[T_END] - st[T_START]))
        wanted = min(abs(st[H]), st[H_MAX])
        if wanted < st[H_MIN] and left > st[H_MIN]:
            return diagnose(st, cnt, y, f)
        last = wanted >= left * (1.0 - 1e-12) or left <= st[H_MIN]
        st[H] = sign * (left if last else wanted)

        implicit = cnt[ACTIVE] == 1
        step = step_i if implicit else step_e
        interpolant = dense_i if implicit else dense_e
        info = info_i if implicit else info_e
        control = control_i if implicit else control_e
        table = table_i if implicit else table_e
        code = step(rhs, jac, st, cnt, info, control, table, y, f, ynew, fnew, atol, p, work, ws, pivots, nested)
        tnew = stop if last else t + st[H_DID]
        if code == ACCEPTED and cnt[HAS_DOMAIN] == 1 and not domain(tnew, ynew, p) >= 0.0:
            # The method has already moved on: make it start afresh from the old state, with half the step.
            code = OUTSIDE
            st[H] = 0.5 * st[H_DID]
            cnt[AFTER_REJECT] = 1
            cnt[BDF_READY] = 0
            cnt[J_FRESH] = 0
        if code != ACCEPTED:
            cnt[N_REJECTED] += 1
            cnt[FAILURE] = code
            if code == TOO_LARGE and not implicit and st[RATIO] > 0.9:
                cnt[STIFF] += 1
            continue

        cnt[N_STEPS] += 1
        if last and wanted > left:
            # The step was cut to meet a time: what had been planned before is still good.
            st[H] = sign * max(abs(st[H]), wanted)
        for i in range(n):
            if abs(ynew[i]) > st[BLOW_UP]:
                cnt[COMPONENT] = i
                return BLEW_UP

        crossings = 0
        for e in range(n_events):
            g_of = as_scalar(address[7 + e, 0], address[7 + e, 1])
            g0, g1 = event_state[e, 0], g_of(tnew, ynew, p)
            event_state[e, 1] = g1
            event_state[e, 2] = math.nan
            up, down = g0 < 0.0 and g1 >= 0.0, g0 > 0.0 and g1 <= 0.0
            direction = event_flags[e, 0]
            if (up and direction >= 0) or (down and direction <= 0):
                event_state[e, 2] = tnew
                crossings += 1
        outputs_inside = cnt[I_OUT] < n_out and (t_eval[cnt[I_OUT]] - tnew) * sign < 0.0
        if crossings > 0 or outputs_inside or cnt[STORE_DENSE] == 1:
            interpolant(rhs, jac, st, cnt, info, control, table, y, f, ynew, fnew, atol, p, work, ws, pivots, nested)

            if implicit and cnt[IMPLICIT_KIND] == 0:
                # On stiff components a Rosenbrock step can be much better than its interpolant, which the error
                # estimate does not see: the last row, at most 1/16 of it, bounds the error of the cubic without it.
                for i in range(n):
                    work_row[i] = 0.0625 * nested[info[2] - 1, i]
                excess = scaled_norm(work_row, y, ynew, atol, st[RTOL])
                if excess > 1.0:
                    st[H] = st[H_DID] * max(0.2, 0.9 * excess**-0.25)
                    cnt[N_STEPS] -= 1
                    cnt[N_REJECTED] += 1
                    cnt[FAILURE] = TOO_LARGE
                    cnt[J_FRESH] = 0
                    continue

        # Locate each sign change on the interpolant.
        finished = 0
        t_cut = tnew
        for e in range(n_events):
            if math.isnan(event_state[e, 2]):
                continue
            g_of = as_scalar(address[7 + e, 0], address[7 + e, 1])
            g0, g1 = event_state[e, 0], event_state[e, 1]
            # Regula falsi with the Illinois weights, safeguarded by bisection; [a, b] brackets the root in theta.
            a, b, ga, gb = 0.0, 1.0, g0, g1
            side = 0
            for it in range(100):
                if gb == 0.0 or (b - a) * abs(tnew - t) <= 4.0 * EPS * max(abs(t), abs(tnew)):
                    break
                theta = (a * gb - b * ga) / (gb - ga)
                if it % 3 == 2 or not (a < theta < b):
                    theta = 0.5 * (a + b)
                if theta <= a or theta >= b:
                    break
                evaluate_nested(theta, y, nested, rows, found[cnt[N_FOUND], 2:])
                g = g_of(t + theta * (tnew - t), found[cnt[N_FOUND], 2:], p)
                if (g > 0.0) == (g1 > 0.0) or g == 0.0:
                    b, gb = theta, g
                    if side == 1:
                        ga *= 0.5
                    side = 1
                else:
                    a, ga = theta, g
                    if side == -1:
                        gb *= 0.5
                    side = -1
            root = tnew if b == 1.0 else t + b * (tnew - t)
            event_state[e, 2] = root
            if event_flags[e, 1] == 1 and (root - t_cut) * sign <= 0.0:
                t_cut = root
                finished = EVENT
        # Record them in the order of time, up to the terminal one.
        for _ in range(crossings):
            best = -1
            for e in range(n_events):
                root = event_state[e, 2]
                if math.isnan(root) or (root - t_cut) * sign > 0.0:
                    continue
                if best < 0 or (root - event_state[best, 2]) * sign < 0.0:
                    best = e
            if best < 0:
                break
            root = event_state[best, 2]
            event_state[best, 2] = math.nan
            row = found[cnt[N_FOUND]]
            row[0] = root
            row[1] = best
            evaluate_nested((root - t) / (tnew - t), y, nested, rows, row[2:])
            cnt[N_FOUND] += 1
            if finished == EVENT and root == t_cut and event_flags[best, 1] == 1:
                break
        for e in range(n_events):
            event_state[e, 0] = event_state[e, 1]

        while cnt[I_OUT] < n_out and (t_eval[cnt[I_OUT]] - t_cut) * sign <= 0.0:
            i_out = cnt[I_OUT]
            if t_eval[i_out] == tnew:
                for i in range(n):
                    out[i_out, i] = ynew[i]
            else:
                evaluate_nested((t_eval[i_out] - t) / (tnew - t), y, nested, rows, out[i_out])
            cnt[I_OUT] += 1
        if cnt[STORE_DENSE] == 1:
            j = cnt[N_SEGMENTS]
            segments[j, 0] = t
            segments[j, 1] = tnew - t
            for i in range(n):
                segments[j, 2 + i] = y[i]
            for r in range(rows):
                for i in range(n):
                    segment_rows[j, r, i] = nested[r, i]
            cnt[N_SEGMENTS] += 1

        if finished == EVENT and t_cut != tnew:
            evaluate_nested((t_cut - t) / (tnew - t), y, nested, rows, ynew)
            rhs(t_cut, ynew, fnew, p, work)
            cnt[N_RHS] += 1
        st[T] = t_cut
        cnt[FAILURE] = ACCEPTED
        largest = 0.0
        for i in range(n):
            y[i] = ynew[i]
            f[i] = fnew[i]
            largest = max(largest, abs(fnew[i]))
        if finished == EVENT:
            return EVENT
        if largest <= st[CONVERGED]:
            return STEADY
        if tnew == st[T_END]:
            return DONE

        if cnt[AUTO] == 1:
            steps_left = abs(st[T_END] - tnew) / max(abs(st[H]), st[H_MIN])
            if not implicit:
                # Limited by stability (ratio near 1: accepted steps a little below, rejected ones a little above).
                if st[RATIO] > 0.65:
                    cnt[NONSTIFF] = 0
                    cnt[STIFF] += 1
                elif cnt[STIFF] > 0:
                    cnt[NONSTIFF] += 1
                    if cnt[NONSTIFF] >= CLEAR_STEPS:
                        cnt[STIFF] = 0
                        cnt[NONSTIFF] = 0
                change = cnt[STIFF] >= STIFF_STEPS and steps_left > WORTH_STEPS
            else:
                # An explicit method would be stable at this very step: then it is the cheaper one.
                cnt[NONSTIFF] = cnt[NONSTIFF] + 1 if st[RATIO] < 0.5 else 0
                needed = BACK_STEPS * (1 + cnt[N_SWITCHES])
                change = cnt[NONSTIFF] >= (3 * needed if cnt[IMPLICIT_KIND] == 1 else needed)
            if change:
                if cnt[N_SWITCHES] < switches.shape[0]:
                    row = switches[cnt[N_SWITCHES]]
                    row[0] = tnew
                    row[1] = 1.0 - cnt[ACTIVE]
                    row[2] = st[RATIO]
                cnt[N_SWITCHES] += 1
                cnt[ACTIVE] = 1 - cnt[ACTIVE]
                cnt[STIFF] = 0
                cnt[NONSTIFF] = 0
                cnt[BDF_READY] = 0
                cnt[J_FRESH] = 0
                st[ERR_OLD] = 1e-4
                if implicit:
                    # The implicit step may have formed its derivative from the Newton iteration.
                    rhs(tnew, y, f, p, work)
                    cnt[N_RHS] += 1
                elif address[5, 0] == 0:
                    return NEED_IMPLICIT
    return RUNNING
