"""The subspace from flattened quadratics: the leading eigenvector of their label-weighted covariance, as a matrix.

C = (1/n) sum (T/r) phi phi^T - mean(T/r) on the D_2 = d (d + 1)/2 orthonormal quadratics phi of x, r = |phi|^2/D_2. It
is never formed: for a symmetric matrix V of unit norm phi.V = (x^T V x - tr V)/sqrt2, so that a product with C costs
two with the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dimladder.errors import SimulationError

from ..base import Backend, chunks
from .first_stage import BLOCK, CentredLabel
from .target import Realization, leading_eigenvectors

# Inputs are kept: larger numbers of them are refused.
MOST_NUMBERS = 400_000_000
PILOT_SAMPLES = 200_000


def flattened_subspaces(
    truth: Realization, label: CentredLabel, counts: Sequence[float], stream: np.random.Generator
) -> list[np.ndarray]:
    """Return, for each sample count, the d_eff leading eigenvectors of the folded leading eigenvector of C.

    Larger counts contain the smaller ones. Whether the largest or the smallest eigenvalue is asked for is decided by
    the sign of the covariance of the label with h^2, from a pilot sample. With r branches the r eigenvectors of C of
    largest modulus are folded, and the r d_eff leading eigenvectors of the sum of their squares taken.

    Returns
    -------
    list of (d, d_eff) arrays
        The true directions for an infinite count, random ones for none.

    Raises
    ------
    SimulationError
        If the inputs of the largest count do not fit into memory.
    """
    backend, d, branches = truth.backend, truth.d, truth.target.branches
    rank = truth.features * branches
    result: list[np.ndarray] = [truth.directions.reshape(-1, d).T.copy() for _ in counts]
    finite = sorted((int(n), i) for i, n in enumerate(counts) if math.isfinite(n))
    if finite and finite[-1][0] * d > MOST_NUMBERS:
        raise SimulationError(
            f"{finite[-1][0]} inputs of dimension {d} do not fit into memory", where="algorithm.first.estimator",
            why="flattened quadratics are never formed: their inputs are kept", hint="a smaller d, or fewer samples",
        )  # fmt: skip
    sign = _direction(truth, label, stream) if branches == 1 else 1.0
    blocks: list[tuple[Any, np.ndarray]] = []
    done = 0
    for n, i in finite:
        for block in chunks(n - done, BLOCK):
            x = truth.inputs(block, stream)
            y = truth.labels(x, stream)
            blocks.append((x, label(backend.to_numpy(y).astype(float))))
        done = n
        if n == 0:
            result[i] = np.linalg.qr(stream.standard_normal((d, rank)))[0]
            continue
        folded = _folded(blocks, d, n, sign, stream, backend, branches)
        result[i] = leading_eigenvectors(folded[0] if branches == 1 else sum(m @ m for m in folded), rank)
    return result


def flattened_features(
    truth: Realization,
    label: CentredLabel,
    bases: Sequence[Any],
    counts: Sequence[Sequence[int]],
    stream: np.random.Generator,
) -> list[Any]:
    """Return what a flattened second stage learns on every subspace: coefficients of the orthonormal quadratics.

    Parameters
    ----------
    bases : sequence of (d, d_eff) arrays
    counts : sequence of sequences of int
        Samples n2 for each subspace.

    Returns
    -------
    list of (D_2, len(counts)) arrays
        With r branches (D_2, r, len(counts)). In the order of `features.monomials`: squares, then products
        of two coordinates.
    """
    backend, branches = truth.backend, truth.target.branches
    xp = backend.xp
    rank = truth.features * branches
    sign = _direction(truth, label, stream) if branches == 1 else 1.0
    columns = np.triu_indices(rank, 1)
    found: list[dict[int, Any]] = [{} for _ in bases]
    blocks: list[list[tuple[Any, np.ndarray]]] = [[] for _ in bases]
    done = 0
    for n in sorted({n for row in counts for n in row}):
        for block in chunks(n - done, BLOCK):
            x = truth.inputs(block, stream)
            t = label(backend.to_numpy(truth.labels(x, stream)).astype(float))
            for own, basis in zip(blocks, bases, strict=True):
                own.append((xp.matmul(x, basis), t))
        done = n
        for own, row, kept in zip(blocks, counts, found, strict=True):
            if n in row:
                made = [
                    np.concatenate([np.diag(m), math.sqrt(2.0) * m[columns]])
                    for m in _folded(own, rank, n, sign, stream, backend, branches)
                ]
                kept[n] = backend.asarray(made[0] if branches == 1 else np.stack(made, axis=1))
    return [xp.stack([kept[n] for n in row], axis=-1) for kept, row in zip(found, counts, strict=True)]


def _direction(truth: Realization, label: CentredLabel, stream: np.random.Generator) -> float:
    z = stream.standard_normal((PILOT_SAMPLES, 1, truth.features))
    h = [truth.backend.to_numpy(v).astype(float) for v in truth.features_of(truth.backend.asarray(z))]
    f = np.asarray(truth.target.expression.evaluate(np, h=h[0]), dtype=float) + 0.0 * h[0]
    y = f + truth.target.noise * stream.standard_normal(len(f)) if truth.target.noise else f
    return 1.0 if float(np.mean(label(y) * (h[0] ** 2 - np.mean(h[0] ** 2)))) >= 0 else -1.0


def _folded(
    blocks: Sequence[tuple[Any, np.ndarray]],
    d: int,
    n: int,
    sign: float,
    stream: np.random.Generator,
    backend: Backend,
    count: int = 1,
) -> list[np.ndarray]:
    """Return the leading eigenvector of sign C as a symmetric matrix of unit norm, or several, of largest modulus."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    xp = backend.xp
    rows, columns = np.triu_indices(d)
    once = np.where(rows == columns, 1.0, math.sqrt(0.5))
    total = len(rows)

    def matrix(v: np.ndarray) -> np.ndarray:
        upper = np.zeros((d, d))
        upper[rows, columns] = v * once
        return upper + np.triu(upper, 1).T

    weights = []
    for x, t in blocks:
        s = backend.to_numpy(xp.sum(x * x, axis=1)).astype(float)
        weights.append(sign * t / ((s**2 - 2.0 * s + d) / (2.0 * total)))
    mean = sum(float(w.sum()) for w in weights) / n
    held = [backend.asarray(w) for w in weights]

    def product(v: np.ndarray) -> np.ndarray:
        folded = matrix(v.ravel())
        trace, side = float(np.trace(folded)), backend.asarray(folded)
        image, pulled = np.zeros((d, d)), 0.0
        for (x, _), w in zip(blocks, held, strict=True):
            along = 0.5 * w * (xp.sum(xp.matmul(x, side) * x, axis=1) - trace)
            image += backend.to_numpy(xp.matmul(xp.permute_dims(x, (1, 0)) * along, x)).astype(float)
            pulled += float(xp.sum(along))
        image -= pulled * np.eye(d)
        return np.asarray(image[rows, columns] / once / n - mean * v.ravel())

    start = stream.standard_normal(total)
    operator = LinearOperator((total, total), matvec=product, dtype=float)
    _, vectors = eigsh(operator, k=count, which="LA" if count == 1 else "LM", v0=start, tol=1e-4)
    return [matrix(v) for v in vectors.T]
