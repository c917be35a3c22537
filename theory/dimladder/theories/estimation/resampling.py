"""Two fits of one data set that differ in how often each sample counts: bootstrap, subsampling, fresh samples.

Both have the state (V, q, m) of a fit whose samples have random weights; what is new is the overlap of the two, a root
of one scalar equation (`equations.blocks`, groups ``pair...``). Source: Clarte, Vandenbroucque, Dalle, Loureiro,
Krzakala & Zdeborova 2024.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DerivationError, SolveError
from ...numerics import resampled_channel
from ...numerics.scalars import find_root
from .channel import Channel, Loss, vector
from .equations import evaluated
from .labels import LabelLaw, constant_law
from .minimiser import Point

Array = NDArray[np.float64]
# Weights of smaller probabilities are left out.
_LEAST = 1e-16


def weight_law(resampling: str, fraction: float) -> tuple[Array, Array]:
    """Return the values that the weight of a sample takes and their probabilities; (1) where all samples count once."""
    if resampling == "subsample":
        return np.array([0.0, 1.0]), np.array([1.0 - fraction, fraction])
    if resampling != "bootstrap":
        return np.ones(1), np.ones(1)
    # Beyond its mean and some forty deviations nothing is left.
    values = np.arange(math.ceil(fraction + 40.0 * math.sqrt(fraction)) + 20.0)
    logs = values * math.log(fraction) - fraction - np.array([math.lgamma(value + 1.0) for value in values])
    chances = np.exp(logs)
    keep = chances > _LEAST
    return values[keep], chances[keep] / chances[keep].sum()


class ResampledChannel(Channel):
    """The channel of a fit whose samples have random weights.

    Parameters
    ----------
    weights, chances : arrays
        Of `weight_law`.
    """

    def __init__(
        self, loss: Loss, law: LabelLaw, rho: float, weights: Array, chances: Array, fineness: float = 1.0
    ) -> None:
        super().__init__(loss, law, rho, fineness)
        self.weights, self.chances = weights, chances
        self._inner = Channel(loss, law, rho, fineness)

    @property
    def closed(self) -> bool:
        """Weights leave no closed form."""
        return False

    @property
    def compiled(self) -> Any:
        """The averages as a compiled function of the state."""
        return resampled_channel.weighted.compiled

    def data(self) -> Array:
        """What the compiled function reads."""
        inner = self._inner
        numbers: Array = resampled_channel.resampled(inner.compiled, inner.data(), self.weights, self.chances)
        return numbers


class Pair:
    """The overlap of two fits of one data set.

    Parameters
    ----------
    resampling : {"fresh", "bootstrap", "subsample"}
    weights, chances : arrays
        Of `weight_law`.
    """

    def __init__(
        self, resampling: str, loss: Loss, law: LabelLaw, covariance: Any, weights: Array, chances: Array,
        fineness: float = 1.0,
    ) -> None:  # fmt: skip
        self.fresh = resampling == "fresh"
        self.loss, self.law, self.covariance = loss, law, covariance
        self.weights, self.chances, self.fineness = weights, chances, fineness

    def check(self) -> None:
        """Refuse label laws whose pair averages are not derived.

        Raises
        ------
        DerivationError
        """
        linear = self.loss.of_residual and all(c.kind == "linear" for c in self.law.components)
        if not (self.fresh or self.loss.square or self.law.two_valued or linear):
            raise DerivationError(
                "two fits of one data set are solved for labels -1 and +1, or a loss of y - f with linear labels",
                where="algorithm.resampling", why=f"the labels are {self.law.text!r}, the loss {self.loss.text!r}",
                hint='use function = "square", or resampling = "fresh"',
            )  # fmt: skip

    def overlap(self, point: Point) -> float:
        """Return E u_1 u_2 (centred) of the fields of two fits on a fresh sample.

        Raises
        ------
        SolveError
            Where the scalar equation has no root between independent and equal fits.
        """
        z = point.ridge / point.Vh
        g, slope, h, fall = self.covariance.resolvents(z)
        Dg, Dh = g + z * slope, h + z * fall

        def image(ff12: float) -> float:
            qh12 = evaluated("pair_force", point.alpha, self.covariance.psi, ff12)[0]
            return evaluated("pair", qh12, point.Vh, point.mh, Dg, Dh)[0]

        apart = image(0.0)
        if self.fresh:
            return apart

        def gap(q12: float) -> float:
            return image(self.force(point, q12)) - q12

        # A target that nothing is learnt of leaves fits of independent samples uncorrelated.
        low, high = max(apart, 1e-14 * point.q), point.q * (1.0 - 1e-12)
        if gap(low) <= 0.0:
            return low
        if not gap(high) < 0.0:
            raise SolveError(
                "the overlap of two fits was not bracketed", status="no_bracket",
                where=f"sample_ratio = {point.alpha:g}", why="two fits would be as alike as one is to itself",
            )  # fmt: skip
        return find_root(gap, low, high, xtol=1e-13 * point.q, rtol=1e-13)

    @cached_property
    def _certain(self) -> tuple[Array, tuple[int, ...]]:
        """Laws of the certain labels +1, -1 and 0, one after the other, and where each begins."""
        parts = [vector(self.loss, constant_law(y), 1.0, self.fineness) for y in (1.0, -1.0, 0.0)]
        ends = np.cumsum([0, *(part.size for part in parts)])
        return np.concatenate(parts), tuple(int(e) for e in ends)

    @cached_property
    def _labels(self) -> Array:
        return vector(self.loss, self.law, self.covariance.rho, node_width=0.1)

    def force(self, point: Point, q12: float) -> float:
        """E f_1 f_2 of the two fits at a common part of variance q12."""
        V, q, m, b, rho = point.V, point.q, point.m, point.b, self.covariance.rho
        if self.loss.square:
            return evaluated("pair_square", point.averages.fv, q12, m, b, *self.law.moments(rho))[0]
        numbers, at = self._certain
        if self.law.two_valued:
            # Panels no wider than the turning of the label along the common part.
            turn = min(
                math.sqrt(max(c.variance(rho) - (c.gain * m) ** 2 / q12, 1e-6)) / max(abs(c.gain * m), 1e-12)
                for c in self.law.components
            ) * math.sqrt(q12)  # fmt: skip
            width = min(1.5, max(2.0 * turn, 0.02)) / self.fineness
            found = resampled_channel.pair_of_signs.compiled(
                numbers, at[0], at[1], self._labels, V, q, q12, m, b, self.weights, self.chances, width
            )
            return float(found)
        total = 0.0
        for c in self.law.components:
            common = c.slope**2 * c.variance(rho) + c.outer - 2.0 * c.slope * c.gain * m + q12
            total += c.probability * float(
                resampled_channel.pair_of_residuals.compiled(
                    numbers, at[2], V, q - q12, b - c.intercept, common, self.weights, self.chances,
                    1.0 / self.fineness,
                )
            )  # fmt: skip
        return total


__all__ = ["Pair", "ResampledChannel", "weight_law"]
