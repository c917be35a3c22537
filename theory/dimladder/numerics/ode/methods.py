"""Which methods an integration uses, and why."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from . import layout
from .explicit import explicit_interpolant, explicit_step
from .tableaux import Method, method

__all__ = ["Plan", "explicit_for", "plan_of", "steps_of"]

ALIASES = {"rodas": "rodas5p"}
CHOICES = ("auto", "tsit5", "dp5", "dop853", "rodas5p", "bdf")
# Looser than this, the fifth-order pair needs fewer evaluations than DOP853.
LOOSE = 1e-4


@dataclass(frozen=True)
class Plan:
    """The methods chosen, and why."""

    explicit: Method
    implicit: Method
    active: int
    auto: bool
    reason: str

    @property
    def name(self) -> str:
        """The name of the method, or of both."""
        if self.auto:
            return f"auto({self.explicit.name}, {self.implicit.name})"
        return self.implicit.name if self.active else self.explicit.name

    @property
    def used(self) -> tuple[Method, ...]:
        """The methods that may be used."""
        if self.auto:
            return self.explicit, self.implicit
        return (self.implicit,) if self.active else (self.explicit,)

    def rows(self, n: int) -> int:
        """Return the rows of the workspace that they need for a state of length n."""
        explicit = (int(m.info[0] + m.info[1]) + 2 for m in self.used if m.family == "explicit")
        implicit = (layout.SQUARE + 2 * n for m in self.used if m.family != "explicit")
        return max(*explicit, *implicit, 0)


def explicit_for(rtol: float) -> str:
    """Return the name of the explicit method that needs the fewest evaluations at a tolerance."""
    return "tsit5" if rtol >= LOOSE else "dop853"


@lru_cache(maxsize=256)
def plan_of(name: str, rtol: float) -> Plan:
    """Return the plan for the name of a method at a tolerance.

    Raises
    ------
    ValueError
        For a name that there is not.
    """
    name = ALIASES.get(name, name)
    if name not in CHOICES:
        raise ValueError(f"unknown method {name!r}; choose one of {', '.join(CHOICES)}")
    if name != "auto":
        chosen = method(name)
        implicit = chosen.family != "explicit"
        return Plan(
            method("dop853") if implicit else chosen,
            chosen if implicit else method("rodas5p"),
            int(implicit),
            False,
            "chosen by the caller",
        )
    explicit = method(explicit_for(rtol))
    # BDF keeps its Jacobian over many steps: on slow tails it needs a quarter of the evaluations of Rodas5P or fewer.
    why = f"starts with {explicit.name} (rtol = {rtol:g}); bdf takes over where stability limits the step"
    return Plan(explicit, method("bdf"), 0, True, why)


def steps_of(chosen: Method) -> tuple[Any, Any]:
    """Return the compiled step and interpolant of a method; implicit ones are imported when first needed."""
    if chosen.family == "explicit":
        return explicit_step, explicit_interpolant
    from . import implicit

    if chosen.family == "rosenbrock":
        return implicit.rosenbrock_step, implicit.rosenbrock_interpolant
    return implicit.bdf_step, implicit.bdf_interpolant
