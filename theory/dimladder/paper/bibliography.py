"""Reading BibTeX files: just enough to pick entries out, checked strictly."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import DimladderError

_START = re.compile(r"@(\w+)\s*\{\s*([^,\s]+)\s*,")
REQUIRED = {
    "article": ("author", "title", "journal", "year"),
    "inproceedings": ("author", "title", "booktitle", "year"),
    "book": ("author", "title", "publisher", "year"),
    "misc": ("author", "title", "year"),
    "software": ("author", "title", "year"),
    "phdthesis": ("author", "title", "school", "year"),
}


@dataclass(frozen=True)
class Entry:
    """One BibTeX entry; `text` is its source as written."""

    kind: str
    key: str
    fields: dict[str, str]
    text: str


def parse(text: str, source: str = "references.bib") -> dict[str, Entry]:
    """Return key -> entry.

    Raises
    ------
    DimladderError
        For unbalanced braces, a duplicate key, an unknown kind or a missing field, with the line.
    """
    entries: dict[str, Entry] = {}
    position = 0
    while (found := _START.search(text, position)) is not None:
        line = text.count("\n", 0, found.start()) + 1
        end = _closing(text, text.index("{", found.start()))
        if end < 0:
            raise DimladderError(
                "unbalanced braces in a BibTeX entry", where=f"{source}: line {line}", why=found.group(2)
            )
        kind, key = found.group(1).lower(), found.group(2)
        fields = _fields(text[found.end() : end])
        missing = [f for f in REQUIRED.get(kind, ()) if f not in fields]
        if key in entries or kind not in REQUIRED or missing:
            why = (
                f"the key {key!r} appears twice" if key in entries else f"unknown kind @{kind}" if kind not in REQUIRED
                else f"{key!r} lacks {', '.join(missing)}"
            )  # fmt: skip
            raise DimladderError("a BibTeX entry cannot be used", where=f"{source}: line {line}", why=why)
        entries[key] = Entry(kind, key, fields, text[found.start() : end + 1])
        position = end + 1
    return entries


def _closing(text: str, start: int) -> int:
    depth = 0
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return -1


def _fields(body: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    position = 0
    while (found := re.compile(r"\s*,?\s*([\w-]+)\s*=\s*").match(body, position)) is not None:
        start = found.end()
        if body[start] == "{":
            end = _closing(body, start)
            value, position = body[start + 1 : end], end + 1
        else:
            plain = re.compile(r'"([^"]*)"|([^,\s]+)').match(body, start)
            if plain is None:
                break
            value, position = plain.group(1) or plain.group(2), plain.end()
        fields[found.group(1).lower()] = " ".join(value.split())
    return fields
