"""One-pass SGD of a two-layer student at finite d, from a `Table`: by the exact Gram chain, or on explicit weights.

    x | c = m_c + sum_b sqrt(s_cb) Pi_b z,   f = sum_k mask_ck a^h(c)_k g(lambda_k),   lambda_k = w_k.x/sqrt d + b_k
    u_p <- sum_q mix_pq u_q - (gain_p/sqrt d) mean_batch[a g'(lambda_w) l'(f, y) x]
    a_k <- a_k - (rate/d) mean_batch[mask g(lambda_k) l'(f, y)] - (decay/d) a_k           time = steps / d

A fresh mini-batch each step. The Gram chain has exactly the law of the weights' overlaps at a cost that does not depend
on d (docs/theory/gram-chain.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..model_code import code_for
from .frames import Frame, explicit, frame_of

if TYPE_CHECKING:
    import numpy as np

    from dimladder.problem.update_table import Table

log = logging.getLogger("dimladder.simulate")


@dataclass(frozen=True)
class Trajectories:
    """The state of every replica at the recorded times, and a stream for what is measured on it.

    Attributes
    ----------
    gram : array (R, time, B, P, n)
        Overlaps of the vectors that move with all: V_p.Pi_b V_q / d. Teachers that drift have rows too, the last ones.
    a, bias : arrays (R, time, heads Y, K), (R, time, P)
    test_streams : sequence of Generator
    """

    gram: np.ndarray
    a: np.ndarray
    bias: np.ndarray
    test_streams: Sequence[np.random.Generator]


def at_finite_d(table: Table) -> Table:
    """Return the table that a finite d runs: momentum of order one has its velocity, which the limit has not."""
    import numpy as np

    if table.beta is None:
        return table
    k, (blocks, n, _) = table.K, table.gram.shape
    gram = np.zeros((blocks, n + k, n + k))
    old = np.r_[0:k, 2 * k : n + k]
    gram[:, old[:, None], old] = table.gram
    return replace(
        table, species=("w", "u"), gram=gram, drift=np.zeros((2, 2)), scheduled_drift=np.zeros((2, 2)),
        gain=np.full(2, table.learning_rate), fixed_gain=np.zeros(2), kick=np.zeros(2), fixed_kick=np.zeros(2),
        bias=np.vstack([table.bias, 0.0 * table.bias]),
    )  # fmt: skip


def mixing(table: Table) -> np.ndarray:
    """Return (3, S, S): what the species become of one another in a step, its 1/d part, and that of the schedule."""
    import numpy as np

    base = np.eye(len(table.species)) if table.beta is None else np.array([[1.0, table.beta], [0.0, table.beta]])
    return np.stack([base, table.drift, table.scheduled_drift])


def recorded_steps(times: np.ndarray, d: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the steps to record, and for each time its two neighbours among them with the weight of the later one.

    A time t lies at step t d, which need not be whole: order parameters are interpolated linearly between the two
    steps around it, an error of order 1/d^2.
    """
    import numpy as np

    exact = np.asarray(times, dtype=float) * d
    nearest = np.round(exact)
    exact = np.where(np.abs(exact - nearest) < 1e-9 * np.maximum(nearest, 1.0), nearest, exact)
    low, high = np.floor(exact).astype(np.int64), np.ceil(exact).astype(np.int64)
    steps = np.unique(np.concatenate([low, high]))
    return steps, np.searchsorted(steps, low), np.searchsorted(steps, high), exact - low


def at_times(values: np.ndarray, low: np.ndarray, high: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Interpolate records (R, steps, ...) to the times of `recorded_steps`."""
    weight = weight.reshape(-1, *[1] * (values.ndim - 2))
    result: np.ndarray = values[:, low] + weight * (values[:, high] - values[:, low])
    return result


def gram_chain(
    table: Table, times: np.ndarray, d: int, streams: Sequence[np.random.Generator], threads: int = 1
) -> Trajectories:
    """Run the exact chain of the overlaps: the law of SGD in d dimensions at a cost independent of d."""
    table = at_finite_d(table)
    start = frame_of(table, d)

    def fresh(children: list[Any]) -> Frame:
        return replace(start, moving=start.moving.copy(), fixed=start.fixed.copy())

    return _replicas(fresh, table, times, d, streams, threads)


def weight_sgd(
    table: Table, times: np.ndarray, d: int, streams: Sequence[np.random.Generator], threads: int = 1
) -> Trajectories:
    """Run SGD on explicit weights, one compiled loop a replica. Draws as `weight_sgd_array`: the same trajectories."""
    table = at_finite_d(table)
    return _replicas(lambda children: explicit(table, d, children[2]), table, times, d, streams, threads)


def children_of(stream: np.random.Generator) -> list[np.random.Generator]:
    """Return the streams of one replica: inputs, label noise, weights at the start, measurements, sources.

    Then those of the noise on inputs, on weights, on teachers, and of the steps themselves.
    """
    return list(stream.spawn(9))


# Numbers that a formula in the time may take in one run: beyond, several steps share the one in their middle.
MOST_NUMBERS = 2**24


def stages(table: Table, d: int, steps: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the first step of every stage and what holds in it: chances, variances, noise and batch.

    A stage lasts as long as nothing changes: where a formula in the time says so, a step.
    """
    import math

    import numpy as np

    switches = [math.ceil(t * d - 1e-9) for t in table.switches]
    firsts = np.array([0, *switches])
    if table.timed:
        stride = 1 + steps * (table.variances.size + 3 * len(table.head)) // MOST_NUMBERS
        firsts = np.unique(np.concatenate([np.arange(0, steps + 1, stride), firsts[firsts <= steps]]))
    # In the middle of their steps, where a sum is the integral to second order.
    ends = np.append(firsts[1:], firsts[-1] + 1)
    times = 0.5 * (firsts + ends) / d if table.timed else (firsts + 1e-9) / d
    what = {name: table.along(name, times) for name in ("chances", "variances", "noise", "batch")}
    return firsts.astype(np.int64), what | {"batch": whole_batches(what["batch"], ends - firsts)}


def whole_batches(batch: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return whole numbers beside the given ones, such that the sum of 1/batch follows that of the given ones."""
    import numpy as np

    low = np.maximum(np.floor(batch + 1e-9), 1.0)
    if (abs(batch - low) < 1e-9).all():
        return low.astype(np.int64)
    out, owed = np.empty(len(batch), dtype=np.int64), 0.0
    for k, (wanted, lower, count) in enumerate(zip(batch, low, steps, strict=True)):
        owed += count / wanted
        # The larger batch where that leaves less owed than the smaller one would overdraw.
        out[k] = lower if abs(owed - count / lower) <= abs(owed - count / (lower + 1.0)) else lower + 1.0
        owed -= count / out[k]
    return out


def kernel_arguments(table: Table, frame: Frame, d: int, steps: int) -> tuple[Any, ...]:
    """Return what `gram_kernel.one_pass_sgd` takes between its state and its records, the threshold left out."""
    import math

    import numpy as np

    code = code_for(table)
    firsts, what = stages(table, d, steps)
    means = table.means @ frame.fixed[table.M :] if table.D else np.zeros((0, frame.fixed.shape[1]))
    # The drift alone: batches of sqrt d samples or more push the noise terms to order d^-1/2.
    least = math.isqrt(d - 1) + 1 if table.regime == "gradient-flow" else 1
    batches = np.maximum(what["batch"], least)
    return (
        firsts, np.sqrt(what["variances"]), np.ascontiguousarray(means), np.cumsum(what["chances"], axis=1),
        table.labels.astype(float), np.ascontiguousarray(table.teacher_rows, dtype=float), what["noise"],
        table.head.astype(np.int64), np.ascontiguousarray(table.masks, dtype=float), mixing(table),
        np.stack([table.fixed_gain, table.gain]), np.stack([table.fixed_kick, table.kick]),
        table.coefficients is not None, table.sampled_drift is not None,
        np.array([table.readout_rate, table.readout_decay, table.bias_rate or 0.0]),
        np.zeros(0) if table.feedback is None else table.feedback.astype(float),
        np.array([table.input_noise, table.weight_noise]), episode_numbers(table), *teachers_motion(table),
        code.model, code.schedule, code.slope, code.push, d, batches, table.uses, table.displacement, table.spherical,
    )  # fmt: skip


def written_rows(table: Table) -> int:
    """Return how many vectors are recorded: those that learn, and teachers that drift."""
    return table.moving + (table.M if table.fixed_drift is not None else 0)


def episode_numbers(table: Table) -> np.ndarray:
    """Return (right decisions needed, reward, penalty), or nothing where SGD has a gradient."""
    import numpy as np

    rule = table.episodes
    return np.array([] if rule is None else [rule.needed, rule.reward, rule.penalty], dtype=float)


def teachers_motion(table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return drift (M, M) and noise (blocks, M) of the teachers, and the means in their directions (C, D)."""
    import numpy as np

    if table.fixed_drift is None or table.fixed_noise is None:
        return np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0))
    means = np.ascontiguousarray(table.means, dtype=float) if table.D else np.zeros((0, 0))
    return np.ascontiguousarray(table.fixed_drift), np.ascontiguousarray(table.fixed_noise), means


def _replicas(
    state: Callable[[list[Any]], Frame],
    table: Table,
    times: Any,
    d: int,
    streams: Sequence[np.random.Generator],
    threads: int,
) -> Trajectories:
    """Run the kernel from the frame that `state` gives for the streams of each replica."""
    import numpy as np

    from .gram_kernel import one_pass_sgd

    record, low, high, weight = recorded_steps(times, d)
    shape = len(streams), len(record)
    gram = np.full((*shape, len(table.shares), written_rows(table), table.n), np.nan)
    a = np.full((*shape, *table.a.shape), np.nan)
    bias = np.full((*shape, table.moving), np.nan)
    children = [children_of(stream) for stream in streams]
    code_for(table)  # compiled before the threads ask for it

    def one(replica: int) -> int:
        inputs, noise, _, _, sources, *others = children[replica]
        frame = state(children[replica])
        status, _ = one_pass_sgd(
            inputs, noise, sources, *others, frame.fixed, frame.moving, frame.columns, frame.ranks, frame.outside,
            table.a.copy(), table.bias.ravel().copy(), *kernel_arguments(table, frame, d, int(record[-1])), 2.0, record,
            gram[replica], a[replica], bias[replica],
        )  # fmt: skip
        return int(status)

    statuses = in_threads(one, len(streams), threads)
    report(table, d, sum(status != 0 for status in statuses), len(streams))
    gram, a, bias = (at_times(values, low, high, weight) for values in (gram, a, bias))
    return Trajectories(gram, a, bias, [c[3] for c in children])


def in_threads(one: Callable[[int], Any], replicas: int, threads: int) -> list[Any]:
    """Return ``[one(0), ..., one(replicas - 1)]``; the compiled kernels release the interpreter's lock."""
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(one, range(replicas)))
    finally:  # an interruption waits for the replicas that are running, not for those that are queued
        pool.shutdown(wait=True, cancel_futures=True)


def report(table: Table, d: int, failed: int, replicas: int) -> None:
    """Log how many replicas blew up."""
    if failed:
        text = "%d of %d replicas at d = %d blew up (learning rate %g): their later overlaps are NaN"
        log.warning(text, failed, replicas, d, table.learning_rate)
