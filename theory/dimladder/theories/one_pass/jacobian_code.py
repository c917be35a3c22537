"""The Jacobian of the derived flow as a numba module of its own, compiled when first asked for.

Every rate is a polynomial in the moments, the overlaps and the readouts. Its gradient in the covariance C of all fields
and in the weights c collects, for each moment, the gradients of the averages it sums (`symbolic.adjoints`), and is then
read off for the components of the state. Moments themselves are computed by the loops of `generate`.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from ...symbolic.adjoints import partial_derivative
from ...symbolic.kernels import KernelWriter, MomentCall
from ...symbolic.loops import INDENT, LoopWriter
from ...symbolic.printing import JAC_SIGNATURE, header
from ...symbolic.tensors import Tensor
from .derivation import Derived
from .layout import (
    LANES,
    SCALARS,
    VIEWS,
    array_elements,
    buffer_views,
    indented,
    library,
    load_source,
    moment_views,
    place_of,
    scalar_writer,
    scalars,
    scratch_size,
    stage_lines,
)
from .notation import A, a, c

SCATTER = '''@njit(**OPTIONS)
def scatter(G, gc, K, trained, row):
    """Read off the gradient in the state (Q, M, a) from that in C and c."""
    N = G.shape[0]
    place = 0
    for i in range(K):
        for k in range(i + 1):
            row[place] = G[i, i] if i == k else G[i, k] + G[k, i]
            place += 1
    for i in range(K):
        for m in range(K, N):
            row[place] = G[i, m] + G[m, i]
            place += 1
    if trained:
        for i in range(K):
            row[place + i] = gc[i]
    G[:] = 0.0
    gc[:] = 0.0
'''


def jacobian_source(out: Derived, calls: Derived) -> str:
    """Return the source of ``jac(t, y, J, p, work)``.

    Parameters
    ----------
    out : Derived
        The equations whose loops compute the moments.
    calls : Derived
        The same equations with every average a call of a kernel, to be differentiated.
    """
    arrays = array_elements()
    loops = LoopWriter(out.indices, arrays, scalar_writer())
    body = stage_lines(loops, out.moments)
    single = LoopWriter(calls.indices, arrays, scalar_writer("math.asin"))
    rates = Rates(calls, single)
    gradients = rates.functions()
    kernels = KernelWriter(calls.kernels, single.scalar, "@njit(**INNER)").gradient_source()
    if out.kernels.kernels:
        # The loops for the moments call the kernels' values.
        kernels = [*KernelWriter(out.kernels, single.scalar, "@njit(**INNER)").source(), *kernels]
    lines = [header("Jacobian of online SGD", out.setting.schedule != 1), *library(kernels), *kernels]
    lines += [load_source(out.setting.train_readout), "", SCATTER, "", *gradients]
    lines += [f"@njit({JAC_SIGNATURE}, **FAST)", "def jac(t, y, J, p, work):", VIEWS.rstrip()]
    lines += ["    G = work[place:place + N * N].reshape((N, N))", "    place += N * N"]
    lines += ["    gc = work[place:place + N]", "    place += N"]
    lines += moment_views(out.moments) + buffer_views(loops) + ["    load(y, p, C, c)", *scalars(out)]
    lines += ["    G[:] = 0.0", "    gc[:] = 0.0"]
    lines += indented([*body, *rates.rows()])
    lines += ["", "", "def work_size(K, M):", '    """Return the length of the scratch array for these widths."""']
    lines += [
        "    N = K + M",
        f"    {LANES}",
        f"    return 2 * N * N + 2 * N + K * N + K * K + K + {scratch_size(loops)}",
    ]
    return "\n".join(lines) + "\n"


class Rates:
    """Gradients of the moments and of the rates, as printed functions and loops."""

    def __init__(self, calls: Derived, writer: LoopWriter) -> None:
        self.calls, self.writer = calls, writer
        self.moments = {self._key(stage.lhs): stage for stage in calls.moments}
        self.trained = calls.setting.train_readout

    @staticmethod
    def _key(entry: Any) -> tuple[str, tuple[Any, ...]]:
        """Name of a moment; fixed teacher fields have moments of their own."""
        return str(entry.base), tuple(q for q in entry.indices if q.is_Integer)

    def functions(self) -> list[str]:
        """Return ``gradient_D(C, c, K, N, p, i, k, weight, G, gc)`` and its like."""
        lines: list[str] = []
        for stage in self.moments.values():
            loops = [q for q in stage.lhs.indices if not q.is_Integer]
            head = ", ".join(["C", "c", "K", "N", "p", *map(str, loops), "weight", "G", "gc"])
            lines += ["@njit(**INNER)", f"def {self._name(stage.lhs)}({head}):"]
            lines += [f"{INDENT}{s} = p[{2 + q}]" for q, s in enumerate(SCALARS) if s in stage.rhs.free_symbols]
            for term in sp.Add.make_args(stage.rhs):
                lines += [INDENT + line for line in self._term(term)]
            lines += ["", ""]
        return lines

    def _name(self, entry: Any) -> str:
        name, fixed = self._key(entry)
        return f"gradient_{name}" + "".join(map(str, fixed))

    def _term(self, term: Any) -> list[str]:
        """Return the loops that add the gradient of one sum of weight x average."""
        sums = [f for f in sp.Mul.make_args(term) if isinstance(f, sp.Sum)]
        outer = sp.Mul(*(f for f in sp.Mul.make_args(term) if f not in sums))
        function, over = (sums[0].function, [lim[0] for lim in sums[0].limits]) if sums else (term, [])
        outer = outer if sums else sp.Integer(1)
        (call,) = function.atoms(MomentCall)
        weight = function / call
        half = len(over) == 2 and self.writer.symmetric(function, *over)
        lines, indent = [], ""
        for depth, index in enumerate(over):
            span = self.writer.indices.ranges[index]
            stop = f"{over[0]} + 1" if half and depth else span.stop
            lines.append(f"{indent}for {index} in range({span.start}, {stop}):")
            indent += INDENT
        scalar = self.writer.scalar
        factor = f"weight * ({scalar(outer)})"
        if half:
            factor += f" * (1.0 if {over[0]} == {over[1]} else 2.0)"
        places = ", ".join(map(place_of, call.args))
        lines += [
            f"{indent}factor = {factor}",
            f"{indent}value = {call.kernel.name}_gradient(C, K, {places}, factor * ({scalar(weight)}), G)",
        ]
        if self.trained:
            for entry in sorted(weight.atoms(sp.Indexed), key=str):
                if entry.base in (c, a):
                    slope = scalar(partial_derivative(weight, entry))
                    lines.append(f"{indent}gc[{entry.indices[0]}] += factor * ({slope}) * value")
        return lines

    def rows(self) -> list[str]:
        """Return the loops over the rates that fill the rows of the Jacobian."""
        lines: list[str] = []
        for stage in self.calls.flow:
            loops = [q for q in stage.lhs.indices if not q.is_Integer]
            indent = ""
            lines += ["", f"# {stage.lhs}"]
            for depth, index in enumerate(loops):
                span = self.calls.indices.ranges[index]
                stop = f"{loops[0]} + 1" if stage.symmetric and depth else span.stop
                lines.append(f"{indent}for {index} in range({span.start}, {stop}):")
                indent += INDENT
            lines += [indent + line for line in self._row(stage)]
        return lines

    def _row(self, stage: Tensor) -> list[str]:
        lines = []
        for entry in sorted(stage.rhs.atoms(sp.Indexed), key=str):
            slope = self.writer.scalar(partial_derivative(stage.rhs, entry))
            name = str(entry.base)
            if self._key(entry) in self.moments or name in ("D", "N", "H"):
                places = ", ".join(map(str, (q for q in entry.indices if not q.is_Integer)))
                target = self._name(entry)
                lines.append(f"{target}(C, c, K, N, p, {places}, {slope}, G, gc)")
            elif name in ("C", "Q", "M"):
                lines.append(f"{self.writer.scalar(entry).replace('C[', 'G[', 1)} += {slope}")
            elif entry.base in (c, a) and self.trained:
                lines.append(f"gc[{entry.indices[0]}] += {slope}")
            else:
                assert entry.base in (A, a, c), f"an entry of an unknown kind: {entry}"
        place = self.writer.element(stage.lhs)[len("dy[") : -1]
        return [*lines, f"scatter(G, gc, K, {self.trained}, J[{place}])"]
