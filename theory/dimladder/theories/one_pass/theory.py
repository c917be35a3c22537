"""One-pass SGD of two-layer networks on targets of few directions (Saad and Solla 1995, Goldt et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...problem import Committee, MultiIndex
from ..base import Theory
from .sections import CommitteeStudent, Initial, OnlineProblem, OnlineSGD, TwoLayer

if TYPE_CHECKING:
    from ...symbolic.systems import System

__all__ = ["THEORY", "CommitteeStudent", "Initial", "OnlineProblem", "OnlineSGD", "OnlineSGDTheory", "TwoLayer"]


class OnlineSGDTheory(Theory):
    """Order-parameter flow of one-pass SGD, derived from the SGD step."""

    name = "online-sgd"
    title = "One-pass SGD of two-layer networks"
    summary = (
        "Flow of the student-student and student-teacher overlaps (and readouts) as d -> infinity, time = steps/d."
    )
    problem_type = OnlineProblem
    references = (
        "saad1995online", "goldt2019dynamics", "benarous2021online", "abbe2022merged", "veiga2022phase",
        "arnaboldi2023dimensionless", "straat2019relu", "plackett1954reduction",
    )  # fmt: skip
    assumptions = (
        "inputs are standard Gaussian and every sample is used once",
        "the width, the number of teacher directions and the time steps/d stay finite as d -> infinity",
    )
    limits = (
        'gradient flow: drop the terms quadratic in the learning rate (regime = "gradient-flow")',
        "K = M = 1 with |w| fixed: the single-index equations of Ben Arous, Gheissari and Jagannath",
    )

    def derive(self, problem: Any) -> System:
        from .flow import OnlineFlow

        return OnlineFlow(problem)

    def describe(self, problem: Any) -> dict[str, Any]:
        from .exponents import describe

        return describe(problem)

    def references_for(self, problem: Any) -> tuple[str, ...]:
        keys = ["saad1995online", "goldt2019dynamics"]
        if not isinstance(problem.target, Committee):
            keys += ["benarous2021online", "arnaboldi2023dimensionless"]
        if isinstance(problem.target, MultiIndex):
            keys.append("abbe2022merged")
        kinked = ("relu", "abs", "sign", "step", "leaky", "max", "min")
        texts = (problem.student.activation, getattr(problem.target, "activation", ""))
        if any(word in text for word in kinked for text in texts):
            keys += ["straat2019relu", "plackett1954reduction"]
        if problem.algorithm.regime != "classical":
            keys.append("veiga2022phase")
        return tuple(keys)


THEORY = OnlineSGDTheory()
