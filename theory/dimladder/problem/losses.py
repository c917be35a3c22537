"""``[loss]``: the only list of losses. A loss is a name or a formula in the output ``f`` and the label ``y``.

Everything else about a loss is derived from the formula: slope and curvature in f, kinks, whether it wants labels of
two values, whether it is convex.
"""

from __future__ import annotations

import ast
import re
from functools import cached_property, lru_cache
from typing import Any, Literal

from ..errors import did_you_mean
from .checks import formula, not_negative
from .expressions import Expression
from .few_points import FEW_POINTS
from .spec import Spec

# Name -> formula in f and y.
LOSSES: dict[str, str] = {
    "square": "0.5*(f - y)**2",
    "correlation": "-y*f",
    "logistic": "softplus(-y*f)",
    "hinge": "relu(1 - y*f)",
    "abs": "abs(y - f)",
    "log-cosh": "log(cosh(f - y))",
}
# Losses of a vector of outputs, one a class: no formula in one f.
VECTOR_LOSSES: dict[str, str] = {
    "cross-entropy": "-log of the softmax of the outputs at the label's class",
    "one-hot": "|f - e_y|^2/2, e_y the unit vector of the label's class",
}
# Functions of a residual u that a formula may use beside the usual ones.
_RESIDUALS = {
    "huber": (2, "clip({u}, -({p}), {p})*({u} - clip({u}, -({p}), {p})/2)"),
    "quantile": (2, "({p})*({u}) + relu(-({u}))"),
}
# Outputs and labels by number.
_SEVERAL = re.compile(r"\b[fy]\d+\b")
_GRID = 4001  # points on which convexity is checked
_MARGINS = 400  # random points at which it is looked whether only y f counts
_RANGE = 40.0  # outputs between -_RANGE and _RANGE


class _Expand(ast.NodeTransformer):
    """Write ``huber(u, delta)`` and ``quantile(u, q)`` in the functions every formula has."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _RESIDUALS:
            arity, text = _RESIDUALS[node.func.id]
            if len(node.args) != arity or node.keywords:
                raise ValueError(f"{node.func.id} takes a residual and a number, as in {node.func.id}(y - f, 0.5)")
            u, p = (ast.unparse(a) for a in node.args)
            return ast.parse(text.format(u=f"({u})", p=p), mode="eval").body
        return node


class _Fix(ast.NodeTransformer):
    """Put a number in the place of ``y``."""

    def __init__(self, y: float) -> None:
        self.y = y

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.parse(f"({self.y!r})", mode="eval").body if node.id == "y" else node


@lru_cache(maxsize=1024)
def _kinks(text: str, y: float) -> tuple[float, ...]:
    fixed = ast.unparse(_Fix(y).visit(ast.parse(text, mode="eval")))
    return Expression(fixed, ("f",)).kinks("f")


class LossFunction:
    """One loss l(f, y).

    Parameters
    ----------
    text : str
        A name of `LOSSES` or `VECTOR_LOSSES`, or a formula in ``f`` and ``y``, or in ``f1``, ``f2``, ..., ``y1``,
        ``y2``, ...; ``huber(u, delta)`` and ``quantile(u, q)`` may stand in it.

    Attributes
    ----------
    name : str
        The canonical name, or the formula.
    vector : bool
        Whether it is of several outputs: one a class, or those of a formula; it then has no formula in one f.
    classes : bool
        Whether its labels are classes.
    several : bool
        Whether it is a formula in f1, f2, ... and y1, y2, ...; `formula` is that, `highest` the highest number used.

    Raises
    ------
    ValueError
        For anything else; the message lists the names.
    """

    def __init__(self, text: str) -> None:
        key = text.strip().lower().replace("_", "-")
        self.classes = key in VECTOR_LOSSES
        self.several = not self.classes and key not in LOSSES and _SEVERAL.search(text) is not None
        self.vector = self.classes or self.several
        self.name = key if self.classes or key in LOSSES else text.strip()
        if self.classes:
            return
        known = [*LOSSES, *VECTOR_LOSSES]
        if key not in LOSSES and key.replace("-", "").isidentifier() and key not in ("f", "y"):
            raise ValueError(f"unknown loss {text!r}: {did_you_mean(text, known)}")
        try:
            if self.several:
                self._read_several(text)
                return
            self.expression = Expression(_expanded(LOSSES.get(key, text)), ("f", "y"))
        except ValueError as error:
            raise ValueError(f"{error}; a loss is a formula in f and y or one of: {', '.join(known)}") from None
        if "f" not in self.expression.variables:
            raise ValueError(f"the loss {text!r} does not depend on the output f")

    def _read_several(self, text: str) -> None:
        self.formula = Expression(_expanded(text), ("f*", "y*"))
        numbers = [int(name[1:]) for name in self.formula.variables]
        if not any(name.startswith("f") for name in self.formula.variables):
            raise ValueError(f"the loss {text!r} does not depend on an output")
        if min(numbers) < 1:
            raise ValueError(f"the loss {text!r} counts outputs and labels from 1")
        self.highest = max(numbers)

    def __repr__(self) -> str:
        return f"LossFunction({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LossFunction) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    @cached_property
    def value(self) -> Any:
        """l(f, y) in sympy, of the real symbols f and y."""
        return self._formula.sympy()

    @cached_property
    def slope(self) -> Any:
        """dl/df in sympy, almost everywhere."""
        return self._derivative(1)

    @cached_property
    def curvature(self) -> Any:
        """d^2l/df^2 in sympy, almost everywhere."""
        return self._derivative(2)

    def _derivative(self, order: int) -> Any:
        import sympy as sp

        from .expressions import drop_atoms

        found = self.value
        for _ in range(order):
            found = drop_atoms(sp.diff(found, sp.Symbol("f", real=True)))
        return found

    @property
    def _formula(self) -> Expression:
        if self.vector:
            raise ValueError(f"the loss {self.name!r} takes several outputs: it has no formula in one f")
        return self.expression

    def kinks(self, y: float) -> tuple[float, ...]:
        """Return the outputs f at which the loss is not smooth, for the label y.

        Raises
        ------
        ValueError
            When the argument of a kinked function is not affine in f.
        """
        return _kinks(self._formula.text, float(y))

    @cached_property
    def jumps(self) -> bool:
        """Whether the loss is discontinuous in the output, for labels of either sign or some number."""
        import numpy as np

        return self._jumps(lambda f, y: self.evaluate(np, f, y))

    @cached_property
    def slope_jumps(self) -> bool:
        """Whether dl/df is discontinuous in the output, for labels of either sign or some number."""
        return self._jumps(self.slopes)

    def _jumps(self, function: Any) -> bool:
        import numpy as np

        step = 1e-7
        for y in (1.0, -1.0, 0.7):
            for kink in self.kinks(y):
                below, above = (float(function(np.array(kink + s), np.array(y))) for s in (-step, step))
                if abs(above - below) > 1e-4:
                    return True
        return False

    def evaluate(self, xp: Any, f: Any, y: Any) -> Any:
        """Evaluate on arrays of the namespace `xp`, elementwise."""
        return self._formula.evaluate(xp, f=f, y=y)

    @cached_property
    def _numeric(self) -> tuple[Any, Any]:
        import sympy as sp

        from .expressions import drop_atoms
        from .stable import on_arrays, stabilise

        f, y = sp.Symbol("f", real=True), sp.Symbol("y", real=True)
        modules: list[Any] = [{"Heaviside": _step, **on_arrays()}, "scipy", "numpy"]
        # Of the stable form: exp(a)/(1 + exp(a)) overflows where the loss does not.
        slope = drop_atoms(sp.diff(stabilise(self.value), f))
        return tuple(sp.lambdify((f, y), e, modules=modules) for e in (slope, drop_atoms(sp.diff(slope, f))))

    def slopes(self, f: Any, y: Any) -> Any:
        """dl/df on NumPy arrays, elementwise."""
        return self._numeric[0](f, y) + 0.0 * (f + y)

    def curvatures(self, f: Any, y: Any) -> Any:
        """d^2l/df^2 on NumPy arrays, elementwise."""
        return self._numeric[1](f, y) + 0.0 * (f + y)

    @cached_property
    def margin(self) -> bool:
        """Whether the loss depends on the product y f only."""
        if self.vector:
            return False
        import numpy as np

        # At points of all sizes: to import sympy takes longer than a solve.
        random = np.random.default_rng(0)
        f, y = (
            random.uniform(-_RANGE, _RANGE, _MARGINS) * random.uniform(0.0, 1.0, _MARGINS) ** 3,
            random.normal(size=_MARGINS),
        )
        with np.errstate(all="ignore"):
            given, product = self.evaluate(FEW_POINTS, f, y), self.evaluate(FEW_POINTS, y * f, np.ones_like(y))
        return bool((abs(given - product) <= 1e-11 * (1.0 + abs(given))).all())

    @cached_property
    def two_valued(self) -> bool:
        """Whether it means labels of +1 and -1: a margin loss that is not linear in f."""
        return self.margin and not self._linear

    @cached_property
    def _linear(self) -> bool:
        """Whether a margin loss is linear in f."""
        import numpy as np

        f = np.linspace(-_RANGE, _RANGE, _MARGINS)
        with np.errstate(all="ignore"):
            values = np.asarray(self.evaluate(FEW_POINTS, f, np.ones_like(f)), dtype=float)
        bend = np.diff(values, 2)
        return bool((abs(bend) <= 1e-12 * (1.0 + np.abs(values[1:-1]))).all())

    @cached_property
    def convex(self) -> bool:
        """Whether it is convex in f: the slope never falls, on a fine grid of outputs in [-40, 40] for several labels.

        The losses of classes are convex.
        """
        if self.vector:
            return self.classes
        import numpy as np

        f = np.linspace(-_RANGE, _RANGE, _GRID) + 1e-6
        for y in (-2.0, -1.0, -0.3, 0.0, 0.7, 1.0, 3.0):
            with np.errstate(all="ignore"):
                values = np.asarray(self.evaluate(FEW_POINTS, f, np.full(f.shape, y)), dtype=float) + 0.0 * f
                slope = np.diff(values) / (f[1] - f[0])
            if not np.isfinite(slope).all():
                return False
            if np.diff(slope).min() < -1e-9 * (1.0 + np.abs(slope).max()):
                return False
        return True


def _step(x: Any, at_zero: Any = 0.5) -> Any:
    import numpy as np

    return np.heaviside(x, at_zero)


def _expanded(text: str) -> str:
    if not any(name in text for name in _RESIDUALS):
        return text
    try:
        tree = ast.parse(text.strip().replace("^", "**"), mode="eval")
    except SyntaxError:
        return text
    return ast.unparse(_Expand().visit(tree))


def with_parameters(text: str) -> tuple[str, dict[str, float]]:
    """Return the formula of a loss with symbols p1, p2, ... for the numbers of its residual functions, and these.

    ``huber(y - f, 0.7)`` is that of every delta > 0. A formula without such a number comes back without symbols.
    """
    numbers: dict[str, float] = {}

    class Naming(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            self.generic_visit(node)
            number = node.args[1] if len(node.args) == 2 else None
            if isinstance(node.func, ast.Name) and node.func.id in _RESIDUALS and isinstance(number, ast.Constant):
                value = float(number.value)  # type: ignore[arg-type]
                if value > 0.0:
                    name = f"p{len(numbers) + 1}"
                    numbers[name] = value
                    node.args[1] = ast.Name(name, ast.Load())
            return node

    if not any(name in text for name in _RESIDUALS):
        return text, {}
    tree = Naming().visit(ast.parse(text.strip().replace("^", "**"), mode="eval"))
    return _expanded(ast.unparse(tree)), numbers


@lru_cache(maxsize=256)
def loss_function(text: str) -> LossFunction:
    """Return the loss called `text`, or the formula `text`; see `LossFunction`."""
    return LossFunction(text)


class Loss(Spec, frozen=True, kw_only=True):
    """Objective of a fit: sum_i l(f_i, y_i) + (ridge/2)|w|^2.

    Attributes
    ----------
    function : str
        l: a name (square, correlation, logistic, hinge, abs, log-cosh, cross-entropy, one-hot), or a formula in ``f``
        and ``y`` such as ``"huber(y - f, 1.0)"`` or ``"quantile(y - f, 0.25)"``. Of several outputs: the sum over them,
        or a formula in ``f1``, ``f2``, ... and ``y1``, ``y2``, ....
    smoothing : float
        Labels that are classes count as (1 - smoothing) times their unit vector, plus smoothing/classes.
    penalty : str
        ``"l2"`` (|w|^2/2), ``"l1"``, or a formula in ``w``.
    ridge : float or "optimal"
        Strength of the penalty. ``"optimal"`` minimises the observable `optimise`.
    ridge_per_sample : float or text
        Instead of ridge: mean_i l(f_i, y_i) + (ridge_per_sample/2)|w|^2/k, k the number of fitted weights; that is
        ridge = (n/k) ridge_per_sample. A text is a formula in ``k``, such as ``"1e-4*k"``.
    optimise : str
        The observable that an optimal ridge minimises.
    """

    function: str = "square"
    smoothing: float = 0.0
    penalty: str = "l2"
    ridge: float | Literal["optimal"] | None = None
    ridge_per_sample: float | str | None = None
    optimise: str = ""

    def __post_init__(self) -> None:
        try:
            loss_function(self.function)
        except ValueError as error:
            raise ValueError(f"function: {error}") from None
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing must lie in [0, 1), got {self.smoothing}")
        if self.penalty not in ("l2", "l1"):
            formula("penalty is l2, l1 or a formula in w", self.penalty, ("w",))
        if self.ridge is not None and self.ridge_per_sample is not None:
            raise ValueError("ridge_per_sample excludes ridge: give one of them")
        for name in ("ridge", "ridge_per_sample"):
            value = getattr(self, name)
            if isinstance(value, float):
                not_negative(**{name: value})
        if isinstance(self.ridge_per_sample, str):
            formula("ridge_per_sample", self.ridge_per_sample, ("k",))
        if (self.ridge == "optimal") != bool(self.optimise):
            raise ValueError('optimise names what ridge = "optimal" minimises: they go together')

    @property
    def form(self) -> LossFunction:
        """The loss itself."""
        return loss_function(self.function)

    def per_sample(self, weights: float) -> float:
        """Return ridge_per_sample for `weights` fitted weights; `ValueError` when it is not given."""
        if self.ridge_per_sample is None:
            raise ValueError("ridge_per_sample is not given")
        if not isinstance(self.ridge_per_sample, str):
            return float(self.ridge_per_sample)
        import math

        return float(Expression(self.ridge_per_sample, ("k",)).evaluate(math, k=weights))
