"""Numbers of a problem that may change in time: written as a formula in ``t``, the time of the grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .checks import formula
from .expressions import Expression

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["REST", "Moving", "Timed", "Weight", "check_timed", "formulas_in", "own_formulas", "value_at"]

Timed = float | str
# Of the weights of a task one may be what the others leave.
Weight = float | str
REST = "rest"
# Points of a smooth piece at which a formula is held to the range of its number.
POINTS = 65
SLACK = 1e-12


def check_timed(name: str, value: Any, low: float = -math.inf, *, above: bool = False, high: float = math.inf) -> None:
    """Refuse a number outside [low, high] (`above`: low itself too), and a text that is no formula in ``t``."""
    if isinstance(value, str):
        formula(name, value, ("t",))
        return
    if not (low < value if above else low <= value) or not value <= high or not math.isfinite(value):
        raise ValueError(f"{name} must {_range(low, above, high)}, got {value}")


def _range(low: float, above: bool, high: float) -> str:
    if math.isfinite(high):
        return f"lie in {'(' if above else '['}{low:g}, {high:g}]"
    if low == 0.0:
        return "be positive and finite" if above else "be finite and not negative"
    return f"be finite and {'above' if above else 'at least'} {low:g}"


def formulas_in(value: Any) -> Iterator[str]:
    """Yield the texts in a number, a row, or rows of numbers."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Sequence):
        for inner in value:
            yield from formulas_in(inner)


def own_formulas(spec: Any) -> Iterator[tuple[str, str]]:
    """Yield (key, formula) of the numbers of a section that are written as formulas in ``t``."""
    for key in getattr(type(spec), "timed", ()):
        for text in formulas_in(getattr(spec, key)):
            yield key, text


def value_at(value: Timed, t: float = 0.0) -> float:
    """Return a number at time t."""
    import numpy as np

    if not isinstance(value, str):
        return float(value)
    with np.errstate(all="ignore"):
        return float(Expression(value, ("t",)).evaluate(np, t=np.float64(t)))


@dataclass(frozen=True)
class Moving:
    """An entry of an array that changes in time: ``array[index] = formula(t)``; `key` says where it was written."""

    array: str
    index: tuple[int, ...]
    formula: Expression
    key: str

    def values(self, times: Array) -> Array:
        """Return the entry at several times."""
        import numpy as np

        with np.errstate(all="ignore"):
            return np.asarray(self.formula.evaluate(np, t=times), dtype=float) + 0.0 * times

    def held(self, low: float, high: float = math.inf, *, begin: float = 0.0, end: float) -> None:
        """Refuse a formula that leaves its range [low, high] between two times.

        Raises
        ------
        ConfigError
            Naming the key, and a time at which it does; and for a formula that cannot be followed.
        """
        import numpy as np

        from . import schedules

        try:
            ends = [begin, *(stop for stop, _ in schedules.pieces(self.formula.text, begin, end))]
        except ValueError as error:
            raise ConfigError("the formula cannot be followed", where=self.key, why=str(error)) from None
        aside = 1e-12 * (end - begin)
        inner = [np.linspace(a + aside, b - aside, POINTS) for a, b in pairwise(ends)]
        times = np.concatenate([[begin], *inner])
        found = self.values(times)
        wrong = ~np.isfinite(found) | (found < low - SLACK) | (found > high + SLACK)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ConfigError(
                f"the formula {self.formula.text!r} leaves its range", where=self.key,
                why=f"it is {found[at]:.9g} at t = {times[at]:.6g}; it must {_range(low, False, high)}",
            )  # fmt: skip
