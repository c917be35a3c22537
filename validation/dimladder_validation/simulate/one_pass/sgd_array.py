"""One-pass SGD on explicit weights of all replicas at once, on any array namespace and device; see `sgd`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dimladder.errors import SimulationError
from dimladder.problem import Expression

from ..base import Backend
from ..model_code import as_formula, clean_label, loss_slopes, slope_of
from ..rows import Rows
from .frames import explicit
from .sgd import Trajectories, at_finite_d, at_times, children_of, mixing, recorded_steps, report, stages

if TYPE_CHECKING:
    import numpy as np

    from dimladder.problem.update_table import Table

# Input numbers that a replica draws ahead.
CHUNK_NUMBERS = 250_000


def weight_sgd_array(
    table: Table,
    times: np.ndarray,
    d: int,
    streams: Sequence[np.random.Generator],
    backend: Backend,
    chunk_numbers: int = CHUNK_NUMBERS,
) -> Trajectories:
    """Run SGD on explicit weights of all replicas at once, on any array namespace and device.

    Every replica draws about `chunk_numbers` input numbers at a time, however many replicas run together: on an
    accelerator the size of a chunk changes the draws.
    """
    import numpy as np

    table = at_finite_d(table)
    xp = backend.xp
    record, low, high, weight = recorded_steps(times, d)
    children = [children_of(stream) for stream in streams]
    frames = [explicit(table, d, c[2]) for c in children]
    run = _Step(table, backend, d, int(record[-1]), np.stack([f.fixed for f in frames]), frames[0].columns)
    w = backend.asarray(np.stack([f.moving for f in frames]))
    replicas = len(streams)
    a = backend.asarray(np.broadcast_to(table.a, (replicas, *table.a.shape)).copy())
    bias = backend.asarray(np.broadcast_to(table.bias.ravel(), (replicas, table.moving)).copy())
    run.radius = xp.sqrt(xp.sum(w * w, axis=-1, keepdims=True))[:, : table.K, :]
    block = max(1, chunk_numbers // (run.batch * d))
    schedule = Expression(table.schedule, ("t",))
    # Teachers that drift are part of what moves.
    chain = Rows(backend, run, (w, a, bias, run.teachers) if run.drifts else (w, a, bias))
    found: list[list[np.ndarray]] = [[], [], []]
    place = 0
    for step in range(int(record[-1]) + 1):
        if step == record[place]:
            for values, kept in zip((run.overlaps(*chain.state), *chain.state[1:3]), found, strict=True):
                kept.append(backend.to_numpy(values).astype(np.float64).copy())
            place += 1
            if place == len(record):
                break
        if step % block == 0:
            factors = [float(schedule.evaluate(np, t=min(step + row, record[-1]) / d)) for row in range(block)]
            chain.load(run.draw(children, step, block), factors)
        with np.errstate(over="ignore", invalid="ignore"):  # a replica that blows up is reported at the end
            chain.advance()
    gram, out_a, out_bias = (np.stack(values, axis=1) for values in found)
    report(table, d, int(np.sum(~np.isfinite(gram[:, -1]).all(axis=(1, 2, 3)))), replicas)
    gram, out_a, out_bias = (at_times(values, low, high, weight) for values in (gram, out_a, out_bias))
    return Trajectories(gram, out_a, out_bias, [c[3] for c in children])


class _Step:
    """One step of every replica; inputs are rows of draws, the facts of each sample's source gathered beside them."""

    def __init__(
        self, table: Table, backend: Backend, d: int, steps: int, fixed: np.ndarray, columns: np.ndarray
    ) -> None:
        import numpy as np

        self.table, self.backend, self.d, self.columns = table, backend, d, columns
        firsts, self.what = stages(table, d, steps)
        self.firsts = firsts
        sizes = {int(b) for b in self.what["batch"]}
        if len(sizes) > 1:
            raise SimulationError(
                "batches of one size only are moved on arrays", where="algorithm.batch_size",
                why=f"it takes {len(sizes)} values from {min(sizes)} to {max(sizes)} here",
                hint="run in double precision on the CPU, where explicit weights and the Gram chain take any",
            )  # fmt: skip
        least = math.isqrt(d - 1) + 1 if table.regime == "gradient-flow" else 1
        self.batch = max(least, *sizes)
        self.teachers = backend.asarray(fixed[:, : table.M])
        self.directions = backend.asarray(fixed[:, table.M :])
        self.drifts = table.fixed_drift is not None
        self.feedback = None if table.feedback is None else backend.asarray(table.feedback)
        self.radius: Any = None
        self.slope = slope_of(table)
        self.places = [""] if table.Y == 1 else [str(o + 1) for o in range(table.Y)]
        names = tuple(f"{s}{place}" for s in "fy" for place in self.places)
        self.losses = [as_formula(s, names) for s in loss_slopes(table)]
        self.scales = bool((self.what["variances"] != 1.0).any())
        spread = np.zeros((len(table.shares), d))
        for b in range(len(table.shares)):
            spread[b, columns[b] : columns[b + 1]] = 1.0
        self.spread = backend.asarray(spread)
        if table.fixed_drift is not None and table.fixed_noise is not None:
            deviation = np.sqrt(table.fixed_noise / (d * np.diff(columns)[:, None]))
            self.drift, self.walk = backend.asarray(table.fixed_drift), backend.asarray(deviation.T @ spread)
        self.noisy = bool((self.what["noise"] > 0).any())

    def draw(self, children: Any, step: int, block: int) -> list[Any]:
        """Return normal inputs (R, block, B, d), noise (R, block, B, Y), and what the samples' sources say of them."""
        import numpy as np

        table, backend = self.table, self.backend
        rows = [backend.normal([c[0] for c in children], (block, self.batch, self.d))]
        source = np.zeros((len(children), block, self.batch), dtype=np.int64)
        stage = np.searchsorted(self.firsts, step + np.arange(block), side="right") - 1
        if len(table.head) > 1:
            for r, c in enumerate(children):
                uniform = c[4].random((block, self.batch))
                for k, cumulated in enumerate(np.cumsum(self.what["chances"], axis=1)[stage]):
                    source[r, k] = np.minimum(np.searchsorted(cumulated, uniform[k], side="right"), len(table.head) - 1)
        noise = backend.normal([c[1] for c in children], (block, self.batch, table.Y)) if self.noisy else None
        now = np.broadcast_to(stage[None, :, None], source.shape)
        facts: list[Any] = [np.sqrt(self.what["variances"])[now, source]]
        facts += [fact[source] for fact in (table.means, table.teacher_rows, table.labels)]
        facts.append(self.what["noise"][now, source])
        # Which rows of readouts a source has, output by output.
        readouts = np.eye(table.heads * table.Y).reshape(table.heads, table.Y, -1)[table.head]
        facts += [fact[source] for fact in (readouts, table.masks)]
        rows += [backend.asarray(np.asarray(fact, dtype=float)) for fact in facts]
        rows += [] if noise is None else [noise]
        if table.input_noise:
            rows.append(backend.normal([c[5] for c in children], (block, self.batch, self.d)))
        if table.weight_noise:
            rows.append(backend.normal([c[6] for c in children], (block, table.K, self.d)))
        if self.drifts:
            rows.append(backend.normal([c[7] for c in children], (block, table.M, self.d)))
        if table.kicked:
            rows.append(backend.normal([c[8] for c in children], (block, table.K, self.d)))
        return rows

    def __call__(self, state: tuple[Any, ...], row: tuple[Any, ...], rate: Any) -> tuple[Any, ...]:
        """Take one step: w (R, P, d) in units of sqrt d, a (R, heads Y, K), bias (R, P); rate the schedule's factor."""
        xp, table, d, batch = self.backend.xp, self.table, self.d, self.batch
        w, a, bias = state[:3]
        teachers = state[3] if self.drifts else self.teachers
        x, deviations, means, teacher_rows, labels, noise, head, masks = row[:8]
        more = list(row[8:])
        x = self._inputs(x, deviations, means)
        label = labels + clean_label(table, xp, self._fields(teachers, x), teacher_rows)
        if self.noisy:
            label = label + noise[:, :, None] * more.pop(0)
        if table.input_noise:
            x = x + table.input_noise * more.pop(0)
        K, species = table.K, len(table.species)
        fields = self._fields(w, x) + bias[:, None, :]  # (R, B, P)
        if table.weight_noise:
            shaken = self._fields(more.pop(0), x) * (table.weight_noise / self.d**0.5)
            own = fields[:, :, :K] + shaken
            fields = own if species == 1 else xp.concat([own, fields[:, :, K:]], axis=-1)
        inner = None
        if table.displacement != 0.0 or table.uses > 1:
            inner = xp.matmul(x, xp.matrix_transpose(x)) + (table.bias_rate or 0.0)
        total: Any = 0.0
        for use in range(table.uses):
            readout = xp.matmul(head, a[:, None, ...]) * masks[:, :, None, :]  # (R, B, Y, K)
            g, error, c = self._pull(fields, readout, label, rate, masks)
            each = xp.matmul(xp.matrix_transpose(head), error[..., None])  # (R, B, heads Y, 1)
            change = xp.sum(each * (masks * g)[:, :, None, :], axis=1)
            if table.displacement != 0.0:
                moved = (rate * table.displacement / (batch * d)) * xp.matmul(inner, c)
                c = self._pull(fields - moved, readout, label, rate, masks)[2]
            total = total + c
            a_next = a - (rate * table.readout_rate / (d * batch)) * change
            if use + 1 < table.uses:
                gain = float(table.fixed_gain[0]) + rate * float(table.gain[0])
                fields = fields - (gain / (batch * d)) * xp.matmul(inner, c)
                a = a_next
        a = a_next - (table.readout_decay / d) * a
        steps, shifts = self._moves(xp.matrix_transpose(total), x, K, species, rate)
        turn = None if table.sampled_drift is None else self._turn(w, bias, fields, readout, label, rate)
        w, bias = self._mixed(w, bias, K, species, rate)
        if turn is not None:
            w, bias = w + turn[0], bias + turn[1]
        w, bias = w - steps, bias - (table.bias_rate or 0.0) * shifts
        if table.spherical:
            norm = xp.sqrt(xp.sum(w * w, axis=-1, keepdims=True))[:, :K, :]
            scaled = w[:, :K, :] * (self.radius / norm)
            w = scaled if species == 1 else xp.concat([scaled, w[:, K:, :]], axis=1)
        moved = (teachers + xp.matmul(self.drift, teachers) / d + self.walk * more.pop(0),) if self.drifts else ()
        if table.kicked:
            zeta = more.pop(0) / d
            amounts = [float(table.fixed_kick[p]) + rate * float(table.kick[p]) for p in range(species)]
            w = w + xp.concat([amount * zeta for amount in amounts], axis=1)
        return (w, a, bias, *moved)

    def _inputs(self, x: Any, deviations: Any, means: Any) -> Any:
        xp = self.backend.xp
        if self.scales:
            x = x * xp.matmul(deviations, self.spread)
        return x + xp.matmul(means, self.directions) if self.table.D else x

    def _fields(self, rows: Any, x: Any) -> Any:
        xp = self.backend.xp
        # On an accelerator batched matrix products with a single column take longer than what they are made of.
        if self.batch == 1 and not self.backend.device.startswith("cpu"):
            return xp.sum(rows * x, axis=-1)[:, None, :]
        return xp.matmul(x, xp.matrix_transpose(rows))

    def _pull(self, fields: Any, readout: Any, label: Any, rate: Any, masks: Any) -> tuple[Any, Any, Any]:
        """Return g, slopes of the loss (R, B, Y), and coefficients of -x/sqrt d: (R, B, K), (R, B, P) where written."""
        xp, table = self.backend.xp, self.table
        units = fields[:, :, : table.K]
        g = 0.0 * units if table.slope is not None else table.activation.evaluate(xp, x=units) + 0.0 * units
        output = xp.sum(readout * g[:, :, None, :], axis=-1)
        known = {f"{s}{p}": v[..., o] for s, v in (("f", output), ("y", label)) for o, p in enumerate(self.places)}
        error = xp.stack([loss.evaluate(xp, **known) + 0.0 * output[..., 0] for loss in self.losses], axis=-1)
        if table.coefficients is None:
            if table.episodes is not None:
                return g, error, self._reward(output, label)
            pull = xp.sum(readout * error[..., None], axis=-2)
            if self.feedback is not None:
                pull = masks * self.feedback * error
            return g, error, pull * (self.slope.evaluate(xp, x=units) + 0.0 * units)
        known = self._known(fields, readout, error, output, label, rate)
        parts = [0.0 * units if b is None else 0.0 * units - b.evaluate(xp, **known) for b in table.coefficients]
        return g, error, xp.concat(parts, axis=-1)

    def _known(self, fields: Any, readout: Any, error: Any, output: Any, label: Any, rate: Any) -> dict[str, Any]:
        """Return what a written coefficient may read."""
        xp, table = self.backend.xp, self.table
        known = {"a": readout[:, :, 0, :], "error": error, "f": output, "y": label}
        known["learning_rate"] = table.learning_rate * rate
        for q, name in enumerate(table.species):
            field = fields[:, :, q * table.K : (q + 1) * table.K]
            known[f"lambda_{name}"] = field
            known[f"g_{name}"] = table.activation.evaluate(xp, x=field)
            known[f"dg_{name}"] = self.slope.evaluate(xp, x=field)
        return known

    def _turn(self, w: Any, bias: Any, fields: Any, readout: Any, label: Any, rate: Any) -> tuple[Any, Any]:
        """Return what drifts that depend on the sample add to vectors (R, P, d) and biases (R, P)."""
        xp, table, K = self.backend.xp, self.table, self.table.K
        units = fields[:, :, :K]
        output = xp.sum(readout * (table.activation.evaluate(xp, x=units) + 0.0 * units)[:, :, None, :], axis=-1)
        errors = [loss.evaluate(xp, f=output[..., 0], y=label[..., 0]) for loss in self.losses]
        error = errors[0][..., None] + 0.0 * output
        known = self._known(fields, readout, error, output, label, rate)
        turned_w, turned_b = [], []
        for row in table.sampled_drift or ():
            new_w, new_b = 0.0 * w[:, :K, :], 0.0 * bias[:, :K]
            for q, formula in enumerate(row):
                if formula is None:
                    continue
                factor = xp.mean(formula.evaluate(xp, **known) + 0.0 * units, axis=1) / self.d
                own = slice(q * K, (q + 1) * K)
                new_w, new_b = new_w + factor[..., None] * w[:, own, :], new_b + factor * bias[:, own]
            turned_w.append(new_w)
            turned_b.append(new_b)
        return xp.concat(turned_w, axis=1), xp.concat(turned_b, axis=1)

    def _reward(self, output: Any, label: Any) -> Any:
        """Return minus the decisions of an episode times what they earn, (R, B, 1)."""
        xp, rule = self.backend.xp, self.table.episodes
        assert rule is not None
        right = xp.sum(xp.astype(output * label > 0, output.dtype), axis=1, keepdims=True)
        earned = xp.where(right >= rule.needed, 0.0 * right + rule.reward, 0.0 * right - rule.penalty)
        return -earned * xp.where(output > 0, 1.0 + 0.0 * output, 0.0 * output - 1.0)

    def _moves(self, c: Any, x: Any, K: int, species: int, rate: Any) -> tuple[Any, Any]:
        """Return what the sample takes from vectors (R, P, d) and biases (R, P)."""
        xp, table, scale = self.backend.xp, self.table, 1.0 / (self.d * self.batch)
        plain = self.batch == 1 and not self.backend.device.startswith("cpu")
        step = scale * c * x if plain else scale * xp.matmul(c, x)
        shift = scale * xp.sum(c, axis=-1)
        if table.coefficients is not None:
            return step, shift
        gains = [float(table.fixed_gain[p]) + rate * float(table.gain[p]) for p in range(species)]
        if species == 1:
            return gains[0] * step, gains[0] * shift
        return (
            xp.concat([gain * step for gain in gains], axis=1),
            xp.concat([gain * shift for gain in gains], axis=1),
        )

    def _mixed(self, w: Any, bias: Any, K: int, species: int, rate: Any) -> tuple[Any, Any]:
        """Return the species mixed: ``u_p <- sum_q mix_pq u_q``."""
        xp = self.backend.xp
        base, drift, scheduled = mixing(self.table)
        ws, bs = [], []
        for p in range(species):
            new_w: Any = 0.0
            new_b: Any = 0.0
            for q in range(species):
                if base[p, q] == drift[p, q] == scheduled[p, q] == 0.0:
                    continue
                factor = float(base[p, q]) + float(drift[p, q]) / self.d
                if scheduled[p, q] != 0.0:
                    factor = factor + rate * (float(scheduled[p, q]) / self.d)
                own = slice(q * K, (q + 1) * K)
                new_w, new_b = new_w + factor * w[:, own, :], new_b + factor * bias[:, own]
            ws.append(new_w)
            bs.append(new_b)
        return (ws[0], bs[0]) if species == 1 else (xp.concat(ws, axis=1), xp.concat(bs, axis=1))

    def overlaps(self, w: Any, a: Any, bias: Any, teachers: Any = None) -> Any:
        """Return Gamma^b of the moving vectors with all, (R, B, P, n); of drifting teachers too."""
        xp = self.backend.xp
        every = xp.concat([w, self.teachers if teachers is None else teachers, self.directions], axis=1)
        w = w if teachers is None else xp.concat([w, teachers], axis=1)
        parts = []
        for low, high in zip(self.columns, self.columns[1:], strict=False):
            parts.append(xp.matmul(w[:, :, low:high], xp.matrix_transpose(every[:, :, low:high])))
        return xp.stack(parts, axis=1)
