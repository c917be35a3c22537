"""Derivatives of a few numbers at the end in all at the beginning: the integration, or the iteration, read backwards.

The cotangent l of the state at the end of a step gives that at its beginning, and what the step adds to those of the
parameters: of a map x -> F(x, p) they are l F_x and l F_p; of a step of a Runge-Kutta method, the transposed stages, so
that the derivative is that of the computed solution, its steps kept (Hager 2000; Sandu 2006). One product l F_y, l F_p
costs a few evaluations of F, however many parameters there are (`native.tape`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import native
from .addresses import FromAddresses, addresses
from .native import Native, njit
from .native.tape import LANES, ROW
from .ode import integrate
from .ode.api import explicit_for
from .ode.common import OPTIONS
from .ode.explicit import combine
from .ode.functions import compiled
from .ode.layout import RHS, Vector, as_rhs
from .ode.tableaux import method

__all__ = ["Reverse", "Trajectory", "trajectory"]

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
TAPED = native.value_type("as_taped", "TAPED", "void(f8, f8[::1], f8[::1], f8[::1], f8[::1], f8[::1])")
as_taped = FromAddresses(TAPED)
EXPLICIT = ("tsit5", "dp5", "dop853")
# Rows of the first tape; it grows as the equations need.
ROWS = 4096
EPS = float(np.finfo(float).eps)
# How far from an end of a piece of the time axis, in roundings of the time, integrations stop.
BESIDE = 64.0


@njit("i8(i8, f8, f8[::1], f8[::1], f8[:, ::1], f8[:, ::1], f8[::1], f8[::1], f8[::1])", **OPTIONS)
def pull_back(
    address: int, t: float, y: Vector, p: Vector, seeds: Vector, out: Vector, numbers: Vector, tape: Vector,
    cotangents: Vector,
) -> int:  # fmt: skip
    """out[s] = seeds[s] (F_y, F_p) at (t, y, p); returns 0, or how many rows the tape must have, if it has fewer."""
    function = as_taped(address, address)
    n, k, m = y.size, p.size, seeds.shape[0]
    for i in range(numbers.size):
        numbers[i] = 0.0
    state, velocity = numbers[: 2 * n], numbers[2 * n : 4 * n]
    parameters, scratch = numbers[4 * n : 4 * n + 2 * k], numbers[4 * n + 2 * k :]
    for i in range(n):
        state[2 * i] = y[i]
        state[2 * i + 1] = i + 1.0
    for j in range(k):
        parameters[2 * j] = p[j]
        parameters[2 * j + 1] = n + j + 1.0
    tape[0] = n + k
    function(t, state, velocity, parameters, scratch, tape)
    used = int(tape[0])
    if (used + 1) * 4 > tape.size or (used + 1) * m > cotangents.size:
        return used + 1
    for i in range((used + 1) * m):
        cotangents[i] = 0.0
    for i in range(n):
        place = int(velocity[2 * i + 1]) * m
        for s in range(m):
            cotangents[place + s] += seeds[s, i]
    for row in range(used, n + k, -1):
        first, second = int(tape[4 * row]) * m, int(tape[4 * row + 2]) * m
        a, b = tape[4 * row + 1], tape[4 * row + 3]
        for s in range(m):
            c = cotangents[row * m + s]
            # A derivative may be infinite where nothing depends on it.
            if c != 0.0:
                cotangents[first + s] += a * c
                cotangents[second + s] += b * c
    for s in range(m):
        for i in range(n + k):
            out[s, i] = cotangents[(i + 1) * m + s]
    return 0


@njit("void(i8[::1], f8, f8, f8[::1], f8[::1], f8[:, ::1], i8, f8[:, ::1], f8[:, ::1], f8[::1])", **OPTIONS)
def forth(
    address: Vector, t: float, h: float, y: Vector, p: Vector, table: Vector, stages: int, k: Vector, points: Vector,
    work: Vector,
) -> None:  # fmt: skip
    """Fill the arguments of the stages of one step, their derivatives k, and the new state, the last row of points."""
    rhs = as_rhs(address[0], address[1])
    for j in range(stages):
        combine(table, j, k, j, h, y, points[j])
        rhs(t + table[stages + 1, j] * h, points[j], k[j], p, work)
    combine(table, stages, k, stages, h, y, points[stages])


@njit(
    "i8(i8, f8, f8, f8[::1], f8[:, ::1], i8, f8[:, ::1], f8[:, ::1], f8[:, ::1], f8[:, :, ::1], f8[:, ::1],"
    "f8[:, ::1], f8[::1], f8[::1], f8[::1])",
    **OPTIONS,
)
def back(
    address: int, t: float, h: float, p: Vector, table: Vector, stages: int, points: Vector, seeds: Vector,
    slopes: Vector, kept: Vector, into: Vector, out: Vector, numbers: Vector, tape: Vector, cotangents: Vector,
) -> int:  # fmt: skip
    """Carry cotangents of the state (seeds) back over a step, and add to those of the parameters (slopes).

    kept[j] are those of the argument of stage j. Returns as `pull_back` does, with nothing changed.
    """
    m, n = seeds.shape[0], seeds.shape[1]
    for j in range(stages - 1, -1, -1):
        for s in range(m):
            for i in range(n):
                into[s, i] = h * table[stages, j] * seeds[s, i]
        for later in range(j + 1, stages):
            a = h * table[later, j]
            if a != 0.0:
                for s in range(m):
                    for i in range(n):
                        into[s, i] += a * kept[later, s, i]
        lacking = pull_back(address, t + table[stages + 1, j] * h, points[j], p, into, out, numbers, tape, cotangents)
        if lacking > 0:
            return lacking
        for s in range(m):
            for i in range(n):
                kept[j, s, i] = out[s, i]
            for i in range(p.size):
                kept[j, s, n + i] = out[s, n + i]
    for j in range(stages):
        for s in range(m):
            for i in range(n):
                seeds[s, i] += kept[j, s, i]
            for i in range(p.size):
                slopes[s, i] += kept[j, s, n + i]
    return 0


@dataclass(frozen=True)
class Trajectory:
    """A computed solution: its steps and the state at the beginning of each.

    Attributes
    ----------
    times, steps : array (m,)
    states : array (m + 1, n)
    nodes : array of int (outputs,)
        Rows of the states at the times asked for.
    stages, table
        Of the method.
    """

    times: Array
    steps: Array
    states: Array
    nodes: Indices
    stages: int
    table: Array


def trajectory(
    rhs: Any, y0: Array, t_eval: Array, p: Array, *, work_size: int, asked: str, rtol: float, t0: float = 0.0,
    **options: Any,
) -> Trajectory | None:  # fmt: skip
    """Integrate with an explicit method, every output at the end of a step; None where that does not arrive.

    Parameters
    ----------
    rhs, y0, t_eval, p, work_size, rtol, t0
        As for `ode.integrate`; `options` are handed to it.
    asked : str
        Method; where it is, or may become, an implicit one, the explicit one that suits the tolerance.
    """
    name = asked if asked in EXPLICIT else explicit_for(rtol)
    found = integrate(rhs, y0, t_eval, p=p, work_size=work_size, method=name, rtol=rtol, t0=t0, dense=True, **options)
    chosen = method(name)
    if found.status != "success" or found.dense is None:
        return None
    begins, lengths = found.dense.knots, found.dense.lengths
    last = float(t_eval[-1])
    close = BESIDE * EPS * max(abs(last), abs(t0), 1e-300)
    times, steps = [], []
    for begin, length in zip(begins, lengths, strict=True):
        inside = t_eval[(t_eval > begin + close) & (t_eval < begin + length - close)]
        cuts = np.concatenate([[begin], inside, [begin + length]])
        times += list(cuts[:-1])
        steps += list(np.diff(cuts))
    stages = int(chosen.info[0])
    states = np.empty((len(times) + 1, len(y0)))
    states[0] = y0
    address = np.array(addresses(compiled(rhs, RHS, "the right-hand side"), RHS), dtype=np.int64)
    k, points, work = np.empty((stages, len(y0))), np.empty((stages + 1, len(y0))), np.zeros(max(1, work_size))
    for j, (t, h) in enumerate(zip(times, steps, strict=True)):
        forth.compiled(address, t, h, states[j], p, chosen.table, stages, k, points, work)
        states[j + 1] = points[stages]
    if not np.isfinite(states).all():
        return None
    ends = np.array([*times, times[-1] + steps[-1]]) if times else np.array([t0])
    nodes = np.searchsorted(ends, np.asarray(t_eval) - close)
    return Trajectory(np.array(times), np.array(steps), states, nodes.clip(max=len(times)), stages, chosen.table)


class Reverse:
    """Products of cotangents with the derivatives of one compiled function of state and parameters.

    Parameters
    ----------
    function : Native
        F of numbers that know their place on a tape.
    n, k : int
        Lengths of the state and the parameters.
    size : int
        Length of the scratch array of F.
    """

    def __init__(self, function: Native, n: int, k: int, size: int) -> None:
        self.function, self.n, self.k = function, n, k
        self.numbers = np.zeros(LANES * (2 * n + k + max(size, 1)))
        self._room(ROWS + n + k, 1)

    def _room(self, rows: int, m: int) -> None:
        self.tape, self.cotangents = np.empty(ROW * rows), np.empty(rows * m)

    def _until(self, kernel: Any, given: tuple[Any, ...], m: int) -> None:
        """Call a kernel with the tape, that says how many rows it must have, until it is long enough."""
        if len(self.cotangents) < m * (len(self.tape) // ROW):
            self._room(len(self.tape) // ROW, m)
        while lacking := kernel(*given, self.tape, self.cotangents):
            self._room(lacking + lacking // 4, m)

    def at(self, t: float, y: Array, p: Array, seeds: Array) -> Array:
        """Return seeds (m, n) times the derivatives of F at one point: shape (m, n + k)."""
        out = np.empty((len(seeds), self.n + self.k))
        rows = np.ascontiguousarray(seeds)
        self._until(pull_back.compiled, (self.function.address, t, y, p, rows, out, self.numbers), len(rows))
        return out

    def through(self, states: Array, p: Array, seeds: Array, steps: Indices) -> Array:
        """Carry cotangents back through an iterated map.

        Parameters
        ----------
        states : array (steps + 1, n)
            Of all iterations.
        seeds : array (m, n)
            Each of the state after the number of steps of the same place.
        steps : array of int (m,)

        Returns
        -------
        array (m, n + k)
            Cotangents of the first state, and of the parameters.
        """
        found = np.concatenate([np.asarray(seeds, dtype=float), np.zeros((len(seeds), self.k))], axis=1)
        for step in range(len(states) - 2, -1, -1):
            active = np.flatnonzero(steps > step)
            if len(active):
                here = self.at(float(step), states[step], p, found[active, : self.n])
                found[active, : self.n] = here[:, : self.n]
                found[active, self.n :] += here[:, self.n :]
        return found

    def along(self, path: Trajectory, rhs: Any, p: Array, work_size: int, seeds: Array, nodes: Indices) -> Array:
        """Carry cotangents of states back to the beginning of a trajectory.

        Parameters
        ----------
        seeds : array (m, n)
            Each of the state at the node of the same number.
        nodes : array of int (m,)
            Rows of ``path.states``.

        Returns
        -------
        array (m, n + k)
            Cotangents of the state at the beginning, and of the parameters.
        """
        order = np.argsort(-nodes, kind="stable")
        later, m, n = nodes[order], len(seeds), self.n
        cotangents, slopes = np.ascontiguousarray(seeds[order]), np.zeros((m, self.k))
        address = np.array(addresses(compiled(rhs, RHS, "the right-hand side"), RHS), dtype=np.int64)
        stages, table = path.stages, path.table
        k, points, work = np.empty((stages, n)), np.empty((stages + 1, n)), np.zeros(max(1, work_size))
        kept, into, out = np.empty((stages, m, n + self.k)), np.empty((m, n)), np.empty((m, n + self.k))
        for step in range(len(path.steps) - 1, -1, -1):
            t, h = float(path.times[step]), float(path.steps[step])
            # Later states know nothing of what was read off earlier ones.
            active = int(np.searchsorted(-later, -step, side="left"))
            if not active:
                continue
            forth.compiled(address, t, h, path.states[step], p, table, stages, k, points, work)
            if kept.shape[1] != active:
                kept = np.empty((stages, active, n + self.k))
            given = (
                self.function.address, t, h, p, table, stages, points, cotangents[:active], slopes[:active], kept,
                into[:active], out[:active], self.numbers,
            )  # fmt: skip
            self._until(back.compiled, given, active)
        found = np.empty((m, n + self.k))
        found[order] = np.concatenate([cotangents, slopes], axis=1)
        return found
