"""Whether a formula has a second moment when its variables are Gaussian: what every theory of this library assumes.

Nothing is integrated: a quadrature would return a number for 1/z too. Two things make E[f^2] infinite, and both are
looked for: growth, as of exp(z^2/3), and a point or surface where f is not square-integrable, as of 1/z or tan(z).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from .activations import activation
from .expressions import Expression
from .few_points import FEW_POINTS
from .kinds import kind_of

# Where growth is judged, in standard deviations: E[f^2] is finite when f grows slower than exp(z^2/4). Polynomials of
# the highest degree allowed do so there, and exp(z^2/4) is still a number.
_FAR = (40.0, 44.0, 48.0, 52.0)
# Where f must be a real number: what lies farther out has a probability below 1e-32.
_NEAR = 12.0
# Log10 of the largest second moment: that of He_j is j!, below it up to degree 28.
_LARGEST = 30.0
_LINES = 8
_GRID = 2048
# Each zoom divides the distance to a suspected pole by this; ten of them reach 1e-12 of a grid step.
_ZOOM, _ZOOMS = 16.0, 10
# How many of the sharpest peaks of a line are looked at.
_PEAKS = 24


@lru_cache(maxsize=256)
def second_moment_fault(expression: Expression, deviation: float = 1.0) -> str:
    """Return why E[f(z)^2] is not finite, or the empty string where it is.

    Parameters
    ----------
    expression : Expression
        f; its variables are independent and Gaussian.
    deviation : float
        Their standard deviation.

    Notes
    -----
    A pole |f| ~ r^-b at distance r from a point, curve or surface that is crossed by a line needs 2 b < 1; an isolated
    pole at the origin of n variables needs 2 b < n. Poles of other shapes, isolated and away from the origin in two or
    more variables, are not found.
    """
    import numpy as np

    names = expression.variables
    if not names:
        return ""
    n = len(names)
    rng = np.random.default_rng(20)

    def along(start: Any, direction: Any, t: Any) -> Any:
        with np.errstate(all="ignore"):
            points = {name: deviation * (start[k] + direction[k] * t) for k, name in enumerate(names)}
            return np.broadcast_to(np.asarray(expression.evaluate(FEW_POINTS, **points)), np.shape(t))

    lines = [(np.zeros(n), direction) for direction in _directions(n, rng)]
    if n > 1:
        lines += [(rng.standard_normal(n), direction) for direction in _directions(n, rng)[-_LINES:]]
    for start, direction in lines:
        central = not np.any(start)
        value = _real_fault(along, start, direction, deviation, names)
        value = value or (_growth_fault(along, start, direction) if central else "")
        value = value or _pole_fault(along, start, direction, n if central else 1, deviation, names)
        value = value or (_size_fault(along, start, direction) if central else "")
        if value:
            return value
    return ""


def require_second_moment(expression: Expression, what: str, deviation: float = 1.0) -> None:
    """Raise `ValueError` unless ``E[f(z)^2]`` is finite; `what` names the formula in the message."""
    fault = second_moment_fault(expression, deviation)
    if fault:
        raise ValueError(f"{what} {expression.text!r} has no usable second moment under the Gaussian law: {fault}")


def _directions(n: int, rng: Any) -> Any:
    """Return unit vectors: close to the axes and the diagonals, where f is most often largest, and random ones."""
    import numpy as np

    if n == 1:
        return np.array([[1.0], [-1.0]])
    pairs = [np.eye(n)[i] + sign * np.eye(n)[i + 1] for i in range(min(n - 1, 4)) for sign in (1, -1)]
    some = np.concatenate([np.eye(n)[:8], -np.eye(n)[:8], pairs, [np.ones(n)], rng.standard_normal((_LINES, n))])
    # Not on them: where another variable is exactly zero, log|z2| is infinite all along the axis of z1.
    some = some / np.linalg.norm(some, axis=1, keepdims=True) + 0.01 * rng.standard_normal(some.shape)
    return some / np.linalg.norm(some, axis=1, keepdims=True)


def _place(start: Any, direction: Any, t: float, deviation: float, names: tuple[str, ...]) -> str:
    values = deviation * (start + direction * t)
    return ", ".join(f"{name} = {value:.4g}" for name, value in zip(names[:3], values, strict=False))


def _real_fault(along: Any, start: Any, direction: Any, deviation: float, names: tuple[str, ...]) -> str:
    import numpy as np

    # Irrational steps: a removable point such as that of sin(z)/z at 0 is not met.
    t = np.linspace(-_NEAR, _NEAR * 0.99, _GRID) + np.pi * 1e-3
    values = along(start, direction, t)
    if np.iscomplexobj(values):
        return "it is complex"
    for bad, what in ((np.isnan(values), "not a real number"), (np.isinf(values), "infinite")):
        if bad.any():
            inner = t[bad][np.argmin(np.abs(t[bad]))]
            return f"it is {what} at {_place(start, direction, inner, deviation, names)}"
    return ""


def _growth_fault(along: Any, start: Any, direction: Any) -> str:
    import numpy as np

    t = np.array(_FAR)
    with np.errstate(all="ignore"):
        grown = np.log(np.abs(along(start, direction, t))) >= t**2 / 4 * (1 - 1e-3)
    return "it grows as fast as exp(z^2/4), z in standard deviations, or faster" if grown.all() else ""


def _size_fault(along: Any, start: Any, direction: Any) -> str:
    import numpy as np

    t = np.linspace(1.0, _FAR[-1], 200)
    with np.errstate(all="ignore"):
        size = float(np.max(2.0 * np.log(np.abs(along(start, direction, t))) - t**2 / 2)) / math.log(10.0)
    return f"it is 1e{size:.0f} or more, and no number would keep a digit" if size > _LARGEST else ""


def _pole_fault(
    along: Any, start: Any, direction: Any, codimension: int, deviation: float, names: tuple[str, ...]
) -> str:
    """Zoom into the sharpest peaks: where |f| grows like distance^-b with 2 b >= 1 there is a pole."""
    import numpy as np

    t = np.linspace(-_NEAR, _NEAR, _GRID + 1) + np.pi * 1e-4
    size = np.abs(along(start, direction, t))
    size = np.nan_to_num(size, nan=0.0, posinf=1e300)
    inner = size[1:-1]
    peaks = 1 + np.flatnonzero((inner >= size[:-2]) & (inner >= size[2:]) & (inner > 0))
    # The sharpest first; a bounded function has peaks too, and none of them grows under the lens.
    with np.errstate(all="ignore"):
        sharpness = size[peaks] / (1e-300 + np.minimum(size[peaks - 1], size[peaks + 1]))
    centres = t[peaks[np.argsort(-sharpness)][:_PEAKS]]
    if not centres.size:
        return ""
    fault = _zoom(along, start, direction, centres, float(t[1] - t[0]), codimension)
    return (
        ""
        if fault is None
        else f"it is not square-integrable around {_place(start, direction, fault, deviation, names)}"
    )


def _zoom(along: Any, start: Any, direction: Any, centres: Any, width: float, codimension: int) -> float | None:
    """Return the first of `centres` that is a pole, after zooming into all of them together."""
    import numpy as np

    # Off centre, so that a pole at a round number is approached and not hit.
    offsets = np.linspace(-1.0, 1.0, 64) + 0.003
    rows = np.arange(len(centres))
    going, met, grows = np.ones(len(centres), bool), np.zeros(len(centres), bool), np.ones(len(centres), bool)
    first, last, steps = np.zeros(len(centres)), np.zeros(len(centres)), np.zeros(len(centres))
    for zoom in range(_ZOOMS):
        t = centres[:, None] + width * offsets
        size = np.abs(along(start, direction, t))
        met |= going & np.isinf(size).any(axis=1)
        height = _high_quantile(size)
        grows &= ~going | met | (height > 0)
        going &= ~met & grows
        with np.errstate(all="ignore"):
            last = np.where(going, np.log(height), last)
        first, steps = (last, steps) if zoom == 0 else (first, steps + going)
        centres = np.where(going, t[rows, np.argmax(np.nan_to_num(size, nan=0.0), axis=1)], centres)
        width /= _ZOOM
        going &= width >= 1e-13 * np.maximum(1.0, np.abs(centres))
        if not going.any():
            break
    order = (last - first) / (np.maximum(steps, 1.0) * math.log(_ZOOM))
    # The origin is a pole of lower weight in more dimensions; elsewhere a line meets surfaces only.
    needed = np.where(np.abs(centres) < 1e-6, codimension / 2, 0.5)
    found = np.flatnonzero(met | (grows & (order >= needed - 0.04)))
    return float(centres[found[0]]) if found.size else None


def _high_quantile(size: Any) -> Any:
    """Return the 0.9 quantile of every row, NaN aside: the largest depends on how close to a pole a sample happens to
    fall.
    """
    import numpy as np

    # NaN is sorted to the end. NumPy's nanquantile is no faster for many rows than for one after the other.
    size = np.sort(size, axis=1)
    place = 0.9 * np.maximum(np.count_nonzero(~np.isnan(size), axis=1) - 1, 0)
    below = np.floor(place).astype(int)
    rows, above = np.arange(len(size)), np.minimum(below + 1, size.shape[1] - 1)
    low, share = size[rows, below], place - below
    with np.errstate(all="ignore"):
        return np.where(share > 0, low + share * (size[rows, above] - low), low)


def moment_faults(problem: Any) -> Iterator[tuple[str, str]]:
    """Yield (key path, reason) of every formula of a problem without a second moment under Gaussian inputs.

    Targets are judged at unit variance, students at the smallest variance that a field of theirs has at the start. A
    label that is drawn with the probability ``logit(a)`` is bounded whatever a is.
    """
    if kind_of(problem.data) not in ("gaussian", "mixture"):
        return
    target, student = problem.target, problem.student
    formulas: list[tuple[str, Expression, float]] = []
    match kind_of(target) if target is not None else "":
        case "index":
            formulas += [("target.formula", target.expression, 1.0)] if not target.is_logit else []
        case "vector-index" if not target.argmax:
            formulas += [("target.formulas", f, 1.0) for f in target.expressions if f.variables]
        case "committee":
            formulas += [("target.activation", activation(target.activation), 1.0)]
    match kind_of(student) if student is not None else "":
        case "features":
            formulas += [(f"student.layers.{i}", activation(f.activation), 1.0) for i, f in enumerate(student.layers)]
        case "two-layer" if not student.slope:
            start = getattr(problem.initial, "Q", None) or ((1.0,),)
            smallest = min((row[k] for k, row in enumerate(start) if k < len(row)), default=1.0)
            formulas += [("student.activation", activation(student.activation), math.sqrt(max(smallest, 1e-12)))]
    for path, expression, deviation in formulas:
        fault = second_moment_fault(expression, deviation)
        if fault:
            yield path, f"{expression.text!r} has no usable second moment under the Gaussian law: {fault}"
