"""The formulas of a problem as the theory needs them: kinks, symbols, and the compiled gradient of a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...numerics.scalars import ndtri
from ...problem import Expression
from ...problem.descent import Formulas

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Model(Formulas):
    """The formulas with what the theory needs beside their values."""

    def kink_planes(self) -> tuple[list[tuple[Array, float]], bool]:
        """Return where labels are not smooth, planes ``a . (fields, noises) = c``, and whether that is everywhere."""
        m, total = len(self.fields), self.sources
        planes, everywhere = [], not self.logit
        if self.target is None:
            assert self.unit is not None
            planes = [(row, k) for row in np.eye(total)[:m] for k in self.unit.kinks("x")]
        else:
            used = [(*self.fields, *self.noises).index(v) for v in self.target.variables]
            for slope, level in self.target.kink_planes():
                row = np.zeros(total)
                row[used] = slope
                planes.append((row, level))
            everywhere &= self.target.kinks_are_planes()
        if self.flip > 0:
            planes.append((np.eye(total)[m + len(self.noises) + self.logit], float(ndtri(self.flip))))
        return planes, everywhere

    def one_field(self) -> tuple[Expression, str, Array] | None:
        """Return (h, its variable, c) where the formula of the label is sum_m c_m h(z_m), else None."""
        if self.target is None:
            assert self.unit is not None
            return self.unit, "x", np.array(self.readout)
        if not self.logit and len(self.target.variables) == 1 and self.target.variables[0] in self.fields:
            variable = self.target.variables[0]
            return self.target, variable, np.array([float(v == variable) for v in self.fields])
        return None

    def quiet(self) -> Model:
        """Return the model without what is random beside fields and noises of the formula."""
        return replace(self, logit=False, flip=0.0, noise=0.0)

    @property
    def curved(self) -> bool:
        """Whether activation and loss have second derivatives everywhere."""
        return not self.activation.kinks("x") and not self.loss.kink_planes() and self.loss.kinks_are_planes()

    def module(self) -> ModuleType:
        """Return the generated module whose ``respond`` is the gradient of a sample (`march.RESPOND`)."""
        return self._module("multi-pass", self.source)

    def curved_module(self) -> ModuleType:
        """Return the module whose ``respond`` gives second derivatives too.

        ``respond(lam, y, a, slope, pull, curvature, sums)``: slope[k] = dl/dlam_k, pull[k] = dl/da_k and
        curvature[k, l] = d^2l/dlam_k dlam_l of every sample; adds to sums the loss and the number of wrong signs.
        """
        return self._module("multi-pass-curved", self.curved_source)

    def _module(self, name: str, source: Callable[[], str]) -> ModuleType:
        from ...symbolic import store

        key = (name, self.students, self.activation.text, self.activation.hermite, self.loss.text)
        return store.module(key, source)

    def source(self) -> str:
        """Return the source of `module`."""
        return _source(self, curved=False)

    def curved_source(self) -> str:
        """Return the source of `curved_module`."""
        return _source(self, curved=True)


_FIRST = """
@njit(types.void(types.float64[:, ::1], types.float64[::1], types.uint8[::1], types.float64[::1], types.int64,
                 types.float64[:, ::1], types.float64[::1]), nogil=True, **FAST)
def respond(lam, labels, mask, a, count, u, sums):
"""
_SECOND = """
@njit(types.void(types.float64[:, ::1], types.float64[::1], types.float64[::1], types.float64[:, ::1],
                 types.float64[:, ::1], types.float64[:, :, ::1], types.float64[::1]), nogil=True, **FAST)
def respond(lam, labels, a, slope, pull, curvature, sums):
    count = labels.size
"""


def _source(model: Model, *, curved: bool) -> str:
    """Print the loss of a sample and its derivatives in the fields and the readouts, as one loop over samples."""
    import sympy as sp

    from ...numerics.special import EXP_SOURCE
    from ...problem.expressions import drop_atoms
    from ...symbolic.printing import HEADER, assignments

    def derivatives(function: Any, variable: Any) -> list[Any]:
        # Almost everywhere: a kink has no weight in a first derivative; a second one is taken of smooth functions only.
        out = [_guarded(function)]
        for _ in range(2 if curved else 1):
            out.append(drop_atoms(sp.diff(out[-1], variable)))
        return out

    f, y, x = (sp.Symbol(name, real=True) for name in ("f", "y", "x"))
    unit = assignments(derivatives(model.activation.sympy(x=x), x), "s", " " * 8, lanes=True)
    cost = assignments(derivatives(model.loss.sympy(f=f, y=y), f), "q", " " * 8, lanes=True)
    units = range(model.students)
    what = "Gradient and curvature" if curved else "Gradient"
    lines = [
        HEADER.format(title=f"{what} of the loss of one training sample in its fields and in the readouts"), "",
        EXP_SOURCE, "",
        (_SECOND if curved else _FIRST).rstrip("\n"),
        "    loss, wrong = 0.0, 0.0",
        *(f"    a{k}, pull{k} = a[{k}], 0.0" for k in units),
        "    for p in range(count):",
        "        y = labels[p]",
    ]  # fmt: skip
    for k in units:
        lines += [f"        x = lam[{k}, p]", *unit[0]]
        lines += [f"        {name}{k} = {value}" for name, value in zip("gdc", unit[1], strict=False)]
    lines += ["        f = " + " + ".join(f"a{k}*g{k}" for k in units), *cost[0]]
    lines += [f"        loss += {cost[1][0]}", "        wrong += 1.0 if f*y <= 0.0 else 0.0"]
    if curved:
        lines += [f"        e = {cost[1][1]}", f"        h = {cost[1][2]}"]
        for k in units:
            lines += [f"        slope[{k}, p] = e*a{k}*d{k}", f"        pull[{k}, p] = e*g{k}"]
            for l in units:
                own = f" + e*a{k}*c{k}" if k == l else ""
                lines += [f"        curvature[{k}, {l}, p] = h*a{k}*d{k}*a{l}*d{l}{own}"]
        lines += ["    sums[0] += loss", "    sums[1] += wrong"]
    else:
        lines += [f"        e = mask[p]*({cost[1][1]})"]
        for k in units:
            lines += [f"        u[{k}, p] = e*a{k}*d{k}", f"        pull{k} += e*g{k}"]
        lines += ["    sums[0] += loss", "    sums[1] += wrong", *(f"    sums[{2 + k}] += pull{k}" for k in units)]
    return "\n".join(lines) + "\n"


def _guarded(expression: Any) -> Any:
    """Write log(1 + exp(u)) as a function that does not overflow, and whose slope does not either."""
    import sympy as sp

    class softplus(sp.Function):  # type: ignore[misc]
        def _pythoncode(self, printer: Any) -> str:
            return f"softplus({printer._print(self.args[0])})"

        def fdiff(self, argindex: int = 1) -> Any:
            return (1 + sp.tanh(self.args[0] / 2)) / 2

    return expression.replace(sp.log(1 + sp.exp(sp.Wild("u"))), lambda u: softplus(u))
