"""Printed code of the averages of one source: ``averages`` and ``errors`` for the generated module of a flow.

    averages(K, M, mu, C, c, y0, sigma, rule, work, G, H, N2, R)
    errors(K, M, mu, C, c, y0, sigma, rule, work, out)

``mu`` (N), ``C`` (N, N) and ``c`` (N) are those of the K students and M teachers of the source, N = K + M: weights
``(mask a, -A)``, label ``y0`` and standard deviation ``sigma`` of the label noise. ``rule`` is the quadrature, where
there is one. ``out`` becomes (E[(f - f*)^2]/2 without noise, the share of samples whose sign is wrong, E[loss]).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sympy as sp

from ...numerics.orthant import ORTHANT_SOURCE
from ...numerics.special import ASIN_SOURCE
from ...numerics.thresholds import KINK_SOURCE, THRESHOLD_SOURCE
from ...symbolic.kernels import KernelWriter
from ...symbolic.loops import LoopWriter, SymmetricArray
from .episode_averages import EPISODE_SOURCE
from .erf_sums_code import source_sums
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
from .source_averages import MU, TARGET_WEIGHT, SourceAverages
from .source_quadrature import Quadrature

AVERAGES = "def averages(K, M, mu, C, c, y0, sigma, rule, work, G, H, N2, R):"
ERRORS = "def errors(K, M, mu, C, c, y0, sigma, rule, work, out):"


def source_functions(averages: SourceAverages) -> list[str]:
    """Return the source of ``averages``, ``errors`` and ``averages_work_size``, and of all that they call."""
    if averages.episodes:
        return [EPISODE_SOURCE]
    if averages.sums is not None:
        return summed_functions(averages)
    return (Closed(averages) if averages.route == "closed" else Quadrature(averages)).functions()


def elements() -> dict[str, Any]:
    """Return where the entries of each indexed quantity stand."""
    arrays: dict[str, Any] = {"c": "c", "a": "c", "N": "N2", "S": "S", "G": "G", "R": "R"}
    arrays["C"] = SymmetricArray(covariance_element)
    arrays["A"] = lambda m: f"(-c[{m}])"
    arrays["H"] = lambda i, p: f"H[{i}, {place_of(p)}]"
    arrays[str(MU)] = lambda p: f"mu[{place_of(p)}]"
    return arrays


class Closed:
    """Averages in closed form: loops over units, and kernels where they are not written out."""

    def __init__(self, averages: SourceAverages) -> None:
        self.averages = averages
        names, arrays = averages.indices, elements()
        self.loops, self.observe = (LoopWriter(names, arrays, scalar_writer()) for _ in range(2))
        single = LoopWriter(names, arrays, scalar_writer("math.asin"))
        written = {TARGET_WEIGHT: sp.Symbol("A_star", real=True)}
        stages = [replace(stage, rhs=stage.rhs.xreplace(written)) for stage in averages.definitions]
        self.stages = stage_lines(self.loops, stages)
        self.sum = self.observe.scalar_sum(averages.error.xreplace(written))
        self.kernels = KernelWriter(averages.averages.kernels, single.scalar, "@njit(**INNER)").source()

    def functions(self) -> list[str]:
        """Return the source of all functions."""
        head = ["    N = K + M", "    S = work[:K]", "    place = K"]
        if self.averages.setting.target is not None:
            head.append("    A_star = -c[K]")
        body = [*head, *buffer_views(self.loops), *indented(self.stages), "", ""]
        half = [*head, *buffer_views(self.observe), *indented(self.sum), "", ""]
        size = scratch_size(self.loops, self.observe)
        lines = ["@njit(**INNER)", AVERAGES, *body]
        lines += ["@njit(**INNER)", "def half_square(K, M, mu, C, c, y0, work):", *half]
        lines += ["@njit(**INNER)", ERRORS, "    out[0] = half_square(K, M, mu, C, c, y0, work)"]
        share = "wrong_share(K, M, mu, C, c, y0, rule, work)" if self.averages.signs else "math.nan"
        lines += [f"    out[1] = {share}", "    out[2] = math.nan", "", ""]
        lines += ["@njit(**INNER)", "def averages_work_size(K, M):", "    N = K + M", f"    {LANES}"]
        room = f"max({size}, N * N + quadrature_work(N))" if self.averages.signs else size
        lines += [f"    return K + {room}"]
        signs = Quadrature(self.averages).signs() if self.averages.signs else []
        return [*library([*self.kernels, *lines]), *signs, *self.kernels, *lines]


def summed_functions(averages: SourceAverages) -> list[str]:
    """Return the source of all functions where activations are sums of erfs."""
    assert averages.sums is not None
    erfs = Closed(replace(averages, signs=False, sums=None)).functions()
    signs = []
    if averages.signs:
        assert averages.summed is not None
        signs = Quadrature(replace(averages, setting=averages.summed, sums=None)).signs()
    return source_sums(averages.sums, erfs, averages.centred, signs)


def library(lines: list[str]) -> list[str]:
    """Return the source of the special functions that printed code calls."""
    text = "\n".join(lines)
    out = [ASIN_SOURCE, ""]
    # A kink with means needs all three; what is centred, or smooth, one of them.
    kinked = any(name in text for name in ("threshold(", "density_of_zero(", "sign_moment3("))
    if kinked or any(name in text for name in ("correlation", "schur(", "sign_moment4(", "density_at_zero(")):
        out += ["", ORTHANT_SOURCE, ""]
    if kinked or "sign_moment2(" in text:
        out += ["", THRESHOLD_SOURCE, ""]
    if kinked:
        out += ["", KINK_SOURCE, ""]
    return [*out, ""]
