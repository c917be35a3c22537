"""Axes of the teacher fields along which a target has its kinks, so that quadrature can be split there."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

Axes = tuple[tuple[float, ...], ...]
Plane = tuple[tuple[float, ...], float]
# Of so many planes with one last field, the places where they meet are looked up.
MOST_PLANES = 12


def label_planes(formulas: Any, argmax: bool, count: int) -> tuple[Plane, ...]:
    """Return the planes ``a.z = c`` of the teacher fields on which a label of several outputs is not smooth.

    Those where a formula is not, and for classes those where two formulas are equal, if they are affine; others are
    left to the accuracy of the quadrature.

    Parameters
    ----------
    formulas : sequence of Expression
    argmax : bool
        Whether the label is the class of the largest formula.
    count : int
        Number of teacher fields.
    """
    from ...problem.expressions import Expression

    looked = list(formulas)
    if argmax:
        looked += [
            Expression(f"abs(({one.text}) - ({two.text}))", ("z", "z*"), one.hermite)
            for one, two in combinations(formulas, 2)
        ]
    found = []
    for formula in looked:
        places = [int(name[1:] or 1) - 1 for name in formula.variables]
        for slopes, level in formula.kink_planes():
            normal = np.zeros(count)
            normal[places] = slopes
            if normal.any():
                found.append(_scaled(normal, float(level)))
    planes = dict.fromkeys(found)
    # Where two planes meet, the average over the last field that they depend on has a kink in those before it.
    for last in range(count - 1, 0, -1):
        ending = [p for p in planes if p[0][last] and not any(p[0][last + 1 :])]
        for one, two in combinations(ending[:MOST_PLANES], 2):
            normal = np.array(one[0]) / one[0][last] - np.array(two[0]) / two[0][last]
            if np.abs(normal).max() > 1e-12:
                normal[last] = 0.0
                planes.setdefault(_scaled(normal, one[1] / one[0][last] - two[1] / two[0][last]), None)
    return tuple(planes)


def _scaled(normal: np.ndarray, level: float) -> Plane:
    """Return a plane with the first coefficient one, so that equal ones are equal."""
    first = float(normal[np.abs(normal) > 1e-12][0])
    return tuple(float(round(v / first, 12)) + 0.0 for v in normal), round(level / first, 12) + 0.0


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
