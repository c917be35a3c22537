"""The free energy of nine scalars: its symbolic form, the module of its derivatives, and Newton's method on it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .mixture import without_self_loop

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

UNKNOWNS = ("beta", "s", "theta", "Q", "nu", "m", "chi", "q", "k")
POSITIVE = (True, True, True, True, False, False, True, True, False)
CONSTANTS = ("gamma", "mu", "lam", "c", "tau", "r")


def expressions() -> dict[str, Any]:
    """The closed forms of c = 0 and the free energy of any c, in sympy."""
    import sympy as sp

    beta, s, theta, big_q, nu, m, chi, q, k = sp.symbols(" ".join(UNKNOWNS), real=True)
    gamma, mu, lam, c, tau, r = sp.symbols(" ".join(CONSTANTS), real=True)
    shift, field, gain = lam * m - 1, sp.sqrt(mu / gamma) * k, beta / s
    # One labelled and one unlabelled node, minimised over z = (X w)_i and averaged over its Gaussian fields.
    labelled = (
        gain * (big_q + shift**2) / 2
        + chi * (field**2 + q) / 2
        - ((gain * c * shift + nu - chi * field) ** 2 + gain**2 * c**2 * big_q + beta**2 + chi**2 * q)
        / (2 * (gain * c**2 + theta + chi))
    )
    unlabelled = chi * (field**2 + q) / 2 - ((nu - chi * field) ** 2 + beta**2 + chi**2 * q) / (2 * (theta + chi))
    free = (
        beta * s / 2 - beta**2 / 4 + tau * r * q / gamma + tau * labelled + (1 - tau) * unlabelled
        - theta * big_q / 2 - nu * m - chi * (q - k**2) / (2 * gamma)
    )  # fmt: skip
    mean_z, var_z = -(nu - chi * field) / (theta + chi), (beta**2 + chi**2 * q) / (theta + chi) ** 2
    # c = 0: regression on a Gaussian mixture; t is the renormalised ridge.
    t, g = sp.symbols("t g", nonnegative=True)
    overlap = lam**2 * (1 + mu) * g / (1 + (1 + mu) * g)
    return {
        "free_energy": free,
        "test_risk": big_q + c**2 * var_z + (lam * m + c * mean_z - 1) ** 2,
        "train_risk": beta**2 / (4 * tau),
        "margin": lam * m + c * mean_z,
        "spread": big_q + c**2 * var_z,
        "resolvent": sp.Eq(g, 1 / (t + gamma / (1 + g)), evaluate=False),
        "ridge": sp.Eq(r, t * (gamma * tau - 1 + t * g) / (gamma * tau), evaluate=False),
        "overlap": overlap,
    }


def start_without_self_loop(gamma: float, mu: float, lam: float, tau: float, ridge: float) -> Array:
    """The nine unknowns at c = 0, from the closed form."""
    import numpy as np

    test, train, _, psi, big_q = without_self_loop(gamma, mu, lam, tau, ridge)
    m = psi / lam
    shift = lam * m - 1
    beta, s = 2 * math.sqrt(tau * train), math.sqrt(tau * test)
    theta = tau * beta / s
    nu = theta * lam * shift
    k = m * math.sqrt(mu * gamma) / (1 + mu)
    chi = -(1 + mu) * (nu + m * theta) / m
    q = ((big_q - m**2) * (theta + chi) ** 2 - beta**2) / chi**2
    return np.array([beta, s, theta, big_q, nu, m, chi, q, k])


def scales(x: Array) -> Array:
    """Return the size of every unknown; they differ by many orders of magnitude when the ridge is tiny.

    nu, m and k change sign where c = -lambda.
    """
    import numpy as np

    beta, s, theta, big_q, _, _, chi, q, _ = np.abs(x)
    return np.array([beta, s, theta, big_q, theta * math.sqrt(big_q), math.sqrt(big_q), chi, q, math.sqrt(q)])


def unscaled(row: Array) -> Array:
    """Return the nine unknowns of the coordinates in which `RidgeOnGraph.roots` gives them."""
    import numpy as np

    x = np.where(POSITIVE, np.exp(np.where(POSITIVE, row, 0.0)), 0.0)
    return np.where(POSITIVE, x, row * scales(x))


def newton(generated: ModuleType, state: Array, p: Array) -> Array | None:
    """Stationary point near `state`, or None."""
    import numpy as np

    x = state.copy()
    for _ in range(40):
        slope, curvature = generated.derivatives(x, p)
        scale = scales(x)
        system = curvature * scale[:, None] * scale[None, :]
        rows = np.abs(system).max(axis=1)
        if not np.all(np.isfinite(system)) or np.any(rows == 0):
            return None
        try:
            step = scale * np.linalg.solve(system / rows[:, None], -slope * scale / rows)
        except np.linalg.LinAlgError:
            return None
        size = float(np.max(np.abs(step) / scale))
        x = x + step * min(1.0, 0.5 / size if size > 0 else 1.0)
        if x[1] <= 0 or x[3] <= 0 or x[7] <= 0:
            return None
        if size < 1e-11:
            return x
    return x if size < 1e-8 else None


def source() -> str:
    """Print the gradient and the Hessian of the free energy, and the observables."""
    import sympy as sp

    from ...symbolic.printing import HEADER, assignments

    e = expressions()
    unknowns = sp.symbols(" ".join(UNKNOWNS), real=True)
    gradient = [sp.diff(e["free_energy"], u) for u in unknowns]
    pairs = [(i, j) for i in range(len(unknowns)) for j in range(i + 1)]
    hessian = [sp.diff(gradient[i], unknowns[j]) for i, j in pairs]
    load = [f"    {', '.join(UNKNOWNS)} = x", f"    {', '.join(CONSTANTS)} = p"]
    # The prefix must not collide with the unknown s.
    shared, values = assignments([*gradient, *hessian], prefix="w_")
    lines = [HEADER.format(title="Free energy of a graph convolution: derivatives and observables")]
    lines += [
        "",
        "def derivatives(x, p):",
        *load,
        *shared,
        "    slope = np.empty(9)",
        "    curvature = np.empty((9, 9))",
    ]
    lines += [f"    slope[{i}] = {v}" for i, v in enumerate(values[: len(unknowns)])]
    lines += [
        f"    curvature[{i}, {j}] = curvature[{j}, {i}] = {v}"
        for (i, j), v in zip(pairs, values[len(unknowns) :], strict=True)
    ]
    lines += ["    return slope, curvature", "", ""]
    shared, values = assignments([e[n] for n in ("test_risk", "train_risk", "margin", "spread")], prefix="w_")
    lines += ["def observe(x, p):", *load, *shared, f"    return {', '.join(values)}"]
    return "\n".join(lines) + "\n"
