"""Compiled kernels of `fixedpoint`: Newton's and Anderson's iterations for x = F(x), alone and along a curve.

A map enters by its address, so that they are compiled once for every model.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import native
from .addresses import FromAddresses
from .basics import OPTIONS, fill
from .linear import factorise, solve_factored
from .native import njit

# fmap(x, out, p, work): out = F(x; p).
MAP_TYPE = native.value_type("as_map", "MAP", "void(f8[::1], f8[::1], f8[::1], f8[::1])")
as_map = FromAddresses(MAP_TYPE)

CONVERGED, MAX_ITERATIONS, LEFT_DOMAIN, SINGULAR = 0, 1, 2, 3
# A Jacobian is kept while steps by it win this factor; Broyden's updates keep it near.
_KEEP = 0.25
# Points of a curve that predict the next one.
_HISTORY = 7


@njit(**OPTIONS)
def _copy(a: Any, b: Any) -> None:
    """b = a."""
    for i in range(a.size):
        b[i] = a[i]


@njit(**OPTIONS)
def _scaled_residual(fx: Any, x: Any, reference: Any, rtol: Any, atol: Any) -> Any:
    """max |F - x|/(rtol |reference| + atol), and where; infinite where the map is not finite."""
    worst, where = 0.0, -1
    for i in range(x.size):
        r = abs(fx[i] - x[i]) / (rtol * abs(reference[i]) + atol)
        if not math.isfinite(r):
            return math.inf, i
        if r > worst:
            worst, where = r, i
    return worst, where


@njit(**OPTIONS)
def _inside(x: Any, lower: Any) -> Any:
    for i in range(x.size):  # noqa: SIM110 (kernels have no generator expressions)
        if not (x[i] > lower[i]):
            return False
    return True


@njit(**OPTIONS)
def _differences(fmap: Any, x: Any, p: Any, work: Any, lower: Any, jac: Any) -> None:
    """Fill `jac` with the Jacobian of x - F(x), by central differences."""
    n = x.size
    trial, plus, minus = np.empty(n), np.empty(n), np.empty(n)
    for j in range(n):
        h = 6e-6 * max(abs(x[j]), 1e-3)
        if x[j] - h <= lower[j]:
            h = 0.5 * (x[j] - lower[j])
        _copy(x, trial)
        trial[j] = x[j] + h
        fmap(trial, plus, p, work)
        trial[j] = x[j] - h
        fmap(trial, minus, p, work)
        for i in range(n):
            jac[i, j] = (1.0 if i == j else 0.0) - (plus[i] - minus[i]) / (2.0 * h)


@njit(**OPTIONS)
def _newton(
    fmap: Any, x: Any, p: Any, work: Any, rtol: Any, atol: Any, lower: Any, max_steps: Any, jac: Any, known: Any
) -> Any:
    """Newton's method on F(x) - x with central differences and a backtracking line search. Changes x in place.

    `jac` is the Jacobian of x - F(x), a guess of it on entry if `known`, and what is known of it on return.
    Returns (status, evaluations, steps, scaled residual, component of the largest residual).
    """
    n = x.size
    fx, trial, ftrial, step = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    factors, pivots = np.empty((n, n)), np.empty(n).view(np.int64)
    evaluations = 1
    fmap(x, fx, p, work)
    res, where = _scaled_residual(fx, x, x, rtol, atol)
    if not math.isfinite(res):
        return LEFT_DOMAIN, evaluations, 0, res, where
    stale = known
    iteration = 0
    while iteration < max_steps:
        if not stale:
            _differences(fmap, x, p, work, lower, jac)
            evaluations += 2 * n
        for i in range(n):
            step[i] = fx[i] - x[i]
            for j in range(n):
                factors[i, j] = jac[i, j]
        solvable = factorise(factors, 0, n, pivots)
        if solvable:
            solve_factored(factors, 0, n, pivots, step)
        # The step is cut where it would cross a bound (nine tenths of the way), then where the residual does not fall.
        length, size = 1.0, 0.0
        for i in range(n):
            solvable = solvable and math.isfinite(step[i])
            if x[i] + step[i] <= lower[i]:
                length = min(length, 0.9 * (lower[i] - x[i]) / step[i])
            size = max(size, abs(step[i]) / (rtol * abs(x[i]) + atol))
        if not solvable:
            if not stale:
                return SINGULAR, evaluations, iteration, res, where
            stale = False
            continue
        full = length == 1.0
        accepted = False
        res_trial, where_trial = res, where
        for _ in range(2 if stale else 12):
            for i in range(n):
                trial[i] = x[i] + length * step[i]
            fmap(trial, ftrial, p, work)
            evaluations += 1
            res_trial, where_trial = _scaled_residual(ftrial, trial, trial, rtol, atol)
            if math.isfinite(res_trial) and (res_trial < res or (res_trial <= 1.0 and size <= 1.0)):
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
        # Broyden: the least change, in relative units, that explains the residual found.
        total = 0.0
        for i in range(n):
            total += (trial[i] - x[i]) ** 2 / max(abs(x[i]), 1e-3) ** 2
        for i in range(n):
            change = (trial[i] - ftrial[i]) - (1.0 - length) * (x[i] - fx[i])
            for j in range(n):
                jac[i, j] += change * (trial[j] - x[j]) / (max(abs(x[j]), 1e-3) ** 2 * total) if total > 0.0 else 0.0
        _copy(trial, x)
        _copy(ftrial, fx)
        won = res_trial / res if res > 0.0 else 0.0
        stale = full and won < _KEEP
        res, where = res_trial, where_trial
        iteration += 1
        # The step measures the error before it; steps shrink as residuals do.
        if full and res <= 1.0 and size * min(10.0 * won, 1.0) <= 1.0:
            return CONVERGED, evaluations, iteration, res, where
    return MAX_ITERATIONS, evaluations, max_steps, res, where


@njit(**OPTIONS)
def _anderson(
    fmap: Any, x: Any, p: Any, work: Any, damping: Any, memory: Any, rtol: Any, atol: Any, goal: Any,
    max_iterations: Any, lower: Any,
) -> Any:  # fmt: skip
    """Anderson-accelerated iteration x <- x + damping (F(x) - x); memory = 0 is plain damped iteration.

    Stops when the scaled residual falls to `goal`. x becomes the best state seen. The damping is halved, and the memory
    forgotten, whenever the residual has grown twentyfold over the best (divergence) or has not fallen for 60 steps (a
    cycle). Returns (status, evaluations, scaled residual, component of the largest residual, damping).
    """
    n = x.size
    rows = max(memory, 1)
    fx, g, f_old, x_old, new = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    dx, df, scale = np.empty((rows, n)), np.empty((rows, n)), np.empty(n)
    gram, rhs, pivots = np.empty((rows, rows)), np.empty(rows), np.empty(rows).view(np.int64)
    count, stalled = 0, 0
    best, res_best, where_best, mark = np.empty(n), math.inf, -1, math.inf
    _copy(x, best)
    for iteration in range(max_iterations):
        fmap(x, fx, p, work)
        res, where = _scaled_residual(fx, x, x, rtol, atol)
        stalled += 1
        if res < res_best:
            if res < 0.99 * mark:
                mark, stalled = res, 0
            res_best, where_best = res, where
            _copy(x, best)
            if res <= goal:
                return CONVERGED, iteration + 1, res_best, where_best, damping
        # Measured on the scale of the best state: relative to itself, a state that runs away looks harmless.
        growth, _ = _scaled_residual(fx, x, best, rtol, atol)
        if not math.isfinite(growth) or growth > 20.0 * res_best or stalled > 60:
            stalled = 0
            if not math.isfinite(res_best):
                return LEFT_DOMAIN, iteration + 1, res, where, damping
            if damping < 1e-3:
                _copy(best, x)
                return MAX_ITERATIONS, iteration + 1, res_best, where_best, damping
            damping *= 0.5
            _copy(best, x)
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
        if used > 0:
            # Least squares min |g - dF gamma| in the scaled norm, by its normal equations with a small ridge.
            trace = 0.0
            for a in range(used):
                sa = (count - 1 - a) % memory
                rhs[a] = 0.0
                for i in range(n):
                    rhs[a] += df[sa, i] * g[i] * scale[i] ** 2
                for b in range(used):
                    sb = (count - 1 - b) % memory
                    gram[a, b] = 0.0
                    for i in range(n):
                        gram[a, b] += df[sa, i] * df[sb, i] * scale[i] ** 2
                trace += gram[a, a]
            for a in range(used):
                gram[a, a] += 1e-12 * trace
            if trace > 0.0 and factorise(gram, 0, used, pivots):
                solve_factored(gram, 0, used, pivots, rhs)
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
        _copy(new, x)
        count += 1
    _copy(best, x)
    return MAX_ITERATIONS, max_iterations, res_best, where_best, damping


@njit(**OPTIONS)
def _one(
    fmap: Any, x: Any, p: Any, work: Any, damping: Any, memory: Any, rtol: Any, atol: Any, lower: Any,
    max_iterations: Any, newton_steps: Any, warm: Any, jac: Any, known: Any,
) -> Any:  # fmt: skip
    """The whole strategy, see `fixedpoint.solve`: (status, evaluations, Newton steps, residual, where, damping)."""
    evaluations, newton_taken = 0, 0
    status, res, where = MAX_ITERATIONS, math.inf, -1
    start = np.empty(x.size)
    _copy(x, start)
    if warm and newton_steps > 0:
        status, ev, taken, res, where = _newton(fmap, x, p, work, rtol, atol, lower, newton_steps, jac, known)
        evaluations += ev
        newton_taken += taken
        if status == CONVERGED:
            return status, evaluations, newton_taken, res, where, damping
        _copy(start, x)
    # Iterate to a loose goal, hand over to Newton, and come back with a tighter goal if Newton did not take.
    goal = 1e-2 / rtol
    spent = 0
    while spent < max_iterations:
        wanted = goal if newton_steps > 0 else 1.0
        status, used, res, where, damping = _anderson(
            fmap, x, p, work, damping, memory, rtol, atol, wanted, max_iterations - spent, lower
        )
        spent += used
        evaluations += used
        if newton_steps == 0 or (status != CONVERGED and not math.isfinite(res)):
            return status, evaluations, newton_taken, res, where, damping
        _copy(x, start)
        st, ev, taken, res_n, where_n = _newton(fmap, x, p, work, rtol, atol, lower, newton_steps, jac, False)
        evaluations += ev
        newton_taken += taken
        if st == CONVERGED:
            return st, evaluations, newton_taken, res_n, where_n, damping
        _copy(start, x)
        if status != CONVERGED or goal <= 1.0:
            # The iteration itself has converged, or given up; Newton can refine no further than rounding allows.
            return status, evaluations, newton_taken, res, where, damping
        goal = max(1.0, goal * 1e-2)
    return status, evaluations, newton_taken, res, where, damping


@njit(**OPTIONS)
def _predict(states: Any, places: Any, row: Any, before: Any, lower: Any, x: Any) -> None:
    """Fill x with the state of `row`, extrapolated through up to `before` states before it (Neville's scheme).

    The degree rises while its correction is less than half of the last one.
    """
    n = x.size
    here = places[row]
    table = np.empty((_HISTORY, n))
    _copy(states[row - 1], x)
    last = math.inf
    for k in range(before):
        _copy(states[row - 1 - k], table[k])
    for degree in range(1, before):
        for k in range(before - degree):
            near, far = places[row - 1 - k], places[row - 1 - k - degree]
            t = (here - far) / (near - far)
            for i in range(n):
                table[k, i] = t * table[k, i] + (1.0 - t) * table[k + 1, i]
        change = 0.0
        for i in range(n):
            change += ((table[0, i] - x[i]) / max(abs(x[i]), 1e-3)) ** 2
        if not (change < 0.25 * last and _inside(table[0], lower)):
            return
        if degree == 1 and here - places[row - 1] > 3.0 * (places[row - 1] - places[row - 2]):
            return
        last = change
        _copy(table[0], x)


@njit(
    "void(i8, i8, f8[:, ::1], f8[:, ::1], f8[::1], f8, i8, f8, f8, f8[::1], i8, i8, b1, i8[::1], f8[::1], i8[::1],"
    "i8[::1], i8[::1], f8[::1])",
    wide=False,
    **OPTIONS,
)
def follow_kernel(
    c_address: Any, native_address: Any, states: Any, params: Any, work: Any, damping: Any, memory: Any, rtol: Any,
    atol: Any, lower: Any, max_iterations: Any, newton_steps: Any, warm: Any, statuses: Any, residuals: Any,
    evaluations: Any, newton: Any, wheres: Any, dampings: Any,
) -> None:  # fmt: skip
    """Fixed points along the rows of ``params``, each started from the prediction through those before it.

    ``states[0]`` is the first start; `warm` says whether it is close.
    """
    fmap = as_map(c_address, native_address)
    n = states.shape[1]
    x, jac, places = np.empty(n), np.empty((n, n)), np.empty(params.shape[0])
    _copy(states[0], x)
    good = 0
    fill(places, 0.0)
    for row in range(params.shape[0]):
        if row > 0:
            apart = 0.0
            for j in range(params.shape[1]):
                # Parameters that stay may be infinite.
                if params[row, j] != params[row - 1, j]:
                    apart += (params[row, j] - params[row - 1, j]) ** 2
            places[row] = places[row - 1] + math.sqrt(apart)
            if apart == 0.0:
                good = min(good, 1)
        if good > 0:
            _predict(states, places, row, min(good, _HISTORY), lower, x)
        status, ev, taken, res, where, used = _one(
            fmap, x, params[row], work, damping, memory, rtol, atol, lower, max_iterations, newton_steps,
            warm or row > 0, jac, good > 0,
        )  # fmt: skip
        good = good + 1 if status == CONVERGED and newton_steps > 0 else 0
        _copy(x, states[row])
        statuses[row], residuals[row], evaluations[row], newton[row] = status, res, ev, taken
        wheres[row], dampings[row] = where, used
