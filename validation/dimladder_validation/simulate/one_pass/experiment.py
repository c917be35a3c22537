"""The experiment of the theory ``one-pass``: SGD at finite d, by the exact Gram chain or on weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dimladder.errors import SimulationError

from ..base import Backend, Closing, Experiment, Sample

if TYPE_CHECKING:
    import numpy as np

    from dimladder.problem.update_table import Table

log = logging.getLogger("dimladder.simulate")


def finite(problem: Any) -> Table:
    """Return the table of a problem that a finite d can run.

    Raises
    ------
    SimulationError
        For the regime ``noise-dominated``, which keeps terms of the equations that no finite-d algorithm isolates.
    """
    from dimladder.problem.update_table import table

    if problem.algorithm.regime == "noise-dominated":
        raise SimulationError(
            "no experiment realises the regime 'noise-dominated'",
            why="it keeps the diffusion of the equations and drops their drift",
            hint='simulate with algorithm.regime = "classical"',
        )
    return table(problem)


class OnePassExperiment(Experiment):
    """One-pass SGD.

    ``[simulation] method = "gram"`` (the default) follows the overlaps by their exact law at a cost independent of d;
    ``"weights"`` moves explicit weights, compiled on the CPU or batched on a torch device.
    """

    theory = "one-pass"
    size = "d"
    batch_size = 16
    device_batch_size = 1024

    def numbers(self, problem: Any, size: int, backend: Backend) -> int:
        from .sgd_array import CHUNK_NUMBERS

        what = finite(problem)
        if (problem.simulation.method or "gram") == "gram" and backend.is_numpy and not what.hidden:
            return 0  # overlaps only
        if what.hidden:
            # F, test samples and a chunk of samples, on the host.
            from .manifold import CHUNK, TESTS

            return int(problem.data.latent_ratio * size * size + 2 * CHUNK + TESTS * size)
        # Inputs drawn ahead, in both precisions; every vector, its step and what it becomes.
        return 3 * CHUNK_NUMBERS + int(4 * (what.moving + what.M + what.D + what.batch) * size)

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        import numpy as np

        from dimladder.problem import axis_values

        from . import sgd
        from .frames import frame_of
        from .measured import sample
        from .sgd_array import weight_sgd_array

        times = np.array(axis_values(problem.grid.time))
        what = finite(problem)
        if what.hidden:
            from .manifold import manifold_sample

            return manifold_sample(problem, what, times, size, streams)
        frame_of(sgd.at_finite_d(what), size)  # refuses sizes that are too small, whatever the method
        method = problem.simulation.method or "gram"
        if method == "gram" and backend.is_numpy:
            # K + M numbers a step: double precision costs nothing, whatever the dtype asked for.
            runs = sgd.gram_chain(what, times, size, streams, threads=_threads())
        elif backend.is_numpy and backend.dtype == "float64":
            runs = sgd.weight_sgd(what, times, size, streams, threads=_threads())
        else:
            if method == "gram":
                _say_weights_are_moved(problem.content_hash)
            runs = weight_sgd_array(what, times, size, streams, backend)
        return sample(what, times, runs, _threads())

    def closing(self, problem: Any) -> Closing:
        """Exactly imposed overlaps: van Kampen's expansion. Without the noise terms: their share, 1/batch."""
        if problem.data.__struct_config__.tag == "hidden-manifold":
            return Closing()  # its equivalence to Gaussian inputs has no proved rate
        if problem.algorithm.regime == "classical":
            return Closing(1.0, reason="van Kampen's expansion in 1/d of a chain from exactly imposed overlaps")
        if problem.algorithm.regime == "gradient-flow" and _largest_batch(problem) == 1:
            return Closing(0.5, reason="the noise terms that the theory drops are 1/batch, with batches of sqrt d")
        return Closing()

    def open_limit(self, problem: Any) -> str:
        if problem.algorithm.regime == "gradient-flow" and (batch := _largest_batch(problem)) > 1:
            return (
                f"batches stay at algorithm.batch_size = {batch:g} until sqrt d exceeds it, and "
                "with them the noise terms that gradient-flow drops"
            )
        return ""

    def imposed(self, problem: Any) -> Mapping[str, Mapping[str, float]]:
        start = {"time": 0.0}
        names = ("Q", "M", "T", "Q_block", "M_block", "mean_overlap", "bias")
        # A readout that is not trained stays what it is.
        trained = getattr(problem.student, "train_readout", False)
        return {**dict.fromkeys(names, start), "a": start if trained else {}}


def _largest_batch(problem: Any) -> float:
    """Return the most samples that a step takes at any time of the grid."""
    import numpy as np

    from dimladder.problem import axis_values
    from dimladder.problem.update_table import table

    times = np.array(axis_values(problem.grid.time))
    return float(max(table(problem).along("batch", times).max(), table(problem).batch))


@lru_cache(maxsize=16)
def _say_weights_are_moved(content_hash: str) -> None:
    """Once a problem, not once a batch."""
    log.warning("the Gram chain does not run on torch: explicit weights are moved, at a cost that grows with d")


def _threads() -> int:
    """One replica a thread, as many as numba may use (NUMBA_NUM_THREADS)."""
    from numba import get_num_threads

    return int(get_num_threads())


EXPERIMENT = OnePassExperiment()
