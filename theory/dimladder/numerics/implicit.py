"""Derivatives of what solves R(x; v) = 0: dx/dv is the solution of R_x dx/dv = -R_v."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .differences import derivative

Array = NDArray[np.float64]
Moved = Callable[[float], Array | None]


def extrapolated(function: Moved, longest: float) -> tuple[Array, Array]:
    """Return the derivative at 0 by `differences.derivative`, and its error."""
    return derivative(function, 0.0, longest)


def response(
    residual: Callable[[Array], Array], x: Array, drives: Sequence[tuple[Moved, float]],
    along: Callable[[Moved, float], tuple[Array, Array]] = extrapolated, step: float = 0.1,
) -> tuple[Array, Array]:  # fmt: skip
    """Differentiate the roots of several independent systems in several numbers.

    Parameters
    ----------
    residual : callable
        ``residual(x)``, shape (points, n): row i depends on row i of x alone; NaN outside the domain.
    x : array, shape (points, n)
        The roots, in coordinates of which a change by `step` is moderate.
    drives : sequence of (callable, float)
        For each number the residuals at `x` when it is moved by h, None where it cannot be; and the longest h.
    along : callable
        ``along(function, longest) -> (derivative at 0, its error)``.

    Returns
    -------
    slopes, errors : arrays, shape (numbers, points, n)

    Raises
    ------
    ValueError
        When the residual is not defined around a root.
    numpy.linalg.LinAlgError
        When a Jacobian is singular.
    """

    def moved(direction: Array) -> Moved:
        def at(h: float) -> Array | None:
            found = residual(x + h * direction)
            return found if np.isfinite(found).all() else None

        return at

    columns = [along(moved(e), step) for e in np.eye(x.shape[1])]
    jacobian, unsure = (np.stack([c[i] for c in columns], axis=-1) for i in (0, 1))
    inverse = np.linalg.inv(jacobian)
    rows = [along(*drive) for drive in drives]
    slopes = np.stack([-np.einsum("pij,pj->pi", inverse, value) for value, _ in rows])
    left = [e + np.einsum("pij,pj->pi", unsure, abs(s)) for (_, e), s in zip(rows, slopes, strict=True)]
    return slopes, np.stack([np.einsum("pij,pj->pi", abs(inverse), e) for e in left])
