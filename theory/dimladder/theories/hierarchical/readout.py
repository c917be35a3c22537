"""Stage 3: polynomial regression of the label on the learned feature, through Mehler's formula."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ...numerics.quadrature import gauss_hermite, hermite_values
from .analysis import LinkAnalysis

Array = NDArray[np.float64]


def readout_error(link: LinkAnalysis, correlation: float, degree: int) -> float:
    """Return E[(f* - f)^2] = sum_j c_j^2 (1 - rho^{2j} 1[j <= m]) of the best degree-m readout; label noise not
    included.

    Parameters
    ----------
    link : LinkAnalysis
        Coefficients c_j = E[g h_j].
    correlation : float
        rho between the true feature h and the learned one, jointly normal.
    degree : int
        m.
    """
    c = link.coefficients[: degree + 1]
    return link.second_moment - float(np.sum(c**2 * correlation ** (2.0 * np.arange(len(c)))))


def finite_readout_error(
    link: LinkAnalysis, noise: float, correlation: float, degree: int, samples: float, ridge: float = 0.0
) -> float:
    """Return the error of a degree-m ridge readout fitted on `samples` labels; label noise not included.

    With p(s) = (h_0..h_m)(s), K = |p|^2, n' = n (1 + lam), v(s) = E[(y - f_m)^2 | s], e(s) = E[y | s] - f_m(s):
    error = error(n = inf) + n E[v K/(n' + K)^2] + |n E[e p/(n' + K)] - lam/(1 + lam) beta|^2, beta_j = c_j rho^j.
    The leverages K are resummed; below about 10 (m + 1) samples rare leverages dominate and medians differ from means.

    Parameters
    ----------
    samples : float
        n3, may be infinite.
    ridge : float
        lam; the penalty is lam n3 on the orthonormal coefficients.
    """
    base = readout_error(link, correlation, degree)
    order = len(link.coefficients) - 1
    beta = link.coefficients[: degree + 1] * correlation ** np.arange(degree + 1)
    shrink = ridge / (1.0 + ridge)
    if math.isinf(samples):
        return base + float(np.sum((shrink * beta) ** 2))
    s, w = gauss_hermite(160)
    basis = hermite_values(s, max(order, degree))
    mean = (link.coefficients * correlation ** np.arange(order + 1)) @ basis[: order + 1]
    fit = beta @ basis[: degree + 1]
    x, wx = gauss_hermite(120)
    inside = correlation * s[:, None] + math.sqrt(max(0.0, 1.0 - correlation**2)) * x
    second = link.function(inside) ** 2 @ wx
    residual = mean - fit
    variance = second - mean**2 + noise**2 + residual**2
    p = basis[: degree + 1]
    leverage = np.sum(p**2, axis=0)
    total = samples * (1.0 + ridge)
    spread = samples * float(w @ (variance * leverage / (total + leverage) ** 2))
    bias = samples * (p @ (w * residual / (total + leverage))) - shrink * beta
    return base + spread + float(np.sum(bias**2))
