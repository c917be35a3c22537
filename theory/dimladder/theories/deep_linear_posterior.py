"""Posterior of deep linear networks: every hidden layer multiplies the kernel by one scalar u_0.

``f(x) = N^{-L/2} N_0^{-1/2} a^T W_L ... W_1 x`` with L hidden layers of width N, prior variance s2 on every weight, P
examples, Gibbs measure at temperature T of the squared loss. As N, P -> infinity at alpha = P/N the layers integrate
out one by one and the posterior is that of a Gaussian process with kernel ``u_0^L K_0``, ``K_0 = (s2/N_0) X^T X``.
With ``kappa = u_0^L``

    1 - u_0/s2 = (1/N) tr[kappa K_0 (kappa K_0 + T)^{-1}] - (1/N) Y^T (kappa K_0 + T)^{-1} kappa K_0 (kappa K_0 +
    T)^{-1} Y,

which at T = 0 is ``1 - u_0/s2 = alpha (1 - r_0 u_0^{-L})``, ``r_0 = Y^T K_0^{-1} Y / P``.
Source: Li & Sompolinsky, arXiv:2012.04030 (back-propagating kernel renormalisation).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import DomainError
from ..problem import Problem
from ..problem.checks import at_least
from ..problem.data import KernelLaw
from ..problem.grids import Simulation
from ..problem.regression import linear_teacher_data
from ..symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Step, Variable
from .base import Reads, Refusal, Theory

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


class PosteriorSampling(Simulation, frozen=True, kw_only=True):
    """Sizes and statistics of the Gibbs sampler: `sweeps` after as many again for burn-in."""

    sizes: tuple[int, ...] = (20, 40)
    replicas: int = 8
    sweeps: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, sweeps=self.sweeps)


SCALE = OrderParameter(
    "kernel_scale",
    ("depth",),
    r"u_0^L",
    "factor of the kernel after L hidden layers, |a^T W_L...W_2|^2 N^{-L} on average",
)
LARGEST = 690.0  # of |log kappa|: e^709 is the largest float
TEST = {
    "bias": (r"\mathbb{E}(\bar f - f_*)^2", "squared error of the posterior mean, over fresh inputs"),
    "predictor_variance": (r"\mathbb{E}\,\mathrm{Var} f", "posterior variance of the output, over fresh inputs"),
    "mse": (r"\mathbb{E}(f - f_*)^2", "squared error over fresh inputs: bias + variance"),
}


class KernelScale(FixedPoint):
    """One scalar equation a depth, in modes of the kernel: kappa lam_i/(kappa lam_i + T) and y_i^2."""

    order_parameters = (SCALE,)
    letters = r"""
    \kappa        :: factor of the kernel after all hidden layers
    u_0           :: factor of the kernel after one hidden layer
    L             :: hidden layers
    \sigma        :: standard deviation of the weights' prior
    \alpha        :: samples over width
    r_0           :: power of the labels in units of the kernel, a sample :: data.label_alignment
    N             :: width of a hidden layer
    P             :: number of samples
    T             :: temperature of the posterior :: algorithm.temperature
    \lambda_i, y_i :: eigenvalues of the kernel of the inputs, and the labels along its modes
    i             :: modes of the kernel
    """

    @staticmethod
    def expressions() -> dict[str, Any]:
        """One mode's term of the saddle-point equation and of the action, and their parts of one layer, in sympy."""
        import sympy as sp

        kappa, lam, y, temperature, ratio = sp.symbols("kappa lam y T ratio", nonnegative=True)
        total = kappa * lam + temperature
        return {
            # As a product: squares of kappa would leave the range of floats long before kappa does.
            "term": kappa * lam / total * (1 - y**2 / total),
            "action": -sp.log(total) / 2 - y**2 / (2 * total),
            "layer": 1 - ratio,
            "layer_action": (sp.log(ratio) - ratio) / 2,
        }

    def module(self) -> ModuleType:
        from ..symbolic import store

        return store.module(("deep-linear-posterior",), _source, native=True)

    def python(self) -> str:
        from ..symbolic import store

        return store.source(self.module())

    def equations(self) -> list[Equation]:
        import sympy as sp

        e = self.expressions()
        i, p, n, depth = sp.symbols("i P N L", integer=True, positive=True)
        u, alpha, r0 = sp.symbols("u_0 alpha r_0", positive=True)
        s2 = sp.Symbol(r"\sigma^2", positive=True)
        lam, y = sp.IndexedBase("lambda"), sp.IndexedBase("y")
        kappa, plain_lam, plain_y, ratio = sp.symbols("kappa lam y ratio", nonnegative=True)
        layer = e["layer"].subs(ratio, u / s2)
        rows = [Equation.of("kernel_scale", sp.Symbol("kappa"), u**depth)]
        if isinstance(self.problem.data, KernelLaw):
            zero = e["term"].subs(sp.Symbol("T", nonnegative=True), 0).subs(kappa, u**depth)
            # The sum of the modes at T = 0: one per example, and Y^T K_0^{-1} Y = P r_0.
            mean = sp.simplify(zero).subs(plain_y**2 / plain_lam, r0)
            return [
                *rows,
                Equation.of("saddle", layer, alpha * sp.expand(mean).subs(plain_y**2 / plain_lam, r0), "T = 0"),
            ]
        term = e["term"].subs({plain_lam: lam[i], plain_y: y[i]})
        return [
            *rows,
            Equation.of("saddle", layer, sp.Sum(term, (i, 1, p)) / n, "lambda_i, y_i: modes of K_0 and of the labels"),
        ]

    def derivation(self) -> list[Step]:
        prior = Equation(
            "one layer",
            r"\int \mathrm{d}a\,\mathrm{d}W \to \int \mathrm{d}u\, e^{\frac N2(\log u - u)}\,p(Y\,|\,u\,\sigma^2 K)",
        )
        return [
            Step(
                "Integrate the top layer",
                "The output is Gaussian given the layer below, with kernel s2 h^T h/N. Its posterior average depends "
                "on the features only "
                "through the squared length u of the readout, which concentrates as N grows.",
                (prior,),
            ),
            Step(
                "One scalar a layer",
                "The same happens at every layer, and all scalars are equal by symmetry: the kernel is multiplied by "
                "u_0 = s2 u per hidden layer. The "
                "saddle point over u is the fixed-point equation.",
                tuple(self.equations()),
            ),
            Step(
                "Predictor",
                "Mean and variance are those of a Gaussian process with kernel kappa K_0. At T = 0 the mean does not "
                "depend on kappa, and the variance is "
                "proportional to it: depth helps when r_0 is small.",
                (),
            ),
        ]

    @cached_property
    def spectrum(self) -> tuple[Array, Array, float]:
        """Modes (lambda_i, y_i) of the kernel and the labels, and N; a kernel law as one mode per unit of
        alpha.

        Null modes are left out: the labels along them move no weight, and their term of the saddle is exactly zero.
        """
        import numpy as np

        data, s2 = self.problem.data, self.problem.student.weight_variance
        if isinstance(data, KernelLaw):
            return np.ones(1), np.array([math.sqrt(data.label_alignment)]), 1.0 / data.alpha
        _, singular, labels, _ = self.modes
        return s2 / data.dimension * singular**2, labels, float(self.problem.student.width)

    @cached_property
    def modes(self) -> tuple[Array, Array, Array, Array]:
        """Left singular vectors (N_0, r) of X, its r = rank X singular values, labels along them, and w*."""
        import numpy as np

        x, y, target = linear_teacher_data(self.problem)
        left, singular, right = np.linalg.svd(x, full_matrices=False)
        seen = singular > np.finfo(float).eps * max(x.shape) * singular[0]
        return left[:, seen], singular[seen], right[seen] @ y, target

    def root(self, depth: int) -> float:
        """Solve the saddle-point equation for log(u_0/s2), on the saddle of largest weight if there are several.

        Raises
        ------
        DomainError
            When there is no saddle: labels that vanish at zero temperature and alpha > 1.
        """
        import numpy as np

        from ..numerics.scalars import find_root

        lam, y, width = self.spectrum
        s2, temperature = self.problem.student.weight_variance, self.problem.algorithm.temperature
        generated, residual = self.module(), partial(self._gap, depth)
        low, high = self._bounds(lam, y, width, depth)
        grid = np.linspace(low, high, 2 + math.ceil(10 * (high - low))) / depth - math.log(s2)
        signs = np.array([residual(g) for g in grid])
        roots = [
            find_root(residual, a, b, xtol=1e-15, rtol=1e-15)
            for a, b, fa, fb in zip(grid, grid[1:], signs, signs[1:], strict=False)
            if fa > 0 >= fb
        ]
        if not roots:
            raise DomainError(
                "the saddle-point equation has no solution within the range of floating point",
                where=f"depth {depth}",
                why="the labels vanish and there are more examples than hidden units, or the prior variance "
                f"{s2:g} to the power of the depth is out of range",
                hint="data.label_alignment > 0, or data.alpha < 1; student.weight_variance near 1",
            )
        return max(roots, key=lambda r: float(generated.action(r, depth, s2, temperature, width, lam, y)))

    def _gap(self, depth: int, log_ratio: float) -> float:
        """The saddle-point equation at log(u_0/s2)."""
        lam, y, width = self.spectrum
        s2, temperature = self.problem.student.weight_variance, self.problem.algorithm.temperature
        return float(self.module().residual(log_ratio, depth, s2, temperature, width, lam, y))

    def _bounds(self, lam: Array, y: Array, width: float, depth: int) -> tuple[float, float]:
        """Bounds of log kappa at any root, within the range of floats.

        Above 2 s2 the left side is below -u/(2 s2) and the right above -A/kappa, A = sum y^2/(N lambda). Below s2/2 the
        modes must make up at least N/2, which none does while kappa lambda + T < y^2 or kappa lambda << T.
        """
        import numpy as np

        s2, temperature = self.problem.student.weight_variance, self.problem.algorithm.temperature
        alignment = float(np.sum(y**2 / lam)) / width
        prior = depth * math.log(s2)
        high = prior + depth * math.log(2.0)
        if alignment > 0.0:
            high = max(high, (prior + depth * math.log(2.0 * alignment)) / (depth + 1))
        least = temperature * width / (2.0 * lam.size * float(lam.max()))
        if temperature == 0.0:
            seen = y**2 / lam
            least = float(seen.min()) if seen.min() > 0.0 else 0.0
        low = math.log(least) if least > 0.0 else -LARGEST
        low = min(low, prior - depth * math.log(2.0)) - 0.1
        return max(low, -LARGEST), min(high + 0.1, LARGEST)

    def solve(self) -> Solution:
        """Return the kernel scale at every depth, and the test error where the data are given."""
        import numpy as np

        return Solution({"depth": np.array(self.problem.grid.depth)}, self.variables(self.roots()))

    def roots(self) -> Array:
        """Return log(u_0/s2) at every depth, shape (depths, 1)."""
        import numpy as np

        return np.array([[self.root(depth)] for depth in self.problem.grid.depth])

    def residual(self, states: Array) -> Array:
        import numpy as np

        return np.array([[self._gap(d, float(u))] for (u,), d in zip(states, self.problem.grid.depth, strict=True)])

    def variables(self, states: Array) -> dict[str, Variable]:
        import numpy as np

        s2 = self.problem.student.weight_variance
        pairs = zip(states, self.problem.grid.depth, strict=True)
        scales = np.array([(s2 * math.exp(u)) ** depth for (u,), depth in pairs])
        variables = {SCALE.name: Variable(SCALE.dims, scales, SCALE.latex, SCALE.meaning)}
        if not isinstance(self.problem.data, KernelLaw):
            errors = np.array([self.test_error(kappa) for kappa in scales])
            for column, (name, (latex, meaning)) in enumerate(TEST.items()):
                variables[name] = Variable(("depth",), errors[:, column], latex, meaning)
        return variables

    def test_error(self, kappa: float) -> tuple[float, float, float]:
        """(bias, variance, sum) over fresh x ~ N(0, 1), for the kernel kappa K_0."""
        import numpy as np

        student = self.problem.student
        left, singular, labels, target = self.modes
        temperature, n0 = self.problem.algorithm.temperature, self.problem.data.dimension
        scale = kappa * student.weight_variance / n0
        total = scale * singular**2 + temperature
        # The mean is x.w with w = scale X (kappa K_0 + T)^{-1} Y, one singular vector at a time.
        weights = left @ (scale * singular * labels / total)
        bias = float(np.sum((weights - target / math.sqrt(n0)) ** 2))
        # What the examples leave of the prior variance: a share T/total along a mode they see, all of it elsewhere.
        variance = scale * float(np.sum(temperature / total) + (n0 - singular.size))
        return bias, variance, bias + variance


def _source() -> str:
    """Print the saddle-point residual and the action from the expressions of one mode."""
    from ..symbolic.printing import HEADER, printer

    write = printer()
    # One mode's expressions serve all modes at once, as arrays.
    text = {k: write.doprint(e).replace("math.", "np.") for k, e in KernelScale.expressions().items()}
    body = """

def {name}(log_ratio, depth, s2, T, width, lam, y):
    ratio = math.exp(log_ratio)
    kappa = math.exp(depth * (math.log(s2) + log_ratio))
    total = np.sum({term})
    return {result}
"""
    return (
        HEADER.format(title="Saddle point of the deep linear posterior; log_ratio = log(u_0/s2)")
        + body.format(name="residual", term=text["term"], result=f"({text['layer']}) - total / width")
        + body.format(name="action", term=text["action"], result=f"depth * width * ({text['layer_action']}) + total")
    )


class DeepLinearPosteriorTheory(Theory):
    """Back-propagating kernel renormalisation."""

    name = "deep-linear-posterior"
    title = "Kernel renormalisation of deep linear networks"
    summary = (
        "The posterior of a deep linear network is a Gaussian process whose kernel is multiplied by one scalar "
        "a hidden layer."
    )
    reads: ClassVar[Reads] = {
        "data": {"kernel-law": "alpha label_alignment", "gaussian": "samples dimension seed"},
        "target": {"index": "formula noise", None: ""},
        "student": {"deep": "activation weight_variance width"},
        "loss": "function",
        "algorithm": {"posterior": "temperature"},
    }
    axes = ("depth",)
    simulation = PosteriorSampling()
    references = ("li2021statistical",)
    assumptions = (
        "N, P -> infinity at fixed alpha = P/N, fixed depth",
        "squared loss, Gaussian prior of equal variance on all weights, one output",
    )
    limits = (
        "alpha -> 0: u_0 = s2, the infinitely wide (neural network Gaussian process) kernel",
        "r_0 = 1 and s2 = 1: depth changes nothing at T = 0",
        "r_0 < s2^L: the kernel, and with it the predictor's variance, shrinks",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse what is no squared loss of a linear network, and data that leave the equation open."""
        data, target, student, temperature = (
            problem.data,
            problem.target,
            problem.student,
            problem.algorithm.temperature,
        )
        if student.activation != "linear":
            yield Refusal("student.activation", f"the network is linear, got {student.activation!r}")
        if problem.loss.function != "square":
            yield Refusal("loss.function", f"the squared loss, got {problem.loss.function!r}")
        if len(set(problem.grid.depth)) != len(problem.grid.depth):
            yield Refusal("grid.depth", f"distinct numbers of hidden layers, got {list(problem.grid.depth)}")
        if isinstance(data, KernelLaw):
            if target is not None or student.width is not None:
                path = "target" if target is not None else "student.width"
                yield Refusal(
                    path, "data.kind = 'kernel-law' says all there is to say", "drop it, or give Gaussian data"
                )
            if temperature > 0:
                why = "a positive temperature needs the spectrum of the kernel, which data.kind = 'kernel-law' lacks"
                yield Refusal("algorithm.temperature", why, "give Gaussian data with samples and dimension")
            return
        if data.samples is None or data.dimension is None:
            yield Refusal("data.samples", "one data set is drawn: samples and dimension are needed")
        elif temperature == 0 and data.samples > data.dimension:
            why = "temperature 0 needs samples <= dimension: otherwise no network fits the labels"
            yield Refusal("algorithm.temperature", why)
        if target is None or target.slope is None:
            yield Refusal("target.formula", "the labels are those of a linear target, c*z")
        if student.width is None:
            yield Refusal("student.width", "the number of hidden units is needed")

    def derive(self, problem: Problem) -> KernelScale:
        """Return the saddle-point equation."""
        return KernelScale(problem)


THEORY = DeepLinearPosteriorTheory()
