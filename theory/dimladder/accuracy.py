"""`check`: the numerical accuracy of a curve, measured by solving again with boosted settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from .choose import find
from .errors import ConfigError
from .problem import Problem, axis_values
from .solve import as_curve, derive, replace, solve, stored_errors

if TYPE_CHECKING:
    from .results import LearningCurve

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
# An estimate that compares two rules may be off by such a factor either way.
SAFETY = 3.0
# Times at which a schedule is met, whatever steps the integrator would take.
SCHEDULE_TIMES = 2000
EXACT = 16.0


@dataclass(frozen=True)
class Accuracy:
    """The numerical error of each variable: the largest of what boosting changed and of what the solver knows itself.

    Attributes
    ----------
    absolute, relative : dict
        Variable -> largest error over its entries, absolute and relative to the largest magnitude of the variable.
    digits : dict
        Variable -> correct digits relative to its largest magnitude, -log10 of `relative`, between 0 and 16. Entries
        far smaller than the largest have fewer of their own:
    entry_digits : dict
        Variable -> correct digits of its worst entry, -log10(error / |entry|); entries that are exactly zero left out.
    worst : dict
        Variable -> where that worst entry is.
    knobs : dict
        Setting -> largest relative change over variables when it alone is boosted.
    stored : dict
        Errors that the solution itself reports, such as ``quadrature_error``; three times their size counts in full for
        every variable, as boosting cannot see what no setting improves.
    statistical : dict
        Variable -> largest change in units of its own standard error, for variables that carry one. One standard error
        counts as an error.
    """

    absolute: dict[str, float]
    relative: dict[str, float]
    digits: dict[str, float]
    entry_digits: dict[str, float]
    worst: dict[str, str]
    knobs: dict[str, float]
    stored: dict[str, float] = field(default_factory=dict)
    statistical: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Return the report as text."""
        lines = [f"{'variable':<28} {'digits':>7} {'abs. error':>11} {'worst entry':>12}   which is at"]
        lines += [
            f"{n:<28} {self.digits[n]:>7.1f} {self.absolute[n]:>11.2e} {self.entry_digits[n]:>12.1f}   {self.worst[n]}"
            + (f"; {self.statistical[n]:.1f} standard errors" if n in self.statistical else "")
            for n in self.digits
        ]
        if not self.knobs and not self.stored:
            return "\n".join([*lines, "", "Exact up to rounding: this theory has no accuracy settings."]) + "\n"
        lines += ["", *(f"boosting {k} alone changes the curves by {v:.2e}" for k, v in self.knobs.items())]
        lines += [f"the solution itself reports {k} = {v:.2e}" for k, v in self.stored.items()]
        worst = max(self.knobs, key=lambda k: self.knobs[k], default="")
        if self.knobs and self.knobs[worst] >= SAFETY * max(self.stored.values(), default=0.0):
            lines.append(f"the setting that matters most: {worst if '.' in worst else f'solver.{worst}'}")
        elif self.stored:
            most = max(self.stored, key=lambda k: self.stored[k])
            lines.append(f"no setting tried here improves on {most}: it limits the digits")
        lines += [
            "",
            "digits: relative to the variable's largest magnitude; worst entry: relative to that entry itself.",
        ]
        return "\n".join(lines) + "\n"


def check(problem: Problem) -> Accuracy:
    """Solve again with boosted settings and report the digits of every variable.

    The error of an entry is the largest of: its change when everything is boosted together, or one setting alone; three
    times every error that the solution reports of itself (`solve.stored_errors`), relative to the largest entry; its
    standard error.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    Accuracy
        Prints itself as a table: digits of every variable, and which setting limits them.

    Raises
    ------
    ConfigError
        When boosting is impossible.
    """
    section = getattr(problem, "solver", None)
    present = msgspec.structs.asdict(section) if section is not None else {}
    boosts = {f"solver.{k}": _BOOSTS[k](v) for k, v in present.items() if k in _BOOSTS and v is not None}
    boosts = {k: v for k, v in boosts.items() if v != present[k.removeprefix("solver.")]}
    base = solve(problem)
    stored = stored_errors(base) | find(problem.theory).reading_errors(problem)
    if "activation_error" in stored:
        # Activations were replaced by close ones: no setting of theirs says what that changed, the other route does.
        boosts["solver.averages"] = "quadrature"
    if _scheduled(problem):
        boosts["grid.time"] = _denser(axis_values(problem.grid.time))
    if not boosts and present and any(k in _BOOSTS for k in present):
        raise ConfigError("every setting is already at its limit", where="solver", why=str(present))
    errors = {name: np.zeros(base[name].shape) for name in _numbers(base)}
    statistical: dict[str, float] = {}
    knobs: dict[str, float] = {}
    for names in [list(boosts), *([[k] for k in boosts] if len(boosts) > 1 else [])]:
        if not names:
            break
        boosted = replace(problem, {name: boosts[name] for name in names})
        changed = _change(base, as_curve(boosted, derive(boosted).solve()))
        errors = {name: np.fmax(errors[name], change) for name, (change, _) in changed.items()}
        if len(names) == len(boosts):
            statistical = {name: ratio for name, (_, ratio) in changed.items() if ratio is not None}
        if len(names) == 1:
            size = (_relative(change, base[name].values) for name, (change, _) in changed.items())
            knobs[names[0].removeprefix("solver.")] = max(size, default=0.0)
    return _report(base, errors, knobs, stored, statistical)


def _report(
    base: LearningCurve,
    errors: Mapping[str, np.ndarray],
    knobs: dict[str, float],
    stored: dict[str, float],
    statistical: dict[str, float],
) -> Accuracy:
    found: dict[str, dict[str, Any]] = {key: {} for key in ("absolute", "relative", "digits", "entry_digits", "worst")}
    known = SAFETY * max(stored.values(), default=0.0)
    for name, change in errors.items():
        values = np.abs(np.asarray(base[name].values, float))
        largest = float(np.nanmax(values, initial=0.0, where=np.isfinite(values)))
        error = np.fmax(change, known * largest)
        if f"{name}_se" in base:
            error = np.fmax(error, base[f"{name}_se"].values)
        error = np.where(np.isfinite(values), error, 0.0)
        found["absolute"][name] = float(np.max(error, initial=0.0))
        found["relative"][name] = _relative(error, values)
        with np.errstate(divide="ignore", invalid="ignore"):
            own = np.where(error == 0.0, 0.0, np.where(values > 0, error / values, np.inf))
        # A zero that stays zero up to rounding of the others is exact.
        own = np.where((values == 0) & (error <= 1e-15 * largest), 0.0, own)
        place = np.unravel_index(int(np.argmax(own)), own.shape) if own.size else ()
        found["digits"][name] = _digits(found["relative"][name])
        found["entry_digits"][name] = _digits(float(own[place]) if own.size else 0.0)
        axes = zip(base[name].dims, place, strict=True)
        found["worst"][name] = ", ".join(f"{axis} = {base[name].coords[axis].values[i]}" for axis, i in axes)
    return Accuracy(
        found["absolute"], found["relative"], found["digits"], found["entry_digits"], found["worst"], knobs, stored,
        statistical,
    )  # fmt: skip


def _digits(relative: float) -> float:
    return EXACT if relative <= 0 else min(EXACT, max(0.0, -math.log10(relative)))


def _relative(error: np.ndarray, values: np.ndarray) -> float:
    """Return the largest error relative to the largest finite magnitude."""
    magnitude = np.abs(np.asarray(values, float))
    largest = float(np.nanmax(magnitude, initial=0.0, where=np.isfinite(magnitude)))
    worst = float(np.nanmax(error, initial=0.0))
    return worst / largest if largest > 0 else worst


def _numbers(curve: LearningCurve) -> list[str]:
    return [n for n in curve if not n.endswith("_se") and np.issubdtype(curve[n].dtype, np.number)]


def _change(base: LearningCurve, other: LearningCurve) -> dict[str, tuple[np.ndarray, float | None]]:
    """Return for each variable the change of every entry, and the largest one in standard errors where it has any."""
    found: dict[str, tuple[np.ndarray, float | None]] = {}
    dataset = other.dataset
    if "time" in base.dataset.dims and base.dataset.sizes["time"] != dataset.sizes["time"]:
        dataset = dataset.isel(time=np.searchsorted(dataset["time"].values, base.dataset["time"].values))
    for name in _numbers(base):
        a, b = np.asarray(base[name].values, float), np.asarray(dataset[name].values, float)
        with np.errstate(invalid="ignore"):
            change = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        # Finite in one of the two only: nothing is known about the entry.
        change = np.where(np.isfinite(change), change, np.inf)
        ratio = None
        if f"{name}_se" in base:
            error = np.hypot(base[f"{name}_se"].values, dataset[f"{name}_se"].values)
            ratio = float(np.max(np.divide(change, error, out=np.zeros_like(change), where=error > 0), initial=0.0))
        found[name] = change, ratio
    return found


def _scheduled(problem: Problem) -> bool:
    """Whether rates depend on time: an integrator may step over a pulse, and no tolerance would show it."""
    algorithm = getattr(problem, "algorithm", None)
    texts = msgspec.structs.asdict(algorithm).items() if isinstance(algorithm, msgspec.Struct) else ()
    varies = any("schedule" in key and isinstance(text, str) and "t" in text for key, text in texts)
    return varies and hasattr(getattr(problem, "grid", None), "time")


def _denser(times: tuple[float, ...]) -> list[float]:
    """Return the times and evenly spread ones between, at odds with round numbers."""
    extra = times[0] + (times[-1] - times[0]) * (np.arange(SCHEDULE_TIMES) + 0.41) / SCHEDULE_TIMES
    return sorted({*times, *extra.tolist()})
