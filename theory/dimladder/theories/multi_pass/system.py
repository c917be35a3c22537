"""The curves of one problem: which method, how many scrambles, and what is read off."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DerivationError, SolveError
from ...numerics.sampling import each_scramble
from ...problem import Problem, kind_of
from ...problem.descent import Descent, descent_of, formulas_of, outputs_of
from ...results.files import forget, write_arrays
from ...symbolic.systems import Equation, OrderParameter, Recursion, Solution, Step, Variable
from .averages import FreshData, is_square
from .closed import SPECTRAL_NODES, LinearCurves, solve_flow, solve_linear
from .letters import LETTERS
from .march import Diverged, March, Particles, Trajectory, memory
from .model import Model
from .responses import Kernels, solve_responses
from .start import draw

log = logging.getLogger("dimladder.multi_pass")
Array = NDArray[np.float64]
GIB = 2**30
MOST_REVEALED = 0.2
ROUNDING = 1e-14  # errors below this part of the largest value are none
LATEX = {
    "train_loss": r"\mathcal{L}_\mathrm{train}", "test_loss": r"\mathcal{L}_\mathrm{test}",
    "generalization_error": r"\epsilon_g", "classification_error": r"\epsilon",
    "train_classification_error": r"\epsilon_\mathrm{train}", "Q": r"Q_{ik}", "M": r"M_{in}", "a": r"a_i",
}  # fmt: skip
# name -> (dims, long name)
VARIABLES: dict[str, tuple[tuple[str, ...], str]] = {
    "train_loss": (("time",), "mean loss on the training set, without penalty"),
    "test_loss": (("time",), "mean loss on fresh data, label noise included"),
    "generalization_error": (("time",), "E[(f* - f)^2]/2 on fresh data, without label noise"),
    "classification_error": (("time",), "probability of a wrong sign on fresh data"),
    "train_classification_error": (("time",), "part of wrong signs on the training set"),
    "Q": (("time", "student", "student"), "w_i . w_k / d"),
    "M": (("time", "student", "teacher"), "w_i . w*_n / d"),
    "a": (("time", "student"), "readouts"),
    "Q_block": (("time", "block", "student", "student"), "w_i . w_k / d inside a block of the spectrum"),
    "M_block": (("time", "block", "student", "teacher"), "w_i . w*_n / d inside a block of the spectrum"),
    "early_stopping_time": ((), "output time of the lowest test loss"),
    "best_test_loss": ((), "lowest test loss among the output times"),
    "overlap": (("time", "time", "student", "student"), "w_i(t) . w_k(s) / d"),
    "weight_response": (("time", "update", "student", "student"), "response of w(t) to a field on a gradient"),
    "gradient_response": (("update", "update", "student", "student"), "response of a gradient to a field on lambda(s)"),
    "gradient_correlation": (("update", "update", "student", "student"), "correlation of gradients over samples"),
}  # fmt: skip


class MultiPass(Recursion):
    """Equations and prediction of one problem."""

    letters = LETTERS

    order_parameters = (
        OrderParameter("Q", ("student", "student"), "Q_{ik}", "w_i . w_k / d after t updates", symmetric=True),
        OrderParameter("M", ("student", "teacher"), "M_{in}", "w_i . w*_n / d after t updates"),
        OrderParameter("a", ("student",), "a_i", "readouts after t updates"),
    )
    problem: Problem

    def __init__(
        self, problem: Problem, *, references: tuple[str, ...] = (), assumptions: tuple[str, ...] = ()
    ) -> None:
        super().__init__(problem)
        self.references, self.assumptions = references, assumptions
        self.descent: Descent = descent_of(problem)
        formulas = formulas_of(problem)
        self.model = Model(**{f.name: getattr(formulas, f.name) for f in fields(formulas)})
        self.kept, self.times = outputs_of(problem)
        self.flow = kind_of(problem.algorithm) == "gradient-flow"
        self.fresh = FreshData(self.model, self.descent.field_gram(self.descent.target_gram))
        self._check()

    def _check(self) -> None:
        solver = self.problem.solver
        if solver.method == "closed-form" and (missing := self._no_closed_form()):
            raise DerivationError(
                "there is no closed form", where="solver.method", why=missing, hint='use method = "particles"'
            )
        if solver.method == "responses":
            if self.descent.blocks > 1 or self.flow:
                raise DerivationError(
                    "responses are for gradient descent on inputs of one variance", where="solver.method",
                    hint='use method = "particles"',
                )  # fmt: skip
            if not self.model.curved:
                raise DerivationError(
                    "responses need second derivatives of activation and loss", where="solver.method",
                    why="at a kink the second derivative is a delta function, which samples miss",
                    hint='use method = "particles", which needs none',
                )  # fmt: skip
        elif solver.approximation != "none":
            raise DerivationError(
                "only the response form has responses to drop", where="solver.approximation",
                hint='set solver.method = "responses"',
            )  # fmt: skip

    def _no_closed_form(self) -> str:
        """Return why there is no closed form; empty where there is one."""
        if kind_of(self.problem.student) != "linear":
            return "the student is not linear"
        if not is_square(self.model):
            return "the loss is not square"
        if self.descent.blocks > 1:
            return "the inputs have several variances"
        if self.descent.start_readout[0] != 1.0:
            return "the readout of a linear student is 1"
        if self.fresh.law.active > 3 or not self.fresh.law.aligned:
            return "the second moments of the label have no quadrature"
        return ""

    def method(self) -> str:
        """Return the method that ``auto`` stands for, or the one asked for."""
        chosen = str(self.problem.solver.method)
        if chosen == "auto":
            return "particles" if self._no_closed_form() else "closed-form"
        return chosen

    def _terms(self) -> Any:
        from .equations import Terms

        return Terms.of(self.descent)

    def equations(self) -> list[Equation]:
        from .equations import printed

        return printed(self.model, self._terms())

    def derivation(self) -> list[Step]:
        from .equations import derivation

        return derivation(self.model, self._terms())

    def python(self) -> str:
        """Return the source of what the resolved method runs: the printed gradient of a sample, and the kernel."""
        import inspect

        from . import closed, march, responses

        method = self.method()
        kernel = {"closed-form": closed, "particles": march, "responses": responses}[method]
        printed = {"particles": self.model.source, "responses": self.model.curved_source}.get(method)
        parts = [f"# {kernel.__name__}\n{inspect.getsource(kernel)}"]
        return "\n\n".join([printed(), *parts] if printed else parts)

    def memory(self) -> int:
        """Return the bytes that one scramble needs."""
        times = self.descent.steps + 1
        if self.method() == "closed-form":
            return 8 * times * (8 * times + 6 * SPECTRAL_NODES * self.flow)
        levels = self.problem.algorithm.levels if self.flow else 1
        return memory(self.descent.finer(2 ** (levels - 1)), self.problem.solver.samples)

    def solve(self) -> Solution:
        """Compute the curves and their error bars.

        Raises
        ------
        SolveError
            ``diverged`` when training leaves the finite numbers, with the finished times of that scramble in
            ``partial``; ``memory`` when the march would pass the memory limit.
        """
        solver, method = self.problem.solver, self.method()
        if method == "closed-form":
            self._require_memory(self.memory(), f"{self.descent.steps} updates need")
            with np.errstate(over="ignore", invalid="ignore"):
                found = self._closed()
            return self._solution([found], {"method": method}, sampled=False)
        self._warn_of_bias()
        workers = min(solver.workers or os.cpu_count() or 1, solver.scrambles)
        self._require_memory(self.memory() * workers, f"{workers} scramble(s) of {solver.samples} particles need")
        rows = each_scramble(self._scramble, solver.scrambles, workers)
        self._forget_checkpoints()
        return self._solution(rows, {"method": method, "scrambles": solver.scrambles}, sampled=True)

    def _warn_of_bias(self) -> None:
        """Say when updates reveal many of the N/alpha coordinates that the particles stand for."""
        descent, samples = self.descent, self.problem.solver.samples
        updates = descent.steps * (2 ** (self.problem.algorithm.levels - 1) if self.flow else 1)
        share = descent.students * updates * descent.sample_ratio / samples
        if self.method() == "particles" and share > MOST_REVEALED:
            log.warning(
                "%d particles stand for %d coordinates, of which %d gradients reveal %d %%: the bias is of that order",
                samples, samples / descent.sample_ratio, descent.students * updates, round(100 * share),
            )  # fmt: skip

    def _require_memory(self, need: float, what: str) -> None:
        limit = self.problem.solver.memory_limit
        if need > limit * GIB:
            raise SolveError(
                "the solve would not fit into memory", status="memory", where="solver.memory_limit",
                why=f"{what} {need / GIB:.2f} GiB, the limit is {limit:g} GiB",
                hint="fewer algorithm.steps, lower solver.samples and more solver.scrambles, fewer solver.workers, or "
                "a higher limit",
            )  # fmt: skip

    def _solution(self, rows: list[dict[str, Array]], stats: dict[str, Any], *, sampled: bool) -> Solution:
        variables: dict[str, Variable] = {}
        for name in rows[0]:
            values = np.array([row[name] for row in rows])
            dims, meaning = VARIABLES[name]
            latex = LATEX.get(name, "")
            variables[name] = Variable(dims, values.mean(axis=0), latex, meaning)
            if sampled:
                spread = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else values[0] * np.nan
                # What scrambles share, the start above all, differs by rounding only.
                spread = np.where(spread < ROUNDING * np.abs(values).max(), 0.0, spread)
                variables[f"{name}_se"] = Variable(dims, spread, "", f"standard error of {meaning}")
        return Solution(self._coordinates(), variables, stats=stats)

    def _coordinates(self) -> dict[str, Any]:
        coords: dict[str, Any] = {"time": self.times}
        if self.problem.solver.output == "two-time" and not self.flow and self.method() != "particles":
            coords["update"] = np.arange(self.descent.steps, dtype=float)
        return coords

    def _closed(self) -> dict[str, Array]:
        label = self.fresh.label_moments
        if self.flow:
            step = self.descent.rates
            curves = solve_flow(self.descent, label, np.concatenate([[0.0], np.cumsum(step)]))
        else:
            curves = solve_linear(self.descent, label)
        finite = np.isfinite(np.diag(curves.history)) & np.isfinite(curves.train_loss)
        if not finite.all():
            raise self._diverged(int(np.argmin(finite)), None)
        out = {
            "train_loss": curves.train_loss, "test_loss": 0.5 * curves.test_square(label, label.label_square),
            "Q": np.diag(curves.history)[:, None, None], "M": curves.overlaps[:, None],
        }  # fmt: skip
        if self.model.noiseless and not self.model.two_valued:
            clean = FreshData(self.model.quiet(), self.fresh.target_gram).label_moments
            out["generalization_error"] = 0.5 * curves.test_square(clean, clean.clean_square)
        if self.model.two_valued:
            stream = np.random.default_rng(self.problem.solver.seed)
            out["classification_error"] = np.array(
                [
                    self.fresh.errors(q, m, np.ones(1), stream)["classification_error"]
                    for q, m in zip(out["Q"], out["M"], strict=True)
                ]
            )
        return self._read(out, self._two_time(curves))

    def _two_time(self, curves: LinearCurves) -> dict[str, Array]:
        out = {"overlap": curves.history[:, :, None, None]}
        if curves.weight_response is not None:
            assert curves.gradient_response is not None
            assert curves.gradient_correlation is not None
            out |= {
                "weight_response": curves.weight_response[:, :, None, None],
                "gradient_response": curves.gradient_response[:, :, None, None],
                "gradient_correlation": curves.gradient_correlation[:, :, None, None],
            }
        return out

    def _read(self, curves: Mapping[str, Array], two_time: Mapping[str, Array]) -> dict[str, Array]:
        """Return what is reported, from curves over all updates: the best time among them, then the asked ones."""
        outputs = np.arange(0, self.descent.steps + 1, self.problem.algorithm.substeps) if self.flow else None
        test = curves["test_loss"] if outputs is None else curves["test_loss"][outputs]
        best = int(np.argmin(test))
        unit = self.problem.algorithm.learning_rate if self.flow else 1.0
        out = {name: values[self.kept] for name, values in curves.items()}
        out |= {"early_stopping_time": np.array(best * unit), "best_test_loss": np.array(test[best])}
        if self.problem.solver.output == "two-time":
            for name, values in two_time.items():
                along = [self.kept if dim == "time" else np.arange(values.shape[i])
                         for i, dim in enumerate(VARIABLES[name][0][:2])]  # fmt: skip
                out[name] = values[np.ix_(*along)]
        return out

    def _scramble(self, index: int) -> dict[str, Array]:
        """Return the variables of one scramble."""
        solver = self.problem.solver
        kernels: dict[str, Array] = {}
        try:
            if self.method() == "responses":
                run, found = solve_responses(
                    self.descent, self.model, solver.samples, np.random.default_rng([solver.seed, index]),
                    sampler=solver.sampler, responses=solver.approximation == "none",
                )  # fmt: skip
                kernels = _kernels(found)
            elif self.flow:
                run = self._extrapolated(index)
            else:
                run = self._march(self.descent, self._draw(self.descent, index), index, 0)
        except Diverged as error:
            raise self._diverged(error.time, error.trajectory) from None
        return self._variables(run, index, kernels)

    def _variables(self, run: Trajectory, index: int, kernels: Mapping[str, Array]) -> dict[str, Array]:
        descent, grams = self.descent, run.grams()
        out = {"train_loss": run.train_loss, "Q": grams.sum(axis=1), "M": run.overlaps.sum(axis=1)}
        stream = np.random.default_rng([self.problem.solver.seed, index, 1])
        errors: dict[str, list[float]] = {}
        for q, m, a in zip(descent.field_gram(grams), descent.field_gram(run.overlaps), run.readouts, strict=True):
            for name, value in self.fresh.errors(q, m, a, stream).items():
                errors.setdefault(name, []).append(value)
        out |= {name: np.array(values) for name, values in errors.items()}
        if self.model.two_valued:
            out["train_classification_error"] = run.train_errors
        if kind_of(self.problem.student) == "two-layer":
            out["a"] = run.readouts
        if descent.blocks > 1:
            out |= {"Q_block": grams, "M_block": run.overlaps}
        two_time = {"overlap": run.history.sum(axis=2)} | dict(kernels) if run.history.ndim == 5 else {}
        return self._read(out, two_time)

    def _draw(self, descent: Descent, index: int) -> Particles:
        solver = self.problem.solver
        stream = np.random.default_rng([solver.seed, index])
        return draw(descent, self.model, solver.samples, stream, solver.sampler)

    def _march(self, descent: Descent, particles: Particles, index: int, level: int) -> Trajectory:
        solver = self.problem.solver
        march = March(descent, particles, self.model.module().respond)
        path = self._checkpoint(index, level)
        if path is not None and path.exists():
            with np.load(path, allow_pickle=False) as saved:
                march.restore(dict(saved))

        def save(current: March) -> None:
            if path is not None and current.time % solver.checkpoint_every == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_arrays(path, current.state())

        march.run(after_step=save)
        return march.trajectory(two_time=solver.output == "two-time")

    def _extrapolated(self, index: int) -> Trajectory:
        """Extrapolate descent to a vanishing learning rate (Richardson: its error is a series in eta).

        All levels share their samples, so that the extrapolation does not amplify the sampling noise.
        """
        levels = self.problem.algorithm.levels
        finest = 2 ** (levels - 1)
        particles, rows = self._draw(self.descent.finer(finest), index), []
        for level in range(levels):
            times = 2**level
            run = self._march(self.descent.finer(times), particles.every(finest // times), index, level)
            rows.append(_thinned(run, times))
        for order in range(1, len(rows)):
            rows = [_combined(fine, coarse, 2**order) for coarse, fine in pairwise(rows)]
        return rows[-1]

    def _diverged(self, time: int, reached: Trajectory | None) -> SolveError:
        partial = None
        if reached is not None and time > 1 and not self.flow:
            grams = reached.grams()
            values = {"train_loss": reached.train_loss, "Q": grams.sum(axis=1), "M": reached.overlaps.sum(axis=1)}
            partial = Solution(
                {"time": np.arange(len(grams), dtype=float)},
                {name: Variable(VARIABLES[name][0], v, LATEX[name], VARIABLES[name][1]) for name, v in values.items()},
                "diverged", f"not finite after {time} updates",
            )  # fmt: skip
        return SolveError(
            "training leaves the finite numbers", status="diverged", partial=partial, where=f"update {time}",
            why="the learning rate is above the edge of stability, or samples escape through an unbounded activation",
            hint="lower algorithm.learning_rate; small batches are stable below eta/(sample_ratio batch_fraction) ~ 2",
        )  # fmt: skip

    def _checkpoint(self, index: int, level: int) -> Path | None:
        solver = self.problem.solver
        if not solver.checkpoint:
            return None
        numbers = [getattr(self.descent, f.name) for f in fields(self.descent)]
        key = repr(([np.asarray(n).tolist() for n in numbers], self.model, self.model.activation.hermite,
                    solver.samples, solver.seed, solver.sampler))  # fmt: skip
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        return Path(solver.checkpoint) / f"multi-pass-{digest}-{index}-{level}.npz"

    def _forget_checkpoints(self) -> None:
        for index in range(self.problem.solver.scrambles):
            for level in range(self.problem.algorithm.levels if self.flow else 1):
                path = self._checkpoint(index, level)
                if path is not None:
                    forget(path)


def _kernels(found: Kernels) -> dict[str, Array]:
    return {
        "weight_response": found.weight_response, "gradient_response": found.gradient_response,
        "gradient_correlation": found.gradient_correlation,
    }  # fmt: skip


def _thinned(run: Trajectory, every: int) -> Trajectory:
    history = run.history[::every, ::every] if run.history.ndim == 5 else run.history[::every]
    return Trajectory(
        run.train_loss[::every], run.train_errors[::every], run.readouts[::every], run.overlaps[::every], history
    )


def _combined(fine: Trajectory, coarse: Trajectory, power: int) -> Trajectory:
    return Trajectory(
        *((power * getattr(fine, f.name) - getattr(coarse, f.name)) / (power - 1) for f in fields(Trajectory))
    )
