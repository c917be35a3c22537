"""Generated modules run by the interpreter: the same text, without the compiler's minutes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def interpreted(text: str) -> dict[str, Any]:
    """Return the namespace of a generated module, its functions not compiled."""
    text = text.replace("from numba import njit, types", "njit = lambda *a, **k: (lambda f: f)")
    text = "\n".join(line if not line.startswith("@njit(types") else "@njit()" for line in text.splitlines())
    scope: dict[str, Any] = {"__name__": "generated", "types": SimpleNamespace()}
    exec(compile(text, "generated", "exec"), scope)
    return scope
