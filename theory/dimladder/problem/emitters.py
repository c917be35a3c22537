"""Who emits the next sample of a one-pass problem, in time: probabilities of sources and of the masks of dropout."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .data import Mixture
from .expressions import Expression
from .spec import Problem, axis_values
from .timed import REST, Moving, Timed, Weight, value_at

Array = NDArray[np.float64]
MOST_DROPPED = 8  # units with dropout: 2^units masks
# Stages of the probabilities: each until a time, the last one until infinity or the end of the grid.
Stages = tuple[tuple[float, tuple[Weight, ...]], ...]


def stages_of(problem: Problem, count: int) -> Stages:
    """Return (end, weights of the sources, masks apart), stage by stage; a weight is a number or a formula in ``t``."""
    data: Any = problem.data
    if not data.tasks:
        return ((np.inf, tuple(data.weights) if isinstance(data, Mixture) else (1.0,)),)
    if len(data.tasks[0].weights) != count:
        raise ConfigError(
            "tasks and sources do not fit together", where="data.tasks",
            why=f"{len(data.tasks[0].weights)} weights for {count} sources of samples",
        )  # fmt: skip
    return tuple((task.until, task.formulas()) for task in data.tasks)


def masks_of(problem: Problem, width: int) -> tuple[Array, list[list[Timed]]]:
    """Return the masks of dropout (masks, K), and factor by factor their probabilities; units are independent."""
    keep: Any = getattr(problem.student, "dropout", 1.0)
    own: Sequence[Timed] = keep if isinstance(keep, tuple) else (keep,) * width
    dropped = sum(p != 1.0 for p in own)
    if dropped > MOST_DROPPED:
        raise ConfigError(
            "too many masks", where="student.dropout", why=f"{dropped} units have 2^{dropped} masks",
            hint=f"dropout is read up to {MOST_DROPPED} units",
        )  # fmt: skip
    masks = list(product(*((1.0,) if p == 1.0 else (1.0, 0.0) for p in own)))
    # Factors in one order, so that equal probabilities are equal formulas.
    factors = [sorted((p if kept else _rest(p) for p, kept in zip(own, mask, strict=True)), key=str) for mask in masks]
    return np.array(masks), factors


def _last_time(problem: Problem) -> float:
    """Return the end of the grid; 0 where there is none yet."""
    time = getattr(problem.grid, "time", None)
    return 0.0 if time is None else float(axis_values(time)[-1])


def _rest(p: Timed) -> Timed:
    return f"1.0 - ({p})" if isinstance(p, str) else 1.0 - p


def chances(
    problem: Problem, stages: Stages, factors: list[list[Timed]]
) -> tuple[tuple[tuple[float, tuple[float, ...]], ...], list[Moving]]:
    """Return the probabilities of sources x masks at the beginning of every stage, and those that move.

    Raises
    ------
    ConfigError
        For weights that are no probabilities at some time of the grid.
    """
    last = _last_time(problem)
    numbers, moving, begin = [], [], 0.0
    for k, (end, weights) in enumerate(stages):
        row = []
        if begin <= last:
            _hold(problem, k, weights, begin, min(end, last))
        for c, (weight, mask) in enumerate(product(weights, factors)):
            row.append(float(np.prod([value_at(v, begin) for v in (weight, *mask)])))
            texts = [v for v in (weight, *mask) if isinstance(v, str)]
            if texts:
                number = float(np.prod([v for v in (weight, *mask) if not isinstance(v, str)]))
                scale = [] if number == 1.0 else [repr(number)]
                text = "*".join([*scale, *(f"({t})" for t in texts)])
                key = f"data.tasks.{k}.weights" if isinstance(weight, str) else "student.dropout"
                moving.append(Moving("chances", (k, c), Expression(text, ("t",)), key))
        numbers.append((end, tuple(row)))
        begin = end
    return tuple(numbers), moving


def moving_numbers(problem: Problem, emitter: NDArray[np.int64], shares: Array) -> list[Moving]:
    """Return variances, noise and batch that are formulas in the time; `emitter` is the source without its mask.

    Where variances move, |x|^2/d = sum_b gamma_b s_cb does.

    Raises
    ------
    ConfigError
        For a formula that leaves the range of its number at some time of the grid.
    """
    data: Any = problem.data
    noise: Any = getattr(problem.target, "noise", 0.0)
    batch: Any = getattr(problem.algorithm, "batch_size", 1)
    found = []
    if isinstance(data, Mixture):
        moving, numbers = data.moving_eigenvalues(), data.eigenvalues()
        for source in sorted({source for source, _ in moving}):
            parts = [
                f"{g!r}*({moving.get((source, b), v)})"
                for b, (g, v) in enumerate(zip(shares.tolist(), numbers[source], strict=True))
            ]
            length = Expression(" + ".join(parts), ("t",))
            found += [
                Moving("squared_length", (int(c),), length, "data.variances") for c in np.flatnonzero(emitter == source)
            ]
        for (source, b), text in moving.items():
            formula, places = Expression(text, ("t",)), np.flatnonzero(emitter == source)
            found += [Moving("variances", (int(c), b), formula, "data.variances") for c in places]
    if isinstance(noise, str):
        found += [Moving("noise", (c,), Expression(noise, ("t",)), "target.noise") for c in range(len(emitter))]
    if isinstance(batch, str):
        found.append(Moving("batch", (), Expression(batch, ("t",)), "algorithm.batch_size"))
    last = _last_time(problem)
    for entry in {(e.array, e.formula): e for e in found}.values():
        entry.held(1.0 if entry.array == "batch" else 0.0, end=last)
    return found


def _hold(problem: Problem, stage: int, weights: Sequence[Weight], begin: float, end: float) -> None:
    """Refuse probabilities that leave [0, 1], or do not sum to one, at some time of a stage."""
    keep: Any = getattr(problem.student, "dropout", 1.0)
    for p in keep if isinstance(keep, tuple) else (keep,):
        if isinstance(p, str):
            Moving("chances", (), Expression(p, ("t",)), "student.dropout").held(0.0, 1.0, begin=begin, end=end)
    texts = [w for w in weights if isinstance(w, str)]
    if not texts:
        return
    key = f"data.tasks.{stage}.weights"
    for text in texts:
        Moving("chances", (), Expression(text, ("t",)), key).held(0.0, 1.0, begin=begin, end=end)
    total = " + ".join(f"({w})" if isinstance(w, str) else repr(float(w)) for w in weights)
    whole = Moving("chances", (), Expression(total, ("t",)), key)
    times = np.linspace(begin, end, 129)[1:-1]
    found = whole.values(times)
    if abs(found - 1.0).max() > 1e-9:
        at = int(np.argmax(abs(found - 1.0)))
        raise ConfigError(
            "the weights of a task do not sum to one", where=key, why=f"{found[at]:.9g} at t = {times[at]:.6g}",
            hint=f"write one of them as {REST!r}",
        )  # fmt: skip
