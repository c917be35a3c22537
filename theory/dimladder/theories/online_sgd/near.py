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

from typing import Any

import sympy as sp

from ...symbolic.factors import X, decompose
from ...symbolic.kernels import Named
from ...symbolic.tensors import Indices, Range, Tensor
from .averages import Averages, Error, Group
from .derivation import Derived, name_moments, one_step
from .notation import ERROR, N2, D, H, L, Setting, alpha, beta, da, dM, dP, i, indices, k, m, mu, nu, sigma

NODES = Range("nodes", "S", "N", "N + S")
DIFFERENCES = Range("differences", "S", "N + S", "N + 2 * S")
# Weights of the nodes and of the units in the error.
r, e = sp.IndexedBase("r"), sp.IndexedBase("e")


class Difference(sp.Function):  # type: ignore[misc]
    """Label of the field delta of a student, or of the student of a node."""

    nargs = 1

    def field_latex(self, printer: Any) -> str:
        """Return the field in LaTeX."""
        return rf"\delta_{{{printer._print(self.args[0])}}}"

    def place(self) -> str:
        """Return where the field lies in the covariance of the generated code: after units and nodes, one a node."""
        (of,) = self.args
        return f"{of} + S" if of in (mu, nu) else f"N + S + {of} * n"


def eligible(setting: Setting) -> bool:
    """Whether the difference form exists: a committee target of the student's own, smooth activation, square loss."""
    from ...symbolic.factors import is_closed

    terms = decompose(setting.student)
    return (
        setting.stacked
        and setting.regime != "noise-dominated"
        and is_closed(terms)
        and not any(f.sign or f.delta for _, f in terms)
    )


def parity(setting: Setting) -> int:
    """Return 1 for an even activation, -1 for an odd one, 0 otherwise: whether a student may match -w*."""
    mirrored = setting.student.subs(X, -X)
    if sp.simplify(mirrored - setting.student) == 0:
        return 1
    return -1 if sp.simplify(mirrored + setting.student) == 0 else 0


def near_indices() -> Indices:
    """Return the indices of the theory, with those of nodes and of differences."""
    names = indices()
    names.ranges |= {mu: NODES, nu: NODES}
    names.ranges |= {Difference(s): DIFFERENCES for s in (mu, nu, i, k)}
    return names


def derive_near(setting: Setting) -> Derived:
    """Derive the flow of (P, S, readouts) and the generalisation error in difference form.

    Returns
    -------
    Derived
        Moments D, N, H as in `derivation.derive` and ``L[i, k] = E[g'(f_i) delta_k err]``; flow dM (= dS), dP and da.
    """
    names = near_indices()
    average = Averages(names, lambda p, q: sp.IndexedBase("C")[tuple(sorted((p, q), key=str))])
    out = Derived(setting, names, average.kernels)
    update = one_step(setting, differences=True)
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
    if sp.degree(sp.expand(update.Q), ERROR) == 2:
        square = average.second({i: dg, k: dg}, error)
        out.moments.append(Tensor(N2[i, k], square + sigma**2 * average({i: dg, k: dg}), symmetric=True))
    if setting.train_readout and update.a.has(ERROR):
        out.moments.append(Tensor(H[i], average.first({i: g}, error)))
    out.flow = [
        Tensor(dM[i, m], name_moments(update.M)),
        Tensor(dP[i, k], name_moments(update.Q), symmetric=True),
    ]
    if setting.train_readout:
        out.flow.append(Tensor(da[i], name_moments(update.a)))
    out.generalization_error = average.second({}, error) / 2
    return out

