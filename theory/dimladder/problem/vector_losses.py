"""Losses of several outputs: sums of a loss of one output, cross-entropy, or a formula in f1, f2, ... and y1, y2, ...

A label that is a class stands for its unit vector, (1 - smoothing) e_y + smoothing/outputs where labels are smoothed.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any

import numpy as np

from .losses import LossFunction, loss_function

# Numbers u, and c as a formula in the labels.
Plane = tuple[tuple[float, ...], Any]


class VectorLoss:
    """One loss l(f, y) of output and label in R^outputs.

    Parameters
    ----------
    form : LossFunction
        Of one output and its label: then the sum over outputs; ``cross-entropy``, ``one-hot``, or a formula in ``f1``,
        ``f2``, ..., ``y1``, ``y2``, ....
    outputs : int
        At least 2.
    smoothing : float
        y is replaced by ``(1 - smoothing) y + smoothing/outputs`` in it.

    Attributes
    ----------
    name : str
    f, y : tuples of sympy symbols
        Outputs ``f1, f2, ...`` and labels ``y1, y2, ...``.

    Raises
    ------
    ValueError
        When the formula names other outputs.
    """

    two_valued = False

    def __init__(self, form: LossFunction, outputs: int, smoothing: float = 0.0) -> None:
        self.form, self.outputs, self.smoothing = form, outputs, smoothing
        self.name = form.name if not smoothing else f"{form.name}, smoothing {smoothing!r}"
        if form.several and form.highest > outputs:
            raise ValueError(f"function: {form.name!r} names output {form.highest} of {outputs}")

    @cached_property
    def f(self) -> tuple[Any, ...]:
        """Symbols of the outputs."""
        return self._symbols("f")

    @cached_property
    def y(self) -> tuple[Any, ...]:
        """Symbols of the labels."""
        return self._symbols("y")

    def _symbols(self, letter: str) -> tuple[Any, ...]:
        import sympy as sp

        return tuple(sp.symbols(f"{letter}1:{self.outputs + 1}", real=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VectorLoss) and (self.name, self.outputs) == (other.name, other.outputs)

    def __hash__(self) -> int:
        return hash((self.name, self.outputs))

    @property
    def quadratic(self) -> bool:
        """Whether it is |f - y|^2/2."""
        return self.form.name in ("square", "one-hot")

    @property
    def softmax(self) -> bool:
        """Whether it is the cross-entropy of the softmax of the outputs."""
        return self.form.name == "cross-entropy"

    @cached_property
    def value(self) -> Any:
        """l in sympy, of `f` and `y`."""
        import sympy as sp

        if self.quadratic:
            return sp.Rational(1, 2) * sum((a - b) ** 2 for a, b in zip(self.f, self._labels, strict=True))
        if self.softmax:
            # Sums of exponentials of differences: where one overflows, its class has probability zero.
            return sum(
                y * sp.log(sum(sp.exp(b - a) for b in self.f)) for a, y in zip(self.f, self._labels, strict=True)
            )
        if self.form.several:
            return self.form.formula.sympy(**dict(zip(map(str, self.y), self._labels, strict=True)))
        f, y = (sp.Symbol(s, real=True) for s in "fy")
        pairs = zip(self.f, self._labels, strict=True)
        return sum(self.form.value.subs({f: a, y: b}, simultaneous=True) for a, b in pairs)

    @property
    def _labels(self) -> tuple[Any, ...]:
        if not self.smoothing:
            return self.y
        import sympy as sp

        rest = sp.Float(self.smoothing, 17)
        return tuple((1 - rest) * y + rest / self.outputs for y in self.y)

    @cached_property
    def slopes(self) -> tuple[Any, ...]:
        """dl/df_j in sympy, almost everywhere."""
        import sympy as sp

        from .expressions import drop_atoms

        if self.softmax:
            # Labels of classes sum to one.
            return tuple(1 / sum(sp.exp(b - a) for b in self.f) - y for a, y in zip(self.f, self._labels, strict=True))
        return tuple(drop_atoms(sp.diff(self.value, f)) for f in self.f)

    @cached_property
    def linear_in_label(self) -> bool:
        """Whether every slope is a polynomial of first degree in the labels."""
        if self.softmax or self.quadratic:
            return True
        import sympy as sp

        return all(s.is_polynomial(*self.y) and sp.Poly(s, *self.y).total_degree() <= 1 for s in self.slopes)

    @cached_property
    def jumps(self) -> bool:
        """Whether the loss is discontinuous across one of its `planes`, at random points of it."""
        if not self.planes:
            return False
        import sympy as sp

        value, *levels = (
            sp.lambdify([*self.f, *self.y], e, modules=[{"Heaviside": np.heaviside}, "scipy", "numpy"])
            for e in (self.value, *(level for _, level in self.planes))
        )
        random = np.random.default_rng(0)
        for (u, _), level in zip(self.planes, levels, strict=True):
            normal, gaps = np.array(u), []
            for f, y in random.standard_normal((32, 2, self.outputs)):
                on = f - (f @ normal - level(*f, *y)) / (normal @ normal) * normal
                below, above = (float(value(*(on + s * 1e-7 * normal), *y)) for s in (-1, 1))
                gaps.append(abs(above - below))
            if np.median(gaps) > 1e-4:
                return True
        return False

    @cached_property
    def planes(self) -> tuple[Plane, ...]:
        """The planes ``u.f = c(y)`` on which the loss is not smooth, as (u, c): numbers, a formula in the labels.

        Of those kinked functions whose argument is affine in the outputs for a given label.
        """
        if self.softmax or self.quadratic:
            return ()
        import sympy as sp

        found: dict[Plane, None] = {}
        for argument in _kinked(self.value):
            if not argument.is_polynomial(*self.f):
                continue
            polynomial = sp.Poly(argument, *self.f)
            if polynomial.total_degree() != 1:
                continue
            slopes = [polynomial.coeff_monomial(f) for f in self.f]
            first = next(a for a in slopes if a != 0)
            normal = [sp.simplify(a / first) for a in slopes]
            if all(a.is_number for a in normal):
                level = sp.simplify(-polynomial.coeff_monomial(1) / first)
                found[tuple(map(float, normal)), level] = None
        return tuple(found)


def _kinked(value: Any) -> list[Any]:
    """Return what the kinked functions in a formula have as arguments, in the place of their kink zero."""
    import sympy as sp

    def leaves(e: Any) -> list[Any]:
        return [x for a in e.args for x in leaves(a)] if isinstance(e, sp.Max | sp.Min) else [e]

    found = [e.args[0] for e in value.atoms(sp.Abs, sp.sign, sp.Heaviside)]
    for e in value.atoms(sp.Max, sp.Min):
        found += [one - two for one, two in combinations(leaves(e), 2)]
    return [sp.expand(e) for e in sorted(dict.fromkeys(found), key=str)]


@lru_cache(maxsize=256)
def vector_loss(text: str, outputs: int, smoothing: float = 0.0) -> VectorLoss:
    """Return the loss called `text`, or the formula `text`, of that many outputs."""
    return VectorLoss(loss_function(text), outputs, smoothing)
