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
    """Every replica draws network, batch, readout sample and test points; sample ratios are nested within a replica.

    Random numbers are drawn on the host; the step, the features and the ridge readout of all replicas are computed on
    the device, other convex readouts on the host.
    """

    theory = "giant-step"
    size = "n"
    batch_size = 2
    device_batch_size = 16

    def closing(self, problem: Any) -> Closing:
        return Closing(slowest=0.5, reason="features are equivalent to Gaussian ones up to n^-1/2")

    def at_size(self, problem: Any, size: int) -> Any:
        from dimladder.solve import replace

        return replace(problem, {"limit.n": size})

    def numbers(self, problem: Any, size: int, backend: Backend) -> int:
        from dimladder.problem.one_step import batch_sizes, samples, width

        sized = self.at_size(problem, size)
        k, points = width(sized, size), max(samples(sized, size)) + TEST_POINTS
        # Inputs, twice; fields, features, noise and the double-precision copy of the fit; the steps of three layers.
        return 2 * points * size + 7 * points * k + max(batch_sizes(sized, size)) * (size + 4 * k) + 3 * k * size

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        import numpy as np

        from dimladder.problem.one_step import batch_sizes, mixture, samples

        sized = self.at_size(problem, size)
        data = mixture(sized, size)
        replicas = _Replicas(sized, data, streams, backend)
        baseline = _baseline(sized, data)
        counts = zip(samples(sized, size), batch_sizes(sized, size), strict=True)
        rows = [replicas.measure(count, batch, baseline) for count, batch in counts]
        return Sample(
            {"sample_ratio": np.array(problem.grid.values("sample_ratio"))},
            {name: (("sample_ratio",), np.stack([row[name] for row in rows], axis=1)) for name in rows[0]},
        )


class _Replicas:
    """What all replicas draw: first layers (R, k, n), batches (R, b, n), samples and test points (R, m, n)."""

    def __init__(self, problem: Any, data: Any, streams: Sequence[np.random.Generator], backend: Backend) -> None:
        import numpy as np

        from dimladder.problem import activation
        from dimladder.problem.clusters import labels
        from dimladder.problem.one_step import draw, learning_rate, polynomial_degree, samples
        from dimladder.symbolic.hermite_moments import polynomial_model

        from .model_code import derivative

        self.problem, self.backend, self.target = problem, backend, data.target
        self.most = max(samples(problem, data.n))
        self.sigma = activation(problem.student.layers[0].activation)
        self.slope, self.rate = derivative(self.sigma), learning_rate(problem.algorithm, data.n)
        self.model = polynomial_model(self.sigma, polynomial_degree(problem.algorithm), data.bulk_scale)
        kept: list[list[Any]] = [[] for _ in range(7)]
        for stream in streams:
            drawn = draw(problem, data, stream)
            x, cluster = data.sample(stream, self.most + TEST_POINTS)
            y = labels(problem, data, x, cluster, stream)
            noise = stream.standard_normal((len(x), len(drawn.second))) if self.model.noise else np.zeros((1, 1))
            found = (drawn.first, drawn.second, drawn.batch, drawn.batch_labels, x, y, noise)
            for store, value in zip(kept, found, strict=True):
                store.append(value)
        self.first, self.second, self.batch, self.batch_labels, self.x, self.y, self.noise = (
            backend.asarray(np.stack(store)) for store in kept
        )

    def step(self, batch: int) -> tuple[Any, Any]:
        """Return the first layers after one gradient step of the squared loss on `batch` points, and the spikes
        X^T y/(b sqrt k).
        """
        xp, width = self.backend.xp, self.first.shape[1]
        x, y = self.batch[:, :batch, :], self.batch_labels[:, :batch]
        fields = xp.matmul(x, xp.matrix_transpose(self.first))  # (R, b, k)
        readout = self.second[:, None, :] / width**0.5
        output = xp.sum((self.sigma.evaluate(xp, x=fields) + 0.0 * fields) * readout, axis=-1)
        back = (self.slope.evaluate(xp, x=fields) + 0.0 * fields) * (y - output)[..., None] * readout
        gradient = xp.matmul(xp.matrix_transpose(back), x) / batch
        spike = xp.matmul(xp.matrix_transpose(x), y[..., None])[..., 0] / (batch * width**0.5)
        return self.first + self.rate * gradient, spike

    def measure(self, count: int, batch: int, baseline: float) -> dict[str, np.ndarray]:
        """Step on `batch` points, fit readouts on `count` samples, and return the errors of every replica."""
        xp, backend, model = self.backend.xp, self.backend, self.model
        name = "classification_error" if self.problem.loss.form.two_valued else "mse"
        test, train = (f"test_{name}", f"train_{name}") if name == "mse" else (name, f"train_{name}")
        stepped, spike = self.step(batch)

        def used(values: Any) -> Any:
            return xp.concat([values[:, :count, ...], values[:, self.most :, ...]], axis=1)

        y = used(self.y)
        fields = xp.matmul(used(self.x), xp.matrix_transpose(stepped))
        root = self.first.shape[1] ** 0.5
        features = (self.sigma.evaluate(xp, x=fields) + 0.0 * fields) / root
        found = _errors(self.problem, features, y, count, self.first.shape[2], backend)
        polynomial = model.evaluate(xp, fields)
        if model.noise:
            polynomial = polynomial + model.noise * used(self.noise)
        hermite = _errors(self.problem, polynomial / root, y, count, self.first.shape[2], backend)
        found |= {f"{test}_hermite": hermite[test], f"{train}_hermite": hermite[train]}
        found["relative_error"] = found[test] / baseline
        if self.target is not None:
            along = backend.to_numpy(xp.sum(spike * backend.asarray(self.target), axis=-1)).astype(float)
            power = backend.to_numpy(xp.sum(spike * spike, axis=-1)).astype(float)
            found["step_overlap"] = along**2 / power / float(self.target @ self.target)
        return found


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


def _errors(problem: Any, features: Any, y: Any, samples: int, n: int, backend: Backend) -> dict[str, np.ndarray]:
    """Fit readouts on the first `samples` rows of features (R, points, k) and measure them on both parts."""
    import numpy as np

    from dimladder.problem.one_step import readout_ridge

    from .estimation.minimise import minimise

    form, ridge = problem.loss.form, readout_ridge(problem, samples, n)
    if form.name == "square":
        w = ridge_fit(features[:, :samples, :], y[:, :samples], ridge * samples, backend)
        gap = backend.to_numpy(y - backend.xp.matmul(features, w[..., None])[..., 0]).astype(float)
        w = backend.to_numpy(w).astype(float)
        found = _squares(gap, samples) | {"penalty": 0.5 * ridge * np.sum(w * w, axis=-1)}
        return found | {"train_objective": 0.5 * found["train_mse"] + found["penalty"]}
    phi, labels = (backend.to_numpy(v).astype(float) for v in (features, y))
    w = np.stack(
        [minimise(form, f[:samples], t[:samples], ridge * samples).w for f, t in zip(phi, labels, strict=True)]
    )
    u = np.einsum("rik,rk->ri", phi, w)
    cost = form.evaluate(np, f=u, y=labels)
    found = {
        "train_loss": cost[:, :samples].mean(axis=1),
        "test_loss": cost[:, samples:].mean(axis=1),
        "penalty": 0.5 * ridge * np.sum(w * w, axis=-1),
    }
    found["train_objective"] = found["train_loss"] + found["penalty"]
    if not form.two_valued:
        return found | _squares(labels - u, samples)
    wrong = (labels * u <= 0).astype(float)
    return found | {
        "train_classification_error": wrong[:, :samples].mean(axis=1),
        "classification_error": wrong[:, samples:].mean(axis=1),
    }


def _squares(residual: np.ndarray, samples: int) -> dict[str, np.ndarray]:
    return {
        "train_mse": (residual[:, :samples] ** 2).mean(axis=1),
        "test_mse": (residual[:, samples:] ** 2).mean(axis=1),
    }


EXPERIMENT = GiantStepExperiment()
