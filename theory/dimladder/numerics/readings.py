"""What is read off a solved channel of labels -1 and +1: how often signs are wrong, how far to trust probabilities.

The field of a fresh sample is u = b + omega, omega ~ N(0, q), and the label's latent field given it N(m omega/q, rho -
m^2/q). Laws of labels are the components of `label_channel`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .basics import GL_W, GL_X, OPTIONS, fill, pdf, sort
from .label_channel import BLOCK, COMPONENTS, LAW, THRESHOLDS
from .label_rules import BETA, REACH, between
from .native import njit
from .proximal import FUNCTIONS, TAIL, as_piece, as_roots, posterior_moments

__all__ = ["calibration", "frequency"]

_WIDTH = 1.5
# Where the turning of a label gets marks, in units of its width.
_SHIFTS = np.array([-8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0])
# Probabilities at nodes of the field resolve laws no narrower than this, in standard deviations of the field.
_NARROWEST = 0.025


@njit("f8(f8, f8[::1], f8, f8)", **OPTIONS)
def frequency(omega: Any, labels: Any, q: Any, m: Any) -> Any:
    """P(y = 1 | omega); `labels` is a vector of `label_channel.flatten`."""
    out = 0.0
    at = LAW
    for _ in range(int(labels[COMPONENTS])):
        size, kind = int(labels[at]), int(labels[at + 1])
        probability, cross, variance = labels[at + 2], labels[at + 3] * m, labels[at + 4]
        block = labels[at + BLOCK : at + size]
        at += size
        left = max(variance - cross * cross / q, 1e-24 * variance)
        here, spread = cross / q * omega, math.sqrt(left)
        if kind == THRESHOLDS:
            number, rows = int(block[1]), int(block[2])
            table = block[4 + 2 * number :].reshape((rows, 3))
            for i in range(number):
                if block[3 + i] > 0.0:
                    low, high = int(block[3 + number + i]), int(block[4 + number + i])
                    chance, _ = between(here, spread, table[low:high])
                    out += probability * chance
        else:
            if left < _NARROWEST**2 * variance:
                return math.nan
            number = int(block[0])
            total = 0.0
            for j in range(number):
                x = (block[1 + number + j] - here) / spread
                if abs(x) < TAIL:
                    # The weights hold the normal density of the field.
                    bare = 0.5 * block[1 + number + j] ** 2 / variance - 0.5 * x * x
                    total += block[1 + j] * block[1 + 2 * number + j] * math.exp(bare)
            out += probability * total * math.sqrt(variance) / spread
    return out


@njit(**OPTIONS)
def predicted(u: Any, data: Any, v: Any) -> Any:
    """The estimator's own P(y = 1): 1/(1 + exp(-u)), or that of the posterior whose channel has this `data`."""
    if data.size == 0:
        e = math.exp(-abs(u))
        return 1.0 / (1.0 + e) if u > 0.0 else e / (1.0 + e)
    bits = data[:FUNCTIONS].view(np.int64)
    value, slope = as_piece(bits[0], bits[1]), as_piece(bits[2], bits[3])
    curvature, roots = as_piece(bits[4], bits[5]), as_roots(bits[6], bits[7])
    _, _, up = posterior_moments(value, slope, curvature, roots, 1.0, u, v, data[BETA], data[REACH])
    _, _, down = posterior_moments(value, slope, curvature, roots, -1.0, u, v, data[BETA], data[REACH])
    return 1.0 / (1.0 + math.exp(min(down - up, 700.0)))


@njit("void(f8, f8, f8, f8, f8[::1], f8[::1], b1, f8[::1])", **OPTIONS)
def calibration(v: Any, q: Any, m: Any, b: Any, labels: Any, data: Any, trust: Any, out: Any) -> None:
    """Fill `out` with P(sign(u) != y) and, with `trust`, E |p - P(y = 1 | u)| and the Brier score E (1[y = 1] - p)^2.

    Parameters
    ----------
    labels : array
        A vector of `label_channel.flatten`.
    data : array
        The posterior's vector, for its predictive probability; empty for 1/(1 + exp(-u)).
    """
    fill(out[:3], 0.0)
    s = math.sqrt(q)
    marks = np.empty(3 + 18 * 64)
    marks[0], marks[1], filled = -TAIL, TAIL, 2
    if abs(b) < TAIL * s:
        marks[2], filled = -b / s, 3
    fine = min(_WIDTH, 3.0 / s) if trust else _WIDTH
    # Where the label turns within less than the field's width.
    at = LAW
    for _ in range(int(labels[COMPONENTS])):
        size, kind = int(labels[at]), int(labels[at + 1])
        cross, variance = labels[at + 3] * m, labels[at + 4]
        block = labels[at + BLOCK : at + size]
        at += size
        slope = abs(cross) / s
        spread = math.sqrt(max(variance - slope * slope, 1e-24 * variance))
        if not (slope > 0.0 and spread < 4.0 * slope):
            continue
        turn = spread / slope
        if kind == THRESHOLDS:
            number, rows = int(block[1]), int(block[2])
            for i in range(3 * rows):
                edge = block[4 + 2 * number + i]
                if i % 3 < 2 and math.isfinite(edge) and filled + _SHIFTS.size <= marks.size:
                    for shift in range(_SHIFTS.size):
                        point = edge * s / cross + _SHIFTS[shift] * turn
                        if -TAIL < point < TAIL:
                            marks[filled] = point
                            filled += 1
        else:
            fine = min(fine, 3.0 * max(turn, 0.02))
    ends = marks
    sort(ends, filled)
    for j in range(filled - 1):
        length = ends[j + 1] - ends[j]
        if length <= 1e-13:
            continue
        panels = int(length / fine) + 1
        for panel in range(panels):
            low, high = ends[j] + panel * length / panels, ends[j] + (panel + 1) * length / panels
            cut = high
            if trust:
                # |p - P| has a kink where the two cross.
                left = predicted(b + s * low, data, v) - frequency(s * low, labels, q, m)
                right = predicted(b + s * high, data, v) - frequency(s * high, labels, q, m)
                if left * right < 0.0:
                    x, y = low, high
                    for _ in range(60):
                        cut = 0.5 * (x + y)
                        gap = predicted(b + s * cut, data, v) - frequency(s * cut, labels, q, m)
                        if gap * left > 0.0:
                            x = cut
                        else:
                            y = cut
                        if y - x < 1e-9:
                            break
            for half in range(2):
                begin, end = (low, cut) if half == 0 else (cut, high)
                if end - begin <= 1e-13:
                    continue
                for node in range(16):
                    x = begin + 0.5 * (end - begin) * (1.0 + GL_X[node])
                    w = 0.5 * (end - begin) * GL_W[node] * pdf(x)
                    chance = frequency(s * x, labels, q, m)
                    u = b + s * x
                    out[0] += w * (1.0 - chance if u > 0.0 else chance)
                    if trust:
                        p = predicted(u, data, v)
                        out[1] += w * abs(p - chance)
                        out[2] += w * (chance * (1.0 - p) ** 2 + (1.0 - chance) * p * p)
