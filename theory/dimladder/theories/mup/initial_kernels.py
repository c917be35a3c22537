"""Kernels at initialisation: NNGP, gradient and neural tangent kernels.

``Phi^0 = K^x``, ``Phi^l = E phi(u) phi(v)`` with ``(u, v) ~ N(0, Phi^{l-1})``; ``G^{L+1} = 1``,
``G^l = G^{l+1} * E phi'(u) phi'(v)`` (entrywise); ``NTK = sum_{l=1}^{L+1} G^l * Phi^{l-1}``. Closed forms for erf,
ReLU and linear activations (Williams 1997; Cho, Saul 2009), a trapezoid rule in two dimensions for the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...problem import Expression
from ...problem.training import Activation, derivatives
from .quadrature import trapezoid


@dataclass(frozen=True)
class InitialKernels:
    """``phi[l]`` is Phi^l for l = 0..L; ``g[l-1]`` is G^l for l = 1..L+1; ``tangent`` is the NTK. All (M, M)."""

    phi: list[np.ndarray]
    g: list[np.ndarray]
    tangent: np.ndarray


def initial_kernels(
    gram: np.ndarray, layers: int, expression: Expression, *, closed_form: bool = True
) -> InitialKernels:
    """Return the kernels at t = 0 for inputs with inner products `gram`.

    Parameters
    ----------
    closed_form : bool
        False uses the quadrature throughout, for tests.

    Raises
    ------
    ValueError
        When an activation without closed form has kinks: the trapezoid rule would converge slowly.
    """
    phi, slopes = [np.asarray(gram, dtype=float)], []
    for _ in range(layers):
        value, slope = pair_kernels(phi[-1], expression, closed_form=closed_form)
        phi.append(value)
        slopes.append(slope)
    g = [np.ones_like(phi[0])]
    for slope in reversed(slopes):
        g.insert(0, g[0] * slope)
    return InitialKernels(phi, g, sum((g[l] * phi[l] for l in range(layers + 1)), np.zeros_like(phi[0])))


def pair_kernels(
    covariance: np.ndarray, expression: Expression, *, closed_form: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``E phi(u) phi(v)`` and ``E phi'(u) phi'(v)`` for every pair of rows of a covariance."""
    variance = np.diag(covariance)
    scale = np.sqrt(np.outer(variance, variance))
    if closed_form:
        match _known(expression):
            case "linear":
                return covariance.copy(), np.ones_like(covariance)
            case "relu":
                rho = np.clip(covariance / scale, -1, 1)
                angle = np.arccos(rho)
                value = scale * (np.sqrt(1 - rho**2) + (np.pi - angle) * rho) / (2 * np.pi)
                return value, (np.pi - angle) / (2 * np.pi)
            case "erf":
                # phi = erf(x/sqrt 2): the arcsine law.
                inner = np.outer(1 + variance, 1 + variance)
                value = 2 / np.pi * np.arcsin(covariance / np.sqrt(inner))
                return value, 2 / np.pi / np.sqrt(inner - covariance**2)
    if expression.kinks("x"):
        raise ValueError(
            f"the kernels of {expression.text!r} have no closed form here, and its kinks spoil the quadrature"
        )
    return _by_quadrature(covariance, derivatives(expression))


def _known(expression: Expression) -> str | None:
    return {"x": "linear", "relu(x)": "relu", "erf(x/sqrt(2))": "erf"}.get(expression.text.replace(" ", ""))


def _by_quadrature(covariance: np.ndarray, activation: Activation) -> tuple[np.ndarray, np.ndarray]:
    points, weights = trapezoid(0.1)
    n = len(covariance)
    value, slope = np.empty((n, n)), np.empty((n, n))
    deviation = np.sqrt(np.diag(covariance))
    for i in range(n):
        xi, di, _ = activation(deviation[i] * points)
        for j in range(i, n):
            rho = np.clip(covariance[i, j] / (deviation[i] * deviation[j]), -1.0, 1.0)
            v = deviation[j] * (rho * points[:, None] + np.sqrt(1 - rho**2) * points)
            xj, dj, _ = activation(v)
            value[i, j] = value[j, i] = (weights * xi) @ (xj @ weights)
            slope[i, j] = slope[j, i] = (weights * di) @ (dj @ weights)
    return value, slope
