"""Infinitely wide L-hidden-layer networks under muP: exact training dynamics in discrete time.

Modules: `spec` (run file), `data`, `training` (numbers of a run), `equations` (sympy), `march` with `responses`,
`gaussian` and `sampling` (the general solver), `deep_linear`, `quadrature`, `lazy`, `lazy_limit` and `kernels`
(special cases and independent rungs), `summary` (variables and diagnostics), `assumptions` (what the convergence
theorem needs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base import Theory
from .spec import MupProblem

if TYPE_CHECKING:
    from .system import MupTraining


class MupTheory(Theory):
    name = "mup"
    title = "Infinite-width deep networks under muP"
    summary = (
        "Training of an L-hidden-layer network in the feature-learning infinite-width limit, exact for "
        "discrete-time (S)GD "
        "at any step size."
    )
    problem_type = MupProblem
    references = ("chen2025global", "yang2021tensor", "bordelon2022selfconsistent")
    assumptions = (
        "Width n -> infinity at fixed depth, number of samples and number of steps; muP scaling of initial "
        "weights and rates.",
        "Activation with two derivatives (for more than one hidden layer); loss differentiable in the output.",
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
        "Cost grows like (samples x steps)^3: for many samples use method = 'lazy-weights'.",
    )

    def derive(self, problem: MupProblem) -> MupTraining:
        """Return the equations of a problem.

        Raises
        ------
        DerivationError
            For a parametrisation other than muP, or a kinked activation in a deep network.
        """
        from .system import MupTraining

        return MupTraining(problem, references=self.references_for(problem), assumptions=self.assumptions)

    def describe(self, problem: MupProblem) -> dict[str, Any]:
        """Return what the assumption checker says about the problem's inputs and activation."""
        from .assumptions import check

        return check(problem)

    def references_for(self, problem: MupProblem) -> tuple[str, ...]:
        extra = ("cho2009kernel",) if problem.solver.approximation == "lazy" else ()
        return self.references + extra


THEORY = MupTheory()
