"""Gradient flow of the two-layer linear network itself, every weight of it, all replicas at once.

Nothing is averaged: the reduced flow is exact at any width, and the replicas differ in the direction of the second
layer only. What is left is the integrator's error, far below the tolerance of the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .base import Backend, Experiment, Sample
from .rows import Rows, Step

if TYPE_CHECKING:
    import numpy as np

STAGES, BLOCK = 12, 64  # of a step; steps whose lengths are loaded together


class TwoLayerLinearExperiment(Experiment):
    """Integrates (a, W) of all replicas together, by a Runge-Kutta method of order eight."""

    theory = "two-layer-linear"
    size = "width"
    device_batch_size = 256

    def exact(self, problem: Any) -> tuple[str, ...]:
        return ("loss", "solution_gap", "risk")

    def numbers(self, problem: Any, size: int, backend: Backend) -> int:
        return (STAGES + 6) * size * (1 + problem.data.dimension)

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        """Integrate networks of hidden width `size` from balanced weights.

        In double precision where the device has it: nothing is averaged, so that rounding is all the error there is.
        """
        import numpy as np

        from dimladder.problem.regression import least_squares_data, spectrum_of

        if not backend.device.startswith("mps"):
            backend = replace(backend, dtype="float64")
        xp = backend.xp
        x, y, target, start = least_squares_data(problem)
        times = np.array(problem.grid.values("time"))
        spectrum = spectrum_of(problem.data)
        length = problem.student.initial_norm
        least = np.linalg.lstsq(x, y, rcond=None)[0]
        hidden = start - np.linalg.pinv(x) @ (x @ start)
        w = hidden / np.sqrt(length)
        # alpha solves alpha^4 = |least|^2 + alpha^2 |w|^2, as a root of the polynomial.
        alpha = max(
            r.real for r in np.roots([1.0, 0.0, -float(w @ w), 0.0, -float(least @ least)]) if abs(r.imag) < 1e-12
        )
        goal = least + alpha * w
        inputs, labels = backend.asarray(x), backend.asarray(y)

        def velocity(a: Any, first: Any) -> tuple[Any, Any]:
            theta = xp.matmul(a[:, None, :], first)[:, 0, :]
            # One product a replica: its numbers do not depend on who else is there.
            gap = xp.matmul(theta[:, None, :], xp.permute_dims(inputs, (1, 0))) - labels
            slope = xp.matmul(gap, inputs)[:, 0, :]
            return -xp.matmul(first, slope[..., None])[..., 0], -a[..., None] * slope[:, None, :]

        a = np.stack([stream.standard_normal(size) for stream in streams])
        a *= np.sqrt(length) / np.linalg.norm(a, axis=1, keepdims=True)
        first = a[..., None] * start / length
        chain = Rows(backend, _eighth_order(velocity), (backend.asarray(a), backend.asarray(first)))
        thetas, nothing = [], backend.zeros((len(streams), 1))
        for steps in _steps(x, y, start, length, times):
            for block in range(0, len(steps), BLOCK):
                # A block of always as many steps: a recorded step reads them from one buffer.
                part = steps[block : block + BLOCK]
                padded = np.concatenate([part, np.zeros(BLOCK - len(part))])
                chain.load([xp.broadcast_to(nothing, (len(streams), BLOCK)) + 0.0], padded.tolist())
                for _ in part:
                    chain.advance()
            thetas.append(xp.matmul(chain.state[0][:, None, :], chain.state[1])[:, 0, :])
        theta = backend.to_numpy(xp.stack(thetas, axis=1)).astype(float)
        found = {
            "loss": 0.5 * np.sum((theta @ x.T - y) ** 2, axis=-1),
            "solution_gap": np.linalg.norm(theta - goal, axis=-1),
            "risk": ((theta - target) ** 2) @ spectrum,
        }
        return Sample({"time": times}, {name: (("time",), values) for name, values in found.items()})


def _eighth_order(velocity: Callable[..., tuple[Any, ...]]) -> Step:
    """Return the step of Dormand and Prince's method of order eight."""
    from scipy.integrate import DOP853

    def step(state: tuple[Any, ...], row: tuple[Any, ...], rate: Any) -> tuple[Any, ...]:
        slopes: list[tuple[Any, ...]] = [velocity(*state)]
        for stage in range(1, STAGES):
            slopes.append(velocity(*_moved(state, rate, DOP853.A[stage, :stage], slopes)))
        return _moved(state, rate, DOP853.B, slopes)

    return step


def _moved(state: tuple[Any, ...], rate: Any, weights: Any, slopes: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Return state + rate sum_k weights_k slopes_k."""
    moved = []
    for x, each in zip(state, zip(*slopes, strict=True), strict=True):
        total = sum(float(c) * k for c, k in zip(weights, each, strict=True) if c)
        moved.append(x + rate * total)
    return tuple(moved)


def _steps(x: Any, y: Any, start: Any, length: float, times: Any) -> list[Any]:
    """Return the steps up to every time, as an adaptive run of a single hidden unit chose them.

    Networks of any width follow one path of theta, so that its steps serve all: none has to look at its own error.
    """
    import numpy as np
    from scipy.integrate import solve_ivp

    def velocity(_: float, state: Any) -> Any:
        a, first = state[0], state[1:]
        slope = x.T @ (x @ (a * first) - y)
        return np.concatenate([[-first @ slope], -a * slope])

    state, now, found = np.concatenate([[np.sqrt(length)], start / np.sqrt(length)]), 0.0, []
    # The weights start at this size and grow from it: an absolute tolerance of O(1) would lose them.
    atol = 1e-13 * min(1.0, float(np.sqrt(length)))
    for time in times:
        if time == now:
            found.append(np.zeros(0))
            continue
        path = solve_ivp(velocity, (now, float(time)), state, method="DOP853", rtol=1e-11, atol=atol)
        state, now = path.y[:, -1], float(time)
        found.append(np.diff(path.t))
    return found


EXPERIMENT = TwoLayerLinearExperiment()
