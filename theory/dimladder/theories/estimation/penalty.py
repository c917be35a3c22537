"""The prior sides: an l2 penalty on any spectrum, and any other penalty coordinate by coordinate.

An l2 penalty sees the inputs through two functions of one number (`spectrum.py`). Other penalties act on coordinates,
for diagonal covariances (`numerics.denoisers`); the target's coordinates have the law `Prior`: a mixture of normals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .channel import Loss
from .equations import algebra
from .spectrum import Covariance

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Prior:
    """Law of the target's coordinates: a mixture of centred normals, given as (probability, variance); mean square 1.

    ``(1 - R, 0), (R, 1/R)`` is the sparse prior.
    """

    components: tuple[tuple[float, float], ...] = ((1.0, 1.0),)


NORMAL = Prior()


class RidgeSide:
    """The prior side of ``(ridge/2) |w|^2``: any spectrum, any layers.

    Parameters
    ----------
    covariance : Covariance
    beta : float
        Factor of the ridge: 1/temperature for a posterior.
    """

    def __init__(self, covariance: Covariance, beta: float = 1.0) -> None:
        self.covariance, self.psi, self.beta = covariance, covariance.psi, beta
        self.scale = float(np.sum(covariance.shares * covariance.eigenvalues))

    @property
    def compiled(self) -> Any:
        """V, q, m and |w|^2/k as a compiled function."""
        return algebra().ridge_side

    def data(self) -> Array:
        """What the compiled function reads."""
        c = self.covariance
        starts, layers = c.arrays()
        sizes = np.array([self.beta, c.bulk, c.shares.size, starts.size - 1.0, len(layers)])
        return np.concatenate([sizes, c.shares, c.eigenvalues, c.powers, starts, layers.ravel()])


class PenaltySide:
    """The prior side of ``ridge * r(w)``, r a convex formula in w.

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
        penalty.check_convex((0.0,))

    @property
    def compiled(self) -> Any:
        """V, q, m and the mean penalty (without its strength) as a compiled function."""
        from ...numerics import denoisers

        return denoisers.penalty_side.compiled

    def data(self) -> Array:
        """What the compiled function reads."""
        from ...numerics import denoisers

        c = self.covariance
        # T = share om^2 t: t the variance of the target's coordinates in this cell.
        cells = np.column_stack([c.shares, c.eigenvalues, c.powers / (c.shares * c.eigenvalues**2)])
        return denoisers.pack(
            self.penalty.module(), cells, np.array(self.prior.components),
            width=self.penalty.panel / self.fineness, reach=self.penalty.strip / self.fineness,
        )  # fmt: skip


def sparse(rate: float) -> Prior:
    """Gauss-Bernoulli: a share `rate` of the coordinates is N(0, 1/rate), the others are zero."""
    return Prior(((1.0 - rate, 0.0), (rate, 1.0 / rate)))


__all__: list[Any] = ["NORMAL", "PenaltySide", "Prior", "RidgeSide", "sparse"]
