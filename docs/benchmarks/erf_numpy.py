"""The erf committee in array operations: what NumPy and JAX scripts of the benchmarks start from, nothing else needed.

State y = (Q upper triangle by rows, R by rows, v); teacher overlaps T = I and A = 1.
"""

from __future__ import annotations

import numpy as np


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
