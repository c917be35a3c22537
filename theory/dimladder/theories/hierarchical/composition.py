"""Stages 1, 2 and 3 composed: overlaps -> correlation of the learned feature -> generalisation error.

`leading_surface` is the d -> infinity theory. `refined_surface` keeps the actual d_eff: the true feature, the label
and the learned coordinates are drawn from their joint law, and the stage-2 estimate is its signal part plus
independent noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...numerics.quadrature import hermite_values
from .analysis import levels, link_of, orthonormal_coefficients
from .labels import label_moments
from .readout import finite_readout_error
from .ridge import NormLaw, feature_count, optimal_ridge, refined_second_stage, second_stage
from .spectral import (
    class_readouts,
    critical_ratio,
    leading_overlaps,
    refined_critical_ratio,
    refined_spectrum,
    sample_label_law,
)

if TYPE_CHECKING:
    from ...problem import Hierarchical

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Surface:
    """Learning curves over (n1, n2).

    Attributes
    ----------
    overlap : (first,) array
        Squared overlap of the learned subspace, averaged over the hidden directions.
    correlation : (first, second) array
        corr(h_hat, h*).
    error : (first, second) array
        E[(f* - f)^2], label noise not included.
    threshold : float
        n1/(d d_eff) of weak recovery.
    """

    overlap: Array
    correlation: Array
    error: Array
    threshold: float


@dataclass(frozen=True)
class StageSettings:
    """Numbers of stages 1 to 3.

    Attributes
    ----------
    transform : str
        Label transform of stage 1.
    ridge : float or "optimal"
        Stage 2.
    degree : int
        Stage 3: polynomial degree of the readout.
    samples, readout_ridge : float
        Stage 3: number of labels (may be infinite), and ridge.
    """

    transform: str
    ridge: float | str
    degree: int
    samples: float
    readout_ridge: float

    def ridge_at(self, signal: float, noise: float, delta: float) -> float:
        """Return lam of stage 2; the optimal one at leading order, where asked for."""
        if self.ridge == "optimal":
            return min(optimal_ridge(signal, noise, delta), 1e12)
        return float(self.ridge)


def leading_surface(target: Hierarchical, settings: StageSettings, first: Array, second: Array) -> Surface:
    """Return the theory at leading order, d >> d_eff >> 1."""
    link, level = link_of(target, max(60, settings.degree)), levels(target)[0]
    moments = label_moments(target, settings.transform)
    k, share = level.degree, float(level.fractions[-1])
    c1 = float(link.coefficients[1])
    variance = link.second_moment - float(link.coefficients[0]) ** 2 + target.noise**2
    overlap = np.empty(len(first))
    correlation, error = np.empty((len(first), len(second))), np.empty((len(first), len(second)))
    for i, ratio in enumerate(first):
        values, fractions, q = leading_overlaps(target, moments, float(ratio))
        overlap[i] = float(fractions @ q)
        ceiling = share * float(fractions @ (values**2 * q**k))
        signal = c1**2 * ceiling
        for j, delta in enumerate(second):
            noise = variance - signal
            state = second_stage(signal, noise, float(delta), settings.ridge_at(signal, noise, float(delta)))
            correlation[i, j] = state.correlation * math.sqrt(ceiling) * math.copysign(1.0, c1)
            error[i, j] = finite_readout_error(
                link, target.noise, correlation[i, j], settings.degree, settings.samples, settings.readout_ridge
            )
    largest = 1.0 if target.readout in ("ones", "rademacher") else float(np.max(np.abs(leading_readouts(target))))
    threshold = 0.0 if target.readout == "gaussian" else critical_ratio(target, moments, largest)
    if target.readout == "gaussian" and math.isinf(critical_ratio(target, moments)):
        threshold = math.inf
    return Surface(overlap, correlation, error, threshold)


def leading_readouts(target: Hierarchical) -> Array:
    """Return the distinct readout values."""
    from .readouts import readout_classes

    return readout_classes(target)[0]


def refined_surface(
    target: Hierarchical,
    settings: StageSettings,
    first: Array,
    second: Array,
    d: int,
    samples: int = 120_000,
    seed: int = 1,
) -> Surface:
    """Return the theory at the actual d and d_eff; the law of the label is sampled with a fixed seed.

    Raises
    ------
    SolveError
        If the resolvent of stage 1 does not converge.
    """
    from .analysis import effective_dimension

    d_eff = effective_dimension(d, target.exponents[0])
    moments = label_moments(target, settings.transform)
    law = sample_label_law(target, moments.transform, d_eff)
    a, index = class_readouts(target, d_eff)
    raw = orthonormal_coefficients(target.features[0], target.hermite)
    k = levels(target)[0].degree
    count = feature_count(d_eff, k)
    rng = np.random.default_rng(seed)
    samples = int(max(40_000, min(samples, 6_000_000 // d_eff)))
    z_true, z_noise = rng.standard_normal((samples, d_eff)), rng.standard_normal((samples, d_eff))
    h = np.tensordot(raw, hermite_values(z_true, len(raw) - 1), axes=(0, 0)) @ a / math.sqrt(d_eff)
    f = np.asarray(target.expression.evaluate(np, h=h), dtype=float) + 0.0 * h
    centred = f - f.mean()
    extra = rng.standard_normal(samples)
    overlap = np.empty(len(first))
    correlation, error = np.empty((len(first), len(second))), np.empty((len(first), len(second)))
    for i, ratio in enumerate(first):
        if math.isinf(ratio):
            q = np.ones(d_eff)
        elif ratio <= 0:
            q = np.full(d_eff, d_eff / d)
        else:
            q = refined_spectrum(law, d_eff / d, float(ratio) * d_eff).overlaps()[index]
        overlap[i] = float(q.mean())
        z = np.sqrt(q) * z_true + np.sqrt(1.0 - q) * z_noise
        direction = a * q ** (k / 2)
        direction = direction / np.linalg.norm(direction)
        basis = hermite_values(z, k)
        projection = basis[k] @ direction
        r = squared_norm(basis, k) / count
        norms = NormLaw.of(r, centred * projection, projection**2, centred**2 + target.noise**2)
        signal = float(np.mean(centred * projection)) ** 2
        noise = float(np.var(f)) + target.noise**2 - signal
        for j, delta in enumerate(second):
            m, norm = refined_second_stage(norms, float(delta), settings.ridge_at(signal, noise, float(delta)))
            learned = m * projection + np.sqrt(max(norm - m * m, 0.0) * r) * extra
            correlation[i, j] = float(np.corrcoef(learned, h)[0, 1])
            error[i, j] = sampled_readout_error(
                learned, f, target.noise, settings.degree, settings.samples, settings.readout_ridge
            )
    return Surface(overlap, correlation, error, refined_critical_ratio(law, d_eff))


def squared_norm(basis: Array, degree: int) -> Array:
    """Return |phi(z)|^2 = sum over |alpha| = k of prod_i h_{alpha_i}(z_i)^2 from h_0..h_k at z, shape (k + 1, n,
    d_eff).
    """
    squares = basis**2
    total = np.zeros((degree + 1, basis.shape[1]))
    total[0] = 1.0
    for i in range(basis.shape[2]):
        for j in range(degree, 0, -1):
            total[j] += sum(total[j - t] * squares[t, :, i] for t in range(1, j + 1))
    return total[degree]


def sampled_readout_error(learned: Array, f: Array, noise: float, degree: int, samples: float, ridge: float) -> float:
    """Return the error of the degree-m readout on draws of (h_hat, f*), with the leverage correction at finite n3."""
    s = (learned - learned.mean()) / learned.std()
    basis, _ = np.linalg.qr(hermite_values(s, degree).T)
    p = basis * math.sqrt(len(s))
    beta = p.T @ f / len(s)
    residual = f - p @ beta
    base = float(np.mean(residual**2))
    shrink = ridge / (1.0 + ridge)
    if math.isinf(samples):
        return base + float(np.sum((shrink * beta) ** 2))
    leverage = np.sum(p**2, axis=1)
    total = samples * (1.0 + ridge)
    spread = samples * float(np.mean((residual**2 + noise**2) * leverage / (total + leverage) ** 2))
    bias = samples * np.mean((residual / (total + leverage))[:, None] * p, axis=0) - shrink * beta
    return base + spread + float(np.sum(bias**2))
