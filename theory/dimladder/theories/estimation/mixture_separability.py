"""Where a mixture stops being linearly separable: the edge of existence of unpenalised logistic and hinge fits.

By Gordon's comparison (Candes & Sur 2020 for a target, Deng et al. 2022 and Mignacco et al. 2020 for mixtures; one
Gaussian matrix for each cluster where covariances differ) samples = alpha d are separable, with probability tending to
one, if and only if some w and b satisfy, for every cluster c of weight rho_c,

    sqrt(alpha rho_c E[(sqrt(q_c - M_c^2) xi - y (m_c + b + M_c z))_+^2]) <= t_c,    t_c = -h_c.Sigma_c^(1/2) w/sqrt d,

h_c standard normal vectors, xi and the standardised target field z normal, q_c = w.Sigma_c w, M_c the covariance of w.x
with z. The best w lies in the span of the Sigma_c^(1/2) h_c and of the frame, block by block: finitely many numbers.
With one common covariance the conditions add up to

    1/alpha* = min E[(...)_+^2] / sum_c t_c^2,

an unconstrained convex problem; labels that do not depend on the inputs give Cover's alpha* = 2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import SolveError
from ...numerics.scalars import ndtr
from .labels import LabelLaw
from .observables import field_rule

if TYPE_CHECKING:
    from .mixture_question import MixtureQuestion

Array = NDArray[np.float64]
# Below this minimum, at sample ratios beyond a thousand, the threshold is reported as infinite.
_NEVER = 1e-3
# Marks of the quadrature about a cut of the label: steep separators are resolved.
_NEAR = np.geomspace(1e-5, 1.0, 11)


def positive_part_square(scale: Array, shift: Array) -> Array:
    """E[(scale xi - shift)_+^2], xi ~ N(0, 1)."""
    a = shift / scale
    return scale**2 * ((1.0 + a * a) * ndtr(-a) - a * np.exp(-0.5 * a * a) / math.sqrt(2 * math.pi))


def _rule(law: LabelLaw) -> tuple[Array, Array, Array]:
    """Nodes of the standardised target field with a label each: z, y, weight."""
    from ...numerics.quadrature import gauss_normal

    if len(law.values) == 1:
        return np.zeros(1), np.array(law.values), np.ones(1)
    if all(c.kind == "thresholds" and c.gain and not c.inner for c in law.components):
        # Without noise inside, the label is constant between the cuts.
        rows = []
        for component in law.components:
            z, weight = gauss_normal(list(component.cuts), 48)
            y = np.array(component.labels)[np.searchsorted(component.cuts, z)]
            for sign, chance in ((1.0, 1.0 - component.flip), (-1.0, component.flip)):
                if chance:
                    rows.append((z, sign * y, component.probability * chance * weight))
        z, y, weight = (np.concatenate(part) for part in zip(*rows, strict=True))
        return z, y, weight
    cuts = [c / component.gain for component in law.components if component.gain for c in component.cuts]
    marks = tuple(float(c + side * d) for c in cuts for d in _NEAR for side in (-1.0, 1.0))
    rule = field_rule(law, 1.0, 1.0, 1.0 - 1e-15, 0.0, marks)
    keep = np.concatenate([rule.weights * rule.frequency, rule.weights * (1.0 - rule.frequency)])
    z, y = np.tile(rule.omega, 2), np.repeat([1.0, -1.0], rule.omega.size)
    used = keep > 1e-22
    return z[used], y[used], keep[used]


class _Cells:
    """Bulk groups and frame cells: what w is made of, and the overlaps it has."""

    def __init__(self, question: MixtureQuestion) -> None:
        g = question.geometry
        self.shares = np.array(g.shares)
        self.kinds = np.array(g.kinds)
        # Eigenvalues by cluster and group; a cell is a frame direction within a group.
        self.eigen = np.array([g.eigen[k] for k in g.kinds])
        directions, groups = len(g.coordinates[0]), self.shares.size
        self.size = directions * groups
        extra = np.array([g.kind_spikes[k] for k in g.kinds]).reshape(len(g.kinds), directions)
        self.cell_eigen = (self.eigen[:, None, :] + extra[:, :, None]).reshape(len(g.kinds), self.size)
        self.cell_share = np.tile(self.shares, directions)
        rows = np.array(g.coordinates).reshape(len(g.kinds), directions)
        self.means = np.repeat(rows, groups, axis=1)
        teacher = np.repeat(np.array(g.teacher or [0.0] * directions), groups)
        spread = np.array([math.sqrt(g.teacher_field(c)[1]) if g.teacher else 1.0 for c in range(len(g.kinds))])
        self.teacher = teacher / spread[:, None]

    def overlaps(self, s: Array) -> tuple[Array, Array, Array]:
        """Mean, frame part of the variance and target overlap, by cluster, of frame coordinates s (cells)."""
        weighed = self.cell_share * s
        along = np.sum(self.cell_eigen * self.teacher * weighed, axis=1)
        return self.means @ weighed, self.cell_eigen @ (weighed * s), along


def separability_threshold(question: MixtureQuestion) -> float:
    """Largest separable sample ratio alpha*; infinite where the samples are separable at any.

    Raises
    ------
    SolveError
        If the minimisation fails.
    """
    cells, rho = _Cells(question), np.array(question.problem.data.weights)
    rules = [_rule(law) for law in question.laws]
    bias = bool(question.problem.student.bias)

    def losses(q: Array, mean: Array, overlap: Array) -> Array:
        """E[(...)_+^2] by cluster."""
        out = np.empty(rho.size)
        for c, (z, y, weight) in enumerate(rules):
            scale = math.sqrt(max(q[c] - overlap[c] ** 2, 1e-300))
            out[c] = weight @ positive_part_square(np.full(z.size, scale), y * (mean[c] + overlap[c] * z))
        return out

    best = _common(cells, rho, bias, losses) if cells.kinds.max() == 0 else _different(cells, rho, bias, losses)
    return math.inf if best < _NEVER else 1.0 / best


def _common(cells: _Cells, rho: Array, bias: bool, losses: object) -> float:
    """min over (s, b) at sum_c t_c^2 = 1."""
    from scipy.optimize import minimize

    size = cells.size + int(bias)

    # With one covariance, and w scaled so that its bulk part has variance 1.
    def value(theta: Array) -> float:
        mean, part, overlap = cells.overlaps(theta[: cells.size])
        shift = theta[cells.size] if bias else 0.0
        return float(rho @ losses(1.0 + part, mean + shift, overlap))  # type: ignore[operator]

    if size == 0:
        return value(np.zeros(0))
    # Convex; from zero, and from a step, in case the start is on a flat.
    results = [minimize(value, np.full(size, x), method="BFGS", options={"gtol": 1e-9}) for x in (0.0, 0.3)]
    best = min(float(r.fun) for r in results)
    if not math.isfinite(best):
        raise SolveError("the separability threshold could not be computed", status="failed")
    return best


def _different(cells: _Cells, rho: Array, bias: bool, losses: object) -> float:
    """min over w of max_c rho_c E_c/t_c^2, by sequential quadratic programming in the epigraph."""
    from scipy.optimize import minimize

    clusters, groups = cells.eigen.shape
    bulk = clusters * groups
    used = rho > 0.0

    def parts(theta: Array) -> tuple[Array, Array]:
        """t and sqrt(rho E) by cluster, both of degree one in w."""
        # w = sum_c a_cg Sigma_c^(1/2) h_c in group g: the h_c are independent.
        a = theta[:bulk].reshape(clusters, groups)
        t = (cells.shares * cells.eigen * a).sum(axis=1)
        q = cells.eigen @ (cells.shares * (a * a * cells.eigen).sum(axis=0))
        mean, part, overlap = cells.overlaps(theta[bulk : bulk + cells.size])
        shift = theta[bulk + cells.size] if bias else 0.0
        return t[used], np.sqrt(rho * losses(q + part, mean + shift, overlap))[used]  # type: ignore[operator]

    def room(x: Array) -> Array:
        t, norms = parts(x[:-1])
        return np.asarray(x[-1] * t - norms)

    theta = np.concatenate([np.ones(bulk), np.full(cells.size + int(bias), 0.05), [0.0]])
    # The scale of w is free: sum_c t_c = 1, a linear condition.
    row = np.zeros(theta.size)
    row[:bulk] = np.where(used[:, None], cells.shares * cells.eigen, 0.0).ravel()
    theta /= float(row @ theta)
    t, norms = parts(theta[:-1])
    theta[-1] = np.max(norms / t)
    last = np.zeros(theta.size)
    last[-1] = 1.0
    best = math.inf
    for _ in range(3):
        found = minimize(
            lambda x: x[-1],
            theta,
            jac=lambda x: last,
            constraints=[
                {"type": "ineq", "fun": room},
                {"type": "eq", "fun": lambda x: row @ x - 1.0, "jac": lambda x: row},
            ],
            bounds=[(None, None)] * (theta.size - 1) + [(0.0, None)],
            method="SLSQP",
            options={"ftol": 1e-13, "maxiter": 1000},
        )
        theta, before = found.x, best
        t, norms = parts(theta[:-1])
        if np.all(t > 0):
            best = min(best, float(np.max(norms / t)))
        if best > before * (1.0 - 1e-8):
            break
    if not math.isfinite(best):
        raise SolveError("the separability threshold could not be computed", status="failed", why=str(found.message))
    return best**2
