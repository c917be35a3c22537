"""Moments of the error by quadrature over all fields at once, where nothing can be averaged apart.

A loss that is not quadratic, or a target that couples its fields inside one function, leaves averages over all K + M
Gaussian fields. Up to four fields they are nested one-dimensional rules, each split at the kinks of its own field
(teachers come first, so that the kinks of a target lie on planes of the first axes); beyond, scrambled Sobol' points,
the same ones at every state, so that the averages are smooth functions of the state.

Generated modules are self-contained: `FIELDS_SOURCE` is the source text of these functions. They call functions of the
module: the activation ``g`` and its slope ``dg``, the noiseless ``target(z, A)``, and ``loss(f, y)`` with its
derivative ``loss_slope(f, y)`` in the output f.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .basics import OPTIONS
from .conditional import normal_nodes, self_contained, spacing
from .native import njit

Array = NDArray[np.float64]

__all__ = ["FIELDS_SOURCE", "field_averages", "nested_rule", "sobol_rule"]

NESTED, SOBOL = 0.0, 1.0


@njit(**OPTIONS)
def triangular_root(C: Array, K: int, L: Array) -> None:
    """Fill the lower triangular root of C with the fields from K on first; a determined field gets a zero pivot."""
    n = C.shape[0]
    for q in range(n):
        p = (q + K) % n
        for r in range(q + 1):
            total = C[p, (r + K) % n]
            for s in range(r):
                total -= L[q, s] * L[r, s]
            if r < q:
                L[q, r] = total / L[r, r] if L[r, r] > 0.0 else 0.0
            else:
                L[q, q] = math.sqrt(total) if total > 1e-14 * C[p, p] else 0.0


@njit(**OPTIONS)
def add_sample(f: Array, weight: float, a: Array, A: Array, noise: Array, g: Any, dg: Any, target: Any, loss: Any,
               loss_slope: Any, value: Array, slope: Array, D: Array, NN: Array, H: Array, out: Array
               ) -> None:  # fmt: skip
    """Add one point of the fields f = (students, teachers) to the moments.

    D[i, b] = E[g'(f_i) f_b l'], NN[i, k] = E[g'(f_i) g'(f_k) l'^2], H[i] = E[g(f_i) l'], out = (E[(f - f*)^2], E[l]);
    ``noise`` holds values of the label noise and their weights.
    """
    K, n = D.shape[0], D.shape[1]
    output = 0.0
    for i in range(K):
        value[i] = g(f[i])
        slope[i] = dg(f[i])
        output += a[i] * value[i]
    label = target(f[K:], A)
    first, second, mean = 0.0, 0.0, 0.0
    for q in range(noise.shape[0]):
        error = loss_slope(output, label + noise[q, 0])
        first += noise[q, 1] * error
        second += noise[q, 1] * error * error
        mean += noise[q, 1] * loss(output, label + noise[q, 0])
    out[0] += weight * (output - label) * (output - label)
    out[1] += weight * mean
    first *= weight
    second *= weight
    for i in range(K):
        H[i] += value[i] * first
        for b in range(n):
            D[i, b] += slope[i] * first * f[b]
        for k in range(i + 1):
            NN[i, k] += slope[i] * slope[k] * second


@njit(**OPTIONS)
def field_averages(C: Array, a: Array, A: Array, K: int, kinks: Array, target_kinks: Array, starts: Array, rule: Array,
                   noise: Array, g: Any, dg: Any, target: Any, loss: Any, loss_slope: Any, D: Array, NN: Array,
                   H: Array, out: Array) -> None:  # fmt: skip
    """Fill the moments of `add_sample` for fields of covariance C.

    The kinks of the target in teacher field m are ``target_kinks[starts[m]:starts[m + 1]]``. ``rule`` is
    `nested_rule` or `sobol_rule`.
    """
    n = C.shape[0]
    D[:] = 0.0
    NN[:] = 0.0
    H[:] = 0.0
    out[:] = 0.0
    L = np.empty((n, n))
    L[:] = 0.0
    triangular_root(C, K, L)
    f, value, slope = np.empty(n), np.empty(K), np.empty(K)
    if rule[0] == 1.0:
        count = int(rule[1])
        points = rule[2:].reshape((count, n))
        for s in range(count):
            for q in range(n):
                total = 0.0
                for r in range(q + 1):
                    total += L[q, r] * points[s, r]
                f[(q + K) % n] = total
            add_sample(f, 1.0 / count, a, A, noise, g, dg, target, loss, loss_slope, value, slope, D, NN, H, out)
    else:
        rule = rule[1:]
        scale, most = 1e-3, kinks.size
        for q in range(n):
            scale = max(scale, L[q, q])
        for m in range(n - K):
            most = max(most, starts[m + 1] - starts[m])
        size = int(2 * rule[1] / min(0.7, rule[0] / scale)) + 3 + (rule.size - 2) // 2 * 8 * (most + 2)
        if not size < 4000:
            # A trial state far from the curve, or a blow-up: nodes would be without number.
            D[:] = math.nan
            out[:] = math.nan
            return
        z, w = np.empty((n, size)), np.empty((n, size))
        counts, at = np.empty(n, np.int64), np.empty(n, np.int64)
        means, zeta, weight = np.empty(n), np.empty(n), np.empty(n + 1)
        weight[0] = 1.0
        cutoff = 0.01 * math.exp(-0.5 * rule[1] * rule[1])
        depth = -1
        while True:
            if depth >= 0:
                if at[depth] == counts[depth]:
                    depth -= 1
                    if depth < 0:
                        break
                    at[depth] += 1
                    continue
                zeta[depth] = z[depth, at[depth]]
                weight[depth + 1] = weight[depth] * w[depth, at[depth]]
                if weight[depth + 1] < cutoff:
                    # Beyond the range in all dimensions together there is no weight.
                    at[depth] += 1
                    continue
                f[(depth + K) % n] = means[depth] + L[depth, depth] * zeta[depth]
                if depth == n - 1:
                    add_sample(f, weight[n], a, A, noise, g, dg, target, loss, loss_slope, value, slope, D, NN, H, out)
                    at[depth] += 1
                    continue
            depth += 1
            means[depth] = 0.0
            for r in range(depth):
                means[depth] += L[depth, r] * zeta[r]
            at[depth] = 0
            if L[depth, depth] == 0.0:
                z[depth, 0], w[depth, 0], counts[depth] = 0.0, 1.0, 1
            elif depth < n - K:
                own = target_kinks[starts[depth] : starts[depth + 1]]
                counts[depth] = normal_nodes(own, means[depth], L[depth, depth], rule, z[depth], w[depth])
            else:
                counts[depth] = normal_nodes(kinks, means[depth], L[depth, depth], rule, z[depth], w[depth])
    for i in range(K):
        for k in range(i):
            NN[k, i] = NN[i, k]


FIELDS_SOURCE = self_contained((spacing, normal_nodes, triangular_root, add_sample, field_averages))


def nested_rule(step: float, order: int, top: float) -> Array:
    """Return the ``rule`` of nested one-dimensional rules: trapezoidal step, range, Gauss-Legendre panel."""
    from .conditional import quadrature_rule

    return np.concatenate([[NESTED], quadrature_rule(step, top, order)])


def sobol_rule(log2_points: int, dimension: int, seed: int = 0) -> Array:
    """Return the ``rule`` of 2^m scrambled Sobol' points."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    uniform = qmc.Sobol(dimension, scramble=True, rng=seed).random_base2(log2_points)
    return np.concatenate([[SOBOL, 2.0**log2_points], ndtri(np.clip(uniform, 1e-16, 1 - 1e-16)).ravel()])
