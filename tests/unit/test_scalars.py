"""Roots, minima and the normal law without SciPy, against SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize, special

from dimladder.numerics.quadrature import gauss_hermite, gauss_legendre
from dimladder.numerics.scalars import MANY, between, expit, find_minimum, find_root, ndtr, ndtri

CROSSINGS: dict[str, tuple[Callable[[float], float], float, float, float]] = {
    "cubic": (lambda x: x**3 - 2.0, 0.0, 5.0, 2.0 ** (1 / 3)),
    "small among large": (lambda x: math.exp(x) - 1e-8, -50.0, 20.0, math.log(1e-8)),
    "a step that is steep": (lambda x: math.tanh(50.0 * (x - 0.3)), -1.0, 2.0, 0.3),
    "a multiple root": (lambda x: (x - 0.1) ** 9, -1.0, 3.0, 0.1),
    "infinite at one end": (lambda x: math.log(x) if x > 0 else -math.inf, 0.0, 10.0, 1.0),
    "a jump": (lambda x: 1.0 if x > 0.7312 else -1.0, 0.0, 1.0, 0.7312),
    "falling, the bracket turned round": (lambda x: math.cos(x) - x, 1.0, 0.0, 0.7390851332151607),
    "at an end": (lambda x: x, 0.0, 1.0, 0.0),
}


@pytest.mark.parametrize("name", CROSSINGS)
@pytest.mark.parametrize("tolerance", [1e-6, 1e-15])
def test_a_root_lies_within_the_tolerance_and_costs_little(name: str, tolerance: float) -> None:
    function, low, high, exact = CROSSINGS[name]
    calls = 0

    def counted(x: float) -> float:
        nonlocal calls
        calls += 1
        return function(x)

    found = find_root(counted, low, high, xtol=tolerance, rtol=4.5e-16)
    assert abs(found - exact) <= tolerance + 4.5e-16 * abs(exact)
    # A jump is bisected, once for each bit; what is smooth takes a dozen, a root of high order some more.
    assert calls <= 56


def test_a_root_needs_a_change_of_sign() -> None:
    with pytest.raises(ValueError, match="change its sign"):
        find_root(lambda x: x * x + 1.0, -1.0, 1.0)
    with pytest.raises(ValueError, match="no number"):
        find_root(lambda x: math.nan if 0.2 < x < 0.8 else x - 0.5, 0.0, 1.0)
    with pytest.raises(RuntimeError, match="after 3 evaluations"):
        find_root(lambda x: x**3 - 0.2, 0.0, 1.0, max_evaluations=3)


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (lambda x: (x - 0.3) ** 2, -1.0, 2.0),
        (lambda x: math.cosh(x - 2.0), 0.0, 9.0),
        (lambda x: abs(x - 0.7), 0.0, 1.0),
        (lambda x: -math.exp(-20.0 * (x - 3.0) ** 2), 1.0, 7.0),
        (lambda x: x, 0.0, 1.0),
    ],
)
@pytest.mark.parametrize("tolerance", [1e-5, 1e-9])
def test_a_minimum_is_scipys(function: Callable[[float], float], low: float, high: float, tolerance: float) -> None:
    found = find_minimum(function, low, high, xtol=tolerance)
    other = optimize.minimize_scalar(function, bounds=(low, high), method="bounded", options={"xatol": tolerance})
    assert found.x == pytest.approx(other.x, abs=tolerance + 1e-7)
    assert found.value == function(found.x) <= other.fun + tolerance
    with pytest.raises(RuntimeError, match="no minimum"):
        find_minimum(function, low, high, xtol=1e-12, max_evaluations=3)


def test_the_normal_law_is_scipys() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([5.0 * rng.standard_normal(500), [-37.0, 0.0, 9.0, math.inf, -math.inf, math.nan]])
    np.testing.assert_allclose(ndtr(x), special.ndtr(x), rtol=3e-13, atol=0)
    np.testing.assert_allclose(expit(x), special.expit(x), rtol=1e-15, atol=0)
    p = np.concatenate([rng.random(500), 10.0 ** -(300.0 * rng.random(50)), [0.0, 1.0, 0.5, -0.1, 1.1, math.nan]])
    np.testing.assert_allclose(ndtri(p), special.ndtri(p), rtol=2e-15, atol=1e-15)
    many = np.full((MANY + 1, 1), 0.3)
    np.testing.assert_allclose(ndtr(many), ndtr(0.3), rtol=1e-15)
    np.testing.assert_allclose(ndtri(many), ndtri(0.3), rtol=1e-15)
    assert (ndtr(many).shape, ndtri(0.3).shape, expit(many).shape) == (many.shape, (), many.shape)
    # Without cancellation in either tail: the upper one is the mirror image of the lower.
    assert between(8.0, 9.0) == between(-9.0, -8.0) == pytest.approx(6.219e-16, rel=1e-3)
    assert between([-math.inf, 0.0], [math.inf, math.inf]).tolist() == [1.0, 0.5]


@pytest.mark.parametrize("nodes", [1, 2, 3, 16, 65, 256, 300])
def test_rules_of_gauss(nodes: int) -> None:
    x, w = gauss_legendre(nodes)
    other, weights = special.roots_legendre(nodes)
    np.testing.assert_allclose(x, other, rtol=0, atol=1e-15)
    # The error of the other: ten digits of the smallest weight of 300 nodes.
    np.testing.assert_allclose(w, weights, rtol=0, atol=1e-13)
    assert w @ x ** (2 * nodes - 2) == pytest.approx(2.0 / (2 * nodes - 1), rel=2e-13)
    x, w = gauss_hermite(nodes)
    for degree in range(0, min(2 * nodes, 40), 2):
        assert w @ x**degree == pytest.approx(math.prod(range(1, degree, 2)), rel=1e-13)
    assert (x == -x[::-1]).all()


def test_the_smallest_weight_of_hermite_keeps_its_digits() -> None:
    # w = n!/(n h_{n-1}(x)^2) at the largest root of He_64, by mpmath with 60 digits.
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        root = mpmath.findroot(
            lambda t: mpmath.hermite(64, t / mpmath.sqrt(2)), float(gauss_hermite(64)[0][-1]), verify=False
        )
        below = mpmath.hermite(63, root / mpmath.sqrt(2)) / mpmath.sqrt(2) ** 63
        weight = mpmath.factorial(64) / (64 * below) ** 2
    assert gauss_hermite(64)[0][-1] == pytest.approx(float(root), rel=3e-16)
    assert gauss_hermite(64)[1][-1] == pytest.approx(float(weight), rel=1e-12)
