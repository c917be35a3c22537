"""Derivatives of a few readings of a curve in many numbers: from the readings back to the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DimladderError
from .numerics.differences import derivative
from .tangents import SURE, Tangents, step_of

Array = NDArray[np.float64]
# The longest step of differences of a reading in an entry of the state, relative to it; or to a tenth of the largest.
STEP, SMALL = 0.05, 0.1


def by_adjoint(tangents: Tangents, names: Sequence[str]) -> tuple[Array, Array] | None:
    """Return the derivatives of variables in time, and their errors, each (numbers, readings); None without one.

    A reading is an entry of a variable at a time, in the order of the variables' own arrays. It depends on the numbers
    through the state, whose cotangent is carried back, and directly. A reading that is not smooth there, such as a
    distance near zero, has no cotangent that differences find: the errors are then too large, and there is none.
    """
    traced = tangents.traced()
    if traced is None:
        return None
    states, back = traced
    times = np.asarray(tangents.system.times(), dtype=float)
    widths = [int(np.prod(np.shape(tangents.system.variables(times, states)[n].values)[1:])) for n in names]
    try:
        found = [cotangents(tangents.system, names, t, y) for t, y in zip(times, states, strict=True)]
        direct, open_ = _directly(tangents, names, times, states)
    except ValueError:
        # A reading that is not defined around the state, or a number that cannot be moved.
        return None
    seeds, unsure = (np.concatenate([pair[k] for pair in found]) for k in (0, 1))
    through, left = back(seeds, np.repeat(np.arange(len(times)), sum(widths)))
    # What the cotangents leave open counts as their own size would.
    relative = abs(unsure).max(axis=1) / abs(seeds).max(axis=1).clip(min=1e-300)
    values, errors = through.T + direct, (left + relative[:, None] * abs(through)).T + open_
    if not (errors <= SURE * max(1.0, float(abs(values).max()))).all():
        return None
    # Variable by variable, each over the times and its own entries.
    ends = np.cumsum(widths)[:-1]

    def ordered(a: Array) -> Array:
        by_time = a.reshape(len(a), len(times), -1)
        return np.concatenate([part.reshape(len(a), -1) for part in np.split(by_time, ends, axis=2)], axis=1)

    return ordered(values), ordered(errors)


def readings(system: Any, names: Sequence[str], times: Array, states: Array) -> Array:
    """Return the entries of variables, one row a state."""
    found = system.variables(times, states)
    return np.concatenate([np.asarray(found[n].values, dtype=float).reshape(len(states), -1) for n in names], axis=1)


def cotangents(system: Any, names: Sequence[str], t: float, y: Array) -> tuple[Array, Array]:
    """Return the derivatives of readings at one time in the state, (readings, n), and their errors.

    Raises
    ------
    ValueError
        For a reading that is not defined around the state.
    """
    steps = np.diag(np.maximum(abs(y), SMALL * (abs(y).max(initial=0.0) or 1.0)))
    at = np.full(len(y), t)

    def moved(h: float) -> Array | None:
        try:
            found = readings(system, names, at, y + h * steps)
        except DimladderError:
            return None
        return found if np.isfinite(found).all() else None

    value, error = derivative(moved, 0.0, STEP)
    return (value / np.diag(steps)[:, None]).T, (error / np.diag(steps)[:, None]).T


def _directly(tangents: Tangents, names: Sequence[str], times: Array, states: Array) -> tuple[Array, Array]:
    """Return the derivatives of readings in the numbers with the states kept, and their errors: (numbers, readings)."""
    values, errors = [], []
    for k, x in enumerate(tangents.base):

        def moved(to: float, k: int = k) -> Array | None:
            here = tangents.at(k, to)
            try:
                return None if here is None else readings(here, names, times, states).ravel()
            except DimladderError:
                return None

        value, error = derivative(moved, x, step_of(x))
        values.append(value)
        errors.append(error)
    return np.stack(values), np.stack(errors)
