"""The readouts a_i of a level as a law: classes of equal value and their fractions, mean square one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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
