"""Fixed points x = F(x): damped and Anderson iteration with a Newton polish, compiled once for every map.

A map is a compiled function ``fmap(x: f8[::1], out: f8[::1], p: f8[::1], work: f8[::1]) -> void`` and writes F(x; p)
into ``out``; a state that leaves the map's domain writes NaN. The solvers compile once and take the map's address, so
that a new model costs only its own compilation.

The scaled residual is ``max_i |F_i(x) - x_i| / (rtol |x_i| + atol)``; a state is accepted when it is at most one *and*,
where Newton steps were taken, so is the last step. The latter bounds the error of the state, which the residual alone
does not do when the Jacobian of ``F - x`` is nearly singular.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .addresses import addresses
from .fixedpoint_kernels import CONVERGED, LEFT_DOMAIN, MAP_TYPE, MAX_ITERATIONS, SINGULAR, follow_kernel
from .scalars import find_root

__all__ = ["MAP_TYPE", "FixedPointResult", "bisect_geometric", "follow", "solve"]

_STATUS = {CONVERGED: "success", MAX_ITERATIONS: "max_iterations", LEFT_DOMAIN: "left_domain", SINGULAR: "singular"}


@dataclass
class FixedPointResult:
    """Where an iteration stopped, and whether that is a fixed point.

    Attributes
    ----------
    x : ndarray, shape (n,)
        The last state.
    status : str
        ``"success"``, ``"max_iterations"``, ``"left_domain"`` (the map returned a non-finite value) or ``"singular"``.
    residual : float
        ``max |F(x) - x| / (|x| + atol/rtol)``, a relative error of the equations.
    message : str
        Empty on success; otherwise the residual, the component that holds it, the damping, and what to try.
    stats : dict
        ``evaluations``, ``iterations``, ``newton_steps``, ``damping``.
    """

    x: np.ndarray
    status: str
    residual: float
    message: str = ""
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def success(self) -> bool:
        return self.status == "success"


def _message(
    status: int, residual: float, where: int, damping: float, iterations: int, names: Sequence[str] | None
) -> str:
    if status == CONVERGED:
        return ""
    component = names[where] if names is not None and 0 <= where < len(names) else f"component {where}"
    if status == LEFT_DOMAIN:
        return (
            f"the map is not finite at {component} (damping {damping:g}): the state left the domain; "
            "start elsewhere, regularise more, or follow the solution from an easier parameter"
        )
    return (
        f"relative residual {residual:.3g} in {component} after {iterations} evaluations, damping {damping:g}; "
        "lower the damping, raise max_iterations, or follow the solution from an easier parameter (larger ridge)"
    )


def _run(
    fmap: Any, states: np.ndarray, table: np.ndarray, warm: bool, work_size: int, rtol: float, atol: float,
    damping: float, memory: int, max_iterations: int, newton_steps: int, lower: Any, names: Sequence[str] | None,
) -> list[FixedPointResult]:  # fmt: skip
    rows, n = states.shape
    low = np.full(n, -np.inf) if lower is None else np.array(np.broadcast_to(lower, (n,)), dtype=np.float64)
    statuses, evaluations, newton, wheres = (np.zeros(rows, np.int64) for _ in range(4))
    residuals, dampings = np.zeros(rows), np.zeros(rows)
    follow_kernel.compiled(
        *addresses(fmap, MAP_TYPE), states, table, np.zeros(max(work_size, 1)), float(damping), int(memory), rtol, atol,
        low, int(max_iterations), int(newton_steps), warm, statuses, residuals, evaluations, newton, wheres, dampings,
    )  # fmt: skip
    return [
        FixedPointResult(
            states[i],
            _STATUS[int(statuses[i])],
            residuals[i] * rtol,
            _message(int(statuses[i]), residuals[i] * rtol, int(wheres[i]), dampings[i], int(evaluations[i]), names),
            {"evaluations": int(evaluations[i]), "newton_steps": int(newton[i]), "damping": float(dampings[i])},
        )
        for i in range(rows)
    ]


def solve(
    fmap: Callable[..., None],
    x0: Any,
    p: Any = None,
    *,
    work_size: int = 0,
    rtol: float = 1e-10,
    atol: float = 1e-14,
    damping: float = 0.5,
    memory: int = 4,
    max_iterations: int = 2000,
    newton_steps: int = 20,
    lower: Any = None,
    warm: bool = False,
    names: Sequence[str] | None = None,
) -> FixedPointResult:
    """Solve x = F(x; p) from ``x0``.

    Anderson-accelerated damped iteration brings the residual below 1e-2, Newton's method finishes; when Newton does not
    take, the iteration goes on to a hundredth of the residual and hands over again.

    Parameters
    ----------
    fmap : compiled function of type ``MAP_TYPE``, of either compiler
    x0 : array, shape (n,)
    p : array, shape (m,), optional
        Parameters handed to the map.
    work_size : int
        Length of the scratch array handed to the map.
    damping : float in (0, 1]
        Share of the new value: x <- (1 - damping) x + damping F(x).
    memory : int
        Depth of the Anderson acceleration; 0 is plain damped iteration.
    newton_steps : int
        Most Newton steps at a time; 0 switches Newton off.
    lower : array, shape (n,), or float, optional
        Strict lower bounds of the state, kept by every iterate.
    warm : bool
        Whether ``x0`` is close to the solution: Newton is tried first.

    Returns
    -------
    FixedPointResult
        It never raises on non-convergence: ``status`` and ``message`` say what happened.
    """
    states = np.array(x0, dtype=np.float64).reshape(1, -1)
    table = np.array(np.zeros(0) if p is None else p, dtype=np.float64).reshape(1, -1)
    options = (work_size, rtol, atol, damping, memory, max_iterations, newton_steps, lower, names)
    return _run(fmap, states, table, bool(warm), *options)[0]


def follow(
    fmap: Callable[..., None],
    x0: Any,
    params: Any,
    *,
    work_size: int = 0,
    rtol: float = 1e-10,
    atol: float = 1e-14,
    damping: float = 0.5,
    memory: int = 4,
    max_iterations: int = 2000,
    newton_steps: int = 20,
    lower: Any = None,
    names: Sequence[str] | None = None,
) -> list[FixedPointResult]:
    """Fixed points along a curve: one for each row of ``params``, each started from those before it (see `solve`).

    The rows should be ordered along the curve. A row that fails is reported and the next one starts from scratch at the
    last state that converged.
    """
    table = np.ascontiguousarray(np.atleast_2d(np.asarray(params, dtype=np.float64)))
    states = np.tile(np.array(x0, dtype=np.float64).reshape(-1), (table.shape[0], 1))
    options = (work_size, rtol, atol, damping, memory, max_iterations, newton_steps, lower, names)
    return _run(fmap, states, table, False, *options)


def bisect_geometric(
    f: Callable[[float], float], low: float, high: float, *, rtol: float = 4e-16, max_steps: int = 200
) -> float:
    """Root of an increasing function on (low, high), 0 < low < high, bracketed in log scale.

    Ridge equivalents span many decades and are monotone: a bracket cannot be trapped where an iteration stalls.

    Raises
    ------
    ValueError
        If f(low) and f(high) do not bracket a root.
    """
    f_low, f_high = f(low), f(high)
    if f_low == 0.0:
        return low
    if f_high == 0.0:
        return high
    if not (f_low < 0.0 < f_high):
        raise ValueError(f"no sign change between {low:g} (f = {f_low:g}) and {high:g} (f = {f_high:g})")
    log = find_root(
        lambda t: f(math.exp(t)), math.log(low), math.log(high), xtol=1e-15, rtol=max(rtol, 1e-15),
        max_evaluations=max_steps,
    )  # fmt: skip
    return math.exp(log)
