"""Drifts of one student field and one teacher field: derived to leading order in 1/d, averaged by a split quadrature.

One sample moves the weight of a student by ``w <- w + (rate/d) G x``, where G depends on the sample through its
teacher field z = w* . x, its student field lambda = w . x and its label y. With M = w . w*, Q = |w|^2, |w*| = 1 and
|x|^2/d -> 1 the overlaps change by terms of order 1/d whose averages over (z, lambda) ~ N(0, [[1, M], [M, Q]]) are the
flow; time = samples / d. `G` may contain the field of the same sample after earlier steps, ``lambda + rate y ...``.

The drifts are linear in G and G^2, and label noise enters these alone: its average over them depends on lambda and z,
but on no overlap, and is tabulated once. The generated module averages over lambda at every z, refined there until
nothing changes: a displaced field varies the faster the larger the label. It splits where the integrand jumps or bends:
at the kinks of the link in z, at those of the activation in lambda, and where a displaced field crosses one of these
(found by bisection at every z).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import DerivationError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

# Gauss-Legendre order of a panel of the student field between kinks; terms of a Chebyshev series of the table.
INNER_ORDER, TERMS = 12, 12
# The table reaches so many deviations of the student field, and a little further for norms that grow.
DEVIATIONS, SPARE = 8.0, 1.2


@dataclass(frozen=True)
class SampleAverages:
    """What is averaged over one sample, in sympy.

    Attributes
    ----------
    fields : tuple of Expr
        The student field at each use of the sample, in lambda, y and the parameters; the first is lambda.
    link, kinked : Expr
        The noiseless label in z; an expression in x whose kinks are those of the activation and its derivative.
    gain : Expr
        G, in lambda, y and the parameters.
    drifts, observables : mappings
        State symbol -> integrand of its flow, in G up to its square; name -> integrand. Symbols: z, lambda, y0 (the
        label without noise), the state, the parameters.
    variance : Expr
        Q in terms of the state.
    parameters : tuple of Symbol
        The first is the learning rate, the last says where the code of the schedule lies.
    scheduled : bool
        Whether a schedule multiplies the learning rate.
    noisy : bool
        Whether the label of the gain has noise.
    """

    fields: tuple[Any, ...]
    link: Any
    kinked: Any
    gain: Any
    drifts: Mapping[Any, Any]
    observables: Mapping[str, Any]
    variance: Any
    parameters: tuple[Any, ...]
    scheduled: bool = False
    noisy: bool = False


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
    """How fine the average over the teacher field is.

    Attributes
    ----------
    step : float
        Of the trapezoidal rule, where the average over the student field is a smooth function of the teacher field.
    order : int
        Gauss-Legendre order of a panel, where it has kinks.
    """

    step: float
    order: int


LEVELS = (
    Level(0.7, 6), Level(0.55, 8), Level(0.4, 12), Level(0.3, 16), Level(0.2, 24), Level(0.13, 36), Level(0.08, 54),
    Level(0.05, 80), Level(0.03, 128), Level(0.018, 200), Level(0.01, 320),
)  # fmt: skip


def parameters(head: Sequence[float], scales: Array, rtol: float, noise: float, level: Level) -> Array:
    """Return the parameter vector of the generated module, without a table.

    The parameters, the sizes of the averages and the accuracy asked relative to them, the standard deviation of the
    label noise, the step and the order over the teacher field, Gauss-Legendre nodes and weights of both axes on [0, 1].
    """
    import numpy as np

    from ...numerics.quadrature import gauss_legendre

    outer, outer_weights = gauss_legendre(level.order)
    inner, inner_weights = gauss_legendre(INNER_ORDER)
    return np.concatenate([
        head, scales, [rtol, noise, level.step, level.order], (1 + outer) / 2, outer_weights / 2, (1 + inner) / 2,
        inner_weights / 2,
    ])  # fmt: skip


@dataclass
class Averages:
    """The averages of one generated module at the numbers of one problem.

    Attributes
    ----------
    module : module
    head : sequence of float
        The parameters.
    noise : float
        Standard deviation of the label noise.
    tabulated : bool
        Whether the averages over the noise are tabulated: not where the fields depend on the time.
    scales, table, reach : arrays, float
        Sizes of the averages, the table made for them, and how many sqrt(Q) it holds for.
    """

    module: Any
    head: Sequence[float]
    noise: float
    tabulated: bool
    scales: Array | None = None
    table: Array | None = None
    reach: float = 0.0

    def tabulate(self, scales: Array, rtol: float, reach: float) -> Array:
        """Return the moments of the gain over the noise, for averages of given sizes to a relative accuracy."""
        import numpy as np

        if not (self.noise and self.tabulated):
            return np.empty(0)
        if self.table is None or reach > self.reach:
            self.reach = SPARE * reach
            p = parameters(self.head, scales, rtol, self.noise, LEVELS[0])
            self.table = self._tabulated(DEVIATIONS * self.reach, p)
        return self.table

    def _tabulated(self, reach: float, p: Array) -> Array:
        """Return the moments of the gain as functions of z and of lambda in [-reach, reach].

        Chebyshev series in both, halved until their last terms do not count. Layout: number of strips of z, what was
        left open, the edges of the strips, where each starts; a strip is its number of panels, their edges, their
        coefficients.
        """
        import numpy as np

        module, room = self.module, self.module.ROOM
        outer, edges, series = np.empty(room), np.empty(room), np.empty((room, TERMS, 2, TERMS))
        left_open, panels, opened = np.empty(2), np.empty(1), np.zeros(2)
        first = module.strips(p, outer)
        bounds: list[float] = [outer[0]]
        rows: list[Array] = []
        for end in outer[1:first]:
            # From left to right, the nearest end last.
            waiting = [float(end)]
            while waiting:
                low, high = bounds[-1], waiting[-1]
                if len(waiting) < module.DEPTH and len(rows) + first < room:
                    if not module.tabulate_strip(low, high, reach, p, edges, series, left_open, panels):
                        waiting.append(0.5 * (low + high))
                        continue
                else:
                    # No room: what a strip of no width would say is open.
                    opened[:] = np.inf
                    module.tabulate_strip(low, low, reach, p, edges, series, left_open, panels)
                count = int(panels[0])
                rows.append(np.concatenate([[count], edges[: count + 1], series[:count].ravel()]))
                nearest = max(math.exp(-0.5 * z * z) for z in (low, high)) / math.sqrt(2.0 * math.pi)
                opened += left_open * (high - low) * nearest
                bounds.append(waiting.pop())
        head = 4 + 2 * len(rows)
        starts = head + np.cumsum([0, *(len(row) for row in rows[:-1])])
        return np.concatenate([[len(rows)], opened, bounds, starts, *rows])

    def at(self, states: Array, p: Array) -> Array:
        """Return averages, averages of absolute values, and what was left open: states x 3 x averages."""
        import numpy as np

        values = np.empty((len(states), 3 * self.module.COUNT))
        for state, row in zip(states, values, strict=True):
            self.module.observe(np.ascontiguousarray(state), p, row)
        return values.reshape(len(states), 3, -1)

    def choose(self, states: Array, norm: float, rtol: float, least: int = 0) -> tuple[Array, float, int]:
        """Return the parameters of the coarsest level, from `least` on, that averages every state to `rtol`.

        Parameters
        ----------
        states : (count, state) array
        norm : float
            Largest Q among them.
        rtol : float
        least : int

        Returns
        -------
        parameters : array
        error : float
            The change to the next finer level and what the averages over the student field and the noise left open,
            relative to the averages of the absolute values.
        level : int
        """
        import numpy as np

        if self.scales is None:
            # From a rule that refines nothing.
            rough = parameters(self.head, np.full(self.module.COUNT, 1e300), 1.0, self.noise, LEVELS[1])
            self.scales = np.maximum(self.at(states[:1], rough)[:, 1].max(axis=0), 1e-300)
        scales, inner = self.scales, 0.02 * rtol
        table = self.tabulate(scales, inner, math.sqrt(norm))

        def averaged(number: int) -> tuple[Array, Array]:
            p = np.concatenate([parameters(self.head, scales, inner, self.noise, LEVELS[number]), table])
            return p, self.at(states, p)

        number = min(least, len(LEVELS) - 2)
        p, coarse = averaged(number)
        while True:
            finer_p, finer = averaged(number + 1)
            change = np.abs(coarse[:, 0] - finer[:, 0]) + coarse[:, 2]
            error = float(np.max(change / np.maximum(finer[:, 1], 1e-300)))
            if error <= rtol:
                return p, error, number
            p, coarse, number = finer_p, finer, number + 1
            if number == len(LEVELS) - 1:
                # What the finest of all would change is not known: the last change stands for it.
                return p, error, number


def module_source(what: SampleAverages, title: str) -> str:
    """Print ``rhs`` and ``observe``: averages, averages of absolute values, and what the refinement left open."""
    import sympy as sp

    from ...symbolic.printing import RHS_SIGNATURE, assignments, header, printer
    from .sample_averages_code import ADAPTIVE, EXACT, MODULE, NOISE, OPEN

    z = symbols()[0]
    x, gain, square = (sp.Symbol(s, real=True) for s in ("x", "G", "G2"))
    write = printer()
    drifts = [sp.expand(e).subs(gain**2, square) for e in what.drifts.values()]
    integrands = [*drifts, *what.observables.values(), gain, square]
    loads = [f"    {s} = p[{k}]" for k, s in enumerate(what.parameters)]
    state = [f"    {s} = state[{k}]" for k, s in enumerate(what.drifts)]
    shared, values = assignments(integrands)
    gain_shared, (gain_value,) = assignments([what.gain])
    scheduled = ["    average(y, p, out)"]
    if what.scheduled:
        scheduled = [f"    schedule, q = as_time(0, int(p[{len(what.parameters) - 1}])), work[:p.size]"]
        scheduled += ["    for k in range(p.size):", "        q[k] = p[k]"]
        scheduled += ["    q[0] = p[0] * schedule(t)", "    average(y, q, out)"]
    field = ["    lam = at[1] + at[2] * u", "    moments(lam, at, p, values)"]
    field += ["    integrand(at[0], lam, at[3], values[0], values[1], state, p, values)"]
    noise = ["    values[0] = gain_at(at[0], at[1] + at[2] * u, p)", "    values[1] = values[0] * values[0]"]
    moments = EXACT
    if what.noisy:
        adaptive = ADAPTIVE.format(name="noise", count=2, scales="SCALES + COUNT - 2", point="\n".join(noise))
        moments = NOISE.format(average_noise=adaptive, terms=TERMS)
    return header(title, what.scheduled) + MODULE.format(
        inside=INNER_ORDER, observables=tuple(what.observables), states=len(what.drifts), count=len(integrands),
        head=len(what.parameters), levels=len(what.fields), field_levels=1 if what.noisy else "LEVELS",
        field_kinks=_array(kinks(what.kinked, x)), link_kinks=_array(kinks(what.link, z)),
        link=write.doprint(what.link), loads="\n".join(loads),
        fields="\n".join(f"    if level == {k}:\n        return {write.doprint(f)}" for k, f in enumerate(what.fields)),
        gain="\n".join([*gain_shared, f"    return {gain_value}"]),
        integrand="\n".join([*state, *loads, *shared, *(f"    out[{k}] = {v}" for k, v in enumerate(values))]),
        moments=moments, open=OPEN if what.noisy else "", context="6 + ROOM * (1 + 2 * TERMS)" if what.noisy else "5",
        table="    read_table(z, at, p)\n" if what.noisy else "",
        average_fields=ADAPTIVE.format(name="fields", count="COUNT", scales="SCALES", point="\n".join(field)),
        scheduled="\n".join(scheduled), state="\n".join(state), mean=write.doprint(next(iter(what.drifts))),
        variance=write.doprint(what.variance), rhs=RHS_SIGNATURE,
    )  # fmt: skip


def _array(values: Sequence[float]) -> str:
    return f"np.array({list(values)!r}, dtype=np.float64)"
