"""Pieces that all generated modules of this theory are printed with: layouts, views, scalars, the scalar printer.

State ``y``: Q (lower triangle, row by row), M (row by row), then a where it is trained.
Parameters ``p``: K, M, eta, eta_a, sigma, kappa, kappa_a, B, where the schedule's code lies (0: there is none), then
A (M), T (M x M), a (K; the frozen readout), and what the route of the averages adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...numerics.pasted import asin_text
from ...symbolic.kernels import MomentCall
from ...symbolic.loops import INDENT, LANE_WIDTH, LoopWriter, SymmetricArray
from ...symbolic.nodes import (
    Correlation,
    DensityAtZero,
    DensityOfZero,
    Given,
    Schur,
    ShiftedSignMoment4,
    SignMoment2,
    SignMoment3,
    SignMoment4,
    SignSlope4,
    Threshold,
)
from ...symbolic.printing import printer
from ...symbolic.tensors import Tensor
from . import notation as d
from .derivation import Derived

SCALARS = (d.eta, d.eta_a, d.sigma, d.kappa, d.kappa_a, d.batch)
SCHEDULE = 2 + len(SCALARS)
# Where the arrays begin.
FIRST = SCHEDULE + 1

LOAD = '''@njit(**INNER)
def load(y, p, C, c):
    """Fill the covariance C of all fields and the weights c = (a, -A) from state and parameters."""
    K = int(p[0])
    M = int(p[1])
    N = K + M
    place = 0
    for i in range(K):
        for k in range(i + 1):
            C[i, k] = y[place]
            C[k, i] = y[place]
            place += 1
    for i in range(K):
        for m in range(K, N):
            C[i, m] = y[place]
            C[m, i] = y[place]
            place += 1
    for m in range(M):
        c[K + m] = -p[{scalars} + m]
        for n in range(M):
            C[K + m, K + n] = p[{scalars} + M + m * M + n]
    for i in range(K):
        c[i] = {readout}
'''

VIEWS = """    K = int(p[0])
    M = int(p[1])
    N = K + M
    C = work[:N * N].reshape((N, N))
    place = N * N
    c = work[place:place + N]
    place += N
"""
# Where the parameters of the route begin.
AFTER = f"{FIRST} + M + M * M + K"
# One lane for each pair of students, padded for SIMD.
LANES = f"lanes = (K * (K + 1) // 2 + {LANE_WIDTH - 1}) // {LANE_WIDTH} * {LANE_WIDTH}"


def array_elements() -> dict[str, Any]:
    """Return where the entries of each indexed quantity stand in the generated code."""
    arrays: dict[str, Any] = {"c": "c", "a": "c", "N": "NN", "H": "H"}
    arrays |= dict.fromkeys(("C", "Q", "M", "T"), SymmetricArray(covariance_element))
    arrays["D"] = lambda i, b: f"D[{place_of(i)}, {place_of(b)}]"
    arrays["A"] = lambda m: f"(-c[{m}])"
    arrays["dQ"] = lambda i, k: f"dy[{i} * ({i} + 1) // 2 + {k}]"
    arrays["dM"] = lambda i, m: f"dy[K * (K + 1) // 2 + {i} * M + {place_of(m)} - K]"
    arrays["da"] = lambda i: f"dy[K * (K + 1) // 2 + K * M + {i}]"
    return arrays


def load_source(trained: bool) -> str:
    """Return the source of ``load(y, p, C, c)``."""
    return LOAD.format(scalars=FIRST, readout="y[place + i]" if trained else f"p[{FIRST} + M + M * M + i]")


def library(kernels: list[str]) -> list[str]:
    """Return the source of the special functions that printed kernels may call."""
    lines = [asin_text(), ""]
    if any("correlation" in line or "sign_moment4(" in line for line in kernels):
        from ...numerics.orthant import ORTHANT_SOURCE

        lines += ["", ORTHANT_SOURCE, ""]
    return lines


def covariance_element(first: Any, second: Any) -> str:
    return f"C[{place_of(first)}, {place_of(second)}]"


def place_of(index: Any) -> str:
    """Return where a field lies in C: index symbols run over it; fixed teacher fields count from 1."""
    if hasattr(index, "place"):
        return str(index.place())
    return f"K + {int(index) - 1}" if getattr(index, "is_Integer", False) else str(index)


def moment_views(moments: list[Tensor]) -> list[str]:
    shapes = {
        "D": ("D", "K * N", "(K, N)"), "L": ("L", "K * K", "(K, K)"), "N": ("NN", "K * K", "(K, K)"),
        "H": ("H", "K", ""),
    }  # fmt: skip
    lines = []
    for name, size, shape in dict.fromkeys(shapes[str(stage.lhs.base)] for stage in moments):
        view = f"work[place:place + {size}]" + (f".reshape({shape})" if shape else "")
        lines += [f"    {name} = {view}", f"    place += {size}"]
    return lines


def views(buffers: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the lines that make arrays of these shapes parts of ``work``, from ``place`` on."""
    lines = []
    for name, shape in buffers.items():
        size = " * ".join(shape)
        view = f"work[place:place + {size}]" + (f".reshape(({', '.join(shape)}))" if len(shape) > 1 else "")
        lines += [f"{name} = {view}", f"place += {size}"]
    return lines


def length(buffers: Mapping[str, tuple[str, ...]]) -> str:
    """Return the source of the length that arrays of these shapes need."""
    return " + ".join(["0", *(" * ".join(shape) for shape in buffers.values())])


def buffer_views(loops: LoopWriter) -> list[str]:
    lanes = [LANES] if any(loops.LANES in shape for shape in loops.buffers.values()) else []
    return indented([*lanes, *views(loops.buffers)])


def indented(lines: Iterable[str]) -> list[str]:
    """Return the lines of a function's body."""
    return [INDENT + line if line else "" for line in lines]


def stage_lines(loops: LoopWriter, stages: Iterable[Tensor]) -> list[str]:
    """Return the loops that fill each tensor, under its name."""
    lines = []
    for stage in stages:
        lines += ["", f"# {stage.lhs}" + (" (symmetric)" if stage.symmetric else ""), *loops.tensor(stage)]
    return lines


def scratch_size(*writers: LoopWriter) -> str:
    """Return the source of the length that the buffers need of writers that work one after the other."""
    sizes = [length(w.buffers) for w in writers]
    return sizes[0] if len(sizes) == 1 else f"max({', '.join(sizes)})"


def scalars(out: Derived) -> list[str]:
    used = set().union(*(s.rhs.free_symbols for s in [*out.moments, *out.flow]))
    lines = [f"    {s} = p[{2 + k}]" for k, s in enumerate(SCALARS) if s in used]
    if out.setting.schedule != 1:
        lines += [f"    schedule_at = as_time(0, int(p[{SCHEDULE}]))", "    schedule = schedule_at(t)"]
        lines += [f"    {s} *= schedule" for s in (d.eta, d.eta_a) if s in used]
    return lines


def scalar_writer(arcsine: str = "asin") -> Callable[[Any, Callable[[Any], str]], str]:
    base = type(printer())

    class TensorPrinter(base):  # type: ignore[misc, valid-type]
        """Prints array elements through the loop writer, and the vectorisable arcsine."""

        element: Callable[[Any], str]

        def _print_Indexed(self, expr: Any) -> str:
            return self.element(expr)

        def _print_asin(self, expr: Any) -> str:
            if isinstance(expr.args[0], Correlation):
                return f"correlation_angle({', '.join(self._print(a) for a in expr.args[0].args)})"
            return f"{arcsine}({self._print(expr.args[0])})"

        def _print_Function(self, expr: Any) -> str:
            if isinstance(expr, MomentCall):
                given = ", ".join(expr.kernel.given)
                return f"{expr.kernel.name}({given}, {', '.join(map(place_of, expr.args))})"
            return str(super()._print_Function(expr))

        def _print_Schur(self, expr: Schur) -> str:
            return f"schur({', '.join(self._print(a) for a in expr.args)})"

        def _print_Given(self, expr: Given) -> str:
            b, c, *fixed = (place_of(a) for a in expr.args)
            return f"given(C, {b}, {c}, {', '.join((*fixed, '-1')[:2])})"

        def _print_Correlation(self, expr: Correlation) -> str:
            return f"correlation({', '.join(self._print(a) for a in expr.args)})"

        def _print_KroneckerDelta(self, expr: Any) -> str:
            one, two = map(place_of, expr.args)
            return f"(1.0 if {one} == {two} else 0.0)"

        def _print_SignMoment2(self, expr: SignMoment2) -> str:
            return f"sign_moment2({', '.join(self._print(a) for a in expr.args)})"

        def _print_SignMoment3(self, expr: SignMoment3) -> str:
            return f"sign_moment3({', '.join(self._print(a) for a in expr.args)})"

        def _print_ShiftedSignMoment4(self, expr: ShiftedSignMoment4) -> str:
            return f"shifted_sign_moment4({', '.join(self._print(a) for a in expr.args)})"

        def _print_Threshold(self, expr: Threshold) -> str:
            return f"threshold({', '.join(self._print(a) for a in expr.args)})"

        def _print_DensityOfZero(self, expr: DensityOfZero) -> str:
            return f"density_of_zero({', '.join(self._print(a) for a in expr.args)})"

        def _print_SignMoment4(self, expr: SignMoment4) -> str:
            return f"sign_moment4({', '.join(self._print(a) for a in expr.args)})"

        def _print_SignSlope4(self, expr: SignSlope4) -> str:
            return f"sign_slope4({', '.join(self._print(a) for a in expr.args)})"

        def _print_DensityAtZero(self, expr: DensityAtZero) -> str:
            return f"density_at_zero({self._print(expr.args[0])})"

    write = TensorPrinter({"fully_qualified_modules": True, "strict": False})

    def scalar(expression: Any, element: Callable[[Any], str]) -> str:
        write.element = element
        # A name that is given a whole number would be one of whole numbers.
        return f"{int(expression)}.0" if expression.is_Integer else write.doprint(expression)

    return scalar
