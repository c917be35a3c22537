"""Matrices of overlaps as a run file gives them: their shape, and what no weights can have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DomainError

Array = NDArray[np.float64]
# Eigenvalues above -TOLERANCE x trace count as rounding of the digits in the run file.
TOLERANCE = 1e-9


def matrix_of(rows: tuple[tuple[float, ...], ...] | None, shape: tuple[int, int], key: str) -> Array:
    """Return rows of a run file as a matrix of that shape; `ConfigError` naming the key otherwise."""
    if rows is None:
        raise ConfigError(f"{key} is missing", where=key, hint='give Q and M, or kind = "random" with overlap and seed')
    if len(rows) != shape[0] or any(len(r) != shape[1] for r in rows):
        found = f"{len(rows)} x {len(rows[0]) if rows else 0}" if len({len(r) for r in rows}) <= 1 else "ragged"
        meaning = (
            "student.width x student.width" if key.endswith("Q") else "student.width x number of teacher directions"
        )
        raise ConfigError(
            f"{key} has the wrong shape", where=key, why=f"it is {found}, {shape[0]} x {shape[1]} is needed ({meaning})"
        )
    matrix = np.array(rows, dtype=float)
    if not np.isfinite(matrix).all():
        raise ConfigError(f"{key} must be finite", where=key, why=f"entries: {rows}")
    return matrix


# Matrices of the run file that must be symmetric.
SYMMETRIC = ("initial.Q", "initial.block_Q", "target.overlap")


def mirrored(key: str) -> str:
    """Return the key of the entry that moves with an entry of a symmetric matrix: itself on the diagonal."""
    head, _, indices = key.rpartition(".")
    head, _, row = head.rpartition(".")
    if row.isdigit() and indices.isdigit() and any(head == m or head.startswith(f"{m}.") for m in SYMMETRIC):
        return f"{head}.{indices}.{row}"
    return key


def require_symmetric(matrix: Array, key: str) -> None:
    """Refuse a matrix that is not symmetric."""
    i, k = np.unravel_index(np.argmax(abs(matrix - matrix.T)), matrix.shape)
    if abs(matrix[i, k] - matrix[k, i]) > 1e-12 * max(1.0, abs(matrix).max()):
        raise DomainError(
            f"{key} is not symmetric",
            where=f"{key}[{i}][{k}]",
            why=f"{matrix[i, k]:g} but [{k}][{i}] is {matrix[k, i]:g}",
        )


def require_semidefinite(matrix: Array, key: str, what: str = "") -> None:
    """Refuse a matrix with a negative eigenvalue: no weights have it as overlaps."""
    lowest = float(np.linalg.eigvalsh(matrix)[0])
    if lowest < -TOLERANCE * max(1.0, float(np.trace(matrix))):
        raise DomainError(
            what or f"{key} is not an overlap matrix: it has a negative eigenvalue",
            where=key,
            why=f"the smallest eigenvalue is {lowest:.6g}; a matrix of inner products is positive semi-definite",
            hint="check signs and sizes: |Q_ik| <= sqrt(Q_ii Q_kk) and |M_im| <= sqrt(Q_ii T_mm) are necessary",
        )
