"""One realisation of a hierarchical target at finite d, on any array namespace."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from dimladder.errors import SimulationError
from dimladder.problem import Hierarchical
from dimladder.problem.hierarchy import draw_readout, effective_dimension, orthonormal_coefficients

from ..base import Backend


def level_sizes(target: Hierarchical, d: int) -> tuple[int, ...]:
    """Return the number of features of each level of one branch, the scalar top included.

    A level of floor(d^eps_l) features takes them in equal disjoint blocks from the level below; what does not fill a
    block is left out, so the lower level is cut to a multiple of the upper.

    Raises
    ------
    SimulationError
        If two levels have the same size at this d, or the branches do not fit into d.
    """
    sizes = [effective_dimension(d, e) for e in target.exponents] + [1]
    for l in range(len(sizes) - 2, -1, -1):
        if sizes[l] <= sizes[l + 1]:
            raise SimulationError(
                f"levels {l + 1} and {l + 2} have {sizes[l]} and {sizes[l + 1]} features at d = {d}",
                where="target.exponents", hint="use a larger d, or exponents further apart",
            )  # fmt: skip
        sizes[l] -= sizes[l] % sizes[l + 1]
    if sizes[0] * target.branches > d:
        raise SimulationError(f"{target.branches} branches of {sizes[0]} directions do not fit into d = {d}")
    return tuple(sizes)


def haar_rows(rng: np.random.Generator, rows: int, d: int) -> np.ndarray:
    """Return `rows` orthonormal vectors of R^d, uniformly distributed."""
    q, r = np.linalg.qr(rng.standard_normal((d, rows)))
    return np.ascontiguousarray((q * np.sign(np.diag(r))).T)


def hermite_polynomial(coefficients: np.ndarray, z: Any) -> Any:
    """Evaluate sum_j c_j h_j(z), orthonormal Hermite polynomials, elementwise."""
    degree = len(coefficients) - 1
    if 1 <= degree <= 8:
        # Horner in powers: few passes over the array. Above degree 8 its cancellation would show in float32.
        norms = np.sqrt([float(math.factorial(j)) for j in range(degree + 1)])
        powers = np.polynomial.hermite_e.herme2poly(np.asarray(coefficients) / norms)
        total = float(powers[-1]) * z
        for c in powers[-2:0:-1]:
            total = (total + float(c)) * z if c else total * z
        return total + float(powers[0]) if powers[0] else total
    low, high = 0.0 * z + 1.0, z
    total = float(coefficients[0]) * low
    for j in range(1, len(coefficients)):
        if coefficients[j] != 0.0:
            total = total + float(coefficients[j]) * high
        low, high = high, (z * high - math.sqrt(j) * low) / math.sqrt(j + 1)
    return total


def leading_eigenvectors(matrix: np.ndarray, rank: int) -> np.ndarray:
    """Return the eigenvectors of a symmetric matrix with the `rank` eigenvalues of largest modulus, as columns."""
    from scipy.linalg import eigh

    n = len(matrix)
    if 2 * rank >= n:
        values, vectors = eigh(matrix)
    else:
        low = eigh(matrix, subset_by_index=(0, rank - 1))
        high = eigh(matrix, subset_by_index=(n - rank, n - 1))
        values, vectors = np.concatenate([low[0], high[0]]), np.concatenate([low[1], high[1]], axis=1)
    return vectors[:, np.argsort(-np.abs(values))[:rank]]


@dataclass
class Realization:
    """f*(x) = g(h), with its own hidden directions and readouts.

    Attributes
    ----------
    directions : (branches, d_eff, d) array
        Orthonormal hidden directions W*.
    readouts : tuple of arrays
        One a level, on NumPy, shape (features of the level, block size); the same in every branch.
    """

    target: Hierarchical
    d: int
    directions: np.ndarray
    readouts: tuple[np.ndarray, ...]
    backend: Backend

    @classmethod
    def draw(cls, target: Hierarchical, d: int, rng: np.random.Generator, backend: Backend) -> Realization:
        """Draw Haar directions and the readouts of every level."""
        sizes = level_sizes(target, d)
        rows = haar_rows(rng, sizes[0] * target.branches, d)
        readouts = []
        for below, above in itertools.pairwise(sizes):
            block = below // above
            readouts.append(draw_readout(target, below, rng).reshape(above, block))
        return cls(target, d, rows.reshape(target.branches, sizes[0], d), tuple(readouts), backend)

    @property
    def features(self) -> int:
        """d_eff of one branch."""
        return int(self.directions.shape[1])

    def features_of(self, z: Any) -> list[Any]:
        """Return the scalar features h of every branch from z = W* x, shape (n, branches, d_eff) -> list of (n,)."""
        polynomials = [orthonormal_coefficients(f, self.target.hermite) for f in self.target.features]
        xp = self.backend.xp
        result = []
        for branch in range(self.target.branches):
            h = z[:, branch, :]
            for coefficients, readout in zip(polynomials, self.readouts, strict=True):
                a = self.backend.asarray(readout / math.sqrt(readout.shape[1]))
                values = hermite_polynomial(coefficients, h)
                if len(readout) == 1:
                    h = xp.matmul(values, a[0, :])[:, None]
                else:
                    h = xp.sum(xp.reshape(values, (values.shape[0], *readout.shape)) * a, axis=2)
            result.append(h[:, 0])
        return result

    def link(self, h: list[Any]) -> Any:
        """Return g of the scalar features."""
        names = self.target.link_variables
        value = self.target.expression.evaluate(self.backend.xp, **dict(zip(names, h, strict=True)))
        return value + 0.0 * h[0]

    def project(self, x: Any) -> Any:
        """Return z = W* x for inputs of shape (n, d): (n, branches, d_eff)."""
        w = self.backend.asarray(self.directions.reshape(-1, self.d))
        xp = self.backend.xp
        return xp.reshape(x @ xp.permute_dims(w, (1, 0)), (x.shape[0], self.target.branches, self.features))

    def __call__(self, x: Any) -> Any:
        """Return f*(x) for inputs of shape (n, d)."""
        return self.link(self.features_of(self.project(x)))

    def labels(self, x: Any, stream: np.random.Generator) -> Any:
        """Return y = f*(x) + noise xi."""
        y = self(x)
        if self.target.noise:
            y = y + self.target.noise * self.backend.normal([stream], (x.shape[0],))[0, ...]
        return y

    def inputs(self, n: int, stream: np.random.Generator) -> Any:
        """Return n fresh inputs, shape (n, d)."""
        return self.backend.normal([stream], (n, self.d))[0, ...]
