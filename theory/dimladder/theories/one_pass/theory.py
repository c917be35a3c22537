"""One-pass SGD of two-layer networks on targets of few directions (Saad and Solla 1995, Goldt et al. 2019).

With several steps on each sample, or gradients after a trial step on it, the fields are displaced: `displaced`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ...problem.grids import OdeSolver
from ...problem.targets import Committee, Index
from ..base import Reads, Refusal, Theory

if TYPE_CHECKING:
    from ...symbolic.systems import System

MOST_USES = 8


class OnePassSolver(OdeSolver, frozen=True, kw_only=True):
    """Settings of the integrator, and of averages without closed form.

    Attributes
    ----------
    averages : {"auto", "mixture", "quadrature"}
        Of tanh and sigmoid units: as sums of erfs, whose averages have closed forms, or by quadrature; "auto" takes the
        first where it can.
    quadrature_rtol : float
        Accuracy asked of dy/dt where averages are computed by quadrature, and of the slope of sums of erfs.
    """

    averages: Literal["auto", "mixture", "quadrature"] = "auto"
    quadrature_rtol: float = 1e-7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1e-13 <= self.quadrature_rtol < 1:
            raise ValueError(f"quadrature_rtol must lie in [1e-13, 1), got {self.quadrature_rtol}")


def is_displaced(problem: Any) -> bool:
    """Whether the gradient sees fields that a step on the same sample has moved, or only the slope is given."""
    rule = problem.algorithm
    return bool(rule.uses > 1 or rule.displacement != 0 or problem.student.slope)


class OnePassTheory(Theory):
    """Order-parameter flow of one-pass SGD, derived from the SGD step."""

    name = "one-pass"
    title = "One-pass SGD of two-layer networks"
    summary = (
        "Flow of the student-student and student-teacher overlaps (and readouts) as d -> infinity, time = steps/d."
    )
    reads: ClassVar[Reads] = {
        "target": {"committee": "activation readout overlap noise", "index": "formula noise hermite"},
        "student": {"two-layer": "width activation slope readout train_readout hermite"},
        "loss": "function",
        "algorithm": {
            "one-pass": "learning_rate readout_learning_rate batch_size schedule regime spherical weight_decay "
            "readout_weight_decay uses displacement",
        },
        "initial": {"explicit": "Q M a", "random": "overlap norm a seed"},
    }
    axes = ("time",)
    solver = OnePassSolver()
    references = (
        "saad1995online", "goldt2019dynamics", "benarous2021online", "abbe2022merged", "veiga2022phase",
        "arnaboldi2023dimensionless", "straat2019relu", "plackett1954reduction", "lee2024neural", "dandi2024benefits",
        "arnaboldi2024repetita",
    )  # fmt: skip
    assumptions = (
        "inputs are standard Gaussian and no sample is met again after its step",
        "the width, the number of teacher directions and the time steps/d stay finite as d -> infinity",
    )
    limits = (
        'gradient flow: drop the terms quadratic in the learning rate (regime = "gradient-flow")',
        "K = M = 1 with |w| fixed: the single-index equations of Ben Arous, Gheissari and Jagannath",
        "a start at M = 0 without drift stays there: weak recovery then takes d log d samples or more",
    )

    def derive(self, problem: Any) -> System:
        if is_displaced(problem):
            from .displaced import DisplacedFlow

            return DisplacedFlow(problem)
        from .flow import OnePassFlow

        return OnePassFlow(problem)

    def checks(self, problem: Any) -> Iterable[Refusal]:
        target, student, rule = problem.target, problem.student, problem.algorithm
        loss = problem.loss.form
        if loss.vector:
            yield Refusal("loss.function", f"{loss.name!r} takes one output a class, the student has one output")
        if isinstance(target, Committee) and len(target.readouts) > 1:
            yield Refusal("target.readout", "has one row a task", "give one list of numbers")
        if isinstance(target, Index) and target.is_logit:
            yield Refusal("target.formula", "random labels are not read here", "write their mean, or sign(...)")
        if isinstance(target, Index) and target.noises:
            yield Refusal("target.formula", "noise inside the formula is not read here", "use target.noise")
        if problem.simulation.method not in ("", "gram", "weights"):
            yield Refusal("simulation.method", f"{problem.simulation.method!r} is not one of gram, weights")
        for name in ("Q", "M"):
            if hasattr(problem.initial, name) and getattr(problem.initial, name) is None:
                hint = 'give both Q and M, or kind = "random" with overlap and seed'
                yield Refusal(f"initial.{name}", "is missing", hint)
        if is_displaced(problem):
            yield from self._displaced_checks(problem)
        if student.slope and (loss.name != "correlation" or student.train_readout):
            why = "only the correlation loss with a fixed readout needs no activation"
            yield Refusal("student.slope", why, "give student.activation")
        if student.slope and problem.simulation.method == "gram":
            yield Refusal("simulation.method", "with student.slope explicit weights are moved", "drop it")
        if rule.uses > MOST_USES:
            yield Refusal("algorithm.uses", f"at most {MOST_USES} steps on each sample are averaged, got {rule.uses}")

    def _displaced_checks(self, problem: Any) -> Iterable[Refusal]:
        student, rule = problem.student, problem.algorithm
        count = len(problem.target.readout) if isinstance(problem.target, Committee) else problem.target.directions
        key = "uses" if rule.uses > 1 else "displacement" if rule.displacement else ""
        path = f"algorithm.{key}" if key else "student.slope"
        if student.width > 1 or count > 1:
            yield Refusal(path, "displaced fields are averaged for one student unit and one teacher direction")
        if student.train_readout:
            yield Refusal("student.train_readout", f"{path} is read with a fixed readout")
        if rule.batch_size > 1:
            yield Refusal("algorithm.batch_size", f"{path} is read with one sample a step")
        if rule.regime != "classical":
            yield Refusal("algorithm.regime", f"{path} is read with every term", 'use regime = "classical"')
        if rule.uses > 1 and rule.displacement:
            yield Refusal("algorithm.displacement", "is not read together with uses", "drop one of them")

    def warnings(self, problem: Any) -> list[str]:
        from .obstacles import obstacles

        return obstacles(problem)

    def describe(self, problem: Any) -> dict[str, Any]:
        from .exponents import describe

        reasons = self.warnings(problem)
        return describe(problem) | ({"out of reach": "; ".join(reasons)} if reasons else {})

    def references_for(self, problem: Any) -> tuple[str, ...]:
        target, rule = problem.target, problem.algorithm
        keys = ["saad1995online", "goldt2019dynamics"]
        if isinstance(target, Index):
            keys += ["benarous2021online", "arnaboldi2023dimensionless"]
            if target.directions > 1:
                keys.append("abbe2022merged")
        kinked = ("relu", "abs", "sign", "step", "leaky", "max", "min")
        texts = (problem.student.activation, getattr(target, "activation", ""))
        if any(word in text for word in kinked for text in texts):
            keys += ["straat2019relu", "plackett1954reduction"]
        if rule.regime != "classical":
            keys.append("veiga2022phase")
        if rule.uses > 1:
            keys += ["lee2024neural", "dandi2024benefits"]
        if rule.displacement:
            keys += ["arnaboldi2024repetita", "dandi2024benefits"]
        return tuple(keys)


THEORY = OnePassTheory()
