"""Power-law fits of gaps, and extrapolation to infinite size."""

from __future__ import annotations

import numpy as np
import pytest

from dimladder_validation.finite_size import extrapolate, fit_power_law, leading_correction

SIZES = np.array([100.0, 200.0, 400.0, 800.0])


@pytest.mark.parametrize("a", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_exact_power_laws_are_recovered(a: float, sign: float) -> None:
    fit = fit_power_law(SIZES, sign * 3.0 * SIZES**-a, np.full(4, 1e-5))
    assert fit.known
    assert abs(fit.exponent - a) < 1e-6
    assert abs(fit.amplitude / (sign * 3.0) - 1) < 1e-5
    assert fit.chi2 < 1e-6


def test_standard_error_of_the_exponent_covers() -> None:
    rng = np.random.default_rng(5)
    truth, se = 20.0 * SIZES**-1.0, np.array([0.01, 0.007, 0.005, 0.0035])
    fits = [fit_power_law(SIZES, truth + se * rng.standard_normal(4), se) for _ in range(600)]
    z = np.array([(f.exponent - 1.0) / f.exponent_se for f in fits if f.known])
    assert len(z) > 590
    # The error is widened where chi2 per degree of freedom exceeds 1, so the scatter lies between 0.75 and 1.05.
    assert 0.7 < z.std() < 1.1
    assert abs(z.mean()) < 5 * z.std() / np.sqrt(len(z)) + 0.05


def test_gap_below_the_noise_has_no_exponent() -> None:
    fit = fit_power_law(SIZES, np.array([0.5, -1.0, 2.0, -0.3]), np.ones(4))
    assert not fit.known
    assert "below the noise" in fit.reason
    assert np.isnan(fit.exponent)


def test_one_size_and_nonsense_have_no_exponent() -> None:
    assert fit_power_law(SIZES[:1], np.ones(1), np.full(1, 0.01)).reason == "one size only"
    assert not fit_power_law(SIZES[:2], np.array([1.0, 1e-12]), np.full(2, 1e-13)).known


def test_constant_gap_has_exponent_zero() -> None:
    fit = fit_power_law(SIZES, np.full(4, 0.1), np.full(4, 0.002))
    assert abs(fit.exponent) < 1e-6
    assert 0 < fit.exponent_se < 0.05


def test_extrapolation_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    se = np.array([0.03, 0.02, 0.02, 0.01])[:, None] * np.ones((1, 500))
    truth = 0.2 + 5.0 * SIZES[:, None] ** -1.0
    limit, error = extrapolate(SIZES, truth + se * rng.standard_normal(se.shape), se, 1.0)
    z = (limit - 0.2) / error
    assert abs(z.mean()) < 4 / np.sqrt(500)
    assert abs(z.std() - 1) < 4 / np.sqrt(2 * 500)
    # Oracle: the same fit by a general solver.
    design = np.stack([np.ones(4), (SIZES / 800) ** -1.0], axis=1) / se[:, :1]
    covariance = np.linalg.inv(design.T @ design)
    assert np.allclose(error, np.sqrt(covariance[0, 0]), rtol=1e-10)


def test_leading_correction_covers() -> None:
    rng = np.random.default_rng(2)
    se = 0.01 * np.sqrt(100.0 / SIZES)[:, None] * np.ones((1, 400))
    c, error, chi2 = leading_correction(SIZES, 3.0 / SIZES[:, None] + se * rng.standard_normal(se.shape), se)
    assert abs(((c - 3.0) / error).std() - 1) < 4 / np.sqrt(2 * 400)
    assert abs(((c - 3.0) / error).mean()) < 4 / np.sqrt(400)
    assert abs(chi2.mean() - 3.0) < 4 * np.sqrt(2 * 3 / 400)
