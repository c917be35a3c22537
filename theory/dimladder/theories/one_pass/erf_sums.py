"""Activations as sums of erfs: tanh and everything made of it, with a stated error.

    tanh(x) ~ sum_p v_p erf(b_p x / sqrt 2)

A unit with such an activation is a set of erf units on one field, and a network of them an erf network of tied units,
whose averages are all in closed form. The coefficients minimise the largest error of tanh and (with weight 0.3) of its
slope; each further term is about seven times as accurate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...problem import Expression

Array = NDArray[np.float64]

# Scales b, weights v, largest error of tanh, largest error of its slope.
TANH: tuple[tuple[tuple[float, ...], tuple[float, ...], float, float], ...] = (
    ((1.2128960349,), (0.98658507988,), 1.4e-2, 4.6e-2),
    ((0.905478204274, 1.58631120065), (0.492663441669, 0.506418524706), 9.3e-4, 3.2e-3),
    (
        (0.756429133683, 1.20185938789, 1.87093891561), (0.20167745297, 0.587474346926, 0.210757427229),
        9.2e-5, 3.1e-4,
    ),
    (
        (0.665599648849, 0.989490040268, 1.4502836152, 2.10470698891),
        (0.0808461016258, 0.409358821065, 0.425635277376, 0.0841488342811), 1.2e-5, 3.7e-5,
    ),
    (
        (0.602888290281, 0.854623115886, 1.1989826149, 1.66433356213, 2.30575925534),
        (0.0325611983739, 0.24227046309, 0.43358353563, 0.258101424305, 0.0334818705679), 1.6e-6, 5.1e-6,
    ),
    (
        (0.55622394009, 0.761141157395, 1.03120552223, 1.3880259518, 1.85355398892, 2.48396406726),
        (0.0132504657614, 0.133868414287, 0.34053381989, 0.35493145229, 0.143999869007, 0.013415750513),
        2.4e-7, 7.8e-7,
    ),
    (
        (0.51963111016, 0.692013317487, 0.911631480096, 1.19632808762, 1.5600293904, 2.02418059888, 2.64521412703),
        (0.00544231838668, 0.071309580169, 0.236994199428, 0.34924295814, 0.254797304508, 0.076784251381,
         0.00542935100569), 3.8e-8, 1.3e-7,
    ),
    (
        (0.489930840847, 0.638679814876, 0.822633671439, 1.05648993286, 1.35129643354, 1.71891968826, 2.18066454835,
         2.79265214295),
        (0.00225997318848, 0.0372659037827, 0.154641462242, 0.291455438219, 0.303689160165, 0.168715234587,
         0.0397469213362, 0.00222590058386), 7.3e-9, 2.5e-8,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class ErfMixture:
    """``constant + sum_p weights[p] erf(scales[p] x / sqrt 2)``, with bounds on its errors.

    Attributes
    ----------
    constant : float
    weights, scales : arrays (J,)
    error, slope_error : float
        Largest error of the function and of its derivative, on the whole line.
    """

    constant: float
    weights: Array
    scales: Array
    error: float
    slope_error: float

    @property
    def parameters(self) -> Array:
        """The numbers that the compiled code reads: J, constant, weights, scales."""
        return np.concatenate([[len(self.weights), self.constant], self.weights, self.scales])

    @property
    def exact(self) -> bool:
        """Whether the function is a sum of erfs, not only near one."""
        return self.error == 0.0

    def same_as(self, other: ErfMixture) -> bool:
        """Whether this is the same sum."""
        return bool(np.array_equal(self.parameters, other.parameters))

    def __call__(self, x: Array) -> Array:
        """Return the values at x."""
        from scipy.special import erf

        values = erf(np.multiply.outer(np.asarray(x, dtype=float), self.scales) / math.sqrt(2.0))
        return np.asarray(self.constant + values @ self.weights)


# erf(x / sqrt 2) itself.
PLAIN = ErfMixture(0.0, np.ones(1), np.ones(1), 0.0, 0.0)


@lru_cache(maxsize=256)
def erf_mixture(function: Expression, slope_error: float) -> ErfMixture | None:
    """Write a function as a sum of erfs.

    Parameters
    ----------
    function : Expression in x
        A sum of numbers, c erf(s x), c tanh(s x) and c sigmoid(s x).
    slope_error : float
        The fewest terms are taken whose error in the slope is below this, or the most there are.

    Returns
    -------
    ErfMixture or None
        None for another function.
    """
    terms = function.scaled_terms()
    if terms is None or not all(name in ("", "erf", "tanh", "sigmoid") for _, name, _ in terms):
        return None
    constant = sum(c for c, name, _ in terms if name == "")
    erfs = [(c, s) for c, name, s in terms if name == "erf"]
    tanhs = [(c, s) for c, name, s in terms if name == "tanh"]
    for c, name, s in terms:
        if name == "sigmoid":
            constant += 0.5 * c
            tanhs.append((0.5 * c, 0.5 * s))
    if not erfs and not tanhs:
        return None
    # The slope of c tanh(s x) is c s times as large, and as wrong.
    steep = sum(abs(c * s) for c, s in tanhs)
    scales, weights, error, slope = next((row for row in TANH if steep * row[3] <= slope_error), TANH[-1])
    b = [math.sqrt(2.0) * s for _, s in erfs] + [s * q for _, s in tanhs for q in scales]
    v = [c for c, _ in erfs] + [c * w for c, _ in tanhs for w in weights]
    size = sum(abs(c) for c, _ in tanhs)
    return ErfMixture(constant, np.array(v), np.array(b), size * error, steep * slope)
