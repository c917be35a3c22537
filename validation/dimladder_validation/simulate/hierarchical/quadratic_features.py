"""Quadratic-feature targets and the hierarchical spectral estimator of Tabanelli et al. (arXiv:2602.10867).

y = g(h^T B h - Tr B) + noise, h_i = <A_i, x x^T - 1>/sqrt2, i = 1..p, A_i symmetric, Frobenius-orthonormal.
The features are generic quadratics of the input, and the outer map is quadratic in them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dimladder.errors import SimulationError
from dimladder.problem import Expression


@dataclass(frozen=True)
class QuadraticFeatureTarget:
    """Settings of the target.

    Attributes
    ----------
    features : int
        p.
    gamma : float
        b_j = +-j^-gamma on the diagonal of B, normalised to unit sum of squares.
    link : str
        g, a formula in ``s``, the standardised inner value.
    rank_one : bool
        h_i = (z_i^2 - 1)/sqrt2 instead of dense A_i.
    signs : {"alternate", "positive"}
    noise : float
    """

    features: int
    gamma: float = 0.0
    link: str = "s"
    rank_one: bool = False
    signs: Literal["alternate", "positive"] = "alternate"
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.features < 1 or self.gamma < 0 or self.noise < 0:
            raise SimulationError("features must be positive, gamma and noise not negative")
        Expression(self.link, ("s",))

    @property
    def outer(self) -> np.ndarray:
        """Diagonal of B, unit sum of squares."""
        j = np.arange(1, self.features + 1, dtype=float)
        sign = np.where(j % 2 == 1, 1.0, -1.0) if self.signs == "alternate" else 1.0
        b = sign * j**-self.gamma
        return b / np.linalg.norm(b)


def draw_features(target: QuadraticFeatureTarget, d: int, rng: np.random.Generator) -> np.ndarray:
    """Return A, shape (p, d, d), Frobenius-orthonormal symmetric."""
    p = target.features
    if target.rank_one:
        if p > d:
            raise SimulationError(f"{p} rank-one features do not fit into d = {d}")
        w = np.linalg.qr(rng.standard_normal((d, p)))[0]
        return np.einsum("di,ei->ide", w, w)
    if p > d * (d + 1) // 2:
        raise SimulationError(f"{p} features do not fit into the symmetric matrices of size {d}")
    g = rng.standard_normal((p, d, d))
    return orthonormalise((g + g.transpose(0, 2, 1)) / 2)


def orthonormalise(a: np.ndarray) -> np.ndarray:
    """Return a Frobenius-orthonormal basis of the span of symmetric matrices (p, d, d)."""
    p, d, _ = a.shape
    q, r = np.linalg.qr(a.reshape(p, d * d).T)
    return (q * np.sign(np.diag(r))).T.reshape(p, d, d)


def features_of(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return h_i(x) = (x^T A_i x - Tr A_i)/sqrt2, shape (n, p)."""
    return np.stack([np.sum((x @ m) * x, axis=1) - np.trace(m) for m in a], axis=1) / math.sqrt(2)


def labels(target: QuadraticFeatureTarget, h: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return f* (without `rng`) or y. The inner value h^T B h - Tr B is divided by sqrt 2, its deviation for normal
    h.
    """
    inner = (h**2 - 1) @ target.outer / math.sqrt(2)
    f = np.asarray(Expression(target.link, ("s",)).evaluate(np, s=inner), dtype=float) + 0.0 * inner
    return f if rng is None else f + target.noise * rng.standard_normal(len(f))


@dataclass(frozen=True)
class SpectralEstimate:
    """Estimated features and outer matrix.

    Attributes
    ----------
    features : (p, d, d) array
        A_hat, Frobenius-orthonormal.
    outer : (p, p) array
        B_hat.
    eigenvalues : (p,) array
        Of the feature operator.
    """

    features: np.ndarray
    outer: np.ndarray
    eigenvalues: np.ndarray


def hierarchical_spectral(
    x: np.ndarray, y: np.ndarray, p: int, rng: np.random.Generator, iterations: int = 15, oversampling: int = 10
) -> SpectralEstimate:
    """Estimate the features by block power iteration of a label-weighted operator, then B by a moment of the features.

    C[A] = (1/2n) sum_mu y_mu (<X_mu, A> X_mu - 2 A), X = x x^T - 1;  B_hat = (1/2n) sum y (h h^T - 1).

    Parameters
    ----------
    x, y : arrays, shapes (n, d), (n,)
        Labels are standardised here.
    p : int
        Number of features to keep, by modulus of the eigenvalue.
    """
    n, d = x.shape
    y = (y - y.mean()) / y.std()
    g = rng.standard_normal((min(p + oversampling, d * (d + 1) // 2), d, d))
    a = orthonormalise((g + g.transpose(0, 2, 1)) / 2)

    def operator(block: np.ndarray) -> np.ndarray:
        out = np.empty_like(block)
        for i, m in enumerate(block):
            weight = y * (np.sum((x @ m) * x, axis=1) - np.trace(m))
            out[i] = ((x.T * weight) @ x - weight.sum() * np.eye(d) - 2 * y.sum() * m) / (2 * n)
        return out

    # The operator has eigenvalues of both signs: its square decides, two applications an iteration.
    for _ in range(iterations):
        a = orthonormalise(operator(operator(a)))
    image = operator(a)
    values, vectors = np.linalg.eigh(np.einsum("ide,jde->ij", a, image))
    order = np.argsort(-np.abs(values))[:p]
    a = np.einsum("ji,jde->ide", vectors[:, order], a)
    h = features_of(a, x)
    outer = ((h.T * y) @ h - y.sum() * np.eye(p)) / (2 * n)
    return SpectralEstimate(a, outer, values[order])


def subspace_overlap(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Return ovA = ||A_hat A^T||_F^2 / p."""
    p = len(truth)
    return float(np.sum((estimate.reshape(len(estimate), -1) @ truth.reshape(p, -1).T) ** 2)) / p


def predict(estimate: SpectralEstimate, x: np.ndarray) -> np.ndarray:
    """Return the inner value h^T B_hat h - Tr B_hat, before any link."""
    h = features_of(estimate.features, x)
    return np.einsum("ni,ij,nj->n", h, estimate.outer, h) - np.trace(estimate.outer)
