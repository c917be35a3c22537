"""Numbers of a problem from a measured curve: least squares with the theory's own derivatives."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import DimladderError, SolveError, UsageError, did_you_mean
from .prepare import Prepared, prepare
from .problem import Problem, to_builtins
from .sensitivity import entries, numbers, slopes

if TYPE_CHECKING:
    from .results import Result
    from .symbolic.systems import Solution

__all__ = ["Fit", "fit"]

log = logging.getLogger("dimladder.fit")
Array = NDArray[np.float64]
Indices = NDArray[np.intp]
# Changes of the parameters, in standard errors, below which the fit has arrived; and most of them.
ARRIVED, MOST_STEPS = 1e-4, 60
# A step is shortened until the sum of squares falls: weights of the diagonal in the Fisher matrix that are tried.
DAMPING = (0.0, *(10.0**k for k in range(-4, 9)))
# A derivative that is not larger than so many of its own errors says nothing.
CERTAIN = 10.0
# Excess of chi^2 over its degrees, in its own standard deviations, beyond which the theory does not fit.
IMPLAUSIBLE = 5.0
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
    warnings : tuple of str
        What casts doubt on the values: a sum of squares that no good fit has.
    """

    values: dict[str, float]
    errors: dict[str, float]
    covariance: Array
    chi_squared: float
    degrees: int
    steps: int
    problem: Problem
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and text."""
        return {
            "schema": 1, "theory": self.problem.theory, "values": self.values, "errors": self.errors,
            "covariance": self.covariance.tolist(), "chi_squared": self.chi_squared, "degrees": self.degrees,
            "steps": self.steps, "warnings": list(self.warnings), "problem": to_builtins(self.problem),
        }  # fmt: skip


def fit(
    problem: Problem,
    measurement: Result | Mapping[str, tuple[Any, Any]],
    keys: Sequence[str],
    variables: Sequence[str] | None = None,
    **solver: Any,
) -> Fit:
    """Fit numbers of a problem to measured variables.

    Steps of Levenberg and Marquardt from the problem's own values; derivatives as `sensitivity` takes them.

    Parameters
    ----------
    problem : Problem
        On the grid of the measurement.
    measurement : Measurement, or mapping
        As `dimladder_validation.simulate` returns it (its largest size is taken), or name -> (values, standard
        errors), arrays of the shape of the theory's variable; a standard error of 0 or NaN leaves a number out.
        `measured_table` reads one from a file.
    keys : sequence of str
        Dotted keys of numbers, or of arrays of them, as `sensitivity` takes them; their values are where the search
        begins.
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
        When the numbers do not decide the keys, where the search stands, or no step lowers the sum of squares.

    Notes
    -----
    A local optimum: `Fit.warnings` says where chi^2 is larger than that of any good fit, so that another start, or
    another theory, is worth trying. What the numbers decide is read off the Fisher matrix J^T J of the derivatives in
    standard errors: its rank, and whether a derivative is larger than its own error.

    Numbers of one curve are taken as independent, which those of one trained network are not: simulations at different
    times share replicas, and the standard errors are then too small. A finite size biases the values by a power of 1/d.
    """
    keys = entries(problem, keys)
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
        found = slopes(prepared, list(x), solution, list(measured), doubtful=1.0 / CERTAIN)[:2]
        J, unsure = (
            np.concatenate([a[n].reshape(len(x), -1)[:, kept[n]] / _errors(measured, kept, n) for n in measured], 1).T
            for a in found
        )
        covariance = _covariance(J, unsure, keys, x)
        step = -covariance @ (J.T @ residual)
        small = float(np.max(abs(step) / np.sqrt(np.diag(covariance))))
        x, solution, residual, moved = _descended(prepared, measured, kept, x, J, solution, residual)
    if not moved and small > 0.1:
        raise SolveError(
            "the fit is stuck", status="no_descent", why=f"no step lowers the sum of squares; the next is {small:.2g} "
            "standard errors long", hint="begin closer, or fit fewer keys",
        )  # fmt: skip
    values = {k: float(v) for k, v in zip(keys, x, strict=True)}
    errors = {k: float(e) for k, e in zip(keys, np.sqrt(np.diag(covariance)), strict=True)}
    degrees = int(sum(len(k) for k in kept.values())) - len(keys)
    chi_squared = float(residual @ residual)
    warnings = []
    if chi_squared > degrees + IMPLAUSIBLE * np.sqrt(2.0 * max(degrees, 1)):
        warnings.append(
            f"chi^2 = {chi_squared:.4g} of {degrees} degrees of freedom: the theory does not fit with these values; "
            "begin elsewhere, fit further keys, or doubt the standard errors"
        )
        log.warning("%s", warnings[0])
    found_problem = prepared.at(x)
    return Fit(values, errors, covariance, chi_squared, degrees, steps, found_problem, tuple(warnings))


def _errors(measured: Mapping[str, tuple[Array, Array]], kept: Mapping[str, Indices], name: str) -> Array:
    """Return the standard errors of a variable's numbers that count."""
    return measured[name][1].ravel()[kept[name]]


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


def _covariance(J: Array, unsure: Array, keys: Sequence[str], x: Array) -> Array:
    """Return the inverse of the Fisher matrix, scaled for its conditioning.

    Parameters
    ----------
    J, unsure : arrays (numbers, keys)
        Derivatives of the residuals, and their errors.
    """
    size = np.sqrt((J**2).sum(axis=0))
    noise = np.sqrt((np.where(np.isfinite(unsure), unsure, np.inf) ** 2).sum(axis=0))
    blind = size <= CERTAIN * noise
    if blind.any():
        k = int(np.flatnonzero(blind)[0])
        raise SolveError(
            "the measured numbers do not depend on a key", status="singular", where=f"{keys[k]} = {x[k]:.6g}",
            why="their derivative in it is zero there, to the accuracy of the derivative",
            hint="begin at another value (at a symmetric one, such as 0, it can vanish), fit another key, or measure "
            "another variable",
        )  # fmt: skip
    fisher = (J / size).T @ (J / size)
    eigen, vectors = np.linalg.eigh(fisher)
    if eigen[0] * CONDITION < eigen[-1]:
        weights = abs(vectors[:, 0])
        raise SolveError(
            "the measured numbers do not tell the keys apart", status="singular",
            where=", ".join(k for k, w in zip(keys, weights, strict=True) if w > 0.1),
            why=f"their derivatives are combinations of each other: the Fisher matrix has rank {_rank(eigen)} of "
            f"{len(keys)}",
            hint="fit fewer of them, or measure another variable",
        )  # fmt: skip
    inverse: Array = np.linalg.inv(fisher) / np.outer(size, size)
    return inverse


def _rank(eigen: Array) -> int:
    return int((eigen * CONDITION >= eigen[-1]).sum())


def _descended(
    prepared: Prepared, measured: Any, kept: Any, x: Array, J: Array, solution: Solution, residual: Array
) -> tuple[Array, Solution, Array, bool]:
    """Take a step, shorter and steeper until the sum of squares falls; the last entry says whether it did."""
    before, size = residual @ residual, np.sqrt((J**2).sum(axis=0))
    fisher, slope = (J / size).T @ (J / size), (J / size).T @ residual
    for damping in DAMPING:
        step = -np.linalg.solve(fisher + damping * np.eye(len(x)), slope) / size
        try:
            found = prepared.solution(x + step)
        except DimladderError:
            # Outside the range of a number, or nothing to be solved there: a shorter step.
            continue
        there = _residual(measured, kept, found)
        if there @ there <= before * (1.0 + 1e-12):
            return x + step, found, there, True
    return x, solution, residual, False
