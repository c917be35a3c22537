"""Why a problem cannot be learned, said before it is solved: parity, sign and range of the student, starts that stay.

One-pass SGD converges in all these cases, to a curve that looks like a broken theory. Nothing here is needed to compute
the curve: it is the Hermite analysis of `exponents`, and averages of the target over points of its fields.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...problem import activation
from ...problem.few_points import FEW_POINTS
from ...problem.geometry import Start, start
from ...problem.targets import Committee
from ...problem.update_table import Table, table
from .routes import structure

Array = NDArray[np.float64]
LOG_POINTS = 13
# Shares of the target's power below which a floor is not worth a word.
SMALL = 1e-6
GRID = np.linspace(-40.0, 40.0, 3201)


def obstacles(problem: Any) -> list[str]:
    """Return what keeps the student from its target, a sentence each; empty where nothing is known to."""
    if structure(problem):
        return _of_table(table(problem))
    displaced = problem.algorithm.uses > 1 or problem.algorithm.displacement != 0
    begin = start(problem)
    found = list(_of_function(problem.target, problem.student, begin.a.tobytes(), begin.T.tobytes()))
    found += _of_start(problem, begin, displaced)
    return found


@lru_cache(maxsize=256)
def _of_function(target: Any, student: Any, readout: bytes, overlap: bytes) -> tuple[str, ...]:
    """Return what no weights can undo: averages of the part of the target that the student cannot have."""
    if student.slope:
        return ()
    with np.errstate(all="ignore"):
        g = np.asarray(student.expression.evaluate(FEW_POINTS, x=GRID), dtype=float) + 0.0 * GRID
    if not np.isfinite(g).all():
        return ()
    a = np.frombuffer(readout)
    T = np.frombuffer(overlap)
    fields = _points(T.reshape(int(np.sqrt(T.size)), -1))
    there, mirrored = _target(target, fields), _target(target, -fields)
    power = float(np.mean(there**2))
    found = []

    def say(what: str, missed: Array, why: str) -> None:
        floor = 0.5 * float(np.mean(missed**2))
        if floor > SMALL * power:
            found.append(f"{what}: {why}, so the generalisation error stays above {floor:.2g}")

    size = float(np.abs(g).max()) or 1.0
    if np.allclose(g, -g[::-1], rtol=0, atol=1e-12 * size):
        say("an odd activation without bias", 0.5 * (there + mirrored), "the even part of the target is out of reach")
    elif np.allclose(g, g[::-1], rtol=0, atol=1e-12 * size):
        say("an even activation without bias", 0.5 * (there - mirrored), "the odd part of the target is out of reach")
    if student.train_readout:
        return tuple(found)
    if not a.any():
        return (*found, "the readout is zero and not trained: the output stays zero and the weights do not move")
    low, high = float(g.min()), float(g.max())
    for sign, name in ((1.0, "negative"), (-1.0, "positive")):
        if ((sign * a >= 0).all() and low >= 0) or ((sign * a <= 0).all() and high <= 0):
            missed = np.minimum(sign * there, 0.0)
            say("a fixed readout of one sign", missed, f"the output is never {name}, the target is")
            return tuple(found)
    if abs(g[-1] - g[-2]) + abs(g[1] - g[0]) < 1e-9 * size:
        reach = float(np.maximum(a * low, a * high).sum()), float(np.minimum(a * low, a * high).sum())
        missed = np.maximum(there - reach[0], 0.0) + np.maximum(reach[1] - there, 0.0)
        say("a fixed readout of a bounded activation", missed, f"the output lies in [{reach[1]:.3g}, {reach[0]:.3g}]")
    return tuple(found)


def _of_start(problem: Any, begin: Start, displaced: bool) -> list[str]:
    found = []
    exponent = information_exponent_of(problem.target, begin.A.tobytes(), begin.T.tobytes())
    if not displaced and not begin.M.any() and exponent != 1:
        order = "above 12" if exponent is None else str(exponent)
        key = "initial.M" if problem.initial is None or hasattr(problem.initial, "M") else "initial.overlap"
        found.append(
            f"{key} is zero and the information exponent is {order}: M = 0 is a rest point, and the curve stays on "
            "it; finite d starts at overlaps of order 1/sqrt(d)"
        )
    for i, k in combinations(range(len(begin.a)), 2):
        if begin.a[i] != begin.a[k] or not np.array_equal(begin.M[i], begin.M[k]):
            continue
        swap = np.arange(len(begin.a))
        swap[[i, k]] = k, i
        if np.array_equal(begin.Q, begin.Q[np.ix_(swap, swap)]):
            found.append(f"units {i} and {k} start alike, and the flow keeps them alike: they cannot specialise")
            break
    return found


def _of_table(t: Table) -> list[str]:
    """Return the obstacles of problems with blocks, sources or several tracked vectors: parity and twins."""
    found = []
    with np.errstate(all="ignore"):
        g = np.asarray(t.activation.evaluate(FEW_POINTS, x=GRID), dtype=float) + 0.0 * GRID
    odd = bool(np.isfinite(g).all()) and np.allclose(g, -g[::-1], rtol=0, atol=1e-12 * (float(abs(g).max()) or 1.0))
    if odd and t.bias_rate is None and t.labels.any():
        floor, power = _even_part(t), 0.5 * float(t.probabilities(0.0) @ (t.labels**2).sum(axis=1))
        if floor > SMALL * power:
            found.append(
                "an odd activation without bias: clusters of opposite means have the same label, as in XOR, and the "
                f"output is odd, so the generalisation error stays above {floor:.2g}"
            )
    if (t.masks == 1.0).all():
        for i, k in combinations(range(t.K), 2):
            swap = np.arange(t.n)
            for s in range(len(t.species)):
                swap[[s * t.K + i, s * t.K + k]] = s * t.K + k, s * t.K + i
            same = np.array_equal(t.gram, t.gram[:, swap][:, :, swap]) and np.array_equal(t.bias[:, i], t.bias[:, k])
            if same and np.array_equal(t.a[:, i], t.a[:, k]):
                found.append(f"units {i} and {k} start alike, and the flow keeps them alike: they cannot specialise")
                break
    return found


def _even_part(t: Table) -> float:
    """Return half the mean square of the even part of the labels: no odd function has a smaller error.

    Of two clusters that are each other's mirror image, x -> -x, only half the difference of the labels is odd.
    """
    chance, total = t.probabilities(0.0), 0.0
    for c in range(len(t.labels)):
        for other in range(len(t.labels)):
            alike = np.array_equal(t.variances[c], t.variances[other]) and chance[c] == chance[other]
            if alike and np.array_equal(t.means[c], -t.means[other]):
                total += 0.5 * chance[c] * float(((0.5 * (t.labels[c] + t.labels[other])) ** 2).sum())
                break
    return float(total)


@lru_cache(maxsize=256)
def information_exponent_of(target: Any, readout: bytes, overlap: bytes) -> int | None:
    """Return the information exponent of a target; 1 where it cannot be told."""
    from . import exponents

    if isinstance(target, Committee):
        T = np.frombuffer(overlap)
        A = np.frombuffer(readout)
        return exponents.committee_exponent(target.activation, A, T.reshape(len(A), -1))
    if target.directions == 1:
        return exponents.information_exponent(*exponents.link_of(target))
    try:
        coefficients = exponents.hermite_tensor(target.expression)
    except ValueError:
        return 1
    return min((sum(k) for k in coefficients if any(k)), default=None)


def _points(overlap: Array) -> Array:
    """Return Gaussian fields of that covariance at the points of a Kronecker sequence, shape (points, fields).

    Multiples of powers of the root of x^(n+1) = x + 1 fill the cube evenly; Sobol' points would take `scipy.stats`,
    whose import costs more than all else here, as does that of the quantiles of scipy.special.
    """
    values, vectors = np.linalg.eigh(overlap)
    n = len(overlap)
    root = 1.5
    for _ in range(60):
        root = (1.0 + root) ** (1.0 / (n + 1))
    steps = np.arange(1, 2**LOG_POINTS + 1)
    uniform = np.mod(0.5 + np.outer(steps, root ** -np.arange(1.0, n + 1)), 1.0)
    table = np.linspace(-8.0, 8.0, 4001)
    normal = np.interp(uniform, 0.5 + 0.5 * FEW_POINTS.erf(table / np.sqrt(2.0)), table)
    points: Array = normal @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    return points


def _target(target: Any, fields: Array) -> Array:
    if isinstance(target, Committee):
        values = np.asarray(activation(target.activation).evaluate(FEW_POINTS, x=fields), dtype=float)
        return np.asarray(values @ np.array(target.readouts[0]), dtype=float)
    arrays = {name: fields[:, int(name[1:] or 1) - 1] for name in target.fields}
    return np.asarray(target.expression.evaluate(FEW_POINTS, **arrays), dtype=float) + 0.0 * fields[:, 0]
