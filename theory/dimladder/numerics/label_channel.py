"""The channel of a label law as one compiled call: averages of the force over the field and the label, from numbers.

Fields are omega ~ N(b, q) with E[(omega - b) z] = m, z the latent field of the label. A loss and a law of labels are
laid out as one vector of floats by `flatten`: addresses of the loss's compiled functions, then the law's components.
`law_averages` reads it, so that maps printed for other purposes call a channel without knowing its loss, and one
compilation serves every loss and every law. The force is that of a minimiser, f = (prox - omega)/V, or of a posterior
exp(-beta l(y, u)) N(u; omega, V), f = (<u> - omega)/V.

Where every piece of the slope is affine (hinge, huber, abs, quantile) and the label is certain, averages are closed
forms. Smooth averages are trapezoidal rules on two interleaved grids that must agree: their mean is accurate to the
square of the difference (they converge as exp(-2 pi w/(h sqrt q)) for a force that is analytic in a strip of half-width
w; for the logistic loss w = pi at every V), swept at once. Others go by panels that end at kinks and cuts, halving
towards kinks of curved pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import native
from .addresses import FromAddresses
from .basics import OPTIONS, fill
from .label_rules import BETA, HEAD, REACH, ROUTE, WIDTH, closed, panels, trapezoid, wrong_side
from .native import njit
from .proximal import FUNCTIONS, as_piece, as_roots, averages, together

__all__ = ["CHANCES", "CHANNEL_TYPE", "NODES", "RESIDUAL", "THRESHOLDS", "Component", "flatten", "law_averages"]

Array = NDArray[np.float64]
# channel(numbers, from where, V, q, m, b, observe, averages): see `law_averages`.
_CHANNEL = "void(f8[::1], i8, f8, f8, f8, f8, b1, f8[::1])"
CHANNEL_TYPE = native.value_type("as_channel", "CHANNEL", _CHANNEL)
as_channel = FromAddresses(CHANNEL_TYPE)

# After the loss and its rule (`label_rules`): the number of components, and these.
COMPONENTS, LAW = HEAD, HEAD + 1
# Routes of averages that are smooth or certain.
CLOSED, TRAPEZOID, PANELS = range(3)
# A component: its size, kind, probability, gain of the latent field, variance of its own field t, outer variance, data.
BLOCK = 6
RESIDUAL, THRESHOLDS, NODES, CHANCES = range(4)
# Chances at nodes of the field resolve a law of t given omega that holds this share of its variance.
_RESOLVED = 0.02


@dataclass(frozen=True)
class Component:
    """One component of a label law for `flatten`: its label depends on t = gain z + noise, Var t = `variance`.

    Attributes
    ----------
    kind : int
        ``RESIDUAL`` (loss of y - u, y = intercept + slope t + outer noise; data: slope, intercept), ``THRESHOLDS``
        (data: whether (y, t) and (-y, -t) are alike, number of labels, number of rows, labels, offsets, rows low, high,
        weight of intervals of t; label l owns the rows offsets[l] to offsets[l + 1]), ``NODES`` (data: whether the loss
        is of y - u, number of nodes, weights, fields t, labels) or ``CHANCES`` (labels -1 and +1; data: number of
        nodes, weights, fields t, P(y = 1 | t)).
    probability, gain, variance, outer : float
    data : ndarray
    """

    kind: int
    probability: float
    gain: float
    variance: float
    outer: float
    data: Array


def flatten(
    loss: Any, route: int, width: float, reach: float, components: Iterable[Component], beta: float = 0.0
) -> Array:
    """Return the vector of one loss and label law.

    Parameters
    ----------
    loss : module
        Compiled ``value``, ``slope``, ``curvature``, ``roots`` (`symbolic.pieces`); it must outlive the vector.
    route : int
        ``CLOSED`` (affine slopes), ``TRAPEZOID`` (no kinks, or a posterior) or ``PANELS``.
    width, reach : float
        Panel widths in standard deviations and in units of the field.
    beta : float
        Inverse temperature; 0 is the minimiser.
    """
    rows = [
        np.concatenate([[BLOCK + c.data.size, c.kind, c.probability, c.gain, c.variance, c.outer], c.data])
        for c in components
    ]
    return np.concatenate([together(loss), [float(route), width, reach, beta, float(len(rows))], *rows])


@njit(**OPTIONS)
def _average(
    p: Any, at: Any, y: Any, mean: Any, var: Any, v: Any, cuts: Any, nodes: Any, gain: Any, spread: Any, observe: Any,
    out: Any,
) -> None:  # fmt: skip
    """Add the averages of one label over one field to `out`, by the rule that suits the loss and the label."""
    route, beta = p[at + ROUTE], p[at + BETA]
    if route == CLOSED and beta == 0.0 and cuts.shape[0] == 0 and nodes.shape[1] == 0:
        closed(p, at, y, mean, var, v, observe, out)
        if observe:
            out[6] += wrong_side(y, mean, math.sqrt(var), cuts, nodes, gain, spread)
    elif route == TRAPEZOID and trapezoid(p, at, y, mean, var, v, cuts, nodes, gain, spread, observe, out):
        pass
    elif nodes.shape[1] > 0 or beta > 0.0:
        panels(p, at, y, mean, var, v, cuts, nodes, gain, spread, out)
    else:
        bits = p[at : at + FUNCTIONS].view(np.int64)
        value, slope = as_piece(bits[0], bits[1]), as_piece(bits[2], bits[3])
        curvature, roots = as_piece(bits[4], bits[5]), as_roots(bits[6], bits[7])
        width = min(p[at + WIDTH], p[at + REACH] / math.sqrt(var))
        averages(value, slope, curvature, roots, y, mean, var, v, width, cuts, 0.0, gain, spread, out)
        out[7] = math.nan


@njit(**OPTIONS)
def _at_nodes(
    p: Any, at: Any, v: Any, q: Any, m: Any, b: Any, variance: Any, residual: Any, noise: Any, weights: Any,
    fields: Any, labels: Any, observe: Any, part: Any,
) -> None:  # fmt: skip
    """Labels y_j at nodes t_j of the label's field: an inner average over omega given t for each."""
    no_cuts, none, inner = np.empty((0, 3)), np.empty((2, 0)), np.empty(8)
    var = q - m * m / variance + noise
    before, product = part[2], 0.0
    for j in range(weights.size):
        fill(inner, 0.0)
        mean, label = b + m * fields[j] / variance, labels[j]
        if residual:
            # The function depends on y - u alone: independent noise in y joins the field.
            mean, label = mean - labels[j], 0.0
        _average(p, at, label, mean, var, v, no_cuts, none, 0.0, 1.0, observe, inner)
        for k in range(8):
            if k != 5:
                part[k] += weights[j] * inner[k]
        product += weights[j] * fields[j] * inner[0]
    # E[t f] = Var t E d_t f + m E d_omega f, and E d_omega f = -response.
    part[5] += (product + m * (part[2] - before)) / variance
    if residual:
        part[6] = math.nan


@njit(**OPTIONS)
def _chances(
    p: Any, at: Any, v: Any, q: Any, m: Any, b: Any, variance: Any, weights: Any, fields: Any, plus: Any, observe: Any,
    part: Any,
) -> None:  # fmt: skip
    """Labels -1 and +1 with P(y = 1 | t) known at nodes of the label's field t."""
    count = weights.size
    no_cuts, nodes, labels = np.empty((0, 3)), np.empty((2, count)), np.empty(count)
    left = variance - m * m / q
    resolved = left > _RESOLVED * variance
    for sign in range(-1, 2, 2):
        for j in range(count):
            nodes[0, j] = weights[j] * (plus[j] if sign > 0 else 1.0 - plus[j])
            nodes[1, j], labels[j] = fields[j], sign
            if resolved:
                # The nodes resolve the law of t given omega: weights without the normal density.
                nodes[0, j] *= math.sqrt(2.0 * math.pi * variance) * math.exp(0.5 * fields[j] ** 2 / variance)
        if resolved:
            _average(p, at, float(sign), b, q, v, no_cuts, nodes, m / q, math.sqrt(left), observe, part)
        else:
            _at_nodes(p, at, v, q, m, b, variance, False, 0.0, nodes[0], fields, labels, observe, part)


@njit(_CHANNEL, **OPTIONS)
def law_averages(p: Any, at: Any, v: Any, q: Any, m: Any, b: Any, observe: Any, out: Any) -> None:
    """Average over omega ~ N(b, q) and the label, given E[(omega - b) z] = m; NaN outside the domain.

    Parameters
    ----------
    p : array
        Holds the vector of `flatten` from index `at`. The latent field z is centred.
    observe : bool
        Whether losses and errors are wanted; the force and its slope always are.
    out : array, shape (7,) or (8,)
        Filled: E f, E f^2, -E f', E l(prox) (a posterior: -E ln Z), E l(omega), E d_z f, P(sign of omega differs from
        the label) and E (f')^2. The error is NaN for losses of y - u with real labels.
    """
    fill(out, math.nan)
    if not (v > 0.0 and q > 0.0 and math.isfinite(v + q + m + b)):
        return
    no_cuts, none = np.empty((0, 3)), np.empty((2, 0))
    part, total = np.empty(8), np.empty(8)
    fill(total, 0.0)
    here = at + LAW
    for _ in range(int(p[at + COMPONENTS])):
        size, kind = int(p[here]), int(p[here + 1])
        probability, gain, variance, outer = p[here + 2], p[here + 3], p[here + 4], p[here + 5]
        data = p[here + BLOCK : here + size]
        here += size
        cross = gain * m
        if not q * variance > cross * cross:
            return
        fill(part, 0.0)
        if kind == RESIDUAL:
            # y - omega is one Gaussian variable; f falls as y rises by as much as it does as omega falls.
            slope, intercept = data[0], data[1]
            var = slope * slope * variance + outer - 2.0 * slope * cross + q
            _average(p, at, 0.0, b - intercept, var, v, no_cuts, none, 0.0, 1.0, observe, part)
            part[5], part[6] = slope * part[2], math.nan
        elif kind == THRESHOLDS:
            mirrored, number, rows = data[0] > 0.0 and b == 0.0, int(data[1]), int(data[2])
            offsets, table = data[3 + number : 4 + 2 * number], data[4 + 2 * number :].reshape((rows, 3))
            spread = math.sqrt(variance - cross * cross / q)
            for i in range(number):
                # Where (t, y) and (-t, -y) are alike, positive labels hold everything.
                if mirrored and data[3 + i] <= 0.0:
                    continue
                cuts = table[int(offsets[i]) : int(offsets[i + 1])]
                if cuts.shape[0] == 1 and cuts[0, 0] == -math.inf and cuts[0, 1] == math.inf and cuts[0, 2] == 1.0:
                    cuts = no_cuts
                _average(p, at, data[3 + i], b, q, v, cuts, none, cross / q, spread, observe, part)
            if mirrored:
                for k in range(1, 8):
                    part[k] *= 2.0
                part[0] = 0.0
        elif kind == NODES:
            residual, number = data[0] > 0.0, int(data[1])
            weights, fields = data[2 : 2 + number], data[2 + number : 2 + 2 * number]
            labels = data[2 + 2 * number :]
            noise = outer if residual else 0.0
            _at_nodes(p, at, v, q, cross, b, variance, residual, noise, weights, fields, labels, observe, part)
        else:
            number = int(data[0])
            weights, fields = data[1 : 1 + number], data[1 + number : 1 + 2 * number]
            _chances(p, at, v, q, cross, b, variance, weights, fields, data[1 + 2 * number :], observe, part)
        for k in range(8):
            total[k] += probability * (gain * part[k] if k == 5 else part[k])
    for k in range(out.size):
        out[k] = total[k]
