"""From residuals to a verdict: agree, disagree or inconclusive, each with its reasons.

Let gap = simulation - theory in one entry (one variable at one coordinate), and N the number of distinct entries. A
single entry is significant when its |t| exceeds the two-sided Student threshold of level 1 - (1 - alpha)^(1/N), with
(replicas - 1) degrees of freedom, however strongly entries depend on each other (a union bound); `significance` says
what is done about replicas that are not normal.

* The theory is a limit, so a gap that closes with the size is expected. At the largest size either no entry is
  significant, or the gaps are extrapolated, gap = A + B d^-a, and A is what is judged.
* ``disagree``: some A is significant, beyond an allowance for the next order of the expansion in 1/d, and the skewness
  of the replicas does not explain it.
* ``agree``: no entry (or no A) is significant, the closing of the gap is established where there is one, and the test
  had the power to see a deviation of `resolution`, relative to the theory at the largest size, in every variable.
* ``inconclusive``: anything else; the reason says what to add (replicas, sizes, larger d).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from .finite_size import PowerLaw, combination, fit_power_law, own_exponents
from .significance import LEAST_REPLICAS, deskewed, excess_skewness, family_p_value, third_moment, threshold

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
        Deviation, relative to the theory at the largest size, that must have been visible for ``agree``.
    correction_exponent : float or None
        a, where the experiment can prove it for the problem.
    slowest_exponent : float
        Where it cannot, each entry may close with an exponent of its own, at least this one. A slower closing
        cannot be told from an error at the sizes that can be simulated.
    open_limit : str
        Why the sizes do not approach the limit of the theory, where they do not: a gap that stays then decides nothing.
    """

    alpha: float = 0.01
    resolution: float = 0.2
    correction_exponent: float | None = None
    slowest_exponent: float = 0.25
    open_limit: str = ""


@dataclass(frozen=True)
class Entries:
    """The comparable entries of one variable, sizes increasing: gap, se, skewness, theory of shape (S, N).

    Attributes
    ----------
    skewness : array (S, N)
        Of the replicas, m3 / m2^(3/2).
    imposed : array (N,) of bool
        Entries that the experiment declares given to the simulation, such as initial conditions: their ``se`` is the
        accuracy of the theory's numbers. They must be met, but are no evidence and are not counted.
    unknown : array (S, N) of bool
        Where all replicas gave the same number although nothing says that they must: their scatter is not known.
    exact : bool
        Whether the theory holds at every size, replica by replica or as a mean over them: there is nothing to
        extrapolate.
    unit : float
        The scale of a deviation where the theory is zero: order parameters are of order one.
    """

    name: str
    sizes: np.ndarray
    gap: np.ndarray
    se: np.ndarray
    theory: np.ndarray
    labels: list[str]
    replicas: int
    skewness: np.ndarray
    imposed: np.ndarray
    unknown: np.ndarray
    exact: bool = False
    unit: float = 1.0

    @property
    def z(self) -> np.ndarray:
        """Residuals in standard errors, shape (S, N); 0 where the scatter is not known."""
        import numpy as np

        return np.asarray(np.where(self.unknown, 0.0, self.gap / self.se))

    def take(self, kept: np.ndarray) -> Entries:
        """Return the entries of a mask (N,)."""
        arrays = ("gap", "se", "theory", "skewness", "imposed", "unknown")
        parts = {key: getattr(self, key)[..., kept] for key in arrays}
        return replace(self, labels=[text for text, keep in zip(self.labels, kept, strict=True) if keep], **parts)


# A variable that nowhere exceeds this, in its unit, is zero: what a solver leaves of a zero is rounding, not a measure.
ZERO = 1e-14
# Above the first, relative to the quantity, a gap that has fallen below the second of that at the smallest size is far
# from the regime in which it is a correction.
FAR, CLOSING = 0.25, 0.8


@dataclass(frozen=True)
class VariableVerdict:
    """The verdict on one variable.

    Attributes
    ----------
    entries : int
        Measured entries; those imposed on the simulation are not counted.
    max_z, at : float, str
        Largest |z| at the largest size, and where.
    p_value : float
        Chance that a right theory shows so large a deviation somewhere among all comparisons: of ``max_z``, or of the
        extrapolated gap where that was judged.
    visible : float
        The deviation that would have been significant in half of the entries (the median over them), relative to the
        theory at the largest size (the larger of the entry and of the r.m.s. of the variable; 1 where the theory is
        0 up to rounding).
    replicas_wanted : int or None
        Replicas at each size with which an undecided variable would be decided, where more replicas help.
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
    p_value: float = float("nan")
    replicas_wanted: int | None = None
    limit_z: float = float("nan")
    limit_at: str = ""
    reasons: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "verdict": self.verdict, "entries": self.entries, "max_z": self.max_z, "at": self.at,
            "p_value": self.p_value, "visible_deviation": self.visible, "replicas_wanted": self.replicas_wanted,
            "exponent": self.fit.exponent, "exponent_se": self.fit.exponent_se,
            "limit_z": self.limit_z, "limit_at": self.limit_at, "reasons": self.reasons,
        }  # fmt: skip


def count_distinct(variables: list[Entries]) -> int:
    """Return how many measured entries differ: the two halves of a symmetric matrix are one comparison, not two."""
    import numpy as np

    # In single precision the halves differ by rounding, 1e-4 of a standard error.
    return sum(np.unique(np.round(v.z[:, ~v.imposed], 3), axis=1).shape[1] for v in variables)


def judge(entries: Entries, comparisons: int, settings: Settings) -> VariableVerdict:
    """Return the verdict on one variable, given how many entries are compared in all.

    A variable of imposed entries only is ``inconclusive``: nothing was measured, unless one of them is missed.
    """
    import numpy as np

    # Rounding of either side is no deviation: an eigenvalue that vanishes is 1e-16 in both.
    entries = replace(entries, se=np.maximum(entries.se, ZERO * entries.unit))
    freedom = max(entries.replicas - 1, 1)
    limit = threshold(settings.alpha, comparisons, freedom)
    given = np.abs(entries.take(entries.imposed).z[-1])
    if given.size and given.max() > limit:
        place = int(np.flatnonzero(entries.imposed)[int(np.argmax(given))])
        why = (
            f"imposed on the simulation, and {entries.gap[-1, place]:.3g} off the theory's "
            f"{entries.theory[-1, place]:.6g} at {entries.labels[place]}"
        )
        nothing = fit_power_law(entries.sizes[:1], entries.gap[:1, place], entries.se[:1, place])
        measured = int((~entries.imposed).sum())
        return VariableVerdict(
            entries.name, "disagree", measured, float(given.max()), entries.labels[place], float("nan"), nothing, 0.0,
            reasons=[why],
        )  # fmt: skip
    free = entries.take(~entries.imposed)
    if not free.labels:
        nothing = fit_power_law(entries.sizes[:1], entries.gap[:1, 0], entries.se[:1, 0])
        why = "imposed on the simulation: nothing was measured"
        return VariableVerdict(entries.name, "inconclusive", 0, 0.0, "", float("nan"), nothing, reasons=[why])
    return _Measured(free, comparisons, settings, limit, freedom).verdict()


class _Measured:
    """The measured entries of one variable on their way to a verdict."""

    def __init__(self, entries: Entries, comparisons: int, settings: Settings, limit: float, freedom: int) -> None:
        import numpy as np

        self.entries, self.comparisons, self.settings = entries, comparisons, settings
        self.limit, self.freedom = limit, freedom
        self.z = entries.z
        level = np.sqrt(np.mean(entries.theory[-1] ** 2))
        theory = np.maximum(np.abs(entries.theory[-1]), level)
        # What a relative deviation is relative to: the theory at the largest size, never the simulation.
        self.scale = np.where(theory > ZERO * entries.unit, theory, entries.unit)
        # What scatter and corrections are compared with: the quantity itself.
        self.quantity = np.maximum(self.scale, np.abs(entries.theory[-1] + entries.gap[-1]))
        self.suspected = excess_skewness(entries.skewness, ~entries.unknown & (entries.se > 0), entries.replicas)
        last = np.abs(self.z[-1])
        self.top = int(np.argmax(last))
        strongest = int(np.argmax(np.sum(self.z**2, axis=0)))
        known = ~entries.unknown[:, strongest]
        self.fit = fit_power_law(
            entries.sizes[known], entries.gap[known, strongest], entries.se[known, strongest], noise=limit
        )
        self.common: dict[str, Any] = {
            "name": entries.name, "entries": self.z.shape[1], "max_z": float(last[self.top]),
            "at": entries.labels[self.top], "fit": self.fit,
            "p_value": family_p_value(last[self.top], comparisons, freedom),
        }  # fmt: skip

    def verdict(self) -> VariableVerdict:
        """Judge the largest size, or where it deviates the extrapolation."""
        import numpy as np

        entries = self.entries
        blind = entries.unknown[-1]
        if blind.any():
            place = int(np.argmax(blind))
            why = (
                f"all {entries.replicas} replicas gave the same number at {entries.labels[place]}, not the theory's: "
                f"their scatter is unknown ({int(blind.sum())} of {blind.size} entries): more replicas or larger sizes"
            )
            seen = ~blind & (np.abs(self.z[-1]) > self.limit)
            if not seen.any():
                return self._say("inconclusive", float("inf"), [why], wanted=8 * entries.replicas)
        if np.abs(self.z[-1]).max() <= self.limit:
            return self._within_noise()
        if entries.exact:
            gap, theory = entries.gap[-1, self.top], entries.theory[-1, self.top]
            why = f"exact at every size, and {gap:.3g} off the theory's {theory:.6g} at {entries.labels[self.top]}"
            return self._say("disagree", self._visible(self._smallest_gap()), [why])
        if len(entries.sizes) < 2:
            why = "one size cannot tell a finite-size correction from an error: more sizes are needed"
            return self._say("inconclusive", self._visible(self._smallest_gap()), [self._found(), why])
        return self._extrapolated()

    def _say(
        self, verdict: Verdict, visible: float, reasons: list[str], wanted: float | None = None, **more: Any
    ) -> VariableVerdict:
        n = None if wanted is None or not math.isfinite(wanted) else max(math.ceil(wanted), self.entries.replicas + 1)
        return VariableVerdict(
            **{**self.common, **more}, verdict=verdict, visible=visible, reasons=reasons, replicas_wanted=n
        )

    def _found(self) -> str:
        entries = self.entries
        return (
            f"|z| = {self.common['max_z']:.1f} at size {entries.sizes[-1]:g}, {entries.labels[self.top]} (allowed "
            f"{self.limit:.2f}; p = {self.common['p_value']:.2g} over {self.comparisons} comparisons)"
        )

    def _visible(self, smallest_gap: np.ndarray) -> float:
        """Return the relative deviation that would be significant in half of the entries."""
        import numpy as np

        return float(np.median(smallest_gap / self.scale))

    def _smallest_gap(self) -> np.ndarray:
        """Return the smallest significant gap at the largest size, on the side where skewness hides more."""
        import numpy as np

        g = self.suspected / math.sqrt(self.entries.replicas)
        normal = threshold(self.settings.alpha, self.comparisons, 1e6)
        # Cornish and Fisher: skewness g moves the quantile z of Student's mean by g z^2/3.
        return np.asarray(self.entries.se[-1] * (self.limit + g * normal**2 / 3.0))

    def _more_replicas(self, visible: float) -> float:
        return self.entries.replicas * (visible / self.settings.resolution) ** 2

    def _within_noise(self) -> VariableVerdict:
        visible, replicas = self._visible(self._smallest_gap()), self.entries.replicas
        shown = f"largest |z| {self.common['max_z']:.2f} of {self.limit:.2f} allowed, p = {self.common['p_value']:.2g}"
        where = f"at size {self.entries.sizes[-1]:g} ({shown})"
        if visible > self.settings.resolution:
            wanted = self._more_replicas(visible)
            why = (
                f"nothing significant {where}, but a deviation of {_percent(self.settings.resolution)} of the theory "
                f"could not be seen (only {_percent(visible)}): about {max(math.ceil(wanted), replicas + 1)} replicas "
                "are needed"
            )
            return self._say("inconclusive", visible, [why], wanted)
        why = f"within noise {where}; {_percent(visible)} of the theory would have been seen"
        return self._say("agree", visible, [why])

    def _extrapolated(self) -> VariableVerdict:
        import numpy as np
        from scipy.stats import t

        entries, settings, limit = self.entries, self.settings, self.limit
        sizes, se = entries.sizes, _filled(entries.se, entries.unknown)
        smooth = _profile(se)
        if settings.correction_exponent is not None:
            a = np.full(len(entries.labels), settings.correction_exponent)
        else:
            a = own_exponents(sizes, entries.gap, se, settings.slowest_exponent, FASTEST)
        weights = combination(sizes, smooth, a)
        stays = np.sum(weights * entries.gap, axis=0)
        stays_se = np.sqrt(np.sum((weights * se) ** 2, axis=0))
        # Next order of the expansion: gap = B x + C x^2 + ... leaves A = -C x_1 x_S, with C a few times B^2 / quantity;
        # never more than a third of the gap itself.
        order = np.minimum(3.0 * np.abs(entries.gap[0] * entries.gap[-1]) / self.quantity, np.abs(entries.gap[-1]) / 3)
        # Where replicas scatter as widely as the quantity itself, an expansion in 1/d has not begun: gaps of the order
        # of the relative variance mean nothing there, while a third or less of scatter earns little allowance.
        scatter = se[-1] * np.sqrt(entries.replicas) / self.quantity
        wild = self.quantity * scatter**2 * np.minimum(1.0, 3.0 * scatter)
        drift = np.zeros(stays.size)
        if settings.correction_exponent is not None and len(sizes) > 2:
            drift = unsteadiness(sizes, entries.gap, se, settings.correction_exponent, limit)
        # A gap of a quarter of an entry that is closing is no small correction: there the expansion has not begun, nor
        # can the other entries, later times of the same runs, be trusted to be in it.
        theory, measured = np.abs(entries.theory[-1]), np.abs(entries.theory[-1] + entries.gap[-1])
        own = np.where(theory > 0.1 * self.scale, np.maximum(theory, measured), self.quantity)
        share = np.abs(entries.gap) / own
        closed = np.abs(entries.gap[0]) - np.abs(entries.gap[-1])
        far = (share[-1] > FAR) & (share[-1] < CLOSING * share[0]) & (closed > limit * np.hypot(se[0], se[-1]))
        far &= entries.gap[0] * entries.gap[-1] > 0.0
        if far.any():
            drift = np.abs(stays)
        excess = np.maximum(np.abs(stays) - order - wild - drift, 0.0) / stays_se
        unsettled = (np.abs(stays) - order > limit * stays_se) & (excess <= limit)
        own = third_moment(weights, se, entries.skewness, entries.replicas)
        part = np.abs(weights) * se
        pooled = self.suspected / math.sqrt(entries.replicas) * np.sum(part**3, axis=0) / stays_se**3
        adverse = np.maximum(np.where(stays < 0, own, -own), pooled)
        corrected = deskewed(excess, adverse)
        significant = (excess > limit) & (corrected > limit)
        skewed = (excess > limit) & ~significant
        limit_z = np.abs(stays) / stays_se
        worst = int(np.argmax(np.where(significant, limit_z, -1.0) if significant.any() else limit_z))
        judged = float(np.minimum(excess, corrected).max())
        common: dict[str, Any] = {
            "limit_z": float(limit_z[worst]), "limit_at": entries.labels[worst],
            "p_value": family_p_value(judged, self.comparisons, self.freedom),
        }  # fmt: skip
        visible = self._visible(limit * stays_se + order + wild)
        found = self._found()
        if significant.any():
            why = (
                f"extrapolated with d^-{a[worst]:.2f}, a gap of {stays[worst]:.3g} +- {stays_se[worst]:.1g} stays at "
                f"{entries.labels[worst]} ({limit_z[worst]:.1f} standard errors, theory "
                f"{entries.theory[-1, worst]:.3g}; p = {common['p_value']:.2g})"
            )
            if settings.open_limit:
                return self._say("inconclusive", visible, [found, why, settings.open_limit], **common)
            if entries.replicas < LEAST_REPLICAS:
                few = f"{entries.replicas} replicas cannot show how they are distributed: {LEAST_REPLICAS} at least"
                return self._say("inconclusive", visible, [found, why, few], LEAST_REPLICAS, **common)
            return self._say("disagree", visible, [found, why], **common)
        if skewed.any():
            place = int(np.argmax(np.where(skewed, excess, -1.0)))
            g = float(adverse[place])
            wanted = entries.replicas * (limit * g) ** 2
            why = (
                f"at {entries.labels[place]} the extrapolated gap of {stays[place]:.3g} +- {stays_se[place]:.1g} lies "
                f"on the side where skewed replicas (skewness {g * math.sqrt(entries.replicas):.2g}) mislead: about "
                f"{max(math.ceil(wanted), entries.replicas + 1)} replicas would decide"
            )
            return self._say("inconclusive", visible, [found, why], wanted, **common)
        if unsettled.any():
            place = int(np.argmax(np.where(unsettled, limit_z, -1.0)))
            seen = f"smaller and larger sizes extrapolate to gaps that differ by {drift[place]:.2g} beyond noise"
            if far.any():
                place = int(np.argmax(np.where(far, share[-1], -1.0)))
                seen = f"the gap is still {_percent(share[-1, place])} of the quantity, and closing"
            elif wild[place] > drift[place]:
                seen = f"replicas scatter by {scatter[place]:.2g} of the quantity itself"
            why = (
                f"at {entries.labels[place]} {seen}: sizes up to {sizes[-1]:g} are not in the regime of an expansion "
                "in 1/d, larger ones are needed"
            )
            return self._say("inconclusive", visible, [found, why], **common)
        if not (self.fit.known and self.fit.exponent > float(t.isf(0.025, self.freedom)) * self.fit.exponent_se):
            shown = f"{self.fit.exponent:.2f} +- {self.fit.exponent_se:.2f}" if self.fit.known else self.fit.reason
            why = f"whether the gap closes is not established (exponent {shown}): more replicas, or a wider range of d"
            return self._say("inconclusive", visible, [found, why], self._for_exponent(), **common)
        if visible > settings.resolution:
            why = (
                f"extrapolated, a deviation of {_percent(settings.resolution)} of the theory could not be seen (only "
                f"{_percent(visible)}): more replicas, or a wider range of sizes"
            )
            return self._say("inconclusive", visible, [found, why], self._more_replicas(visible), **common)
        exponent = f"{self.fit.exponent:.2f} +- {self.fit.exponent_se:.2f}"
        within = "noise" if limit_z[worst] <= limit else "noise and the next order of the expansion"
        why = (
            f"the gap closes as d^-a, a = {exponent}, and extrapolates to zero within {within} "
            f"(p = {common['p_value']:.2g}); {_percent(visible)} of the theory would have been seen"
        )
        return self._say("agree", visible, [found, why], **common)

    def _for_exponent(self) -> float | None:
        """Replicas that would tell the exponent from zero, where it is positive at all."""
        if not (self.fit.known and self.fit.exponent > 0):
            return None
        return self.entries.replicas * (2.5 * self.fit.exponent_se / self.fit.exponent) ** 2


def unsteadiness(sizes: np.ndarray, gap: np.ndarray, se: np.ndarray, exponent: float, limit: float) -> np.ndarray:
    """Return by how much gaps (S, N) extrapolated from the first and from the last two sizes differ, beyond noise.

    With B d^-a + C d^-2a the two differ by three times the error of the latter, when sizes double.
    """
    import numpy as np

    x = sizes**-exponent
    ends = []
    for i, j in ((0, 1), (-2, -1)):
        weights = np.zeros(len(sizes))
        weights[i], weights[j] = -x[j] / (x[i] - x[j]), x[i] / (x[i] - x[j])
        ends.append(weights)
    difference = ends[1] - ends[0]
    noise = np.sqrt(difference**2 @ se**2)
    return np.asarray(np.maximum(np.abs(difference @ gap) - limit * noise, 0.0))


def _filled(se: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Return standard errors (S, N) with those of sizes without a known scatter replaced by the entry's largest."""
    import numpy as np

    most = np.max(np.where(unknown, 0.0, se), axis=0)
    return np.asarray(np.where(unknown, np.where(most > 0, most, np.max(se, axis=0)), se))


def _profile(se: np.ndarray) -> np.ndarray:
    """Return standard errors (S, N) smoothed over the entries: how they fall with the size on the whole.

    Weights must not follow the scatter of single entries: where replicas are skewed, a low mean comes with a low
    standard error.
    """
    import numpy as np

    relative = np.log(se) - np.mean(np.log(se), axis=0)
    return np.asarray(np.exp(np.median(relative, axis=1)[:, None] + np.mean(np.log(se), axis=0)))


def _percent(value: float) -> str:
    return f"{100 * value:.2g} %"


def combine(verdicts: list[Verdict]) -> Verdict:
    """One wrong variable makes a theory wrong; one undecided variable leaves it undecided."""
    if "disagree" in verdicts:
        return "disagree"
    return "agree" if verdicts and all(v == "agree" for v in verdicts) else "inconclusive"
