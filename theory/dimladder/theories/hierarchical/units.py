"""Stage 2 by the theorem's step: one preconditioned gradient step of p units with random weights on the learned space.

With rows of W uniform on the unit sphere and Z = sigma(W z) - E sigma,

    h_hat(z) = Z(z)^T (Z^T Z/n + lam)^{-1} Z^T (y - ybar)/n,

is ridge regression on p random features. Their kernel has the eigenvalue e_j = sigma_j^2/D_j on the D_j polynomials of
degree j, sigma_j the orthonormal Hermite coefficients of sigma; all degrees count, as a ridge to the lower ones. With
T_i(nu) = sum_j D_j (e_j/(e_j + nu))^i,

    nu_1 = nu (1 - T_1(nu)/p),   (n - T_1(nu)) nu_1 = n lam/p,   A_j = e_j/(e_j + nu),
    |h_hat|^2 = E (f - h_hat)^2 - sum_j F_j + 2 sum_j A_j F_j,   rho = c_1 sum_j A_j V_j/|h_hat|,

f the part of the label with degrees up to `HIGHEST`, the mean squared error as of `ridge.random_feature_ridge`. Where
readouts have a mean, h overlaps with the trace sum_i (z_i^2 - 1), whose eigenvalue is larger: sigma_2^2/d_eff.

`UnitTask.leading` takes F_j and V_j as d_eff -> infinity. `DrawnUnits` measures them on draws at the actual d_eff, and
makes the learned feature on the same draws: mean part along what the label holds, noise with the sample
norms. The error of the readout then starts from the null error at that d_eff. This project's own; compared with
simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...numerics.quadrature import gauss_normal, hermite_values
from ...numerics.scalars import find_minimum
from ...problem import Expression
from ...problem.activations import activation
from .analysis import LinkAnalysis
from .ridge import random_feature_gain, random_feature_ridge
from .union import feature_count, label_power

Array = NDArray[np.float64]
HIGHEST = 40  # degrees of the kernel that are kept; what is above them is noise
NO_POWER = 1e-15


@dataclass(frozen=True)
class UnitTask:
    """What the units have to learn of a label, by eigenspace of their kernel.

    Attributes
    ----------
    multiplicity, eigenvalue : (HIGHEST + 1,) arrays
        Of the trace, or the harmonics of degree 0; then of degrees 1..HIGHEST.
    power : (HIGHEST + 1,) array
        Power of the label in each.
    covariance : (HIGHEST + 1,) array
        The same of its product with h/s: what is correlated with the feature.
    variance : float
        Var y, label noise included.
    """

    multiplicity: Array
    eigenvalue: Array
    power: Array
    covariance: Array
    variance: float

    @classmethod
    def leading(
        cls, link: LinkAnalysis, noise: float, shares: Array, trace: float, d_eff: int, sigma: Array
    ) -> UnitTask:
        """Return the task at leading order.

        Parameters
        ----------
        link : LinkAnalysis
        noise : float
            Standard deviation of the label noise.
        shares : (k + 1,) array
            V_j, index = degree.
        trace : float
            The fraction of V_2 that lies along the trace: <a q>^2/<a^2 q^2>.
        d_eff : int
        sigma : (HIGHEST + 1,) array
            Of `hermite_coefficients`.
        """
        known = np.zeros(HIGHEST + 1)
        known[: len(shares)] = shares
        slope = float(link.coefficients[1])
        power, seen = label_power(link, known), known.copy()
        power[0], seen[0] = slope**2 * known[2] * trace, known[2] * trace
        power[2] -= power[0]
        seen[2] -= seen[0]
        count = np.array([float(feature_count(d_eff, j)) for j in range(HIGHEST + 1)])
        eigenvalue = sigma**2 / count
        eigenvalue[0] = sigma[2] ** 2 / d_eff
        # The trace is one of the polynomials of degree 2.
        eigenvalue[2] *= (1.0 - 1.0 / d_eff) * count[2] / (count[2] - 1.0)
        count[2] -= 1.0
        variance = link.second_moment - float(link.coefficients[0]) ** 2 + noise**2
        return cls(count, eigenvalue, power, slope * seen, variance)


@dataclass(frozen=True)
class UnitState:
    """Order parameters of the estimate.

    Attributes
    ----------
    gain : (HIGHEST + 1,) array
        A of each eigenspace, as in `UnitTask`.
    spread : (HIGHEST + 1,) array
        Fraction of the estimate's noise in each, in proportion to its multiplicity times A^2.
    norm : float
        |h_hat|^2.
    error : float
        Expected squared error on a fresh label, label noise included.
    correlation : float
        corr(h_hat, h).
    """

    gain: Array
    spread: Array
    norm: float
    error: float
    correlation: float


def hermite_coefficients(text: str) -> Array:
    """Return sigma_j, j = 0..HIGHEST, the orthonormal Hermite coefficients of an activation in ``x``."""
    sigma: Expression = activation(text)
    x, weights = gauss_normal(tuple(sigma.kinks("x")) or (0.0,), 400)
    values = np.asarray(sigma.evaluate(np, x=x), dtype=float) + 0.0 * x
    return np.asarray(hermite_values(x, HIGHEST) @ (weights * values))


def unit_state(task: UnitTask, n: float, units: int, ridge: float) -> UnitState:
    """Return the order parameters of p = `units` units on n samples at penalty lam = `ridge`."""
    kept = task.eigenvalue > NO_POWER * float(np.max(task.eigenvalue))
    # What is above the highest degree, and a degree that sigma does not have, are noise to the estimate.
    rest = max(task.variance - float(task.power.sum()), 0.0) + float(task.power[~kept].sum())
    multiplicity, eigenvalue = task.multiplicity[kept], task.eigenvalue[kept]
    strength = n * ridge / units
    found = random_feature_ridge(multiplicity, eigenvalue, task.power[kept], rest, n, float(units), strength)
    gain = np.zeros_like(task.power)
    gain[kept] = random_feature_gain(multiplicity, eigenvalue, n, float(units), strength)
    norm = found.error - float(task.power[kept].sum()) + 2.0 * float(gain @ task.power)
    correlation = float(gain @ task.covariance) / math.sqrt(norm) if norm > 0 else 0.0
    spread = task.multiplicity * gain**2
    size = float(spread.sum())
    return UnitState(gain, spread / size if size > 0 else spread, norm, found.error + rest, correlation)


def best_state(task: UnitTask, n: float, units: int) -> UnitState:
    """Return the state at the ridge of the smallest error on a fresh label."""

    def state(log_ridge: float) -> UnitState:
        return unit_state(task, n, units, math.exp(log_ridge))

    # Penalties below and above what any unit can tell apart.
    scale = math.log(units / n)
    grid = scale + np.linspace(-14.0, 10.0, 49)
    best = int(np.argmin([state(float(v)).error for v in grid]))
    low, high = float(grid[max(0, best - 1)]), float(grid[min(len(grid) - 1, best + 1)])
    return state(find_minimum(lambda v: state(v).error, low, high).x)


@dataclass(frozen=True)
class DrawnUnits:
    """The task and the estimate on draws at the actual d_eff.

    Attributes
    ----------
    label, scalar : (samples,) arrays
        f* and h.
    profile : (HIGHEST + 1, samples) array
        b_l(|z|), of `radial_profile`; b_0 less its mean.
    functions : (functions, samples) array
        Orthonormal eigenfunctions of the kernel along which the label has a mean.
    place : (functions,) array of int
        Degree l of each.
    d_eff : int
    chance : bool
        Random readouts, whose draws here are balanced: 1/d_eff of the second degree lies along the trace by chance.
    """

    label: Array
    scalar: Array
    profile: Array
    functions: Array
    place: NDArray[np.intp]
    d_eff: int
    chance: bool

    @classmethod
    def of(
        cls, z: Array, label: Array, scalar: Array, profile: Array, members: Array, degree: int, chance: bool
    ) -> DrawnUnits:
        """Return the eigenfunctions for draws of the learned coordinates.

        Parameters
        ----------
        z : (samples, d_eff) array
        label, scalar : (samples,) arrays
        profile : (HIGHEST + 1, samples) array
        members : (classes, d_eff) array
            Indicators of the classes of readouts.
        degree : int
            k; above degree 4 nothing is measured.
        chance : bool
        """
        samples, d_eff = z.shape
        profile = profile.copy()
        profile[0] -= profile[0].mean()
        square = np.sum(z**2, axis=1)
        found, place = [], []
        for l in range(min(degree, 4) + 1):
            rows = harmonics(z, members, l) * (profile[l] / square ** (l / 2))
            values, vectors = np.linalg.eigh(rows @ rows.T / samples)
            kept = values > 1e-6 * max(float(values.max()), 1e-300)
            found.append((vectors[:, kept].T @ rows) / np.sqrt(values[kept])[:, None])
            place += [l] * int(kept.sum())
        return cls(label, scalar, profile, np.concatenate(found), np.array(place, dtype=np.intp), d_eff, chance)

    def _held(self, values: Array) -> Array:
        return np.asarray(self.functions @ (values - values.mean()) / len(values))

    def _by_degree(self, first: Array, second: Array) -> Array:
        total = np.bincount(self.place, first * second, minlength=HIGHEST + 1)
        moved = total[2] / self.d_eff if self.chance else 0.0
        total[0] += moved
        total[2] -= moved
        return np.asarray(total)

    def task(self, leading: UnitTask, noise: float) -> UnitTask:
        """Return the task; above the measured degrees the leading powers stand, shrunk to what is left here."""
        held, with_h = self._held(self.label), self._held(self.scalar) / float(self.scalar.std())
        power, covariance = self._by_degree(held, held), self._by_degree(held, with_h)
        variance, top = float(np.var(self.label)), int(self.place.max()) + 1
        beyond = float(leading.power[top:].sum())
        left = max(variance - float(power.sum()), 0.0)
        power[top:] = leading.power[top:] * (min(1.0, left / beyond) if beyond > 0 else 0.0)
        d = self.d_eff
        count = np.array([
            float(feature_count(d, l) - (feature_count(d, l - 2) if l > 1 else 0)) for l in range(HIGHEST + 1)
        ])  # fmt: skip
        eigenvalue = np.mean(self.profile**2, axis=1) / count
        return UnitTask(count, eigenvalue, power, covariance, variance + noise**2)

    def feature(self, state: UnitState, extra: Array) -> Array:
        """Return draws of the learned feature; `extra` is standard normal."""
        gain = state.gain[self.place]
        if self.chance:
            gain = np.where(self.place == 2, gain + (state.gain[0] - gain) / self.d_eff, gain)
        mean = gain * self._held(self.label)
        square = self.profile**2
        spread = state.spread @ (square / np.maximum(square.mean(axis=1), 1e-300)[:, None])
        noise = max(state.norm - float(mean @ mean), 0.0)
        return np.asarray(mean @ self.functions + np.sqrt(noise * spread) * extra)


def harmonics(z: Array, members: Array, degree: int) -> Array:
    """Return harmonic polynomials of z that are symmetric within each class: of degree 0 the constant alone.

    Sums over a class, and over two of them, of z_i^p z_m^q, i != m, p + q = degree, less their part along |z|^2:
    H = P - |z|^2 Delta P/(2 (d + 2 degree - 4)), exact up to degree 3, at degree 4 up to O(1/d^2).
    """
    if degree == 0:
        return np.ones((1, len(z)))
    d = z.shape[1]
    power = [members @ (z.T**p) for p in range(degree + 1)]
    size = members.sum(axis=1)[:, None]
    square = np.sum(z**2, axis=1)
    reduce = square / (2.0 * (d + 2 * degree - 4)) if degree > 1 else square

    def laplacian(p: int) -> Array:
        # Of sum_i z_i^p over each class.
        return np.asarray(p * (p - 1) * (power[p - 2] if p > 2 else size) if p > 1 else 0.0 * power[p])

    rows = [power[degree] - reduce * laplacian(degree)]
    classes = range(len(members))
    for p in range(1, degree // 2 + 1):
        q = degree - p
        for c in classes:
            for e in classes if p != q else range(c, len(members)):
                value = power[p][c] * power[q][e]
                bent = laplacian(p)[c] * power[q][e] + power[p][c] * laplacian(q)[e]
                if c == e:
                    value = value - power[degree][c]
                    # Delta of sum_{i != m} z_i^p z_m^q: the terms i = m of both sums are taken out.
                    low = power[degree - 2][c] if degree > 2 else size[c]
                    bent = bent - (p * (p - 1) + q * (q - 1)) * low
                rows.append((value - reduce * bent)[None])
    return np.concatenate(rows)


def radial_profile(text: str, d_eff: int, norms: Array) -> Array:
    """Return b_j(|z|) = E[sigma(|z| t) C_j(t)], j = 0..HIGHEST, t one coordinate of the unit sphere of d_eff
    dimensions.

    C_j are its orthonormal (Gegenbauer) polynomials. sigma(w.z) averaged over w against a harmonic of degree j of w is
    that harmonic of z/|z| times b_j(|z|): units do not make polynomials, except where b_j grows like |z|^j.

    Parameters
    ----------
    text : str
        Activation.
    d_eff : int
    norms : (samples,) array
        |z|^2/d_eff.
    """
    from scipy.special import roots_jacobi

    sigma = activation(text)
    nodes, weights = roots_jacobi(600, 0.5 * (d_eff - 3), 0.5 * (d_eff - 3))
    weights = weights / weights.sum()
    # t C_j = a_{j+1} C_{j+1} + a_j C_{j-1}, a_j^2 = j (j + 2 c - 1)/(4 (j + c)(j + c - 1)), c = d_eff/2 - 1.
    c = max(0.5 * d_eff - 1.0, 1e-9)
    size = [math.sqrt(j * (j + 2 * c - 1) / (4 * (j + c) * (j + c - 1))) for j in range(1, HIGHEST + 1)]
    basis = [np.ones_like(nodes), nodes / size[0]]
    for j in range(1, HIGHEST):
        basis.append((nodes * basis[j] - size[j - 1] * basis[j - 1]) / size[j])
    polynomials = np.array(basis)
    grid = np.linspace(0.0, float(np.sqrt(norms.max() * d_eff)) * 1.001, 200)
    fields = grid[:, None] * nodes
    values = np.asarray(sigma.evaluate(np, x=fields), dtype=float) + 0.0 * fields
    table = (values * weights) @ polynomials.T
    at = np.sqrt(norms * d_eff)
    return np.array([np.interp(at, grid, column) for column in table.T])
