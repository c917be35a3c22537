"""Hand-written right-hand sides of the erf committee (Goldt et al. 2019), the oracles of the benchmarks.

State y = (Q upper triangle by rows, R by rows, v); p = (eta, eta_v, sigma, K, M); teacher overlaps T = I and A = 1.
`rhs` is the Schur-complement form with a vectorised arcsine, `rhs_numpy` the same in NumPy arrays.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dimladder.numerics.special import asin

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


def rhs_numpy(t, y, k, m, eta, eta_v, sigma, xp=np):
    """The same in array operations, for NumPy or jax.numpy."""
    nq = k * (k + 1) // 2
    i, j = np.triu_indices(k)
    place = np.zeros((k, k), int)
    place[i, j] = place[j, i] = np.arange(nq)
    r = y[nq : nq + k * m].reshape(k, m)
    c = xp.block([[y[place], r], [r.T, xp.eye(m)]])
    coefficient = xp.concatenate([y[nq + k * m :], -xp.ones(m)])
    v = coefficient[:k]
    one = 1.0 + xp.diagonal(c)
    base = one[:k, None]
    l3 = base * one[None, :] - c[:k] ** 2
    f = 2 / np.pi * coefficient / (base * xp.sqrt(l3))
    d = base * (f @ c) - c[:k] * xp.sum(f * c[:k], axis=1, keepdims=True)
    cij, same = c[i, j], i == j
    l4 = xp.where(same, 1.0 + 2.0 * c[i, i], one[i] * one[j] - cij**2)
    inverse = 1.0 / one[i]
    u = c[i] * xp.where(same, xp.sqrt(2.0 / l4), xp.sqrt(inverse))[:, None]
    w = (c[j] - (cij * inverse)[:, None] * c[i]) * xp.where(same, 0.0, 1.0 / xp.sqrt(l4 * inverse))[:, None]
    s = c[None] - u[:, :, None] * u[:, None, :] - w[:, :, None] * w[:, None, :]
    root = 1.0 / xp.sqrt(1.0 + xp.diagonal(s, axis1=1, axis2=2))
    angles = xp.arcsin(s * root[:, :, None] * root[:, None, :])
    total = (angles @ coefficient) @ coefficient
    g4 = 2 / np.pi * (2 / np.pi * total + sigma**2) / xp.sqrt(l4)
    dq = -eta * (v[i] * d[i, j] + v[j] * d[j, i]) + eta**2 * v[i] * v[j] * g4
    dr = -eta * v[:, None] * d[:, k:]
    dv = -eta_v * 2 / np.pi * (xp.arcsin(c[:k] / xp.sqrt(base * one)) @ coefficient)
    return xp.concatenate([dq, dr.reshape(-1), dv])


def initial_state(k: int, m: int) -> np.ndarray:
    i, j = np.arange(k)[:, None], np.arange(k)[None, :]
    q = 0.5 * np.eye(k) + 0.02 * np.cos(1 + i + j + i * j)
    nn = np.arange(m)[None, :]
    r = 0.03 * np.sin(1 + 2 * i + 3 * nn + i * nn)
    return np.concatenate([q[np.triu_indices(k)], r.ravel(), np.ones(k)])


def generalisation_error(y: np.ndarray, k: int, m: int) -> float:
    n, nq = k + m, k * (k + 1) // 2
    c = np.eye(n)
    q = np.zeros((k, k))
    q[np.triu_indices(k)] = y[:nq]
    c[:k, :k] = q + np.triu(q, 1).T
    c[:k, k:] = y[nq : nq + k * m].reshape(k, m)
    c[k:, :k] = c[:k, k:].T
    coefficient = np.concatenate([y[nq + k * m :], -np.ones(m)])
    one = 1.0 + np.diag(c)
    return float(coefficient @ np.arcsin(c / np.sqrt(np.outer(one, one))) @ coefficient / np.pi)
