"""What a formula may say: the words, the sizes that can be worked with, and constants that are numbers."""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable
from typing import Any

from ..errors import did_you_mean

# Every function a formula may use, with the points of its argument where it is not smooth.
FUNCTIONS: dict[str, tuple[int, tuple[float, ...]]] = {
    "sqrt": (1, ()), "exp": (1, ()), "log": (1, ()), "sin": (1, ()), "cos": (1, ()), "tan": (1, ()),
    "sinh": (1, ()), "cosh": (1, ()), "tanh": (1, ()), "atan": (1, ()), "erf": (1, ()),
    "sigmoid": (1, ()), "silu": (1, ()), "gelu": (1, ()), "softplus": (1, ()),
    "relu": (1, (0.0,)), "leaky_relu": (1, (0.0,)), "abs": (1, (0.0,)), "sign": (1, (0.0,)), "step": (1, (0.0,)),
    "hardtanh": (1, (-1.0, 1.0)), "clip": (3, ()), "min": (2, ()), "max": (2, ()),
}  # fmt: skip
# Functions of formulas in the time alone: they jump without end.
TIME_FUNCTIONS: dict[str, tuple[int, tuple[float, ...]]] = {"floor": (1, ()), "mod": (2, ())}
CONSTANTS = {"pi": math.pi, "e": math.e}

# A formula within these bounds parses, prints and integrates in reasonable time and in double precision:
# recursion stays far from its limit, He_100 and z^100 have moments that are numbers, expanded polynomials fit.
MAX_LENGTH = 10_000
MAX_DEPTH = 150
MAX_DEGREE = 100
MAX_TERMS = 2_000
MAX_INDEX = 200
MAX_CONSTANT = 1e100


def parse(text: str, variables: tuple[str, ...] | str) -> tuple[Any, set[str]]:
    """Return the syntax tree of a formula, and the variables it uses.

    Raises
    ------
    ValueError
        For anything that is not a formula in `variables`, and for one beyond the bounds of this module.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the formula {_short(text)!r} has {len(text)} characters: at most {MAX_LENGTH} are read")
    try:
        with warnings.catch_warnings():
            # What the parser only warns of, such as "1if", is no formula either.
            warnings.simplefilter("error")
            tree = ast.parse(text.strip().replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, Warning) as error:
        raise ValueError(f"{_short(text)!r} is not a formula: {getattr(error, 'msg', error)}") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"the formula {_short(text)!r} is nested too deeply") from None
    depth = _depth(tree)
    if depth > MAX_DEPTH:
        raise ValueError(
            f"the formula {_short(text)!r} is nested {depth} deep, where at most {MAX_DEPTH} operations may hang on "
            "one another: group long sums and products by brackets"
        )
    found: set[str] = set()
    _check(tree, text, variables, found)
    return tree, found


def check_size(tree: Any, text: str, variables: set[str], apply: Callable[[str, list[float]], float]) -> None:
    """Refuse constants that are no number and polynomials that are too large to expand.

    Parameters
    ----------
    tree : ast.expr
        A parsed formula.
    text : str
        For messages.
    variables : set of str
        Those that the formula uses.
    apply : callable
        ``apply(name, values)`` is the value of a function of the language at numbers.

    Raises
    ------
    ValueError
        Naming the part of the formula.
    """
    functions = sum(isinstance(node, ast.Call) for node in ast.walk(tree))
    _Size(text, variables, functions, apply).of(tree)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _depth(tree: Any) -> int:
    deepest, waiting = 0, [(tree, 1)]
    while waiting:
        node, depth = waiting.pop()
        deepest = max(deepest, depth)
        waiting += [(child, depth + 1) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    return deepest


def _check(node: ast.AST, text: str, variables: tuple[str, ...] | str, found: set[str]) -> None:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return
    if isinstance(node, ast.Name):
        if _is_variable(node.id, variables, text):
            found.add(node.id)
        elif node.id not in CONSTANTS:
            allowed = (variables,) if isinstance(variables, str) else variables
            names = [f"{v[:-1]}1, {v[:-1]}2, ..." if v.endswith("*") else v for v in allowed]
            raise ValueError(f"unknown name {node.id!r} in {_short(text)!r}: the variables are {', '.join(names)}")
        return
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return _check(node.operand, text, variables, found)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.Pow):
        _check(node.left, text, variables, found)
        return _check(node.right, text, variables, found)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        name = node.func.id
        known = FUNCTIONS | (TIME_FUNCTIONS if "t" in variables else {})
        arity = 1 if hermite_degree(name) is not None else known.get(name, (None, ()))[0]
        if arity is None and name in TIME_FUNCTIONS:
            raise ValueError(f"{name} jumps without end: it belongs in formulas of the time t, not in {_short(text)!r}")
        if arity is None:
            raise ValueError(f"unknown function {name!r} in {_short(text)!r}: {did_you_mean(name, [*known, 'HeN'])}")
        if len(node.args) != arity:
            raise ValueError(f"{name} takes {arity} argument(s), got {len(node.args)} in {_short(text)!r}")
        for argument in node.args:
            _check(argument, text, variables, found)
        return None
    raise ValueError(
        f"{_part(node) if isinstance(node, ast.expr) else type(node).__name__!r} is not allowed in the formula "
        f"{_short(text)!r}: use + - * / **, numbers, variables and functions"
    )


def _is_variable(name: str, variables: tuple[str, ...] | str, text: str) -> bool:
    if not isinstance(variables, str):
        return name in variables or any(v.endswith("*") and _is_variable(name, v, text) for v in variables)
    number = name.removeprefix(variables[:-1])
    if number == name or not (number.isascii() and number.isdecimal()):
        return False
    if number.startswith("0") or len(number) > 9 or int(number) > MAX_INDEX:
        raise ValueError(f"the variable {_short(name)!r} of {_short(text)!r} is not numbered from 1 to {MAX_INDEX}")
    return True


def _part(node: Any) -> str:
    return _short(ast.unparse(node))


def hermite_degree(name: str) -> int | None:
    """Return N for the function name ``HeN``, else None."""
    digits = name[2:]
    if not (name.startswith("He") and digits.isascii() and digits.isdecimal()):
        return None
    return int(digits) if len(digits) < 9 else 10**9


class _Size:
    """Values of constants, and bounds on degree and number of terms of the expanded formula, from the leaves up."""

    def __init__(
        self, text: str, variables: set[str], functions: int, apply: Callable[[str, list[float]], float]
    ) -> None:
        self.text, self.variables, self.functions, self.apply = _short(text), variables, functions, apply

    def of(self, node: Any) -> tuple[float | None, float, float]:
        """Return (value of a constant or None, degree, terms) of a node."""
        match node:
            case ast.Constant() | ast.Name():
                parts: list[tuple[float | None, float, float]] = []
                known = isinstance(node, ast.Constant) or node.id not in self.variables
            case ast.UnaryOp():
                parts, known = [self.of(node.operand)], True
            case ast.BinOp():
                parts, known = [self.of(node.left), self.of(node.right)], True
            case _:
                parts, known = [self.of(a) for a in node.args], True
        if known and all(value is not None for value, _, _ in parts):
            return self._value(node, parts), 0, 1
        degree, terms = self._growth(node, parts)
        if degree > MAX_DEGREE:
            raise ValueError(
                f"{_part(node)!r} in {self.text!r} is of degree {degree:g}: polynomials beyond degree {MAX_DEGREE} are "
                "not numbers in double precision"
            )
        # No more monomials than there are of that degree.
        n = len(self.variables) + self.functions
        terms = min(terms, math.comb(math.ceil(degree) + n, n))
        if terms > MAX_TERMS:
            raise ValueError(
                f"{_part(node)!r} in {self.text!r} has {terms:g} terms: at most {MAX_TERMS} can be expanded"
            )
        return None, degree, terms

    def _growth(self, node: Any, parts: list[tuple[float | None, float, float]]) -> tuple[float, float]:
        if not parts:
            return 1, 1
        degrees, counts = [d for _, d, _ in parts], [t for _, _, t in parts]
        match node:
            case ast.BinOp(op=ast.Add() | ast.Sub()):
                return max(degrees), sum(counts)
            case ast.BinOp(op=ast.Mult()):
                return sum(degrees), counts[0] * counts[1]
            case ast.BinOp(op=ast.Div()):
                if parts[1][0] == 0:
                    raise ValueError(f"{_part(node)!r} in {self.text!r} divides by zero")
                return sum(degrees), counts[0]
            case ast.BinOp(op=ast.Pow()):
                power = parts[1][0]
                if power is None:
                    return max(degrees), 1
                if abs(power) > MAX_DEGREE:
                    raise ValueError(
                        f"the exponent of {_part(node)!r} in {self.text!r} is too large: at most {MAX_DEGREE}"
                    )
                whole = power == int(power) and power > 0
                return abs(power) * degrees[0], math.comb(int(counts[0] + power - 1), int(power)) if whole else 1
            case ast.Call(func=ast.Name(id=name)) if (order := hermite_degree(name)) is not None:
                if order > MAX_DEGREE:
                    raise ValueError(f"{name} in {self.text!r} is of too high a degree: at most {MAX_DEGREE}")
                return order * degrees[0], (order // 2 + 1) * counts[0] ** min(order, 8)
            case ast.Call():
                return 1, 1
        return degrees[0], counts[0]

    def _value(self, node: Any, parts: list[tuple[float | None, float, float]]) -> float:
        values = [float(value) for value, _, _ in parts if value is not None]
        try:
            found = self._compute(node, values)
        except ZeroDivisionError:
            raise ValueError(f"{_part(node)!r} in {self.text!r} divides by zero") from None
        except OverflowError:
            found = math.inf
        if isinstance(found, complex) or math.isnan(found):
            raise ValueError(f"{_part(node)!r} in {self.text!r} is not a real number")
        if abs(found) > MAX_CONSTANT:
            raise ValueError(f"{_part(node)!r} in {self.text!r} is larger than {MAX_CONSTANT:g}")
        return float(found)

    def _compute(self, node: Any, values: list[float]) -> Any:
        # In floating point: exact integers such as 9**9**9 never end.
        match node:
            case ast.Constant():
                return float(node.value)  # type: ignore[arg-type]
            case ast.Name():
                return CONSTANTS[node.id]
            case ast.UnaryOp():
                return -values[0] if isinstance(node.op, ast.USub) else values[0]
            case ast.Call():
                return self.apply(node.func.id, values)  # type: ignore[attr-defined]
        a, b = values
        operation = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Mult: "__mul__", ast.Div: "__truediv__"}
        return getattr(a, operation.get(type(node.op), "__pow__"))(b)
