"""Rows of numbers in an orthonormal frame, block by block: what the Gram chain does to them between its steps.

See `gram_kernel` for the frame. Its kernels call these.
"""

from __future__ import annotations

import math

import numpy as np

from dimladder.numerics.jit import njit, types

VECTOR, MATRIX, CUBE, RNG = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1], types.npy_rng
TENSOR, COUNTS = types.float64[:, :, :, ::1], types.int64[::1]


@njit(types.void(MATRIX, types.int64, types.int64), cache=True, nogil=True)
def turn_lower(rows: np.ndarray, k: int, width: int) -> None:
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
def square_root(gram: np.ndarray, root: np.ndarray) -> None:
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
def bartlett(rng: np.random.Generator, rows: int, freedom: int, out: np.ndarray) -> None:
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


@njit(types.float64(VECTOR, VECTOR), cache=True, nogil=True, fastmath={"nsz", "arcp", "contract", "reassoc"})
def dot(u: np.ndarray, v: np.ndarray) -> float:
    total = 0.0
    for a in range(u.shape[0]):
        total += u[a] * v[a]
    return total


@njit(types.float64(MATRIX, MATRIX, types.int64, types.int64), cache=True, nogil=True)
def largest_cosine(moving: np.ndarray, fixed: np.ndarray, units: int, teachers: int) -> float:
    best = 0.0
    for i in range(units):
        norm = 0.0
        for a in range(moving.shape[1]):
            norm += moving[i, a] ** 2
        for m in range(teachers):
            dot, length = 0.0, 0.0
            for a in range(fixed.shape[1]):
                dot += moving[i, a] * fixed[m, a]
                length += fixed[m, a] ** 2
            best = max(best, abs(dot) / math.sqrt(norm * length))
    return best


@njit(
    types.void(MATRIX, MATRIX, COUNTS, types.int64, MATRIX, VECTOR, TENSOR, CUBE, MATRIX),
    cache=True,
    nogil=True,
)
def write_overlaps(
    moving: np.ndarray,
    fixed: np.ndarray,
    columns: np.ndarray,
    place: int,
    a: np.ndarray,
    bias: np.ndarray,
    out_gram: np.ndarray,
    out_a: np.ndarray,
    out_bias: np.ndarray,
) -> None:
    rows = moving.shape[0]
    # Teachers that move are written behind the others.
    teachers = out_gram.shape[2] - rows
    out_bias[place] = bias
    out_a[place] = a
    for block in range(columns.shape[0] - 1):
        low, high = columns[block], columns[block + 1]
        for p in range(rows):
            for q in range(rows):
                out_gram[place, block, p, q] = np.sum(moving[p, low:high] * moving[q, low:high])
            for m in range(fixed.shape[0]):
                out_gram[place, block, p, rows + m] = np.sum(moving[p, low:high] * fixed[m, low:high])
        for m in range(teachers):
            for p in range(rows):
                out_gram[place, block, rows + m, p] = out_gram[place, block, p, rows + m]
            for other in range(fixed.shape[0]):
                out_gram[place, block, rows + m, rows + other] = np.sum(fixed[m, low:high] * fixed[other, low:high])


@njit(types.void(MATRIX, VECTOR, MATRIX, types.int64, types.int64), cache=True, nogil=True)
def mix_unit(moving: np.ndarray, bias: np.ndarray, mix: np.ndarray, units: int, i: int) -> None:
    """Multiply the vectors of one unit, and their biases, by a matrix."""
    species = mix.shape[0]
    old = np.empty(species)
    for a in range(moving.shape[1] + 1):
        for q in range(species):
            old[q] = bias[q * units + i] if a == moving.shape[1] else moving[q * units + i, a]
        for p in range(species):
            total = 0.0
            for q in range(species):
                total += mix[p, q] * old[q]
            if a == moving.shape[1]:
                bias[p * units + i] = total
            else:
                moving[p * units + i, a] = total


@njit(types.void(RNG, types.int64, VECTOR, MATRIX, COUNTS, COUNTS, COUNTS, types.int64), cache=True, nogil=True)
def kick_rows(
    rng: np.random.Generator,
    d: int,
    amount: np.ndarray,
    moving: np.ndarray,
    columns: np.ndarray,
    ranks: np.ndarray,
    outside: np.ndarray,
    units: int,
) -> None:
    """Add noise amount_p zeta/sqrt d to the vectors, one zeta a unit, and turn the frames to hold them again."""
    p_count = moving.shape[0]
    for i in range(units):
        for a in range(moving.shape[1]):
            normal = rng.standard_normal() / d
            for p in range(amount.shape[0]):
                moving[p * units + i, a] += amount[p] * normal
    wishart = np.zeros((units, units))
    for block in range(outside.shape[0]):
        if outside[block] < 0:
            continue
        bartlett(rng, units, outside[block], wishart)
        first, last = columns[block] + ranks[block], columns[block] + ranks[block] + p_count
        rows = np.zeros((p_count, p_count + units))
        rows[:, :p_count] = moving[:, first:last]
        for p in range(p_count):
            for a in range(units):
                rows[p, p_count + a] = amount[p // units] / d * wishart[p % units, a]
        turn_lower(rows, p_count, p_count + units)
        moving[:, first:last] = rows[:, :p_count]


@njit(
    types.void(MATRIX, VECTOR, MATRIX, types.int64),
    cache=True,
    nogil=True,
)
def mix_species(moving: np.ndarray, bias: np.ndarray, mix: np.ndarray, units: int) -> None:
    """Multiply the species by a matrix: ``u_p <- sum_q mix_pq u_q``, unit by unit, biases with them."""
    species = mix.shape[0]
    if species == 1:
        if mix[0, 0] != 1.0:
            for i in range(units):
                bias[i] *= mix[0, 0]
                for a in range(moving.shape[1]):
                    moving[i, a] *= mix[0, 0]
        return
    for i in range(units):
        mix_unit(moving, bias, mix, units, i)


@njit(types.void(RNG, types.int64, MATRIX, MATRIX, MATRIX, MATRIX, COUNTS, COUNTS), cache=True, nogil=True)
def move_teachers(
    rng: np.random.Generator,
    d: int,
    drift: np.ndarray,
    amount: np.ndarray,
    fixed: np.ndarray,
    moving: np.ndarray,
    columns: np.ndarray,
    outside: np.ndarray,
) -> None:
    """Move the teachers by a linear drift and noise, and turn the frames so that they hold all of them again."""
    count, n = drift.shape[0], fixed.shape[1]
    f_count, p_count = fixed.shape[0], moving.shape[0]
    old = np.empty(count)
    for a in range(n):
        for m in range(count):
            old[m] = fixed[m, a]
        for m in range(count):
            for other in range(count):
                fixed[m, a] += drift[m, other] * old[other] / d
    for m in range(count):
        for block in range(outside.shape[0]):
            low, high = columns[block], columns[block + 1]
            deviation = math.sqrt(amount[block, m] / (d * (high - low + max(outside[block], 0))))
            for a in range(low, high):
                fixed[m, a] += deviation * rng.standard_normal()
    wishart = np.zeros((count, count))
    for block in range(outside.shape[0]):
        low, high = columns[block], columns[block + 1]
        if np.max(amount[block]) == 0.0:
            continue
        room = max(outside[block], 0)
        if room == 0:
            continue
        bartlett(rng, count, room, wishart)
        rows = np.zeros((f_count + p_count, high - low + count))
        rows[:f_count, : high - low] = fixed[:, low:high]
        rows[f_count:, : high - low] = moving[:, low:high]
        for m in range(count):
            for a in range(count):
                rows[m, high - low + a] = math.sqrt(amount[block, m] / (d * (high - low + room))) * wishart[m, a]
        turn_lower(rows, f_count + p_count, high - low + count)
        fixed[:, low:high] = rows[:f_count, : high - low]
        moving[:, low:high] = rows[f_count:, : high - low]
