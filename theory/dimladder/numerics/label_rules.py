"""Rules for averages of a force over one Gaussian field and one label: closed forms, trapezoidal rules, panels.

All add to ``out``: E f, E f^2, -E f', E l(prox), E l(omega), E d_t f, P(sign of omega differs from y), E (f')^2.
The loss stands in the vector ``p`` from index `at` (`HEAD`). The label holds with certainty, or with a probability that
a field t ~ N(gain (omega - mean), spread^2) decides: ``cuts`` has rows (low, high, weight) of intervals of t
(`between`), ``nodes`` two rows, weights times probabilities and fields, of a rule over t (`tabulated`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .basics import GL_W, GL_X, OPTIONS, cdf, fill, pdf, sort
from .native import njit
from .proximal import (
    FUNCTIONS,
    MAX_KINKS,
    SHIFTS,
    TAIL,
    as_piece,
    as_roots,
    kink_images,
    posterior_moments,
    prox,
    prox_on_piece,
)

__all__ = [
    "BETA", "HEAD", "REACH", "ROUTE", "WIDTH", "between", "closed", "panels", "tabulated", "trapezoid", "wrong_side",
]  # fmt: skip

# Of a vector of numbers: addresses of the loss (`proximal.together`), then these; the label's law follows.
ROUTE, WIDTH, REACH, BETA, HEAD = range(FUNCTIONS, FUNCTIONS + 5)
# Two trapezoidal rules that differ by less have a mean that is exact to rounding; halvings before panels take over.
_AGREE, _HALVINGS = 2e-7, 4
_PANEL, _FAR = 0.75, 8.6


@njit(**OPTIONS)
def _moments(a: Any, b: Any) -> Any:
    """Integrals of 1, x, x^2 over a < x < b, x standard normal; the ends may be infinite."""
    mass = cdf(b) - cdf(a) if a < 0.0 else cdf(-a) - cdf(-b)
    low, high = pdf(a), pdf(b)
    second = mass
    if math.isfinite(a):
        second += a * low
    if math.isfinite(b):
        second -= b * high
    return mass, low - high, second


@njit(**OPTIONS)
def closed(p: Any, at: Any, y: Any, mean: Any, var: Any, v: Any, observe: Any, out: Any) -> None:
    """Averages for a slope that is affine on every piece: truncated normal moments."""
    bits = p[at : at + FUNCTIONS].view(np.int64)
    value, slope = as_piece(bits[0], bits[1]), as_piece(bits[2], bits[3])
    curvature, roots = as_piece(bits[4], bits[5]), as_roots(bits[6], bits[7])
    s = math.sqrt(var)
    kinks, images = np.empty(MAX_KINKS), np.empty(2 * MAX_KINKS)
    count = kink_images(slope, y, v, kinks, roots(y, kinks), images) // 2
    for j in range(count + 1):
        if count == 0:
            r = 0.0
        elif j == 0:
            r = kinks[0] - 1.0
        elif j == count:
            r = kinks[count - 1] + 1.0
        else:
            r = 0.5 * (kinks[j - 1] + kinks[j])
        # On this piece l(u) = l0 + a0 u + a1 u^2/2.
        l0, a0, a1 = value(y, 0.0, r), slope(y, 0.0, r), curvature(y, 0.0, r)
        a = -math.inf if j == 0 else (images[2 * j - 1] - mean) / s
        b = math.inf if j == count else (images[2 * j] - mean) / s
        if b > a:
            mass, first, second = _moments(a, b)
            soft = 1.0 + v * a1
            # f = c + d x and prox = p0 + p1 x at omega = mean + s x.
            c, d = -(a0 + a1 * mean) / soft, -a1 * s / soft
            p0, p1 = (mean - v * a0) / soft, s / soft
            out[0] += c * mass + d * first
            out[1] += c * c * mass + 2.0 * c * d * first + d * d * second
            out[2] += a1 / soft * mass
            out[7] += (a1 / soft) ** 2 * mass
            out[3] += (l0 + a0 * p0 + 0.5 * a1 * p0 * p0) * mass + (a0 + a1 * p0) * p1 * first
            out[3] += 0.5 * a1 * p1 * p1 * second
        if observe:
            a = -math.inf if j == 0 else (kinks[j - 1] - mean) / s
            b = math.inf if j == count else (kinks[j] - mean) / s
            mass, first, second = _moments(a, b)
            out[4] += (l0 + a0 * mean + 0.5 * a1 * mean * mean) * mass + (a0 + a1 * mean) * s * first
            out[4] += 0.5 * a1 * var * second
        if j < count:
            # prox rests on the kink.
            mass, first, second = _moments((images[2 * j] - mean) / s, (images[2 * j + 1] - mean) / s)
            c, d = (kinks[j] - mean) / v, -s / v
            out[0] += c * mass + d * first
            out[1] += c * c * mass + 2.0 * c * d * first + d * d * second
            out[2] += mass / v
            out[7] += mass / (v * v)
            out[3] += value(y, kinks[j], kinks[j] + 1.0) * mass


@njit(**OPTIONS)
def between(here: Any, spread: Any, cuts: Any) -> Any:
    """P of the rows (low, high, weight) for a field N(here, spread^2), and its derivative in `here`."""
    chance = push = 0.0
    for i in range(cuts.shape[0]):
        a, b = (cuts[i, 0] - here) / spread, (cuts[i, 1] - here) / spread
        chance += cuts[i, 2] * (cdf(b) - cdf(a) if a < 0.0 else cdf(-a) - cdf(-b))
        push += cuts[i, 2] * (pdf(a) - pdf(b)) / spread
    return chance, push


@njit(**OPTIONS)
def tabulated(here: Any, spread: Any, nodes: Any) -> Any:
    """The same for probabilities known at nodes of the field; the weights are without the field's normal density."""
    chance = push = 0.0
    scale = 0.3989422804014327 / spread
    for j in range(nodes.shape[1]):
        x = (nodes[1, j] - here) / spread
        if abs(x) < TAIL:
            w = nodes[0, j] * scale * math.exp(-0.5 * x * x)
            chance += w
            push += w * x / spread
    return chance, push


@njit(**OPTIONS)
def likelihood(here: Any, spread: Any, cuts: Any, nodes: Any) -> Any:
    """P(y) where the label's field is N(here, spread^2), and its derivative in `here`."""
    if cuts.shape[0] > 0:
        return between(here, spread, cuts)
    if nodes.shape[1] > 0:
        return tabulated(here, spread, nodes)
    return 1.0, 0.0


@njit(**OPTIONS)
def wrong_side(y: Any, mean: Any, s: Any, cuts: Any, nodes: Any, gain: Any, spread: Any) -> Any:
    """Probability that omega ~ N(mean, s^2) has the label y and the other sign."""
    if y == 0.0:
        return 0.0
    edge = -mean / s
    if cuts.shape[0] == 0 and nodes.shape[1] == 0:
        return cdf(edge) if y > 0.0 else cdf(-edge)
    low, high = (-TAIL, min(edge, TAIL)) if y > 0.0 else (max(edge, -TAIL), TAIL)
    if high <= low:
        return 0.0
    turn = spread / (abs(gain) * s) if gain != 0.0 else math.inf
    panels = int((high - low) / min(1.5, 1.5 * turn)) + 1
    total = 0.0
    for panel in range(panels):
        for node in range(16):
            x = low + (panel + 0.5 + 0.5 * GL_X[node]) * (high - low) / panels
            chance, _ = likelihood(gain * s * x, spread, cuts, nodes)
            total += 0.5 * (high - low) / panels * GL_W[node] * pdf(x) * chance
    return total


@njit(**OPTIONS)
def _prox_near(slope: Any, curvature: Any, y: Any, omega: Any, v: Any, guess: Any) -> Any:
    """Proximal point of a loss without kinks: plain Newton steps from a guess, a bracketed search where they wander."""
    u = guess
    for _ in range(6):
        step = (u - omega + v * slope(y, u, 0.0)) / (1.0 + v * curvature(y, u, 0.0))
        u -= step
        # The root is unique, and a step this small squares to below rounding.
        if abs(step) <= 1e-7 * (1.0 + abs(u)):
            return u
    return prox_on_piece(slope, curvature, y, omega, v, -math.inf, math.inf, 0.0, guess)


@njit(**OPTIONS)
def trapezoid(
    p: Any, at: Any, y: Any, mean: Any, var: Any, v: Any, cuts: Any, nodes: Any, gain: Any, spread: Any, observe: Any,
    out: Any,
) -> Any:  # fmt: skip
    """Add the averages over omega ~ N(mean, var) to `out`; False, and nothing added, where two grids do not agree.

    The label's probability given omega is 1 without cuts and nodes; its field is N(gain (omega - mean), spread^2).
    """
    bits = p[at : at + FUNCTIONS].view(np.int64)
    value, slope = as_piece(bits[0], bits[1]), as_piece(bits[2], bits[3])
    curvature, roots = as_piece(bits[4], bits[5]), as_roots(bits[6], bits[7])
    width, reach, beta = p[at + WIDTH], p[at + REACH], p[at + BETA]
    s = math.sqrt(var)
    certain = cuts.shape[0] == 0 and nodes.shape[1] == 0
    turn = math.inf if certain or gain == 0.0 else spread / (abs(gain) * s)
    narrow = 1.0 if turn > 1e6 else turn / math.sqrt(1.0 + turn * turn)
    h = min(1.1 * narrow, 0.9 * reach / s, 1.1) * width / _PANEL
    if beta > 0.0:
        h = min(h, 2.0 * math.sqrt(v) / s + 0.3)
    if h < 0.12:
        return False
    # Sums of f, f^2, -f', push f, l(prox) or -ln Z, f'^2, l(omega): over the grids before, and the one between them.
    kept, new, size = np.empty(7), np.empty(7), np.empty(2)
    fill(kept, 0.0)
    fill(new, 0.0)
    fill(size, 0.0)
    for level in range(_HALVINGS):
        # The first two grids are swept as one, whole points in `kept` and half points in `new`: neighbours start the
        # search of the proximal point. Every later grid has the points half way between those of all before.
        if level == 0:
            offset, step, spacing = 0.0, h / 2.0, h
        else:
            offset, step, spacing = 0.5, h / 2.0**level, h / 2.0**level
            fill(new, 0.0)
        count = int(_FAR / step) + 1
        guess, previous, rate, bend = math.nan, 0.0, 0.0, 0.0
        for k in range(-count - 1, count + 1):
            x = (k + offset) * step
            if abs(x) > _FAR:
                continue
            whole = level == 0 and k % 2 == 0
            to = kept if whole else new
            w = spacing * pdf(x)
            chance, push = likelihood(gain * s * x, spread, cuts, nodes)
            if chance == 0.0 and push == 0.0:
                continue
            omega = mean + s * x
            loss = 0.0
            if beta > 0.0:
                f, response, log_z = posterior_moments(value, slope, curvature, roots, y, omega, v, beta, reach)
                loss = -log_z
            else:
                moved = omega - previous
                if guess == guess:
                    u = _prox_near(slope, curvature, y, omega, v, guess + (rate + 0.5 * bend * moved) * moved)
                else:
                    u = prox_on_piece(slope, curvature, y, omega, v, -math.inf, math.inf, 0.0, guess)
                second = curvature(y, u, 0.0)
                response = second / (1.0 + v * second)
                f = (u - omega) / v if v > 1.0 else -slope(y, u, 0.0)
                turned = 1.0 - v * response
                bend = (turned - rate) / moved if guess == guess else 0.0
                guess, previous, rate = u, omega, turned
                if observe:
                    loss = value(y, u, 0.0)
            to[0] += w * chance * f
            to[1] += w * chance * f * f
            to[2] += w * chance * response
            to[3] += w * push * f
            to[4] += w * chance * loss
            to[5] += w * chance * response * response
            if observe:
                to[6] += w * chance * value(y, omega, omega)
            if whole:
                size[0] += w * abs(push * f)
                size[1] += w * chance * abs(loss)
        alike = (
            abs(new[0] - kept[0]) <= _AGREE * math.sqrt(kept[1])
            and abs(new[1] - kept[1]) <= _AGREE * kept[1]
            and abs(new[2] - kept[2]) <= _AGREE * kept[2]
            and abs(new[3] - kept[3]) <= _AGREE * size[0]
            and abs(new[4] - kept[4]) <= _AGREE * size[1]
            and abs(new[5] - kept[5]) <= _AGREE * kept[5]
        )
        for i in range(7):
            kept[i] = 0.5 * (kept[i] + new[i])
        if alike:
            out[0] += kept[0]
            out[1] += kept[1]
            out[2] += kept[2]
            out[3] += kept[4]
            out[4] += kept[6]
            out[5] += kept[3]
            out[7] += kept[5]
            if observe:
                out[6] += wrong_side(y, mean, s, cuts, nodes, gain, spread)
            return True
    return False


@njit(**OPTIONS)
def panels(
    p: Any, at: Any, y: Any, mean: Any, var: Any, v: Any, cuts: Any, nodes: Any, gain: Any, spread: Any, out: Any
) -> None:  # fmt: skip
    """The same by panels between kink images, kinks, sign changes and cuts: any force, any label, all averages."""
    bits = p[at : at + FUNCTIONS].view(np.int64)
    value, slope = as_piece(bits[0], bits[1]), as_piece(bits[2], bits[3])
    curvature, roots = as_piece(bits[4], bits[5]), as_roots(bits[6], bits[7])
    width, reach, beta = p[at + WIDTH], p[at + REACH], p[at + BETA]
    s = math.sqrt(var)
    kinks, images = np.empty(MAX_KINKS), np.empty(2 * MAX_KINKS)
    number = roots(y, kinks)
    marks, merged = np.empty(4 + 3 * MAX_KINKS + 10 * cuts.shape[0]), np.empty(MAX_KINKS)
    marks[0], marks[1], filled = -TAIL, TAIL, 2
    for k in range(number):
        merged[k] = kinks[k]
    found = kink_images(slope, y, v if beta == 0.0 else beta * v, merged, number, images)
    for k in range(found + number + 1):
        point = images[k] if k < found else (kinks[k - found] if k < found + number else 0.0)
        scaled = (point - mean) / s
        if -TAIL < scaled < TAIL:
            marks[filled] = scaled
            filled += 1
    certain = cuts.shape[0] == 0 and nodes.shape[1] == 0
    turn = math.inf if certain or gain == 0.0 else spread / (abs(gain) * s)
    if turn < 0.5:
        for i in range(cuts.shape[0]):
            for side in range(2):
                for shift in range(SHIFTS.size):
                    there = cuts[i, side] / (gain * s) + SHIFTS[shift] * turn
                    if -TAIL < there < TAIL:
                        marks[filled] = there
                        filled += 1
    ends = marks
    sort(ends, filled)
    for j in range(filled - 1):
        length = ends[j + 1] - ends[j]
        if length <= 1e-15:
            continue
        fine = min(width, reach / s)
        if beta > 0.0:
            fine = min(fine, 2.0 * math.sqrt(v) / s + 0.1)
        if turn < math.inf:
            close = turn >= 0.5 or cuts.shape[0] == 0
            middle = 0.5 * (ends[j] + ends[j + 1])
            for i in range(cuts.shape[0]):
                for side in range(2):
                    if math.isfinite(cuts[i, side]):
                        close = close or abs(middle - cuts[i, side] / (gain * s)) < 9.0 * turn + 0.5 * length
            if close:
                fine = min(fine, 1.5 * turn)
        count = min(int(length / fine) + 1, 4000)
        step = length / count
        for panel in range(count):
            for node in range(16):
                x = ends[j] + (panel + 0.5 + 0.5 * GL_X[node]) * step
                w = 0.5 * step * GL_W[node] * pdf(x)
                chance, push = likelihood(gain * s * x, spread, cuts, nodes)
                if chance == 0.0 and push == 0.0:
                    continue
                omega = mean + s * x
                if beta > 0.0:
                    f, response, log_z = posterior_moments(value, slope, curvature, roots, y, omega, v, beta, reach)
                    loss = -log_z
                else:
                    u = prox(slope, curvature, roots, y, omega, v)
                    f = (u - omega) / v
                    resting = False
                    for k in range(number):
                        resting = resting or u == kinks[k]
                    second = curvature(y, u, u)
                    response = 1.0 / v if resting else second / (1.0 + v * second)
                    loss = value(y, u, u)
                out[0] += w * chance * f
                out[1] += w * chance * f * f
                out[2] += w * chance * response
                out[3] += w * chance * loss
                out[4] += w * chance * value(y, omega, omega)
                out[5] += w * push * f
                if y * omega < 0.0:
                    out[6] += w * chance
                out[7] += w * chance * response * response
