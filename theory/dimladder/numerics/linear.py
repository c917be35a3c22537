"""Small dense linear systems in compiled code: LU factors, row-major, with partial pivoting."""

from __future__ import annotations

import math
from typing import Any

from .basics import OPTIONS
from .native import njit

__all__ = ["factorise", "solve_factored"]


@njit("b1(f8[:, ::1], i8, i8, i8[::1])", **OPTIONS)
def factorise(a: Any, row: int, n: int, pivots: Any) -> bool:
    """LU factors with partial pivoting of the n x n block that begins at `row`, in place; False if it is singular."""
    for k in range(n):
        best, where = abs(a[row + k, k]), k
        for i in range(k + 1, n):
            if abs(a[row + i, k]) > best:
                best, where = abs(a[row + i, k]), i
        if not (best > 0.0 and math.isfinite(best)):
            return False
        pivots[k] = where
        if where != k:
            for j in range(n):
                a[row + k, j], a[row + where, j] = a[row + where, j], a[row + k, j]
        pivot = a[row + k]
        inverse = 1.0 / pivot[k]
        for i in range(k + 1, n):
            target = a[row + i]
            factor = target[k] * inverse
            target[k] = factor
            if factor != 0.0:
                for j in range(k + 1, n):
                    target[j] -= factor * pivot[j]
    return True


@njit("void(f8[:, ::1], i8, i8, i8[::1], f8[::1])", fastmath={"reassoc", "contract"}, **OPTIONS)
def solve_factored(a: Any, row: int, n: int, pivots: Any, b: Any) -> None:
    """Solve the factored system in place."""
    for k in range(n):
        w = pivots[k]
        b[k], b[w] = b[w], b[k]
    for i in range(n):
        line = a[row + i]
        acc = 0.0
        for j in range(i):
            acc += line[j] * b[j]
        b[i] -= acc
    for back in range(n):
        i = n - 1 - back
        line = a[row + i]
        acc = 0.0
        for j in range(i + 1, n):
            acc += line[j] * b[j]
        b[i] = (b[i] - acc) / line[i]
