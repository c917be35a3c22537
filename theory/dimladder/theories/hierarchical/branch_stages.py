"""Layer-wise learning of a target of several branches (MIGHT) with constants: subspaces, features, readout.

Stage 1, T of the label: spikes theta^(m) = sqrt2 C_m beta_2 a/(s sqrt d_eff) of every branch on one semicircle, hence
alpha_c^(m)(a) = Var T/(2 C_m^2 v_2 a^2) and q_m = (1 - alpha_c^(m)/alpha)_+; the r d_eff leading eigenvectors are kept.
Stage 2 regresses R transforms T_t of the label on polynomials of the learned coordinates. With V_mj = v_j <a^2 q_m^j>,
F_tt'j = sum_m C_tm C_t'm V_mj and A_tj the gains of `union` for label t,

    E_tt' = (sum_j (1 - A_tj)(1 - A_t'j) F_tt'j + S_tt' - sum_j F_tt'j)/(1 - sum_j r_j A_tj A_t'j),
    Q_tt' = Cov(f_t, f_t') = sum_j A_tj A_t'j (F_tt'j + r_j E_tt'),   K_tm = Cov(f_t, u_m) = C_tm sum_j A_tj V_mj:

estimates from the same samples share their noise. Given the learned features, u is normal with mean of covariance
P = K^T Q^-1 K; stage 3 is the error of E[g | P].

At the actual d_eff (`DrawnBranches`) the second order of a transform reaches the degrees of the first: He_2(u_m) has a
part sum_i h_2(z_i)/d_eff. There F and S are measured on draws, along the class sums of every branch, the learned
features are made on the same draws, and the readout is fitted to them. This project's own; compared with simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...numerics.quadrature import hermite_series, hermite_values
from ...problem.hierarchy import effective_dimension, orthonormal_coefficients
from .analysis import feature_scale, levels
from .branch_links import BranchMoments, branch_moments
from .composition import learned_coordinates
from .labels import transform_expression
from .readout import FiniteFit, ReadoutLaw
from .readouts import readout_classes
from .spectral import LabelLaw, class_readouts, sample_label_law
from .union import Task, feature_count, penalties_of, union_state
from .union_refined import directions as unit_directions
from .union_refined import squared_norms

if TYPE_CHECKING:
    from ...problem import Hierarchical
    from ...problem.stages import SecondStage, ThirdStage

Array = NDArray[np.float64]
NO_SIGNAL = 1e-14
# Draws of the learned features from which the designs of a readout on few labels are taken.
DRAWS_OF_DESIGNS = 8000


def branch_thresholds(target: Hierarchical, transform: str = "identity") -> Array:
    """Return alpha_c^(m) = Var T/(2 C_m^2 v_2) of n/(d d_eff) for every branch, a^2 = 1; infinite without a signal."""
    moments, level = branch_moments(target, (transform,)), levels(target)[0]
    share = float(level.fractions[2]) if level.degree >= 2 else 0.0
    variance = float(moments.covariance[0, 0])
    signal = 2.0 * moments.first[0] ** 2 * share
    seen = signal > NO_SIGNAL * max(variance, 1e-300)
    return np.where(seen, variance / np.where(seen, signal, 1.0), math.inf)


def leading_squares(target: Hierarchical, transform: str, ratio: float) -> tuple[Array, Array]:
    """Return <q_m>, shape (branches,), and <a^2 q_m^j>, shape (branches, k + 1), at n = ratio d d_eff."""
    level = levels(target)[0]
    powers = np.arange(level.degree + 1.0)
    if math.isinf(ratio):
        return np.ones(target.branches), np.ones((target.branches, level.degree + 1))
    values, fractions = readout_classes(target, 200)
    overlap, squares = [], []
    for threshold in branch_thresholds(target, transform):
        q = np.zeros_like(values)
        if math.isfinite(threshold) and ratio > 0:
            q = np.maximum(0.0, 1.0 - threshold / (ratio * np.maximum(values**2, 1e-300)))
        overlap.append(float(fractions @ q))
        squares.append([float(fractions @ (values**2 * q**j)) for j in powers])
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


@dataclass(frozen=True)
class Regressions:
    """The estimates of all transforms from the same samples.

    Attributes
    ----------
    gain : (transforms, fitted) array
        A_tj.
    noise : (transforms, transforms) array
        Covariance of what is not the mean of the estimates: sum_j r_j A_tj A_t'j E_tt'.
    """

    gain: Array
    noise: Array


def regress(
    power: Array, covariance: Array, second: SecondStage, degrees: tuple[int, ...], crowding: Array,
    counts: Array | None,
) -> Regressions:  # fmt: skip
    """Return the estimates of all transforms.

    Parameters
    ----------
    power : (transforms, transforms, fitted) array
        F_tt'j.
    covariance : (transforms, transforms) array
        S = Cov(T_t, T_t').
    second : SecondStage
        Penalties, chosen for each label by itself.
    degrees : tuple of int
        Fitted degrees.
    crowding : (fitted,) array
        r_j = D_j/n.
    counts : (fitted,) array or None
        D_j on r d_eff coordinates; None as d -> infinity.
    """
    total = len(covariance)
    gain = np.zeros((total, len(degrees)))
    for t in range(total):
        if covariance[t, t] <= NO_SIGNAL or power[t, t].sum() <= NO_SIGNAL * covariance[t, t]:
            continue  # a transform that makes the label constant, or sees no feature
        task = Task(degrees, crowding, power[t, t], power[t, t], float(covariance[t, t]), 1.0)
        gain[t] = union_state(task, penalties_of(task, second.weights, second.ridge, counts)).gain
    both = gain[:, None, :] * gain[None, :, :]
    misfit = np.einsum("tsj,tsj->ts", (1 - gain)[:, None, :] * (1 - gain)[None, :, :], power)
    error = (misfit + covariance - power.sum(axis=2)) / np.maximum(1.0 - both @ crowding, 1e-12)
    return Regressions(gain, (both @ crowding) * error)


def leading_features(
    target: Hierarchical, moments: BranchMoments, second: SecondStage, degrees: tuple[int, ...], squares: Array,
    crowding: Array, counts: Array | None,
) -> BranchState:  # fmt: skip
    """Return the learned features at leading order; `squares` is <a^2 q_m^j>, shape (branches, k + 1)."""
    share = (levels(target)[0].fractions * squares)[:, list(degrees)]
    power = np.einsum("tm,sm,mj->tsj", moments.first, moments.first, share)
    made = regress(power, moments.covariance, second, degrees, crowding, counts)
    both = made.gain[:, None, :] * made.gain[None, :, :]
    covariance = np.einsum("tsj,tsj->ts", both, power) + made.noise
    return BranchState(covariance, moments.first * (made.gain @ share.T))


@dataclass(frozen=True)
class DrawnBranches:
    """Draws of a target of several branches at its actual d_eff, with a fixed seed.

    Attributes
    ----------
    target : Hierarchical
    true, other : (branches, samples, d_eff) arrays
        Hidden coordinates, and normal ones beside them.
    features : (branches, samples) array
        h_m.
    clean, label : (samples,) arrays
        f* and y.
    readouts, classes : (d_eff,) arrays
    extra : (transforms, samples) array
        Standard normal.
    """

    target: Hierarchical
    true: Array
    other: Array
    features: Array
    clean: Array
    label: Array
    readouts: Array
    classes: NDArray[np.intp]
    extra: Array

    @classmethod
    def draw(cls, target: Hierarchical, d_eff: int, transforms: int, samples: int = 100_000) -> DrawnBranches:
        """Draw them; fewer of large targets."""
        rng = np.random.default_rng(2)
        a, classes = class_readouts(target, d_eff)
        raw = orthonormal_coefficients(target.features[0], target.hermite)
        samples = int(max(30_000, min(samples, 6_000_000 // (d_eff * target.branches))))
        true, other = rng.standard_normal((2, target.branches, samples, d_eff))
        h = np.array([
            hermite_series(raw, v) @ a / math.sqrt(d_eff) for v in true
        ])  # fmt: skip
        names = dict(zip(target.link_variables, h, strict=True))
        f = np.asarray(target.expression.evaluate(np, **names), dtype=float) + 0.0 * h[0]
        y = f + target.noise * rng.standard_normal(samples)
        return cls(target, true, other, h, f, y, a, classes, rng.standard_normal((transforms, samples)))

    def subspace(self, transform: str, ratio: float, d: int) -> tuple[Array, Array, Array | None]:
        """Return the overlap of every coordinate, shape (branches, d_eff); the same where degree 2 sees the power of
        the whole projector; and the overlap of every linear direction where the polynomial has a linear part.
        """
        from .contour import learned_subspace

        target, d_eff = self.target, len(self.readouts)
        if math.isinf(ratio) or ratio <= 0:
            q = np.full((target.branches, d_eff), 1.0 if ratio > 0 else target.branches * d_eff / d)
            return q, q, None
        law = _label_law(target, transform, d_eff)
        found = learned_subspace(law, target.branches * d_eff / d, ratio * d_eff)
        q = found.overlap.reshape(target.branches, -1)[:, self.classes]
        second = np.mean(self.readouts**2 * q**2, axis=1)
        lift = np.where(second > 0, np.sqrt(np.maximum(found.second_power, 0.0) / np.maximum(second, 1e-300)), 1.0)
        return q, np.minimum(1.0, lift[:, None] * q), found.along

    def directions(
        self, degrees: tuple[int, ...], seen: Array, along: Array | None
    ) -> tuple[Array, NDArray[np.intp], Array]:
        """Return unit directions of the polynomials of the learned coordinates, the position of each's degree, and the
        squared norms of the samples on the highest degree, of mean one.
        """
        level = levels(self.target)[0]
        parts = [int(j) for j in np.flatnonzero(level.coefficients)]
        rows, place, tables = [], [], []
        for m, (true, other) in enumerate(zip(self.true, self.other, strict=True)):
            spike = None if along is None else float(along[m])
            z = learned_coordinates(true, other, seen[m], self.readouts, spike)
            tables.append(hermite_values(z, level.degree))
            made, at = unit_directions(tables[-1], degrees, self.readouts, self.classes, seen[m], parts)
            rows.append(made)
            place.append(at)
        norms = squared_norms(np.concatenate(tables, axis=2))[max(degrees)]
        return np.concatenate(rows), np.concatenate(place), norms / norms.mean()

    def second_stage(
        self, second: SecondStage, degrees: tuple[int, ...], rows: Array, place: NDArray[np.intp], norms: Array,
        crowding: Array, counts: Array, third: ThirdStage,
    ) -> tuple[Array, FiniteFit]:  # fmt: skip
        """Return the multiple correlation of every h_m with the learned features, and the error of polynomial readouts
        of a total degree.
        """
        count = len(self.label)
        labels = np.array([
            np.asarray(transform_expression(t).evaluate(np, y=self.label), dtype=float) + 0.0 * self.label
            for t in second.label_transforms
        ])  # fmt: skip
        labels -= labels.mean(axis=1, keepdims=True)
        held = labels @ rows.T / count
        chosen = place == np.arange(len(degrees))[:, None]
        power = np.einsum("ta,sa,ja->tsj", held, held, chosen.astype(float))
        made = regress(power, labels @ labels.T / count, second, degrees, crowding, counts)
        values, vectors = np.linalg.eigh(made.noise)
        spread = vectors * np.sqrt(np.maximum(values, 0.0))
        learned = (made.gain[:, place] * held) @ rows + spread @ self.extra[: len(labels)] * np.sqrt(norms)
        basis = _polynomials(learned, third.degree)
        # The first rows are the features themselves.
        linear = basis[1 : 1 + _rank(learned)]
        centred = self.features - self.features.mean(axis=1, keepdims=True)
        explained = np.sum((centred @ linear.T / count) ** 2, axis=1) / np.mean(centred**2, axis=1)
        gram, pull = basis @ basis.T / count, basis @ self.clean / count
        error = float(np.mean(self.clean**2) - pull @ np.linalg.lstsq(gram, pull, rcond=1e-12)[0])
        return np.sqrt(np.clip(explained, 0.0, 1.0)), few_labels(basis, self.clean, self.target.noise, third, error)


@lru_cache(maxsize=4)
def _label_law(target: Hierarchical, transform: str, d_eff: int) -> LabelLaw:
    expression = transform_expression(transform)
    return sample_label_law(target, lambda y: np.asarray(expression.evaluate(np, y=y), dtype=float) + 0.0 * y, d_eff)


def _rank(features: Array) -> int:
    values = np.linalg.eigvalsh(np.cov(features).reshape(len(features), -1))
    return int((values > 1e-10 * max(float(values[-1]), 1e-300)).sum()) if values[-1] > 0 else 0


def _polynomials(features: Array, degree: int) -> Array:
    """Return products of Hermite polynomials of the whitened features: the constant, the features, then the rest."""
    centred = features - features.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(features).reshape(len(features), -1))
    rank = _rank(features)
    white = (vectors[:, len(values) - rank :].T @ centred) / np.sqrt(values[len(values) - rank :])[:, None]
    tables = [hermite_values(row, degree) for row in white]
    exponents = sorted((p for p in np.ndindex(*[degree + 1] * rank) if sum(p) <= degree), key=sum)
    one = np.ones(features.shape[1])
    return np.array([
        np.prod([table[j] for table, j in zip(tables, p, strict=True)], axis=0) * one for p in exponents
    ])  # fmt: skip


def few_labels(basis: Array, clean: Array, noise: float, third: ThirdStage, error: float) -> FiniteFit:
    """Return the errors of fits on `third.samples` labels, given draws of the basis, shape (terms, draws), and of f*.

    `error` is that of the best readout. The designs are drawn from the first draws, with a fixed seed.
    """
    if math.isinf(third.samples):
        return FiniteFit(error, error, error, error)
    psi = basis[:, :DRAWS_OF_DESIGNS]
    # Orthonormal on these very draws; what is linearly dependent adds nothing to a fit.
    values, vectors = np.linalg.eigh(psi @ psi.T / psi.shape[1])
    kept = values > 1e-10 * values[-1]
    psi = (vectors[:, kept] / np.sqrt(values[kept])).T @ psi
    draws = psi.shape[1]
    law = ReadoutLaw(np.full(draws, 1.0 / draws), psi, clean[:draws], np.zeros(draws), noise)
    fit, shift = law.fits(third.samples, 0.0, designs=300), error - law.population
    return FiniteFit(fit.median + shift, fit.low + shift, fit.high + shift, fit.mean + shift)


def leading_fit(target: Hierarchical, explained: Array, third: ThirdStage, error: float) -> FiniteFit:
    """Return the errors of readouts of jointly normal learned features, `explained` the covariance of E[u | them]."""
    if math.isinf(third.samples):
        return FiniteFit(error, error, error, error)
    p, basis = np.linalg.eigh(explained)
    p = np.clip(p, 0.0, 1.0)
    w, other = np.random.default_rng(8).standard_normal((2, target.branches, DRAWS_OF_DESIGNS))
    seen = p > 1e-10
    learned = (np.sqrt(p)[:, None] * w + np.sqrt(1.0 - p)[:, None] * other)[seen]
    names = dict(zip(target.link_variables, feature_scale(target) * (basis @ w), strict=True))
    clean = np.asarray(target.expression.evaluate(np, **names), dtype=float) + 0.0 * w[0]
    if not learned.size:
        learned = other[:1]  # nothing is learned: the feature is a random number
    return few_labels(_polynomials(learned, third.degree), clean, target.noise, third, error)


def feature_counts(target: Hierarchical, degrees: tuple[int, ...], d: int) -> Array:
    """Return D_j on the r d_eff learned coordinates."""
    coordinates = target.branches * effective_dimension(d, target.exponents[0])
    return np.array([float(feature_count(coordinates, j)) for j in degrees])
