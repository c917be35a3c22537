"""The symbols of the printed equations: names that are distinct on paper, and what each of them means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sympy as sp

from ....symbolic.equations import Equation
from ....symbolic.nodes import ShiftedSignMoment4, SignMoment2, SignMoment3, SignMoment4
from ..source_averages import MU, OFFSET, TARGET_WEIGHT
from . import notation as d
from .derivation import READOUT, block_field, gradient

if TYPE_CHECKING:
    from .table_flow import GeneralFlow

# Indices of the averages of one source, beyond those of the flow: of units, of all fields.
_INDICES = {*d.indices().ranges, *sp.symbols("alpha beta gamma p m n mu nu", integer=True)}


def moved_by(vector: Any) -> Any:
    """Symbol of a written coefficient: what a sample moves a vector by, times sqrt d."""
    return sp.Symbol(rf"\varphi_{{{vector}}}", real=True)


def letter(species: str) -> str:
    """Return the letter of a tracked vector in LaTeX."""
    return {"wbar": r"\bar w"}.get(species, species if len(species) == 1 else rf"\mathrm{{{species}}}")


def unit_readout(flow: GeneralFlow) -> str:
    """Return the readout of unit k in LaTeX: that of the source where masks or heads differ."""
    plain = flow.table.heads == 1 and bool((flow.table.masks == 1.0).all())
    return "a_{k}" if plain else r"\hat{a}_{ck}"


def coefficient(flow: GeneralFlow, row: int) -> Any:
    """Return the written coefficient of a species in the symbols of the model, for unit k; None where there is none."""
    rows = flow.table.coefficients
    written = None if rows is None else rows[row]
    return None if written is None else of_unit(flow, written)


def of_unit(flow: GeneralFlow, written: Any) -> Any:
    """Return a written formula in the symbols of the model, for unit k."""
    formula = written.sympy()
    rate = sp.Symbol("eta", positive=True)
    names = {"a": unit_readout(flow), "error": r"\Delta", "f": "f", "y": "y"}
    for name in flow.table.species:
        field = r"\lambda_{k}" if name == "w" else rf"\lambda^{{{letter(name)}}}_{{k}}"
        names |= {f"lambda_{name}": field, f"g_{name}": f"g({field})", f"dg_{name}": f"g'({field})"}
    known = {s: sp.Symbol(names[str(s)], real=True) for s in formula.free_symbols if str(s) in names}
    learning_rate = {s: rate for s in formula.free_symbols if str(s) == "learning_rate"}
    return formula.xreplace(known | learning_rate)


def printed(expression: Any) -> Any:
    """Rename what means something else elsewhere: tilted vectors w to v, the count N of fields to n_f.

    Readouts a in the averages of one source are those of its units.
    """
    names: dict[Any, Any] = {}
    for base in expression.atoms(sp.IndexedBase):
        if str(base.label) == "a":
            names[base] = d.w
        found = re.fullmatch(r"(mu_|)w(\d*)", str(base.label))
        if found:
            names[base] = sp.IndexedBase(f"{found[1]}v{found[2]}")
    for symbol in expression.free_symbols | expression.atoms(sp.Symbol):
        if str(symbol) == "N" and symbol.is_positive:
            names[symbol] = sp.Symbol("n_f", integer=True, positive=True)
    return expression.xreplace(names)


# Plain names of symbols that hold indices or commands.
_NAMES = {
    form(v): name for v in (d.p, d.q, d.f)
    for form, name in ((gradient, "beta"), (moved_by, "varphi"), (block_field, "block field"))
} | {
    READOUT: "rho", d.phi.label: "phi", d.blur.label: "tau2", d.walk.label: "omega", d.seen.label: "upsilon",
    d.dGamma.label: "velocity", d.sampled.label: "Lambda", d.Omega.label: "Omega",
    MU.label: "mu", OFFSET: "offset", TARGET_WEIGHT: "target",
}  # fmt: skip


def glossary(flow: GeneralFlow, rows: Sequence[Equation]) -> list[Equation]:
    """Return a row for every symbol of these equations that none of them defines."""
    used = symbols(rows)
    return [row for key, row in _meanings(flow).items() if key in used]


def symbols(rows: Sequence[Equation]) -> set[str]:
    """Return the names of symbols, arrays and functions in the symbolic form of some equations, indices left out."""
    found: set[str] = set()
    for row in rows:
        for side in row.sympy or ():
            if not isinstance(side, sp.Basic):
                continue
            arrays = {base.label for base in side.atoms(sp.IndexedBase)}
            found |= {_NAMES.get(s, str(s)) for s in arrays | (side.atoms(sp.Symbol) - _INDICES)}
            found |= {type(f).__name__ for f in side.atoms(SignMoment2, SignMoment3, SignMoment4, ShiftedSignMoment4)}
    return found


def _meanings(flow: GeneralFlow) -> dict[str, Equation]:
    """Return name -> its row of definition."""
    t = flow.table
    scheduled = r"\, s(t)" if flow.scheduled else ""
    fields = rf"n_{{f}} = {f'{flow.S} K' if flow.form.written else 'K'} + M"
    biases = ", then that of the biases" if flow.biased else ""
    vectors = f"vectors V: {', '.join(t.species)} (K of each), which move, then teachers, directions of the means"
    batch = "B_{s}(t)" if isinstance(flow.p.algorithm.batch_size, str) else f"{t.batch:g}"
    rows = {
        "Gamma": (r"\Gamma_{b,p,q} = V_p\cdot \Pi_b V_q/d", vectors + biases),
        "velocity": (r"\dot{\Gamma}_{b,p,q}", "velocity of the overlaps: the flow above"),
        "gamma": (r"\gamma_{b}", "share of the coordinates that block b has"),
        "s": (r"s_{c,b}", "variance of the input in block b, given source c"),
        "nu": (r"\nu_{c,m}", f"component of the mean of source c in direction m{biases}"),
        "pi": (r"\pi_{c} = \mathbb{P}(c)", "probability that source c (cluster, task, mask) emits the sample"),
        "chi": (r"\chi_{c,i}", "1 where source c keeps unit i, 0 where dropout drops it"),
        "delta": (r"\delta_{c,h}", "1 where source c is read by readout h = h(c), else 0"),
        "a": (r"a_{h,o,i}", "readout h of output o and unit i") if t.Y > 1 else (r"a_{h,i}", "readout h of unit i"),
        "L": (r"L_{p,r}", "how vectors mix: the entries above"),
        "P": (r"P_{p,i}", "what a gradient moves: the entries above"),
        "Omega": (r"\Omega_{p,q}", "covariance of the noise of a step: the rows above, 0 for vectors of two units"),
        "Lambda": (r"\Lambda_{c,p,r}", "drift of vector p along vector r, averaged over source c: the rows above"),
        "phi": (r"\phi_{i}", "feedback of unit i: the numbers above"),
        "e": (rf"e_{{c,b}} = {t.input_noise**2:g}", "variance of the noise on the input of a step"),
        "upsilon": (r"\upsilon_{l}", "1 for fields of a student, 0 for those of teachers: labels do not see the noise"),
        "tau2": (r"\tau^{2}_{c} = \tau^{2}\, \lVert x\rVert^2/d", "variance of a field under noise on the weights"),
        "W": (r"W_{f,m_{1}}", "how fixed vectors mix: the entries above, 0 for the directions of the means"),
        "omega": (r"\omega_{b,f,m_{2}}", "nu |Pi_b w*_m|^2/d at time 0 for f = m_2 a teacher, else 0"),
        "theta": (r"\theta_{b}", "1, but 0 for the block of the biases, which does not count in a norm"),
        "B_s": (rf"B_{{s}} = {batch}", "samples in a batch"),
        "eta_a": (rf"\eta_{{a}} = {t.readout_rate:g}{scheduled}", "learning rate of the readouts"),
        "kappa_a": (rf"\kappa_{{a}} = {t.readout_decay:g}", "decay of the readouts"),
        "c": (r"c_{o,\alpha}" if t.Y > 1 else r"c_{\alpha}", "readouts of all fields of a source: 'units' above"),
        "y0": (r"y_{0,o} = y_{0co}", "number in the label of output o, given the source"),
        "Y": (rf"Y = {t.Y}", "outputs"),
        "A": (r"A_{m} = A_{cm}", "weight of teacher m, given the source"),
        "offset": (r"y_{0} = y_{0c}", "number in the label, given the source"),
        "sigma": (r"\sigma = \sigma_c", "standard deviation of the label noise, given the source"),
        "target": (r"A_{\star} = A_{c1}", "factor of the target, given the source"),
        "C": (r"C_{l,j} = C_{c,l,j}", "given the source its index is dropped, also that of averages and readouts"),
        "mu": (r"\mu_{l} = \mu_{c,l}", "mean of the fields, given the source"),
        "block field": (r"f^{b}_{p} = V_{p}\cdot \Pi_b\, x/\sqrt{d}", "part of a field that block b holds"),
        "rho": (
            r"\rho_{hi} = \delta_{c,h}\,\chi_{c,i}\, g(\lambda_i)\,"
            + (r"\partial_{f_o} \ell" if t.Y > 1 else r"\Delta"),
            "of one sample" + (", for output o" if t.Y > 1 else ""),
        ),
        SignMoment2.__name__: (
            r"\mathcal{S}_2(h, k, \rho) = \mathbb{E}\left[\mathrm{sign}(\xi_1 + h)\, \mathrm{sign}(\xi_2 + k)\right]",
            "xi_1, xi_2 standard Gaussian with correlation rho",
        ),
        SignMoment4.__name__: (
            r"\mathcal{S}_4 = \mathbb{E}\left[\textstyle\prod_{n=1}^{4} \mathrm{sign}(\xi_n)\right]",
            "xi_n standard Gaussian with these correlations: 12, 13, 14, 23, 24, 34",
        ),
        SignMoment3.__name__: (
            r"\mathcal{S}_3 = \mathbb{E}\left[\textstyle\prod_{n=1}^{3} \mathrm{sign}(\xi_n + h_n)\right]",
            "xi_n standard Gaussian; thresholds h_1, h_2, h_3, then correlations 12, 13, 23",
        ),
        ShiftedSignMoment4.__name__: (
            r"\mathcal{S}_4 = \mathbb{E}\left[\textstyle\prod_{n=1}^{4} \mathrm{sign}(\xi_n + h_n)\right]",
            "xi_n standard Gaussian; thresholds h_1, ..., h_4, then correlations 12, 13, 14, 23, 24, 34",
        ),
        "n_v": (rf"n_{{v}} = {flow.V}", "vectors that move"),
        "n_f": (fields, "fields of a source"),
        "n_c": (rf"n_{{c}} = {len(t.head)}", "sources, masks counted apart"),
        "n_h": (rf"n_{{h}} = {t.heads}", "readouts"),
        "K": (rf"K = {flow.K}", "hidden units"),
        "M": (rf"M = {flow.M}", "teachers"),
        "F": (rf"F = {flow.F}", "fixed vectors: teachers, directions of the means"),
        "D": (rf"D = {flow.D}", f"directions of the means{biases}"),
        "B": (rf"B = {flow.B}", f"blocks of the input{biases}"),
    }  # fmt: skip
    return {name: Equation(f"symbol {name}", latex, None, note) for name, (latex, note) in rows.items()}
