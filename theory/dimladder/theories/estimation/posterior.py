"""The Gibbs measure exp(-[loss]/temperature): the fixed point of the minimiser with another force.

Under the posterior the field of a sample is weighed by exp(-l(y, u)/T) N(u; omega, V), so that

    f = (<u> - omega)/V,   -df/domega = (V - Var u)/V^2,

and the penalty becomes the prior N(0, T/ridge). Everything else is the minimiser's. T -> 0 with V -> V T gives it back.
It is exact where the replicon, alpha E[(df/domega)^2] (1/k) sum om^2/(V^ om + ridge/T)^2, is below 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import DerivationError, SolveError
from ...symbolic.systems import Equation, Solution, Step, Variable
from . import observables, printed
from .channel import Channel, Loss
from .labels import LabelLaw
from .minimiser import Point, StateEvolution
from .penalty import RidgeSide
from .system import MinimiserSystem


def posterior_channel(loss: Loss, law: LabelLaw, rho: float, beta: float, fineness: float = 1.0) -> Channel:
    """Return the channel of exp(-beta l(y, u)).

    Raises
    ------
    DerivationError
        For labels that are neither of finitely many values nor linear with a loss of y - f.
    """
    residual = loss.of_residual and all(c.kind == "linear" for c in law.components)
    if not (law.discrete or residual):
        raise DerivationError(
            "this label law is not read under a posterior", where=f"target.formula = {law.text!r}",
            why="labels must take finitely many values, or be linear in z with a loss of y - f",
            hint='use algorithm.kind = "minimise"',
        )  # fmt: skip
    return Channel(loss, law, rho, fineness, beta)


_MEANING = {
    "V": ("V", "variance of the field under the posterior"),
    "q": ("q", "variance of the posterior mean of the field on fresh inputs"),
    "m": ("m", "covariance of the posterior mean of the field with the target's latent field"),
    "bias": ("b", "constant of the field"),
    "mse": (r"\mathrm{mse}", "E (<u> - f*)^2 with the noise-free target"),
    "classification_error": (r"\varepsilon", "probability that sign(<u>) differs from the label of a fresh sample"),
    "calibration_error": (r"\mathrm{ECE}", "E |p - P(y = 1 | <u>)|, p the predictive probability"),
    "brier": (r"\mathrm{Brier}", "E (1[y = 1] - p)^2"),
    "log_loss": (r"-\overline{\log Z}", "-E ln Z of a sample given the others: minus the slope of the free entropy"),
    "replicon": (r"\lambda_{\mathrm{rep}}", "replica symmetry, and message passing, are stable below 1"),
}


class PosteriorSystem(MinimiserSystem):
    """(V, q, m) of the Gibbs measure at every sample ratio."""

    meaning = _MEANING

    def __init__(self, problem: Any, question: Any, temperature: float) -> None:
        self.temperature = temperature
        super().__init__(problem, question)
        self.calibrates = self.classifies

    def check(self) -> None:
        super().check()
        self.evolution()

    def observable_names(self) -> list[str]:
        names = ["bias"] if self.constant else []
        names += ["classification_error", "calibration_error", "brier"] if self.classifies else ["mse"]
        return [*names, "log_loss", "replicon"]

    def evolution(self, fineness: float = 1.0) -> StateEvolution:
        a = self.question
        beta = 1.0 / self.temperature
        channel = posterior_channel(a.loss, a.law, a.covariance.rho, beta, fineness)
        return StateEvolution(
            channel, RidgeSide(a.covariance, beta), a.covariance.rho, self.constant,
            rtol=max(a.rtol, 1e-12), damping=a.damping, max_iterations=a.max_iterations,
        )  # fmt: skip

    def read(self, point: Point) -> dict[str, float]:
        a, rho, beta = self.question, self.question.covariance.rho, 1.0 / self.temperature
        out = {"V": point.V, "q": point.q, "m": point.m, "bias": point.b, "log_loss": point.averages.loss}
        if self.classifies:
            data = posterior_channel(a.loss, a.law, rho, beta).data()
            out["classification_error"], out["calibration_error"], out["brier"] = self.trust(point, data)
        else:
            out["mse"] = observables.mean_squared_error(a.law, rho, point)
        z = beta * point.ridge / point.Vh
        g, gp, _, _ = a.covariance.resolvents(z)
        out["replicon"] = point.alpha / a.covariance.psi * point.averages.curvature2 * (g + z * gp) / point.Vh**2
        return out

    def solve(self) -> Solution:
        a, points = self.question, self.points()
        for point in points:
            if isinstance(point, SolveError):
                raise point
        variables = self._variables(points)
        solution = Solution({"sample_ratio": np.array(a.ratios)}, variables)
        replicon = np.asarray(variables["replicon"].values)
        unstable = np.flatnonzero(replicon > 1.0)
        if unstable.size:
            raise SolveError(
                "replica symmetry is unstable", status="unstable", partial=solution,
                where=f"sample_ratio = {a.ratios[unstable[0]]:g}", why=f"replicon {replicon.max():.4g} > 1",
                hint="raise algorithm.temperature or loss.ridge",
            )  # fmt: skip
        return solution

    def _thresholds(self) -> dict[str, Variable]:
        return {}

    def derivation(self) -> list[Step]:
        steps = super().derivation()
        rows = [
            *printed.label_rows(self.question.law),
            Equation("measure", r"\langle\cdot\rangle \propto e^{-\ell(y,u)/T}\,\mathcal N(u;\omega,V)", None,
                     f"T = {self.temperature:g}, loss {self.question.loss.text}"),
            Equation("force", r"f = \frac{\langle u\rangle-\omega}{V}"),
            Equation("ff", r"\overline{f^2} = \mathbb E\,f^2"),
            Equation("fv", r"\bar f' = \mathbb E\,\frac{V-\operatorname{Var}u}{V^2}"),
            Equation("fz", r"\bar f^{\partial} = \mathbb E\,\partial_z f"),
        ]  # fmt: skip
        steps[0] = Step("Measure", "Gibbs measure exp(-[loss]/T); the l2 penalty is the prior N(0, T/ridge).")
        steps[1] = Step("Channel", "The field of a sample, weighed by its likelihood.", tuple(rows))
        return steps
