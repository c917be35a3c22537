"""Bounds of a formula over intervals of its variable: what no sampling can miss.

Interval arithmetic, elementwise over arrays of intervals: the true range of the formula lies within the bounds, which
tighten as the intervals shrink. Rounding is not directed: a bound may be short by some units in the last place.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .expressions import Expression, HermiteConvention, _apply, hermite_scale
from .grammar import CONSTANTS, hermite_degree

Array = NDArray[np.float64]
Bounds = tuple[Array, Array]
TWO_PI = 2.0 * math.pi


def bounds(formula: Expression, variable: str, low: Array, high: Array) -> Bounds:
    """Return lower and upper bounds of a formula in one variable over each interval [low, high]."""
    return node_bounds(formula.tree, formula.hermite, {variable: (low, high)})


def node_bounds(node: Any, hermite: HermiteConvention, variables: dict[str, Bounds]) -> Bounds:
    """Return the bounds of a part of a formula's syntax tree."""
    shape = np.shape(next(iter(variables.values()))[0])

    def of(inner: Any) -> Bounds:
        match inner:
            case ast.Constant():
                return _constant(float(inner.value), shape)  # type: ignore[arg-type]
            case ast.Name():
                return variables[inner.id] if inner.id in variables else _constant(CONSTANTS[inner.id], shape)
            case ast.UnaryOp():
                low, high = of(inner.operand)
                return (-high, -low) if isinstance(inner.op, ast.USub) else (low, high)
            case ast.BinOp():
                return _binary(inner.op, of(inner.left), of(inner.right))
        arguments = [of(a) for a in inner.args]
        degree = hermite_degree(inner.func.id)
        if degree is not None:
            return _hermite(degree, arguments[0], hermite)
        return _function(inner.func.id, arguments)

    with np.errstate(all="ignore"):
        return of(node)


def _constant(value: float, shape: tuple[int, ...]) -> Bounds:
    array = np.full(shape, value)
    return array, array


def _ordered(*candidates: Array) -> Bounds:
    """Return the range of the candidates; the whole line where one is undefined."""
    stacked = np.stack(candidates)
    unknown = np.isnan(stacked).any(axis=0)
    return np.where(unknown, -np.inf, stacked.min(axis=0)), np.where(unknown, np.inf, stacked.max(axis=0))


def _product(a: Bounds, b: Bounds) -> Bounds:
    return _ordered(*(p * q for p in a for q in b))


def _reciprocal(a: Bounds) -> Bounds:
    low, high = _ordered(1.0 / a[0], 1.0 / a[1])
    pole = (a[0] <= 0) & (a[1] >= 0)
    return np.where(pole, -np.inf, low), np.where(pole, np.inf, high)


def _binary(op: Any, a: Bounds, b: Bounds) -> Bounds:
    match op:
        case ast.Add():
            return a[0] + b[0], a[1] + b[1]
        case ast.Sub():
            return a[0] - b[1], a[1] - b[0]
        case ast.Mult():
            return _product(a, b)
        case ast.Div():
            return _product(a, _reciprocal(b))
    exponent = float(b[0].flat[0]) if b[0].size else 0.0
    if (b[0] == exponent).all() and (b[1] == exponent).all():
        return _power(a, exponent)
    logarithm = _function("log", [a])
    return _function("exp", [_product(logarithm, b)])


def _power(a: Bounds, exponent: float) -> Bounds:
    if exponent < 0:
        return _reciprocal(_power(a, -exponent))
    if exponent != int(exponent):
        # Defined for bases that are not negative.
        return np.maximum(a[0], 0.0) ** exponent, np.where(a[1] < 0, np.nan, a[1]) ** exponent
    low, high = _ordered(a[0] ** exponent, a[1] ** exponent)
    if exponent % 2 == 0 and exponent > 0:
        low = np.where((a[0] <= 0) & (a[1] >= 0), 0.0, low)
    return low, high


def _wave(a: Bounds, peak: float) -> Bounds:
    """Return the range of cos(u - peak)."""
    low, high = _ordered(np.cos(a[0] - peak), np.cos(a[1] - peak))
    top = np.floor((a[1] - peak) / TWO_PI) >= np.ceil((a[0] - peak) / TWO_PI)
    bottom = np.floor((a[1] - peak) / TWO_PI - 0.5) >= np.ceil((a[0] - peak) / TWO_PI - 0.5)
    return np.where(bottom, -1.0, low), np.where(top, 1.0, high)


def _monotone(name: str) -> Callable[[Array], Array] | None:
    increasing = ("exp", "sinh", "tanh", "atan", "erf", "sigmoid", "softplus", "relu", "leaky_relu", "sign", "step",
                  "hardtanh", "floor")  # fmt: skip
    return (lambda u: np.asarray(_apply(name, np, [u]))) if name in increasing else None


def _function(name: str, arguments: list[Bounds]) -> Bounds:
    a = arguments[0]
    increasing = _monotone(name)
    if increasing is not None:
        return increasing(a[0]), increasing(a[1])
    match name:
        case "log":
            return np.where(a[0] > 0, np.log(a[0]), -np.inf), np.where(a[1] > 0, np.log(a[1]), np.inf)
        case "sqrt":
            return _power(a, 0.5)
        case "sin" | "cos":
            return _wave(a, math.pi / 2 if name == "sin" else 0.0)
        case "tan":
            return _product(_wave(a, math.pi / 2), _reciprocal(_wave(a, 0.0)))
        case "cosh" | "abs":
            even = np.cosh if name == "cosh" else np.abs
            low, high = _ordered(even(a[0]), even(a[1]))
            return np.where((a[0] <= 0) & (a[1] >= 0), even(0.0), low), high
        case "silu":
            return _product(a, _function("sigmoid", [a]))
        case "gelu":
            low, high = _function("erf", [(a[0] / math.sqrt(2.0), a[1] / math.sqrt(2.0))])
            return _product(a, (0.5 * (1.0 + low), 0.5 * (1.0 + high)))
        case "min" | "max":
            pick = np.minimum if name == "min" else np.maximum
            return pick(a[0], arguments[1][0]), pick(a[1], arguments[1][1])
        case "clip":
            return _function("min", [_function("max", [a, arguments[1]]), arguments[2]])
        case "mod":
            b = arguments[1]
            turns = _function("floor", [_product(a, _reciprocal(b))])
            # On one branch the remainder is a - turns b; across a jump it lies between 0 and b.
            whole = _product(turns, b)
            one = turns[0] == turns[1]
            low, high = np.minimum(b[0], 0.0), np.maximum(b[1], 0.0)
            return np.where(one, a[0] - whole[1], low), np.where(one, a[1] - whole[0], high)
    raise AssertionError(f"no bounds of the function {name}")


def _hermite(degree: int, a: Bounds, convention: HermiteConvention) -> Bounds:
    low, high = _constant(1.0, a[0].shape), a
    if degree == 0:
        return low
    for k in range(1, degree):
        grown = _product(a, high)
        low, high = high, (grown[0] - k * low[1], grown[1] - k * low[0])
    scale = hermite_scale(degree, convention)
    return scale * high[0], scale * high[1]
