"""Theories by name, and by what they read: who answers a problem, who does not, and why not.

Theories come from the registry, so that whoever reads a run file may ask without importing one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from . import registry
from .errors import ConfigError, did_you_mean
from .problem import Problem, Refusal, apply_overrides, build, state
from .problem.config import check_keys

log = logging.getLogger("dimladder.choose")
NEAREST = 3


def names() -> list[str]:
    """Return the names of every theory: installed, and registered in this process."""
    return registry.names("theories")


def find(name: str, beside: Path | None = None) -> Any:
    """Return the theory called `name`, or that of a local file.

    Parameters
    ----------
    name : str
        A name, or a path that ends in ``.py``.
    beside : Path, optional
        The folder to which such a path is relative; default: the current one.

    Raises
    ------
    ConfigError
        When no theory has that name; the message suggests the nearest.
    DimladderError
        When the theory's module cannot be imported.
    """
    if registry.is_file(name):
        return registry.load_file(name if beside is None else beside / name).THEORY
    found = registry.get("theories", name)
    if found is None:
        local = f"a theory in a local file is named by its path, ./{name}.py (of a result: --theory FILE.py)"
        raise ConfigError(
            f"there is no theory {name!r}", where="theory", hint=f"{did_you_mean(name, names())}; {local}"
        )
    return found


@dataclass(frozen=True)
class Candidate:
    """A theory, and its refusals of a problem; none: it answers. One that cannot be loaded is None, and refuses."""

    name: str
    theory: Any
    refusals: tuple[Refusal, ...]

    @property
    def answers(self) -> bool:
        """Whether nothing is refused."""
        return not self.refusals


def candidates(document: Mapping[str, Any], source: str = "<text>") -> list[Candidate]:
    """Ask every theory: those that answer come first, special before general, then the nearest.

    Parameters
    ----------
    document : mapping
        A run file as nested dictionaries; its key ``theory`` is not looked at.
    source : str
        The file, for messages.

    Raises
    ------
    ConfigError
        When the document states no problem in the language of any theory.
    """
    asked = {key: value for key, value in document.items() if key != "theory"}
    check_keys(asked, source)
    theories, broken = registry.load_all("theories")
    found, errors = [], []
    for name, theory in theories.items():
        try:
            problem = state({k: v for k, v in asked.items() if k not in ("solver", "simulation")}, theory, source)
        except ConfigError as error:
            # A kind that only another theory adds, or a mistake of the document: then nobody can read it.
            errors.append(error)
            found.append(Candidate(name, theory, (Refusal(_path(error, source), error.why or error.what),)))
            continue
        settings = [*_settings(theory, "solver", asked), *_settings(theory, "simulation", asked)]
        found.append(Candidate(name, theory, (*theory.refusals(problem), *settings)))
    if errors and len(errors) == len(found):
        raise errors[0]
    found.sort(key=lambda c: (len(c.refusals), c.theory.breadth(), c.name))
    unloaded = (
        Candidate(name, None, (Refusal("theory", f"cannot be loaded ({error.why})", error.hint or ""),))
        for name, error in broken.items()
    )
    return [*found, *unloaded]


def _path(error: ConfigError, source: str) -> str:
    return (error.where or "").removeprefix(f"{source}: ")


def _settings(theory: Any, section: str, document: Mapping[str, Any]) -> list[Refusal]:
    given = document.get(section, {})
    default = getattr(theory, section)
    if default is None:
        return [Refusal(section, "is not read")] if given else []
    known = [field.name for field in msgspec.structs.fields(type(default))]
    return [Refusal(f"{section}.{key}", "is not read", did_you_mean(key, known)) for key in given if key not in known]


def choose(document: Mapping[str, Any], source: str = "<text>") -> Any:
    """Return the theory that answers a document; of several the special one, and the choice is logged.

    Raises
    ------
    ConfigError
        When none does: the nearest three with their refusals.
    """
    ranked = candidates(document, source)
    answering = [candidate.theory for candidate in ranked if candidate.answers]
    if not answering:
        nearest = ranked[0].refusals if ranked else ()
        raise ConfigError(
            "no theory answers this problem", where=source, why="\n       ".join(row(c) for c in ranked[:NEAREST]),
            hint=(nearest[0].hint if len(nearest) == 1 else "")
            or "change what is refused, or ask  dimladder which RUN.toml  for all of them",
        )  # fmt: skip
    others = f" (so would {', '.join(t.name for t in answering[1:])})" if len(answering) > 1 else ""
    log.info("%s answers %s%s", answering[0].name, source, others)
    return answering[0]


def row(candidate: Candidate) -> str:
    """Return one line about a candidate: that it answers, or its first refusal and how many more there are."""
    if candidate.answers:
        return f"{candidate.name:<22} answers"
    first, *more = candidate.refusals
    return f"{candidate.name:<22} {first.path}: {first.why}" + (f"  (+{len(more)})" if more else "")


def build_problem(
    document: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    source: str = "<text>",
    folder: Path | None = None,
) -> Problem:
    """Return the problem of a run file given as nested dictionaries.

    Parameters
    ----------
    document : mapping
    overrides : mapping, optional
        Dotted keys to values.
    source : str
        The file, for messages.
    folder : Path, optional
        Where a theory in a local file is looked for; default: the current folder.

    Raises
    ------
    ConfigError
        With file, key path, value and a suggestion; or with who would answer what nobody does.
    """
    stated = apply_overrides(dict(document), overrides or {}, source)
    return build(stated, lambda name: find(name, folder), source, choose)
