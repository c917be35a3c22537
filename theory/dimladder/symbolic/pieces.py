"""A convex function of one variable as smooth pieces between kinks, from its formula: slopes, curvatures, code.

Every ``abs``, ``max``, ``min``, ``relu``, ``sign`` and ``step`` of a formula acts on an argument that is affine in the
variable u; its root in u, which may depend on the parameter y, is a kink. On a piece the signs of those arguments are
known, and slope and curvature are smooth expressions. The printed functions take a point ``r`` inside the piece, which
decides the signs, beside the point ``u`` where they are evaluated: a piece can be continued beyond its ends.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import DerivationError
from ..problem.stable import stabilise

# What printed modules need for these functions.
STABLE_SOURCE = '''
@njit("f8(f8)", **OPTIONS)
def sigmoid(x):
    """1/(1 + exp(-x)), with relative accuracy in both tails; no kink at zero, where derivatives are carried along."""
    e = math.exp(-x) if x > 0.0 else math.exp(x)
    return 1.0 / (1.0 + e) if x > 0.0 else e / (1.0 + e)


@njit("f8(f8)", **OPTIONS)
def softplus(x):
    """log(1 + exp(x))."""
    return x + math.log1p(math.exp(-x)) if x > 0.0 else math.log1p(math.exp(x))


@njit("f8(f8)", **OPTIONS)
def logcosh(x):
    """log(cosh(x))."""
    return (x + math.log1p(math.exp(-2.0 * x)) if x > 0.0 else math.log1p(math.exp(2.0 * x)) - x) - 0.6931471805599453
'''


@dataclass(frozen=True)
class Pieces:
    """A function of `variable` with kinks, with one parameter.

    Attributes
    ----------
    expression : sympy expression
        As given, in `variable` and `parameter`.
    variable, parameter : sympy symbols
    smooth : sympy expression
        The function on one piece: each sign replaced by a symbol.
    signs : tuple of (symbol, argument, low, high)
        The symbol is `high` where the argument is positive, `low` where it is negative.
    """

    expression: Any
    variable: Any
    parameter: Any
    smooth: Any
    signs: tuple[tuple[Any, Any, int, int], ...]

    @cached_property
    def slope(self) -> Any:
        """First derivative on a piece."""
        import sympy as sp

        return sp.diff(self.smooth, self.variable)

    @cached_property
    def curvature(self) -> Any:
        """Second derivative on a piece."""
        import sympy as sp

        return sp.diff(self.smooth, self.variable, 2)

    @cached_property
    def kinks(self) -> tuple[Any, ...]:
        """Roots of the kinked arguments in the variable, expressions in the parameter."""
        import sympy as sp

        roots = []
        for _, argument, _, _ in self.signs:
            inner = [(s, low, high) for s, _, low, high in self.signs if argument.has(s)]
            # A nested kink moves with the piece of what it contains: every case is tried, idle ones do no harm.
            for choice in itertools.product(*((low, high) for _, low, high in inner)):
                case = argument.subs({s: v for (s, _, _), v in zip(inner, choice, strict=True)})
                polynomial = sp.Poly(case, self.variable)
                if polynomial.degree() == 1:
                    a, b = polynomial.coeff_monomial(self.variable), polynomial.coeff_monomial(1)
                    roots.append(sp.simplify(-b / a))
        return tuple(dict.fromkeys(roots))

    @cached_property
    def linear_slope(self) -> bool:
        """Whether the slope of every piece is affine: the proximal point is then a closed form."""
        return self.variable not in self.curvature.free_symbols

    def _used(self, expression: Any) -> list[tuple[Any, Any, int, int]]:
        """The signs that an expression needs, each after those in its own argument."""
        needed = {s for s, *_ in self.signs if expression.has(s)}
        for s, argument, _, _ in reversed(self.signs):
            if s in needed:
                needed |= {other for other, *_ in self.signs if argument.has(other)}
        return [row for row in self.signs if row[0] in needed]

    def source(self, title: str) -> str:
        """Return a module with ``value``, ``slope``, ``curvature`` (f8(y, u, r)), ``roots(y, out)`` and constants."""
        from .printing import HEADER, assignments

        u, y = self.variable, self.parameter
        lines = [HEADER.format(title=title), STABLE_SOURCE, "", f"KINKS = {len(self.kinks)}"]
        lines += [f"LINEAR_SLOPE = {self.linear_slope}", f"NAMES = {(str(y), str(u))!r}", ""]
        r = u.__class__("r_", real=True)
        for name, expression in (("value", self.smooth), ("slope", self.slope), ("curvature", self.curvature)):
            lines += ["", '@njit("f8(f8, f8, f8)", **OPTIONS)', f"def {name}({y}, {u}, r_):"]
            for symbol, argument, low, high in self._used(expression):
                shared, values = assignments([argument.subs(u, r)], prefix=f"_{symbol}_")
                lines += [*shared, f"    {symbol} = {high}.0 if {values[0]} > 0.0 else {low}.0"]
            shared, values = assignments([expression], prefix="_w")
            lines += [*shared, f"    return 1.0 * ({values[0]})", ""]
        lines += ["", '@njit("i8(f8, f8[::1])", **OPTIONS)', f"def roots({y}, out):"]
        lines += ['    """Fill `out` with the finite kinks for one parameter, sorted; return their number."""']
        lines += ["    count = 0"]
        for root in self.kinks:
            shared, values = assignments([root], prefix="_k")
            lines += [*shared, f"    root = 1.0 * ({values[0]})", "    if math.isfinite(root):"]
            lines += ["        place = count", "        while place > 0 and out[place - 1] > root:"]
            lines += ["            out[place] = out[place - 1]", "            place -= 1"]
            lines += ["        out[place] = root", "        count += 1"]
        return "\n".join([*lines, "    return count"]) + "\n"


def pieces(expression: Any, variable: Any, parameter: Any) -> Pieces:
    """Split a formula at its kinks.

    Parameters
    ----------
    expression : sympy expression
        In `variable` and `parameter`; kinks come from Abs, Max, Min, sign, Heaviside.

    Raises
    ------
    DerivationError
        When the argument of a kinked function is not affine in the variable.
    """
    import sympy as sp

    signs: list[tuple[Any, Any, int, int]] = []

    def refuse(argument: Any) -> DerivationError:
        return DerivationError(
            f"the kink of {expression} cannot be located",
            where=str(argument),
            why=f"the argument of abs, max, sign, ... must be affine in {variable} on every piece",
            hint="write the formula with kinks at affine arguments, or with smooth functions",
        )

    def symbol_for(argument: Any, low: int, high: int) -> Any:
        argument = sp.expand(argument)
        for known, a, lo, hi in signs:
            if (lo, hi) == (low, high) and sp.expand(a - argument) == 0:
                return known
        if not argument.has(variable, *[s for s, *_ in signs]):
            # A sign of the parameter alone: no kink in the variable.
            return sp.sign(argument) if low < 0 else sp.Heaviside(argument, 0)
        if not argument.is_polynomial(variable) or sp.Poly(argument, variable).degree() > 1:
            raise refuse(argument)
        symbol = sp.Symbol(f"s{len(signs)}_", real=True)
        signs.append((symbol, argument, low, high))
        return symbol

    def split(e: Any) -> Any:
        if not e.args:
            return e
        arguments = [split(a) for a in e.args]
        if isinstance(e, sp.Abs):
            return arguments[0] * symbol_for(arguments[0], -1, 1)
        if isinstance(e, sp.sign):
            return symbol_for(arguments[0], -1, 1)
        if isinstance(e, sp.Heaviside):
            return symbol_for(arguments[0], 0, 1)
        if isinstance(e, sp.Max | sp.Min):
            # Numbers, and symbols that stand for them, last: a clip then has the kinks one expects.
            known = {variable, parameter, *(s for s, *_ in signs)}
            result, *others = sorted(arguments, key=lambda a: not a.free_symbols & known)
            for other in others:
                gap = other - result
                step = symbol_for(gap, 0, 1)
                result = result + gap * (step if isinstance(e, sp.Max) else 1 - step)
            return result
        return e.func(*arguments)

    smooth = stabilise(split(sp.sympify(expression)))
    if signs and smooth.is_polynomial(variable):
        smooth = sp.expand(smooth)
    # A symbol with values {0, 1} is its own square, one with values {-1, 1} has the square 1.
    for symbol, _, low, _ in signs:
        smooth = smooth.replace(
            lambda e, s=symbol: isinstance(e, sp.Pow) and e.base == s and e.exp.is_Integer and e.exp > 0,
            lambda e, s=symbol, lo=low: s if lo == 0 or e.exp % 2 else sp.Integer(1),
        )
    return Pieces(expression, variable, parameter, smooth, tuple(signs))
