"""Linear student, square loss: the two-time equations close on second moments, and nothing is sampled.

For ``f = lam`` the residual on a sample is linear in its history, ``e(t) = e0(t) + sum_{s<t} R_w(t,s) s(s) e(s)``,
where ``e0 = r - y`` enters by its second moments and the masks s(.) are independent of it. With

    q(t,s) = P(in batch s | in batch t),   S(t,s) = cov(e0(t), e0(s)),
    U(s,t) = <e(s) e0(t)>_s,   V(t,s) = <e(t) e(s)>_{t,s},   D(t,s) = <de(t)/dr(s)>_t     (< >_t: given a place in t)

one has ``D = (1 - q R_w)^-1``, ``U = (1 - q R_w)^-1 S`` and a recursion for V, hence ``Cu(t,s) = b q(t,s) V(t,s)`` and
``R_u = b D``. A label that is any function of the target fields enters by its regression on them: what is left over is
noise to a linear student.

Full batches are also integrals over the Marchenko-Pastur law, which is how the gradient flow is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...numerics.random_matrix import marchenko_pastur_nodes
from ...problem.descent import Descent
from .update import advance

Array = NDArray[np.float64]
SPECTRAL_NODES = 4000


@dataclass(frozen=True)
class Regression:
    """Second moments of a label y.

    Attributes
    ----------
    coefficients : (M,) array
        beta, the regression of y on the target fields.
    label_square, clean_square : float
        E y^2 with and without the label noise.
    """

    coefficients: Array
    label_square: float
    clean_square: float


@dataclass(frozen=True)
class LinearCurves:
    """Order parameters of a linear student at t = 0..T; kernels over updates 0..T-1.

    Attributes
    ----------
    train_loss : (T + 1,) array
    overlaps : (T + 1, M) array
        w.w*/d.
    history : (T + 1, T + 1) array
        C(t,s) = w(t).w(s)/d.
    weight_response, gradient_response, gradient_correlation : (T + 1, T), (T, T) and (T, T) arrays, or None
        R_w(t,s), R_u(t,s) and Cu(t,s).
    """

    train_loss: Array
    overlaps: Array
    history: Array
    weight_response: Array | None = None
    gradient_response: Array | None = None
    gradient_correlation: Array | None = None

    def test_square(self, label: Regression, square: float) -> Array:
        """Return E (y' - f)^2 for a label y' of the given second moment and the regression of `label`."""
        return square - 2.0 * self.overlaps @ label.coefficients + np.diag(self.history)


def batch_law(descent: Descent, times: int) -> tuple[Array, float]:
    """Return q(t,s), 1 on its diagonal, and the number c with P(in s' | in t and in s) = q(t,s') q(s,s')/c.

    The latter for three different times.
    """
    b, t = descent.batch_fraction, np.arange(times)
    if descent.full:
        return np.ones((times, times)), 1.0
    if descent.batching == "fresh":
        q, norm = np.full((times, times), b), b
    elif descent.batching == "epoch":
        epoch = t // descent.batches
        q, norm = np.where(epoch[:, None] == epoch, 0.0, b), b
    else:
        slot = t % descent.batches
        q, norm = (slot[:, None] == slot).astype(float), 1.0
    np.fill_diagonal(q, 1.0)
    return q, norm


def solve_linear(descent: Descent, label: Regression) -> LinearCurves:
    """Return the order parameters of gradient descent with any batches, in O(T^3) operations.

    Parameters
    ----------
    descent : Descent
        One student, inputs of one variance, fixed readout.
    label : Regression
    """
    from scipy.linalg import solve_triangular

    steps, b, alpha = descent.steps, descent.batch_fraction, descent.sample_ratio
    gram, start = descent.target_gram[0], descent.start_overlap[0, 0]
    beta = label.coefficients
    # Rows of w(t) and of the velocity on (target direction, w(0), noise of each gradient, Langevin noises).
    basis = 2 + steps * (1 + (descent.temperature > 0))
    rows, velocity = np.zeros((steps + 1, basis)), np.zeros(basis)
    rows[0, 1] = 1.0
    inner = np.eye(basis)
    inner[: steps + 2, : steps + 2] = 0.0
    inner[:2, :2] = [[beta @ gram @ beta, beta @ start], [beta @ start, descent.start_gram[0, 0, 0]]]
    q, norm = batch_law(descent, steps + 1)
    kernel, weak = np.zeros((steps + 1, steps + 1)), np.zeros((steps + 1, steps))
    moments, response, noise = np.zeros((steps + 1,) * 2), np.zeros((steps,) * 2), np.zeros((steps,) * 2)
    history, train = np.zeros((steps + 1,) * 2), np.zeros(steps + 1)
    for t in range(steps + 1):
        past = slice(0, t)
        history[t, : t + 1] = history[: t + 1, t] = rows[: t + 1] @ (inner @ rows[t])
        weak[t, past] = rows[t, 2 : 2 + t]
        kernel[t, past] = q[t, past] * weak[t, past]
        reach = rows[: t + 1] @ inner[:, 0]
        initial = history[t, : t + 1] - reach - reach[t] + label.label_square
        # Every sample, in the batch or not: masks weigh the past only.
        lower = np.eye(t + 1) - kernel[: t + 1, : t + 1]
        lower[t, past] = 0.0
        with_start = solve_triangular(lower, initial, lower=True, unit_diagonal=True, check_finite=False)
        free = weak[t, past]
        train[t] = 0.5 * (initial[t] + 2.0 * b * free @ with_start[past] + free @ noise[past, past] @ free)
        if t == steps:
            break
        # Samples of this batch.
        given = kernel[t, past]
        pair = q[past, past] / norm
        np.fill_diagonal(pair, 0.0)
        weights = pair * moments[past, past]
        now = with_start[past] + weights.T @ given + free * np.diag(moments)[past]
        now = np.where(q[t, past] > 0, now, 0.0)
        square = initial[t] + 2.0 * given @ with_start[past] + given @ weights @ given
        square += given @ (np.diag(moments)[past] * free)
        moments[t, past] = moments[past, t] = now
        moments[t, t] = square
        noise[t, past] = noise[past, t] = b * q[t, past] * now
        noise[t, t] = b * square
        inner[2 + t, 2 : 3 + t] = inner[2 : 3 + t, 2 + t] = alpha * noise[t, : t + 1]
        upper, last = (np.eye(t + 1) - kernel[: t + 1, : t + 1]).T, np.eye(t + 1)[t]
        response[t, : t + 1] = b * solve_triangular(upper, last, unit_diagonal=True, check_finite=False)
        shake = descent.noise[t] * (np.arange(basis) == 2 + steps + t)
        pull = alpha * response[t, : t + 1] @ rows[: t + 1]
        pull[0] -= alpha * response[t, : t + 1].sum()
        pull[2 + t] += 1.0
        rows[t + 1], velocity = advance(
            rows[t], velocity, pull / (alpha * b), descent.rates[t], descent.ridge, descent.momentum, shake
        )
    overlaps = rows[:, [1]] * start + rows[:, [0]] * (gram @ beta)
    return LinearCurves(train, overlaps, history, weak, response, noise)


def solve_flow(descent: Descent, label: Regression, times: Array, *, nodes: int = SPECTRAL_NODES) -> LinearCurves:
    """Return the order parameters of gradient flow on all samples, from the spectrum of the sample covariance.

    Parameters
    ----------
    descent : Descent
        One student, full batch, no momentum; its rates are not used.
    label : Regression
    times : array
        Sums of learning rates.
    nodes : int
        Nodes of the Marchenko-Pastur integrals.
    """
    x, _ = marchenko_pastur_nodes(1.0 / descent.sample_ratio, nodes)
    return _spectral(descent, label, np.exp(-np.multiply.outer(times, x + descent.ridge)), nodes)


def solve_spectral(descent: Descent, label: Regression, *, nodes: int = SPECTRAL_NODES) -> LinearCurves:
    """Return the same as `solve_linear` for full batches without momentum, from the spectrum."""
    x, _ = marchenko_pastur_nodes(1.0 / descent.sample_ratio, nodes)
    left = np.cumprod(1.0 - np.multiply.outer(descent.rates, x + descent.ridge), axis=0)
    return _spectral(descent, label, np.concatenate([np.ones((1, len(x))), left]), nodes)


def _spectral(descent: Descent, label: Regression, left: Array, nodes: int) -> LinearCurves:
    """Integrate over modes of which the part ``left[t]`` of the start is left at output t."""
    alpha, beta = descent.sample_ratio, label.coefficients
    x, weights = marchenko_pastur_nodes(1.0 / alpha, nodes)
    target = descent.target_gram[0] @ beta
    signal, start = float(beta @ target), descent.start_overlap[0, 0]
    noise = label.label_square - signal
    decay = x + descent.ridge
    learnt = np.divide(1.0 - left, decay, out=np.zeros_like(left), where=decay > 0)
    overlaps = np.outer(left @ weights, start) + np.outer((learnt * x) @ weights, target)
    cross = (left * (weights * x)) @ learnt.T
    history = (left * weights) @ left.T * descent.start_gram[0, 0, 0] + (cross + cross.T) * float(beta @ start)
    history += (learnt * (weights * (x * x * signal + noise * x / alpha))) @ learnt.T
    seen, rest = np.where(x > 0, weights, 0.0), 1.0 - learnt * x
    twice = (left**2 * descent.start_gram[0, 0, 0] + rest**2 * signal - 2.0 * left * rest * float(beta @ start)) @ (
        seen * x
    )
    twice += noise / alpha * rest**2 @ seen + max(0.0, 1.0 - 1.0 / alpha) * noise
    return LinearCurves(0.5 * twice, overlaps, history)
