"""The particle flow of a wide network on a Boolean target: solved with particles that follow the steepening state."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DerivationError, SolveError
from ...problem import Problem
from ...problem.boolean import analyse, label, monomials_of
from ...symbolic.equations import latex
from ...symbolic.systems import Equation, Flow, OrderParameter, Solution, Step, Variable
from ...symbolic.times import time_function
from .generate import HEAD, drift, gradients, module_source, named
from .particles import Particles
from .smoothing import finest_tables, node_tables, smooth, symbols

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
    Mask = npt.NDArray[np.bool_]

# Values that the sums of coordinates may take together: every particle meets each of them.
MOST_POINTS = 8192
# Panels this close to the tolerance are halved before they have to be: the interpolation is then still exact.
EARLY = 0.25
# A stretch of time between two looks at the panels grows by this factor, and shrinks to half when it was too long.
GROWTH = 1.5

RISK = OrderParameter("risk", (), r"R", "E[(h - f)^2] over fresh inputs, without the factor 1/2")
FOURIER = OrderParameter("fourier", ("monomial",), r"\hat f_S", "Fourier coefficient E[f chi_S] of the network")
FEATURE = OrderParameter(
    "feature_square",
    ("coordinate",),
    r"\mathbb{E}_\rho[u_i^2]",
    "mean over neurons of (w_ji - w_ji(0))^2, i a relevant coordinate",
)
NOISE = OrderParameter(
    "noise_square", (), r"\mathbb{E}_\rho[s^2]", "mean over neurons of the squared weights on irrelevant coordinates"
)
READOUT = OrderParameter("readout_square", (), r"\mathbb{E}_\rho[a^2]", "mean over neurons of a_j^2")
FLOOR = OrderParameter("risk_floor", (), r"R_{\min}", "E[Var(h | what the network can see)]: the risk never goes below")


class MeanFieldFlow(Flow):
    """Particles (a, u, s) of a network of infinite width; u has one entry for each visible sum of coordinates.

    `particles` describes those at time 0; a solve adds more where the state becomes steep.
    """

    time_unit = "step size x steps of SGD"
    order_parameters = (RISK, FOURIER, FEATURE, NOISE, READOUT, FLOOR)
    letters = r"""
    a             :: readout of a particle
    u, u_c        :: weights of a particle on the sums of coordinates that the network sees
    s             :: standard deviation of a particle's field from the other coordinates
    \xi_a, \xi_w  :: step sizes of the layers, with their schedule
    \lambda_a, \lambda_w :: decay of the layers
    \mathbb{E}_z   :: average over the relevant coordinates
    \mathbb{E}_{\rho} :: average over the particles
    \mathbb{E}_G   :: average over $G$
    \rho          :: law of the particles
    G, g          :: standard Gaussian
    z, z_1        :: relevant coordinates, $\pm1$
    c, c_1        :: signed sums of coordinates that the network can see
    \psi          :: activation, averaged over the other coordinates
    \psi_x, \psi_s :: its derivatives in the field and in $s$
    x             :: field of a particle from the relevant coordinates
    r             :: residual
    h             :: target
    f             :: output of the network
    \sigma        :: activation
    t             :: time, step size times steps
    """

    def __init__(self, problem: Problem, references: Sequence[str] = (), assumptions: Sequence[str] = ()) -> None:
        super().__init__(problem)
        self.references, self.assumptions = references, assumptions
        self.what = problem
        self.target, self.monomials = analyse(problem.target.expression), monomials_of(problem)
        self.visible = self.target.visible
        from ...problem import activation

        self.activation = activation(problem.student.activation)
        if smooth(self.activation).kinked and problem.student.initial_noise == 0:
            raise DerivationError(
                f"the activation {problem.student.activation!r} has a kink, and every pre-activation starts at 0",
                where="student.weight_law", why="weights of length zero have no Gaussian part to average over it",
                hint="give the weights a scatter, e.g. weight_law = \"normal(0, 1)\", or use a smooth activation",
            )  # fmt: skip
        if len(self.visible.sums) > MOST_POINTS:
            raise DerivationError(
                f"the network sees {len(self.visible.sums)} different points of the cube, at most {MOST_POINTS} can be "
                "followed", where="target.formula", hint="use fewer coordinates, or a more symmetric target",
            )  # fmt: skip
        self.particles = Particles.of(problem.student.readouts, problem.student.particles)

    # --- compiled code and its data ---

    @property
    def schedule_texts(self) -> dict[str, str]:
        names = ("first_layer_schedule", "second_layer_schedule")
        return {f"algorithm.{name}": getattr(self.what.algorithm, name) for name in names}

    def schedules(self) -> tuple[Any, Any]:
        """Return the schedules of the first and the second layer, formulas in t."""
        from ...problem import Expression

        algorithm = self.what.algorithm
        return (
            Expression(algorithm.first_layer_schedule, ("t",)),
            Expression(algorithm.second_layer_schedule, ("t",)),
        )

    def module(self) -> ModuleType:
        from ...symbolic import store

        title = f"Mean-field particles of a two-layer network, activation {self.activation.text}"

        def build() -> str:
            return module_source(self.activation, title)

        return store.module(("staircase", self.activation.text), build, native=True)

    @property
    def _tolerance(self) -> float:
        """Of the averages over G, so that their jumps between rules stay below the integrator's error."""
        return max(0.1 * self.what.solver.rtol, 1e-14)

    def pack(self, particles: Particles, *, finest: bool = False) -> Array:
        """Return the parameter vector of the compiled functions for a set of particles."""
        algorithm, seen = self.what.algorithm, self.visible
        tables = (finest_tables if finest else node_tables)(self.activation, self._tolerance)
        levels, most = tables[2].shape
        head = [
            len(particles), len(seen.blocks), len(seen.sums), levels, most, algorithm.second_layer_rate,
            algorithm.first_layer_rate, algorithm.second_layer_weight_decay, algorithm.first_layer_weight_decay,
            *(time_function(text).address for text in self.schedule_texts.values()),
        ]  # fmt: skip
        assert len(head) == HEAD
        sizes = np.array([len(block) for block in seen.blocks], dtype=float)
        return np.concatenate(
            [head, particles.weights, seen.sums.ravel(), seen.probability, seen.target, sizes, *map(np.ravel, tables)]
        )

    def parameters(self) -> Array:
        return self.pack(self.particles)

    def _room(self, particles: Particles) -> int:
        return len(self.visible.sums) * (1 + 3 * len(particles))

    def work_size(self) -> int:
        return self._room(self.particles)

    def integrator_options(self) -> dict[str, Any]:
        return {"domain": self.module().domain} if smooth(self.activation).kinked else {}

    def initial_state(self) -> Array:
        stride = len(self.visible.blocks) + 2
        state = np.zeros((len(self.particles), stride))
        state[:, 0] = self.particles.nodes
        state[:, -1] = self.what.student.initial_noise
        return state.ravel()

    def _columns(self) -> list[str]:
        names = ["".join(f"{'+' if s > 0 else '-'}{self.target.coordinates[i]}" for i, s in b).lstrip("+")
                 for b in self.visible.blocks]  # fmt: skip
        return ["a", *(f"u[{name}]" for name in names), "s"]

    def names(self) -> list[str]:
        return [f"{name} of particle {j}" for j in range(len(self.particles)) for name in self._columns()]

    # --- what is read off a state ---

    def network(self, particles: Particles, state: Array, *, finest: bool = False) -> tuple[Array, Array]:
        """Return f (K,) at the visible points, and what every particle adds there, a psi, shape (n, K)."""
        points = len(self.visible.sums)
        work = np.zeros(self._room(particles))
        self.module().network(np.ascontiguousarray(state), self.pack(particles, finest=finest), work)
        psi = work[points:].reshape(len(particles), points, 3)[:, :, 0]
        return work[:points].copy(), state.reshape(len(particles), -1)[:, :1] * psi

    @cached_property
    def _characters(self) -> Array:
        """Means of the monomials given the visible sums, (S, K)."""
        return np.stack([self.visible.mean(self.target.character(s)) for s in self.monomials])

    def read(self, particles: Particles, state: Array) -> dict[str, Array]:
        """Return the order parameters of one state."""
        seen = self.visible
        f, _ = self.network(particles, state)
        rows = state.reshape(len(particles), -1)
        squares = particles.weights @ rows**2
        feature = np.zeros(len(self.target.coordinates))
        for column, block in enumerate(seen.blocks, 1):
            feature[[i for i, _ in block]] = squares[column]
        return {
            "risk": np.asarray(seen.probability @ (seen.target - f) ** 2 + seen.floor),
            "fourier": self._characters @ (seen.probability * f),
            "feature_square": feature,
            "noise_square": np.asarray(squares[-1]),
            "readout_square": np.asarray(squares[0]),
        }

    def _variables(self, rows: list[dict[str, Array]]) -> dict[str, Variable]:
        out = {}
        lengths = {"monomial": len(self.monomials), "coordinate": len(self.target.coordinates)}
        for p in self.order_parameters:
            if p is FLOOR:
                out[p.name] = Variable((), np.float64(self.visible.floor), p.latex, p.meaning)
                continue
            values = np.stack([row[p.name] for row in rows]) if rows else np.zeros((0, *(lengths[d] for d in p.dims)))
            out[p.name] = Variable(("time", *p.dims), values, p.latex, p.meaning)
        return out

    def variables(self, times: Array, states: Array) -> dict[str, Variable]:
        return self._variables([self.read(self.particles, s) for s in states])

    def coordinates(self) -> dict[str, Any]:
        """Return the names of monomials and coordinates."""
        names = np.array([label(s) for s in self.monomials])
        return {"monomial": names, "coordinate": np.array(self.target.coordinates)}

    # --- solving ---

    def solve(self) -> Solution:
        """Integrate over the problem's grid, halving panels of particles before they are too coarse.

        Returns
        -------
        Solution
            ``stats`` holds the number of particles at the end, ``particle_error`` (the largest estimate for one panel,
            relative to the r.m.s. of the target) and ``quadrature_error`` (of the averages over G, measured on the
            reached states, relative likewise).

        Raises
        ------
        SolveError
            With the integrator's status, or ``"max_particles"``; ``partial`` holds what was reached.
        """
        times = self.times()
        run = _Run(self)
        for time in times:
            run.advance(float(time))
            run.record()
        return run.solution("success", "")

    # --- equations ---

    def equations(self) -> list[Equation]:
        import sympy as sp

        x, s, g = symbols()
        a, r, u = (sp.Symbol(name, real=True) for name in ("a", "r", "u_c"))
        psi, psi_x, psi_s = (sp.Symbol(name, real=True) for name in (r"\psi", r"\psi_x", r"\psi_s"))
        over_cube, over_noise = sp.Function(r"\mathbb{E}_z"), sp.Function(r"\mathbb{E}_G")
        first, second = (schedule.sympy(t=sp.Symbol("t", real=True)) for schedule in self.schedules())
        rows = []
        for kind, theta, factor in (("a", a, second), ("u", u, first), ("s", s, first)):
            pull = over_cube(r * named(gradients()[kind], psi, psi_x, psi_s))
            if kind == "u" and self._symmetric:
                pull /= sp.Symbol("|c|", positive=True)
            rows.append(Equation.of(kind, rf"\dot{{{theta}}}", drift(kind, pull, theta, factor)))
        rows.append(Equation("residual", r"r(z) = h(z) - f(z),\quad f(z) = \mathbb{E}_\rho[a\,\psi(u\cdot c(z), s)]"))
        terms = [
            _short(value) * sp.Mul(*(self._symbol(self.target.coordinates.index(name)) for name in product))
            for product, value in self.target.coefficients.items()
        ]
        rows.append(Equation.of("target", "h(z)", sp.Add(*terms)))
        sums = [sp.Add(*(sign * self._symbol(i) for i, sign in block)) for block in self.visible.blocks]
        seen = r",\ ".join(f"c_{{{k}}} = {latex(total)}" for k, total in enumerate(sums, 1))
        note = "the signed sums of coordinates that the network can see" if sums else "no coordinate is ever seen"
        rows.append(Equation("seen", seen or "u = 0", None, note))
        smoothing = smooth(self.activation)
        sigma, slope, field = sp.Function(r"\sigma"), sp.Function(r"\sigma'"), x + s * g
        plain = tuple(over_noise(e) for e in (sigma(field), slope(field), g * slope(field)))
        lefts = (r"\psi(x, s)", r"\psi_x", r"\psi_s")
        for name, left, e in zip(("psi", "psi_x", "psi_s"), lefts, smoothing.averages or plain, strict=True):
            note = "exact" if smoothing.averages else "g = G, by quadrature"
            rows.append(Equation.of(name, left, e, note))
        rows.append(Equation.of("activation", r"\sigma(x)", smoothing.integrands[0].subs(g, 0)))
        rows.append(Equation.of("risk", "R", over_cube(r**2)))
        if self.visible.floor:
            why = "E[Var(h | c)], the part of R that no function of c removes"
            rows.append(Equation.of("floor", r"R_{\min}", _short(self.visible.floor), why))
        return rows

    @property
    def _symmetric(self) -> bool:
        return any(len(block) > 1 for block in self.visible.blocks)

    def _symbol(self, i: int) -> Any:
        """Coordinate i, printed with its number below."""
        import sympy as sp

        return sp.Symbol(f"z_{{{self.target.coordinates[i][1:]}}}", real=True)

    def derivation(self) -> list[Step]:
        rows = {e.label: e for e in self.equations()}
        algorithm = self.what.algorithm
        update = (
            r"\theta_j \leftarrow \theta_j + \eta\,\xi\,\bigl(\tfrac1b\textstyle\sum_{k\le b}(y_k - f(x_k))"
            r"\nabla_{\theta_j}\,a_j\sigma(\langle w_j, x_k\rangle) - \lambda\,\theta_j\bigr)"
        )
        facts = [f"{name[0].upper()}{name[1:]}: {fact}." for name, fact in self.target.facts().items()]
        start = rf"a(0) \sim \text{{{self.what.student.readout_law}}},\quad u(0) = 0,\quad s(0) = "
        return [
            Step(
                "Steps of SGD become a flow",
                "Each batch is fresh and its noise moves a neuron by d eta/b per unit of time in the squared weights: "
                "with d eta/b -> 0 and eta -> 0 every neuron follows the mean gradient, time = eta x steps.",
                (Equation("update", update),),
            ),
            Step(
                "Irrelevant coordinates become one Gaussian",
                "With z the relevant coordinates, w_j.x = u_j.z + (many small terms): the sum is s_j G by the central "
                "limit theorem, s_j the length of the weights on irrelevant coordinates. Neurons start independent, "
                "so f averages over G and depends on z only.",
                tuple(rows[k] for k in ("psi", "psi_x", "psi_s", "activation")),
            ),
            Step(
                "What the network can see",
                "u = 0 at the start and neurons alike stay alike: coordinates that no merged step reaches keep weight "
                "zero, and those that the target treats alike keep equal weights, exactly. Only these sums remain. "
                + " ".join(facts),
                (rows["target"], rows["seen"]),
            ),
            Step(
                "Gradient flow of the neurons",
                "The gradient of half the risk in each parameter of a neuron, averaged over the cube; psi_x and psi_s "
                "are E[sigma'] and E[sigma' G] = s E[sigma'']."
                + (" Here |c| is the number of coordinates in the sum." if self._symmetric else "")
                + f" Rates xi_w = {algorithm.first_layer_rate:g}, xi_a = {algorithm.second_layer_rate:g}; ridges "
                f"lambda_w = {algorithm.first_layer_weight_decay:g}, "
                f"lambda_a = {algorithm.second_layer_weight_decay:g}.",
                (
                    rows["a"],
                    rows["u"],
                    rows["s"],
                    rows["residual"],
                    Equation("start", start + f"{self.what.student.initial_noise:.6g}"),
                ),
            ),
            Step(
                "Particles",
                "All neurons with the same a(0) stay together: the average over neurons is one over the law of a(0), "
                "by Gauss-Legendre panels that are halved where the state becomes a steep function of a(0).",
                tuple(rows[k] for k in ("risk", "floor") if k in rows),
            ),
        ]


def _short(value: float) -> Any:
    """A coefficient as the short fraction it is, else with six digits."""
    import sympy as sp

    near = sp.Rational(value).limit_denominator(1000)
    return near if abs(float(near) - value) < 1e-12 else sp.Float(value, 6)


class _Run:
    """One solve: the particles and their state at the time reached, and what was recorded on the way."""

    def __init__(self, flow: MeanFieldFlow) -> None:
        self.flow = flow
        self.particles, self.state, self.time = flow.particles, flow.initial_state(), 0.0
        self.scale = float(np.sqrt(np.mean(flow.target.values**2)))
        algorithm = flow.what.algorithm
        rate = max(algorithm.first_layer_rate, algorithm.second_layer_rate)
        self.stretch = 1.0 / rate if rate > 0 else np.inf
        self.rows: list[dict[str, Array]] = []
        self.times: list[float] = []
        self.worst = self.quadrature = 0.0
        self.counts: dict[str, Any] = {"n_rhs": 0, "n_steps": 0, "n_rejected": 0}

    def advance(self, until: float) -> None:
        """Move to a later time, halving panels as needed."""
        limit = self.flow.what.solver.particle_tolerance
        fixed = self.particles.atomic or not np.isfinite(limit)
        while self.time < until:
            end = until if fixed else min(until, self.time + self.stretch)
            moved = self._integrate(end)
            if fixed:
                self.state, self.time = moved, end
                return
            errors = self._errors(moved)
            if np.any(errors > limit):
                # Too late for some: go back, halve these, and look again sooner.
                self._halve(errors > limit)
                self.stretch /= 2
                continue
            self.state, self.time = moved, end
            self.worst = max(self.worst, float(np.max(errors, initial=0.0)))
            self._halve(errors > EARLY * limit)
            if end < until:
                self.stretch *= GROWTH

    def _errors(self, state: Array) -> Array:
        _, output = self.flow.network(self.particles, state)
        rows = state.reshape(len(self.particles), -1)
        return self.particles.errors(np.concatenate([output, rows], axis=1)) / self.scale

    def _halve(self, which: Mask) -> None:
        most = self.flow.what.solver.max_particles
        if len(self.particles) + int(which.sum()) * self.particles.order > most:
            raise SolveError(
                f"the particles at time {self.time:.6g} need more than max_particles = {most}", status="max_particles",
                partial=self.solution("max_particles", "too many particles"), where=f"time {self.time:.6g}",
                why="the state has become too steep a function of the initial readout",
                hint="raise solver.max_particles or solver.particle_tolerance, or shorten grid.time",
            )  # fmt: skip
        rows = self.state.reshape(len(self.particles), -1)
        self.particles, rows = self.particles.halved(which, rows)
        self.state = rows.ravel()

    def _integrate(self, end: float) -> Array:
        from ...numerics.ode import integrate

        solver = self.flow.what.solver
        columns = self.flow._columns()
        result = integrate(
            self.flow.module().rhs, self.state, [end], t0=self.time, p=self.flow.pack(self.particles),
            work_size=self.flow._room(self.particles), method=self._method(), rtol=solver.rtol, atol=solver.atol,
            max_steps=max(1, solver.max_steps - self.counts["n_steps"]),
            names=[f"{name} of particle {j}" for j in range(len(self.particles)) for name in columns],
            pieces=self.flow.pieces(), **self.flow.integrator_options(),
        )  # fmt: skip
        for name in self.counts:
            self.counts[name] += result.stats[name]
        self.counts["method"] = result.stats["method"]
        if result.status != "success":
            why = result.message
            hint = "SolveError.partial holds what was finished; lower rates, another activation or a shorter grid help"
            if result.status == "max_steps":
                why = f"solver.max_steps = {solver.max_steps} steps were used up"
                hint = "raise solver.max_steps, loosen solver.rtol, or shorten grid.time"
            if result.status == "left_domain":
                hint = "a neuron's weights on irrelevant coordinates vanish, where the kinked activation has no slope; "
                hint += "use a smooth activation, or end grid.time earlier"
            raise SolveError(
                "the staircase equations could not be integrated to the last time", status=result.status,
                partial=self.solution(result.status, why), where=f"time {result.t_final:.6g}",
                why=why, hint=hint,
            )  # fmt: skip
        final: Array = result.y_final
        return final

    def _method(self) -> str:
        """Return the integrator; ``auto`` stays explicit, as a Jacobian of thousands of dense rows never pays."""
        from ...numerics.ode import explicit_for

        solver = self.flow.what.solver
        return explicit_for(solver.rtol) if solver.method == "auto" else solver.method

    def record(self) -> None:
        """Keep the order parameters of the present state."""
        flow = self.flow
        self.rows.append(flow.read(self.particles, self.state))
        self.times.append(self.time)
        plain, fine = (flow.network(self.particles, self.state, finest=finest)[0] for finest in (False, True))
        self.quadrature = max(self.quadrature, float(np.max(np.abs(fine - plain))) / self.scale)

    def solution(self, status: str, message: str) -> Solution:
        """Return what was recorded."""
        stats = {
            **self.counts, "particles": len(self.particles), "particle_error": self.worst,
            "quadrature_error": self.quadrature,
        }  # fmt: skip
        coords = {"time": np.array(self.times), **self.flow.coordinates()}
        return Solution(coords, self.flow._variables(self.rows), status, message, stats)
