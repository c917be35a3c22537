"""What a run file with ``theory = "staircase"`` may say."""

from __future__ import annotations

import math

from ...problem import Expression, OdeSolver, Problem, Simulation, Spec, TimeGrid, activation
from .laws import Law, law

# The cube has 2^P points, and every particle meets each of them.
MOST_COORDINATES = 16


class BooleanTarget(Spec, frozen=True, kw_only=True, tag_field="kind", tag="boolean"):
    """y = h(z), a formula in coordinates ``z1, z2, ...`` of the input, each -1 or 1."""

    expression: str

    def __post_init__(self) -> None:
        used = self.formula.variables
        if not used:
            raise ValueError("the expression must use at least one coordinate z1, z2, ...")
        if len(used) > MOST_COORDINATES:
            raise ValueError(
                f"the expression uses {len(used)} coordinates, at most {MOST_COORDINATES} are possible: the average "
                "runs over every point of the cube"
            )
        from .boolean import analyse

        analyse(self.formula)

    @property
    def formula(self) -> Expression:
        """The target as a formula in ``z1, z2, ...``."""
        return Expression(self.expression, "z*")


class MeanFieldStudent(Spec, frozen=True, kw_only=True, tag_field="kind", tag="mean-field"):
    """f(x) = (1/N) sum_j a_j s(w_j . x), a_j drawn from `readout_law`, sqrt(d) w_ji from `weight_law`, N -> infinity.

    Attributes
    ----------
    activation : str
        A name or a formula in ``x``.
    readout_law, weight_law : str
        ``uniform(low, high)``, ``normal(mean, std)``, ``rademacher``, ``rademacher(scale)`` or ``constant(value)``. Of
        the weights only the second moment matters; their mean must be zero.
    particles : int
        Gauss nodes of the readout law at the start, rounded up to whole panels of eight; more are made where the
        state becomes steep (``solver.particle_tolerance``). A law on finitely many values has one particle for each.
    """

    activation: str
    readout_law: str = "uniform(-1, 1)"
    weight_law: str = "normal(0, 1)"
    particles: int = 200

    def __post_init__(self) -> None:
        activation(self.activation)
        try:
            _ = self.readouts
        except ValueError as error:
            raise ValueError(f"readout_law: {error}") from None
        try:
            mean, text = self.weights.mean, self.weight_law
        except ValueError as error:
            raise ValueError(f"weight_law: {error}") from None
        if mean != 0:
            raise ValueError(
                f"weight_law must have mean zero, got {text!r}: with a common direction in all weights the network "
                "would depend on irrelevant coordinates"
            )
        if self.particles < 4:
            raise ValueError(f"particles must be at least 4, got {self.particles}")

    @property
    def readouts(self) -> Law:
        """The law of the initial readouts a."""
        return law(self.readout_law)

    @property
    def weights(self) -> Law:
        """The law of sqrt(d) times an initial weight."""
        return law(self.weight_law)

    @property
    def initial_noise(self) -> float:
        """s at time 0, the length of the initial weights: E[W^2]^(1/2)."""
        return math.sqrt(self.weights.second_moment)


class BatchSGD(Spec, frozen=True, kw_only=True, tag_field="kind", tag="batch-sgd"):
    """theta += eta xi mean_b[(y - f) grad (a s(w . x))] - eta xi decay theta; time t = eta x steps.

    Attributes
    ----------
    first_layer_rate, second_layer_rate : float
        xi of the weights w and of the readouts a: rates per unit of time. 0 freezes the layer.
    first_layer_weight_decay, second_layer_weight_decay : float
        Coefficients of the ridge |theta|^2 / 2 of each neuron.
    first_layer_schedule, second_layer_schedule : str
        Factors of the rates, formulas in the time ``t``; ``step(50 - t)`` trains until time 50.
    """

    first_layer_rate: float
    second_layer_rate: float
    first_layer_weight_decay: float = 0.0
    second_layer_weight_decay: float = 0.0
    first_layer_schedule: str = "1"
    second_layer_schedule: str = "1"

    def __post_init__(self) -> None:
        for name in ("first_layer", "second_layer"):
            for key in (f"{name}_rate", f"{name}_weight_decay"):
                value = getattr(self, key)
                if not (value >= 0 and math.isfinite(value)):
                    raise ValueError(f"{key} must be finite and not negative, got {value}")
            try:
                Expression(getattr(self, f"{name}_schedule"), ("t",))
            except ValueError as error:
                raise ValueError(f"{name}_schedule: {error}") from None


class MonomialGrid(TimeGrid, frozen=True, kw_only=True):
    """Times of the curve, and the monomials whose Fourier coefficients are followed.

    `monomials` is ``"target"`` (those of the target), ``"all"`` (every product of its coordinates), or a list such as
    ``["1", "z1", "z1*z2"]``; ``"1"`` is the mean.
    """

    monomials: str | tuple[str, ...] = "target"


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
        if self.max_particles < 4:
            raise ValueError(f"max_particles must be at least 4, got {self.max_particles}")


class Growth(Spec, frozen=True, kw_only=True):
    """How a series of sizes approaches the limit: width, batch and step hold at d = `reference` and scale with d.

    A value v becomes v (d/reference)^exponent. The default makes 1/d, 1/N, eta and d eta/batch all fall like 1/d.
    """

    reference: int
    width: float = 1.0
    batch: float = 1.0
    learning_rate: float = -1.0

    def __post_init__(self) -> None:
        if self.reference < 1:
            raise ValueError(f"reference is a dimension: it must be positive, got {self.reference}")
        if not all(math.isfinite(v) for v in (self.width, self.batch, self.learning_rate)):
            raise ValueError("the exponents of growth must be finite")


class NetworkSimulation(Simulation, frozen=True, kw_only=True):
    """Sizes and statistics of the experiment: networks of `width` neurons, steps `learning_rate` on fresh batches.

    Attributes
    ----------
    d : tuple of int
        Input dimensions.
    width, batch : int
        Neurons, and fresh samples a step.
    learning_rate : float
        The step eta: one unit of time is 1/eta steps.
    growth : table, optional
        Scales the three with d; without it they are the same at every d, and the limit is not approached by d alone.
    """

    d: tuple[int, ...] = (100,)
    width: int = 200
    batch: int = 1500
    learning_rate: float = 0.25
    replicas: int = 8
    growth: Growth | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1 or self.batch < 1:
            raise ValueError(f"width and batch must be positive, got {self.width} and {self.batch}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")

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


class StaircaseProblem(Problem, frozen=True, kw_only=True):
    """Batch SGD of a wide two-layer network on a Boolean function of few coordinates."""

    target: BooleanTarget
    student: MeanFieldStudent
    algorithm: BatchSGD
    grid: MonomialGrid
    solver: ParticleSolver = ParticleSolver()
    simulation: NetworkSimulation = NetworkSimulation()

    def __post_init__(self) -> None:
        _ = self.monomials

    @property
    def monomials(self) -> tuple[tuple[str, ...], ...]:
        """The products of coordinates to follow; the empty product is the constant."""
        from .boolean import analyse, monomial

        target = analyse(self.target.formula)
        if self.grid.monomials == "target":
            return tuple(target.coefficients)
        if self.grid.monomials == "all":
            return target.products()
        if isinstance(self.grid.monomials, str) or not self.grid.monomials:
            raise ValueError(
                f'grid.monomials must be "target", "all" or a list of products such as "z1*z2", got '
                f"{self.grid.monomials!r}"
            )
        try:
            found = tuple(monomial(text, target.coordinates) for text in self.grid.monomials)
        except ValueError as error:
            raise ValueError(f"grid.monomials: {error}") from None
        if len(set(found)) != len(found):
            raise ValueError(f"grid.monomials names one product twice: {', '.join(self.grid.monomials)}")
        return found
