"""Refined stage 1: what the learned subspace keeps of the hidden directions at the actual d_eff/d and n/d.

The d_eff eigenvalues of largest modulus of M lie outside two vertical lines, Re z = -t and Re z = t. With the
resolvents of the compound free convolution,

    G_0 = 1/(z - R),  G_c = 1/(z - R - L_c),  g = (1 - gamma) G_0 + gamma sum_c f_c G_c,
    g_T = g + gamma sum_c f_c G_c E[s_c | T],  R = E[T/(1 - g_T T/delta)],  L_c = E[s_c T/(1 - g_T T/delta)],

s_c = z_c^2 - 1, gamma = d_eff/d, delta = n/d. g_T is the quadratic form x^T G x/d of a sample with this label: a label
tells how large the hidden coordinates are. Contour integrals along the two lines give everything that stage 2 needs: t
itself, the squared overlap q_c of each readout class with the learned subspace, and the second power S_2 = (1/d_eff)
sum_il a_i a_l P_il^2 of the projector P_il = w*_i U U^T w*_l. This project's own; compared with simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ...errors import SolveError
from ...numerics.quadrature import gauss_legendre
from ...numerics.scalars import find_root
from .resolvent import Resolvent
from .spectral import LabelLaw

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
NODES = 96
# Heights of the nodes on the lines, in units of the half radius of the semicircle.
LOWEST, HIGHEST = 1e-4, 3e3
# Combinations of the classes of directions that the second power keeps.
COMBINATIONS = 3
# Pairs of points that are averaged together.
BLOCK = 4096
# Lines closer to the imaginary axis are not resolved by the nodes.
NEAREST = 1e-3


@dataclass(frozen=True)
class Subspace:
    """What the learned subspace keeps.

    Attributes
    ----------
    overlap : (classes,) array
        q_c, squared overlap of a direction of the class with the learned subspace.
    fractions : (classes,) array
    second_power : (branches,) array
        S_2 = (1/d_eff) sum_il a_i a_l P_il^2: the power of degree 2 that the subspace represents. <a^2 q^2> is its part
        on the diagonal, up to fluctuations.
    along : (branches,) array or None
        S_1 = (1/d_eff) sum_il a_i a_l P_il, where the polynomial has a linear part: the squared overlap of the one
        direction sum_i a_i w*_i/sqrt d_eff along which it lies, and which makes a spike of its own.
    cut : float
        t: eigenvalues of larger modulus are kept.
    """

    overlap: Array
    fractions: Array
    second_power: Array
    along: Array | None
    cut: float

    @property
    def mean_overlap(self) -> float:
        """Return the average over the hidden directions."""
        return float(self.fractions @ self.overlap)


@dataclass(frozen=True)
class _Line:
    """Resolvents on one vertical line, from the real axis upwards: g, G_0, and G_c, shape (classes, points)."""

    g: Complex
    rest: Complex
    of_class: Complex


def learned_subspace(law: LabelLaw, gamma: float, delta: float) -> Subspace:
    """Return the overlaps of the subspace that n = delta d samples give.

    Raises
    ------
    SolveError
        If the resolvent does not converge on the lines, or if no cut keeps that many eigenvalues.
    """
    sigma = math.sqrt(law.variance / delta)
    log_y, weights = gauss_legendre(NODES)
    span = math.log(HIGHEST / LOWEST)
    y = sigma * LOWEST * np.exp(0.5 * span * (log_y + 1.0))
    weights = 0.5 * span * weights * y
    resolvent = Resolvent(law, gamma, delta)
    last: Complex | None = None

    @cache
    def lines(x: float) -> tuple[_Line, _Line]:
        nonlocal last
        z = np.concatenate([x + 1j * y, -x + 1j * y])
        # Each pair of lines starts from the one before.
        last, missed = resolvent.solve(z, last)
        if missed > NODES // 6:
            raise SolveError(
                "the resolvent of stage 1 did not converge", status="max_iterations",
                why=f"{missed} of {2 * NODES} points of the lines Re z = {x:.4g} and {-x:.4g}",
                hint='use order = "leading", or a bounded label transform such as clip(y, -3, 3)',
            )  # fmt: skip
        g = last @ resolvent.weight
        right, left = (
            _Line(g[part], last[part, 0], last[part, 1:].T) for part in (slice(NODES), slice(NODES, 2 * NODES))
        )
        return right, left

    def outside(values: Array, t: float) -> Array:
        # Beyond the highest node every resolvent is 1/z, whose lines are joined by 2 t/(pi Y).
        return np.asarray(1.0 - values @ weights / math.pi - 2.0 * t / (math.pi * sigma * HIGHEST))

    def excess(t: float) -> float:
        right, left = lines(t)
        return float(outside((right.g - left.g).real, t)) - gamma

    # With fewer samples than dimensions most eigenvalues are null, and the cut is far inside the semicircle.
    low, high = 0.02 * sigma, 2.0 * sigma
    while excess(low) <= 0 and low > NEAREST * sigma:
        low *= 0.5
    while excess(high) > 0 and high < 1e9 * sigma:
        high *= 1.5
    if excess(low) <= 0 or excess(high) > 0:
        raise SolveError(
            "stage 1 gives no subspace of the dimension of the features", status="no_solution",
            why=f"no cut keeps the fraction d_eff/d = {gamma:.3g} of the eigenvalues at n/d = {delta:.3g}",
            hint='larger kappa, more samples, or order = "leading"',
        )  # fmt: skip
    cut = find_root(excess, low, high, xtol=1e-9 * low)
    right, left = lines(cut)
    overlap = np.clip(outside((right.of_class - left.of_class).real, cut), 0.0, 1.0)
    along = None
    if law.pairs is not None:
        spike = _linear_resolvent(right, law, gamma, delta) - _linear_resolvent(left, law, gamma, delta)
        along = np.clip(outside(spike.real, cut), 0.0, 1.0)
    power = _second_power(right, left, weights, law, overlap, gamma, delta)
    return Subspace(overlap, law.fractions, power, along, cut)


def _fields(g: Complex, of_class: Complex, law: LabelLaw, gamma: float) -> Complex:
    """Return g_T = g + gamma sum_c f_c G_c s_c(T), shape (points, bins)."""
    return np.asarray(g[:, None] + gamma * (law.fractions[:, None] * of_class).T @ law.squares)


def _linear_resolvent(line: _Line, law: LabelLaw, gamma: float, delta: float) -> Complex:
    """Return alpha^T G alpha on a line, shape (branches, points), G = 1/(z - R - L) among the class sums u_c.

    L_cc' = E[(u_c u_c' - delta_cc') T/(1 - g_T T/delta)], alpha_c = a_c f_c^(1/2): these few directions feel the rest
    of the matrix through g_T alone.
    """
    assert law.pairs is not None
    pull = law.weights * law.values / (1.0 - _fields(line.g, line.of_class, law, gamma) * (law.values / delta))
    found = np.empty((len(law.pairs), len(line.g)), dtype=np.complex128)
    for m, pairs in enumerate(law.pairs):
        own = law.branch == m
        alpha = law.readouts[own] * np.sqrt(len(law.pairs) * law.fractions[own])
        matrix = np.eye(len(alpha)) / line.rest[:, None, None] - np.einsum("pb,cdb->pcd", pull, pairs)
        found[m] = np.einsum("c,pcd,d->p", alpha, np.linalg.inv(matrix), alpha)
    return found


def _between(left: Complex, right: Complex, moments: Array) -> Complex:
    """Return sum_t left[k, t] moments[r, s, t] right[l, t], shape (r, s, k, l), symmetric in r and s."""
    rank = len(moments)
    found = np.empty((rank, rank, len(left), len(right)), dtype=np.complex128)
    for r in range(rank):
        for s in range(r, rank):
            found[r, s] = found[s, r] = (left * moments[r, s]) @ right.T
    return found


def _second_power(
    right: _Line, left: _Line, weights: Array, law: LabelLaw, overlap: Array, gamma: float, delta: float
) -> Array:
    """Return S_2 = sum_c f_c a_c^2 (q_c^2 + E_cc) + d_eff sum_cc' f_c f_c' a_c a_c' E_cc', E_cc' = E P_il^2, i != l,
    for the classes of every branch, of whose directions f_c is the fraction.

        E_cc' = (1/4 pi^2 d) int int G_c G_c'(z) G_c G_c'(z') [K (1 - A K)^-1]_cc' dy dy',
        K_bb' = E[(T^2/delta) z_b^2 z_b'^2/((1 - g_T T/delta)(1 - g_T' T/delta))],
        A = diag((1 - gamma) G_0 G_0', gamma f_c G_c G_c'),

    z_b and z_b' two directions, b = 0 one that is not hidden, over both lines and both half planes, with the sign of
    the orientation of the two lines.
    """
    # In the upper half plane; the lower one holds the conjugates.
    g, rest = np.concatenate([right.g, left.g]), np.concatenate([right.rest, left.rest])
    of_class = np.concatenate([right.of_class, left.of_class], axis=1)
    measure = np.concatenate([weights, -weights])
    one = 1.0 / (1.0 - _fields(g, of_class, law, gamma) * (law.values / delta))
    strength = law.weights * law.values**2 / delta
    # Directions in groups: the hidden classes, then all others. Few combinations of the groups' E[z_b^2 | T] span all
    # that is not sampling noise, however many the classes are.
    size = np.concatenate([law.squares, np.zeros((1, len(law.values)))])
    pairs = 1.0 + size[:, None] + size[None]
    pairs[:-1, :-1] += law.products
    share, scale, _ = np.linalg.svd((1.0 + size) * np.sqrt(law.weights), full_matrices=False)
    rank = min(len(scale), COMBINATIONS)
    share, narrow = share[:, :rank] * scale[:rank], (share[:, :rank] / scale[:rank]).T
    moments = np.einsum("rb,bct,sc,t->rst", narrow, pairs, narrow, strength, optimize=True)
    weight = np.concatenate([gamma * law.fractions, [1.0 - gamma]])
    mixed = np.einsum("b,br,bs->rsb", weight, share, share)
    resolvent = np.concatenate([of_class, rest[None]])
    squared = np.zeros((len(law.fractions),) * 2)
    # z' in the upper half plane, then in the lower one. The real part is symmetric in z and z': every pair once.
    k, other = np.triu_indices(len(g))
    share_of_pair = np.where(k == other, 2.0, 4.0) * measure[k] * measure[other]
    for far, seen in ((one, resolvent), (np.conj(one), np.conj(resolvent))):
        matrix = _between(one, far, moments)[:, :, k, other].transpose(2, 0, 1)
        average = _between(resolvent.T, seen.T, mixed)[:, :, k, other].transpose(2, 0, 1)
        ladder = np.linalg.solve(np.eye(rank) - matrix @ average, matrix)
        for start in range(0, len(k), BLOCK):
            part = slice(start, start + BLOCK)
            both = (of_class[:, k[part]] * seen[:-1, other[part]]).T[:, :, None] * share[:-1]
            driven = (both @ ladder[part]) * share_of_pair[part, None, None]
            squared += np.tensordot(driven, both, axes=((0, 2), (0, 2))).real
    squared /= 4.0 * math.pi**2
    branches, d_eff = int(law.branch.max()) + 1, law.features
    squared *= gamma / (branches * d_eff)
    powers = np.empty(branches)
    for m in range(branches):
        own = law.branch == m
        f, a, q, e = branches * law.fractions[own], law.readouts[own], overlap[own], squared[np.ix_(own, own)]
        powers[m] = f @ (a**2 * (q**2 + np.diag(e))) + d_eff * (f * a) @ e @ (f * a)
    return powers
