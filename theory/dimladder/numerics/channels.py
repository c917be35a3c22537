"""Channels of scalar estimators: averages of the force over the field and the label, as one compiled function.

A channel is ``f8 V, f8 q, f8 m, f8 b, data, out -> void``: fields omega ~ N(b, q) with E[omega z] = m, z ~ N(0, rho)
the latent field of the label. `data` holds what `pack` wrote: the loss as addresses of its compiled pieces, the label
law as a mixture of components. `out` receives E f, E f^2, -E f', E d_z f, the mean loss of training and of fresh
samples, the probability of sign(omega) != y, and E (f')^2.

The force is that of a minimiser, f = (prox - omega)/V, or of a posterior exp(-beta l(y, u)) N(u; omega, V),
f = (<u> - omega)/V. Smooth averages are trapezoidal rules on two interleaved grids that must agree: their mean is
accurate to the square of their difference. Elsewhere panels of Gauss-Legendre nodes end at kinks and cuts
(`numerics.proximal`; who edits that file must touch this one, compiled code does not follow imports).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .addresses import from_addresses_of, packed
from .jit import njit, types
from .proximal import GL_W, GL_X, MAX_KINKS, PIECE_TYPE, ROOTS_TYPE, TAIL, averages, kink_images, prox, prox_on_piece

__all__ = [
    "AVERAGES", "CHANCES", "CHANNEL_TYPE", "NODES", "RESIDUAL", "THRESHOLDS", "channel", "log_evidence", "pack",
]  # fmt: skip

_F8, _V, _M, _B = types.float64, types.float64[::1], types.float64[:, ::1], types.boolean
CHANNEL_TYPE = types.FunctionType(types.void(_F8, _F8, _F8, _F8, _V, _V))
as_piece, as_roots = from_addresses_of(PIECE_TYPE), from_addresses_of(ROOTS_TYPE)

AVERAGES = 8
# Slots of the data: pieces of the loss (bits of addresses), then these.
WIDTH, REACH, RHO, SMOOTH, BETA, OBSERVE, COUNT = range(8, 15)
HEADER = 15
# Kinds of components; each block begins with size, kind, probability, gain, variance of its field t.
RESIDUAL, THRESHOLDS, NODES, CHANCES = range(4)
BLOCK = 5
# Two trapezoidal rules that differ by less have a mean that is exact to rounding; halvings before panels take over.
_AGREE, _HALVINGS = 2e-7, 4
_PANEL = 0.75


def pack(
    pieces: Any, components: Sequence[tuple[int, float, float, float, Sequence[Any]]], *, width: float, reach: float,
    rho: float, smooth: bool, beta: float = 0.0, observe: bool = False,
) -> NDArray[np.float64]:  # fmt: skip
    """Return the data of a channel.

    Parameters
    ----------
    pieces : module
        Compiled ``value``, ``slope``, ``curvature`` and ``roots`` of the loss; the caller keeps it alive.
    components : sequence of (kind, probability, gain, variance, content)
        ``RESIDUAL``: slope, intercept, outer variance. ``THRESHOLDS``: mirrored, labels, offsets, table.
        ``NODES``: residual, noise variance, weights, fields, labels. ``CHANCES``: weights, fields, P(y = 1).
    width, reach : float
        Panel width in standard deviations, and in units of the field.
    smooth : bool
        Whether the loss has no kinks.
    beta : float
        Inverse temperature; 0 is the minimiser.
    observe : bool
        Whether losses and the sign error are wanted.
    """
    functions = [(getattr(pieces, name), PIECE_TYPE) for name in ("value", "slope", "curvature")]
    header = [width, reach, rho, float(smooth), beta, float(observe), float(len(components))]
    blocks = []
    for kind, probability, gain, variance, content in components:
        parts = [np.atleast_1d(np.asarray(part, dtype=float)).ravel() for part in content]
        if kind == THRESHOLDS:
            parts.insert(1, np.array([float(parts[1].size), float(parts[3].size // 3)]))
        elif kind == NODES:
            parts.insert(2, np.array([float(parts[2].size)]))
        elif kind == CHANCES:
            parts.insert(0, np.array([float(parts[0].size)]))
        body = np.concatenate(parts)
        blocks.append(np.concatenate([[BLOCK + body.size, kind, probability, gain, variance], body]))
    return np.concatenate([packed([*functions, (pieces.roots, ROOTS_TYPE)]), header, *blocks])


@njit(types.UniTuple(_F8, 3)(PIECE_TYPE, PIECE_TYPE, PIECE_TYPE, ROOTS_TYPE, _F8, _F8, _F8, _F8, _F8), cache=True,
      error_model="numpy")  # fmt: skip
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
            end = direction * np.inf
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


@njit(_F8(_F8), cache=True)
def _cdf(x: Any) -> Any:
    return 0.5 * math.erfc(-0.7071067811865476 * x)


@njit(types.UniTuple(_F8, 2)(_F8, _F8, _M), cache=True, error_model="numpy")
def _between(here: Any, spread: Any, cuts: Any) -> Any:
    """P of the rows (low, high, weight) for a field N(here, spread^2), and its derivative in `here`."""
    chance = push = 0.0
    for i in range(cuts.shape[0]):
        a, b = (cuts[i, 0] - here) / spread, (cuts[i, 1] - here) / spread
        chance += cuts[i, 2] * (_cdf(b) - _cdf(a) if a < 0.0 else _cdf(-a) - _cdf(-b))
        push += cuts[i, 2] * 0.3989422804014327 * (math.exp(-0.5 * a * a) - math.exp(-0.5 * b * b)) / spread
    return chance, push


@njit(types.UniTuple(_F8, 2)(_F8, _F8, _V, _V, _V, _B), cache=True, error_model="numpy")
def _tabulated(here: Any, spread: Any, weights: Any, fields: Any, plus: Any, positive: Any) -> Any:
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


@njit(
    _B(PIECE_TYPE, PIECE_TYPE, PIECE_TYPE, ROOTS_TYPE, _F8, _F8, _F8, _F8, _F8, _F8, _F8, _M, _V, _V, _V, _B, _F8, _F8,
       _V),
    cache=True,
    error_model="numpy",
)  # fmt: skip
def _trapezoid(
    value: Any, slope: Any, curvature: Any, roots: Any, y: Any, mean: Any, var: Any, v: Any, beta: Any, reach: Any,
    width: Any, cuts: Any, weights: Any, fields: Any, plus: Any, positive: Any, gain: Any, spread: Any, out: Any,
) -> Any:  # fmt: skip
    """Add the averages over omega ~ N(mean, var) to `out`; False, and nothing added, where two grids do not agree.

    The label's probability given omega is 1 without cuts and fields; its field is N(gain (omega - mean), spread^2).
    """
    s = math.sqrt(var)
    certain = cuts.shape[0] == 0 and fields.size == 0
    turn = np.inf if certain or gain == 0.0 else spread / (abs(gain) * s)
    narrow = 1.0 if certain else turn / math.sqrt(1.0 + turn * turn)
    if gain == 0.0 or turn > 1e6:
        narrow = 1.0
    h = min(1.1 * narrow, 1.2 * reach / s, 1.1) * width / _PANEL
    if beta > 0.0:
        h = min(h, 2.0 * math.sqrt(v) / s + 0.3)
    if h < 0.12:
        return False
    kept, new, size = np.zeros(6), np.zeros(6), np.zeros(2)
    for level in range(_HALVINGS + 1):
        new[:] = 0.0
        # Level 0 has the whole points, every later one the points half way between those of all before.
        offset = 0.0 if level == 0 else 0.5
        step = h if level == 0 else h / 2.0 ** (level - 1)
        count = int(TAIL / step) + 1
        guess, previous, rate = math.nan, 0.0, 0.0
        for k in range(-count - 1, count + 1):
            x = (k + offset) * step
            if abs(x) > TAIL:
                continue
            w = step * 0.3989422804014327 * math.exp(-0.5 * x * x)
            chance, push = 1.0, 0.0
            if cuts.shape[0] > 0:
                chance, push = _between(gain * s * x, spread, cuts)
            elif fields.size > 0:
                chance, push = _tabulated(gain * s * x, spread, weights, fields, plus, positive)
            if chance == 0.0 and push == 0.0:
                continue
            omega = mean + s * x
            log_z = 0.0
            if beta > 0.0:
                f, response, log_z = posterior_moments(value, slope, curvature, roots, y, omega, v, beta, reach)
            else:
                start = guess + rate * (omega - previous) if guess == guess else math.nan
                u = prox_on_piece(slope, curvature, y, omega, v, -np.inf, np.inf, 0.0, start)
                second = curvature(y, u, 0.0)
                f, response = -slope(y, u, 0.0), second / (1.0 + v * second)
                guess, previous, rate = u, omega, 1.0 - v * response
            new[0] += w * chance * f
            new[1] += w * chance * f * f
            new[2] += w * chance * response
            new[3] += w * push * f
            new[4] -= w * chance * log_z
            new[5] += w * chance * response * response
            if level == 0:
                size[0] += w * abs(push * f)
                size[1] += w * chance * abs(log_z)
        if level > 0:
            force = math.sqrt(kept[1])
            if (
                abs(new[0] - kept[0]) <= _AGREE * force
                and abs(new[1] - kept[1]) <= _AGREE * kept[1]
                and abs(new[2] - kept[2]) <= _AGREE * kept[2]
                and abs(new[3] - kept[3]) <= _AGREE * size[0]
                and abs(new[4] - kept[4]) <= _AGREE * size[1]
                and abs(new[5] - kept[5]) <= _AGREE * kept[5]
            ):
                mean_of = 0.5 * (kept + new)
                out[0] += mean_of[0]
                out[1] += mean_of[1]
                out[2] += mean_of[2]
                out[5] += mean_of[3]
                out[3] += mean_of[4]
                out[7] += mean_of[5]
                return True
            kept[:] = 0.5 * (kept + new)
        else:
            kept[:] = new
    return False


@njit(
    types.void(PIECE_TYPE, PIECE_TYPE, PIECE_TYPE, ROOTS_TYPE, _F8, _F8, _F8, _F8, _F8, _F8, _F8, _M, _V, _V, _V, _B,
               _F8, _F8, _V),
    cache=True,
    error_model="numpy",
)  # fmt: skip
def _panels(
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
                w = 0.5 * step * GL_W[node] * 0.3989422804014327 * math.exp(-0.5 * x * x)
                chance, push = 1.0, 0.0
                if cuts.shape[0] > 0:
                    chance, push = _between(gain * s * x, spread, cuts)
                elif fields.size > 0:
                    chance, push = _tabulated(gain * s * x, spread, weights, fields, plus, positive)
                if chance == 0.0 and push == 0.0:
                    continue
                omega = mean + s * x
                if beta > 0.0:
                    f, response, log_z = posterior_moments(value, slope, curvature, roots, y, omega, v, beta, reach)
                    loss = -log_z
                else:
                    u = prox(slope, curvature, roots, y, omega, v)
                    f = (u - omega) / v
                    second = curvature(y, u, u)
                    response = second / (1.0 + v * second)
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


@njit(types.void(_V, _F8, _F8, _F8, _F8, _F8, _M, _V, _V, _V, _B, _F8, _F8, _V), cache=True, error_model="numpy")
def _average(
    data: Any, y: Any, mean: Any, var: Any, v: Any, reach: Any, cuts: Any, weights: Any, fields: Any, plus: Any,
    positive: Any, gain: Any, spread: Any, out: Any,
) -> None:  # fmt: skip
    """Add the averages of one label over one field to `out`, by the rule that suits the loss and the label."""
    bits = data[:8].view(np.int64)
    value, slope = as_piece(bits[0], bits[1]), as_piece(bits[2], bits[3])
    curvature, roots = as_piece(bits[4], bits[5]), as_roots(bits[6], bits[7])
    beta, width = data[BETA], data[WIDTH]
    # The kinks of a loss are smoothed by the posterior, not by the proximal map.
    if (
        (data[SMOOTH] > 0.0 or beta > 0.0)
        and (data[OBSERVE] == 0.0 or beta > 0.0)
        and _trapezoid(
            value, slope, curvature, roots, y, mean, var, v, beta, reach, width, cuts, weights, fields, plus, positive,
            gain, spread, out,
        )
    ):  # fmt: skip
        return
    if fields.size > 0 or beta > 0.0:
        _panels(
            value, slope, curvature, roots, y, mean, var, v, beta, reach, width, cuts, weights, fields, plus, positive,
            gain, spread, out,
        )  # fmt: skip
    else:
        averages(
            value, slope, curvature, roots, y, mean, var, v, min(width, reach / math.sqrt(var)), cuts, 0.0, gain,
            spread, out,
        )  # fmt: skip


@njit(types.void(_V, _F8, _F8, _F8, _F8, _F8, _B, _F8, _V, _V, _V, _F8, _V), cache=True, error_model="numpy")
def _nodes(
    data: Any, v: Any, q: Any, m: Any, b: Any, variance: Any, residual: Any, noise: Any, weights: Any, fields: Any,
    labels: Any, reach: Any, part: Any,
) -> None:  # fmt: skip
    """Labels y_j at nodes t_j of the label's field: an inner average over omega given t for each."""
    no_cuts, none = np.empty((0, 3)), np.empty(0)
    inner = np.empty(AVERAGES)
    var = q - m * m / variance + noise
    product = 0.0
    for j in range(weights.size):
        inner[:] = 0.0
        mean, label = b + m * fields[j] / variance, labels[j]
        if residual:
            # The function depends on y - u alone: independent noise in y joins the field.
            mean, label = mean - labels[j], 0.0
        _average(data, label, mean, var, v, reach, no_cuts, none, none, none, True, 0.0, 1.0, inner)
        for k in (0, 1, 2, 3, 4, 6, 7):
            part[k] += weights[j] * inner[k]
        product += weights[j] * fields[j] * inner[0]
    # E[t f] = Var t E d_t f + m E d_omega f, and E d_omega f = -response.
    part[5] += (product + m * part[2]) / variance
    if residual:
        part[6] = math.nan


@njit(types.void(_V, _F8, _F8, _F8, _F8, _F8, _V, _V, _V, _F8, _V), cache=True, error_model="numpy")
def _chances(
    data: Any, v: Any, q: Any, m: Any, b: Any, variance: Any, weights: Any, fields: Any, plus: Any, reach: Any,
    part: Any,
) -> None:  # fmt: skip
    """Labels -1 and +1 with P(y = 1 | t) known at nodes of the label's field t."""
    no_cuts = np.empty((0, 3))
    left = variance - m * m / q
    if left > 0.06 * variance:
        # The nodes resolve the law of t given omega: weights without the normal density.
        bare = np.empty(weights.size)
        for j in range(weights.size):
            bare[j] = weights[j] * math.sqrt(2.0 * math.pi * variance) * math.exp(0.5 * fields[j] ** 2 / variance)
        for positive in (True, False):
            _average(data, 1.0 if positive else -1.0, b, q, v, reach, no_cuts, bare, fields, plus, positive, m / q,
                     math.sqrt(left), part)  # fmt: skip
        return
    for sign in (1.0, -1.0):
        shares = weights * (plus if sign > 0.0 else 1.0 - plus)
        _nodes(data, v, q, m, b, variance, False, 0.0, shares, fields, np.full(fields.size, sign), reach, part)


@njit(types.void(_F8, _F8, _F8, _F8, _V, _V), cache=True, error_model="numpy")
def channel(v: Any, q: Any, m: Any, b: Any, data: Any, out: Any) -> None:
    """Fill `out` with the averages at one state; NaN outside the domain (q rho < m^2, q or V not positive)."""
    out[:] = math.nan
    rho, reach = data[RHO], data[REACH]
    if not (v > 0.0 and q > 0.0 and q * rho > m * m and math.isfinite(v + q + m + b)):
        return
    out[:] = 0.0
    no_cuts, none = np.empty((0, 3)), np.empty(0)
    part = np.zeros(AVERAGES)
    at = HEADER
    for _ in range(int(data[COUNT])):
        size, kind = int(data[at]), int(data[at + 1])
        probability, gain, variance = data[at + 2], data[at + 3], data[at + 4]
        block = data[at + BLOCK : at + size]
        at += size
        part[:] = 0.0
        cross = gain * m
        if kind == RESIDUAL:
            # y - omega is one Gaussian variable; f falls as y rises by as much as it does as omega falls.
            slope, intercept, outer = block[0], block[1], block[2]
            var = slope * slope * variance + outer - 2.0 * slope * cross + q
            _average(data, 0.0, b - intercept, var, v, reach, no_cuts, none, none, none, True, 0.0, 1.0, part)
            part[5] = slope * part[2]
            part[6] = math.nan
        elif kind == THRESHOLDS:
            mirrored, number, rows = block[0] > 0.0 and b == 0.0, int(block[1]), int(block[2])
            labels = block[3 : 3 + number]
            offsets = block[3 + number : 4 + 2 * number]
            table = block[4 + 2 * number :].reshape((rows, 3))
            spread = math.sqrt(variance - cross * cross / q)
            for i in range(number):
                # Where (z, y) and (-z, -y) are alike, positive labels hold everything.
                if mirrored and labels[i] <= 0.0:
                    continue
                cuts = table[int(offsets[i]) : int(offsets[i + 1])]
                _average(data, labels[i], b, q, v, reach, cuts, none, none, none, True, cross / q, spread, part)
            if mirrored:
                part *= 2.0
                part[0] = 0.0
        elif kind == NODES:
            residual, noise, number = block[0] > 0.0, block[1], int(block[2])
            _nodes(data, v, q, cross, b, variance, residual, noise, block[3 : 3 + number],
                   block[3 + number : 3 + 2 * number], block[3 + 2 * number :], reach, part)  # fmt: skip
        else:
            number = int(block[0])
            weights, fields = block[1 : 1 + number], block[1 + number : 1 + 2 * number]
            plus = block[1 + 2 * number :]
            _chances(data, v, q, cross, b, variance, weights, fields, plus, reach, part)
        for k in range(AVERAGES):
            if k == 3:
                out[4] += probability * part[3]
            elif k == 4:
                out[5] += probability * part[4]
            elif k == 5:
                out[3] += probability * gain * part[5]
            else:
                out[k] += probability * part[k]


@njit(types.void(_V, _F8, _V, _F8, _V), cache=True, error_model="numpy")
def log_evidence(data: Any, y: Any, omega: Any, v: Any, out: Any) -> None:
    """Fill `out` with ln int exp(-beta l(y, u)) N(u; omega, V) du for many fields; `data` as of `channel`."""
    bits = data[:8].view(np.int64)
    value, slope = as_piece(bits[0], bits[1]), as_piece(bits[2], bits[3])
    curvature, roots = as_piece(bits[4], bits[5]), as_roots(bits[6], bits[7])
    for i in range(omega.size):
        out[i] = posterior_moments(value, slope, curvature, roots, y, omega[i], v, data[BETA], data[REACH])[2]
