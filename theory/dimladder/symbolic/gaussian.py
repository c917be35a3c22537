"""Exact averages of products of functions of jointly Gaussian fields.

`average` reduces ``E[prod_a g_a(f_a)]`` by five rules, in this order, until nothing is left:

1. a delta function conditions the other fields on ``f_a = 0``;
2. a Gaussian factor ``exp(-p f^2/2)`` tilts the covariance: ``C - p C_a C_a^T / (1 + p C_aa)`` (Schur complement);
3. an exponential ``exp(b f)`` shifts the means by ``b C_a`` (Cameron-Martin);
4. a power of a field goes by Stein's lemma: ``E[f_a F] = m_a E[F] + sum_b C_ab E[dF/df_b]``;
5. what is left is a product of waves (characteristic function) or of signs and erfs. ``erf(s f/sqrt 2)`` is the average
   of ``sign(s f + xi)`` over a fresh standard normal ``xi``, so products of both are orthant moments: an arcsine for
   two, Plackett's integral for four (`SignMoment4`), zero for an odd number. With means, an erf for one and
   `SIGN_MOMENTS` for two, three and four.

Anything else stays an explicit `Expectation` node.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any

import sympy as sp

from .factors import ONE, UNIT, ZERO, Factor, Terms, X, decompose, differentiate, product
from .nodes import (
    SIGN_MOMENTS,
    Correlation,
    DensityAtZero,
    DensityOfZero,
    Expectation,
    Given,
    Schur,
    SignMoment4,
    Threshold,
)

Label = Hashable


class Law:
    """A joint Gaussian law: covariances and means by label.

    Parameters
    ----------
    covariance : callable
        ``covariance(a, b)`` for two labels, symmetric.
    mean : callable, optional
        ``mean(a)``; zero when left out.
    name : callable, optional
        Gives a short name to an entry of a conditioned covariance: ``name(hint, expression) -> symbol``. Without it
        expressions nest.
    guarded : {"", "schur", "given"}
        Write conditioning with `Schur`, `Correlation` and `DensityAtZero` nodes, with means `DensityOfZero` and
        `Threshold`, which compile to code that survives coinciding fields; ``.doit()`` gives the plain expressions. Or
        with `Given` nodes in the place of `Schur`.
    """

    def __init__(
        self,
        covariance: Callable[[Any, Any], Any],
        mean: Callable[[Any], Any] | None = None,
        name: Callable[[str, Any], Any] | None = None,
        key: tuple[Any, ...] = (),
        guarded: str = "",
    ) -> None:
        self._covariance, self._mean, self._name, self.key = covariance, mean, name, key
        self.guarded = guarded
        self._entries: dict[Any, Any] = {}

    @classmethod
    def of_matrix(cls, matrix: Any, **options: Any) -> Law:
        """Labels are the row numbers of a symmetric matrix."""
        return cls(lambda a, b: matrix[min(a, b), max(a, b)], **options)

    def cov(self, a: Any, b: Any) -> Any:
        """Return Cov(f_a, f_b)."""
        pair = tuple(sorted((a, b), key=sp.default_sort_key))
        if pair not in self._entries:
            self._entries[pair] = self._label("S", sp.sympify(self._covariance(*pair)))
        return self._entries[pair]

    def mean(self, a: Any) -> Any:
        """Return E[f_a]."""
        if self._mean is None:
            return ZERO
        if ("m", a) not in self._entries:
            self._entries["m", a] = self._label("m", self._mean(a))
        return self._entries["m", a]

    def _label(self, hint: str, value: Any) -> Any:
        if self._name is None or value.is_Atom or isinstance(value, sp.Indexed) or not self.key:
            return value
        return self._name(hint, value)

    def _changed(self, a: Any, gain: Any, how: Any) -> Law:
        """Covariance C_bc - gain C_ab C_ac, mean m_b - gain C_ab m_a: the law after tilting or conditioning."""
        mean = None
        if self._mean is not None:

            def mean(b: Any) -> Any:
                if self.guarded and how == "at 0":
                    return Schur(self.mean(b), self.cov(a, b), self.mean(a), 1 / gain)
                return self.mean(b) - gain * self.cov(a, b) * self.mean(a)

        changes = (*self.key, (a, how))
        if self._mean is None:
            changes = tuple(sorted(changes, key=str))

        def covariance(b: Any, c: Any) -> Any:
            first, second = self.cov(a, b), self.cov(a, c)
            if first == 0 or second == 0:
                return self.cov(b, c)
            if self.guarded == "given" and how == "at 0":
                fixed = [label for label, cause in changes if cause == "at 0"]
                return Given(*sorted((b, c), key=sp.default_sort_key), *fixed)
            if self.guarded and how == "at 0":
                return Schur(self.cov(b, c), first, second, 1 / gain)
            return self.cov(b, c) - gain * first * second

        return type(self)(covariance, mean, self._name, changes, self.guarded)

    def tilted(self, a: Any, p: Any) -> tuple[Any, Law]:
        """Return ``E[exp(-p f_a^2/2)]`` and the law under that weight."""
        norm = 1 + p * self.cov(a, a)
        weight = sp.exp(-p * self.mean(a) ** 2 / (2 * norm)) / sp.sqrt(norm)
        return weight, self._changed(a, p / norm, p)

    def conditioned(self, a: Any) -> tuple[Any, Law]:
        """Return ``E[delta(f_a)]`` and the law given ``f_a = 0``."""
        variance = self.cov(a, a)
        if self.guarded:
            weight = DensityAtZero(variance) if self.centred else DensityOfZero(self.mean(a), variance)
        else:
            weight = sp.exp(-(self.mean(a) ** 2) / (2 * variance)) / sp.sqrt(2 * sp.pi * variance)
        return weight, self._changed(a, 1 / variance, "at 0")

    def shifted(self, a: Any, b: Any) -> tuple[Any, Law]:
        """Return ``E[exp(b f_a)]`` and the law under that weight."""
        weight = sp.exp(b * self.mean(a) + b**2 * self.cov(a, a) / 2)
        return weight, type(self)(
            self.cov,
            lambda c: self.mean(c) + b * self.cov(a, c),
            self._name,
            (*self.key, (a, "shift", b)),
            self.guarded,
        )

    @property
    def centred(self) -> bool:
        """Whether every mean is zero by construction."""
        return self._mean is None


State = tuple[tuple[Any, Factor], ...]


class Averager:
    """Averages over one law and those that follow from it; equal sub-averages are computed once.

    Parameters
    ----------
    law : Law
    name : callable, optional
        ``name(hint, expression) -> symbol`` for every sub-average: results become straight-line programs instead of
        nested expressions.
    """

    def __init__(self, law: Law, name: Callable[[str, Any], Any] | None = None) -> None:
        self.law, self._name = law, name
        self._memo: dict[Any, Any] = {}

    def average(self, functions: Mapping[Any, Terms]) -> Any:
        """Return ``E[prod_label function(f_label)]`` as a sympy expression."""
        total = ZERO
        for choice in itertools.product(*functions.values()):
            coefficient = sp.Mul(*(c for c, _ in choice))
            state = tuple((label, factor) for label, (_, factor) in zip(functions, choice, strict=True))
            total += coefficient * self._reduce(state, self.law)
        return total

    def _reduce(self, state: State, law: Law) -> Any:
        state = tuple(
            sorted(((a, f) for a, f in state if not f.trivial), key=lambda item: sp.default_sort_key(item[0]))
        )
        if not state:
            return ONE
        key = (state, law.key)
        if key not in self._memo:
            value = self._rules(state, law)
            if self._name is not None and not (value.is_Atom or value.is_number):
                value = self._name("E", value)
            self._memo[key] = value
        return self._memo[key]

    def _rules(self, state: State, law: Law) -> Any:
        if law.centred and _odd(state):
            return ZERO
        parts = _independent(state, law)
        if len(parts) > 1:
            return sp.Mul(*(self._reduce(p, law) for p in parts))
        for position, (a, factor) in enumerate(state):
            rest = state[:position] + state[position + 1 :]
            if factor.delta:
                weight, changed = law.conditioned(a)
                return weight * self._reduce(rest, changed)
        for position, (a, factor) in enumerate(state):
            rest = state[:position] + state[position + 1 :]
            if factor.precision != 0:
                weight, changed = law.tilted(a, factor.precision)
                return weight * self._reduce((*rest, (a, replace(factor, precision=ZERO))), changed)
            if factor.slope != 0:
                weight, changed = law.shifted(a, factor.slope)
                return weight * self._reduce((*rest, (a, replace(factor, slope=ZERO))), changed)
        # Stein on the lowest power first: fewest terms.
        powers = [(f.power, position) for position, (_, f) in enumerate(state) if f.power and _stein(state, position)]
        if powers:
            return self._stein(state, min(powers)[1], law)
        return self._base(state, law)

    def _stein(self, state: State, position: int, law: Law) -> Any:
        a, factor = state[position]
        lowered = (*state[:position], (a, replace(factor, power=factor.power - 1)), *state[position + 1 :])
        total = law.mean(a) * self._reduce(lowered, law) if law.mean(a) != 0 else ZERO
        for q, (b, other) in enumerate(lowered):
            covariance = law.cov(a, b)
            if covariance == 0 or other.trivial:
                continue
            for c, slope in differentiate(((ONE, other),)):
                total += covariance * c * self._reduce((*lowered[:q], (b, slope), *lowered[q + 1 :]), law)
        return total

    def _base(self, state: State, law: Law) -> Any:
        signs = [(a, None) for a, f in state if f.sign] + [(a, s) for a, f in state for s in f.erfs]
        waves = [(a, *f.wave) for a, f in state if f.wave is not None]
        plain = all(f == Factor(sign=f.sign, erfs=f.erfs, wave=f.wave) for _, f in state)
        if plain and waves and not signs:
            return _characteristic(waves, law)
        if plain and signs and not waves:
            value = _orthant_moment(signs, law)
            if value is not None:
                return value
        return expectation_node(state, law)


def _stein(state: State, position: int) -> bool:
    """Whether Stein's lemma may differentiate every other factor (opaque ones only where they are smooth)."""
    return not any(
        f.opaque != 1 and f.opaque.has(sp.sign, sp.Heaviside, sp.Piecewise, sp.Max, sp.Min) for _, f in state
    )


def _odd(state: State) -> bool:
    """Whether the product is odd under a change of sign of all fields, so that its centred average is zero."""
    parity = 0
    for _, f in state:
        if f.opaque != 1 or f.slope != 0 or f.wave is not None:
            return False
        parity += f.power + len(f.erfs) + f.sign
    return parity % 2 == 1


def _independent(state: State, law: Law) -> list[State]:
    """Split a product into groups of fields that are uncorrelated by construction."""
    groups: list[list[Any]] = []
    for item in state:
        linked = [g for g in groups if any(law.cov(item[0], other[0]) != 0 for other in g)]
        merged = [item, *(x for g in linked for x in g)]
        groups = [g for g in groups if g not in linked] + [merged]
    return [tuple(g) for g in groups]


def _characteristic(waves: list[tuple[Any, Any, Any]], law: Law) -> Any:
    """E[prod cos(w_a f_a + phase_a)]: products to sums, then E[cos(u)] = cos(mean) exp(-variance/2)."""
    total = ZERO
    first, *others = waves
    for signs in itertools.product((1, -1), repeat=len(others)):
        terms = [first, *((a, s * w, s * p) for s, (a, w, p) in zip(signs, others, strict=True))]
        mean = sum((w * law.mean(a) + p for a, w, p in terms), ZERO)
        variance = sum((w * v * law.cov(a, b) for a, w, _ in terms for b, v, _ in terms), ZERO)
        total += sp.cos(mean) * sp.exp(-variance / 2)
    return total / 2 ** len(others)


def _orthant_moment(signs: list[tuple[Any, Any]], law: Law) -> Any:
    """E of a product of sign(f_a) (scale None) and erf(s f_a / sqrt 2); None where no closed form is known."""

    def variance(unit: tuple[Any, Any]) -> Any:
        a, s = unit
        return law.cov(a, a) if s is None else 1 + s**2 * law.cov(a, a)

    def correlation(one: tuple[Any, Any], two: tuple[Any, Any]) -> Any:
        scale = (ONE if one[1] is None else one[1]) * (ONE if two[1] is None else two[1])
        if law.guarded and one[1] is None and two[1] is None:
            return Correlation(law.cov(one[0], two[0]), variance(one), variance(two))
        return scale * law.cov(one[0], two[0]) / (sp.sqrt(variance(one)) * sp.sqrt(variance(two)))

    def threshold(unit: tuple[Any, Any]) -> Any:
        a, s = unit
        if s is None and law.guarded:
            return Threshold(law.mean(a), variance(unit))
        return (ONE if s is None else s) * law.mean(a) / sp.sqrt(variance(unit))

    if not law.centred:
        if len(signs) == 1:
            return sp.erf(threshold(signs[0]) / sp.sqrt(2))
        if len(signs) not in SIGN_MOMENTS:
            return None
        pairs = itertools.combinations(signs, 2)
        return SIGN_MOMENTS[len(signs)](*map(threshold, signs), *(correlation(a, b) for a, b in pairs))
    if len(signs) % 2:
        return ZERO
    if len(signs) == 2:
        return 2 / sp.pi * sp.asin(correlation(*signs))
    if len(signs) == 4:
        return SignMoment4(*(correlation(a, b) for a, b in itertools.combinations(signs, 2)))
    return None


def expectation_node(state: State, law: Law) -> Any:
    """Return the explicit ``E[...]`` of a product, its fields named after their labels."""
    symbols = {a: _field_symbol(a) for a, _ in state}
    integrand = sp.Mul(*(f.expression(symbols[a]) for a, f in state))
    labels = [a for a, _ in state]
    if not law.centred:
        integrand = integrand.subs({symbols[a]: symbols[a] + law.mean(a) for a in labels}, simultaneous=True)
    matrix = [[law.cov(a, b) for b in labels] for a in labels]
    return Expectation(integrand, [symbols[a] for a in labels], matrix)


def _field_symbol(label: Any) -> Any:
    if isinstance(label, sp.Expr) and not label.is_number:
        return (
            label
            if isinstance(label, sp.Symbol) and str(label).startswith("f")
            else sp.Symbol(f"f_{{{label}}}", real=True)
        )
    return sp.Symbol(f"f_{label}", real=True)


def average(functions: Mapping[Any, Any], law: Law) -> Any:
    """Return ``E[prod g_a(f_a)]`` for functions given as sympy expressions in `factors.X`.

    Parameters
    ----------
    functions : mapping
        Label -> expression in `X`, or terms from `factors.decompose`.
    law : Law
        Covariances (and means) by label.

    Examples
    --------
    >>> C = sp.Matrix(2, 2, lambda a, b: sp.Symbol(f"C{min(a, b)}{max(a, b)}"))
    >>> average({0: X**2, 1: X**2}, Law.of_matrix(C))
    C00*C11 + 2*C01**2
    """
    terms = {label: g if isinstance(g, tuple) else decompose(sp.sympify(g)) for label, g in functions.items()}
    return sp.expand(Averager(law).average(terms))


def average_expression(expression: Any, fields: Mapping[Any, Any], law: Law) -> Any:
    """Return ``E[expression]`` for an expression in several field symbols.

    Products of one-field functions are averaged exactly; a summand that couples fields inside one function (such as
    ``tanh(z1 + z2)``) stays an `Expectation`.

    Parameters
    ----------
    expression : sympy expression
    fields : mapping
        Symbol -> label in `law`.
    law : Law
    """
    averager = Averager(law)
    total = ZERO
    for functions, coupled in split_product(expression, fields):
        if coupled is None:
            total += averager.average(functions)
        else:
            used = [s for s in fields if coupled.has(s)]
            matrix = [[law.cov(fields[s], fields[t]) for t in used] for s in used]
            total += Expectation(coupled, used, matrix)
    return total


def split_product(expression: Any, fields: Mapping[Any, Any]) -> list[tuple[dict[Any, Terms], Any]]:
    """Write an expression in field symbols as a sum of products of one-field functions.

    Returns pairs ``(functions by label, None)``, or ``({}, summand)`` for a summand that does not factorise.
    """
    out: list[tuple[dict[Any, Terms], Any]] = []
    for summand in sp.Add.make_args(sp.expand(expression)):
        functions: dict[Any, Terms] = {}
        coefficient = ONE
        for part in sp.Mul.make_args(summand):
            used = [s for s in fields if part.has(s)]
            if len(used) > 1:
                out.append(({}, summand))
                break
            if not used:
                coefficient *= part
                continue
            label, piece = fields[used[0]], decompose(part.subs(used[0], X))
            functions[label] = product(functions[label], piece) if label in functions else piece
        else:
            label = next(iter(functions or fields.values()))
            functions[label] = tuple((coefficient * c, f) for c, f in functions.get(label, ((ONE, UNIT),)))
            out.append((functions, None))
    return out
