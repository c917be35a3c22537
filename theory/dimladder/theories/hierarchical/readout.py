"""Stage 3: regression of the label on the learned feature s, standardised, in a basis of degree m.

Bases, orthonormal under the law of s: ``hermite`` polynomials h_0..h_m; ``rank``, Legendre polynomials of the rank
Phi(s), and ``clip``, polynomials of s clipped at +-2.5, whose leverages are bounded. With b = E[psi f*], e = E[y | s] -
b.psi, v = Var(y | s) and base = E Var(f* | s) + E e^2, a ridge fit on n labels has

    error = base + |G^-1 (sum (e + v^(1/2) xi) psi - n lam b)|^2,  G = sum psi psi^T + n lam,

sums over the labels of the fit. `ReadoutLaw.fits` draws them (Poisson counts on bins of s);
`ReadoutLaw.leave_one_out` is the deterministic equivalent, between the median and the mean. Hermite polynomials have
their mass out to |s| = sqrt(4 m + 2), which n labels reach for n >= e^(2m + 1) only: before that, rare designs carry
the mean, and the median is what one fit gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError
from ...numerics.quadrature import gauss_normal, hermite_values
from ...numerics.scalars import ndtr
from .analysis import LinkAnalysis

Array = NDArray[np.float64]
DESIGNS = 1000
# Standard deviations at which the clipped basis ends.
CLIP = 2.5
# Bins of the learned feature.
BINS = 1500


def basis_values(basis: str, s: Array, degree: int) -> Array:
    """Return psi_0..psi_m at s, shape (degree + 1, len(s)): orthonormal for a standard normal s, but for ``clip``."""
    if basis != "rank":
        return hermite_values(s if basis == "hermite" else np.clip(s, -CLIP, CLIP), degree)

    return legendre_values(np.asarray(ndtr(s)), degree)


def legendre_values(rank: Array, degree: int) -> Array:
    """Return sqrt(2j + 1) L_j(2 u - 1) of the rank u, shape (degree + 1, len(u)): orthonormal for a uniform rank."""
    columns = np.polynomial.legendre.legvander(2.0 * rank - 1.0, degree)
    return np.asarray((columns * np.sqrt(2.0 * np.arange(degree + 1) + 1.0)).T)


def classical_from(basis: str, degree: int) -> float:
    """Return the number of labels from which the error is its 1/n law: e^(2m + 1) (Hermite), 3 (m + 1)^2 (rank), 16
    (m + 1)^2 (clip).
    """
    if basis == "hermite":
        return math.exp(2 * degree + 1)
    return (3.0 if basis == "rank" else 16.0) * (degree + 1) ** 2


@dataclass(frozen=True)
class FiniteFit:
    """Error of fits on n labels, label noise not included: the middle one of many, and the band of 80 % of them."""

    median: float
    low: float
    high: float
    mean: float


@dataclass(frozen=True)
class ReadoutLaw:
    """Joint law of the standardised feature and the label, on bins of the feature.

    Attributes
    ----------
    weights : (bins,) array
        Probabilities.
    psi : (degree + 1, bins) array
        Basis, orthonormal under the weights.
    mean, variance : (bins,) arrays
        E[f* | s] and Var(f* | s).
    noise : float
        Standard deviation of the label noise.
    """

    weights: Array
    psi: Array
    mean: Array
    variance: Array
    noise: float

    @property
    def coefficients(self) -> Array:
        """b = E[psi f*]."""
        return self.psi @ (self.weights * self.mean)

    @property
    def population(self) -> float:
        """The error of the best readout of this basis, n = infinity."""
        return float(self.weights @ (self.variance + (self.mean - self.coefficients @ self.psi) ** 2))

    def penalised(self, ridge: float) -> float:
        """Return the error at n = infinity of a fit with penalty lam |b|^2: shrunk by 1/(1 + lam)."""
        return self.population + (ridge / (1.0 + ridge)) ** 2 * float(np.sum(self.coefficients**2))

    def fits(self, samples: float, ridge: float, designs: int = DESIGNS, seed: int = 7) -> FiniteFit:
        """Return the error of a fit on `samples` labels over designs drawn with a fixed seed.

        Raises
        ------
        DomainError
            With fewer than degree + 3 labels and no ridge.
        """
        terms = len(self.psi)
        if samples < terms + 2 and ridge <= 0:
            raise DomainError(
                f"{samples:g} labels are too few for a readout of degree {terms - 1}",
                where="algorithm.third.samples",
                why=f"it has {terms} coefficients; below {terms + 2} labels the error of a fit has no finite spread",
                hint="give more labels, a lower degree, or algorithm.third.ridge",
            )
        if math.isinf(samples):
            value = self.penalised(ridge)
            return FiniteFit(value, value, value, value)
        rng = np.random.default_rng(seed)
        b = self.coefficients
        misfit = self.mean - b @ self.psi
        label_variance = self.variance + self.noise**2
        squares = (self.psi[:, None, :] * self.psi[None, :, :]).reshape(terms * terms, -1)
        excess = np.empty(designs)
        penalty = samples * ridge
        for block in np.array_split(np.arange(designs), max(1, designs // 100)):
            counts = rng.poisson(samples * self.weights, size=(len(block), len(self.weights))).astype(float)
            g = (counts @ squares.T).reshape(-1, terms, terms) + penalty * np.eye(terms)
            # The labels of a bin add up to its count times their mean, and noise.
            noise = np.sqrt(counts * label_variance) * rng.standard_normal(counts.shape)
            pull = (counts * misfit + noise) @ self.psi.T - penalty * b
            # A design that does not determine the fit has an infinite error.
            scale = np.einsum("nii->n", g) / terms
            regular = np.linalg.cond(g / scale[:, None, None]) < 1e13
            inverse = np.zeros_like(g)
            inverse[regular] = np.linalg.inv(g[regular])
            value = np.sum(np.einsum("nij,nj->ni", inverse, pull) ** 2, axis=1)
            excess[block] = np.where(regular, value, np.inf)
        base = self.population
        low, median, high = np.quantile(excess, [0.1, 0.5, 0.9], method="nearest")
        return FiniteFit(base + float(median), base + float(low), base + float(high), base + float(excess.mean()))

    def leave_one_out(self, samples: float, ridge: float = 0.0) -> float:
        """Return the deterministic equivalent of the error on `samples` labels.

        R = (n lam + n E[psi psi^T/x])^-1,  x = 1 + psi^T R psi,  d0 = R (n E[psi e/x] - n lam b),
        C = R (n E[psi psi^T ((e - psi.d0)^2 + v + psi^T C psi)/x^2]) R,  error = base + |d0|^2 + tr C.

        Within a factor .8-1.4 of the median up to degree 4, .5-2.2 up to 7, from about 3 (m + 1) labels.
        """
        psi, w = self.psi, self.weights
        terms = len(psi)
        b = self.coefficients
        misfit = self.mean - b @ psi
        label_variance = self.variance + self.noise**2
        r = np.eye(terms) / (samples * (1.0 + ridge))
        for _ in range(20_000):
            x = 1.0 + np.einsum("ib,ij,jb->b", psi, r, psi)
            new = np.linalg.inv(samples * ridge * np.eye(terms) + samples * (psi * (w / x)) @ psi.T)
            change = float(np.max(np.abs(new - r))) / float(np.max(np.abs(new)))
            r = 0.5 * (r + new)
            if change < 1e-13:
                break
        x = 1.0 + np.einsum("ib,ij,jb->b", psi, r, psi)
        shift = r @ (samples * psi @ (w * misfit / x) - samples * ridge * b)
        square = (misfit - shift @ psi) ** 2 + label_variance
        weight = samples * w / x**2
        # Linear in C: solved exactly, C = R (A + sum_b weight (psi^T C psi) psi psi^T) R.
        outer = (psi[:, None, :] * psi[None, :, :]).reshape(terms * terms, -1)
        kernel = np.kron(r, r) @ ((outer * weight) @ outer.T)
        constant = (r @ ((psi * (weight * square)) @ psi.T) @ r).ravel()
        c = np.linalg.solve(np.eye(terms * terms) - kernel, constant).reshape(terms, terms)
        return self.population + float(np.sum(shift**2)) + float(np.trace(c))


def mehler_law(
    link: LinkAnalysis, correlation: float, basis: str, degree: int, noise: float, nodes: int = BINS
) -> ReadoutLaw:
    """Return the law where the feature h/s and the learned one are jointly normal with this correlation."""
    if basis == "hermite":
        edge = math.sqrt(4.0 * degree + 2.0) + 6.0
    else:
        edge = 9.0
    # Midpoints of narrow cells: designs are drawn on them.
    s: Array = np.asarray((np.arange(nodes) + 0.5) * (2.0 * edge / nodes) - edge, dtype=np.float64)
    weights = np.exp(-(s**2) / 2)
    weights /= weights.sum()
    rho = float(np.clip(correlation, -1.0, 1.0))
    width = math.sqrt(max(0.0, 1.0 - rho**2))
    if width < 1e-7:
        mean = link.function(math.copysign(1.0, rho) * s)
        square = mean**2
    else:
        x, w = gauss_normal((), 80)
        if link.kinks:
            values = np.empty((2, nodes))
            for i, at in enumerate(s):
                x, w = gauss_normal([(k - rho * at) / width for k in link.kinks], 40)
                inside = link.function(rho * at + width * x)
                values[:, i] = w @ inside, w @ inside**2
            mean, square = values
        else:
            inside = link.function(rho * s[:, None] + width * x)
            mean, square = inside @ w, inside**2 @ w
    psi = _orthonormal(basis_values(basis, s, degree), weights)
    return ReadoutLaw(weights, psi, mean, np.maximum(square - mean**2, 0.0), noise)


def sampled_law(learned: Array, label: Array, basis: str, degree: int, noise: float, bins: int = BINS) -> ReadoutLaw:
    """Return the law of draws of the learned feature and of f*, compressed to bins that are finer in the tails."""
    order = np.argsort(learned, kind="stable")
    samples = len(order)
    # Equal mass in the middle, single draws at the ends.
    share = 0.5 - 0.5 * np.cos(np.linspace(0.0, math.pi, bins + 1))
    edges = np.unique(np.round(samples * share).astype(int))
    counts = np.diff(edges)

    def mean(values: Array) -> Array:
        return np.asarray(np.add.reduceat(values[order], edges[:-1]) / counts)

    f = mean(label)
    variance = np.maximum(mean(label**2) - f**2, 0.0)
    weights = counts / samples
    if basis != "rank":
        spread = float(learned.std()) or 1.0
        raw = basis_values(basis, (mean(learned) - float(learned.mean())) / spread, degree)
    else:
        raw = legendre_values((edges[:-1] + edges[1:]) / (2.0 * samples), degree)
    return ReadoutLaw(weights, _orthonormal(raw, weights), f, variance, noise)


def _orthonormal(values: Array, weights: Array) -> Array:
    """Return the basis orthonormalised under the weights, lowest degree first."""
    root = np.sqrt(weights)
    q, r = np.linalg.qr((values * root).T)
    sign = np.where(np.diag(r) < 0, -1.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        back = np.where(root > 0, 1.0 / root, 0.0)
    return np.asarray((q * sign).T * back)


def readout_error(link: LinkAnalysis, correlation: float, degree: int) -> float:
    """Return E[(f* - f)^2] = sum_j c_j^2 (1 - rho^{2j} 1[j <= m]) of the best Hermite readout of degree m, n infinite.

    Parameters
    ----------
    link : LinkAnalysis
        Coefficients c_j = E[g h_j].
    correlation : float
        rho between the true feature h and the learned one, jointly normal.
    degree : int
        m.
    """
    c = link.coefficients[: degree + 1]
    return link.second_moment - float(np.sum(c**2 * correlation ** (2.0 * np.arange(len(c)))))


def rank_readout_error(link: LinkAnalysis, correlation: float, degree: int) -> float:
    """Return the same of the best rank readout: b_j = sum_l c_l rho^l E[psi_j h_l], error = E f*^2 - sum b_j^2."""
    law = mehler_law(link, correlation, "rank", degree, 0.0)
    return link.second_moment - float(np.sum(law.coefficients**2))
