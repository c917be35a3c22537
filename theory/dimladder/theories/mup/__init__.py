"""Infinitely wide L-hidden-layer networks under muP: exact training dynamics in discrete time.

Modules: `settings` (of the prediction), `equations` (sympy), `march` (one sweep in time) with `revealed` (in revealed
directions) or `responses` and `adjoint` (in response functions), `sampling`; `deep_linear`, `quadrature`, `lazy_limit`
and `kernels` (special cases and independent rungs), `summary` (variables and diagnostics), `assumptions` (what the
convergence theorem needs). The data are in `problem.points`, the numbers of a run in `problem.training`: finite-width
networks read them too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from ...problem import Problem
from ...problem.algorithms import GradientFlow
from ...problem.grids import Simulation
from ..base import Reads, Refusal, Theory
from .settings import MupSolver

if TYPE_CHECKING:
    from .system import MupTraining

MOST_LAYERS = 200


class MupTheory(Theory):
    name = "mup"
    title = "Infinite-width deep networks under muP"
    summary = (
        "Training of an L-hidden-layer network in the feature-learning infinite-width limit, exact for "
        "discrete-time (S)GD "
        "at any step size."
    )
    reads: ClassVar[Reads] = {
        "data": {f"points/{source}": "*" for source in ("cosine", "gaussian", "explicit", "digits", "file")},
        "student": {"deep": "hidden_layers activation parametrization abc richness"},
        "loss": "function",
        "algorithm": {
            "gradient-descent": "learning_rate steps schedule batch_size batch_seed",
            "gradient-flow": "learning_rate steps substeps levels",
        },
    }
    solver = MupSolver()
    simulation = Simulation(sizes=(64, 128, 256, 512), replicas=32)
    coordinates: ClassVar = {"time": ("time $t$", "updates")}
    references = ("chen2025global", "yang2021tensor", "bordelon2022selfconsistent")
    assumptions = (
        "Width n -> infinity at fixed depth, number of samples and number of steps; muP scaling of initial "
        "weights and rates.",
        "Activation and loss with one derivative almost everywhere; the response form of a deep network needs two.",
        "Linear independence of features (Chen et al. 2025) also needs generic inputs (no pair orthogonal or "
        "antipodal) and a "
        "GOOD activation; `dimladder.theories.mup.assumptions` checks both.",
        "First pre-activations are linear in the inputs: they are never independent when samples outnumber dimensions.",
    )
    limits = (
        "gamma -> 0 is the lazy (neural tangent) limit; a linear activation has a closed form; one hidden "
        "layer has no responses.",
        "Finite width: fluctuations of order n^-1/2, bias of order 1/n with a constant that grows with depth and time.",
        "f(0) = 0 exactly: the readout is random but of order 1/n.",
        "Cost grows like (samples x steps)^2, of the response form like its cube.",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse a network of unknown depth, a loss of several outputs, and a flow without times."""
        algorithm = problem.algorithm
        if problem.student.hidden_layers is None:
            yield Refusal("student.hidden_layers", "the number of hidden layers is needed")
        elif problem.student.hidden_layers > MOST_LAYERS:
            yield Refusal(
                "student.hidden_layers",
                f"at most {MOST_LAYERS} layers are followed one by one, got {problem.student.hidden_layers}",
            )
        if problem.loss.form.vector:
            yield Refusal(
                "loss.function", f"the network has one output, {problem.loss.form.name} takes one a class",
                "the cross-entropy of one output and labels -1 and +1 is called logistic",
            )  # fmt: skip
        if isinstance(algorithm, GradientFlow):
            if (
                algorithm.steps is not None
                and algorithm.steps * algorithm.substeps * 2 ** (algorithm.levels - 1) > 10**6
            ):
                yield Refusal("algorithm.levels", "more than a million gradient steps at the finest level")
            for key in ("learning_rate", "steps"):
                if getattr(algorithm, key) is None:
                    yield Refusal(f"algorithm.{key}", "time between two outputs, and their number, are needed")

    def derive(self, problem: Problem) -> MupTraining:
        """Return the equations of a problem.

        Raises
        ------
        DerivationError
            For a parametrisation other than muP, or the responses of a deep network with a kinked activation.
        """
        from .system import MupTraining

        return MupTraining(problem, references=self.references_for(problem), assumptions=self.assumptions)

    def describe(self, problem: Problem) -> dict[str, Any]:
        """Return what the assumption checker says about the problem's inputs and activation."""
        from .assumptions import check

        return check(problem)

    def references_for(self, problem: Problem) -> tuple[str, ...]:
        extra = ("cho2009kernel",) if problem.solver.approximation == "lazy" else ()
        return self.references + extra


THEORY = MupTheory()
