"""Stage 2 at leading order: ridge regression on the polynomials of several degrees of the learned subspace.

    min (1/n) |y - ybar - sum_j Phi_j th_j|^2 + sum_j lam_j |th_j|^2,   D_j = binom(d_eff + j - 1, j) features each.

With V_j = v_j <a^2 q^j>, the share of Var h that degree j of the learned subspace represents, and
F_t = sum_m c_m^2 [x^t] (sum_j V_j x^j)^m, the power of the label at degree t,

    chi = tau + chi sum_j (D_j/n) A_j,  A_j = 1/(1 + chi l_j),  lam_j = tau l_j,
    df2 = sum_j (D_j/n) A_j^2,  s2 = Var y - sum_j F_j,  mse = (sum_j (1 - A_j)^2 F_j + s2)/(1 - df2),
    |h_hat|^2 = sum_j A_j^2 F_j + df2 mse,   rho = c_1 sum_j A_j V_j/|h_hat|.

At n = delta D_k and d_eff -> infinity the same with D_j/n = 0 below k. This project's own; compared with simulation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError
from ...numerics.quadrature import hermite_values
from ...numerics.scalars import find_minimum, find_root
from .analysis import Level, LinkAnalysis

Array = NDArray[np.float64]
WEIGHTS = ("optimal", "flat", "kernel", "top")
# A degree whose power is below this fraction of the label's variance has no weight.
NO_POWER = 1e-12


def feature_count(d_eff: int, degree: int) -> int:
    """Return D = binom(d_eff + k - 1, k), the number of degree-k polynomials of d_eff variables."""
    return math.comb(d_eff + degree - 1, degree)


def represented(level: Level, readout_square: Array) -> Array:
    """Return V_j = v_j <a^2 q^j>, index = degree; `readout_square[j]` is the mean <a^2 q^j>."""
    return level.fractions * readout_square[: level.degree + 1]


def label_power(link: LinkAnalysis, shares: Array) -> Array:
    """Return F_t, t = 0..k: the power of the label that degree t of the learned subspace represents."""
    k = len(shares) - 1
    lowest = max(1, int(np.flatnonzero(shares)[0])) if np.any(shares) else k + 1
    total = np.zeros(k + 1)
    power = np.zeros(k + 1)
    power[0] = 1.0
    for m in range(k // lowest + 1):
        total += float(link.masses[m]) * power
        power = np.convolve(power, shares)[: k + 1]
    total[0] = 0.0
    return total


def fitted_degrees(link: LinkAnalysis, level: Level, degrees: str | Sequence[int]) -> tuple[int, ...]:
    """Return the degrees that stage 2 fits: ``"all"`` with weight in the label, ``"top"``, or those listed."""
    if degrees == "top":
        return (level.degree,)
    if degrees != "all":
        return tuple(sorted(int(j) for j in degrees))
    power = label_power(link, level.fractions)
    return tuple(int(j) for j in np.flatnonzero(power > NO_POWER * link.second_moment))


@dataclass(frozen=True)
class Penalties:
    """The penalties lam_j = strength * shape_j of the fitted degrees; an infinite one leaves the degree out."""

    strength: float
    shape: Array

    @property
    def values(self) -> Array:
        """lam_j."""
        with np.errstate(invalid="ignore"):
            return np.where(np.isinf(self.shape), np.inf, self.strength * self.shape)


@dataclass(frozen=True)
class Task:
    """What stage 2 has to learn, by fitted degree.

    Attributes
    ----------
    degrees : tuple of int
    crowding : (fitted,) array
        D_j/n.
    power, share : (fitted,) arrays
        F_j and V_j.
    variance : float
        Var y.
    slope : float
        c_1.
    """

    degrees: tuple[int, ...]
    crowding: Array
    power: Array
    share: Array
    variance: float
    slope: float

    @classmethod
    def of(cls, link: LinkAnalysis, noise: float, degrees: tuple[int, ...], crowding: Array, shares: Array) -> Task:
        """Return the task at given shares V_j, index = degree, and D_j/n of the fitted degrees."""
        index = list(degrees)
        power = label_power(link, shares)
        variance = link.second_moment - float(link.coefficients[0]) ** 2 + noise**2
        return cls(degrees, crowding, power[index], shares[index], variance, float(link.coefficients[1]))

    @property
    def residual(self) -> float:
        """s2: what the fitted degrees cannot represent."""
        return self.variance - float(self.power.sum())


@dataclass(frozen=True)
class UnionState:
    """Order parameters of the estimate.

    Attributes
    ----------
    gain : (fitted,) array
        A_j.
    spread : float
        df2 mse: variance of the estimate that is noise.
    error : float
        Expected squared error on a fresh label, label noise included.
    norm : float
        |h_hat|^2.
    correlation : float
        corr(h_hat, h).
    """

    gain: Array
    spread: float
    error: float
    norm: float
    correlation: float


def union_state(task: Task, penalties: Penalties) -> UnionState:
    """Return the order parameters of the estimate at leading order."""
    gain = _gains(task.crowding, penalties)
    df2 = float(task.crowding @ gain**2)
    if df2 >= 1.0 - 1e-13:
        return UnionState(gain, math.inf, math.inf, math.inf, 0.0)
    error = (float((1.0 - gain) ** 2 @ task.power) + task.residual) / (1.0 - df2)
    norm = float(gain**2 @ task.power) + df2 * error
    correlation = task.slope * float(gain @ task.share) / math.sqrt(norm) if norm > 0 else 0.0
    return UnionState(gain, df2 * error, error, norm, correlation)


def _gains(crowding: Array, penalties: Penalties) -> Array:
    """Return A_j = 1/(1 + chi l_j) with chi = tau + chi sum (D_j/n) A_j, the positive root (0 if there is none)."""
    shape, strength = penalties.shape, penalties.strength
    finite = np.isfinite(shape)
    gain = np.zeros_like(shape)
    if not np.any(finite):
        return gain
    shape, crowding = shape[finite], crowding[finite]
    scale = float(np.max(shape)) or 1.0
    shape = shape / scale
    target = strength * scale

    def excess(chi: float) -> float:
        return chi - target - chi * float(crowding @ (1.0 / (1.0 + chi * shape)))

    if target == 0.0 and float(crowding.sum()) <= 1.0:
        chi = 0.0
    elif np.all(shape == 1.0):
        # chi^2 + chi (1 - tau - r) - tau = 0, without cancellation.
        half = 0.5 * (1.0 - target - float(crowding.sum()))
        root = math.sqrt(half**2 + target)
        chi = target / (half + root) if half > 0 else root - half
    else:
        low = target if target > 0 else 1e-300
        high = max(2.0 * low, 1e-30)
        while excess(high) <= 0.0 and high < 1e300:
            high *= 16.0
        if excess(high) <= 0.0:
            # A degree that is not penalised at all and has more features than samples: nothing is determined.
            raise DomainError(
                "ridge regression without penalties is undetermined", where="algorithm.second.ridge",
                why=f"degrees with more features than samples carry no penalty (D/n = {crowding.sum():.4g})",
                hint="give a positive ridge, or more samples",
            )  # fmt: skip
        if target == 0.0:
            low = high
            while excess(low) >= 0.0 and low > 1e-300:
                low /= 16.0
        chi = float(find_root(excess, low, high, xtol=1e-300, rtol=1e-14))
    gain[finite] = 1.0 / (1.0 + chi * shape)
    return gain


def penalties_of(task: Task, weights: str, ridge: float | str, counts: Array | None) -> Penalties:
    """Return the penalties of a weighting.

    Parameters
    ----------
    task : Task
    weights : {"optimal", "flat", "kernel", "top"}
        ``optimal``: lam_j in the ratio D_j/F_j; ``flat``: all equal; ``kernel``: lam_j = ridge D_j, an inner-product
        kernel of equal weights; ``top``: the highest degree only.
    ridge : float or "optimal"
        Penalty of the highest fitted degree (``kernel``: over D_j), or the one that minimises the error on a fresh
        label: for optimal weights lam_j = s2 D_j/(n F_j), Bayes-optimal for a Gaussian prior.
    counts : (fitted,) array or None
        D_j; None at d_eff = infinity.

    Raises
    ------
    DomainError
        For kernel weights of a fixed ridge at d_eff = infinity, where lam_j = ridge D_j diverges.
    """
    last = len(task.degrees) - 1
    if weights == "optimal":
        with np.errstate(divide="ignore", invalid="ignore"):
            shape = np.where(task.power > NO_POWER * task.variance, task.crowding / task.power, np.inf)
        if ridge == "optimal":
            return Penalties(task.residual, shape)
        top = float(shape[last])
        if not math.isfinite(top) or top == 0.0:
            shape = np.where(np.isinf(shape), np.inf, 1.0)
        else:
            shape = shape / top
        return Penalties(float(ridge), shape)
    if weights == "flat":
        shape = np.ones(last + 1)
    elif weights == "top":
        shape = np.full(last + 1, np.inf)
        shape[last] = 1.0
    elif counts is not None:
        shape = counts.astype(float)
    elif ridge == "optimal":
        # At n ~ D_k only the ratios D_j/D_k = 0 below k are left.
        shape = (task.crowding > 0).astype(float)
    else:
        raise DomainError(
            "kernel weights of a fixed ridge have no limit", where="algorithm.second",
            why="lam_j = ridge D_j diverges with the dimension", hint='add [limit] d = ..., or use ridge = "optimal"',
        )  # fmt: skip
    return _best_strength(task, shape) if ridge == "optimal" else Penalties(float(ridge), shape)


def _best_strength(task: Task, shape: Array) -> Penalties:
    """Return the strength that minimises the error on a fresh label."""
    finite = np.isfinite(shape)
    if float(task.power[finite].sum()) <= NO_POWER * task.variance:
        return Penalties(1.0, np.full_like(shape, np.inf))
    typical = math.log(float(np.max(shape[finite])) or 1.0)

    def error(log_strength: float) -> float:
        value = union_state(task, Penalties(math.exp(log_strength), shape)).error
        return math.log(min(value, 1e300))

    grid = np.linspace(-25.0, 25.0, 101) - typical
    best = int(np.argmin([error(float(v)) for v in grid]))
    low, high = grid[max(0, best - 1)], grid[min(100, best + 1)]
    return Penalties(math.exp(find_minimum(error, float(low), float(high), xtol=1e-10).x), shape)


def label_components(link: LinkAnalysis, level: Level, shares: Array, draws: Array) -> Array:
    """Return f_t(G), t = 0..k: the degree-t part of the label as a function of the parts G_j of the learned feature.

    f_t = sum_m c_m sum over {n_j: sum n_j = m, sum j n_j = t} of sqrt(m!/prod n_j!) prod_j V_j^{n_j/2} h_{n_j}(G_j).

    Parameters
    ----------
    draws : (k + 1, samples) array
        Row j: G_j, standard normal; rows of degrees that P does not have are not used.
    """
    k = level.degree
    used = [int(j) for j in np.flatnonzero(level.fractions)]
    basis = {j: hermite_values(draws[j], k // j) for j in used}
    out = np.zeros((k + 1, draws.shape[1]))
    for counts in itertools.product(*(range(k // j + 1) for j in used)):
        degree = sum(j * n for j, n in zip(used, counts, strict=True))
        m = sum(counts)
        if degree > k or m == 0:
            continue
        size = math.sqrt(math.factorial(m) / math.prod(math.factorial(n) for n in counts))
        term = np.full(draws.shape[1], float(link.coefficients[m]) * size)
        for j, n in zip(used, counts, strict=True):
            term = term * float(shares[j]) ** (n / 2) * basis[j][n]
        out[degree] += term
    return out
