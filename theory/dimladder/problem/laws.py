"""Laws of initial weights, as text: ``uniform(-1, 1)``, ``normal(0, 1)``, ``rademacher``, ``constant(0.5)``."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ..errors import did_you_mean
from .expressions import Expression

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

# Name -> names of its parameters; those of the law itself are given by `Law`.
LAWS = {"uniform": ("low", "high"), "normal": ("mean", "std"), "rademacher": ("scale",), "constant": ("value",)}
# A normal law is cut where its two tails together hold 8e-11.
TAIL = 6.5


@dataclass(frozen=True)
class Law:
    """The law of one real number.

    Attributes
    ----------
    kind : {"uniform", "normal", "rademacher", "constant"}
    parameters : tuple of float
        Ends; mean and standard deviation; the scale c of +-c; the value.
    """

    kind: str
    parameters: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Expectation."""
        match self.kind:
            case "uniform":
                return (self.parameters[0] + self.parameters[1]) / 2
            case "rademacher":
                return 0.0
            case _:
                return self.parameters[0]

    @property
    def second_moment(self) -> float:
        """Expectation of the square."""
        match self.kind:
            case "uniform":
                low, high = self.parameters
                return (low * low + low * high + high * high) / 3
            case "normal":
                return self.parameters[0] ** 2 + self.parameters[1] ** 2
            case _:
                return self.parameters[0] ** 2

    def atoms(self) -> tuple[tuple[float, float], ...]:
        """Return (value, probability) of a law on finitely many values; empty for a density."""
        match self.kind:
            case "rademacher":
                scale = self.parameters[0]
                return ((-scale, 0.5), (scale, 0.5)) if scale else ((0.0, 1.0),)
            case "constant":
                return ((self.parameters[0], 1.0),)
            case _:
                return ()

    def support(self) -> tuple[float, float]:
        """Return the interval that a quadrature must cover."""
        if self.kind == "uniform":
            return self.parameters[0], self.parameters[1]
        mean, std = self.parameters
        return mean - TAIL * std, mean + TAIL * std

    def density(self, a: Array) -> Array:
        """Density of a law that has one, inside its support."""
        import numpy as np

        if self.kind == "uniform":
            return np.full(a.shape, 1.0 / (self.parameters[1] - self.parameters[0]))
        mean, std = self.parameters
        values: Array = np.exp(-(((a - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
        return values

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Return independent draws."""
        import numpy as np

        match self.kind:
            case "uniform":
                return rng.uniform(self.parameters[0], self.parameters[1], shape)
            case "normal":
                return rng.normal(self.parameters[0], self.parameters[1], shape)
            case "rademacher":
                return np.asarray(self.parameters[0] * (2.0 * rng.integers(0, 2, shape) - 1.0), dtype=np.float64)
            case _:
                return np.full(shape, self.parameters[0])


@lru_cache(maxsize=64)
def law(text: str) -> Law:
    """Read a law; numbers may be written as formulas, ``uniform(-sqrt(3), sqrt(3))``.

    Raises
    ------
    ValueError
        When it is not one; the message says how laws are written.
    """
    how = "write uniform(low, high), normal(mean, std), rademacher, rademacher(scale) or constant(value)"
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        raise ValueError(f"{text!r} is not a law: {how}") from None
    if isinstance(node, ast.Name):
        name, given = node.id, []
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        name, given = node.func.id, node.args
    else:
        raise ValueError(f"{text!r} is not a law: {how}")
    if name not in LAWS:
        raise ValueError(f"unknown law {name!r} in {text!r}: {did_you_mean(name, LAWS)}; {how}")
    values = [_number(argument, text) for argument in given]
    if name == "rademacher" and not values:
        values = [1.0]
    if len(values) != len(LAWS[name]):
        raise ValueError(f"{name} takes {', '.join(LAWS[name])}, got {len(values)} number(s) in {text!r}: {how}")
    if name == "uniform" and not values[0] < values[1]:
        raise ValueError(f"uniform(low, high) needs low < high, got {text!r}")
    if name == "normal" and not values[1] > 0:
        raise ValueError(f"normal(mean, std) needs std > 0, got {text!r}; constant(value) has no scatter")
    return Law(name, tuple(values))


def _number(node: ast.expr, text: str) -> float:
    value = float(Expression(ast.unparse(node), ()).evaluate(math))
    if not math.isfinite(value):
        raise ValueError(f"the numbers of a law must be finite, got {text!r}")
    return value
