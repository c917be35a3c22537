"""Proximal points of a convex function with kinks, and their averages over a Gaussian field, compiled once for all.

The function is handed over as compiled values: ``value``, ``slope`` and ``curvature`` with the first-class type
``f8(y, u, r)``, r any point inside the piece on which they are meant, and ``roots(y, out) -> count``, the sorted kinks
(`dimladder.symbolic.pieces` prints them from a formula). A new function costs only its own compilation.

For fields omega and a response V > 0 the proximal point is argmin_u l(u) + (u - omega)^2/(2 V), the force is
f = (prox - omega)/V, and -df/domega = l''/(1 + V l''), or 1/V where prox rests on a kink.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import native
from .addresses import FromAddresses, packed
from .basics import GL_W, GL_X, OPTIONS, cdf, fill, pdf, sort
from .native import njit

PIECE_TYPE = native.value_type("as_piece", "PIECE", "f8(f8, f8, f8)")
ROOTS_TYPE = native.value_type("as_roots", "ROOTS", "i8(f8, f8[::1])")
as_piece, as_roots = FromAddresses(PIECE_TYPE), FromAddresses(ROOTS_TYPE)

__all__ = [
    "FUNCTIONS",
    "MAX_KINKS",
    "PIECE_TYPE",
    "ROOTS_TYPE",
    "averages",
    "node_averages",
    "posterior_moments",
    "prox",
    "prox_many",
    "several",
    "together",
]

# The normal weight beyond is below 1e-20 of the whole.
TAIL = 9.5
MAX_KINKS = 16
GRADED = 12
# Numbers that the addresses of a function's four parts take in a vector of parameters.
FUNCTIONS = 8
# Where the turning of a label gets marks, in units of its width.
SHIFTS = np.array([-9.0, -3.0, 0.0, 3.0, 9.0])


def together(module: Any) -> NDArray[np.float64]:
    """Return the addresses of ``value``, ``slope``, ``curvature`` and ``roots`` as a vector of `FUNCTIONS` numbers.

    The caller keeps `module` alive.
    """
    functions = [(getattr(module, name), PIECE_TYPE) for name in ("value", "slope", "curvature")]
    return packed([*functions, (module.roots, ROOTS_TYPE)])


@njit(**OPTIONS)
def prox_on_piece(
    slope: Any, curvature: Any, y: Any, omega: Any, v: Any, low: Any, high: Any, r: Any, guess: Any
) -> Any:
    """Solve u - omega + V l'(u) = 0 on the piece (low, high) that is known to hold the root.

    The root lies between o and omega - V l'(o), o = omega clipped to the piece, because l' increases. Newton's method
    inside that bracket, bisection where a step leaves it or fails to halve the last one.
    """
    o = min(max(omega, low), high)
    force = v * slope(y, o, r)
    t = omega - force
    if not math.isfinite(t):
        # The slope overflows at o: walk towards the root until it does not.
        if force != force:
            return math.nan
        direction = -1.0 if force > 0.0 else 1.0
        size = 1.0
        t = o + direction * size
        while size < 1e18:
            t = min(max(o + direction * size, low), high)
            gap = t - omega + v * slope(y, t, r)
            if math.isfinite(gap) and gap * direction >= 0.0:
                break
            if t <= low or t >= high:
                break
            size *= 2.0
    t = min(max(t, low), high)
    a, b = min(o, t), max(o, t)
    u = min(max(guess, a), b) if guess == guess else 0.5 * (a + b)
    last = b - a
    for _ in range(200):
        s = slope(y, u, r)
        gap = u - omega + v * s
        if gap == 0.0:
            return u
        if gap > 0.0:
            b = u
        else:
            a = u
        step = -gap / (1.0 + v * curvature(y, u, r))
        new = u + step
        if not (a <= new <= b) or abs(step) > 0.5 * last or not math.isfinite(step):
            new = 0.5 * (a + b)
            step = new - u
        if abs(step) <= 4e-16 * (abs(new) + 1e-300) or new == u:
            return new
        # A Newton step this small squares to below rounding.
        if abs(step) <= 1e-9 * abs(new):
            bend = v * curvature(y, new, r)
            if bend >= 0.0:
                final = new - (new - omega + v * slope(y, new, r)) / (1.0 + bend)
                return final if a <= final <= b else new
        last, u = abs(step), new
    return u


@njit(**OPTIONS)
def kink_images(slope: Any, y: Any, v: Any, kinks: Any, count: Any, images: Any) -> Any:
    """Fill `images` with the fields between which prox rests on each kink; return their number, twice the kinks'.

    `kinks` holds sorted roots; coinciding ones are merged in place. The number of kinks left is half the answer.
    """
    kept = 0
    for k in range(count):
        if kept == 0 or kinks[k] > kinks[kept - 1] + 1e-14 * (1.0 + abs(kinks[k])):
            kinks[kept] = kinks[k]
            kept += 1
    for k in range(kept):
        below = kinks[k] - 1.0 if k == 0 else 0.5 * (kinks[k - 1] + kinks[k])
        above = kinks[k] + 1.0 if k == kept - 1 else 0.5 * (kinks[k] + kinks[k + 1])
        images[2 * k] = kinks[k] + v * slope(y, kinks[k], below)
        images[2 * k + 1] = kinks[k] + v * slope(y, kinks[k], above)
    return 2 * kept


@njit(**OPTIONS)
def prox(slope: Any, curvature: Any, roots: Any, y: Any, omega: Any, v: Any) -> Any:
    """Return argmin_u l(y, u) + (u - omega)^2/(2 V)."""
    kinks, images = np.empty(MAX_KINKS), np.empty(2 * MAX_KINKS)
    count = kink_images(slope, y, v, kinks, roots(y, kinks), images) // 2
    for k in range(count):
        if omega < images[2 * k]:
            low = -math.inf if k == 0 else kinks[k - 1]
            r = kinks[0] - 1.0 if k == 0 else 0.5 * (kinks[k - 1] + kinks[k])
            return prox_on_piece(slope, curvature, y, omega, v, low, kinks[k], r, math.nan)
        if omega <= images[2 * k + 1]:
            return kinks[k]
    low = kinks[count - 1] if count else -math.inf
    r = kinks[count - 1] + 1.0 if count else 0.0
    return prox_on_piece(slope, curvature, y, omega, v, low, math.inf, r, math.nan)


@njit(**OPTIONS)
def averages(
    value: Any, slope: Any, curvature: Any, roots: Any, y: Any, mean: Any, var: Any, v: Any, width: Any,
    cuts: Any, centre: Any, gain: Any, spread: Any, out: Any,
) -> None:  # fmt: skip
    """Average over omega ~ N(mean, var), weighed by the probability of the label y given omega.

    The probability is 1 where `cuts` is empty. Otherwise the label holds between the cuts, rows (low, high, sign), of a
    field N(centre + gain (omega - mean), spread^2).

    Parameters
    ----------
    width : float
        Panel width in standard deviations.
    out : array, shape (7,)
        Added to: E f, E f^2, E -f', E l(prox), E l(omega), E d_centre P f, and the mass of omega with sign(omega) != y.
    """
    s = math.sqrt(var)
    kinks, images = np.empty(MAX_KINKS), np.empty(2 * MAX_KINKS)
    number = roots(y, kinks)
    raw = np.empty(MAX_KINKS)
    for k in range(number):
        raw[k] = kinks[k]
    number_images = kink_images(slope, y, v, kinks, number, images)
    count = number_images // 2
    # Ends of the panels, in standard deviations: images of the kinks, the kinks themselves (for the loss of omega),
    # zero (for the sign), and the cuts of the label where it turns over a width less than one.
    marks = np.empty(4 + 3 * MAX_KINKS + 10 * cuts.shape[0])
    marks[0], marks[1] = -TAIL, TAIL
    filled = 2
    for k in range(number_images + number + 1):
        point = images[k] if k < number_images else (raw[k - number_images] if k < number_images + number else 0.0)
        scaled = (point - mean) / s
        if -TAIL < scaled < TAIL:
            marks[filled] = scaled
            filled += 1
    turn = spread / (abs(gain) * s) if cuts.shape[0] > 0 and gain != 0.0 else math.inf
    if turn < 0.5:
        for i in range(cuts.shape[0]):
            for side in range(2):
                if math.isfinite(cuts[i, side]):
                    there = (cuts[i, side] - centre) / (gain * s)
                    for shift in range(SHIFTS.size):
                        at = there + SHIFTS[shift] * turn
                        if -TAIL < at < TAIL:
                            marks[filled] = at
                            filled += 1
    ends = marks
    sort(ends, filled)
    # Beyond the marks the label is constant to rounding; within, panels follow its turning.
    guess, previous, rate = math.nan, 0.0, 0.0
    for j in range(filled - 1):
        length = ends[j + 1] - ends[j]
        if length <= 1e-15:
            continue
        middle = 0.5 * (ends[j] + ends[j + 1])
        at = mean + s * middle
        # Which piece, or which kink, holds prox on this stretch.
        piece, resting = count, -1
        for k in range(count):
            if at < images[2 * k]:
                piece = k
                break
            if at <= images[2 * k + 1]:
                resting = k
                break
        low = -math.inf if piece == 0 else kinks[piece - 1]
        high = math.inf if piece == count else kinks[piece]
        if count == 0:
            r = 0.0
        elif piece == 0:
            r = high - 1.0
        elif piece == count:
            r = low + 1.0
        else:
            r = 0.5 * (low + high)
        # An affine slope between kinks gives the proximal point in closed form.
        affine, a0, a1 = False, 0.0, 0.0
        if resting < 0 and count > 0:
            a0, a1 = slope(y, 0.0, r), curvature(y, 0.0, r)
            affine = curvature(y, at, r) == a1 and curvature(y, at + 1.0, r) == a1
        fine = width
        if turn < 0.5:
            for i in range(cuts.shape[0]):
                for side in range(2):
                    if math.isfinite(cuts[i, side]):
                        there = (cuts[i, side] - centre) / (gain * s)
                        if abs(middle - there) < 9.0 * turn + 0.5 * length:
                            fine = min(fine, 1.5 * turn)
        elif turn < math.inf:
            fine = min(fine, 1.5 * turn)
        panels = min(int(length / fine) + 1, 4000)
        # A curved piece has a branch point close beyond its kink when V is large: panels halve towards both ends.
        halvings = GRADED if resting < 0 and count > 0 and not affine else 0
        if halvings > 0:
            panels = max(panels, 2)
        first, step = ends[j], length / panels
        for panel in range(panels + 2 * halvings):
            if panel <= halvings:
                wide = step if halvings == 0 else step * 0.5 ** (halvings - max(panel - 1, 0))
            elif panel < panels + halvings - 1:
                wide = step
            else:
                wide = step * 0.5 ** min(panel - panels - halvings + 2, halvings)
            centre_x = first + 0.5 * wide if halvings > 0 else ends[j] + (panel + 0.5) * step
            first += wide
            for node in range(16):
                x = centre_x + 0.5 * wide * GL_X[node]
                weight = 0.5 * wide * GL_W[node] * pdf(x)
                omega = mean + s * x
                chance, push = 1.0, 0.0
                if cuts.shape[0] > 0:
                    chance = 0.0
                    for i in range(cuts.shape[0]):
                        here = centre + gain * s * x
                        a, b = (cuts[i, 0] - here) / spread, (cuts[i, 1] - here) / spread
                        share = cdf(b) - cdf(a) if a < 0.0 else cdf(-a) - cdf(-b)
                        chance += cuts[i, 2] * share
                        push += cuts[i, 2] * (pdf(a) - pdf(b)) / spread
                if chance == 0.0 and push == 0.0:
                    continue
                if resting >= 0:
                    u = kinks[resting]
                    f, response = (u - omega) / v, 1.0 / v
                    # Either side of the kink has the same value.
                    loss = value(y, u, u + 1.0)
                    guess = math.nan
                elif affine:
                    u = (omega - v * a0) / (1.0 + v * a1)
                    f, response = -(a0 + a1 * u), a1 / (1.0 + v * a1)
                    loss = value(y, u, r)
                    guess = math.nan
                else:
                    start = guess + rate * (omega - previous) if guess == guess else math.nan
                    u = prox_on_piece(slope, curvature, y, omega, v, low, high, r, start)
                    second = curvature(y, u, r)
                    f, response = -slope(y, u, r), second / (1.0 + v * second)
                    loss = value(y, u, r)
                    guess, previous, rate = u, omega, 1.0 - v * response
                out[0] += weight * chance * f
                out[1] += weight * chance * f * f
                out[2] += weight * chance * response
                out[3] += weight * chance * loss
                out[4] += weight * chance * value(y, omega, omega)
                out[5] += weight * push * f
                if y * omega < 0.0:
                    out[6] += weight * chance


@njit("void(f8[::1], f8, f8[::1], f8, f8[::1])", **OPTIONS)
def prox_many(loss: Any, y: Any, omega: Any, v: Any, out: Any) -> None:
    """Fill `out` with the proximal points of many fields for one label; `loss` as `together` makes it."""
    bits = loss.view(np.int64)
    slope, curvature, roots = as_piece(bits[2], bits[3]), as_piece(bits[4], bits[5]), as_roots(bits[6], bits[7])
    for i in range(omega.size):
        out[i] = prox(slope, curvature, roots, y, omega[i], v)


@njit("void(f8[::1], i8, f8, f8[::1], f8[::1])", **OPTIONS)
def several(loss: Any, which: Any, y: Any, u: Any, out: Any) -> None:
    """Fill `out` with values (`which` = 0), slopes (1) or curvatures (2) for one label, each on the piece of its u."""
    bits = loss.view(np.int64)
    part = as_piece(bits[2 * which], bits[2 * which + 1])
    for i in range(u.size):
        out[i] = part(y, u[i], u[i])


@njit("void(f8[::1], f8[::1], f8[::1], f8, f8, f8, f8, f8[:, ::1])", **OPTIONS)
def node_averages(
    loss: Any, labels: Any, means: Any, var: Any, v: Any, width: Any, reach: Any, out: Any
) -> None:  # fmt: skip
    """Fill row i of `out`, shape (N, 7), with `averages` of the certain label labels[i] over N(means[i], var)."""
    bits = loss.view(np.int64)
    value, slope = as_piece(bits[0], bits[1]), as_piece(bits[2], bits[3])
    curvature, roots = as_piece(bits[4], bits[5]), as_roots(bits[6], bits[7])
    none = np.empty((0, 3))
    for i in range(labels.size):
        fill(out[i], 0.0)
        averages(
            value, slope, curvature, roots, labels[i], means[i], var, v, min(width, reach / math.sqrt(var)), none, 0.0,
            0.0, 1.0, out[i],
        )  # fmt: skip


@njit(**OPTIONS)
def posterior_moments(
    value: Any, slope: Any, curvature: Any, roots: Any, y: Any, omega: Any, v: Any, beta: Any, reach: Any
) -> Any:
    """Return f, -df/domega and ln Z of exp(-beta l(y, u)) N(u; omega, V).

    Panels march from the most probable field to either side, no longer than the density's local scale, and end at the
    kinks of the loss.
    """
    kinks = np.empty(MAX_KINKS)
    count = roots(y, kinks)
    centre = prox(slope, curvature, roots, y, omega, beta * v)
    top = -beta * value(y, centre, centre) - (centre - omega) ** 2 / (2.0 * v)
    total = first = second = 0.0
    for side in range(2):
        direction = 1.0 if side == 0 else -1.0
        at = centre
        for _ in range(400):
            # The kink that ends this piece, and a point inside it.
            end = direction * math.inf
            for k in range(count):
                ahead = direction * (kinks[k] - at)
                if ahead > 1e-13 * (1.0 + abs(at)) and ahead < direction * (end - at):
                    end = kinks[k]
            inside = at + direction * min(1e-3 * math.sqrt(v), 0.5 * direction * (end - at))
            drift = abs(beta * slope(y, at, inside) + (at - omega) / v)
            sharp = 1.0 / v + max(beta * curvature(y, at, inside), 0.0)
            step = min(2.0 / math.sqrt(sharp), 3.0 * reach)
            if drift > 0.0:
                step = min(step, 6.0 / drift)
            step = min(step, direction * (end - at))
            for node in range(16):
                offset = at + direction * 0.5 * step * (1.0 + GL_X[node])
                cost = -beta * value(y, offset, inside) - (offset - omega) ** 2 / (2.0 * v) - top
                w = 0.5 * step * GL_W[node] * math.exp(min(cost, 700.0))
                total += w
                first += w * (offset - centre)
                second += w * (offset - centre) ** 2
            at += direction * step
            cost = -beta * value(y, at, at) - (at - omega) ** 2 / (2.0 * v) - top
            if not cost > -42.0:
                break
    shift = first / total
    variance = second / total - shift * shift
    log_z = math.log(total / math.sqrt(2.0 * math.pi * v)) + top
    return (centre + shift - omega) / v, (v - variance) / (v * v), log_z
