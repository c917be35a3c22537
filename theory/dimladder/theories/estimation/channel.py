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
from .equations import algebra
from .labels import Component, LabelLaw

Array = NDArray[np.float64]
# Panel widths in standard deviations of the field: where the proximal point is found by Newton's method, and where it
# is a closed form, so that averages are of polynomials on stretches (16 nodes on 2.4 give 17 digits).
PANEL, WIDE_PANEL = 0.75, 2.4
# Losses of the former kind are analytic in a strip only: panels in units of the field over the scale of the bend.
REACH = 1.0


class Averages(NamedTuple):
    """E f, E f^2, -E f', E d_z f, E l(prox), E l(omega), P(sign of the field differs from the label), E (f')^2.

    Under a posterior the fifth is -E ln Z, the mean training log-loss of the measure.
    """

    f: float
    ff: float
    fv: float
    fz: float
    loss: float
    test: float
    error: float
    curvature2: float


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

    @property
    def panel(self) -> float:
        """Panel width in standard deviations of the field."""
        return WIDE_PANEL if self.pieces.linear_slope else PANEL

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
    beta : float
        Inverse temperature of a posterior; 0 is the minimiser.
    """

    def __init__(self, loss: Loss, law: LabelLaw, rho: float, fineness: float = 1.0, beta: float = 0.0) -> None:
        self.loss, self.law, self.rho, self.fineness, self.beta = loss, law, rho, fineness, beta
        loss.check_convex(law.range(rho))
        if self.closed:
            self.moments = law.moments(rho)

    @property
    def closed(self) -> bool:
        """Whether the averages are closed forms: the square loss."""
        return self.loss.square != 0.0 and self.beta == 0.0

    @property
    def compiled(self) -> Any:
        """The averages as a compiled function of the state."""
        if self.closed:
            return algebra().square_channel
        from ...numerics import channels

        return channels.channel

    def data(self, observe: bool = False) -> Array:
        """What the compiled function reads; with losses and the sign error where it is to `observe`."""
        if self.closed:
            return np.array([self.loss.square, self.rho, *self.moments])
        from ...numerics import channels

        return channels.pack(
            self.loss.module(), [self._component(c) for c in self.law.components],
            width=self.loss.panel / self.fineness, reach=self.loss.strip / self.fineness, rho=self.rho,
            smooth=not self.loss.pieces.kinks, beta=self.beta, observe=observe,
        )  # fmt: skip

    def _component(self, c: Component) -> tuple[int, float, float, float, tuple[Any, ...]]:
        """Which integral a component needs, and its numbers."""
        from ...numerics import channels

        row = (c.probability, c.gain, c.variance(self.rho))
        if c.kind == "linear" and self.loss.of_residual:
            return channels.RESIDUAL, *row, (c.slope, c.intercept, c.outer)
        if c.kind == "thresholds":
            labels, table, offsets = c.table()
            # Where (z, y) and (-z, -y) are alike, positive labels hold everything.
            mirrored = self.law.discrete and 0.0 not in self.law.values and self.law.symmetric()
            return channels.THRESHOLDS, *row, (float(mirrored and self.loss.odd_labels), labels, offsets, table)
        t, w = c.nodes(self.rho)
        if c.kind == "logit":
            from scipy.special import expit

            return channels.CHANCES, *row, (w, t, c.flip + (1.0 - 2.0 * c.flip) * expit(c.function(t)))
        y, residual = c.function(t), self.loss.of_residual
        if not residual and c.outer > 0.0:
            x, v = np.polynomial.hermite_e.hermegauss(40)
            y = (y[:, None] + math.sqrt(c.outer) * x).ravel()
            w, t = (w[:, None] * (v / v.sum())).ravel(), np.repeat(t, x.size)
        return channels.NODES, *row, (float(residual), c.outer if residual else 0.0, w, t, y)
