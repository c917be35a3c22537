"""The inner loop of one-pass SGD, on explicit weights or on the exact chain of their overlaps.

The inputs fall into blocks of d_b coordinates. In block b the vectors that move (species by species: w, a velocity, an
average) and those that do not (teachers, then directions of the means) are rows of numbers in units of sqrt d. Let r_b
be the rank of the latter. In an orthonormal frame of the span they are ``fixed`` (F x r_b) and ``moving``
(P x (r_b + P)), along the fixed ones in the first r_b columns and across them in the others:

    Gamma^b = [moving; fixed] [moving; fixed]^T,   fields = rows . x,   x = mean + sqrt(s_cb) z in block b.

Explicit weights are a frame of the whole block, d_b columns: nothing is outside it and nothing is turned. So are blocks
with fewer coordinates than r_b + P. The columns of all blocks lie side by side.

A mini-batch moves row p by sum_b c_pb x_b / d. In the frame this is c x / d, and outside it c Y / d with Y of
independent normals times sqrt(s_cb): a Wishart matrix with d_b - r_b - P degrees of freedom, drawn by Bartlett's
decomposition. The frame is then turned so that the moving rows fill P directions again (LQ). Gamma^b stays positive
semi-definite by construction.

`gram_frame` holds what is done to the rows between two steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dimladder.numerics.jit import njit, types

from .gram_frame import (
    COUNTS,
    CUBE,
    MATRIX,
    RNG,
    TENSOR,
    VECTOR,
    bartlett,
    dot,
    kick_rows,
    largest_cosine,
    mix_species,
    mix_unit,
    move_teachers,
    square_root,
    turn_lower,
    write_overlaps,
)

# model(students, teachers, row, label, g, dg, y) fills g and g' of the students' fields, and the target y, an entry an
# output. schedule(t): the factor of the rates at t = steps / d. slope(f, y, out) fills dl/df, value(f, y) is the loss.
MODEL = types.FunctionType(types.void(*[VECTOR] * 7))
SCHEDULE = types.FunctionType(types.float64(types.float64))
SLOPE = types.FunctionType(types.void(VECTOR, VECTOR, VECTOR))
LOSS = types.FunctionType(types.float64(VECTOR, VECTOR))
# push(fields, a, error, f, y, rate, out): coefficients of -x/sqrt d in one unit's vectors, from its S fields; then how
# they mix, row by row, where drifts depend on the sample.
PUSH = types.FunctionType(
    types.void(VECTOR, types.float64, types.float64, types.float64, types.float64, types.float64, VECTOR)
)
Function = Callable[..., float]
DIVERGED = 1e10
COMPLETED, ESCAPED, BLEW_UP = 0, 1, 2


@njit(types.void(VECTOR, VECTOR, MATRIX, types.int64, MATRIX), cache=True, nogil=True)
def _reward(episode: np.ndarray, decided: np.ndarray, y: np.ndarray, batch: int, c: np.ndarray) -> None:
    """Fill the coefficients of -x/sqrt d: minus every decision, times the reward of all of them."""
    right = 0
    for b in range(batch):
        if decided[b] * y[b, 0] > 0.0:
            right += 1
    earned = episode[1] if right >= episode[0] else -episode[2]
    for b in range(batch):
        c[0, b] = -earned if decided[b] > 0.0 else earned


@njit(
    types.UniTuple(types.int64, 2)(
        RNG, RNG, RNG, RNG, RNG, RNG, RNG, MATRIX, MATRIX, COUNTS, COUNTS, COUNTS, MATRIX, VECTOR,  # streams and state
        COUNTS, CUBE, MATRIX, MATRIX, MATRIX, MATRIX, MATRIX, COUNTS, MATRIX,  # sources
        CUBE, MATRIX, MATRIX, types.boolean, types.boolean,  # moves
        VECTOR, VECTOR, VECTOR, VECTOR, MATRIX, MATRIX, MATRIX,
        MODEL, SCHEDULE, SLOPE, PUSH,
        types.int64, COUNTS, types.int64, types.float64, types.boolean, types.float64, COUNTS,
        TENSOR, CUBE, MATRIX,
    ),
    cache=True,
    nogil=True,
    fastmath={"nsz", "arcp", "contract", "reassoc"},  # sums over d inputs become vector instructions
)  # fmt: skip
def one_pass_sgd(
    rng: np.random.Generator,
    noise_rng: np.random.Generator,
    source_rng: np.random.Generator,
    stir_rng: np.random.Generator,
    blur_rng: np.random.Generator,
    drift_rng: np.random.Generator,
    kick_rng: np.random.Generator,
    fixed: np.ndarray,
    moving: np.ndarray,
    columns: np.ndarray,
    ranks: np.ndarray,
    outside: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray,
    firsts: np.ndarray,
    deviations: np.ndarray,
    means: np.ndarray,
    chances: np.ndarray,
    labels: np.ndarray,
    teacher_rows: np.ndarray,
    noise: np.ndarray,
    head: np.ndarray,
    masks: np.ndarray,
    mixing: np.ndarray,
    gains: np.ndarray,
    kicks: np.ndarray,
    general: bool,
    sampled: bool,
    rates: np.ndarray,
    feedback: np.ndarray,
    noises: np.ndarray,
    episode: np.ndarray,
    drift: np.ndarray,
    drift_noise: np.ndarray,
    mean_rows: np.ndarray,
    model: Function,
    schedule: Function,
    slope_of: Function,
    push_of: Function,
    d: int,
    batches: np.ndarray,
    uses: int,
    displacement: float,
    spherical: bool,
    threshold: float,
    record: np.ndarray,
    out_gram: np.ndarray,
    out_a: np.ndarray,
    out_bias: np.ndarray,
) -> tuple[int, int]:
    """Run one replica; fixed, moving, v and bias are overwritten. Returns (status, step of escape or of the end).

    Parameters
    ----------
    rng, noise_rng, source_rng, stir_rng, blur_rng, drift_rng, kick_rng : Generator
        Inputs, label noise, who emits the next sample; noise of inputs, weights, teachers and of the step itself.
    fixed, moving : arrays (F, N), (P, N)
        The frame, see the module; the teachers are the first of the fixed rows. P = S K.
    columns, ranks, outside : int arrays (blocks + 1,), (blocks,), (blocks,)
        First column of each block, the rank of its fixed rows, and the coordinates outside its frame: -1 for a block
        whose columns are its coordinates.
    v, bias : arrays (heads Y, K), (P,)
    firsts : int array (stages,)
        The first step of each stage.
    deviations, means : arrays (stages, C, blocks), (C, N)
        sqrt(s_cb), and the means in the frame.
    chances : array (stages, C)
        The cumulated probabilities of the sources.
    labels, teacher_rows, noise, head, masks : arrays (C, Y), (C, Y M), (stages, C), (C,), (C, K)
    mixing : array (3, S, S)
        u_p <- sum_q (mixing[0] + (mixing[1] + rate mixing[2])/d)_pq u_q, rate the factor of the schedule.
    gains : array (2, S)
        u_p -= (gains[0] + rate gains[1])_p/sqrt d mean_batch[a g' slope x].
    kicks : array (2, S)
        u_p += (kicks[0] + rate kicks[1])_p zeta/sqrt d.
    general, sampled : bool
        Coefficients from `push_of` instead; whether it gives a mixing of each unit's vectors beside them.
    rates : array (3,)
        Of the readout (times the schedule), its decay, and of the bias relative to the weights.
    feedback : array (K,) or (0,)
        What takes the place of the readouts in the gradient.
    noises : array (2,)
        Standard deviations of the noise on inputs and on weights.
    episode : array (3,) or (0,)
        Right decisions that earn a reward, the reward, the penalty: rewards in the place of a gradient.
    drift, drift_noise, mean_rows : arrays (M, M), (blocks, M), (C, D); or (0, 0)
        Of teachers that move: w*_m += (1/d) sum_n drift_mn w*_n, and noise of that square a unit of time and block; the
        means in their directions, whose frame turns with them.
    model, schedule, slope_of, push_of : compiled functions
    d, uses : int
    batches : int array (stages,)
        Samples a step.
    displacement : float
        The gradient is taken at w - (rate displacement/sqrt d) mean_batch[a g' slope x].
    spherical : bool
        Put every w back to its initial norm after each step.
    threshold : float
        Stop when the largest |cosine| of a w with a teacher reaches it; above 1: never.
    record : int array
        Steps at which Gamma^b, v and biases are written, increasing; rows not reached stay as they are.
    out_gram, out_a, out_bias : arrays (times, blocks, P, P + F), (times, heads Y, K), (times, P)
    """
    p_count, n = moving.shape
    blocks, sources, k_count = ranks.shape[0], labels.shape[0], masks.shape[1]
    outputs, species = labels.shape[1], mixing.shape[1]
    teachers = teacher_rows.shape[1] // outputs
    # Rows of coefficients: one a unit, or one a vector where the species move differently.
    c_count = p_count if general else k_count
    most = np.max(batches)
    x = np.empty((most, n))
    fields = np.empty((most, p_count + teachers))
    shifted = np.empty(k_count)
    one, pushed = np.empty(species), np.empty(species * (1 + species))
    own = np.zeros((k_count if sampled else 0, species, species))
    kicked, kick = np.any(kicks != 0.0), np.empty(species)
    g, dg, radius = np.empty(k_count), np.empty(k_count), np.empty(k_count)
    change_v, active = np.empty_like(v), np.empty((outputs, k_count))
    output, error = np.empty(outputs), np.empty(outputs)
    target, y, source = np.empty(outputs), np.empty((most, outputs)), np.zeros(most, dtype=np.int64)
    c, total_c, trial = np.empty((c_count, most)), np.empty((c_count, most)), np.empty((k_count, most))
    scale, mix = np.empty(species), np.empty((species, species))
    # The batch's own Gram matrix is needed to displace the fields, and is the smaller one for small batches.
    inner_needed = displacement != 0.0 or uses > 1 or noises[1] > 0.0
    room = max(most, c_count) if inner_needed else c_count
    wishart = np.zeros((blocks, room, room))
    inner = np.zeros((most, most))
    gram, root = np.empty((c_count, c_count)), np.empty((c_count, c_count))
    spread, spread_root, normals = np.zeros((most, most)), np.zeros((most, most)), np.empty(most)
    decided = np.empty(most)
    beyond = np.empty((sources, blocks))
    rows = np.zeros((p_count, p_count + room))
    framed = False
    for block in range(blocks):
        framed = framed or outside[block] >= 0
    for i in range(k_count):
        radius[i] = math.sqrt(np.sum(moving[i] * moving[i]))
    step, place, last, stage = 0, 0, record[-1], 0
    while True:
        while place < record.shape[0] and record[place] == step:
            write_overlaps(moving, fixed, columns, place, v, bias, out_gram, out_a, out_bias)
            place += 1
        if threshold <= 1.0 and largest_cosine(moving, fixed, k_count, teachers) >= threshold:
            return ESCAPED, step
        if step >= last:
            return COMPLETED, step
        rate = schedule(step / d)
        while stage + 1 < firsts.shape[0] and step >= firsts[stage + 1]:
            stage += 1
        batch = batches[stage]
        full = inner_needed or batch <= c_count
        order = batch if full else c_count
        change_v[:] = 0.0
        total_c[:] = 0.0
        own[:] = 0.0
        for s in range(sources):
            for block in range(blocks):
                beyond[s, block] = math.sqrt(deviations[stage, s, block] ** 2 + noises[0] ** 2)
        for b in range(batch):
            if sources > 1:
                chance, chosen = source_rng.random(), 0
                while chosen < sources - 1 and chance >= chances[stage, chosen]:
                    chosen += 1
                source[b] = chosen
            for block in range(blocks):
                deviation = deviations[stage, source[b], block]
                inputs = x[b, columns[block] : columns[block + 1]]
                for a in range(inputs.shape[0]):
                    inputs[a] = deviation * rng.standard_normal()
            if means.shape[0] > 0:
                for a in range(n):
                    x[b, a] += means[source[b], a]
            for m in range(teachers):
                fields[b, p_count + m] = dot(fixed[m], x[b])
            if noises[0] > 0.0:
                for a in range(n):
                    x[b, a] += noises[0] * stir_rng.standard_normal()
            for p in range(p_count):
                fields[b, p] = dot(moving[p], x[b]) + bias[p]
        if full:
            for block in range(blocks):
                if outside[block] >= 0:
                    bartlett(rng, batch, outside[block], wishart[block])
        if inner_needed:
            for b in range(batch):
                for other in range(batch):
                    total = 0.0
                    for a in range(n):
                        total += x[b, a] * x[other, a]
                    for block in range(blocks):
                        if outside[block] >= 0:
                            both = beyond[source[b], block] * beyond[source[other], block]
                            for a in range(order):
                                total += both * wishart[block, b, a] * wishart[block, other, a]
                    inner[b, other] = total + rates[2]
        if noises[1] > 0.0:
            # Noise on the weights of a unit has the field tau xi.x/sqrt d: Gaussian, given the inputs of the batch.
            for b in range(batch):
                for other in range(batch):
                    spread[b, other] = (inner[b, other] - rates[2]) * noises[1] ** 2 / d
            square_root(spread[:batch, :batch].copy(), spread_root)
            for i in range(k_count):
                for b in range(batch):
                    normals[b] = blur_rng.standard_normal()
                    for other in range(b + 1):
                        fields[b, i] += spread_root[b, other] * normals[other]
        for use in range(uses):
            for attempt in range(2 if displacement != 0.0 else 1):
                for b in range(batch):
                    s = source[b]
                    for i in range(k_count):
                        shifted[i] = fields[b, i]
                    if attempt == 1:
                        for i in range(k_count):
                            for other in range(batch):
                                shifted[i] -= rate * displacement * trial[i, other] * inner[b, other] / (d * batch)
                    model(
                        shifted, fields[b, p_count : p_count + teachers], teacher_rows[s], labels[s], g, dg, target
                    )  # fmt: skip
                    if use == 0 and attempt == 0:
                        for o in range(outputs):
                            y[b, o] = target[o]
                            if noise[stage, s] > 0.0:
                                y[b, o] += noise[stage, s] * noise_rng.standard_normal()
                    for o in range(outputs):
                        output[o] = 0.0
                        for i in range(k_count):
                            active[o, i] = masks[s, i] * v[head[s] * outputs + o, i]
                            output[o] += active[o, i] * g[i]
                    slope_of(output, y[b], error)
                    if attempt == 0:
                        for o in range(outputs):
                            for i in range(k_count):
                                change_v[head[s] * outputs + o, i] += masks[s, i] * g[i] * error[o]
                    for i in range(k_count):
                        if general:
                            for q in range(species):
                                one[q] = fields[b, q * k_count + i]
                            push_of(one, active[0, i], error[0], output[0], y[b, 0], rate, pushed)
                            for q in range(species):
                                c[q * k_count + i, b] = pushed[q]
                            if sampled:
                                for p in range(species):
                                    for q in range(species):
                                        own[i, p, q] += pushed[species + p * species + q] / (d * batch)
                        else:
                            c[i, b] = 0.0
                            for o in range(outputs):
                                pull = masks[s, i] * feedback[i] if feedback.shape[0] > 0 else active[o, i]
                                c[i, b] += pull * dg[i] * error[o]
                    decided[b] = output[0]
                if episode.shape[0] > 0:
                    _reward(episode, decided, y, batch, c)
                if attempt == 0 and displacement != 0.0:
                    for i in range(k_count):
                        for b in range(batch):
                            trial[i, b] = c[i, b]
            for r in range(c_count):
                for b in range(batch):
                    total_c[r, b] += c[r, b]
            if use + 1 < uses:
                step_size = (gains[0, 0] + rate * gains[1, 0]) / (d * batch)
                for b in range(batch):
                    for i in range(k_count):
                        for other in range(batch):
                            fields[b, i] -= step_size * c[i, other] * inner[b, other]
                for h in range(v.shape[0]):
                    for i in range(k_count):
                        v[h, i] -= rate * rates[0] / (d * batch) * change_v[h, i]
                        change_v[h, i] = 0.0
        still = True
        for p in range(species):
            scale[p] = -1.0 / (d * batch) if general else -(gains[0, p] + rate * gains[1, p]) / (d * batch)
            for q in range(species):
                mix[p, q] = mixing[0, p, q] + (mixing[1, p, q] + rate * mixing[2, p, q]) / d
                still = still and mix[p, q] == (1.0 if p == q else 0.0)
        if sampled:
            for i in range(k_count):
                own[i] += mix
                mix_unit(moving, bias, own[i], k_count, i)
        elif not still:
            mix_species(moving, bias, mix, k_count)
        for p in range(p_count):
            row = p if general else p % k_count
            factor = scale[p // k_count]
            if factor == 0.0:
                continue
            for b in range(batch):
                amount = factor * total_c[row, b]
                bias[p] += rates[2] * amount
                for a in range(n):
                    moving[p, a] += amount * x[b, a]
        for block in range(blocks):
            if outside[block] < 0:
                continue
            first = columns[block] + ranks[block]
            if full:
                for row in range(c_count):
                    for a in range(batch):
                        total = 0.0
                        for b in range(a, batch):
                            total += total_c[row, b] * beyond[source[b], block] * wishart[block, b, a]
                        for q in range(species):
                            if general:
                                rows[row, p_count + a] = scale[0] * total
                            else:
                                rows[q * k_count + row, p_count + a] = scale[q] * total
            else:
                for i in range(c_count):
                    for j in range(c_count):
                        total = 0.0
                        for b in range(batch):
                            total += total_c[i, b] * total_c[j, b] * beyond[source[b], block] ** 2
                        gram[i, j] = total
                square_root(gram, root)
                bartlett(rng, c_count, outside[block], wishart[block])
                for row in range(c_count):
                    for a in range(c_count):
                        total = 0.0
                        for b in range(a, row + 1):
                            total += root[row, b] * wishart[block, b, a]
                        for q in range(species):
                            if general:
                                rows[row, p_count + a] = scale[0] * total
                            else:
                                rows[q * k_count + row, p_count + a] = scale[q] * total
            for p in range(p_count):
                for a in range(p_count):
                    rows[p, a] = moving[p, first + a]
            turn_lower(rows, p_count, p_count + order)
            for p in range(p_count):
                for a in range(p_count):
                    moving[p, first + a] = rows[p, a]
        if kicked:
            for p in range(species):
                kick[p] = kicks[0, p] + rate * kicks[1, p]
            kick_rows(kick_rng, d, kick, moving, columns, ranks, outside, k_count)
        if spherical or framed or step % 64 == 0:
            for p in range(p_count):
                total = 0.0
                for a in range(n):
                    total += moving[p, a] * moving[p, a]
                if not total < DIVERGED:
                    return BLEW_UP, step
                if spherical and p < k_count:
                    factor = radius[p] / math.sqrt(total)
                    for a in range(n):
                        moving[p, a] *= factor
        if drift.shape[0] > 0:
            move_teachers(drift_rng, d, drift, drift_noise, fixed, moving, columns, outside)
            if mean_rows.shape[0] > 0:
                for s in range(sources):
                    for a in range(n):
                        means[s, a] = 0.0
                        for r in range(mean_rows.shape[1]):
                            means[s, a] += mean_rows[s, r] * fixed[teachers + r, a]
        for h in range(v.shape[0]):
            for i in range(k_count):
                v[h, i] += -rate * rates[0] / (d * batch) * change_v[h, i] - rates[1] / d * v[h, i]
                if not abs(v[h, i]) < DIVERGED:
                    return BLEW_UP, step
        step += 1
