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
from ...numerics.quadrature import gauss_hermite
from ...numerics.scalars import expit
from ...problem.expressions import Expression
from ...problem.losses import with_parameters
from ...symbolic import store
from ...symbolic.pieces import STABLE_SOURCE as HELPERS
from ...symbolic.pieces import Pieces, pieces
from .equations import algebra
from .labels import Component, LabelLaw

Array = NDArray[np.float64]
# Panel widths in standard deviations of the field: where the proximal point is found by Newton's method, and where it
# is a closed form, so that averages are of polynomials on stretches (16 nodes on 2.4 give 17 digits).
PANEL, WIDE_PANEL = 0.75, 2.4
# Losses of the former kind are analytic in a strip only: panels in units of the field over the scale of the bend.
REACH = 1.0
# Gauss-Hermite nodes of noise on a label that the loss does not see as y - f.
_NOISE_NODES = 40


class Averages(NamedTuple):
    """E f, E f^2, -E f', E l(prox), E l(omega), E d_z f, P(sign of the field differs from the label), E (f')^2.

    Under a posterior the fourth is -E ln Z, the mean training log-loss of the measure.
    """

    f: float
    ff: float
    fv: float
    loss: float
    test: float
    fz: float
    error: float
    curvature2: float


@dataclass(frozen=True)
class Loss:
    """A convex loss l(y, f), from its formula.

    Attributes
    ----------
    text : str
    formula : str or sympy expression
        In ``f`` and ``y``, real symbols. Of a text, sympy reads what the store does not have yet.
    """

    text: str
    formula: Any

    @cached_property
    def expression(self) -> Any:
        """The formula in sympy."""
        return Expression(self.formula, ("f", "y", "p*")).sympy() if isinstance(self.formula, str) else self.formula

    @cached_property
    def pieces(self) -> Pieces:
        """The loss as a function of f between its kinks."""
        import sympy as sp

        return pieces(self.expression, sp.Symbol("f", real=True), sp.Symbol("y", real=True))

    def module(self) -> ModuleType:
        """Return the compiled value, slope, curvature and roots."""
        return store.module(("estimation-loss", self.text, str(self.formula)), self._source, native=True)

    def several(self, which: str, y: float, u: Array) -> Array:
        """Return values, slopes or curvatures ("value", ...) at many fields for one label."""
        from ...numerics import proximal

        out = np.empty(u.size)
        index = ("value", "slope", "curvature").index(which)
        proximal.several.compiled(proximal.together(self.module()), index, float(y), np.ascontiguousarray(u), out)
        return out

    def _source(self) -> str:
        formula, numbers = with_parameters(self.text) if isinstance(self.formula, str) else ("", {})
        if not numbers:
            return self._derived()
        # Derived once for all numbers.
        kept = store.text(("estimation-loss", formula), __name__, lambda: Loss(formula, formula)._derived())
        constants = "\n".join(f"{name} = {value!r}" for name, value in numbers.items())
        return kept.replace(formula, self.text, 1).replace(HELPERS, f"\n{constants}\n{HELPERS}", 1)

    def _derived(self) -> str:
        text = self.pieces.source(f"Loss {self.text}: value, slope and curvature between kinks.")
        return f"{text}\n\n# c where the loss is c (y - f)^2/2.\nSQUARE = {self._square()!r}\n"

    @property
    def square(self) -> float:
        """c where the loss is c (y - f)^2/2, else 0."""
        return float(self.module().SQUARE)

    @property
    def kinked(self) -> bool:
        """Whether it has kinks."""
        return bool(self.module().KINKS)

    @property
    def linear_slope(self) -> bool:
        """Whether the slope of every piece is affine: the proximal point is then a closed form."""
        return bool(self.module().LINEAR_SLOPE)

    def _square(self) -> float:
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
        return WIDE_PANEL if self.linear_slope else PANEL

    @cached_property
    def strip(self) -> float:
        """Panel width in the field that resolves the proximal map: infinite for closed pieces, 1 for the logistic."""
        if self.linear_slope:
            return math.inf
        # The largest curvature over the square of the largest slope change tells the scale: logistic (y = 1) has 1/4.
        u = np.linspace(-12.0, 12.0, 4801)
        worst = float(np.max([self.several("curvature", y, u) for y in (-1.0, 1.0)]))
        ends = np.array([self.several("slope", y, u[[0, -1]]) for y in (-1.0, 1.0)])
        change = float(abs(np.max(ends) - np.min(ends))) / 2.0
        scale = change / (4.0 * worst) if math.isfinite(worst) and worst > 0 and math.isfinite(change) else 0.25
        return REACH * min(max(scale, 0.1), 1.0)

    def check_convex(self, labels: tuple[float, ...], reach: float = 8.0) -> None:
        """Refuse a loss that is not convex in f for one of these labels.

        Raises
        ------
        DerivationError
            With the label and the place.
        """
        checked = self.__dict__.setdefault("_checked", set())
        if (labels, reach) in checked:
            return
        self._check_convex(labels, reach)
        checked.add((labels, reach))

    def _check_convex(self, labels: tuple[float, ...], reach: float) -> None:
        m, kinks = self.module(), np.empty(16)
        for y in labels:
            u = y + np.linspace(-reach, reach, 801) + 1e-9
            curvature = self.several("curvature", y, u)
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


def vector(loss: Loss, law: LabelLaw, rho: float = 1.0, fineness: float = 1.0, beta: float = 0.0,
           panels: bool = False, node_width: float = 0.5) -> Array:  # fmt: skip
    """Return the numbers that `numerics.label_channel.law_averages` reads, for a latent field of variance rho.

    Parameters
    ----------
    fineness : float
        Divides the panel widths: the check of the quadrature halves them.
    beta : float
        Inverse temperature of a posterior; 0 is the minimiser.
    panels : bool
        Whether the quick routes are left out, for comparison.
    node_width : float
        Panel width of the nodes of the label's field, in its standard deviations.
    """
    from ...numerics import label_channel

    route = label_channel.PANELS
    if not panels and (beta > 0.0 or not loss.kinked):
        # The kinks of a loss are smoothed by a posterior, not by the proximal map.
        route = label_channel.TRAPEZOID
    if not panels and beta == 0.0 and loss.linear_slope:
        route = label_channel.CLOSED
    rows = [_component(loss, law, c, rho, node_width) for c in law.components]
    return label_channel.flatten(loss.module(), route, loss.panel / fineness, loss.strip / fineness, rows, beta)


def _component(loss: Loss, law: LabelLaw, c: Component, rho: float, width: float) -> Any:
    """Which integral a component needs, and its numbers."""
    from ...numerics import label_channel as numbers

    parts: list[Any]
    if c.kind == "linear" and loss.of_residual:
        kind, parts = numbers.RESIDUAL, [c.slope, c.intercept]
    elif c.kind == "thresholds":
        labels, table, offsets = c.table()
        # Where (t, y) and (-t, -y) are alike, positive labels hold everything.
        mirrored = law.discrete and 0.0 not in law.values and law.symmetric() and loss.odd_labels
        kind, parts = numbers.THRESHOLDS, [mirrored, labels.size, len(table), labels, offsets, table]
    else:
        t, w = c.nodes(rho, width=width)
        if c.kind == "logit":
            chance = c.flip + (1.0 - 2.0 * c.flip) * expit(c.function(t))
            kind, parts = numbers.CHANCES, [t.size, w, t, chance]
        else:
            y = c.function(t)
            if not loss.of_residual and c.outer > 0.0:
                x, v = gauss_hermite(_NOISE_NODES)
                y = (y[:, None] + math.sqrt(c.outer) * x).ravel()
                w, t = (w[:, None] * v).ravel(), np.repeat(t, x.size)
            kind, parts = numbers.NODES, [loss.of_residual, t.size, w, t, y]
    data = np.concatenate([np.atleast_1d(np.asarray(part, dtype=float)).ravel() for part in parts])
    return numbers.Component(kind, c.probability, c.gain, c.variance(rho), c.outer, data)


class Channel:
    """Averages over the label law for one loss.

    Parameters
    ----------
    loss : Loss
    law : LabelLaw
    rho : float
        Variance of the latent field.
    fineness, beta : float
        As of `vector`.
    """

    def __init__(self, loss: Loss, law: LabelLaw, rho: float, fineness: float = 1.0, beta: float = 0.0) -> None:
        self.loss, self.law, self.rho, self.fineness, self.beta = loss, law, rho, fineness, beta
        if self.closed:
            self.moments = law.moments(rho)
        else:
            loss.check_convex(tuple(law.range(rho)))

    @property
    def closed(self) -> bool:
        """Whether the averages are closed forms of the label's moments: the square loss."""
        return self.loss.square > 0.0 and self.beta == 0.0

    @property
    def compiled(self) -> Any:
        """The averages as a compiled function of the state, of the type of `numerics.label_channel.law_averages`."""
        if self.closed:
            return algebra().square_channel
        from ...numerics import label_channel

        return label_channel.law_averages.compiled

    def data(self) -> Array:
        """What the compiled function reads."""
        if self.closed:
            return np.array([self.loss.square, self.rho, *self.moments])
        return vector(self.loss, self.law, self.rho, self.fineness, self.beta)
