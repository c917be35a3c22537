"""Kernel renormalisation of deep linear networks: reference values, limits, and Gibbs sampling."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.problem.regression import linear_teacher_data
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.deep_linear_posterior import EXPERIMENT

RUN = Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "deep-linear-posterior.toml"


@pytest.mark.parametrize(
    ("alignment", "expected"),
    [
        (0.3, [0.6000, 0.4841, 0.4318, 0.3836, 0.3435]),
        (1.0, [1.0] * 5),
        (3.0, [1.6524, 1.9852, 2.1861, 2.4169, 2.6586]),
    ],
)
def test_reference_scales(alignment: float, expected: list[float]) -> None:
    curve = dl.solve(dl.load(RUN, {"data.label_alignment": alignment}))
    np.testing.assert_allclose(curve["kernel_scale"], expected, atol=6e-5)


@pytest.mark.parametrize(
    ("alpha", "alignment", "variance"), [(0.8, 0.3, 1.0), (0.2, 4.0, 0.5), (2.5, 1.7, 1.3), (1.5, 1e-4, 2.0)]
)
def test_the_saddle_equation_holds_and_depth_moves_monotonically(
    alpha: float, alignment: float, variance: float
) -> None:
    problem = dl.load(
        RUN,
        {
            "data.alpha": alpha,
            "data.label_alignment": alignment,
            "student.weight_variance": variance,
            "grid.depth": [1, 2, 4, 8, 16],
        },
    )
    curve = dl.solve(problem)
    for depth, scale in zip(curve["depth"].values, curve["kernel_scale"].values, strict=True):
        u = scale ** (1 / int(depth))
        assert 1 - u / variance == pytest.approx(
            alpha * (1 - alignment / scale), abs=1e-9 * max(1.0, alignment / scale)
        )
    if alpha == 0.8:  # one layer by hand: u^2 - (1 - alpha) u - alpha r0 = 0
        u = (0.2 + math.sqrt(0.04 + 4 * alpha * alignment)) / 2
        assert float(curve["kernel_scale"][0]) == pytest.approx(u, rel=1e-12)


def test_many_hidden_units_give_the_infinitely_wide_kernel() -> None:
    curve = dl.solve(dl.load(RUN, {"data.alpha": 1e-6, "student.weight_variance": 0.7, "grid.depth": [1, 3]}))
    np.testing.assert_allclose(curve["kernel_scale"], [0.7, 0.343], rtol=1e-5)


def teacher(
    samples: int = 30, dimension: int = 60, width: int = 20, noise: float = 0.3, seed: int = 2
) -> dict[str, Any]:
    """Return the overrides that put a linear teacher in the place of the kernel law."""
    return {
        "data": {"kind": "gaussian", "samples": samples, "dimension": dimension, "seed": seed},
        "target": {"kind": "index", "formula": "z", "noise": noise},
        "student.width": width,
    }


TEACHER = teacher()


def test_temperature_zero_is_the_limit_of_small_temperatures() -> None:
    base = {**TEACHER, "grid.depth": [1, 2, 3]}
    cold = dl.solve(dl.load(RUN, base))
    warm = [dl.solve(dl.load(RUN, {**base, "algorithm.temperature": t})) for t in (1e-3, 1e-4)]
    gaps = [np.abs(w["kernel_scale"].values - cold["kernel_scale"].values) for w in warm]
    # Linear in T.
    assert np.all(gaps[1] < 0.15 * gaps[0])
    # At T = 0 the posterior mean does not depend on depth, the variance is proportional to the scale.
    np.testing.assert_allclose(cold["bias"], cold["bias"][0], rtol=1e-9)
    np.testing.assert_allclose(
        cold["predictor_variance"] / cold["kernel_scale"],
        float(cold["predictor_variance"][0] / cold["kernel_scale"][0]),
    )
    np.testing.assert_allclose(cold["mse"], cold["bias"] + cold["predictor_variance"])
    # The given data's own alignment, put into the abstract equation.
    x, y, _ = linear_teacher_data(dl.load(RUN, base))
    alignment = float(y @ np.linalg.solve(x.T @ x / 60, y)) / 30
    abstract = dl.solve(dl.load(RUN, {"data.alpha": 1.5, "data.label_alignment": alignment, "grid.depth": [1, 2, 3]}))
    np.testing.assert_allclose(abstract["kernel_scale"], cold["kernel_scale"], rtol=1e-9)


def test_test_error_against_fresh_inputs() -> None:
    """Bias and variance of the Gaussian process over 2e5 fresh inputs; relative error about 3/sqrt(2e5)."""
    problem = dl.load(RUN, {**TEACHER, "algorithm.temperature": 0.1, "student.weight_variance": 0.8, "grid.depth": [2]})
    curve = dl.solve(problem)
    x, y, target = linear_teacher_data(problem)
    kappa = float(curve["kernel_scale"][0])
    fresh = np.random.default_rng(0).standard_normal((60, 200_000))
    cross = kappa * 0.8 / 60 * x.T @ fresh
    total = kappa * 0.8 / 60 * x.T @ x + 0.1 * np.eye(30)
    mean = y @ np.linalg.solve(total, cross)
    variance = kappa * 0.8 / 60 * np.sum(fresh**2, axis=0) - np.sum(cross * np.linalg.solve(total, cross), axis=0)
    assert float(curve["bias"][0]) == pytest.approx(np.mean((mean - target @ fresh / math.sqrt(60)) ** 2), rel=0.02)
    assert float(curve["predictor_variance"][0]) == pytest.approx(variance.mean(), rel=0.02)


@pytest.mark.parametrize("temperature", [1e-6, 1e-12, 1e-3])
def test_more_examples_than_dimensions_leave_null_modes_null(temperature: float) -> None:
    """100 examples in 40 dimensions: the equation over the 40 modes of X X^T, whose inverse exists, and T -> 0 limits.

    Projected on the row space of X the labels are those of the least-squares teacher; along the other 60 modes
    nothing can move. Rounded instead of exactly null, these make a saddle of their own at kappa ~ T/rounding.
    """
    data = teacher(100, 40, noise=1.0, seed=3)
    depths = [1, 2, 3]
    problem = dl.load(RUN, {**data, "algorithm.temperature": temperature, "grid.depth": depths})
    curve = dl.solve(problem)
    x, y, target = linear_teacher_data(problem)
    gram = x @ x.T / 40
    values, vectors = np.linalg.eigh(gram)
    seen = (vectors.T @ (x @ y) / math.sqrt(40)) ** 2 / values  # y_i^2 of the 40 modes
    for depth, kappa in zip(depths, curve["kernel_scale"].values, strict=True):
        total = kappa * values + temperature
        right = np.sum(kappa * values / total - kappa * values * seen / total**2) / 20
        assert 1 - kappa ** (1 / depth) == pytest.approx(right, abs=1e-9)
    if temperature < 1e-3:
        assert float(curve["kernel_scale"][1]) == pytest.approx(1.449, abs=1e-3)
        assert float(curve["bias"][1]) == pytest.approx(0.7309, abs=1e-4)
        least = np.linalg.lstsq(x.T, y, rcond=None)[0]
        assert float(curve["bias"][1]) == pytest.approx(float(np.sum((least - target / math.sqrt(40)) ** 2)), rel=1e-4)
        # Var f = T tr (X X^T)^{-1} once the examples fix every weight.
        np.testing.assert_allclose(curve["predictor_variance"], temperature * np.sum(1 / values) / 40, rtol=1e-4)


@pytest.mark.parametrize(
    ("alpha", "alignment", "variance"),
    [(2.0, 1e-80, 1.0), (0.8, 0.3, 1e60), (0.8, 0.3, 1e-60), (0.5, 1e140, 1.0), (1e9, 0.3, 1.0), (1.0, 1e-30, 1.0)],
)
def test_the_saddle_is_found_at_any_scale(alpha: float, alignment: float, variance: float) -> None:
    """One hidden layer by hand: u^2 - s2 (1 - alpha) u - s2 alpha r0 = 0."""
    override = {"data.alpha": alpha, "data.label_alignment": alignment, "student.weight_variance": variance}
    curve = dl.solve(dl.load(RUN, override | {"grid.depth": [1, 3]}))
    # The positive root without cancellation: for alpha > 1 the linear term is positive.
    b, c = variance * (1 - alpha), variance * alpha * alignment
    root = math.hypot(b, 2 * math.sqrt(c))
    u = 2 * c / (root - b) if b < 0 else (b + root) / 2
    assert float(curve["kernel_scale"][0]) == pytest.approx(u, rel=1e-9)


def test_gibbs_sampling_agrees_and_the_unrenormalised_kernel_does_not() -> None:
    """Zero temperature, abstract data: mean over chains within four standard errors and an O(1/N) allowance."""
    problem = dl.load(RUN, {"grid.depth": [1, 2], "simulation.sweeps": 150})
    sample = EXPERIMENT.run(problem, 30, [np.random.default_rng(k) for k in range(6)], backend_for())
    values = np.asarray(sample.variables["kernel_scale"][1])
    mean, se = values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(6)
    expected = dl.solve(EXPERIMENT.at_size(problem, 30))["kernel_scale"].values
    assert np.all(np.abs(mean - expected) < 4 * se + 1.0 / 30)
    assert np.all(np.abs(mean - 1.0) > 6 * se)


def test_gibbs_sampling_at_finite_temperature() -> None:
    problem = dl.load(
        RUN,
        {
            **teacher(15, 30),
            "algorithm.temperature": 0.05,
            "grid.depth": [1],
            "simulation.sweeps": 250,
        },
    )
    sample = EXPERIMENT.run(problem, 25, [np.random.default_rng(k) for k in range(8)], backend_for())
    values = np.asarray(sample.variables["kernel_scale"][1])
    se = values.std(axis=0, ddof=1) / math.sqrt(8)
    expected = dl.solve(EXPERIMENT.at_size(problem, 25))["kernel_scale"].values
    assert np.all(np.abs(values.mean(axis=0) - expected) < 4 * se + 1.0 / 25)


def test_bad_problems_are_refused() -> None:
    for override, message in (
        ({"algorithm.temperature": 0.1}, "spectrum of the kernel"),
        ({"data.alpha": 0.0}, "alpha must be positive"),
        ({"grid.depth": [0]}, "depth must be positive"),
        ({"grid.depth": [2, 2]}, "distinct"),
        ({"student.activation": "tanh"}, "linear"),
        ({"student.width": 5}, "kernel-law"),
        (teacher(samples=80), "samples <= dimension"),
    ):
        with pytest.raises(dl.ConfigError, match=message):
            dl.load(RUN, override)
    with pytest.raises(dl.DomainError, match="no solution"):
        dl.solve(dl.load(RUN, {"data.alpha": 2.0, "data.label_alignment": 0.0}))
    text = dl.derive(dl.load(RUN, TEACHER))
    assert "lambda" in text.latex()
    assert "def residual" in text.python()
    assert "kernel" in text.explain()
