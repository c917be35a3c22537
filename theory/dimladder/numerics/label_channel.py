"""The channel of a label law as one compiled call: averages of the force over the field and the label, from numbers.

A loss and a law of labels are laid out as one vector of floats by `flatten`: addresses of the loss's compiled
functions, then the components of the law. `law_averages` reads it, so that maps printed for other purposes call a
channel without knowing its loss, and one compilation serves every loss and every law.

A label that is certain has quick routes: closed forms where every piece of the slope is affine (hinge, huber, abs,
quantile), the trapezoidal rule where there are no kinks. It converges as exp(-2 pi w/(h sqrt q)) for a proximal map
that is analytic in a strip of half-width w (for the logistic loss w = pi at every V: the branch points V l'' = -1
have that imaginary part). Other averages go by the panels of `proximal`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import proximal
from .jit import njit, types
from .ode.layout import addresses, from_addresses_of
from .proximal import PIECE_TYPE, ROOTS_TYPE

Array = NDArray[np.float64]
_F8, _I8, _B1, _V, _M = types.float64, types.int64, types.boolean, types.float64[::1], types.float64[:, ::1]
_MAX_KINKS = 16
_TAIL = 9.0

# Functions of `proximal`, reached through their addresses: numba's cache does not follow imports.
PANELS_TYPE = types.FunctionType(
    types.void(PIECE_TYPE, PIECE_TYPE, PIECE_TYPE, ROOTS_TYPE, _F8, _F8, _F8, _F8, _F8, _M, _F8, _F8, _F8, _V)
)
PROX_TYPE = types.FunctionType(_F8(PIECE_TYPE, PIECE_TYPE, _F8, _F8, _F8, _F8, _F8, _F8, _F8))
IMAGES_TYPE = types.FunctionType(_I8(PIECE_TYPE, _F8, _F8, _V, _I8, _V))

_as_piece, _as_roots = from_addresses_of(PIECE_TYPE), from_addresses_of(ROOTS_TYPE)
_as_panels, _as_prox, _as_images = (from_addresses_of(t) for t in (PANELS_TYPE, PROX_TYPE, IMAGES_TYPE))

# Head of the vector: seven pairs of addresses, then these; the components follow.
_ROUTE, _WIDTH, _REACH, _COMPONENTS, HEAD = 14, 15, 16, 17, 18
# Routes of certain labels.
CLOSED, TRAPEZOID, PANELS = 0.0, 1.0, 2.0
# A component: its size, kind, probability, gain of the latent field, variance of its own field t, outer variance, data.
_SIZE, _KIND, _PROBABILITY, _GAIN, _VARIANCE, _OUTER, _DATA = range(7)
RESIDUAL, THRESHOLDS, NODES = 0.0, 1.0, 2.0


@dataclass(frozen=True)
class Component:
    """One component of a label law for `flatten`: its label depends on t = gain z + noise, Var t = `variance`.

    Attributes
    ----------
    kind : float
        ``RESIDUAL`` (loss of y - u, y = intercept + slope t + outer noise; data: slope, intercept), ``THRESHOLDS``
        (data: number of labels, labels, offsets, rows low, high, weight of `proximal.thresholds_averages`) or ``NODES``
        (data: whether the loss is of y - u, number of nodes, weights, fields t, labels).
    probability, gain, variance, outer : float
    data : ndarray
    """

    kind: float
    probability: float
    gain: float
    variance: float
    outer: float
    data: Array


def flatten(loss: Any, route: float, width: float, reach: float, components: Iterable[Component]) -> Array:
    """Return the vector of one loss and label law.

    Parameters
    ----------
    loss : module
        Compiled ``value``, ``slope``, ``curvature``, ``roots`` (`symbolic.pieces`); it must outlive the vector.
    route : float
        ``CLOSED`` (affine slopes), ``TRAPEZOID`` (no kinks) or ``PANELS``, for certain labels.
    width, reach : float
        Panel widths in standard deviations and in units of the field; the trapezoidal step is half the latter.
    """
    functions: Sequence[tuple[Any, Any]] = (
        (loss.value, PIECE_TYPE), (loss.slope, PIECE_TYPE), (loss.curvature, PIECE_TYPE), (loss.roots, ROOTS_TYPE),
        (proximal.averages, PANELS_TYPE), (proximal.prox_on_piece, PROX_TYPE), (proximal.kink_images, IMAGES_TYPE),
    )  # fmt: skip
    # Addresses lie below 2^53, where floats are exact.
    head = [float(a) for function, ftype in functions for a in addresses(function, ftype)]
    parts: list[Array] = []
    for c in components:
        row = np.array([0.0, c.kind, c.probability, c.gain, c.variance, c.outer])
        row[_SIZE] = row.size + c.data.size
        parts += [row, np.asarray(c.data, dtype=float)]
    number = len(parts) // 2
    return np.concatenate([np.array([*head, route, width, reach, float(number)]), *parts])


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
    types.void(PIECE_TYPE, PIECE_TYPE, PIECE_TYPE, ROOTS_TYPE, IMAGES_TYPE, _F8, _F8, _F8, _F8, _B1, _V), cache=True,
    error_model="numpy",
)  # fmt: skip
def _closed(
    value: Any, slope: Any, curvature: Any, roots: Any, kink_images: Any, y: Any, mean: Any, var: Any, v: Any,
    observe: Any, out: Any,
) -> None:  # fmt: skip
    """Averages for a slope that is affine on every piece: truncated normal moments."""
    s = math.sqrt(var)
    kinks, images = np.empty(_MAX_KINKS), np.empty(2 * _MAX_KINKS)
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
            out[3] += value(y, kinks[j], kinks[j] + 1.0) * mass


@njit(
    types.void(PIECE_TYPE, PIECE_TYPE, PIECE_TYPE, PROX_TYPE, _F8, _F8, _F8, _F8, _F8, _B1, _V), cache=True,
    error_model="numpy",
)  # fmt: skip
def _trapezoid(
    value: Any, slope: Any, curvature: Any, prox: Any, y: Any, mean: Any, var: Any, v: Any, reach: Any, observe: Any,
    out: Any,
) -> None:  # fmt: skip
    """Averages for a loss without kinks, by the trapezoidal rule."""
    s = math.sqrt(var)
    half = int(_TAIL / min(0.4, 0.5 * reach / s)) + 1
    h = _TAIL / half
    f0, f1, f2, f3, f4, total = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    guess, rate = math.nan, 1.0
    for i in range(-half, half + 1):
        x = i * h
        weight = math.exp(-0.5 * x * x)
        omega = mean + s * x
        # The last proximal point and the slope there start the next.
        u = prox(slope, curvature, y, omega, v, -np.inf, np.inf, 0.0, guess + rate * s * h)
        second = curvature(y, u, 0.0)
        response = second / (1.0 + v * second)
        f = (u - omega) / v if v > 1.0 else -slope(y, u, 0.0)
        guess, rate = u, 1.0 - v * response
        f0 += weight * f
        f1 += weight * f * f
        f2 += weight * response
        total += weight
        if observe:
            f3 += weight * value(y, u, 0.0)
            f4 += weight * value(y, omega, 0.0)
    out[0] += f0 / total
    out[1] += f1 / total
    out[2] += f2 / total
    out[3] += f3 / total
    out[4] += f4 / total


@njit(
    types.void(
        PIECE_TYPE, PIECE_TYPE, PIECE_TYPE, ROOTS_TYPE, PANELS_TYPE, PROX_TYPE, IMAGES_TYPE, _F8, _F8, _F8, _F8, _F8,
        _F8, _F8, _B1, _V,
    ), cache=True, error_model="numpy",
)  # fmt: skip
def _certain(
    value: Any, slope: Any, curvature: Any, roots: Any, panels: Any, prox: Any, kink_images: Any, route: Any, y: Any,
    mean: Any, var: Any, v: Any, width: Any, reach: Any, observe: Any, out: Any,
) -> None:  # fmt: skip
    if route == 0.0:
        _closed(value, slope, curvature, roots, kink_images, y, mean, var, v, observe, out)
    elif route == 1.0:
        _trapezoid(value, slope, curvature, prox, y, mean, var, v, reach, observe, out)
    else:
        panels(
            value, slope, curvature, roots, y, mean, var, v, min(width, reach / math.sqrt(var)), np.empty((0, 3)), 0.0,
            0.0, 1.0, out,
        )  # fmt: skip
        return
    if observe and y != 0.0:
        z = mean / math.sqrt(var)
        out[6] += _cdf(-z) if y > 0.0 else _cdf(z)


@njit(types.void(_V, _I8, _F8, _F8, _F8, _F8, _B1, _V), cache=True, error_model="numpy")
def law_averages(p: Any, at: Any, v: Any, q: Any, m: Any, b: Any, observe: Any, out: Any) -> None:
    """Average over omega ~ N(b, q) and the label, given E[(omega - b) z] = m; NaN outside the domain.

    Parameters
    ----------
    p : array
        Holds the vector of `flatten` from index `at`. The latent field z is centred.
    observe : bool
        Whether losses and errors are wanted; the force and its slope always are.
    out : array, shape (7,)
        Filled: E f, E f^2, -E f', E l(prox), E l(omega), E d_z f, P(sign of omega differs from the label). The error is
        NaN for losses of y - u with real labels.
    """
    out[:] = math.nan
    if not (v > 0.0 and q > 0.0 and math.isfinite(v + q + m + b)):
        return
    value = _as_piece(int(p[at]), int(p[at + 1]))
    slope = _as_piece(int(p[at + 2]), int(p[at + 3]))
    curvature = _as_piece(int(p[at + 4]), int(p[at + 5]))
    roots = _as_roots(int(p[at + 6]), int(p[at + 7]))
    panels = _as_panels(int(p[at + 8]), int(p[at + 9]))
    prox = _as_prox(int(p[at + 10]), int(p[at + 11]))
    images = _as_images(int(p[at + 12]), int(p[at + 13]))
    route, width, reach, components = p[at + 14], p[at + 15], p[at + 16], int(p[at + 17])
    part, total = np.empty(7), np.zeros(7)
    here = at + 18
    for _ in range(components):
        kind, probability, gain, variance, outer = p[here + 1], p[here + 2], p[here + 3], p[here + 4], p[here + 5]
        data = here + 6
        cross = gain * m
        if not q * variance > cross * cross:
            return
        part[:] = 0.0
        if kind == 0.0:
            # y - omega is one Gaussian variable; f falls as y rises by as much as it does as omega falls.
            along = p[data]
            var = along**2 * variance + outer - 2.0 * along * cross + q
            _certain(
                value, slope, curvature, roots, panels, prox, images, route, 0.0, b - p[data + 1], var, v, width, reach,
                observe, part,
            )  # fmt: skip
            part[5], part[6] = along * part[2], math.nan
        elif kind == 1.0:
            labels = int(p[data])
            offsets = data + 1 + labels
            table = offsets + labels + 1
            spread = math.sqrt(variance - cross * cross / q)
            for i in range(labels):
                y, first, last = p[data + 1 + i], int(p[offsets + i]), int(p[offsets + i + 1])
                start = table + 3 * first
                if last == first + 1 and p[start] == -np.inf and p[start + 1] == np.inf and p[start + 2] == 1.0:
                    _certain(
                        value, slope, curvature, roots, panels, prox, images, route, y, b, q, v, width, reach, observe,
                        part,
                    )  # fmt: skip
                else:
                    cuts = p[start : table + 3 * last].reshape((last - first, 3))
                    panels(
                        value, slope, curvature, roots, y, b, q, v, min(width, reach / math.sqrt(q)), cuts, 0.0,
                        cross / q, spread, part,
                    )  # fmt: skip
        else:
            # An inner average over omega given t, whose law is Gaussian.
            residual, count = p[data], int(p[data + 1])
            var = q - cross * cross / variance + (outer if residual > 0.0 else 0.0)
            inner, tf = np.empty(7), 0.0
            for j in range(count):
                weight, t, y = p[data + 2 + j], p[data + 2 + count + j], p[data + 2 + 2 * count + j]
                mean = b + cross * t / variance
                if residual > 0.0:
                    mean, y = mean - y, 0.0
                inner[:] = 0.0
                _certain(
                    value, slope, curvature, roots, panels, prox, images, route, y, mean, var, v, width, reach, observe,
                    inner,
                )  # fmt: skip
                for k in range(7):
                    part[k] += weight * inner[k]
                tf += weight * t * inner[0]
            # E[t f] = Var(t) E d_t f + E[t omega] E d_omega f, and E d_omega f = -part[2].
            part[5] = (tf + cross * part[2]) / variance
            if residual > 0.0:
                part[6] = math.nan
        for k in range(7):
            total[k] += probability * (gain * part[k] if k == 5 else part[k])
        here += int(p[here])
    out[:] = total
