"""Ridge regression with the tangent kernel of one hidden layer, on m samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .base import Backend, Experiment, Sample
from .sgd import derivative

if TYPE_CHECKING:
    import numpy as np

BLOCK = 4096  # hidden units at a time: the kernel is a sum over units, never the features of all of them


class NTKRidgeExperiment(Experiment):
    """The kernel of a growing layer: narrower networks are the first units of wider ones."""

    theory = "ntk-ridge"
    size = "m"
    batch_size = 1
    correction_exponent = 1.0

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        """Test on as many fresh inputs as samples; the noise of their labels is added exactly."""
        import numpy as np

        from dimladder.problem import activation, axis_values

        xp, m, data, student = backend.xp, size, problem.data, problem.student
        ratios = axis_values(problem.grid.width_ratio)
        widths = [max(1, round(r * m)) for r in ratios]
        inputs = max(1, round(data.phi * m))
        shape = activation(student.activation)
        slope, mean = derivative(shape), student.moments()[0]
        train, test = (np.empty((len(streams), len(widths))) for _ in range(2))
        for replica, stream in enumerate(streams):

            def draw(*dims: int, source: Any = (stream,)) -> Any:
                return backend.normal(source, dims)[0]

            x = draw(2 * m, inputs) / math.sqrt(inputs)
            beta = draw(inputs)
            # The length of beta is fixed at its mean: it only multiplies the signal.
            clean = xp.matmul(x, beta * (math.sqrt(inputs) / xp.sqrt(xp.sum(beta * beta))))
            y = clean[:m] + data.noise * draw(m)
            gram = xp.matmul(x, xp.matrix_transpose(x[:m]))
            features, gradients = backend.zeros((2 * m, m)), backend.zeros((2 * m, m))
            done = 0
            for column in sorted(range(len(widths)), key=widths.__getitem__):
                while done < widths[column]:
                    units = min(BLOCK, widths[column] - done)
                    h = xp.matmul(x, draw(inputs, units))
                    s = shape.evaluate(xp, x=h) - mean
                    features = features + xp.matmul(s, xp.matrix_transpose(s[:m]))
                    if student.readout_variance > 0:
                        ds = slope.evaluate(xp, x=h)
                        a = draw(units)
                        gradients = gradients + xp.matmul(ds * (a * a), xp.matrix_transpose(ds[:m]))
                    done += units
                kernel = (features + student.readout_variance * gradients * gram) / widths[column]
                dual = xp.linalg.solve(kernel[:m] + student.ridge * backend.eye(m), y[:, None])[:, 0]
                missed = clean[m:] - xp.matmul(kernel[m:], dual)
                train[replica, column] = float(xp.mean((student.ridge * dual) ** 2))
                test[replica, column] = float(xp.mean(missed**2)) + data.noise**2
        names = {"test_error": test, "train_error": train}
        return Sample({"width_ratio": np.array(ratios)}, {k: (("width_ratio",), v) for k, v in names.items()})


EXPERIMENT = NTKRidgeExperiment()
