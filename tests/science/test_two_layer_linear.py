"""Implicit bias of two-layer linear networks: the reduced flow, its limit, and the missing factor of the published
limit.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

import dimladder as dl
from dimladder.problem.regression import least_squares_data, spectrum_of
from dimladder.theories.two_layer_linear import limit
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.two_layer_linear import EXPERIMENT

RUN = Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "implicit-bias.toml"


def test_the_run_file_reaches_the_corrected_limit_and_not_the_printed_one() -> None:
    curve = dl.solve(dl.load(RUN))
    assert float(curve["limit_gap_corrected"]) < 1e-9
    assert float(curve["limit_gap_printed"]) > 0.1
    assert float(curve["solution_gap"][-1]) == float(curve["limit_gap_corrected"])
    assert np.all(np.diff(curve["loss"].values) <= 1e-14)


@pytest.mark.parametrize(
    ("samples", "dimension", "norm", "seed"), [(20, 60, 0.5, 5), (6, 9, 2.0, 1), (12, 7, 0.3, 2), (1, 4, 1.0, 3)]
)
def test_reduced_flow_equals_the_flow_of_theta(samples: int, dimension: int, norm: float, seed: int) -> None:
    """Against the vector equation, more samples than dimensions included."""
    problem = dl.load(
        RUN,
        {
            "data.samples": samples,
            "data.dimension": dimension,
            "student.initial_norm": norm,
            "data.seed": seed,
            "grid.time": [0.0, 0.01, 0.1, 1.0, 20.0],
        },
    )
    x, y, target, start = least_squares_data(problem)

    def velocity(_: float, theta: np.ndarray) -> np.ndarray:
        slope = x.T @ (x @ theta - y)
        length = np.linalg.norm(theta)
        return -length * slope - theta * (theta @ slope) / length

    curve = dl.solve(problem)
    path = solve_ivp(velocity, (0, 20), start, t_eval=curve["time"].values, method="DOP853", rtol=1e-11, atol=1e-13).y.T
    np.testing.assert_allclose(curve["loss"], 0.5 * np.sum((path @ x.T - y) ** 2, axis=1), atol=1e-8)
    np.testing.assert_allclose(curve["risk"], np.sum((path - target) ** 2, axis=1), atol=1e-8)
    if samples >= dimension:
        least = np.linalg.lstsq(x, y, rcond=None)[0]
        assert np.linalg.norm(path[-1] - least) == pytest.approx(float(curve["solution_gap"][-1]), abs=1e-7)


@pytest.mark.parametrize("norm", [1e-10, 1e-20, 1e-30, 1e-200])
@pytest.mark.parametrize("shape", [(5, 8), (9, 6)])
def test_tiny_starts_leave_the_saddle_at_the_right_time(norm: float, shape: tuple[int, int]) -> None:
    """Against the flow of theta/sqrt|theta| = sqrt(norm) v, v' = -|v| g: O(1) at the start, whatever the norm."""
    last = 12.0 - 0.2 * math.log(norm)
    times = [0.0, *np.linspace(0.04, 1.0, 25) * last]
    override = {"data.samples": shape[0], "data.dimension": shape[1], "student.initial_norm": norm, "grid.time": times}
    problem = dl.load(RUN, override)
    curve = dl.solve(problem)
    x, y, target, start = least_squares_data(problem)

    def velocity(_: float, v: np.ndarray) -> np.ndarray:
        return -np.linalg.norm(v) * (x.T @ (x @ (norm * np.linalg.norm(v) * v) - y))

    path = solve_ivp(velocity, (0, last), start / norm, t_eval=times, method="DOP853", rtol=1e-12, atol=1e-12).y.T
    theta = norm * np.linalg.norm(path, axis=1, keepdims=True) * path
    # The steep part of the curve turns an error of log|theta| of 1e-9 into one of the risk of the same size.
    np.testing.assert_allclose(curve["risk"], np.sum((theta - target) ** 2, axis=1), atol=3e-8)
    np.testing.assert_allclose(curve["loss"], 0.5 * np.sum((theta @ x.T - y) ** 2, axis=1), atol=3e-7)
    assert float(curve["loss"].max() - curve["loss"].min()) > 1.0, "the saddle is left within the grid"
    sample = EXPERIMENT.run(problem, 2, [np.random.default_rng(0)], backend_for())
    np.testing.assert_allclose(sample.variables["risk"][1][0], curve["risk"], atol=3e-8)


def test_the_whole_network_follows_the_reduced_flow_at_any_width() -> None:
    problem = dl.load(RUN, {"data.samples": 5, "data.dimension": 12, "grid.time": [0.0, 0.02, 0.2, 2.0]})
    curve = dl.solve(problem)
    for width in (1, 3):
        sample = EXPERIMENT.run(problem, width, [np.random.default_rng(k) for k in range(2)], backend_for())
        for name in ("loss", "solution_gap", "risk"):
            np.testing.assert_allclose(
                sample.variables[name][1], np.repeat(curve[name].values[None], 2, axis=0), atol=1e-8
            )


def test_the_corrected_limit_minimises_the_corrected_objective() -> None:
    """|theta|^{3/2} - (3/2) w.theta over interpolators; the printed formula minimises it without the 3/2."""
    rng = np.random.default_rng(0)
    x, y, w = rng.standard_normal((4, 9)), rng.standard_normal(4), rng.standard_normal(9)
    least = np.linalg.pinv(x) @ y
    null = np.linalg.svd(x)[2][4:].T
    for factor, printed in ((1.5, False), (1.0, True)):
        best = minimize(
            lambda u, f=factor: np.linalg.norm(least + null @ u) ** 1.5 - f * w @ (least + null @ u),
            np.zeros(5),
            tol=1e-12,
            options={"gtol": 1e-10},
        ).x
        np.testing.assert_allclose(least + null @ best, limit(least, null @ (null.T @ w), printed=printed), atol=1e-5)


def test_without_data_theta_stays_and_only_the_corrected_limit_knows() -> None:
    start = np.array([0.3, -0.8, 0.1])
    w = start / math.sqrt(np.linalg.norm(start))
    np.testing.assert_allclose(limit(np.zeros(3), w), start, atol=1e-15)
    np.testing.assert_allclose(limit(np.zeros(3), w, printed=True), 4 / 9 * start, atol=1e-15)


def test_spike_model_risks_fall_when_the_start_points_at_the_target() -> None:
    """Reference (sigma = .5, 5 spikes, n = 100, p = 2000, tail .01): risk .0530 of least squares, .0216 of the
    limit, alpha 1.2582.
    """
    alphas, risks, least_risks = [], [], []
    scale = math.sqrt(1995 * 0.01 / (0.25 * 100))
    for seed in range(12):
        spectrum = {"variances": [1.0, 0.01], "fractions": [5 / 2000, 1995 / 2000]}
        problem = dl.problem(
            data={"samples": 100, "dimension": 2000, "spectrum": spectrum, "seed": seed},
            target={"kind": "index", "formula": "z", "noise": 0.5, "power": [1.0, 0.0]},
            student={
                "kind": "deep", "activation": "linear", "hidden_layers": 1, "initial_norm": scale,
                "direction": "target",
            },
            algorithm={"kind": "gradient-flow"},
            grid={"time": np.geomspace(0.1, 200.0, 40)},
        )  # fmt: skip
        system = dl.derive(problem)
        _, _, target, start = least_squares_data(problem)
        least = system.modes.T @ (system.labels / system.singular)
        end = system.limits["corrected"]
        w = start / math.sqrt(np.linalg.norm(start))
        hidden = w - system.modes.T @ (system.modes @ w)
        alphas.append(float((end - least) @ hidden / (hidden @ hidden)))
        spectrum = spectrum_of(problem.data)
        risks.append(float(((end - target) ** 2) @ spectrum))
        least_risks.append(float(((least - target) ** 2) @ spectrum))
    # Self-averaging to a few percent a draw (alpha), twenty to thirty percent (risks); twelve draws.
    assert np.mean(alphas) == pytest.approx(1.2582, rel=0.03)
    assert np.mean(least_risks) == pytest.approx(0.0530, rel=0.25)
    assert np.mean(risks) == pytest.approx(0.0216, rel=0.25)


def test_bad_problems_are_refused() -> None:
    for override, message in (
        ({"student.initial_norm": 0.0}, "saddle"),
        ({"data.samples": 0}, "at least 1"),
        ({"target.formula": "z**2"}, "linear"),
        ({"loss.function": "logistic"}, "least squares"),
        ({"student.hidden_layers": 2}, "one hidden layer"),
        ({"data.sample_ratio": 2.0}, "sample_ratio"),
        ({"student.richness": 0.5}, "student.richness: is not read"),
        ({"target.noise": -1.0}, "negative"),
        ({"data.spectrum": {"variances": [1.0, 0.1], "fractions": [0.11, 0.89]}}, "whole numbers"),
        ({"data.spectrum": {"fractions": [0.1, 0.9]}, "target.power": [1.0]}, "2 blocks"),
        ({"data.spectrum": {"fractions": [0.1, 0.9]}, "target.power": "latent"}, "latent"),
        ({"target.power": [1.0]}, "not given"),
    ):
        with pytest.raises(dl.ConfigError, match=message):
            dl.load(RUN, override)
    system = dl.derive(dl.load(RUN))
    assert "omega" in system.latex()
    assert "|theta|" in system.explain()
    assert "def rhs" in system.python()
