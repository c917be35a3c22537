"""The second-order channel: quadratics of x find the subspace of an even link, and those of it the feature."""

import math
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import ConfigError, SimulationError
from dimladder.problem import Coefficients, Hierarchical
from dimladder.theories.hierarchical import flattening
from dimladder_validation import compare, simulate
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.hierarchical import flattening as experiment

RUN = Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "hierarchical-even.toml"


def even(link="cos(1.5*h)", noise=0.1, features=None):
    return Hierarchical(
        hermite="orthonormal", exponents=(0.5,), features=(Coefficients(features or {2: 1.0}),), link=link,
        readout="rademacher", noise=noise,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("d", "d_eff", "ratio", "spike", "spike_se", "overlap", "overlap_se"),
    [
        (48, 18, 9.22, 0.791, 0.003, 0.938, 0.002), (64, 8, 9.22, 0.778, 0.005, 0.949, 0.001),
        (96, 20, 4.61, 0.619, 0.004, 0.876, 0.004), (96, 20, 9.22, 0.808, 0.002, 0.951, 0.001),
        (144, 12, 4.61, 0.620, 0.004, 0.925, 0.002), (144, 12, 9.22, 0.806, 0.003, 0.970, 0.001),
    ],
)  # fmt: skip
def test_folded_eigenvector(d, d_eff, ratio, spike, spike_se, overlap, overlap_se):
    """Simulated with 3 to 8 runs. Without the larger noise of quadratics of hidden directions 1 - q is half as large in
    the rows of few directions.
    """
    law = flattening.quadratic_law(even(), "identity", d, d_eff)
    assert abs(flattening.folded_spike(law, ratio).overlap - spike) < 3 * spike_se + 0.03
    found = flattening.flattened_subspace(even(), "identity", ratio, d, d_eff).mean_overlap
    assert abs(found - overlap) < 3 * overlap_se + 0.15 * (1 - overlap)


def test_eigenvector_is_that_of_the_explicit_matrix():
    """Products with the inputs against the matrix on all quadratics, written out."""
    rng = np.random.default_rng(3)
    d, n, backend = 6, 200, backend_for()
    x, t = rng.standard_normal((n, d)), rng.standard_normal(n)
    rows, columns = np.triu_indices(d, 1)
    phi = np.concatenate([(x**2 - 1) / math.sqrt(2), x[:, rows] * x[:, columns]], axis=1)
    weight = t / (np.sum(phi**2, axis=1) / phi.shape[1])
    for sign in (1.0, -1.0):
        matrix = sign * ((phi.T * weight) @ phi / n - weight.mean() * np.eye(phi.shape[1]))
        wanted = np.linalg.eigh(matrix)[1][:, -1]
        (folded,) = experiment._folded([(x[:90], t[:90]), (x[90:], t[90:])], d, n, sign, rng, backend)
        found = np.concatenate([np.diag(folded), math.sqrt(2) * folded[rows, columns]])
        assert abs(found @ wanted) == pytest.approx(1.0, abs=1e-6)


def test_the_best_transform_is_the_posterior_of_the_second_order():
    """delta_c of T* = E[h_2(u) | y] lies below that of the label, and of two other functions of it."""
    found = [flattening.flattening_threshold(even(), t) for t in ("optimal", "identity", "y**2", "abs(y - 0.3)")]
    assert found[0] < min(found[1:]) - 0.1
    # A weak signal: theta = sqrt2 tau_2 on a semicircle of variance Var T/n, delta_c = Var T/(2 tau_2^2).
    weak = even("cos(1.5*h)", noise=6.0)
    moments = flattening.label_moments(weak, "identity", channel=2)
    wanted = moments.variance / (2 * moments.tau[2] ** 2)
    assert flattening.flattening_threshold(weak, "identity") == pytest.approx(wanted, rel=0.02)


@pytest.mark.slow
def test_run_file_meets_the_experiment():
    """An even link with a cubic part of the polynomial, and a hidden space larger than d^(1/2)."""
    problem = dl.load(RUN, {
        "target.features": [{"2": 0.9, "3": 0.4358898943540674}], "target.link": "abs(h) - 0.2*h**2",
        "grid.kappa": [2.25], "target.exponents": [0.6], "target.noise": 0.05, "limit.d": [64, 100],
    })  # fmt: skip
    measured = simulate(problem, d=[64, 100], replicas=4, seed=3, dtype="float32")
    curve = dl.solve(problem)
    for name, slack in (("subspace_overlap", 0.03), ("feature_correlation", 0.05), ("mse", 0.03)):
        gap = np.abs(curve[name].values - np.moveaxis(measured[name].values, 0, -1))
        se = np.moveaxis(measured[f"{name}_se"].values, 0, -1)
        assert np.all(gap < 4 * se + slack), (name, gap, se)
    assert compare(problem, measured).verdict != "disagree"
    blind = dl.replace(problem, {"algorithm.first.estimator": "covariance"})
    assert np.all(dl.solve(blind)["subspace_overlap"].values < curve["subspace_overlap"].values - 0.1)


def test_printed_relations_are_what_is_computed():
    """Leading order: overlap and correlation from q_A and p_A, evaluated from the sympy that is printed."""
    problem = dl.load(RUN, {"algorithm.first.order": "leading", "grid.kappa": [2.2], "limit.d": 64})
    rows = dl.derive(problem).symbolic()
    curve, d, d_eff, n = dl.solve(problem), 64, 8, round(64**2.2)
    held = flattening.flattened(problem.target, n / (d * (d + 1) / 2)).overlap
    values = {"q_A": held, "d_1": d_eff, "d": d, "a": 1.0, "v_2": 1.0}

    def evaluate(label):
        left, right = rows[label]
        values[left.name] = float(right.subs({s: values[s.name] for s in right.free_symbols}))
        return values[left.name]

    assert evaluate("overlap") == pytest.approx(float(curve["subspace_overlap"][0]), rel=1e-12)
    values["p_A"] = flattening.flattened(
        problem.target, n / (d_eff * (d_eff + 1) / 2), held=evaluate("share 2")
    ).overlap
    assert evaluate("correlation") == pytest.approx(float(curve["feature_correlation"][0]), rel=1e-9)


def test_what_the_quadratics_do_not_see_is_refused(caplog):
    for change, match in (
        ({"target.features": [{"3": 1.0}]}, "quadratic part"),
        ({"target.features": [{"1": 0.6, "2": 0.8}]}, "linear"),
        ({"limit.d": None}, "dimension"),
        ({"algorithm.second.ridge": 0.1}, "belongs to estimator"),
        ({"target.branches": 2, "target.link": "cos(h1*h2)"}, "branches"),
        ({"target.exponents": [0.6, 0.2], "target.features": [{"2": 1.0}, {"2": 1.0}]}, "one hidden level"),
    ):
        with pytest.raises(ConfigError, match=match):
            dl.solve(dl.replace(dl.load(RUN), change))
    ratios = {"grid": {"first_ratio": [math.inf], "second_ratio": [math.inf]}, "limit.d": 36}
    everything = dl.replace(dl.load(RUN), ratios)
    with pytest.raises(SimulationError, match="infinitely many"):
        simulate(everything, d=[36], replicas=1)
    odd = dl.replace(dl.load(RUN), {"target.link": "tanh(2*h)", "grid.kappa": [2.3], "limit.d": 64})
    assert dl.solve(odd)["subspace_overlap"].values == pytest.approx(8 / 64)
    assert "moves the quadratics of single hidden directions" in caplog.text
    regression = dl.replace(dl.load(RUN), {"algorithm.second.estimator": "ridge", "grid.kappa": [2.1], "limit.d": 36})
    curve = dl.solve(regression)
    assert "stage 2 learns nothing" in caplog.text
    assert curve["feature_correlation"].values == pytest.approx(0.0, abs=1e-12)
