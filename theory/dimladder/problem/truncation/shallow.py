"""The shallow construction: one hidden layer that projects on the span of the class means (arXiv:2309.10370).

Q classes in M >= Q dimensions. With ``Pen = (X^T X)^{-1} X^T`` for the (M, Q) class means X and ``P = X Pen`` the
projector on their span, a hidden layer with an orthogonal matrix keeps P x and kills the rest, and the cost is at
most ``||Y Pen P dX||_N <= sqrt(Q) ||Y||_op delta_P``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...errors import DomainError
from .clusters import ClusteredData, pseudo_inverse
from .networks import Array, Network


@dataclass(frozen=True)
class ShallowReport:
    """Bounds of the shallow construction.

    Attributes
    ----------
    noise_to_signal : float
        delta_P = sup |Pen P dx|.
    bound : float
        ||Y Pen P dX||_N, the cost of the construction.
    coarse_bound : float
        sqrt(Q) ||Y||_op delta_P.
    linear_minimum : float
        Least cost over the last layer with the bias tied to the weights (b_2 = -W_2 b_1); at most `bound`, by a
        relative O(delta_P^2).
    """

    noise_to_signal: float
    bound: float
    coarse_bound: float
    linear_minimum: float


def barycentric_noise(data: ClusteredData) -> tuple[Array, Array]:
    """(Q, Q) Delta_2 = Pen (sum_j Cov_j) Pen^T, and (Q, N) the fluctuations in barycentric coordinates."""
    pen = pseudo_inverse(data)
    noise = pen @ np.concatenate(data.fluctuations, axis=1)
    return (noise * data.weights) @ noise.T, noise


def bounds(data: ClusteredData) -> ShallowReport:
    """Return the bounds and the linear minimum for `data`."""
    delta2, noise = barycentric_noise(data)
    y = data.labels
    ratio = float(np.linalg.norm(noise, axis=0).max())
    bound = math.sqrt(max(float(np.trace(y @ delta2 @ y.T)), 0.0))
    minimum = float(np.trace(y @ delta2 @ np.linalg.solve(np.eye(data.classes) + delta2, y.T)))
    operator = float(np.linalg.norm(y, 2))
    return ShallowReport(ratio, bound, math.sqrt(data.classes) * operator * ratio, math.sqrt(max(minimum, 0.0)))


def network(data: ClusteredData, *, shift: float | None = None, optimal: bool = False) -> Network:
    """One-hidden-layer network of the construction.

    W_1 is orthogonal, its first Q rows spanning the class means; b_1 = +shift on those (all data positive) and -shift
    on the rest (all data negative).

    Parameters
    ----------
    shift : float, optional
        Larger than every |W_1 x|; twice the largest by default.
    optimal : bool
        Use the last layer of least cost, Y(1 + Delta_2)^{-1} Pen, instead of Y Pen.

    Raises
    ------
    DomainError
        If `shift` is too small to keep and kill what it should.
    """
    q, m = data.classes, data.dimension
    pen = pseudo_inverse(data)
    # Complete QR of the means: the first Q columns span them, the rest are orthogonal to them.
    basis = np.linalg.qr(data.means, mode="complete")[0]
    first = basis.T
    reach = float(np.abs(first @ data.inputs).max())
    beta = 2 * reach if shift is None else shift
    if not beta > reach:
        raise DomainError(
            "the shift of the first layer is too small", why=f"{beta:.4g}, but |W_1 x| reaches {reach:.4g}"
        )
    b1 = np.where(np.arange(m) < q, beta, -beta)
    y = data.labels
    if optimal:
        y = np.asarray(np.linalg.solve(np.eye(q) + barycentric_noise(data)[0], y.T).T, dtype=float)
    w2 = y @ pen @ basis
    w2[:, q:] = 0.0
    b2 = -w2[:, :q] @ b1[:q]
    return Network((first, w2), (b1, b2))


def lift(data: ClusteredData, network: Network) -> Network:
    """Network on the original inputs, of widths M, Q, ..., Q, from one on the projected ones: the projection joins
    the first layer.
    """
    basis = np.linalg.qr(data.means)[0]
    return Network((network.weights[0] @ basis.T, *network.weights[1:]), network.biases)
