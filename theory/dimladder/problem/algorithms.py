"""``[algorithm]``: how the student is trained, or what its law is."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import msgspec

from .checks import Row, at_least, finite, formula, not_negative, positive
from .spec import Spec
from .timed import Timed, check_timed


class Momentum(Spec, frozen=True, kw_only=True):
    """Heavy ball: ``u <- (1 - decay/d) u + lr xi``, ``w <- w + (coupling/d) u + direct lr xi``; or ``{ beta }``.

    With beta, of order one: ``u <- beta u + lr xi``, ``w <- w + u`` (xi the descent direction of the step).
    """

    decay: float | None = None
    coupling: float | None = None
    direct: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        if (self.beta is None) == (self.decay is None):
            raise ValueError("momentum is { beta } or { decay, coupling, direct }: give one of them")
        if self.beta is not None:
            if not 0 <= self.beta < 1:
                raise ValueError(f"beta must lie in [0, 1), got {self.beta}")
            if self.coupling is not None or self.direct is not None:
                raise ValueError("beta excludes coupling and direct")
        not_negative(decay=self.decay)
        finite(coupling=self.coupling, direct=self.direct)


class Episodes(Spec, frozen=True, kw_only=True):
    """w <- w + (lr r/(length sqrt d)) sum_t s_t x_t, decisions s_t = sign(w.x_t) (Patel et al. 2023).

    Attributes
    ----------
    length : int
        Samples and decisions of an episode; time counts episodes/d.
    right : int
        Right decisions, s_t = y_t, that earn the reward; by default all of them.
    reward, penalty : float
        r is `reward` where at least `right` decisions were, and minus `penalty` where not.
    """

    length: int
    right: int | None = None
    reward: float = 1.0
    penalty: float = 0.0

    def __post_init__(self) -> None:
        at_least(1, length=self.length)
        if self.right is not None and not 1 <= self.right <= self.length:
            raise ValueError(f"right must lie in 1..{self.length}, the length of an episode, got {self.right}")
        not_negative(reward=self.reward, penalty=self.penalty)

    @property
    def needed(self) -> int:
        """Right decisions that earn the reward."""
        return self.length if self.right is None else self.right


class OnePass(Spec, frozen=True, kw_only=True, tag_field="kind", tag="one-pass"):
    """SGD on fresh samples: w <- w - lr a g'(lambda) err x/sqrt d, a <- a - lr_readout g(lambda) err/d.

    Time counts samples/d; err is the slope of the loss in the output.

    Attributes
    ----------
    learning_rate, readout_learning_rate, bias_learning_rate : float
        The others default to the first. Biases are one more coordinate of w: its decay and momentum act on them.
    batch_size : float, or a formula in the time ``t``
        Samples a step, at least 1; time stays the number of steps / d. Between whole numbers steps take one or the
        other, such that the mean of 1/batch_size is this.
    schedule : str
        Factor on all learning rates, a formula in the time ``t``.
    regime : {"classical", "gradient-flow", "noise-dominated"}
        Keep every term, only the drift, or only the diffusion term of second order in the learning rate.
    spherical : bool
        Whether each w_i is rescaled to its initial norm after every step.
    weight_decay, readout_weight_decay : float
        w -= (weight_decay/d) w at every step.
    uses : int
        Steps on the same sample.
    displacement : float
        rho: the gradient is taken after a trial step of that size on the same sample; negative is sharpness-aware.
    momentum : table
    average : float
        Rate of a running average ``wbar <- wbar + (average/d) (w - wbar)``, whose network is measured too.
    feedback : sequence of float
        Numbers phi_k that take the place of the readouts in the gradient of the weights: feedback alignment.
    input_noise : float
        Standard deviation of noise added to every coordinate of an input before its step, the label kept.
    weight_noise : float
        Standard deviation of fresh noise on every weight at which the gradient of a step is taken.
    episodes : table
        Rewards after several decisions, instead of a gradient.
    update : table vector -> text
        The update rule written out, linear in the vectors and in the sample: each row is its vector, plus vectors over
        d, plus ``x/sqrt(d)`` times a function of ``a`` (the unit's readout), ``error`` (slope of the loss), ``f``,
        ``y``, ``learning_rate``, and ``lambda_w``, ``g(lambda_w)``, ``dg(lambda_w)``: the unit's field of a vector,
        activation and slope there. Vectors over d may carry such functions too, and ``zeta/sqrt(d)`` a number: fresh
        normal noise, one zeta a unit. All right-hand sides are those before the step.
    vectors : table name -> text
        Vectors tracked beside w, and where they start: ``"zero"``, ``"w"`` (a copy), or ``"overlaps"``: the Q and M of
        ``[initial]`` are over all vectors, w first, then by name.
    constants : table name -> number
        Numbers used by `update`.
    """

    learning_rate: float
    readout_learning_rate: float | None = None
    bias_learning_rate: float | None = None
    batch_size: int | Timed = 1
    schedule: str = "1"
    regime: Literal["classical", "gradient-flow", "noise-dominated"] = "classical"
    spherical: bool = False
    weight_decay: float = 0.0
    readout_weight_decay: float = 0.0
    uses: int = 1
    displacement: float = 0.0
    momentum: Momentum | None = None
    average: float = 0.0
    feedback: Row | None = None
    input_noise: float = 0.0
    weight_noise: float = 0.0
    episodes: Episodes | None = None
    update: dict[str, str] = msgspec.field(default_factory=dict)
    vectors: dict[str, str] = msgspec.field(default_factory=dict)
    constants: dict[str, float] = msgspec.field(default_factory=dict)

    timed: ClassVar[tuple[str, ...]] = ("batch_size",)

    def __post_init__(self) -> None:
        not_negative(
            learning_rate=self.learning_rate, readout_learning_rate=self.readout_learning_rate,
            bias_learning_rate=self.bias_learning_rate, weight_decay=self.weight_decay,
            readout_weight_decay=self.readout_weight_decay, average=self.average, input_noise=self.input_noise,
            weight_noise=self.weight_noise,
        )  # fmt: skip
        check_timed("batch_size", self.batch_size, 1.0)
        at_least(1, uses=self.uses)
        if self.feedback is not None:
            finite(feedback=self.feedback)
        finite(displacement=self.displacement, constants=tuple(self.constants.values()))
        formula("schedule", self.schedule, ("t",))
        if (self.vectors or self.constants) and not self.update:
            raise ValueError("vectors and constants go with a table [algorithm.update]")
        unmoved = set(self.vectors) - set(self.update)
        if unmoved:
            raise ValueError(f"vectors: {', '.join(sorted(unmoved))} has no row in [algorithm.update]")


class GradientDescent(Spec, frozen=True, kw_only=True, tag_field="kind", tag="gradient-descent"):
    """Descent on one data set; time = updates.

    Attributes
    ----------
    learning_rate, readout_learning_rate : float
        The second defaults to the first.
    steps : int
        Number of updates: outputs at 0..steps.
    schedule : str
        Factor on the learning rates, a formula in ``t`` (updates done) and ``T`` (`steps`).
    batch_fraction, batch_size : float, int
        Share of the data in a batch (1: all of it), or the number of samples in it (0: all).
    batching : {"epoch", "fresh", "cyclic"}
        Batches reshuffled each epoch, drawn anew at each update, or always in the same order.
    batch_seed : int
    momentum : table
    temperature : float
        Langevin noise: descent samples exp(-objective/temperature) at small rates, with the objective of the summed
        loss, as in ``kind = "posterior"``.
    """

    learning_rate: float
    readout_learning_rate: float | None = None
    steps: int
    schedule: str = "1"
    batch_fraction: float = 1.0
    batch_size: int = 0
    batching: Literal["fresh", "epoch", "cyclic"] = "epoch"
    batch_seed: int = 0
    momentum: Momentum | None = None
    temperature: float = 0.0

    def __post_init__(self) -> None:
        not_negative(
            learning_rate=self.learning_rate, readout_learning_rate=self.readout_learning_rate,
            temperature=self.temperature,
        )  # fmt: skip
        at_least(1, steps=self.steps)
        at_least(0, batch_size=self.batch_size, batch_seed=self.batch_seed)
        if not 0 < self.batch_fraction <= 1:
            raise ValueError(f"batch_fraction must lie in (0, 1], got {self.batch_fraction}")
        if self.batch_size and self.batch_fraction != 1.0:
            raise ValueError("batch_size excludes batch_fraction: give one of them")
        formula("schedule", self.schedule, ("t", "T"))


class GradientFlow(Spec, frozen=True, kw_only=True, tag_field="kind", tag="gradient-flow"):
    """The limit of small learning rates at fixed time.

    Attributes
    ----------
    learning_rate, readout_learning_rate : float
        Time between two neighbouring outputs, where the outputs are counted.
    steps : int
        Number of outputs after the start: outputs at 0, learning_rate, ..., steps learning_rate.
    substeps, levels : int
        Gradient steps between two outputs at the coarsest level, and levels of the extrapolation in the step.
    """

    learning_rate: float | None = None
    readout_learning_rate: float | None = None
    steps: int | None = None
    substeps: int = 4
    levels: int = 3

    def __post_init__(self) -> None:
        not_negative(learning_rate=self.learning_rate, readout_learning_rate=self.readout_learning_rate)
        at_least(1, steps=self.steps, substeps=self.substeps)
        if not 1 <= self.levels <= 10:
            raise ValueError(f"levels must lie in 1..10, got {self.levels}")


class Minimise(Spec, frozen=True, kw_only=True, tag_field="kind", tag="minimise"):
    """The minimiser of ``[loss]`` on one data set."""


class Bagging(Spec, frozen=True, kw_only=True, tag_field="kind", tag="bagging"):
    """Minimisers of ``[loss]`` on resamples of one data set: one of them, two, and the mean of infinitely many.

    Attributes
    ----------
    resampling : {"bootstrap", "subsample", "fresh"}
        How the samples of a fit come from the data set: `fraction` n draws with replacement, each with probability
        `fraction`, or fresh samples for every fit.
    fraction : float
        Samples of a fit over those of the data set.
    """

    resampling: Literal["bootstrap", "subsample", "fresh"] = "bootstrap"
    fraction: float = 1.0

    def __post_init__(self) -> None:
        positive(fraction=self.fraction)
        if self.fraction != 1.0 and self.resampling == "fresh":
            raise ValueError('fraction belongs to resampling = "bootstrap" or "subsample"')
        if self.resampling == "subsample" and not self.fraction < 1.0:
            raise ValueError(f"fraction of a subsample must be below 1, got {self.fraction}")


class Posterior(Spec, frozen=True, kw_only=True, tag_field="kind", tag="posterior"):
    """The Gibbs measure exp(-[loss]/temperature) on one data set; 0: its concentration on the minimisers."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        not_negative(temperature=self.temperature)


class Bayes(Spec, frozen=True, kw_only=True, tag_field="kind", tag="bayes"):
    """The posterior of the target's own law."""


class Spectral(Spec, frozen=True, kw_only=True, tag_field="kind", tag="spectral"):
    """The leading eigenvector of sum_i T(y_i) x_i x_i^T; `preprocessing` T is ``"optimal"`` or a formula in ``y``."""

    preprocessing: str = "optimal"

    def __post_init__(self) -> None:
        if self.preprocessing != "optimal":
            formula("preprocessing", self.preprocessing, ("y",))


class OneStep(Spec, frozen=True, kw_only=True, tag_field="kind", tag="one-step"):
    """One large gradient step on the first layer with a fresh batch, then the readout is a `minimise`.

    Attributes
    ----------
    total, split : float
        beta and alpha: learning rate eta = n^(alpha beta), spike strength theta = n^((1 - alpha) beta).
    rate_factor : float
        Prefactor of the learning rate; 0 leaves the first layer as drawn.
    batch_ratio : float
        Size of the step's batch over n; default: that of the readout's sample.
    hermite_degree : int
        Degree of the polynomial model; default: the published rule.
    equivalent : {"auto", "one-bulk", "clusters", "conditional"}
        Deterministic equivalent of a ridge readout.
    nodes : int
        Quadrature nodes over the distinguished projections.
    """

    total: float
    split: float = 0.5
    rate_factor: float = 1.0
    batch_ratio: float | None = None
    hermite_degree: int | None = None
    equivalent: Literal["auto", "one-bulk", "clusters", "conditional"] = "auto"
    nodes: int = 256

    def __post_init__(self) -> None:
        not_negative(total=self.total, rate_factor=self.rate_factor)
        if not 0 <= self.split <= 1:
            raise ValueError(f"split must lie in [0, 1], got {self.split}")
        positive(batch_ratio=self.batch_ratio)
        at_least(0, hermite_degree=self.hermite_degree)
        at_least(1, nodes=self.nodes)


class SphericalCorrelationSGD(Spec, frozen=True, kw_only=True, tag_field="kind", tag="spherical-correlation-sgd"):
    """Stage 1 of layer-wise training: normalised ascent of the correlation; time counts steps x `step`.

    Attributes
    ----------
    step : float
    batch_ratio : float
        n/(d d_eff) fresh samples a step.
    map : bool
        The discrete recursion at finite step instead of the flow.
    gradient_noise : bool
        Whether the noise of a finite batch enters.
    """

    step: float
    batch_ratio: float = math.inf
    map: bool = False
    gradient_noise: bool = False

    def __post_init__(self) -> None:
        positive(step=self.step)
        if not self.batch_ratio > 0:
            raise ValueError(f"batch_ratio must be positive, got {self.batch_ratio}")


class BatchSGD(Spec, frozen=True, kw_only=True, tag_field="kind", tag="batch-sgd"):
    """theta += eta xi mean_b[(y - f) grad (a s(w.x))] - eta xi decay theta; time t = eta x steps.

    Attributes
    ----------
    first_layer_rate, second_layer_rate : float
        xi of the weights w and of the readouts a: rates per unit of time. 0 freezes the layer.
    first_layer_weight_decay, second_layer_weight_decay : float
        Coefficients of the ridge |theta|^2/2 of each neuron.
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
        for layer in ("first_layer", "second_layer"):
            not_negative(**{k: getattr(self, k) for k in (f"{layer}_rate", f"{layer}_weight_decay")})
            formula(f"{layer}_schedule", getattr(self, f"{layer}_schedule"), ("t",))


class Construct(Spec, frozen=True, kw_only=True, tag_field="kind", tag="construct"):
    """Nothing is trained: the weights are written down."""
