"""The table, the closure and the flow of one problem, in words and LaTeX."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from ....problem import Expression
from ....problem.data import Mixture
from ....problem.emitters import stages_of
from ....problem.timed import Timed, formulas_in
from ....symbolic.equations import Equation, Step, latex
from ..differences.tail import close_step
from ..episode_averages import episode_equations
from ..erf_sums import ErfMixture
from ..explanation import definitions as unit_definitions
from ..explanation import kernel_equations, same_activation, sum_definitions
from ..exponents import describe_spectrum
from ..source_averages import MEANING
from . import notation as d
from . import vector_explanation as vector
from .derivation import SPREAD, gradient, variance
from .symbols import coefficient, glossary, letter, moved_by, of_unit, printed, unit_readout

if TYPE_CHECKING:
    from ..notation import Setting
    from .table_flow import GeneralFlow

# More sources or blocks than this are summed up.
LISTED = 6


def explain(flow: GeneralFlow) -> list[Step]:
    """Return the derivation, step by step."""
    out, form = flow.derived, flow.form
    increments = [
        Equation.of("moving", r"d\,\delta \Gamma^{b}_{pq}", _increment(flow, out.update.moving)),
        Equation.of("fixed", r"d\,\delta \Gamma^{b}_{pf}", _increment(flow, out.update.fixed), "f a fixed vector"),
    ]
    if flow.trained:
        at = "hoi" if form.vector else "hi"
        increments.append(Equation.of("readout", rf"d\,\delta a_{{{at}}}", out.update.readout))
    regime = {
        "classical": "",
        "gradient-flow": " Only terms of first order in the sample are kept: the limit of a vanishing learning rate.",
        "noise-dominated": " Only terms of second order in the sample are kept: the noise-dominated limit.",
    }[form.regime]
    sphere = "" if not form.spherical else " Weights put back to their old norm lose the growth of that norm."
    steps = [
        Step("Model", "Given who emits it, the input is Gaussian in every block.", tuple(model(flow))),
        Step("The update as a table", "Linear in the vectors and in the sample.", tuple(rule(flow))),
        Step(
            "Increments of the overlaps",
            "Multiply updated vectors block by block and expand to first order in 1/d; x.x = d gamma_b s_cb in a block,"
            " divided by B_s for the mean over a batch." + regime + sphere,
            tuple(increments),
        ),
        Step(
            "Closure",
            "The part of a field that a block holds is regressed on the whole fields, and Stein's lemma turns the "
            "regression into derivatives: one set of averages a source, whatever the number of blocks.",
            (*law_equations(flow), *average_equations(flow), *map(_stage, out.moments)),
        ),
        Step("Flow", "With these moments the block overlaps obey a closed system.", tuple(flow_equations(flow))),
    ]
    used = [e for step in steps for e in step.equations]
    steps.append(Step("Symbols", "What the equations use and do not define themselves.", tuple(glossary(flow, used))))
    steps += [linear_step(flow)] if is_linear(flow) else []
    missing = "it is derived for isotropic, centred inputs, one target and one tracked vector a unit"
    return [*steps, close_step(missing)]


def _increment(flow: GeneralFlow, increment: Any) -> Any:
    """Return an increment in what a sample moves the vectors by: a written coefficient is its own symbol."""
    increment = sp.expand(increment.xreplace({SPREAD: variance(flow.form)}))
    if not flow.form.written:
        return increment
    return sp.expand(increment.xreplace({gradient(v): -moved_by(v) for v in (d.p, d.q)}))


def is_linear(flow: GeneralFlow) -> bool:
    """Whether the error obeys a Volterra equation: one linear unit on one linear teacher, plain SGD."""
    t, form = flow.table, flow.form
    special = form.written or form.kicked or form.spherical or t.drift.any() or flow.trained
    plain = not special and form.regime == "classical"
    units = t.K == t.M == len(t.species) == t.sources == 1
    return bool(
        plain and units and flow.centred and not flow.scheduled and t.loss.name == "square"
        and t.activation.text == "x" and t.teacher is not None and t.teacher.text == "x" and (t.masks == 1.0).all()
        and t.a[0, 0] == t.teacher_rows[0, 0] == 1.0
    )  # fmt: skip


def linear_step(flow: GeneralFlow) -> Step:
    """Return the closed form of a linear student: its error alone, an equation of renewal."""
    t = flow.table
    stability = t.gain[0] * float(t.shares @ t.variances[0]) / (2 * t.batch)
    note = f"here eta <s>/(2 B_s) = {stability:.4g}" + ("" if stability < 1 else ": the error diverges")
    rows = (
        Equation("excess", r"q_b = \Gamma^b_{ww} - 2\Gamma^b_{w\star} + \Gamma^b_{\star\star},\quad "
                           r"2\varepsilon_g = \sum_b s_b q_b"),
        Equation("excess", r"\dot q_b = -2\eta s_b q_b + \frac{\eta^2}{B_s}\gamma_b s_b (2\varepsilon_g + \sigma^2)"),
        Equation("Volterra", r"2\varepsilon_g(t) = \sum_b s_b q_b(0)\, e^{-2\eta s_b t} + "
                             r"\frac{\eta^2}{B_s}\int_0^t K(t-u)\, (2\varepsilon_g(u) + \sigma^2)\, \mathrm{d}u"),
        Equation("memory", r"K(t) = \sum_b \gamma_b s_b^2\, e^{-2\eta s_b t}"),
        Equation("stable", r"\eta \langle s\rangle < 2 B_s,\quad 2\varepsilon_g(\infty) = "
                           r"\frac{\eta\langle s\rangle \sigma^2}{2 B_s - \eta\langle s\rangle}", None, note),
    )  # fmt: skip
    text = (
        "A linear student needs only its excess in each block. With integrating factors the error alone remains: what "
        "the start has left of it, and the noise of every step since."
    )
    return Step("Linear students: a Volterra equation", text, rows)


def equations(flow: GeneralFlow) -> list[Equation]:
    """Return every equation that is computed."""
    rows = [
        *model(flow), *rule(flow), *law_equations(flow), *average_equations(flow),
        *map(_stage, flow.derived.moments), *flow_equations(flow),
    ]  # fmt: skip
    return [*rows, *glossary(flow, rows)]


def model(flow: GeneralFlow) -> list[Equation]:
    """Return data, label and student."""
    t = flow.table
    mean = r"m_c + " if t.means.any() else ""
    note = "given the source c; Pi_b: projector on the gamma_b d coordinates of block b; zeta standard Gaussian"
    rows = [Equation("input", rf"x = {mean}\sum_{{b}} \sqrt{{s_{{cb}}}}\, \Pi_b\, \zeta", None, note)]
    if t.D:
        rows.append(Equation("mean", r"m_c = \sum_{r} \nu_{cr}\, r_r / \sqrt{d}", None, f"{t.D} directions r_r"))
    if t.Y > 1:
        return [*rows, *vector.labels(flow), *vector.student(flow), *blocks(flow), *sources(flow)]
    same = t.teacher is not None and same_activation(flow.averages.setting)
    label = [rf"\sum_{{m}} A_{{cm}}\, {'g' if same else chr(92) + 'tilde g'}(z_m)"] if t.teacher is not None else []
    if t.index:
        label = [latex(t.index[0].sympy())]
    if t.labels.any():
        label.insert(0, r"y_{0c}")
    if t.noise.any():
        label.append(r"\sigma_c\, \zeta'")
    facts = {
        r"A_{cm}": "A_cm: weight of teacher m in source c, z_m = w*_m.x/sqrt d", "y_{0c}": "y_0c: label of source c",
        r"\sigma_c": "sigma_c: standard deviation of the noise, zeta' standard Gaussian",
    }  # fmt: skip
    note = "; ".join(text for symbol, text in facts.items() if any(symbol in part for part in label))
    rows.append(Equation("label", rf"y = {' + '.join(label) or '0'}", None, note))
    bias = " + b_k" if flow.biased else ""
    masked = r"\chi_{ck}\, " if (t.masks != 1).any() else ""
    index = r"^{h(c)}" if t.heads > 1 else ""
    seen = r"x'" if flow.form.stirred else "x"
    weights = r"(w_k + \tau\, \xi_k)" if flow.form.blurred else "w_k"
    field = rf"\lambda_k = {weights}\cdot {seen}/\sqrt d{bias}"
    rows.append(Equation("student", rf"f = \sum_{{k}} {masked}a{index}_k\, g(\lambda_k),\quad {field}"))
    rows += noises(flow)
    shown = unit_definitions(flow.averages.setting)
    rows += [e for e in shown if e.label in ("error", "activation", "teacher")]
    return rows + blocks(flow) + sources(flow) + in_time(flow)


def noises(flow: GeneralFlow) -> list[Equation]:
    """Return the noise that a step adds to its input and to the weights: the label and the tests do without."""
    t, rows = flow.table, []
    if t.hidden:
        note = "Phi, c_0, zeta'' of normal entries; z_m = w*_m.c_0/sqrt d_0; blocks: the law of kappa_1^2 Phi Phi^T/d_0"
        image = r"\sigma_0(\Phi c_0/\sqrt{d_0}) \simeq \kappa_1\, \Phi c_0/\sqrt{d_0}"
        text = rf"x = {image} + {t.input_noise:g}\, \zeta''"
        rows.append(Equation("hidden manifold", text, None, note))
    elif flow.form.stirred:
        note = "zeta'' standard Gaussian: a step sees x', the label is that of x"
        rows.append(Equation("input noise", rf"x' = x + {t.input_noise:g}\, \zeta''", None, note))
    if flow.form.blurred:
        note = "xi_k standard Gaussian, fresh at every step: where the gradient is taken"
        rows.append(Equation("weight noise", rf"\tau = {t.weight_noise:g}", None, note))
    return rows


def teachers_drift(flow: GeneralFlow) -> list[Equation]:
    """Return how teachers move on their own."""
    t = flow.table
    if t.fixed_drift is None or t.fixed_noise is None:
        return []
    entries = r" \\ ".join(" & ".join(f"{v:g}" for v in row) for row in t.fixed_drift)
    text = r"w^\star_m \leftarrow w^\star_m + \tfrac1d \sum_{n} W_{mn}\, w^\star_n + \sqrt{\nu/d}\; \zeta_m"
    rows = [
        Equation("drift", text, None, "zeta_m: fresh Gaussian, |zeta_m|^2 = |w*_m(0)|^2 and shared out as it is"),
        Equation("drift", rf"W = \begin{{pmatrix}}{entries}\end{{pmatrix}}"),
    ]
    own = np.diagonal(t.gram[:, t.moving : t.moving + t.M, t.moving : t.moving + t.M], axis1=1, axis2=2)
    return [*rows, Equation("drift", rf"\nu = {float(t.fixed_noise.sum() / own.sum()):g}")]


def blocks(flow: GeneralFlow) -> list[Equation]:
    """Return the spectrum: its blocks, or its law with exponent and effective dimension."""
    t, spectrum = flow.table, getattr(flow.p.data, "spectrum", None)
    if len(t.shares) == 1 or spectrum is None:
        return []
    facts = describe_spectrum(flow.p)
    note = f"effective dimension (tr Sigma)^2/tr Sigma^2 = {facts['effective dimension / d']:.4g} d"
    if spectrum.exponent is not None:
        law = rf"s_b \propto b^{{-{1 + spectrum.exponent:g}}},\quad \gamma_b = 1/{spectrum.levels}"
        rows = [Equation("spectrum", law, None, f"{note}, largest eigenvalue {facts['largest eigenvalue']:.4g}")]
        if t.nodes:
            rows.append(Equation("nodes", rf"{len(t.shares)}\ \text{{nodes of the Gauss rule of this spectrum}}"))
        omega = getattr(getattr(flow.p.target, "power", None), "exponent", None)
        if omega is not None:
            rows.append(Equation("power", rf"w^\star_m\cdot \Pi_b w^\star_m \propto b^{{-{omega:g}}}"))
        if "decay exponent of linear students" in facts:
            text = rf"\varepsilon_g \sim t^{{-{facts['decay exponent of linear students']:.4g}}}"
            note = "linear students as the learning rate vanishes, between the times 1/(eta s_1) and 1/(eta s_L)"
            rows.append(Equation("decay", text, None, note))
        return rows
    if len(t.shares) > LISTED:
        return [Equation("spectrum", rf"{len(t.shares)}\ \text{{blocks}}", None, note)]
    pairs = enumerate(zip(t.shares, t.variances[0], strict=True))
    text = r",\ ".join(rf"(\gamma, s)_{{{b}}} = ({g:g}, {s:g})" for b, (g, s) in pairs)
    return [Equation("spectrum", text, None, note)]


def sources(flow: GeneralFlow) -> list[Equation]:
    """Return who emits the samples, in time."""
    t = flow.table
    if t.sources == 1:
        return []
    rows = []
    if any(entry.key != "student.dropout" for entry in t.timed if entry.array == "chances"):
        stages = stages_of(flow.p, t.sources)
    else:
        begins = [0.0, *t.switches]
        shares = t.source_weights(np.array(begins))
        stages = tuple((end, tuple(row)) for row, (end, _) in zip(shares, t.stages, strict=True))
    for end, weights in stages[:LISTED]:
        until = "" if end == float("inf") else f",\\ t < {end:g}"
        rows.append(Equation("sources", rf"\pi = ({', '.join(map(_number, weights))}){until}"))
    return rows


def in_time(flow: GeneralFlow) -> list[Equation]:
    """Return the numbers that are formulas in the time, those of the sources apart."""
    target, student, rule = flow.p.target, flow.p.student, flow.p.algorithm
    rows = []
    if isinstance(getattr(target, "noise", 0.0), str):
        rows.append(Equation("noise", rf"\sigma_c(t) = {_number(target.noise)}"))
    if isinstance(rule.batch_size, str):
        rows.append(Equation("batch", f"B_{{s}}(t) = {_number(rule.batch_size)}"))
    keep = getattr(student, "dropout", 1.0)
    if any(True for _ in formulas_in(keep)):
        values = ", ".join(map(_number, keep if isinstance(keep, tuple) else (keep,)))
        rows.append(Equation("masks", rf"p(t) = ({values})", None, "probability that a unit is kept, chi = 1"))
    moving = flow.p.data.moving_eigenvalues() if isinstance(flow.p.data, Mixture) else {}
    for (c, b), text in list(moving.items())[:LISTED]:
        rows.append(Equation("variance", f"s_{{{c},{b}}}(t) = {_number(text)}"))
    return rows


def _number(value: Timed) -> str:
    """Return a number, or a formula in the time, in LaTeX."""
    if not isinstance(value, str):
        return f"{value:g}"
    # A step's value at its jump is no part of the formula on paper.
    return latex(Expression(value, ("t",)).sympy().replace(sp.Heaviside, lambda u, *_: sp.Heaviside(u)))


def rule(flow: GeneralFlow) -> list[Equation]:
    """Return one step of every tracked vector."""
    t, rows = flow.table, []
    sample = "x'" if flow.form.stirred else "x"
    readout = unit_readout(flow)
    readout = r"\hat{\phi}_{ck}" if flow.form.feedback else readout
    several = t.Y > 1
    own = flow.averages.displaced or t.episodes is not None
    slope = rf"{readout}\, " + (r"\psi_k" if own else r"g'(\lambda_k)\,\Delta")
    slope = r"g'(\lambda_k)\,\Delta_k" if several else slope
    scheduled = r"\, s(t)" if flow.form.schedule != 1 else ""
    for row, name in enumerate(t.species):
        moves = []
        for column, other in enumerate(t.species):
            parts = [(t.drift[row, column], ""), (t.scheduled_drift[row, column], scheduled)]
            moves += [rf"{v:+g}{s}\, {letter(other)}_k/d" for v, s in parts if v]
        moved = [(t.gain[row], scheduled), (t.fixed_gain[row], "")]
        moves += [rf"{-v:+g}{s}\, {slope}\, {sample}/\sqrt{{d}}" for v, s in moved if v]
        symbol = letter(name)
        formula = coefficient(flow, row)
        if formula is not None:
            moves.append(rf"+ \left[{latex(formula)}\right] {sample}/\sqrt{{d}}")
        for other, part in zip(t.species, t.sampled_drift[row] if t.sampled_drift else (), strict=False):
            if part is not None:
                moves.append(rf"+ \left[{latex(of_unit(flow, part))}\right] {letter(other)}_k/d")
        kicks = [(t.kick[row], scheduled), (t.fixed_kick[row], "")]
        moves += [rf"{v:+g}{s}\, \zeta_k/\sqrt{{d}}" for v, s in kicks if v]
        rows.append(Equation(f"vector {name}", rf"{symbol}_k \leftarrow {' '.join([f'{symbol}_k', *moves])}"))
    if t.coefficients is not None:
        for row, name in enumerate(t.species):
            formula = coefficient(flow, row)
            shown = sp.Integer(0) if formula is None else formula
            rows.append(Equation.of(f"coefficient {name}", rf"\varphi_{{p}}\big|_{{p = {letter(name)}_k}}", shown))
            if name != "w" and any(f is not None and f"_{name}" in f.text for f in t.coefficients):
                text = rf"\lambda^{{{letter(name)}}}_{{k}} = {letter(name)}_k\cdot x/\sqrt{{d}}"
                rows.append(Equation(f"field {name}", text))
        rows.append(Equation("rate", rf"\eta = {t.learning_rate:g}{scheduled}"))
    if flow.trained:
        name, error = ("a_{ok}", r"\partial_{f_o} \ell") if several else ("a_k", r"\Delta")
        decay = rf"(1 - {t.readout_decay:g}/d)\, {name}" if t.readout_decay else name
        pulled = r"\sum_j g(\lambda^{(j)}_k)\,\Delta^{(j)}" if t.uses > 1 else rf"g(\lambda_k)\,{error}"
        text = rf"{name} \leftarrow {decay} - ({t.readout_rate:g}{scheduled}/d)\, {pulled}"
        rows.append(Equation("readout", text))
    if flow.biased:
        note = "a coordinate of the weights on which every input has one value: the last block; their drift acts on it"
        step = rf"+ ({t.bias_rate:g}/d)\, \varphi_{{w_k}}" if flow.form.written else ""
        for v, s in ((t.gain[0], scheduled), (t.fixed_gain[0], "")):
            step += rf" - ({t.bias_rate * v:g}{s}/d)\, {slope}" if v else ""
        rows.append(Equation("bias", rf"b_k \leftarrow b_k {step}", None, note))
    rows += teachers_drift(flow)
    if flow.form.feedback:
        numbers = ", ".join(f"{v:g}" for v in t.feedback) if t.feedback is not None else ""
        note = "fixed: they take the place of the readouts in the gradient of the weights"
        rows.append(Equation("feedback", rf"\phi = ({numbers})", None, note))
    if scheduled:
        rows.append(Equation("schedule", f"s(t) = {latex(flow.form.schedule)}"))
    if t.spherical:
        rows.append(Equation("sphere", r"w_k \leftarrow w_k\,\lVert w_k^{\rm old}\rVert / \lVert w_k\rVert"))

    def entries(steady: Any, moved: Any) -> str:
        shown = [
            [_entry(v, w, scheduled) for v, w in zip(*pair, strict=True)] for pair in zip(steady, moved, strict=True)
        ]
        return rf"\begin{{pmatrix}}{(' ' + chr(92) * 2 + ' ').join(' & '.join(r) for r in shown)}\end{{pmatrix}}"

    note = f"a row a species ({', '.join(t.species)}), times the identity in the units"
    if flow.form.written:
        text = r"V_p \leftarrow V_p + \tfrac1d \sum_r L_{pr} V_r + \varphi_p\, " + sample + r"/\sqrt d"
        mixed = "L = " + entries(t.drift, t.scheduled_drift)
        return [*rows, Equation("table", text, None, "phi_p: the coefficient of vector p, averaged as it stands"),
                Equation("entries", mixed, None, note)]  # fmt: skip
    pulled = r"\hat{\phi}_{ci}\, " if flow.form.feedback else r"\hat{a}_{ci}\, "
    pulled += r"\psi_i" if own else r"g'(\lambda_i)\,\Delta"
    pulled = r"g'(\lambda_i)\,\Delta_i" if several else pulled
    rows += displaced_fields(flow, scheduled) + decisions(flow)
    mixed = "L = " + entries(t.drift, t.scheduled_drift)
    mixed += r",\quad P = " + entries(t.fixed_gain[:, None], t.gain[:, None])
    return [
        *rows,
        Equation("table", r"V_p \leftarrow V_p + \tfrac1d \sum_r L_{pr} V_r - \beta_p\, " + sample + r"/\sqrt d,\quad "
                          r"\beta_p = \sum_i P_{pi}\, " + pulled),
        Equation("entries", mixed, None, note),
    ]  # fmt: skip


def decisions(flow: GeneralFlow) -> list[Equation]:
    """Return what an episode earns, and what that moves the weights by."""
    game = flow.table.episodes
    if game is None:
        return []
    earned = rf"r = {game.reward:g}\ \text{{where}}\ \sum_\tau [s_\tau y_\tau > 0] \geq {game.needed}"
    note = f"of an episode of {game.length} decisions; psi is averaged over them"
    return [
        Equation("decisions", r"\psi_\tau = -r\, s_\tau,\quad s_\tau = \mathrm{sign}(\lambda_\tau)", None, note),
        Equation("reward", rf"{earned},\ \text{{else}}\ r = {0.0 - game.penalty:g}"),
    ]


def displaced_fields(flow: GeneralFlow, scheduled: str) -> list[Equation]:
    """Return the fields that steps on a sample move on that same sample, and the gradient psi taken there."""
    t, averages = flow.table, flow.averages
    if not averages.displaced:
        return []
    size = rf"\ell_{{c}}/{t.batch:g}" if t.batch > 1 else r"\ell_{c}"
    length = r"\ell_{c} = \lVert x\rVert^2/d = \sum_{b} \gamma_{b}\, s_{cb}"
    note = "one step on a sample moves its own field by order one"
    note += ": the other samples of a batch move it by less" if t.batch > 1 else ""
    if averages.trial:
        rho = f"{t.displacement:g}{scheduled}"
        rows = [
            rf"\tilde\lambda_i = \lambda_i - ({rho})\, {size}\, \hat{{a}}_{{ci}}\, g'(\lambda_i)\,\Delta",
            r"\tilde\Delta = \partial_f \ell\Bigl(\sum_k \hat{a}_{ck}\, g(\tilde\lambda_k),\, y\Bigr)",
            r"\psi_i = g'(\tilde\lambda_i)\, \tilde\Delta",
        ]
    else:
        eta = f"{t.gain[0]:g}{scheduled}"
        step = rf"({eta})\, {size}\, \hat{{a}}_{{ci}}\, g'(\lambda^{{(j)}}_i)\,\Delta^{{(j)}}"
        rows = [
            rf"\lambda^{{(j+1)}}_i = \lambda^{{(j)}}_i - {step},\quad \lambda^{{(0)}} = \lambda",
            r"\Delta^{(j)} = \partial_f \ell\Bigl(\sum_k \hat{a}_{ck}\, g(\lambda^{(j)}_k),\, y\Bigr)",
            rf"\psi_i = \sum_{{j=0}}^{{{t.uses - 1}}} g'(\lambda^{{(j)}}_i)\,\Delta^{{(j)}}",
        ]
    return [Equation("length", length, None, note), *(Equation("displaced", text) for text in rows)]


def _entry(steady: float, moved: float, scheduled: str) -> str:
    """Return an entry of a table of rates; the schedule multiplies the second part."""
    if not scheduled:
        return f"{steady + moved:g}"
    return (
        f"{steady:g}" if not moved else f"{moved:g}{scheduled}" if not steady else f"{steady:g} {moved:+g}{scheduled}"
    )


def law_equations(flow: GeneralFlow) -> list[Equation]:
    """Return covariance and mean of the fields of a source, and the weights of its units."""
    if flow.table.Y > 1:
        text = r"c_{o,i} = \hat{a}_{coi},\quad c_{o,K+m} = -A_{c,o,m}"
        units = Equation("units", text, None, "readouts of fields, given the source")
        return [*map(_stage, flow.derived.laws), units]
    units = Equation(
        "units", r"c_{i} = \hat{a}_{ci},\quad c_{K+m} = -A_{cm}", None, "readouts of fields, given the source"
    )
    added = [replace(_stage(stage), note="added to it: noise on the weights") for stage in flow.derived.added]
    return [*map(_stage, flow.derived.laws), *added, units, *map(_stage, flow.derived.pulls)]


def average_equations(flow: GeneralFlow) -> list[Equation]:
    """Return the averages of a source in closed form, or what they stand for."""
    averages, game = flow.averages, flow.table.episodes
    if game is not None:
        return episode_equations(game.length, game.needed, game.reward, game.penalty)
    rows = vector.averages(flow, printed) if flow.table.Y > 1 else []
    for stage in averages.definitions if flow.table.Y == 1 else ():
        name, left = str(stage.lhs.base), latex(stage.lhs)
        if averages.route == "closed":
            value = printed(stage.rhs)
            rows.append(
                Equation(name, f"{left} = {MEANING[name]} = {latex(value)}", (stage.lhs, value), "given the source")
            )
        elif averages.displaced and name in DISPLACED:
            rows.append(Equation(name, DISPLACED[name], None, "given the source, by quadrature over all fields"))
        elif averages.uses > 1:
            text = r"R_{i} = \sum_{j} \mathbb{E}\left[g(\lambda^{(j)}_{i})\, \Delta^{(j)}\right]"
            rows.append(Equation(name, text, None, "given the source, by quadrature over all fields"))
        elif flow.form.written and name in WRITTEN:
            rows.append(Equation(name, WRITTEN[name], None, "given the source, by quadrature over all fields"))
        else:
            rows.append(Equation(name, f"{left} = {MEANING[name]}", None, "given the source, by quadrature"))
    # The averages name the vectors of their tilted covariances on the way.
    vectors = [replace(v, lhs=printed(v.lhs), rhs=printed(v.rhs)) for v in averages.indices.vectors.values()]
    if averages.sums is not None:
        assert averages.summed is not None
        rows += sum_equations(averages.sums, averages.summed)
    tilted = [Equation.of(str(v.lhs.base), v.lhs, v.rhs, "tilted covariance") for v in vectors]
    return tilted + rows + kernel_equations(averages.averages.kernels, averages.route)


def sum_equations(sums: tuple[ErfMixture, ErfMixture], setting: Setting) -> list[Equation]:
    """Return how averages follow from those of the erf units (i, p) that a unit i is made of, which are those above."""
    text = (
        r"G_i = \sum_p v_{ip} b_{ip}\, G_{(ip)},\quad H_{i\alpha} = \sum_{p,q} v_{ip} b_{ip} b_{\alpha q}\, "
        r"H_{(ip)(\alpha q)},\quad N_{ik} = \sum_{p,q} v_{ip} b_{ip} v_{kq} b_{kq}\, N_{(ip)(kq)},\quad "
        r"R_i = g_0\, \mathbb{E}[\Delta] + \sum_p v_{ip} R_{(ip)}"
    )
    note = (
        "the erf unit (alpha, p) has field b_{alpha p} f_alpha and weight c_alpha v_{alpha p}; y_0 loses the constants"
    )
    return [*sum_definitions(sums, setting), Equation("sums of erfs", text, None, note)]


# Averages of a written coefficient: the slopes are a regression, which needs no derivative.
WRITTEN = {
    "G": r"G_{p} = \mathbb{E}\left[\varphi_{p}\right]",
    "H": r"H_{pl} = \mathbb{E}\left[\partial_{f_{l}} \varphi_{p}\right]"
         r" = \sum_{j} \mathbb{E}\left[\varphi_{p}\, (f_{j} - \mu_{j})\right] (C^{-1})_{jl}",
    "N": r"N_{pr} = \mathbb{E}\left[\varphi_{p}\, \varphi_{r}\right]",
}  # fmt: skip

# Averages of a gradient at displaced fields, in the same way.
DISPLACED = {
    "G": r"G_{i} = \mathbb{E}\left[\psi_{i}\right]",
    "H": r"H_{il} = \mathbb{E}\left[\partial_{f_{l}} \psi_{i}\right]"
         r" = \sum_{j} \mathbb{E}\left[\psi_{i}\, (f_{j} - \mu_{j})\right] (C^{-1})_{jl}",
    "N": r"N_{ik} = \mathbb{E}\left[\psi_{i}\, \psi_{k}\right]",
}  # fmt: skip


def _stage(stage: Any) -> Equation:
    name = "readouts" if stage.lhs.base == d.w else str(stage.lhs.base).strip("\\")
    return Equation.of(name, stage.lhs, stage.rhs)


def flow_equations(flow: GeneralFlow) -> list[Equation]:
    """Return the flow and the generalisation error."""
    rows = []
    for stage in flow.derived.flow:
        name = "a" if stage.lhs.base == d.da else r"\Gamma"
        subscript = ",".join(map(latex, stage.lhs.indices))
        left = rf"\frac{{\mathrm{{d}} {name}_{{{subscript}}}}}{{\mathrm{{d}} t}}"
        note = {d.q: "p, q moving", d.f: "f fixed: teachers, means", d.v: "two fixed"}.get(stage.lhs.indices[-1], "")
        rows.append(Equation.of(name.strip("\\"), left, stage.rhs, note))
    for stage in flow.derived.sphere:
        if stage.lhs.base == d.dGamma:
            at = ",".join(map(latex, stage.lhs.indices))
            rows.append(
                Equation.of("sphere", rf"\delta_{{\rm sphere}}\, \dot\Gamma_{{{at}}}", stage.rhs, "added to it")
            )
        else:
            rows.append(_stage(stage))
    return [*rows, Equation.of("generalization_error", r"\varepsilon_c", printed(flow.averages.error))]
