"""What compiled kernels share: options, the normal law, Gauss-Legendre nodes, small loops over arrays."""

from __future__ import annotations

import math
from typing import Any

from .native import njit
from .quadrature import gauss_legendre

__all__ = ["GL_W", "GL_X", "OPTIONS", "cdf", "fill", "pdf", "sort"]

OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
# 16-point Gauss-Legendre rule on [-1, 1].
GL_X, GL_W = gauss_legendre(16)


@njit(**OPTIONS)
def cdf(x: Any) -> Any:
    """P(Z < x), Z standard normal."""
    return 0.5 * math.erfc(-0.7071067811865476 * x)


@njit(**OPTIONS)
def pdf(x: Any) -> Any:
    """Density of a standard normal."""
    return 0.3989422804014327 * math.exp(-0.5 * x * x)


@njit(**OPTIONS)
def fill(a: Any, value: Any) -> None:
    """Set all entries of a vector."""
    for i in range(a.size):
        a[i] = value


@njit(**OPTIONS)
def sort(a: Any, count: Any) -> None:
    """Sort the first `count` entries, few of them, by insertion."""
    for i in range(1, count):
        value, place = a[i], i
        while place > 0 and a[place - 1] > value:
            a[place] = a[place - 1]
            place -= 1
        a[place] = value
