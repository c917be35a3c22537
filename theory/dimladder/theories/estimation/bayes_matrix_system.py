"""The system of the Bayes-optimal estimator of several latent fields: overlap matrices over the sample ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import SolveError
from ...symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Step, Variable
from .bayes_matrix import MatrixBayes, MatrixChannel, MatrixState
from .letters import BAYES

if TYPE_CHECKING:
    from ...problem import Problem

GRID = ("start", "sample_ratio")
MATRIX = (*GRID, "teacher", "teacher")
_MEANING = {
    "overlap": ("Q", "E <z> <z>^T: overlap of the posterior mean with the target, field by field"),
    "mse": (r"C-Q", "E (z - <z>)(z - <z>)^T"),
    "free_entropy": (r"\Phi", "(1/d) E ln P(labels | inputs)"),
    "classification_error": (r"\varepsilon", "probability that the likeliest label of a fresh sample is wrong"),
}
# Of what the iteration begins with, a share is tilted anew along a curve: a symmetric state would stay symmetric.
_KEPT, _TILT = 0.98, 2e-3
# Kinks of the likeliest label: the rule for its chance is this much finer (two fields).
_FINER = 8.0


class MatrixBayesSystem(FixedPoint):
    """Overlap matrix and free entropy on the uninformed and the informed branch."""

    letters = BAYES

    def __init__(self, problem: Problem, channel: MatrixChannel) -> None:
        super().__init__(problem)
        self.channel, self.flow = channel, MatrixBayes(channel)
        self.starts = tuple(problem.grid.start or ("uninformed",))
        self.ratios = problem.grid.values("sample_ratio")
        self.errs = channel.discrete and channel.fields == 2
        names = [n for n in _MEANING if n != "classification_error" or self.errs]
        self.order_parameters = tuple(
            OrderParameter(n, MATRIX if n in ("overlap", "mse") else GRID, *_MEANING[n]) for n in names
        )

    def branch(self, start: str) -> list[MatrixState]:
        """Solve every ratio from the side where the branch is followed: from few samples, or from many."""
        n = self.channel.fields
        tilt = np.random.default_rng(7).standard_normal((n, n))
        tilt = _TILT * tilt @ tilt.T / n
        order = np.argsort(self.ratios, kind="stable")
        found: dict[int, MatrixState] = {}
        near = None
        for i in order if start == "uninformed" else order[::-1]:
            alpha = float(self.ratios[i])
            Q = self.flow.solve(alpha, start, near)
            found[int(i)] = self.flow.state(Q, alpha)
            near = (_KEPT * Q + tilt) if start == "uninformed" else (_KEPT * Q + (1.0 - _KEPT) * 0.9 * np.eye(n))
        return [found[i] for i in range(len(self.ratios))]

    def solve(self) -> Solution:
        n, fine = self.channel.fields, None
        shape = (len(self.starts), len(self.ratios))
        table = {p.name: np.full((*shape, n, n) if p.dims == MATRIX else shape, np.nan) for p in self.order_parameters}
        if self.errs:
            fine = MatrixBayes(MatrixChannel(self.problem.target, _FINER))
        for i, start in enumerate(self.starts):
            for j, state in enumerate(self.branch(start)):
                table["overlap"][i, j], table["mse"][i, j] = state.overlap, state.rest
                table["free_entropy"][i, j] = state.free_entropy
                if fine is not None:
                    inner = np.linalg.inv(self.channel.mixing)
                    table["classification_error"][i, j] = fine.channel.information(inner @ state.overlap @ inner.T)[2]
        variables = {p.name: Variable(p.dims, table[p.name], *_MEANING[p.name]) for p in self.order_parameters}
        variables["threshold"] = Variable(
            ("name",), np.array([self.channel.weak_recovery()]), r"\alpha_c", "sample ratio of weak recovery"
        )
        coords = {
            "start": np.array(self.starts), "sample_ratio": np.array(self.ratios), "teacher": np.arange(n),
            "name": np.array(["weak"]),
        }  # fmt: skip
        solution = Solution(coords, variables)
        if not np.all(np.isfinite(table["overlap"])):
            raise SolveError("an overlap is not finite", status="left_domain", partial=solution)
        return solution

    def python(self) -> str:
        """Return the source of the channel and of the fixed point."""
        import inspect

        from ...numerics import sign_patterns
        from . import bayes_matrix

        return "\n\n".join(inspect.getsource(m) for m in (sign_patterns, bayes_matrix))

    def equations(self) -> list[Equation]:
        return [row for step in self.derivation() for row in step.equations]

    def derivation(self) -> list[Step]:
        densities = r"\int\mathrm dy" if self.channel.route == "affine" else r"\sum_y"
        return [
            Step(
                "Posterior",
                "The target's own law is known: labels and normal entries. By the symmetry between the target and a "
                "sample of the posterior one overlap matrix describes the fixed point.",
                tuple(self.channel.label_rows()),
            ),
            Step(
                "Channel", "What one observation tells, in coordinates where the fields are independent: z = L z'.",
                (
                    Equation("Z", r"Z(y;\omega) = \mathbb P(y\mid z'\sim\mathcal N(\omega,1-Q)),\quad "
                             r"\omega\sim\mathcal N(0,Q)"),
                    Equation("information", rf"I(Q) = \mathbb E_\omega{densities} "
                             r"\frac{\nabla_\omega Z\,\nabla_\omega Z^{\mathsf T}}{Z}"),
                    Equation("entropy", rf"\Psi(Q) = \mathbb E_\omega{densities}\, Z\log Z"),
                ),
            ),
            Step(
                "Fixed point", "Iterated from nothing and from the truth; states that are not stable are left.",
                (
                    Equation("conjugate", r"\hat Q = \alpha\,I(Q)"),
                    Equation("overlap", r"Q = \hat Q\,(1+\hat Q)^{-1}"),
                    Equation("free_entropy", r"\Phi = \tfrac12\operatorname{tr}\hat Q-\tfrac12\log\det(1+\hat Q)"
                             r"+\alpha\Psi(Q)-\tfrac12\operatorname{tr}Q\hat Q"),
                ),
            ),
        ]  # fmt: skip


__all__ = ["MatrixBayesSystem"]
