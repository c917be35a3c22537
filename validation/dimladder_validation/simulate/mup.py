"""Networks of finite width under muP, standard, neural-tangent and integrable parametrisations, or any abc exponents.

Full dense weights, written once against the Array API. In terms of effective weights the network is ``h^1 = W^1 xi``,
``h^l = W^l phi(h^{l-1})``, ``f = W^{L+1} phi(h^L) / gamma``, with initial variances ``n^-b`` and learning rates ``eta
gamma^2 n^-c`` of input, hidden and output weights (Yang, Hu 2021); muP is b = (0, 1, 2), c = (-1, 0, 1). Mini-batches
are those of the theory: the batch of update t is a function of the problem alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dimladder.errors import SimulationError
from dimladder.problem import activation
from dimladder.problem.algorithms import GradientFlow
from dimladder.problem.training import Training, coordinates, training_of

from .base import Backend, Closing, Experiment, Sample
from .model_code import as_formula, derivative, stable
from .rows import Rows

# (b_in, b_hidden, b_out), (c_in, c_hidden, c_out)
EXPONENTS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "mup": ((0, 1, 2), (-1, 0, 1)),
    "sp": ((0, 1, 1), (1, 1, 1)),
    "ntp": ((0, 1, 1), (0, 1, 1)),
    "ip": ((0, 2, 2), (-1, 0, 1)),
}

# Variable -> dimensions of what is measured, the theory's names.
DIMS: dict[str, tuple[str, ...]] = {
    "loss": ("time",),
    "f": ("time", "sample"),
    "test_loss": ("time",),
    "test_f": ("time", "test_sample"),
    "feature_kernel": ("layer", "sample", "sample"),
    "gradient_kernel": ("layer", "sample", "sample"),
    "feature_min_eigenvalue": ("time", "layer"),
    "preactivation_min_eigenvalue": ("layer",),
    "space_time_min_eigenvalue": ("layer",),
    "relative_feature_change": ("layer",),
    "readout_speed": ("time",),
    "pl_rate": ("time",),
}

# Entries of hidden weights held together on the CPU: one network at a time when it is wide, so that it stays in cache.
CPU_ENTRIES = 1 << 20


@dataclass
class Pass:
    """Fields of one forward and backward pass; arrays have shape (replicas, samples, n)."""

    f: Any  # (replicas, M)
    pre: list[Any]
    post: list[Any]
    back: list[Any]  # df/dh^l times n gamma, training samples


class Network:
    """A batch of independent networks of one width.

    Parameters
    ----------
    training : Training
    exponents : pair of triples
        b and c of the input, hidden and output weights.
    formula : Expression
        The activation.
    loss : LossFunction
    width : int
    streams : sequence of Generator
        One a replica.
    backend : Backend
    """

    def __init__(
        self,
        training: Training,
        exponents: Any,
        formula: Any,
        loss: Any,
        width: int,
        streams: Sequence[np.random.Generator],
        backend: Backend,
    ) -> None:
        self.training, self.width, self.backend, self._formula = training, width, backend, formula
        self._slope, self._loss_slope = derivative(formula), as_formula(stable(loss.slope), ("f", "y"))
        self._labels = backend.asarray(training.labels[: training.samples])
        self.inputs = backend.asarray(training.inputs)
        (b_in, b_hidden, b_out), rates = exponents
        n, d, layers = width, training.inputs.shape[1], training.layers
        scale = [float(n) ** (-b / 2) for b in (b_in, *[b_hidden] * (layers - 1), b_out)]
        shapes = [(n, d), *[(n, n)] * (layers - 1), (n, 1)]
        self.weights = [s * backend.normal(streams, shape) for s, shape in zip(scale, shapes, strict=True)]
        self.rates = [training.richness**2 * float(n) ** (-c) for c in (rates[0], *[rates[1]] * (layers - 1), rates[2])]

    def run(self) -> Pass:
        """Return the fields of the present weights."""
        xp, training = self.backend.xp, self.training
        pre, post = [], []
        x = self.inputs
        for w in self.weights[:-1]:
            h = xp.matmul(x, xp.matrix_transpose(w))
            x = self._formula.evaluate(xp, x=h) + 0.0 * h
            pre.append(h)
            post.append(x)
        f = xp.matmul(x, self.weights[-1])[..., 0] / training.richness
        m = training.samples
        back: list[Any] = []
        z = xp.matrix_transpose(self.weights[-1])
        for l in reversed(range(training.layers)):
            h = pre[l][:, :m, ...]
            g = z * (self._slope.evaluate(xp, x=h) + 0.0 * h)
            back.insert(0, self.width * g)
            if l > 0:
                z = xp.matmul(g, self.weights[l])
        return Pass(f, pre, post, back)

    def grams(self, fields: Sequence[Any]) -> Any:
        """Return inner products of the training samples over neurons, per neuron: (layers, replicas, m, m)."""
        xp, m = self.backend.xp, self.training.samples
        inside = [x[:, :m, ...] for x in fields]
        return xp.stack([xp.matmul(x, xp.matrix_transpose(x)) / self.width for x in inside])

    def velocity(self, fields: Pass, share: Any) -> list[Any]:
        """Return minus the gradient of the loss, times the width-dependent rates, for every weight array.

        `share` (replicas, samples) holds the weights of the samples in the loss.
        """
        training, xp = self.training, self.backend.xp
        m = training.samples
        error = self._loss_slope.evaluate(xp, f=fields.f[:, :m], y=self._labels)
        pull = (-error * share / training.richness)[..., None]
        below = [self.inputs[:m, ...], *(x[:, :m, ...] for x in fields.post)]
        out = []
        for l, rate in enumerate(self.rates[:-1]):
            left = pull * fields.back[l] * (rate / self.width)
            out.append(xp.matmul(xp.matrix_transpose(left), below[l]))
        out.append(self.rates[-1] * xp.matmul(xp.matrix_transpose(below[-1]), pull))
        return out

    def move(self, step: Any, velocity: list[Any], start: list[Any] | None = None) -> None:
        """Set the weights to ``start + step velocity``."""
        base = self.weights if start is None else start
        self.weights = [w + step * v for w, v in zip(base, velocity, strict=True)]

    def flow(self, fields: Pass, share: Any, time: Any, substeps: int) -> None:
        """Follow gradient flow for `time` with the classical fourth-order Runge-Kutta rule."""
        step = time / substeps
        for _ in range(substeps):
            start = self.weights
            k1 = self.velocity(fields, share)
            slopes = [k1]
            for fraction in (0.5, 0.5, 1.0):
                self.move(step * fraction, slopes[-1], start)
                slopes.append(self.velocity(self.run(), share))
            total = [(a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(*slopes, strict=True)]
            self.move(step, total, start)
            fields = self.run()


class WidthExperiment(Experiment):
    """Measures outputs, loss, kernels and feature diagnostics of networks of finite width."""

    theory = "mup"
    size = "width"
    batch_size = 16
    device_batch_size = 256

    def closing(self, problem: Any) -> Closing:
        """Smooth networks in the muP scaling: the expansion of their means in 1/width."""
        student = problem.student
        if student.abc is None and student.parametrization == "mup" and not activation(student.activation).kinks("x"):
            return Closing(1.0, reason="means of smooth mean-field networks have an expansion in 1/width")
        return Closing()

    def numbers(self, problem: Any, size: int, backend: Backend) -> int:
        training = training_of(problem)
        layers, points, m = training.layers, training.points, training.samples
        weights = size * (training.inputs.shape[1] + 1) + (layers - 1) * size**2
        copies = 9 if isinstance(problem.algorithm, GradientFlow) else 5
        return copies * weights + 8 * layers * points * size + training.times * layers * m**2

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        training = training_of(problem)
        together = len(streams)
        if backend.device == "cpu" or backend.is_numpy:
            together = max(1, CPU_ENTRIES // (size * max(size * (training.layers - 1), training.points)))
        parts = [
            train(problem, training, size, streams[i : i + together], backend) for i in range(0, len(streams), together)
        ]
        flow = isinstance(problem.algorithm, GradientFlow)
        coords = coordinates(training, problem.algorithm.learning_rate if flow else 1.0)
        variables = {n: (parts[0][n][0], np.concatenate([p[n][1] for p in parts])) for n in parts[0]}
        return Sample(coords, variables)


def exponents_of(student: Any) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return (b, c) of a student's parametrisation."""
    return (student.abc.variance, student.abc.rate) if student.abc is not None else EXPONENTS[student.parametrization]


def train(
    problem: Any, training: Training, width: int, streams: Sequence[np.random.Generator], backend: Backend,
    observe: Callable[[int, Pass], None] | None = None,
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:  # fmt: skip
    """Train networks of one width and return name -> (dims, values with the replica axis first).

    Parameters
    ----------
    observe : callable, optional
        Called with (t, fields) at every time, for further measurements.
    """
    algorithm = problem.algorithm
    network = Network(
        training, exponents_of(problem.student), activation(problem.student.activation), problem.loss.form, width,
        streams, backend,
    )  # fmt: skip
    m, layers, times = training.samples, training.layers, training.times
    first = network.run()

    def step(state: tuple[Any, ...], row: tuple[Any, ...], rate: Any) -> tuple[Any, ...]:
        network.weights = list(state[: layers + 1])
        fields = network.run()
        if isinstance(algorithm, GradientFlow):
            network.flow(fields, row[0], rate, algorithm.substeps)
        else:
            network.move(rate, network.velocity(fields, row[0]))
        return (*network.weights, fields.f, network.grams(fields.post))

    chain = Rows(backend, step, (*network.weights, first.f, network.grams(first.post)))
    shares = backend.asarray(np.broadcast_to(training.weights, (len(streams), *training.weights.shape)).copy())
    chain.load([shares], [float(rate) for rate in training.learning_rates])
    outputs, features = [], []
    for t in range(times - 1):
        if observe is not None:
            network.weights = list(chain.state[: layers + 1])
            observe(t, network.run())
        with np.errstate(over="ignore", invalid="ignore"):  # what blows up is refused at the end
            chain.advance()
        # A recorded step writes into the same arrays again.
        outputs.append(1.0 * chain.state[-2])
        features.append(1.0 * chain.state[-1])
    network.weights = list(chain.state[: layers + 1])
    fields = network.run()
    if observe is not None:
        observe(times - 1, fields)
    outputs.append(fields.f)
    features.append(network.grams(fields.post))
    xp = backend.xp
    f = backend.to_numpy(xp.stack(outputs, axis=1)).astype(float)
    grams = _finite(backend.to_numpy(xp.stack(features)).astype(float))  # (times, layers, replicas, m, m)
    smallest = np.moveaxis(np.linalg.eigvalsh(grams)[..., 0], 2, 0)
    pulls = training.weights * training.error_signal(f[..., :m])
    speeds = np.einsum("rti,trij,rtj->rt", pulls, grams[:, -1], pulls)
    values: dict[str, np.ndarray] = {"loss": training.loss(f), "f": f[..., :m]}
    if training.points > m:
        values |= {"test_loss": training.loss(f, test=True), "test_f": f[..., m:]}
    values["feature_kernel"] = np.swapaxes(grams[-1], 0, 1)
    values["gradient_kernel"] = np.swapaxes(_grams(fields.back, backend) / width, 0, 1)
    values["feature_min_eigenvalue"] = smallest
    values["preactivation_min_eigenvalue"] = _smallest(_grams([h[:, :m, ...] for h in fields.pre], backend) / width)
    joint = [xp.concat([a[:, :m, ...], b[:, :m, ...]], axis=1) for a, b in zip(first.post, fields.post, strict=True)]
    values["space_time_min_eigenvalue"] = _smallest(_grams(joint, backend) / width)
    change = [
        backend.to_numpy(
            xp.sum((b[:, :m, ...] - a[:, :m, ...]) ** 2, axis=(1, 2)) / xp.sum(a[:, :m, ...] ** 2, axis=(1, 2))
        )
        for a, b in zip(first.pre, fields.pre, strict=True)
    ]
    values["relative_feature_change"] = np.sqrt(np.stack(change, axis=1))
    values["readout_speed"] = speeds
    if problem.loss.form.name == "square" and getattr(algorithm, "batch_size", 0) == 0:
        values["pl_rate"] = 2 / m * values["feature_min_eigenvalue"][..., -1]
    assert len(values["feature_kernel"][0]) == layers
    return {name: (DIMS[name], np.asarray(array, dtype=float)) for name, array in values.items()}


def _grams(fields: Sequence[Any], backend: Backend) -> np.ndarray:
    """Return inner products over neurons, shape (layers, replicas, samples, samples)."""
    xp = backend.xp
    return np.stack([backend.to_numpy(xp.matmul(x, xp.matrix_transpose(x))).astype(float) for x in fields])


def _smallest(grams: np.ndarray) -> np.ndarray:
    """Return the smallest eigenvalues of Gram matrices of shape (layers, replicas, k, k), as (replicas, layers)."""
    return np.linalg.eigvalsh(grams)[..., 0].T


def _finite(grams: np.ndarray) -> np.ndarray:
    if not np.isfinite(grams).all():
        raise SimulationError(
            "a network left the finite numbers", where="algorithm.learning_rate",
            why="the learning rate is above the edge of stability at this width",
            hint="lower it, or use a wider network",
        )  # fmt: skip
    return grams


EXPERIMENT = WidthExperiment()
