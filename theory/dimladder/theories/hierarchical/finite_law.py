"""The law of the scalar feature at the actual number of hidden directions, without sampling.

h = d_eff^{-1/2} sum_i a_i P(z_i) is a sum of independent terms. Each term's law is put on a grid, mass by mass to the
two nearest points, and the laws are convolved by their discrete Fourier transforms. Readouts drawn at random are
averaged over: their terms are then alike.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...numerics.scalars import ndtri
from ...problem.hierarchy import orthonormal_coefficients
from .spectral import class_readouts

if TYPE_CHECKING:
    from ...problem import Hierarchical

Array = NDArray[np.float64]
POINTS = 1 << 16
# Draws of one term: midpoints of equal probability.
NODES = 1 << 19
READOUTS = 33


@lru_cache(maxsize=32)
def feature_law(target: Hierarchical, d_eff: int) -> tuple[Array, Array]:
    """Return points of h and their probabilities; one hidden level."""
    from ...numerics.quadrature import hermite_series

    raw = orthonormal_coefficients(target.features[0], target.hermite)
    size = math.sqrt(float(raw @ raw))
    half = size * (14.0 + 60.0 / math.sqrt(d_eff))
    step = 2.0 * half / POINTS
    values, counts = _readouts(target, d_eff)
    count = NODES if len(values) <= 2 else NODES // 8
    z = ndtri((np.arange(count) + 0.5) / count)
    term = hermite_series(raw, z) / math.sqrt(d_eff)
    power = np.ones(POINTS // 2 + 1, dtype=complex)
    if target.readout in ("rademacher", "gaussian"):
        power = _transform([(a, w) for a, w in zip(values, counts / d_eff, strict=True)], term, step) ** d_eff
    else:
        for a, number in zip(values, counts, strict=True):
            power = power * _transform([(a, 1.0)], term, step) ** number
    mass = np.maximum(np.fft.irfft(power, POINTS), 0.0)
    points = step * np.fft.fftfreq(POINTS, 1.0 / POINTS)
    return np.asarray(points, dtype=np.float64), np.asarray(mass / mass.sum(), dtype=np.float64)


def _readouts(target: Hierarchical, d_eff: int) -> tuple[Array, Array]:
    """Return the distinct readouts and how many directions have each, on average where they are random."""
    if target.readout == "gaussian":
        from .readouts import readout_classes

        values, fractions = readout_classes(target, READOUTS - 1)
        return values, fractions * d_eff
    if target.readout == "rademacher":
        return np.array([1.0, -1.0]), np.full(2, 0.5 * d_eff)
    given, times = np.unique(class_readouts(target, d_eff)[0], return_counts=True)
    return np.asarray(given, dtype=np.float64), np.asarray(times, dtype=np.float64)


def _transform(mixture: list[tuple[float, float]], term: Array, step: float) -> NDArray[np.complex128]:
    """Return the Fourier transform of the law of a P(z)/sqrt d_eff for a mixture of readouts."""
    density = np.zeros(POINTS)
    for a, weight in mixture:
        place = np.clip(a * term / step, -POINTS / 2 + 1, POINTS / 2 - 2)
        low = np.floor(place)
        share = place - low
        index = low.astype(int) % POINTS
        density += weight / len(term) * np.bincount(index, 1.0 - share, minlength=POINTS)
        density += weight / len(term) * np.bincount((index + 1) % POINTS, share, minlength=POINTS)
    return np.fft.rfft(density)


def finite_null_error(target: Hierarchical, d_eff: int) -> float:
    """Return E[f*^2] at this number of hidden directions."""
    points, mass = feature_law(target, d_eff)
    seen = mass > 1e-18
    f = np.asarray(target.expression.evaluate(np, h=points[seen]), dtype=float) + 0.0 * points[seen]
    return float(mass[seen] @ f**2)
