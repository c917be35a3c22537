"""Spherical SGD that takes several steps on each sample, at finite d, all replicas at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .base import Backend, Closing, Experiment, Sample
from .sgd import recorded_steps

if TYPE_CHECKING:
    import numpy as np


class BatchReuseExperiment(Experiment):
    """Weights w on the unit sphere of R^d; w* is the first axis, which isotropic inputs allow."""

    theory = "batch-reuse"
    size = "d"
    least_size = 2
    batch_size = 16
    device_batch_size = 1024

    def closing(self, problem: Any) -> Closing:
        return Closing(1.0, reason="van Kampen's expansion in 1/d of a chain from an exactly imposed overlap")

    def imposed(self, problem: Any) -> Mapping[str, Mapping[str, float]]:
        return {"overlap": {"time": 0.0}}

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        import math

        import numpy as np

        from dimladder.problem import axis_values

        xp, d = backend.xp, size
        times = np.array(axis_values(problem.grid.time))
        record, low, high, weight = recorded_steps(times, d)
        eta, uses, noise = problem.algorithm.learning_rate, problem.algorithm.uses, problem.target.noise
        slope, link, m = problem.student.slope, problem.target.expression, problem.initial.overlap
        # The start has exactly the theory's overlap.
        children = [stream.spawn(3) for stream in streams]
        w = backend.to_numpy(backend.normal([c[0] for c in children], (d,))).astype(np.float64)
        w[:, 0] = 0.0
        w *= math.sqrt(1 - m * m) / np.linalg.norm(w, axis=1, keepdims=True)
        w[:, 0] = m
        w = backend.asarray(w)
        block = max(1, 125_000 // d)  # whatever the number of replicas: on a device it changes the draws
        found, place = [], 0
        x = xi = None
        for step in range(int(record[-1]) + 1):
            if step == record[place]:
                found.append(backend.to_numpy(w[:, 0]).astype(np.float64).copy())
                place += 1
                if place == len(record):
                    break
            at = step % block
            if at == 0:
                x = backend.normal([c[1] for c in children], (block, d))
                xi = backend.normal([c[2] for c in children], (block,)) if noise > 0 else None
            assert x is not None
            sample = x[:, at, :]
            y = link.evaluate(xp, z=sample[:, 0])
            if xi is not None:
                y = y + noise * xi[:, at]
            for _ in range(uses):
                field = xp.sum(w * sample, axis=-1)
                w = w + ((eta / d) * y * slope.evaluate(xp, x=field))[:, None] * sample
            w = w / xp.sqrt(xp.sum(w * w, axis=-1, keepdims=True))
        values = np.stack(found, axis=1)
        overlap = values[:, low] + weight * (values[:, high] - values[:, low])
        return Sample({"time": times}, {"overlap": (("time",), overlap)})


EXPERIMENT = BatchReuseExperiment()
