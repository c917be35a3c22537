"""The three-stage learner of several branches at finite d: subspace, a regression for each label transform, readout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from dimladder.numerics.quadrature import hermite_values
from dimladder.problem import Expression
from dimladder.problem.hierarchy import orthonormal_coefficients

from ..base import Backend, Closing, Sample, chunks
from .features import Features
from .first_stage import BLOCK, centred_label, spectral_subspaces
from .flattening import flattened_features, flattened_subspaces
from .layerwise import Row, StageExperiment, rows_of
from .second_stage import Judge, ridge_estimate
from .target import Realization
from .third_stage import FITS, MOST_LABELS, TEST_SAMPLES


class BranchExperiment(StageExperiment):
    """Measures the overlap of every branch's subspace, what is learned of every feature, and the error."""

    theory = "hierarchical-branches"

    def closing(self, problem: Any) -> Closing:
        return Closing(slowest=0.2, reason="the law of the features is normal up to O(d_eff^-1/2), d_eff = d^eps")

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        grid, branches = problem.grid, problem.target.branches
        rows = rows_of(problem, size)
        shape = (len(streams), len(rows), len(rows[0].second))
        overlap, correlation = np.empty((*shape[:2], branches)), np.empty((*shape, branches))
        error, null = np.empty(shape), np.empty(shape[0])
        for r, stream in enumerate(streams):
            overlap[r], correlation[r], error[r], (null[r], _) = branch_stages(problem, size, rows, stream, backend)
        both: tuple[str, ...]
        if grid.kappa is not None:
            both, correlation, error = ("kappa",), correlation[:, :, 0], error[:, :, 0]
        else:
            both = ("first_ratio", "second_ratio" if grid.second_ratio is not None else "second_samples")
        return Sample(
            {**{name: np.array(grid.values(name)) for name in both}, "branch": np.arange(1, branches + 1)},
            {
                "subspace_overlap": ((both[0], "branch"), overlap),
                "feature_correlation": ((*both, "branch"), correlation),
                "mse": (both, error),
                "test_mse": (both, error + problem.target.noise**2),
                "null_mse": ((), null),
            },
        )


def branch_stages(
    problem: Any, d: int, rows: Sequence[Row], stream: np.random.Generator, backend: Backend
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float]]:
    """Run one replica over the whole grid.

    Returns
    -------
    overlap : (rows, branches) array
    correlation : (rows, second, branches) array
        Multiple correlation of every h_m with the learned features, on `TEST_SAMPLES` fresh inputs.
    error : (rows, second) array
        Of the best polynomial readout of that degree, fitted to f* on the same inputs.
    null : (float, float)
        E[f*^2] and E[y^2].
    """
    target = problem.target
    truth = Realization.draw(target, d, stream, backend)
    label, null = centred_label(truth, problem.algorithm.first.label_transform, stream)
    find = flattened_subspaces if problem.algorithm.first.estimator == "flattened" else spectral_subspaces
    subspaces = find(truth, label, [row.first for row in rows], stream)
    overlap = np.array([
        [float(np.linalg.norm(w @ u) ** 2) / len(w) for w in truth.directions] for u in subspaces
    ])  # fmt: skip
    beta = orthonormal_coefficients(target.features[0], target.hermite)
    asked = problem.algorithm.second.degrees
    top = asked == "top" or problem.algorithm.second.weights == "top"
    degrees = (len(beta) - 1,) if top else tuple(int(j) for j in np.flatnonzero(beta)) if asked == "all" else asked
    flattened = problem.algorithm.second.estimator == "flattened"
    features = Features.polynomials(truth.features * target.branches, [2] if flattened else sorted(degrees), backend)
    shape = (len(rows), len(rows[0].second))
    correlation, error = np.empty((*shape, target.branches)), np.empty(shape)
    for i, (row, u) in enumerate(zip(rows, subspaces, strict=True)):
        basis = backend.asarray(u)
        if flattened:
            (made,) = flattened_features(truth, label, [basis], [row.second], stream)
            learned = [made[..., k] for k in range(len(row.second))]
        else:
            learned = regressions(problem, truth, basis, features, row.second, stream, backend)
        correlation[i], error[i] = readout(problem, truth, basis, features, learned, stream, backend)
    return overlap, correlation, error, null


def regressions(
    problem: Any, truth: Realization, basis: Any, features: Features, counts: Sequence[int],
    stream: np.random.Generator, backend: Backend,
) -> list[Any]:  # fmt: skip
    """Return the ridge estimates (features, transforms) for every number of samples, nested; all labels are of the same
    samples.
    """
    xp, second = backend.xp, problem.algorithm.second
    functions = [Expression("y" if text == "identity" else text, ("y",)) for text in second.label_transforms]

    def labels(y: Any, function: Expression) -> Any:
        return function.evaluate(xp, y=y) + 0.0 * y

    judges = [
        Judge.measure(truth, basis, features, stream, transform=partial(labels, function=f)) for f in functions
    ]
    size = int(features.counts.sum())
    gram, feature_sum = backend.zeros((size, size)), backend.zeros((size,))
    moment, total = [backend.zeros((size,)) for _ in functions], [0.0 for _ in functions]
    found, done = {}, 0
    for n in sorted(set(counts)):
        for block in chunks(n - done, BLOCK):
            x = truth.inputs(block, stream)
            y = truth.labels(x, stream)
            phi = features(xp.matmul(x, basis))
            gram = gram + xp.matmul(xp.permute_dims(phi, (1, 0)), phi)
            feature_sum = feature_sum + xp.sum(phi, axis=0)
            for t, function in enumerate(functions):
                value = labels(y, function)
                moment[t] = moment[t] + xp.matmul(value, phi)
                total[t] += float(xp.sum(value))
        done = n
        estimates = [
            ridge_estimate(
                second, gram / n, (m - (s / n) * feature_sum) / n, features.counts, features.place, n, judge, backend
            )
            for m, s, judge in zip(moment, total, judges, strict=True)
        ]
        found[n] = xp.stack(estimates, axis=1)
    return [found[n] for n in counts]


def readout(
    problem: Any, truth: Realization, basis: Any, features: Features, learned: Sequence[Any],
    stream: np.random.Generator, backend: Backend,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return what the learned features say of every h_m, shape (second, branches), and the errors, shape (second,)."""
    xp, third = backend.xp, problem.algorithm.third

    def draw(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values, scalars, clean = [], [], []
        for block in chunks(n, BLOCK):
            x = truth.inputs(block, stream)
            h = truth.features_of(truth.project(x))
            clean.append(backend.to_numpy(truth.link(h)))
            scalars.append(np.stack([backend.to_numpy(v) for v in h], axis=1))
            phi = features(xp.matmul(x, basis))
            values.append(np.stack([backend.to_numpy(xp.matmul(phi, theta)) for theta in learned]))
        return (
            np.concatenate(values, axis=1).astype(float), np.concatenate(scalars).astype(float),
            np.concatenate(clean).astype(float),
        )  # fmt: skip

    test, u, f = draw(TEST_SAMPLES)
    u = u - u.mean(axis=0)
    n = 0 if math.isinf(third.samples) else round(third.samples)
    fits = int(np.clip(MOST_LABELS // n, 1, FITS)) if n else 0
    train, _, clean = draw(n * fits) if n else (test, u, f)
    labels = clean + truth.target.noise * stream.standard_normal(len(clean)) if n else clean
    correlation, error = [], []
    for made, own in zip(test, train, strict=True):
        centre = made.mean(axis=0)
        fit = np.linalg.lstsq(made - centre, u, rcond=None)[0]
        correlation.append(np.sqrt(np.sum(((made - centre) @ fit) ** 2, axis=0) / np.sum(u**2, axis=0)))
        basis_of = polynomials(made - centre, third.degree)
        design, told = basis_of(made - centre), basis_of(own - centre)
        # Without a number of labels the best readout, fitted on the inputs it is judged by.
        sets = [slice(n * s, n * (s + 1)) for s in range(fits)] or [slice(None)]
        found = [np.linalg.lstsq(told[part], labels[part], rcond=None)[0] for part in sets]
        error.append(float(np.median([np.mean((f - design @ theta) ** 2) for theta in found])))
    return np.array(correlation), np.array(error)


def polynomials(features: np.ndarray, degree: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map of features, whitened as these are, to products of Hermite polynomials of total degree at most
    `degree`.
    """
    values, vectors = np.linalg.eigh(np.cov(features.T, ddof=0).reshape(features.shape[1], -1))
    kept = values > 1e-10 * max(float(values.max()), 1e-300)

    def products(features: np.ndarray) -> np.ndarray:
        return _products((features @ vectors[:, kept]) / np.sqrt(values[kept]), degree)

    return products


def _products(white: np.ndarray, degree: int) -> np.ndarray:
    tables = [hermite_values(column, degree) for column in white.T]
    exponents = [p for p in np.ndindex(*[degree + 1] * len(tables)) if sum(p) <= degree]
    columns = [np.prod([table[j] for table, j in zip(tables, p, strict=True)], axis=0) for p in exponents]
    return np.stack([np.broadcast_to(c, len(white)) for c in columns], axis=1)


EXPERIMENT = BranchExperiment()
