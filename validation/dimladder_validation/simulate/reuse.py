"""SGD of one unit that takes several steps on each sample, on explicit weights, all replicas at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dimladder.errors import SimulationError

from .base import Backend, Sample
from .rows import Rows
from .sgd import derivative, loss_slope, recorded_steps

if TYPE_CHECKING:
    import numpy as np


def reused_sgd(problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
    """Run SGD in `size` dimensions; w* is sqrt d times the first axis, which isotropic inputs allow.

    The start has exactly the overlaps of the problem. A student given by its slope has no output: the loss is the
    correlation.
    """
    import numpy as np

    from dimladder.problem import Expression, axis_values
    from dimladder.problem.geometry import start

    from .two_layer import link_of

    xp, d = backend.xp, size
    if d < 2:
        raise SimulationError(
            f"d = {d} is too small", why="student and teacher span 2 directions", hint="simulate at d >= 2"
        )
    target, student, rule, begin = problem.target, problem.student, problem.algorithm, start(problem)
    times = np.array(axis_values(problem.grid.time))
    record, low, high, weight = recorded_steps(times, d)
    m, q, a = float(begin.M[0, 0]), float(begin.Q[0, 0]), float(begin.a[0])
    g = None if student.slope else student.expression
    dg = student.slope_expression if g is None else derivative(g)
    link, noise = link_of(problem, 1), target.noise
    schedule = Expression(rule.schedule, ("t",))
    children = [stream.spawn(4) for stream in streams]
    w = backend.to_numpy(backend.normal([c[0] for c in children], (d,))).astype(np.float64)
    w[:, 0] = 0.0
    w *= math.sqrt(max(q - m * m, 0.0)) / np.linalg.norm(w, axis=1, keepdims=True)
    w[:, 0] = m
    w = backend.asarray(w)  # in units of sqrt d
    block = max(1, 125_000 // d)  # whatever the number of replicas: on a device it changes the draws

    def one(state: tuple[Any, ...], row: tuple[Any, ...], rate: Any) -> tuple[Any, ...]:
        w, sample = state[0], row[0]
        y = link.evaluate(xp, sample[:, :1])
        if noise > 0:
            y = y + noise * row[1]
        before = xp.sum(w * w, axis=-1, keepdims=True)
        for use in range(rule.uses):
            field = xp.sum(w * sample, axis=-1)
            error = -y if g is None else loss_slope(problem.loss.form.name, xp, a * g.evaluate(xp, x=field), y)
            decayed = w * (1.0 - rule.weight_decay / d) if use == 0 else w
            w = decayed - ((rate / d) * a * dg.evaluate(xp, x=field) * error)[:, None] * sample
        return (w * xp.sqrt(before / xp.sum(w * w, axis=-1, keepdims=True)) if rule.spherical else w,)

    chain = Rows(backend, one, (w,))
    overlaps, norms, place = [], [], 0
    for step in range(int(record[-1]) + 1):
        if step == record[place]:
            (w,) = chain.state
            overlaps.append(backend.to_numpy(w[:, 0]).astype(np.float64).copy())
            norms.append(backend.to_numpy(xp.sum(w * w, axis=-1)).astype(np.float64).copy())
            place += 1
            if place == len(record):
                break
        if step % block == 0:
            draws = [backend.normal([c[1] for c in children], (block, d))]
            if noise > 0:
                draws.append(backend.normal([c[2] for c in children], (block,)))
            later = [min(step + row, record[-1]) / d for row in range(block)]
            chain.load(draws, [rule.learning_rate * float(schedule.evaluate(np, t=t)) for t in later])
        chain.advance()
    found = {}
    for name, values in (("M", overlaps), ("Q", norms)):
        stacked = np.stack(values, axis=1)
        at_times = stacked[:, low] + weight * (stacked[:, high] - stacked[:, low])
        axis = "teacher" if name == "M" else "student"
        found[name] = (("time", "student", axis), at_times[:, :, None, None])
    return Sample({"time": times}, found)
