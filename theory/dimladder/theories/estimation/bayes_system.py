"""The system of the Bayes-optimal estimator: its equations, its branches over the sample ratio."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ...symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Step, Variable
from .bayes import BayesCurve
from .letters import BAYES

if TYPE_CHECKING:
    from ...problem import Problem
    from .question import BayesQuestion

GRID = ("start", "sample_ratio")
THRESHOLDS = ("weak", "spinodal", "first-order")

_MEANING = {
    "overlap": ("q", "overlap of the posterior mean with the target: E <z> z, E <w> w in units of the spectrum"),
    "mse": (r"\rho-q", "E (z - <z>)^2: squared error of the posterior mean of the latent field"),
    "classification_error": (r"\varepsilon", "probability that the likeliest label of a fresh sample is wrong"),
    "free_entropy": (r"\Phi", "(1/d) E ln P(labels | inputs)"),
}


class BayesSystem(FixedPoint):
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

    def solve(self) -> Solution:
        a, curve = self.question, self.curve
        shape = (len(a.starts), len(a.ratios))
        table = {p.name: np.full(shape, np.nan) for p in self.order_parameters}
        for i, start in enumerate(a.starts):
            for j, alpha in enumerate(a.ratios):
                state = curve.informed(alpha) if start == "informed" else curve.uninformed(alpha)
                table["overlap"][i, j], table["mse"][i, j] = state.q, state.rest
                table["free_entropy"][i, j] = state.free_entropy
                if "classification_error" in table:
                    # Perfect recovery: the label's own noise is left.
                    table["classification_error"][i, j] = self.channel.error(state.q, max(state.rest, 1e-30 * a.rho))
        variables = {n: Variable(GRID, v, *_MEANING[n]) for n, v in table.items()}
        found = curve.thresholds()
        variables["threshold"] = Variable(
            ("name",), np.array([found[n] for n in THRESHOLDS]), r"\alpha_c",
            "sample ratios of weak recovery, of the end of the uninformed branch, and where the branches tie",
        )  # fmt: skip
        coords = {"start": np.array(a.starts), "sample_ratio": np.array(a.ratios), "name": np.array(THRESHOLDS)}
        return Solution(coords, variables)

    def python(self) -> str:
        """Return the source of the channel and of the curve."""
        import inspect

        from . import bayes, bayes_channel, priors

        return "\n\n".join(inspect.getsource(m) for m in (priors, bayes_channel, bayes))

    def equations(self) -> list[Equation]:
        return [row for step in self.derivation() for row in step.equations]

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
