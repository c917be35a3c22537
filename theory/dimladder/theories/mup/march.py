"""The causal march: infinite-width training under muP, time by time.

One forward sweep in time gives every order parameter up to the sampling of the single-site averages; there is no fixed
point, no damping, and no limit on the step size. At each time t

1. for l = 1..L: the fields ``h^l(t)``, then ``x = phi(h)`` and ``Phi^l(t, <=t) = <x x>``;
2. ``f(t) = <z^L(t) x^L(t)>/gamma``, ``Delta = -dloss/df``, ``a = eta gamma p Delta``;
3. for l = L..1: the fields ``z^l(t)``, then ``g = z phi'(h)`` and ``G^l(t, <=t) = <g g>``.

Layers meet through averages only, so each layer has its own samples. How h and z follow from the past is what the two
marches differ in: `revealed` reveals the weights direction by direction, `responses` samples response functions.

References
----------
Chen, Yang, Zhao, Gu (2025), arXiv:2503.09565; Bordelon, Pehlevan (2022), arXiv:2205.09653; Yang, Hu (2021).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ...numerics.causal import CausalGaussian
from ...problem.training import Training


class Diverged(ArithmeticError):
    """Training left the finite numbers at a time.

    Attributes
    ----------
    result : OrderParameters
        Complete before `time`.
    time : int
    """

    def __init__(self, name: str, result: OrderParameters, time: int) -> None:
        super().__init__(f"the {name} is not finite at t = {time}")
        self.result, self.time = result, time


@dataclass(frozen=True)
class Nodes:
    """Standard normal nodes of one layer.

    Attributes
    ----------
    forward, backward : (dimensions, N) arrays
        Nodes of u and of r in the order of time. The first layer's u takes as many as there are inputs, the last
        layer's r takes one.
    weights : (N,) array
        Of sum one.
    """

    forward: np.ndarray
    backward: np.ndarray
    weights: np.ndarray


@dataclass
class OrderParameters:
    """Everything the march has learnt; index ``l - 1`` is layer l, rows and columns are (time, sample) time major.

    S = T + 1 is the number of times.

    Attributes
    ----------
    f : (S, M) array
        Network outputs, training samples first.
    error_signal : (S, m) array
        ``Delta = -dloss/df``.
    rates : (S, m) array
        ``a_nu(s) = eta(s) gamma p_nu(s) Delta_nu(s)``.
    phi, g, a, b : lists of arrays
        ``Phi^l`` (S M, S M), ``G^l`` (S m, S m), ``A^l`` (S M, S m) for l < L, ``B^l`` (S m, S m) for l > 1. The
        responses A and B are empty lists where the method does not know them.
    pre : list of (2, M, M) arrays
        ``<h h>`` at the first and the last time.
    change : list of (M,) arrays
        ``<(h(T) - h(0))^2>``.
    forward_pivots, backward_pivots : (S, L) arrays
        Smallest eigenvalue of the innovation of ``u^l`` given the past, and of ``r^l``.
    """

    f: np.ndarray
    error_signal: np.ndarray
    rates: np.ndarray
    phi: list[np.ndarray]
    g: list[np.ndarray]
    a: list[np.ndarray]
    b: list[np.ndarray]
    pre: list[np.ndarray]
    change: list[np.ndarray]
    forward_pivots: np.ndarray
    backward_pivots: np.ndarray

    @classmethod
    def empty(cls, training: Training) -> OrderParameters:
        """Return zeros of the right shapes."""
        layers, times, m, total = training.layers, training.times, training.samples, training.points
        k, kt = times * m, times * total
        return cls(
            f=np.zeros((times, total)), error_signal=np.zeros((times, m)), rates=np.zeros((times, m)),
            phi=[np.zeros((kt, kt)) for _ in range(layers)], g=[np.zeros((k, k)) for _ in range(layers)],
            a=[np.zeros((kt, k)) for _ in range(layers - 1)], b=[np.zeros((k, k)) for _ in range(layers - 1)],
            pre=[np.zeros((2, total, total)) for _ in range(layers)], change=[np.zeros(total) for _ in range(layers)],
            forward_pivots=np.zeros((times, layers)), backward_pivots=np.zeros((times, layers)),
        )  # fmt: skip

    def arrays(self) -> dict[str, np.ndarray]:
        """Return every array by name, for a checkpoint; the arrays are not copied."""
        out = {}
        for name, value in vars(self).items():
            for i, array in enumerate(value if isinstance(value, list) else [value]):
                out[f"{name}.{i}"] = array
        return out


class March(ABC):
    """One march of one set of nodes.

    Parameters
    ----------
    training : Training
        Inputs, labels, weights, rates, activation and loss.
    nodes : sequence of Nodes, one a layer
    exact_start : bool
        Subtract the sampling error of ``<w_0 x(0)>``, which is exactly zero at infinite width.
    """

    def __init__(self, training: Training, nodes: Sequence[Nodes], *, exact_start: bool = True) -> None:
        self.training, self.nodes, self.time = training, nodes, 0
        self.result = OrderParameters.empty(training)
        self._exact_start = exact_start
        times, m, total = training.times, training.samples, training.points
        sizes = [len(node.weights) for node in nodes]
        self.x = [np.empty((times * total, n)) for n in sizes]
        self.g = [np.empty((times * m, n)) for n in sizes]
        self._first = [np.empty((total, n)) for n in sizes]
        # phi' and phi'' at the current time.
        self._slopes: list[list[np.ndarray]] = [[]] * training.layers
        # The first and the last layer see their past through a running sum: their kernels do not depend on time.
        inputs = CausalGaussian(total, len(nodes[0].forward))
        self.result.forward_pivots[0, 0] = inputs.extend(np.zeros((total, 0)), training.gram)[0]
        self.result.backward_pivots[0, -1] = 1.0
        self._inputs, self._drive = inputs.draw(total, nodes[0].forward), np.zeros((m, sizes[0]))
        self.readout, self._start = nodes[-1].backward[0].copy(), np.zeros(total)

    def run(self, until: int | None = None, after_step: Callable[[Self], None] | None = None) -> OrderParameters:
        """March to time `until` (exclusive; the end when None) and return the order parameters.

        Raises
        ------
        Diverged
            When an order parameter is no longer finite.
        """
        stop = self.training.times if until is None else until
        while self.time < stop:
            with np.errstate(over="ignore", invalid="ignore"):
                self._step(self.time)
            self.time += 1
            if after_step is not None:
                after_step(self)
        return self.result

    @abstractmethod
    def _hidden(self, index: int, t: int) -> np.ndarray:
        """Return ``h(t)`` of a layer above the first, shape (M, N)."""

    @abstractmethod
    def _returned(self, index: int, t: int) -> np.ndarray:
        """Return ``z(t)`` of a layer below the last, shape (m, N)."""

    def _step(self, t: int) -> None:
        for index in range(self.training.layers):
            self._forward(index, t)
        self._output(t)
        for index in reversed(range(self.training.layers)):
            self._backward(index, t)

    def _forward(self, index: int, t: int) -> None:
        training, out, weights = self.training, self.result, self.nodes[index].weights
        m, total = training.samples, training.points
        rows, past = slice(t * total, (t + 1) * total), t * total
        if index == 0:
            if t > 0:
                self._drive += out.rates[t - 1][:, None] * self.g[0][(t - 1) * m : t * m]
            h = self._inputs + training.gram[:, :m] @ self._drive
        else:
            h = self._hidden(index, t)
        x, *slopes = training.activation(h)
        self._slopes[index] = slopes
        self.x[index][rows] = x
        weighted = x * weights
        block = weighted @ self.x[index][: past + total].T
        require_finite(block, f"feature kernel Phi of layer {index + 1}", out, t)
        out.phi[index][rows, : past + total] = block
        out.phi[index][: past + total, rows] = block.T
        if t == 0:
            self._first[index][:] = h
            out.pre[index][0] = (h * weights) @ h.T
        if t == training.times - 1:
            out.pre[index][1] = (h * weights) @ h.T
            out.change[index][:] = (h - self._first[index]) ** 2 @ weights

    def _output(self, t: int) -> None:
        training, out = self.training, self.result
        m, total = training.samples, training.points
        if t > 0:
            earlier = self.x[-1][(t - 1) * total : (t - 1) * total + m]
            self.readout += out.rates[t - 1] @ earlier
        f = self.x[-1][t * total : (t + 1) * total] @ (self.readout * self.nodes[-1].weights)
        if self._exact_start:
            # E[w_0 x(0)] = 0 exactly: subtracting its sampled value is a control variate, and gives f(0) = 0.
            if t == 0:
                self._start[:] = f
            f = f - self._start
        out.f[t] = f / training.richness
        require_finite(out.f[t], "output f", out, t)
        out.error_signal[t] = training.error_signal(out.f[t, :m])
        out.rates[t] = training.learning_rates[t] * training.richness * training.weights[t] * out.error_signal[t]

    def _backward(self, index: int, t: int) -> np.ndarray:
        """Record ``g(t)`` of a layer and return ``z(t)``."""
        training, out, weights = self.training, self.result, self.nodes[index].weights
        m = training.samples
        rows, past = slice(t * m, (t + 1) * m), t * m
        z = self.readout[None] if index == training.layers - 1 else self._returned(index, t)
        slope, _ = self._slopes[index]
        self.g[index][rows] = z * slope[:m]
        block = (self.g[index][rows] * weights) @ self.g[index][: past + m].T
        require_finite(block, f"gradient kernel G of layer {index + 1}", out, t)
        out.g[index][rows, : past + m] = block
        out.g[index][: past + m, rows] = block.T
        return z

    def arrays(self) -> dict[str, np.ndarray]:
        """Return by name the arrays whose size does not change, not copied: most of a checkpoint."""
        out = {f"result.{k}": v for k, v in self.result.arrays().items()}
        for name in ("x", "g", "_first"):
            out |= {f"{name}{i}": array for i, array in enumerate(getattr(self, name))}
        return out | {"drive": self._drive, "readout": self.readout, "start": self._start}

    def state(self) -> dict[str, np.ndarray]:
        """Return the arrays from which `restore` goes on, bit for bit."""
        return {"time": np.array(self.time)} | self.arrays()

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take up a state saved by the same march."""
        self.time = int(state["time"])
        for name, array in self.arrays().items():
            array[:] = state[name]


def train_columns(kernel: np.ndarray, total: int, samples: int) -> np.ndarray:
    """Return the columns of the training samples of a kernel whose columns are (time, sample)."""
    return kernel.reshape(len(kernel), -1, total)[:, :, :samples].reshape(len(kernel), -1)


def require_finite(values: np.ndarray, name: str, result: OrderParameters, t: int) -> None:
    """Raise `Diverged` unless all values found at time t are finite."""
    if not np.isfinite(values).all():
        raise Diverged(name, result, t)
