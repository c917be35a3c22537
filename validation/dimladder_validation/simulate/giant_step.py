"""The network of the giant-step theory at finite n: one true gradient step, a readout on fresh data, fresh test points.

The polynomial model is simulated beside it, on the same stepped first layer, with noise drawn anew for every entry of
the training and of the test features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .base import Backend, Closing, Experiment, Sample, ridge_fit

if TYPE_CHECKING:
    import numpy as np

TEST_POINTS = 4000


class GiantStepExperiment(Experiment):
    """Every replica draws network, batch, readout sample and test points; sample ratios are nested within a replica."""

    theory = "giant-step"
    size = "n"
    batch_size = 2

    def closing(self, problem: Any) -> Closing:
        return Closing(slowest=0.5, reason="features are equivalent to Gaussian ones up to n^-1/2")

    def at_size(self, problem: Any, size: int) -> Any:
        from dimladder.solve import replace

        return replace(problem, {"limit.n": size})

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        import numpy as np

        from dimladder.problem import axis_values
        from dimladder.theories import find

        sized = self.at_size(problem, size)
        system: Any = find(self.theory).derive(sized)
        ratios = np.array(axis_values(problem.grid.sample_ratio))
        rows = [_replica(sized, system, stream, backend) for stream in streams]
        variables = {
            name: (("sample_ratio",), np.array([[entry[name] for entry in row] for row in rows])) for name in rows[0][0]
        }
        return Sample({"sample_ratio": ratios}, variables)


def _replica(problem: Any, system: Any, stream: np.random.Generator, backend: Backend) -> list[dict[str, float]]:
    import numpy as np

    from dimladder.problem import activation
    from dimladder.theories.mixtures.features import label_law
    from dimladder.theories.mixtures.network import labels

    n = problem.limit.n
    data = system.data(n)
    drawn = system.draw(data, stream)
    most = max(system.samples(n))
    x, cluster = data.sample(stream, most + TEST_POINTS)
    y = labels(problem, data, x, cluster, stream)
    sigma, model = activation(problem.student.activation), system.polynomial(data)
    baseline = system.baseline(data, label_law(problem, data))
    width = drawn.first.shape[0]
    noise = stream.standard_normal((most + TEST_POINTS, width)) if model.noise else np.zeros((1, 1))
    rows = []
    for samples, batch in zip(system.samples(n), system.batch_sizes(n), strict=True):
        net = system.step(drawn, batch)
        used = np.r_[0:samples, most : most + TEST_POINTS]
        fields = x[used] @ net.stepped.T
        features = np.broadcast_to(sigma.evaluate(np, x=fields), fields.shape) / np.sqrt(width)
        found = _errors(problem, features, y[used], samples, backend)
        polynomial = model.evaluate(np, fields)
        if model.noise:
            polynomial = polynomial + model.noise * noise[used]
        hermite = _errors(problem, polynomial / np.sqrt(width), y[used], samples, backend)
        found["test_error_hermite"], found["train_error_hermite"] = hermite["test_error"], hermite["train_error"]
        found["relative_error"] = found["test_error"] / baseline
        if data.target is not None:
            found["step_overlap"] = float(
                (net.spike @ data.target) ** 2 / (net.spike @ net.spike) / (data.target @ data.target)
            )
        rows.append(found)
    return rows


def _errors(problem: Any, features: Any, y: Any, samples: int, backend: Backend) -> dict[str, float]:
    """Fit the readout on the first `samples` rows and measure it on both parts."""
    import numpy as np

    from .erm import fit, losses

    algorithm = problem.algorithm
    if algorithm.readout == "ridge":
        phi = backend.asarray(features)
        w = ridge_fit(phi[:samples], backend.asarray(y[:samples]), algorithm.ridge * samples, backend)
        residual = y - backend.to_numpy(phi @ w)
        return {
            "train_error": float(np.mean(residual[:samples] ** 2)),
            "test_error": float(np.mean(residual[samples:] ** 2)),
            "penalty": 0.5 * algorithm.ridge * float(backend.xp.sum(w * w)),
        }
    w, _ = fit(algorithm.readout, features[:samples], y[:samples], algorithm.ridge, samples, False)
    u = features @ w
    wrong, loss = (y * u <= 0).astype(float), losses(algorithm.readout, y, u)
    return {
        "train_error": float(wrong[:samples].mean()),
        "test_error": float(wrong[samples:].mean()),
        "train_loss": float(loss[:samples].mean()),
        "test_loss": float(loss[samples:].mean()),
        "penalty": 0.5 * algorithm.ridge * float(w @ w),
    }


EXPERIMENT = GiantStepExperiment()
