"""A tree of quadratic levels learned level by level at finite d: spectral estimates, ridge regression, readout."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dimladder.errors import SimulationError
from dimladder.problem.hierarchy import orthonormal_coefficients
from dimladder.problem.stages import ThirdStage

from ..base import Backend, Closing, Experiment, Sample, chunks
from .features import solve, union_features
from .first_stage import BLOCK, CentredLabel, centred_label, spectral_subspaces
from .target import Realization, hermite_polynomial, leading_eigenvectors
from .third_stage import readout_basis, standardiser

TEST_SAMPLES = 20_000
READOUT = ThirdStage(degree=11, basis="rank")
# Labels less their linear fit are cut off at this many standard deviations.
CLIP = 3.0
STRENGTHS = tuple(float(v) for v in np.geomspace(1e-3, 1e3, 13))


class TreeExperiment(Experiment):
    """Measures what is explained of every level, the correlation of the scalar feature, and the error."""

    theory = "hierarchical-tree"
    batch_size = 1

    def closing(self, problem: Any) -> Closing:
        eps = (*problem.target.exponents, 0.0)
        block = min(a - b for a, b in itertools.pairwise(eps))
        return Closing(slowest=0.4 * block, reason="features of blocks of B are normal up to O(B^-1/2)")

    def at_size(self, problem: Any, size: int) -> Any:
        import dimladder

        return dimladder.replace(problem, {"limit.d": size})

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        kappa, depth = problem.grid.values("kappa"), len(problem.target.exponents)
        overlap = np.empty((len(streams), len(kappa), depth))
        correlation, error = np.empty(overlap.shape[:2]), np.empty(overlap.shape[:2])
        null = np.empty(len(streams))
        for r, stream in enumerate(streams):
            truth = Realization.draw(problem.target, size, stream, backend)
            label, (null[r], _) = centred_label(truth, problem.algorithm.first.label_transform, stream)
            for k, value in enumerate(kappa):
                n = max(1, round(size**value))
                found = climb(truth, label, n, stream)
                overlap[r, k], correlation[r, k], error[r, k] = found
        return Sample(
            {"kappa": np.array(kappa), "level": np.arange(1, depth + 1)},
            {
                "level_overlap": (("kappa", "level"), overlap),
                "feature_correlation": (("kappa",), correlation),
                "mse": (("kappa",), error),
                "null_mse": ((), null),
            },
        )


def levels_of(truth: Realization, z: Any) -> list[Any]:
    """Return the true features of every level, the linear one first, from z of shape (n, 1, d_1); the scalar is left
    out.
    """
    xp, h = truth.backend.xp, z[:, 0, :]
    found = [h]
    for features, readout in zip(truth.target.features[:-1], truth.readouts[:-1], strict=True):
        values = hermite_polynomial(orthonormal_coefficients(features, truth.target.hermite), h)
        a = truth.backend.asarray(readout / math.sqrt(readout.shape[1]))
        h = xp.sum(xp.reshape(values, (values.shape[0], *readout.shape)) * a, axis=2)
        found.append(h)
    return found


def climb(
    truth: Realization, label: CentredLabel, n: int, stream: np.random.Generator
) -> tuple[np.ndarray, float, float]:
    """Learn every level on n fresh samples.

    Returns
    -------
    overlap : (levels,) array
        Mean over the features of a level of the squared multiple correlation with the learned ones.
    correlation, error : float
        corr(h_hat, h), and the error of its best readout.
    """
    backend, xp = truth.backend, truth.backend.xp
    maps = [backend.asarray(spectral_subspaces(truth, label, [n], stream)[0])]

    def learned(x: Any) -> Any:
        h = xp.matmul(x, maps[0])
        for depth, later in enumerate(maps[1:]):
            h = xp.matmul(union_features(h, degrees_of(truth, depth), backend), later)
        return h

    for depth, readout in enumerate(truth.readouts[:-1]):

        def features(x: Any, depth: int = depth) -> Any:
            return union_features(learned(x), degrees_of(truth, depth), backend)

        maps.append(backend.asarray(next_level(truth, label, features, len(readout), n, stream)))
    test: list[Any] = []
    true: list[list[Any]] = [[] for _ in maps]
    scalar, clean = [], []
    for block in chunks(TEST_SAMPLES, BLOCK):
        x = truth.inputs(block, stream)
        z = truth.project(x)
        for store, features in zip(true, levels_of(truth, z), strict=True):
            store.append(backend.to_numpy(features))
        h = truth.features_of(z)
        scalar.append(backend.to_numpy(h[0]))
        clean.append(backend.to_numpy(truth.link(h)))
        test.append(x)
    overlap = []
    for depth, store in enumerate(true, 1):
        made = []
        for x in test:
            h = xp.matmul(x, maps[0])
            for below, later in enumerate(maps[1:depth]):
                h = xp.matmul(union_features(h, degrees_of(truth, below), backend), later)
            made.append(backend.to_numpy(h))
        overlap.append(explained(np.concatenate(made).astype(float), np.concatenate(store).astype(float)))
    theta, degrees = top_regression(truth, learned, n, stream)
    estimate = np.concatenate(
        [backend.to_numpy(xp.matmul(union_features(learned(x), degrees, backend), theta)) for x in test]
    ).astype(float)
    correlation = float(np.corrcoef(estimate, np.concatenate(scalar))[0, 1])
    # A rank readout: polynomials of the estimate itself are ruined by its tails.
    design, f = readout_basis(standardiser(estimate, READOUT.basis)(estimate), READOUT), np.concatenate(clean)
    left = f - design @ np.linalg.lstsq(design, f, rcond=None)[0]
    return np.array(overlap), correlation, float(np.mean(left.astype(float) ** 2))


def explained(made: np.ndarray, true: np.ndarray) -> float:
    """Return the mean squared multiple correlation of the true features with the learned ones."""
    true, made = true - true.mean(axis=0), made - made.mean(axis=0)
    fit = np.linalg.lstsq(made, true, rcond=None)[0]
    return float(np.mean(np.sum((made @ fit) ** 2, axis=0) / np.sum(true**2, axis=0)))


def degrees_of(truth: Realization, depth: int) -> tuple[int, ...]:
    """Return the degrees of the polynomial above the level `depth`, which counts from zero."""
    beta = orthonormal_coefficients(truth.target.features[depth], truth.target.hermite)
    return tuple(int(j) for j in np.flatnonzero(beta))


def next_level(
    truth: Realization, label: CentredLabel, features: Any, size: int, n: int, stream: np.random.Generator
) -> np.ndarray:
    """Return the leading eigenvectors, (D, size), of the label-weighted covariance of polynomials phi of the learned
    level.

    The label is T(y) less its ridge fit on phi, cut off, over |phi|^2/D: what upper levels are linear in would drown
    the signal otherwise, and so would the norms.
    """
    backend, xp = truth.backend, truth.backend.xp
    draws: list[tuple[Any, Any]] = []
    for block in chunks(n, BLOCK):
        x = truth.inputs(block, stream)
        y = backend.to_numpy(truth.labels(x, stream)).astype(float)
        draws.append((x, backend.asarray(label(y))))
    count = int(features(draws[0][0][:1, :]).shape[1])
    gram, moment = backend.zeros((count, count)), backend.zeros((count,))
    for x, t in draws:
        phi = features(x)
        gram = gram + xp.matmul(xp.permute_dims(phi, (1, 0)), phi)
        moment = moment + xp.matmul(t, phi)
    linear = solve(gram / n + (0.1 + count / n) * backend.eye(count), moment / n, backend)
    matrix, weight = backend.zeros((count, count)), 0.0
    for x, t in draws:
        phi = features(x)
        rest = backend.to_numpy(t - xp.matmul(phi, linear)).astype(float)
        spread = float(rest.std()) or 1.0
        norms = backend.to_numpy(xp.sum(phi * phi, axis=1)).astype(float) / count
        pull = np.clip(rest - rest.mean(), -CLIP * spread, CLIP * spread) / norms
        matrix = matrix + xp.matmul(xp.permute_dims(phi, (1, 0)) * backend.asarray(pull), phi)
        weight += float(pull.sum())
    return leading_eigenvectors(backend.to_numpy(matrix).astype(float) / n - weight / n * np.eye(count), size)


def top_regression(
    truth: Realization, learned: Any, n: int, stream: np.random.Generator
) -> tuple[Any, tuple[int, ...]]:
    """Return ridge regression of the label on the polynomials of the last level, with the penalty of the least error on
    as many further samples.
    """
    backend, xp = truth.backend, truth.backend.xp
    beta = {j for j, c in truth.target.features[-1].items() if c and j > 0}
    degrees = tuple(range(1, max(beta) + 1))

    def draw() -> tuple[Any, Any]:
        parts = []
        for block in chunks(n, BLOCK):
            x = truth.inputs(block, stream)
            parts.append((union_features(learned(x), degrees, backend), truth.labels(x, stream)))
        phi, y = xp.concat([p for p, _ in parts], axis=0), xp.concat([v for _, v in parts])
        return phi, y - xp.mean(y)

    phi, y = draw()
    other, judge = draw()
    width = int(phi.shape[1])
    gram, moment = xp.matmul(xp.permute_dims(phi, (1, 0)), phi) / n, xp.matmul(y, phi) / n
    fits = [solve(gram + v * width / n * backend.eye(width), moment, backend) for v in STRENGTHS]
    errors = [float(xp.mean((judge - xp.matmul(other, fit)) ** 2)) for fit in fits]
    if not np.all(np.isfinite(errors)):
        raise SimulationError("the regression of the last level did not give numbers", where="algorithm.second")
    return fits[int(np.argmin(errors))], degrees


EXPERIMENT = TreeExperiment()
