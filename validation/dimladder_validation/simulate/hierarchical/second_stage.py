"""Stage 2 at finite d: ridge regression on features of the learned subspace, with measured penalties."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dimladder.numerics.quadrature import gauss_normal, hermite_values
from dimladder.problem.hierarchy import orthonormal_coefficients

from ..base import Backend, chunks
from .features import Features, solve
from .first_stage import BLOCK
from .target import Realization


def fitted_degrees(problem: Any) -> tuple[int, ...]:
    """Return the degrees that stage 2 fits: "all" are those that some order of the link gives weight to."""
    target, asked = problem.target, problem.algorithm.second.degrees
    weights = problem.algorithm.second.weights
    beta = orthonormal_coefficients(target.features[0], target.hermite)
    top = len(beta) - 1
    if asked == "top" or weights == "top":
        return (top,) if asked in ("top", "all") else (max(asked),)
    if asked != "all":
        return tuple(sorted(asked))
    x, w = gauss_normal((0.0,), 200)
    g = np.asarray(target.expression.evaluate(np, h=float(np.linalg.norm(beta)) * x), dtype=float) + 0.0 * x
    coefficients = hermite_values(x, top) @ (w * g)
    reached: set[int] = set()
    made = {0}
    for m in range(1, top + 1):
        made = {t + j for t in made for j in range(1, top + 1) if beta[j] and t + j <= top}
        if abs(coefficients[m]) > 1e-6 * math.sqrt(float(w @ g**2)):
            reached |= made
    return tuple(sorted(reached))


def features_of(problem: Any, d_eff: int, stream: np.random.Generator, backend: Backend) -> Features:
    """Return what stage 2 is fitted on."""
    second = problem.algorithm.second
    if second.weights == "units":
        return Features.random_units(d_eff, second.units, second.activation, stream, backend)
    return Features.polynomials(d_eff, fitted_degrees(problem), backend)


def second_stage(
    problem: Any,
    truth: Realization,
    bases: Sequence[Any],
    features: Features,
    rows: Sequence[Sequence[int]],
    stream: np.random.Generator,
) -> list[Any]:
    """Return the ridge estimates on every subspace: one (features, second) array for each.

    `rows` are the sample counts on each subspace. The subspaces see the same fresh samples, and larger counts contain
    the smaller ones.
    """
    backend, xp = truth.backend, truth.backend.xp
    counts, place = features.counts, features.place
    total_count = int(counts.sum())
    gram = [backend.zeros((total_count, total_count)) for _ in bases]
    moment = [backend.zeros((total_count,)) for _ in bases]
    feature_sum = [backend.zeros((total_count,)) for _ in bases]
    judges = [Judge.measure(truth, basis, features, stream) for basis in bases]
    estimates: list[dict[int, Any]] = [{} for _ in bases]
    done, total = 0, 0.0
    for n in sorted({n for row in rows for n in row}):
        wanted = [i for i, row in enumerate(rows) if max(row) >= n]
        for block in chunks(n - done, BLOCK):
            x = truth.inputs(block, stream)
            y = truth.labels(x, stream)
            total += float(xp.sum(y))
            for i in wanted:
                phi = features(xp.matmul(x, bases[i]))
                gram[i] = gram[i] + xp.matmul(xp.permute_dims(phi, (1, 0)), phi)
                moment[i] = moment[i] + xp.matmul(y, phi)
                feature_sum[i] = feature_sum[i] + xp.sum(phi, axis=0)
        done = n
        for i in wanted:
            if n in rows[i]:
                # Labels are centred by their own mean: the features have none.
                right = (moment[i] - (total / n) * feature_sum[i]) / n
                estimates[i][n] = ridge_estimate(
                    problem.algorithm.second, gram[i] / n, right, counts, place, n, judges[i], backend
                )
    return [xp.stack([found[n] for n in row], axis=1) for found, row in zip(estimates, rows, strict=True)]


@dataclass(frozen=True)
class Judge:
    """What fresh inputs say of one subspace: the label's power by degree, and features to test estimates on.

    Attributes
    ----------
    power : (groups,) array
        |E[y Phi_j]|^2, an unbiased estimate from two halves, cut off below at 1e-4 of the variance.
    variance : float
        Var y.
    features, labels : arrays
    """

    power: np.ndarray
    variance: float
    features: Any
    labels: Any

    @classmethod
    def measure(
        cls,
        truth: Realization,
        basis: Any,
        features: Features,
        stream: np.random.Generator,
        samples: int = 40_000,
        transform: Callable[[Any], Any] | None = None,
    ) -> Judge:
        """Draw fresh inputs for one subspace; with `transform` this function of the label takes its place."""
        backend, xp = truth.backend, truth.backend.xp
        halves, values = [], []
        first = None
        for _ in range(2):
            sums, labels = 0.0, []
            for block in chunks(samples // 2, BLOCK):
                x = truth.inputs(block, stream)
                y = truth.labels(x, stream)
                if transform is not None:
                    y = transform(y)
                phi = features(xp.matmul(x, basis))
                labels.append(y)
                sums = sums + xp.matmul(y, phi) - xp.mean(y) * xp.sum(phi, axis=0)
                if first is None:
                    first, kept = phi, y
            values.append(backend.to_numpy(xp.concat(labels)).astype(float))
            halves.append(backend.to_numpy(sums).astype(float) / (samples // 2))
        variance = float(np.var(np.concatenate(values)))
        power = np.bincount(features.place, halves[0] * halves[1], minlength=len(features.counts))
        return cls(np.maximum(power, 1e-4 * variance), variance, first, kept)

    def error(self, theta: Any, backend: Backend) -> float:
        """Return the variance of what an estimate leaves of the labels of the first fresh inputs."""
        rest = self.labels - backend.xp.matmul(self.features, theta)
        return float(np.var(backend.to_numpy(rest)))


def ridge_estimate(
    second: Any,
    gram: Any,
    right: Any,
    counts: np.ndarray,
    place: np.ndarray,
    n: int,
    judge: Judge,
    backend: Backend,
) -> Any:
    """Return the estimate with the penalties of the weighting: measured powers where the optimal ones are asked for."""

    def estimate(penalty: np.ndarray) -> Any:
        return solve(gram + backend.asarray(np.diag(penalty[place])), right, backend)

    if second.weights == "optimal":
        shape = counts / judge.power
        if second.ridge == "optimal":
            left = max(judge.variance - float(judge.power.sum()), 1e-6 * judge.variance)
            return estimate(left * shape / n)
        return estimate(float(second.ridge) * shape / shape[-1])
    shape = counts.astype(float) if second.weights == "kernel" else np.ones(len(counts))
    if second.ridge != "optimal":
        return estimate(float(second.ridge) * shape)
    tried = [estimate(v * shape / shape[-1]) for v in np.geomspace(1e-4, 1e4, 33)]
    return min(tried, key=lambda theta: judge.error(theta, backend))
