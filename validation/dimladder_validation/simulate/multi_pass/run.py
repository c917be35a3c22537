"""What every way of training on one data set shares: what it records, its batches, and where it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dimladder.errors import SimulationError
from dimladder.problem.descent import Descent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# Numbers of masks and noises that a replica draws ahead.
CHUNK_NUMBERS = 250_000


@dataclass
class Run:
    """What one replica measured, time first: rows t = 0..T.

    Attributes
    ----------
    train_loss, train_errors : (T + 1,) arrays
        Mean loss and the part of wrong signs on the training set.
    readouts : (T + 1, K) array
    grams, overlaps : (T + 1, blocks, K, K) and (T + 1, blocks, K, M) arrays
    """

    train_loss: Array
    train_errors: Array
    readouts: Array
    grams: Array
    overlaps: Array

    @classmethod
    def empty(cls, descent: Descent) -> Run:
        """Return zeros."""
        times, j, k = descent.steps + 1, descent.blocks, descent.students
        return cls(
            np.zeros(times), np.zeros(times), np.zeros((times, k)), np.zeros((times, j, k, k)),
            np.zeros((times, j, k, descent.teachers)),
        )  # fmt: skip

    def record(self, t: int, loss: float, errors: float, readout: Array, overlaps: tuple[Array, Array]) -> None:
        """Fill row t."""
        self.train_loss[t], self.train_errors[t], self.readouts[t] = loss, errors, readout
        self.grams[t], self.overlaps[t] = overlaps

    def at(self, rows: NDArray[np.int64]) -> Run:
        """Return some of the rows."""
        return Run(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))


def batches(descent: Descent, samples: int, stream: np.random.Generator) -> Callable[[int], Array]:
    """Return the function that gives the mask of update t, called for t = 0, 1, 2, ...

    Fresh batches draw every sample with probability b; the others cut a permutation of the samples into 1/b parts.
    """
    parts = descent.batches
    order = np.zeros(samples, dtype=np.int64)

    def mask(t: int) -> Array:
        if descent.full:
            return np.ones(samples)
        if descent.batching == "fresh":
            return (stream.random(samples) < descent.batch_fraction).astype(float)
        if t == 0 or (descent.batching == "epoch" and t % parts == 0):
            order[:] = stream.permutation(samples)
        return ((order * parts) // samples == t % parts).astype(float)

    return mask


def start_coordinates(descent: Descent) -> tuple[Array, Array]:
    """Return rows of w* and w(0) on orthonormal directions, K + M for each block, shapes (blocks, M or K, K + M)."""
    m = descent.teachers
    teachers, students = [], []
    for target, cross, own in zip(descent.target_gram, descent.start_overlap, descent.start_gram, strict=True):
        gram = np.block([[target, cross.T], [cross, own]])
        values, vectors = np.linalg.eigh(gram)
        # Any root will do: directions are free. This one survives singular overlaps.
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        teachers.append(root[:m])
        students.append(root[m:])
    return np.array(teachers), np.array(students)


def block_sizes(descent: Descent, d: int) -> NDArray[np.int64]:
    """Return the number of coordinates of each block.

    Raises
    ------
    SimulationError
        When they are not whole numbers, or too few for the directions that training starts from.
    """
    exact = descent.fractions * d
    sizes = np.round(exact).astype(np.int64)
    needed = descent.students + descent.teachers
    if np.abs(exact - sizes).max() > 1e-6:
        raise SimulationError(
            f"blocks of fractions {descent.fractions.tolist()} of {d} dimensions are not whole",
            where="simulation.sizes", hint="choose sizes that the fractions divide",
        )  # fmt: skip
    if sizes.min() < needed:
        raise SimulationError(
            f"d = {d} is too small", where="simulation.sizes",
            why=f"a block of {sizes.min()} coordinates cannot hold {needed} directions of weights and targets",
        )  # fmt: skip
    return sizes
