"""Targets that several theories share."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from .activations import activation
from .expressions import Expression, HermiteConvention
from .spec import Coefficients, Spec


class Committee(Spec, frozen=True, kw_only=True, tag_field="kind", tag="committee"):
    """y = sum_m readout_m g(w*_m . x / sqrt d) + noise xi, with overlap_mn = w*_m . w*_n / d."""

    activation: str = "erf"
    readout: tuple[float, ...]
    overlap: tuple[tuple[float, ...], ...] = ()
    noise: float = 0.0

    def __post_init__(self) -> None:
        activation(self.activation)
        check_noise(self.noise)
        m = len(self.readout)
        if m == 0:
            raise ValueError("readout must have at least one entry: it sets the number of teacher units")
        if self.overlap and (len(self.overlap) != m or any(len(row) != m for row in self.overlap)):
            raise ValueError(f"overlap must be a {m} x {m} matrix, one row a teacher unit")


class SingleIndex(Spec, frozen=True, kw_only=True, tag_field="kind", tag="single-index"):
    """y = link(z) + noise xi, z = w* . x / sqrt d, |w*|^2 = d. ``He`` in the link follows `hermite`."""

    link: str
    noise: float = 0.0
    hermite: HermiteConvention = "probabilists"

    def __post_init__(self) -> None:
        check_noise(self.noise)
        Expression(self.link, ("z",), self.hermite)

    @property
    def expression(self) -> Expression:
        """The link as a formula in ``z``."""
        return Expression(self.link, ("z",), self.hermite)


class MultiIndex(Spec, frozen=True, kw_only=True, tag_field="kind", tag="multi-index"):
    """y = expression(z1, z2, ...) + noise xi, with orthonormal hidden directions."""

    expression: str
    noise: float = 0.0
    hermite: HermiteConvention = "orthonormal"

    def __post_init__(self) -> None:
        check_noise(self.noise)
        if not Expression(self.expression, "z*", self.hermite).variables:
            raise ValueError("the expression must use at least one teacher field z1, z2, ...")

    @property
    def formula(self) -> Expression:
        """The target as a formula in ``z1, z2, ...``."""
        return Expression(self.expression, "z*", self.hermite)


class Hierarchical(Spec, frozen=True, kw_only=True, tag_field="kind", tag="hierarchical"):
    """f*(x) = link(h), h a tree of polynomial features of d^eps_1, d^eps_2, ... hidden directions.

    ``features[l]`` holds the coefficients of the level-(l+1) polynomial on Hermite polynomials of the given convention.
    With ``branches = r > 1`` the link is a formula in ``h1 ... hr``, r such trees on orthogonal hidden directions.
    """

    exponents: tuple[float, ...]
    features: tuple[Coefficients, ...]
    link: str
    readout: Literal["ones", "rademacher", "gaussian"] | tuple[float, ...] = "ones"
    noise: float = 0.0
    hermite: HermiteConvention = "orthonormal"
    branches: int = 1

    def __post_init__(self) -> None:
        check_noise(self.noise)
        if self.branches < 1:
            raise ValueError(f"branches must be at least 1, got {self.branches}")
        used = self.expression.variables
        if not used:
            raise ValueError(f"the link must depend on {'h' if self.branches == 1 else 'h1, h2, ...'}")
        if isinstance(self.readout, tuple) and not any(self.readout):
            raise ValueError("a given readout must have a non-zero entry")
        if not self.exponents:
            raise ValueError("exponents must list at least one effective-dimension exponent")
        chain = (1.0, *self.exponents, 0.0)
        if any(b >= a for a, b in pairwise(chain)):
            raise ValueError(f"exponents must decrease strictly inside (0, 1), got {list(self.exponents)}")
        if len(self.features) != len(self.exponents):
            raise ValueError(
                f"features must have one polynomial for each exponent: got {len(self.features)} for "
                f"{len(self.exponents)} exponent(s)"
            )
        for level, coefficients in enumerate(self.features):
            if not any(k >= 1 and c != 0 for k, c in coefficients.items()):
                raise ValueError(f"features[{level}] must have a non-zero coefficient of degree 1 or more")

    @property
    def link_variables(self) -> tuple[str, ...]:
        """Names of the scalar features the link acts on: ``h``, or ``h1 ... hr`` with r branches."""
        return ("h",) if self.branches == 1 else tuple(f"h{m}" for m in range(1, self.branches + 1))

    @property
    def expression(self) -> Expression:
        """The link as a formula in `link_variables`."""
        return Expression(self.link, self.link_variables, self.hermite)


def check_noise(noise: float) -> None:
    """Raise `ValueError` for a negative or infinite standard deviation of the label noise."""
    if not (noise >= 0 and math.isfinite(noise)):
        raise ValueError(f"noise is a standard deviation: it must be finite and not negative, got {noise}")
