"""The equations of infinite-width training, in sympy: what is printed, and what the march is tested against.

Symbols carry explicit indices, ``g[nu, s]``, so that the printed sums can be expanded for a few times and samples
(`unrolled`) and compared with the kernel number by number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from ...symbolic.systems import Equation, Step

mu, nu, t, s, m, layer = sp.symbols("mu nu t s m l", integer=True)
gamma, eta = sp.Symbol("gamma", positive=True), sp.Function("eta")


class Mean(sp.Function):  # type: ignore[misc]
    """Average over the single-site process."""

    nargs = 1

    def _latex(self, printer: Any, exp: Any = None) -> str:
        inner = rf"\left\langle {printer._print(self.args[0])} \right\rangle"
        return inner if exp is None else f"{inner}^{{{exp}}}"


def _field(name: str) -> Any:
    return sp.IndexedBase(name)


u, r, h, z, x, g = (_field(n) for n in "urhzxg")
Phi, G, A, B, C, D = (_field(n) for n in ("Phi", "G", "A", "B", "C", "D"))
a, f, Delta, p, y = (_field(n) for n in ("a", "f", "Delta", "p", "y"))


def _show(expression: Any) -> str:
    """Print ``g[nu, s]`` as g_nu(s) and ``Phi[mu, nu, t, s, l]`` as Phi^l_{mu nu}(t, s)."""
    from sympy.printing.latex import LatexPrinter

    class Printer(LatexPrinter):  # type: ignore[misc]
        def _print_Indexed(self, node: Any) -> str:
            name, indices = self._print(node.base.label), node.indices
            if len(indices) == 2:
                return f"{name}_{{{self._print(indices[0])}}}({self._print(indices[1])})"
            samples, times = indices[:2], indices[2:4]
            sup = f"^{{{self._print(indices[4])}}}" if len(indices) == 5 else ""
            low, arguments = " ".join(self._print(i) for i in samples), ", ".join(self._print(i) for i in times)
            return f"{name}{sup}_{{{low}}}({arguments})"

        def _print_Mean(self, node: Any, exp: Any = None) -> str:
            return node._latex(self, exp)

    return Printer().doprint(expression)


def _equation(label: str, lhs: Any, rhs: Any, note: str = "") -> Equation:
    return Equation(label, f"{_show(lhs)} = {_show(rhs)}", (lhs, rhs), note)


@dataclass(frozen=True)
class Process:
    """Right-hand sides of the single-site process of one layer, and its couplings to the layers beside it."""

    pre: Any  # h_mu(t)
    back: Any  # z_mu(t)
    post: Any  # x_mu(t)
    gradient: Any  # g_mu(t)
    forward_coupling: Any  # C_{mu nu}(t, s), s < t
    backward_coupling: Any  # D_{mu nu}(t, s), s <= t
    output: Any  # f_mu(t)
    rate: Any  # a_nu(s)
    error: Any  # Delta_nu(s)


def process(phi: Any, loss: Any) -> Process:
    """Return the single-site process for an activation in ``x`` and a loss in ``f, y`` (sympy expressions)."""
    symbol = sp.Symbol("x", real=True)
    at_h = {symbol: h[mu, t]}
    slope = sp.diff(phi, symbol)
    output, label = sp.symbols("f y", real=True)
    error = -sp.diff(loss, output)
    return Process(
        pre=u[mu, t] + sp.Sum(C[mu, nu, t, s] * g[nu, s], (nu, 1, m), (s, 0, t - 1)),
        back=r[mu, t] + sp.Sum(D[mu, nu, t, s] * x[nu, s], (nu, 1, m), (s, 0, t)),
        post=phi.subs(at_h),
        gradient=z[mu, t] * slope.subs(at_h),
        forward_coupling=A[mu, nu, t, s, layer - 1] + a[nu, s] * Phi[mu, nu, t, s, layer - 1],
        backward_coupling=B[mu, nu, t, s, layer + 1]
        + sp.Piecewise((1, s < t), (0, True)) * a[nu, s] * G[mu, nu, t, s, layer + 1],
        output=Mean(z[mu, t] * x[mu, t]) / gamma,
        rate=gamma * eta(s) * p[nu, s] * Delta[nu, s],
        error=error.subs({output: f[nu, s], label: y[nu, s]}),
    )


def unrolled(phi: Any, times: int, samples: int) -> list[tuple[Any, Any]]:
    """Return the process of one layer as a straight-line program: (symbol, right-hand side) in the order of evaluation.

    The printed sums are expanded for the given numbers of times and samples; inputs are the symbols of u, r, C and D.
    """
    rules = process(phi, sp.Symbol("f", real=True) ** 2)
    program = []
    for time in range(times):
        for field, rule in ((h, rules.pre), (x, rules.post), (z, rules.back), (g, rules.gradient)):
            for sample in range(1, samples + 1):
                program.append((field[sample, time], rule.subs({mu: sample, t: time, m: samples}).doit()))
    return program


def printed(phi: Any, loss: Any) -> list[Equation]:
    """Return the closed equations of the order parameters."""
    rules = process(phi, loss)
    hat = layer
    return [
        _equation(
            "pre-activation", h[mu, t], rules.pre, "u^l: Gaussian process with covariance Phi^{l-1}, Phi^0 = K^x"
        ),
        _equation(
            "back-propagated field", z[mu, t], rules.back, "r^l: Gaussian process with covariance G^{l+1}, G^{L+1} = 1"
        ),
        _equation("activation", x[mu, t], rules.post),
        _equation("gradient", g[mu, t], rules.gradient),
        _equation("forward coupling", C[mu, nu, t, s, hat], rules.forward_coupling, "s < t; A^0 = 0"),
        _equation(
            "backward coupling",
            D[mu, nu, t, s, hat],
            rules.backward_coupling,
            "s <= t, the equal time included; B^{L+1} = 0",
        ),
        _equation("feature kernel", Phi[mu, nu, t, s, hat], Mean(x[mu, t] * x[nu, s])),
        _equation("gradient kernel", G[mu, nu, t, s, hat], Mean(g[mu, t] * g[nu, s])),
        _equation("feature response", A[mu, nu, t, s, hat], Mean(sp.Derivative(x[mu, t], r[nu, s])), "s < t"),
        _equation("gradient response", B[mu, nu, t, s, hat], Mean(sp.Derivative(g[mu, t], u[nu, s])), "s <= t"),
        _equation("output", f[mu, t], rules.output, "fields of the last layer"),
        _equation("error signal", Delta[nu, s], rules.error),
        _equation("rate", a[nu, s], rules.rate, "p: sample weights, 1/|B| on the mini-batch"),
    ]


def derivation(phi: Any, loss: Any) -> list[Step]:
    """Return the steps from the network to the closed equations."""
    e = {equation.label: equation for equation in printed(phi, loss)}
    return [
        Step(
            "Mean-field form of muP",
            "With standard normal weights, h^{l+1} = n^{-1/2} W^l phi(h^l), f = w . phi(h^L)/(gamma n) and one "
            "learning rate "
            "eta gamma^2 n for all weights, gamma = 1 is muP update by update. Every update of W^l is a sum of "
            "outer products "
            "of gradients g^{l+1} with activations x^l of earlier times, so that h and z at time t see the past "
            "through inner "
            "products, which self-average as n grows.",
            (e["error signal"], e["rate"]),
        ),
        Step(
            "Initial weights: Gaussian part and response",
            "W^l(0) x and W^l(0)^T g are Gaussian conditionally on the past; what has been revealed of W^l(0) by the "
            "transposed products shifts their mean by the responses A and B (the hat and the dot part of a "
            "tensor program). "
            "B has an equal-time entry, because g(t) depends on h(t).",
            (e["feature response"], e["gradient response"]),
        ),
        Step(
            "Single-site process",
            "Each neuron of layer l is an independent copy of one causal process, driven by Gaussian fields u and r.",
            tuple(
                e[k]
                for k in (
                    "pre-activation",
                    "back-propagated field",
                    "activation",
                    "gradient",
                    "forward coupling",
                    "backward coupling",
                )
            ),
        ),
        Step(
            "Closure",
            "Kernels are averages over the single-site process; the output is one of them. Time is discrete and every "
            "coupling causal, so one forward sweep in time closes the system for any step size.",
            tuple(e[k] for k in ("feature kernel", "gradient kernel", "output")),
        ),
    ]
