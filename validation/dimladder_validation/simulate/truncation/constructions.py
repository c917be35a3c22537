"""The explicit networks of one hidden layer, and of one hyperplane a class, measured point by point.

As in `states`: points drawn at random from the classes go through the ReLU networks neuron by neuron, with last
layers found by least squares on all the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..base import Backend, Sample
from .states import ConstructedExperiment, costs_of, picks_of

if TYPE_CHECKING:
    import numpy as np


class ShallowExperiment(ConstructedExperiment):
    """Measures the costs of the shallow network on randomly drawn points."""

    theory = "truncation-shallow"

    def exact(self, problem: Any) -> tuple[str, ...]:
        return ("noise_to_signal",)

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        """Draw `size` points of every class for each replica; in float64 on the CPU, whatever the backend."""
        import numpy as np

        from dimladder.problem.truncation.networks import Network, best_last_layer
        from dimladder.problem.truncation.shallow import network
        from dimladder.problem.truncation.stated import given

        data = given(problem.data)
        built = network(data)
        q, hidden = data.classes, Network(built.weights, built.biases).features(data.inputs)
        # Coordinates that the layer kills are zero: a last layer on them is none.
        last = {
            "linear_cost": best_last_layer(hidden[:q], data.outputs, data.weights, offset=built.biases[0][:q]),
            "affine_cost": best_last_layer(hidden[:q], data.outputs, data.weights),
        }
        networks = {"construction_cost": built} | {
            name: built.with_last(np.pad(w, ((0, 0), (0, data.dimension - q))), b) for name, (w, b) in last.items()
        }
        picks = picks_of(data, size, streams)
        variables: dict[str, Any] = {name: ((), costs_of(data, net, picks, size)) for name, net in networks.items()}
        # Fluctuations of what the last layer of the construction makes of every point, in units of labels.
        coordinates = np.linalg.solve(data.labels, built(data.inputs))
        ratio = max(
            float(np.linalg.norm(own - own.mean(axis=1, keepdims=True), axis=0).max())
            for own in (coordinates[:, data.classes_of_points == j] for j in range(data.classes))
        )
        return Sample({}, {**variables, "noise_to_signal": ((), np.full(len(streams), ratio))})


class SeparableExperiment(ConstructedExperiment):
    """Measures the least costs after every cut on randomly drawn points."""

    theory = "truncation-separable"

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        """Draw `size` points of every class for each replica; in float64 on the CPU, whatever the backend."""
        import numpy as np

        from dimladder.problem.truncation.geometry import native
        from dimladder.problem.truncation.networks import Network, best_last_layer
        from dimladder.problem.truncation.separable import cut_layers, separable_network, sequential_cuts
        from dimladder.problem.truncation.stated import load

        data = load(problem.data)
        chain = sequential_cuts(data, problem.student.order or None)
        total_w, total_b = cut_layers(data, chain)
        picks, eye, nothing = picks_of(data, size, streams), np.eye(data.classes), np.zeros(data.classes)
        costs: dict[str, list[Any]] = {"linear_cost": [], "affine_cost": []}
        for layer in range(data.classes + 1):
            if layer == 0:
                # No hidden layer: the last one acts on the inputs.
                body, features, offset = None, data.inputs, nothing
            else:
                w, b = native(total_w[:layer], total_b[:layer])
                body = Network((*w, eye), (*b, nothing))
                features, offset = body.features(data.inputs), total_b[layer - 1]
            for name, tied in (("linear_cost", {"offset": offset}), ("affine_cost", {})):
                last = best_last_layer(features, data.outputs, data.weights, **tied)
                whole = Network((last[0],), (last[1],)) if body is None else body.with_last(*last)
                costs[name].append(costs_of(data, whole, picks, size))
        # Zero up to round-off on either side: shown, but not a number two computations can agree on.
        explicit = costs_of(data, separable_network(data, chain), picks, size)
        variables: dict[str, Any] = {name: (("layer",), np.stack(v, axis=1)) for name, v in costs.items()}
        return Sample({"layer": np.arange(data.classes + 1)}, {**variables, "explicit_cost": ((), explicit)})


SHALLOW, SEPARABLE = ShallowExperiment(), SeparableExperiment()
