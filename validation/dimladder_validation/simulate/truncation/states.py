"""The networks of the truncation states, measured point by point, and trained.

The costs of a state are measured on points drawn at random from the clusters and pushed through the ReLU network
neuron by neuron, with a last layer found by least squares on all the data: no formula of the theory is used. Means
over n draws fluctuate as n^-1/2; the square root in the cost gives a bias of order 1/n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..base import Backend, Closing, Experiment, Sample

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class ConstructedExperiment(Experiment):
    """Measures the costs of networks that are constructed, on randomly drawn points."""

    on_host = "networks are constructed, not trained, and some of their costs are zero"
    size = "samples"

    def closing(self, problem: Any) -> Closing:
        return Closing(1.0, reason="the square root of a mean of n draws: a bias of 1/n by the delta method")


class TruncationExperiment(ConstructedExperiment):
    """Measures the costs of the truncation states on randomly drawn points."""

    theory = "truncation"

    def exact(self, problem: Any) -> tuple[str, ...]:
        return ("noise_to_signal",)

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        """Draw `size` points of every class for each replica and measure the costs of all states on them.

        In float64 on the CPU, whatever the backend: some of these costs are zero.
        """
        import numpy as np

        from dimladder.problem.truncation.geometry import cumulative, explicit_minimiser, hidden_layers, native
        from dimladder.problem.truncation.networks import Network, best_last_layer
        from dimladder.problem.truncation.stated import clusters_and_cones, parse_state, shifts_of, states_of

        data, geometry = clusters_and_cones(problem)
        q, x, y, weights = data.classes, data.inputs, data.outputs, data.weights
        enforce = problem.student.assumptions == "required"
        explicit = explicit_minimiser(
            data, problem.student.layers, geometry=geometry, shifts=shifts_of(problem, geometry), enforce=enforce
        )
        networks: dict[str, list[Any]] = {"linear_cost": [], "affine_cost": []}
        for label in states_of(problem):
            hidden = hidden_layers(data, geometry, shifts_of(problem, geometry, parse_state(label)))
            w, b = native(hidden.weights, hidden.biases)
            body = Network((*w, np.eye(q)), (*b, np.zeros(q)))
            features = body.features(x)
            networks["linear_cost"].append(
                body.with_last(*best_last_layer(features, y, weights, offset=hidden.biases[-1]))
            )
            networks["affine_cost"].append(body.with_last(*best_last_layer(features, y, weights)))

        picks = picks_of(data, size, streams)
        # Zero up to round-off on either side: shown, but not a number two computations can agree on.
        variables: dict[str, Any] = {"explicit_cost": ((), costs_of(data, explicit, picks, size))}
        for name, group in networks.items():
            variables[name] = (("state",), np.stack([costs_of(data, n, picks, size) for n in group], axis=1))
        # Every point of the data through the native layers and back to input space: the same in all replicas.
        ratios = [_ratio(data, x)]
        totals, offsets = cumulative(explicit.weights[:-1], explicit.biases[:-1])
        for total, offset, layer in zip(totals, offsets, explicit.hidden(x), strict=True):
            ratios.append(_ratio(data, np.asarray(np.linalg.solve(total, layer - offset[:, None]), dtype=float)))
        variables["noise_to_signal"] = (("layer",), np.tile(ratios, (len(streams), 1)))
        coords = {"layer": np.arange(problem.student.layers + 1), "state": np.array(states_of(problem))}
        return Sample(coords, variables)


def picks_of(data: Any, size: int, streams: Sequence[np.random.Generator]) -> list[npt.NDArray[np.int64]]:
    """Return the points of every replica: `size` draws from each class, with replacement."""
    import numpy as np

    starts = np.concatenate([[0], np.cumsum(data.counts)[:-1]])
    return [
        np.concatenate(
            [first + stream.integers(0, count, size) for first, count in zip(starts, data.counts, strict=True)]
        )
        for stream in streams
    ]


def costs_of(data: Any, network: Any, picks: Sequence[npt.NDArray[np.int64]], size: int) -> npt.NDArray[np.float64]:
    """Return the cost of one network in every replica: each class is averaged over its own draws."""
    import numpy as np

    errors = np.sum((network(data.inputs) - data.outputs) ** 2, axis=0)
    return np.array([np.sqrt(errors[pick].sum() / size) for pick in picks])


def _ratio(data: Any, points: npt.NDArray[np.float64]) -> float:
    """Largest fluctuation of `points` in barycentric coordinates."""
    import numpy as np

    groups = [points[:, data.classes_of_points == j] for j in range(data.classes)]
    means = np.stack([group.mean(axis=1) for group in groups], axis=1)
    return max(
        float(np.linalg.norm(np.linalg.solve(means, group - group.mean(axis=1, keepdims=True)), axis=0).max())
        for group in groups
    )


@dataclass(frozen=True)
class TrainingRecord:
    """Cost C_N along gradient descent.

    Attributes
    ----------
    steps, costs : (T,) arrays
    spread : (T,) array
        Sum over classes of the trace of the covariance of the last hidden layer, relative to that of its class means:
        0 when every class has collapsed to a point.
    """

    steps: npt.NDArray[np.int64]
    costs: npt.NDArray[np.float64]
    spread: npt.NDArray[np.float64]


def train(data: Any, network: Any, *, rate: float, steps: int, records: int = 20) -> tuple[Any, TrainingRecord]:
    """Full-batch gradient descent on C_N^2 in all parameters, recorded at `records` + 1 even intervals.

    Parameters
    ----------
    data : ClusteredData
    network : Network
    rate : float
        Step size on C_N^2.
    """
    import numpy as np

    from dimladder.problem.truncation.networks import gradient_descent

    marks = np.unique(np.linspace(0, steps, records + 1).astype(np.int64))
    costs, spread = [], []
    for number, mark in enumerate(marks):
        if number:
            network, _ = gradient_descent(
                network, data.inputs, data.outputs, data.weights, rate=rate, steps=int(mark - marks[number - 1])
            )
        costs.append(data.cost(network(data.inputs)))
        spread.append(relative_spread(data, network.features(data.inputs)))
    return network, TrainingRecord(marks, np.array(costs), np.array(spread))


def relative_spread(data: Any, features: npt.NDArray[np.float64]) -> float:
    """Within-class over between-class variance of features, (k, N): the neural-collapse ratio."""
    import numpy as np

    groups = [features[:, data.classes_of_points == j] for j in range(data.classes)]
    means = np.stack([g.mean(axis=1) for g in groups], axis=1)
    within = sum(float(np.sum(g.var(axis=1))) for g in groups)
    between = float(np.sum((means - means.mean(axis=1, keepdims=True)) ** 2))
    return within / between if between > 0 else float("inf")


def random_network(width: int, hidden: int, outputs: int, inputs: int, rng: np.random.Generator) -> Any:
    """Plain ReLU network: He-scaled Gaussian weights, zero biases."""
    import numpy as np

    from dimladder.problem.truncation.networks import Network

    sizes = [inputs, *[width] * hidden, outputs]
    weights = tuple(rng.standard_normal((m, n)) * np.sqrt(2 / n) for n, m in pairwise(sizes))
    return Network(weights, tuple(np.zeros(m) for m in sizes[1:]))


EXPERIMENT = TruncationExperiment()
