"""The three-stage learner at finite d: spectral first layer, ridge on polynomials of the learned subspace, readout.

What the theory takes from a law is measured here: the mean of the transformed label, the conditional mean that the
optimal transform is, the power of the label in each degree that optimal penalties need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dimladder.errors import SimulationError
from dimladder.numerics.quadrature import gauss_normal, hermite_values
from dimladder.problem import Expression
from dimladder.problem.hierarchy import draw_readout, effective_dimension, orthonormal_coefficients

from ..base import Backend, Closing, Experiment, Sample, chunks
from .features import Features, solve
from .flattening import flattened_features, flattened_subspaces
from .target import Realization, hermite_polynomial, leading_eigenvectors

BLOCK = 8192
# Fresh inputs on which the readout is judged; with third.samples = inf it is fitted there too, (degree + 1)/40000 too
# well.
TEST_SAMPLES = 40_000
# Inputs on which properties of the label's law are measured.
PILOT_SAMPLES = 400_000
PILOT_BINS = 400
# Independent readouts fitted on third.samples labels each: their median is what is reported.
FITS = 25
MOST_LABELS = 2_000_000
# Standard deviations at which a clipped readout ends.
CLIP = 2.5


@dataclass(frozen=True)
class Row:
    """Samples of stage 1 (infinite: the true subspace) and of the second stages on that subspace."""

    first: float
    second: tuple[int, ...]


class LayerwiseExperiment(Experiment):
    """Measures the overlap of the learned subspace, the correlation of the learned feature, and the error."""

    theory = "hierarchical-layerwise"
    batch_size = 1

    def closing(self, problem: Any) -> Closing:
        if problem.algorithm.first.estimator == "flattened":
            return Closing(
                slowest=0.2,
                reason="below the threshold, and near it, the folded eigenvector knows the hidden subspace by an edge "
                "effect that the theory leaves out: its gap is measured to close like d^-0.3",
            )
        if problem.algorithm.first.order == "refined":
            eps = problem.target.exponents[0]
            return Closing(slowest=0.8 * eps, reason="what the refined theory leaves out is O(1/d_eff), d_eff = d^eps")
        return Closing(
            slowest=0.2,
            reason="below the threshold the overlap vanishes like d_eff/d times an edge enhancement that saturates: "
            "the refined theory gives a local exponent of 0.22 at d ~ 500, 0.26 at d ~ 30000, for eps = 1/2",
        )

    def exact(self, problem: Any) -> tuple[str, ...]:
        return ("null_mse", "null_test_mse") if problem.algorithm.first.order == "refined" else ()

    def at_size(self, problem: Any, size: int) -> Any:
        import dimladder

        return problem if problem.limit.d is None else dimladder.replace(problem, {"limit.d": size})

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        grid = problem.grid
        rows = rows_of(problem, size)
        shape = (len(streams), len(rows), len(rows[0].second))
        overlap, null = np.empty(shape[:2]), np.empty((2, shape[0]))
        correlation, error = np.empty(shape), np.empty(shape)
        for r, stream in enumerate(streams):
            overlap[r], correlation[r], error[r], null[:, r] = three_stages(problem, size, rows, stream, backend)
        first: tuple[str, ...]
        both: tuple[str, ...]
        if grid.kappa is not None:
            first = both = ("kappa",)
            correlation, error = correlation[:, :, 0], error[:, :, 0]
        else:
            second = "second_ratio" if grid.second_ratio is not None else "second_samples"
            first, both = ("first_ratio",), ("first_ratio", second)
        return Sample(
            {name: np.array(grid.values(name)) for name in both},
            {
                "subspace_overlap": (first, overlap),
                "feature_correlation": (both, correlation),
                "mse": (both, error),
                "test_mse": (both, error + problem.target.noise**2),
                "null_mse": ((), null[0]),
                "null_test_mse": ((), null[1]),
            },
        )


def rows_of(problem: Any, d: int) -> list[Row]:
    """Return the samples of the grid at this d."""
    target, grid = problem.target, problem.grid
    if any(math.isinf(v) for v in (*grid.values("second_ratio"), *grid.values("second_samples"))):
        raise SimulationError(
            "stage 2 cannot be run on infinitely many samples", where="grid.second_ratio",
            why="inf is a limit of the theory; first_ratio = inf takes the true subspace", hint="a finite ratio",
        )  # fmt: skip
    d_eff = effective_dimension(d, target.exponents[0])
    if grid.kappa is not None:
        counts = [max(1, round(d**kappa)) for kappa in grid.values("kappa")]
        return [Row(n, (n,)) for n in counts]
    degree = max(j for j, c in target.features[0].items() if c)
    # Polynomials of the learned coordinates of all branches.
    unit = math.comb(target.branches * d_eff + degree - 1, degree)
    second = tuple(round(v * unit) for v in grid.values("second_ratio")) or tuple(
        round(v) for v in grid.values("second_samples")
    )
    return [Row(v if math.isinf(v) else round(v * d * d_eff), second) for v in grid.values("first_ratio")]


def three_stages(
    problem: Any, d: int, rows: Sequence[Row], stream: np.random.Generator, backend: Backend
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float]]:
    """Run one replica over the whole grid: samples are nested along each axis, fresh between the stages.

    Returns
    -------
    overlap : (rows,) array
    correlation, error : (rows, second) arrays
        Error without label noise, on `TEST_SAMPLES` fresh inputs.
    null : (float, float)
        E[f*^2] and E[y^2], random readouts averaged over.
    """
    truth = Realization.draw(problem.target, d, stream, backend)
    first, counts = problem.algorithm.first, [row.first for row in rows]
    flattened = first.estimator == "flattened"
    transform, mean, _ = label_transform(truth, first.label_transform, stream, 2 if flattened else 1)
    find = flattened_subspaces if flattened else spectral_subspaces
    subspaces = find(truth, transform, mean, counts, stream, backend)
    w = truth.directions.reshape(-1, d)
    overlap = np.array([float(np.linalg.norm(w @ u) ** 2) / len(w) for u in subspaces])
    bases = [backend.asarray(u) for u in subspaces]
    third = problem.algorithm.third
    if problem.algorithm.second.estimator == "flattened":
        transform, mean, _ = label_transform(truth, first.label_transform, stream, 2)
        features = Features.polynomials(truth.features, (2,), backend)
        learned = flattened_features(truth, transform, mean, bases, [row.second for row in rows], stream, backend)
        correlation, error = third_stage(truth, bases, learned, features, third, stream, backend)
        # An eigenvector has no sign.
        return overlap, np.abs(correlation), error, null_errors(truth, stream)
    features = features_of(problem, truth.features, stream, backend)
    learned = second_stage(problem, truth, bases, features, rows, stream, backend)
    stages = third_stage(truth, bases, learned, features, third, stream, backend)
    return overlap, *stages, null_errors(truth, stream)


def null_errors(truth: Realization, stream: np.random.Generator) -> tuple[float, float]:
    """Return E[f*^2] and E[y^2] of a target of one branch and level on draws with readouts of their own.

    With the readouts of one realisation the mean would depend on their sum, of which a few directions have a few values
    only: replicas then scatter by chance far less than they differ from their law.
    """
    target, d_eff = truth.target, truth.features
    z = stream.standard_normal((PILOT_SAMPLES, d_eff))
    random = target.readout in ("rademacher", "gaussian")
    a = draw_readout(target, d_eff * PILOT_SAMPLES if random else d_eff, stream).reshape(-1, d_eff)
    h = (hermite_polynomial(orthonormal_coefficients(target.features[0], target.hermite), z) * a).sum(axis=1)
    f = np.asarray(target.expression.evaluate(np, h=h / math.sqrt(d_eff)), dtype=float) + 0.0 * h
    y = f + target.noise * stream.standard_normal(len(f)) if target.noise else f
    return float(np.mean(f**2)), float(np.mean(y**2))


# ---------------------------------------------------------------------------------------------------------- stage 1


def label_transform(
    truth: Realization, text: str, stream: np.random.Generator, channel: int = 1
) -> tuple[Callable[[np.ndarray], np.ndarray], float, tuple[float, float]]:
    """Return T(y), its mean, and E f*^2 with E y^2, all from a pilot sample of the target's own features.

    The optimal transform, E[h | y] or for the second channel E[h^2 - E h^2 | y], is an average over bins of equal
    numbers of labels.
    """
    z = stream.standard_normal((PILOT_SAMPLES, truth.target.branches, truth.features))
    h = [truth.backend.to_numpy(v).astype(float) for v in truth.features_of(truth.backend.asarray(z))]
    y = np.asarray(truth.target.expression.evaluate(np, **dict(zip(truth.target.link_variables, h, strict=True))))
    y = y + 0.0 * h[0]
    clean = float(np.mean(y**2))
    if truth.target.noise:
        y = y + truth.target.noise * stream.standard_normal(len(y))
    null = clean, float(np.mean(y**2))
    if text != "optimal":
        expression = Expression("y" if text == "identity" else text, ("y",))

        def transform(label: np.ndarray) -> np.ndarray:
            return np.asarray(expression.evaluate(np, y=label), dtype=float) + 0.0 * label

        return transform, float(transform(y).mean()), null
    order = np.argsort(y, kind="stable")
    # Equal labels must not be told apart: bins end where the label changes.
    edges = np.linspace(0, len(y), PILOT_BINS + 1).astype(int)[1:-1]
    starts = np.unique(np.concatenate([[0], np.searchsorted(y[order], y[order][edges], side="left")]))
    counts = np.diff([*starts, len(y)])
    labels = np.add.reduceat(y[order], starts) / counts
    wanted = h[0] if channel == 1 else h[0] ** 2 - np.mean(h[0] ** 2)
    means = np.add.reduceat(wanted[order], starts) / counts
    return lambda label: np.interp(label, labels, means), float(counts @ means) / len(y), null


def spectral_subspaces(
    truth: Realization,
    transform: Callable[[np.ndarray], np.ndarray],
    mean: float,
    counts: Sequence[float],
    stream: np.random.Generator,
    backend: Backend,
) -> list[np.ndarray]:
    """Return, for each sample count, the d_eff leading eigenvectors of (1/n) sum (T(y) - E T) (x x^T - I).

    Parameters
    ----------
    truth : Realization
    transform : callable
    mean : float
        E T.
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
    for n, i in finite:
        for block in chunks(n - done, BLOCK):
            x = truth.inputs(block, stream)
            t = backend.asarray(transform(precise_labels(truth, x, stream)) - mean)
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


# ---------------------------------------------------------------------------------------------------------- stage 2


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
    rows: Sequence[Row],
    stream: np.random.Generator,
    backend: Backend,
) -> list[Any]:
    """Return the ridge estimates on every subspace: one (features, second) array for each.

    The subspaces see the same fresh samples, and larger sample counts contain the smaller ones.
    """
    xp = backend.xp
    counts, place = features.counts, features.place
    total_count = int(counts.sum())
    gram = [backend.zeros((total_count, total_count)) for _ in bases]
    moment = [backend.zeros((total_count,)) for _ in bases]
    feature_sum = [backend.zeros((total_count,)) for _ in bases]
    judges = [Judge.measure(truth, basis, features, stream, backend) for basis in bases]
    estimates: list[dict[int, Any]] = [{} for _ in bases]
    done, total = 0, 0.0
    for n in sorted({n for row in rows for n in row.second}):
        wanted = [i for i, row in enumerate(rows) if max(row.second) >= n]
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
            if n in rows[i].second:
                # Labels are centred by their own mean: the features have none.
                right = (moment[i] - (total / n) * feature_sum[i]) / n
                estimates[i][n] = ridge_estimate(
                    problem.algorithm.second, gram[i] / n, right, counts, place, n, judges[i], backend
                )
    return [xp.stack([found[n] for n in row.second], axis=1) for found, row in zip(estimates, rows, strict=True)]


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
        backend: Backend,
        samples: int = 40_000,
        transform: Callable[[Any], Any] | None = None,
    ) -> Judge:
        """Draw fresh inputs for one subspace; with `transform` this function of the label takes its place."""
        xp = backend.xp
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


# ---------------------------------------------------------------------------------------------------------- stage 3


def third_stage(
    truth: Realization,
    bases: Sequence[Any],
    learned: Sequence[Any],
    features: Features,
    third: Any,
    stream: np.random.Generator,
    backend: Backend,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the readout of every learned feature on fresh labels, and test it on another set of inputs.

    Returns
    -------
    correlation, error : (rows, second) arrays
        corr(h_hat, h) and E[(f* - f)^2] on `TEST_SAMPLES` inputs: with a finite number of labels the median over
        independent sets of them.
    """
    xp = backend.xp

    def draw(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        learnt, scalar, clean = [], [], []
        for block in chunks(n, BLOCK):
            x = truth.inputs(block, stream)
            h = truth.features_of(truth.project(x))
            clean.append(backend.to_numpy(truth.link(h)))
            scalar.append(backend.to_numpy(h[0]))
            made = [
                xp.matmul(features(xp.matmul(x, basis)), theta) for basis, theta in zip(bases, learned, strict=True)
            ]
            learnt.append(backend.to_numpy(xp.stack(made, axis=0)))
        joined = np.concatenate(learnt, axis=1), np.concatenate(scalar), np.concatenate(clean)
        return joined[0].astype(float), joined[1].astype(float), joined[2].astype(float)

    test, scalar, wanted = draw(TEST_SAMPLES)
    if math.isinf(third.samples):
        # The population's best readout: fitted to f* on the very samples it is judged by. A fit on other samples,
        # however many, is ruined by the few inputs far out in the tail, where a polynomial of degree 7 is anything.
        sets = [(test, wanted)]
    else:
        n = max(1, round(third.samples))
        fits = int(np.clip(MOST_LABELS // n, 1, FITS))
        train, _, clean = draw(n * fits)
        y = clean + truth.target.noise * stream.standard_normal(n * fits)
        sets = [(train[:, n * s : n * (s + 1)], y[n * s : n * (s + 1)]) for s in range(fits)]
    shape = (len(bases), test.shape[2])
    correlation, error = np.empty(shape), np.empty(shape)
    for i, j in np.ndindex(*shape):
        correlation[i, j] = np.corrcoef(test[i, :, j], scalar)[0, 1]
        standard = standardiser(test[i, :, j], third.basis)
        at = readout_basis(standard(test[i, :, j]), third)
        found = []
        for train, y in sets:
            fit = readout_fit(readout_basis(standard(train[i, :, j]), third), y, third.ridge)
            found.append(float(np.mean((at @ fit - wanted) ** 2)))
        error[i, j] = np.median(found)
    return correlation, error


def standardiser(feature: np.ndarray, basis: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map of a learned feature to what its readout acts on, from unlabelled inputs.

    Hermite, clip: centred and scaled; rank: its rank among the unlabelled inputs, in [-1, 1].
    """
    if basis == "rank":
        known = np.sort(feature)
        return lambda s: 2.0 * (np.searchsorted(known, s) + 0.5) / (len(known) + 1.0) - 1.0
    centre, scale = float(np.mean(feature)), float(np.std(feature)) or 1.0
    return lambda s: (s - centre) / scale


def readout_basis(s: np.ndarray, third: Any) -> np.ndarray:
    """Return the readout's basis functions, shape (samples, degree + 1)."""
    if third.basis == "rank":
        sizes = np.sqrt(2 * np.arange(third.degree + 1) + 1)
        return np.asarray(np.polynomial.legendre.legvander(s, third.degree) * sizes)
    return np.asarray(hermite_values(np.clip(s, -CLIP, CLIP) if third.basis == "clip" else s, third.degree).T)


def readout_fit(basis: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """Return the coefficients of the ridge regression of y on orthonormal functions."""
    if ridge:
        gram = basis.T @ basis / len(y) + ridge * np.eye(basis.shape[1])
        return np.asarray(np.linalg.solve(gram, basis.T @ y / len(y)))
    return np.asarray(np.linalg.lstsq(basis, y, rcond=None)[0])


EXPERIMENT = LayerwiseExperiment()
