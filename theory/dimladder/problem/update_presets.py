"""Update rules as rows of the table: how the tracked vectors mix, and what a sample moves each of them by.

Named rules (plain SGD, weight decay, momentum) are presets of what ``[algorithm.update]`` writes out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .data import HiddenManifold
from .manifold import unit_moments
from .spec import Problem
from .targets import Committee
from .timed import value_at
from .update_text import affine, gradient_part, read_update

Array = NDArray[np.float64]
AVERAGE = "wbar"  # the running average of `algorithm.average`


def moves_of(problem: Problem) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]:
    """Return the species, those whose network is measured beside w, and how they move."""
    rule: Any = problem.algorithm
    _check_pairs(rule)
    if rule.update:
        return _written(rule)
    return _averaged(rule) if rule.average else _plain(rule)


def _plain(rule: Any) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]:
    lr = rule.learning_rate
    if rule.momentum is None or rule.momentum.beta is not None:
        beta = None if rule.momentum is None else float(rule.momentum.beta)
        limit = lr if beta is None else lr / (1.0 - beta)
        species, drift, gain = ("w",), np.array([[0.0 - rule.weight_decay]]), np.array([limit])
        if beta is not None and rule.weight_decay:
            raise _not_together("algorithm.weight_decay", "momentum = { beta }")
        return species, (), _moving(drift, gain, beta=beta)
    ball = rule.momentum
    drift = np.array([[-rule.weight_decay, 1.0 if ball.coupling is None else ball.coupling], [0.0, -ball.decay]])
    return ("w", "u"), (), _moving(drift, np.array([lr * (ball.direct or 0.0), lr]))


def _averaged(rule: Any) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]:
    """Return a rule with a running average of its weights beside it."""
    species, _, moves = _plain(rule)
    size = len(species)
    drift, gain = np.zeros((size + 1, size + 1)), np.append(moves["gain"], 0.0)
    drift[:size, :size] = moves["drift"]
    drift[size, 0], drift[size, size] = rule.average, -rule.average
    return (*species, AVERAGE), (AVERAGE,), _moving(drift, gain)


def _check_pairs(rule: Any) -> None:
    """Refuse words that a step cannot both follow."""
    noisy = "algorithm.weight_noise" if rule.weight_noise else "algorithm.input_noise" if rule.input_noise else ""
    pairs = (
        ("algorithm.uses", rule.uses > 1, "momentum", rule.momentum is not None),
        ("algorithm.average", rule.average != 0, "momentum = { beta }",
         rule.momentum is not None and rule.momentum.beta is not None),
        ("algorithm.feedback", rule.feedback is not None, "displaced gradients", rule.uses > 1 or rule.displacement),
        ("algorithm.weight_noise", rule.weight_noise != 0, "displaced gradients", rule.uses > 1 or rule.displacement),
        (noisy, bool(noisy), "[algorithm.episodes]", rule.episodes is not None),
    )  # fmt: skip
    for key, asked, other, also in pairs:
        if asked and also:
            raise _not_together(key, other)


def extras_of(problem: Problem, gram: Array, moving: int, width: int) -> dict[str, Any]:
    """Return what else a step does: batch, feedback, noises, episodes, and how teachers drift.

    Parameters
    ----------
    problem : Problem
    gram : array (B, n, n)
        Overlaps at the start, of `moving` vectors, then the teachers.
    moving, width : int
    """
    rule: Any = problem.algorithm
    feedback = None if rule.feedback is None else np.array(rule.feedback)
    if feedback is not None and len(feedback) != width:
        raise ConfigError(
            "feedback does not fit the student", where="algorithm.feedback",
            why=f"{len(feedback)} numbers for {width} hidden units",
        )  # fmt: skip
    out: dict[str, Any] = {
        "batch": value_at(rule.batch_size), "feedback": feedback, "input_noise": rule.input_noise,
        "weight_noise": rule.weight_noise, "episodes": rule.episodes,
    }  # fmt: skip
    if isinstance(problem.data, HiddenManifold):
        out |= {"input_noise": unit_moments(problem.data.activation)[2] ** 0.5, "hidden": True}
    if rule.episodes is not None:
        out["batch"] = rule.episodes.length
    drift: Any = getattr(problem.target, "drift", None)
    if drift is None:
        return out
    target: Any = problem.target
    M = target.units if isinstance(target, Committee) else target.directions
    if drift.mixing and len(drift.mixing) != M:
        raise ConfigError(
            "drift does not fit the teachers", where="target.drift.mixing",
            why=f"{len(drift.mixing)} rows for {M} teachers",
        )  # fmt: skip
    noise = drift.rate if drift.noise is None else drift.noise
    own = np.diagonal(gram[:, moving : moving + M, moving : moving + M], axis1=1, axis2=2)
    mixing = np.array(drift.mixing) if drift.mixing else np.zeros((M, M))
    return out | {"fixed_drift": mixing - 0.5 * drift.rate * np.eye(M), "fixed_noise": noise * own}


def _moving(drift: Array, gain: Array, **more: Any) -> dict[str, Any]:
    still = {"scheduled_drift": np.zeros_like(drift), "fixed_gain": np.zeros_like(gain), "coefficients": None}
    still |= {"sampled_drift": None, "kick": np.zeros_like(gain), "fixed_kick": np.zeros_like(gain)}
    return {"drift": drift, "gain": gain, "beta": None, **still, **more}


def _not_together(key: str, other: str) -> ConfigError:
    return ConfigError(f"{key} is not read together with {other}", where=key, hint=f"drop one; {other} says it all")


def _written(rule: Any) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]:
    for key, set_ in (
        ("momentum", rule.momentum is not None), ("weight_decay", rule.weight_decay != 0), ("uses", rule.uses > 1),
        ("displacement", rule.displacement != 0), ("average", rule.average != 0),
        ("feedback", rule.feedback is not None), ("weight_noise", rule.weight_noise != 0),
        ("episodes", rule.episodes is not None),
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
        kick, fixed_kick = np.zeros(size), np.zeros(size)
        sampled = tuple(tuple(row.sampled_drift.get(other) for other in rows) for row in rows.values())
        standard = not any(formula is not None for row in sampled for formula in row)
        for p, (name, row) in enumerate(rows.items()):
            for q, other in enumerate(rows):
                if other in row.drift:
                    drift[p, q], scheduled[p, q] = affine(row.drift[other], f"update.{name}", rule.learning_rate)
            if row.noise is not None:
                fixed_kick[p], kick[p] = affine(row.noise, f"update.{name}", rule.learning_rate)
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
    moves |= {"kick": kick, "fixed_kick": fixed_kick}
    if general is not None and any(formula is not None for row in sampled for formula in row):
        moves["sampled_drift"] = sampled
    return tuple(rows), tuple(name for name in rows if name != "w"), moves
