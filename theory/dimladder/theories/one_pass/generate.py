"""The derived equations as one self-contained numba module; widths are parameters, so one module serves every K and M.

The layout of state and parameters stands in `printed`.
"""

from __future__ import annotations

import logging

from ...symbolic.kernels import KernelWriter
from ...symbolic.loops import LoopWriter
from ...symbolic.printing import OBSERVE_SIGNATURE, RHS_SIGNATURE, header
from .derivation import EXPANDED_DEGREE, Derived
from .erf_sums_code import Mixture
from .layout import (
    AFTER,
    LANES,
    VIEWS,
    array_elements,
    buffer_views,
    indented,
    library,
    load_source,
    moment_views,
    scalar_writer,
    scalars,
    scratch_size,
    stage_lines,
)
from .quadrature_code import Conditional, Fields, quadrature_of

log = logging.getLogger("dimladder.online_sgd")


def source(out: Derived, title: str) -> str:
    """Return the source of ``rhs`` and ``generalization_error`` for derived equations."""
    if out.polynomial_degree > EXPANDED_DEGREE:
        log.info("degree %d: four-point functions by exact contraction over Hermite modes", out.polynomial_degree)
    arrays = array_elements()

    def writer() -> LoopWriter:
        return LoopWriter(out.indices, arrays, scalar_writer())

    loops, observe = writer(), writer()
    # Straight-line code calls the library's arcsine: pasting in the vectorisable one many times costs compilation.
    single = LoopWriter(out.indices, arrays, scalar_writer("math.asin"))
    # What computes the moments where they are not loops over closed forms.
    other: Conditional | Fields | Mixture | None = quadrature_of(out, AFTER)
    kernels = [] if other else KernelWriter(out.kernels, single.scalar, "@njit(**INNER)").source()
    if out.setting.mixture:
        other = Mixture(out, AFTER, writer, kernels)
    functions = other.functions() if other else kernels
    lines = [header(title, out.setting.schedule != 1), *library(functions)]
    lines += [*functions, "", load_source(out.setting.train_readout), ""]

    body = other.moments() if other else []
    body += stage_lines(loops, [*([] if other else out.moments), *out.flow])
    lines += [f"@njit({RHS_SIGNATURE}, **FAST)", "def rhs(t, y, dy, p, work):", VIEWS.rstrip()]
    lines += moment_views(out.moments) + buffer_views(loops) + ["    load(y, p, C, c)", *scalars(out)]
    lines += indented(body)

    code = other.error() if other else observe.scalar_sum(out.generalization_error)
    lines += ["", "", f"@njit({OBSERVE_SIGNATURE}, **FAST)", "def generalization_error(y, p, work):"]
    lines += [VIEWS.rstrip(), *buffer_views(observe), "    load(y, p, C, c)"]
    lines += indented(code)
    lines += ["", "", f"ROUTE = {out.route!r}", f"POLYNOMIAL_DEGREE = {out.polynomial_degree}"]
    lines += other.observables() if other else []
    if out.setting.mixture:
        return "\n".join(lines) + "\n"
    lines += ["", "", "def work_size(K, M):", '    """Return the length of the scratch array for these widths."""']
    lines += [
        "    N = K + M",
        f"    {LANES}",
        f"    return N * N + N + K * N + K * K + K + {scratch_size(loops, observe)}",
    ]
    return "\n".join(lines) + "\n"
