"""Branches of equilibria in a parameter, followed by pseudo-arclength."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .equilibria import VectorField, classify, newton, vector_of

__all__ = ["Branch", "follow"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Branch:
    """Equilibria along a curve, one row a point.

    ``folds`` and ``crossings`` list the rows after which the parameter turns back, and after which the number of
    unstable directions changes (which includes the folds).
    """

    parameter: Array
    y: Array
    eigenvalues: NDArray[np.complex128]
    unstable_directions: NDArray[np.int64]
    status: str
    message: str

    @property
    def stable(self) -> NDArray[np.bool_]:
        """Whether each point has no unstable direction."""
        return np.asarray(self.unstable_directions == 0)

    @property
    def folds(self) -> tuple[int, ...]:
        steps = np.sign(np.diff(self.parameter))
        return tuple(int(i) + 1 for i in np.flatnonzero(steps[1:] * steps[:-1] < 0))

    @property
    def crossings(self) -> tuple[int, ...]:
        return tuple(int(i) for i in np.flatnonzero(np.diff(self.unstable_directions)))


def follow(
    rhs: Any,
    y: ArrayLike,
    *,
    p: ArrayLike,
    index: int,
    stop: float,
    jac: Any = None,
    work_size: int = 0,
    step: float | None = None,
    max_points: int = 1000,
    tol: float = 1e-11,
    zero: float = 1e-8,
    bounds: tuple[float, float] | None = None,
) -> Branch:
    """Follow a branch of equilibria in the parameter ``p[index]`` by pseudo-arclength, around folds.

    The branch starts at the equilibrium near `y`, heads towards `stop`, and ends where the parameter passes `stop`,
    leaves `bounds` (default: twice the distance to `stop` on either side of the start), or after `max_points`.

    Parameters
    ----------
    step : float, optional
        First arclength step; it adapts to the number of Newton iterations. Default: a fiftieth of the way to `stop`.

    Returns
    -------
    Branch
        Status ``"success"`` (passed `stop`), ``"turned_back"`` (left the bounds elsewhere), ``"max_points"`` or
        ``"step_underflow"``.

    Notes
    -----
    Predictor along the tangent, corrector by Newton on f = 0 and tangent . (x - prediction) = 0 with x = (y, parameter)
    (Keller 1977). The determinant of that bordered system changes sign at simple bifurcations, not at folds.
    """
    field, parameters = VectorField(rhs, jac, work_size), vector_of(p)
    if not 0 <= index < parameters.size:
        raise ValueError(f"index {index} is not one of the {parameters.size} parameters")
    begin, way = float(parameters[index]), float(stop) - float(parameters[index])
    if way == 0:
        raise ValueError(f"stop = {stop:g} is the value of the parameter at the start")
    low, high = bounds if bounds is not None else (begin - 2 * abs(way), begin + 2 * abs(way))
    first, residual, status = newton(field, np.array(y, dtype=float), parameters, tol, 50)
    if status != "success":
        raise ValueError(f"no equilibrium near the first guess: Newton's iteration ends with max |f| = {residual:.3g}")
    n = first.size

    def at(value: float) -> Array:
        out = parameters.copy()
        out[index] = value
        return out

    def bordered(x: Array, tangent: Array) -> Array:
        q = at(float(x[n]))
        out = np.empty((n + 1, n + 1))
        out[:n, :n] = field.jacobian(x[:n], q)
        out[:n, n] = field.parameter_derivative(x[:n], q, index)
        out[n] = tangent
        return out

    def tangent_at(x: Array, previous: Array) -> Array:
        right = np.zeros(n + 1)
        right[n] = 1.0
        direction = np.linalg.lstsq(bordered(x, previous), right, rcond=None)[0]
        direction /= np.linalg.norm(direction)
        return np.asarray(direction if direction @ previous >= 0 else -direction)

    x = np.append(first, begin)
    tangent = np.zeros(n + 1)
    tangent[n] = np.sign(way)
    tangent = tangent_at(x, tangent)
    length = abs(way) / 50 if step is None else float(step)
    largest, smallest = 20 * length, 1e-8 * length
    points, status, message = [x], "max_points", f"stopped after {max_points} points"
    while len(points) < max_points:
        guess = x + length * tangent
        trial, iterations, met = guess.copy(), 0, False
        while iterations < 8:
            iterations += 1
            value = np.append(field.value(trial[:n], at(float(trial[n]))), tangent @ (trial - guess))
            if not np.isfinite(value).all():
                break
            matrix = bordered(trial, tangent)
            if not np.isfinite(matrix).all():
                break
            change = np.linalg.lstsq(matrix, -value, rcond=None)[0]
            trial = trial + change
            if float(np.max(np.abs(value[:n]))) <= tol or float(np.max(np.abs(change))) < 1e-14:
                met = bool(np.max(np.abs(field.value(trial[:n], at(float(trial[n]))))) <= 10 * tol)
                break
        new_tangent = tangent_at(trial, tangent) if met else tangent
        # A sharp turn means that the step may have jumped to another branch.
        if not met or float(new_tangent @ tangent) < 0.8:
            length *= 0.5
            if length < smallest:
                status, message = "step_underflow", f"no further point near parameter {x[n]:.6g}"
                break
            continue
        x, tangent = trial, new_tangent
        points.append(x)
        if (x[n] - stop) * way >= 0:
            status, message = "success", f"passed {stop:g} after {len(points)} points"
            break
        if not low <= x[n] <= high:
            status, message = "turned_back", f"left [{low:g}, {high:g}] at {x[n]:.6g}"
            break
        if iterations <= 3:
            length = min(1.4 * length, largest)
    states = np.array(points)
    classified = [classify(field, row[:n], at(float(row[n])), zero) for row in states]
    return Branch(
        parameter=states[:, n],
        y=states[:, :n],
        eigenvalues=np.array([c[0] for c in classified]),
        unstable_directions=np.array([c[2] for c in classified], np.int64),
        status=status,
        message=message,
    )
