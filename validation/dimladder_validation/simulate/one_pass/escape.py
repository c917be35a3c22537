"""Escape times of one-pass SGD: when the largest |cosine| of a student with a teacher first reaches a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dimladder.errors import SimulationError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class EscapeTimes:
    """First-passage times at one dimension.

    Attributes
    ----------
    d : int
    threshold : float
    times : array (R,)
        Steps / d at which each replica escaped; infinity for those that had not by `horizon`.
    horizon : float
    """

    d: int
    threshold: float
    times: np.ndarray
    horizon: float

    @property
    def escaped(self) -> float:
        """Fraction of replicas that escaped."""
        import numpy as np

        return float(np.isfinite(self.times).mean())

    def quantile(self, p: float = 0.5) -> tuple[float, float]:
        """Return the p-quantile and its standard error, from the binomial law of the order statistics.

        Replicas that did not escape count as later than the horizon: the quantile is exact as long as it is finite.
        """
        import numpy as np
        from scipy.stats import binom

        ordered, count = np.sort(self.times), len(self.times)
        value = float(ordered[min(int(p * count), count - 1)])
        low, high = binom.ppf([0.1587, 0.8413], count, p).astype(int)
        return value, float(0.5 * (ordered[min(high, count - 1)] - ordered[max(low - 1, 0)]))

    def mean(self) -> tuple[float, float]:
        """Return the mean and its standard error.

        Raises
        ------
        SimulationError
            If a replica had not escaped: the mean is not known then (use `quantile`).
        """
        import numpy as np

        if self.escaped < 1.0:
            raise SimulationError(
                f"{100 * (1 - self.escaped):.3g} % of the replicas had not escaped by t = {self.horizon:g}",
                hint="use quantile(), or a later horizon",
            )
        return float(self.times.mean()), float(self.times.std(ddof=1) / np.sqrt(len(self.times)))


def escape_times(
    problem: Any, d: int, threshold: float = 0.5, horizon: float = 1e4, replicas: int = 64, seed: int = 0
) -> EscapeTimes:
    """Run the Gram chain of a one-pass problem until escape, to the step.

    Parameters
    ----------
    problem : Problem
        Its initial overlaps are imposed; M of order d^-1/2 makes a mediocre start.
    d : int
    threshold : float
        In (0, 1]: on max_{i,m} |w_i . w*_m| / (|w_i| |w*_m|).
    horizon : float
        Time (steps / d) at which a replica is given up.
    replicas, seed : int
    """
    import numpy as np

    from ..streams import stream_hash, streams
    from . import gram_kernel
    from .experiment import finite
    from .frames import frame_of
    from .sgd import at_finite_d, kernel_arguments, written_rows

    if not 0 < threshold <= 1:
        raise SimulationError(f"the threshold on a cosine must lie in (0, 1], got {threshold}")
    what = at_finite_d(finite(problem))
    if not what.M:
        raise SimulationError("there is no teacher to escape to", where="target.kind", why="labels are by cluster")
    start = frame_of(what, d)
    shape = (1, len(what.shares), written_rows(what), what.n)
    record = np.array([round(horizon * d)])
    times = np.full(replicas, np.inf)
    for replica, stream in enumerate(streams(seed, stream_hash(problem), "escape", d, 0, replicas)):
        inputs, noise, sources, *others = stream.spawn(7)
        status, step = gram_kernel.one_pass_sgd(
            inputs, noise, sources, *others, start.fixed.copy(), start.moving.copy(), start.columns, start.ranks,
            start.outside, what.a.copy(), what.bias.ravel().copy(),
            *kernel_arguments(what, start, d, int(record[0])), threshold, record,
            np.empty(shape), np.empty((1, *what.a.shape)), np.empty((1, what.moving)),
        )  # fmt: skip
        if status == gram_kernel.BLEW_UP:
            raise SimulationError(f"replica {replica} blew up at t = {step / d:.4g}", hint="lower the learning rate")
        if status == gram_kernel.ESCAPED:
            times[replica] = step / d
    return EscapeTimes(d, threshold, times, horizon)
