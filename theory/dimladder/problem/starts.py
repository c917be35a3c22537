"""``[initial]``: where training starts. |w|^2 = Q d, so that Q, M and the rest are O(1)."""

from __future__ import annotations

from .checks import Matrix, Row, at_least, finite, positive
from .spec import Spec
from .students import Rows


class Explicit(Spec, frozen=True, kw_only=True, tag_field="kind", tag="explicit"):
    """Order parameters at time 0, as given; what is absent is the theory's default.

    Attributes
    ----------
    Q, M : rows
        Overlaps student-student (width x width) and student-teacher (width x teachers).
    a, bias : sequence of float
        Readouts (instead of the student's `readout`; rows: one an output) and biases.
    means : rows
        w.m/d, a row a student unit, an entry a direction of the means.
    block_Q, block_M : one matrix a block of the spectrum
        Q and M block by block; the totals are their sums.
    threshold : float
        Of a truncation.
    """

    Q: Matrix | None = None
    M: Matrix | None = None
    a: Rows | None = None
    bias: Row | None = None
    means: Matrix | None = None
    block_Q: tuple[Matrix, ...] | None = None
    block_M: tuple[Matrix, ...] | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        finite(**{name: getattr(self, name) for name in self.__struct_fields__})
        empty = [name for name in self.__struct_fields__ if getattr(self, name) == ()]
        if empty:
            raise ValueError(f"{empty[0]} must not be empty: leave the key out")
        if (self.Q is not None and self.block_Q is not None) or (self.M is not None and self.block_M is not None):
            raise ValueError("block_Q and block_M stand instead of Q and M: the totals are their sums")


class Random(Spec, frozen=True, kw_only=True, tag_field="kind", tag="random"):
    """Drawn order parameters.

    Attributes
    ----------
    overlap : float
        Standard deviation of each M[i, m].
    norm : float
        Squared norm Q[i, i], 1 unless given. Directions beyond M are mutually orthogonal, as d -> infinity.
    a : sequence of float, or rows
        Readouts, instead of the student's `readout`; rows: one an output.
    seed : int
        Seed of M and of random readouts.
    """

    overlap: float | None = None
    norm: float | None = None
    a: Rows | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        finite(overlap=self.overlap, a=self.a)
        positive(norm=self.norm)
        at_least(0, seed=self.seed)
