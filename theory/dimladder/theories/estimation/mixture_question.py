"""A convex loss on a Gaussian mixture as what its equations need, and what they do not answer.

Within cluster c the target field is nu = w*.x ~ N(mean, variance). The law of the label is a `LabelLaw` in the
standardised field z = (nu - mean)/sd, so that what holds for one Gaussian cloud of inputs holds in every cluster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...errors import DerivationError
from ...problem.mixtures import MixtureGeometry, cluster_targets, mixture_geometry
from ...problem.targets import ClusterLabels, Index
from ..base import Refusal
from .channel import Loss
from .labels import LabelLaw, constant_law
from .question import label_law_of, loss_of

if TYPE_CHECKING:
    from ...problem import Problem

# Every block of the spectrum is written out in the printed equations and the compiled map.
BLOCKS = 40
OBSERVABLES = ("mse", "test_mse", "classification_error", "test_loss")
# Keys of an index target, with their defaults, that say what a mixture says otherwise or does not have.
_UNREAD = {"overlap": (), "prior": "normal", "power": None}


class MixtureQuestion:
    """Geometry, loss and label laws of one problem.

    Attributes
    ----------
    geometry : MixtureGeometry
    loss : Loss
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.geometry: MixtureGeometry = mixture_geometry(problem)
        self.loss: Loss = loss_of(problem)

    @cached_property
    def laws(self) -> tuple[LabelLaw, ...]:
        """The law of the label in each cluster, in the standardised target field.

        Raises
        ------
        DerivationError
            As of `labels.label_law`.
        """
        return tuple(self._law(c, target) for c, target in enumerate(cluster_targets(self.problem)))

    def _law(self, cluster: int, target: float | Index) -> LabelLaw:
        if not isinstance(target, Index):
            return constant_law(target)
        if not target.fields:
            return label_law_of(target)
        mean, variance = self.geometry.teacher_field(cluster)
        return label_law_of(target, mean, math.sqrt(variance))

    @property
    def two_valued(self) -> bool:
        """Whether every label is -1 or +1."""
        return all(law.two_valued for law in self.laws)

    def ridge_at(self, alpha: float) -> float | None:
        """Ridge of the summed objective at one sample ratio; None: the best one."""
        loss = self.problem.loss
        if loss.ridge_per_sample is not None:
            # mean_i l + (r/2)|w|^2/d, times n.
            return float(loss.ridge_per_sample) * alpha
        return None if loss.ridge == "optimal" else float(loss.ridge)


def mixture_refusals(problem: Problem) -> Iterable[Refusal]:
    """Yield why the equations of a mixture do not answer a problem."""
    data, loss = problem.data, problem.loss
    if problem.algorithm.__struct_config__.tag != "minimise":
        yield Refusal("algorithm.kind", "a mixture is fitted: reads minimise", 'use kind = "minimise"')
        return
    if problem.student.__struct_config__.tag != "linear":
        yield Refusal("student.kind", "a mixture is read by a linear student", 'use kind = "linear"')
        return
    if problem.grid.start is not None:
        yield Refusal("grid.start", "a convex problem has one branch", "drop it")
        return
    if loss.penalty != "l2":
        yield Refusal("loss.penalty", f"{loss.penalty!r}: a mixture is solved with the l2 penalty", 'use "l2"')
        return
    strength = loss.ridge if loss.ridge is not None else loss.ridge_per_sample
    if strength is None or (isinstance(strength, float) and strength <= 0) or isinstance(loss.ridge_per_sample, str):
        yield Refusal("loss.ridge", f"a positive number, got {strength!r}", "the minimiser must be unique")
        return
    if loss.optimise and loss.optimise not in OBSERVABLES:
        yield Refusal("loss.optimise", f"{loss.optimise!r} is not minimised", f"one of {', '.join(OBSERVABLES)}")
        return
    if min(data.shares) <= 0 or len(data.shares) > BLOCKS:
        yield Refusal("data.spectrum", f"up to {BLOCKS} blocks of positive shares, got {len(data.shares)}")
    if data.spikes and len(data.shares) > 1:
        yield Refusal("data.spikes", "spikes need a bulk of one block", "drop spectrum or spikes")
    if isinstance(problem.target, Index):
        for key, default in _UNREAD.items():
            if getattr(problem.target, key) != default:
                yield Refusal(f"target.{key}", "is not read beside a mixture", "use target.direction")
    if loss.form.several:
        yield Refusal("loss.function", f"{loss.function!r} names several outputs", "use cross-entropy or one-hot")
        return
    yield from _of_classes(problem) if loss.form.vector else _of_labels(problem)


def _of_classes(problem: Problem) -> Iterable[Refusal]:
    data, name = problem.data, problem.loss.function
    if problem.loss.ridge == "optimal":
        yield Refusal("loss.ridge", f"is not optimised for the {name} loss", "give a number")
    if len(data.weights) < 2:
        yield Refusal("data.weights", f"the {name} loss needs at least two clusters")
        return
    if isinstance(problem.target, Index):
        yield Refusal("target", f"the {name} loss labels each cluster by its class: drop the target")
        return
    try:
        labels = class_labels(problem)
    except ValueError as error:
        yield Refusal("target.labels", str(error))
        return
    if any(sum(w for w, y in zip(data.weights, labels, strict=True) if y == k) <= 0 for k in set(labels)):
        yield Refusal("data.weights", f"the {name} loss needs clusters of positive weight in every class")


def class_labels(problem: Problem) -> tuple[int, ...]:
    """Return the class of each cluster, 0, 1, 2, ...: the number of the cluster unless the target says otherwise.

    Raises
    ------
    ValueError
        When the labels are not the numbers 0 ... K - 1, each at least once, K at least 2.
    """
    clusters = len(problem.data.weights)
    if problem.target is None or not problem.target.labels:
        return tuple(range(clusters))
    values = problem.target.values(clusters)
    classes = sorted(set(values))
    if classes != [float(k) for k in range(len(classes))] or len(classes) < 2:
        raise ValueError(f"the classes of the {problem.loss.function} loss are 0, 1, 2, ..., got {list(values)}")
    return tuple(int(y) for y in values)


def _of_labels(problem: Problem) -> Iterable[Refusal]:
    data, target, loss = problem.data, problem.target, problem.loss
    if not loss.form.convex:
        yield Refusal("loss.function", f"{loss.function!r} is not convex: replica symmetry is not exact",
                      "use a convex loss")  # fmt: skip
        return
    try:
        laws = cluster_targets(problem)
    except ValueError as error:
        yield Refusal("target.labels", str(error))
        return
    key = "target.labels" if isinstance(target, ClusterLabels) else "target.formula"
    for law in laws:
        if isinstance(law, Index) and (law.directions > 1 or (not law.fields and isinstance(target, Index))):
            yield Refusal(key, f"a function of one field z, got {law.formula!r}", "use the latent field z")
            return
    width = len(data.coordinates()[0])
    direction = getattr(target, "direction", "random")
    if isinstance(direction, tuple) and len(direction) > max(width, 1):
        yield Refusal("target.direction", f"{len(direction)} coordinates, the frame has {width}")
        return
    if direction == "aligned" and not any(any(row) for row in (data.spikes or data.coordinates())):
        yield Refusal("target.direction", "'aligned' needs means or spikes to be aligned with")
        return
    try:
        yield from _of_laws(MixtureQuestion(problem), key)
    except DerivationError as error:
        yield Refusal(key, f"{error.what}: {error.why or ''}".rstrip(": "), error.hint or "")


def _of_laws(question: MixtureQuestion, key: str) -> Iterable[Refusal]:
    problem, laws = question.problem, question.laws
    form, weights = problem.loss.form, problem.data.weights
    if form.two_valued and not question.two_valued:
        got = sorted({f"{law.text}" for law in laws})
        yield Refusal(key, f"the {form.name} loss needs labels -1 and +1, got {', '.join(got)}",
                      'such as formula = "sign(z)"')  # fmt: skip
        return
    for law in laws:
        question.loss.check_convex(tuple(law.range(1.0).tolist()))
    seen = {y for law, w in zip(laws, weights, strict=True) if w > 0 for y in (law.values if law.discrete else (0, 1))}
    if problem.student.bias and len(seen) < 2:
        yield Refusal(
            "data.weights",
            "all clusters of positive weight have the same label: the bias alone fits it, unpenalised",
            "give the other label some weight, or set student.bias = false",
        )


__all__: list[Any] = ["MixtureQuestion", "class_labels", "mixture_refusals"]
