"""What learning in stages asks of a run file, and along which axes it answers, for one branch and for several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from ...problem import Refusal
from ...symbolic.systems import ClosedForm
from ..base import Theory
from . import COORDINATES

if TYPE_CHECKING:
    from ...problem import Hierarchical, Problem
    from ...problem.stages import Layerwise

# What the stages read of a target of one branch, and of the grid.
TARGET = "exponents features link readout noise hermite"
GRID = "first_ratio second_ratio second_samples kappa"


class StageSystem(ClosedForm):
    """A system of three stages: first samples n1, then n2 on each subspace; or n = d^kappa for both."""

    target: Hierarchical
    algorithm: Layerwise

    @property
    def refined(self) -> bool:
        """Whether the subspaces are those of the actual d."""
        return bool(self.algorithm.first.order == "refined")

    @property
    def flattened(self) -> bool:
        """Whether stage 1 takes the flattened estimator."""
        return bool(self.algorithm.first.estimator == "flattened")

    @property
    def axes(self) -> tuple[str, ...]:
        """The axis of the samples of stage 1, then that of stage 2 where it is another."""
        grid = self.problem.grid
        if grid.kappa is not None:
            return ("kappa",)
        return "first_ratio", "second_ratio" if grid.second_ratio is not None else "second_samples"


class StageTheory(Theory):
    """A theory of such a system."""

    coordinates: ClassVar = COORDINATES
    references = ("dandi2025depth", "baik2005phase")

    def axes_asked(self, grid: Any) -> Iterable[Refusal]:
        """Yield why these axes of the grid cannot go together."""
        ratios = (grid.first_ratio is not None, (grid.second_ratio is None) != (grid.second_samples is None))
        if grid.kappa is not None:
            if grid.first_ratio or grid.second_ratio or grid.second_samples:
                yield Refusal("grid", "kappa sets the samples of both stages: no other axis beside it")
        elif not all(ratios):
            yield Refusal("grid", "needs first_ratio and one of second_ratio, second_samples; or kappa")

    def depending_on_dimension(self, problem: Problem) -> dict[str, bool]:
        """Return what of a problem needs the dimension, and whether it is asked for."""
        first, second, grid = problem.algorithm.first, problem.algorithm.second, problem.grid
        return {
            'order = "refined"': first.order == "refined",
            "grid.kappa": grid.kappa is not None,
            "grid.second_samples": grid.second_samples is not None,
            "kernel weights of a fixed ridge": second.weights == "kernel" and second.ridge != "optimal",
            'weights = "units"': second.weights == "units",
            'estimator = "flattened" of stage 1': first.estimator == "flattened",
        }

    def without_dimension(self, problem: Problem) -> Iterable[Refusal]:
        """Yield what needs the dimension where none is given."""
        for what, asked in self.depending_on_dimension(problem).items():
            if asked and problem.limit.d is None:
                yield Refusal("limit.d", f"{what} needs the dimension", "add [limit] with d = ...")

    def flattening(self, problem: Problem) -> Iterable[Refusal]:
        """Yield what flattened quadratics, of either stage, cannot do."""
        second, parts = problem.algorithm.second, {j for j, c in problem.target.features[0].items() if c}
        if "flattened" not in (problem.algorithm.first.estimator, second.estimator):
            return
        if 2 not in parts or 1 in parts:
            yield Refusal(
                "target.features", "flattened quadratics of x need a quadratic part of the polynomial, and no linear "
                f"one, which makes spikes of its own; got degrees {sorted(parts)}",
                'estimator = "covariance" in stage 1 and "ridge" in stage 2',
            )  # fmt: skip
        if second.estimator == "flattened":
            for key in ("ridge", "degrees", "weights", "units", "label_transforms"):
                if getattr(second, key) != getattr(type(second)(), key):
                    yield Refusal(f"algorithm.second.{key}", 'belongs to estimator = "ridge"')
            if max(parts) != 2 and problem.limit.d is None:
                yield Refusal("limit.d", "a flattened second stage of degree above 2 needs the dimension")
