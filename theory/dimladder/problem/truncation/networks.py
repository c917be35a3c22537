"""ReLU networks with a linear last layer: forward pass, gradient of the cost, best last layer, gradient descent.

Inputs are (M, N) arrays, one column a point. The weighted cost is ``C^2 = sum_n weights_n |f(x_n) - y_n|^2``; with
weights 1/N_j it is the square of the cost of arXiv:2309.10639. Convention relu'(0) = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def relu(x: Array) -> Array:
    """Componentwise max(x, 0)."""
    return np.maximum(x, 0.0)


@dataclass(frozen=True)
class Network:
    """Native parameters of a ReLU network with a linear last layer.

    Attributes
    ----------
    weights, biases : tuples of (k_l, k_{l-1}) and (k_l,) arrays
        One a layer; the last pair is the linear layer.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]

    def hidden(self, x: Array) -> list[Array]:
        """Outputs X^(1)..X^(L) of the hidden layers."""
        outputs = []
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = relu(w @ x + b[:, None])
            outputs.append(x)
        return outputs

    def features(self, x: Array) -> Array:
        """Output of the last hidden layer (the input itself without one)."""
        return self.hidden(x)[-1] if len(self.weights) > 1 else x

    def __call__(self, x: Array) -> Array:
        """Outputs, (Q, N)."""
        return self.weights[-1] @ self.features(x) + self.biases[-1][:, None]

    def with_last(self, weight: Array, bias: Array) -> Network:
        """The same hidden layers under another last layer."""
        return Network((*self.weights[:-1], weight), (*self.biases[:-1], bias))


def squared_cost(network: Network, x: Array, y: Array, weights: Array) -> float:
    """C^2 = sum_n weights_n |f(x_n) - y_n|^2."""
    return float(np.sum(weights * np.sum((network(x) - y) ** 2, axis=0)))


def gradient(network: Network, x: Array, y: Array, weights: Array) -> tuple[list[Array], list[Array]]:
    """Gradient of C^2 with respect to every weight matrix and every bias, by backpropagation."""
    activations = [x, *network.hidden(x)]
    residual = network.weights[-1] @ activations[-1] + network.biases[-1][:, None] - y
    signal = 2.0 * weights * residual
    grad_w: list[Array] = [np.empty(0)] * len(network.weights)
    grad_b: list[Array] = [np.empty(0)] * len(network.weights)
    for layer in range(len(network.weights) - 1, -1, -1):
        if layer < len(network.weights) - 1:
            signal = signal * (activations[layer + 1] > 0)
        grad_w[layer] = signal @ activations[layer].T
        grad_b[layer] = signal.sum(axis=1)
        signal = network.weights[layer].T @ signal
    return grad_w, grad_b


def best_last_layer(features: Array, y: Array, weights: Array, *, offset: Array | None = None) -> tuple[Array, Array]:
    """Last layer (W, b) of least weighted squared cost for fixed features, by least squares.

    Parameters
    ----------
    features : (k, N) array
    y : (Q, N) array
    weights : (N,) array
    offset : (k,) array, optional
        If given, b is not free: the cumulative bias is clamped to zero, b = -W offset with `offset` the cumulative
        bias b^(L).
    """
    root = np.sqrt(weights)
    if offset is not None:
        w = np.linalg.lstsq(((features - offset[:, None]) * root).T, (y * root).T, rcond=None)[0].T
        return np.asarray(w, dtype=float), np.asarray(-w @ offset, dtype=float)
    design = np.vstack([features, np.ones(features.shape[1])])
    solution = np.linalg.lstsq((design * root).T, (y * root).T, rcond=None)[0].T
    return solution[:, :-1], solution[:, -1]


def gradient_descent(
    network: Network, x: Array, y: Array, weights: Array, *, rate: float, steps: int, record: Sequence[int] = ()
) -> tuple[Network, dict[int, float]]:
    """Full-batch gradient descent on C^2 in all parameters; returns the final network and C^2 before the steps in
    `record`.
    """
    w = [a.copy() for a in network.weights]
    b = [a.copy() for a in network.biases]
    wanted, seen = set(record), {}
    for step in range(steps + 1):
        current = Network(tuple(w), tuple(b))
        if step in wanted:
            seen[step] = squared_cost(current, x, y, weights)
        if step == steps:
            break
        grad_w, grad_b = gradient(current, x, y, weights)
        for a, g in zip((*w, *b), (*grad_w, *grad_b), strict=True):
            a -= rate * g
    return Network(tuple(w), tuple(b)), seen
