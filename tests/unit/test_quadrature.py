"""One-dimensional normal expectations against exact moments and mpmath."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dimladder.numerics.quadrature import expectation, gauss_hermite, gauss_normal, hermite_coefficients


@pytest.mark.parametrize("nodes", [8, 64, 512])
def test_gauss_hermite_is_exact_for_polynomials(nodes: int) -> None:
    x, w = gauss_hermite(nodes)
    for k in range(8):
        exact = 0.0 if k % 2 else math.prod(range(1, k, 2))
        assert w @ x**k == pytest.approx(exact, abs=1e-11 * max(1, exact))


def test_kinks_need_splitting() -> None:
    exact = 1 / math.sqrt(2 * math.pi)
    x, w = gauss_hermite(64)
    assert abs(w @ np.maximum(x, 0) - exact) > 1e-5
    x, w = gauss_normal((0.0,))
    assert w @ np.maximum(x, 0) == pytest.approx(exact, rel=1e-15)


def test_the_error_estimate_is_honest() -> None:
    mpmath = pytest.importorskip("mpmath")
    exact = float(mpmath.quad(lambda t: mpmath.tanh(3 * t) * t * mpmath.npdf(t), [-12, 0, 12]))
    value, error = expectation(lambda t: np.tanh(3 * t) * t)
    assert abs(value - exact) <= 4 * error + 1e-15
    assert error < 1e-9
    # A kink that is not declared must show in the estimate.
    value, error = expectation(lambda t: np.abs(t - 0.3))
    exact = 0.3 * math.erf(0.3 / math.sqrt(2)) + 2 * math.exp(-0.045) / math.sqrt(2 * math.pi)
    assert error > 1e-7
    assert abs(value - exact) < 10 * error


def test_hermite_coefficients_of_known_functions() -> None:
    # relu = 1/sqrt(2 pi) + h_1/2 + h_2/(2 sqrt pi) + ..., erf(x/sqrt 2): c_1 = 1/sqrt pi.
    c = hermite_coefficients(lambda t: np.maximum(t, 0), 4, kinks=(0.0,))
    np.testing.assert_allclose(
        c, [1 / math.sqrt(2 * math.pi), 0.5, 0.5 / math.sqrt(math.pi), 0, -1 / math.sqrt(48 * math.pi)], atol=1e-15
    )
    from scipy.special import erf

    assert hermite_coefficients(lambda t: erf(t / math.sqrt(2)), 3)[1] == pytest.approx(
        1 / math.sqrt(math.pi), rel=1e-14
    )
