"""Compiled solution of the resolvent of stage 1 along a path in the upper half plane."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...numerics.jit import njit


@njit(cache=True)
def follow(
    z: Any, t: Any, w: Any, s: Any, fractions: Any, gamma: float, tolerance: float, most: int
) -> tuple[Any, Any, Any, int]:
    """Solve the resolvents at the points z in order, each from the last, in the upper half plane:

        G_0 = 1/(z - R),  G_c = 1/(z - R - L_c),  g = (1 - gamma) G_0 + gamma sum_c f_c G_c,
        g_T = g + gamma sum_c f_c G_c s_c(T),  R = E[T/(1 - g_T T/delta)],  L_c = E[s_c T/(1 - g_T T/delta)].

    ``t`` has the rows T and T/delta; ``s[c]`` is s_c = E[z_c^2 - 1 | T] of class c: a sample's own quadratic form g_T
    knows that its label came with larger or smaller hidden coordinates. The first point must be far from the spectrum,
    where g = 1/z. Returns g, G_0, G_c, and the number of points at which the iteration did not reach the tolerance.
    """
    n, classes, bins = len(z), s.shape[0], t.shape[1]
    g_all = np.empty(n, np.complex128)
    g_rest = np.empty(n, np.complex128)
    g_class = np.empty((classes, n), np.complex128)
    missed = 0
    g = 1.0 / z[0]
    own = np.empty(classes, np.complex128)
    own[:] = g
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
                gt = g
                for c in range(classes):
                    gt += gamma * fractions[c] * own[c] * s[c, b]
                q = 1.0 / (1.0 - gt * t[1, b])
                v = w[b] * t[0, b] * q
                dv = v * t[1, b] * q
                r += v
                dr += dv
                for c in range(classes):
                    lc[c] += v * s[c, b]
                    dl[c] += dv * s[c, b]
            rest = 1.0 / (z[i] - r)
            f = (1.0 - gamma) * rest
            df = f * rest * dr
            moved = 0.0
            for c in range(classes):
                u = 1.0 / (z[i] - r - lc[c])
                f += gamma * fractions[c] * u
                df += gamma * fractions[c] * u * u * (dr + dl[c])
                moved = max(moved, gamma * fractions[c] * abs(u - own[c]))
                own[c] += 0.5 * (u - own[c]) if abs(u - own[c]) > 0.3 * abs(own[c]) else u - own[c]
            # Newton in g once the iteration is close, as long as it stays on the branch Im g < 0; damping otherwise.
            residual = f - g
            newton = g + residual / (1.0 - df)
            if abs(residual) < 0.05 * abs(g) and newton.imag < 0.0 and abs(newton - g) < 0.3 * abs(g):
                new = newton
            else:
                new = g + 0.5 * residual
            done = abs(new - g) <= tolerance * abs(new) and moved <= tolerance * abs(new)
            g = new
            if done:
                break
        if not done:
            missed += 1
        g_all[i] = g
        g_rest[i] = rest
        for c in range(classes):
            g_class[c, i] = own[c]
    return g_all, g_rest, g_class, missed
