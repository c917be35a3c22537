"""Numbers that carry the first two derivatives: a formula is differentiated by evaluating it, without algebra.

Almost everywhere: a kink has the slope of the branch that `where` takes there, |u| and sign(u) that of zero, and no
second derivative holds a delta function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .few_points import FEW_POINTS

if TYPE_CHECKING:
    from .expressions import Expression

__all__ = ["JETS", "Jet", "derivative", "derivatives"]


class Jet:
    """A value with the derivatives in one variable; `second` may be None where it is not asked for."""

    __slots__ = ("first", "second", "value")
    # Arrays on the left leave the operation to this class.
    __array_ufunc__ = None

    def __init__(self, value: Any, first: Any, second: Any = None) -> None:
        self.value, self.first, self.second = value, first, second

    def through(self, value: Any, slope: Any, curvature: Callable[[], Any]) -> Jet:
        """Return f(self) of a function with that value, slope and curvature there."""
        second = None if self.second is None else curvature() * self.first**2 + slope * self.second
        return Jet(value, slope * self.first, second)

    def __neg__(self) -> Jet:
        return Jet(-self.value, -self.first, None if self.second is None else -self.second)

    def __add__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return Jet(self.value + other, self.first, self.second)
        second = None if self.second is None else self.second + other.second
        return Jet(self.value + other.value, self.first + other.first, second)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Jet:
        return self + -other

    def __rsub__(self, other: Any) -> Jet:
        return -self + other

    def __mul__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            second = None if self.second is None else self.second * other
            return Jet(self.value * other, self.first * other, second)
        first = self.value * other.first + self.first * other.value
        if self.second is None:
            return Jet(self.value * other.value, first)
        second = self.value * other.second + 2.0 * self.first * other.first + self.second * other.value
        return Jet(self.value * other.value, first, second)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Jet:
        return self * (other**-1.0 if isinstance(other, Jet) else 1.0 / other)

    def __rtruediv__(self, other: Any) -> Jet:
        return other * self**-1.0

    def __pow__(self, power: Any) -> Jet:
        if isinstance(power, Jet):
            return JETS.exp(power * JETS.log(self))
        p, u = float(power), self.value
        # 0 times an infinite power is no number.
        slope = p * u ** (p - 1.0) if p else 0.0 * u
        return self.through(u**p, slope, lambda: p * (p - 1.0) * u ** (p - 2.0) if p * (p - 1.0) else 0.0 * u)

    def __rpow__(self, base: Any) -> Jet:
        return JETS.exp(self * math.log(base))

    def __lt__(self, other: Any) -> Any:
        return self.value < (other.value if isinstance(other, Jet) else other)

    def __gt__(self, other: Any) -> Any:
        return self.value > (other.value if isinstance(other, Jet) else other)


def _rules(np: Any, name: str, u: Any) -> tuple[Any, Any, Callable[[], Any]]:
    """Return the value of a function, its slope, and its curvature when it is asked for."""
    match name:
        case "exp":
            v = np.exp(u)
            return v, v, lambda: v
        case "log":
            return np.log(u), 1.0 / u, lambda: -1.0 / u**2
        case "sqrt":
            v = np.sqrt(u)
            return v, 0.5 / v, lambda: -0.25 / (v * u)
        case "sin" | "cos":
            v, slope = (np.sin(u), np.cos(u)) if name == "sin" else (np.cos(u), -np.sin(u))
            return v, slope, lambda: -v
        case "sinh" | "cosh":
            v, slope = (np.sinh(u), np.cosh(u)) if name == "sinh" else (np.cosh(u), np.sinh(u))
            return v, slope, lambda: v
        case "tan":
            v = np.tan(u)
            return v, 1.0 + v * v, lambda: 2.0 * v * (1.0 + v * v)
        case "tanh":
            v = np.tanh(u)
            return v, 1.0 - v * v, lambda: -2.0 * v * (1.0 - v * v)
        case "atan":
            slope = 1.0 / (1.0 + u * u)
            return np.arctan(u), slope, lambda: -2.0 * u * slope**2
        case "erf":
            slope = 2.0 / math.sqrt(math.pi) * np.exp(-u * u)
            return _erf(u), slope, lambda: -2.0 * u * slope
        case "softplus":
            slope = 0.5 * (1.0 + np.tanh(0.5 * u))
            return np.logaddexp(0.0, u), slope, lambda: slope * (1.0 - slope)
        case "abs":
            return np.abs(u), np.sign(u), lambda: 0.0 * u
        case "sign":
            return np.sign(u), 0.0 * u, lambda: 0.0 * u
        case _:
            raise NotImplementedError(f"the derivative of {name}")


def _erf(u: Any) -> Any:
    import numpy as np

    if np.size(u) <= FEW:
        return FEW_POINTS.erf(u)
    from scipy.special import erf

    return erf(u)


class _Jets:
    """The functions that formulas know, on jets of NumPy arrays; used as a namespace by `Expression.evaluate`.

    What does not depend on the variable remains an array.
    """

    # Asked for: a function is not written as others, by which its slope at a point would be lost.
    slopes = True

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        import numpy as np

        def function(u: Any) -> Any:
            value, slope, curvature = _rules(np, name, u.value if isinstance(u, Jet) else u)
            return u.through(value, slope, curvature) if isinstance(u, Jet) else value

        return function

    @staticmethod
    def where(condition: Any, a: Any, b: Any) -> Any:
        """Return the jet of the branch that is taken."""
        import numpy as np

        if not isinstance(a, Jet) and not isinstance(b, Jet):
            return np.where(condition, a, b)
        a, b = (v if isinstance(v, Jet) else Jet(v, 0.0, 0.0) for v in (a, b))
        second = None if a.second is None or b.second is None else np.where(condition, a.second, b.second)
        return Jet(np.where(condition, a.value, b.value), np.where(condition, a.first, b.first), second)

    @staticmethod
    def floor(u: Any) -> Any:
        """Return a number: floor is constant almost everywhere."""
        import numpy as np

        return np.floor(u.value if isinstance(u, Jet) else u)


JETS = _Jets()
# Up to here erf is that of `math`: the import of scipy.special would take longer.
FEW = 20_000


def derivative(expression: Expression, variable: str, arrays: dict[str, Any]) -> Any:
    """Return the derivative of a formula in one of its variables, at NumPy arrays."""
    import numpy as np

    given = {name: np.asarray(v, dtype=float) for name, v in arrays.items() if name in expression.variables}
    shape = np.broadcast_shapes(*(np.shape(v) for v in arrays.values()))
    if variable not in given:
        return np.zeros(shape)
    jet = expression.evaluate(JETS, **{**given, variable: Jet(given[variable], 1.0)})
    return np.broadcast_to(jet.first if isinstance(jet, Jet) else 0.0, shape).astype(float)


def derivatives(expression: Expression, x: Any) -> tuple[Any, Any, Any]:
    """Return a formula in x, its derivative and the second one, at a NumPy array."""
    import numpy as np

    jet = expression.evaluate(JETS, x=Jet(x, 1.0, 0.0))
    if not isinstance(jet, Jet):
        jet = Jet(jet, 0.0, 0.0)
    value, first, second = (np.broadcast_to(v, np.shape(x)).astype(float) for v in (jet.value, jet.first, jet.second))
    return value, first, second
