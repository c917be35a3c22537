"""A problem of clustered data as numbers: the points, their cones, the states asked for, and how far clusters move."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DomainError
from ..point_data import BallClusters, ClassFile, ClassPoints
from ..spec import Problem
from .clusters import ClusteredData, ball_clusters, project
from .geometry import Cones, cones, default_shifts


def load(data: BallClusters | ClassPoints | ClassFile) -> ClusteredData:
    """Return points and labels.

    Data of more dimensions than classes are projected on the span of the class means: a first layer that does so
    costs nothing.

    Raises
    ------
    DomainError
        When a file is missing or does not fit.
    """
    found = given(data)
    return project(found) if found.dimension > found.classes else found


def given(data: BallClusters | ClassPoints | ClassFile) -> ClusteredData:
    """Return points and labels as they are, in all their dimensions."""
    if isinstance(data, BallClusters):
        return ball_clusters(
            data.classes, data.counts, data.separation, data.mean_jitter, data.radius, data.seed, data.label_jitter,
            data.dimension, data.elongation,
        )  # fmt: skip
    if isinstance(data, ClassPoints):
        labels = np.array(data.labels).T if data.labels else np.eye(data.classes)
        return ClusteredData(tuple(np.array(group).T for group in data.points), labels)
    return _read(data)


def _read(data: ClassFile) -> ClusteredData:
    if not Path(data.path).is_file():
        raise DomainError("the data file does not exist", where="data.path", why=data.path)
    with np.load(data.path, allow_pickle=False) as file:
        missing = {"x", "label"} - set(file.files)
        if missing:
            raise DomainError(
                "the data file lacks arrays", where=f"data.path: {data.path}", why=f"no {', '.join(sorted(missing))}"
            )
        x, label = np.asarray(file["x"], dtype=float), np.asarray(file["label"])
        y = np.asarray(file["y"], dtype=float).T if "y" in file.files else np.eye(data.classes)
    if x.ndim != 2 or label.shape != (x.shape[0],) or set(np.unique(label)) != set(range(data.classes)):
        raise DomainError(
            "the data file does not fit the problem",
            where=f"data.path: {data.path}",
            why=f"x has shape {x.shape}, label {label.shape} with values {np.unique(label)[:8]}; "
            f"expected (N, dimension), (N,), and classes 0..{data.classes - 1}",
        )
    return ClusteredData(tuple(x[label == j].T for j in range(data.classes)), y)


def clusters_and_cones(problem: Problem) -> tuple[ClusteredData, Cones]:
    """Return the data and their cones, and insist on the assumptions unless they are only to be reported.

    Raises
    ------
    DomainError
        When a geometric assumption fails; the message names the cluster.
    """
    data, student = load(problem.data), problem.student
    found = cones(data, theta=None if student.theta is None else math.radians(student.theta))
    if student.assumptions == "required":
        found.require()
    return data, found


def states_of(problem: Problem) -> tuple[str, ...]:
    """Return the labels asked for, in binary order for "all"; character j belongs to class j, 1 stays active."""
    asked = problem.grid.state
    if asked is not None and asked != "all":
        return tuple(asked)
    q = problem.data.classes
    return tuple(format(n, f"0{q}b") for n in range(2**q))


def shifts_of(problem: Problem, geometry: Cones, state: Any = None) -> Any:
    """Return mu_j of the explicit network (`state` None) or of a state; negative where a cluster is cut."""
    mu, given = default_shifts(geometry, state), problem.student.shifts
    if given:
        cut = np.ones(len(mu), dtype=bool) if state is None else ~np.asarray(state, dtype=bool)
        mu = np.where(cut, -np.array(given), mu)
    return mu


def parse_state(label: str) -> Any:
    """Return the label of a state as a boolean array, True for active."""
    return np.array([c == "1" for c in label])
