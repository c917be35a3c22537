"""Which results belong together, and what tells them apart: the one model that every exporter reads.

A *run* is one problem as physics sees it: theory and simulation of the same problem, whatever their solver settings,
grids, sizes and seeds. Runs are named by the parameters in which they differ, never by their position.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from ..choose import build_problem
from ..errors import DimladderError, UsageError
from ..problem import parse_document, to_builtins
from ..results import Measurement, PhaseDiagram, Result
from .labels import Names

# Sections that say how a problem is answered, not what is asked.
_HOW = ("solver.", "simulation.", "limit.", "grid.")
_NEVER = ("title", "schema")


@dataclass(frozen=True)
class Member:
    """A result, or one point of a sweep, with the parameters it belongs to.

    Attributes
    ----------
    source : int
        Position of the result.
    result : Result
    parameters : mapping
        Dotted keys to values; those of a sweep's point are that point's.
    at : mapping
        Index of the point along each swept key that is not drawn as an axis.
    """

    source: int
    result: Result
    parameters: Mapping[str, Any]
    at: Mapping[str, int] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether it is a simulation."""
        return isinstance(self.result, Measurement)


def swept_keys(result: Result) -> list[str]:
    """Return the swept parameters of a phase diagram."""
    if not isinstance(result, PhaseDiagram):
        return []
    return [str(a) for a in result.stats.get("grid", []) if a in result.dataset.dims]


def parameters(result: Result) -> dict[str, Any]:
    """Return the parameters of a result by dotted key; a measurement's seed is the one it was made with."""
    # A theory at the size of a simulation answers the question that was put, and tells itself apart by the size.
    found = dict(said(result.stats.get("of") or result.problem_toml))
    if "at" in result.stats:
        size, value = result.stats["at"]
        found[f"limit.{size}"] = int(value) if float(value).is_integer() else value
    if isinstance(result, Measurement):
        found |= {f"simulation.{k}": result.stats[k] for k in ("seed", "dtype", "device") if k in result.stats}
    return {k: v for k, v in found.items() if k not in (*_NEVER, *swept_keys(result))}


@lru_cache(maxsize=256)
def said(text: str) -> Mapping[str, Any]:
    """Return what a stored problem says, by dotted key, with the defaults of today's language.

    A key that the language got since is no difference between a result from before and one from after. What today's
    language does not read, or no theory at hand, is taken as it stands.
    """
    try:
        table = to_builtins(build_problem(parse_document(text, "the result"), source="the result"))
    except DimladderError:
        table = tomllib.loads(text)
    return MappingProxyType(_flatten(table))


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            out |= _flatten(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out


def members(results: Sequence[Result], x: str | None = None, variable: str | None = None) -> list[Member]:
    """Return every result, theories first, and a sweep point by point along the keys that are not the axis `x`.

    A point of a sweep that stands beside a theory of the very same problem, with the same `variable`, is left out.
    """
    found = []
    theories = [r for r in results if not swept_keys(r) and not isinstance(r, Measurement)]
    alone = {_all_said(parameters(r)) for r in theories if variable is None or variable in r}
    for source, result in sorted(enumerate(results), key=lambda r: isinstance(r[1], Measurement)):
        own = parameters(result)
        keys = [k for k in swept_keys(result) if k != x]
        values = [result.dataset.coords[k].values.tolist() for k in keys]
        for index in itertools.product(*(range(len(v)) for v in values)):
            here = {k: v[i] for k, v, i in zip(keys, values, index, strict=True)}
            told = {**own, **here}
            if not (keys and _all_said(told) in alone):
                found.append(Member(source, result, told, dict(zip(keys, index, strict=True))))
    return found


def _all_said(said: Mapping[str, Any]) -> str:
    return repr(sorted((key, repr(value)) for key, value in said.items()))


class Runs:
    """The runs of some members.

    Parameters
    ----------
    found : sequence of Member
    names : Names
        How parameters are typeset.
    x : str, optional
        A parameter that is drawn as an axis, and so tells nothing apart.
    """

    def __init__(self, found: Sequence[Member], names: Names, x: str | None = None) -> None:
        self.members, self.names = list(found), names
        known = list(dict.fromkeys(k for m in found for k in m.parameters))
        self._differing = [k for k in known if k != x and len({repr(m.parameters.get(k)) for m in found}) > 1]
        self.keys = [k for k in self._differing if not k.startswith(_HOW)]

    def _identity(self, member: Member) -> str:
        return repr([member.parameters.get(k) for k in self.keys])

    @cached_property
    def identities(self) -> list[str]:
        """Each run once, in the order met; by value where one number tells them apart."""
        first = {self._identity(m): m for m in reversed(self.members)}
        order = list(dict.fromkeys(map(self._identity, self.members)))
        if len(self.keys) == 1 and all(_is_number(m.parameters.get(self.keys[0])) for m in first.values()):
            order.sort(key=lambda identity: float(first[identity].parameters[self.keys[0]]))
        return order

    def __len__(self) -> int:
        return len(self.identities)

    def index(self, member: Member) -> int:
        """Return the position of a member's run."""
        return self.identities.index(self._identity(member))

    @property
    def ordered(self) -> bool:
        """Whether one number tells the runs apart."""
        values = [m.parameters.get(k) for k in self.keys for m in self.members]
        return len(self.keys) == 1 and all(map(_is_number, values))

    def label(self, member: Member) -> str:
        """Return the parameters in which a member's run differs from the others, typeset; empty for a single run."""
        return ", ".join(f"{self.names.axis(k)} = {self.names.value(member.parameters.get(k))}" for k in self.keys)

    @property
    def labels(self) -> list[str]:
        """The label of every run, in order."""
        return [self.label(next(m for m in self.members if self.index(m) == i)) for i in range(len(self))]

    def alike(self, member: Member) -> list[Member]:
        """Return the members of the same run and kind."""
        own = self._identity(member), member.measured
        return [m for m in self.members if (self._identity(m), m.measured) == own]

    def _told(self, member: Member) -> list[str]:
        """Return the further keys (sizes of a limit, seeds, grids) that tell a member from its like."""
        alike = self.alike(member)
        return [k for k in self._differing if len({repr(m.parameters.get(k)) for m in alike}) > 1]

    def line(self, member: Member) -> int:
        """Return the position of a theory among those of its run."""
        return self.alike(member).index(member)

    def line_label(self, member: Member) -> str:
        """Return what tells a theory from the others of its run, such as the size of a limit; empty for one."""
        return ", ".join(
            f"{self.names.axis(k)} = {self.names.value(member.parameters.get(k))}" for k in self._told(member)[:2]
        )

    def words(self, member: Member) -> list[str]:
        """Return names and values that tell a member from all of its kind, for names of macros and files.

        Raises
        ------
        UsageError
            When two results of one kind differ in nothing.
        """
        keys = [*self.keys, *self._told(member)]
        twins = [m for m in self.alike(member) if all(m.parameters.get(k) == member.parameters.get(k) for k in keys)]
        if len(twins) > 1:
            raise UsageError(
                "two results are of the same problem and cannot be told apart", where="source",
                why=f"{member.result.kind} of problem {member.result.provenance.get('problem_hash')}",
                hint="export them one by one, or leave one out",
            )  # fmt: skip
        return [word for k in keys for word in (k.rsplit(".", 1)[-1], _plain(member.parameters.get(k)))]


def differing(results: Iterable[Result]) -> set[str]:
    """Return the keys in which the problems of results differ, swept ones included."""
    told = [parameters(r) for r in results]
    keys = {key for table in told for key in table}
    swept = {key for r in results for key in swept_keys(r)}
    return swept | {key for key in keys if len({repr(table.get(key)) for table in told}) > 1}


def same(results: Iterable[Result]) -> list[Result]:
    """Return the results without exact copies, such as the theory of a solve beside that of a comparison."""
    kept: list[Result] = []
    for result in results:
        if not any(_copies(result, other) for other in kept):
            kept.append(result)
    return kept


def _copies(a: Result, b: Result) -> bool:
    if a.kind != b.kind or a.problem_toml != b.problem_toml or a.stats.get("seed") != b.stats.get("seed"):
        return False
    return a is b or bool(a.dataset.drop_attrs().identical(b.dataset.drop_attrs()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
