"""Several branches by the second order of the label: what flattened quadratics see of a parity.

As in `flattening`, the label-weighted covariance of the D_2 quadratics of x has spikes in the span of the quadratic
parts of the features: with e_k the eigenvectors of E[T u u^T], the k-th at 1/g + R(g) = H_k(g),

    R = E[T/(1 - gT/delta)],  H_k = E[(e_k.u)^2 T/(1 - gT/delta)],  q_k = 1/(1 - H_k'/z').

The r leading eigenvectors, folded to matrices m_k, give the subspace as the r d_eff leading eigenvectors of sum_k
m_k^2:

    q_m = 1 - d_eff/(a^2 d) sum_k q_k e_km^2 (1 - q_k)/(sum_k q_k e_km^2)^2.

Stage 2 takes the r leading eigenvectors of the quadratics of the learned coordinates as features. With M = diag <a^2
q_m^2>^(1/2), e_k those of M E[T (u u^T - 1)] M and q_k their overlaps, E[u | learned] has the covariance P = sum_k q_k
M e_k e_k^T M. Leading order; this project's own, compared with simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...numerics.quadrature import gauss_hermite
from ...numerics.scalars import find_root
from .branch_links import joint_grid
from .labels import transform_expression
from .readouts import readout_classes
from .spectral import LabelLaw, single_spike

if TYPE_CHECKING:
    from ...problem import Hierarchical

Array = NDArray[np.float64]
NOISE_NODES = 12
NEGLIGIBLE = 1e-13


@dataclass(frozen=True)
class JointLaw:
    """Points of (T, u), T centred: values and weights of shape (points,), features of shape (branches, points)."""

    values: Array
    weights: Array
    features: Array


@lru_cache(maxsize=8)
def joint_law(target: Hierarchical, transform: str) -> JointLaw:
    """Return the law of a transformed label and the features as d_eff -> infinity, on a tensor grid."""
    weight, link, u = joint_grid(target)
    xi, v = gauss_hermite(NOISE_NODES) if target.noise else (np.zeros(1), np.ones(1))
    y = (link[:, None] + target.noise * xi).ravel()
    weights = np.outer(weight, v).ravel()
    keep = weights > NEGLIGIBLE
    t = np.asarray(transform_expression(transform).evaluate(np, y=y[keep]), dtype=float) + 0.0 * y[keep]
    weights = weights[keep] / weights[keep].sum()
    return JointLaw(t - float(weights @ t), weights, np.repeat(u, len(xi), axis=1)[:, keep])


def spikes(law: JointLaw, ratio: float, held: Array) -> tuple[Array, Array]:
    """Return q_k, shape (branches,), and e_k as columns, for n = ratio D_2; `held` is the diagonal of M."""
    u = held[:, None] * law.features
    moment = (u * (law.weights * law.values)) @ u.T
    _, directions = np.linalg.eigh(moment - np.diag(held**2) * float(law.weights @ law.values))
    if math.isinf(ratio):
        return np.ones(len(held)), directions
    one, none = np.ones(1), np.zeros((1, 1, len(law.values)))
    found = []
    for e in directions.T:
        squares = (e @ u) ** 2 - float(e**2 @ held**2)
        single = LabelLaw(law.values, law.weights, squares[None], none, one, one, 1, None, np.zeros(1, int))
        found.append(single_spike(single, 0, ratio).overlap if ratio > 0 else 0.0)
    return np.array(found), directions


def flattening_ratios(target: Hierarchical, transform: str) -> Array:
    """Return the n/D_2 from which the first eigenvector holds a part of each feature, shape (branches,).

    With x = g/delta the spike is at delta = 1/(x (H - R)) and detaches where z' = 0, delta = 1/(x^2 E[T^2/(1 - xT)^2]).
    """
    law = joint_law(target, transform)
    _, directions = spikes(law, math.inf, np.ones(target.branches))
    found = np.full(target.branches, math.inf)
    for e in directions.T:
        squares = (e @ law.features) ** 2 - 1.0
        values = law.values if float(law.weights @ (squares * law.values)) > 0 else -law.values

        def excess(x: float, values: Array = values, squares: Array = squares) -> float:
            part = values / (1.0 - x * values)
            return float(law.weights @ (squares * part)) - x * float(law.weights @ part**2)

        if float(law.weights @ (squares * values)) < 1e-9 * math.sqrt(float(law.weights @ values**2)):
            continue
        # Labels near their largest value are rare: the root may lie close to its inverse.
        grid = (1.0 - np.geomspace(1.0, 1e-7, 300)) / float(values.max())
        first = next((i for i, x in enumerate(grid) if excess(float(x)) <= 0), None)
        if not first:
            continue
        x = float(find_root(excess, grid[first - 1], grid[first], xtol=1e-14))
        ratio = 1.0 / (x**2 * float(law.weights @ (values / (1.0 - x * values)) ** 2))
        found = np.where(e**2 > 1e-9, np.minimum(found, ratio), found)
    return found


def flattened_squares(
    target: Hierarchical, transform: str, ratio: float, d: int, d_eff: int, degree: int
) -> tuple[Array, Array]:
    """Return <q_m>, shape (branches,), and <a^2 q_m^j>, shape (branches, degree + 1), at n = ratio D_2."""
    q, e = spikes(joint_law(target, transform), ratio, np.ones(target.branches))
    values, fractions = readout_classes(target, 200)
    signal, noise = e**2 @ q, e**2 @ (q * (1.0 - q))
    lost = np.where(signal > 1e-9, noise * d_eff / (d * np.maximum(signal, 1e-9) ** 2), np.inf)
    overlap = np.maximum(0.0, 1.0 - lost[:, None] / np.maximum(values**2, 1e-300))
    powers = [[float(fractions @ (values**2 * row**j)) for j in range(degree + 1)] for row in overlap]
    return overlap @ fractions, np.array(powers)


def flattened_explained(target: Hierarchical, transform: str, ratio: float, held: Array) -> Array:
    """Return the covariance of E[u | learned features] of n2 = ratio D_2 samples, D_2 that of the learned coordinates.

    `held` is v_2 <a^2 q_m^2> of every branch: what the quadratics of its learned coordinates hold of a feature.
    """
    root = np.sqrt(np.maximum(held, 0.0))
    q, e = spikes(joint_law(target, transform), ratio, root)
    made = (root[:, None] * e) * np.sqrt(q)
    return np.asarray(made @ made.T)
