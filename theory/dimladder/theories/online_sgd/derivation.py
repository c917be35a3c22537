"""From one step of SGD to the flow of the overlaps.

Nothing here is a final formula: the step is written down, the overlaps of the updated weights are expanded in 1/d, and
the increments are averaged by `symbolic.gaussian`. The result is a list of tensors over named indices, printed as
LaTeX and as loops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from ...errors import DerivationError
from ...symbolic.equations import Step
from ...symbolic.factors import Terms, X, decompose, is_closed, product
from ...symbolic.gaussian import Averager, split_product
from ...symbolic.kernels import KernelSet, Named
from ...symbolic.tensors import IndexedLaw, Indices, Range, Tensor

STUDENTS = Range("students", "K", "0", "K")
TEACHERS = Range("teachers", "M", "K", "N")
UNITS = Range("units", "N", "0", "N")

i, j, k, l = sp.symbols("i j k l", integer=True)
m, n = sp.symbols("m n", integer=True)
alpha, beta, gamma = sp.symbols("alpha beta gamma", integer=True)

Q, M, T, C, P, E = (sp.IndexedBase(s) for s in "QMTCPE")
a, A, c = (sp.IndexedBase(s) for s in "aAc")
eta, eta_a, sigma, kappa, kappa_a, batch = sp.symbols("eta eta_a sigma kappa kappa_a B", positive=True)
# Moments of the error err = f - y (square loss) that the increments need.
D, N2, H = sp.IndexedBase("D"), sp.IndexedBase("N"), sp.IndexedBase("H")
dQ, dM, da = sp.IndexedBase("dQ"), sp.IndexedBase("dM"), sp.IndexedBase("da")


def indices() -> Indices:
    """Return the index symbols of this theory and their ranges."""
    ranges = (
        dict.fromkeys((i, j, k, l), STUDENTS)
        | dict.fromkeys((m, n), TEACHERS)
        | dict.fromkeys((alpha, beta, gamma), UNITS)
    )
    return Indices(ranges, generic=gamma)


@dataclass(frozen=True)
class Setting:
    """What decides the form of the equations; every number is a parameter of the compiled code.

    Attributes
    ----------
    student, teacher : sympy expressions in `factors.X`
        Activations. ``teacher`` is None for a multi-index target.
    target : sympy expression or None
        f* in the symbols z1, z2, ... for a single- or multi-index target.
    directions : int
        Number of teacher directions of such a target.
    """

    student: Any
    teacher: Any = None
    target: Any = None
    directions: int = 0
    loss: str = "square"
    train_readout: bool = False
    spherical: bool = False
    regime: str = "classical"
    schedule: Any = 1
    student_kinks: tuple[float, ...] = ()
    teacher_kinks: tuple[float, ...] = ()

    @property
    def stacked(self) -> bool:
        """Whether student and teacher units are of one kind, so that sums run over both at once."""
        return self.target is None and sp.simplify(self.student - self.teacher) == 0 and self.loss == "square"


# Products of four polynomials of a higher degree are contracted numerically, Hermite mode by Hermite mode,
# instead of being written out.
EXPANDED_DEGREE = 4


@dataclass
class Derived:
    """The equations of one setting.

    Attributes
    ----------
    moments : list of Tensor
        Averages over the data, in the order they are computed.
    flow : list of Tensor
        dM, dQ and da in terms of the moments.
    generalization_error : sympy expression
    """

    setting: Setting
    indices: Indices
    kernels: KernelSet
    moments: list[Tensor] = field(default_factory=list)
    flow: list[Tensor] = field(default_factory=list)
    generalization_error: Any = None
    steps: list[Step] = field(default_factory=list)

    @property
    def quadrature(self) -> bool:
        """Whether some average has no closed form and is computed by quadrature."""
        return self.polynomial_degree > EXPANDED_DEGREE or not all(is_closed(decompose(f)) for f in self._functions)

    @property
    def polynomial_degree(self) -> int:
        """The largest degree of the activations when all are polynomials; otherwise 0."""
        terms = [decompose(f) for f in self._functions]
        if not all(f.polynomial for t in terms for _, f in t):
            return 0
        return max(f.power for t in terms for _, f in t)

    @property
    def _functions(self) -> list[Any]:
        return [self.setting.student] + ([] if self.setting.teacher is None else [self.setting.teacher])


# One step -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Update:
    """Increments of the overlaps in one step, times d, as d -> infinity, before the average over the sample."""

    M: Any
    Q: Any
    a: Any


def slope(index: Any) -> Any:
    """Symbol of g'(lambda_i)."""
    return sp.Symbol(rf"g'(\lambda_{{{index}}})", real=True)


def local_field(index: Any) -> Any:
    """Symbol of the pre-activation lambda_i = w_i . x / sqrt d."""
    return sp.Symbol(rf"\lambda_{{{index}}}", real=True)


def teacher_field(index: Any) -> Any:
    """Symbol of the teacher's field z_m = w*_m . x / sqrt d."""
    return sp.Symbol(rf"z_{{{index}}}", real=True)


def difference_field(index: Any) -> Any:
    """Symbol of the field of a difference, delta_i = v_i . x / sqrt d."""
    return sp.Symbol(rf"\delta_{{{index}}}", real=True)


ERROR = sp.Symbol(r"\Delta", real=True)


def value(index: Any) -> Any:
    """Symbol of g(lambda_i)."""
    return sp.Symbol(rf"g(\lambda_{{{index}}})", real=True)


def one_step(setting: Setting, differences: bool = False) -> Update:
    """Expand the overlaps of the updated weights to first order in 1/d.

    The weights are formal vectors: coefficients on w_i, w*_m and the sample x, whose inner products are
    w_i.w_k = d Q_ik, w_i.w*_m = d M_im, w_i.x = sqrt(d) lambda_i, w*_m.x = sqrt(d) z_m, and x.x = d (1 + O(d^-1/2)).
    For a batch, x stands for the mean over its independent samples, so that x.x = d/B. On the sphere every w_i is
    rescaled to its old norm.

    Parameters
    ----------
    setting : Setting
    differences : bool
        Follow P_ik = v_i.v_k/d instead of Q_ik, for differences v_i = w_i - w*_i from constant vectors, with
        E_ik = w_i.v_k/d; it is returned in the place of Q.
    """
    e = sp.Symbol("e", positive=True)  # 1/d
    d = 1 / e

    def inner(one: dict[Any, Any], two: dict[Any, Any]) -> Any:
        total = sp.Integer(0)
        for p, u in one.items():
            for q, v in two.items():
                total += u * v * product(p, q)
        return total

    def product(p: Any, q: Any) -> Any:
        if p == "x" and q == "x":
            return d / batch
        if p == "x" or q == "x":
            kind, index = q if p == "x" else p
            return sp.sqrt(d) * {"w": local_field, "t": teacher_field, "v": difference_field}[kind](index)
        (one, s), (two, t) = sorted((p, q), key=lambda v: "wvt".index(v[0]))
        if one == two:
            return d * {"w": Q, "v": P, "t": T}[one][tuple(sorted((s, t), key=str))]
        return d * {"wv": E, "wt": M}[one + two][s, t]

    def weight(s: Any, scale: Any = 1) -> dict[Any, Any]:
        return {("w", s): scale * (1 - kappa * e), "x": -scale * eta * sp.sqrt(e) * a[s] * slope(s) * ERROR}

    def distance(s: Any, scale: Any) -> dict[Any, Any]:
        updated = weight(s, scale)
        return updated | {("w", s): updated["w", s] - 1, ("v", s): sp.Integer(1)}

    def rate(quantity: Any) -> Any:
        return sp.expand(sp.diff(sp.expand(quantity), e).subs(e, 0))

    def factor(s: Any) -> Any:
        if not setting.spherical:
            return sp.Integer(1)
        return sp.sqrt(Q[s, s] / (Q[s, s] + e * rate(inner(weight(s), weight(s)) * e)))

    followed = distance if differences else weight
    grow_m = rate(inner(weight(i, factor(i)), {("t", m): sp.Integer(1)}) * e)
    grow_q = rate(inner(followed(i, factor(i)), followed(k, factor(k))) * e)
    grow_a = rate(a[i] * (1 - kappa_a * e) - eta_a * e * value(i) * ERROR)
    return Update(*(_keep(v, setting) for v in (grow_m, grow_q, grow_a)))


def _keep(increment: Any, setting: Setting) -> Any:
    """Select the terms of the regime: the drift is linear in the error, the diffusion quadratic."""
    if setting.regime == "classical":
        return increment
    order = {"gradient-flow": (0, 1), "noise-dominated": (2,)}[setting.regime]
    return sp.Add(*(t for t in sp.Add.make_args(sp.expand(increment)) if sp.degree(t, ERROR) in order))


# Averages -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """One sum of the error: sum over units u of weight(u) function(f_u); two index symbols for its square."""

    index: tuple[Any, Any]
    weight: Callable[[Any], Any]
    function: Named


@dataclass(frozen=True)
class Error:
    """f - f* (or what stands for it in the loss): sums over units, minus a function of fixed teacher fields.

    ``target`` and ``target_squared`` are sums of products of one-field functions, by the number of the teacher field.
    """

    groups: tuple[Group, ...]
    target: tuple[dict[Any, Terms], ...] = ()
    target_squared: tuple[dict[Any, Terms], ...] = ()


def difference(setting: Setting, for_loss: bool) -> Error:
    """Return the error that drives the step (`for_loss`), or f - f*."""
    g = Named("g", decompose(setting.student))
    if setting.stacked:
        return Error((Group((alpha, beta), lambda u: c[u], g),))
    sums = [Group((j, l), lambda u: a[u], g)] if setting.loss == "square" or not for_loss else []
    if setting.target is None:
        same = sp.simplify(setting.student - setting.teacher) == 0
        teacher = g if same else Named(r"\tilde g", decompose(setting.teacher))
        return Error((*sums, Group((m, n), lambda u: -A[u], teacher)))
    return Error(tuple(sums), *(products(power, setting) for power in (setting.target, sp.expand(setting.target**2))))


def products(function: Any, setting: Setting) -> tuple[dict[Any, Terms], ...]:
    """Write a function of the teacher fields as a sum of products of one-field functions, by number of the field."""
    fields = {sp.Symbol(f"z{r}", real=True): r for r in range(1, setting.directions + 1)}
    out = []
    for functions, coupled in split_product(function, fields):
        if coupled is not None:
            raise DerivationError(
                "the target does not factorise over its directions",
                where="target",
                why=f"{coupled} couples several teacher fields inside one function",
                hint="write the target as a sum of products of functions of single fields z1, z2, ...",
            )
        out.append(functions)
    return tuple(out)


def covariance(ranges: dict[Any, Range]) -> Callable[[Any, Any], Any]:
    """Return Cov(f_p, f_q): C over units, Q, M and T by kind; fixed teacher fields are orthonormal."""
    bases = {("students", "students"): Q, ("students", "teachers"): M, ("teachers", "teachers"): T}

    def entry(p: Any, q: Any) -> Any:
        fixed = [sp.sympify(v).is_Integer for v in (p, q)]
        if all(fixed):
            return sp.Integer(p == q)
        if any(fixed):
            return M[(q, p) if fixed[0] else (p, q)]
        kinds = ranges[p].name, ranges[q].name
        if "units" in kinds:
            return C[tuple(sorted((p, q), key=str))]
        if kinds == ("teachers", "students"):
            p, q, kinds = q, p, kinds[::-1]
        if kinds[0] == kinds[1]:
            p, q = sorted((p, q), key=str)
        return bases[kinds][p, q]

    return entry


class Averages:
    """Averages of one-field functions at index symbols, times functions of fixed teacher fields.

    Where only Gaussian factors and erfs occur, the average is written out in the tilted covariance; otherwise it is a
    call of a kernel derived apart.
    """

    def __init__(self, setting: Setting, names: Indices) -> None:
        self.names = names
        self.kernels = KernelSet(names, covariance(names.ranges))
        functions = [decompose(setting.student)] + ([decompose(setting.teacher)] if setting.teacher is not None else [])
        self.inline = setting.target is None and all(
            f.power == 0 and not f.sign and f.wave is None and f.slope == 0 and f.opaque == 1
            for t in functions
            for _, f in t
        )
        self._averager = Averager(IndexedLaw(covariance(names.ranges), names))

    def __call__(self, slots: dict[Any, Named], factor: tuple[dict[Any, Terms], ...] = (), shown: str = "") -> Any:
        if self.inline:
            return self._averager.average({u: named.terms for u, named in slots.items()})
        return self.kernels.moment(tuple(slots.items()), factor or ({},), shown)

    def first(self, slots: dict[Any, Named], error: Error, extra: Any = None) -> Any:
        """Return E[slots x error]; `extra` is a fixed teacher field that multiplies it."""
        total = sp.Integer(0)
        shown = "" if extra is None else f"z_{{{extra}}} "
        factor: tuple[dict[Any, Terms], ...] = () if extra is None else ({extra: decompose(X)},)
        for group in error.groups:
            u = group.index[0]
            total += self.names.sum(group.weight(u) * self(slots | {u: group.function}, factor, shown), u)
        if error.target:
            total -= self(slots, _times(error.target, extra), shown + r"f_\star")
        return total

    def second(self, slots: dict[Any, Named], error: Error) -> Any:
        """Return E[slots x error^2]."""
        total = sp.Integer(0)
        for p, one in enumerate(error.groups):
            for two in error.groups[p:]:
                u, v = one.index[0], two.index[1]
                moment = self(slots | {u: one.function, v: two.function})
                total += (1 if one is two else 2) * self.names.sum(one.weight(u) * two.weight(v) * moment, u, v)
            if error.target:
                u = one.index[0]
                cross = self(slots | {u: one.function}, error.target, r"f_\star")
                total -= 2 * self.names.sum(one.weight(u) * cross, u)
        if error.target_squared:
            total += self(slots, error.target_squared, r"f_\star^2")
        return total


def _times(terms: tuple[dict[Any, Terms], ...], extra: Any) -> tuple[dict[Any, Terms], ...]:
    if extra is None:
        return terms
    one = decompose(X)
    return tuple(p | {extra: product(p[extra], one) if extra in p else one} for p in terms)


def derive(setting: Setting) -> Derived:
    """Derive the flow of the overlaps.

    Parameters
    ----------
    setting : Setting

    Returns
    -------
    Derived

    Raises
    ------
    DerivationError
        For a student whose activation jumps: its gradient is a delta function, which SGD never sees.
    """
    names = indices()
    average = Averages(setting, names)
    out = Derived(setting, names, average.kernels)
    update = one_step(setting)
    g = Named("g", decompose(setting.student))
    dg = g.derivative()
    if any(f.delta for _, f in dg.terms):
        raise DerivationError(
            "the student's activation jumps: its gradient is zero almost everywhere and a delta function at the jump",
            where="student.activation",
            why=str(setting.student),
            hint="use a continuous activation for the student; targets may jump",
        )
    error = difference(setting, for_loss=True)
    fixed = range(1, setting.directions + 1)
    if setting.regime != "noise-dominated":
        if setting.target is None:
            out.moments.append(Tensor(D[i, beta], average.first({i: dg, beta: Named.field()}, error)))
        else:
            out.moments.append(Tensor(D[i, k], average.first({i: dg, k: Named.field()}, error)))
            out.moments += [Tensor(D[i, r], average.first({i: dg}, error, extra=r)) for r in fixed]
    if sp.degree(sp.expand(update.Q), ERROR) == 2:
        square = average.second({i: dg, k: dg}, error)
        out.moments.append(Tensor(N2[i, k], square + sigma**2 * average({i: dg, k: dg}), symmetric=True))
    if setting.train_readout and update.a.has(ERROR):
        out.moments.append(Tensor(H[i], average.first({i: g}, error)))
    grow = name_moments(update.M)
    out.flow = (
        [Tensor(dM[i, m], grow)] if setting.target is None else [Tensor(dM[i, r], grow.subs(m, r)) for r in fixed]
    )
    out.flow.append(Tensor(dQ[i, k], name_moments(update.Q), symmetric=True))
    if setting.train_readout:
        out.flow.append(Tensor(da[i], name_moments(update.a)))
    out.generalization_error = average.second({}, difference(setting, for_loss=False)) / 2
    from .explanation import explain

    out.steps = explain(setting, update, out)
    return out


def name_moments(increment: Any) -> Any:
    """Average an increment: replace E[g'(lambda_i) f_b err], E[g' g' err^2], E[g err] by their names."""
    total = sp.Integer(0)
    for term in sp.Add.make_args(sp.expand(increment)):
        powers = term.as_powers_dict()
        order = powers.pop(ERROR, 0)
        if order == 0:
            total += term
            continue
        slopes = [s for s in (i, k) for _ in range(int(powers.pop(slope(s), 0)))]
        fields = [s for s in (i, k) if powers.pop(local_field(s), 0)] + ([m] if powers.pop(teacher_field(m), 0) else [])
        rest = sp.Mul(*(base**p for base, p in powers.items()))
        if order == 2 and len(slopes) == 2 and not fields:
            total += rest * N2[tuple(slopes)]
        elif order == 1 and len(slopes) == 1 and len(fields) == 1:
            total += rest * D[slopes[0], fields[0]]
        elif order == 1 and not slopes and rest.has(value(i)):
            total += (rest / value(i)) * H[i]
        else:
            raise AssertionError(f"an increment of an unknown form: {term}")
    return sp.collect(sp.expand(total), [eta, eta_a])
