"""Compiled solution of the resolvent of stage 1 along a path in the upper half plane."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...numerics.jit import njit


@njit(cache=True)
def follow(
    z: Any, t: Any, w: Any, s: Any, fractions: Any, gamma: float, tolerance: float, most: int
) -> tuple[Any, Any, Any, int]:
    """Solve g = (1-gamma)/(z - R) + gamma sum_c f_c/(z - R - L_c) at the points z in order, each from the last.

    ``t`` has the rows T and T/delta: R = sum w T/(1 - g T/delta). ``s[c]`` is E[z_c^2 - 1 | T] of class c. The first
    point must be far from the spectrum, where g = 1/z. Returns g, 1/(z - R), G_c = 1/(z - R - L_c), and the number of
    points at which the iteration did not reach the tolerance.
    """
    n, classes, bins = len(z), s.shape[0], t.shape[1]
    g_all = np.empty(n, np.complex128)
    g_rest = np.empty(n, np.complex128)
    g_class = np.empty((classes, n), np.complex128)
    missed = 0
    g = 1.0 / z[0]
    lc = np.empty(classes, np.complex128)
    dl = np.empty(classes, np.complex128)
    for i in range(n):
        done = False
        for _step in range(most):
            r = 0.0 + 0.0j
            dr = 0.0 + 0.0j
            for c in range(classes):
                lc[c] = 0.0
                dl[c] = 0.0
            for b in range(bins):
                q = 1.0 / (1.0 - g * t[1, b])
                v = w[b] * t[0, b] * q
                dv = v * t[1, b] * q
                r += v
                dr += dv
                for c in range(classes):
                    lc[c] += v * s[c, b]
                    dl[c] += dv * s[c, b]
            f = (1.0 - gamma) / (z[i] - r)
            df = f / (z[i] - r) * dr
            for c in range(classes):
                u = 1.0 / (z[i] - r - lc[c])
                f += gamma * fractions[c] * u
                df += gamma * fractions[c] * u * u * (dr + dl[c])
            # Newton once the iteration is close, as long as it stays on the branch Im g < 0; damping otherwise.
            residual = f - g
            newton = g + residual / (1.0 - df)
            if abs(residual) < 0.05 * abs(g) and newton.imag < 0.0 and abs(newton - g) < 0.3 * abs(g):
                new = newton
            else:
                new = g + 0.5 * residual
            done = abs(new - g) <= tolerance * abs(new)
            g = new
            if done:
                break
        if not done:
            missed += 1
        r = 0.0 + 0.0j
        for c in range(classes):
            lc[c] = 0.0
        for b in range(bins):
            v = w[b] * t[0, b] / (1.0 - g * t[1, b])
            r += v
            for c in range(classes):
                lc[c] += v * s[c, b]
        g_all[i] = g
        g_rest[i] = 1.0 / (z[i] - r)
        for c in range(classes):
            g_class[c, i] = 1.0 / (z[i] - r - lc[c])
    return g_all, g_rest, g_class, missed
