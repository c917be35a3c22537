"""Sections of schema 1 that several theories share."""

from __future__ import annotations

import math
from itertools import pairwise

from .grids import OdeSolver as OdeSolver
from .spec import MAX_POINTS, MAX_SIZE, Axis, Spec, axis_values


class TimeGrid(Spec, frozen=True, kw_only=True):
    """Times at which the curve is asked for, in the theory's unit of time, increasing."""

    time: Axis

    def __post_init__(self) -> None:
        times = axis_values(self.time)
        if not times:
            raise ValueError("time must not be empty")
        if any(not math.isfinite(t) or t < 0 for t in times):
            raise ValueError("times must be finite and not negative")
        if any(b <= a for a, b in pairwise(times)):
            raise ValueError("times must increase strictly")


class Simulation(Spec, frozen=True, kw_only=True):
    """Sizes and statistics of the finite-d experiment."""

    d: tuple[int, ...] = (200, 400, 800)
    replicas: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.d, "d")
        check_replicas(self.replicas)


def check_sizes(sizes: tuple[int, ...], name: str) -> None:
    """Raise `ValueError` unless `sizes` is a non-empty tuple of distinct positive integers."""
    if not sizes or min(sizes) < 1 or len(set(sizes)) != len(sizes):
        raise ValueError(f"{name} must list distinct positive sizes, got {list(sizes)[:20]}")
    if max(sizes) > MAX_SIZE:
        raise ValueError(f"{name} = {max(sizes)} is too large: at most {MAX_SIZE}")


def check_replicas(replicas: int) -> None:
    """Raise `ValueError` unless a standard error can be formed."""
    if not 2 <= replicas <= MAX_POINTS:
        raise ValueError(f"replicas must lie between 2 (for a standard error) and {MAX_POINTS}, got {replicas}")
