"""One-pass SGD of two-layer networks on targets of few directions (Saad and Solla 1995, Goldt et al. 2019).

With several steps on each sample, or gradients after a trial step on it, the fields are displaced: `displaced`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ...errors import ConfigError, DomainError
from ...problem import axis_values
from ...problem.data import HiddenManifold
from ...problem.grids import OdeSolver
from ...problem.manifold import unit_moments
from ...problem.students import Linear
from ...problem.targets import ClusterLabels, Index
from ..base import Reads, Refusal, Theory
from .routes import is_displaced, is_single, structure

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


class OnePassTheory(Theory):
    """Order-parameter flow of one-pass SGD, derived from the SGD step."""

    name = "one-pass"
    title = "One-pass SGD of two-layer networks"
    example = "online-erf"
    summary = (
        "Flow of the student-student and student-teacher overlaps (and readouts) as d -> infinity, time = steps/d."
    )
    reads: ClassVar[Reads] = {
        "data": {
            "gaussian": "spectrum tasks",
            "mixture": "weights means mean_overlap variances spectrum tasks",
            "hidden-manifold": "activation latent_ratio nodes tasks",
        },
        "target": {
            "committee": "activation readout outputs overlap noise power drift",
            "index": "formula noise hermite overlap power drift",
            "vector-index": "formulas argmax noise hermite overlap power",
            "cluster-labels": "labels",
        },
        "student": {
            "two-layer": "width activation slope readout train_readout hermite heads bias dropout",
            "linear": "bias",
        },
        "loss": "function smoothing",
        "algorithm": {
            "one-pass": "learning_rate readout_learning_rate bias_learning_rate batch_size schedule regime spherical "
            "weight_decay readout_weight_decay uses displacement momentum average feedback input_noise weight_noise "
            "episodes update vectors constants",
        },
        "initial": {"explicit": "Q M a bias means block_Q block_M", "random": "overlap norm a seed"},
    }
    coordinates: ClassVar = {"time": ("time $t$", "steps/$d$")}
    axes = ("time",)
    timed = ("data.tasks", "data.variances", "target.noise", "student.dropout", "algorithm.batch_size")
    solver = OnePassSolver()
    references = (
        "saad1995online", "goldt2019dynamics", "benarous2021online", "abbe2022merged", "veiga2022phase",
        "arnaboldi2023dimensionless", "straat2019relu", "plackett1954reduction", "lee2024neural", "dandi2024benefits",
        "arnaboldi2024repetita", "yoshida2019plateau", "worschech2024scaling", "refinetti2021mixtures",
        "lee2021continual", "mori2025dropout", "patel2025perceptron", "refinetti2021align",
        "collinswoodfin2025multiclass",
    )  # fmt: skip
    assumptions = (
        "inputs are Gaussian given their source, and no sample is met again after its step",
        "covariances of sources commute, cluster means have a norm of order one, and updates are linear in the tracked "
        "vectors and in the sample",
        "the width, the number of teacher directions, of sources and of blocks, and the time steps/d stay finite as "
        "d -> infinity",
    )
    limits = (
        'gradient flow: drop the terms quadratic in the learning rate (regime = "gradient-flow")',
        "K = M = 1 with |w| fixed: the single-index equations of Ben Arous, Gheissari and Jagannath",
        "a start at M = 0 without drift stays there: weak recovery then takes d log d samples or more",
    )

    def derive(self, problem: Any) -> System:
        if structure(problem):
            from .general.table_flow import GeneralFlow

            return GeneralFlow(problem)
        if is_displaced(problem):
            from .displaced import DisplacedFlow

            return DisplacedFlow(problem)
        from .flow import OnePassFlow

        return OnePassFlow(problem)

    def checks(self, problem: Any) -> Iterable[Refusal]:
        target, student, loss = problem.target, problem.student, problem.loss.form
        if not loss.vector and loss.jumps:
            why = "it jumps: its gradient is zero almost everywhere, and SGD never meets the jump"
            yield Refusal("loss.function", why, "use a continuous loss, such as hinge")
        if isinstance(target, Index) and target.is_logit:
            yield Refusal("target.formula", "random labels are not read here", "write their mean, or sign(...)")
        if isinstance(target, Index) and target.noises:
            yield Refusal("target.formula", "noise inside the formula is not read here", "use target.noise")
        if problem.simulation.method not in ("", "gram", "weights"):
            yield Refusal("simulation.method", f"{problem.simulation.method!r} is not one of gram, weights")
        general = structure(problem)
        yield from self._start_checks(problem, general)
        yield from self._idle_checks(problem)
        slope = getattr(student, "slope", "")
        if is_displaced(problem):
            yield from self._displaced_checks(problem)
        if slope and (loss.name != "correlation" or student.train_readout):
            why = "only the correlation loss with a fixed readout needs no activation"
            yield Refusal("student.slope", why, "give student.activation")
        elif slope and (general or not is_single(problem)):
            why = "it is read for one unit, one direction and one sample a step, of isotropic inputs and plain SGD"
            yield Refusal("student.slope", why, "give student.activation")
        elif general:
            yield from self._general_checks(problem)
        if getattr(student, "activation", "") and not slope and getattr(problem.initial, "Q", None) is not None:
            yield from self._copy_checks(problem)

    def _copy_checks(self, problem: Any) -> Iterable[Refusal]:
        """Three kinked fields that are one: closed forms know pairs of them, by limits that no longer exist."""
        from ...problem.update_table import table
        from .flow import QUADRATIC

        try:
            # The table takes as long as the other checks together.
            if not problem.student.expression.kinks("x"):
                return
            what = table(problem)
        except (ConfigError, DomainError, ValueError):
            # Said where the table is needed, or by the checks above.
            return
        displaced = what.uses > 1 or what.displacement or what.coefficients is not None
        if what.Y > 1 or displaced or what.loss.name not in QUADRATIC:
            return
        fields = [*range(what.K)]
        if what.teacher is not None and what.teacher.kinks("x"):
            fields += range(what.moving, what.moving + what.M)
        overlaps = what.gram.sum(axis=0)[np.ix_(fields, fields)]
        if what.bias_rate is not None:
            bias = np.append(what.bias[0], np.zeros(len(fields) - what.K))
            overlaps = overlaps + np.outer(bias, bias)
        norms = np.sqrt(np.outer(np.diag(overlaps), np.diag(overlaps)))
        same = (norms > 0) & (np.abs(overlaps) >= (1 - 1e-13) * norms)
        if len(fields) > 2 and (same.sum(axis=1) > 2).any():
            why = "three kinked fields are one, up to sign and size, where their averages have no single limit"
            yield Refusal("initial.Q", why, "let their overlaps differ a little")

    def _idle_checks(self, problem: Any) -> Iterable[Refusal]:
        """What the grid asks beyond what the data say."""
        tasks = problem.data.tasks
        last = float(axis_values(problem.grid.time)[-1])
        if tasks and tasks[-1].until < last:
            why = f"the last task ends at {tasks[-1].until:g}, before the last time {last:g}"
            yield Refusal("data.tasks", why, "let its until be inf")

    def _start_checks(self, problem: Any, general: str) -> Iterable[Refusal]:
        initial = problem.initial
        labelled = isinstance(problem.target, ClusterLabels)
        for name in ("Q", "M"):
            if hasattr(initial, name) and getattr(initial, name) is None and getattr(initial, f"block_{name}") is None:
                if name == "M" and labelled:
                    continue
                hint = 'give both Q and M, or kind = "random" with overlap and seed'
                yield Refusal(f"initial.{name}", "is missing", hint)
        if general:
            return
        for name in ("bias", "means", "block_M"):
            if getattr(initial, name, None) is not None:
                yield Refusal(f"initial.{name}", "belongs to problems with biases, means or blocks", "drop it")
        if problem.algorithm.bias_learning_rate is not None:
            yield Refusal("algorithm.bias_learning_rate", "there is no bias to train", "set student.bias = true")

    def _general_checks(self, problem: Any) -> Iterable[Refusal]:
        from ...problem.update_table import table

        rule = problem.algorithm
        if isinstance(problem.data, HiddenManifold):
            refused = list(self._manifold_checks(problem))
            yield from refused
            if refused:
                return
        from ...problem.update_labels import outputs_of

        try:
            if outputs_of(problem) > 1:
                yield from self._vector_checks(problem)
        except ConfigError as error:
            yield Refusal(error.where or "", error.why or error.what, error.hint or "")
            return
        if rule.spherical and (rule.update or rule.momentum is not None or rule.average):
            path = "algorithm.update" if rule.update else "algorithm.average" if rule.average else "algorithm.momentum"
            yield Refusal(path, "the norms of plain SGD only are kept: algorithm.spherical is true", "drop one of them")
        try:
            what = table(problem)
        except ConfigError as error:
            yield Refusal(error.where or "", error.why or error.what, error.hint or "")
            return
        yield from self._noise_checks(problem, what)
        if rule.episodes is not None:
            yield from self._episode_checks(problem, what)

    def _manifold_checks(self, problem: Any) -> Iterable[Refusal]:
        """What a hidden manifold leaves out."""
        rule, data, initial, many = problem.algorithm, problem.data, problem.initial, "is not read on a hidden manifold"
        mean, slope, _ = unit_moments(data.activation)
        if mean:
            why = f"has the mean {mean:.4g} under a normal law, and inputs are centred here"
            yield Refusal("data.activation", why, "subtract it, or use an odd function")
        if not slope:
            yield Refusal("data.activation", "has no linear part: no field of x is correlated with c", "use another")
        for key, asked in (
            ("algorithm.input_noise", rule.input_noise != 0), ("student.bias", problem.student.bias),
            ("algorithm.vectors", bool(rule.vectors)), ("algorithm.average", rule.average != 0),
            ("algorithm.momentum", rule.momentum is not None),
            ("target.drift", getattr(problem.target, "drift", None) is not None),
            ("target.power", getattr(problem.target, "power", None) is not None),
            ("initial.block_Q", getattr(initial, "block_Q", None) is not None),
            ("initial.block_M", getattr(initial, "block_M", None) is not None),
            ("target.kind", isinstance(problem.target, ClusterLabels)),
        ):  # fmt: skip
            if asked:
                yield Refusal(key, many, "drop it")

    def _episode_checks(self, problem: Any, what: Any) -> Iterable[Refusal]:
        """Decisions of a linear student about the sign of one direction, from one source."""
        rule, target = problem.algorithm, problem.target
        why = "algorithm.episodes rewards decisions of a linear student without bias about sign(z)"
        formula = target.formula.replace(" ", "") if isinstance(target, Index) else ""
        asked = (
            ("student.kind", not isinstance(problem.student, Linear), 'use student.kind = "linear"'),
            ("student.bias", what.bias_rate is not None, "drop it"),
            ("target.formula" if formula else "target.kind", formula not in ("sign(z)", "sign(z1)"),
             'use kind = "index", formula = "sign(z)"'),
            ("target.noise", bool(what.noise.any()), "drop it"),
            ("data.tasks" if problem.data.tasks else "data.kind", len(what.head) > 1, "use one source of samples"),
            ("loss.function", problem.loss.form.name != "square", "drop it: rewards take its place"),
            ("algorithm.batch_size", rule.batch_size != 1, "an update takes one episode: give episodes.length"),
            ("algorithm.uses", rule.uses > 1, "drop it"),
            ("algorithm.displacement", rule.displacement != 0, "drop it"),
            ("algorithm.feedback", rule.feedback is not None, "drop it"),
            ("algorithm.regime", rule.regime != "classical", 'use regime = "classical"'),
        )  # fmt: skip
        for key, refused, hint in asked:
            if refused:
                yield Refusal(key, why, hint)

    def _noise_checks(self, problem: Any, what: Any) -> Iterable[Refusal]:
        """What noise on inputs, weights and teachers leaves out."""
        rule = problem.algorithm
        drift: Any = getattr(problem.target, "drift", None)
        if rule.input_noise and any(entry.array == "squared_length" for entry in what.timed):
            yield Refusal("algorithm.input_noise", "is not read with variances that change in time", "drop one of them")
        if drift is not None and (what.shares == 0.0).any() and what.fixed_noise.any():
            why = "the noise of teachers has no limit along single directions (blocks of share 0)"
            yield Refusal("target.drift", why, "let noise be 0, or give the block a share")
        if rule.regime != "classical" and (rule.input_noise or rule.weight_noise):
            path = f"algorithm.{'input_noise' if rule.input_noise else 'weight_noise'}"
            yield Refusal(path, "is read with every term", 'use regime = "classical"')

    def _vector_checks(self, problem: Any) -> Iterable[Refusal]:
        """What students of several outputs leave out."""
        from ...problem.update_labels import loss_of, outputs_of

        rule, many = problem.algorithm, "is read for a student of one output"
        for key, asked in (
            ("update", bool(rule.update)), ("uses", rule.uses > 1), ("displacement", rule.displacement != 0),
            ("feedback", rule.feedback is not None), ("episodes", rule.episodes is not None),
        ):  # fmt: skip
            if asked:
                yield Refusal(f"algorithm.{key}", f"{many}: the target has {outputs_of(problem)}", "drop one of them")
        if getattr(problem.student, "slope", ""):
            yield Refusal("student.slope", many, "give student.activation")
        loss: Any = loss_of(problem)
        if loss.jumps:
            why = "it jumps: its gradient is zero almost everywhere, and SGD never meets the jump"
            yield Refusal("loss.function", why, "use a continuous loss, such as hinge")
        if getattr(problem.target, "noise", 0.0) and not loss.linear_in_label:
            why = "is averaged where the slopes of the loss are linear in the label, for several outputs"
            yield Refusal("target.noise", why, 'use "square", or no noise')

    def _displaced_checks(self, problem: Any) -> Iterable[Refusal]:
        rule = problem.algorithm
        key = "uses" if rule.uses > 1 else "displacement" if rule.displacement else ""
        path = f"algorithm.{key}" if key else "student.slope"
        if rule.regime != "classical":
            yield Refusal("algorithm.regime", f"{path} is read with every term", 'use regime = "classical"')
        if rule.uses > 1 and rule.displacement:
            yield Refusal("algorithm.displacement", "is not read together with uses", "drop one of them")
        if rule.uses > MOST_USES:
            yield Refusal("algorithm.uses", f"at most {MOST_USES} steps on each sample are averaged, got {rule.uses}")

    def reading_errors(self, problem: Any) -> dict[str, float]:
        """A written rule is run on vectors of numbers as it stands, against the table made of it."""
        from ...problem.update_check import update_error

        return {"update_error": update_error(problem)} if problem.algorithm.update else {}

    def warnings(self, problem: Any) -> list[str]:
        from .obstacles import obstacles

        return [*obstacles(problem), *self._idle(problem)]

    @staticmethod
    def _idle(problem: Any) -> Iterable[str]:
        """Say which rates and decays nothing comes of."""
        rule = problem.algorithm
        if not getattr(problem.student, "train_readout", False):
            for key in ("readout_learning_rate", "readout_weight_decay"):
                if getattr(rule, key):
                    yield f"algorithm.{key} changes nothing: the readout is not trained (student.train_readout)"
        if rule.spherical and rule.weight_decay:
            yield "algorithm.weight_decay changes nothing: every unit is rescaled to its norm (algorithm.spherical)"

    def describe(self, problem: Any) -> dict[str, Any]:
        from .exponents import describe, describe_spectrum
        from .obstacles import obstacles

        reasons = obstacles(problem)
        if structure(problem):
            # Said beside what the theory does: nothing finer takes over near convergence.
            close = {"difference form near convergence": "none: e_g is known to about 20 rtol"}
            return describe_spectrum(problem) | close | ({"out of reach": "; ".join(reasons)} if reasons else {})
        return describe(problem) | ({"out of reach": "; ".join(reasons)} if reasons else {})

    def references_for(self, problem: Any) -> tuple[str, ...]:
        target, rule = problem.target, problem.algorithm
        keys = ["saad1995online", "goldt2019dynamics"]
        if structure(problem):
            keys += general_references(problem)
        if isinstance(target, Index):
            keys += ["benarous2021online", "arnaboldi2023dimensionless"]
            if target.directions > 1:
                keys.append("abbe2022merged")
        kinked = ("relu", "abs", "sign", "step", "leaky", "max", "min")
        texts = (getattr(problem.student, "activation", ""), getattr(target, "activation", ""))
        if any(word in text for word in kinked for text in texts):
            keys += ["straat2019relu", "plackett1954reduction"]
        if rule.regime != "classical":
            keys.append("veiga2022phase")
        if rule.uses > 1:
            keys += ["lee2024neural", "dandi2024benefits"]
        if rule.displacement:
            keys += ["arnaboldi2024repetita", "dandi2024benefits"]
        return tuple(keys)


def general_references(problem: Any) -> list[str]:
    """Return the keys of works on the data laws and update rules that a problem uses."""
    data, target, student = problem.data, problem.target, problem.student
    used = {
        "goldt2020modeling": isinstance(data, HiddenManifold),
        "yoshida2019plateau": data.spectrum is not None,
        "worschech2024scaling": data.spectrum is not None and data.spectrum.exponent is not None,
        "refinetti2021mixtures": isinstance(target, ClusterLabels),
        "lee2021continual": bool(data.tasks),
        "patel2025perceptron": problem.algorithm.episodes is not None,
        "refinetti2021align": problem.algorithm.feedback is not None,
        "mori2025dropout": getattr(student, "dropout", 1.0) != 1.0,
        "collinswoodfin2025multiclass": isinstance(target, ClusterLabels) and problem.loss.form.classes,
    }
    return [key for key, wanted in used.items() if wanted]


THEORY = OnePassTheory()
