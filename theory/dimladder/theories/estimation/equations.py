"""The fixed point of convex empirical risk minimisation with one output, in sympy, and the code printed from it.

Objective sum_i l(y_i, u_i) + sum_j r(w_j), u = w.b/sqrt k + constant, b the k features, samples n = alpha d, k = psi d.
Order parameters: V the response, q = E u^2 (centred), m = E u z. Three blocks:

* **channel**: omega ~ N(0, q) the field of the estimator trained without the sample, prox = argmin_u l(y, u) +
  (u - omega)^2/(2 V), f = (prox - omega)/V; averages of f over the label's law;
* **spectrum**: g and h of `spectrum.py`;
* **penalty**: l2 in closed form by g and h, any other coordinate by coordinate (`penalty.py`).

The printed module holds the map of the free coordinates (log V, log q, atanh(m/sqrt(q rho)), b): the channel and the
prior side enter as addresses in the parameters, so that it is compiled once for all problems. Square loss with an l2
penalty needs no iteration: V^ V = g and V^ = alpha k/(psi (1 + k V)) leave one equation for z, everything else is
linear.

Conventions and derivation: docs/theory/estimation.md. Sources: Thrampoulidis, Abbasi & Hassibi 2018 (M-estimators),
Gerace et al. 2020, Loureiro et al. 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

_LATEX = {
    "V": "V", "q": "q", "m": "m", "b": "b", "alpha": r"\alpha", "psi": r"\psi", "ridge": r"\lambda", "rho": r"\rho",
    "f": r"\bar f", "ff": r"\overline{f^2}", "fv": r"\bar f'", "fz": r"\bar f^{\partial}", "loss": r"\bar\ell",
    "Vh": r"\hat V", "qh": r"\hat q", "mh": r"\hat m", "z": r"\zeta", "g": "g", "Dg": "D_g", "h": "h", "Dh": "D_h",
    "Ey": r"\langle y\rangle", "Eyy": r"\langle y^2\rangle", "Edy": r"\langle\partial_z y\rangle",
    "Eff": r"\langle f_\star^2\rangle", "Edf": r"\langle\partial_z f_\star\rangle", "norm": r"|w|^2/k",
    "ff12": r"\overline{f_1f_2}", "qh12": r"\hat q_{12}", "q12": "q_{12}",
    "mse": r"\mathrm{mse}", "k": r"c", "df2": r"\mathrm{df}_2", "B": "B",
    "mse_test": r"\mathrm{mse}_{\mathrm{test}}", "mse_train": r"\mathrm{mse}_{\mathrm{train}}",
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Assignments ``name = expression`` of one group, in the order of computation."""

    arguments: tuple[str, ...]
    rows: tuple[tuple[str, Any], ...]


@lru_cache(maxsize=1)
def blocks() -> dict[str, Block]:
    """Return the equations by group."""
    import sympy as sp

    s = {name: sp.Symbol(name, real=True) for name in _LATEX}
    V, q, m, b = s["V"], s["q"], s["m"], s["b"]
    alpha, psi = s["alpha"], s["psi"]
    g, Dg, h, Dh, z = s["g"], s["Dg"], s["h"], s["Dh"], s["z"]
    Vh, qh, mh = s["Vh"], s["qh"], s["mh"]
    gap = s["Eyy"] - 2 * s["Edy"] * m - 2 * b * s["Ey"] + b**2 + q
    lam = s["ridge"]
    return {
        # (y - u)^2/2: f = (y - omega - b)/(1 + V); E y omega = m E d_z y.
        "square": Block(
            ("V", "q", "m", "b", "Ey", "Eyy", "Edy"),
            (
                ("f", (s["Ey"] - b) / (1 + V)),
                ("ff", gap / (1 + V) ** 2),
                ("fv", 1 / (1 + V)),
                ("fz", s["Edy"] / (1 + V)),
                ("loss", gap / (2 * (1 + V) ** 2)),
                ("test", gap / 2),
            ),
        ),
        "conjugates": Block(
            ("alpha", "psi", "ff", "fv", "fz"),
            (("Vh", alpha / psi * s["fv"]), ("qh", alpha / psi * s["ff"]), ("mh", alpha / psi * s["fz"])),
        ),
        "overlaps": Block(
            ("Vh", "qh", "mh", "z", "g", "Dg", "h", "Dh"),
            (
                ("V", g / Vh),
                ("q", (qh * Dg + mh**2 * Dh) / Vh**2),
                ("m", mh * h / Vh),
                ("norm", (qh * (g - Dg) + mh**2 * (h - Dh)) / (z * Vh**2)),
            ),
        ),
        # Two fits of one data set: as q, with the samples that both have seen.
        "pair_square": Block(
            ("fv", "q12", "m", "b", "Ey", "Eyy", "Edy"), (("ff12", s["fv"] ** 2 * (gap - q + s["q12"])),)
        ),
        "pair_force": Block(("alpha", "psi", "ff12"), (("qh12", alpha / psi * s["ff12"]),)),
        "pair": Block(("qh12", "Vh", "mh", "Dg", "Dh"), (("q12", (s["qh12"] * Dg + mh**2 * Dh) / Vh**2),)),
        "errors": Block(
            ("q", "m", "b", "Ef", "Eff", "Edf"),
            (("mse", s["Eff"] - 2 * s["Edf"] * m - 2 * b * sp.Symbol("Ef", real=True) + b**2 + q),),
        ),
        # Loss c (y - u)^2/2: q solves q = df gap + <d_z y>^2 (h + z h'), which is linear in it.
        "ridge": Block(
            ("alpha", "psi", "k", "ridge", "z", "g", "Dg", "h", "Dh", "b", "Ey", "Eyy", "Edy"),
            (
                ("V", z * g / lam),
                ("m", s["Edy"] * h),
                ("df2", psi / alpha * Dg),
                ("B", gap - q + s["Edy"] ** 2 * Dh),
                ("q", (s["df2"] * (gap - q) + s["Edy"] ** 2 * Dh) / (1 - s["df2"])),
                ("mse_test", s["B"] / (1 - s["df2"])),
                ("mse_train", (lam * psi / (s["k"] * alpha * z)) ** 2 * s["mse_test"]),
            ),
        ),
    }


_HEAD = '''"""Generated by dimladder from symbolic equations; do not edit.

Algebra of the state evolution.
"""

import math

import numpy as np

from dimladder.numerics.basics import OPTIONS, fill
from dimladder.numerics.denoisers import as_side
from dimladder.numerics.label_channel import as_channel
from dimladder.numerics.native import njit
from dimladder.numerics.resolvents import resolvents
'''

# Parameters of the map: addresses of channel and side, then alpha, psi, rho, ridge, length of the channel's data, and
# the data of both. `work` receives the averages (8), the overlaps (4) and the root of the layers (5).
PARAMETERS = 9
WORK = 17

_MAP = '''
@njit("void(f8[::1], i8, f8, f8, f8, f8, b1, f8[::1])", **OPTIONS)
def square_channel(p, at, V, q, m, b, observe, out):
    """The square loss k (y - u)^2/2; p from index at: k, rho, E y, E y^2, E d_z y."""
    fill(out, math.nan)
    k, rho = p[at], p[at + 1]
    if not (V > 0.0 and q > 0.0 and q * rho > m * m and math.isfinite(V + q + m + b)):
        return
    seen = np.empty(6)
    square(V * k, q, m, b, p[at + 2], p[at + 3], p[at + 4], seen)
    out[0], out[1], out[2] = k * seen[0], k * k * seen[1], k * seen[2]
    out[3], out[4], out[5] = k * seen[4], k * seen[5], k * seen[3]
    out[7] = k * k * seen[2] * seen[2]


@njit("void(f8, f8, f8, f8, f8[::1], f8[::1])", **OPTIONS)
def ridge_side(Vh, qh, mh, ridge, data, out):
    """An l2 penalty; data: its factor, the bulk, numbers of cells, layers and rows, then cells and layers."""
    bulk, cells, layers, rows = data[1], int(data[2]), int(data[3]), int(data[4])
    at = 5
    shares, eigenvalues = data[at : at + cells], data[at + cells : at + 2 * cells]
    powers = data[at + 2 * cells : at + 3 * cells]
    at += 3 * cells
    starts = data[at : at + layers + 1]
    table = data[at + layers + 1 :].reshape((rows, 3))
    z = data[0] * ridge / Vh
    if not resolvents(z, shares, eigenvalues, powers, starts, table, out[4:9]):
        fill(out[:4], math.nan)
        return
    overlaps(Vh, qh, mh, z, out[4], out[5], out[6], out[7], out)
    out[0] += bulk / ridge


@njit("void(f8[::1], f8[::1], f8[::1], f8[::1])", **OPTIONS)
def fmap(x, out, p, work):
    """F(x) for x = (log V, log q, atanh(m/sqrt(q rho)) [, b]); NaN outside the domain."""
    bits = p[:4].view(np.int64)
    channel, side = as_channel(bits[0], bits[1]), as_side(bits[2], bits[3])
    alpha, psi, rho, ridge, size = p[4], p[5], p[6], p[7], int(p[8])
    V, q = math.exp(x[0]), math.exp(x[1])
    m = math.tanh(x[2]) * math.sqrt(q * rho)
    b = x[3] if x.size == 4 else 0.0
    channel(p, 9, V, q, m, b, False, work[:8])
    hats = np.empty(3)
    conjugates(alpha, psi, work[1], work[2], work[5], hats)
    fill(out, math.nan)
    if not (hats[0] >= 0.0 and math.isfinite(hats[0] + hats[1] + hats[2])):
        return
    # Samples so far from a kink that their curvature underflows: the limit of small ones is the same to rounding.
    hats[0] = max(hats[0], 1e-100)
    side(hats[0], hats[1], hats[2], ridge, p[9 + size :], work[8:])
    V, q, m = work[8], work[9], work[10]
    if not (V > 0.0 and q > 0.0 and math.isfinite(V + q + m)):
        return
    c = m / math.sqrt(q * rho)
    if not abs(c) < 1.0:
        return
    out[0], out[1], out[2] = math.log(V), math.log(q), math.atanh(c)
    if x.size == 4:
        # E f = 0 at the solution; the division makes it a Newton step.
        out[3] = b + work[0] / work[2]
'''


def _source() -> str:
    from ...symbolic.printing import assignments

    lines = [_HEAD, f"# Rows of each group.\nROWS = { {name: len(block.rows) for name, block in blocks().items()}!r}"]
    for name, block in blocks().items():
        signature = ", ".join(["f8"] * len(block.arguments) + ["f8[::1]"])
        lines += ["", f'@njit("void({signature})", **OPTIONS)', f"def {name}({', '.join(block.arguments)}, out):"]
        if name == "ridge":
            # Later rows use earlier ones.
            for symbol, value in block.rows:
                shared, values = assignments([value], prefix=f"_{symbol}_")
                lines += [*shared, f"    {symbol} = {values[0]}"]
            values = [symbol for symbol, _ in block.rows]
        else:
            shared, values = assignments([e for _, e in block.rows], prefix="_")
            lines += shared
        lines += [*(f"    out[{k}] = {value}" for k, value in enumerate(values)), ""]
    return "\n".join([*lines, _MAP])


def algebra() -> ModuleType:
    """Return the module printed from `blocks`: one function a group, and the map."""
    from ...symbolic import store

    return store.module(("estimation-algebra",), _source, native=True)


def evaluated(group: str, *arguments: float) -> list[float]:
    """Return the rows of a group, in order."""
    out = np.empty(algebra().ROWS[group])
    getattr(algebra(), group)(*arguments, out)
    return [float(value) for value in out]


def latex_names() -> dict[Any, str]:
    """Symbol -> LaTeX."""
    import sympy as sp

    names = {sp.Symbol(name, real=True): text for name, text in _LATEX.items()}
    return names | {sp.Symbol("Ef", real=True): r"\langle f_\star\rangle"}
