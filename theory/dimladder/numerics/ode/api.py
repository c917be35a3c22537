"""`integrate` and `integrate_batch`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import layout
from .functions import Event, Interpreted
from .methods import explicit_for
from .pieces import Pieces, integrate_batch_pieces, integrate_pieces
from .result import STATUS, OdeBatch, OdeResult
from .setup import Names, Settings, Setup, finite
from .workspace import Workspace, lend, records, take_back

__all__ = ["Event", "Interpreted", "explicit_for", "integrate", "integrate_batch"]


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
    settings = Settings(
        t0, work_size, method, rtol, atol, jac, events, max_steps, names, domain, converged, output, first_step,
        max_step, blow_up, autonomous,
    )  # fmt: skip
    y = finite("y0", y0, 1)
    parameters = np.zeros(0) if p is None else np.asarray(p, dtype=np.float64).ravel()
    if dense or len(events) or isinstance(rhs, Interpreted):
        # They hold what belongs to one call.
        with Setup(rhs, y.size, t_eval, settings) as setup:
            return Workspace(setup, parameters.size, dense).run(y, parameters, names)
    key, workspace = lend(rhs, y.size, parameters.size, t_eval, settings)
    result = workspace.run(y, parameters, names)
    take_back(key, workspace)
    return result


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
    states = finite("y0", np.array(np.broadcast_to(states, (size, states.shape[-1])), order="C"), 2)
    parameters = np.array(np.broadcast_to(parameters, (size, parameters.shape[-1])), order="C")
    pieces = options.pop("pieces", ())
    if len(pieces):
        return integrate_batch_pieces(
            integrate_batch, rhs, states, t_eval, parameters, pieces, workers=workers, max_events=max_events, **options
        )
    unknown = set(options) - set(Settings.__dataclass_fields__)
    if unknown:
        raise TypeError(f"integrate_batch has no option {sorted(unknown)[0]!r}")
    settings = Settings(**options)
    with Setup(rhs, states.shape[1], t_eval, settings) as setup:
        if setup.plan.auto:
            # The threads of a batch do not come back to compile.
            setup.load_implicit()
        return _run_batch(setup, states, parameters, workers, max_events, settings.names)


def _run_batch(
    setup: Setup, states: NDArray[np.float64], parameters: NDArray[np.float64], workers: int | None, max_events: int,
    names: Names,
) -> OdeBatch:  # fmt: skip
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
    stats: dict[str, Any] = {key: integers[:, column].copy() for key, column in layout.COUNTS.items()}
    stats["method"], stats["reason"], stats["workers"] = setup.plan.name, setup.plan.reason, threads
    return OdeBatch(
        t=times.copy(),
        y=out,
        status=tuple(STATUS[c] for c in codes),
        message=tuple(setup.message(int(integers[i, -1]), reals[i], integers[i], final[i], names) for i in range(size)),
        stats=stats,
        t_final=reals[:, layout.T].copy(),
        y_final=final,
        events=tuple(records(found[i, : min(int(integers[i, layout.N_FOUND]), found.shape[1])]) for i in range(size)),
    )
