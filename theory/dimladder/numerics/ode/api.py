"""`integrate` and `integrate_batch`: checks, workspaces, and the words of the answer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..addresses import addresses
from . import driver, layout
from .explicit import explicit_interpolant, explicit_step
from .functions import Event, Interpreted, compiled, register, release, trampoline
from .pieces import Pieces, integrate_batch_pieces, integrate_pieces
from .result import STATUS, DenseOutput, EventRecord, OdeBatch, OdeResult, Switch
from .tableaux import Method, method

__all__ = ["Event", "Interpreted", "explicit_for", "integrate", "integrate_batch"]

ALIASES = {"rodas": "rodas5p"}
CHOICES = ("auto", "tsit5", "dp5", "dop853", "rodas5p", "bdf")
# Looser than this, the fifth-order pair needs fewer evaluations than DOP853.
LOOSE = 1e-4


@dataclass(frozen=True)
class _Plan:
    """The methods chosen, and why."""

    explicit: Method
    implicit: Method
    active: int
    auto: bool
    reason: str

    @property
    def name(self) -> str:
        if self.auto:
            return f"auto({self.explicit.name}, {self.implicit.name})"
        return self.implicit.name if self.active else self.explicit.name

    @property
    def used(self) -> tuple[Method, ...]:
        if self.auto:
            return self.explicit, self.implicit
        return (self.implicit,) if self.active else (self.explicit,)


def explicit_for(rtol: float) -> str:
    """Return the name of the explicit method that needs the fewest evaluations at a tolerance."""
    return "tsit5" if rtol >= LOOSE else "dop853"


def _plan(name: str, rtol: float) -> _Plan:
    name = ALIASES.get(name, name)
    if name not in CHOICES:
        raise ValueError(f"unknown method {name!r}; choose one of {', '.join(CHOICES)}")
    if name != "auto":
        chosen = method(name)
        implicit = chosen.family != "explicit"
        return _Plan(
            method("dop853") if implicit else chosen,
            chosen if implicit else method("rodas5p"),
            int(implicit),
            False,
            "chosen by the caller",
        )
    explicit = method(explicit_for(rtol))
    # BDF keeps its Jacobian over many steps: on slow tails it needs a quarter of the evaluations of Rodas5P or fewer.
    why = f"starts with {explicit.name} (rtol = {rtol:g}); bdf takes over where stability limits the step"
    return _Plan(explicit, method("bdf"), 0, True, why)


def _steps(chosen: Method) -> tuple[Any, Any]:
    if chosen.family == "explicit":
        return explicit_step, explicit_interpolant
    from . import implicit

    if chosen.family == "rosenbrock":
        return implicit.rosenbrock_step, implicit.rosenbrock_interpolant
    return implicit.bdf_step, implicit.bdf_interpolant


def _rows(chosen: Method, n: int) -> int:
    """Rows of the workspace that a method needs."""
    if chosen.family == "explicit":
        return int(chosen.info[0] + chosen.info[1]) + 2
    return layout.SQUARE + 2 * n


def _finite(name: str, value: ArrayLike, ndim: int) -> NDArray[np.float64]:
    array = np.ascontiguousarray(value, dtype=np.float64)
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension{'s' if ndim > 1 else ''}, got shape {array.shape}")
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"{name}[{', '.join(map(str, bad))}] is {array[tuple(bad)]}; a finite number is needed")
    return array


def _times(t_eval: ArrayLike, t0: float) -> NDArray[np.float64]:
    # A copy: compiled code takes no read-only arrays.
    times = _finite("t_eval", t_eval, 1).copy()
    path = np.empty(len(times) + 1)
    path[0], path[1:] = t0, times
    steps = path[1:] - path[:-1]
    if not ((steps >= 0).all() or (steps <= 0).all()):
        forward = times[-1] >= t0
        i = int(np.argmax(steps < 0 if forward else steps > 0))
        raise ValueError(
            f"t_eval must run in one direction from t0 = {t0:g}: t_eval[{i}] = {times[i]:g} turns back from {path[i]:g}"
        )
    return times


Names = Sequence[str] | Callable[[], Sequence[str]] | None


class _Setup:
    """Everything a compiled call needs, for one right-hand side and one set of settings."""

    def __init__(
        self,
        rhs: Any,
        n: int,
        t_eval: ArrayLike,
        *,
        t0: float,
        work_size: int,
        method_name: str,
        rtol: float,
        atol: ArrayLike,
        jac: Any,
        events: Sequence[Any],
        max_steps: int,
        names: Names,
        domain: Any,
        converged: float | None,
        output: str,
        first_step: float | None,
        max_step: float,
        blow_up: float,
        autonomous: bool,
    ) -> None:
        if n < 1:
            raise ValueError("y0 must have at least one component")
        if not 1e-15 <= rtol < 1:
            raise ValueError(f"rtol must lie in [1e-15, 1), got {rtol!r}")
        if output not in ("interpolate", "step"):
            raise ValueError(f"output must be 'interpolate' or 'step', got {output!r}")
        if not max_step > 0 or not blow_up > 0 or (first_step is not None and not first_step > 0):
            raise ValueError("max_step, first_step and blow_up must be positive")
        if max_steps < 1 or work_size < 0:
            raise ValueError(f"max_steps must be positive and work_size not negative, got {max_steps}, {work_size}")
        if names is not None and not callable(names) and len(names) != n:
            raise ValueError(f"names has {len(names)} entries for {n} components")
        self.atol = np.empty(n)
        self.atol[:] = atol
        if not (self.atol > 0).all():
            raise ValueError("atol must be positive: with 0 a component that vanishes can have no error at all")
        self.n, self.names = n, names
        self.t0 = float(t0)
        self.times = _times(t_eval, self.t0)
        self.plan = _plan(method_name, rtol)
        self.key = register(rhs) if isinstance(rhs, Interpreted) else 0
        self.rhs = rhs
        # The functions are kept alive here for as long as their addresses are in use.
        function = trampoline() if self.key else compiled(rhs, layout.RHS, "the right-hand side")
        self.events = [e if isinstance(e, Event) else Event(e) for e in events]
        pairs = [
            (function, layout.RHS),
            (None if jac is None else compiled(jac, layout.JAC, "the Jacobian"), layout.JAC),
            (None if domain is None else compiled(domain, layout.SCALAR, "the domain"), layout.SCALAR),
            *((f, layout.STEP) for f in _steps(self.plan.used[0])),
            *((f, layout.STEP) for f in ((None, None) if self.plan.auto else _steps(self.plan.used[-1]))),
            *((compiled(e.function, layout.SCALAR, "the event"), layout.SCALAR) for e in self.events),
        ]
        self.alive = [f for f, _ in pairs]
        self.address = np.array([(0, 0) if f is None else addresses(f, ftype) for f, ftype in pairs], np.int64)
        self.event_flags = np.array([(e.direction, int(e.terminal)) for e in self.events], np.int64).reshape(-1, 2)
        self.sizes = np.array(
            [
                max(1, work_size) + (1 if self.key else 0),
                max(_rows(m, n) for m in self.plan.used),
                max(int(m.info[2]) for m in self.plan.used),
            ]
        )
        e, i = self.plan.explicit, self.plan.implicit
        self.tables = (e.info, e.control, e.table, i.info, i.control, i.table)
        self.order = float(e.order if self.plan.active == 0 else i.order)

        st, cnt = np.zeros(layout.REALS), np.zeros(layout.INTEGERS, np.int64)
        st[layout.T] = st[layout.T_START] = self.t0
        st[layout.T_END] = self.times[-1] if len(self.times) else self.t0
        st[layout.H_MAX], st[layout.BLOW_UP], st[layout.RTOL] = max_step, blow_up, rtol
        st[layout.ERR_OLD] = 1e-4
        st[layout.CONVERGED] = -1.0 if converged is None else float(converged)
        if first_step is not None:
            st[layout.H] = np.copysign(first_step, st[layout.T_END] - self.t0)
        cnt[layout.I_OUT] = int(np.sum(self.times == self.t0))
        cnt[layout.ACTIVE], cnt[layout.AUTO] = self.plan.active, int(self.plan.auto)
        cnt[layout.N_EVENTS], cnt[layout.MAX_STEPS] = len(self.events), max_steps
        cnt[layout.STEP_TO_OUTPUTS] = int(output == "step")
        cnt[layout.HAS_JAC], cnt[layout.HAS_DOMAIN] = int(jac is not None), int(domain is not None)
        cnt[layout.IMPLICIT_KIND] = int(self.plan.implicit.family == "bdf")
        cnt[layout.AUTONOMOUS] = int(autonomous)
        self.st, self.cnt = st, cnt

    def load_implicit(self) -> None:
        """Compile, or read from the cache, the implicit method of `auto`: most curves never need it."""
        steps = _steps(self.plan.used[-1])
        self.alive += steps
        self.address[layout.SECOND_METHOD] = [addresses(f, layout.STEP) for f in steps]

    def __enter__(self) -> _Setup:
        return self

    def __exit__(self, *_: object) -> None:
        if self.key:
            release(self.key)

    def raise_interpreted(self) -> None:
        if isinstance(self.rhs, Interpreted) and self.rhs.raised:
            error = self.rhs.raised.pop()
            self.rhs.raised.clear()
            raise error

    def name(self, component: int) -> str:
        if component < 0:
            return "the state"
        names = self.names() if callable(self.names) else self.names
        return str(names[component]) if names is not None else f"y[{component}]"

    def message(self, code: int, st: NDArray[np.float64], cnt: NDArray[np.int64], y: NDArray[np.float64]) -> str:
        """Say in words how the integration ended."""
        t, component = st[layout.T], int(cnt[layout.COMPONENT])
        steps = f"{cnt[layout.N_STEPS]} steps, {cnt[layout.N_RHS]} evaluations"
        name = self.name(component)
        match STATUS[code]:
            case "success":
                return f"reached t = {t:.12g} in {steps}"
            case "event":
                return f"stopped by an event at t = {t:.12g} after {steps}"
            case "converged":
                return f"every |dy/dt| fell below {st[layout.CONVERGED]:g} at t = {t:.12g} after {steps}"
            case "max_steps":
                return (
                    f"max_steps = {cnt[layout.MAX_STEPS]} attempted steps were used up at t = {t:.12g} of "
                    f"{st[layout.T_END]:.12g}; the last step size was {abs(st[layout.H]):.3g}"
                )
            case "step_underflow":
                newton = cnt[layout.FAILURE] == layout.NO_CONVERGENCE
                failed = "Newton's iteration converging" if newton else "the tolerance being met"
                return (
                    f"at t = {t:.12g} the step shrank to rounding ({abs(st[layout.H]):.3g}) without {failed}: "
                    "the right-hand side, or its Jacobian, is discontinuous or singular there"
                )
            case "nan":
                return f"d({name})/dt is not finite just after t = {t:.12g}, however small the step"
            case "left_domain":
                return f"the state leaves its domain at t = {t:.12g}"
            case "blow_up":
                return f"{name} blows up at t = {t:.12g}, where it is {y[component]:.6g}"
        raise AssertionError(f"unknown answer {code} of the driver")

    def counts(self, cnt: NDArray[np.int64]) -> dict[str, int]:
        return {
            "n_rhs": int(cnt[layout.N_RHS]),
            "n_steps": int(cnt[layout.N_STEPS]),
            "n_rejected": int(cnt[layout.N_REJECTED]),
            "n_jac": int(cnt[layout.N_JAC]),
            "n_lu": int(cnt[layout.N_LU]),
        }


def _records(found: NDArray[np.float64]) -> tuple[EventRecord, ...]:
    return tuple(EventRecord(int(row[1]), float(row[0]), row[2:].copy()) for row in found)


def integrate(
    rhs: Any,
    y0: ArrayLike,
    t_eval: ArrayLike,
    *,
    t0: float = 0.0,
    p: ArrayLike | None = None,
    work_size: int = 0,
    method: str = "auto",
    rtol: float = 1e-8,
    atol: ArrayLike = 1e-10,
    jac: Any = None,
    events: Sequence[Any] = (),
    max_steps: int = 1_000_000,
    names: Names = None,
    domain: Any = None,
    converged: float | None = None,
    dense: bool = False,
    output: Literal["interpolate", "step"] = "interpolate",
    first_step: float | None = None,
    max_step: float = np.inf,
    blow_up: float = 1e100,
    autonomous: bool = False,
    pieces: Pieces = (),
) -> OdeResult:
    """Solve y' = f(t, y; p), y(t0) = y0, and return y at the times `t_eval`.

    Parameters
    ----------
    rhs : numba function, cfunc, Python function or `Interpreted`
        ``rhs(t, y, dy, p, work)`` writes dy/dt into ``dy``; all arrays are contiguous float64. A plain Python function
        of these five arguments is compiled by numba at its first use (and kept); `Interpreted` wraps a function
        ``f(t, y, p) -> dy`` that is to stay in Python, at some microseconds a call.
    y0 : array of shape (n,)
    t_eval : array of shape (m,)
        Times in one direction from `t0`, forwards or backwards; may repeat, contain `t0`, or be empty.
    t0 : float
        Time at which `y0` holds.
    p : array, optional
        Parameters, handed to every function.
    work_size : int
        Length of the scratch array ``work`` (allocated once, zero at the start).
    method : {"auto", "tsit5", "dp5", "dop853", "rodas5p" (or "rodas"), "bdf"}
        ``"auto"`` starts with an explicit method and changes to an implicit one where stability limits the step, and
        back; ``stats["reason"]`` and ``stats["switches"]`` say what it did.
    rtol, atol : float (atol: or array of shape (n,))
        The local error of a step is kept below atol + rtol |y|, in root mean square over the components.
    jac : numba function, optional
        ``jac(t, y, J, p, work)`` writes J[i, j] = d f_i / d y_j. Without it the implicit methods use finite
        differences, whose evaluations are counted in ``n_rhs``.
    events : sequence of `Event` or of functions ``g(t, y, p) -> float``
    max_steps : int
        Most attempted steps.
    names : sequence of str, or function that returns one, optional
        Names of the components, for messages.
    domain : numba function, optional
        ``domain(t, y, p) -> float``, not negative inside. Steps that leave are retried with half the size, so that the
        exit is located to rounding; then the status is ``"left_domain"``.
    converged : float, optional
        Stop when every |dy_i/dt| is at most this (status ``"converged"``).
    dense : bool
        Keep the solution as a function of time, ``result.dense(t)``.
    output : {"interpolate", "step"}
        States at `t_eval` from the interpolant of the method, or by stepping exactly to each time. The last time is
        always stepped to.
    first_step, max_step : float
    blow_up : float
        A component beyond this in absolute value ends the integration (status ``"blow_up"``), as does a singularity in
        finite time.
    autonomous : bool
        Promise that f does not depend on t: saves Rosenbrock methods one evaluation a step.
    pieces : sequence of (end, longest step), optional
        Pieces of the time axis between which f jumps or bends in t: no step crosses an end, and none is longer than
        its piece allows. The integration then runs forwards.

    Returns
    -------
    OdeResult
        A failure is a status and a message naming time and component, never an exception; ``t`` and ``y`` hold what was
        reached.

    Raises
    ------
    ValueError, TypeError
        For arguments that make no sense.

    Examples
    --------
    >>> from numba import njit
    >>> @njit("void(f8, f8[::1], f8[::1], f8[::1], f8[::1])")
    ... def oscillator(t, y, dy, p, work):
    ...     dy[0], dy[1] = y[1], -y[0]
    >>> integrate(oscillator, [0.0, 1.0], [3.141592653589793], method="dop853").y.round(6) + 0.0
    array([[ 0., -1.]])
    """
    if len(pieces):
        return integrate_pieces(
            integrate, rhs, y0, t_eval, pieces, t0=t0, p=p, work_size=work_size, method=method, rtol=rtol, atol=atol,
            jac=jac, events=events, max_steps=max_steps, names=names, domain=domain, converged=converged, dense=dense,
            output=output, first_step=first_step, max_step=max_step, blow_up=blow_up, autonomous=autonomous,
        )  # fmt: skip
    y = _finite("y0", y0, 1).copy()
    parameters = np.zeros(0) if p is None else np.ascontiguousarray(p, dtype=np.float64).ravel().copy()
    setup = _Setup(
        rhs, y.size, t_eval, t0=t0, work_size=work_size, method_name=method, rtol=rtol, atol=atol, jac=jac,
        events=events, max_steps=max_steps, names=names, domain=domain, converged=converged, output=output,
        first_step=first_step, max_step=max_step, blow_up=blow_up, autonomous=autonomous,
    )  # fmt: skip
    with setup:
        return _run(setup, y, parameters, dense)


def _run(setup: _Setup, y: NDArray[np.float64], p: NDArray[np.float64], dense: bool) -> OdeResult:
    n, n_events = setup.n, len(setup.events)
    st, cnt, times = setup.st, setup.cnt, setup.times
    work_size, ws_rows, rows = setup.sizes
    f, ynew, fnew = np.empty(n), np.empty(n), np.empty(n)
    work, ws, nested = np.zeros(work_size), np.empty((ws_rows, n)), np.zeros((rows, n))
    if setup.key:
        work[-1] = setup.key
    pivots = np.empty(n, np.int64)
    out = np.empty((len(times), n))
    out[: cnt[layout.I_OUT]] = y
    cnt[layout.STORE_DENSE] = int(dense)
    segments, segment_rows = np.empty((256 if dense else 0, n + 2)), np.empty((256 if dense else 0, rows, n))
    found, switches = np.empty((4 * n_events + 4, n + 2)), np.empty((64, 3))
    event_state = np.empty((n_events, 3))

    code = layout.DONE
    if st[layout.T_END] != st[layout.T]:
        code = driver.start.compiled(setup.address, st, cnt, y, f, fnew, ynew, setup.atol, p, work, setup.order)
        setup.raise_interpreted()
        for i, event in enumerate(setup.events):
            event_state[i, 0] = compiled(event.function, layout.SCALAR, "the event")(st[layout.T], y, p)
    # The compiled loop returns now and then, so that an interrupt from the keyboard is heard.
    budget = 256
    while code in (layout.RUNNING, layout.NEED_SPACE, layout.NEED_IMPLICIT):
        if code == layout.NEED_IMPLICIT:
            setup.load_implicit()
        elif code == layout.NEED_SPACE:
            if dense and cnt[layout.N_SEGMENTS] == len(segments):
                segments = np.concatenate([segments, np.empty_like(segments)])
                segment_rows = np.concatenate([segment_rows, np.empty_like(segment_rows)])
            found = np.concatenate([found, np.empty_like(found)])
        begin = time.perf_counter()
        code = driver.advance.compiled(
            setup.address, st, cnt, *setup.tables, times, out, y, f, ynew, fnew, setup.atol, p, work, ws, pivots,
            nested, segments, segment_rows, event_state, setup.event_flags, found, switches, budget,
        )  # fmt: skip
        setup.raise_interpreted()
        if time.perf_counter() - begin < 0.1:
            budget *= 4

    reached = int(cnt[layout.I_OUT])
    stats: dict[str, Any] = setup.counts(cnt)
    stats["method"], stats["reason"] = setup.plan.name, setup.plan.reason
    kept = switches[: min(int(cnt[layout.N_SWITCHES]), len(switches))]
    stats["switches"] = tuple(
        Switch(float(t), setup.plan.implicit.name if to else setup.plan.explicit.name, float(ratio))
        for t, to, ratio in kept
    )
    stats["n_switches"] = int(cnt[layout.N_SWITCHES])
    message = setup.message(code, st, cnt, y)
    if code not in (layout.DONE, layout.EVENT, layout.STEADY):
        stats["t_failed"] = float(st[layout.T])
        if code in (layout.NAN, layout.BLEW_UP):
            stats["component"] = setup.name(int(cnt[layout.COMPONENT]))
    if stats["switches"]:
        first = stats["switches"][0]
        stats["reason"] += f"; it did at t = {first.t:.6g}"
    t_final = float(st[layout.T])
    curve = None
    if dense:
        n_segments = int(cnt[layout.N_SEGMENTS])
        curve = DenseOutput(segments[:n_segments].copy(), segment_rows[:n_segments].copy(), t_final, y)
    return OdeResult(
        t=times[:reached].copy(),
        y=out[:reached],
        status=STATUS[code],
        message=message,
        stats=stats,
        t_final=t_final,
        y_final=y,
        events=_records(found[: cnt[layout.N_FOUND]]),
        dense=curve,
    )


def processors() -> int:
    """Return how many processors this process may use; not every system can say which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def integrate_batch(
    rhs: Any,
    y0: ArrayLike,
    t_eval: ArrayLike,
    *,
    p: ArrayLike | None = None,
    workers: int | None = None,
    max_events: int = 16,
    **options: Any,
) -> OdeBatch:
    """Solve B initial value problems of one right-hand side, in parallel over trajectories.

    The trajectories run on threads, in compiled code that holds no interpreter lock, each thread in a workspace of its
    own that is allocated outside the right-hand side; results are bitwise those of `integrate`, whatever the number of
    threads. (Threads of the interpreter and not numba's: they balance uneven trajectories, nest, and survive a fork.)

    Parameters
    ----------
    rhs, t_eval
        As for `integrate`.
    y0 : array of shape (B, n) or (n,)
        One initial state a trajectory; a single one serves all.
    p : array of shape (B, k) or (k,), optional
        Parameters by trajectory, or shared.
    workers : int, optional
        Number of threads; default: the processors available to this process.
    max_events : int
        Most events kept of one trajectory.
    **options
        Those of `integrate`, except ``dense``.

    Returns
    -------
    OdeBatch
    """
    if options.pop("dense", False):
        raise ValueError("integrate_batch keeps no dense output; integrate one trajectory, or ask for more times")
    states = np.asarray(y0, dtype=np.float64)
    parameters = np.zeros(0) if p is None else np.asarray(p, dtype=np.float64)
    if states.ndim not in (1, 2) or parameters.ndim not in (1, 2):
        raise ValueError(f"y0 and p have one or two dimensions, got shapes {states.shape} and {parameters.shape}")
    lengths = {len(a) for a in (states, parameters) if a.ndim == 2}
    if len(lengths) != 1:
        raise ValueError(
            f"y0 and p must give one length of the batch, got shapes {states.shape} and {parameters.shape}"
        )
    size = lengths.pop()
    states = _finite("y0", np.array(np.broadcast_to(states, (size, states.shape[-1])), order="C"), 2)
    parameters = np.array(np.broadcast_to(parameters, (size, parameters.shape[-1])), order="C")
    pieces = options.pop("pieces", ())
    if len(pieces):
        return integrate_batch_pieces(
            integrate_batch, rhs, states, t_eval, parameters, pieces, workers=workers, max_events=max_events, **options
        )
    defaults: dict[str, Any] = {
        "t0": 0.0, "work_size": 0, "method": "auto", "rtol": 1e-8, "atol": 1e-10, "jac": None, "events": (),
        "max_steps": 1_000_000, "names": None, "domain": None, "converged": None, "output": "interpolate",
        "first_step": None, "max_step": np.inf, "blow_up": 1e100, "autonomous": False,
    }  # fmt: skip
    unknown = set(options) - set(defaults)
    if unknown:
        raise TypeError(f"integrate_batch has no option {sorted(unknown)[0]!r}")
    settings = defaults | options
    settings["method_name"] = settings.pop("method")
    with _Setup(rhs, states.shape[1], t_eval, **settings) as setup:
        if setup.plan.auto:
            # The threads of a batch do not come back to compile.
            setup.load_implicit()
        return _run_batch(setup, states, parameters, workers, max_events)


def _run_batch(
    setup: _Setup, states: NDArray[np.float64], parameters: NDArray[np.float64], workers: int | None, max_events: int
) -> OdeBatch:
    size, n = states.shape
    # Compiled when first needed.
    from . import batch

    if setup.key:
        raise TypeError("a batch needs a compiled right-hand side; integrate interpreted ones one by one")
    times = setup.times
    out, final = np.empty((size, len(times), n)), np.empty((size, n))
    reals, integers = np.empty((size, layout.REALS)), np.empty((size, layout.INTEGERS + 1), np.int64)
    found = np.empty((size, max_events if setup.events else 0, n + 2))

    loop = batch.loop_addresses()

    def run(low: int, high: int) -> None:
        batch.advance_many(
            loop, setup.address, setup.st, setup.cnt, *setup.tables, times, setup.order, states, parameters, setup.atol,
            setup.sizes, setup.event_flags, out, final, reals, integers, found, low, high,
        )  # fmt: skip

    threads = max(1, min(workers or processors(), size))
    if threads == 1:
        run(0, size)
    else:
        # Small pieces, so that a few long trajectories do not leave threads idle at the end.
        chunk = max(1, min(16, size // (4 * threads)))
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(run, low, min(low + chunk, size)) for low in range(0, size, chunk)]:
                done.result()
    codes = integers[:, -1]
    columns = {
        "n_rhs": layout.N_RHS, "n_steps": layout.N_STEPS, "n_rejected": layout.N_REJECTED, "n_jac": layout.N_JAC,
        "n_lu": layout.N_LU, "n_switches": layout.N_SWITCHES,
    }  # fmt: skip
    stats: dict[str, Any] = {key: integers[:, column].copy() for key, column in columns.items()}
    stats["method"], stats["reason"], stats["workers"] = setup.plan.name, setup.plan.reason, threads
    return OdeBatch(
        t=times.copy(),
        y=out,
        status=tuple(STATUS[c] for c in codes),
        message=tuple(setup.message(int(integers[i, -1]), reals[i], integers[i], final[i]) for i in range(size)),
        stats=stats,
        t_final=reals[:, layout.T].copy(),
        y_final=final,
        events=tuple(_records(found[i, : min(int(integers[i, layout.N_FOUND]), found.shape[1])]) for i in range(size)),
    )
