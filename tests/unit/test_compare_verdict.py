"""The verdict on synthetic gaps whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from dimladder_validation.significance import sample_skewness, threshold
from dimladder_validation.verdict import Entries, Settings, combine, count_distinct, judge

SIZES = np.array([200.0, 400.0, 800.0])
THEORY = np.linspace(0.5, 1.5, 40)


def entries(
    gap: np.ndarray, scatter: float = 0.1, replicas: int = 16, seed: int = 0, sizes: np.ndarray = SIZES
) -> Entries:
    """Mean and standard error over replicas that scatter like sqrt(200/d), fully correlated along half the entries."""
    rng = np.random.default_rng(seed)
    theory = np.broadcast_to(THEORY, (len(sizes), 40))
    spread = scatter * np.sqrt(200.0 / sizes)[:, None, None] * theory[:, None, :]
    noise = rng.standard_normal((len(sizes), replicas, 40))
    noise[:, :, :20] = noise[:, :, :1]
    values = theory[:, None, :] + gap[:, None, :] + spread * noise
    return measured(values, theory, sizes)


def measured(values: np.ndarray, theory: np.ndarray, sizes: np.ndarray = SIZES) -> Entries:
    """Entries of replicas (S, replicas, N) and a theory (S, N)."""
    replicas, count = values.shape[1:]
    mean, se = values.mean(1), values.std(1, ddof=1) / np.sqrt(replicas)
    return Entries(
        "q", sizes, mean - theory, se, theory, [f"time = {k}" for k in range(count)], replicas,
        sample_skewness(values, axis=1), np.zeros(count, bool), se == 0.0,
    )  # fmt: skip


def verdict(case: Entries, **settings: Any) -> str:
    return judge(case, count_distinct([case]), Settings(**settings)).verdict


def closing(relative: float, a: float, sizes: np.ndarray = SIZES) -> np.ndarray:
    return relative * THEORY[None, :] * (sizes[:, None] / 200.0) ** -a


def test_threshold_is_sidak_with_student_tails() -> None:
    limit = threshold(0.01, 50, 15)
    assert abs((1 - 2 * student.sf(limit, 15)) ** 50 - 0.99) < 1e-12
    assert threshold(0.01, 50, 3) > limit > threshold(0.01, 1, 15)


def test_right_theory_is_called_wrong_at_most_as_often_as_stated() -> None:
    calls = [verdict(entries(np.zeros((3, 40)), seed=s), alpha=0.05) for s in range(300)]
    false = calls.count("disagree")
    # Binomial(300, 0.05): 15 expected, 27 is more than three standard deviations above; correlations only lower it.
    assert false < 27
    assert calls.count("agree") > 250


def test_few_replicas_are_not_called_wrong_more_often() -> None:
    calls = [verdict(entries(np.zeros((3, 40)), seed=s, replicas=3), alpha=0.05) for s in range(200)]
    assert calls.count("disagree") < 20


@pytest.mark.parametrize("error", [0.1, -0.1, 0.2])
@pytest.mark.parametrize(("known", "slowest"), [(None, 0.5), (1.0, 0.25)])
def test_an_error_of_ten_percent_is_caught(error: float, known: float | None, slowest: float) -> None:
    for seed in range(10):
        wrong = entries(closing(error, 0.0), scatter=0.05, replicas=16, seed=seed)
        assert verdict(wrong, correction_exponent=known, slowest_exponent=slowest) == "disagree"


def test_where_gaps_may_close_as_slowly_as_a_fourth_root_an_error_needs_less_noise() -> None:
    """Over a factor 4 of sizes d^-1/4 falls by 30 % only: extrapolation multiplies the noise by seven."""
    for seed in range(10):
        wrong = entries(closing(0.1, 0.0), scatter=0.01, replicas=16, seed=seed)
        assert verdict(wrong) == "disagree"


@pytest.mark.parametrize("error", [0.1, 0.2])
def test_an_error_is_caught_behind_a_finite_size_correction(error: float) -> None:
    for seed in range(10):
        wrong = entries(closing(error, 0.0) + closing(0.05, 1.0), scatter=0.03, replicas=32, seed=seed)
        assert verdict(wrong, correction_exponent=1.0) == "disagree"


@pytest.mark.parametrize(("a", "known"), [(1.0, None), (1.0, 1.0), (0.5, None), (0.5, 0.5)])
def test_a_closing_gap_agrees(a: float, known: float | None) -> None:
    sizes = np.array([200.0, 400.0, 800.0, 1600.0, 6400.0])
    verdicts = []
    for seed in range(20):
        case = entries(closing(0.3, a, sizes), scatter=0.05, replicas=64, seed=seed, sizes=sizes)
        result = judge(case, count_distinct([case]), Settings(correction_exponent=known))
        assert result.max_z > 5.0 or a == 1.0
        verdicts.append(result.verdict)
        if result.fit.known:
            assert abs(result.fit.exponent - a) < 5 * result.fit.exponent_se + 0.05
    assert "disagree" not in verdicts
    assert verdicts.count("agree") >= 16


def test_noise_that_hides_a_fifth_is_inconclusive() -> None:
    case = entries(np.zeros((3, 40)), scatter=4.0)
    result = judge(case, 40, Settings())
    assert result.verdict == "inconclusive"
    assert "replicas are needed" in result.reasons[0]
    assert result.visible > 0.2
    # As many as it asks for are enough.
    assert result.replicas_wanted is not None
    more = judge(entries(np.zeros((3, 40)), scatter=4.0, replicas=result.replicas_wanted), 40, Settings())
    assert more.verdict == "agree"


def test_one_size_with_a_gap_is_inconclusive_and_without_agrees() -> None:
    one = np.array([800.0])
    assert verdict(entries(closing(0.2, 0.0, one), sizes=one, scatter=0.03)) == "inconclusive"
    assert verdict(entries(np.zeros((1, 40)), sizes=one, scatter=0.03)) == "agree"


def test_gap_of_unknown_closing_is_inconclusive() -> None:
    # A gap that just sticks out at the largest size, while the smaller sizes are too noisy to say whether it closes.
    case = entries(closing(0.06, 0.0), scatter=0.03, replicas=16, seed=3)
    noisy = replace(case, se=case.se * np.array([[30.0], [30.0], [1.0]]))
    result = judge(noisy, 40, Settings())
    assert result.verdict == "inconclusive"


def test_replicas_that_scatter_like_the_quantity_are_not_in_the_regime() -> None:
    gap = closing(0.3, 0.15)
    case = entries(gap, scatter=1.2, replicas=2000)
    result = judge(case, 40, Settings(correction_exponent=1.0))
    assert result.verdict == "inconclusive"
    assert "larger ones are needed" in result.reasons[-1]


def test_a_gap_whose_closing_has_not_begun_decides_nothing() -> None:
    """Exponential growth: finite sizes lag by a factor exp(-100/d), of which 1/d is the first order only."""
    sizes = np.array([64.0, 128.0, 256.0])
    late = THEORY[None, :] * (np.exp(-100.0 / sizes)[:, None] - 1.0)
    case = entries(late, scatter=0.02, replicas=40, sizes=sizes)
    assert verdict(case, correction_exponent=1.0) == "inconclusive"
    # Too noisy for extrapolations to differ, but large, and closing.
    noisy = entries(0.8 * late, scatter=0.06, replicas=40, sizes=sizes)
    assert verdict(noisy, correction_exponent=1.0) == "inconclusive"
    constant = entries(np.repeat(-0.3 * THEORY[None, :], 3, axis=0), scatter=0.2, replicas=40, sizes=sizes)
    assert verdict(constant, correction_exponent=1.0) == "disagree"
    large = THEORY[None, :] * (np.exp(-100.0 / (16 * sizes))[:, None] - 1.0)
    assert verdict(entries(large, scatter=0.02, replicas=40, sizes=16 * sizes), correction_exponent=1.0) == "agree"
    wrong = large + 0.1 * THEORY[None, :]
    assert verdict(entries(wrong, scatter=0.02, replicas=40, sizes=16 * sizes), correction_exponent=1.0) == "disagree"


def test_imposed_entries_must_be_met_but_give_no_power() -> None:
    base = entries(np.zeros((3, 40)), scatter=4.0)
    imposed = np.zeros(40, bool)
    imposed[:5] = True
    se, gap = base.se.copy(), base.gap.copy()
    se[:, :5], gap[:, :5] = 1e-8, 0.0
    met = replace(base, gap=gap, se=se, imposed=imposed)
    assert judge(met, 40, Settings()).verdict == "inconclusive"
    assert judge(met, 40, Settings()).entries == 35
    off = gap.copy()
    off[:, 2] = 1e-3
    missed = judge(replace(met, gap=off), 40, Settings())
    assert missed.verdict == "disagree"
    assert "imposed" in missed.reasons[0]
    assert "time = 2" in missed.reasons[0]
    assert judge(replace(met, gap=off, imposed=np.ones(40, bool)), 40, Settings()).entries == 0


def test_symmetric_entries_count_once() -> None:
    case = entries(np.zeros((3, 40)))
    double = {
        key: np.concatenate([getattr(case, key)] * 2, axis=-1)
        for key in ("gap", "se", "theory", "skewness", "imposed", "unknown")
    }
    twice = replace(case, labels=case.labels * 2, **double)
    # The first twenty entries differ in nothing but scale, so that their residuals are the same comparison too.
    assert count_distinct([twice]) == count_distinct([case]) == 21


def test_a_zero_up_to_rounding_is_a_zero() -> None:
    """What the solver leaves of a vanishing overlap is no measure of a deviation."""
    noise = 0.02 * np.random.default_rng(3).standard_normal((3, 24, 4))
    for theory in (0.0, 3e-18, -2e-16):
        assert verdict(measured(noise + theory, np.full((3, 4), theory))) == "agree"
    assert verdict(measured(noise + 1e-4, np.full((3, 4), 1e-4))) == "inconclusive"
    # A simulation whose own zeros are rounding too.
    assert verdict(measured(1e-14 * noise + 1e-16, np.full((3, 4), -6e-16)), correction_exponent=1.0) == "agree"
    assert verdict(measured(1e-10 * noise + 1e-10, np.full((3, 4), -6e-10)), correction_exponent=1.0) == "disagree"


def test_combination() -> None:
    assert combine(["agree", "agree"]) == "agree"
    assert combine(["agree", "inconclusive"]) == "inconclusive"
    assert combine(["agree", "inconclusive", "disagree"]) == "disagree"
    assert combine([]) == "inconclusive"
