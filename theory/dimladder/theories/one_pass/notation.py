"""Symbols of the equations, index ranges, and what decides the form of the equations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from ...problem.losses import loss_function
from ...symbolic.tensors import Indices, Range

STUDENTS = Range("students", "K", "0", "K", r"\lambda")
TEACHERS = Range("teachers", "M", "K", "N", "z")
UNITS = Range("units", "N", "0", "N", r"\lambda")

i, j, k, l = sp.symbols("i j k l", integer=True)
m, n = sp.symbols("m n", integer=True)
alpha, beta, gamma = sp.symbols("alpha beta gamma", integer=True)
mu, nu = sp.symbols("mu nu", integer=True)

Q, M, T, C, P, E = (sp.IndexedBase(s) for s in "QMTCPE")
a, A, c = (sp.IndexedBase(s) for s in "aAc")
eta, eta_a, sigma, kappa, kappa_a, batch = sp.symbols("eta eta_a sigma kappa kappa_a B", positive=True)
# Moments of the error err = f - y (square loss) that the increments need.
D, N2, H, L = (sp.IndexedBase(s) for s in "DNHL")
dQ, dM, da, dP = (sp.IndexedBase(s) for s in ("dQ", "dM", "da", "dP"))


def indices() -> Indices:
    """Return the index symbols of this theory and their ranges."""
    ranges = (
        dict.fromkeys((i, j, k, l), STUDENTS)
        | dict.fromkeys((m, n), TEACHERS)
        | dict.fromkeys((alpha, beta, gamma), UNITS)
    )
    return Indices(ranges, generic=gamma)


OUTPUT, LABEL = sp.symbols("f y", real=True)


@dataclass(frozen=True)
class Setting:
    """What decides the form of the equations; every number is a parameter of the compiled code.

    Attributes
    ----------
    loss : str
        Name or formula of the loss.
    student, teacher : sympy expressions in `factors.X`
        Activations. ``teacher`` is None for a multi-index target.
    target : sympy expression or None
        f* in the symbols z1, z2, ... for a single- or multi-index target.
    directions : int
        Number of teacher directions of such a target.
    student_kinks, teacher_kinks : tuple of float
        Where the activations are not smooth.
    target_axes, target_kinks : tuple of tuples of float
        Orthonormal axes of the teacher fields of such a target, and where it is not smooth along each.
    mixture : bool
        Whether units are sums of erfs: `student` and `teacher` are then the erf that they are made of.
    """

    student: Any
    teacher: Any = None
    target: Any = None
    directions: int = 0
    loss: str = "square"
    train_readout: bool = False
    spherical: bool = False
    regime: str = "classical"
    schedule: Any = 1
    student_kinks: tuple[float, ...] = ()
    teacher_kinks: tuple[float, ...] = ()
    target_axes: tuple[tuple[float, ...], ...] = ()
    target_kinks: tuple[tuple[float, ...], ...] = ()
    mixture: bool = False

    @property
    def loss_function(self) -> Any:
        """The loss of an output and a label."""
        return loss_function(self.loss).value

    @property
    def fields(self) -> dict[Any, int]:
        """The symbols of the teacher fields in the target, with their numbers."""
        return {sp.Symbol(f"z{r}", real=True): r for r in range(1, self.directions + 1)}

    @property
    def polynomial_target(self) -> bool:
        """Whether the target is a polynomial in its fields."""
        return self.target is not None and bool(self.target.is_polynomial(*self.fields))

    @property
    def stacked(self) -> bool:
        """Whether student and teacher units are of one kind, so that sums run over both at once."""
        return self.target is None and sp.simplify(self.student - self.teacher) == 0 and self.loss == "square"


def slope(index: Any) -> Any:
    """Symbol of g'(lambda_i)."""
    return sp.Symbol(rf"g'(\lambda_{{{index}}})", real=True)


def local_field(index: Any) -> Any:
    """Symbol of the pre-activation lambda_i = w_i . x / sqrt d."""
    return sp.Symbol(rf"\lambda_{{{index}}}", real=True)


def teacher_field(index: Any) -> Any:
    """Symbol of the teacher's field z_m = w*_m . x / sqrt d."""
    return sp.Symbol(rf"z_{{{index}}}", real=True)


def difference_field(index: Any) -> Any:
    """Symbol of the field of a difference, delta_i = v_i . x / sqrt d."""
    return sp.Symbol(rf"\delta_{{{index}}}", real=True)


ERROR = sp.Symbol(r"\Delta", real=True)
SCHEDULE = sp.Symbol("s(t)", real=True)


def value(index: Any) -> Any:
    """Symbol of g(lambda_i)."""
    return sp.Symbol(rf"g(\lambda_{{{index}}})", real=True)
