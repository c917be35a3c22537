"""What a linear readout sees of its inputs: a spectrum with the target's power, seen through layers of random features.

Everything that matters of Gaussian inputs with covariance Om (k features) and a target field z = theta.a/sqrt(p) is the
list of eigenvalues om_j of Om, the squared covariances T_j = (u_j . Cov(b, z))^2 of its eigendirections with z, and
rho = E z^2: the functions g(z) = (1/k) sum_j om_j/(om_j + z) and h(z) = sum_j T_j/(om_j + z) hold all of it. The part
of z that no feature carries, rho - sum_j T_j/om_j, acts as noise inside the field.

A layer sigma(W x/sqrt k') of k = psi k' random units turns (g, h) of its input into its own through one scalar root;
exact as the widths grow, for any depth (Gaussian equivalence: Gerace et al. 2020, Hu & Lu 2023, Schroeder et al. 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import DomainError
from ...numerics.quadrature import gauss_hermite

Array = NDArray[np.float64]
# Eigenvalues of a measured covariance below this share of their mean are taken for zero.
_EIGENVALUE_FLOOR = 1e-14
_HIDDEN_FLOOR = 1e-8
# Offsets of the units under an uncentred layer: Gauss-Hermite nodes.
_OFFSET_NODES = 64


@dataclass(frozen=True)
class LayerLaw:
    """A layer of random units: its linear gains a and remainders b (nodes of the units' offsets), E activation.

    Where `passed` > 0 it hands its inputs on, times sqrt(passed), beside its psi units an input.
    """

    psi: float
    shares: Array
    a: Array
    b: Array
    variance: float
    offset: float
    passed: float = 0.0

    @property
    def ratio(self) -> float:
        """Features of this layer over those of the one below."""
        return self.psi + (1.0 if self.passed > 0.0 else 0.0)

    @property
    def uncentred(self) -> bool:
        """Whether the mean of the features over inputs is not zero."""
        return self.offset > 1e-14 * (self.variance + self.offset)


@dataclass(frozen=True)
class Covariance:
    """A spectrum with powers, and the layers above it.

    Attributes
    ----------
    shares, eigenvalues, powers : ndarray, shape (cells,)
        Fraction of the dimensions, eigenvalue, squared covariance with the target field.
    rho : float
        Variance of the target's latent field.
    layers : tuple of LayerLaw
    width : float
        Features over input dimension, before the layers (1 for the inputs themselves).
    mean : bool
        Whether the inputs have means of their own, so that without layers the readout has a constant at no cost.
    bulk : float
        Total variance, over k, of features that no other sample shares: they answer to a force on a sample's own field
        (V grows by bulk/ridge) and predict nothing.
    """

    shares: Array
    eigenvalues: Array
    powers: Array
    rho: float
    layers: tuple[LayerLaw, ...] = ()
    width: float = 1.0
    mean: bool = False
    bulk: float = 0.0
    _guess: Array = field(default_factory=lambda: np.zeros(5), repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.hidden < -_HIDDEN_FLOOR * self.rho:
            raise DomainError(
                "the features predict more of the target field than it holds",
                where=f"sum T/om = {self.rho - self.hidden:.9g}, rho = {self.rho:.9g}",
                why="a covariance triple must be positive semidefinite",
            )

    @property
    def hidden(self) -> float:
        """Variance of the target field that no linear function of the inputs carries."""
        return self.rho - float(np.sum(self.powers / self.eigenvalues))

    @property
    def psi(self) -> float:
        """Features of the last layer over the input dimension."""
        return self.width * math.prod(layer.ratio for layer in self.layers)

    @property
    def free_constant(self) -> bool:
        """Whether the last layer's mean direction gives the readout a constant at no cost."""
        return self.layers[-1].uncentred if self.layers else self.mean

    def arrays(self) -> tuple[Array, Array]:
        """Rows of `numerics.resolvents`: starts and layers."""
        starts, rows = [0.0], []
        for layer in self.layers:
            rows.append((layer.psi, layer.passed, 0.0))
            rows += list(zip(layer.shares, layer.a, layer.b, strict=True))
            starts.append(float(len(rows)))
        return np.array(starts), np.array(rows, dtype=float).reshape(-1, 3)

    def resolvents(self, z: float) -> tuple[float, float, float, float]:
        """Return g, g', h, h' at z > 0; NaN where the layers' root is not found."""
        from ...numerics.resolvents import resolvents

        starts, layers = self._rows
        if not resolvents.compiled(z, self.shares, self.eigenvalues, self.powers, starts, layers, self._guess):
            return math.nan, math.nan, math.nan, math.nan
        g, dg, h, dh = (float(a) for a in self._guess[:4])
        return g, (dg - g) / z, h, (dh - h) / z

    @property
    def _rows(self) -> tuple[Array, Array]:
        kept: tuple[Array, Array] | None = self.__dict__.get("_kept")
        if kept is None:
            kept = self.arrays()
            object.__setattr__(self, "_kept", kept)
        return kept


def spectrum(shares: ArrayLike, eigenvalues: ArrayLike, power: ArrayLike | None = None, rho: float = 1.0) -> Covariance:
    """Return the covariance of inputs with a given spectrum.

    Parameters
    ----------
    shares, eigenvalues : array, shape (cells,)
        Fractions of the dimensions (sum 1) and eigenvalues.
    power : array, shape (cells,), optional
        Relative share of |w*|^2 in each cell; proportional to the fractions by default.
    rho : float
        Variance of the latent field; it sets the scale of w*.
    """
    p, om = np.asarray(shares, dtype=float), np.asarray(eigenvalues, dtype=float)
    t = p if power is None else np.asarray(power, dtype=float)
    # E z^2 = sum of om times the cell's share of |w*|^2/d.
    t = t * (rho / float(np.sum(om * t)))
    return Covariance(p, om, om**2 * t, rho)


def triple(omega: ArrayLike, phi: ArrayLike, psi: ArrayLike, teacher: ArrayLike, dimension: int) -> Covariance:
    """Return the covariance of measured features.

    Parameters
    ----------
    omega : array, shape (k, k)
        E b b^T of the student's features.
    phi : array, shape (p, k)
        E a b^T of the teacher's features with the student's.
    psi : array, shape (p, p)
        E a a^T.
    teacher : array, shape (p,)
        theta, with z = theta.a/sqrt p.
    dimension : int
        d in sample_ratio = n/d.

    Raises
    ------
    DomainError
        When the shapes do not fit, an entry is not finite, or the triple is no covariance.
    """
    given = {"omega": omega, "phi": phi, "psi": psi, "teacher": teacher}
    om, ph, ps, theta = (np.asarray(x, dtype=float) for x in given.values())
    theta = theta.ravel()
    k, p = om.shape[0] if om.ndim else 0, theta.size
    if om.shape != (k, k) or ph.shape != (p, k) or ps.shape != (p, p):
        raise DomainError(
            "the covariances do not fit each other",
            where=f"omega {om.shape}, phi {ph.shape}, psi {ps.shape}, teacher {theta.shape}",
            why="with k student and p teacher features they are (k, k), (p, k), (p, p) and (p,)",
        )
    for name, array in zip(given, (om, ph, ps, theta), strict=True):
        key = f"student.covariances.{name}"
        if not np.all(np.isfinite(array)):
            raise DomainError("a covariance has entries that are not finite", where=key)
        if name in ("omega", "psi"):
            # What accumulates over the samples of an estimate, and no more.
            if not np.allclose(array, array.T, rtol=1e-6, atol=1e-8 * float(np.max(np.abs(array)))):
                raise DomainError("a covariance is not symmetric", where=key)
            lowest = float(np.linalg.eigvalsh(array)[0])
            if lowest < -1e-8 * abs(float(np.trace(array))) or np.trace(array) <= 0.0:
                why = f"its smallest eigenvalue is {lowest:.3g}"
                raise DomainError("a covariance is not positive semidefinite", where=key, why=why)
    if not theta @ ps @ theta > 0.0:
        raise DomainError("the target is zero: it has no variance", where="student.covariances.teacher")
    values, vectors = np.linalg.eigh((om + om.T) / 2)
    along = (vectors.T @ (ph.T @ theta)) ** 2 / p
    keep = values > _EIGENVALUE_FLOOR * np.trace(om) / k
    return Covariance(
        np.full(int(keep.sum()), 1.0 / k), values[keep], along[keep], float(theta @ ps @ theta) / p, width=k / dimension
    )


def through_layers(base: Covariance, activations: list[Any], ratios: list[float]) -> Covariance:
    """Return the covariance of random features on top of `base`.

    Parameters
    ----------
    activations : list of Expression in x
    ratios : list of float
        psi_l = k_l/k_{l-1}.
    """
    from ...symbolic.hermite_moments import profile

    # Centred variance of the input of a unit, and the variance over units of its offset.
    r, offset = float(np.sum(base.shares * base.eigenvalues)), 0.0
    layers: list[LayerLaw] = []
    for sigma, psi in zip(activations, ratios, strict=True):
        if offset > 0.0:
            x, w = gauss_hermite(_OFFSET_NODES)
            keep = w > 1e-17
            shifts, shares = math.sqrt(offset) * x[keep], w[keep] / w[keep].sum()
        else:
            shifts, shares = np.zeros(1), np.ones(1)
        expanded = profile(sigma, shifts, math.sqrt(r), 1)
        mean, linear = expanded.coefficients[0], expanded.coefficients[1]
        a = linear**2 / r
        b = expanded.second - mean**2 - linear**2
        # Rounding leaves a remainder of a linear unit, and a mean of an odd one.
        b = np.where(b > 1e-14 * expanded.second, b, 0.0)
        new_r, new_offset = float(shares @ (r * a + b)), float(shares @ mean**2)
        if new_offset < 1e-24 * (new_r + new_offset):
            new_offset = 0.0
        if not new_r > 0.0:
            raise DomainError("a layer of features is constant", where=f"activation {sigma.text!r}")
        r, offset = new_r, new_offset
        layer = LayerLaw(psi, shares, a, b, r, offset)
        if np.all(a <= 1e-26 * (r + offset)):
            # No unit has a linear part: features are independent noise, whose strengths are the units' own.
            keep = b > 0.0
            width = base.width * math.prod(below.psi for below in (*base.layers, *layers)) * psi
            base = Covariance(shares[keep], b[keep], np.zeros(int(keep.sum())), base.rho, (), width, layer.uncentred)
            layers = []
        else:
            layers.append(layer)
    return replace(base, layers=(*base.layers, *layers), _guess=np.zeros(5))


def tangent(base: Covariance, text: str, psi: float, readout_variance: float) -> Covariance:
    """Return the features of a network at its start, one for each weight: its units, and what moves with first weights.

    The kernel (1/n1) sum_j [s(h_j) s(h'_j) + a_j^2 s'(h_j) s'(h'_j) x.x'/d], a_j of variance `readout_variance` and s
    centred, acts as that of the units, of the inputs times sqrt(readout_variance) E s', and of a bulk
    readout_variance Var s' E |x|^2/d that no two samples share (Adlam & Pennington 2020).

    Parameters
    ----------
    text : str
        Activation; continuous.
    psi : float
        Units over input dimension.
    """
    from ..ntk_ridge import moments

    r = float(np.sum(base.shares * base.eigenvalues))
    _, rest, gain2, bend = moments(text, math.sqrt(r))
    # Fields are sums over k = (psi + 1) d features, over sqrt k.
    up = (psi + 1.0) / psi
    passed = readout_variance * gain2 * (psi + 1.0)
    layer = LayerLaw(psi, np.ones(1), np.array([up * gain2]), np.array([up * rest]), r * gain2 + rest, 0.0, passed)
    return replace(base, layers=(layer,), bulk=readout_variance * bend * r, _guess=np.zeros(5))
