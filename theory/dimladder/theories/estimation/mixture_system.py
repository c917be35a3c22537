"""The system of a convex loss on a Gaussian mixture: its numbers, its fixed points, and what is read off them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SolveError
from ...problem import Problem
from ...symbolic.systems import FixedPoint, OrderParameter, Solution, Step, Stepwise, Variable
from . import observables
from .best_ridge import least_in_ridge, slope_along
from .channel import vector
from .labels import component_moments
from .letters import LETTERS
from .mixture_equations import FixedPointMap, Shape, program, source, start
from .mixture_question import MixtureQuestion
from .mixture_separability import separability_threshold

Array = NDArray[np.float64]
GRID, CLUSTERS = ("sample_ratio",), ("sample_ratio", "cluster")


class MixtureSystem(Stepwise, FixedPoint):
    """State evolution of one mixture problem with one output."""

    letters = LETTERS

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.question = MixtureQuestion(problem)
        g = self.geometry = self.question.geometry
        self.kinds, self.loss, self.laws = g.kinds, self.question.loss, self.question.laws
        self.weights = np.array(problem.data.weights)
        self.classifies = self.question.two_valued
        self.regresses = not self.classifies
        self.shape = Shape(
            kinds=g.kinds,
            groups=len(g.shares),
            spiked=g.spiked,
            means=tuple(tuple(bool(v) for v in row) for row in g.coordinates),
            teacher=tuple(bool(v) for v in g.teacher),
            square=self.loss.square,
            bias=problem.student.bias,
        )
        self.order_parameters = self._order_parameters()

    def _order_parameters(self) -> tuple[OrderParameter, ...]:
        per = GRID if max(self.kinds) == 0 else CLUSTERS
        rows = [
            OrderParameter("V", per, "V", "variance of the fluctuation: tr(Sigma_c R)/d, R the Hessian's resolvent"),
            OrderParameter("q", per, "q", "variance of w.x within a cluster: w.Sigma_c w"),
            OrderParameter("m", GRID if self._scalar_m() else CLUSTERS, "m", self._meaning_m()),
        ]
        if self.geometry.teacher:
            rows.append(OrderParameter("teacher_overlap", per, "M", "w.Sigma_c xi, xi the target's direction"))
        rows.append(OrderParameter("bias", GRID, "b", "the bias"))
        if self.classifies:
            meaning = "probability of the wrong sign of f"
            rows.append(OrderParameter("classification_error", GRID, r"\varepsilon", meaning))
        if self.regresses or self.loss.square:
            rows.append(OrderParameter("test_mse", GRID, r"\mathrm{mse}_{\mathrm{test}}", "E (y - f)^2, fresh samples"))
        if self.regresses:
            rows.append(OrderParameter("mse", GRID, r"\mathrm{mse}", "E (f - f*)^2 with the noise-free target"))
        rows += [
            OrderParameter("test_loss", GRID, r"\mathcal{L}_{\mathrm{test}}", "mean loss of fresh samples"),
            OrderParameter("train_loss", GRID, r"\mathcal{L}", "mean loss over the training set, without penalty"),
        ]
        if self.problem.loss.ridge == "optimal":
            rows.append(OrderParameter("ridge", GRID, r"\lambda", "strength of the penalty"))
        return tuple(rows)

    def _scalar_m(self) -> bool:
        return self.problem.data.means == "opposite" or not self.shape.used

    def _meaning_m(self) -> str:
        if self.problem.data.means == "opposite":
            return "w.mu"
        return "w.mu_c" if self.shape.used else "w.Sigma xi: overlap with the target's direction"

    # --- the compiled map ---

    @cached_property
    def program(self) -> FixedPointMap:
        return program(self.shape)

    def module(self) -> ModuleType:
        """Return the generated module: ``fmap``, ``observe`` and the names of their slots."""
        from ...symbolic import store

        return store.module(("mixture", self.shape), self._source, native=True)

    def _source(self) -> str:
        return source(self.program, f"State evolution on a Gaussian mixture: {self.shape}")

    def python(self) -> str:
        """Return the source of what is computed: the map, and the loss between its kinks."""
        from ...symbolic.store import source as text

        written = text(self.module())
        return written if self.shape.square else written + "\n\n# The loss.\n\n" + text(self.loss.module())

    def parameter_values(self, sample_ratio: float, ridge: float) -> dict[str, float]:
        """Name -> value of every parameter of the program but the places of the laws."""
        problem, shape, g = self.problem, self.shape, self.geometry
        clusters = range(len(self.kinds))
        values = {"alpha": sample_ratio, "ridge": ridge}
        values |= {f"rho_{c}": problem.data.weights[c] for c in clusters}
        values |= {f"Delta_{k}_{j}": e for k, row in enumerate(g.eigen) for j, e in enumerate(row)}
        if shape.groups > 1:
            values |= {f"pi_{j}": f for j, f in enumerate(g.shares)}
        values |= {f"mu_{c}_{j}": v for c, row in enumerate(g.coordinates) for j, v in enumerate(row)}
        values |= {f"t_{j}": v for j, v in enumerate(g.teacher)}
        if shape.spiked:
            for k, row in enumerate(g.kind_spikes):
                values |= {f"D_{k}_{j}": g.eigen[k][0] + s for j, s in enumerate(row)}
        for c, ((mean, second, slope), _) in enumerate(self._moments):
            values |= {f"y_{c}": mean, f"Ey_{c}": mean, f"Eyy_{c}": second, f"Edy_{c}": slope / self._spread(c)}
        return values

    def _spread(self, cluster: int) -> float:
        """Standard deviation of the target field."""
        return math.sqrt(self.geometry.teacher_field(cluster)[1]) if self.geometry.teacher else 1.0

    @cached_property
    def _moments(self) -> list[tuple[tuple[float, float, float], tuple[float, float, float]]]:
        """E y, E y^2 and E d_z y by cluster: of the label, and of the target without noise, flips and outliers."""
        return [(law.moments(1.0), component_moments(law.clean, 1.0)) for law in self.laws]

    @cached_property
    def _law_numbers(self) -> tuple[list[int], Array]:
        """Where each cluster's law begins in the tail of the parameter vector, and the tail; equal laws share one."""
        if self.shape.square:
            return [0] * len(self.laws), np.zeros(0)
        from ...numerics.addresses import packed
        from ...numerics.label_channel import CHANNEL_TYPE, law_averages

        places: dict[int, int] = {}
        known: dict[Any, int] = {}
        parts: list[Array] = [packed([(law_averages, CHANNEL_TYPE)])]
        for c, law in enumerate(self.laws):
            key = (law.components, law.text)
            if key not in known:
                known[key] = sum(p.size for p in parts)
                parts.append(vector(self.loss, law))
            places[c] = known[key]
        return [places[c] for c in range(len(self.laws))], np.concatenate(parts)

    def parameters(self, sample_ratio: float, ridge: float) -> Array:
        """The parameter vector of the generated module."""
        module = self.module()
        values = self.parameter_values(sample_ratio, ridge)
        places, tail = self._law_numbers
        count = len(module.PARAMETERS)
        values |= {f"law_{c}": float(count + place) for c, place in enumerate(places)}
        return np.concatenate([[values[name] for name in module.PARAMETERS], tail])

    @cached_property
    def _options(self) -> dict[str, Any]:
        settings, module = self.problem.solver, self.module()
        names = list(module.STATE)
        return {
            "rtol": settings.rtol,
            "atol": 1e-3 * settings.rtol,
            "damping": settings.damping,
            "memory": settings.memory,
            "max_iterations": settings.max_iterations,
            "newton_steps": settings.newton_steps,
            "lower": np.array([0.0 if n[0] in "Vq" else -np.inf for n in names]),
            "names": names,
            "work_size": module.WORK,
        }

    def _start(self, sample_ratio: float, ridge: float) -> Array:
        return start(self.shape, self.parameter_values(sample_ratio, ridge))

    def fixed_points(self, ratios: Array, ridges: Array) -> list[Any]:
        """Solve along increasing sample ratios; see `numerics.fixedpoint.follow`."""
        from ...numerics import fixedpoint

        table = np.array([self.parameters(float(a), float(r)) for a, r in zip(ratios, ridges, strict=True)])
        first = self._start(float(ratios[0]), float(ridges[0]))
        results = fixedpoint.follow(self.module().fmap, first, table, **self._options)
        for i, result in enumerate(results):
            if not result.success:
                again = self._from_easy_end(table[i])
                results[i] = again if again.success else result
        return results

    def _from_easy_end(self, target: Array) -> Any:
        """Follow the solution from few samples up to the asked ratio at a comfortable ridge, then down (or up) in the
        ridge."""
        from ...numerics import fixedpoint

        module, options = self.module(), self._options
        order = list(module.PARAMETERS)
        alpha, ridge = order.index("alpha"), order.index("ridge")
        path = np.tile(target, (25, 1))
        path[:, ridge] = 0.3
        path[:, alpha] = np.geomspace(min(1e-2, target[alpha] / 10), target[alpha], 25)
        begin = self._start(float(path[0, alpha]), 0.3)
        last = fixedpoint.follow(module.fmap, begin, path, **options)[-1]
        if not last.success:
            return last
        reached, before, size = 0.0, None, 0.1
        span = math.log(target[ridge] / 0.3)
        here, previous = last, last
        while reached < 1.0 and size > 1e-4:
            to = min(1.0, reached + size)
            point = target.copy()
            point[ridge] = target[ridge] if to == 1.0 else 0.3 * math.exp(span * to)
            guess = here.x.copy()
            if before is not None:
                # Secant in the logarithms of V and q, which move by powers of the ridge; linear in the rest.
                t = (to - reached) / (reached - before)
                positive = options["lower"] == 0.0
                guess = here.x + t * (here.x - previous.x)
                guess[positive] = here.x[positive] * (here.x[positive] / previous.x[positive]) ** t
            trial = fixedpoint.solve(module.fmap, guess, point, warm=True, **options)
            if trial.success:
                before, reached, previous, here = reached, to, here, trial
                size *= 1.5
            else:
                size *= 0.5
                last = trial
        return here if reached == 1.0 else last

    def best_ridge(self, sample_ratio: float, near: tuple[float, Array] | None) -> tuple[float, Any]:
        """The ridge that minimises ``loss.optimise`` at one sample ratio, and the solution there.

        Raises
        ------
        SolveError
            When there is no minimum inside `best_ridge.RIDGE_RANGE`, or a fixed point on the way is not reached.
        """
        from ...numerics import fixedpoint

        module, last = self.module(), near

        def at(t: float) -> Any:
            nonlocal last
            ridge = math.exp(t)
            p = self.parameters(sample_ratio, ridge)
            begin = last[1] if last is not None else self._start(sample_ratio, ridge)
            found = fixedpoint.solve(module.fmap, begin, p, warm=last is not None, **self._options)
            if not found.success:
                found = self._from_easy_end(p)
            if not found.success:
                raise SolveError(
                    "the fixed point was not reached", status=found.status, why=found.message,
                    where=f"sample_ratio = {sample_ratio:g}, ridge = {ridge:g}",
                    hint="lower solver.damping, raise solver.max_iterations, or give loss.ridge as a number",
                )  # fmt: skip
            last = (ridge, found.x)
            return found

        def slope(t: float) -> float:
            return self._slope(self._coordinates(at(t).x), sample_ratio, t)

        root = least_in_ridge(slope, math.log(near[0]) if near is not None else 0.0, sample_ratio)
        return math.exp(root), at(root)

    # --- what is read off a solution ---

    def _read(self, x: Array, sample_ratio: float, ridge: float) -> dict[str, Any]:
        """Observables of one solution."""
        module = self.module()
        state = dict(zip(module.STATE, x, strict=True))
        values = np.empty(len(module.OBSERVABLES))
        module.observe(x, self.parameters(sample_ratio, ridge), values)
        seen = dict(zip(module.OBSERVABLES, values.tolist(), strict=True))
        clusters = range(len(self.kinds))
        bias = float(state.get("b", 0.0))
        means = np.array([seen[f"cluster_mean_{c}"] for c in clusters])
        out: dict[str, Any] = {"ridge": ridge, "bias": bias}
        if self.problem.loss.ridge_per_sample is not None:
            out["ridge"] = ridge / sample_ratio
        for name, prefix in (("V", "V"), ("q", "q"), ("teacher_overlap", "M")):
            if f"{prefix}_0" in state:
                rows = np.array([state[f"{prefix}_{k}"] for k in self.kinds])
                out[name] = rows[0] if max(self.kinds) == 0 else rows
        if self.problem.data.means == "opposite":
            out["m"] = state["w_0"]
        elif self.shape.used:
            out["m"] = means - bias
        else:
            out["m"] = out.get("teacher_overlap", 0.0)
        errors, squares = np.full(len(self.kinds), math.nan), np.empty((len(self.kinds), 2))
        for c, (law, k) in enumerate(zip(self.laws, self.kinds, strict=True)):
            q, overlap = float(state[f"q_{k}"]), float(state.get(f"M_{k}", 0.0)) / self._spread(c)
            for i, moments in enumerate(self._moments[c]):
                squares[c, i] = _squares(moments, q, overlap, float(means[c]))
            errors[c] = seen.get(f"cluster_error_{c}", math.nan) if self.classifies else squares[c, 0]
            if self.classifies and not math.isfinite(errors[c]):
                errors[c] = observables.classification_error(law, 1.0, q, overlap, float(means[c]))
        out["cluster_error"] = errors
        if self.classifies:
            out["classification_error"] = float(self.weights @ errors)
        out["test_mse"], out["mse"] = self.weights @ squares
        out["test_loss"], out["train_loss"] = seen["test_loss"], seen["train_loss"]
        return out

    def solve(self) -> Solution:
        """Solve every sample ratio of the grid, from small to large.

        Raises
        ------
        SolveError
            With what was reached.
        """
        ratios = self._ratios
        order = np.argsort(ratios, kind="stable")
        found, failed = self._solutions(ratios[order])
        rows: list[dict[str, Any] | None] = [None] * ratios.size
        for i, (ridge, result) in zip(order, found, strict=True):
            rows[i] = self._read(result.x, float(ratios[i]), ridge) if result is not None else None
        clusters = len(self.kinds)
        solution = Solution(
            {"sample_ratio": ratios} | ({"cluster": np.arange(clusters)} if clusters > 1 else {}),
            self._variables(rows),
            stats={
                "evaluations": sum(r.stats["evaluations"] for _, r in found if r is not None),
                "residual": max((r.residual for _, r in found if r is not None), default=math.nan),
            },
        )
        if failed:
            error = failed[0]
            solution.status, solution.message = error.status, str(error)
            raise SolveError(
                f"{len(failed)} of {ratios.size} points were not reached",
                status=error.status, partial=solution, where=error.where, why=error.why, hint=error.hint,
            )  # fmt: skip
        return solution

    @property
    def _ratios(self) -> Array:
        return np.array(self.problem.grid.values("sample_ratio"))

    def _variables(self, rows: Sequence[dict[str, Any] | None]) -> dict[str, Variable]:
        """Turn what is read off the points, in the order of the grid, into variables."""
        clusters = len(self.kinds)
        variables: dict[str, Variable] = {}
        wanted = [(p.name, p.dims, p.latex, p.meaning) for p in self.order_parameters]
        if clusters > 1:
            what = "error by cluster: " + ("of the sign of f" if self.classifies else "mean of (y - f)^2")
            wanted.append(("cluster_error", CLUSTERS, "", what))
        for name, dims, latex, meaning in wanted:
            values = np.full((len(rows), *([clusters] if len(dims) == 2 else [])), np.nan)
            for i, row in enumerate(rows):
                if row is not None:
                    values[i] = row[name]
            variables[name] = Variable(dims, values, latex, meaning)
        return variables | self._thresholds()

    # --- what derivatives need ---

    def roots(self) -> Array | None:
        order = np.argsort(self._ratios, kind="stable")
        found, failed = self._solutions(self._ratios[order])
        if failed:
            return None
        rows: list[Any] = [None] * order.size
        for i, (ridge, result) in zip(order, found, strict=True):
            rows[i] = self._coordinates(result.x)
            if self._free_ridge:
                rows[i] = np.append(rows[i], math.log(ridge))
        return np.stack(rows)

    def residual(self, states: Array) -> Array:
        rows = []
        for coordinates, alpha, ridge in self._with_ridges(states):
            gap = self._gap(coordinates, alpha, ridge)
            rows.append(np.append(gap, self._slope(coordinates, alpha, math.log(ridge))) if self._free_ridge else gap)
        return np.stack(rows)

    def variables(self, states: Array) -> dict[str, Variable]:
        return self._variables([
            self._read(self._state(coordinates), alpha, ridge)
            for coordinates, alpha, ridge in self._with_ridges(states)
        ])  # fmt: skip

    @property
    def _free_ridge(self) -> bool:
        return bool(self.problem.loss.ridge == "optimal")

    def _gap(self, coordinates: Array, alpha: float, ridge: float) -> Array:
        """F(x) - x in the coordinates of the roots; NaN outside the domain."""
        x, positive = self._state(coordinates), self._positive
        out = self._image(x, self.parameters(alpha, ridge))
        out[~positive] -= x[~positive]
        inside = (out[positive] > 0.0).all()
        out[positive] = np.log(out[positive] / x[positive]) if inside else np.nan
        return out

    def _slope(self, coordinates: Array, alpha: float, t: float) -> float:
        """The derivative of what a best ridge minimises in log ridge, which is t."""
        wanted = self.problem.loss.optimise

        def value(moved: Array, s: float) -> float:
            return float(self._read(self._state(moved), alpha, math.exp(t + s))[wanted])

        return slope_along(lambda c, s: self._gap(c, alpha, math.exp(t + s)), value, coordinates)

    @cached_property
    def _positive(self) -> NDArray[np.bool_]:
        return np.asarray(self._options["lower"] == 0.0)

    def _coordinates(self, x: Array) -> Array:
        """V and q by their logarithms, the rest in units of the field."""
        positive = self._positive
        return np.where(positive, np.log(np.where(positive, x, 1.0)), x / self._unit(x))

    def _state(self, coordinates: Array) -> Array:
        positive = self._positive
        x = np.where(positive, np.exp(np.where(positive, coordinates, 0.0)), 0.0)
        return np.where(positive, x, coordinates * self._unit(x))

    def _unit(self, x: Array) -> float:
        """The standard deviation of the field within the first cluster."""
        return math.sqrt(x[list(self.module().STATE).index("q_0")])

    def _with_ridges(self, states: Array) -> Iterator[tuple[Array, float, float]]:
        """Yield coordinates, sample ratio and ridge of every point."""
        for row, alpha in zip(states, self._ratios.tolist(), strict=True):
            if self._free_ridge:
                yield row[:-1], alpha, math.exp(row[-1])
            else:
                ridge = self.question.ridge_at(alpha)
                assert ridge is not None
                yield row, alpha, ridge

    def _image(self, x: Array, p: Array) -> Array:
        out: Array = np.empty_like(x)
        module = self.module()
        module.fmap(np.ascontiguousarray(x), out, p, np.zeros(max(1, module.WORK)))
        return out

    def _solutions(self, ratios: Array) -> tuple[list[tuple[float, Any]], list[SolveError]]:
        """(ridge, solution or None) for every ratio, and the errors of what failed."""
        failed: list[SolveError] = []
        if self.problem.loss.ridge != "optimal":
            ridges = np.array([self.question.ridge_at(float(a)) for a in ratios], dtype=float)
            results = self.fixed_points(ratios, ridges)
            failed = [
                SolveError(
                    "the fixed point was not reached", status=r.status, where=f"sample_ratio = {a:g}", why=r.message,
                    hint="lower solver.damping, raise solver.max_iterations, or raise loss.ridge",
                )
                for a, r in zip(ratios, results, strict=True) if not r.success
            ]  # fmt: skip
            return [(float(t), r if r.success else None) for t, r in zip(ridges, results, strict=True)], failed
        found: list[tuple[float, Any]] = []
        near: tuple[float, Array] | None = None
        for a in ratios:
            try:
                ridge, result = self.best_ridge(float(a), near)
            except SolveError as error:
                failed.append(error)
                found.append((math.nan, None))
                continue
            found.append((ridge, result))
            near = (ridge, result.x)
        return found, failed

    def _thresholds(self) -> dict[str, Variable]:
        if self.loss.square or self.loss.of_residual:
            meaning = "sample ratio up to which a vanishing ridge interpolates the samples, n = d"
            return {"interpolation_threshold": Variable((), np.array(1.0), r"\alpha_\star", meaning)}
        threshold = separability_threshold(self.question) if self.classifies else None
        if threshold is None:
            return {}
        meaning = "sample ratio up to which the samples are linearly separable, so that only a penalty bounds w"
        return {"separability_threshold": Variable((), np.array(threshold), r"\alpha_{\mathrm{sep}}", meaning)}

    # --- what is printed ---

    def derivation(self) -> list[Step]:
        from .mixture_printed import steps

        return steps(self)


def _squares(moments: tuple[float, float, float], q: float, overlap: float, mean: float) -> float:
    """E (y - f)^2, f ~ N(mean, q), from E y, E y^2 and E d_z y, with E[(f - mean) z] = overlap."""
    first, second, slope = moments
    return second - 2.0 * (first * mean + overlap * slope) + mean**2 + q
