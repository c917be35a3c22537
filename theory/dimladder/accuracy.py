"""`check`: the numerical accuracy of a curve, measured by solving again with boosted settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import numpy as np

from .errors import ConfigError
from .problem import Problem
from .solve import replace, solve

# Knob -> how a boosted run sets it, given its present value.
_BOOSTS: dict[str, Callable[[Any], Any]] = {
    "rtol": lambda v: max(v * 1e-2, 1e-14),
    "atol": lambda v: max(v * 1e-2, 1e-16),
    "quadrature_rtol": lambda v: max(v * 1e-2, 1e-13),
    "samples": lambda v: 4 * v,
    "nodes": lambda v: 2 * v,
    "node_spacing": lambda v: max(v / 1.5, 0.02),
    "scrambles": lambda v: 2 * v,
    "particle_tolerance": lambda v: v / 10,
    "order": lambda v: 2 * v if isinstance(v, int) else v,
}


@dataclass(frozen=True)
class Accuracy:
    """Largest change of each variable when everything is boosted, and which setting it is due to.

    Attributes
    ----------
    absolute, relative : dict
        Variable -> largest change, absolute and relative to the largest magnitude of the variable.
    digits : dict
        Variable -> correct digits, -log10 of the relative change.
    knobs : dict
        Setting -> largest relative change over variables when it alone is boosted.
    statistical : dict
        Variable -> largest change in units of its own standard error, for variables that carry one.
    """

    absolute: dict[str, float]
    relative: dict[str, float]
    digits: dict[str, float]
    knobs: dict[str, float]
    statistical: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Return the report as text."""
        lines = [f"{'variable':<28} {'digits':>7} {'abs. change':>12} {'rel. change':>12}"]
        lines += [
            f"{n:<28} {self.digits[n]:>7.1f} {self.absolute[n]:>12.2e} {self.relative[n]:>12.2e}"
            + (f"   {self.statistical[n]:.1f} standard errors" if n in self.statistical else "")
            for n in self.digits
        ]
        if not self.knobs:
            return "\n".join([*lines, "", "Exact up to rounding: this theory has no accuracy settings."]) + "\n"
        lines += ["", *(f"boosting {k} alone changes the curves by {v:.2e}" for k, v in self.knobs.items())]
        worst = max(self.knobs, key=lambda k: self.knobs[k])
        return "\n".join([*lines, f"the setting that matters most: solver.{worst}"]) + "\n"


def check(problem: Problem) -> Accuracy:
    """Solve again with boosted settings and report the digits of every variable.

    Raises
    ------
    ConfigError
        When boosting is impossible.
    """
    section = getattr(problem, "solver", None)
    present = msgspec.structs.asdict(section) if section is not None else {}
    boosts = {k: _BOOSTS[k](v) for k, v in present.items() if k in _BOOSTS and v is not None}
    boosts = {k: v for k, v in boosts.items() if v != present[k]}
    base = solve(problem)
    if base.stats.get("activation_error"):
        # Activations were replaced by close ones: no setting of theirs says what that changed, the other route does.
        boosts["averages"] = "quadrature"
    if not boosts:
        if present and any(k in _BOOSTS for k in present):
            raise ConfigError("every setting is already at its limit", where="solver", why=str(present))
        return Accuracy(*({str(n): v for n in base} for v in (0.0, 0.0, 16.0)), knobs={})  # type: ignore[misc]
    boosted = solve(replace(problem, {f"solver.{k}": v for k, v in boosts.items()}))
    absolute, relative, statistical = _changes(base, boosted)
    knobs = {}
    for name, value in boosts.items():
        alone = boosted if len(boosts) == 1 else solve(replace(problem, {f"solver.{name}": value}))
        knobs[name] = max(_changes(base, alone)[1].values(), default=0.0)
    digits = {n: min(16.0, -math.log10(r)) if r > 0 else 16.0 for n, r in relative.items()}
    return Accuracy(absolute, relative, digits, knobs, statistical)


def _changes(base: Any, other: Any) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    absolute, relative, statistical = {}, {}, {}
    for name in base:
        if name.endswith("_se") or not np.issubdtype(base[name].dtype, np.number):
            continue
        a, b = np.asarray(base[name].values, float), np.asarray(other[name].values, float)
        change = np.abs(a - b)
        scale = np.nanmax(np.abs(b), initial=0.0)
        absolute[name] = float(np.nanmax(change, initial=0.0))
        relative[name] = absolute[name] / scale if scale > 0 else absolute[name]
        if f"{name}_se" in base:
            error = np.hypot(base[f"{name}_se"].values, other[f"{name}_se"].values)
            ratio = np.divide(change, error, out=np.zeros_like(change), where=error > 0)
            statistical[name] = float(np.nanmax(ratio, initial=0.0))
    return absolute, relative, statistical
