"""Deterministic nodes: tensor trapezoid rules for one hidden layer and for few steps.

The integrands are analytic and decay like a Gaussian, for which the trapezoid rule converges geometrically in the
spacing (Trefethen, Weideman 2014) and clearly beats Gauss-Hermite. Innovations of later times are small, so a few
Gauss-Hermite nodes serve them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gamma

import numpy as np

from ...numerics.quadrature import gauss_hermite
from ...problem.training import Training
from .march import Nodes, OrderParameters, require_finite

TRUNCATION = 8.5  # the neglected normal mass is 1e-17 a side
MAX_NODES = 20_000_000
CHUNK = 4096


def trapezoid(spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights with sum(w f(x)) = E f(Z) for analytic f, Z ~ N(0, 1)."""
    half = int(np.ceil(TRUNCATION / spacing))
    nodes = spacing * np.arange(-half, half + 1)
    weights = np.exp(-0.5 * nodes**2)
    return nodes, weights / weights.sum()


def tensor(rules: Sequence[tuple[np.ndarray, np.ndarray]], cutoff: float = 1e-19) -> tuple[np.ndarray, np.ndarray]:
    """Return the product rule: nodes (dimensions, N) and weights (N,). Products below `cutoff` are left out."""
    nodes, weights = np.zeros((0, 1)), np.ones(1)
    for points, w in rules:
        nodes = np.concatenate([np.repeat(nodes, len(points), axis=1), np.tile(points, nodes.shape[1])[None]])
        weights = np.outer(weights, w).ravel()
        keep = weights > cutoff
        nodes, weights = nodes[:, keep], weights[keep]
    return nodes, weights / weights.sum()


def _halved(nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep half of a symmetric grid: for odd activations a flip of all drives of a layer changes no average."""
    keep = nodes[0] >= 0
    return nodes[:, keep], weights[keep] * np.where(nodes[0, keep] > 0, 2.0, 1.0)


def node_count(dimensions: int, spacing: float) -> float:
    """Return the size of the grid of `one_layer` before small weights are left out."""
    return float(len(trapezoid(spacing)[0])) ** dimensions


def solve_one_layer(training: Training, spacing: float) -> OrderParameters:
    """Return the order parameters of one hidden layer by the tensor trapezoid rule.

    A particle is ``(h, w)``: ``h <- h + K (a phi'(h) w)``, ``w <- w + a . phi(h)``, started from ``h ~ N(0, K)``, ``w ~
    N(0, 1)``; there are no responses. The grid has rank(K) + 1 dimensions. A first pass finds the outputs, a second one
    the kernels over pairs of times, so the memory is that of one time.

    Raises
    ------
    ValueError
        When the grid would hold more than `MAX_NODES` nodes, or the network has more than one hidden layer.
    """
    if training.layers != 1:
        raise ValueError(f"this quadrature is for one hidden layer, not {training.layers}")
    out = OrderParameters.empty(training)
    root, nodes, weights = _follow_outputs(training, spacing, out)
    for start in range(0, len(weights), CHUNK):
        part = slice(start, start + CHUNK)
        _add_kernels(training, out, root @ nodes[:-1, part], nodes[-1, part].copy(), weights[part])
    out.forward_pivots[0, 0], out.backward_pivots[0, 0] = np.linalg.eigvalsh(training.gram)[0], 1.0
    return out


def quadrature_error(training: Training, spacing: float, result: OrderParameters) -> float:
    """Return the largest change of an output when the spacing grows by half: far above the error of `result` itself."""
    coarse = OrderParameters.empty(training)
    _follow_outputs(training, 1.5 * spacing, coarse)
    return float(np.abs(coarse.f - result.f).max())


def _follow_outputs(
    training: Training, spacing: float, out: OrderParameters
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fill in outputs and rates; return the square root of the inputs' Gram matrix, the nodes and their weights."""
    values, vectors = np.linalg.eigh(training.gram)
    keep = values > 1e-12 * values[-1]
    root = vectors[:, keep] * np.sqrt(values[keep])
    count = node_count(root.shape[1] + 1, spacing)
    if count > MAX_NODES:
        raise ValueError(
            f"{root.shape[1]} independent inputs at spacing {spacing} need {count:.1e} nodes, more than {MAX_NODES:.0e}"
        )
    nodes, weights = tensor([trapezoid(spacing)] * (root.shape[1] + 1))
    if training.is_odd:
        nodes, weights = _halved(nodes, weights)
    m = training.samples
    h, w = root @ nodes[:-1], nodes[-1].copy()
    for t in range(training.times):
        x, slope, _ = training.activation(h)
        out.f[t] = x @ (w * weights) / training.richness
        require_finite(out.f[t], "output f", out, t)
        out.error_signal[t] = training.error_signal(out.f[t, :m])
        out.rates[t] = training.learning_rates[t] * training.richness * training.weights[t] * out.error_signal[t]
        h, w = _updated(training, out.rates[t], h, w, x, slope)
    return root, nodes, weights


def _updated(
    training: Training, a: np.ndarray, h: np.ndarray, w: np.ndarray, x: np.ndarray, slope: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    m = training.samples
    return h + training.gram[:, :m] @ (a[:, None] * slope[:m] * w), w + a @ x[:m]


def _add_kernels(training: Training, out: OrderParameters, h: np.ndarray, w: np.ndarray, weights: np.ndarray) -> None:
    m, total, times = training.samples, training.points, training.times
    xs, gs, first = np.empty((times * total, len(w))), np.empty((times * m, len(w))), h
    for t in range(times):
        x, slope, _ = training.activation(h)
        xs[t * total : (t + 1) * total], gs[t * m : (t + 1) * m] = x, slope[:m] * w
        if t == 0:
            out.pre[0][0] += (h * weights) @ h.T
        if t == times - 1:
            out.pre[0][1] += (h * weights) @ h.T
            out.change[0] += (h - first) ** 2 @ weights
        h, w = _updated(training, out.rates[t], h, w, x, slope)
    out.phi[0] += (xs * weights) @ xs.T
    out.g[0] += (gs * weights) @ gs.T


def few_step_nodes(
    training: Training, spacings: Sequence[float] = (0.2, 0.5, 0.8), cutoff: float = 1e-14
) -> list[Nodes]:
    """Return tensor nodes for the march of a deep network over few steps on one or two inputs.

    Parameters
    ----------
    spacings : sequence of float
        Spacing of the trapezoid rule for the innovations of time 0, 1, ... (the last entry repeats): later innovations
        are smaller, so their integrands are smoother.
    cutoff : float
        Products of weights below it are left out.

    Raises
    ------
    ValueError
        When a layer would need more than `MAX_NODES` nodes.
    """
    from .sampling import dimensions

    times, nodes = training.times, []
    for index, (forward, backward) in enumerate(dimensions(training)):
        rules = []
        for count, per_time, is_backward in ((forward, training.points, False), (backward, training.samples, True)):
            for row in range(count):
                t = row // per_time
                if is_backward and count > 1 and t == times - 1 and t > 0:
                    rules.append(gauss_hermite(2))  # exact for G at the last time; moves no output
                else:
                    rules.append(trapezoid(spacings[min(t, len(spacings) - 1)]))
        # Radius of the ball that the cutoff keeps, and the cells in it.
        wide = [r for r in rules if len(r[1]) > 2]
        radius, cell = np.sqrt(-2 * np.log(cutoff)), np.prod([r[0][1] - r[0][0] for r in wide])
        ball = np.pi ** (len(wide) / 2) / gamma(len(wide) / 2 + 1) * radius ** len(wide)
        size = ball / cell * 2 ** (len(rules) - len(wide))
        if size > MAX_NODES:
            raise ValueError(
                f"layer {index + 1} needs {size:.0e} nodes, more than {MAX_NODES:.0e}: few steps on few inputs only"
            )
        points, weights = tensor(rules, cutoff)
        if training.is_odd:
            points, weights = _halved(points, weights)
        nodes.append(Nodes(points[:forward], points[forward:], weights))
    return nodes
