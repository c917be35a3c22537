"""Feature moments: closed forms, quadrature, Monte Carlo, and the polynomial model."""

import math

import numpy as np
import pytest

from dimladder.problem import activation
from dimladder.symbolic.hermite_moments import feature_moments, gram, polynomial_model, profile, series_order

# E[He_p sigma], p = 0..3, and E sigma^2 at unit scale, to 12 digits.
PUBLISHED = {
    "tanh": ([0.0, 0.605705509602, 0.0, -0.363595376281], 0.394294490398),
    "sigmoid": ([0.5, 0.206620964142, 0.0, -0.062396483959], 0.293379035858),
    "relu": ([0.398942280401, 0.5, 0.398942280401, 0.0], 0.5),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_hermite_coefficients_at_unit_scale(name):
    expanded = profile(activation(name), 0.0, 1.0, 4)
    monic = [expanded.coefficients[p, 0] * math.sqrt(math.factorial(p)) for p in range(4)]
    np.testing.assert_allclose(monic, PUBLISHED[name][0], atol=6e-13)
    assert expanded.second[0] == pytest.approx(PUBLISHED[name][1], abs=6e-13)


@pytest.mark.parametrize(
    ("name", "coefficients", "noise"),
    [
        ("relu", [0.39639716, 0.49681016, 0.19819858, 0.0], 0.10547169),
        ("tanh", [0.0, 0.60415264, 0.0, -0.06016665], 0.07244137),
        ("sigmoid", [0.5, 0.20569836, 0.0, -0.01026899], 0.00603343),
    ],
)
def test_polynomial_model_at_bulk_scale(name, coefficients, noise):
    model = polynomial_model(activation(name), 3, 0.993620326082)
    np.testing.assert_allclose(model.coefficients, coefficients, atol=5e-9)
    assert model.noise == pytest.approx(noise, abs=5e-9)


@pytest.mark.parametrize(("closed", "formula"), [("relu", "max(x, 0)"), ("sign", "2*step(x) - 1")])
def test_closed_forms_are_the_integrals(closed, formula):
    shift, scale = np.array([-2.0, -0.3, 0.0, 1.4]), np.array([0.2, 1.7, 1.0, 3.0])
    a, b = profile(activation(closed), shift, scale, 30), profile(activation(formula), shift, scale, 30)
    np.testing.assert_allclose(a.coefficients, b.coefficients, atol=2e-13)
    np.testing.assert_allclose(a.second, b.second, rtol=1e-12, atol=1e-25)


def test_mpmath_at_shift_and_scale():
    mpmath = pytest.importorskip("mpmath")
    expanded = profile(activation("tanh"), 0.7, 1.9, 5)
    for p, orthonormal in (
        (0, lambda z: 1),
        (2, lambda z: (z**2 - 1) / mpmath.sqrt(2)),
        (5, lambda z: (z**5 - 10 * z**3 + 15 * z) / mpmath.sqrt(120)),
    ):
        exact = mpmath.quad(
            lambda z, h=orthonormal: (
                h(z) * mpmath.tanh(0.7 + 1.9 * z) * mpmath.exp(-(z**2) / 2) / mpmath.sqrt(2 * mpmath.pi)
            ),
            [-15, -4, -1, 1, 4, 15],
        )
        assert expanded.coefficients[p, 0] == pytest.approx(float(exact), abs=2e-12)


@pytest.mark.parametrize("name", ["relu", "tanh", "sign", "hard-tanh", "erf"])
def test_second_moments_against_monte_carlo(name):
    rng = np.random.default_rng(3)
    root, mean = rng.standard_normal((4, 4)), rng.standard_normal(4)
    second, first = feature_moments(activation(name), mean, root @ root.T)
    values = activation(name).evaluate(np, x=mean + rng.standard_normal((400_000, 4)) @ root.T)
    products = values[:, :, None] * values[:, None, :]
    error = products.std(axis=0) / math.sqrt(len(values))
    # 16 and 4 comparisons: five standard errors.
    assert np.all(np.abs(products.mean(axis=0) - second) <= 5 * error + 1e-12)
    assert np.all(np.abs(values.mean(axis=0) - first) <= 5 * values.std(axis=0) / math.sqrt(len(values)))


def test_arc_cosine_and_arcsine_kernels():
    r = np.array([[0.0, 0.4], [-0.85, 0.97]])
    for name, closed in (
        ("relu", (np.sqrt(1 - r**2) + (np.pi - np.arccos(r)) * r) / (2 * np.pi)),
        ("sign", 2 / np.pi * np.arcsin(r)),
    ):
        order = series_order(0.97, decay=1.5)
        expanded = profile(activation(name), np.zeros(2), np.ones(2), order)
        np.testing.assert_allclose(gram(expanded, expanded, r), closed, atol=3e-5)
        np.testing.assert_allclose(gram(expanded, expanded, r)[0], closed[0], atol=1e-12)


def test_polynomial_of_high_degree_has_the_moments_of_the_activation():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((3, 3))
    covariance = root @ root.T
    covariance /= np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    exact, _ = feature_moments(activation("tanh"), np.zeros(3), covariance)
    gaps = []
    for degree in (1, 5, 11):
        model = polynomial_model(activation("tanh"), degree)
        expanded = model.profile(np.zeros(3), np.ones(3), degree)
        second = gram(expanded, expanded, covariance) + model.noise**2 * np.eye(3)
        gaps.append(np.abs(second - exact).max())
    assert gaps[0] > 3 * gaps[1] > 3 * 3 * gaps[2]
    # The diagonal is exact at every degree: that is what the noise is for.
    assert np.diag(second) == pytest.approx(np.diag(exact), rel=1e-12)


def test_polynomial_activation_is_its_own_model():
    model = polynomial_model(activation("x**3 - 0.5*x"), 3, 1.3)
    assert model.noise == 0.0
    x = np.linspace(-2, 2, 7)
    np.testing.assert_allclose(model.evaluate(np, x), x**3 - 0.5 * x, atol=1e-12)
    np.testing.assert_allclose(model.expression().evaluate(np, x=x), model.evaluate(np, x), atol=1e-12)
