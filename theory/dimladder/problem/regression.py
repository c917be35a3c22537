"""One drawn data set of a linear regression, and where the weights start: read by theories and by experiments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .data import Gaussian
from .spec import Problem
from .targets import Index, power_shares

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


def spectrum_of(data: Gaussian) -> Array:
    """Return the eigenvalues of the input covariance, shape (dimension,), block after block."""
    import numpy as np

    assert data.dimension is not None
    return np.ones(data.dimension) if data.spectrum is None else data.spectrum.eigenvalues(data.dimension)


def least_squares_data(problem: Problem) -> tuple[Array, Array, Array, Array]:
    """Draw y = X theta* + noise xi, rows of X ~ N(0, Sigma), and the start theta(0).

    theta* is isotropic within each block of the spectrum, with the blocks' shares of |theta*|^2 in `target.power` (of
    all directions together where it is absent), scaled so that theta*^T Sigma theta* is the square of the target's
    slope: y = slope z + noise xi with z of variance one. Draws from ``default_rng(data.seed)`` in this order: X,
    theta*, xi, the direction of theta(0).

    Returns
    -------
    X : (n, d) array
    y : (n,) array
    target : (d,) array
        theta*.
    start : (d,) array
        theta(0), of norm ``student.initial_norm``, in a random direction or that of theta*.
    """
    import numpy as np

    data, target, student = problem.data, problem.target, problem.student
    rng = np.random.default_rng(data.seed)
    scales = spectrum_of(data)
    x = rng.standard_normal((data.samples, data.dimension)) * np.sqrt(scales)
    theta = _teacher(rng.standard_normal(data.dimension), data, target, scales)
    y = x @ theta + target.noise * rng.standard_normal(data.samples)
    start = rng.standard_normal(data.dimension)
    if student.direction == "target":
        start = theta
    return x, y, theta, student.initial_norm * start / np.linalg.norm(start)


def linear_teacher_data(problem: Problem) -> tuple[Array, Array, Array]:
    """Draw y = slope w*.x/sqrt d + noise xi with x ~ N(0, 1), |w*|^2 = d, from ``default_rng(data.seed)``.

    Returns
    -------
    X : (d, n) array
        A column a sample.
    y : (n,) array
    target : (d,) array
        slope w*.
    """
    import numpy as np

    data, target = problem.data, problem.target
    rng = np.random.default_rng(data.seed)
    x = rng.standard_normal((data.dimension, data.samples))
    w = rng.standard_normal(data.dimension)
    w *= target.slope * np.sqrt(data.dimension) / np.linalg.norm(w)
    return x, x.T @ w / np.sqrt(data.dimension) + target.noise * rng.standard_normal(data.samples), w


def _teacher(draw: Array, data: Gaussian, target: Index, scales: Array) -> Array:
    import numpy as np

    assert data.dimension is not None
    assert target.slope is not None
    if data.spectrum is not None and target.power is not None:
        _, shares = data.spectrum.blocks()
        counts = data.spectrum.counts(data.dimension)
        block = np.repeat(np.arange(counts.size), counts)
        lengths = np.sqrt(np.bincount(block, draw**2, counts.size))
        draw = draw * (np.sqrt(power_shares(target.power, shares)) / lengths)[block]
    return draw * (target.slope / np.sqrt(draw**2 @ scales))
