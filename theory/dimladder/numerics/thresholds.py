"""Moments of signs of Gaussians with means: bivariate normal probabilities.

``E[sign(u + h) sign(v + k)]`` is four times the bivariate normal distribution function, up to one-dimensional ones.
Near rho = 0 it is an integral over theta = asin(rho); elsewhere it is written with Owen's function T(h, a), whose
integral over [0, 1] needs no more nodes as rho approaches one (Owen 1956).

Generated modules are self-contained: `THRESHOLD_SOURCE` is the source text of the functions below.
"""

from __future__ import annotations

import inspect
import math

from .jit import njit
from .quadrature import gauss_legendre

__all__ = ["THRESHOLD_SOURCE", "owen_t", "sign_moment2"]

# On [0, 1].
X10, W10 = (0.5 + 0.5 * gauss_legendre(10)[0], 0.5 * gauss_legendre(10)[1])
X14, W14 = (0.5 + 0.5 * gauss_legendre(14)[0], 0.5 * gauss_legendre(14)[1])


@njit(error_model="numpy", fastmath={"contract", "nsz"}, cache=True)
def owen_t(h: float, w: float) -> float:
    """Return Owen's T(h, w/h) = (1/2 pi) int_0^{w/h} exp(-h^2 (1 + x^2)/2)/(1 + x^2) dx; the side of h = 0 is h > 0."""
    one, two = abs(h), abs(w)
    swapped = two > one
    if swapped:
        one, two = two, one
    total = 0.0
    if two > 0.0 and one < 38.0:
        a = two / one if math.isfinite(one) else 0.0
        for q in range(X14.size):
            x = a * X14[q]
            total += W14[q] * math.exp(-0.5 * one * one * (1.0 + x * x)) / (1.0 + x * x)
        total *= a * 0.15915494309189535
    if swapped:
        # T(h, a) + T(a h, 1/a) = (1 - erf erf)/4 for positive h and a.
        total = 0.25 - 0.25 * math.erf(one * 0.7071067811865476) * math.erf(two * 0.7071067811865476) - total
    return total if (h >= 0.0) == (w >= 0.0) else -total


@njit(error_model="numpy", fastmath={"contract", "nsz"}, cache=True)
def sign_moment2(h: float, k: float, rho: float) -> float:
    """Return E[sign(u + h) sign(v + k)] for standard normal u, v of correlation rho; absolute error about 1e-15."""
    if h == 0.0 and k == 0.0:
        return 0.6366197723675814 * math.asin(rho)
    if not (abs(h) < math.inf and abs(k) < math.inf and rho == rho):
        # A threshold at infinity decides its sign.
        return math.erf(h * 0.7071067811865476) * math.erf(k * 0.7071067811865476) + 0.0 * rho
    if abs(rho) <= 0.6:
        top = math.asin(rho)
        total = 0.0
        for q in range(X10.size):
            s = math.sin(top * X10[q])
            total += W10[q] * math.exp(-0.5 * (h * h + k * k - 2.0 * h * k * s) / ((1.0 - s) * (1.0 + s)))
        return 0.6366197723675814 * top * total + math.erf(h * 0.7071067811865476) * math.erf(k * 0.7071067811865476)
    free = (1.0 - rho) * (1.0 + rho)
    if not free > 0.0:
        # One field, or its negative: the signs differ between the two thresholds only.
        side = 1.0 if rho > 0.0 else -1.0
        return side * (1.0 - abs(math.erf(h * 0.7071067811865476) - math.erf(side * k * 0.7071067811865476)))
    root = math.sqrt(free)
    total = 1.0 - 4.0 * owen_t(h, (k - rho * h) / root) - 4.0 * owen_t(k, (h - rho * k) / root)
    return total if (h >= 0.0) == (k >= 0.0) else total - 2.0


THRESHOLD_SOURCE = "\n\n\n".join(
    [
        "\n".join(f"{n} = np.array({globals()[n].tolist()!r})" for n in ("X10", "W10", "X14", "W14")),
        *(inspect.getsource(f.py_func) for f in (owen_t, sign_moment2)),
    ]
)
