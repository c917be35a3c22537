"""Every rung of the ladder against its neighbours, at parameters that no reference value was computed for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.problem.training import training_of
from dimladder.theories.mup.revealed import network

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"
GAUSSIAN = {
    "kind": "points",
    "source": "gaussian",
    "samples": 3,
    "dimension": 4,
    "seed": 5,
    "labels": "x1 - 2*x2 + 1",
    "test_samples": 1,
}


def load(**overrides):
    return dl.load(RUNS / "mup-tanh.toml", {"data": GAUSSIAN, "algorithm.steps": 7, **overrides})


def worst(one, other, names=("f", "test_f", "feature_kernel", "gradient_kernel", "relative_feature_change")):
    """Return the largest difference of two curves in joint standard errors, floored at 1e-4 of the variable's size."""
    out = 0.0
    for name in names:
        gap = np.abs(one[name].values - other[name].values)
        error = np.hypot(one[f"{name}_se"].values, other[f"{name}_se"].values)
        out = max(out, (gap / np.maximum(error, 1e-4 * np.abs(other[name].values).max())).max())
    return out


# Standard errors over four scrambles have three degrees of freedom: the largest of some forty ratios may reach ten.
FOUR_SCRAMBLES = 12.0


def test_march_against_the_quadrature_of_one_layer():
    problem = load(
        **{
            "student.hidden_layers": 1,
            "student.activation": "sigmoid(2*x) - 0.4",
            "student.richness": 1.5,
            "data.samples": 1,
        }
    )
    exact, sampled = dl.solve(problem), dl.solve(problem, method="particles", samples=8192, scrambles=8)
    assert (exact.stats["method"], sampled.stats["method"]) == ("quadrature", "particles")
    assert worst(sampled, exact) < FOUR_SCRAMBLES
    assert np.abs(sampled["f"].values - exact["f"].values).max() < 2e-3
    finer = dl.solve(problem, node_spacing=0.15)
    assert np.abs(finer["f"].values - exact["f"].values).max() < exact.stats["quadrature_error"] < 1e-4
    assert finer.stats["quadrature_error"] < 0.2 * exact.stats["quadrature_error"]


@pytest.mark.parametrize(("layers", "batch"), [(2, 0), (3, 2)])
def test_march_against_the_linear_closed_form(layers, batch):
    problem = load(**{
        "student.hidden_layers": layers, "student.activation": "0.8*x", "student.richness": 1.4,
        "algorithm.batch_size": batch,
        "algorithm.learning_rate": 0.3,
    })  # fmt: skip
    exact, particles, sampled = (
        dl.solve(problem, output="space-time", samples=8192, method=method)
        for method in ("auto", "particles", "responses")
    )
    assert exact.stats["method"] == "closed-form"
    assert worst(particles, exact) < FOUR_SCRAMBLES
    assert worst(sampled, exact) < FOUR_SCRAMBLES
    assert "feature_kernel_history" in particles
    assert "feature_response" not in particles
    for name in ("forward_innovation", "backward_innovation"):
        assert particles[name].values == pytest.approx(exact[name].values, abs=3e-3)
    # All gradients g_mu coincide: the backward Gaussian has rank one a time, which the sampler must survive.
    for name in ("feature_response", "gradient_response"):
        assert sampled[name].values == pytest.approx(exact[name].values, abs=0.02)
        assert np.abs(exact[name].values).max() > 0.05


def test_linear_closed_form_is_a_small_network_of_identity_blocks():
    """One linear hidden layer closes on (W^T W, W^T w, w^T w)/n: a network of width d + 1 started from (I, 0, 1)."""
    problem = load(
        **{
            "student.hidden_layers": 1,
            "student.activation": "linear",
            "student.richness": 0.7,
            "algorithm.batch_size": 2,
        }
    )
    run = training_of(problem)
    d, m = run.inputs.shape[1], run.samples
    w, readout = np.eye(d + 1, d), np.eye(1, d + 1, d)[0]
    outputs = []
    for t in range(run.times):
        x = run.inputs @ w.T
        outputs.append(x @ readout / run.richness)
        a = run.learning_rates[t] * run.richness * run.weights[t] * run.error_signal(outputs[-1][:m])
        w, readout = w + np.outer(readout, a @ run.inputs[:m]), readout + a @ x[:m]
    curve = dl.solve(problem)
    assert np.c_[curve["f"].values, curve["test_f"].values] == pytest.approx(np.array(outputs), abs=1e-13)


def test_march_against_tensor_quadrature_over_few_steps():
    explicit = {"kind": "points", "source": "explicit", "inputs": [[0.8, 0.3]], "labels": [1.5]}
    problem = dl.load(
        RUNS / "mup-tanh.toml",
        {
            "data": explicit,
            "student.activation": "sin",
            "algorithm.steps": 2,
            "algorithm.learning_rate": 0.9,
            "student.richness": 0.6,
        },
    )
    exact, sampled = dl.solve(problem, method="quadrature"), dl.solve(problem, samples=32768, scrambles=8)
    assert exact.stats["method"] == "quadrature"
    assert worst(sampled, exact, ("f", "feature_kernel", "gradient_kernel")) < FOUR_SCRAMBLES
    assert np.abs(sampled["f"].values - exact["f"].values).max() < 1e-3


@pytest.mark.parametrize(
    "extra",
    [
        {"student.richness": 1.5, "algorithm.batch_size": 2},
        {"student.hidden_layers": 3, "student.activation": "silu", "loss.function": "logistic"},
    ],
)
def test_particles_against_responses(extra):
    """Revealed directions and response functions share no formula for h and z above the first layer."""
    problem = load(**extra)
    particles, sampled = (dl.solve(problem, method=m, samples=4096) for m in ("particles", "responses"))
    assert worst(particles, sampled) < FOUR_SCRAMBLES
    assert worst(particles, sampled, ("forward_innovation", "backward_innovation")) < 2 * FOUR_SCRAMBLES
    assert np.abs(particles["f"].values - sampled["f"].values).max() < 4e-3


def test_a_deep_relu_network_needs_no_second_derivative():
    """Against networks of width 2000, which are drawn from other numbers."""
    problem = load(**{"student.activation": "relu", "algorithm.learning_rate": 0.3})
    curve = dl.solve(problem, samples=8192)
    assert curve.stats["method"] == "particles"
    networks = dl.solve(problem, method="lazy-weights", width=2000, scrambles=24)
    assert worst(networks, curve) < 4.5
    assert np.abs(networks["f"].values - curve["f"].values).max() < 0.03


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra",
    [
        {
            "student.activation": "tanh(x) + 0.1*x",
            "student.richness": 2.0,
            "algorithm.batch_size": 2,
            "student.hidden_layers": 3,
        },
        {"student.activation": "softplus", "loss.function": "logistic", "algorithm.schedule": "1/(1 + t/4)"},
    ],
)
def test_march_against_lazily_revealed_weights(extra):
    """Two algorithms without a common formula: single-site averages with responses, and a network of width 4000."""
    problem = load(**{"algorithm.learning_rate": 0.25, "algorithm.steps": 5, **extra})
    curve = dl.solve(problem, samples=4096, method="responses")
    networks = dl.solve(problem, method="lazy-weights", width=4000, scrambles=24)
    # 24 networks: standard errors known to 15 %; the 1/n bias is an order below them.
    assert worst(networks, curve) < 4.5
    gap = networks["f"].values - curve["f"].values
    assert np.abs(gap).max() < 0.03
    without = dl.solve(problem, samples=1024, approximation="no-responses")
    assert np.abs(without["f"].values - curve["f"].values).max() > 3 * np.abs(gap).max()


def test_lazily_revealed_weights_are_dense_weights_in_law():
    """At a fixed small width both simulators have the same mean and variance of the outputs."""
    from dimladder_validation.simulate.base import backend_for
    from dimladder_validation.simulate.mup import EXPERIMENT

    problem = load(**{"algorithm.steps": 4, "algorithm.learning_rate": 0.4, "algorithm.batch_size": 2})
    run, count, width = training_of(problem), 800, 16
    dense = EXPERIMENT.run(problem, width, [np.random.default_rng([1, i]) for i in range(count)], backend_for())
    lazy = np.array([network(run, width, np.random.default_rng([2, i])).run().f[:, :3] for i in range(count)])
    f = dense.variables["f"][1]
    error = np.sqrt((f.var(axis=0) + lazy.var(axis=0)) / count)
    assert (np.abs(f.mean(axis=0) - lazy.mean(axis=0)) < 4.5 * error).all()
    # The variance of a variance, for tails a little heavier than normal: kurtosis below 6.
    assert np.log(f.var(axis=0) / lazy.var(axis=0)) == pytest.approx(0, abs=4.5 * np.sqrt(2 * 5 / count))


def test_small_richness_is_the_lazy_limit():
    frozen = dl.solve(load(**{"solver.approximation": "lazy"}))
    gaps = []
    for gamma in (0.4, 0.2):
        curve = dl.solve(load(**{"student.richness": gamma}), samples=4096)
        gaps.append(np.abs(curve["f"].values - frozen["f"].values).max())
    # Kernels move by O(gamma^2).
    assert gaps[1] < 0.05
    assert gaps[0] / gaps[1] == pytest.approx(4, abs=1.5)


def test_gradient_flow_is_the_limit_of_small_steps():
    """The O(eta) distance of descent from the flow halves with eta; march and quadrature agree on the flow."""
    flow = {"kind": "gradient-flow", "learning_rate": 0.5, "steps": 4, "substeps": 2, "levels": 3}
    exact = dl.solve(load(**{"algorithm": flow, "student.hidden_layers": 1, "data.samples": 1, "data.test_samples": 0}))
    sampled = dl.solve(
        load(**{"algorithm": flow, "student.hidden_layers": 1, "data.samples": 1, "data.test_samples": 0}),
        method="particles",
        samples=2048,
    )
    assert np.abs(sampled["f"].values - exact["f"].values).max() < 5e-3
    linear = {"algorithm": {**flow, "levels": 4}, "student.activation": "linear"}
    limit = dl.solve(load(**linear))["f"].values[-1]
    gaps = []
    for sub in (8, 16):
        descent = {"kind": "gradient-descent", "learning_rate": 0.5 / sub, "steps": 4 * sub}
        gaps.append(np.abs(dl.solve(load(**linear | {"algorithm": descent}))["f"].values[-1] - limit).max())
    assert np.log2(gaps[0] / gaps[1]) == pytest.approx(1, abs=0.2)


def test_certificate_bounds_the_loss_under_flow_and_pivots_are_positive():
    """dL/dt <= -(2/m) lambda_min(Phi^L) L, and every innovation of the induction is positive."""
    flow = {"kind": "gradient-flow", "learning_rate": 0.4, "steps": 5, "substeps": 2, "levels": 2}
    curve = dl.solve(load(algorithm=flow), samples=1024)
    time, loss, rate = (curve[n].values for n in ("time", "loss", "pl_rate"))
    assert (rate > 0).all()
    decay = -np.diff(np.log(loss)) / np.diff(time)
    assert (decay > np.minimum(rate[1:], rate[:-1])).all()
    descent = dl.solve(
        load(**{"data": {"kind": "points", "source": "cosine", "samples": 3, "dimension": 5}, "algorithm.steps": 3}),
        samples=1024,
    )
    assert (descent["forward_innovation"].values[:3, 1] > 1e-8).all()
    assert (descent["backward_innovation"].values[:3, 0] > 1e-8).all()
    assert (descent["feature_min_eigenvalue"].values > 0).all()
    assert (descent["space_time_min_eigenvalue"].values > 0).all()


def test_stationary_means_zero_residual():
    """Corollary 4.6 as numbers: the squared residual is at most the readout's squared speed over lambda_min(Phi^L)."""
    curve = dl.solve(load(**{"algorithm.steps": 24, "algorithm.learning_rate": 0.4}), samples=512)
    labels = training_of(load()).labels[:3]
    residual = ((curve["f"].values - labels) ** 2).sum(axis=1) / 9
    bound = curve["readout_speed"].values / curve["feature_min_eigenvalue"].values[:, -1]
    assert (residual <= bound * (1 + 1e-2)).all()
    assert curve["readout_speed"].values[-1] < 0.05 * curve["readout_speed"].values[0]
    assert residual[-1] < 0.05 * residual[0]


def test_first_preactivations_are_dependent_when_samples_outnumber_dimensions():
    data = {"kind": "points", "source": "cosine", "samples": 4, "dimension": 3}
    curve = dl.solve(load(data=data), samples=1024)
    assert abs(curve["preactivation_min_eigenvalue"].values[0]) < 1e-10
    assert curve["preactivation_min_eigenvalue"].values[1] > 1e-3
    assert (curve["feature_min_eigenvalue"].values > 1e-4).all()
