"""A training run on given points as numbers: what a theory of deep networks and every simulator of it share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import jets

if TYPE_CHECKING:
    from .expressions import Expression
    from .spec import Problem

Activation = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Training:
    """Inputs and schedule of a training run.

    Attributes
    ----------
    inputs : (M, d) array
        Training inputs first, then held-out test inputs.
    gram : (M, M) array
        Inner products of the inputs, ``K^x``.
    labels : (M,) array
    samples : int
        Number m of training samples.
    layers : int
        Number L of hidden layers.
    richness : float
        gamma; 1 is muP, gamma -> 0 the lazy limit.
    learning_rates : (S,) array
        eta(t) of the update that follows time t; 0 at the last time, which none follows.
    weights : (S, m) array
        p_nu(t): 1/m for a full batch, 1/|B| on a mini-batch and 0 off it; at the last time those of the batch to come.
    activation : callable
        ``h -> (phi(h), phi'(h), phi''(h))``.
    loss_function, loss_slope : callables
        ``loss(f, y)`` and ``dloss/df``, elementwise.
    """

    inputs: np.ndarray
    gram: np.ndarray
    labels: np.ndarray
    samples: int
    layers: int
    richness: float
    learning_rates: np.ndarray
    weights: np.ndarray
    activation: Activation
    loss_function: Callable[[np.ndarray, np.ndarray], np.ndarray]
    loss_slope: Callable[[np.ndarray, np.ndarray], np.ndarray]

    @property
    def points(self) -> int:
        """Number M of training and test samples."""
        return len(self.gram)

    @property
    def times(self) -> int:
        """Number S = T + 1 of times: after 0..T updates."""
        return len(self.learning_rates)

    @property
    def is_odd(self) -> bool:
        """Whether the activation is odd, to rounding: then a global flip of the weights is an exact symmetry."""
        h = np.linspace(0.05, 6.0, 60)
        plus, minus = self.activation(h)[0], self.activation(-h)[0]
        return bool(np.allclose(plus, -minus, rtol=1e-14, atol=1e-14))

    def error_signal(self, f: np.ndarray) -> np.ndarray:
        """Return ``Delta = -dloss/df`` on the training samples."""
        return -self.loss_slope(f, self.labels[: self.samples])

    def loss(self, f: np.ndarray, *, test: bool = False) -> np.ndarray:
        """Return the mean loss over the training (or test) samples of outputs of shape ``(..., M)``."""
        part = slice(self.samples, None) if test else slice(0, self.samples)
        return self.loss_function(f[..., part], self.labels[part]).mean(axis=-1)


def training_of(problem: Problem) -> Training:
    """Return the numbers of a problem: what the march, the quadratures and the finite-width networks share.

    Raises
    ------
    DerivationError
        When the activation has no second derivative and the network more than one hidden layer.
    """
    from .activations import activation
    from .algorithms import GradientDescent
    from .expressions import Expression
    from .points import load_points

    inputs, labels, m = load_points(problem.data)
    algorithm = problem.algorithm
    updates, times = np.arange(algorithm.steps, dtype=float), algorithm.steps + 1
    if isinstance(algorithm, GradientDescent):
        schedule = Expression(algorithm.schedule, ("t", "T")).evaluate(np, t=updates, T=float(algorithm.steps))
        weights = batch_weights(m, times, algorithm.batch_size, algorithm.batch_seed)
    else:
        schedule, weights = 1.0, batch_weights(m, times, 0, 0)
    rates = np.broadcast_to(algorithm.learning_rate * schedule, updates.shape)
    value, slope = _loss(problem.loss.form.expression)
    return Training(
        inputs=inputs, gram=inputs @ inputs.T, labels=labels, samples=m, layers=problem.student.hidden_layers,
        richness=problem.student.richness,
        learning_rates=np.append(rates, 0.0), weights=weights,
        activation=derivatives(activation(problem.student.activation)),
        loss_function=value, loss_slope=slope,
    )  # fmt: skip


def coordinates(training: Training, time_step: float = 1.0) -> dict[str, Any]:
    """Return the coordinates: time in updates 0..T (times `time_step` for a flow), layers from 1, samples from 0."""
    coords: dict[str, Any] = {
        "time": time_step * np.arange(training.times, dtype=float),
        "layer": np.arange(1, training.layers + 1),
        "sample": np.arange(training.samples),
    }
    if training.points > training.samples:
        coords["test_sample"] = np.arange(training.points - training.samples)
    return coords


def batch_weights(samples: int, times: int, batch_size: int, seed: int) -> np.ndarray:
    """Return ``p_nu(t)``, shape (times, samples): 1/|B| on the batch of update t, 0 off it.

    Each epoch is a permutation drawn from `seed`, cut into batches; the batch of update t does not depend on `times`.
    """
    if batch_size == 0 or batch_size >= samples:
        return np.full((times, samples), 1.0 / samples)
    generator = np.random.default_rng([0xBA7C, seed])
    out, t = np.zeros((times, samples)), 0
    while t < times:
        order = generator.permutation(samples)
        for start in range(0, samples, batch_size):
            batch = order[start : start + batch_size]
            if t < times:
                out[t, batch] = 1.0 / len(batch)
            t += 1
    return out


@lru_cache(maxsize=64)
def derivatives(expression: Expression) -> Activation:
    """Return ``h -> (phi, phi', phi'')``.

    At a kink, phi' is taken almost everywhere and phi'' holds no delta function: `assumptions` refuses the networks for
    which that would matter.
    """
    return partial(jets.derivatives, expression)


@lru_cache(maxsize=64)
def _loss(expression: Expression) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    def loss(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        given = {"f": outputs, "y": labels}
        result = expression.evaluate(np, **{v: given[v] for v in expression.variables})
        return np.broadcast_to(result, np.broadcast_shapes(outputs.shape, labels.shape))

    def error(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.asarray(jets.derivative(expression, "f", {"f": outputs, "y": labels}))

    return loss, error
