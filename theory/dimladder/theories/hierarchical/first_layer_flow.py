"""First-layer neurons under spherical correlation-loss SGD: from d dimensions to the d^eps hidden ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import DomainError
from ...problem import Refusal, activation
from ...problem.grids import OdeSolver, Simulation
from ...symbolic.equations import latex
from ...symbolic.explicit import ExplicitFlow
from ...symbolic.systems import Equation, Equations, Map, OrderParameter, Solution, Step, Variable
from ..base import Reads, Theory
from .letters import FIRST_LAYER

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    from numpy.typing import NDArray

    from ...problem import Problem

    Array = NDArray[np.float64]

log = logging.getLogger(__name__)


# W2 = identity while the first layer learns: a neuron sees sigma(sigma(w.x)).
COMPOSITIONS = 2


class Drift:
    """Numbers that the equations need, from Hermite coefficients.

    Attributes
    ----------
    rate : float
        2 step sign c_P (mu_1 / s) c_sigma: growth of ln w along a direction of readout 1, per step. c_P = E[P h_2],
        mu_1 = E[g(s u) u], c_sigma = E[sigma~ h_2]; linear coefficients of the levels above multiply it.
    noise : float
        nu = step^2 E[y^2] E[sigma~'^2] / batch_ratio: squared length of the gradient noise of one step.
    ratio : float
        d_eff / d.
    values, fractions : arrays
        Readout classes.
    """

    def __init__(self, problem: Problem) -> None:
        import numpy as np

        from ...problem.hierarchy import effective_dimension
        from .analysis import ZERO, levels, link_of, normal_rule
        from .assumptions import activation_coefficients
        from .readouts import readout_classes

        target, algorithm, student = problem.target, problem.algorithm, problem.student
        stack, link = levels(target), link_of(target)
        bottom = stack[0].coefficients
        if abs(bottom[1]) > 0:
            raise DomainError(
                "the first feature polynomial has a linear part", where="target.features[0]",
                why="it makes a linear spike that neurons find in n ~ d samples: another dynamics",
                hint="drop its degree-1 coefficient",
            )  # fmt: skip
        sigma = activation(student.activation)
        self.activation = activation_coefficients(sigma, 2, COMPOSITIONS)
        self.feature = float(bottom[2]) if len(bottom) > 2 else 0.0
        self.slope = float(link.coefficients[1]) / math.sqrt(stack[0].variance)
        for upper in stack[1:]:
            self.slope *= float(upper.coefficients[1]) / math.sqrt(upper.variance)
        if abs(self.slope) <= ZERO * math.sqrt(link.second_moment) or self.feature == 0.0:
            # A zero that rounding hides: the correlation loss has no order-one path to this level.
            self.slope = 0.0
            log.warning("E[P h_2] E[g'(h)] = 0: the overlap does not grow at this order (see the thresholds of `show`)")
        self.rate = 2.0 * algorithm.step * student.sign * self.feature * self.slope * float(self.activation[2])
        self.d, self.features = problem.limit.d, effective_dimension(problem.limit.d, target.exponents[0])
        self.ratio = self.features / self.d
        self.values, self.fractions = readout_classes(target)
        x, w = normal_rule(sigma.kinks("x"))
        chain = sigma.derivative("x")
        slope, inner = np.ones_like(x), x
        for _ in range(COMPOSITIONS):
            slope = slope * chain(x=inner)
            inner = np.asarray(sigma.evaluate(np, x=inner), dtype=float)
        self.gain = float(w @ slope**2)
        self.label_power = link.second_moment + target.noise**2
        self.batch_noise = algorithm.step**2 * self.label_power * self.gain / algorithm.batch_ratio
        self.noise = self.batch_noise if algorithm.gradient_noise else 0.0
        self.discrete = algorithm.map

    @property
    def initial(self) -> Array:
        """Squared overlap with each class at random initialisation."""
        return self.ratio * self.fractions

    def floor(self) -> float:
        """1 - q at the stationary point that gradient noise leaves, for equal readouts; nan where q does not grow."""
        import numpy as np

        from ...numerics.scalars import find_root

        rate, nu, gamma = self.rate * float(self.values[0]), self.batch_noise, self.ratio
        if len(self.values) > 1 or rate <= 0:
            return math.nan
        if not self.discrete:
            # 2 rate q (1 - q) = nu (q - gamma)
            return 1.0 - float(np.max(np.real(np.roots([2 * rate, nu - 2 * rate, -nu * gamma]))))

        def excess(q: float) -> float:
            inside, outside = q * (1 + rate * (1 - q)) ** 2, (1 - q) * (1 - rate * q) ** 2
            return (inside + nu * gamma) / (inside + outside + nu) - q

        return 1.0 - float(find_root(excess, gamma, 1.0, xtol=1e-15)) if nu > 0 else 0.0


class _Shared:
    """What the flow and the recursion have in common: parameters, printed constants, and the variables."""

    @cached_property
    def drift(self) -> Drift:
        return Drift(self.problem)  # type: ignore[attr-defined]

    @property
    def classes(self) -> int:
        return len(self.drift.values)

    @property
    def noisy(self) -> bool:
        return self.problem.algorithm.gradient_noise  # type: ignore[attr-defined]

    def structure(self) -> tuple[Any, ...]:
        return type(self).__name__, self.classes, self.noisy

    def symbols(self) -> tuple[Any, ...]:
        """q_c, a_c, phi_c (fraction), rate, nu, gamma."""
        import sympy as sp

        if self.classes == 1:
            q, a, f = [sp.Symbol("q", nonnegative=True)], [sp.Symbol("a", real=True)], [sp.Integer(1)]
        else:
            q = list(sp.symbols(f"q1:{self.classes + 1}", nonnegative=True))
            a = list(sp.symbols(f"a1:{self.classes + 1}", real=True))
            f = list(sp.symbols(f"phi1:{self.classes + 1}", positive=True))
        return (
            q,
            a,
            f,
            sp.Symbol("rho", real=True),
            sp.Symbol("nu", nonnegative=True),
            sp.Symbol("gamma", positive=True),
        )

    def parameter_values(self) -> list[float]:
        g = self.drift
        values = list(g.values) if self.classes > 1 else []
        fractions = list(g.fractions) if self.classes > 1 else []
        extra = [g.noise, g.ratio] if self.noisy else []
        # A single class has readout 1 up to its sign, which goes into the rate.
        rate = g.rate * (float(g.values[0]) if self.classes == 1 else 1.0)
        return [float(v) for v in (rate, *extra, *values, *fractions)]

    def parameter_symbols(self) -> list[Any]:
        _, a, f, rate, nu, gamma = self.symbols()
        return [rate, *([nu, gamma] if self.noisy else []), *([*a, *f] if self.classes > 1 else [])]

    def state_parameters(self) -> tuple[OrderParameter, ...]:
        if self.classes == 1:
            return (
                OrderParameter(
                    "subspace_overlap", (), "q", "|P_W* w|^2", "d_eff/d at random initialisation, O(1) later"
                ),
            )
        return tuple(
            OrderParameter(
                f"class_overlap[{c}]", (), f"q_{{{c + 1}}}", f"|P_c w|^2, directions with a = {a:.3g}", "O(1)"
            )
            for c, a in enumerate(self.drift.values)
        )

    def constants(self) -> tuple[Equation, ...]:
        import sympy as sp

        g = self.drift
        return (
            Equation(
                "rate", r"\rho = 2\, \tilde\eta\, \mathbb{E}[P h_2]\, \mathbb{E}[g'(h)]\, \mathbb{E}[\tilde\sigma h_2]"
            ),
            Equation.of("feature", r"\mathbb{E}[P h_2]", sp.Float(g.feature, 10)),
            Equation.of("link", r"\mathbb{E}[g'(h)]", sp.Float(g.slope, 10)),
            Equation.of("activation", r"\mathbb{E}[\tilde\sigma h_2]", sp.Float(float(g.activation[2]), 10)),
            Equation.of("rate value", r"\rho_0", sp.Float(g.rate, 10), "per step"),
            Equation.of("initial", "q(0)", sp.Rational(g.features, g.d), "random initialisation: d_eff / d"),
        )

    def derivation(self) -> list[Step]:
        noise = (
            "A batch of n fresh samples adds a vector of squared length nu = step^2 E[y^2] E[s'^2]/batch_ratio, "
            "isotropic."
            if self.noisy
            else "At large batch_ratio the noise of the gradient is dropped (gradient_noise = true keeps it)."
        )
        return [
            Step(
                "Population gradient",
                "With W2 = identity the neurons decouple. The correlation loss gives E[f* s'(w.x) x], s = "
                "sigma(sigma(.)). "
                "Its leading Hermite order is E[s''] (2 b / sqrt d_eff) A w with A = sum_i a_i w*_i w*_i^T and "
                "b = E[g'(h)] E[P h_2]/sqrt 2; orders above are smaller by d_eff^(-1/2).",
                self.constants(),
            ),
            Step(
                "Spherical step",
                "Projecting on the tangent space and normalising, with eta = step sqrt(d_eff), the overlap q_c "
                "with the "
                "directions of readout a_c grows at the rate a_c less the mean m = sum_c a_c q_c. " + noise,
                tuple(self.equations()),  # type: ignore[attr-defined]
            ),
        ]

    def collect(self, times: Array, states: Array) -> dict[str, Variable]:
        import numpy as np

        overlap = states.sum(axis=1)
        out = {
            "subspace_overlap": Variable(
                ("time",), overlap, "q", "|P_W* w|^2, squared norm of w inside the hidden subspace"
            ),
            "escape_time": Variable((), np.array(self.escape_time()), "t_{1/2}", "time to q = 1/2", "steps"),
            "rate": Variable((), np.array(self.drift.rate), r"\rho", "drift constant per step"),
            "noise_floor": Variable(
                (), np.array(self.drift.floor()), r"1 - q_\infty", "1 - q left by the gradient noise"
            ),
        }
        if self.classes > 1:
            out["class_overlap"] = Variable(
                ("time", "readout_value"), states / np.asarray(self.drift.fractions), "q_c/\\varphi_c",
                "squared overlap with the directions of one readout value, over their fraction",
            )  # fmt: skip
        return out

    def class_coords(self) -> dict[str, Any]:
        return {"readout_value": self.drift.values} if self.classes > 1 else {}

    def escape_time(self) -> float:
        raise NotImplementedError

    def _crossing(self, times: Array, overlaps: Array) -> float:
        """Return where the overlap crosses 1/2, interpolated in its logit (linear in time for the logistic law)."""
        import numpy as np

        above = np.flatnonzero(overlaps >= 0.5)
        if not len(above):
            return math.inf
        j = int(above[0])
        if j == 0:
            return float(times[0])
        low, high = (math.log(v / (1 - v)) if v < 1 else 36.0 for v in (float(overlaps[j - 1]), float(overlaps[j])))
        return float(times[j - 1] + (times[j] - times[j - 1]) * (0.0 - low) / (high - low))


class OverlapFlow(_Shared, ExplicitFlow):
    """dq_c/dt = 2 rho q_c (a_c - sum a q) [- nu (q_c - gamma phi_c)]."""

    letters = FIRST_LAYER

    time_unit = "steps"
    references = ("dandi2025depth",)

    @property
    def order_parameters(self) -> tuple[OrderParameter, ...]:  # type: ignore[override]
        return self.state_parameters()

    def build(self) -> Equations:
        q, a, f, rate, nu, gamma = self.symbols()
        if self.classes == 1:
            right = [2 * rate * q[0] * (1 - q[0])]
        else:
            mean = sum(x * y for x, y in zip(a, q, strict=True))
            right = [2 * rate * x * (y - mean) for x, y in zip(q, a, strict=True)]
        if self.noisy:
            right = [r - nu * (x - gamma * phi) for r, x, phi in zip(right, q, f, strict=True)]
        return Equations(dict(zip(q, right, strict=True)), self.parameter_symbols())

    def initial_values(self) -> list[float]:
        return [float(v) for v in self.drift.initial]

    def variables(self, times: Array, states: Array) -> dict[str, Variable]:
        return self.collect(times, states)

    def escape_time(self) -> float:
        import numpy as np

        from ...numerics.scalars import find_root

        g = self.drift
        rates = 2.0 * g.rate * g.values
        start, fastest = g.initial, float(np.max(rates))
        if g.initial.sum() >= 0.5:
            return 0.0
        if fastest <= 0:
            return math.inf

        def excess(t: float) -> float:
            # Without noise the classes are replicators, and the rest of w is one of growth rate zero.
            grown = start * np.exp((rates - fastest) * t)
            return float(grown.sum() - (1.0 - start.sum()) * math.exp(-fastest * t))

        latest = (math.log(1.0 / float(start[np.argmax(rates)])) + 1.0) / fastest
        noiseless = float(find_root(excess, 0.0, latest, xtol=1e-13 * latest))
        if not self.noisy:
            return noiseless
        from ...numerics.ode import integrate

        grid = np.linspace(0.0, 20.0 * noiseless, 4001)
        module = self.module()
        result = integrate(module.rhs, self.initial_state(), grid, p=self.parameters(), rtol=1e-10, atol=1e-12)
        return self._crossing(np.asarray(result.t), np.asarray(result.y).sum(axis=1))

    def finish(self, times: Array, states: Array, status: str, message: str, stats: dict[str, Any]) -> Solution:
        solution = super().finish(times, states, status, message, stats)
        solution.coords.update(self.class_coords())
        return solution


class OverlapMap(_Shared, Map):
    """The same neurons at finite step: growth by 1 + rho (a_c - m), then normalisation."""

    letters = FIRST_LAYER

    references = ("dandi2025depth",)

    @property
    def order_parameters(self) -> tuple[OrderParameter, ...]:  # type: ignore[override]
        return self.state_parameters()

    def build(self) -> Equations:
        """Return the map; `Equations.state` holds each component after one step."""
        q, a, f, rate, nu, gamma = self.symbols()
        values = [1] if self.classes == 1 else a
        mean = sum(x * y for x, y in zip(values, q, strict=True))
        grown = [x * (1 + rate * (y - mean)) ** 2 for x, y in zip(q, values, strict=True)]
        norm = sum(grown) + (1 - sum(q)) * (1 - rate * mean) ** 2
        if self.noisy:
            grown = [g + nu * gamma * phi for g, phi in zip(grown, f, strict=True)]
            norm += nu
        return Equations({x: g / norm for x, g in zip(q, grown, strict=True)}, self.parameter_symbols())

    def equations(self) -> list[Equation]:

        return [
            Equation.of(p.name, rf"{latex(symbol)}^{{(t+1)}}", right)
            for p, (symbol, right) in zip(self.order_parameters, self.build().state.items(), strict=True)
        ]

    def module(self) -> ModuleType:
        """Return the generated module; its ``rhs`` writes the next state."""
        from ...symbolic import store

        return store.module(self.structure(), self._source, native=True)

    def _source(self) -> str:
        from ...symbolic.printing import flow_module

        return flow_module(self.build(), title="One step of the overlap recursion: rhs writes the next state.")

    def python(self) -> str:
        from ...symbolic.store import source

        return source(self.module())

    def escape_time(self) -> float:
        import numpy as np

        steps = 256
        while True:
            overlaps = self.iterate(steps).sum(axis=1)
            found = self._crossing(np.arange(steps + 1.0), overlaps)
            if math.isfinite(found) or steps >= 1 << 20:
                return found
            settled = abs(overlaps[-1] - overlaps[-2]) < 1e-13 * overlaps[-1]
            if settled:
                return math.inf
            steps *= 4

    def initial_state(self) -> Array:
        import numpy as np

        return np.array(self.drift.initial, dtype=float)

    def parameters(self) -> Array:
        import numpy as np

        return np.array(self.parameter_values(), dtype=float)

    def times(self) -> Array:
        import numpy as np

        return np.array(self.problem.grid.values("time"), dtype=float)

    def variables(self, times: Array, states: Array) -> dict[str, Variable]:
        return self.collect(times, states)

    def solve(self) -> Solution:
        times = self.times()
        states = self.iterate(int(times.max(initial=0.0)))[times.astype(int)]
        return Solution({"time": times, **self.class_coords()}, self.variables(times, states))


class FirstLayerFlowTheory(Theory):
    """Order-parameter dynamics of stage 1 of Algorithm 1 of the paper."""

    name = "hierarchical-flow"
    title = "First layer climbs from d to d^eps dimensions"
    summary = (
        "Overlap of a first-layer neuron with the hidden subspace under spherical correlation-loss SGD: flow or map."
    )
    reads: ClassVar[Reads] = {
        "target": {"hierarchical": "exponents features link readout noise hermite"},
        "student": {"three-layer": "activation sign"},
        "loss": "function",
        "algorithm": {"spherical-correlation-sgd": "step batch_ratio map gradient_noise"},
        "limit": "d",
    }
    axes = ("time",)
    solver = OdeSolver()
    simulation = Simulation(sizes=(100, 225, 400))
    references = ("dandi2025depth",)
    assumptions = (
        "fresh batches, W2 = identity, readout weights equal, correlation loss, spherical projection",
        "1 << d_eff << d; leading order in d_eff^(-1/2) of the population gradient",
        "the information exponent of the first polynomial is 2 (no linear part), of the link 1 (otherwise the "
        "rate is 0)",
    )
    limits = (
        "the paper gives inequalities and the hitting time O(log d); the equation and its constants are this "
        "project's own",
        "one class of readouts, no noise: logistic, escape time log((1 - q0)/q0)/(2 rate), about (1 - eps) log "
        "d/(2 rate)",
        "rademacher readouts: a neuron of positive sign keeps the a = +1 half of the subspace, one of negative "
        "sign the other",
        "a gaussian readout is represented by 8 classes of Gauss-Hermite quadrature",
        "step -> 0: the map tends to the flow",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Yield what is not stage 1 of Algorithm 1 at one dimension."""
        if problem.loss.function != "correlation":
            yield Refusal(
                "loss.function", f"the correlation loss, got {problem.loss.function!r}", 'function = "correlation"'
            )
        if problem.limit.d is None or isinstance(problem.limit.d, tuple) or problem.limit.d < 2:
            yield Refusal("limit.d", "one dimension of at least 2 sets the overlap d_eff/d at the start", "d = 400")
        if problem.algorithm.map and any(t != int(t) for t in problem.grid.values("time")):
            yield Refusal("grid.time", "with map = true the times count steps: they must be whole numbers")

    def derive(self, problem: Problem) -> OverlapFlow | OverlapMap:
        return OverlapMap(problem) if problem.algorithm.map else OverlapFlow(problem)

    def describe(self, problem: Problem) -> dict[str, Any]:
        from .assumptions import describe_target

        drift = Drift(problem)
        return {
            "d_eff": drift.features,
            "rate per step": drift.rate,
            "noise floor 1 - q": drift.floor(),
            **describe_target(problem.target, activation(problem.student.activation)),
        }


THEORY = FirstLayerFlowTheory()
