"""Bayes-optimal estimation with one latent field: the whole bifurcation diagram as one explicit curve.

State evolution is q = q(qh), qh = alpha I(q). Read backwards it needs no iteration: alpha(qh) = qh/I(q(qh)) on a grid
of qh, whose monotone pieces are the branches and whose extrema are the spinodals. The uninformed branch (what message
passing reaches from nothing) is the first crossing from qh = 0, the informed one the last. Free entropy per dimension
Phi = psi(qh) + alpha Psi(q) - q qh/2; the larger is the posterior's, and where the two branches tie lies the
first-order transition.

Sources: Barbier et al. 2019 (generalised linear models), Gyorgyi 1990 (binary perceptron), Mondelli & Montanari 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...numerics.differences import fourth_order
from ...numerics.scalars import find_minimum, find_root
from .bayes_channel import BayesChannel
from .bayes_pairs import PairChannel

Array = NDArray[np.float64]
# The table of the curve ends where 1 - q falls below this.
_FLOOR = 1e-13
# Steps of ln qh for the slope of the curve.
SLOPE_STEP = 0.01


@dataclass(frozen=True)
class State:
    """One point of the curve: the conjugate, the overlap, what is missing of it, and the sample ratio it solves."""

    qh: float
    q: float
    rest: float
    alpha: float
    free_entropy: float


class BayesStates:
    """The states of the state evolution, each at the sample ratio that it solves.

    Parameters
    ----------
    channel : BayesChannel or PairChannel
    prior : object
        ``overlap(qh) -> (q, 1 - q)``, ``free_entropy(qh)``, mean square 1.
    cells : tuple of (share, strength)
        Shares of the dimensions and om t of each: eigenvalue times mean square of w*; shares . strengths = rho.
    """

    def __init__(
        self, channel: BayesChannel | PairChannel, prior: Any, cells: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    ):
        self.channel, self.prior, self.cells = channel, prior, cells
        self.rho = channel.rho

    def overlap(self, qh: float) -> tuple[float, float, float]:
        """q, rho - q and psi."""
        q = rest = psi = 0.0
        for share, strength in self.cells:
            a, b = self.prior.overlap(qh * strength)
            q += share * strength * a
            rest += share * strength * b
            psi += share * self.prior.free_entropy(qh * strength)
        return q, rest, self.channel.fields * psi

    def at(self, qh: float) -> State:
        """The point of the curve with this conjugate."""
        q, rest, psi = self.overlap(qh)
        info, entropy = self.channel.information(q, rest)
        alpha = qh / info if info > 0.0 else math.inf
        free = psi + alpha * entropy - self.channel.fields * q * qh / 2.0 if math.isfinite(alpha) else math.nan
        return State(qh, q, rest, alpha, free)

    def nothing(self, alpha: float) -> State:
        """Nothing is known."""
        _, entropy = self.channel.information(0.0, self.rho)
        return State(0.0, 0.0, self.rho, alpha, alpha * entropy)

    def everything(self, alpha: float) -> State:
        """The target is known."""
        if self.prior.entropy is None or self.channel.route == "even":
            # Weights of a continuous law, or labels with a density, known exactly: an infinite gain.
            return State(math.inf, self.rho, 0.0, alpha, math.inf)
        _, entropy = self.channel.information(self.rho, 1e-30 * self.rho)
        return State(math.inf, self.rho, 0.0, alpha, alpha * entropy - self.channel.fields * self.prior.entropy)

    def weak_recovery(self) -> float:
        """alpha as q -> 0: the weak-recovery threshold of symmetric labels, zero for others."""
        # dq/dqh at zero.
        return self.channel.weak_recovery(sum(share * strength**2 for share, strength in self.cells))

    def slope(self, log_qh: float) -> float:
        """d ln alpha/d ln qh, which vanishes at the extrema."""
        value, _ = fourth_order(lambda h: np.array([math.log(self.at(math.exp(log_qh + h)).alpha)]), SLOPE_STEP)
        return float(value[0])


class BayesCurve(BayesStates):
    """alpha(qh) with its branches; parameters as of `BayesStates`."""

    def __init__(
        self, channel: BayesChannel | PairChannel, prior: Any, cells: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    ):
        super().__init__(channel, prior, cells)
        grid = np.geomspace(*channel.reach, channel.points)
        points = []
        for qh in grid:
            point = self.at(float(qh))
            if point.rest < _FLOOR * self.rho:
                break
            points.append(point)
        self.points = points
        self.alphas = np.array([p.alpha for p in points])
        self.turns = self._turning()
        # With its extrema in the table every crossing lies between two neighbours.
        self.points = sorted([*points, *self.turns], key=lambda p: p.qh)
        self.alphas = np.array([p.alpha for p in self.points])
        self.start = self.weak_recovery()
        self.spontaneous = self.start == 0.0

    @property
    def complete(self) -> bool:
        """Whether q = rho is a solution at finite alpha: the end of the curve falls to a finite alpha."""
        # The curve of a target that stays uncertain ends rising.
        return bool(self.points[-1].rest < 1e-6 * self.rho and self.alphas[-1] <= self.alphas[-2] * (1.0 + 1e-6))

    def _turning(self) -> list[State]:
        """Extrema of alpha(qh) inside the table: the spinodals, in the order of qh."""
        out = []
        log_qh = np.log([p.qh for p in self.points])
        for i in range(1, len(self.points) - 1):
            left, right = self.alphas[i] - self.alphas[i - 1], self.alphas[i + 1] - self.alphas[i]
            # Rounding makes plateaus wiggle.
            if left * right < 0 and min(abs(left), abs(right)) > 1e-12 * self.alphas[i]:
                sign = -1.0 if left > 0 else 1.0

                def turned(t: float, sign: float = sign) -> float:
                    return sign * self.at(math.exp(t)).alpha

                out.append(self.at(math.exp(find_minimum(turned, log_qh[i - 1], log_qh[i + 1], xtol=1e-9).x)))
        return out

    def _root(self, alpha: float, i: int) -> State:
        """The crossing of alpha between table points i and i + 1."""
        low, high = math.log(self.points[i].qh), math.log(self.points[i + 1].qh)
        t = find_root(lambda x: math.log(self.at(math.exp(x)).alpha / alpha), low, high, xtol=1e-14, rtol=1e-14)
        return self.at(math.exp(float(t)))

    def uninformed(self, alpha: float) -> State:
        """Where the iteration from q = 0+ stops: the first crossing."""
        if not self.spontaneous and self.start >= alpha:
            return self.nothing(alpha)
        above = np.flatnonzero(self.alphas >= alpha)
        if above.size == 0:
            return self.everything(alpha)
        first = int(above[0])
        if first == 0:
            return self._refine_start(alpha)
        return self._root(alpha, first - 1)

    def _refine_start(self, alpha: float) -> State:
        """Below the table: qh proportional to alpha for labels that inform at q = 0."""
        qh = alpha / self.points[0].alpha * self.points[0].qh
        for _ in range(50):
            q, rest, _ = self.overlap(qh)
            new = alpha * self.channel.information(q, rest)[0]
            if abs(new - qh) <= 1e-14 * qh:
                break
            qh = new
        point = self.at(qh)
        return State(qh, point.q, point.rest, alpha, point.free_entropy)

    def informed(self, alpha: float) -> State:
        """Where the iteration from q = rho stops: the last crossing, or full recovery."""
        if self.complete and self.alphas[-1] <= alpha:
            return self.everything(alpha)
        below = np.flatnonzero(self.alphas <= alpha)
        if below.size == 0:
            if self.spontaneous:
                return self._refine_start(alpha)
            return self.nothing(alpha)
        last = int(below[-1])
        if last + 1 >= len(self.points):
            return self.everything(alpha)
        return self._root(alpha, last)

    @property
    def maximum(self) -> State | None:
        """The first maximum of alpha, where the uninformed branch ends."""
        return next((p for p in self.turns if self._is_maximum(p)), None)

    def thresholds(self) -> dict[str, float]:
        """Weak recovery, spinodal (where the uninformed branch ends), first-order transition; NaN: there is none."""
        out = {"weak": self.start, "spinodal": math.nan, "first-order": math.nan}
        turns = self.turns
        upper = self.maximum.alpha if self.maximum else math.nan
        if not self.spontaneous and math.isnan(upper) and self.alphas[0] > self.alphas[min(5, len(self.alphas) - 1)]:
            # Recovery jumps where it begins.
            upper = self.start
        out["spinodal"] = upper
        if math.isnan(upper):
            return out
        lows = [p.alpha for p in turns if not self._is_maximum(p) and p.alpha < upper]
        low = max(lows) if lows else (float(self.alphas[-1]) if self.complete else math.nan)
        if math.isnan(low):
            return out

        lowest, floor = low * (1.0 + 1e-9), 1e-3 * upper
        low = max(lowest, floor)

        def gap(alpha: float) -> float:
            return self.informed(alpha).free_entropy - self.uninformed(alpha).free_entropy

        high = upper * (1.0 - 1e-9)
        if gap(low) >= 0.0:
            out["first-order"] = low if lowest > floor else 0.0
        elif gap(high) > 0.0:
            out["first-order"] = float(find_root(gap, low, high, xtol=1e-13, rtol=1e-13))
        return out

    def _is_maximum(self, point: State) -> bool:
        return self.at(point.qh * 1.01).alpha < point.alpha


__all__: list[Any] = ["BayesCurve", "BayesStates", "State"]
