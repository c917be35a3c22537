"""Overlaps of coordinates under any convex penalty, compiled once: the prior side of `label_channel`.

Given a coordinate's eigenvalue om and the conjugates, A = V^ om and B = m^ om theta + sqrt(q^ om) xi; the estimate is
eta(B, A) = argmin_w r(w) + A w^2/2 - B w, a proximal point with V -> 1/A and omega -> B/A. With f = A eta - B,

    E eta^2 = (E f^2 + 2 E f B + Var B)/A^2,    E f B = Var B E d_B f,    d_B eta = (1 + d_B f)/A,

so that the averages of the channel serve here too (`numerics.proximal`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import native
from .addresses import FromAddresses
from .basics import OPTIONS, fill
from .native import njit
from .proximal import FUNCTIONS, as_piece, as_roots, averages, together

__all__ = ["SIDE_TYPE", "as_side", "pack", "penalty_side"]

# side(Vh, qh, mh, ridge, data, out): V, q, m and a fourth number; `out` has room for nine.
_SIDE = "void(f8, f8, f8, f8, f8[::1], f8[::1])"
SIDE_TYPE = native.value_type("as_side", "SIDE", _SIDE)
as_side = FromAddresses(SIDE_TYPE)


def pack(
    pieces: Any, cells: NDArray[np.float64], prior: NDArray[np.float64], *, width: float, reach: float
) -> NDArray[np.float64]:
    """Return the data of `penalty_side`.

    Parameters
    ----------
    pieces : module
        Compiled penalty r(w); the caller keeps it alive.
    cells : array, shape (cells, 3)
        Share of the dimensions, eigenvalue, mean square of the target's coordinates.
    prior : array, shape (components, 2)
        Probability and relative variance of the normal laws that the target's coordinates are mixed of.
    """
    header = [width, reach, float(len(cells)), float(len(prior))]
    return np.concatenate([together(pieces), header, cells.ravel(), prior.ravel()])


@njit(_SIDE, **OPTIONS)
def penalty_side(vh: Any, qh: Any, mh: Any, ridge: Any, data: Any, out: Any) -> None:
    """Fill out[:4] with V, q, m and the mean penalty E r(eta), without the strength `ridge`."""
    bits = data[:FUNCTIONS].view(np.int64)
    value, slope = as_piece(bits[0], bits[1]), as_piece(bits[2], bits[3])
    curvature, roots = as_piece(bits[4], bits[5]), as_roots(bits[6], bits[7])
    width, reach, cells, components = data[8], data[9], int(data[10]), int(data[11])
    prior = data[12 + 3 * cells :]
    none, part = np.empty((0, 3)), np.empty(7)
    fill(out[:4], 0.0)
    for j in range(cells):
        share, om, t = data[12 + 3 * j], data[13 + 3 * j], data[14 + 3 * j]
        a = vh * om
        for k in range(components):
            s2 = t * prior[2 * k + 1]
            variance = (mh * om) ** 2 * s2 + qh * om
            sd = math.sqrt(variance) / a
            fill(part, 0.0)
            # The strength divides the quadratic: argmin r(w) + (A/ridge)(w - B/A)^2/2.
            averages(
                value, slope, curvature, roots, 0.0, 0.0, sd * sd, ridge / a, min(width, reach / sd), none, 0.0, 0.0,
                1.0, part,
            )  # fmt: skip
            ff, fv = ridge * ridge * part[1], ridge * part[2]
            response = (1.0 - fv / a) / a
            weight = prior[2 * k] * share
            out[0] += weight * om * response
            out[1] += weight * om * (ff - 2.0 * variance * fv / a + variance) / (a * a)
            out[2] += weight * om * mh * om * s2 * response
            out[3] += weight * part[3]
