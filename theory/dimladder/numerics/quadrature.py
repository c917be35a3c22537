"""Expectations of a function of one standard normal variable."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Beyond this the normal weight is below 1e-32: nothing that a double can see.
_TAIL = 12.0


@lru_cache(maxsize=64)
def gauss_hermite(nodes: int) -> tuple[Array, Array]:
    """Return nodes and weights with sum(w f(x)) = E[f(Z)], Z ~ N(0, 1), exact for polynomials below degree 2n.

    Exponentially accurate for entire functions, but only algebraically for functions with kinks: split those with
    `gauss_normal`.
    """
    # Golub-Welsch through the symmetric tridiagonal matrix: NumPy's hermegauss overflows beyond 250 nodes.
    from scipy.linalg import eigh_tridiagonal

    x, v = eigh_tridiagonal(np.zeros(nodes), np.sqrt(np.arange(1.0, nodes)))
    w = v[0] ** 2
    x, w = (x - x[::-1]) / 2, (w + w[::-1]) / 2
    x.flags.writeable = w.flags.writeable = False
    return x, w


@lru_cache(maxsize=64)
def gauss_legendre(nodes: int) -> tuple[Array, Array]:
    """Return nodes and weights of Gauss-Legendre quadrature on [-1, 1]."""
    from scipy.special import roots_legendre

    x, w = roots_legendre(nodes)
    x.flags.writeable = w.flags.writeable = False
    return x, w


@lru_cache(maxsize=64)
def _panel(nodes: int) -> tuple[Array, Array]:
    return np.polynomial.legendre.leggauss(nodes)


def gauss_normal(kinks: Sequence[float] = (), nodes: int = 64) -> tuple[Array, Array]:
    """Return nodes and weights for E[f(Z)] when f is smooth between the `kinks`.

    Without kinks this is Gauss-Hermite; with kinks, Gauss-Legendre panels of width at most 3 between them, the normal
    density absorbed into the weights.
    """
    if not kinks:
        return gauss_hermite(nodes)
    points = sorted({-_TAIL, _TAIL, *(float(k) for k in kinks if abs(k) < _TAIL)})
    edges = [points[0]]
    for a, b in pairwise(points):
        panels = max(1, math.ceil((b - a) / 3.0))
        edges += [a + (b - a) * (j + 1) / panels for j in range(panels)]
    # NumPy's, as good as those of scipy.special, whose import takes longer than a solve.
    x0, w0 = _panel(nodes)
    lower, upper = np.array(edges[:-1])[:, None], np.array(edges[1:])[:, None]
    x = (lower + upper) / 2 + (upper - lower) / 2 * x0
    w = (upper - lower) / 2 * w0 * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return x.ravel(), w.ravel()


def expectation(
    f: Callable[[Array], Array], kinks: Sequence[float] = (), rtol: float = 1e-12, max_nodes: int = 256
) -> tuple[float, float]:
    """Return E[f(Z)] and an error estimate, doubling the nodes until the two last values agree to `rtol`.

    Panels are used even without kinks: a pole near the real axis, as of tanh(3x), slows Gauss-Hermite down but not
    panels.

    Parameters
    ----------
    f : callable
        Vectorised function of the standard normal variable.
    kinks : sequence of float
        Points where f is not smooth.
    rtol : float
        Wanted accuracy relative to E|f(Z)|.
    max_nodes : int
        Largest number of nodes a panel. When it does not suffice the returned error says so.
    """
    previous, error, nodes = math.nan, math.inf, 16
    while True:
        x, w = gauss_normal(kinks or (0.0,), nodes)
        values = np.asarray(f(x), dtype=float)
        result, scale = float(w @ values), float(w @ np.abs(values))
        if not math.isnan(previous):
            error = abs(result - previous)
            if error <= rtol * scale:
                return result, max(error, 4e-16 * scale)
        if 2 * nodes > max_nodes:
            return result, error
        previous, nodes = result, 2 * nodes


def hermite_values(x: Array, degree: int) -> Array:
    """Return orthonormal Hermite polynomials 0..degree at x, shape (degree + 1, *x.shape)."""
    x = np.asarray(x, dtype=float)
    out = np.empty((degree + 1, *x.shape))
    out[0] = 1.0
    if degree:
        out[1] = x
    for k in range(1, degree):
        out[k + 1] = (x * out[k] - math.sqrt(k) * out[k - 1]) / math.sqrt(k + 1)
    return out


def hermite_coefficients(
    f: Callable[[Array], Array], degree: int, kinks: Sequence[float] = (), nodes: int = 64
) -> Array:
    """Return E[f(Z) h_k(Z)] for the orthonormal Hermite polynomials h_0..h_degree, shape (degree + 1,).

    Integrated panel by panel, so that kinks (at panel ends) and poles near the real axis cost no accuracy.
    """
    x, w = gauss_normal(kinks or (0.0,), nodes)
    return hermite_values(x, degree) @ (w * np.asarray(f(x), dtype=float))


def gaussian_nodes(dimension: int, count: int) -> tuple[Array, Array]:
    """Return nodes (N, dimension) and weights (N,) of E over N(0, I), some `count` of them.

    A Gauss-Hermite product up to two dimensions, scrambled Sobol points beyond.
    """
    if dimension == 0:
        return np.zeros((1, 0)), np.ones(1)
    if dimension <= 2:
        per = max(3, round(count ** (1.0 / dimension)))
        x, w = gauss_hermite(min(per, 64))
        grids = np.meshgrid(*([x] * dimension), indexing="ij")
        weights = np.ones(())
        for _ in range(dimension):
            weights = np.multiply.outer(weights, w)
        points, flat = np.stack([g.ravel() for g in grids], axis=1), weights.ravel()
        keep = flat > 1e-14
        return points[keep], flat[keep] / flat[keep].sum()
    from scipy.special import ndtri
    from scipy.stats import qmc

    power = max(4, math.ceil(math.log2(count)))
    uniform = qmc.Sobol(dimension, scramble=True, rng=np.random.default_rng(0)).random_base2(power)
    points = ndtri(np.clip(uniform, 1e-12, 1 - 1e-12))
    # Exact first and second moments: the quadratic response of the features is then integrated without sampling error.
    points = points - points.mean(axis=0)
    points = points @ np.linalg.inv(np.linalg.cholesky(points.T @ points / len(points))).T
    return points, np.full(len(points), 1.0 / len(points))
