"""Rules for averages of a force over one Gaussian field and one label: closed forms, trapezoidal rules, panels.

All add to ``out``: E f, E f^2, -E f', E l(prox), E l(omega), E d_t f, P(sign of omega differs from y), E (f')^2.
The label holds with certainty, between cuts of a field t (`between`), or with probabilities known at nodes of t
(`tabulated`); t is N(gain (omega - mean), spread^2) given omega. Compiled code does not follow imports: who edits
`numerics.proximal` must touch this file.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .jit import njit, types
from .proximal import (
    GL_W,
    GL_X,
    MAX_KINKS,
    PIECE_TYPE,
    ROOTS_TYPE,
    TAIL,
    kink_images,
    posterior_moments,
    prox,
    prox_on_piece,
)  # fmt: skip

__all__ = ["between", "closed", "panels", "tabulated", "trapezoid", "wrong_side"]

_F8, _I8, _B, _V, _M = types.float64, types.int64, types.boolean, types.float64[::1], types.float64[:, ::1]
# Two trapezoidal rules that differ by less have a mean that is exact to rounding; halvings before panels take over.
_AGREE, _HALVINGS = 2e-7, 4
_PANEL, _REACH = 0.75, 8.6


@njit(_F8(_F8), cache=True)
def _cdf(x: Any) -> Any:
    return 0.5 * math.erfc(-0.7071067811865476 * x)


@njit(_F8(_F8), cache=True)
def _pdf(x: Any) -> Any:
    return 0.3989422804014327 * math.exp(-0.5 * x * x)


@njit(types.UniTuple(_F8, 3)(_F8, _F8), cache=True, error_model="numpy")
def _moments(a: Any, b: Any) -> Any:
    """Integrals of 1, x, x^2 over a < x < b, x standard normal; the ends may be infinite."""
    mass = _cdf(b) - _cdf(a) if a < 0.0 else _cdf(-a) - _cdf(-b)
    low, high = _pdf(a), _pdf(b)
    second = mass
    if math.isfinite(a):
        second += a * low
    if math.isfinite(b):
        second -= b * high
    return mass, low - high, second


@njit(
    types.void(PIECE_TYPE, PIECE_TYPE, PIECE_TYPE, ROOTS_TYPE, _F8, _F8, _F8, _F8, _B, _V), cache=True,
    error_model="numpy",
)  # fmt: skip
def closed(
    value: Any, slope: Any, curvature: Any, roots: Any, y: Any, mean: Any, var: Any, v: Any, observe: Any, out: Any,
) -> None:  # fmt: skip
    """Averages for a slope that is affine on every piece: truncated normal moments."""
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
        a = -np.inf if j == 0 else (images[2 * j - 1] - mean) / s
        b = np.inf if j == count else (images[2 * j] - mean) / s
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
            a = -np.inf if j == 0 else (kinks[j - 1] - mean) / s
            b = np.inf if j == count else (kinks[j] - mean) / s
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


@njit(types.UniTuple(_F8, 2)(_F8, _F8, _M), cache=True, error_model="numpy")
def between(here: Any, spread: Any, cuts: Any) -> Any:
    """P of the rows (low, high, weight) for a field N(here, spread^2), and its derivative in `here`."""
    chance = push = 0.0
    for i in range(cuts.shape[0]):
        a, b = (cuts[i, 0] - here) / spread, (cuts[i, 1] - here) / spread
        chance += cuts[i, 2] * (_cdf(b) - _cdf(a) if a < 0.0 else _cdf(-a) - _cdf(-b))
        push += cuts[i, 2] * (_pdf(a) - _pdf(b)) / spread
    return chance, push


@njit(types.UniTuple(_F8, 2)(_F8, _F8, _V, _V, _V, _B), cache=True, error_model="numpy")
def tabulated(here: Any, spread: Any, weights: Any, fields: Any, plus: Any, positive: Any) -> Any:
    """The same for probabilities known at nodes of the field, whose own normal weight the `weights` have lost."""
    chance = push = 0.0
    scale = 0.3989422804014327 / spread
    for j in range(fields.size):
        x = (fields[j] - here) / spread
        if abs(x) < TAIL:
            w = weights[j] * scale * math.exp(-0.5 * x * x) * (plus[j] if positive else 1.0 - plus[j])
            chance += w
            push += w * x / spread
    return chance, push


@njit(_F8(_F8, _F8, _F8, _M, _V, _V, _V, _B, _F8, _F8), cache=True, error_model="numpy")
def wrong_side(
    y: Any, mean: Any, s: Any, cuts: Any, weights: Any, fields: Any, plus: Any, positive: Any, gain: Any, spread: Any
) -> Any:
    """Probability that omega ~ N(mean, s^2) has the label y and the other sign."""
    if y == 0.0:
        return 0.0
    edge = -mean / s
    if cuts.shape[0] == 0 and fields.size == 0:
        return _cdf(edge) if y > 0.0 else _cdf(-edge)
    low, high = (-TAIL, min(edge, TAIL)) if y > 0.0 else (max(edge, -TAIL), TAIL)
    if high <= low:
        return 0.0
    turn = spread / (abs(gain) * s) if gain != 0.0 else np.inf
    panels = int((high - low) / min(1.5, 1.5 * turn)) + 1
    total = 0.0
    for panel in range(panels):
        for node in range(16):
            x = low + (panel + 0.5 + 0.5 * GL_X[node]) * (high - low) / panels
            if cuts.shape[0] > 0:
                chance = between(gain * s * x, spread, cuts)[0]
            else:
                chance = tabulated(gain * s * x, spread, weights, fields, plus, positive)[0]
            total += 0.5 * (high - low) / panels * GL_W[node] * _pdf(x) * chance
    return total


@njit(_F8(PIECE_TYPE, PIECE_TYPE, _F8, _F8, _F8, _F8), cache=True, error_model="numpy")
def _prox_near(slope: Any, curvature: Any, y: Any, omega: Any, v: Any, guess: Any) -> Any:
    """Proximal point of a loss without kinks: plain Newton steps from a guess, a bracketed search where they wander."""
    u = guess
    for _ in range(6):
        step = (u - omega + v * slope(y, u, 0.0)) / (1.0 + v * curvature(y, u, 0.0))
        u -= step
        # The root is unique, and a step this small squares to below rounding.
        if abs(step) <= 1e-7 * (1.0 + abs(u)):
            return u
    return prox_on_piece(slope, curvature, y, omega, v, -np.inf, np.inf, 0.0, guess)


@njit(
    _B(PIECE_TYPE, PIECE_TYPE, PIECE_TYPE, ROOTS_TYPE, _F8, _F8, _F8, _F8, _F8, _F8, _F8, _M, _V, _V, _V, _B, _F8, _F8,
       _B, _V),
    cache=True,
    error_model="numpy",
)  # fmt: skip
def trapezoid(
    value: Any, slope: Any, curvature: Any, roots: Any, y: Any, mean: Any, var: Any, v: Any, beta: Any, reach: Any,
    width: Any, cuts: Any, weights: Any, fields: Any, plus: Any, positive: Any, gain: Any, spread: Any, observe: Any,
    out: Any,
) -> Any:  # fmt: skip
    """Add the averages over omega ~ N(mean, var) to `out`; False, and nothing added, where two grids do not agree.

    The label's probability given omega is 1 without cuts and fields; its field is N(gain (omega - mean), spread^2).
    """
    s = math.sqrt(var)
    certain = cuts.shape[0] == 0 and fields.size == 0
    turn = np.inf if certain or gain == 0.0 else spread / (abs(gain) * s)
    narrow = 1.0 if turn > 1e6 else turn / math.sqrt(1.0 + turn * turn)
    h = min(1.1 * narrow, 0.9 * reach / s, 1.1) * width / _PANEL
    if beta > 0.0:
        h = min(h, 2.0 * math.sqrt(v) / s + 0.3)
    if h < 0.12:
        return False
    # Sums of f, f^2, -f', push f, l(prox) or -ln Z, f'^2, l(omega): over the grids before, and the one between them.
    kept, new, size = np.zeros(7), np.zeros(7), np.zeros(2)
    for level in range(_HALVINGS):
        # The first two grids are swept as one, whole points in `kept` and half points in `new`: neighbours start the
        # search of the proximal point. Every later grid has the points half way between those of all before.
        if level == 0:
            offset, step, spacing = 0.0, h / 2.0, h
        else:
            offset, step, spacing = 0.5, h / 2.0**level, h / 2.0**level
            new[:] = 0.0
        count = int(_REACH / step) + 1
        guess, previous, rate, bend = math.nan, 0.0, 0.0, 0.0
        for k in range(-count - 1, count + 1):
            x = (k + offset) * step
            if abs(x) > _REACH:
                continue
            whole = level == 0 and k % 2 == 0
            to = kept if whole else new
            w = spacing * _pdf(x)
            chance, push = 1.0, 0.0
            if cuts.shape[0] > 0:
                chance, push = between(gain * s * x, spread, cuts)
            elif fields.size > 0:
                chance, push = tabulated(gain * s * x, spread, weights, fields, plus, positive)
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
                    u = prox_on_piece(slope, curvature, y, omega, v, -np.inf, np.inf, 0.0, guess)
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
        kept = 0.5 * (kept + new)
        if alike:
            out[0] += kept[0]
            out[1] += kept[1]
            out[2] += kept[2]
            out[3] += kept[4]
            out[4] += kept[6]
            out[5] += kept[3]
            out[7] += kept[5]
            if observe:
                out[6] += wrong_side(y, mean, s, cuts, weights, fields, plus, positive, gain, spread)
            return True
    return False


@njit(
    types.void(PIECE_TYPE, PIECE_TYPE, PIECE_TYPE, ROOTS_TYPE, _F8, _F8, _F8, _F8, _F8, _F8, _F8, _M, _V, _V, _V, _B,
               _F8, _F8, _V),
    cache=True,
    error_model="numpy",
)  # fmt: skip
def panels(
    value: Any, slope: Any, curvature: Any, roots: Any, y: Any, mean: Any, var: Any, v: Any, beta: Any, reach: Any,
    width: Any, cuts: Any, weights: Any, fields: Any, plus: Any, positive: Any, gain: Any, spread: Any, out: Any,
) -> None:  # fmt: skip
    """The same by panels between kink images, kinks, sign changes and cuts: any force, any label, all averages."""
    s = math.sqrt(var)
    kinks, images = np.empty(MAX_KINKS), np.empty(2 * MAX_KINKS)
    number = roots(y, kinks)
    marks = np.empty(4 + 3 * number + 10 * cuts.shape[0])
    marks[0], marks[1], filled = -TAIL, TAIL, 2
    found = kink_images(slope, y, v if beta == 0.0 else beta * v, kinks.copy(), number, images)
    for k in range(found + number + 1):
        point = images[k] if k < found else (kinks[k - found] if k < found + number else 0.0)
        scaled = (point - mean) / s
        if -TAIL < scaled < TAIL:
            marks[filled] = scaled
            filled += 1
    certain = cuts.shape[0] == 0 and fields.size == 0
    turn = np.inf if certain or gain == 0.0 else spread / (abs(gain) * s)
    if turn < 0.5:
        for i in range(cuts.shape[0]):
            for side in range(2):
                for shift in (-9.0, -3.0, 0.0, 3.0, 9.0):
                    at = cuts[i, side] / (gain * s) + shift * turn
                    if -TAIL < at < TAIL:
                        marks[filled] = at
                        filled += 1
    ends = np.sort(marks[:filled])
    for j in range(filled - 1):
        length = ends[j + 1] - ends[j]
        if length <= 1e-15:
            continue
        fine = min(width, reach / s)
        if beta > 0.0:
            fine = min(fine, 2.0 * math.sqrt(v) / s + 0.1)
        if turn < np.inf:
            close = turn >= 0.5 or cuts.shape[0] == 0
            middle = 0.5 * (ends[j] + ends[j + 1])
            for i in range(cuts.shape[0]):
                for side in range(2):
                    if math.isfinite(cuts[i, side]):
                        close = close or abs(middle - cuts[i, side] / (gain * s)) < 9.0 * turn + 0.5 * length
            if close:
                fine = min(fine, 1.5 * turn)
        panels = min(int(length / fine) + 1, 4000)
        step = length / panels
        for panel in range(panels):
            for node in range(16):
                x = ends[j] + (panel + 0.5 + 0.5 * GL_X[node]) * step
                w = 0.5 * step * GL_W[node] * _pdf(x)
                chance, push = 1.0, 0.0
                if cuts.shape[0] > 0:
                    chance, push = between(gain * s * x, spread, cuts)
                elif fields.size > 0:
                    chance, push = tabulated(gain * s * x, spread, weights, fields, plus, positive)
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
