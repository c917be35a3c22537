"""Implicit bias of two-layer linear networks: the reduced flow of the product theta = W^T a, and its limit.

Gradient flow on ``|X theta - y|^2 / 2`` for ``f(x) = a^T W x``, from balanced weights ``a a^T = W W^T``, closes on
theta: ``theta' = -|theta| (1 + theta theta^T/|theta|^2) X^T (X theta - y)``. Time is that of gradient flow on the
unnormalised loss. Small theta(0) is what the theory is about, so the state is the direction ``u = theta/|theta|`` and
``log |theta|``: every component is O(1), however small theta is. In the coordinates of the singular vectors of X only
the r = rank X visible components of u, the length of its invisible part, and log |theta| move.

Source: Chatterji, Long & Bartlett, arXiv:2108.11489, with an erratum: their Eq. (1) lacks a factor 3/2 in front of
the linear term; see docs/theory/two-layer-linear.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from ..problem import OdeSolver, Problem
from ..problem.grids import Simulation
from ..problem.regression import least_squares_data, spectrum_of
from ..problem.targets import power_shares
from ..symbolic.systems import Equation, Flow, OrderParameter, Solution, Step, Variable
from .base import Reads, Refusal, Theory

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


def limit(least_norm: Array, hidden_start: Array, *, printed: bool = False) -> Array:
    """Limit of the flow: theta_OLS + alpha w_perp.

    Parameters
    ----------
    least_norm : (p,) array
        theta_OLS, the interpolator of least norm (least squares if none interpolates).
    hidden_start : (p,) array
        w_perp, the part of ``theta(0)/sqrt|theta(0)|`` that the data do not see.
    printed : bool
        Use the published objective ``|theta|^{3/2} - w.theta`` instead of ``|theta|^{3/2} - (3/2) w.theta``.
    """
    a, b = float(hidden_start @ hidden_start), float(least_norm @ least_norm)
    if printed:
        alpha2 = (8 * a + math.sqrt(64 * a * a + 1296 * b)) / 81
    else:
        alpha2 = (a + math.sqrt(a * a + 4 * b)) / 2
    return least_norm + math.sqrt(alpha2) * hidden_start


class ReducedFlow(Flow):
    """Modes u_i = v_i . theta/|theta|, invisible length h of u, and log |theta|: r + 2 scalars in any dimension.

    The direction is read as (u, h)/|(u, h)|, so that the integrator's error of its length never enters.
    """

    time_unit = "gradient-flow time of |X theta - y|^2 / 2"
    order_parameters = (
        OrderParameter("loss", (), r"\tfrac12|X\theta-y|^2", "unnormalised squared loss", "O(n)"),
        OrderParameter("solution_gap", (), r"|\theta-\theta_\infty|", "distance to the corrected limit"),
        OrderParameter("risk", (), r"|\Sigma^{1/2}(\theta-\theta_*)|^2", "excess test error"),
    )
    letters = r"""
    u_i           :: component of the direction $\theta/\rho$ along mode $i$
    h             :: length of the part of the direction that the data do not see
    \rho          :: length of $\theta$, the product of the layers
    s_i           :: singular values of the data
    \tilde y_i    :: labels along mode $i$
    \omega        :: work of the forces along the direction
    r             :: rank of the data
    i             :: modes of the data
    \theta_\infty :: limit of the flow
    \theta_{\mathrm{OLS}} :: least squares solution of least norm
    w_\perp       :: part of $\theta/|\theta|^{1/2}$ that the data do not see; it is kept
    \alpha        :: factor of that part in the limit
    t             :: time of gradient flow on $|X\theta - y|^2/2$
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        import numpy as np

        x, y, target, start = least_squares_data(problem)
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        keep = s > np.finfo(float).eps * max(x.shape) * s[0]
        self.modes, self.singular, self.labels = vt[keep], s[keep], (u.T @ y)[keep]
        unseen = y - u[:, keep] @ self.labels
        self.unseen_loss = 0.5 * float(unseen @ unseen) if len(self.labels) < len(y) else 0.0
        self.log_norm = math.log(problem.student.initial_norm)
        # Squares of a tiny start would underflow.
        self.direction = start / problem.student.initial_norm
        # Data of full rank hide nothing: what round-off would leave must not grow.
        hidden = self.direction - self.modes.T @ (self.modes @ self.direction)
        self.hidden_length = float(np.linalg.norm(hidden)) if len(self.modes) < start.size else 0.0
        self.hidden_direction = hidden / self.hidden_length if self.hidden_length else np.zeros_like(hidden)
        self.target, self.start = target, start
        least = self.modes.T @ (self.labels / self.singular)
        w = self.hidden_length * self.hidden_direction * math.sqrt(problem.student.initial_norm)
        self.limits = {name: limit(least, w, printed=name == "printed") for name in ("printed", "corrected")}

    @staticmethod
    def expressions() -> dict[str, Any]:
        """Right-hand sides of one mode, of the invisible length and of log |theta|, in sympy."""
        import sympy as sp

        u, s, label, norm, work, h = sp.symbols("u s label norm work h", real=True)
        force = s * (s * norm * u - label)
        return {"force": force, "mode": u * work - force, "hidden": h * work, "log_norm": -2 * work}

    def module(self) -> ModuleType:
        from ..symbolic import store

        return store.module(("two-layer-linear",), _source, native=True)

    def equations(self) -> list[Equation]:
        import sympy as sp

        i = sp.Symbol("i", integer=True)
        names = {n: sp.IndexedBase(n)[i] for n in ("u", "s")} | {"label": sp.IndexedBase(r"\tilde{y}")[i]}
        norm, work = sp.Symbol("rho", positive=True), sp.Symbol("omega", real=True)
        symbols = {sp.Symbol(n, real=True): v for n, v in (names | {"norm": norm, "work": work}).items()}
        e = {k: v.subs(symbols) for k, v in self.expressions().items()}
        return [
            Equation.of("mode", r"\dot u_i", e["mode"], "u_i = v_i . theta/rho, X = sum_i s_i w_i v_i^T, y~_i = w_i.y"),
            Equation.of("hidden", r"\dot h", e["hidden"], "h: length of the part of theta/rho that X does not see"),
            Equation.of("norm", r"\frac{\mathrm{d}}{\mathrm{d}t}\log\rho", e["log_norm"], "rho = |theta|"),
            Equation.of("work", r"\omega", sp.Sum(names["u"] * e["force"], (i, 1, sp.Symbol("r", integer=True)))),
            Equation(
                "limit",
                r"\theta_\infty = \theta_{\mathrm{OLS}} + \alpha w_\perp,\quad \alpha^4 = "
                r"|\theta_{\mathrm{OLS}}|^2 + \alpha^2 |w_\perp|^2",
            ),
        ]

    def derivation(self) -> list[Step]:
        rows = {e.label: e for e in self.equations()}
        full = Equation("reduced", r"\dot\theta = -|\theta|\,(1 + \theta\theta^T/|\theta|^2)\,X^T(X\theta - y)")
        kept = Equation("invariant", r"\frac{\mathrm{d}}{\mathrm{d}t}\,\bigl(\theta_\perp/|\theta|^{1/2}\bigr) = 0")
        return [
            Step(
                "The product closes",
                "a' = -W g and W' = -a g^T with g = X^T(X theta - y), so theta' = -(|a|^2 + W^T W) g; balance, which "
                "the flow "
                "keeps, gives |a|^2 = |theta| and W^T W = theta theta^T/|theta|.",
                (full,),
            ),
            Step(
                "Modes",
                "g lies in the row space of X. With theta = rho u, |u| = 1, the direction obeys u' = -(g - u (u.g)), "
                "the length (log rho)' = -2 u.g. Seen in singular vectors each visible mode has its own force; the "
                "invisible part only changes its length.",
                tuple(rows[k] for k in ("mode", "hidden", "norm", "work")),
            ),
            Step(
                "What is conserved, and the limit",
                "|theta|' = -2 theta.g and theta_perp' = -theta_perp (theta.g)/|theta|, so theta_perp/sqrt|theta| "
                "keeps its value w_perp. With "
                "the visible part at theta_OLS this fixes alpha = sqrt|theta|. It is the minimiser of |theta|^{3/2} "
                "- (3/2) w.theta over "
                "interpolators; the published objective lacks the 3/2.",
                (kept, rows["limit"]),
            ),
        ]

    def initial_state(self) -> Array:
        import numpy as np

        return np.append(self.modes @ self.direction, [self.hidden_length, self.log_norm])

    def stops(self) -> Array:
        """Times around the escape from theta = 0, which the integrator must step to.

        While theta is negligible all rates are constant but for the turn of u towards ``b = X^T y``, and steps grow
        without bound: they would leap over the escape. There ``|theta| = |theta(0)| (q cosh(|b| t + asinh(p/q)))^2``
        with p the component of u(0) along b and q the length of the rest.
        """
        import numpy as np

        slope = self.singular * self.labels
        size = float(np.linalg.norm(slope))
        if size == 0.0:
            return np.zeros(0)
        p = float(self.modes @ self.direction @ slope) / size
        q = math.sqrt(max(1.0 - p * p, np.finfo(float).eps))
        # Twice |b| is the rate of log |theta|; the forces of theta match those of the labels at |b|/s^2.
        growth = 0.5 * (math.log(size / self.singular[0] ** 2) - self.log_norm)
        near = (growth + math.log(2.0 / q) - math.asinh(p / q) + np.linspace(-8.0, 8.0, 65)) / size
        return near[near > 0.0]

    def integration(self) -> dict[str, Any]:
        import numpy as np

        asked = super().integration()
        times = asked["t_eval"]
        stops = self.stops()
        return asked | {"t_eval": np.union1d(times, stops[stops < times[-1]]), "output": "step"}

    def finish(self, times: Array, states: Array, status: str, message: str, stats: dict[str, Any]) -> Solution:
        import numpy as np

        wanted = np.isin(times, np.append(self.times(), 0.0))
        return super().finish(times[wanted], states[wanted], status, message, stats)

    def names(self) -> list[str]:
        return [*(f"u[{i}]" for i in range(len(self.singular))), "h", "log_norm"]

    def parameters(self) -> Array:
        import numpy as np

        return np.concatenate([self.singular, self.labels])

    def thetas(self, states: Array) -> Array:
        """Parameters theta (time, p) of the states."""
        visible, hidden = self._parts(states)
        return visible @ self.modes + hidden * self.hidden_direction

    def _parts(self, states: Array) -> tuple[Array, Array]:
        """Visible modes (time, r) and invisible length (time, 1) of theta."""
        import numpy as np

        scale = np.exp(states[:, -1:]) / np.linalg.norm(states[:, :-1], axis=1, keepdims=True)
        return scale * states[:, :-2], scale * states[:, -2:-1]

    def variables(self, times: Array, states: Array) -> dict[str, Variable]:
        import numpy as np

        theta = self.thetas(states)
        loss = self.unseen_loss + 0.5 * np.sum((self.singular * self._parts(states)[0] - self.labels) ** 2, axis=1)
        spectrum = spectrum_of(self.problem.data)
        values = {
            "loss": loss,
            "solution_gap": np.linalg.norm(theta - self.limits["corrected"], axis=1),
            "risk": ((theta - self.target) ** 2) @ spectrum,
        }
        out = {p.name: Variable(("time",), values[p.name], p.latex, p.meaning) for p in self.order_parameters}
        for name, goal in self.limits.items():
            gap = np.float64(np.linalg.norm(theta[-1] - goal)) if len(theta) else np.float64(np.nan)
            out[f"limit_gap_{name}"] = Variable(
                (), gap, "", f"distance of theta at the last time from the {name} limit"
            )
        return out


def _source() -> str:
    """Print the right-hand side: the scalar expressions inside a loop over modes."""
    from ..symbolic.printing import HEADER, RHS_SIGNATURE, printer

    write = printer()
    text = {k: write.doprint(e) for k, e in ReducedFlow.expressions().items()}
    return (
        HEADER.format(title="Reduced gradient flow of a two-layer linear network, in singular vectors")
        + f"""
WORK_SIZE = 0


@njit({RHS_SIGNATURE}, **OPTIONS)
def rhs(t, y, dy, p, _scratch):
    modes = y.size - 2
    square = y[modes] * y[modes]
    for i in range(modes):
        square += y[i] * y[i]
    length = math.sqrt(square)
    h = y[modes] / length
    norm = math.exp(y[modes + 1])
    work = 0.0
    for i in range(modes):
        u = y[i] / length
        s = p[i]
        label = p[modes + i]
        work += u * ({text["force"]})
    for i in range(modes):
        u = y[i] / length
        s = p[i]
        label = p[modes + i]
        dy[i] = {text["mode"]}
    dy[modes] = {text["hidden"]}
    dy[modes + 1] = {text["log_norm"]}
"""
    )


class TwoLayerLinearTheory(Theory):
    """Gradient flow of a^T W x."""

    name = "two-layer-linear"
    title = "Implicit bias of a two-layer linear network"
    summary = (
        "Balanced gradient flow of a two-layer linear network closes on theta = W^T a; its limit depends on "
        "the initial direction."
    )
    reads: ClassVar[Reads] = {
        "data": {"gaussian": "spectrum samples dimension seed"},
        "target": {"index": "formula noise power"},
        "student": {"deep": "hidden_layers activation initial_norm direction"},
        "loss": "function",
        "algorithm": {"gradient-flow": ""},
    }
    axes = ("time",)
    solver = OdeSolver(rtol=1e-10, atol=1e-12)
    simulation = Simulation(sizes=(1, 4), replicas=4)
    references = ("chatterji2022interplay",)
    assumptions = (
        "balanced initial weights, a a^T = W W^T",
        "squared loss, gradient flow (no step size, no mini-batches)",
    )
    limits = (
        "more samples than dimensions: the least-squares solution, whatever the start",
        "alpha -> 0 for small theta(0): the interpolator of least norm",
        "the published limit (limit_gap_printed) lacks a factor 3/2 and is not reached",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse what is not least squares of a two-layer linear network on one drawn data set."""
        data, target, student = problem.data, problem.target, problem.student
        if data.samples is None or data.dimension is None:
            yield Refusal("data.samples", "one data set is drawn: samples and dimension are needed")
        elif data.spectrum is not None:
            try:
                data.spectrum.counts(data.dimension)
            except ValueError as error:
                yield Refusal("data.spectrum", str(error))
            else:
                try:
                    power_shares(target.power, data.spectrum.blocks()[1])
                except ValueError as error:
                    yield Refusal("target.power", str(error))
        elif target.power is not None:
            yield Refusal("target.power", "shares are those of the blocks of data.spectrum, which is not given")
        if student.hidden_layers != 1:
            yield Refusal("student.hidden_layers", f"the network has one hidden layer, got {student.hidden_layers}")
        if student.activation != "linear":
            yield Refusal("student.activation", f"the network is linear, got {student.activation!r}")
        if student.initial_norm is None:
            yield Refusal("student.initial_norm", "the norm of the initial product is needed")
        if problem.loss.function != "square":
            yield Refusal("loss.function", f"least squares, got {problem.loss.function!r}")
        if target.slope is None:
            yield Refusal("target.formula", f"the target is linear, c*z, got {target.formula!r}")
        elif target.slope == 0 and student.direction == "target":
            yield Refusal("student.direction", "'target' needs a target that is not zero")

    def derive(self, problem: Problem) -> ReducedFlow:
        """Return the reduced flow of one data set."""
        return ReducedFlow(problem)


THEORY = TwoLayerLinearTheory()
