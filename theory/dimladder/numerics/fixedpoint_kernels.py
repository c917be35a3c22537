"""Compiled kernels of `fixedpoint`: they call each other, so they share this file (numba's cache does not follow
imports)."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .jit import types

F8 = types.float64[::1]
MAP_TYPE = types.FunctionType(types.void(F8, F8, F8, F8))
map_signature = types.void(F8, F8, F8, F8)
_i8, _f8, _b1 = types.int64, types.float64, types.boolean
_I8 = types.int64[::1]
_F88 = types.float64[:, ::1]
# Explicit signatures: the map enters as a first-class value, so that these compile once (and cache) for every model.
_NEWTON = types.Tuple((_i8, _i8, _i8, _f8, _i8))(MAP_TYPE, F8, F8, F8, _f8, _f8, F8, _i8)
_ANDERSON = types.Tuple((_i8, _i8, _f8, _i8, _f8))(MAP_TYPE, F8, F8, F8, _f8, _i8, _f8, _f8, _f8, _i8, F8)
_SOLVE = types.Tuple((_i8, _i8, _i8, _f8, _i8, _f8))(MAP_TYPE, F8, F8, F8, _f8, _i8, _f8, _f8, F8, _i8, _i8, _b1)
_FOLLOW = types.void(MAP_TYPE, _F88, _F88, F8, _f8, _i8, _f8, _f8, F8, _i8, _i8, _I8, F8, _I8, _I8, F8)

CONVERGED, MAX_ITERATIONS, LEFT_DOMAIN, SINGULAR = 0, 1, 2, 3


@numba.njit(cache=True)
def _scaled_residual(fx: Any, x: Any, rtol: Any, atol: Any) -> Any:
    worst, where = 0.0, -1
    for i in range(x.size):
        r = abs(fx[i] - x[i]) / (rtol * abs(x[i]) + atol)
        if not np.isfinite(r):
            return np.inf, i
        if r > worst:
            worst, where = r, i
    return worst, where


@numba.njit(cache=True)
def _growth(fx: Any, x: Any, best: Any, rtol: Any, atol: Any) -> Any:
    worst = 0.0
    for i in range(x.size):
        r = abs(fx[i] - x[i]) / (rtol * abs(best[i]) + atol)
        if not np.isfinite(r):
            return np.inf
        worst = max(worst, r)
    return worst


@numba.njit(cache=True)
def _solve_linear(a: Any, b: Any) -> Any:
    """Solve a x = b in place (b becomes x) by Gaussian elimination with partial pivoting; False when singular."""
    n = b.size
    for col in range(n):
        pivot = col
        for row in range(col + 1, n):
            if abs(a[row, col]) > abs(a[pivot, col]):
                pivot = row
        if not abs(a[pivot, col]) > 0.0:
            return False
        if pivot != col:
            for j in range(n):
                a[col, j], a[pivot, j] = a[pivot, j], a[col, j]
            b[col], b[pivot] = b[pivot], b[col]
        for row in range(col + 1, n):
            factor = a[row, col] / a[col, col]
            if factor != 0.0:
                for j in range(col, n):
                    a[row, j] -= factor * a[col, j]
                b[row] -= factor * b[col]
    for row in range(n - 1, -1, -1):
        for j in range(row + 1, n):
            b[row] -= a[row, j] * b[j]
        b[row] /= a[row, row]
    return True


@numba.njit(cache=True)
def _inside(x: Any, lower: Any) -> Any:
    for i in range(x.size):  # noqa: SIM110 (numba has no generator expressions)
        if not (x[i] > lower[i]):
            return False
    return True


@numba.njit(_NEWTON, cache=True)
def _newton(fmap: Any, x: Any, p: Any, work: Any, rtol: Any, atol: Any, lower: Any, max_steps: Any) -> Any:
    """Newton's method on F(x) - x with central differences and a backtracking line search. Changes x in place.

    Returns (status, evaluations, steps, scaled residual, component of the largest residual).
    """
    n = x.size
    fx, trial, ftrial, fplus, fminus = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    jac, work_jac = np.empty((n, n)), np.empty((n, n))
    step = np.empty(n)
    evaluations = 1
    fmap(x, fx, p, work)
    res, where = _scaled_residual(fx, x, rtol, atol)
    if not np.isfinite(res):
        return LEFT_DOMAIN, evaluations, 0, res, where
    stale = False
    for iteration in range(max_steps):
        for j in range(n):
            if stale:
                break
            h = 6e-6 * max(abs(x[j]), 1e-3)
            if x[j] - h <= lower[j]:
                h = 0.5 * (x[j] - lower[j])
            for i in range(n):
                trial[i] = x[i]
            trial[j] = x[j] + h
            fmap(trial, fplus, p, work)
            trial[j] = x[j] - h
            fmap(trial, fminus, p, work)
            for i in range(n):
                jac[i, j] = (1.0 if i == j else 0.0) - (fplus[i] - fminus[i]) / (2.0 * h)
        if not stale:
            evaluations += 2 * n
        work_jac[:, :] = jac
        for i in range(n):
            step[i] = fx[i] - x[i]
        if not _solve_linear(work_jac, step):
            return SINGULAR, evaluations, iteration, res, where
        # The step is cut where it would cross a bound (nine tenths of the way), then where the residual does not fall.
        length = 1.0
        size = 0.0
        for i in range(n):
            if not np.isfinite(step[i]):
                return SINGULAR, evaluations, iteration, res, where
            if x[i] + step[i] <= lower[i]:
                length = min(length, 0.9 * (lower[i] - x[i]) / step[i])
            size = max(size, abs(step[i]) / (rtol * abs(x[i]) + atol))
        full = length == 1.0
        accepted = False
        for _ in range(12):
            for i in range(n):
                trial[i] = x[i] + length * step[i]
            fmap(trial, ftrial, p, work)
            evaluations += 1
            res_trial, where_trial = _scaled_residual(ftrial, trial, rtol, atol)
            if np.isfinite(res_trial) and (res_trial < res or (res_trial <= 1.0 and size <= 1.0)):
                accepted = True
                break
            length *= 0.5
            full = False
        if not accepted and stale:
            stale = False
            continue
        if not accepted:
            # No descent: rounding has been reached if the residual and the step are both tiny already.
            if res <= 1.0 and size <= 10.0:
                return CONVERGED, evaluations, iteration, res, where
            return MAX_ITERATIONS, evaluations, iteration, res, where
        for i in range(n):
            x[i] = trial[i]
            fx[i] = ftrial[i]
        # A Jacobian that has just won a factor twenty is kept for the next step (chord method).
        stale = full and res_trial < 0.05 * res
        res, where = res_trial, where_trial
        if full and res <= 1.0 and size <= 1.0:
            return CONVERGED, evaluations, iteration + 1, res, where
    return MAX_ITERATIONS, evaluations, max_steps, res, where


@numba.njit(_ANDERSON, cache=True)
def _anderson(
    fmap: Any,
    x: Any,
    p: Any,
    work: Any,
    damping: Any,
    memory: Any,
    rtol: Any,
    atol: Any,
    goal: Any,
    max_iterations: Any,
    lower: Any,
) -> Any:
    """Anderson-accelerated iteration x <- x + damping (F(x) - x); memory = 0 is plain damped iteration.

    Stops when the scaled residual falls to ``goal``. x becomes the best state seen. The damping is halved, and the
    memory
    forgotten, whenever the residual has grown twentyfold over the best (divergence) or has not fallen for 60 steps (a
    cycle).
    """
    n = x.size
    best = x.copy()
    fx = np.empty(n)
    res_best, where_best = np.inf, -1
    mark, stalled = np.inf, 0
    dx = np.zeros((max(memory, 1), n))
    df = np.zeros((max(memory, 1), n))
    x_old, f_old = np.empty(n), np.empty(n)
    scale = np.empty(n)
    count = 0
    g = np.empty(n)
    new = np.empty(n)
    for iteration in range(max_iterations):
        fmap(x, fx, p, work)
        res, where = _scaled_residual(fx, x, rtol, atol)
        stalled += 1
        if res < res_best:
            if res < 0.99 * mark:
                mark, stalled = res, 0
            res_best, where_best = res, where
            best[:] = x
            if res <= goal:
                return CONVERGED, iteration + 1, res_best, where_best, damping
        # Measured on the scale of the best state: relative to itself, a state that runs away looks harmless.
        growth = _growth(fx, x, best, rtol, atol)
        if not np.isfinite(growth) or growth > 20.0 * res_best or stalled > 60:
            stalled = 0
            if not np.isfinite(res_best):
                return LEFT_DOMAIN, iteration + 1, res, where, damping
            if damping < 1e-3:
                x[:] = best
                return MAX_ITERATIONS, iteration + 1, res_best, where_best, damping
            damping *= 0.5
            x[:] = best
            count = 0
            fmap(x, fx, p, work)
        for i in range(n):
            g[i] = fx[i] - x[i]
            scale[i] = 1.0 / (rtol * abs(x[i]) + atol)
        if memory > 0 and count > 0:
            slot = (count - 1) % memory
            for i in range(n):
                dx[slot, i] = x[i] - x_old[i]
                df[slot, i] = g[i] - f_old[i]
        for i in range(n):
            x_old[i], f_old[i] = x[i], g[i]
            new[i] = x[i] + damping * g[i]
        used = min(count, memory, n)
        if memory > 0 and used > 0:
            # Least squares min |g - dF gamma| in the scaled norm, by its normal equations with a small ridge.
            gram = np.zeros((used, used))
            rhs = np.zeros(used)
            for a in range(used):
                sa = (count - 1 - a) % memory
                for i in range(n):
                    rhs[a] += df[sa, i] * g[i] * scale[i] ** 2
                for b in range(used):
                    sb = (count - 1 - b) % memory
                    for i in range(n):
                        gram[a, b] += df[sa, i] * df[sb, i] * scale[i] ** 2
            trace = 0.0
            for a in range(used):
                trace += gram[a, a]
            for a in range(used):
                gram[a, a] += 1e-12 * trace
            if trace > 0.0 and _solve_linear(gram, rhs):
                for a in range(used):
                    sa = (count - 1 - a) % memory
                    for i in range(n):
                        new[i] -= rhs[a] * (dx[sa, i] + damping * df[sa, i])
        if not _inside(new, lower):
            for i in range(n):
                new[i] = x[i] + damping * g[i]
                if not (new[i] > lower[i]):
                    new[i] = 0.5 * (x[i] + lower[i])
            count = -1
        x[:] = new
        count += 1
    x[:] = best
    return MAX_ITERATIONS, max_iterations, res_best, where_best, damping


@numba.njit(_SOLVE, cache=True)
def _solve(
    fmap: Any,
    x: Any,
    p: Any,
    work: Any,
    damping: Any,
    memory: Any,
    rtol: Any,
    atol: Any,
    lower: Any,
    max_iterations: Any,
    newton_steps: Any,
    warm: Any,
) -> Any:
    """The whole strategy; see `solve`. Returns (status, evaluations, newton steps, scaled residual, where, damping)."""
    evaluations, newton_taken = 0, 0
    status, res, where = MAX_ITERATIONS, np.inf, -1
    start = x.copy()
    if warm and newton_steps > 0:
        status, ev, taken, res, where = _newton(fmap, x, p, work, rtol, atol, lower, newton_steps)
        evaluations += ev
        newton_taken += taken
        if status == CONVERGED:
            return status, evaluations, newton_taken, res, where, damping
        x[:] = start
    # Iterate to a loose goal, hand over to Newton, and come back with a tighter goal if Newton did not take.
    goal = 1e-2 / rtol
    spent = 0
    while spent < max_iterations:
        status, used, res, where, damping = _anderson(
            fmap,
            x,
            p,
            work,
            damping,
            memory,
            rtol,
            atol,
            goal if newton_steps > 0 else 1.0,
            max_iterations - spent,
            lower,
        )
        spent += used
        evaluations += used
        if newton_steps == 0 or status != CONVERGED:
            if status != CONVERGED and newton_steps > 0 and np.isfinite(res):
                start[:] = x
                st, ev, taken, res_n, where_n = _newton(fmap, x, p, work, rtol, atol, lower, newton_steps)
                evaluations += ev
                newton_taken += taken
                if st == CONVERGED:
                    return st, evaluations, newton_taken, res_n, where_n, damping
                x[:] = start
            return status, evaluations, newton_taken, res, where, damping
        start[:] = x
        st, ev, taken, res_n, where_n = _newton(fmap, x, p, work, rtol, atol, lower, newton_steps)
        evaluations += ev
        newton_taken += taken
        if st == CONVERGED:
            return st, evaluations, newton_taken, res_n, where_n, damping
        if goal <= 1.0:
            # The iteration itself has converged; Newton can refine no further than rounding allows.
            x[:] = start
            return status, evaluations, newton_taken, res, where, damping
        x[:] = start
        goal = max(1.0, goal * 1e-2)
    return status, evaluations, newton_taken, res, where, damping


@numba.njit(_FOLLOW, cache=True)
def _follow(
    fmap: Any,
    states: Any,
    params: Any,
    work: Any,
    damping: Any,
    memory: Any,
    rtol: Any,
    atol: Any,
    lower: Any,
    max_iterations: Any,
    newton_steps: Any,
    statuses: Any,
    residuals: Any,
    evaluations: Any,
    wheres: Any,
    dampings: Any,
) -> Any:
    """Fixed points along the rows of ``params``, each started from the secant prediction through the two before it."""
    n = states.shape[1]
    x = states[0].copy()
    for row in range(params.shape[0]):
        if row >= 1 and statuses[row - 1] == CONVERGED:
            x[:] = states[row - 1]
        if row >= 2 and statuses[row - 1] == CONVERGED and statuses[row - 2] == CONVERGED:
            t = 0.0
            change, before = 0.0, 0.0
            for j in range(params.shape[1]):
                change += (params[row, j] - params[row - 1, j]) * (params[row - 1, j] - params[row - 2, j])
                before += (params[row - 1, j] - params[row - 2, j]) ** 2
            if before > 0.0:
                t = min(max(change / before, 0.0), 3.0)
            ok = True
            for i in range(n):
                x[i] = states[row - 1, i] + t * (states[row - 1, i] - states[row - 2, i])
                if not (x[i] > lower[i]):
                    ok = False
            if not ok:
                x[:] = states[row - 1]
        status, ev, _, res, where, used_damping = _solve(
            fmap, x, params[row], work, damping, memory, rtol, atol, lower, max_iterations, newton_steps, row >= 1
        )
        states[row] = x
        statuses[row], residuals[row], evaluations[row], wheres[row], dampings[row] = (
            status,
            res,
            ev,
            where,
            used_damping,
        )
