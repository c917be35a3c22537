"""Label transforms T(y) and the moments that stage 1 sees: tau_j = E[T(y) h_j(u)], Var T."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError
from ...numerics.quadrature import hermite_values
from ...numerics.scalars import find_minimum
from ...problem.expressions import Expression
from .analysis import LinkAnalysis, feature_scale, kinks_of, link_of, normal_rule

if TYPE_CHECKING:
    from ...problem import Hierarchical

Array = NDArray[np.float64]
NAMED_TRANSFORMS = ("identity", "optimal")
# A conditional mean whose mean square is below this is the rounding of a zero.
NO_CHANNEL = 3e-6


def transform_expression(text: str) -> Expression:
    """Return the formula of a label transform in ``y`` (``identity`` is ``y``).

    Raises
    ------
    ValueError
        If it is not a formula in ``y``.
    """
    return Expression("y" if text == "identity" else text, ("y",))


@dataclass(frozen=True)
class LabelMoments:
    """Moments of the transformed label under y = g(s u) + noise xi, u standard normal.

    Attributes
    ----------
    tau : (order + 1,) array
        E[T(y) h_j(u)].
    variance : float
        Var T(y).
    transform : callable
        y -> T(y), vectorised (for the optimal transform: E[u | y], tabulated).
    """

    tau: Array
    variance: float
    transform: Callable[[Array], Array]


@lru_cache(maxsize=32)
def label_moments(target: Hierarchical, transform: str, order: int = 4, channel: int = 1) -> LabelMoments:
    """Return the moments of a label transform.

    Parameters
    ----------
    target : Hierarchical
        Its `noise` is the standard deviation of the label noise.
    transform : str
        ``"identity"``, ``"optimal"`` (T*(y) = E[h_c(u) | y], which maximises tau_c^2 / Var T), or a formula in ``y``.
    order : int
        Highest j.
    channel : {1, 2}
        c: the order of the feature that the estimate sees.

    Raises
    ------
    DomainError
        For the optimal transform where E[h_c(u) | y] vanishes.
    """
    if transform == "optimal":
        return _optimal(target, order, channel)
    link = link_of(target)
    expression = transform_expression(transform)

    def function(y: Array) -> Array:
        return np.asarray(expression.evaluate(np, y=y), dtype=float) + 0.0 * y

    u, w = normal_rule(link.kinks, 120)
    y = link.function(u)
    if target.noise == 0.0:
        u, w = _split_rule(link, kinks_of(expression, "y"))
        mean, square = function(link.function(u)), function(link.function(u)) ** 2
    else:
        mean, square = _noise_average(function, y, target.noise, kinks_of(expression, "y"))
    tau = hermite_values(u, order) @ (w * mean)
    return LabelMoments(tau, float(w @ square) - float(tau[0]) ** 2, function)


def _split_rule(link: LinkAnalysis, levels: tuple[float, ...]) -> tuple[Array, Array]:
    """Return a rule that is split wherever g crosses a kink of the transform."""
    grid = np.linspace(-12.0, 12.0, 48_001)
    values = link.function(grid)
    cuts = list(link.kinks)
    for level in levels:
        f = values - level
        for i in np.flatnonzero(f[:-1] * f[1:] < 0):
            low, high = float(grid[i]), float(grid[i + 1])
            sign = f[i]
            for _ in range(50):
                middle = 0.5 * (low + high)
                if (float(link.function(np.array([middle]))[0]) - level) * sign > 0:
                    low = middle
                else:
                    high = middle
            cuts.append(0.5 * (low + high))
    return normal_rule(cuts, 120)


def _noise_average(
    function: Callable[[Array], Array], y: Array, noise: float, kinks: tuple[float, ...]
) -> tuple[Array, Array]:
    """Return E[T(y + noise xi)] and E[T^2] at every y; panels of xi are split at the kinks of T."""
    if not kinks:
        x, w = normal_rule((), 40)
        values = function(y[:, None] + noise * x)
        return values @ w, values**2 @ w
    first, second = np.empty_like(y), np.empty_like(y)
    for i, centre in enumerate(y):
        x, w = normal_rule([(k - centre) / noise for k in kinks], 24)
        values = function(centre + noise * x)
        first[i], second[i] = w @ values, w @ values**2
    return first, second


@dataclass(frozen=True)
class Posterior:
    """What the label knows of the standardised feature u: E[h_j(u) | y].

    Attributes
    ----------
    labels : (points,) array
        Values of y, increasing.
    moments : (order + 1, points) array
        E[h_j(u) | y].
    density : (order + 1, points) array
        Weights of the points, times E[h_j(u) | y]: sums over it are expectations of functions of y times h_j(u).
    """

    labels: Array
    moments: Array
    density: Array

    @property
    def powers(self) -> Array:
        """Return e_j = E[E[h_j(u) | y]^2] in [0, 1]; the first j >= 1 with e_j > 0 is the generative exponent."""
        return np.asarray(np.sum(self.density * self.moments, axis=1))

    def transform(self, order: int) -> Callable[[Array], Array]:
        """Return T*_j(y) = E[h_j(u) | y], the transform that correlates best with h_j(u)."""
        return lambda label: np.interp(label, self.labels, self.moments[order])


@lru_cache(maxsize=32)
def posterior(target: Hierarchical, order: int = 4) -> Posterior:
    """Return the posterior moments of the scalar feature of a target with one branch."""
    link = link_of(target)
    return _noisy_posterior(link, target.noise, order) if target.noise else _exact_posterior(link, order)


def _optimal(target: Hierarchical, order: int, channel: int) -> LabelMoments:
    known = posterior(target, max(order, 4))
    power = float(known.powers[channel])
    if power <= NO_CHANNEL:
        name = "h" if channel == 1 else f"h_{channel}(h)"
        raise DomainError(
            "there is no optimal label transform for this link",
            where="algorithm.first.label_transform",
            why=f"E[{name} | y] vanishes (E[E[{name} | y]^2] = {power:.2g}): no transform of the label correlates with "
            f"{name}",
            hint='use estimator = "flattened", which sees the second order in h' if channel == 1 else None,
        )
    tau = (known.density * known.moments[channel]).sum(axis=1)[: order + 1]
    tau[0] = 0.0
    return LabelMoments(tau, float(tau[channel]), known.transform(channel))


def _noisy_posterior(link: LinkAnalysis, noise: float, order: int) -> Posterior:
    # Cells of u fine enough that g changes by less than a quarter of the noise within each.
    edges = np.unique(np.concatenate([np.linspace(-9.0, 9.0, 9_001), [k for k in link.kinks if abs(k) < 9.0]]))
    change = np.abs(np.diff(link.function(edges)))
    pieces = np.minimum(np.ceil(4.0 * change / noise), 20_000).astype(int) + 1
    cell = np.repeat(np.arange(len(pieces)), pieces)
    within = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    width = np.diff(edges) / pieces
    u = edges[cell] + (within + 0.5) * width[cell]
    w = width[cell] * np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
    g = link.function(u)
    by_label = np.argsort(g, kind="stable")
    sorted_g, sorted_u, sorted_w = g[by_label], u[by_label], w[by_label]
    # The posterior mean varies on the scale of the noise where g turns, jumps or ends; elsewhere on that of g.
    turns = np.flatnonzero(np.diff(np.sign(np.diff(g)))) + 1
    special = np.unique(np.round(np.concatenate([[g.min(), g.max()], g[turns]]) / noise) * noise)[:400]
    around = noise * np.concatenate(
        [np.linspace(-40, -8, 65)[:-1], np.linspace(-8, 8, 129), np.linspace(8, 40, 65)[1:]]
    )
    ends = float(g.min()) - 8 * noise, float(g.max()) + 8 * noise
    y = np.unique(np.clip(np.concatenate([np.linspace(*ends, 12_001), (special[:, None] + around).ravel()]), *ends))
    low, high = np.searchsorted(sorted_g, y - 9 * noise), np.searchsorted(sorted_g, y + 9 * noise)
    basis = hermite_values(sorted_u, order)
    density = np.zeros((order + 1, len(y)))
    for i, centre in enumerate(y):
        part = slice(int(low[i]), int(high[i]))
        kernel = sorted_w[part] * np.exp(-((centre - sorted_g[part]) ** 2) / (2 * noise**2))
        density[:, i] = basis[:, part] @ kernel
    known = density[0] > 0
    y, density = y[known], density[:, known]
    moments = density / density[0]
    weights = np.gradient(y) * density[0]
    return Posterior(y, moments, moments * (weights / weights.sum()))


def _exact_posterior(link: LinkAnalysis, order: int, spacing: float = 1e-3) -> Posterior:
    """E[h_j(u) | g(s u)] without noise: averages over the level sets, with weights phi(u)/|g'(u)|; plateaus of g are
    averaged whole. Panels end at kinks and turning points, where nodes are dense; all is symmetric about zero for an
    even or odd link, so that what parity makes zero is zero.
    """
    edges = np.unique([-9.0, 9.0, *(k for k in link.kinks if abs(k) < 9.0), *_turning_points(link)])
    nodes, weights, ends = [], [], [0]
    for low, high in itertools.pairwise(edges):
        count = max(16, math.ceil((high - low) / spacing))
        angle = (np.arange(count) + 0.5) * (math.pi / count)
        nodes.append(low + (high - low) * 0.5 * (1.0 - np.cos(angle)))
        weights.append((high - low) * np.sin(angle) / count)
        ends.append(ends[-1] + count)
    u = np.concatenate(nodes)
    w = np.concatenate(weights) * np.exp(-(u**2) / 2)
    w /= w.sum()
    g = link.function(u)
    scale = float(np.ptp(g)) or 1.0
    basis = hermite_values(u, order)
    numerator, denominator = np.zeros((order + 1, len(u))), np.zeros(len(u))
    flat, pieces = [], 0
    for start, stop in itertools.pairwise(ends):
        slope = np.gradient(g[start:stop], u[start:stop], edge_order=2)
        level = np.abs(np.diff(g[start:stop])) <= 1e-14 * scale
        cuts = [0, *(np.flatnonzero(np.diff(level)) + 1).tolist(), len(level)]
        for a, b in itertools.pairwise(cuts):
            if level[a]:
                flat.append(start + a)
                continue
            along = np.argsort(g[start + a : start + b + 1], kind="stable") + a
            height = g[start + along]
            inside = (g >= height[0]) & (g <= height[-1])
            # Near a turning point the square of the slope is linear in the label.
            square = np.interp(g[inside], height, slope[along] ** 2)
            root = np.interp(g[inside], height, u[start + along])
            weight = np.exp(-(root**2) / 2) / np.sqrt(np.maximum(square, 1e-300))
            numerator[:, inside] += weight * hermite_values(root, order)
            denominator[inside] += weight
            pieces += 1
    best = np.where(denominator > 0, numerator / np.maximum(denominator, 1e-300), basis)
    if pieces == 1:
        best = basis.copy()
    for a in flat:
        same = np.abs(g - g[a]) <= 1e-12 * scale
        best[:, same] = (basis[:, same] @ w[same] / max(float(w[same].sum()), 1e-300))[:, None]
    by_label = np.argsort(g, kind="stable")
    return Posterior(g[by_label], best[:, by_label], (w * best)[:, by_label])


def _turning_points(link: LinkAnalysis) -> list[float]:
    """Return the local extrema of u -> g(s u) in (-9, 9) that are not kinks; mirror images are made exact."""
    x = np.linspace(-9.0, 9.0, 18_001)
    step = np.sign(np.diff(link.function(x)))
    found = []
    for i in np.flatnonzero(step[:-1] * step[1:] < 0):
        sign = -step[i]

        def turned(v: float, sign: float = sign) -> float:
            return sign * float(link.function(np.array([v]))[0])

        found.append(find_minimum(turned, float(x[i]), float(x[i + 2]), xtol=1e-9).x)
    images = np.array(found)
    result = []
    for v in found:
        mirror = -images[np.argmin(np.abs(images + v))]
        result.append(0.0 if abs(v) < 1e-7 else 0.5 * (v + mirror) if abs(v - mirror) < 1e-6 else v)
    return result


def joint_posterior_powers(target: Hierarchical, samples: int = 400_000, bins: int = 400) -> tuple[Array, Array]:
    """Return e_1 of every branch, and E[E[h_m h_m' - delta_mm' | y]^2] of every pair, for several branches.

    Estimated without bias from draws with a fixed seed, in bins of the label (equal labels share a bin): good to about
    1e-4 for the bin's own average.

    Returns
    -------
    first : (branches,) array
    second : (branches, branches) array
    """
    rng = np.random.default_rng(20)
    h = rng.standard_normal((samples, target.branches))
    scaled = h * feature_scale(target)
    names = dict(zip(target.link_variables, scaled.T, strict=True))
    y = np.asarray(target.expression.evaluate(np, **names), dtype=float) + target.noise * rng.standard_normal(samples)
    order = np.argsort(y, kind="stable")
    distinct = np.flatnonzero(np.diff(y[order]) > 1e-12 * float(np.ptp(y))) + 1
    wanted = (np.arange(1, bins) * samples) // bins
    at = distinct[np.minimum(np.searchsorted(distinct, wanted), len(distinct) - 1)] if len(distinct) else distinct
    edges = np.unique(np.concatenate([[0], at]))
    counts = np.diff([*edges, samples])

    def power(values: Array) -> float:
        mean = np.add.reduceat(values[order], edges) / counts
        square = np.add.reduceat(values[order] ** 2, edges) / counts
        return float(counts @ (mean**2 - (square - mean**2) / np.maximum(counts - 1, 1))) / samples

    first = np.array([power(column) for column in h.T])
    pairs = range(target.branches)
    second = np.array([[power(h[:, i] * h[:, j] - float(i == j)) for j in pairs] for i in pairs])
    return first, second
