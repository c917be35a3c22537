"""The experiment of the theory ``one-pass``: SGD at finite d, by the exact Gram chain or on weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dimladder.errors import SimulationError

from .base import Backend, Closing, Experiment, Sample

if TYPE_CHECKING:
    import numpy as np

    from .sgd import Dynamics

log = logging.getLogger("dimladder.simulate")


def dynamics(problem: Any, d: int) -> Dynamics:
    """Return student, target, start and algorithm of a one-pass problem, in the normalisation of `sgd`.

    Raises
    ------
    SimulationError
        For the regime ``noise-dominated``, which keeps terms of the equations that no finite-d algorithm isolates.
    """
    from dimladder.problem import Expression
    from dimladder.problem.geometry import start

    from .sgd import LOSSES, Dynamics
    from .two_layer import link_of

    algorithm, target, student, loss = problem.algorithm, problem.target, problem.student, problem.loss.form.name
    if loss not in LOSSES:
        raise SimulationError(
            f"no experiment trains on the loss {loss!r}", where="loss.function", why=f"known are {', '.join(LOSSES)}"
        )
    state = start(problem)
    link = link_of(problem, len(state.T))
    batch = algorithm.batch_size
    if algorithm.regime == "gradient-flow":
        # The drift alone: batches of sqrt d samples or more push the noise terms to order d^-1/2.
        batch = max(batch, math.isqrt(d - 1) + 1)
    elif algorithm.regime != "classical":
        raise SimulationError(
            f"no experiment realises the regime {algorithm.regime!r}",
            why="it keeps the diffusion of the equations and drops their drift",
            hint='simulate with algorithm.regime = "classical"',
        )
    rate, readout_rate = algorithm.learning_rate, algorithm.readout_learning_rate
    trained = student.train_readout
    return Dynamics(
        activation=student.expression, link=link, q=state.Q, m=state.M, t=state.T, v=state.a,
        eta=rate, eta_v=(rate if readout_rate is None else readout_rate) if trained else 0.0, noise=target.noise,
        batch=batch, loss=loss, spherical=algorithm.spherical, decay=algorithm.weight_decay,
        decay_v=algorithm.readout_weight_decay if trained else 0.0, displacement=algorithm.displacement,
        schedule=Expression(algorithm.schedule, ("t",)) if algorithm.schedule.strip() != "1" else None,
    )  # fmt: skip


class OnePassExperiment(Experiment):
    """One-pass SGD.

    ``[simulation] method = "gram"`` (the default) follows the overlaps by their exact law at a cost independent of d;
    ``"weights"`` moves explicit weights, compiled on the CPU or batched on a torch device. Several steps on each sample
    always move weights.
    """

    theory = "one-pass"
    size = "d"
    batch_size = 16
    device_batch_size = 1024

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        import numpy as np

        from dimladder.problem import axis_values

        from . import sgd
        from .reuse import reused_sgd

        if problem.algorithm.uses > 1 or problem.student.slope:
            return reused_sgd(problem, size, streams, backend)
        times = np.array(axis_values(problem.grid.time))
        what = dynamics(problem, size)
        sgd.check_dimension(what, size)
        method = problem.simulation.method or "gram"
        if method == "gram" and backend.is_numpy:
            # K + M numbers a step: double precision costs nothing, whatever the dtype asked for.
            runs = sgd.gram_chain(what, times, size, streams, threads=_threads())
        elif backend.is_numpy and backend.dtype == "float64":
            runs = sgd.weight_sgd(what, times, size, streams, threads=_threads())
        else:
            if method == "gram":
                _say_weights_are_moved(problem.content_hash)
            runs = sgd.weight_sgd_array(what, times, size, streams, backend)
        return sgd.sample(what, times, runs, _threads())

    def closing(self, problem: Any) -> Closing:
        """Exactly imposed overlaps: van Kampen's expansion. Without the noise terms: their share, 1/batch."""
        if problem.algorithm.regime == "classical":
            return Closing(1.0, reason="van Kampen's expansion in 1/d of a chain from exactly imposed overlaps")
        if problem.algorithm.regime == "gradient-flow" and problem.algorithm.batch_size == 1:
            return Closing(0.5, reason="the noise terms that the theory drops are 1/batch, with batches of sqrt d")
        return Closing()

    def open_limit(self, problem: Any) -> str:
        if problem.algorithm.regime == "gradient-flow" and problem.algorithm.batch_size > 1:
            return (
                f"batches stay at algorithm.batch_size = {problem.algorithm.batch_size} until sqrt d exceeds it, and "
                "with them the noise terms that gradient-flow drops"
            )
        return ""

    def imposed(self, problem: Any) -> Mapping[str, Mapping[str, float]]:
        start = {"time": 0.0}
        return {"Q": start, "M": start, "a": start if problem.student.train_readout else {}}


@lru_cache(maxsize=16)
def _say_weights_are_moved(content_hash: str) -> None:
    """Once a problem, not once a batch."""
    log.warning("the Gram chain does not run on torch: explicit weights are moved, at a cost that grows with d")


def _threads() -> int:
    """One replica a thread, as many as numba may use (NUMBA_NUM_THREADS)."""
    from numba import get_num_threads

    return int(get_num_threads())


EXPERIMENT = OnePassExperiment()
