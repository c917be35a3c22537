"""Printed code of the averages of one source for several outputs; the face of `source_code`, with vectors.

    averages(K, M, mu, C, c, y0, sigma, rule, work, G, H, N2, R)
    errors(K, M, mu, C, c, y0, sigma, rule, work, out)

``c`` (Y, N) holds the weights ``(mask a, -A)`` of all fields output by output, ``y0`` (Y) the label, ``R`` is (Y, K).
``out`` becomes (E|f - f*|^2/2 without noise, the share of samples whose largest output is another than the label's,
E[loss]).
"""

from __future__ import annotations

from typing import Any

from ...symbolic.kernels import KernelWriter
from ...symbolic.loops import LoopWriter, SymmetricArray
from .layout import (
    LANES,
    buffer_views,
    covariance_element,
    indented,
    place_of,
    scalar_writer,
    scratch_size,
    stage_lines,
)
from .source_averages import MU
from .source_code import AVERAGES, ERRORS, library
from .vector_averages import VectorAverages
from .vector_quadrature import VectorQuadrature


def vector_functions(averages: VectorAverages) -> list[str]:
    """Return the source of ``averages``, ``errors`` and ``averages_work_size``, and of all that they call."""
    return (VectorClosed(averages) if averages.route == "closed" else VectorQuadrature(averages)).functions()


def elements() -> dict[str, Any]:
    """Return where the entries of each indexed quantity stand."""
    arrays: dict[str, Any] = {"N": "N2", "S": "S", "G": "G", "R": "R", "y0": "y0", "y": "unit_label"}
    arrays["C"] = SymmetricArray(covariance_element)
    arrays["c"] = lambda o, p: f"c[{o}, {place_of(p)}]"
    arrays["U"] = lambda i, p: f"U[{i}, {place_of(p)}]"
    arrays["H"] = lambda i, p: f"H[{i}, {place_of(p)}]"
    arrays[str(MU)] = lambda p: f"mu[{place_of(p)}]"
    return arrays


class VectorClosed:
    """Averages in closed form: loops over units, and kernels where they are not written out."""

    def __init__(self, averages: VectorAverages) -> None:
        self.averages = averages
        names, arrays = averages.indices, elements()
        self.loops, self.observe = (LoopWriter(names, arrays, scalar_writer()) for _ in range(2))
        single = LoopWriter(names, arrays, scalar_writer("math.asin"))
        self.stages = stage_lines(self.loops, averages.definitions)
        self.sum = self.observe.scalar_sum(averages.error_of_output)
        self.kernels = KernelWriter(averages.averages.kernels, single.scalar, "@njit(**INNER)").source()

    def functions(self) -> list[str]:
        """Return the source of all functions."""
        head = ["    N, Y = K + M, c.shape[0]", "    S = work[:K]", "    unit_label = work[K:2 * K]"]
        head += ["    U = work[2 * K:2 * K + K * N].reshape((K, N))", "    place = 2 * K + K * N"]
        body = [*head, *buffer_views(self.loops), *indented(self.stages), "", ""]
        half = [
            "    N, Y = K + M, c.shape[0]",
            "    place = 0",
            *buffer_views(self.observe),
            *indented(self.sum),
            "",
            "",
        ]
        size = scratch_size(self.loops, self.observe)
        wanted = self.averages.classes
        share = "wrong_share(K, M, mu, C, c, y0, rule[1 + int(rule[0]):], work)" if wanted else "math.nan"
        lines = ["@njit(**INNER)", AVERAGES, *body]
        lines += ["@njit(**INNER)", "def half_square(o, K, M, mu, C, c, y0, work):", *half]
        lines += ["@njit(**INNER)", ERRORS, "    out[0] = 0.0", "    for o in range(c.shape[0]):"]
        lines += ["        out[0] += half_square(o, K, M, mu, C, c, y0, work)"]
        lines += [f"    out[1] = {share}", "    out[2] = math.nan", "", ""]
        lines += ["@njit(**INNER)", "def averages_work_size(K, M):", "    N = K + M", f"    {LANES}"]
        room = f"max({size}, N * N + quadrature_work(N))" if wanted else size
        lines += [f"    return 2 * K + K * N + {room}"]
        signs = VectorQuadrature(self.averages).signs() if wanted else []
        return [*library([*self.kernels, *lines]), *signs, *self.kernels, *lines]
