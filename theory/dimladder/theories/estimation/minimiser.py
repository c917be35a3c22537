"""The state evolution of a convex minimiser as numbers: one point, curves in the sample ratio, the best ridge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SolveError
from . import fixed_point
from .channel import Averages, Channel
from .equations import algebra

Array = NDArray[np.float64]
# The ridge is searched for between these.
RIDGE_RANGE = (1e-8, 1e8)


@dataclass(frozen=True)
class Point:
    """A solution at one sample ratio and ridge.

    Attributes
    ----------
    V, q, m, b : float
        Response, E u^2, E u z, constant.
    Vh, qh, mh : float
        Conjugates.
    norm : float
        |w|^2/k.
    averages : Averages
    x : ndarray
        Free coordinates (log V, log q, atanh(m/sqrt(q rho)), b).
    """

    alpha: float
    ridge: float
    V: float
    q: float
    m: float
    b: float
    Vh: float
    qh: float
    mh: float
    norm: float
    averages: Averages
    x: Array
    residual: float
    evaluations: int


class StateEvolution:
    """The fixed point for one channel and one prior side.

    Parameters
    ----------
    channel : Channel
    side : object
        ``side.overlaps(Vh, qh, mh, ridge) -> (V, q, m, norm)`` and ``side.psi``.
    rho : float
    constant : bool
        Whether an unpenalised constant b is fitted.
    """

    def __init__(self, channel: Channel, side: Any, rho: float, constant: bool = False, **options: Any) -> None:
        self.channel, self.side, self.rho, self.constant = channel, side, rho, constant
        self.options = options

    def unpack(self, x: Array) -> tuple[float, float, float, float]:
        """V, q, m, b of free coordinates."""
        with np.errstate(over="ignore"):
            V, q = float(np.exp(x[0])), float(np.exp(x[1]))
        m = math.tanh(x[2]) * math.sqrt(q * self.rho)
        return V, q, m, float(x[3]) if self.constant else 0.0

    def pack(self, V: float, q: float, m: float, b: float) -> Array:
        """Free coordinates; NaN outside the domain."""
        if not (V > 0 and q > 0 and math.isfinite(V + q + m + b)):
            return np.full(4 if self.constant else 3, math.nan)
        c = m / math.sqrt(q * self.rho)
        if not abs(c) < 1.0:
            return np.full(4 if self.constant else 3, math.nan)
        return np.array([math.log(V), math.log(q), math.atanh(c), b][: 4 if self.constant else 3])

    def conjugates(self, x: Array, alpha: float) -> tuple[float, float, float, Averages]:
        """V^, q^, m^ and the averages they come from."""
        V, q, m, b = self.unpack(x)
        e = self.channel.averages(V, q, m, b)
        return (*algebra().conjugates(alpha, self.side.psi, e.ff, e.fv, e.fz), e)

    def step(self, x: Array, alpha: float, ridge: float) -> Array:
        """F(x) in free coordinates."""
        Vh, qh, mh, e = self.conjugates(x, alpha)
        if not (Vh > 0.0 and math.isfinite(Vh + qh + mh)):
            return np.full(x.size, math.nan)
        V, q, m, _ = self.side.overlaps(Vh, qh, mh, ridge)
        # E f = 0 at the solution; the division makes it a Newton step.
        b = float(x[3]) + e.f / e.fv if self.constant else 0.0
        return self.pack(V, q, m, b)

    def start(self, ridge: float) -> Array:
        """A heavily regularised state."""
        scale = max(self.side.scale, 1e-300)
        return self.pack(scale / (ridge + 0.5), 0.3 * self.rho, 0.3 * self.rho * self._sign(), self._mean())

    def _sign(self) -> float:
        slope = self.channel.law.moments(self.rho)[2]
        return 0.0 if abs(slope) < 1e-13 else math.copysign(1.0, slope)

    def _mean(self) -> float:
        return self.channel.law.moments(self.rho)[0] if self.constant and self.channel.closed else 0.0

    def _solve(self, x: Array, alpha: float, ridge: float, known: Array | None) -> fixed_point.Root:
        return fixed_point.solve(lambda y: self.step(y, alpha, ridge), x, known=known, **self.options)

    def solve(self, alpha: float, ridge: float, near: Point | None = None, known: Array | None = None) -> Point:
        """Solve at one sample ratio and ridge; from `near` where given, from a path in the ridge where that fails.

        Raises
        ------
        SolveError
            When the path stops: with the reason.
        """
        root = self._solve(near.x if near is not None else self.start(ridge), alpha, ridge, known)
        if not root.success and near is not None:
            root = self._solve(self.start(ridge), alpha, ridge, None)
        if not root.success:
            root = self._down(alpha, ridge)
        return self._point(root, alpha, ridge)

    def _down(self, alpha: float, ridge: float) -> fixed_point.Root:
        """Follow the solution from a comfortable ridge by secants in its logarithm."""
        from_ridge = max(1.0, ridge)
        here = self._solve(self.start(from_ridge), alpha, from_ridge, None)
        if not here.success:
            from_ridge = 100.0 * from_ridge
            here = self._solve(self.start(from_ridge), alpha, from_ridge, None)
        if not here.success:
            raise self._failure(alpha, from_ridge, here)
        total, reached, size = math.log(ridge / from_ridge), 0.0, 0.1
        before: tuple[float, Array] | None = None
        while reached < 1.0:
            to = min(1.0, reached + size)
            at = ridge if to == 1.0 else from_ridge * math.exp(total * to)
            guess = here.x
            if before is not None:
                guess = here.x + (to - reached) / (reached - before[0]) * (here.x - before[1])
            trial = self._solve(guess, alpha, at, None)
            if trial.success:
                before, here, reached = (reached, here.x), trial, to
                size *= 1.5
            else:
                size *= 0.4
                if size < 1e-4:
                    raise self._failure(alpha, at, trial)
        return here

    def _failure(self, alpha: float, ridge: float, root: fixed_point.Root) -> SolveError:
        return SolveError(
            "the fixed point was not reached",
            status="max_iterations",
            where=f"sample_ratio = {alpha:g}, ridge = {ridge:g}",
            why=root.message,
            hint="raise loss.ridge; without a penalty the minimiser may not exist (separable data)",
        )

    def _point(self, root: fixed_point.Root, alpha: float, ridge: float) -> Point:
        V, q, m, b = self.unpack(root.x)
        Vh, qh, mh, e = self.conjugates(root.x, alpha)
        norm = self.side.overlaps(Vh, qh, mh, ridge)[3]
        return Point(alpha, ridge, V, q, m, b, Vh, qh, mh, norm, e, root.x, root.residual, root.evaluations)

    def curve(self, ratios: Sequence[float], ridges: Sequence[float] | float) -> list[Point | SolveError]:
        """Solve at every sample ratio, from small to large, each from the last; failures stand in their place."""
        values = np.asarray(ratios, dtype=float)
        penalties = np.broadcast_to(np.asarray(ridges, dtype=float), values.shape)
        out: list[Point | SolveError] = [SolveError("not reached", status="failed")] * values.size
        last: Point | None = None
        before: Point | None = None
        for i in np.argsort(values, kind="stable"):
            near = last
            if last is not None and before is not None and last.alpha > before.alpha:
                # Secant in log alpha.
                t = math.log(values[i] / last.alpha) / math.log(last.alpha / before.alpha)
                if t <= 1.5:
                    near = Point(**{**last.__dict__, "x": last.x + t * (last.x - before.x)})
            try:
                point = self.solve(float(values[i]), float(penalties[i]), near)
            except SolveError as error:
                out[i] = error
                continue
            out[i] = point
            before, last = last, point
        return out

    def best_ridge(
        self, alpha: float, observable: Callable[[Point], float], near: Point | None = None, rtol: float = 1e-10
    ) -> Point:
        """Minimise an observable over the ridge.

        The derivative along the solution is that of the implicit function: one linear solve with the Jacobian of the
        map. Its root in log ridge is bracketed from a coarse walk, then found by Brent's method.

        Raises
        ------
        SolveError
            When the observable has no minimum inside `RIDGE_RANGE`.
        """
        from scipy.optimize import brentq

        seen: dict[float, Point] = {}

        def at(t: float) -> Point:
            if t not in seen:
                close = min(seen, key=lambda s: abs(s - t)) if seen else None
                seen[t] = self.solve(alpha, math.exp(t), seen[close] if close is not None else near)
            return seen[t]

        def slope(t: float) -> float:
            point = at(t)

            def value(x: Array) -> float:
                V, q, m, b = self.unpack(x)
                Vh, qh, mh, e = self.conjugates(x, alpha)
                return observable(Point(**{**point.__dict__, "V": V, "q": q, "m": m, "b": b, "averages": e, "x": x,
                                           "Vh": Vh, "qh": qh, "mh": mh}))  # fmt: skip

            dx = fixed_point.sensitivity(lambda x, s: self.step(x, alpha, math.exp(s)), point.x, t)
            size = 1e-5 / max(1.0, float(np.max(np.abs(dx))))
            return (value(point.x + size * dx) - value(point.x - size * dx)) / (2.0 * size)

        low_end, high_end = (math.log(r) for r in RIDGE_RANGE)
        t = math.log(near.ridge) if near is not None else 0.0
        first = slope(t)
        direction = -1.0 if first > 0 else 1.0
        stride, last = 0.5, t
        while True:
            t = min(max(last + direction * stride, low_end), high_end)
            here = slope(t)
            if here == 0.0:
                return at(t)
            if (here > 0) != (first > 0):
                break
            if t in (low_end, high_end):
                side = "smallest" if t == low_end else "largest"
                raise SolveError(
                    "there is no best ridge",
                    status="no_minimum",
                    where=f"sample_ratio = {alpha:g}",
                    why=f"the observable still improves at the {side} ridge tried, {math.exp(t):g}",
                    hint="give loss.ridge as a number, or another loss.optimise",
                )
            last, stride = t, 1.6 * stride
        root = brentq(slope, min(last, t), max(last, t), xtol=rtol, rtol=1e-14)
        return at(float(root))


class RidgeSide:
    """The prior side of an l2 penalty: any spectrum, any layers.

    Parameters
    ----------
    covariance : Covariance
    """

    def __init__(self, covariance: Any) -> None:
        self.covariance, self.psi = covariance, covariance.psi
        self.scale = float(np.sum(covariance.shares * covariance.eigenvalues))

    def overlaps(self, Vh: float, qh: float, mh: float, ridge: float) -> tuple[float, float, float, float]:
        """V, q, m and |w|^2/k."""
        z = ridge / Vh
        result: tuple[float, float, float, float] = algebra().overlaps(Vh, qh, mh, z, *self.covariance.resolvents(z))
        return result
