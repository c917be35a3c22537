"""What each class of learner captures of a hierarchical target at n = d^kappa samples, in the limit d -> infinity.

The target is a sum of orthogonal components. A component is a tree: a degree m of the link at the top, and at every
node of every level below a degree j of that level's polynomial. Its mass is mu_m^2 times the product of the fractions
v_j of its nodes, and t_l, the number of its nodes at level l, is its degree as a polynomial of the features h_l.

A learner that knows the features up to level l fits, on them, the polynomials of degree t <= kappa / eps_l (a kernel on
d^eps_l inputs), so it captures the components with t_l <= kappa / eps_l all of whose nodes up to level l are learned:
the linear level at 1 + eps_1, a node of degree j that feeds level l at j eps_{l-1} + eps_l. Kernels know l = 0 only
(the input, eps_0 = 1, t_0 = t_1); two-layer networks l <= 1; deep ones every level, with t_L unlimited at the top.

For three layers this is the statement of Dandi, Pesce, Zdeborova, Krzakala (arXiv:2502.13961, Sec. 2) with its heights
worked out; for deeper trees it is this project's extension of their exponent counting.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from .analysis import EXPONENT_SLACK, JointLinkAnalysis, Level, LinkAnalysis, any_link_of, levels, sample_exponents

if TYPE_CHECKING:
    from ...problem import Hierarchical

LEARNERS = ("kernel", "two-layer", "deep")
# (t_1, ..., t_l; highest level up to which every node is learned) -> mass
Profile = dict[tuple[tuple[int, ...], int], float]


def largest_degree(kappa: float, exponent: float) -> int:
    """Return floor(kappa / exponent): the degree that d^kappa samples determine in d^exponent dimensions."""
    return math.floor(kappa / exponent + EXPONENT_SLACK)


@dataclass(frozen=True)
class Staircase:
    """Asymptotic learning curves of one target.

    Attributes
    ----------
    levels : tuple of Level
        Polynomials of the levels, from the bottom.
    link : LinkAnalysis or JointLinkAnalysis
        Hermite expansion of the link.
    thresholds : tuple of float
        kappa_l of every level (`sample_exponents`).
    """

    levels: tuple[Level, ...]
    link: LinkAnalysis | JointLinkAnalysis
    thresholds: tuple[float, ...]

    @classmethod
    def of(cls, target: Hierarchical) -> Staircase:
        """Analyse a target."""
        return cls(levels(target), any_link_of(target), sample_exponents(target))

    @property
    def null_error(self) -> float:
        """E[f*^2]."""
        return self.link.second_moment

    def error(self, learner: str, kappa: float) -> float:
        """Return E[(f* - f)^2] of a learner class at n = d^kappa, label noise not included.

        Parameters
        ----------
        learner : {"kernel", "two-layer", "deep"}
        kappa : float
            log n / log d. At a threshold the degree counts as learned.
        """
        depth = {"kernel": 0, "two-layer": 1, "deep": len(self.levels) + 1}[learner]
        return self.error_at_depth(depth, kappa)

    def error_at_depth(self, depth: int, kappa: float) -> float:
        """Return the error when features of the levels 0..depth can be learned; depth 2 is a three-layer network."""
        state = self._state(depth, kappa)
        if state not in self._cache:
            self._cache[state] = max(0.0, self.null_error - self._captured(depth, kappa))
        return self._cache[state]

    @cached_property
    def _cache(self) -> dict[tuple[object, ...], float]:
        return {}

    def _state(self, depth: int, kappa: float) -> tuple[object, ...]:
        """Everything the error depends on: it is constant between thresholds."""
        caps = tuple(largest_degree(kappa, e) for e in self._exponents)
        return depth, caps, self._linear_learned(kappa), tuple(self._learned(l, kappa) for l in self.levels)

    @property
    def _exponents(self) -> tuple[float, ...]:
        return (1.0, *(level.exponent for level in self.levels))

    def _linear_learned(self, kappa: float) -> bool:
        return kappa + EXPONENT_SLACK >= 1.0 + self.levels[0].exponent

    @staticmethod
    def _learned(level: Level, kappa: float) -> tuple[int, ...]:
        return tuple(
            j
            for j in range(1, level.degree + 1)
            if kappa + EXPONENT_SLACK >= j * level.exponent + level.output_exponent
        )

    def _captured(self, depth: int, kappa: float) -> float:
        # Caps on t_0 = t_1, t_1, t_2, ...: index l is the level whose features serve as inputs.
        caps = [largest_degree(kappa, e) for e in self._exponents]
        top = len(self.levels) + 1
        linear = self._linear_learned(kappa)
        bound = [max(caps[0], caps[1]), *caps[2:]]
        profile: Profile = {((1,), 1 if linear else 0): 1.0}
        for l, level in enumerate(self.levels, start=1):
            learned = set(self._learned(level, kappa))
            made: Profile = defaultdict(float)
            power: Profile = {((0,) * l, l): 1.0}
            for j in range(1, level.degree + 1):
                power = _times(power, profile, bound)
                if level.fractions[j] == 0.0:
                    continue
                for (degrees, flag), mass in power.items():
                    known = l + 1 if flag == l and j in learned else flag
                    made[((*degrees, 1), known)] += float(level.fractions[j]) * mass
            profile = dict(made)
        # The profile now describes h itself; its last degree, t_top = 1, is the top node.
        mu2 = self.link.masses
        whole = depth >= top
        reliability = sum(mass for (_, flag), mass in profile.items() if flag == top) if whole else 0.0
        total = self.link.captured(reliability) if whole else 0.0
        rest: Profile = {((0,) * top, top): 1.0}
        # t_l >= m at every level below the top, so an order m above every cap adds nothing.
        for m in range(max(bound) + 1):
            if m:
                rest = _times(rest, profile, [*bound, m])
            if not rest:
                break
            part = sum(
                mass
                for (degrees, flag), mass in rest.items()
                if not (whole and flag == top) and self._fits(degrees, flag, caps, depth)
            )
            total += float(mu2[m]) * part if m < len(mu2) else 0.0
        return total

    def _fits(self, degrees: tuple[int, ...], flag: int, caps: list[int], depth: int) -> bool:
        if degrees[0] <= caps[0]:
            return True
        return any(degrees[l - 1] <= caps[l] for l in range(1, min(depth, len(self.levels)) + 1) if flag >= l)

    def jumps(self, learner: str, largest: float) -> tuple[float, ...]:
        """Return the kappa in [0, largest] at which the error of a learner drops."""
        candidates = {1.0 + self.levels[0].exponent, *(float(k) for k in range(math.floor(largest) + 1))}
        for level in self.levels:
            candidates |= {t * level.exponent for t in range(1, math.floor(largest / level.exponent + 1e-9) + 1)}
            candidates |= {j * level.exponent + level.output_exponent for j in range(1, level.degree + 1)}
        found: list[float] = []
        previous = self.null_error
        for kappa in sorted(c for c in candidates if c <= largest + EXPONENT_SLACK):
            value = self.error(learner, kappa)
            if value < previous - 1e-10 * self.null_error and not (found and kappa - found[-1] < EXPONENT_SLACK):
                found.append(round(kappa, 12))
            previous = min(previous, value)
        return tuple(found)


def _times(a: Profile, b: Profile, bound: list[int]) -> Profile:
    """Multiply two profiles: degrees add, and what is known is what is known of both; too large degrees saturate."""
    out: Profile = defaultdict(float)
    for (da, fa), ma in a.items():
        for (db, fb), mb in b.items():
            degrees = tuple(
                min(x + y, bound[i] + 1) if i < len(bound) else x + y
                for i, (x, y) in enumerate(zip(da, db, strict=True))
            )
            out[(degrees, min(fa, fb))] += ma * mb
    return dict(out)
