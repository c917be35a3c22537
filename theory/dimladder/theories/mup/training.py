"""The numbers of one training run: what the theory and every simulator of it share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Activation = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Training:
    """Inputs and schedule of a training run.

    Attributes
    ----------
    inputs : (M, d) array
        Training inputs first, then held-out test inputs.
    gram : (M, M) array
        Inner products of the inputs, ``K^x``.
    labels : (M,) array
    samples : int
        Number m of training samples.
    layers : int
        Number L of hidden layers.
    richness : float
        gamma; 1 is muP, gamma -> 0 the lazy limit.
    learning_rates : (T,) array
        eta(t).
    weights : (T, m) array
        p_nu(t): 1/m for a full batch, 1/|B| on a mini-batch and 0 off it.
    activation : callable
        ``h -> (phi(h), phi'(h), phi''(h))``.
    loss, error_signal : callables of the outputs on the first rows
        ``loss(f, y)`` elementwise, and ``-dloss/df`` with the training labels.
    """

    inputs: np.ndarray
    gram: np.ndarray
    labels: np.ndarray
    samples: int
    layers: int
    richness: float
    learning_rates: np.ndarray
    weights: np.ndarray
    activation: Activation
    loss_function: Callable[[np.ndarray, np.ndarray], np.ndarray]
    loss_slope: Callable[[np.ndarray, np.ndarray], np.ndarray]

    @property
    def points(self) -> int:
        """Number M of training and test samples."""
        return len(self.gram)

    @property
    def steps(self) -> int:
        """Number T of times: t = 0..T-1 updates."""
        return len(self.learning_rates)

    def error_signal(self, f: np.ndarray) -> np.ndarray:
        """Return ``Delta = -dloss/df`` on the training samples."""
        return -self.loss_slope(f, self.labels[: self.samples])

    def loss(self, f: np.ndarray, *, test: bool = False) -> np.ndarray:
        """Return the mean loss over the training (or test) samples of outputs of shape ``(..., M)``."""
        part = slice(self.samples, None) if test else slice(0, self.samples)
        return self.loss_function(f[..., part], self.labels[part]).mean(axis=-1)
