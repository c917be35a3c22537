"""Triple descent: ridge regression with the neural tangent kernel of one hidden layer, width against samples.

Data x ~ N(0, I_n0), y = c beta . x / sqrt n0 + noise xi, xi ~ N(0, 1), beta ~ N(0, I), m samples, phi = n0/m.
Kernel of n1 units with readouts of variance `readout_variance`, at initialisation, s centred:

    K(x, x') = (1/n1) sum_j s(h_j) s(h'_j) + (1/n1) sum_j a_j^2 s'(h_j) s'(h'_j) x . x'/n0,   h_j = w_j . x / sqrt n0.

Ridge regression solves (K + ridge) alpha = y. Readout variance 0 is the random-feature model. Errors are mean squares
and the test error includes the noise of the label. Widths are given as n1/m.

Source: Adlam & Pennington, arXiv:2008.06786; this form of the equations is derived in docs/theory/ntk-ridge.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..problem import Problem, activation
from ..problem.grids import Simulation
from ..symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Step, Variable
from .base import Reads, Refusal, Theory

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def moments(text: str, deviation: float = 1.0) -> tuple[float, float, float, float]:
    """Return E s, Var s - scale^2 (E s')^2, (E s')^2 and Var s' of an activation at a normal of that deviation.

    The two variances are those of what the linear part of s leaves: averages of squares, exactly zero for linear s.

    Raises
    ------
    ConfigError
        If s has no linear part: the kernel cannot learn a linear target; if s jumps: s' is not a function; or if s or
        s' has no second moment.
    """
    import numpy as np

    from ..errors import ConfigError
    from ..numerics.quadrature import gauss_normal
    from ..problem.moments import second_moment_fault

    shape = activation(text)
    kinks = shape.kinks("x")
    where = "student.layers[0].activation"
    fault = second_moment_fault(shape)
    if fault:
        raise ConfigError(f"the activation {text!r} has no second moment", where=where, why=fault)
    for kink in kinks:
        below, above = (float(shape.evaluate(np, x=np.array(kink + side))) for side in (-1e-9, 1e-9))
        if abs(above - below) > 1e-3 * (1 + abs(above)):
            raise ConfigError(
                f"the activation {text!r} jumps at {kink:g}", where=where,
                why="the tangent kernel needs its derivative", hint="use a continuous activation",
            )  # fmt: skip
    found: list[tuple[float, float, float, float]] = []
    for nodes in (64, 128, 256, 512, 1024):
        x, w = gauss_normal([k / deviation for k in kinks] or (0.0,), nodes)
        x = deviation * x
        s = np.asarray(shape.evaluate(np, x=x)) + 0.0 * x
        slope = shape.derivative("x")(x=x)
        mean, linear, power = float(w @ s), float(w @ slope), float(w @ slope**2)
        # Relative to the slopes: what rounding leaves of E s' = 0 is some 1e-16 of them.
        if abs(linear) <= 1e-12 * math.sqrt(power):
            raise ConfigError(
                f"the activation {text!r} has no linear part", where=where,
                why="E s' = 0: its kernel does not see a linear target", hint="use an activation with E s' not zero",
            )  # fmt: skip
        left, bend = float(w @ (s - mean - linear * x) ** 2), float(w @ (slope - linear) ** 2)
        # Rounding squared is no curvature: beside a tiny ridge it would be one.
        left, bend = (v if v > 1e-26 * power else 0.0 for v in (left, bend))
        found.append((mean, left, linear**2, bend))
        scale = np.array([math.sqrt(power), power, power, power])
        if len(found) > 1 and np.allclose(found[-1] / scale, found[-2] / scale, rtol=1e-10, atol=1e-14):
            return found[-1]
    raise ConfigError(
        f"the moments of the activation {text!r} do not converge", where=where,
        why=f"Var s' is {found[-2][3]:.6g} on 512 nodes a piece and {found[-1][3]:.6g} on 1024",
        hint="the derivative must be square-integrable, and not steeper than some hundred",
    )  # fmt: skip


SYMBOLS = ("k", "g", "gamma", "ratio", "phi", "rest", "zeta", "bend", "s2", "signal", "noise")
TEST = OrderParameter("test_mse", ("width_ratio",), r"E_{\mathrm{test}}", "mean squared error on fresh noisy labels")
TRAIN = OrderParameter("train_mse", ("width_ratio",), r"E_{\mathrm{train}}", "mean squared error on the m samples")


def expressions() -> dict[str, Any]:
    """Fixed point in (k, g), the test error and sqrt(train/test), in sympy; slopes by implicit differentiation."""
    import sympy as sp

    k, g, gamma, ratio, phi, rest, zeta, bend, s2, signal, noise = (sp.Symbol(n, positive=True) for n in SYMBOLS)
    a = gamma + s2 * bend + k * rest
    b = zeta * (s2 + k)
    shift = a / b
    # g = E 1/(x + A/B) for the Marchenko-Pastur law of X^T X / n0, of aspect ratio m/n0 = 1/phi; its quadratic gives
    # 1 - g A/B = phi g/(phi + g), free of the cancellation of the left side.
    tau1 = g / b
    tau2 = phi * g / (phi + g) / b
    fixed = k * (1 + (rest * tau1 + zeta * tau2) / ratio) - 1
    stieltjes = shift * g + phi * g / (phi + g) - 1
    system = sp.Matrix([fixed, stieltjes])
    jacobian = system.jacobian([k, g])
    # Kept as products: expanded it would cancel.
    determinant = jacobian[0, 0] * jacobian[1, 1] - jacobian[0, 1] * jacobian[1, 0]
    # Derivatives in log gamma, which stay in range for any gamma.
    moved = gamma * system.diff(gamma)
    dk = (-jacobian[1, 1] * moved[0] + jacobian[0, 1] * moved[1]) / determinant
    dg = (jacobian[1, 0] * moved[0] - jacobian[0, 0] * moved[1]) / determinant
    slopes = [gamma * sp.diff(t, gamma) + sp.diff(t, k) * dk + sp.diff(t, g) * dg for t in (tau1, tau2)]
    lost = -(noise**2 * slopes[0] + signal**2 * slopes[1])
    return {
        "A": a, "B": b, "tau1": tau1, "tau2": tau2, "fixed_point": fixed, "stieltjes": stieltjes, "shift": shift,
        "test_mse": lost / (gamma * tau1**2), "shrinkage": gamma * tau1,
    }  # fmt: skip


class TangentRidge(FixedPoint):
    """One scalar k for each width, and closed forms in it."""

    order_parameters = (TEST, TRAIN)
    letters = r"""
    k             :: response that the finite width leaves
    \alpha        :: units a sample, $n_1/m$
    \gamma        :: ridge :: loss.ridge
    \phi          :: dimension a sample, $n_0/m$
    \tau_1        :: average resolvent of the kernel
    \tau_2        :: the same, weighed by the inputs' covariance
    g             :: resolvent of the inputs' covariance
    s             :: activation, centred
    \zeta         :: squared average slope of the activation
    \eta_\ast     :: what the linear part leaves of the activation's variance
    \sigma^2_2, \sigma_2 :: variance of the readouts :: student.readout_variance
    \sigma_{\epsilon} :: standard deviation of the label's noise :: target.noise
    c             :: standard deviation of the target
    A             :: ridge of the inputs' covariance, times $B$
    B             :: factor of the inputs' covariance in the kernel
    """

    def equations(self) -> list[Equation]:
        import sympy as sp

        names = {
            "rest": r"\eta_\ast", "bend": r"\eta'_\ast", "s2": r"\sigma_2^2", "ratio": r"\alpha",
            "noise": r"\sigma_\epsilon", "signal": "c",
        }  # fmt: skip
        nice = {sp.Symbol(n, positive=True): sp.Symbol(names.get(n, n), positive=True) for n in SYMBOLS}
        e = expressions()
        k, g, gamma, ratio, phi, rest, zeta, *_, signal, noise = nice.values()
        big_a, big_b, tau1, tau2 = sp.symbols("A B tau_1 tau_2", positive=True)
        law = big_a / big_b * g + phi * g / (phi + g)
        slopes = [sp.Function(rf"\tau_{i}")(gamma) for i in (1, 2)]
        train = -(gamma**2) * (noise**2 * sp.Derivative(slopes[0], gamma) + signal**2 * sp.Derivative(slopes[1], gamma))
        return [
            Equation.of("fixed_point", k, 1 / (1 + (rest * tau1 + zeta * tau2) / ratio), "alpha = n1/m"),
            Equation.of("A", big_a, e["A"].subs(nice)),
            Equation.of("B", big_b, e["B"].subs(nice)),
            Equation.of("tau1", tau1, g / big_b),
            Equation.of("tau2", tau2, phi * g / (phi + g) / big_b, "(1 - A tau_1)/B"),
            Equation.of("stieltjes", sp.Integer(1), law, "g = E 1/(x + A/B), Marchenko-Pastur of aspect ratio 1/phi"),
            Equation.of("train_mse", TRAIN.latex, train, "gamma: the ridge"),
            Equation.of("test_mse", TEST.latex, sp.Symbol(TRAIN.latex) / (gamma * tau1) ** 2),
            Equation(
                "moments",
                r"\zeta = (\mathbb{E}s')^2,\quad \eta_\ast = \mathrm{Var}\,s - \zeta,\quad \eta'_\ast = "
                r"\mathrm{Var}\,s'",
            ),
        ]

    def derivation(self) -> list[Step]:
        rows = {e.label: e for e in self.equations()}
        kernel = r"K \simeq \sigma_2^2\eta'_\ast\,I + \sigma_2^2\zeta\,S + \tfrac{1}{n_1}F^TF,\quad S = X^TX/n_0"
        return [
            Step(
                "Linear equivalents",
                "At n0 ~ m the activation acts as its linear part plus independent noise: the gradients of the first "
                "layer give a deterministic kernel, the features F rows of covariance eta_* I + zeta S.",
                (Equation("kernel", kernel), rows["moments"]),
            ),
            Step(
                "Fixed point",
                "Given X, F^T F/n1 is a sample covariance of n1 draws in m dimensions: inside a resolvent it acts as "
                "k times the covariance. tau_1 = tr(K + gamma)^-1/m, tau_2 = tr S(K + gamma)^-1/m.",
                tuple(rows[k] for k in ("fixed_point", "A", "B", "tau1", "tau2", "stieltjes")),
            ),
            Step(
                "Errors",
                "The residuals on the samples are gamma (K + gamma)^-1 y; averaged over beta and the noise they are "
                "derivatives in gamma. The test error is that of leave-one-out, whose factor is 1/(gamma tau_1)^2.",
                (rows["train_mse"], rows["test_mse"]),
            ),
        ]

    def module(self) -> ModuleType:
        from ..symbolic import store

        return store.module(("ntk-ridge",), _source, native=True)

    def python(self) -> str:
        from ..symbolic import store

        return store.source(self.module())

    def solve(self) -> Solution:
        """Return both errors at every width."""
        import numpy as np

        ratios = np.array(self.problem.grid.values("width_ratio"))
        return Solution({"width_ratio": ratios}, self.variables(self.roots()))

    @cached_property
    def _rows(self) -> list[tuple[float, ...]]:
        """The arguments of the printed functions after (k, g), at every width."""
        p, student = self.problem, self.problem.student
        _, nonlinear, zeta, bend = moments(student.layers[0].activation)
        rest = (1.0 / p.data.ratio, nonlinear, zeta, bend, student.readout_variance, p.target.slope, p.target.noise)
        return [(p.loss.ridge, ratio, *rest) for ratio in p.grid.values("width_ratio")]

    def _law(self, k: float, rest: tuple[float, ...]) -> float:
        """g, of the Marchenko-Pastur law."""
        from ..numerics.random_matrix import marchenko_pastur_stieltjes

        return float(marchenko_pastur_stieltjes(self.module().shift(k, 1.0, *rest), 1 / rest[2]))

    def _gap(self, u: float, rest: tuple[float, ...]) -> float:
        k = math.exp(u)
        return float(self.module().residual(k, self._law(k, rest), *rest))

    def roots(self) -> Array:
        """Return log k at every width, shape (widths, 1)."""
        import numpy as np

        from ..numerics.scalars import find_root

        found = []
        for rest in self._rows:
            gamma, ratio, _, nonlinear, zeta, bend, s2, *_ = rest
            # The left-hand side grows with k; tau <= 1/least bounds the root from below, 1 from above. A root near
            # rounding of 1 lies within 1e-6 of it.
            low = -math.log1p((nonlinear + zeta) / (ratio * (gamma + s2 * bend))) - 1e-6
            found.append([find_root(partial(self._gap, rest=rest), low, 1e-6, xtol=1e-15, rtol=1e-14)])
        return np.array(found)

    def residual(self, states: Array) -> Array:
        import numpy as np

        return np.array([[self._gap(float(u), rest)] for (u,), rest in zip(states, self._rows, strict=True)])

    def variables(self, states: Array) -> dict[str, Variable]:
        import numpy as np

        rows = []
        for (u,), rest in zip(states, self._rows, strict=True):
            k = math.exp(u)
            rows.append(self.module().observe(k, self._law(k, rest), *rest))
        table = np.array(rows)
        return {q.name: Variable(q.dims, table[:, i], q.latex, q.meaning) for i, q in enumerate(self.order_parameters)}


def _source() -> str:
    """Print the fixed point and the observables."""
    from ..symbolic.printing import HEADER, assignments

    e = expressions()
    lines = [HEADER.format(title="Ridge regression with the tangent kernel of one hidden layer")]
    for name, wanted in (
        ("shift", [e["shift"]]),
        ("residual", [e["fixed_point"]]),
        ("observe", [e["test_mse"], e["shrinkage"]]),
    ):
        shared, values = assignments(wanted, prefix="w_")
        if name == "observe":
            # The square is taken last: gamma**2 alone would leave the range of floats.
            shared, values = [*shared, f"    test = {values[0]}"], ["test", f"test * ({values[1]})**2"]
        lines += ["", f"def {name}({', '.join(SYMBOLS)}):", *shared, f"    return {', '.join(values)}", ""]
    return "\n".join(lines) + "\n"


class NTKRidgeTheory(Theory):
    """Tangent-kernel regression."""

    name = "ntk-ridge"
    title = "Triple descent of the neural tangent kernel"
    summary = "Errors of ridge regression with the tangent kernel of one hidden layer, against its width."
    reads: ClassVar[Reads] = {
        "data": {"gaussian": "sample_ratio samples dimension"},
        "target": {"index": "formula noise"},
        "student": {"features": "layers readout_variance"},
        "loss": "function ridge",
        "algorithm": {"minimise": ""},
    }
    coordinates: ClassVar = {"width_ratio": ("width over samples $n_1/m$", "")}
    axes = ("width_ratio",)
    simulation = Simulation(sizes=(400, 800), replicas=10)
    references = ("adlam2020neural",)
    assumptions = (
        "n0, n1, m -> infinity at fixed ratios; Gaussian inputs, linear target",
        "the kernel at initialisation, its activation centred; the output at initialisation is subtracted",
    )
    limits = (
        "readout_variance = 0: random features",
        "width_ratio -> infinity: the deterministic kernel",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse what is not ridge regression of a linear target on one layer whose width is the axis."""
        layers, ridge = problem.student.layers, problem.loss.ridge
        if problem.data.ratio is None:
            yield Refusal("data.sample_ratio", "samples over input dimensions are needed", "add sample_ratio")
        if problem.target.slope is None:
            yield Refusal("target.formula", f"the target is linear, c*z, got {problem.target.formula!r}")
        if len(layers) != 1:
            yield Refusal("student.layers", f"one hidden layer, got {len(layers)}")
        elif layers[0].width_ratio is not None:
            yield Refusal(
                "student.layers", "the width is the axis grid.width_ratio, width over samples: drop width_ratio"
            )
        if problem.loss.function != "square":
            yield Refusal("loss.function", f"ridge regression, got {problem.loss.function!r}")
        if not isinstance(ridge, float) or not 1e-140 <= ridge <= 1e140:
            yield Refusal(
                "loss.ridge", f"a number between 1e-140 and 1e140 is needed, whose square is a float, got {ridge!r}",
                "take 1e-6 or so for the ridgeless limit",
            )  # fmt: skip

    def derive(self, problem: Problem) -> TangentRidge:
        """Return the fixed point."""
        return TangentRidge(problem)


THEORY = NTKRidgeTheory()
