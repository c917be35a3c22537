"""Tangent-kernel regression: reference curves, its two limits, the derivative in the ridge, simulation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.numerics.random_matrix import marchenko_pastur_expectation
from dimladder.theories.ntk_ridge import moments
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.ntk_ridge import EXPERIMENT

RUN = Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "triple-descent.toml"


@pytest.mark.parametrize(
    ("variance", "reference"),
    [
        (0.0, [1.085, 1.019, 0.830, 0.984, 12.588, 1.012, 0.351, 0.227, 0.194, 0.187]),
        (0.01, [0.204, 0.219, 0.271, 0.581, 0.658, 0.557, 0.324, 0.223, 0.193, 0.187]),
        (1.0, [0.204, 0.212, 0.217, 0.208, 0.205, 0.203, 0.198, 0.193, 0.189, 0.188]),
    ],
)
def test_reference_curves(variance: float, reference: list[float]) -> None:
    curve = dl.solve(dl.load(RUN, {"student.readout_variance": variance}))
    np.testing.assert_allclose(curve["test_mse"], reference, atol=6e-4)


def test_moments_of_the_activation() -> None:
    tanh = moments("tanh")
    np.testing.assert_allclose(tanh, [0.0, 0.394294 - 0.366879, 0.366879, 0.464403 - 0.366879], atol=6e-7)
    relu = moments("relu")
    np.testing.assert_allclose(relu, [1 / math.sqrt(2 * math.pi), 0.25 - 0.5 / math.pi, 0.25, 0.25], atol=1e-12)
    # A linear activation leaves nothing: rounding of a difference would stand beside the ridge.
    linear = moments("3*x - 1")
    np.testing.assert_allclose(linear, [-1.0, 0.0, 9.0, 0.0], atol=1e-14)
    assert linear[1] == linear[3] == 0.0


def test_infinite_width_is_kernel_ridge_regression() -> None:
    """k = 1: the resolvent of a shifted Marchenko-Pastur matrix, integrated."""
    noise, phi, ridge, s2 = 0.3, 0.7, 0.02, 0.4
    override = {
        "target.noise": noise, "data.sample_ratio": 1 / phi, "loss.ridge": ridge, "student.readout_variance": s2,
        "student.layers": [{"activation": "relu"}], "grid.width_ratio": [1e9],
    }  # fmt: skip
    curve = dl.solve(dl.load(RUN, override))
    eta, zeta, etap = 0.5 - 0.5 / math.pi, 0.25, 0.5
    a, b = ridge + s2 * (etap - zeta) + eta - zeta, zeta * (1 + s2)

    def mean(f: Any) -> float:
        return marchenko_pastur_expectation(f, 1 / phi)

    train = ridge**2 * mean(lambda x: (noise**2 + x) / (a + b * x) ** 2)
    assert float(curve["train_mse"][0]) == pytest.approx(train, rel=1e-6)
    assert float(curve["test_mse"][0]) == pytest.approx(
        train / (ridge * mean(lambda x: 1 / (a + b * x))) ** 2, rel=1e-6
    )


def test_linear_features_without_noise_of_their_own() -> None:
    """s(x) = x, many units and more samples than inputs: ridgeless least squares, noise/(1 - phi)."""
    override = {
        "student.layers": [{"activation": "linear"}], "loss.ridge": 1e-7, "student.readout_variance": 0.5,
        "grid.width_ratio": [50.0], "target.noise": 0.4,
    }  # fmt: skip
    curve = dl.solve(dl.load(RUN, override))
    assert float(curve["test_mse"][0]) == pytest.approx(0.16 / (1 - 0.5), rel=1e-5)
    assert float(curve["train_mse"][0]) == pytest.approx(0.16 * (1 - 0.5), rel=1e-5)


@pytest.mark.parametrize(("activation", "variance"), [("tanh", 0.01), ("tanh", 0.0), ("linear", 0.5), ("relu", 1.0)])
def test_extreme_ridges(activation: str, variance: float) -> None:
    """ridge -> infinity: errors of predicting zero, 1 + noise^2, to first order in 1/ridge; ridge -> 0: a limit."""

    def errors(ridge: float) -> dl.LearningCurve:
        override = {
            "student.layers": [{"activation": activation}], "student.readout_variance": variance, "loss.ridge": ridge,
            "grid.width_ratio": [0.3, 3.0],
        }  # fmt: skip
        return dl.solve(dl.load(RUN, override))

    gaps = []
    for ridge in (1e6, 1e12, 1e140):
        curve = errors(ridge)
        np.testing.assert_allclose(curve["test_mse"], 1.1, rtol=20 / ridge + 1e-12)
        np.testing.assert_allclose(curve["train_mse"], 1.1, rtol=20 / ridge + 1e-12)
        gaps.append(1.1 - curve["test_mse"].values)
    assert np.all(gaps[0] > 1e-8), "the kernel is learnt at first order"
    small = errors(1e-12)
    for ridge in (1e-20, 1e-140):
        np.testing.assert_allclose(errors(ridge)["test_mse"], small["test_mse"], rtol=1e-6)


@pytest.mark.parametrize(
    "override",
    [
        {
            "student.readout_variance": 0.5,
            "student.layers": [{"activation": "relu"}],
            "data.sample_ratio": 0.625,
            "target.noise": 0.5,
        },
        {
            "student.readout_variance": 0.0,
            "student.layers": [{"activation": "tanh(x + 0.4)"}],
            "data.sample_ratio": 1 / 0.6,
            "target.noise": 0.2,
        },
    ],
)
def test_simulation(override: dict[str, Any]) -> None:
    """m = 300, 16 data sets: four standard errors and an O(1/m) allowance of 15/m, relative; the curve moves more."""
    problem = dl.load(RUN, {**override, "loss.ridge": 0.05, "grid.width_ratio": [0.4, 1.0, 4.0]})
    curve = dl.solve(problem)
    sample = EXPERIMENT.run(problem, 300, [np.random.default_rng([1, k]) for k in range(16)], backend_for())
    for name in ("test_mse", "train_mse"):
        values, theory = np.asarray(sample.variables[name][1]), curve[name].values
        se = values.std(axis=0, ddof=1) / 4
        assert np.all(np.abs(values.mean(axis=0) - theory) < 4 * se + 15 / 300 * theory), name
        assert abs(theory[0] - theory[-1]) > 6 * se.max(), name


def test_the_size_of_the_signal() -> None:
    """y = c z + noise xi: errors are c^2 times those at noise/c; samples and dimension stand for their ratio."""
    unit = dl.solve(dl.load(RUN, {"target.noise": 0.2}))
    scaled = dl.solve(dl.load(RUN, {"target.noise": 0.6, "target.formula": "-3*z"}))
    for name in unit:
        np.testing.assert_allclose(scaled[name], 9 * unit[name].values, rtol=1e-11)
    data = {"kind": "gaussian", "samples": 300, "dimension": 150}
    np.testing.assert_array_equal(
        dl.solve(dl.load(RUN, {"data": data}))["test_mse"], dl.solve(dl.load(RUN))["test_mse"]
    )


def test_bad_problems_are_refused() -> None:
    for override in (
        {"data.sample_ratio": 0.0},
        {"loss.ridge": 0.0},
        {"loss.ridge": 1e-200},
        {"target.noise": -0.1},
        {"grid.width_ratio": [0.0]},
    ):
        with pytest.raises(dl.ConfigError):
            dl.load(RUN, override)
    for override in (
        {"target.formula": "tanh(z)"},
        {"student.layers": [{"activation": "tanh"}, {"activation": "relu"}]},
        {"student.layers": [{"activation": "tanh", "width_ratio": 2.0}]},
        {"loss.function": "logistic"},
        {"loss": {"ridge_per_sample": 0.1}},
        {"data": {"kind": "gaussian"}},
        {"data.spectrum": {"exponent": 0.5, "levels": 10}},
    ):
        with pytest.raises(dl.ConfigError):
            dl.load(RUN, {**override, "theory": "ntk-ridge"})
    # The size of an activation is no reason to refuse it.
    small, scale = moments("1e-8*tanh(x)"), np.array([1e-8, 1e-16, 1e-16, 1e-16])
    np.testing.assert_allclose(small / scale, moments("tanh"), rtol=1e-9, atol=1e-15)
    for activation, match in (
        ("quadratic", "linear part"),
        ("sign", "jumps"),
        ("exp(x^2/3)", "second moment"),
        ("x*abs(x)^(-0.45)", "do not converge"),
    ):
        with pytest.raises(dl.ConfigError, match=match):
            dl.solve(dl.load(RUN, {"student.layers": [{"activation": activation}]}))
