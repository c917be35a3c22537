"""Ridge regression with two feature scales: reference curves, limits, and simulation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.multiscale_ridge import EXPERIMENT


def scales(ratio: float, fast: float = 0.7) -> dict[str, Any]:
    """Return the override that makes the slow features `ratio` times smaller than the fast ones of scale 1/2."""
    return {"data.spectrum": {"fractions": [fast, 1.0 - fast], "variances": [0.25, 0.25 / ratio**2]}}


RUN = Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "multiscale.toml"


@pytest.mark.parametrize(
    ("ratio", "exact", "decoupled"),
    [
        (100.0, [0.3578, 0.2343, 0.2610, 0.2681, 0.2009], [0.3578, 0.2342, 0.2601, 0.2593, 0.1570]),
        (10.0, [0.3568, 0.2251, 0.1847, 0.0494, 0.0021], [0.3566, 0.2206, 0.1468, 0.0204, 0.0004]),
    ],
)
def test_reference_curves(ratio: float, exact: list[float], decoupled: list[float]) -> None:
    curve = dl.solve(dl.load(RUN, scales(ratio)))
    np.testing.assert_allclose(curve["generalization_error"], exact, atol=6e-5)
    np.testing.assert_allclose(curve["generalization_error_decoupled"], decoupled, atol=6e-5)


def test_equal_scales_are_isotropic_ridge_regression() -> None:
    """scale_ratio = 1: kappa from the Marchenko-Pastur law, by hand."""
    p = {**scales(1.0), "data.samples": 60, "target.noise": 0.3, "grid.time_ridge": [0.5, 20.0, 1e4]}
    curve = dl.solve(dl.load(RUN, p))
    for time, error in zip(curve["time_ridge"].values, curve["generalization_error"].values, strict=True):
        e, n, d = 0.25 / 100, 60, 100
        b = e * (n - d) - 1 / time
        kappa = (-b + math.sqrt(b * b + 4 * n * e / time)) / (2 * n)
        df2 = d * (e / (e + kappa)) ** 2
        assert error == pytest.approx(((kappa / (e + kappa)) ** 2 + 0.09 * df2 / n) / (1 - df2 / n) / 2, rel=1e-10)


def test_the_published_form_is_the_limit_of_a_wide_gap() -> None:
    """At fixed time the slow block falls silent as scale_ratio grows; the two forms agree to its square."""
    gaps = []
    for ratio in (1e2, 1e3):
        curve = dl.solve(dl.load(RUN, {**scales(ratio), "grid.time_ridge": [30.0]}))
        gaps.append(abs(float(curve["generalization_error"][0] - curve["generalization_error_decoupled"][0])))
    assert gaps[1] < 0.02 * gaps[0]


def test_limits_of_early_and_late_times() -> None:
    curve = dl.solve(dl.load(RUN, {"grid.time_ridge": [1e-9, 1e14]}))
    np.testing.assert_allclose(curve["generalization_error"], [0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(curve["overlap"], [0.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(
        curve["generalization_error"], (1 - 2 * curve["overlap"] + curve["norm"]) / 2, atol=1e-12
    )
    # Fewer samples than features: interpolation leaves the unseen part.
    few = dl.solve(dl.load(RUN, {"data.samples": 40, **scales(1.0), "grid.time_ridge": [1e12]}))
    assert float(few["generalization_error"][0]) == pytest.approx(0.5 * (1 - 0.4), rel=1e-6)


def test_the_ends_of_time() -> None:
    """time_ridge = 1e-300 learns nothing, to first order in the time; 1e150 is the ridgeless fit."""
    times = [1e-300, 1e-200, 1e-30, 1e-8, 1e8, 1e30, 1e140, 1e150]
    curve = dl.solve(dl.load(RUN, {"grid.time_ridge": times, "target.noise": 0.3}))
    for name in curve:
        assert np.all(np.isfinite(curve[name].values)), name
    np.testing.assert_allclose(curve["generalization_error"][:3], 0.5, rtol=1e-14)
    np.testing.assert_allclose(curve["generalization_error_decoupled"][:3], 0.5, rtol=1e-12)
    # R = t n/d sum e_i to first order: n/d (p s1^2 + (d - p) s2^2)/d per unit of time; Q is of second order.
    slope = 1.5 * (0.7 * 0.25 + 0.3 * 2.5e-5)
    np.testing.assert_allclose(curve["overlap"][:3], slope * np.array(times[:3]), rtol=1e-9)
    assert float(curve["norm"][0]) == 0.0
    assert 0 < float(curve["norm"][2]) < 1e-55
    # More samples than features: noise^2 (d/n)/(1 - d/n)/2 of least squares.
    np.testing.assert_allclose(curve["generalization_error"][-3:], 0.09 * (2 / 3) / (1 / 3) / 2, rtol=1e-9)


@pytest.mark.parametrize("override", [{}, {"target.noise": 0.4, "data.samples": 90, **scales(6.0)}])
def test_simulation(override: dict[str, Any]) -> None:
    """d = 200, 30 data sets: four standard errors and an O(1/d) allowance of 2/d, relative."""
    problem = dl.load(RUN, override)
    sample = EXPERIMENT.run(problem, 200, [np.random.default_rng([1, k]) for k in range(30)], backend_for())
    curve = dl.solve(problem)
    for name in ("generalization_error", "overlap", "norm"):
        values = np.asarray(sample.variables[name][1])
        se = values.std(axis=0, ddof=1) / math.sqrt(30)
        assert np.all(np.abs(values.mean(axis=0) - curve[name].values) < 4 * se + 2 / 200 * curve[name].values)
    if not override:
        # The published form is excluded at the late times.
        late = np.asarray(sample.variables["generalization_error"][1])[:, -1]
        gap = late.mean() - float(curve["generalization_error_decoupled"][-1])
        assert gap > 4 * late.std(ddof=1) / math.sqrt(30)


def test_bad_problems_are_refused() -> None:
    for override in (
        scales(10.0, fast=1.0),
        scales(10.0, fast=0.705),
        {"data.spectrum": {"fractions": [0.7, 0.3], "variances": [0.25, 0.0]}},
        {"target.power": [0.5, 0.5]},
        {"target.formula": "2*z"},
        {"loss.ridge": 0.1},
        {"grid.time_ridge": [0.0]},
        {"grid.time_ridge": [1e-310]},
        {"target.noise": -1.0},
    ):
        with pytest.raises(dl.ConfigError):
            dl.load(RUN, override)
    system = dl.derive(dl.load(RUN))
    assert r"\lambda" in system.latex()
    assert "kappa" in system.explain()
    assert "def observe" in system.python()


@pytest.mark.parametrize("ratio", [3.0, 100.0])
def test_the_exact_errors_are_those_of_ridge_regression_on_two_blocks(ratio: float) -> None:
    """The estimation engine's closed form, asked for the same spectrum and a latent teacher, at every ridge 1/t."""
    from dimladder.theories.estimation.regression import ridge_fit
    from dimladder.theories.estimation.spectrum import Covariance

    noise, times = 0.3, [0.7, 30.0, 1e3, 1e6]
    curve = dl.solve(dl.load(RUN, {**scales(ratio), "target.noise": noise, "grid.time_ridge": times}))
    om, shares = np.array([0.25, 0.25 / ratio**2]), np.array([0.7, 0.3])
    # The latent teacher: |w*|^2 in a block falls as 1/om, so that Cov(x, z)^2 = share om.
    blocks = Covariance(shares, om, shares * om, 1.0)
    for i, time in enumerate(times):
        fit = ridge_fit(blocks, 1.5, 1.0 / time, (0.0, 1.0 + noise**2, 1.0))
        assert (fit.test - noise**2) / 2 == pytest.approx(float(curve["generalization_error"][i]), rel=1e-10)
        assert fit.m == pytest.approx(float(curve["overlap"][i]), rel=1e-12)
        assert fit.q == pytest.approx(float(curve["norm"][i]), rel=1e-10)
