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

        sized = self.at_size(problem, size)
        rows = [_replica(sized, stream, backend) for stream in streams]
        variables = {
            name: (("sample_ratio",), np.array([[entry[name] for entry in row] for row in rows])) for name in rows[0][0]
        }
        return Sample({"sample_ratio": np.array(problem.grid.values("sample_ratio"))}, variables)


def _replica(problem: Any, stream: np.random.Generator, backend: Backend) -> list[dict[str, float]]:
    import numpy as np

    from dimladder.problem import activation
    from dimladder.problem.clusters import labels
    from dimladder.problem.one_step import (
        batch_sizes,
        dimension,
        draw,
        mixture,
        polynomial_degree,
        readout_ridge,
        samples,
        step,
    )
    from dimladder.symbolic.hermite_moments import polynomial_model

    n = dimension(problem)
    data = mixture(problem, n)
    drawn = draw(problem, data, stream)
    counts = samples(problem, n)
    most = max(counts)
    x, cluster = data.sample(stream, most + TEST_POINTS)
    y = labels(problem, data, x, cluster, stream)
    sigma = activation(problem.student.layers[0].activation)
    model = polynomial_model(sigma, polynomial_degree(problem.algorithm), data.bulk_scale)
    baseline = _baseline(problem, data)
    width = drawn.first.shape[0]
    noise = stream.standard_normal((most + TEST_POINTS, width)) if model.noise else np.zeros((1, 1))
    name = "classification_error" if problem.loss.form.two_valued else "mse"
    test, train = (f"test_{name}", f"train_{name}") if name == "mse" else (name, f"train_{name}")
    rows = []
    for count, batch in zip(counts, batch_sizes(problem, n), strict=True):
        net = step(problem, drawn, batch)
        ridge = readout_ridge(problem, count, n)
        used = np.r_[0:count, most : most + TEST_POINTS]
        fields = x[used] @ net.stepped.T
        features = np.broadcast_to(sigma.evaluate(np, x=fields), fields.shape) / np.sqrt(width)
        found = _errors(problem, features, y[used], count, ridge, backend)
        polynomial = model.evaluate(np, fields)
        if model.noise:
            polynomial = polynomial + model.noise * noise[used]
        hermite = _errors(problem, polynomial / np.sqrt(width), y[used], count, ridge, backend)
        found |= {f"{test}_hermite": hermite[test], f"{train}_hermite": hermite[train]}
        found["relative_error"] = found[test] / baseline
        if data.target is not None:
            found["step_overlap"] = float(
                (net.spike @ data.target) ** 2 / (net.spike @ net.spike) / (data.target @ data.target)
            )
        rows.append(found)
    return rows


def _baseline(problem: Any, data: Any) -> float:
    """Return the error of the best constant: Var y, or the smaller class probability; exactly, over the mixture."""
    import numpy as np

    from dimladder.numerics.quadrature import gauss_normal
    from dimladder.problem.targets import ClusterLabels

    target, clusters = problem.target, data.weights.size
    if isinstance(target, ClusterLabels):
        y = np.array(target.values(clusters))
        mean, second = float(data.weights @ y), float(data.weights @ y**2)
    else:
        means, seconds = np.empty(clusters), np.empty(clusters)
        for c in range(clusters):
            centre, variance = data.field(c, data.target)
            kinks = tuple((k - centre) / variance**0.5 for k in target.expression.kinks("z"))
            z, w = gauss_normal(kinks or (0.0,), 256)
            values = target.expression.evaluate(np, z=centre + variance**0.5 * z) + 0.0 * z
            means[c], seconds[c] = w @ values, w @ values**2
        mean, second = float(data.weights @ means), float(data.weights @ seconds) + target.noise**2
    if problem.loss.form.two_valued:
        return min(0.5 * (1 + mean), 0.5 * (1 - mean))
    return second - mean**2


def _errors(problem: Any, features: Any, y: Any, samples: int, ridge: float, backend: Backend) -> dict[str, float]:
    """Fit the readout on the first `samples` rows and measure it on both parts."""
    import numpy as np

    from .minimise import minimise

    form = problem.loss.form
    if form.name == "square":
        phi = backend.asarray(features)
        w = ridge_fit(phi[:samples], backend.asarray(y[:samples]), ridge * samples, backend)
        return _squares(y - backend.to_numpy(phi @ w), samples) | {
            "penalty": 0.5 * ridge * float(backend.xp.sum(w * w)),
        }
    w = minimise(form, features[:samples], y[:samples], ridge * samples).w
    u = features @ w
    cost = form.evaluate(np, f=u, y=y)
    found = {
        "train_loss": float(cost[:samples].mean()),
        "test_loss": float(cost[samples:].mean()),
        "penalty": 0.5 * ridge * float(w @ w),
    }
    if not form.two_valued:
        return found | _squares(y - u, samples)
    wrong = (y * u <= 0).astype(float)
    return found | {
        "train_classification_error": float(wrong[:samples].mean()),
        "classification_error": float(wrong[samples:].mean()),
    }


def _squares(residual: Any, samples: int) -> dict[str, float]:
    return {
        "train_mse": float((residual[:samples] ** 2).mean()),
        "test_mse": float((residual[samples:] ** 2).mean()),
    }


EXPERIMENT = GiantStepExperiment()
