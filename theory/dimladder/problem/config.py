"""Run files: TOML text to `Problem`, with errors that name file, key path, value and a suggestion."""

from __future__ import annotations

import json
import math
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from ..errors import ConfigError, DimladderError, did_you_mean
from .kinds import ABSENT, DEFAULT_KIND, KINDS, SECTIONS, VARIANTS, Kinds, with_kinds
from .spec import Coefficients, Problem, Spec, to_builtins

P = TypeVar("P", bound=Spec)
FindTheory = Callable[[str], Any]
_NOT_A_PROBLEM = "the run file does not describe a problem"
_BARE_WORD = re.compile(r"[A-Za-z][\w-]*")
# What people write as a number and TOML does not take: ``.5``, ``1.``.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
MAX_BYTES = 4_000_000
MAX_DEPTH = 16
MAX_NUMBER = 1e150


def read(path: str | Path) -> str:
    """Return the text of a run file, or raise `ConfigError` saying why it cannot be read; ``-`` is standard input."""
    if str(path) == "-":
        return _standard_input()
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(
                "the file is too large for a run file", where=str(path), why=f"it has more than {MAX_BYTES} bytes"
            )
        # Editors may put a byte-order mark in front, which TOML does not know.
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError("the run file is not UTF-8 text", where=str(path), why=str(error)) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError("the run file cannot be read", where=str(path), why=why, hint="check the path") from None


@cache
def _standard_input() -> str:
    """Read once what can be read once only."""
    text = sys.stdin.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        why = f"it has more than {MAX_BYTES} characters"
        raise ConfigError("standard input is too long for a run file", where="-", why=why)
    return text


def parse_document(text: str, source: str = "<text>") -> dict[str, Any]:
    """Return the TOML document as nested dictionaries."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Not only tomllib's own error: integers of thousands of digits and deep brackets raise others.
        raise ConfigError("the run file is not valid TOML", where=source, why=_toml_reason(error)) from None
    check_values(document, source)
    return document


def _toml_reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "brackets are nested too deeply"
    return "an integer has too many digits" if "integer string conversion" in str(error) else str(error)


def check_values(document: Any, source: str) -> None:
    """Refuse what no section takes and what would fail far from its key: deep nesting, huge integers, dates."""
    waiting: list[tuple[Any, tuple[str, ...]]] = [(document, ())]
    while waiting:
        node, path = waiting.pop()
        why = None
        if len(path) > MAX_DEPTH:
            why = f"tables and lists are nested more than {MAX_DEPTH} deep"
        elif isinstance(node, int) and not -(2**63) <= node < 2**63:
            why = "the integer does not fit into 64 bits; write a large number as 1e20"
        elif isinstance(node, float) and math.isnan(node):
            why = "nan is no number"
        elif isinstance(node, float) and MAX_NUMBER < abs(node) < math.inf:
            why = f"the number {node:g} is larger than {MAX_NUMBER:g}: its square is none in double precision"
        elif not isinstance(node, str | int | float | dict | list | None):
            why = f"a {type(node).__name__} is no value of a run file"
        if why is not None:
            raise ConfigError(_NOT_A_PROBLEM, where=f"{source}: {'.'.join(path)}", why=why)
        if isinstance(node, dict):
            waiting += [(value, (*path, str(key))) for key, value in node.items()]
        elif isinstance(node, list):
            waiting += [(value, (*path, str(position))) for position, value in enumerate(node)]


def parse_override(assignment: str) -> tuple[str, Any]:
    """Split ``a.b=VALUE`` and read VALUE as TOML (a bare word counts as a string).

    Examples
    --------
    >>> parse_override("algorithm.learning_rate=0.1")
    ('algorithm.learning_rate', 0.1)
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"cannot read the override {assignment!r}",
            where="--set",
            hint="write it as a.b=VALUE, VALUE in TOML syntax",
        )
    where, text = f"--set {key.strip()[:80]}", text.strip()
    if _NUMBER.fullmatch(text) and not text.lstrip("+-").isdigit():
        return key.strip(), float(text)
    if _BARE_WORD.fullmatch(text) and text not in ("true", "false", "inf", "nan"):
        return key.strip(), text
    why = None
    try:
        document = tomllib.loads(f"value = {text}")
        if list(document) != ["value"]:
            why = "it is more than one value"
    except (ValueError, RecursionError) as error:
        why = _toml_reason(error)
    if why is not None:
        raise ConfigError(
            f"cannot read the value of the override {_short(assignment)}", where=where,
            why=f"{_short(text)} is not a TOML value ({why})",
            hint="quote strings, e.g. --set 'target.link=\"tanh(2*h)\"'",
        )  # fmt: skip
    check_values(document, where)
    return key.strip(), document["value"]


def apply_overrides(document: dict[str, Any], overrides: Mapping[str, Any], source: str = "<text>") -> dict[str, Any]:
    """Return a copy of `document` with each dotted key replaced; a list is indexed by a number."""
    # Through JSON-like copying, so that the caller's document is never touched.
    result = _copy(document)
    for key, value in overrides.items():
        *path, last = _split(key)
        node: Any = result
        for depth, name in enumerate(path):
            node = _descend(node, name, ".".join(path[: depth + 1]), source)
        if isinstance(node, list):
            node[_index(node, last, key, source)] = _copy(value)
        elif isinstance(node, dict):
            node[last] = _copy(value)
        else:
            raise _not_a_table(key, ".".join(path), node, source)
    check_values(result, source)
    return result


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _copy(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(v) for v in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def _split(key: str) -> list[str]:
    parts = [p.strip().strip('"') for p in key.split(".")]
    if any(not p for p in parts) or len(parts) > MAX_DEPTH:
        raise ConfigError(f"cannot read the key {_short(key)}", where="--set", hint="write nested keys as a.b.c")
    return parts


def _index(node: list[Any], name: str, key: str, source: str) -> int:
    if not (name.isascii() and name.isdecimal() and len(name) < 9) or int(name) >= len(node):
        raise ConfigError(
            f"no entry {_short(name)} in the list",
            where=f"{source}: {key}",
            why=f"it has {len(node)} entries, counted from 0",
        )
    return int(name)


def _descend(node: Any, name: str, key: str, source: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, name, key, source)]
    if isinstance(node, dict):
        return node.setdefault(name, {})
    raise _not_a_table(key, key, node, source)


def _not_a_table(key: str, parent: str, node: Any, source: str) -> ConfigError:
    return ConfigError(
        f"cannot set {key!r}",
        where=f"{source}: {parent}",
        why=f"{parent} is {node!r}, not a table",
        hint="check the key",
    )


def build(
    document: dict[str, Any],
    find: FindTheory,
    source: str = "<text>",
    choose: Callable[[dict[str, Any], str], Any] | None = None,
) -> Problem:
    """Turn a document into a problem.

    Parameters
    ----------
    document : dict
        The run file.
    find : callable
        Maps the name of a theory to the theory (the registry, passed in so that this layer knows no theory).
    source : str
        The file, for messages.
    choose : callable, optional
        ``choose(document, source)`` is the theory that answers a document which names none.

    Raises
    ------
    ConfigError
        With file, key path, value and a suggestion.
    """
    name = document.get("theory")
    if name is not None and not isinstance(name, str):
        raise ConfigError(_NOT_A_PROBLEM, where=f"{source}: theory", why="it must be the name of a theory")
    check_keys(document, source)
    if name is None and choose is None:
        raise ConfigError("the run file names no theory", where=f"{source}: theory", hint='add  theory = "one-pass"')
    theory = find(name) if name is not None else choose(document, source)  # type: ignore[misc]
    problem = state(document, theory, source)
    refusals = theory.refusals(problem)
    if refusals:
        raise refused(theory.name, refusals, source)
    return problem


def refused(name: str, refusals: Sequence[Any], source: str) -> ConfigError:
    """Return the error of a theory that does not answer: the first reason in full, then the others."""
    first, *others = refusals
    more = "".join(f"; {other.path}: {other.why}" for other in others[:5])
    return ConfigError(
        f"the theory {name!r} does not answer this problem", where=f"{source}: {first.path}", why=first.why + more,
        hint="; ".join(filter(None, (first.hint, "dimladder which RUN.toml says who answers, and why others do not"))),
    )  # fmt: skip


def check_keys(document: Mapping[str, Any], source: str) -> None:
    """Refuse what no run file may hold: another schema, an unknown section, a section that is no table."""
    schema = document.get("schema", 2)
    if schema != 2 or isinstance(schema, bool):
        raise ConfigError(
            _NOT_A_PROBLEM, where=f"{source}: schema", why=f"the language is schema 2, this is {_short(schema)}",
            hint="docs/reference/language.md lists the words of schema 2",
        )  # fmt: skip
    for key, value in document.items():
        if key not in ("schema", "theory", "title", *SECTIONS):
            raise ConfigError(
                _NOT_A_PROBLEM, where=f"{source}: {key}", why=f"the key {key!r} is not known here",
                hint=did_you_mean(key, [*SECTIONS, "theory", "title"]),
            )  # fmt: skip
        if key in SECTIONS and not isinstance(value, Mapping):
            raise ConfigError(
                _NOT_A_PROBLEM, where=f"{source}: {key}", why=f"a section is a table, got {_short(value)}"
            )


def state(document: Mapping[str, Any], theory: Any, source: str = "<text>") -> Problem:
    """Return what a document asks of a theory, whether it answers or not.

    Parameters
    ----------
    document : mapping
    theory : Theory or None
        Its kinds, its default solver settings and simulation sizes. None: the problem without these two sections.
    """
    check_values(document, source)
    check_keys(document, source)
    table = with_kinds(theory.kinds) if theory is not None else KINDS
    given = {name: _tagged(name, document[name], table, source) for name in table if name in document}
    # In a section of a single kind a key ``kind`` is an unknown key like any other.
    classes = {name: table[name]["" if "" in table[name] else _kind_in(section)] for name, section in given.items()}
    if theory is not None:
        for name in ("solver", "simulation"):
            default = getattr(theory, name)
            if default is None:
                if document.get(name):
                    raise ConfigError(
                        f"the theory {theory.name!r} has no settings in [{name}]", where=f"{source}: {name}",
                        hint="drop the section",
                    )  # fmt: skip
                continue
            given[name] = {**to_builtins(default), **document.get(name, {})}
            classes[name] = type(default)
    given["title"] = document.get("title", "")
    sections: Any = convert(given, _document_type(tuple(classes.items())), source)
    values: dict[str, Any] = {name: getattr(sections, name, ABSENT.get(name)) for name in SECTIONS}
    return Problem(theory=theory.name if theory is not None else "", title=sections.title, **values)


def _tagged(name: str, section: Mapping[str, Any], table: Kinds, source: str) -> dict[str, Any]:
    """Return the section with its kind written out, or raise the error that lists the kinds."""
    kinds = table[name]
    if "" in kinds:
        return dict(section)
    kind = section.get("kind", DEFAULT_KIND.get(name))
    names = sorted({key.partition("/")[0] for key in kinds})
    if kind is None:
        raise ConfigError(
            _NOT_A_PROBLEM, where=f"{source}: {name}.kind", why="the key 'kind' is required",
            hint=f"known: {', '.join(names)}",
        )  # fmt: skip
    if kind not in names:
        raise ConfigError(
            _NOT_A_PROBLEM, where=f"{source}: {name}.kind",
            why=f"this value is not known here (the value is {_short(kind)})", hint=did_you_mean(str(kind), names),
        )  # fmt: skip
    key = VARIANTS.get(kind)
    if key is not None:
        variants = [k.partition("/")[2] for k in kinds if k.partition("/")[0] == kind]
        if section.get(key) not in variants:
            why = f"the key {key!r} is required" if key not in section else "this value is not known here"
            raise ConfigError(
                _NOT_A_PROBLEM, where=f"{source}: {name}.{key}", why=why,
                hint=did_you_mean(str(section.get(key, "")), variants),
            )  # fmt: skip
    return {**section, "kind": kind}


def _kind_in(section: Mapping[str, Any]) -> str:
    kind = str(section.get("kind", ""))
    return f"{kind}/{section[VARIANTS[kind]]}" if kind in VARIANTS else kind


@cache
def _document_type(classes: tuple[tuple[str, type[Spec]], ...]) -> type[Spec]:
    """Return a type with these sections, so that every message carries the whole key path."""
    document: Any = msgspec.defstruct(
        "Document", [*classes, ("title", str, "")], bases=(Spec,), frozen=True, kw_only=True,
        forbid_unknown_fields=True,
    )  # fmt: skip
    kind: type[Spec] = document
    return kind


def convert(document: dict[str, Any], kind: type[P], source: str = "<text>") -> P:
    """Check `document` against the problem type `kind` and build it."""
    try:
        return msgspec.convert(document, kind, dec_hook=_decode, strict=True)
    except msgspec.ValidationError as error:
        raise _explain(error, document, kind, source) from None
    except DimladderError as error:
        error.where = f"{source}: {error.where}" if error.where else source
        raise


def convert_sections(
    document: dict[str, Any], classes: Mapping[str, type[Spec]], source: str = "<text>"
) -> dict[str, Spec]:
    """Check some sections of a problem and build them: of the given classes, with messages as of a whole run file."""
    built: Any = convert(document, _document_type(tuple(classes.items())), source)
    return {name: getattr(built, name) for name in classes}


def value_at(problem: Problem, key: str) -> Any:
    """Return the value of a dotted key: plain numbers, text or nested lists; None where it is optional and not given.

    Raises
    ------
    ConfigError
        Where the problem has no such key.
    """
    node: Any = problem
    parts = _split(key)
    for depth, part in enumerate(parts):
        known: list[str] = []
        if isinstance(node, Spec):
            known = list(node.__struct_encode_fields__)
            if part in known:
                node = getattr(node, part)
                continue
        elif isinstance(node, tuple):
            node = node[_index(list(node), part, key, "the problem")]
            continue
        elif isinstance(node, Coefficients):
            known = [str(degree) for degree in node]
            if part in known:
                node = node[int(part)]
                continue
        above = ".".join(parts[:depth]) or "the problem"
        raise ConfigError(
            f"there is no key {key!r}", where=above, why=f"{above} has no {part!r}",
            hint=did_you_mean(part, known) if known else "check the key",
        )  # fmt: skip
    return to_builtins(node)


def _decode(kind: type, value: Any) -> Any:
    if kind is Coefficients:
        if not isinstance(value, dict):
            raise ValueError(f"expected a table degree = coefficient, got {value!r}")
        return Coefficients(value)
    raise NotImplementedError(kind)


def _explain(error: msgspec.ValidationError, document: dict[str, Any], kind: type, source: str) -> ConfigError:
    message = str(error)
    why, _, at = message.rpartition(" - at `$")
    if not why:
        why, at = message, ""
    path = at.rstrip("`").lstrip(".").replace("[...]", "")
    parts = re.findall(r"[^.\[\]]+", path)
    value = _value_at(document, parts)
    hint = None
    unknown = re.search(r"unknown field `([^`]*)`", why)
    missing = re.search(r"missing required field `([^`]*)`", why)
    fields = _fields(kind, document, parts)
    if unknown:
        word = unknown.group(1)
        path = f"{path}.{word}" if path else word
        value = _value_at(document, [*parts, word])
        why, hint = f"the key {word!r} is not known here", did_you_mean(word, fields)
    elif missing:
        path = f"{path}.{missing.group(1)}" if path else missing.group(1)
        why, value = f"the key {missing.group(1)!r} is required", None
    elif why.startswith("Invalid ") and isinstance(value, str | int):
        why = "this value is not known here"
        hint = did_you_mean(str(value), _choices(kind, document, parts))
    if isinstance(value, dict):
        # A section refused as a whole: its message names the key, by the habit of every ``__post_init__``.
        named = next((word for word in re.findall(r"\w+", why) if word in value and word in fields), None)
        path, value = (f"{path}.{named}" if named and path else path), (value[named] if named else None)
    shown = "" if value is None or isinstance(value, dict) else f" (the value is {_short(value)})"
    return ConfigError(_NOT_A_PROBLEM, where=f"{source}: {path or '$'}", why=why + shown, hint=hint)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 120 else text[:117] + "..."


def _value_at(document: Any, parts: list[str]) -> Any:
    node = document
    for part in parts:
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    return node


def _candidates(kind: Any, document: Any, parts: list[str]) -> list[Any]:
    """Return the types that may stand at the key path, following the tags of unions."""
    types = [kind]
    node = document
    for part in parts:
        step: list[Any] = []
        for t in types:
            hints = get_type_hints(t) if isinstance(t, type) and issubclass(t, msgspec.Struct) else {}
            step += members_of(hints[part]) if part in hints else [m for a in get_args(t) for m in members_of(a)]
        node = _value_at(node, [part])
        tag = node.get("kind") if isinstance(node, dict) else None
        tagged = [t for t in step if _tag(t) == tag]
        types = tagged or step
    return types


def members_of(hint: Any) -> list[Any]:
    import types
    import typing

    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [m for a in get_args(hint) for m in members_of(a)]
    return [hint]


def _tag(kind: Any) -> Any:
    return kind.__struct_config__.tag if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def _fields(kind: Any, document: Any, parts: list[str]) -> list[str]:
    found: set[str] = set()
    for t in _candidates(kind, document, parts):
        if isinstance(t, type) and issubclass(t, msgspec.Struct):
            found.update(t.__struct_encode_fields__)
            if t.__struct_config__.tag_field:
                found.add(t.__struct_config__.tag_field)
    return sorted(found)


def _choices(kind: Any, document: Any, parts: list[str]) -> list[str]:
    if parts and parts[-1] == "kind":
        return [str(_tag(t)) for t in _candidates(kind, document, parts[:-1]) if _tag(t)]
    return [str(a) for t in _candidates(kind, document, parts) for a in get_args(t) if isinstance(a, str | int)]
