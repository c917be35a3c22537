"""The state evolution of a convex minimiser as numbers: one point, curves in the sample ratio, the best ridge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SolveError
from ...numerics import fixedpoint
from ...numerics.addresses import packed
from ...numerics.denoisers import SIDE_TYPE
from ...numerics.label_channel import CHANNEL_TYPE
from .best_ridge import least_in_ridge, slope_along
from .channel import Averages, Channel
from .equations import WORK, algebra, evaluated
from .penalty import RidgeSide
from .regression import RidgeFit, fit_at, ridge_fit

Array = NDArray[np.float64]
_NAMES = ("log V", "log q", "the angle of q and m", "b")


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
    fit : RidgeFit or None
        More of it, for ridge regression.
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
    fit: RidgeFit | None = None


class StateEvolution:
    """The fixed point for one channel and one prior side.

    Parameters
    ----------
    channel : Channel
    side : RidgeSide or PenaltySide
    rho : float
    constant : bool
        Whether an unpenalised constant b is fitted.
    """

    def __init__(
        self, channel: Channel, side: Any, rho: float, constant: bool = False, *, rtol: float = 1e-12,
        damping: float = 0.5, max_iterations: int = 2000,
    ) -> None:  # fmt: skip
        self.channel, self.side, self.rho, self.constant = channel, side, rho, constant
        self.options: dict[str, Any] = {"rtol": rtol, "atol": rtol, "damping": damping}
        self.options["max_iterations"] = max_iterations
        self.direct = channel.closed and isinstance(side, RidgeSide)
        self._work, self._seen = np.zeros(WORK), np.zeros(8)

    @cached_property
    def _data(self) -> Array:
        """Parameters of the compiled map; alpha and ridge are put in."""
        c, s = self.channel, self.side
        seen = c.data()
        head = np.array([0.0, self.side.psi, self.rho, 0.0, float(seen.size)])
        functions = packed([(c.compiled, CHANNEL_TYPE), (s.compiled, SIDE_TYPE)])
        return np.concatenate([functions, head, seen, s.data()])

    def parameters(self, alpha: float, ridge: float) -> Array:
        """Parameters of the compiled map."""
        p = self._data.copy()
        p[4], p[7] = alpha, ridge
        return p

    def unpack(self, x: Array) -> tuple[float, float, float, float]:
        """V, q, m, b of free coordinates."""
        V, q = math.exp(x[0]), math.exp(x[1])
        return V, q, math.tanh(x[2]) * math.sqrt(q * self.rho), float(x[3]) if self.constant else 0.0

    def pack(self, V: float, q: float, m: float, b: float) -> Array:
        """Free coordinates of a state inside the domain."""
        free = [math.log(V), math.log(q), math.atanh(m / math.sqrt(q * self.rho)), b]
        return np.array(free[: 4 if self.constant else 3])

    def averages(self, V: float, q: float, m: float, b: float = 0.0) -> Averages:
        """All averages of the channel at one state; NaN outside the domain."""
        self.channel.compiled(self._data, 9, V, q, m, b, True, self._seen)
        return Averages(*(float(a) for a in self._seen))

    def conjugates(self, x: Array, alpha: float) -> tuple[float, float, float, Averages]:
        """V^, q^, m^ and the averages they come from."""
        e = self.averages(*self.unpack(x))
        vh, qh, mh = evaluated("conjugates", alpha, self.side.psi, e.ff, e.fv, e.fz)
        return vh, qh, mh, e

    def step(self, x: Array, alpha: float, ridge: float) -> Array:
        """F(x) in free coordinates; NaN outside the domain."""
        out = np.empty(x.size)
        algebra().fmap(np.ascontiguousarray(x), out, self.parameters(alpha, ridge), self._work)
        return out

    def start(self, ridge: float) -> Array:
        """A heavily regularised state."""
        scale = max(self.side.scale, 1e-300)
        return self.pack(scale / (ridge + 0.5), 0.3 * self.rho, 0.3 * self.rho * self._sign(), self._mean())

    def _sign(self) -> float:
        slope = self.channel.law.moments(self.rho)[2]
        return 0.0 if abs(slope) < 1e-13 else math.copysign(1.0, slope)

    def _mean(self) -> float:
        return self.channel.law.moments(self.rho)[0] if self.constant and self.channel.closed else 0.0

    def _solve(self, x: Array, alpha: float, ridge: float, warm: bool = False) -> fixedpoint.FixedPointResult:
        return fixedpoint.solve(
            algebra().fmap, x, self.parameters(alpha, ridge), work_size=WORK, warm=warm, names=_NAMES, **self.options
        )

    def solve(self, alpha: float, ridge: float, near: Point | None = None) -> Point:
        """Solve at one sample ratio and ridge; from `near` where given, from a path in the ridge where that fails.

        Raises
        ------
        SolveError
            When the path stops: with the reason.
        """
        if self.direct:
            return self._ridge_point(alpha, ridge)
        start = self.start(ridge) if near is None else near.x
        return self._settled(self._solve(start, alpha, ridge, near is not None), alpha, ridge)

    def _settled(self, root: fixedpoint.FixedPointResult, alpha: float, ridge: float) -> Point:
        """The point of a root, or of a second and a third attempt where it is none."""
        if not root.success:
            root = self._solve(self.start(ridge), alpha, ridge)
        if not root.success:
            root = self._down(alpha, ridge)
        return self._point(root.x, alpha, ridge, root.residual, int(root.stats["evaluations"]))

    def coordinates(self, point: Point) -> Array:
        """Free coordinates of a solution: those of the map, or log z where all else is a closed form in it."""
        return point.x if point.fit is None else np.array([math.log(point.fit.z)])

    def residual(self, coordinates: Array, alpha: float, ridge: float) -> Array:
        """What vanishes at a solution; NaN outside the domain."""
        if self.direct:
            return np.array([self._known_fit(coordinates, alpha, ridge)[1]])
        return self.step(coordinates, alpha, ridge) - coordinates

    def at(self, coordinates: Array, alpha: float, ridge: float) -> Point:
        """The point that has these coordinates."""
        if self.direct:
            return self._ridge_point(alpha, ridge, self._known_fit(coordinates, alpha, ridge)[0])
        return self._point(coordinates, alpha, ridge)

    def _known_fit(self, coordinates: Array, alpha: float, ridge: float) -> tuple[RidgeFit, float]:
        moments = self.channel.moments
        b = moments[0] if self.constant else 0.0
        z = math.exp(coordinates[0])
        return fit_at(self.side.covariance, alpha, ridge, moments, b, self.channel.loss.square, z)

    def _ridge_point(self, alpha: float, ridge: float, known: RidgeFit | None = None) -> Point:
        """Square loss and l2 penalty: one root, and closed forms."""
        k = self.channel.loss.square
        b = self.channel.moments[0] if self.constant else 0.0
        fit = known or ridge_fit(self.side.covariance, alpha, ridge, self.channel.moments, b, k)
        f, ff, fv, fz, _, _ = evaluated("square", k * fit.V, fit.q, fit.m, b, *self.channel.moments)
        e = Averages(k * f, k * k * ff, k * fv, k * fit.train / 2, k * fit.test / 2, k * fz, math.nan, (k * fv) ** 2)
        Vh, qh, mh = evaluated("conjugates", alpha, self.side.psi, e.ff, e.fv, e.fz)
        norm = evaluated("overlaps", Vh, qh, mh, fit.z, fit.g, fit.Dg, fit.h, fit.Dh)[3]
        inside = fit.q * self.rho > fit.m * fit.m
        x = self.pack(fit.V, fit.q, fit.m, b) if inside else np.full(4 if self.constant else 3, math.nan)
        return Point(alpha, ridge, fit.V, fit.q, fit.m, b, Vh, qh, mh, norm, e, x, 0.0, 1, fit)

    def _down(self, alpha: float, ridge: float) -> fixedpoint.FixedPointResult:
        """Follow the solution from a comfortable ridge by secants in its logarithm."""
        from_ridge = max(1.0, ridge)
        here = self._solve(self.start(from_ridge), alpha, from_ridge)
        if not here.success:
            from_ridge = 100.0 * from_ridge
            here = self._solve(self.start(from_ridge), alpha, from_ridge)
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
            trial = self._solve(guess, alpha, at, True)
            if trial.success:
                before, here, reached = (reached, here.x), trial, to
                size *= 1.5
            else:
                size *= 0.4
                if size < 1e-4:
                    raise self._failure(alpha, at, trial)
        return here

    def _failure(self, alpha: float, ridge: float, root: fixedpoint.FixedPointResult) -> SolveError:
        return SolveError(
            "the fixed point was not reached",
            status="max_iterations",
            where=f"sample_ratio = {alpha:g}, ridge = {ridge:g}",
            why=root.message,
            hint="raise loss.ridge; without a penalty the minimiser may not exist (separable data)",
        )

    def _point(self, x: Array, alpha: float, ridge: float, residual: float = 0.0, evaluations: int = 0) -> Point:
        V, q, m, b = self.unpack(x)
        Vh, qh, mh, e = self.conjugates(x, alpha)
        # The overlaps of the map at this state, without another call of the channel.
        self.side.compiled(Vh, qh, mh, ridge, self._data[9 + int(self._data[8]) :], self._work[8:])
        norm = float(self._work[11])
        return Point(alpha, ridge, V, q, m, b, Vh, qh, mh, norm, e, x, residual, evaluations)

    def curve(self, ratios: Sequence[float], ridges: Sequence[float] | float) -> list[Point | SolveError]:
        """Solve at every sample ratio, from small to large, each from the last; failures stand in their place."""
        values = np.asarray(ratios, dtype=float)
        penalties = np.broadcast_to(np.asarray(ridges, dtype=float), values.shape)
        out: list[Point | SolveError] = [SolveError("not reached", status="failed")] * values.size
        order = np.argsort(values, kind="stable")
        roots: list[Any] = [None] * values.size
        if not self.direct:
            table = np.array([self.parameters(float(values[i]), float(penalties[i])) for i in order])
            roots = list(
                fixedpoint.follow(
                    algebra().fmap, self.start(float(penalties[order[0]])), table, work_size=WORK, names=_NAMES,
                    **self.options,
                )
            )  # fmt: skip
        for i, root in zip(order, roots, strict=True):
            alpha, ridge = float(values[i]), float(penalties[i])
            try:
                out[i] = self._ridge_point(alpha, ridge) if root is None else self._settled(root, alpha, ridge)
            except SolveError as error:
                out[i] = error
        return out

    def slope(self, coordinates: Array, alpha: float, t: float, observable: Callable[[Point], float]) -> float:
        """Derivative of an observable in log ridge at a solution, whose log ridge is t."""
        return slope_along(
            lambda x, s: self.residual(x, alpha, math.exp(t + s)),
            lambda x, s: observable(self.at(x, alpha, math.exp(t + s))),
            coordinates,
        )

    def best_ridge(self, alpha: float, observable: Callable[[Point], float], near: Point | None = None) -> Point:
        """Minimise an observable over the ridge.

        Raises
        ------
        SolveError
            When the observable has no minimum inside `best_ridge.RIDGE_RANGE`.
        """
        seen: dict[float, Point] = {}

        def at(t: float) -> Point:
            if t not in seen:
                close = min(seen, key=lambda s: abs(s - t)) if seen else None
                seen[t] = self.solve(alpha, math.exp(t), seen[close] if close is not None else near)
            return seen[t]

        def slope(t: float) -> float:
            return self.slope(self.coordinates(at(t)), alpha, t, observable)

        return at(least_in_ridge(slope, math.log(near.ridge) if near is not None else 0.0, alpha))
