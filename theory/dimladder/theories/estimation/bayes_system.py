"""The system of the Bayes-optimal estimator: its equations, its branches over the sample ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...numerics.scalars import find_root
from ...symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Step, Stepwise, Variable
from .bayes import BayesCurve, BayesStates, State
from .letters import BAYES

if TYPE_CHECKING:
    from ...problem import Problem
    from .question import BayesQuestion

Array = NDArray[np.float64]
GRID = ("start", "sample_ratio")
THRESHOLDS = ("weak", "spinodal", "first-order")
# How far from the table's extremum that of the slope is looked for, and free entropies that tie.
NEAR, TIED = 0.02, 1e-9

_MEANING = {
    "overlap": ("q", "overlap of the posterior mean with the target: E <z> z, E <w> w in units of the spectrum"),
    "mse": (r"\rho-q", "E (z - <z>)^2: squared error of the posterior mean of the latent field"),
    "classification_error": (r"\varepsilon", "probability that the likeliest label of a fresh sample is wrong"),
    "free_entropy": (r"\Phi", "(1/d) E ln P(labels | inputs)"),
}


@dataclass(frozen=True)
class _Found:
    """The states at the points of the grid, the thresholds, the extremum at the spinodal, and both states at a tie."""

    points: list[State]
    thresholds: dict[str, float]
    maximum: State | None
    tie: tuple[State, State] | None

    @property
    def first_order(self) -> float:
        return self.thresholds["first-order"]


def _coordinate(state: State) -> float:
    """Return ln qh; 0 for a state that stays where it is."""
    return math.log(state.qh) if 0.0 < state.qh < math.inf else 0.0


def _log(ratio: float) -> float:
    return math.log(ratio) if 0.0 < ratio < math.inf else math.nan


class BayesSystem(Stepwise, FixedPoint):
    """Overlap, errors and free entropy on the uninformed and the informed branch, and the thresholds between them."""

    letters = BAYES

    def __init__(self, problem: Problem, question: BayesQuestion) -> None:
        super().__init__(problem)
        self.question = question
        self.channel = question.channel
        names = ["overlap", "mse", *(["classification_error"] if self.channel.discrete else []), "free_entropy"]
        self.order_parameters = tuple(OrderParameter(n, GRID, *_MEANING[n]) for n in names)

    @cached_property
    def curve(self) -> BayesCurve:
        """alpha as a function of the conjugate, with its branches."""
        a = self.question
        return BayesCurve(self.channel, a.prior, a.cells)

    @cached_property
    def _found(self) -> _Found:
        a, curve = self.question, self.curve
        points = [
            curve.informed(alpha) if start == "informed" else curve.uninformed(alpha)
            for start in a.starts
            for alpha in a.ratios
        ]
        thresholds = curve.thresholds()
        tie, ends = thresholds["first-order"], None
        if tie > 0.0:
            ends = curve.uninformed(tie), curve.informed(tie)
        return _Found(points, thresholds, curve.maximum, ends)

    def solve(self) -> Solution:
        a, found = self.question, self._found
        coords = {"start": np.array(a.starts), "sample_ratio": np.array(a.ratios), "name": np.array(THRESHOLDS)}
        return Solution(coords, self._variables(found.points, [found.thresholds[n] for n in THRESHOLDS]))

    def _variables(self, states: Sequence[State], thresholds: Sequence[float]) -> dict[str, Variable]:
        a = self.question
        table = {"overlap": [s.q for s in states], "mse": [s.rest for s in states]}
        if self.channel.discrete:
            # Perfect recovery: the label's own noise is left.
            table["classification_error"] = [self.channel.error(s.q, max(s.rest, 1e-30 * a.rho)) for s in states]
        table["free_entropy"] = [s.free_entropy for s in states]
        shape = (len(a.starts), len(a.ratios))
        variables = {n: Variable(GRID, np.array(v).reshape(shape), *_MEANING[n]) for n, v in table.items()}
        variables["threshold"] = Variable(
            ("name",), np.array(thresholds), r"\alpha_c",
            "sample ratios of weak recovery, of the end of the uninformed branch, and where the branches tie",
        )  # fmt: skip
        return variables

    # --- what derivatives need: a row a point of the grid, one for the extremum, one for the tie of the branches ---

    @cached_property
    def _law(self) -> BayesStates:
        a = self.question
        return BayesStates(self.channel, a.prior, a.cells)

    def settle(self, like: Any = None) -> None:
        """Take from `like` which points are nothing, everything or between, and which thresholds there are."""
        if like is not None:
            self._found = like._found

    def roots(self) -> Array | None:
        found = self._found
        rows = [[_coordinate(s), 0.0, 0.0] for s in found.points]
        t = 0.0
        if found.maximum is not None:
            near = math.log(found.maximum.qh)
            t = find_root(self._law.slope, near - NEAR, near + NEAR, xtol=1e-15)
        rows.append([t, 0.0, 0.0])
        if found.tie is None:
            return np.array([*rows, [0.0, 0.0, 0.0]])
        uninformed, informed = found.tie
        if not abs(informed.free_entropy - uninformed.free_entropy) < TIED:
            # The informed state wins wherever it is one.
            return None
        return np.array([*rows, [_coordinate(uninformed), _coordinate(informed), math.log(found.first_order)]])

    def _state(self, place: State, x: float, alpha: float) -> State:
        """Return the state at a coordinate: of the same place, between nothing and everything, as another."""
        if place.qh == 0.0:
            return self._law.nothing(alpha)
        return self._law.everything(alpha) if math.isinf(place.qh) else self._law.at(math.exp(x))

    def _points(self, states: Array) -> list[State]:
        ratios = [alpha for _ in self.question.starts for alpha in self.question.ratios]
        return [self._state(p, x, a) for p, x, a in zip(self._found.points, states[:, 0], ratios, strict=False)]

    def residual(self, states: Array) -> Array:
        gaps, found = states.copy(), self._found
        ratios = [alpha for _ in self.question.starts for alpha in self.question.ratios]
        for k, (point, alpha) in enumerate(zip(self._points(states), ratios, strict=True)):
            if 0.0 < point.qh < math.inf:
                gaps[k, 0] = _log(point.alpha / alpha)
        if found.maximum is not None:
            gaps[-2, 0] = self._law.slope(float(states[-2, 0]))
        if found.tie is not None:
            alpha = math.exp(states[-1, 2])
            ends = [self._state(p, x, alpha) for p, x in zip(found.tie, states[-1], strict=False)]
            for k, end in enumerate(ends):
                if 0.0 < end.qh < math.inf:
                    gaps[-1, k] = _log(end.alpha / alpha)
            gaps[-1, 2] = ends[1].free_entropy - ends[0].free_entropy
        return gaps

    def variables(self, states: Array) -> dict[str, Variable]:
        found, thresholds = self._found, dict(self._found.thresholds)
        thresholds["weak"] = self._law.weak_recovery()
        if found.maximum is not None:
            thresholds["spinodal"] = self._law.at(math.exp(states[-2, 0])).alpha
        elif not math.isnan(thresholds["spinodal"]):
            # Recovery jumps where it begins.
            thresholds["spinodal"] = thresholds["weak"]
        if found.tie is not None:
            thresholds["first-order"] = math.exp(states[-1, 2])
        return self._variables(self._points(states), [thresholds[n] for n in THRESHOLDS])

    def python(self) -> str:
        """Return the source of the channel and of the curve."""
        import inspect

        from . import bayes, bayes_channel, priors

        return "\n\n".join(inspect.getsource(m) for m in (priors, bayes_channel, bayes))

    def derivation(self) -> list[Step]:
        a = self.question
        overlap, psi = a.prior.latex()
        cells = len(a.cells)
        many = r"\quad\text{averaged over the blocks } q=\sum_j p_j s_j\,q_1(\hat q s_j)" if cells > 1 else ""
        channel = {
            "discrete": (r"I(q) = \mathbb E_\omega\sum_y \frac{(\partial_\omega Z)^2}{Z}",
                         r"\Psi(q) = \mathbb E_\omega\sum_y Z\log Z"),
            "linear": (r"I(q) = \frac{c^2}{\Delta+c^2(\rho-q)}",
                       r"\Psi(q) = -\tfrac12\log\left(2\pi e(\Delta+c^2(\rho-q))\right)"),
            "even": (r"I(q) = \mathbb E\left(\frac{z\tanh(z\omega/V)-\omega}{V}\right)^2,\quad V=\rho-q",
                     r"\Psi(q) = \mathbb E\log\left(\mathcal N(z;\omega,V)+\mathcal N(-z;\omega,V)\right)"),
            "density": (r"I(q) = \mathbb E_\omega\int \frac{(\partial_\omega Z)^2}{Z}\,\mathrm dy",
                        r"\Psi(q) = \mathbb E_\omega\int Z\log Z\,\mathrm dy"),
            "signs": (
                r"I(q) = \mathbb E_\omega\sum_y \frac{(\partial_{\omega_1} Z)^2}{Z}",
                r"\Psi(q) = \mathbb E_\omega\sum_y Z\log Z",
            ),
            "affine": (
                r"I(q) = \mathbb E_\omega\int \frac{(\partial_{\omega_1} Z)^2}{Z}\,\mathrm dy",
                r"\Psi(q) = \mathbb E_\omega\int Z\log Z\,\mathrm dy",
            ),
        }[self.channel.route]  # fmt: skip
        law = r"Z(y;\omega) = \mathbb P(y\mid z\sim\mathcal N(\omega,\rho-q)),\quad \omega\sim\mathcal N(0,q)"
        return [
            Step(
                "Posterior",
                "The target's own law is known: labels, prior and noise. By the symmetry between the target and a "
                "sample of the posterior one overlap q describes the fixed point.",
                tuple(self.channel.label_rows()),
            ),
            Step(
                "Channel", "What one observation tells.",
                (Equation("Z", law), Equation("information", channel[0]), Equation("entropy", channel[1])),
            ),
            Step(
                "Prior", f"Coordinates of the target: {a.prior.name}.",
                (Equation("overlap", overlap + many), Equation("psi", psi)),
            ),
            Step(
                "Fixed point",
                "Read backwards: every qh is a solution at one sample ratio, so that the curve needs no iteration. Its "
                "rising pieces are stable; extrema are spinodals.",
                (
                    Equation("conjugate", r"\hat q = \alpha\,I(q)\quad\Leftrightarrow\quad \alpha(\hat q) = "
                             r"\frac{\hat q}{I(q(\hat q))}"),
                    Equation("free_entropy", r"\Phi = \psi(\hat q)+\alpha\Psi(q)-\tfrac12 q\hat q"),
                ),
            ),
        ]  # fmt: skip
