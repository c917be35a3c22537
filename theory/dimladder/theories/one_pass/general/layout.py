"""What state and parameters of the general flow hold, in their order; `code` prints it, `flow` fills it.

State ``y``: block overlaps of two moving vectors (lower triangle, row by row), then of a moving and a fixed one (row by
row), and where teachers drift of two fixed ones (lower triangle), the blocks of each pair side by side; then the
readouts, head by head, where they are trained.
Parameters ``p``: the counts and arrays of `PARAMETERS`, in that order, then the rule of a quadrature.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Units, teachers, directions of means, species, blocks, sources, heads, switches; the first source that is tested;
# outputs; entries that change in time, and the numbers before a quadrature.
COUNTS = ("K", "M", "D", "S", "B", "C", "heads", "switches", "tested", "Y", "entries", "numbers")
# Name in the code -> shape in the counts, () for a number.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "moved": ("entries",),
    "formula": ("entries",),
    "step": (),
    "schedule_at": (),
    "length": ("C",),
    "eta_a": (),
    "kappa_a": (),
    "batch": (),
    "switch_times": ("switches",),
    "chance": ("switches + 1", "C"),
    "share": ("B",),
    "counts": ("B",),
    "s": ("C", "B"),
    "nu": ("C", "D"),
    "label": ("C * Y",),
    "teacher": ("C", "Y * M"),
    "sigma": ("C",),
    "head": ("C", "heads"),
    "mask": ("C", "K"),
    "L": ("V", "V"),
    "P": ("V", "K"),
    "steady_L": ("V", "V"),
    "steady_P": ("V", "K"),
    "fixed": ("F", "F", "B"),
    "stir": ("C", "B"),
    "blur": ("C",),
    "feedback": ("K",),
    "drift": ("F", "F"),
    "walk": ("F", "F", "B"),
    "kick": ("S",),
    "steady_kick": ("S",),
    "readout": ("heads * Y", "K"),
}


def places(counts: dict[str, int]) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Return where each array begins in the parameters, and its shape; ``""`` where they end."""
    return _places(tuple(counts.items()))


@lru_cache(maxsize=256)
def _places(counts: tuple[tuple[str, int], ...]) -> dict[str, tuple[int, tuple[int, ...]]]:
    sizes = dict(counts)
    sizes |= {"V": sizes["S"] * sizes["K"], "F": sizes["M"] + sizes["D"]}
    out, place = {}, len(COUNTS)
    for name, shape in PARAMETERS.items():
        wanted = tuple(eval_size(size, sizes) for size in shape)
        out[name] = place, wanted
        place += math.prod(wanted)
    return out | {"": (place, ())}


def values(counts: dict[str, int], arrays: dict[str, Any]) -> Array:
    """Return the parameter vector, but for the rule of a quadrature."""
    where = places(counts)
    parts = [np.array([float((counts | {"numbers": where[""][0]})[name]) for name in COUNTS])]
    for name, (_, wanted) in where.items():
        if not name:
            continue
        array = np.asarray(arrays[name], dtype=float)
        assert array.shape == wanted, f"{name} is {array.shape}, {wanted} is needed"
        parts.append(array.ravel())
    return np.concatenate(parts)


def eval_size(text: str, sizes: dict[str, int]) -> int:
    """Return a size written as a sum of products of counts."""
    return sum(
        math.prod(sizes[factor] if factor in sizes else int(factor) for factor in part.split(" * "))
        for part in text.split(" + ")
    )
