"""Merged staircases: the dimension-free dynamics of wide two-layer networks on the hypercube.

Modules: `settings` (of particles and networks), `smoothing` (averages over irrelevant coordinates), `particles`
(quadrature of the initial readout), `generate` (equations and code), `flow` (the system). What of a target can be
learned, in what order, is in `problem.boolean`, the laws of initial weights in `problem.laws`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from ...problem import Problem
from ..base import Reads, Refusal, Theory
from .settings import NetworkSimulation, ParticleSolver

if TYPE_CHECKING:
    from .particle_flow import MeanFieldFlow

# The cube has 2^P points, and every particle meets each of them.
MOST_COORDINATES = 16


class StaircaseTheory(Theory):
    """Mean-field limit of batch SGD on a Boolean function of few coordinates."""

    name = "staircase"
    title = "Merged staircase: dimension-free mean-field dynamics on the hypercube"
    summary = (
        "Risk and Fourier coefficients of a wide two-layer network trained by SGD on a Boolean function of P of its d "
        "coordinates, in a limit that does not depend on d."
    )
    reads: ClassVar[Reads] = {
        "data": {"hypercube": ""},
        "target": {"index": "formula hermite"},
        "student": {"mean-field": "activation readout_law weight_law particles"},
        "loss": "function",
        "algorithm": {"batch-sgd": "*"},
        "grid": "monomials",
    }
    axes = ("time",)
    solver = ParticleSolver()
    simulation = NetworkSimulation(replicas=8)
    references = ("abbe2022merged",)
    assumptions = (
        "inputs uniform on the hypercube {-1, 1}^d, a target of P coordinates, P fixed as d grows",
        "width N, d and batch to infinity, step eta to 0, with d eta / batch -> 0; time = eta x steps, any fixed time",
        "first-layer weights independent with mean zero, independent of the readouts",
        "the activation is continuous; where it has kinks, averages over a Gaussian field are known in closed form",
    )
    limits = (
        "a target without the merged-staircase property is learned on its merged part only: `risk_floor` is what stays",
        "coordinates that the target treats alike stay equal for ever; at finite d noise separates them after a time "
        "of order log d or longer, which the limit does not contain",
        "second_layer_rate = 0: only features are learned; first_layer_rate = 0: a fixed kernel with as many features "
        "as there are readouts",
        "a readout law without bounded support (normal) is outside the published proof",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse what is not the squared loss of a function of at most sixteen coordinates, each -1 or 1."""
        from ...problem.boolean import analyse, monomials_of

        target = problem.target
        if problem.loss.function != "square":
            yield Refusal("loss.function", f"the squared loss, got {problem.loss.function!r}")
        if target.is_logit or target.noises or "z" in target.fields:
            yield Refusal("target.formula", "a formula in the coordinates z1, z2, ..., without noise, is needed")
            return
        if len(target.fields) > MOST_COORDINATES:
            yield Refusal(
                "target.formula",
                f"{len(target.fields)} coordinates are used, at most {MOST_COORDINATES} are possible: the average runs "
                "over every point of the cube",
            )
            return
        if problem.student.particles > problem.solver.max_particles:
            yield Refusal(
                "student.particles",
                f"more than solver.max_particles = {problem.solver.max_particles}",
                "raise that first",
            )
        try:
            analyse(target.expression)
        except ValueError as error:
            yield Refusal("target.formula", str(error))
            return
        try:
            monomials_of(problem)
        except ValueError as error:
            yield Refusal("grid.monomials", str(error))

    def derive(self, problem: Problem) -> MeanFieldFlow:
        """Return the flow of the particles.

        Raises
        ------
        DerivationError
            For an activation with jumps, or with kinks and no closed average.
        """
        from .particle_flow import MeanFieldFlow

        return MeanFieldFlow(problem, references=self.references_for(problem), assumptions=self.assumptions)

    def describe(self, problem: Problem) -> dict[str, Any]:
        """Return whether the target is a merged staircase, its leap, and what is learned in which order."""
        from ...problem.boolean import analyse

        return analyse(problem.target.expression).facts()

    def references_for(self, problem: Problem) -> tuple[str, ...]:
        from ...problem.boolean import analyse

        return self.references if analyse(problem.target.expression).merged else (*self.references, "abbe2023leap")


THEORY = StaircaseTheory()
