"""Hand-written right-hand sides of the erf committee (Goldt et al. 2019), the oracles of the benchmarks.

State y = (Q upper triangle by rows, R by rows, v); p = (eta, eta_v, sigma, K, M); teacher overlaps T = I and A = 1.
`rhs` is the Schur-complement form with a vectorised arcsine; `erf_numpy` has the same in NumPy arrays.
"""

from __future__ import annotations

import numpy as np
from erf_numpy import generalisation_error, initial_state, rhs_numpy
from numba import njit

from dimladder.numerics.special import asin as native_asin

__all__ = ["generalisation_error", "initial_state", "rhs", "rhs_numpy", "work_size"]
# For code of numba.
asin = native_asin.by_numba
RHS_SIGNATURE = "void(f8, f8[::1], f8[::1], f8[::1], f8[::1])"


@njit("void(f8[::1], i8, i8, f8[:, ::1], f8[::1])", error_model="numpy", cache=True, forceinline=True)
def load(y, k_, m_, c, coefficient):
    """Fill the covariance of students and teachers, and their coefficients (v, -1)."""
    nq = k_ * (k_ + 1) // 2
    place = 0
    for i in range(k_):
        for j in range(i, k_):
            c[i, j] = y[place]
            c[j, i] = y[place]
            place += 1
    for i in range(k_):
        for j in range(m_):
            c[i, k_ + j] = y[nq + i * m_ + j]
            c[k_ + j, i] = c[i, k_ + j]
        coefficient[i] = y[nq + k_ * m_ + i]
    for i in range(m_):
        for j in range(m_):
            c[k_ + i, k_ + j] = 1.0 if i == j else 0.0
        coefficient[k_ + i] = -1.0


@njit(RHS_SIGNATURE, fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy", cache=True)
def rhs(t, y, dy, p, work):
    eta, eta_v, noise, k_, m_ = p[0], p[1], p[2] * p[2], int(p[3]), int(p[4])
    n = k_ + m_
    c = work[: n * n].reshape((n, n))
    s = work[n * n : 2 * n * n].reshape((n, n))
    coefficient = work[2 * n * n : 2 * n * n + n]
    root = work[2 * n * n + n : 2 * n * n + 2 * n]
    u = work[2 * n * n + 2 * n : 2 * n * n + 3 * n]
    w = work[2 * n * n + 3 * n : 2 * n * n + 4 * n]
    d = work[2 * n * n + 4 * n : 2 * n * n + 4 * n + k_ * n].reshape((k_, n))
    nq = k_ * (k_ + 1) // 2
    load(y, k_, m_, c, coefficient)
    two_pi = 2.0 / np.pi
    for i in range(k_):
        base = 1.0 + c[i, i]
        for b in range(n):
            d[i, b] = 0.0
        for a in range(n):
            f = two_pi * coefficient[a] / (base * np.sqrt(base * (1.0 + c[a, a]) - c[i, a] * c[i, a]))
            for b in range(n):
                d[i, b] += f * (c[a, b] * base - c[i, b] * c[i, a])
    for i in range(k_):
        for m in range(m_):
            dy[nq + i * m_ + m] = -eta * coefficient[i] * d[i, k_ + m]
    for a in range(n):
        root[a] = 1.0 / np.sqrt(1.0 + c[a, a])
    for i in range(k_):
        for a in range(n):
            w[a] = asin(c[i, a] * root[i] * root[a])
        total = 0.0
        for a in range(n):
            total += coefficient[a] * w[a]
        dy[nq + k_ * m_ + i] = -eta_v * two_pi * total
    place = 0
    for i in range(k_):
        inverse = 1.0 / (1.0 + c[i, i])
        scale_u = np.sqrt(inverse)
        for j in range(i, k_):
            l4 = (1.0 + c[i, i]) * (1.0 + c[j, j]) - c[i, j] * c[i, j]
            if i == j:
                # The two fields coincide: one conditioning on (sqrt 2 f_i) with variance (1 + 2 Q_ii).
                l4 = 1.0 + 2.0 * c[i, i]
                f = np.sqrt(2.0 / l4)
                for a in range(n):
                    u[a] = f * c[i, a]
                    w[a] = 0.0
            else:
                f = 1.0 / np.sqrt(l4 * inverse)
                for a in range(n):
                    u[a] = c[i, a] * scale_u
                    w[a] = (c[j, a] - c[i, j] * c[i, a] * inverse) * f
            for a in range(n):
                root[a] = 1.0 / np.sqrt(1.0 + c[a, a] - u[a] * u[a] - w[a] * w[a])
            total = 0.0
            for a in range(n):
                for b in range(a + 1):
                    s[a, b] = asin((c[a, b] - u[a] * u[b] - w[a] * w[b]) * root[a] * root[b])
                acc = 0.0
                for b in range(a):
                    acc += coefficient[b] * s[a, b]
                total += coefficient[a] * (2.0 * acc + coefficient[a] * s[a, a])
            g4 = two_pi * (two_pi * total + noise) / np.sqrt(l4)
            v_i, v_j = coefficient[i], coefficient[j]
            dy[place] = -eta * (v_i * d[i, j] + v_j * d[j, i]) + eta * eta * v_i * v_j * g4
            place += 1


def work_size(k: int, m: int) -> int:
    n = k + m
    return 2 * n * n + 4 * n + k * n
