"""``[student]``: the function f that is trained. Weights have |w|^2 = O(d); fields are w.x/sqrt d + b."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from .activations import activation
from .checks import Row, at_least, not_negative, positive
from .expressions import Expression
from .laws import Law, law
from .spec import Spec
from .timed import Timed, check_timed

# Readouts: numbers, or a row of them an output.
Rows = tuple[float | tuple[float, ...], ...]
READOUTS = ("ones", "rademacher", "gaussian")
SCALES = ("", "width", "sqrt(width)")
MAX_LAYERS = 1000


def check_readout(name: str, rows: Rows, width: int) -> None:
    """Refuse anything but a number a hidden unit, or rows of as many."""
    kinds = {isinstance(row, tuple) for row in rows}
    if len(kinds) > 1:
        raise ValueError(f"{name} is a list of numbers, or one row an output")
    for row in readout_rows(rows):
        if len(row) != width:
            raise ValueError(f"{name} must have {width} entries, one a hidden unit, got {len(row)}")


def readout_rows(rows: Rows) -> tuple[tuple[float, ...], ...]:
    """Return a row of readouts an output: one, where they are plain numbers."""
    inner = tuple(row for row in rows if isinstance(row, tuple))
    return inner or (tuple(float(a) for a in rows if not isinstance(a, tuple)),)


class Linear(Spec, frozen=True, kw_only=True, tag_field="kind", tag="linear"):
    """f = w.x/sqrt d, plus b where `bias`; one w and b an output where the target has several, or is a class."""

    bias: bool = False


class TwoLayer(Spec, frozen=True, kw_only=True, tag_field="kind", tag="two-layer"):
    """f = sum_k a_k g(w_k.x/sqrt d + b_k), k = 1..width.

    Attributes
    ----------
    width : int
    activation : str
        g: a name, or a formula in ``x``.
    slope : str
        g' given instead of g, where only the slope matters (correlation loss).
    readout : str, sequence of float, or rows
        ``"ones"``, ``"rademacher"`` or ``"gaussian"``, each optionally ``/width`` (mean field) or ``/sqrt(width)``
        (NTK); or the numbers. Random readouts are drawn from ``[initial] seed``. Rows: one an output, of which there
        are as many as the target has.
    heads : int
        Readouts, one a task; 1: shared.
    train_readout, bias : bool
        Whether the readout is trained, and whether every unit has a trained bias.
    dropout : float, or a formula in the time ``t``; or one a unit
        Probability that a hidden unit is kept in a step; 1: no dropout.
    hermite : str
        Convention of ``HeN`` in the formulas.
    """

    width: int = 1
    activation: str = "erf"
    slope: str = ""
    readout: str | Rows = "ones"
    heads: int = 1
    train_readout: bool = False
    bias: bool = False
    dropout: Timed | tuple[Timed, ...] = 1.0
    hermite: Literal["orthonormal", "probabilists", "factorial"] = "probabilists"

    timed: ClassVar[tuple[str, ...]] = ("dropout",)

    def __post_init__(self) -> None:
        at_least(1, width=self.width, heads=self.heads)
        activation(self.activation, self.hermite)
        if self.slope:
            if self.activation != "erf":
                raise ValueError("slope is given instead of the activation: drop one of them")
            activation(self.slope, self.hermite)
        if isinstance(self.dropout, tuple):
            if len(self.dropout) != self.width:
                raise ValueError(f"dropout must be one number, or {self.width}, got {len(self.dropout)}")
            for keep in self.dropout:
                check_timed("dropout", keep, 0.0, high=1.0)
        else:
            check_timed("dropout", self.dropout, 0.0, above=True, high=1.0)
        if isinstance(self.readout, str):
            law, _, scale = self.readout.replace(" ", "").partition("/")
            if law not in READOUTS or scale not in SCALES:
                raise ValueError(
                    f"readout must be a list of {self.width} numbers or one of {', '.join(READOUTS)}, optionally "
                    f"followed by /width (mean field) or /sqrt(width) (NTK), got {self.readout!r}"
                )
        else:
            check_readout("readout", self.readout, self.width)

    @property
    def expression(self) -> Expression:
        """The activation g, in ``x``."""
        return activation(self.activation, self.hermite)

    @property
    def slope_expression(self) -> Expression:
        """The slope g' where it is given, in ``x``: the name of a function, or a formula."""
        return activation(self.slope, self.hermite)


class FeatureLayer(Spec, frozen=True, kw_only=True):
    """One layer of random features: k_l = width_ratio k_{l-1} of them, ``activation(F phi/sqrt k_{l-1})``."""

    activation: str = "relu"
    width_ratio: float | None = None

    def __post_init__(self) -> None:
        activation(self.activation)
        positive(width_ratio=self.width_ratio)


class Covariances(Spec, frozen=True, kw_only=True):
    """``.npy`` files of the covariances of features `omega`, of teacher and features `phi`, of the teacher's inputs
    `psi`, and the teacher itself.
    """

    omega: str
    phi: str
    psi: str
    teacher: str


class Features(Spec, frozen=True, kw_only=True, tag_field="kind", tag="features"):
    """f = w.phi(x)/sqrt k: fixed random features, and a readout that is fitted.

    Attributes
    ----------
    layers : sequence of {activation, width_ratio}
        width_ratio of a layer is its width over that of the layer below (over d for the first).
    covariances : table
        Files of covariances, instead of layers.
    readout_variance : float
        > 0: the tangent kernel of both layers, with readouts of that variance.
    bias : bool
        Whether the fitted readout has a bias.
    """

    layers: tuple[FeatureLayer, ...] = ()
    covariances: Covariances | None = None
    readout_variance: float = 0.0
    bias: bool = False

    def __post_init__(self) -> None:
        if bool(self.layers) == (self.covariances is not None):
            raise ValueError("features are given by layers or by covariances: give one of them")
        not_negative(readout_variance=self.readout_variance)


class Abc(Spec, frozen=True, kw_only=True):
    """A general parametrisation: initial variances ``n^-b`` and learning rates ``eta n^-c`` of the input, hidden and
    output weights. muP is ``variance = [0, 1, 2]``, ``rate = [-1, 0, 1]``.
    """

    variance: tuple[float, float, float]
    rate: tuple[float, float, float]


class Deep(Spec, frozen=True, kw_only=True, tag_field="kind", tag="deep"):
    """A fully connected network ``h^1 = W^1 x, h^l = W^l phi(h^{l-1}), f = W^{L+1} phi(h^L)``, no biases.

    Attributes
    ----------
    hidden_layers : int
        L.
    activation : str
        A name or a formula in ``x``.
    parametrization : str
        How weights and rates scale with the width; ``abc`` with its table of exponents.
    richness : float
        gamma: outputs are divided by it and learning rates multiplied by its square; 1 is muP, gamma -> 0 is lazy.
    weight_variance : float
        Prior variance of a weight, times the width below it (posteriors).
    width : int
        Units of a hidden layer, where a theory keeps the width.
    initial_norm, direction : float, {"random", "target"}
        Norm and direction of the product of the initial weights (linear networks from balanced weights).
    """

    hidden_layers: int | None = None
    activation: str = "tanh"
    parametrization: Literal["mup", "sp", "ntp", "ip", "abc"] = "mup"
    abc: Abc | None = None
    richness: float = 1.0
    weight_variance: float = 1.0
    width: int | None = None
    initial_norm: float | None = None
    direction: Literal["random", "target"] = "random"

    def __post_init__(self) -> None:
        at_least(1, hidden_layers=self.hidden_layers, width=self.width)
        activation(self.activation)
        positive(richness=self.richness, weight_variance=self.weight_variance)
        if (self.parametrization == "abc") != (self.abc is not None):
            raise ValueError('a table [student.abc] goes with parametrization = "abc", and only with it')
        if self.initial_norm is not None and not (self.initial_norm > 0 and math.isfinite(self.initial_norm)):
            raise ValueError(f"initial_norm must be positive: a zero product is a saddle, got {self.initial_norm}")


class ThreeLayer(Spec, frozen=True, kw_only=True, tag_field="kind", tag="three-layer"):
    """The three-layer network of layer-wise training; `sign` is that of the first-layer readouts."""

    activation: str
    sign: Literal[1, -1] = 1

    def __post_init__(self) -> None:
        activation(self.activation)


class MeanField(Spec, frozen=True, kw_only=True, tag_field="kind", tag="mean-field"):
    """f = (1/N) sum_j a_j s(w_j.x), a_j from `readout_law`, sqrt(d) w_ji from `weight_law`, N -> infinity.

    Attributes
    ----------
    activation : str
    readout_law, weight_law : str
        ``uniform(low, high)``, ``normal(mean, std)``, ``rademacher``, ``rademacher(scale)`` or ``constant(value)``. Of
        the weights only the second moment matters; their mean must be zero.
    particles : int
        Gauss nodes of the readout law at the start, rounded up to whole panels of eight; more are made where the state
        becomes steep. A law on finitely many values has one particle for each.
    """

    activation: str
    readout_law: str = "uniform(-1, 1)"
    weight_law: str = "normal(0, 1)"
    particles: int = 200

    def __post_init__(self) -> None:
        activation(self.activation)
        at_least(4, particles=self.particles)
        for name in ("readout_law", "weight_law"):
            try:
                law(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if self.weights.mean != 0:
            raise ValueError(
                f"weight_law must have mean zero, got {self.weight_law!r}: with a common direction in all weights the "
                "network would depend on irrelevant coordinates"
            )

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
        """Length of the initial weights, E[W^2]^(1/2) with W of `weight_law`."""
        return math.sqrt(self.weights.second_moment)


class Truncation(Spec, frozen=True, kw_only=True, tag_field="kind", tag="truncation"):
    """The explicit ReLU network that truncates one cluster a layer.

    Attributes
    ----------
    layers : int
        Hidden layers, at least one a class.
    shifts : sequence of float
        |mu_j|, how far each cluster is moved towards the barycentre when it is cut; by default 4 delta sqrt Q for the
        explicit network and the middle of the admissible interval for the states.
    theta : float
        Opening of the cones in degrees; by default half-way between the smallest possible and 180.
    assumptions : {"required", "reported"}
        Whether violated geometric assumptions stop the solve, or are only listed in its message.
    """

    layers: int
    shifts: Row = ()
    theta: float | None = None
    assumptions: Literal["required", "reported"] = "required"

    def __post_init__(self) -> None:
        at_least(1, layers=self.layers)
        if self.layers > MAX_LAYERS:
            raise ValueError(f"layers must be at most {MAX_LAYERS}, got {self.layers}")
        if any(not s > 0 for s in self.shifts):
            raise ValueError("shifts are distances |mu_j| and must be positive")


class ShallowTruncation(Spec, frozen=True, kw_only=True, tag_field="kind", tag="truncation-shallow"):
    """One hidden ReLU layer that keeps the span of the class means, and kills what is orthogonal to it."""


class SeparableTruncation(Spec, frozen=True, kw_only=True, tag_field="kind", tag="truncation-separable"):
    """One hidden ReLU layer a class, each a hyperplane that cuts one class off and sends it to a point.

    Attributes
    ----------
    order : sequence of int
        In which the classes are cut; found by backtracking where none is given.
    """

    order: tuple[int, ...] = ()


class GraphConvolution(Spec, frozen=True, kw_only=True, tag_field="kind", tag="graph-convolution"):
    """f = (A + self_loop) X w: one linear graph convolution."""

    self_loop: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.self_loop):
            raise ValueError(f"self_loop must be finite, got {self.self_loop}")
