"""Features of a learned subspace, polynomials or random units, and the linear systems of ridge regression on them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dimladder.numerics.quadrature import gauss_normal
from dimladder.problem import Expression
from dimladder.problem.activations import activation

from ..base import Backend


@lru_cache(maxsize=16)
def _monomial_indices(d: int, degree: int) -> tuple[tuple[tuple[int, ...], np.ndarray], ...]:
    """Return, for each pattern of exponents, the coordinates that carry them, shape (monomials, exponents)."""
    patterns: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for chosen in itertools.combinations_with_replacement(range(d), degree):
        powers = sorted(((chosen.count(i), i) for i in set(chosen)), reverse=True)
        patterns.setdefault(tuple(p for p, _ in powers), []).append(tuple(i for _, i in powers))
    return tuple((pattern, np.array(where)) for pattern, where in patterns.items())


def monomials(z: Any, degree: int, backend: Backend) -> Any:
    """Return the orthonormal degree-k Hermite features prod_i h_{alpha_i}(z_i), |alpha| = k, shape (n, D)."""
    xp = backend.xp
    hermite = [None, z]
    for k in range(1, degree):
        below = hermite[k - 1] if k > 1 else 1.0
        hermite.append((z * hermite[k] - math.sqrt(k) * below) / math.sqrt(k + 1))
    products = []
    for pattern, where in _monomial_indices(int(z.shape[1]), degree):
        value = None
        for power, column in zip(pattern, where.T, strict=True):
            factor = xp.take(hermite[power], backend.indices(np.ascontiguousarray(column)), axis=1)
            value = factor if value is None else value * factor
        products.append(value)
    return xp.concat(products, axis=1)


def union_features(z: Any, degrees: Sequence[int], backend: Backend) -> Any:
    """Return the features of several degrees side by side, shape (n, sum of D_j)."""
    return backend.xp.concat([monomials(z, j, backend) for j in degrees], axis=1)


@dataclass(frozen=True)
class Features:
    """What stage 2 is fitted on.

    Attributes
    ----------
    counts : (groups,) array
        Number of features of each group that shares a penalty: a degree, or all units.
    units : array or None
        Weights of random units, shape (p, d_eff); None for polynomials.
    """

    counts: np.ndarray
    degrees: tuple[int, ...]
    units: Any
    activation: Expression
    mean: float
    backend: Backend

    @classmethod
    def polynomials(cls, d_eff: int, degrees: Sequence[int], backend: Backend) -> Features:
        """Return the orthonormal polynomials of these degrees."""
        counts = np.array([math.comb(d_eff + j - 1, j) for j in degrees])
        return cls(counts, tuple(degrees), None, Expression("x"), 0.0, backend)

    @classmethod
    def random_units(cls, d_eff: int, count: int, text: str, stream: np.random.Generator, backend: Backend) -> Features:
        """Return `count` units with weights uniform on the unit sphere, less their mean over the inputs."""
        rows = stream.standard_normal((count, d_eff))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        sigma = activation(text)
        x, w = gauss_normal(tuple(sigma.kinks("x")) or (0.0,), 200)
        mean = float(w @ (np.asarray(sigma.evaluate(np, x=x), dtype=float) + 0.0 * x))
        return cls(np.array([count]), (), backend.asarray(rows), sigma, mean, backend)

    @property
    def place(self) -> np.ndarray:
        """The group of each feature."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def __call__(self, z: Any) -> Any:
        """Return the features of learned coordinates, shape (n, number of features)."""
        if self.units is None:
            return union_features(z, self.degrees, self.backend)
        xp = self.backend.xp
        fields = xp.matmul(z, xp.permute_dims(self.units, (1, 0)))
        return self.activation.evaluate(xp, x=fields) + 0.0 * fields - self.mean


def solve(matrix: Any, right: Any, backend: Backend) -> Any:
    """Solve a positive system on the backend; a singular one (no ridge, too few samples) by least squares, on the host.

    Parameters
    ----------
    matrix, right : arrays, shapes (n, n), (n,)
    """
    if backend.is_torch:
        import torch

        root, failed = torch.linalg.cholesky_ex(matrix)
        if not int(failed):
            return torch.cholesky_solve(right[:, None], root)[:, 0]
    elif backend.is_numpy:
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        try:
            return cho_solve(cho_factor(matrix), right)
        except LinAlgError:
            pass
    else:
        return backend.xp.linalg.solve(matrix, right)
    return backend.asarray(np.linalg.lstsq(backend.to_numpy(matrix), backend.to_numpy(right), rcond=None)[0])
