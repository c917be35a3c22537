"""The cross-entropy channel of a vector of outputs, compiled: proximal points, forces and their averages over nodes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .jit import njit

__all__ = ["softmax_channel", "softmax_value", "solve_small"]


@njit(cache=True)
def solve_small(a: Any, b: Any) -> Any:
    """Solve a x = b (b a matrix of columns) in place by elimination with partial pivoting; False when singular."""
    n, columns = b.shape
    for col in range(n):
        pivot = col
        for row in range(col + 1, n):
            if abs(a[row, col]) > abs(a[pivot, col]):
                pivot = row
        if not abs(a[pivot, col]) > 0.0:
            return False
        if pivot != col:
            for j in range(n):
                a[col, j], a[pivot, j] = a[pivot, j], a[col, j]
            for j in range(columns):
                b[col, j], b[pivot, j] = b[pivot, j], b[col, j]
        for row in range(col + 1, n):
            factor = a[row, col] / a[col, col]
            for j in range(col, n):
                a[row, j] -= factor * a[col, j]
            for j in range(columns):
                b[row, j] -= factor * b[col, j]
    for j in range(columns):
        for row in range(n - 1, -1, -1):
            for i in range(row + 1, n):
                b[row, j] -= a[row, i] * b[i, j]
            b[row, j] /= a[row, row]
    return True


@njit(cache=True)
def softmax_value(label: Any, u: Any, p: Any) -> Any:
    """Cross-entropy of u; fills the probabilities p."""
    top = u[0]
    for i in range(1, u.size):
        top = max(top, u[i])
    total = 0.0
    for i in range(u.size):
        p[i] = math.exp(u[i] - top)
        total += p[i]
    for i in range(u.size):
        p[i] /= total
    return top + math.log(total) - u[label]


@njit(cache=True)
def softmax_channel(label: Any, omegas: Any, weights: Any, v: Any, inverse: Any, f: Any, ff: Any, fv: Any) -> Any:
    """Averages over fields `omegas` (N, K) of the cross-entropy channel; returns E loss, or NaN if a prox is not found.

    Fills E f (K,), E f f^T and E (Hess^{-1} + V)^{-1} (K, K). The proximal point solves
    u - omega + V (softmax(u) - e) = 0 by Newton's method; the step is halved until the strictly convex objective falls.
    """
    n, k = omegas.shape
    u, p, trial, gap = np.empty(k), np.empty(k), np.empty(k), np.empty(k)
    matrix, right = np.empty((k, k)), np.empty((k, 1))
    wide = np.empty((k, k))
    hessian = np.empty((k, k))
    f[:] = 0.0
    ff[:] = 0.0
    fv[:] = 0.0
    loss = 0.0
    for i in range(k):
        u[i] = omegas[0, i]
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
                right[i, 0] = -residual
                worst, size = max(worst, abs(residual)), max(size, abs(omega[i]))
            if worst <= 1e-13 * (size + v[0, 0]):
                found = True
                break
            for i in range(k):
                for j in range(k):
                    matrix[i, j] = (1.0 if i == j else 0.0) + v[i, j] * p[j]
                    for m in range(k):
                        matrix[i, j] -= v[i, m] * p[m] * p[j]
            if not solve_small(matrix, right):
                return math.nan
            for i in range(k):
                for j in range(k):
                    value += 0.5 * (u[i] - omega[i]) * inverse[i, j] * (u[j] - omega[j])
            length = 1.0
            for _ in range(50):
                for i in range(k):
                    trial[i] = u[i] + length * right[i, 0]
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
                wide[i, j] = hessian[i, j]
        if not solve_small(matrix, wide):
            return math.nan
        for i in range(k):
            fi = (1.0 if i == label else 0.0) - p[i]
            f[i] += weight * fi
            for j in range(k):
                fj = (1.0 if j == label else 0.0) - p[j]
                ff[i, j] += weight * fi * fj
                fv[i, j] += weight * wide[i, j]
    return loss
