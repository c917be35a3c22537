"""Priors of the target's coordinates, mean square 1: overlap, uncertainty and free entropy of the scalar problem.

Observed is B = qh w + sqrt(qh) xi, with posterior weight exp(B w - qh w^2/2) P(w). Each prior gives q = E <w>^2,
1 - q (kept apart: it loses all its digits as a difference), and psi = E ln of the normalisation, d psi/d qh = q/2.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...numerics.scalars import expit

Array = NDArray[np.float64]


def _normal_rule() -> tuple[Array, Array]:
    """Panels of the standard normal law: 30 of width 0.64, 16 nodes each."""
    from ...numerics.quadrature import gauss_legendre

    x0, w0 = gauss_legendre(16)
    edges = np.linspace(-9.6, 9.6, 31)
    low, high = edges[:-1, None], edges[1:, None]
    x = ((low + high) / 2 + (high - low) / 2 * x0).ravel()
    w = ((high - low) / 2 * w0).ravel() * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return x, w


class NormalPrior:
    """w ~ N(0, 1)."""

    name = "normal"
    entropy: float | None = None

    def overlap(self, qh: float) -> tuple[float, float]:
        """q and 1 - q."""
        return qh / (1.0 + qh), 1.0 / (1.0 + qh)

    def free_entropy(self, qh: float) -> float:
        """psi."""
        return 0.5 * (qh - math.log1p(qh))

    def latex(self) -> tuple[str, str]:
        """Overlap and psi, printed."""
        return (
            r"q = \frac{\hat q}{1+\hat q}",
            r"\psi(\hat q) = \tfrac12\left(\hat q-\log(1+\hat q)\right)",
        )


class RademacherPrior:
    """w = -1 or 1 with equal chances."""

    name = "rademacher"
    entropy: float | None = math.log(2.0)

    def overlap(self, qh: float) -> tuple[float, float]:
        """q = E tanh(qh + sqrt(qh) xi) and 1 - q = E 2/(1 + exp(2 B))."""
        # The rest lives where B is near 0: shift the normal weight there, exp(-(x + sqrt qh)^2/2).
        x, w = _normal_rule()
        s = math.sqrt(qh)
        # 1 - tanh B = exp(-B)/cosh B; with B = s y and y ~ N(s, 1): exp(-s y + s y - s^2/2) phi(y) cancels.
        if qh > 4.0:
            edges = np.concatenate([np.linspace(-14.0 / s, 14.0 / s, 41)])
            edges = edges[np.abs(edges) < 40.0]
            x0, w0 = np.polynomial.legendre.leggauss(16)
            low, high = edges[:-1, None], edges[1:, None]
            y = ((low + high) / 2 + (high - low) / 2 * x0).ravel()
            v = ((high - low) / 2 * w0).ravel() / math.sqrt(2 * math.pi)
            # phi(y - s) exp(-B)/cosh B = phi(y) exp(-s^2/2)/cosh(s y).
            rest = math.exp(-qh / 2) * float(v @ (np.exp(-(y**2) / 2) / np.cosh(s * y)))
            # The tail beyond |B| = 14 adds less than exp(-14).
            edges = np.array([14.0 / s, 45.0 / s])
            y = np.linspace(14.0 / s, 45.0 / s, 2001)
            rest += (
                2.0
                * math.exp(-qh / 2)
                * float(np.trapezoid(np.exp(-(y**2) / 2) / np.cosh(s * y), y))
                / math.sqrt(2 * math.pi)
            )
            return 1.0 - rest, rest
        B = qh + s * x
        rest = float(w @ (2.0 / (1.0 + np.exp(2.0 * B))))
        return float(w @ np.tanh(B)), rest

    def free_entropy(self, qh: float) -> float:
        """psi = E ln cosh(B) - qh/2."""
        x, w = _normal_rule()
        B = np.abs(qh + math.sqrt(qh) * x)
        # E |B| - qh/2 + E log((1 + exp(-2|B|))/2): split so that large qh keeps its digits.
        return float(w @ (B + np.log1p(np.exp(-2.0 * B)))) - math.log(2.0) - qh / 2.0

    def latex(self) -> tuple[str, str]:
        """Overlap and psi, printed."""
        return (
            r"q = \mathbb E\tanh\left(\hat q+\sqrt{\hat q}\,\xi\right)",
            r"\psi(\hat q) = \mathbb E\log\cosh\left(\hat q+\sqrt{\hat q}\,\xi\right)-\tfrac12\hat q",
        )


class SparsePrior:
    """w = 0, or with probability `rate` N(0, 1/rate)."""

    name = "gauss-bernoulli"
    entropy: float | None = None

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def _log_odds(self, qh: float, B: Array) -> Array:
        s2 = 1.0 / self.rate
        odds = math.log(self.rate / (1.0 - self.rate)) if self.rate < 1.0 else math.inf
        return odds - 0.5 * math.log1p(s2 * qh) + 0.5 * B**2 * s2 / (1.0 + s2 * qh)

    def _fields(self, qh: float) -> list[tuple[float, Array, Array]]:
        """Law of B: (probability, nodes, weights) for the zero and the other coordinates; split where odds are even."""
        from ...numerics.quadrature import gauss_legendre

        s2 = 1.0 / self.rate
        out = []
        x0, w0 = gauss_legendre(16)
        # |B| at which a coordinate is as likely zero as not.
        level = -2.0 * (float(self._log_odds(qh, np.zeros(1))[0])) * (1.0 + s2 * qh) / s2
        turn = math.sqrt(level) if level > 0 else 0.0
        for chance, variance in ((1.0 - self.rate, qh), (self.rate, qh + qh**2 * s2)):
            if chance <= 0.0:
                continue
            sd = math.sqrt(variance)
            ends = {-9.5, 9.5, 0.0}
            # The sigmoid turns over dB = (1 + s2 qh)/(s2 B).
            if turn > 0:
                wide = (1.0 + s2 * qh) / (s2 * turn)
                for k in (-30, -10, -4, -1.5, 0, 1.5, 4, 10, 30):
                    for sign in (-1, 1):
                        ends.add(sign * (turn + k * wide) / sd)
            points = sorted(e for e in ends if -9.5 <= e <= 9.5)
            edges = [points[0]]
            for a, b in itertools.pairwise(points):
                n = max(1, math.ceil((b - a) / 0.75))
                edges += [a + (b - a) * (j + 1) / n for j in range(n)]
            low, high = np.array(edges[:-1])[:, None], np.array(edges[1:])[:, None]
            x = ((low + high) / 2 + (high - low) / 2 * x0).ravel()
            w = ((high - low) / 2 * w0).ravel() * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
            out.append((chance, sd * x, w))
        return out

    def overlap(self, qh: float) -> tuple[float, float]:
        """q = E eta^2 and 1 - q."""
        s2 = 1.0 / self.rate
        q = rest = 0.0
        for i, (chance, B, w) in enumerate(self._fields(qh)):
            odds = self._log_odds(qh, B)
            p, mean = expit(odds), s2 * B / (1.0 + s2 * qh)
            eta = p * mean
            q += chance * float(w @ eta**2)
            # E (w - eta)^2 given B: the zeros' eta^2, the others' slab variance and (1 - p)^2 mean^2.
            if i == 0 and self.rate < 1.0:
                rest += chance * float(w @ eta**2)
            else:
                rest += chance * (s2 / (1.0 + s2 * qh) + float(w @ (expit(-odds) ** 2 * mean**2)))
        return q, rest

    def free_entropy(self, qh: float) -> float:
        """psi = E ln((1 - R) + R exp(..)/sqrt(1 + s2 qh))."""
        s2 = 1.0 / self.rate
        total = 0.0
        for chance, B, w in self._fields(qh):
            slab = math.log(self.rate) - 0.5 * math.log1p(s2 * qh) + 0.5 * B**2 * s2 / (1.0 + s2 * qh)
            zero = math.log(1.0 - self.rate) if self.rate < 1.0 else -math.inf
            total += chance * float(w @ np.logaddexp(zero, slab))
        return total

    def latex(self) -> tuple[str, str]:
        """Overlap and psi, printed."""
        return (
            r"q = \mathbb E\,\eta^2,\quad \eta = \sigma\!\left(\log\tfrac{R}{1-R}-\tfrac12\log(1+\hat q/R)"
            r"+\tfrac{B^2}{2(R+\hat q)}\right)\frac{B}{R+\hat q}",
            r"\psi(\hat q) = \mathbb E\log\left(1-R+\frac{R\,e^{B^2/(2(R+\hat q))}}{\sqrt{1+\hat q/R}}\right)",
        )


def prior_named(name: str, rate: float = 1.0) -> Any:
    """Return the prior of a run file."""
    return (
        {"normal": NormalPrior, "rademacher": RademacherPrior}[name]()
        if name != "gauss-bernoulli"
        else SparsePrior(rate)
    )
