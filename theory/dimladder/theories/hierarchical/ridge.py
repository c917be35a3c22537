"""Stage 2: ridge regression on degree-k polynomials of the learned subspace, n = delta D, D = binom(d_eff + k - 1, k).

Loss (1/n) |y - Phi theta|^2 + lam |theta|^2 with orthonormal features Phi. Leading order in D; `refined_second_stage`
keeps the fluctuations of the sample norms |phi(z)|^2 at the actual d_eff (k = 2). `kernel_ridge` and
`random_feature_ridge` are the same theory on a general spectrum, the shallow baselines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError

Array = NDArray[np.float64]


def feature_count(d_eff: int, degree: int) -> int:
    """Return D = binom(d_eff + k - 1, k), the number of degree-k polynomials of d_eff variables."""
    return math.comb(d_eff + degree - 1, degree)


@dataclass(frozen=True)
class RidgeState:
    """Asymptotic order parameters of a ridge estimate theta_hat of theta*, |theta*|^2 = signal.

    Attributes
    ----------
    overlap : float
        m = theta_hat . theta*.
    norm : float
        q = |theta_hat|^2.
    signal : float
        |theta*|^2.
    correlation : float
        m/sqrt(signal q), 0 where there is no signal or the norm diverges.
    error : float
        Expected squared error on a fresh label, label noise included.
    """

    overlap: float
    norm: float
    signal: float
    correlation: float
    error: float


def second_stage(signal: float, noise: float, delta: float, ridge: float) -> RidgeState:
    """Return the order parameters of isotropic ridge regression.

        kappa = lam + kappa/(delta (1 + kappa)),  A = 1/(1 + kappa),  df2 = A^2/delta,
        error = (kappa^2 A^2 r2 + s2)/(1 - df2),  q = A^2 r2 + df2 error,  m = A r2.

    Parameters
    ----------
    signal : float
        r2: power of the label that degree-k features represent.
    noise : float
        s2: everything else in the label's variance.
    delta : float
        n/D, may be infinite.
    ridge : float
        lam >= 0.
    """
    inverse = 0.0 if math.isinf(delta) else 1.0 / delta
    # kappa^2 + kappa (1 - lam - 1/delta) - lam = 0, positive root, without cancellation.
    half = 0.5 * (1.0 - ridge - inverse)
    root = math.sqrt(half**2 + ridge)
    kappa = ridge / (half + root) if half > 0 else root - half
    gain = 1.0 / (1.0 + kappa)
    df2 = gain**2 * inverse
    if df2 >= 1.0 - 1e-13:
        return RidgeState(gain * signal, math.inf, signal, 0.0, math.inf)
    error = ((kappa * gain) ** 2 * signal + noise) / (1.0 - df2)
    norm = gain**2 * signal + df2 * error
    correlation = gain * math.sqrt(signal / norm) if signal > 0 and norm > 0 else 0.0
    return RidgeState(gain * signal, norm, signal, correlation, error)


def optimal_ridge(signal: float, noise: float, delta: float) -> float:
    """Return the lam that minimises the error: s2/(r2 delta)."""
    if signal <= 0:
        return math.inf
    return 0.0 if math.isinf(delta) else noise / (signal * delta)


@dataclass(frozen=True)
class NormLaw:
    """Law of the squared norm r = |phi(z)|^2/D of a sample and what the label knows of it, in bins of r.

    Attributes
    ----------
    r, weights : (bins,) arrays
    projection : (bins,) array
        E[y theta.phi(z) | r] for the unit direction theta of the target.
    direction : (bins,) array
        E[(theta.phi(z))^2 | r]; r itself if theta is a generic direction.
    square : (bins,) array
        E[y^2 | r].
    """

    r: Array
    weights: Array
    projection: Array
    direction: Array
    square: Array

    @classmethod
    def of(cls, r: Array, product: Array, direction: Array, square: Array, bins: int = 400) -> NormLaw:
        """Compress samples of r, y theta.phi, (theta.phi)^2 and y^2 into bins of equal mass."""
        order = np.argsort(r, kind="stable")
        edges = np.unique(np.linspace(0, len(r), min(bins, len(r)) + 1).astype(int))
        counts = np.diff(edges)

        def mean(values: Array) -> Array:
            return np.add.reduceat(values[order], edges[:-1]) / counts

        return cls(mean(r), counts / len(r), mean(product), mean(direction), mean(square))


def refined_second_stage(law: NormLaw, delta: float, ridge: float) -> tuple[float, float]:
    """Return (m, q) of the estimate: overlap with the unit direction of the target, and squared norm.

        g = 1/(lam + E[r/x]),  x = 1 + r g/delta,
        m = E[c/x]/(lam + E[v/x]),  c = E[y theta.phi | r],  v = E[(theta.phi)^2 | r],
        q = -dK/dlam,  K = E[(c m + r (g/delta) y2)/x],  y2 = E[y^2 | r].

    Leaving one sample out gives its fit [m theta.phi + noise + (r g/delta) y]/x, and the normal equation along
    theta gives m. For v = r this is m = g E[c/x]; a feature with equal readouts is a function of the norm, and v is
    not r.
    """
    from scipy.optimize import brentq

    if ridge <= 0:
        raise DomainError(
            "the refined second stage needs a positive ridge",
            where="algorithm.second.ridge",
            hint='or order = "leading"',
        )
    r, w, c, v, y2 = law.r, law.weights, law.projection, law.direction, law.square
    inverse = 0.0 if math.isinf(delta) else 1.0 / delta

    def excess(g: float) -> float:
        return g * (ridge + float(w @ (r / (1 + r * g * inverse)))) - 1.0

    g = float(brentq(excess, 0.0, 1.0 / ridge, xtol=1e-15, rtol=1e-14))
    x = 1.0 + r * g * inverse
    # dg/dlam from 1/g = lam + S(g): -g'/g^2 = 1 + S'(g) g', S' = -E[r^2/delta / x^2].
    dg = -1.0 / (1.0 / g**2 - float(w @ (r**2 * inverse / x**2)))
    numerator, denominator = float(w @ (c / x)), ridge + float(w @ (v / x))
    m = numerator / denominator
    d_numerator = -dg * float(w @ (c * r * inverse / x**2))
    d_denominator = 1.0 - dg * float(w @ (v * r * inverse / x**2))
    dm = (d_numerator - m * d_denominator) / denominator
    dk = dm * numerator + m * d_numerator + dg * float(w @ (r * inverse * y2 / x**2))
    return m, -dk


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
    from scipy.optimize import brentq

    def excess(kappa: float) -> float:
        return kappa - ridge - kappa / n * float(multiplicity @ (eigenvalue / (eigenvalue + kappa)))

    high = ridge + float(multiplicity @ eigenvalue) / n + 1e-300
    low = high * 1e-16
    if excess(low) >= 0:
        return 0.0 if ridge == 0 else ridge
    return float(brentq(excess, low, high * (1 + 1e-12), xtol=1e-16 * high, rtol=1e-14))


def random_feature_ridge(
    multiplicity: Array, eigenvalue: Array, power: Array, noise: float, n: float, width: float, ridge: float
) -> KernelErrors:
    """Return the error of ridge regression on `width` random features of that kernel (deterministic equivalent).

    width - width nu1/nu2 = T1(nu2), n - lam/nu1 = T1(nu2), T_j(v) = sum mult ev^j/(ev + v)^j;
    chi = sum mult ev/(ev + v)^2/(width - T2), Ups = (width/n)((1 - nu1/nu2)^2 + (nu1/nu2)^2 T2/(width - T2)),
    bias = nu2^2/(1 - Ups) (sum power/(ev + nu2)^2 + chi sum power ev/(ev + nu2)^2), variance = s2 Ups/(1 - Ups).

    `ridge` is the penalty of sum_mu (y - f)^2 + lam |a|^2 with features of mean square 1/width each.
    """
    from scipy.optimize import brentq

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
        low = float(brentq(clear, low, high))
    nu2 = math.exp(float(brentq(excess, low, high, xtol=1e-14)))
    t1, t2 = first(nu2), float(multiplicity @ (eigenvalue / (eigenvalue + nu2)) ** 2)
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
