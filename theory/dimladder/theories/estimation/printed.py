"""The equations of one problem as they are printed: the channel of its loss and labels, its spectrum, its penalty."""

from __future__ import annotations

import itertools
import math
from typing import Any

from ...symbolic.equations import latex
from ...symbolic.systems import Equation, Step
from .channel import Loss
from .equations import blocks, latex_names
from .labels import Component, LabelLaw
from .spectrum import Covariance, LayerLaw

# How many cells of a spectrum are written out.
_CELLS = 3


def ridge_root(bulk: float) -> Equation:
    """Return the equation of the renormalised ridge; a bulk adds to the ridge."""
    whole = r"\lambda" if bulk == 0.0 else rf"\lambda+c\cdot {_number(bulk)}"
    text = rf"\frac{{{whole}}}{{\zeta}} + c\,g(\zeta) = \frac{{c\,\alpha}}{{\psi}}"
    return Equation("effective_ridge", text, None, "one root")


def block_rows(group: str, note: str = "") -> list[Equation]:
    """Return the equations of one block."""
    import sympy as sp

    names = latex_names()
    return [
        Equation.of(name, sp.Symbol(name, real=True), rhs, note, symbol_names={**names, sp.Symbol("test"): r"\ell_0"})
        for name, rhs in blocks()[group].rows
    ]


def _number(x: float) -> str:
    return f"{x:.6g}"


def label_rows(law: LabelLaw) -> list[Equation]:
    """Return the law of the label given the latent field z ~ N(0, rho)."""

    rows = []
    for i, c in enumerate(law.components[:8], 1):
        tag = "" if len(law.components) == 1 else f"_{{{i}}}"
        field = "z" if not c.inner else (rf"z + {_number(math.sqrt(c.inner))}\,n" if c.gain else "n")
        psi = latex(c.formula)
        if c.kind == "logit":
            text = rf"\mathbb P(y{tag}=1\mid t) = \sigma\left({psi}\right),\quad t = {field}"
        else:
            noise = rf" + {_number(math.sqrt(c.outer))}\,\xi" if c.outer else ""
            text = rf"y{tag} = {noise.removeprefix(' + ') if noise and psi == '0' else psi + noise},\quad t = {field}"
        if c.flip:
            text += rf",\quad \text{{flipped with probability }} {_number(c.flip)}"
        if len(law.components) > 1:
            text += rf",\quad \text{{probability }} {_number(c.probability)}"
        rows.append(Equation(f"label{tag.strip('_{}')}", text, None, "the label"))
    if len(law.components) > 8:
        rows.append(Equation("label_more", rf"\ldots\quad (\text{{{len(law.components)} components}})", None))
    return rows


def slope_latex(loss: Loss, letter: str = "u") -> str:
    """Return l'(y, u): one expression, or cases between the kinks, sorted for y = 1."""

    p = loss.pieces
    names = {p.variable: letter}
    if not p.signs:
        return latex(p.slope, symbol_names=names)
    rows, edges = _cases(loss)
    lines = []
    for i, slope in enumerate(rows):
        low = latex(edges[i - 1], symbol_names=names) if i else ""
        high = latex(edges[i], symbol_names=names) if i < len(edges) else ""
        where = (
            f"{low} < {letter} < {high}" if low and high else (f"{letter} < {high}" if high else f"{letter} > {low}")
        )
        lines.append(rf"{latex(slope, symbol_names=names)} & {where}")
    return r"\begin{cases} " + r" \\ ".join(lines) + r" \end{cases}"


def _cases(loss: Loss) -> tuple[list[Any], list[Any]]:
    """Slopes on the pieces and the kinks between them, in the order that holds for y = 1; equal neighbours merged."""
    import sympy as sp

    p = loss.pieces
    edges = sorted(p.kinks, key=lambda k: float(k.subs(p.parameter, 1)))
    at = [float(k.subs(p.parameter, 1)) for k in edges]
    inner = [(lo + hi) / 2 for lo, hi in itertools.pairwise(at)]
    slopes: list[Any] = []
    kept: list[Any] = []
    for i, point in enumerate([at[0] - 1.0, *inner, at[-1] + 1.0]):
        known: dict[Any, Any] = {}
        for symbol, argument, low, high in p.signs:
            value = argument.subs(known).subs({p.variable: point, p.parameter: 1})
            known[symbol] = high if float(value) > 0 else low
        slope = sp.factor_terms(sp.expand(p.slope.subs(known)))
        if slopes and slope == slopes[-1]:
            continue
        if slopes:
            kept.append(edges[i - 1])
        slopes.append(slope)
    return slopes, kept


def proximal_rows(loss: Loss) -> list[Equation]:
    """Return the slope and the proximal equation, solved piece by piece where the slope is affine."""
    import sympy as sp

    p = loss.pieces
    order = ", cases in the order of y = 1" if p.signs and not loss.of_residual else ""
    rows = [Equation("slope", rf"\ell'(y,u) = {slope_latex(loss)}", None, f"the loss {loss.text}{order}")]
    if not p.linear_slope:
        note = "bracketed Newton iteration between omega and omega - V l'(omega)"
        return [*rows, Equation("prox", r"\mathrm{prox} + V\,\ell'(y,\mathrm{prox}) = \omega", None, note)]
    V, omega = sp.symbols("V omega", positive=True)
    slopes, edges = _cases(loss) if p.signs else ([p.slope], [])
    u = p.variable
    lines = []
    for i, slope in enumerate(slopes):
        a1 = sp.diff(slope, u)
        a0 = sp.expand(slope - a1 * u)
        solved = latex(sp.factor((omega - V * a0) / (1 + V * a1)))
        low = latex(sp.expand(edges[i - 1] + V * slope.subs(u, edges[i - 1]))) if i else ""
        high = latex(sp.expand(edges[i] + V * slope.subs(u, edges[i]))) if i < len(edges) else ""
        where = (
            rf"{low} < \omega < {high}"
            if low and high
            else (rf"\omega < {high}" if high else (rf"\omega > {low}" if low else ""))
        )
        lines.append(rf"{solved} & {where}" if where else solved)
        if i < len(edges):
            after = sp.expand(edges[i] + V * slopes[i + 1].subs(u, edges[i]))
            if sp.expand(after - edges[i] - V * slope.subs(u, edges[i])) != 0:
                lines.append(rf"{latex(edges[i])} & {high} \le \omega \le {latex(after)}")
    body = r"\begin{cases} " + r" \\ ".join(lines) + r" \end{cases}" if len(lines) > 1 else lines[0]
    rows.append(Equation("prox", rf"\mathrm{{prox}} = {body}", None, "between two images of a kink it rests there"))
    return rows


def channel_rows(loss: Loss, law: LabelLaw, constant: bool) -> list[Equation]:
    """Return the averages over the channel: closed for the square loss, integrals otherwise."""
    if loss.square == 1.0:
        return [*label_rows(law), *(r for r in block_rows("square") if constant or r.label != "f")]
    field, taken = (r"\omega + b", r"\omega-b") if constant else (r"\omega", r"\omega")
    rows = [*label_rows(law), *proximal_rows(loss)]
    law_text = r"\omega\sim\mathcal N(0,q),\quad z\mid\omega\sim\mathcal N(m\omega/q,\rho-m^2/q)"
    rows.append(Equation("force", rf"f(y,{field},V) = \frac{{\mathrm{{prox}}-{taken}}}{{V}},\quad {law_text}", None))
    rows += [
        Equation("ff", r"\overline{f^2} = \mathbb E\,f^2", None, "one-dimensional integrals, numerics/proximal.py"),
        Equation("fv", r"\bar f' = \mathbb E\,\frac{\ell''(\mathrm{prox})}{1+V\ell''(\mathrm{prox})}", None,
                 "1/V where prox rests on a kink"),
        Equation("fz", r"\bar f^{\partial} = \mathbb E_\omega\sum_y \partial_\mu \mathbb P(y\mid z\sim\mathcal "
                 r"N(\mu,v))\,f = \frac{\mathbb E[z f] + m\bar f'}{\rho}", None, "Stein's identity"),
    ]  # fmt: skip
    return rows


def _passing_rows(layer: LayerLaw, bulk: float) -> list[Equation]:
    """Return g of one layer of units beside its own inputs, and what a bulk adds to V: the tangent kernel."""
    a, b, psi = _number(float(layer.a[0])), _number(float(layer.b[0])), _number(layer.psi)
    s2, k = _number(layer.passed), _number(layer.ratio)
    unit = rf"{b}+\zeta+{a}\,\zeta_1 g_0(\zeta_1)"
    rows = [
        Equation("zeta1", rf"\frac{{1}}{{\zeta_1}} = \frac{{{s2}}}{{\zeta}} + \frac{{{psi}\cdot {a}}}{{{unit}}}", None,
                 "units and inputs side by side"),
        Equation("g1", rf"{k}\,g(\zeta) = {psi}\left(1-\frac{{\zeta}}{{{unit}}}\right)"
                 rf"+\frac{{{s2}}}{{\zeta}}\,\zeta_1 g_0(\zeta_1)"),
        Equation("h1", r"h(\zeta) = h_0(\zeta_1)"),
    ]  # fmt: skip
    if bulk > 0.0:
        rows.append(Equation("bulk", rf"V \to V + \frac{{{_number(bulk)}}}{{\lambda}}", None,
                             "variance of the slopes: no two samples share it"))  # fmt: skip
    return rows


def spectrum_rows(covariance: Covariance) -> list[Equation]:
    """Return g and h: sums over the cells, and the scalar equation of every layer."""
    cells = covariance.eigenvalues.size
    rows = []
    base = "_0" if covariance.layers else ""
    arg = r"\zeta_1" if covariance.layers else r"\zeta"
    if cells <= _CELLS:
        g = " + ".join(
            rf"\frac{{{_number(p * e)}}}{{{_number(e)}+{arg}}}"
            for p, e in zip(covariance.shares, covariance.eigenvalues, strict=True)
        )
        h = " + ".join(
            rf"\frac{{{_number(t)}}}{{{_number(e)}+{arg}}}"
            for t, e in zip(covariance.powers, covariance.eigenvalues, strict=True)
        )
    else:
        g = rf"\sum_{{j=1}}^{{{cells}}} \frac{{p_j\omega_j}}{{\omega_j+{arg}}}"
        h = rf"\sum_{{j=1}}^{{{cells}}} \frac{{T_j}}{{\omega_j+{arg}}}"
    rows.append(Equation("g", rf"g{base}({arg}) = {g}", None, "resolvent of the inputs' covariance"))
    rows.append(Equation("h", rf"h{base}({arg}) = {h}", None, "the same, weighed by the target"))
    for number, layer in enumerate(covariance.layers, 1):
        last = number == len(covariance.layers)
        z = r"\zeta" if last else rf"\zeta_{{{number + 1}}}"
        here, g_up = rf"\zeta_{{{number}}}", f"g_{{{number - 1}}}({here_symbol(number)})"
        name = "" if last else f"_{{{number}}}"
        if layer.a.size == 1:
            a, b, psi = _number(float(layer.a[0])), _number(float(layer.b[0])), _number(layer.psi)
            if layer.passed > 0.0:
                rows += _passing_rows(layer, covariance.bulk)
                continue
            rows.append(
                Equation(
                    f"zeta{number}",
                    rf"\frac{{{b}+{z}}}{{{a}}} = {here}\left({psi} - {g_up}\right)",
                    None,
                    f"layer {number} of random features",
                )
            )
            rows.append(
                Equation(
                    f"g{number}",
                    rf"g{name}({z}) = 1 - \frac{{{z}}}{{{b}+{z}}}"
                    rf"\left(1-\frac{{{g_up}}}{{{psi}}}\right)",
                    None,
                )
            )
        else:
            drive = rf"a_s {here} {g_up}"
            rows.append(
                Equation(
                    f"zeta{number}",
                    rf"\frac{{1}}{{{here}}} = {_number(layer.psi)}\,\mathbb E_s"
                    rf"\frac{{a_s}}{{{z}+b_s+{drive}}}",
                    None,
                    f"layer {number}; s the fixed offset of a unit under an uncentred layer",
                )
            )
            rows.append(
                Equation(f"g{number}", rf"g{name}({z}) = 1 - {z}\,\mathbb E_s\frac{{1}}{{{z}+b_s+{drive}}}", None)
            )
        rows.append(Equation(f"h{number}", rf"h{name}({z}) = h_{{{number - 1}}}({here})", None))
    return rows


def here_symbol(number: int) -> str:
    """The argument of the functions of layer number - 1."""
    return rf"\zeta_{{{number}}}"


def penalty_rows(penalty: Loss | None) -> list[Equation]:
    """Return the prior side: closed for l2, an average over coordinates for another penalty."""
    if penalty is None:
        rows = block_rows("overlaps")
        slopes = Equation("D", r"D_f = f(\zeta) + \zeta f'(\zeta),\quad f = g, h")
        return [Equation("z", r"\zeta = \lambda/\hat V", None, "the ridge, renormalised"), slopes, *rows]
    return [
        Equation("field", r"A_j = \hat V\omega_j,\quad B_j = \hat m\,\omega_j\theta_j + \sqrt{\hat q\,\omega_j}\,\xi",
                 None, "effective problem of one coordinate"),
        Equation("penalty", rf"r'(w) = {slope_latex(penalty, 'w')}", None, f"the penalty {penalty.text}"),
        Equation("eta", r"\eta(B,A) = \arg\min_w \lambda r(w) + \tfrac12 A w^2 - B w", None),
        Equation("V", r"V = \sum_j p_j\omega_j\,\mathbb E\,\partial_B\eta", None, "a proximal point"),
        Equation("q", r"q = \sum_j p_j\omega_j\,\mathbb E\,\eta^2", None),
        Equation("m", r"m = \sum_j p_j\omega_j\,\mathbb E\,\theta_j\eta", None),
    ]  # fmt: skip


_RESAMPLED = {
    "fresh": ("every fit has samples of its own", r"p = 1"),
    "bootstrap": ("draws with replacement: every fit counts a sample p times", r"p\sim\mathrm{Poisson}(%s)"),
    "subsample": ("every fit leaves samples out", r"p\sim\mathrm{Bernoulli}(%s)"),
}


def pair_step(loss: Loss, resampling: str, fraction: float) -> Step:
    """Return how the samples of a fit are drawn, and the overlap of two fits."""
    words, law = _RESAMPLED[resampling]
    rows = [Equation("weights", law % _number(fraction) if "%" in law else law, None, words)]
    if resampling != "fresh":
        force = r"f_p(y,\omega,V) = p\,f(y,\omega,pV)"
        rows.append(Equation("weighted", force, None, "a sample of weight p: averages above are over p as well"))
    if resampling == "fresh":
        rows.append(Equation("ff12", r"\overline{f_1f_2} = 0", None, "no sample is in both"))
    elif loss.square == 1.0:
        rows += block_rows("pair_square")
    else:
        split = r"\omega_a = c+\xi_a,\quad c\sim\mathcal N(0,q_{12}),\quad \xi_a\sim\mathcal N(0,q-q_{12})"
        rows.append(Equation("common", split, None, "the fields of two fits: the label depends on c alone"))
        rows.append(Equation("ff12", r"\overline{f_1f_2} = \mathbb E_{c,y}\left(\mathbb E_{\xi,p}\,f_p\right)^2"))
    text = "Two fits with the same inputs and labels, and weights of their own."
    return Step("Two fits", text, (*rows, *block_rows("pair_force"), *block_rows("pair")))


def describe(c: Component) -> str:
    """One clause about a component, for the derivation."""
    return {
        "linear": "a linear label", "thresholds": "labels constant between cuts of one Gaussian field",
        "logit": "a logistic probability", "smooth": "a smooth function of one Gaussian field",
    }[c.kind]  # fmt: skip


__all__: list[Any] = [
    "block_rows", "channel_rows", "describe", "label_rows", "penalty_rows", "proximal_rows", "spectrum_rows",
]  # fmt: skip
