"""Two-layer networks after one giant gradient step on fresh Gaussian-mixture data.

Source: Demir & Dogan 2025 (setting, conditional Gaussian equivalence, Hermite model); the error curves are
deterministic equivalents given the stepped first layer, averaged over draws of it (this library; see
docs/theory/mixtures.md).

Modules: `system` (equations and their evaluation), `features` (moments of features and labels), `equivalents` (ridge
readouts), `conditional` (readouts given the distinguished projections), `degrees` (of the polynomial model), `limits`
(n to infinity). Clusters are in `problem.clusters`, the network and its step in `problem.one_step`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from ...problem import Problem, away_from_default
from ...problem.data import Images
from ...problem.grids import Simulation
from ...problem.targets import ClusterLabels
from ..base import Reads, Refusal, Theory

if TYPE_CHECKING:
    from .system import GiantStepSystem


class GiantStepTheory(Theory):
    """Readouts after one gradient step, by deterministic equivalents of the drawn network."""

    name = "giant-step"
    title = "Two-layer network after one giant gradient step on a Gaussian mixture"
    summary = "Errors of readouts with a convex loss after one gradient step, and of the equivalent polynomial model."
    reads: ClassVar[Reads] = {
        "data": {
            "mixture": "weights means variances spikes shared_spikes alignment spectrum",
            "images": "path classes weights keep_means",
        },
        "target": {"index": "formula noise direction hermite", "cluster-labels": "labels"},
        "student": {"features": "layers"},
        "loss": "function ridge ridge_per_sample",
        "algorithm": {"one-step": "*"},
        "limit": "n draws seed",
    }
    coordinates: ClassVar = {"sample_ratio": ("samples over dimension $m/n$", "")}
    axes = ("sample_ratio",)
    simulation = Simulation(sizes=(200, 400), replicas=8)
    references = ("demir2025asymptotic", "ba2022high", "moniri2024theory", "cui2024asymptotics", "dandi2025random")
    assumptions = (
        "n, k, m grow with fixed ratios; a fresh batch for the step and fresh data for the readout",
        "conditional Gaussian equivalence: features are Gaussian given the cluster and the distinguished projections",
        "total < 1 for the polynomial model; one-bulk and clusters equivalents need shifts that vanish (total < 1)",
    )
    limits = (
        "rate_factor = 0 and no spikes: random features with ridge",
        "polynomial degree to infinity: the network itself",
        "equal bulks: the equivalent by clusters becomes that of one bulk",
        "a number as ridge_per_sample means a penalty per weight that falls with the width: the step wants one ~ k",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse what is not one layer, one step and one fitted readout; and data without what the target names."""
        from ...problem.one_step import dimension, readout_ridge, samples

        data, algorithm, loss, layers = problem.data, problem.algorithm, problem.loss, problem.student.layers
        name = loss.form.name
        if len(layers) != 1 or layers[0].width_ratio is None:
            yield Refusal("student.layers", "one hidden layer is trained, of a width_ratio = k/n", "give one layer")
            return
        if loss.form.vector:
            yield Refusal("loss.function", f"the readout has one output, {name} takes one a class")
            return
        # The square loss is known to be convex: it costs no symbols.
        if name != "square" and (not loss.form.convex or (loss.form.curvature == 0 and not loss.form.kinks(1.0))):
            yield Refusal("loss.function", f"a convex loss that is not linear is needed, got {name!r}")
            return
        if loss.ridge is None and loss.ridge_per_sample is None:
            yield Refusal("loss.ridge", "a number is needed, or ridge_per_sample", 'ridge_per_sample = "1e-4*k"')
            return
        if not readout_ridge(problem, samples(problem, dimension(problem))[0], dimension(problem)) > 0:
            yield Refusal("loss.ridge", "the ridge must be positive", "take 1e-6 or so for the ridgeless limit")
        if problem.limit.n is not None and problem.limit.n < 10:
            yield Refusal("limit.n", f"equivalents need n of at least 10, got {problem.limit.n}")
        if algorithm.total > 1:
            yield Refusal("algorithm.total", f"the exponent of the step must lie in [0, 1], got {algorithm.total}")
        if algorithm.hermite_degree is not None and algorithm.hermite_degree > 12:
            yield Refusal("algorithm.hermite_degree", f"must lie between 0 and 12, got {algorithm.hermite_degree}")
        if algorithm.nodes < 2:
            yield Refusal("algorithm.nodes", f"must be at least 2, got {algorithm.nodes}")
        if name == "square" and algorithm.equivalent != "conditional" and "nodes" in away_from_default(algorithm):
            yield Refusal(
                "algorithm.nodes", "is for readouts conditional on projections, which this one is not",
                'algorithm.equivalent = "conditional"',
            )  # fmt: skip
        if name != "square" and algorithm.equivalent not in ("auto", "conditional"):
            yield Refusal(
                "algorithm.equivalent", f"the {name} readout is always solved conditional on projections", "drop it"
            )
        if isinstance(data, Images):
            yield from self._images(problem)
        else:
            yield from self._mixture(problem)
        yield from self._labels(problem)

    def _images(self, problem: Problem) -> Iterable[Refusal]:
        if not isinstance(problem.target, ClusterLabels):
            yield Refusal("target.kind", 'images are labelled by their class: "cluster-labels"')
        if problem.loss.form.name != "square" or problem.algorithm.equivalent == "conditional":
            path = "loss.function" if problem.loss.form.name != "square" else "algorithm.equivalent"
            yield Refusal(
                path, "images have no finite set of distinguished projections to condition on",
                "use the square loss, not a conditional equivalent",
            )  # fmt: skip

    def _mixture(self, problem: Problem) -> Iterable[Refusal]:
        data, target = problem.data, problem.target
        if isinstance(target, ClusterLabels) or target.direction != "aligned":
            return
        if not any(data.spikes) and data.means == "zero":
            yield Refusal("target.direction", '"aligned" needs spikes or means to be aligned with')
        if data.alignment == -1 and len(data.weights) == 2:
            yield Refusal("target.direction", 'with alignment = -1 the spike directions cancel: no "aligned" direction')

    def _labels(self, problem: Problem) -> Iterable[Refusal]:
        target, form = problem.target, problem.loss.form
        two_valued = form.name != "square" and form.two_valued
        if isinstance(target, ClusterLabels):
            try:
                values = target.values(len(problem.data.weights))
            except ValueError as error:
                yield Refusal("target.labels", str(error))
                return
            if two_valued and any(abs(y) != 1 for y in values):
                yield Refusal("target.labels", f"the {form.name} loss needs -1 and +1, got {list(values)}")
            return
        if target.is_logit or target.noises or target.fields != ("z",):
            yield Refusal("target.formula", "a formula in z alone is needed, without noise inside")
            return
        if two_valued and (target.noise or not _two_valued(target.expression)):
            yield Refusal(
                "target.formula",
                f"the {form.name} loss needs labels -1 and +1 without noise, got {target.formula!r}",
                'use target.kind = "cluster-labels", or a formula such as "sign(z)" without noise',
            )
        elif form.name != "square" and target.noise:
            yield Refusal(
                "target.noise", f"noise of labels is averaged for the square loss only, not for {form.name!r}"
            )

    def derive(self, problem: Problem) -> GiantStepSystem:
        """Return the equivalents of a problem's readouts."""
        from .system import GiantStepSystem

        system = GiantStepSystem(problem)
        system.references, system.assumptions = self.references_for(problem), self.assumptions
        return system


def _two_valued(expression: object) -> bool:
    """Whether a formula in z is -1 or +1 almost everywhere, on a grid that no kink of a written formula meets."""
    import numpy as np

    z = np.linspace(-8.0, 8.0, 4001) + 1.234567e-4
    with np.errstate(all="ignore"):
        values = np.broadcast_to(np.asarray(expression.evaluate(np, z=z)), z.shape)  # type: ignore[attr-defined]
    return bool(np.all(np.abs(values) == 1.0))


THEORY = GiantStepTheory()
