"""One linear graph convolution on the contextual stochastic block model, trained by ridge regression on part of the
nodes.

N nodes with labels y = +-1 in equal number, adjacency ``A = (lambda/N) y y^T + Xi`` (after centring and scaling;
entries of Xi of variance 1/N), features ``X = sqrt(mu/N) y u^T + Z/sqrt F`` with |u| = 1 and F = N/gamma columns. The
network is ``h = (A + c) X w``; a fraction tau of the nodes trains w by ``(1/(tau N)) sum (h_i - y_i)^2 + (r/N)
|w|^2``: the run file's ``sum (h_i - y_i)^2/2 + (ridge/2) |w|^2`` with ``r = ridge/tau``, or ``r = gamma
ridge_per_sample``. As N -> infinity the risks are those at the stationary point of a free energy of nine scalars,
closed for c = 0. Source: Shi, Pan, Hu & Dokmanic, arXiv:2212.13069; free energy derived in
docs/theory/graph-convolution.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from ...problem import Problem
from ...problem.grids import Simulation
from ..base import Reads, Refusal, Theory

if TYPE_CHECKING:
    from .system import RidgeOnGraph


class GraphConvolutionTheory(Theory):
    """Homophily and double descent."""

    name = "graph-convolution"
    title = "One graph convolution on the contextual stochastic block model"
    summary = (
        "Ridge regression on convolved node features: risks and accuracy against the labelled fraction, with "
        "double descent at gamma tau = 1."
    )
    reads: ClassVar[Reads] = {
        "data": {"block-model": "gamma mu homophily"},
        "student": {"graph-convolution": "self_loop"},
        "loss": "function ridge ridge_per_sample",
        "algorithm": {"minimise": ""},
    }
    coordinates: ClassVar = {"train_fraction": (r"labelled fraction $\tau$", "")}
    axes = ("train_fraction",)
    simulation = Simulation(sizes=(400, 800, 1600), replicas=8)
    references = ("shi2024homophily",)
    assumptions = (
        "N, F -> infinity at gamma = N/F; labels in equal number; dense graph, so that the adjacency noise is Gaussian",
        "the adjacency is not symmetric in the Gaussian model; the published work finds the symmetric one alike",
        "squared loss, one linear layer",
    )
    limits = (
        "gamma tau = 1 without ridge: the risk diverges",
        "mu = 0: only the graph tells the classes apart",
        "self_loop = 0: the sign of the homophily does not matter",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse another loss, an optimal ridge, and a fraction that leaves nothing to train on or to test on."""
        if problem.loss.function != "square":
            yield Refusal("loss.function", f"the squared loss, got {problem.loss.function!r}")
        for key in ("ridge", "ridge_per_sample"):
            if isinstance(getattr(problem.loss, key), str):
                yield Refusal(f"loss.{key}", f"a number, got {getattr(problem.loss, key)!r}")
        if any(not v < 1 for v in problem.grid.values("train_fraction")):
            yield Refusal("grid.train_fraction", "numbers between 0 and 1, both excluded")

    def derive(self, problem: Problem) -> RidgeOnGraph:
        """Return the stationarity conditions."""
        from .system import RidgeOnGraph

        return RidgeOnGraph(problem)


THEORY = GraphConvolutionTheory()
