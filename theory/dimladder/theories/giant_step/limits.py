"""n -> infinity after one step: giant steps with 0 < beta < 1, and maximal steps with a constant second layer.

* `one_step_limit` (isotropic data): the surviving monomials of kappa = v.x/|v| become free covariates; the rest of the
  target is learnt as by random features.
* `spiked_random_features` (Cui et al. 2024): eta of order n, constant second layer, so that every neuron sees the same
  shift; a fixed point over two overlaps pairs, with an outer expectation over kappa. Odd activations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError, SolveError
from ...numerics.quadrature import gauss_hermite
from ...numerics.random_matrix import marchenko_pastur_nodes
from ...problem import Expression
from ...symbolic.hermite_moments import profile
from ..estimation.regression import random_layer, ridge_fit

Array = NDArray[np.float64]


def step_overlap(c1: float, second: float, batch_ratio: float) -> float:
    """gamma^2 = cos^2(v, xi) for isotropic data: c1^2/(c1^2 + (n/m) E y^2), v = X^T y/m."""
    return c1**2 / (c1**2 + second / batch_ratio)


def one_step_limit(
    activation: Expression,
    link: Expression,
    *,
    psi: float,
    alpha: float,
    ridge: float,
    degree: int,
    batch_ratio: float | None = None,
    noise: float = 0.0,
) -> tuple[float, float]:
    """Test and training error (full MSE) of ridge after one giant step on isotropic data, 0 < beta < 1.

    Parameters
    ----------
    activation, link : Expression
        sigma(x) and the target of z = xi.x, |xi| = 1.
    psi, alpha : float
        k/n and m/n.
    ridge : float
        Lambda = k lambda.
    degree : int
        Highest surviving power of kappa; 0 is the network before the step.
    batch_ratio : float, optional
        m/n of the step's batch (default alpha).

    Notes
    -----
    With orthonormal coefficients c_p of the link and gamma^2 = cos^2(v, xi), the powers up to `degree` explain
    sum_p c_p^2 gamma^(2p); the direction left to the bulk has length c1 sqrt(1 - gamma^2).
    """
    sigma, target = profile(activation, 0.0, 1.0, 1), profile(link, 0.0, 1.0, max(degree, 1))
    mu0, mu1 = (float(c) for c in sigma.coefficients[:, 0])
    mustar2 = max(float(sigma.second[0]) - mu0**2 - mu1**2, 0.0)
    c = target.coefficients[:, 0]
    second = float(target.second[0]) + noise**2
    vary = second - float(c[0]) ** 2 if abs(mu0) > 1e-13 or degree > 0 else second
    gamma2 = step_overlap(float(c[1]), second, batch_ratio or alpha) if degree > 0 else 0.0
    vary -= sum(float(c[p]) ** 2 * gamma2**p for p in range(1, degree + 1))
    moments = (0.0, vary, float(c[1]) * math.sqrt(1.0 - gamma2))
    fit = ridge_fit(random_layer(psi, mu1, mustar2), alpha, ridge * alpha / psi, moments)
    return fit.test, fit.train


@dataclass(frozen=True)
class SpikedRandomFeatures:
    """Solution of `spiked_random_features`: errors and order parameters."""

    test_error: float
    train_error: float
    order_parameters: dict[str, float]
    residual: float


def spiked_random_features(
    activation: Expression,
    link: Expression,
    *,
    alpha: float,
    batch_ratio: float,
    rate: float,
    ridge: float,
    nodes: int = 128,
    rtol: float = 1e-12,
    max_iterations: int = 20000,
) -> SpikedRandomFeatures:
    """Ridge after a maximal step (eta = rate * n scale) of a network with constant second layer (Cui et al. 2024).

    Objective sum (y - f)^2 + ridge |w|^2 over alpha n samples (no factor 1/2), as many neurons as inputs.

    Parameters
    ----------
    activation : Expression
        Odd (centred) sigma.
    link : Expression
        Target of z = xi.x; the paper's 'teacher'.
    alpha : float
        Readout samples over n.
    batch_ratio : float
        alpha_0, samples of the step over n.
    rate : float
        eta~.
    ridge : float

    Raises
    ------
    DomainError
        If the activation is not centred.
    SolveError
        If the iteration does not converge.
    """
    sigma1 = profile(activation, 0.0, 1.0, 1)
    if abs(float(sigma1.coefficients[0, 0])) > 1e-10:
        raise DomainError(
            "the maximal-step limit is for odd activations",
            why=f"E sigma(Z) = {sigma1.coefficients[0, 0]:.3g}",
            hint='use algorithm.equivalent = "conditional" of the giant-step theory',
        )
    target1 = profile(link, 0.0, 1.0, 1)
    h1s, h2s = float(target1.coefficients[1, 0]), float(target1.second[0])
    h1 = float(sigma1.coefficients[1, 0])
    slope = activation.derivative("x")
    x, w = gauss_hermite(max(nodes, 160))
    slopes = slope(x=x)
    var_slope = float(w @ slopes**2) - float(w @ slopes) ** 2
    norm = math.sqrt(h2s / batch_ratio + h1s**2)
    shift = rate * norm * h1
    c2 = 1.0 + rate**2 / batch_ratio * h2s * var_slope
    overlap = h1s / norm
    rho = math.sqrt(max(1.0 - overlap**2, 0.0))
    kappa, weight = gauss_hermite(nodes)
    features = profile(activation, shift * kappa, math.sqrt(c2), 1)
    mu0, first = features.coefficients
    mu1 = first / math.sqrt(c2)
    mu2sq = np.maximum(features.second - mu0**2 - first**2, 0.0)
    target = profile(link, overlap * kappa, rho, 1)
    h, hp, hh = target.coefficients[0], target.coefficients[1], target.second
    # Width and input dimension are equal here: D is c^2 times Marchenko-Pastur of ratio one.
    d, mass = marchenko_pastur_nodes(1.0)
    d = c2 * d

    def expect(values: Array) -> float:
        return float(weight @ values)

    v1, v2, q1, q2, m, theta, psi_overlap = 1.0, 1.0, 0.1, 0.1, 0.0, 0.0, 0.1
    residual, damping = math.inf, 0.6
    for _ in range(max_iterations):
        v = mu1**2 * v1 + mu2sq * v2
        q = mu1**2 * q1 + mu2sq * q2
        # m is the best constant multiplier of mu0 given the rest: exact inside each sweep.
        base = expect(mu0**2 / (1 + v))
        m = expect(mu0 * (h - mu1 * kappa * theta) / (1 + v)) / base if base > 0 else 0.0
        cc = mu0 * m + mu1 * kappa * theta
        err = hh - 2 * cc * h + cc**2 - 2 * mu1 * psi_overlap * hp + q
        q1h, q2h = alpha * expect(mu1**2 * err / (1 + v) ** 2), alpha * expect(mu2sq * err / (1 + v) ** 2)
        v1h, v2h = alpha * expect(mu1**2 / (1 + v)), alpha * expect(mu2sq / (1 + v))
        theta_h, psi_h = alpha * expect(kappa * mu1 * (h - cc) / (1 + v)), alpha * expect(mu1 * hp / (1 + v))
        stiffness = ridge + v1h * d + v2h
        gain = q1h * d + q2h + theta_h**2 * c2 + psi_h**2 * d
        new = np.array(
            [
                mass @ (d / stiffness),
                mass @ (1 / stiffness),
                mass @ (d * gain / stiffness**2),
                mass @ (gain / stiffness**2),
                theta_h * c2 * (mass @ (1 / stiffness)),
                psi_h * (mass @ (d / stiffness)),
            ]
        )
        old = np.array([v1, v2, q1, q2, theta, psi_overlap])
        residual = float(np.max(np.abs(new - old) / (np.abs(new) + 1e-12)))
        v1, v2, q1, q2, theta, psi_overlap = (1 - damping) * old + damping * new
        if residual < rtol:
            break
    else:
        raise SolveError(
            "the maximal-step fixed point did not converge",
            status="max_iterations",
            why=f"relative residual {residual:.2g}, damping {damping}",
            hint="raise the ridge",
        )
    v = mu1**2 * v1 + mu2sq * v2
    values = {"V1": v1, "V2": v2, "q1": q1, "q2": q2, "m": m, "theta": theta, "psi": psi_overlap}
    return SpikedRandomFeatures(expect(err), expect(err / (1 + v) ** 2), values, residual)
