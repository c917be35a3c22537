"""The erf committee with four-index functions written as in the papers: the form that research codes compile.

State, parameters and start as in `erf_rhs`; sums over equal pairs of units run over half of them.
"""

from __future__ import annotations

import math

from erf_rhs import RHS_SIGNATURE, load
from numba import njit


@njit(error_model="numpy", cache=True)
def two(c, a, b):
    return 2 / math.pi * math.asin(c[a, b] / math.sqrt((1 + c[a, a]) * (1 + c[b, b])))


@njit(error_model="numpy", cache=True)
def three(c, i, b, a):
    low = (1 + c[i, i]) * (1 + c[a, a]) - c[i, a] * c[i, a]
    return 2 / math.pi / math.sqrt(low) * (c[b, a] * (1 + c[i, i]) - c[i, b] * c[i, a]) / (1 + c[i, i])


@njit(error_model="numpy", cache=True)
def four(c, i, k, a, b):
    l4 = (1 + c[i, i]) * (1 + c[k, k]) - c[i, k] * c[i, k]
    l0 = (
        l4 * c[a, b] - c[k, a] * c[k, b] * (1 + c[i, i]) - c[i, a] * c[i, b] * (1 + c[k, k])
        + c[i, k] * c[i, a] * c[k, b] + c[i, k] * c[i, b] * c[k, a]
    )  # fmt: skip
    l1 = (
        l4 * (1 + c[a, a]) - c[k, a] * c[k, a] * (1 + c[i, i]) - c[i, a] * c[i, a] * (1 + c[k, k])
        + 2 * c[i, k] * c[i, a] * c[k, a]
    )  # fmt: skip
    l2 = (
        l4 * (1 + c[b, b]) - c[k, b] * c[k, b] * (1 + c[i, i]) - c[i, b] * c[i, b] * (1 + c[k, k])
        + 2 * c[i, k] * c[i, b] * c[k, b]
    )  # fmt: skip
    return 4 / (math.pi * math.pi) / math.sqrt(l4) * math.asin(l0 / math.sqrt(l1 * l2))


@njit(RHS_SIGNATURE, error_model="numpy", cache=True)
def rhs(t, y, dy, p, work):
    eta, eta_v, noise, k_, m_ = p[0], p[1], p[2] * p[2], int(p[3]), int(p[4])
    n = k_ + m_
    c = work[: n * n].reshape((n, n))
    v = work[n * n : n * n + n]
    d = work[n * n + n : n * n + n + k_ * n].reshape((k_, n))
    nq = k_ * (k_ + 1) // 2
    load(y, k_, m_, c, v)
    for i in range(k_):
        for b in range(n):
            d[i, b] = 0.0
            for a in range(n):
                d[i, b] += v[a] * three(c, i, b, a)
    place = 0
    for i in range(k_):
        for m in range(m_):
            dy[nq + i * m_ + m] = -eta * v[i] * d[i, k_ + m]
        total = 0.0
        for a in range(n):
            total += v[a] * two(c, i, a)
        dy[nq + k_ * m_ + i] = -eta_v * total
        for j in range(i, k_):
            square = noise * 2 / math.pi / math.sqrt((1 + c[i, i]) * (1 + c[j, j]) - c[i, j] * c[i, j])
            for a in range(n):
                square += v[a] * v[a] * four(c, i, j, a, a)
                for b in range(a):
                    square += 2 * v[a] * v[b] * four(c, i, j, a, b)
            dy[place] = -eta * (v[i] * d[i, j] + v[j] * d[j, i]) + eta * eta * v[i] * v[j] * square
            place += 1


def work_size(k: int, m: int) -> int:
    n = k + m
    return n * n + n + k * n
