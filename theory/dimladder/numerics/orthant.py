"""Moments of signs of four centred Gaussians, by Plackett's identity.

The derivative of an orthant moment in one correlation is an arcsine of the conditional correlation of the two other
fields (Plackett 1954). Integrating it from a block-diagonal correlation matrix, where the moment factorises, gives the
four-point function; with theta = asin(rho), or tau = tan(theta/2), as variable the integrand has no singularity.

Generated modules are self-contained: `ORTHANT_SOURCE` is the source text of the functions below.
"""

from __future__ import annotations

import inspect
import math

import numpy as np
from numpy.typing import NDArray

from .native import njit
from .quadrature import gauss_legendre
from .special import asin

__all__ = [
    "ORTHANT_SOURCE",
    "complement",
    "correlation",
    "correlation_angle",
    "density_at_zero",
    "nearly_singular4",
    "orthant_probability4",
    "schur",
    "sign_moment4",
    "sign_slope4",
    "weakest_cut4",
]


def _rule(nodes: int, power: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Legendre in s with tau = 1 - (1 - s)^power, on [0, 1].

    A nearly singular correlation matrix puts a square-root branch point just beyond the end of the path; the
    substitution moves it away to a root of that distance.
    """
    x, w = gauss_legendre(nodes)
    return 1.0 - (0.5 - 0.5 * x) ** power, 0.5 * power * w * (0.5 - 0.5 * x) ** (power - 1)


# The first rule is exact to 1e-14 for determinants above DET, the second to 1e-13 down to one of about 1e-8.
NODES, WEIGHTS = _rule(20, 2)
HARD_NODES, HARD_WEIGHTS = _rule(48, 4)
DET = 0.02
# A determinant of three correlations, in units of the largest difference from 1, that rounding them leaves.
COPLANAR = 2e-15


@njit(error_model="numpy", cache=True)
def complement(c: float, x: float, y: float, v: float) -> float:
    """Return c - x y / v with the rounding errors of both products recovered (Dekker), for conditional covariances.

    Relative accuracy matters when two fields nearly coincide: the difference is then far smaller than its terms.
    """
    split = 134217729.0
    p = c * v
    t = split * c
    ch = t - (t - c)
    cl = c - ch
    t = split * v
    vh = t - (t - v)
    vl = v - vh
    e = ((ch * vh - p) + ch * vl + cl * vh) + cl * vl
    q = x * y
    t = split * x
    xh = t - (t - x)
    xl = x - xh
    t = split * y
    yh = t - (t - y)
    yl = y - yh
    f = ((xh * yh - q) + xh * yl + xl * yh) + xl * yl
    return ((p - q) + (e - f)) / v


@njit(error_model="numpy", cache=True)
def schur(c: float, x: float, y: float, v: float) -> float:
    """Return `complement`, or c where v vanishes: a field that is fixed tells nothing."""
    return complement(c, x, y, v) if v > 0.0 or v != v else c


@njit(error_model="numpy", fastmath={"contract", "nsz"}, cache=True)
def correlation(s: float, a: float, b: float) -> float:
    """Return s/sqrt(a b) within [-1, 1]; 0 where a variance vanishes (a field that is fixed has no sign on average)."""
    if not (a > 0.0 and b > 0.0):
        return 0.0 if a == a and b == b and s == s else math.nan
    r = s / math.sqrt(a * b)
    return min(1.0, max(-1.0, r))


@njit(error_model="numpy", cache=True)
def correlation_angle(s: float, a: float, b: float) -> float:
    """Return asin(s/sqrt(a b)), accurate where the fields nearly coincide; 0 where a variance vanishes."""
    if not (a > 0.0 and b > 0.0):
        return 0.0 if a == a and b == b and s == s else math.nan
    return math.atan2(s, math.sqrt(max(schur(b, s, s, a) * a, 0.0)))


@njit(error_model="numpy", cache=True)
def density_at_zero(v: float) -> float:
    """Return 1/sqrt(2 pi v), the density at zero; 0 for a field that is fixed (its weight is then zero too)."""
    return 0.3989422804014327 / math.sqrt(v) if v > 0.0 else (0.0 if v <= 0.0 else math.nan)


@njit(error_model="numpy", fastmath={"contract", "nsz"}, cache=True)
def plackett_pair(
    rij: float, rik: float, ril: float, rjk: float, rjl: float, rkl: float, alone: bool, hard: bool
) -> float:
    """Integrate asin of the correlation of (k, l) given i = j = 0 over theta from 0 to asin(rij).

    Correlations across the cut grow with t = sin(theta)/rij, the others keep their value: i is `alone` on its side, or
    together with k.
    """
    if rij == 0.0:
        return 0.0
    # c = sin(theta) = 2 tau/(1 + tau^2): no sine to compute.
    top = rij / (1.0 + math.sqrt((1.0 - rij) * (1.0 + rij)))
    total = 0.0
    nodes = HARD_NODES if hard else NODES
    weights = HARD_WEIGHTS if hard else WEIGHTS
    for q in range(nodes.size):
        tau = top * nodes[q]
        slope = 2.0 / (1.0 + tau * tau)
        c = tau * slope
        t = c / rij
        ik = rik * t if alone else rik
        il = ril * t
        jk = rjk if alone else rjk * t
        jl = rjl
        kl = rkl if alone else rkl * t
        det = (1.0 - c) * (1.0 + c)
        if ik > 0.9:
            # Fields i and k nearly coincide: the same numbers, from the differences e, dj, dl without cancellation.
            e, dj, dl = 1.0 - ik, jk - c, kl - il
            num = det * dl + e * (il - c * jl) - dj * (jl - c * il)
            vk = 2.0 * e * (det - c * dj) - e * e - dj * dj
        else:
            num = det * kl - (ik * il + jk * jl - c * (ik * jl + jk * il))
            vk = det - (ik * ik + jk * jk - 2.0 * c * ik * jk)
        if jl > 0.9:
            e, di = 1.0 - jl, il - c
            vl = 2.0 * e * (det - c * di) - e * e - di * di
        else:
            vl = det - (il * il + jl * jl - 2.0 * c * il * jl)
        # A field that the pair determines has no sign of its own: its two sides cancel against the twin pair's.
        free = vk > 1e-18 and vl > 1e-18
        r = num / math.sqrt(vk * vl if free else 1.0)
        r = min(1.0, max(-1.0, r)) if free else 0.0
        total += weights[q] * slope * asin(r)
    return top * total


@njit(error_model="numpy", fastmath={"contract", "nsz"}, cache=True)
def nearly_singular4(r12: float, r13: float, r14: float, r23: float, r24: float, r34: float) -> bool:
    """Return whether the determinant of these correlations asks for the finer rule."""
    e12 = 1.0 - r12 * r12
    s33, s34, s44 = 1.0 - r13 * r13, r34 - r13 * r14, 1.0 - r14 * r14
    t23, t24 = r23 - r12 * r13, r24 - r12 * r14
    return (e12 * s33 - t23 * t23) * (e12 * s44 - t24 * t24) - (e12 * s34 - t23 * t24) ** 2 < DET * e12


@njit(error_model="numpy", cache=True)
def weakest_cut4(r12: float, r13: float, r14: float, r23: float, r24: float, r34: float) -> int:
    """Return the cut of four fields into two blocks with the smallest largest correlation across it.

    1 to 4: this field against the others; 12, 13, 14: these two against the others.
    """
    cut1 = max(abs(r12), abs(r13), abs(r14))
    cut2 = max(abs(r12), abs(r23), abs(r24))
    cut3 = max(abs(r13), abs(r23), abs(r34))
    cut4 = max(abs(r14), abs(r24), abs(r34))
    cut12 = max(abs(r13), abs(r14), abs(r23), abs(r24))
    cut13 = max(abs(r12), abs(r14), abs(r23), abs(r34))
    cut14 = max(abs(r12), abs(r13), abs(r24), abs(r34))
    single = min(cut1, cut2, cut3, cut4)
    double = min(cut12, cut13, cut14)
    if single <= double:
        return 1 if single == cut1 else 2 if single == cut2 else 3 if single == cut3 else 4
    return 12 if double == cut12 else 13 if double == cut13 else 14


@njit(error_model="numpy", cache=True)
def coplanar3(r12: float, r13: float, r23: float) -> bool:
    """Return whether three fields have correlations of vectors in one plane, up to the rounding of correlations."""
    e12, e13, e23 = 1.0 - abs(r12), 1.0 - abs(r13), 1.0 - abs(r23)
    if r12 * r13 * r23 < 0.0:
        # No choice of signs makes all three positive: the weakest correlation stays negative.
        if e12 >= e13 and e12 >= e23:
            e12 = 2.0 - e12
        elif e13 >= e23:
            e13 = 2.0 - e13
        else:
            e23 = 2.0 - e23
    # The determinant by differences from 1: nearly parallel fields cancel nothing.
    det = 2.0 * (e12 * e13 + e12 * e23 + e13 * e23 - e12 * e13 * e23) - (e12 * e12 + e13 * e13 + e23 * e23)
    return det <= COPLANAR * max(e12, e13, e23)


@njit(error_model="numpy", cache=True)
def coplanar_sum(rij: float, rik: float, ril: float, rjk: float, rjl: float, rkl: float) -> float:
    """Return asin(rij), asin(rik), asin(ril) summed with signs: pi/2 times the moment of four if j, k, l are coplanar.

    As the direction in the plane turns, the three signs change one after another, and so does their product: it is the
    sum of the three, each with the sign of the partial correlation of the two others.
    """
    j, k, l = rkl - rjk * rjl, rjl - rjk * rkl, rjk - rjl * rkl
    sj, sk, sl = 1.0 if j >= 0.0 else -1.0, 1.0 if k >= 0.0 else -1.0, 1.0 if l >= 0.0 else -1.0
    # These signs multiply to -1; rounding decides the least one where two fields are nearly parallel.
    if abs(j) <= abs(k) and abs(j) <= abs(l):
        sj = -sk * sl
    elif abs(k) <= abs(l):
        sk = -sj * sl
    else:
        sl = -sj * sk
    return sj * asin(rij) + sk * asin(rik) + sl * asin(ril)


@njit(error_model="numpy", fastmath={"contract", "nsz"}, cache=True)
def sign_moment4(r12: float, r13: float, r14: float, r23: float, r24: float, r34: float) -> float:
    """Return E[sign(u1) sign(u2) sign(u3) sign(u4)] for unit-variance Gaussians with these correlations.

    Of the seven ways to cut the four fields into two blocks, the one with the smallest largest correlation across the
    cut is the start of Plackett's path. Absolute error about 1e-14 unless all four fields are nearly parallel. Three
    fields in a plane have arcsines of correlations of modulus one on all of a path, where they are ill-conditioned: a
    finite sum stands for them.
    """
    hard, cut = nearly_singular4(r12, r13, r14, r23, r24, r34), weakest_cut4(r12, r13, r14, r23, r24, r34)
    alone = cut <= 4
    if hard:
        if coplanar3(r23, r24, r34):
            return 0.6366197723675814 * coplanar_sum(r12, r13, r14, r23, r24, r34)
        if coplanar3(r13, r14, r34):
            return 0.6366197723675814 * coplanar_sum(r12, r23, r24, r13, r14, r34)
        if coplanar3(r12, r14, r24):
            return 0.6366197723675814 * coplanar_sum(r13, r23, r34, r12, r14, r24)
        if coplanar3(r12, r13, r23):
            return 0.6366197723675814 * coplanar_sum(r14, r24, r34, r12, r13, r23)
    if alone:
        # One field against three: relabel so that field 1 is the single one.
        if cut == 2:
            r13, r14, r23, r24 = r23, r24, r13, r14
        elif cut == 3:
            r12, r14, r23, r34 = r23, r34, r12, r14
        elif cut == 4:
            r12, r13, r24, r34 = r24, r34, r12, r13
        total = 0.0
    else:
        # Two against two: relabel so that the blocks are {1, 2} and {3, 4}.
        if cut == 13:
            r12, r13, r24, r34 = r13, r12, r34, r24
        elif cut == 14:
            r12, r14, r23, r34 = r14, r12, r34, r23
        total = asin(r12) * asin(r34)
    # The pair (i, j) across the cut, and the two other fields k, l. One call in a loop: it is compiled into place once.
    for pair in range(3 if alone else 4):
        if alone:
            if pair == 0:
                ij, ik, il, jk, jl, kl = r12, r13, r14, r23, r24, r34
            elif pair == 1:
                ij, ik, il, jk, jl, kl = r13, r12, r14, r23, r34, r24
            else:
                ij, ik, il, jk, jl, kl = r14, r12, r13, r24, r34, r23
        else:
            if pair == 0:
                ij, ik, il, jk, jl, kl = r13, r12, r14, r23, r34, r24
            elif pair == 1:
                ij, ik, il, jk, jl, kl = r14, r12, r13, r24, r34, r23
            elif pair == 2:
                ij, ik, il, jk, jl, kl = r23, r12, r24, r13, r34, r14
            else:
                ij, ik, il, jk, jl, kl = r24, r12, r23, r14, r34, r13
        total += plackett_pair(ij, ik, il, jk, jl, kl, alone, hard)
    return 0.4052847345693511 * total


@njit(error_model="numpy", cache=True)
def sign_slope4(rij: float, rik: float, ril: float, rjk: float, rjl: float, rkl: float) -> float:
    """Return the derivative of `sign_moment4` in the correlation of the pair (i, j); 0 where a field has no freedom."""
    det = (1.0 - rij) * (1.0 + rij)
    vk = det - (rik * rik + rjk * rjk - 2.0 * rij * rik * rjk)
    vl = det - (ril * ril + rjl * rjl - 2.0 * rij * ril * rjl)
    if not (det > 0.0 and vk > 0.0 and vl > 0.0):
        return 0.0
    r = (det * rkl - (rik * ril + rjk * rjl - rij * (rik * rjl + rjk * ril))) / math.sqrt(vk * vl)
    return 0.4052847345693511 / math.sqrt(det) * math.asin(min(1.0, max(-1.0, r)))


def orthant_probability4(r12: float, r13: float, r14: float, r23: float, r24: float, r34: float) -> float:
    """Return P(u1 > 0, u2 > 0, u3 > 0, u4 > 0) for unit-variance Gaussians with these correlations."""
    pairs = sum(math.asin(r) for r in (r12, r13, r14, r23, r24, r34)) * 2 / math.pi
    return (1.0 + pairs + float(sign_moment4.of_numbers(r12, r13, r14, r23, r24, r34))) / 16.0


_PRINTED = (
    complement,
    schur,
    correlation,
    correlation_angle,
    density_at_zero,
    plackett_pair,
    nearly_singular4,
    weakest_cut4,
    coplanar3,
    coplanar_sum,
    sign_moment4,
    sign_slope4,
)
ORTHANT_SOURCE = "\n\n\n".join(
    [
        "\n".join(
            f"{n} = np.array({globals()[n].tolist()!r})" for n in ("NODES", "WEIGHTS", "HARD_NODES", "HARD_WEIGHTS")
        )
        + f"\nDET = {DET}\nCOPLANAR = {COPLANAR}",
        *(inspect.getsource(f.py_func) for f in _PRINTED),
    ]
)
