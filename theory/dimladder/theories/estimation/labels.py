"""Labels as a law: a formula in latent fields and noise, brought to one Gaussian field t and a function of it.

A target y = phi(z, n1, n2, ...) with z ~ N(0, rho) and standard normal noises is a mixture of *components*. In each,
the label depends on one field t = c z + noise, Var t = c^2 rho + s^2:

* ``linear``: y = intercept + slope t + noise;
* ``thresholds``: y is constant between cuts of t (``sign(z + 0.3*n1)``), so that its probability given a field is a sum
  of normal integrals;
* ``logit``: y = +-1 with P(+1 | t) = 1/(1 + exp(-a(t)));
* ``smooth``: any other y = psi(t) + noise.

Noise that multiplies or bends the field (``z*n1``) is a mixture over its quadrature nodes. Outliers and flips mix in
components of their own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DerivationError
from ...numerics.quadrature import gauss_hermite
from ...numerics.scalars import expit, find_root, ndtr

Array = NDArray[np.float64]
# Nodes of noise that is not additive: Gauss-Hermite.
_NOISE_NODES = 40
# Where thresholds are searched, in standard deviations of the field, and how finely.
_RANGE, _GRID = 12.0, 4001


@dataclass(frozen=True)
class Component:
    """One label law of a mixture; see the module's description.

    Attributes
    ----------
    probability : float
    kind : str
        ``"linear"``, ``"thresholds"``, ``"logit"`` or ``"smooth"``.
    gain : float
        c, the derivative of t in the latent field z.
    inner : float
        s^2, the variance of the noise inside t.
    outer : float
        Variance of independent noise added to the label.
    text : str
        psi in the symbol ``t``, as sympy's ``srepr`` writes it; for ``logit`` its argument a(t).
    call : callable
        The same as a function of arrays.
    labels, cuts : tuples
        ``thresholds``: label of each interval of t, and the cuts between them.
    flip : float
        Probability that a label +-1 is reported with the other sign.
    slope, intercept : float
        Of a ``linear`` component.
    """

    probability: float
    kind: str
    gain: float
    inner: float
    outer: float
    text: str
    call: Any = field(compare=False)
    labels: tuple[float, ...] = ()
    cuts: tuple[float, ...] = ()
    flip: float = 0.0
    slope: float = 0.0
    intercept: float = 0.0

    @classmethod
    def of(cls, kind: str, formula: Any, *, gain: float, inner: float, outer: float = 0.0, **more: Any) -> Component:
        """Return the component of a sympy expression in t."""
        import sympy as sp

        t = sp.Symbol("t", real=True)
        if kind == "linear":
            more |= {"slope": float(sp.diff(formula, t)), "intercept": float(formula.subs(t, 0))}
        call = sp.lambdify(t, formula, modules=["scipy", "numpy"])
        return cls(1.0, kind, gain, inner, outer, sp.srepr(formula), call, **more)

    def variance(self, rho: float) -> float:
        """Var t for a latent field of variance rho."""
        return self.gain**2 * rho + self.inner

    @property
    def formula(self) -> Any:
        """psi (or the argument of logit) in sympy, of the real symbol t."""
        import sympy as sp

        return sp.sympify(self.text)

    def function(self, x: Any) -> Array:
        """psi (or the argument of logit) of an array of t."""
        x = np.asarray(x, dtype=float)
        return np.asarray(self.call(x) + 0.0 * x)

    def values(self) -> tuple[float, ...]:
        """Distinct labels of a discrete component, sorted from the largest."""
        if self.kind == "logit":
            return (1.0, -1.0)
        found = set(self.labels)
        if self.flip:
            found |= {-y for y in found}
        return tuple(sorted(found, reverse=True))

    def table(self) -> tuple[Array, Array, Array]:
        """Labels, rows (low, high, weight) of their intervals of t, and the first row of each label's."""
        edges = (-math.inf, *self.cuts, math.inf)
        rows, offsets, values = [], [0.0], self.values()
        for value in values:
            for (low, high), label in zip(itertools.pairwise(edges), self.labels, strict=True):
                weight = (1.0 - self.flip) * (label == value) + self.flip * (label == -value)
                if weight > 0.0:
                    rows.append((low, high, weight))
            offsets.append(float(len(rows)))
        return np.array(values), np.array(rows), np.array(offsets)

    def nodes(self, rho: float, count: int = 16, width: float = 0.5) -> tuple[Array, Array]:
        """Nodes of t ~ N(0, Var t) and weights, split where psi has kinks or jumps (`cuts`)."""
        from ...numerics.quadrature import gauss_legendre

        s = math.sqrt(self.variance(rho))
        tail = 9.5
        ends = sorted({-tail, tail, *(c / s for c in self.cuts if abs(c) < tail * s)})
        edges = [ends[0]]
        for a, b in itertools.pairwise(ends):
            panels = max(1, math.ceil((b - a) / width))
            edges += [a + (b - a) * (j + 1) / panels for j in range(panels)]
        x0, w0 = gauss_legendre(count)
        low, high = np.array(edges[:-1])[:, None], np.array(edges[1:])[:, None]
        x = (low + high) / 2 + (high - low) / 2 * x0
        w = (high - low) / 2 * w0 * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
        keep = w.ravel() > 1e-22
        return s * x.ravel()[keep], w.ravel()[keep]


@dataclass(frozen=True)
class LabelLaw:
    """A mixture of components with one latent field."""

    components: tuple[Component, ...]
    text: str
    clean: Component

    @property
    def discrete(self) -> bool:
        """Whether labels take finitely many values."""
        return all(c.kind in ("thresholds", "logit") for c in self.components)

    @property
    def values(self) -> tuple[float, ...]:
        """Distinct labels when discrete."""
        return tuple(sorted({v for c in self.components for v in c.values()}, reverse=True)) if self.discrete else ()

    @property
    def two_valued(self) -> bool:
        """Whether every label is -1 or +1."""
        return self.discrete and set(self.values) <= {-1.0, 1.0}

    def range(self, rho: float) -> Array:
        """Labels that a check over the label's range should try."""
        if self.discrete:
            return np.array(self.values)
        out = []
        for c in self.components:
            t = math.sqrt(c.variance(rho)) * np.linspace(-4, 4, 17)
            for shift in (-3.0, 0.0, 3.0):
                out.append(c.function(t) + shift * math.sqrt(c.outer))
        return np.unique(np.concatenate(out))

    def moments(self, rho: float) -> tuple[float, float, float]:
        """E y, E y^2 and E d_z y = E[y z]/rho."""
        mean = second = cross = 0.0
        for c in self.components:
            a, b, d = component_moments(c, rho)
            mean, second, cross = mean + c.probability * a, second + c.probability * b, cross + c.probability * d
        return mean, second, cross

    def symmetric(self) -> bool:
        """Whether the law of (z, y) is that of (-z, -y)."""
        for c in self.components:
            if c.kind == "thresholds":
                same = all(math.isclose(a, -b, abs_tol=1e-12) for a, b in zip(c.cuts, c.cuts[::-1], strict=True))
                odd = all(a == -b for a, b in zip(c.labels, c.labels[::-1], strict=True))
                if not (same and odd):
                    return False
            else:
                t = np.linspace(0.01, 6.0, 301)
                if np.max(np.abs(c.function(t) + c.function(-t))) > 1e-12 * np.max(np.abs(c.function(t)) + 1.0):
                    return False
        return True


def component_moments(c: Component, rho: float) -> tuple[float, float, float]:
    """E y, E y^2, E d_z y of one component."""
    variance = c.variance(rho)
    s = math.sqrt(variance)
    if c.kind == "linear":
        return c.intercept, c.intercept**2 + c.slope**2 * variance + c.outer, c.gain * c.slope
    if c.kind == "thresholds":
        edges = np.array([-math.inf, *c.cuts, math.inf]) / s
        mass = np.diff(ndtr(edges))
        dens = np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
        y, keep = np.array(c.labels), 1.0 - 2.0 * c.flip
        push = float(y @ (dens[:-1] - dens[1:])) / s
        return keep * float(y @ mass), float(y**2 @ mass) + c.outer, keep * c.gain * push
    t, w = c.nodes(rho)
    y = c.function(t)
    keep = 1.0
    second = float(w @ y**2) + c.outer
    if c.kind == "logit":
        y, keep, second = 2.0 * expit(y) - 1.0, 1.0 - 2.0 * c.flip, 1.0
    return keep * float(w @ y), second, keep * c.gain * float(w @ (y * t)) / variance


def constant_law(y: float) -> LabelLaw:
    """Return the law of a label that is certain."""
    only = Component(1.0, "thresholds", 0.0, 1.0, 0.0, f"Float({y!r})", lambda t: y, labels=(y,))
    return LabelLaw((only,), f"{y:g}", only)


@dataclass(frozen=True)
class Form:
    """What of a label law its formulas decide: components of the label, of outliers, and the label without noise."""

    main: tuple[Component, ...]
    outliers: tuple[Component, ...]
    clean: Component

    def law(self, flip: float, noise: float, share: float, text: str) -> LabelLaw:
        """Return the law with the numbers put in.

        Raises
        ------
        DerivationError
            When a flip meets labels that are not -1 and +1.
        """
        if flip and not all(c.kind in ("thresholds", "logit") and set(c.values()) <= {-1.0, 1.0} for c in self.main):
            raise DerivationError(
                "only labels -1 and +1 can be flipped", where=f"target.flip = {flip:g}", why=f"the formula is {text!r}"
            )
        main = [
            replace(c, probability=(1.0 - share) * c.probability, flip=flip) if c.kind in ("thresholds", "logit")
            else replace(c, probability=(1.0 - share) * c.probability, outer=c.outer + noise**2)
            for c in self.main
        ]  # fmt: skip
        others = [replace(c, probability=share * c.probability) for c in self.outliers]
        return LabelLaw((*main, *others), text, self.clean)


def has_outliers(target: Any) -> bool:
    """Whether an index target has a share of outliers."""
    return target.outliers is not None and target.outliers.probability > 0.0


def stored_form(target: Any) -> Form:
    """Return the form of an index target from the store: sympy derives it where it is new."""
    from ...symbolic import store

    other = target.outliers.formula if has_outliers(target) else ""
    parts = ("label-law", target.formula, target.hermite, target.is_logit, target.noise > 0.0, other, target.fields)
    kept = store.module(parts, lambda: _form_source(target), native=True)
    groups: tuple[list[Component], ...] = ([], [], [])
    for number, (group, numbers) in enumerate(kept.COMPONENTS):
        groups[group].append(Component(**numbers, call=getattr(kept, f"field_{number}")))
    return Form(tuple(groups[0]), tuple(groups[1]), groups[2][0])


def _form_source(target: Any) -> str:
    import sympy as sp

    from ...symbolic.array_code import array_functions

    form = form_of_target(target)
    t = sp.Symbol("t", real=True)
    rows, functions = [], {}
    every = [(k, c) for k, group in enumerate((form.main, form.outliers, (form.clean,))) for c in group]
    for number, (group, c) in enumerate(every):
        rows.append((group, {f.name: _plain(getattr(c, f.name)) for f in fields(c) if f.name != "call"}))
        functions[f"field_{number}"] = ((t,), c.formula)
    return array_functions(functions, f"law of the label {target.formula}", {"COMPONENTS": rows})


def _plain(value: Any) -> Any:
    """Return numbers that are written as they are read."""
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return value if isinstance(value, str) else float(value)


def form_of_target(target: Any, placed: Callable[[Any], Any] = lambda e: e) -> Form:
    """Return the form of an index target whose formulas are changed first."""
    from ...problem.checks import formula
    from ...problem.targets import INDEX_VARIABLES

    other = None
    if has_outliers(target):
        other = placed(formula("outliers.formula", target.outliers.formula, INDEX_VARIABLES, target.hermite).sympy())
    return label_form(
        placed(target.expression.sympy()), target.noise > 0.0, target.is_logit, other, target.formula,
        not target.fields,
    )  # fmt: skip


def label_law(
    formula: Any, *, flip: float = 0.0, noise: float = 0.0, logit: bool = False,
    outliers: tuple[float, Any] | None = None, text: str = "", free: bool = False,
) -> LabelLaw:  # fmt: skip
    """Build the law of y from its formula in sympy.

    Parameters
    ----------
    formula : sympy expression
        In ``z`` and ``n1, n2, ...`` (real symbols); with `logit` the argument of the logistic probability.
    flip : float
        Probability of the other sign, for labels -1 and +1.
    noise : float
        Standard deviation of noise added to the label.
    outliers : (probability, formula), optional
        With this probability the label is the other formula's.
    free : bool
        Whether the label need not depend on the latent field.

    Raises
    ------
    DerivationError
        When a formula has no latent field, depends on more than one, or a flip meets labels that are not -1 and +1.
    """
    share, other = outliers or (0.0, None)
    return label_form(formula, noise > 0.0, logit, other, text, free).law(flip, noise, share, text)


@lru_cache(maxsize=256)
def label_form(formula: Any, noisy: bool, logit: bool, outliers: Any, text: str, free: bool) -> Form:
    """Return the form of `label_law`; `noisy` says whether noise is added, `outliers` is their formula or None."""
    import sympy as sp

    z = sp.Symbol("z", real=True)
    if formula.has(sp.Symbol("z1", real=True)) and not formula.has(z):
        formula = formula.subs(sp.Symbol("z1", real=True), z)
    more = [s for s in formula.free_symbols if s.name.startswith("z") and s != z]
    if more:
        raise DerivationError(
            "a student with one output sees a target of several latent fields",
            where=f"target.formula = {text!r}",
            why=f"{', '.join(sorted(s.name for s in more))} beside z",
            hint='use one latent field z, or algorithm.kind = "bayes" for two',
        )
    main = _components(formula, z, noisy, logit, text, free)
    quiet = formula.subs({s: 0 for s in formula.free_symbols if s.name.startswith("n")})
    clean = _components(quiet, z, False, logit, text, True)[0]
    others = [] if outliers is None else _components(outliers, z, False, False, text, True)
    return Form(tuple(main), tuple(others), clean)


def _components(
    formula: Any, z: Any, noisy: bool, logit: bool, text: str, free: bool = False, outer: float = 0.0
) -> list[Component]:
    import sympy as sp

    noises = sorted((s for s in formula.free_symbols if s.name.startswith("n")), key=lambda s: s.name)
    if not formula.has(z) and not free:
        raise DerivationError(
            "the label does not depend on the input", where=f"target.formula = {text!r}",
            hint="use the latent field z",
        )  # fmt: skip
    # Noise that is only added joins `outer`.
    if not logit:
        for n in noises:
            rest = sp.expand(formula - sp.diff(formula, n) * n)
            amplitude = sp.diff(formula, n)
            if amplitude.is_number and not rest.has(n):
                outer += float(amplitude) ** 2
                formula = rest
        noises = [n for n in noises if formula.has(n)]
    variables = [z, *noises]
    direction = _direction(formula, variables)
    if direction is None and noises:
        # Not one field: a mixture over the nodes of the last noise, if the label is smooth in it.
        if any(e.has(*noises) for e in formula.atoms(sp.sign, sp.Heaviside, sp.Abs, sp.Max, sp.Min)):
            raise DerivationError(
                "noise inside a jump or a kink must enter by one combination with z",
                where=f"target.formula = {text!r}",
                why="the quadrature over that noise would not converge",
                hint='write it as in "sign(z + 0.3*n1)", or add the noise to the label',
            )
        x, w = gauss_hermite(_NOISE_NODES)
        return [
            replace(c, probability=float(p) * c.probability)
            for node, p in zip(x, w, strict=True)
            if p > 1e-18
            for c in _components(formula.subs(noises[-1], float(node)), z, noisy, logit, text, free, outer)
        ]
    assert direction is not None
    return [_component(formula, variables, direction, outer, noisy, logit)]


def _direction(formula: Any, variables: list[Any]) -> tuple[float, ...] | None:
    """Coefficients of the one affine combination of the variables that the formula depends on, or None."""
    import sympy as sp

    found: list[tuple[float, ...]] = []

    def visit(e: Any) -> None:
        if not e.has(*variables):
            return
        if e.is_polynomial(*variables) and sp.Poly(e, *variables).total_degree() <= 1:
            row = tuple(float(sp.diff(e, v)) for v in variables)
            scale = next(r for r in row if r != 0.0)
            found.append(tuple(r / scale for r in row))
            return
        if isinstance(e, sp.Add):
            # Group the affine part of a sum: sin(z + n) + z + n is one combination, z + tanh(n) is two.
            affine = [a for a in e.args if a.is_polynomial(*variables) and sp.Poly(a, *variables).total_degree() <= 1]
            part = sp.Add(*affine)
            for a in e.args:
                if a not in affine:
                    visit(a)
            visit(part)
            return
        for a in e.args:
            visit(a)

    visit(formula)
    if not found:
        return tuple(1.0 if i == 0 else 0.0 for i in range(len(variables)))
    first = found[0]
    same = all(max(abs(a - b) for a, b in zip(first, row, strict=True)) < 1e-12 for row in found)
    return first if same else None


def _component(
    formula: Any, variables: list[Any], direction: tuple[float, ...], outer: float, noisy: bool, logit: bool
) -> Component:
    import sympy as sp

    t = sp.Symbol("t", real=True)
    gain, rest = direction[0], direction[1:]
    if gain:
        scaled = tuple(r / gain for r in rest)
        gain, inner = 1.0, sum(r**2 for r in scaled)
        formula = formula.subs({variables[0]: t, **dict.fromkeys(variables[1:], 0)})
    else:
        # No latent field: t is the noise alone, along the first noise that enters.
        lead = next((i for i, r in enumerate(rest) if r), None)
        inner = sum(r**2 for r in rest) / rest[lead] ** 2 if lead is not None else 1.0
        pick = {n: (t if i == lead else 0) for i, n in enumerate(variables[1:])}
        formula = formula.subs({**pick, variables[0]: 0})
    if logit:
        return Component.of("logit", formula, gain=gain, inner=inner, cuts=_cuts(formula, t))
    if formula.is_polynomial(t) and (not formula.has(t) or sp.Poly(formula, t).degree() <= 1):
        return Component.of("linear", formula, gain=gain, inner=inner, outer=outer)
    cuts = _cuts(formula, t)
    probe = Component.of("smooth", formula, gain=gain, inner=inner, outer=outer, cuts=cuts)
    edges = (-_RANGE, _RANGE) if not cuts else (cuts[0] - 10.0, *cuts, cuts[-1] + 10.0)
    inside = [[a + (b - a) * f for f in (0.21, 0.5, 0.83)] for a, b in itertools.pairwise(edges)]
    values = [probe.function(np.array(row)) for row in inside]
    stepped = (cuts or formula.atoms(sp.sign, sp.Heaviside)) and all(np.ptp(v) == 0.0 for v in values)
    if outer == 0.0 and not noisy and stepped:
        labels, kept = [float(values[0][0]) + 0.0], []
        for cut, v in zip(cuts, values[1:], strict=True):
            if float(v[0]) != labels[-1]:
                labels.append(float(v[0]) + 0.0)
                kept.append(cut)
        return Component.of("thresholds", formula, gain=gain, inner=inner, labels=tuple(labels), cuts=tuple(kept))
    return probe


def _cuts(formula: Any, t: Any) -> tuple[float, ...]:
    """Points where a formula in t jumps or has a kink: roots of the arguments of its kinked functions."""
    import sympy as sp

    out: set[float] = set()
    grid = np.linspace(-_RANGE, _RANGE, _GRID) + 1e-7 * math.pi
    for e in formula.atoms(sp.Abs, sp.sign, sp.Heaviside, sp.Max, sp.Min):
        if isinstance(e, sp.Max | sp.Min):
            arguments = [a - b for a, b in itertools.combinations(e.args, 2)]
        else:
            arguments = [e.args[0]]
        for argument in arguments:
            if not argument.has(t):
                continue
            call = sp.lambdify(t, argument, modules=["scipy", "numpy"])
            values = np.asarray(call(grid), dtype=float)
            for i in np.flatnonzero(values[:-1] * values[1:] < 0.0):
                root = find_root(call, grid[i], grid[i + 1], xtol=1e-16, rtol=1e-15)
                out.add(0.0 if abs(root) < 1e-14 else float(root))
    return tuple(sorted(out))
