"""The system of a convex minimiser: what is asked, its equations, its curve."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import DerivationError, SolveError
from ...symbolic.systems import FixedPoint, OrderParameter, Solution, Step, Stepwise, Variable
from . import observables, printed
from .channel import Channel, Loss, vector
from .labels import LabelLaw
from .letters import LETTERS
from .minimiser import Point, StateEvolution
from .penalty import NORMAL, PenaltySide, Prior, RidgeSide
from .resampling import Pair, ResampledChannel, weight_law
from .spectrum import Covariance

if TYPE_CHECKING:
    from ...problem import Problem

Array = NDArray[np.float64]
GRID = ("sample_ratio",)


@dataclass(frozen=True)
class Question:
    """A problem as numbers: what the equations need.

    Attributes
    ----------
    loss : Loss
    law : LabelLaw
    covariance : Covariance
    ratios : tuple of float
        n/d.
    ridge : float or None
        None: the best one at every ratio.
    per_sample : bool
        Whether the penalty is k/n times smaller: mean_i l + (ridge/2)|w|^2/k.
    optimise : str
        The observable that a free ridge minimises.
    penalty : Loss or None
        None is l2.
    prior : Prior
        Of the target's coordinates; matters beside a penalty other than l2.
    constant : bool
        Whether a constant is fitted.
    wants_signs : bool
        Whether the loss means labels -1 and +1.
    resampling, fraction : str, float
        As of the algorithm: what two fits of one data set have in common.
    """

    loss: Loss
    law: LabelLaw
    covariance: Covariance
    ratios: tuple[float, ...]
    ridge: float | None
    per_sample: bool = False
    optimise: str = "mse"
    penalty: Loss | None = None
    prior: Prior = NORMAL
    constant: bool = False
    wants_signs: bool = False
    resampling: str = "none"
    fraction: float = 1.0
    rtol: float = 1e-12
    damping: float = 0.5
    max_iterations: int = 2000


# name -> (LaTeX, meaning)
_MEANING = {
    "V": ("V", "response of the field to a force: variance of the fluctuation"),
    "q": ("q", "variance of the student's field on fresh inputs: w.Om w/k"),
    "m": ("m", "covariance of the student's field with the target's latent field"),
    "bias": ("b", "constant of the student's field"),
    "ridge": (r"\lambda", "strength of the penalty"),
    "weight_norm": ("|w|^2/k", "mean square of the fitted weights"),
    "pair_overlap": ("q_{12}", "covariance of the fields of two fits that differ in their samples"),
    "resampling_variance": ("q-q_{12}", "variance of the field from one fit to another"),
    "bagged_mse": (r"\mathrm{mse}_\infty", "mse of the mean field of infinitely many fits"),
    "bagged_classification_error": (r"\varepsilon_\infty", "the same of the sign of that field"),
    "mse": (r"\mathrm{mse}", "E (f - f*)^2 with the noise-free target"),
    "test_mse": (r"\mathrm{mse}_{\mathrm{test}}", "E (y - f)^2 on fresh samples"),
    "train_mse": (r"\mathrm{mse}_{\mathrm{train}}", "mean of (y - f)^2 over the training samples"),
    "effective_ridge": (r"\zeta", "ridge of the regression on the whole law that shrinks as the fit does"),
    "squared_bias": ("B", "squared error of that regression; the test error is this over 1 - degrees of freedom"),
    "degrees_of_freedom": (r"\mathrm{df}_2", "second degrees of freedom over the samples"),
    "classification_error": (r"\varepsilon", "probability that sign(f) differs from the label of a fresh sample"),
    "test_loss": (r"\mathcal L_{\mathrm{test}}", "mean loss of fresh samples"),
    "train_loss": (r"\mathcal L", "mean loss over the training samples, without penalty"),
    "calibration_error": (r"\mathrm{ECE}", "E |p - P(y = 1 | f)|, p the predicted probability 1/(1 + exp(-f))"),
    "brier": (r"\mathrm{Brier}", "E (1[y = 1] - p)^2"),
}


class MinimiserSystem(Stepwise, FixedPoint):
    """(V, q, m) of the minimiser at every sample ratio, and what follows from them."""

    letters = LETTERS

    meaning: ClassVar[dict[str, tuple[str, str]]] = _MEANING

    def __init__(self, problem: Problem, question: Question) -> None:
        super().__init__(problem)
        self.question = question
        law, loss = question.law, question.loss
        self.constant = question.constant or question.covariance.free_constant
        self.classifies = law.two_valued
        self.regresses = loss.square != 0.0 or not law.discrete
        # Ridge regression.
        self.weights = weight_law(question.resampling, question.fraction)
        self.reweighted = question.resampling in ("bootstrap", "subsample")
        self.closed = loss.square > 0.0 and question.penalty is None and not self.reweighted
        self.pair: Pair | None = None
        if question.resampling != "none":
            self.pair = Pair(question.resampling, loss, law, question.covariance, *self.weights)
        self.calibrates = law.two_valued and _likelihood(loss)
        self.order_parameters = tuple(
            OrderParameter(name, GRID, *self.meaning[name]) for name in ("V", "q", "m", *self.observable_names())
        )

    def check(self) -> None:
        """Refuse labels that the loss does not mean.

        Raises
        ------
        DerivationError
        """
        if self.constant and len(self.question.law.values) == 1 and not self.question.loss.square:
            raise DerivationError(
                "all labels are equal: the unpenalised constant alone fits them", where="student.bias",
                hint="set student.bias = false, or use labels that vary",
            )  # fmt: skip
        if self.pair is not None:
            self.pair.check()
        if self.question.wants_signs and not self.question.law.two_valued:
            raise DerivationError(
                f"the loss {self.question.loss.text!r} needs labels -1 and +1",
                where="target.formula", why=f"the labels are {self.question.law.text!r}",
                hint='use a two-valued formula such as "sign(z + 0.3*n1)", or a loss of y - f',
            )  # fmt: skip

    def observable_names(self) -> list[str]:
        """Names of what is read off a point, in the order of the solution."""
        names = ["bias"] if self.constant else []
        names += ["weight_norm"] if self.question.penalty is None else []
        names += ["mse"] if self.regresses else []
        names += ["test_mse", "train_mse"] if self.question.loss.square else []
        names += ["effective_ridge", "squared_bias", "degrees_of_freedom"] if self.closed else []
        names += ["classification_error"] if self.classifies else []
        names += ["test_loss", "train_loss"]
        names += ["calibration_error", "brier"] if self.calibrates else []
        if self.pair is not None:
            names += ["pair_overlap", "resampling_variance"]
            names += ["bagged_mse"] if self.regresses else []
            names += ["bagged_classification_error"] if self.classifies else []
        return names + (["ridge"] if self.question.ridge is None else [])

    def evolution(self, fineness: float = 1.0) -> StateEvolution:
        """Return the fixed point as a computable map."""
        a = self.question
        side: Any
        if a.penalty is None:
            side = RidgeSide(a.covariance)
        else:
            side = PenaltySide(a.penalty, a.covariance, a.prior, fineness)
        channel = Channel(a.loss, a.law, a.covariance.rho, fineness)
        if self.reweighted:
            channel = ResampledChannel(a.loss, a.law, a.covariance.rho, *self.weights, fineness)
        return StateEvolution(
            channel, side, a.covariance.rho, self.constant,
            rtol=a.rtol, damping=a.damping, max_iterations=a.max_iterations,
        )  # fmt: skip

    @cached_property
    def _evolution(self) -> StateEvolution:
        return self.evolution()

    def ridge_at(self, alpha: float) -> float:
        """Ridge of the summed objective at one sample ratio."""
        a = self.question
        assert a.ridge is not None
        # mean_i l + (r/2)|w|^2/k, times n.
        return a.ridge * alpha / a.covariance.psi if a.per_sample else a.ridge

    def read(self, point: Point) -> dict[str, float]:
        """Return the observables of one point."""
        a, e = self.question, point.averages
        rho, c = a.covariance.rho, a.loss.square
        out = {"V": point.V, "q": point.q, "m": point.m, "bias": point.b, "ridge": point.ridge}
        out["weight_norm"] = point.norm
        if a.per_sample:
            out["ridge"] = point.ridge * a.covariance.psi / point.alpha
        if self.regresses:
            out["mse"] = observables.mean_squared_error(a.law, rho, point)
        if c:
            out["test_mse"], out["train_mse"] = 2.0 * e.test / c, 2.0 * e.loss / c
        if point.fit is not None:
            out["effective_ridge"], out["squared_bias"] = point.fit.z, point.fit.squared_bias
            out["degrees_of_freedom"] = point.fit.df
        if self.classifies:
            out["classification_error"], out["calibration_error"], out["brier"] = self.trust(point)
        out["test_loss"], out["train_loss"] = e.test, e.loss
        return out if self.pair is None else out | self.shared(point, self.pair)

    def shared(self, point: Point, pair: Pair) -> dict[str, float]:
        """What two fits share, and the errors of the mean field of infinitely many."""
        q12 = pair.overlap(point)
        # Fits that share nothing have a mean of no variance: its sign is a coin.
        out, mean = {"pair_overlap": q12, "resampling_variance": point.q - q12}, replace(point, q=max(q12, 1e-14))
        if self.regresses:
            out["bagged_mse"] = observables.mean_squared_error(self.question.law, self.question.covariance.rho, mean)
        if self.classifies:
            out["bagged_classification_error"] = self.trust(mean)[0]
        return out

    @cached_property
    def _labels(self) -> Array:
        a = self.question
        return vector(a.loss, a.law, a.covariance.rho, node_width=0.1)

    def trust(self, point: Point, predictive: Array | None = None) -> tuple[float, float, float]:
        """P(sign(u) != y), calibration error and Brier score; of 1/(1 + exp(-u)), or of a posterior's vector."""
        from ...numerics.readings import calibration

        out = np.empty(3)
        data = np.empty(0) if predictive is None else predictive
        calibration.compiled(point.V, point.q, point.m, point.b, self._labels, data, self.calibrates, out)
        return float(out[0]), float(out[1]), float(out[2])

    def target(self, point: Point) -> float:
        """The observable that a free ridge minimises."""
        a = self.question
        if a.optimise == "classification_error" and a.law.symmetric() and not self.constant:
            # The error of sign(u) falls with the angle to the latent field: smoother than the error itself.
            return -abs(point.m) / math.sqrt(point.q)
        if a.optimise == "mse":
            return observables.mean_squared_error(a.law, a.covariance.rho, point)
        if a.optimise in ("test_loss", "test_mse"):
            return point.averages.test
        return self.read(point)[a.optimise]

    def points(self) -> list[Point | SolveError]:
        """Solve every ratio of the grid; failures stand in their place."""
        a, flow = self.question, self._evolution
        if a.ridge is not None:
            return flow.curve(a.ratios, [self.ridge_at(r) for r in a.ratios])
        out: list[Point | SolveError] = [SolveError("not reached", status="failed")] * len(a.ratios)
        near: Point | None = None
        for i in np.argsort(a.ratios, kind="stable"):
            try:
                near = flow.best_ridge(a.ratios[i], self.target, near)
                out[i] = near
            except SolveError as error:
                out[i] = error
        return out

    def solve(self) -> Solution:
        a = self.question
        points = self.points()
        failed = [(r, p) for r, p in zip(a.ratios, points, strict=True) if isinstance(p, SolveError)]
        variables = self._variables(points)
        found = [p for p in points if isinstance(p, Point)]
        solution = Solution(
            {"sample_ratio": np.array(a.ratios)},
            variables,
            stats={
                "evaluations": sum(p.evaluations for p in found),
                "residual": max((p.residual for p in found), default=math.nan),
            },
        )
        if failed:
            ratio, error = failed[0]
            solution.status, solution.message = error.status, str(error)
            raise SolveError(
                f"{len(failed)} of {len(points)} points were not reached",
                status=error.status, partial=solution, where=error.where or f"sample_ratio = {ratio:g}",
                why=error.why, hint=error.hint,
            )  # fmt: skip
        return solution

    def _variables(self, points: Sequence[Point | SolveError]) -> dict[str, Variable]:
        names = ["V", "q", "m", *self.observable_names()]
        table = {name: np.full(len(points), np.nan) for name in names}
        for i, point in enumerate(points):
            if isinstance(point, Point):
                values = self.read(point)
                for name in names:
                    table[name][i] = values[name]
        return {name: Variable(GRID, v, *self.meaning[name]) for name, v in table.items()} | self._thresholds()

    def roots(self) -> Array | None:
        points, flow = self.points(), self._evolution
        if any(isinstance(p, SolveError) for p in points):
            return None
        found = [(flow.coordinates(p), math.log(p.ridge)) for p in points if isinstance(p, Point)]
        return np.stack([x if self.question.ridge is not None else np.append(x, t) for x, t in found])

    def residual(self, states: Array) -> Array:
        flow, rows = self._evolution, []
        for x, ratio, ridge in self._with_ridges(states):
            gap = flow.residual(x, ratio, ridge)
            if self.question.ridge is None:
                # At the best ridge.
                gap = np.append(gap, flow.slope(x, ratio, math.log(ridge), self.target))
            rows.append(gap)
        return np.stack(rows)

    def variables(self, states: Array) -> dict[str, Variable]:
        flow = self._evolution
        return self._variables([flow.at(x, ratio, ridge) for x, ratio, ridge in self._with_ridges(states)])

    def _with_ridges(self, states: Array) -> Iterator[tuple[Array, float, float]]:
        """Yield coordinates, sample ratio and ridge of every point."""
        for x, ratio in zip(states, self.question.ratios, strict=True):
            if self.question.ridge is None:
                yield x[:-1], ratio, math.exp(x[-1])
            else:
                yield x, ratio, self.ridge_at(ratio)

    @property
    def seen(self) -> float:
        """Share of the samples that a fit sees at all."""
        return float(self.weights[1][self.weights[0] > 0.0].sum())

    def _thresholds(self) -> dict[str, Variable]:
        a = self.question
        out = {}
        if self.closed:
            mean, second, _ = a.law.moments(a.covariance.rho)
            unlearnt = second - mean**2 if self.constant else second
            out["label_variance"] = Variable(
                (), np.array(unlearnt), r"\operatorname{Var} y",
                "error of predicting nothing: the best constant where one is learnt, else 0",
            )  # fmt: skip
        if a.loss.square or a.loss.of_residual:
            return out | {
                "interpolation_threshold": Variable(
                    (),
                    np.array(a.covariance.psi / self.seen),
                    r"\alpha_\star",
                    "sample ratio up to which a vanishing ridge interpolates the samples, n = k",
                )
            }
        if a.law.two_valued:
            from .thresholds import separability

            return {
                "separability_threshold": Variable(
                    (),
                    np.array(separability(a.law, a.covariance, self.constant) / self.seen),
                    r"\alpha_{\mathrm{sep}}",
                    "sample ratio up to which the samples are linearly separable, so that only a penalty bounds w",
                )
            }
        return {}

    def module(self) -> ModuleType:
        """Return the printed algebra."""
        from .equations import algebra

        return algebra()

    def python(self) -> str:
        """Return the source of what is computed: the algebra, and the loss between its kinks."""
        from ...symbolic.store import source

        text = source(self.module())
        if not self.question.loss.square:
            text += "\n\n# The loss.\n\n" + source(self.question.loss.module())
        if self.question.penalty is not None:
            text += "\n\n# The penalty.\n\n" + source(self.question.penalty.module())
        return text

    def derivation(self) -> list[Step]:
        a = self.question
        kinds = ", ".join(dict.fromkeys(printed.describe(c) for c in a.law.components))
        objective = "sum_i l(y_i, u_i) + sum_j r(w_j), n = alpha d samples, k = psi d features"
        depth = len(a.covariance.layers)
        seen = f"{depth} layer(s) of random features" if depth else "the inputs themselves"
        if depth and a.covariance.layers[0].passed > 0.0:
            seen = "the derivatives of a network of one layer by all its weights, at its start"
        steps = [
            Step(
                "Objective",
                f"Minimise {objective}; the readout sees {seen}. Leaving one sample out makes its field omega "
                "Gaussian; putting it back moves the field to the proximal point of the loss.",
            ),
            Step(
                "Channel",
                f"The force f is averaged over the field and the label: {kinds}.",
                tuple(printed.channel_rows(a.loss, a.law, self.constant)),
            ),
            Step(
                "Conjugates",
                "Forces and curvatures summed over the samples.",
                tuple(printed.block_rows("conjugates")),
            ),
            Step(
                "Spectrum",
                "All that matters of the inputs are two functions of one number.",
                tuple(printed.spectrum_rows(a.covariance)),
            ),
            Step(
                "Fixed point",
                "The overlaps of the minimiser of the effective problem reproduce those of the fields"
                + (", and the constant makes the mean force vanish." if self.constant else "."),
                tuple(printed.penalty_rows(a.penalty)),
            ),
        ]
        if self.closed:
            steps.append(
                Step(
                    "Ridge regression",
                    "The square loss needs no iteration: lambda/zeta + c g(zeta) = c alpha/psi is one equation for the "
                    "renormalised ridge, and everything else follows from it.",
                    (printed.ridge_root(a.covariance.bulk), *printed.block_rows("ridge")),
                )
            )
        if self.pair is not None:
            steps.append(printed.pair_step(a.loss, a.resampling, a.fraction))
        if self.regresses:
            steps.append(Step("Errors", "Observables at the fixed point.", tuple(printed.block_rows("errors"))))
        return steps


def _likelihood(loss: Loss) -> bool:
    """Whether exp(-l(y, f)) is a probability of labels -1 and +1."""
    m = loss.module()
    f = np.linspace(-5.0, 5.0, 21)
    total = np.array([math.exp(-m.value(1.0, u, u)) + math.exp(-m.value(-1.0, u, u)) for u in f])
    odd = np.array([m.value(1.0, u, u) - m.value(-1.0, u, u) + u for u in f])
    return bool(np.max(np.abs(total - 1.0)) < 1e-12 and np.max(np.abs(odd)) < 1e-12)
