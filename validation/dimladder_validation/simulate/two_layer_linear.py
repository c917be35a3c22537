"""Gradient flow of the two-layer linear network itself, every weight of it.

Nothing is averaged: the reduced flow is exact at any width, and the replicas differ in the direction of the second
layer only. What is left is the integrator's error, far below the tolerance of the comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .base import Backend, Experiment, Sample

if TYPE_CHECKING:
    import numpy as np


class TwoLayerLinearExperiment(Experiment):
    """Integrates (a, W) by an independent multistep method."""

    theory = "two-layer-linear"
    size = "width"

    def exact(self, problem: Any) -> tuple[str, ...]:
        return ("loss", "solution_gap", "risk")

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        """Integrate networks of hidden width `size` from balanced weights; on the CPU in float64, whatever the
        backend.
        """
        import numpy as np
        from scipy.integrate import solve_ivp

        from dimladder.problem.regression import least_squares_data, spectrum_of

        x, y, target, start = least_squares_data(problem)
        times = np.array(problem.grid.values("time"))
        spectrum = spectrum_of(problem.data)
        p, length = start.size, problem.student.initial_norm
        least = np.linalg.lstsq(x, y, rcond=None)[0]
        hidden = start - np.linalg.pinv(x) @ (x @ start)
        w = hidden / np.sqrt(length)
        # alpha solves alpha^4 = |least|^2 + alpha^2 |w|^2, as a root of the polynomial.
        alpha = max(
            r.real for r in np.roots([1.0, 0.0, -float(w @ w), 0.0, -float(least @ least)]) if abs(r.imag) < 1e-12
        )
        goal = least + alpha * w

        def velocity(_: float, state: np.ndarray) -> np.ndarray:
            a, first = state[:size], state[size:].reshape(size, p)
            slope = x.T @ (x @ (first.T @ a) - y)
            return np.concatenate([-first @ slope, -np.outer(a, slope).ravel()])

        results = []
        for stream in streams:
            a = stream.standard_normal(size)
            a *= np.sqrt(length) / np.linalg.norm(a)
            first = np.outer(a, start) / length
            path = solve_ivp(
                velocity,
                (0.0, float(times[-1])),
                np.concatenate([a, first.ravel()]),
                t_eval=times,
                method="LSODA",
                rtol=1e-11,
                # The weights start at this size and grow from it: an absolute tolerance of O(1) would lose them.
                atol=1e-13 * min(1.0, float(np.sqrt(length))),
            )
            theta = np.array([s[size:].reshape(size, p).T @ s[:size] for s in path.y.T])
            residual = theta @ x.T - y
            results.append(
                (
                    0.5 * np.sum(residual**2, axis=1),
                    np.linalg.norm(theta - goal, axis=1),
                    ((theta - target) ** 2) @ spectrum,
                )
            )
        names = ("loss", "solution_gap", "risk")
        return Sample({"time": times}, {n: (("time",), np.array([r[k] for r in results])) for k, n in enumerate(names)})


EXPERIMENT = TwoLayerLinearExperiment()
