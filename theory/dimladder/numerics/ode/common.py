"""Pieces used by every integration step: error norm, step-size controller, the nested interpolant."""

from __future__ import annotations

import math

from ..native import njit
from .layout import Vector

OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit("f8(f8[::1], f8[::1], f8[::1], f8[::1], f8)", fastmath={"reassoc", "contract"}, **OPTIONS)
def scaled_norm(e: Vector, y: Vector, ynew: Vector, atol: Vector, rtol: float) -> float:
    """Root mean square of e / (atol + rtol max(|y|, |ynew|)); NaN if anything in it is."""
    total = 0.0
    for i in range(e.size):
        a, b = abs(y[i]), abs(ynew[i])
        big = a if a > b else b
        q = e[i] / (atol[i] + rtol * big)
        total += q * q
    return math.sqrt(total / e.size)


@njit("f8(f8, f8, f8[::1], b1)", **OPTIONS)
def step_factor(err: float, err_old: float, control: Vector, after_reject: bool) -> float:
    """Factor of the next step after an error `err` (1 = tolerance), by the PI controller of Gustafsson."""
    exponent, beta = control[0], control[1]
    if err <= 1.0:
        if err == 0.0:
            factor = control[3]
        else:
            factor = control[4] * err ** (0.75 * beta - exponent) * err_old**beta
        factor = min(max(factor, control[2]), control[3])
        return min(factor, 1.0) if after_reject else factor
    return max(control[2], control[4] * err ** (-exponent))


@njit("i8(f8[:, ::1], i8)", **OPTIONS)
def first_bad(rows: Vector, n_rows: int) -> int:
    """Column of the first number that is not finite, row after row; -1 if there is none."""
    for j in range(n_rows):
        for i in range(rows.shape[1]):
            if not math.isfinite(rows[j, i]):
                return i
    return -1


@njit("void(f8, f8[::1], f8[:, ::1], i8, f8[::1])", **OPTIONS)
def evaluate_nested(theta: float, y: Vector, nested: Vector, rows: int, out: Vector) -> None:
    """State at the fraction `theta` of the step that began at `y`, from the rows F of the nested interpolant."""
    for i in range(y.size):
        acc = 0.0
        for r in range(rows - 1, 0, -1):
            acc = (nested[r, i] + acc) * (1.0 - theta if r % 2 == 1 else theta)
        out[i] = y[i] + theta * (nested[0, i] + acc)
