"""The spectral estimator: the leading eigenvector of D = (1/n) sum_i T(y_i) x_i x_i^T, isotropic inputs.

With s = z^2 and expectations over (z, y), phi(l) = l E[T s/(l - T)] and psi(l) = l (1/alpha + E[T/(l - T)]), l > sup T;
lb minimises psi. Where phi(lb) > psi(lb) an eigenvalue leaves the bulk: l* solves phi = psi, and the squared cosine
with w* is (1/alpha - E[T^2/(l* - T)^2])/(1/alpha + E[T^2 (s - 1)/(l* - T)^2]); else it is 0.

Sources: Lu & Li 2020, Mondelli & Montanari 2019; the optimal T = 1 - 1/E[s | y] is due to Luo, Alghamdi & Lu 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import DerivationError
from ...numerics.scalars import find_minimum, find_root
from ...symbolic.systems import ClosedForm, Equation, OrderParameter, Solution, Step, Stepwise, Variable
from .labels import LabelLaw
from .letters import SPECTRAL
from .printed import label_rows
from .thresholds import label_table

if TYPE_CHECKING:
    from ...problem import Problem

Array = NDArray[np.float64]
GRID = ("sample_ratio",)


class SpectralEstimator:
    """Squared cosine of the leading eigenvector with the target.

    Parameters
    ----------
    law : LabelLaw
        One latent field of variance 1.
    preprocessing : callable or None
        T as a function of y; None is the optimal one.
    """

    def __init__(self, law: LabelLaw, preprocessing: Callable[[Array], Array] | None = None) -> None:
        table = label_table(law, 1.0)
        self.chance, self.square = table.chance, table.gain + 1.0
        if preprocessing is None:
            with np.errstate(divide="ignore"):
                self.T = 1.0 - 1.0 / np.maximum(self.square, 1e-300)
        else:
            self.T = np.broadcast_to(np.asarray(preprocessing(table.y), dtype=float), table.y.shape)
            likely = table.chance > 1e-9 * table.chance.max()
            if not law.discrete and np.max(self.T) > 1.001 * np.max(self.T[likely]) + 1e-9:
                raise DerivationError(
                    "the preprocessing is not bounded above", where="algorithm.preprocessing",
                    why="its largest values lie where labels are rare, so that no bulk edge exists",
                    hint='bound it, as in min(y, 3), or use "optimal"',
                )  # fmt: skip
        self.top = float(np.max(self.T))
        # The bulk's edge needs a positive supremum.
        self.useless = bool(np.ptp(self.T) < 1e-12 or self.top <= 0.0)

    def averages(self, l: float) -> tuple[float, float, float, float]:
        """E T/(l-T), E T s/(l-T), E T^2/(l-T)^2, E T^2 (s-1)/(l-T)^2."""
        # T/(l - T) stays finite as T -> -inf.
        ratio = np.where(np.isfinite(self.T), self.T / (l - self.T), -1.0)
        ratio = np.where(np.abs(self.T) > 1e15, -1.0, ratio)
        s, p = self.square, self.chance
        return (
            float(p @ ratio), float(p @ (ratio * s)), float(p @ ratio**2), float(p @ (ratio**2 * (s - 1.0)))
        )  # fmt: skip

    def squared_cosine(self, alpha: float) -> float:
        """Of the leading eigenvector with w*, at one sample ratio."""
        if self.useless:
            return 0.0
        scale = max(self.top, 1e-12)

        def psi(l: float) -> float:
            return l * (1.0 / alpha + self.averages(l)[0])

        def gap(l: float) -> float:
            plain, weighed, _, _ = self.averages(l)
            return l * (weighed - 1.0 / alpha - plain)

        # l = top + scale e^t: psi is convex in l.
        lowest = find_minimum(lambda t: psi(self.top + scale * math.exp(t)), -30.0, 12.0, xtol=1e-12)
        edge = self.top + scale * math.exp(lowest.x)
        if not gap(edge) > 0.0:
            return 0.0
        high = 2.0 * edge
        while gap(high) > 0.0:
            high *= 2.0
        star = float(find_root(gap, edge, high, xtol=1e-14, rtol=1e-14))
        _, _, square, weighed = self.averages(star)
        return max((1.0 / alpha - square) / (1.0 / alpha + weighed), 0.0)


class SpectralSystem(Stepwise, ClosedForm):
    """Overlap of the spectral estimator over the sample ratio."""

    letters = SPECTRAL

    order_parameters = (
        OrderParameter("overlap", GRID, r"\cos^2", "squared cosine between the leading eigenvector and w*"),
    )

    def __init__(
        self, problem: Problem, law: LabelLaw, preprocessing: Callable[[Array], Array] | None, ratios: tuple[float, ...]
    ) -> None:
        super().__init__(problem)
        self.law, self.ratios, self.optimal = law, ratios, preprocessing is None
        self.estimator = SpectralEstimator(law, preprocessing)

    def solve(self) -> Solution:
        from .thresholds import weak_recovery

        values = np.array([self.estimator.squared_cosine(alpha) for alpha in self.ratios])
        p = self.order_parameters[0]
        variables = {"overlap": Variable(GRID, values, p.latex, p.meaning)}
        if self.optimal:
            variables["threshold"] = Variable(
                (), np.array(weak_recovery(self.law)), r"\alpha_c", "sample ratio at which the overlap begins"
            )
        return Solution({"sample_ratio": np.array(self.ratios)}, variables)

    def derivation(self) -> list[Step]:
        text = self.problem.algorithm.preprocessing
        T = r"T(y) = 1-\frac{1}{\mathbb E[z^2\mid y]}" if self.optimal else rf"T(y) = \text{{{text}}}"
        return [
            Step("Matrix", "Labels weigh the samples' second moments.", (
                *label_rows(self.law), Equation("preprocessing", T),
                Equation("matrix", r"D = \frac1n\sum_i T(y_i)\,x_ix_i^T"),
            )),
            Step("Edge and eigenvalue", "An eigenvalue leaves the bulk where phi exceeds psi at the edge.", (
                Equation("phi", r"\varphi(\ell) = \ell\,\mathbb E\frac{T z^2}{\ell-T}"),
                Equation("psi", r"\psi(\ell) = \ell\left(\frac1\alpha+\mathbb E\frac{T}{\ell-T}\right)"),
                Equation("edge", r"\bar\ell = \arg\min_{\ell>\sup T}\psi(\ell)"),
                Equation("star", r"\varphi(\ell_\star) = \psi(\ell_\star)"),
            )),
            Step("Overlap", "Zero while the eigenvalue stays inside.", (
                Equation("overlap", r"\cos^2 = \frac{1/\alpha-\mathbb E\,T^2/(\ell_\star-T)^2}"
                         r"{1/\alpha+\mathbb E\,T^2(z^2-1)/(\ell_\star-T)^2}"),
            )),
        ]  # fmt: skip
