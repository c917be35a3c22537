"""The equations of training on a fixed data set, in sympy: response form, and revealed coordinates.

Every evolution equation is `update.advance` on symbols: the weights' own step, then the same step seen by the target
(M), by earlier weights (C), by a field on an earlier gradient (R_w) and by a revealed direction (c).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from ...problem.descent import Descent
from ...symbolic.equations import latex
from ...symbolic.systems import Equation, Step
from .model import Model
from .update import advance

alpha, b, eta, ridge, beta = sp.symbols("alpha b eta kappa beta", positive=True)
eta_a, ridge_a, temperature = sp.symbols("eta_a kappa_a T_L", positive=True)


@dataclass(frozen=True)
class Terms:
    """Which terms a problem has; the others are not printed.

    Attributes
    ----------
    momentum, ridge, batches, readouts, noise : bool
    students, teachers : int
    """

    momentum: bool = False
    ridge: bool = False
    batches: bool = False
    readouts: bool = False
    noise: bool = False
    students: int = 1
    teachers: int = 1

    @classmethod
    def of(cls, descent: Descent) -> Terms:
        """Return those of a run."""
        return cls(
            descent.momentum != 0, descent.ridge != 0, not descent.full, bool(descent.readout_rates.any()),
            descent.temperature > 0, descent.students, descent.teachers,
        )  # fmt: skip

    @property
    def batch(self) -> Any:
        """b, or 1 for full batches."""
        return b if self.batches else sp.Integer(1)

    def step(self, x: Any, velocity: Any, gradient: Any, shake: Any = 0) -> Any:
        """Return x(t+1) for weights and whatever is linear in them; `shake` is what it sees of a unit of noise."""
        decay, momentum = (symbol if there else 0 for symbol, there in ((ridge, self.ridge), (beta, self.momentum)))
        noise = sp.sqrt(2 * eta * (1 - momentum) * temperature / alpha) * shake if self.noise else 0
        after, _ = advance(x, velocity, gradient, eta, decay, momentum, noise)
        return sp.expand(after)


class Shown(sp.Symbol):  # type: ignore[misc]
    """A symbol whose name is LaTeX already."""

    def _latex(self, printer: Any, exp: Any = None) -> str:
        return str(self.name)


def symbol(latex: str) -> Any:
    """Return a symbol printed as it stands."""
    return Shown(latex)


def velocity_of(latex: str) -> Any:
    """Return the velocity of something, its last change."""
    return symbol(rf"\Delta {latex}")


def linear_steps(terms: Terms) -> dict[str, tuple[Any, Any]]:
    """Return label -> (left side, right side) of everything that the weights' step moves."""
    batch = terms.batch
    seen = {
        "weights": ("w(t)", "w(t+1)", symbol(r"\Gamma(t)") / (alpha * batch)),
        "target overlap": ("M(t)", "M(t+1)", symbol(r"\langle u(t)\,z^\top\rangle") / batch),
        "two-time overlap": ("C(t,s)", "C(t+1,s)", symbol(r"\langle u(t)\,\lambda(s)^\top\rangle") / batch),
        "weight response": ("R_w(t,s)", "R_w(t+1,s)", symbol(r"\partial\Gamma(t)/\partial\gamma(s)") / (alpha * batch)),
        "coordinates": ("c(t)", "c(t+1)", symbol("h(t)") / (alpha * batch)),
    }
    # Langevin noise is new: nothing that is known correlates with it, and it is a direction of its own.
    shaken = {"weights": symbol(r"\zeta_w(t)"), "coordinates": symbol(r"e_\zeta(t)")}
    return {
        label: (symbol(after), terms.step(symbol(now), velocity_of(now), gradient, shaken.get(label, 0)))
        for label, (now, after, gradient) in seen.items()
    }


def sample_gradient(model: Model) -> tuple[Any, Any, Any]:
    """Return dl/dlam_k, d^2l/dlam_k^2 and dl/da_k of one sample in sympy, in ``lambda_k, a_k, f, y``.

    The second is None where a kink leaves it without a value.
    """
    lam, a, f, y, x = (sp.Symbol(name, real=True) for name in (r"\lambda_k", "a_k", "f", "y", "x"))
    g, loss = model.activation.sympy(x=x), model.loss.sympy(f=f, y=y)
    from ...problem.expressions import drop_atoms

    slope, error = drop_atoms(sp.diff(g, x)).subs(x, lam), drop_atoms(sp.diff(loss, f))
    bend = None
    if model.curved:
        bend = a**2 * slope**2 * sp.diff(loss, f, 2) + a * sp.diff(g, x, 2).subs(x, lam) * error
    return a * slope * error, bend, g.subs(x, lam) * error


def printed(model: Model, terms: Terms) -> list[Equation]:
    """Return the closed equations of a problem."""
    mask = r"\chi(t)\," if terms.batches else ""
    u, bend, pull = sample_gradient(model)
    moves = linear_steps(terms)
    k = model.students
    output = r"\lambda" if k == 1 and model.activation.text == "x" else rf"\sum_{{k=1}}^{{{k}}} a_k g(\lambda_k)"
    x = sp.Symbol("x", real=True)
    rows = [
        Equation("output", f"f = {output}", None, f"g(x) = {sp.sstr(model.activation.sympy(x=x))}"),
        _label(model),
        Equation(
            "field", r"\lambda(t) = r(t) + \sum_{s<t} R_w(t,s)\,u(s)", None,
            "(z, r): Gaussian, cov(r(t), r(s)) = C(t,s), cov(r(t), z) = M(t), cov(z) = T",
        ),
        Equation(
            "gradient", rf"u_k(t) = {mask}{latex(u)}", (symbol("u_k(t)"), u),
            "chi: 1 in the batch, else 0" if mask else "",
        ),
        Equation("gradient correlation", r"C_u(t,s) = \langle u(t)\,u(s)^\top\rangle"),
        Equation(
            "gradient response", r"R_u(t,s) = \left\langle \frac{\partial u(t)}{\partial r(s)} \right\rangle", None,
            "s <= t, the equal time included" + ("" if bend is not None else "; at kinks with their delta functions"),
        ),
        Equation(
            "target response",
            r"R_\star(t) = \bigl(\langle u(t)\,z^\top\rangle - \sum_{s\le t} R_u(t,s) M(s)\bigr) T^{-1}", None,
            "Stein's lemma: labels may jump",
        ),
        Equation(
            "force", r"\Gamma(t) = \gamma(t) + \alpha \sum_{s\le t} R_u(t,s)\,w(s) + \alpha R_\star(t)\,w_\star", None,
            "gamma: Gaussian, cov(gamma(t), gamma(s)) = alpha C_u(t,s)",
        ),
        *(_moved(label, *rule) for label, rule in moves.items() if label != "coordinates"),
        Equation(
            "response of the force",
            r"\frac{\partial\Gamma(t)}{\partial\gamma(s)} = \delta_{ts} + \alpha \sum_{s<s'\le t} R_u(t,s') R_w(s',s)",
        ),
    ]  # fmt: skip
    if terms.readouts:
        gradient = symbol(rf"\langle {mask}\partial_a \ell \rangle") / terms.batch
        after, _ = advance(symbol("a_k(t)"), velocity_of("a_k(t)"), gradient, eta_a, 0, beta if terms.momentum else 0)
        rows.append(_moved("readout", symbol("a_k(t+1)"), after, f"d loss/d a_k = {sp.sstr(pull)}"))
    rows += [
        Equation("train loss", r"\mathrm{train\ loss}(t) = \langle \ell(f(t), y) \rangle"),
        Equation(
            "test loss", r"\mathrm{test\ loss}(t) = \mathbb{E}\,\ell(f, y)", None,
            "over (z, lambda) ~ N(0, [[T, M^T], [M, Q]]), Q(t) = C(t,t)",
        ),
    ]  # fmt: skip
    return rows


def coordinate_equations(terms: Terms) -> list[Equation]:
    """Return the equations in revealed directions, which are computed."""
    left, right = linear_steps(terms)["coordinates"]
    return [
        Equation("fields", r"\lambda(t) = c(t)\,Z"),
        Equation(
            "innovation",
            r"L L^\top = \langle \tilde u \tilde u^\top\rangle,\quad \tilde u = u - \langle u F^\top\rangle F",
        ),
        Equation("new gradient direction", r"f_{\mathrm{new}} = L^{-1} \tilde u"),
        Equation(
            "new input direction", r"Z_{\mathrm{new}} = \zeta + f_{\mathrm{new}}/\sqrt{\alpha}", None,
            "zeta: fresh normals, orthogonal to F and f_new",
        ),
        Equation("seen gradient", r"h = \alpha \langle u\,Z^\top \rangle,\quad h_{\mathrm{new}} = \sqrt{\alpha}\, L"),
        _moved("coordinates", left, right, "Q = c c^T, M = c c_*^T, C(t,s) = c(t) c(s)^T"),
    ]  # fmt: skip


def derivation(model: Model, terms: Terms) -> list[Step]:
    """Return the steps from the algorithm to the closed equations."""
    e = {equation.label: equation for equation in printed(model, terms)}
    closed = [e[label] for label in ("field", "gradient", "force", "weights")]
    return [
        Step(
            "The algorithm",
            "n = alpha d inputs x ~ N(0, 1) are drawn once and W = X/sqrt d is used again at every update, through the "
            "fields W w and through the gradient W^T u. Everything else happens sample by sample, or is linear in w.",
            (e["output"], e["label"]),
        ),
        Step(
            "Response form",
            "Conditioned on the past, W w is Gaussian plus a memory of the gradients it was hit by, and W^T u is "
            "Gaussian plus a memory of the weights it was hit by. One typical sample and one coordinate remain.",
            (*closed, e["gradient correlation"], e["gradient response"], e["target response"], e["weight response"],
             e["response of the force"]),
        ),
        Step(
            "What averages itself",
            "The update is linear in w, so overlaps move by the same step, with averages over samples that need no "
            "response: these hold identically along the solution.",
            (e["target overlap"], e["two-time overlap"], *([e["readout"]] if terms.readouts else [])),
        ),
        Step(
            "Revealed directions",
            "The same conditioning in orthonormal coordinates: each gradient is answered by one fresh direction e_new, "
            "in which W^T f_new has length sqrt(n) and along which inputs are fresh normals plus f_new/sqrt alpha. No "
            "response and no second derivative appears. Particles carry Z; Gram-Schmidt replaces the two-time "
            "covariances.",
            tuple(coordinate_equations(terms)),
        ),
        Step("Read-outs", "Training averages run over particles, test averages over Gaussian fields.",
             (e["train loss"], e["test loss"])),
    ]  # fmt: skip


def _moved(label: str, left: Any, right: Any, note: str = "") -> Equation:
    """Print x(t+1) as what it was, its last change, and what the gradient adds, in this order."""
    atoms = list(right.atoms(Shown))
    atoms.sort(key=lambda a: (left.name.replace("t+1", "t") != a.name, r"\Delta" not in a.name))
    parts = []
    for atom in atoms:
        factor = sp.factor(right.coeff(atom)) if atom != atoms[0] else right.coeff(atom)
        text = "" if factor == 1 else latex(factor)
        text = rf"\left({text}\right)" if factor.is_Add else text
        parts.append(f"{text} {atom.name}".strip())
    return Equation(label, f"{left.name} = {' + '.join(parts).replace('+ -', '-')}", (left, right), note)


def _label(model: Model) -> Equation:
    noise = r" + \sigma \xi" if model.noise else ""
    if model.target is None:
        assert model.unit is not None
        x = sp.Symbol("x", real=True)
        note = f"h(x) = {sp.sstr(model.unit.sympy(x=x))}, readout {list(model.readout)}"
        return Equation("label", rf"y = \sum_m A_m h(z_m){noise}", None, note)
    return Equation("label", f"y = {latex(model.target.sympy())}{noise}", (symbol("y"), model.target.sympy()))
