"""Without a self-loop: regression on a Gaussian mixture in closed form, up to one scalar, the renormalised ridge."""

from __future__ import annotations

import math


def accuracy(margin: float, spread: float) -> float:
    return 0.5 * math.erfc(-margin / math.sqrt(2 * spread)) if spread > 0 else float(margin > 0)


def resolvent(t: float, gamma: float) -> tuple[float, float]:
    """g(t) = (1/F) tr(Z^T Z/F + t)^{-1} for t > 0, or t = 0 with gamma > 1; and the root R of g' = -(g^2 + g)/R."""
    b = t + gamma - 1
    root = math.hypot(b, 2 * math.sqrt(t))
    # t g^2 + (t + gamma - 1) g - 1 = 0; the form without cancellation on either side.
    return (2 / (b + root) if b > 0 else (root - b) / (2 * t)), root


def without_self_loop(
    gamma: float, mu: float, lam: float, tau: float, ridge: float
) -> tuple[float, float, float, float, float]:
    """(test risk, train risk, accuracy, psi, variance of h about its mean) for c = 0, up to the one scalar t.

    Every difference of nearly equal numbers is taken by hand, so that ridges of 1e-300 and 1e12 lose no digit.
    """
    return read_without_self_loop(gamma, mu, lam, tau, *renormalised_ridge(gamma, tau, ridge))


def shrinkage(t: float, gamma: float, tau: float) -> float:
    """ridge/t = 1 - (1 - t g)/(gamma tau)."""
    return (gamma * tau - 1 + t * resolvent(t, gamma)[0]) / (gamma * tau)


def renormalised_ridge(gamma: float, tau: float, ridge: float) -> tuple[float, float]:
    """Return t and ridge/t for c = 0."""
    from ...numerics.scalars import find_root

    # Without ridge t is 0 above the interpolation threshold, and here below it.
    bare = (1 - tau) * (1 / tau - gamma)
    if ridge == 0:
        return (bare, 0.0) if bare > 0 else (0.0, shrinkage(0.0, gamma, tau))
    # ridge < t < ridge + 1/tau, because shrinkage < 1 and t g/(1 + g) < t/(1 + t).
    low, high = max(ridge, bare), ridge + 1 / tau
    t = math.exp(
        find_root(
            lambda log_t: shrinkage(math.exp(log_t), gamma, tau) - ridge / math.exp(log_t),
            math.log(low) - 1e-12, math.log(high) + 1e-12, xtol=1e-15, rtol=1e-14,
        )
    )  # fmt: skip
    return t, ridge / t


def read_without_self_loop(
    gamma: float, mu: float, lam: float, tau: float, t: float, ratio: float
) -> tuple[float, float, float, float, float]:
    """Return what `without_self_loop` does, from t and ratio = ridge/t."""
    g, root = resolvent(t, gamma)
    # (t g)'/g^2: both sides of the quadratic of g differentiated, without the cancellation at large t, where g ~ 1/t.
    moved = gamma / ((1 + g) * root * g)
    loads = 1 + (1 + mu) * g
    # phi and psi in units of g, (t phi)', d and the spread in units of g^2: at large ridge all of these are tiny.
    phi = lam**2 * (1 + mu) / loads
    phi_moved = lam**2 * (1 + mu) * (moved + 1 + mu) / loads**2
    freedom = (moved + 1) / ((1 + g) ** 2 * tau)
    left = ratio + t * moved * g * g / (gamma * tau)  # 1 - d
    spread = (phi_moved + freedom) / ((1 + g * phi) ** 2 * left)
    psi = phi / (1 + g * phi)
    test = spread * g * g + 1 / (1 + g * phi) ** 2
    return test, ratio**2 * test, accuracy(psi, spread), psi * g, spread * g * g
