"""The causal march: infinite-width training under muP, time by time.

One forward sweep in time gives every order parameter exactly up to the sampling of the single-site averages; there is
no fixed point, no damping, and no limit on the step size. At each time t

1. for l = 1..L: extend the factor of ``Phi^{l-1}`` by the rows of t, draw ``u^l(t)`` given the past, then
   ``h = u + C g``, ``x = phi(h)``, ``Phi^l(t, <=t) = <x x>`` and ``A^l(t, <t)``;
2. ``f(t) = <z^L(t) x^L(t)>/gamma``, ``Delta = -dloss/df``, ``a = eta gamma p Delta``;
3. for l = L..1: extend the factor of ``G^{l+1}``, draw ``r^l(t)``, then ``z = r + D x``, ``g = z phi'(h)``,
   ``G^l(t, <=t) = <g g>`` and ``B^l(t, <=t)``;

with ``C = A^{l-1} + a Phi^{l-1}`` and ``D = B^{l+1} + 1[s<t] a G^{l+1}``. Layers meet through their kernels only, so
each layer has its own samples. The equations are those of `equations.py`, and a test evaluates one against the other.

Memory: about ``6 L N m T`` numbers for the samples and ``6 L (m T)^2`` for the kernels. Time: at most
``(4/3) (L-1) N (m T)^3`` multiply-adds, half of it for the first and the last layer.

References
----------
Chen, Yang, Zhao, Gu (2025), arXiv:2503.09565; Bordelon, Pehlevan (2022), arXiv:2205.09653; Yang, Hu (2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...numerics.causal import CausalGaussian
from ...problem.training import Training
from .responses import AdjointSweep, Coupling


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
        ``Phi^l`` (S M, S M), ``G^l`` (S m, S m), ``A^l`` (S M, S m) for l < L, ``B^l`` (S m, S m) for l > 1.
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


@dataclass
class _Layer:
    """The single-site samples of one layer and the couplings that act on them."""

    nodes: Nodes
    u: CausalGaussian
    r: CausalGaussian
    x: np.ndarray  # (S M, N)
    g: np.ndarray  # (S m, N)
    slope: np.ndarray  # (S m, N): phi'(h)
    curve: np.ndarray  # (S m, N): phi''(h) z
    c: Coupling
    d: Coupling
    first: np.ndarray  # (M, N): h at t = 0
    current: dict[str, np.ndarray] = field(default_factory=dict)  # h, slope, second derivative at the current time


class March:
    """One march of one set of nodes.

    Parameters
    ----------
    training : Training
        Inputs, labels, weights, rates, activation and loss.
    nodes : sequence of Nodes, one a layer
    responses : bool
        False drops A and B ("gradient independence"), which is wrong at O(1): for ablations.
    response_samples : int, optional
        Use only this many of the samples for A and B.
    chunk : int
        Samples treated together in the adjoint sweep.
    response_dtype : {"float64", "float32"}
    exact_start : bool
        Subtract the sampling error of ``<w_0 x(0)>``, which is exactly zero at infinite width.
    """

    def __init__(
        self,
        training: Training,
        nodes: Sequence[Nodes],
        *,
        responses: bool = True,
        response_samples: int | None = None,
        chunk: int = 256,
        response_dtype: str = "float64",
        exact_start: bool = True,
    ) -> None:
        self.training, self.time = training, 0
        self.result = OrderParameters.empty(training)
        self._responses, self._exact_start = responses, exact_start
        self._keep = response_samples
        times, m, total, layers = training.times, training.samples, training.points, training.layers
        k, kt = times * m, times * total
        self._sweep = AdjointSweep(times, m, total, chunk, response_dtype) if responses and layers > 1 else None
        self._layers = []
        for index, node in enumerate(nodes):
            n, first, last = len(node.weights), index == 0, index == layers - 1
            u = CausalGaussian(total if first else kt, len(node.forward))
            r = CausalGaussian(1 if last else k, len(node.backward))
            if first:
                self.result.forward_pivots[0, 0] = u.extend(np.zeros((total, 0)), training.gram)[0]
            if last:
                self.result.backward_pivots[0, -1] = r.extend(np.zeros((1, 0)), np.ones((1, 1)))[0]
            static_c = Coupling(None, training.gram[:m, :m], self.result.rates)
            static_d = Coupling(None, np.ones((m, m)), self.result.rates)
            self._layers.append(
                _Layer(
                    node, u, r, np.empty((kt, n)), np.empty((k, n)), np.empty((k, n)), np.empty((k, n)),
                    static_c if first else Coupling(np.zeros((k, k))),
                    static_d if last else Coupling(np.zeros((k, k))),
                    np.empty((total, n)),
                )
            )  # fmt: skip

    def run(self, until: int | None = None, after_step: Callable[[March], None] | None = None) -> OrderParameters:
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

    def _step(self, t: int) -> None:
        for index in range(self.training.layers):
            self._forward(index, t)
        self._output(t)
        for index in reversed(range(self.training.layers)):
            self._backward(index, t)

    def _forward(self, index: int, t: int) -> None:
        training, out, layer = self.training, self.result, self._layers[index]
        m, total = training.samples, training.points
        rows, past = slice(t * total, (t + 1) * total), t * total
        if index == 0:
            # C^1 = a K^x: the first layer sees its gradients through a running sum.
            drive = _running(layer.current, "gradients", (m, len(layer.nodes.weights)))
            if t > 0:
                drive += out.rates[t - 1][:, None] * layer.g[(t - 1) * m : t * m]
            h = layer.u.draw(total, layer.nodes.forward) + training.gram[:, :m] @ drive
            c_row = np.tile(training.gram[:, :m], t) * out.rates[:t].ravel()
        else:
            below = out.phi[index - 1]
            pivots = layer.u.extend(below[rows, :past], below[rows, rows])
            out.forward_pivots[t, index] = pivots[0]
            kernel = below[rows, :past].reshape(total, t, total)[:, :, :m].reshape(total, t * m)
            c_row = out.a[index - 1][rows, : t * m] + kernel * out.rates[:t].ravel()
            layer.c.dense[t * m : (t + 1) * m, : t * m] = c_row[:m]  # type: ignore[index]
            h = layer.u.draw(total, layer.nodes.forward) + c_row @ layer.g[: t * m]
        x, slope, second = training.activation(h)
        layer.current.update(h=h, second=second)
        layer.x[rows] = x
        layer.slope[t * m : (t + 1) * m] = slope[:m]
        weighted = x * layer.nodes.weights
        block = weighted @ layer.x[: past + total].T
        require_finite(block, f"feature kernel Phi of layer {index + 1}", out, t)
        out.phi[index][rows, : past + total] = block
        out.phi[index][: past + total, rows] = block.T
        if t == 0:
            layer.first[:] = h
        if t in (0, training.times - 1):
            out.pre[index][0 if t == 0 else 1] = (h * layer.nodes.weights) @ h.T
        if t == training.times - 1:
            out.pre[index][1] = (h * layer.nodes.weights) @ h.T
            out.change[index][:] = (h - layer.first) ** 2 @ layer.nodes.weights
        if self._sweep is not None and index < training.layers - 1 and t > 0:
            some, weights = self._for_responses(layer)
            out.a[index][rows, : t * m] = self._sweep.forward(
                t, layer.c, layer.d, c_row, slope[:, some], layer.slope[: t * m, some], layer.curve[: t * m, some],
                weights,
            )  # fmt: skip

    def _output(self, t: int) -> None:
        training, out, layer = self.training, self.result, self._layers[-1]
        m, total = training.samples, training.points
        readout = _running(layer.current, "readout", (len(layer.nodes.weights),))
        if t == 0:
            readout += layer.r.draw(1, layer.nodes.backward)[0]
        else:
            earlier = layer.x[(t - 1) * total : (t - 1) * total + m]
            readout += out.rates[t - 1] @ earlier
        x = layer.x[t * total : (t + 1) * total]
        f = x @ (readout * layer.nodes.weights)
        if self._exact_start:
            # E[w_0 x(0)] = 0 exactly: subtracting its sampled value is a control variate, and gives f(0) = 0.
            if t == 0:
                layer.current["start"] = f.copy()
            f = f - layer.current["start"]
        out.f[t] = f / training.richness
        require_finite(out.f[t], "output f", out, t)
        out.error_signal[t] = training.error_signal(out.f[t, :m])
        out.rates[t] = training.learning_rates[t] * training.richness * training.weights[t] * out.error_signal[t]

    def _backward(self, index: int, t: int) -> None:
        training, out, layer = self.training, self.result, self._layers[index]
        m, total = training.samples, training.points
        rows, past = slice(t * m, (t + 1) * m), t * m
        if index == training.layers - 1:
            z = layer.current["readout"][None]
        else:
            above, response = out.g[index + 1], out.b[index]
            pivots = layer.r.extend(above[rows, :past], above[rows, rows])
            out.backward_pivots[t, index] = pivots[0]
            d_row = response[rows, : past + m].copy()
            d_row[:, :past] += above[rows, :past] * out.rates[:t].ravel()
            layer.d.dense[rows, : past + m] = d_row  # type: ignore[index]
            x = layer.x.reshape(training.times, total, -1)[: t + 1, :m].reshape(past + m, -1)
            z = layer.r.draw(m, layer.nodes.backward) + d_row @ x
        layer.g[rows] = z * layer.slope[rows]
        layer.curve[rows] = z * layer.current["second"][:m]
        block = (layer.g[rows] * layer.nodes.weights) @ layer.g[: past + m].T
        require_finite(block, f"gradient kernel G of layer {index + 1}", out, t)
        out.g[index][rows, : past + m] = block
        out.g[index][: past + m, rows] = block.T
        if self._sweep is not None and index > 0:
            some, weights = self._for_responses(layer)
            out.b[index - 1][rows, : past + m] = self._sweep.backward(
                t, layer.c, layer.d, layer.slope[: past + m, some], layer.curve[: past + m, some], weights
            )

    def _for_responses(self, layer: _Layer) -> tuple[slice, np.ndarray]:
        weights = layer.nodes.weights
        if self._keep is None or self._keep >= len(weights):
            return slice(None), weights
        kept = weights[: self._keep]
        return slice(0, self._keep), kept / kept.sum()

    def state(self) -> dict[str, np.ndarray]:
        """Return the arrays from which `restore` goes on, bit for bit."""
        out = {"time": np.array(self.time)} | {f"result.{k}": v for k, v in self.result.arrays().items()}
        for i, layer in enumerate(self._layers):
            for name in ("x", "g", "slope", "curve", "first"):
                out[f"layer{i}.{name}"] = getattr(layer, name)
            out |= {f"layer{i}.current.{k}": v for k, v in layer.current.items()}
            for name in ("c", "d"):
                dense = getattr(layer, name).dense
                if dense is not None:
                    out[f"layer{i}.{name}"] = dense
            for name in ("u", "r"):
                out |= {f"layer{i}.{name}.{k}": v for k, v in getattr(layer, name).state().items()}
        return out

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take up a state saved by the same march."""
        self.time = int(state["time"])
        for name, array in self.result.arrays().items():
            array[:] = state[f"result.{name}"]
        for i, layer in enumerate(self._layers):
            for name in ("x", "g", "slope", "curve", "first"):
                getattr(layer, name)[:] = state[f"layer{i}.{name}"]
            prefix = f"layer{i}.current."
            layer.current = {k.removeprefix(prefix): np.array(v) for k, v in state.items() if k.startswith(prefix)}
            for name in ("c", "d"):
                dense = getattr(layer, name).dense
                if dense is not None:
                    dense[:] = state[f"layer{i}.{name}"]
            for name in ("u", "r"):
                getattr(layer, name).restore(
                    {k: state[f"layer{i}.{name}.{k}"] for k in ("size", "factor", "table", "whiteners")}
                )


def memory(training: Training, samples: int) -> int:
    """Return the bytes a march holds at once: samples with their nodes, and kernels."""
    k, kt, layers = training.times * training.samples, training.times * training.points, training.layers
    per_sample = layers * (kt + 3 * k) + (layers - 1) * (kt + k) + training.points + 1
    kernels = layers * (3 * kt * kt + 6 * k * k)
    return 8 * (per_sample * samples + kernels)


def _running(store: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in store:
        store[name] = np.zeros(shape)
    return store[name]


def require_finite(values: np.ndarray, name: str, result: OrderParameters, t: int) -> None:
    """Raise `Diverged` unless all values found at time t are finite."""
    if not np.isfinite(values).all():
        raise Diverged(name, result, t)
