"""Stages 1, 2 and 3 composed: overlaps -> correlation of the learned feature -> error.

`leading_curves` is the theory of 1 << d_eff << d; stage 2 keeps the actual numbers of features where d is given.
`refined_curves` keeps the actual d_eff everywhere: the true feature, the label and the learned coordinates are drawn
from their joint law, and the stage-2 estimate is its mean part plus independent noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...numerics.quadrature import hermite_series, hermite_values
from ...problem.hierarchy import effective_dimension, orthonormal_coefficients
from .analysis import Level, LinkAnalysis, levels, link_of
from .channels import higher_orders
from .contour import Subspace, learned_subspace
from .flattening import flattened, flattened_subspace, folded_overlaps, learned_quadratic, quadratic_count
from .labels import label_moments
from .readout import FiniteFit, ReadoutLaw, mehler_law, rank_readout_error, readout_error, sampled_law
from .spectral import class_readouts, label_law, leading_overlaps
from .union import (
    Task,
    feature_count,
    fitted_degrees,
    label_components,
    penalties_of,
    represented,
    union_state,
)
from .union_refined import Draws, directions, learned_feature, squared_norms
from .units import DrawnUnits, UnitState, UnitTask, best_state, hermite_coefficients, radial_profile, unit_state

if TYPE_CHECKING:
    from ...problem import Hierarchical
    from ...problem.stages import FirstStage, Layerwise, SecondStage, ThirdStage

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One subspace and the second stages on it.

    Attributes
    ----------
    first : float
        n1/(d d_eff); infinite: the subspace is known.
    second : sequence of float
        n2/D_k each, k the degree of the polynomial; infinite: the feature is fitted to all inputs.
    """

    first: float
    second: Sequence[float]


@dataclass
class Curves:
    """What the rows give.

    Attributes
    ----------
    overlap : list of float
        Mean squared overlap of the hidden directions with the subspace of each row.
    correlation, error, low, high : lists of lists of float
        corr(h_hat, h), and E[(f* - f)^2] without label noise with the band of 80 % of the fits of stage 3.
    """

    overlap: list[float] = field(default_factory=list)
    correlation: list[list[float]] = field(default_factory=list)
    error: list[list[float]] = field(default_factory=list)
    low: list[list[float]] = field(default_factory=list)
    high: list[list[float]] = field(default_factory=list)

    def begin(self, overlap: float) -> None:
        """Open a row."""
        self.overlap.append(overlap)
        for column in (self.correlation, self.error, self.low, self.high):
            column.append([])

    def add(self, correlation: float, fit: FiniteFit) -> None:
        """Append a second stage to the last row."""
        for column, value in zip(
            (self.correlation, self.error, self.low, self.high),
            (correlation, fit.median, fit.low, fit.high),
            strict=True,
        ):
            column[-1].append(value)


def leading_curves(target: Hierarchical, algorithm: Layerwise, rows: Sequence[Row], d: int | None) -> Curves:
    """Return the theory at leading order; with `d` stage 2 keeps D_j/n of every degree."""
    link, level = link_of(target, max(60, algorithm.third.degree)), levels(target)[0]
    degrees = fitted_degrees(link, level, algorithm.second.degrees)
    counts = None
    if d is not None:
        d_eff = effective_dimension(d, target.exponents[0])
        counts = np.array([feature_count(d_eff, j) for j in degrees], dtype=float)
        unit = feature_count(d_eff, level.degree)
    curves = Curves()
    for row in rows:
        values, fractions, q = _leading_overlaps(target, algorithm.first, row.first, d)
        squares = np.array([float(fractions @ (values**2 * q**j)) for j in range(level.degree + 1)])
        shares = represented(level, squares)
        curves.begin(float(fractions @ q))
        if algorithm.second.weights == "units":
            assert d is not None
            mean = float(fractions @ (values * q))
            _leading_units(curves, target, algorithm, squares, mean, [delta * unit for delta in row.second], d_eff)
            continue
        if algorithm.second.estimator == "flattened":
            held = float(squares[2])
            for delta in row.second:
                correlation = _quadratic_correlation(target, algorithm.first, level, delta, d, held)
                curves.add(correlation, _mehler_fit(link, target.noise, correlation, algorithm.third))
            continue
        for delta in row.second:
            if counts is None:
                crowding = np.array([1.0 / delta if j == level.degree else 0.0 for j in degrees])
            else:
                crowding = counts / (delta * unit)
            task = Task.of(link, target.noise, degrees, crowding, shares)
            state = union_state(task, penalties_of(task, *weighting(algorithm.second), counts))
            if higher_orders(target) and max(degrees) > 1 and math.isfinite(state.spread):
                fit = _joint_fit(target, link, task, squares, state.gain, state.spread, algorithm.third)
            else:
                fit = _mehler_fit(link, target.noise, state.correlation, algorithm.third)
            curves.add(state.correlation, fit)
    return curves


def _leading_overlaps(
    target: Hierarchical, first: FirstStage, ratio: float, d: int | None
) -> tuple[Array, Array, Array]:
    """Return readout values, their fractions, and q of each at n1 = ratio d d_eff."""
    if first.estimator == "covariance" or math.isinf(ratio):
        known = first.label_transform if math.isfinite(ratio) else "identity"
        return leading_overlaps(target, label_moments(target, known), ratio)
    assert d is not None
    d_eff = effective_dimension(d, target.exponents[0])
    return folded_overlaps(target, first.label_transform, ratio * d * d_eff / quadratic_count(d), d, d_eff)


def _quadratic_correlation(
    target: Hierarchical, first: FirstStage, level: Level, delta: float, d: int | None, held: float
) -> float:
    """Return corr(h_hat, h) of the flattened second stage at n2 = delta D_k, `held` = <a^2 q^2>, at leading order."""
    if held <= 0.0 or delta <= 0.0:
        return 0.0
    ratio = delta
    if level.degree != 2:
        # Then D_k is not the number of quadratics, and the ratio of the two needs d.
        assert d is not None
        d_eff = effective_dimension(d, target.exponents[0])
        ratio *= feature_count(d_eff, level.degree) / quadratic_count(d_eff)
    found = 1.0 if math.isinf(ratio) else flattened(target, ratio, first.label_transform, held).overlap
    return math.sqrt(found * held * float(level.fractions[2]))


def _subspace(target: Hierarchical, first: FirstStage, ratio: float, d: int) -> Subspace:
    """Return the refined stage 1 at n1 = ratio d d_eff."""
    d_eff = effective_dimension(d, target.exponents[0])
    if first.estimator == "flattened":
        return flattened_subspace(target, first.label_transform, ratio * d * d_eff / quadratic_count(d), d, d_eff)
    return learned_subspace(label_law(target, first.label_transform, d_eff), d_eff / d, ratio * d_eff)


def _unit_state(task: UnitTask, second: SecondStage, n: float) -> UnitState:
    """Return the state of random units on n samples, at the given ridge or the best one."""
    if isinstance(second.ridge, str):
        return best_state(task, n, second.units)
    return unit_state(task, n, second.units, second.ridge)


def _trace_share(target: Hierarchical, along: float, power: float, d_eff: int) -> float:
    """Return the fraction of the second degree of h that lies along the trace: <a q>^2/<a^2 q^2>."""
    if power <= 0.0:
        return 0.0
    if target.readout in ("rademacher", "gaussian"):
        # The mean of d_eff random readouts is of order d_eff^-1/2.
        along += (power - along) / d_eff
    return along / power


def _leading_units(
    curves: Curves, target: Hierarchical, algorithm: Layerwise, squares: Array, mean: float, samples: Sequence[float],
    d_eff: int,
) -> None:  # fmt: skip
    """Append the second stages of random units at these sample counts; `squares` is <a^2 q^j>, `mean` <a q>."""
    link, level = link_of(target, max(60, algorithm.third.degree)), levels(target)[0]
    trace = _trace_share(target, mean**2, float(squares[2]) if level.degree > 1 else 0.0, d_eff)
    sigma = hermite_coefficients(algorithm.second.activation)
    task = UnitTask.leading(link, target.noise, represented(level, squares), trace, d_eff, sigma)
    for n in samples:
        state = _unit_state(task, algorithm.second, n)
        if higher_orders(target):
            fit = _units_fit(target, link, state, squares, algorithm.third)
        else:
            fit = _mehler_fit(link, target.noise, state.correlation, algorithm.third)
        curves.add(state.correlation, fit)


def _units_fit(
    target: Hierarchical, link: LinkAnalysis, state: UnitState, squares: Array, third: ThirdStage
) -> FiniteFit:
    """Return stage 3 of a feature that holds higher orders of the link: what is above degree k is noise to it."""
    level = levels(target)[0]
    degrees = tuple(range(1, level.degree + 1))
    task = Task.of(link, target.noise, degrees, np.zeros(level.degree), represented(level, squares))
    gain = state.gain[1 : level.degree + 1]
    spread = max(state.norm - float(gain**2 @ task.power), 0.0)
    return _joint_fit(target, link, task, squares, gain, spread, third)


def weighting(second: SecondStage) -> tuple[str, float | str]:
    """Return the weights and the ridge of stage 2."""
    return second.weights, second.ridge


def _mehler_fit(link: LinkAnalysis, noise: float, correlation: float, third: ThirdStage) -> FiniteFit:
    """Return stage 3 for jointly normal (h, h_hat)."""
    if math.isinf(third.samples) and third.ridge == 0.0:
        exact = {"hermite": readout_error, "rank": rank_readout_error}.get(third.basis)
        if exact is None:
            value = mehler_law(link, correlation, third.basis, third.degree, 0.0).population
        else:
            value = exact(link, correlation, third.degree)
        return FiniteFit(value, value, value, value)
    return mehler_law(link, correlation, third.basis, third.degree, noise).fits(third.samples, third.ridge)


def _joint_fit(
    target: Hierarchical,
    link: LinkAnalysis,
    task: Task,
    squares: Array,
    gain: Array,
    spread: float,
    third: ThirdStage,
    samples: int = 200_000,
) -> FiniteFit:
    """Return stage 3 where the learned feature holds higher orders of the link, drawn with a fixed seed.

    u = sum_j v_j^(1/2) G_j and h_hat = sum_t A_t f_t(G') + (df2 mse)^(1/2) xi, corr(G_j, G'_j) = <a^2 q^j>^(1/2).
    """
    level = levels(target)[0]
    rng = np.random.default_rng(11)
    k = level.degree
    true, other = rng.standard_normal((2, k + 1, samples))
    u = np.sqrt(level.fractions) @ true
    reach = np.sqrt(np.clip(squares, 0.0, 1.0))[:, None]
    parts = reach * true + np.sqrt(1 - reach**2) * other
    components = label_components(link, level, represented(level, squares), parts)
    learned = gain @ components[list(task.degrees)] + math.sqrt(spread) * rng.standard_normal(samples)
    return sampled_fit(learned, link.function(u), target.noise, third)


def sampled_fit(learned: Array, label: Array, noise: float, third: ThirdStage) -> FiniteFit:
    """Return stage 3 on draws of the learned feature and of f*."""
    if float(np.ptp(learned)) == 0.0:
        # Nothing is learned: the feature carries no more than a random number.
        learned = np.random.default_rng(3).standard_normal(len(label))
    law: ReadoutLaw = sampled_law(learned, label, third.basis, third.degree, noise)
    if math.isfinite(third.samples):
        return law.fits(third.samples, third.ridge)
    value = law.penalised(third.ridge)
    return FiniteFit(value, value, value, value)


def _drawn_units(
    curves: Curves, target: Hierarchical, algorithm: Layerwise, drawn: DrawnUnits, samples: Sequence[float],
    extra: Array,
) -> None:  # fmt: skip
    """Append the second stages of random units on a subspace at the actual d_eff."""
    link, level = link_of(target, max(60, algorithm.third.degree)), levels(target)[0]
    sigma = hermite_coefficients(algorithm.second.activation)
    leading = UnitTask.leading(link, 0.0, level.fractions, 0.0, drawn.d_eff, sigma)
    task = drawn.task(leading, target.noise)
    for n in samples:
        state = _unit_state(task, algorithm.second, n)
        learned = drawn.feature(state, extra)
        curves.add(state.correlation, sampled_fit(learned, drawn.label, target.noise, algorithm.third))


def learned_coordinates(true: Array, other: Array, overlap: Array, readouts: Array, along: float | None) -> Array:
    """Return draws of the learned coordinates: sqrt q z* + sqrt(1 - q) xi, and so along the readouts if their own
    squared overlap `along` is given; `true` and `other` are independent normal draws of shape (samples, d_eff).
    """
    z = np.sqrt(overlap) * true + np.sqrt(1.0 - overlap) * other
    if along is not None:
        unit = readouts / np.linalg.norm(readouts)
        wanted = math.sqrt(along) * (true @ unit) + math.sqrt(1.0 - along) * (other @ unit)
        z = z + np.outer(wanted - z @ unit, unit)
    return np.asarray(z)


def refined_curves(
    target: Hierarchical, algorithm: Layerwise, rows: Sequence[Row], d: int, samples: int = 120_000, seed: int = 1
) -> Curves:
    """Return the theory at the actual d and d_eff; laws are sampled with fixed seeds.

    Raises
    ------
    SolveError
        If the resolvent of stage 1 or the response of stage 2 does not converge.
    """
    d_eff = effective_dimension(d, target.exponents[0])
    level, link = levels(target)[0], link_of(target, max(60, algorithm.third.degree))
    a, classes = class_readouts(target, d_eff)
    raw = orthonormal_coefficients(target.features[0], target.hermite)
    k = level.degree
    units = algorithm.second.weights == "units"
    degrees = fitted_degrees(link, level, algorithm.second.degrees)
    counts = np.array([feature_count(d_eff, j) for j in degrees], dtype=float)
    unit = feature_count(d_eff, k)
    parts = [int(j) for j in np.flatnonzero(level.coefficients)]
    rng = np.random.default_rng(seed)
    samples = int(max(30_000, min(samples, 40_000_000 // (d_eff * (k + 1)))))
    true, other = rng.standard_normal((samples, d_eff)), rng.standard_normal((samples, d_eff))
    h = hermite_series(raw, true) @ a / math.sqrt(d_eff)
    f = np.asarray(target.expression.evaluate(np, h=h), dtype=float) + 0.0 * h
    extra = rng.standard_normal(samples)
    members = (classes == np.arange(classes.max() + 1)[:, None]).astype(float)
    curves = Curves()
    for row in rows:
        along: float | None = None
        if math.isinf(row.first):
            q = seen = np.ones(d_eff)
        elif row.first <= 0:
            q = seen = np.full(d_eff, d_eff / d)
        else:
            subspace = _subspace(target, algorithm.first, row.first, d)
            q = subspace.overlap[classes]
            # Degree 2 sees the second power of the whole projector, not of its diagonal alone.
            second = float(np.mean(a**2 * q**2))
            lift = math.sqrt(max(float(subspace.second_power[0]), 0.0) / second) if 2 in parts and second > 0 else 1.0
            seen = np.minimum(1.0, lift * q)
            along = None if subspace.along is None else float(subspace.along[0])
        curves.begin(float(q.mean()))
        z = learned_coordinates(true, other, seen, a, along)
        if units:
            profile = radial_profile(algorithm.second.activation, d_eff, np.mean(z**2, axis=1))
            chance = target.readout in ("rademacher", "gaussian")
            drawn = DrawnUnits.of(z, f, h, profile, members, k, chance)
            _drawn_units(curves, target, algorithm, drawn, [delta * unit for delta in row.second], extra)
            continue
        basis = hermite_values(z, k)
        if algorithm.second.estimator == "flattened":
            direction = a * seen / np.linalg.norm(a * seen)
            for delta in row.second:
                ratio = delta * unit / quadratic_count(d_eff)
                learned = learned_quadratic(
                    target, algorithm.first.label_transform, ratio, z, basis[2] @ direction, f, extra
                )
                correlation = abs(float(np.corrcoef(learned, h)[0, 1]))
                curves.add(correlation, sampled_fit(learned, f, target.noise, algorithm.third))
            continue
        norms = squared_norms(basis)[list(degrees)] / counts[:, None]
        unit_directions, place = directions(basis, degrees, a, classes, seen, parts)
        squares = np.array([float(np.mean(a**2 * seen**j)) for j in range(k + 1)])
        shares = represented(level, squares)
        for delta in row.second:
            crowding = counts / (delta * unit)
            task = Task.of(link, target.noise, degrees, crowding, shares)
            penalties = penalties_of(task, *weighting(algorithm.second), counts)
            draws = Draws(f, h, norms, unit_directions, place, crowding, target.noise)
            learned, correlation = learned_feature(draws, penalties, extra)
            curves.add(correlation, sampled_fit(learned, f, target.noise, algorithm.third))
    return curves
