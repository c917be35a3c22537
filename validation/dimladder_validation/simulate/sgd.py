"""One-pass SGD of a two-layer student at finite d: by the exact Gram chain, or on explicit weights.

    f(x) = sum_k v_k g(lambda_k),  lambda_k = w_k . x / sqrt d,   y = f*(rho) + sigma xi,  rho_m = w*_m . x / sqrt d
    w_k <- w_k - (eta / sqrt d) mean_b[v_k g'(lambda_k) l'(f, y) x] - (decay / d) w_k
    v_k <- v_k - (eta_v / d) mean_b[g(lambda_k) l'(f, y)] - (decay_v / d) v_k          time = steps / d

Gaussian inputs x ~ N(0, I_d), a fresh mini-batch each step. The Gram chain has exactly the law of the weights' overlaps
at a cost that does not depend on d (docs/theory/gram-chain.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any, Literal

from dimladder.errors import SimulationError
from dimladder.problem import Expression

from .base import Backend, Sample
from .rows import Rows
from .two_layer import Link, explicit_weights, frame, model_module, population_means

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("dimladder.simulate")
Loss = Literal["square", "correlation", "logistic"]
LOSSES = ("square", "correlation", "logistic")


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """Student, target, start and algorithm, in the normalisation of the module.

    Attributes
    ----------
    activation : Expression in x
    link : Link
        The noiseless target.
    q, m, t, v : arrays (K, K), (K, M), (M, M), (K,)
        Initial overlaps w.w/d, w.w*/d, the teachers' own, and the readout.
    eta, eta_v, decay, decay_v, noise, displacement : float
        Rates, weight decays, standard deviation of the label noise; the gradient of w is taken at
        w - (displacement / sqrt d) mean_b[v g' l' x].
    schedule : Expression in t, optional
        Factor of both rates.
    batch : int
        Fresh samples a step.
    loss : {"square", "correlation", "logistic"}
    spherical : bool
        Put every student back to its initial norm after each step.
    """

    activation: Expression
    link: Link
    q: np.ndarray
    m: np.ndarray
    t: np.ndarray
    v: np.ndarray
    eta: float
    eta_v: float = 0.0
    noise: float = 0.0
    batch: int = 1
    loss: Loss = "square"
    spherical: bool = False
    decay: float = 0.0
    decay_v: float = 0.0
    displacement: float = 0.0
    schedule: Expression | None = None

    def rates(self) -> tuple[int, int, float, float, float, float, float, float, bool]:
        """Return the scalars in the order of the compiled kernels, from the batch size on."""
        return (
            self.batch, LOSSES.index(self.loss), self.eta, self.eta_v, self.noise,
            self.decay, self.decay_v, self.displacement, self.spherical,
        )  # fmt: skip

    def rate_at(self, t: float) -> float:
        """Return the schedule's factor of the learning rates."""
        import numpy as np

        return 1.0 if self.schedule is None else float(self.schedule.evaluate(np, t=t))


@dataclass(frozen=True)
class Trajectories:
    """Overlaps of every replica: q (R, time, K, K), m (R, time, K, M), v (R, time, K), and a stream for its test."""

    q: np.ndarray
    m: np.ndarray
    v: np.ndarray
    test_streams: Sequence[np.random.Generator]


def check_dimension(dynamics: Dynamics, d: int) -> None:
    """Raise `SimulationError` unless weights with the initial overlaps exist in d dimensions."""
    least = frame(dynamics.q, dynamics.m, dynamics.t).directions
    if d < least:
        raise SimulationError(
            f"d = {d} is too small for these overlaps", why=f"teachers and students span {least} directions",
            hint=f"simulate at d >= {least}",
        )  # fmt: skip


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


def _at_times(values: np.ndarray, low: np.ndarray, high: np.ndarray, weight: np.ndarray) -> np.ndarray:
    weight = weight.reshape(-1, *[1] * (values.ndim - 2))
    result: np.ndarray = values[:, low] + weight * (values[:, high] - values[:, low])
    return result


def gram_chain(
    dynamics: Dynamics, times: np.ndarray, d: int, streams: Sequence[np.random.Generator], threads: int = 1
) -> Trajectories:
    """Run the exact chain of the overlaps: the law of SGD in d dimensions at a cost independent of d."""
    start = frame(dynamics.q, dynamics.m, dynamics.t)
    return _replicas(lambda children: (start.teacher, start.students.copy()), dynamics, times, d, streams, threads)


def weight_sgd(
    dynamics: Dynamics, times: np.ndarray, d: int, streams: Sequence[np.random.Generator], threads: int = 1
) -> Trajectories:
    """Run SGD on explicit weights, one compiled loop a replica. Draws as `weight_sgd_array`: the same trajectories."""
    start = frame(dynamics.q, dynamics.m, dynamics.t)
    return _replicas(lambda children: explicit_weights(start, d, children[2]), dynamics, times, d, streams, threads)


def _replicas(
    state: Callable[[list[Any]], tuple[np.ndarray, np.ndarray]],
    dynamics: Dynamics,
    times: Any,
    d: int,
    streams: Sequence[np.random.Generator],
    threads: int,
) -> Trajectories:
    """Run the kernel from the teachers and students that `state` gives for the streams of each replica."""
    import numpy as np

    from .gram_kernel import one_pass_sgd

    compiled = model_module(dynamics.activation, dynamics.link, dynamics.schedule)
    record, low, high, weight = recorded_steps(times, d)
    replicas, k, count = len(streams), len(dynamics.v), dynamics.m.shape[1]
    q = np.full((replicas, len(record), k, k), np.nan)
    m = np.full((replicas, len(record), k, count), np.nan)
    v = np.full((replicas, len(record), k), np.nan)
    children = [stream.spawn(4) for stream in streams]

    def one(replica: int) -> int:
        inputs, noise = children[replica][:2]
        teacher, w = (np.ascontiguousarray(a) for a in state(children[replica]))
        status, _ = one_pass_sgd(
            inputs, noise, teacher, w, dynamics.v.copy(), compiled.model, compiled.schedule, d, *dynamics.rates(), 2.0,
            record, q[replica], m[replica], v[replica],
        )  # fmt: skip
        return int(status)

    statuses = _in_threads(one, replicas, threads)
    _report(dynamics, d, sum(status != 0 for status in statuses), replicas)
    q, m, v = (_at_times(a, low, high, weight) for a in (q, m, v))
    return Trajectories(q, m, v, [c[3] for c in children])


def _in_threads(one: Callable[[int], Any], replicas: int, threads: int) -> list[Any]:
    """Return ``[one(0), ..., one(replicas - 1)]``; the compiled kernels release the interpreter's lock."""
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(one, range(replicas)))
    finally:  # an interruption waits for the replicas that are running, not for those that are queued
        pool.shutdown(wait=True, cancel_futures=True)


def _report(dynamics: Dynamics, d: int, failed: int, replicas: int) -> None:
    if failed:
        text = "%d of %d replicas at d = %d blew up (eta = %g): their later overlaps are NaN"
        log.warning(text, failed, replicas, d, dynamics.eta)


def weight_sgd_array(
    dynamics: Dynamics,
    times: np.ndarray,
    d: int,
    streams: Sequence[np.random.Generator],
    backend: Backend,
    chunk_numbers: int = 250_000,
) -> Trajectories:
    """Run SGD on explicit weights of all replicas at once, on any array namespace and device.

    Every replica draws about `chunk_numbers` input numbers at a time, however many replicas run together: on an
    accelerator the size of a chunk changes the draws.
    """
    import numpy as np

    xp = backend.xp
    record, low, high, weight = recorded_steps(times, d)
    replicas, k = len(streams), len(dynamics.v)
    children = [stream.spawn(4) for stream in streams]
    start = frame(dynamics.q, dynamics.m, dynamics.t)
    pairs = [explicit_weights(start, d, c[2]) for c in children]
    teacher = backend.asarray(np.stack([p[0] for p in pairs]))
    w = backend.asarray(np.stack([p[1] for p in pairs]))
    v = backend.asarray(np.broadcast_to(dynamics.v, (replicas, k)).copy())
    slope = derivative(dynamics.activation)
    radius = xp.sqrt(xp.sum(w * w, axis=-1, keepdims=True))
    shape = (dynamics.batch, d)
    block = max(1, chunk_numbers // (dynamics.batch * d))
    noisy = dynamics.noise > 0

    def one(state: tuple[Any, ...], row: tuple[Any, ...], rate: Any) -> tuple[Any, ...]:
        w, v = state
        w, v = _array_step(dynamics, backend, w, v, teacher, row[0], row[1] if noisy else None, rate, d, slope)
        if dynamics.spherical:
            w = w * (radius / xp.sqrt(xp.sum(w * w, axis=-1, keepdims=True)))
        return w, v

    chain = Rows(backend, one, (w, v))
    q_out, m_out, v_out = [], [], []
    place = 0
    for step in range(int(record[-1]) + 1):
        if step == record[place]:
            w, v = chain.state
            q_out.append(backend.to_numpy(xp.matmul(w, xp.matrix_transpose(w))))
            m_out.append(backend.to_numpy(xp.matmul(w, xp.matrix_transpose(teacher))))
            v_out.append(backend.to_numpy(v).copy())
            place += 1
            if place == len(record):
                break
        if step % block == 0:
            draws = [backend.normal([c[0] for c in children], (block, *shape))]
            if noisy:
                draws.append(backend.normal([c[1] for c in children], (block, dynamics.batch)))
            chain.load(draws, [dynamics.rate_at(min(step + row, record[-1]) / d) for row in range(block)])
        with np.errstate(over="ignore", invalid="ignore"):  # a replica that blows up is reported at the end
            chain.advance()
    q, m, v_all = (np.stack(a, axis=1).astype(np.float64) for a in (q_out, m_out, v_out))
    _report(dynamics, d, int(np.sum(~np.isfinite(q[:, -1]).all(axis=(1, 2)))), replicas)
    q, m, v_all = (_at_times(a, low, high, weight) for a in (q, m, v_all))
    return Trajectories(q, m, v_all, [c[3] for c in children])


def _array_step(
    dynamics: Dynamics,
    backend: Backend,
    w: Any,
    v: Any,
    teacher: Any,
    x: Any,
    xi: Any,
    rate: Any,
    d: int,
    slope: Expression,
) -> tuple[Any, Any]:
    """One step: w (R, K, d) in units of sqrt d, x (R, B, d), rate the schedule's factor."""
    xp, inputs = backend.xp, backend.xp.matrix_transpose(x)
    # On an accelerator batched matrix products with a single column take longer than what they are made of.
    plain = dynamics.batch == 1 and not backend.device.startswith("cpu")
    if plain:
        fields, teacher_fields = (xp.sum(rows * x, axis=-1, keepdims=True) for rows in (w, teacher))
    else:
        fields, teacher_fields = xp.matmul(w, inputs), xp.matmul(teacher, inputs)  # (R, K, B), (R, M, B)
    teacher_fields = xp.matrix_transpose(teacher_fields)
    label = dynamics.link.evaluate(xp, teacher_fields)
    if xi is not None:
        label = label + dynamics.noise * xi

    def back(fields: Any) -> tuple[Any, Any, Any]:
        g = dynamics.activation.evaluate(xp, x=fields)
        error = loss_slope(dynamics.loss, xp, xp.sum(v[:, :, None] * g, axis=1), label)[:, None, :]
        return g, error, v[:, :, None] * slope.evaluate(xp, x=fields) * error

    g, error, c = back(fields)
    change = xp.sum(g * error, axis=-1)
    if dynamics.displacement != 0.0:
        inner = xp.matmul(x, inputs)
        c = back(fields - (rate * dynamics.displacement / (dynamics.batch * d)) * xp.matmul(c, inner))[2]
    scale = rate / (d * dynamics.batch)
    if plain:
        w = w if dynamics.decay == 0.0 else (1.0 - dynamics.decay / d) * w
        w = w - (dynamics.eta * scale * c) * x
    else:
        w = (1.0 - dynamics.decay / d) * w - (dynamics.eta * scale) * xp.matmul(c, x)
    v = (1.0 - dynamics.decay_v / d) * v - (dynamics.eta_v * scale) * change
    return w, v


def loss_slope(loss: Loss, xp: Any, output: Any, label: Any) -> Any:
    """Return the derivative of the loss in the output: (f-y)^2/2, -y f, or log(1 + exp(-y f))."""
    if loss == "square":
        return output - label
    if loss == "correlation":
        return -label
    # sigmoid(-y f) without overflow
    return -0.5 * label * (1.0 - xp.tanh(0.5 * label * output))


@lru_cache(maxsize=64)
def derivative(activation: Expression) -> Expression:
    """Return the derivative of an activation (almost everywhere) as a formula in ``x``, for any array namespace."""
    import sympy as sp

    from dimladder.problem.expressions import drop_atoms

    x = sp.Symbol("x", real=True)
    slope = drop_atoms(sp.diff(activation.sympy(x=x), x)).subs(sp.E, sp.Float(sp.E, 17))
    step, least, most = (sp.Function(name) for name in ("step", "min", "max"))
    slope = slope.replace(sp.Heaviside, lambda u, *_: step(u))
    # The formula's own functions take two arguments, sympy's any number.
    slope = slope.replace(sp.Min, lambda *u: reduce(least, u)).replace(sp.Max, lambda *u: reduce(most, u))
    text = str(slope) if slope.has(x) else f"0*x + {slope}"
    return Expression(text.replace("Abs(", "abs("), ("x",), activation.hermite)


def sample(dynamics: Dynamics, times: np.ndarray, runs: Trajectories, threads: int = 1) -> Sample:
    """Return the measured variables: ``Q``, ``M``, ``a`` and ``generalization_error`` (without label noise).

    For the logistic loss also its average ``test_loss``, label noise included.
    """
    import numpy as np

    model = model_module(dynamics.activation, dynamics.link, dynamics.schedule).model

    def one(replica: int) -> np.ndarray:
        q, m, v, rng = runs.q[replica], runs.m[replica], runs.v[replica], runs.test_streams[replica]
        return population_means(q, m, dynamics.t, v, model, rng, dynamics.noise, logistic)

    logistic = dynamics.loss == "logistic"
    error, loss = np.stack(_in_threads(one, len(runs.q), threads), axis=1)
    variables = {
        "generalization_error": (("time",), error),
        "Q": (("time", "student", "student"), runs.q),
        "M": (("time", "student", "teacher"), runs.m),
        "a": (("time", "student"), runs.v),
    }
    if logistic:
        variables["test_loss"] = (("time",), loss)
    return Sample({"time": np.asarray(times)}, variables)
