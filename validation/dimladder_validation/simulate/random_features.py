"""Random features with a ridge readout at finite n: draw, fit, and test on fresh points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .base import Backend, Closing, Experiment, Sample, ridge_fit

if TYPE_CHECKING:
    import numpy as np

# Test points are this many times the input dimension: their noise is then below that of the training set.
TEST_FACTOR = 10


class RandomFeaturesExperiment(Experiment):
    """One first layer and one nested training set a replica; every sample ratio is fitted on its beginning."""

    theory = "random-features"
    size = "d"
    batch_size = 4

    def closing(self, problem: Any) -> Closing:
        return Closing(slowest=0.5, reason="features are equivalent to Gaussian ones up to n^-1/2")

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        import numpy as np

        from dimladder.problem import activation

        xp, layer, target = backend.xp, problem.student.layers[0], problem.target
        sigma, link = activation(layer.activation), target.expression
        ratios = np.array(problem.grid.values("sample_ratio"))
        counts = [max(1, round(a * size)) for a in ratios]
        width = max(1, round(layer.width_ratio * size))
        test = max(2000, TEST_FACTOR * size)
        results = {
            "test_mse": np.empty((len(streams), ratios.size)),
            "train_mse": np.empty((len(streams), ratios.size)),
        }
        for r, stream in enumerate(streams):
            first = backend.normal([stream], (width, size))[0] / size**0.5
            # The law of x is rotation invariant: the target direction is the first axis.
            x = backend.normal([stream], (max(counts) + test, size))[0]
            noise = backend.normal([stream], (max(counts) + test,))[0]
            y = link.evaluate(xp, z=x[:, 0]) + target.noise * noise
            features = sigma.evaluate(xp, x=x @ first.T) / width**0.5
            for i, count in enumerate(counts):
                phi, labels = features[:count], y[:count]
                penalty = problem.loss.ridge_per_sample / width * count
                w = ridge_fit(phi, labels, penalty, backend)
                train = labels - phi @ w
                held = y[max(counts) :] - features[max(counts) :] @ w
                results["train_mse"][r, i] = float(xp.mean(train**2))
                results["test_mse"][r, i] = float(xp.mean(held**2))
        return Sample({"sample_ratio": ratios}, {name: (("sample_ratio",), values) for name, values in results.items()})


EXPERIMENT = RandomFeaturesExperiment()
