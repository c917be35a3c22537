"""Ridge regression on two-scale features in d dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .base import Backend, Closing, Experiment, Sample

if TYPE_CHECKING:
    import numpy as np


class MultiscaleRidgeExperiment(Experiment):
    """Draws data sets of d = size features, with samples and fast features in proportion, and solves them at every
    ridge.
    """

    theory = "multiscale-ridge"
    on_host = "one singular value decomposition a data set"
    size = "d"
    batch_size = 40

    def closing(self, problem: Any) -> Closing:
        return Closing(1.0, reason="resolvents of Gaussian matrices have an expansion in 1/d")

    def at_size(self, problem: Any, size: int) -> Any:
        """The numbers of samples and of fast features that `size` rounds to."""
        from dimladder.solve import replace

        data = problem.data
        samples = max(1, round(data.samples * size / data.dimension))
        fast = min(max(1, round(float(data.spectrum.blocks()[1][0]) * size)), size - 1)
        shares = {"data.spectrum.fractions": [fast / size, 1.0 - fast / size]}
        return replace(problem, {"data.samples": samples, "data.dimension": size, **shares})

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        """Solve one data set a stream by the singular values of X; the CPU does it, whatever the backend."""
        import numpy as np

        data = self.at_size(problem, size).data
        times = np.array(problem.grid.values("time_ridge"))
        scales = np.sqrt(data.spectrum.eigenvalues(size))
        error, overlap, norm = (np.empty((len(streams), len(times))) for _ in range(3))
        for replica, stream in enumerate(streams):
            z = stream.standard_normal((data.samples, size)) / math.sqrt(size)
            w = stream.standard_normal(size)
            # The teacher's length is fixed at its mean: it only multiplies the error.
            w *= math.sqrt(size) / np.linalg.norm(w)
            y = z @ w + problem.target.noise * stream.standard_normal(data.samples)
            u, s, vt = np.linalg.svd(z * scales, full_matrices=False)
            for column, time in enumerate(times):
                student = scales * (vt.T @ (s / (s**2 + 1 / time) * (u.T @ y)))
                overlap[replica, column] = w @ student / size
                norm[replica, column] = student @ student / size
                error[replica, column] = np.sum((student - w) ** 2) / (2 * size)
        names = {"generalization_error": error, "overlap": overlap, "norm": norm}
        return Sample({"time_ridge": times}, {k: (("time_ridge",), v) for k, v in names.items()})


EXPERIMENT = MultiscaleRidgeExperiment()
