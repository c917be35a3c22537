"""The estimation engine: minimisers and Bayes-optimal estimators of one output, samples = alpha d.

Sources: Thrampoulidis, Abbasi & Hassibi 2018; Barbier et al. 2019; Gerace et al. 2020; Loureiro et al. 2021;
Schroeder et al. 2023; docs/theory/estimation.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import DerivationError, DimladderError, DomainError
from ...problem.grids import FixedPointSolver, Simulation
from ...problem.losses import Loss
from ...problem.targets import Index
from ..base import Reads, Refusal, Theory

if TYPE_CHECKING:
    from ...problem import Problem
    from ...symbolic.systems import System

OBSERVABLES = ("mse", "test_mse", "classification_error", "test_loss", "calibration_error", "brier")


class EstimationTheory(Theory):
    """Fixed points of generalised linear estimation."""

    name = "estimation"
    title = "Minimisers and posteriors of generalised linear estimation"
    example = "estimation-huber"
    summary = (
        "State evolution at samples = alpha d: any convex loss, penalty and label law, spectra, random features and "
        "Gaussian mixtures, one output or one a class; Bayes-optimal estimation with its phase transitions."
    )
    reads: ClassVar[Reads] = {
        "data": {"gaussian": "spectrum", "mixture": "weights means mean_overlap variances spikes spectrum"},
        "target": {
            "index": "formula noise overlap flip outliers prior hermite power direction",
            "cluster-labels": "labels direction",
            None: "",
        },
        "student": {"linear": "bias", "features": "layers covariances bias readout_variance"},
        "loss": "function penalty ridge ridge_per_sample optimise",
        "algorithm": {
            "minimise": "",
            "bagging": "resampling fraction",
            "bayes": "",
            "posterior": "temperature",
            "spectral": "preprocessing",
        },
        "grid": "start",
    }
    axes = ("sample_ratio",)
    solver = FixedPointSolver(rtol=1e-12)
    simulation = Simulation(sizes=(200, 400), replicas=16)
    references = ("thrampoulidis2018precise", "loureiro2021curves", "gerace2020generalisation", "barbier2019optimal")
    assumptions = (
        "d and the samples go to infinity with a fixed ratio; Gaussian inputs, or features equivalent to such",
        "a convex loss and penalty, so that the minimiser is unique and replica symmetry exact; or the Bayes-optimal "
        "posterior, where it is exact too",
    )
    limits = (
        "square loss: the deterministic equivalent of ridge regression",
        "square loss, ridge to 0 with fewer samples than features: the training error vanishes; the test error peaks "
        "where they are as many",
        "features without a linear part: nothing is learnt beyond the mean of the labels",
        "ridge to 0 below the separability threshold: q diverges as 1/ridge",
        "Bayes-optimal error: a lower bound of every minimiser's",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse what the equations do not hold for."""
        target = problem.target
        if problem.data.__struct_config__.tag == "mixture":
            from .mixture_question import mixture_refusals

            yield from mixture_refusals(problem)
            return
        if not isinstance(target, Index):
            yield Refusal("target.kind", "the labels of Gaussian inputs are a formula", 'use target.kind = "index"')
            return
        if target.direction != "random":
            yield Refusal("target.direction", "Gaussian inputs have no distinguished directions", "drop it")
            return
        several = 1 < target.directions <= 3 and problem.algorithm.__struct_config__.tag == "bayes"
        if target.directions > 1 and not several:
            yield Refusal(
                "target.formula", f"{target.directions} latent fields: one output sees one, z (bayes: three)", "use z"
            )
            return
        kind = problem.algorithm.__struct_config__.tag
        if not target.fields and kind not in ("minimise", "bagging"):
            yield Refusal("target.formula", "no latent field: the labels are noise", "use the latent field z")
            return
        if kind == "bayes":
            yield from self._bayes(problem)
        elif kind == "spectral":
            yield from self._spectral(problem)
        else:
            yield from self._minimise(problem)

    def _bayes(self, problem: Problem) -> Iterable[Refusal]:
        loss, student = problem.loss, problem.student
        if student.__struct_config__.tag != "linear":
            yield Refusal("student.kind", "the posterior of the target's own law is over a linear target", "linear")
        elif student.bias:
            yield Refusal("student.bias", "the posterior of the target's own law has no bias")
        if loss.function != "square" or loss.ridge is not None or loss.ridge_per_sample is not None:
            yield Refusal("loss", "the target's own law is the loss", 'leave [loss] out, or use kind = "minimise"')
        if problem.target.power == "latent":
            yield Refusal("target.power", "is not read by kind = bayes", "give the shares as a list")
        if problem.target.directions > 1 and not problem.target.alike:
            if problem.data.spectrum is not None or problem.target.power is not None:
                yield Refusal("data.spectrum", "overlap matrices are solved for isotropic inputs", "drop it")
                return
            if problem.target.prior != "normal":
                yield Refusal("target.prior", "overlap matrices are solved for normal entries", 'use "normal"')
                return
        yield from self._build(problem)

    def _spectral(self, problem: Problem) -> Iterable[Refusal]:
        if problem.data.spectrum is not None or problem.target.power is not None:
            yield Refusal("data.spectrum", "the spectral estimator is solved for isotropic inputs", "drop it")
        elif problem.student.__struct_config__.tag != "linear" or problem.student.bias:
            yield Refusal("student.kind", "the spectral estimator is a direction of the inputs", "linear, no bias")
        elif problem.target.overlap and problem.target.overlap != ((1.0,),):
            yield Refusal("target.overlap", "the latent field has variance 1", "drop it")
        elif problem.loss != Loss():
            yield Refusal("loss", "the spectral estimator has no loss", "leave [loss] out")
        elif problem.grid.start is not None:
            yield Refusal("grid.start", "there is one branch", "drop it")
        else:
            yield from self._build(problem)

    def _minimise(self, problem: Problem) -> Iterable[Refusal]:
        loss, student, target = problem.loss, problem.student, problem.target
        if problem.grid.start is not None:
            yield Refusal("grid.start", "a convex problem has one branch", 'drop it, or use algorithm.kind = "bayes"')
        if loss.form.vector:
            yield Refusal("loss.function", f"{loss.function} takes one output a class", "use a loss of one output f")
            return
        if not loss.form.convex:
            yield Refusal(
                "loss.function", f"{loss.function!r} is not convex: replica symmetry is not exact", "use a convex loss"
            )
            return
        if loss.ridge is None and loss.ridge_per_sample is None:
            yield Refusal("loss.ridge", "is missing", 'give ridge or ridge_per_sample, or ridge = "optimal"')
            return
        if isinstance(loss.ridge_per_sample, str):
            yield Refusal("loss.ridge_per_sample", "a formula in k has no limit", "give a number")
            return
        key = "loss.ridge" if loss.ridge is not None else "loss.ridge_per_sample"
        if (loss.ridge if loss.ridge is not None else loss.ridge_per_sample) == 0:
            yield Refusal(
                key, "is 0: below the separability or interpolation threshold no minimiser is unique",
                "a small ridge such as 1e-6 follows the limit",
            )  # fmt: skip
            return
        if problem.algorithm.__struct_config__.tag == "posterior":
            if loss.ridge == "optimal" or loss.penalty != "l2":
                yield Refusal("loss.ridge", "a posterior has the prior N(0, temperature/ridge)", "give ridge and l2")
                return
            if problem.algorithm.temperature == 0.0:
                yield Refusal("algorithm.temperature", "is 0", 'use algorithm.kind = "minimise"')
                return
        if loss.optimise and loss.optimise not in OBSERVABLES:
            yield Refusal("loss.optimise", f"{loss.optimise!r} is not minimised", f"one of {', '.join(OBSERVABLES)}")
            return
        layers = getattr(student, "layers", ())
        if any(layer.width_ratio is None for layer in layers):
            yield Refusal("student.layers", "every layer needs its width_ratio")
            return
        features = layers or getattr(student, "covariances", None) is not None
        if getattr(student, "readout_variance", 0.0) > 0.0:
            key = "student.readout_variance"
            if len(layers) != 1:
                yield Refusal(key, "the tangent kernel is that of one layer", "give one layer, or drop it")
                return
            if loss.ridge is None or problem.algorithm.__struct_config__.tag != "minimise":
                yield Refusal(key, "the tangent kernel is fitted with a ridge of the summed loss",
                              'algorithm.kind = "minimise" and loss.ridge')  # fmt: skip
                return
        if loss.penalty != "l2" and features:
            yield Refusal(
                "loss.penalty", f"{loss.penalty!r} acts on coordinates; random features have none", 'use "l2"'
            )
            return
        if problem.algorithm.__struct_config__.tag == "bagging" and loss.penalty != "l2":
            yield Refusal("loss.penalty", "two fits are compared for the l2 penalty", 'use penalty = "l2"')
            return
        if getattr(student, "covariances", None) is not None and (target.power is not None or problem.data.spectrum):
            yield Refusal("student.covariances", "hold the whole law of inputs and target", "drop spectrum and power")
            return
        yield from self._build(problem)

    def _build(self, problem: Problem) -> Iterable[Refusal]:
        try:
            system: Any = self._system(problem)
            if hasattr(system, "check"):
                system.check()
        except (DerivationError, DomainError) as error:
            yield Refusal(error.where or "target.formula", f"{error.what}: {error.why or ''}".rstrip(": "),
                          error.hint or "")  # fmt: skip
        except ValueError as error:
            if isinstance(error, DimladderError):
                raise
            yield Refusal("data.spectrum", str(error))

    def _system(self, problem: Problem) -> System:
        if problem.data.__struct_config__.tag == "mixture":
            if problem.loss.form.vector:
                from .mixture_classes import ClassesSystem

                return ClassesSystem(problem)
            from .mixture_system import MixtureSystem

            return MixtureSystem(problem)
        if problem.algorithm.__struct_config__.tag == "bayes":
            if problem.target.directions > 1 and not problem.target.alike:
                from .bayes_matrix import MatrixChannel
                from .bayes_matrix_system import MatrixBayesSystem

                return MatrixBayesSystem(problem, MatrixChannel(problem.target))
            from .bayes_system import BayesSystem
            from .question import bayes_question

            return BayesSystem(problem, bayes_question(problem))
        if problem.algorithm.__struct_config__.tag == "spectral":
            from .question import spectral_question
            from .spectral import SpectralSystem

            return SpectralSystem(problem, *spectral_question(problem))
        from .question import minimiser_question
        from .system import MinimiserSystem

        if problem.algorithm.__struct_config__.tag == "posterior":
            from .posterior import PosteriorSystem

            return PosteriorSystem(problem, minimiser_question(problem), problem.algorithm.temperature)
        return MinimiserSystem(problem, minimiser_question(problem))

    def derive(self, problem: Problem) -> System:
        """Return the equations of the minimiser, or of the Bayes-optimal estimator."""
        system = self._system(problem)
        system.references, system.assumptions = self.references_for(problem), self.assumptions
        return system

    def references_for(self, problem: Problem) -> tuple[str, ...]:
        """Return what this problem uses."""
        if problem.data.__struct_config__.tag == "mixture":
            return ("mignacco2020role", "loureiro2021mixtures", "loureiro2021curves")
        if problem.algorithm.__struct_config__.tag == "bayes":
            return ("barbier2019optimal",)
        if problem.algorithm.__struct_config__.tag == "bagging":
            return ("clarte2024bootstrap", "thrampoulidis2018precise", "loureiro2021curves")
        if len(getattr(problem.student, "layers", ())) == 1 and problem.loss.function == "square":
            return ("meimontanari2022generalization", "goldt2022gaussian", "hulu2023universality")
        if getattr(problem.student, "layers", ()):
            return ("gerace2020generalisation", "schroder2023deterministic", "hulu2023universality")
        return ("thrampoulidis2018precise", "loureiro2021curves")


THEORY = EstimationTheory()
