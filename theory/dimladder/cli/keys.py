"""Sections and their keys in words: what the cards of theories and the page of the language list."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import msgspec

from ..problem.config import members_of  # the loader's own reading of unions, so that the card cannot disagree
from ..problem.toml_writer import value_text


def theory_lines(theory: Any) -> list[str]:
    """Return the sections and keys that a theory reads, with the values they take and the defaults."""
    from ..problem import SECTIONS, with_kinds

    table, reads = with_kinds(theory.kinds), theory.read_table()
    lines: list[str] = []
    for section in SECTIONS:
        if section in ("solver", "simulation"):
            default = getattr(theory, section)
            if default is not None:
                lines += section_lines(section, type(default), default=default)
            continue
        for kind, keys in reads.get(section, {}).items():
            if kind is None or (section == "grid" and not keys):
                continue
            lines += section_lines(section, table[section][kind], None if "*" in keys.split() else keys.split())
    return lines


def section_lines(path: str, table: Any, keys: list[str] | None = None, default: Any = None) -> list[str]:
    """Return the lines of one kind of a section: its head, then a line a key; tables inside follow it.

    Parameters
    ----------
    path : str
        Such as ``"algorithm"`` or ``"student.abc"``.
    table : type of Spec
    keys : list of str, optional
        Those to list; default: all.
    default : Spec, optional
        An instance whose values are the defaults.
    """
    tag = table.__struct_config__.tag
    lines = [f"  [{path}]" + (f' kind = "{tag}"' if tag else "")]
    inner: list[str] = []
    for f in msgspec.structs.fields(table):
        if keys is not None and f.name not in keys and not _is_variant(f):
            continue
        tables = [t for t in members_of(f.type) if _is_table(t) and t.__name__ != "Range"]
        if tables and all(_is_table(t) or t is type(None) for t in members_of(f.type)):
            for nested in tables:
                inner += section_lines(f"{path}.{f.encode_name}", nested)
            continue
        lines.append(f"    {f.encode_name}: {values(f.type)}  ({_says(f, default)})")
    return lines + inner


def _is_variant(field: Any) -> bool:
    from ..problem.kinds import VARIANTS

    return field.name in VARIANTS.values()


def _says(field: Any, default: Any) -> str:
    if field.required:
        return "required"
    value = field.default if default is None else getattr(default, field.name)
    if value is None or value is msgspec.NODEFAULT:
        return "optional"
    return f"default {value_text(value)}"


def _is_table(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def values(hint: Any) -> str:
    """Say in words of TOML what a key takes."""
    members = [t for t in members_of(hint) if t is not type(None)]
    if len(members) > 1:
        return ", or ".join(values(t) for t in members)
    (only,) = members
    if get_origin(only) is Literal:
        return " | ".join(value_text(v) for v in get_args(only))
    if get_origin(only) is tuple:
        parts = get_args(only)
        if Ellipsis in parts:
            inner = next(t for t in members_of(parts[0]))
            return "rows of numbers" if get_origin(inner) is tuple else f"list of {_plural(inner)}"
        return f"{len(parts)} {_plural(parts[0])}"
    if _is_table(only):
        return "{ start, stop, points, spacing }" if only.__name__ == "Range" else "table"
    return {bool: "true | false", int: "whole number", float: "number", str: "text"}.get(only, "table")


def _plural(hint: Any) -> str:
    known = {"int": "whole numbers", "float": "numbers", "str": "texts", "Coefficients": '{ "degree" = number }'}
    return known.get(getattr(hint, "__name__", ""), "tables")
