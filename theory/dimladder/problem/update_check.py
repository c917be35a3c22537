"""Update rules read twice: their text evaluated on vectors of numbers, against the table made of it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .expressions import Expression
from .spec import Problem
from .update_table import Table, table
from .update_text import NOISE

Array = NDArray[np.float64]


def update_error(problem: Problem, d: int = 17, steps: int = 32, seed: int = 0) -> float:
    """Return by how much steps of the text and of the table differ, relative to the step: rounding where both agree.

    Weights, averages, readouts, inputs, labels and noise are drawn at random; the text of ``[algorithm.update]`` is
    evaluated on them as it stands, vectors as arrays of `d` numbers, and so is the table:
    ``u_p + (B u)_p/d + b_p x/sqrt d + s_p zeta/sqrt d``. Nothing is shared but the formulas of activation and loss. A
    rule that was read wrongly (a sign, a power of d, another vector) shows as a difference of order one.

    Parameters
    ----------
    problem : Problem
        With an update rule.
    d, steps, seed : int
        Dimension of the vectors, and how many steps are compared.
    """
    what, rule = table(problem), _rule(problem)
    random = np.random.default_rng(seed)
    g, dg = what.activation, what.activation.derivative("x")
    worst = 0.0
    for _ in range(steps):
        u = random.standard_normal((len(what.species), what.K, d))
        a, x, y = random.standard_normal(what.K), random.standard_normal(d), float(random.standard_normal())
        zeta = random.standard_normal(d)
        fields = u @ x / np.sqrt(d)
        values, slopes = np.asarray(g.evaluate(np, x=fields)) + 0.0 * fields, dg(x=fields)
        f = float(a @ values[0])
        loss: Any = what.loss
        known = {"f": f, "y": y, "error": float(loss.slopes(np.array(f), np.array(y)))}
        for k in range(what.K):
            scalars = known | {"a": float(a[k]), "learning_rate": what.learning_rate}
            for s, name in enumerate(what.species):
                scalars |= {f"lambda_{name}": fields[s, k], f"g_{name}": values[s, k], f"dg_{name}": slopes[s, k]}
            of_text = _step_of_text(what, rule, u[:, k], x, zeta, scalars)
            of_table = _step_of_table(what, u[:, k], x, zeta, scalars)
            worst = max(worst, float(np.abs(of_text - of_table).max() / np.abs(of_text - u[:, k]).max()))
    return worst


def _rule(problem: Problem) -> dict[str, str]:
    algorithm: Any = problem.algorithm
    numbers = {re.escape(name): f"({value!r})" for name, value in algorithm.constants.items()}
    out = {}
    for name, text in algorithm.update.items():
        text = re.sub(r"\b(d?g)\(\s*lambda_(\w+)\s*\)", r"\1_\2", text)
        for constant, value in numbers.items():
            text = re.sub(rf"\b{constant}\b", value, text)
        out[name] = text
    return out


def _step_of_text(
    what: Table, rule: dict[str, str], u: Array, x: Array, zeta: Array, scalars: dict[str, float]
) -> Array:
    names = (*what.species, "x", NOISE, "d", *scalars)
    vectors = {**dict(zip(what.species, u, strict=True)), "x": x, NOISE: zeta}
    known: dict[str, Any] = {**vectors, "d": float(len(x)), **scalars}
    rows = []
    for name in what.species:
        formula = Expression(rule[name], names)
        rows.append(formula.evaluate(np, **{v: known[v] for v in formula.variables}))
    return np.array(rows)


def _step_of_table(what: Table, u: Array, x: Array, zeta: Array, scalars: dict[str, float]) -> Array:
    d = len(x)
    moved: Array = u + (what.drift + what.scheduled_drift) @ u / d
    moved += np.outer(what.kick + what.fixed_kick, zeta) / np.sqrt(d)
    for p, row in enumerate(what.sampled_drift or ()):
        for q, part in enumerate(row):
            moved[p] += 0.0 if part is None else float(part.evaluate(np, **scalars)) * u[q] / d
    for s in range(len(what.species)):
        if what.coefficients is None:
            pull = scalars["a"] * scalars["dg_w"] * scalars["error"]
            coefficient = -(what.gain[s] + what.fixed_gain[s]) * pull
        else:
            formula = what.coefficients[s]
            coefficient = 0.0 if formula is None else float(formula.evaluate(np, **scalars))
        moved[s] += coefficient * x / np.sqrt(d)
    return moved
