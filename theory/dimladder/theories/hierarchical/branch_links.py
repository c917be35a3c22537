"""What transforms of the label know of several features, and the error of a readout of several learned features.

u_1..u_r are the standardised features of r branches, independent standard normal variables as d_eff -> infinity;
y = g(s u_1, ..., s u_r) + Delta^(1/2) xi. A transform T_t of the label sees C_tm = E[T_t u_m]. One transform alone
gives one direction of the r features; as many as C has rank can be learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...numerics.quadrature import gauss_hermite, gauss_normal, hermite_values
from .analysis import feature_scale
from .labels import transform_expression

if TYPE_CHECKING:
    from ...problem import Hierarchical

Array = NDArray[np.float64]
# Nodes along each feature on either side of zero, and of the label noise.
NODES = {1: 64, 2: 48, 3: 16, 4: 8}
NOISE_NODES = 24
# Highest total degree of the expansion of the link.
ORDER = 30


@dataclass(frozen=True)
class BranchMoments:
    """Moments of label transforms.

    Attributes
    ----------
    first : (transforms, branches) array
        C_tm = E[T_t u_m].
    second : (transforms, branches, branches) array
        E[T_t (u_m u_m' - delta_mm')].
    covariance : (transforms, transforms) array
        Cov(T_t, T_t'), label noise included.
    """

    first: Array
    second: Array
    covariance: Array


def _grid(branches: int) -> tuple[Array, Array, list[Array]]:
    """Return the nodes of one feature, their weights, and the tensor grid, each axis split at zero."""
    x, w = gauss_normal((0.0,), NODES[branches])
    keep = np.abs(x) < 9.0
    x, w = x[keep], w[keep]
    return x, w, list(np.meshgrid(*([x] * branches), indexing="ij"))


def joint_grid(target: Hierarchical) -> tuple[Array, Array, Array]:
    """Return weights, values of the link, and standardised features, shape (branches, points), of a tensor grid."""
    _, w, grid = _grid(target.branches)
    weight = np.ones(())
    for _ in range(target.branches):
        weight = np.multiply.outer(weight, w)
    return weight.ravel(), _link_values(target, grid).ravel(), np.array([axis.ravel() for axis in grid])


def _link_values(target: Hierarchical, points: Sequence[Array]) -> Array:
    s = feature_scale(target)
    names = dict(zip(target.link_variables, (s * u for u in points), strict=True))
    return np.asarray(target.expression.evaluate(np, **names), dtype=float) + 0.0 * points[0]


@lru_cache(maxsize=32)
def branch_moments(target: Hierarchical, transforms: tuple[str, ...]) -> BranchMoments:
    """Return the moments of transforms of the label, by tensor quadrature; ``"identity"`` or formulas in ``y``."""
    _, w, grid = _grid(target.branches)
    g = _link_values(target, grid)
    weight = np.ones(())
    for _ in range(target.branches):
        weight = np.multiply.outer(weight, w)
    xi, v = gauss_hermite(NOISE_NODES) if target.noise else (np.zeros(1), np.ones(1))
    mean = np.zeros((len(transforms), *g.shape))
    product = np.zeros((len(transforms), len(transforms)))
    functions = [transform_expression(t) for t in transforms]
    for noise, share in zip(xi, v, strict=True):
        y = g + target.noise * noise
        values = np.array([np.asarray(f.evaluate(np, y=y), dtype=float) + 0.0 * y for f in functions])
        mean += share * values
        flat = values.reshape(len(transforms), -1)
        product += share * (flat * weight.ravel()) @ flat.T
    flat = mean.reshape(len(transforms), -1) * weight.ravel()
    average = flat.sum(axis=1)
    u = np.array([axis.ravel() for axis in grid])
    pairs = u[:, None, :] * u[None, :, :] - np.eye(target.branches)[:, :, None]
    return BranchMoments(flat @ u.T, np.einsum("tn,ijn->tij", flat, pairs), product - np.outer(average, average))


def seen_directions(target: Hierarchical) -> Array:
    """Return the singular values of E[T_t u_m]/sd(T_t) over a dictionary of transforms, one for each branch.

    Those above rounding count the directions of the span of the features that first moments of transformed labels can
    tell apart: y, |y - E y|, and four bounded functions of the standardised label.
    """
    centre = float(np.sum(_moment_of_label(target, 1)))
    spread = math.sqrt(max(float(np.sum(_moment_of_label(target, 2))) - centre**2, 1e-300))
    s = f"((y - ({centre!r}))/{spread!r})"
    bounded = (*(f"{f}{s}" for f in ("tanh", "cos", "sin")), f"exp(-{s}**2)")
    found = branch_moments(target, ("identity", f"abs{s}", *bounded))
    # A transform that makes the label constant says nothing.
    variance = np.diag(found.covariance)
    scale = np.where(variance > 1e-18, np.sqrt(np.maximum(variance, 0.0)), np.inf)
    return np.asarray(np.linalg.svd(found.first / scale[:, None], compute_uv=False)[: target.branches])


def _moment_of_label(target: Hierarchical, power: int) -> Array:
    """Return the terms of E[f*^power], with the noise added to the second."""
    _, w, grid = _grid(target.branches)
    values = _link_values(target, grid) ** power
    for _ in range(target.branches):
        values = np.tensordot(w, values, axes=(0, 0))
    return np.asarray(values + (target.noise**2 if power == 2 else 0.0))


def captured(target: Hierarchical, explained: Array, degree: int) -> float:
    """Return E[f^2] of the best polynomial readout, of total degree m, of jointly normal learned features.

    `explained` is the covariance of E[u | learned features]. In its eigenbasis w each coordinate is known with squared
    correlation p_i, so that a Hermite polynomial h_alpha(w) of the link is learned to prod_i p_i^{alpha_i}.
    """
    p, basis = np.linalg.eigh(explained)
    p = np.clip(p, 0.0, 1.0)
    x, w, grid = _grid(target.branches)
    turned = np.tensordot(basis, np.array(grid), axes=(1, 0))
    coefficients = _link_values(target, list(turned))
    order = min(degree, ORDER)
    table = hermite_values(x, order) * w
    for _ in range(target.branches):
        coefficients = np.moveaxis(np.tensordot(table, coefficients, axes=(1, 0)), 0, -1)
    power = coefficients**2
    total = np.indices(power.shape).sum(axis=0)
    power[total > order] = 0.0
    for value in p:
        power = np.tensordot(value ** np.arange(order + 1.0), power, axes=(0, 0))
    return float(power)


def null_error(target: Hierarchical) -> float:
    """Return E[f*^2]."""
    return float(_moment_of_label(target, 2)) - target.noise**2
