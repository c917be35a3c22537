"""The hidden manifold as the Gaussian inputs that one pass cannot tell from it.

x = f(F c/sqrt D), c standard normal in D = latent_ratio d <= d dimensions, F of normal entries; the target sees
c. With a = E[u f(u)] and b = E f^2 - a^2, fields of x are those of a F c/sqrt D + sqrt b zeta: inputs of covariance
a^2 F F^T/D, of a Marchenko-Pastur law, with noise that labels do not see and tests do. In a direction of variance
a^2 rho the target has the weight of a *latent* teacher, |Pi w*|^2 ~ 1/(a^2 rho).
Source: Goldt, Mezard, Krzakala & Zdeborova 2020.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .activations import activation
from .overlaps import require_semidefinite

Array = NDArray[np.float64]


@lru_cache(maxsize=64)
def unit_moments(text: str) -> tuple[float, float, float]:
    """Return E f(u), a = E[u f(u)] and b = E f^2 - a^2 - (E f)^2, u standard normal."""
    from ..numerics.quadrature import gauss_normal

    function = activation(text)
    u, w = gauss_normal([0.0, *function.kinks("x")], 64)
    f = np.broadcast_to(np.asarray(function.evaluate(np, x=u), dtype=float), u.shape)
    mean, a, second = float(w @ f), float(w @ (u * f)), float(w @ (f * f))
    rest = second - a * a - mean * mean
    # Rounding leaves a remainder of a linear f, and a mean of an odd one.
    least = 1e-12 * second**0.5
    return mean if abs(mean) > least else 0.0, a if abs(a) > least else 0.0, rest if rest > 1e-13 * second else 0.0


def manifold_blocks(text: str, latent_ratio: float, nodes: int) -> tuple[Array, Array]:
    """Return variances a^2 rho and shares of blocks of F F^T/D: a Gauss rule of its law, and its null space if any."""
    # Golub and Welsch: the Jacobi matrix of the law of F^T F/d, D = latent_ratio d.
    diagonal = np.full(nodes, 1.0 + latent_ratio)
    diagonal[0] = 1.0
    off = np.full(nodes - 1, latent_ratio**0.5)
    found, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    found, shares = found / latent_ratio, latent_ratio * vectors[0] ** 2
    if latent_ratio < 1.0:
        found, shares = np.append(found, 0.0), np.append(shares, 1.0 - latent_ratio)
    order = np.argsort(-found)
    return unit_moments(text)[1] ** 2 * found[order], shares[order] / shares.sum()


def latent_start(
    Q: Array, M: Array, T: Array, latent_ratio: float, variances: Array, shares: Array
) -> tuple[Array, Array]:  # fmt: skip
    """Return overlaps by block (B, K, K) and (B, K, M) of students of norms Q of field covariance M with z.

    Their weights lie along E[x z], which has a block's share of the variance, and the rest in no direction of its own.

    Raises
    ------
    DomainError
        Where the norms are too small for that.
    """
    whole = float(shares @ variances)
    along = M @ np.linalg.pinv(whole / latent_ratio * T, hermitian=True) @ M.T
    rest = Q - along
    require_semidefinite(rest, "initial", "students of these norms have no such covariances with the latent fields")
    cross = (shares * (variances > 0.0))[:, None, None] * M / whole
    return shares[:, None, None] * (rest + variances[:, None, None] / whole * along), cross
