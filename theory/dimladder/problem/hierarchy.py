"""A hierarchical target as numbers: sizes of its levels, coefficients of its polynomials, draws of its readouts.

Theories and experiments read these; what either makes of them is its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..errors import DomainError
from .expressions import hermite_scale

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .spec import Coefficients
    from .targets import Hierarchical

    Array = NDArray[np.float64]


def effective_dimension(d: int, exponent: float) -> int:
    """Return floor(d^exponent), the number of features of a level; exact when the power is a whole number."""
    return max(1, math.floor(d**exponent + 1e-9))


def orthonormal_coefficients(coefficients: Coefficients, convention: str) -> Array:
    """Return the coefficients of P on orthonormal Hermite polynomials, index = degree."""
    import numpy as np

    out = np.zeros(max(coefficients) + 1)
    for degree, value in coefficients.items():
        # h_j = He_j / sqrt(j!), so c s_j He_j = c s_j sqrt(j!) h_j.
        out[degree] = value * hermite_scale(degree, convention) * math.sqrt(math.factorial(degree))  # type: ignore[arg-type]
    return np.trim_zeros(out, "b")


def draw_readout(target: Hierarchical, count: int, rng: np.random.Generator) -> Array:
    """Return the readout vector of one realisation of the target, shape (count,), mean square one.

    Raises
    ------
    DomainError
        If a given readout is longer than the number of features.
    """
    import numpy as np

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
