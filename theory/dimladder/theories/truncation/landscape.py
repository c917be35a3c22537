"""The 2^Q truncation states: their costs by formula and by least squares, their gradients, and which are critical.

A state s in {0,1}^Q says which clusters stay active (1) and which are collapsed to their base point (0). The costs
are those of the best last layer for the frozen hidden layers: ``linear`` with the cumulative bias clamped to zero,
``affine`` with the bias free, and ``printed`` the value of arXiv:2309.10639, Eq. (2.85), which uses the class means
before truncation and is right only for s = 0 and s = 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...problem.truncation.geometry import ClusteredData, Cones, HiddenLayers, hidden_layers, native, noise_to_signal
from ...problem.truncation.networks import Array, Network, best_last_layer, gradient
from . import formulas

CRITICAL_FRACTION = 0.02  # of C^2, the size of the (dimensionless) gradient at states that are not critical


def all_states(classes: int) -> list[str]:
    """Labels "00..0" to "11..1" in binary order; character j belongs to class j."""
    return ["".join(bits) for bits in itertools.product("01", repeat=classes)]


def truncated_means(data: ClusteredData, base_points: Array, state: Array) -> Array:
    """(Q, Q) class means after truncation: the mean of an active class, the base point of a collapsed one."""
    return np.where(state, data.means, base_points)


def active_covariance(data: ClusteredData, state: Array) -> Array:
    """Sum of the covariances of the active classes."""
    total = np.zeros((data.dimension, data.dimension))
    for j in np.flatnonzero(state):
        total += data.covariances[j]
    return total


def formula_costs(data: ClusteredData, base_points: Array, state: Array) -> tuple[float, float, float]:
    """(linear, affine, printed) costs C (not squared) from the closed forms of `formulas`."""
    v, e = formulas.orthonormal_split(data.classes)
    squares = formulas.compiled()(
        data.labels, truncated_means(data, base_points, state), data.means, active_covariance(data, state), v, e
    )
    linear, affine, printed = (math.sqrt(max(float(s), 0.0)) for s in squares)
    return linear, affine, printed


@dataclass(frozen=True)
class StateReport:
    """What direct computation on the network says about one truncation state.

    Attributes
    ----------
    linear, affine : float
        Costs C by weighted least squares for the last layer.
    bias_gradient : float
        Largest component of dC^2/db_l over the hidden layers of collapsed clusters (of all hidden layers if none is
        collapsed), at the affine optimum of the last layer.
    full_gradient : float
        The same over every weight and bias of the network.
    critical : bool
        Whether the gradient vanishes: less than `CRITICAL_FRACTION` of C^2 (and round-off), lengths measured in the
        size of the inputs. Costs below about 1e-5 cannot be told apart this way; `is_critical` can.
    network : Network
        The network with its affine last layer.
    """

    linear: float
    affine: float
    bias_gradient: float
    full_gradient: float
    critical: bool
    network: Network


def examine(data: ClusteredData, geometry: Cones, shifts: Sequence[float] | Array, state: Array) -> StateReport:
    """Build the network of a truncation state and measure it: no formula for the cost is used."""
    hidden = hidden_layers(data, geometry, shifts)
    w, b = native(hidden.weights, hidden.biases)
    q = data.classes
    network = Network((*w, np.eye(q)), (*b, np.zeros(q)))
    x, y, weights = data.inputs, data.outputs, data.weights
    features = network.features(x)
    last, offset = best_last_layer(features, y, weights, offset=hidden.biases[-1])
    linear = data.cost(last @ features + offset[:, None])
    network = network.with_last(*best_last_layer(features, y, weights))
    affine = data.cost(network(x))
    grad_w, grad_b = gradient(network, x, y, weights)
    collapsed = [j for j in range(q) if not state[j]] or list(range(q))
    bias_gradient = max(float(np.abs(grad_b[j]).max()) for j in collapsed)
    full_gradient = max(float(np.abs(g).max()) for g in (*grad_w, *grad_b))
    size = float(np.abs(x).max())
    hidden_slopes = (*grad_w[:-1], *(size * g for g in grad_b[:-1]))
    dimensionless = max(float(np.abs(g).max()) for g in hidden_slopes)
    round_off = 1e4 * np.finfo(float).eps * max(1.0, float(np.abs(data.labels).max())) ** 2
    critical = bool(dimensionless <= CRITICAL_FRACTION * affine**2 + round_off)
    return StateReport(linear, affine, bias_gradient, full_gradient, critical, network)


def is_critical(data: ClusteredData, state: Array, report: StateReport) -> bool:
    """Whether a state is a critical point of the full cost: by the proposition where it applies, else by measurement.

    All active: yes, nothing is cut and the affine optimum balances the residuals. All collapsed: yes, the cost is zero.
    Mixed, with a positive definite sum of active covariances: no.
    """
    if state.all() or not state.any():
        return True
    spectrum = np.linalg.eigvalsh(active_covariance(data, state))
    if spectrum[0] > 1e-10 * spectrum[-1]:
        return False
    return report.critical


def noise_to_signal_by_layer(data: ClusteredData, layers: HiddenLayers, collapsed: Iterable[bool], depth: int) -> Array:
    """delta_P after 0, 1, ..., `depth` layers, iterating the map on (means, fluctuations) that one truncation layer is.

    Layer l replaces the l-th class mean by its base point and its fluctuations by zero if it collapses that class,
    and is the identity otherwise; layers beyond the Q-th are identities.
    """
    means, active = data.means.copy(), np.ones(data.classes, dtype=bool)
    flags = list(collapsed)
    values = []
    for layer in range(depth + 1):
        if 0 < layer <= data.classes and flags[layer - 1]:
            means[:, layer - 1] = layers.base_points[:, layer - 1]
            active[layer - 1] = False
        live = [d for d, on in zip(data.fluctuations, active, strict=True) if on]
        values.append(noise_to_signal(means, live) if live else 0.0)
    return np.array(values)
