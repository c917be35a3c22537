"""Source text of functions that generated modules contain, read from their files: printing imports no compiler."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

__all__ = ["asin_text", "text_of"]


@cache
def text_of(module: str, *names: str) -> str:
    """Return the source of functions of a module of this package, decorators included."""
    text = Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name in names:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = "".join(lines[first - 1 : node.end_lineno])
    return "\n\n".join(found[name] for name in names)


def asin_text() -> str:
    """Return the source of `special.asin`."""
    return text_of("special", "asin_series", "asin_short", "asin")
