"""Compiled one-pass SGD of two-layer networks: the exact Gram chain, and the same dynamics on explicit weights.

One kernel follows one replica from its own generators; the columns of the state say which of the two it is.

Gram chain. Gaussian inputs enter only through their coordinates in the span of teachers and students, which are i.i.d.
normal, and through inner products of what is orthogonal to it. Let r = rank T. In an orthonormal frame of the span,
teacher m is the row m of ``teacher`` (M x r), student i the row i of ``w`` (K x n, n = r + K), along the teachers in
its first r columns and across them in the others:

    T = teacher teacher^T,   M = w[:, :r] teacher^T,   Q = w w^T,   fields = rows . z.

Explicit weights are a frame of the whole space, n = r = d: nothing is outside it and nothing is turned.

A mini-batch moves student i by sum_b c_ib x_b / d (weights in units of sqrt d). In the frame this is c Z / d, and
outside it c Y / d with Y (B x (d - n)) of independent normals: its Gram matrix is a Wishart matrix of
scale c c^T with d - n degrees of freedom, drawn by Bartlett's decomposition. The frame is then turned so that the
students fill K directions again (LQ). C = [[Q, M], [M^T, T]] stays positive semi-definite by construction.

One file, because a cached numba caller does not notice an edited callee elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dimladder.numerics.jit import njit, types

# model(fields, g, dg) fills g and g' of the student fields (the first len(g)) and returns the noiseless target.
MODEL = types.FunctionType(types.float64(types.float64[::1], types.float64[::1], types.float64[::1]))
# schedule(t): the factor of both learning rates at t = steps / d.
SCHEDULE = types.FunctionType(types.float64(types.float64))
VECTOR, MATRIX, CUBE, RNG = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1], types.npy_rng
Model = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
Schedule = Callable[[float], float]
DIVERGED = 1e10
COMPLETED, ESCAPED, BLEW_UP = 0, 1, 2


@njit(types.float64(types.int64, types.float64, types.float64), cache=True, nogil=True)
def _slope(loss: int, output: float, label: float) -> float:
    """Derivative of the loss in the output: square (f-y)^2/2, correlation -y f, logistic log(1 + exp(-y f))."""
    if loss == 0:
        return output - label
    if loss == 1:
        return -label
    margin = label * output
    if margin > 0:
        return -label * math.exp(-margin) / (1.0 + math.exp(-margin))
    return -label / (1.0 + math.exp(margin))


@njit(cache=True, nogil=True)
def _pull(loss: int, label: float, v: np.ndarray, g: np.ndarray, dg: np.ndarray, c: np.ndarray, b: int) -> float:
    """Fill ``c[:, b] = v g' slope``, the pull of sample b on each unit, and return the slope of the loss."""
    output = 0.0
    for i in range(c.shape[0]):
        output += v[i] * g[i]
    slope = _slope(loss, output, label)
    for i in range(c.shape[0]):
        c[i, b] = v[i] * dg[i] * slope
    return slope


@njit(types.void(MATRIX, types.int64, types.int64), cache=True, nogil=True)
def _lower(rows: np.ndarray, k: int, width: int) -> None:
    """Turn ``rows[:k, :width]`` by reflections from the right until it is lower triangular with a diagonal >= 0."""
    for i in range(min(k, width)):
        norm = 0.0
        for j in range(i, width):
            norm += rows[i, j] * rows[i, j]
        norm = math.sqrt(norm)
        if norm == 0.0:
            continue
        # Reflect along u = row + sign * norm * e_i, the sign that avoids cancellation.
        sign = 1.0 if rows[i, i] >= 0.0 else -1.0
        head = rows[i, i] + sign * norm
        scale = 1.0 / (norm * (norm + abs(rows[i, i])))
        for below in range(i + 1, k):
            dot = rows[below, i] * head
            for j in range(i + 1, width):
                dot += rows[below, j] * rows[i, j]
            dot *= scale
            rows[below, i] = -sign * (rows[below, i] - dot * head)
            for j in range(i + 1, width):
                rows[below, j] -= dot * rows[i, j]
        rows[i, i] = norm
        for j in range(i + 1, width):
            rows[i, j] = 0.0


@njit(types.void(MATRIX, MATRIX), cache=True, nogil=True)
def _root(gram: np.ndarray, root: np.ndarray) -> None:
    """Lower-triangular root of a positive semi-definite matrix: a pivot lost to rounding gives a zero column."""
    k = gram.shape[0]
    for j in range(k):
        pivot = gram[j, j]
        for m in range(j):
            pivot -= root[j, m] * root[j, m]
        zero = pivot <= 1e-14 * gram[j, j]
        for i in range(k):
            if i < j or zero:
                root[i, j] = 0.0
                continue
            entry = gram[i, j]
            for m in range(j):
                entry -= root[i, m] * root[j, m]
            root[i, j] = entry / math.sqrt(pivot)


@njit(types.void(RNG, types.int64, types.int64, MATRIX), cache=True, nogil=True)
def _bartlett(rng: np.random.Generator, rows: int, freedom: int, out: np.ndarray) -> None:
    """Root of a standard Wishart matrix: ``out out^T`` has the law of ``Y Y^T``, Y of shape (rows, freedom) normal.

    Lower trapezoidal, with min(rows, freedom) columns that can be non-zero; freedom < rows is allowed.
    """
    for i in range(rows):
        for j in range(rows):
            if j >= freedom or j > i:
                out[i, j] = 0.0
            elif i == j:
                out[i, j] = math.sqrt(rng.chisquare(float(freedom - j)))
            else:
                out[i, j] = rng.standard_normal()


@njit(types.float64(MATRIX, MATRIX), cache=True, nogil=True)
def _largest_cosine(w: np.ndarray, teacher: np.ndarray) -> float:
    best = 0.0
    for i in range(w.shape[0]):
        norm = 0.0
        for a in range(w.shape[1]):
            norm += w[i, a] ** 2
        for m in range(teacher.shape[0]):
            dot, length = 0.0, 0.0
            for a in range(teacher.shape[1]):
                dot += w[i, a] * teacher[m, a]
                length += teacher[m, a] ** 2
            best = max(best, abs(dot) / math.sqrt(norm * length))
    return best


@njit(
    types.UniTuple(types.int64, 2)(
        RNG, RNG, MATRIX, MATRIX, VECTOR, MODEL, SCHEDULE, types.int64, types.int64, types.int64,
        types.float64, types.float64, types.float64, types.float64, types.float64, types.float64,
        types.boolean, types.float64, types.int64[::1], CUBE, CUBE, MATRIX,
    ),
    cache=True,
    nogil=True,
    fastmath={"nsz", "arcp", "contract", "reassoc"},  # sums over d inputs become vector instructions
)  # fmt: skip
def one_pass_sgd(
    rng: np.random.Generator,
    noise_rng: np.random.Generator,
    teacher: np.ndarray,
    w: np.ndarray,
    v: np.ndarray,
    model: Model,
    schedule: Schedule,
    d: int,
    batch: int,
    loss: int,
    eta: float,
    eta_v: float,
    noise: float,
    decay: float,
    decay_v: float,
    displacement: float,
    spherical: bool,
    threshold: float,
    record: np.ndarray,
    out_q: np.ndarray,
    out_m: np.ndarray,
    out_v: np.ndarray,
) -> tuple[int, int]:
    """Run one replica; w and v are overwritten. Returns (status, step of escape or of the end).

    Parameters
    ----------
    rng, noise_rng : Generator
        Inputs, label noise.
    teacher, w, v : arrays (M, r), (K, r + K), (K,)
        The frame, see the module, or explicit weights (M, d), (K, d) in units of sqrt d; v is the readout.
    d, batch : int
        Input dimension (at least r + K, or exactly the columns of explicit weights), fresh samples a step.
    eta, eta_v, noise, decay, decay_v, displacement : float
        w += -(eta / sqrt d) mean_b[v g'(lambda) loss' x] - (decay / d) w;  v += -(eta_v / d) mean_b[g loss'] -
        (decay_v / d) v; the gradient of w is taken at w - (displacement / sqrt d) mean_b[v g' loss' x].
    spherical : bool
        Put every student back to its initial norm after each step.
    threshold : float
        Stop when the largest |cosine| of a student with a teacher reaches it; above 1: never.
    record : int array
        Steps at which Q, M and v are written, increasing; rows not reached stay as they are.
    """
    k_count, n = w.shape
    m_count, rank = teacher.shape
    explicit = n == rank
    free = d - n
    x = np.empty((batch, n))
    fields = np.empty((batch, k_count + m_count))
    shifted = np.empty(k_count + m_count)
    g, dg, change_v, radius = np.empty(k_count), np.empty(k_count), np.empty(k_count), np.empty(k_count)
    labels = np.empty(batch)
    c, push = np.empty((k_count, batch)), np.empty((k_count, batch))
    # The batch's own Gram matrix is needed to displace the fields, and is the smaller one for small batches.
    full = not explicit and (displacement != 0.0 or batch <= k_count)
    order = 0 if explicit else (batch if full else k_count)
    wishart = np.zeros((order, order))
    gram, root = np.empty((k_count, k_count)), np.empty((k_count, k_count))
    rows = np.zeros((k_count, k_count + order))
    for i in range(k_count):
        radius[i] = math.sqrt(np.sum(w[i] * w[i]))
    step, place, last = 0, 0, record[-1]
    while True:
        while place < record.shape[0] and record[place] == step:
            for i in range(k_count):
                out_v[place, i] = v[i]
                for j in range(k_count):
                    out_q[place, i, j] = np.sum(w[i] * w[j])
                for m in range(m_count):
                    out_m[place, i, m] = np.sum(w[i, :rank] * teacher[m])
            place += 1
        if threshold <= 1.0 and _largest_cosine(w, teacher) >= threshold:
            return ESCAPED, step
        if step >= last:
            return COMPLETED, step
        rate = schedule(step / d)
        for i in range(k_count):
            change_v[i] = 0.0
        for b in range(batch):
            for a in range(n):
                x[b, a] = rng.standard_normal()
            for i in range(k_count):
                total = 0.0
                for a in range(n):
                    total += w[i, a] * x[b, a]
                fields[b, i] = total
            for m in range(m_count):
                total = 0.0
                for a in range(rank):
                    total += teacher[m, a] * x[b, a]
                fields[b, k_count + m] = total
            labels[b] = model(fields[b], g, dg)
            if noise > 0.0:
                labels[b] += noise * noise_rng.standard_normal()
            slope = _pull(loss, labels[b], v, g, dg, c, b)
            for i in range(k_count):
                change_v[i] += g[i] * slope
        if full:
            _bartlett(rng, batch, free, wishart)
        if displacement != 0.0:
            for i in range(k_count):
                for b in range(batch):
                    push[i, b] = -rate * displacement * c[i, b] / batch
            for b in range(batch):
                for i in range(k_count + m_count):
                    shifted[i] = fields[b, i]
                for other in range(batch):
                    inner = 0.0
                    for a in range(n):
                        inner += x[b, a] * x[other, a]
                    for a in range(order):
                        inner += wishart[b, a] * wishart[other, a]
                    for i in range(k_count):
                        shifted[i] += push[i, other] * inner / d
                model(shifted, g, dg)
                _pull(loss, labels[b], v, g, dg, c, b)
        scale = -rate * eta / (d * batch)
        shrink = 1.0 - decay / d
        for i in range(k_count):
            if decay != 0.0:
                for a in range(n):
                    w[i, a] *= shrink
            for b in range(batch):
                amount = scale * c[i, b]
                for a in range(n):
                    w[i, a] += amount * x[b, a]
        if not explicit:
            if full:
                for i in range(k_count):
                    for a in range(batch):
                        total = 0.0
                        for b in range(a, batch):
                            total += c[i, b] * wishart[b, a]
                        rows[i, k_count + a] = scale * total
            else:
                for i in range(k_count):
                    for j in range(k_count):
                        total = 0.0
                        for b in range(batch):
                            total += c[i, b] * c[j, b]
                        gram[i, j] = total
                _root(gram, root)
                _bartlett(rng, k_count, free, wishart)
                for i in range(k_count):
                    for a in range(k_count):
                        total = 0.0
                        for b in range(a, i + 1):
                            total += root[i, b] * wishart[b, a]
                        rows[i, k_count + a] = scale * total
            for i in range(k_count):
                for a in range(k_count):
                    rows[i, a] = w[i, rank + a]
            _lower(rows, k_count, k_count + order)
            for i in range(k_count):
                for a in range(k_count):
                    w[i, rank + a] = rows[i, a]
        for i in range(k_count):
            if spherical or not explicit or step % 64 == 0:
                total = 0.0
                for a in range(n):
                    total += w[i, a] * w[i, a]
                if not total < DIVERGED:
                    return BLEW_UP, step
                if spherical:
                    factor = radius[i] / math.sqrt(total)
                    for a in range(n):
                        w[i, a] *= factor
            v[i] += -rate * eta_v / (d * batch) * change_v[i] - decay_v / d * v[i]
            if not abs(v[i]) < DIVERGED:
                return BLEW_UP, step
        step += 1


@njit(
    types.UniTuple(types.float64, 2)(MATRIX, VECTOR, MATRIX, MATRIX, VECTOR, MODEL, types.boolean),
    cache=True,
    nogil=True,
)
def population_means(
    points: np.ndarray,
    noise: np.ndarray,
    teacher: np.ndarray,
    w: np.ndarray,
    v: np.ndarray,
    model: Model,
    logistic: bool,
) -> tuple[float, float]:
    """Mean of (target - output)^2 / 2, and of the logistic loss of labels with `noise` where asked for (otherwise 0).

    Over normal points (N, r + K or more columns) in the frame of a state.
    """
    (k_count, n), (m_count, rank) = w.shape, teacher.shape
    fields = np.empty(k_count + m_count)
    g, dg = np.empty(k_count), np.empty(k_count)
    squares, losses = 0.0, 0.0
    for p in range(points.shape[0]):
        for i in range(k_count):
            total = 0.0
            for a in range(n):
                total += w[i, a] * points[p, a]
            fields[i] = total
        for m in range(m_count):
            total = 0.0
            for a in range(rank):
                total += teacher[m, a] * points[p, a]
            fields[k_count + m] = total
        target = model(fields, g, dg)
        output = 0.0
        for i in range(k_count):
            output += v[i] * g[i]
        squares += (target - output) ** 2
        if logistic:
            margin = (target + noise[p]) * output
            losses += math.log1p(math.exp(-abs(margin))) + max(-margin, 0.0)
    return 0.5 * squares / points.shape[0], losses / points.shape[0]
