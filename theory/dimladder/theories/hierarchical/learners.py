"""Kernels, two-layer and three-layer learners of one hierarchical target on n = d^kappa samples, side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from ...problem import Refusal
from ...problem.grids import Simulation
from ...symbolic.systems import ClosedForm, Equation, OrderParameter, Solution, Step, Variable
from ..base import Reads, Theory
from . import COORDINATES
from .letters import LEARNERS
from .stages import TARGET

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...problem import Problem
    from ...problem.targets import Hierarchical
    from .branches import BranchSystem
    from .layerwise import LayerwiseSystem
    from .plateaus import PlateauSystem

    Array = NDArray[np.float64]

ESTIMATORS = ("quadratic kernel", "three layers")


class LearnerSystem(ClosedForm):
    """The staircase of plateaus, and what a kernel and the three stages reach at the actual d."""

    letters = LEARNERS

    order_parameters = (
        OrderParameter("mse", ("estimator", "kappa"), r"\varepsilon", "E[(f* - f)^2] at this d, without label noise"),
        OrderParameter(
            "leading_mse", ("kappa",), r"\varepsilon_{\mathrm{lead}}", "of the three stages at leading order in d_eff"
        ),
        OrderParameter("plateau", ("learner", "kappa"), r"\varepsilon_\infty", "E[(f* - f)^2] as d -> infinity"),
        OrderParameter("threshold", ("level",), r"\kappa_l", "log n/log d at which a deep network has learned level l"),
        OrderParameter(
            "subspace_overlap", ("kappa", "branch"), "q", "mean over hidden directions of |P_hat w*_i|^2, three stages"
        ),
        OrderParameter(
            "feature_correlation", ("kappa", "branch"), r"\rho", "(multiple) correlation of h with the learned features"
        ),
        OrderParameter("null_mse", (), r"\varepsilon_0", "E[f*^2], the error of f = 0, at this d"),
    )
    references = ("dandi2025depth", "baik2005phase")

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.target = problem.target

    def stages(self, order: str) -> LayerwiseSystem | BranchSystem:
        """Return the three stages as a system of their own, at leading order or refined."""
        import msgspec

        from .branches import BranchSystem
        from .layerwise import LayerwiseSystem

        algorithm = self.problem.algorithm.stages
        first = msgspec.structs.replace(algorithm.first, order=order)
        problem = msgspec.structs.replace(
            self.problem, algorithm=msgspec.structs.replace(algorithm, first=first)
        )  # fmt: skip
        return LayerwiseSystem(problem) if self.target.branches == 1 else BranchSystem(problem)

    @property
    def plateaus(self) -> PlateauSystem:
        """The staircase as a system of its own."""
        from .plateaus import PlateauSystem

        return PlateauSystem(self.problem)

    def equations(self) -> list[Equation]:
        kernel = [
            Equation(
                "kernel ridge",
                r"\varepsilon = \frac{\sum_g (1 - A_g)^2 F_g + s_2}{1 - \sum_g m_g A_g^2/n} - \Delta, \quad "
                r"A_g = \frac1{1 + \chi/e_g}, \quad \chi = \lambda + \frac{\chi}{n} \sum_g m_g A_g",
                note="1 + x.x' + (x.x')^2: degree 1 (m = d, e = 1), degree 2 without its trace (m = d(d+1)/2 - 1, "
                "e = 2), and two directions of constant and trace (m = 1); F_g: power of f*, at this d",
            ),
            Equation(
                "trace",
                r"e_\pm = \mathrm{eig} \begin{pmatrix} d + 1 & \sqrt{2d} \\ \sqrt{2d} & 2 \end{pmatrix}",
                note="on the constant and the trace sum_i (x_i^2 - 1)/sqrt(2 d)",
            ),
        ]
        return [*self.plateaus.equations(), *kernel, *self.stages(self.problem.algorithm.first.order).equations()]

    def derivation(self) -> list[Step]:
        own = self.equations()
        kernel = tuple(e for e in own if e.label in ("kernel ridge", "trace"))
        return [
            *self.plateaus.derivation(),
            Step("The quadratic kernel at this d", "Ridge regression by eigenspaces of the kernel.", kernel),
            *self.stages(self.problem.algorithm.first.order).derivation(),
        ]

    def solve(self) -> Solution:
        import numpy as np

        grid, d = self.problem.grid, self.problem.limit.d
        kappa = np.array(grid.values("kappa"))
        stairs = self.plateaus.solve()
        sharp, leading = self.stages(self.problem.algorithm.first.order).solve(), self.stages("leading").solve()
        samples = [max(1, round(d**v)) for v in kappa]
        kernel = KernelErrors.of(self.target, d, self.problem.algorithm.kernel_ridge)
        values = {
            "mse": np.array([[kernel.error(n) for n in samples], sharp.variables["mse"].values]),
            "leading_mse": leading.variables["mse"].values,
            "plateau": stairs.variables["mse"].values,
            "threshold": stairs.variables["threshold"].values,
            "subspace_overlap": np.reshape(sharp.variables["subspace_overlap"].values, (len(kappa), -1)),
            "feature_correlation": np.reshape(sharp.variables["feature_correlation"].values, (len(kappa), -1)),
            "null_mse": np.array(kernel.null),
        }
        coords: dict[str, Any] = {
            "estimator": list(ESTIMATORS), "kappa": kappa, "learner": stairs.coords["learner"],
            "level": stairs.coords["level"], "branch": np.arange(1, self.target.branches + 1),
        }  # fmt: skip
        variables = {p.name: Variable(p.dims, values[p.name], p.latex, p.meaning) for p in self.order_parameters}
        return Solution(coords, variables, message="; ".join(m for m in (stairs.message, sharp.message) if m))


@dataclass(frozen=True)
class KernelErrors:
    """Ridge regression with the kernel 1 + x.x' + (x.x')^2 at leading order in n, the target at its actual d_eff.

    Attributes
    ----------
    null : float
        E f*^2.
    power : (4,) array
        Power of f* in degree 1, in degree 2 without the trace, and along the two directions that constant and trace
        make, of small and of large eigenvalue.
    eigenvalue : (4,) array
    d : int
    noise, ridge : float
        Standard deviation of the label noise; lam.
    """

    null: float
    power: Array
    eigenvalue: Array
    d: int
    noise: float
    ridge: float

    @classmethod
    def of(cls, target: Hierarchical, d: int, ridge: float, samples: int = 200_000, seed: int = 3) -> KernelErrors:
        """Measure the powers on draws of the hidden coordinates, with a fixed seed."""
        import numpy as np

        from ...numerics.quadrature import hermite_series, hermite_values
        from ...problem.hierarchy import effective_dimension, orthonormal_coefficients
        from .finite_law import finite_null_error
        from .spectral import class_readouts
        from .union_refined import directions

        rng = np.random.default_rng(seed)
        d_eff, branches = effective_dimension(d, target.exponents[0]), target.branches
        a, classes = class_readouts(target, d_eff)
        raw = orthonormal_coefficients(target.features[0], target.hermite)
        z = rng.standard_normal((branches, samples, d_eff))
        h = [hermite_series(raw, v) @ a / math.sqrt(d_eff) for v in z]
        names = dict(zip(target.link_variables, h, strict=True))
        f = np.asarray(target.expression.evaluate(np, **names), dtype=float) + 0.0 * h[0]
        mean = float(f.mean())
        first = second = trace = 0.0
        for v in z:
            basis = hermite_values(v, 2)
            rows, place = directions(basis, (1, 2), a, classes, np.ones(d_eff), [1, 2])
            held = (rows @ (f - mean) / samples) ** 2
            first, second = first + float(held[place == 0].sum()), second + float(held[place == 1].sum())
            trace += float(np.sum(basis[2], axis=1) @ (f - mean)) / samples / math.sqrt(d)
        root = math.sqrt(2.0 * d)
        values, vectors = np.linalg.eigh([[d + 1.0, root], [root, 2.0]])
        if target.readout in ("rademacher", "gaussian"):
            # The readouts of these draws are balanced: at random their sum has variance d_eff, of either sign.
            along = second / d
            block = vectors.T**2 @ [mean**2, along]
        else:
            along = trace**2
            block = (vectors.T @ [mean, trace]) ** 2
        power = np.array([first, max(second - along, 0.0), *block])
        null = finite_null_error(target, d_eff) if branches == 1 else float(np.mean(f**2))
        return cls(null, power, np.array([1.0, 2.0, *values]), d, target.noise, ridge)

    def error(self, n: float) -> float:
        """Return E[(f* - f)^2] on n samples."""
        import numpy as np

        from .union import Penalties, Task, union_state

        count = np.array([self.d, self.d * (self.d + 1) / 2 - 1, 1.0, 1.0])
        task = Task((1, 2, 2, 0), count / n, self.power, np.ones(4), self.null + self.noise**2, 1.0)
        return union_state(task, Penalties(self.ridge, 1.0 / self.eigenvalue)).error - self.noise**2


class LearnerTheory(Theory):
    """The joint picture of the paper: what depth buys, for one target, with constants where there are any."""

    name = "hierarchical-learners"
    title = "Kernel, two-layer and three-layer learners of a hierarchical target side by side"
    summary = "Error against kappa = log n/log d: staircase as d grows, quadratic kernel and three stages at finite d."
    reads: ClassVar[Reads] = {
        "target": {"hierarchical": f"{TARGET} branches"},
        "algorithm": {"learners": "*"},
        "limit": "d",
    }
    axes = ("kappa",)
    simulation = Simulation(sizes=(25, 36, 64), replicas=8)
    coordinates: ClassVar = COORDINATES
    references = ("dandi2025depth", "baik2005phase")
    assumptions = (
        "x standard normal; one hidden level of d_eff = d^eps orthonormal directions for every branch",
        "the quadratic kernel at leading order in the samples; the three stages as in hierarchical-layerwise, several "
        "branches as in hierarchical-branches",
    )
    limits = (
        "trained networks are simulated (trained_mse, weight_overlap, feature_overlap, losses along the training): of "
        "gradient descent in practice there is no sharp theory here, the staircase is what it is compared with by eye",
        "plateaus and thresholds: see hierarchical-plateaus",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Yield what cannot be put side by side."""
        if len(problem.target.exponents) > 1:
            yield Refusal("target.exponents", f"one hidden level, got {len(problem.target.exponents)} exponents")
            return
        if problem.limit.d is None or isinstance(problem.limit.d, tuple):
            yield Refusal("limit.d", "needs one dimension", "add [limit] with d = ...")
            return
        if problem.limit.d < 4:
            yield Refusal("limit.d", f"must be at least 4, got {problem.limit.d}")
            return
        kappa = problem.grid.values("kappa")
        if min(kappa) < 0 or any(b < a for a, b in pairwise(kappa)):
            yield Refusal("grid.kappa", "must not be negative, and increase")
            return
        import msgspec

        from .branches import THEORY as SEVERAL
        from .layerwise import THEORY as SINGLE

        stages = msgspec.structs.replace(problem, algorithm=problem.algorithm.stages)
        yield from (SINGLE if problem.target.branches == 1 else SEVERAL).checks(stages)

    def derive(self, problem: Problem) -> LearnerSystem:
        return LearnerSystem(problem)

    def describe(self, problem: Problem) -> dict[str, Any]:
        from .plateaus import THEORY as STAIRCASE

        return STAIRCASE.describe(problem)


THEORY = LearnerTheory()
