"""The flow in differences from the target, for students that reach it.

Where f = f* is approached, overlaps of order one lose the distance: |w_i - w*_m|^2/d = Q_ii - 2 M_im + T_mm is the
small difference of large numbers, and so are the error's averages. Here student i is matched with a teacher,

    w_i = s_i w*_pi(i) + v_i,   P_ik = v_i.v_k/d,   S_im = v_i.w*_m/d,   delta_i = v_i.x/sqrt d,

and its output differs from the teacher's by a Gauss-Legendre sum over nodes u of

    g(f_i) - g(s_i z_pi(i)) = int_0^1 du delta_i g'(s_i z_pi(i) + u delta_i).

The error is then a sum of small terms, nothing cancels, and e_g keeps its relative accuracy however small it is:

    f - f* = sum_mu r_mu delta_mu g'(f_mu) + sum_beta e_beta g(f_beta)

over nodes mu = (student j, u), r_mu = a_j times the weight of u, and over units beta: unmatched students with their
readouts, and teachers with what their readout misses, e_m = sum_{pi(i) = m} sigma_i a_i - A_m (sigma_i = s_i for an
odd activation, 1 otherwise).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import sympy as sp

from ....symbolic.factors import UNIT, Factor, X, decompose, is_closed
from ....symbolic.kernels import Named
from ....symbolic.tensors import Indices, Range, Tensor
from ..averages import Averages, Error, Group
from ..derivation import Derived, name_moments, one_step
from ..notation import ERROR, N2, D, H, L, Setting, alpha, beta, da, dM, dP, i, indices, k, m, mu, nu, sigma

NODES = Range("nodes", "S", "N", "N + S", r"\lambda")
DIFFERENCES = Range("differences", "S", "N + S", "N + 2 * S", r"\delta")
# The same, for the second of two nodes whose fields are never the same one.
OTHER_NODES, OTHER_DIFFERENCES = replace(NODES, name="other nodes"), replace(DIFFERENCES, name="other differences")
# Weights of the nodes and of the units in the error; whether two nodes are of different students.
r, e, apart = sp.IndexedBase("r"), sp.IndexedBase("e"), sp.IndexedBase("d")
# Weights of the square of one student's difference: a^2 w, and a^2 w 2(1 - 2u).
q1, q2 = sp.IndexedBase("q"), sp.IndexedBase("s")


class Difference(sp.Function):  # type: ignore[misc]
    """Label of the field delta of a student, or of the student of a node."""

    nargs = 1

    def field_latex(self, printer: Any) -> str:
        """Return the field in LaTeX."""
        return rf"\delta_{{{printer._print(self.args[0])}}}"

    def place(self) -> str:
        """Return where the field lies in the covariance of the generated code: after units and nodes, one a node."""
        (of,) = self.args
        return f"N + S + {of} * n" if of in (i, k) else f"{of} + S"


def eligible(setting: Setting) -> bool:
    """Whether the difference form exists.

    For a committee target of the student's own activation, smooth or piecewise linear with a kink at zero, and the
    square loss.
    """
    terms = decompose(setting.student)
    smooth = not any(f.sign or f.delta for _, f in terms)
    return (
        setting.stacked
        and setting.regime != "noise-dominated"
        and is_closed(terms)
        and (smooth or _slopes(setting) is not None)
    )


def _slopes(setting: Setting) -> tuple[Any, Any] | None:
    """Return (b, c) of a slope g'(x) = b + c sign(x); None for another one."""
    terms = {f: value for value, f in Named("g", decompose(setting.student)).derivative().terms}
    b, c = terms.pop(UNIT, sp.Integer(0)), terms.pop(Factor(sign=True), sp.Integer(0))
    return (b, c) if c != 0 and not terms else None


def parity(setting: Setting) -> int:
    """Return 1 for an even activation, -1 for an odd one, 0 otherwise: whether a student may match -w*."""
    mirrored = setting.student.subs(X, -X)
    if sp.simplify(mirrored - setting.student) == 0:
        return 1
    return -1 if sp.simplify(mirrored + setting.student) == 0 else 0


def near_indices(kinked: bool) -> Indices:
    """Return the indices of the theory, with those of nodes and of differences."""
    names = indices()
    names.ranges |= {mu: NODES, nu: OTHER_NODES if kinked else NODES}
    names.ranges |= {Difference(s): DIFFERENCES for s in (mu, i, k)}
    names.ranges[Difference(nu)] = OTHER_DIFFERENCES if kinked else DIFFERENCES
    return names


def derive_near(setting: Setting) -> Derived:
    """Derive the flow of (P, S, readouts) and the generalisation error in difference form.

    Returns
    -------
    Derived
        Moments D, N, H as in `derivation.derive` and ``L[i, k] = E[g'(f_i) delta_k err]``; flow dM (= dS), dP and da.
    """
    kinked = _slopes(setting)
    names = near_indices(kinked is not None)
    average = Averages(names, lambda p, q: sp.IndexedBase("C")[tuple(sorted((p, q), key=str))])
    average.kernels.guard = "given"
    update = one_step(setting, differences=True)
    out = Derived(setting, update, names, average.kernels)
    g = Named("g", decompose(setting.student))
    dg, field = g.derivative(), Named.field()
    error = Error(
        (
            Group((mu, nu), lambda u: r[u], lambda u: {u: dg, Difference(u): field}),
            Group.of((alpha, beta), lambda u: e[u], g),
        )
    )
    # On the sphere the drift along w_i itself is needed too.
    over = beta if setting.spherical else m
    out.moments.append(Tensor(D[i, over], average.first({i: dg, over: field}, error)))
    out.moments.append(Tensor(L[i, k], average.first({i: dg, Difference(k): field}, error)))
    square_of = average.second if kinked is None else partial(_kinked_square, average, kinked)
    if sp.degree(sp.expand(update.Q), ERROR) == 2:
        square = square_of({i: dg, k: dg}, error)
        out.moments.append(Tensor(N2[i, k], square + sigma**2 * average({i: dg, k: dg}), symmetric=True))
    if setting.train_readout and update.a.has(ERROR):
        out.moments.append(Tensor(H[i], average.first({i: g}, error)))
    out.flow = [
        Tensor(dM[i, m], name_moments(update.M)),
        Tensor(dP[i, k], name_moments(update.Q), symmetric=True),
    ]
    if setting.train_readout:
        out.flow.append(Tensor(da[i], name_moments(update.a)))
    out.generalization_error = square_of({}, error) / 2
    return out


def _kinked_square(average: Averages, slopes: tuple[Any, Any], slots: dict[Any, Named], error: Error) -> Any:
    """Return E[slots x error^2] for a slope g' = b + c sign.

    Along the way from teacher to student a sign changes once, at most. For two points of one way, u < v,
    ``sign_u sign_v = 1 + sign(delta)(sign_u - sign_v)``, so that the square of one student's difference needs one node:
    ``delta^2 [b^2 + c^2 + 2 b c int sign_u du + c^2 sign(delta) int 2(1 - 2u) sign_u du]``. Products of nodes of
    different students are summed as they are.
    """
    b, c = slopes
    nodes, units = error.groups
    sign = Factor(sign=True)
    square, signed = Factor(power=2), Factor(power=2, sign=True)

    def moment(named: dict[Any, Named]) -> Any:
        return average(slots | named)

    def at(u: Any, difference: Factor, way: Factor) -> dict[Any, Named]:
        return {
            Difference(u): Named(_shown(difference), ((sp.Integer(1), difference),)),
            u: Named(_shown(way), ((sp.Integer(1), way),)),
        }

    own = (b**2 + c**2) * moment({Difference(mu): Named(_shown(square), ((sp.Integer(1), square),))})
    own += 2 * b * c * moment(at(mu, square, sign))
    total = average.names.sum(q1[mu] * own, mu)
    total += average.names.sum(q2[mu] * c**2 * moment(at(mu, signed, sign)), mu)
    pair = moment(nodes.slots(mu) | nodes.slots(nu))
    total += average.names.sum(r[mu] * r[nu] * apart[mu, nu] * pair, mu, nu)
    cross = moment(nodes.slots(mu) | units.slots(beta))
    total += 2 * average.names.sum(r[mu] * e[beta] * cross, mu, beta)
    return total + average.second(slots, Error((units,)))


def _shown(factor: Factor) -> str:
    """Return the symbol a factor is printed by."""
    return r"\mathrm{sq}" * (factor.power == 2) + r"\mathrm{sign}" * factor.sign
