"""The curve of the mixture fixed point as scripts would have it: NumPy, numba, JAX, each by itself.

Logistic loss, two opposite clusters with weights 0.3 and 0.7, ridge 0.1, bias; 200 sample ratios from 0.3 to 6: damped
iterations for (V, q, m, b), each point from its neighbour, over 120 Gauss-Hermite nodes with a bisected proximal point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

RHO, LABELS, RIDGE, DAMPING, STEPS = (0.3, 0.7), (1.0, -1.0), 0.1, 0.5, 55
RATIOS = np.linspace(0.3, 6.0, 200)
START = (1.0, 1.0, 0.5, 0.0)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(120)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def channel(y: float, mean: Any, v: Any, q: Any, xp: Any, loop: Callable[..., Any]) -> tuple[Any, Any, Any]:
    """E f, E f^2 and E l''/(1 + V l'') of one cluster, by arrays over the nodes."""
    u = y * mean + xp.sqrt(q) * NODES

    def halved(_: int, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = ends
        p = 0.5 * (low + high)
        above = p - u - v / (1 + xp.exp(p)) > 0
        return xp.where(above, low, p), xp.where(above, p, high)

    low, high = loop(0, STEPS, halved, (u, u + v))
    s = 1 / (1 + xp.exp(0.5 * (low + high)))
    return y * (WEIGHTS @ s), WEIGHTS @ s**2, WEIGHTS @ (s * (1 - s) / (1 + v * s * (1 - s)))


def proposed(alpha: Any, state: Any, xp: Any, loop: Callable[..., Any]) -> Any:
    """The state that the equations give from a state."""
    v, q, m, b = state
    f, ff, fv = zip(*(channel(y, y * m + b, v, q, xp, loop) for y in LABELS), strict=True)
    mean = sum(r * y * a for r, y, a in zip(RHO, LABELS, f, strict=True))
    mh, qh, vh = alpha * mean, alpha * (RHO[0] * ff[0] + RHO[1] * ff[1]), alpha * (RHO[0] * fv[0] + RHO[1] * fv[1])
    r = 1 / (RIDGE + vh)
    moved = (RHO[0] * f[0] + RHO[1] * f[1]) / (RHO[0] * fv[0] + RHO[1] * fv[1])
    return xp.stack([r, r**2 * qh + (r * mh) ** 2, r * mh, b + moved])


def change(new: Any, old: Any, xp: Any) -> Any:
    return xp.max(xp.abs(new - old) / (xp.abs(old) + 1e-3))


def _counted(first: int, last: int, step: Callable[..., Any], value: Any) -> Any:
    for k in range(first, last):
        value = step(k, value)
    return value


def by_numpy(tolerance: float) -> np.ndarray:
    """The curve by NumPy arrays."""
    state, rows = np.array(START), []
    for alpha in RATIOS:
        while True:
            new, old = proposed(alpha, state, np, _counted), state
            state = old + DAMPING * (new - old)
            if change(new, old, np) < tolerance:
                break
        rows.append(state)
    return np.array(rows)


def by_numba(tolerance: float) -> Callable[[], np.ndarray]:
    """The curve by loops under numba."""
    from numba import njit

    @njit(cache=True)
    def curve(ratios, nodes, weights, tolerance):  # type: ignore[no-untyped-def]
        out = np.empty((ratios.size, 4))
        v, q, m, b = START
        for k in range(ratios.size):
            while True:
                mh, qh, vh, up, down = 0.0, 0.0, 0.0, 0.0, 0.0
                for c in range(2):
                    y, rho = LABELS[c], RHO[c]
                    for j in range(nodes.size):
                        u = y * (y * m + b) + np.sqrt(q) * nodes[j]
                        low, high = u, u + v
                        for _ in range(STEPS):
                            p = 0.5 * (low + high)
                            if p - u - v / (1 + np.exp(p)) > 0:
                                high = p
                            else:
                                low = p
                        s = 1 / (1 + np.exp(0.5 * (low + high)))
                        curved = s * (1 - s) / (1 + v * s * (1 - s))
                        mh += ratios[k] * rho * weights[j] * s
                        qh += ratios[k] * rho * weights[j] * s * s
                        vh += ratios[k] * rho * weights[j] * curved
                        up += rho * y * weights[j] * s
                        down += rho * weights[j] * curved
                r = 1 / (RIDGE + vh)
                old = (v, q, m, b)
                new = (r, r**2 * qh + (r * mh) ** 2, r * mh, b + up / down)
                worst = 0.0
                for a in range(4):
                    worst = max(worst, abs(new[a] - old[a]) / (abs(old[a]) + 1e-3))
                v, q = v + DAMPING * (new[0] - v), q + DAMPING * (new[1] - q)
                m, b = m + DAMPING * (new[2] - m), b + DAMPING * (new[3] - b)
                if worst < tolerance:
                    break
            out[k] = v, q, m, b
        return out

    return lambda: curve(RATIOS, NODES, WEIGHTS, tolerance)


def by_jax(tolerance: float) -> Callable[[], np.ndarray]:
    """The curve by JAX arrays, all of it under `jit`."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp

    def point(state: Any, alpha: Any) -> tuple[Any, Any]:
        def step(carried: tuple[Any, Any]) -> tuple[Any, Any]:
            old, _ = carried
            new = proposed(alpha, old, jnp, jax.lax.fori_loop)
            return old + DAMPING * (new - old), change(new, old, jnp)

        state, _ = jax.lax.while_loop(lambda c: c[1] >= tolerance, step, (state, jnp.inf))
        return state, state

    curve = jax.jit(lambda ratios: jax.lax.scan(point, jnp.array(START), ratios)[1])
    return lambda: np.asarray(curve(jnp.asarray(RATIOS)))
