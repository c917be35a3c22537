"""What each class of learner captures of a hierarchical target at n = d^kappa samples, in the limit d -> infinity.

The target is a sum of orthogonal components. A component is a tree: a degree m of the link at the top, and at every
node of every level below a degree j of that level's polynomial. Its mass is mu_m^2 times the product of the fractions
v_j of its nodes, and t_l, the number of its nodes at level l, is its degree as a polynomial of the features h_l.

A learner that knows the features up to level l fits, on them, the polynomials of degree t <= kappa / eps_l (a kernel on
d^eps_l inputs), so it captures the components with t_l <= kappa / eps_l all of whose nodes up to level l are learned:
the linear level at kappa_1, a node of degree j that feeds a level at factor * j eps + width (`channels.thresholds`).
Kernels know l = 0 only (the input, eps_0 = 1, t_0 = t_1); two-layer networks l <= 1; deep ones every level, with t_L
unlimited at the top. A level without a threshold is never learned: what is left is the kernel's curve.

For three layers this is the statement of Dandi, Pesce, Zdeborova, Krzakala (arXiv:2502.13961, Sec. 2) with its heights
worked out; for deeper trees it is this project's extension of their exponent counting.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError
from .analysis import EXPONENT_SLACK, JointLinkAnalysis, Level, LinkAnalysis, any_link_of, levels, link_of
from .channels import LevelThreshold, thresholds

if TYPE_CHECKING:
    from ...problem import Hierarchical

Array = NDArray[np.float64]
LEARNERS = ("kernel", "two-layer", "deep")
# Degrees of the link above this count as unlearned by shallow learners of very small effective dimension.
LARGEST_ORDER = 400
LARGEST_TABLE = 2_000_000
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
    levels_learned : tuple of LevelThreshold
        When each level is learned (`channels.thresholds`).
    largest : float
        Largest kappa that can be asked for.
    """

    levels: tuple[Level, ...]
    link: LinkAnalysis | JointLinkAnalysis
    levels_learned: tuple[LevelThreshold, ...]
    largest: float = 8.0

    @classmethod
    def of(cls, target: Hierarchical, largest: float = 8.0) -> Staircase:
        """Analyse a target; `largest` is the largest kappa of interest."""
        stack, link = levels(target), any_link_of(target)
        lowest = int(np.flatnonzero(stack[0].coefficients)[0]) if len(stack) == 1 else 1
        order = largest_degree(largest, stack[-1].exponent) // lowest
        missing = link.second_moment - float(np.sum(link.masses))
        if order > len(link.masses) and target.branches == 1 and missing > 1e-12 * link.second_moment:
            link = link_of(target, min(order, LARGEST_ORDER))
        return cls(stack, link, thresholds(target), largest)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """kappa_l of every level, NaN where there is none."""
        return tuple(level.kappa for level in self.levels_learned)

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
            log n / log d, at most `largest`. At a threshold the degree counts as learned.
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
        return depth, self._caps(kappa), self._linear_learned(kappa), tuple(
            self._learned(l, kappa) for l in range(len(self.levels))
        )  # fmt: skip

    def _caps(self, kappa: float) -> tuple[int, ...]:
        """Return the largest degree in x, and in the features of each level below the top, that n = d^kappa determine.

        Degrees that no order of the link reaches are cut off.
        """
        largest = len(self.link.masses) - 1
        most = [largest := largest * level.degree for level in reversed(self.levels)][::-1]
        return tuple(min(largest_degree(kappa, e), m) for e, m in zip(self._exponents, [most[0], *most], strict=True))

    @property
    def _exponents(self) -> tuple[float, ...]:
        return (1.0, *(level.exponent for level in self.levels))

    def _linear_learned(self, kappa: float) -> bool:
        return kappa + EXPONENT_SLACK >= self.levels_learned[0].kappa

    def _learned(self, l: int, kappa: float) -> tuple[int, ...]:
        """Return the degrees of the polynomial of level l + 1 that are learned, given its arguments."""
        made = self.levels_learned[l + 1]
        return tuple(j for j in range(1, self.levels[l].degree + 1) if kappa + EXPONENT_SLACK >= self._cost(made, l, j))

    def _cost(self, made: LevelThreshold, l: int, degree: int) -> float:
        return made.factor * degree * self.levels[l].exponent + made.width

    def _captured(self, depth: int, kappa: float) -> float:
        return self._captured_flat(depth, kappa) if len(self.levels) == 1 else self._captured_tree(depth, kappa)

    def _captured_flat(self, depth: int, kappa: float) -> float:
        """`_captured` for one hidden level, where a component is known by its degree and by what is learned."""
        caps = self._caps(kappa)
        if depth == 0 or not self._linear_learned(kappa):
            return float(self._masses(None)[: caps[0] + 1].sum())
        fitted = float(self._masses(None)[: max(caps) + 1].sum())
        if depth == 1:
            return fitted
        learned = self._learned(0, kappa)
        reliability = float(sum(self.levels[0].fractions[j] for j in learned))
        return self.link.captured(reliability) + fitted - float(self._masses(learned)[: max(caps) + 1].sum())

    def _masses(self, degrees: tuple[int, ...] | None) -> Array:
        """Return F_t = sum_m mu_m^2 [t] A^m, A restricted to some degrees of the polynomial."""
        if degrees not in self._mass_cache:
            law = self.levels[0].fractions.copy()
            if degrees is not None:
                law[[j for j in range(len(law)) if j not in degrees]] = 0.0
            total = np.zeros((len(self.link.masses) - 1) * (len(law) - 1) + 1)
            power = np.ones(1)
            for mass in self.link.masses:
                total[: len(power)] += mass * power
                power = np.convolve(power, law)
            self._mass_cache[degrees] = total
        return self._mass_cache[degrees]

    @cached_property
    def _mass_cache(self) -> dict[tuple[int, ...] | None, Array]:
        return {}

    def _captured_tree(self, depth: int, kappa: float) -> float:
        caps = self._caps(kappa)
        top = len(self.levels) + 1
        learned = self._linear_learned(kappa), tuple(self._learned(l, kappa) for l in range(len(self.levels)))
        tables = self._trees(learned)
        whole = depth >= top
        total = self.link.captured(self._reliability[learned]) if whole else 0.0
        for flag in range(top + 1):
            # Components whose nodes are learned exactly up to this level; index i of a table is t_{i+1}.
            mass = tables[flag] - (tables[flag + 1] if flag < top else 0.0)
            if whole and flag == top:
                continue
            degrees = [np.arange(n).reshape([-1 if i == j else 1 for j in range(mass.ndim)]) for i, n in enumerate(
                mass.shape)]  # fmt: skip
            fits = degrees[0] <= caps[0]
            for l in range(1, min(depth, len(self.levels), flag) + 1):
                fits = fits | (degrees[l - 1] <= caps[l])
            total += float(np.sum(mass[np.broadcast_to(fits, mass.shape)]))
        return total

    @cached_property
    def _tree_cache(self) -> dict[object, list[Array]]:
        return {}

    @cached_property
    def _reliability(self) -> dict[object, float]:
        return {}

    def _trees(self, learned: tuple[bool, tuple[tuple[int, ...], ...]]) -> list[Array]:
        """Return, for f = 0..L, the mass of the components whose nodes are learned up to level f at least, by degrees.

        A component is learned up to a level if all its factors are: the table of each f is sum_m mu_m^2 (profile of h
        restricted to f)^m, a product of polynomials in the degrees. The last index of an axis holds everything above.
        """
        if learned in self._tree_cache:
            return self._tree_cache[learned]
        top = len(self.levels) + 1
        profile: Profile = {((1,), 1 if learned[0] else 0): 1.0}
        for l, level in enumerate(self.levels, start=1):
            made: Profile = defaultdict(float)
            power: Profile = {((0,) * l, l): 1.0}
            for j in range(1, level.degree + 1):
                power = _times(power, profile)
                if level.fractions[j] == 0.0:
                    continue
                for (degrees, flag), mass in power.items():
                    known = l + 1 if flag == l and j in learned[1][l - 1] else flag
                    made[((*degrees, 1), known)] += float(level.fractions[j]) * mass
            profile = dict(made)
        self._reliability[learned] = sum(mass for (_, flag), mass in profile.items() if flag == top)
        caps = self._caps(self.largest)
        shape = tuple(c + 2 for c in (max(caps[0], caps[1]), *caps[2:]))
        if math.prod(shape) > LARGEST_TABLE:
            raise DomainError(
                "the staircase of this tree is too fine",
                where="target.exponents",
                why=f"degrees up to {' x '.join(str(n - 2) for n in shape)} at kappa = {self.largest:g}",
                hint="use larger exponents, or a smaller grid.kappa",
            )
        # The last degree of h itself, t_top = 1, is dropped.
        tables = []
        for f in range(top + 1):
            factor: dict[tuple[int, ...], float] = defaultdict(float)
            for (degrees, flag), mass in profile.items():
                if flag >= f:
                    factor[degrees[:-1]] += mass
            power_table = np.zeros(shape)
            power_table[(0,) * len(shape)] = 1.0
            total = np.zeros(shape)
            for mass in self.link.masses:
                total += mass * power_table
                power_table = _multiply(power_table, factor)
            tables.append(total)
        self._tree_cache[learned] = tables
        return tables

    def jumps(self, learner: str, largest: float) -> tuple[float, ...]:
        """Return the kappa in [0, largest] at which the error of a learner drops."""
        candidates = {*(float(k) for k in range(math.floor(largest) + 1)), *(k for k in self.thresholds if k == k)}
        for l, level in enumerate(self.levels):
            most = min(math.floor(largest / level.exponent + 1e-9), LARGEST_ORDER)
            candidates |= {t * level.exponent for t in range(1, most + 1)}
            candidates |= {self._cost(self.levels_learned[l + 1], l, j) for j in range(1, level.degree + 1)}
        found: list[float] = []
        previous = self.null_error
        for kappa in sorted(c for c in candidates if c <= largest + EXPONENT_SLACK):
            value = self.error(learner, kappa)
            if value < previous - 1e-10 * self.null_error and not (found and kappa - found[-1] < EXPONENT_SLACK):
                found.append(round(kappa, 12))
            previous = min(previous, value)
        return tuple(found)


def _times(a: Profile, b: Profile) -> Profile:
    """Multiply two profiles: degrees add, and what is known is what is known of both."""
    out: Profile = defaultdict(float)
    for (da, fa), ma in a.items():
        for (db, fb), mb in b.items():
            out[(tuple(x + y for x, y in zip(da, db, strict=True)), min(fa, fb))] += ma * mb
    return dict(out)


def _multiply(table: Array, factor: dict[tuple[int, ...], float]) -> Array:
    """Multiply a table of degrees by a few terms; the last index of every axis collects what lies above."""
    out = np.zeros_like(table)
    for shift, mass in factor.items():
        moved = table
        for axis, step in enumerate(shift):
            n = table.shape[axis]
            step = min(step, n - 1)
            moved = np.moveaxis(moved, axis, 0)
            shifted = np.zeros_like(moved)
            shifted[step:] = moved[: n - step]
            shifted[-1] += moved[n - step :].sum(axis=0)
            moved = np.moveaxis(shifted, 0, axis)
        out += mass * moved
    return out
