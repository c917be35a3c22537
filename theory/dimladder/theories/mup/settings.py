"""Settings of the prediction of infinitely wide networks."""

from __future__ import annotations

from typing import Literal

from ...problem import Spec
from ...problem.checks import at_least


class MupSolver(Spec, frozen=True, kw_only=True):
    """Settings of the prediction.

    Attributes
    ----------
    method : str
        ``particles`` (any network), ``responses`` (the response form: A and B, with phi''), ``closed-form`` (linear
        activation), ``quadrature`` (one hidden layer with few inputs, or few steps with one input), ``lazy-weights``
        (a network of finite `width` whose weights are revealed as they are used). ``auto``: closed form if linear,
        quadrature for one hidden layer on at most two independent inputs, else particles, or responses where the output
        asks for A and B.
    samples, scrambles, seed
        Single-site samples of each layer, and independent scrambles (or networks) for the error bars.
    sampler : {"sobol", "monte-carlo"}
    approximation : {"none", "no-responses", "lazy"}
        Ablations. ``no-responses`` drops A and B, ``lazy`` freezes the kernels at initialisation. Both are wrong at
        O(1).
    node_spacing : float
        Spacing of the trapezoid rule of ``quadrature`` with one hidden layer (half of it for a single independent
        input).
    width : int
        Width of the networks of ``lazy-weights``.
    response_samples : int
        Samples used for A and B; 0 is all.
    response_dtype : {"float64", "float32"}
    chunk_size : int
        Samples treated together in the adjoint sweep.
    memory_limit : float
        GiB; a march that would need more is refused.
    workers : int
        Scrambles computed at the same time, in threads. Does not change any number.
    checkpoint : str
        Folder of checkpoints in time; empty for none. An interrupted solve goes on from there, bit for bit.
    checkpoint_every : int
        Times between two checkpoints.
    output : {"summary", "space-time"}
        ``space-time`` adds every order parameter over all pairs of times; A and B where the method knows them.
    """

    method: Literal["auto", "particles", "responses", "closed-form", "quadrature", "lazy-weights"] = "auto"
    samples: int = 8192
    scrambles: int = 4
    seed: int = 0
    sampler: Literal["sobol", "monte-carlo"] = "sobol"
    approximation: Literal["none", "no-responses", "lazy"] = "none"
    node_spacing: float = 0.2
    width: int = 10_000
    response_samples: int = 0
    response_dtype: Literal["float64", "float32"] = "float64"
    chunk_size: int = 256
    memory_limit: float = 8.0
    workers: int = 1
    checkpoint: str = ""
    checkpoint_every: int = 10
    output: Literal["summary", "space-time"] = "summary"

    def __post_init__(self) -> None:
        for name in ("samples", "scrambles", "width", "chunk_size", "workers", "checkpoint_every"):
            at_least(1, **{name: getattr(self, name)})
        at_least(0, response_samples=self.response_samples, seed=self.seed)
        if not 0.02 <= self.node_spacing <= 1:
            raise ValueError(f"node_spacing must lie in [0.02, 1], got {self.node_spacing}")
        if not self.memory_limit > 0:
            raise ValueError(f"memory_limit must be positive, got {self.memory_limit}")
