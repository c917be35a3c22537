"""Convex losses on Gaussian mixtures at finite d: draw, fit by a direct solver, and read the exact errors off the
weights.

The test error of given weights is a Gaussian probability, so that no test set is drawn. Fits run on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .base import Backend, Closing, Experiment, Sample

if TYPE_CHECKING:
    import numpy as np


# Fresh outputs drawn for a test loss: its error is then below that of the fits.
FRESH = 20_000


class MixtureERMExperiment(Experiment):
    """Replicas of a mixture, nested in the sample ratio: a larger ratio adds samples to the smaller one's."""

    theory = "mixture-erm"
    size = "d"
    least_size = 2
    batch_size = 4

    def closing(self, problem: Any) -> Closing:
        """A strongly convex smooth loss on Gaussian data: overlaps fluctuate by d^-1/2 and are biased by 1/d."""
        if problem.loss.function != "hinge":
            return Closing(1.0, reason="a smooth, strongly convex minimiser on Gaussian data is biased by 1/d")
        return Closing()

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        import numpy as np

        if problem.loss.form.vector:
            return multiclass_sample(problem, size, streams, backend)
        ratios = np.array(problem.grid.values("sample_ratio"))
        counts = [max(1, round(a * size)) for a in ratios]
        geometry = _Geometry(problem, size)
        rows = [geometry.replica(stream, counts, backend) for stream in streams]
        coords: dict[str, Any] = {"sample_ratio": ratios}
        if len(problem.data.weights) > 1:
            coords["cluster"] = np.arange(len(problem.data.weights))
        variables = {
            name: (
                ("sample_ratio", "cluster") if rows[0][name].ndim == 2 else ("sample_ratio",),
                np.stack([r[name] for r in rows]),
            )
            for name in rows[0]
        }
        return Sample(coords, variables)


class _Geometry:
    """Covariances, means and teacher at one size."""

    def __init__(self, problem: Any, d: int) -> None:
        import numpy as np

        from dimladder.problem.mixtures import mixture_geometry

        self.problem, self.d = problem, d
        data, system = problem.data, mixture_geometry(problem)
        self.stated, shares = system, system.shares
        edges = np.round(np.cumsum([0.0, *shares]) * d).astype(int)
        self.group = np.repeat(np.arange(len(shares)), np.diff(edges))
        width = len(system.coordinates[0])
        if system.spiked or len(shares) == 1:
            # One bulk group: the law is invariant under rotations, and the frame may be the first axes.
            self.frame = np.eye(width, d)
        else:
            # Every direction has its share of each group exactly, and the directions stay orthonormal.
            self.frame = np.zeros((width, d))
            generator = np.random.default_rng(0)
            for g, share in enumerate(shares):
                inside = np.flatnonzero(self.group == g)
                basis = np.linalg.qr(generator.standard_normal((inside.size, width)))[0].T
                self.frame[:, inside] = np.sqrt(share) * basis
        self.means = np.array(system.coordinates).reshape(len(data.weights), width) @ self.frame
        self.teacher = np.array(system.teacher) @ self.frame if system.teacher else None
        self.variances = np.array([[system.eigen[k][g] for g in self.group] for k in system.kinds])
        if system.spiked:
            for c, k in enumerate(system.kinds):
                self.variances[c, :width] += np.array(system.kind_spikes[k])

    def replica(self, stream: np.random.Generator, counts: list[int], backend: Backend) -> dict[str, Any]:
        import numpy as np

        from .erm import curvature, fit, losses

        problem, system, most = self.problem, self.stated, max(counts)
        data, student, loss = problem.data, problem.student, problem.loss
        cluster = stream.choice(len(data.weights), size=most, p=np.array(data.weights))
        noise = backend.to_numpy(backend.normal([stream], (most, self.d)))[0].astype(float)
        x = self.means[cluster] + np.sqrt(self.variances[cluster]) * noise
        y = self._labels(stream, x, cluster)
        out: dict[str, list[Any]] = {}
        for count in counts:
            w, b = fit(loss.function, x[:count], y[:count], loss.ridge, self.d, student.bias)
            found = self._overlaps(w, b)
            u = x[:count] @ w + b
            # Below the accuracy of the solver a loss has not been measured (separable data, hinge loss).
            train = float(losses(loss.function, y[:count], u).mean())
            found["train_loss"] = train if train > 1e-7 else np.nan
            found["test_loss"] = self._test_loss(stream, w, b)
            if loss.function != "hinge":
                weight = curvature(loss.function, y[:count], u) / self.d
                hessian = (x[:count].T * weight) @ x[:count] + loss.ridge * np.eye(self.d)
                trace = np.diag(np.linalg.inv(hessian))
                per = np.array([float(self.variances[c] @ trace) / self.d for c in range(len(data.weights))])
                found["V"] = per[0] if max(system.kinds) == 0 else per
            for name, value in found.items():
                out.setdefault(name, []).append(value)
        return {name: np.array(values) for name, values in out.items()}

    def _labels(self, stream: np.random.Generator, x: Any, cluster: Any) -> Any:
        import numpy as np

        target = self.problem.target
        if self.teacher is None:
            return np.array(_labels_of(self.problem))[cluster]
        labels = np.broadcast_to(target.expression.evaluate(np, z=x @ self.teacher), cluster.shape).astype(float)
        return labels + target.noise * stream.standard_normal(cluster.size)

    def _overlaps(self, w: Any, b: float) -> dict[str, Any]:
        import numpy as np

        system, data = self.stated, self.problem.data
        weights = np.array(data.weights)
        one = max(system.kinds) == 0
        q = self.variances @ w**2
        fields = self.means @ w
        found: dict[str, Any] = {"q": q[0] if one else q, "bias": b}
        overlap = self.variances @ (w * self.teacher) if self.teacher is not None else None
        if overlap is not None:
            found["teacher_overlap"] = overlap[0] if one else overlap
        if data.means == "opposite":
            found["m"] = float(w @ self.means[0])
        elif np.any(system.coordinates):
            found["m"] = fields
        elif overlap is not None:
            found["m"] = found["teacher_overlap"]
        errors = self._errors(fields + b, q, overlap)
        found["test_mse" if self._regression else "classification_error"] = float(weights @ errors)
        if overlap is not None and system.binary is not None and self.problem.loss.function == "square":
            found["test_mse"] = float(weights @ self._squares(fields + b, q, overlap))
        if len(weights) > 1:
            found["cluster_error"] = errors
        return found

    @property
    def _regression(self) -> bool:
        return self.teacher is not None and self.stated.binary is None

    def _errors(self, mean: Any, q: Any, overlap: Any) -> Any:
        """Errors by cluster of a classifier or a regression with these overlaps, exactly."""
        import numpy as np
        from scipy.special import ndtr

        if overlap is None:
            return ndtr(-np.array(_labels_of(self.problem)) * mean / np.sqrt(np.maximum(q, 1e-300)))
        if self._regression:
            return self._squares(mean, q, overlap)
        return np.array([self._wrong_sign(c, *of) for c, of in enumerate(zip(mean, q, overlap, strict=True))])

    def _wrong_sign(self, cluster: int, mean: float, q: float, overlap: float) -> float:
        """P(sign of f is not the label), f ~ N(mean, q) jointly with the teacher's field nu, by an integral over nu."""
        import numpy as np
        from scipy.special import ndtr

        from dimladder.numerics.quadrature import gauss_normal

        assert self.stated.binary is not None
        first, cuts = self.stated.binary
        centre, variance = self.stated.teacher_field(cluster)
        spread = np.sqrt(variance)
        rest = np.sqrt(max(q - overlap**2 / variance, 1e-300))
        turn = [-mean * spread / overlap] if overlap else []
        x, weights = gauss_normal([*((t - centre) / spread for t in cuts), *turn], 64)
        label = first * (-1.0) ** np.sum((centre + spread * x)[:, None] > np.array(cuts), axis=1)
        return float(weights @ ndtr(-label * (mean + overlap / spread * x) / rest))

    def _squares(self, mean: Any, q: Any, overlap: Any) -> Any:
        """E (y - f)^2 by cluster: y = link(nu) + noise, f ~ N(mean, q) with covariance `overlap` with nu."""
        import numpy as np

        from dimladder.numerics.quadrature import gauss_normal

        target, out = self.problem.target, []
        for c, (centre, variance, cross) in enumerate(zip(mean, q, overlap, strict=True)):
            nu_mean, nu_variance = self.stated.teacher_field(c)
            spread = np.sqrt(nu_variance)
            x, weights = gauss_normal([(k - nu_mean) / spread for k in target.expression.kinks("z")] or [0.0], 48)
            y = target.expression.evaluate(np, z=nu_mean + spread * x) + 0.0 * x
            field = centre + cross / spread * x
            out.append(weights @ (y - field) ** 2 + variance - cross**2 / nu_variance + target.noise**2)
        return np.array(out)

    def _test_loss(self, stream: np.random.Generator, w: Any, b: float) -> float:
        """Mean loss of fresh samples: (f, nu) is Gaussian in every cluster, and drawn `FRESH` times."""
        import numpy as np

        from .erm import losses

        rho = np.array(self.problem.data.weights)
        cluster = stream.choice(rho.size, size=FRESH, p=rho)
        q = (self.variances @ w**2)[cluster]
        u = (self.means @ w)[cluster] + b + np.sqrt(q) * stream.standard_normal(FRESH)
        if self.teacher is None:
            return float(losses(self.problem.loss.function, np.array(_labels_of(self.problem))[cluster], u).mean())
        target, fields = self.problem.target, [self.stated.teacher_field(c) for c in range(rho.size)]
        centre, variance = np.array(fields).T[:, cluster]
        cross = (self.variances @ (w * self.teacher))[cluster]
        given = centre + cross / q * (u - b - (self.means @ w)[cluster])
        nu = given + np.sqrt(np.maximum(variance - cross**2 / q, 0.0)) * stream.standard_normal(FRESH)
        y = target.expression.evaluate(np, z=nu) + target.noise * stream.standard_normal(FRESH)
        return float(losses(self.problem.loss.function, y, u).mean())


def _labels_of(problem: Any) -> tuple[float, ...]:
    from dimladder.problem.targets import ClusterLabels

    values: tuple[float, ...] = (problem.target or ClusterLabels()).values(len(problem.data.weights))
    return values


def multiclass_sample(problem: Any, d: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
    """One output a class: fit W and b, and compute the error of the largest output exactly."""
    import numpy as np
    from scipy.special import logsumexp

    from .erm import fit_multiclass

    data, loss, bias = problem.data, problem.loss, problem.student.bias
    rho, ratios = np.array(data.weights), np.array(problem.grid.values("sample_ratio"))
    coordinates = np.array(data.coordinates()).reshape(rho.size, -1)
    means = coordinates @ np.eye(coordinates.shape[1], d)
    delta = np.array([row[0] for row in data.eigenvalues()])
    counts = [max(1, round(a * d)) for a in ratios]
    names = ("q", "m", "bias", "classification_error", "train_loss", "cluster_error")
    found: dict[str, list[Any]] = {name: [] for name in names}
    for stream in streams:
        cluster = stream.choice(rho.size, size=max(counts), p=rho)
        noise = backend.to_numpy(backend.normal([stream], (max(counts), d)))[0].astype(float)
        x = means[cluster] + np.sqrt(delta[cluster])[:, None] * noise
        rows: dict[str, list[Any]] = {name: [] for name in found}
        for count in counts:
            w, b = fit_multiclass(loss.function, x[:count], cluster[:count], rho.size, loss.ridge * d, bias)
            q, fields, u = w @ w.T, means @ w.T, x[:count] @ w.T + b
            errors = _misclassification(delta, q, fields + b)
            hot = np.eye(rho.size)[cluster[:count]]
            if loss.function == "one-hot":
                train = 0.5 * float(np.mean(np.sum((hot - u) ** 2, axis=1)))
            else:
                train = float(np.mean(logsumexp(u, axis=1) - u[np.arange(count), cluster[:count]]))
            values = (q, fields, b, float(rho @ errors), train, errors)
            for name, value in zip(found, values, strict=True):
                rows[name].append(value)
        for name in found:
            found[name].append(rows[name])
    dims = {
        "q": ("sample_ratio", "output", "output"),
        "m": ("sample_ratio", "cluster", "output"),
        "bias": ("sample_ratio", "output"),
        "classification_error": ("sample_ratio",),
        "train_loss": ("sample_ratio",),
        "cluster_error": ("sample_ratio", "cluster"),
    }
    coords = {"sample_ratio": ratios, "cluster": np.arange(rho.size), "output": np.arange(rho.size)}
    return Sample(coords, {name: (dims[name], np.array(values)) for name, values in found.items()})


def _misclassification(delta: Any, q: Any, means: Any) -> Any:
    """P(the largest of N(m_c, Delta_c Q) is not that of c) for every cluster, as an orthant probability."""
    import numpy as np
    from scipy.stats import multivariate_normal

    classes = means.shape[0]
    out = np.empty(classes)
    for c in range(classes):
        contrast = np.eye(classes)[c] - np.delete(np.eye(classes), c, axis=0)
        law = multivariate_normal(
            np.zeros(classes - 1), delta[c] * contrast @ q @ contrast.T, allow_singular=True, abseps=1e-7, seed=0
        )
        out[c] = 1.0 - float(law.cdf(contrast @ means[c]))
    return out


EXPERIMENT = MixtureERMExperiment()
