"""Moments of two, three and four signs of Gaussians with means.

``E[sign(u + h) sign(v + k)]`` is four times the bivariate normal distribution function, up to one-dimensional ones.
Near rho = 0 it is an integral over theta = asin(rho); elsewhere it is written with Owen's function T(h, a), whose
integral over [0, 1] needs no more nodes as rho approaches one (Owen 1956).

More signs follow by Plackett's identity, as in `orthant`: the derivative in one correlation fixes its two fields at
their thresholds, with the moment of the other signs given them.

Generated modules are self-contained: `THRESHOLD_SOURCE` and `KINK_SOURCE` are the source text of the functions below.
"""

from __future__ import annotations

import inspect
import math

from .native import njit
from .orthant import DET, HARD_NODES, HARD_WEIGHTS, NODES, WEIGHTS, nearly_singular4, weakest_cut4
from .quadrature import gauss_legendre

__all__ = [
    "KINK_SOURCE",
    "THRESHOLD_SOURCE",
    "density_of_zero",
    "owen_t",
    "shifted_sign_moment4",
    "sign_moment2",
    "sign_moment3",
    "threshold",
]

# On [0, 1].
X10, W10 = (0.5 + 0.5 * gauss_legendre(10)[0], 0.5 * gauss_legendre(10)[1])
X14, W14 = (0.5 + 0.5 * gauss_legendre(14)[0], 0.5 * gauss_legendre(14)[1])


@njit(error_model="numpy", fastmath={"contract", "nsz"}, cache=True)
def owen_t(h: float, w: float) -> float:
    """Return Owen's T(h, w/h) = (1/2 pi) int_0^{w/h} exp(-h^2 (1 + x^2)/2)/(1 + x^2) dx; the side of h = 0 is h > 0."""
    one, two = abs(h), abs(w)
    swapped = two > one
    if swapped:
        one, two = two, one
    total = 0.0
    if two > 0.0 and one < 38.0:
        a = two / one if math.isfinite(one) else 0.0
        for q in range(X14.size):
            x = a * X14[q]
            total += W14[q] * math.exp(-0.5 * one * one * (1.0 + x * x)) / (1.0 + x * x)
        total *= a * 0.15915494309189535
    if swapped:
        # T(h, a) + T(a h, 1/a) = (1 - erf erf)/4 for positive h and a.
        total = 0.25 - 0.25 * math.erf(one * 0.7071067811865476) * math.erf(two * 0.7071067811865476) - total
    return total if (h >= 0.0) == (w >= 0.0) else -total


@njit(error_model="numpy", fastmath={"contract", "nsz"}, cache=True)
def sign_moment2(h: float, k: float, rho: float) -> float:
    """Return E[sign(u + h) sign(v + k)] for standard normal u, v of correlation rho; absolute error about 1e-15."""
    if h == 0.0 and k == 0.0:
        return 0.6366197723675814 * math.asin(rho)
    if not (abs(h) < math.inf and abs(k) < math.inf and rho == rho):
        # A threshold at infinity decides its sign.
        return math.erf(h * 0.7071067811865476) * math.erf(k * 0.7071067811865476) + 0.0 * rho
    if abs(rho) <= 0.6:
        top = math.asin(rho)
        total = 0.0
        for q in range(X10.size):
            s = math.sin(top * X10[q])
            total += W10[q] * math.exp(-0.5 * (h * h + k * k - 2.0 * h * k * s) / ((1.0 - s) * (1.0 + s)))
        return 0.6366197723675814 * top * total + math.erf(h * 0.7071067811865476) * math.erf(k * 0.7071067811865476)
    free = (1.0 - rho) * (1.0 + rho)
    if not free > 0.0:
        # One field, or its negative: the signs differ between the two thresholds only.
        side = 1.0 if rho > 0.0 else -1.0
        return side * (1.0 - abs(math.erf(h * 0.7071067811865476) - math.erf(side * k * 0.7071067811865476)))
    root = math.sqrt(free)
    total = 1.0 - 4.0 * owen_t(h, (k - rho * h) / root) - 4.0 * owen_t(k, (h - rho * k) / root)
    return total if (h >= 0.0) == (k >= 0.0) else total - 2.0


@njit(error_model="numpy", cache=True)
def threshold(m: float, v: float) -> float:
    """Return m/sqrt(v); a field that is fixed has the sign of its mean, or none."""
    if v > 0.0:
        return m / math.sqrt(v)
    if m != m or v != v:
        return math.nan
    return math.inf if m > 0.0 else -math.inf if m < 0.0 else 0.0


@njit(error_model="numpy", cache=True)
def density_of_zero(m: float, v: float) -> float:
    """Return the density at zero of a Gaussian of mean m and variance v; 0 where it is fixed."""
    if v > 0.0:
        return 0.3989422804014327 / math.sqrt(v) * math.exp(-0.5 * m * m / v)
    return 0.0 if v <= 0.0 and m == m else math.nan


@njit(error_model="numpy", fastmath={"contract", "nsz"}, cache=True)
def variance_given(a: float, b: float, c: float, det: float) -> float:
    """Return det = 1 - c^2 times the variance of a field given two of correlation c, a and b its own with them, a >= b.

    From the differences to the first where the two nearly coincide: no cancellation.
    """
    if a > 0.9:
        e, other = 1.0 - a, b - c
        return 2.0 * e * (det - c * other) - e * e - other * other
    return det - (a * a + b * b - 2.0 * c * a * b)


@njit(error_model="numpy", fastmath={"contract", "nsz"}, cache=True)
def mean_given(h: float, ha: float, hb: float, a: float, b: float, c: float, det: float) -> float:
    """Return det times the mean h of that field given u_a = -h_a, u_b = -h_b."""
    if a > 0.9:
        e, other = 1.0 - a, b - c
        return (h - ha) * det + ha * (e + c * other) - hb * (other + c * e)
    return h * det - ha * (a - c * b) - hb * (b - c * a)


@njit(error_model="numpy", fastmath={"contract", "nsz"}, cache=True)
def threshold_given(m: float, v: float, det: float) -> float:
    """Return the threshold of that field; one that the pair determines has the sign of its mean, or none.

    Rounding gives such a mean a sign of its own: where two fields are one, the two sides must cancel.
    """
    if v > 1e-18 or v != v:
        return m / math.sqrt(v * det)
    return threshold(m if abs(m) > 1e-9 * math.sqrt(det) else 0.0, 0.0)


@njit(error_model="numpy", fastmath={"contract", "nsz"}, cache=True)
def plackett_signs(
    hi: float, hj: float, hk: float, hl: float,
    rij: float, rik: float, ril: float, rjk: float, rjl: float, rkl: float,
    alone: bool, three: bool, hard: bool,
) -> float:  # fmt: skip
    """Integrate the moment of k (and l) given u_i = -h_i, u_j = -h_j over the angle of (i, j) from 0 to asin(r_ij).

    As in `orthant.plackett_pair`, correlations across the cut grow along the path. `three`: there is no field l.
    """
    if rij == 0.0:
        return 0.0
    top = rij / (1.0 + math.sqrt((1.0 - rij) * (1.0 + rij)))
    side = 1.0 if rij > 0.0 else -1.0
    gap = hi - side * hj
    total = 0.0
    nodes = HARD_NODES if hard else NODES
    weights = HARD_WEIGHTS if hard else WEIGHTS
    for q in range(nodes.size):
        tau = top * nodes[q]
        slope = 2.0 / (1.0 + tau * tau)
        c = tau * slope
        t = c / rij
        # 1 - c^2 and the exponent without cancellation as c approaches one or minus one.
        root = (1.0 - tau) * (1.0 + tau) * 0.5 * slope
        det = root * root
        weight = weights[q] * slope * math.exp(-0.5 * gap * gap / det - side * hi * hj / (1.0 + side * c))
        # Each field is compared with the one of the pair that it is closest to; a sign is odd.
        a = rik * t if alone else rik
        b = rjk if alone else rjk * t
        ks = -1.0 if (a if abs(a) > abs(b) else b) < 0.0 else 1.0
        a, b, h = ks * a, ks * b, ks * hk
        swapped = b > a
        if swapped:
            vk, mk = variance_given(b, a, c, det), mean_given(h, hj, hi, b, a, c, det)
        else:
            vk, mk = variance_given(a, b, c, det), mean_given(h, hi, hj, a, b, c, det)
        if three:
            total += weight * ks * math.erf(0.7071067811865476 * threshold_given(mk, vk, det))
            continue
        p, q_ = ril * t, rjl
        ls = -1.0 if (p if abs(p) > abs(q_) else q_) < 0.0 else 1.0
        p, q_, h = ls * p, ls * q_, ls * hl
        if q_ > p:
            vl, ml = variance_given(q_, p, c, det), mean_given(h, hj, hi, q_, p, c, det)
        else:
            vl, ml = variance_given(p, q_, c, det), mean_given(h, hi, hj, p, q_, c, det)
        kl = ks * ls * (rkl if alone else rkl * t)
        if swapped:
            a, b, p, q_ = b, a, q_, p
        if a > 0.9:
            num = det * (kl - p) + (1.0 - a) * (p - c * q_) - (b - c) * (q_ - c * p)
        else:
            num = det * kl - (a * p + b * q_ - c * (a * q_ + b * p))
        if vk > 1e-18 and vl > 1e-18:
            r = min(1.0, max(-1.0, num / math.sqrt(vk * vl)))
        else:
            # Of three fields that are one, two signs given the third agree in two of three orders.
            r = 0.5 if vk <= 1e-18 and vl <= 1e-18 and kl > 0.999999999 else 0.0
        total += weight * ks * ls * sign_moment2(threshold_given(mk, vk, det), threshold_given(ml, vl, det), r)
    return 0.6366197723675814 * top * total


@njit(error_model="numpy", fastmath={"contract", "nsz"}, cache=True)
def sign_moment3(h: float, k: float, l: float, r12: float, r13: float, r23: float) -> float:
    """Return E[sign(u1 + h) sign(u2 + k) sign(u3 + l)] for standard normal u of these correlations."""
    if abs(h) == math.inf:
        return math.copysign(1.0, h) * sign_moment2(k, l, r23)
    if abs(k) == math.inf:
        return math.copysign(1.0, k) * sign_moment2(h, l, r13)
    if abs(l) == math.inf:
        return math.copysign(1.0, l) * sign_moment2(h, k, r12)
    cut1, cut2, cut3 = max(abs(r12), abs(r13)), max(abs(r12), abs(r23)), max(abs(r13), abs(r23))
    # Relabel so that field 1 is the one that has least to do with the others.
    if cut2 <= cut3 and cut2 < cut1:
        h, k, r13, r23 = k, h, r23, r13
    elif cut3 < cut1:
        h, l, r12, r23 = l, h, r23, r12
    hard = 1.0 + 2.0 * r12 * r13 * r23 - r12 * r12 - r13 * r13 - r23 * r23 < DET
    total = math.erf(h * 0.7071067811865476) * sign_moment2(k, l, r23)
    for pair in range(2):
        first = pair == 0
        hj, hk, rij, rik = (k, l, r12, r13) if first else (l, k, r13, r12)
        total += plackett_signs(h, hj, hk, 0.0, rij, rik, 0.0, r23, 0.0, 0.0, True, True, hard)
    return total


@njit(error_model="numpy", fastmath={"contract", "nsz"}, cache=True)
def shifted_sign_moment4(
    h1: float, h2: float, h3: float, h4: float,
    r12: float, r13: float, r14: float, r23: float, r24: float, r34: float,
) -> float:  # fmt: skip
    """Return E[sign(u1 + h1) ... sign(u4 + h4)] for standard normal u of these correlations.

    The cut at which Plackett's path begins is chosen as in `orthant.sign_moment4`.
    """
    if abs(h1) == math.inf:
        return math.copysign(1.0, h1) * sign_moment3(h2, h3, h4, r23, r24, r34)
    if abs(h2) == math.inf:
        return math.copysign(1.0, h2) * sign_moment3(h1, h3, h4, r13, r14, r34)
    if abs(h3) == math.inf:
        return math.copysign(1.0, h3) * sign_moment3(h1, h2, h4, r12, r14, r24)
    if abs(h4) == math.inf:
        return math.copysign(1.0, h4) * sign_moment3(h1, h2, h3, r12, r13, r23)
    hard, cut = nearly_singular4(r12, r13, r14, r23, r24, r34), weakest_cut4(r12, r13, r14, r23, r24, r34)
    alone = cut <= 4
    if alone:
        if cut == 2:
            h1, h2, r13, r14, r23, r24 = h2, h1, r23, r24, r13, r14
        elif cut == 3:
            h1, h3, r12, r14, r23, r34 = h3, h1, r23, r34, r12, r14
        elif cut == 4:
            h1, h4, r12, r13, r24, r34 = h4, h1, r24, r34, r12, r13
        total = math.erf(h1 * 0.7071067811865476) * sign_moment3(h2, h3, h4, r23, r24, r34)
    else:
        if cut == 13:
            h2, h3, r12, r13, r24, r34 = h3, h2, r13, r12, r34, r24
        elif cut == 14:
            h2, h4, r12, r14, r23, r34 = h4, h2, r14, r12, r34, r23
        total = sign_moment2(h1, h2, r12) * sign_moment2(h3, h4, r34)
    for pair in range(3 if alone else 4):
        if alone:
            if pair == 0:
                hi, hj, hk, hl, ij, ik, il, jk, jl, kl = h1, h2, h3, h4, r12, r13, r14, r23, r24, r34
            elif pair == 1:
                hi, hj, hk, hl, ij, ik, il, jk, jl, kl = h1, h3, h2, h4, r13, r12, r14, r23, r34, r24
            else:
                hi, hj, hk, hl, ij, ik, il, jk, jl, kl = h1, h4, h2, h3, r14, r12, r13, r24, r34, r23
        else:
            if pair == 0:
                hi, hj, hk, hl, ij, ik, il, jk, jl, kl = h1, h3, h2, h4, r13, r12, r14, r23, r34, r24
            elif pair == 1:
                hi, hj, hk, hl, ij, ik, il, jk, jl, kl = h1, h4, h2, h3, r14, r12, r13, r24, r34, r23
            elif pair == 2:
                hi, hj, hk, hl, ij, ik, il, jk, jl, kl = h2, h3, h1, h4, r23, r12, r24, r13, r34, r14
            else:
                hi, hj, hk, hl, ij, ik, il, jk, jl, kl = h2, h4, h1, h3, r24, r12, r23, r14, r34, r13
        total += plackett_signs(hi, hj, hk, hl, ij, ik, il, jk, jl, kl, alone, False, hard)
    return total


THRESHOLD_SOURCE = "\n\n\n".join(
    [
        "\n".join(f"{n} = np.array({globals()[n].tolist()!r})" for n in ("X10", "W10", "X14", "W14")),
        *(inspect.getsource(f.py_func) for f in (owen_t, sign_moment2)),
    ]
)
# Needs that source, and the nodes of `orthant.ORTHANT_SOURCE`.
KINK_SOURCE = "\n\n\n".join(
    inspect.getsource(f.py_func)
    for f in (
        threshold, density_of_zero, variance_given, mean_given, threshold_given, plackett_signs, sign_moment3,
        shifted_sign_moment4,
    )
)  # fmt: skip
