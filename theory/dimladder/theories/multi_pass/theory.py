"""Gradient descent on one data set: what the theory reads, refuses and rests on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ...problem import Spec, kind_of
from ...problem.checks import at_least, positive
from ...problem.grids import Simulation
from ..base import Reads, Refusal, Theory

if TYPE_CHECKING:
    from ...problem import Problem
    from .system import MultiPass


MOST_UPDATES, MOST_UNITS = 100_000, 64


class MultiPassSolver(Spec, frozen=True, kw_only=True):
    """Settings of the prediction.

    Attributes
    ----------
    method : str
        ``closed-form`` (linear student, square loss, one variance), ``particles`` (anything), ``responses`` (the
        response form: two-time kernels, smooth activation and loss). ``auto``: the closed form where there is one, else
        particles.
    samples, scrambles, seed : int
        Particles, and independent scrambles for the error bars.
    sampler : {"sobol", "monte-carlo"}
    approximation : {"none", "no-responses"}
        ``no-responses`` forgets that gradients remember the data, which is wrong at O(1): an ablation.
    output : {"summary", "two-time"}
        ``two-time`` adds overlaps of weights at two times and, from the closed form and from responses, the kernels.
    workers : int
        Scrambles computed at the same time, in threads; 0: one a core. Does not change any number.
    memory_limit : float
        GiB; what would need more is refused.
    checkpoint : str
        Folder of checkpoints in time; empty for none. An interrupted solve goes on from there, bit for bit.
    checkpoint_every : int
        Updates between two checkpoints.
    """

    method: Literal["auto", "closed-form", "particles", "responses"] = "auto"
    samples: int = 32768
    scrambles: int = 8
    seed: int = 0
    sampler: Literal["sobol", "monte-carlo"] = "sobol"
    approximation: Literal["none", "no-responses"] = "none"
    output: Literal["summary", "two-time"] = "summary"
    workers: int = 0
    memory_limit: float = 8.0
    checkpoint: str = ""
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        at_least(2, samples=self.samples)
        at_least(1, scrambles=self.scrambles, checkpoint_every=self.checkpoint_every)
        at_least(0, seed=self.seed, workers=self.workers)
        positive(memory_limit=self.memory_limit)


class MultiPassTheory(Theory):
    """Full-batch and mini-batch gradient descent, and gradient flow, on n = alpha d samples."""

    name = "multi-pass"
    title = "Many passes over one data set"
    example = "multi-pass-ridge"
    summary = (
        "Gradient descent on a data set that is drawn once, at n = alpha d: training and test curves, overfitting, "
        "early stopping, from dynamical mean-field theory in revealed directions."
    )
    reads: ClassVar[Reads] = {
        "data": {"gaussian": "spectrum sample_ratio samples dimension"},
        "target": {
            "committee": "activation readout overlap noise power",
            "index": "formula noise overlap flip hermite power",
        },
        "student": {"linear": "", "two-layer": "width activation readout train_readout hermite"},
        "loss": "function ridge ridge_per_sample",
        "algorithm": {
            "gradient-descent": (
                "learning_rate readout_learning_rate steps schedule batch_fraction batching momentum temperature"
            ),
            "gradient-flow": "learning_rate readout_learning_rate steps substeps levels",
        },
        "initial": {"explicit": "Q M a block_Q block_M", "random": "overlap norm a seed"},
        "grid": "time",
    }
    solver = MultiPassSolver()
    simulation = Simulation(sizes=(250, 500, 1000), replicas=16)
    references = (
        "celentano2021highdimensional",
        "gerbelot2022rigorous",
        "mignacco2020dynamical",
        "bolthausen2014iterative",
    )
    assumptions = (
        "Gaussian inputs, n/d fixed as d grows; widths, numbers of target directions and of updates fixed",
        "one data set, independent of the start; the start enters through its overlaps",
    )
    limits = (
        "small batches in the first epoch: one-pass SGD at learning rate eta/(alpha b)",
        "many updates of a convex loss: the minimiser of [loss]; at a temperature, its posterior",
        "sample_ratio -> infinity: gradient descent on the population loss",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse what has no meaning for one Gaussian data set."""
        data, loss = problem.data, problem.loss
        if data.ratio is None:
            yield Refusal("data.sample_ratio", "n/d is needed", "add sample_ratio = 2.0 to [data]")
        if data.spectrum is not None and (data.spectrum.nodes or min(data.spectrum.blocks()[1]) == 0):
            yield Refusal("data.spectrum", "blocks hold a share of the dimensions, and no Gauss rule stands for them")
        if loss.form.vector:
            yield Refusal("loss.function", f"the network has one output, {loss.function!r} needs one a class")
        if loss.ridge == "optimal" or isinstance(loss.ridge_per_sample, str):
            yield Refusal("loss.ridge", "is a number here")
        if kind_of(problem.target) == "committee" and len(problem.target.readouts) > 1:
            yield Refusal("target.readout", "one task: one row")
        if kind_of(problem.target) == "committee" and problem.target.power == "latent":
            yield Refusal("target.power", "'latent' belongs to an index target")
        units = 1 if kind_of(problem.student) == "linear" else problem.student.width
        if units > MOST_UNITS:
            yield Refusal("student.width", f"is finite as d grows: at most {MOST_UNITS}")
        directions = problem.target.units if kind_of(problem.target) == "committee" else problem.target.directions
        if directions > MOST_UNITS:
            yield Refusal("target", f"has finitely many directions: at most {MOST_UNITS}, got {directions}")
            return
        yield from _of_algorithm(problem.algorithm)
        if loss.form.vector:
            return
        if loss.form.jumps:
            yield Refusal("loss.function", f"{loss.function!r} jumps: its slope does not see the jump")
        elif loss.form.slope_jumps and kind_of(problem.algorithm) == "gradient-flow":
            yield Refusal(
                "loss.function", f"the slope of {loss.function!r} jumps: a flow holds samples at its kink, by no steps",
                "a smooth loss (logistic, huber(y - f, 0.1)), or gradient-descent",
            )  # fmt: skip
        if loss.form.two_valued and not _two_valued(problem):
            yield Refusal("loss.function", f"{loss.function!r} means labels of +1 and -1; the target gives others")

    def derive(self, problem: Problem) -> MultiPass:
        """Return the equations of one problem."""
        from .system import MultiPass

        return MultiPass(problem, references=self.references, assumptions=self.assumptions)

    def describe(self, problem: Any) -> dict[str, Any]:
        """Return the method and the cost of a solve."""
        system = self.derive(problem)
        return {"method": system.method(), "memory_GiB": round(system.memory() / 2**30, 3)}


def _two_valued(problem: Problem) -> bool:
    from ...problem.descent import formulas_of

    return formulas_of(problem).two_valued


def _of_algorithm(algorithm: Any) -> Iterable[Refusal]:
    flow = kind_of(algorithm) == "gradient-flow"
    finest = algorithm.substeps * 2 ** (algorithm.levels - 1) if flow else 1
    if (algorithm.steps or 0) * finest > MOST_UPDATES:
        yield Refusal("algorithm.steps", f"two-time equations are for at most {MOST_UPDATES} updates")
    if flow:
        for key in ("learning_rate", "steps"):
            if getattr(algorithm, key) is None:
                yield Refusal(f"algorithm.{key}", "is needed: outputs are at multiples of the learning rate")
        if algorithm.learning_rate == 0:
            yield Refusal("algorithm.learning_rate", "is the time between two outputs of a flow: it must be positive")
        return
    if algorithm.momentum is not None and algorithm.momentum.beta is None:
        yield Refusal("algorithm.momentum", "of order one per update: { beta }")
    parts = 1.0 / algorithm.batch_fraction
    if algorithm.batching != "fresh" and abs(parts - round(parts)) > 1e-9 * parts:
        yield Refusal(
            "algorithm.batch_fraction", f"{algorithm.batch_fraction:g} does not cut an epoch into whole batches",
            'use 1/2, 1/3, ..., or batching = "fresh"',
        )  # fmt: skip
