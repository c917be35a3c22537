"""The equations of a convex loss on a Gaussian mixture as they are printed: labels, channel, fixed point, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...symbolic.equations import in_words
from ...symbolic.systems import Equation, Step
from . import printed

if TYPE_CHECKING:
    from .mixture_system import MixtureSystem


def label_rows(system: MixtureSystem) -> list[Equation]:
    """Return the law of the label in each cluster; equal ones once."""
    rows: list[Equation] = []
    seen: set[str] = set()
    for c, law in enumerate(system.laws):
        index = "" if len(system.laws) == 1 else f"_{{{c + 1}}}"
        if system.geometry.teacher:
            mean, variance = system.geometry.teacher_field(c)
            field = rf"\nu{index} \sim \mathcal N({mean:.6g},{variance:.6g})"
            if field not in seen:
                rows.append(Equation(f"nu_{c}", field, None, "the target's field within the cluster"))
                seen.add(field)
        for row in printed.label_rows(law):
            text = row.latex.replace("y =", f"y{index} =", 1)
            if text not in seen:
                rows.append(Equation(f"{row.label}_{c}", text, None, "t: the standardised field, with its noise"))
                seen.add(text)
    return rows


def steps(system: MixtureSystem) -> list[Step]:
    """Return the derivation; its equations are the fixed point that is computed."""
    g = system.program
    groups: dict[str, list[Equation]] = {}
    for binding in g.bindings:
        group = groups.setdefault(binding.group, [])
        if binding.call:
            group += [
                Equation(str(s), f"{g.latex[s]} = {text}", None, "integrals of numerics/label_channel.py")
                for s, text in zip(binding.symbols, binding.latex, strict=True)
            ]  # fmt: skip
        else:
            symbol = binding.symbols[0]
            group.append(Equation.of(str(symbol), symbol, binding.rhs, symbol_names=g.latex))
    updates = [Equation.of(str(s), s, rhs, "fixed point", symbol_names=g.latex) for s, rhs in g.updates.items()]
    errors = [
        Equation.of(name, in_words(name), g.observables[name], symbol_names=g.latex)
        for name in ("test_loss", "train_loss")
    ]
    channel = list(groups["channel"])
    if not system.shape.square:
        force = r"f = \frac{\mathrm{prox}-\omega}{V},\quad \omega\sim\mathcal N(m,q)\ \text{within a cluster}"
        channel = [*printed.proximal_rows(system.loss), Equation("force", force), *channel]
    return [
        Step(
            "Objective",
            "Minimise (1/d) sum_i loss(y_i, w.x_i + b) + (ridge/2)|w|^2 over samples = alpha d points of the "
            "mixture; Gordon's comparison (or leave-one-out) replaces each field w.x_i by a scalar Gaussian "
            "channel.",
        ),
        Step("Labels", "The label of a point, given its cluster and the target's field.", (*label_rows(system),)),
        Step(
            "Fields",
            "Within cluster c the field of the leave-one-out minimiser is N(m_c, q).",
            tuple(groups["field"]),
        ),
        Step(
            "Channel",
            "Putting the sample back moves the field to the proximal point of the loss.",
            tuple(channel),
        ),
        Step("Conjugates", "Forces summed over the samples of each cluster.", tuple(groups["conjugate"])),
        Step(
            "Resolvent",
            "R is the inverse Hessian of the effective quadratic problem for w, s its mean response.",
            tuple(groups["resolvent"]),
        ),
        Step("Fixed point", "The overlaps of the effective problem reproduce those of the fields.", tuple(updates)),
        Step("Errors", "Observables at the fixed point.", tuple(errors)),
    ]
