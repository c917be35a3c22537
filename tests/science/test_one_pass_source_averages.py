"""Averages over the samples of one source, with blocks, means and tasks: closed form = quadrature, at every law."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.special
import sympy as sp

from dimladder.numerics.thresholds import sign_moment2
from dimladder.symbolic.factors import X
from dimladder.symbolic.nodes import SignMoment2
from dimladder.symbolic.printing import HEADER
from dimladder.theories.one_pass.notation import Setting
from dimladder.theories.one_pass.source_averages import SourceAverages
from dimladder.theories.one_pass.source_code import source_functions
from generated import interpreted

Z1, Z2 = sp.symbols("z1 z2", real=True)
ERF, RELU, CUBIC = sp.erf(X / sp.sqrt(2)), sp.Max(X, 0), X**3 - 3 * X + X**2 / 2
NUMBERS: dict[Any, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    ERF: (lambda x: scipy.special.erf(x / math.sqrt(2)), lambda x: math.sqrt(2 / math.pi) * np.exp(-(x**2) / 2)),
    RELU: (lambda x: np.maximum(x, 0.0), lambda x: 1.0 * (x > 0)),
    CUBIC: (lambda x: x**3 - 3 * x + x**2 / 2, lambda x: 3 * x**2 - 3 + x),
    X: (lambda x: x, np.ones_like),
}
INDEX = Z1 * Z2 + Z1**2 - 1


@dataclass
class Source:
    """The numbers of one source."""

    K: int
    M: int
    mean: np.ndarray
    C: np.ndarray
    c: np.ndarray
    y0: float
    sigma: float


def drawn(K: int, M: int, centred: bool, seed: int = 1) -> Source:
    random = np.random.default_rng(seed)
    W = random.normal(size=(K + M, K + M + 2)) / math.sqrt(K + M + 2)
    mean = 0.7 * random.normal(size=K + M) * (not centred)
    return Source(K, M, mean, W @ W.T, random.normal(size=K + M), 0.0 if centred else 0.4, 0.3)


@cache
def module(setting: Setting, centred: bool) -> dict[str, Any]:
    averages = SourceAverages(setting, centred)
    assert averages.route == "closed"
    return interpreted(HEADER.format(title="averages") + "\n\n" + "\n".join(source_functions(averages)) + "\n")


def computed(functions: dict[str, Any], s: Source, rule: Any = None) -> dict[str, Any]:
    """Return G, E[g'_i Delta (f_p - mu_p)] = (H C)_ip, N, R and e."""
    K, N = s.K, s.K + s.M
    G, H, square, R, out = np.full(K, np.nan), np.full((K, N), np.nan), np.zeros((K, K)), np.zeros(K), np.zeros(3)
    work = np.full(functions["averages_work_size"](s.K, s.M), np.nan)
    given = (s.K, s.M, s.mean, s.C, s.c, s.y0, s.sigma, np.zeros(0) if rule is None else rule, work)
    functions["averages"](*given, G, H, square, R)
    functions["errors"](*given, out)
    return {"G": G, "D": H @ s.C, "N": square, "R": R, "e": out[0]}


def tensor_rule(s: Source, setting: Setting, nodes: int) -> dict[str, Any]:
    """Return the same by tensor Gauss-Hermite nodes: no Stein, no closed form."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    values, vectors = np.linalg.eigh(s.C)
    root = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, values > 1e-13]
    points = np.array(list(itertools.product(x, repeat=root.shape[1])))
    weights = np.prod(list(itertools.product(w / w.sum(), repeat=root.shape[1])), axis=1)
    return moments(s, setting, points @ root.T + s.mean, weights)


def moments(s: Source, setting: Setting, f: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    g, dg = NUMBERS[setting.student]
    if setting.target is not None:
        star = -s.c[s.K] * sp.lambdify(list(setting.fields), setting.target, "scipy")(*f[:, s.K :].T)
    else:
        star = -NUMBERS[setting.teacher][0](f[:, s.K :]) @ s.c[s.K :]
    value, slope = g(f[:, : s.K]), dg(f[:, : s.K])
    difference = value @ s.c[: s.K] - star - s.y0
    error = difference if setting.loss == "square" else -star - s.y0
    by_slope = weights[:, None] * slope
    return {
        "G": error @ by_slope,
        "D": (by_slope * error[:, None]).T @ (f - s.mean),
        "N": (by_slope * (error**2 + s.sigma**2)[:, None]).T @ slope,
        "R": (weights * error) @ value,
        "e": weights @ difference**2 / 2,
    }


def assert_same(found: dict[str, Any], expected: dict[str, Any], centred: bool, tolerance: float) -> None:
    scale = max(1.0, *(float(np.abs(v).max()) for v in expected.values()))
    for name in expected:
        if name != "G" or not centred:
            assert np.abs(found[name] - expected[name]).max() < tolerance * scale, name


CASES = {
    "erf": (Setting(ERF, ERF), 2, 1, 90, 3e-10),
    "erf, labels alone": (Setting(ERF, ERF), 3, 0, 90, 3e-10),
    "cubic": (Setting(CUBIC, CUBIC), 2, 1, 16, 1e-12),
    "linear": (Setting(X, X), 2, 2, 8, 1e-13),
    "erf, cubic teacher": (Setting(ERF, CUBIC), 2, 1, 90, 3e-10),
    "cubic, correlation": (Setting(CUBIC, ERF, loss="correlation"), 1, 1, 40, 1e-12),
    "erf, index": (Setting(ERF, None, INDEX, 2), 1, 2, 90, 3e-10),
    "cubic, index": (Setting(CUBIC, None, INDEX, 2), 1, 2, 16, 1e-12),
}


@pytest.mark.parametrize("centred", [True, False], ids=["centred", "means"])
@pytest.mark.parametrize("name", CASES)
def test_closed_forms_are_quadrature(name: str, centred: bool) -> None:
    setting, K, M, nodes, tolerance = CASES[name]
    source = drawn(K, M, centred)
    found = computed(module(setting, centred), source)
    assert_same(found, tensor_rule(source, setting, nodes), centred, tolerance)


def test_fields_may_coincide() -> None:
    """Units that are copies, with opposite signs, of one: a covariance without inverse."""
    one, P = drawn(1, 1, False, seed=4), np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    c = np.array([0.7, -0.4, 0.2, -1.1])
    source = Source(3, 1, P @ one.mean, P @ one.C @ P.T, c, 0.3, 0.2)
    setting = Setting(ERF, ERF)
    assert_same(computed(module(setting, False), source), tensor_rule(source, setting, 120), False, 1e-12)


def test_means_that_vanish_are_none() -> None:
    """The form with means, without any, is the centred form."""
    for setting in (Setting(ERF, ERF), Setting(CUBIC, ERF)):
        source = drawn(2, 2, True, seed=6)
        with_means = computed(module(setting, False), source)
        assert_same(with_means, computed(module(setting, True), source), True, 1e-13)


@pytest.mark.parametrize(
    ("setting", "K", "M"), [(Setting(RELU, RELU), 1, 1), (Setting(RELU, RELU), 2, 0), (Setting(ERF, RELU), 1, 1)]
)
def test_centred_kinks_are_polar_quadrature(setting: Setting, K: int, M: int) -> None:
    """Two fields in polar coordinates, angles split where a field vanishes."""
    source = drawn(K, M, True, seed=8)
    root = np.linalg.cholesky(source.C)
    edges = sorted(
        {t % (2 * math.pi) for row in root for t in (math.atan2(-row[0], row[1]) + q * math.pi for q in (0, 1))}
    )
    edges = [*edges, edges[0] + 2 * math.pi]
    x, w = np.polynomial.legendre.leggauss(40)
    angles = np.concatenate([(a + b) / 2 + (b - a) / 2 * x for a, b in itertools.pairwise(edges)])
    widths = np.concatenate([(b - a) / 2 * w for a, b in itertools.pairwise(edges)])
    radii = 4.6 + 4.6 * np.polynomial.legendre.leggauss(80)[0]
    heights = 4.6 * np.polynomial.legendre.leggauss(80)[1] * radii * np.exp(-(radii**2) / 2) / (2 * math.pi)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = (radii[:, None, None] * circle).reshape(-1, 2)
    expected = moments(source, setting, points @ root.T, np.outer(heights, widths).ravel())
    assert_same(computed(module(setting, True), source), expected, True, 1e-11)


def test_centred_relu_is_monte_carlo() -> None:
    """Four fields, none of which vanish together: H holds a delta function for every student."""
    source = drawn(2, 2, True, seed=9)
    found = computed(module(Setting(RELU, RELU), True), source)
    random = np.random.default_rng(10)
    batches = []
    for _ in range(40):
        f = random.normal(size=(20000, 4)) @ np.linalg.cholesky(source.C).T
        batches.append(moments(source, Setting(RELU, RELU), f, np.full(len(f), 1 / len(f))))
    for name in ("D", "N", "R", "e"):
        values = np.array([b[name] for b in batches])
        z = (values.mean(0) - found[name]) / (values.std(0, ddof=1) / math.sqrt(len(batches)))
        assert np.abs(z).max() < 4.5, name


# The moment of two signs -------------------------------------------------------------------------------------------


def two_signs(h: float, k: float, rho: float) -> float:
    """E[sign(u + h) sign(v + k)] by the average over v given u, in 30 digits."""
    with mpmath.workdps(30):
        h, k, rho = map(mpmath.mpf, (h, k, rho))
        free = mpmath.sqrt(1 - rho**2)
        turn = -k / rho
        points = sorted(
            {mpmath.mpf(-14), mpmath.mpf(14), -h, *(turn + q * free / abs(rho) for q in (-20, -4, 0, 4, 20))}
        )
        points = [p for p in points if -14 <= p <= 14]
        given = lambda u: mpmath.npdf(u) * mpmath.erf((k + rho * u) / (mpmath.sqrt(2) * free))  # noqa: E731
        pieces = itertools.pairwise(points)
        return float(
            sum(mpmath.sign((a + b) / 2 + h) * mpmath.quad(given, mpmath.linspace(a, b, 3)) for a, b in pieces)
        )


@pytest.mark.parametrize("rho", [-0.9999, -0.93, -0.59, 0.07, 0.4, 0.61, 0.97, 1 - 1e-9])
def test_two_signs_against_30_digits(rho: float) -> None:
    for h, k in ((0.3, -0.8), (1.7, 1.6), (0.0, 0.45), (-2.4, 0.0), (0.2, 0.2 * rho), (6.0, -1.1)):
        assert sign_moment2.of_numbers(h, k, rho) == pytest.approx(two_signs(h, k, rho), abs=1e-14)


def test_two_signs_at_the_ends() -> None:
    cdf = scipy.special.ndtr
    for h, k in ((0.3, 0.5), (-0.2, 1.0), (0.4, 0.4), (0.0, 0.7)):
        assert sign_moment2.of_numbers(h, k, 1.0) == pytest.approx(1 - 2 * abs(cdf(h) - cdf(k)), abs=1e-15)
        assert sign_moment2.of_numbers(h, k, -1.0) == pytest.approx(2 * abs(cdf(h) - cdf(-k)) - 1, abs=1e-15)
        for rho in (-0.8, 0.2):
            assert sign_moment2.of_numbers(h, math.inf, rho) == pytest.approx(2 * cdf(h) - 1, abs=1e-15)
    assert sign_moment2.of_numbers(0.0, 0.0, 0.7) == pytest.approx(2 / math.pi * math.asin(0.7), abs=1e-15)


def test_the_derivatives_of_two_signs_are_differences() -> None:
    symbols, at, step = sp.symbols("h k rho", real=True), (0.4, -0.9, 0.35), 1e-5
    for place in range(3):
        slope = sp.diff(SignMoment2(*symbols), symbols[place]).subs(dict(zip(symbols, at, strict=True)))
        above, below = ([v + sign * step * (q == place) for q, v in enumerate(at)] for sign in (1, -1))
        difference = (sign_moment2.of_numbers(*above) - sign_moment2.of_numbers(*below)) / (2 * step)
        assert float(slope) == pytest.approx(difference, abs=1e-9)
