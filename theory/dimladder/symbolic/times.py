"""Formulas in the time t as compiled functions of their own, such as the schedule of a learning rate.

Equations call them by an address among their parameters, so that another formula needs no other equations. They are
printed from the syntax tree: nothing here imports sympy, which takes longer than all the rest.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from typing import Any

from ..numerics.addresses import addresses
from ..numerics.times import TIME
from ..problem import Expression
from ..problem.expressions import LEAKY_SLOPE, hermite_scale
from ..problem.grammar import CONSTANTS, hermite_degree
from .printing import header
from .store import module

__all__ = ["TimeFunction", "time_function"]

# Functions of formulas that `math` does not have, or has under another name.
_LIBRARY = {
    "relu": "def relu(u):\n    return u if u > 0.0 else 0.0",
    "leaky_relu": f"def leaky_relu(u):\n    return u if u > 0.0 else {LEAKY_SLOPE} * u",
    "sign": "def sign(u):\n    return 1.0 if u > 0.0 else (-1.0 if u < 0.0 else 0.0)",
    "step": "def step(u):\n    return 1.0 if u > 0.0 else 0.0",
    "clip": "def clip(u, low, high):\n    return low if u < low else (high if u > high else u)",
    "hardtanh": "def hardtanh(u):\n    return -1.0 if u < -1.0 else (1.0 if u > 1.0 else u)",
    "mod": "def mod(u, v):\n    return u - v * math.floor(u / v)",
    "sigmoid": "def sigmoid(u):\n    return 0.5 * (1.0 + math.tanh(0.5 * u))",
    "silu": "def silu(u):\n    return 0.5 * u * (1.0 + math.tanh(0.5 * u))",
    "gelu": "def gelu(u):\n    return 0.5 * u * (1.0 + math.erf(u / math.sqrt(2.0)))",
    "softplus": "def softplus(u):\n    return u + math.log1p(math.exp(-u)) if u > 0.0 else math.log1p(math.exp(u))",
}
_HERMITE = """def hermite(degree, u):
    low, high = 1.0, u
    for k in range(1, degree):
        low, high = high, u * high - k * low
    return high if degree > 0 else 1.0"""
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}

_SOURCE = """{header}
{library}
@njit(types.float64(types.float64), **OPTIONS)
def f(t):
    return {formula}
"""


class TimeFunction:
    """A formula in t, compiled.

    Parameters
    ----------
    text : str

    Attributes
    ----------
    function : callable
        ``f(t) -> float``.
    address : float
        Where its code lies, for the parameters of compiled equations, which call it by ``as_time(0, int(p[k]))(t)``.
        It holds in this process, as long as the module is loaded.
    """

    def __init__(self, text: str) -> None:
        loaded = module(("function of t", text), lambda: _source(Expression(text, ("t",))), native=True)
        self.function: Any = loaded.f
        # Below 2^53: a float64 holds it.
        self.address = float(addresses(self.function, TIME)[1])


@lru_cache(maxsize=256)
def time_function(text: str) -> TimeFunction:
    """Return the compiled function of a formula in t."""
    return TimeFunction(text)


def _source(formula: Expression) -> str:
    names: dict[str, str] = {}
    body = _printed(formula.tree, formula, names)
    library = "".join(f"\n@njit(**OPTIONS)\n{text}\n\n" for text in names.values())
    return _SOURCE.format(
        header=header(f"A function of the time: {formula.text}", False), library=library, formula=body
    )


def _printed(node: Any, whole: Expression, library: dict[str, str]) -> str:
    """Return the Python source of a node; `library` gathers the functions that it calls."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return repr(float(value))
        case ast.Name():
            return "t" if node.id == "t" else repr(CONSTANTS[node.id])
        case ast.UnaryOp():
            sign = "-" if isinstance(node.op, ast.USub) else ""
            return f"({sign}{_printed(node.operand, whole, library)})"
        case ast.BinOp():
            left, right = (_printed(side, whole, library) for side in (node.left, node.right))
            if isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant) and type(node.right.value) is int:
                # An integer power is a product.
                right = str(node.right.value)
            return f"({left} {_OPERATORS[type(node.op)]} {right})"
    name, given = node.func.id, ", ".join(_printed(a, whole, library) for a in node.args)
    degree = hermite_degree(name)
    if degree is not None:
        library["hermite"] = _HERMITE
        return f"({hermite_scale(degree, whole.hermite)!r} * hermite({degree}, {given}))"
    if name in _LIBRARY:
        library[name] = _LIBRARY[name]
        return f"{name}({given})"
    if name in ("min", "max", "abs"):
        return f"{name}({given})"
    return f"float(math.floor({given}))" if name == "floor" else f"math.{name}({given})"
