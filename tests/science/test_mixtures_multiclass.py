"""Multi-class losses: two classes are the binary theory, the kernel is the proximal problem, simulation agrees."""

from pathlib import Path

import numpy as np
import pytest

from dimladder.errors import ConfigError
from dimladder.numerics.softmax import softmax_channel
from dimladder.solve import derive, load, replace, solve
from dimladder.theories.estimation.mixture_classes import wrong_class
from dimladder_validation import compare, simulate

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"
MIXTURE = load(RUNS / "estimation-mixture.toml")
THREE = {
    "kind": "mixture",
    "weights": [0.3, 0.3, 0.4],
    "means": [[1.2, 0.0, 0.0], [0.0, 1.2, 0.0], [0.3, 0.0, 1.0]],
    "variances": [0.5, 1.0, 0.8],
}


def test_two_classes_are_the_logistic_loss():
    """Softmax of two outputs with w1 = -w2 = w/2: the logistic loss of w with half the penalty."""
    grid = {"grid.sample_ratio": [0.5, 2.0]}
    binary = solve(replace(MIXTURE, {**grid, "loss.ridge": 0.05}))
    pair = solve(replace(MIXTURE, {**grid, "loss.ridge": 0.1, "loss.function": "cross-entropy"}))
    for name in ("classification_error", "train_loss"):
        np.testing.assert_allclose(pair[name], binary[name], rtol=1e-7)
    difference = np.asarray(pair["bias"])[:, 0] - np.asarray(pair["bias"])[:, 1]
    np.testing.assert_allclose(difference, binary["bias"], rtol=1e-6)
    overlap = np.asarray(pair["m"])[:, 0, 0] - np.asarray(pair["m"])[:, 0, 1]
    np.testing.assert_allclose(overlap, binary["m"], rtol=1e-6)


def test_one_hot_of_two_classes_is_the_square_loss():
    """Labels (1, 0) and (0, 1): each output is (1 + y)/2 of the binary labels, so that errors are equal."""
    binary = solve(replace(MIXTURE, {"loss.function": "square"}))
    pair = solve(replace(MIXTURE, {"loss.function": "one-hot"}))
    np.testing.assert_allclose(pair["classification_error"], binary["classification_error"], rtol=1e-8)
    # Two outputs, each with a quarter of the binary loss.
    np.testing.assert_allclose(pair["train_loss"], np.asarray(binary["train_loss"]) / 2, rtol=1e-8)


@pytest.mark.parametrize("scale", [0.3, 5.0, 300.0])
def test_channel_against_a_general_minimiser(scale):
    from scipy.optimize import minimize

    rng = np.random.default_rng(2)
    root = rng.standard_normal((3, 3))
    v = scale * (root @ root.T + 0.1 * np.eye(3))
    omegas, weights = 2 * rng.standard_normal((4, 3)), np.full(4, 0.25)
    f, ff, fv = np.empty(3), np.empty((3, 3)), np.empty((3, 3))
    loss = softmax_channel.compiled(1, omegas, weights, v, np.linalg.inv(v), f, ff, fv)
    forces, values, responses = [], [], []
    for omega in omegas:
        # In coordinates u = omega + L x the quadratic part is |x|^2/2: well conditioned at every scale.
        factor = np.linalg.cholesky(v)

        def objective(x, omega=omega, factor=factor):
            u = omega + factor @ x
            return np.logaddexp.reduce(u) - u[1] + 0.5 * x @ x

        x = minimize(objective, np.zeros(3), method="BFGS", options={"gtol": 1e-9}).x
        u = omega + factor @ x
        p = np.exp(u - np.logaddexp.reduce(u))
        forces.append(np.eye(3)[1] - p)
        values.append(np.logaddexp.reduce(u) - u[1])
        hessian = np.diag(p) - np.outer(p, p)
        responses.append(hessian @ np.linalg.inv(np.eye(3) + v @ hessian))
    assert loss == pytest.approx(np.mean(values), rel=1e-6)
    np.testing.assert_allclose(f, np.mean(forces, axis=0), atol=2e-6)
    np.testing.assert_allclose(ff, np.mean([np.outer(g, g) for g in forces], axis=0), atol=2e-6)
    np.testing.assert_allclose(fv, np.mean(responses, axis=0), atol=2e-6)


def test_misclassification_against_sampling():
    rng = np.random.default_rng(0)
    for k in (2, 3, 4):
        root, mean = rng.standard_normal((k, k)), rng.standard_normal(k)
        for c in range(k):
            u = mean + rng.standard_normal((200_000, k)) @ root.T
            rate = np.mean(np.argmax(u, axis=1) != c)
            found = wrong_class(c, mean, root @ root.T)
            assert abs(found - rate) < 5 * np.sqrt(rate * (1 - rate) / 200_000) + 1e-9


BLOCKS = {**THREE, "spectrum": {"fractions": [0.5, 0.5]}, "variances": [[0.5, 1.5], [1.0, 0.4], [0.8, 0.8]]}


@pytest.mark.parametrize("loss", ["cross-entropy", "one-hot"])
def test_two_classes_with_block_covariances_are_the_binary_loss(loss):
    """The identities of scalar covariances, with commuting ones: the binary theory is another code."""
    data = {"kind": "mixture", "weights": [0.4, 0.6], "variances": [[0.7, 1.9], [1.1, 0.4]],
            "spectrum": {"fractions": [0.35, 0.65]}}  # fmt: skip
    change = {"data": data, "grid.sample_ratio": [0.8], "student.bias": loss == "one-hot"}
    binary = "logistic" if loss == "cross-entropy" else "square"
    ridge = 0.1 if binary == "square" else 0.05
    one = solve(replace(MIXTURE, {**change, "loss.function": binary, "loss.ridge": ridge}))
    pair = solve(replace(MIXTURE, {**change, "loss.function": loss, "loss.ridge": 0.1}))
    np.testing.assert_allclose(pair["classification_error"], one["classification_error"], rtol=1e-7)
    scale = 1.0 if binary == "logistic" else 0.5
    np.testing.assert_allclose(pair["train_loss"], scale * np.asarray(one["train_loss"]), rtol=1e-7)


def test_several_clusters_of_one_class():
    """Two clusters at one place are one cluster; labels name the classes."""
    data = {"kind": "mixture", "weights": [0.3, 0.2, 0.5], "means": [[1.0], [1.0], [-1.0]]}
    merged = {"kind": "mixture", "weights": [0.5, 0.5], "means": [[1.0], [-1.0]]}
    labels = {"kind": "cluster-labels", "labels": [0.0, 0.0, 1.0]}
    change = {"loss.function": "one-hot", "grid.sample_ratio": [1.5]}
    split = solve(replace(MIXTURE, {**change, "data": data, "target": labels}))
    whole = solve(replace(MIXTURE, {**change, "data": merged}))
    for name in ("V", "q", "bias", "classification_error", "train_loss"):
        np.testing.assert_allclose(split[name], whole[name], rtol=1e-9, atol=1e-12, err_msg=name)
    with pytest.raises(ConfigError, match="classes of the one-hot loss"):
        replace(MIXTURE, {**change, "data": data, "target": {**labels, "labels": [1.0, 1.0, 2.0]}})


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross-entropy", "one-hot"])
def test_three_classes_against_simulation(loss):
    problem = replace(MIXTURE, {"data": THREE, "loss.function": loss, "grid.sample_ratio": [1.0, 3.0]})
    verdict = compare(solve(problem), simulate(problem, d=[100, 200], replicas=16))
    by_name = {v.name: v.verdict for v in verdict.variables}
    assert by_name["classification_error"] == by_name["train_loss"] == "agree", verdict.reasons
    assert "disagree" not in by_name.values()
    wrong = compare(solve(replace(problem, {"loss.ridge": 0.5})), simulate(problem, d=[100, 200], replicas=16))
    assert wrong.verdict == "disagree"


@pytest.mark.slow
def test_block_covariances_against_simulation():
    problem = replace(MIXTURE, {"data": BLOCKS, "loss.function": "one-hot", "grid.sample_ratio": [1.0, 3.0]})
    verdict = compare(solve(problem), simulate(problem, d=[100, 200], replicas=24))
    by_name = {v.name: v.verdict for v in verdict.variables}
    assert by_name["classification_error"] == by_name["train_loss"] == "agree", verdict.reasons
    assert "disagree" not in by_name.values()


def test_classes_are_checked():
    with pytest.raises(ConfigError, match="at least two clusters"):
        replace(MIXTURE, {"loss.function": "one-hot", "data": {"kind": "mixture", "weights": [1.0], "means": "zero"}})
    assert "argmax" in derive(replace(MIXTURE, {"loss.function": "one-hot"})).latex().replace("\\", "").replace(" ", "")
