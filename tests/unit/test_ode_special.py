"""Special functions of the compiled kernels against mpmath."""

from __future__ import annotations

import math
import re

import mpmath
import numpy as np
import pytest

from dimladder.numerics import special
from dimladder.numerics.basics import OPTIONS, cdf, pdf
from dimladder.numerics.native import Kernel, njit
from dimladder.numerics.native.kernels import FUNCTION_TYPES
from dimladder.numerics.native.machine import optimised, translated
from dimladder.numerics.special import asin, asin_short, erf, exp, softplus, tanh

ROW = "void(f8[::1], f8[::1])"


@njit(ROW, **OPTIONS)
def asin_loop(x, out):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        out[i] = asin(x[i])


@njit(ROW, **OPTIONS)
def exp_loop(x, out):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        out[i] = exp(x[i])


@njit(ROW, **OPTIONS)
def tanh_loop(x, out):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        out[i] = tanh(x[i])


@njit(ROW, **OPTIONS)
def erf_loop(x, out):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        out[i] = erf(x[i])


@njit(ROW, **OPTIONS)
def softplus_loop(x, out):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        out[i] = softplus(x[i])


def machine_code(loop: Kernel) -> str:
    """Return what LLVM makes of a loop."""
    assert loop.signature is not None
    return str(optimised(translated([(loop.__name__, loop, loop.signature)], FUNCTION_TYPES), wide=True))


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    rng = np.random.default_rng(20)
    return np.concatenate(
        [
            rng.uniform(-1, 1, 3000),
            0.5 + rng.uniform(-1e-3, 1e-3, 500),  # the seam between the two branches
            -0.5 - 10.0 ** rng.uniform(-16, -3, 200),
            1 - 10.0 ** rng.uniform(-16, 0, 500),
            10.0 ** rng.uniform(-300, 0, 300),
            [0.5, -0.5, 1.0, -1.0, np.nextafter(1, 0), 5e-324],
        ]
    )


def test_asin_relative_error(points: np.ndarray) -> None:
    with mpmath.workdps(40):
        worst = max(abs(mpmath.mpf(asin.of_numbers(x)) / mpmath.asin(mpmath.mpf(float(x))) - 1) for x in points)
    assert worst < 4e-16


def test_short_asin_relative_error(points: np.ndarray) -> None:
    """To 2e-16 on [-1/2, 1/2] and, to 4e-16, where a variance of one is rounded beyond."""
    with mpmath.workdps(40):
        found = {x: asin_short.of_numbers(x) for x in map(float, points)}
        error = {x: abs(mpmath.mpf(y) / mpmath.asin(mpmath.mpf(x)) - 1) for x, y in found.items()}
    assert max(e for x, e in error.items() if abs(x) <= 0.5) < 2.3e-16
    assert max(e for x, e in error.items() if abs(x) <= 0.5 * (1 + 1e-9)) < 4e-16
    assert math.isnan(asin_short.of_numbers(math.nan))


def test_asin_edges() -> None:
    assert math.copysign(1, asin.of_numbers(-0.0)) == -1
    assert asin.of_numbers(0.0) == 0
    for bad in (math.nan, 1.0000001, -1.5, math.inf):
        assert math.isnan(asin.of_numbers(bad))


def test_asin_is_vectorised() -> None:
    """The point of the function: a loop over it becomes packed SIMD code, with packed square roots."""
    x = np.linspace(-1, 1, 101)
    out = np.empty_like(x)
    asin_loop.compiled(x, out)
    np.testing.assert_allclose(out, np.arcsin(x), rtol=5e-16)
    assert "x double> @llvm.sqrt" in machine_code(asin_loop)


EXPONENTIALS = {
    "exp": (mpmath.exp, (0.0, math.inf)),
    "tanh": (mpmath.tanh, (-1.0, 1.0)),
    "erf": (mpmath.erf, (-1.0, 1.0)),
    "softplus": (lambda x: mpmath.log1p(mpmath.exp(x)), (0.0, math.inf)),
}


@pytest.mark.parametrize("name", EXPONENTIALS)
def test_exponentials(name: str) -> None:
    """Relative errors, what lies beyond the numbers, and that a loop is SIMD code."""
    function, (reference, (below, above)) = getattr(special, name).of_numbers, EXPONENTIALS[name]
    rng = np.random.default_rng(21)
    small = 10.0 ** rng.uniform(-300, 0, 300)
    points = np.concatenate([
        rng.uniform(-6, 6, 1500), rng.uniform(-700, 700, 300), small, -small, 1.0 + rng.uniform(-1e-3, 1e-3, 100),
        (np.arange(-40, 40) + 0.5) * math.log(2.0), [-708.0, 709.7, 1.0, -1.0],
    ])  # fmt: skip
    with mpmath.workdps(40):
        worst = max(abs(mpmath.mpf(function(x)) / reference(mpmath.mpf(x)) - 1) for x in map(float, points))
    assert worst < 5e-16
    for x in (-800.0, -1e300, -math.inf):
        assert function(x) == below
    assert function(math.inf) == above
    assert math.isnan(function(math.nan))
    assert (function(0.0), function(-0.0)) == {"exp": (1, 1), "softplus": (math.log(2), math.log(2))}.get(name, (0, 0))
    x = np.linspace(-3, 3, 101)
    out = np.empty_like(x)
    loop: Kernel = globals()[f"{name}_loop"]
    loop.compiled(x, out)
    assert np.array_equal(out, [function(v) for v in x])
    assert re.search(r"fmul [a-z ]*<\d+ x double>", machine_code(loop))


def test_sources_stand_alone() -> None:
    """The pasted text needs nothing but its two imports (cache=True needs a file, so it is taken off here)."""
    text = special.SOURCE_IMPORTS + "\n\n".join((special.ASIN_SOURCE, special.EXP_SOURCE))
    names: dict = {}
    exec(text.replace(", cache=True", ""), names)
    assert names["asin"](0.3) == asin.of_numbers(0.3)
    assert [names[n](-0.8) for n in EXPONENTIALS] == [getattr(special, n).of_numbers(-0.8) for n in EXPONENTIALS]


def test_normal_law() -> None:
    with mpmath.workdps(40):
        for x in np.linspace(-30, 9, 79):
            # A relative error u in x is one of x^2 u in the tail: no algorithm in double precision does better.
            tolerance = (1 + x * x) * 4e-16
            assert abs(mpmath.mpf(cdf.of_numbers(x)) / mpmath.ncdf(mpmath.mpf(float(x))) - 1) < tolerance
            assert abs(mpmath.mpf(pdf.of_numbers(x)) / mpmath.npdf(mpmath.mpf(float(x))) - 1) < tolerance
