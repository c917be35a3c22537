"""What the theorem on three-layer learning assumes of a target and of an activation, and whether it holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError
from ...numerics.quadrature import hermite_values
from ...numerics.scalars import find_root
from ...problem.expressions import Expression
from .analysis import ZERO, JointLinkAnalysis, Level, any_link_of, levels, normal_rule

if TYPE_CHECKING:
    from ...problem import Hierarchical

Array = NDArray[np.float64]


@lru_cache(maxsize=64)
def activation_coefficients(sigma: Expression, order: int = 8, compositions: int = 1) -> Array:
    """Return E[s(z) h_j(z)], j = 0..order, for s = sigma composed with itself `compositions` times.

    ``compositions = 2`` is the activation sigma(sigma(.)) that the first layer sees while W2 is the identity.
    """
    kinks = list(sigma.kinks("x"))
    if compositions > 1:
        kinks += _preimages(sigma, kinks)
    x, w = normal_rule(kinks, 200)
    values = x
    for _ in range(compositions):
        values = np.asarray(sigma.evaluate(np, x=values), dtype=float) + 0.0 * x
    return hermite_values(x, order) @ (w * values)


def _preimages(sigma: Expression, points: Sequence[float]) -> list[float]:
    grid = np.linspace(-12.0, 12.0, 24_001)
    values = np.asarray(sigma.evaluate(np, x=grid), dtype=float)
    found: list[float] = []
    for point in points:
        shifted = values - point
        for i in np.flatnonzero(shifted[:-1] * shifted[1:] < 0):
            found.append(float(grid[i] - shifted[i] * (grid[i + 1] - grid[i]) / (shifted[i + 1] - shifted[i])))
    return found


def information_exponent(coefficients: Array, tolerance: float = ZERO) -> int | None:
    """Return the smallest degree j >= 1 with a non-zero coefficient, or None if all vanish."""
    size = math.sqrt(float(np.sum(coefficients**2)))
    found = np.flatnonzero(np.abs(coefficients[1:]) > tolerance * size).tolist() if size else []
    return int(found[0]) + 1 if found else None


@dataclass(frozen=True)
class Assumption:
    """One assumption of Theorem 1: whether it holds, and the number that decides."""

    name: str
    statement: str
    holds: bool
    detail: str


def check_assumptions(target: Hierarchical, sigma: Expression | None = None) -> tuple[Assumption, ...]:
    """Check A1-A3 of the theorem on three-layer learning for a target and an activation; without one A2 is left out.

    Returns
    -------
    tuple of Assumption
        A1 (information exponents of the link and of the polynomial), A2 in its parts (growth and sigma'(0); a: Hermite
        coefficients; b, c: composed activation), A3 (higher coefficients of the link), and the uniform readout.

    Notes
    -----
    A3 is published for 1 < j <= k. Order j of the link starts at degree j k_0, k_0 the lowest degree of P (Prop. 9 of
    the paper), and stage 2 fits degrees <= k: only the orders up to floor(k/k_0) matter, and only they are checked.

    Source: Dandi, Pesce, Zdeborova, Krzakala, arXiv:2502.13961, Assumptions 1-3.
    """
    level = levels(target)[-1]
    k, several, link = level.degree, target.branches > 1, any_link_of(target)
    if isinstance(link, JointLinkAnalysis):
        # E[g h_m] of every branch, and the size of all coefficients of a total order.
        first = np.array([link.coefficients[tuple(int(i == m) for i in range(target.branches))]
                          for m in range(target.branches)])  # fmt: skip
        mu = np.sqrt(link.masses)
    else:
        mu = link.coefficients
        first = mu[1:2]
    size = math.sqrt(float(np.sum(mu**2)))
    exponent = information_exponent(level.coefficients)
    curved = [j for j in range(2, min(k + 1, len(mu))) if abs(mu[j]) > 1e-6 * size]
    reach = k // int(np.flatnonzero(level.coefficients)[0])
    harmful = [j for j in curved if j <= reach]
    name = "|mu|" if several else "mu"
    detail = ", ".join(f"{name}_{j} = {mu[j]:.4f}" for j in curved) if curved else "all vanish"
    slopes = ", ".join(f"mu_1 = {v:.6g}" for v in first)
    return (
        Assumption(
            "A1.link", "E[g*(z) z] != 0" + (" for every feature" if several else ""),
            bool(np.all(np.abs(first) > ZERO * size)), slopes,
        ),
        Assumption("A1.feature", "E[P_k z] = 0, E[P_k He_2] != 0", exponent == 2, f"lowest degree {exponent}"),
        *(_activation_assumptions(level, sigma) if sigma is not None else ()),
        Assumption(
            "A3", f"E[g*(z) He_j(z)] = 0 for 1 < j <= floor(k/k_0) = {reach}", not harmful,
            detail + ("; the published range is 1 < j <= k" if len(curved) > len(harmful) else ""),
        ),
        Assumption(
            "readout", "a*_i = 1 for every feature", target.readout == "ones", f"readout = {target.readout!r}"
        ),
        *(
            (Assumption("features", "one feature h", False, f"branches = {target.branches}: counted, not proved"),)
            if several else ()
        ),
    )  # fmt: skip


def _activation_assumptions(level: Level, sigma: Expression) -> tuple[Assumption, ...]:
    k = level.degree
    c = activation_coefficients(sigma, max(k, 2))
    composed = activation_coefficients(sigma, 2, compositions=2)
    slope = float(sigma.derivative("x")(x=np.array([0.0]))[0])
    zero = [j for j in range(2, k + 1) if abs(c[j]) <= ZERO * math.sqrt(float(np.sum(c**2)))]
    p2 = float(level.coefficients[2]) if k >= 2 else 0.0
    smooth = not sigma.kinks("x")
    polynomial = bool(sigma.sympy().is_polynomial())
    size = math.sqrt(float(np.sum(composed**2)))
    return (
        Assumption(
            "A2.analytic", "sigma analytic, not polynomial, sigma'(0) != 0",
            smooth and not polynomial and slope != 0.0,
            f"kinks {list(sigma.kinks('x'))}, polynomial: {polynomial}, sigma'(0) = {slope:.6g}",
        ),
        Assumption(
            "A2.a", "E[sigma He_j] != 0 for 1 < j <= k", not zero,
            "coefficients " + ", ".join(f"c_{j} = {c[j]:.4g}" for j in range(2, k + 1)),
        ),
        Assumption(
            "A2.b", "E[sigma(sigma(z)) He_2] E[P_k He_2] > 0", composed[2] * p2 > 0, f"{composed[2]:.4g} x {p2:.4g}"
        ),
        Assumption(
            "A2.c", "E[sigma(sigma(z)) z] = 0", abs(composed[1]) <= 1e-3 * size,
            f"E[sigma(sigma(z)) z] = {composed[1]:.4g}",
        ),
    )  # fmt: skip


def admissible_activation(
    degree: int = 2, sign: int = 1, shifts: Sequence[float] = (-0.3, -0.5, -0.2, -0.7, -1.0, 0.3, 0.5, 0.2, 0.7, 1.0)
) -> tuple[str, float]:
    """Search sigma(x) = tanh(x + a) - b x that satisfies A2, and return its formula and E[sigma(sigma(z))
    He_2]/sqrt(2).

    Parameters
    ----------
    degree : int
        k: the Hermite coefficients 2..k of sigma must not vanish.
    sign : int
        Sign of E[P_k He_2], which E[sigma(sigma) He_2] must share.
    shifts : sequence of float
        Values of a, tried in this order; b solves E[sigma(sigma(z)) z] = 0 and must leave sigma'(0) != 0.

    Raises
    ------
    DomainError
        If no shift has a solution.
    """
    slopes = np.linspace(0.05, 1.5, 59)
    for a in shifts:

        def text(b: float, a: float = a) -> str:
            return f"tanh(x {'-' if a < 0 else '+'} {abs(a)!r}) - {b!r}*x"

        def composed(b: float, text: Callable[[float], str] = text) -> Array:
            return activation_coefficients(Expression(text(b)), 2, compositions=2)

        def first_of(b: float, composed: Callable[[float], Array] = composed) -> float:
            return float(composed(b)[1])

        first = np.array([first_of(float(b)) for b in slopes])
        for i in np.flatnonzero(first[:-1] * first[1:] < 0):
            b = find_root(first_of, slopes[i], slopes[i + 1], xtol=1e-14)
            second = float(composed(b)[2])
            sigma = Expression(text(b))
            c = activation_coefficients(sigma, degree)
            at_zero = abs(1 - math.tanh(a) ** 2 - b)
            if second * sign > 1e-3 and at_zero > 1e-3 and bool(np.all(np.abs(c[2:]) > 1e-4)):
                return sigma.text, second
    raise DomainError("no admissible activation among the shifts", hint="give other shifts, or the opposite sign")


def describe_target(target: Hierarchical, sigma: Expression | None = None) -> dict[str, str]:
    """Return the diagnostics of a target as text: each assumption, and each level's threshold and exponents."""
    from .channels import compositional_exponents, label_orders, signal_exponents, thresholds

    result = {}
    for check in check_assumptions(target, sigma):
        holds = "holds" if check.holds else "fails"
        result[f"assumption {check.name} ({check.statement})"] = f"{holds}: {check.detail}"
    if sigma is None:
        result["assumption A2 (of the activation)"] = "not asked: this problem has no network"
    omega = signal_exponents(target, label_orders(target))
    for level, order, signal in zip(thresholds(target), compositional_exponents(target), omega, strict=True):
        kappa = f"kappa = {level.kappa:.6g}" if level.known else "no threshold"
        result[f"level {level.level}"] = (
            f"{kappa} ({level.status}): {level.reason}; omega_1 = {float(signal[1]):.4g}, omega_2 = "
            f"{float(signal[2]):.4g}; compositional information exponent {order if order else 'above 12'}"
        )
    return result
