"""Integration over pieces of the time axis, where the right-hand side jumps or bends between them.

A step is never taken across the end of a piece: methods of high order assume smoothness, and a step that is adapted to
what it has seen may leap over what it has not. Each piece has its own longest step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .result import DenseOutput, OdeBatch, OdeResult

__all__ = ["integrate_batch_pieces", "integrate_pieces"]

Array = NDArray[np.float64]
Pieces = Sequence[tuple[float, float]]
COUNTS = ("n_rhs", "n_steps", "n_rejected", "n_jac", "n_lu", "n_switches")
EPS = 2.220446049250313e-16


@dataclass(frozen=True)
class _Stretch:
    """One piece: what is asked of it.

    Attributes
    ----------
    begin, longest : float
        Where it begins, and its longest step.
    already : int
        How many of the times asked for lie at its beginning.
    times : array
        Times to reach: `asked` ones, then the end of the piece where that is none of them.
    asked : int
    """

    begin: float
    longest: float
    already: int
    times: Array
    asked: int


def _stretches(pieces: Pieces, t0: float, t_eval: ArrayLike, max_step: float) -> Iterator[_Stretch]:
    """Cut the time axis; the ends are kept off the breakpoints, by more than the rounding of stages."""
    times = np.asarray(t_eval, dtype=np.float64)
    ends = np.array([end for end, _ in pieces])
    if (np.diff(ends) <= 0).any():
        raise ValueError("pieces must be in the order of time")
    if len(times) and (times[0] < t0 or (np.diff(times) < 0).any()):
        raise ValueError("an integration over pieces runs forwards in time")
    last = float(times[-1]) if len(times) else t0
    span = max(last - t0, EPS)

    def beside(t: float) -> float:
        return 16.0 * EPS * max(abs(t), 1e-3 * span)

    begin, done = t0, 0
    for number, (end, longest) in enumerate([*pieces, (np.inf, np.inf)]):
        if begin >= last and number:
            return
        if end <= t0 + 2.0 * beside(t0):
            continue
        final = end >= last - 2.0 * beside(last)
        inner_begin, inner_end = begin + beside(begin), last if final else end - beside(end)
        already = int(np.searchsorted(times[done:], inner_begin, side="right"))
        until = len(times) if final else int(np.searchsorted(times, inner_end, side="right"))
        inside = times[done + already : until]
        reach = inside if final and len(inside) else np.append(inside, inner_end)
        yield _Stretch(inner_begin, min(longest, max_step), already, reach, len(inside))
        begin, done = end, until
        if final:
            return


def integrate_pieces(
    integrate: Callable[..., OdeResult], rhs: Any, y0: ArrayLike, t_eval: ArrayLike, pieces: Pieces, **options: Any
) -> OdeResult:
    """Integrate piece after piece; arguments and answer are those of `integrate`."""
    y = np.asarray(y0, dtype=np.float64)
    t0, most = float(options.pop("t0")), int(options.pop("max_steps"))
    longest = float(options.pop("max_step"))
    results: list[OdeResult] = []
    rows: list[Array] = []
    spent = 0
    for stretch in _stretches(pieces, t0, t_eval, longest):
        rows += [y] * stretch.already
        if spent >= most:
            # As `integrate` says it: the steps are used up.
            return _joined(results, rows, t_eval, t0, status="max_steps")
        result = integrate(
            rhs, y, stretch.times, t0=stretch.begin, max_step=stretch.longest, max_steps=most - spent, **options
        )
        options["first_step"] = None
        results.append(result)
        spent += result.stats["n_steps"] + result.stats["n_rejected"]
        rows += list(result.y[: stretch.asked])
        if result.status != "success":
            break
        y = result.y_final
    return _joined(results, rows, t_eval, t0)


def _joined(
    results: list[OdeResult], rows: list[Array], t_eval: ArrayLike, t0: float, status: str | None = None
) -> OdeResult:
    last = results[-1]
    stats = dict(last.stats) | {name: sum(r.stats[name] for r in results) for name in COUNTS}
    stats["switches"] = tuple(s for r in results for s in r.stats["switches"])
    stats["pieces"] = len(results)
    message = last.message
    if status is None:
        status = last.status
        if status == "success":
            message = f"reached t = {last.t_final:.12g} in {stats['n_steps']} steps, {stats['n_rhs']} evaluations"
    else:
        message = f"max_steps attempted steps were used up at t = {last.t_final:.12g}"
        stats["t_failed"] = last.t_final
    return replace(
        last, t=np.asarray(t_eval, dtype=np.float64)[: len(rows)].copy(),
        y=np.array(rows).reshape(len(rows), last.y_final.size), status=status, message=message, stats=stats,
        events=tuple(e for r in results for e in r.events),
        dense=None if last.dense is None else DenseOutput.joined([r.dense for r in results if r.dense], t0),
    )  # fmt: skip


def integrate_batch_pieces(
    integrate_batch: Callable[..., OdeBatch], rhs: Any, y0: Array, t_eval: ArrayLike, p: Array, pieces: Pieces,
    **options: Any,
) -> OdeBatch:  # fmt: skip
    """Integrate a batch piece after piece; arguments and answer are those of `integrate_batch`."""
    size, n = y0.shape
    t0, most = float(options.pop("t0", 0.0)), int(options.pop("max_steps", 1_000_000))
    longest = float(options.pop("max_step", np.inf))
    times = np.asarray(t_eval, dtype=np.float64)
    out = np.full((size, len(times), n), np.nan)
    y, final_t = y0.copy(), np.full(size, t0)
    status, message = ["success"] * size, ["nothing to do"] * size
    counts = {name: np.zeros(size, np.int64) for name in COUNTS}
    events: list[list[Any]] = [[] for _ in range(size)]
    going = np.arange(size)
    row, stats = 0, {}
    for stretch in _stretches(pieces, t0, t_eval, longest):
        out[going, row : row + stretch.already] = y[going, None, :]
        row += stretch.already
        if not len(going):
            break
        spent = int((counts["n_steps"] + counts["n_rejected"])[going].max())
        part = integrate_batch(
            rhs, y[going], stretch.times, p=p[going], t0=stretch.begin, max_step=stretch.longest,
            max_steps=max(1, most - spent), **options,
        )  # fmt: skip
        options["first_step"] = None
        stats = part.stats
        out[going, row : row + stretch.asked] = part.y[:, : stretch.asked]
        row += stretch.asked
        y[going], final_t[going] = part.y_final, part.t_final
        for k, member in enumerate(going):
            status[member], message[member] = part.status[k], part.message[k]
            events[member] += part.events[k] if part.events else ()
            for name in COUNTS:
                counts[name][member] += part.stats[name][k]
        going = going[np.array([s == "success" for s in part.status])]
    return OdeBatch(
        t=times.copy(), y=out, status=tuple(status), message=tuple(message), stats=dict(stats) | counts,
        t_final=final_t, y_final=y, events=tuple(map(tuple, events)),
    )  # fmt: skip
