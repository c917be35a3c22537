"""What the irrelevant coordinates do to a neuron: psi(x, s) = E[sigma(x + s G)], G standard normal, and its slopes.

The sum of many small weights over the irrelevant coordinates is Gaussian, whatever their law. Three averages enter the
dynamics: psi = E[sigma], psi_x = E[sigma'] and psi_s = E[sigma' G] = s E[sigma'']. Where the symbolic engine knows them
(polynomials, erf, exponentials, piecewise polynomials such as relu) they are exact; else a quadrature whose number of
nodes grows with s, as a smooth function of x + s G needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ...errors import DerivationError
from ...problem import Expression

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
    # Thresholds of s (L,), numbers of nodes (L,), nodes and weights (L, most).
    Tables = tuple[Array, Array, Array, Array]

# Gauss-Hermite orders and steps of the trapezoidal rule, from cheap to fine.
HERMITE = (3, 5, 7, 9, 13)
STEPS = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.14, 0.1, 0.07, 0.05, 0.035, 0.025)
# Values of s up to which a rule is used, and the positions x at which it is tested.
LEVELS = (0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 3.0, 4.0, 5.5, 7.5, 10.0)
RANGE, POSITIONS = 12.0, 193


def symbols() -> tuple[Any, Any, Any]:
    """Return x = u.z, s and G in sympy."""
    import sympy as sp

    return sp.Symbol("x", real=True), sp.Symbol("s", positive=True), sp.Symbol("g", real=True)


@dataclass(frozen=True)
class Smoothing:
    """The averages of one activation.

    Attributes
    ----------
    averages : tuple of Expr, or None
        psi, psi_x, psi_s in (x, s), where all three have a closed form.
    integrands : tuple of Expr
        What is averaged over G, in (x, s, g): sigma, sigma', sigma' g at x + s g.
    kinked : bool
        Whether the activation has kinks: then s must stay positive.
    """

    averages: tuple[Any, Any, Any] | None
    integrands: tuple[Any, Any, Any]
    kinked: bool


@lru_cache(maxsize=32)
def smooth(activation: Expression) -> Smoothing:
    """Average an activation.

    Raises
    ------
    DerivationError
        If it jumps (its gradient then says nothing), or has kinks and no closed form.
    """
    import sympy as sp

    from ...problem.expressions import drop_atoms

    x, s, g = symbols()
    try:
        kinks = tuple(kink + 0.0 for kink in activation.kinks())
    except ValueError as error:
        raise DerivationError(
            f"the kinks of the activation {activation.text!r} cannot be found", where="student.activation",
            why=str(error), hint="write it with relu, abs, max or min of affine functions of x",
        ) from None  # fmt: skip
    _refuse_jumps(activation, kinks)
    value = activation.sympy(x=x)
    if value.has(sp.Max, sp.Min):
        value = value.rewrite(sp.Heaviside)
    slope = sp.diff(value, x)
    field = x + s * g
    plain = drop_atoms(slope)
    integrands = (value.subs(x, field), plain.subs(x, field), g * plain.subs(x, field))
    centres = sorted({0.0, *kinks}, key=abs)
    psi, psi_x = (_closed(e, centres) for e in (value, plain))
    if psi is not None and psi_x is not None:
        # Stein's lemma: E[sigma'(x + s G) G] = s E[sigma''(x + s G)], also across kinks.
        # (Not expanded: exp(-(x - k)^2/(2 s^2)) must stay one exponential, whose parts overflow at small s.)
        psi_s = sp.Add(*(s * part for part in sp.Add.make_args(sp.diff(psi_x, x))))
        return Smoothing((psi, psi_x, psi_s), integrands, bool(kinks))
    if kinks:
        raise DerivationError(
            f"no closed form is known for Gaussian averages of the activation {activation.text!r}",
            where="student.activation", why=f"it has kinks (at x = {', '.join(f'{k:g}' for k in kinks)}), and a "
            "quadrature over them would not be accurate",
            hint="use a smooth function, or a piecewise polynomial such as relu, leaky-relu, abs, hard-tanh",
        )  # fmt: skip
    return Smoothing(None, integrands, False)


def _refuse_jumps(activation: Expression, kinks: tuple[float, ...]) -> None:
    import numpy as np

    for kink in kinks:
        step = 1e-9 * (1 + abs(kink))
        left, right = (float(activation.evaluate(np, x=np.float64(kink + side))) for side in (-step, step))
        if abs(right - left) > 1e-6 * (1 + abs(left)):
            raise DerivationError(
                f"the activation {activation.text!r} jumps at x = {kink:g}", where="student.activation",
                why="SGD sees its gradient, which is zero on both sides of the jump",
                hint="use a continuous activation, such as erf or hard-tanh instead of sign",
            )  # fmt: skip


def _closed(function: Any, centres: list[float]) -> Any:
    """Return E[function(x + s G)] in closed form, or None; each summand may be expanded around another kink."""
    import sympy as sp

    from ...symbolic.factors import X
    from ...symbolic.gaussian import Law, average
    from ...symbolic.nodes import Expectation

    x, s, _ = symbols()
    law = Law(lambda *_: s**2, mean=lambda _: x)
    total = sp.Integer(0)
    for summand in sp.Add.make_args(function):
        for centre in centres:
            shift = sp.nsimplify(centre, rational=True)
            value = average({0: summand.subs(x, X + shift)}, law)
            if not value.has(Expectation, sp.DiracDelta):
                break
        else:
            return None
        total += value.subs(x, x - shift)
    return total


@lru_cache(maxsize=32)
def node_tables(activation: Expression, tolerance: float) -> Tables:
    """Return the cheapest quadrature rule for each level of s.

    A rule is taken when its three averages differ from those of the finest rule by less than `tolerance` times their
    largest magnitude, at every position and at the largest s of the level. Beyond the last level the last rule stands;
    what it leaves is measured at every output time.
    """
    import numpy as np

    if smooth(activation).averages is not None:
        return np.array([np.inf]), np.zeros(1), np.zeros((1, 1)), np.zeros((1, 1))
    averages = _numerical(activation)
    rules = sorted(_rules(tolerance), key=lambda rule: len(rule[0]))
    finest = rules[-1]
    chosen, place = [], 0
    for level in LEVELS:
        exact = averages(level, *finest)
        size = np.max(np.abs(exact), axis=1, keepdims=True)
        # psi_s is of order s: an error of order tolerance is harmless.
        size[2] = max(float(size[2, 0]), float(size[1, 0]))
        while rules[place] is not finest and np.any(np.abs(averages(level, *rules[place]) - exact) > tolerance * size):
            place += 1
        chosen.append(rules[place])
    width = max(len(nodes) for nodes, _ in chosen)
    nodes, weights = np.zeros((2, len(LEVELS), width))
    for row, (x, w) in enumerate(chosen):
        nodes[row, : len(x)], weights[row, : len(x)] = x, w
    return np.array(LEVELS), np.array([float(len(x)) for x, _ in chosen]), nodes, weights


def finest_tables(activation: Expression, tolerance: float) -> Tables:
    """Return tables with the finest rule at every s, to measure the error of the others."""
    import numpy as np

    if smooth(activation).averages is not None:
        return node_tables(activation, tolerance)
    x, w = max(_rules(tolerance), key=lambda rule: len(rule[0]))
    return np.array([np.inf]), np.array([float(len(x))]), x[None, :], w[None, :]


def _rules(tolerance: float) -> list[tuple[Array, Array]]:
    import numpy as np

    from ...numerics.quadrature import gauss_hermite

    rules = [gauss_hermite(order) for order in HERMITE]
    reach = np.sqrt(-2 * np.log(min(tolerance, 1e-3))) + 1.5
    for step in STEPS:
        # The trapezoidal rule converges exponentially for analytic functions, faster than Gauss-Hermite near poles.
        half = np.arange(1, int(np.ceil(reach / step)) + 1) * step
        x = np.concatenate([-half[::-1], [0.0], half])
        w = np.exp(-(x**2) / 2)
        rules.append((x, w / w.sum()))
    return rules


def _numerical(activation: Expression) -> Callable[[float, Array, Array], Array]:
    """Return a function (s, nodes, weights) -> the three averages at the test positions, shape (3, positions)."""
    import numpy as np
    import sympy as sp

    integrands = sp.lambdify(symbols(), smooth(activation).integrands, modules=["scipy", "numpy"])
    positions = np.linspace(-RANGE, RANGE, POSITIONS)[:, None]

    def averages(s: float, x: Array, w: Array) -> Array:
        values = integrands(positions, s, x[None, :])
        return np.stack([np.broadcast_to(v, (POSITIONS, len(x))) @ w for v in values])

    return averages
