"""Functions of one Gaussian field, as sums of factors that averages can be taken of exactly.

A `Factor` is ``x^n exp(-p x^2/2 + b x) cos(w x + phase) prod_s erf(s x / sqrt 2) [sign(x)] [delta(x)]``. The class is
closed under products and derivatives, which is all that Stein's lemma needs. Every other function is carried as an
opaque factor, whose expectations stay explicit ``E[...]`` nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import sympy as sp

# The argument of every function of one field.
X = sp.Symbol("x", real=True)
ZERO, ONE = sp.Integer(0), sp.Integer(1)


@dataclass(frozen=True)
class Factor:
    """One product of elementary functions of a single field; see the module for the meaning of each part."""

    power: int = 0
    precision: Any = ZERO
    slope: Any = ZERO
    wave: tuple[Any, Any] | None = None
    erfs: tuple[Any, ...] = ()
    sign: bool = False
    delta: bool = False
    opaque: Any = ONE

    @property
    def trivial(self) -> bool:
        """Whether the factor is the constant 1."""
        return self == UNIT

    @property
    def polynomial(self) -> bool:
        """Whether the factor is a bare power."""
        return self == Factor(power=self.power)

    def expression(self, x: Any = X) -> Any:
        """Return the factor as a function of `x`."""
        value = x**self.power * sp.exp(-self.precision * x**2 / 2 + self.slope * x)
        if self.wave is not None:
            value *= sp.cos(self.wave[0] * x + self.wave[1])
        for scale in self.erfs:
            value *= sp.erf(scale * x / sp.sqrt(2))
        if self.sign:
            value *= sp.sign(x)
        if self.delta:
            value *= sp.DiracDelta(x)
        return value * self.opaque.subs(X, x)


UNIT = Factor()
# A function of one field: the sum of coefficient * factor.
Terms = tuple[tuple[Any, Factor], ...]


def collect(terms: Iterable[tuple[Any, Factor]]) -> Terms:
    """Add the coefficients of equal factors and drop zeros."""
    total: dict[Factor, Any] = {}
    for coefficient, factor in terms:
        total[factor] = total.get(factor, ZERO) + coefficient
    return tuple((c, f) for f, c in total.items() if c != 0)


def multiply(left: Factor, right: Factor) -> Terms:
    """Return the product of two factors of the same field."""
    if left.trivial:
        return ((ONE, right),)
    if right.trivial:
        return ((ONE, left),)
    if left.delta != right.delta and (left.opaque != 1 or right.opaque != 1):
        seen = (right if left.delta else left).expression().subs(X, 0)
        return ((seen, Factor(delta=True)),)
    if left.opaque != 1 or right.opaque != 1:
        return ((ONE, Factor(opaque=left.expression() * right.expression())),)
    if left.delta and right.delta:
        raise ValueError("the product of two delta functions of one field has no meaning")
    merged = Factor(
        power=left.power + right.power,
        precision=left.precision + right.precision,
        slope=left.slope + right.slope,
        erfs=tuple(sorted((*left.erfs, *right.erfs), key=sp.default_sort_key)),
        sign=left.sign != right.sign,
        delta=left.delta or right.delta,
    )
    if left.wave and right.wave:
        (w, p), (v, q) = left.wave, right.wave
        waves: list[tuple[Any, Any, Any]] = [(sp.Rational(1, 2), w + v, p + q), (sp.Rational(1, 2), w - v, p - q)]
        products = [(c * sp.cos(q), merged) if w == 0 else (c, replace(merged, wave=(w, q))) for c, w, q in waves]
        return collect(_at_zero(c, f) for c, f in products)
    return collect([_at_zero(ONE, replace(merged, wave=left.wave or right.wave))])


def _at_zero(coefficient: Any, factor: Factor) -> tuple[Any, Factor]:
    """A delta function sees everything else at x = 0 (sign(0) = 0, the mean of its two sides)."""
    if not factor.delta or factor == Factor(delta=True):
        return coefficient, factor
    if factor.power or factor.erfs or factor.sign:
        return ZERO, UNIT
    return coefficient * (sp.cos(factor.wave[1]) if factor.wave else ONE), Factor(delta=True)


def product(left: Terms, right: Terms) -> Terms:
    """Return the product of two functions of the same field."""
    return collect((a * b * c, f) for a, one in left for b, two in right for c, f in multiply(one, two))


def differentiate(terms: Terms) -> Terms:
    """Return the derivative; that of sign(x) is 2 delta(x)."""
    return collect((c * b, f) for c, factor in terms for b, f in _derivative(factor))


@lru_cache(maxsize=4096)
def _derivative(factor: Factor) -> Terms:
    if factor.delta:
        raise ValueError("the derivative of a delta function is not averaged here")
    if factor.opaque != 1:
        return decompose(sp.diff(factor.expression(), X))
    pieces: list[tuple[Any, Factor]] = []
    if factor.power:
        pieces.append((sp.Integer(factor.power), replace(factor, power=factor.power - 1)))
    if factor.precision != 0:
        pieces.append((-factor.precision, replace(factor, power=factor.power + 1)))
    if factor.slope != 0:
        pieces.append((factor.slope, factor))
    if factor.wave is not None:
        w, phase = factor.wave
        pieces.append((w, replace(factor, wave=(w, phase + sp.pi / 2))))
    for position, scale in enumerate(factor.erfs):
        rest = factor.erfs[:position] + factor.erfs[position + 1 :]
        pieces.append((scale * sp.sqrt(2 / sp.pi), replace(factor, erfs=rest, precision=factor.precision + scale**2)))
    if factor.sign:
        pieces.append(_at_zero(sp.Integer(2), replace(factor, sign=False, delta=True)))
    return collect(pieces)


@lru_cache(maxsize=1024)
def decompose(expression: Any) -> Terms:
    """Write a function of `X` as a sum of factors; what fits none becomes opaque.

    Parameters
    ----------
    expression : sympy expression
        A function of the symbol `X` only (other symbols are parameters).
    """
    expression = sp.sympify(expression)
    expression = expression.replace(sp.Heaviside, lambda u, *_: (1 + sp.sign(u)) / 2)
    expression = expression.replace(sp.Abs, lambda u: u * sp.sign(u))
    expression = expression.replace(sp.Max, _max).replace(sp.Min, lambda *u: -_max(*(-v for v in u)))
    expression = expression.replace(
        lambda u: isinstance(u, sp.sinh | sp.cosh) and _affine(u.args[0]), lambda u: u.rewrite(sp.exp)
    )
    terms: list[tuple[Any, Factor]] = []
    for summand in sp.Add.make_args(sp.expand(expression)):
        total: Terms = ((ONE, UNIT),)
        for part in sp.Mul.make_args(summand):
            total = product(total, _elementary(part))
        terms += total
    return collect(terms)


def _max(*arguments: Any) -> Any:
    if len(arguments) != 2:
        return sp.Max(*arguments, evaluate=False)
    a, b = arguments
    return (a + b + (a - b) * sp.sign(a - b)) / 2


def _affine(u: Any) -> bool:
    return bool(u.is_polynomial(X) and sp.degree(u, X) <= 1)


def _elementary(part: Any) -> Terms:
    if not part.has(X):
        return ((part, UNIT),)
    if part == X:
        return ((ONE, Factor(power=1)),)
    if part.is_Pow and part.exp.is_Integer and part.exp > 0:
        base = _elementary(part.base)
        total: Terms = ((ONE, UNIT),)
        for _ in range(int(part.exp)):
            total = product(total, base)
        return total
    if isinstance(part, sp.exp) and part.args[0].is_polynomial(X) and sp.degree(part.args[0], X) <= 2:
        c2, c1, c0 = (part.args[0].coeff(X, k) for k in (2, 1, 0))
        return ((sp.exp(c0), Factor(precision=-2 * c2, slope=c1)),)
    if isinstance(part, sp.cos | sp.sin) and _affine(part.args[0]):
        w, phase = part.args[0].coeff(X, 1), part.args[0].coeff(X, 0)
        return ((ONE, Factor(wave=(w, phase - (sp.pi / 2 if isinstance(part, sp.sin) else 0)))),)
    if isinstance(part, sp.erf | sp.sign) and _affine(part.args[0]) and part.args[0].coeff(X, 0) == 0:
        slope = part.args[0].coeff(X, 1)
        if isinstance(part, sp.sign):
            return ((sp.sign(slope), Factor(sign=True)),)
        return ((ONE, Factor(erfs=(sp.sqrt(2) * slope,))),)
    if (
        isinstance(part, sp.DiracDelta)
        and len(part.args) == 1
        and _affine(part.args[0])
        and not part.args[0].subs(X, 0)
    ):
        return ((1 / abs(part.args[0].coeff(X, 1)), Factor(delta=True)),)
    return ((ONE, Factor(opaque=part)),)


def expression_of(terms: Terms, x: Any = X) -> Any:
    """Return the function as a sympy expression in `x`."""
    return sp.Add(*(c * f.expression(x) for c, f in terms))


def is_closed(terms: Terms) -> bool:
    """Whether no factor is opaque."""
    return all(f.opaque == 1 for _, f in terms)
