"""One step of descent, written once: numbers are advanced by it, and the printed equations are it on symbols."""

from __future__ import annotations

from typing import Any


def advance(
    x: Any, velocity: Any, gradient: Any, rate: Any, decay: Any, momentum: Any, noise: Any = 0
) -> tuple[Any, Any]:
    """Return x and its velocity after ``v <- momentum v - rate (gradient + decay x) + noise``, ``x <- x + v``.

    The map is linear, so x may be weights, their coordinates on any directions, their overlaps with anything, or their
    responses, with the gradient and the Langevin noise seen in the same way.
    """
    velocity = momentum * velocity - rate * (gradient + decay * x) + noise
    return x + velocity, velocity
