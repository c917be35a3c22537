"""Infinite-width training under muP as a recursion whose state is an ensemble of single-site trajectories."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DerivationError, SolveError
from ...numerics.sampling import each_scramble
from ...problem import Problem, activation, to_builtins
from ...problem.algorithms import GradientDescent, GradientFlow
from ...problem.training import Training, coordinates, training_of
from ...results.files import forget, write_arrays
from ...symbolic.systems import Equation, Recursion, Solution, Step
from .march import Diverged, March, OrderParameters
from .quadrature import MAX_NODES, few_step_nodes, node_count, quadrature_error, solve_one_layer
from .summary import ORDER_PARAMETERS, averaged, summarize

GIB = 2**30


class MupTraining(Recursion):
    """Equations and prediction of one problem."""

    letters = r"""
    t, s          :: updates done
    \mu, \nu     :: samples
    m             :: number of samples
    l             :: layers
    h_{\mu}       :: pre-activation of a unit
    x_{\mu}       :: activation of a unit
    u_{\mu}       :: its Gaussian part forward, of covariance $\Phi^{l-1}$
    z_{\mu}       :: back-propagated field of a unit
    r_{\mu}       :: its Gaussian part backward, of covariance $G^{l+1}$
    g_{\mu}       :: gradient of the output in the pre-activation, times the square root of the width
    C_{\mu\nu}   :: coupling of the pre-activation to earlier gradients
    D_{\mu\nu}   :: coupling of the back-propagated field to earlier activations
    \Phi_{\mu\nu} :: kernel of the features
    G_{\mu\nu}   :: kernel of the gradients
    A_{\mu\nu}   :: response of the features to the backward field
    B_{\mu\nu}   :: response of the gradients to the forward field
    a_{\nu}       :: rate of a sample: what an update moves along it
    p_{\nu}       :: weight of a sample in the update
    \Delta_{\nu} :: what the output lacks
    f_{\mu}       :: output of the network
    y_{\nu}       :: label
    \gamma        :: richness: how far features move :: student.richness
    \eta          :: learning rate, with its schedule
    \langle\cdot\rangle :: average over the units of the layer
    """

    order_parameters = ORDER_PARAMETERS

    problem: Problem

    def __init__(
        self, problem: Problem, *, references: tuple[str, ...] = (), assumptions: tuple[str, ...] = ()
    ) -> None:
        super().__init__(problem)
        self.references, self.assumptions = references, assumptions
        student = problem.student
        if student.parametrization != "mup":
            raise DerivationError(
                f"the theory is that of muP, not of {student.parametrization!r}", where="student.parametrization",
                why="the other parametrisations do not learn features in this limit, or have no stable one",
                hint='use "mup" (with a small richness for the lazy limit), or simulate the finite network',
            )  # fmt: skip
        kinked, deep = bool(self._expression.kinks("x")), student.hidden_layers > 1
        if kinked and deep and problem.solver.approximation == "none" and self.method() == "responses":
            raise DerivationError(
                f"the responses of a deep network need phi'', which {student.activation!r} does not have",
                where="solver.method",
                why="at a kink, B(t, t) = <phi''(h) z> holds a delta function that samples miss",
                hint='use method = "particles" with output = "summary", which needs none, or a smooth activation such '
                'as "softplus(4*x)/4"',
            )  # fmt: skip

    @property
    def _expression(self) -> Any:
        return activation(self.problem.student.activation)

    def _symbols(self) -> tuple[Any, Any]:
        import sympy as sp

        return self._expression.sympy(x=sp.Symbol("x", real=True)), self.problem.loss.form.value

    def equations(self) -> list[Equation]:
        from .equations import printed

        return printed(*self._symbols())

    def derivation(self) -> list[Step]:
        from .equations import derivation

        return derivation(*self._symbols())

    def python(self) -> str:
        """Return the source of the kernel that the resolved method runs."""
        import inspect

        from ...numerics import causal
        from . import adjoint, deep_linear, lazy_limit, march, quadrature, responses, revealed

        sampled = (march, responses, adjoint, causal)
        modules: dict[str, tuple[Any, ...]] = {
            "particles": (march, revealed), "responses": sampled, "closed-form": (deep_linear,),
            "lazy-weights": (march, revealed), "lazy-limit": (lazy_limit,),
            "quadrature": (quadrature, *(sampled if self.problem.student.hidden_layers > 1 else ())),
        }  # fmt: skip
        return "\n\n".join(f"# {module.__name__}\n{inspect.getsource(module)}" for module in modules[self.method()])

    def slope(self) -> float | None:
        """Return c when the activation is ``c x``, else None."""
        # Asked at points of all sizes: to import sympy takes longer than a solve.
        x = np.geomspace(1e-6, 1e6, 25)
        with np.errstate(all="ignore"):
            values = [
                np.asarray(self._expression.evaluate(np, x=sign * x), dtype=float) / (sign * x) for sign in (1, -1)
            ]
        ratios = np.concatenate([np.broadcast_to(v, x.shape) for v in values])
        c = float(ratios[0])
        return c if c and bool((np.abs(ratios - c) <= 1e-12 * abs(c)).all()) else None

    def method(self, training: Training | None = None) -> str:
        """Return the method that ``auto`` stands for, or the one asked for."""
        solver, student = self.problem.solver, self.problem.student
        if solver.approximation == "lazy":
            return "lazy-limit"
        if solver.method != "auto":
            return solver.method
        if solver.approximation != "none":
            return "responses"
        if self.slope() is not None:
            return "closed-form"
        if student.hidden_layers == 1 and not self._expression.kinks("x"):
            rank = np.linalg.matrix_rank((training or training_of(self.problem)).gram)
            if rank <= 2 and node_count(int(rank) + 1, solver.node_spacing) <= MAX_NODES:
                return "quadrature"
        return "responses" if solver.output == "space-time" else "particles"

    def solve(self) -> Solution:
        """Compute the order parameters and their error bars.

        Raises
        ------
        SolveError
            ``diverged`` when training leaves the finite numbers (with the finished times in ``partial``), ``memory``
            when the march would pass the memory limit, ``too-large`` when a quadrature has too many nodes.
        DerivationError
            When the chosen method does not apply to the network.
        """
        training = training_of(self.problem)
        realisations, deterministic, stats = self.realisations(training)
        algorithm = self.problem.algorithm
        time_step = float(algorithm.learning_rate or 0.0) if isinstance(algorithm, GradientFlow) else 1.0
        options = {
            "squared_loss": self.problem.loss.form.name == "square" and getattr(algorithm, "batch_size", 0) == 0,
            "space_time": self.problem.solver.output == "space-time",
        }
        variables = averaged([summarize(training, r, **options) for r in realisations], deterministic=deterministic)
        return Solution(coordinates(training, time_step), variables, stats=stats)

    def realisations(self, training: Training) -> tuple[list[OrderParameters], bool, dict[str, Any]]:
        """Return the order parameters of every scramble (or network), whether they are deterministic, and counters."""
        method, algorithm = self.method(training), self.problem.algorithm
        solve, count = self._solver(method)

        def one(index: int) -> OrderParameters:
            if isinstance(algorithm, GradientFlow):
                return _flow(training, algorithm, lambda fine: solve(fine, index))
            return solve(training, index)

        def guarded(index: int) -> OrderParameters:
            try:
                with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                    return one(index)
            except Diverged as error:
                raise SolveError(
                    "training leaves the finite numbers", status="diverged", partial=self._partial(training, error),
                    where=str(error), why="the learning rate is above the edge of stability of this network",
                    hint="lower algorithm.learning_rate, or shorten algorithm.steps",
                ) from None  # fmt: skip
            except ValueError as error:
                raise SolveError(
                    f"the method {method!r} does not apply", status="too-large", where="solver.method", why=str(error),
                    hint='use method = "particles", or a larger node_spacing',
                ) from None  # fmt: skip

        results = each_scramble(guarded, count, self.problem.solver.workers)
        if method in ("particles", "responses"):
            self._forget_checkpoints(training, count)
        deterministic = count == 1 and method not in ("particles", "responses", "lazy-weights")
        stats: dict[str, Any] = {"method": method, "realisations": count}
        if method == "quadrature" and training.layers == 1 and isinstance(algorithm, GradientDescent):
            stats["quadrature_error"] = quadrature_error(training, self._spacing(training), results[0])
        return results, deterministic, stats

    def _partial(self, training: Training, error: Diverged) -> Solution | None:
        """Return outputs and loss before the time of failure (of the failing scramble; none for gradient flow)."""
        if isinstance(self.problem.algorithm, GradientFlow) or error.time == 0:
            return None
        f, m, end = error.result.f[: error.time], training.samples, error.time
        values = {"loss": training.loss(f), "f": f[:, :m]}
        variables = averaged([values], deterministic=True)
        coords = coordinates(training) | {"time": np.arange(end, dtype=float)}
        return Solution(coords, {n: v for n, v in variables.items() if not n.endswith("_se")}, "diverged", str(error))

    def _solver(self, method: str) -> tuple[Callable[[Training, int], OrderParameters], int]:
        solver = self.problem.solver
        if method == "lazy-limit":
            from .lazy_limit import solve_lazy_limit

            return (lambda training, _: solve_lazy_limit(training, self._expression)), 1
        if solver.approximation == "no-responses" and method != "responses":
            raise DerivationError(
                "only the response form has responses to drop", where="solver.approximation",
                hint='set solver.method = "responses"',
            )  # fmt: skip
        if method == "closed-form":
            from .deep_linear import solve_linear

            slope = self.slope()
            if slope is None:
                raise DerivationError(
                    f"the closed form is for linear activations, not {self.problem.student.activation!r}",
                    where="solver.method", hint='use method = "particles"',
                )  # fmt: skip
            return (lambda training, _: solve_linear(training, slope)), 1
        if method == "quadrature":
            if self.problem.student.hidden_layers == 1:
                return (lambda training, _: solve_one_layer(training, self._spacing(training))), 1
            return (lambda training, _: _tensor(training)), 1
        return partial(self._march, method), solver.scrambles

    def _spacing(self, training: Training) -> float:
        # On one independent input the grid is two-dimensional: half the spacing costs nothing.
        spacing = self.problem.solver.node_spacing
        return spacing / 2 if np.linalg.matrix_rank(training.gram) == 1 else spacing

    def _march(self, method: str, training: Training, index: int) -> OrderParameters:
        from . import responses, revealed
        from .sampling import sampled_nodes

        solver = self.problem.solver
        samples = solver.width if method == "lazy-weights" else solver.samples
        held = (responses if method == "responses" else revealed).memory(training, samples)
        need = held * min(solver.workers, solver.scrambles)
        if need > solver.memory_limit * GIB:
            raise SolveError(
                "the march would not fit into memory", status="memory", where="solver.memory_limit",
                why=f"{samples} samples of {training.times} times and {training.points} inputs need "
                f"{need / GIB:.2f} GiB, the limit is {solver.memory_limit:g} GiB",
                hint="lower solver.samples and raise solver.scrambles, or raise solver.memory_limit",
            )  # fmt: skip
        march: March
        if method == "lazy-weights":
            stream = np.random.default_rng([solver.seed, 1, index])
            return revealed.network(training, samples, stream).run()
        nodes = sampled_nodes(training, samples, np.random.default_rng([solver.seed, index]), solver.sampler)
        if method == "particles":
            march = revealed.RevealedMarch(training, nodes)
        else:
            march = responses.ResponseMarch(
                training, nodes, responses=solver.approximation != "no-responses",
                response_samples=solver.response_samples or None, chunk=solver.chunk_size,
                response_dtype=solver.response_dtype,
            )  # fmt: skip
        if not solver.checkpoint:
            return march.run()
        path = self._checkpoint(training, index)
        if path.exists():
            with np.load(path, allow_pickle=False) as saved:
                march.restore(dict(saved))

        def save(current: March) -> None:
            if current.time % solver.checkpoint_every == 0 or current.time == training.times:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_arrays(path, current.state())

        return march.run(after_step=save)

    def _checkpoint(self, training: Training, index: int) -> Path:
        content = to_builtins(self.problem)
        # What changes no number of one scramble.
        apart = ("checkpoint", "checkpoint_every", "workers", "memory_limit", "scrambles", "output")
        settings = {k: v for k, v in content["solver"].items() if k not in apart}
        key = json.dumps(
            [content["data"], content["student"], content["loss"], content["algorithm"], settings, training.times],
            sort_keys=True,
        )
        # The data may come from a file whose content changed: hash the numbers too.
        digest = hashlib.sha256(key.encode() + training.gram.tobytes() + training.labels.tobytes()).hexdigest()[:16]
        return Path(self.problem.solver.checkpoint) / f"mup-{self.method(training)}-{digest}-{index}.npz"

    def _forget_checkpoints(self, training: Training, count: int) -> None:
        if self.problem.solver.checkpoint:
            for index in range(count):
                forget(self._checkpoint(training, index))


def _tensor(training: Training) -> OrderParameters:
    """March a deep network over few steps on tensor nodes."""
    from .responses import ResponseMarch

    return ResponseMarch(training, few_step_nodes(training), chunk=2048, exact_start=False).run()


def _flow(training: Training, flow: GradientFlow, solve: Callable[[Training], OrderParameters]) -> OrderParameters:
    """Extrapolate gradient descent to a vanishing learning rate (Richardson: its error is a series in eta)."""
    rows = []
    for level in range(flow.levels):
        sub = flow.substeps * 2**level
        times = (training.times - 1) * sub + 1
        fine = replace(
            training,
            learning_rates=np.full(times, flow.learning_rate / sub),
            weights=np.repeat(training.weights[:1], times, axis=0),
        )
        rows.append(_thinned(solve(fine), fine, sub))
    for order in range(1, flow.levels):
        rows = [_combined(fine, coarse, 2**order) for coarse, fine in pairwise(rows)]
    out = rows[-1]
    # A pivot belongs to the discretisation: the innovation of an infinitesimal step is zero.
    out.forward_pivots[:], out.backward_pivots[:] = np.nan, np.nan
    return out


def _thinned(result: OrderParameters, training: Training, every: int) -> OrderParameters:
    m, total = training.samples, training.points
    times = np.arange(0, training.times, every)
    row = (times[:, None] * total + np.arange(total)).ravel()
    back = (times[:, None] * m + np.arange(m)).ravel()
    return OrderParameters(
        f=result.f[times], error_signal=result.error_signal[times], rates=result.rates[times],
        phi=[p[np.ix_(row, row)] for p in result.phi], g=[g[np.ix_(back, back)] for g in result.g],
        # A kick at one time has an effect of the order of the step: a density in continuous time, not comparable here.
        a=[np.full((len(row), len(back)), np.nan) for _ in result.a],
        b=[np.full((len(back), len(back)), np.nan) for _ in result.b],
        pre=result.pre, change=result.change,
        forward_pivots=result.forward_pivots[times], backward_pivots=result.backward_pivots[times],
    )  # fmt: skip


def _combined(fine: OrderParameters, coarse: OrderParameters, power: int) -> OrderParameters:
    def mix(a: Any, b: Any) -> Any:
        return [mix(x, y) for x, y in zip(a, b, strict=True)] if isinstance(a, list) else (power * a - b) / (power - 1)

    return OrderParameters(**{name: mix(value, getattr(coarse, name)) for name, value in vars(fine).items()})
