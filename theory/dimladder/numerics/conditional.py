"""Moments of the error of a two-layer network by conditional quadrature, for activations without closed forms.

``E[g'(f_i) g'(f_k) err^2]`` is four-dimensional, yet given ``(f_i, f_k)`` the other fields enter the square of
``err = sum_a c_a g_a(f_a)`` only in pairs: two outer dimensions, one inner one for each field, and Mehler's formula
``E[g_a g_b] = sum_m A_am A_bm r_ab^m`` for the residual correlation ``r_ab`` of each pair. The trapezoidal rule
converges exponentially for functions analytic in a strip (faster than Gauss-Hermite when there are poles, as for
tanh); functions with kinks are split there into Gauss-Legendre panels.

A target that is a function f* of the teacher fields, rather than a committee, brings its own conditional averages:
``target_average(m, S)`` = E[f*] for teacher fields of mean m and covariance S, ``target_square(m, S)`` = E[f*^2], and
``target_directional(m, S, v, F)``, which fills ``F[n] = E[(v . grad)^n f*]``. The functions ``target_*`` below add
its terms.

Generated modules are self-contained: `CONDITIONAL_SOURCE` is the source text of these functions.
"""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .basics import OPTIONS
from .native import njit

Array = NDArray[np.float64]

__all__ = ["CONDITIONAL_SOURCE", "TARGET_SOURCE", "field_moments", "normal_nodes", "slope_moments"]


@njit(**OPTIONS)
def spacing(rule: Array, scale: float) -> float:
    """Return the step of the trapezoidal rule in units of z, for a function of mean + scale z.

    ``rule[0]`` is the step in units of the field, where functions have their poles; a negative one is in units of z:
    polynomials are integrated exactly whatever their scale.
    """
    return -rule[0] if rule[0] < 0.0 else min(0.7, rule[0] / scale)


@njit(**OPTIONS)
def normal_nodes(kinks: Array, mean: float, scale: float, rule: Array, z: Array, w: Array) -> int:
    """Fill nodes and weights for E[F(mean + scale z)], z ~ N(0, 1), F kinked at `kinks`; return their number.

    ``rule`` is (step, range, then Gauss-Legendre nodes and weights of a panel). Without kinks: trapezoidal rule
    (`spacing`).
    """
    top = rule[1]
    if kinks.size == 0:
        count = 0
        step = spacing(rule, scale)
        half = int(top / step)
        for q in range(-half, half + 1):
            z[count] = q * step
            w[count] = step * 0.3989422804014327 * math.exp(-0.5 * z[count] * z[count])
            count += 1
        return count
    order = (rule.size - 2) // 2
    count = 0
    left = -top
    for e in range(kinks.size + 1):
        right = top
        if e < kinks.size:
            right = min(max((kinks[e] - mean) / scale, -top), top)
        if right <= left:
            continue
        panels = math.ceil((right - left) / 4.0)
        width = (right - left) / panels
        for panel in range(panels):
            middle = left + (panel + 0.5) * width
            for q in range(order):
                z[count] = middle + 0.5 * width * rule[2 + q]
                w[count] = 0.5 * width * rule[2 + order + q] * 0.3989422804014327 * math.exp(-0.5 * z[count] ** 2)
                count += 1
        left = right
    return count


@njit(**OPTIONS)
def capacity(C: Array, rule: Array, kinks: Array, kinks_t: Array) -> int:
    """Return the most nodes that `normal_nodes` makes for any of the fields."""
    scale = 0.0
    for a in range(C.shape[0]):
        scale = max(scale, math.sqrt(max(C[a, a], 1e-6)))
    return int(2 * rule[1] / spacing(rule, scale)) + 3 + (rule.size - 2) // 2 * 8 * (kinks.size + kinks_t.size + 2)


@njit(**OPTIONS)
def field_moments(C: Array, c: Array, K: int, i: int, g: Any, dg: Any, gt: Any, dgt: Any, kinks: Array, kinks_t: Array,
                  rule: Array, D: Array) -> float:  # fmt: skip
    """Fill ``D[b] = E[g'(f_i) f_b err]`` and return ``E[g(f_i) err]``.

    Given f_i = x: E[f_b g_a] = (mean of f_b) E[g_a] + S_ba E[g_a'], with S the conditional covariance.
    """
    N = c.size
    size = capacity(C, rule, kinks, kinks_t)
    z, w, x, v = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    D[:] = 0.0
    spread = math.sqrt(C[i, i])
    both = 0.0
    for q in range(normal_nodes(kinks, 0.0, spread, rule, z, w)):
        u = spread * z[q]
        slope = dg(u) * w[q]
        error = 0.0
        for a in range(N):
            mean = C[i, a] / C[i, i] * u
            rest = C[a, a] - C[i, a] * C[i, a] / C[i, i]
            value, derivative = 0.0, 0.0
            if rest <= 1e-14 * C[a, a]:
                value = g(mean) if a < K else gt(mean)
            else:
                s = math.sqrt(rest)
                for r in range(normal_nodes(kinks if a < K else kinks_t, mean, s, rule, x, v)):
                    f = mean + s * x[r]
                    if a < K:
                        value += v[r] * g(f)
                        derivative += v[r] * dg(f)
                    else:
                        value += v[r] * gt(f)
                        derivative += v[r] * dgt(f)
            error += c[a] * value
            for b in range(N):
                D[b] += slope * c[a] * derivative * (C[a, b] - C[i, a] * C[i, b] / C[i, i])
        for b in range(N):
            D[b] += slope * C[i, b] / C[i, i] * u * error
        both += w[q] * g(u) * error
    return both


@njit(**OPTIONS, fastmath={"reassoc", "contract", "nsz"})
def conditional_square(C: Array, S: Array, mean: Array, c: Array, K: int, g: Any, gt: Any, kinks: Array, kinks_t: Array,
                       rule: Array, A: Array, x: Array, v: Array, x0: Array, basis: Array, values: Array
                       ) -> float:  # fmt: skip
    """Return E[err^2] for fields with these means and residual covariances S.

    ``x0`` are the nodes for smooth functions and ``basis[m]`` their weights times the orthonormal Hermite polynomial m.
    ``A`` (N, order), ``x``, ``v`` and ``values`` are scratch.
    """
    N, order = A.shape[0], A.shape[1]
    total = 0.0
    for a in range(N):
        A[a, :] = 0.0
        square = 0.0
        if S[a, a] <= 1e-14 * C[a, a]:
            A[a, 0] = c[a] * (g(mean[a]) if a < K else gt(mean[a]))
            square = A[a, 0] * A[a, 0]
        elif (kinks if a < K else kinks_t).size == 0:
            s = math.sqrt(S[a, a])
            for r in range(x0.size):
                f = mean[a] + s * x0[r]
                values[r] = c[a] * (g(f) if a < K else gt(f))
            for r in range(x0.size):
                square += basis[0, r] * values[r] * values[r]
            for m in range(order):
                part = 0.0
                for r in range(x0.size):
                    part += basis[m, r] * values[r]
                A[a, m] = part
        else:
            s = math.sqrt(S[a, a])
            for r in range(normal_nodes(kinks if a < K else kinks_t, mean[a], s, rule, x, v)):
                f = mean[a] + s * x[r]
                value = c[a] * (g(f) if a < K else gt(f))
                square += v[r] * value * value
                low, high = v[r] * value, v[r] * value * x[r]
                A[a, 0] += low
                for m in range(1, order):
                    A[a, m] += high
                    low, high = high, (x[r] * high - math.sqrt(m) * low) / math.sqrt(m + 1.0)
        total += square
        for b in range(a):
            rho = 0.0
            if S[a, a] > 1e-14 * C[a, a] and S[b, b] > 1e-14 * C[b, b]:
                rho = S[a, b] / math.sqrt(S[a, a] * S[b, b])
            power, pair = 1.0, 0.0
            for m in range(order):
                pair += power * A[a, m] * A[b, m]
                power *= rho
            total += 2.0 * pair
    return total


@njit(**OPTIONS)
def smooth_basis(S: Array, rule: Array, none: Array, x: Array, v: Array, basis: Array) -> int:
    """Fill nodes for smooth functions, and weights times orthonormal Hermite polynomials (order, nodes); count nodes.

    ``none`` is an empty array: no kinks.
    """
    scale = 1e-3
    for a in range(S.shape[0]):
        scale = max(scale, math.sqrt(max(S[a, a], 0.0)))
    count = normal_nodes(none, 0.0, scale, rule, x, v)
    for r in range(count):
        low, high = v[r], v[r] * x[r]
        basis[0, r] = low
        for m in range(1, basis.shape[0]):
            basis[m, r] = high
            low, high = high, (x[r] * high - math.sqrt(m) * low) / math.sqrt(m + 1.0)
    return count


@njit(**OPTIONS)
def slope_moments(C: Array, c: Array, K: int, i: int, k: int, sigma: float, g: Any, dg: Any, gt: Any, kinks: Array,
                  kinks_t: Array, rule: Array, order: int) -> float:  # fmt: skip
    """Return ``E[g'(f_i) g'(f_k) (err^2 + sigma^2)]``."""
    N = c.size
    size = capacity(C, rule, kinks, kinks_t)
    z1, w1, z2, w2 = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    x, v, mean = np.empty(size), np.empty(size), np.empty(N)
    A, S = np.empty((N, order)), np.empty((N, N))
    first = math.sqrt(C[i, i])
    along = C[i, k] / first
    left = C[k, k] - along * along
    # Outer nodes beyond the range in both dimensions together carry no weight.
    cutoff = 0.1 * math.exp(-0.5 * rule[1] * rule[1])
    second = math.sqrt(left) if i != k and left > 1e-14 * C[k, k] else 0.0
    for a in range(N):
        for b in range(N):
            S[a, b] = C[a, b] - C[i, a] * C[i, b] / C[i, i]
            if second > 0.0:
                S[a, b] -= (C[k, a] - along * C[i, a] / first) * (C[k, b] - along * C[i, b] / first) / left
    none = rule[:0]
    size = capacity(S, rule, none, none)
    x0, v0, values, basis = np.empty(size), np.empty(size), np.empty(size), np.empty((order, size))
    x0 = x0[: smooth_basis(S, rule, none, x0, v0, basis)]
    total = 0.0
    for q in range(normal_nodes(kinks, 0.0, first, rule, z1, w1)):
        ui = first * z1[q]
        gi = dg(ui) * w1[q]
        count = 1
        z2[0], w2[0] = 0.0, 1.0
        if second > 0.0:
            count = normal_nodes(kinks, along * z1[q], second, rule, z2, w2)
        for r in range(count):
            if w1[q] * w2[r] < cutoff:
                continue
            uk = along * z1[q] + second * z2[r]
            for a in range(N):
                mean[a] = C[i, a] / first * z1[q]
                if second > 0.0:
                    mean[a] += (C[k, a] - along * C[i, a] / first) / second * z2[r]
            square = conditional_square(C, S, mean, c, K, g, gt, kinks, kinks_t, rule, A, x, v, x0, basis, values)
            total += gi * w2[r] * dg(uk) * (square + sigma * sigma)
    return total


@njit(**OPTIONS)
def mean_square_error(C: Array, c: Array, K: int, g: Any, gt: Any, kinks: Array, kinks_t: Array, rule: Array) -> float:
    """Return ``E[err^2]`` by nested quadrature over pairs of fields, without Mehler's series."""
    N = c.size
    size = capacity(C, rule, kinks, kinks_t)
    z, w, x, v = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    total = 0.0
    for a in range(N):
        spread = math.sqrt(C[a, a])
        for q in range(normal_nodes(kinks if a < K else kinks_t, 0.0, spread, rule, z, w)):
            u = spread * z[q]
            own = c[a] * w[q] * (g(u) if a < K else gt(u))
            total += own * c[a] * (g(u) if a < K else gt(u))
            for b in range(a):
                mean = C[a, b] / C[a, a] * u
                rest = C[b, b] - C[a, b] * C[a, b] / C[a, a]
                if rest <= 1e-14 * C[b, b]:
                    total += 2.0 * own * c[b] * (g(mean) if b < K else gt(mean))
                    continue
                s = math.sqrt(rest)
                inner = 0.0
                for r in range(normal_nodes(kinks if b < K else kinks_t, mean, s, rule, x, v)):
                    inner += v[r] * (g(mean + s * x[r]) if b < K else gt(mean + s * x[r]))
                total += 2.0 * own * c[b] * inner
    return total


@njit(**OPTIONS)
def target_field_moments(C: Array, K: int, i: int, degree: int, g: Any, dg: Any, kinks: Array, kinks_t: Array,
                         rule: Array, D: Array, target_average: Any, target_directional: Any) -> float:  # fmt: skip
    """Subtract ``E[g'(f_i) f_b f*]`` from ``D[b]`` and return ``-E[g(f_i) f*]``."""
    N = C.shape[0]
    size = capacity(C, rule, kinks, kinks_t)
    z, w = np.empty(size), np.empty(size)
    F, m, v = np.empty(degree + 1), np.empty(N - K), np.empty(N - K)
    S = np.empty((N - K, N - K))
    F[:] = 0.0
    for a in range(K, N):
        for b in range(K, N):
            S[a - K, b - K] = C[a, b] - C[i, a] * C[i, b] / C[i, i]
    spread = math.sqrt(C[i, i])
    both = 0.0
    for q in range(normal_nodes(kinks, 0.0, spread, rule, z, w)):
        u = spread * z[q]
        for r in range(N - K):
            m[r] = C[i, K + r] / C[i, i] * u
        mean = target_average(m, S)
        for b in range(N):
            D[b] -= w[q] * dg(u) * C[i, b] / C[i, i] * u * mean
        for r in range(N - K):
            v[:] = 0.0
            v[r] = 1.0
            target_directional(m, S, v, F)
            for b in range(N):
                D[b] -= w[q] * dg(u) * F[1] * (C[b, K + r] - C[i, b] * C[i, K + r] / C[i, i])
        both -= w[q] * g(u) * mean
    return both


@njit(**OPTIONS)
def target_slope_moments(C: Array, c: Array, K: int, i: int, k: int, degree: int, g: Any, dg: Any, kinks: Array,
                         kinks_t: Array, rule: Array, target_square: Any, target_directional: Any
                         ) -> float:  # fmt: skip
    """Return ``E[g'(f_i) g'(f_k) (f*^2 - 2 f* sum_a c_a g(f_a))]``, the sum over students.

    With A_n = E[g(f_a) He_n] of the normalised residual field, E[g(f_a) f*] = sum_n A_n E[(v . grad)^n f*]/(s^n n!),
    where v are the residual covariances of f_a and the teacher fields: Stein's lemma n times.
    """
    N = C.shape[0]
    size = capacity(C, rule, kinks, kinks_t)
    z1, w1, z2, w2 = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    x, weight = np.empty(size), np.empty(size)
    mean, S, T, F = np.empty(N), np.empty((N, N)), np.empty((N - K, N - K)), np.empty(degree + 1)
    F[:] = 0.0
    first = math.sqrt(C[i, i])
    along = C[i, k] / first
    left = C[k, k] - along * along
    # Outer nodes beyond the range in both dimensions together carry no weight.
    cutoff = 0.1 * math.exp(-0.5 * rule[1] * rule[1])
    second = math.sqrt(left) if i != k and left > 1e-14 * C[k, k] else 0.0
    for a in range(N):
        for b in range(N):
            S[a, b] = C[a, b] - C[i, a] * C[i, b] / C[i, i]
            if second > 0.0:
                S[a, b] -= (C[k, a] - along * C[i, a] / first) * (C[k, b] - along * C[i, b] / first) / left
    for a in range(K, N):
        for b in range(K, N):
            T[a - K, b - K] = S[a, b]
    total = 0.0
    for q in range(normal_nodes(kinks, 0.0, first, rule, z1, w1)):
        count = 1
        z2[0], w2[0] = 0.0, 1.0
        if second > 0.0:
            count = normal_nodes(kinks, along * z1[q], second, rule, z2, w2)
        for r in range(count):
            if w1[q] * w2[r] < cutoff:
                continue
            for a in range(N):
                mean[a] = C[i, a] / first * z1[q]
                if second > 0.0:
                    mean[a] += (C[k, a] - along * C[i, a] / first) / second * z2[r]
            m = mean[K:]
            part = target_square(m, T)
            for a in range(K):
                if c[a] == 0.0:
                    continue
                target_directional(m, T, S[a, K:], F)
                if S[a, a] <= 1e-14 * C[a, a]:
                    part -= 2.0 * c[a] * g(mean[a]) * F[0]
                    continue
                s = math.sqrt(S[a, a])
                for node in range(normal_nodes(kinks, mean[a], s, rule, x, weight)):
                    value = weight[node] * g(mean[a] + s * x[node])
                    low, high = value, value * x[node]
                    factor = 1.0
                    for n in range(degree + 1):
                        part -= 2.0 * c[a] * low * factor * F[n]
                        factor /= s * (n + 1.0)
                        low, high = high, x[node] * high - (n + 1.0) * low
            total += w1[q] * w2[r] * dg(along * z1[q] + second * z2[r]) * dg(first * z1[q]) * part
    return total


@njit(**OPTIONS)
def target_error(C: Array, c: Array, K: int, g: Any, kinks: Array, kinks_t: Array, rule: Array, target_average: Any,
                 target_square: Any) -> float:  # fmt: skip
    """Return ``E[f*^2] - 2 sum_a c_a E[g(f_a) f*]``."""
    N = C.shape[0]
    size = capacity(C, rule, kinks, kinks_t)
    z, w = np.empty(size), np.empty(size)
    m, S = np.empty(N - K), np.empty((N - K, N - K))
    m[:] = 0.0
    for a in range(K, N):
        for b in range(K, N):
            S[a - K, b - K] = C[a, b]
    total = target_square(m, S)
    for i in range(K):
        for a in range(K, N):
            for b in range(K, N):
                S[a - K, b - K] = C[a, b] - C[i, a] * C[i, b] / C[i, i]
        spread = math.sqrt(C[i, i])
        for q in range(normal_nodes(kinks, 0.0, spread, rule, z, w)):
            for r in range(N - K):
                m[r] = C[i, K + r] / C[i, i] * spread * z[q]
            total -= 2.0 * c[i] * w[q] * g(spread * z[q]) * target_average(m, S)
    return total


TARGET_FUNCTIONS = (target_field_moments, target_slope_moments, target_error)


# Functions of the module that the pasted ones call: numba does not cache functions that are handed compiled functions.
HANDED = "g|dg|gt|dgt|target|loss|loss_slope|target_average|target_square|target_directional|own_kinks"


def self_contained(functions: tuple[Any, ...]) -> str:
    """Return the source of functions, calling g, dg, ... of the module they are pasted into instead of arguments."""

    def pasted(text: str) -> str:
        text = re.sub(rf"\b({HANDED}): Any,\s*", "", text)
        text = re.sub(rf",\s*({HANDED}): Any\b", "", text)
        text = re.sub(rf"\b({HANDED}), (?!=)", "", text)
        text = re.sub(r"\n\s+\) -> ", ") -> ", text)
        return re.sub(r": Array\b|: Any\b| -> (float|int|None)(?=:)", "", text)

    return "\n\n\n".join(pasted(inspect.getsource(f.py_func)) for f in functions)


CONDITIONAL_SOURCE = self_contained(
    (spacing, normal_nodes, capacity, smooth_basis, field_moments, conditional_square, slope_moments, mean_square_error)
)
TARGET_SOURCE = self_contained(TARGET_FUNCTIONS)


def quadrature_rule(step: float, top: float = 7.5, order: int = 16) -> Array:
    """Return the ``rule`` argument: trapezoidal step, range in standard deviations, Gauss-Legendre panel."""
    from .quadrature import gauss_legendre

    x, w = gauss_legendre(order)
    return np.concatenate([[step, top], x, w])
