"""From residuals to a verdict: agree, disagree or inconclusive, each with its reasons.

Let gap = simulation - theory in one entry (one variable at one coordinate), and N the number of distinct entries. A
single entry is significant when its |t| exceeds the two-sided Student threshold of level 1 - (1 - alpha)^(1/N), with
(replicas - 1) degrees of freedom: valid for normal means however strongly entries depend on each other (a union bound).

* The theory is a limit, so a gap that closes with the size is expected. At the largest size either no entry is
  significant, or the gaps are extrapolated, gap = A + B d^-a, and A is what is judged.
* ``disagree``: some A is significant, beyond an allowance for the next order of the expansion in 1/d.
* ``agree``: no entry (or no A) is significant, the closing of the gap is established where there is one, and the test
  had the power to see a relative deviation of `resolution` in every variable.
* ``inconclusive``: anything else; the reason says what to add (replicas, sizes, larger d).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .finite_size import PowerLaw, extrapolate, fit_power_law, own_exponents

if TYPE_CHECKING:
    import numpy as np

Verdict = Literal["agree", "disagree", "inconclusive"]
FASTEST = 3.0  # exponents above this are not looked for


@dataclass(frozen=True)
class Settings:
    """What the verdict is judged by.

    Attributes
    ----------
    alpha : float
        Probability that a right theory is called wrong by chance, over all entries.
    resolution : float
        Relative deviation of a variable that must have been visible for ``agree``.
    correction_exponent : float or None
        a, where the theory of the corrections gives it.
    slowest_exponent : float
        Where it does not, each entry may close with an exponent of its own, at least this one. A slower closing
        cannot be told from an error at the sizes that can be simulated.
    open_limit : str
        Why the sizes do not approach the limit of the theory, where they do not: a gap that stays then decides nothing.
    """

    alpha: float = 0.01
    resolution: float = 0.2
    correction_exponent: float | None = None
    slowest_exponent: float = 0.5
    open_limit: str = ""


@dataclass(frozen=True)
class Entries:
    """The comparable entries of one variable, sizes increasing: gap, se, theory of shape (S, N).

    ``imposed`` (N,) marks entries without scatter, such as initial conditions: their ``se`` is the accuracy of the
    theory's numbers. They must be met, but show nothing about the power of the test.
    """

    name: str
    sizes: np.ndarray
    gap: np.ndarray
    se: np.ndarray
    theory: np.ndarray
    labels: list[str]
    replicas: int
    imposed: np.ndarray

    @property
    def z(self) -> np.ndarray:
        """Residuals in standard errors, shape (S, N)."""
        return self.gap / self.se


@dataclass(frozen=True)
class VariableVerdict:
    """The verdict on one variable.

    Attributes
    ----------
    max_z, at : float, str
        Largest |z| at the largest size, and where.
    visible : float
        The relative deviation that would have been significant in half of the entries: the median over entries of the
        smallest significant gap over the scale of the variable (the largest of |theory|, its r.m.s. and |simulation|).
        Imposed entries do not count.
    fit : PowerLaw
        The closing of the gap at the entry where it is most significant.
    limit_z, limit_at : float, str
        Largest |A| / se of the extrapolated gaps (NaN when no extrapolation was needed), and where.
    """

    name: str
    verdict: Verdict
    entries: int
    max_z: float
    at: str
    visible: float
    fit: PowerLaw
    limit_z: float = float("nan")
    limit_at: str = ""
    reasons: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "verdict": self.verdict, "entries": self.entries, "max_z": self.max_z, "at": self.at,
            "visible_deviation": self.visible, "exponent": self.fit.exponent, "exponent_se": self.fit.exponent_se,
            "limit_z": self.limit_z, "limit_at": self.limit_at, "reasons": self.reasons,
        }  # fmt: skip


def threshold(alpha: float, comparisons: int, freedom: float) -> float:
    """Return the two-sided Student threshold for one of `comparisons` entries at family-wise level `alpha` (Sidak)."""
    import numpy as np
    from scipy.stats import t

    single = -np.expm1(np.log1p(-alpha) / max(comparisons, 1))
    return float(t.isf(single / 2, freedom))


def count_distinct(variables: list[Entries]) -> int:
    """Return how many entries differ: the two halves of a symmetric matrix are one comparison, not two."""
    import numpy as np

    # In single precision the halves differ by rounding, 1e-4 of a standard error.
    return sum(np.unique(np.round(v.z, 3), axis=1).shape[1] for v in variables)


def judge(entries: Entries, comparisons: int, settings: Settings) -> VariableVerdict:
    """Return the verdict on one variable, given how many entries are compared in all."""
    import numpy as np
    from scipy.stats import t

    freedom = max(entries.replicas - 1, 1)
    limit = threshold(settings.alpha, comparisons, freedom)
    z, sizes = entries.z, entries.sizes
    last = np.abs(z[-1])
    top = int(np.argmax(last))
    strongest = int(np.argmax(np.sum(z**2, axis=0)))
    fit = fit_power_law(sizes, entries.gap[:, strongest], entries.se[:, strongest], noise=limit)
    # The scale of a deviation: the variable where it is largest in theory or, where the limit is zero, at finite size.
    measured = np.max(np.abs(entries.theory + entries.gap), axis=0)
    scale = np.maximum(np.maximum(np.abs(entries.theory[-1]), measured), np.sqrt(np.mean(entries.theory[-1] ** 2)))
    free = ~entries.imposed if not entries.imposed.all() else np.ones(len(last), bool)
    visible = _visible(scale[free], limit * entries.se[-1, free])
    common = {
        "name": entries.name,
        "entries": z.shape[1],
        "max_z": float(last[top]),
        "at": entries.labels[top],
        "fit": fit,
    }
    percent = f"{100 * settings.resolution:g} %"
    if not scale[free].any():
        visible = 0.0  # the theory says zero: there is no relative deviation to look for
    if last[top] <= limit:
        if visible > settings.resolution:
            why = f"a deviation of {percent} could not be seen (only {_percent(visible)}): more replicas are needed"
            return VariableVerdict(**common, verdict="inconclusive", visible=visible, reasons=[why])
        why = f"within noise at size {sizes[-1]:g} (largest |z| {last[top]:.2f} of {limit:.2f} allowed)"
        return VariableVerdict(**common, verdict="agree", visible=visible, reasons=[why])
    found = f"|z| = {last[top]:.1f} at size {sizes[-1]:g}, {entries.labels[top]} (allowed {limit:.2f})"
    if len(sizes) < 2:
        why = "one size cannot tell a finite-size correction from an error: more sizes are needed"
        return VariableVerdict(**common, verdict="inconclusive", visible=visible, reasons=[found, why])

    known = settings.correction_exponent
    if known is not None:
        a = np.full(len(last), known)
    else:
        a = own_exponents(sizes, entries.gap, entries.se, settings.slowest_exponent, FASTEST)
    stays, stays_se = extrapolate(sizes, entries.gap, entries.se, a)
    # Next order of the expansion: gap = B x + C x^2 + ... leaves A = -C x_1 x_S, with C a few times B^2 / scale; never
    # more than a third of the gap itself.
    order = np.minimum(3.0 * np.abs(entries.gap[0] * entries.gap[-1]) / scale, np.abs(entries.gap[-1]) / 3)
    # Where replicas scatter as widely as the quantity itself, an expansion in 1/d has not begun: gaps of the order of
    # the relative variance mean nothing there, while a third or less of scatter earns little allowance.
    scatter = entries.se[-1] * np.sqrt(entries.replicas) / scale
    wild = scale * scatter**2 * np.minimum(1.0, 3.0 * scatter)
    significant = np.abs(stays) - order - wild > limit * stays_se
    unsettled = (np.abs(stays) - order > limit * stays_se) & ~significant
    limit_z = np.abs(stays) / stays_se
    worst = int(np.argmax(np.where(significant, limit_z, -1.0) if significant.any() else limit_z))
    common |= {"limit_z": float(limit_z[worst]), "limit_at": entries.labels[worst]}
    visible = _visible(scale[free], (limit * stays_se + order + wild)[free])
    if significant.any():
        why = (
            f"extrapolated with d^-{a[worst]:.2f}, a gap of {stays[worst]:.3g} +- {stays_se[worst]:.1g} stays at "
            f"{entries.labels[worst]} ({limit_z[worst]:.1f} standard errors, theory {entries.theory[-1, worst]:.3g})"
        )
        if settings.open_limit:
            reasons = [found, why, settings.open_limit]
            return VariableVerdict(**common, verdict="inconclusive", visible=visible, reasons=reasons)
        return VariableVerdict(**common, verdict="disagree", visible=visible, reasons=[found, why])
    if unsettled.any():
        place = int(np.argmax(np.where(unsettled, limit_z, -1.0)))
        why = (
            f"at {entries.labels[place]} replicas scatter by {scatter[place]:.2g} of the quantity itself: sizes up to "
            f"{sizes[-1]:g} are not in the regime of an expansion in 1/d, larger ones are needed"
        )
        return VariableVerdict(**common, verdict="inconclusive", visible=visible, reasons=[found, why])
    if not (fit.known and fit.exponent > float(t.isf(0.025, freedom)) * fit.exponent_se):
        shown = f"{fit.exponent:.2f} +- {fit.exponent_se:.2f}" if fit.known else fit.reason
        why = f"whether the gap closes is not established (exponent {shown}): more replicas or a wider range of sizes"
        return VariableVerdict(**common, verdict="inconclusive", visible=visible, reasons=[found, why])
    if visible > settings.resolution:
        why = f"extrapolated, a deviation of {percent} could not be seen (only {_percent(visible)}): more is needed"
        return VariableVerdict(**common, verdict="inconclusive", visible=visible, reasons=[found, why])
    exponent = f"{fit.exponent:.2f} +- {fit.exponent_se:.2f}"
    within = "noise" if limit_z[worst] <= limit else "noise and the next order of the expansion"
    why = f"the gap closes as d^-a, a = {exponent}, and extrapolates to zero within {within}"
    return VariableVerdict(**common, verdict="agree", visible=visible, reasons=[found, why])


def _visible(scale: np.ndarray, smallest_gap: np.ndarray) -> float:
    """Return the relative deviation that would be significant in half of the entries."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.median(smallest_gap / scale))


def _percent(value: float) -> str:
    return f"{100 * value:.2g} %"


def combine(verdicts: list[Verdict]) -> Verdict:
    """One wrong variable makes a theory wrong; one undecided variable leaves it undecided."""
    if "disagree" in verdicts:
        return "disagree"
    return "agree" if verdicts and all(v == "agree" for v in verdicts) else "inconclusive"
