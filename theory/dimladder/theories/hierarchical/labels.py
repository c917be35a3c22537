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

from ...numerics.quadrature import hermite_values
from ...problem.expressions import Expression
from .analysis import LinkAnalysis, kinks_of, link_of, normal_rule

if TYPE_CHECKING:
    from ...problem import Hierarchical

Array = NDArray[np.float64]
NAMED_TRANSFORMS = ("identity", "optimal")


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
def label_moments(target: Hierarchical, transform: str, order: int = 4) -> LabelMoments:
    """Return the moments of a label transform.

    Parameters
    ----------
    target : Hierarchical
        Its `noise` is the standard deviation of the label noise.
    transform : str
        ``"identity"``, ``"optimal"`` (T*(y) = E[u | y], which maximises tau_1^2 / Var T), or a formula in ``y``.
    order : int
        Highest j.
    """
    link = link_of(target)
    if transform == "optimal":
        return _optimal(link, target.noise, order)
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


def _optimal(link: LinkAnalysis, noise: float, order: int) -> LabelMoments:
    if noise == 0.0:
        return _noiseless_optimal(link, order)
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
    y, density = y[known], density[:, known] / (noise * math.sqrt(2 * math.pi))
    table = density[1] / density[0]

    def transform(label: Array) -> Array:
        return np.interp(label, y, table)

    total = float(np.trapezoid(density[0], y))
    tau = np.trapezoid(density * table, y, axis=1) / total
    tau[0] = 0.0
    return LabelMoments(tau, float(tau[1]), transform)


def _noiseless_optimal(link: LinkAnalysis, order: int) -> LabelMoments:
    """E[u | g(s u)]: the average over the level set, with weights phi(u)/|g'(u)|; plateaus of g are averaged whole."""
    u, w = normal_rule(link.kinks, 160)
    order_u = np.argsort(u)
    u, w = u[order_u], w[order_u]
    g = link.function(u)
    scale = float(np.ptp(g)) or 1.0
    flat = np.abs(np.diff(g)) <= 1e-13 * scale
    direction = np.where(flat, 0, np.sign(np.diff(g)))
    # Cells of equal direction form the branches of g.
    starts = np.concatenate([[0], np.flatnonzero(np.diff(direction)) + 1, [len(direction)]])
    branches = [(int(a), int(b), int(direction[a])) for a, b in itertools.pairwise(starts)]
    monotone = [(a, b) for a, b, sign in branches if sign != 0]
    numerator, denominator = np.zeros_like(u), np.zeros_like(u)
    phi = np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
    slope = np.maximum(np.abs(np.gradient(g, u)), 1e-300)
    for a, b in monotone:
        part = slice(a, b + 1)
        along = np.argsort(g[part])
        level, root, density = g[part][along], u[part][along], (phi[part] / slope[part])[along]
        inside = (g >= level[0]) & (g <= level[-1])
        numerator[inside] += np.interp(g[inside], level, root * density)
        denominator[inside] += np.interp(g[inside], level, density)
    best = np.where(denominator > 0, numerator / np.maximum(denominator, 1e-300), u)
    if len(monotone) == 1 and len(branches) == 1:
        best = u.copy()
    flat_levels = [g[a] for a, _, sign in branches if sign == 0]
    for level in flat_levels:
        same = np.abs(g - level) <= 1e-12 * scale
        best[same] = float(w[same] @ u[same]) / float(w[same].sum())
    tau = hermite_values(u, order) @ (w * best)
    variance = float(w @ best**2)
    by_label = np.argsort(g)
    labels, values = g[by_label], best[by_label]

    def transform(label: Array) -> Array:
        return np.interp(label, labels, values)

    tau[0], tau[1] = 0.0, variance
    return LabelMoments(tau, variance, transform)
