"""``[algorithm.update]``: update rules written out, read as rows of a table that is linear in vectors and the sample.

    u_p <- u_p + (1/d) sum_q B_pq u_q + (1/sqrt d) b_p x + (1/sqrt d) s_p zeta

B and b may depend on the sample through its fields (Oja's rule); zeta is fresh noise, d standard normal numbers. A row
is split into monomials ``coefficient * vector * d^power``; what is left over is refused with the offending term.
"""

from __future__ import annotations

import ast
import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .expressions import Expression

# The descent direction of SGD, up to a number: its average has a name of its own.
GRADIENT = "a*dg_w*error"
_HOW = (
    'write "w - learning_rate*a*dg(lambda_w)*error*x/sqrt(d)": drifts are vectors over d, samples are x/sqrt(d), noise '
    "is zeta/sqrt(d)"
)
NOISE = "zeta"


@dataclass(frozen=True)
class Row:
    """One vector's row.

    Attributes
    ----------
    drift : dict name -> Expression in learning_rate
        B of the tracked vectors that occur.
    sample : Expression or None
        b in ``a`` (the unit's readout), ``error`` (slope of the loss in the output), ``f``, ``y``, ``learning_rate``,
        ``lambda_s`` (the unit's field of vector s), and ``g_s``, ``dg_s``, activation and slope at that field.
    sampled_drift : dict name -> Expression
        B of the vectors for which it depends on the sample, in the same variables.
    noise : Expression or None
        s in learning_rate; the units have noise of their own, which the rows of a unit share.
    """

    drift: dict[str, Expression]
    sample: Expression | None
    sampled_drift: dict[str, Expression]
    noise: Expression | None


@dataclass(frozen=True)
class _Term:
    vector: str  # a tracked vector, "x", "zeta", or "" for a scalar
    power: Fraction  # of d
    factor: ast.expr

    def text(self) -> str:
        shown = ast.unparse(self.factor)
        shown = f"{shown}*{self.vector}" if self.vector else shown
        return shown if self.power == 0 else f"{shown}*d^({self.power})"


_ONE = ast.Constant(1)


class _Reader(ast.NodeVisitor):
    def __init__(self, name: str, text: str, vectors: Sequence[str], constants: dict[str, float]) -> None:
        self.name, self.text, self.vectors, self.constants = name, text, tuple(vectors), constants

    def refuse(self, term: str, why: str) -> ValueError:
        return ValueError(f"update.{self.name}: the term {term!r} {why}; {_HOW}")

    def terms(self, node: ast.expr) -> list[_Term]:
        match node:
            case ast.Name(id=name) if name in self.vectors or name in ("x", NOISE):
                return [_Term(name, Fraction(0), _ONE)]
            case ast.Name(id="d"):
                return [_Term("", Fraction(1), _ONE)]
            case ast.Call(func=ast.Name(id="sqrt"), args=[inner], keywords=[]) if self._involved(inner):
                return [self._power(inner, Fraction(1, 2), node)]
            case ast.UnaryOp(op=ast.USub()):
                return [_Term(t.vector, t.power, _times(ast.Constant(-1), t.factor)) for t in self.terms(node.operand)]
            case ast.UnaryOp(op=ast.UAdd()):
                return self.terms(node.operand)
            case ast.BinOp(op=ast.Add()):
                return self.terms(node.left) + self.terms(node.right)
            case ast.BinOp(op=ast.Sub()):
                return self.terms(node.left) + self.terms(ast.UnaryOp(ast.USub(), node.right))
            case ast.BinOp(op=ast.Mult()) if self._involved(node):
                return [self._product(a, b, node) for a in self.terms(node.left) for b in self.terms(node.right)]
            case ast.BinOp(op=ast.Div()) if self._involved(node):
                return self._quotient(node)
            case ast.BinOp(op=ast.Pow(), left=left, right=right) if self._involved(node):
                try:
                    power = Fraction(Expression(ast.unparse(right), ()).evaluate(math)).limit_denominator(64)
                except ValueError:
                    raise self.refuse(ast.unparse(node), "has an exponent that is not a number") from None
                return [self._power(left, power, node)]
        if self._involved(node):
            raise self.refuse(ast.unparse(node), "is not linear in the vectors and the sample")
        return [_Term("", Fraction(0), node)]

    def _involved(self, node: ast.expr) -> bool:
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        return bool(names & {*self.vectors, "x", NOISE, "d"})

    def _power(self, base: ast.expr, power: Fraction, node: ast.expr) -> _Term:
        """Return a power of a number times powers of d."""
        below = self.terms(base)
        if len(below) != 1 or below[0].vector:
            raise self.refuse(ast.unparse(node), "is not linear in the vectors and the sample")
        (under,) = below
        factor: ast.expr = _ONE
        if under.factor is not _ONE:
            exponent = ast.Constant(float(power))
            factor = ast.BinOp(under.factor, ast.Pow(), exponent)
        return _Term("", power * under.power, factor)

    def _product(self, a: _Term, b: _Term, node: ast.expr) -> _Term:
        if a.vector and b.vector:
            raise self.refuse(ast.unparse(node), "multiplies two vectors")
        return _Term(a.vector or b.vector, a.power + b.power, _times(a.factor, b.factor))

    def _quotient(self, node: ast.BinOp) -> list[_Term]:
        below = self.terms(node.right)
        if len(below) != 1 or below[0].vector:
            raise self.refuse(ast.unparse(node), "divides by more than powers of d and numbers")
        (under,) = below
        return [
            _Term(t.vector, t.power - under.power, t.factor if under.factor is _ONE else _over(t.factor, under.factor))
            for t in self.terms(node.left)
        ]

    def row(self) -> Row:
        try:
            tree = ast.parse(self.text.strip().replace("^", "**"), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"update.{self.name}: {self.text!r} is not a formula ({error})") from None
        sums: dict[tuple[str, Fraction], ast.expr] = {}
        for term in self.terms(tree):
            key = term.vector, term.power
            sums[key] = ast.BinOp(sums[key], ast.Add(), term.factor) if key in sums else term.factor
        found = [_Term(vector, power, factor) for (vector, power), factor in sums.items()]
        drift: dict[str, Expression] = {}
        sampled: dict[str, Expression] = {}
        sample, noise = None, None
        of_sample = (*SCALARS, *_of_fields(self.vectors))
        for term in found:
            if term.vector == self.name and term.power == 0:
                continue
            if term.vector == "x" and term.power == Fraction(-1, 2):
                sample = self._formula(term, of_sample)
            elif term.vector == NOISE and term.power == Fraction(-1, 2):
                noise = self._formula(term, ("learning_rate",))
            elif term.vector in self.vectors and term.power == -1:
                formula = self._formula(term, of_sample)
                (drift if set(formula.variables) <= {"learning_rate"} else sampled)[term.vector] = formula
            else:
                why = "is neither a drift of order 1/d nor a sample, or noise, of order 1/sqrt(d)"
                raise self.refuse(term.text(), why)
        own = sums.get((self.name, Fraction(0)))
        if own is None or self._formula(_Term(self.name, Fraction(0), own), ()).evaluate(math) != 1:
            why = "a row is the vector itself plus small steps"
            raise ValueError(f"update.{self.name}: {why}; {_HOW}; for a decay of order one use momentum = {{ beta }}")
        return Row(drift, sample, sampled, noise)

    def _formula(self, term: _Term, variables: tuple[str, ...]) -> Expression:
        tree = _Named(self.constants).visit(term.factor)
        text = ast.unparse(ast.fix_missing_locations(tree))
        try:
            return Expression(text, variables)
        except ValueError as error:
            where = f"update.{self.name}: the coefficient of {term.vector or 'the constant'}"
            only = "" if "error" in variables else f"; that of {NOISE} holds numbers, constants and learning_rate only"
            raise ValueError(f"{where}: {error}{only}") from None


SCALARS = ("a", "error", "f", "y", "learning_rate")


def _of_fields(vectors: Sequence[str]) -> list[str]:
    return [f"{kind}_{name}" for name in vectors for kind in ("lambda", "g", "dg")]


class _Named(ast.NodeTransformer):
    """Constants become numbers, ``g(lambda_w)`` and ``dg(lambda_w)`` the names ``g_w`` and ``dg_w``."""

    def __init__(self, constants: dict[str, float]) -> None:
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(self.constants[node.id]) if node.id in self.constants else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in ("g", "dg"):
            if len(node.args) == 1 and isinstance(node.args[0], ast.Name) and node.args[0].id.startswith("lambda_"):
                return ast.Name(f"{node.func.id}_{node.args[0].id.removeprefix('lambda_')}", ast.Load())
            raise ValueError(f"{ast.unparse(node)}: g and dg are taken at a field, as in dg(lambda_w)")
        self.generic_visit(node)
        return node


def _times(a: ast.expr, b: ast.expr) -> ast.expr:
    return b if a is _ONE else a if b is _ONE else ast.BinOp(a, ast.Mult(), b)


def _over(a: ast.expr, b: ast.expr) -> ast.expr:
    return ast.BinOp(a, ast.Div(), b)


def read_update(update: dict[str, str], constants: dict[str, float]) -> dict[str, Row]:
    """Return the rows of `update`, ``w`` first, then by name.

    Parameters
    ----------
    update : dict vector -> text
    constants : dict name -> number

    Raises
    ------
    ValueError
        For a rule that is not linear in vectors and sample, of the wrong order in d, or in unknown names; the message
        begins with the key and quotes the offending term.
    """
    if "w" not in update:
        raise ValueError('update: there is no row for the trained weights, add w = "w - ..."')
    # Not as written: tables of a run file have no order, and two that differ in it are one problem.
    vectors = ("w", *sorted(name for name in update if name != "w"))
    taken = {"x", NOISE, "d", "g", "dg", "sqrt", *SCALARS}
    for name in (*vectors, *constants):
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", name) or name in taken:
            why = "the name is taken" if name in taken else "a name is a letter and then letters and digits"
            words = ", ".join(sorted(taken))
            raise ValueError(f"update: {name!r} cannot be a vector or a constant: {why} (taken are {words})")
    both = set(vectors) & set(constants)
    if both:
        raise ValueError(f"constants: {sorted(both)[0]!r} is a vector too")
    unused = [name for name in constants if not any(re.search(rf"\b{name}\b", text) for text in update.values())]
    if unused:
        raise ValueError(f"constants: {unused[0]!r} is not used in the update")
    return {name: _Reader(name, update[name], vectors, constants).row() for name in vectors}


def affine(formula: Expression, key: str, learning_rate: float) -> tuple[float, float]:
    """Return what a formula in the learning rate is without it, and what is proportional to it.

    Raises
    ------
    ValueError
        When it is not affine.
    """
    at: list[Any] = [float(formula.evaluate(math, learning_rate=v)) for v in (0.0, 1.0, 2.0)]
    slope = at[1] - at[0]
    if abs(at[2] - at[1] - slope) > 1e-12 * (1 + abs(at[2])):
        raise ValueError(f"{key}: {formula.text!r} must be affine in learning_rate")
    return at[0], slope * learning_rate


def gradient_part(sample: Expression) -> Expression | None:
    """Return c, a formula in the learning rate, where a sample coefficient is ``-c a dg_w error``; None otherwise."""
    import numpy as np

    factors = ("a", "dg_w", "error")
    if set(sample.variables) - {*factors, "learning_rate"}:
        return None
    at_one = _AtOne(factors).visit(copy.deepcopy(sample.tree))
    part = Expression(f"-({ast.unparse(at_one)})", ("learning_rate",))
    # Asked at points of all sizes: to import sympy takes longer than a solve.
    points = np.array([[-0.7, 1.3, 0.4], [2.6, -0.2, -31.0], [1e3, 1e-3, 0.9], [0.6, 17.0, -1e-4]]).T
    for rate in (0.3, 2.9):
        given = dict(zip(factors, points, strict=True))
        with np.errstate(all="ignore"):
            found = -np.asarray(sample.evaluate(np, learning_rate=rate, **given)) / np.prod(points, axis=0)
            one = float(part.evaluate(np, learning_rate=rate))
        if not (np.abs(found - one) <= 1e-9 * abs(one)).all():
            return None
    return part


class _AtOne(ast.NodeTransformer):
    """Puts one in the place of names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(1.0) if node.id in self.names else node
