"""Equations of a problem as text, kept: a later process prints them without deriving them anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from .solve import derive
from .symbolic import store

if TYPE_CHECKING:
    from .problem import Problem
    from .symbolic.systems import System

__all__ = ["equation_rows", "equations_text"]


def equations_text(problem: Problem, form: str, columns: int = 1, varied: Collection[str] = ()) -> str:
    """Return what a method of the problem's system prints, or one of its table of notation.

    Parameters
    ----------
    form : {"latex", "text", "sympy", "explain", "notation as latex", "notation as text", "notation as html"}
    columns : {1, 2}
        Of the page, for LaTeX.
    varied : collection of str
        Keys whose numbers a table of notation leaves out.
    """

    def build(system: System) -> str:
        printed: Any = system.notation().without(varied) if form.startswith("notation as ") else system
        form_of = form.removeprefix("notation as ")
        return str(printed.latex(columns) if form_of == "latex" else getattr(printed, form_of)())

    return _kept(problem, (form, columns, *sorted(varied)), build)


def equation_rows(problem: Problem) -> list[tuple[str, str, str]]:
    """Return label, LaTeX and note of every equation."""

    def build(system: System) -> str:
        return json.dumps([(e.label, e.latex, e.note) for e in system.equations()])

    return [(label, latex, note) for label, latex, note in json.loads(_kept(problem, ("rows",), build))]


def _kept(problem: Problem, parts: tuple[object, ...], build: Callable[[System], str]) -> str:
    system = derive(problem)
    place = type(system).__module__
    if not place.startswith(f"{__package__}."):
        # A theory of the user's: what else than its own file it reads is not known.
        return build(system)
    return store.text((place, problem.content_hash, *parts), place, lambda: build(system))
