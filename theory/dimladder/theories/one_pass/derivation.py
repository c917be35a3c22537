"""From one step of SGD to the flow of the overlaps.

Nothing here is a final formula: the step is written down, the overlaps of the updated weights are expanded in 1/d, and
the increments are averaged by `symbolic.gaussian`. The result is a list of tensors over named indices, printed as
LaTeX and as loops.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from ...errors import DerivationError
from ...symbolic.factors import decompose, is_closed
from ...symbolic.kernels import KernelSet, Named
from ...symbolic.tensors import Indices, Tensor
from .averages import Averages, covariance, difference, needs_all_fields, written_out
from .notation import (
    ERROR,
    N2,
    D,
    E,
    H,
    L,
    M,
    P,
    Q,
    Setting,
    T,
    a,
    batch,
    beta,
    da,
    difference_field,
    dM,
    dQ,
    eta,
    eta_a,
    i,
    indices,
    k,
    kappa,
    kappa_a,
    local_field,
    m,
    sigma,
    slope,
    teacher_field,
    value,
)

MEANING = {
    "D": r"\mathbb{E}\left[g'(\lambda_{i})\, \lambda_{\beta}\, \Delta\right]",
    "N": r"\mathbb{E}\left[g'(\lambda_{i})\, g'(\lambda_{k})\, \Delta^2\right]",
    "H": r"\mathbb{E}\left[g(\lambda_{i})\, \Delta\right]",
}

# Products of four polynomials of a higher degree are contracted numerically, Hermite mode by Hermite mode,
# instead of being written out.
EXPANDED_DEGREE = 4


@dataclass
class Derived:
    """The equations of one setting.

    Attributes
    ----------
    update : Update
        What one step does to the overlaps, before any average.
    moments : list of Tensor
        Averages over the data, in the order they are computed.
    flow : list of Tensor
        dM, dQ and da in terms of the moments.
    generalization_error : sympy expression
    route : {"closed", "conditional", "fields"}
        How averages are computed: in closed form, by quadrature given one or two fields, or over all fields at once.
    """

    setting: Setting
    update: Update
    indices: Indices
    kernels: KernelSet
    moments: list[Tensor] = field(default_factory=list)
    flow: list[Tensor] = field(default_factory=list)
    generalization_error: Any = None
    route: str = "closed"

    @property
    def closed(self) -> bool:
        """Whether every average has a closed form, short enough to be written out."""
        short = self.polynomial_degree <= EXPANDED_DEGREE
        return short and all(is_closed(decompose(f)) for f in self._functions) and self.kernels.closed

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


def derive(setting: Setting, inline: bool = True) -> Derived:
    """Derive the flow of the overlaps.

    Parameters
    ----------
    setting : Setting
    inline : bool
        Write averages out where they are short; otherwise all are calls of kernels.

    Returns
    -------
    Derived

    Raises
    ------
    DerivationError
        For a student whose activation jumps: its gradient is a delta function, which SGD never sees.
    """
    names = indices()
    average = Averages(names, covariance(names.ranges), inline and written_out(setting))
    update = one_step(setting)
    out = Derived(setting, update, names, average.kernels)
    g = Named("g", decompose(setting.student))
    dg = g.derivative()
    if any(f.delta for _, f in dg.terms):
        raise DerivationError(
            "the student's activation jumps: its gradient is zero almost everywhere and a delta function at the jump",
            where="student.activation",
            why=str(setting.student),
            hint="use a continuous activation for the student; targets may jump",
        )
    fixed = range(1, setting.directions + 1)
    if needs_all_fields(setting):
        out.route = "fields"
        _unaveraged(out, update)
    else:
        _averaged(out, update, average)
        if not out.closed:
            out.route = "conditional"
            if setting.target is not None and not setting.polynomial_target:
                out.route = "fields"
                out.moments.clear()
                _unaveraged(out, update)
    grow = name_moments(update.M)
    out.flow = (
        [Tensor(dM[i, m], grow)] if setting.target is None else [Tensor(dM[i, r], grow.subs(m, r)) for r in fixed]
    )
    out.flow.append(Tensor(dQ[i, k], name_moments(update.Q), symmetric=True))
    if setting.train_readout:
        out.flow.append(Tensor(da[i], name_moments(update.a)))
    return out


def _moments_needed(setting: Setting, update: Update) -> tuple[bool, bool, bool]:
    """Return whether D, N and H occur in the flow."""
    second = sp.degree(sp.expand(update.Q), ERROR) == 2
    return setting.regime != "noise-dominated", second, setting.train_readout and update.a.has(ERROR)


def _averaged(out: Derived, update: Update, average: Averages) -> None:
    """Fill in the moments and e_g as averages of one-field functions."""
    setting = out.setting
    g = Named("g", decompose(setting.student))
    dg = g.derivative()
    error = difference(setting, for_loss=True)
    drift, second, readout = _moments_needed(setting, update)
    if drift and setting.target is None:
        out.moments.append(Tensor(D[i, beta], average.first({i: dg, beta: Named.field()}, error)))
    elif drift:
        out.moments.append(Tensor(D[i, k], average.first({i: dg, k: Named.field()}, error)))
        fixed = range(1, setting.directions + 1)
        out.moments += [Tensor(D[i, r], average.first({i: dg}, error, extra=r)) for r in fixed]
    if second:
        square = average.second({i: dg, k: dg}, error)
        out.moments.append(Tensor(N2[i, k], square + sigma**2 * average({i: dg, k: dg}), symmetric=True))
    if readout:
        out.moments.append(Tensor(H[i], average.first({i: g}, error)))
    out.generalization_error = average.second({}, difference(setting, for_loss=False)) / 2


def _unaveraged(out: Derived, update: Update) -> None:
    """Fill in the moments and e_g as averages over all fields, for quadrature."""
    drift, second, readout = _moments_needed(out.setting, update)
    wanted = [(drift, D[i, beta], False), (second, N2[i, k], True), (readout, H[i], False)]
    out.moments += [
        Tensor(lhs, sp.Symbol(MEANING[str(lhs.base)]), symmetric) for needed, lhs, symmetric in wanted if needed
    ]
    out.generalization_error = sp.Symbol(r"\mathbb{E}\left[(f - f_\star)^2\right]") / 2


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
        differences = [s for s in (i, k) if powers.pop(difference_field(s), 0)]
        rest = sp.Mul(*(base**p for base, p in powers.items()))
        if order == 2 and len(slopes) == 2 and not fields:
            total += rest * N2[tuple(slopes)]
        elif order == 1 and len(slopes) == 1 and len(fields) == 1:
            total += rest * D[slopes[0], fields[0]]
        elif order == 1 and len(slopes) == 1 and len(differences) == 1:
            total += rest * L[slopes[0], differences[0]]
        elif order == 1 and not slopes and rest.has(value(i)):
            total += (rest / value(i)) * H[i]
        else:
            raise AssertionError(f"an increment of an unknown form: {term}")
    return sp.collect(sp.expand(total), [eta, eta_a])
