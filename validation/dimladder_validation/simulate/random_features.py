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
    size = "n"
    batch_size = 4

    def closing(self, problem: Any) -> Closing:
        return Closing(slowest=0.5, reason="features are equivalent to Gaussian ones up to n^-1/2")

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        import numpy as np

        from dimladder.problem import activation, axis_values

        xp, student, target = backend.xp, problem.student, problem.target
        sigma, link = activation(student.activation), target.expression
        ratios = np.array(axis_values(problem.grid.sample_ratio))
        counts = [max(1, round(a * size)) for a in ratios]
        width = max(1, round(student.width_ratio * size))
        test = max(2000, TEST_FACTOR * size)
        results = {
            "test_error": np.empty((len(streams), ratios.size)),
            "train_error": np.empty((len(streams), ratios.size)),
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
                penalty = student.ridge_times_width / width * count
                w = ridge_fit(phi, labels, penalty, backend)
                train = labels - phi @ w
                held = y[max(counts) :] - features[max(counts) :] @ w
                results["train_error"][r, i] = float(xp.mean(train**2))
                results["test_error"][r, i] = float(xp.mean(held**2))
        return Sample({"sample_ratio": ratios}, {name: (("sample_ratio",), values) for name, values in results.items()})


EXPERIMENT = RandomFeaturesExperiment()
