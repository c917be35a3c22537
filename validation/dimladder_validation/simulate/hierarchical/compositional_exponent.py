"""Compositional information exponents by Monte Carlo: the smallest k with || E[T(f*) He_k(h_l)] ||_F of order one.

He_k is the orthonormal Hermite tensor of a level's features. The squared norm is a U-statistic over pairs of
independent samples, unbiased at any n, and He_k(h) . He_k(h') needs inner products only. The Frobenius norm is the
right one: for a
three-level target the tensor at level 1, order 2 has Frobenius norm of order one but operator norm d_eff^{-1/2}.
Source of the definition: Dandi, Pesce, Zdeborova, Krzakala, arXiv:2502.13961, Def. 1 (a conjecture on learnability).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dimladder.errors import SimulationError


def tensor_product(h: np.ndarray, other: np.ndarray, order: int) -> np.ndarray:
    """Return <He_k(h_mu), He_k(h'_nu)> of orthonormal Hermite tensors for all pairs, shape (n, n').

    Orders 1 to 4; e.g. for order 2, ((h.h')^2 - |h|^2 - |h'|^2 + D)/2.
    """
    d = h.shape[1]
    t = h @ other.T
    a, b = np.sum(h**2, axis=1)[:, None], np.sum(other**2, axis=1)[None, :]
    match order:
        case 1:
            return t
        case 2:
            return (t**2 - a - b + d) / 2
        case 3:
            return (t**3 - 3 * t * (a + b) + 3 * (d + 2) * t) / 6
        case 4:
            # Contracting He_4(h) = h^4 - 6 h^2 1 + 3 1 1 (symmetrised) with that of h'.
            pair = d * (d + 2)
            return (
                t**4
                - 6 * t**2 * (a + b)
                + 6 * (d + 4) * t**2
                + 3 * (a**2 + b**2)
                + 6 * a * b
                - 6 * (d + 2) * (a + b)
                + 3 * pair
            ) / 24
    raise SimulationError(f"Hermite tensors of order {order} are not implemented", hint="use orders 1 to 4")


@dataclass(frozen=True)
class NormEstimate:
    """Squared Frobenius norm of E[y He_k(h)], and its standard error over independent pairs of batches."""

    order: int
    value: float
    se: float

    @property
    def significant(self) -> bool:
        """Whether it lies four standard errors above zero."""
        return self.value > 4 * self.se


def tensor_norm(
    draw: Callable[[int], tuple[np.ndarray, np.ndarray]], order: int, batch: int = 1000, batches: int = 20
) -> NormEstimate:
    """Estimate || E[y He_k(h)] ||_F^2.

    Parameters
    ----------
    draw : callable
        n -> (features of the level (n, D), labels (n,)), fresh at every call. Labels are centred here.
    order : int
        k.
    batch, batches : int
        Samples in each half of a pair, and number of pairs.
    """
    values = []
    for _ in range(batches):
        (h, y), (other, z) = draw(batch), draw(batch)
        values.append(float((y - y.mean()) @ tensor_product(h, other, order) @ (z - z.mean())) / batch**2)
    return NormEstimate(order, float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(batches))


def compositional_exponent(
    draw: Callable[[int], tuple[np.ndarray, np.ndarray]],
    *,
    largest: int = 4,
    floor: float = 0.02,
    transforms: Sequence[Callable[[np.ndarray], np.ndarray]] = (lambda y: y,),
    batch: int = 1000,
    batches: int = 20,
) -> tuple[int | None, list[NormEstimate]]:
    """Return the smallest order whose norm is significant and above `floor` of the label's variance, and all estimates.

    Parameters
    ----------
    draw : callable
        As in `tensor_norm`.
    largest : int
        Highest order tried.
    floor : float
        What counts as of order one: a fraction of Var T(y). Compare two sizes to tell d^-a from a small constant.
    transforms : sequence of callables
        Scalar transformations T of the label; with more than the identity this is the compositional *generative*
        exponent.
    """
    estimates = []
    for order in range(1, largest + 1):
        for transform in transforms:

            def transformed(
                n: int, transform: Callable[[np.ndarray], np.ndarray] = transform
            ) -> tuple[np.ndarray, np.ndarray]:
                h, y = draw(n)
                return h, transform(y)

            scale = float(np.var(transformed(20_000)[1])) or 1.0
            estimate = tensor_norm(transformed, order, batch, batches)
            estimates.append(estimate)
            if estimate.significant and estimate.value > floor * scale:
                return order, estimates
    return None, estimates
