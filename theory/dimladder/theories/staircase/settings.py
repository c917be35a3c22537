"""Settings of the particles, and sizes of the networks that are compared with them."""

from __future__ import annotations

from ...problem import OdeSolver, Spec
from ...problem.checks import at_least, finite, positive
from ...problem.grids import Simulation


class ParticleSolver(OdeSolver, frozen=True, kw_only=True):
    """Settings of the integrator and of the particles. ``auto`` is explicit: dense Jacobians would be too large.

    Attributes
    ----------
    particle_tolerance : float
        Error of f that one panel of particles may cause, relative to the root mean square of the target; panels
        beyond it are halved. ``inf`` keeps the particles of the start.
    max_particles : int
        More than this is an error.
    """

    particle_tolerance: float = 1e-3
    max_particles: int = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.particle_tolerance > 0:
            raise ValueError(f"particle_tolerance must be positive, got {self.particle_tolerance}")
        at_least(4, max_particles=self.max_particles)


class Growth(Spec, frozen=True, kw_only=True):
    """How a series of sizes approaches the limit: width, batch and step hold at d = `reference` and scale with d.

    A value v becomes v (d/reference)^exponent. The default makes 1/d, 1/N, eta and d eta/batch all fall like 1/d.
    """

    reference: int
    width: float = 1.0
    batch: float = 1.0
    learning_rate: float = -1.0

    def __post_init__(self) -> None:
        at_least(1, reference=self.reference)
        finite(width=self.width, batch=self.batch, learning_rate=self.learning_rate)


class NetworkSimulation(Simulation, frozen=True, kw_only=True):
    """Sizes and statistics of the experiment: networks of `width` neurons, steps `learning_rate` on fresh batches.

    Attributes
    ----------
    sizes : tuple of int
        Input dimensions d.
    width, batch : int
        Neurons, and fresh samples a step.
    learning_rate : float
        The step eta: one unit of time is 1/eta steps.
    growth : table, optional
        Scales the three with d; without it they are the same at every d, and the limit is not approached by d alone.
    """

    sizes: tuple[int, ...] = (100,)
    width: int = 200
    batch: int = 1500
    learning_rate: float = 0.25
    replicas: int = 8
    growth: Growth | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, width=self.width, batch=self.batch)
        positive(learning_rate=self.learning_rate)

    def at(self, d: int) -> tuple[int, int, float]:
        """Return width, batch and step at a size."""
        if self.growth is None:
            return self.width, self.batch, self.learning_rate
        ratio = d / self.growth.reference
        width, batch = (
            max(1, round(value * ratio**power))
            for value, power in ((self.width, self.growth.width), (self.batch, self.growth.batch))
        )
        return width, batch, self.learning_rate * ratio**self.growth.learning_rate
