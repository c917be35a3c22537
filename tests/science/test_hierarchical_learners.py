"""The joint picture: every part of it against the theory or the experiment that it is made of."""

import math
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import ConfigError
from dimladder.theories.hierarchical.learners import KernelErrors
from dimladder_validation import simulate

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"
LEARNERS = RUNS / "hierarchical-learners.toml"


def test_the_picture_is_made_of_its_theories():
    problem = dl.load(LEARNERS, {"grid.kappa": [1.2, 1.6, 2.1]})
    curve = dl.solve(problem)
    shared = {"grid": {"kappa": [1.2, 1.6, 2.1]}, "target.readout": "rademacher", "limit.d": 25}
    alone = dl.solve(dl.load(RUNS / "hierarchical-paper.toml", shared))
    stairs = dl.solve(dl.load(RUNS / "hierarchical-plateaus.toml", {"grid": {"kappa": [1.2, 1.6, 2.1]}}))
    np.testing.assert_allclose(curve["mse"].sel(estimator="three layers"), alone["mse"], rtol=1e-12)
    np.testing.assert_allclose(curve["subspace_overlap"].sel(branch=1), alone["subspace_overlap"], rtol=1e-12)
    np.testing.assert_allclose(curve["plateau"], stairs["mse"], rtol=1e-12)
    np.testing.assert_allclose(curve["threshold"], stairs["threshold"], rtol=1e-12)
    assert float(curve["null_mse"]) == pytest.approx(float(alone["null_mse"]), rel=1e-12)


@pytest.mark.parametrize("readout", ["ones", "rademacher"])
def test_quadratic_kernel_by_simulation(readout):
    """1 + x.x' + (x.x')^2 with penalty lam n at d = 20, n = 400, a target with a linear part, label noise."""
    d, n, ridge = 20, 400, 0.7
    problem = dl.load(LEARNERS, {
        "target.readout": readout, "target.noise": 0.3, "target.link": "tanh(2*h) + 0.3*h",
        "target.features": [{"1": 0.4, "2": 0.7, "3": 0.3}], "limit.d": d,
    })  # fmt: skip
    predicted = KernelErrors.of(problem.target, d, ridge).error(n)
    rng = np.random.default_rng(6)
    d_eff, found = 4, []
    for _ in range(40):
        a = np.ones(d_eff) if readout == "ones" else rng.choice([-1.0, 1.0], d_eff)
        x = rng.standard_normal((n + 2000, d))
        z = x[:, :d_eff]
        h = (0.4 * z + 0.7 * (z**2 - 1) / 2**0.5 + 0.3 * (z**3 - 3 * z) / 6**0.5) @ a / 2
        f = np.tanh(2 * h) + 0.3 * h
        product = x @ x[:n].T
        kernel = 1 + product + product**2
        y = f[:n] + 0.3 * rng.standard_normal(n)
        fit = kernel[n:] @ np.linalg.solve(kernel[:n] + ridge * n * np.eye(n), y)
        found.append(np.mean((fit - f[n:]) ** 2))
    se = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) - predicted) < 4 * se + 0.04 * predicted, (np.mean(found), predicted, se)


def test_trained_networks_of_a_run_file():
    """Two branches, every network and both recipes, a few steps: names, shapes, and what cannot be known is NaN."""
    networks = ["layerwise", "reinitialised", "fresh", "joint", "two-layer"]
    problem = dl.load(LEARNERS, {
        "target.branches": 2, "target.link": "tanh(h1) + tanh(h2)", "target.features": [{"2": 1.0}],
        "algorithm.networks": networks, "algorithm.steps": [4, 6], "algorithm.second_width": 8,
        "algorithm.records": 5, "algorithm.first.order": "leading",
        "algorithm.third": {"degree": 3, "basis": "hermite"}, "grid.kappa": [1.0, 1.4], "limit.d": 16,
        "simulation": {"sizes": [16], "replicas": 2},
    })  # fmt: skip
    measured = simulate(problem, dtype="float32")
    dataset = measured.dataset.isel(d=0)
    assert dataset["weight_overlap"].dims == ("recipe", "network", "kappa", "record", "branch")
    overlap = dataset["weight_overlap"]
    assert np.isfinite(overlap).all()
    assert float(overlap.max()) <= 1.0
    # At the start a direction of R^16 lies in a space of 4 with a mean square of 1/4.
    np.testing.assert_allclose(overlap.sel(network="joint").isel(record=0), 0.5, atol=0.12)
    assert np.isfinite(dataset["feature_overlap"].sel(network=networks[:4])).all()
    assert np.isnan(dataset["feature_overlap"].sel(network="two-layer")).all()
    assert np.isfinite(dataset["trained_mse"]).all()
    steps = dataset["gradient_step"].sel(recipe="paper", network=["layerwise", "joint"]).values
    assert steps[:, 0].tolist() == [0.0, 0.0]
    assert steps[:, -1].tolist() == [10.0, 6.0]
    assert (np.diff(steps, axis=1) >= 0).all()
    curve = dl.solve(problem)
    assert curve["subspace_overlap"].shape == (2, 2)


def test_what_cannot_be_put_side_by_side_is_refused():
    for wrong, message in (
        ({"limit": {}}, r"limit\.d"), ({"limit.d": [16, 25]}, "one dimension"),
        ({"grid.kappa": [2.0, 1.0]}, "increase"), ({"algorithm.networks": []}, "at least one"),
        ({"algorithm.networks": ["joint", "joint"]}, "each once"), ({"algorithm.steps": [0, 5]}, "steps"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            dl.load(LEARNERS, {"theory": "hierarchical-learners", **wrong})
