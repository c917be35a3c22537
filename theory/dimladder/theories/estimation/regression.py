"""Ridge regression without iteration: one scalar root for the renormalised ridge, closed forms in it.

With the loss c (y - u)^2/2 and the penalty (ridge/2)|w|^2 the fixed point of `equations.py` needs V^ only through z =
ridge/V^, which solves ridge/z + c g(z) = c alpha/psi; everything else is linear. For one layer of random features on
isotropic inputs these are the curves of Mei & Montanari 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ...errors import SolveError
from ...numerics.resolvents import effective_ridge
from .equations import evaluated
from .spectrum import Covariance, LayerLaw, spectrum

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RidgeFit:
    """A solution.

    Attributes
    ----------
    z : float
        The renormalised ridge: the fit shrinks like ridge regression on the whole law with this strength.
    V, q, m : float
        Response, variance of the fitted field, its covariance with the latent field.
    df : float
        Second degrees of freedom over the samples, (psi/alpha) (1/k) tr (Om/(Om + z))^2.
    squared_bias : float
        Squared error of the population's shrunk fit; the test error is this over 1 - df.
    test, train : float
        E (y - u)^2 on fresh samples, mean of (y - u)^2 over the training samples.
    g, Dg, h, Dh : float
        The spectrum's functions at z, and D_f = f + z f'.
    """

    z: float
    V: float
    q: float
    m: float
    df: float
    squared_bias: float
    test: float
    train: float
    g: float
    Dg: float
    h: float
    Dh: float


def ridge_fit(
    covariance: Covariance, alpha: float, ridge: float, moments: tuple[float, float, float], constant: float = 0.0,
    curvature: float = 1.0,
) -> RidgeFit:  # fmt: skip
    """Return the minimiser of sum_i c (y_i - u_i)^2/2 + (ridge/2)|w|^2 at samples = alpha d.

    Parameters
    ----------
    moments : (E y, E y^2, E d_z y)
    constant : float
        The constant of the field: E y where one is fitted, else 0.
    curvature : float
        c.

    Raises
    ------
    SolveError
        Where the renormalised ridge is not found.
    """
    psi, out = covariance.psi, np.zeros(6)
    cells = (covariance.shares, covariance.eigenvalues, covariance.powers, *covariance.arrays())
    # A bulk of features that no other sample shares adds to the ridge.
    whole = ridge + curvature * covariance.bulk
    if not effective_ridge.compiled(whole, curvature, curvature * alpha / psi, *cells, out):
        raise SolveError(
            "the renormalised ridge was not bracketed", status="no_bracket", where=f"sample_ratio = {alpha:g}",
            why=f"ridge {ridge:g} of the summed objective", hint="raise loss.ridge or loss.ridge_per_sample",
        )  # fmt: skip
    return _fit(covariance, alpha, ridge, moments, constant, curvature, *(float(a) for a in out[:5]))


def fit_at(
    covariance: Covariance, alpha: float, ridge: float, moments: tuple[float, float, float], constant: float,
    curvature: float, z: float,
) -> tuple[RidgeFit, float]:  # fmt: skip
    """Return what `ridge_fit` does at a renormalised ridge that is given, and the gap left in its equation.

    The gap is log of ridge/z + c g(z) over c alpha/psi.
    """
    g, slope, h, fall = covariance.resolvents(z)
    left = (ridge + curvature * covariance.bulk) / z + curvature * g
    fit = _fit(covariance, alpha, ridge, moments, constant, curvature, z, g, g + z * slope, h, h + z * fall)
    return fit, math.log(left * covariance.psi / (curvature * alpha))


def _fit(
    covariance: Covariance, alpha: float, ridge: float, moments: tuple[float, float, float], constant: float,
    curvature: float, z: float, g: float, dg: float, h: float, dh: float,
) -> RidgeFit:  # fmt: skip
    """Return the closed forms at the renormalised ridge z."""
    psi = covariance.psi
    rows = evaluated("ridge", alpha, psi, curvature, ridge, z, g, dg, h, dh, constant, *moments)
    V, m, df, bias, q, test, train = rows
    return RidgeFit(z, V + covariance.bulk / ridge, q, m, df, bias, test, train, g, dg, h, dh)


@cache
def random_layer(psi: float, linear: float, remainder: float) -> Covariance:
    """Return one layer of random features on isotropic inputs: Gaussian equivalents mu1 W x + mu* g.

    Parameters
    ----------
    psi : float
        Features over dimensions.
    linear, remainder : float
        mu1 and mu*^2.
    """
    one = np.ones(1)
    if linear == 0.0:
        return Covariance(one, remainder * one, np.zeros(1), 1.0, width=psi)
    layer = LayerLaw(psi, one, linear**2 * one, remainder * one, linear**2 + remainder, 0.0)
    base = spectrum(one, one)
    return Covariance(base.shares, base.eigenvalues, base.powers, 1.0, (layer,))
