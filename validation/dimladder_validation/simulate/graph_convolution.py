"""Ridge regression on convolved features of a contextual stochastic block model with N nodes.

The adjacency is the Gaussian model, not symmetric, and every train fraction uses the same graph: the first nodes of a
random order are labelled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .base import Backend, Closing, Experiment, Sample

if TYPE_CHECKING:
    import numpy as np


class GraphConvolutionExperiment(Experiment):
    """Measures test and train risk and test accuracy on graphs of ``size`` nodes."""

    theory = "graph-convolution"
    on_host = "one linear system a graph, ill-conditioned near gamma tau = 1"
    size = "nodes"
    least_size = 20  # below, a fraction of the nodes leaves nothing to train on, or to test on
    batch_size = 4

    def closing(self, problem: Any) -> Closing:
        if problem.loss.ridge or problem.loss.ridge_per_sample:
            return Closing(1.0, reason="resolvents of Gaussian matrices have an expansion in 1/N")
        return Closing(slowest=0.5, reason="without a ridge, eigenvalues at the edge of the spectrum count")

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        """Solve one graph a stream; on the CPU in float64, whatever the backend: near gamma tau = 1 the systems are
        ill-conditioned.
        """
        import numpy as np
        from scipy.linalg import lstsq, solve

        data, student, loss = problem.data, problem.student, problem.loss
        fractions = problem.grid.values("train_fraction")
        features = max(1, round(size / data.gamma))
        out = np.empty((3, len(streams), len(fractions)))
        for replica, stream in enumerate(streams):
            y = np.where(np.arange(size) % 2 == 0, 1.0, -1.0)
            stream.shuffle(y)
            u = stream.standard_normal(features)
            u /= np.linalg.norm(u)
            x = math.sqrt(data.mu / size) * np.outer(y, u) + stream.standard_normal((size, features)) / math.sqrt(
                features
            )
            design = stream.standard_normal((size, size)) @ x / math.sqrt(size)
            design += data.homophily / size * np.outer(y, y @ x) + student.self_loop * x
            for column, fraction in enumerate(fractions):
                count = max(1, round(fraction * size))
                train, labels = design[:count], y[:count]
                ridge = loss.ridge or 0.0
                if loss.ridge_per_sample is not None:
                    ridge = loss.ridge_per_sample * count / features
                if ridge > 0:
                    gram = train.T @ train + ridge * np.eye(features)
                    w = solve(gram, train.T @ labels, assume_a="pos")
                else:
                    w = lstsq(train, labels)[0]
                h = design @ w
                out[0, replica, column] = np.mean((h[count:] - y[count:]) ** 2)
                out[1, replica, column] = np.mean((h[:count] - labels) ** 2)
                out[2, replica, column] = np.mean(h[count:] * y[count:] > 0)
        names = ("test_risk", "train_risk", "test_accuracy")
        return Sample(
            {"train_fraction": np.array(fractions)},
            {n: (("train_fraction",), v) for n, v in zip(names, out, strict=True)},
        )


EXPERIMENT = GraphConvolutionExperiment()
