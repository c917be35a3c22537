"""Convex losses on Gaussian mixtures at finite d: draw, fit with a certificate, and read the overlaps off the weights.

Given a cluster, the output of fitted weights and the target's field are jointly Gaussian with known overlaps: no test
inputs are drawn, only pairs of fields.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimladder.problem.mixtures import cluster_targets, mixture_geometry
from dimladder.problem.targets import Index

from ..base import Backend, Sample
from .index_targets import clean_label, draw_label
from .minimise import Fit, continuous_slope, golden_ridge, minimise, minimise_classes

Array = NDArray[np.float64]
# Pairs of fields behind every test quantity.
FRESH = 100_000


class Cloud:
    """Covariances, means, target and labels of the clusters at one size."""

    def __init__(self, problem: Any, d: int) -> None:
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

        self.targets = cluster_targets(problem)
        self.weights = np.array(data.weights)
        self.fields = [system.teacher_field(c) if system.teacher else (0.0, 1.0) for c in range(self.weights.size)]

    def inputs(self, stream: np.random.Generator, count: int, backend: Backend) -> tuple[Array, NDArray[np.int64]]:
        """Draw points and their clusters."""
        cluster = stream.choice(self.weights.size, size=count, p=self.weights)
        noise = backend.to_numpy(backend.normal([stream], (count, self.d)))[0].astype(float)
        return self.means[cluster] + np.sqrt(self.variances[cluster]) * noise, cluster

    def labels(self, stream: np.random.Generator, field: Array, cluster: NDArray[np.int64]) -> Array:
        """Draw labels of points with these target fields."""
        out = np.empty(cluster.size)
        for c, target in enumerate(self.targets):
            inside = cluster == c
            out[inside] = draw_label(target, field[inside], stream) if isinstance(target, Index) else target
        return out

    def field(self, x: Array) -> Array:
        """The target's field of inputs; zero where no label depends on it."""
        return x @ self.teacher if self.teacher is not None else np.zeros(x.shape[0])


class Fresh:
    """Pairs of fields and labels of every cluster, drawn once a replica."""

    def __init__(self, cloud: Cloud, stream: np.random.Generator) -> None:
        self.cloud = cloud
        clusters = cloud.weights.size
        self.normal = stream.standard_normal((clusters, 2, FRESH // clusters))
        self.y = np.empty((clusters, FRESH // clusters))
        self.clean = np.empty_like(self.y)
        for c, (target, (mean, variance)) in enumerate(zip(cloud.targets, cloud.fields, strict=True)):
            nu = mean + np.sqrt(variance) * self.normal[c, 0]
            self.y[c] = draw_label(target, nu, stream) if isinstance(target, Index) else target
            self.clean[c] = clean_label(target, nu) if isinstance(target, Index) else target

    def outputs(self, w: Array, b: float) -> Array:
        """Outputs of weights on the pairs, shape (clusters, pairs)."""
        cloud = self.cloud
        q, mean = cloud.variances @ w**2, cloud.means @ w + b
        cross = cloud.variances @ (w * cloud.teacher) if cloud.teacher is not None else np.zeros(q.size)
        along = cross / np.sqrt([v for _, v in cloud.fields])
        rest = np.sqrt(np.maximum(q - along**2, 0.0))
        return np.asarray(mean[:, None] + along[:, None] * self.normal[:, 0] + rest[:, None] * self.normal[:, 1])

    def quantities(self, loss: Any, w: Array, b: float) -> dict[str, Any]:
        """Test quantities of weights, and errors by cluster."""
        u, rho = self.outputs(w, b), self.cloud.weights
        squares = np.mean((u - self.y) ** 2, axis=1)
        out: dict[str, Any] = {"test_loss": float(rho @ np.mean(loss.evaluate(np, u, self.y), axis=1))}
        if np.all(np.abs(self.y) == 1.0):
            errors = np.mean(np.where(u > 0, 1.0, -1.0) != self.y, axis=1)
            out |= {"classification_error": float(rho @ errors), "cluster_error": errors}
        else:
            out |= {"mse": float(rho @ np.mean((u - self.clean) ** 2, axis=1)), "cluster_error": squares}
        if loss.name == "square" or "mse" in out:
            out["test_mse"] = float(rho @ squares)
        return out


def mixture_sample(problem: Any, d: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
    """Replicas of a mixture, nested in the sample ratio: a larger ratio adds samples to the smaller one's."""
    cloud = Cloud(problem, d)
    if problem.loss.form.vector:
        return _classes_sample(cloud, streams, backend)
    rows = [_replica(cloud, stream, backend) for stream in streams]
    coords: dict[str, Any] = {"sample_ratio": np.array(problem.grid.values("sample_ratio"))}
    if cloud.weights.size > 1:
        coords["cluster"] = np.arange(cloud.weights.size)
    variables = {
        name: (
            ("sample_ratio", "cluster") if rows[0][name].ndim == 2 else ("sample_ratio",),
            np.stack([r[name] for r in rows]),
        )
        for name in rows[0]
    }
    return Sample(coords, variables)


def _replica(cloud: Cloud, stream: np.random.Generator, backend: Backend) -> dict[str, Array]:
    problem, d = cloud.problem, cloud.d
    counts = [max(1, round(a * d)) for a in problem.grid.values("sample_ratio")]
    x, cluster = cloud.inputs(stream, max(counts), backend)
    y = cloud.labels(stream, cloud.field(x), cluster)
    fresh = Fresh(cloud, stream)
    out: dict[str, list[Any]] = {}
    for n in counts:
        ridge, fit = _fit(problem, fresh, x[:n], y[:n], d)
        for name, value in _measure(cloud, fresh, x[:n], y[:n], ridge, fit).items():
            out.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in out.items()}


def _fit(problem: Any, fresh: Fresh, x: Array, y: Array, d: int) -> tuple[float, Fit]:
    """Return the ridge of (1/d) sum_i l + (ridge/2)|w|^2 and the minimiser."""
    loss, bias = problem.loss, bool(problem.student.bias)
    if loss.ridge == "optimal":
        fits: dict[float, Fit] = {}

        def fitted(t: float) -> Fit:
            if t not in fits:
                near = next(reversed(fits.values()), None)
                fits[t] = minimise(loss.form, x, y, math.exp(t) * d, bias, near)
            return fits[t]

        def value(t: float) -> float:
            found: float = fresh.quantities(loss.form, fitted(t).w, fitted(t).b)[loss.optimise]
            return found

        return golden_ridge(value, 0.0, fitted)
    ridge = float(loss.ridge) if loss.ridge is not None else loss.per_sample(d) * x.shape[0] / d
    return ridge, minimise(loss.form, x, y, ridge * d, bias)


def _measure(cloud: Cloud, fresh: Fresh, x: Array, y: Array, ridge: float, fit: Fit) -> dict[str, Any]:
    problem, system, d, w = cloud.problem, cloud.stated, cloud.d, fit.w
    one = max(system.kinds) == 0
    q, fields, u = cloud.variances @ w**2, cloud.means @ w, x @ w + fit.b
    found: dict[str, Any] = {"q": q[0] if one else q, "bias": fit.b}
    if cloud.teacher is not None:
        overlap = cloud.variances @ (w * cloud.teacher)
        found["teacher_overlap"] = overlap[0] if one else overlap
    if problem.data.means == "opposite":
        found["m"] = float(w @ cloud.means[0])
    elif np.any(system.coordinates):
        found["m"] = fields
    elif cloud.teacher is not None:
        found["m"] = found["teacher_overlap"]
    found |= fresh.quantities(problem.loss.form, w, fit.b)
    if cloud.weights.size == 1:
        del found["cluster_error"]
    # Below the accuracy of the solver a loss has not been measured (separable data, hinge loss).
    train = float(np.mean(problem.loss.form.evaluate(np, u, y)))
    found["train_loss"] = train if train > 1e-7 else np.nan
    if problem.loss.ridge == "optimal":
        found["ridge"] = ridge
    if continuous_slope(problem.loss.form, y):
        weight = np.maximum(problem.loss.form.curvatures(u, y), 0.0) / d
        trace = np.diag(np.linalg.inv((x.T * weight) @ x + ridge * np.eye(d)))
        per = cloud.variances @ trace / d
        found["V"] = per[0] if one else per
    return found


def _classes_sample(cloud: Cloud, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
    """One output a class: fit W and b, and compute the error of the largest output exactly."""
    problem, d = cloud.problem, cloud.d
    loss, bias = problem.loss, bool(problem.student.bias)
    clusters, ratios = cloud.weights.size, np.array(problem.grid.values("sample_ratio"))
    target = problem.target
    classes = np.array(target.labels if target is not None and target.labels else range(clusters), dtype=int)
    dims = {
        "q": ("sample_ratio", "output", "output"),
        "m": ("sample_ratio", "cluster", "output"),
        "bias": ("sample_ratio", "output"),
        "classification_error": ("sample_ratio",),
        "train_loss": ("sample_ratio",),
        "cluster_error": ("sample_ratio", "cluster"),
    }
    found: dict[str, list[Any]] = {name: [] for name in dims}
    for stream in streams:
        counts = [max(1, round(a * d)) for a in ratios]
        x, cluster = cloud.inputs(stream, max(counts), backend)
        rows: dict[str, list[Any]] = {name: [] for name in dims}
        for n in counts:
            ridge = float(loss.ridge) if loss.ridge is not None else loss.per_sample(d) * n / d
            fit = minimise_classes(loss.form.name, x[:n], classes[cluster[:n]], int(classes.max()) + 1, ridge * d, bias)
            fields = cloud.means @ fit.w.T
            errors = np.array([
                _wrong_class(y, mean + fit.b, (fit.w * variances) @ fit.w.T)
                for y, mean, variances in zip(classes, fields, cloud.variances, strict=True)
            ])  # fmt: skip
            values = (fit.w @ fit.w.T, fields, fit.b, float(cloud.weights @ errors), fit.loss, errors)
            for name, value in zip(dims, values, strict=True):
                rows[name].append(value)
        for name in dims:
            found[name].append(rows[name])
    coords = {"sample_ratio": ratios, "cluster": np.arange(clusters), "output": np.arange(int(classes.max()) + 1)}
    return Sample(coords, {name: (dims[name], np.array(values)) for name, values in found.items()})


def _wrong_class(label: int, mean: Array, covariance: Array) -> float:
    """P(the largest of N(mean, covariance) is not output `label`), as an orthant probability."""
    from scipy.stats import multivariate_normal

    contrast = np.eye(mean.size)[label] - np.delete(np.eye(mean.size), label, axis=0)
    law = multivariate_normal(
        np.zeros(mean.size - 1), contrast @ covariance @ contrast.T, allow_singular=True, abseps=1e-7, seed=0
    )
    return 1.0 - float(law.cdf(contrast @ mean))
