"""Where a mixture stops being linearly separable: the edge of existence of unpenalised logistic and hinge fits.

Separability is invariant under linear maps, so that one common covariance may be whitened away. By Gordon's comparison
(Candes & Sur 2020 for a teacher, Deng et al. 2022 and Mignacco et al. 2020 for mixtures) samples = alpha d are
separable
with probability tending to one if and only if alpha < alpha*,

    1/alpha* = min_{t, b} E[(xi sqrt(1 + |t_rest|^2) - y (t.mu' + b + t_nu n))_+^2],

t the weights on the whitened frame, n the standardised teacher field, xi ~ N(0, 1); labels that do not depend on the
inputs give Cover's alpha* = 2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ...errors import SolveError
from ...problem import Problem
from ...problem.mixtures import MixtureGeometry, mixture_geometry
from ...problem.targets import ClusterLabels

Array = NDArray[np.float64]
# Below this minimum the threshold is beyond any sample ratio of interest, and reported as infinite.
_NEVER = 1e-7


def positive_part_square(scale: Array, shift: Array) -> Array:
    """E[(scale xi - shift)_+^2], xi ~ N(0, 1)."""
    from scipy.special import ndtr

    a = shift / scale
    return scale**2 * ((1.0 + a * a) * ndtr(-a) - a * np.exp(-0.5 * a * a) / math.sqrt(2 * math.pi))


def whitened(geometry: MixtureGeometry) -> tuple[Array, Array]:
    """Means (clusters x cells) and teacher (cells) after whitening; a cell is a frame direction within a bulk group."""
    shares = np.array(geometry.shares)
    directions = len(geometry.coordinates[0])
    eigen = np.array(
        [[geometry.eigen[0][g] + geometry.kind_spikes[0][j] for g in range(shares.size)] for j in range(directions)]
    )
    stretch = np.sqrt(shares / eigen).ravel() if directions else np.zeros(0)
    rows = np.array(geometry.coordinates).reshape(len(geometry.kinds), directions)
    means = np.repeat(rows, shares.size, axis=1) * stretch
    direction = np.repeat(np.array(geometry.teacher or [0.0] * directions), shares.size)
    return means, direction * np.sqrt(shares * eigen).ravel() if directions else np.zeros(0)


def separability_threshold(problem: Problem) -> float | None:
    """Largest separable sample ratio alpha*, or None where no formula is known (covariances that differ).

    Raises
    ------
    SolveError
        If the convex minimisation fails.
    """
    from scipy.optimize import minimize

    from ...numerics.quadrature import gauss_normal

    geometry = mixture_geometry(problem)
    if max(geometry.kinds) > 0:
        return None
    means, teacher = whitened(geometry)
    rho = np.array(problem.data.weights)
    cells, bias = means.shape[1], problem.student.bias
    if not geometry.teacher:
        labels = np.array((problem.target or ClusterLabels()).values(rho.size))

        def value(theta: Array) -> float:
            scale = math.sqrt(1.0 + float(theta[:cells] @ theta[:cells]))
            shift = labels * (means @ theta[:cells] + (theta[cells] if bias else 0.0))
            return float(rho @ positive_part_square(np.full(rho.size, scale), shift))
    else:
        if geometry.binary is None:
            return None
        first, cuts = geometry.binary
        length = float(np.linalg.norm(teacher))
        unit = teacher / length
        rules = []
        for c in range(rho.size):
            centre = float(means[c] @ teacher)
            n, w = gauss_normal([(t - centre) / length for t in cuts], 48)
            crossed = np.sum((centre + length * n)[:, None] > np.array(cuts), axis=1)
            rules.append((n, w, first * (-1.0) ** crossed))

        def value(theta: Array) -> float:
            t, offset = theta[:cells], theta[cells] if bias else 0.0
            along = float(t @ unit)
            scale = math.sqrt(1.0 + float(t @ t) - along**2)
            total = 0.0
            for c, (n, w, y) in enumerate(rules):
                shift = y * (float(means[c] @ t) + offset + along * n)
                total += float(rho[c]) * float(w @ positive_part_square(np.full(n.size, scale), shift))
            return total

    size = cells + int(bias)
    if size == 0:
        return 2.0
    # Convex in (t, b); from zero, and from a step towards the labels, in case the start is on a flat.
    results = [minimize(value, np.full(size, start), method="BFGS", options={"gtol": 1e-9}) for start in (0.0, 0.3)]
    best = min(results, key=lambda r: r.fun)
    if not np.isfinite(best.fun):
        raise SolveError("the separability threshold could not be computed", status="failed", why=str(best.message))
    return math.inf if best.fun < _NEVER else 1.0 / float(best.fun)
