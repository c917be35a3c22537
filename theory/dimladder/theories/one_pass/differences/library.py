"""Functions that every module of the difference form contains (`near_code`), pasted as they stand here.

The two constants below are those of a module, which sets its own. Nothing here runs but in generated modules.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....numerics.orthant import complement

Array = NDArray[np.float64]
# Where the parameters of the target begin, and whether readouts are part of the state.
FIRST = 8
TRAINED = True


def load(
    y: Array, p: Array, C: Array, r: Array, e: Array, a: Array, q_: Array, s_: Array,
) -> None:  # fmt: skip
    """Fill the covariance C of units, nodes and differences, and the weights, from state and parameters.

    Every field is sign x teacher + reach x difference. The last four columns of C hold sign, row of the teacher, reach
    and row of the difference, -1 where there is none.
    """
    K = int(p[0])
    M = int(p[1])
    N = K + M
    first = FIRST + M + M * M + K
    n = int(p[first])
    S = K * n
    match, sign, parity = p[first + 1 :], p[first + 1 + K :], p[first + 1 + 2 * K :]
    node, weight = p[first + 1 + 3 * K :], p[first + 1 + 3 * K + n :]
    pairs = K * (K + 1) // 2
    if TRAINED:
        for i in range(K):
            a[i] = y[pairs + K * M + i]
        for m in range(M):
            pivot = -1
            others = 0.0
            for i in range(K):
                if match[i] == m:
                    if pivot < 0:
                        pivot = i
                    else:
                        others += parity[i] * a[i]
            e[K + m] = -p[FIRST + m]
            if pivot >= 0:
                e[K + m] = a[pivot]
                a[pivot] = parity[pivot] * (p[FIRST + m] + e[K + m] - others)
    else:
        for m in range(M):
            e[K + m] = -p[FIRST + m]
        for i in range(K):
            a[i] = p[FIRST + M + M * M + i]
            if match[i] >= 0.0:
                e[K + int(match[i])] += parity[i] * a[i]
    F = N + 2 * S
    form = C[:, F:]
    for i in range(K):
        matched = match[i] >= 0.0
        e[i] = 0.0 if matched else a[i]
        teacher, own = K + match[i] if matched else -1.0, N + S + i * n
        form[i, 0], form[i, 1], form[i, 2], form[i, 3] = sign[i], teacher, 1.0, own
        for q in range(n):
            at = N + i * n + q
            r[at] = a[i] * weight[q] if matched else 0.0
            q_[at] = a[i] * r[at]
            s_[at] = 2.0 * (1.0 - 2.0 * node[q]) * q_[at]
            form[at, 0], form[at, 1], form[at, 2], form[at, 3] = sign[i], teacher, node[q], own
            form[at + S, 0], form[at + S, 1], form[at + S, 2], form[at + S, 3] = 0.0, -1.0, 1.0, own
    for m in range(M):
        form[K + m, 0], form[K + m, 1], form[K + m, 2], form[K + m, 3] = 1.0, K + m, 0.0, -1.0
    for one in range(F):
        s, t, x, i = form[one, 0], int(form[one, 1]) - K, form[one, 2], (int(form[one, 3]) - N - S) // n
        for two in range(one + 1):
            s2, t2, x2, k = form[two, 0], int(form[two, 1]) - K, form[two, 2], (int(form[two, 3]) - N - S) // n
            total = 0.0
            if t >= 0 and t2 >= 0:
                total = s * s2 * p[FIRST + M + t * M + t2]
            if t >= 0 and x2 != 0.0:
                total += s * x2 * y[pairs + k * M + t]
            if t2 >= 0 and x != 0.0:
                total += s2 * x * y[pairs + i * M + t2]
            if x != 0.0 and x2 != 0.0:
                total += x * x2 * (y[i * (i + 1) // 2 + k] if i >= k else y[k * (k + 1) // 2 + i])
            C[one, two] = total
            C[two, one] = total


def residue(C: Array, b: int, a1: int, a2: int) -> tuple[int, float, int, float]:
    """Write a field, given that a1 (and a2) are zero, as a sum of two fields: rows and factors.

    Where it has the teacher of one of them, that is expressed by their differences: what is left is small.
    """
    F = C.shape[0]
    s, t, x, d = C[b, F], int(C[b, F + 1]), C[b, F + 2], int(C[b, F + 3])
    if t >= 0:
        for a in (a1, a2):
            if a >= 0 and int(C[a, F + 1]) == t:
                return int(C[a, F + 3]), -s * C[a, F + 2] / C[a, F], d, x
    return t, s, d, x


def plain(C: Array, b: int, c: int, a1: int, a2: int) -> float:
    """Covariance of what `residue` leaves of b and c, before conditioning."""
    rb, fb, db, xb = residue(C, b, a1, a2)
    rc, fc, dc, xc = residue(C, c, a1, a2)
    total = 0.0
    if rb >= 0 and rc >= 0:
        total += fb * fc * C[rb, rc]
    if rb >= 0 and dc >= 0:
        total += fb * xc * C[rb, dc]
    if db >= 0 and rc >= 0:
        total += xb * fc * C[db, rc]
    if db >= 0 and dc >= 0:
        total += xb * xc * C[db, dc]
    return total


def beside(C: Array, b: int, a: int, a1: int, a2: int) -> float:
    """Covariance of what is left of b with the whole of a."""
    rb, fb, db, xb = residue(C, b, a1, a2)
    return (fb * C[rb, a] if rb >= 0 else 0.0) + (xb * C[db, a] if db >= 0 else 0.0)


def given(C: Array, b: int, c: int, a1: int, a2: int) -> float:
    """Covariance of b and c given that a1 (and a2, unless -1) are zero; keeps its digits for fields nearly equal."""
    if a2 < 0:
        return complement(plain(C, b, c, a1, -1), beside(C, b, a1, a1, -1), beside(C, c, a1, a1, -1), C[a1, a1])
    # What is left of a2 given a1, and of b and c given both: first a1 is conditioned on, then that.
    v = C[a1, a1]
    b1, c1 = beside(C, b, a1, a1, a2), beside(C, c, a1, a1, a2)
    t1 = beside(C, a2, a1, a1, -1)
    r2, f2, d2, x2 = residue(C, a2, a1, -1)
    bt = (f2 * beside(C, b, r2, a1, a2) if r2 >= 0 else 0.0) + (x2 * beside(C, b, d2, a1, a2) if d2 >= 0 else 0.0)
    ct = (f2 * beside(C, c, r2, a1, a2) if r2 >= 0 else 0.0) + (x2 * beside(C, c, d2, a1, a2) if d2 >= 0 else 0.0)
    left = complement(plain(C, b, c, a1, a2), b1, c1, v)
    v2 = complement(plain(C, a2, a2, a1, -1), t1, t1, v)
    # A field that a1 determines has no density of its own: what is multiplied by it does not matter.
    return left if v2 <= 0.0 else complement(left, complement(bt, b1, t1, v), complement(ct, c1, t1, v), v2)


def offset(y: Array, p: Array) -> float:
    """Return the constant of the error, sum_a c_a g_0: g_0 times what the students' readouts miss of the teachers'."""
    K, M = int(p[0]), int(p[1])
    first = FIRST + M + M * M + K
    constant = p[first + 2 + 3 * K + 2 * int(p[first])]
    if constant == 0.0:
        return 0.0
    readout = y[K * (K + 1) // 2 + K * M :] if TRAINED else p[FIRST + M + M * M :]
    total = 0.0
    for m in range(M):
        gap, met = -p[FIRST + m], False
        for i in range(K):
            if p[first + 1 + i] == m:
                if not TRAINED:
                    gap += p[first + 1 + 2 * K + i] * readout[i]
                elif not met:
                    # The gap is kept by the first student; constants of others, and of mirrored ones, differ.
                    gap = readout[i]
                met = True
        total += gap
    for i in range(K):
        if p[first + 1 + i] < 0.0:
            total += readout[i]
    return constant * total


def lift(y: Array, p: Array) -> tuple[Array, Array]:
    """Return state and parameters of the erf network that a network of sums of erfs is."""
    K, M = int(p[0]), int(p[1])
    first = FIRST + M + M * M + K
    n = int(p[first])
    own = first + 1 + 3 * K + 2 * n
    J = int(p[own])
    v, b = p[own + 2 : own + 2 + J], p[own + 2 + J : own + 2 + 2 * J]
    pairs, KL, ML = K * (K + 1) // 2, K * J, M * J
    pairs_lifted, first_lifted = KL * (KL + 1) // 2, FIRST + ML + ML * ML + KL
    yl = np.zeros(pairs_lifted + KL * ML + KL)
    pl = np.zeros(first_lifted + 2 + 3 * KL + 2 * n)
    pl[:FIRST] = p[:FIRST]
    pl[0], pl[1], pl[4] = KL, ML, math.sqrt(p[4] ** 2 + offset(y, p) ** 2)
    pl[first_lifted] = n
    for q in range(2 * n):
        pl[first_lifted + 1 + 3 * KL + q] = p[first + 1 + 3 * K + q]
    for m in range(M):
        for s in range(J):
            pl[FIRST + m * J + s] = p[FIRST + m] * v[s]
            for l in range(M):
                for r in range(J):
                    pl[FIRST + ML + (m * J + s) * ML + l * J + r] = b[s] * b[r] * p[FIRST + M + m * M + l]
    for i in range(K):
        for s in range(J):
            at = i * J + s
            match = p[first + 1 + i]
            pl[first_lifted + 1 + at] = match * J + s if match >= 0.0 else -1.0
            pl[first_lifted + 1 + KL + at] = p[first + 1 + K + i]
            pl[first_lifted + 1 + 2 * KL + at] = p[first + 1 + K + i]
            pl[FIRST + ML + ML * ML + at] = p[FIRST + M + M * M + i] * v[s]
            yl[pairs_lifted + KL * ML + at] = (y[pairs + K * M + i] if TRAINED else 0.0) * v[s]
            for m in range(M):
                for r in range(J):
                    yl[pairs_lifted + at * ML + m * J + r] = b[s] * b[r] * y[pairs + i * M + m]
            for k in range(i + 1):
                for r in range(J):
                    other = k * J + r
                    if other <= at:
                        yl[at * (at + 1) // 2 + other] = b[s] * b[r] * y[i * (i + 1) // 2 + k]
    return yl, pl


def gap_rates(p: Array, first: int, K: int, M: int, da: Array) -> None:
    """Turn rates of readouts into the state's: of the first student of a teacher, the rate of the gap."""
    for m in range(M):
        pivot = -1
        total = 0.0
        for i in range(K):
            if p[first + 1 + i] == m:
                total += p[first + 1 + 2 * K + i] * da[i]
                if pivot < 0:
                    pivot = i
        if pivot >= 0:
            da[pivot] = total


def pasted(*functions: Callable[..., Any], options: str = "INNER") -> list[str]:
    """Return the source of functions for a generated module."""
    return [line for f in functions for line in (f"@njit(**{options})", inspect.getsource(f), "")]


def constants(first: int, trained: bool) -> list[str]:
    """Return the lines that these functions need at the top of a module."""
    return ["Array = np.ndarray", f"FIRST = {first}", f"TRAINED = {trained}", ""]
