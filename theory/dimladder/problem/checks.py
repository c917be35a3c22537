"""Checks that many sections share; each raises `ValueError` with a message that begins with the key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from .expressions import Expression, HermiteConvention
from .spec import MAX_SIZE

Row = tuple[float, ...]
Matrix = tuple[Row, ...]


def positive(**values: float | None) -> None:
    """Refuse a number that is not positive and finite; None passes."""
    for name, value in values.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")


def not_negative(**values: float | None) -> None:
    """Refuse a number that is negative or not finite; None passes."""
    for name, value in values.items():
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be finite and not negative, got {value}")


def finite(**values: Any) -> None:
    """Refuse a number, or a nested sequence of numbers, that is not finite; None passes."""
    for name, value in values.items():
        if isinstance(value, Sequence):
            for inner in value:
                finite(**{name: inner})
        elif value is not None and not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")


def at_least(least: int, **values: int | None) -> None:
    """Refuse a whole number below `least`; None passes."""
    for name, value in values.items():
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


@lru_cache(maxsize=1024)
def formula(
    name: str, text: str, variables: tuple[str, ...] | str = ("x",), hermite: HermiteConvention = "probabilists"
) -> Expression:
    """Return the formula, or refuse it by the name of its key."""
    try:
        return Expression(text, variables, hermite)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def count(**values: int | None) -> None:
    """Refuse a number of things below 1 or beyond any memory; None passes."""
    for name, value in values.items():
        at_least(1, **{name: value})
        if value is not None and value > MAX_SIZE:
            raise ValueError(f"{name} = {value} is too large: at most {MAX_SIZE}")


def probabilities(name: str, values: Sequence[float], one_per: str) -> None:
    """Refuse anything but numbers in [0, 1] that sum to 1."""
    if not values:
        raise ValueError(f"{name} must list one probability a {one_per}")
    if any(not 0 <= v <= 1 for v in values):
        raise ValueError(f"{name} must lie in [0, 1], got {list(values)}")
    if abs(sum(values) - 1.0) > 1e-9:
        raise ValueError(f"{name} must sum to 1, got {list(values)} (sum {sum(values):g})")


def square(name: str, rows: Sequence[Sequence[float]], size: int, one_per: str) -> None:
    """Refuse anything but a symmetric `size` x `size` matrix."""
    if len(rows) != size or any(len(row) != size for row in rows):
        raise ValueError(f"{name} must be a {size} x {size} matrix, one row a {one_per}")
    if any(rows[i][j] != rows[j][i] for i in range(size) for j in range(i)):
        raise ValueError(f"{name} must be symmetric")


def sizes(name: str, values: Sequence[int]) -> None:
    """Refuse anything but distinct positive whole numbers, at least one."""
    if not values or min(values) < 1 or len(set(values)) != len(values):
        raise ValueError(f"{name} must list distinct positive sizes, got {list(values)[:20]}")
    if max(values) > MAX_SIZE:
        raise ValueError(f"{name} = {max(values)} is too large: at most {MAX_SIZE}")
