"""Minimisers of sum_i l(f_i, y_i) + (ridge/2)|w|^2 for any convex loss, each with a certificate of optimality.

Losses with a continuous slope go by Newton's method; others by the augmented Lagrangian of f = A w, its inner problems
solved by a semismooth Newton method. With s_i a subgradient of the loss at z_i, sum_i [l(z_i) - s_i z_i] -
|A^T s|^2/(2 ridge) bounds the minimum from below: the distance to it, and |w - w*|^2 <= 2 gap/ridge, are known whatever
the method did. Penalties other than l2 (smooth losses only) go by accelerated proximal gradient steps, certified by the
residual of their fixed point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimladder.errors import SimulationError

Array = NDArray[np.float64]
# Relative duality gap at which a fit is finished: |w - w*|^2 is then 1e-8 of |w|^2 or so.
GAP = 1e-9
# Of the augmented Lagrangian.
LARGEST_SIGMA, STEPS = 1e3, 200


@dataclass(frozen=True)
class Fit:
    """A minimiser.

    Attributes
    ----------
    w : ndarray, shape (k,)
    b : float
        Constant (0 unless fitted).
    gap : float
        Objective minus a lower bound of the minimum, over the objective.
    s : ndarray, shape (n,)
        Subgradients of the losses: a start for a neighbouring ridge.
    """

    w: Array
    b: float
    gap: float
    s: Array


def proximal_point(loss: Any, y: Array, u: Array, v: float) -> Array:
    """argmin_z l(z, y) + (z - u)^2/(2 v), elementwise: bisection on the increasing function z - u + v l'(z)."""
    with np.errstate(over="ignore", invalid="ignore"):
        step = np.maximum(v * np.abs(np.nan_to_num(loss.slopes(u, y), posinf=1e6, neginf=-1e6)), 1e-12)
    low, high = u - 1.0001 * step - 1e-12, u + 1.0001 * step + 1e-12
    for _ in range(200):
        middle = 0.5 * (low + high)
        with np.errstate(over="ignore", invalid="ignore"):
            gap = middle - u + v * loss.slopes(middle, y)
        up = gap > 0.0
        high, low = np.where(up, middle, high), np.where(up, low, middle)
        if np.all(high - low <= 4e-16 * (1.0 + np.abs(middle))):
            break
    return 0.5 * (low + high)


def minimise(
    loss: Any, a: Array, y: Array, ridge: float, bias: bool = False, near: Fit | None = None, gap: float = GAP
) -> Fit:
    """Minimise sum_i l(a_i.w + b, y_i) + (ridge/2)|w|^2.

    Parameters
    ----------
    loss : LossFunction
        Convex, of one output.
    a : array, shape (n, k)
    y : array, shape (n,)
    ridge : float
        Positive.
    bias : bool
        Whether an unpenalised b is fitted.
    near : Fit, optional
        The fit at a neighbouring ridge.
    gap : float
        Relative duality gap to reach.

    Raises
    ------
    SimulationError
        When it is not reached.
    """
    n, k = a.shape
    w = np.zeros(k) if near is None else near.w.copy()
    b = 0.0 if near is None else near.b
    s = np.zeros(n) if near is None else near.s.copy()
    smooth = continuous_slope(loss, y)
    # The curvature of the penalty term on f = A w + b: of the order of the loss's own.
    sigma = 1.0
    best: Fit | None = None
    last, largest = np.inf, LARGEST_SIGMA
    for _ in range(STEPS):
        if smooth:
            w, b = _primal(loss, a, y, ridge, bias, w, b)
            z = a @ w + b
            s = loss.slopes(z, y)
        else:
            w, b, z, s = _inner(loss, a, y, ridge, bias, w, b, s, sigma)
        u = a @ w + b
        value = float(np.sum(loss.evaluate(np, u, y))) + 0.5 * ridge * float(w @ w)
        # With a bias the multipliers must sum to zero; what is left is moved to the nearest feasible ones by scaling.
        dual = float(np.sum(loss.evaluate(np, z, y) - s * z)) - 0.5 * float(np.sum((a.T @ s) ** 2)) / ridge
        slack = abs(float(s.sum())) * (1.0 + abs(b)) if bias else 0.0
        relative = (value - dual + slack) / (abs(value) + 1e-300)
        if best is None or relative < best.gap:
            best = Fit(w, b, relative, s)
        if relative <= gap:
            return best
        if smooth:
            break
        # Multipliers are sigma times differences of outputs: a larger sigma converges faster, to fewer digits. One that
        # took digits away is taken back, from the best fit so far.
        if relative > 10.0 * best.gap and sigma > 1.0:
            largest = sigma = sigma / 5.0
            w, b, s = best.w, best.b, best.s
        elif relative > 0.5 * last and sigma < largest:
            sigma *= 5.0
        last = relative
    assert best is not None
    raise SimulationError(
        "a fit did not converge", where=f"{n} samples, {k} weights, ridge {ridge:g}",
        why=f"relative duality gap {best.gap:.2g}, wanted {gap:g}", hint="raise loss.ridge",
    )  # fmt: skip


def continuous_slope(loss: Any, y: Array) -> bool:
    """Whether the loss has no jumps of its slope for labels like these."""
    for label in (float(y.min()), float(y.max()), float(np.median(y))):
        for kink in loss.kinks(label):
            at = np.array([kink - 1e-7, kink + 1e-7])
            if np.ptp(loss.slopes(at, np.full(2, label))) > 1e-4:
                return False
    return True


def _primal(loss: Any, a: Array, y: Array, ridge: float, bias: bool, w: Array, b: float) -> tuple[Array, float]:
    """Newton's method on the objective itself, with halved steps, for losses of continuous slope."""

    def objective(w: Array, b: float) -> float:
        return float(np.sum(loss.evaluate(np, a @ w + b, y))) + 0.5 * ridge * float(w @ w)

    value = objective(w, b)
    for _ in range(200):
        u = a @ w + b
        s = loss.slopes(u, y)
        gradient, total = a.T @ s + ridge * w, float(s.sum()) if bias else 0.0
        if np.sqrt(gradient @ gradient + total**2) <= 1e-12 * (np.linalg.norm(a.T @ s) + 1e-300):
            break
        weight = np.maximum(loss.curvatures(u, y), 0.0)
        dw, db = _newton(a, weight, ridge, gradient, total, bias)
        descent = float(gradient @ dw) + total * db
        length = 1.0
        while True:
            trial = objective(w + length * dw, b + length * db)
            if trial <= value + 1e-4 * length * descent + 1e-14 * abs(value) or length < 1e-12:
                break
            length *= 0.5
        w, b = w + length * dw, b + length * db
        if abs(descent) <= 1e-18 * abs(value):
            break
        value = trial
    return w, b


def _inner(
    loss: Any, a: Array, y: Array, ridge: float, bias: bool, w: Array, b: float, s: Array, sigma: float
) -> tuple[Array, float, Array, Array]:
    """Minimise over (w, b) sum_i min_z [l(z) + s_i (u_i - z) + sigma (u_i - z)^2/2] + (ridge/2)|w|^2.

    Returns w, b, z and the new multipliers sigma (u + s/sigma - z), which are subgradients of the loss at z.
    """

    def parts(w: Array, b: float) -> tuple[Array, Array, float]:
        shifted = a @ w + b + s / sigma
        z = proximal_point(loss, y, shifted, 1.0 / sigma)
        value = float(np.sum(loss.evaluate(np, z, y) + 0.5 * sigma * (shifted - z) ** 2)) + 0.5 * ridge * float(w @ w)
        return shifted, z, value

    shifted, z, value = parts(w, b)
    for _ in range(50):
        force = sigma * (shifted - z)
        gradient = a.T @ force + ridge * w
        total = float(force.sum()) if bias else 0.0
        size = 1.0 + np.linalg.norm(a.T @ force) + np.linalg.norm(force)
        if np.sqrt(gradient @ gradient + total**2) <= 1e-11 * size:
            break
        # d prox/d shifted by differences: exact for the piecewise linear ones, and at a kink 0.
        h = 1e-6 * (1.0 + np.abs(shifted))
        slope = (
            proximal_point(loss, y, shifted + h, 1.0 / sigma) - proximal_point(loss, y, shifted - h, 1.0 / sigma)
        ) / (2 * h)
        weight = sigma * np.clip(1.0 - slope, 0.0, 1.0)
        dw, db = _newton(a, weight, ridge, gradient, total, bias)
        descent = float(gradient @ dw) + total * db
        length = 1.0
        while True:
            trial = parts(w + length * dw, b + length * db)
            if trial[2] <= value + 1e-4 * length * descent + 1e-14 * abs(value) or length < 1e-10:
                break
            length *= 0.5
        w, b = w + length * dw, b + length * db
        done = abs(value - trial[2]) <= 1e-15 * abs(value) and length == 1.0
        shifted, z, value = trial
        if done or length < 1e-10:
            break
    return w, b, z, sigma * (shifted - z)


def _newton(a: Array, weight: Array, ridge: float, gradient: Array, total: float, bias: bool) -> tuple[Array, float]:
    """Solve (A^T D A + ridge) dw = -gradient, with the bias bordered."""
    from scipy.linalg import cho_factor, cho_solve

    n, k = a.shape
    root = np.sqrt(weight)
    half = a * root[:, None]
    if n < k:
        inner = cho_factor(half @ half.T + ridge * np.eye(n))

        def solve(v: Array) -> Array:
            return np.asarray((v - half.T @ cho_solve(inner, half @ v)) / ridge)
    else:
        outer = cho_factor(half.T @ half + ridge * np.eye(k))

        def solve(v: Array) -> Array:
            return np.asarray(cho_solve(outer, v))

    if not bias:
        return -solve(gradient), 0.0
    column = a.T @ weight
    first, second = solve(gradient), solve(column)
    schur = float(weight.sum() - column @ second) + 1e-12
    db = -(total - float(column @ first)) / schur
    return -first - second * db, db


def ridge_slope(loss: Any, a: Array, y: Array, ridge: float, fit: Fit) -> Array:
    """dw/d ridge along the minimiser of a loss with a continuous slope: -(A^T l'' A + ridge)^{-1} w."""
    weight = np.maximum(loss.curvatures(a @ fit.w + fit.b, y), 0.0)
    return _newton(a, weight, ridge, fit.w, 0.0, False)[0]


def minimise_penalty(loss: Any, penalty: Any, a: Array, y: Array, strength: float, bias: bool = False) -> Fit:
    """Minimise sum_i l(a_i.w + b, y_i) + strength sum_j r(w_j) for a smooth loss, by accelerated proximal steps.

    `penalty` has `.slopes(w, 0)` like a loss, and leaves b free; it stops when a step moves w by 1e-9 of its length.

    Raises
    ------
    SimulationError
        When it does not within 50 000 steps, or for a loss whose slope jumps.
    """
    if not continuous_slope(loss, y):
        raise SimulationError(
            "a penalised fit is simulated for losses of continuous slope", where=f"loss.function = {loss.name!r}",
            why="the slope of this one jumps", hint='penalty = "l2", or a smooth loss',
        )  # fmt: skip
    n, k = a.shape
    scale = 1.0 / math.sqrt(k)
    if bias:
        # Scaled to the columns of inputs: one long column would make every step short.
        a = np.column_stack([a, np.full(n, scale)])
    probe = np.linspace(-20, 20, 4001)
    bound = max(float(np.max(loss.curvatures(probe, np.full(probe.size, v)))) for v in (-1.0, 0.0, 1.0))
    lipschitz = bound * float(np.linalg.norm(a, 2) ** 2)
    w = v = np.zeros(a.shape[1])
    momentum = 1.0
    zero = np.zeros(k)
    for _ in range(50_000):
        new = v - a.T @ loss.slopes(a @ v, y) / lipschitz
        new[:k] = proximal_point(penalty, zero, new[:k], strength / lipschitz)
        if float((v - new) @ (new - w)) > 0.0:
            momentum = 1.0
        grown = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
        moved = np.linalg.norm(new - v)
        v = new + (momentum - 1.0) / grown * (new - w)
        w, momentum = new, grown
        if moved <= 1e-9 * (np.linalg.norm(w) + 1e-12):
            return Fit(w[:k], scale * float(w[k]) if bias else 0.0, float(moved), np.zeros(n))
    raise SimulationError("a penalised fit did not converge", where=f"{n} samples, {k} weights, strength {strength:g}")


def golden_ridge(value: Callable[[float], float], start: float, fitted: Callable[[float], Fit]) -> tuple[float, Fit]:
    """Minimise value(log ridge) to 1e-2, within a factor e^9 of the start: return the ridge and its fit."""
    from scipy.optimize import minimize_scalar

    bounds = (start - 9.0, start + 9.0)
    found = minimize_scalar(value, bounds=bounds, method="bounded", options={"xatol": 1e-2, "maxiter": 40})
    return math.exp(float(found.x)), fitted(float(found.x))


@dataclass(frozen=True)
class ClassesFit:
    """A minimiser with one output a class.

    Attributes
    ----------
    w : ndarray, shape (classes, k)
    b : ndarray, shape (classes,)
    loss : float
        Mean loss of the samples.
    gap : float
        Objective minus a lower bound of the minimum, over the objective.
    """

    w: Array
    b: Array
    loss: float
    gap: float


def minimise_classes(name: str, x: Array, labels: Any, classes: int, ridge: float, bias: bool) -> ClassesFit:
    """Minimise sum_i l(W x_i + b, y_i) + (ridge/2)|W|^2 for the ``cross-entropy`` or ``one-hot`` (square) loss.

    Raises
    ------
    SimulationError
        When the relative duality gap does not fall to 1e-6.
    """
    hot = np.eye(classes)[labels]
    w, b = _one_hot(x, hot, ridge, bias) if name == "one-hot" else _softmax(x, hot, ridge, bias)
    u = x @ w.T + b
    if name == "one-hot":
        s = u - hot
        per = 0.5 * np.sum(s * s, axis=1)
    else:
        top = u.max(axis=1, keepdims=True)
        log_total = np.log(np.exp(u - top).sum(axis=1, keepdims=True)) + top
        s = np.exp(u - log_total) - hot
        per = log_total[:, 0] - np.sum(u * hot, axis=1)
    value = float(per.sum()) + 0.5 * ridge * float(np.sum(w * w))
    # As in `minimise`: s_i subgradients at u_i; with a bias they must sum to zero.
    dual = float(per.sum() - np.sum(s * u)) - 0.5 * float(np.sum((s.T @ x) ** 2)) / ridge
    slack = float(np.abs(s.sum(axis=0)) @ (1.0 + np.abs(b))) if bias else 0.0
    gap = (value - dual + slack) / (abs(value) + 1e-300)
    if not gap <= 1e-6:
        raise SimulationError(
            "a multi-class fit did not converge", where=f"{x.shape[0]} samples, {x.shape[1]} inputs, ridge {ridge:g}",
            why=f"relative duality gap {gap:.2g}", hint="raise loss.ridge",
        )  # fmt: skip
    return ClassesFit(w, b, float(per.mean()), gap)


def _one_hot(x: Array, hot: Array, ridge: float, bias: bool) -> tuple[Array, Array]:
    """Ridge regression of every column of the labels."""
    mean_x, mean_y = (x.mean(axis=0), hot.mean(axis=0)) if bias else (np.zeros(x.shape[1]), np.zeros(hot.shape[1]))
    centred, target = x - mean_x, hot - mean_y
    samples, d = x.shape
    if samples < d:
        w = centred.T @ np.linalg.solve(centred @ centred.T + ridge * np.eye(samples), target)
    else:
        w = np.linalg.solve(centred.T @ centred + ridge * np.eye(d), centred.T @ target)
    return w.T, mean_y - w.T @ mean_x


def _softmax(x: Array, hot: Array, ridge: float, bias: bool) -> tuple[Array, Array]:
    from scipy.optimize import minimize

    (samples, d), classes = x.shape, hot.shape[1]

    def value(theta: Array) -> tuple[float, Array]:
        w = theta[: classes * d].reshape(classes, d)
        b = theta[classes * d :] if bias else np.zeros(classes)
        u = x @ w.T + b
        top = u.max(axis=1, keepdims=True)
        e = np.exp(u - top)
        total = e.sum(axis=1, keepdims=True)
        gap = e / total - hot
        cost = float(np.sum(top[:, 0] + np.log(total[:, 0]) - np.sum(u * hot, axis=1)) + 0.5 * ridge * np.sum(w * w))
        gradient = gap.T @ x + ridge * w
        parts = [gradient.ravel(), gap.sum(axis=0)] if bias else [gradient.ravel()]
        return cost / samples, np.concatenate(parts) / samples

    start = np.zeros(classes * d + (classes if bias else 0))
    options = {"maxiter": 10_000, "maxcor": 30, "gtol": 1e-10, "ftol": 1e-16}
    theta = minimize(value, start, jac=True, method="L-BFGS-B", options=options).x
    w = theta[: classes * d].reshape(classes, d)
    b = theta[classes * d :] if bias else np.zeros(classes)
    return w, b - b.mean()
