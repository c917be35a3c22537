"""Stage 3 at finite d: the readout of the learned feature, fitted on fresh labels and tested on others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dimladder.numerics.quadrature import hermite_values

from ..base import chunks
from .features import Features
from .first_stage import BLOCK
from .target import Realization

# Fresh inputs on which the readout is judged; with third.samples = inf it is fitted there too, (degree + 1)/40000 too
# well.
TEST_SAMPLES = 40_000
# Independent readouts fitted on third.samples labels each: their median is what is reported.
FITS = 25
MOST_LABELS = 2_000_000
# Standard deviations at which a clipped readout ends.
CLIP = 2.5


def third_stage(
    truth: Realization,
    bases: Sequence[Any],
    learned: Sequence[Any],
    features: Features,
    third: Any,
    stream: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the readout of every learned feature on fresh labels, and test it on another set of inputs.

    Returns
    -------
    correlation, error : (rows, second) arrays
        corr(h_hat, h) and E[(f* - f)^2] on `TEST_SAMPLES` inputs: with a finite number of labels the median over
        independent sets of them.
    """
    backend = truth.backend
    xp = backend.xp

    def draw(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        learnt, scalar, clean = [], [], []
        for block in chunks(n, BLOCK):
            x = truth.inputs(block, stream)
            h = truth.features_of(truth.project(x))
            clean.append(backend.to_numpy(truth.link(h)))
            scalar.append(backend.to_numpy(h[0]))
            made = [
                xp.matmul(features(xp.matmul(x, basis)), theta) for basis, theta in zip(bases, learned, strict=True)
            ]
            learnt.append(backend.to_numpy(xp.stack(made, axis=0)))
        joined = np.concatenate(learnt, axis=1), np.concatenate(scalar), np.concatenate(clean)
        return joined[0].astype(float), joined[1].astype(float), joined[2].astype(float)

    test, scalar, wanted = draw(TEST_SAMPLES)
    if math.isinf(third.samples):
        # The population's best readout: fitted to f* on the very samples it is judged by. A fit on other samples,
        # however many, is ruined by the few inputs far out in the tail, where a polynomial of degree 7 is anything.
        sets = [(test, wanted)]
    else:
        n = max(1, round(third.samples))
        fits = int(np.clip(MOST_LABELS // n, 1, FITS))
        train, _, clean = draw(n * fits)
        y = clean + truth.target.noise * stream.standard_normal(n * fits)
        sets = [(train[:, n * s : n * (s + 1)], y[n * s : n * (s + 1)]) for s in range(fits)]
    shape = (len(bases), test.shape[2])
    correlation, error = np.empty(shape), np.empty(shape)
    for i, j in np.ndindex(*shape):
        correlation[i, j] = np.corrcoef(test[i, :, j], scalar)[0, 1]
        standard = standardiser(test[i, :, j], third.basis)
        at = readout_basis(standard(test[i, :, j]), third)
        found = []
        for train, y in sets:
            fit = readout_fit(readout_basis(standard(train[i, :, j]), third), y, third.ridge)
            found.append(float(np.mean((at @ fit - wanted) ** 2)))
        error[i, j] = np.median(found)
    return correlation, error


def standardiser(feature: np.ndarray, basis: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map of a learned feature to what its readout acts on, from unlabelled inputs.

    Hermite, clip: centred and scaled; rank: its rank among the unlabelled inputs, in [-1, 1].
    """
    if basis == "rank":
        known = np.sort(feature)
        return lambda s: 2.0 * (np.searchsorted(known, s) + 0.5) / (len(known) + 1.0) - 1.0
    centre, scale = float(np.mean(feature)), float(np.std(feature)) or 1.0
    return lambda s: (s - centre) / scale


def readout_basis(s: np.ndarray, third: Any) -> np.ndarray:
    """Return the readout's basis functions, shape (samples, degree + 1)."""
    if third.basis == "rank":
        sizes = np.sqrt(2 * np.arange(third.degree + 1) + 1)
        return np.asarray(np.polynomial.legendre.legvander(s, third.degree) * sizes)
    return np.asarray(hermite_values(np.clip(s, -CLIP, CLIP) if third.basis == "clip" else s, third.degree).T)


def readout_fit(basis: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """Return the coefficients of the ridge regression of y on orthonormal functions."""
    if ridge:
        gram = basis.T @ basis / len(y) + ridge * np.eye(basis.shape[1])
        return np.asarray(np.linalg.solve(gram, basis.T @ y / len(y)))
    return np.asarray(np.linalg.lstsq(basis, y, rcond=None)[0])
