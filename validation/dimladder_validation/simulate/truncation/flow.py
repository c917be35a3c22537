"""N points truncated by gradient flow of one threshold, exactly: how fast the population flow is approached.

The flow of finitely many points is piecewise linear and solved without time steps, so what is left is sampling:
deviations of order N^-1/2 a replica, and a bias of the mean of order 1/N. The truncated fraction and the cost are
measured on fresh points: late in the flow they live in a tail that N training points may not reach at all, so the
fresh points are stratified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base import Backend, Closing, Experiment, Sample

if TYPE_CHECKING:
    import numpy as np


class TruncationFlowExperiment(Experiment):
    """Draws N points, follows their own threshold flow, and measures the theory's variables.

    ``truncated_fraction`` and ``cost`` are test values: means over fresh points, at the threshold learnt from the N
    points. A further variable ``sup_deviation`` is the largest distance of a replica's threshold from the
    population's over the time grid: it falls as N^-1/2.
    """

    theory = "truncation-flow"
    on_host = "one threshold a data set, from one point that it crosses to the next"
    size = "samples"
    test_strata = 2**15

    def closing(self, problem: Any) -> Closing:
        """Sampling biases a mean by 1/N, until the flow reaches the tail in which only a few of N points lie."""
        return Closing(slowest=0.5, reason="the empirical distribution of N points is N^-1/2 from the population's")

    def imposed(self, problem: Any) -> Mapping[str, Mapping[str, float]]:
        return {"threshold": {"time": 0.0}}

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        """Simulate ``len(streams)`` data sets of `size` points; the CPU does it, whatever the backend: events are
        sequential.
        """
        import numpy as np

        from dimladder.numerics.threshold_path import threshold_path
        from dimladder.problem.coordinates import draw, draw_stratified

        times = np.array(problem.grid.values("time"))
        fresh, goal, weight = draw_stratified(problem.data, np.random.default_rng(0), self.test_strata)
        population = _population_path(fresh, goal, weight, problem.initial.threshold, times)
        paths, fractions, costs = [], [], []
        for stream in streams:
            z, target = draw(problem.data, stream, size)
            path = threshold_path(z, target, problem.initial.threshold, times)
            paths.append(path)
            fresh, goal, weight = draw_stratified(problem.data, stream, self.test_strata)
            fractions.append([weight @ (fresh <= t) for t in path])
            costs.append([weight @ (np.maximum(fresh, t) - goal) ** 2 / 2 for t in path])
        return Sample(
            {"time": times},
            {
                "threshold": (("time",), np.array(paths)),
                "truncated_fraction": (("time",), np.array(fractions)),
                "cost": (("time",), np.array(costs)),
                "sup_deviation": ((), np.abs(np.array(paths) - population).max(axis=1)),
            },
        )


def _population_path(z: Any, goal: Any, weight: Any, start: float, times: Any) -> Any:
    """Integrate t' = E[1{z <= t} (goal - t)] for a cloud so dense that its sums are continuous functions of t."""
    import numpy as np
    from scipy.integrate import solve_ivp

    order = np.argsort(z)
    z, share, pull = z[order], np.cumsum(weight[order]), np.cumsum((weight * goal)[order])

    def velocity(_: float, t: Any) -> Any:
        return np.interp(t, z, pull, left=0.0) - t * np.interp(t, z, share, left=0.0)

    span = (0.0, max(float(times[-1]), 1e-300))
    return solve_ivp(velocity, span, [start], t_eval=times, rtol=1e-9, atol=1e-12).y[0]


EXPERIMENT = TruncationFlowExperiment()
