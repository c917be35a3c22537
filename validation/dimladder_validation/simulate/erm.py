"""Convex empirical risk minimisation by direct solvers, for the experiments: no theory, no approximation.

Objective (1/scale) sum_i loss(y_i, x_i.w + b) + (ridge/2)|w|^2 with an unpenalised bias. ``square`` is (y - u)^2/2,
``logistic`` log(1 + exp(-y u)), ``hinge`` max(0, 1 - y u).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    if loss == "hinge":
        return np.maximum(0.0, 1.0 - y * u)
    raise _unknown(loss)


def _unknown(loss: str) -> SimulationError:
    return SimulationError(f"no direct solver for the loss {loss!r}", hint="it has square, logistic and hinge")


def curvature(loss: str, y: Array, u: Array) -> Array:
    """Elementwise second derivative of a smooth loss in u."""
    if loss == "square":
        return np.ones_like(u)
    if loss != "logistic":
        raise _unknown(loss)
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
    if loss == "hinge":
        return _hinge(x, y, ridge * scale, bias)
    raise _unknown(loss)


def fit_multiclass(loss: str, x: Array, labels: Any, classes: int, penalty: float, bias: bool) -> tuple[Array, Array]:
    """Return W (classes, d) and b for ``one-hot`` (square) or ``cross-entropy`` loss: sum of losses + (penalty/2)|W|^2.

    Raises
    ------
    SimulationError
        When the gradient does not fall to 1e-5 of its start.
    """
    from scipy.optimize import minimize

    hot = np.eye(classes)[labels]
    samples, d = x.shape
    if loss == "one-hot":
        columns = [_ridge(x, hot[:, c], penalty, bias) for c in range(classes)]
        return np.array([w for w, _ in columns]), np.array([b for _, b in columns])

    def value(theta: Array) -> tuple[float, Array]:
        w = theta[: classes * d].reshape(classes, d)
        b = theta[classes * d :] if bias else np.zeros(classes)
        u = x @ w.T + b
        top = u.max(axis=1, keepdims=True)
        e = np.exp(u - top)
        total = e.sum(axis=1, keepdims=True)
        gap = e / total - hot
        cost = float(np.sum(top[:, 0] + np.log(total[:, 0]) - np.sum(u * hot, axis=1)) + 0.5 * penalty * np.sum(w * w))
        gradient = gap.T @ x + penalty * w
        parts = [gradient.ravel(), gap.sum(axis=0)] if bias else [gradient.ravel()]
        return cost / samples, np.concatenate(parts) / samples

    start = np.zeros(classes * d + (classes if bias else 0))
    result = minimize(
        value,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 10_000, "maxcor": 30, "gtol": 1e-9, "ftol": 1e-16},
    )
    if np.abs(result.jac).max() > 1e-5 * np.abs(value(start)[1]).max():
        raise SimulationError("the multi-class fit did not converge", why=f"gradient {np.abs(result.jac).max():.2g}")
    w = result.x[: classes * d].reshape(classes, d)
    b = result.x[classes * d :] if bias else np.zeros(classes)
    return w, b - b.mean()


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
    result = minimize(
        value, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "maxcor": 30, "gtol": 1e-7, "ftol": 1e-16}
    )
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
    """Primal-dual interior point (Mehrotra) on the dual: min a.Ka/2 - 1.a, 0 <= a <= 1, y.a = 0, w = sum a y
    x/penalty."""
    samples = x.shape[0]
    z = (y[:, None] * x) / np.sqrt(penalty)
    kernel = z @ z.T if samples <= x.shape[1] else None
    sign = y if bias else np.zeros(samples)
    # The slack 1 - a is a variable of its own: the difference would lose the digits of a that lie close to 1.
    point = _Point(np.full(samples, 0.5), np.full(samples, 0.5), np.ones(samples), np.ones(samples), 0.0)
    gap = np.inf
    for _ in range(200):
        times = kernel @ point.a if kernel is not None else z @ (z.T @ point.a)
        dual = times - 1.0 + point.b * sign - point.low + point.high
        gap, balance = point.gap(), float(sign @ point.a)
        if gap < 1e-10 and np.abs(dual).max() < 1e-7 and abs(balance) < 1e-8 * samples:
            return (z.T @ point.a) / np.sqrt(penalty), float(point.b) if bias else 0.0
        solve = _factor(z, kernel, point.low / point.a + point.high / point.slack)
        base = solve(sign) if bias else sign
        newton = _Newton(solve, base, sign, dual, balance, bias)
        # Predictor without centring, corrector with the centring it suggests and its second-order terms.
        first = newton.direction(point, -point.a * point.low, -point.slack * point.high)
        centring = (point.moved(first, point.longest(first)).gap() / gap) ** 3 * gap
        second = newton.direction(
            point,
            centring - point.a * point.low - first.a * first.low,
            centring - point.slack * point.high + first.a * first.high,
        )
        point = point.moved(second, min(1.0, 0.995 * point.longest(second)))
    raise SimulationError("the hinge fit did not converge", why=f"duality gap {gap:.2g}")


@dataclass(frozen=True)
class _Point:
    """Dual variables a and 1 - a, their multipliers, and the bias; also a direction in their space."""

    a: Array
    slack: Array
    low: Array
    high: Array
    b: float

    def gap(self) -> float:
        return float(self.a @ self.low + self.slack @ self.high) / (2 * self.a.size)

    def moved(self, step: _Point, length: float) -> _Point:
        return _Point(
            self.a + length * step.a,
            self.slack + length * step.slack,
            self.low + length * step.low,
            self.high + length * step.high,
            self.b + length * step.b,
        )

    def longest(self, step: _Point) -> float:
        """Longest step, at most 1, that keeps every variable positive."""
        length = 1.0
        for value, change in ((self.a, step.a), (self.slack, step.slack), (self.low, step.low), (self.high, step.high)):
            falling = change < 0
            if falling.any():
                length = min(length, float(np.min(-value[falling] / change[falling])))
        return length


@dataclass(frozen=True)
class _Newton:
    solve: Callable[[Array], Array]
    base: Array
    sign: Array
    dual: Array
    balance: float
    bias: bool

    def direction(self, point: _Point, low_target: Array, high_target: Array) -> _Point:
        """Newton direction towards a * low and slack * high changed by the targets."""
        free = self.solve(-self.dual + low_target / point.a - high_target / point.slack)
        db = (float(self.sign @ free) + self.balance) / float(self.sign @ self.base) if self.bias else 0.0
        da = free - db * self.base
        return _Point(
            da, -da, (low_target - point.low * da) / point.a, (high_target + point.high * da) / point.slack, db
        )


def _factor(z: Array, kernel: Array | None, diagonal: Array) -> Callable[[Array], Array]:
    """Solver of (z z^T + diagonal) in the smaller of the two spaces."""
    from scipy.linalg import cho_factor, cho_solve

    if kernel is not None:
        whole = cho_factor(kernel + np.diag(diagonal))
        return lambda r: np.asarray(cho_solve(whole, r))
    inner = cho_factor(np.eye(z.shape[1]) + (z.T / diagonal) @ z)

    def solve(r: Array) -> Array:
        scaled = r / diagonal
        return np.asarray(scaled - (z @ cho_solve(inner, z.T @ scaled)) / diagonal)

    return solve
