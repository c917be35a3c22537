"""The readouts a_i of a level as a law: classes of equal value and their fractions, mean square one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError
from ...numerics.quadrature import gauss_hermite

if TYPE_CHECKING:
    from ...problem import Hierarchical

Array = NDArray[np.float64]
GAUSSIAN_CLASSES = 8


def readout_classes(target: Hierarchical, nodes: int = GAUSSIAN_CLASSES) -> tuple[Array, Array]:
    """Return the distinct values of a_i and their fractions; the mean of a_i^2 is one.

    A given vector is normalised to mean square one and tiled over the features. A Gaussian readout becomes the `nodes`
    points of Gauss-Hermite quadrature (an even number, so that no class has a = 0).
    """
    match target.readout:
        case "ones":
            return np.array([1.0]), np.array([1.0])
        case "rademacher":
            return np.array([1.0, -1.0]), np.array([0.5, 0.5])
        case "gaussian":
            x, w = gauss_hermite(nodes)
            return np.array(x), np.array(w)
        case given:
            values = np.asarray(given, dtype=float)
            values = values / np.sqrt(np.mean(values**2))
            distinct, counts = np.unique(values, return_counts=True)
            return distinct, counts / len(values)


def draw_readout(target: Hierarchical, count: int, rng: np.random.Generator) -> Array:
    """Return the readout vector of one realisation of the target, shape (count,).

    Raises
    ------
    DomainError
        If a given readout is longer than the number of features.
    """
    match target.readout:
        case "ones":
            return np.ones(count)
        case "rademacher":
            return rng.choice([-1.0, 1.0], size=count)
        case "gaussian":
            return rng.standard_normal(count)
        case given:
            values = np.asarray(given, dtype=float)
            if len(values) > count:
                raise DomainError(
                    f"the readout has {len(values)} entries for {count} features",
                    where="target.readout",
                    hint="give a shorter vector (it is repeated over the features), or a larger d",
                )
            return np.resize(values / np.sqrt(np.mean(values**2)), count)
