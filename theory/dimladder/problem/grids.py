"""``[grid]``, ``[limit]`` and ``[simulation]``: where the curve is asked for, and at which sizes it is measured."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from .checks import at_least, sizes
from .spec import MAX_POINTS, Axis, Range, Spec, axis_values

# Axes whose values must be positive; of the others only `time` has an order.
_POSITIVE = (
    "sample_ratio", "width_ratio", "time_ridge", "train_fraction", "second_ratio", "second_samples", "depth",
)  # fmt: skip
# Between output times; an integrator that must resolve less meets the end of the floating-point numbers.
LEAST_GAP = 1e-100


class Grid(Spec, frozen=True, kw_only=True):
    """The axes of the curve; each theory names those it has.

    Attributes
    ----------
    time : axis
        In the unit of the algorithm, not negative, increasing.
    sample_ratio, width_ratio, train_fraction : axis
        n/d, k/d (see the theory), share of the labelled nodes.
    time_ridge : axis
        1/ridge.
    first_ratio, second_ratio, second_samples, kappa : axis
        Samples of the stages of hierarchical learning, and the exponent of the sample count.
    depth : sequence of int
    start : sequence of {"uninformed", "informed"}
        Branches of a fixed point.
    state, monomials : "all", "target" or sequence of text
        Truncation states; Fourier coefficients to follow.
    """

    time: Axis | None = None
    sample_ratio: Axis | None = None
    width_ratio: Axis | None = None
    train_fraction: Axis | None = None
    time_ridge: Axis | None = None
    first_ratio: Axis | None = None
    second_ratio: Axis | None = None
    second_samples: Axis | None = None
    kappa: Axis | None = None
    depth: tuple[int, ...] | None = None
    start: tuple[Literal["uninformed", "informed"], ...] | None = None
    state: Literal["all"] | tuple[str, ...] | None = None
    monomials: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            axis = getattr(self, name)
            if axis is None or isinstance(axis, str):
                continue
            values = axis_values(axis) if isinstance(axis, Range) else axis
            if not values:
                raise ValueError(f"{name} must not be empty")
            numbers = [v for v in values if not isinstance(v, str)]
            if any(math.isnan(v) or v == -math.inf for v in numbers):
                raise ValueError(f"{name} must list numbers")
            if name in _POSITIVE and any(not v > 0 for v in numbers):
                raise ValueError(f"{name} must be positive, got {min(numbers)}")
            if name == "first_ratio" and any(v < 0 for v in numbers):
                raise ValueError(f"{name} must not be negative, got {min(numbers)}")
            if name not in ("first_ratio", "second_ratio", "second_samples") and any(math.isinf(v) for v in numbers):
                raise ValueError(f"{name} must be finite")
        if self.time is not None:
            times = axis_values(self.time)
            if min(times) < 0:
                raise ValueError(f"time must not be negative, got {min(times)}")
            if any(b <= a for a, b in pairwise(times)):
                raise ValueError("time must increase strictly")
            if any(b - a < LEAST_GAP for a, b in pairwise((0.0, *(t for t in times if t > 0)))):
                raise ValueError(f"time must increase by {LEAST_GAP:g} at least: smaller steps end in rounding")

    def values(self, axis: str) -> tuple[float, ...]:
        """Return the points of an axis; empty where it is not asked for."""
        given = getattr(self, axis)
        return () if given is None else axis_values(given)


class Limit(Spec, frozen=True, kw_only=True):
    """Finite sizes that a theory keeps.

    Attributes
    ----------
    d : int or sequence of int
        Input dimension(s).
    n : int
        Input dimension at which a finite-size theory is drawn.
    draws, seed : int
        Number and seed of its draws.
    """

    d: int | tuple[int, ...] | None = None
    n: int | None = None
    draws: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.d, tuple):
            sizes("d", self.d)
        else:
            at_least(1, d=self.d)
        at_least(1, n=self.n, draws=self.draws)
        at_least(0, seed=self.seed)


class Simulation(Spec, frozen=True, kw_only=True):
    """Sizes and statistics of the finite-size experiment; the experiment names what a size is.

    Attributes
    ----------
    sizes : sequence of int
        Input dimensions, widths or numbers of samples, as the experiment says.
    replicas, seed : int
    method : str
        Where an experiment has several; empty: its default.
    """

    sizes: tuple[int, ...] = (200, 400, 800)
    replicas: int = 16
    seed: int = 0
    method: str = ""

    def __post_init__(self) -> None:
        sizes("sizes", self.sizes)
        if not 2 <= self.replicas <= MAX_POINTS:
            raise ValueError(
                f"replicas must lie between 2 (for a standard error) and {MAX_POINTS}, got {self.replicas}"
            )
        at_least(0, seed=self.seed)


class OdeSolver(Spec, frozen=True, kw_only=True):
    """Settings of the integrator."""

    method: Literal["auto", "tsit5", "dp5", "dop853", "rodas", "bdf"] = "auto"
    rtol: float = 1e-8
    atol: float = 1e-10
    max_steps: int = 1_000_000

    def __post_init__(self) -> None:
        if not 1e-15 <= self.rtol < 1:
            raise ValueError(f"rtol must lie in [1e-15, 1), got {self.rtol}")
        if not self.atol > 0:
            raise ValueError(f"atol must be positive, got {self.atol}")
        if not 1 <= self.max_steps <= 10**12:
            raise ValueError(f"max_steps must lie between 1 and 1e12, got {self.max_steps}")


class FixedPointSolver(Spec, frozen=True, kw_only=True):
    """Settings of a fixed-point iteration.

    Attributes
    ----------
    rtol : float
        Relative residual of the equations and relative size of the last Newton step.
    damping : float
        Share of the new value in the iteration that precedes Newton's method, in (0, 1].
    memory : int
        Depth of the Anderson acceleration; 0 is plain damped iteration.
    newton_steps : int
        Most Newton steps at a time; 0 switches the polish off.
    max_iterations : int
    """

    rtol: float = 1e-10
    damping: float = 0.5
    memory: int = 4
    newton_steps: int = 25
    max_iterations: int = 3000

    def __post_init__(self) -> None:
        if not 1e-14 <= self.rtol < 1e-2:
            raise ValueError(f"rtol must lie in [1e-14, 1e-2), got {self.rtol}")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping is the share of the new value: it must lie in (0, 1], got {self.damping}")
        at_least(0, memory=self.memory, newton_steps=self.newton_steps)
        at_least(1, max_iterations=self.max_iterations)
