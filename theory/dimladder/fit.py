"""Numbers of a problem from a measured curve: least squares with the theory's own derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import DimladderError, SolveError, UsageError, did_you_mean
from .prepare import Prepared, prepare
from .problem import Problem, to_builtins
from .sensitivity import numbers, slopes
from .solve import replace

if TYPE_CHECKING:
    from .results import Result
    from .symbolic.systems import Solution

__all__ = ["Fit", "fit"]

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
# Changes of the parameters, in standard errors, below which the fit has arrived; and most of them.
ARRIVED, MOST_STEPS = 1e-4, 60
# A step is halved until the sum of squares falls, at most so often.
MOST_HALVINGS = 12
# Standard errors that differ by this factor in the Fisher matrix are as good as infinite.
CONDITION = 1e12


@dataclass(frozen=True)
class Fit:
    """What was found.

    Attributes
    ----------
    values, errors : dict
        Key -> number, and its standard error: that of the measurement carried through the theory, not enlarged where
        the theory does not fit.
    covariance : array (keys, keys)
    chi_squared : float
        Sum of squared residuals in standard errors.
    degrees : int
        Measured numbers less fitted ones.
    steps : int
    problem : Problem
        With the values found.
    """

    values: dict[str, float]
    errors: dict[str, float]
    covariance: Array
    chi_squared: float
    degrees: int
    steps: int
    problem: Problem

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and text."""
        return {
            "schema": 1, "theory": self.problem.theory, "values": self.values, "errors": self.errors,
            "covariance": self.covariance.tolist(), "chi_squared": self.chi_squared, "degrees": self.degrees,
            "steps": self.steps, "problem": to_builtins(self.problem),
        }  # fmt: skip


def fit(
    problem: Problem,
    measurement: Result | Mapping[str, tuple[Any, Any]],
    keys: Sequence[str],
    variables: Sequence[str] | None = None,
    **solver: Any,
) -> Fit:
    """Fit numbers of a problem to measured variables.

    Gauss-Newton steps, halved until the sum of squares falls, from the problem's own values; derivatives as
    `sensitivity` takes them.

    Parameters
    ----------
    problem : Problem
        On the grid of the measurement.
    measurement : Measurement, or mapping
        As `dimladder_validation.simulate` returns it (its largest size is taken), or name -> (values, standard
        errors), arrays of the shape of the theory's variable; a standard error of 0 or NaN leaves a number out.
    keys : sequence of str
        Dotted keys of numbers; where the search begins.
    variables : sequence of str, optional
        Which of the measured ones are fitted; default: ``generalization_error`` where it is there, else all.
    **solver
        Fields of the ``[solver]`` section to replace.

    Returns
    -------
    Fit

    Raises
    ------
    UsageError
        For variables that are not measured, shapes that differ, or fewer numbers than keys.
    SolveError
        When the numbers do not decide the keys, or no step lowers the sum of squares.

    Notes
    -----
    Numbers of one curve are taken as independent, which those of one trained network are not: simulations at different
    times share replicas, and the standard errors are then too small. A finite size biases the values by a power of 1/d.
    """
    prepared = prepare(problem, keys, **solver)
    x = np.array(numbers(prepared))
    solution = prepared.solution(x)
    measured = _measured(measurement, variables, solution)
    kept = _kept(measured, solution, len(keys))
    residual = _residual(measured, kept, solution)
    steps, small, moved = 0, np.inf, True
    while moved and small >= ARRIVED:
        if steps == MOST_STEPS:
            raise SolveError("the fit has not arrived", status="max_steps", why=f"{MOST_STEPS} steps were made")
        steps += 1
        derivatives, _, _ = slopes(prepared, list(x), solution)
        columns = [derivatives[n].reshape(len(x), -1)[:, kept[n]] / measured[n][1].ravel()[kept[n]] for n in measured]
        J = np.concatenate(columns, axis=1).T
        covariance = _covariance(J, keys)
        step = -covariance @ (J.T @ residual)
        small = float(np.max(abs(step) / np.sqrt(np.diag(covariance))))
        x, solution, residual, moved = _descended(prepared, measured, kept, x, step, solution, residual)
    if not moved and small > 0.1:
        raise SolveError(
            "the fit is stuck", status="no_descent", why=f"no step lowers the sum of squares; the next is {small:.2g} "
            "standard errors long", hint="begin closer, or fit fewer keys",
        )  # fmt: skip
    values = {k: float(v) for k, v in zip(keys, x, strict=True)}
    errors = {k: float(e) for k, e in zip(keys, np.sqrt(np.diag(covariance)), strict=True)}
    degrees = int(sum(len(k) for k in kept.values())) - len(keys)
    return Fit(values, errors, covariance, float(residual @ residual), degrees, steps, replace(problem, values))


def _measured(measurement: Any, variables: Sequence[str] | None, solution: Solution) -> dict[str, tuple[Array, Array]]:
    """Return name -> (values, standard errors) of what is to be fitted."""
    known: dict[str, Any]
    if isinstance(measurement, Mapping):
        known = dict(measurement)
    else:
        dataset = measurement.dataset
        known = {n: (dataset[n], dataset[f"{n}_se"]) for n in measurement if f"{n}_se" in dataset}
    chosen = variables or (["generalization_error"] if "generalization_error" in known else list(known))
    if not chosen:
        raise UsageError("nothing is measured with a standard error", where="measurement")
    found = {}
    for name in chosen:
        if name not in known:
            raise UsageError(
                f"{name!r} is not measured with a standard error", where="variables", hint=did_you_mean(name, known)
            )
        if name not in solution.variables:
            raise UsageError(
                f"the theory has no variable {name!r}", where="variables", hint=did_you_mean(name, solution.variables)
            )
        pair = [np.asarray(part, dtype=float) for part in known[name]]
        axes = list(getattr(known[name][0], "dims", ()))
        if axes and axes[0] not in solution.variables[name].dims:
            # An experiment's first axis is the size of the system: the largest stands last.
            pair = [part[-1] for part in pair]
        found[name] = pair[0], pair[1]
    return found


def _kept(measured: Mapping[str, tuple[Array, Array]], solution: Solution, keys: int) -> dict[str, Indices]:
    """Return, for each variable, which of its numbers count."""
    kept = {}
    for name, (values, errors) in measured.items():
        shape = np.shape(solution.variables[name].values)
        if values.shape != shape or errors.shape != shape:
            raise UsageError(
                f"{name!r} was measured on another grid", where="measurement",
                why=f"its shape is {values.shape}, its errors' {errors.shape}, the theory's {shape}",
                hint="give the problem the grid of the measurement",
            )  # fmt: skip
        kept[name] = np.flatnonzero((np.isfinite(values) & (errors > 0) & np.isfinite(errors)).ravel())
    count = sum(len(k) for k in kept.values())
    if count < keys:
        raise UsageError(f"{count} measured numbers do not decide {keys} keys", where="measurement")
    return kept


def _residual(measured: Mapping[str, tuple[Array, Array]], kept: Mapping[str, Indices], solution: Solution) -> Array:
    parts = []
    for name, (values, errors) in measured.items():
        theory = np.asarray(solution.variables[name].values, dtype=float)
        parts.append(((theory - values).ravel() / errors.ravel().clip(min=1e-300))[kept[name]])
    return np.concatenate(parts)


def _covariance(J: Array, keys: Sequence[str]) -> Array:
    """Return the inverse of the Fisher matrix, scaled for its conditioning."""
    size = np.sqrt((J**2).sum(axis=0))
    if not size.all():
        raise SolveError(
            "the measured numbers do not depend on a key", status="singular", where=keys[int(np.argmin(size))],
            hint="fit another, or measure another variable",
        )  # fmt: skip
    fisher = (J / size).T @ (J / size)
    eigen, vectors = np.linalg.eigh(fisher)
    if eigen[0] * CONDITION < eigen[-1]:
        weights = abs(vectors[:, 0])
        raise SolveError(
            "the measured numbers do not tell the keys apart", status="singular",
            where=", ".join(k for k, w in zip(keys, weights, strict=True) if w > 0.1), hint="fit fewer of them",
        )  # fmt: skip
    inverse: Array = np.linalg.inv(fisher) / np.outer(size, size)
    return inverse


def _descended(
    prepared: Prepared, measured: Any, kept: Any, x: Array, step: Array, solution: Solution, residual: Array
) -> tuple[Array, Solution, Array, bool]:
    """Take the step, halved until the sum of squares falls; the last entry says whether it did."""
    before = residual @ residual
    for _ in range(MOST_HALVINGS):
        try:
            found = prepared.solution(x + step)
            there = _residual(measured, kept, found)
            if there @ there <= before * (1.0 + 1e-12):
                return x + step, found, there, True
        except DimladderError:
            # Outside the range of a number, or nothing to be solved there: a shorter step.
            pass
        step = 0.5 * step
    return x, solution, residual, False
