"""Drifts of one student field and one teacher field: derived to leading order in 1/d, averaged by a split quadrature.

One sample moves the weight of a student by ``w <- w + (rate/d) G x``, where G depends on the sample through its
teacher field z = w* . x, its student field lambda = w . x and its label y. With M = w . w*, Q = |w|^2, |w*| = 1 and
|x|^2/d -> 1 the overlaps change by terms of order 1/d whose averages over (z, lambda) ~ N(0, [[1, M], [M, Q]]) are the
flow; time = samples / d. `G` may contain the field of the same sample after earlier steps, ``lambda + rate y ...``.

The generated module averages over lambda at every z, refined there until nothing changes: a displaced field varies the
faster the larger the label. It splits where the integrand jumps or bends: at the kinks of the link in z, at those of
the activation in lambda, and where a displaced field crosses one of these (found by bisection at every z).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...errors import DerivationError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

# Gauss-Legendre order of a panel of the student field between kinks.
INNER_ORDER = 12


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
        The first is the learning rate.
    schedule : Expr
        Factor of the learning rate, in t.
    """

    fields: tuple[Any, ...]
    link: Any
    kinked: Any
    drifts: Mapping[Any, Any]
    observables: Mapping[str, Any]
    variance: Any
    parameters: tuple[Any, ...]
    schedule: Any = 1


def symbols() -> tuple[Any, Any, Any, Any]:
    """Return z, lambda (printed as ``lam`` in code), the label y and its noiseless part y0."""
    import sympy as sp

    return tuple(sp.Symbol(s, real=True) for s in ("z", "lam", "y", "y0"))


def overlap_drifts(gain: Any, rate: Any, m: Any, q: Any, decay: Any, *, spherical: bool) -> tuple[Any, Any]:
    """Return the order-1/d changes of (M, Q) under w <- (1 - decay/d) w + (rate/d) G x, and back to |w| on the sphere.

    The updated overlaps are exact but for |x|^2 = d; the 1/d coefficient is their derivative at 1/d = 0.
    """
    import sympy as sp

    z, lam, _, _ = symbols()
    inverse_d = sp.Symbol("epsilon", positive=True)
    new_m = (1 - decay * inverse_d) * m + inverse_d * rate * gain * z
    new_q = (1 - 2 * decay * inverse_d) * q + inverse_d * (2 * rate * gain * lam + rate**2 * gain**2)
    if spherical:
        new_m, new_q = new_m * sp.sqrt(q / new_q), q
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


@dataclass(frozen=True)
class Level:
    """How fine the average over the teacher field and the label noise is.

    Attributes
    ----------
    step : float
        Of the trapezoidal rule, where the average is a smooth function of the teacher field.
    order : int
        Gauss-Legendre order of a panel, where it has kinks.
    noises : int
        Values of the label noise.
    """

    step: float
    order: int
    noises: int


LEVELS = (
    Level(0.7, 6, 6), Level(0.55, 8, 9), Level(0.4, 12, 12), Level(0.3, 16, 16), Level(0.2, 24, 24),
    Level(0.13, 36, 32), Level(0.08, 54, 48), Level(0.05, 80, 64),
)  # fmt: skip


def parameters(head: Sequence[float], scales: Array, rtol: float, noise: float, level: Level) -> Array:
    """Return the parameter vector of the generated module.

    The parameters, the sizes of the averages and the accuracy asked relative to them, the label noise (count, values,
    weights), the step and the order over the teacher field, Gauss-Legendre nodes and weights of both axes on [0, 1].
    """
    import numpy as np

    from ...numerics.quadrature import gauss_hermite, gauss_legendre

    x, w = gauss_hermite(level.noises) if noise else (np.zeros(1), np.ones(1))
    outer, outer_weights = gauss_legendre(level.order)
    inner, inner_weights = gauss_legendre(INNER_ORDER)
    return np.concatenate([
        head, scales, [rtol], [len(x)], noise * x, w, [level.step, level.order], (1 + outer) / 2, outer_weights / 2,
        (1 + inner) / 2, inner_weights / 2,
    ])  # fmt: skip


def choose_level(
    module: Any, head: Sequence[float], noise: float, states: Array, rtol: float, least: int = 0
) -> tuple[Array, float, int]:
    """Return the parameters of the coarsest level, from `least` on, that averages every state to `rtol`.

    Returns
    -------
    parameters : array
    error : float
        The change to the next finer level and what the average over the student field left open, relative to the
        averages of the absolute values.
    level : int
    """
    import numpy as np

    def averaged(level: Level, scales: Array) -> tuple[Array, Array, Array, Array]:
        p = parameters(head, scales, 0.02 * rtol, noise, level)
        all_ = np.array([module.observe(np.ascontiguousarray(s), p) for s in states]).reshape(len(states), 3, -1)
        return p, all_[:, 0], all_[:, 1], all_[:, 2]

    scales = np.ones(module.COUNT)
    scales = np.maximum(averaged(LEVELS[0], scales)[2].max(axis=0), 1e-300)

    def change(of: Level, reference: Array, sizes: Array) -> float:
        _, values, _, left = averaged(of, scales)
        return float(np.max((np.abs(values - reference) + left) / np.maximum(sizes, 1e-300)))

    for number in range(min(least, len(LEVELS) - 2), len(LEVELS) - 1):
        _, finer, sizes, _ = averaged(LEVELS[number + 1], scales)
        error = change(LEVELS[number], finer, sizes)
        if error <= rtol:
            break
    else:
        # What the finest of all would change is not known: the last change stands for it.
        number += 1
    chosen = LEVELS[number]
    # Label noise often needs fewer values than the level has.
    for fewer in (level.noises for level in LEVELS[:number] if noise):
        coarse = replace(chosen, noises=fewer)
        if change(coarse, finer, sizes) <= max(rtol, error):
            chosen = coarse
            break
    return averaged(chosen, scales)[0], error, number


def module_source(what: SampleAverages, title: str) -> str:
    """Print ``rhs`` and ``observe``: averages, averages of absolute values, and what the refinement left open."""
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
    rate = ["    average(y, p, out)"]
    if what.schedule != 1:
        rate = ["    q = p.copy()", f"    q[0] = p[0] * ({write.doprint(what.schedule)})", "    average(y, q, out)"]
    return HEADER.format(title=title) + _TEMPLATE.format(
        inner=INNER_ORDER, observables=tuple(what.observables), states=len(what.drifts), count=len(integrands),
        head=len(what.parameters),
        levels=len(what.fields), field_kinks=_array(kinks(what.kinked, x)), link_kinks=_array(kinks(what.link, z)),
        link=write.doprint(what.link), loads=loads, fields="\n".join(field_lines), integrand=body,
        scheduled="\n".join(rate), state=state_lines, mean=write.doprint(m), variance=write.doprint(what.variance),
        rhs=RHS_SIGNATURE,
    )  # fmt: skip


def _array(values: Sequence[float]) -> str:
    return f"np.array({list(values)!r}, dtype=np.float64)"


_TEMPLATE = '''
OBSERVABLES = {observables!r}
WORK_SIZE = 0
STATES, COUNT, HEAD, LEVELS = {states}, {count}, {head}, {levels}
FIELD_KINKS = {field_kinks}
LINK_KINKS = {link_kinks}
TAIL, PANELS, ROOM = 8.0, 12, 400
STEP, DOUBLINGS, WIDTH, DEEPEST, INNER = 0.8, 2, 4.0, 24, {inner}
V, F, I = types.float64[::1], types.float64, types.int64


@njit(F(F), cache=True)
def link(z):
    return 0.0 * z + {link}


@njit(F(I, F, F, V), cache=True)
def field(level, lam, y, p):
    """Return the student field at the given use of the sample."""
{loads}
{fields}
    return lam


@njit(types.void(F, F, F, F, V, V, V), cache=True)
def integrand(z, lam, y, y0, state, p, out):
{integrand}


@njit(I(V, I, F), cache=True)
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


@njit(F(I, I, F, F, F, F,
                    F, V), cache=True)
def crossing(kind, level, kink, u, a, b, y, p):
    """Return a field minus a kink: at lambda = a + b u, given the label (kind 0) or with the label of z = u (1)."""
    label = y if kind == 0 else link(u) + y
    return field(level, a + b * u, label, p) - kink


@njit(I(V, I, V, I, I, F, F, F,
                  F, V), cache=True)
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


@njit(I(V), cache=True)
def uniform(edges):
    for k in range(PANELS + 1):
        edges[k] = -TAIL + 2.0 * TAIL * k / PANELS
    return PANELS + 1


@njit(types.void(F, F, F, F, F, V, V, V, V), cache=True)
def add(z, lam, y, y0, weight, state, p, values, total):
    """Add one point to the sums of the integrands and of their absolute values."""
    integrand(z, lam, y, y0, state, p, values)
    for k in range(COUNT):
        total[k] += weight * values[k]
        total[COUNT + k] += weight * abs(values[k])


@njit(types.void(F, F, F, F, F, F, F,
                 V, V, V, V), cache=True)
def panel(z, mean, sd, y, y0, left, right, state, p, values, total):
    """Fill total with the Gauss-Legendre sums over lambda = mean + sd u, u standard normal between left and right."""
    norm = 1.0 / math.sqrt(2.0 * math.pi)
    at, length = p.size - 2 * INNER, right - left
    total[:] = 0.0
    for j in range(INNER):
        u = left + length * p[at + j]
        weight = length * p[at + INNER + j] * norm * math.exp(-0.5 * u * u)
        add(z, mean + sd * u, y, y0, weight, state, p, values, total)


@njit(F(V, V, V), cache=True)
def largest_change(one, two, p):
    """Return the largest difference of two averages, relative to their sizes."""
    left = 0.0
    for k in range(COUNT):
        left = max(left, abs(one[k] - two[k]) / p[HEAD + k])
    return left


@njit(types.boolean(F, F, F, F, F, F, V, V, V,
                    V), cache=True)
def smooth_given_z(weight, z, mean, sd, y, y0, state, p, work, out):
    """Add the average over lambda at one z and label by trapezoidal rules; return whether they agree at last."""
    norm = 1.0 / math.sqrt(2.0 * math.pi)
    values, total, before = work[:COUNT], work[COUNT:3 * COUNT], work[3 * COUNT:5 * COUNT]
    total[:] = 0.0
    for depth in range(DOUBLINGS + 1):
        step = STEP / 2.0**depth
        first, stride = (0.0, step) if depth == 0 else (step, 2.0 * step)
        half = int((TAIL - first) / stride)
        for k in range(2 * COUNT):
            before[k] = total[k]
            total[k] *= 0.5
        for k in range(-half - (1 if depth else 0), half + 1):
            u = first + k * stride
            add(z, mean + sd * u, y, y0, step * norm * math.exp(-0.5 * u * u), state, p, values, total)
        if depth and weight * largest_change(total, before, p) <= p[HEAD + COUNT]:
            for k in range(2 * COUNT):
                out[k] += weight * total[k]
            return True
    return False


@njit(types.void(F, F, F, F, F, F, V, I,
                 V, V, V, V), cache=True)
def split_given_z(weight, z, mean, sd, y, y0, edges, count, state, p, work, out):
    """Add the average over lambda at one z and label by panels, each halved until its halves agree with it."""
    values, one, two = work[:COUNT], work[COUNT:3 * COUNT], work[3 * COUNT:5 * COUNT]
    lefts, rights, sums = np.empty(DEEPEST + 2), np.empty(DEEPEST + 2), np.empty((DEEPEST + 2, 2 * COUNT))
    for part in range(count - 1):
        pieces = int(math.ceil((edges[part + 1] - edges[part]) / WIDTH))
        length = (edges[part + 1] - edges[part]) / max(pieces, 1)
        for piece in range(pieces):
            lefts[0], rights[0] = edges[part] + piece * length, edges[part] + (piece + 1) * length
            panel(z, mean, sd, y, y0, lefts[0], rights[0], state, p, values, sums[0])
            waiting = 1
            while waiting > 0:
                top = waiting - 1
                left, right = lefts[top], rights[top]
                middle = 0.5 * (left + right)
                panel(z, mean, sd, y, y0, left, middle, state, p, values, one)
                panel(z, mean, sd, y, y0, middle, right, state, p, values, two)
                change = 0.0
                for k in range(COUNT):
                    change = max(change, abs(one[k] + two[k] - sums[top, k]) / p[HEAD + k])
                done = weight * change <= p[HEAD + COUNT]
                if done or waiting > DEEPEST:
                    for k in range(2 * COUNT):
                        out[k] += weight * (one[k] + two[k])
                    if not done:
                        for k in range(COUNT):
                            out[2 * COUNT + k] += weight * abs(one[k] + two[k] - sums[top, k])
                    waiting -= 1
                    continue
                lefts[top], rights[top], sums[top] = left, middle, one
                lefts[waiting], rights[waiting], sums[waiting] = middle, right, two
                waiting += 1


@njit(I(F, F, F, V, V, V), cache=True)
def outer_edges(mean_slope, sd, shift, p, outer, found):
    """Fill outer with the panels of z; return their number of edges."""
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
    return count


@njit(I(F, F, F, V, V, V, V), cache=True)
def inner_edges(mean, sd, y, p, scan, inner, found):
    """Fill inner with the ends of the range and every kink between; return their number."""
    intervals = uniform(scan)
    inner[0], inner[1] = -TAIL, TAIL
    size = 2
    for level in range(LEVELS):
        for kink in FIELD_KINKS:
            total = roots(scan, intervals, found, 0, level, kink, mean, sd, y, p)
            for k in range(total):
                size = insert(inner, size, found[k])
                intervals = insert(scan, intervals, found[k])
    return size


@njit(types.void(V, V, V), cache=True)
def average(state, p, out):
    """Fill out with the averages, with those of absolute values, and with what the refinement left open."""
{state}
    mean_slope = {mean}
    variance = {variance} - mean_slope * mean_slope
    sd = math.sqrt(variance) if variance > 0.0 else 0.0
    noise_at = HEAD + COUNT + 2
    noises = int(p[noise_at - 1])
    at = noise_at + 2 * noises
    step, order = p[at], int(p[at + 1])
    outer, inner, scan, found = np.empty(ROOM), np.empty(ROOM), np.empty(ROOM), np.empty(ROOM)
    values, work = np.empty(2 * COUNT), np.empty(5 * COUNT)
    out[:] = 0.0
    norm = 1.0 / math.sqrt(2.0 * math.pi)
    smooth = LINK_KINKS.size == 0 and FIELD_KINKS.size == 0
    for n in range(noises):
        shift, noise_weight = p[noise_at + n], p[noise_at + noises + n]
        count = 0
        if not smooth:
            count = outer_edges(mean_slope, sd, shift, p, outer, found)
        panels = max(count - 1, 1)
        half = int(TAIL / step)
        for panel in range(panels):
            width = outer[panel + 1] - outer[panel] if count else 1.0
            if width < 1e-14:
                continue
            for i in range(2 * half + 1 if count == 0 else order):
                if count == 0:
                    z = (i - half) * step
                    weight = step * norm * math.exp(-0.5 * z * z) * noise_weight
                else:
                    z = outer[panel] + width * p[at + 2 + i]
                    weight = width * p[at + 2 + order + i] * norm * math.exp(-0.5 * z * z) * noise_weight
                if weight < 1e-16:
                    continue
                y0 = link(z)
                y = y0 + shift
                mean = mean_slope * z
                if sd == 0.0:
                    values[:] = 0.0
                    add(z, mean, y, y0, 1.0, state, p, work, values)
                    for k in range(2 * COUNT):
                        out[k] += weight * values[k]
                    continue
                if FIELD_KINKS.size == 0 and smooth_given_z(weight, z, mean, sd, y, y0, state, p, work, out):
                    continue
                size = inner_edges(mean, sd, y, p, scan, inner, found)
                split_given_z(weight, z, mean, sd, y, y0, inner, size, state, p, work, out)


@njit({rhs}, cache=True)
def rhs(t, y, dy, p, work):
    out = np.empty(3 * COUNT)
{scheduled}
    for k in range(STATES):
        dy[k] = out[k]


@njit(V(V, V), cache=True)
def observe(state, p):
    out = np.empty(3 * COUNT)
    average(state, p, out)
    return out
'''
