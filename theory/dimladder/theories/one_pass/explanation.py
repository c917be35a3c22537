"""The derivation and its equations, in words and LaTeX."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import sympy as sp

from ...symbolic.equations import Equation, Step, latex
from ...symbolic.factors import X
from ...symbolic.kernels import KernelSet, has_closed_form
from ...symbolic.tensors import Indices
from .derivation import Derived
from .erf_sums import PLAIN, ErfMixture
from .notation import OUTPUT, SCHEDULE, Setting, eta, eta_a


def explain(out: Derived) -> list[Step]:
    """Return the derivation, step by step."""
    setting, update = out.setting, out.update
    rate, readout_rate = (r"\eta", r"\eta_a") if setting.schedule == 1 else (r"\eta\, s(t)", r"\eta_a\, s(t)")
    step = [
        Equation(
            "first layer",
            rf"w_i \leftarrow (1 - \kappa/d)\, w_i - \frac{{{rate}}}{{\sqrt{{d}}}}\, a_i\, g'(\lambda_i)\,\Delta\, x",
        )
    ]
    if setting.train_readout:
        text = rf"a_i \leftarrow (1 - \kappa_a/d)\, a_i - \frac{{{readout_rate}}}{{d}}\, g(\lambda_i)\,\Delta"
        step.append(Equation("readout", text))
    if setting.schedule != 1:
        step.append(schedule_equation(setting))
    if setting.spherical:
        step.append(Equation("sphere", r"w_i \leftarrow w_i\,\lVert w_i^{\rm old}\rVert / \lVert w_i\rVert"))
    grown = {name: timed(rate, setting) for name, rate in (("M", update.M), ("Q", update.Q), ("a", update.a))}
    increments = [Equation.of("M", r"d\,\delta M_{im}", grown["M"]), Equation.of("Q", r"d\,\delta Q_{ik}", grown["Q"])]
    if setting.train_readout:
        increments.append(Equation.of("a", r"d\,\delta a_{i}", grown["a"]))
    regime = {
        "classical": "",
        "gradient-flow": " Only terms of first order in the error are kept: the limit of a vanishing learning rate.",
        "noise-dominated": " Only the terms of second order in the error are kept: the noise-dominated limit.",
    }[setting.regime]
    return [
        Step(
            "Model",
            "The input is a standard Gaussian vector: the fields are jointly Gaussian with the overlaps as covariance.",
            tuple(definitions(setting)),
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


def timed(increment: Any, setting: Setting) -> Any:
    """Return an increment with the schedule at the learning rates, as the compiled code has it."""
    return increment if setting.schedule == 1 else increment.subs({eta: eta * SCHEDULE, eta_a: eta_a * SCHEDULE})


def schedule_equation(setting: Setting) -> Equation:
    """Return the schedule as a function of time."""
    return Equation.of("schedule", SCHEDULE, setting.schedule, "factor of both learning rates")


def definitions(setting: Setting) -> list[Equation]:
    """Return the model and every symbol that the moments use: fields, activations, target, error, units."""
    error = latex(sp.simplify(sp.diff(setting.loss_function, OUTPUT)))
    rows = [
        Equation("student", r"f(x) = \sum_{k=1}^{K} a_k\, g(\lambda_k)"),
        Equation("label", r"y = f_\star(x) + \sigma\zeta,\quad f_\star = " + target_latex(setting)),
        Equation("error", rf"\Delta = \partial_f \ell(f, y) = {error}"),
        Equation(
            "fields",
            r"\lambda_k = w_k\cdot x/\sqrt{d},\quad z_m = w^\star_m\cdot x/\sqrt{d},\quad \lambda_{K+m} = z_m,\quad "
            r"C = \begin{pmatrix} Q & M \\ M^{\top} & T \end{pmatrix}",
            note="C is the covariance of all fields",
        ),
    ]
    if not setting.mixture:
        rows.append(Equation("activation", f"g(x) = {function_latex(setting.student)}"))
        if setting.target is None and not same_activation(setting):
            rows.append(Equation("teacher", rf"\tilde g(x) = {function_latex(setting.teacher)}"))
    if setting.stacked:
        rows.append(
            Equation("units", r"c = (a_1,\dots,a_K,-A_1,\dots,-A_M),\quad N = K + M", None, "units in one list")
        )
    return rows


def function_latex(function: Any) -> str:
    """Return an activation in LaTeX; a ramp is printed as max(0, x)."""
    x = sp.Symbol("x")
    step = function.atoms(sp.Heaviside)
    if step and sp.simplify(function - X * sp.Heaviside(X, 0)) == 0:
        function = sp.Max(0, X)
    return latex(function.subs(X, x))


def same_activation(setting: Setting) -> bool:
    """Whether student and teacher are printed as one function."""
    return not setting.mixture and bool(sp.simplify(setting.teacher - setting.student) == 0)


def target_latex(setting: Setting) -> str:
    """Return f* in LaTeX."""
    if setting.target is not None:
        return latex(setting.target)
    return rf"\sum_{{m=1}}^{{M}} A_m\, {'g' if same_activation(setting) else chr(92) + 'tilde g'}(z_m)"


def sum_definitions(mixtures: tuple[ErfMixture, ErfMixture], setting: Setting) -> list[Equation]:
    """Return the activations as sums of erfs, with their errors; `setting` is the one asked for."""
    student, teacher = mixtures
    rows = []
    own = (("activation", "g", student, setting.student), ("teacher", r"\tilde g", teacher, setting.teacher))
    for name, g, m, function in own:
        if m is PLAIN or function is None:
            # No activation of a teacher: the target is a formula, or its units are single erfs.
            continue
        sign, hat = ("=" if m.exact else r"\approx"), rf"\hat {g}" if g == "g" else r"\hat{\tilde g}"
        rows.append(Equation(name, rf"{g}(x) = {function_latex(function)} {sign} {hat}(x)"))
        terms = [f"{m.constant:.6g}"] if m.constant else []
        terms += [rf"{v:.6g}\,\varphi({b:.6g}\,x)" for v, b in zip(m.weights, m.scales, strict=True)]
        note = "exact" if m.exact else f"error at most {m.error:.1e}, of the slope {m.slope_error:.1e}"
        rows.append(Equation(name, rf"{hat}(x) = {' + '.join(terms)}", None, note))
    return rows


def mixture_equations(mixtures: tuple[ErfMixture, ErfMixture], setting: Setting) -> list[Equation]:
    """Return how moments follow from those of the erf units (i, p) of a unit i; `setting` is the one asked for."""
    return [
        *sum_definitions(mixtures, setting),
        Equation(
            "erf units",
            r"\varphi(x) = \mathrm{erf}(x/\sqrt 2),\quad "
            r"\hat g_\alpha(x) = g_{\alpha 0} + \sum_p v_{\alpha p}\,\varphi(b_{\alpha p}\, x),\quad "
            r"C_{(\alpha p)(\beta q)} = b_{\alpha p} b_{\beta q} C_{\alpha\beta},\quad "
            r"c_{(\alpha p)} = v_{\alpha p} c_\alpha",
            note="alpha counts students and teachers; in averages of phi an index is a unit (alpha, p) with a field of "
            "its own, a its weight c, and sums go over units",
        ),
        Equation("D", r"D_{i\beta} = \sum_p v_{ip} b_{ip} D_{(ip)\beta}"),
        Equation("N", r"N_{ik} = \sum_{p,q} v_{ip} b_{ip}\, v_{kq} b_{kq}\, N_{(ip)(kq)},\quad "
                      r"\sigma^2 \to \sigma^2 + (\textstyle\sum_\alpha c_\alpha g_{\alpha 0})^2"),
        Equation("H", r"H_i = g_{i0} \sum_\alpha c_\alpha g_{\alpha 0} + \sum_p v_{ip} H_{(ip)}"),
    ]  # fmt: skip


def of_units(rows: list[Equation]) -> list[Equation]:
    """Return equations with the function of an erf unit under a name of its own: the activation is another function."""
    return [replace(row, latex=re.sub(r"(?<![\\\w])g(?='?\()", r"\\varphi", row.latex)) for row in rows]


def mixture_step(mixtures: tuple[ErfMixture, ErfMixture], setting: Setting) -> Step:
    """Return the step from the network to the erf network of tied units."""
    return Step(
        "Units as sums of erfs",
        "Each unit is a set of erf units on one field, so that the averages are those of an erf network of tied units.",
        tuple(mixture_equations(mixtures, setting)),
    )


def vector_equations(indices: Indices) -> list[Equation]:
    """Return the auxiliary vectors of the tilted covariances."""
    return [Equation.of(str(v.lhs.base), v.lhs, v.rhs, "tilted covariance") for v in indices.vectors.values()]


def moment_equations(out: Derived) -> list[Equation]:
    """Return the moments of the error: the average that each stands for, then its form."""
    rows = vector_equations(out.indices)
    for stage in out.moments:
        name = str(stage.lhs.base)
        if out.route == "fields":
            note = "by quadrature over all fields"
            rows.append(Equation(name, f"{latex(stage.lhs)} = {_meaning(stage.lhs)}", None, note))
        else:
            text = f"{latex(stage.lhs)} = {_meaning(stage.lhs)} = {latex(stage.rhs)}"
            rows.append(Equation(name, text, (stage.lhs, stage.rhs)))
    return rows + kernel_equations(out.kernels, out.route)


def _meaning(moment: Any) -> str:
    """Return the average that a moment stands for, in the fields of its own indices."""
    name, (first, *rest) = str(moment.base), moment.indices

    def field(index: Any) -> str:
        return rf"z_{{{index}}}" if sp.sympify(index).is_Integer else rf"\lambda_{{{latex(index)}}}"

    if name == "D":
        return rf"\mathbb{{E}}\left[g'({field(first)})\, {field(rest[0])}\, \Delta\right]"
    if name == "N":
        return rf"\mathbb{{E}}\left[g'({field(first)})\, g'({field(rest[0])})\, \Delta^2\right]"
    return rf"\mathbb{{E}}\left[g({field(first)})\, \Delta\right]"


# Of closed forms longer than this the integral is printed; the generated code holds them, and names their parts.
PRINTED = 120


def kernel_equations(kernels: KernelSet, route: str) -> list[Equation]:
    """Return the closed forms of the averages that the moments call, at distinct indices."""
    rows = []
    for key, (call, labels, _) in kernels.kernels.items() if route != "fields" else ():
        left = latex(call(*labels))
        if route == "conditional":
            if not has_closed_form(call.kernel.slots):
                rows.append(
                    Equation(call.kernel.name, rf"{left}\ \text{{by conditional quadrature}}", None, "no closed form")
                )
            continue
        value = kernels.closed_form(key)
        size = sp.count_ops(value)
        if size <= PRINTED:
            rows.append(Equation.of(call.kernel.name, left, value))
        else:
            note = f"its closed form has {size} operations: derive --format python prints it"
            rows.append(Equation(call.kernel.name, integral(left), None, note))
    return rows


def integral(average: str) -> str:
    """Return an average with the integral that it stands for."""
    body = average.removeprefix(r"\mathbb{E}\left[").removesuffix(r"\right]")
    return rf"{average} = \int {body}\, \mathcal{{N}}(\mathbf{{f}}; 0, C)\, \mathrm{{d}}\mathbf{{f}}"


def flow_equations(out: Derived) -> list[Equation]:
    """Return the flow and the generalisation error."""
    rows = []
    for stage in out.flow:
        name, subscript = str(stage.lhs.base)[1:], "".join(map(str, stage.lhs.indices))
        left = rf"\frac{{\mathrm{{d}} {name}_{{{subscript}}}}}{{\mathrm{{d}} t}}"
        rows.append(Equation.of(name, left, timed(stage.rhs, out.setting)))
    if out.setting.schedule != 1:
        rows.append(schedule_equation(out.setting))
    return [*rows, Equation.of("generalization_error", r"\varepsilon_g", out.generalization_error)]
