"""One trajectory at a time: the arrays that compiled code works in, and the calls with their addresses looked up.

Setting up costs more than a short integration. A workspace is therefore kept after its integration, and found again by
what decides the numbers; while it is in use, nobody else has it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..native import Native
from . import driver, layout
from .functions import compiled
from .result import STATUS, DenseOutput, EventRecord, OdeResult, Switch
from .setup import Names, Settings, Setup

__all__ = ["Workspace", "lend", "records", "take_back"]

# Workspaces that are kept, and the largest of them in bytes.
MOST_KEPT, LARGEST_KEPT = 32, 1 << 21
_idle: OrderedDict[Any, list[Workspace]] = OrderedDict()
_lock = threading.Lock()


def _bound(function: Any, *arguments: Any) -> Callable[..., int]:
    """Return a compiled function with its first arguments, whose addresses are looked up once where they can be."""
    return function.bound(*arguments) if isinstance(function, Native) else partial(function, *arguments)


class Workspace:
    """What one integration writes into, and its compiled calls."""

    def __init__(self, setup: Setup, parameters: int, dense: bool = False) -> None:
        n, n_events, self.setup, self.dense = setup.n, len(setup.events), setup, dense
        work_size, ws_rows, rows = setup.sizes
        self.st, self.cnt = np.empty_like(setup.st), np.empty_like(setup.cnt)
        self.y, self.f, self.ynew, self.fnew = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
        self.p, self.work = np.empty(parameters), np.empty(work_size)
        self.ws, self.nested, self.pivots = np.empty((ws_rows, n)), np.empty((rows, n)), np.empty(n, np.int64)
        self.out = np.empty((len(setup.times), n))
        size = 256 if dense else 0
        self.segments, self.segment_rows = np.empty((size, n + 2)), np.empty((size, rows, n))
        self.found, self.switches = np.empty((4 * n_events + 4, n + 2)), np.empty((64, 3))
        self.event_state = np.empty((n_events, 3))
        self.start = _bound(
            driver.start.compiled, setup.address, self.st, self.cnt, self.y, self.f, self.fnew, self.ynew, setup.atol,
            self.p, self.work, setup.order,
        )  # fmt: skip
        self.advance = self._advance()

    @property
    def size(self) -> int:
        """Bytes of its large arrays."""
        return self.ws.nbytes + self.work.nbytes + self.out.nbytes + self.nested.nbytes

    def _advance(self) -> Callable[..., int]:
        s = self.setup
        return _bound(
            driver.advance.compiled, s.address, self.st, self.cnt, *s.tables, s.times, self.out, self.y, self.f,
            self.ynew, self.fnew, s.atol, self.p, self.work, self.ws, self.pivots, self.nested, self.segments,
            self.segment_rows, self.event_state, s.event_flags, self.found, self.switches,
        )  # fmt: skip

    def _enlarge(self) -> None:
        if self.dense and self.cnt[layout.N_SEGMENTS] == len(self.segments):
            self.segments = np.concatenate([self.segments, np.empty_like(self.segments)])
            self.segment_rows = np.concatenate([self.segment_rows, np.empty_like(self.segment_rows)])
        self.found = np.concatenate([self.found, np.empty_like(self.found)])
        self.advance = self._advance()

    def run(self, y0: NDArray[np.float64], p: NDArray[np.float64], names: Names) -> OdeResult:
        """Integrate from a state with parameters; the answer shares no memory with the workspace."""
        setup, st, cnt, y = self.setup, self.st, self.cnt, self.y
        st[:], cnt[:], y[:], self.p[:] = setup.st, setup.cnt, y0, p
        self.work.fill(0.0)
        self.nested.fill(0.0)
        if setup.key:
            self.work[-1] = setup.key
        self.out[: cnt[layout.I_OUT]] = y
        cnt[layout.STORE_DENSE] = int(self.dense)
        code = layout.DONE
        if st[layout.T_END] != st[layout.T]:
            code = self.start()
            setup.raise_interpreted()
            for i, event in enumerate(setup.events):
                event_state = compiled(event.function, layout.SCALAR, "the event")(st[layout.T], y, self.p)
                self.event_state[i, 0] = event_state
        # The compiled loop returns now and then, so that an interrupt from the keyboard is heard.
        budget = 256
        while code in (layout.RUNNING, layout.NEED_SPACE, layout.NEED_IMPLICIT):
            if code == layout.NEED_IMPLICIT:
                setup.load_implicit()
            elif code == layout.NEED_SPACE:
                self._enlarge()
            begin = time.perf_counter()
            code = self.advance(budget)
            setup.raise_interpreted()
            if time.perf_counter() - begin < 0.1:
                budget *= 4
        return self._result(code, names)

    def _result(self, code: int, names: Names) -> OdeResult:
        setup, st, cnt = self.setup, self.st, self.cnt
        y, reached, t_final = self.y.copy(), int(cnt[layout.I_OUT]), float(st[layout.T])
        stats = setup.stats(code, st, cnt, names)
        kept = self.switches[: min(stats["n_switches"], len(self.switches))]
        plan = setup.plan
        stats["switches"] = tuple(
            Switch(float(t), plan.implicit.name if to else plan.explicit.name, float(ratio)) for t, to, ratio in kept
        )
        if stats["switches"]:
            stats["reason"] += f"; it did at t = {stats['switches'][0].t:.6g}"
        curve = None
        if self.dense:
            used = slice(int(cnt[layout.N_SEGMENTS]))
            curve = DenseOutput(self.segments[used].copy(), self.segment_rows[used].copy(), t_final, y)
        return OdeResult(
            t=setup.times[:reached].copy(),
            y=self.out[:reached].copy(),
            status=STATUS[code],
            message=setup.message(code, st, cnt, y, names),
            stats=stats,
            t_final=t_final,
            y_final=y,
            events=records(self.found[: cnt[layout.N_FOUND]]) if setup.events else (),
            dense=curve,
        )


def lend(rhs: Any, n: int, parameters: int, t_eval: ArrayLike, settings: Settings) -> tuple[Any, Workspace]:
    """Return a workspace for this right-hand side, these lengths and settings, and the key to give it back under."""
    times = np.asarray(t_eval, dtype=np.float64)
    key = rhs, n, parameters, times.shape, times.tobytes(), *settings.key()
    with _lock:
        waiting = _idle.get(key)
        if waiting:
            return key, waiting.pop()
    return key, Workspace(Setup(rhs, n, times, settings), parameters)


def take_back(key: Any, workspace: Workspace) -> None:
    """Keep a workspace whose integration has ended, in place of those that have waited longest."""
    if workspace.size > LARGEST_KEPT:
        return
    with _lock:
        _idle.setdefault(key, []).append(workspace)
        _idle.move_to_end(key)
        while sum(map(len, _idle.values())) > MOST_KEPT:
            _, oldest = next(iter(_idle.items()))
            if oldest:
                oldest.pop()
            if not oldest:
                _idle.popitem(last=False)


def records(found: NDArray[np.float64]) -> tuple[EventRecord, ...]:
    """Return the events of the rows (time, number, state)."""
    return tuple(EventRecord(int(row[1]), float(row[0]), row[2:].copy()) for row in found)
