"""What averages are written with besides elementary functions: nodes that print, differentiate and compile.

`Expectation` is an average without closed form. The others have one, and compile to functions of `numerics.orthant`,
and `numerics.thresholds`, which keep their accuracy where fields nearly coincide; ``.doit()`` gives plain expressions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import sympy as sp

from .factors import ONE


class Expectation(sp.Expr):  # type: ignore[misc]
    """``E[integrand]`` over centred jointly Gaussian fields: no closed form is known, it is computed by quadrature.

    ``args = (integrand, fields, covariance)``: a sympy expression in the field symbols, their tuple, and the
    covariance matrix. `numerical` computes it.
    """

    def __new__(cls, integrand: Any, fields: Any, covariance: Any) -> Expectation:
        return sp.Expr.__new__(cls, sp.sympify(integrand), sp.Tuple(*fields), sp.ImmutableMatrix(covariance))

    @property
    def integrand(self) -> Any:
        """The function of the fields that is averaged."""
        return self.args[0]

    @property
    def fields(self) -> Any:
        """The symbols of the fields."""
        return self.args[1]

    @property
    def covariance(self) -> Any:
        """Covariance matrix of the fields, in the order of `fields`."""
        return self.args[2]

    def _latex(self, printer: Any) -> str:
        return rf"\mathbb{{E}}\left[{printer._print(self.integrand)}\right]"

    def _sympystr(self, printer: Any) -> str:
        return f"E[{printer._print(self.integrand)}]"

    def _eval_is_real(self) -> bool:
        return True

    def numerical(self, rtol: float = 1e-10) -> tuple[float, float]:
        """Return the value and an error estimate once the covariance is a matrix of numbers."""
        from .quadrature import expectation_value

        return expectation_value(self, rtol)

    def _eval_evalf(self, prec: int) -> Any:
        if self.covariance.free_symbols or not self.integrand.free_symbols <= set(self.fields):
            return self
        return sp.Float(self.numerical()[0], 17)


class _MomentOfSigns(sp.Function):  # type: ignore[misc]
    """The average of a product of signs: printed as S of their number, and evaluated by compiled code."""

    signs: int
    value: Callable[..., float]

    def _latex(self, printer: Any, exp: Any = None) -> str:
        inside = rf"\mathcal{{S}}_{self.signs}\left(" + ", ".join(printer._print(a) for a in self.args) + r"\right)"
        return inside if exp is None else rf"{inside}^{{{exp}}}"

    def _eval_evalf(self, prec: int) -> Any:
        if not all(a.is_number for a in self.args):
            return self
        return sp.Float(self.value(*(float(a) for a in self.args)), 17)


class SignMoment2(_MomentOfSigns):
    """``E[sign(u + h) sign(v + k)]`` for centred unit Gaussians u, v of correlation rho; arguments (h, k, rho).

    Without thresholds it is (2/pi) asin(rho). Derivatives are elementary.
    """

    nargs = 3
    signs = 2

    @staticmethod
    def value(*numbers: float) -> float:
        """Return the moment for these arguments."""
        from ..numerics.thresholds import sign_moment2

        return float(sign_moment2.of_numbers(*numbers))

    def fdiff(self, argindex: int = 1) -> Any:
        """One sign becomes a delta function, which fixes its field, or both do."""
        h, k, rho = self.args
        free = 1 - rho**2
        if argindex == 3:
            return 2 * sp.exp(-(h**2 + k**2 - 2 * rho * h * k) / (2 * free)) / (sp.pi * sp.sqrt(free))
        at, other = (h, k) if argindex == 1 else (k, h)
        seen = sp.erf((other - rho * at) / (sp.sqrt(2) * sp.sqrt(free)))
        return sp.sqrt(2 / sp.pi) * sp.exp(-(at**2) / 2) * seen


class SignMoment4(_MomentOfSigns):
    """``E[sign(u1) sign(u2) sign(u3) sign(u4)]`` for centred Gaussians with the correlations (12, 13, 14, 23, 24, 34).

    No elementary form is known; Plackett (1954) gives it as one-dimensional integrals.
    """

    nargs = 6
    signs = 4

    @staticmethod
    def value(*numbers: float) -> float:
        """Return the moment for these arguments."""
        from ..numerics.orthant import sign_moment4

        return float(sign_moment4.of_numbers(*numbers))

    def fdiff(self, argindex: int = 1) -> Any:
        """Plackett's identity: the derivative in one correlation, in terms of the two other fields given this pair."""
        pairs = list(itertools.combinations(range(4), 2))
        r = dict(zip(pairs, self.args, strict=True))
        i, j = pairs[argindex - 1]
        k, l = (m for m in range(4) if m not in (i, j))
        rest = [r[min(pair), max(pair)] for pair in ((i, k), (i, l), (j, k), (j, l), (k, l))]
        return SignSlope4(r[i, j], *rest)


class SignMoment3(_MomentOfSigns):
    """``E[sign(u1 + h1) sign(u2 + h2) sign(u3 + h3)]``, unit Gaussians; arguments (h1, h2, h3, r12, r13, r23).

    Plackett's integrals (1954), as for four signs.
    """

    nargs = 6
    signs = 3

    @staticmethod
    def value(*numbers: float) -> float:
        """Return the moment for these arguments."""
        from ..numerics.thresholds import sign_moment3

        return float(sign_moment3.of_numbers(*numbers))

    def fdiff(self, argindex: int = 1) -> Any:
        """One sign becomes a delta function, which fixes its field, or two do."""
        return _slope_of_signs(self.args[:3], self.args[3:], argindex)


class ShiftedSignMoment4(_MomentOfSigns):
    """``E[prod_a sign(u_a + h_a)]`` of four unit Gaussians; arguments (h1, ..., h4, r12, r13, r14, r23, r24, r34)."""

    nargs = 10
    signs = 4

    @staticmethod
    def value(*numbers: float) -> float:
        """Return the moment for these arguments."""
        from ..numerics.thresholds import shifted_sign_moment4

        return float(shifted_sign_moment4.of_numbers(*numbers))

    def fdiff(self, argindex: int = 1) -> Any:
        """One sign becomes a delta function, which fixes its field, or two do."""
        return _slope_of_signs(self.args[:4], self.args[4:], argindex)


def _slope_of_signs(thresholds: Any, correlations: Any, argindex: int) -> Any:
    """Return the derivative of the moment of signs in one argument: fields are fixed at minus their thresholds."""
    count = len(thresholds)
    pairs = list(itertools.combinations(range(count), 2))
    r = {(a, a): ONE for a in range(count)} | dict(zip(pairs, correlations, strict=True))
    fixed = (argindex - 1,) if argindex <= count else pairs[argindex - 1 - count]
    at = sp.Matrix([-thresholds[a] for a in fixed])
    inside = sp.Matrix(len(fixed), len(fixed), lambda a, b: r[min(fixed[a], fixed[b]), max(fixed[a], fixed[b])])
    inverse = inside.inv()
    density = sp.exp(-(at.T * inverse * at)[0] / 2) / sp.sqrt((2 * sp.pi) ** len(fixed) * inside.det())
    rest = [a for a in range(count) if a not in fixed]
    gains = {a: sp.Matrix([[r[min(a, b), max(a, b)] for b in fixed]]) * inverse for a in rest}
    row = {a: sp.Matrix([r[min(a, b), max(a, b)] for b in fixed]) for a in rest}
    roots = {a: sp.sqrt(1 - (gains[a] * row[a])[0]) for a in rest}
    moved = [(thresholds[a] + (gains[a] * at)[0]) / roots[a] for a in rest]
    left = [(r[a, b] - (gains[a] * row[b])[0]) / (roots[a] * roots[b]) for a, b in itertools.combinations(rest, 2)]
    moment = sp.erf(moved[0] / sp.sqrt(2)) if len(rest) == 1 else SIGN_MOMENTS[len(rest)](*moved, *left)
    return 2 ** len(fixed) * density * moment


SIGN_MOMENTS = {2: SignMoment2, 3: SignMoment3, 4: ShiftedSignMoment4}


class Threshold(sp.Function):  # type: ignore[misc]
    """``m / sqrt(v)``; infinite, with the sign of m, where the variance vanishes: compiled code meets fixed fields."""

    nargs = 2

    def doit(self, **hints: Any) -> Any:
        """Return the plain expression."""
        m, v = (arg.doit(**hints) for arg in self.args)
        return m / sp.sqrt(v)

    def fdiff(self, argindex: int = 1) -> Any:
        """The derivative of the plain expression."""
        m, v = self.args
        return 1 / sp.sqrt(v) if argindex == 1 else -m / (2 * v * sp.sqrt(v))

    def _latex(self, printer: Any, exp: Any = None) -> str:
        inside = printer._print(self.args[0] / sp.sqrt(self.args[1]))
        return inside if exp is None else rf"\left({inside}\right)^{{{exp}}}"


class DensityOfZero(sp.Function):  # type: ignore[misc]
    """``exp(-m^2/(2 v))/sqrt(2 pi v)``: the density at zero of a Gaussian with mean m; compiled as 0 where v = 0."""

    nargs = 2

    def doit(self, **hints: Any) -> Any:
        """Return the plain expression."""
        m, v = (arg.doit(**hints) for arg in self.args)
        return sp.exp(-(m**2) / (2 * v)) / sp.sqrt(2 * sp.pi * v)

    def fdiff(self, argindex: int = 1) -> Any:
        """The derivative of the plain expression."""
        m, v = self.args
        return self * (-m / v if argindex == 1 else (m**2 / v - 1) / (2 * v))

    def _latex(self, printer: Any, exp: Any = None) -> str:
        return printer._print(self.doit() if exp is None else sp.Pow(self.doit(), sp.Symbol(exp)))


class SignSlope4(sp.Function):  # type: ignore[misc]
    """Derivative of `SignMoment4` in the correlation of its first pair; arguments (ij, ik, il, jk, jl, kl).

    ``4/(pi^2 sqrt(1 - r_ij^2))`` times the arcsine of the correlation of k and l given that i and j vanish.
    """

    nargs = 6

    def doit(self, **hints: Any) -> Any:
        """Return the plain expression."""
        ij, ik, il, jk, jl, kl = (arg.doit(**hints) for arg in self.args)
        det = 1 - ij**2
        vk, vl = 1 - (ik**2 + jk**2 - 2 * ij * ik * jk) / det, 1 - (il**2 + jl**2 - 2 * ij * il * jl) / det
        rho = (kl - (ik * il + jk * jl - ij * (ik * jl + jk * il)) / det) / sp.sqrt(vk * vl)
        return 4 / (sp.pi**2 * sp.sqrt(det)) * sp.asin(rho)

    def _eval_evalf(self, prec: int) -> Any:
        return self.doit().evalf(prec) if all(a.is_number for a in self.args) else self


class Schur(sp.Function):  # type: ignore[misc]
    """``c - x y / v``: a covariance given that a field of variance `v` is zero; compiled with recovered rounding."""

    nargs = 4

    def doit(self, **hints: Any) -> Any:
        """Return the plain expression."""
        c, x, y, v = (arg.doit(**hints) for arg in self.args)
        return c - x * y / v

    def fdiff(self, argindex: int = 1) -> Any:
        """The derivative of the plain expression."""
        _, x, y, v = self.args
        return (ONE, -y / v, -x / v, x * y / v**2)[argindex - 1]

    def _latex(self, printer: Any, exp: Any = None) -> str:
        c, x, y, v = self.args
        inside = rf"\left({printer._print(c - x * y / v)}\right)"
        return inside if exp is None else rf"{inside}^{{{exp}}}"


class Given(sp.Function):  # type: ignore[misc]
    """``Cov(f_b, f_c)`` given that the fields a, ... are zero; arguments (b, c, a, ...) are labels.

    For code that knows how fields are made and computes it without cancellation where they nearly coincide.
    """

    def _latex(self, printer: Any, exp: Any = None) -> str:
        b, c, *rest = (printer._print(a) for a in self.args)
        inside = rf"C_{{{b}{c}|{''.join(rest)}}}"
        return inside if exp is None else rf"{inside}^{{{exp}}}"


class Correlation(sp.Function):  # type: ignore[misc]
    """``s / sqrt(a b)``, zero where a variance vanishes: compiled code meets fields that coincide."""

    nargs = 3

    def doit(self, **hints: Any) -> Any:
        """Return the plain expression."""
        s, a, b = (arg.doit(**hints) for arg in self.args)
        return s / (sp.sqrt(a) * sp.sqrt(b))

    def fdiff(self, argindex: int = 1) -> Any:
        """The derivative of the plain expression."""
        s, a, b = self.args
        root = sp.sqrt(a) * sp.sqrt(b)
        return (1 / root, -s / (2 * a * root), -s / (2 * b * root))[argindex - 1]

    def _latex(self, printer: Any, exp: Any = None) -> str:
        s, a, b = self.args
        inside = rf"\frac{{{printer._print(s)}}}{{\sqrt{{{printer._print(a)}\,{printer._print(b)}}}}}"
        return inside if exp is None else rf"\left({inside}\right)^{{{exp}}}"


class DensityAtZero(sp.Function):  # type: ignore[misc]
    """``1/sqrt(2 pi v)``: the density of a centred Gaussian at zero; compiled as 0 for a field fixed at zero."""

    nargs = 1

    def doit(self, **hints: Any) -> Any:
        """Return the plain expression."""
        return 1 / sp.sqrt(2 * sp.pi * self.args[0].doit(**hints))

    def fdiff(self, argindex: int = 1) -> Any:
        """The derivative of the plain expression."""
        return -DensityAtZero(self.args[0]) / (2 * self.args[0])

    def _latex(self, printer: Any, exp: Any = None) -> str:
        inside = rf"\frac{{1}}{{\sqrt{{2\pi {printer._print(self.args[0])}}}}}"
        return inside if exp is None else rf"\left({inside}\right)^{{{exp}}}"
