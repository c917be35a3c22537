"""``dimladder show``: a theory's card, or the facts of one run file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .verb import Verb, add_json, load_problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="THEORY|RUN.toml", help="the name of a theory, or a run file")
    parser.add_argument("--set", dest="overrides", metavar="a.b=VALUE", action="append", default=[], help="see solve")
    add_json(parser)


def _keys(kind: Any) -> list[str]:
    """Return the sections of a problem type as lines, with their keys, the values they take and the defaults."""
    import msgspec

    lines: list[str] = []
    for section in msgspec.structs.fields(kind):
        if section.name not in ("theory", "schema", "title"):
            lines += _section(section.name, section.type)
    return lines


def _section(path: str, hint: Any) -> list[str]:
    """Return the lines of a table, one block for each of its kinds; tables inside follow it."""
    import msgspec

    from ..problem.config import _members  # the loader's own reading of unions, so that the card cannot disagree

    lines: list[str] = []
    for table in _members(hint):
        if not _is_table(table):
            continue
        tag = table.__struct_config__.tag
        lines.append(f"  [{path}]" + (f' kind = "{tag}"' if tag else ""))
        inner: list[str] = []
        for f in msgspec.structs.fields(table):
            if any(_is_table(t) and t.__name__ != "Range" for t in _members(f.type)):
                inner += _section(f"{path}.{f.encode_name}", f.type)
                continue
            default = "required" if f.required else "optional" if f.default in (None, msgspec.NODEFAULT) else ""
            lines.append(f"    {f.encode_name}: {_values(f.type)}  ({default or 'default ' + _toml(f.default)})")
        lines += inner
    return lines


def _is_table(hint: Any) -> bool:
    import msgspec

    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _values(hint: Any) -> str:
    """Say in words of TOML what a key takes."""
    from typing import Literal, get_args, get_origin

    from ..problem.config import _members

    members = [t for t in _members(hint) if t is not type(None)]
    if len(members) > 1:
        return ", or ".join(_values(t) for t in members)
    (only,) = members
    if get_origin(only) is Literal:
        return " | ".join(_toml(v) for v in get_args(only))
    if get_origin(only) is tuple:
        parts = get_args(only)
        if Ellipsis in parts:
            inner = next(t for t in _members(parts[0]))
            return "rows of numbers" if get_origin(inner) is tuple else f"list of {_plural(inner)}"
        return f"{len(parts)} {_plural(parts[0])}"
    if _is_table(only):
        return "{ start, stop, points, spacing }" if only.__name__ == "Range" else "table"
    return {bool: "true | false", int: "whole number", float: "number", str: "text"}.get(only, "table")


def _plural(hint: Any) -> str:
    known = {"int": "whole numbers", "float": "numbers", "str": "texts", "Coefficients": '{ "degree" = number }'}
    return known.get(getattr(hint, "__name__", ""), "tables")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return f"[{', '.join(_toml(v) for v in value)}]" if isinstance(value, tuple) else f"{value}"


def run(args: argparse.Namespace) -> int:
    from .. import theories

    facts: dict[str, Any] = {}
    if args.what.endswith(".toml") or Path(args.what).is_file():
        args.run = args.what
        problem = load_problem(args)
        theory = theories.find(problem.theory)
        facts = {"title": problem.title, "hash": problem.content_hash, **theory.describe(problem)}
    else:
        theory = theories.find(args.what)
    card = {
        "name": theory.name, "title": theory.title, "summary": theory.summary, "assumptions": list(theory.assumptions),
        "limits": list(theory.limits), "references": list(theory.references),
    }  # fmt: skip
    if args.json:
        print(json.dumps({**card, "problem": facts} if facts else card, default=str))
        return 0
    print(f"{theory.name}: {theory.title}\n\n{theory.summary}\n")
    for label in ("assumptions", "limits"):
        if card[label]:
            print(f"{label.capitalize()}\n" + "\n".join(f"  - {line}" for line in card[label]) + "\n")
    print(f"References: {', '.join(theory.references) or 'none'}\n")
    if facts:
        print(f"This problem ({args.what})")
        for name, value in facts.items():
            print(f"  {name}: {value}")
    else:
        print("Sections of a run file")
        print("\n".join(_keys(theory.problem_type)))
    return 0


VERB = Verb("show", "a theory's card: assumptions, limits, references, keys", add_arguments, run)
