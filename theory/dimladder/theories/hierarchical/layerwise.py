"""Layer-wise learning of a hierarchical target with constants: subspace, then feature, then readout."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from ...problem import Refusal
from ...problem.grids import Simulation
from ...symbolic.systems import OrderParameter, Solution, Variable
from ..base import Reads
from .layerwise_equations import LayerwiseEquations
from .letters import LAYERWISE
from .stages import GRID, TARGET, StageTheory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...problem import Problem
    from .composition import Curves, Row

    Array = NDArray[np.float64]

log = logging.getLogger(__name__)
# E[T h]/sd T above which flattened quadratics are the wrong estimate.
FIRST_ORDER = 0.1


class LayerwiseSystem(LayerwiseEquations):
    """q(n1) -> corr(h_hat, h)(n1, n2) -> mse(n1, n2)."""

    letters = LAYERWISE

    references = ("dandi2025depth", "baik2005phase")

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        from .analysis import levels, link_of
        from .union import fitted_degrees

        self.target, self.algorithm = problem.target, problem.algorithm
        self.level = levels(self.target)[0]
        self.link = link_of(self.target, max(60, self.algorithm.third.degree))
        self.k = self.level.degree
        self.degrees = fitted_degrees(self.link, self.level, self.algorithm.second.degrees)
        given = problem.limit.d
        self.sizes: tuple[int | None, ...] = given if isinstance(given, tuple) else (given,)
        self.many_sizes = isinstance(given, tuple)

    @property
    def order_parameters(self) -> tuple[OrderParameter, ...]:  # type: ignore[override]
        first, both, size = self._dims()
        return (
            OrderParameter("subspace_overlap", first, "q", "mean over hidden directions of |P_hat w*_i|^2"),
            OrderParameter("feature_correlation", both, r"\rho", "corr(h_hat, h)"),
            OrderParameter("mse", both, r"\varepsilon", "E[(f* - f)^2] without label noise"),
            OrderParameter("test_mse", both, r"\varepsilon + \Delta", "E[(y - f)^2]"),
            OrderParameter("null_mse", size if self.refined else (), r"\varepsilon_0",
                           "E[f*^2], the error of f = 0" + ("" if self.refined else ", d_eff -> infinity")),
            OrderParameter("null_test_mse", size if self.refined else (), r"\varepsilon_0 + \Delta", "E[y^2]"),
            OrderParameter("weak_recovery_ratio", size if self.refined or self.flattened else (), r"\alpha_c",
                           "n1/(d d_eff) at which the first direction is seen"),
            OrderParameter("leak_recovery_ratio", (), r"\alpha_c'",
                           "threshold of n1/(d d_eff^2), second order in h"),
        )  # fmt: skip

    def _dims(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Return the dimensions of the overlap, of the correlation, and of what depends on d alone."""
        size = ("d",) if self.many_sizes else ()
        return (self.axes[0], *size), (*self.axes, *size), size

    def rows(self, d: int | None) -> list[Row]:
        """Return the subspaces and second stages of the grid; samples are counted in whole numbers where d is given."""
        from ...problem.hierarchy import effective_dimension
        from .composition import Row
        from .union import feature_count

        grid = self.problem.grid
        if d is None:
            return [Row(first, grid.values("second_ratio")) for first in grid.values("first_ratio")]
        d_eff = effective_dimension(d, self.target.exponents[0])
        unit = feature_count(d_eff, self.k)
        if grid.kappa is not None:
            counts = [max(1, round(d**kappa)) for kappa in grid.values("kappa")]
            return [Row(n / (d * d_eff), [n / unit]) for n in counts]
        second = grid.values("second_ratio") or [n / unit for n in grid.values("second_samples")]
        return [Row(first, second) for first in grid.values("first_ratio")]

    def curves(self, d: int | None) -> Curves:
        """Compute the three stages at one d; None is d -> infinity."""
        from .composition import leading_curves, refined_curves

        if self.refined:
            assert d is not None
            return refined_curves(self.target, self.algorithm, self.rows(d), d)
        return leading_curves(self.target, self.algorithm, self.rows(d), d)

    def thresholds(self) -> tuple[list[float], float]:
        """Return the weak-recovery ratio at each size (at leading order one number), and the leak ratio."""
        import numpy as np

        from ...problem.hierarchy import effective_dimension
        from .labels import label_moments
        from .readouts import readout_classes
        from .spectral import critical_ratio, label_law, leak_ratio, refined_critical_ratio

        target, first = self.target, self.algorithm.first
        if self.flattened:
            return self._flattening_thresholds()
        moments = label_moments(target, first.label_transform)
        leak = leak_ratio(target, moments)
        if self.refined:
            found = []
            for d in self.sizes:
                assert d is not None
                d_eff = effective_dimension(d, target.exponents[0])
                law = label_law(target, first.label_transform, d_eff)
                found.append(refined_critical_ratio(law, d_eff))
            return found, leak
        if target.readout == "gaussian":
            # Directions of any size: the first one is seen at once.
            return [math.inf if math.isinf(critical_ratio(target, moments)) else 0.0], leak
        largest = float(np.max(np.abs(readout_classes(target)[0])))
        return [critical_ratio(target, moments, largest)], leak

    def _flattening_thresholds(self) -> tuple[list[float], float]:
        from ...problem.hierarchy import effective_dimension
        from .flattening import flattening_threshold, quadratic_count
        from .labels import label_moments
        from .spectral import leak_ratio

        found, transform = [], self.algorithm.first.label_transform
        for d in self.sizes:
            assert d is not None
            d_eff = effective_dimension(d, self.target.exponents[0])
            ratio = flattening_threshold(self.target, transform, *((d, d_eff) if self.refined else ()))
            found.append(ratio * quadratic_count(d) / (d * d_eff))
        return found, leak_ratio(self.target, label_moments(self.target, transform, channel=2))

    def null_errors(self) -> list[float]:
        """Return E[f*^2] at each size, or at leading order its limit."""
        from ...problem.hierarchy import effective_dimension
        from .finite_law import finite_null_error

        if not self.refined:
            return [self.link.second_moment]
        sizes = [effective_dimension(d, self.target.exponents[0]) for d in self.sizes if d is not None]
        return [finite_null_error(self.target, d_eff) for d_eff in sizes]

    def _per_size(self, values: list[float]) -> Array:
        import numpy as np

        return np.array(values) if self.refined and self.many_sizes else np.array(values[0])

    def warnings(self, weak: float, leak: float) -> list[str]:
        """Return what makes the curve unreliable, given the thresholds of the first and of the second order."""
        from ...problem.hierarchy import effective_dimension
        from .readout import classical_from

        found = []
        d = max((d for d in self.sizes if d is not None), default=max(self.problem.simulation.sizes))
        d_eff = effective_dimension(d, self.target.exponents[0])
        if not self.refined and not self.flattened and leak * d_eff < weak:
            found.append(
                f"leading order is not usable at d = {d}: the second order in h finds the subspace first, at n1 about "
                f'{leak * d_eff:.3g} d d_eff against {weak:.3g}; use algorithm.first.order = "refined"'
            )
        if self.flattened:
            from .labels import label_moments

            moments = label_moments(self.target, self.algorithm.first.label_transform, channel=2)
            first = abs(float(moments.tau[1])) / math.sqrt(max(moments.variance, 1e-300))
            if first > FIRST_ORDER:
                found.append(
                    f"the first order of the label, E[T h]/sd T = {first:.2g}, moves the quadratics of single hidden "
                    'directions, which this theory takes for noise; estimator = "covariance" sees it from fewer samples'
                )
        if self.algorithm.second.estimator == "ridge" and not self.degrees:
            found.append(
                "stage 2 learns nothing: no order of the link reaches the degrees that are fitted; use "
                'algorithm.second.estimator = "flattened", which sees the second order'
            )
        third = self.algorithm.third
        needed = classical_from(third.basis, third.degree)
        if third.samples < needed and third.ridge == 0.0:
            found.append(
                f"stage 3: {third.samples:g} labels are below the {needed:.3g} from which the error of this readout "
                'follows its 1/n law: fits differ by chance, mse is their median; prefer basis = "rank"'
            )
        return found

    def solve(self) -> Solution:
        import numpy as np

        weak, leak = self.thresholds()
        warnings = self.warnings(weak[0], leak)
        for text in warnings:
            log.warning(text)
        curves = [self.curves(d) for d in self.sizes]
        first, both, _ = self._dims()

        def stack(name: str, dims: tuple[str, ...]) -> Array:
            values = np.array([getattr(c, name) for c in curves])
            if values.ndim == 3 and "kappa" in dims:
                values = values[:, :, 0]
            return np.moveaxis(values, 0, -1) if self.many_sizes else values[0]

        mse, nulls = stack("error", both), self.null_errors()
        values = {
            "subspace_overlap": stack("overlap", first),
            "feature_correlation": stack("correlation", both),
            "mse": mse,
            "test_mse": mse + self.target.noise**2,
            "null_mse": self._per_size(nulls),
            "null_test_mse": self._per_size(nulls) + self.target.noise**2,
            "weak_recovery_ratio": np.array(weak if self.many_sizes and (self.refined or self.flattened) else weak[0]),
            "leak_recovery_ratio": np.array(leak),
        }
        variables = {p.name: Variable(p.dims, values[p.name], p.latex, p.meaning) for p in self.order_parameters}
        if math.isfinite(self.algorithm.third.samples):
            for name, text in (("low", "10 %"), ("high", "90 %")):
                variables[f"mse_{name}"] = Variable(
                    both, stack(name, both), rf"\varepsilon_{{\mathrm{{{name}}}}}",
                    f"{text} of the fits of stage 3 have a smaller mse",
                )  # fmt: skip
        grid = self.problem.grid
        coords: dict[str, Any] = {
            name: np.array(grid.values(name)) for name in dict.fromkeys((*first, *both)) if name != "d"
        }
        if self.many_sizes:
            coords["d"] = np.array(self.sizes)
        return Solution(coords, variables, message="; ".join(warnings))


class LayerwiseTheory(StageTheory):
    """Sharp stage-by-stage learning curves: this project's own theory of the paper's layer-wise algorithm."""

    name = "hierarchical-layerwise"
    title = "Layer-wise learning of a hierarchical target, with constants"
    summary = "Subspace overlap, feature correlation and mean squared error of the three stages over their samples."
    reads: ClassVar[Reads] = {
        "target": {"hierarchical": TARGET}, "algorithm": {"layerwise": "first second third"},
        "limit": "d", "grid": GRID,
    }  # fmt: skip
    simulation = Simulation(sizes=(256, 576, 1024), replicas=8)
    assumptions = (
        "x standard normal; one hidden level of d_eff = d^eps orthonormal directions, 1 << d_eff << d at leading order",
        "fresh samples in each stage; labels centred before stages 1 and 2",
        "stage 1 keeps the d_eff eigenvectors of largest modulus",
        "the transformed label has finite variance; heavy tails need a bounded transform",
    )
    limits = (
        "everything with constants here is this project's own; the paper has the exponents",
        "leading order is off by 10-100 % near the threshold at d ~ 1000; order = refined by 1-4 %",
        "without [limit] d the degrees below k are learned at n2 ~ D_k; with it every D_j/n2 counts",
        "degrees of 4 and more: finite-size dominated below d_eff ~ 100",
        "units: order = refined takes their kernel at the actual d_eff (1-3 % at d_eff = 14); leading order is off by "
        "2-6 % in the correlation and 20 % in the error there",
        "b_2 tau_1 = 0 or small: the second-order channel (leak_recovery_ratio, units d d_eff^2) comes first; leading "
        "order then warns, order = refined holds",
        "gaussian readouts: class averages; directions of large |a| detach first, so the threshold is 0",
        "first_ratio = inf: the subspace is known; at second_ratio = inf, ridge 0, all that the fitted degrees hold",
        "estimator flattened: order = refined has the overlap within 1-2 % above the threshold, 5-15 % at it; below it "
        "that of a random subspace, where experiments have more by an edge effect that dies out as d^-0.3",
        "third.samples finite: mse is the median over fits, mse_low and mse_high hold 80 % of them; a Hermite readout "
        "of degree m follows its 1/n law from e^(2m + 1) labels on, a rank readout from 3 (m + 1)^2, a clipped one "
        "from 16 (m + 1)^2",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Yield what the three stages cannot do."""
        target, algorithm, grid = problem.target, problem.algorithm, problem.grid
        second, third = algorithm.second, algorithm.third
        if len(target.exponents) > 1:
            yield Refusal(
                "target.exponents", f"one hidden level, got {len(target.exponents)} exponents",
                'hierarchical-tree takes deeper ones, hierarchical-plateaus their exponents',
            )  # fmt: skip
        yield from self.axes_asked(grid)
        if problem.limit.d is None:
            yield from self.without_dimension(problem)
        else:
            sizes = problem.limit.d if isinstance(problem.limit.d, tuple) else (problem.limit.d,)
            if min(sizes) < 4:
                yield Refusal("limit.d", f"must be at least 4, got {min(sizes)}")
        degree = max(j for coefficients in target.features for j, c in coefficients.items() if c)
        yield from self.flattening(problem)
        if second.label_transforms != ("identity",):
            yield Refusal("algorithm.second.label_transforms", "belongs to targets of several branches")
        if isinstance(second.degrees, tuple) and max(second.degrees) > degree:
            yield Refusal("algorithm.second.degrees", f"the polynomial has degree {degree}, got {max(second.degrees)}")
        if third.samples < third.degree + 3 and third.ridge == 0.0:
            yield Refusal(
                "algorithm.third.samples",
                f"{third.samples:g} labels for {third.degree + 1} coefficients: below {third.degree + 3} the error of "
                "a fit has no finite spread",
                "give more labels, a lower degree, or a ridge",
            )

    def derive(self, problem: Problem) -> LayerwiseSystem:
        return LayerwiseSystem(problem)

    def describe(self, problem: Problem) -> dict[str, Any]:
        from ...problem.activations import activation
        from .assumptions import describe_target

        system = LayerwiseSystem(problem)
        weak, leak = system.thresholds()
        facts: dict[str, Any] = {
            **({"fitted degrees": list(system.degrees)} if problem.algorithm.second.estimator == "ridge" else {}),
            "weak recovery, n1/(d d_eff)": weak if len(weak) > 1 else weak[0],
            "second-order recovery, n1/(d d_eff^2)": leak,
            **{f"warning {i}": text for i, text in enumerate(system.warnings(weak[0], leak), 1)},
        }
        second = problem.algorithm.second
        sigma = activation(second.activation) if second.weights == "units" else None
        return {**facts, **describe_target(problem.target, sigma)}


THEORY = LayerwiseTheory()
