"""Spectra of random matrices: the Marchenko-Pastur law, its Stieltjes transform and its integrals.

Convention: the law of the eigenvalues of W W^T, W of shape (k, n) with independent entries N(0, 1/n), as k, n grow with
psi = k/n. Its support is [(1 - sqrt psi)^2, (1 + sqrt psi)^2], with an atom 1 - 1/psi at zero when psi > 1, and mean 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def marchenko_pastur_support(psi: float) -> tuple[float, float]:
    """Return the edges of the continuous part."""
    root = math.sqrt(psi)
    return (1.0 - root) ** 2, (1.0 + root) ** 2


def marchenko_pastur_nodes(psi: float, points: int = 2000) -> tuple[Array, Array]:
    """Return nodes x and weights w (atom included) with ``sum(w f(x)) = E f(x)``.

    The substitution x = centre - radius cos(t) makes the integrand periodic, so that the midpoint rule converges
    exponentially: 2000 points reach 1e-14 for integrands analytic a relative distance 0.01 around the support.

    Raises
    ------
    ValueError
        If psi is not positive.
    """
    if not psi > 0:
        raise ValueError(f"the aspect ratio psi must be positive, got {psi}")
    low, high = marchenko_pastur_support(psi)
    angle = (np.arange(points) + 0.5) * (math.pi / points)
    radius = 0.5 * (high - low)
    x = 0.5 * (high + low) - radius * np.cos(angle)
    # density sqrt((high - x)(x - low)) / (2 pi psi x), and dx = radius sin(t) dt
    w = (radius * np.sin(angle)) ** 2 / (2.0 * math.pi * psi * x) * (math.pi / points)
    if psi > 1.0:
        x, w = np.append(x, 0.0), np.append(w, 1.0 - 1.0 / psi)
    return x, w


def marchenko_pastur_expectation(f: Callable[[Array], Any], psi: float, points: int = 2000) -> float:
    """Return E f(x) for the Marchenko-Pastur law (see `marchenko_pastur_nodes`)."""
    x, w = marchenko_pastur_nodes(psi, points)
    return float(w @ np.broadcast_to(f(x), x.shape))


def marchenko_pastur_stieltjes(s: float, psi: float) -> float:
    """Return g(s) = E 1/(x + s) for s > 0, the positive root of ``psi s g^2 + (s + 1 - psi) g - 1 = 0``."""
    b = s + 1.0 - psi
    root = math.hypot(b, 2.0 * math.sqrt(psi * s))
    # The two forms of the root agree; each is free of cancellation where it is used.
    return 2.0 / (b + root) if b > 0 else (root - b) / (2.0 * psi * s)


def spectrum_quantiles(psi: float, count: int) -> Array:
    """Return `count` typical eigenvalues: the quantiles (i + 1/2)/count of the Marchenko-Pastur law, increasing."""
    x, w = marchenko_pastur_nodes(psi, 20000)
    order = np.argsort(x)
    cumulative = np.cumsum(w[order])
    return np.interp((np.arange(count) + 0.5) / count, cumulative / cumulative[-1], x[order])
