"""A run file for a theory that comes with none: composed from what the theory reads, in values of other run files."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import msgspec

from ..errors import DimladderError, UsageError
from ..problem import SECTIONS, parse_document, state, to_builtins, with_kinds
from ..problem.config import members_of
from ..problem.kinds import DEFAULT_KIND, kind_of
from ..problem.toml_writer import value_text
from .keys import values

# Combinations of kinds that are tried, run files whose values each begins with, and repairs of one.
COMBINATIONS, NEAR, REPAIRS = 24, 8, 40
Document = dict[str, Any]


def compose(theory: Any, called: str, run_files: Mapping[str, str]) -> str:
    """Return the text of a run file that the theory does not refuse, with every key that it reads.

    Parameters
    ----------
    theory : Theory
    called : str
        The key ``theory`` of the file: a name, or a path relative to the file.
    run_files : mapping
        Name -> text of run files, whose values are taken.

    Raises
    ------
    UsageError
        When none is found; the refusals of the first three tries are told.
    """
    reads = {section: kinds for section, kinds in theory.read_table().items() if section in SECTIONS}
    files = {name: parse_document(text, name) for name, text in run_files.items()}
    told = []
    for chosen in itertools.islice(_choices(reads), COMBINATIONS):
        # Values that stand together in one file go together: the files of the most kinds in common come first.
        near = sorted(files, key=lambda name: -sum(_kind(files[name], s) == kind for s, kind in chosen.items()))
        for name in near[:NEAR]:
            document, why = _repaired(theory, chosen, files[name], _pool({name: files[name]} | files))
            if document is not None:
                return _text(theory, called, chosen, document)
            told.append(why)
    raise UsageError(
        f"no run file for {theory.name!r} could be composed", why="\n       ".join(dict.fromkeys(told[:3])),
        hint=f"write one from  dimladder show {called}",
    )  # fmt: skip


def _kind(document: Mapping[str, Any], section: str) -> str:
    table = document.get(section, {})
    return str(table.get("kind", DEFAULT_KIND.get(section, ""))) if isinstance(table, dict) else ""


def _pool(files: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], list[Any]]:
    """Return (section, key) -> the values that run files give it, in their order."""
    found: dict[tuple[str, str], list[Any]] = {}
    for document in files.values():
        for section, table in document.items():
            for key, value in table.items() if isinstance(table, dict) else ():
                known = found.setdefault((section, key), [])
                if value not in known:
                    known.append(value)
    return found


def _choices(reads: Mapping[str, Mapping[str | None, str]]) -> Iterator[dict[str, str]]:
    """Yield section -> kind; a section that may be absent is left out first."""
    sections = [s for s in SECTIONS if s in reads]
    kinds = [sorted(reads[s], key=lambda kind: kind is not None) for s in sections]
    for picked in itertools.product(*kinds):
        yield {s: kind for s, kind in zip(sections, picked, strict=True) if kind is not None}


def _fields(theory: Any, section: str, kind: str) -> dict[str, Any]:
    """Return the fields of a kind that the theory reads, or that have no default."""
    keys = theory.read_table()[section][kind].split()
    spec = with_kinds(theory.kinds)[section][kind]
    return {f.encode_name: f for f in msgspec.structs.fields(spec) if f.required or "*" in keys or f.name in keys}


def _repaired(
    theory: Any, chosen: Mapping[str, str], near: Mapping[str, Any], pool: Mapping[tuple[str, str], list[Any]]
) -> tuple[Document | None, str]:
    """Return a document that is not refused, or None and the last refusal.

    It begins with what is read of the sections of `near` that have the kinds chosen, and with what has no default; what
    is refused takes its next value.
    """
    document: Document = {"schema": 2}
    for section, kind in chosen.items():
        table = with_kinds(theory.kinds)[section][kind]
        tag = table.__struct_config__.tag
        document[section] = {"kind": tag} if tag else {}
        given = near.get(section, {}) if _kind(near, section) == kind else {}
        for key, field in _fields(theory, section, kind).items():
            if key in given:
                document[section][key] = given[key]
            elif field.required or (section == "grid" and key in theory.axes):
                value = next(_values(section, key, field, pool), None)
                if value is None:
                    return None, f"{section}.{key}: no run file says what it may be"
                document[section][key] = value
        variant = kind_of(table).partition("/")[2]
        document[section] |= {"source" if section == "data" and tag == "points" else "law": variant} if variant else {}
    told = ""
    turned: dict[tuple[str, str], Iterator[Any]] = {}
    for _ in range(REPAIRS):
        path, told = _refused(theory, document)
        if not path:
            return document, ""
        section, key, *_ = *re.split(r"[.\[]", path), ""
        if section not in chosen:
            return None, told
        fields = _fields(theory, section, chosen[section])
        # A key that the message asks for, then the next value of the one that it refuses.
        asked = [
            k for k in re.findall(r"\w+", told) if k in fields and k not in document[section] and (section, k) in pool
        ]
        # Where only the section is named, the key whose value the message quotes.
        quoted = [k for k, v in document[section].items() if k in fields and isinstance(v, str) and repr(v) in told]
        key = next(iter([*asked, *([] if key else quoted), key]))
        if key not in fields:
            return None, told
        value = next(turned.setdefault((section, key), _values(section, key, fields[key], pool)), None)
        if value is None:
            return None, told
        document[section][key] = value
    return None, told


def _refused(theory: Any, document: Document) -> tuple[str, str]:
    """Return the key path that is refused and why; two empty texts where nothing is."""
    try:
        for refusal in theory.refusals(state(document, theory, "new")):
            return refusal.path, f"{refusal.path}: {refusal.why} {refusal.hint}"
    except DimladderError as error:
        return (error.where or "").removeprefix("new: "), f"{error.where}: {error.why}"
    return "", ""


def _values(section: str, key: str, field: Any, pool: Mapping[tuple[str, str], list[Any]]) -> Iterator[Any]:
    """Yield what a key may be: what run files say, the choices of its type, a plain value of its type."""
    yield from pool.get((section, key), ())
    members = [t for t in members_of(field.type) if t is not type(None)]
    for hint in members:
        if get_origin(hint) is Literal:
            yield from get_args(hint)
    plain = {bool: True, int: 1, float: 1.0, str: "z"}
    yield from (plain[t] for t in members if t in plain)
    if section == "grid":
        yield [0.5, 1.0, 2.0]


def _text(theory: Any, called: str, chosen: Mapping[str, str], document: Document) -> str:
    """Return the document with a comment a key, and the keys that were not needed as comments."""
    lines = ["schema = 2", f"theory = {value_text(called)}", f"title = {value_text(theory.title)}"]
    for section, kind in chosen.items():
        table = document[section]
        rows = [(f"kind = {value_text(table['kind'])}", "")] if "kind" in table else []
        for key, field in _fields(theory, section, kind).items():
            if key in table:
                rows.append((f"{key} = {value_text(table[key])}", values(field.type)))
            else:
                known = isinstance(field.default, bool | int | float | str | tuple)
                shown = value_text(to_builtins(field.default)) if known else "..."
                rows.append((f"# {key} = {shown}", values(field.type)))
        if not rows:
            continue
        width = max((len(row) for row, _ in rows if len(row) < 60), default=0)
        lines += [f"[{section}]", *(f"{row:<{width}}  # {note}" if note else row for row, note in rows)]
    if theory.simulation is not None:
        lines += ["[simulation]", f"sizes = {value_text(tuple(theory.simulation.sizes) or (100, 200))}"]
    return "\n".join(lines) + "\n"
