"""Hierarchical targets of several replicas side by side: labels, projections and overlaps of all of them at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dimladder.problem import Hierarchical
from dimladder.problem.hierarchy import orthonormal_coefficients

from ..base import Backend
from .target import Realization, hermite_polynomial


@dataclass
class Realizations:
    """One realisation of a target a replica.

    Attributes
    ----------
    target : Hierarchical
    d : int
    directions : (R, branches, d_eff, d) array
        On the backend, as are the readouts.
    readouts : tuple of arrays
        One a level, shape (R, features of the level, block size), divided by the root of the block size.
    backend : Backend
    """

    target: Hierarchical
    d: int
    directions: Any
    readouts: tuple[Any, ...]
    backend: Backend

    @classmethod
    def of(cls, truths: Sequence[Realization]) -> Realizations:
        """Put realisations of one target side by side."""
        one = truths[0]
        levels = zip(*(t.readouts for t in truths), strict=True)
        readouts = tuple(one.backend.asarray(np.stack(level) / math.sqrt(level[0].shape[1])) for level in levels)
        directions = one.backend.asarray(np.stack([t.directions for t in truths]))
        return cls(one.target, one.d, directions, readouts, one.backend)

    @property
    def replicas(self) -> int:
        """R."""
        return int(self.readouts[0].shape[0])

    def inputs(self, n: int, streams: Sequence[np.random.Generator]) -> Any:
        """Return n fresh inputs a replica, shape (R, n, d)."""
        return self.backend.normal(streams, (n, self.d))

    def features_of(self, z: Any) -> Any:
        """Return the scalar feature h of one branch, (R, n), from z = W* x of that branch, (R, n, d_eff)."""
        xp, h = self.backend.xp, z
        for features, readout in zip(self.target.features, self.readouts, strict=True):
            values = hermite_polynomial(orthonormal_coefficients(features, self.target.hermite), h)
            if readout.shape[1] == 1:
                h = xp.matmul(values, xp.matrix_transpose(readout))
            else:
                blocks = xp.reshape(values, (*values.shape[:2], *readout.shape[1:]))
                h = xp.sum(blocks * readout[:, None, :, :], axis=-1)
        return h[:, :, 0]

    def scalars(self, x: Any) -> list[Any]:
        """Return the scalar features of every branch, each (R, n), for inputs (R, n, d)."""
        xp = self.backend.xp
        return [
            self.features_of(xp.matmul(x, xp.matrix_transpose(self.directions[:, b, :, :])))
            for b in range(self.target.branches)
        ]

    def link(self, h: Sequence[Any]) -> Any:
        """Return g of the scalar features."""
        named = dict(zip(self.target.link_variables, h, strict=True))
        return self.target.expression.evaluate(self.backend.xp, **named) + 0.0 * h[0]

    def __call__(self, x: Any) -> Any:
        """Return f*(x), (R, n), for inputs (R, n, d)."""
        return self.link(self.scalars(x))

    def labels(self, x: Any, streams: Sequence[np.random.Generator]) -> Any:
        """Return y = f*(x) + noise xi."""
        y = self(x)
        if self.target.noise:
            y = y + self.target.noise * self.backend.normal(streams, (x.shape[1],))
        return y

    def weight_overlap(self, w: Any) -> Any:
        """Return M_W, (R, branches): sqrt(mean_i |W*_m w_i|^2/|w_i|^2) over the rows w_i of (R, p, d)."""
        xp, found = self.backend.xp, []
        norms = xp.sum(w * w, axis=-1)
        for b in range(self.target.branches):
            inside = xp.matmul(w, xp.matrix_transpose(self.directions[:, b, :, :]))
            found.append(xp.sqrt(xp.mean(xp.sum(inside * inside, axis=-1) / norms, axis=-1)))
        return xp.stack(found, axis=-1)

    def feature_overlap(
        self, second: Callable[[Any], Any], streams: Sequence[np.random.Generator], probes: int = 2000
    ) -> Any:
        """Return M_h, (R, branches): sqrt(mean_i E[h_2i h*]^2/(E h_2i^2 E h*^2)), uncentred, on fresh probes.

        `second` gives the pre-activations of the second layer, (R, n, p2), of inputs (R, n, d).
        """
        xp = self.backend.xp
        x = self.inputs(probes, streams)
        h2 = second(x)
        power, found = xp.mean(h2 * h2, axis=1), []
        for h in self.scalars(x):
            cross = xp.matmul(h[:, None, :], h2)[:, 0, :] / probes
            whole = power * xp.mean(h * h, axis=1)[:, None]
            value = xp.where(power > 0, cross**2 / xp.where(power > 0, whole, 0.0 * power + 1.0), 0.0 * power)
            found.append(xp.sqrt(xp.mean(value, axis=-1)))
        return xp.stack(found, axis=-1)
