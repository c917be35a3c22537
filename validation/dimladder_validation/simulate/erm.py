"""Convex empirical risk minimisation by direct solvers, for the experiments: no theory, no approximation.

Objective (1/scale) sum_i loss(y_i, x_i.w + b) + (ridge/2)|w|^2 with an unpenalised bias. ``square`` is (y - u)^2/2,
``logistic`` log(1 + exp(-y u)), ``hinge`` max(0, 1 - y u).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dimladder.errors import SimulationError

Array = NDArray[np.float64]


def losses(loss: str, y: Array, u: Array) -> Array:
    """Elementwise loss."""
    if loss == "square":
        return 0.5 * (y - u) ** 2
    if loss == "logistic":
        return np.logaddexp(0.0, -y * u)
    return np.maximum(0.0, 1.0 - y * u)


def curvature(loss: str, y: Array, u: Array) -> Array:
    """Elementwise second derivative of a smooth loss in u."""
    if loss == "square":
        return np.ones_like(u)
    s = 1.0 / (1.0 + np.exp(np.clip(y * u, -700, 700)))
    return s * (1.0 - s)


def fit(loss: str, x: Array, y: Array, ridge: float, scale: float, bias: bool) -> tuple[Array, float]:
    """Return the minimiser (w, b).

    Parameters
    ----------
    loss : {"square", "logistic", "hinge"}
    x : array, shape (samples, d)
    y : array, shape (samples,)
    ridge : float
    scale : float
        Divisor of the sum of losses (d or the number of samples, by the convention of the problem).
    bias : bool

    Raises
    ------
    SimulationError
        When the solver stops before its optimality conditions hold to 1e-7.
    """
    if loss == "square":
        return _ridge(x, y, ridge * scale, bias)
    if loss == "logistic":
        return _logistic(x, y, ridge * scale, bias)
    return _hinge(x, y, ridge * scale, bias)


def _ridge(x: Array, y: Array, penalty: float, bias: bool) -> tuple[Array, float]:
    mean_x, mean_y = (x.mean(axis=0), float(y.mean())) if bias else (np.zeros(x.shape[1]), 0.0)
    centred = x - mean_x if bias else x
    target = y - mean_y
    samples, d = x.shape
    if samples < d:
        w = centred.T @ np.linalg.solve(centred @ centred.T + penalty * np.eye(samples), target)
    else:
        w = np.linalg.solve(centred.T @ centred + penalty * np.eye(d), centred.T @ target)
    return w, mean_y - float(mean_x @ w)


def _logistic(x: Array, y: Array, penalty: float, bias: bool) -> tuple[Array, float]:
    from scipy.optimize import minimize

    samples, d = x.shape

    def value(theta: Array) -> tuple[float, Array]:
        w, b = theta[:d], theta[d] if bias else 0.0
        margin = y * (x @ w + b)
        slope = -y * _expit(-margin)
        total = float(np.sum(np.logaddexp(0.0, -margin)) + 0.5 * penalty * (w @ w))
        gradient = x.T @ slope + penalty * w
        return total / samples, (np.append(gradient, slope.sum()) if bias else gradient) / samples

    start = np.zeros(d + int(bias))
    # L-BFGS stops at rounding in the value, near 1e-8 of the scale: a few Newton steps finish.
    result = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "maxcor": 30, "gtol": 1e-7, "ftol": 1e-16})
    theta = result.x
    size = float(np.abs(value(start)[1]).max())
    for _ in range(30):
        gradient = value(theta)[1]
        if np.abs(gradient).max() <= 1e-9 * size:
            return theta[:d], float(theta[d]) if bias else 0.0
        theta = theta - _newton_step(x, y, theta, gradient, penalty, bias)
    if np.abs(value(theta)[1]).max() > 1e-7 * size:
        raise SimulationError("the logistic fit did not converge", why=f"gradient {np.abs(value(theta)[1]).max():.2g}")
    return theta[:d], float(theta[d]) if bias else 0.0


def _newton_step(x: Array, y: Array, theta: Array, gradient: Array, penalty: float, bias: bool) -> Array:
    samples, d = x.shape
    u = x @ theta[:d] + (theta[d] if bias else 0.0)
    weight = curvature("logistic", y, u)
    full = np.column_stack([x, np.ones(samples)]) if bias else x
    hessian = (full.T * weight) @ full
    hessian[np.arange(d), np.arange(d)] += penalty
    if bias:
        hessian[d, d] += 1e-12
    return np.linalg.solve(hessian / samples, gradient)


def _expit(t: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * t))


def _hinge(x: Array, y: Array, penalty: float, bias: bool) -> tuple[Array, float]:
    """Primal-dual interior point (Mehrotra) on the dual: min a.Ka/2 - 1.a, 0 <= a <= 1, y.a = 0, w = sum a y x/penalty."""
    samples, d = x.shape
    z = (y[:, None] * x) / np.sqrt(penalty)
    wide = samples <= d
    kernel = z @ z.T if wide else None
    a = np.full(samples, 0.5)
    # The slack 1 - a is a variable of its own: the difference would lose the digits of a that lie close to 1.
    slack, low, high = np.full(samples, 0.5), np.ones(samples), np.ones(samples)
    b = 0.0
    yb = y if bias else np.zeros(samples)

    def times(v: Array) -> Array:
        return kernel @ v if kernel is not None else z @ (z.T @ v)

    for _ in range(200):
        dual = times(a) - 1.0 + b * yb - low + high
        gap = float(a @ low + slack @ high) / (2 * samples)
        balance = float(yb @ a)
        if gap < 1e-10 and np.abs(dual).max() < 1e-7 and abs(balance) < 1e-8 * samples:
            break
        diagonal = low / a + high / slack
        if wide:
            factor = np.linalg.cholesky(kernel + np.diag(diagonal))

            def solve(r: Array, factor: Array = factor) -> Array:
                from scipy.linalg import cho_solve

                return cho_solve((factor, True), r)
        else:
            inner = np.linalg.cholesky(np.eye(d) + (z.T / diagonal) @ z)

            def solve(r: Array, inner: Array = inner, diagonal: Array = diagonal) -> Array:
                from scipy.linalg import cho_solve

                scaled = r / diagonal
                return scaled - (z @ cho_solve((inner, True), z.T @ scaled)) / diagonal

        base = solve(yb) if bias else yb

        def direction(mu_low: Array, mu_high: Array, solve=solve, base=base, dual=dual, balance=balance, slack=slack):  # type: ignore[no-untyped-def]
            # mu_low, mu_high: targets of a*low and slack*high minus their present values
            rhs = -dual + mu_low / a - mu_high / slack
            free = solve(rhs)
            db = (float(yb @ free) + balance) / float(yb @ base) if bias else 0.0
            da = free - db * base
            return da, db, (mu_low - low * da) / a, (mu_high + high * da) / slack

        def longest(da: Array, dl: Array, dh: Array, slack: Array = slack) -> float:
            bounds = [1.0]
            for value, change in ((a, da), (slack, -da), (low, dl), (high, dh)):
                falling = change < 0
                if falling.any():
                    bounds.append(float(np.min(-value[falling] / change[falling])))
            return min(bounds)

        da, db, dl, dh = direction(-a * low, -slack * high)
        step = longest(da, dl, dh)
        ahead = float((a + step * da) @ (low + step * dl) + (slack - step * da) @ (high + step * dh)) / (2 * samples)
        centring = (ahead / gap) ** 3 * gap
        da, db, dl, dh = direction(centring - a * low - da * dl, centring - slack * high + da * dh)
        step = min(1.0, 0.995 * longest(da, dl, dh))
        a, b, slack = a + step * da, b + step * db, slack - step * da
        low, high = low + step * dl, high + step * dh
    else:
        raise SimulationError("the hinge fit did not converge", why=f"duality gap {gap:.2g}")
    w = (z.T @ a) / np.sqrt(penalty)
    return w, float(b) if bias else 0.0
