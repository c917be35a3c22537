"""The Gibbs measure exp(-[loss]/temperature): the fixed point of the minimiser with another force.

Under the posterior the field of a sample is weighed by exp(-l(y, u)/T) N(u; omega, V), so that

    f = (<u> - omega)/V,   -df/domega = (V - Var u)/V^2,

and the penalty becomes the prior N(0, T/ridge). Everything else is the minimiser's. T -> 0 with V -> V T gives it back.
It is exact where the replicon, alpha E[(df/domega)^2] (1/k) sum om^2/(V^ om + ridge/T)^2, is below 1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import DerivationError, SolveError
from ...symbolic.systems import Equation, Solution, Step, Variable
from . import observables, printed
from .channel import Averages, Loss
from .label_chances import component_chances, panels
from .labels import Component, LabelLaw
from .minimiser import Point, RidgeSide, StateEvolution
from .system import GRID, MinimiserSystem

Array = NDArray[np.float64]
# The field's law is integrated over this many of its widest standard deviations, by steps of this many narrowest ones.
_REACH, _STEP = 10.0, 0.25


class Moments(NamedTuple):
    """Of the field under the posterior: ln Z, f and -df/domega at every omega."""

    log_z: Array
    f: Array
    response: Array


def field_moments(loss: Loss, y: float, omega: Array, V: float, beta: float) -> Moments:
    """Moments of exp(-beta l(y, u)) N(u; omega, V): trapezoidal rules around the most probable field."""
    from ...numerics import proximal

    k = loss.module()
    centre = np.empty_like(omega)
    proximal.prox_many(k.slope, k.curvature, k.roots, y, np.ascontiguousarray(omega), beta * V, centre)
    sharp = max(0.0, max(k.curvature(y, float(c), float(c)) for c in np.quantile(centre, np.linspace(0, 1, 33))))
    step = _STEP * math.sqrt(V / (1.0 + beta * V * sharp))
    count = math.ceil(_REACH * math.sqrt(V) / step)
    offsets = step * np.arange(-count, count + 1)
    u = np.ascontiguousarray(centre[:, None] + offsets)
    cost = np.empty_like(u)
    proximal.values_on(k.value, y, u, cost)
    exponent = -beta * cost - (u - omega[:, None]) ** 2 / (2.0 * V)
    top = exponent.max(axis=1, keepdims=True)
    weight = np.exp(exponent - top)
    norm = weight.sum(axis=1)
    shift = (weight @ offsets) / norm
    variance = (weight @ offsets**2) / norm - shift**2
    log_z = np.log(norm * step / math.sqrt(2.0 * math.pi * V)) + top[:, 0]
    return Moments(log_z, (centre + shift - omega) / V, (V - variance) / V**2)


class PosteriorChannel:
    """Averages of the posterior's force over the label law.

    Parameters
    ----------
    loss : Loss
        Smooth: a likelihood with kinks is refused.
    beta : float
        1/temperature.
    """

    closed = False

    def __init__(self, loss: Loss, law: LabelLaw, rho: float, beta: float) -> None:
        self.loss, self.law, self.rho, self.beta = loss, law, rho, beta
        if loss.pieces.kinks:
            raise DerivationError(
                f"the loss {loss.text!r} has kinks", where="loss.function",
                why="the posterior's field is integrated by a rule for smooth likelihoods",
                hint="use a smooth loss: square, logistic, log-cosh, or a formula",
            )  # fmt: skip
        residual = loss.of_residual and all(c.kind == "linear" for c in law.components)
        if not (law.discrete or residual):
            raise DerivationError(
                "this label law is not read under a posterior", where=f"target.formula = {law.text!r}",
                why="labels must take finitely many values, or be linear in z with a loss of y - f",
                hint='use algorithm.kind = "minimise"',
            )  # fmt: skip
        self.curvature2 = math.nan

    def averages(self, V: float, q: float, m: float, b: float = 0.0) -> Averages:
        """Averages at one state; NaN outside the domain. `loss` is -E ln Z, the mean training log-loss of the measure.

        The mean square of df/domega is kept in `curvature2`.
        """
        if not (V > 0.0 and q > 0.0 and q * self.rho > m * m and math.isfinite(V + q + m + b)):
            return Averages(*[math.nan] * 7)
        total = np.zeros(6)
        if self.law.discrete:
            self._discrete(V, q, m, b, total)
        else:
            for c in self.law.components:
                self._linear(c, V, q, m, b, total)
        self.curvature2 = float(total[5])
        return Averages(total[0], total[1], total[2], total[3], total[4], math.nan, math.nan)

    def _discrete(self, V: float, q: float, m: float, b: float, total: Array) -> None:
        s, variance = math.sqrt(q), self.rho - m * m / q
        ends = {0.0}
        for c in self.law.components:
            slope, spread = abs(c.gain * m) / s, math.sqrt(c.gain**2 * variance + c.inner)
            if 0.0 < spread < 2.0 * slope:
                for cut in c.cuts:
                    ends |= {cut * s / (c.gain * m) + k * spread / slope for k in (-8, -4, -2, -1, 0, 1, 2, 4, 8)}
        x, w = panels(ends, 0.75)
        omega, values = s * x, self.law.values
        P, dP = np.zeros((len(values), x.size)), np.zeros((len(values), x.size))
        for c in self.law.components:
            chance, push = component_chances(c, m / s * x, variance, values)
            P, dP = P + c.probability * chance, dP + c.probability * push
        for y, p, dp in zip(values, P, dP, strict=True):
            found = field_moments(self.loss, y, omega + b, V, self.beta)
            rows = (p * found.f, p * found.f**2, p * found.response, dp * found.f, -p * found.log_z,
                    p * found.response**2)  # fmt: skip
            total += np.array([float(w @ row) for row in rows])

    def _linear(self, c: Component, V: float, q: float, m: float, b: float, total: Array) -> None:
        # y - omega is one Gaussian variable, and the loss depends on y - u: l(0, u - y).
        slope = c.slope
        variance = slope**2 * c.variance(self.rho) + c.outer - 2.0 * slope * c.gain * m + q
        x, w = panels({0.0}, 0.75)
        found = field_moments(self.loss, 0.0, b - c.intercept + math.sqrt(variance) * x, V, self.beta)
        response = float(w @ found.response)
        total += c.probability * np.array(
            [float(w @ found.f), float(w @ found.f**2), response, c.gain * slope * response, -float(w @ found.log_z),
             float(w @ found.response**2)]
        )  # fmt: skip


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
        channel: Any = PosteriorChannel(a.loss, a.law, a.covariance.rho, beta)
        return StateEvolution(
            channel, _Tempered(a.covariance, beta), a.covariance.rho, self.constant,
            rtol=max(a.rtol, 1e-12), damping=a.damping, max_iterations=a.max_iterations,
        )  # fmt: skip

    def read(self, point: Point) -> dict[str, float]:
        a, rho, beta = self.question, self.question.covariance.rho, 1.0 / self.temperature
        out = {"V": point.V, "q": point.q, "m": point.m, "bias": point.b, "log_loss": point.averages.loss}
        if self.classifies:
            out["classification_error"] = observables.classification_error(a.law, rho, point.q, point.m, point.b)

            def predicted(u: Array) -> Array:
                up, down = (np.exp(field_moments(a.loss, y, u, point.V, beta).log_z) for y in (1.0, -1.0))
                return np.asarray(up / (up + down))

            out["calibration_error"], out["brier"] = observables.calibration(
                a.law, rho, point.q, point.m, point.b, predicted
            )
        else:
            out["mse"] = observables.mean_squared_error(a.law, rho, point)
        flow = self.evolution()
        flow.channel.averages(point.V, point.q, point.m, point.b)
        z = beta * point.ridge / point.Vh
        g, gp, _, _ = a.covariance.resolvents(z)
        curvature2 = flow.channel.curvature2  # type: ignore[attr-defined]
        out["replicon"] = point.alpha / a.covariance.psi * curvature2 * (g + z * gp) / point.Vh**2
        return out

    def solve(self) -> Solution:
        a = self.question
        names = ["V", "q", "m", *self.observable_names()]
        table = {name: np.full(len(a.ratios), np.nan) for name in names}
        for i, point in enumerate(self.points()):
            if isinstance(point, SolveError):
                raise point
            for name, value in self.read(point).items():
                if name in table:
                    table[name][i] = value
        variables = {name: Variable(GRID, values, *_MEANING[name]) for name, values in table.items()}
        solution = Solution({"sample_ratio": np.array(a.ratios)}, variables)
        unstable = np.flatnonzero(table["replicon"] > 1.0)
        if unstable.size:
            raise SolveError(
                "replica symmetry is unstable", status="unstable", partial=solution,
                where=f"sample_ratio = {a.ratios[unstable[0]]:g}", why=f"replicon {table['replicon'].max():.4g} > 1",
                hint="raise algorithm.temperature or loss.ridge",
            )  # fmt: skip
        return solution

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


class _Tempered(RidgeSide):
    """The prior side of exp(-penalty/T)."""

    def __init__(self, covariance: Any, beta: float) -> None:
        super().__init__(covariance)
        self.beta = beta

    def overlaps(self, Vh: float, qh: float, mh: float, ridge: float) -> tuple[float, float, float, float]:
        return super().overlaps(Vh, qh, mh, self.beta * ridge)
