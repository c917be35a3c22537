"""Graph convolution on the block model: closed forms, the self-loop, and simulated graphs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.theories.graph_convolution.mixture import resolvent, without_self_loop
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.graph_convolution import EXPERIMENT

RUN = Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "graph-convolution.toml"


def solve(
    gamma: float, mu: float, homophily: float, loop: float, ridge: float, fractions: list[float]
) -> dl.LearningCurve:
    return dl.solve(problem(gamma, mu, homophily, loop, ridge, fractions))


def problem(gamma: float, mu: float, homophily: float, loop: float, ridge: float, fractions: list[float]) -> dl.Problem:
    return dl.load(
        RUN,
        {
            "data.gamma": gamma,
            "data.mu": mu,
            "data.homophily": homophily,
            "student.self_loop": loop,
            # r of the free energy, (1/(tau N)) sum (h - y)^2 + (r/N) |w|^2.
            "loss": {"ridge_per_sample": ridge / gamma},
            "grid.train_fraction": fractions,
        },
    )


@pytest.mark.parametrize(
    ("gamma", "mu", "lam", "tau"),
    [(5, 1, 1, 0.8), (5, 0, 2, 0.8), (2, 1, -2, 0.8), (5, 3, 1, 0.5), (3, 0.4, 0.7, 0.45)],
)
def test_ridgeless_closed_form(gamma: float, mu: float, lam: float, tau: float) -> None:
    curve = solve(gamma, mu, lam, 0.0, 0.0, [tau])
    signal = gamma + mu + lam**2 * (1 + mu)
    test = gamma * tau * (gamma + mu) / ((gamma * tau - 1) * signal)
    train = (gamma + mu) * (gamma * tau - 1) / (gamma * tau * signal)
    assert float(curve["test_risk"][0]) == pytest.approx(test, rel=1e-12)
    assert float(curve["train_risk"][0]) == pytest.approx(train, rel=1e-12)


def test_reference_values_with_a_self_loop() -> None:
    curve = solve(5.0, 0.0, 2.0, 0.5, 0.0, [0.8])
    assert float(curve["test_risk"][0]) == pytest.approx(0.66906, abs=5e-6)
    assert float(curve["train_risk"][0]) == pytest.approx(0.37634, abs=5e-6)


def test_resolvent_is_that_of_a_wishart_matrix() -> None:
    for gamma, t in ((3.0, 0.2), (0.5, 0.7), (1.0, 0.01)):
        g, root = resolvent(t, gamma)
        assert g == pytest.approx(1 / (t + gamma / (1 + g)), rel=1e-12)
        assert -(g * g + g) / root == pytest.approx(
            (resolvent(t * (1 + 1e-6), gamma)[0] - resolvent(t * (1 - 1e-6), gamma)[0]) / (2e-6 * t), rel=1e-6
        )


@pytest.mark.parametrize("ridge", [0.01, 0.5, 5.0])
def test_the_free_energy_without_self_loop_is_the_mixture_regression(ridge: float) -> None:
    """Two derivations: the self-loop tends to zero (linear in c), and the resolvent formula."""
    exact = solve(2.5, 0.7, 1.3, 0.0, ridge, [0.2, 0.6])
    gaps = [
        np.abs(solve(2.5, 0.7, 1.3, c, ridge, [0.2, 0.6])["test_risk"].values - exact["test_risk"].values)
        for c in (1e-3, 1e-5)
    ]
    assert np.all(gaps[0] < 1e-2)
    assert np.all(gaps[1] < 1.2e-2 * gaps[0] + 1e-9)


def test_small_ridge_tends_to_the_interpolator_below_the_threshold() -> None:
    zero = without_self_loop(5.0, 1.0, 1.0, 0.1, 0.0)
    small = without_self_loop(5.0, 1.0, 1.0, 0.1, 1e-7)
    assert zero[0] == pytest.approx(small[0], rel=1e-5)
    assert zero[1] < 1e-12
    assert math.isinf(float(solve(5.0, 1.0, 1.0, 0.3, 0.0, [0.2])["test_risk"][0]))


@pytest.mark.parametrize("ridge", [1e-30, 1e-15, 1e-3, 1e8, 1e12])
@pytest.mark.parametrize("tau", [0.1, 0.2, 0.8])
def test_every_ridge_keeps_its_digits(tau: float, ridge: float) -> None:
    """gamma = 5, mu = lambda = 1 against the resolvent in 60 digits, at and on both sides of gamma tau = 1."""
    from mpmath import mp, mpf

    with mp.workdps(60):
        gamma, fraction, r = mpf(5), mpf(tau), mpf(ridge)

        def g(t: Any) -> Any:
            b = t + gamma - 1
            return (mp.sqrt(b * b + 4 * t) - b) / (2 * t)

        low, high = mp.log(r) - 1, mp.log(r + 1 / fraction) + 1
        for _ in range(250):
            middle = (low + high) / 2
            t = mp.exp(middle)
            below = t * (1 - (1 - t * g(t)) / (gamma * fraction)) < r
            low, high = (middle, high) if below else (low, middle)
        t = mp.exp(low)

        def phi(t: Any) -> Any:  # lambda = mu = 1
            trace = t * g(t) / gamma + 1 - 1 / gamma
            return 1 - trace / (1 + trace * g(t))

        step = t * mpf(10) ** -25
        freedom = (1 - t * g(t) - t * mp.diff(lambda t: t * g(t), t, h=step)) / (gamma * fraction)
        psi = phi(t) / (1 + phi(t))
        test = (1 / (1 + phi(t)) + t * mp.diff(phi, t, h=step) / (1 + phi(t)) ** 2) / (1 - freedom)
        accuracy = mp.ncdf(psi / mp.sqrt(test - (1 - psi) ** 2))
    curve = solve(5.0, 1.0, 1.0, 0.0, ridge, [tau])
    # At gamma tau = 1 the answer hangs on the rounding of tau itself, as 1/sqrt(ridge).
    rel = 1e-13 if tau != 0.2 else 1e-13 + 1e-16 / math.sqrt(ridge)
    if rel < 0.01:
        assert float(curve["test_risk"][0]) == pytest.approx(float(test), rel=rel)
    assert float(curve["test_accuracy"][0]) == pytest.approx(float(accuracy), rel=1e-10)


def test_large_ridges_leave_the_direction_of_the_gradient() -> None:
    """ridge -> infinity: w ~ D^T y/ridge, whose accuracy needs no solve. 700 nodes, 12 graphs, four standard errors.

    Self-loops go through the free energy, whose weights are then of order 1/ridge.
    """
    for loop in (0.0, 0.6, -1.3):
        p = problem(5.0, 1.0, 1.0, loop, 1e12, [0.3, 0.8])
        curve = dl.solve(p)
        np.testing.assert_allclose(curve["test_risk"], 1.0, atol=1e-9)
        near = solve(5.0, 1.0, 1.0, loop, 1e8, [0.3, 0.8])
        np.testing.assert_allclose(curve["test_accuracy"], near["test_accuracy"], atol=3e-7)
        sample = EXPERIMENT.run(p, 700, [np.random.default_rng([7, k]) for k in range(12)], backend_for())
        values = np.asarray(sample.variables["test_accuracy"][1])
        se = values.std(axis=0, ddof=1) / math.sqrt(12)
        assert np.all(np.abs(values.mean(axis=0) - curve["test_accuracy"].values) < 4 * se + 0.005)


@pytest.mark.parametrize("ridge", [0.0, 1e-300, 1e-30, 1e-15])
def test_vanishing_ridges_with_a_self_loop(ridge: float) -> None:
    """Below the threshold the interpolator, whose training risk falls as the square of the ridge; above, continuous."""
    curve = solve(5.0, 1.0, 1.0, 0.6, ridge, [0.1, 0.8])
    small = solve(5.0, 1.0, 1.0, 0.6, 1e-8, [0.1, 0.8])
    np.testing.assert_allclose(curve["test_risk"], small["test_risk"], rtol=1e-7)
    assert float(curve["train_risk"][0]) == pytest.approx(float(small["train_risk"][0]) * (ridge / 1e-8) ** 2, rel=1e-6)
    assert float(curve["train_risk"][1]) == pytest.approx(float(small["train_risk"][1]), rel=1e-6)


def test_homophily_and_self_loop_change_sign_together() -> None:
    """Flipping both signs flips A + c up to the law of its noise."""
    a, b = solve(3.0, 1.0, 1.0, 0.6, 0.1, [0.5]), solve(3.0, 1.0, -1.0, -0.6, 0.1, [0.5])
    assert float(a["test_risk"][0]) == pytest.approx(float(b["test_risk"][0]), rel=1e-9)
    # On a heterophilic graph a negative self-loop helps where a positive one hurts.
    risks = [float(solve(3.0, 2.0, -1.0, c, 0.3, [0.5])["test_risk"][0]) for c in (-0.5, 0.0, 0.5)]
    assert risks[0] < risks[1] < risks[2]


@pytest.mark.parametrize(
    ("parameters", "fractions"),
    [
        ((5.0, 1.0, 1.0, 0.0, 0.0), [0.5, 0.8]),
        ((5.0, 1.0, -1.0, -0.7, 0.1), [0.3, 0.8]),
        ((0.8, 2.0, 0.5, 0.5, 0.3), [0.3, 0.6]),
        # The overlap m changes sign on the way from c = 0, at c = -lambda.
        ((4.0, 2.0, -0.5, 1.2, 0.1), [0.3, 0.8]),
    ],
)
def test_simulated_graphs(parameters: tuple[float, ...], fractions: list[float]) -> None:
    """500 nodes, 20 graphs: four standard errors and an O(1/N) allowance of 5/N, relative."""
    p = problem(*parameters, fractions)
    sample = EXPERIMENT.run(p, 500, [np.random.default_rng([3, k]) for k in range(20)], backend_for())
    curve = dl.solve(p)
    for name in ("test_risk", "train_risk", "test_accuracy"):
        values = np.asarray(sample.variables[name][1])
        se = values.std(axis=0, ddof=1) / math.sqrt(20)
        expected = curve[name].values
        assert np.all(np.abs(values.mean(axis=0) - expected) < 4 * se + 5 / 500 * expected)


def test_the_two_normalisations_of_the_ridge_are_one() -> None:
    """ridge = (n/k) ridge_per_sample, n = tau N labelled nodes and k = N/gamma weights; theory and experiment."""
    one = problem(3.0, 1.0, 1.0, 0.4, 0.2, [0.4])
    two = dl.replace(one, {"loss": {"ridge": 0.4 * 0.2}})
    np.testing.assert_allclose(dl.solve(one)["test_risk"], dl.solve(two)["test_risk"], rtol=1e-12)
    risks = [
        EXPERIMENT.run(p, 300, [np.random.default_rng(1)], backend_for()).variables["test_risk"][1] for p in (one, two)
    ]
    np.testing.assert_allclose(risks[0], risks[1], rtol=1e-12)


def test_both_ridges_mean_what_the_language_says() -> None:
    """sum of losses + (ridge/2)|w|^2, or their mean + (ridge_per_sample/2)|w|^2/k: ridge = (n/k) ridge_per_sample."""
    fractions = [0.2, 0.5, 0.8]
    for loop in (0.0, 0.4):
        per_sample = {"loss": {"ridge_per_sample": 0.3}, "student.self_loop": loop}
        expected = dl.solve(dl.load(RUN, {**per_sample, "grid.train_fraction": fractions}))
        for column, fraction in enumerate(fractions):
            # n/k = tau N/(N/gamma)
            override = {"loss": {"ridge": 0.3 * fraction * 5.0}, "student.self_loop": loop}
            p = dl.load(RUN, {**override, "grid.train_fraction": [fraction]})
            curve = dl.solve(p)
            for name in curve:
                assert float(curve[name][0]) == pytest.approx(float(expected[name][column]), rel=1e-10)
        sample = EXPERIMENT.run(p, 400, [np.random.default_rng([2, k]) for k in range(12)], backend_for())
        values = np.asarray(sample.variables["test_risk"][1])
        se = float(values.std(ddof=1)) / math.sqrt(12)
        assert abs(values.mean() - float(curve["test_risk"][0])) < 4 * se + 5 / 400


def test_the_run_file_and_bad_problems() -> None:
    curve = dl.solve(dl.load(RUN))
    assert np.all(np.diff(curve["test_risk"].values) < 0)
    assert np.all(np.diff(curve["test_accuracy"].values) > 0)
    for override in (
        {"data.gamma": 0.0},
        {"grid.train_fraction": [1.0]},
        {"loss.ridge": -1.0},
        {"loss.function": "hinge"},
    ):
        with pytest.raises(dl.ConfigError):
            dl.load(RUN, override)
    for loop in (0.0, 0.5):
        system = dl.derive(dl.load(RUN, {"student.self_loop": loop}))
        assert "gamma" in system.latex()
        assert "self-loop" in system.explain()
    assert "def derivatives" in system.python()
