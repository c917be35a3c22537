"""Epoch-wise double descent from fast and slow features: ridge regression with two feature scales.

Teacher ``y = z.w + noise xi``, z ~ N(0, 1/d), w ~ N(0, 1); the student sees ``x = F^T z``, F with p singular values
s1 (fast) and d - p of ``s1/scale_ratio`` (slow). Early stopping at time t acts as a ridge lambda = 1/t in ``|X w -
y|^2 + lambda |w|^2``; curves are against ``time_ridge = 1/lambda``. Errors are halved squared errors without the
noise of the label: ``E_G = (1 - 2R + Q)/2``. The exact deterministic equivalent couples the two blocks through one
scalar; the published closed form decouples them and is exact only for scale_ratio -> infinity.
Source: Pezeshki, Mitra, Bengio & Lajoie, arXiv:2112.03215, corrected; see docs/theory/multiscale-ridge.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..problem import Problem, Spec
from ..problem.sections import check_replicas, check_sizes
from ..problem.spec import Axis, axis_values
from ..symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Step, Variable
from .base import Theory

if TYPE_CHECKING:
    from types import ModuleType


class TwoScaleFeatures(Spec, frozen=True, kw_only=True, tag_field="kind", tag="two-scale"):
    """n samples, d features of which p fast (scale s1) and d - p slow (scale s1/scale_ratio); only ratios to d
    matter.
    """

    samples: int
    dimension: int
    fast: int
    scale_ratio: float
    fast_scale: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.samples < 1 or not 0 < self.fast < self.dimension:
            raise ValueError("samples must be positive and fast must lie between 1 and dimension - 1")
        if self.scale_ratio <= 0 or self.fast_scale <= 0 or self.noise < 0:
            raise ValueError("scale_ratio and fast_scale must be positive, noise not negative")


class TimeRidge(Spec, frozen=True, kw_only=True):
    """Inverse ridges 1/lambda, the proxy of training time."""

    time_ridge: Axis

    def __post_init__(self) -> None:
        values = axis_values(self.time_ridge)
        if not values or any(not (v > 0 and math.isfinite(v)) for v in values):
            raise ValueError("time_ridge must list positive numbers")
        if min(values) < 1e-300 or max(values) > 1e300:
            raise ValueError("time_ridge must lie between 1e-300 and 1e300: its inverse is the ridge")


class Dimensions(Spec, frozen=True, kw_only=True):
    """Sizes and statistics of the experiment; samples and fast features scale with d."""

    d: tuple[int, ...] = (100, 200, 400)
    replicas: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.d, "d")
        check_replicas(self.replicas)


class MultiscaleRidge(Problem, frozen=True, kw_only=True):
    """Generalization error against the inverse ridge, for two feature scales."""

    data: TwoScaleFeatures
    grid: TimeRidge
    simulation: Dimensions = Dimensions()


ERROR = OrderParameter(
    "generalization_error", ("time_ridge",), r"E_G", "half the squared error of the student's mean on fresh inputs"
)
FURTHER = {
    "generalization_error_decoupled": (r"E_G^{\mathrm{dec}}", "the published form, blocks decoupled"),
    "overlap": ("R", "(1/d) w . F w_hat"),
    "norm": ("Q", "(1/d) |F w_hat|^2"),
}
SYMBOLS = ("kappa", "lam", "n", "d", "p", "s1", "s2", "sigma")


def definitions() -> dict[Any, Any]:
    """Shares of the two blocks, symbol -> expression, in order; each lies in [0, 1] and keeps its digits at any ridge.

    z_i = e_i/(e_i + kappa) and its complement; q_i = 1/(1 + l_i) with l_i the ridge in units of the block's size, its
    complement, and the gain of a block that is alone: the inverse of the source's a = 1 + 2 l/(x + sqrt(x^2 + 4 l)).
    """
    import sympy as sp

    kappa, lam, n, d, p, s1, s2, _ = sp.symbols(" ".join(SYMBOLS), positive=True)
    out = {}
    for i, (count, scale) in enumerate(((p, s1), (d - p, s2)), 1):
        z, missed, q, rest, gain = sp.symbols(f"z{i} zc{i} q{i} qc{i} a{i}", nonnegative=True)
        eigenvalue, size = scale**2 / d, count / d * scale**2
        x = (1 - n / count) * q - rest
        out |= {
            z: eigenvalue / (eigenvalue + kappa),
            missed: kappa / (eigenvalue + kappa),
            q: size / (size + lam),
            rest: lam / (size + lam),
            gain: 2 * q / (2 * q + sp.sqrt(x**2 + 4 * q * rest) - x),
        }
    return out


def expressions() -> dict[str, Any]:
    """Fixed point, exact observables, and the published form, in sympy, in terms of the shares of `definitions`."""
    import sympy as sp

    kappa, lam, n, d, p, _, _, sigma = sp.symbols(" ".join(SYMBOLS), positive=True)
    (z1, c1, _, _, a1), (z2, c2, _, _, a2) = (list(definitions())[5 * i : 5 * i + 5] for i in range(2))
    first = p * z1 + (d - p) * z2
    second = p * z1**2 + (d - p) * z2**2
    missed = (p * c1**2 + (d - p) * c2**2) / d
    error = (missed + sigma**2 * second / n) / (1 - second / n) / 2
    # |F w_hat|^2/d = 2 E - 1 + 2 R, with 1 - 2 R + second/d = missed put in: a sum of positive terms.
    norm = second / d + second / n * (missed + sigma**2) / (1 - second / n)
    b = [n / count * a**2 / (1 - n / count * a**2) for count, a in ((p, a1), (d - p, a2))]
    r = [n / d * a for a in (a1, a2)]
    c = [1 + sigma**2 - 2 * r[1 - i] - 2 * r[i] + n / d for i in range(2)]
    q = [(b[0] * b[1] * c[1 - i] + b[i] * c[i]) / (1 - b[0] * b[1]) for i in range(2)]
    return {
        "fixed_point": (n * kappa, lam + kappa * first),
        "generalization_error": error,
        "generalization_error_decoupled": (1 - 2 * (r[0] + r[1]) + q[0] + q[1]) / 2,
        "overlap": first / d,
        "norm": norm,
    }


class TwoScaleRidge(FixedPoint):
    """One scalar kappa per ridge, and closed forms in it."""

    order_parameters = (ERROR,)

    def equations(self) -> list[Equation]:
        import sympy as sp

        nice = {sp.Symbol("lam", positive=True): sp.Symbol("lambda", positive=True)}
        nice |= {
            share: sp.Symbol(
                rf"\bar {name[0]}_{name[-1]}" if "c" in name else f"{name[0]}_{name[-1]}", nonnegative=True
            )
            for share in definitions()
            for name in [str(share)]
        }
        shares = [Equation.of(str(k), nice[k], v.subs(nice)) for k, v in definitions().items()]
        e = {k: v.subs(nice) for k, v in expressions().items() if k != "fixed_point"}
        left, right = (side.subs(nice) for side in expressions()["fixed_point"])
        latex = {ERROR.name: ERROR.latex, **{k: v[0] for k, v in FURTHER.items()}}
        return [*shares, Equation.of("fixed_point", left, right), *(Equation.of(k, v, e[k]) for k, v in latex.items())]

    def derivation(self) -> list[Step]:
        rows = {e.label: e for e in self.equations()}
        return [
            Step(
                "Time as ridge",
                "Gradient descent stopped at time t shrinks a mode of eigenvalue l by 1 - exp(-l t), a ridge lambda "
                "by l/(l + lambda): "
                "lambda = 1/t has the same scale.",
            ),
            Step(
                "Deterministic equivalent",
                "Ridge regression with n samples and covariance eigenvalues e_i = s_i^2/d acts as a ridge kappa on "
                "the population. The two blocks share the same "
                "n samples and therefore one kappa.",
                tuple(
                    rows[k]
                    for k in ("z1", "zc1", "z2", "zc2", "fixed_point", "generalization_error", "overlap", "norm")
                ),
            ),
            Step(
                "The published form",
                "It solves each block as if it were alone with the n samples and couples them only through their "
                "overlaps: exact when the slow block is "
                "invisible to the fast one.",
                tuple(rows[k] for k in ("q1", "qc1", "a1", "q2", "qc2", "a2", "generalization_error_decoupled")),
            ),
        ]

    def module(self) -> ModuleType:
        from ..symbolic import store

        return store.module(("multiscale-ridge",), _source)

    def python(self) -> str:
        from ..symbolic import store

        return store.source(self.module())

    def solve(self) -> Solution:
        """Return the errors at every inverse ridge."""
        import numpy as np
        from scipy.optimize import brentq

        generated = self.module()
        data = self.problem.data  # type: ignore[attr-defined]
        times = axis_values(self.problem.grid.time_ridge)  # type: ignore[attr-defined]
        n, d = float(data.samples), float(data.dimension)
        rest = (n, d, float(data.fast), data.fast_scale, data.fast_scale / data.scale_ratio, data.noise)
        rows = []
        for time in times:
            ridge = 1 / time
            # kappa n = lambda + kappa df with df < min(d, trace/kappa): bounded by both.
            high = math.log((ridge + max(rest[3], rest[4]) ** 2) / n) + 1.0
            low = math.log(ridge / n) - 1e-9
            kappa = math.exp(
                brentq(lambda u, r=ridge: generated.residual(math.exp(u), r, *rest), low, high, xtol=1e-15, rtol=1e-15)
            )
            rows.append(generated.observe(kappa, ridge, *rest))
        table = np.array(rows)
        named = {ERROR.name: (ERROR.latex, ERROR.meaning), **FURTHER}
        variables = {k: Variable(("time_ridge",), table[:, i], *v) for i, (k, v) in enumerate(named.items())}
        return Solution({"time_ridge": np.array(times)}, variables)


def _source() -> str:
    """Print the fixed point and the observables."""
    from ..symbolic.printing import HEADER, assignments

    e = expressions()
    arguments = ", ".join(SYMBOLS)
    lines = [HEADER.format(title="Ridge regression with two feature scales")]
    wanted = {
        "residual": [e["fixed_point"][0] - e["fixed_point"][1]],
        "observe": [e[k] for k in (ERROR.name, *FURTHER)],
    }
    for name, results in wanted.items():
        lines += ["", "", f"def {name}({arguments}):"]
        used = set().union(*(r.free_symbols for r in results))
        for share, value in reversed(definitions().items()):
            used |= value.free_symbols if share in used else set()
        for share, value in definitions().items():
            if share in used:
                shared, values = assignments([value], prefix=f"{share}_")
                lines += [*shared, f"    {share} = {values[0]}"]
        shared, values = assignments(results, prefix="w_")
        lines += [*shared, f"    return {', '.join(values)}"]
    return "\n".join(lines) + "\n"


class MultiscaleRidgeTheory(Theory):
    """Fast and slow features."""

    name = "multiscale-ridge"
    title = "Epoch-wise double descent from two feature scales"
    summary = (
        "Features of two scales are learnt at two times; the error as a function of time (inverse ridge) can "
        "descend twice."
    )
    problem_type = MultiscaleRidge
    references = ("pezeshki2022multiscale",)
    assumptions = (
        "n, d, p -> infinity at fixed ratios; Gaussian inputs, linear teacher with independent components",
        "training time enters as a ridge 1/t (the ridge proxy of gradient descent)",
    )
    limits = (
        "scale_ratio -> infinity: the published, decoupled form",
        "time_ridge -> 0: E_G = 1/2; time_ridge -> infinity with n > d and no noise: E_G = 0",
    )

    def derive(self, problem: MultiscaleRidge) -> TwoScaleRidge:
        """Return the fixed point."""
        return TwoScaleRidge(problem)


THEORY = MultiscaleRidgeTheory()
