"""One giant step: theory against direct simulation of the same networks, limits, and reference values."""

import math
from pathlib import Path

import numpy as np
import pytest

from dimladder import DomainError
from dimladder.problem import Expression, activation
from dimladder.problem.clusters import labels
from dimladder.problem.one_step import batch_sizes, draw, samples, step
from dimladder.solve import derive, load, replace, solve
from dimladder.theories.estimation.regression import random_layer, ridge_fit
from dimladder.theories.giant_step.features import label_law
from dimladder.theories.giant_step.limits import one_step_limit, spiked_random_features
from dimladder_validation.simulate import backend_for
from dimladder_validation.simulate.giant_step import _errors

GIANT = load(Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "giant-step-mixture.toml")
# mu_1, mu_*^2 of ReLU, then length of the learnable direction and Var y - that of relu(z).
MOMENTS = (0.5, 0.25 - 0.5 / math.pi, 0.5, 0.5 - 0.5 / math.pi)


def layer(activation, width_ratio=1.0):
    return [{"activation": activation, "width_ratio": width_ratio}]


# Network, its first layer and its step are drawn once; theory and simulation see the same matrices, so that the paired
# difference has no variance from the draw.
STEPS = {
    "aligned spikes": ({}, 1.0),
    "means, unequal bulks, smooth activation": (
        {
            "student.layers": layer("tanh"),
            "target.formula": "z**2 - 0.3*z",
            "data.means": [[0.5, 0.0], [-0.5, 1.0]],
            "data.weights": [0.3, 0.7],
            "data.variances": [1.0, 2.0],
        },
        1.5,
    ),
    "three clusters with shared spikes": (
        {
            "student.layers": layer("sigmoid"),
            "target": {"kind": "cluster-labels", "labels": [0.0, 1.0, -1.0]},
            "data": {
                "kind": "mixture",
                "means": "zero",
                "weights": [0.2, 0.3, 0.5],
                "spikes": [[1.0, 0.5], [1.0, 2.0], [0.5, 0.0]],
                "shared_spikes": True,
            },
        },
        1.0,
    ),
    "structured bulk, overlapping spikes": (
        {
            "data": {
                "kind": "mixture",
                "means": "zero",
                "weights": [0.5, 0.5],
                "spikes": [[1.0], [1.0]],
                "alignment": 0.5,
                "variances": [[0.2, 1.8], [1.8, 0.2]],
                "spectrum": {"fractions": [0.5, 0.5]},
            }
        },
        1.0,
    ),
}


def paired(problem, draws, repeats, names):
    """Mean and standard error of simulation minus theory, and the theory's mean, over draws of the stepped network."""
    system, n, backend = derive(problem), problem.limit.n, backend_for()
    data, count = system.data(), samples(problem, n)[0]
    law, sigma = label_law(problem, data), activation(problem.student.layers[0].activation)
    gaps, values = [], []
    for index in range(draws):
        stream = np.random.default_rng(index)
        net = step(problem, draw(problem, data, stream), batch_sizes(problem, n)[0])
        theory = system.evaluate(data, law, net, count)
        measured = []
        for _ in range(repeats):
            x, cluster = data.sample(stream, count + 4000)
            y = labels(problem, data, x, cluster, stream)
            features = sigma.evaluate(np, x=x @ net.stepped.T) / np.sqrt(net.first.shape[0])
            errors = _errors(problem, features[None], y[None], count, n, backend)
            measured.append([errors[k][0] for k in names])
        gaps.append(np.mean(measured, axis=0) - [theory[k] for k in names])
        values.append([theory[k] for k in names])
    gaps = np.array(gaps)
    return gaps.mean(axis=0), gaps.std(axis=0, ddof=1) / np.sqrt(draws), np.mean(values, axis=0)


@pytest.mark.parametrize("case", STEPS)
def test_ridge_after_the_step_on_the_same_network(case):
    overrides, ratio = STEPS[case]
    problem = replace(GIANT, {**overrides, "grid.sample_ratio": [ratio], "limit.n": 150})
    gap, error, value = paired(problem, 8, 2, ("test_mse", "train_mse", "penalty", "train_objective"))
    # Four standard errors, and 3% of finite-size correction (1/sqrt n of the value would be 8%).
    assert np.all(np.abs(gap) <= 4 * error + 0.03 * value), (gap, error, value)
    assert np.all(error <= 0.1 * value)


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["logistic", "hinge"])
def test_classifiers_after_the_step_on_the_same_network(readout):
    problem = replace(
        GIANT,
        {
            "target": {"kind": "cluster-labels"},
            "loss.function": readout,
            "loss.ridge_per_sample": "1e-3*k",
            "algorithm.total": 0.9,
            "grid.sample_ratio": [1.0],
            "limit.n": 150,
            "algorithm.nodes": 64,
        },
    )
    names = ("classification_error", "test_loss", "train_loss", "train_classification_error", "train_objective")
    gap, error, value = paired(problem, 6, 2, names)
    assert np.all(np.abs(gap) <= 4 * error + 0.05 * value), (gap, error, value)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["huber(y - f, 0.3)", "quantile(y - f, 0.3)"])
def test_robust_regression_after_the_step_on_the_same_network(loss):
    """Losses of a residual, without labels of two values: errors are mean squares, those of the sample by Stein."""
    problem = replace(
        GIANT,
        {
            "loss.function": loss, "loss.ridge_per_sample": "1e-2*k", "algorithm.nodes": 64, "limit.n": 120,
            "grid.sample_ratio": [1.5],
        },
    )  # fmt: skip
    gap, error, value = paired(problem, 6, 2, ("test_mse", "train_mse", "test_loss", "train_loss", "penalty"))
    assert np.all(np.abs(gap) <= 4 * error + 0.05 * value), (gap, error, value)
    assert np.all(error <= 0.1 * value)


def test_polynomial_model_breaks_below_the_needed_degree():
    """Aligned spikes at total 0.8, all of it in the spikes: degree 2 is enough, degree 1 is far off (table 3.2's
    row)."""
    problem = replace(
        GIANT, {"algorithm.total": 0.8, "algorithm.split": 0.0, "grid.sample_ratio": [1.0], "limit.draws": 4}
    )
    linear, quadratic = (solve(replace(problem, {"algorithm.hermite_degree": d})) for d in (1, 2))
    network = float(linear["test_mse"][0])
    assert float(linear["test_mse_hermite"][0]) > 2.5 * network
    assert float(quadratic["test_mse_hermite"][0]) == pytest.approx(network, rel=0.25)
    assert int(quadratic["hermite_degree_needed"]) >= 2


def test_equal_clusters_make_one_bulk():
    problem = replace(GIANT, {"grid.sample_ratio": [1.0], "limit.n": 120, "limit.draws": 2, "data.shared_spikes": True})
    one = solve(replace(problem, {"algorithm.equivalent": "one-bulk"}))
    many = solve(replace(problem, {"algorithm.equivalent": "clusters"}))
    for name in ("test_mse", "train_mse", "penalty", "test_mse_hermite"):
        np.testing.assert_allclose(one[name], many[name], rtol=1e-9)


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_a_vanishing_ridge_at_interpolation(activation):
    """m = k: the error grows as ridge^-1/2 to any ridge, the penalty falls as ridge^1/2; elsewhere both have limits.

    A linear activation has as many directions as inputs, here as many as samples too: null modes stay null.
    """
    layers = layer(activation, 1.0 if activation == "relu" else 1.5)
    small = {"limit.n": 40, "limit.draws": 1, "grid.sample_ratio": [0.5, 1.0, 2.0], "student.layers": layers}
    curves = [solve(replace(GIANT, {**small, "loss.ridge_per_sample": f"{r!r}*k"})) for r in (1e-40, 1e-300)]
    tests = [c["test_mse"].values for c in curves]
    np.testing.assert_allclose(tests[1][[0, 2]], tests[0][[0, 2]], rtol=1e-9)
    assert tests[1][1] / tests[0][1] == pytest.approx(1e130, rel=1e-9)
    penalties = [c["penalty"].values for c in curves]
    assert penalties[1][1] / penalties[0][1] == pytest.approx(1e-130, rel=1e-9)
    assert np.all(tests[1] > 0)


def test_a_cluster_without_weight_is_not_there():
    """weights [0, 1] are the second cluster alone: the same law of the data, so the same error over draws."""
    small = {"limit.n": 60, "limit.draws": 12, "grid.sample_ratio": [1.0]}
    base = replace(GIANT, {**small, "target.direction": [0.0, 1.0]})
    for equivalent in ("one-bulk", "clusters", "conditional"):
        empty = replace(base, {"data.weights": [0.0, 1.0], "algorithm.equivalent": equivalent})
        alone = replace(
            base,
            {
                "data.weights": [1.0], "data.spikes": [[1.0]], "target.direction": [1.0],
                "algorithm.equivalent": equivalent,
            },
        )  # fmt: skip
        a, b = solve(empty), solve(alone)
        error = math.hypot(float(a["test_mse_se"][0]), float(b["test_mse_se"][0]))
        assert abs(float(a["test_mse"][0]) - float(b["test_mse"][0])) < 4 * error, equivalent


@pytest.mark.parametrize(
    "override",
    [
        {"target.formula": "0*z"},
        {"target.formula": "2 + 0*z"},
        {"target": {"kind": "cluster-labels"}, "data.weights": [0.0, 1.0]},
    ],
)
def test_constant_labels_are_refused(override):
    problem = replace(GIANT, {"limit.n": 40, "limit.draws": 1, "grid.sample_ratio": [1.0], **override})
    with pytest.raises(DomainError, match="all labels are equal"):
        solve(problem)
    if "target.formula" in override:
        assert np.isfinite(float(solve(replace(problem, {"target.noise": 0.3}))["relative_error"][0]))


def test_without_a_step_the_network_is_random_features():
    """Isotropic data, no step: the finite-n equivalent tends to the closed form, within 1% at n = 400."""
    n, psi = 400, 1.0
    problem = replace(
        GIANT,
        {
            "data.spikes": [],
            "target.direction": "random",
            "algorithm.rate_factor": 0.0,
            "algorithm.split": 1.0,
            "limit.n": n,
            "limit.draws": 4,
            "loss.ridge_per_sample": 0.1,
            "grid.sample_ratio": [1.0, 3.0],
        },
    )
    curve = solve(problem)
    # E y^2/2 units: the closed form of random features at ridge_per_sample 0.1 (test, train), as solved in ten digits.
    mu1, mustar2, c1, vary = MOMENTS
    layer = random_layer(psi, mu1, mustar2)
    fits = [ridge_fit(layer, alpha, 0.1 * alpha / psi, (0.0, vary, c1)) for alpha in (1.0, 3.0)]
    exact = [(fit.test, fit.train) for fit in fits]
    for column, name in enumerate(("test_mse", "train_mse")):
        np.testing.assert_allclose(curve[name], [e[column] for e in exact], rtol=0.015)
    np.testing.assert_allclose(curve["test_mse_limit"], [e[0] for e in exact], rtol=1e-10)


def test_draws_and_seed_reproduce():
    problem = replace(GIANT, {"limit.n": 60, "grid.sample_ratio": [1.0], "limit.draws": 3})
    first, again = solve(problem), solve(problem)
    np.testing.assert_array_equal(first["test_mse"], again["test_mse"])
    other = solve(replace(problem, {"limit.seed": 5}))
    assert float(other["test_mse"][0]) != float(first["test_mse"][0])


@pytest.mark.parametrize(("alpha", "test", "train"), [(0.2, 0.04848290, 0.01249380), (0.5, 0.04630978, 0.01452756)])
def test_maximal_step_limit_to_eight_digits(alpha, test, train):
    found = spiked_random_features(
        activation("tanh"), Expression("sin(z)", ("z",)), alpha=alpha, batch_ratio=20.0, rate=3.0, ridge=0.1
    )
    assert found.test_error == pytest.approx(test, abs=6e-9)
    assert found.train_error == pytest.approx(train, abs=6e-9)
    assert found.residual < 1e-11


def test_one_step_limit_to_ten_digits():
    expected = (0.3301692932, 0.2646371851, 0.2516365399)
    for degree, value in enumerate(expected):
        found, _ = one_step_limit(
            activation("relu"), Expression("relu(z)", ("z",)), psi=1.0, alpha=1.0, ridge=0.1, degree=degree
        )
        assert found == pytest.approx(value, abs=6e-11)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "published", "tolerance"),
    [
        # Half mean squared errors read off the figures of Demir & Dogan 2025; one data set behind Fig. 1: 8%.
        ({"student.layers": layer("relu")}, 0.0209, 0.08),
        ({"student.layers": layer("sigmoid")}, 0.0180, 0.08),
        ({"algorithm.total": 4 / 9}, 0.0499, 0.08),
        ({"target": {"kind": "cluster-labels"}, "data.weights": [1 / 3, 2 / 3]}, 0.6422, 0.03),
    ],
    ids=["fig 1a relu", "fig 1a sigmoid", "fig 1c", "fig 2a"],
)
def test_published_figures_at_a_thousand(overrides, published, tolerance):
    base = replace(
        GIANT,
        {
            "limit.n": 1000,
            "limit.draws": 1,
            "algorithm.total": 0.74,
            "algorithm.split": 0.5,
            "grid.sample_ratio": [1.0],
            "target.direction": "random",
        },
    )
    curve = solve(replace(base, overrides))
    assert float(curve["test_mse"][0]) / 2 == pytest.approx(published, rel=tolerance)


def test_the_step_of_the_simulated_network_is_that_of_the_theory():
    """Written twice: the experiment's on the backend, all replicas at once; the theory's for one network."""
    from dimladder.problem.one_step import mixture
    from dimladder_validation.simulate.giant_step import _Replicas

    problem = replace(GIANT, {"limit.n": 30, "target.noise": 0.2, "student.layers": layer("tanh", 1.5)})
    data = mixture(problem, 30)
    replicas = _Replicas(problem, data, [np.random.default_rng(s) for s in (3, 4)], backend_for())
    stepped, spike = replicas.step(12)
    for r, seed in enumerate((3, 4)):
        net = step(problem, draw(problem, data, np.random.default_rng(seed)), 12)
        np.testing.assert_allclose(stepped[r], net.stepped, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(spike[r], net.spike, rtol=1e-11)
