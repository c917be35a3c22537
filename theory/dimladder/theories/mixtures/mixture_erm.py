"""Convex empirical risk minimisation on Gaussian mixtures: square, logistic and hinge losses by state evolution.

Source: Mignacco et al. 2020 (two clusters), Loureiro et al. 2021a (K clusters), Loureiro et al. 2021b (teacher).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from ...problem import Problem
from ...problem.grids import FixedPointSolver
from ...problem.targets import ClusterLabels, Index
from ..base import Reads, Refusal, Theory

if TYPE_CHECKING:
    from .mixture_erm_system import MixtureSystem
    from .multiclass import MulticlassSystem


MULTICLASS = ("cross-entropy", "one-hot")
BINARY = ("square", "logistic", "hinge")


class MixtureERMTheory(Theory):
    name = "mixture-erm"
    title = "Convex losses on Gaussian mixtures"
    summary = (
        "State evolution of square, logistic and hinge losses with ridge on Gaussian mixtures, also with a teacher."
    )
    reads: ClassVar[Reads] = {
        "data": {"mixture": "weights means mean_overlap variances spikes spectrum"},
        "target": {"cluster-labels": "labels", "index": "formula noise direction hermite", None: ""},
        "student": {"linear": "bias"},
        "loss": "function ridge",
        "algorithm": {"minimise": ""},
    }
    axes = ("sample_ratio",)
    solver = FixedPointSolver()
    references = ("mignacco2020role", "loureiro2021mixtures", "loureiro2021curves")
    assumptions = (
        "d and the samples go to infinity with a fixed ratio; the number of clusters, means and spikes is finite",
        "cluster covariances are diagonal in one basis: shares of the dimensions, and finitely many frame directions",
        "the penalty is positive, so that the minimiser exists and is unique",
    )
    limits = (
        "sample_ratio to 0: V = tr(Sigma)/(d ridge), q = 0",
        "square loss, one cluster: ridge regression's deterministic equivalent",
        "ridge to 0: diverges below the separability threshold for the logistic loss",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse what has no unique minimiser, and labels that a loss does not take."""
        data, loss = problem.data, problem.loss
        if loss.function not in (*BINARY, *MULTICLASS):
            yield Refusal("loss.function", f"one of {', '.join((*BINARY, *MULTICLASS))}, got {loss.function!r}")
        if not isinstance(loss.ridge, float) or loss.ridge <= 0:
            yield Refusal("loss.ridge", f"a positive number, got {loss.ridge!r}", "the minimiser must be unique")
        if min(data.shares) <= 0:
            yield Refusal("data.spectrum", "blocks of positive shares")
        if data.spikes and len(data.shares) > 1:
            yield Refusal("data.spikes", "spikes need a bulk of one block", "drop spectrum or spikes")
        if loss.function in MULTICLASS:
            yield from _of_classes(problem)
        elif isinstance(problem.target, Index):
            yield from _of_teacher(problem)
        else:
            yield from _of_labels(problem)

    def derive(self, problem: Problem) -> MixtureSystem | MulticlassSystem:
        system: MixtureSystem | MulticlassSystem
        if problem.loss.function in MULTICLASS:
            from .multiclass import MulticlassSystem

            system = MulticlassSystem(problem)
        else:
            from .mixture_erm_system import MixtureSystem

            system = MixtureSystem(problem)
        system.references, system.assumptions = self.references, self.assumptions
        return system


def _of_classes(problem: Problem) -> Iterable[Refusal]:
    data, name = problem.data, problem.loss.function
    if problem.target is not None and (isinstance(problem.target, Index) or problem.target.labels):
        yield Refusal("target", f"the {name} loss labels each cluster by its own class: drop the target")
    if len(data.weights) < 2:
        yield Refusal("data.weights", f"the {name} loss needs at least two clusters")
    if len(data.shares) > 1 or data.spikes:
        path = "data.spikes" if data.spikes else "data.spectrum"
        yield Refusal(path, f"the {name} loss is solved for scalar covariances: drop spectrum and spikes")


def _of_labels(problem: Problem) -> Iterable[Refusal]:
    weights = problem.data.weights
    try:
        labels = (problem.target or ClusterLabels()).values(len(weights))
    except ValueError as error:
        yield Refusal("target.labels", str(error))
        return
    if problem.loss.form.two_valued and any(abs(y) != 1 for y in labels):
        yield Refusal("target.labels", f"the {problem.loss.function} loss needs labels -1 and +1, got {list(labels)}")
    if problem.student.bias and len({y for y, w in zip(labels, weights, strict=True) if w > 0}) < 2:
        yield Refusal(
            "data.weights",
            "all clusters of positive weight have the same label: the bias alone fits it, unpenalised",
            "give the other label some weight, or set student.bias = false",
        )


def _of_teacher(problem: Problem) -> Iterable[Refusal]:
    from ...problem.mixtures import binary_link

    data, target, name = problem.data, problem.target, problem.loss.function
    if target.fields != ("z",) or target.noises or target.is_logit:
        yield Refusal("target.formula", f"a function of one field z, without noise inside, got {target.formula!r}")
        return
    width = len(data.coordinates()[0])
    if isinstance(target.direction, tuple) and len(target.direction) > max(width, 1):
        yield Refusal("target.direction", f"{len(target.direction)} coordinates, the frame has {width}")
    if target.direction == "aligned" and width == 0:
        yield Refusal("target.direction", "'aligned' needs means or spikes to be aligned with")
    if problem.loss.form.two_valued:
        if target.noise:
            yield Refusal("target.noise", f"additive label noise has no meaning with the {name} loss")
        if binary_link(target) is None:
            why = f"the {name} loss needs labels -1 and +1, got {target.formula!r}"
            yield Refusal("target.formula", why, 'such as formula = "sign(z)"')


THEORY = MixtureERMTheory()
