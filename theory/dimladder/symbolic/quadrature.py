"""Numbers for averages without closed form: nested quadrature, split at kinks, with an error estimate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# (trapezoidal step in units of the field, order of a Gauss-Legendre panel), from coarse to fine.
LEVELS = ((0.6, 10), (0.42, 16), (0.3, 24), (0.2, 36), (0.13, 56), (0.085, 64))


class Average(Protocol):
    """What is asked of an average: its fields, the integrand, and the fields' covariance, in sympy."""

    @property
    def fields(self) -> Any: ...
    @property
    def integrand(self) -> Any: ...
    @property
    def covariance(self) -> Any: ...


def expectation_value(node: Average, rtol: float = 1e-10) -> tuple[float, float]:
    """Return an average over fields with a numerical covariance, and an estimate of its error.

    Parameters
    ----------
    node : Average
    rtol : float
        Wanted accuracy relative to the average of the absolute value. Levels are refined until two agree; the error
        returned is their difference, and larger than asked when the finest level does not suffice.

    Raises
    ------
    ValueError
        If the covariance is not positive semi-definite, or not a matrix of numbers.
    """
    import sympy as sp

    if node.covariance.free_symbols:
        raise ValueError(f"the covariance still has symbols: {sorted(map(str, node.covariance.free_symbols))}")
    C = np.array(node.covariance.tolist(), dtype=float)
    lowest = float(np.linalg.eigvalsh(C)[0])
    if lowest < -1e-12 * max(1.0, float(np.trace(C))):
        raise ValueError(f"the covariance has the negative eigenvalue {lowest:.3g}")
    f = sp.lambdify(list(node.fields), node.integrand, modules=["scipy", "numpy"])
    kinks = [np.array(kink_positions(node.integrand, x)) for x in node.fields]
    previous, error = math.nan, math.inf
    value = math.nan
    for step, order in LEVELS:
        value, scale = _nested(f, C, kinks, step, order)
        error = abs(value - previous)
        if error <= rtol * scale:
            return value, max(error, 1e-15 * scale)
        previous = value
    return value, error


def kink_positions(integrand: Any, field: Any) -> list[float]:
    """Return where the integrand is not smooth in one field: at zeros inside sign, Heaviside, Abs, Max and Min."""
    import sympy as sp

    points: set[float] = set()
    for part in integrand.atoms(sp.sign, sp.Heaviside, sp.Abs, sp.Max, sp.Min):
        arguments = (
            [part.args[0]]
            if not isinstance(part, sp.Max | sp.Min)
            else [p - q for n, p in enumerate(part.args) for q in part.args[n + 1 :]]
        )
        for u in arguments:
            if u.free_symbols == {field} and u.is_polynomial(field) and sp.degree(u, field) == 1:
                points.add(float(-u.coeff(field, 0) / u.coeff(field, 1)))
    return sorted(points)


def _nested(f: Callable[..., Any], C: Array, kinks: list[Array], step: float, order: int) -> tuple[float, float]:
    from ..numerics.conditional import normal_nodes, quadrature_rule

    count = len(C)
    L = _triangular(C)
    rule = quadrature_rule(step, 8.0, order)

    def nodes(k: int, mean: float) -> tuple[Array, Array]:
        scale = L[k, k]
        if scale == 0:
            return np.array([0.0]), np.array([1.0])
        size = int(2 * rule[1] / min(0.7, step / scale)) + 3 + order * 6 * (kinks[k].size + 2)
        z, w = np.empty(size), np.empty(size)
        used = normal_nodes.py_func(kinks[k], mean, scale, rule, z, w)
        return z[:used], w[:used]

    def integrate(k: int, drawn: list[float], fixed: list[float]) -> tuple[float, float]:
        mean = float(L[k, :k] @ drawn) if k else 0.0
        z, w = nodes(k, mean)
        x = mean + L[k, k] * z
        if k == count - 1:
            values = np.asarray(f(*fixed, x)) + 0.0 * x
            return float(w @ values), float(w @ np.abs(values))
        parts = [integrate(k + 1, [*drawn, zq], [*fixed, xq]) for zq, xq in zip(z, x, strict=True)]
        total = np.array(parts)
        return float(w @ total[:, 0]), float(w @ total[:, 1])

    return integrate(0, [], [])


def _triangular(C: Array) -> Array:
    """Return a lower triangular L with L L^T = C; a field that the earlier ones determine gets a zero."""
    L = np.zeros_like(C)
    for k in range(len(C)):
        for j in range(k):
            if L[j, j] > 0:
                L[k, j] = (C[k, j] - L[k, :j] @ L[j, :j]) / L[j, j]
        rest = C[k, k] - L[k, :k] @ L[k, :k]
        L[k, k] = math.sqrt(rest) if rest > 1e-14 * C[k, k] else 0.0
    return L
