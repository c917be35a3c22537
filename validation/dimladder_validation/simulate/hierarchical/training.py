"""Networks as trained in practice on hierarchical targets: layer-wise and joint back-propagation, and shallow
baselines.

Rules and numbers follow the experiments of Dandi, Pesce, Zdeborova, Krzakala, arXiv:2502.13961, in two versions that
differ: `PAPER` (appendix F.4) and `REPOSITORY` (the authors' code). ReLU networks with fixed biases; gradients of
half the mean squared error. Overlaps are streamed; no iterate is stored. The networks of all replicas take their steps
together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..base import Backend, ridge_fit
from ..rows import Rows
from .replicas import Realizations
from .target import Realization

# Numbers that a replica's mini-batches draw ahead.
CHUNK_NUMBERS = 100_000


@dataclass(frozen=True)
class Recipe:
    """One set of published hyper-parameters.

    Attributes
    ----------
    first_rate, second_rate, joint_rate : float
        Prefactors of the steps of layer 1, of layer 2, and of all layers when trained jointly.
    two_layer_rate : float
        Prefactor of the two-layer network's step.
    second_width : int
        p2.
    width_exponent : float
        p1 = n_max^width_exponent.
    two_layer_divisor : int
        Width of the two-layer network: p1 over this.
    fraction : float
        Mini-batch over n.
    stretch : bool
        Whether the step numbers are divided by `fraction`.
    first_ridge, second_ridge, two_layer_decay : float
        Weight decay of the layers, and of the two-layer network.
    joint_decay : tuple of three floats
        Weight decay of the three layers when trained jointly.
    readout_ridge : float
        lambda of the last ridge regression, penalty lambda n.
    initial : float
        eps_init, the scale of W2, w3 and b2.
    """

    first_rate: float = 1.0
    second_rate: float = 4.0
    joint_rate: float = 0.15
    two_layer_rate: float = 1.0
    second_width: int = 100
    width_exponent: float = 0.9
    two_layer_divisor: int = 15
    fraction: float = 0.7
    stretch: bool = True
    first_ridge: float = 0.0
    second_ridge: float = 0.0
    joint_decay: tuple[float, float, float] = (0.0, 0.01, 0.0)
    two_layer_decay: float = 0.01
    readout_ridge: float = 1.0
    initial: float = 0.2

    def steps(self, d: int) -> tuple[int, int]:
        """Return T1 = 15 log d and T2 = 5 d^1.5, in mini-batch steps."""
        first, second = int(15 * math.log(d)), int(5 * d**1.5)
        return (int(first / self.fraction), int(second / self.fraction)) if self.stretch else (first, second)


PAPER = Recipe(first_rate=1.0, second_rate=2.0, joint_rate=0.2, second_width=600, two_layer_divisor=25, stretch=False)
REPOSITORY = Recipe()


@dataclass
class Record:
    """What training leaves: errors and the overlaps on the way, the replica axis first.

    Attributes
    ----------
    test_error : (R,) array
        E[(f* - f)^2] on the test inputs, label noise not included.
    steps : list of int
        Gradient steps at which overlaps and losses were taken.
    weight_overlap, feature_overlap : (R, records, branches) arrays
        M_W and M_h of every branch.
    train_loss, test_loss : (R, records) arrays
        Mean squared errors. What a network does not have is None.
    """

    test_error: np.ndarray
    steps: list[int] = field(default_factory=list)
    weight_overlap: np.ndarray | None = None
    feature_overlap: np.ndarray | None = None
    train_loss: np.ndarray | None = None
    test_loss: np.ndarray | None = None


@dataclass
class Data:
    """Training samples (R, n, d) of every replica and fresh test inputs with noiseless labels."""

    x: Any
    y: Any
    x_test: Any
    f_test: Any

    @classmethod
    def draw(cls, truths: Realizations, n: int, streams: Sequence[np.random.Generator], test: int = 1000) -> Data:
        """Draw n training samples and `test` test inputs."""
        x = truths.inputs(n, streams)
        y = truths.labels(x, streams)
        x_test = truths.inputs(test, streams)
        return cls(x, y, x_test, truths(x_test))


def relu(xp: Any, v: Any) -> Any:
    """Return max(v, 0)."""
    return xp.where(v > 0, v, 0.0 * v)


class ThreeLayer:
    """ReLU networks with fixed biases, one a replica: f(x) = w3 . relu(W2 relu(W1 x + b1) + b2).

    Shapes: W1 (R, p1, d), W2 (R, p2, p1), w3 (R, p2, 1), inputs (R, n, d), outputs (R, n).
    """

    def __init__(
        self, d: int, p1: int, p2: int, scale: float, streams: Sequence[np.random.Generator], backend: Backend
    ) -> None:
        self.backend, self.xp = backend, backend.xp

        def normal(shape: tuple[int, ...], size: float) -> Any:
            return backend.normal(streams, shape) * size

        def uniform(count: int, size: float) -> Any:
            return backend.asarray(np.stack([size * s.uniform(-1, 1, (1, count)) for s in streams]))

        self.w1 = normal((p1, d), 1 / math.sqrt(d))
        self.w2 = normal((p2, p1), scale / math.sqrt(p1))
        self.w3 = normal((p2, 1), scale / math.sqrt(p2))
        self.b1, self.b2 = uniform(p1, 1.0), uniform(p2, scale)
        self.p1, self.p2 = p1, p2

    @property
    def weights(self) -> tuple[Any, Any, Any]:
        """W1, W2, w3."""
        return self.w1, self.w2, self.w3

    @weights.setter
    def weights(self, values: Sequence[Any]) -> None:
        self.w1, self.w2, self.w3 = values

    def first(self, x: Any) -> Any:
        """Return the pre-activations of layer 1."""
        return self.xp.matmul(x, self.xp.matrix_transpose(self.w1)) + self.b1

    def second(self, x: Any) -> Any:
        """Return the pre-activations of layer 2."""
        return self.xp.matmul(relu(self.xp, self.first(x)), self.xp.matrix_transpose(self.w2)) + self.b2

    def features(self, x: Any) -> Any:
        """Return the activations of layer 2."""
        return relu(self.xp, self.second(x))

    def __call__(self, x: Any) -> Any:
        return self.xp.matmul(self.features(x), self.w3)[..., 0]

    def gradients(self, x: Any, y: Any, which: Sequence[int] = (1, 2, 3)) -> dict[int, Any]:
        """Return the summed gradients of (1/2) sum (f - y)^2 in the layers asked for."""
        xp = self.xp
        h1 = self.first(x)
        a1 = relu(xp, h1)
        h2 = xp.matmul(a1, xp.matrix_transpose(self.w2)) + self.b2
        a2 = relu(xp, h2)
        error = xp.matmul(a2, self.w3) - y[..., None]
        out: dict[int, Any] = {}
        if 3 in which:
            out[3] = xp.matmul(xp.matrix_transpose(a2), error)
        one = 0.0 * h2 + 1.0
        delta2 = error * xp.matrix_transpose(self.w3) * xp.where(h2 > 0, one, 0.0 * h2)
        if 2 in which:
            out[2] = xp.matmul(xp.matrix_transpose(delta2), a1)
        if 1 in which:
            delta1 = xp.matmul(delta2, self.w2)
            delta1 = xp.where(h1 > 0, delta1, 0.0 * delta1)
            out[1] = xp.matmul(xp.matrix_transpose(delta1), x)
        return out


class _Run:
    """Replicas in training: their random streams, what they were told, and what is recorded on the way."""

    def __init__(
        self, truths: Realizations, n: int, streams: Sequence[np.random.Generator], fraction: float, records: int
    ) -> None:
        children = [stream.spawn(4) for stream in streams]
        # Data, networks, mini-batches, probes: what one draws does not depend on how often another does.
        self.streams = [[c[k] for c in children] for k in range(4)]
        self.truths, self.n, self.records, self.backend = truths, n, records, truths.backend
        self.batch = max(1, int(fraction * n))
        self.steps: list[int] = []
        self._taken: list[tuple[Any, ...]] = []
        self.fresh()

    def fresh(self) -> None:
        """Draw a new data set."""
        self.data = Data.draw(self.truths, self.n, self.streams[0])

    def descend(
        self, state: tuple[Any, ...], step: Callable[[tuple[Any, ...], Any, Any], tuple[Any, ...]], total: int,
        note: Callable[[tuple[Any, ...], int], None] | None = None,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Take `total` steps ``state <- step(state, x, y)``, each on a mini-batch of its own.

        ``note(state, t)`` is called before steps that are spread evenly in log t.
        """
        xp, backend = self.backend.xp, self.backend
        replicas, d = self.truths.replicas, self.truths.d
        every, labels = xp.reshape(self.data.x, (-1, d)), xp.reshape(self.data.y, (-1,))

        def on_batch(state: tuple[Any, ...], row: tuple[Any, ...], rate: Any) -> tuple[Any, ...]:
            chosen = xp.reshape(row[0], (-1,))
            x = xp.reshape(xp.take(every, chosen, axis=0), (replicas, self.batch, d))
            return step(state, x, xp.reshape(xp.take(labels, chosen, axis=0), (replicas, self.batch)))

        chain = Rows(backend, on_batch, state)
        block = max(1, min(total, CHUNK_NUMBERS // self.n))
        marks = {0, *(int(v) for v in np.geomspace(1, max(total - 1, 1), max(self.records - 1, 1)))}
        for t in range(total):
            if note is not None and t in (marks if self.records > 1 else {0}):
                note(chain.state, t)
            if t % block == 0:
                chain.load([minibatches(self.streams[2], self.n, self.batch, block, backend)], [1.0] * block)
            chain.advance()
        return chain.state

    def note(self, net: ThreeLayer, step: int) -> None:
        """Take overlaps and losses."""
        xp, data = self.backend.xp, self.data
        self.steps.append(step)
        self._taken.append((
            self.truths.weight_overlap(net.w1), self.truths.feature_overlap(net.second, self.streams[3], 1000),
            xp.mean((net(data.x) - data.y) ** 2, axis=-1), xp.mean((net(data.x_test) - data.f_test) ** 2, axis=-1),
        ))  # fmt: skip

    def record(self, outputs: Any) -> Record:
        """Return what was recorded, and the error of the final outputs on the test inputs."""
        xp = self.backend.xp
        error = xp.mean((outputs - self.data.f_test) ** 2, axis=-1)
        taken = [_host(xp.stack(values, axis=1), self.backend) for values in zip(*self._taken, strict=True)]
        return Record(_host(error, self.backend), self.steps, *taken)


def minibatches(streams: Sequence[np.random.Generator], n: int, batch: int, block: int, backend: Backend) -> Any:
    """Return `block` mini-batches of every replica, drawn without replacement: (R, block, batch) rows of (R n, d)."""
    xp = backend.xp
    if backend.is_torch and not backend.device.startswith("cpu"):
        # Sorting normal numbers shuffles on the device.
        order = xp.argsort(backend.normal(streams, (block, n)), axis=-1)[:, :, :batch]
        return order + xp.reshape(backend.indices(n * np.arange(len(streams))), (-1, 1, 1))
    chosen = [[s.permutation(n)[:batch] + r * n for _ in range(block)] for r, s in enumerate(streams)]
    return backend.indices(np.array(chosen))


def _host(values: Any, backend: Backend) -> np.ndarray:
    return backend.to_numpy(values).astype(float)


def first_width(recipe: Recipe, largest: int) -> int:
    """Return p1 = int(n_max^{1 - delta})."""
    return int(largest**recipe.width_exponent)


def train_layerwise(
    truths: Realizations,
    n: int,
    recipe: Recipe,
    streams: Sequence[np.random.Generator],
    *,
    largest: int | None = None,
    steps: tuple[int, int] | None = None,
    reinitialize: bool = False,
    fresh: bool = False,
    records: int = 10,
) -> Record:
    """Train layer 1, then layer 2, then w3 by ridge regression; one network a replica.

    Parameters
    ----------
    n : int
        Training samples; the same serve every layer unless `fresh`.
    largest : int, optional
        n_max, which sets the width p1 (default: n).
    steps : (int, int), optional
        Steps of layers 1 and 2 in place of the recipe's.
    reinitialize : bool
        Draw the later layers anew after the first is trained.
    fresh : bool
        A new data set of n samples for each layer.
    records : int
        How often overlaps and losses are taken in each stage.
    """
    run, d, backend = _Run(truths, n, streams, recipe.fraction, records), truths.d, truths.backend
    width = first_width(recipe, largest or n)
    net = ThreeLayer(d, width, recipe.second_width, recipe.initial, run.streams[1], backend)
    t1, t2 = steps or recipe.steps(d)

    def noted(offset: int) -> Callable[[tuple[Any, ...], int], None]:
        def note(state: tuple[Any, ...], t: int) -> None:
            net.weights = state
            run.note(net, offset + t)

        return note

    def first(state: tuple[Any, ...], x: Any, y: Any) -> tuple[Any, ...]:
        net.weights = state
        gradient = net.gradients(x, y, (1,))[1] / run.batch
        change = math.sqrt(net.p1) * gradient / recipe.initial**2 + recipe.first_ridge * net.w1
        return net.w1 - recipe.first_rate * change, net.w2, net.w3

    def second(state: tuple[Any, ...], x: Any, y: Any) -> tuple[Any, ...]:
        net.weights = state
        # The published code divides by the full n, not by the mini-batch.
        gradient = net.gradients(x, y, (2,))[2] / n
        change = math.sqrt(net.p2) * gradient / (recipe.initial * net.p1) + recipe.second_ridge * d**-1.5 * net.w2
        return net.w1, net.w2 - recipe.second_rate * recipe.first_rate * change, net.w3

    net.weights = run.descend(net.weights, first, t1, noted(0))
    if reinitialize:
        other = ThreeLayer(d, net.p1, net.p2, recipe.initial, run.streams[1], backend)
        net.w2, net.w3 = other.w2, other.w3
    if fresh:
        run.fresh()
    net.weights = run.descend(net.weights, second, t2, noted(t1))
    if fresh:
        run.fresh()
    net.w3 = ridge_fit(net.features(run.data.x), run.data.y, recipe.readout_ridge * n, backend)[..., None]
    run.note(net, t1 + t2)
    return run.record(net(run.data.x_test))


def train_joint(
    truths: Realizations,
    n: int,
    recipe: Recipe,
    streams: Sequence[np.random.Generator],
    *,
    largest: int | None = None,
    steps: int | None = None,
    records: int = 20,
) -> Record:
    """Train all layers together by mini-batch gradient descent for T2 steps; one network a replica."""
    run, d, backend = _Run(truths, n, streams, recipe.fraction, records), truths.d, truths.backend
    width = first_width(recipe, largest or n)
    net = ThreeLayer(d, width, recipe.second_width, recipe.initial, run.streams[1], backend)
    total = steps if steps is not None else recipe.steps(d)[1]
    rate, init, decay = recipe.joint_rate, recipe.initial, recipe.joint_decay

    def step(state: tuple[Any, ...], x: Any, y: Any) -> tuple[Any, ...]:
        net.weights = state
        g = net.gradients(x, y)
        changes = (
            math.sqrt(net.p1) * g[1] / (run.batch * init**2) + decay[0] * net.w1,
            math.sqrt(net.p2) * g[2] / (run.batch * init * net.p1) + decay[1] * d**-1.5 * net.w2,
            g[3] / (run.batch * init * net.p2) + decay[2] * net.w3,
        )
        return tuple(w - rate * change for w, change in zip(state, changes, strict=True))

    def note(state: tuple[Any, ...], t: int) -> None:
        net.weights = state
        run.note(net, t)

    net.weights = run.descend(net.weights, step, total, note)
    run.note(net, total)
    return run.record(net(run.data.x_test))


def train_two_layer(
    truths: Realizations,
    n: int,
    recipe: Recipe,
    streams: Sequence[np.random.Generator],
    *,
    largest: int | None = None,
    steps: int | None = None,
) -> Record:
    """Train the first layer of a two-layer ReLU network, then its readout by ridge regression; one a replica."""
    run, d, backend = _Run(truths, n, streams, recipe.fraction, 1), truths.d, truths.backend
    xp = backend.xp
    width = max(1, first_width(recipe, largest or n) // recipe.two_layer_divisor)
    w = backend.normal(run.streams[1], (width, d)) / math.sqrt(d)
    readout = backend.normal(run.streams[1], (width, 1)) * (recipe.initial / math.sqrt(width))
    bias = backend.asarray(np.stack([s.uniform(-1, 1, (1, width)) for s in run.streams[1]]))

    def step(state: tuple[Any, ...], x: Any, y: Any) -> tuple[Any, ...]:
        h = xp.matmul(x, xp.matrix_transpose(state[0])) + bias
        error = xp.matmul(relu(xp, h), readout) - y[..., None]
        back = error * xp.matrix_transpose(readout) * xp.where(h > 0, 0.0 * h + 1.0, 0.0 * h)
        gradient = xp.matmul(xp.matrix_transpose(back), x) / run.batch
        change = math.sqrt(width) * gradient / recipe.initial + recipe.two_layer_decay * state[0]
        return (state[0] - recipe.two_layer_rate * change,)

    (w,) = run.descend((w,), step, steps if steps is not None else recipe.steps(d)[1])

    def features(x: Any) -> Any:
        return relu(xp, xp.matmul(x, xp.matrix_transpose(w)) + bias)

    fit = ridge_fit(features(run.data.x), run.data.y, recipe.readout_ridge * n, backend)
    record = run.record(xp.matmul(features(run.data.x_test), fit[..., None])[..., 0])
    record.steps, record.weight_overlap = [0], _host(truths.weight_overlap(w), backend)[:, None, :]
    return record


def polynomial_kernel_ridge(
    truth: Realization,
    n: int,
    stream: np.random.Generator,
    backend: Backend,
    *,
    degree: int = 2,
    ridge_strength: float = 1.0,
) -> float:
    """Return the test error of kernel ridge regression with k(x, x') = sum_{j <= degree} (x.x')^j, penalty lambda n.

    Degree 2 is the published baseline, (x.x')^2 + x.x' + 1.
    """
    xp = backend.xp
    data = Data.draw(Realizations.of([truth]), n, [stream])
    x, x_test = data.x[0, ...], data.x_test[0, ...]

    def kernel(a: Any, b: Any) -> Any:
        product = xp.matmul(a, xp.permute_dims(b, (1, 0)))
        total, power = 0.0 * product + 1.0, product
        for _ in range(degree):
            total = total + power
            power = power * product
        return total

    gram = kernel(x, x) + ridge_strength * n * backend.eye(n)
    dual = xp.linalg.solve(gram, xp.reshape(data.y, (-1, 1)))
    fit = xp.matmul(kernel(x_test, x), dual)[:, 0]
    return float(xp.mean((fit - data.f_test[0, ...]) ** 2))


def random_feature_ridge(
    truth: Realization,
    n: int,
    width: int,
    stream: np.random.Generator,
    backend: Backend,
    *,
    ridge_strength: float = 1e-3,
    directions: np.ndarray | None = None,
) -> float:
    """Return the test error of ridge regression on ReLU random features of the input, or of its projection on given
    directions.
    """
    data = Data.draw(Realizations.of([truth]), n, [stream])
    basis = np.eye(truth.d) if directions is None else directions
    w = stream.standard_normal((basis.shape[1], width))
    w = backend.asarray(basis @ (w / np.linalg.norm(w, axis=0)))
    bias = backend.asarray(stream.uniform(-1, 1, width))
    xp = backend.xp

    def features(x: Any) -> Any:
        return relu(xp, xp.matmul(x[0, ...], w) + bias) / math.sqrt(width)

    readout = ridge_fit(features(data.x), data.y[0, ...], ridge_strength * n, backend)
    return float(xp.mean((xp.matmul(features(data.x_test), readout) - data.f_test[0, ...]) ** 2))


def double_descent_exponent(d: int) -> float:
    """Return log(d(d-1)/2 + d + 1)/log d: where the quadratic kernel interpolates (its double-descent peak)."""
    return math.log(d * (d - 1) / 2 + d + 1) / math.log(d)
