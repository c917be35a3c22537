"""Averages over the samples of one source for a student of several outputs, in Stein's form.

With outputs ``f_o = sum_k a_ok g_k`` a sample moves the weights of unit i by ``g'_i Delta_i``,

    Delta_i = sum_o a_oi dl/df_o,

a mixture of the errors of the outputs that is the unit's own. For the square loss it is one sum over units again,
``Delta_i = sum_p U_ip g_p(f_p) - y_i`` with ``U_ip = sum_o a_oi c_op`` and ``y_i = sum_o a_oi y_0o``: the averages are
those of one output, with other weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import sympy as sp

from ...problem.vector_losses import VectorLoss
from ...symbolic.tensors import Range, Tensor
from .averages import Error, difference
from .notation import N2, i, k, sigma
from .source_averages import G, H, P, R, S, SourceAverages

OUTPUTS = Range("outputs", "Y", "0", "Y")
O = sp.Symbol("o", integer=True)
# Readouts of all fields by output, labels by output; the same of the error that moves a unit.
c, y0, U, Y0 = (sp.IndexedBase(s) for s in ("c", "y0", "U", "y"))

MEANING = {
    "G": r"\mathbb{E}\left[g'(\lambda_{i})\, \Delta_{i}\right]",
    "H": r"\mathbb{E}\left[\partial_{f_{p}} \left(g'(\lambda_{i})\, \Delta_{i}\right)\right]",
    "N": r"\mathbb{E}\left[g'(\lambda_{i})\, g'(\lambda_{k})\, \Delta_{i} \Delta_{k}\right]",
    "R": r"\mathbb{E}\left[g(\lambda_{i})\, \partial_{f_o} \ell\right]",
    "S": r"\mathbb{E}\left[g''(\lambda_{i})\, \Delta_{i}\right]",
}


@dataclass
class VectorAverages(SourceAverages):
    """The averages of one kind of source for several outputs; ``G``, ``H``, ``N`` hold the readouts already.

    Parameters
    ----------
    loss : VectorLoss
    index : tuple of sympy expressions
        The target as formulas in ``z1, z2, ...``, one an output; empty for a committee, or labels of clusters.
    argmax : bool
        Whether the label is the unit vector of the largest of them.
    planes : tuple of (tuple of float, float)
        Planes ``a.z = c`` of the teacher fields on which the label is not smooth.
    classes : bool
        Whether the share of samples whose largest output is another than the label's is wanted.
    """

    loss: VectorLoss | None = None
    index: tuple[Any, ...] = ()
    argmax: bool = False
    planes: tuple[tuple[tuple[float, ...], float], ...] = ()
    classes: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.indices.ranges[O] = OUTPUTS

    @property
    def vector_loss(self) -> VectorLoss:
        """The loss."""
        assert self.loss is not None
        return self.loss

    @cached_property
    def route(self) -> str:
        """ "closed" where every average has a closed form that is short enough to be written out, else "fields"."""
        loss = self.vector_loss
        if self.index or not loss.quadratic or loss.smoothing:
            return "fields"
        # One output has the same functions under its averages.
        return SourceAverages(self.setting, self.centred).route

    @property
    def linear_in_noise(self) -> bool:
        """Whether what a sample moves is linear in the noise of its label: other losses are refused with noise."""
        return True

    @cached_property
    def definitions(self) -> list[Tensor]:
        """The averages as tensors over named indices."""
        if self.route == "closed":
            return self._closed_forms
        rows = [(G[i], False), (H[i, P], False), (N2[i, k], True), (R[O, i], False)]
        return [Tensor(lhs, sp.Symbol(MEANING[str(lhs.base)]), symmetric) for lhs, symmetric in rows]

    @property
    def error(self) -> Any:
        """E|f - f*|^2/2 as a sum over outputs."""
        if self.route == "closed":
            return self.indices.sum(self.error_of_output, O)
        return sp.Symbol(r"\mathbb{E}\left[\lVert f - f_\star\rVert^2\right]") / 2

    @cached_property
    def error_of_output(self) -> Any:
        """E[(f_o - f*_o)^2]/2."""
        return self.averages.second({}, self._of(lambda u: c[O, u], -y0[O])) / 2

    def _of(self, weight: Any, offset: Any) -> Error:
        """Return the error with other weights of all fields, by index, and another offset."""
        plain = difference(self.setting, for_loss=True)
        groups = tuple(replace(group, weight=weight) for group in plain.groups)
        return Error(groups, offset=sp.Integer(0) if self.centred else offset)

    @cached_property
    def _closed_forms(self) -> list[Tensor]:
        average, slope, value = self.averages, self._slope, self._value
        total = self.indices.sum
        out = [Tensor(U[i, P], total(c[O, i] * c[O, P], O))]
        if not self.centred:
            out.append(Tensor(Y0[i], total(c[O, i] * y0[O], O)))
        own, output = self._of(lambda u: U[i, u], -Y0[i]), self._of(lambda u: c[O, u], -y0[O])
        out.append(Tensor(S[i], average.first({i: slope.derivative()}, own)))
        if not self.centred:
            out.append(Tensor(G[i], average.first({i: slope}, own)))
        noise = sigma**2 * U[i, k] * average({i: slope, k: slope})
        return [
            *out, *self._stein(own), Tensor(N2[i, k], self._product() + noise, symmetric=True),
            Tensor(R[O, i], average.first({i: value}, output)),
        ]  # fmt: skip

    def _product(self) -> Any:
        """Return E[g'_i g'_k Delta_i Delta_k] without label noise."""
        average, slope = self.averages, self._slope
        slots = {i: slope, k: slope}
        groups = self._of(lambda u: U[i, u], 0).groups
        found = sp.Integer(0)
        for one, two in product(groups, groups):
            u, v = one.index[0], two.index[1]
            moment = average(slots | one.slots(u) | two.slots(v))
            found += self.indices.sum(U[i, u] * U[k, v] * moment, u, v)
        if self.centred:
            return found
        for this, other in ((i, k), (k, i)):
            linear = average.first(slots, self._of(lambda u, this=this: U[this, u], 0))
            found -= Y0[other] * linear
        return found + Y0[i] * Y0[k] * average(slots)
