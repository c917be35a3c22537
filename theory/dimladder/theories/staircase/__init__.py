"""Merged staircases: the dimension-free dynamics of wide two-layer networks on the hypercube.

Modules: `sections` (run file), `laws` (initial weights), `boolean` (what of a target can be learned, in what order),
`smoothing` (averages over irrelevant coordinates), `particles` (quadrature of the initial readout), `generate`
(equations and code), `flow` (the system).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base import Theory
from .sections import StaircaseProblem

if TYPE_CHECKING:
    from .flow import MeanFieldFlow


class StaircaseTheory(Theory):
    """Mean-field limit of batch SGD on a Boolean function of few coordinates."""

    name = "staircase"
    title = "Merged staircase: dimension-free mean-field dynamics on the hypercube"
    summary = (
        "Risk and Fourier coefficients of a wide two-layer network trained by SGD on a Boolean function of P of its d "
        "coordinates, in a limit that does not depend on d."
    )
    problem_type = StaircaseProblem
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

    def derive(self, problem: StaircaseProblem) -> MeanFieldFlow:
        """Return the flow of the particles.

        Raises
        ------
        DerivationError
            For an activation with jumps, or with kinks and no closed average.
        """
        from .flow import MeanFieldFlow

        return MeanFieldFlow(problem, references=self.references_for(problem), assumptions=self.assumptions)

    def describe(self, problem: StaircaseProblem) -> dict[str, Any]:
        """Return whether the target is a merged staircase, its leap, and what is learned in which order."""
        from .boolean import analyse

        return analyse(problem.target.formula).facts()

    def references_for(self, problem: StaircaseProblem) -> tuple[str, ...]:
        from .boolean import analyse

        return self.references if analyse(problem.target.formula).merged else (*self.references, "abbe2023leap")


THEORY = StaircaseTheory()
