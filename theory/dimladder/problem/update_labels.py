"""Who emits the samples of one-pass training, what their labels are, and how many outputs the student has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .activations import activation
from .data import Mixture
from .emitters import Stages, stages_of
from .expressions import Expression
from .losses import LossFunction
from .spec import Problem
from .students import Linear
from .targets import ClusterLabels, Committee, Index, VectorIndex
from .timed import value_at
from .vector_losses import VectorLoss, vector_loss

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sources:
    """The sources, masks apart; see `update_table.Table` for the shapes."""

    stages: Stages
    labels: Array
    noise: Array
    rows: Array
    teacher: Expression | None = None
    index: tuple[Expression, ...] = ()
    argmax: bool = False


def outputs_of(problem: Problem) -> int:
    """Return the number of outputs: that of the target's entries, or of the classes.

    Raises
    ------
    ConfigError
        For labels that do not fit the clusters.
    """
    target: Any = problem.target
    if isinstance(target, Committee):
        return target.outputs
    if isinstance(target, VectorIndex):
        return len(target.formulas)
    if isinstance(target, ClusterLabels):
        if target.rows:
            return len(target.rows[0])
        if problem.loss.form.classes:
            return max(_classes(problem)) + 1
    return 1


def units_of(problem: Problem) -> int:
    """Return the number of hidden units; of a linear student one an output."""
    student: Any = problem.student
    return outputs_of(problem) if isinstance(student, Linear) else int(student.width)


def loss_of(problem: Problem) -> LossFunction | VectorLoss:
    """Return the loss of the student's output, or of its outputs.

    Raises
    ------
    ConfigError
        For losses and labels that do not fit together.
    """
    loss: Any = problem.loss
    outputs = outputs_of(problem)
    target: Any = problem.target
    if outputs == 1:
        if loss.form.vector:
            kind = type(target).__struct_config__.tag
            raise ConfigError(
                "the loss does not fit the target", where="loss.function",
                why=f"{loss.function!r} takes several outputs, the target ({kind}) has one",
                hint="outputs are those of the target: rows, formulas, classes",
            )  # fmt: skip
        if loss.smoothing:
            why = "there are no classes: the label is one number"
            raise ConfigError("labels are not smoothed here", where="loss.smoothing", why=why)
        form: LossFunction = loss.form
        return form
    classes = getattr(target, "argmax", False) or (isinstance(target, ClusterLabels) and not target.rows)
    if loss.form.classes and not classes:
        raise ConfigError(
            f"the loss {loss.function!r} takes classes", where="loss.function", why="the labels are vectors of numbers",
            hint='use "square", or labels that are classes: argmax = true, or those of clusters',
        )  # fmt: skip
    if loss.smoothing and not classes:
        raise ConfigError("labels are not smoothed here", where="loss.smoothing", why="they are no classes")
    try:
        return vector_loss(loss.function, outputs, loss.smoothing)
    except ValueError as error:
        raise ConfigError("loss and outputs do not fit", where="loss.function", why=str(error)) from None


def sources_of(problem: Problem) -> Sources:
    """Return who emits the samples and what their labels are."""
    data: Any = problem.data
    target: Any = problem.target
    outputs = outputs_of(problem)
    clusters = len(data.weights) if isinstance(data, Mixture) else None
    if isinstance(target, ClusterLabels):
        labels = _labels_of_clusters(problem, outputs)
        assert clusters is not None
        return Sources(stages_of(problem, clusters), labels, np.zeros(clusters), np.zeros((clusters, 0)))
    teacher: Expression | None = None
    index: tuple[Expression, ...] = ()
    if isinstance(target, Committee):
        rows, teacher = np.array(target.readouts), activation(target.activation)
        rows = rows.reshape(-1, outputs * target.units)
    elif isinstance(target, Index):
        rows, index = np.ones((1, target.directions)), (target.expression,)
    elif isinstance(target, VectorIndex):
        rows, index = np.ones((1, outputs * target.directions)), target.expressions
    else:
        kind = type(target).__name__
        raise ConfigError("one-pass training has no such target", where="target.kind", why=f"{kind} is not read")
    tasks = len(data.tasks[0].weights) if data.tasks else None
    count = clusters or tasks or 1
    if len(rows) not in (1, count):
        hint = "give data.tasks one weight a row" if clusters is None else "give one row, or one a cluster"
        raise ConfigError(
            "readout rows and sources do not fit together", where="target.readout",
            why=f"{len(rows)} rows for {count} sources of samples", hint=hint if outputs == 1 else f"{hint}, an output",
        )  # fmt: skip
    rows = np.repeat(rows, count, axis=0) if len(rows) == 1 else rows
    return Sources(
        stages_of(problem, count), np.zeros((count, outputs)), np.full(count, value_at(target.noise)), rows, teacher,
        index, getattr(target, "argmax", False),
    )  # fmt: skip


def _labels_of_clusters(problem: Problem, outputs: int) -> Array:
    """Return y0_c, (clusters, outputs): numbers, rows, or the unit vectors of classes."""
    data: Any = problem.data
    target: Any = problem.target
    if not isinstance(data, Mixture):
        raise _no_clusters()
    clusters = len(data.weights)
    try:
        if target.rows:
            return np.array(target.vectors(clusters))
        if outputs == 1:
            return np.array(target.values(clusters))[:, None]
    except ValueError as error:
        what = "labels and clusters do not fit together"
        raise ConfigError(what, where="target.labels", why=str(error)) from None
    return np.eye(outputs)[list(_classes(problem))]


def _classes(problem: Problem) -> tuple[int, ...]:
    data: Any = problem.data
    target: Any = problem.target
    if not isinstance(data, Mixture):
        raise _no_clusters()
    try:
        found: tuple[int, ...] = target.classes(len(data.weights))
    except ValueError as error:
        what = f"the loss {problem.loss.function!r} needs classes"
        raise ConfigError(what, where="target.labels", why=str(error)) from None
    if max(found) == 0:
        why = "one cluster is one class"
        raise ConfigError(f"the loss {problem.loss.function!r} needs classes", where="data.weights", why=why)
    return found


def _no_clusters() -> ConfigError:
    return ConfigError(
        "labels by cluster need clusters", where="target.kind", why='data.kind is not "mixture"',
        hint='use data.kind = "mixture"',
    )  # fmt: skip
