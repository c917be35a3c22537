"""Risks and accuracy at every train fraction: closed forms without a self-loop, the stationary point with one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...errors import SolveError
from ...symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Step, Variable
from .free_energy import POSITIVE, UNKNOWNS, expressions, newton, scales, source, start_without_self_loop, unscaled
from .mixture import accuracy, read_without_self_loop, renormalised_ridge, shrinkage, without_self_loop

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

RISKS = (
    OrderParameter(
        "test_risk", ("train_fraction",), r"R_{\mathrm{test}}", "mean of (h_i - y_i)^2 over unlabelled nodes"
    ),
    OrderParameter(
        "train_risk", ("train_fraction",), r"R_{\mathrm{train}}", "mean of (h_i - y_i)^2 over labelled nodes"
    ),
    OrderParameter(
        "test_accuracy", ("train_fraction",), r"\mathrm{Acc}", "fraction of unlabelled nodes with sign h_i = y_i"
    ),
)
# Between these Newton's method meets the stationary point of a self-loop to ten digits.
LEAST_RIDGE, LARGEST_RIDGE = 1e-20, 1e5


class RidgeOnGraph(FixedPoint):
    """Stationary point of the free energy at every train fraction."""

    order_parameters = RISKS
    letters = r"""
    g             :: resolvent of the features' covariance
    t             :: ridge, renormalised
    r             :: ridge in units of the labelled nodes
    \gamma        :: nodes a feature :: data.gamma
    \tau          :: fraction of the nodes that are labelled
    \varphi       :: signal that is seen through the features
    \lambda       :: strength of the communities in the graph :: data.homophily
    \mu           :: strength of the communities in the features :: data.mu
    \psi          :: mean output on a node, in units of its label
    \sigma        :: standard deviation of the output
    d             :: degrees of freedom, over the labelled nodes
    \Phi          :: distribution function of the standard normal
    \mathcal{F}   :: free energy, stationary in its arguments
    c             :: self-loop: weight of a node's own features :: student.self_loop
    \beta, s, \theta, Q, \nu, m, \chi, q, k :: arguments of the free energy
    """

    def equations(self) -> list[Equation]:
        import sympy as sp

        nice = {sp.Symbol("lam", real=True): sp.Symbol("lambda", real=True)}
        e = {k: v.subs(nice) for k, v in expressions().items()}
        student = self.problem.student
        if student.self_loop == 0:
            resolvent, ridge = e["resolvent"], e["ridge"]
            phi = r"\varphi"
            return [
                Equation.of("resolvent", resolvent.lhs, resolvent.rhs, "Marchenko-Pastur"),
                Equation.of("ridge", ridge.lhs, ridge.rhs, "t: renormalised ridge; t = 0 for r = 0, gamma tau > 1"),
                Equation.of("overlap", phi, e["overlap"], "signal seen through the features"),
                Equation(
                    "test_risk",
                    r"R_{\mathrm{test}} = (1-\psi)^2 + \sigma^2,\quad \psi = \varphi/(1+\varphi)",
                ),
                Equation(
                    "spread",
                    r"\sigma^2 = \frac{(t\varphi)' + d}{(1+\varphi)^2(1-d)},\quad d = "
                    r"\frac1\tau\Bigl(\frac{tg}{1+g}\Bigr)'",
                ),
                Equation("train_risk", r"R_{\mathrm{train}} = (r/t)^2 R_{\mathrm{test}}"),
                Equation("test_accuracy", r"\mathrm{Acc} = \Phi(\psi/\sigma)"),
            ]
        accuracy = sp.erfc(-e["margin"] / sp.sqrt(2 * e["spread"])) / 2
        return [
            Equation.of("free_energy", r"\mathcal{F}", e["free_energy"], "stationary in " + ", ".join(UNKNOWNS)),
            Equation.of("test_risk", r"R_{\mathrm{test}}", e["test_risk"]),
            Equation.of("train_risk", r"R_{\mathrm{train}}", e["train_risk"]),
            Equation.of("test_accuracy", r"\mathrm{Acc}", accuracy),
        ]

    def derivation(self) -> list[Step]:
        return [
            Step(
                "Regression on a mixture",
                "Given X, row i of A X is y_i a + S^{1/2} g_i with a = (lambda/N) X^T y and S = X^T X/N: without a "
                "self-loop the nodes are independent "
                "draws of a Gaussian mixture in F dimensions, and the risks follow from the resolvent of a spiked "
                "Wishart matrix.",
            ),
            Step(
                "Self-loop",
                "With c different from 0 a node sees its own features, which also are in X. Two Gaussian "
                "comparisons, for Xi and for Z, "
                "leave one scalar minimisation per labelled and unlabelled node, and a free energy of nine scalars.",
            ),
            Step("Equations", "Stationarity gives the risks.", tuple(self.equations())),
        ]

    def module(self) -> ModuleType:
        from ...symbolic import store

        return store.module(("graph-convolution",), source)

    def python(self) -> str:
        from ...symbolic import store

        return store.source(self.module())

    def solve(self) -> Solution:
        """Return risks and accuracy at every train fraction; infinite risk at the interpolation threshold gamma tau
        = 1 without ridge.
        """
        import numpy as np

        fractions = self._fractions
        return Solution({"train_fraction": np.array(fractions)}, _named([self.risks(f) for f in fractions]))

    @property
    def _fractions(self) -> tuple[float, ...]:
        return tuple(self.problem.grid.values("train_fraction"))

    # --- what derivatives need ---

    def roots(self) -> Array | None:
        """Return log t without a self-loop, else the nine unknowns, at every train fraction.

        Positive unknowns by their logarithm, nu, m and k in units of theta sqrt(Q), sqrt(Q) and sqrt(q). None without a
        ridge, or with one that is too large for the stationary point.
        """
        import numpy as np

        data, student = self.problem.data, self.problem.student
        rows: list[Any] = []
        for f in self._fractions:
            ridge = self.strength(f)
            if student.self_loop == 0 and ridge > 0:
                rows.append([math.log(renormalised_ridge(data.gamma, f, ridge)[0])])
            elif student.self_loop != 0 and LEAST_RIDGE <= ridge <= LARGEST_RIDGE:
                x, _ = self._stationary(f, ridge)
                rows.append(np.where(POSITIVE, np.log(np.where(POSITIVE, x, 1.0)), x / scales(x)))
            else:
                return None
        return np.array(rows)

    def residual(self, states: Array) -> Array:
        import numpy as np

        data, found = self.problem.data, []
        for row, f in zip(states, self._fractions, strict=True):
            ridge = self.strength(f)
            if len(row) == 1:
                t = math.exp(row[0])
                found.append([shrinkage(t, data.gamma, f) - ridge / t])
            else:
                x = unscaled(row)
                found.append(self.module().derivatives(x, self._parameters(f, ridge))[0] * scales(x))
        return np.array(found)

    def variables(self, states: Array) -> dict[str, Variable]:
        data, found = self.problem.data, []
        for row, f in zip(states, self._fractions, strict=True):
            ridge = self.strength(f)
            if len(row) == 1:
                t = math.exp(row[0])
                found.append(read_without_self_loop(data.gamma, data.mu, data.homophily, f, t, ridge / t)[:3])
            else:
                found.append(self._observed(unscaled(row), self._parameters(f, ridge)))
        return _named(found)

    def _parameters(self, fraction: float, ridge: float, part: float = 1.0, start: float | None = None) -> Array:
        """Return `CONSTANTS`, a part of the way from `start` and no self-loop to the problem's own."""
        import numpy as np

        data = self.problem.data
        lam = data.homophily if start is None else start + part * (data.homophily - start)
        return np.array([data.gamma, data.mu, lam, part * self.problem.student.self_loop, fraction, ridge])

    def _observed(self, state: Array, p: Array) -> tuple[float, float, float]:
        test, train, margin, spread = self.module().observe(state, p)
        return test, train, accuracy(margin, spread)

    def strength(self, fraction: float) -> float:
        """The ridge r of the free energy at one train fraction."""
        loss = self.problem.loss
        if loss.ridge_per_sample is not None:
            return float(self.problem.data.gamma * loss.ridge_per_sample)
        return float((loss.ridge or 0.0) / fraction)

    def risks(self, fraction: float) -> tuple[float, float, float]:
        """(test risk, train risk, test accuracy) at one train fraction.

        Raises
        ------
        SolveError
            If Newton's method does not reach the stationary point.
        """
        student = self.problem.student
        data = self.problem.data
        ridge = self.strength(fraction)
        if ridge == 0 and abs(data.gamma * fraction - 1) < 1e-12:
            return math.inf, 0.0, 0.5
        if student.self_loop == 0:
            return without_self_loop(data.gamma, data.mu, data.homophily, fraction, ridge)[:3]
        if ridge < LEAST_RIDGE and data.gamma * fraction < 1:
            # Interpolation without ridge is a boundary of the stationary point: a ridge below rounding stands in.
            test, train, accuracy = self._with_self_loop(fraction, LEAST_RIDGE)
            return test, train * (ridge / LEAST_RIDGE) ** 2, accuracy
        if ridge <= LARGEST_RIDGE:
            return self._with_self_loop(fraction, ridge)
        # The weights, of order 1/ridge, drown in rounding beside the labels. Everything is analytic in 1/ridge.
        import numpy as np

        nodes = np.array([1.0, 2.0, 4.0]) / LARGEST_RIDGE
        values = np.array([self._with_self_loop(fraction, 1 / x) for x in nodes])
        others = [np.delete(nodes, i) for i in range(3)]
        weights = [np.prod((1 / ridge - o) / (x - o)) for x, o in zip(nodes, others, strict=True)]
        test, train, accuracy = np.array(weights) @ values
        return float(test), float(train), float(accuracy)

    def _with_self_loop(self, fraction: float, ridge: float) -> tuple[float, float, float]:
        return self._observed(*self._stationary(fraction, ridge))

    def _stationary(self, fraction: float, ridge: float) -> tuple[Array, Array]:
        """Return the stationary point, followed from that without a self-loop, and the constants there."""
        data, generated = self.problem.data, self.module()
        start = data.homophily if abs(data.homophily) > 0.2 else math.copysign(0.2, data.homophily)
        state = start_without_self_loop(data.gamma, data.mu, start, fraction, ridge)
        done, step = 0.0, 0.25
        while done < 1.0:
            ahead = min(1.0, done + step)
            p = self._parameters(fraction, ridge, ahead, start)
            found = newton(generated, state, p)
            if found is not None:
                state, done, step = found, ahead, min(2 * step, 1.0)
            else:
                step /= 2
                if step < 1e-4:
                    raise SolveError(
                        "the stationary point of the graph convolution was lost",
                        status="not-converged",
                        where=f"train_fraction = {fraction:g}, self_loop = {p[3]:.3g}, homophily = {p[2]:.3g}",
                        hint="a larger ridge keeps the problem away from its singular points, such as gamma tau = 1",
                    )
        return state, p


def _named(rows: Sequence[tuple[float, float, float]]) -> dict[str, Variable]:
    import numpy as np

    table = np.array(rows)
    return {p.name: Variable(p.dims, table[:, k], p.latex, p.meaning) for k, p in enumerate(RISKS)}
