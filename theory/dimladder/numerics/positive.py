"""Free coordinates of positive matrices: A = U D U^T, U lower triangular with ones, D > 0 diagonal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["free_coordinates", "positive_matrix"]

Array = NDArray[np.float64]


def free_coordinates(matrix: Array) -> Array:
    """Return ln D, then the entries of U below the diagonal; NaN for a matrix that is not positive.

    Parameters
    ----------
    matrix : array (n, n)
        Its symmetric part counts.
    """
    n = len(matrix)
    try:
        factor = np.linalg.cholesky((matrix + matrix.T) / 2.0)
    except np.linalg.LinAlgError:
        return np.full(n * (n + 1) // 2, np.nan)
    diagonal = np.diag(factor)
    found: Array = np.concatenate([2.0 * np.log(diagonal), (factor / diagonal)[np.tril_indices(n, -1)]])
    return found


def positive_matrix(coordinates: Array, n: int) -> Array:
    """Return the matrix (n, n) with these coordinates."""
    lower = np.eye(n)
    lower[np.tril_indices(n, -1)] = coordinates[n:]
    found: Array = (lower * np.exp(coordinates[:n])) @ lower.T
    return found
