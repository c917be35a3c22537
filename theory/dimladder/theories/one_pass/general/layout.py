"""What state and parameters of the general flow hold, in their order; `code` prints it, `flow` fills it.

State ``y``: block overlaps of two moving vectors (lower triangle, row by row), then of a moving and a fixed one (row by
row), the blocks of each pair side by side; then the readouts, head by head, where they are trained.
Parameters ``p``: the counts and arrays of `PARAMETERS`, in that order, then the rule of a quadrature.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Units, teachers, directions of means, species, blocks, sources, heads; the first source that is tested.
COUNTS = ("K", "M", "D", "S", "B", "C", "heads", "switches", "tested")
# Name in the code -> shape in the counts, () for a number.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "step": (),
    "schedule_at": (),
    "eta_a": (),
    "kappa_a": (),
    "batch": (),
    "switch_times": ("switches",),
    "chance": ("switches + 1", "C"),
    "share": ("B",),
    "counts": ("B",),
    "s": ("C", "B"),
    "nu": ("C", "D"),
    "label": ("C",),
    "teacher": ("C", "M"),
    "sigma": ("C",),
    "head": ("C", "heads"),
    "mask": ("C", "K"),
    "L": ("V", "V"),
    "P": ("V", "K"),
    "steady_L": ("V", "V"),
    "steady_P": ("V", "K"),
    "fixed": ("F", "F", "B"),
    "readout": ("heads", "K"),
}


def values(counts: dict[str, int], arrays: dict[str, Any]) -> Array:
    """Return the parameter vector, but for the rule of a quadrature."""
    parts = [np.array([float(counts[name]) for name in COUNTS])]
    sizes = dict(counts) | {"V": counts["S"] * counts["K"], "F": counts["M"] + counts["D"]}
    for name, shape in PARAMETERS.items():
        wanted = tuple(eval_size(size, sizes) for size in shape)
        array = np.asarray(arrays[name], dtype=float)
        assert array.shape == wanted, f"{name} is {array.shape}, {wanted} is needed"
        parts.append(array.ravel())
    return np.concatenate(parts)


def eval_size(text: str, sizes: dict[str, int]) -> int:
    """Return a size written as a sum of counts."""
    return sum(sizes[part] if part in sizes else int(part) for part in text.split(" + "))
