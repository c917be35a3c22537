"""The inner loop of experiments whose replicas take their steps together: one step a row of a block of random inputs.

On a CUDA device a step of a small network is a few dozen launches that take longer than the work. There it is recorded
once as a CUDA graph and replayed: inputs lie in fixed buffers, and the row is counted on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from .base import Backend

log = logging.getLogger("dimladder.simulate")

# step(state, inputs of one row, rate) -> state
Step = Callable[[tuple[Any, ...], tuple[Any, ...], Any], tuple[Any, ...]]


class Rows:
    """A state that one step after the other moves on, each with the next row of the inputs.

    Parameters
    ----------
    backend : Backend
    step : callable
        ``step(state, inputs, rate)`` returns the next state: a function of its arguments in the array namespace, that
        looks at no value on the host. ``rate`` is a number, or an array of one element.
    state : tuple of arrays
        The replica axis first.
    """

    def __init__(self, backend: Backend, step: Step, state: Sequence[Any]) -> None:
        self.backend, self.step, self.state = backend, step, tuple(state)
        self._inputs: tuple[Any, ...] = ()
        self._rates: Any = ()
        self._row = 0
        self._replay: Callable[[], None] | None = None
        self._plain = not _captures(backend)

    def load(self, inputs: Sequence[Any], rates: Sequence[float]) -> None:
        """Take a block of inputs, arrays (replicas, rows, ...), and the rate of each row; the first row is next."""
        self._row = 0
        if self._plain:
            self._inputs, self._rates = tuple(inputs), rates
            return
        fresh = self.backend.asarray(list(rates))
        if self._replay is None:
            self._inputs, self._rates = tuple(inputs), fresh
            self._capture()
            return
        for buffer, values in zip((*self._inputs, self._rates), (*inputs, fresh), strict=True):
            buffer.copy_(values)
        self._counter.zero_()

    def advance(self) -> None:
        """Take one step with the next row."""
        if self._replay is not None:
            self._replay()
            return
        row = tuple(x[:, self._row, ...] for x in self._inputs)
        self.state = self.step(self.state, row, self._rates[self._row])
        self._row += 1

    def _capture(self) -> None:
        """Record one step; if that cannot be done, steps are launched one by one."""
        import torch

        self.state = tuple(x.clone() for x in self.state)
        self._counter = torch.zeros(1, dtype=torch.int64, device=self.backend.device)
        start = tuple(x.clone() for x in self.state)

        def once() -> None:
            row = tuple(x.index_select(1, self._counter)[:, 0, ...] for x in self._inputs)
            moved = self.step(self.state, row, self._rates.index_select(0, self._counter))
            for buffer, values in zip(self.state, moved, strict=True):
                buffer.copy_(values)
            self._counter.add_(1)

        def restart() -> None:
            for buffer, values in zip(self.state, start, strict=True):
                buffer.copy_(values)
            self._counter.zero_()

        try:
            self._replay = _recorded(once, restart, self.backend.device)
        except RuntimeError as error:
            log.warning("a step cannot be recorded as a CUDA graph, and is launched: %s", str(error).splitlines()[0])
            self._plain = True
        restart()


def _recorded(once: Callable[[], None], restart: Callable[[], None], device: str) -> Callable[[], None]:
    """Return the replay of a recorded call; `restart` undoes what calls before the recording did."""
    import torch

    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):  # libraries choose their algorithms outside the recording
                once()
                restart()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            once()
    replay: Callable[[], None] = graph.replay
    return replay


def _captures(backend: Backend) -> bool:
    """Whether steps can be recorded: a CUDA device that is there."""
    if not (backend.is_torch and backend.device.startswith("cuda") and backend.graphs):
        return False
    import torch

    return bool(torch.cuda.is_available())
