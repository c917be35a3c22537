"""Lazily revealed weights: gradient descent of a width-n network, exact in law, in O(n k) memory.

An initial weight matrix is only ever multiplied by k forward and k backward directions. Keep orthonormal bases ``Q_x``,
``Q_v`` of those with their images ``W Q_x``, ``W^T Q_v``. A new unit direction q orthogonal to ``Q_x`` has,
conditionally on everything revealed,

    W q = Q_v (W^T Q_v)^T q + (I - Q_v Q_v^T) zeta,    zeta ~ N(0, I),

which is all that is ever needed: no n x n matrix, no response functions, any activation and loss. It shares no formula
with the march, and is the tool of choice for very many samples. Cost O(L n k^2).
"""

from __future__ import annotations

import numpy as np

from ...problem.training import Training
from .march import OrderParameters, require_finite

# Directions whose part outside the basis is smaller than this fraction are linear functions of the known ones.
RESIDUAL = 1e-7


class LazyMatrix:
    """An n x n matrix of independent standard normals, revealed by multiplication.

    Parameters
    ----------
    width : int
    capacity : int
        Most forward, and most backward, directions.
    generator : numpy.random.Generator
    """

    def __init__(self, width: int, capacity: int, generator: np.random.Generator) -> None:
        self._generator, self._width = generator, width
        self._basis = [np.empty((width, capacity), order="F") for _ in range(2)]
        self._image = [np.empty((width, capacity), order="F") for _ in range(2)]
        self._count = [0, 0]

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return W x for the columns of `x`, shape (n, b)."""
        return self._apply(0, x)

    def backward(self, v: np.ndarray) -> np.ndarray:
        """Return W^T v for the columns of `v`, shape (n, b)."""
        return self._apply(1, v)

    def _apply(self, side: int, x: np.ndarray) -> np.ndarray:
        basis, image = self._basis[side], self._image[side]
        norms = np.linalg.norm(x, axis=0)
        for column, norm in zip(x.T, norms, strict=True):
            self._reveal(side, column, norm)
        count = self._count[side]
        return image[:, :count] @ (basis[:, :count].T @ x)

    def _reveal(self, side: int, column: np.ndarray, norm: float) -> None:
        count, basis = self._count[side], self._basis[side]
        known = basis[:, :count]
        rest = column - known @ (known.T @ column)
        rest -= known @ (known.T @ rest)  # twice is enough (Kahan)
        size = np.linalg.norm(rest)
        if norm == 0 or size <= RESIDUAL * norm:
            return
        q = rest / size
        other, seen = (
            self._basis[1 - side][:, : self._count[1 - side]],
            self._image[1 - side][:, : self._count[1 - side]],
        )
        fresh = self._generator.standard_normal(self._width)
        fresh -= other @ (other.T @ fresh)
        basis[:, count] = q
        self._image[side][:, count] = other @ (seen.T @ q) + fresh
        self._count[side] += 1


def train_lazily(training: Training, width: int, generator: np.random.Generator) -> OrderParameters:
    """Train one network of that width under muP and return its empirical order parameters.

    ``phi`` and ``g`` are the kernels of this network, with fluctuations of order n^-1/2 and a bias of order 1/n; ``a``,
    ``b`` and the pivots are not defined for it and are NaN.
    """
    out = OrderParameters.empty(training)
    for array in (*out.a, *out.b, out.forward_pivots, out.backward_pivots):
        array.fill(np.nan)
    m, total, layers, n = training.samples, training.points, training.layers, width
    values, vectors = np.linalg.eigh(training.gram)
    u = (vectors * np.sqrt(np.clip(values, 0, None))) @ generator.standard_normal((total, n))
    weights = [LazyMatrix(n, min(n, training.times * total), generator) for _ in range(layers - 1)]
    readout = generator.standard_normal(n)
    xs = [np.empty((training.times * total, n)) for _ in range(layers)]
    gs = [np.empty((training.times * m, n)) for _ in range(layers)]
    first: list[np.ndarray] = []
    root = np.sqrt(n)
    for t in range(training.times):
        rows, now = slice(t * total, (t + 1) * total), slice(t * m, (t + 1) * m)
        past, a = t * m, out.rates[:t].ravel()
        if t > 0:
            u += training.gram[:, :m] @ (out.rates[t - 1][:, None] * gs[0][(t - 1) * m : t * m])
            readout += out.rates[t - 1] @ xs[-1][(t - 1) * total : (t - 1) * total + m]
        h, slopes = u, []
        for l in range(layers):
            if l > 0:
                below = xs[l - 1]
                kernel = _train_columns(out.phi[l - 1][rows, : t * total], total, m)
                h = weights[l - 1].forward(below[rows].T).T / root + (kernel * a) @ gs[l][:past]
            x, slope, _ = training.activation(h)
            xs[l][rows] = x
            slopes.append(slope)
            block = x @ xs[l][: (t + 1) * total].T / n
            out.phi[l][rows, : (t + 1) * total], out.phi[l][: (t + 1) * total, rows] = block, block.T
            if t == 0:
                first.append(h.copy())
                out.pre[l][0] = h @ h.T / n
            if t == training.times - 1:
                out.pre[l][1] = h @ h.T / n
                out.change[l][:] = ((h - first[l]) ** 2).mean(axis=1)
        out.f[t] = xs[-1][rows] @ readout / (n * training.richness)
        require_finite(out.f[t], "output f", out, t)
        out.error_signal[t] = training.error_signal(out.f[t, :m])
        out.rates[t] = training.learning_rates[t] * training.richness * training.weights[t] * out.error_signal[t]
        z: np.ndarray = readout[None]
        for l in reversed(range(layers)):
            if l < layers - 1:
                learned = (out.g[l + 1][now, :past] * a) @ xs[l].reshape(training.times, total, n)[:t, :m].reshape(
                    past, n
                )
                z = weights[l].backward(gs[l + 1][now].T).T / root + learned
            gs[l][now] = z * slopes[l][:m]
            block = gs[l][now] @ gs[l][: past + m].T / n
            out.g[l][now, : past + m], out.g[l][: past + m, now] = block, block.T
    return out


def _train_columns(block: np.ndarray, total: int, m: int) -> np.ndarray:
    return block.reshape(len(block), -1, total)[:, :, :m].reshape(len(block), -1)
