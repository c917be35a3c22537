"""Shallow baselines: kernel and random-feature ridge regression on a general spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError
from ...numerics.scalars import find_root

Array = NDArray[np.float64]


@dataclass(frozen=True)
class KernelErrors:
    """Error of a kernel method on a target split by eigenspace: `error` without label noise, `bias` and `variance`."""

    error: float
    bias: float
    variance: float


def kernel_ridge(
    multiplicity: Array, eigenvalue: Array, power: Array, noise: float, n: float, ridge: float
) -> KernelErrors:
    """Return the error of kernel ridge regression, (K + n lam) at the samples.

        kappa = lam + (kappa/n) sum_g mult_g ev_g/(ev_g + kappa),  A_g = ev_g/(ev_g + kappa),  df2 = sum mult A^2/n,
        error = (sum_g (1 - A_g)^2 power_g + s2)/(1 - df2) - s2.

    Parameters
    ----------
    multiplicity, eigenvalue : (groups,) arrays
        Dimension and eigenvalue of each eigenspace of the kernel.
    power : (groups,) array
        Squared norm of the target in each.
    noise : float
        Variance of the label noise and of whatever part of the target has no eigenspace.
    n : float
        Samples.
    ridge : float
        lam.
    """
    kappa = _effective_ridge(multiplicity, eigenvalue, n, ridge)
    gain = eigenvalue / (eigenvalue + kappa) if kappa > 0 else (eigenvalue > 0).astype(float)
    df2 = float(multiplicity @ gain**2) / n
    if df2 >= 1:
        return KernelErrors(math.inf, math.inf, math.inf)
    bias = float(((1 - gain) ** 2) @ power) / (1 - df2)
    variance = noise * df2 / (1 - df2)
    return KernelErrors(bias + variance, bias, variance)


def _effective_ridge(multiplicity: Array, eigenvalue: Array, n: float, ridge: float) -> float:
    """Return the positive root of kappa = lam + (kappa/n) sum mult ev/(ev + kappa), 0 when there is none."""

    def excess(kappa: float) -> float:
        return kappa - ridge - kappa / n * float(multiplicity @ (eigenvalue / (eigenvalue + kappa)))

    high = ridge + float(multiplicity @ eigenvalue) / n + 1e-300
    low = high * 1e-16
    if excess(low) >= 0:
        return 0.0 if ridge == 0 else ridge
    return float(find_root(excess, low, high * (1 + 1e-12), xtol=1e-16 * high, rtol=1e-14))


def random_feature_ridge(
    multiplicity: Array, eigenvalue: Array, power: Array, noise: float, n: float, width: float, ridge: float
) -> KernelErrors:
    """Return the error of ridge regression on `width` random features of that kernel (deterministic equivalent).

    width - width nu1/nu2 = T1(nu2), n - lam/nu1 = T1(nu2), T_j(v) = sum mult ev^j/(ev + v)^j;
    chi = sum mult ev/(ev + v)^2/(width - T2), Ups = (width/n)((1 - nu1/nu2)^2 + (nu1/nu2)^2 T2/(width - T2)),
    bias = nu2^2/(1 - Ups) (sum power/(ev + nu2)^2 + chi sum power ev/(ev + nu2)^2), variance = s2 Ups/(1 - Ups).

    `ridge` is the penalty of sum_mu (y - f)^2 + lam |a|^2 with features of mean square 1/width each.
    """
    nu2 = _feature_ridge(multiplicity, eigenvalue, n, width, ridge)
    seen = eigenvalue / (eigenvalue + nu2)
    t1, t2 = float(multiplicity @ seen), float(multiplicity @ seen**2)
    share = 1 - t1 / width
    chi = float(multiplicity @ (eigenvalue / (eigenvalue + nu2) ** 2)) / (width - t2)
    ups = width / n * ((1 - share) ** 2 + share**2 * t2 / (width - t2))
    bias = (
        nu2**2
        / (1 - ups)
        * (float(power @ (1 / (eigenvalue + nu2) ** 2)) + chi * float(power @ (eigenvalue / (eigenvalue + nu2) ** 2)))
    )
    variance = noise * ups / (1 - ups)
    return KernelErrors(bias + variance, bias, variance)


def random_feature_gain(multiplicity: Array, eigenvalue: Array, n: float, width: float, ridge: float) -> Array:
    """Return A = ev/(ev + nu2): what the mean of the fit of `random_feature_ridge` holds of each eigenspace."""
    return eigenvalue / (eigenvalue + _feature_ridge(multiplicity, eigenvalue, n, width, ridge))


def _feature_ridge(multiplicity: Array, eigenvalue: Array, n: float, width: float, ridge: float) -> float:
    """Return nu2."""
    if ridge <= 0:
        raise DomainError("random_feature_ridge needs a positive ridge", hint="use a small one for the ridgeless limit")

    def first(v: float) -> float:
        return float(multiplicity @ (eigenvalue / (eigenvalue + v)))

    def excess(log_v: float) -> float:
        v = math.exp(log_v)
        t1 = first(v)
        # nu1 = v (1 - T1/width), and n - lam/nu1 = T1.
        return (n - t1) * v * (1 - t1 / width) - ridge

    # The root lies where both n - T1 and width - T1 are positive; the product grows with v there.
    high = math.log(float(multiplicity @ eigenvalue) + ridge + 1.0) + 20.0
    low = high - 120.0

    def clear(log_v: float) -> float:
        return min(n, width) - first(math.exp(log_v))

    if clear(low) < 0:
        low = float(find_root(clear, low, high))
    return math.exp(float(find_root(excess, low, high, xtol=1e-14)))
