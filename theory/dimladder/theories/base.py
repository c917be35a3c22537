"""What a theory is: the problems it reads, its equations, what it assumes and whom it owes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from ..problem import ABSENT, SECTIONS, Spec, away_from_default, kind_of
from ..problem import Refusal as Refusal
from ..problem.grids import Simulation
from ..problem.moments import moment_faults
from ..problem.timed import own_formulas

# Sections whose formulas, and the variances of whose fields, decide whether moments exist.
MOMENTS = {"data", "target", "student", "initial"}

if TYPE_CHECKING:
    from ..problem import Problem
    from ..problem.kinds import Kinds
    from ..symbolic.systems import System

__all__ = ["Reads", "Refusal", "Theory"]

# Of one section: kind -> keys it honours, as words ("*": all of them); the key None: the section may be absent.
# A section of a single kind (loss, limit, grid) may be given by its keys alone.
Reads = Mapping[str, "str | Mapping[str | None, str]"]


class Theory(ABC):
    """One theory.

    Attributes
    ----------
    name : str
        The key ``theory`` of a run file, and the entry point.
    title, summary : str
        One line, one sentence.
    reads : mapping
        What it honours of a problem, as data: ``{section: {kind: "key key ..."}}``. ``"*"`` stands for every key of
        the kind; the kind None says that the section may be absent; ``{section: "key key"}`` will do for a section of
        a single kind. A kind that is not listed, or a key that is not listed and not at its default, is a refusal:
        nothing is ever ignored.
    axes : tuple of str
        Axes of ``[grid]`` that must be given. Optional ones are listed in ``reads["grid"]``.
    solver : Spec or None
        Default settings of its method; their class is that of ``[solver]``. None: there are no settings.
    simulation : Simulation
        Default sizes and statistics of its experiment.
    kinds : mapping
        Kinds it adds to the table of the language: ``{section: {kind: class}}``.
    references : tuple of str
        Keys of ``references.bib``.
    assumptions, limits : tuple of str
        What must hold; known limits and special cases.
    coordinates : mapping
        Axis -> (its text, LaTeX between dollars; its unit, or the empty string), where the name does not say it.
    timed : tuple of str
        Keys whose numbers may be formulas in the time ``t``.
    example : str
        The run file of the gallery that a newcomer begins from; empty: any that the theory answers.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    reads: ClassVar[Reads] = {}
    axes: ClassVar[tuple[str, ...]] = ()
    solver: ClassVar[Spec | None] = None
    simulation: ClassVar[Simulation | None] = Simulation()
    kinds: ClassVar[Kinds] = {}
    references: ClassVar[tuple[str, ...]] = ()
    assumptions: ClassVar[tuple[str, ...]] = ()
    limits: ClassVar[tuple[str, ...]] = ()
    coordinates: ClassVar[Mapping[str, tuple[str, str]]] = {}
    timed: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[str] = ""

    def __repr__(self) -> str:
        return f"<Theory {self.name!r}: {self.title}>"

    def _repr_html_(self) -> str:
        """Return the card: title, summary, assumptions, limits."""
        from html import escape

        def block(title: str, lines: Iterable[str]) -> str:
            items = "".join(f"<li>{escape(line)}</li>" for line in lines)
            return f"<p><b>{title}</b></p><ul>{items}</ul>" if items else ""

        head = f"<p><b>{escape(self.name)}</b>: {escape(self.title)}</p><p>{escape(self.summary)}</p>"
        return head + block("Assumptions", self.assumptions) + block("Limits", self.limits)

    @abstractmethod
    def derive(self, problem: Any) -> System:
        """Return the equations of a problem that this theory does not refuse."""

    def refusals(self, problem: Problem, sections: Iterable[str] = SECTIONS[:-2]) -> list[Refusal]:
        """Return why this theory does not answer the problem; empty: it does.

        What `reads` says comes first, then what every theory assumes: formulas with second moments; `checks` is asked
        of what passes. Of a problem that passed before and changed since, `sections` are those that may have changed.
        """
        found = [refusal for section in sections for refusal in self._unread(section, problem)]
        if found:
            return found
        if not set(sections) & MOMENTS:
            return list(self.checks(problem))
        hint = "use a formula that is defined on the whole line and grows slower than exp(z^2/4)"
        return [Refusal(path, why, hint) for path, why in moment_faults(problem)] or list(self.checks(problem))

    def checks(self, problem: Any) -> Iterable[Refusal]:
        """Yield reasons of the theory's own, of a problem whose kinds and keys it reads."""
        return ()

    @cache  # noqa: B019  (a theory lives as long as the process)
    def read_table(self) -> dict[str, dict[str | None, str]]:
        """Return `reads` with every section written out as kind -> keys."""
        table: dict[str, dict[str | None, str]] = {
            section: {"": kinds} if isinstance(kinds, str) else dict(kinds) for section, kinds in self.reads.items()
        }
        grid = table.setdefault("grid", {"": ""})
        grid[""] = " ".join(dict.fromkeys([*self.axes, *grid.get("", "").split()]))
        return table

    def breadth(self) -> int:
        """Return how many kinds it reads: of two theories that answer, the narrower one is chosen."""
        return sum(kind is not None for kinds in self.read_table().values() for kind in kinds)

    def _unread(self, section: str, problem: Problem) -> Iterable[Refusal]:
        spec = getattr(problem, section)
        kinds = self.read_table().get(section, {None: ""})
        names = [kind for kind in kinds if kind]
        if spec is None:
            if None not in kinds:
                yield Refusal(section, f"is missing: reads {', '.join(names)}", f"add a section [{section}]")
            return
        kind = kind_of(spec)
        if kind not in kinds:
            if spec != ABSENT.get(section) or names:
                what = f"reads {', '.join(names)}" if names else "is not read"
                yield Refusal(f"{section}.kind" if kind else section, f"{kind!r}: {what}" if kind else what)
            return
        keys = kinds[kind].split()
        if "*" not in keys:
            yield from (
                Refusal(
                    f"{section}.{key}", f"is not read (the value is {getattr(spec, key)!r})",
                    f"reads {', '.join(keys)}" if keys else "",
                )
                for key in away_from_default(spec)
                if key not in keys
            )  # fmt: skip
        yield from (
            Refusal(f"{section}.{key}", f"a formula in the time ({text!r}) is not read here", "give a number")
            for key, text in own_formulas(spec)
            if f"{section}.{key}" not in self.timed
        )
        if section == "grid":
            yield from (
                Refusal(f"grid.{axis}", "is required", f"add {axis} = [...] to [grid]")
                for axis in self.axes
                if getattr(spec, axis) is None
            )

    def describe(self, problem: Any) -> dict[str, Any]:
        """Return facts about one problem worth showing, such as its information exponent."""
        return {}

    def reading_errors(self, problem: Any) -> dict[str, float]:
        """Return relative errors that a second reading of the problem finds, by name; `check` counts them for all."""
        return {}

    def warnings(self, problem: Any) -> list[str]:
        """Return what the user should know before trusting a curve of this problem, in sentences; `solve` logs them."""
        return []

    def references_for(self, problem: Any) -> tuple[str, ...]:
        """Return the keys of exactly what this problem uses."""
        return self.references
