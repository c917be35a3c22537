"""Resolvents of feature covariances: a spectrum, seen through any number of random layers, as functions of one number.

g(z) = (1/k) tr Om (Om + z)^{-1} and h(z) = (1/d) b^T (Om + z)^{-1} b, Om the covariance of the last layer's k features
and b their covariance with the target. For a plain spectrum these are sums over its cells. A random layer with k =
psi k' units turns g and h of the layer below into its own through one scalar zeta(z); it may hand its own
inputs on beside its units. Every layer's z is an
explicit increasing function of the zeta of the lowest layer, so that any depth costs one scalar root.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .basics import OPTIONS, fill
from .native import njit

__all__ = ["effective_ridge", "resolvents"]


@njit(**OPTIONS)
def spectrum_sums(z: Any, shares: Any, eigenvalues: Any, powers: Any, out: Any) -> None:
    """Fill out with g, D_g, h, D_h of a spectrum: g = sum p om/(om + z), h = sum T/(om + z), D_f = f + z f'."""
    fill(out, 0.0)
    for j in range(eigenvalues.size):
        om, r = eigenvalues[j], 1.0 / (eigenvalues[j] + z)
        out[0] += shares[j] * om * r
        out[1] += shares[j] * (om * r) * (om * r)
        out[2] += powers[j] * r
        out[3] += powers[j] * r * (om * r)


@njit(**OPTIONS)
def lift(below: Any, zeta: Any, nodes: Any, out: Any) -> Any:
    """Turn g, D_g, h, D_h of one layer at zeta into z, those of the next and dlog zeta/dlog z; False unless z > 0.

    `nodes` has rows (share, a, b) after a first row (psi, s2, 0): the units of a layer with uncentred input or biases
    differ, and their linear gain a and noise b are averaged over them. Where s2 > 0 the layer hands its inputs on,
    times sqrt(s2), beside its units, which are then all alike:
    1/zeta = s2/z + psi a/(z + b + a zeta g'), (psi + 1) g = psi (1 - z/(z + b + a zeta g')) + s2 zeta g'/z.
    """
    psi, passed = nodes[0, 0], nodes[0, 1]
    drive = zeta * below[0]
    # d drive/d zeta, and drive - zeta d drive/d zeta.
    slope, bend = below[1], zeta * (below[0] - below[1])
    rows = nodes.shape[0]
    if rows == 2:
        a, b = nodes[1, 1], nodes[1, 2]
        z = a * zeta * (psi - below[0]) - b
        if passed > 0.0:
            # The positive root of z^2 + p z = s2 zeta (b + a drive).
            p, c = -z - passed * zeta, 4.0 * passed * zeta * (b + a * drive)
            z = 0.5 * c / (p + math.sqrt(p * p + c)) if p > 0.0 else 0.5 * (math.sqrt(p * p + c) - p)
    else:
        # psi E a/(z + b + a drive) = 1/zeta decreases in z: bracket and Newton.
        low_b = nodes[1, 2]
        top = 0.0
        for i in range(1, rows):
            low_b = min(low_b, nodes[i, 2])
            top += nodes[i, 0] * nodes[i, 1]
        low, high = 0.0, psi * top * zeta
        total = 0.0
        for i in range(1, rows):
            total += nodes[i, 0] * nodes[i, 1] / (nodes[i, 2] + nodes[i, 1] * drive)
        if not total * psi * zeta > 1.0:
            return False
        z = 0.5 * high
        for _ in range(200):
            total, change = 0.0, 0.0
            for i in range(1, rows):
                r = 1.0 / (z + nodes[i, 2] + nodes[i, 1] * drive)
                total += nodes[i, 0] * nodes[i, 1] * r
                change -= nodes[i, 0] * nodes[i, 1] * r * r
            # In the form 1/(psi E ...) - zeta, nearly linear in z.
            gap = 1.0 / (psi * total) - zeta
            if gap > 0.0:
                high = z
            else:
                low = z
            new = z - gap / (-change / (psi * total * total))
            if not low < new < high:
                new = 0.5 * (low + high)
            if abs(new - z) <= 4e-16 * new:
                z = new
                break
            z = new
    if not z > 0.0:
        return False
    second, mixed, square, squared, kept = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(1, rows):
        w, a, b = nodes[i, 0], nodes[i, 1], nodes[i, 2]
        e = b + a * drive
        r = 1.0 / (z + e)
        second += w * a * r * r
        square += w * a * a * r * r
        # 1 - z r = e r, without its cancellation at large z.
        mixed += w * e * r
        squared += w * (e * r) * (e * r)
        kept += w * a * r * r * (b + a * bend)
    below_one = 1.0 - zeta * zeta * psi * slope * square
    # dlog zeta/dlog z, and what it lacks to 1.
    rate = zeta * (z * psi * second + passed / z) / below_one
    lack = zeta * psi * kept / below_one
    out[0] = z
    out[1] = mixed
    out[2] = squared + z * second * slope * rate * zeta
    if passed > 0.0:
        out[1] = (psi * out[1] + passed * drive / z) / (psi + 1.0)
        out[2] = (psi * out[2] + passed * slope * rate * zeta / z) / (psi + 1.0)
    out[3] = below[2]
    out[4] = lack * below[2] + rate * below[3]
    out[5] = rate
    return True


@njit(**OPTIONS)
def climb(zeta: Any, shares: Any, eigenvalues: Any, powers: Any, starts: Any, layers: Any, out: Any) -> Any:
    """Fill out with z, g, D_g, h, D_h of the last layer and dlog zeta/dlog z, the input at zeta; False below z = 0."""
    here = np.empty(4)
    spectrum_sums(zeta, shares, eigenvalues, powers, here)
    at, rate = zeta, 1.0
    out[0] = zeta
    for i in range(4):
        out[1 + i] = here[i]
    for layer in range(starts.size - 1):
        if not lift(here, at, layers[int(starts[layer]) : int(starts[layer + 1])], out):
            return False
        at = out[0]
        rate *= out[5]
        for i in range(4):
            here[i] = out[1 + i]
    out[5] = rate
    return True


@njit("b1(f8, f8[::1], f8[::1], f8[::1], f8[::1], f8[:, ::1], f8[::1])", **OPTIONS)
def resolvents(z: Any, shares: Any, eigenvalues: Any, powers: Any, starts: Any, layers: Any, out: Any) -> Any:
    """Fill out with g, D_g, h, D_h at z > 0 (D_f = f + z f'), and a guess for the next call in out[4].

    Parameters
    ----------
    shares, eigenvalues, powers : array, shape (cells,)
        Cells of the input spectrum: fraction of the dimensions, eigenvalue, squared covariance with the target.
    starts : array, shape (layers + 1,)
        First row of each layer in `layers`; a single zero without layers.
    layers : array, shape (rows, 3)
        For each layer a row (psi, 0, 0) and rows (share, a, b).
    out : array, shape (5,)
        out[4] > 0 on entry is a guess for the lowest layer's zeta.

    Returns
    -------
    bool
        Whether the root was found.
    """
    if starts.size == 1:
        spectrum_sums(z, shares, eigenvalues, powers, out[:4])
        return True
    full = np.empty(6)
    zeta = out[4] if out[4] > 0.0 else z
    low, high = 0.0, math.inf
    # Bracket by factors: z(zeta) increases, and counts as too small where a layer's z is not positive.
    factor = 2.0
    for _ in range(400):
        if climb(zeta, shares, eigenvalues, powers, starts, layers, full) and full[0] >= z:
            high = zeta
            if low > 0.0:
                break
            zeta /= factor
        else:
            low = zeta
            if high < math.inf:
                break
            zeta *= factor
        factor = min(factor * 1.5, 1e3)
    if not (low > 0.0 and high < math.inf):
        return False
    # Newton with bisection on log z against log zeta.
    zeta = math.sqrt(low * high)
    for _ in range(200):
        if climb(zeta, shares, eigenvalues, powers, starts, layers, full):
            gap = math.log(full[0] / z)
            if gap > 0.0:
                high = zeta
            else:
                low = zeta
            new = zeta * math.exp(-gap * full[5])
            if abs(gap) <= 4e-16 * max(1.0, abs(math.log(z))) * 4.0:
                break
        else:
            low = zeta
            new = 0.0
        if not low < new < high:
            new = math.sqrt(low * high)
        if high - low <= 4e-16 * high or new == zeta:
            break
        zeta = new
    for i in range(4):
        out[i] = full[1 + i]
    out[4] = zeta
    return True


@njit("b1(f8, f8, f8, f8[::1], f8[::1], f8[::1], f8[::1], f8[:, ::1], f8[::1])", **OPTIONS)
def effective_ridge(
    ridge: Any, weight: Any, total: Any, shares: Any, eigenvalues: Any, powers: Any, starts: Any, layers: Any, out: Any
) -> Any:
    """Fill out with z, g, D_g, h, D_h where ridge/z + weight g(z) = total: what a ridge is after n samples.

    The left side falls in z, and z rises with the lowest layer's zeta: one root in zeta whatever the depth.

    Parameters
    ----------
    ridge, weight, total : float
        Positive. Least squares: the curvature of the loss, and that times samples over features.
    shares, eigenvalues, powers, starts, layers : array
        As of `resolvents`.
    out : array, shape (6,)
        out[5] > 0 on entry is a guess for zeta, and zeta on return.

    Returns
    -------
    bool
        Whether the root was found.
    """
    full = np.empty(6)
    zeta = out[5] if out[5] > 0.0 else ridge / total
    low, high, gap = 0.0, math.inf, math.inf
    factor = 2.0
    for _ in range(600):
        found = climb(zeta, shares, eigenvalues, powers, starts, layers, full)
        if found:
            left = ridge / full[0]
            gap = math.log((left + weight * full[1]) / total)
            # Of the logarithm in log zeta.
            slope = (weight * (full[2] - full[1]) - left) / full[5] / (left + weight * full[1])
            if gap > 0.0:
                low = zeta
            else:
                high = zeta
            if abs(gap) <= 2e-15:
                break
            new = zeta * math.exp(max(min(-gap / slope, 30.0), -30.0))
        else:
            # A layer's z is not positive there.
            low, new = zeta, 0.0
        if not low < new < high or not math.isfinite(new):
            if high == math.inf:
                new = low * factor
                factor = min(factor * 1.5, 1e3)
            elif low == 0.0:
                new = high / factor
                factor = min(factor * 1.5, 1e3)
            else:
                new = math.sqrt(low * high)
        if new == zeta or (high < math.inf and high - low <= 4e-16 * high):
            break
        zeta = new
    for i in range(5):
        out[i] = full[i]
    out[5] = zeta
    return abs(gap) < 1e-9
