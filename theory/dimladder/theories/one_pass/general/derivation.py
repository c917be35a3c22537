"""From one step of any update that is linear in vectors and samples to the flow of block overlaps.

The step is written down on formal vectors, block by block; the products after it are expanded in 1/d, averaged over
the sample by Gaussian regression of each block's fields on the whole ones, and over the sources. Everything printed or
compiled is a tensor made here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from ....symbolic.tensors import Tensor
from . import notation as d
from .notation import Form, b, c, f, h, i, j, k, l, m, o, p, q, r, total


def gradient(vector: Any) -> Any:
    """Symbol of what a sample moves a vector by, times -sqrt d: sum_i P_pi a_ci g'(lambda_i) Delta, or -phi_p.

    Of several outputs: sum_i P_pi g'(lambda_i) sum_o a_coi dl/df_o.
    """
    return sp.Symbol(rf"\beta_{{{vector}}}", real=True)


def block_field(vector: Any) -> Any:
    """Symbol of the part of a field that a block holds, f^b_p = V_p^(b) . x^(b) / sqrt d."""
    return sp.Symbol(rf"f^{{b}}_{{{vector}}}", real=True)


# The variance of the input of a step in a block, `variance`.
SPREAD = sp.Symbol("spread", positive=True)
# What a sample moves a readout by.
READOUT = sp.Symbol(r"\rho_{hi}", real=True)


@dataclass(frozen=True)
class Update:
    """Increments times d in one step, as d -> infinity, before the average: of two moving vectors, of one and a fixed.

    ``sphere`` is what putting the norms back adds to the two, ``drift`` the increment of two fixed vectors.
    """

    moving: Any
    fixed: Any
    readout: Any
    sphere: tuple[Any, Any]
    drift: Any


def one_step(form: Form) -> Update:
    """Expand the block overlaps of the updated vectors to first order in 1/d.

    Formal vectors of block b have the inner products V_p.V_q = d Gamma^b_pq, V_p.x = sqrt(d) f^b_p and
    x.x = d gamma_b s_cb, divided by B_s for the mean over a batch. A moving vector becomes
    V_p + (1/d) sum_r L_pr V_r - beta_p x/sqrt(d), and noise zeta_p/sqrt(d) of the covariance Omega_pq. Of drifts that
    depend on the sample only the average counts.
    """
    e = sp.Symbol("e", positive=True)  # 1/d

    def product(one: Any, two: Any) -> Any:
        if one == "x" and two == "x":
            return d.share[b] * SPREAD / (e * d.batch)
        if one == "x" or two == "x":
            kind, index = two if one == "x" else one
            # Noise of its own is independent of the sample. To first order in 1/d the drift only meets vectors.
            return block_field(index) / sp.sqrt(e) if kind == "V" else sp.Integer(0)
        (kind, u), (other, v) = (one, two) if one[0] != "V" else (two, one)
        if "Z" in (kind, other):
            return d.share[b] * d.Omega[u, v] / e if kind == other else sp.Integer(0)
        if kind == "V":
            return d.Gamma[b, u, v] / e
        if kind == "W":
            return total(d.W[u, d.u] * d.Gamma[b, d.u, v], d.u) / e if other == "V" else sp.Integer(0)
        mixing = d.L[u, r] + d.mean_L[u, r] if form.sampled else d.L[u, r]
        return total(mixing * d.Gamma[b, r, v], r) / e if other == "V" else sp.Integer(0)

    def inner(one: dict[Any, Any], two: dict[Any, Any]) -> Any:
        return sum(x * y * product(u, v) for u, x in one.items() for v, y in two.items())

    def moved(index: Any) -> dict[Any, Any]:
        kick = {("Z", index): sp.sqrt(e)} if form.kicked else {}
        return {("V", index): 1, ("LV", index): e, "x": -sp.sqrt(e) * gradient(index)} | kick

    def drifted(index: Any) -> dict[Any, Any]:
        return {("V", index): 1, ("W", index): e} if form.drifting else {("V", index): 1}

    def first_order(quantity: Any) -> Any:
        return sp.expand(sp.expand(quantity * e)).coeff(e, 1)

    # w_p is multiplied by (1 + e v_p)^(-1/2), v_p the relative growth of its squared norm: products lose v_p/2. Biases,
    # in the block that does not count, stay what they are.
    half = -sp.Rational(1, 2) * d.counts[b]
    sphere = half * (d.rate[p] + d.rate[q]) * d.Gamma[b, p, q], half * d.rate[p] * d.Gamma[b, p, f]
    moving = first_order(inner(moved(p), moved(q)))
    fixed = first_order(inner(moved(p), drifted(f)))
    # Noise of its own moves no product of two vectors but those of fixed ones, by its covariance.
    drift = first_order(inner(drifted(f), drifted(d.v))) + d.walk[b, f, d.v] if form.drifting else sp.Integer(0)
    readout = -d.kappa_a * d.a[(*rows_of(form), i)] - d.eta_a * READOUT
    return Update(_keep(moving, form), _keep(fixed, form), _keep(readout, form), sphere, drift)


def variance(form: Form) -> Any:
    """Return the variance of an input in a block, given its source: with the noise that a step adds."""
    return d.s[c, b] + d.stir[c, b] if form.stirred else d.s[c, b]


def _keep(increment: Any, form: Form) -> Any:
    """Select the terms of the regime: the drift is linear in what a sample moves, the diffusion quadratic."""
    if form.regime == "classical":
        return increment
    orders = {"gradient-flow": (0, 1), "noise-dominated": (2,)}[form.regime]
    moved = {READOUT, *(gradient(v) for v in (p, q))}

    def order(term: Any) -> int:
        return int(sum(power for base, power in term.as_powers_dict().items() if base in moved))

    return sp.Add(*(t for t in sp.Add.make_args(sp.expand(increment)) if order(t) in orders))


@dataclass
class Derived:
    """The equations of one form.

    Attributes
    ----------
    update : Update
    laws : list of Tensor
        Covariance and mean of the fields of each source, and the readouts of its units.
    added : list of Tensor
        What noise on the weights adds to the covariance, and what pulls the units where it is not the readouts.
    moments : list of Tensor
        X and Z, from the averages of each source.
    flow : list of Tensor
        dGamma (two moving vectors, then a moving and a fixed one) and, where the readout is trained, da.
    sphere : list of Tensor
        What keeps the norms, after the rest of dGamma is known; the last two are added to dGamma.
    """

    form: Form
    update: Update
    laws: list[Tensor] = field(default_factory=list)
    added: list[Tensor] = field(default_factory=list)
    pulls: list[Tensor] = field(default_factory=list)
    moments: list[Tensor] = field(default_factory=list)
    flow: list[Tensor] = field(default_factory=list)
    sphere: list[Tensor] = field(default_factory=list)


def derive(form: Form) -> Derived:
    """Derive the flow of the block overlaps."""
    update = one_step(form)
    out = Derived(form, update)
    weights = total(d.mask[c, i] * d.head[c, h] * d.a[(*rows_of(form), i)], h)
    out.laws = [
        Tensor(d.C[c, l, j], total(seen_variance(form, l, j) * d.Gamma[b, l, j], b)),
        Tensor(d.w[(c, *rows_of(form)[1:], i)], weights),
    ]
    if not form.centred:
        out.laws.append(Tensor(d.mu[c, l], total(d.nu[c, m] * d.Gamma[b, l, m], m, b)))
    if form.blurred:
        out.added.append(Tensor(d.C[c, l, l], d.blur[c] * d.seen[l]))
    if form.feedback:
        out.pulls.append(Tensor(d.pull[c, i], d.mask[c, i] * d.phi[i]))
    # Rows of what a sample moves: units with gains, or every vector by itself.
    one, two = (p, r) if form.written else (i, k)

    def weigh(unit: Any) -> Any:
        own = d.pull if form.feedback else d.w
        return sp.Integer(1) if form.written or form.vector else own[c, unit]

    if form.regime != "noise-dominated":
        # E[f^b | fields] by regression, then Stein: the block's share of mean and covariance.
        by_mean = total(d.pi[c] * weigh(one) * d.G[c, one] * d.nu[c, m] * d.Gamma[b, q, m], c, m)
        by_mean = sp.Integer(0) if form.centred else by_mean
        by_fields = total(d.pi[c] * weigh(one) * d.H[c, one, l] * seen_variance(form, l) * d.Gamma[b, l, q], c, l)
        out.moments.append(Tensor(d.X[b, one, q], by_mean + by_fields))
    if form.regime != "gradient-flow":
        both = d.pi[c] * weigh(one) * weigh(two) * d.N2[c, one, two] * variance(form) * d.share[b] / d.batch
        out.moments.append(Tensor(d.Z[b, one, two], total(both, c)))
    if form.sampled:
        out.moments.append(Tensor(d.mean_L[p, r], total(d.pi[c] * d.sampled[c, p, r], c)))
    out.flow = [
        Tensor(d.dGamma[b, p, q], averaged(update.moving, form), symmetric=True),
        Tensor(d.dGamma[b, p, f], averaged(update.fixed, form)),
    ]
    if form.drifting:
        out.flow.append(Tensor(d.dGamma[b, f, d.v], averaged(update.drift, form), symmetric=True))
    if form.train_readout:
        out.flow.append(Tensor(d.da[(*rows_of(form), i)], averaged(update.readout, form)))
    if form.spherical:
        out.sphere = [
            Tensor(d.growth[i], total(d.counts[b] * d.dGamma[b, i, i], b)),
            Tensor(d.norm[i], total(d.counts[b] * d.Gamma[b, i, i], b)),
            Tensor(d.rate[i], d.growth[i] / d.norm[i]),
            Tensor(d.dGamma[b, p, q], update.sphere[0]),
            Tensor(d.dGamma[b, p, f], update.sphere[1]),
        ]
    return out


def seen_variance(form: Form, *fields: Any) -> Any:
    """Return the covariance of a step's input with itself, as these fields see it: teachers do not see its noise."""
    return d.s[c, b] + d.stir[c, b] * sp.Mul(*(d.seen[at] for at in fields)) if form.stirred else d.s[c, b]


def rows_of(form: Form) -> tuple[Any, ...]:
    """Return the indices of a row of readouts: a head, and an output where there are several."""
    return (h, o) if form.vector else (h,)


def averaged(increment: Any, form: Form) -> Any:
    """Average an increment over sample and source, by the names of the averages."""
    result = sp.Integer(0)
    for term in sp.Add.make_args(sp.expand(increment)):
        powers = term.as_powers_dict()
        betas = [v for v in (p, q) for _ in range(int(powers.pop(gradient(v), 0)))]
        fields = [v for v in (p, q, f) if powers.pop(block_field(v), 0)]
        readout = powers.pop(READOUT, 0)
        rest = sp.Mul(*(base**power for base, power in powers.items()))
        if readout:
            of_source = d.R[(c, *rows_of(form)[1:], i)]
            result += rest * total(d.head[c, h] * d.pi[c] * d.mask[c, i] * of_source, c)
        elif len(betas) == 1 and len(fields) == 1:
            moved = -d.X[b, betas[0], fields[0]] if form.written else total(d.P[betas[0], i] * d.X[b, i, fields[0]], i)
            result += rest * moved
        elif len(betas) == 2 and not fields:
            # |x|^2/d, the batch and the source's variances are in Z.
            bare = sp.simplify(rest * d.batch / (d.share[b] * SPREAD))
            result += bare * (d.Z[b, p, q] if form.written else total(d.P[p, i] * d.P[q, k] * d.Z[b, i, k], i, k))
        elif not betas and not fields:
            result += rest
        else:
            raise AssertionError(f"an increment of an unknown form: {term}")
    return result
