"""Equations of the particles in sympy, and the compiled module printed from the same expressions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...problem import Expression
from .smoothing import smooth, symbols

if TYPE_CHECKING:
    from collections.abc import Mapping

# Numbers in front of the tables in the parameter vector; see `pack`.
HEAD = 11


def parameter_symbols() -> Mapping[str, tuple[Any, Any]]:
    """Return (xi, lambda) of each kind of parameter of a neuron: ``a``, ``u``, ``s``."""
    import sympy as sp

    xi_a, xi_w, decay_a, decay_w = sp.symbols("xi_a xi_w lambda_a lambda_w", nonnegative=True)
    return {"a": (xi_a, decay_a), "u": (xi_w, decay_w), "s": (xi_w, decay_w)}


def gradients() -> dict[str, Any]:
    """Return the gradient of one neuron's output a psi(u.z, s) in a, in the sum of weights u, and in s.

    ``c`` is the signed sum of coordinates that u multiplies (one coordinate z_i where the target has no symmetry).
    """
    import sympy as sp

    x, s, _ = symbols()
    a, c = sp.symbols("a c", real=True)
    output = a * sp.Function("psi")(x, s)
    return {"a": sp.diff(output, a), "u": c * sp.diff(output, x), "s": sp.diff(output, s)}


def named(expression: Any, value: Any, slope: Any, spread: Any) -> Any:
    """Replace psi and its derivatives in x and s by symbols."""
    import sympy as sp

    x, s, _ = symbols()
    psi = sp.Function("psi")(x, s)
    return expression.subs({sp.diff(psi, x): slope, sp.diff(psi, s): spread}).subs(psi, value)


def drift(kind: str, pull: Any, parameter: Any, factor: Any = 1) -> Any:
    """Return xi (pull - lambda theta): gradient flow of the risk with a ridge; `factor` is the schedule."""
    rate, decay = parameter_symbols()[kind]
    return factor * rate * (pull - decay * parameter)


def module_source(activation: Expression, title: str) -> str:
    """Print ``rhs``, ``network`` (f at every point) and ``domain``.

    The target, the particles and the quadrature are data: one module serves all problems with an activation.
    So are the schedules of the two layers, by their addresses.
    """
    import sympy as sp

    from ...symbolic.printing import RHS_SIGNATURE, assignments, header, printer

    write = printer()
    smoothing = smooth(activation)
    value, slope, spread, residual, pull, theta = sp.symbols("value slope spread residual pull theta", real=True)
    integrands = {k: write.doprint(residual * named(e, value, slope, spread)) for k, e in gradients().items()}
    first, second = sp.symbols("first second", real=True)
    factors = {"a": second, "u": first, "s": first}
    flows = {k: write.doprint(drift(k, pull, theta, factors[k])) for k in integrands}
    if smoothing.averages is not None:
        lines, (psi, psi_x, psi_s) = assignments(smoothing.averages, prefix="q")
        # Averages over G are even in s, but for psi_s, which is odd; where the activation has kinks they divide by s.
        least = 1e-100 if smoothing.kinked else 0.0
        guard = ["    sign = -1.0 if s < 0.0 else 1.0", f"    s = max(abs(s), {least})"]
        smoothed = "\n".join([*guard, *lines, f"    return 1.0 * ({psi}), 1.0 * ({psi_x}), sign * ({psi_s})"])
    else:
        lines, terms = assignments(smoothing.integrands, prefix="q", indent="        ")
        sums = [f"        {name} += w * ({e})" for name, e in zip(("psi", "psi_x", "psi_s"), terms, strict=True)]
        smoothed = "\n".join([*_QUADRATURE_HEAD, *lines, *sums, "    return psi, psi_x, psi_s"])
    printed = {f"pull_{k}": v for k, v in integrands.items()} | {f"flow_{k}": v for k, v in flows.items()}
    return header(title, scheduled=True) + _TEMPLATE.format(rhs=RHS_SIGNATURE, smoothed=smoothed, **printed)


_QUADRATURE_HEAD = [
    "    level = 0",
    "    while level < levels - 1 and abs(s) > p[tables + level]:",
    "        level += 1",
    "    count = int(p[tables + levels + level])",
    "    first = tables + 2 * levels + level * most",
    "    second = first + levels * most",
    "    psi = psi_x = psi_s = 0.0",
    "    for k in range(count):",
    "        g = p[first + k]",
    "        w = p[second + k]",
]

_TEMPLATE = '''
V, F = types.float64[::1], types.float64


@njit(**INNER)
def smooth(x, s, p, tables, levels, most):
    """Return E[sigma(x + s G)], E[sigma'(x + s G)], E[sigma'(x + s G) G]."""
{smoothed}


@njit(types.void(V, V, V), **FAST)
def network(y, p, work):
    """Fill work with f (points), then psi, psi_x, psi_s of every particle at every point."""
    particles, sums, points = int(p[0]), int(p[1]), int(p[2])
    levels, most = int(p[3]), int(p[4])
    weights = {head}
    cube = weights + particles
    tables = cube + points * (sums + 2) + sums
    stride = sums + 2
    for k in range(points):
        work[k] = 0.0
    for j in range(particles):
        a = y[j * stride]
        s = y[j * stride + sums + 1]
        at = points + 3 * points * j
        for k in range(points):
            x = 0.0
            for i in range(sums):
                x += y[j * stride + 1 + i] * p[cube + k * sums + i]
            psi, psi_x, psi_s = smooth(x, s, p, tables, levels, most)
            work[at + 3 * k] = psi
            work[at + 3 * k + 1] = psi_x
            work[at + 3 * k + 2] = psi_s
            work[k] += p[weights + j] * a * psi


@njit({rhs}, **FAST)
def rhs(t, y, dy, p, work):
    network(y, p, work)
    particles, sums, points = int(p[0]), int(p[1]), int(p[2])
    xi_a, xi_w, lambda_a, lambda_w = p[5], p[6], p[7], p[8]
    first_at, second_at = as_time(0, int(p[9])), as_time(0, int(p[10]))
    first, second = first_at(t), second_at(t)
    cube = {head} + particles
    probability = cube + points * sums
    target = probability + points
    size = target + points
    stride = sums + 2
    for k in range(points):
        work[k] = p[probability + k] * (p[target + k] - work[k])
    for j in range(particles):
        own = j * stride
        a = y[own]
        at = points + 3 * points * j
        for i in range(stride):
            dy[own + i] = 0.0
        for k in range(points):
            residual = work[k]
            value = work[at + 3 * k]
            slope = work[at + 3 * k + 1]
            spread = work[at + 3 * k + 2]
            dy[own] += {pull_a}
            dy[own + sums + 1] += {pull_s}
            for i in range(sums):
                c = p[cube + k * sums + i]
                dy[own + 1 + i] += {pull_u}
        for i in range(sums):
            # All coordinates of a sum have the same weight: each receives its share.
            pull = dy[own + 1 + i] / p[size + i]
            theta = y[own + 1 + i]
            dy[own + 1 + i] = {flow_u}
        pull = dy[own]
        theta = a
        dy[own] = {flow_a}
        pull = dy[own + sums + 1]
        theta = y[own + sums + 1]
        dy[own + sums + 1] = {flow_s}


@njit(F(F, V, V), **OPTIONS)
def domain(t, y, p):
    """Return the smallest s: where the activation has kinks, the equations end at s = 0."""
    particles, sums = int(p[0]), int(p[1])
    least = 1.0
    for j in range(particles):
        least = min(least, y[j * (sums + 2) + sums + 1])
    return least
'''
_TEMPLATE = _TEMPLATE.replace("{head}", str(HEAD))
