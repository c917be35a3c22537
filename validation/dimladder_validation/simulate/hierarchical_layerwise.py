"""The three-stage learner at finite d: spectral first layer, ridge on polynomials of the learned subspace, readout."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dimladder.problem import axis_values
from dimladder.theories.hierarchical.labels import LabelMoments, label_moments
from dimladder.theories.hierarchical.ridge import feature_count

from .base import Backend, Closing, Experiment, Sample, chunks
from .hierarchical_target import Realization

BLOCK = 8192
# Fresh inputs on which the readout is judged; with third.samples = inf it is fitted there too, (degree + 1)/40000 too
# well.
TEST_SAMPLES = 40_000


class LayerwiseExperiment(Experiment):
    """Measures the overlap of the learned subspace, the correlation of the learned feature, and the error."""

    theory = "hierarchical-layerwise"
    batch_size = 1

    def closing(self, problem: Any) -> Closing:
        """Below the threshold the overlap vanishes like d_eff/d times an edge enhancement that saturates."""
        return Closing(slowest=0.2, reason="the refined theory: 0.22 at d ~ 500, 0.26 at d ~ 30000, for eps = 1/2")

    def at_size(self, problem: Any, size: int) -> Any:
        import dimladder

        if problem.algorithm.first.order == "refined":
            return dimladder.replace(problem, {"limit.d": size})
        return problem

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        first = np.array(axis_values(problem.grid.first_ratio))
        second = np.array(axis_values(problem.grid.second_ratio))
        shape = (len(streams), len(first), len(second))
        overlap = np.empty(shape[:2])
        correlation, error = np.empty(shape), np.empty(shape)
        for r, stream in enumerate(streams):
            overlap[r], correlation[r], error[r] = three_stages(problem, size, first, second, stream, backend)
        dims = ("first_ratio", "second_ratio")
        return Sample(
            {"first_ratio": first, "second_ratio": second},
            {
                "subspace_overlap": (("first_ratio",), overlap),
                "feature_correlation": (dims, correlation),
                "generalization_error": (dims, error),
                "prediction_error": (dims, error + problem.target.noise**2),
            },
        )


def three_stages(
    problem: Any, d: int, first: np.ndarray, second: np.ndarray, stream: np.random.Generator, backend: Backend
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run one replica over the whole grid: samples are nested along each axis, fresh between the stages.

    Returns
    -------
    overlap : (first,) array
    correlation, error : (first, second) arrays
        Error without label noise, on `TEST_SAMPLES` fresh inputs.
    """
    algorithm, target = problem.algorithm, problem.target
    truth = Realization.draw(target, d, stream, backend)
    moments = label_moments(target, algorithm.first.label_transform)
    counts = [math.inf if math.isinf(f) else round(f * d * truth.features) for f in first]
    subspaces = spectral_subspaces(truth, moments, counts, stream, backend)
    w = truth.directions.reshape(-1, d)
    overlap = np.array([float(np.linalg.norm(w @ u) ** 2) / len(w) for u in subspaces])
    bases = [backend.asarray(u) for u in subspaces]
    learned = second_stage(problem, truth, bases, first, second, stream, backend)
    correlation, error = third_stage(truth, bases, learned, algorithm.third, stream, backend)
    return overlap, correlation, error


def second_stage(
    problem: Any,
    truth: Realization,
    bases: Sequence[Any],
    first: np.ndarray,
    second: np.ndarray,
    stream: np.random.Generator,
    backend: Backend,
) -> list[Any]:
    """Return the ridge estimates on every subspace: one (D, second) array for each.

    The subspaces see the same fresh samples, and larger sample counts contain the smaller ones.
    """
    xp = backend.xp
    degree = int(max(truth.target.features[0]))
    count = feature_count(truth.features, degree)
    sizes = [round(s * count) for s in second]
    gram = [backend.zeros((count, count)) for _ in bases]
    moment = [backend.zeros((count,)) for _ in bases]
    feature_sum = [backend.zeros((count,)) for _ in bases]
    estimates: list[list[Any]] = [[None] * len(second) for _ in bases]
    done, total = 0, 0.0
    for j in np.argsort(sizes):
        for block in chunks(sizes[j] - done, BLOCK):
            x = truth.inputs(block, stream)
            y = truth.labels(x, stream)
            total += float(xp.sum(y))
            for i, basis in enumerate(bases):
                phi = monomials(xp.matmul(x, basis), degree, backend)
                gram[i] = gram[i] + xp.matmul(xp.permute_dims(phi, (1, 0)), phi)
                moment[i] = moment[i] + xp.matmul(y, phi)
                feature_sum[i] = feature_sum[i] + xp.sum(phi, axis=0)
        done = sizes[j]
        for i in range(len(bases)):
            ridge = problem.algorithm.second.ridge
            if ridge == "optimal":
                ridge = leading_optimal_ridge(problem, float(first[i]), float(second[j]))
            system = gram[i] / done + float(ridge) * backend.eye(count)
            # Labels are centred by their own mean: the features have none.
            estimates[i][j] = solve(system, (moment[i] - (total / done) * feature_sum[i]) / done, backend)
    return [xp.stack(rows, axis=1) for rows in estimates]


def spectral_subspaces(
    truth: Realization,
    moments: LabelMoments,
    counts: Sequence[float],
    stream: np.random.Generator,
    backend: Backend,
) -> list[np.ndarray]:
    """Return, for each sample count, the d_eff leading eigenvectors of (1/n) sum (T(y) - E T) (x x^T - I).

    Parameters
    ----------
    truth : Realization
    moments : LabelMoments
        The label transform, and its mean.
    counts : sequence of float
        Samples; infinite gives the true directions.
    stream : Generator
    backend : Backend

    Returns
    -------
    list of (d, d_eff) arrays
    """
    xp, d = backend.xp, truth.d
    rank = truth.features * truth.target.branches
    result: list[np.ndarray] = [truth.directions.reshape(-1, d).T.copy() for _ in counts]
    finite = sorted((int(n), i) for i, n in enumerate(counts) if math.isfinite(n))
    moment, label, done = backend.zeros((d, d)), 0.0, 0
    mean = float(moments.tau[0])
    for n, i in finite:
        for block in chunks(n - done, BLOCK):
            x = truth.inputs(block, stream)
            t = backend.asarray(moments.transform(precise_labels(truth, x, stream)) - mean)
            moment = moment + xp.matmul(xp.permute_dims(x, (1, 0)) * t, x)
            label += float(xp.sum(t))
        done = n
        if n == 0:
            result[i] = np.linalg.qr(stream.standard_normal((d, rank)))[0]
            continue
        matrix = (backend.to_numpy(moment).astype(float) - label * np.eye(d)) / n
        result[i] = leading_eigenvectors(matrix, rank)
    return result


def precise_labels(truth: Realization, x: Any, stream: np.random.Generator) -> np.ndarray:
    """Return labels with the link evaluated in float64: a saturating link loses in float32 what T* undoes."""
    names = truth.target.link_variables
    h = [truth.backend.to_numpy(v).astype(float) for v in truth.features_of(truth.project(x))]
    y = np.asarray(truth.target.expression.evaluate(np, **dict(zip(names, h, strict=True)))) + 0.0 * h[0]
    return y + truth.target.noise * stream.standard_normal(len(y)) if truth.target.noise else y


def leading_eigenvectors(matrix: np.ndarray, rank: int) -> np.ndarray:
    """Return the eigenvectors of a symmetric matrix with the `rank` eigenvalues of largest modulus, as columns."""
    from scipy.linalg import eigh

    n = len(matrix)
    if 2 * rank >= n:
        values, vectors = eigh(matrix)
    else:
        low = eigh(matrix, subset_by_index=(0, rank - 1))
        high = eigh(matrix, subset_by_index=(n - rank, n - 1))
        values, vectors = np.concatenate([low[0], high[0]]), np.concatenate([low[1], high[1]], axis=1)
    return vectors[:, np.argsort(-np.abs(values))[:rank]]


def monomials(z: Any, degree: int, backend: Backend) -> Any:
    """Return the orthonormal degree-k Hermite features prod_i h_{alpha_i}(z_i), |alpha| = k, shape (n, D)."""
    xp = backend.xp
    d = z.shape[1]
    hermite = [0.0 * z + 1.0, z]
    for k in range(1, degree):
        hermite.append((z * hermite[k] - math.sqrt(k) * hermite[k - 1]) / math.sqrt(k + 1))
    if degree == 1:
        return z
    if degree == 2:
        rows, columns = np.triu_indices(d, 1)
        pairs = xp.take(z, backend.indices(rows), axis=1) * xp.take(z, backend.indices(columns), axis=1)
        return xp.concat([hermite[2], pairs], axis=1)
    products = []
    for combination in itertools.combinations_with_replacement(range(d), degree):
        value = None
        for i in sorted(set(combination)):
            factor = hermite[combination.count(i)][:, i]
            value = factor if value is None else value * factor
        products.append(value)
    return xp.stack(products, axis=1)


def solve(matrix: Any, right: Any, backend: Backend) -> Any:
    """Solve a positive system on the backend; a singular one (no ridge, too few samples) by least squares, on the host.

    Parameters
    ----------
    matrix, right : arrays, shapes (n, n), (n,)
    """
    if backend.is_torch:
        import torch

        root, failed = torch.linalg.cholesky_ex(matrix)
        if not int(failed):
            return torch.cholesky_solve(right[:, None], root)[:, 0]
    elif backend.is_numpy:
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        try:
            return cho_solve(cho_factor(matrix), right)
        except LinAlgError:
            pass
    else:
        return backend.xp.linalg.solve(matrix, right)
    return backend.asarray(np.linalg.lstsq(backend.to_numpy(matrix), backend.to_numpy(right), rcond=None)[0])


def leading_optimal_ridge(problem: Any, first: float, second: float) -> float:
    """Return the optimal ridge of the leading-order theory at one point of the grid."""
    from dimladder.theories.hierarchical.analysis import levels, link_of
    from dimladder.theories.hierarchical.ridge import optimal_ridge
    from dimladder.theories.hierarchical.spectral import leading_overlaps

    target = problem.target
    link, level = link_of(target), levels(target)[0]
    moments = label_moments(target, problem.algorithm.first.label_transform)
    a, fractions, q = leading_overlaps(target, moments, first)
    ceiling = float(level.fractions[-1]) * float(fractions @ (a**2 * q**level.degree))
    signal = float(link.coefficients[1]) ** 2 * ceiling
    variance = link.second_moment - float(link.coefficients[0]) ** 2 + target.noise**2
    return min(optimal_ridge(signal, variance - signal, second), 1e12)


def third_stage(
    truth: Realization,
    bases: Sequence[Any],
    learned: Sequence[Any],
    third: Any,
    stream: np.random.Generator,
    backend: Backend,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the polynomial readout of every learned feature on fresh labels, and test it on another set of inputs.

    Returns
    -------
    correlation, error : (first, second) arrays
        corr(h_hat, h*) and E[(f* - f)^2] on `TEST_SAMPLES` inputs.
    """
    xp = backend.xp
    degree = int(max(truth.target.features[0]))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        features, scalar, clean = [], [], []
        for block in chunks(n, BLOCK):
            x = truth.inputs(block, stream)
            h = truth.features_of(truth.project(x))
            clean.append(backend.to_numpy(truth.link(h)))
            scalar.append(backend.to_numpy(h[0]))
            made = [
                xp.matmul(monomials(xp.matmul(x, basis), degree, backend), theta)
                for basis, theta in zip(bases, learned, strict=True)
            ]
            features.append(backend.to_numpy(xp.stack(made, axis=0)))
        joined = np.concatenate(features, axis=1), np.concatenate(scalar), np.concatenate(clean)
        return joined[0].astype(float), joined[1].astype(float), joined[2].astype(float)

    test, scalar, wanted = draw(TEST_SAMPLES)
    if math.isinf(third.samples):
        # The population's best readout: fitted to f* on the very samples it is judged by. A fit on other samples,
        # however
        # many, is ruined by the few inputs far out in the tail, where a polynomial of degree 7 is anything.
        train, y = test, wanted
    else:
        n = max(1, round(third.samples))
        train, _, clean = draw(n)
        y = clean + truth.target.noise * stream.standard_normal(n)
    shape = (len(bases), train.shape[2])
    correlation, error = np.empty(shape), np.empty(shape)
    for i, j in np.ndindex(*shape):
        correlation[i, j] = np.corrcoef(test[i, :, j], scalar)[0, 1]
        fit = polynomial_fit(train[i, :, j], y, third.degree, third.ridge)
        error[i, j] = float(np.mean((fit(test[i, :, j]) - wanted) ** 2))
    return correlation, error


def polynomial_fit(s: np.ndarray, y: np.ndarray, degree: int, ridge: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return the ridge regression of y on orthonormal Hermite polynomials of the standardised feature."""
    from dimladder.numerics.quadrature import hermite_values

    centre, scale = float(np.mean(s)), float(np.std(s)) or 1.0
    basis = hermite_values((s - centre) / scale, degree).T
    if ridge:
        beta = np.linalg.solve(basis.T @ basis / len(s) + ridge * np.eye(degree + 1), basis.T @ y / len(s))
    else:
        beta = np.linalg.lstsq(basis, y, rcond=None)[0]
    return lambda t: beta @ hermite_values((t - centre) / scale, degree)


EXPERIMENT = LayerwiseExperiment()
