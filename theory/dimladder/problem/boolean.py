"""Boolean targets: Fourier coefficients, the merged-staircase property, and the sums of coordinates a network can see.

Every neuron starts blind to the target (u = 0), and symmetries of the target are kept for ever. So the network depends
on z only through a few signed sums of coordinates, c = B^T z, found here by refinement: coordinates belong together as
long as the target treats them alike given the sums already seen. Coordinates in no sum are never learned.

Source: Abbe, Boix-Adsera & Misiakiewicz, arXiv:2202.08658 (merged staircases); arXiv:2302.11055 (leap).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ..errors import did_you_mean
from .expressions import Expression

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .spec import Problem

    Array = npt.NDArray[np.float64]

Monomial = tuple[str, ...]
# What rounding leaves of a coefficient that is zero, relative to the largest value of the target.
NOTHING = 1e-11


def label(product: Monomial) -> str:
    """Return ``z1*z2``; the empty product is ``1``."""
    return "*".join(product) or "1"


def monomial(text: str, coordinates: Monomial) -> Monomial:
    """Read ``z2*z1`` as the product (z1, z2), in the order of `coordinates`.

    Raises
    ------
    ValueError
        For anything but a product of distinct coordinates.
    """
    names = [part.strip() for part in text.split("*")] if text.strip() != "1" else []
    for name in names:
        if name not in coordinates:
            raise ValueError(
                f"unknown coordinate {name!r} in the monomial {text!r}: {did_you_mean(name, coordinates)}; write "
                '"z1*z2", or "1" for the mean'
            )
    if len(set(names)) != len(names):
        raise ValueError(f"the monomial {text!r} repeats a coordinate, whose square is 1")
    return tuple(name for name in coordinates if name in names)


@dataclass(frozen=True)
class Visible:
    """The target as a network that starts at u = 0 sees it.

    Attributes
    ----------
    blocks : tuple of tuple of (int, int)
        For each sum, its (coordinate, sign) pairs.
    sums : array (K, m)
        Every value that the m sums take together.
    probability, target : arrays (K,)
        Its probability, and the mean of the target there.
    floor : float
        E[Var(h | sums)]: the risk that no network of such neurons can go below.
    group : array (2^P,)
        Which row each point of the cube belongs to.
    """

    blocks: tuple[tuple[tuple[int, int], ...], ...]
    sums: Array
    probability: Array
    target: Array
    floor: float
    group: npt.NDArray[np.int64]

    def mean(self, values: Array) -> Array:
        """Return the conditional mean given the sums of a function on the cube, shape (K,)."""
        import numpy as np

        counts = np.bincount(self.group, minlength=len(self.sums))
        means: Array = np.bincount(self.group, weights=values, minlength=len(self.sums)) / counts
        return means


@dataclass(frozen=True)
class BooleanFunction:
    """A function h on the cube {-1, 1}^P.

    Attributes
    ----------
    coordinates : tuple of str
    cube : array (2^P, P)
    values : array (2^P,)
    """

    coordinates: Monomial
    cube: Array
    values: Array

    def products(self) -> tuple[Monomial, ...]:
        """Return every product of coordinates, by degree."""
        return tuple(s for k in range(len(self.coordinates) + 1) for s in combinations(self.coordinates, k))

    def character(self, product: Monomial) -> Array:
        """Return the values of a product on the cube."""
        import numpy as np

        columns = [self.coordinates.index(name) for name in product]
        values: Array = np.prod(self.cube[:, columns], axis=1)
        return values

    @cached_property
    def coefficients(self) -> dict[Monomial, float]:
        """Fourier coefficients h_S = E[h chi_S] that are not zero, by degree."""
        import numpy as np

        # Fast Walsh-Hadamard transform; coordinate i is bit i of the row number.
        spectrum = self.values.copy()
        for bit in range(len(self.coordinates)):
            pairs = spectrum.reshape(-1, 2, 1 << bit)
            spectrum = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).ravel()
        spectrum /= len(spectrum)
        scale = float(np.max(np.abs(self.values)))
        found = {}
        for index in np.flatnonzero(np.abs(spectrum) > NOTHING * scale):
            product = tuple(name for bit, name in enumerate(self.coordinates) if int(index) >> bit & 1)
            found[product] = float(spectrum[index])
        place = self.coordinates.index
        return dict(sorted(found.items(), key=lambda item: (len(item[0]), [place(name) for name in item[0]])))

    @cached_property
    def supports(self) -> tuple[frozenset[str], ...]:
        """Supports of the monomials of the target, without the constant."""
        return tuple(frozenset(s) for s in self.coefficients if s)

    def climb(self, leap: int) -> list[list[Monomial]]:
        """Return the monomials that are reached by leaps of at most `leap` new coordinates, round by round."""
        known: set[str] = set()
        rounds: list[list[Monomial]] = []
        left = [s for s in self.coefficients if s]
        while True:
            reached = [s for s in left if len(set(s) - known) <= leap]
            if not reached:
                return rounds
            rounds.append(reached)
            left = [s for s in left if s not in reached]
            known |= {name for s in reached for name in s}

    @cached_property
    def leap(self) -> int:
        """The least number of new coordinates that some monomial needs, in the best order (1: merged staircase)."""
        wanted = len(self.supports)
        return next(k for k in range(1, len(self.coordinates) + 1) if sum(map(len, self.climb(k))) == wanted)

    @property
    def merged(self) -> bool:
        """Whether the monomials can be ordered so that each brings at most one new coordinate."""
        return self.leap == 1

    @cached_property
    def learnable(self) -> frozenset[str]:
        """Coordinates that steps of one new coordinate reach."""
        return frozenset(name for reached in self.climb(1) for product in reached for name in product)

    @cached_property
    def exponents(self) -> dict[str, int]:
        """Powers e of time with which the learnable coordinates of a neuron start, u_i ~ t^e.

        ``u_i' = xi a sum_S h_S E[chi_{S minus i} s'(u.z)]`` starts with the product of the other coordinates of S.
        """
        found: dict[str, int] = {}
        while True:
            best: dict[str, int] = {}
            for support in self.supports:
                for name in support - found.keys():
                    if support - {name} <= found.keys():
                        power = 1 + sum(found[other] for other in support - {name})
                        best[name] = min(power, best.get(name, power))
            if not best:
                return found
            # The smallest is final: every other way to it passes through larger ones.
            least = min(best.values())
            found |= {name: power for name, power in best.items() if power == least}

    @cached_property
    def visible(self) -> Visible:
        """The coarsest signed sums of coordinates that are closed under the dynamics from u = 0."""
        import numpy as np

        count = len(self.coordinates)
        scale = float(np.max(np.abs(self.values)))
        sign = np.zeros(count, dtype=np.int64)  # 0: in no sum
        member = np.zeros(count, dtype=np.int64)
        while True:
            names = [k for k in np.unique(member) if sign[member == k].any()]
            incidence = np.stack([np.where(member == k, sign, 0) for k in names], axis=1) if names else None
            seen = self.cube @ incidence if incidence is not None else np.zeros((len(self.cube), 1))
            sums, group = np.unique(seen, axis=0, return_inverse=True)
            group = group.ravel()
            sizes = np.bincount(group)
            # What drives coordinate i, as a function of the sums: E[h z_i | sums].
            drive = np.stack([np.bincount(group, self.values * z) / sizes for z in self.cube.T])
            new_sign, new_member = sign.copy(), np.zeros(count, dtype=np.int64)
            drives: list[tuple[int, Array]] = []
            for i in range(count):
                if sign[i] == 0:
                    moved = np.flatnonzero(np.abs(drive[i]) > NOTHING * scale)
                    if len(moved):
                        new_sign[i] = 1 if drive[i][moved[0]] > 0 else -1
                if new_sign[i] == 0:
                    continue
                own = new_sign[i] * drive[i]
                same = [
                    k for k, (old, other) in enumerate(drives, 1)
                    if old == member[i] and np.max(np.abs(other - own)) <= NOTHING * scale
                ]  # fmt: skip
                if not same:
                    drives.append((int(member[i]), own))
                new_member[i] = same[0] if same else len(drives)
            if np.array_equal(new_sign, sign) and _same_partition(new_member, member):
                break
            sign, member = new_sign, new_member
        blocks = []
        for k, name in enumerate(names):
            inside = np.flatnonzero((member == name) & (sign != 0))
            lead = sign[inside[0]]  # the first coordinate of a sum counts positive
            blocks.append(tuple((int(i), int(lead * sign[i])) for i in inside))
            sums[:, k] *= lead
        if not blocks:
            sums = np.zeros((1, 0))
        probability = sizes / len(self.cube)
        mean = np.bincount(group, self.values) / sizes
        floor = float(np.mean((self.values - mean[group]) ** 2))
        # Rounding leaves 1e-33 where the target is a function of the sums.
        floor = floor if floor > (NOTHING * scale) ** 2 else 0.0
        return Visible(tuple(blocks), np.asarray(sums, dtype=float), probability, mean, floor, group)

    def facts(self) -> dict[str, Any]:
        """Return what `show` prints: the property, the leap, the order of learning, what stays unlearned."""
        rounds = self.climb(1)
        rest = [s for s in self.coefficients if s and not any(s in reached for reached in rounds)]
        facts: dict[str, Any] = {
            "merged staircase": "yes" if self.merged else "no",
            "leap": self.leap,
            "learned in O(d) samples, step by step": " | ".join(", ".join(map(label, r)) for r in rounds) or "nothing",
            "small-time growth of a neuron's weights": ", ".join(
                f"{name} ~ t^{power}" for name, power in sorted(self.exponents.items(), key=lambda item: item[1])
            )
            or "none: u = 0 is a fixed point",
        }
        if rest:
            facts["not learned in O(d) samples"] = ", ".join(map(label, rest))
        if any(len(block) > 1 for block in self.visible.blocks):
            sums = [
                "".join(f" {'+' if s > 0 else '-'} {self.coordinates[i]}" for i, s in block).removeprefix(" + ")
                for block in self.visible.blocks
            ]
            facts["symmetric: the network sees only the sums"] = "; ".join(sums)
        facts["lower bound on the risk"] = self.visible.floor
        facts["risk of the zero function"] = float((self.values**2).mean())
        return facts


def _same_partition(left: Any, right: Any) -> bool:
    """Whether two labellings group alike."""
    import numpy as np

    return bool(np.array_equal(left[:, None] == left[None, :], right[:, None] == right[None, :]))


@lru_cache(maxsize=64)
def analyse(formula: Expression) -> BooleanFunction:
    """Return the Boolean function of a formula in ``z1, z2, ...``.

    Raises
    ------
    ValueError
        When it is constant, or not finite somewhere on the cube.
    """
    import numpy as np

    names = formula.variables
    rows = np.arange(1 << len(names))
    cube: Array = 1.0 - 2.0 * (rows[:, None] >> np.arange(len(names)) & 1).astype(np.float64)
    with np.errstate(all="ignore"):
        values = np.broadcast_to(
            np.asarray(formula.evaluate(np, **dict(zip(names, cube.T, strict=True))), dtype=float), (len(rows),)
        ).copy()
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        point = ", ".join(f"{n} = {v:+.0f}" for n, v in zip(names, cube[bad[0]], strict=True))
        raise ValueError(f"the formula {formula.text!r} is {values[bad[0]]} at {point}")
    found = BooleanFunction(names, cube, values)
    if not found.supports:
        raise ValueError(f"the formula {formula.text!r} is the constant {values[0]:g} on the cube: nothing to learn")
    return found


def monomials_of(problem: Problem) -> tuple[Monomial, ...]:
    """Return the products of coordinates that ``grid.monomials`` asks for; the empty product is the constant.

    ``"target"`` (the default) names those of the target, ``"all"`` every product of its coordinates.

    Raises
    ------
    ValueError
        For anything but these, or a list of products such as ``["1", "z1", "z1*z2"]``, each once.
    """
    target, asked = analyse(problem.target.expression), problem.grid.monomials
    if asked is None or asked == "target":
        return tuple(target.coefficients)
    if asked == "all":
        return target.products()
    if isinstance(asked, str):
        raise ValueError(f'must be "target", "all" or a list of products such as "z1*z2", got {asked!r}')
    found = tuple(monomial(text, target.coordinates) for text in asked)
    if len(set(found)) != len(found):
        raise ValueError(f"names one product twice: {', '.join(asked)}")
    return found
