"""What is asked of an infinitely wide network under muP."""

from __future__ import annotations

import math
from typing import Literal

from ...problem import Expression, Problem, Spec, activation
from ...problem.sections import check_replicas, check_sizes

LOSSES = {"square": "0.5*(f - y)**2", "logistic": "softplus(-y*f)", "log-cosh": "log(cosh(f - y))"}


class CosineInputs(Spec, frozen=True, kw_only=True, tag="cosine", tag_field="kind"):
    """Deterministic inputs ``X[mu, j] = cos(mu j + 0.3 mu)``, rows normalised, labels ``(+,-,+,-)(1 + 0.25 i/(m-1))``.

    Held-out samples continue both sequences.
    """

    samples: int
    dimension: int
    test_samples: int = 0

    def __post_init__(self) -> None:
        _check_counts(self.samples, self.dimension, self.test_samples)


class GaussianInputs(Spec, frozen=True, kw_only=True, tag="gaussian", tag_field="kind"):
    """Independent Gaussian inputs of squared norm close to one (exactly one when `normalize`).

    `labels` is ``"random-sign"``, ``"alternating"``, or a formula in the coordinates ``x1, x2, ...``.
    """

    samples: int
    dimension: int
    seed: int = 0
    labels: str = "random-sign"
    normalize: bool = True
    test_samples: int = 0

    def __post_init__(self) -> None:
        _check_counts(self.samples, self.dimension, self.test_samples)
        if self.labels not in ("random-sign", "alternating"):
            formula = Expression(self.labels, "x*")
            beyond = [v for v in formula.variables if not 1 <= int(v[1:]) <= self.dimension]
            if beyond:
                raise ValueError(f"labels uses {', '.join(beyond)}, but the inputs are x1..x{self.dimension}")


class ExplicitInputs(Spec, frozen=True, kw_only=True, tag="explicit", tag_field="kind"):
    """Inputs and labels written out in the run file, one row a sample."""

    inputs: tuple[tuple[float, ...], ...]
    labels: tuple[float, ...]
    test_inputs: tuple[tuple[float, ...], ...] = ()
    test_labels: tuple[float, ...] = ()
    normalize: bool = False

    def __post_init__(self) -> None:
        if not self.inputs or len(self.inputs) != len(self.labels):
            raise ValueError(f"{len(self.inputs)} inputs need as many labels, got {len(self.labels)}")
        if len(self.test_inputs) != len(self.test_labels):
            raise ValueError(
                f"{len(self.test_inputs)} test_inputs need as many test_labels, got {len(self.test_labels)}"
            )
        if len({len(row) for row in (*self.inputs, *self.test_inputs)}) != 1:
            raise ValueError("every input must have the same number of coordinates")
        if not all(math.isfinite(v) for row in (*self.inputs, *self.test_inputs) for v in row):
            raise ValueError("inputs must be finite")


class DigitsImages(Spec, frozen=True, kw_only=True, tag="digits", tag_field="kind"):
    """The 8 x 8 handwritten digits that ship with scikit-learn: two classes with labels +1 and -1, balanced.

    Pixels are centred over the chosen samples (when `center`), rows normalised.
    """

    samples: int
    classes: tuple[int, int] = (0, 1)
    seed: int = 0
    center: bool = True
    test_samples: int = 0

    def __post_init__(self) -> None:
        _check_counts(self.samples, 64, self.test_samples)
        if len(set(self.classes)) != 2 or not all(0 <= c <= 9 for c in self.classes):
            raise ValueError(f"classes must be two different digits 0..9, got {list(self.classes)}")


class ImageFile(Spec, frozen=True, kw_only=True, tag="file", tag_field="kind"):
    """A local data set: an ``.npz`` with arrays `inputs_key` and `labels_key`, or IDX files (optionally ``.gz``).

    With `classes`, two integer classes become labels +1 and -1; without, the labels are used as they are.
    """

    path: str
    labels_path: str = ""
    inputs_key: str = "x"
    labels_key: str = "y"
    samples: int
    classes: tuple[int, int] | None = None
    seed: int = 0
    center: bool = True
    test_samples: int = 0

    def __post_init__(self) -> None:
        _check_counts(self.samples, 1, self.test_samples)


Data = CosineInputs | GaussianInputs | ExplicitInputs | DigitsImages | ImageFile


def _check_counts(samples: int, dimension: int, test_samples: int) -> None:
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if dimension < 1:
        raise ValueError(f"dimension must be at least 1, got {dimension}")
    if test_samples < 0:
        raise ValueError(f"test_samples must not be negative, got {test_samples}")


class Abc(Spec, frozen=True, kw_only=True):
    """A general parametrisation: effective initial variances ``n^-b`` and learning rates ``eta n^-c`` of the input,
    hidden and output weights. muP is ``variance = [0, 1, 2]``, ``rate = [-1, 0, 1]``.
    """

    variance: tuple[float, float, float]
    rate: tuple[float, float, float]


class MLP(Spec, frozen=True, kw_only=True, tag="mlp", tag_field="kind"):
    """A fully connected network ``h^1 = W^1 xi, h^l = W^l phi(h^{l-1}), f = W^{L+1} phi(h^L)``, no biases.

    Attributes
    ----------
    hidden_layers : int
        L.
    activation : str
        A name or a formula in ``x``.
    parametrization : str
        The theory is that of ``mup``; the others (and ``abc`` with its exponents) can be simulated.
    richness : float
        gamma: outputs are divided by it and learning rates multiplied by its square; 1 is muP, gamma -> 0 is lazy.
    """

    hidden_layers: int
    activation: str = "tanh"
    parametrization: Literal["mup", "sp", "ntp", "ip", "abc"] = "mup"
    richness: float = 1.0
    abc: Abc | None = None

    def __post_init__(self) -> None:
        if self.hidden_layers < 1:
            raise ValueError(f"hidden_layers must be at least 1, got {self.hidden_layers}")
        if not self.richness > 0 or not math.isfinite(self.richness):
            raise ValueError(f"richness must be positive, got {self.richness}")
        if (self.parametrization == "abc") != (self.abc is not None):
            raise ValueError('a table [student.abc] goes with parametrization = "abc", and only with it')
        activation(self.activation)


class GradientDescent(Spec, frozen=True, kw_only=True, tag="gradient-descent", tag_field="kind"):
    """Full-batch gradient descent, or mini-batch SGD without replacement.

    Attributes
    ----------
    learning_rate : float
        eta of the parametrisation.
    schedule : str
        A formula in ``t`` (updates done) and ``T`` (`steps`) that multiplies the learning rate, such as
        ``"0.5*(1 + cos(pi*t/T))"``.
    steps : int
        Number T of times: the network is evaluated at t = 0..T-1 updates.
    batch_size : int
        0 is the full batch; otherwise each epoch is a seeded permutation cut into batches, the last one possibly
        smaller.
    loss : str
        ``square`` (f - y)^2/2, ``logistic``, ``log-cosh``, or a differentiable formula in ``f`` and ``y``.
    """

    learning_rate: float
    steps: int
    schedule: str = "1"
    batch_size: int = 0
    batch_seed: int = 0
    loss: str = "square"

    def __post_init__(self) -> None:
        _check_schedule(self.learning_rate, self.steps)
        Expression(self.schedule, ("t", "T"))
        if self.batch_size < 0:
            raise ValueError(f"batch_size must not be negative (0 is the full batch), got {self.batch_size}")
        loss_expression(self.loss)


class GradientFlow(Spec, frozen=True, kw_only=True, tag="gradient-flow", tag_field="kind"):
    """The limit of small learning rates at fixed time ``learning_rate * t``, by extrapolation of gradient descent.

    Attributes
    ----------
    learning_rate : float
        Time between two neighbouring outputs.
    steps : int
        Number of outputs, the first at time 0.
    substeps : int
        Gradient steps between two outputs at the coarsest level; each further level doubles it.
    levels : int
        Levels of the Richardson extrapolation.
    """

    learning_rate: float
    steps: int
    substeps: int = 4
    levels: int = 3
    loss: str = "square"

    def __post_init__(self) -> None:
        _check_schedule(self.learning_rate, self.steps)
        if self.substeps < 1 or not 1 <= self.levels <= 10:
            raise ValueError(f"need substeps >= 1 and 1 <= levels <= 10, got {self.substeps} and {self.levels}")
        loss_expression(self.loss)


Algorithm = GradientDescent | GradientFlow


def _check_schedule(learning_rate: float, steps: int) -> None:
    if not math.isfinite(learning_rate) or learning_rate < 0:
        raise ValueError(f"learning_rate must be a finite number, not negative, got {learning_rate}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


def loss_expression(text: str) -> Expression:
    """Return the loss called `text`, or the formula `text` in ``f`` and ``y``."""
    try:
        return Expression(LOSSES.get(text, text), ("f", "y"))
    except ValueError as error:
        raise ValueError(f"{error}; a loss is a formula in f and y or one of: {', '.join(LOSSES)}") from None


class MupSolver(Spec, frozen=True, kw_only=True):
    """Settings of the prediction.

    Attributes
    ----------
    method : str
        ``march`` (any network), ``closed-form`` (linear activation), ``quadrature`` (one hidden layer with few inputs,
        or few steps with one input), ``lazy-weights`` (a network of finite `width` whose weights are revealed as they
        are used). ``auto``: closed form if linear, quadrature for one hidden layer on at most two independent inputs,
        else the march.
    samples, scrambles, seed
        Single-site samples of each layer, and independent scrambles (or networks) for the error bars.
    sampler : {"sobol", "monte-carlo"}
    approximation : {"none", "no-responses", "lazy"}
        Ablations. ``no-responses`` drops A and B, ``lazy`` freezes the kernels at initialisation. Both are wrong at
        O(1).
    node_spacing : float
        Spacing of the trapezoid rule of ``quadrature`` with one hidden layer (half of it for a single independent
        input).
    width : int
        Width of the networks of ``lazy-weights``.
    response_samples : int
        Samples used for A and B; 0 is all.
    response_dtype : {"float64", "float32"}
    chunk_size : int
        Samples treated together in the adjoint sweep.
    memory_limit : float
        GiB; a march that would need more is refused.
    workers : int
        Scrambles computed at the same time, in threads. Does not change any number.
    checkpoint : str
        Folder of checkpoints in time; empty for none. An interrupted solve goes on from there, bit for bit.
    checkpoint_every : int
        Times between two checkpoints.
    output : {"summary", "space-time"}
        ``space-time`` adds every order parameter over all pairs of times.
    """

    method: Literal["auto", "march", "closed-form", "quadrature", "lazy-weights"] = "auto"
    samples: int = 8192
    scrambles: int = 4
    seed: int = 0
    sampler: Literal["sobol", "monte-carlo"] = "sobol"
    approximation: Literal["none", "no-responses", "lazy"] = "none"
    node_spacing: float = 0.2
    width: int = 10_000
    response_samples: int = 0
    response_dtype: Literal["float64", "float32"] = "float64"
    chunk_size: int = 256
    memory_limit: float = 8.0
    workers: int = 1
    checkpoint: str = ""
    checkpoint_every: int = 10
    output: Literal["summary", "space-time"] = "summary"

    def __post_init__(self) -> None:
        for name in ("samples", "scrambles", "width", "chunk_size", "workers", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.response_samples < 0 or self.seed < 0:
            raise ValueError("response_samples and seed must not be negative")
        if not 0.02 <= self.node_spacing <= 1:
            raise ValueError(f"node_spacing must lie in [0.02, 1], got {self.node_spacing}")
        if not self.memory_limit > 0:
            raise ValueError(f"memory_limit must be positive, got {self.memory_limit}")


class WidthSimulation(Spec, frozen=True, kw_only=True):
    """Widths and statistics of the finite-width networks."""

    width: tuple[int, ...] = (64, 128, 256, 512)
    replicas: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.width, "width")
        check_replicas(self.replicas)


class MupProblem(Problem, frozen=True, kw_only=True):
    """An L-hidden-layer network trained by gradient descent, in the infinite-width limit under muP."""

    data: Data
    student: MLP
    algorithm: Algorithm
    solver: MupSolver = MupSolver()
    simulation: WidthSimulation = WidthSimulation()
