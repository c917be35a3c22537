"""Gradient descent on one drawn data set at finite d: its exact law in n-vectors only, and explicit inputs as a check.

The data matrix X (n x d, independent normals) is met through products X w and X^T u. Both reveal it along few
directions, and what is not revealed stays independent and normal. So no X is drawn: in orthonormal directions
e_1, ..., e_m of the coordinates met so far the chain keeps Z_i = X e_i, weights as rows c = w.e/sqrt d, and an
orthonormal family F of the u met so far. One more vector u, with r = u - F F^T u, f = r/|r|, is answered by

    X^T f = nu e_new + (known),  nu^2 ~ chi^2_{d-m};     X e_new = nu f + (1 - F F^T - f f^T) zeta,  zeta ~ N(0, I_n),

and nothing is left to reveal when m = d. Langevin noise of the weights has normal coordinates on the known directions
and its length on a fresh one, with X e_new = (1 - F F^T) zeta. Cost: O(n (K T)^2), whatever d. Start overlaps are exact
at every d.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dimladder.errors import SimulationError
from dimladder.problem import kind_of
from dimladder.problem.descent import Descent, Formulas, descent_of, formulas_of, outputs_of

from ..base import Backend, Closing, Experiment, Sample
from .array import train_array
from .run import CHUNK_NUMBERS, Run, batches, block_sizes, start_coordinates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

TEST_DRAWS = 2**14
LOST = 1e-11  # a residual below this part of its vector is rounding
FINER = 2  # Runge-Kutta steps of a gradient flow for one substep of the problem


class Slopes:
    """Derivatives of the loss of a sample, almost everywhere, from the formulas of the problem."""

    def __init__(self, formulas: Formulas) -> None:
        self._formulas = formulas
        self._network, self._loss = formulas.activation.derivative("x"), formulas.loss.derivative("f")

    def __call__(self, fields: Array, readout: Array, labels: Array, mask: Array) -> tuple[Array, Array, float, float]:
        """Return u = mask dl/dlam (K, n), sum mask dl/da (K,), and the sums of the loss and of wrong signs."""
        values = np.stack([self._formulas.activation.evaluate(np, x=x) + 0.0 * x for x in fields])
        output = readout @ values
        pull = mask * self._loss(f=output, y=labels)
        u = np.stack([a * self._network(x=x) for a, x in zip(readout, fields, strict=True)]) * pull
        loss = float(np.sum(self._formulas.loss.evaluate(np, f=output, y=labels)))
        return u, values @ pull, loss, float(np.sum(output * labels <= 0))


class Chain:
    """A data set of which only what training asks for is drawn.

    Parameters
    ----------
    descent, formulas
    d : int
    stream : numpy.random.Generator
    queries : int
        Gradients that will be asked for at most.
    """

    def __init__(self, descent: Descent, formulas: Formulas, d: int, stream: np.random.Generator, queries: int) -> None:
        self._stream, self.samples, self._dimension = stream, round(descent.sample_ratio * d), d
        k, n, blocks = descent.students, self.samples, descent.blocks
        self._sizes, self._scale = block_sizes(descent, d), np.sqrt(descent.variances)
        self._teachers, students = start_coordinates(descent)
        self._start = self._known = k + descent.teachers
        most = self._known + k * queries * (1 + (descent.temperature > 0))
        self._z = np.zeros((blocks, most, n))
        self._z[:, : self._known] = stream.standard_normal((blocks, self._known, n))
        self.weights = np.zeros((blocks, k, most))
        self.weights[:, :, : self._known] = students
        self._basis, self._rank = np.empty((min(n, k * queries), n)), 0
        noises = stream.standard_normal((formulas.sources - len(formulas.fields), n))
        fields = np.einsum("j,jmi,jin->mn", self._scale, self._teachers, self._z[:, : self._known])
        self.labels = formulas.labels(fields, noises)

    def fields(self, weights: Array) -> Array:
        """Return X w/sqrt d on all samples, (K, n)."""
        known = self._known
        return sum(s * (w[:, :known] @ z[:known]) for s, w, z in zip(self._scale, weights, self._z, strict=True))

    def gradient(self, u: Array) -> Array:
        """Return the rows of X^T u, shaped as the weights (in units of sqrt d)."""
        k, known, first = len(u), self._known, self._rank
        fresh = self._stream.standard_normal((len(self._z), k, self.samples))
        residual = _without(u, self._basis[:first])
        fresh -= (fresh @ self._basis[:first].T) @ self._basis[:first]
        for i in range(k):
            own = _without(residual[i : i + 1], self._basis[first : self._rank])[0]
            length = np.linalg.norm(own)
            if self._rank == len(self._basis) or not length > LOST * np.linalg.norm(u[i]):
                continue
            f = self._basis[self._rank] = own / length
            self._rank += 1
            new = self._basis[first : self._rank]
            for j, size in enumerate(self._sizes):
                if known + i < size:
                    zeta = fresh[j, i]
                    radius = np.sqrt(self._stream.chisquare(size - known - i))
                    self._z[j, known + i] = radius * f + zeta - (zeta @ new.T) @ new
        self._known += k
        out = np.zeros_like(self.weights)
        out[:, :, : self._known] = self._scale[:, None, None] * (u @ self._z[:, : self._known].transpose(0, 2, 1))
        return out

    def noise(self) -> Array:
        """Return independent standard normals for every coordinate of every unit, shaped as the weights."""
        k, known, basis = self.weights.shape[1], self._known, self._basis[: self._rank]
        out = np.zeros_like(self.weights)
        for j, size in enumerate(self._sizes):
            for i in range(k):
                seen = min(known + i, size)
                out[j, i, :seen] = self._stream.standard_normal(seen)
                if seen < size:
                    out[j, i, seen] = np.sqrt(self._stream.chisquare(size - seen))
                    zeta = self._stream.standard_normal(self.samples)
                    self._z[j, seen] = zeta - (zeta @ basis.T) @ basis
        self._known += k
        return out / np.sqrt(self._dimension)

    def overlaps(self, weights: Array) -> tuple[Array, Array]:
        """Return w.w/d and w.w*/d inside each block."""
        return weights @ weights.transpose(0, 2, 1), weights[:, :, : self._start] @ self._teachers.transpose(0, 2, 1)


def train(data: Chain, descent: Descent, formulas: Formulas, stream: np.random.Generator) -> Run:
    """Run gradient descent update by update."""
    n, batch = data.samples, descent.batch_fraction * data.samples
    slopes, mask, out = Slopes(formulas), batches(descent, n, stream), Run.empty(descent)
    w, a = data.weights, descent.start_readout
    velocity, readout_velocity = np.zeros_like(w), np.zeros_like(a)
    for t in range(descent.steps + 1):
        members = mask(t) if t < descent.steps else np.zeros(n)
        u, pull, loss, wrong = slopes(data.fields(w), a, data.labels, members)
        out.record(t, loss / n, wrong / n, a, data.overlaps(w))
        if t == descent.steps:
            break
        force = data.gradient(u) / batch + descent.ridge * w
        velocity = descent.momentum * velocity - descent.rates[t] * force
        if descent.temperature > 0:
            velocity += descent.noise[t] * data.noise()
        readout_force = pull / batch + descent.readout_ridge * a
        readout_velocity = descent.momentum * readout_velocity - descent.readout_rates[t] * readout_force
        w, a = w + velocity, a + readout_velocity
    return out


def follow(data: Chain, descent: Descent, formulas: Formulas) -> Run:
    """Follow the gradient flow on all samples from update to update, by the classical Runge-Kutta method."""
    n, slopes, out = data.samples, Slopes(formulas), Run.empty(descent)
    everyone = np.ones(n)
    w, a = data.weights, descent.start_readout

    def velocity(w: Array, a: Array, t: int) -> tuple[Array, Array]:
        u, pull, *_ = slopes(data.fields(w), a, data.labels, everyone)
        force, readout_force = data.gradient(u) / n + descent.ridge * w, pull / n + descent.readout_ridge * a
        return -descent.rates[t] * force, -descent.readout_rates[t] * readout_force

    for t in range(descent.steps + 1):
        _, _, loss, wrong = slopes(data.fields(w), a, data.labels, everyone)
        out.record(t, loss / n, wrong / n, a, data.overlaps(w))
        if t == descent.steps:
            break
        first = velocity(w, a, t)
        second = velocity(w + 0.5 * first[0], a + 0.5 * first[1], t)
        third = velocity(w + 0.5 * second[0], a + 0.5 * second[1], t)
        fourth = velocity(w + third[0], a + third[1], t)
        w, a = (
            x + (f1 + 2.0 * f2 + 2.0 * f3 + f4) / 6.0
            for x, f1, f2, f3, f4 in zip((w, a), first, second, third, fourth, strict=True)
        )
    return out


def _without(rows: Array, basis: Array) -> Array:
    """Return rows without their parts along an orthonormal basis, twice: what is left may be tiny."""
    for _ in range(2):
        rows = rows - (rows @ basis.T) @ basis
    return rows


def fresh_errors(descent: Descent, formulas: Formulas, run: Run, stream: np.random.Generator) -> dict[str, Array]:
    """Return errors on fresh data of every time, by the same draws at all of them: unbiased, T + 1 numbers each.

    Fields of fresh inputs are normal with the covariance of the run's own overlaps.
    """
    k, m = descent.students, descent.teachers
    draws = stream.standard_normal((k + m + formulas.sources - len(formulas.fields), TEST_DRAWS))
    target_root = _root(descent.field_gram(descent.target_gram))
    fields, noises = target_root @ draws[:m], draws[m + k :]
    labels = formulas.labels(fields, noises)
    clean = formulas.formula(np, fields, noises)
    rows: dict[str, list[float]] = {"test_loss": []}
    regression = np.linalg.pinv(target_root)
    for gram, overlap, readout in zip(
        descent.field_gram(run.grams), descent.field_gram(run.overlaps), run.readouts, strict=True
    ):
        along = overlap @ regression.T
        students = along @ draws[:m] + _root(gram - along @ along.T) @ draws[m : m + k]
        output = formulas.output(np, students, readout)
        rows["test_loss"].append(float(np.mean(formulas.loss.evaluate(np, f=output, y=labels))))
        if formulas.two_valued:
            rows.setdefault("classification_error", []).append(float(np.mean(output * labels <= 0)))
        if formulas.noiseless and not formulas.two_valued:
            rows.setdefault("generalization_error", []).append(0.5 * float(np.mean((output - clean) ** 2)))
    return {name: np.array(values) for name, values in rows.items()}


def _root(gram: Array) -> Array:
    """Return a root of a positive semi-definite matrix, whatever rounding left below zero."""
    values, vectors = np.linalg.eigh(gram)
    return vectors * np.sqrt(np.maximum(values, 0.0))


class MultiPassExperiment(Experiment):
    """Gradient descent on one data set.

    ``[simulation] method = "chain"`` (the default on NumPy) follows the exact law of what is revealed of the inputs;
    ``"dense"`` (the default on torch, where all replicas take their steps together) draws the inputs.
    """

    theory = "multi-pass"
    size = "d"
    device_batch_size = 256

    def closing(self, problem: Any) -> Closing:
        """Finitely many smooth steps on Gaussian data: every observable has an expansion in 1/d."""
        formula = formulas_of(problem)
        loss = formula.loss
        if not formula.activation.kinks("x") and loss.kinks_are_planes() and not loss.kink_planes():
            return Closing(1.0, reason="finitely many smooth steps on Gaussian data are biased by 1/d")
        return Closing()

    def imposed(self, problem: Any) -> Mapping[str, Mapping[str, float]]:
        """Overlaps start where the problem says; readouts do, and stay there unless they are trained."""
        trained = kind_of(problem.student) == "two-layer" and problem.student.train_readout
        start = {"time": 0.0}
        return {"Q": start, "M": start, "Q_block": start, "M_block": start, "a": start if trained else {}}

    def method(self, problem: Any, backend: Backend) -> str:
        """Return how a problem is simulated on a backend."""
        method: str = problem.simulation.method or ("dense" if backend.is_torch else "chain")
        if method not in ("chain", "dense"):
            raise SimulationError(
                f"unknown method {method!r}", where="simulation.method", hint='use "chain" or "dense"'
            )
        return method

    def numbers(self, problem: Any, size: int, backend: Backend) -> int:
        setting = descent_of(problem)
        samples = round(setting.sample_ratio * size)
        vectors = 6 * setting.students + setting.teachers
        if self.method(problem, backend) == "chain":
            seen = setting.students * (setting.steps + 2)
            return 4 * seen * samples * setting.blocks
        return 2 * samples * size + vectors * (samples + size) + CHUNK_NUMBERS

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        """Train one network a replica, at dimension `size` on round(sample_ratio size) samples.

        The chain runs on the CPU in float64, whatever the backend; on torch the default is explicit inputs.
        """
        method = self.method(problem, backend)
        setting, formula = descent_of(problem), formulas_of(problem)
        kept, times = outputs_of(problem)
        flow = kind_of(problem.algorithm) == "gradient-flow"
        if flow:
            setting, kept = setting.finer(FINER), kept * FINER
        rows: dict[str, list[Array]] = {}

        def chain(stream: np.random.Generator) -> Run:
            data = Chain(setting, formula, size, stream, setting.steps * (4 if flow else 1))
            with np.errstate(over="ignore", invalid="ignore"):
                return follow(data, setting, formula) if flow else train(data, setting, formula, stream)

        dense = train_array(setting, formula, size, streams, backend, flow) if method == "dense" else ()
        for stream, whole in zip(streams, dense or map(chain, streams), strict=True):
            with np.errstate(over="ignore", invalid="ignore"):
                run = whole.at(kept)
                found = {"train_loss": run.train_loss, "Q": run.grams.sum(axis=1), "M": run.overlaps.sum(axis=1)}
                found |= fresh_errors(setting, formula, run, stream)
            if formula.two_valued:
                found["train_classification_error"] = run.train_errors
            if kind_of(problem.student) == "two-layer":
                found["a"] = run.readouts
            if setting.blocks > 1:
                found |= {"Q_block": run.grams, "M_block": run.overlaps}
            for name, values in found.items():
                rows.setdefault(name, []).append(values)
        dims = {
            "Q": ("time", "student", "student"), "M": ("time", "student", "teacher"), "a": ("time", "student"),
            "Q_block": ("time", "block", "student", "student"), "M_block": ("time", "block", "student", "teacher"),
        }  # fmt: skip
        return Sample(
            {"time": times}, {name: (dims.get(name, ("time",)), np.array(values)) for name, values in rows.items()}
        )


EXPERIMENT = MultiPassExperiment()
