"""Feature moments of a given first layer under each cluster, for the network and for its polynomial model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...problem import Expression, Problem
from ...problem.clusters import Clusters
from ...problem.targets import ClusterLabels
from ...symbolic.hermite_moments import PolynomialModel, profile, series_order

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureMoments:
    """Second moments of features phi = sigma(F x)/sqrt k and labels, cluster by cluster.

    Attributes
    ----------
    omegas : ndarray, shape (K, k, k)
        E[phi phi^T | c], uncentred.
    thetas : ndarray, shape (K, k)
        E[y phi | c].
    means : ndarray, shape (K,)
        E[y | c].
    seconds : ndarray, shape (K,)
        E[y^2 | c].
    """

    omegas: Array
    thetas: Array
    means: Array
    seconds: Array

    def label_variance(self, weights: Array) -> float:
        """Var y over the mixture."""
        return float(weights @ self.seconds - (weights @ self.means) ** 2)


@dataclass(frozen=True)
class LabelLaw:
    """First moments of the labels in each cluster, and their Hermite coefficients on the target field."""

    means: Array
    seconds: Array
    coefficients: Array | None
    fields: tuple[tuple[float, float], ...]


def label_law(problem: Problem, data: Clusters, order: int = 200) -> LabelLaw:
    """Expand the labels in each cluster."""
    target = problem.target
    if isinstance(target, ClusterLabels):
        y = np.array(target.values(data.weights.size))
        return LabelLaw(y, y**2, None, ())
    assert data.target is not None
    fields = tuple(data.field(c, data.target) for c in range(data.weights.size))
    columns = [profile(target.expression, mean, math.sqrt(variance), order) for mean, variance in fields]
    coefficients = np.stack([c.coefficients[:, 0] for c in columns])
    seconds = np.array([c.second[0] for c in columns]) + target.noise**2
    return LabelLaw(coefficients[:, 0].copy(), seconds, coefficients, fields)


def feature_moments(
    problem: Problem,
    data: Clusters,
    first: Array,
    sigma: Expression,
    law: LabelLaw,
    model: PolynomialModel | None = None,
) -> FeatureMoments:
    """Moments of sigma(F x)/sqrt k, or of the polynomial model with its fresh noise.

    Parameters
    ----------
    first : ndarray, shape (k, n)
        The first layer after the step.
    sigma : Expression
        The activation.
    model : PolynomialModel, optional
        Replace sigma by this polynomial plus noise.
    """
    width, clusters = first.shape[0], data.weights.size
    omegas = np.empty((clusters, width, width))
    thetas = np.empty((clusters, width))
    for c in range(clusters):
        sided = data.covariance_times(c, first)
        covariance = sided @ first.T
        mean = first @ data.means[c]
        scale = np.sqrt(np.diag(covariance))
        correlation = covariance / np.multiply.outer(scale, scale)
        np.fill_diagonal(correlation, 0.0)
        largest = float(np.abs(correlation).max(initial=0.0))
        r_target = np.zeros(width)
        if law.coefficients is not None:
            assert data.target is not None
            r_target = (sided @ data.target) / (scale * math.sqrt(law.fields[c][1]))
            largest = max(largest, float(np.abs(r_target).max()))
        order = max(model.degree, 1) if model is not None else series_order(largest, decay=1.5)
        expanded = model.profile(mean, scale, order) if model is not None else profile(sigma, mean, scale, order)
        omega = _mehler(expanded.coefficients, correlation)
        noise = model.noise**2 if model is not None else 0.0
        np.fill_diagonal(omega, expanded.second + noise)
        omegas[c] = omega / width
        if law.coefficients is None:
            thetas[c] = law.means[c] * expanded.mean / math.sqrt(width)
        else:
            powers = np.ones(width)
            total = np.zeros(width)
            for p in range(order + 1):
                total += expanded.coefficients[p] * law.coefficients[c, p] * powers
                powers = powers * r_target
            thetas[c] = total / math.sqrt(width)
    return FeatureMoments(omegas, thetas, law.means, law.seconds)


def _mehler(coefficients: Array, correlation: Array) -> Array:
    """sum_p c_p c_p^T o r^p by Horner's rule, with one work array."""
    top = coefficients.shape[0] - 1
    total = np.multiply.outer(coefficients[top], coefficients[top])
    work = np.empty_like(total)
    for p in range(top - 1, -1, -1):
        total *= correlation
        if np.any(coefficients[p]):
            np.multiply.outer(coefficients[p], coefficients[p], out=work)
            total += work
    return total
