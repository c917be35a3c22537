"""Printed code of the averages of one source: ``averages`` and ``errors`` for the generated module of a flow.

    averages(K, M, mu, C, c, y0, sigma, rule, work, G, H, N2, R)
    errors(K, M, mu, C, c, y0, sigma, rule, work, out)

``mu`` (N), ``C`` (N, N) and ``c`` (N) are those of the K students and M teachers of the source, N = K + M: weights
``(mask a, -A)``, label ``y0`` and standard deviation ``sigma`` of the label noise. ``rule`` is the quadrature, where
there is one. ``out`` becomes (E[(f - f*)^2]/2 without noise, the share of samples whose sign is wrong, E[loss]).
"""

from __future__ import annotations

from collections.abc import Sequence
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
    return closed_functions(averages) if averages.route == "closed" else Quadrature(averages).functions()


def elements() -> dict[str, Any]:
    """Return where the entries of each indexed quantity stand."""
    arrays: dict[str, Any] = {"c": "c", "a": "c", "N": "N2", "S": "S", "G": "G", "R": "R"}
    arrays["C"] = SymmetricArray(covariance_element)
    arrays["A"] = lambda m: f"(-c[{m}])"
    arrays["H"] = lambda i, p: f"H[{i}, {place_of(p)}]"
    arrays[str(MU)] = lambda p: f"mu[{place_of(p)}]"
    return arrays


def closed_source(
    averages: Any, arrays: dict[str, Any], stages: Sequence[Any], error: Any, *,
    head: list[str], before: list[str], half: str, errors: list[str], own: str, share: str, signs: list[str],
) -> list[str]:  # fmt: skip
    """Return the source of all functions of averages in closed form, of one output or of several.

    Parameters
    ----------
    averages : SourceAverages or VectorAverages
    arrays : dict
        Where the entries of each indexed quantity stand.
    stages, error
        Their definitions in order, and the expression whose average is an error.
    head, before : list of str
        What precedes the loops over the definitions, and over the error.
    half : str
        Parameters of ``half_square``, the error; ``errors`` fill ``out[0]`` with it.
    own : str
        Length of what `head` takes of the scratch array.
    share : str
        The share of wrong answers, and in `signs` its source; ``math.nan`` and nothing where it is not asked for.
    """
    loops, observe = (LoopWriter(averages.indices, arrays, scalar_writer()) for _ in range(2))
    single = LoopWriter(averages.indices, arrays, scalar_writer("math.asin"))
    body = stage_lines(loops, list(stages))
    mean = observe.scalar_sum(error)
    kernels = KernelWriter(averages.averages.kernels, single.scalar, "@njit(**INNER)").source()
    size = scratch_size(loops, observe)
    lines = ["@njit(**INNER)", AVERAGES, *head, *buffer_views(loops), *indented(body), "", ""]
    lines += ["@njit(**INNER)", f"def half_square({half}):", *before, *buffer_views(observe), *indented(mean), "", ""]
    lines += ["@njit(**INNER)", ERRORS, *errors, f"    out[1] = {share}", "    out[2] = math.nan", "", ""]
    lines += ["@njit(**INNER)", "def averages_work_size(K, M):", "    N = K + M", f"    {LANES}"]
    lines += [f"    return {own} + {f'max({size}, N * N + quadrature_work(N))' if signs else size}"]
    return [*library([*kernels, *lines]), *signs, *kernels, *lines]


def closed_functions(averages: SourceAverages) -> list[str]:
    """Return the source of all functions where the averages have closed forms."""
    written = {TARGET_WEIGHT: sp.Symbol("A_star", real=True)}
    stages = [replace(stage, rhs=stage.rhs.xreplace(written)) for stage in averages.definitions]
    head = ["    N = K + M", "    S = work[:K]", "    place = K"]
    if averages.setting.target is not None:
        head.append("    A_star = -c[K]")
    return closed_source(
        averages, elements(), stages, averages.error.xreplace(written), head=head, before=head,
        half="K, M, mu, C, c, y0, work", errors=["    out[0] = half_square(K, M, mu, C, c, y0, work)"], own="K",
        share="wrong_share(K, M, mu, C, c, y0, rule, work)" if averages.signs else "math.nan",
        signs=Quadrature(averages).signs() if averages.signs else [],
    )  # fmt: skip


def summed_functions(averages: SourceAverages) -> list[str]:
    """Return the source of all functions where activations are sums of erfs."""
    assert averages.sums is not None
    erfs = closed_functions(replace(averages, signs=False, sums=None))
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
