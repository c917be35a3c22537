"""Straight-line programs: what the kernels are written as, and what their derivatives are taken of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Program:
    """Straight-line code: named sub-expressions, dependencies first, and the value."""

    statements: list[tuple[Any, Any]] = field(default_factory=list)
    value: Any = None


def live(program: Program) -> list[tuple[Any, Any]]:
    """Return the statements that the value depends on, in order."""
    needed = set(program.value.free_symbols)
    kept = []
    for name, value in reversed(program.statements):
        if name in needed:
            kept.append((name, value))
            needed |= value.free_symbols
    return kept[::-1]
