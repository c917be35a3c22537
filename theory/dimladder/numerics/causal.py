"""Causal sampling of a Gaussian process whose covariance is revealed one time at a time."""

from __future__ import annotations

import numpy as np

# An innovation whose variance is below this fraction of the process's own variance is a linear function of the past.
DROP = 1e-12


class CausalGaussian:
    """Block Cholesky factor of a covariance, extended by the rows of one time after another.

    With the factor ``F`` of the rows before time t and the new rows ``K(t, <t)``, ``K(t, t)``, the process is
    ``u(t) = X xi(<t) + P xi(t)``: ``X F^T = K(t, <t)`` is what the past explains, by block forward substitution, and
    ``P P^T = K(t,t) - X X^T`` the innovation. The pivot block is factored by its eigenvectors, largest first, and
    directions that the past determines are dropped: rank-deficient processes (deep linear networks, repeated inputs)
    need no jitter.

    Parameters
    ----------
    rows : int
        Number of rows the process will have in the end.
    columns : int
        Number of standard normals at hand.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.rank = 0, 0
        self._factor = np.zeros((rows, columns))
        self._blocks: list[tuple[int, int, int, np.ndarray]] = []  # first row, end row, first column, whitener

    def extend(self, past: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Append the rows of a new time and return the eigenvalues of its innovation covariance, ascending.

        Parameters
        ----------
        past : (b, rows) array
            Covariance of the new rows with all earlier ones.
        block : (b, b) array
            Covariance of the new rows.
        """
        b, r, q = len(block), self.rows, self.rank
        explained = np.zeros((b, q))
        for first, last, column, whiten in self._blocks:
            rest = past[:, first:last] - explained[:, :column] @ self._factor[first:last, :column].T
            explained[:, column : column + len(whiten)] = rest @ whiten.T
        pivot = block - explained @ explained.T
        values, vectors = np.linalg.eigh(0.5 * (pivot + pivot.T))
        keep = np.flatnonzero(values > DROP * max(np.trace(block) / b, np.finfo(float).tiny))[::-1]
        root = np.sqrt(values[keep])
        self._factor[r : r + b, :q] = explained
        self._factor[r : r + b, q : q + len(keep)] = vectors[:, keep] * root
        self._blocks.append((r, r + b, q, (vectors[:, keep] / root).T))
        self.rows, self.rank = r + b, q + len(keep)
        return values

    def draw(self, rows: int, normals: np.ndarray) -> np.ndarray:
        """Return the last `rows` rows of the process on each column of `normals`, of shape ``(columns, samples)``."""
        return self._factor[self.rows - rows : self.rows, : self.rank] @ normals[: self.rank]

    def state(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint must hold."""
        table = np.array([block[:3] for block in self._blocks], dtype=np.int64).reshape(-1, 3)
        whiteners = [block[3].ravel() for block in self._blocks]
        return {
            "size": np.array([self.rows, self.rank]),
            "factor": self._factor,
            "table": table,
            "whiteners": np.concatenate(whiteners) if whiteners else np.zeros(0),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take up the state of a checkpoint."""
        self.rows, self.rank = (int(v) for v in state["size"])
        self._factor[:] = state["factor"]
        ends = [int(row[2]) for row in state["table"]] + [self.rank]
        self._blocks, start = [], 0
        for (first, last, column), end in zip(state["table"].tolist(), ends[1:], strict=True):
            size = (end - column) * (last - first)
            self._blocks.append(
                (first, last, column, state["whiteners"][start : start + size].reshape(end - column, -1))
            )
            start += size
