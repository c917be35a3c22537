"""Drifts of one student field and one teacher field: derived to leading order in 1/d, averaged by a split quadrature.

One sample moves the weight of a student by ``w <- w + (rate/d) G x``, where G depends on the sample through its
teacher field z = w* . x, its student field lambda = w . x and its label y. With M = w . w*, Q = |w|^2, |w*| = 1 and
|x|^2/d -> 1 the overlaps change by terms of order 1/d whose averages over (z, lambda) ~ N(0, [[1, M], [M, Q]]) are the
flow; time = samples / d. `G` may contain the field of the same sample after earlier steps, ``lambda + rate y ...``.

The generated module averages exactly where the integrand jumps or bends: at the kinks of the link in z, at those of
the activation in lambda, and where a displaced field crosses one of these (found by bisection at every z).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import DerivationError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

# Gauss-Legendre order of a panel of width 1.25, coarse to fine.
ORDERS = (6, 8, 12, 16, 24, 36, 54)
NOISE_NODES = 16


@dataclass(frozen=True)
class SampleAverages:
    """What is averaged over one sample, in sympy.

    Attributes
    ----------
    fields : tuple of Expr
        The student field at each use of the sample, in lambda, y and the parameters; the first is lambda.
    link, kinked : Expr
        The noiseless label in z; an expression in x whose kinks are those of the activation and its derivative.
    drifts, observables : mappings
        State symbol -> integrand of its flow; name -> integrand. Symbols: z, lambda, y, y0 (noiseless), the state,
        the parameters.
    variance : Expr
        Q in terms of the state.
    parameters : tuple of Symbol
    """

    fields: tuple[Any, ...]
    link: Any
    kinked: Any
    drifts: Mapping[Any, Any]
    observables: Mapping[str, Any]
    variance: Any
    parameters: tuple[Any, ...]


def symbols() -> tuple[Any, Any, Any, Any]:
    """Return z, lambda (printed as ``lam`` in code), the label y and its noiseless part y0."""
    import sympy as sp

    return tuple(sp.Symbol(s, real=True) for s in ("z", "lam", "y", "y0"))


def overlap_drifts(gain: Any, rate: Any, m: Any, q: Any, *, spherical: bool) -> tuple[Any, ...]:
    """Return the order-1/d changes of (M, Q), or of M after projection to the unit sphere, under w += (rate/d) G x.

    The updated overlaps are exact but for |x|^2 = d; the 1/d coefficient is their derivative at 1/d = 0.
    """
    import sympy as sp

    z, lam, _, _ = symbols()
    inverse_d = sp.Symbol("epsilon", positive=True)
    new_m = m + inverse_d * rate * gain * z
    new_q = q + inverse_d * (2 * rate * gain * lam + rate**2 * gain**2)
    if spherical:
        return (sp.expand(sp.diff((new_m / sp.sqrt(new_q)).subs(q, 1), inverse_d).subs(inverse_d, 0)),)
    return tuple(sp.expand(sp.diff(e, inverse_d).subs(inverse_d, 0)) for e in (new_m, new_q))


def kinks(expression: Any, variable: Any) -> tuple[float, ...]:
    """Return where an expression is not smooth: the real zeros of the polynomials inside sign, Heaviside, Abs, ...

    Raises
    ------
    DerivationError
        If a kinked function has an argument that is not a polynomial: its kinks cannot be listed.
    """
    import sympy as sp

    points: set[float] = set()
    for part in expression.atoms(sp.sign, sp.Heaviside, sp.Abs, sp.Max, sp.Min):
        pairs = isinstance(part, sp.Max | sp.Min)
        inside = [a - b for n, a in enumerate(part.args) for b in part.args[n + 1 :]] if pairs else [part.args[0]]
        for u in inside:
            if not u.has(variable):
                continue
            if not u.is_polynomial(variable):
                raise DerivationError(
                    f"the kinks of {part} cannot be found",
                    why="the argument of a kinked function must be a polynomial",
                    hint="write the formula with sign, step, relu, abs, min or max of polynomials",
                )
            roots = sp.Poly(u, variable).nroots(n=20, maxsteps=200)
            points |= {float(sp.re(r)) for r in roots if abs(sp.im(r)) < 1e-12}
    return tuple(sorted(points))


def nodes(order: int) -> Array:
    """Return the tail of the parameter vector: order, Gauss-Legendre nodes and weights on [0, 1]."""
    import numpy as np

    from ...numerics.quadrature import gauss_legendre

    x, w = gauss_legendre(order)
    return np.concatenate([[float(order)], (1 + x) / 2, w / 2])


def noise_nodes(noise: float) -> Array:
    """Return count, values and weights of the label noise; one node without noise."""
    import numpy as np

    from ...numerics.quadrature import gauss_hermite

    if noise == 0:
        return np.array([1.0, 0.0, 1.0])
    x, w = gauss_hermite(NOISE_NODES)
    return np.concatenate([[float(NOISE_NODES)], noise * x, w])


def choose_order(module: Any, head: Sequence[float], noise: float, states: Array, rtol: float) -> tuple[Array, float]:
    """Return the parameters with the coarsest panels that average every state to `rtol`, and the error estimate.

    The error is the change to the next finer order, relative to the average of the absolute value.
    """
    import numpy as np

    def averaged(order: int) -> tuple[Array, Array, Array]:
        p = np.concatenate([head, noise_nodes(noise), nodes(order)])
        both = np.array([module.observe(np.ascontiguousarray(s), p) for s in states])
        half = both.shape[1] // 2
        return p, both[:, :half], both[:, half:]

    p, values, sizes = averaged(ORDERS[0])
    error = np.inf
    for order in ORDERS[1:]:
        finer, new, sizes = averaged(order)
        error = float(np.max(np.abs(new - values) / np.maximum(sizes, 1e-300)))
        if error <= rtol:
            return p, error
        p, values = finer, new
    return p, error


def module_source(what: SampleAverages, title: str) -> str:
    """Print ``rhs`` and ``observe`` (averages, then averages of absolute values)."""
    import sympy as sp

    from ...symbolic.printing import HEADER, RHS_SIGNATURE, assignments, printer

    z = symbols()[0]
    x = sp.Symbol("x", real=True)
    write = printer()
    head = [f"    {s} = state[{k}]" for k, s in enumerate(what.drifts)]
    head += [f"    {s} = p[{k}]" for k, s in enumerate(what.parameters)]
    integrands = [*what.drifts.values(), *what.observables.values()]
    shared, values = assignments(integrands)
    m = next(iter(what.drifts))
    field_lines = [f"    if level == {k}:\n        return {write.doprint(f)}" for k, f in enumerate(what.fields)]
    loads = "\n".join(f"    {s} = p[{k}]" for k, s in enumerate(what.parameters))
    body = "\n".join([*head, *shared, *(f"    out[{k}] = {v}" for k, v in enumerate(values))])
    state_lines = "\n".join(f"    {s} = state[{k}]" for k, s in enumerate(what.drifts))
    return HEADER.format(title=title) + _TEMPLATE.format(
        observables=tuple(what.observables), states=len(what.drifts), count=len(integrands), head=len(what.parameters),
        levels=len(what.fields), field_kinks=_array(kinks(what.kinked, x)), link_kinks=_array(kinks(what.link, z)),
        link=write.doprint(what.link), loads=loads, fields="\n".join(field_lines), integrand=body,
        state=state_lines, mean=write.doprint(m), variance=write.doprint(what.variance), rhs=RHS_SIGNATURE,
    )  # fmt: skip


def _array(values: Sequence[float]) -> str:
    return f"np.array({list(values)!r}, dtype=np.float64)"


_TEMPLATE = '''
OBSERVABLES = {observables!r}
WORK_SIZE = 0
STATES, COUNT, HEAD, LEVELS = {states}, {count}, {head}, {levels}
FIELD_KINKS = {field_kinks}
LINK_KINKS = {link_kinks}
TAIL, PANELS, ROOM = 10.0, 16, 400
V = types.float64[::1]


@njit(types.float64(types.float64), cache=True)
def link(z):
    return 0.0 * z + {link}


@njit(types.float64(types.int64, types.float64, types.float64, V), cache=True)
def field(level, lam, y, p):
    """Return the student field at the given use of the sample."""
{loads}
{fields}
    return lam


@njit(types.void(types.float64, types.float64, types.float64, types.float64, V, V, V), cache=True)
def integrand(z, lam, y, y0, state, p, out):
{integrand}


@njit(types.int64(V, types.int64, types.float64), cache=True)
def insert(edges, count, value):
    """Insert into the sorted edges, unless it is outside or the array is full."""
    if not abs(value) < TAIL or count >= edges.size:
        return count
    k = count
    while k > 0 and edges[k - 1] > value:
        edges[k] = edges[k - 1]
        k -= 1
    edges[k] = value
    return count + 1


@njit(types.float64(types.int64, types.int64, types.float64, types.float64, types.float64, types.float64,
                    types.float64, V), cache=True)
def crossing(kind, level, kink, u, a, b, y, p):
    """Return a field minus a kink: at lambda = a + b u, given the label (kind 0) or with the label of z = u (1)."""
    label = y if kind == 0 else link(u) + y
    return field(level, a + b * u, label, p) - kink


@njit(types.int64(V, types.int64, V, types.int64, types.int64, types.float64, types.float64, types.float64,
                  types.float64, V), cache=True)
def roots(edges, count, found, kind, level, kink, a, b, y, p):
    """Bisect every interval whose ends differ in sign; return how many roots were found."""
    total = 0
    for k in range(count - 1):
        low, high = edges[k], edges[k + 1]
        gap = 1e-12 * (1.0 + abs(low) + abs(high))
        if high - low < 4.0 * gap:
            continue
        low, high = low + gap, high - gap
        sign = crossing(kind, level, kink, low, a, b, y, p) > 0.0
        if sign == (crossing(kind, level, kink, high, a, b, y, p) > 0.0):
            continue
        for _ in range(60):
            middle = 0.5 * (low + high)
            if (crossing(kind, level, kink, middle, a, b, y, p) > 0.0) == sign:
                low = middle
            else:
                high = middle
        if total < found.size:
            found[total] = 0.5 * (low + high)
            total += 1
    return total


@njit(types.int64(V), cache=True)
def uniform(edges):
    for k in range(PANELS + 1):
        edges[k] = -TAIL + 2.0 * TAIL * k / PANELS
    return PANELS + 1


@njit(types.void(V, V, V), cache=True)
def average(state, p, out):
    """Fill out with the averages, then with those of absolute values."""
{state}
    mean_slope = {mean}
    variance = {variance} - mean_slope * mean_slope
    sd = math.sqrt(variance) if variance > 0.0 else 0.0
    noises = int(p[HEAD])
    at = HEAD + 1 + 2 * noises
    order = int(p[at])
    outer, inner, found = np.empty(ROOM), np.empty(ROOM), np.empty(ROOM)
    values = np.empty(COUNT)
    out[:] = 0.0
    norm = 1.0 / math.sqrt(2.0 * math.pi)
    for n in range(noises):
        shift, noise_weight = p[HEAD + 1 + n], p[HEAD + 1 + noises + n]
        count = uniform(outer)
        for kink in LINK_KINKS:
            count = insert(outer, count, kink)
        for level in range(LEVELS):
            for kink in FIELD_KINKS:
                # Where the average over lambda at fixed z bends: a kink of one use meets a kink of a later one ...
                if level > 0:
                    for start in FIELD_KINKS:
                        for side in (-1e-9, 1e-9):
                            total = roots(outer, count, found, 1, level, kink, start + side, 0.0, shift, p)
                            for k in range(total):
                                count = insert(outer, count, found[k])
                # ... and where it varies fast, as lambda is almost a function of z.
                if abs(mean_slope) > 1e-3:
                    total = roots(outer, count, found, 1, level, kink, 0.0, mean_slope, shift, p)
                    for k in range(total):
                        for far in (-6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0):
                            count = insert(outer, count, found[k] + far * sd / abs(mean_slope))
        for panel in range(count - 1):
            width = outer[panel + 1] - outer[panel]
            if width < 1e-14:
                continue
            for i in range(order):
                z = outer[panel] + width * p[at + 1 + i]
                weight = width * p[at + 1 + order + i] * norm * math.exp(-0.5 * z * z) * noise_weight
                if weight < 1e-17:
                    continue
                y0 = link(z)
                y = y0 + shift
                mean = mean_slope * z
                if sd == 0.0:
                    integrand(z, mean, y, y0, state, p, values)
                    for k in range(COUNT):
                        out[k] += weight * values[k]
                        out[COUNT + k] += weight * abs(values[k])
                    continue
                size = uniform(inner)
                for level in range(LEVELS):
                    for kink in FIELD_KINKS:
                        total = roots(inner, size, found, 0, level, kink, mean, sd, y, p)
                        for k in range(total):
                            size = insert(inner, size, found[k])
                for part in range(size - 1):
                    length = inner[part + 1] - inner[part]
                    for j in range(order):
                        xi = inner[part] + length * p[at + 1 + j]
                        both = weight * length * p[at + 1 + order + j] * norm * math.exp(-0.5 * xi * xi)
                        if both < 1e-17:
                            continue
                        integrand(z, mean + sd * xi, y, y0, state, p, values)
                        for k in range(COUNT):
                            out[k] += both * values[k]
                            out[COUNT + k] += both * abs(values[k])


@njit({rhs}, cache=True)
def rhs(t, y, dy, p, work):
    out = np.empty(2 * COUNT)
    average(y, p, out)
    for k in range(STATES):
        dy[k] = out[k]


@njit(V(V, V), cache=True)
def observe(state, p):
    out = np.empty(2 * COUNT)
    average(state, p, out)
    return out
'''
