"""A problem's flow with the derivatives of its state in numbers of the problem."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DimladderError
from .numerics.differences import derivative
from .prepare import Prepared

Array = NDArray[np.float64]
# A tangent that differs by more than this from a difference of the equations, relative to the largest, is not used:
# code that converges to a value by iteration need not converge to its derivative.
TRUSTED = 1e-9
# Further accuracy of the run that tells the error of the first, and the longest relative step in a number.
COARSER, STEP = 20.0, 0.1


class TangentFlow:
    """dy/dt = F and the derivatives of y in numbers of the problem; `of` makes it where it exists.

    Attributes
    ----------
    system : Flow
    p : array (k,)
    start : array (n,)
    parameter_slopes : array (numbers, k)
        Derivatives of the parameters of F in the numbers.
    start_slopes : array (numbers, n)
        Derivatives of the state at time 0.
    """

    def __init__(self, prepared: Prepared, base: Sequence[float], system: Any, function: Any) -> None:
        self.prepared, self.base, self.system, self.function = prepared, list(base), system, function
        self.p, self.start = system.parameters(), system.initial_state()
        self.size = system.work_size()

    @classmethod
    def of(cls, prepared: Prepared, base: Sequence[float]) -> TangentFlow | None:
        """Return the flow with its tangents; None for no flow, and where its equations have none to be trusted."""
        from .numerics.native import Refused
        from .symbolic.systems import Flow

        system = prepared.system(base)
        if not isinstance(system, Flow) or type(system).solve is not Flow.solve:
            return None
        asked = system.integration()
        compiled = getattr(asked["rhs"], "with_tangents", None)
        if compiled is None or asked.get("events") or asked.get("domain"):
            return None
        try:
            flow = cls(prepared, base, system, compiled())
        except Refused:
            return None
        return flow if flow._linearised() and flow._trusted() else None

    def at(self, k: int, x: float) -> Any:
        """Return the system with one number replaced; None where that is no problem."""
        try:
            return self.prepared.system([*self.base[:k], x, *self.base[k + 1 :]])
        except DimladderError:
            return None

    def _linearised(self) -> bool:
        """Differentiate parameters and start in the numbers; False where they jump."""
        both = len(self.p) + len(self.start)

        def numbers(x: float, k: int) -> Array | None:
            here = self.at(k, x)
            if here is None:
                return None
            found = np.concatenate([here.parameters(), here.initial_state()])
            return found if len(found) == both else None

        rows = []
        for k, x in enumerate(self.base):
            try:
                value, error = derivative(partial(numbers, k=k), x, STEP * (abs(x) or 1.0))
            except ValueError:
                return False
            if not (error <= TRUSTED * max(1.0, float(abs(value).max()))).all():
                return False
            rows.append(value)
        slopes = np.stack(rows)
        self.parameter_slopes, self.start_slopes = slopes[:, : len(self.p)], slopes[:, len(self.p) :]
        return True

    def _trusted(self) -> bool:
        """Compare the tangents at the start with differences of the equations."""
        rhs, n = self.system.module().rhs, len(self.start)
        rng = np.random.default_rng(0)
        t = 0.5 * float(self.system.times()[-1])
        directions = np.concatenate([self.start_slopes, 0.1 * rng.standard_normal((1, n))])
        slopes = np.concatenate([self.parameter_slopes, np.zeros((1, len(self.p)))])
        exact = self.along(t, self.start, directions, slopes)
        for state, parameters, tangent in zip(directions, slopes, exact, strict=True):

            def velocity(step: float, state: Array = state, parameters: Array = parameters) -> Array:
                out = np.empty(n)
                rhs(t, self.start + step * state, out, self.p + step * parameters, np.zeros(max(1, self.size)))
                return out

            longest = 0.05 * min(1.0, 1.0 / max(float(abs(state).max()), float(abs(parameters).max()), 1e-3))
            value, error = derivative(velocity, 0.0, longest)
            allowed = TRUSTED * max(1.0, float(abs(value).max())) + 10.0 * error
            if not (abs(value - tangent) <= allowed).all():
                return False
        return True

    def along(self, t: float, y: Array, states: Array, slopes: Array) -> Array:
        """Return the derivatives of F at (t, y) in directions of the state and of its parameters."""
        from .numerics import tangents

        return tangents.along(self.function, t, y, self.p, self.size, states, slopes)

    def integrated(self) -> tuple[Array, Array, Array, Array]:
        """Return times, states (time, n), their derivatives (numbers, time, n), and the errors of these."""
        from .numerics import tangents
        from .numerics.ode import integrate

        n, m = len(self.start), len(self.base)
        asked = self.system.integration()
        scale = np.array([abs(x) or 1.0 for x in self.base])
        atol = np.broadcast_to(asked["atol"], n)
        options = {k: v for k, v in asked.items() if k not in ("rhs", "jac", "names", "work_size", "rtol", "atol")}
        options |= {"blow_up": 1e100, "work_size": tangents.work_size(n, len(self.p), self.size)}
        parameters = tangents.tangent_parameters(self.function, n, self.p, self.parameter_slopes, self.size)
        found = []
        for factor in (1.0, COARSER):
            y0 = np.concatenate([self.start, self.start_slopes.ravel()])
            tolerances = factor * np.concatenate([atol, *(atol / s for s in scale)])
            rtol = factor * asked["rtol"]
            result = integrate(tangents.rhs.compiled, y0, p=parameters, rtol=rtol, atol=tolerances, **options)
            found.append(result.y.reshape(len(result.t), m + 1, n))
        rows = min(map(len, found))
        fine, coarse = (f[:rows] for f in found)
        tangent = fine[:, 1:].transpose(1, 0, 2)
        return result.t[:rows], fine[:, 0], tangent, abs(tangent - coarse[:, 1:].transpose(1, 0, 2))

    def transition(self, u: float, begin: float, end: float, y: Array) -> tuple[Array, Array, Array] | None:
        """Integrate from one time to another with the first number at `u`.

        Returns
        -------
        end, transition, slope : arrays (n,), (n, n), (n,)
            The state, ``transition[j]`` its derivative in entry j of the state at the beginning, and that in the
            number; None where the integration fails.
        """
        found = self.advance(u, begin, end, y, np.eye(len(y)))
        return None if found is None else (found[0], found[1][:-1], found[1][-1])

    def advance(self, u: float, begin: float, end: float, y: Array, along: Array) -> tuple[Array, Array] | None:
        """Integrate from one time to another with the first number at `u`, and the derivatives of the state with it.

        Parameters
        ----------
        along : array (m, n)
            Derivatives of the state at the beginning.

        Returns
        -------
        end, along : arrays (n,), (m + 1, n)
            The state and its derivatives at the end, that in the number last; None where the integration fails.
        """
        from .numerics import tangents
        from .numerics.ode import integrate

        system = self.at(0, u)
        if system is None:
            return None
        n, m = len(y), len(along)
        p = system.parameters()
        slopes = np.zeros((m + 1, len(p)))
        slopes[m] = self._slopes_at(u)
        asked = system.integration()
        kept = ("method", "max_steps", "autonomous", "pieces", "output")
        options: dict[str, Any] = {k: v for k, v in asked.items() if k in kept}
        start = np.concatenate([y, along.ravel(), np.zeros(n)])
        atol = np.concatenate([np.broadcast_to(asked["atol"], n), np.full(n * (m + 1), float(np.max(asked["atol"])))])
        result = integrate(
            tangents.rhs.compiled, start, [end], t0=begin, rtol=asked["rtol"], atol=atol, blow_up=asked["blow_up"],
            work_size=tangents.work_size(n, len(p), self.size),
            p=tangents.tangent_parameters(self.function, n, p, slopes, self.size), **options,
        )  # fmt: skip
        if result.status != "success":
            return None
        full = result.y_final.reshape(m + 2, n)
        return full[0], full[1:]

    def _slopes_at(self, u: float) -> Array:
        """Return the derivative of the parameters in the first number."""

        def parameters(x: float) -> Array | None:
            here = self.at(0, x)
            return None if here is None else np.asarray(here.parameters())

        return derivative(parameters, u, STEP * (abs(u) or 1.0))[0]
