"""The verb `compare`: theory against simulation, entry by entry, in standard errors, and the verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dimladder.errors import SimulationError, UsageError, did_you_mean

from .verdict import Entries, Settings, VariableVerdict, Verdict, combine, count_distinct, judge, threshold

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from dimladder.problem import Problem
    from dimladder.results import LearningCurve, Measurement

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
    residuals : xarray.Dataset
        ``z`` of every variable, with the size as first dimension: (simulation - theory) / standard error.
    curves : dict of float to LearningCurve
        The theory at each size, increasing; one and the same curve where it does not depend on the size.
    measurement : Measurement
    n_comparisons : int
        Distinct entries compared at one size: what the threshold accounts for.
    threshold : float
        |z| above which a single entry is significant.
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

    @property
    def curve(self) -> LearningCurve:
        """The theory at the largest size."""
        return list(self.curves.values())[-1]

    @property
    def max_z(self) -> float:
        """The largest |z| at the largest size."""
        return max((v.max_z for v in self.variables), default=float("nan"))

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
        return plain(
            {
                **self.measurement.to_dict(),
                "verdict": self.verdict,
                "max_z": self.max_z,
                "finite_size": self.finite_size,
                "reasons": self.reasons,
                "n_comparisons": self.n_comparisons,
                "threshold": self.threshold,
                "alpha": self.settings.alpha,
                "resolution": self.settings.resolution,
                "size": self.size,
                "by_variable": {v.name: v.to_dict() for v in self.variables},
            }
        )

    def to_json(self, indent: int | None = None) -> str:
        """Return `to_dict` as text; numbers that are not finite are null."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __repr__(self) -> str:
        counted = f"{self.n_comparisons} comparisons, max |z| {self.max_z:.2f}"
        return f"<Comparison {self.curve.theory!r}: {self.verdict}; {counted}>"


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

    from .simulate import simulate

    if not (0 < alpha < 1 and resolution > 0):
        raise UsageError(f"alpha must lie in (0, 1) and resolution be positive, got {alpha} and {resolution}")
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
    curves, exponents = _theory(problem, given, size, [float(s) for s in measurement[size].values])
    settings = Settings(alpha, resolution, *exponents)
    rounding = FLOAT32_ROUNDING if measurement.stats.get("dtype") == "float32" else 0.0
    tolerance = max(_solver_tolerance(problem), rounding)
    return _compare(measurement, curves, size, variables, settings, tolerance)


def _theory(
    problem: Problem, given: LearningCurve | None, size: str, sizes: list[float]
) -> tuple[list[LearningCurve], tuple[float | None, float, str]]:
    """Return the curve of each size, solving once for each distinct problem, and how the gap is known to close."""
    from dimladder.solve import solve

    from .simulate import experiment

    try:
        found = experiment(problem.theory)
    except SimulationError:
        # A measurement from elsewhere, of a theory without an experiment of ours.
        curve = given if given is not None else solve(problem)
        return [curve] * len(sizes), (None, Settings.slowest_exponent, "")
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
    closing = (found.exponent(problem), found.slowest(problem), found.open_limit(problem))
    return [solved[at.content_hash] for at in problems], closing


def _solver_tolerance(problem: Problem) -> float:
    """Relative accuracy of the theory's numbers: what an exactly imposed value may differ by."""
    return 1e-8 + 10.0 * float(getattr(getattr(problem, "solver", None), "rtol", 0.0))


def _compare(
    measurement: Measurement,
    curves: list[LearningCurve],
    size: str,
    wanted: Sequence[str] | None,
    settings: Settings,
    tolerance: float,
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
        found, z, missing = _align(measurement, curves, size, order, name, replicas, tolerance)
        residuals[name] = z
        if missing:
            gaps_missing[name] = missing
        if found is not None:
            entries.append(found)
    comparisons = count_distinct(entries) if entries else 0
    judged = [judge(one, comparisons, settings) for one in entries]
    verdict = combine([v.verdict for v in judged])
    reasons = [f"{v.name}: {reason}" for v in judged for reason in v.reasons]
    if replicas == 1:
        notes.append("one replica has no standard error: at least two are needed")
    for name, missing in gaps_missing.items():
        notes.append(f"{name}: {missing} entries are finite on one side only (theory or simulation did not get there)")
    if gaps_missing and verdict == "agree":
        verdict = "inconclusive"
    order_of = {"disagree": 0, "inconclusive": 1, "agree": 2}
    ranked = sorted(judged, key=lambda v: order_of[v.verdict])
    reasons = [f"{v.name}: {reason}" for v in ranked for reason in v.reasons] + notes
    limit = threshold(settings.alpha, comparisons, max(replicas - 1, 1))
    at_size = dict(zip(measurement[size].values[order].tolist(), curves, strict=True))
    return Comparison(
        verdict, reasons, judged, xr.Dataset(residuals), at_size, measurement, comparisons, limit, size, settings
    )


def _align(
    measurement: Measurement,
    curves: list[LearningCurve],
    size: str,
    order: np.ndarray,
    name: str,
    replicas: int,
    tolerance: float,
) -> tuple[Entries | None, xr.DataArray, int]:
    """Return the comparable entries of one variable, its residuals, and how many are finite on one side only."""
    import numpy as np
    import xarray as xr

    array = measurement[name].isel({size: order})
    axes = [str(d) for d in array.dims if d != size]
    array = array.transpose(size, *axes)
    mean = array.values
    se = (
        measurement[f"{name}_se"].isel({size: order}).transpose(size, *axes).values
        if f"{name}_se" in measurement
        else None
    )
    if se is None:
        se = np.full(mean.shape, np.nan)
    theory = np.stack([_on_grid(curve, name, array, axes) for curve in curves])
    spread = [_on_grid(c, f"{name}_se", array, axes) if f"{name}_se" in c else np.zeros(mean.shape[1:]) for c in curves]
    se = np.hypot(se, np.stack(spread))
    # An imposed value has no scatter: it must be the theory's to rounding, and then counts as met.
    finite = np.isfinite(theory)
    floor = tolerance * max(float(np.max(np.abs(theory[finite]))) if finite.any() else 0.0, 1e-300)
    gap = mean - theory
    same = (mean == theory) | (np.isnan(mean) & np.isnan(theory))  # equal infinities, both undefined
    gap = np.where(same, 0.0, gap)
    imposed = (se <= floor).all(axis=0)
    se = np.maximum(se, floor)
    defined = np.isfinite(theory) & np.isfinite(mean) & np.isfinite(se)
    one_sided = int(np.sum((np.isfinite(theory) != np.isfinite(mean)) & ~same))
    z = xr.DataArray(
        np.where(defined, gap / np.where(defined, se, 1.0), np.nan), dims=array.dims,
        coords={d: array.coords[d] for d in array.dims}, name=name, attrs={"long_name": f"residual of {name}"},
    )  # fmt: skip
    keep = defined.all(axis=0).ravel()
    if not keep.any():
        return None, z, one_sided
    labels = [
        ", ".join(f"{axis} = {_shown(array.coords[axis].values[i])}" for axis, i in zip(axes, place, strict=True))
        or name
        for place in np.argwhere(defined.all(axis=0))
    ]
    flat_gap, flat_se, flat_theory = (a.reshape(len(order), -1)[:, keep] for a in (gap, se, theory))
    sizes = array.coords[size].values.astype(float)
    kept = imposed.ravel()[keep]
    return Entries(name, sizes, flat_gap, flat_se, flat_theory, labels, replicas, kept), z, one_sided


def _shown(coordinate: Any) -> str:
    """A coordinate in a label: numbers short, names as they are."""
    return str(coordinate) if isinstance(coordinate, str) else f"{coordinate:g}"


def _on_grid(curve: LearningCurve, name: str, array: xr.DataArray, axes: list[str]) -> np.ndarray:
    """Return the theory's values at the coordinates of the measurement."""
    import numpy as np

    theory = curve[name]
    if set(map(str, theory.dims)) != set(axes):
        raise UsageError(
            f"{name!r} has other axes in theory than in simulation",
            why=f"theory: {tuple(theory.dims)}; simulation: {tuple(axes)}",
        )
    for axis in axes:
        have, want = theory.coords[axis].values, array.coords[axis].values
        if have.dtype.kind in "iuf":
            # Infinity is near itself only: the tolerance of an infinite coordinate would take in every other.
            with np.errstate(invalid="ignore"):
                near = np.abs(have[None, :] - want[:, None]) <= 1e-9 * np.maximum(np.abs(want[:, None]), 1e-12)
            near &= np.isfinite(want)[:, None]
            near |= have[None, :] == want[:, None]
        else:
            near = have[None, :] == want[:, None]
        if not near.any(axis=1).all():
            absent = want[~near.any(axis=1)]
            raise UsageError(
                f"the theory has no {axis} = {absent[0]} for {name!r}",
                why=f"{len(absent)} of {len(want)} measured points are not on its grid",
                hint="solve and simulate the same problem, or simulate on the theory's grid",
            )
        theory = theory.isel({axis: near.argmax(axis=1)})
    values: np.ndarray = theory.transpose(*axes).values.astype(float)
    return values


def plain(value: Any) -> Any:
    """Return data that JSON can hold: arrays' numbers as numbers, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


__all__ = ["Comparison", "compare"]
