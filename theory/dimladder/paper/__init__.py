"""Everything that is embedded in a paper: figures, pgfplots, tables, macros, BibTeX, equations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundle import FORMATS, export
    from .citation import Citation, cite
    from .draw import STYLES, figure, key, sheets_of
    from .equations import equations_document
    from .labels import Names

__all__ = [
    "FORMATS",
    "STYLES",
    "Citation",
    "Names",
    "cite",
    "equations_document",
    "export",
    "figure",
    "key",
    "sheets_of",
]

_WHERE = {
    "FORMATS": "bundle", "export": "bundle", "Citation": "citation", "cite": "citation",
    "STYLES": "draw", "figure": "draw", "key": "draw", "sheets_of": "draw",
    "equations_document": "equations", "Names": "labels",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    # matplotlib and jinja2 are met on first use only.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_WHERE[name]}", __name__), name)
