"""Equilibria of flows y' = f(y; p): finding, stability, critical parameters, escape times; see `continuation`.

The right-hand side and the Jacobian are those of `numerics.ode`; the flow must not depend on time (they are evaluated
at t = 0). Eigenvalues count as zero, hence the equilibrium as marginal, below ``zero`` times the largest one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import ode

__all__ = [
    "Equilibrium", "VectorField", "classify", "critical_parameter", "escape_time", "find", "jacobian", "newton",
    "polish", "response", "vector_of",
]  # fmt: skip

Array = NDArray[np.float64]
Stability = Literal["stable", "unstable", "marginal"]
ROOT_EPS = float(np.finfo(float).eps) ** (1 / 3)
# Tangents that differ by more from central differences, relative to the largest, are not used.
CONFIRMED = 1e-6


@dataclass(frozen=True)
class Equilibrium:
    """A point where the flow rests, or where the search for one ended.

    Attributes
    ----------
    y : array of shape (n,)
    residual : float
        max |f_i(y)|.
    eigenvalues : complex array of shape (n - number of fixed components,)
        Of the Jacobian, by decreasing real part.
    stability : {"stable", "unstable", "marginal"}
        From the signs of the real parts; "marginal" if the largest is zero to within the accuracy of the Jacobian.
    unstable_directions : int
        Number of eigenvalues with positive real part.
    status : {"success", "not_converged", "singular"} or a failure of the integration
    message : str
    """

    y: Array
    residual: float
    eigenvalues: NDArray[np.complex128]
    stability: Stability
    unstable_directions: int
    status: str
    message: str

    @property
    def success(self) -> bool:
        """Whether the residual met its tolerance."""
        return self.status == "success"

    @property
    def relaxation_rate(self) -> float:
        """Minus the largest real part: the rate at which small perturbations of a stable equilibrium die out."""
        return -float(self.eigenvalues[0].real)


class VectorField:
    """f and its derivatives at t = 0, as functions of the state and of the parameters.

    Derivatives are those of a given Jacobian, or the tangents of the compiled equations where they have some, or
    central differences.
    """

    def __init__(self, rhs: Any, jac: Any, work_size: int, fixed: Sequence[int] = ()) -> None:
        from .ode.functions import compiled
        from .ode.layout import JAC, RHS

        self.rhs = compiled(rhs, RHS, "the right-hand side")
        self.jac = None if jac is None else compiled(jac, JAC, "the Jacobian")
        self.work = np.zeros(max(1, work_size))
        self.fixed = tuple(fixed)

    def free(self, n: int) -> NDArray[np.int64]:
        """Return the components that the flow can move."""
        return np.setdiff1d(np.arange(n), self.fixed)

    def value(self, y: Array, p: Array) -> Array:
        out = np.empty_like(y)
        self.rhs(0.0, np.ascontiguousarray(y), out, p, self.work)
        return out

    def jacobian(self, y: Array, p: Array) -> Array:
        n = y.size
        if self.jac is not None:
            out = np.zeros((n, n))
            self.jac(0.0, np.ascontiguousarray(y), out, p, self.work)
            return out
        exact = self._exactly(y, p)
        return self._differences(y, p) if exact is None else exact(np.eye(n), np.zeros((n, p.size))).T

    def along_parameters(self, y: Array, p: Array, direction: Array) -> Array:
        """Return the derivative of f with the parameters moving in a direction."""
        exact = self._exactly(y, p)
        if exact is not None:
            return exact(np.zeros((1, y.size)), direction[None])[0]
        size = ROOT_EPS / max(float(np.max(abs(direction) / np.maximum(abs(p), 1e-2), initial=0.0)), 1e-300)
        return (self.value(y, p + size * direction) - self.value(y, p - size * direction)) / (2.0 * size)

    def parameter_derivative(self, y: Array, p: Array, index: int) -> Array:
        return self.along_parameters(y, p, np.eye(p.size)[index])

    def _differences(self, y: Array, p: Array) -> Array:
        out = np.zeros((y.size, y.size))
        scale = max(float(np.max(np.abs(y), initial=0.0)), 1e-8)
        for j in range(y.size):
            step = ROOT_EPS * max(abs(y[j]), 1e-2 * scale)
            up, down = y.copy(), y.copy()
            up[j] += step
            down[j] -= step
            out[:, j] = (self.value(up, p) - self.value(down, p)) / (up[j] - down[j])
        return out

    def _exactly(self, y: Array, p: Array) -> Callable[[Array, Array], Array] | None:
        """Return the tangents at a point, of directions of the state and of the parameters; None without any."""
        from .tangents import along

        function = self._tangents(y, p)
        if function is None:
            return None
        return partial(along, function, 0.0, np.ascontiguousarray(y), p, self.work.size)

    def _tangents(self, y: Array, p: Array) -> Any:
        """Return the equations of numbers that carry derivatives; None where they have none that differences confirm.

        Code that converges to a value by iteration need not converge to its derivative.
        """
        if not hasattr(self, "_kept"):
            from .tangents import along

            self._kept = tangents_of(self.rhs)
            if self._kept is not None:
                found = along(
                    self._kept, 0.0, np.ascontiguousarray(y), p, self.work.size, np.eye(y.size),
                    np.zeros((y.size, p.size)),
                ).T  # fmt: skip
                expected = self._differences(y, p)
                if not abs(found - expected).max() <= CONFIRMED * max(1.0, float(abs(expected).max())):
                    self._kept = None
        return self._kept


def tangents_of(rhs: Any) -> Any:
    """Return compiled equations of numbers that carry derivatives; None where they have none."""
    from .native import Refused

    make = getattr(rhs, "with_tangents", None)
    try:
        return None if make is None else make()
    except Refused:
        return None


def vector_of(p: ArrayLike | None) -> Array:
    """Return parameters as a vector, empty where there are none."""
    return np.zeros(0) if p is None else np.array(p, dtype=float).ravel()


def jacobian(rhs: Any, y: ArrayLike, *, p: ArrayLike | None = None, jac: Any = None, work_size: int = 0) -> Array:
    """Return J[i, j] = d f_i / d y_j at `y`: the given one, tangents of the compiled equations, or central differences.

    The last have a relative error of about 1e-10.
    """
    return VectorField(rhs, jac, work_size).jacobian(np.array(y, dtype=float), vector_of(p))


def response(
    rhs: Any, y: ArrayLike, *, p: ArrayLike, direction: ArrayLike, jac: Any = None, work_size: int = 0,
    fixed: Sequence[int] = (),
) -> Array:  # fmt: skip
    """Return how a rest point moves with its parameters along a direction: J dy = -(df/dp) . direction.

    Parameters
    ----------
    rhs, p, jac, work_size, fixed
        As for `polish`.
    direction : array of shape of `p`

    Notes
    -----
    Where J is singular, as at a fold, the shortest least-squares solution.
    """
    field, at, parameters = VectorField(rhs, jac, work_size, fixed), np.array(y, dtype=float), vector_of(p)
    driven = field.along_parameters(at, parameters, np.asarray(direction, dtype=float))
    free = field.free(at.size)
    slope = np.zeros_like(at)
    slope[free] = np.linalg.lstsq(field.jacobian(at, parameters)[np.ix_(free, free)], -driven[free], rcond=None)[0]
    return slope


def classify(field: VectorField, y: Array, p: Array, zero: float) -> tuple[NDArray[np.complex128], Stability, int]:
    free = field.free(y.size)
    matrix = field.jacobian(y, p)[np.ix_(free, free)]
    if not np.isfinite(matrix).all():
        return np.full(free.size, np.nan + 0j), "marginal", 0
    eigenvalues = np.linalg.eigvals(matrix).astype(complex)
    eigenvalues = eigenvalues[np.argsort(-eigenvalues.real, kind="stable")]
    scale = float(np.max(np.abs(eigenvalues), initial=0.0))
    tolerance = zero * scale
    unstable = int(np.sum(eigenvalues.real > tolerance))
    stability: Stability = "unstable" if unstable else "stable"
    if not unstable and eigenvalues[0].real > -tolerance:
        stability = "marginal"
    return eigenvalues, stability, unstable


def newton(field: VectorField, y: Array, p: Array, tol: float, max_steps: int) -> tuple[Array, float, str]:
    """Damped Newton; least squares where the Jacobian is singular (of a line of equilibria, the nearest point)."""
    f = field.value(y, p)
    size = float(np.max(np.abs(f)))
    for _ in range(max_steps):
        if not np.isfinite(size):
            return y, size, "not_converged"
        if size == 0.0:
            break
        free = field.free(y.size)
        matrix = field.jacobian(y, p)[:, free]
        if not np.isfinite(matrix).all():
            return y, size, "singular"
        step = np.zeros_like(y)
        step[free] = np.linalg.lstsq(matrix, -f, rcond=1e-12)[0]
        length = 1.0
        while length > 1e-4:
            trial = y + length * step
            value = field.value(trial, p)
            reached = float(np.max(np.abs(value)))
            if np.isfinite(reached) and reached < size:
                break
            length *= 0.5
        else:
            break  # no decrease is possible any more: rounding, or a local minimum of the residual
        small = bool(np.max(np.abs(length * step)) <= 1e-15 * max(1.0, float(np.max(np.abs(y)))))
        y, f, size = trial, value, reached
        if small:
            break
    return y, size, "success" if size <= tol else "not_converged"


def polish(
    rhs: Any,
    y: ArrayLike,
    *,
    p: ArrayLike | None = None,
    jac: Any = None,
    work_size: int = 0,
    tol: float = 1e-12,
    max_steps: int = 50,
    zero: float = 1e-8,
    fixed: Sequence[int] = (),
) -> Equilibrium:
    """Newton's iteration from `y`, which finds unstable equilibria as well as stable ones.

    Parameters
    ----------
    rhs, jac, p, work_size
        As for `numerics.ode.integrate`. Without `jac`, as for `jacobian`.
    y : array of shape (n,)
        A first guess.
    tol : float
        Largest |f_i| that counts as rest.
    zero : float
        Eigenvalues below this fraction of the largest one count as zero.
    fixed : sequence of int
        Components that the flow conserves by construction: not moved, and without a mode of their own.
    """
    field, parameters = VectorField(rhs, jac, work_size, fixed), vector_of(p)
    return _polish(field, np.array(y, dtype=float), parameters, tol, max_steps, zero)


def _polish(field: VectorField, y: Array, p: Array, tol: float, max_steps: int, zero: float) -> Equilibrium:
    y, residual, status = newton(field, y, p, tol, max_steps)
    eigenvalues, stability, unstable = classify(field, y, p, zero)
    message = f"max |f| = {residual:.3g}, {stability}"
    if status != "success":
        message = f"Newton's iteration ended at max |f| = {residual:.3g} > {tol:g}: begin closer, or integrate longer"
    return Equilibrium(y, residual, eigenvalues, stability, unstable, status, message)


def find(
    rhs: Any,
    y0: ArrayLike,
    *,
    p: ArrayLike | None = None,
    jac: Any = None,
    work_size: int = 0,
    t_max: float = 1e6,
    settle: float = 1e-7,
    tol: float = 1e-12,
    zero: float = 1e-8,
    fixed: Sequence[int] = (),
    **options: Any,
) -> Equilibrium:
    """The equilibrium that the flow reaches from `y0`: integration until max |f| <= `settle`, then Newton's iteration.

    Parameters
    ----------
    rhs, y0, p, jac, work_size
        As for `numerics.ode.integrate`; `options` are handed to it.
    fixed
        As for `polish`.
    t_max : float
        Longest time to integrate. A trajectory that is still moving is reported as ``"not_converged"``; a slow plateau
        has small |f| too, so `settle` must lie below the speeds there.

    Returns
    -------
    Equilibrium
        If Newton's iteration would leave the neighbourhood that the flow reached, it is not taken, and the status says
        ``"not_converged"``.
    """
    settings = {"rtol": 1e-8, "atol": 1e-11} | options
    result = ode.integrate(
        rhs, y0, [t_max], p=p, jac=jac, work_size=work_size, converged=settle, autonomous=True, **settings
    )
    field, parameters = VectorField(rhs, jac, work_size, fixed), vector_of(p)
    reached = result.y_final
    if result.status != "converged":
        eigenvalues, stability, unstable = classify(field, reached, parameters, zero)
        residual = float(np.max(np.abs(field.value(reached, parameters))))
        status = "not_converged" if result.success else result.status
        message = result.message if not result.success else f"max |f| is still {residual:.3g} at t = {t_max:g}"
        return Equilibrium(reached, residual, eigenvalues, stability, unstable, status, message)
    answer = _polish(field, reached, parameters, tol, 50, zero)
    # Newton may run off along a nearly neutral direction; the flow would not, within a relaxation time of its residual.
    allowed = 1e3 * np.sqrt(settle) * max(1.0, float(np.max(np.abs(reached))))
    if answer.success and float(np.max(np.abs(answer.y - reached))) > allowed:
        away = float(np.max(np.abs(answer.y - reached)))
        message = f"Newton's iteration moved by {away:.3g} from where the flow came to rest; lower settle"
        eigenvalues, stability, unstable = classify(field, reached, parameters, zero)
        residual = float(np.max(np.abs(field.value(reached, parameters))))
        return Equilibrium(reached, residual, eigenvalues, stability, unstable, "not_converged", message)
    return answer


def critical_parameter(
    condition: Callable[[float], bool], low: float, high: float, *, rtol: float = 1e-10, max_steps: int = 200
) -> tuple[float, float]:
    """Return the bracket (a, b) in which `condition` changes, by bisection.

    Parameters
    ----------
    condition : callable
        Of the parameter, for instance whether an equilibrium is stable; must differ at `low` and `high`.
    rtol : float
        Width of the bracket relative to the larger end.

    Raises
    ------
    ValueError
        If the condition has the same value at both ends.
    """
    at_low, at_high = bool(condition(low)), bool(condition(high))
    if at_low == at_high:
        raise ValueError(f"the condition is {at_low} at both ends, {low:g} and {high:g}: no change is bracketed")
    a, b = float(low), float(high)
    for _ in range(max_steps):
        middle = 0.5 * (a + b)
        if abs(b - a) <= rtol * max(abs(a), abs(b)) or middle in (a, b):
            break
        if bool(condition(middle)) == at_low:
            a = middle
        else:
            b = middle
    return a, b


def escape_time(
    rhs: Any,
    y0: ArrayLike,
    level: Any,
    *,
    t_max: float,
    p: ArrayLike | None = None,
    jac: Any = None,
    work_size: int = 0,
    **options: Any,
) -> tuple[float, Array]:
    """Time at which ``level(t, y, p)`` first changes sign, and the state there; (inf, last state) if not by `t_max`.

    For the end of a plateau: ``level`` is a function such as y[0] - 1/2, compiled as an event of `numerics.ode`, so
    that the time is located to rounding on the interpolant. Near a saddle the time grows as log(1/perturbation)/lambda:
    the absolute tolerance (default 1e-14 here) must lie far below the perturbation that escapes.

    Raises
    ------
    RuntimeError
        If the integration fails before.
    """
    settings = {"rtol": 1e-9, "atol": 1e-14} | options
    result = ode.integrate(
        rhs, y0, [t_max], p=p, jac=jac, work_size=work_size, events=[ode.Event(level, terminal=True)], **settings
    )
    if not result.success:
        raise RuntimeError(f"the integration ended before the escape: {result.message}")
    return (result.t_final if result.status == "event" else np.inf), result.y_final
