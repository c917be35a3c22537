"""What an integration returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["STATUS", "DenseOutput", "EventRecord", "OdeBatch", "OdeResult", "Switch"]

# The driver's answers, in the order of `layout`.
STATUS = (
    "running",
    "success",
    "event",
    "converged",
    "max_steps",
    "step_underflow",
    "nan",
    "left_domain",
    "blow_up",
)


class EventRecord(NamedTuple):
    """An event that occurred: its position in the list of events, its time and the state there."""

    event: int
    t: float
    y: NDArray[np.float64]


class Switch(NamedTuple):
    """A change of method under ``method="auto"``.

    ``ratio`` is the step times the dominant eigenvalue over the real stability interval of the explicit method: near 1
    the explicit method is limited by stability and not by accuracy.
    """

    t: float
    method: str
    ratio: float


class DenseOutput:
    """The solution as a function of time, over the interval that was integrated.

    Piecewise polynomial, of the order of the interpolant of each method (Tsit5, DP5, Rodas5P: 4; DOP853: 7; BDF: that
    of the step). The polynomials meet the computed states at both ends of each step exactly.
    """

    def __init__(
        self, segments: NDArray[np.float64], rows: NDArray[np.float64], t_end: float, y_end: NDArray[np.float64]
    ) -> None:
        self._starts, self._steps, self._states = segments[:, 0], segments[:, 1], segments[:, 2:]
        self._rows = rows
        self._y_end = y_end
        self.t_min, self.t_max = (t_end, t_end)
        if len(segments):
            self.t_min, self.t_max = sorted((float(self._starts[0]), t_end))
        self._sign = -1.0 if len(segments) and self._steps[0] < 0 else 1.0

    @classmethod
    def joined(cls, parts: Sequence[DenseOutput], begin: float) -> DenseOutput:
        """Return one function of time, from `begin` on, for parts that follow each other forwards in time."""
        rows = max(p._rows.shape[1] for p in parts)
        padded = [np.pad(p._rows, ((0, 0), (0, rows - p._rows.shape[1]), (0, 0))) for p in parts]
        segments = [np.column_stack([p._starts, p._steps, p._states]) for p in parts]
        whole = cls(np.concatenate(segments), np.concatenate(padded), parts[-1].t_max, parts[-1]._y_end)
        whole.t_min = min(whole.t_min, begin)
        return whole

    @property
    def knots(self) -> NDArray[np.float64]:
        """Beginnings of the steps, in the order they were taken."""
        return self._starts

    @property
    def lengths(self) -> NDArray[np.float64]:
        """Lengths of the steps."""
        return self._steps

    def __call__(self, t: ArrayLike) -> NDArray[np.float64]:
        """Return the state at the times `t`, with shape ``t.shape + (n,)``.

        Raises
        ------
        ValueError
            For a time outside ``[t_min, t_max]``: the solution is not extrapolated.
        """
        times = np.asarray(t, dtype=float)
        flat = np.atleast_1d(times).ravel()
        outside = ~((flat >= self.t_min) & (flat <= self.t_max))
        if outside.any():
            raise ValueError(
                f"time {flat[outside][0]!r} lies outside the integrated interval [{self.t_min!r}, {self.t_max!r}]"
            )
        if not len(self._starts):
            return np.broadcast_to(self._y_end, (*times.shape, self._y_end.size)).copy()
        index = np.maximum(np.searchsorted(self._sign * self._starts, self._sign * flat, side="right") - 1, 0)
        theta = (flat - self._starts[index]) / self._steps[index]
        # Nested evaluation, from the inside outwards: it keeps the ends exact.
        rows = self._rows[index]
        acc = np.zeros_like(self._states[index])
        for r in range(rows.shape[1] - 1, 0, -1):
            acc = (rows[:, r] + acc) * ((1.0 - theta) if r % 2 == 1 else theta)[:, None]
        out = self._states[index] + theta[:, None] * (rows[:, 0] + acc)
        return out.reshape(*times.shape, self._states.shape[1])


@dataclass(frozen=True)
class OdeResult:
    """Solution of one initial value problem.

    Attributes
    ----------
    t, y : arrays of shape (m,) and (m, n)
        The requested times that were reached, and the states there.
    status : str
        ``"success"``; ``"event"`` (a terminal event); ``"converged"`` (the derivative fell below the threshold asked
        for); or a failure: ``"max_steps"``, ``"step_underflow"``, ``"nan"``, ``"left_domain"``, ``"blow_up"``.
    message : str
        In words, with the time and the component by name.
    stats : dict
        ``n_rhs`` (all evaluations of the right-hand side, those for Jacobians included), ``n_steps``, ``n_rejected``,
        ``n_jac``, ``n_lu``, ``method``, ``reason`` (why this method), ``switches``; after a failure ``t_failed`` and,
        where it is known, ``component``.
    events : tuple of `EventRecord`
        In the order of time.
    dense : `DenseOutput` or None
        The solution as a function of time, if asked for.
    t_final, y_final : float and array of shape (n,)
        Where the integration ended.
    """

    t: NDArray[np.float64]
    y: NDArray[np.float64]
    status: str
    message: str
    stats: dict[str, Any]
    t_final: float
    y_final: NDArray[np.float64]
    events: tuple[EventRecord, ...] = ()
    dense: DenseOutput | None = field(default=None, repr=False)

    @property
    def success(self) -> bool:
        """Whether the integration ended as it was asked to, without a failure."""
        return self.status in ("success", "event", "converged")


@dataclass(frozen=True)
class OdeBatch:
    """Solutions of many initial value problems, with a leading batch axis of length B.

    ``y`` has shape (B, m, n), NaN where a trajectory did not arrive; ``status`` and ``message`` are tuples of length B;
    ``stats`` holds arrays of length B (and the method by name); ``events`` is a tuple of tuples. `failed` lists the
    trajectories that did not end as asked: none is dropped.
    """

    t: NDArray[np.float64]
    y: NDArray[np.float64]
    status: tuple[str, ...]
    message: tuple[str, ...]
    stats: dict[str, Any]
    t_final: NDArray[np.float64]
    y_final: NDArray[np.float64]
    events: tuple[tuple[EventRecord, ...], ...] = ()

    @property
    def failed(self) -> tuple[int, ...]:
        """Positions of the trajectories that ended in a failure."""
        return tuple(i for i, s in enumerate(self.status) if s not in ("success", "event", "converged"))

    @property
    def success(self) -> bool:
        """Whether every trajectory ended as asked."""
        return not self.failed
