"""One pass on a hidden manifold at finite d: inputs x = f(F c/sqrt D) as they are, F drawn for every replica.

Nothing of the Gaussian inputs that the theory puts in their place is used: neither a spectrum nor blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dimladder.errors import SimulationError

from ..base import Sample
from ..model_code import as_formula, clean_label, loss_slopes, slope_of
from .sgd import recorded_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dimladder.problem.update_table import Table

    Array = NDArray[np.float64]

# Fresh samples behind every error, and numbers of inputs made at a time.
TESTS, CHUNK = 4_000, 4_000_000


def manifold_sample(
    problem: Any, table: Table, times: Array, d: int, streams: Sequence[np.random.Generator]
) -> Sample:  # fmt: skip
    """Run plain SGD and measure it on fresh samples.

    Raises
    ------
    SimulationError
        For update rules beyond plain SGD.
    """
    rule = problem.algorithm
    for key, asked in (
        ("schedule", rule.schedule.strip() != "1"), ("update", bool(rule.update)), ("uses", rule.uses > 1),
        ("displacement", rule.displacement != 0), ("feedback", rule.feedback is not None),
        ("weight_noise", rule.weight_noise != 0), ("spherical", rule.spherical), ("batch_size", rule.batch_size != 1),
        ("regime", rule.regime != "classical"), ("episodes", rule.episodes is not None),
    ):  # fmt: skip
        if asked:
            raise SimulationError("a hidden manifold is simulated for plain SGD", where=f"algorithm.{key}")
    if problem.data.tasks or table.Y > 1 or (table.masks != 1.0).any() or table.timed:
        raise SimulationError("a hidden manifold is simulated with one task, one output and no dropout", where="data")
    runs = [_run(problem, table, times, d, stream) for stream in streams]
    shapes = {"Q": ("student", "student"), "M": ("student", "teacher"), "a": ("student",)}
    names = {name: (("time", *shapes.get(name, ())), np.array([run[name] for run in runs])) for name in runs[0]}
    return Sample({"time": times}, names)


class _World:
    """F, the latent teachers, and what is computed of a sample."""

    def __init__(self, problem: Any, table: Table, d: int, stream: np.random.Generator) -> None:
        from dimladder.problem import activation

        self.table, self.d, self.stream = table, d, stream
        self.latent = max(1, round(problem.data.latent_ratio * d))
        if self.latent < table.M:
            raise SimulationError("more teachers than latent dimensions", where=f"d = {d}")
        self.image = activation(problem.data.activation)
        self.mixing = stream.standard_normal((d, self.latent))
        overlap = np.array(problem.target.overlap) if problem.target.overlap else np.eye(table.M)
        self.teachers = np.linalg.cholesky(overlap) @ _frame(table.M, self.latent, stream)

    def draw(self, n: int) -> tuple[Array, Array]:
        """Return n inputs and the fields of the teachers."""
        c = self.stream.standard_normal((n, self.latent))
        u = c @ self.mixing.T / math.sqrt(self.latent)
        x = np.asarray(self.image.evaluate(np, x=u)) + 0.0 * u
        return x, c @ self.teachers.T / math.sqrt(self.latent)

    def correlation(self) -> Array:
        """E[x z_m] sqrt d, rows over teachers, as Stein's lemma gives it from the law of u_i, |F_i|^2/D around one."""
        u, w = np.polynomial.hermite_e.hermegauss(200)
        norm = np.sqrt(np.mean(self.mixing**2, axis=1))
        f = np.asarray(self.image.evaluate(np, x=norm[:, None] * u)) + 0.0 * u
        slope = f @ (w / w.sum() * u) / norm
        return slope * (self.teachers @ self.mixing.T) / self.latent * math.sqrt(self.d)

    def start(self) -> Array:
        """Weights with the overlaps that the problem states: along E[x z], and the rest in no direction of its own."""
        along = self.correlation()
        table = self.table
        total = np.einsum("b,bmn->mn", table.variances[0], table.gram[:, : table.K, table.K :])
        Q = table.gram[:, : table.K, : table.K].sum(axis=0)
        # w = C along + rest, w along^T/d = M.
        part = total @ np.linalg.inv(along @ along.T / self.d) @ along
        left = Q - part @ part.T / self.d
        if np.linalg.eigvalsh(left)[0] <= 0:
            raise SimulationError("no weights of this size have these overlaps", where=f"initial, d = {self.d}")
        basis = np.linalg.qr(along.T)[0]
        rest = self.stream.standard_normal((table.K, self.d))
        rest -= (rest @ basis) @ basis.T
        rest = np.linalg.solve(np.linalg.cholesky(rest @ rest.T / self.d), rest)
        return np.asarray(part + np.linalg.cholesky(left) @ rest)

    def label(self, fields: Array) -> Array:
        """The target without noise, (n,)."""
        return np.asarray(clean_label(self.table, np, fields, self.table.teacher_rows[0]))[..., 0]


def _frame(rows: int, columns: int, stream: np.random.Generator) -> Array:
    """Return orthogonal rows of squared norm `columns`."""
    return np.asarray(np.linalg.qr(stream.standard_normal((columns, rows)))[0].T * math.sqrt(columns))


def _run(problem: Any, table: Table, times: Array, d: int, stream: np.random.Generator) -> dict[str, Array]:
    world = _World(problem, table, d, stream)
    w, a = world.start(), table.a[0].copy()
    g, slope = table.activation, slope_of(table)
    loss = as_formula(loss_slopes(table)[0], ("f", "y"))
    noise, decay = float(table.noise[0]), -float(table.drift[0, 0])
    tests, fields = world.draw(TESTS)
    wanted, along = world.label(fields), world.correlation()
    record, low, high, weight = recorded_steps(times, d)
    names = ["generalization_error", "Q", "M", "a", *(["classification_error"] if table.signs else [])]
    found: dict[str, list[Array]] = {name: [] for name in names}
    step, chunk = 0, max(1, CHUNK // d)
    for at in record:
        while step < at:
            count = min(chunk, int(at) - step)
            x, z = world.draw(count)
            y = world.label(z) + noise * stream.standard_normal(count)
            for n in range(count):
                field = w @ x[n] / math.sqrt(d)
                units = np.asarray(g.evaluate(np, x=field)) + 0.0 * field
                error = float(loss.evaluate(np, f=float(a @ units), y=float(y[n])))
                pull = a * (np.asarray(slope.evaluate(np, x=field)) + 0.0 * field) * error
                a = a - table.readout_rate / d * units * error - table.readout_decay / d * a
                w = (1.0 - decay / d) * w - table.learning_rate / math.sqrt(d) * pull[:, None] * x[n]
            step += count
        outputs = (np.asarray(g.evaluate(np, x=tests @ w.T / math.sqrt(d))) + 0.0) @ a
        found["generalization_error"].append(np.array(np.mean((outputs - wanted) ** 2) / 2))
        if table.signs:
            found["classification_error"].append(np.array(np.mean(outputs * wanted < 0.0)))
        found["Q"].append(w @ w.T / d)
        found["M"].append(w @ along.T / d)
        found["a"].append(a.copy())
    values = {name: np.array(rows) for name, rows in found.items()}
    return {
        name: v[low] + weight.reshape(-1, *[1] * (v.ndim - 1)) * (v[high] - v[low]) for name, v in values.items()
    }  # fmt: skip
