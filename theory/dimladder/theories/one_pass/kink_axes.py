"""Axes of the teacher fields along which a target has its kinks, so that quadrature can be split there."""

from __future__ import annotations

from typing import Any

import numpy as np

Axes = tuple[tuple[float, ...], ...]


def target_kinks(target: Any, count: int) -> tuple[Axes, Axes]:
    """Return orthonormal axes of the teacher fields, and the kinks of a target along each of them.

    Of the planes on which the target is not smooth, each in turn becomes normal to an axis if it is parallel or
    orthogonal to those before; the others are left to the accuracy of the quadrature. A target without oblique planes
    keeps its own fields as axes.

    Parameters
    ----------
    target : Index
    count : int
        Number of teacher fields.
    """
    formula = target.expression
    places = [int(name[1:] or 1) - 1 for name in formula.variables]
    axes: list[np.ndarray] = []
    kinks: list[set[float]] = []
    for slopes, level in formula.kink_planes():
        normal = np.zeros(count)
        normal[places] = slopes
        length = float(np.linalg.norm(normal))
        normal, at = normal / length, level / length
        overlaps = np.array([axis @ normal for axis in axes])
        parallel = np.flatnonzero(abs(abs(overlaps) - 1) < 1e-12)
        if len(parallel):
            kinks[parallel[0]].add(at * float(np.sign(overlaps[parallel[0]])))
        elif not len(overlaps) or abs(overlaps).max() < 1e-12:
            axes.append(normal)
            kinks.append({at})
    # Complete the frame, with the fields themselves where they fit.
    for axis in np.eye(count):
        if all(abs(axis @ other) < 1e-12 for other in axes):
            axes.append(axis)
            kinks.append(set())
    while len(axes) < count:
        rest = np.eye(count) - np.array(axes).T @ np.array(axes)
        row = rest[np.argmax(np.linalg.norm(rest, axis=1))]
        axes.append(row / np.linalg.norm(row))
        kinks.append(set())
    return tuple(tuple(map(float, a)) for a in axes), tuple(tuple(sorted(k)) for k in kinks)
