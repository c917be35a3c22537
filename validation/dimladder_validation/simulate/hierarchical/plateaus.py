"""Ideal learners of the staircase at finite d: what is left of f* after its best fit of the allowed degree.

Heights: the limit n -> infinity at fixed degree is taken exactly; d_eff = floor(d^eps) stays finite. A function
symmetric under exchange of the features expands on the orthogonal polynomials M_lambda = sum over distinct indices of
prod_j a_i He_{lambda_j}(z_i), one for each partition lambda; their coefficients are Monte Carlo averages, and the
square of each is estimated without bias from two halves of the samples.

Where a learner finds the hidden subspace is measured: spectral estimates from n = d^kappa samples, at this d. Training
real networks is `training`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dimladder.errors import SimulationError
from dimladder.problem.hierarchy import draw_readout, orthonormal_coefficients

from ..base import Backend, Closing, Experiment, Sample, chunks
from .target import Realization, hermite_polynomial, leading_eigenvectors, level_sizes

LEARNERS = ("kernel", "two-layer", "deep")
SAMPLES = 16_000
BLOCK = 8_000
LARGEST_DEGREE = 10
FIT_DEGREE = 14
# 3 * 0.1 must reach an exponent written 0.3.
SLACK = 1e-9
# The exponent measured between d/4 and d is good to about this: below it by `LOST` the subspace is not found, above it
# by `FOUND` it is; in between the learners that need the subspace are not measured.
LOST, FOUND = 0.2, 0.3
MOST_SAMPLES = 1 << 17


class PlateauExperiment(Experiment):
    """Measures the plateau heights at finite d_eff, and the exponent at which the subspace is found.

    With readouts other than ones, components whose readout enters squared are not in the basis: an O(1/d_eff) part
    of the finite-size correction.
    """

    theory = "hierarchical-plateaus"
    batch_size = 4
    # The exponent is measured between d/4 and d.
    least_size = 64

    def closing(self, problem: Any) -> Closing:
        return Closing(slowest=0.2, reason="sizes enter through d_eff = floor(d^eps): 1/d_eff closes as d^-eps only")

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        target = problem.target
        if len(target.exponents) > 1 or target.branches > 1:
            raise SimulationError(
                "the finite-d plateaus are computed for one hidden level and one branch", where="target.exponents",
                hint="deeper trees: theory only, or train networks with the theory hierarchical-learners",
            )  # fmt: skip
        kappa = np.array(problem.grid.values("kappa"))
        error = np.empty((len(streams), len(LEARNERS), len(kappa)))
        null, exponent = np.empty(len(streams)), np.empty(len(streams))
        for r, stream in enumerate(streams):
            half, smaller = (samples_to_find(target, d, stream, backend) for d in (size, size // 4))
            exponent[r], found = found_subspace(half, smaller, size, kappa)
            null[r], error[r] = plateaus(target, size, kappa, found, stream, backend)
        return Sample(
            {"learner": list(LEARNERS), "kappa": kappa},
            {
                "mse": (("learner", "kappa"), error),
                "null_mse": ((), null),
                "subspace_exponent": ((), exponent),
            },
        )


def degree_within(kappa: float, exponent: float) -> int:
    """Return the degree whose polynomials in d^exponent variables are as many as d^kappa samples."""
    return math.floor(kappa / exponent + SLACK)


def samples_to_find(target: Any, d: int, stream: np.random.Generator, backend: Backend) -> float:
    """Return how many samples find half of the hidden subspace at this d: overlap 1/2, chance subtracted.

    The best of three fixed transforms of the label (y, y/(1 + y^2/E y^2), |y - E y|) in (1/n) sum T(y) (x x^T - I):
    its leading eigenvectors are compared with the truth. Infinite where `MOST_SAMPLES` do not suffice.
    """
    xp = backend.xp
    d_eff = level_sizes(target, d)[0]
    readout = draw_readout(target, d_eff, stream).reshape(1, d_eff)
    # Coordinates are chosen along the hidden directions: the law of what is measured does not depend on them.
    truth = Realization(target, d, np.eye(d)[None, :d_eff], (readout,), backend)

    def labels(x: Any) -> Any:
        y = truth.link(truth.features_of(x[:, None, :d_eff]))
        return y + target.noise * backend.normal([stream], (y.shape[0],))[0, ...] if target.noise else y

    pilot = labels(backend.normal([stream], (50_000, d_eff))[0, ...])
    centre, square = float(xp.mean(pilot)), float(xp.mean(pilot * pilot))

    def transforms(y: Any) -> list[Any]:
        return [y, y / (1.0 + y * y / square), xp.abs(y - centre)]

    means = [float(xp.mean(t)) for t in transforms(pilot)]
    counts = np.unique(np.round(np.geomspace(d, MOST_SAMPLES, 28)).astype(int))
    moment, label = [backend.zeros((d, d)) for _ in means], [0.0 for _ in means]
    chance, done, before = d_eff / d, 0, (0.0, 0.0)
    for n in counts.tolist():
        for block in chunks(n - done, BLOCK):
            x = backend.normal([stream], (block, d))[0, ...]
            for j, t in enumerate(transforms(labels(x))):
                t = t - means[j]
                moment[j] = moment[j] + xp.matmul(xp.permute_dims(x, (1, 0)) * t, x)
                label[j] += float(xp.sum(t))
        done = n
        best = 0.0
        for matrix, total in zip(moment, label, strict=True):
            u = leading_eigenvectors(backend.to_numpy(matrix).astype(float) - total * np.eye(d), d_eff)
            best = max(best, float(np.sum(u[:d_eff] ** 2)) / d_eff)
        excess = (best - chance) / (1.0 - chance)
        if excess >= 0.5:
            share = (0.5 - before[1]) / (excess - before[1])
            return math.exp(before[0] + share * (math.log(n) - before[0])) if before[0] else float(n)
        before = math.log(n), excess
    return math.inf


def found_subspace(half: float, smaller: float, d: int, kappa: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the exponent at which the hidden subspace is found, and for each kappa 1 (found), 0 (not) or NaN.

    Parameters
    ----------
    half, smaller : float
        `samples_to_find` at d and at d/4: their ratio is 4^exponent, whatever the constant in front.
    d : int
    kappa : array
    """
    if math.isinf(half) or math.isinf(smaller):
        return math.nan, np.where(kappa < 1.0, 0.0, math.nan)
    exponent, here = math.log(half / smaller) / math.log(4.0), math.log(half) / math.log(d)
    lost = (kappa < exponent - LOST) & (kappa < here - 0.1)
    found = kappa > max(exponent, here) + FOUND
    return exponent, np.where(found, 1.0, np.where(lost, 0.0, math.nan))


def plateaus(
    target: Any,
    d: int,
    kappa: np.ndarray,
    found: np.ndarray,
    stream: np.random.Generator,
    backend: Backend,
    samples: int = SAMPLES,
) -> tuple[float, np.ndarray]:
    """Return E[f*^2] and the errors of the three learners, shape (3, kappa), of one realisation of the readouts.

    Entries are NaN, "not measured", for degrees above `LARGEST_DEGREE` and, for the learners that need the subspace,
    where `found` is NaN: it is undecided whether n = d^kappa samples find it (`found_subspace`).
    """
    eps = target.exponents[0]
    d_eff = level_sizes(target, d)[0]
    wanted = min(LARGEST_DEGREE, max(
        degree_within(float(k), eps if s == 1.0 else 1.0) for k, s in zip(kappa, found, strict=True)
    ))  # fmt: skip
    a = draw_readout(target, d_eff, stream)
    coefficients = orthonormal_coefficients(target.features[0], target.hermite)
    parts = list(partitions(wanted))
    sums = np.zeros((2, len(parts)))
    second = 0.0
    features: list[np.ndarray] = []
    values: list[np.ndarray] = []
    half = samples // 2
    for side in range(2):
        for block in chunks(half, BLOCK):
            z = backend.normal([stream], (block, d_eff))[0, ...]
            scaled = backend.asarray(a / math.sqrt(d_eff))
            pieces = [
                backend.to_numpy(hermite_polynomial(np.eye(len(coefficients))[j] * c, z) @ scaled) if c else None
                for j, c in enumerate(coefficients)
            ]
            h = backend.asarray(sum(p for p in pieces if p is not None))
            f = target.expression.evaluate(backend.xp, h=h) + 0.0 * h
            second += float(backend.xp.sum(f * f))
            sums[side] += symmetric_products(z, a, f, parts, wanted, backend)
            values.append(backend.to_numpy(f))
            features.append(np.stack([np.zeros(block) if p is None else p for p in pieces]))
    null = second / (2 * half)
    mass = np.zeros(wanted + 1)
    for part, first_half, second_half in zip(parts, *sums, strict=True):
        mass[sum(part)] += first_half * second_half / half**2 / placements(part, a)
    captured = np.cumsum(mass)

    def left(degree: int) -> float:
        return null - float(captured[degree]) if degree <= wanted else math.nan

    f, h = np.concatenate(values).astype(float), np.concatenate(features, axis=1).astype(float)
    partial: dict[tuple[int, ...], float] = {}
    out = np.empty((3, len(kappa)))
    for k, (exponent, state) in enumerate(zip(kappa, found, strict=True)):
        out[:, k] = left(degree_within(float(exponent), 1.0))
        if math.isnan(state):
            out[1:, k] = math.nan
        if state != 1.0:
            continue
        out[1, k] = left(degree_within(float(exponent), eps))
        learned = tuple(j for j in range(1, len(coefficients)) if coefficients[j] and j * eps <= exponent + SLACK)
        if learned not in partial:
            partial[learned] = regression_error(h[list(learned)].sum(axis=0), f) if learned else left(0)
        out[2, k] = 0.0 if len(learned) == np.count_nonzero(coefficients[1:]) else partial[learned]
    return null, out


def partitions(weight: int) -> Iterator[tuple[int, ...]]:
    """Yield every partition of 0, 1, ..., `weight`, parts decreasing; shorter ones never after those made from them."""

    def of(total: int, most: int) -> Iterator[tuple[int, ...]]:
        if total == 0:
            yield ()
        for first in range(min(total, most), 0, -1):
            for rest in of(total - first, first):
                yield (first, *rest)

    every = [p for total in range(weight + 1) for p in of(total, total)]
    yield from sorted(every, key=lambda p: (len(p), p))


def placements(part: tuple[int, ...], a: np.ndarray) -> float:
    """Return |M_lambda|^2: the sum over unordered placements of the parts on distinct features of prod a_i^2."""
    # Elementary symmetric polynomial of a_i^2, times the ways to deal the parts to a chosen set of features.
    e = np.zeros(len(part) + 1)
    e[0] = 1.0
    for square in a**2:
        for k in range(len(part), 0, -1):
            e[k] += square * e[k - 1]
    ways = math.factorial(len(part))
    for repeated in Counter(part).values():
        ways //= math.factorial(repeated)
    return float(e[-1]) * ways


def symmetric_products(
    z: Any, a: np.ndarray, f: Any, parts: Sequence[tuple[int, ...]], most: int, backend: Backend
) -> np.ndarray:
    """Return sum over samples of f M_lambda for every partition: features are added one by one."""
    xp = backend.xp
    state: dict[tuple[int, ...], Any] = dict.fromkeys(parts, 0.0 * f)
    state[()] = 0.0 * f + 1.0
    without = {p: [(j, _remove(p, j)) for j in sorted(set(p))] for p in parts}
    for i in range(z.shape[1]):
        column = z[:, i]
        hermite = [None, column]
        for k in range(1, most):
            previous = hermite[k - 1] if k > 1 else 0.0 * column + 1.0
            hermite.append((column * hermite[k] - math.sqrt(k) * previous) / math.sqrt(k + 1))
        scaled = [None if v is None else float(a[i]) * v for v in hermite]
        # Partitions with more parts first: they take in the states of one part less from before this feature.
        for p in reversed(parts):
            for j, rest in without[p]:
                state[p] = state[p] + scaled[j] * state[rest]
    return np.array([float(xp.sum(f * state[p])) for p in parts])


def _remove(part: tuple[int, ...], j: int) -> tuple[int, ...]:
    at = part.index(j)
    return part[:at] + part[at + 1 :]


def regression_error(feature: np.ndarray, f: np.ndarray, degree: int = FIT_DEGREE) -> float:
    """Return E[(f - E[f | feature])^2]: a polynomial fitted on one half of the samples and tested on the other."""
    from dimladder.numerics.quadrature import hermite_values

    s = (feature - feature.mean()) / feature.std()
    basis = hermite_values(np.clip(s, -6.0, 6.0), degree).T
    half = len(s) // 2
    total = 0.0
    for fit, test in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        beta = np.linalg.lstsq(basis[fit], f[fit], rcond=None)[0]
        total += 0.5 * float(np.mean((f[test] - basis[test] @ beta) ** 2))
    return total


EXPERIMENT = PlateauExperiment()
