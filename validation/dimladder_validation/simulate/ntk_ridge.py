"""Ridge regression with the tangent kernel of one hidden layer, on m samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .base import Backend, Closing, Experiment, Sample
from .model_code import derivative

if TYPE_CHECKING:
    import numpy as np

BLOCK = 4096  # hidden units at a time: the kernel is a sum over units, never the features of all of them


class NTKRidgeExperiment(Experiment):
    """The kernel of a growing layer: narrower networks are the first units of wider ones."""

    theory = "ntk-ridge"
    size = "m"
    batch_size = 1

    def closing(self, problem: Any) -> Closing:
        return Closing(slowest=0.5, reason="features are equivalent to Gaussian ones up to m^-1/2")

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        """Test on as many fresh inputs as samples; the noise of their labels is added exactly."""
        import numpy as np

        from dimladder.numerics.quadrature import gauss_normal
        from dimladder.problem import activation

        xp, m, target, student, ridge = backend.xp, size, problem.target, problem.student, problem.loss.ridge
        ratios = problem.grid.values("width_ratio")
        widths = [max(1, round(r * m)) for r in ratios]
        inputs = max(1, round(m / problem.data.ratio))
        shape = activation(student.layers[0].activation)
        nodes, weights = gauss_normal(shape.kinks("x") or (0.0,), 512)
        slope, mean = derivative(shape), float(weights @ (shape.evaluate(np, x=nodes) + 0.0 * nodes))
        train, test = (np.empty((len(streams), len(widths))) for _ in range(2))
        for replica, stream in enumerate(streams):

            def draw(*dims: int, source: Any = (stream,)) -> Any:
                return backend.normal(source, dims)[0]

            x = draw(2 * m, inputs) / math.sqrt(inputs)
            beta = draw(inputs)
            # The length of beta is fixed at its mean: it only multiplies the signal.
            clean = xp.matmul(x, beta * (target.slope * math.sqrt(inputs) / xp.sqrt(xp.sum(beta * beta))))
            y = clean[:m] + target.noise * draw(m)
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
                dual = xp.linalg.solve(kernel[:m] + ridge * backend.eye(m), y[:, None])[:, 0]
                missed = clean[m:] - xp.matmul(kernel[m:], dual)
                train[replica, column] = float(xp.mean((ridge * dual) ** 2))
                test[replica, column] = float(xp.mean(missed**2)) + target.noise**2
        names = {"test_mse": test, "train_mse": train}
        return Sample({"width_ratio": np.array(ratios)}, {k: (("width_ratio",), v) for k, v in names.items()})


EXPERIMENT = NTKRidgeExperiment()
