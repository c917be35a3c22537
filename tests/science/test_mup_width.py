"""Finite width: bias and variance fall like 1/n, kernels too, and the four parametrisations differ as they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder_validation import compare, simulate
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.mup import EXPERIMENT

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"


def networks(problem, width, count, key, *names):
    streams = [np.random.default_rng([key, width, i]) for i in range(count)]
    variables = EXPERIMENT.run(problem, width, streams, backend_for()).variables
    return [variables[name][1] for name in names]


def relative_errors(kernels, limit):
    """Return E|dPhi|^2/|Phi|^2 for each layer."""
    return ((kernels - limit) ** 2).sum(axis=(2, 3)).mean(axis=0) / (limit**2).sum(axis=(1, 2))


def slope(widths, values):
    return np.polyfit(np.log(widths), np.log(values), 1)[0]


@pytest.mark.slow
def test_variance_and_kernel_fluctuations_of_two_tanh_layers():
    """n Var f and n E|dPhi|^2/|Phi|^2 are constant and have the reference values .136(2), .753(8), .254(3)."""
    problem = dl.load(RUNS / "mup-tanh.toml", {"algorithm.steps": 19})
    curve = dl.solve(problem, samples=4096)
    widths, counts = [32, 64, 128], [600, 400, 300]
    variance, errors = [], []
    for n, count in zip(widths, counts, strict=True):
        f, kernels = networks(problem, n, count, 1, "f", "feature_kernel")
        variance.append(f.var(axis=0, ddof=1).mean())
        limit = curve["feature_kernel"].values
        errors.append(relative_errors(kernels, limit))
    scaled = np.array(widths)[:, None] * np.c_[variance, errors]
    # Outputs at 80 (t, mu) are strongly correlated: a variance from R networks has a relative error near sqrt(2/R).
    relative = np.sqrt(2 / np.array(counts))[:, None]
    assert (np.abs(scaled / [0.136, 0.753, 0.254] - 1) < 4 * relative + 0.02).all()
    assert slope(widths, variance) == pytest.approx(-1, abs=0.2)
    assert slope(widths, np.array(errors)[:, 1]) == pytest.approx(-1, abs=0.2)


@pytest.mark.slow
def test_bias_of_the_outputs_falls_like_one_over_n():
    """|E f_n - f|^2, debiased by the squared standard error, falls like n^-2; n rms bias is .21(3)."""
    problem = dl.load(RUNS / "mup-tanh.toml", {"algorithm.steps": 19})
    limit = dl.solve(problem, samples=4096)["f"].values
    widths, bias = [8, 16, 32], []
    for n in widths:
        (f,) = networks(problem, n, 4000, 2, "f")
        gap, se = f.mean(axis=0) - limit, f.std(axis=0, ddof=1) / np.sqrt(len(f))
        bias.append(np.sqrt(np.mean(gap**2 - se**2)))
    assert 16 * bias[1] == pytest.approx(0.22, abs=0.05)
    assert slope(widths, bias) == pytest.approx(-1, abs=0.25)


@pytest.mark.parametrize(
    ("overrides", "replicas"),
    [
        ({"student.hidden_layers": 1, "student.activation": "sin", "student.richness": 1.5}, 64),
        ({"student.hidden_layers": 3, "algorithm.batch_size": 2, "algorithm.steps": 7, "data.test_samples": 1}, 48),
    ],
)
def test_theory_and_networks_agree(overrides, replicas):
    problem = dl.load(RUNS / "mup-tanh.toml", overrides)
    verdict = compare(dl.solve(problem, samples=2048), simulate(problem, d=(48, 96, 192), replicas=replicas, seed=1))
    assert verdict.verdict == "agree", verdict.reasons


def test_dropping_the_responses_is_caught():
    """The ablation is wrong at O(1): no width brings the networks to it."""
    problem = dl.load(RUNS / "mup-tanh.toml", {"algorithm.learning_rate": 0.25, "algorithm.steps": 13})
    measured = simulate(problem, d=(48, 96, 192), replicas=48)
    exact, dropped = (dl.solve(problem, samples=2048, approximation=a) for a in ("none", "no-responses"))
    assert compare(exact, measured, variables=["f", "loss"]).verdict == "agree"
    assert compare(dropped, measured, variables=["f", "loss"]).verdict == "disagree"
    # reference: loss(11) = .1146 instead of .0629, and outputs off by up to .139
    assert exact["loss"].values[11] == pytest.approx(0.0629, abs=1e-3)
    assert dropped["loss"].values[11] == pytest.approx(0.1146, abs=2e-3)
    assert np.abs(dropped["f"].values - exact["f"].values).max() == pytest.approx(0.139, abs=0.01)
    frozen = dl.solve(problem, approximation="lazy")
    assert np.abs(frozen["f"].values - exact["f"].values).max() > 0.1


def test_deep_linear_fluctuations():
    problem = dl.load(RUNS / "mup-linear.toml", {"algorithm.steps": 24})
    curve = dl.solve(problem)
    f, kernels = networks(problem, 128, 400, 3, "f", "feature_kernel")
    assert 128 * f.var(axis=0, ddof=1).mean() == pytest.approx(0.27, abs=0.08)
    limit = curve["feature_kernel"].values
    assert 128 * relative_errors(kernels, limit) == pytest.approx([2.42, 2.41, 1.57], rel=0.25)


@pytest.mark.slow
def test_feature_learning_of_the_four_parametrisations():
    """SP and NTP stop moving their features as n grows, IP collapses them, muP learns and keeps them apart."""
    data = {"kind": "points", "source": "gaussian", "samples": 16, "dimension": 24, "seed": 0}
    change, diversity, joint = {}, {}, {}
    widths = [48, 96, 192]
    for name, eta in (("sp", 8.0), ("ntp", 2.0), ("ip", 2.0), ("mup", 1.0)):
        problem = dl.load(
            RUNS / "mup-tanh.toml",
            {
                "data": data, "student.hidden_layers": 3, "student.activation": "silu", "student.parametrization": name,
                "algorithm.learning_rate": eta, "algorithm.steps": 59,
            },
        )  # fmt: skip
        names = ("relative_feature_change", "preactivation_min_eigenvalue", "space_time_min_eigenvalue")
        rows = [networks(problem, n, 3, 4, *names) for n in widths]
        change[name], diversity[name], joint[name] = (
            np.array([np.exp(np.log(r[i][:, -1]).mean()) for r in rows]) for i in range(3)
        )
    # -1/2 in the limit
    assert slope(widths, change["sp"]) == pytest.approx(-0.5, abs=0.2)
    assert slope(widths, change["ntp"]) == pytest.approx(-0.5, abs=0.2)
    assert slope(widths, change["ip"]) > 0.5
    assert slope(widths, change["mup"]) == pytest.approx(0, abs=0.12)
    assert slope(widths, diversity["ip"]) < -0.7
    assert (diversity["mup"] > 1e3 * diversity["ip"]).all()
    assert slope(widths, joint["mup"]) > 0
    assert (joint["mup"] > 10 * joint["sp"]).all()


def test_abc_exponents_reproduce_mup():
    problem = dl.load(RUNS / "mup-tanh.toml", {"algorithm.steps": 4})
    general = dl.load(
        RUNS / "mup-tanh.toml",
        {
            "algorithm.steps": 4, "student.parametrization": "abc",
            "student.abc": {"variance": [0.0, 1.0, 2.0], "rate": [-1.0, 0.0, 1.0]},
        },
    )  # fmt: skip
    assert np.array_equal(networks(problem, 32, 3, 5, "f")[0], networks(general, 32, 3, 5, "f")[0])


def test_dense_networks_follow_the_gradient():
    """The hand-written update is the derivative of the loss: finite differences of the loss along it."""
    from dimladder.problem import activation
    from dimladder.problem.training import training_of
    from dimladder_validation.simulate.mup import EXPONENTS, Network

    problem = dl.load(
        RUNS / "mup-tanh.toml", {"student.hidden_layers": 3, "student.richness": 1.7, "student.activation": "silu"}
    )
    run = training_of(problem)
    streams = [np.random.default_rng(0)]
    network = Network(run, EXPONENTS["mup"], activation("silu"), problem.loss.form, 12, streams, backend_for())
    velocity = network.velocity(network.run(), run.weights[:1])
    generator = np.random.default_rng(1)
    for l, rate in enumerate(network.rates):
        direction = generator.normal(size=network.weights[l].shape)
        start, losses = list(network.weights), []
        for step in (1e-5, -1e-5):
            network.weights = [w + step * direction if i == l else w for i, w in enumerate(start)]
            losses.append(run.loss(network.run().f)[0])
        network.weights = start
        measured = (losses[0] - losses[1]) / 2e-5
        assert measured == pytest.approx(-(velocity[l] * direction).sum() / rate, rel=1e-6)


def test_strict_array_api_and_float32():
    """Written once for every array namespace: the strict reference implementation gives the numbers of NumPy."""
    strict = pytest.importorskip("array_api_strict")
    from dimladder_validation.simulate.base import Backend

    problem = dl.load(RUNS / "mup-tanh.toml", {"algorithm.steps": 3, "data.test_samples": 1})
    streams = [lambda i=i: np.random.default_rng(i) for i in range(2)]
    plain = EXPERIMENT.run(problem, 16, [s() for s in streams], backend_for())
    other = EXPERIMENT.run(problem, 16, [s() for s in streams], Backend(strict, "cpu", "float64"))
    single = EXPERIMENT.run(problem, 16, [s() for s in streams], backend_for("cpu", "float32"))
    for name, (_, values) in plain.variables.items():
        assert other.variables[name][1] == pytest.approx(values, rel=1e-9, abs=1e-12), name
    # The same random numbers, rounded: a few thousand roundings of 6e-8.
    for name in ("loss", "f", "feature_kernel", "gradient_kernel", "relative_feature_change"):
        assert single.variables[name][1] == pytest.approx(plain.variables[name][1], rel=2e-4, abs=2e-5), name
