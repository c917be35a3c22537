"""Beyond one hidden level of degree 2: a second level, cubic features by unfolding, power-law spectra of features.

This project's own formulas except `PowerLawCascade`, whose exponents are those of Tabanelli, Dandi, Pesce, Krzakala
(arXiv:2602.10867). Each docstring says what was compared with simulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError
from ...problem.hierarchy import effective_dimension
from .analysis import Level, levels, link_of
from .labels import LabelMoments, label_moments
from .union import Task, feature_count, fitted_degrees, penalties_of, represented, union_state

if TYPE_CHECKING:
    from ...problem import Hierarchical

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


def next_level(moments: LabelMoments, lower_overlap: float, polynomial: Level | None = None) -> Threshold:
    """Return the transition of a second level: d2 features, each the normalised quadratic of its block of d1/d2
    features.

    Spectral estimate on the D = binom(d1 + 1, 2) quadratic features of the learned level below, n = ratio D d2:
    critical = Var T/(2 tau_1^2 v_2 q1^4), v_2 the quadratic share of the polynomial above. Compared with simulation at
    (d1, d2) = (80, 16) and (88, 8): .86 and .81 against .875 at 8 critical, .71 and .63 against .75 at 4 critical.

    Parameters
    ----------
    moments : LabelMoments
        Label transform, with tau_1 = E[T h] for the scalar feature at the top, of unit variance.
    lower_overlap : float
        q1, squared overlap of the level below.
    polynomial : Level, optional
        The polynomial that builds the scalar feature from the d2 features; h_2 by default.
    """
    if not 0 <= lower_overlap <= 1:
        raise DomainError(f"an overlap must lie in [0, 1], got {lower_overlap}")
    share = 1.0 if polynomial is None else float(polynomial.fractions[2]) if polynomial.degree >= 2 else 0.0
    signal = 2.0 * float(moments.tau[1]) ** 2 * share * lower_overlap**4
    return Threshold(moments.variance / signal if signal > 1e-300 else math.inf, 1, "D d2")


@dataclass(frozen=True)
class Ascent:
    """Overlaps of the levels of a deep tree, learned one after the other.

    Attributes
    ----------
    overlaps : tuple of float
        Q_l: squared overlap of the learned features of level l with the true ones, from the linear level up.
    correlation : float
        corr(h_hat, h) of the scalar feature.
    mse : float
        E[(f* - f)^2] of the best readout of h_hat.
    """

    overlaps: tuple[float, ...]
    correlation: float
    mse: float


def level_thresholds(target: Hierarchical, transform: str = "identity") -> tuple[float, ...]:
    """Return alpha_c^(l) of every level of features with the level below known, from the linear one; see `ascend`."""
    stack, moments = levels(target), label_moments(target, transform)
    found = []
    for l, level in enumerate(stack):
        passed = math.prod(float(above.fractions[1]) for above in stack[l + 1 :])
        share = float(level.fractions[2]) if level.degree >= 2 else 0.0
        signal = 2.0 * float(moments.tau[1]) ** 2 * share * passed
        found.append(moments.variance / signal if signal > 1e-300 else math.inf)
    return tuple(found)


def ascend(target: Hierarchical, d: int, samples: Sequence[float], transform: str = "identity") -> Ascent:
    """Return what a spectral estimate at every level, then ridge regression, make of a deep tree of quadratic levels.

        Q_1 = q_1,   Q_{l+1} = H_l q_{l+1},   H_l = sum_j v_j(P_l) Q_l^j,   q_l = 1 - alpha_c^(l)/alpha_l,

    n_1 = alpha_1 d d_1 and n_{l+1} = alpha_{l+1} D d_{l+1}, D polynomials of d_l features of the degrees of P_l. The
    signal of level l passes through the linear parts of the polynomials above and the quadratic part of its own:
    alpha_c^(l) = Var T/(2 tau_1^2 v_2(P_l) prod_{m > l} v_1(P_m) H_{l-1}^2). The scalar feature is fitted on the union
    of degrees of the last level with optimal penalties, (h, h_hat) jointly normal.

    This project's own. The composition was compared with simulation, for H = Q^2; q_l itself is dominated by
    the finite size below blocks of 20 features.

    Parameters
    ----------
    target : Hierarchical
        All polynomials below the top of degree 2.
    d : int
    samples : sequence of float
        Fresh samples of each level from the linear one, and of the scalar feature at the end: one more than exponents.
    transform : str
        Label transform of the spectral estimates.

    Raises
    ------
    DomainError
        For polynomials below the top of another degree, or the wrong number of samples.
    """
    stack = levels(target)
    if len(samples) != len(stack) + 1:
        raise DomainError(
            f"{len(stack)} levels and the scalar feature need {len(stack) + 1} sample numbers",
            why=f"got {len(samples)}",
        )
    if any(level.degree != 2 for level in stack[:-1]):
        raise DomainError(
            "levels below the top must be of degree 2", where="target.features",
            why=f"degrees {[level.degree for level in stack]}",
        )  # fmt: skip
    link = link_of(target)
    sizes = [effective_dimension(d, e) for e in target.exponents]
    overlaps: list[float] = []
    for l, (critical, n) in enumerate(zip(level_thresholds(target, transform), samples, strict=False)):
        if l == 0:
            held, unit = 1.0, float(d * sizes[0])
        else:
            # What the learned level below can hold of the features: sum_j v_j Q^j.
            shares = stack[l - 1].fractions
            held = float(shares @ overlaps[-1] ** np.arange(len(shares)))
            unit = float(sum(feature_count(sizes[l - 1], int(j)) for j in np.flatnonzero(shares)) * sizes[l])
        found = Threshold(critical / held**2 if held > 0 else math.inf, 1, "").overlap(n / unit)
        overlaps.append(held * found)
    top = stack[-1]
    degrees = fitted_degrees(link, top, "all")
    counts = np.array([feature_count(sizes[-1], j) for j in degrees], dtype=float)
    shares = represented(top, overlaps[-1] ** np.arange(top.degree + 1.0))
    task = Task.of(link, target.noise, degrees, counts / samples[-1], shares)
    state = union_state(task, penalties_of(task, "optimal", "optimal", counts))
    return Ascent(tuple(overlaps), state.correlation, link.second_moment - link.captured(state.correlation**2))


def cubic_unfolding(moments: LabelMoments) -> Threshold:
    """Return the transition for P = h_3 through the d x d^2 unfolding of the third moment tensor, n = ratio d1 d^{3/2}.

    critical = (sqrt2/6) Var T/tau_1^2, q = 1 - (critical/ratio)^2. Simulation approaches it slowly from below
    (.68 and .84 at 3 and 5 critical, d = 200, against .89 and .96): finite-size dominated.
    """
    signal = float(moments.tau[1]) ** 2
    return Threshold(math.sqrt(2.0) / 6.0 * moments.variance / signal if signal > 1e-300 else math.inf, 2, "d1 d^(3/2)")


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
