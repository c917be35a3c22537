"""Deterministic equivalents of ridge regression on features with given second moments.

Objective (1/2m) sum (y - w.phi)^2 + (lambda/2)|w|^2. Per cluster c: Omega_c = E[phi phi^T | c] (uncentred), theta_c =
E[y phi | c], e_c = E[y^2 | c]. Errors are mean squared errors, not halved, without penalty.

`one_bulk` holds when all clusters share the bulk of Omega_c (Hastie et al. 2022; Loureiro et al. 2021); `many_bulks`
when they do not, and also for conditional laws given finitely many projections, each quadrature node a cluster.

Written in the renormalised ridge zeta instead of V = zeta/lambda - 1 and R = S/lambda, so that nothing is divided by
lambda: the limit of a vanishing ridge is reached without loss of digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import SolveError
from ...numerics.fixedpoint import bisect_geometric

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RidgeErrors:
    """Errors of one ridge fit.

    Attributes
    ----------
    test, train : float
    test_clusters, train_clusters : ndarray, shape (K,)
    norm : float
        E|w|^2.
    weights : ndarray, shape (k,)
        Mean of the fitted weights.
    ridge : float
        Renormalised ridge zeta, averaged over the clusters.
    """

    test: float
    train: float
    norm: float
    weights: Array
    ridge: float
    test_clusters: Array
    train_clusters: Array


def positive_spectrum(eigenvalues: Array) -> Array:
    """Eigenvalues of a positive semidefinite matrix, those within rounding of zero put to zero.

    A null mode must be exactly null: beside a tiny ridge rounding would count as signal.
    """
    s = np.maximum(eigenvalues, 0.0)
    return np.where(s > np.finfo(float).eps * s.size * s.max(initial=0.0), s, 0.0)


def renormalised_ridge(eigenvalues: Array, samples: int, ridge: float) -> float:
    """zeta = lambda + (zeta/m) sum_i s_i/(s_i + zeta), by geometric bisection.

    Divided by zeta and with s/(s + zeta) = 1 - zeta/(s + zeta) the sum has one sign for m >= rank.
    """
    s = positive_spectrum(eigenvalues)
    s = s[s > 0.0]

    def excess(zeta: float) -> float:
        return (samples - s.size + float(np.sum(zeta / (s + zeta)))) / samples - ridge / zeta

    high = (ridge + float(s.sum()) / samples) * (1.0 + 1e-12)
    return bisect_geometric(excess, ridge, high) if high > ridge else ridge


def one_bulk(omegas: Array, thetas: Array, seconds: Array, weights: Array, samples: int, ridge: float) -> RidgeErrors:
    """Errors when the clusters share their bulk.

    zeta as in `renormalised_ridge` for Omega = sum rho_c Omega_c; w = (Omega + zeta)^{-1} theta;
    B = e - 2 theta.w + w.Omega w; test = B/(1 - df2) with 1 - df2 = lambda/zeta + (zeta/m) sum_i s_i/(s_i + zeta)^2,
    train = (lambda/zeta)^2 test.

    Parameters
    ----------
    omegas : ndarray, shape (K, k, k)
    thetas : ndarray, shape (K, k)
    seconds, weights : ndarray, shape (K,)
    samples : int
    ridge : float
    """
    omega = np.tensordot(weights, omegas, axes=1)
    s, basis = np.linalg.eigh(omega)
    s = positive_spectrum(s.astype(np.float64))
    zeta = renormalised_ridge(s, samples, ridge)
    # Features without variance along a mode cannot correlate with the labels there.
    drive = np.where(s > 0.0, basis.T @ (weights @ thetas), 0.0)
    response, share = drive / (s + zeta), s / (s + zeta)
    w = basis @ response
    bias = float(weights @ seconds - 2.0 * drive @ response + s @ response**2)
    test = bias / (ridge / zeta + float(share @ (zeta / (s + zeta))) / samples)
    norm = float(w @ w) + test * float(share @ (1.0 / (s + zeta))) / samples
    # By cluster: own bias, own share of the variance.
    resolvent2 = (basis / (s + zeta) * share) @ basis.T
    variance = np.einsum("cij,ji->c", omegas, resolvent2) / samples * test
    own = seconds - 2.0 * thetas @ w + np.einsum("i,cij,j->c", w, omegas, w) + variance
    shrink = (ridge / zeta) ** 2
    return RidgeErrors(test, shrink * test, norm, w, zeta, own, shrink * own)


def many_bulks(
    omegas: Array, thetas: Array, seconds: Array, weights: Array, samples: int, ridge: float, *, rtol: float = 1e-12
) -> RidgeErrors:
    """Errors when the clusters' bulks differ: one V_c each.

    S = (1 + sum rho_c Omega_c/zeta_c)^{-1}, zeta_c = lambda + tr[Omega_c S]/m; w = S sum rho_c theta_c/zeta_c;
    E_c = B_c + sum_c' T_cc' rho_c' E_c'/zeta_c'^2, T_cc' = tr[Omega_c S Omega_c' S]/m; train_c = (lambda/zeta_c)^2 E_c.
    Newton's method on zeta, whose Jacobian needs T and nothing more.

    Raises
    ------
    SolveError
        If Newton's method does not reach `rtol`.
    """
    clusters, width = thetas.shape
    omega = np.tensordot(weights, omegas, axes=1)
    # Start from the common value of one bulk.
    zeta = np.full(clusters, renormalised_ridge(np.linalg.eigvalsh(omega).astype(np.float64), samples, ridge))
    identity = np.eye(width)

    def resolve(zeta: Array) -> tuple[Array, Array, Array, Array]:
        matrix = identity + np.tensordot(weights / zeta, omegas, axes=1)
        resolvent: Array = np.linalg.inv(matrix).astype(np.float64)
        products = omegas @ resolvent
        t = np.einsum("cij,dji->cd", products, products, optimize=True) / samples
        return resolvent, ridge + np.trace(products, axis1=1, axis2=2) / samples, products, t

    resolvent, image, products, t = resolve(zeta)
    reached = math.inf
    for _ in range(60):
        jacobian = np.eye(clusters) - t * (weights / zeta**2)
        step = np.linalg.solve(jacobian, image - zeta)
        size = 1.0
        while np.any(zeta + size * step <= 0.0):
            size *= 0.5
        zeta = zeta + size * step
        resolvent, image, products, t = resolve(zeta)
        reached = float(np.max(np.abs(step) / zeta))
        if size == 1.0 and reached < rtol:
            break
    else:
        raise SolveError(
            "the deterministic equivalent of several bulks did not converge",
            status="max_iterations",
            why=f"relative step {reached:.2g}: near interpolation, m = k, a vanishing ridge is singular",
            hint="raise the ridge, or move the sample ratio away from the width ratio",
        )
    w = resolvent @ ((weights / zeta) @ thetas)
    bias = seconds - 2.0 * thetas @ w + np.einsum("i,cij,j->c", w, omegas, w)
    damp = weights / zeta**2
    test = np.linalg.solve(np.eye(clusters) - t * damp, bias)
    train = (ridge / zeta) ** 2 * test
    spread = np.einsum("cij,ji->c", products, resolvent) / samples
    norm = float(w @ w + np.sum(damp * test * spread))
    return RidgeErrors(float(weights @ test), float(weights @ train), norm, w, float(weights @ zeta), test, train)
