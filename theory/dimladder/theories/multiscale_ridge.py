"""Epoch-wise double descent from fast and slow features: ridge regression with two feature scales.

Teacher ``y = z.w + noise xi``, z ~ N(0, 1/d), w ~ N(0, 1); the student sees ``x = F^T z``, F with p singular values
s1 (fast) and d - p of s2 (slow): two blocks of a spectrum of eigenvalues s^2, and a teacher on the latent z. Early
stopping at time t acts as a ridge lambda = 1/t in ``|X w - y|^2 + lambda |w|^2``; curves are against ``time_ridge =
1/lambda``. Errors are halved squared errors without the noise of the label: ``E_G = (1 - 2R + Q)/2``. The exact
deterministic equivalent couples the two blocks through one scalar; the published closed form decouples them and is
exact only for s1/s2 -> infinity.
Source: Pezeshki, Mitra, Bengio & Lajoie, arXiv:2112.03215, corrected; see docs/theory/multiscale-ridge.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..problem import Problem
from ..problem.grids import Simulation
from ..symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Step, Variable
from .base import Reads, Refusal, Theory

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


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
    out: dict[Any, Any] = {}
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
    letters = r"""
    z_1, z_2      :: share of a mode of the block that the fit learns; $\bar z_1$ is the rest
    \bar z_1, \bar z_2 :: share of a mode of the block that the fit misses
    s_1, s_2      :: singular values of the fast and of the slow block
    d             :: dimension of the input :: data.dimension
    p             :: number of fast features
    n             :: number of samples :: data.samples
    \kappa        :: ridge, renormalised
    \lambda       :: ridge, one over the time of training
    q_1, q_2      :: size of the block in units of its size and the ridge
    \bar q_1, \bar q_2 :: ridge in units of the block's size and the ridge
    a_1, a_2      :: gain of a block by itself
    \sigma        :: standard deviation of the label's noise :: target.noise
    R             :: overlap of student and teacher
    Q             :: norm of the student
    E^{\mathrm{dec}}_G :: the published form, blocks decoupled
    """

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

        return store.module(("multiscale-ridge",), _source, native=True)

    def python(self) -> str:
        from ..symbolic import store

        return store.source(self.module())

    def solve(self) -> Solution:
        """Return the errors at every inverse ridge."""
        import numpy as np

        return Solution({"time_ridge": np.array(self.problem.grid.values("time_ridge"))}, self.variables(self.roots()))

    @cached_property
    def _rows(self) -> list[tuple[float, ...]]:
        """The arguments of the printed functions after kappa, at every inverse ridge."""
        data = self.problem.data
        s1, s2 = (math.sqrt(v) for v in data.spectrum.blocks()[0])
        fast = float(data.spectrum.counts(data.dimension)[0])
        rest = (float(data.samples), float(data.dimension), fast, s1, s2, self.problem.target.noise)
        return [(1 / time, *rest) for time in self.problem.grid.values("time_ridge")]

    def _gap(self, u: float, rest: tuple[float, ...]) -> float:
        """The equation's left side over its right, less one, at log kappa."""
        return float(self.module().residual(math.exp(u), *rest))

    def roots(self) -> Array:
        """Return log kappa at every inverse ridge, shape (ridges, 1)."""
        import numpy as np

        from ..numerics.scalars import find_root

        found = []
        for rest in self._rows:
            ridge, samples, _, _, s1, s2, _ = rest
            # kappa n = lambda + kappa df with df < min(d, trace/kappa): bounded by both.
            high = math.log((ridge + max(s1, s2) ** 2) / samples) + 1.0
            low = math.log(ridge / samples) - 1e-9
            found.append([find_root(partial(self._gap, rest=rest), low, high, xtol=1e-15, rtol=1e-15)])
        return np.array(found)

    def residual(self, states: Array) -> Array:
        import numpy as np

        return np.array([[self._gap(float(u), rest)] for (u,), rest in zip(states, self._rows, strict=True)])

    def variables(self, states: Array) -> dict[str, Variable]:
        import numpy as np

        pairs = zip(states, self._rows, strict=True)
        table = np.array([self.module().observe(math.exp(u), *rest) for (u,), rest in pairs])
        named = {ERROR.name: (ERROR.latex, ERROR.meaning), **FURTHER}
        return {k: Variable(("time_ridge",), table[:, i], *v) for i, (k, v) in enumerate(named.items())}


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
    reads: ClassVar[Reads] = {
        "data": {"gaussian": "spectrum samples dimension"},
        "target": {"index": "formula noise power"},
        "student": {"linear": ""},
        "loss": "function",
        "algorithm": {"minimise": ""},
    }
    coordinates: ClassVar = {"time_ridge": (r"time $1/\lambda$", "")}
    axes = ("time_ridge",)
    simulation = Simulation(sizes=(100, 200, 400), replicas=40)
    references = ("pezeshki2022multiscale",)
    assumptions = (
        "n, d, p -> infinity at fixed ratios; Gaussian inputs, linear teacher with independent components",
        "training time enters as a ridge 1/t (the ridge proxy of gradient descent)",
    )
    limits = (
        "s1/s2 -> infinity: the published, decoupled form",
        "time_ridge -> 0: E_G = 1/2; time_ridge -> infinity with n > d and no noise: E_G = 0",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse what is not ridge regression of a latent teacher on two blocks."""
        data, target, times = problem.data, problem.target, problem.grid.values("time_ridge")
        if data.samples is None:
            yield Refusal("data.samples", "samples and dimension are needed; only their ratio counts")
        if data.spectrum is None or len(data.spectrum.blocks()[0]) != 2:
            yield Refusal("data.spectrum", "two blocks, fast and slow: { variances, fractions } of two entries")
        elif min(data.spectrum.blocks()[0]) <= 0 or min(data.spectrum.blocks()[1]) <= 0:
            yield Refusal("data.spectrum", "both blocks need a positive variance and a positive fraction")
        elif data.dimension is not None:
            try:
                data.spectrum.counts(data.dimension)
            except ValueError as error:
                yield Refusal("data.spectrum", str(error))
        if target.formula != "z":
            yield Refusal("target.formula", f"the teacher is linear of slope one, z, got {target.formula!r}")
        if target.power != "latent":
            yield Refusal("target.power", "the teacher acts on the latent features", 'set power = "latent"')
        if problem.loss.function != "square":
            yield Refusal("loss.function", f"ridge regression, got {problem.loss.function!r}")
        if min(times) < 1e-300 or max(times) > 1e300:
            yield Refusal("grid.time_ridge", "between 1e-300 and 1e300: its inverse is the ridge")

    def derive(self, problem: Problem) -> TwoScaleRidge:
        """Return the fixed point."""
        return TwoScaleRidge(problem)


THEORY = MultiscaleRidgeTheory()
