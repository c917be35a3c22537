"""Samples of exp(-[sum_i l(a_i.w, y_i) + (ridge/2)|w|^2]/T) by Hamiltonian Monte Carlo: two chains a data set.

The squared posterior mean is read as the product of the two chains' means, which have independent errors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
WARM_UP, KEPT, LEAPS = 150, 400, 12


def chain(
    loss: Any, a: Array, y: Array, ridge: float, temperature: float, start: Array, stream: np.random.Generator
) -> tuple[Array, Array]:
    """Return the means of w and of its squares over a chain, each of shape (k,)."""
    beta = 1.0 / temperature

    def energy(w: Array) -> float:
        return beta * (float(np.sum(loss.evaluate(np, a @ w, y))) + 0.5 * ridge * float(w @ w))

    def slope(w: Array) -> Array:
        return np.asarray(beta * (a.T @ loss.slopes(a @ w, y) + ridge * w))

    w, level = start.copy(), energy(start)
    sharp = beta * (ridge + float(np.max(loss.curvatures(a @ w, y))) * float(np.linalg.norm(a, 2) ** 2))
    step = 1.0 / math.sqrt(sharp)
    total, square, taken = np.zeros_like(w), np.zeros_like(w), 0
    for sweep in range(WARM_UP + KEPT):
        momentum = stream.standard_normal(w.size)
        size = step * stream.uniform(0.7, 1.3)
        old = level + 0.5 * float(momentum @ momentum)
        new, p = w.copy(), momentum - 0.5 * size * slope(w)
        for leap in range(LEAPS):
            new = new + size * p
            p = p - (size if leap < LEAPS - 1 else 0.5 * size) * slope(new)
        after = energy(new)
        accepted = math.log(max(stream.random(), 1e-300)) < old - after - 0.5 * float(p @ p)
        if accepted:
            w, level = new, after
        if sweep < WARM_UP:
            # Towards four accepted moves in five.
            step *= 1.05 if accepted else 0.82
        else:
            total += w
            square += w * w
            taken += 1
    return total / taken, square / taken


def posterior_overlaps(
    loss: Any, a: Array, y: Array, ridge: float, temperature: float, weights: Array, stream: np.random.Generator
) -> tuple[Array, float, float]:
    """Return the posterior mean, q = (mean of chain 1).(mean of chain 2), and V = E w^2 - q, weighed per coordinate."""
    from .minimise import minimise

    start = minimise(loss, a, y, ridge).w
    first, squares = chain(loss, a, y, ridge, temperature, start, stream)
    second, others = chain(loss, a, y, ridge, temperature, start, stream)
    q = float(np.sum(weights * first * second))
    return 0.5 * (first + second), q, float(np.sum(weights * 0.5 * (squares + others))) - q
