"""Training samples before training starts: particles with their labels and their places in the batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...numerics.sampling import Sampler, uniforms
from ...problem.descent import Descent
from .march import Particles, fresh_rows, start_rows
from .model import Model

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Coordinates:
    """Independent normals of a label, turned so that kinks of the target are planes of its first coordinates.

    Attributes
    ----------
    turn : (n, n) array
        Orthogonal: (start directions of the target, noises) = turn @ coordinates.
    kinks : tuple of n tuples
        Where the label is not smooth in each coordinate.
    aligned : bool
        Whether every kink of the target is among `kinks`.
    model, root
        Whose labels they are.
    """

    turn: Array
    kinks: tuple[tuple[float, ...], ...]
    aligned: bool
    model: Model
    root: Array

    @cached_property
    def active(self) -> int:
        """The label depends on this many of the first coordinates, on many draws."""
        draws = np.random.default_rng(1).standard_normal((2, len(self.turn), 4096))
        one = labels_of(self.model, self.root, self.turn, draws[0])
        for active in range(len(self.turn) - 1, 0, -1):
            draws[1, :active] = draws[0, :active]
            other = labels_of(self.model, self.root, self.turn, draws[1])
            if np.abs(other - one).max() > 1e-12 * (1.0 + np.abs(one).max()):
                return active + 1
        return 1


def coordinates(model: Model, root: Array) -> Coordinates:
    """Return the coordinates of the labels of target fields z = root g, g standard normal.

    Sampling and quadrature gain orders of magnitude when jumps and kinks lie along axes.
    """
    total = root.shape[1] + model.sources - len(model.fields)
    directions: list[Array] = []
    levels: list[set[float]] = []
    planes, aligned = model.kink_planes()
    for slope, level in planes:
        along = np.concatenate([root.T @ slope[: len(model.fields)], slope[len(model.fields) :]])
        length = float(np.linalg.norm(along))
        if length == 0:
            continue
        along, level = along / length, level / length
        cosines = [float(along @ other) for other in directions]
        same = [i for i, c in enumerate(cosines) if abs(abs(c) - 1.0) < 1e-12]
        if same:
            levels[same[0]].add(round(float(np.sign(cosines[same[0]])) * level, 14))
        elif all(abs(c) < 1e-12 for c in cosines):
            directions.append(along)
            levels.append({round(level, 14)})
        else:
            aligned = False
    turn = np.linalg.qr(np.column_stack([*directions, np.eye(total)]))[0] if directions else np.eye(total)
    for i, along in enumerate(directions):
        turn[:, i] = along
    kinks = tuple(tuple(sorted(own)) for own in levels) + ((),) * (total - len(levels))
    return Coordinates(turn, kinks, aligned, model, root)


def labels_of(model: Model, root: Array, turn: Array, points: Array) -> Array:
    """Return labels at points given in the turned coordinates, shape (sources', P)."""
    directions = root.shape[1]
    normals = turn @ points
    return model.labels(root @ normals[:directions], normals[directions:])


@dataclass(frozen=True)
class Order:
    """Places of the random numbers of a march among Sobol' dimensions: first the start, then update after update.

    Attributes
    ----------
    start : slice
        What is drawn before training.
    fresh : (steps, count) array
        Fresh normals of each update.
    masks : (draws,) array
        Uniform numbers of the masks.
    total : int
    """

    start: slice
    fresh: NDArray[np.int64]
    masks: NDArray[np.int64]
    total: int


def order_of(descent: Descent, start: int, count: int) -> Order:
    """Return the order of `start` numbers before training and `count` normals for each update, masks in between."""
    drawn = set() if descent.full else set(_mask_times(descent))
    place, fresh, masks = start, [], []
    for t in range(descent.steps):
        if t in drawn:
            masks.append(place)
            place += 1
        fresh.append(range(place, place + count))
        place += count
    return Order(
        slice(0, start), np.array(fresh, dtype=np.int64).reshape(descent.steps, count), np.array(masks, dtype=np.int64),
        place,
    )  # fmt: skip


def draw(
    descent: Descent, model: Model, samples: int, stream: np.random.Generator, sampler: Sampler = "sobol"
) -> Particles:
    """Return particles: the start, then for each update the fresh normals and the masks, in the order of time.

    Start coordinates are made exactly uncorrelated, which removes their sampling noise from Q(0), M(0).

    Parameters
    ----------
    descent, model
    samples : int
    stream : numpy.random.Generator
    sampler : {"sobol", "monte-carlo"}
    """
    from scipy.special import ndtri

    teacher, _ = start_rows(descent)
    teacher *= np.repeat(np.sqrt(descent.variances), descent.teachers + descent.students)
    start, noises = teacher.shape[1], model.sources - len(model.fields)
    order = order_of(descent, start + noises, fresh_rows(descent))
    points = uniforms(order.total, samples, stream, sampler)
    normal = ndtri(points[order.start])
    normal = np.linalg.solve(np.linalg.cholesky(normal @ normal.T / samples), normal)
    # The target's directions and the noises are turned among themselves; those of the students come last.
    own = np.flatnonzero(np.abs(teacher).sum(axis=0) > 0)
    law = coordinates(model, teacher[:, own])
    first = np.concatenate([own, np.arange(start, start + noises)])
    turned = np.empty_like(normal)
    turned[first] = law.turn @ normal[: len(first)]
    turned[np.setdiff1d(np.arange(start + noises), first)] = normal[len(first) :]
    rows = np.concatenate([turned[:start], ndtri(points[order.fresh.ravel()])])
    labels = model.labels(teacher @ turned[:start], turned[start:])
    return Particles(rows, labels, batch_masks(descent, points[order.masks]), start)


def _mask_times(descent: Descent) -> range:
    """Return the updates before which a mask needs a fresh uniform number."""
    if descent.batching == "fresh":
        return range(descent.steps)
    return range(0, descent.steps, descent.batches) if descent.batching == "epoch" else range(1)


def batch_masks(descent: Descent, points: Array) -> NDArray[np.uint8]:
    """Return which samples are in the batch of every update, from one uniform number each time one is needed.

    Parameters
    ----------
    descent : Descent
    points : (draws, N) array
    """
    steps, batches = descent.steps, descent.batches
    if descent.full:
        return np.ones((steps, points.shape[1]), dtype=np.uint8)
    if descent.batching == "fresh":
        return (points < descent.batch_fraction).astype(np.uint8)
    slots = np.minimum((points * batches).astype(np.int64), batches - 1)
    time = np.arange(steps)
    epoch = time // batches if descent.batching == "epoch" else np.zeros(steps, dtype=np.int64)
    return (slots[epoch] == (time % batches)[:, None]).astype(np.uint8)
