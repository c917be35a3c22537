"""Networks as trained in practice on hierarchical targets: layer-wise and joint back-propagation, and shallow
baselines.

Rules and numbers follow the experiments of Dandi, Pesce, Zdeborova, Krzakala, arXiv:2502.13961, in two versions that
differ: `PAPER` (appendix F.4) and `REPOSITORY` (the authors' code). ReLU networks with fixed biases; gradients of
half the mean squared error. Overlaps are streamed; no iterate is stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .algorithm_one import feature_overlap, weight_overlap
from .base import Backend, ridge_fit
from .hierarchical_target import Realization


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
    """What one training run leaves: errors and the overlaps on the way.

    Attributes
    ----------
    test_error : float
        E[(f* - f)^2] on the test inputs, label noise not included.
    steps : list of int
        Gradient steps at which overlaps and losses were taken.
    weight_overlap, feature_overlap : list of lists
        M_W and M_h of every branch.
    train_loss, test_loss : list of float
        Mean squared errors.
    """

    test_error: float = math.nan
    steps: list[int] = field(default_factory=list)
    weight_overlap: list[list[float]] = field(default_factory=list)
    feature_overlap: list[list[float]] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)


@dataclass
class Data:
    """Training samples of one run and fresh test inputs with noiseless labels."""

    x: Any
    y: Any
    x_test: Any
    f_test: Any

    @classmethod
    def draw(cls, truth: Realization, n: int, stream: np.random.Generator, test: int = 1000) -> Data:
        """Draw n training samples and `test` test inputs."""
        x = truth.inputs(n, stream)
        y = truth.labels(x, stream)
        x_test = truth.inputs(test, stream)
        return cls(x, y, x_test, truth(x_test))


class ThreeLayer:
    """ReLU network with fixed biases: f(x) = w3 . relu(W2 relu(W1 x + b1) + b2)."""

    def __init__(self, d: int, p1: int, p2: int, scale: float, stream: np.random.Generator, backend: Backend) -> None:
        self.backend, self.xp = backend, backend.xp
        make = backend.asarray
        self.w1 = make(stream.standard_normal((p1, d)) / math.sqrt(d))
        self.w2 = make(scale * stream.standard_normal((p2, p1)) / math.sqrt(p1))
        self.w3 = make(scale * stream.standard_normal(p2) / math.sqrt(p2))
        self.b1 = make(stream.uniform(-1, 1, p1))
        self.b2 = make(scale * stream.uniform(-1, 1, p2))
        self.p1, self.p2 = p1, p2

    def relu(self, v: Any) -> Any:
        """Return max(v, 0)."""
        return self.xp.where(v > 0, v, 0.0 * v)

    def first(self, x: Any) -> Any:
        """Return the pre-activations of layer 1."""
        return self.xp.matmul(x, self.xp.permute_dims(self.w1, (1, 0))) + self.b1

    def second(self, x: Any) -> Any:
        """Return the pre-activations of layer 2."""
        return self.xp.matmul(self.relu(self.first(x)), self.xp.permute_dims(self.w2, (1, 0))) + self.b2

    def features(self, x: Any) -> Any:
        """Return the activations of layer 2."""
        return self.relu(self.second(x))

    def __call__(self, x: Any) -> Any:
        return self.xp.matmul(self.features(x), self.w3)

    def gradients(self, x: Any, y: Any, which: Sequence[int] = (1, 2, 3)) -> dict[int, Any]:
        """Return the summed gradients of (1/2) sum (f - y)^2 in the layers asked for."""
        xp = self.xp
        h1 = self.first(x)
        a1 = self.relu(h1)
        h2 = xp.matmul(a1, xp.permute_dims(self.w2, (1, 0))) + self.b2
        a2 = self.relu(h2)
        error = xp.matmul(a2, self.w3) - y
        out: dict[int, Any] = {}
        if 3 in which:
            out[3] = xp.matmul(error, a2)
        one = 0.0 * h2 + 1.0
        delta2 = xp.reshape(error, (-1, 1)) * self.w3 * xp.where(h2 > 0, one, 0.0 * h2)
        if 2 in which:
            out[2] = xp.matmul(xp.permute_dims(delta2, (1, 0)), a1)
        if 1 in which:
            delta1 = xp.matmul(delta2, self.w2)
            delta1 = xp.where(h1 > 0, delta1, 0.0 * delta1)
            out[1] = xp.matmul(xp.permute_dims(delta1, (1, 0)), x)
        return out


def first_width(recipe: Recipe, largest: int) -> int:
    """Return p1 = int(n_max^{1 - delta})."""
    return int(largest**recipe.width_exponent)


def train_layerwise(
    truth: Realization,
    n: int,
    recipe: Recipe,
    stream: np.random.Generator,
    backend: Backend,
    *,
    largest: int | None = None,
    steps: tuple[int, int] | None = None,
    reinitialize: bool = False,
    fresh: bool = False,
    records: int = 10,
) -> Record:
    """Train layer 1, then layer 2, then w3 by ridge regression.

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
    xp = backend.xp
    data = Data.draw(truth, n, stream)
    net = ThreeLayer(truth.d, first_width(recipe, largest or n), recipe.second_width, recipe.initial, stream, backend)
    t1, t2 = steps or recipe.steps(truth.d)
    record = Record()
    batch = max(1, int(recipe.fraction * n))
    for step in range(t1):
        _note(record, net, data, truth, stream, backend, step, t1, records)
        x, y = _minibatch(data, batch, stream, backend)
        gradient = net.gradients(x, y, (1,))[1] / batch
        net.w1 = net.w1 - recipe.first_rate * (
            math.sqrt(net.p1) * gradient / recipe.initial**2 + recipe.first_ridge * net.w1
        )
    if reinitialize:
        other = ThreeLayer(truth.d, net.p1, net.p2, recipe.initial, stream, backend)
        net.w2, net.w3 = other.w2, other.w3
    if fresh:
        data = Data.draw(truth, n, stream)
    for step in range(t2):
        _note(record, net, data, truth, stream, backend, step, t2, records, offset=t1)
        x, y = _minibatch(data, batch, stream, backend)
        # The published code divides by the full n, not by the mini-batch.
        gradient = net.gradients(x, y, (2,))[2] / n
        net.w2 = net.w2 - recipe.second_rate * recipe.first_rate * (
            math.sqrt(net.p2) * gradient / (recipe.initial * net.p1) + recipe.second_ridge * truth.d**-1.5 * net.w2
        )
    if fresh:
        data = Data.draw(truth, n, stream)
    net.w3 = ridge_fit(net.features(data.x), data.y, recipe.readout_ridge * n, backend)
    _note(record, net, data, truth, stream, backend, 0, 1, 1, offset=t1 + t2)
    record.test_error = float(xp.mean((net(data.x_test) - data.f_test) ** 2))
    return record


def train_joint(
    truth: Realization,
    n: int,
    recipe: Recipe,
    stream: np.random.Generator,
    backend: Backend,
    *,
    largest: int | None = None,
    steps: int | None = None,
    records: int = 20,
) -> Record:
    """Train all layers together by mini-batch gradient descent for T2 steps."""
    xp = backend.xp
    data = Data.draw(truth, n, stream)
    net = ThreeLayer(truth.d, first_width(recipe, largest or n), recipe.second_width, recipe.initial, stream, backend)
    total = steps if steps is not None else recipe.steps(truth.d)[1]
    batch, rate, init = max(1, int(recipe.fraction * n)), recipe.joint_rate, recipe.initial
    decay = recipe.joint_decay
    record = Record()
    for step in range(total):
        _note(record, net, data, truth, stream, backend, step, total, records)
        x, y = _minibatch(data, batch, stream, backend)
        g = net.gradients(x, y)
        net.w1 = net.w1 - rate * (math.sqrt(net.p1) * g[1] / (batch * init**2) + decay[0] * net.w1)
        net.w2 = net.w2 - rate * (
            math.sqrt(net.p2) * g[2] / (batch * init * net.p1) + decay[1] * truth.d**-1.5 * net.w2
        )
        net.w3 = net.w3 - rate * (g[3] / (batch * init * net.p2) + decay[2] * net.w3)
    _note(record, net, data, truth, stream, backend, 0, 1, 1, offset=total)
    record.test_error = float(xp.mean((net(data.x_test) - data.f_test) ** 2))
    return record


def train_two_layer(
    truth: Realization,
    n: int,
    recipe: Recipe,
    stream: np.random.Generator,
    backend: Backend,
    *,
    largest: int | None = None,
    steps: int | None = None,
) -> Record:
    """Train the first layer of a two-layer ReLU network, then its readout by ridge regression."""
    xp = backend.xp
    data = Data.draw(truth, n, stream)
    width = max(1, first_width(recipe, largest or n) // recipe.two_layer_divisor)
    w = backend.asarray(stream.standard_normal((width, truth.d)) / math.sqrt(truth.d))
    readout = backend.asarray(recipe.initial * stream.standard_normal(width) / math.sqrt(width))
    bias = backend.asarray(stream.uniform(-1, 1, width))
    batch = max(1, int(recipe.fraction * n))

    def field_of(x: Any) -> Any:
        return xp.matmul(x, xp.permute_dims(w, (1, 0))) + bias

    def features(x: Any) -> Any:
        h = field_of(x)
        return xp.where(h > 0, h, 0.0 * h)

    for _ in range(steps if steps is not None else recipe.steps(truth.d)[1]):
        x, y = _minibatch(data, batch, stream, backend)
        h = field_of(x)
        live = xp.where(h > 0, 0.0 * h + 1.0, 0.0 * h)
        error = xp.matmul(live * h, readout) - y
        gradient = xp.matmul(xp.permute_dims(xp.reshape(error, (-1, 1)) * readout * live, (1, 0)), x) / batch
        w = w - recipe.two_layer_rate * (math.sqrt(width) * gradient / recipe.initial + recipe.two_layer_decay * w)
    readout = ridge_fit(features(data.x), data.y, recipe.readout_ridge * n, backend)
    record = Record(test_error=float(xp.mean((xp.matmul(features(data.x_test), readout) - data.f_test) ** 2)))
    record.steps, record.weight_overlap = [0], [weight_overlap(w, truth, backend)]
    return record


def polynomial_kernel_ridge(
    truth: Realization,
    n: int,
    stream: np.random.Generator,
    backend: Backend,
    *,
    degree: int = 2,
    ridge_strength: float = 1.0,
) -> Record:
    """Fit kernel ridge regression with k(x, x') = sum_{j <= degree} (x.x')^j, penalty lambda n.

    Degree 2 is the published baseline, (x.x')^2 + x.x' + 1.
    """
    xp = backend.xp
    data = Data.draw(truth, n, stream)

    def kernel(a: Any, b: Any) -> Any:
        product = xp.matmul(a, xp.permute_dims(b, (1, 0)))
        total, power = 0.0 * product + 1.0, product
        for _ in range(degree):
            total = total + power
            power = power * product
        return total

    gram = kernel(data.x, data.x) + ridge_strength * n * backend.eye(n)
    dual = xp.linalg.solve(gram, xp.reshape(data.y, (-1, 1)))
    fit = xp.matmul(kernel(data.x_test, data.x), dual)[:, 0]
    return Record(test_error=float(xp.mean((fit - data.f_test) ** 2)))


def random_feature_ridge(
    truth: Realization,
    n: int,
    width: int,
    stream: np.random.Generator,
    backend: Backend,
    *,
    ridge_strength: float = 1e-3,
    directions: np.ndarray | None = None,
) -> Record:
    """Fit ridge regression on ReLU random features of the input, or of its projection on given directions."""
    data = Data.draw(truth, n, stream)
    basis = np.eye(truth.d) if directions is None else directions
    w = stream.standard_normal((basis.shape[1], width))
    w = backend.asarray(basis @ (w / np.linalg.norm(w, axis=0)))
    bias = backend.asarray(stream.uniform(-1, 1, width))
    xp = backend.xp

    def features(x: Any) -> Any:
        h = xp.matmul(x, w) + bias
        return xp.where(h > 0, h, 0.0 * h) / math.sqrt(width)

    readout = ridge_fit(features(data.x), data.y, ridge_strength * n, backend)
    return Record(test_error=float(xp.mean((xp.matmul(features(data.x_test), readout) - data.f_test) ** 2)))


def best_ridge_error(
    features: Any, y: Any, features_test: Any, f_test: Any, strengths: Sequence[float], backend: Backend
) -> tuple[float, float]:
    """Return (error, lambda) with lambda chosen on a held-out fifth of the training samples, not on the test set."""
    xp = backend.xp
    n = features.shape[0]
    cut = max(1, n - n // 5)
    scores = []
    for lam in strengths:
        w = ridge_fit(features[:cut, :], y[:cut], lam * cut, backend)
        scores.append(float(xp.mean((xp.matmul(features[cut:, :], w) - y[cut:]) ** 2)))
    lam = float(strengths[int(np.argmin(scores))])
    w = ridge_fit(features, y, lam * n, backend)
    return float(xp.mean((xp.matmul(features_test, w) - f_test) ** 2)), lam


def double_descent_exponent(d: int) -> float:
    """Return log(d(d-1)/2 + d + 1)/log d: where the quadratic kernel interpolates (its double-descent peak)."""
    return math.log(d * (d - 1) / 2 + d + 1) / math.log(d)


def _minibatch(data: Data, batch: int, stream: np.random.Generator, backend: Backend) -> tuple[Any, Any]:
    chosen = stream.permutation(data.x.shape[0])[:batch]
    index = backend.indices(chosen)
    return backend.xp.take(data.x, index, axis=0), backend.xp.take(data.y, index, axis=0)


def _note(
    record: Record,
    net: ThreeLayer,
    data: Data,
    truth: Realization,
    stream: np.random.Generator,
    backend: Backend,
    step: int,
    total: int,
    records: int,
    offset: int = 0,
) -> None:
    """Take overlaps and losses `records` times over `total` steps, evenly in log step."""
    marks = {0, *(int(v) for v in np.geomspace(1, max(total - 1, 1), max(records - 1, 1)))} if records > 1 else {0}
    if step not in marks:
        return
    xp = backend.xp
    record.steps.append(offset + step)
    record.weight_overlap.append(weight_overlap(net.w1, truth, backend))
    record.feature_overlap.append(feature_overlap(net.second, truth, stream, backend, probes=1000))
    record.train_loss.append(float(xp.mean((net(data.x) - data.y) ** 2)))
    record.test_loss.append(float(xp.mean((net(data.x_test) - data.f_test) ** 2)))
