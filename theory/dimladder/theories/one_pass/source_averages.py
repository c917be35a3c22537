"""Averages over the samples of one source in Stein's form: what the flow needs of data with blocks, means and tasks.

Given who emits the sample, the fields f = (students, teachers) are Gaussian with mean mu and covariance C, and the
error is ``Delta = sum_p c_p g_p(f_p) - y_0`` (square loss). The flow of every block of every overlap follows from

    G_i = E[g'_i Delta],   H_ip = E[d(g'_i Delta)/df_p],   N_ik = E[g'_i g'_k Delta^2],   R_i = E[g_i Delta]

by Stein's lemma: ``E[g'_i Delta v] = E[v] G_i + sum_p H_ip Cov(f_p, v)`` for every v that is jointly Gaussian with the
fields. The averages know nothing of the blocks. With ``S_i = E[g''_i Delta]``,

    H_ip = c_p E[g'_i g'_p] + delta_ip S_i
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import sympy as sp

from ...errors import DerivationError
from ...problem.expressions import drop_atoms
from ...symbolic.factors import decompose, is_closed
from ...symbolic.kernels import Named, expectation_of
from ...symbolic.tensors import Indices, Tensor
from .averages import Averages, Error, difference, needs_all_fields, products, written_out
from .derivation import EXPANDED_DEGREE
from .erf_sums import ErfMixture
from .notation import LABEL, N2, OUTPUT, STUDENTS, TEACHERS, UNITS, C, Setting, i, indices, k, m, sigma

G, H, R, S = (sp.IndexedBase(s) for s in "GHRS")
MU = sp.IndexedBase(r"\mu")
# A field among all; a letter after that of students, so that averages are tilted by the student first.
P = sp.Symbol("p", integer=True)
OFFSET = sp.Symbol("y0", real=True)
TARGET_WEIGHT = sp.Symbol(r"A_\star", real=True)

MEANING = {
    "S": r"\mathbb{E}\left[g''(\lambda_{i})\, \Delta\right]",
    "G": r"\mathbb{E}\left[g'(\lambda_{i})\, \Delta\right]",
    "H": r"\mathbb{E}\left[\partial_{f_{p}} \left(g'(\lambda_{i})\, \Delta\right)\right]",
    "N": r"\mathbb{E}\left[g'(\lambda_{i})\, g'(\lambda_{k})\, \Delta^2\right]",
    "R": r"\mathbb{E}\left[g(\lambda_{i})\, \Delta\right]",
}


@dataclass
class SourceAverages:
    """The averages of one kind of source; weights, means, covariances and labels are numbers of the compiled code.

    Parameters
    ----------
    setting : Setting
        Activations, target and loss. A source whose label is a number has a committee without members as its target:
        the teacher's activation is then the student's.
    centred : bool
        Whether the fields have mean zero and the label no offset: neither is read, and G is not needed.
    species : tuple of str
        Tracked vectors of a unit, the weights first, where `coefficients` are given.
    coefficients : tuple of (Expression or None), or None
        What a sample moves each species by, in ``a``, ``error``, ``f``, ``y``, ``learning_rate``, and ``lambda_s``,
        ``g_s``, ``dg_s`` for species s: averages are then over the fields of all species and teachers, and
        g'_i Delta is this coefficient in G, H and N. None: the gradient.
    sampled_drift : tuple of tuples of (Expression or None), or None
        L where it depends on the sample, in the same names: their averages follow those of R.
    sums : pair of ErfMixture, or None
        Activations of students and teachers as sums of erfs: `setting` is then an erf network, whose units these
        are, and `summed` the setting of the activations themselves.
    signs : bool
        Whether the share of samples whose sign is wrong is wanted: it takes a rule even where averages do not.
    uses : int
        Steps on one sample: g'_i Delta is the sum of all of them, each at the fields that those before it have moved.
    trial : bool
        Whether g'_i Delta is taken at fields that a trial step on the same sample has moved.
    episodes : bool
        Whether decisions and their reward take the place of g'_i Delta: `episode_averages`.

    Attributes
    ----------
    definitions : list of Tensor
        S, G, H, N and R, in the order they are computed; a name with its meaning where no closed form is known.
    error : sympy expression
        E[(f - f*)^2]/2, without label noise; y_0 counts as label.

    Raises
    ------
    DerivationError
        For a student whose activation jumps: its gradient is a delta function, which SGD never sees.
    """

    setting: Setting
    centred: bool = True
    species: tuple[str, ...] = ("w",)
    coefficients: tuple[Any, ...] | None = None
    signs: bool = False
    sums: tuple[ErfMixture, ErfMixture] | None = None
    summed: Setting | None = None
    uses: int = 1
    trial: bool = False
    episodes: bool = False
    sampled_drift: tuple[tuple[Any, ...], ...] | None = None
    indices: Indices = field(init=False)
    averages: Averages = field(init=False)

    def __post_init__(self) -> None:
        if any(f.delta for _, f in self._slope.terms):
            raise DerivationError(
                "the student's activation jumps: its gradient is zero almost everywhere and a delta function at the "
                "jump",
                where="student.activation", why=str(self.setting.student),
                hint="use a continuous activation for the student; targets may jump",
            )  # fmt: skip
        self.indices = indices()
        self.indices.ranges[P] = UNITS
        mean = None if self.centred else lambda p: MU[p]
        self.averages = Averages(self.indices, covariance, written_out(self.setting), mean)

    @property
    def _value(self) -> Named:
        return Named("g", decompose(self.setting.student))

    @property
    def _slope(self) -> Named:
        return self._value.derivative()

    @cached_property
    def route(self) -> str:
        """ "closed" where every average has a closed form that is short enough to be written out, else "fields"."""
        setting = self.setting
        if self.episodes:
            return "closed"
        if self.takes_rate:
            return "fields"
        functions = [setting.student, *([] if setting.teacher is None else [setting.teacher])]
        terms = [decompose(f) for f in functions]
        degree = max((f.power for t in terms for _, f in t if f.polynomial), default=0)
        if needs_all_fields(setting) or not all(is_closed(t) for t in terms) or degree > EXPANDED_DEGREE:
            return "fields"
        rows = [tensor.rhs for tensor in self._closed_forms] + [self._error]
        whole = self.averages.kernels.closed and not any(expectation_of(row) for row in rows)
        return "closed" if whole else "fields"

    @property
    def displaced(self) -> bool:
        """Whether a gradient sees fields that a step on the same sample has moved."""
        return self.trial or self.uses > 1

    @property
    def takes_rate(self) -> bool:
        """Whether the averages depend on the size of a step."""
        return self.coefficients is not None or self.displaced

    @property
    def linear_in_noise(self) -> bool:
        """Whether what a sample moves is linear in the noise of its label."""
        if self.displaced:
            return False
        error = drop_atoms(sp.diff(self.setting.loss_function, OUTPUT))
        rows = [sp.Symbol("error", real=True)]
        if self.coefficients is not None:
            drifts = [formula for row in self.sampled_drift or () for formula in row]
            rows = [formula.sympy() for formula in (*self.coefficients, *drifts) if formula is not None]
        moved = [row.subs(sp.Symbol("error", real=True), error) for row in rows]
        return all(row.is_polynomial(LABEL) and sp.degree(row, LABEL) <= 1 for row in moved)

    @cached_property
    def definitions(self) -> list[Tensor]:
        """The averages as tensors over named indices."""
        if self.episodes:
            return []
        if self.route == "closed":
            return self._closed_forms
        rows = [(G[i], False), (H[i, P], False), (N2[i, k], True), (R[i], False)]
        return [Tensor(lhs, sp.Symbol(MEANING[str(lhs.base)]), symmetric) for lhs, symmetric in rows]

    @property
    def error(self) -> Any:
        """E[(f - f*)^2]/2."""
        closed = self.route == "closed" and not self.episodes
        return self._error if closed else sp.Symbol(r"\mathbb{E}\left[(f - f_\star)^2\right]") / 2

    # Closed forms -------------------------------------------------------------------------------------------------

    def _difference(self, for_loss: bool) -> Error:
        """Return Delta, or f - f*, of this source."""
        found = difference(self.setting, for_loss)
        if self.setting.target is not None:
            found = replace(found, target_weight=TARGET_WEIGHT)
        return found if self.centred else replace(found, offset=-OFFSET)

    @cached_property
    def _closed_forms(self) -> list[Tensor]:
        average, error = self.averages, self._difference(for_loss=True)
        value, slope = self._value, self._slope
        square = average.second({i: slope, k: slope}, error) + sigma**2 * average({i: slope, k: slope})
        out = [Tensor(S[i], average.first({i: slope.derivative()}, error))]
        if not self.centred:
            out.append(Tensor(G[i], average.first({i: slope}, error)))
        return [
            *out, *self._stein(error), Tensor(N2[i, k], square, symmetric=True),
            Tensor(R[i], average.first({i: value}, error)),
        ]  # fmt: skip

    def _stein(self, error: Error) -> list[Tensor]:
        """Return H: the derivative of the error in each field, and of g' in its own."""
        average, slope = self.averages, self._slope
        letters = {STUDENTS: k, TEACHERS: m, UNITS: P}
        parts = {}
        for group in error.groups:
            at = letters[self.indices.ranges[group.index[0]]]
            ((_, function),) = group.slots(at).items()
            parts[at] = group.weight(at) * average({i: slope, at: function.derivative()})
        own = P if P in parts else k
        parts[own] = parts.get(own, sp.Integer(0)) + sp.KroneckerDelta(i, own) * S[i]
        for symbol, number in self.setting.fields.items():
            derivative = products(sp.diff(self.setting.target, symbol), self.setting)
            shown = rf"\partial_{{z_{{{number}}}}} f_\star"
            parts[number] = -TARGET_WEIGHT * average({i: slope}, derivative, shown)
        return [Tensor(H[i, at], value) for at, value in parts.items()]

    @cached_property
    def _error(self) -> Any:
        return self.averages.second({}, self._difference(for_loss=False)) / 2


def covariance(p: Any, q: Any) -> Any:
    """Return C[p, q] with the indices in a fixed order."""
    return C[tuple(sorted((p, q), key=str))]
