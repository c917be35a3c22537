"""Layer-wise learning of a target of several branches (MIGHT) with constants: subspaces, features, readout.

Stage 1, T of the label: spikes theta^(m) = sqrt2 C_m beta_2 a/(s sqrt d_eff) of every branch on one semicircle, hence
alpha_c^(m)(a) = Var T/(2 C_m^2 v_2 a^2) and q_m = (1 - alpha_c^(m)/alpha)_+; the r d_eff leading eigenvectors are kept.
Stage 2 regresses R transforms T_t of the label on polynomials of the learned coordinates. With V_mj = v_j <a^2 q_m^j>,
F_tt'j = sum_m C_tm C_t'm V_mj and A_tj the gains of `union` for label t,

    E_tt' = (sum_j (1 - A_tj)(1 - A_t'j) F_tt'j + S_tt' - sum_j F_tt'j)/(1 - sum_j r_j A_tj A_t'j),
    Q_tt' = Cov(f_t, f_t') = sum_j A_tj A_t'j (F_tt'j + r_j E_tt'),   K_tm = Cov(f_t, u_m) = C_tm sum_j A_tj V_mj:

estimates from the same samples share their noise. Given the learned features, u is normal with mean of covariance
P = K^T Q^-1 K; stage 3 is the error of E[g | P]. This project's own; compared with simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...problem.hierarchy import effective_dimension
from .analysis import levels
from .branch_links import BranchMoments, branch_moments
from .labels import transform_expression
from .readouts import readout_classes
from .union import Task, feature_count, penalties_of, union_state

if TYPE_CHECKING:
    from ...problem import Hierarchical
    from ...problem.algorithms import SecondStage

Array = NDArray[np.float64]
NO_SIGNAL = 1e-14


def branch_thresholds(target: Hierarchical, transform: str = "identity") -> Array:
    """Return alpha_c^(m) = Var T/(2 C_m^2 v_2) of n/(d d_eff) for every branch, a^2 = 1; infinite without a signal."""
    moments, level = branch_moments(target, (transform,)), levels(target)[0]
    share = float(level.fractions[2]) if level.degree >= 2 else 0.0
    variance = float(moments.covariance[0, 0])
    signal = 2.0 * moments.first[0] ** 2 * share
    seen = signal > NO_SIGNAL * max(variance, 1e-300)
    return np.where(seen, variance / np.where(seen, signal, 1.0), math.inf)


def subspace_squares(target: Hierarchical, transform: str, ratio: float, d: int | None) -> tuple[Array, Array]:
    """Return <q_m>, shape (branches,), and <a^2 q_m^j>, shape (branches, k + 1), at n = ratio d d_eff.

    With `d` by the refined theory of that size, one readout class of every branch a class of the resolvent.
    """
    level = levels(target)[0]
    powers = np.arange(level.degree + 1.0)
    if math.isinf(ratio):
        return np.ones(target.branches), np.ones((target.branches, level.degree + 1))
    if d is None or ratio <= 0:
        values, fractions = readout_classes(target, 200)
        thresholds = branch_thresholds(target, transform)
        overlap, squares = [], []
        for threshold in thresholds:
            if not math.isfinite(threshold) or ratio <= 0:
                q = np.zeros_like(values)
            else:
                q = np.maximum(0.0, 1.0 - threshold / (ratio * np.maximum(values**2, 1e-300)))
            overlap.append(float(fractions @ q))
            squares.append([float(fractions @ (values**2 * q**j)) for j in powers])
        return np.array(overlap), np.array(squares)
    from .contour import learned_subspace
    from .spectral import sample_label_law

    d_eff = effective_dimension(d, target.exponents[0])
    expression = transform_expression(transform)
    law = sample_label_law(target, lambda y: np.asarray(expression.evaluate(np, y=y), dtype=float) + 0.0 * y, d_eff)
    found = learned_subspace(law, target.branches * d_eff / d, ratio * d_eff)
    overlap, squares = [], []
    for m in range(target.branches):
        own = law.branch == m
        f, a, q = target.branches * law.fractions[own], law.readouts[own], found.overlap[own]
        overlap.append(float(f @ q))
        square = [float(f @ (a**2 * q**j)) for j in powers]
        if level.degree > 1:
            square[2] = max(float(found.second_power[m]), 0.0)
        if found.along is not None:
            square[1] = float(found.along[m])
        squares.append(square)
    return np.array(overlap), np.array(squares)


@dataclass(frozen=True)
class BranchState:
    """What stage 2 has learned.

    Attributes
    ----------
    covariance : (transforms, transforms) array
        Q, of the learned features.
    with_features : (transforms, branches) array
        K, of the learned and the true ones.
    """

    covariance: Array
    with_features: Array

    @property
    def explained(self) -> Array:
        """P = K^T Q^-1 K: the covariance of E[u | learned features]."""
        scale = np.sqrt(np.maximum(np.diag(self.covariance), 1e-300))
        q = self.covariance / np.outer(scale, scale)
        k = self.with_features / scale[:, None]
        return np.asarray(k.T @ np.linalg.pinv(q, rcond=1e-10, hermitian=True) @ k)


def second_stage(
    target: Hierarchical, moments: BranchMoments, second: SecondStage, degrees: tuple[int, ...], squares: Array,
    crowding: Array, counts: Array | None,
) -> BranchState:  # fmt: skip
    """Return the learned features, one for each transform.

    Parameters
    ----------
    target : Hierarchical
    moments : BranchMoments
    second : SecondStage
        Penalties, chosen for each label by itself.
    degrees : tuple of int
        Fitted degrees.
    squares : (branches, k + 1) array
        <a^2 q_m^j>.
    crowding : (fitted,) array
        r_j = D_j/n.
    counts : (fitted,) array or None
        D_j on r d_eff coordinates; None as d -> infinity.
    """
    level, index = levels(target)[0], list(degrees)
    share = (level.fractions * squares)[:, index]
    power = np.einsum("tm,sm,mj->tsj", moments.first, moments.first, share)
    total = len(moments.first)
    gain = np.zeros((total, len(index)))
    for t in range(total):
        if moments.covariance[t, t] <= NO_SIGNAL or power[t, t].sum() <= NO_SIGNAL * moments.covariance[t, t]:
            continue  # a transform that makes the label constant, or sees no feature
        task = Task(degrees, crowding, power[t, t], share.sum(axis=0), float(moments.covariance[t, t]), 1.0)
        gain[t] = union_state(task, penalties_of(task, second.weights, second.ridge, counts)).gain
    both = gain[:, None, :] * gain[None, :, :]
    misfit = np.einsum("tsj,tsj->ts", (1 - gain)[:, None, :] * (1 - gain)[None, :, :], power)
    error = (misfit + moments.covariance - power.sum(axis=2)) / np.maximum(1.0 - both @ crowding, 1e-12)
    covariance = np.einsum("tsj,tsj->ts", both, power) + (both @ crowding) * error
    return BranchState(covariance, moments.first * (gain @ share.T))


def feature_counts(target: Hierarchical, degrees: tuple[int, ...], d: int) -> Array:
    """Return D_j on the r d_eff learned coordinates."""
    coordinates = target.branches * effective_dimension(d, target.exponents[0])
    return np.array([float(feature_count(coordinates, j)) for j in degrees])
