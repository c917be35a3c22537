"""Beyond one hidden level of degree 2: a second level, cubic features by unfolding, power-law spectra of features.

This project's own formulas except `PowerLawCascade`, whose exponents are those of Tabanelli, Dandi, Pesce, Krzakala
(arXiv:2602.10867). Each docstring says what was compared with simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError
from .labels import LabelMoments

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Threshold:
    """A continuous transition of a spectral estimate.

    Attributes
    ----------
    critical : float
        Sample ratio at the transition.
    power : int
        q = 1 - (critical/ratio)^power above it.
    unit : str
        What the ratio multiplies.
    """

    critical: float
    power: int
    unit: str

    def overlap(self, ratio: float) -> float:
        """Return the squared overlap at a sample ratio."""
        if not ratio > self.critical:
            return 0.0
        return 1.0 if math.isinf(ratio) else 1.0 - (self.critical / ratio) ** self.power


def next_level(moments: LabelMoments, lower_overlap: float) -> Threshold:
    """Return the transition of a second level: d2 features, each the normalised quadratic of its block of d1/d2
    features.

    Spectral estimate on the D = binom(d1 + 1, 2) quadratic features of the learned level below, n = ratio D d2:
    critical = Var T/(2 tau_1^2 q1^4). Compared with simulation at (d1, d2) = (80, 16) and (88, 8):
    .86 and .81 against .875 at 8 critical, .71 and .63 against .75 at 4 critical.

    Parameters
    ----------
    moments : LabelMoments
        Label transform, with tau_1 = E[T h] for the scalar feature at the top, of unit variance.
    lower_overlap : float
        q1, squared overlap of the level below.
    """
    if not 0 <= lower_overlap <= 1:
        raise DomainError(f"an overlap must lie in [0, 1], got {lower_overlap}")
    signal = 2.0 * float(moments.tau[1]) ** 2 * lower_overlap**4
    return Threshold(moments.variance / signal if signal > 1e-300 else math.inf, 1, "D d2")


def cubic_unfolding(moments: LabelMoments) -> Threshold:
    """Return the transition for P = h_3 through the d x d^2 unfolding of the third moment tensor, n = ratio d1 d^{3/2}.

    critical = (sqrt2/6) Var T/tau_1^2, q = 1 - (critical/ratio)^2. Simulation approaches it slowly from below
    (.68 and .84 at 3 and 5 critical, d = 200, against .89 and .96): finite-size dominated.
    """
    signal = float(moments.tau[1]) ** 2
    return Threshold(math.sqrt(2.0) / 6.0 * moments.variance / signal if signal > 1e-300 else math.inf, 2, "d1 d^(3/2)")


def chained_coefficients(coefficients: Array, correlations: Array) -> Array:
    """Return c_j rho_1^j rho_2^j ... [conjecture]: Hermite coefficients seen through levels learned with these
    correlations.
    """
    j = np.arange(len(coefficients))
    return coefficients * np.prod([np.asarray(rho) ** j for rho in correlations], axis=0)


@dataclass(frozen=True)
class PowerLawCascade:
    """Features of degree k whose weights in the next level decay as b_j = j^-gamma, j = 1..p, p = d^eps.

    Directions appear one by one: direction j at log n/log d = `exponent(j)`.

    Attributes
    ----------
    gamma : float
        Decay, not negative.
    eps : float
        p = round(d^eps).
    d : int
    k : int
        Degree of the features: 2 or 3.
    """

    gamma: float
    eps: float
    d: int
    k: int = 2

    def __post_init__(self) -> None:
        if self.gamma < 0 or not 0 < self.eps < self.k or self.d < 2 or self.k < 1:
            raise DomainError(
                "a cascade needs gamma >= 0, 0 < eps < k and d >= 2",
                why=f"gamma = {self.gamma}, eps = {self.eps}, k = {self.k}, d = {self.d}",
            )

    @property
    def directions(self) -> int:
        """p."""
        return max(1, round(self.d**self.eps))

    @property
    def weights(self) -> Array:
        """b_j normalised to unit sum of squares."""
        b = np.arange(1, self.directions + 1, dtype=float) ** -self.gamma
        return b / math.sqrt(float(np.sum(b**2)))

    def exponent(self, j: int) -> float:
        """Return log n/log d at which direction j appears: k - 2 log(b_j)/log d with normalised weights.

        = k + 2 gamma log j/log d - 2 log C/log d, C = (sum_j j^{-2 gamma})^{-1/2}: k for j = 1 and gamma > 1/2, and
        k + eps for equal weights.
        """
        if not 1 <= j <= self.directions:
            raise DomainError(f"there are {self.directions} directions, asked for number {j}")
        return self.k - 2.0 * math.log(float(self.weights[j - 1])) / math.log(self.d)

    def recovered(self, n: float) -> int:
        """Return how many directions n samples recover: those with n >= d^k / b_j^2."""
        return int(np.count_nonzero(n * self.weights**2 >= self.d**self.k * (1 - 1e-12)))

    def residual(self, n: float) -> float:
        """Return the fraction of the squared weights not yet recovered."""
        return float(np.sum(self.weights[self.recovered(n) :] ** 2))

    @property
    def rate(self) -> float:
        """Return the exponent a of residual ~ n^-a between the first and the last direction: 1 - 1/(2 gamma), gamma
        > 1/2.

        Raises
        ------
        DomainError
            For gamma <= 1/2, where no power law holds before the last direction.
        """
        if self.gamma <= 0.5:
            raise DomainError("the residual has no power law for gamma <= 1/2", hint="use residual(n)")
        return 1.0 - 1.0 / (2.0 * self.gamma)
