"""Labels that are functions of the signs of two or three Gaussian fields: information and entropy of one observation.

Given omega ~ N(0, Q) the fields are z ~ N(omega, V), and a label's probability Z is a sum of orthant probabilities:
one-dimensional integrals of the bivariate normal law at most. Averages over omega are products of trapezoidal rules.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .basics import GL_W, GL_X, OPTIONS, cdf, pdf
from .native import njit
from .thresholds import sign_moment2

__all__ = ["information", "pattern_chances"]


@njit(**OPTIONS)
def _pairs(a: Any, b: Any, r: Any, out: Any) -> None:
    """Fill out with P(++), P(+-), P(-+), P(--) of signs of N(a, 1), N(b, 1) with correlation r."""
    s, t, both = 2.0 * cdf(a) - 1.0, 2.0 * cdf(b) - 1.0, sign_moment2(a, b, r)
    out[0] = max(0.25 * (1.0 + s + t + both), 0.0)
    out[1] = max(0.25 * (1.0 + s - t - both), 0.0)
    out[2] = max(0.25 * (1.0 - s + t - both), 0.0)
    out[3] = max(0.25 * (1.0 - s - t + both), 0.0)


@njit("void(f8[::1], f8[:, ::1], f8[::1], f8[:, ::1])", **OPTIONS)
def pattern_chances(omega: Any, v: Any, chances: Any, slopes: Any) -> None:
    """Fill `chances` with P(pattern) and `slopes` with its derivatives in omega, shape (patterns, fields).

    Pattern p of M fields has z_i > 0 where bit M - 1 - i of p is zero.
    """
    fields = omega.size
    four = np.empty(4)
    if fields == 2:
        s1, s2 = math.sqrt(v[0, 0]), math.sqrt(v[1, 1])
        a, b, r = omega[0] / s1, omega[1] / s2, v[0, 1] / (s1 * s2)
        _pairs(a, b, r, four)
        for p in range(4):
            chances[p] = four[p]
        rest = math.sqrt(max(1.0 - r * r, 1e-300))
        pa = pdf(a) / s1
        pb = pdf(b) / s2
        up, left = cdf((b - r * a) / rest), cdf((a - r * b) / rest)
        slopes[0, 0], slopes[1, 0], slopes[2, 0], slopes[3, 0] = pa * up, pa * (1.0 - up), -pa * up, -pa * (1.0 - up)
        slopes[0, 1], slopes[2, 1], slopes[1, 1], slopes[3, 1] = (
            pb * left, pb * (1.0 - left), -pb * left, -pb * (1.0 - left),
        )  # fmt: skip
        return
    # The first field in panels on either side of zero, the other two given it.
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        s = math.sqrt(v[i, i])
        vj, vk = v[j, j] - v[i, j] ** 2 / v[i, i], v[k, k] - v[i, k] ** 2 / v[i, i]
        r = (v[j, k] - v[i, j] * v[i, k] / v[i, i]) / math.sqrt(vj * vk)
        # Density of the field at zero times the chances of the others there: the slope.
        density = 0.3989422804014327 * math.exp(-0.5 * omega[i] ** 2 / v[i, i]) / s
        _pairs(
            (omega[j] - v[i, j] / v[i, i] * omega[i]) / math.sqrt(vj),
            (omega[k] - v[i, k] / v[i, i] * omega[i]) / math.sqrt(vk), r, four,
        )  # fmt: skip
        for p in range(8):
            turn = 1.0 if (p >> (2 - i)) & 1 == 0 else -1.0
            slopes[p, i] = turn * density * four[2 * ((p >> (2 - j)) & 1) + ((p >> (2 - k)) & 1)]
        if i > 0:
            continue
        chances[:] = 0.0
        for side in range(2):
            direction = 1.0 if side == 0 else -1.0
            start = max(0.0, direction * omega[0] - 8.5 * s)
            length = max(direction * omega[0] + 8.5 * s - start, 0.0)
            panels = int(length / (1.5 * min(s, math.sqrt(min(vj, vk)) * s / (abs(v[0, 1]) + abs(v[0, 2]) + 1e-9)))) + 1
            panels = min(panels, 40)
            for panel in range(panels):
                for node in range(16):
                    z = direction * (start + (panel + 0.5 + 0.5 * GL_X[node]) * length / panels)
                    w = 0.5 * length / panels * GL_W[node] * 0.3989422804014327 / s
                    gap = (z - omega[0]) / s
                    w *= math.exp(-0.5 * gap * gap)
                    if w < 1e-19:
                        continue
                    _pairs(
                        (omega[1] + v[0, 1] / s * gap) / math.sqrt(vj), (omega[2] + v[0, 2] / s * gap) / math.sqrt(vk),
                        r, four,
                    )  # fmt: skip
                    for p in range(4):
                        chances[4 * side + p] += w * four[p]


@njit("void(f8[:, ::1], f8[:, ::1], i8[::1], i8, f8, f8, f8[:, ::1], f8[::1])", **OPTIONS)
def information(root: Any, v: Any, labels: Any, number: Any, step: Any, reach: Any, info: Any, out: Any) -> None:
    """Fill `info` with E sum_y grad Z grad Z^T/Z, and `out` with E sum_y Z ln Z and 1 - E max_y Z.

    Parameters
    ----------
    root : array, shape (M, M)
        omega = root x, x standard normal.
    v : array, shape (M, M)
        Covariance of the fields given omega.
    labels : array of int, shape (2^M,)
        Label of each sign pattern, 0 ... number - 1.
    step, reach : float
        Of the trapezoidal rule in each x.
    """
    fields = v.shape[0]
    patterns = labels.size
    chances, slopes = np.empty(patterns), np.empty((patterns, fields))
    z, grad, omega, x = np.empty(number), np.empty((number, fields)), np.empty(fields), np.empty(fields)
    half = int(reach / step)
    side = 2 * half + 1
    info[:] = 0.0
    out[:] = 0.0
    total, nodes = 0.0, 1
    for _ in range(fields):
        nodes *= side
    for node in range(nodes):
        rest, square = node, 0.0
        for i in range(fields):
            x[i] = (rest % side - half) * step
            rest //= side
            square += x[i] * x[i]
        if square > reach * reach:
            continue
        w = math.exp(-0.5 * square)
        total += w
        for i in range(fields):
            omega[i] = 0.0
            for j in range(fields):
                omega[i] += root[i, j] * x[j]
        pattern_chances(omega, v, chances, slopes)
        z[:] = 0.0
        grad[:] = 0.0
        for p in range(patterns):
            z[labels[p]] += chances[p]
            for i in range(fields):
                grad[labels[p], i] += slopes[p, i]
        best = 0.0
        for y in range(number):
            best = max(best, z[y])
            if z[y] > 1e-13:
                out[0] += w * z[y] * math.log(z[y])
                for i in range(fields):
                    for j in range(fields):
                        info[i, j] += w * grad[y, i] * grad[y, j] / z[y]
        out[1] += w * (1.0 - best)
    for i in range(fields):
        for j in range(fields):
            info[i, j] /= total
    out[0] /= total
    out[1] /= total
