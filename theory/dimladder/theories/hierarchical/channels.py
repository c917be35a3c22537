"""Sample exponents at which a deep network learns each level, and what they rest on.

Levels l = 1 (linear) .. L (scalar) have d^eps_l features, eps_0 = 1, eps_L = 0; P_l builds level l + 1 from blocks of
B = d^(eps_l - eps_{l+1}) features of level l. Let E[T(y) h_q(h_{l,m})] ~ d^(-omega_l(q)) for the best transform T of
the label. With e_q = E[E[h_q(u) | y]^2] for the scalar feature and the connected moments

    K_p(P; q) = p! [t^p] E[h_q e^(tP/s)] / E[e^(tP/s)],

    omega_L(q) = 0 if e_q > 0, else infinite,
    omega_l(q) = min over p with K_p(P_l; q) != 0 of omega_{l+1}(p) + p (eps_l - eps_{l+1})/2,
    kappa_l = k_{l-1} eps_{l-1} + 2 omega_l(2) for l < L (k_0 = 1),   kappa_L = k_{L-1} eps_{L-1} max(1, p/2),

p the generative exponent of the link. Where every order-one path is open, omega_l(2) = eps_l/2 and this is the paper's
count k eps_{l-1} + eps_l. Levels are learned in order: kappa_l is at least kappa_{l-1}. The rule is this project's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...numerics.quadrature import gauss_hermite, hermite_values
from .analysis import ZERO, Level, any_link_of, levels
from .labels import NO_CHANNEL, joint_posterior_powers, posterior

if TYPE_CHECKING:
    from ...problem import Hierarchical

Array = NDArray[np.float64]
# Orders of the label and of the connected moments that are looked at.
HIGHEST_ORDER = 4
# With several branches the powers e_q are sampled: below this one counts as zero.
NO_JOINT_CHANNEL = 2e-3


@dataclass(frozen=True)
class LevelThreshold:
    """When one level is learned, and on what ground.

    Attributes
    ----------
    level : int
        1 is the linear level, L the scalar feature.
    kappa : float
        log n / log d; NaN where nothing is known.
    status : str
        ``"theorem"``: proved in the paper. ``"counting"``: the paper's counting, not a theorem. ``"transform"``: only
        a transform of the label, or reused batches, see the level. ``"second order"``: a spectral upper bound of this
        project; gradient descent is not covered. ``"refused"``: no threshold.
    reason : str
        The numbers that decide.
    factor, width : float
        A node of degree j that feeds this level is learned at factor * j eps + width, eps the exponent of the level
        below; kappa is that for the whole polynomial, and not less than kappa of the level below.
    """

    level: int
    kappa: float
    status: str
    reason: str
    factor: float = 1.0
    width: float = math.inf

    @property
    def known(self) -> bool:
        """Whether there is a threshold."""
        return math.isfinite(self.kappa)


def connected_moments(level: Level, hermite: int, order: int = HIGHEST_ORDER) -> Array:
    """Return K_p(P; q) = p! [t^p] E[h_q e^{tP/s}]/E[e^{tP/s}] for p = 0..order, q = `hermite`; exact quadrature."""
    x, w = gauss_hermite(order * level.degree // 2 + hermite + 4)
    p = level.coefficients @ hermite_values(x, level.degree) / math.sqrt(level.variance)
    h = hermite_values(x, hermite)[hermite]
    powers = np.cumprod(np.vstack([np.ones_like(p), np.tile(p, (order, 1))]), axis=0)
    factorial = np.array([math.factorial(j) for j in range(order + 1)], dtype=float)
    above, below = powers @ (w * h) / factorial, powers @ w / factorial
    ratio = np.zeros(order + 1)
    for j in range(order + 1):
        ratio[j] = above[j] - float(below[1 : j + 1] @ ratio[:j][::-1])
    return ratio * factorial


def _moment_scale(level: Level, order: int = HIGHEST_ORDER) -> Array:
    """Return E[(P/s)^(2p)]^(1/2), p = 0..order: what a connected moment of order p is compared with."""
    x, w = gauss_hermite(order * level.degree + 2)
    p = level.coefficients @ hermite_values(x, level.degree) / math.sqrt(level.variance)
    return np.sqrt([float(w @ p ** (2 * j)) for j in range(order + 1)])


def label_powers(target: Hierarchical) -> Array:
    """Return e_q, q = 0..4, of the scalar feature; with several branches the smallest e_1, and the largest of the
    second-order powers that involve the branch that is hardest to see (NaN beyond order 2).
    """
    if target.branches == 1:
        return posterior(target).powers
    first, second = joint_posterior_powers(target)
    return np.array([1.0, float(first.min()), float(second.max(axis=1).min()), math.nan, math.nan])


def label_orders(target: Hierarchical) -> Array:
    """Return which orders q = 0..4 of the feature the label knows: e_q > 0."""
    floor = NO_CHANNEL if target.branches == 1 else NO_JOINT_CHANNEL
    return np.asarray(np.nan_to_num(label_powers(target)) > floor)


def generative_exponent(target: Hierarchical) -> int | None:
    """Return the smallest q in 1..4 with e_q > 0, or None."""
    known = np.flatnonzero(label_orders(target)[1:])
    return int(known[0]) + 1 if len(known) else None


def signal_exponents(target: Hierarchical, orders: Array) -> list[Array]:
    """Return omega_l(q), q = 0..4, for l = 1..L, given which orders of the scalar feature the label knows."""
    omega = np.where(orders, 0.0, math.inf)
    omega[0] = math.inf
    if target.branches > 1:
        # The second order of a single feature, not of a pair, is what a level below sees.
        _, second = joint_posterior_powers(target)
        omega[2] = 0.0 if float(np.diag(second).min()) > NO_JOINT_CHANNEL else math.inf
    result = [omega]
    for level in reversed(levels(target)):
        width = 0.5 * (level.exponent - level.output_exponent)
        below = np.full(HIGHEST_ORDER + 1, math.inf)
        for q in range(1, HIGHEST_ORDER + 1):
            open_orders = np.flatnonzero(np.abs(connected_moments(level, q)) > 1e-9 * _moment_scale(level))
            below[q] = min((omega[p] + p * width for p in open_orders if p), default=math.inf)
        omega = below
        result.append(omega)
    return result[::-1]


@lru_cache(maxsize=64)
def thresholds(target: Hierarchical) -> tuple[LevelThreshold, ...]:
    """Return when a deep network learns each level of a target, lowest level first."""
    stack = levels(target)
    orders, p = label_orders(target), generative_exponent(target)
    omega = signal_exponents(target, orders)
    powers = label_powers(target)
    seen = ", ".join(f"e_{q} = {powers[q]:.4g}" for q in range(1, 5) if math.isfinite(powers[q]))
    degrees = [1, *(level.degree for level in stack)]
    eps = [1.0, *(level.exponent for level in stack), 0.0]
    result: list[LevelThreshold] = []
    latest = 0.0
    for l in range(1, len(stack) + 2):
        top = l > len(stack)
        width = 0.0 if top else 2.0 * float(omega[l - 1][2])
        factor = max(1.0, (p or math.inf) / 2.0) if top else 1.0
        own, extra = factor * degrees[l - 1] * eps[l - 1] + width, ""
        if l == 1:
            own, extra = _other_channels(target, orders, own, omega)
        blind = p is None or p > 2
        if blind or not math.isfinite(own) or (result and not result[-1].known):
            why = "E[h_1 | y] = E[h_2 | y] = 0" if blind else "no order of the label reaches this level"
            result.append(LevelThreshold(l, math.nan, "refused", f"{why}; {seen}; a lower bound is not known"))
            continue
        status, reason = _ground(target, l, omega)
        reason += extra
        if status == "theorem" and result and result[-1].status != "theorem":
            status, reason = "counting", "degree k of the learned features; the level below is outside the theorem"
        latest = max(latest, own)
        result.append(LevelThreshold(l, round(latest, 12), status, f"{reason}; {seen}", factor, width))
    return tuple(result)


def _ground(target: Hierarchical, l: int, omega: list[Array]) -> tuple[str, str]:
    """Return the status of level l, and the numbers that decide, where the rule gives a finite exponent."""
    stack = levels(target)
    link = any_link_of(target)
    first = float(omega[-1][1]) == 0.0
    path = all(abs(level.coefficients[1]) > 0 for level in stack[l:]) if l <= len(stack) else True
    has_two = l > len(stack) or (stack[l - 1].degree >= 2 and abs(float(stack[l - 1].coefficients[2])) > 0)
    if not first:
        return "second order", "E[h | y] = 0"
    if not (path and has_two):
        missing = "beta_2 = 0 in its own polynomial" if not has_two else "beta_1 = 0 in a polynomial above"
        return "second order", f"no path of order one: {missing}"
    size = math.sqrt(link.second_moment)
    slopes = np.array([link.coefficients[tuple(int(i == m) for i in range(target.branches))] for m in range(
        target.branches)]) if target.branches > 1 else link.coefficients[1:2]  # fmt: skip
    if float(np.min(np.abs(slopes))) <= ZERO * size:
        return "transform", "mu_1 = 0: the label itself does not see this level, a transform of it does"
    if len(stack) == 1 and target.branches == 1:
        failing = higher_orders(target)
        if not failing and abs(float(stack[0].coefficients[1])) == 0.0:
            return "theorem", f"mu_1 = {float(slopes[0]):.4g}, beta_2 = {float(stack[0].coefficients[2]):.4g}"
        if failing:
            return "counting", f"mu_{failing[0]} != 0 reaches degree k (A3)"
        return "counting", "beta_1 != 0: a linear part of the polynomial is outside the theorem"
    return "counting", "a path of order one is open; the paper's count, not a theorem"


def higher_orders(target: Hierarchical) -> list[int]:
    """Return the orders m of the link, 2 <= m <= floor(k/k_0), that do not vanish: what A3 has to exclude.

    k is the degree of the top polynomial and k_0 its lowest degree. Order m of the link starts at degree m k_0, so no
    other order reaches what stage 2 fits, the polynomials of degree <= k.
    """
    level = levels(target)[-1]
    mu = any_link_of(target).masses
    lowest = int(np.flatnonzero(level.coefficients)[0])
    size = float(np.sum(mu))
    return [m for m in range(2, level.degree // lowest + 1) if m < len(mu) and mu[m] > 1e-12 * size]


def _other_channels(target: Hierarchical, orders: Array, own: float, omega: list[Array]) -> tuple[float, str]:
    """Compare the d x d matrix with the other spectral estimates of the linear level, of one hidden level.

    Flattening: the D_2 ~ d^2 quadratic features of x see h itself at second order, n ~ d^2 (degree-2 polynomials).
    Unfolding of the third moment, for a cubic without a quadratic part: n ~ d^(3/2 + eps).
    """
    stack = levels(target)
    beta, eps = stack[0].coefficients, stack[0].exponent
    if len(stack) > 1 or float(omega[0][2]) == 0.5 * eps:
        return own, ""
    lowest = int(np.flatnonzero(beta)[0])
    if bool(orders[2]) and lowest == 2 and own > 2.0:
        return 2.0, "; flattened quadratic features at n ~ d^2"
    if bool(orders[1]) and lowest == 3 and own > 1.5 + eps:
        return 1.5 + eps, "; unfolded third moments at n ~ d^(3/2 + eps)"
    return own, ""


def compositional_exponents(target: Hierarchical) -> tuple[int | None, ...]:
    """Return the compositional information exponent of every level: the lowest degree of f* in its features.

    Level 1 is the linear one, level L the scalar feature; only orders of the link up to 12 are looked at. It is the
    smallest k with |E[f* h_l^(tensor k)]| of order one (Frobenius norm).
    """
    mu = any_link_of(target).masses
    size = float(np.sum(mu))
    found = [m for m in range(1, min(len(mu), 13)) if mu[m] > 1e-12 * size]
    lowest = found[0] if found else None
    result = [lowest]
    for level in reversed(levels(target)):
        lowest = lowest * int(np.flatnonzero(level.coefficients)[0]) if lowest is not None else None
        result.append(lowest)
    return tuple(result[::-1])
