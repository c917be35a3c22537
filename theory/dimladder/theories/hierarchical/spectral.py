"""Stage 1: the d_eff leading eigenvectors of M = (1/n) sum_mu T(y_mu) (x_mu x_mu^T - I), T centred, n = alpha d d_eff.

Leading order, d >> d_eff >> 1: each direction is a spike theta_i = sqrt2 tau_1 b_2 a_i/(s sqrt d_eff) on a semicircle
of variance sigma^2 = Var T d/n, so w*_i has squared overlap q_i = max(0, 1 - sigma^2/theta_i^2) = max(0, 1 -
alpha_c/alpha).
Refined, at the actual d_eff/d and n/d: a compound-Poisson free convolution with one resolvent for each readout class.
All of this is this project's own theory; the paper has the exponent 1 + eps_1 only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError
from ...numerics.scalars import find_root, ndtri
from ...problem.hierarchy import orthonormal_coefficients
from .analysis import Level, levels
from .labels import LabelMoments, label_moments
from .readouts import readout_classes

if TYPE_CHECKING:
    from ...problem import Hierarchical

Array = NDArray[np.float64]
# tau_1^2 / Var T below this is a zero that rounding hides.
NO_SIGNAL = 1e-14


def critical_ratio(target: Hierarchical, moments: LabelMoments, a: float = 1.0) -> float:
    """Return alpha_c(a) = Var T s^2 / (2 tau_1^2 b_2^2 a^2), the threshold of n/(d d_eff); inf without a signal.

    b_2 = E[P h_2], s^2 = Var h, tau_1 = E[T(y) h/s].
    """
    level = levels(target)[0]
    b2 = float(level.coefficients[2]) if level.degree >= 2 else 0.0
    signal = 2.0 * (float(moments.tau[1]) * b2 * a) ** 2
    if signal <= NO_SIGNAL * max(moments.variance, 1e-300) or moments.variance <= 1e-20:
        return math.inf
    return moments.variance * level.variance / signal


def leak_ratio(target: Hierarchical, moments: LabelMoments) -> float:
    """Return the threshold of n/(d d_eff^2) when the first-order signal vanishes (b_2 tau_1 = 0), a^2 = 1.

    The second-order spike is (1/2) sqrt2 tau_2 E[P^2 He_2] a_i^2/(s^2 d_eff). The order is right, but finite-size
    corrections are strong.
    """
    level = levels(target)[0]
    square = squared_feature(level)
    signal = 0.5 * (float(moments.tau[2]) * square / level.variance) ** 2
    return moments.variance / signal if signal > NO_SIGNAL * moments.variance else math.inf


def squared_feature(level: Level) -> float:
    """Return E[P(z)^2 (z^2 - 1)]: 2k for P = h_k."""
    from ...numerics.quadrature import gauss_hermite, hermite_values

    x, w = gauss_hermite(4 * level.degree + 8)
    p = level.coefficients @ hermite_values(x, level.degree)
    return float(w @ (p**2 * (x**2 - 1)))


def leading_overlaps(target: Hierarchical, moments: LabelMoments, ratio: float) -> tuple[Array, Array, Array]:
    """Return readout values, their fractions, and q of each at n = ratio d d_eff."""
    values, fractions = readout_classes(target, 200)
    if math.isinf(ratio):
        return values, fractions, np.ones_like(values)
    reference = critical_ratio(target, moments)
    if math.isinf(reference) or ratio <= 0:
        return values, fractions, np.zeros_like(values)
    if target.readout == "gaussian":
        return _gaussian_overlaps(reference / ratio)
    return values, fractions, np.maximum(0.0, 1.0 - reference / (ratio * values**2))


def _gaussian_overlaps(x: float) -> tuple[Array, Array, Array]:
    """Classes of a normal readout, split at the edge |a| = sqrt x where q = 1 - x/a^2 sets in."""
    from ...numerics.quadrature import gauss_normal

    edge = math.sqrt(x)
    values, fractions = gauss_normal((-edge, edge, 0.0), 40)
    return values, fractions, np.where(values**2 > x, 1.0 - x / np.maximum(values**2, 1e-300), 0.0)


@dataclass(frozen=True)
class LabelLaw:
    """Joint law of T(y) and the squares of the hidden coordinates at finite d_eff, compressed to bins of T.

    Attributes
    ----------
    values, weights : (bins,) arrays
        Centred T, and probabilities.
    squares : (classes, bins) array
        E[mean over the class of z_i^2 - 1 | bin].
    products : (classes, classes, bins) array
        E[mean over different i, l of the two classes of (z_i^2 - 1)(z_l^2 - 1) | bin].
    readouts, fractions : (classes,) arrays
        With several branches every branch has its own classes.
    features : int
        d_eff of one branch.
    pairs : (branches, classes of one, classes of one, bins) array or None
        E[u_c u_c' - delta_cc' | bin] for the sums u_c of z_i over a class, of unit variance: needed where the
        polynomial has a linear part, absent otherwise.
    branch : (classes,) array of int
    """

    values: Array
    weights: Array
    squares: Array
    products: Array
    readouts: Array
    fractions: Array
    features: int
    pairs: Array | None
    branch: NDArray[np.intp]

    @property
    def variance(self) -> float:
        """Var T."""
        return float(self.weights @ self.values**2)


def class_readouts(target: Hierarchical, count: int) -> tuple[Array, NDArray[np.intp]]:
    """Return a_i of `count` features for a typical realisation, and the index of the class of each.

    Gaussian readouts take the midpoints of `count` quantiles, each its own class; a given vector is tiled.
    """
    match target.readout:
        case "ones":
            a = np.ones(count)
        case "rademacher":
            a = np.where(np.arange(count) < (count + 1) // 2, 1.0, -1.0)
        case "gaussian":
            a = ndtri((np.arange(count) + 0.5) / count)
            a = a / math.sqrt(float(np.mean(a**2)))
        case given:
            values = np.asarray(given, dtype=float)
            a = np.resize(values / np.sqrt(np.mean(values**2)), count)
    _, index = np.unique(a, return_inverse=True)
    return a, np.asarray(index, dtype=np.intp)


def label_bins(t: Array, bins: int) -> tuple[Array, Callable[[Array], Array]]:
    """Return probabilities of bins of T, and the map of samples (last axis) to their averages in the bins.

    Equal mass in the middle, down to single samples in the tails.
    """
    order = np.argsort(t, kind="stable")
    share = 0.5 - 0.5 * np.cos(np.linspace(0.0, math.pi, bins + 1))
    edges = np.unique(np.round(len(t) * share).astype(int))
    counts = np.diff(edges)

    def binned(values: Array) -> Array:
        return np.asarray(np.add.reduceat(values[..., order], edges[:-1], axis=-1) / counts)

    return counts / len(t), binned


@lru_cache(maxsize=8)
def label_law(target: Hierarchical, transform: str, d_eff: int) -> LabelLaw:
    """Return the sampled law of a label transform, named as in the run file."""
    return sample_label_law(target, label_moments(target, transform).transform, d_eff)


def sample_label_law(
    target: Hierarchical,
    transform: Callable[[Array], Array],
    d_eff: int,
    samples: int = 400_000,
    bins: int = 300,
    seed: int = 0,
) -> LabelLaw:
    """Sample the joint law at the actual number of features: the normal limit of h misses the tails that matter.

    The seed is fixed, so that the theory is a deterministic function of the problem.
    """
    from ...numerics.quadrature import hermite_series

    rng = np.random.default_rng(seed)
    a, index = class_readouts(target, d_eff)
    classes, branches = int(index.max()) + 1, target.branches
    counts = np.bincount(index, minlength=classes).astype(float)
    raw = orthonormal_coefficients(target.features[0], target.hermite)
    labels, squares, fourths = np.empty(samples), *np.empty((2, branches, classes, samples))
    linear = len(raw) > 1 and raw[1] != 0.0
    sums = np.empty((branches, classes, samples)) if linear else np.empty((branches, 0, 0))
    member = np.zeros((d_eff, classes))
    member[np.arange(d_eff), index] = 1.0 / counts[index]
    block = max(1, 4_000_000 // (d_eff * branches))
    for start in range(0, samples, block):
        part = slice(start, min(samples, start + block))
        h = []
        for m in range(branches):
            z = rng.standard_normal((part.stop - start, d_eff))
            h.append(hermite_series(raw, z) @ a / math.sqrt(d_eff))
            square = z**2 - 1.0
            squares[m, :, part], fourths[m, :, part] = (square @ member).T, (square**2 @ member).T
            if linear:
                sums[m, :, part] = ((z @ member) * np.sqrt(counts)).T
        names = dict(zip(target.link_variables, h, strict=True))
        y = np.asarray(target.expression.evaluate(np, **names), dtype=float) + 0.0 * h[0]
        labels[part] = y + target.noise * rng.standard_normal(part.stop - start)
    t = np.asarray(transform(labels), dtype=float)
    t = t - t.mean()
    weights, binned = label_bins(t, bins)
    pairs = np.array([
        [[binned(u * v - float(u is v)) for v in branch] for u in branch] for branch in map(list, sums)
    ]) if linear else None  # fmt: skip
    distinct = np.tile([float(a[index == c][0]) for c in range(classes)], branches)
    squares, members = squares.reshape(branches * classes, samples), np.tile(counts, branches)
    products = np.array([[binned(u * v) for v in squares] for u in squares])
    # Within a class the squares of one direction are no pair; a class of one has no pairs at all.
    own = np.arange(len(members))
    alike = members[:, None] * products[own, own] - binned(fourths.reshape(branches * classes, samples))
    products[own, own] = np.where(members[:, None] > 1, alike / np.maximum(members - 1.0, 1.0)[:, None], 0.0)
    return LabelLaw(
        binned(t), weights, binned(squares), products, distinct,
        np.tile(counts / (d_eff * branches), branches), d_eff, pairs, np.repeat(np.arange(branches), classes),
    )  # fmt: skip


@dataclass(frozen=True)
class Spike:
    """One hidden direction alone (gamma -> 0) at finite n/d: its outlier and squared overlap (0 below the
    threshold).
    """

    eigenvalue: float
    overlap: float
    detached: bool


def single_spike(law: LabelLaw, index: int, delta: float) -> Spike:
    """Return the outlier of one hidden direction: g0 solves 1/g = L(g), eigenvalue 1/g0 + R(g0).

    q = 1/(1 - L'(g0)/z'(g0)) with z'(g) = -1/g^2 + E[(T^2/delta)/(1 - gT/delta)^2] and
    L'(g) = E[z^2 (T^2/delta)/(1 - gT/delta)^2] for the direction; above the threshold iff z'(g0) < 0.
    """
    values, square = law.values, law.squares[index]
    if float(law.weights @ (square * values)) < 0:
        mirrored = replace(law, values=-law.values)
        found = single_spike(mirrored, index, delta)
        return Spike(-found.eigenvalue, found.overlap, found.detached)
    w, ratio = law.weights, values / delta
    limit = 1.0 / float(ratio.max())

    def excess(g: float) -> float:
        return g * float(w @ (square * values / (1 - g * ratio))) - 1.0

    grid = limit * (1 - np.geomspace(1.0, 1e-6, 400))[1:]
    first = np.flatnonzero(grid * ((1.0 / (1 - np.outer(grid, ratio))) @ (w * square * values)) >= 1.0)
    if not len(first):
        return Spike(math.nan, 0.0, False)
    j = int(first[0])
    g0 = float(find_root(excess, grid[j - 1] if j else 1e-12 * limit, grid[j], xtol=1e-15 * limit))
    pole = (values * ratio) / (1 - g0 * ratio) ** 2
    slope = -1.0 / g0**2 + float(w @ pole)
    eigenvalue = 1.0 / g0 + float(w @ (values / (1 - g0 * ratio)))
    if slope >= 0:
        return Spike(eigenvalue, 0.0, False)
    return Spike(eigenvalue, 1.0 / (1.0 - float(w @ ((1 + square) * pole)) / slope), True)


def refined_critical_ratio(law: LabelLaw, d_eff: int) -> float:
    """Return the n/(d d_eff) at which the first hidden direction detaches, alone, at this number of features."""

    def detached(log_ratio: float) -> bool:
        delta = math.exp(log_ratio) * d_eff
        return any(single_spike(law, c, delta).detached for c in range(len(law.readouts)))

    grid = np.linspace(math.log(1e-3), math.log(1e4), 60)
    j = next((k for k, v in enumerate(grid) if detached(float(v))), None)
    if j is None:
        return math.inf
    if j == 0:
        raise DomainError("the refined threshold lies below n = 1e-3 d d_eff", hint='use order = "leading"')
    return math.exp(float(find_root(lambda v: 1.0 if detached(float(v)) else -1.0, grid[j - 1], grid[j], xtol=1e-10)))


def direction_measure(theta: float, sigma: float, points: int = 4000) -> tuple[Array, Array]:
    """Return nodes and weights of the spectral measure of one hidden direction: semicircle bulk and, beyond the
    edge, an atom.

    Density: semicircle times sigma^2/(theta^2 + sigma^2 - theta x); atom 1 - sigma^2/theta^2 at theta +
    sigma^2/theta when |theta| > sigma. With theta = 0 it is the semicircle itself.
    """
    angle = (np.arange(points) + 0.5) * (math.pi / points)
    x = -2.0 * sigma * np.cos(angle)
    bulk = 2.0 / math.pi * np.sin(angle) ** 2 * (math.pi / points)
    w = bulk * sigma**2 / (theta**2 + sigma**2 - theta * x)
    if abs(theta) > sigma:
        x = np.append(x, theta + sigma**2 / theta)
        w = np.append(w, 1.0 - sigma**2 / theta**2)
    return x, w


def _whole_spectrum(theta: Array, fractions: Array, gamma: float, sigma: float) -> list[tuple[Array, Array]]:
    """Return nodes and weights of rho: every detached direction makes one eigenvalue, whatever its own overlap with
    it.
    """
    out = np.abs(theta) > sigma
    x, w = direction_measure(0.0, sigma)
    parts = [(x, w * (1.0 - gamma * float(fractions[out].sum())))]
    for v, f in zip(theta[out], fractions[out], strict=True):
        parts.append((np.array([v + sigma**2 / v]), np.array([gamma * float(f)])))
    return parts


def power(steps: float) -> Callable[[Array], Array]:
    """Return f(x) = x^t: t power iterations."""
    return lambda x: x**steps


def exponential(time: float) -> Callable[[Array], Array]:
    """Return f(x) = e^{t x}: gradient flow of the correlation loss for a time t."""
    return lambda x: np.exp(time * x)


def span_overlap(
    function: Callable[[Array], Array], neurons: float, theta: Array, fractions: Array, gamma: float, sigma: float
) -> Array:
    """Return the squared overlap of each class of hidden direction with the span of p neurons after the map f(M).

    q_i = int f^2/(f^2 + kappa) d mu_i, where kappa solves d int f^2/(f^2 + kappa) d rho = p.

    Parameters
    ----------
    function : callable
        f of the eigenvalue: `power` or `exponential`.
    neurons : float
        p / d, in (0, 1).
    theta, fractions : arrays
        Spike and fraction of each class.
    gamma : float
        d_eff / d: the spikes' share of the spectrum.
    sigma : float
        Half radius of the semicircle.
    """
    if not 0 < neurons < 1:
        raise ValueError(f"the number of neurons per dimension must lie in (0, 1), got {neurons}")
    measures = [direction_measure(float(v), sigma) for v in theta]
    squares = [(function(x) ** 2, w) for x, w in _whole_spectrum(theta, fractions, gamma, sigma)]
    largest = max(float(np.max(s)) for s, _ in squares)

    def rank(log_kappa: float) -> float:
        kappa = math.exp(log_kappa)
        return sum(float(w @ (s / (s + kappa))) for s, w in squares) - neurons

    log_kappa = float(find_root(rank, math.log(largest) - 200.0, math.log(largest) + 200.0))
    kappa = math.exp(log_kappa)
    return np.array([float(w @ (function(x) ** 2 / (function(x) ** 2 + kappa))) for x, w in measures])


def neuron_overlap(
    function: Callable[[Array], Array], theta: Array, fractions: Array, d_eff: int, d: int, sigma: float
) -> float:
    """Return E|P_W* w|^2 of one neuron w = f(M) w_0/|f(M) w_0| from a random start, M fixed.

    E[N/D] = int_0^inf ds sum_i int f^2/(1 + 2 s f^2) d mu_i exp(-(d/2) int log(1 + 2 s f^2) d rho).
    """
    gamma = d_eff / d
    spectrum = _whole_spectrum(theta, fractions, gamma, sigma)
    trace = sum(float(w @ function(x) ** 2) for x, w in spectrum) * d
    everything = [(function(x) ** 2 / trace, w) for x, w in spectrum]
    hidden = [(function(x) ** 2 / trace, w) for x, w in (direction_measure(float(v), sigma) for v in theta)]
    log_s = np.linspace(-18.0, 14.0, 1200)
    s = np.exp(log_s)
    damping = np.zeros_like(s)
    signal = np.zeros_like(s)
    for j, value in enumerate(s):
        damping[j] = 0.5 * d * sum(float(w @ np.log1p(2 * value * f2)) for f2, w in everything)
        signal[j] = d_eff * sum(
            float(f) * float(w @ (f2 / (1 + 2 * value * f2))) for f, (f2, w) in zip(fractions, hidden, strict=True)
        )
    integrand = s * signal * np.exp(-damping)
    return float(np.trapezoid(integrand, log_s))
