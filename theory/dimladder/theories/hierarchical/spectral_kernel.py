"""Compiled solution of the resolvent of stage 1 along a path in the upper half plane.

Complex numbers are pairs of real ones here: (re, im) in the last axis of arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...numerics.basics import OPTIONS
from ...numerics.native import njit

__all__ = ["follow"]


@njit(**OPTIONS)
def _product(a, b, c, d):  # type: ignore[no-untyped-def]
    """Return (a + ib)(c + id)."""
    return a * c - b * d, a * d + b * c


@njit(**OPTIONS)
def _inverse(a, b):  # type: ignore[no-untyped-def]
    """Return 1/(a + ib)."""
    size = a * a + b * b
    return a / size, -b / size


@njit(
    "i8(f8[:, ::1], f8[:, ::1], f8[::1], f8[:, ::1], f8[::1], f8, f8, i8, f8[:, ::1], f8[:, ::1], f8[:, :, ::1])",
    **OPTIONS,
)
def _follow(z, t, w, s, fractions, gamma, tolerance, most, g_all, g_rest, g_class):  # type: ignore[no-untyped-def]
    classes, bins = s.shape[0], t.shape[1]
    own, lc, dl = np.empty((classes, 2)), np.empty((classes, 2)), np.empty((classes, 2))
    missed = 0
    g, h = _inverse(z[0, 0], z[0, 1])
    rest_re, rest_im = g, h
    for c in range(classes):
        own[c, 0], own[c, 1] = g, h
    for i in range(z.shape[0]):
        done = False
        for _step in range(most):
            r_re, r_im, dr_re, dr_im = 0.0, 0.0, 0.0, 0.0
            lc[:] = 0.0
            dl[:] = 0.0
            for b in range(bins):
                gt_re, gt_im = g, h
                for c in range(classes):
                    share = gamma * fractions[c] * s[c, b]
                    gt_re += share * own[c, 0]
                    gt_im += share * own[c, 1]
                q_re, q_im = _inverse(1.0 - gt_re * t[1, b], -gt_im * t[1, b])
                v_re, v_im = w[b] * t[0, b] * q_re, w[b] * t[0, b] * q_im
                dv_re, dv_im = _product(v_re, v_im, t[1, b] * q_re, t[1, b] * q_im)
                r_re += v_re
                r_im += v_im
                dr_re += dv_re
                dr_im += dv_im
                for c in range(classes):
                    lc[c, 0] += v_re * s[c, b]
                    lc[c, 1] += v_im * s[c, b]
                    dl[c, 0] += dv_re * s[c, b]
                    dl[c, 1] += dv_im * s[c, b]
            rest_re, rest_im = _inverse(z[i, 0] - r_re, z[i, 1] - r_im)
            f_re, f_im = (1.0 - gamma) * rest_re, (1.0 - gamma) * rest_im
            df_re, df_im = _product(rest_re, rest_im, dr_re, dr_im)
            df_re, df_im = _product(f_re, f_im, df_re, df_im)
            moved = 0.0
            for c in range(classes):
                share = gamma * fractions[c]
                u_re, u_im = _inverse(z[i, 0] - r_re - lc[c, 0], z[i, 1] - r_im - lc[c, 1])
                f_re += share * u_re
                f_im += share * u_im
                square_re, square_im = _product(u_re, u_im, u_re, u_im)
                slope_re, slope_im = _product(square_re, square_im, dr_re + dl[c, 0], dr_im + dl[c, 1])
                df_re += share * slope_re
                df_im += share * slope_im
                step_re, step_im = u_re - own[c, 0], u_im - own[c, 1]
                size = math.hypot(step_re, step_im)
                moved = max(moved, share * size)
                part = 0.5 if size > 0.3 * math.hypot(own[c, 0], own[c, 1]) else 1.0
                own[c, 0] += part * step_re
                own[c, 1] += part * step_im
            # Newton in g once the iteration is close, as long as it stays on the branch Im g < 0; damping otherwise.
            residual_re, residual_im = f_re - g, f_im - h
            below_re, below_im = _inverse(1.0 - df_re, -df_im)
            newton_re, newton_im = _product(residual_re, residual_im, below_re, below_im)
            size = math.hypot(g, h)
            close = math.hypot(residual_re, residual_im) < 0.05 * size
            if not (close and h + newton_im < 0.0 and math.hypot(newton_re, newton_im) < 0.3 * size):
                newton_re, newton_im = 0.5 * residual_re, 0.5 * residual_im
            g += newton_re
            h += newton_im
            size = tolerance * math.hypot(g, h)
            done = math.hypot(newton_re, newton_im) <= size and moved <= size
            if done:
                break
        if not done:
            missed += 1
        g_all[i, 0], g_all[i, 1] = g, h
        g_rest[i, 0], g_rest[i, 1] = rest_re, rest_im
        for c in range(classes):
            g_class[c, i, 0], g_class[c, i, 1] = own[c, 0], own[c, 1]
    return missed


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
    found = np.empty(len(z), complex), np.empty(len(z), complex), np.empty((len(s), len(z)), complex)
    pairs = [np.ascontiguousarray(a, complex).view(float).reshape(*a.shape, 2) for a in (z, *found)]
    real = [np.ascontiguousarray(a, dtype=float) for a in (t, w, s, fractions)]
    missed = _follow.compiled(pairs[0], *real, gamma, tolerance, most, *pairs[1:])
    return *found, missed
