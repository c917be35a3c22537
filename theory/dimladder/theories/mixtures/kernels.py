"""Channel integrals of convex losses: the hand-written part of the state evolution, pasted into generated modules.

One channel: a field omega ~ N(mean, q), a label y in {-1, +1}, a loss l(y u) and the proximal point

    prox = argmin_u l(y u) + (u - omega)^2 / (2 V),      f = (prox - omega)/V = -y l'(y prox).

`channel` returns E f, E f^2, E[l''/(1 + V l'')] = -E df/domega, E l(prox) and E df/dnu, where nu is the teacher's field
when the label is a function of it. Square loss, and the hinge loss with labels that do not depend on a teacher, have
closed forms (see `state_evolution`); everything else is integrated here.

Every function is self-contained source: generated modules paste this file after its header (`KERNEL_SOURCE`).
"""

from __future__ import annotations

import inspect
import math
import sys
from typing import Any

import numpy as np

from ...numerics.jit import njit

# --- pasted from here ---
LOGISTIC = 1
HINGE = 2
TAIL = 9.0
MAX_NODES = 200_000
# 16-point Gauss-Legendre rule on [-1, 1] (positive half).
GL_X = np.array(
    [
        0.09501250983763744,
        0.28160355077925891,
        0.45801677765722739,
        0.61787624440264375,
        0.75540440835500303,
        0.86563120238783174,
        0.94457502307323258,
        0.98940093499164993,
    ]
)
GL_W = np.array(
    [
        0.18945061045506850,
        0.18260341504492359,
        0.16915651939500254,
        0.14959598881657673,
        0.12462897125553387,
        0.09515851168249278,
        0.06225352393864789,
        0.02715245941175409,
    ]
)


@njit(cache=True)
def logistic_prox(u: Any, v: Any, guess: Any) -> Any:
    """Root p of p - u - v/(1 + e^p) = 0: Newton's method kept inside the bracket [u, u + v].

    Bare Newton cycles for v above about 30; every step that leaves the bracket is replaced by bisection.
    """
    low, high = u, u + v
    p = min(max(guess, low), high)
    before = v
    for _ in range(200):
        e = math.exp(-abs(p))
        s = e / (1.0 + e) if p > 0 else 1.0 / (1.0 + e)
        g = p - u - v * s
        if g > 0.0:
            high = p
        else:
            low = p
        step = g / (1.0 + v * s * (1.0 - s))
        new = p - step
        # Bisect unless Newton stays strictly inside and halves the last step: two in-bracket points can form a cycle.
        if not (low < new < high) or abs(step) > 0.5 * before:
            if abs(step) <= 4e-16 * (1.0 + abs(p)):
                return p
            new = 0.5 * (low + high)
        before = abs(new - p)
        if before <= 4e-16 * (1.0 + abs(p)):
            return new
        p = new
    return p


@njit(cache=True)
def cluster_channel(loss: Any, y: Any, mean: Any, v: Any, q: Any, coarse: Any = 1.0) -> Any:
    """Channel of a label that is certain: (E f, E f^2, E l''/(1 + V l''), E l(prox)).

    `coarse` multiplies the step: 1 is exact to rounding, 1.8 to 1e-9.
    """
    # Margin u = y omega ~ N(y mean, q). The logistic prox is analytic in |Im u| < pi for every V (the branch points of
    # its inverse lie at Im u = pi), so the trapezoidal rule with step h errs by exp(-2 pi^2/(h sqrt q)).
    centre = y * mean
    s = math.sqrt(q)
    h = coarse * (min(0.4, 0.5 / s) if s > 0 else 0.4)
    tail = TAIL if coarse == 1.0 else 6.5
    half = min(int(tail / h) + 1, MAX_NODES)
    h = tail / half
    ef, ef2, vh, el, total = 0.0, 0.0, 0.0, 0.0, 0.0
    p, slope = centre - tail * s, 1.0
    for i in range(-half, half + 1):
        z = i * h
        weight = math.exp(-0.5 * z * z)
        u = centre + s * z
        # The last node and the slope dp/du there start the next one.
        p = logistic_prox(u, v, p + slope * s * h)
        e = math.exp(-abs(p))
        minus = e / (1.0 + e) if p > 0 else 1.0 / (1.0 + e)
        curvature = minus * (1.0 - minus)
        slope = 1.0 / (1.0 + v * curvature)
        ef += weight * minus
        ef2 += weight * minus * minus
        vh += weight * curvature * slope
        el += weight * (math.log1p(e) + max(-p, 0.0))
        total += weight
    return y * ef / total, ef2 / total, vh / total, el / total


@njit(cache=True)
def positive_probability(centre: Any, spread: Any, thresholds: Any, first: Any) -> Any:
    """P(y = +1) and its derivative in the centre, nu ~ N(centre, spread^2), y alternating at the thresholds.

    `first` is the label below the first threshold.
    """
    prob = 1.0 if first > 0 else 0.0
    slope = 0.0
    sign = -first
    for t in thresholds:
        a = (centre - t) / spread
        prob += sign * 0.5 * math.erfc(-a / math.sqrt(2.0))
        slope += sign * math.exp(-0.5 * a * a) / (math.sqrt(2.0 * math.pi) * spread)
        sign = -sign
    return min(max(prob, 0.0), 1.0), slope


@njit(cache=True)
def margin_response(loss: Any, u: Any, v: Any, guess: Any) -> Any:
    """(prox, -l'(prox), l''/(1 + V l''), l(prox)) of the margin loss at u."""
    if loss == HINGE:
        if u < 1.0 - v:
            return u + v, 1.0, 0.0, 1.0 - u - v
        if u < 1.0:
            return 1.0, (1.0 - u) / v, 1.0 / v, 0.0
        return u, 0.0, 0.0, 0.0
    p = logistic_prox(u, v, guess)
    e = math.exp(-abs(p))
    minus = e / (1.0 + e) if p > 0 else 1.0 / (1.0 + e)
    curvature = minus * (1.0 - minus)
    return p, minus, curvature / (1.0 + v * curvature), math.log1p(e) + max(-p, 0.0)


@njit(cache=True)
def teacher_channel(
    loss: Any,
    mean: Any,
    v: Any,
    q: Any,
    overlap: Any,
    teacher_mean: Any,
    teacher_variance: Any,
    thresholds: Any,
    first: Any,
) -> Any:
    """Channel of the label y(nu), (omega, nu) Gaussian with covariance `overlap`.

    Returns (E f, E f^2, E l''/(1 + V l''), E l(prox), E df/dnu, P(sign omega != y)).
    """
    s = math.sqrt(q)
    spread2 = teacher_variance - overlap * overlap / q
    if not spread2 > 0.0:
        nan = math.nan
        return nan, nan, nan, nan, nan, nan
    spread = math.sqrt(spread2)
    slope = overlap / s
    # Panels end at the kinks (hinge: omega = +-1, +-(1 - V); error: omega = 0) and resolve both the probability, which
    # turns over a width spread/slope, and the proximal map, which is analytic in |Im omega| < pi.
    width = min(1.0, 1.0 / max(s, 1e-300))
    if loss == HINGE:
        width = 1.0
    width = min(width, max(spread / (abs(slope) + 1e-300), 1e-4))
    marks = np.empty(7)
    marks[0], marks[6] = -TAIL, TAIL
    marks[1], marks[2], marks[3], marks[4], marks[5] = -1.0, 1.0, v - 1.0, 1.0 - v, 0.0
    for j in range(1, 6):
        here = min(max((marks[j] - mean) / max(s, 1e-300), -TAIL), TAIL)
        # Insertion sort, by hand: compiling the library's takes ten times longer than running this ever will.
        place = j
        while place > 1 and marks[place - 1] > here:
            marks[place] = marks[place - 1]
            place -= 1
        marks[place] = here
    ef, ef2, vh, el, ed, err, total = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    plus, minus = mean - TAIL * s, -mean + TAIL * s
    for j in range(6):
        length = marks[j + 1] - marks[j]
        if length <= 0.0:
            continue
        panels = min(int(length / width) + 1, MAX_NODES // 16)
        step = length / panels
        for k in range(panels):
            middle = marks[j] + (k + 0.5) * step
            for node in range(16):
                index = node - 8 if node >= 8 else 7 - node
                z = middle + (0.5 * step * GL_X[index] if node >= 8 else -0.5 * step * GL_X[index])
                weight = 0.5 * step * GL_W[index] * math.exp(-0.5 * z * z)
                omega = mean + s * z
                prob, dprob = positive_probability(teacher_mean + slope * z, spread, thresholds, first)
                plus, fp, vp, lp = margin_response(loss, omega, v, plus)
                minus, fm, vm, lm = margin_response(loss, -omega, v, minus)
                ef += weight * (prob * fp - (1.0 - prob) * fm)
                ef2 += weight * (prob * fp * fp + (1.0 - prob) * fm * fm)
                vh += weight * (prob * vp + (1.0 - prob) * vm)
                el += weight * (prob * lp + (1.0 - prob) * lm)
                ed += weight * dprob * (fp + fm)
                err += weight * ((1.0 - prob) if omega > 0.0 else prob)
                total += weight
    return ef / total, ef2 / total, vh / total, el / total, ed / total, err / total


# --- pasted to here ---


@njit(cache=True)
def node_channels(loss: Any, labels: Any, means: Any, v: Any, q: Any, out: Any) -> Any:
    """Channel averages of many nodes with certain labels: rows E f, E f^2, E l''/(1 + V l''), E l(prox) of `out`."""
    s = math.sqrt(q)
    for i in range(labels.size):
        y = labels[i]
        if loss == LOGISTIC:
            out[0, i], out[1, i], out[2, i], out[3, i] = cluster_channel(loss, y, means[i], v, q, 1.8)
            continue
        # Hinge, in closed form (the symbolic form is state_evolution.hinge_channel).
        gap = 1.0 - y * means[i]
        low, high = (gap - v) / s, gap / s
        below, above = 0.5 * math.erfc(-low / math.sqrt(2.0)), 0.5 * math.erfc(-high / math.sqrt(2.0))
        d_low, d_high = (
            math.exp(-0.5 * low * low) / math.sqrt(2.0 * math.pi),
            math.exp(-0.5 * high * high) / math.sqrt(2.0 * math.pi),
        )
        mass = above - below
        first = gap * mass + s * (d_high - d_low)
        second = gap * gap * mass + 2.0 * gap * s * (d_high - d_low) + q * (mass - (high * d_high - low * d_low))
        out[0, i] = y * (below + first / v)
        out[1, i] = below + second / v**2
        out[2, i] = mass / v
        out[3, i] = (gap - v) * below + s * d_low


@njit(cache=True)
def solve_small(a: Any, b: Any) -> Any:
    """Solve a x = b (b a matrix of columns) in place by elimination with partial pivoting; False when singular."""
    n, columns = b.shape
    for col in range(n):
        pivot = col
        for row in range(col + 1, n):
            if abs(a[row, col]) > abs(a[pivot, col]):
                pivot = row
        if not abs(a[pivot, col]) > 0.0:
            return False
        if pivot != col:
            for j in range(n):
                a[col, j], a[pivot, j] = a[pivot, j], a[col, j]
            for j in range(columns):
                b[col, j], b[pivot, j] = b[pivot, j], b[col, j]
        for row in range(col + 1, n):
            factor = a[row, col] / a[col, col]
            for j in range(col, n):
                a[row, j] -= factor * a[col, j]
            for j in range(columns):
                b[row, j] -= factor * b[col, j]
    for j in range(columns):
        for row in range(n - 1, -1, -1):
            for i in range(row + 1, n):
                b[row, j] -= a[row, i] * b[i, j]
            b[row, j] /= a[row, row]
    return True


@njit(cache=True)
def softmax_value(label: Any, u: Any, p: Any) -> Any:
    """Cross-entropy of u; fills the probabilities p."""
    top = u[0]
    for i in range(1, u.size):
        top = max(top, u[i])
    total = 0.0
    for i in range(u.size):
        p[i] = math.exp(u[i] - top)
        total += p[i]
    for i in range(u.size):
        p[i] /= total
    return top + math.log(total) - u[label]


@njit(cache=True)
def softmax_channel(label: Any, omegas: Any, weights: Any, v: Any, inverse: Any, f: Any, ff: Any, fv: Any) -> Any:
    """Averages over fields `omegas` (N, K) of the cross-entropy channel; returns E loss, or NaN if a prox is not found.

    Fills E f (K,), E f f^T and E (Hess^{-1} + V)^{-1} (K, K). The proximal point solves
    u - omega + V (softmax(u) - e) = 0 by Newton's method; the step is halved until the strictly convex objective falls.
    """
    n, k = omegas.shape
    u, p, trial, gap = np.empty(k), np.empty(k), np.empty(k), np.empty(k)
    matrix, right = np.empty((k, k)), np.empty((k, 1))
    wide = np.empty((k, k))
    hessian = np.empty((k, k))
    f[:] = 0.0
    ff[:] = 0.0
    fv[:] = 0.0
    loss = 0.0
    for i in range(k):
        u[i] = omegas[0, i]
    for row in range(n):
        omega = omegas[row]
        # The last node's displacement is a good start for the next one.
        for i in range(k):
            u[i] = omega[i] + (gap[i] if row > 0 else 0.0)
        found = False
        for _ in range(200):
            value = softmax_value(label, u, p)
            worst, size = 0.0, 1.0
            for i in range(k):
                residual = u[i] - omega[i]
                for j in range(k):
                    residual += v[i, j] * (p[j] - (1.0 if j == label else 0.0))
                right[i, 0] = -residual
                worst, size = max(worst, abs(residual)), max(size, abs(omega[i]))
            if worst <= 1e-13 * (size + v[0, 0]):
                found = True
                break
            for i in range(k):
                for j in range(k):
                    matrix[i, j] = (1.0 if i == j else 0.0) + v[i, j] * p[j]
                    for m in range(k):
                        matrix[i, j] -= v[i, m] * p[m] * p[j]
            if not solve_small(matrix, right):
                return math.nan
            for i in range(k):
                for j in range(k):
                    value += 0.5 * (u[i] - omega[i]) * inverse[i, j] * (u[j] - omega[j])
            length = 1.0
            for _ in range(50):
                for i in range(k):
                    trial[i] = u[i] + length * right[i, 0]
                new = softmax_value(label, trial, p)
                for i in range(k):
                    for j in range(k):
                        new += 0.5 * (trial[i] - omega[i]) * inverse[i, j] * (trial[j] - omega[j])
                if new <= value + 1e-13 * (1.0 + abs(value)):
                    break
                length *= 0.5
            for i in range(k):
                u[i] = trial[i]
        if not found:
            return math.nan
        weight = weights[row]
        loss += weight * softmax_value(label, u, p)
        for i in range(k):
            gap[i] = u[i] - omega[i]
            for j in range(k):
                hessian[i, j] = (p[i] if i == j else 0.0) - p[i] * p[j]
        # Hess (1 + V Hess)^{-1} = (1 + Hess V)^{-1} Hess
        for i in range(k):
            for j in range(k):
                total = 1.0 if i == j else 0.0
                for m in range(k):
                    total += hessian[i, m] * v[m, j]
                matrix[i, j] = total
                wide[i, j] = hessian[i, j]
        if not solve_small(matrix, wide):
            return math.nan
        for i in range(k):
            fi = (1.0 if i == label else 0.0) - p[i]
            f[i] += weight * fi
            for j in range(k):
                fj = (1.0 if j == label else 0.0) - p[j]
                ff[i, j] += weight * fi * fj
                fv[i, j] += weight * wide[i, j]
    return loss


def _kernel_source() -> str:
    text = inspect.getsource(sys.modules[__name__])
    start, end = "# --- pasted from here ---\n", "# --- pasted to here ---"
    return text[text.index(start) + len(start) : text.rindex(end + "\n", 0, text.index("def _kernel_source"))]


KERNEL_SOURCE = _kernel_source()
