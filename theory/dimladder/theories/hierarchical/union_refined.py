"""Stage 2 at finite d_eff: the union of degrees with the fluctuations of the sample norms and what the label knows of
them.

With r_j = |phi_j(z)|^2/D_j and x = 1 + (1/n) sum_j D_j g_j r_j over the law of the learned coordinates z and the label,

    g_j = 1/(lam_j + E[r_j/x]),     (E[U U^T/x] + diag lam) m = E[U y/x],
    noise_p = -E[((f - fbar - m.U)^2 + Delta) (1/n) sum_l D_l r_l dg_l/dlam_p / x^2],
    dg/dlam = J^-1,  J_jl = -[j = l]/g_j^2 + (D_l/n) E[r_j r_l/x^2],
    h_hat = m.U + (sum_p noise_p r_p)^(1/2) xi.

U are unit directions of the feature space along which the estimate has a mean: for each readout class and degree the
sum of h_j(z_i), and the products of two sums over distinct coordinates that the second order of the link brings.
Leaving one sample out gives its fit [m.U + noise + (x - 1) y]/x and with it the normal equations along U;
|th_p|^2 = |m_p|^2 + noise_p is the derivative of the minimum of the loss by lam_p. This project's own; compared with
simulation at d_eff = 10 to 24.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError, SolveError
from .union import Penalties

Array = NDArray[np.float64]
# With more classes of readouts than this, pairs of classes are not told apart.
FEW_CLASSES = 3
# Samples at a time: what is added up stays in the processor's cache.
BLOCK = 4096


def squared_norms(basis: Array) -> Array:
    """Return |phi_j(z)|^2, j = 0..k: sums over |alpha| = j of prod_i h_{alpha_i}(z_i)^2, shape (k + 1, samples).

    Parameters
    ----------
    basis : (k + 1, samples, d_eff) array
        h_0..h_k of every coordinate.
    """
    degree, samples = len(basis) - 1, basis.shape[1]
    total = np.zeros((degree + 1, samples))
    total[0] = 1.0
    for start in range(0, samples, BLOCK):
        part = slice(start, start + BLOCK)
        # One coordinate after the other: the product of the sequences of all, as of polynomials.
        sums = total[:, part]
        for square in np.ascontiguousarray(basis[:, part].transpose(2, 0, 1)) ** 2:
            for j in range(degree, 0, -1):
                for t in range(1, j + 1):
                    sums[j] += sums[j - t] * square[t]
    return total


def directions(
    basis: Array, degrees: tuple[int, ...], readouts: Array, classes: NDArray[np.intp], overlap: Array, parts: list[int]
) -> tuple[Array, NDArray[np.intp]]:
    """Return unit directions U of the feature space, shape (directions, samples), and the position of each's degree.

    For each class of readouts and degree the sum of h_j(z_i); and sums over pairs of distinct coordinates of
    h_l(z_i) h_{j-l}(z_i'), which the label's power has through the second order of the link, and at finite d_eff, by
    O(1/d_eff), through its higher orders. With few classes a pair of classes has its own; with many, the pairs that the
    second order brings are taken with their weights.

    Parameters
    ----------
    basis : (k + 1, samples, d_eff) array
    degrees : tuple of int
        Fitted degrees.
    readouts, classes, overlap : (d_eff,) arrays
        a_i, index of the readout class, and squared overlap q_i of every coordinate.
    parts : list of int
        Degrees of the polynomial P.
    """
    rows, place = [], []
    count = int(classes.max()) + 1
    members = [(classes == c).astype(float) for c in range(count)]
    for p, j in enumerate(degrees):
        for member in members:
            rows.append((basis[j] @ member) / math.sqrt(float(member.sum())))
            place.append(p)
        for first in range(1, j // 2 + 1):
            second = j - first
            if count <= FEW_CLASSES:
                weights = [
                    (members[c], members[e]) for c in range(count) for e in range(c if first == second else 0, count)
                ]
            elif first in parts and second in parts:
                weights = [(readouts * overlap ** (first / 2), readouts * overlap ** (second / 2))]
            else:
                weights = []
            for alpha, beta in weights:
                row = _pair(basis, first, second, alpha, beta)
                if row is not None:
                    rows.append(row)
                    place.append(p)
    return np.array(rows), np.array(place, dtype=np.intp)


def _pair(basis: Array, first: int, second: int, alpha: Array, beta: Array) -> Array | None:
    """Return sum over i != l of alpha_i beta_l h_first(z_i) h_second(z_l), normalised; None where it is empty."""
    size = float((alpha**2).sum() * (beta**2).sum() - (alpha**2) @ beta**2)
    if first == second:
        # Each monomial stands twice.
        size += float((alpha @ beta) ** 2 - (alpha**2) @ beta**2)
    if size <= 1e-12:
        return None
    both = (basis[first] @ alpha) * (basis[second] @ beta) - (basis[first] * basis[second]) @ (alpha * beta)
    return np.asarray(both / math.sqrt(size))


@dataclass(frozen=True)
class Draws:
    """Samples of what stage 2 sees, and of what is to be learned.

    Attributes
    ----------
    label : (samples,) array
        f*, without noise, not centred.
    scalar : (samples,) array
        h.
    norms : (fitted, samples) array
        r_j.
    directions : (directions, samples) array
    place : (directions,) array of int
        Position of the degree of each direction.
    crowding : (fitted,) array
        D_j/n.
    noise : float
        Standard deviation of the label noise.
    """

    label: Array
    scalar: Array
    norms: Array
    directions: Array
    place: NDArray[np.intp]
    crowding: Array
    noise: float


def learned_feature(draws: Draws, penalties: Penalties, extra: Array) -> tuple[Array, float]:
    """Return draws of the learned feature h_hat on fresh inputs, and corr(h_hat, h); `extra` is standard normal.

    Raises
    ------
    DomainError
        Without penalties where the features outnumber the samples.
    SolveError
        If the equations for g do not converge.
    """
    lam = penalties.values
    used = np.flatnonzero(np.isfinite(lam))
    if not len(used):
        return 0.0 * extra, 0.0
    lam, r, w = lam[used], draws.norms[used], draws.crowding[used]
    g = response(lam, r, w)
    x = 1.0 + (w * g) @ r
    inverse = 1.0 / x
    keep = np.isin(draws.place, used)
    u = draws.directions[keep]
    place = np.searchsorted(used, draws.place[keep])
    samples = len(x)
    centred = draws.label - draws.label.mean()
    gram = (u * inverse) @ u.T / samples
    m = np.linalg.solve(gram + np.diag(lam[place]), (u * inverse) @ centred / samples)
    signal = m @ u
    square = inverse**2
    slope = (r * square) @ r.T / samples * w - np.diag(1.0 / g**2)
    dg = np.linalg.inv(slope)
    wrong = (centred - signal) ** 2 + draws.noise**2
    weight = (r * square) @ wrong / samples * w
    noise = np.maximum(-(weight @ dg), 0.0)
    spread = noise @ r
    # The noise of the estimate is independent of h: it enters the correlation by its mean, without its sampling error.
    size = math.sqrt(float(np.var(signal) + np.mean(spread)) * float(np.var(draws.scalar)))
    covariance = float(np.mean((signal - signal.mean()) * draws.scalar))
    return signal + np.sqrt(spread) * extra, covariance / size if size > 0 else 0.0


def response(lam: Array, r: Array, crowding: Array) -> Array:
    """Return g_j = 1/(lam_j + E[r_j/x]), x = 1 + sum_j (D_j/n) g_j r_j, by Newton's method in log g."""
    if float(crowding.sum()) >= 1.0 and np.any(lam <= 0.0):
        raise DomainError(
            "the refined second stage needs positive penalties here", where="algorithm.second.ridge",
            why=f"sum D_j/n = {crowding.sum():.4g}: more features than samples", hint='or order = "leading"',
        )  # fmt: skip
    samples = r.shape[1]
    log_g = -np.log(lam + np.maximum(1.0 - crowding.sum(), 0.05))
    for _ in range(200):
        g = np.exp(log_g)
        inverse = 1.0 / (1.0 + (crowding * g) @ r)
        mean = r @ inverse / samples
        residual = log_g + np.log(lam + mean)
        if float(np.max(np.abs(residual))) < 1e-12:
            return np.asarray(g)
        slope = np.eye(len(g)) - ((r * inverse**2) @ r.T / samples) * (crowding * g) / (lam + mean)[:, None]
        step = np.linalg.solve(slope, residual)
        log_g = log_g - step * min(1.0, 1.0 / float(np.max(np.abs(step))))
    raise SolveError(
        "the response of the second stage did not converge", status="max_iterations",
        why=f"residual {float(np.max(np.abs(residual))):.3g}", hint="give a larger ridge, or more samples",
    )  # fmt: skip
