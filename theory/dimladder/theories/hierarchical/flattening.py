"""Stage 1 by flattened quadratic features: the second-order channel, of even links, at n ~ d^2 samples.

C = (1/n) sum (T/r) phi phi^T - mean(T/r), phi the D_2 = d (d + 1)/2 orthonormal quadratics of x, r = |phi|^2/D_2 (the
weight 1/r is essential), n = delta D_2. The quadratic part of the feature is one direction v with v.phi = u_2 =
d_eff^{-1/2} sum a_i h_2(z_i): one spike. The leading eigenvector, folded to a symmetric matrix, is v plus noise; the
d_eff eigenvectors of the folded matrix with eigenvalues of largest modulus are the learned subspace.

Leading order: R = E[T/(1 - gT/delta)], H = E[u_2^2 T/(1 - gT/delta)], 1/g_0 + R(g_0) = H(g_0), q_A = 1/(1 - H'/z')
where z' < 0; delta is of order one, so q_A is not 1 - delta_c/delta. Folded, direction i is a spike a_i (q_A/d_eff)^1/2
on a semicircle of variance (1 - q_A)/d.

Refined, at the actual d and d_eff: quadratics z_i x_j of one hidden and one other direction have labels of their own
size, s_c = E[z_c^2 - 1 | T] for the class c of i. With f_c = d_eff,c (d - d_eff)/D_2, G_0 = 1/(z - R), G_c = 1/(z - R -
L_c), g_T = G_0 + sum_c f_c (G_c (1 + s_c) - G_0), the spike sits where 1/G_0 = L_v = E[(u_2^2/r - 1) T/(1 - g_T
T/delta)], and the squares M_b of the eigenvector along the groups b of quadratics follow from

    M_b = G_b^2 (q_A K_vb + sum_b' K_bb' f_b' M_b'),   q_A + sum_b f_b M_b = 1,
    K_bb' = E[(T^2/delta) (1 + s_b)(1 + s_b')/(1 - g_T T/delta)^2],  K_vb the same with u_2^2 for one of them.

The folded matrix then has noise of its own size in every block.

Stage 2 can do the same with the quadratics of the learned coordinates: its eigenvector is the learned feature, found at
n2 ~ d_eff^2, where regression on polynomials of degree k sees nothing of an even link. This project's own; compared
with simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError
from ...numerics.quadrature import gauss_hermite, hermite_values
from ...numerics.scalars import find_root
from ...problem.hierarchy import orthonormal_coefficients
from .analysis import levels, link_of, normal_rule
from .contour import Subspace, learned_subspace
from .labels import label_moments
from .readouts import readout_classes
from .spectral import LabelLaw, Spike, class_readouts, label_bins, single_spike

if TYPE_CHECKING:
    from ...problem import Hierarchical

Array = NDArray[np.float64]
# The folded matrix is a label-weighted covariance in the limit of many samples: this many a dimension.
MANY = 1e5
# Newton steps of its resolvent, and points at a time on the way to the spike.
STEPS, AT_ONCE = 30, 11


def quadratic_count(d: int) -> int:
    """Return D_2 = d (d + 1)/2, the number of quadratics of x."""
    return d * (d + 1) // 2


def check_flattening(target: Hierarchical) -> None:
    """Raise where the quadratics of x do not see one quadratic feature.

    Raises
    ------
    DomainError
        Without a quadratic part of the polynomial, or with a linear one.
    """
    level = levels(target)[0]
    if len(target.exponents) > 1 or target.branches > 1 or level.degree < 2 or not level.fractions[2]:
        raise DomainError(
            "flattened quadratic features see the quadratic part h_2 of one hidden level, of one branch",
            where="target.features",
        )
    if level.fractions[1]:
        raise DomainError(
            "flattened quadratic features of a polynomial with a linear part have further spikes",
            where="target.features", why=f"degree 1 has a share {float(level.fractions[1]):.3g} of the feature",
        )  # fmt: skip


def flattened(target: Hierarchical, ratio: float, transform: str = "identity", held: float = 1.0) -> Spike:
    """Return the spike of the feature at leading order, n = ratio D_2 samples.

    `held` is the fraction of the quadratic part of the feature that the quadratics hold: 1 for those of x, <a^2 q^2>
    for those of a learned subspace.

    Raises
    ------
    DomainError
        For a polynomial without a quadratic part, or with a linear one.
    """
    check_flattening(target)
    link, moments, share = link_of(target), label_moments(target, transform, channel=2), levels(target)[0].fractions[2]
    u, w = normal_rule(link.kinks, 200)
    x, v = gauss_hermite(24) if target.noise else (np.zeros(1), np.ones(1))
    labels = moments.transform((link.function(u)[:, None] + target.noise * x).ravel())
    weights = np.outer(w, v).ravel()
    keep = weights > 1e-16
    values, weights = labels[keep] - float(weights @ labels), weights[keep]
    # E[u_2^2 - 1 | u] = v_2 (u^2 - 1).
    squares = held * share * np.repeat(u**2 - 1.0, len(x))[keep]
    one, none = np.ones(1), np.zeros((1, 1, len(values)))
    return single_spike(LabelLaw(values, weights, squares[None], none, one, one, 1, None, np.zeros(1, int)), 0, ratio)


def folded_overlaps(
    target: Hierarchical, transform: str, ratio: float, d: int, d_eff: int
) -> tuple[Array, Array, Array]:
    """Return readout values, their fractions and the overlap of each with the learned subspace, at leading order.

    `ratio` is n/D_2; q = 1 - (1 - q_A) d_eff/(q_A d a^2), where positive.
    """
    values, fractions = readout_classes(target, 200)
    q = flattened(target, ratio, transform).overlap if ratio > 0 else 0.0
    if q <= 0.0:
        return values, fractions, np.zeros_like(values)
    noise = (1.0 - q) * d_eff / (q * d)
    return values, fractions, np.maximum(0.0, 1.0 - noise / np.maximum(values**2, 1e-300))


@dataclass(frozen=True)
class QuadraticLaw:
    """Joint law of the label, the quadratic part of the feature and the hidden coordinates at finite d, in bins of T.

    Attributes
    ----------
    values, weights : (bins,) arrays
        Centred T, and probabilities.
    weighted : (bins,) array
        E[u_2^2/r | T].
    squares : (groups, bins) array
        E[z_c^2 - 1 | T] of the classes of hidden directions; the last row, zero, stands for quadratics without one.
    pairs, with_feature : (groups, groups, bins) and (groups, bins) arrays
        E[z_b^2 z_b'^2 | T] and E[u_2^2 z_b^2 | T].
    readouts, fractions : (classes,) arrays
    d, d_eff : int
    """

    values: Array
    weights: Array
    weighted: Array
    squares: Array
    pairs: Array
    with_feature: Array
    readouts: Array
    fractions: Array
    d: int
    d_eff: int


@lru_cache(maxsize=8)
def quadratic_law(target: Hierarchical, transform: str, d: int, d_eff: int, samples: int = 200_000) -> QuadraticLaw:
    """Return the sampled law, with a fixed seed."""
    apply: Callable[[Array], Array] = label_moments(target, transform, channel=2).transform
    rng = np.random.default_rng(4)
    a, index = class_readouts(target, d_eff)
    member = (index[:, None] == np.arange(int(index.max()) + 1)).astype(float)
    counts = member.sum(axis=0)
    raw = orthonormal_coefficients(target.features[0], target.hermite)
    h, second, norm = np.empty((3, samples))
    squares = np.empty((len(counts), samples))
    block = max(1, 4_000_000 // d_eff)
    for start in range(0, samples, block):
        part = slice(start, min(samples, start + block))
        z = rng.standard_normal((part.stop - start, d_eff))
        table = hermite_values(z, len(raw) - 1)
        h[part] = np.tensordot(raw, table, axes=(0, 0)) @ a / math.sqrt(d_eff)
        second[part] = table[2] @ a / math.sqrt(d_eff)
        squares[:, part] = ((z**2 - 1.0) @ member / counts).T
        norm[part] = np.sum(z**2, axis=1) + rng.chisquare(d - d_eff, len(z))
    clean = np.asarray(target.expression.evaluate(np, h=h), dtype=float) + 0.0 * h
    t = np.asarray(apply(clean + target.noise * rng.standard_normal(samples)), dtype=float)
    t -= t.mean()
    r = (norm**2 - 2.0 * norm + d) / (2.0 * quadratic_count(d))
    weights, binned = label_bins(t, 300)
    # Of a weighted quadratic z_i x_j/r^(1/2), the norm of x takes r^(1/4) in each factor.
    size = np.concatenate([(1.0 + squares) / np.sqrt(r), np.ones((1, samples))])
    groups = range(len(size))
    pairs = np.array([[binned(size[b]) * binned(size[c]) for c in groups] for b in groups])
    return QuadraticLaw(
        binned(t), weights, binned(second**2 / r), binned(size) - 1.0, pairs, binned(second**2 / r * size),
        np.array([float(a[index == c][0]) for c in range(len(counts))]), counts / d_eff, d, d_eff,
    )  # fmt: skip


@dataclass(frozen=True)
class FoldedSpike:
    """The leading eigenvector of the flattened features at finite d.

    Attributes
    ----------
    overlap : float
        q_A, its squared overlap with the quadratic feature; 0 below the threshold.
    power : (groups,) array
        M_b: D_2 times the mean square of its coefficient on a quadratic of a group, the last without hidden directions.
    """

    overlap: float
    power: Array


def folded_spike(law: QuadraticLaw, ratio: float) -> FoldedSpike:
    """Return the eigenvector at n = ratio D_2 samples."""
    total = quadratic_count(law.d)
    share = np.append(law.fractions, 0.0) * law.d_eff * (law.d - law.d_eff) / total
    share[-1] = 1.0 - share.sum()
    values = law.values
    if float(law.weights @ (law.weighted * values)) < 0:
        values = -values
    scaled = values / ratio

    size, pull = 1.0 + law.squares, law.squares * (law.weights * values)
    products = (pull[:, None] * size[None] * scaled).reshape(-1, len(values)).T
    eye = np.eye(len(share))

    def resolvents(g: Array) -> tuple[Array, Array]:
        """Return G_b and 1/(1 - g_T T/delta) for every G_0 = g, first axis; NaN where g is inside the spectrum."""
        own, one = np.tile(g[:, None], len(share)), np.full((len(g), len(values)), math.nan)
        going = np.arange(len(g))
        # Newton's method on G_b = g/(1 - g L_b) from below: the fixed point itself is slow near the edge.
        for _ in range(STEPS):
            field = (own[going] * share) @ size * scaled
            left = np.max(field, axis=1) >= 1.0
            own[going[left]], one[going[left]] = math.nan, math.nan
            going, field = going[~left], field[~left]
            pole = one[going] = 1.0 / (1.0 - field)
            new = g[going, None] / (1.0 - g[going, None] * (pole @ pull.T))
            slope = new[:, :, None] ** 2 * (pole**2 @ products).reshape(-1, *eye.shape) * share
            step = np.linalg.solve(eye - slope, (new - own[going])[..., None])[..., 0]
            own[going] += step
            going = going[np.max(np.abs(step), axis=1) > 1e-12 * g[going]]
            if not going.size:
                break
        own[going], one[going] = math.nan, math.nan
        return own, one

    push = (law.weighted - 1.0) * law.weights * values

    def excess(g: Array) -> Array:
        value = g * (resolvents(g)[1] @ push) - 1.0
        return np.where(np.isfinite(value), value, 1.0)

    def excess_at(g: float) -> float:
        return float(excess(np.array([g]))[0])

    limit = 1.0 / float(scaled.max())
    nothing = FoldedSpike(0.0, np.ones(len(share)))
    grid = limit * np.linspace(0.01, 0.99, 99)
    parts = (range(k, min(k + AT_ONCE, len(grid))) for k in range(0, len(grid), AT_ONCE))
    first = next((part[int(np.argmax(up))] for part in parts if (up := excess(grid[part]) >= 0).any()), None)
    if first is None:
        return nothing
    g0 = find_root(excess_at, grid[first - 1] if first else 1e-6 * limit, grid[first], xtol=1e-12 * limit)
    own, one = (found[0] for found in resolvents(np.array([g0])))
    if abs(excess_at(g0)) > 1e-6:
        return nothing  # the edge of the spectrum, not a spike
    strength = law.weights * values * scaled * one**2
    gain = own[:, None] ** 2 * (law.pairs @ strength) * share
    if float(np.max(np.abs(np.linalg.eigvals(gain)))) >= 1.0:
        return nothing
    driven = np.linalg.solve(np.eye(len(share)) - gain, own**2 * (law.with_feature @ strength))
    q = 1.0 / (1.0 + float(share @ driven))
    return FoldedSpike(q, np.asarray(q * driven, dtype=np.float64))


def flattened_subspace(target: Hierarchical, transform: str, ratio: float, d: int, d_eff: int) -> Subspace:
    """Return what the subspace of the folded eigenvector keeps at the actual d and d_eff, n = ratio D_2.

    The folded matrix is a matrix of spikes theta_c = a_c (q_A/d_eff)^(1/2) and of noise whose variance is larger by 1 +
    kappa_c where one of its two directions is in class c. The label-weighted covariance of delta d samples with labels
    +-tau, tau^2/delta that variance, E[z_c^2 - 1 | T = +-tau] = kappa_c +- theta_c/tau, tends to it as delta grows.

    Raises
    ------
    DomainError, SolveError
        As `check_flattening` and `learned_subspace`.
    """
    check_flattening(target)
    law = quadratic_law(target, transform, d, d_eff)
    spike = folded_spike(law, ratio)
    noise = spike.power / (d + 1.0)
    tau = math.sqrt(float(noise[-1]) * MANY)
    theta = law.readouts * math.sqrt(spike.overlap / d_eff) / tau
    larger = noise[:-1] / noise[-1] - 1.0
    squares = np.stack([larger - theta, larger + theta], axis=1)
    labels, half = np.array([-tau, tau]), np.array([0.5, 0.5])
    products = squares[:, None] * squares[None]
    folded = LabelLaw(
        labels, half, squares, products, law.readouts, law.fractions, d_eff, None, np.zeros(len(theta), dtype=int)
    )
    return learned_subspace(folded, d_eff / d, MANY)


def flattening_threshold(target: Hierarchical, transform: str, d: int | None = None, d_eff: int = 0) -> float:
    """Return n/D_2 at which the spike detaches; at leading order without d. Infinite where it never does."""

    def detached(log_ratio: float) -> bool:
        ratio = math.exp(log_ratio)
        if d is None:
            return flattened(target, ratio, transform).detached
        return folded_spike(quadratic_law(target, transform, d, d_eff), ratio).overlap > 0.0

    grid = np.linspace(math.log(0.02), math.log(5e3), 40)
    j = next((k for k, v in enumerate(grid) if detached(float(v))), None)
    if j is None:
        return math.inf
    if j == 0:
        return math.exp(float(grid[0]))
    return math.exp(float(find_root(lambda v: 1.0 if detached(float(v)) else -1.0, grid[j - 1], grid[j], xtol=1e-6)))


def learned_quadratic(
    target: Hierarchical, transform: str, ratio: float, z: Array, feature: Array, clean: Array, extra: Array
) -> Array:
    """Return draws of the feature that stage 2 learns from n2 = ratio D_2 samples on the learned coordinates.

    Parameters
    ----------
    target, transform
    ratio : float
    z : (samples, d_eff) array
        Learned coordinates.
    feature : (samples,) array
        Their quadratic that is closest to h, of unit variance.
    clean, extra : (samples,) arrays
        f*, and standard normal draws.
    """
    apply = label_moments(target, transform, channel=2).transform
    noise = np.random.default_rng(6).standard_normal(len(clean)) if target.noise else 0.0
    t = np.asarray(apply(clean + target.noise * noise), dtype=float)
    t = t - t.mean()
    d_eff, s = z.shape[1], np.sum(z**2, axis=1)
    r = np.maximum(s**2 - 2.0 * s + d_eff, 0.0) / (2.0 * quadratic_count(d_eff))
    weights, binned = label_bins(t, 300)
    squares = binned(feature**2 / np.maximum(r, 1e-3)) - 1.0
    one, none = np.ones(1), np.zeros((1, 1, len(weights)))
    law = LabelLaw(binned(t), weights, squares[None], none, one, one, 1, None, np.zeros(1, int))
    q = single_spike(law, 0, ratio).overlap if math.isfinite(ratio) else 1.0
    return np.asarray(math.sqrt(q) * feature + math.sqrt(1.0 - q) * np.sqrt(r) * extra)
