"""Particles of the mean-field limit: Gauss nodes of the initial readout, in panels that are halved where it is steep.

All neurons that start with the same readout a(0) stay together (u = 0 and s = E[W^2]^{1/2} are common to all), so the
state of the network is a smooth function of a(0). Neurons near a separatrix leave it exponentially late: the function
becomes a staircase whose steps sharpen exponentially in time. Panels of Gauss-Legendre nodes are halved as they do; the
halves inherit the polynomial through the nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ...numerics.quadrature import gauss_legendre
from ...problem.laws import Law

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
    Mask = npt.NDArray[np.bool_]

# Nodes of a panel. With 5 the late times need as many particles, the early ones more.
ORDER = 8


@lru_cache(maxsize=8)
def _tables(order: int) -> tuple[Array, Array, Array, Array, Array]:
    """Return nodes and weights on [-1, 1], node values -> Legendre coefficients, and node values -> each half's."""
    from numpy.polynomial import legendre

    x, w = gauss_legendre(order)
    to_coefficients = np.asarray(np.linalg.inv(legendre.legvander(x, order - 1)), dtype=np.float64)
    left: Array = legendre.legvander((x - 1) / 2, order - 1) @ to_coefficients
    right: Array = legendre.legvander((x + 1) / 2, order - 1) @ to_coefficients
    return x, w, to_coefficients, left, right


@dataclass(frozen=True)
class Particles:
    """A quadrature of the readout law: sum_j weights_j F(nodes_j) = E[F(a(0))].

    Attributes
    ----------
    law : Law
    low, width : arrays (panels,)
        The panels; none for a law on finitely many values.
    order : int
        Nodes of a panel.
    """

    law: Law
    low: Array
    width: Array
    order: int

    @classmethod
    def of(cls, law: Law, count: int) -> Particles:
        """Return at least `count` nodes, or the values of a law that has finitely many."""
        if law.atoms():
            return cls(law, np.zeros(0), np.zeros(0), 1)
        order = min(ORDER, count)
        panels = math.ceil(count / order)
        edges = np.linspace(*law.support(), panels + 1)
        return cls(law, edges[:-1], np.diff(edges), order)

    @property
    def atomic(self) -> bool:
        """Whether the law has finitely many values."""
        return bool(self.law.atoms())

    def __len__(self) -> int:
        return len(self.law.atoms()) or len(self.low) * self.order

    @property
    def nodes(self) -> Array:
        """Initial readouts, shape (n,)."""
        if self.atomic:
            return np.array([value for value, _ in self.law.atoms()])
        x = _tables(self.order)[0]
        values: Array = (self.low[:, None] + self.width[:, None] * (1 + x) / 2).ravel()
        return values

    @property
    def weights(self) -> Array:
        """Probabilities of the particles, shape (n,)."""
        if self.atomic:
            return np.array([weight for _, weight in self.law.atoms()])
        w = _tables(self.order)[1]
        values: Array = self.law.density(self.nodes) * (self.width[:, None] * w / 2).ravel()
        return values

    def errors(self, values: Array) -> Array:
        """Return what each panel may add to the error of an average, shape (panels,).

        Parameters
        ----------
        values : array (n, c)
            Functions of the particles. The last two Legendre coefficients, times the probability of the panel, bound
            what its nodes do not resolve; the largest over the columns counts.
        """
        if self.atomic:
            return np.zeros(0)
        blocks = values.reshape(len(self.low), self.order, -1)
        coefficients = np.einsum("ij,pjc->pic", _tables(self.order)[2][-2:], blocks)
        mass = self.weights.reshape(len(self.low), self.order).sum(axis=1)
        estimate: Array = mass * np.abs(coefficients).max(axis=(1, 2))
        return estimate

    def halved(self, which: Mask, states: Array) -> tuple[Particles, Array]:
        """Return the particles with some panels halved, and their states (n, c), interpolated."""
        if not which.any():
            return self, states
        _, _, _, left, right = _tables(self.order)
        blocks = states.reshape(len(self.low), self.order, -1)
        low, width, kept = [], [], []
        for panel, block in enumerate(blocks):
            a, h = self.low[panel], self.width[panel]
            if which[panel]:
                low += [a, a + h / 2]
                width += [h / 2, h / 2]
                kept += [left @ block, right @ block]
            else:
                low.append(a)
                width.append(h)
                kept.append(block)
        finer = Particles(self.law, np.array(low), np.array(width), self.order)
        return finer, np.concatenate(kept)
