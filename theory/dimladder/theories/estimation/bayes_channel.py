"""The channel of the Bayes-optimal estimator: information I(q) and free entropy Psi(q) of one observation.

omega ~ N(0, q), z | omega ~ N(omega, V), V = rho - q, Z(y; omega) = P(y | omega):

    I(q) = E_omega sum_y (d_omega Z)^2/Z,    Psi(q) = E_omega sum_y Z ln Z,    dPsi/dq = I/2.

Discrete labels: one integral over omega. Linear label with normal noise: closed. Noiseless even labels of |z| (phase
retrieval): the posterior is two points. Smooth labels with noise: integrals over omega, y and the field.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...errors import DerivationError
from ...symbolic.systems import Equation
from .label_chances import component_chances, panels
from .labels import Component, LabelLaw
from .thresholds import weak_recovery

Array = NDArray[np.float64]


class BayesChannel:
    """I(q) and Psi(q) for a label law with one latent field.

    Parameters
    ----------
    law : LabelLaw
    rho : float

    Raises
    ------
    DerivationError
        For a label whose likelihood has no density that can be integrated here.
    """

    fields = 1

    def __init__(self, law: LabelLaw, rho: float = 1.0) -> None:
        self.law, self.rho = law, rho
        self.route = self._route()
        # Conjugates between which the curve is tabulated, and how many.
        self.reach, self.points = ((1e-4, 1e4), 61) if self.route == "density" else ((1e-7, 1e9), 241)

    def _route(self) -> str:
        law = self.law
        if law.discrete:
            return "discrete"
        if len(law.components) == 1:
            c = law.components[0]
            if c.kind == "linear" and c.outer + c.inner > 0.0:
                return "linear"
            if c.kind in ("linear", "smooth") and c.outer == 0.0:
                if c.inner == 0.0 and _rises_with_size(c):
                    return "even"
                raise DerivationError(
                    "the label has no likelihood that can be integrated",
                    where=f"target.formula = {law.text!r}",
                    why="a noiseless label of a continuous field fixes the field: only even functions that rise with "
                    "|z| are known here",
                    hint="add noise outside the link (... + 0.1*n1), or use labels that are constant between cuts",
                )
        if all(c.outer > 0.0 and c.kind in ("linear", "smooth") for c in law.components):
            return "density"
        raise DerivationError(
            "the label mixes values and densities", where=f"target.formula = {law.text!r}",
            hint="give every component noise outside the link, or none",
        )  # fmt: skip

    @property
    def discrete(self) -> bool:
        """Whether labels take finitely many values."""
        return self.law.discrete

    def label_rows(self) -> list[Equation]:
        """Return the law of the label, printed."""
        from .printed import label_rows

        return label_rows(self.law)

    def weak_recovery(self, strength: float) -> float:
        """Sample ratio at which the target begins to be seen; 0 where it is at once."""
        return weak_recovery(self.law, self.rho, strength)

    def information(self, q: float, V: float) -> tuple[float, float]:
        """I(q) and Psi(q); V = rho - q is given apart, since a difference would lose it."""
        return {
            "discrete": self._discrete, "linear": self._linear, "even": self._even, "density": self._density,
        }[self.route](q, V)  # fmt: skip

    def _ends(self, q: float, V: float) -> set[float]:
        s = math.sqrt(q) if q > 0 else 1e-300
        ends = {0.0}
        for c in self.law.components:
            spread = math.sqrt(V + c.inner / c.gain**2) if c.gain else math.inf
            if spread < 3.0 * s:
                for cut in c.cuts:
                    at = cut / c.gain
                    ends |= {
                        (at + sign * k * spread) / s
                        for k in (0.0, 0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 12.0, 20.0, 30.0)
                        for sign in (-1, 1)
                    }
        return ends

    def _chances(self, omega: Array, V: float) -> tuple[Array, Array, Array]:
        """Labels, P(y | omega) and its derivative, shape (labels, nodes)."""
        values = self.law.values
        Z, dZ = np.zeros((len(values), omega.size)), np.zeros((len(values), omega.size))
        for c in self.law.components:
            P, dP = component_chances(c, omega, V, values)
            Z += c.probability * P
            dZ += c.probability * dP
        return np.array(values), Z, dZ

    def _discrete(self, q: float, V: float) -> tuple[float, float]:
        x, w = panels(self._ends(q, V), 0.75)
        _, Z, dZ = self._chances(math.sqrt(q) * x, V)
        with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
            info = np.where(Z > 1e-290, dZ**2 / Z, 0.0)
            entropy = np.where(Z > 0.0, Z * np.log(np.where(Z > 0.0, Z, 1.0)), 0.0)
        return float(info.sum(0) @ w), float(entropy.sum(0) @ w)

    def error(self, q: float, V: float) -> float:
        """Probability that the likeliest label is wrong: 1 - E max_y Z."""
        x, w = panels(self._ends(q, V), 0.75)
        _, Z, _ = self._chances(math.sqrt(q) * x, V)
        order = np.sort(Z, axis=0)
        return float(order[:-1].sum(0) @ w)

    def _linear(self, q: float, V: float) -> tuple[float, float]:
        c = self.law.components[0]
        gain = c.slope * c.gain
        total = c.outer + c.slope**2 * c.inner + gain**2 * V
        return gain**2 / total, -0.5 * math.log(2 * math.pi * math.e * total)

    def _even(self, q: float, V: float) -> tuple[float, float]:
        # Given |z|, z is one of two points: <z> = |z| tanh(z omega/V). Average over t = z of the true law.
        # Even in omega: the right half suffices. Fields of the order of sqrt V are resolved.
        s, rv = math.sqrt(q), math.sqrt(V)
        x, w = panels({k * rv / s for k in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)} if s > 0 else {0.0}, 1.0)
        right = x > 0
        x, w = x[right], 2.0 * w[right]
        y, v = panels({0.0}, 0.5)
        omega, z = s * x[:, None], s * x[:, None] + math.sqrt(V) * y
        ratio = z * omega / V
        f = (z * np.tanh(ratio) - omega) / V
        info = float(w @ (f**2) @ v)
        # Density of |z|: N(z; omega, V) + N(-z; omega, V); the Jacobian of the link is a constant of q, left out.
        log_z = (
            -0.5 * math.log(2 * math.pi * V) - 0.5 * y**2 + np.log1p(np.exp(-2.0 * np.abs(ratio)))
            + np.where(ratio < 0, -2.0 * ratio, 0.0)
        )  # fmt: skip
        return info, float(w @ log_z @ v)

    def _density(self, q: float, V: float) -> tuple[float, float]:
        s = math.sqrt(q)
        x, w = panels({0.0}, 2.4)
        y, tables = self._tables
        Z, dZ = np.zeros((y.size, x.size)), np.zeros((y.size, x.size))
        for c, t, kernel in tables:
            inner = c.gain**2 * V + c.inner
            if not c.gain:
                Z += c.probability * (kernel @ np.exp(-(t**2) / (2 * inner)) / math.sqrt(2 * math.pi * inner))[:, None]
                continue
            gap = t[:, None] - c.gain * s * x
            weight = np.exp(-(gap**2) / (2 * inner)) / math.sqrt(2 * math.pi * inner)
            Z += c.probability * (kernel @ weight)
            dZ += c.probability * c.gain / inner * (kernel @ (weight * gap))
        keep = Z > 1e-250
        safe = np.where(keep, Z, 1.0)
        dy = y[1] - y[0]
        return float((np.where(keep, dZ**2 / safe, 0.0) @ w).sum() * dy), float(((Z * np.log(safe)) @ w).sum() * dy)

    @cached_property
    def _tables(self) -> tuple[Array, list[tuple[Component, Array, Array]]]:
        """Grid of y, and for each component a grid of its field t with P(y | t) dt: trapezoidal rules."""
        step, low, high, rows = math.inf, 0.0, 0.0, []
        for c in self.law.components:
            # Fine enough for the narrowest law of t given omega that the curve reaches.
            narrow = math.sqrt(c.gain**2 * self.rho / self.reach[1] + c.inner)
            sd = math.sqrt(c.variance(self.rho))
            t = np.linspace(-9.0 * sd, 9.0 * sd, math.ceil(18.0 * sd / (0.7 * narrow)) + 1)
            psi = np.broadcast_to(c.function(t), t.shape)
            rows.append((c, t, psi))
            noise = math.sqrt(c.outer)
            near = np.abs(t) < 6.0 * sd
            step = min(step, noise / 4)
            low, high = min(low, psi[near].min() - 7 * noise), max(high, psi[near].max() + 7 * noise)
        y = np.linspace(low, high, min(math.ceil((high - low) / step), 3000) + 1)
        tables = []
        for c, t, psi in rows:
            kernel = np.exp(-((y[:, None] - psi) ** 2) / (2 * c.outer)) / math.sqrt(2 * math.pi * c.outer)
            tables.append((c, t, kernel * (t[1] - t[0])))
        return y, tables


def _rises_with_size(c: Component) -> bool:
    t = np.linspace(0.01, 8.0, 400)
    up, down = c.function(t), c.function(-t)
    return bool(np.allclose(up, down, rtol=1e-12, atol=1e-12) and np.all(np.diff(up) != 0) and (
        np.all(np.diff(up) > 0) or np.all(np.diff(up) < 0)))  # fmt: skip
