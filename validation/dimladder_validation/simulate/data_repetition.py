"""Displaced SGD of one unit at finite d: the exact chain of its overlaps, or explicit weights on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .base import Backend, Closing, Experiment, Sample

if TYPE_CHECKING:
    import numpy as np

    from .sgd import Dynamics


def dynamics(problem: Any) -> Dynamics:
    """Return student, target, start and algorithm in the normalisation of `sgd`."""
    import numpy as np

    from .sgd import Dynamics
    from .two_layer import Link

    algorithm, target, student = problem.algorithm, problem.target, problem.student
    return Dynamics(
        activation=student.expression,
        link=Link.formula(target.expression, 1),
        q=np.array(problem.initial.Q),
        m=np.array(problem.initial.M),
        t=np.eye(1),
        v=np.array([student.readout]),
        eta=algorithm.learning_rate,
        displacement=algorithm.displacement,
        noise=target.noise,
        loss=algorithm.loss,
    )


class DataRepetitionExperiment(Experiment):
    """On the CPU the Gram chain, whose cost does not depend on d; on an accelerator explicit weights."""

    theory = "data-repetition"
    size = "d"
    batch_size = 16
    device_batch_size = 1024

    def closing(self, problem: Any) -> Closing:
        return Closing(1.0, reason="van Kampen's expansion in 1/d of a chain from exactly imposed overlaps")

    def imposed(self, problem: Any) -> Mapping[str, Mapping[str, float]]:
        return {"Q": {"time": 0.0}, "M": {"time": 0.0}}

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        import numpy as np

        from dimladder.problem import axis_values

        from . import sgd

        times = np.array(axis_values(problem.grid.time))
        what = dynamics(problem)
        sgd.check_dimension(what, size)
        if backend.is_numpy:
            runs = sgd.gram_chain(what, times, size, streams)
        else:
            runs = sgd.weight_sgd_array(what, times, size, streams, backend)
        measured = sgd.sample(what, times, runs)
        # The readout does not move.
        return Sample(measured.coords, {k: v for k, v in measured.variables.items() if k != "a"})


EXPERIMENT = DataRepetitionExperiment()
