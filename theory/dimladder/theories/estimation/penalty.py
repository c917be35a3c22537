"""The prior side of a penalty other than l2: coordinate by coordinate, for diagonal covariances.

Given a coordinate's eigenvalue om and the conjugates, A = V^ om and B = m^ om theta + sqrt(q^ om) xi; the estimate is
eta(B, A) = argmin_w r(w) + A w^2/2 - B w, a proximal point with V -> 1/A and omega -> B/A. With f = A eta - B,

    E eta^2 = (E f^2 + 2 E f B + Var B)/A^2,    E f B = Var B E d_B f,    d_B eta = (1 + d_B f)/A,

so that the averages of the channel serve here too. The target's coordinates have the law `Prior`: a mixture of normals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .channel import PANEL, Loss
from .spectrum import Covariance

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Prior:
    """Law of the target's coordinates: a mixture of centred normals, given as (probability, variance); mean square 1.

    ``(1 - R, 0), (R, 1/R)`` is the sparse prior.
    """

    components: tuple[tuple[float, float], ...] = ((1.0, 1.0),)


NORMAL = Prior()


class PenaltySide:
    """V, q, m from the conjugates for ``ridge * r(w)``, r a convex formula in w.

    Parameters
    ----------
    penalty : Loss
        The formula as a function of ``f`` (the weight); ``y`` does not occur.
    covariance : Covariance
        Without layers.
    prior : Prior
    """

    def __init__(self, penalty: Loss, covariance: Covariance, prior: Prior, fineness: float = 1.0) -> None:
        self.penalty, self.covariance, self.prior, self.fineness = penalty, covariance, prior, fineness
        self.psi = covariance.psi
        self.scale = float(np.sum(covariance.shares * covariance.eigenvalues))
        penalty.check_convex(np.zeros(1))

    def overlaps(self, Vh: float, qh: float, mh: float, ridge: float) -> tuple[float, float, float, float]:
        """V, q, m and the mean penalty E r(eta) (without the strength)."""
        from ...numerics import proximal

        c, k, none = self.covariance, self.penalty.module(), np.empty((0, 3))
        V = q = m = cost = 0.0
        reach = self.penalty.strip / self.fineness
        for share, om, power in zip(c.shares, c.eigenvalues, c.powers, strict=True):
            # T = share om^2 t: t the variance of the target's coordinates in this cell.
            t = power / (share * om**2)
            A = Vh * om
            for chance, relative in self.prior.components:
                s2 = t * relative
                variance = (mh * om) ** 2 * s2 + qh * om
                out = np.zeros(7)
                sd = math.sqrt(variance) / A
                # The strength divides the quadratic: argmin r(w) + (A/ridge)(w - B/A)^2/2.
                proximal.averages(
                    k.value, k.slope, k.curvature, k.roots, 0.0, 0.0, sd * sd, ridge / A,
                    min(PANEL / self.fineness, reach / sd), none, 0.0, 0.0, 1.0, out,
                )  # fmt: skip
                ff, fv = ridge**2 * out[1], ridge * out[2]
                response = (1.0 - fv / A) / A
                weight = chance * share
                V += weight * om * response
                q += weight * om * (ff - 2.0 * variance * fv / A + variance) / A**2
                m += weight * om * mh * om * s2 * response
                cost += weight * out[3]
        return V, q, m, cost


def sparse(rate: float) -> Prior:
    """Gauss-Bernoulli: a share `rate` of the coordinates is N(0, 1/rate), the others are zero."""
    return Prior(((1.0 - rate, 0.0), (rate, 1.0 / rate)))


__all__: list[Any] = ["NORMAL", "PenaltySide", "Prior", "sparse"]
