"""Update rules as rows of the table: how the tracked vectors mix, and what a sample moves each of them by.

Named rules (plain SGD, weight decay, momentum) are presets of what ``[algorithm.update]`` writes out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .spec import Problem
from .update_text import affine, gradient_part, read_update

Array = NDArray[np.float64]


def moves_of(problem: Problem) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]:
    """Return the species, those whose network is measured beside w, and how they move."""
    rule: Any = problem.algorithm
    lr = rule.learning_rate
    if rule.update:
        return _written(rule)
    if rule.momentum is None or rule.momentum.beta is not None:
        beta = None if rule.momentum is None else float(rule.momentum.beta)
        limit = lr if beta is None else lr / (1.0 - beta)
        species, drift, gain = ("w",), np.array([[0.0 - rule.weight_decay]]), np.array([limit])
        if beta is not None and rule.weight_decay:
            raise _not_together("algorithm.weight_decay", "momentum = { beta }")
        if beta is not None and rule.uses > 1:
            raise _not_together("algorithm.uses", "momentum")
        return species, (), _moving(drift, gain, beta=beta)
    if rule.uses > 1:
        raise _not_together("algorithm.uses", "momentum")
    ball = rule.momentum
    drift = np.array([[-rule.weight_decay, 1.0 if ball.coupling is None else ball.coupling], [0.0, -ball.decay]])
    return ("w", "u"), (), _moving(drift, np.array([lr * (ball.direct or 0.0), lr]))


def _moving(drift: Array, gain: Array, **more: Any) -> dict[str, Any]:
    still = {"scheduled_drift": np.zeros_like(drift), "fixed_gain": np.zeros_like(gain), "coefficients": None}
    return {"drift": drift, "gain": gain, "beta": None, **still, **more}


def _not_together(key: str, other: str) -> ConfigError:
    return ConfigError(f"{key} is not read together with {other}", where=key, hint=f"drop one; {other} says it all")


def _written(rule: Any) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]:
    for key, set_ in (
        ("momentum", rule.momentum is not None), ("weight_decay", rule.weight_decay != 0), ("uses", rule.uses > 1),
        ("displacement", rule.displacement != 0),
    ):  # fmt: skip
        if set_:
            raise _not_together(f"algorithm.{key}", "a table [algorithm.update]")
    try:
        rows = read_update(rule.update, rule.constants)
        missing = [name for name in rows if name != "w" and name not in rule.vectors]
        if missing:
            raise ValueError(f"vectors: {missing[0]!r} has a row in update, but no start: zero, w, or overlaps")
        size = len(rows)
        drift, scheduled = np.zeros((size, size)), np.zeros((size, size))
        gain, fixed = np.zeros(size), np.zeros(size)
        standard = True
        for p, (name, row) in enumerate(rows.items()):
            for q, other in enumerate(rows):
                if other in row.drift:
                    drift[p, q], scheduled[p, q] = affine(row.drift[other], f"update.{name}", rule.learning_rate)
            if row.sample is not None:
                part = gradient_part(row.sample)
                if part is None:
                    standard = False
                else:
                    fixed[p], gain[p] = affine(part, f"update.{name}", rule.learning_rate)
    except ValueError as error:
        key = str(error).split(":")[0]
        raise ConfigError("the update rule cannot be read", where=f"algorithm.{key}", why=str(error)) from None
    general = None if standard else tuple(row.sample for row in rows.values())
    if general is not None:
        gain, fixed = np.zeros(size), np.zeros(size)
    moves = _moving(drift, gain) | {"scheduled_drift": scheduled, "fixed_gain": fixed, "coefficients": general}
    return tuple(rows), tuple(name for name in rows if name != "w"), moves
