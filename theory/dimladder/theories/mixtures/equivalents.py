"""Deterministic equivalents of ridge regression on features with given second moments.

Objective (1/2m) sum (y - w.phi)^2 + (lambda/2)|w|^2. Per cluster c: Omega_c = E[phi phi^T | c] (uncentred), theta_c =
E[y phi | c], e_c = E[y^2 | c]. Errors are mean squared errors, not halved, without penalty.

`one_bulk` holds when all clusters share the bulk of Omega_c (Hastie et al. 2022; Loureiro et al. 2021); `many_bulks`
when they do not, and also for conditional laws given finitely many projections, each quadrature node a cluster.
"""

from __future__ import annotations

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
        Renormalised ridge zeta (one bulk), or the effective 1/(1 + V) average times lambda's scale (several).
    """

    test: float
    train: float
    norm: float
    weights: Array
    ridge: float
    test_clusters: Array
    train_clusters: Array


def renormalised_ridge(eigenvalues: Array, samples: int, ridge: float) -> float:
    """zeta = lambda + (zeta/m) sum_i s_i/(s_i + zeta), by geometric bisection."""
    s = np.maximum(eigenvalues, 0.0)

    def excess(zeta: float) -> float:
        return zeta - ridge - zeta * float(np.sum(s / (s + zeta))) / samples

    high = (ridge + float(s.sum()) / samples) * (1.0 + 1e-12)
    return bisect_geometric(excess, ridge, high) if high > ridge else ridge


def one_bulk(omegas: Array, thetas: Array, seconds: Array, weights: Array, samples: int, ridge: float) -> RidgeErrors:
    """Errors when the clusters share their bulk.

    zeta as in `renormalised_ridge` for Omega = sum rho_c Omega_c; w = (Omega + zeta)^{-1} theta;
    B = e - 2 theta.w + w.Omega w; test = B/(1 - df2), train = (lambda/zeta)^2 test.

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
    s = np.maximum(s, 0.0)
    zeta = renormalised_ridge(s, samples, ridge)
    drive = basis.T @ (weights @ thetas)
    response = drive / (s + zeta)
    w = basis @ response
    bias = float(weights @ seconds - 2.0 * drive @ response + s @ response**2)
    df2 = float(np.sum((s / (s + zeta)) ** 2)) / samples
    test = bias / (1.0 - df2)
    norm = float(w @ w) + test * float(np.sum(s / (s + zeta) ** 2)) / samples
    # By cluster: own bias, own share of the variance.
    resolvent2 = (basis / (s + zeta) * (s / (s + zeta))) @ basis.T
    variance = np.einsum("cij,ji->c", omegas, resolvent2) / samples * test
    own = seconds - 2.0 * thetas @ w + np.einsum("i,cij,j->c", w, omegas, w) + variance
    shrink = (ridge / zeta) ** 2
    return RidgeErrors(test, shrink * test, norm, w, zeta, own, shrink * own)


def many_bulks(
    omegas: Array, thetas: Array, seconds: Array, weights: Array, samples: int, ridge: float, *, rtol: float = 1e-12
) -> RidgeErrors:
    """Errors when the clusters' bulks differ: one V_c each.

    R = (lambda + sum rho_c Omega_c/(1 + V_c))^{-1}, V_c = tr[Omega_c R]/m; w = R sum rho_c theta_c/(1 + V_c);
    E_c = B_c + sum_c' T_cc' rho_c' E_c'/(1 + V_c')^2, T_cc' = tr[Omega_c R Omega_c' R]/m; train_c = E_c/(1 + V_c)^2.
    Newton's method on V, whose Jacobian needs T and nothing more.

    Raises
    ------
    SolveError
        If Newton's method does not reach `rtol`.
    """
    clusters, width = thetas.shape
    omega = np.tensordot(weights, omegas, axes=1)
    # Start from the common value of one bulk: 1 + V = zeta/lambda.
    zeta = renormalised_ridge(np.linalg.eigvalsh(omega).astype(np.float64), samples, ridge)
    v = np.full(clusters, zeta / ridge - 1.0)
    identity = np.eye(width)

    def resolve(v: Array) -> tuple[Array, Array, Array]:
        matrix = ridge * identity + np.tensordot(weights / (1.0 + v), omegas, axes=1)
        resolvent: Array = np.linalg.inv(matrix).astype(np.float64)
        products = omegas @ resolvent
        return resolvent, np.trace(products, axis1=1, axis2=2) / samples, products

    resolvent, image, products = resolve(v)
    for _ in range(60):
        t = np.einsum("cij,dji->cd", products, products, optimize=True) / samples
        jacobian = np.eye(clusters) - t * (weights / (1.0 + v) ** 2)
        step = np.linalg.solve(jacobian, image - v)
        size = 1.0
        while np.any(v + size * step <= 0.0):
            size *= 0.5
        v = v + size * step
        resolvent, image, products = resolve(v)
        if size == 1.0 and np.max(np.abs(step) / v) < rtol:
            break
    else:
        raise SolveError(
            "the deterministic equivalent of several bulks did not converge",
            status="max_iterations",
            why=f"relative residual {np.max(np.abs(image - v) / v):.2g}",
            hint="raise algorithm.ridge",
        )
    t = np.einsum("cij,dji->cd", products, products, optimize=True) / samples
    share = weights / (1.0 + v)
    w = resolvent @ (share @ thetas)
    bias = seconds - 2.0 * thetas @ w + np.einsum("i,cij,j->c", w, omegas, w)
    damp = weights / (1.0 + v) ** 2
    test = np.linalg.solve(np.eye(clusters) - t * damp, bias)
    train = test / (1.0 + v) ** 2
    spread = np.einsum("cij,ji->c", products, resolvent) / samples
    norm = float(w @ w + np.sum(damp * test * spread))
    return RidgeErrors(
        float(weights @ test), float(weights @ train), norm, w, ridge * float(1.0 + weights @ v), test, train
    )
