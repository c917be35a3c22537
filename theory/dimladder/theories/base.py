"""What a theory is, and how one is found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import ConfigError, DimladderError, did_you_mean

if TYPE_CHECKING:
    from ..problem import Problem
    from ..symbolic.systems import System

GROUP = "dimladder.theories"


class Theory(ABC):
    """One theory: the problems it answers, its equations, what it assumes and whom it owes.

    Attributes
    ----------
    name : str
        The key ``theory`` of a run file, and the entry point.
    title, summary : str
        One line, one sentence.
    problem_type : type of Problem
    references : tuple of str
        Keys of ``references.bib``.
    assumptions, limits : tuple of str
        What must hold; known limits and special cases.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    problem_type: ClassVar[type[Problem]]
    references: ClassVar[tuple[str, ...]] = ()
    assumptions: ClassVar[tuple[str, ...]] = ()
    limits: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def derive(self, problem: Any) -> System:
        """Return the equations of a problem of this theory's type."""

    def describe(self, problem: Any) -> dict[str, Any]:
        """Return facts about one problem worth showing, such as its information exponent."""
        return {}

    def references_for(self, problem: Any) -> tuple[str, ...]:
        """Return the keys of exactly what this problem uses."""
        return self.references


@cache
def _entries() -> dict[str, EntryPoint]:
    return {e.name: e for e in entry_points(group=GROUP)}


def names() -> list[str]:
    """Return the names of every installed theory."""
    return sorted(_entries())


def find(name: str) -> Theory:
    """Return the theory called `name`.

    Raises
    ------
    ConfigError
        When no theory has that name; the message suggests the nearest.
    DimladderError
        When the theory's module cannot be imported.
    """
    entry = _entries().get(name)
    if entry is None:
        raise ConfigError(f"there is no theory {name!r}", where="theory", hint=did_you_mean(name, _entries()))
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise DimladderError(
            f"the theory {name!r} cannot be loaded",
            where=entry.value,
            why=str(error),
            hint="reinstall the package that provides it",
        ) from error


def problem_type(name: str) -> type[Problem]:
    """Return the problem type of the theory called `name`."""
    return find(name).problem_type
