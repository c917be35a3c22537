"""Two-layer students and low-dimensional targets, as simulations need them: evaluated, compiled, started, tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from dimladder.errors import SimulationError
from dimladder.problem import Expression

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np

TEST_POINTS = 13  # log2 of the number of test inputs


@dataclass(frozen=True)
class Link:
    """A noiseless target as a function of the M teacher fields: ``sum of coefficient * formula(z_names)``.

    ``terms`` holds (coefficient, formula, indices of the fields its variables stand for, in the formula's order).
    """

    count: int
    terms: tuple[tuple[float, Expression, tuple[int, ...]], ...]

    @classmethod
    def committee(cls, activation: Expression, readout: Sequence[float]) -> Link:
        """``sum_m readout_m g(z_m)``."""
        return cls(len(readout), tuple((float(a), activation, (m,)) for m, a in enumerate(readout)))

    @classmethod
    def formula(cls, expression: Expression, count: int | None = None) -> Link:
        """A formula in ``z1, z2, ...`` (or in the one field ``z``)."""
        fields = tuple(int(name[1:] or 1) - 1 for name in expression.variables)
        return cls(max([count or 0, *(f + 1 for f in fields)]), ((1.0, expression, fields),))

    def evaluate(self, xp: Any, fields: Any) -> Any:
        """Evaluate on fields of shape ``(..., M)`` of any array namespace."""
        total: Any = 0.0
        for coefficient, formula, places in self.terms:
            arrays = {name: fields[..., m] for name, m in zip(formula.variables, places, strict=True)}
            total = total + coefficient * formula.evaluate(xp, **arrays)
        return total

    def sympy(self) -> Any:
        """Return the target in the symbols ``z0, z1, ...``, numbered as the fields."""
        import sympy as sp

        z = [sp.Symbol(f"z{m}", real=True) for m in range(self.count)]
        return sum(
            sp.Float(coefficient, 17)
            * formula.sympy(**{n: z[m] for n, m in zip(formula.variables, places, strict=True)})
            for coefficient, formula, places in self.terms
        )


def model_module(activation: Expression, link: Link, schedule: Expression | None = None) -> ModuleType:
    """Return the compiled module of a student activation, a target and a learning-rate schedule.

    It holds ``model(fields, g, dg) -> target``, which fills g and g' of the students, and ``schedule(t)``.
    """
    from dimladder.symbolic import store

    def build() -> str:
        return _source(activation, link, schedule)

    parts = (
        "two-layer-model", activation.text, activation.hermite, link.count,
        tuple((c, f.text, f.hermite, p) for c, f, p in link.terms), schedule.text if schedule else "",
    )  # fmt: skip
    return store.module(parts, build)


def _source(activation: Expression, link: Link, schedule: Expression | None) -> str:
    import sympy as sp

    from dimladder.problem.expressions import drop_atoms
    from dimladder.symbolic.printing import HEADER, assignments

    x = sp.Symbol("x", real=True)
    g = activation.sympy(x=x)
    unit_lines, (value, slope) = assignments([g, drop_atoms(sp.diff(g, x))], prefix="s", indent="        ")
    link_lines, (target,) = assignments([link.sympy()], prefix="r")
    t = sp.Symbol("t", real=True)
    factor_lines, (factor,) = assignments([schedule.sympy(t=t) if schedule else sp.Integer(1)], prefix="q")
    vector = "types.float64[::1]"
    lines = [
        HEADER.format(title=f"student activation {activation.text}; {len(link.terms)} target term(s)"),
        f"@njit(types.float64({vector}, {vector}, {vector}), cache=True, nogil=True)",
        "def model(fields, g, dg):",
        "    students = g.shape[0]",
        "    for k in range(students):",
        "        x = fields[k]",
        *unit_lines,
        f"        g[k] = {value}",
        f"        dg[k] = {slope}",
        *(f"    z{m} = fields[students + {m}]" for m in range(link.count)),
        *link_lines,
        f"    return {target}",
        "",
        "",
        "@njit(types.float64(types.float64), cache=True, nogil=True)",
        "def schedule(t):",
        *factor_lines,
        f"    return 1.0 * ({factor})",
    ]
    return "\n".join(lines) + "\n"


def psd_root(gram: np.ndarray, what: str, scale: float | None = None) -> np.ndarray:
    """Return R with R R^T = gram for a positive semi-definite matrix, columns of negligible weight left out.

    Negligible is what rounding leaves of numbers of size `scale` (default: the largest eigenvalue).

    Raises
    ------
    SimulationError
        If an eigenvalue is negative beyond rounding.
    """
    import numpy as np

    values, vectors = np.linalg.eigh(gram)
    size = max(float(values[-1]) if scale is None else scale, 1e-300)
    if values[0] < -1e-9 * max(size, 1.0):
        raise SimulationError(
            f"{what} is not positive semi-definite",
            why=f"its smallest eigenvalue is {values[0]:.3g}",
            hint="no weights have these overlaps: check initial.Q, initial.M and target.overlap",
        )
    keep = values > 1e-14 * size
    return vectors[:, keep] * np.sqrt(values[keep])


@dataclass(frozen=True)
class Frame:
    """Exact overlaps as rows of numbers: ``T = teacher teacher^T``, ``M = students[:, :r] teacher^T``,
    ``Q = students students^T``; shapes (M, r), (K, r + K)."""

    teacher: np.ndarray
    students: np.ndarray

    @property
    def directions(self) -> int:
        """The smallest input dimension in which such weights exist and the chain can run: r + K."""
        return int(self.students.shape[1])


def frame(q: np.ndarray, m: np.ndarray, t: np.ndarray) -> Frame:
    """Return the frame of given overlaps Q (K, K), M (K, M), T (M, M); see `gram_kernel`.

    Raises
    ------
    SimulationError
        If no weights have these overlaps.
    """
    import numpy as np

    teacher = psd_root(t, "the teachers' overlap matrix T")
    along = np.linalg.lstsq(teacher, m.T, rcond=None)[0].T
    if not np.allclose(along @ teacher.T, m, rtol=1e-9, atol=1e-12 * np.sqrt(np.trace(q) * np.trace(t))):
        raise SimulationError("M is not consistent with a singular T", hint="check initial.M and target.overlap")
    inside = along @ along.T
    rest = psd_root(q - inside, "Q - M T^-1 M^T, the students' overlap across the teachers,", float(np.trace(q)))
    rank, used = teacher.shape[1], rest.shape[1]
    students = np.zeros((len(q), rank + len(q)))
    students[:, :rank], students[:, rank : rank + used] = along, rest
    return Frame(np.ascontiguousarray(teacher), students)


def explicit_weights(start: Frame, d: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return teachers (M, d) and students (K, d), in units of sqrt d, uniformly among those with these overlaps."""
    import numpy as np

    basis = np.linalg.qr(rng.standard_normal((d, start.directions)))[0].T
    return start.teacher @ basis[: start.teacher.shape[1]], start.students @ basis


@cache
def _sobol(dimension: int) -> np.ndarray:
    from scipy.stats import qmc

    points: np.ndarray = qmc.Sobol(dimension, scramble=False).random_base2(TEST_POINTS)
    return points


def population_means(
    q: np.ndarray, m: np.ndarray, t: np.ndarray, v: np.ndarray, model: Any, rng: np.random.Generator,
    noise: float = 0.0, logistic: bool = False,
) -> np.ndarray:  # fmt: skip
    """Return, with shape (2, time), E[(f* - f)^2]/2 without label noise, and the average logistic loss where asked for.

    For states Q (time, K, K), M, v (time, K). Fresh inputs enter through their fields only, which are N(0, C): the
    average runs over 2^13 Sobol' points with one random shift a replica, the same points at every time. It is unbiased,
    and its error (about 1e-3 of the value for smooth activations) belongs to the scatter between replicas. `model` is
    the compiled one of `model_module`.
    """
    import numpy as np
    from scipy.special import ndtri

    from . import gram_kernel

    times, k = v.shape
    dimension = k + len(t) + int(logistic)
    uniform = (_sobol(dimension) + rng.random(dimension)) % 1.0
    normal = ndtri(np.clip(uniform, 1e-16, 1.0 - 1e-16))
    added = noise * normal[:, -1] if logistic else np.zeros(0)
    result = np.full((2, times), np.nan)
    for place in range(times):
        if np.isfinite(q[place]).all() and np.isfinite(v[place]).all():
            now = frame(q[place], m[place], t)
            result[:, place] = gram_kernel.population_means(
                normal, added, now.teacher, now.students, v[place].copy(), model, logistic
            )
    return result


def link_of(problem: Any, count: int) -> Link:
    """Return the noiseless target as a function of its `count` fields."""
    from dimladder.problem import activation
    from dimladder.problem.targets import Committee

    target = problem.target
    if isinstance(target, Committee):
        return Link.committee(activation(target.activation), target.readouts[0])
    return Link.formula(target.expression, count)
