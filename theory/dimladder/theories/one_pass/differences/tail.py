"""Where a curve comes to its target: the flow continued in differences, so that e_g keeps its relative accuracy.

The equations in differences (`near`) are exact as long as the nodes resolve the way from teacher to student; they
are entered as early as a few nodes do that, and integrated in stretches of two decades of e_g, each with tolerances
on the scale of the distances at its beginning.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ....problem.targets import Committee
from ....symbolic import store

if TYPE_CHECKING:
    from ....symbolic.equations import Step
    from ..flow import OnePassFlow

log = logging.getLogger("dimladder.online_sgd")
Array = NDArray[np.float64]
# A curve is continued in differences where it falls below this many times rtol, as a fraction of E[f*^2]/2: overlaps,
# whose errors are of that size, give e_g to 1e-3 there; or below the second fraction. Below the third they say nothing.
SMALL, LARGEST, DEEP = 1e3, 1e-4, 1e-10
# It is entered at the time from which every matched student is within this distance of its teacher, relative to length.
REACH = 0.3
# Sums of J erfs cost J^4 times as much: they enter later, where two or three nodes do, and only up to this many pairs
# of nodes for all pairs of students.
MIXTURE_REACH, MOST_PAIRS = 0.05, 400_000
# Nodes are as many as it takes for two more to change nothing above this, relative. Orthant moments of kinked units
# that nearly coincide have rounding of their own: no tolerance below the second can be met.
RESOLVED, KINKED_RESOLVED = 1e-13, 1e-9
MOST_NODES = 8
# Close to the target that rounding is larger still: up to this it becomes the tolerance.
MOST_ROUNDING = 1e-5
DECADES = 2.0
# Absolute tolerances relative to the scale of a component at the beginning of a stretch, less what the stretch loses.
MARGIN = 1e-2
# A stretch of more than this many times of the fastest mode is integrated implicitly.
STIFF = 400.0
# Squares of smaller distances underflow.
SMALLEST = 1e-280


@dataclass(frozen=True)
class Match:
    """Which teacher each student comes to (-1: none), with which sign of the weights, and of the output."""

    teacher: NDArray[np.int64]
    sign: Array
    parity: Array

    def same_as(self, other: Match) -> bool:
        """Whether two matches agree."""
        return bool(np.array_equal(self.teacher, other.teacher) and np.array_equal(self.sign, other.sign))


@dataclass(frozen=True)
class Tail:
    """The curve from `begin` on: which of the times, their states in overlaps, and e_g there."""

    begin: float
    rows: NDArray[np.int64]
    states: Array
    errors: Array
    nodes: int


def continued(flow: OnePassFlow, times: Array, states: Array) -> Tail | None:
    """Return the end of a curve from the flow in differences; None where it does not come near its target.

    Parameters
    ----------
    flow : OnePassFlow
    times, states : arrays (time,), (time, n)
        The curve in overlaps, time 0 included.
    """
    p = flow.p
    noise = p.target.noise > 0 and p.algorithm.regime == "classical"
    decay = p.algorithm.weight_decay > 0 or p.algorithm.readout_weight_decay > 0
    if not isinstance(p.target, Committee) or noise or decay or flow.module().ROUTE != "closed":
        return None
    errors = flow.generalization_error(states)
    size = flow.target_size
    if not (errors < min(max(SMALL * p.solver.rtol, DEEP), LARGEST) * size).any():
        return None
    form = Form.of(flow)
    if form is None:
        return None
    match = form.match(states[-1])
    begin = form.entrance(match, times, states, errors, size) if form.covers(match) else None
    if begin is None:
        log.info("e_g falls to %.1e, but not by students that come to teachers: its rounding stays", errors.min())
        return None
    return form.follow(match, *begin, times)


def absence(flow: OnePassFlow) -> str:
    """Return why a curve cannot be continued in differences; "" where it can."""
    from . import derivation as near

    p = flow.p
    if not isinstance(p.target, Committee):
        return "the target is no committee"
    if p.target.noise and p.algorithm.regime == "classical":
        return "label noise keeps the student away from the target"
    if p.algorithm.weight_decay > 0 or p.algorithm.readout_weight_decay > 0:
        return "weight decay keeps the student away from the target"
    if flow.derived.route != "closed":
        return "its averages have no closed form"
    if not near.eligible(flow.setting()) or (flow.mixtures and not flow.mixtures[0].same_as(flow.mixtures[1])):
        return (
            "it takes the square loss and teachers with the student's own activation, smooth or with a kink at zero, "
            "and a regime with the drift"
        )
    return ""


KNOWN = "In overlaps e_g is a difference of numbers of order one, known to about 20 tolerances of the solver. "


def close_step(missing: str) -> Step:
    """Return the last step of a derivation: what is known of small errors, and what is `missing` for more."""
    from ....symbolic.equations import Step

    if missing:
        return Step("Close to the target", f"{KNOWN}There is no difference form: {missing}.")
    return Step(
        "Close to the target",
        f"{KNOWN}Where students come to teachers the curve is continued in the overlaps of w_i - w*_m, from the same "
        "step: they have the relative accuracy of the solver, however small e_g becomes.",
    )


def target_size(flow: OnePassFlow) -> float:
    """Return E[f*^2]/2: the error of a student whose readouts are zero."""
    parameters, state = flow.parameters(), flow.initial_state()
    end = len(flow.plain_parameters())
    parameters[end - flow.K : end] = 0.0
    if flow.trained:
        state[-flow.K :] = 0.0
    # Rates, noise, decays stand between the widths and (A, T, a): no error depends on them.
    parameters[2 : end - flow.K - flow.M * (flow.M + 1)] = 0.0
    return _error(flow.module(), state.tobytes(), parameters.tobytes(), flow.work_size())


@lru_cache(maxsize=256)
def _error(module: ModuleType, state: bytes, parameters: bytes, work_size: int) -> float:
    """Return e_g of a state, from the bytes of state and parameters."""
    y, p = (np.frombuffer(part).copy() for part in (state, parameters))
    return float(module.generalization_error(y, p, np.zeros(work_size)))


class Form:
    """The difference form of one flow: its compiled module, and the way from overlaps to differences and back."""

    def __init__(self, flow: OnePassFlow, module: ModuleType, parity: int, resolved: float) -> None:
        self.flow, self.module, self.parity, self.resolved = flow, module, parity, resolved
        mixture = flow.mixtures
        self.plain = flow.plain_parameters()
        # Students and teachers are made of the same erfs.
        self.reach = MIXTURE_REACH if mixture else REACH
        self.units = mixture[0].parameters if mixture else np.zeros(0)

    @classmethod
    def of(cls, flow: OnePassFlow) -> Form | None:
        """Return the form, deriving it when first needed; None where it does not exist."""
        from . import derivation as near

        setting = flow.setting()
        if not near.eligible(setting):
            return None
        if flow.mixtures:
            student, teacher = flow.mixtures
            pairs = (flow.K * len(student.weights)) ** 2 // 2
            if not student.same_as(teacher):
                return None
            if 4 * pairs**2 > MOST_PAIRS:
                log.info("too many erfs to continue in differences from the target: fewer, by a larger quadrature_rtol")
                return None

        def source() -> str:
            from .code import near_source

            return near_source(near.derive_near(setting), f"one-pass in differences: {flow.structure()}")

        source.__module__ = __name__
        module = store.module(("one-pass differences", flow.structure()), source, native=True)
        # A constant beside an odd function: -w* gives another one.
        parity = 0 if flow.mixtures and flow.mixtures[0].constant else near.parity(setting)
        return cls(flow, module, parity, KINKED_RESOLVED if setting.student_kinks else RESOLVED)

    # Overlaps and differences ---------------------------------------------------------------------------------------

    def match(self, state: Array) -> Match:
        """Match each student with the nearest teacher within reach."""
        Q, M, _ = (a[0] for a in self.flow.unpack(state[None]))
        T = np.diag(self.flow.start.T)
        signs = (1.0, -1.0) if self.parity else (1.0,)
        squares = np.stack([np.diag(Q)[:, None] - 2 * s * M + T for s in signs]) / T
        best = squares.reshape(len(signs), *M.shape).min(axis=0).argmin(axis=1)
        rows = np.arange(len(Q))
        sign = np.array(signs)[squares[:, rows, best].argmin(axis=0)]
        near = squares[:, rows, best].min(axis=0) <= self.reach**2
        teacher = np.where(near, best, -1)
        sign = np.where(near, sign, 1.0)
        return Match(teacher, sign, sign if self.parity == -1 else np.ones_like(sign))

    def differences(self, match: Match, state: Array) -> Array:
        """Return the state of the form for a state in overlaps."""
        flow = self.flow
        Q, M, a = (x[0] for x in flow.unpack(state[None]))
        matched = match.teacher >= 0
        s, t = np.where(matched, match.sign, 0.0), np.maximum(match.teacher, 0)
        T = flow.start.T
        S = M - s[:, None] * T[t]
        cross = M[:, t] * s  # w_i . s_k w*_pi(k)
        P = Q - cross - cross.T + np.outer(s, s) * T[np.ix_(t, t)]
        y = [P[np.tril_indices(flow.K)], S.ravel()]
        if flow.trained:
            y.append(self._gaps(match, a))
        return self._on_sphere(match, np.concatenate(y))

    def _on_sphere(self, match: Match, y: Array) -> Array:
        """Give each w_i of a spherical flow the length it had at the start, to the last digit."""
        flow = self.flow
        if not flow.p.algorithm.spherical:
            return y
        y = y.copy()
        for i in np.flatnonzero(match.teacher >= 0):
            m = match.teacher[i]
            gap = flow.start.Q[i, i] - flow.start.T[m, m] - y[i * (i + 3) // 2]
            y[flow.K * (flow.K + 1) // 2 + i * flow.M + m] = 0.5 * match.sign[i] * gap
        return y

    def _gaps(self, match: Match, a: Array) -> Array:
        slots = a.copy()
        for m in range(self.flow.M):
            members = np.flatnonzero(match.teacher == m)
            if len(members):
                slots[members[0]] = match.parity[members] @ a[members] - self.flow.start.A[m]
        return slots

    def overlaps(self, match: Match, y: Array) -> Array:
        """Return the state in overlaps."""
        flow = self.flow
        K, pairs = flow.K, flow.K * (flow.K + 1) // 2
        matched = match.teacher >= 0
        s, t = np.where(matched, match.sign, 0.0), np.maximum(match.teacher, 0)
        P = np.zeros((K, K))
        P[np.tril_indices(K)] = y[:pairs]
        P = P + np.tril(P, -1).T
        S = y[pairs : pairs + K * flow.M].reshape(K, flow.M)
        cross = S[:, t] * s
        Q = P + cross + cross.T + np.outer(s, s) * flow.start.T[np.ix_(t, t)]
        parts = [Q[np.tril_indices(K)], (S + s[:, None] * flow.start.T[t]).ravel()]
        if flow.trained:
            a = y[pairs + K * flow.M :].copy()
            for m in range(flow.M):
                members = np.flatnonzero(match.teacher == m)
                if len(members):
                    others = match.parity[members[1:]] @ a[members[1:]]
                    a[members[0]] = match.parity[members[0]] * (flow.start.A[m] + a[members[0]] - others)
            parts.append(a)
        return np.concatenate(parts)

    def parameters(self, match: Match, nodes: int, level: float = 0.0) -> Array:
        """Return the parameters of the compiled form."""
        from ....numerics.quadrature import gauss_legendre

        u, w = gauss_legendre(nodes)
        matched = [match.teacher, match.sign, match.parity]
        return np.concatenate([self.plain, [nodes], *matched, 0.5 + 0.5 * u, 0.5 * w, self.units, [level]])

    def work_size(self, nodes: int) -> int:
        """Return the length of the scratch array."""
        return int(self.module.work_size(self.flow.K, self.flow.M, nodes))

    def error(self, match: Match, y: Array, nodes: int) -> float:
        """Return e_g."""
        p, work = self.parameters(match, nodes), np.zeros(self.work_size(nodes))
        return float(self.module.generalization_error(y, p, work))

    def velocity(self, match: Match, y: Array, nodes: int) -> Array:
        """Return dy/dt at time 0."""
        out = np.empty_like(y)
        self.module.rhs(0.0, y, out, self.parameters(match, nodes), np.zeros(self.work_size(nodes)))
        return out

    def nodes(self, match: Match, y: Array) -> int | None:
        """Return how many nodes a student resolve the way from teacher to student; None if `MOST_NODES` do not."""

        def answers(count: int) -> tuple[float, Array]:
            return self.error(match, y, count), self.velocity(match, y, count)

        scale = self.scale(match, y, self.error(match, y, MOST_NODES))
        for count in range(1, MOST_NODES + 1):
            (e1, v1), (e2, v2) = answers(count), answers(count + 2)
            if abs(e1 - e2) <= self.resolved * abs(e2) and (abs(v1 - v2) <= self.resolved * scale).all():
                return count
        return None

    def _spread(self, match: Match, y: Array) -> float:
        """Return by how much numbers of nodes that should agree do not, relative to the scale of each component."""
        few, many = MOST_NODES // 2, MOST_NODES
        errors = [self.error(match, y, count) for count in (few, many)]
        apart = abs(self.velocity(match, y, few) - self.velocity(match, y, many)) / self.scale(match, y, errors[1])
        return max(abs(errors[0] / errors[1] - 1.0), float(apart.max()))

    def _resolves(self, match: Match, state: Array) -> bool:
        return self.nodes(match, self.differences(match, state)) is not None

    def scale(self, match: Match, y: Array, error: float) -> Array:
        """Return the size of each component: lengths of differences, and of errors for the gaps in readouts."""
        flow = self.flow
        K, pairs = flow.K, flow.K * (flow.K + 1) // 2
        square = np.zeros((K, K))
        square[np.tril_indices(K)] = y[:pairs]
        length = np.sqrt(np.maximum(np.diag(square), 0.0))
        parts = [np.outer(length, length)[np.tril_indices(K)]]
        parts.append(np.outer(length, np.sqrt(np.diag(flow.start.T))).ravel())
        if flow.trained:
            slots = np.full(K, math.sqrt(max(error, 0.0)))
            for m in range(flow.M):
                # The other students of a teacher keep readouts of order one.
                slots[np.flatnonzero(match.teacher == m)[1:]] = 1.0
            parts.append(slots)
        return np.concatenate(parts)

    # Integration ----------------------------------------------------------------------------------------------------

    def covers(self, match: Match) -> bool:
        """Whether the form holds for a match: kinked students must come to different teachers."""
        taken = match.teacher[match.teacher >= 0]
        return len(taken) > 0 and (self.resolved < KINKED_RESOLVED or len(set(taken)) == len(taken))

    def entrance(
        self, match: Match, times: Array, states: Array, errors: Array, size: float
    ) -> tuple[float, Array] | None:
        """Return the first time from which the match holds and nodes resolve it, and the state there.

        errors, size: e_g of the states and of a student whose readouts are zero.
        """
        from ....numerics.ode import integrate

        floor = DEEP * size
        deep = np.flatnonzero(errors < floor)
        row = last = int(deep[0]) if len(deep) else len(times) - 1
        while row > 0 and self.match(states[row]).same_as(match):
            row -= 1
        if row == last:
            return None
        begin, end = float(times[row]), float(times[last])
        while True:
            even, fine_at_first = np.linspace(begin, end, 201), np.geomspace(1e-3 * (end - begin), end - begin, 201)
            options = self.flow.integration() | {
                "t0": begin, "t_eval": np.unique(np.concatenate([even, begin + fine_at_first]))
            }  # fmt: skip
            result = integrate(y0=states[row], p=self.flow.parameters(), **options)
            # Below the floor, differences of overlaps are rounding: a coarse grid may ask for much of that.
            fallen = np.flatnonzero(self.flow.generalization_error(result.y) < floor)
            if not len(fallen) or result.t[fallen[0]] - begin > 0.5 * (end - begin):
                break
            end = float(result.t[fallen[0]])
        end_row = int(fallen[0]) if len(fallen) else len(result.t)
        first = end_row
        while first > 0 and self.match(result.y[first - 1]).same_as(match):
            first -= 1
        # Distances shrink: from some time on a few nodes resolve them.
        first = next((row for row in range(first, end_row) if self._resolves(match, result.y[row])), end_row)
        if first == end_row:
            return None
        state = result.y[first]
        exact = float(self.flow.generalization_error(state[None])[0])
        error = self.error(match, self.differences(match, state), MOST_NODES)
        return (float(result.t[first]), state) if abs(error - exact) <= 1e-9 * exact + 1e-13 * size else None

    def follow(self, match: Match, begin: float, state: Array, times: Array) -> Tail | None:
        """Integrate from `begin` to the last time, stretch by stretch."""
        from ....numerics.ode import Event, integrate

        rows = np.flatnonzero(times > begin)
        states, errors = np.empty((len(rows), len(state))), np.empty(len(rows))
        # Nothing is left that would make errors grow: the tolerance is the one asked for.
        rtol = max(self.flow.p.solver.rtol, self.resolved)
        settings = self.flow.integration() | {"rtol": rtol}
        t, y, done, most = begin, self.differences(match, state), 0, 0
        falls = Event(self.module.decades, direction=-1, terminal=True)
        while done < len(rows):
            nodes = self.nodes(match, y)
            if nodes is None and self.resolved >= KINKED_RESOLVED:
                spread = self._spread(match, y)
                if spread <= MOST_ROUNDING:
                    nodes = MOST_NODES // 2
                    rtol = settings["rtol"] = max(rtol, spread)
            error = self.error(match, y, nodes or MOST_NODES)
            if error < SMALLEST:
                states[done:], errors[done:] = self.overlaps(match, y), 0.0
                break
            if nodes is None:
                log.warning("the tail is not resolved at t = %.6g: e_g keeps the overlaps' rounding", t)
                return None
            most = max(most, nodes)
            p = self.parameters(match, nodes, math.log10(error) - DECADES)
            options = settings | {
                "rhs": self.module.rhs, "jac": None, "names": None, "work_size": self.work_size(nodes),
                "t0": t, "t_eval": times[rows[done:]], "events": [falls],
                "atol": np.maximum(MARGIN * rtol * self.scale(match, y, error), 1e-300),
                "method": self._method(settings["method"], p, y, float(times[-1]) - t, nodes),
            }  # fmt: skip
            result = integrate(y0=y, p=p, **options)
            if result.status not in ("success", "event"):
                log.warning("the tail ended at t = %.6g (%s): e_g keeps the overlaps' rounding", t, result.message)
                return None
            for row in result.y:
                states[done] = self.overlaps(match, row)
                errors[done] = self.error(match, np.ascontiguousarray(row), nodes)
                done += 1
            t, y = result.t_final, self._on_sphere(match, result.y_final)
        return Tail(begin, rows, states, errors, most)

    def _method(self, asked: str, p: Array, y: Array, left: float, nodes: int) -> str:
        """Return the integrator of a stretch: BDF where an explicit one would be bound by stability for long.

        Differences of two decades are smooth on the scale of the stretch; what fast modes still carry is rounding,
        which hides from the explicit methods that stability is what limits their steps.
        """
        from ....numerics.equilibria import jacobian

        if asked != "auto":
            return asked
        work = self.work_size(nodes)
        rates = np.linalg.eigvals(jacobian(self.module.rhs, y, p=p, work_size=work))
        fastest, slowest = abs(rates).max(), abs(rates.real).min()
        length = min(left, DECADES * math.log(10.0) / max(slowest, 1e-300))
        return "bdf" if fastest * length > STIFF else "dop853"
