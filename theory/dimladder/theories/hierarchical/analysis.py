"""Hermite analysis of a hierarchical target: coefficients, degree masses, exponents, and the theorem's assumptions.

Conventions. ``h_j`` are the orthonormal Hermite polynomials. Level 1 holds the linear features z = W* x, which are
exactly normal; level l + 1 is h_{l+1,m} = B^{-1/2} sum_i a_i P_l(h_{l,i}) over a block of B = d^{eps_l - eps_{l+1}}
features. Sums of many independent terms are asymptotically normal and He_m of them is, to leading order, the sum over
distinct indices of products (Dandi, Pesce, Zdeborova, Krzakala 2025, Prop. 9): every formula here is that limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError
from ...numerics.quadrature import gauss_normal, hermite_values
from ...problem.expressions import Expression, hermite_scale

if TYPE_CHECKING:
    from ...problem import Coefficients, Hierarchical

Array = NDArray[np.float64]
# Sample exponents are compared with this slack: 3 * 0.1 must reach a threshold written 0.3.
EXPONENT_SLACK = 1e-9
# A coefficient counts as zero below this fraction of the function's root mean square.
ZERO = 1e-9


def effective_dimension(d: int, exponent: float) -> int:
    """Return floor(d^exponent), the number of features of a level; exact when the power is a whole number."""
    return max(1, math.floor(d**exponent + 1e-9))


def orthonormal_coefficients(coefficients: Coefficients, convention: str) -> Array:
    """Return the coefficients of P on orthonormal Hermite polynomials, index = degree."""
    out = np.zeros(max(coefficients) + 1)
    for degree, value in coefficients.items():
        # h_j = He_j / sqrt(j!), so c s_j He_j = c s_j sqrt(j!) h_j.
        out[degree] = value * hermite_scale(degree, convention) * math.sqrt(math.factorial(degree))  # type: ignore[arg-type]
    return np.trim_zeros(out, "b")


@dataclass(frozen=True)
class Level:
    """The polynomial that builds one level from the level below, in units where its argument has variance 1.

    Attributes
    ----------
    coefficients : (k + 1,) array
        Orthonormal Hermite coefficients; index = degree.
    exponent : float
        eps of the level below: d^exponent features enter.
    output_exponent : float
        eps of the features it makes; 0 at the top.
    """

    coefficients: Array
    exponent: float
    output_exponent: float

    @property
    def degree(self) -> int:
        """Degree k of the polynomial."""
        return len(self.coefficients) - 1

    @property
    def variance(self) -> float:
        """Variance of the features it makes, for readouts with mean square 1."""
        return float(np.sum(self.coefficients**2))

    @property
    def fractions(self) -> Array:
        """Fraction v_j of that variance at each degree j."""
        return self.coefficients**2 / self.variance


def levels(target: Hierarchical) -> tuple[Level, ...]:
    """Return the levels of a target from the bottom, each polynomial expanded at the true variance of its argument.

    Raises
    ------
    DomainError
        If a polynomial has a mean: the sum over a block of d^(eps_l - eps_{l+1}) features would then diverge with d.
    """
    result: list[Level] = []
    scale = 1.0
    chain = (*target.exponents, 0.0)
    for l, features in enumerate(target.features):
        raw = orthonormal_coefficients(features, target.hermite)
        if scale == 1.0:
            beta = raw
        else:
            x, w = gauss_normal((), 64 + len(raw))
            beta = hermite_values(x, len(raw) - 1) @ (w * (raw @ hermite_values(scale * x, len(raw) - 1)))
        size = math.sqrt(float(np.sum(beta**2)))
        if abs(beta[0]) > ZERO * size:
            raise DomainError(
                "a feature polynomial has a non-zero mean",
                where=f"target.features[{l}]",
                why=f"E P = {beta[0]:.6g} for an argument of variance {scale**2:.6g}; its sum over a block diverges",
                hint="drop the degree-0 coefficient"
                + (", or normalise the level below to unit variance (sum of squared coefficients 1)" if l else ""),
            )
        beta[0] = 0.0
        level = Level(beta, chain[l], chain[l + 1])
        result.append(level)
        scale = math.sqrt(level.variance)
        scale = 1.0 if abs(scale - 1.0) < 1e-12 else scale
    return tuple(result)


def feature_scale(target: Hierarchical) -> float:
    """Return s = sqrt(Var h) of the scalar feature h that the link acts on."""
    return math.sqrt(levels(target)[-1].variance)


def normal_rule(kinks: Sequence[float], nodes: int = 160) -> tuple[Array, Array]:
    """Return nodes and weights for E[f(Z)], f analytic between the kinks but possibly steep: panels, never one rule."""
    return gauss_normal((0.0, *kinks), nodes)


def kinks_of(expression: Expression, variable: str) -> tuple[float, ...]:
    """Return the kinks of a formula; where a kinked function has a curved argument, its sign changes are located."""
    try:
        return expression.kinks(variable)
    except ValueError:
        return _numerical_kinks(expression, variable)


def _numerical_kinks(expression: Expression, variable: str) -> tuple[float, ...]:
    """Locate jumps of the value or of the slope on [-40, 40] by refining the cells of largest second difference."""
    x = np.linspace(-40.0, 40.0, 80_001)
    values = np.asarray(expression.evaluate(np, **{variable: x}), dtype=float)
    bend = np.abs(np.diff(values, 2))
    typical = np.convolve(bend, np.ones(21) / 21, mode="same")
    found = []
    for i in np.flatnonzero((bend > 8 * typical / 2) & (bend > 1e-9 * (1 + np.abs(values[1:-1])))):
        low, high = x[i], x[i + 2]
        for _ in range(60):
            third = (high - low) / 4
            grid = low + third * np.arange(5)
            f = np.asarray(expression.evaluate(np, **{variable: grid}), dtype=float)
            j = int(np.argmax(np.abs(np.diff(f, 2))))
            low, high = grid[j], grid[j + 2]
            if high - low < 1e-14 * (1 + abs(low)):
                break
        found.append((low + high) / 2)
    merged: list[float] = []
    for point in found:
        if not merged or point - merged[-1] > 1e-6:
            merged.append(point)
    return tuple(merged)


@dataclass(frozen=True)
class LinkAnalysis:
    """Hermite expansion of u -> g(s u) for a standard normal u.

    Attributes
    ----------
    scale : float
        s, the standard deviation of h.
    coefficients : (order + 1,) array
        mu_m = E[g(s u) h_m(u)].
    second_moment : float
        E[g(s u)^2].
    function : callable
        u -> g(s u), vectorised.
    kinks : tuple of float
        Points u where it is not smooth.
    """

    scale: float
    coefficients: Array
    second_moment: float
    function: Callable[[Array], Array]
    kinks: tuple[float, ...]

    @property
    def masses(self) -> Array:
        """mu_m^2: what each degree m of the link carries."""
        return self.coefficients**2

    @property
    def slope(self) -> float:
        """E[g'(h)], also where g has jumps (the weak derivative)."""
        return float(self.coefficients[1]) / self.scale

    def captured(self, correlation: float) -> float:
        """Return sum_m mu_m^2 correlation^m, the covariance of g(s u), g(s u') for normals of that correlation."""
        if correlation >= 1.0 - 1e-14:  # one, up to the rounding of the fractions it is a sum of
            return self.second_moment
        squares = self.coefficients**2
        remainder = abs(self.second_moment - float(np.sum(squares))) * correlation ** len(squares)
        if remainder <= 1e-13 * self.second_moment:
            return float(np.sum(squares * correlation ** np.arange(len(squares))))
        # Slowly decaying coefficients (kinks, jumps): |E[g(s w) | u]|^2 with w of correlation sqrt(r) with u.
        width = math.sqrt(1.0 - correlation)
        if width < 0.1:
            return self._captured_narrow(correlation, width)
        x, weights = normal_rule(self.kinks, max(160, math.ceil(30.0 / width)))
        u, outer = normal_rule((), 160)
        values = weights * self.function(x)
        root = math.sqrt(correlation)
        smooth = np.array([
            # Mehler kernel: the law of w given u against the standard normal law of w.
            float(values @ np.exp(-((x - root * v) ** 2) / (2 * width**2) + x**2 / 2)) / width for v in u
        ])  # fmt: skip
        return float(outer @ smooth**2)

    def _captured_narrow(self, correlation: float, width: float) -> float:
        """`captured` near correlation 1: the law of w given u is narrow, so it is integrated in its own coordinate."""
        root = math.sqrt(correlation)
        # E[g(s w) | u] bends within a few widths of each kink: panels of u end there.
        edges = [k / root + side * width for k in self.kinks for side in (-8.0, -2.0, 0.0, 2.0, 8.0)]
        u, outer = normal_rule(edges, 80)
        smooth = np.empty_like(u)
        for n, v in enumerate(u):
            t, inner = normal_rule([(k - root * v) / width for k in self.kinks], 48)
            smooth[n] = inner @ self.function(root * v + width * t)
        return float(outer @ smooth**2)


def analyse_link(expression: Expression, scale: float, order: int = 60, variable: str = "h") -> LinkAnalysis:
    """Expand a link function on Hermite polynomials of its standardised argument.

    Parameters
    ----------
    expression : Expression
        g, a formula in `variable`.
    scale : float
        Standard deviation s of the argument.
    order : int
        Highest degree. Accurate to about 1e-12 for links with affine kinks.

    Raises
    ------
    DomainError
        If E[g^2] is not finite.
    """
    kinks = [k / scale for k in kinks_of(expression, variable)]
    x, w = normal_rule(kinks, max(160, 2 * order))
    values = np.asarray(expression.evaluate(np, **{variable: scale * x}), dtype=float) + 0.0 * x
    weighted = w * values**2
    if not np.all(np.isfinite(values)) or float(np.max(weighted[np.abs(x) > 11.0])) > 1e-16 * (
        1 + float(np.sum(weighted))
    ):
        raise DomainError(
            f"the link {expression.text!r} is not square-integrable under the normal law",
            where="target.link",
            why=f"it is not finite, or grows too fast, at {variable} of standard deviation {scale:.4g}",
            hint="use a link that is defined on the whole line and grows slower than exp(h^2/4)",
        )
    return LinkAnalysis(
        scale,
        hermite_values(x, order) @ (w * values),
        float(np.sum(weighted)),
        lambda u: np.asarray(expression.evaluate(np, **{variable: scale * u}), dtype=float) + 0.0 * u,
        tuple(kinks),
    )


@dataclass(frozen=True)
class JointLinkAnalysis:
    """Hermite expansion of (u_1, ..., u_r) -> g(s u_1, ..., s u_r), for r branches.

    Attributes
    ----------
    scale : float
        s, the standard deviation of each feature.
    coefficients : (order + 1,) * r array
        E[g h_{m_1}(u_1) ... h_{m_r}(u_r)], zero where the total degree exceeds the order.
    second_moment : float
    """

    scale: float
    coefficients: Array
    second_moment: float

    @property
    def masses(self) -> Array:
        """Sum of the squared coefficients at each total degree."""
        order = len(self.coefficients) - 1
        total = np.indices(self.coefficients.shape).sum(axis=0)
        return np.array([float(np.sum(self.coefficients[total == m] ** 2)) for m in range(order + 1)])

    def captured(self, correlation: float) -> float:
        """Return sum_m masses_m correlation^m; degrees above the order count with the mass left and the next power."""
        if correlation >= 1.0 - 1e-14:  # one, up to the rounding of the fractions it is a sum of
            return self.second_moment
        masses = self.masses
        left = max(0.0, self.second_moment - float(np.sum(masses)))
        # The missing degrees start at len(masses): half of this upper bound, an error of at most the other half.
        tail = 0.5 * left * correlation ** len(masses)
        return float(np.sum(masses * correlation ** np.arange(len(masses)))) + tail


def analyse_joint_link(
    expression: Expression, variables: Sequence[str], scale: float, order: int = 24
) -> JointLinkAnalysis:
    """Expand a link of two to four features by tensor quadrature, split at zero in every feature.

    Raises
    ------
    DomainError
        For more than four features.
    """
    r = len(variables)
    if r > 4:
        raise DomainError(
            f"a link of {r} features cannot be expanded by quadrature", where="target.branches", hint="use at most 4"
        )
    x, w = gauss_normal((0.0,), {1: 64, 2: 40, 3: 14, 4: 6}[r])
    keep = np.abs(x) < 9.0
    x, w = x[keep], w[keep]
    grids = np.meshgrid(*([scale * x] * r), indexing="ij")
    values = (
        np.asarray(expression.evaluate(np, **dict(zip(variables, grids, strict=True))), dtype=float) + 0.0 * grids[0]
    )
    if not np.all(np.isfinite(values)):
        raise DomainError(f"the link {expression.text!r} is not finite everywhere", where="target.link")
    basis = hermite_values(x, order) * w
    second, coefficients = values**2, values
    for _ in range(r):
        second = np.tensordot(w, second, axes=(0, 0))
        # Each contraction consumes the first axis and appends the degree last: after r of them the order is restored.
        coefficients = np.moveaxis(np.tensordot(basis, coefficients, axes=(1, 0)), 0, -1)
    coefficients[np.indices(coefficients.shape).sum(axis=0) > order] = 0.0
    return JointLinkAnalysis(scale, coefficients, float(second))


def link_of(target: Hierarchical, order: int = 60) -> LinkAnalysis:
    """Return the Hermite expansion of the link of a single-index target at the variance of its feature.

    Raises
    ------
    DomainError
        If the target has several branches.
    """
    if target.branches > 1:
        raise DomainError(
            "this theory needs a link of one feature", where="target.branches", why=f"branches = {target.branches}",
            hint="use theory = \"hierarchical-plateaus\" for several branches",
        )  # fmt: skip
    return analyse_link(target.expression, feature_scale(target), order)


def any_link_of(target: Hierarchical) -> LinkAnalysis | JointLinkAnalysis:
    """Return the Hermite expansion of the target's link, of one feature or of several."""
    if target.branches == 1:
        return link_of(target)
    return analyse_joint_link(target.expression, target.link_variables, feature_scale(target))


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


def check_assumptions(target: Hierarchical, sigma: Expression) -> tuple[Assumption, ...]:
    """Check A1-A3 of the theorem on three-layer learning for a target and an activation.

    Returns
    -------
    tuple of Assumption
        A1 (information exponents of the link and of the polynomial), A2 in its parts (growth and sigma'(0); a: Hermite
        coefficients; b, c: composed activation), A3 (higher coefficients of the link), and the uniform readout.

    Notes
    -----
    Source: Dandi, Pesce, Zdeborova, Krzakala, arXiv:2502.13961, Assumptions 1-3.
    """
    level = levels(target)[-1]
    k, mu = level.degree, link_of(target).coefficients
    size = math.sqrt(float(np.sum(mu**2)))
    exponent_p = information_exponent(level.coefficients)
    c = activation_coefficients(sigma, max(k, 2))
    composed = activation_coefficients(sigma, 2, compositions=2)
    slope = float(sigma.derivative("x")(x=np.array([0.0]))[0])
    zero = [j for j in range(2, k + 1) if abs(c[j]) <= ZERO * math.sqrt(float(np.sum(c**2)))]
    curved = [j for j in range(2, k + 1) if abs(mu[j]) > 1e-6 * size]
    p2 = float(level.coefficients[2]) if k >= 2 else 0.0
    smooth = not sigma.kinks("x")
    polynomial = bool(sigma.sympy().is_polynomial())
    composed_size = math.sqrt(float(np.sum(composed**2)))
    return (
        Assumption("A1.link", "E[g*(z) z] != 0", information_exponent(mu) == 1, f"mu_1 = {mu[1]:.6g}"),
        Assumption("A1.feature", "E[P_k z] = 0, E[P_k He_2] != 0", exponent_p == 2, f"lowest degree {exponent_p}"),
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
            "A2.c", "E[sigma(sigma(z)) z] = 0", abs(composed[1]) <= 1e-3 * composed_size,
            f"E[sigma(sigma(z)) z] = {composed[1]:.4g}",
        ),
        Assumption(
            "A3", "E[g*(z) He_j(z)] = 0 for 1 < j <= k", not curved,
            "all vanish" if not curved else ", ".join(f"mu_{j} = {mu[j]:.4f}" for j in curved),
        ),
        Assumption(
            "readout", "a*_i = 1 for every feature", target.readout == "ones", f"readout = {target.readout!r}"
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
    from scipy.optimize import brentq

    slopes = np.linspace(0.05, 1.5, 59)
    for a in shifts:

        def text(b: float, a: float = a) -> str:
            return f"tanh(x {'-' if a < 0 else '+'} {abs(a)!r}) - {b!r}*x"

        def composed(b: float, text: Callable[[float], str] = text) -> Array:
            return activation_coefficients(Expression(text(b)), 2, compositions=2)

        first = np.array([composed(float(b))[1] for b in slopes])
        for i in np.flatnonzero(first[:-1] * first[1:] < 0):
            b = float(brentq(lambda b, f=composed: f(b)[1], slopes[i], slopes[i + 1], xtol=1e-14))
            second = float(composed(b)[2])
            sigma = Expression(text(b))
            c = activation_coefficients(sigma, degree)
            at_zero = abs(1 - math.tanh(a) ** 2 - b)
            if second * sign > 1e-3 and at_zero > 1e-3 and bool(np.all(np.abs(c[2:]) > 1e-4)):
                return sigma.text, second
    raise DomainError("no admissible activation among the shifts", hint="give other shifts, or the opposite sign")


def sample_exponents(target: Hierarchical) -> tuple[float, ...]:
    """Return kappa_1 <= ... <= kappa_L, at which a deep network fully learns each level.

    kappa_l = max_{j <= l} (k_j eps_{j-1} + eps_j), with eps_0 = 1, k_1 = 1 for the linear level and eps_L = 0. Equal
    neighbours are merged jumps. Derived for this project from the paper's counting argument (its Sec. 2.5).
    """
    needs = [1.0 + target.exponents[0]]
    needs += [level.degree * level.exponent + level.output_exponent for level in levels(target)]
    return tuple(round(float(v), 12) for v in np.maximum.accumulate(needs))


def jumps(target: Hierarchical, learner: str, largest: float = 6.0) -> tuple[float, ...]:
    """Return the sample exponents kappa <= `largest` at which the error of a learner drops."""
    from .staircase import Staircase

    return Staircase.of(target).jumps(learner, largest)
