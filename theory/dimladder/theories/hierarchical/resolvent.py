"""The resolvents of stage 1, at many points of the upper half plane together.

    G_b = 1/(z - Y_b),  Y_b = E[(1 + s_b) T/(1 - g_T T/delta)],  g_T = sum_b w_b (1 + s_b(T)) G_b:

b = 0 are the directions that are not hidden (weight 1 - gamma, s_0 = 0), b = c those of class c (gamma f_c, s_c =
E[z_c^2 - 1 | T]). The map G -> 1/(z - Y(G)) takes the lower half plane of all G_b into itself, so that it has one fixed
point there, and every iteration that stays there and converges has found it.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .spectral import LabelLaw

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
TOLERANCE = 1e-10
STEPS = 2000
# Newton steps are taken where they are smaller than this share of the resolvent.
NEAR = 0.5


class Resolvent:
    """The map of one label law, and its fixed points.

    Parameters
    ----------
    law : LabelLaw
    gamma, delta : float
        d_eff/d (of all branches) and n/d.
    """

    def __init__(self, law: LabelLaw, gamma: float, delta: float) -> None:
        self.size = np.concatenate([np.ones((1, len(law.values))), 1.0 + law.squares])
        self.weight = np.concatenate([[1.0 - gamma], gamma * law.fractions])
        self.label, self.scaled = law.weights * law.values, law.values / delta
        self.sigma = float(np.sqrt(law.variance / delta))

    @cached_property
    def _products(self) -> Array:
        """(1 + s_a)(1 + s_b), shape (bins, groups * groups)."""
        bins = self.size.shape[1]
        return np.ascontiguousarray((self.size[:, None] * self.size[None]).reshape(-1, bins).T)

    def poles(self, own: Complex) -> Complex:
        """Return 1/(1 - g_T T/delta), shape (points, bins), of G_b, shape (points, groups)."""
        return np.asarray(1.0 / (1.0 - (own * self.weight) @ self.size * self.scaled))

    def solve(self, z: Complex, start: Complex | None = None) -> tuple[Complex, int]:
        """Return G_b at the points z, shape (points, groups), and how many points did not converge.

        Newton's method where its steps are short, the averaged map elsewhere: near the axis that one alone takes
        hundreds of steps.

        Parameters
        ----------
        z : (points,) array
            In the upper half plane.
        start : (points, groups) array, optional
            Resolvents at points close by; default: those of the semicircle of the same variance.
        """
        if start is None:
            root = np.sqrt(z - 2.0 * self.sigma) * np.sqrt(z + 2.0 * self.sigma)
            start = np.repeat((2.0 / (z + root))[:, None], len(self.weight), axis=1)
        found, open_points, one = start.copy(), np.arange(len(z)), np.eye(len(self.weight))
        for _ in range(STEPS):
            own = found[open_points]
            pole = self.poles(own)
            pull = pole * self.label
            new = 1.0 / (z[open_points, None] - pull @ self.size.T)
            step = 0.5 * (new - own)
            near = np.flatnonzero(np.max(np.abs(new - own) / np.abs(own), axis=1) < NEAR)
            if near.size:
                # d new_a = new_a^2 dY_a,  dY_a/dG_b = E[(1 + s_a)(1 + s_b) T^2/delta pole^2] w_b
                strength = pull[near] * pole[near] * self.scaled
                slope = (strength.real @ self._products + 1j * (strength.imag @ self._products)).reshape(-1, *one.shape)
                slope *= new[near, :, None] ** 2 * self.weight
                newton = np.linalg.solve(one - slope, (new - own)[near, :, None])[..., 0]
                inside = np.all((own[near] + newton).imag < 0.0, axis=1)
                short = np.max(np.abs(newton) / np.abs(own[near]), axis=1) < NEAR
                taken = inside & short
                step[near[taken]] = newton[taken]
            found[open_points] = own + step
            open_points = open_points[np.max(np.abs(step) / np.abs(own), axis=1) > TOLERANCE]
            if not open_points.size:
                break
        return found, len(open_points)
