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

from ...numerics.addresses import addresses, from_addresses_of
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
_as_respond = from_addresses_of(RESPOND)
_FAST = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"nsz", "arcp", "contract", "reassoc"}}


@njit(types.void(MATRIX, VECTOR, VECTOR), **_FAST)
def _add_rows(rows, coefficients, out):  # type: ignore[no-untyped-def]
    """Add ``out += sum_i coefficients[i] rows[i]``; rows hold one block of particles."""
    count = coefficients.size
    for i in range(0, count - 3, 4):
        r0, r1, r2, r3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        c0, c1, c2, c3 = coefficients[i], coefficients[i + 1], coefficients[i + 2], coefficients[i + 3]
        for p in range(BLOCK):
            out[p] += c0 * r0[p] + c1 * r1[p] + c2 * r2[p] + c3 * r3[p]
    for i in range(count // 4 * 4, count):
        row, c = rows[i], coefficients[i]
        for p in range(BLOCK):
            out[p] += c * row[p]


@njit(types.void(MATRIX, VECTOR, VECTOR), **_FAST)
def _add_dots(rows, vector, out):  # type: ignore[no-untyped-def]
    """Add ``out[i] += rows[i] . vector``; rows hold one block of particles."""
    count = out.size
    for i in range(0, count - 3, 4):
        r0, r1, r2, r3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
        for p in range(BLOCK):
            t0 += vector[p] * r0[p]
            t1 += vector[p] * r1[p]
            t2 += vector[p] * r2[p]
            t3 += vector[p] * r3[p]
        out[i] += t0
        out[i + 1] += t1
        out[i + 2] += t2
        out[i + 3] += t3
    for i in range(count // 4 * 4, count):
        row, total = rows[i], 0.0
        for p in range(BLOCK):
            total += vector[p] * row[p]
        out[i] += total


@njit(types.void(MATRIX, types.int64, MATRIX, MATRIX, MATRIX), **_FAST)
def _add_products(z, known, v, square, mixed):  # type: ignore[no-untyped-def]
    """Add the products of one block: ``square[k, l]`` = sum u_k u_l, ``mixed[q, k]`` = sum zeta_q u_k."""
    for k in range(len(v)):
        _add_dots(v, v[k], square[k])
    for q in range(len(mixed)):
        _add_dots(v, z[known + q], mixed[q])


@njit(types.void(CUBE, CUBE, MATRIX, MATRIX, types.uint8[:, ::1], VECTOR, types.int64[::1], RESPOND, CUBE, MATRIX,
                 MATRIX, MATRIX, VECTOR), **_FAST)  # fmt: skip
def _gather(Z, F, weights, labels, masks, a, counts, respond, u, uz, fu, fz, sums):  # type: ignore[no-untyped-def]
    """Fields, gradients and their averages with everything known, in one pass over the particles.

    ``uz[k, i]`` = sum u_k Z_i, ``fu[k, i]`` = sum u_k F_i and ``fz[q, i]`` = sum zeta_q F_i over what is known of Z
    and F; zeta are the rows of Z after the known ones.
    """
    known = weights.shape[1]
    lam = np.zeros((len(weights), BLOCK))
    uz[:] = 0.0
    fu[:] = 0.0
    fz[:] = 0.0
    sums[:] = 0.0
    for block in range(len(Z)):
        z, f, v = Z[block], F[block], u[block]
        lam[:] = 0.0
        for k in range(len(v)):
            _add_rows(z, weights[k], lam[k])
        respond(lam, labels[block], masks[block], a, counts[block], v, sums)
        for k in range(len(v)):
            _add_dots(z, v[k], uz[k])
            _add_dots(f, v[k], fu[k])
        for q in range(len(fz)):
            _add_dots(f, z[known + q], fz[q])


@njit(types.void(CUBE, CUBE, types.int64, MATRIX, MATRIX, CUBE, MATRIX, MATRIX), **_FAST)
def _subtract(Z, F, known, fu, fz, u, square, mixed):  # type: ignore[no-untyped-def]
    """Take the parts along F out of u and zeta, and fill `square` and `mixed` with the products of what is left."""
    square[:] = 0.0
    mixed[:] = 0.0
    for block in range(len(F)):
        z, f, v = Z[block], F[block], u[block]
        for k in range(len(v)):
            _add_rows(f, -fu[k], v[k])
        for q in range(len(fz)):
            _add_rows(f, -fz[q], z[known + q])
        _add_products(z, known, v, square, mixed)


@njit(types.void(CUBE, types.int64, CUBE, MATRIX, MATRIX, MATRIX), **_FAST)
def _combine(Z, known, u, mix, square, mixed):  # type: ignore[no-untyped-def]
    """Replace u by ``mix u``, mix lower triangular, and fill `square` and `mixed` with its products."""
    square[:] = 0.0
    mixed[:] = 0.0
    for block in range(len(u)):
        z, v = Z[block], u[block]
        for k in range(len(mix) - 1, -1, -1):
            v[k] *= mix[k, k]
            _add_rows(v, mix[k, :k], v[k])
        _add_products(z, known, v, square, mixed)


@njit(types.void(CUBE, CUBE, types.int64, types.int64, CUBE, MATRIX, MATRIX), **_FAST)
def _append(Z, F, known, found, u, mix, shift):  # type: ignore[no-untyped-def]
    """Write the new rows ``F_new = mix u`` and turn zeta into ``Z_new = zeta + shift F_new``."""
    for block in range(len(F)):
        z, f = Z[block], F[block, found : found + len(mix)]
        f[:] = 0.0
        for l in range(len(mix)):
            _add_rows(u[block], mix[l], f[l])
        for q in range(len(shift)):
            _add_rows(f, shift[q], z[known + q])


@njit(types.void(MATRIX, VECTOR, MATRIX, MATRIX), cache=True, nogil=True)
def _innovation(gram, floor, root, mix):  # type: ignore[no-untyped-def]
    """Fill L, with L L^T = gram, and the matrix that makes new rows; lost directions are zero."""
    root[:] = 0.0
    mix[:] = 0.0
    for i in range(len(gram)):
        pivot = gram[i, i]
        for l in range(i):
            pivot -= root[i, l] ** 2
        if not pivot > floor[i]:
            continue
        root[i, i] = math.sqrt(pivot)
        mix[i, i] = 1.0
        for l in range(i):
            mix[i] -= root[i, l] * mix[l]
        mix[i] /= root[i, i]
        for l in range(i + 1, len(gram)):
            root[l, i] = gram[l, i] / root[i, i]
            for j in range(i):
                root[l, i] -= root[l, j] * root[i, j] / root[i, i]


@njit(types.void(CUBE, CUBE, MATRIX, types.int64, types.int64, VECTOR, MATRIX, types.uint8[:, ::1], VECTOR,
                 types.int64[::1], types.UniTuple(types.int64, 2), CUBE, MATRIX, MATRIX, VECTOR),
      cache=True, nogil=True)  # fmt: skip
def _reveal(Z, F, weights, found, fresh, given, labels, masks, a, counts, response, u, uz, root, sums):  # type: ignore[no-untyped-def]
    """Evaluate the gradients of one update and write the rows of F and Z that they reveal.

    Fills ``uz`` = <u Z^T> on what was known, `root`, the factor L of the new parts of u, and the averages `sums`. Along
    f_new of its unit a row of zeta is given ``given`` = (coordinates that are not revealed/n)^(1/2), block by block;
    rows behind those of all blocks, for Langevin noise, are given nothing. ``fresh = 0`` reveals nothing. `response` is
    the addresses of `respond`.
    """
    respond = _as_respond(response[0], response[1])
    samples, k, known = counts.sum(), weights.shape[0], weights.shape[1]
    fu, fz = np.empty((k, found)), np.empty((fresh, found))
    square, mixed, mix, shift = np.empty((k, k)), np.empty((fresh, k)), np.empty((k, k)), np.zeros((fresh, k))
    _gather(Z, F, weights, labels, masks, a, counts, respond, u, uz, fu, fz, sums)
    uz /= samples
    sums /= samples
    if fresh == 0:
        return
    before = np.zeros(k)
    for i in range(k):
        for block in range(len(u)):
            _add_dots(u[block, i : i + 1], u[block, i], before[i : i + 1])
    before /= samples
    _subtract(Z, F, known, fu / samples, fz / samples, u, square, mixed)
    square /= samples
    if (np.diag(square) < CLOSE**2 * before).any():
        fu[:] = 0.0
        for block in range(len(F)):
            for i in range(k):
                _add_dots(F[block], u[block, i], fu[i])
        _subtract(Z, F, known, fu / samples, fz[:0], u, square, mixed)
        square /= samples
    new = np.diag(square).copy()
    _innovation(square, np.maximum(LOST**2 * before, SAME * new), root, mix)
    kept = np.diag(root) ** 2
    if ((kept > 0.0) & (kept < ALIKE * new)).any():
        _combine(Z, known, u, mix, square, mixed)
        first = root.copy()
        _innovation(square / samples, np.full(k, 0.5), root, mix)
        root[:] = first @ root
    # zeta loses its part along f_new, which is then given the part that the weights reveal.
    for q in range(fresh):
        for l in range(k):
            for i in range(k):
                shift[q, l] -= mixed[q, i] / samples * mix[l, i]
        if q < k * len(given):
            shift[q, q % k] += given[q // k]
    _append(Z, F, known, found, u, mix, shift)


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
        self.descent, self._respond, self.time = descent, respond, 0  # the function has to outlive its addresses
        self._response = addresses(respond, RESPOND)
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
            self._evaluate(0, np.zeros(0))
        self._require_finite(self.train[0, self.time])

    def _require_finite(self, *arrays: Array | float) -> None:
        if all(np.isfinite(a).all() for a in arrays):
            return
        last = self.time - 1
        while last > 0 and not np.isfinite(self.train[0, last]):
            last -= 1
        raise Diverged(self.time, self.trajectory(last))

    def _evaluate(self, fresh: int, given: Array) -> tuple[Array, Array, Array]:
        """Evaluate the gradients at the current time; return <u Z^T>, L and the readouts' gradient.

        Rows of Z and F are written when `fresh` of them are to be revealed; see `_reveal`.
        """
        descent, t = self.descent, self.time
        k, known = descent.students, self._first + self._fresh * t
        uz, root, sums = np.empty((k, known)), np.empty((k, k)), np.empty(2 + k)
        weights = np.ascontiguousarray(self.weights[t, :, :known] * self._scale[:known])
        masks = self._masks[min(t, descent.steps - 1)]
        _reveal(self._z, self._f, weights, k * t, fresh, given, self._labels, masks, self.readouts[t], self._counts,
                self._response, self._u, uz, root, sums)  # fmt: skip
        self.train[:, t] = sums[:2]
        return uz, root, sums[2:]

    def _step(self) -> None:
        descent, t = self.descent, self.time
        fractions = self._fractions(self._first + self._fresh * t)
        uz, root, pull = self._evaluate(self._fresh, np.sqrt(fractions / descent.sample_ratio))
        batch = descent.batch_fraction
        self.weights[t + 1], self._velocity = advance(
            self.weights[t], self._velocity, self._seen(uz, root, fractions) / (descent.sample_ratio * batch),
            descent.rates[t], descent.ridge, descent.momentum, self._noise(),
        )  # fmt: skip
        self.readouts[t + 1], self._readout_velocity = advance(
            self.readouts[t], self._readout_velocity, pull / batch, descent.readout_rates[t], descent.readout_ridge,
            descent.momentum,
        )  # fmt: skip

    def _seen(self, uz: Array, root: Array, fractions: Array) -> Array:
        """Return h, the coordinates of W^T u on what was known and on the new directions of every block."""
        k, known = uz.shape
        h = np.zeros_like(self._velocity)
        h[:, :known] = self.descent.sample_ratio * uz * self._scale[:known]
        for i, reach in enumerate(np.sqrt(self.descent.variances * fractions * self.descent.sample_ratio)):
            h[:, known + i * k : known + (i + 1) * k] = reach * root
        return h

    def _noise(self) -> Array | float:
        """Return the Langevin noise of an update on all directions: what is new along directions of its own."""
        descent, k = self.descent, self.descent.students
        if descent.temperature == 0:
            return 0.0
        noise, own = np.zeros_like(self._velocity), self._first + self._fresh * self.time + descent.blocks * k
        shares = descent.noise[self.time] * np.sqrt(descent.fractions)
        noise[:, own : own + descent.blocks * k] = np.kron(shares, np.eye(k))
        return noise

    def _fractions(self, known: int) -> Array:
        """Return the parts of the coordinates of each block on which a new gradient has its length.

        W^T f of a unit f has length (alpha)^(1/2), of which <f Z_i> on m known directions has a part by chance: over N
        particles it varies by v/N, and m alpha v/N = m v/d of the square is too much. Leaving m of the d = N/alpha
        coordinates out of the new direction restores the length where v = 1, as for independent particles. Masks make
        it so, being jumps in dimensions of their own; without them Sobol' points have v of 0.01 early on, and nothing
        is left out.
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


def _blocked(rows: np.ndarray, count: int) -> np.ndarray:
    """Return rows (R, N) as blocks of particles (count, R, BLOCK), zeros behind the last particle."""
    out = np.zeros((count, len(rows), BLOCK), dtype=rows.dtype)
    whole = rows.shape[1] // BLOCK
    out[:whole] = rows[:, : whole * BLOCK].reshape(len(rows), whole, BLOCK).transpose(1, 0, 2)
    if whole < count:
        out[whole, :, : rows.shape[1] - whole * BLOCK] = rows[:, whole * BLOCK :]
    return out
