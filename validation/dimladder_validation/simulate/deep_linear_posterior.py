"""Gibbs sampling of deep linear networks at finite width, layer by layer.

Given all other layers the output is linear in one weight matrix, so its conditional law is Gaussian and is drawn
exactly: a prior draw, corrected by the data (Matheron's rule). At zero temperature the labels are met exactly at
every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dimladder.errors import SimulationError
from dimladder.problem.data import KernelLaw
from dimladder.problem.regression import linear_teacher_data

from .base import Backend, Closing, Experiment, Sample

if TYPE_CHECKING:
    import numpy as np


class DeepLinearPosteriorExperiment(Experiment):
    """Measures ``kernel_scale`` = average of ``|a^T W_L ... W_2|^2 N^{-L}`` over the posterior, of networks of width
    N = size.
    """

    theory = "deep-linear-posterior"
    on_host = "layers are drawn one after the other from their conditional laws"
    size = "width"

    def closing(self, problem: Any) -> Closing:
        return Closing(1.0, reason="Laplace's method for the kernel scale: an expansion in 1/N at fixed P/N")

    def at_size(self, problem: Any, size: int) -> Any:
        """Data with a width of their own are compared at the simulated width; a kernel law at the alpha that P/N
        rounds to.
        """
        from dimladder.solve import replace

        if isinstance(problem.data, KernelLaw):
            return replace(problem, {"data.alpha": _examples(problem, size) / size})
        return replace(problem, {"student.width": size})

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        """Sample one chain a replica and a depth; on the CPU in float64, whatever the backend."""
        import numpy as np

        s2, temperature = problem.student.weight_variance, problem.algorithm.temperature
        if isinstance(problem.data, KernelLaw):
            count = _examples(problem, size)
            # Only alpha and r_0 matter: orthonormal inputs, and random labels of exactly that alignment, drawn below.
            inputs = np.eye(count)
        else:
            x, labels, _ = linear_teacher_data(problem)
            count = len(labels)
            inputs = x / math.sqrt(problem.data.dimension)
        if temperature == 0 and count >= size:
            raise SimulationError(
                "the zero-temperature sampler cannot move with as many examples as hidden units",
                where=f"width {size}, {count} examples", hint="use a positive temperature or alpha < 1",
            )  # fmt: skip
        out = []
        for stream in streams:
            if isinstance(problem.data, KernelLaw):
                labels = stream.standard_normal(count)
                labels *= math.sqrt(s2 * count * problem.data.label_alignment) / np.linalg.norm(labels)
            out.append(
                [
                    _chain(depth, size, inputs, labels, s2, temperature, problem.simulation.sweeps, stream)
                    for depth in problem.grid.depth
                ]
            )
        return Sample({"depth": np.array(problem.grid.depth)}, {"kernel_scale": (("depth",), np.array(out))})


def _examples(problem: Any, width: int) -> int:
    return max(1, round(problem.data.alpha * width))


def _chain(
    depth: int,
    width: int,
    inputs: Any,
    labels: Any,
    s2: float,
    temperature: float,
    sweeps: int,
    rng: np.random.Generator,
) -> float:
    """Average of |a^T W_L...W_2|^2 N^{-L} over one chain; weights carry their 1/sqrt(fan-in)."""
    import numpy as np

    sizes = [inputs.shape[0], *[width] * depth, 1]
    # The first layer's 1/sqrt(N_0) is in the inputs.
    variances = [s2, *[s2 / width] * depth]
    layers = [math.sqrt(v) * rng.standard_normal((m, n)) for v, n, m in zip(variances, sizes, sizes[1:], strict=False)]
    total, kept = 0.0, 0
    for sweep in range(2 * sweeps):
        # Going up, the layers above are still those of the last sweep.
        aboves = _products(layers)
        below = inputs
        for l in range(depth + 1):
            layers[l] = _redraw(aboves[l], below, labels, variances[l], temperature, layers[l].shape, rng)
            below = layers[l] @ below
        if sweep >= sweeps:
            total += float(np.sum(_products(layers)[0] ** 2))
            kept += 1
    return total / kept


def _products(layers: list[Any]) -> list[Any]:
    """a^T W_L ... W_{l+1} for every layer l, as vectors."""
    import numpy as np

    out = [np.ones(1)]
    for w in reversed(layers[1:]):
        out.append(out[-1] @ w)
    return out[::-1]


def _redraw(
    above: Any,
    below: Any,
    labels: Any,
    variance: float,
    temperature: float,
    shape: tuple[int, ...],
    rng: np.random.Generator,
) -> Any:
    """Draw W from its law given the other layers: f = above^T W below, prior N(0, variance)."""
    import numpy as np

    prior = math.sqrt(variance) * rng.standard_normal(shape)
    gap = labels - above @ prior @ below
    if temperature > 0:
        gap = gap - math.sqrt(temperature) * rng.standard_normal(len(labels))
    gain = variance * float(above @ above) * (below.T @ below)
    gain[np.diag_indices_from(gain)] += temperature
    return prior + variance * np.outer(above, below @ np.linalg.solve(gain, gap))


EXPERIMENT = DeepLinearPosteriorExperiment()
