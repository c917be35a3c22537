"""The channel of a minimiser: averages of the force f over the field and the label, for any loss and any label law."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import DerivationError
from ...symbolic.pieces import Pieces, pieces
from .labels import Component, LabelLaw

Array = NDArray[np.float64]
# Panel widths: standard deviations of the field, and (for losses whose proximal point is found by Newton's method,
# hence analytic in a strip only) units of the field over the scale at which the loss bends.
PANEL, REACH = 0.75, 1.0


class Averages(NamedTuple):
    """E f, E f^2, -E f', E d_z f, E l(prox), E l(omega), P(sign of the field differs from the label)."""

    f: float
    ff: float
    fv: float
    fz: float
    loss: float
    test: float
    error: float


@dataclass(frozen=True)
class Loss:
    """A convex loss l(y, f), from its formula.

    Attributes
    ----------
    text : str
    expression : sympy expression
        In real symbols ``f`` and ``y``.
    """

    text: str
    expression: Any

    @cached_property
    def pieces(self) -> Pieces:
        """The loss as a function of f between its kinks."""
        import sympy as sp

        return pieces(self.expression, sp.Symbol("f", real=True), sp.Symbol("y", real=True))

    def module(self) -> ModuleType:
        """Return the compiled value, slope, curvature and roots."""
        from ...symbolic import store

        return store.module(("estimation-loss", self.text, str(self.expression)), self._source)

    def _source(self) -> str:
        return self.pieces.source(f"Loss {self.text}: value, slope and curvature between kinks.")

    @cached_property
    def square(self) -> float:
        """c where the loss is c (y - f)^2/2, else 0."""
        import sympy as sp

        f, y = sp.Symbol("f", real=True), sp.Symbol("y", real=True)
        c = sp.diff(self.expression, f, 2)
        if self.pieces.kinks or not c.is_number or sp.expand(self.expression - c * (y - f) ** 2 / 2) != 0:
            return 0.0
        return float(c)

    @cached_property
    def of_residual(self) -> bool:
        """Whether the loss depends on y - f alone."""
        rng = np.random.default_rng(0)
        y, f, shift = rng.normal(size=(3, 50))
        m = self.module()
        a = np.array([m.value(b, c, c) for b, c in zip(y, f, strict=True)])
        moved = np.array([m.value(b + s, c + s, c + s) for b, c, s in zip(y, f, shift, strict=True)])
        return bool(np.max(np.abs(a - moved)) <= 1e-12 * (1.0 + np.max(np.abs(a))))

    @cached_property
    def odd_labels(self) -> bool:
        """Whether l(-y, -f) = l(y, f)."""
        m = self.module()
        pairs = np.random.default_rng(1).normal(size=(50, 2))
        a = np.array([m.value(y, f, f) for y, f in pairs])
        b = np.array([m.value(-y, -f, -f) for y, f in pairs])
        return bool(np.max(np.abs(a - b)) <= 1e-13 * (1.0 + np.max(np.abs(a))))

    @cached_property
    def strip(self) -> float:
        """Panel width in the field that resolves the proximal map: infinite for closed pieces, 1 for the logistic."""
        if self.pieces.linear_slope:
            return math.inf
        # The largest curvature over the square of the largest slope change tells the scale: logistic (y = 1) has 1/4.
        u = np.linspace(-12.0, 12.0, 4801)
        m = self.module()
        worst = max(m.curvature(y, x, x) for y in (-1.0, 1.0) for x in u)
        ends = [m.slope(y, x, x) for y in (-1.0, 1.0) for x in (-12.0, 12.0)]
        change = abs(max(ends) - min(ends)) / 2.0
        scale = change / (4.0 * worst) if math.isfinite(worst) and worst > 0 and math.isfinite(change) else 0.25
        return REACH * min(max(scale, 0.1), 1.0)

    def check_convex(self, labels: Array, reach: float = 8.0) -> None:
        """Refuse a loss that is not convex in f for one of these labels.

        Raises
        ------
        DerivationError
            With the label and the place.
        """
        m, kinks = self.module(), np.empty(16)
        for y in labels:
            u = y + np.linspace(-reach, reach, 801) + 1e-9
            curvature = np.array([m.curvature(float(y), x, x) for x in u])
            size = np.max(np.abs(curvature[np.isfinite(curvature)]), initial=1.0)
            bad = np.flatnonzero(curvature < -1e-9 * size)
            number = m.roots(float(y), kinks)
            jumps = [
                (float(k), m.slope(float(y), k, k + 1e-7) - m.slope(float(y), k, k - 1e-7)) for k in kinks[:number]
            ]
            drop = [k for k, jump in jumps if jump < -1e-9]
            if bad.size or drop:
                where = float(u[bad[0]]) if bad.size else drop[0]
                raise DerivationError(
                    f"the loss {self.text!r} is not convex",
                    where=f"y = {y:g}, f = {where:.4g}",
                    why="with several minima the replica-symmetric equations are not exact",
                    hint="use a convex loss: square, logistic, hinge, huber, abs, quantile, or a formula with l'' >= 0",
                )


class Channel:
    """Averages over the label law for one loss.

    Parameters
    ----------
    loss : Loss
    law : LabelLaw
    rho : float
        Variance of the latent field.
    fineness : float
        Divides the panel widths: the check of the quadrature halves them.
    """

    def __init__(self, loss: Loss, law: LabelLaw, rho: float, fineness: float = 1.0) -> None:
        self.loss, self.law, self.rho, self.fineness = loss, law, rho, fineness
        loss.check_convex(law.range(rho))
        if self.closed:
            self.moments = law.moments(rho)
        else:
            self.compiled = loss.module()
            # Where (z, y) and (-z, -y) are alike, positive labels hold everything.
            self.mirrored = law.discrete and 0.0 not in law.values and law.symmetric() and loss.odd_labels
            self._nodes = {c: self.outer(c) for c in law.components if self.route(c) == "nodes"}

    @property
    def closed(self) -> bool:
        """Whether the averages are closed forms: the square loss."""
        return self.loss.square != 0.0

    def route(self, c: Component) -> str:
        """Which integral a component needs: ``residual``, ``thresholds``, or ``nodes`` of the teacher field."""
        if c.kind == "linear" and self.loss.of_residual:
            return "residual"
        if c.kind == "thresholds":
            return "thresholds"
        return "nodes"

    def outer(self, c: Component) -> tuple[Array, Array, Array, bool]:
        """Weights, fields t and labels of the nodes, and whether the loss acts on y - u alone."""
        t, w = c.nodes(self.rho)
        if c.kind == "logit":
            from scipy.special import expit

            p = c.flip + (1.0 - 2.0 * c.flip) * expit(c.function(t))
            return (
                np.concatenate([w * p, w * (1.0 - p)]), np.concatenate([t, t]),
                np.repeat([1.0, -1.0], t.size), False,
            )  # fmt: skip
        if not self.loss.of_residual and c.outer > 0.0:
            x, v = np.polynomial.hermite_e.hermegauss(40)
            v = v / v.sum()
            y = (c.function(t)[:, None] + math.sqrt(c.outer) * x).ravel()
            return (w[:, None] * v).ravel(), np.repeat(t, x.size), y, False
        return w, t, c.function(t), self.loss.of_residual

    def averages(self, V: float, q: float, m: float, b: float = 0.0) -> Averages:
        """Averages at one state; NaN outside the domain (q rho < m^2, q or V not positive)."""
        nan = Averages(*[math.nan] * 7)
        if not (V > 0.0 and q > 0.0 and q * self.rho > m * m and math.isfinite(V + q + m + b)):
            return nan
        if self.closed:
            from .equations import algebra

            k = self.loss.square
            f, ff, fv, fz, loss, test = algebra().square(V * k, q, m, b, *self.moments)
            return Averages(k * f, k * k * ff, k * fv, k * fz, k * loss, k * test, math.nan)
        total, fz = np.zeros(7), 0.0
        for c in self.law.components:
            out = self._component(c, V, q, m, b)
            total += c.probability * out
            fz += c.probability * c.gain * out[5]
        return Averages(total[0], total[1], total[2], fz, total[3], total[4], total[6])

    def _component(self, c: Component, V: float, q: float, m: float, b: float) -> Array:
        from ...numerics import proximal

        out = np.zeros(7)
        k = self.compiled
        width, reach = PANEL / self.fineness, self.loss.strip / self.fineness
        rho, cross = c.variance(self.rho), c.gain * m
        route = self.route(c)
        if route == "residual":
            # y - omega is one Gaussian variable; f falls as y rises by as much as it does as omega falls.
            slope, none = c.slope, np.empty((0, 3))
            var = slope**2 * rho + c.outer - 2.0 * slope * cross + q
            mean = b - c.intercept
            proximal.averages(
                k.value, k.slope, k.curvature, k.roots, 0.0, mean, var, V, min(width, reach / math.sqrt(var)), none,
                0.0, 0.0, 1.0, out,
            )  # fmt: skip
            out[5], out[6] = slope * out[2], math.nan
        elif route == "thresholds":
            labels, table, offsets = c.table()
            half = self.mirrored and b == 0.0
            if half:
                # Labels are sorted from the largest.
                labels = labels[labels > 0.0]
            proximal.thresholds_averages(
                k.value, k.slope, k.curvature, k.roots, labels, table, offsets, b, V, q, cross, rho, width, reach, out
            )
            if half:
                out *= 2.0
                out[0] = 0.0
        else:
            w, t, y, residual = self._nodes[c]
            noise = c.outer if residual else 0.0
            proximal.outer_averages(
                k.value, k.slope, k.curvature, k.roots, w, t, y, residual, b, V, q, cross, rho, noise, width, reach, out
            )
            if residual:
                out[6] = math.nan
        return out
