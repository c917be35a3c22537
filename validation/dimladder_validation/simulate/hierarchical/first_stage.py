"""Stage 1 at finite d: labels, transformed and centred, and the subspace that their covariance with x x^T shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dimladder.problem import Expression

from ..base import chunks
from .target import Realization, leading_eigenvectors

BLOCK = 8192
# Inputs on which properties of the label's law are measured.
PILOT_SAMPLES = 400_000
PILOT_BINS = 400


@dataclass(frozen=True)
class CentredLabel:
    """T(y) - E T of labels y: what the first stage weights its samples with.

    Attributes
    ----------
    transform : callable
        T, elementwise on NumPy arrays.
    mean : float
        E T.
    """

    transform: Callable[[np.ndarray], np.ndarray]
    mean: float

    def __call__(self, y: np.ndarray) -> np.ndarray:
        return self.transform(y) - self.mean


def centred_label(
    truth: Realization, text: str, stream: np.random.Generator, channel: int = 1
) -> tuple[CentredLabel, tuple[float, float]]:
    """Return T(y) - E T, and E f*^2 with E y^2, all from a pilot sample of the target's own features.

    The optimal transform, E[h | y] or for the second channel E[h^2 - E h^2 | y], is an average over bins of equal
    numbers of labels.
    """
    z = stream.standard_normal((PILOT_SAMPLES, truth.target.branches, truth.features))
    h = [truth.backend.to_numpy(v).astype(float) for v in truth.features_of(truth.backend.asarray(z))]
    y = np.asarray(truth.target.expression.evaluate(np, **dict(zip(truth.target.link_variables, h, strict=True))))
    y = y + 0.0 * h[0]
    clean = float(np.mean(y**2))
    if truth.target.noise:
        y = y + truth.target.noise * stream.standard_normal(len(y))
    null = clean, float(np.mean(y**2))
    if text != "optimal":
        expression = Expression("y" if text == "identity" else text, ("y",))

        def transform(label: np.ndarray) -> np.ndarray:
            return np.asarray(expression.evaluate(np, y=label), dtype=float) + 0.0 * label

        return CentredLabel(transform, float(transform(y).mean())), null
    order = np.argsort(y, kind="stable")
    # Equal labels must not be told apart: bins end where the label changes.
    edges = np.linspace(0, len(y), PILOT_BINS + 1).astype(int)[1:-1]
    starts = np.unique(np.concatenate([[0], np.searchsorted(y[order], y[order][edges], side="left")]))
    counts = np.diff([*starts, len(y)])
    labels = np.add.reduceat(y[order], starts) / counts
    wanted = h[0] if channel == 1 else h[0] ** 2 - np.mean(h[0] ** 2)
    means = np.add.reduceat(wanted[order], starts) / counts
    return CentredLabel(lambda label: np.interp(label, labels, means), float(counts @ means) / len(y)), null


def spectral_subspaces(
    truth: Realization, label: CentredLabel, counts: Sequence[float], stream: np.random.Generator
) -> list[np.ndarray]:
    """Return, for each sample count, the d_eff leading eigenvectors of (1/n) sum (T(y) - E T) (x x^T - I).

    Parameters
    ----------
    truth : Realization
    label : CentredLabel
    counts : sequence of float
        Samples; infinite gives the true directions.
    stream : Generator

    Returns
    -------
    list of (d, d_eff) arrays
    """
    backend, xp, d = truth.backend, truth.backend.xp, truth.d
    rank = truth.features * truth.target.branches
    result: list[np.ndarray] = [truth.directions.reshape(-1, d).T.copy() for _ in counts]
    finite = sorted((int(n), i) for i, n in enumerate(counts) if math.isfinite(n))
    moment, total, done = backend.zeros((d, d)), 0.0, 0
    for n, i in finite:
        for block in chunks(n - done, BLOCK):
            x = truth.inputs(block, stream)
            t = backend.asarray(label(precise_labels(truth, x, stream)))
            moment = moment + xp.matmul(xp.permute_dims(x, (1, 0)) * t, x)
            total += float(xp.sum(t))
        done = n
        if n == 0:
            result[i] = np.linalg.qr(stream.standard_normal((d, rank)))[0]
            continue
        matrix = (backend.to_numpy(moment).astype(float) - total * np.eye(d)) / n
        result[i] = leading_eigenvectors(matrix, rank)
    return result


def precise_labels(truth: Realization, x: Any, stream: np.random.Generator) -> np.ndarray:
    """Return labels with the link evaluated in float64: a saturating link loses in float32 what T* undoes."""
    names = truth.target.link_variables
    h = [truth.backend.to_numpy(v).astype(float) for v in truth.features_of(truth.project(x))]
    y = np.asarray(truth.target.expression.evaluate(np, **dict(zip(names, h, strict=True)))) + 0.0 * h[0]
    return y + truth.target.noise * stream.standard_normal(len(y)) if truth.target.noise else y
