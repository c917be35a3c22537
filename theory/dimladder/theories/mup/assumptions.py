"""What the convergence theorem assumes: generic inputs (Assumption 4.1) and a GOOD activation (Assumption 4.3).

Chen, Yang, Zhao, Gu (2025). Under both, features of every layer are linearly independent at every finite time, and
training that stops has fitted every sample. The coefficient families of the GOOD definition are checked on random
members: a failure is proof, a pass is evidence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ...problem import Expression, Problem, activation
from ...problem.points import load_points
from ...problem.training import derivatives

# Inner products closer than this, relative to the norms, count as equal.
TOLERANCE = 1e-10


@dataclass(frozen=True)
class DataReport:
    """Assumption 4.1 for a set of inputs.

    Attributes
    ----------
    generic : bool
        No two inputs orthogonal, and no two inner products with a third of equal magnitude.
    orthogonal : list of (i, j)
    tied : list of (i, j, k)
        ``|<x_i, x_j>| = |<x_i, x_k>|``; antipodal and repeated inputs appear here.
    rank : int
        Of the inputs: with fewer dimensions than samples, first pre-activations cannot be linearly independent.
    notes : list of str
    """

    generic: bool
    orthogonal: list[tuple[int, int]]
    tied: list[tuple[int, int, int]]
    rank: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ActivationReport:
    """The GOOD conditions for an activation.

    Attributes
    ----------
    smooth : bool
        Twice continuously differentiable.
    bounded_first, bounded_second : bool
        phi' and phi'' bounded.
    independent_copies : bool
        Random sums ``sum_i a_i phi(b_i x + c_i)`` with distinct ``|b_i|`` are not constant.
    nondegenerate_product : bool
        ``(r1 + phi)(r2 + phi')`` is constant for no r1, r2.
    good : bool
        All of them.
    notes : list of str
    """

    smooth: bool
    bounded_first: bool
    bounded_second: bool
    independent_copies: bool
    nondegenerate_product: bool
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return all(
            (self.smooth, self.bounded_first, self.bounded_second, self.independent_copies, self.nondegenerate_product)
        )


def check_inputs(inputs: np.ndarray) -> DataReport:
    """Check Assumption 4.1 for inputs of shape (m, d)."""
    inputs = np.asarray(inputs, dtype=float)
    gram = inputs @ inputs.T
    norms = np.sqrt(np.diag(gram))
    size, m = np.abs(gram) / np.outer(norms, norms), len(gram)
    orthogonal = [(i, j) for i in range(m) for j in range(i + 1, m) if size[i, j] < TOLERANCE]
    magnitude = np.abs(gram)
    tied = []
    for i in range(m):
        order = np.argsort(magnitude[i])
        for j, k in pairwise(order):
            # <x_i, x_i> enters the comparison only through another input of the same inner product: a copy or antipode.
            near = abs(magnitude[i, j] - magnitude[i, k]) < TOLERANCE * norms[i] * max(norms[j], norms[k])
            if near and (i not in (j, k) or size[j, k] > 1 - TOLERANCE):
                tied.append((i, int(min(j, k)), int(max(j, k))))
    rank = int(np.linalg.matrix_rank(inputs))
    notes = []
    if orthogonal:
        notes.append(f"inputs {orthogonal[0][0]} and {orthogonal[0][1]} are orthogonal")
    if tied:
        i, j, k = tied[0]
        notes.append(f"|<x_{i}, x_{j}>| = |<x_{i}, x_{k}>|: the inputs are not in generic position")
    if rank < m:
        notes.append(
            f"{m} samples span {rank} dimensions: the first pre-activations h^1 = W^1 x are linear in the inputs "
            f"and cannot be "
            "linearly independent, whatever the activation; post-activations can"
        )
    return DataReport(not orthogonal and not tied, orthogonal, tied, rank, notes)


def check_activation(expression: Expression) -> ActivationReport:
    """Check the GOOD conditions for an activation."""
    notes: list[str] = []
    try:
        smooth = not expression.kinks("x")
    except ValueError:
        smooth = False
    if not smooth:
        notes.append(f"{expression.text} has kinks: phi'' does not exist everywhere")
    evaluate = derivatives(expression)
    with np.errstate(all="ignore"):
        growth = []
        for reach in (10.0, 20.0, 40.0):
            grid = np.linspace(-reach, reach, 8001)
            _, first, second = evaluate(grid)
            growth.append((np.nanmax(np.abs(first)), np.nanmax(np.abs(second))))
    # A bounded derivative has reached its supremum, or all but, within the first interval.
    bounded = [all(np.isfinite(g[i]) and g[i] <= 1.05 * growth[0][i] + 1e-9 for g in growth) for i in (0, 1)]
    for name, flag in zip(("phi'", "phi''"), bounded, strict=True):
        if not flag:
            notes.append(f"{name} seems unbounded: it grows between |x| = 10 and |x| = 40")
    grid = np.linspace(-4.0, 4.0, 401)
    value, first, _ = evaluate(grid)
    # (r1 + phi)(r2 + phi') = c for all x means that phi phi' lies in the span of phi, phi' and 1 with matching
    # constant.
    nondegenerate = _residual(np.stack([value, first, np.ones_like(grid)]), value * first) > 1e-7
    if not nondegenerate:
        notes.append("phi phi' is a combination of phi, phi' and a constant: (r1 + phi)(r2 + phi') can be constant")
    independent = _copies_independent(evaluate)
    if not independent:
        notes.append("shifted and scaled copies of phi are linearly dependent: phi is a polynomial of low degree")
    return ActivationReport(smooth, bounded[0], bounded[1], independent, nondegenerate, notes)


def _residual(basis: np.ndarray, target: np.ndarray) -> float:
    """Return the relative distance of a function to the span of others, on a grid."""
    scale = np.linalg.norm(target)
    if scale == 0:
        return 0.0
    coefficients = np.linalg.lstsq(basis.T, target, rcond=None)[0]
    return float(np.linalg.norm(target - basis.T @ coefficients) / scale)


def _copies_independent(evaluate: Any, copies: int = 4, families: int = 8) -> bool:
    """Whether ``{phi(b_i x + c_i)}`` with distinct ``|b_i|`` and a constant are independent, for random families."""
    generator = np.random.default_rng(0)
    grid = np.linspace(-4.0, 4.0, 801)
    for _ in range(families):
        b = generator.choice([-1.0, 1.0], copies) * (0.4 + 0.6 * np.arange(copies) + 0.2 * generator.random(copies))
        rows = [
            np.ones_like(grid),
            *(evaluate(bi * grid + ci)[0] for bi, ci in zip(b, generator.normal(size=copies), strict=True)),
        ]
        scaled = np.stack([row / max(np.linalg.norm(row), 1e-300) for row in rows])
        if np.linalg.svd(scaled, compute_uv=False)[-1] < 1e-9:
            return False
    return True


def check(problem: Problem) -> dict[str, Any]:
    """Return both reports for a problem as plain values."""
    inputs, _, m = load_points(problem.data)
    data, function = check_inputs(inputs[:m]), check_activation(activation(problem.student.activation))
    return {
        "inputs are generic (A4.1)": data.generic, "rank of the inputs": data.rank, "samples": m,
        "activation is GOOD (A4.3)": function.good, "notes": [*data.notes, *function.notes],
    }  # fmt: skip
