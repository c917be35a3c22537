"""Model and averages of a student of several outputs, in words and LaTeX; `explanation` prints the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy as sp

from ....symbolic.equations import Equation, latex
from ..explanation import definitions, same_activation
from ..vector_averages import MEANING, U

if TYPE_CHECKING:
    from .table_flow import GeneralFlow

# Classes or outputs beyond this are summed up.
WRITTEN = 6


def labels(flow: GeneralFlow) -> list[Equation]:
    """Return what the label is, and how the loss takes it."""
    t, rows = flow.table, []
    noise = r" + \sigma_c\, \zeta'_o" if t.noise.any() else ""
    facts = "sigma_c: standard deviation of independent noises" if noise else ""
    if t.index:
        for o, f in enumerate(t.index[:WRITTEN]):
            left = rf"h_{{{o + 1}}}" if t.argmax else rf"y_{{{o + 1}}}"
            rows.append(Equation("score" if t.argmax else "label", rf"{left} = {latex(f.sympy())}{noise}", None, facts))
        if t.argmax:
            rows.append(Equation("label", r"y_o = 1\ \text{where}\ h_o = \max_p h_p,\ \text{else}\ 0", None, "a class"))
    elif t.teacher is not None:
        g = "g" if same_activation(flow.averages.setting) else r"\tilde g"
        text = rf"y_o = \sum_{{m}} A_{{c,o,m}}\, {g}(z_m){noise}"
        note = "A_c: readouts of the teachers in source c, output by output, z_m = w*_m.x/sqrt d"
        rows.append(Equation("label", text, None, f"{note}; {facts}" if facts else note))
    else:
        note = "the unit vector of the class of source c" if t.classes else "the label of source c"
        rows.append(Equation("label", r"y_o = y_{0co}", None, note))
    loss: Any = t.loss
    if loss.quadratic:
        text = r"\ell = \tfrac12 \sum_{o} (f_o - y_o)^2"
    elif loss.softmax:
        text = r"\ell = -\sum_{o} y_o \log \frac{e^{f_o}}{\sum_{p} e^{f_p}}"
    elif loss.form.several:
        text = rf"\ell = {latex(loss.form.formula.sympy())}"
    else:
        f, y = (sp.Symbol(s, real=True) for s in "fy")
        shown = loss.form.value.subs({f: sp.Symbol("f_o", real=True), y: sp.Symbol("y_o", real=True)})
        text = rf"\ell = \sum_{{o}} {latex(shown)}"
    rows.append(Equation("loss", text))
    if loss.smoothing:
        text = rf"y_o \to {1 - loss.smoothing:g}\, y_o + {loss.smoothing:g}/{t.Y}"
        rows.append(Equation("smoothing", text, None, "in the loss"))
    return rows


def student(flow: GeneralFlow) -> list[Equation]:
    """Return outputs and errors, of an output and of a unit."""
    t = flow.table
    bias = " + b_k" if flow.biased else ""
    masked = r"\chi_{ck}\, " if (t.masks != 1).any() else ""
    index = r"^{h(c)}" if t.heads > 1 else ""
    text = rf"f_o = \sum_{{k}} {masked}a{index}_{{ok}}\, g(\lambda_k),\quad \lambda_k = w_k\cdot x/\sqrt d{bias}"
    own = r"\Delta_{i} = \sum_{o} \hat{a}_{coi}\, \partial_{f_o} \ell"
    shown = [e for e in definitions(flow.averages.setting) if e.label in ("activation", "teacher")]
    shown = [e for e in shown if e.label == "activation" or t.teacher is not None]
    outputs = Equation("student", text, None, f"{t.Y} outputs o")
    return [outputs, Equation("error", own, None, "what an error is to unit i"), *shown]


def averages(flow: GeneralFlow, printed: Any) -> list[Equation]:
    """Return the averages of a source in closed form, or what they stand for."""
    rows = []
    for stage in flow.averages.definitions:
        name, left = str(stage.lhs.base), latex(stage.lhs)
        if flow.averages.route != "closed":
            rows.append(Equation(name, f"{left} = {MEANING[name]}", None, "given the source, by quadrature"))
            continue
        value = printed(stage.rhs)
        if name in MEANING:
            text = f"{left} = {MEANING[name]} = {latex(value)}"
            rows.append(Equation(name, text, (stage.lhs, value), "given the source"))
        else:
            note = "weights of the fields in the error of unit i" if stage.lhs.base == U else "its label"
            rows.append(Equation.of(name, stage.lhs, value, note))
    return rows
