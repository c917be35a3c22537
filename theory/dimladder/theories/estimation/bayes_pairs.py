"""Bayes-optimal channel of targets with two latent fields that are alike: one overlap for both.

A target that stays the same when z1 and z2 are exchanged, and that keeps its law (up to relabelling y) when one of them
changes sign, has overlaps Q = q 1. One number is then left, and I(q) = E sum_y (d_1 Z)^2/Z closes the equations as for
one field; free entropies count both fields. Two kinds of formulas are integrated: functions of the signs of z1 and z2,
and y = a(z1) + b(z1) z2 + noise.

Sources: Aubin et al. 2018 (committee machines), Troiani et al. 2024 (weak recovery of multi-index models).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DerivationError
from ...numerics.scalars import ndtr
from ...symbolic.equations import latex
from ...symbolic.systems import Equation
from .label_chances import panels

Array = NDArray[np.float64]


def affine_parts(
    target: Any, refuse: Callable[[str, str], DerivationError], why: str, hint: str
) -> tuple[Callable[[Any], Any], Callable[[Any], Any], float]:
    """Return a and b of a label ``a(z1) + b(z1) z2 + noise``, as functions of arrays, and the variance of the noise.

    Raises
    ------
    DerivationError
        What `refuse` makes of `why` and `hint`, where the label is not of that form, or has no noise.
    """
    import sympy as sp

    e = target.expression.sympy()
    z1, z2 = sp.Symbol("z1", real=True), sp.Symbol("z2", real=True)
    noise2 = target.noise**2
    for name in target.noises:
        n = sp.Symbol(name, real=True)
        if not sp.diff(e, n).is_number:
            raise refuse("noise must be added to the label", "write ... + 0.5*n1")
        noise2 += float(sp.diff(e, n)) ** 2
        e = e.subs(n, 0)
    slope = sp.diff(e, z2)
    if slope.has(z2) or e.has(sp.sign, sp.Heaviside, sp.Abs) or noise2 == 0.0:
        raise refuse(why, hint)
    modules = ["scipy", "numpy"]
    offset = sp.lambdify(z1, e.subs(z2, 0), modules=modules)
    return offset, sp.lambdify(z1, slope, modules=modules), float(noise2)


class PairChannel:
    """I(q) and Psi(q) of a target in z1, z2.

    Parameters
    ----------
    target : Index
        Of two directions that are `alike`.

    Raises
    ------
    DerivationError
        For a target of neither kind.
    """

    fields = 2
    rho = 1.0

    def __init__(self, target: Any) -> None:
        self.target = target
        self.expression = target.expression
        if target.outliers is not None or target.is_logit or target.flip:
            raise self._refuse("outliers, logit and flips are read for one field", "use one latent field")
        if self._of_signs():
            self.route = "signs"
        else:
            self.route = "affine"
            self._affine()
        self.reach, self.points = ((1e-6, 1e7), 105) if self.route == "signs" else ((1e-3, 1e3), 25)

    def _refuse(self, why: str, hint: str) -> DerivationError:
        return DerivationError(
            "this target of two fields is not solved", where=f"target.formula = {self.target.formula!r}", why=why,
            hint=hint,
        )  # fmt: skip

    def _of_signs(self) -> bool:
        if self.target.noises or self.target.noise:
            return False
        z1, z2 = np.random.default_rng(1).standard_normal((2, 400))
        z = np.array([z1, z2])
        return bool(np.array_equal(self.target.clean(z), self.target.clean(np.sign(z))))

    def _affine(self) -> None:
        self.offset, self.slope, self.noise2 = affine_parts(
            self.target, self._refuse,
            "it is neither a function of the signs of z1 and z2, nor affine in z2 with added noise",
            "use a target such as sign(z1*z2) or z1*z2 + 0.5*n1",
        )  # fmt: skip

    @property
    def discrete(self) -> bool:
        """Whether labels take finitely many values."""
        return self.route == "signs"

    def label_rows(self) -> list[Equation]:
        """Return the law of the label, printed."""

        added = rf" + {self.target.noise:g}\,\xi" if self.target.noise else ""
        return [Equation("label", f"y = {latex(self.expression.sympy())}{added}", None, "the label")]

    def information(self, q: float, V: float) -> tuple[float, float]:
        """I(q) of either field, and Psi(q)."""
        return self._signs(q, V) if self.route == "signs" else self._densities(q, V)

    def _ends(self, q: float, V: float) -> set[float]:
        s, spread = math.sqrt(q), math.sqrt(V)
        if q == 0.0 or spread > 3.0 * s:
            return {0.0}
        return {k * spread / s for k in (0.0, 0.5, 1.0, 2.0, 3.5, 6.0, 10.0, 20.0)}

    def _chances(self, q: float, V: float) -> tuple[Array, Array, Array]:
        """P(y | omega), its derivative in omega_1 and weights, over labels and a quadrant's nodes of both fields."""
        x, w = panels(self._ends(q, V), 1.0)
        # Reflections permute the labels: positive omega_1 and omega_2 suffice.
        x, w = x[x > 0], 2.0 * w[x > 0]
        a = math.sqrt(q) * x / math.sqrt(V)
        plus = {1: ndtr(a), -1: ndtr(-a)}
        push = np.exp(-(a**2) / 2) / math.sqrt(2 * math.pi * V)
        values: dict[float, list[tuple[int, int]]] = {}
        for s1 in (1, -1):
            for s2 in (1, -1):
                y = float(self.target.clean(np.array([[float(s1)], [float(s2)]]))[0])
                values.setdefault(y, []).append((s1, s2))
        Z = np.array([sum(plus[s1][:, None] * plus[s2][None, :] for s1, s2 in pairs) for pairs in values.values()])
        dZ = np.array([sum(s1 * push[:, None] * plus[s2][None, :] for s1, s2 in pairs) for pairs in values.values()])
        return Z, dZ, w[:, None] * w[None, :]

    def _signs(self, q: float, V: float) -> tuple[float, float]:
        Z, dZ, w = self._chances(q, V)
        with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
            info = np.where(Z > 1e-290, dZ**2 / np.where(Z > 0, Z, 1.0), 0.0)
            entropy = Z * np.log(np.where(Z > 0.0, Z, 1.0))
        return float((info.sum(0) * w).sum()), float((entropy.sum(0) * w).sum())

    def error(self, q: float, V: float) -> float:
        """Probability that the likeliest label is wrong."""
        Z, _, w = self._chances(q, V)
        return float(((1.0 - Z.max(0)) * w).sum())

    def _densities(self, q: float, V: float) -> tuple[float, float]:
        # omega in a quadrant; z1 given omega_1 by the trapezoidal rule; y on a grid.
        s, rv = math.sqrt(q), math.sqrt(V)
        x, w = panels({0.0}, 3.2)
        x, w = x[x > 1e-12], 2.0 * w[x > 1e-12]
        keep = w > 1e-11
        x, w = s * x[keep], w[keep]
        g = np.linspace(-7.0, 7.0, 33)
        pg = np.exp(-(g**2) / 2)
        pg /= pg.sum()
        probe = np.linspace(-6.0, 6.0, 241)
        a, b = (np.abs(np.broadcast_to(f(probe), probe.shape)) for f in (self.offset, self.slope))
        top = float(np.max(a * (np.abs(probe) < 5) + 5.0 * b * (np.abs(probe) < 5))) + 6.0 * math.sqrt(self.noise2)
        y = np.linspace(-top, top, 2 * math.ceil(top / (math.sqrt(self.noise2) / 2)) + 1)
        info = psi = 0.0
        for omega1, w1 in zip(x, w, strict=True):
            z1 = omega1 + rv * g
            shift = np.broadcast_to(self.offset(z1), z1.shape)
            slope = np.broadcast_to(self.slope(z1), z1.shape)
            variance = self.noise2 + slope**2 * V
            gap = y[:, None, None] - shift - slope * x[:, None]
            d = np.exp(-(gap**2) / (2 * variance)) / np.sqrt(2 * math.pi * variance)
            Z = d @ pg
            # Both derivatives have the same mean square over the whole plane; in a quadrant take their mean.
            first, second = d @ (pg * g) / rv, (d * gap * (slope / variance)) @ pg
            safe = np.maximum(Z, 1e-250)
            weight = w1 * w * (y[1] - y[0])
            info += float(np.sum((first**2 + second**2) / (2.0 * safe) * weight))
            psi += float(np.sum(Z * np.log(safe) * weight))
        return info, psi

    def weak_recovery(self, strength: float) -> float:
        """Sample ratio at which the target begins to be seen: the limit of qh/I(q) at small q, extrapolated."""
        small = 1e-4 if self.route == "affine" else 1e-6
        if self.information(0.0, 1.0)[0] > 1e-12:
            return 0.0
        first, second = (self.information(q, 1.0 - q)[0] / q for q in (small, 2 * small))
        rate = 2.0 * first - second
        return math.inf if rate < 1e-9 else 1.0 / (rate * strength)
