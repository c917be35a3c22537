"""Writing TOML: the standard library only reads it, and a problem must round-trip."""

from __future__ import annotations

import json
import math
import re
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dumps(document: dict[str, Any]) -> str:
    """Return `document` (nested dictionaries of plain values) as TOML text."""
    lines: list[str] = []
    _table(document, (), lines)
    return "\n".join(lines).strip() + "\n"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _table(table: dict[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    for name, value in table.items():
        if not isinstance(value, dict):
            lines.append(f"{_key(name)} = {value_text(value)}")
    for name, value in table.items():
        if isinstance(value, dict):
            inner = (*path, name)
            lines += ["", f"[{'.'.join(map(_key, inner))}]"]
            _table(value, inner, lines)


def value_text(value: Any) -> str:
    """Return one value as TOML, tables inline."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            if math.isnan(value):
                return "nan"
            if math.isinf(value):
                return "inf" if value > 0 else "-inf"
            return repr(value)
        case str():
            # JSON's escapes are TOML's, but for the delete character.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return "[" + ", ".join(map(value_text, value)) + "]"
        case dict():
            return "{ " + ", ".join(f"{_key(k)} = {value_text(v)}" for k, v in value.items()) + " }"
    raise TypeError(f"TOML has no value for {type(value).__name__}")
