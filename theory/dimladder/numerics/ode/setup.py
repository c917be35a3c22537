"""What a compiled integration needs besides state and parameters: checked settings, addresses, tables, words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..addresses import addresses
from . import layout
from .functions import Event, Interpreted, compiled, register, release, trampoline
from .methods import plan_of, steps_of
from .result import STATUS

__all__ = ["Names", "Settings", "Setup", "finite"]

Names = Sequence[str] | Callable[[], Sequence[str]] | None


@dataclass(slots=True)
class Settings:
    """The options that `integrate` and `integrate_batch` share; `integrate` says what they mean."""

    t0: float = 0.0
    work_size: int = 0
    method: str = "auto"
    rtol: float = 1e-8
    atol: ArrayLike = 1e-10
    jac: Any = None
    events: Sequence[Any] = ()
    max_steps: int = 1_000_000
    names: Names = None
    domain: Any = None
    converged: float | None = None
    output: str = "interpolate"
    first_step: float | None = None
    max_step: float = np.inf
    blow_up: float = 1e100
    autonomous: bool = False

    def check(self, n: int) -> None:
        """Refuse what makes no sense for a state of length n."""
        if n < 1:
            raise ValueError("y0 must have at least one component")
        if not 1e-15 <= self.rtol < 1:
            raise ValueError(f"rtol must lie in [1e-15, 1), got {self.rtol!r}")
        if self.output not in ("interpolate", "step"):
            raise ValueError(f"output must be 'interpolate' or 'step', got {self.output!r}")
        first = self.first_step
        if not self.max_step > 0 or not self.blow_up > 0 or (first is not None and not first > 0):
            raise ValueError("max_step, first_step and blow_up must be positive")
        if self.max_steps < 1 or self.work_size < 0:
            raise ValueError(
                f"max_steps must be positive and work_size not negative, got {self.max_steps}, {self.work_size}"
            )
        if self.names is not None and not callable(self.names) and len(self.names) != n:
            raise ValueError(f"names has {len(self.names)} entries for {n} components")

    def key(self) -> tuple[Any, ...]:
        """Return all that decides the numbers, as something that can be looked up; names do not."""
        atol = self.atol if isinstance(self.atol, float) else np.asarray(self.atol, dtype=np.float64).tobytes()
        return (
            self.t0, self.work_size, self.method, self.rtol, atol, self.jac, self.max_steps, self.domain,
            self.converged, self.output, self.first_step, self.max_step, self.blow_up, self.autonomous,
        )  # fmt: skip


class Setup:
    """Everything a compiled call needs, for one right-hand side, one length of the state and one set of settings."""

    def __init__(self, rhs: Any, n: int, t_eval: ArrayLike, settings: Settings) -> None:
        settings.check(n)
        self.atol = np.empty(n)
        self.atol[:] = settings.atol
        if not (self.atol > 0).all():
            raise ValueError("atol must be positive: with 0 a component that vanishes can have no error at all")
        self.n, self.rhs, t0 = n, rhs, float(settings.t0)
        self.times = _times(t_eval, t0)
        self.plan = plan_of(settings.method, settings.rtol)
        self.key = register(rhs) if isinstance(rhs, Interpreted) else 0
        # The functions are kept alive here for as long as their addresses are in use.
        function = trampoline() if self.key else compiled(rhs, layout.RHS, "the right-hand side")
        self.events = [e if isinstance(e, Event) else Event(e) for e in settings.events]
        jac, domain, plan = settings.jac, settings.domain, self.plan
        pairs = [
            (function, layout.RHS),
            (None if jac is None else compiled(jac, layout.JAC, "the Jacobian"), layout.JAC),
            (None if domain is None else compiled(domain, layout.SCALAR, "the domain"), layout.SCALAR),
            *((f, layout.STEP) for f in steps_of(plan.used[0])),
            *((f, layout.STEP) for f in ((None, None) if plan.auto else steps_of(plan.used[-1]))),
            *((compiled(e.function, layout.SCALAR, "the event"), layout.SCALAR) for e in self.events),
        ]
        self.alive = [f for f, _ in pairs]
        self.address = np.array([(0, 0) if f is None else addresses(f, ftype) for f, ftype in pairs], np.int64)
        self.event_flags = np.array([(e.direction, int(e.terminal)) for e in self.events], np.int64).reshape(-1, 2)
        # Of `work`, of the workspace, of the interpolant.
        work_size = max(1, settings.work_size) + (1 if self.key else 0)
        self.sizes = np.array([work_size, plan.rows(n), max(int(m.info[2]) for m in plan.used)])
        e, i = plan.explicit, plan.implicit
        self.tables = (e.info, e.control, e.table, i.info, i.control, i.table)
        self.order = float(e.order if plan.active == 0 else i.order)
        self.st, self.cnt = self._begin(settings, t0)

    def _begin(self, settings: Settings, t0: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the state of the solver before the first step, numbers and counts."""
        st, cnt = np.zeros(layout.REALS), np.zeros(layout.INTEGERS, np.int64)
        st[layout.T] = st[layout.T_START] = t0
        st[layout.T_END] = self.times[-1] if len(self.times) else t0
        st[layout.H_MAX], st[layout.BLOW_UP], st[layout.RTOL] = settings.max_step, settings.blow_up, settings.rtol
        st[layout.ERR_OLD] = 1e-4
        st[layout.CONVERGED] = -1.0 if settings.converged is None else float(settings.converged)
        if settings.first_step is not None:
            st[layout.H] = np.copysign(settings.first_step, st[layout.T_END] - t0)
        cnt[layout.I_OUT] = int(np.sum(self.times == t0))
        cnt[layout.ACTIVE], cnt[layout.AUTO] = self.plan.active, int(self.plan.auto)
        cnt[layout.N_EVENTS], cnt[layout.MAX_STEPS] = len(self.events), settings.max_steps
        cnt[layout.STEP_TO_OUTPUTS] = int(settings.output == "step")
        cnt[layout.HAS_JAC], cnt[layout.HAS_DOMAIN] = int(settings.jac is not None), int(settings.domain is not None)
        cnt[layout.IMPLICIT_KIND] = int(self.plan.implicit.family == "bdf")
        cnt[layout.AUTONOMOUS] = int(settings.autonomous)
        return st, cnt

    def load_implicit(self) -> None:
        """Compile, or read from the cache, the implicit method of `auto`: most curves never need it."""
        steps = steps_of(self.plan.used[-1])
        self.alive += steps
        self.address[layout.SECOND_METHOD] = [addresses(f, layout.STEP) for f in steps]

    def __enter__(self) -> Setup:
        return self

    def __exit__(self, *_: object) -> None:
        if self.key:
            release(self.key)

    def raise_interpreted(self) -> None:
        """Raise what an interpreted right-hand side has raised."""
        if isinstance(self.rhs, Interpreted) and self.rhs.raised:
            error = self.rhs.raised.pop()
            self.rhs.raised.clear()
            raise error

    def message(
        self, code: int, st: NDArray[np.float64], cnt: NDArray[np.int64], y: NDArray[np.float64], names: Names
    ) -> str:
        """Say in words how the integration ended."""
        t, component = st[layout.T], int(cnt[layout.COMPONENT])
        steps = f"{cnt[layout.N_STEPS]} steps, {cnt[layout.N_RHS]} evaluations"
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
                which = _name(names, component)
                return f"d({which})/dt is not finite just after t = {t:.12g}, however small the step"
            case "left_domain":
                return f"the state leaves its domain at t = {t:.12g}"
            case "blow_up":
                return f"{_name(names, component)} blows up at t = {t:.12g}, where it is {y[component]:.6g}"
        raise AssertionError(f"unknown answer {code} of the driver")

    def stats(self, code: int, st: NDArray[np.float64], cnt: NDArray[np.int64], names: Names) -> dict[str, Any]:
        """Return the counts, the method, and where it failed."""
        found: dict[str, Any] = {name: int(cnt[column]) for name, column in layout.COUNTS.items()}
        found["method"], found["reason"] = self.plan.name, self.plan.reason
        if code not in (layout.DONE, layout.EVENT, layout.STEADY):
            found["t_failed"] = float(st[layout.T])
            if code in (layout.NAN, layout.BLEW_UP):
                found["component"] = _name(names, int(cnt[layout.COMPONENT]))
        return found


def _name(names: Names, component: int) -> str:
    if component < 0:
        return "the state"
    found = names() if callable(names) else names
    return str(found[component]) if found is not None else f"y[{component}]"


def finite(name: str, value: ArrayLike, ndim: int) -> NDArray[np.float64]:
    """Return an array of finite numbers, contiguous, of so many dimensions.

    Raises
    ------
    ValueError
        For anything else.
    """
    array = np.ascontiguousarray(value, dtype=np.float64)
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension{'s' if ndim > 1 else ''}, got shape {array.shape}")
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"{name}[{', '.join(map(str, bad))}] is {array[tuple(bad)]}; a finite number is needed")
    return array


def _times(t_eval: ArrayLike, t0: float) -> NDArray[np.float64]:
    # A copy: compiled code takes no read-only arrays.
    times = finite("t_eval", t_eval, 1).copy()
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
