"""Index targets at finite d: the directions of the inputs, the vector w*, and labels of its fields."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimladder.errors import SimulationError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Directions:
    """The d eigendirections of the inputs: eigenvalues and mean squares of w* (sum of products / d = E z^2)."""

    eigenvalues: Array
    squares: Array


def directions(problem: Any, d: int) -> Directions:
    """Resolve the spectrum and the target's power by d directions of equal share.

    Direction i holds the average over its interval of the cumulative share: the blocks themselves where they have whole
    numbers of directions.
    """
    from dimladder.problem.targets import power_shares

    target = problem.target
    rho = float(target.overlap[0][0]) if target.overlap else 1.0
    spectrum = problem.data.spectrum
    om, shares = (np.ones(1), np.ones(1)) if spectrum is None else spectrum.blocks()
    if np.any(shares == 0.0):
        raise SimulationError("blocks of fraction 0 are not simulated", where="data.spectrum.fractions")
    power = shares / om if target.power == "latent" else np.asarray(power_shares(target.power, shares), dtype=float)
    at = np.concatenate([[0.0], np.cumsum(shares)])
    at[-1] = 1.0
    ends = np.arange(d + 1) / d
    eigenvalues = d * np.diff(np.interp(ends, at, np.concatenate([[0.0], np.cumsum(shares * om)])))
    squares = d * np.diff(np.interp(ends, at, np.concatenate([[0.0], np.cumsum(power)])))
    return Directions(eigenvalues, squares * rho / float(np.mean(eigenvalues * squares)))


def label(problem: Any, z: Array, stream: np.random.Generator) -> Array:
    """Draw labels of latent fields: noises, flips and outliers included."""
    return draw_label(problem.target, z, stream)


def draw_label(target: Any, z: Array, stream: np.random.Generator) -> Array:
    """Draw labels of the fields of one index target."""

    def value(expression: Any) -> Array:
        known = {n: stream.standard_normal(z.shape) for n in expression.variables if n.startswith("n")}
        known |= {n: z for n in expression.variables if n.startswith("z")}
        return np.broadcast_to(np.asarray(expression.evaluate(np, **known), dtype=float), z.shape)

    y = value(target.expression)
    if target.is_logit:
        y = np.where(stream.random(z.shape) * (1.0 + np.exp(-np.clip(y, -700, 700))) < 1.0, 1.0, -1.0)
    y = y + target.noise * stream.standard_normal(z.shape)
    if target.flip:
        y = np.where(stream.random(z.shape) < target.flip, -y, y)
    if target.outliers is not None and target.outliers.probability > 0:
        from dimladder.problem.checks import formula
        from dimladder.problem.targets import INDEX_VARIABLES

        other = formula("outliers.formula", target.outliers.formula, INDEX_VARIABLES, target.hermite)
        y = np.where(stream.random(z.shape) < target.outliers.probability, value(other), y)
    return np.asarray(y)


def clean(problem: Any, z: Array) -> Array:
    """The target without noise, flips and outliers."""
    return clean_label(problem.target, z)


def clean_label(target: Any, z: Array) -> Array:
    """One index target without noise, flips and outliers."""
    expression = target.expression
    known = {n: z if n.startswith("z") else np.zeros(z.shape) for n in expression.variables}
    y = np.broadcast_to(np.asarray(expression.evaluate(np, **known), dtype=float), z.shape)
    return np.asarray(1.0 / (1.0 + np.exp(-y)) if target.is_logit else y)


def drawn_target(problem: Any, d: int, stream: np.random.Generator) -> Array:
    """Entries of w*, mean square 1: signs for the l2 penalty, whose answer does not depend on their law."""
    prior = problem.target.prior
    kind = prior if isinstance(prior, str) else prior.kind
    signs = np.where(stream.random(d) < 0.5, -1.0, 1.0)
    if kind == "rademacher" or (kind == "normal" and problem.loss.penalty == "l2" and not is_bayes(problem)):
        return signs
    normal = stream.standard_normal(d)
    if kind == "normal":
        return normal
    rate = prior.rate
    return np.where(stream.random(d) < rate, normal / math.sqrt(rate), 0.0)


def is_bayes(problem: Any) -> bool:
    """Whether the estimator knows the target's own law."""
    return bool(problem.algorithm.__struct_config__.tag == "bayes")
