"""Marchenko-Pastur law against its moments, its transform and a sample."""

import numpy as np
import pytest

from dimladder.numerics.random_matrix import (
    marchenko_pastur_expectation,
    marchenko_pastur_nodes,
    marchenko_pastur_stieltjes,
    marchenko_pastur_support,
    spectrum_quantiles,
)


@pytest.mark.parametrize("psi", [0.2, 0.9, 1.0, 1.7, 6.0])
def test_moments(psi):
    # Free-probability moments: 1, 1, 1 + psi, 1 + 3 psi + psi^2.
    for power, value in enumerate([1.0, 1.0, 1 + psi, 1 + 3 * psi + psi**2]):
        assert marchenko_pastur_expectation(lambda x, p=power: x**p, psi) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("psi", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("s", [0.05, 0.7, 30.0])
def test_transform_is_the_integral(psi, s):
    assert marchenko_pastur_stieltjes(s, psi) == pytest.approx(
        marchenko_pastur_expectation(lambda x: 1 / (x + s), psi), rel=1e-12
    )


def test_against_a_matrix():
    k, n = 300, 600
    w = np.random.default_rng(1).standard_normal((k, n)) / np.sqrt(n)
    eigenvalues = np.linalg.eigvalsh(w @ w.T)
    low, high = marchenko_pastur_support(k / n)
    assert low - 0.05 < eigenvalues[0]
    assert eigenvalues[-1] < high + 0.05
    # Linear statistics fluctuate by 1/n; quantiles sit on the eigenvalues to a few spacings.
    assert np.mean(1 / (eigenvalues + 0.2)) == pytest.approx(marchenko_pastur_stieltjes(0.2, 0.5), abs=5 / n)
    assert np.abs(eigenvalues - spectrum_quantiles(0.5, k)).max() < 0.08


def test_bad_ratio():
    with pytest.raises(ValueError, match="psi"):
        marchenko_pastur_nodes(0.0)
