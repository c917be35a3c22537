"""The system of the mixture-erm theory: its numbers, its fixed points, and what is read off them."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import SolveError
from ...problem import Problem
from ...problem.mixtures import mixture_geometry
from ...problem.targets import ClusterLabels
from ...symbolic.equations import in_words
from ...symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Step, Variable
from .separability import separability_threshold
from .state_evolution import Program, Shape, program, source, start


class MixtureSystem(FixedPoint):
    """State evolution of one mixture problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.geometry = mixture_geometry(problem)
        g, loss = self.geometry, problem.loss.function
        self.kinds, self.eigen, self.kind_spikes = g.kinds, g.eigen, g.kind_spikes
        self.coordinates, self.teacher_direction, self.binary = g.coordinates, g.teacher, g.binary
        self.shape = Shape(
            kinds=g.kinds,
            groups=len(g.shares),
            spiked=bool(problem.data.spikes),
            means=tuple(tuple(bool(v) for v in row) for row in g.coordinates),
            teacher=tuple(bool(v) for v in g.teacher),
            loss=loss,
            bias=problem.student.bias,
            thresholds=len(g.binary[1]) if g.binary and loss != "square" else 0,
        )
        self.order_parameters = self._order_parameters()

    def _order_parameters(self) -> tuple[OrderParameter, ...]:
        grid = ("sample_ratio",)
        per = grid if max(self.kinds) == 0 else ("sample_ratio", "cluster")
        rows = [
            OrderParameter(
                "V", per, "V", "variance of the fluctuation: tr(Sigma_c R)/d, R the resolvent of the Hessian"
            ),
            OrderParameter("q", per, "q", "variance of w.x within a cluster: w.Sigma_c w"),
            OrderParameter("m", grid if self._scalar_m() else ("sample_ratio", "cluster"), "m", self._meaning_m()),
        ]
        if self.teacher_direction:
            rows.append(OrderParameter("teacher_overlap", per, "M", "w.Sigma_c xi"))
        return (
            *rows,
            OrderParameter("bias", grid, "b", "the bias"),
            self._error(),
            OrderParameter("train_loss", grid, r"\mathcal{L}", "mean loss over the training set, without penalty"),
        )

    def _scalar_m(self) -> bool:
        return self.problem.data.means == "opposite" or not self.shape.used

    def _meaning_m(self) -> str:
        if self.problem.data.means == "opposite":
            return "w.mu"
        return "w.mu_c" if self.shape.used else "w.Sigma xi: overlap with the teacher"

    def _error(self) -> OrderParameter:
        if self._regression():
            return OrderParameter("test_mse", ("sample_ratio",), r"\varepsilon", "mean squared error of fresh labels")
        return OrderParameter(
            "classification_error", ("sample_ratio",), r"\varepsilon", "probability of the wrong sign of f"
        )

    def _regression(self) -> bool:
        return bool(self.teacher_direction) and self.binary is None

    def _program(self) -> Program:
        return program(self.shape)

    def module(self) -> ModuleType:
        from ...symbolic import store

        return store.module(("mixture-erm", self.shape), self._source)

    def _source(self) -> str:
        return source(self._program(), f"State evolution on a Gaussian mixture, {self.shape.loss} loss: {self.shape}")

    def python(self) -> str:
        from ...symbolic.store import source as text

        return text(self.module())

    def parameter_values(self, sample_ratio: float, ridge: float | None = None) -> dict[str, float]:
        """Name -> value of every parameter of the program at one sample ratio."""
        problem, shape = self.problem, self.shape
        clusters = range(len(self.kinds))
        values = {"alpha": sample_ratio, "ridge": problem.loss.ridge if ridge is None else ridge}
        values |= {f"rho_{c}": problem.data.weights[c] for c in clusters}
        values |= {f"Delta_{k}_{j}": e for k, row in enumerate(self.eigen) for j, e in enumerate(row)}
        if shape.groups > 1:
            values |= {f"pi_{j}": f for j, f in enumerate(self.geometry.shares)}
        values |= {f"mu_{c}_{j}": v for c, row in enumerate(self.coordinates) for j, v in enumerate(row)}
        values |= {f"t_{j}": v for j, v in enumerate(self.teacher_direction)}
        if shape.spiked:
            values |= {
                f"D_{k}_{j}": self.eigen[k][0] + s for k, row in enumerate(self.kind_spikes) for j, s in enumerate(row)
            }
        if not self.teacher_direction:
            labels = (problem.target or ClusterLabels()).values(len(self.kinds))
            values |= {f"y_{c}": y for c, y in enumerate(labels)}
            return values
        if shape.loss == "square":
            from ...symbolic.hermite_moments import profile

            for c in clusters:
                mean, variance = self.geometry.teacher_field(c)
                expanded = profile(problem.target.expression, mean, math.sqrt(variance), 1)
                values[f"Ey_{c}"] = float(expanded.coefficients[0, 0])
                values[f"Edy_{c}"] = float(expanded.coefficients[1, 0]) / math.sqrt(variance)
                values[f"Eyy_{c}"] = float(expanded.second[0]) + problem.target.noise**2
        if shape.thresholds:
            assert self.binary is not None
            values["first_label"] = self.binary[0]
            values |= {f"theta_{i}": t for i, t in enumerate(self.binary[1])}
        return values

    def _vector(self, values: dict[str, float], order: list[str]) -> np.ndarray:
        return np.array([values[name] for name in order])

    def parameter_names(self) -> list[str]:
        """Names of the parameter vector, from the generated module."""
        return list(self.module().PARAMETERS)

    def fixed_points(self, ratios: np.ndarray) -> list[Any]:
        """Solve along increasing sample ratios; see `numerics.fixedpoint.follow`."""
        from ...numerics import fixedpoint

        module, settings = self.module(), self.problem.solver
        order = self.parameter_names()
        base = self.parameter_values(1.0)
        vector, alpha = self._vector(base, order), order.index("alpha")
        table = np.tile(vector, (ratios.size, 1))
        table[:, alpha] = ratios
        names = list(module.STATE)
        lower = np.array([0.0 if n[0] in "Vq" else -np.inf for n in names])
        options: dict[str, Any] = {
            "rtol": settings.rtol,
            "atol": 1e-3 * settings.rtol,
            "damping": settings.damping,
            "memory": settings.memory,
            "max_iterations": settings.max_iterations,
            "newton_steps": settings.newton_steps,
            "lower": lower,
            "names": names,
        }
        results = fixedpoint.follow(
            module.fmap, start(self.shape, dict(base, alpha=float(ratios[0]))), table, **options
        )
        for i, result in enumerate(results):
            if not result.success:
                again = self._from_easy_end(table[i], options)
                results[i] = again if again.success else result
        return results

    def _from_easy_end(self, target: np.ndarray, options: dict[str, Any]) -> Any:
        """Follow the solution from few samples up to the asked ratio at a comfortable ridge, then down (or up) in the
        ridge."""
        from ...numerics import fixedpoint

        module = self.module()
        order = self.parameter_names()
        alpha, ridge = order.index("alpha"), order.index("ridge")
        path = np.tile(target, (25, 1))
        path[:, ridge] = 0.3
        path[:, alpha] = np.geomspace(min(1e-2, target[alpha] / 10), target[alpha], 25)
        begin = start(self.shape, dict(self.parameter_values(float(path[0, alpha])), ridge=0.3))
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

    def solve(self) -> Solution:
        ratios = np.array(self.problem.grid.values("sample_ratio"))
        order = np.argsort(ratios, kind="stable")
        results = self.fixed_points(ratios[order])
        module = self.module()
        names, observables = list(module.STATE), list(module.OBSERVABLES)
        states = np.full((ratios.size, len(names)), np.nan)
        seen = np.full((ratios.size, len(observables)), np.nan)
        failed = []
        for position, result in zip(order, results, strict=True):
            if not result.success:
                failed.append((ratios[position], result))
                continue
            states[position] = result.x
            values = self.parameter_values(float(ratios[position]))
            seen[position] = module.observe(result.x, self._vector(values, module.PARAMETERS))
        solution = Solution(
            {"sample_ratio": ratios},
            self._variables(ratios, states, seen, names, observables),
            stats={
                "evaluations": sum(r.stats["evaluations"] for r in results),
                "residual": max(r.residual for r in results),
            },
        )
        if len(self.kinds) > 1:
            solution.coords["cluster"] = np.arange(len(self.kinds))
        if failed:
            ratio, result = failed[0]
            solution.status, solution.message = result.status, result.message
            raise SolveError(
                f"{len(failed)} of {ratios.size} fixed points did not converge",
                status=result.status,
                partial=solution,
                where=f"sample_ratio = {ratio:g}",
                why=result.message,
                hint="lower solver.damping, raise solver.max_iterations, or raise loss.ridge",
            )
        return solution

    def _variables(
        self, ratios: np.ndarray, states: np.ndarray, seen: np.ndarray, names: list[str], observables: list[str]
    ) -> dict[str, Variable]:
        grid, clusters = ("sample_ratio",), range(len(self.kinds))
        meaning = {p.name: p for p in self.order_parameters}

        def column(name: str) -> np.ndarray:
            return states[:, names.index(name)]

        def observed(name: str) -> np.ndarray:
            return seen[:, observables.index(name)]

        def by_kind(prefix: str) -> tuple[tuple[str, ...], np.ndarray]:
            if max(self.kinds) == 0:
                return grid, column(f"{prefix}_0")
            return (*grid, "cluster"), np.stack([column(f"{prefix}_{k}") for k in self.kinds], axis=1)

        out: dict[str, tuple[tuple[str, ...], np.ndarray]] = {"V": by_kind("V"), "q": by_kind("q")}
        bias = column("b") if self.shape.bias else np.where(np.isfinite(states[:, 0]), 0.0, np.nan)
        if self.teacher_direction:
            out["teacher_overlap"] = by_kind("M")
        if self.problem.data.means == "opposite":
            out["m"] = grid, column("w_0")
        elif self.shape.used:
            out["m"] = (*grid, "cluster"), np.stack([observed(f"cluster_mean_{c}") - bias for c in clusters], axis=1)
        elif self.teacher_direction:
            out["m"] = out["teacher_overlap"]
        out["bias"] = grid, bias
        errors = np.stack([observed(f"cluster_error_{c}") for c in clusters], axis=1)
        if self.binary is not None and self.shape.loss == "square":
            # Square loss on the labels of a two-valued teacher: the field is that of regression, the error is 0/1.
            out["test_mse"] = grid, observed("test_error").copy()
            errors = self._binary_errors(states, names, observables, seen)
        out[self._error().name] = grid, errors @ np.array(self.problem.data.weights)
        out["test_loss"] = grid, self._test_losses(seen, observables, states, names)
        out["train_loss"] = grid, observed("train_loss")
        if len(self.kinds) > 1:
            out["cluster_error"] = (*grid, "cluster"), errors
        if self.shape.loss == "square":
            out["interpolation_threshold"] = (), np.array(1.0)
        else:
            threshold = separability_threshold(self.problem)
            if threshold is not None:
                out["separability_threshold"] = (), np.array(threshold)
        result = {}
        for name, (dims, values) in out.items():
            p = meaning.get(name)
            result[name] = Variable(dims, values, p.latex if p else "", p.meaning if p else name.replace("_", " "))
        return result

    def _test_losses(
        self, seen: np.ndarray, observables: list[str], states: np.ndarray, names: list[str]
    ) -> np.ndarray:
        """Mean loss of fresh samples at every ratio: an average over the output u, labels drawn given u."""
        if self._regression():
            return np.asarray(seen[:, observables.index("test_error")] / 2)
        rho, out = np.array(self.problem.data.weights), np.full(states.shape[0], np.nan)
        for i in np.flatnonzero(np.isfinite(states).all(axis=1)):
            per = [
                self._fresh_loss(
                    c,
                    float(seen[i, observables.index(f"cluster_mean_{c}")]),
                    float(states[i, names.index(f"q_{k}")]),
                    float(states[i, names.index(f"M_{k}")]) if self.teacher_direction else 0.0,
                )
                for c, k in enumerate(self.kinds)
            ]
            out[i] = rho @ np.array(per)
        return out

    def _fresh_loss(self, cluster: int, mean: float, q: float, overlap: float) -> float:
        """E l(u, y) within a cluster: u ~ N(mean, q), and y its label or, given u, that of the teacher's field."""
        from scipy.special import ndtr

        from ...numerics.quadrature import gauss_normal

        form, spread = self.problem.loss.form, math.sqrt(q)
        labels: tuple[float, ...] = (1.0, -1.0)
        if not self.teacher_direction:
            labels = ((self.problem.target or ClusterLabels()).values(len(self.kinds))[cluster],)
        kinks = [(kink - mean) / spread for y in labels for kink in form.kinks(y)]
        if self.binary is None:
            x, weights = gauss_normal(kinks, 64)
            u = mean + spread * x
            return float(weights @ form.evaluate(np, u, np.full(u.shape, labels[0])))
        centre, variance = self.geometry.teacher_field(cluster)
        rest = math.sqrt(max(variance - overlap**2 / q, 1e-300))
        first, cuts = self.binary
        # The label turns about there, sharply where the student knows the teacher's field.
        turns = [(t - centre) * spread / overlap for t in cuts] if overlap else []
        x, weights = gauss_normal([*kinks, *turns], 64)
        u = mean + spread * x
        below = [ndtr((t - centre - overlap / spread * x) / rest) for t in cuts]
        plus = float(first > 0) - first * sum((-1.0) ** j * (1.0 - b) for j, b in enumerate(below))
        one, two = (form.evaluate(np, u, np.full(u.shape, y)) for y in labels)
        return float(weights @ (plus * one + (1.0 - plus) * two))

    def _binary_errors(
        self, states: np.ndarray, names: list[str], observables: list[str], seen: np.ndarray
    ) -> np.ndarray:
        from .kernels import HINGE, teacher_channel

        assert self.binary is not None
        errors = np.full((states.shape[0], len(self.kinds)), np.nan)
        for i, state in enumerate(states):
            for c, k in enumerate(self.kinds):
                mean, variance = self.geometry.teacher_field(c)
                if np.all(np.isfinite(state)):
                    errors[i, c] = teacher_channel(
                        HINGE,
                        seen[i, observables.index(f"cluster_mean_{c}")],
                        1.0,
                        state[names.index(f"q_{k}")],
                        state[names.index(f"M_{k}")],
                        mean,
                        variance,
                        np.array(self.binary[1]),
                        self.binary[0],
                    )[5]
        return errors

    def equations(self) -> list[Equation]:
        g = self._program()
        rows = []
        for binding in g.bindings:
            if binding.call:
                rows += [
                    Equation(str(s), f"{g.latex[s]} = {text}", None, "one-dimensional integral, computed by kernels.py")
                    for s, text in zip(binding.symbols, binding.latex, strict=True)
                ]
            else:
                rows.append(Equation.of(str(binding.symbols[0]), binding.symbols[0], binding.rhs, symbol_names=g.latex))
        rows += [Equation.of(str(s), s, rhs, "fixed point", symbol_names=g.latex) for s, rhs in g.updates.items()]
        for name in ("test_error", "train_loss"):
            rows.append(Equation.of(name, in_words(name), g.observables[name], symbol_names=g.latex))
        return rows

    def derivation(self) -> list[Step]:
        rows = {e.label: e for e in self.equations()}
        g = self._program()
        groups: dict[str, list[Equation]] = {}
        for binding in g.bindings:
            groups.setdefault(binding.group, []).extend(rows[str(s)] for s in binding.symbols)
        updates = [rows[str(s)] for s in g.updates]
        return [
            Step(
                "Objective",
                "Minimise (1/d) sum_i loss(y_i, w.x_i + b) + (ridge/2)|w|^2 over samples = alpha d "
                "points of the mixture; "
                "Gordon's comparison (or leave-one-out) replaces each field w.x_i by a scalar Gaussian channel.",
            ),
            Step(
                "Fields",
                "Within cluster c the field of the leave-one-out minimiser is N(m_c, q).",
                tuple(groups["field"]),
            ),
            Step(
                "Channel",
                "Putting the sample back moves the field to the proximal point of the loss.",
                tuple(groups["channel"]),
            ),
            Step("Conjugates", "Forces summed over the samples of each cluster.", tuple(groups["conjugate"])),
            Step(
                "Resolvent",
                "R is the inverse Hessian of the effective quadratic problem for w, s its mean response.",
                tuple(groups["resolvent"]),
            ),
            Step("Fixed point", "The overlaps of the effective problem reproduce those of the fields.", tuple(updates)),
            Step("Errors", "Observables at the fixed point.", (rows["test_error"], rows["train_loss"])),
        ]
