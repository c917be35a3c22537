"""What an online-SGD run file may say: students, the algorithm, initial conditions."""

from __future__ import annotations

import math
from typing import Literal

from ...problem import (
    Committee,
    Expression,
    MultiIndex,
    OdeSolver,
    Problem,
    Simulation,
    SingleIndex,
    Spec,
    TimeGrid,
    activation,
)

READOUTS = ("ones", "rademacher", "gaussian")
SCALES = ("", "width", "sqrt(width)")


class _Student(Spec, frozen=True, kw_only=True):
    """f(x) = sum_k a_k g(w_k . x / sqrt d)."""

    width: int
    activation: str = "erf"
    train_readout: bool = False
    readout: str | tuple[float, ...] = "ones"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")
        activation(self.activation)
        if isinstance(self.readout, str):
            law, _, scale = self.readout.replace(" ", "").partition("/")
            if law not in READOUTS or scale not in SCALES:
                raise ValueError(
                    f"readout must be a list of {self.width} numbers or one of {', '.join(READOUTS)}, optionally "
                    f"followed by /width (mean field) or /sqrt(width) (NTK), got {self.readout!r}"
                )
        elif len(self.readout) != self.width:
            raise ValueError(f"readout must have {self.width} entries, one a hidden unit, got {len(self.readout)}")


class CommitteeStudent(_Student, frozen=True, kw_only=True, tag_field="kind", tag="committee"):
    """Soft committee machine: the readouts start at ``[initial] a``, or 1."""


class TwoLayer(_Student, frozen=True, kw_only=True, tag_field="kind", tag="two-layer"):
    """Two-layer network; `readout` sets the readouts and the output scaling.

    ``"rademacher/width"`` is the mean-field scaling, ``"rademacher/sqrt(width)"`` the NTK one; random readouts are
    drawn from ``[initial] seed``.
    """

    readout: str | tuple[float, ...] = "ones/width"


class OnlineSGD(Spec, frozen=True, kw_only=True, tag_field="kind", tag="online-sgd"):
    """One-pass SGD: w_i -= (lr/sqrt d) a_i g'(lambda_i) err x, a_i -= (lr_readout/d) g(lambda_i) err.

    Attributes
    ----------
    learning_rate, readout_learning_rate : float
        The second defaults to the first; it is used when the readout is trained.
    loss : {"square", "correlation", "logistic"}
        err = f - y; err = -y (the loss -y f); err = -y/(1 + exp(y f)) (the loss log(1 + exp(-y f)), y the label as the
        target gives it: a target of signs makes it classification).
    spherical : bool
        Whether each w_i is rescaled to its initial norm after every step.
    weight_decay, readout_weight_decay : float
        w -= (weight_decay/d) w at every step.
    batch_size : int
        Samples a step; time stays the number of steps / d.
    schedule : str
        Factor on both learning rates, a formula in the time t, e.g. ``1/(1 + t/50)``.
    regime : {"classical", "gradient-flow", "noise-dominated"}
        Keep every term, only the drift (learning rate -> 0 at fixed learning rate x time), or only the diffusion
        term of second order in the learning rate.
    """

    learning_rate: float
    readout_learning_rate: float | None = None
    loss: Literal["square", "correlation", "logistic"] = "square"
    spherical: bool = False
    weight_decay: float = 0.0
    readout_weight_decay: float = 0.0
    batch_size: int = 1
    schedule: str = "1"
    regime: Literal["classical", "gradient-flow", "noise-dominated"] = "classical"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "readout_learning_rate", "weight_decay", "readout_weight_decay"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be finite and not negative, got {value}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        Expression(self.schedule, ("t",))


class Initial(Spec, frozen=True, kw_only=True):
    """Overlaps at time 0: given, or drawn.

    Attributes
    ----------
    kind : {"explicit", "random"}
    Q, M : matrices
        Student-student (width x width) and student-teacher (width x teachers) overlaps, for ``explicit``.
    a : sequence of float, optional
        Readouts; instead of the student's `readout`.
    overlap : float
        ``random``: standard deviation of each M[i, m].
    norm : float
        ``random``: squared norm Q[i, i], 1 unless given.
    seed : int
        ``random``: seed of M and of random readouts. Directions beyond M are mutually orthogonal, as d -> infinity.
    """

    kind: Literal["explicit", "random"] = "explicit"
    Q: tuple[tuple[float, ...], ...] | None = None
    M: tuple[tuple[float, ...], ...] | None = None
    a: tuple[float, ...] | None = None
    overlap: float | None = None
    norm: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind == "explicit":
            if self.Q is None or self.M is None:
                raise ValueError(
                    'an explicit initial condition needs both Q and M (or kind = "random" with overlap, seed)'
                )
            if self.overlap is not None or self.norm is not None:
                raise ValueError('overlap and norm belong to kind = "random"; Q and M already say both')
        elif self.Q is not None or self.M is not None:
            raise ValueError('Q and M cannot be given with kind = "random"; drop them or set kind = "explicit"')
        if self.overlap is not None and not (self.overlap >= 0 and math.isfinite(self.overlap)):
            raise ValueError(f"overlap must be finite and not negative, got {self.overlap}")
        if self.norm is not None and not (self.norm > 0 and math.isfinite(self.norm)):
            raise ValueError(f"norm must be positive, got {self.norm}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")


class OnlineSolver(OdeSolver, frozen=True, kw_only=True):
    """Settings of the integrator, and of averages without closed form.

    Attributes
    ----------
    averages : {"auto", "mixture", "quadrature"}
        Of tanh and sigmoid units: as sums of erfs, whose averages have closed forms, or by quadrature; "auto" takes the
        first where it can.
    quadrature_rtol : float
        Accuracy asked of dy/dt where averages are computed by quadrature, and of the slope of sums of erfs.
    """

    averages: Literal["auto", "mixture", "quadrature"] = "auto"
    quadrature_rtol: float = 1e-7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1e-13 <= self.quadrature_rtol < 1:
            raise ValueError(f"quadrature_rtol must lie in [1e-13, 1), got {self.quadrature_rtol}")


class OnlineSimulation(Simulation, frozen=True, kw_only=True):
    """Sizes and statistics of the experiment, and how it runs.

    Attributes
    ----------
    method : {"gram", "weights"}
        ``"gram"`` follows the overlaps by their exact finite-d law, at a cost independent of d; ``"weights"`` moves
        explicit weights.
    """

    method: Literal["gram", "weights"] = "gram"


class OnlineProblem(Problem, frozen=True, kw_only=True):
    """One-pass SGD of a two-layer network on a target of finitely many directions."""

    target: Committee | SingleIndex | MultiIndex
    student: CommitteeStudent | TwoLayer
    algorithm: OnlineSGD
    initial: Initial
    grid: TimeGrid
    solver: OnlineSolver = OnlineSolver()
    simulation: OnlineSimulation = OnlineSimulation()
