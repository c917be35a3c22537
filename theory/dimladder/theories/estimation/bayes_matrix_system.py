"""The system of the Bayes-optimal estimator of several latent fields: overlap matrices over the sample ratio."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SolveError
from ...numerics.positive import free_coordinates, positive_matrix
from ...symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Step, Stepwise, Variable
from .bayes_matrix import MatrixBayes, MatrixChannel, MatrixState
from .letters import BAYES

if TYPE_CHECKING:
    from ...problem import Problem

Array = NDArray[np.float64]
GRID = ("start", "sample_ratio")
# An overlap below which nothing of the target is known.
UNSEEN = 1e-7
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


def _nothing(state: MatrixState) -> bool:
    return bool(abs(state.overlap).max() < UNSEEN)


class MatrixBayesSystem(Stepwise, FixedPoint):
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

    @cached_property
    def _found(self) -> list[MatrixState]:
        return [state for start in self.starts for state in self.branch(start)]

    def solve(self) -> Solution:
        coords = {
            "start": np.array(self.starts), "sample_ratio": np.array(self.ratios),
            "teacher": np.arange(self.channel.fields), "name": np.array(["weak"]),
        }  # fmt: skip
        solution = Solution(coords, self._variables(self._found))
        if not all(np.isfinite(state.overlap).all() for state in self._found):
            raise SolveError("an overlap is not finite", status="left_domain", partial=solution)
        return solution

    def _variables(self, states: Sequence[MatrixState]) -> dict[str, Variable]:
        table: dict[str, Any] = {
            "overlap": [s.overlap for s in states], "mse": [s.rest for s in states],
            "free_entropy": [s.free_entropy for s in states],
        }  # fmt: skip
        if self.errs:
            fine = MatrixChannel(self.problem.target, _FINER)
            inner = np.linalg.inv(self.channel.mixing)
            table["classification_error"] = [fine.information(inner @ s.overlap @ inner.T)[2] for s in states]
        variables = {}
        for p in self.order_parameters:
            values = np.array(table[p.name])
            shape = (len(self.starts), len(self.ratios), *values.shape[1:])
            variables[p.name] = Variable(p.dims, values.reshape(shape), *_MEANING[p.name])
        variables["threshold"] = Variable(
            ("name",), np.array([self.channel.weak_recovery()]), r"\alpha_c", "sample ratio of weak recovery"
        )
        return variables

    # --- what derivatives need: coordinates of the conjugates ---

    def settle(self, like: Any = None) -> None:
        """Take from `like` at which points nothing is known."""
        if like is not None:
            self._found = like._found

    def _ratios(self) -> list[float]:
        return [float(alpha) for _ in self.starts for alpha in self.ratios]

    def roots(self) -> Array | None:
        inner, rows = np.linalg.inv(self.channel.mixing), []
        for state, alpha in zip(self._found, self._ratios(), strict=True):
            if _nothing(state):
                rows.append(np.zeros(len(self.flow.pairs)))
                continue
            Q = inner @ state.overlap @ inner.T
            rows.append(free_coordinates(alpha * self.channel.information(Q)[0]))
        # Of a state that knows some directions and nothing of others there are none.
        return np.stack(rows) if np.isfinite(rows).all() else None

    def _overlap(self, coordinates: Array) -> Array:
        conjugate = positive_matrix(coordinates, self.channel.fields)
        found = np.linalg.solve(np.eye(len(conjugate)) + conjugate, conjugate)
        return np.asarray(found + found.T) / 2

    def residual(self, states: Array) -> Array:
        gaps = states.copy()
        for k, (state, alpha) in enumerate(zip(self._found, self._ratios(), strict=True)):
            if not _nothing(state):
                conjugate = alpha * self.channel.information(self._overlap(states[k]))[0]
                gaps[k] -= free_coordinates(conjugate)
        return gaps

    def variables(self, states: Array) -> dict[str, Variable]:
        n, found = self.channel.fields, []
        for state, x, alpha in zip(self._found, states, self._ratios(), strict=True):
            found.append(self.flow.state(np.zeros((n, n)) if _nothing(state) else self._overlap(x), alpha))
        return self._variables(found)

    def python(self) -> str:
        """Return the source of the channel and of the fixed point."""
        import inspect

        from ...numerics import sign_patterns
        from . import bayes_matrix

        return "\n\n".join(inspect.getsource(m) for m in (sign_patterns, bayes_matrix))

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
