"""Channels of fits whose samples count several times, or not at all; and what two fits of one data set share.

A sample of weight p enters as p l(y, u): its proximal point is that of l with the response p V, and its force p times
the force there. Averages over p are sums over a short list of weights.

Two fits of the same samples, weights drawn for each, have fields omega_a = c + xi_a with a common part c ~ N(b, q12)
and parts of their own xi_a ~ N(0, q - q12). The label depends on c only, so that E f_1 f_2 = E F(c, y)^2 with F the
force averaged over xi and p.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .addresses import packed
from .basics import GL_W, GL_X, OPTIONS, fill, pdf
from .label_channel import CHANNEL_TYPE, as_channel, law_averages
from .native import njit
from .readings import frequency

__all__ = ["pair_of_residuals", "pair_of_signs", "resampled", "weighted"]

# Panels of the common part end here, in its standard deviations.
_TAIL = 8.6


def resampled(inner: Any, data: Any, weights: Any, probabilities: Any) -> Any:
    """Return the numbers that `weighted` reads: weights with their probabilities, and a channel with its numbers.

    Parameters
    ----------
    inner : compiled channel
    data : array
        What it reads.
    weights, probabilities : arrays (k,)
    """
    head = np.concatenate([[float(len(weights))], weights, probabilities])
    return np.concatenate([packed([(inner, CHANNEL_TYPE)]), head, data])


@njit("void(f8[::1], i8, f8, f8, f8, f8, b1, f8[::1])", **OPTIONS)
def weighted(p: Any, at: Any, v: Any, q: Any, m: Any, b: Any, observe: Any, out: Any) -> None:
    """Averages of a channel over the weights, as of `law_averages`; E l(prox) counts every sample once."""
    bits = p[at : at + 2].view(np.int64)
    channel = as_channel(bits[0], bits[1])
    count = int(p[at + 2])
    inside = at + 3 + 2 * count
    part = np.empty(8)
    fill(out, 0.0)
    left_out = 0.0
    for j in range(count):
        weight, chance = p[at + 3 + j], p[at + 3 + count + j]
        if weight == 0.0:
            left_out += chance
            continue
        fill(part, 0.0)
        channel(p, inside, v * weight, q, m, b, observe, part)
        out[0] += chance * weight * part[0]
        out[1] += chance * weight * weight * part[1]
        out[2] += chance * weight * part[2]
        out[3] += chance * part[3]
        out[4] = part[4]
        out[5] += chance * weight * part[5]
        out[6] = part[6]
        if out.size > 7:
            out[7] += chance * weight * weight * part[7]
    # What is left out is a fresh sample.
    out[3] += left_out * out[4]


@njit(**OPTIONS)
def _force(p: Any, at: Any, v: Any, spread: Any, mean: Any, weights: Any, chances: Any, part: Any) -> Any:
    """E f over the own part of the field and the weights, for the certain label of the law at `at`."""
    total = 0.0
    for j in range(weights.size):
        if weights[j] > 0.0:
            law_averages(p, at, v * weights[j], spread, 0.0, mean, False, part)
            total += chances[j] * weights[j] * part[0]
    return total


@njit("f8(f8[::1], i8, i8, f8[::1], f8, f8, f8, f8, f8, f8[::1], f8[::1], f8)", **OPTIONS)
def pair_of_signs(
    certain: Any, plus: Any, minus: Any, labels: Any, v: Any, q: Any, q12: Any, m: Any, b: Any, weights: Any,
    chances: Any, width: Any,
) -> Any:  # fmt: skip
    """E f_1 f_2 for labels -1 and +1.

    Parameters
    ----------
    certain : array
        Holds the laws of the certain labels +1, from `plus`, and -1, from `minus` (`label_channel.flatten`).
    labels : array
        The law of the label, for `readings.frequency`.
    width : float
        Of the panels, in standard deviations of the common part.
    """
    s, total = math.sqrt(q12), 0.0
    part = np.empty(8)
    panels = int(2.0 * _TAIL / width) + 1
    for j in range(panels):
        low, length = -_TAIL + 2.0 * _TAIL * j / panels, 2.0 * _TAIL / panels
        for k in range(16):
            x = low + 0.5 * length * (1.0 + GL_X[k])
            weight = 0.5 * length * GL_W[k] * pdf(x)
            if weight < 1e-15:
                continue
            chance = frequency(s * x, labels, q12, m)
            up = _force(certain, plus, v, q - q12, b + s * x, weights, chances, part)
            down = _force(certain, minus, v, q - q12, b + s * x, weights, chances, part)
            total += weight * (chance * up * up + (1.0 - chance) * down * down)
    return total


@njit("f8(f8[::1], i8, f8, f8, f8, f8, f8[::1], f8[::1], f8)", **OPTIONS)
def pair_of_residuals(
    certain: Any, zero: Any, v: Any, own: Any, mean: Any, common: Any, weights: Any, chances: Any, width: Any
) -> Any:  # fmt: skip
    """E f_1 f_2 for a loss of y - u, u - y having the mean `mean`, a common part of variance `common` and own parts."""
    s, total = math.sqrt(common), 0.0
    part = np.empty(8)
    panels = int(2.0 * _TAIL / width) + 1
    for j in range(panels):
        low, length = -_TAIL + 2.0 * _TAIL * j / panels, 2.0 * _TAIL / panels
        for k in range(16):
            x = low + 0.5 * length * (1.0 + GL_X[k])
            weight = 0.5 * length * GL_W[k] * pdf(x)
            if weight > 1e-15:
                force = _force(certain, zero, v, own, mean + s * x, weights, chances, part)
                total += weight * force * force
    return total
