"""Flows on products of rotation groups and vector spaces, kept on the group to round-off.

Runge-Kutta-Munthe-Kaas form of the Dormand-Prince 5(4) pair: each step is taken in the Lie algebra, ``R(t + h) =
exp(u) R(t)`` with u skew, so the rotations stay orthogonal whatever the tolerance (Hairer, Lubich & Wanner, Geometric
Numerical Integration, IV.8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Field = Callable[[float, Array, Array], tuple[Array, Array]]

# Dormand & Prince, J. Comput. Appl. Math. 6 (1980) 19.
_C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@dataclass
class RotationFlowResult:
    """What `integrate` reached.

    Attributes
    ----------
    t : (T,) array
    rotations : (T, ..., n, n) array
    vectors : (T, m) array
    status : str
        ``"success"``, ``"max-steps"`` or ``"step-size-underflow"``.
    message : str
    stats : dict
        ``steps``, ``rejected``, ``evaluations``, and ``orthogonality``, the largest ``|R^T R - 1|`` component seen.
    """

    t: Array
    rotations: Array
    vectors: Array
    status: str = "success"
    message: str = ""
    stats: dict[str, float] = field(default_factory=dict)


def exponential(skew: Array) -> Array:
    """exp of (a stack of) skew-symmetric matrices: orthogonal to round-off, from the spectrum of the Hermitian
    matrix i u.
    """
    values, vectors = np.linalg.eigh(1j * skew)
    return np.real(vectors * np.exp(-1j * values)[..., None, :] @ np.conj(np.swapaxes(vectors, -1, -2)))


def _bracket(a: Array, b: Array) -> Array:
    return a @ b - b @ a


def _dexp_inverse(u: Array, v: Array) -> Array:
    """Inverse differential of exp, to the fourth commutator: enough for order five."""
    first = _bracket(u, v)
    second = _bracket(u, first)
    return v - first / 2 + second / 12 - _bracket(u, _bracket(u, second)) / 720


def nearest_rotation(matrix: Array) -> Array:
    """Orthogonal polar factor of (a stack of) nearly orthogonal matrices."""
    left, _, right = np.linalg.svd(matrix)
    return np.asarray(left @ right)


def defect(rotations: Array) -> float:
    """Largest component of |R^T R - 1|."""
    n = rotations.shape[-1]
    return float(np.abs(np.swapaxes(rotations, -1, -2) @ rotations - np.eye(n)).max())


def integrate(
    field: Field,
    rotations: Array,
    vectors: Array,
    times: Array,
    *,
    rtol: float = 1e-9,
    atol: float = 1e-12,
    max_steps: int = 1_000_000,
    min_step: float = 0.0,
) -> RotationFlowResult:
    """Integrate R' = Omega(t, R, y) R, y' = v(t, R, y).

    Parameters
    ----------
    field : callable
        ``(t, R, y) -> (Omega, v)`` with Omega skew, of the shapes of R and y.
    rotations : (..., n, n) array
        Orthogonal at the start.
    vectors : (m,) array
    times : (T,) array
        Output times, increasing; the first is the start.
    rtol, atol : float
        Local error bounds, on y and on the components of u.
    max_steps : int
    min_step : float
        Steps this short are accepted whatever their error. A field that jumps across a surface and points at it from
        both sides has solutions that slide along it; no error bound can be met there, and steps of this length
        chatter about the surface at a distance of their own order.
    """
    r, y, t = np.array(rotations, dtype=float), np.array(vectors, dtype=float), float(times[0])
    out_r, out_y = [r.copy()], [y.copy()]
    stats = {"steps": 0.0, "rejected": 0.0, "evaluations": 1.0, "orthogonality": defect(r)}
    first = field(t, r, y)
    span = float(times[-1] - times[0])
    speed = max(float(np.abs(first[0]).max(initial=0.0)), float(np.abs(first[1]).max(initial=0.0)))
    h = min(span, 1e-2 / speed if speed > 0 else span) if span > 0 else 0.0
    status, message = "success", ""
    for target in times[1:]:
        while t < target and status == "success":
            if stats["steps"] + stats["rejected"] >= max_steps:
                status, message = "max-steps", f"{max_steps} steps taken before t = {t:.6g}"
                break
            final = t + h >= target
            step = target - t if final else h
            if t + step == t:
                status, message = "step-size-underflow", f"the step vanished at t = {t:.6g}"
                break
            algebra, slopes = [first[0]], [first[1]]
            u, new_y, new_r = np.zeros_like(r), y, r
            for c, row in zip(_C[1:], _A[1:], strict=True):
                u = step * sum((a * k for a, k in zip(row, algebra, strict=True)), np.zeros_like(r))
                new_y = y + step * sum((a * k for a, k in zip(row, slopes, strict=True)), np.zeros_like(y))
                new_r = exponential(u) @ r
                omega, v = field(t + c * step, new_r, new_y)
                algebra.append(_dexp_inverse(u, omega))
                slopes.append(v)
                last = (omega, v)
            stats["evaluations"] += 6
            error_u = step * sum((e * k for e, k in zip(_ERROR, algebra, strict=True)), np.zeros_like(r))
            error_y = step * sum((e * k for e, k in zip(_ERROR, slopes, strict=True)), np.zeros_like(y))
            scale_y = atol + rtol * np.maximum(np.abs(y), np.abs(new_y))
            size = max(
                float(np.abs(error_u).max(initial=0.0)) / (atol + rtol),
                float((np.abs(error_y) / scale_y).max(initial=0.0)),
            )
            accepted = size <= 1.0 or step <= min_step
            if accepted:
                t = float(target) if final else t + step
                r, y, first = new_r, new_y, last
                stats["steps"] += 1
                drift = defect(r)
                stats["orthogonality"] = max(stats["orthogonality"], drift)
                if drift > 1e-14:  # products of rotations drift by round-off; bring them back before it adds up
                    r = nearest_rotation(r)
            else:
                stats["rejected"] += 1
            factor = min(5.0, max(0.2, 0.9 * size**-0.2)) if size > 0 else 5.0
            # A step cut short by an output time says nothing about the next one.
            h = max(h, step * factor) if final and accepted else max(step * factor, min_step)
        if status != "success":
            break
        out_r.append(r.copy())
        out_y.append(y.copy())
    return RotationFlowResult(
        np.asarray(times[: len(out_r)], dtype=float), np.array(out_r), np.array(out_y), status, message, stats
    )
