"""Gradient descent on drawn inputs of all replicas at once, on any array namespace and device; see `experiment`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dimladder.problem.expressions import drop_atoms

from ..base import Backend
from ..model_code import as_formula, derivative, stable
from ..rows import Rows
from .run import CHUNK_NUMBERS, Run, batches, block_sizes, start_coordinates

if TYPE_CHECKING:
    from dimladder.problem.descent import Descent, Formulas


def train_array(
    descent: Descent, formulas: Formulas, d: int, streams: Sequence[np.random.Generator], backend: Backend,
    flow: bool = False,
) -> list[Run]:  # fmt: skip
    """Train one network a replica on explicit weights, and return what every update left.

    Parameters
    ----------
    descent, formulas : Descent, Formulas
    d : int
    streams : sequence of Generator
        One a replica.
    backend : Backend
    flow : bool
        Take every update as a classical Runge-Kutta step of the gradient flow, not as one of gradient descent.
    """
    xp = backend.xp
    step = _Step(descent, formulas, d, streams, backend, flow)
    weights = step.start(len(streams))
    zeros = [0.0 * w for w in weights]
    chain = Rows(backend, step, (*weights, *zeros, *step.measured(*weights)))
    draws = [stream.spawn(2) for stream in streams]
    masks = [batches(descent, step.samples, own[0]) for own in draws]
    each = step.samples + (weights[0].shape[1] * d if descent.temperature > 0 else 0)
    block = max(1, min(descent.steps, CHUNK_NUMBERS // each))
    found: list[tuple[Any, ...]] = []
    for t in range(descent.steps):
        if t % block == 0:
            times = np.minimum(t + np.arange(block), descent.steps - 1)
            members = np.stack([[mask(int(u)) for u in t + np.arange(block)] for mask in masks])
            rates = np.stack([descent.rates[times], descent.readout_rates[times], descent.noise[times]], axis=1)
            rows = [backend.asarray(members), backend.asarray(np.stack([rates] * len(streams)))]
            if descent.temperature > 0:
                rows.append(backend.normal([own[1] for own in draws], (block, *weights[0].shape[1:])))
            chain.load(rows, [1.0] * block)
        # The state holds what the weights of time t give; a recorded step writes into the same arrays again.
        found.append(tuple(1.0 * v for v in (*chain.state[4:], chain.state[1])))
        with np.errstate(over="ignore", invalid="ignore"):
            chain.advance()
    found.append((*chain.state[4:], chain.state[1]))
    loss, wrong, gram, overlap, readout = (
        backend.to_numpy(xp.stack(values, axis=1)).astype(float) for values in zip(*found, strict=True)
    )
    return [
        Run(loss[r] / step.samples, wrong[r] / step.samples, readout[r], gram[r], overlap[r])
        for r in range(len(streams))
    ]


class _Step:
    """One update of every replica. Arrays: weights (R, K, d), readouts (R, K), inputs (R, n, d), labels (R, n).

    A block's start directions are its first coordinates.
    """

    def __init__(
        self, descent: Descent, formulas: Formulas, d: int, streams: Sequence[np.random.Generator], backend: Backend,
        flow: bool,
    ) -> None:  # fmt: skip
        import sympy as sp

        xp = backend.xp
        self.descent, self.formulas, self.backend, self.flow = descent, formulas, backend, flow
        self.samples = round(descent.sample_ratio * d)
        sizes = block_sizes(descent, d)
        first = np.cumsum(sizes) - sizes
        self._blocks = [slice(int(f), int(f + size)) for f, size in zip(first, sizes, strict=True)]
        teachers, students = start_coordinates(descent)
        columns = np.concatenate([f + np.arange(students.shape[2]) for f in first])
        star, self._weights = np.zeros((descent.teachers, d)), np.zeros((descent.students, d))
        star[:, columns] = np.concatenate(list(teachers), axis=1)
        self._weights[:, columns] = np.concatenate(list(students), axis=1)
        self._star = backend.asarray(star)
        deviations = np.repeat(np.sqrt(descent.variances), sizes)
        self._x = backend.normal(streams, (self.samples, d)) * backend.asarray(deviations)
        fields = backend.to_numpy(xp.matmul(self._x, backend.asarray(star.T.copy()))).astype(float)
        noises = [s.standard_normal((formulas.sources - len(formulas.fields), self.samples)) for s in streams]
        labels = [formulas.labels(z.T, n) for z, n in zip(fields, noises, strict=True)]
        self._y = backend.asarray(np.stack(labels))
        f, y = sp.symbols("f y", real=True)
        value = stable(formulas.loss.sympy(f=f, y=y))
        self._loss = as_formula(value, ("f", "y"))
        self._pull = as_formula(stable(drop_atoms(sp.diff(formulas.loss.sympy(f=f, y=y), f))), ("f", "y"))
        self._slope = derivative(formulas.activation)

    def start(self, replicas: int) -> tuple[Any, Any]:
        """Return weights and readouts at the start."""
        w, a = (np.stack([v] * replicas) for v in (self._weights, self.descent.start_readout))
        return self.backend.asarray(w), self.backend.asarray(a)

    def _forces(self, w: Any, a: Any, members: Any, count: Any) -> tuple[Any, Any]:
        """Return the gradients of the objective, in units of sqrt d, on the samples of a mask (R, n)."""
        xp, descent = self.backend.xp, self.descent
        fields = xp.matmul(self._x, xp.matrix_transpose(w))  # (R, n, K)
        values = self.formulas.activation.evaluate(xp, x=fields) + 0.0 * fields
        pull = self._pull.evaluate(xp, f=xp.sum(values * a[:, None, :], axis=-1), y=self._y) * members
        u = pull[:, :, None] * a[:, None, :] * (self._slope.evaluate(xp, x=fields) + 0.0 * fields)
        force = xp.matmul(xp.matrix_transpose(u), self._x) / count + descent.ridge * w
        return force, xp.sum(values * pull[:, :, None], axis=1) / count + descent.readout_ridge * a

    def measured(self, w: Any, a: Any) -> tuple[Any, Any, Any, Any]:
        """Return the sums of the loss and of wrong signs (R,), w.w/d (R, J, K, K) and w.w*/d (R, J, K, M)."""
        xp = self.backend.xp
        fields = xp.matmul(self._x, xp.matrix_transpose(w))
        values = self.formulas.activation.evaluate(xp, x=fields) + 0.0 * fields
        output = xp.sum(values * a[:, None, :], axis=-1)
        wrong = xp.sum(xp.astype(output * self._y <= 0, self.backend.float), axis=1)
        own = [w[:, :, p] for p in self._blocks]
        gram = xp.stack([xp.matmul(v, xp.matrix_transpose(v)) for v in own], axis=1)
        star = [xp.permute_dims(self._star[:, p], (1, 0)) for p in self._blocks]
        overlap = xp.stack([xp.matmul(v, s) for v, s in zip(own, star, strict=True)], axis=1)
        return xp.sum(self._loss.evaluate(xp, f=output, y=self._y), axis=1), wrong, gram, overlap

    def __call__(self, state: tuple[Any, ...], row: tuple[Any, ...], rate: Any) -> tuple[Any, ...]:
        w, a, velocity, readout_velocity = state[:4]
        members, rates = row[:2]
        descent = self.descent
        eta, eta_a = rates[:, 0][:, None, None], rates[:, 1][:, None]
        if self.flow:
            slopes: list[tuple[Any, Any]] = []
            for part in (0.0, 0.5, 0.5, 1.0):
                at = (w, a) if not slopes else (w + part * slopes[-1][0], a + part * slopes[-1][1])
                force, readout_force = self._forces(*at, 1.0 + 0.0 * members, self.samples)
                slopes.append((-eta * force, -eta_a * readout_force))
            w, a = (
                x + (k[0] + 2.0 * k[1] + 2.0 * k[2] + k[3]) / 6.0
                for x, k in zip((w, a), zip(*slopes, strict=True), strict=True)
            )
            return (w, a, velocity, readout_velocity, *self.measured(w, a))
        force, readout_force = self._forces(w, a, members, descent.batch_fraction * self.samples)
        velocity = descent.momentum * velocity - eta * force
        if descent.temperature > 0:
            velocity = velocity + rates[:, 2][:, None, None] * row[2] / self._x.shape[2] ** 0.5
        readout_velocity = descent.momentum * readout_velocity - eta_a * readout_force
        w, a = w + velocity, a + readout_velocity
        return (w, a, velocity, readout_velocity, *self.measured(w, a))
