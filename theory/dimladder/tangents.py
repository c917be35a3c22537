"""What a theory solves, together with its derivatives in numbers of the problem.

A flow is integrated with them, a map carries them along, and those of a root follow from the equations it solves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .errors import DimladderError
from .numerics.differences import derivative
from .prepare import Prepared

if TYPE_CHECKING:
    from .numerics.adjoint import Reverse, Trajectory

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
# A tangent that differs by more than this from a difference of the equations, relative to the largest, is not used:
# code that converges to a value by iteration need not converge to its derivative.
TRUSTED = 1e-9
# Derivatives of a root, or of readings by their adjoint, with a larger error, relative to the largest, are not used:
# another way may do better.
SURE = 1e-8
# Further accuracy of the run that tells the error of the first, and the longest relative step in a number.
COARSER, STEP = 20.0, 0.1
# A sweep back costs as much as so many directions forwards, and so many more for each reading.
FORWARDS, PER_READING = 12, 3
# Directions whose share is smaller are combinations of the others.
RANK = 1e-13


def step_of(value: float) -> float:
    """Return the longest step of differences in a number."""
    return STEP * (abs(value) or 1.0)


def tangents_of(prepared: Prepared, base: Sequence[float]) -> Tangents | None:
    """Return a system with its derivatives in the open numbers; None where there are none but differences."""
    for kind in (TangentFlow, TangentMap, TangentRoots):
        found = kind.of(prepared, base)
        if found is not None:
            return found
    return None


class Tangents(ABC):
    """A system, and what it becomes when one of its numbers moves.

    Attributes
    ----------
    method : str
        How derivatives are found.
    prepared : Prepared
    base : list of float
        Values of its open keys.
    system : System
    """

    method: ClassVar[str]

    def __init__(self, prepared: Prepared, base: Sequence[float], system: Any) -> None:
        self.prepared, self.base, self.system = prepared, list(base), system

    @classmethod
    @abstractmethod
    def of(cls, prepared: Prepared, base: Sequence[float]) -> Self | None:
        """Return the system with its derivatives; None where it has none of this kind, or none to be trusted."""

    @abstractmethod
    def solved(self) -> tuple[Array, Array, Array] | None:
        """Return states (points, n), their derivatives (numbers, points, n), and the errors of these."""

    @abstractmethod
    def read(self, system: Any, states: Array) -> dict[str, Any]:
        """Return the variables of a system in these states."""

    def fewer_backwards(self, readings: int) -> bool:
        """Whether derivatives of so many readings cost less carried back than with the state."""
        return False

    def traced(self) -> tuple[Array, Callable[[Array, Indices], tuple[Array, Array]]] | None:
        """Return the states at the outputs, and how cotangents of them are carried back; None where that cannot be.

        Returns
        -------
        states : array (points, n)
        back : callable
            ``back(seeds, outputs)``, arrays (m, n) and (m,): the derivatives (m, numbers) of m readings, each with its
            cotangent of the state at one output, and their errors.
        """
        return None

    def at(self, k: int, x: float) -> Any:
        """Return the system with one number replaced; None where that is no problem."""
        try:
            system = self.prepared.system([*self.base[:k], x, *self.base[k + 1 :]])
        except DimladderError:
            return None
        system.settle(self.system)
        return system


class _Compiled(Tangents):
    """A compiled function of state and parameters, with tangents.

    Attributes
    ----------
    p : array (k,)
    start : array (n,)
    parameter_slopes : array (numbers, k)
        Derivatives of the parameters of F in the numbers.
    start_slopes : array (numbers, n)
        Derivatives of the state at time 0.
    """

    method = "tangents"

    def __init__(self, prepared: Prepared, base: Sequence[float], system: Any, function: Any) -> None:
        super().__init__(prepared, base, system)
        system.settle()
        self.function = function
        self.p, self.start = system.parameters(), system.initial_state()
        self.size = int(system.work_size())

    @classmethod
    @abstractmethod
    def _function(cls, system: Any) -> Any:
        """Return the compiled function; None where it has no tangents."""

    @classmethod
    def of(cls, prepared: Prepared, base: Sequence[float]) -> Self | None:
        from .numerics.native import Refused

        system = prepared.system(base)
        compiled = getattr(cls._function(system), "with_tangents", None)
        if compiled is None:
            return None
        try:
            found = cls(prepared, base, system, compiled())
        except Refused:
            return None
        return found if found._linearised() and found._trusted() else None

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
                value, error = derivative(partial(numbers, k=k), x, step_of(x))
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

    @cached_property
    def reverse(self) -> Reverse:
        """What multiplies the derivatives of F from the left.

        Raises
        ------
        DimladderError
            When it is not the transpose of the tangents.
        """
        from .numerics.adjoint import Reverse

        found = Reverse(self._function(self.system).with_tape(), len(self.start), len(self.p), self.size)
        rng = np.random.default_rng(1)
        left, state, parameter = (rng.standard_normal((1, n)) for n in (len(self.start), len(self.start), len(self.p)))
        t = 0.5 * float(self.system.times()[-1])
        forwards = self.along(t, self.start, state, parameter) * left
        backwards = found.at(t, self.start, self.p, left) * np.concatenate([state, parameter], axis=1)
        if not abs(forwards.sum() - backwards.sum()) <= TRUSTED * (abs(forwards).sum() + abs(backwards).sum()):
            raise DimladderError(
                "cotangents are not the transpose of the tangents", where=self.system.problem.theory,
                why="the compiled equations keep something from call to call", hint="method = tangents",
            )  # fmt: skip
        return found

    def in_numbers(self, cotangents: Array) -> Array:
        """Return the derivatives in the numbers, (m, numbers), of what has these in the start and in the parameters."""
        return cotangents @ np.concatenate([self.start_slopes, self.parameter_slopes], axis=1).T

    def fewer_backwards(self, readings: int) -> bool:
        directions = min(len(self.base), len(self.start) + len(self.p))
        return directions > FORWARDS + PER_READING * readings


class TangentMap(_Compiled):
    """x[n+1] = F(x[n]) and the derivatives of x: s[n+1] = F_x s[n] + F_p dp/dtheta."""

    @classmethod
    def _function(cls, system: Any) -> Any:
        from .symbolic.systems import Map

        return system.module().rhs if isinstance(system, Map) else None

    def solved(self) -> tuple[Array, Array, Array]:
        steps = self.system.times().astype(int)
        last = int(steps.max(initial=0))
        states, tangents = self.system.iterate(last), np.empty((last + 1, *self.start_slopes.shape))
        tangents[0] = self.start_slopes
        for n in range(last):
            tangents[n + 1] = self.along(float(n), states[n], tangents[n], self.parameter_slopes)
        kept = tangents[steps].transpose(1, 0, 2)
        # Each step rounds once more.
        return states[steps], kept, np.finfo(float).eps * (1.0 + steps[:, None]) * abs(kept)

    def traced(self) -> tuple[Array, Callable[[Array, Indices], tuple[Array, Array]]]:
        steps = self.system.times().astype(int)
        states = self.system.iterate(int(steps.max(initial=0)))

        def back(seeds: Array, outputs: Indices) -> tuple[Array, Array]:
            found = self.reverse.through(states, self.p, seeds, steps[outputs])
            both = self.in_numbers(found)
            return both, np.finfo(float).eps * (1.0 + steps[outputs, None]) * abs(both)

        return states[steps], back

    def read(self, system: Any, states: Array) -> dict[str, Any]:
        return dict(system.variables(self.system.times(), states))


class TangentRoots(Tangents):
    """The roots of R(x; theta) = 0 at every point of a grid: R_x dx/dtheta = -R_theta."""

    method = "implicit"

    def __init__(self, prepared: Prepared, base: Sequence[float], system: Any, states: Array) -> None:
        super().__init__(prepared, base, system)
        self.states = states

    @classmethod
    def of(cls, prepared: Prepared, base: Sequence[float]) -> Self | None:
        from .symbolic.systems import FixedPoint

        system = prepared.system(base)
        states = system.roots() if isinstance(system, FixedPoint) else None
        return None if states is None else cls(prepared, base, system, states)

    def solved(self) -> tuple[Array, Array, Array] | None:
        from .numerics.implicit import response

        def drive(h: float, k: int, x: float) -> Array | None:
            here = self.at(k, x + h)
            try:
                found = None if here is None else here.residual(self.states)
            except DimladderError:
                return None
            return found if found is not None and np.isfinite(found).all() else None

        drives = [(partial(drive, k=k, x=x), step_of(x)) for k, x in enumerate(self.base)]
        try:
            slopes, errors = response(self.system.residual, self.states, drives)
        except (ValueError, np.linalg.LinAlgError):
            return None
        sure = errors.max() <= SURE * max(1.0, float(abs(slopes).max()))
        return (self.states, slopes, errors) if sure else None

    def read(self, system: Any, states: Array) -> dict[str, Any]:
        return dict(system.variables(states))


class TangentFlow(_Compiled):
    """dy/dt = F and the derivatives of y in numbers of the problem."""

    @classmethod
    def _function(cls, system: Any) -> Any:
        from .symbolic.systems import Flow

        if not isinstance(system, Flow) or not system.settled:
            return None
        asked = system.integration()
        return None if asked.get("events") or asked.get("domain") else asked["rhs"]

    def solved(self) -> tuple[Array, Array, Array] | None:
        times, states, tangents, errors = self.integrated()
        if len(times) != len(self.system.integration()["t_eval"]):
            return None
        skip = len(times) - len(self.system.times())
        return states[skip:], tangents[:, skip:], errors[:, skip:]

    def read(self, system: Any, states: Array) -> dict[str, Any]:
        return dict(system.variables(self.system.times(), states))

    def integrated(self) -> tuple[Array, Array, Array, Array]:
        """Return times, states (time, n), their derivatives (numbers, time, n), and the errors of these.

        No more directions are integrated than state and parameters span, however many the numbers: with those of the
        whole span known, the derivatives in all numbers are combinations.
        """
        from .numerics import tangents
        from .numerics.ode import integrate

        n = len(self.start)
        scale = np.array([abs(x) or 1.0 for x in self.base])
        mixing, sizes, directions = np.linalg.svd(
            scale[:, None] * np.concatenate([self.start_slopes, self.parameter_slopes], axis=1), full_matrices=False
        )
        m = max(1, int((sizes > RANK * sizes[0]).sum()))
        if m < len(self.base):
            mixing, directions = mixing[:, :m] / scale[:, None], sizes[:m, None] * directions[:m]
        else:
            m = len(self.base)
            mixing, directions = np.diag(1.0 / scale), mixing * sizes @ directions
        asked = self.system.integration()
        atol = np.tile(np.broadcast_to(asked["atol"], n), m + 1)
        options = {k: v for k, v in asked.items() if k not in ("rhs", "jac", "names", "work_size", "rtol", "atol")}
        options |= {"blow_up": 1e100, "work_size": tangents.work_size(n, len(self.p), self.size)}
        parameters = tangents.tangent_parameters(self.function, n, self.p, directions[:, n:], self.size)
        found = []
        for factor in (1.0, COARSER):
            y0 = np.concatenate([self.start, directions[:, :n].ravel()])
            result = integrate(
                tangents.rhs.compiled, y0, p=parameters, rtol=factor * asked["rtol"], atol=factor * atol, **options
            )
            found.append(result.y.reshape(len(result.t), m + 1, n))
        rows = min(map(len, found))
        fine, coarse = (f[:rows] for f in found)
        tangent, other = (np.einsum("km,tmi->kti", mixing, f[:, 1:]) for f in (fine, coarse))
        return result.t[:rows], fine[:, 0], tangent, abs(tangent - other)

    def traced(self) -> tuple[Array, Callable[[Array, Indices], tuple[Array, Array]]] | None:
        asked = self.system.integration()
        paths = [self.path(self.p, asked["t_eval"], self.start, looser=factor) for factor in (1.0, COARSER)]
        if any(path is None for path in paths):
            return None
        fine, coarse = (path for path in paths if path is not None)
        skip = len(asked["t_eval"]) - len(self.system.times())

        def back(seeds: Array, outputs: Indices) -> tuple[Array, Array]:
            found, other = (
                self.in_numbers(self.pulled(path, self.p, seeds, path.nodes[outputs + skip])) for path in (fine, coarse)
            )
            return found, abs(found - other)

        return fine.states[fine.nodes[skip:]], back

    def path(self, p: Array, times: Array, y: Array, begin: float = 0.0, looser: float = 1.0) -> Trajectory | None:
        """Integrate from a state at `begin`; None where that fails, or no explicit method arrives."""
        from .numerics.adjoint import trajectory

        asked = self.system.integration()
        options = {k: v for k, v in asked.items() if k in ("max_steps", "pieces", "blow_up")}
        return trajectory(
            asked["rhs"], y, times, p, work_size=self.size, asked=asked["method"], rtol=looser * asked["rtol"],
            atol=looser * asked["atol"], t0=begin, **options,
        )  # fmt: skip

    def pulled(self, path: Trajectory, p: Array, seeds: Array, nodes: Indices) -> Array:
        """Return the cotangents (m, n + k) of the beginning of a path and of the parameters; see `Reverse.along`."""
        return self.reverse.along(path, self._function(self.system), p, self.size, seeds, nodes)
