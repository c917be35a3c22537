"""The forward march in Gram-Schmidt coordinates: gradient descent on a fixed data set, as d grows.

Weights are rows of coordinates c(t) on directions e_1, e_2, ... with e_i.e_j/d = delta_ij, revealed one after another:
the span of w* and w(0) first, then the new part of each gradient. Training samples are particles that carry
Z_i = e_i.x/sqrt d. With < > the average over particles and F orthonormal for it, one update is

    lam = c Z,   u_k = s dl/dlam_k,   res_k = u_k - sum_j f_j <f_j u_k>,   <res res^T> = L L^T,   f_new = L^-1 res,
    Z_new = zeta - (projection of zeta on F and f_new) + f_new/sqrt alpha,     zeta ~ N(0, 1) fresh,
    h_k = alpha <u_k Z_i> on known directions,  sqrt alpha L_k. on new ones,   c <- (1 - eta ridge) c - eta/(alpha b) h.

Why: W = X/sqrt d has independent entries and is met through W w and W^T u only. Given those, W^T f_new is known on the
revealed directions and has length sqrt n on a fresh one, e_new; hence <f_new Z_new> = 1/sqrt alpha, and Z_new is a
fresh Gaussian otherwise (Bolthausen's conditioning). No response functions, no second derivative, no covariance to
factor: kinks and jumps need no care. Inputs of several variances s_j have a family e^(j) each; f is shared. Langevin
noise of the weights is one more fresh direction a unit, along which Z = zeta without its part on F.

Operations: about 6 N (T K)^2 multiply-adds; memory 16 N T K bytes (one variance).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...numerics.jit import njit, types
from ...numerics.nested import triangular
from ...problem.descent import Descent
from .update import advance

Array = NDArray[np.float64]


BLOCK = 256  # particles treated together: their rows stay in the cache
LOST = 1e-10  # a residual below this part of its vector is rounding: the direction is known
SAME = 1e-13  # units whose new parts differ by less than this part of a square have one direction: rounding of a Gram
ALIKE = 1e-3  # below this part, new directions are orthogonalised among themselves again
CLOSE = 0.5  # a residual below this part of its vector is orthogonalised again: errors would compound from step to step

VECTOR, MATRIX, CUBE = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
# respond(lam, y, mask, a, count, u, sums): u[k] = mask dl/dlam_k for the first `count` particles of a block; adds to
# sums the loss, the number of wrong signs, and mask dl/da_k.
RESPOND = types.FunctionType(types.void(MATRIX, VECTOR, types.uint8[::1], VECTOR, types.int64, MATRIX, VECTOR))
_FAST = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"nsz", "arcp", "contract", "reassoc"}}


@njit(types.void(CUBE, CUBE, types.int64, types.int64, types.int64, MATRIX, MATRIX, types.uint8[:, ::1], VECTOR,
                 types.int64[::1], RESPOND, CUBE, MATRIX, MATRIX, MATRIX, VECTOR), **_FAST)  # fmt: skip
def _gather(Z, F, known, found, fresh, weights, labels, masks, a, counts, respond, u, uz, fu, fz, sums):  # type: ignore[no-untyped-def]
    """Fields, gradients and their averages with everything known, in one pass over the particles.

    ``uz[k, i]`` = sum u_k Z_i over the `known` rows, ``fu[k, i]`` = sum u_k F_i and ``fz[q, i]`` = sum zeta_q F_i over
    the `found` rows of F; zeta are the `fresh` rows of Z after the known ones.
    """
    students = weights.shape[0]
    lam = np.zeros((students, Z.shape[2]))
    uz[:] = 0.0
    fu[:] = 0.0
    fz[:] = 0.0
    sums[:] = 0.0
    for block in range(Z.shape[0]):
        count = counts[block]
        z, f, v = Z[block], F[block], u[block]
        lam[:] = 0.0
        for i in range(known):
            for k in range(students):
                w = weights[k, i]
                for p in range(count):
                    lam[k, p] += w * z[i, p]
        respond(lam, labels[block], masks[block], a, count, v, sums)
        for i in range(known):
            for k in range(students):
                total = 0.0
                for p in range(count):
                    total += v[k, p] * z[i, p]
                uz[k, i] += total
        for i in range(found):
            for k in range(students):
                total = 0.0
                for p in range(count):
                    total += v[k, p] * f[i, p]
                fu[k, i] += total
            for q in range(fresh):
                total = 0.0
                for p in range(count):
                    total += z[known + q, p] * f[i, p]
                fz[q, i] += total


@njit(types.void(CUBE, types.int64, MATRIX, types.int64[::1], CUBE), **_FAST)
def _project(F, found, fu, counts, u):  # type: ignore[no-untyped-def]
    """Fill ``fu[k, i]`` = sum u_k F_i once more."""
    fu[:] = 0.0
    for block in range(F.shape[0]):
        f, v = F[block], u[block]
        for i in range(found):
            for k in range(fu.shape[0]):
                total = 0.0
                for p in range(counts[block]):
                    total += v[k, p] * f[i, p]
                fu[k, i] += total


@njit(types.void(MATRIX, types.int64, types.int64, MATRIX, MATRIX, MATRIX), **_FAST)
def _add_products(z, known, count, v, square, mixed):  # type: ignore[no-untyped-def]
    """Add the products of one block: ``square[k, l]`` = sum u_k u_l (lower half), ``mixed[q, k]`` = sum zeta_q u_k."""
    for k in range(v.shape[0]):
        for l in range(k + 1):
            total = 0.0
            for p in range(count):
                total += v[k, p] * v[l, p]
            square[k, l] += total
        for q in range(mixed.shape[0]):
            total = 0.0
            for p in range(count):
                total += v[k, p] * z[known + q, p]
            mixed[q, k] += total


@njit(types.void(CUBE, CUBE, types.int64, types.int64, MATRIX, MATRIX, types.int64[::1], CUBE, MATRIX, MATRIX), **_FAST)
def _subtract(Z, F, known, found, fu, fz, counts, u, square, mixed):  # type: ignore[no-untyped-def]
    """Take the parts along F out of u and zeta, and fill `square` and `mixed` with their products."""
    students, fresh = fu.shape[0], fz.shape[0]
    square[:] = 0.0
    mixed[:] = 0.0
    for block in range(F.shape[0]):
        count = counts[block]
        z, f, v = Z[block], F[block], u[block]
        for i in range(found):
            for k in range(students):
                w = fu[k, i]
                for p in range(count):
                    v[k, p] -= w * f[i, p]
            for q in range(fresh):
                w = fz[q, i]
                for p in range(count):
                    z[known + q, p] -= w * f[i, p]
        _add_products(z, known, count, v, square, mixed)


@njit(types.void(CUBE, types.int64, types.int64[::1], CUBE, MATRIX, MATRIX, MATRIX), **_FAST)
def _combine(Z, known, counts, u, mix, square, mixed):  # type: ignore[no-untyped-def]
    """Replace u by ``mix u``, and fill `square` and `mixed` with its products."""
    students = mix.shape[0]
    square[:] = 0.0
    mixed[:] = 0.0
    for block in range(u.shape[0]):
        count = counts[block]
        z, v = Z[block], u[block]
        for k in range(students - 1, -1, -1):
            for p in range(count):
                v[k, p] *= mix[k, k]
            for l in range(k):
                for p in range(count):
                    v[k, p] += mix[k, l] * v[l, p]
        _add_products(z, known, count, v, square, mixed)


@njit(types.void(CUBE, CUBE, types.int64, types.int64, types.int64[::1], CUBE, MATRIX, MATRIX), **_FAST)
def _reveal(Z, F, known, found, counts, u, mix, shift):  # type: ignore[no-untyped-def]
    """Write the new rows ``F_new = mix u`` and turn zeta into ``Z_new = zeta + shift F_new``."""
    students = mix.shape[0]
    for block in range(F.shape[0]):
        count = counts[block]
        z, f, v = Z[block], F[block], u[block]
        for l in range(students):
            row = f[found + l]
            row[:] = 0.0
            for k in range(l + 1):
                w = mix[l, k]
                for p in range(count):
                    row[p] += w * v[k, p]
            for q in range(shift.shape[0]):
                w = shift[q, l]
                for p in range(count):
                    z[known + q, p] += w * row[p]


@dataclass(frozen=True)
class Particles:
    """Typical training samples before training starts.

    Attributes
    ----------
    rows : (directions, N) array
        Standard normal coordinates: the start directions of every block, then `fresh_rows` rows of zeta an update.
    labels : (N,) array
    masks : (steps, N) uint8 array
        1 where a sample is in the batch of an update.
    start : int
        Number of start directions.
    """

    rows: Array
    labels: Array
    masks: np.ndarray
    start: int

    def every(self, stride: int) -> Particles:
        """Return the same samples for updates `stride` times as long: fresh numbers of the same times, full batches."""
        steps = len(self.masks)
        fresh = self.rows[self.start :]
        kept = fresh.reshape(steps, -1, fresh.shape[1])[::stride].reshape(-1, fresh.shape[1])
        return Particles(np.concatenate([self.rows[: self.start], kept]), self.labels, self.masks[::stride], self.start)


@dataclass
class Trajectory:
    """Order parameters of one set of particles at t = 0..T.

    Attributes
    ----------
    train_loss, train_errors : (T + 1,) arrays
        Mean loss, and the part of wrong signs, over all training samples.
    readouts : (T + 1, K) array
    overlaps : (T + 1, blocks, K, M) array
        w.w*/d inside each block.
    history : (T + 1, T + 1, blocks, K, K) array, or (T + 1, blocks, K, K)
        w(t).w(s)/d inside each block, or at equal times only.
    """

    train_loss: Array
    train_errors: Array
    readouts: Array
    overlaps: Array
    history: Array

    def grams(self) -> Array:
        """Return w(t).w(t)/d inside each block, shape (T + 1, blocks, K, K)."""
        return self.history if self.history.ndim == 4 else np.einsum("ttjkl->tjkl", self.history)


class Diverged(ArithmeticError):
    """Training left the finite numbers; `time` is the number of updates done, `trajectory` what was reached."""

    def __init__(self, time: int, trajectory: Trajectory) -> None:
        super().__init__(f"not finite after {time} updates")
        self.time, self.trajectory = time, trajectory


def start_rows(descent: Descent) -> tuple[Array, Array]:
    """Return coordinates of w* and of w(0), shapes (M, rows) and (K, rows), on the start directions block by block."""
    m, k = descent.teachers, descent.students
    size = m + k
    teacher, student = np.zeros((m, descent.blocks * size)), np.zeros((k, descent.blocks * size))
    for j in range(descent.blocks):
        cross = descent.start_overlap[j]
        gram = np.block([[descent.target_gram[j], cross.T], [cross, descent.start_gram[j]]])
        root = triangular(gram)
        teacher[:, j * size : (j + 1) * size], student[:, j * size : (j + 1) * size] = root[:m], root[m:]
    return teacher, student


def fresh_rows(descent: Descent) -> int:
    """Return the number of directions that one update reveals: gradients, and Langevin noise, in every block."""
    return descent.blocks * descent.students * (1 + (descent.temperature > 0))


def memory(descent: Descent, samples: int) -> int:
    """Return the bytes that a march holds at once, the nodes it was made from included."""
    k, j = descent.students, descent.blocks
    directions = j * (descent.teachers + k) + fresh_rows(descent) * descent.steps
    return samples * (16 * directions + 8 * k * (descent.steps + 2) + descent.steps)


class March:
    """One march of one set of particles.

    Parameters
    ----------
    descent : Descent
    particles : Particles
    respond : compiled function of type `RESPOND`
    """

    def __init__(self, descent: Descent, particles: Particles, respond: Any) -> None:
        self.descent, self._respond, self.time = descent, respond, 0
        k, j, steps = descent.students, descent.blocks, descent.steps
        samples = len(particles.labels)
        self.samples, count = samples, -(-samples // BLOCK)
        self._counts = np.full(count, BLOCK, dtype=np.int64)
        self._counts[-1] = samples - BLOCK * (count - 1)
        self._z = _blocked(particles.rows, count)
        self._labels = np.ascontiguousarray(_blocked(particles.labels[None], count)[:, 0])
        self._masks = np.ascontiguousarray(_blocked(particles.masks, count).transpose(1, 0, 2))
        self._f = np.zeros((count, k * steps, BLOCK))
        self._u = np.zeros((count, k, BLOCK))
        first = j * (descent.teachers + k)
        self._first = first
        teacher, student = start_rows(descent)
        # Rows of an update: gradients of all units block by block, then noises.
        self._fresh = fresh_rows(descent)
        directions = first + self._fresh * steps
        self._teacher = np.zeros((descent.teachers, directions))
        self._teacher[:, :first] = teacher
        start, update = np.repeat(np.arange(j), descent.teachers + k), np.repeat(np.arange(j), k)
        self._block = np.concatenate([start, np.tile(update, steps * self._fresh // (j * k))])
        self._scale = np.sqrt(descent.variances)[self._block]
        self.weights = np.zeros((steps + 1, k, directions))
        self.weights[0, :, :first] = student
        self._velocity, self._readout_velocity = np.zeros((k, directions)), np.zeros(k)
        self.readouts = np.zeros((steps + 1, k))
        self.readouts[0] = descent.start_readout
        self.train = np.full((2, steps + 1), np.nan)

    def run(self, until: int | None = None, after_step: Callable[[March], None] | None = None) -> None:
        """March to update `until` (the end when None) and evaluate the training loss there.

        Raises
        ------
        Diverged
            When the weights are no longer finite.
        """
        stop = self.descent.steps if until is None else until
        while self.time < stop:
            with np.errstate(over="ignore", invalid="ignore"):
                self._step()
            self.time += 1
            self._require_finite(self.weights[self.time], self.readouts[self.time], self.train[0, self.time - 1])
            if after_step is not None:
                after_step(self)
        with np.errstate(over="ignore", invalid="ignore"):
            self._fields()
        self._require_finite(self.train[0, self.time])

    def _require_finite(self, *arrays: Array | float) -> None:
        if all(np.isfinite(a).all() for a in arrays):
            return
        last = self.time - 1
        while last > 0 and not np.isfinite(self.train[0, last]):
            last -= 1
        raise Diverged(self.time, self.trajectory(last))

    def _fields(self) -> tuple[Array, Array, Array, Array]:
        """Evaluate fields and gradients at the current time; return averages with Z and F, and sums over the batch."""
        descent, t = self.descent, self.time
        k, fresh = descent.students, self._fresh if t < descent.steps else 0
        known, found = self._first + self._fresh * t, k * t
        uz, fu, fz = np.empty((k, known)), np.empty((k, found)), np.empty((fresh, found))
        sums = np.empty(2 + k)
        weights = np.ascontiguousarray((self.weights[t] * self._scale)[:, :known])
        masks = self._masks[min(t, descent.steps - 1)]
        _gather(self._z, self._f, known, found, fresh, weights, self._labels, masks, self.readouts[t], self._counts,
                self._respond, self._u, uz, fu, fz, sums)  # fmt: skip
        self.train[:, t] = sums[:2] / self.samples
        return uz / self.samples, fu, fz, sums[2:] / self.samples

    def _step(self) -> None:
        descent, t = self.descent, self.time
        k, j, alpha = descent.students, descent.blocks, descent.sample_ratio
        fresh, seen = self._fresh, j * k
        known, found = self._first + fresh * t, k * t
        uz, fu, fz, pull = self._fields()
        before = np.einsum("bkp,bkp->k", self._u, self._u)
        square, mixed = np.empty((k, k)), np.empty((fresh, k))
        fu, fz = fu / self.samples, fz / self.samples
        _subtract(self._z, self._f, known, found, fu, fz, self._counts, self._u, square, mixed)
        if (np.diag(square) < CLOSE**2 * before).any():
            _project(self._f, found, fu, self._counts, self._u)
            _subtract(self._z, self._f, known, found, fu / self.samples, np.empty((0, found)), self._counts, self._u,
                      square, mixed)  # fmt: skip
        new = np.diag(square).copy()
        root, mix = _innovation(square / self.samples, np.maximum(LOST**2 * before, SAME * new) / self.samples)
        kept = np.diag(root) > 0
        if (kept & (np.diag(root) ** 2 < ALIKE * new / self.samples)).any():
            _combine(self._z, known, self._counts, self._u, mix, square, mixed)
            again, mix = _innovation(square / self.samples, np.full(k, 0.5))
            root = root @ again
        # zeta loses its part along the new f, which is then given the part that the weights reveal.
        along = mixed / self.samples @ mix.T
        fractions = self._fractions(known)
        shift = -along
        shift[:seen] += np.repeat(np.sqrt(fractions / alpha), k)[:, None] * np.tile(np.eye(k), (j, 1))
        _reveal(self._z, self._f, known, found, self._counts, self._u, mix, shift)
        h = np.zeros_like(self._velocity)
        h[:, :known] = alpha * uz * self._scale[:known]
        reach = np.sqrt(descent.variances * fractions * alpha)
        h[:, known : known + seen] = (reach[:, None, None] * root).transpose(1, 0, 2).reshape(k, seen)
        noise = np.zeros_like(h)
        if fresh > seen:
            shares = descent.noise[t] * np.sqrt(descent.fractions)
            noise[:, known + seen : known + fresh] = np.kron(shares, np.eye(k))
        batch = descent.batch_fraction
        self.weights[t + 1], self._velocity = advance(
            self.weights[t], self._velocity, h / (alpha * batch), descent.rates[t], descent.ridge, descent.momentum,
            noise,
        )  # fmt: skip
        self.readouts[t + 1], self._readout_velocity = advance(
            self.readouts[t], self._readout_velocity, pull / batch, descent.readout_rates[t], descent.readout_ridge,
            descent.momentum,
        )  # fmt: skip

    def _fractions(self, known: int) -> Array:
        """Return the parts of the coordinates of each block that are not revealed yet: all of them as N grows.

        N particles stand for d = N/alpha coordinates. With mini-batches, leaving out the revealed ones takes away most
        of the 1/N bias of committees. That is measured, not derived: a factor 6 to 10 with a tenth of the samples a
        batch, 3 for a linear student that reshuffles each epoch, none for one with fresh batches. Full batches have
        less of it without.
        """
        fractions = self.descent.fractions
        if self.descent.full:
            return fractions
        revealed = known / self.descent.blocks * self.descent.sample_ratio / self.samples
        return np.maximum(0.0, fractions - revealed)

    def trajectory(self, last: int | None = None, *, two_time: bool = False) -> Trajectory:
        """Return the order parameters at updates 0..last (the current one when None)."""
        end = (self.time if last is None else last) + 1
        weights, blocks = self.weights[:end], self.descent.blocks
        part = [np.flatnonzero(self._block == j) for j in range(blocks)]
        overlaps = np.stack([weights[:, :, p] @ self._teacher[:, p].T for p in part], axis=1)
        product = "tki,sli->tskl" if two_time else "tki,tli->tkl"
        history = np.stack(
            [np.einsum(product, weights[:, :, p], weights[:, :, p], optimize=True) for p in part], axis=-3
        )
        return Trajectory(self.train[0, :end], self.train[1, :end], self.readouts[:end], overlaps, history)

    def state(self) -> dict[str, np.ndarray]:
        """Return the arrays from which `restore` goes on, bit for bit."""
        return {
            "time": np.array(self.time), "z": self._z, "f": self._f, "weights": self.weights, "train": self.train,
            "velocity": self._velocity, "readouts": self.readouts, "readout_velocity": self._readout_velocity,
        }  # fmt: skip

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take up a state saved by the same march."""
        self.time = int(state["time"])
        self._z[:], self._f[:], self.weights[:] = state["z"], state["f"], state["weights"]
        self.train[:], self.readouts[:] = state["train"], state["readouts"]
        self._velocity, self._readout_velocity = state["velocity"].copy(), state["readout_velocity"].copy()


def _innovation(gram: Array, floor: Array) -> tuple[Array, Array]:
    """Return L with L L^T = gram (lower half given) and the matrix that makes new rows; lost directions are zero."""
    k = len(gram)
    root, mix = np.zeros((k, k)), np.zeros((k, k))
    for i in range(k):
        pivot = gram[i, i] - root[i, :i] @ root[i, :i]
        if not pivot > floor[i]:
            continue
        root[i, i] = math.sqrt(pivot)
        for l in range(i + 1, k):
            root[l, i] = (gram[l, i] - root[l, :i] @ root[i, :i]) / root[i, i]
        mix[i] = (np.eye(k)[i] - root[i, :i] @ mix[:i]) / root[i, i]
    return root, mix


def _blocked(rows: np.ndarray, count: int) -> np.ndarray:
    """Return rows (R, N) as blocks of particles (count, R, BLOCK), zeros behind the last particle."""
    out = np.zeros((count, len(rows), BLOCK), dtype=rows.dtype)
    whole = rows.shape[1] // BLOCK
    out[:whole] = rows[:, : whole * BLOCK].reshape(len(rows), whole, BLOCK).transpose(1, 0, 2)
    if whole < count:
        out[whole, :, : rows.shape[1] - whole * BLOCK] = rows[:, whole * BLOCK :]
    return out
