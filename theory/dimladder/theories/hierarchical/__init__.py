"""Hierarchical Gaussian targets: the staircase, the first layer in time, layer-wise learning with constants."""

from typing import Final

# Axis -> (its text, its unit), of every theory of this package.
COORDINATES: Final = {
    "first_ratio": (r"$n_1/(d\,d_{\mathrm{eff}})$", ""), "second_ratio": ("$n_2/D_k$", ""),
    "second_samples": ("$n_2$", ""), "kappa": (r"$\kappa=\log n/\log d$", ""),
}  # fmt: skip
