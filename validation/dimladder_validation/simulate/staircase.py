"""Batch SGD of a two-layer network in the mean-field scaling on the hypercube, all replicas at once.

    f(x) = (1/N) sum_j a_j s(w_j . x),   a_j ~ readout_law,   sqrt(d) w_ji ~ weight_law,   x uniform on {-1, 1}^d
    a_j += eta xi_a (mean_b[(y - f) s(w_j . x)] - lambda_a a_j)
    w_j += eta xi_w (a_j mean_b[(y - f) s'(w_j . x) x] - lambda_w w_j)                   time = eta x steps

Fresh samples at every step. The relevant coordinates are the first P; exchangeable inputs allow it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dimladder.errors import SimulationError

from .base import Backend, Closing, Experiment, Sample
from .model_code import derivative
from .one_pass.sgd import recorded_steps

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("dimladder.simulate")

# Numbers of one replica in an array of one pass, on the CPU (what its cache holds) and elsewhere.
PIECE, DEVICE_PIECE = 65_536, 1_000_000
# Test inputs: every point of the cube with fresh irrelevant coordinates, this many in all (at least 8 for each point).
TEST_INPUTS = 4096


@dataclass
class _Networks:
    """Readouts a (R, N), weights w (R, N, d), and the first weights on relevant coordinates, of all replicas."""

    a: Any
    w: Any
    start: Any


class StaircaseExperiment(Experiment):
    """SGD on fresh batches; risk and Fourier coefficients averaged exactly over the relevant coordinates."""

    theory = "staircase"
    size = "d"
    batch_size = 8
    device_batch_size = 32

    def numbers(self, problem: Any, size: int, backend: Backend) -> int:
        from dimladder.problem.boolean import analyse

        width, batch, _ = problem.simulation.at(size)
        piece = min(PIECE if backend.is_numpy else DEVICE_PIECE, batch * max(width, size))
        draws = max(8, TEST_INPUTS // 2 ** len(analyse(problem.target.expression).coordinates))
        # Bits of the batch are bytes, but normal numbers on an accelerator.
        bits = batch * size // (8 if backend.device.startswith("cpu") else 1)
        return 5 * width * size + bits + 6 * piece + draws * (size + 4 * width)

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        """Train ``len(streams)`` networks in `size` dimensions."""
        import numpy as np

        from dimladder.problem import Expression, activation
        from dimladder.problem.boolean import analyse, label, monomials_of

        xp, d = backend.xp, size
        target, monomials = analyse(problem.target.expression), monomials_of(problem)
        relevant = len(target.coordinates)
        if d <= relevant:
            raise SimulationError(
                f"d = {d} leaves no irrelevant coordinate", why=f"the target depends on {relevant}",
                hint=f"simulate at d > {relevant}",
            )  # fmt: skip
        width, batch, eta = problem.simulation.at(d)
        times = np.array(problem.grid.values("time"))
        record, low, high, weight = recorded_steps(times, 1 / eta)
        student, rule = problem.student, problem.algorithm
        act = activation(student.activation)
        slope = derivative(act)
        schedules = [Expression(t, ("t",)) for t in (rule.first_layer_schedule, rule.second_layer_schedule)]

        children = [stream.spawn(4) for stream in streams]
        a = np.stack([student.readouts.sample(c[0], (width,)) for c in children])
        w = np.stack([student.weights.sample(c[1], (width, d)) for c in children]) / np.sqrt(d)
        nets = _Networks(backend.asarray(a), backend.asarray(w), backend.asarray(w[:, :, :relevant]))
        table = backend.asarray(target.values)
        powers = backend.asarray(2.0 ** np.arange(relevant))
        draws = max(8, TEST_INPUTS // len(target.cube))
        rest = backend.asarray(
            np.stack([2.0 * c[3].integers(0, 2, (draws, d - relevant)) - 1.0 for c in children]),
        )
        characters = np.stack([target.character(s) for s in monomials])
        piece = max(1, (PIECE if backend.is_numpy else DEVICE_PIECE) // max(width, d))
        found: list[dict[str, np.ndarray]] = []
        place = 0
        for step in range(int(record[-1]) + 1):
            if step == record[place]:
                found.append(_measure(nets, rest, target.values, target.cube, characters, act, backend))
                place += 1
                if place == len(record):
                    break
            first, second = (eta * float(s.evaluate(np, t=step * eta)) for s in schedules)
            pull_a, pull_w = 0.0 * nets.a, 0.0 * nets.w
            with np.errstate(over="ignore", invalid="ignore"):  # a replica that blows up is reported at the end
                bits = _bits([c[2] for c in children], (batch, d), backend)
                for start in range(0, batch, piece):
                    x = 2.0 * xp.astype(bits[:, start : min(start + piece, batch), :], backend.float) - 1.0
                    rows = xp.sum((1.0 - x[..., :relevant]) / 2.0 * powers, axis=-1)
                    y = xp.take(table, xp.reshape(xp.astype(xp.round(rows), xp.int64), (-1,)))
                    more_a, more_w = _gradients(nets, x, xp.reshape(y, rows.shape), act, slope, xp)
                    pull_a, pull_w = pull_a + more_a, pull_w + more_w
                rate_a, rate_w = second * rule.second_layer_rate, first * rule.first_layer_rate
                nets = _Networks(
                    nets.a + rate_a * (pull_a / batch - rule.second_layer_weight_decay * nets.a),
                    nets.w + rate_w * (pull_w / batch - rule.first_layer_weight_decay * nets.w),
                    nets.start,
                )
        values = {name: np.stack([f[name] for f in found], axis=1) for name in found[0]}
        failed = int(np.sum(~np.isfinite(values["risk"][:, -1])))
        if failed:
            text = "%d of %d replicas at d = %d blew up (learning_rate = %g): their later values are NaN"
            log.warning(text, failed, len(streams), d, eta)
        dims = {"fourier": ("time", "monomial"), "feature_square": ("time", "coordinate")}
        coords = {
            "time": times, "monomial": np.array([label(s) for s in monomials]),
            "coordinate": np.array(target.coordinates),
        }  # fmt: skip
        variables = {}
        for name, array in values.items():
            share = weight.reshape(-1, *[1] * (array.ndim - 2))
            between = array[:, low] + share * (array[:, high] - array[:, low])
            variables[name] = (dims.get(name, ("time",)), between)
        return Sample(coords, variables)

    def closing(self, problem: Any) -> Closing:
        """1/d, 1/N, eta and d eta/b each change the means by a series in themselves: the slowest of them, or faster.

        Faster where a term vanishes: weights on coordinates not yet learned are moved by eta/b alone.
        """
        growth = problem.simulation.growth
        least = min(_closing(growth)) if growth is not None else 0.0
        return Closing(slowest=least, reason="the slowest of d, width, step and noise") if least > 0 else Closing()

    def imposed(self, problem: Any) -> Mapping[str, Mapping[str, float]]:
        return {"feature_square": {"time": 0.0}}

    def open_limit(self, problem: Any) -> str:
        """Say what keeps larger d alone from reaching the limit: a fixed width, step, or noise of the batches."""
        growth = problem.simulation.growth
        if growth is not None and min(_closing(growth)) > 0:
            return ""
        return (
            "larger d alone does not approach the limit: width, step and d x step / batch must vanish with it "
            "(set simulation.growth.reference)"
        )


def _closing(growth: Any) -> tuple[float, float, float, float]:
    """Return the exponents with which 1/d, 1/N, eta and d eta/b fall."""
    return 1.0, growth.width, -growth.learning_rate, growth.batch - growth.learning_rate - 1.0


def _bits(streams: Sequence[np.random.Generator], shape: tuple[int, int], backend: Backend) -> Any:
    """Return fair bits of shape ``(replicas, *shape)``; replica r draws from ``streams[r]`` only."""
    import numpy as np

    if backend.is_torch and not backend.device.startswith("cpu"):
        return backend.normal(streams, shape) > 0
    count, columns = shape
    packed = [np.frombuffer(s.bytes(count * -(-columns // 8)), np.uint8).reshape(count, -1) for s in streams]
    return backend.xp.asarray(np.unpackbits(np.stack(packed), axis=-1)[:, :, :columns])


def _gradients(nets: _Networks, x: Any, y: Any, act: Any, slope: Any, xp: Any) -> tuple[Any, Any]:
    """Return the sums over samples x (R, B, d) of (y - f) s and (y - f) a s' x, shapes (R, N) and (R, N, d)."""
    fields = xp.matmul(x, xp.matrix_transpose(nets.w))
    value = act.evaluate(xp, x=fields) + 0.0 * fields
    error = (y - _output(nets, value, xp))[:, :, None]
    back = slope.evaluate(xp, x=fields) * error
    return xp.sum(value * error, axis=1), nets.a[:, :, None] * xp.matmul(xp.matrix_transpose(back), x)


def _output(nets: _Networks, value: Any, xp: Any) -> Any:
    """Return f (R, B) from the activations (R, B, N) of the neurons."""
    return xp.mean(value * nets.a[:, None, :], axis=-1)


def _measure(
    nets: _Networks,
    rest: Any,
    target: np.ndarray,
    cube: np.ndarray,
    characters: np.ndarray,
    act: Any,
    backend: Backend,
) -> dict[str, np.ndarray]:
    """Return the order parameters of every replica.

    f is averaged over every point of the cube, with the same fresh irrelevant coordinates `rest` (R, draws, d - P) at
    each: Fourier coefficients and risk without a bias.
    """
    import numpy as np

    xp, relevant = backend.xp, cube.shape[1]
    noise = xp.matmul(rest, xp.matrix_transpose(nets.w[:, :, relevant:]))
    signal = xp.matmul(nets.w[:, :, :relevant], xp.matrix_transpose(backend.asarray(cube)))
    outputs = []
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(len(cube)):
            fields = noise + signal[:, None, :, k]
            value = act.evaluate(xp, x=fields) + 0.0 * fields
            outputs.append(backend.to_numpy(_output(nets, value, xp)).astype(float))
        f = np.stack(outputs, axis=1)  # (R, points, draws)
        moved = backend.to_numpy(nets.w[:, :, :relevant] - nets.start).astype(float)
        return {
            "risk": np.mean((target[None, :, None] - f) ** 2, axis=(1, 2)),
            # Replica by replica: the order of the sums must not depend on how many there are.
            "fourier": (f.mean(axis=2)[:, None, :] @ characters.T)[:, 0] / len(cube),
            "feature_square": (moved**2).mean(axis=1),
            "readout_square": (backend.to_numpy(nets.a).astype(float) ** 2).mean(axis=1),
        }


EXPERIMENT = StaircaseExperiment()
