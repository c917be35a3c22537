"""Exact Gaussian moments of features sigma(h), h_i = f_i . x, under a Gaussian cluster.

With h_i ~ N(a_i, s_i^2) and correlations r_ij, and the coefficients c_p(i) = E[he_p(Z) sigma(a_i + s_i Z)] on
orthonormal
Hermite polynomials he_p,

    E[sigma(h_i) sigma(h_j)] = sum_p c_p(i) c_p(j) r_ij^p     (i != j; Mehler),
    E[sigma(h_i) g(t)]       = sum_p c_p(i) g_p r_it^p,

and the diagonal E[sigma(h_i)^2] is integrated by itself, since the series is slow at r = 1. ReLU and sign have closed
forms for every shift and scale; other activations are integrated by the trapezoidal rule, or panel by panel between
their kinks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..numerics.quadrature import gauss_hermite, gauss_legendre, hermite_values
from ..numerics.scalars import ndtr
from ..problem.activations import name_of
from ..problem.expressions import Expression

Array = NDArray[np.float64]
_TAIL = 12.0
# Longest Mehler series; the shortest that meets `SERIES_TOLERANCE` is used.
MAX_ORDER = 200
SERIES_TOLERANCE = 1e-11


@dataclass(frozen=True)
class Profile:
    """A function of Gaussian fields, expanded: one column for each field.

    Attributes
    ----------
    coefficients : ndarray, shape (P + 1, k)
        c_p(i) on orthonormal Hermite polynomials.
    second : ndarray, shape (k,)
        E[sigma(h_i)^2].
    """

    coefficients: Array
    second: Array

    @property
    def mean(self) -> Array:
        """E[sigma(h_i)], shape (k,)."""
        return self.coefficients[0]


def profile(function: Expression, shift: Any, scale: Any, order: int, nodes: int = 0) -> Profile:
    """Expand sigma(a_i + s_i Z) to the given order.

    Parameters
    ----------
    function : Expression
        A formula in one variable.
    shift, scale : array, shape (k,)
        Mean and standard deviation of each field. A scale of zero makes the field certain.
    order : int
        Highest Hermite degree P.
    nodes : int
        Gauss-Hermite nodes for activations without kinks; 0 takes the trapezoidal rule at full accuracy. A polynomial
        of degree l needs l + 1 nodes, and has no coefficients above degree l whatever the rule says.
    """
    a = np.atleast_1d(np.asarray(shift, dtype=float))
    s = np.atleast_1d(np.asarray(scale, dtype=float))
    a, s = np.broadcast_arrays(a, s)
    name = name_of(function.text)
    if function.variables in (("x",), ("z",)) and name_of(function.text.replace("z", "x")) in ("relu", "sign"):
        name = name_of(function.text.replace("z", "x"))
    if name == "relu" and np.all(s > 0):
        return _relu_profile(a, s, order)
    if name == "sign" and np.all(s > 0):
        return _sign_profile(a, s, order)
    return _quadrature_profile(function, a, s, order, nodes)


def _hermite_density(t: Array, order: int) -> Array:
    """he_j(-t) phi(t) for j = 0..order with he_j orthonormal, shape (order + 1, k)."""
    return hermite_values(-t, max(order, 0)) * np.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)


def _relu_profile(a: Array, s: Array, order: int) -> Profile:

    t = a / s
    density = np.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)
    c = np.zeros((order + 1, a.size))
    c[0] = s * (density + t * ndtr(t))
    if order >= 1:
        c[1] = s * ndtr(t)
    if order >= 2:
        p = np.arange(2, order + 1)
        # E[He_p sigma] = s phi(t) He_{p-2}(-t); orthonormal: / sqrt(p!), and He_{p-2} = sqrt((p-2)!) he_{p-2}
        c[2:] = s * _hermite_density(t, order - 2) / np.sqrt(p * (p - 1.0))[:, None]
    return Profile(c, s * s * ((1.0 + t * t) * ndtr(t) + t * density))


def _sign_profile(a: Array, s: Array, order: int) -> Profile:

    t = a / s
    c = np.zeros((order + 1, a.size))
    c[0] = 2.0 * ndtr(t) - 1.0
    if order >= 1:
        c[1:] = 2.0 * _hermite_density(t, order - 1) / np.sqrt(np.arange(1.0, order + 1))[:, None]
    return Profile(c, np.ones_like(a))


def _nodes(function: Expression, a: Array, s: Array, order: int, nodes: int) -> tuple[Array, Array]:
    """Nodes and weights of E over Z, shape (k or 1, N): split at the kinks of each field."""
    kinks = function.kinks(function.variables[0]) if function.variables else ()
    if not kinks:
        if nodes:
            rule = gauss_hermite(nodes)
            return rule[0][None, :], rule[1][None, :]
        # Trapezoidal rule: with the nearest pole of sigma at distance D from the real line its error is
        # exp(-2 pi D/(s h)), below 1e-16 for D >= 1.2 (tanh: pi/2); Gauss-Hermite converges only like exp(-D
        # sqrt(2N)/s).
        step = min(0.16, 0.2 / float(np.max(s, initial=1e-3)))
        half = min(math.ceil(_TAIL / step), 20_000)
        x: Array = np.arange(-half, half + 1, dtype=np.float64) * (_TAIL / half)
        return x[None, :], (np.exp(-0.5 * x * x) * (_TAIL / half) / math.sqrt(2 * math.pi))[None, :]
    safe = np.where(s > 0, s, 1.0)
    marks = np.sort(np.clip((np.asarray(kinks)[None, :] - a[:, None]) / safe[:, None], -_TAIL, _TAIL), axis=1)
    edges = np.concatenate([np.full((a.size, 1), -_TAIL), marks, np.full((a.size, 1), _TAIL)], axis=1)
    x0, w0 = gauss_legendre(32)
    pieces = 8
    fractions = (np.arange(pieces)[:, None] + 0.5 * (x0[None, :] + 1.0)).ravel() / pieces
    weights = np.tile(0.5 * w0, pieces) / pieces
    width = np.diff(edges, axis=1)
    z = np.asarray(edges[:, :-1, None] + width[:, :, None] * fractions, dtype=np.float64)
    w = width[:, :, None] * weights * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return z.reshape(a.size, -1), w.reshape(a.size, -1)


def _quadrature_profile(function: Expression, a: Array, s: Array, order: int, nodes: int) -> Profile:
    c, second = np.empty((order + 1, a.size)), np.empty(a.size)
    # Blocks of fields keep the (fields, nodes) arrays in the cache.
    block = 4096
    for begin in range(0, a.size, block):
        rows = slice(begin, begin + block)
        c[:, rows], second[rows] = _quadrature_block(function, a[rows], s[rows], order, nodes)
    return Profile(c, second)


def _quadrature_block(function: Expression, a: Array, s: Array, order: int, nodes: int) -> tuple[Array, Array]:
    x, w = _nodes(function, a, s, order, nodes)
    field = a[:, None] + s[:, None] * x
    variable = function.variables[0] if function.variables else "x"
    values = np.broadcast_to(function.evaluate(np, **{variable: field}), field.shape)
    weighted = values * w
    if x.shape[0] == 1:
        # One rule for all fields: the projections are a matrix product.
        return hermite_values(x[0], order) @ weighted.T, np.sum(weighted * values, axis=1)
    c = np.empty((order + 1, a.size))
    # The three-term recurrence, one degree at a time: no (order, k, nodes) array is ever formed.
    low, high = np.ones_like(x), x
    for p in range(order + 1):
        if p == 0:
            current = low
        elif p == 1:
            current = high
        else:
            low, high = high, (x * high - math.sqrt(p - 1) * low) / math.sqrt(p)
            current = high
        c[p] = np.sum(weighted * current, axis=1)
    return c, np.sum(weighted * values, axis=1)


def series_order(correlation: float, decay: float = 0.0) -> int:
    """Shortest Mehler series whose remainder r^P P^-decay is below `SERIES_TOLERANCE`, at most `MAX_ORDER`.

    `decay` is the power with which c_p^2 falls: 5/2 for ReLU, 3/2 for sign.
    """
    r = min(abs(correlation), 1.0)
    order = 6
    while order < MAX_ORDER and r ** (order + 1) * (order + 1.0) ** -decay > SERIES_TOLERANCE:
        order += 2
    return order


def gram(left: Profile, right: Profile, correlation: Array) -> Array:
    """E[sigma(h_i) tau(h_j)] for all pairs by Horner's rule in r_ij, shape (k, l)."""
    top = min(left.coefficients.shape[0], right.coefficients.shape[0]) - 1
    total = np.multiply.outer(left.coefficients[top], right.coefficients[top])
    for p in range(top - 1, -1, -1):
        total *= correlation
        total += np.multiply.outer(left.coefficients[p], right.coefficients[p])
    return total


def feature_moments(
    activation: Expression, mean: Array, covariance: Array, *, order: int | None = None
) -> tuple[Array, Array]:
    """Uncentred second moments and means of sigma(h), h ~ N(mean, covariance).

    Parameters
    ----------
    activation : Expression
    mean : array, shape (k,)
    covariance : array, shape (k, k)

    Returns
    -------
    second : ndarray, shape (k, k)
        E[sigma(h_i) sigma(h_j)], the diagonal integrated by itself.
    first : ndarray, shape (k,)
    """
    scale = np.sqrt(np.diag(covariance))
    correlation = covariance / np.multiply.outer(scale, scale)
    if order is None:
        off = np.abs(correlation - np.diag(np.diag(correlation)))
        order = series_order(float(off.max(initial=0.0)), decay=1.5)
    expanded = profile(activation, mean, scale, order)
    second = gram(expanded, expanded, correlation)
    np.fill_diagonal(second, expanded.second)
    return second, expanded.mean.copy()


@dataclass(frozen=True)
class PolynomialModel:
    """sigma_l(z) = sum_{j <= l} h_j He_j(z / b) + h*_l g with fresh noise g ~ N(0, 1) for every entry.

    He_j is monic (probabilists'); h_j = E[He_j(Z) sigma(b Z)]/j!, h*_l^2 = E sigma(b Z)^2 - sum_j j! h_j^2
    (Demir & Dogan 2025, Definition of the Hermite model).
    """

    coefficients: tuple[float, ...]
    noise: float
    scale: float

    @property
    def degree(self) -> int:
        return len(self.coefficients) - 1

    def evaluate(self, xp: Any, field: Any) -> Any:
        """The polynomial part at `field`, any array of the namespace `xp`."""
        u = field / self.scale
        low, high = 0.0 * u + 1.0, u
        total = self.coefficients[0] * low
        for j in range(1, self.degree + 1):
            total = total + self.coefficients[j] * high
            low, high = high, u * high - j * low
        return total

    def formula(self) -> str:
        """The polynomial part as a formula in x with monic Hermite polynomials."""
        terms = [repr(self.coefficients[0])]
        terms += [f"({c!r})*He{j}(x/{self.scale!r})" for j, c in enumerate(self.coefficients) if j >= 1]
        return " + ".join(terms)

    def expression(self) -> Expression:
        """The polynomial part as a checked formula."""
        return Expression(self.formula(), ("x",), "probabilists")

    def profile(self, shift: Any, scale: Any, order: int) -> Profile:
        """Exact expansion under fields N(shift, scale^2); the noise is not included."""
        exact = profile(self.expression(), shift, scale, min(order, self.degree), nodes=max(self.degree, 1) + 1)
        missing = order + 1 - exact.coefficients.shape[0]
        if missing <= 0:
            return exact
        return Profile(np.concatenate([exact.coefficients, np.zeros((missing, exact.second.size))]), exact.second)


def polynomial_model(activation: Expression, degree: int, scale: float = 1.0) -> PolynomialModel:
    """The equivalent polynomial of the given degree at bulk scale b."""
    expanded = profile(activation, 0.0, scale, max(degree, 1))
    c = expanded.coefficients[: degree + 1, 0]
    remainder = float(expanded.second[0] - np.sum(c**2))
    # A polynomial activation of at most this degree leaves nothing: rounding must not make it negative.
    noise = math.sqrt(max(remainder, 0.0)) if remainder > 1e-14 * float(expanded.second[0]) else 0.0
    monic = tuple(float(c[j] / math.sqrt(math.factorial(j))) for j in range(degree + 1))
    return PolynomialModel(monic, noise, float(scale))
