"""The derivation and its equations, in words and LaTeX."""

from __future__ import annotations

import sympy as sp

from ...symbolic.equations import Equation, Step
from ...symbolic.factors import X, is_closed
from ...symbolic.kernels import Named
from .derivation import MEANING, Derived, Update
from .mixtures import ErfMixture
from .notation import OUTPUT, Setting


def explain(setting: Setting, update: Update, out: Derived) -> list[Step]:
    """Return the derivation, step by step."""
    error = sp.latex(sp.simplify(sp.diff(setting.loss_function, OUTPUT)))
    student = sp.latex(setting.student.subs(X, sp.Symbol("x")))
    model = [
        Equation(
            "student",
            r"f(x) = \sum_{k=1}^{K} a_k\, g(\lambda_k),\quad \lambda_k = w_k\cdot x/\sqrt{d},\quad g(x) = " + student,
        ),
        Equation(
            "label",
            r"y = f_\star(x) + \sigma\zeta,\quad z_m = w^\star_m\cdot x/\sqrt{d},\quad f_\star = "
            + target_latex(setting),
        ),
        Equation("error", rf"\Delta = \partial_f \ell(f, y) = {error}"),
    ]
    step = [
        Equation(
            "first layer",
            r"w_i \leftarrow (1 - \kappa/d)\, w_i - \frac{\eta}{\sqrt{d}}\, a_i\, g'(\lambda_i)\,\Delta\, x",
        )
    ]
    if setting.train_readout:
        step.append(
            Equation("readout", r"a_i \leftarrow (1 - \kappa_a/d)\, a_i - \frac{\eta_a}{d}\, g(\lambda_i)\,\Delta")
        )
    if setting.spherical:
        step.append(Equation("sphere", r"w_i \leftarrow w_i\,\lVert w_i^{\rm old}\rVert / \lVert w_i\rVert"))
    increments = [Equation.of("M", r"d\,\delta M_{im}", update.M), Equation.of("Q", r"d\,\delta Q_{ik}", update.Q)]
    if setting.train_readout:
        increments.append(Equation.of("a", r"d\,\delta a_{i}", update.a))
    regime = {
        "classical": "",
        "gradient-flow": " Only terms of first order in the error are kept: the limit of a vanishing learning rate.",
        "noise-dominated": " Only the terms of second order in the error are kept: the noise-dominated limit.",
    }[setting.regime]
    return [
        Step(
            "Model",
            "The input is a standard Gaussian vector: the fields are jointly Gaussian with the overlaps as covariance.",
            tuple(model),
        ),
        Step(
            "One step of SGD on a fresh sample",
            "Each sample is used once; it is independent of the weights.",
            tuple(step),
        ),
        Step(
            "Increments of the overlaps",
            "Expand w_i.w_k/d and w_i.w*_m/d after the step to first order in 1/d, with |x|^2 = d + O(sqrt d)"
            " and x.x = d/B for the mean over a batch of B samples." + regime,
            tuple(increments),
        ),
        Step(
            "Average over the sample",
            "The increments average over d steps in dt = 1 (time t = steps/d), and the overlaps concentrate. "
            "Averages of products of g, g' and fields are exact: Gaussian factors tilt the covariance, Stein's lemma "
            "removes fields.",
            tuple(moment_equations(out)),
        ),
        Step("Flow", "With these moments the overlaps obey a closed system.", tuple(flow_equations(out))),
    ]


def target_latex(setting: Setting) -> str:
    """Return f* in LaTeX."""
    if setting.target is not None:
        return sp.latex(setting.target)
    if sp.simplify(setting.teacher - setting.student) == 0:
        return r"\sum_{m=1}^{M} A_m\, g(z_m)"
    return rf"\sum_{{m=1}}^{{M}} A_m\, \tilde g(z_m),\ \tilde g(x) = {sp.latex(setting.teacher)}"


def definitions(setting: Setting) -> list[Equation]:
    """Return the activation, the target where it is a function, and the stacked notation where it is used."""
    x = sp.Symbol("x")
    rows = [Equation("activation", f"g(x) = {sp.latex(setting.student.subs(X, x))}")]
    if setting.target is not None:
        rows.append(Equation("target", rf"f_\star = {sp.latex(setting.target)}"))
    elif not setting.stacked and sp.simplify(setting.teacher - setting.student) != 0:
        rows.append(Equation("teacher", rf"\tilde g(x) = {sp.latex(setting.teacher.subs(X, x))}"))
    if not setting.stacked:
        return rows
    return [
        *rows,
        Equation(
            "units",
            r"c = (a_1,\dots,a_K,-A_1,\dots,-A_M),\quad "
            r"C = \begin{pmatrix} Q & M \\ M^{\top} & T \end{pmatrix},\quad N = K + M",
            note="student and teacher units in one list",
        ),
    ]


def mixture_equations(mixtures: tuple[ErfMixture, ErfMixture]) -> list[Equation]:
    """Return how moments follow from those of the erf units (i, p) that a unit i is made of."""
    student, teacher = mixtures
    rows = []
    for name, g, m in (("activation", "g", student), ("teacher", r"\tilde g", teacher)):
        terms = " + ".join(
            rf"{v:.6g}\,\mathrm{{erf}}({b:.6g}\,x/\sqrt 2)" for v, b in zip(m.weights, m.scales, strict=True)
        )
        note = "exact" if m.exact else f"error at most {m.error:.1e}, of the slope {m.slope_error:.1e}"
        rows.append(Equation(name, rf"{g}(x) = {m.constant:.6g} + {terms}", None, note))
    return [
        *rows,
        Equation(
            "erf units",
            r"g(f_i) = g_0 + \sum_p v_p\,\mathrm{erf}(b_p f_i/\sqrt 2):\quad "
            r"C_{(ip)(kq)} = b_p b_q C_{ik},\quad c_{(ip)} = v_p c_i",
            note="the equations below hold for the units (i, p)",
        ),
        Equation("D", r"D_{i\beta} = \sum_p v_p b_p D_{(ip)\beta}"),
        Equation("N", r"N_{ik} = \sum_{p,q} v_p b_p\, v_q b_q\, N_{(ip)(kq)},\quad "
                      r"\sigma^2 \to \sigma^2 + (\textstyle\sum_a c_a g_0)^2"),
        Equation("H", r"H_i = g_0 \sum_a c_a g_0 + \sum_p v_p H_{(ip)}"),
    ]  # fmt: skip


def mixture_step(mixtures: tuple[ErfMixture, ErfMixture]) -> Step:
    """Return the step from the network to the erf network of tied units."""
    return Step(
        "Units as sums of erfs",
        "Each unit is a set of erf units on one field, so that the averages are those of an erf network of tied units.",
        tuple(mixture_equations(mixtures)),
    )


def vector_equations(out: Derived) -> list[Equation]:
    """Return the auxiliary vectors of the tilted covariances."""
    return [Equation.of(str(v.lhs.base), v.lhs, v.rhs, "tilted covariance") for v in out.indices.vectors.values()]


def moment_equations(out: Derived) -> list[Equation]:
    """Return the moments of the error, each with the average it stands for."""
    rows = definitions(out.setting) + vector_equations(out)
    for stage in out.moments:
        name = str(stage.lhs.base)
        note = "by quadrature over all fields" if out.route == "fields" else f"${MEANING[name]}$"
        rows.append(Equation.of(name, stage.lhs, stage.rhs, note))
    return rows + kernel_equations(out)


# Closed forms longer than this are left to the generated code, which names their parts.
PRINTED = 250


def kernel_equations(out: Derived) -> list[Equation]:
    """Return the closed forms of the averages that the moments call, at distinct indices."""
    rows = []
    for key, (call, labels, _) in out.kernels.kernels.items() if out.route != "fields" else ():
        left = sp.latex(call(*labels))
        if out.route == "conditional":
            if not is_computed(call.kernel.slots):
                rows.append(
                    Equation(call.kernel.name, rf"{left}\ \text{{by conditional quadrature}}", None, "no closed form")
                )
            continue
        value = out.kernels.closed_form(key)
        size = sp.count_ops(value)
        if size <= PRINTED:
            rows.append(Equation.of(call.kernel.name, left, value))
        else:
            text = rf"{left}\ \text{{in closed form, {size} operations: see the generated code}}"
            rows.append(Equation(call.kernel.name, text))
    return rows


def is_computed(slots: tuple[Named, ...]) -> bool:
    """Whether an average of these functions has a closed form."""
    return all(is_closed(slot.terms) for slot in slots)


def flow_equations(out: Derived) -> list[Equation]:
    """Return the flow and the generalisation error."""
    rows = []
    for stage in out.flow:
        name, subscript = str(stage.lhs.base)[1:], "".join(map(str, stage.lhs.indices))
        rows.append(Equation.of(name, rf"\frac{{\mathrm{{d}} {name}_{{{subscript}}}}}{{\mathrm{{d}} t}}", stage.rhs))
    return [*rows, Equation.of("generalization_error", r"\varepsilon_g", out.generalization_error)]
