"""The cross-entropy channel of a vector of outputs, compiled: proximal points, forces and their averages over nodes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .basics import OPTIONS, fill
from .linear import factorise, solve_factored
from .native import njit

__all__ = ["softmax", "softmax_channel", "softmax_value"]


@njit(**OPTIONS)
def softmax(u: np.ndarray, p: np.ndarray) -> float:
    """Fill the probabilities p of outputs u; return log sum exp(u)."""
    top = u[0]
    for i in range(1, u.size):
        top = max(top, u[i])
    total = 0.0
    for i in range(u.size):
        p[i] = math.exp(u[i] - top)
        total += p[i]
    for i in range(u.size):
        p[i] /= total
    return top + math.log(total)


@njit(**OPTIONS)
def softmax_value(label: Any, u: Any, p: Any) -> Any:
    """Cross-entropy of u; fills the probabilities p."""
    return softmax(u, p) - u[label]


@njit("f8(i8, f8[:, ::1], f8[::1], f8[:, ::1], f8[:, ::1], f8[::1], f8[:, ::1], f8[:, ::1])", **OPTIONS)
def softmax_channel(label: Any, omegas: Any, weights: Any, v: Any, inverse: Any, f: Any, ff: Any, fv: Any) -> Any:
    """Averages over fields `omegas` (N, K) of the cross-entropy channel; returns E loss, or NaN if a prox is not found.

    Fills E f (K,), E f f^T and E (Hess^{-1} + V)^{-1} (K, K). The proximal point solves
    u - omega + V (softmax(u) - e) = 0 by Newton's method; the step is halved until the strictly convex objective falls.
    """
    n, k = omegas.shape[0], omegas.shape[1]
    u, p, trial, gap = np.empty(k), np.empty(k), np.empty(k), np.empty(k)
    matrix, right, hessian = np.empty((k, k)), np.empty(k), np.empty((k, k))
    pivots = np.empty(k).view(np.int64)
    fill(f, 0.0)
    for i in range(k):
        fill(ff[i], 0.0)
        fill(fv[i], 0.0)
        u[i] = omegas[0, i]
    loss = 0.0
    for row in range(n):
        omega = omegas[row]
        # The last node's displacement is a good start for the next one.
        for i in range(k):
            u[i] = omega[i] + (gap[i] if row > 0 else 0.0)
        found = False
        for _ in range(200):
            value = softmax_value(label, u, p)
            worst, size = 0.0, 1.0
            for i in range(k):
                residual = u[i] - omega[i]
                for j in range(k):
                    residual += v[i, j] * (p[j] - (1.0 if j == label else 0.0))
                right[i] = -residual
                worst, size = max(worst, abs(residual)), max(size, abs(omega[i]))
            if worst <= 1e-13 * (size + v[0, 0]):
                found = True
                break
            for i in range(k):
                for j in range(k):
                    matrix[i, j] = (1.0 if i == j else 0.0) + v[i, j] * p[j]
                    for m in range(k):
                        matrix[i, j] -= v[i, m] * p[m] * p[j]
            if not factorise(matrix, 0, k, pivots):
                return math.nan
            solve_factored(matrix, 0, k, pivots, right)
            for i in range(k):
                for j in range(k):
                    value += 0.5 * (u[i] - omega[i]) * inverse[i, j] * (u[j] - omega[j])
            length = 1.0
            for _ in range(50):
                for i in range(k):
                    trial[i] = u[i] + length * right[i]
                new = softmax_value(label, trial, p)
                for i in range(k):
                    for j in range(k):
                        new += 0.5 * (trial[i] - omega[i]) * inverse[i, j] * (trial[j] - omega[j])
                if new <= value + 1e-13 * (1.0 + abs(value)):
                    break
                length *= 0.5
            for i in range(k):
                u[i] = trial[i]
        if not found:
            return math.nan
        weight = weights[row]
        loss += weight * softmax_value(label, u, p)
        for i in range(k):
            gap[i] = u[i] - omega[i]
            for j in range(k):
                hessian[i, j] = (p[i] if i == j else 0.0) - p[i] * p[j]
        # Hess (1 + V Hess)^{-1} = (1 + Hess V)^{-1} Hess
        for i in range(k):
            for j in range(k):
                total = 1.0 if i == j else 0.0
                for m in range(k):
                    total += hessian[i, m] * v[m, j]
                matrix[i, j] = total
        if not factorise(matrix, 0, k, pivots):
            return math.nan
        for j in range(k):
            # Hess is symmetric: its rows are its columns, and so it is with the solution.
            solve_factored(matrix, 0, k, pivots, hessian[j])
        for i in range(k):
            fi = (1.0 if i == label else 0.0) - p[i]
            f[i] += weight * fi
            for j in range(k):
                fj = (1.0 if j == label else 0.0) - p[j]
                ff[i, j] += weight * fi * fj
                fv[i, j] += weight * hessian[j, i]
    return loss
