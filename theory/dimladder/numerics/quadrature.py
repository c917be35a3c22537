"""Expectations of a function of one standard normal variable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Beyond this the normal weight is below 1e-32: nothing that a double can see.
_TAIL = 12.0
# Steps from the asymptotic nodes of Legendre's polynomials to rounding, with one to spare.
_NEWTON = 5
# Up to here NumPy's dense eigenvalues cost less than the import of SciPy's tridiagonal ones.
_DENSE = 256
_BLOCK = 8192


@lru_cache(maxsize=64)
def gauss_hermite(nodes: int) -> tuple[Array, Array]:
    """Return nodes and weights with sum(w f(x)) = E[f(Z)], Z ~ N(0, 1), exact for polynomials below degree 2n.

    Exponentially accurate for entire functions, but only algebraically for functions with kinks: split those with
    `gauss_normal`.
    """
    if nodes <= _DENSE:
        x = np.linalg.eigvalsh(np.diag(np.sqrt(np.arange(1.0, nodes)), -1))
    else:
        from scipy.linalg import eigvalsh_tridiagonal

        x = eigvalsh_tridiagonal(np.zeros(nodes), np.sqrt(np.arange(1.0, nodes)))
    # Hermite functions, polynomials times exp(-x^2/4), do not overflow; their sum of squares has a small relative
    # error where the first component of an eigenvector, whose square is the weight too, has a small absolute one.
    for _ in range(2):
        density = np.exp(-0.25 * x * x)
        before, here, total = np.zeros(nodes), density, density**2
        for k in range(nodes - 1):
            before, here = here, (x * here - math.sqrt(k) * before) / math.sqrt(k + 1)
            total = total + here**2
        # A step of Newton's: h_n' = sqrt(n) h_{n-1}, and sqrt(n) h_n = x h_{n-1} - sqrt(n - 1) h_{n-2}.
        over = x - math.sqrt(nodes - 1) * np.divide(before, here, out=np.zeros(nodes), where=here != 0)
        x = np.where(here != 0, x - over / nodes, x)
    w = np.divide(density**2, total, out=np.zeros(nodes), where=total > 0)
    x, w = (x - x[::-1]) / 2, (w + w[::-1]) / 2
    x.flags.writeable = w.flags.writeable = False
    return x, w


@lru_cache(maxsize=64)
def gauss_legendre(nodes: int) -> tuple[Array, Array]:
    """Return nodes and weights of Gauss-Legendre quadrature on [-1, 1].

    By Newton's method on the recurrence of P_n from the asymptotic nodes: the smallest weight to 13 digits with 200
    nodes, where companion matrices give 10.
    """
    x = np.cos(math.pi * (np.arange(nodes, 0, -1) - 0.25) / (nodes + 0.5))
    for _ in range(_NEWTON):
        before, here = np.ones(nodes), x
        for k in range(2, nodes + 1):
            before, here = here, ((2 * k - 1) * x * here - (k - 1) * before) / k
        slope = nodes * (before - x * here) / (1.0 - x * x)
        x = x - here / slope
    # At the root (1 - x^2) P_n' = n P_{n-1}; the last step is below rounding, and the slope is that of before it.
    w = 2.0 / ((1.0 - x * x) * slope**2)
    x, w = (x - x[::-1]) / 2, (w + w[::-1]) / 2
    x.flags.writeable = w.flags.writeable = False
    return x, w


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
    x0, w0 = gauss_legendre(nodes)
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
    points, rows = x.reshape(-1), out.reshape(degree + 1, -1)
    for part in _blocks(points.size):
        for row, value in zip(rows, _hermite(points[part], degree), strict=True):
            row[part] = value
    return out


def hermite_series(coefficients: Array, x: Array) -> Array:
    """Return sum_k c_k h_k(x), h_k the orthonormal Hermite polynomials, without a table of them."""
    x = np.asarray(x, dtype=float)
    out = np.zeros(x.shape)
    points, sums = x.reshape(-1), out.reshape(-1)
    for part in _blocks(points.size):
        for c, value in zip(coefficients, _hermite(points[part], len(coefficients) - 1), strict=True):
            if c:
                sums[part] += c * value
    return out


def _hermite(x: Array, degree: int) -> Iterator[Array]:
    before, here = np.zeros_like(x), np.ones_like(x)
    yield here
    for k in range(degree):
        after = x * here
        if k:
            before *= math.sqrt(k)
            after -= before
            after *= 1.0 / math.sqrt(k + 1)
        before, here = here, after
        yield here


def _blocks(size: int) -> Iterator[slice]:
    """Yield parts of a vector that stay in the processor's cache, where a recurrence is several times faster."""
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))


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
