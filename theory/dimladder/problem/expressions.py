"""Formulas written by users, such as ``tanh(x - 0.3) - 0.7912*x``: parsed and checked, never passed to `eval`.

One parse serves every use: arrays of any Array-API namespace (`evaluate`), exact algebra (`sympy`), and the printed
numba source that the code generator makes from the latter.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

from .grammar import CONSTANTS, FUNCTIONS, check_size, hermite_degree, parse

HermiteConvention = Literal["orthonormal", "probabilists", "factorial"]

LEAKY_SLOPE = 0.01


class Expression:
    """A checked formula in named variables.

    Parameters
    ----------
    text : str
        Python syntax with ``**`` or ``^`` for powers. Functions: those of `FUNCTIONS`, in formulas of the time ``t``
        also `TIME_FUNCTIONS`; ``HeN(u)`` is the Hermite polynomial of degree N.
    variables : tuple of str, or str ending in ``*``
        Names the formula may use. ``"z*"`` allows ``z1, z2, ...``, alone or in a tuple.
    hermite : {"orthonormal", "probabilists", "factorial"}
        Meaning of ``HeN``: ``He_N/sqrt(N!)``, ``He_N`` (leading coefficient 1), or ``He_N/N!``.

    Raises
    ------
    ValueError
        For anything that is not such a formula; the message says what is allowed.
    """

    __slots__ = ("_tree", "hermite", "text", "variables")

    def __init__(
        self, text: str, variables: tuple[str, ...] | str = ("x",), hermite: HermiteConvention = "probabilists"
    ) -> None:
        self.text = text
        self.hermite = hermite
        self._tree, found = parse(text, variables)
        check_size(self._tree, text, found, lambda name, values: _at_numbers(name, values, hermite))
        self.variables = tuple(sorted(found, key=_natural))

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and (self.text, self.hermite) == (other.text, other.hermite)

    def __hash__(self) -> int:
        return hash((self.text, self.hermite))

    @property
    def tree(self) -> ast.expr:
        """The checked syntax tree."""
        return self._tree

    def evaluate(self, xp: Any, **arrays: Any) -> Any:
        """Evaluate on arrays of the namespace `xp` (NumPy, torch through array-api-compat, ...), elementwise."""
        return _evaluate(self._tree, xp, arrays, self.hermite)

    def sympy(self, **symbols: Any) -> Any:
        """Return the formula as a sympy expression; variables become real symbols unless given in `symbols`."""
        import sympy as sp

        names = {name: symbols.get(name, sp.Symbol(name, real=True)) for name in self.variables}
        return _to_sympy(self._tree, names, self.hermite)

    def derivative(self, variable: str = "x") -> Callable[..., Any]:
        """Return a NumPy function of the same keyword variables for the first derivative (almost everywhere)."""
        from .jets import derivative

        return lambda **arrays: derivative(self, variable, arrays)

    def kinks(self, variable: str = "x") -> tuple[float, ...]:
        """Return the points where the formula, as a function of the one `variable`, is not smooth.

        The argument of every kinked function must be affine in the variable; otherwise `ValueError`.
        """
        return _sorted_kinks(self, variable)

    def scaled_terms(self, variable: str = "x") -> list[tuple[float, str, float]] | None:
        """Write the formula as a sum of numbers times functions of multiples of one variable.

        Returns
        -------
        list of (coefficient, name, slope), or None
            ``coefficient * name(slope * variable)``; a number has the name "" and slope 0. None for another formula.
        """
        try:
            return _scaled_terms(self._tree, variable, self)
        except _NotScaled:
            return None

    def kink_planes(self) -> list[tuple[tuple[float, ...], float]]:
        """Return the planes ``a . z = c`` on which the formula is not smooth, as pairs (a, c).

        Of those kinked functions whose argument is affine in the variables; `a` is in the order of `variables`.
        """
        return [plane for call in _kinked_calls(self._tree) if (plane := _plane(*call, self)) is not None]

    def kinks_are_planes(self) -> bool:
        """Return whether `kink_planes` are all the places where the formula is not smooth."""
        return all(_plane(*call, self) is not None for call in _kinked_calls(self._tree))


@lru_cache(maxsize=1024)
def _sorted_kinks(formula: Expression, variable: str) -> tuple[float, ...]:
    return tuple(sorted(set(_kinks(formula.tree, variable, formula))))


def _natural(name: str) -> tuple[str, int]:
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0)


def hermite_scale(degree: int, convention: HermiteConvention) -> float:
    """Return the factor by which the convention multiplies the monic Hermite polynomial of that degree."""
    scales = {"orthonormal": 1 / math.sqrt(math.factorial(degree)), "probabilists": 1.0}
    return scales.get(convention, 1 / math.factorial(degree))


def _hermite(xp: Any, degree: int, u: Any, convention: HermiteConvention) -> Any:
    low, high = 0.0 * u + 1.0, u
    if degree == 0:
        return low
    for k in range(1, degree):
        low, high = high, u * high - k * low
    return hermite_scale(degree, convention) * high


def _evaluate(node: Any, xp: Any, arrays: dict[str, Any], hermite: HermiteConvention) -> Any:
    match node:
        case ast.Constant():
            return _plain(node.value)
        case ast.Name():
            return arrays[node.id] if node.id in arrays else CONSTANTS[node.id]
        case ast.UnaryOp():
            value = _evaluate(node.operand, xp, arrays, hermite)
            return -value if isinstance(node.op, ast.USub) else value
        case ast.BinOp():
            a = _evaluate(node.left, xp, arrays, hermite)
            b = _evaluate(node.right, xp, arrays, hermite)
            match node.op:
                case ast.Add():
                    return _plain(a + b)
                case ast.Sub():
                    return _plain(a - b)
                case ast.Mult():
                    return _plain(a * b)
                case ast.Div():
                    return a / b
                case _:
                    return _plain(float(a) ** b if isinstance(a, int) else a**b)
    arguments = [_evaluate(a, xp, arrays, hermite) for a in node.args]
    name = node.func.id
    if all(isinstance(a, int | float) for a in arguments):
        return _at_numbers(name, arguments, hermite)
    degree = hermite_degree(name)
    if degree is not None:
        return _hermite(xp, degree, arguments[0], hermite)
    return _apply(name, xp, arguments)


def _plain(value: Any) -> Any:
    """Return a number that any array can be multiplied by: integers beyond 2^53 have no room in it."""
    return float(value) if isinstance(value, int) and abs(value) > 2**53 else value


def _at_numbers(name: str, values: Sequence[float], hermite: HermiteConvention) -> float:
    import numpy as np

    degree = hermite_degree(name)
    arrays = [np.asarray(float(v)) for v in values]
    with np.errstate(all="ignore"):
        return float(_apply(name, np, arrays) if degree is None else _hermite(np, degree, arrays[0], hermite))


def _apply(name: str, xp: Any, arguments: list[Any]) -> Any:
    u = arguments[0]
    match name:
        case "relu":
            return xp.where(u > 0, u, 0.0 * u)
        case "leaky_relu":
            return xp.where(u > 0, u, LEAKY_SLOPE * u)
        case "sign":
            return xp.sign(u)
        case "step":
            return xp.where(u > 0, 0.0 * u + 1.0, 0.0 * u)
        case "mod":
            return u - arguments[1] * xp.floor(u / arguments[1])
        case "hardtanh":
            return _clip(xp, u, -1.0, 1.0)
        case "clip":
            return _clip(xp, *arguments)
        case "min" | "max":
            a, b = arguments
            smaller = (a < b) if name == "min" else (a > b)
            return xp.where(smaller, a + 0.0 * b, b + 0.0 * a)
        case "sigmoid":
            return 0.5 * (1.0 + xp.tanh(0.5 * u))
        case "silu":
            return 0.5 * u * (1.0 + xp.tanh(0.5 * u))
        case "gelu":
            return 0.5 * u * (1.0 + _erf(xp, u / math.sqrt(2.0)))
        case "softplus" if hasattr(xp, "slopes"):
            return xp.softplus(u)
        case "softplus":
            return xp.log1p(xp.exp(-xp.abs(u))) + xp.where(u > 0, u, 0.0 * u)
        case "erf":
            return _erf(xp, u)
        case "atan":
            return xp.atan(u) if hasattr(xp, "atan") else xp.arctan(u)
        case _:
            return getattr(xp, name)(u)


def _clip(xp: Any, u: Any, low: Any, high: Any) -> Any:
    return xp.where(u < low, low + 0.0 * u, xp.where(u > high, high + 0.0 * u, u))


def _erf(xp: Any, u: Any) -> Any:
    # The Array API has no erf: torch brings its own, NumPy arrays go through SciPy.
    if hasattr(xp, "erf"):
        return xp.erf(u)
    if hasattr(u, "erf"):
        return u.erf()
    from scipy.special import erf

    return xp.asarray(erf(u))


def _to_sympy(node: Any, names: dict[str, Any], hermite: HermiteConvention) -> Any:
    import sympy as sp

    match node:
        case ast.Constant():
            return sp.Integer(node.value) if isinstance(node.value, int) else _number(node.value)
        case ast.Name():
            return names[node.id] if node.id in names else {"pi": sp.pi, "e": sp.E}[node.id]
        case ast.UnaryOp():
            value = _to_sympy(node.operand, names, hermite)
            return -value if isinstance(node.op, ast.USub) else value
        case ast.BinOp():
            a, b = _to_sympy(node.left, names, hermite), _to_sympy(node.right, names, hermite)
            match node.op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
                case _:
                    return a**b
    arguments = [_to_sympy(a, names, hermite) for a in node.args]
    u = arguments[0]
    name = node.func.id
    degree = hermite_degree(name)
    if degree is not None:
        scale = {"orthonormal": sp.sqrt(sp.factorial(degree)), "probabilists": 1}.get(hermite, sp.factorial(degree))
        t = sp.Dummy("t")
        return sp.expand(sp.sqrt(2) ** (-degree) * sp.hermite(degree, t / sp.sqrt(2))).subs(t, u) / scale
    half = sp.Rational(1, 2)
    table: dict[str, Callable[[], Any]] = {
        "relu": lambda: u * sp.Heaviside(u, 0),
        "leaky_relu": lambda: _number(LEAKY_SLOPE) * u + (1 - _number(LEAKY_SLOPE)) * u * sp.Heaviside(u, 0),
        "step": lambda: sp.Heaviside(u, 0),
        "sign": lambda: sp.sign(u),
        "abs": lambda: u * sp.sign(u),
        "hardtanh": lambda: -1 + (u + 1) * sp.Heaviside(u + 1, 0) - (u - 1) * sp.Heaviside(u - 1, 0),
        "sigmoid": lambda: half * (1 + sp.tanh(u / 2)),
        "silu": lambda: half * u * (1 + sp.tanh(u / 2)),
        "gelu": lambda: half * u * (1 + sp.erf(u / sp.sqrt(2))),
        "softplus": lambda: sp.log(1 + sp.exp(u)),
        "erf": lambda: sp.erf(u),
        "clip": lambda: sp.Min(sp.Max(u, arguments[1]), arguments[2]),
        "min": lambda: sp.Min(*arguments),
        "max": lambda: sp.Max(*arguments),
        "mod": lambda: sp.Mod(*arguments),
    }
    return table[name]() if name in table else getattr(sp, name)(u)


def _number(value: Any) -> Any:
    """Read a decimal as the rational it was written as, so that algebra stays exact and prints as written."""
    import sympy as sp

    exact = sp.Rational(str(value))
    return exact if exact.q < 10**9 else sp.Float(value, 17)


def drop_atoms(expression: Any) -> Any:
    """Remove Dirac deltas: the derivative of a kinked function almost everywhere."""
    import sympy as sp

    return expression.replace(sp.DiracDelta, lambda *_: sp.Integer(0))


class _NotScaled(Exception):
    pass


def _scaled_terms(node: Any, variable: str, whole: Expression) -> list[tuple[float, str, float]]:
    def times(factor: float, terms: list[tuple[float, str, float]]) -> list[tuple[float, str, float]]:
        return [(factor * c, name, s) for c, name, s in terms]

    if not any(isinstance(n, ast.Name) and n.id == variable for n in ast.walk(node)):
        return [(float(_evaluate(node, math, {}, whole.hermite)), "", 0.0)]
    match node:
        case ast.UnaryOp():
            return times(-1.0 if isinstance(node.op, ast.USub) else 1.0, _scaled_terms(node.operand, variable, whole))
        case ast.BinOp(op=ast.Add() | ast.Sub()):
            sign = 1.0 if isinstance(node.op, ast.Add) else -1.0
            left, right = (_scaled_terms(side, variable, whole) for side in (node.left, node.right))
            return left + times(sign, right)
        case ast.BinOp(op=ast.Mult() | ast.Div()):
            left, right = (_scaled_terms(side, variable, whole) for side in (node.left, node.right))
            if len(right) == 1 and right[0][1] == "":
                return times(right[0][0] if isinstance(node.op, ast.Mult) else 1.0 / right[0][0], left)
            if isinstance(node.op, ast.Mult) and len(left) == 1 and left[0][1] == "":
                return times(left[0][0], right)
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            slope = _crossing_slope(argument, variable, whole)
            if slope is not None:
                return [(1.0, name, slope)]
        case ast.Name():
            return [(1.0, "x", 1.0)]
    raise _NotScaled


def _crossing_slope(argument: Any, variable: str, whole: Expression) -> float | None:
    """Return s where the argument is s times the variable."""
    try:
        zero, one, two = (float(_evaluate(argument, math, {variable: at}, whole.hermite)) for at in (0.0, 1.0, 2.0))
    except (ValueError, ZeroDivisionError, KeyError, AttributeError):
        return None
    return one if zero == 0.0 and abs(two - 2.0 * one) <= 1e-15 * abs(two) and one != 0.0 else None


def jumps_at_integers(node: Any) -> list[Any]:
    """Return the arguments u of floor(u), and u/v of mod(u, v): there the formula jumps at every integer."""
    calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    ratios = [ast.BinOp(n.args[0], ast.Div(), n.args[1]) for n in calls if _called(n) == "mod"]
    return [n.args[0] for n in calls if _called(n) == "floor"] + ratios


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _kinked_calls(node: Any) -> list[tuple[Any, Any]]:
    """Return (argument, level) for every place where a kinked function meets its kink."""
    found = []
    for inner in ast.walk(node):
        if not isinstance(inner, ast.Call) or not isinstance(inner.func, ast.Name):
            continue
        name = inner.func.id
        if name in ("min", "max", "clip"):
            found += [(inner.args[0], other) for other in inner.args[1:]]
        else:
            found += [(inner.args[0], ast.Constant(value)) for value in FUNCTIONS.get(name, (1, ()))[1]]
    return found


def _kinks(node: Any, variable: str, whole: Expression) -> list[float]:
    points: list[float] = []
    for argument, level in _kinked_calls(node):
        points += _crossings(argument, level, variable, whole)
    return points


def _plane(argument: Any, level: Any, whole: Expression) -> tuple[tuple[float, ...], float] | None:
    names = whole.variables

    def value(*at: float) -> float:
        arrays = dict(zip(names, at, strict=True))
        sides = (float(_evaluate(side, math, arrays, whole.hermite)) for side in (argument, level))
        return next(sides) - next(sides)

    n = len(names)
    try:
        zero = value(*[0.0] * n)
        slopes = [value(*[float(r == q) for r in range(n)]) - zero for q in range(n)]
        probe = [0.7 - 1.3 * q + 0.11 * q * q for q in range(n)]
        there = value(*probe)
    except (ValueError, ZeroDivisionError, AttributeError):
        return None
    expected = zero + sum(s * x for s, x in zip(slopes, probe, strict=True))
    if abs(there - expected) > 1e-12 * (1 + abs(there)) or not any(slopes):
        return None
    return tuple(slopes), -zero


def _crossings(argument: Any, level: Any, variable: str, whole: Expression) -> list[float]:
    """Solve argument(variable) = level when both are affine in the variable."""

    def value(at: float) -> float:
        arrays = {variable: at}
        return float(_evaluate(argument, math, arrays, whole.hermite)) - float(
            _evaluate(level, math, arrays, whole.hermite)
        )

    try:
        zero, one, two = value(0.0), value(1.0), value(2.0)
    except KeyError:
        raise ValueError(f"the kinks of {whole.text!r} depend on more than {variable!r}") from None
    slope = one - zero
    if abs(two - one - slope) > 1e-12 * (1 + abs(one)):
        raise ValueError(f"the argument of a kinked function in {whole.text!r} is not affine in {variable!r}")
    return [] if slope == 0 else [-zero / slope]
