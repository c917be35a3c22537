"""When does training in practice follow the truncation flow? Gradient descent on all native parameters of real ReLU
networks.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from dimladder.problem.truncation import geometry as g
from dimladder.problem.truncation.networks import Network
from dimladder.theories.truncation import gradient_flows as gf
from dimladder_validation.simulate.truncation.states import random_network, relative_spread, train


def start_of_the_flow(depth: float) -> tuple[g.ClusteredData, Network, gf.TruncationStack]:
    """Layers R_l, thresholds `depth` cluster radii past the class means, last layer fitted to the flow's targets."""
    data = g.ball_clusters(3, [30, 40, 50], 6.0, 0.25, 0.5, 5)
    cones = g.cones(data)
    unit = np.full(3, 1 / math.sqrt(3))
    rotations = [g.rotation(cones.directions[:, j], unit) for j in range(3)]
    apexes = data.means + depth * data.radius * cones.directions
    targets = data.means + 1.6 * cones.directions
    total_w = [*rotations, data.labels @ np.linalg.inv(targets)]
    total_b = [-r @ p for r, p in zip(rotations, apexes.T, strict=True)] + [np.zeros(3)]
    weights, biases = g.native(total_w, total_b)
    stack = gf.TruncationStack(np.array(rotations), -apexes.T, data.inputs, targets[:, data.classes_of_points])
    return data, Network(tuple(weights), tuple(biases)), stack


@pytest.mark.parametrize("depth", [0.0, 1.2])
def test_training_follows_the_flow_once_the_clusters_are_behind_their_thresholds(depth: float) -> None:
    """The effective flow collapses the clusters from either start; training all native parameters only from the second.

    From thresholds at the class means it falls into a minimum of its own, with a spread that stays.
    """
    data, network, stack = start_of_the_flow(depth)
    path = gf.flow(stack, np.array([0.0, 8.0]), move_rotations=False, rtol=1e-6, min_step=1e-2)
    flowed = stack.at(path.rotations[-1], path.offsets[-1]).truncated()
    assert relative_spread(data, flowed) < 1e-20
    _, record = train(data, network, rate=2e-3, steps=4000, records=2)
    assert np.all(np.diff(record.costs) < 0)
    if depth > 1:
        assert record.spread[-1] < 1e-6
        assert record.costs[-1] < 1e-3
    else:
        assert record.spread[-1] > 3e-4
        assert record.costs[-1] > 0.02


def test_narrow_random_networks_do_not_find_the_explicit_minimum() -> None:
    """Width Q, plain initialisation: most die on a constant output, of cost |Y - mean|; none comes near zero."""
    data = g.ball_clusters(3, [30, 40, 50], 6.0, 0.25, 0.6, 13)
    assert data.cost(g.explicit_minimiser(data)(data.inputs)) < 1e-12
    constant = math.sqrt(float(np.sum((data.labels - data.labels.mean(axis=1, keepdims=True)) ** 2)))
    ends = []
    for seed in range(4):
        _, record = train(
            data, random_network(3, 3, 3, 3, np.random.default_rng(seed)), rate=2e-3, steps=3000, records=1
        )
        ends.append(float(record.costs[-1]))
    assert min(ends) > 0.3
    assert sum(abs(e - constant) < 1e-3 for e in ends) >= 2
