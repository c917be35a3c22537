"""Hermite analysis of a hierarchical target: its levels and its link.

Conventions. ``h_j`` are the orthonormal Hermite polynomials. Level 1 holds the linear features z = W* x, which are
exactly normal; level l + 1 is h_{l+1,m} = B^{-1/2} sum_i a_i P_l(h_{l,i}) over a block of B = d^{eps_l - eps_{l+1}}
features. Sums of many independent terms are asymptotically normal and He_m of them is, to leading order, the sum over
distinct indices of products (Dandi, Pesce, Zdeborova, Krzakala 2025, Prop. 9): every formula here is that limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError
from ...numerics.quadrature import gauss_normal, hermite_values
from ...problem.expressions import Expression
from ...problem.hierarchy import orthonormal_coefficients
from ...problem.moments import second_moment_fault

if TYPE_CHECKING:
    from ...problem import Hierarchical

Array = NDArray[np.float64]
# Sample exponents are compared with this slack: 3 * 0.1 must reach a threshold written 0.3.
EXPONENT_SLACK = 1e-9
# A coefficient counts as zero below this fraction of the function's root mean square.
ZERO = 1e-9


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


def _require_square(expression: Expression, scale: float) -> None:
    fault = second_moment_fault(expression, scale)
    if fault:
        raise DomainError(
            f"the link {expression.text!r} is not square-integrable under the normal law", where="target.link",
            why=fault, hint="use a link that is defined on the whole line and grows slower than exp(h^2/4)",
        )  # fmt: skip


@lru_cache(maxsize=64)
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
    _require_square(expression, scale)
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
        For more than four features, or if E[g^2] is not finite.
    """
    r = len(variables)
    if r > 4:
        raise DomainError(
            f"a link of {r} features cannot be expanded by quadrature", where="target.branches", hint="use at most 4"
        )
    _require_square(expression, scale)
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
