"""Stage 2 by the theorem's step: one preconditioned gradient step of p units with random weights on the learned space.

With rows of W uniform on the unit sphere and Z = sigma(W z) - E sigma,

    h_hat(z) = Z(z)^T (Z^T Z/n + lam)^{-1} Z^T (y - ybar)/n,

is ridge regression on p random features. Their kernel has the eigenvalue e_j = sigma_j^2/D_j on the D_j polynomials of
degree j, sigma_j the orthonormal Hermite coefficients of sigma; all degrees count, as a ridge to the lower ones. With
T_i(nu) = sum_j D_j (e_j/(e_j + nu))^i,

    nu_1 = nu (1 - T_1(nu)/p),   (n - T_1(nu)) nu_1 = n lam/p,   A_j = e_j/(e_j + nu),
    |h_hat|^2 = E (f - h_hat)^2 - sum_j F_j + 2 sum_j A_j F_j,   rho = c_1 sum_j A_j V_j/|h_hat|,

f the part of the label with degrees up to `HIGHEST`, the mean squared error as of `ridge.random_feature_ridge`. Where
readouts have a mean, h overlaps with the trace sum_i (z_i^2 - 1), whose eigenvalue is larger: sigma_2^2/d_eff. This
project's own; compared with simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...numerics.quadrature import gauss_normal, hermite_values
from ...problem import Expression
from ...problem.activations import activation
from .analysis import LinkAnalysis
from .ridge import random_feature_gain, random_feature_ridge
from .union import feature_count, label_power

Array = NDArray[np.float64]
HIGHEST = 40  # degrees of the kernel that are kept; what is above them is noise
NO_POWER = 1e-15


@dataclass(frozen=True)
class UnitState:
    """Order parameters of the estimate.

    Attributes
    ----------
    gain : (HIGHEST + 1,) array
        A_j by degree; of degree 2 that of the traceless part.
    norm : float
        |h_hat|^2.
    error : float
        Expected squared error on a fresh label, label noise included.
    correlation : float
        corr(h_hat, h).
    """

    gain: Array
    norm: float
    error: float
    correlation: float


def hermite_coefficients(text: str) -> Array:
    """Return sigma_j, j = 0..HIGHEST, the orthonormal Hermite coefficients of an activation in ``x``."""
    sigma: Expression = activation(text)
    x, weights = gauss_normal(tuple(sigma.kinks("x")) or (0.0,), 400)
    values = np.asarray(sigma.evaluate(np, x=x), dtype=float) + 0.0 * x
    return np.asarray(hermite_values(x, HIGHEST) @ (weights * values))


def unit_state(
    link: LinkAnalysis, noise: float, shares: Array, trace: float, d_eff: int, n: float, sigma: Array, units: int,
    ridge: float,
) -> UnitState:  # fmt: skip
    """Return the order parameters at leading order.

    Parameters
    ----------
    link : LinkAnalysis
    noise : float
        Standard deviation of the label noise.
    shares : (k + 1,) array
        V_j, index = degree.
    trace : float
        The fraction of V_2 that lies along the trace: <a q>^2/<a^2 q^2>.
    d_eff : int
    n : float
        Samples of stage 2.
    sigma : (HIGHEST + 1,) array
        Of `hermite_coefficients`.
    units : int
        p.
    ridge : float
        lam.
    """
    known = np.zeros(HIGHEST + 1)
    known[: len(shares)] = shares
    power = label_power(link, known)
    degrees = np.arange(1, HIGHEST + 1)
    counts = np.array([float(feature_count(d_eff, int(j))) for j in degrees])
    eigenvalue = sigma[1:] ** 2 / counts
    # The trace of degree 2 last: one direction, with the first order's power along it.
    slope = float(link.coefficients[1])
    along = slope**2 * known[2] * trace
    multiplicity = np.append(counts, 1.0)
    multiplicity[1] -= 1.0
    eigenvalue = np.append(eigenvalue, sigma[2] ** 2 / d_eff)
    eigenvalue[1] *= 1.0 - 1.0 / d_eff
    eigenvalue[1] *= counts[1] / multiplicity[1]
    powers = np.append(power[1:], along)
    powers[1] -= along
    seen = np.append(known[1:], known[2] * trace)
    seen[1] -= known[2] * trace
    variance = link.second_moment - float(link.coefficients[0]) ** 2 + noise**2
    rest = max(variance - float(powers.sum()), 0.0)
    kept = eigenvalue > NO_POWER * float(np.max(eigenvalue))
    # A degree that sigma does not have is noise to the estimate.
    rest += float(powers[~kept].sum())
    law = (multiplicity[kept], eigenvalue[kept], powers[kept], rest, n, float(units), n * ridge / units)
    found = random_feature_ridge(*law)
    gain = np.zeros_like(eigenvalue)
    gain[kept] = random_feature_gain(multiplicity[kept], eigenvalue[kept], n, float(units), n * ridge / units)
    norm = found.error - float(powers[kept].sum()) + 2.0 * float(gain @ powers)
    correlation = slope * float(gain @ seen) / math.sqrt(norm) if norm > 0 else 0.0
    return UnitState(np.concatenate([[0.0], gain[:HIGHEST]]), norm, found.error + rest, correlation)


def best_state(
    link: LinkAnalysis, noise: float, shares: Array, trace: float, d_eff: int, n: float, sigma: Array, units: int
) -> UnitState:
    """Return the state at the ridge of the smallest error on a fresh label."""
    from scipy.optimize import minimize_scalar

    def state(log_ridge: float) -> UnitState:
        return unit_state(link, noise, shares, trace, d_eff, n, sigma, units, math.exp(log_ridge))

    # Penalties below and above what any unit can tell apart.
    scale = math.log(units / n)
    grid = scale + np.linspace(-14.0, 10.0, 49)
    best = int(np.argmin([state(float(v)).error for v in grid]))
    low, high = float(grid[max(0, best - 1)]), float(grid[min(len(grid) - 1, best + 1)])
    found = minimize_scalar(lambda v: state(float(v)).error, bounds=(low, high), method="bounded")
    return state(float(found.x))
