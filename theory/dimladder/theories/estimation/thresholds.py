"""Sample ratios at which something begins or ends, from the target and the data alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...numerics.scalars import find_minimum, ndtr
from .label_chances import component_chances, panels
from .labels import LabelLaw
from .spectrum import Covariance

Array = NDArray[np.float64]
# Below this minimum, at sample ratios beyond a thousand, the threshold is reported as infinite.
_NEVER = 1e-3


def separability(law: LabelLaw, covariance: Covariance, constant: bool = False) -> float:
    """Largest sample ratio at which samples with labels -1, +1 are linearly separable.

    n/k = 1/min_t E[(xi - t s)_+^2], s = y times the projection of the target field on the features, standardised
    (Candes & Sur 2020). Without a penalty a logistic or hinge fit has no minimiser below it.
    """
    from .observables import field_rule

    z = 1e-13 * float(np.sum(covariance.shares * covariance.eigenvalues))
    rank, _, carried, _ = covariance.resolvents(z)
    # Features that see nothing of the target: labels of chance.
    carried = min(max(carried, 1e-30 * covariance.rho), covariance.rho)
    # Steep separators are resolved by panels that shrink towards the boundary.
    near = np.geomspace(1e-5, 1.0, 11)
    cuts = [c / math.sqrt(carried) for component in law.components for c in component.cuts] or [0.0]
    marks = tuple(float(c + side * d) for c in cuts for d in near for side in (-1.0, 1.0))
    rule = field_rule(law, covariance.rho, 1.0, math.sqrt(carried) * (1.0 - 1e-15), 0.0, marks)

    def cost(t: float, b: float) -> float:
        total = 0.0
        for sign, chance in ((1.0, rule.frequency), (-1.0, 1.0 - rule.frequency)):
            a = sign * (t * rule.omega + b)
            total += float(
                rule.weights @ (chance * ((1 + a**2) * ndtr(-a) - a * np.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)))
            )
        return total

    if constant:
        from scipy.optimize import minimize

        found = minimize(lambda p: cost(p[0], p[1]), np.array([0.3, 0.0]), method="Nelder-Mead",
                         options={"xatol": 1e-10, "fatol": 1e-15, "maxiter": 4000})  # fmt: skip
        best = float(found.fun)
    else:
        # Convex in t, of either sign, and without a minimum where the labels are separable: t = sinh(x) reaches far.
        best = find_minimum(lambda x: cost(math.sinh(x), 0.0), -9.0, 9.0, xtol=1e-11).value
    return math.inf if best < _NEVER else covariance.psi * rank / best


def weak_recovery(law: LabelLaw, rho: float = 1.0, strength: float = 1.0) -> float:
    """Sample ratio at which the target begins to be seen: 0 where E[z | y] is not zero, else 1/E[G^2] of the label.

    G(y) = E[z^2/rho - 1 | y] (Mondelli & Montanari 2019). Infinite where G vanishes.

    Parameters
    ----------
    strength : float
        Sum over the cells of share times (om t/rho)^2: 1 for isotropic inputs.
    """
    mean, gain = label_informations(law, rho)
    if mean > 1e-12:
        return 0.0
    return math.inf if gain < 1e-14 else 1.0 / (gain * strength / rho**2)


@dataclass(frozen=True)
class LabelTable:
    """The law of y, and what y says of the latent field: E[z | y] and G(y) = E[z^2/rho - 1 | y]; on nodes of y."""

    y: Array
    chance: Array
    mean: Array
    gain: Array


def label_informations(law: LabelLaw, rho: float = 1.0) -> tuple[float, float]:
    """E_y[E[z | y]^2]/rho and E_y[G(y)^2]."""
    t = label_table(law, rho)
    return float(t.chance @ t.mean**2) / rho, float(t.chance @ t.gain**2)


def label_table(law: LabelLaw, rho: float = 1.0) -> LabelTable:
    """Tabulate the label: its values, the nodes of z where it is noiseless and even, or a fine grid of densities."""
    if law.discrete:
        return _discrete_table(law, rho)
    only = law.components[0]
    if len(law.components) == 1 and only.outer == 0.0 and only.inner == 0.0:
        # Noiseless and even in z: y fixes z^2.
        x, w = panels({0.0}, 0.1)
        return LabelTable(only.function(math.sqrt(rho) * x), w, np.zeros_like(x), x**2 - 1.0)
    x, w = panels({0.0}, 0.1)
    lo = hi = 0.0
    for c in law.components:
        psi = c.function(math.sqrt(c.variance(rho)) * x)
        reach = 9.0 * math.sqrt(c.outer)
        lo, hi = min(lo, float(psi.min()) - reach), max(hi, float(psi.max()) + reach)
    step = min(math.sqrt(c.outer) for c in law.components) / 6.0
    y = np.linspace(lo, hi, min(int((hi - lo) / step) + 1, 200_001))
    P, A, B = np.zeros(y.size), np.zeros(y.size), np.zeros(y.size)
    for c in law.components:
        sd = math.sqrt(c.variance(rho))
        psi = c.function(sd * x)
        share = c.gain**2 * rho / sd**2
        mean_z, square_z = c.gain * rho / sd * x, share * (x**2 - 1.0)
        for start in range(0, y.size, 2000):
            part = slice(start, start + 2000)
            d = np.exp(-((y[part, None] - psi) ** 2) / (2 * c.outer)) / math.sqrt(2 * math.pi * c.outer)
            P[part] += c.probability * (d @ w)
            A[part] += c.probability * (d @ (w * mean_z))
            B[part] += c.probability * (d @ (w * square_z))
    keep = P > 1e-200
    P, A, B = P[keep], A[keep], B[keep]
    return LabelTable(y[keep], P * (y[1] - y[0]), A / P, B / P)


def _discrete_table(law: LabelLaw, rho: float) -> LabelTable:
    values = law.values
    # Derivatives at zero field of P(y | z ~ N(mu, rho)): E[z 1_y]/rho, and E[(z^2/rho - 1) 1_y]/rho.
    chances = np.zeros(len(values))
    first, second = np.zeros(len(values)), np.zeros(len(values))
    h = 1e-4 * math.sqrt(rho)
    for c in law.components:
        Z, dZ = component_chances(c, np.zeros(1), rho, values)
        _, up = component_chances(c, np.array([h]), rho, values)
        _, down = component_chances(c, np.array([-h]), rho, values)
        chances += c.probability * Z[:, 0]
        first += c.probability * dZ[:, 0]
        second += c.probability * _second(c, rho, values, (up - down)[:, 0] / (2 * h))
    keep = chances > 1e-300
    P = chances[keep]
    return LabelTable(np.array(values)[keep], P, rho * first[keep] / P, rho * second[keep] / P)


def _second(c: Any, rho: float, values: tuple[float, ...], numeric: Array) -> Array:
    """d^2 P(y)/dmu^2 at mu = 0: closed for thresholds."""
    if c.kind != "thresholds":
        return numeric
    import itertools

    s = math.sqrt(c.variance(rho))
    out = np.zeros(len(values))
    for (low, high), label in zip(itertools.pairwise((-math.inf, *c.cuts, math.inf)), c.labels, strict=True):
        ends = []
        for e in (low, high):
            a = e / s
            ends.append(a * math.exp(-a * a / 2) if math.isfinite(a) else 0.0)
        out[values.index(label)] += (ends[0] - ends[1]) / math.sqrt(2 * math.pi) * c.gain**2 / s**2
    if c.flip:
        out = (1 - c.flip) * out + c.flip * out[[values.index(-v) for v in values]]
    return out
