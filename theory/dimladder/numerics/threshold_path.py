"""Exact solution of the threshold flow for finitely many points.

Between two order statistics the flow ``t' = (1/N) sum_{z_i <= t} (eta_i - t)`` is linear, with rate nu = n/N and
fixed point the mean target of the n truncated points, so that ``t(s) = t* - (t* - t_0) exp(-nu s)`` up to the next
event.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .basics import OPTIONS
from .native import njit

Array = npt.NDArray[np.float64]


@njit(**OPTIONS)
def _below(z, t):  # type: ignore[no-untyped-def]
    """Return how many of the sorted z are at most t: truncated there, relu'(0) = 0."""
    low, high = 0, z.size
    while low < high:
        middle = (low + high) // 2
        if z[middle] <= t:
            low = middle + 1
        else:
            high = middle
    return low


@njit("i8(f8[::1], f8[::1], f8, f8[::1], f8[::1])", **OPTIONS)
def _march(z, partial, start, times, out):  # type: ignore[no-untyped-def]
    # z sorted; partial[n] = sum of the targets of the n smallest. Returns the number of events.
    total = z.size
    t, now, k, events = start, 0.0, 0, 0
    n = _below(z, t)
    while k < times.size:
        below = n
        while below > 0 and z[below - 1] == t:
            below -= 1
        if n > 0 and partial[n] - n * t > 0.0:
            upward = True
        elif below > 0 and partial[below] - below * t < 0.0:
            upward = False
            n = below
        else:  # at rest: nothing truncated, a minimum, or a kink between two opposed velocities
            while k < times.size:
                out[k] = t
                k += 1
            break
        rate = n / total
        goal = partial[n] / n
        if upward:
            barrier = z[n] if n < total else math.inf
            reaches = barrier < goal
        else:
            barrier = z[n - 1]
            reaches = barrier > goal
        # Time to the barrier; log1p keeps a short hop accurate.
        hop = -math.log1p((barrier - t) / (t - goal)) / rate if reaches else math.inf
        while k < times.size and times[k] <= now + hop:
            out[k] = t - (goal - t) * math.expm1(-rate * (times[k] - now))
            k += 1
        if not reaches:
            # The goal is approached for ever; every remaining time has been answered above.
            break
        now += hop
        t = barrier
        events += 1
        if upward:
            while n < total and z[n] == t:
                n += 1
        else:
            # Coming from above, the points at t are still truncated; the test at the top decides whether to go on.
            n = _below(z, t)
    return events


def threshold_path(values: Array, targets: Array, start: float, times: Array) -> Array:
    """Threshold at each of `times` (increasing, from 0), exactly.

    Parameters
    ----------
    values, targets : (N,) arrays
        Coordinate and target of each point.
    start : float
        Threshold at time 0.
    times : (T,) array
        In units where the whole data set, truncated, relaxes at rate 1.
    """
    order = np.argsort(values, kind="stable")
    z = np.ascontiguousarray(values[order], dtype=float)
    partial = np.concatenate([[0.0], np.cumsum(targets[order])])
    out = np.empty(len(times))
    _march.compiled(z, partial, float(start), np.ascontiguousarray(times, dtype=float), out)
    return out


def fraction_and_cost(values: Array, targets: Array, thresholds: Array) -> tuple[Array, Array]:
    """Fraction of points with z <= t, and E[(max(z, t) - eta)^2]/2 over the points, at each threshold."""
    fraction = np.array([np.mean(values <= t) for t in thresholds])
    cost = np.array([0.5 * np.mean((np.maximum(values, t) - targets) ** 2) for t in thresholds])
    return fraction, cost
