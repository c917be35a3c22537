"""Which of the flows a problem takes: displaced fields, the general one, or the narrower plain one."""

from __future__ import annotations

from typing import Any

from ...problem.data import HiddenManifold, Mixture
from ...problem.students import Linear
from ...problem.targets import ClusterLabels, Committee, Index, VectorIndex


def is_displaced(problem: Any) -> bool:
    """Whether the gradient sees fields that a step on the same sample has moved, or only the slope is given."""
    rule = problem.algorithm
    return bool(rule.uses > 1 or rule.displacement != 0 or getattr(problem.student, "slope", ""))


def is_single(problem: Any) -> bool:
    """Whether one unit with a fixed readout meets one direction, a sample a step: displaced fields are split there."""
    target, student, rule = problem.target, problem.student, problem.algorithm
    count = target.units if isinstance(target, Committee) else getattr(target, "directions", 0)
    one = getattr(student, "width", 1) == count == rule.batch_size == 1
    return bool(one and not getattr(student, "train_readout", False))


# The problem that was asked about last, and the answer: checks ask, and then the derivation.
_last: tuple[Any, str] = (None, "")


def structure(problem: Any) -> str:
    """Return the first key that needs blocks, sources, several vectors or kinks; "" for the narrower flows."""
    global _last
    known, key = _last
    if known is not problem:
        key = _structure(problem)
        _last = problem, key
    return key


def _structure(problem: Any) -> str:
    data, target, student, rule = problem.data, problem.target, problem.student, problem.algorithm
    asked = {
        "data.kind": isinstance(data, Mixture | HiddenManifold),
        "data.spectrum": data.spectrum is not None,
        "data.tasks": bool(data.tasks),
        "target.kind": isinstance(target, ClusterLabels | VectorIndex),
        "target.outputs": getattr(target, "outputs", 1) > 1,
        "target.readout": isinstance(target, Committee) and len(target.readouts) > 1,
        "target.power": getattr(target, "power", None) is not None,
        "target.overlap": isinstance(target, Index) and bool(target.overlap),
        "student.kind": isinstance(student, Linear),
        "student.heads": getattr(student, "heads", 1) > 1,
        "student.bias": student.bias,
        "student.dropout": getattr(student, "dropout", 1.0) != 1.0,
        # Losses with kinks: its quadrature is split there.
        "loss.function": problem.loss.form.vector or bool(problem.loss.form.kinks(1.0)),
        "loss.smoothing": problem.loss.smoothing != 0,
        "algorithm.momentum": rule.momentum is not None,
        "algorithm.update": bool(rule.update),
        "algorithm.average": rule.average != 0,
        "algorithm.feedback": rule.feedback is not None,
        "algorithm.input_noise": rule.input_noise != 0,
        "algorithm.weight_noise": rule.weight_noise != 0,
        "algorithm.episodes": rule.episodes is not None,
        "target.drift": getattr(target, "drift", None) is not None,
        "target.noise": isinstance(getattr(target, "noise", 0.0), str),
        "algorithm.batch_size": isinstance(rule.batch_size, str),
        "algorithm.uses": rule.uses > 1 and not is_single(problem),
        "algorithm.displacement": rule.displacement != 0 and not is_single(problem),
        "initial.block_Q": getattr(problem.initial, "block_Q", None) is not None,
    }
    return next((key for key, needed in asked.items() if needed), "")
