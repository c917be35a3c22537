"""Theory against direct simulation at parameters that no reference value covers; and deliberate errors that must be
seen."""

import math
from pathlib import Path

import numpy as np
import pytest

from dimladder import DomainError
from dimladder.solve import derive, load, replace, solve
from dimladder_validation import compare, simulate
from dimladder_validation.simulate import backend_for

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"
RANDOM_FEATURES = load(RUNS / "random-features.toml")
MIXTURE = load(RUNS / "mixture-erm.toml")
GIANT = load(RUNS / "giant-step-mixture.toml")

CASES = {
    "random features": (
        RANDOM_FEATURES,
        {
            "student.activation": "tanh",
            "target.link": "z + 0.4*He3(z)",
            "target.noise": 0.3,
            "student.width_ratio": 0.7,
            "student.ridge_times_width": 0.03,
            "grid.sample_ratio": [0.4, 2.5],
        },
        {"d": [100, 200], "replicas": 32},
    ),
    "three clusters": (
        MIXTURE,
        {
            "data": {
                "kind": "gaussian-mixture",
                "weights": [0.3, 0.5, 0.2],
                "means": [[1.5, 0.0, 0.3], [-0.5, 1.0, 0.0], [0.0, -1.0, 0.5]],
                "covariance": [0.5, 1.5, 1.0],
                "spikes": [[0.0, 2.0], [3.0, 0.0], [0.0, 0.0]],
            },
            "target": {"kind": "cluster-labels", "labels": [1.0, -1.0, 1.0]},
            "student.ridge": 0.05,
            "grid.sample_ratio": [0.8, 3.0],
        },
        {"d": [100, 200], "replicas": 24},
    ),
    "teacher on a spiked mixture": (
        MIXTURE,
        {
            "data": {
                "kind": "gaussian-mixture",
                "weights": [0.6, 0.4],
                "means": [[0.8, 0.2], [-0.4, 0.5]],
                "spikes": [[2.0, 0.0], [0.0, 1.0]],
            },
            "target": {"kind": "single-index", "link": "sign(z - 0.3)", "direction": [0.6, 0.8]},
            "grid.sample_ratio": [0.7, 2.5],
        },
        {"d": [100, 200], "replicas": 24},
    ),
    "hinge with a teacher": (
        MIXTURE,
        {
            "data": {
                "kind": "gaussian-mixture",
                "weights": [0.5, 0.5],
                "means": "opposite",
                "covariance": [[0.4, 1.6], [1.2, 0.8]],
                "spectrum": [0.5, 0.5],
            },
            "target": {"kind": "single-index", "link": "sign(z)", "direction": "random"},
            "student.loss": "hinge",
            "grid.sample_ratio": [2.0],
        },
        {"d": [100, 200], "replicas": 24},
    ),
    "regression of a link": (
        MIXTURE,
        {
            "data": {
                "kind": "gaussian-mixture",
                "weights": [0.7, 0.3],
                "means": [[0.0, 1.0], [1.0, -0.5]],
                "covariance": [0.8, 1.4],
            },
            "target": {"kind": "single-index", "link": "tanh(2*z) + 0.2*z**2", "noise": 0.2, "direction": [1.0, 0.5]},
            "student.loss": "square",
            "grid.sample_ratio": [0.7, 2.0],
        },
        {"d": [100, 200], "replicas": 24},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_simulation_agrees(case):
    base, overrides, sizes = CASES[case]
    problem = replace(base, overrides)
    verdict = compare(solve(problem), simulate(problem, **sizes))
    # A bias close to zero cannot be resolved to a fifth of itself: that is inconclusive, and no disagreement.
    assert verdict.verdict != "disagree", verdict.reasons
    by_name = {v.name: v.verdict for v in verdict.variables}
    assert by_name["test_error"] == "agree", verdict.reasons
    assert "disagree" not in by_name.values()


@pytest.mark.parametrize(
    "override",
    [{"student.ridge": 0.2}, {"data.weights": [0.4, 0.6]}, {"data.covariance": 1.15}, {"student.loss": "square"}],
)
def test_a_wrong_theory_is_seen(override):
    problem = replace(MIXTURE, {"grid.sample_ratio": [1.0, 3.0]})
    measured = simulate(problem, d=[100, 200], replicas=24)
    verdict = compare(solve(replace(problem, override)), measured)
    assert verdict.verdict == "disagree"


# Network, its first layer and its step are drawn once; theory and simulation see the same matrices, so that the paired
# difference has no variance from the draw.
STEPS = {
    "aligned spikes": ({}, 1.0),
    "means, unequal bulks, smooth activation": (
        {
            "student.activation": "tanh",
            "target.link": "z**2 - 0.3*z",
            "data.means": [[0.5, 0.0], [-0.5, 1.0]],
            "data.weights": [0.3, 0.7],
            "data.covariance": [1.0, 2.0],
        },
        1.5,
    ),
    "three clusters with shared spikes": (
        {
            "student.activation": "sigmoid",
            "target": {"kind": "cluster-labels", "labels": [0.0, 1.0, -1.0]},
            "data": {
                "kind": "gaussian-mixture",
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
                "kind": "gaussian-mixture",
                "weights": [0.5, 0.5],
                "spikes": [[1.0], [1.0]],
                "alignment": 0.5,
                "covariance": [[0.2, 1.8], [1.8, 0.2]],
                "spectrum": [0.5, 0.5],
            }
        },
        1.0,
    ),
}


def paired(problem, draws, repeats, names):
    """Mean and standard error of simulation minus theory, and the theory's mean, over draws of the stepped network."""
    from dimladder.problem import activation
    from dimladder.theories.mixtures.features import label_law
    from dimladder.theories.mixtures.network import labels
    from dimladder_validation.simulate.giant_step import _errors

    system, n, backend = derive(problem), problem.limit.n, backend_for()
    data, samples = system.data(), system.samples(n)[0]
    law, sigma = label_law(problem, data), activation(problem.student.activation)
    gaps, values = [], []
    for index in range(draws):
        stream = np.random.default_rng(index)
        net = system.step(system.draw(data, stream), system.batch_sizes(n)[0])
        theory = system.evaluate(data, law, net, samples)
        measured = []
        for _ in range(repeats):
            x, cluster = data.sample(stream, samples + 4000)
            y = labels(problem, data, x, cluster, stream)
            features = sigma.evaluate(np, x=x @ net.stepped.T) / np.sqrt(net.first.shape[0])
            errors = _errors(problem, features, y, samples, backend)
            measured.append([errors[k] for k in names])
        gaps.append(np.mean(measured, axis=0) - [theory[k] for k in names])
        values.append([theory[k] for k in names])
    gaps = np.array(gaps)
    return gaps.mean(axis=0), gaps.std(axis=0, ddof=1) / np.sqrt(draws), np.mean(values, axis=0)


@pytest.mark.parametrize("case", STEPS)
def test_ridge_after_the_step_on_the_same_network(case):
    overrides, ratio = STEPS[case]
    problem = replace(GIANT, {**overrides, "grid.sample_ratio": [ratio], "limit.n": 150})
    gap, error, value = paired(problem, 8, 2, ("test_error", "train_error", "penalty"))
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
            "algorithm.readout": readout,
            "algorithm.ridge": 1e-3,
            "algorithm.total": 0.9,
            "grid.sample_ratio": [1.0],
            "limit.n": 150,
            "algorithm.nodes": 128,
        },
    )
    gap, error, value = paired(problem, 6, 2, ("test_error", "test_loss", "train_loss", "penalty"))
    assert np.all(np.abs(gap) <= 4 * error + 0.05 * value), (gap, error, value)


def test_polynomial_model_breaks_below_the_needed_degree():
    """Aligned spikes at total 0.8, all of it in the spikes: degree 2 is enough, degree 1 is far off (table 3.2's
    row)."""
    problem = replace(
        GIANT, {"algorithm.total": 0.8, "algorithm.split": 0.0, "grid.sample_ratio": [1.0], "limit.draws": 4}
    )
    linear, quadratic = (solve(replace(problem, {"algorithm.hermite_degree": d})) for d in (1, 2))
    network = float(linear["test_error"][0])
    assert float(linear["test_error_hermite"][0]) > 2.5 * network
    assert float(quadratic["test_error_hermite"][0]) == pytest.approx(network, rel=0.25)
    assert int(quadratic["hermite_degree_needed"]) >= 2


def test_equal_clusters_make_one_bulk():
    problem = replace(GIANT, {"grid.sample_ratio": [1.0], "limit.n": 120, "limit.draws": 2, "data.shared_spikes": True})
    one = solve(replace(problem, {"algorithm.equivalent": "one-bulk"}))
    many = solve(replace(problem, {"algorithm.equivalent": "clusters"}))
    for name in ("test_error", "train_error", "penalty", "test_error_hermite"):
        np.testing.assert_allclose(one[name], many[name], rtol=1e-9)


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_a_vanishing_ridge_at_interpolation(activation):
    """m = k: the error grows as ridge^-1/2 to any ridge, the penalty falls as ridge^1/2; elsewhere both have limits.

    A linear activation has as many directions as inputs, here as many as samples too: null modes stay null.
    """
    small = {"limit.n": 40, "limit.draws": 1, "grid.sample_ratio": [0.5, 1.0, 2.0], "student.activation": activation}
    width = {"student.width_ratio": 1.0 if activation == "relu" else 1.5}
    curves = [solve(replace(GIANT, {**small, **width, "algorithm.ridge": r})) for r in (1e-40, 1e-300)]
    tests = [c["test_error"].values for c in curves]
    np.testing.assert_allclose(tests[1][[0, 2]], tests[0][[0, 2]], rtol=1e-9)
    assert tests[1][1] / tests[0][1] == pytest.approx(1e130, rel=1e-9)
    penalties = [c["penalty"].values for c in curves]
    assert penalties[1][1] / penalties[0][1] == pytest.approx(1e-130, rel=1e-9)
    assert np.all(tests[1] > 0)


def test_a_cluster_without_weight_is_not_there():
    """weights [0, 1] are the second cluster alone: the same law of the data, so the same error over draws."""
    small = {"limit.n": 60, "limit.draws": 12, "grid.sample_ratio": [1.0], "algorithm.nodes": 24}
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
        error = math.hypot(float(a["test_error_se"][0]), float(b["test_error_se"][0]))
        assert abs(float(a["test_error"][0]) - float(b["test_error"][0])) < 4 * error, equivalent


@pytest.mark.parametrize(
    "override",
    [
        {"target.link": "0*z"},
        {"target.link": "2 + 0*z"},
        {"target": {"kind": "cluster-labels"}, "data.weights": [0.0, 1.0]},
    ],
)
def test_constant_labels_are_refused(override):
    problem = replace(GIANT, {"limit.n": 40, "limit.draws": 1, "grid.sample_ratio": [1.0], **override})
    with pytest.raises(DomainError, match="all labels are equal"):
        solve(problem)
    if "target.link" in override:
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
            "algorithm.ridge": 0.1 / n,
            "grid.sample_ratio": [1.0, 3.0],
        },
    )
    curve = solve(problem)
    exact = solve(replace(RANDOM_FEATURES, {"student.width_ratio": psi, "grid.sample_ratio": [1.0, 3.0]}))
    for name in ("test_error", "train_error"):
        np.testing.assert_allclose(curve[name], exact[name], rtol=0.015)
    np.testing.assert_allclose(curve["test_error_limit"], exact["test_error"], rtol=1e-10)


def test_draws_and_seed_reproduce():
    problem = replace(GIANT, {"limit.n": 60, "grid.sample_ratio": [1.0], "limit.draws": 3})
    first, again = solve(problem), solve(problem)
    np.testing.assert_array_equal(first["test_error"], again["test_error"])
    other = solve(replace(problem, {"limit.seed": 5}))
    assert float(other["test_error"][0]) != float(first["test_error"][0])
