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


class MixtureERMExperiment(Experiment):
    """Replicas of a mixture, nested in the sample ratio: a larger ratio adds samples to the smaller one's."""

    theory = "mixture-erm"
    size = "d"
    least_size = 2
    batch_size = 4

    def closing(self, problem: Any) -> Closing:
        """A strongly convex smooth loss on Gaussian data: overlaps fluctuate by d^-1/2 and are biased by 1/d."""
        if problem.student.ridge > 0 and problem.student.loss != "hinge":
            return Closing(1.0, reason="a smooth, strongly convex minimiser on Gaussian data is biased by 1/d")
        return Closing()

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        import numpy as np

        from dimladder.problem import axis_values
        from dimladder.theories import find

        if problem.student.loss in ("cross-entropy", "one-hot"):
            return multiclass_sample(problem, size, streams, backend)
        system: Any = find(self.theory).derive(problem)
        ratios = np.array(axis_values(problem.grid.sample_ratio))
        counts = [max(1, round(a * size)) for a in ratios]
        geometry = _Geometry(system, size)
        rows = [geometry.replica(stream, counts, backend) for stream in streams]
        coords: dict[str, Any] = {"sample_ratio": ratios}
        if len(system.kinds) > 1:
            coords["cluster"] = np.arange(len(system.kinds))
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

    def __init__(self, system: Any, d: int) -> None:
        import numpy as np

        self.system, self.problem, self.d = system, system.problem, d
        data = self.problem.data
        shares = data.spectrum or (1.0,)
        edges = np.round(np.cumsum([0.0, *shares]) * d).astype(int)
        self.group = np.repeat(np.arange(len(shares)), np.diff(edges))
        width = len(system.coordinates[0])
        if system.shape.spiked or len(shares) == 1:
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
        self.teacher = np.array(system.teacher_direction) @ self.frame if system.teacher_direction else None
        self.variances = np.array([[system.eigen[k][g] for g in self.group] for k in system.kinds])
        if system.shape.spiked:
            for c, k in enumerate(system.kinds):
                self.variances[c, :width] += np.array(system.kind_spikes[k])

    def replica(self, stream: np.random.Generator, counts: list[int], backend: Backend) -> dict[str, Any]:
        import numpy as np

        from .erm import curvature, fit, losses

        problem, system, most = self.problem, self.system, max(counts)
        data, student = problem.data, problem.student
        cluster = stream.choice(len(data.weights), size=most, p=np.array(data.weights))
        noise = backend.to_numpy(backend.normal([stream], (most, self.d)))[0].astype(float)
        x = self.means[cluster] + np.sqrt(self.variances[cluster]) * noise
        y = self._labels(stream, x, cluster)
        out: dict[str, list[Any]] = {}
        for count in counts:
            w, b = fit(student.loss, x[:count], y[:count], student.ridge, self.d, student.bias)
            found = self._overlaps(w, b)
            u = x[:count] @ w + b
            # Below the accuracy of the solver a loss has not been measured (separable data, hinge loss).
            loss = float(losses(student.loss, y[:count], u).mean())
            found["train_loss"] = loss if loss > 1e-7 else np.nan
            if student.loss != "hinge":
                weight = curvature(student.loss, y[:count], u) / self.d
                hessian = (x[:count].T * weight) @ x[:count] + student.ridge * np.eye(self.d)
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
            return np.array(target.values(len(self.problem.data.weights)))[cluster]
        labels = np.broadcast_to(target.expression.evaluate(np, z=x @ self.teacher), cluster.shape).astype(float)
        return labels + target.noise * stream.standard_normal(cluster.size)

    def _overlaps(self, w: Any, b: float) -> dict[str, Any]:
        import numpy as np

        system, data = self.system, self.problem.data
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
        elif system.shape.used:
            found["m"] = fields
        elif overlap is not None:
            found["m"] = found["teacher_overlap"]
        errors = self._errors(fields + b, q, overlap)
        found["test_error"] = float(weights @ errors)
        if len(weights) > 1:
            found["cluster_error"] = errors
        return found

    def _errors(self, mean: Any, q: Any, overlap: Any) -> Any:
        """Errors by cluster of a classifier or a regression with these overlaps, exactly."""
        import numpy as np
        from scipy.special import ndtr

        from dimladder.symbolic.hermite_moments import profile
        from dimladder.theories.mixtures.kernels import HINGE, teacher_channel

        system, target = self.system, self.problem.target
        if overlap is None:
            return ndtr(-np.array(target.values(len(mean))) * mean / np.sqrt(np.maximum(q, 1e-300)))
        errors = []
        for c, (centre, variance, cross) in enumerate(zip(mean, q, overlap, strict=True)):
            nu_mean, nu_variance = system.teacher_field(c)
            if system.binary is not None:
                cuts = np.array(system.binary[1])
                errors.append(
                    teacher_channel(HINGE, centre, 1.0, variance, cross, nu_mean, nu_variance, cuts, system.binary[0])[
                        5
                    ]
                )
                continue
            link = profile(target.expression, nu_mean, np.sqrt(nu_variance), 1)
            mean_y, slope = link.coefficients[0, 0], link.coefficients[1, 0] / np.sqrt(nu_variance)
            second = link.second[0] + target.noise**2
            errors.append(second - 2 * (mean_y * centre + cross * slope) + centre**2 + variance)
        return np.array(errors)


def multiclass_sample(problem: Any, d: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
    """One output a class: fit W and b, and compute the error of the largest output exactly."""
    import numpy as np

    from dimladder.problem import axis_values
    from dimladder.theories.mixtures.multiclass import cross_entropy, misclassification

    from .erm import fit_multiclass

    data, student = problem.data, problem.student
    rho, ratios = np.array(data.weights), np.array(axis_values(problem.grid.sample_ratio))
    coordinates = np.array(data.coordinates()).reshape(rho.size, -1)
    means = coordinates @ np.eye(coordinates.shape[1], d)
    delta = np.array([row[0] for row in data.eigenvalues()])
    counts = [max(1, round(a * d)) for a in ratios]
    found: dict[str, list[Any]] = {name: [] for name in ("q", "m", "bias", "test_error", "train_loss", "cluster_error")}
    for stream in streams:
        cluster = stream.choice(rho.size, size=max(counts), p=rho)
        noise = backend.to_numpy(backend.normal([stream], (max(counts), d)))[0].astype(float)
        x = means[cluster] + np.sqrt(delta[cluster])[:, None] * noise
        rows: dict[str, list[Any]] = {name: [] for name in found}
        for count in counts:
            w, b = fit_multiclass(student.loss, x[:count], cluster[:count], rho.size, student.ridge * d, student.bias)
            q, fields, u = w @ w.T, means @ w.T, x[:count] @ w.T + b
            errors = misclassification(delta, q, fields + b)
            hot = np.eye(rho.size)[cluster[:count]]
            if student.loss == "one-hot":
                loss = 0.5 * float(np.mean(np.sum((hot - u) ** 2, axis=1)))
            else:
                loss = (
                    float(np.mean([cross_entropy(c, u[cluster[:count] == c]).sum() for c in range(rho.size)]))
                    * rho.size
                    / count
                )
            values = (q, fields, b, float(rho @ errors), loss, errors)
            for name, value in zip(found, values, strict=True):
                rows[name].append(value)
        for name in found:
            found[name].append(rows[name])
    dims = {
        "q": ("sample_ratio", "output", "output"),
        "m": ("sample_ratio", "cluster", "output"),
        "bias": ("sample_ratio", "output"),
        "test_error": ("sample_ratio",),
        "train_loss": ("sample_ratio",),
        "cluster_error": ("sample_ratio", "cluster"),
    }
    coords = {"sample_ratio": ratios, "cluster": np.arange(rho.size), "output": np.arange(rho.size)}
    return Sample(coords, {name: (dims[name], np.array(values)) for name, values in found.items()})


EXPERIMENT = MixtureERMExperiment()
