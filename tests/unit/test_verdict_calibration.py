"""False alarms and power of the verdict over synthetic experiments whose truth is known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import binom

from dimladder_validation.calibration import Design, laws, rates
from dimladder_validation.finite_size import combination, fit_power_law
from dimladder_validation.significance import LEAST_REPLICAS, deskewed, sample_skewness, third_moment, threshold
from dimladder_validation.verdict import Entries, Settings, count_distinct, judge

ALPHA = 0.01
MEASURED, PROVED = Settings(alpha=ALPHA), Settings(alpha=ALPHA, correction_exponent=1.0)
GAPS = [(0.0, 1.0), (0.3, 1.0), (0.3, 0.5), (0.3, 0.25)]


def allowed(runs: int) -> float:
    """Twice the nominal level, and what chance adds to it once in ten thousand times."""
    return float(binom.isf(1e-4, runs, 2 * ALPHA)) / runs


@pytest.mark.parametrize("law", laws())
@pytest.mark.parametrize("correlated", [False, True])
def test_a_right_theory_is_not_called_wrong(law: str, correlated: bool) -> None:
    runs, false = 30, 0.0
    for replicas in (6, 8, 16, 64):
        design = Design(law, replicas, scatter=0.5, entries=20, correlated=correlated)
        false += rates(design, PROVED, runs, seed=replicas)["disagree"]
        for gap, exponent in GAPS[2:]:
            closing = Design(law, replicas, 0.1, gap, exponent, entries=20, correlated=correlated)
            false += rates(closing, MEASURED, runs, seed=replicas)["disagree"]
    assert false / 12 <= allowed(12 * runs)


@pytest.mark.nightly
@pytest.mark.parametrize("law", laws())
@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize(("gap", "exponent"), GAPS)
def test_false_alarms_at_length(law: str, correlated: bool, gap: float, exponent: float) -> None:
    runs = 600
    for replicas in (6, 8, 16, 64):
        for scatter in (0.1, 1.0):
            for entries in (1, 8, 40):
                design = Design(law, replicas, scatter, gap, exponent, entries=entries, correlated=correlated)
                for settings in (MEASURED, PROVED) if exponent == 1.0 else (MEASURED,):
                    found = rates(design, settings, runs)["disagree"]
                    assert found <= allowed(runs), (design, settings.correction_exponent, found)


@pytest.mark.parametrize(
    ("bias", "scatter", "settings"),
    [(0.02, 0.01, PROVED), (0.05, 0.02, PROVED), (0.1, 0.04, PROVED), (0.1, 0.01, MEASURED)],
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_wrong_theory_is_called_wrong(bias: float, scatter: float, settings: Settings, sign: float) -> None:
    """16 replicas whose mean has a standard error of an eighth of the bias at the largest size, or better."""
    found = rates(Design(scatter=scatter, bias=sign * bias), settings, 40)
    assert found["disagree"] == 1.0
    behind_a_gap = rates(Design(scatter=scatter / 2, gap=0.1, bias=sign * bias), PROVED, 40)
    assert behind_a_gap["disagree"] >= 0.9


def test_a_wrong_theory_is_called_wrong_by_skewed_replicas_once_there_are_enough() -> None:
    few, many = (Design("log-normal-1", n, scatter=0.05, bias=0.1) for n in (8, 128))
    assert rates(few, PROVED, 40)["agree"] == 0.0
    assert rates(many, PROVED, 40)["disagree"] == 1.0
    low = Design("log-normal-1", 128, scatter=0.05, bias=-0.1)
    assert rates(low, PROVED, 40)["disagree"] == 1.0


def entries_of(theory: float, means: list[float], se: list[float], replicas: int = 16) -> Entries:
    one = np.ones((len(means), 1))
    mean, sizes = np.array(means)[:, None], np.array([64.0, 144.0, 256.0])[: len(means)]
    return Entries(
        "error", sizes, mean - theory, np.array(se)[:, None], theory * one, ["error"], replicas, 0.0 * one,
        np.zeros(1, bool), np.zeros(one.shape, bool),
    )  # fmt: skip


def test_a_theory_a_twelfth_of_the_simulation_is_not_agreed_with() -> None:
    """What would have been seen is measured against the theory, not against the largest simulation of any size."""
    entries = entries_of(0.0757, [12.8, 1.99, 0.954], [4.4, 0.97, 0.338])
    found = judge(entries, 3, Settings())
    assert found.verdict == "inconclusive"
    assert found.visible > 10.0
    assert found.replicas_wanted is not None
    assert found.replicas_wanted > 1000


def test_where_the_theory_is_zero_deviations_are_measured_against_one() -> None:
    near = judge(entries_of(0.0, [0.01, -0.01, 0.01], [0.01] * 3), 1, Settings())
    far = judge(entries_of(0.0, [1.0, -1.0, 1.0], [1.0] * 3), 1, Settings())
    assert (near.verdict, far.verdict) == ("agree", "inconclusive")
    assert far.visible > 1.0


def test_equal_replicas_that_nothing_imposes_decide_nothing() -> None:
    values = np.full((3, 2, 5), 0.35)
    values[:, 1, 1:] += 0.01
    mean = values.mean(axis=1)
    se = values.std(axis=1, ddof=1) / np.sqrt(2)
    theory = np.full((3, 5), 0.3)
    entries = Entries(
        "fraction", np.array([50.0, 100.0, 200.0]), mean - theory, np.maximum(se, 1e-9), theory,
        [f"time = {k}" for k in range(5)], 2, sample_skewness(values, 1), np.zeros(5, bool), se == 0.0,
    )  # fmt: skip
    found = judge(entries, count_distinct([entries]), PROVED)
    assert found.verdict == "inconclusive"
    assert "scatter is unknown" in found.reasons[0]
    assert "time = 0" in found.reasons[0]


def test_few_replicas_never_make_a_theory_wrong() -> None:
    few, enough = (Design(replicas=n, scatter=1e-4, bias=0.5) for n in (LEAST_REPLICAS - 1, LEAST_REPLICAS))
    assert rates(few, PROVED, 10)["inconclusive"] == 1.0
    assert rates(enough, PROVED, 10)["disagree"] == 1.0


def test_hall_transformation() -> None:
    """Against its definition, and against the moments of a skewed mean: T' is nearly unskewed where T is not."""
    t, g = np.linspace(0.0, 8.0, 33), 0.3
    wanted = (1 - (1 - g * t / 3) ** 3) / g
    np.testing.assert_allclose(deskewed(t, np.full_like(t, g)), wanted, rtol=1e-12)
    np.testing.assert_allclose(deskewed(t, np.zeros_like(t)), t, rtol=1e-9)
    values = np.random.default_rng(0).exponential(1.0, (200_000, 20))
    skewness = sample_skewness(values, 1)
    statistic = (values.mean(1) - 1.0) / (values.std(1, ddof=1) / np.sqrt(20))
    low = statistic < 0
    corrected = deskewed(-statistic[low], np.maximum(skewness[low], 0.0) / np.sqrt(20))
    limit = threshold(0.02, 1, 19)
    before, after = (np.sum(x > limit) / len(statistic) for x in (-statistic[low], corrected))
    # One side of a two-sided test at 2 %.
    assert before > 0.04
    assert after < 0.55 * before


def test_third_moment_of_a_combination() -> None:
    rng = np.random.default_rng(1)
    weights = np.array([-1.0, 2.0])
    draws = rng.exponential([[1.0, 3.0]], (400_000, 2))
    se, skewness = np.array([[1.0], [3.0]]), np.full((2, 1), 2.0)
    g = third_moment(weights[:, None], se, skewness, 1)[0]
    total = draws @ weights
    assert abs(sample_skewness(total, 0) - g) < 6 * np.sqrt(60 / 400_000)


@pytest.mark.parametrize("spread", [1e0, 1e4, 1e8, 1e12, 1e150])
def test_power_laws_of_sizes_known_with_very_different_precision(spread: float) -> None:
    sizes = np.array([100.0, 200.0, 400.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for se in ([1.0, spread, spread], [spread, 1.0, spread], [spread, spread, 1.0], [1.0, 1.0, spread]):
            fit = fit_power_law(sizes, 50.0 / sizes, 1e-3 * np.array(se))
            assert not fit.known or fit.exponent_se > 0.0
            if fit.known:
                assert abs(fit.exponent - 1.0) < 1e-3
            weights = combination(sizes, 1e-3 * np.array(se), 1.0)
            assert np.isfinite(weights).all()
            # They take out the power and keep a constant.
            np.testing.assert_allclose([weights @ (1 / sizes), weights.sum()], [0.0, 1.0], atol=1e-9)
