"""The verb `compare`: theory against simulation, entry by entry, in standard errors, and the verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dimladder.errors import SimulationError, UsageError, did_you_mean

from .alignment import Declared, align
from .significance import threshold
from .verdict import Entries, Settings, VariableVerdict, Verdict, combine, count_distinct, judge

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

    from dimladder.problem import Problem
    from dimladder.results import LearningCurve, Measurement

    from .simulate import Experiment

# Relative rounding of what a simulation in single precision imposes: sums of up to some 10^4 products.
FLOAT32_ROUNDING = 1e-5


@dataclass(frozen=True)
class Comparison:
    """Residuals of a measurement against a theory, and what follows.

    Attributes
    ----------
    verdict : {"agree", "disagree", "inconclusive"}
    reasons : list of str
    variables : list of VariableVerdict
        Of the variables that were measured; one that is imposed on the simulation, or the same number on both sides
        everywhere, is no evidence and is named in `reasons` only.
    residuals : xarray.Dataset
        ``z`` of every variable, with the size as first dimension: (simulation - theory) / standard error.
    curves : dict of float to LearningCurve
        The theory at each size, increasing; one and the same curve where it does not depend on the size.
    measurement : Measurement
    n_comparisons : int
        Distinct measured entries compared at one size: what the threshold accounts for.
    threshold : float
        |z| above which a single entry is significant.
    differences : list of str
        Where theory and simulation are of different problems: key path and the two values.
    """

    verdict: Verdict
    reasons: list[str]
    variables: list[VariableVerdict]
    residuals: xr.Dataset
    curves: dict[float, LearningCurve]
    measurement: Measurement
    n_comparisons: int
    threshold: float
    size: str
    settings: Settings = field(default_factory=Settings)
    differences: list[str] = field(default_factory=list)

    @property
    def curve(self) -> LearningCurve:
        """The theory at the largest size."""
        return list(self.curves.values())[-1]

    @property
    def max_z(self) -> float:
        """The largest |z| at the largest size."""
        return max((v.max_z for v in self.variables), default=float("nan"))

    @property
    def p_value(self) -> float:
        """Chance that a right theory shows so large a deviation anywhere: of what was judged, family-wise."""
        return min((v.p_value for v in self.variables if math.isfinite(v.p_value)), default=float("nan"))

    @property
    def visible(self) -> float:
        """The relative deviation from the theory that would have been seen in half of the entries of any variable."""
        return max((v.visible for v in self.variables), default=float("nan"))

    @property
    def replicas_wanted(self) -> int | None:
        """Replicas at each size that would decide every undecided variable, where more replicas can."""
        return max((v.replicas_wanted for v in self.variables if v.replicas_wanted is not None), default=None)

    @property
    def finite_size(self) -> dict[str, Any]:
        """The closing of the gap, |gap| ~ C size^-exponent, in the variable whose gap is most significant."""
        known = [v for v in self.variables if v.fit.known]
        if not known:
            why = self.variables[0].fit.reason if self.variables else "nothing was compared"
            return {"exponent": None, "exponent_se": None, "variable": None, "reason": why}
        best = max(known, key=lambda v: abs(v.fit.exponent / v.fit.exponent_se) if v.fit.exponent_se else math.inf)
        return {"exponent": best.fit.exponent, "exponent_se": best.fit.exponent_se, "variable": best.name, "reason": ""}

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract of ``compare --json``."""
        from dimladder.results import jsonable

        return jsonable(
            {
                **self.measurement.to_dict(),
                "verdict": self.verdict,
                "max_z": self.max_z,
                "finite_size": self.finite_size,
                "reasons": self.reasons,
                "n_comparisons": self.n_comparisons,
                "threshold": self.threshold,
                "p_value": self.p_value,
                "visible_deviation": self.visible,
                "replicas_wanted": self.replicas_wanted,
                "different_problems": self.differences,
                "alpha": self.settings.alpha,
                "resolution": self.settings.resolution,
                "size": self.size,
                "by_variable": {v.name: v.to_dict() for v in self.variables},
            }
        )

    def to_json(self, indent: int | None = None) -> str:
        """Return `to_dict` as text, with `indent` spaces a level or in a line; numbers that are not finite are null."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def plot(self, **options: Any) -> Any:
        """Return a matplotlib figure: theory as lines, simulation as markers; options as in `dimladder.figure`."""
        import dimladder

        return dimladder.figure([self.curve, self.measurement], **options)

    def _repr_html_(self) -> str:
        """Return the verdict, and a row for each variable."""
        from html import escape

        from .report import headline

        colour = {"agree": "#009E73", "disagree": "#D55E00"}.get(self.verdict, "#E69F00")
        rows = "".join(
            f"<tr><td>{escape(v.name)}</td><td>{v.verdict}</td><td>{v.max_z:.2f}</td><td>{v.p_value:.2g}</td></tr>"
            for v in self.variables
        )
        head = "<tr><th>variable</th><th>verdict</th><th>max |z|</th><th>p</th></tr>"
        word = f'<b style="color: {colour}">{self.verdict.upper()}</b>'
        return f"<p>{escape(self.curve.theory)}: {word} ({escape(headline(self))})</p><table>{head}{rows}</table>"

    def __repr__(self) -> str:
        counted = f"{self.n_comparisons} comparisons, max |z| {self.max_z:.2f}"
        return f"<Comparison {self.curve.theory!r}: {self.verdict}; {counted}, p = {self.p_value:.2g}>"


def compare(
    problem_or_curve: Problem | LearningCurve,
    measurement: Measurement | None = None,
    *,
    variables: Sequence[str] | None = None,
    alpha: float = 0.01,
    resolution: float = 0.2,
    **simulate_options: Any,
) -> Comparison:
    """Compare the theory of a problem with its finite-size simulation.

    Parameters
    ----------
    problem_or_curve : Problem or LearningCurve
        A problem is solved (once for each size where its theory keeps a finite size); a curve is taken as it is.
    measurement : Measurement, optional
        Simulated now when absent, with `simulate_options`.
    variables : sequence of str, optional
        Compare only these. Default: all that both have.
    alpha : float
        Probability of calling a right theory wrong by chance, over all comparisons together.
    resolution : float
        ``agree`` requires that a relative deviation this large would have been seen in every variable.
    **simulate_options
        Arguments of `simulate`: ``d``, ``replicas``, ``device``, ``seed``, ``out``, ``resume``, ...

    Returns
    -------
    Comparison

    Raises
    ------
    UsageError
        For a measurement of another theory, a grid that the theory does not have, or unknown variables.
    """
    from dimladder.results import LearningCurve

    from .probe import SOURCE
    from .simulate import experiment, simulate

    check_levels(alpha, resolution)
    given: LearningCurve | None = None
    if isinstance(problem_or_curve, LearningCurve):
        from dimladder.solve import loads

        given = problem_or_curve
        problem = loads(given.problem_toml, source="the curve's problem")
    else:
        problem = problem_or_curve
    if measurement is None:
        measurement = simulate(problem, **simulate_options)
    elif simulate_options:
        raise UsageError(
            "options of simulate were given beside a finished measurement", why=f"{', '.join(simulate_options)}"
        )
    if measurement.theory != problem.theory:
        raise UsageError(f"the measurement belongs to {measurement.theory!r}, the theory is {problem.theory!r}")
    size = str(measurement.stats.get("size", "d"))
    try:
        # Of a loop that is not ours nothing is known: what it imposes, how fast its gap closes.
        found = None if measurement.stats.get("source") == SOURCE else experiment(problem.theory)
    except SimulationError:
        found = None  # a measurement from elsewhere, of a theory without an experiment of ours
    curves = _theory(problem, given, found, size, [float(s) for s in measurement[size].values])
    rounding = FLOAT32_ROUNDING if measurement.stats.get("dtype") == "float32" else 0.0
    declared = _declared(found, problem, max(_solver_tolerance(problem), rounding))
    settings = Settings(alpha, resolution)
    if found is not None:
        closing = found.closing(problem)
        settings = Settings(alpha, resolution, closing.exponent, closing.slowest, found.open_limit(problem))
    elif measurement.stats.get("closing") is not None:
        settings = Settings(alpha, resolution, float(measurement.stats["closing"]))
    differences = _differences(problem, measurement, found, int(measurement[size].values.max()))
    return _compare(measurement, curves, size, variables, settings, declared, differences)


def check_levels(alpha: float, resolution: float) -> None:
    """Raise `UsageError` for levels that no verdict can have: before anything is simulated for one."""
    if not (0 < alpha < 1 and resolution > 0):
        raise UsageError(f"alpha must lie in (0, 1) and resolution be positive, got {alpha} and {resolution}")


def save(comparison: Comparison, folder: Path) -> None:
    """Keep a comparison in its run folder, beside the measurement.

    The theory at the largest size is ``theory.nc``; where it depends on the size, every other size has a file too.
    """
    from dimladder.results import write_text

    from .report import comparison_report

    comparison.curve.save(folder / "theory.nc")
    for size, curve in comparison.curves.items():
        if curve is not comparison.curve:
            curve.save(folder / f"theory_{comparison.size}{size:g}.nc")
    write_text(folder / "comparison.json", comparison.to_json(indent=1) + "\n")
    write_text(folder / "report.md", comparison_report(comparison))


def _declared(found: Experiment | None, problem: Problem, tolerance: float) -> Declared:
    if found is None:
        return Declared({}, (), tolerance)
    return Declared(found.imposed(problem), found.exact(problem), tolerance)


def _differences(problem: Problem, measurement: Measurement, found: Experiment | None, size: int) -> list[str]:
    """Return where theory and simulation are of different problems; how they are solved or drawn does not count."""
    from dimladder.errors import DimladderError
    from dimladder.solve import loads

    if not measurement.problem_toml:
        return []
    try:
        other = loads(measurement.problem_toml, source="the measurement's problem")
    except DimladderError as error:
        return [f"the measurement's problem cannot be read: {str(error).splitlines()[0]}"]
    if found is not None:
        problem, other = found.at_size(problem, size), found.at_size(other, size)
    ours, theirs = _flat(problem), _flat(other)
    keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    return [f"{key}: {ours.get(key, 'absent')} in theory, {theirs.get(key, 'absent')} in simulation" for key in keys]


def _flat(problem: Problem) -> dict[str, Any]:
    """Return dotted keys to values, of the sections that say what the problem is."""
    from dimladder.problem import to_builtins

    def walk(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in table.items():
            found |= walk(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        return found

    aside = ("title", "schema", "solver", "export", "simulation", "grid")
    return walk({key: value for key, value in to_builtins(problem).items() if key not in aside}, "")


def _theory(
    problem: Problem, given: LearningCurve | None, found: Experiment | None, size: str, sizes: list[float]
) -> list[LearningCurve]:
    """Return the curve of each size, solving once for each distinct problem."""
    from dimladder.solve import solve

    if found is None:
        return [given if given is not None else solve(problem)] * len(sizes)
    problems = [found.at_size(problem, int(s)) for s in sizes]
    if given is not None and problem.content_hash not in {at.content_hash for at in problems}:
        raise UsageError(
            "the curve describes none of the measured sizes",
            why=f"the theory depends on the size; measured at {size} = {', '.join(f'{s:g}' for s in sizes)}",
            hint="pass the problem instead of the curve: it is solved at every size",
        )
    solved: dict[str, LearningCurve] = {problem.content_hash: given} if given is not None else {}
    for at in problems:
        if at.content_hash not in solved:
            solved[at.content_hash] = solve(at)
    for at, value in zip(problems, sizes, strict=True):
        ours, theirs = _flat(problem), _flat(at)
        changed = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
        if any(not key.startswith("limit.") for key in changed):
            # The same question at that size, not another one: figures and tables keep them together.
            solved[at.content_hash].note(of=problem.to_toml(), at=[size, value])
    return [solved[at.content_hash] for at in problems]


def _solver_tolerance(problem: Problem) -> float:
    """Relative accuracy of the theory's numbers: what an exactly imposed value may differ by."""
    return 1e-8 + 10.0 * float(getattr(getattr(problem, "solver", None), "rtol", 0.0))


def _compare(
    measurement: Measurement,
    curves: list[LearningCurve],
    size: str,
    wanted: Sequence[str] | None,
    settings: Settings,
    declared: Declared,
    differences: list[str],
) -> Comparison:
    import numpy as np
    import xarray as xr

    measured = [name for name in measurement if not name.endswith("_se")]
    predicted = [name for name in curves[-1] if not name.endswith("_se")]
    names = [name for name in measured if name in predicted]
    if wanted is not None:
        for name in wanted:
            if name not in names:
                raise UsageError(f"{name!r} is not both measured and predicted", hint=did_you_mean(name, names))
        names = [name for name in names if name in wanted]
    if not names:
        raise UsageError(
            "theory and simulation have no variable in common", why=f"theory: {predicted}; simulation: {measured}"
        )
    order = np.argsort(measurement[size].values)
    curves = [curves[k] for k in order]
    replicas = int(measurement.stats.get("replicas", 0))
    notes = [
        f"not compared: {', '.join(sorted(set(group) - set(names)))} ({where} only)"
        for group, where in ((measured, "simulation"), (predicted, "theory"))
        if wanted is None and set(group) - set(names)
    ]
    residuals: dict[str, xr.DataArray] = {}
    entries: list[Entries] = []
    gaps_missing: dict[str, int] = {}
    for name in names:
        found, z, missing, constant = align(measurement, curves, size, order, name, replicas, declared)
        residuals[name] = z
        if missing:
            gaps_missing[name] = missing
        if found is not None:
            entries.append(found)
        if constant:
            notes.append(f"{name}: {constant} entries are the same number on both sides without scatter: not counted")
    if all(f"{name}_skewness" not in measurement for name in names):
        notes.append("the measurement does not say how its replicas are skewed: their means are taken for normal")
    comparisons = count_distinct(entries) if entries else 0
    verdicts = [judge(one, comparisons, settings) for one in entries]
    judged = [v for v in verdicts if v.entries or v.verdict == "disagree"]
    notes += [f"{v.name}: {reason}" for v in verdicts if v not in judged for reason in v.reasons]
    verdict = combine([v.verdict for v in judged])
    if not judged:
        notes.insert(0, "nothing was measured that the theory does not give to the simulation")
    if replicas == 1:
        notes.append("one replica has no standard error: at least two are needed")
    for name, missing in gaps_missing.items():
        notes.append(f"{name}: {missing} entries are finite on one side only (theory or simulation did not get there)")
    if gaps_missing and verdict == "agree":
        verdict = "inconclusive"
    order_of = {"disagree": 0, "inconclusive": 1, "agree": 2}
    ranked = sorted(judged, key=lambda v: order_of[v.verdict])
    said = [f"theory and simulation are of different problems: {'; '.join(differences)}"] if differences else []
    reasons = said + [f"{v.name}: {reason}" for v in ranked for reason in v.reasons] + notes
    limit = threshold(settings.alpha, comparisons, max(replicas - 1, 1))
    at_size = dict(zip(measurement[size].values[order].tolist(), curves, strict=True))
    return Comparison(
        verdict, reasons, judged, xr.Dataset(residuals), at_size, measurement, comparisons, limit, size, settings,
        differences,
    )  # fmt: skip


__all__ = ["Comparison", "compare"]
