"""Several branches: what transforms of a label tell apart, limits to one branch, and simulations."""

import math
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import ConfigError
from dimladder.problem import Coefficients, Hierarchical
from dimladder.problem.stages import SecondStage, ThirdStage
from dimladder.theories.hierarchical import branch_flattening, branch_links, branch_stages, flattening
from dimladder_validation import simulate

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"
BRANCHES = RUNS / "hierarchical-branches.toml"


def target(link, branches=2, features=None, **more):
    return Hierarchical(
        hermite="orthonormal", exponents=(0.5,), features=(Coefficients(features or {2: 1.0}),), link=link,
        branches=branches, **more,
    )  # fmt: skip


@pytest.mark.parametrize(("branches", "link"), [(2, "tanh(h1) + h1*h2**2"), (3, "h1 - 0.5*tanh(h2*h3) + 0.3*h3")])
def test_moments_of_transforms_by_sampling(branches, link):
    """P = .8 h_2 + .6 h_3 has unit variance: u = h."""
    t = target(link, branches, {2: 0.8, 3: 0.6}, noise=0.4)
    transforms = ("identity", "tanh(y)", "y**2")
    found = branch_links.branch_moments(t, transforms)
    rng, count = np.random.default_rng(2), 1_000_000
    u = rng.standard_normal((branches, count))
    f = np.asarray(t.expression.evaluate(np, **dict(zip(t.link_variables, u, strict=True))))
    y = f + 0.4 * rng.standard_normal(count)
    values = np.array([y, np.tanh(y), y**2])
    centred = values - values.mean(axis=1, keepdims=True)
    for t_index, row in enumerate(centred):
        scale = 5 * row.std() / 1000
        assert np.all(np.abs(found.first[t_index] - u @ row / count) < scale)
        assert np.all(np.abs(found.second[t_index] - np.einsum("in,jn,n->ij", u, u, row) / count) < 10 * scale)
    np.testing.assert_allclose(found.covariance, np.cov(values), rtol=0.03, atol=0.02)
    assert branch_links.null_error(t) == pytest.approx(np.mean(f**2), rel=0.01)


def test_what_a_label_tells_apart():
    """Equal branches: one direction, whatever is done to the label; a product: none; unequal ones: both."""
    for link, seen in (("tanh(h1) + tanh(h2)", 1), ("h1*h2", 0), ("sign(h1*h2)", 0), ("tanh(2*h1) + 0.5*h2", 2)):
        values = branch_links.seen_directions(target(link))
        assert int((values > 1e-6).sum()) == seen, (link, values)


def test_captured_power_of_two_correlated_features():
    """g = u_1 u_2 + u_1: E[E[g | F]^2] = P_11 P_22 + P_12^2 + P_11."""
    t = target("h1*h2 + h1")
    p = np.array([[0.6, 0.2], [0.2, 0.3]])
    assert branch_links.captured(t, p, 5) == pytest.approx(0.6 * 0.3 + 0.04 + 0.6, rel=1e-9)
    assert branch_links.captured(t, p, 1) == pytest.approx(0.6, rel=1e-9)


def test_a_branch_alone_is_the_theory_of_one():
    """A link that does not know the second branch: the same threshold, overlap, correlation and error as without it."""
    common = {
        "target.link": "tanh(2*h1)", "grid": {"first_ratio": [3.0, math.inf], "second_ratio": [0.7, 3.0]},
        "algorithm.second": {"label_transforms": ["identity"], "ridge": 0.3, "degrees": "top"},
        "algorithm.third.degree": 7,
    }  # fmt: skip
    two = dl.solve(dl.load(BRANCHES, common))
    single = {**common, "target.branches": 1, "target.link": "tanh(2*h)"}
    one = dl.solve(dl.load(BRANCHES, single))
    assert one.theory == "hierarchical-layerwise"
    np.testing.assert_allclose(two["subspace_overlap"].sel(branch=1), one["subspace_overlap"], rtol=1e-6)
    np.testing.assert_allclose(two["feature_correlation"].sel(branch=1), one["feature_correlation"], rtol=1e-6)
    np.testing.assert_allclose(two["mse"], one["mse"], rtol=1e-6)
    assert float(two["feature_correlation"].sel(branch=2).max()) < 1e-6
    assert np.isinf(two["weak_recovery_ratio"].values[1])


def test_more_transforms_never_hurt_and_equal_ones_do_not_help():
    setup = {"grid": {"first_ratio": [math.inf], "second_ratio": [50.0]}}

    def error(*transforms):
        second = {"label_transforms": list(transforms)}
        return float(dl.solve(dl.load(BRANCHES, {**setup, "algorithm.second": second}))["mse"].values[0, 0])

    assert error("identity", "identity") == pytest.approx(error("identity"), rel=1e-9)
    assert error("identity", "abs(y)") < 0.4 * error("identity")


def test_estimates_from_the_same_samples_share_their_noise():
    """Two label transforms regressed on the same 300 samples of 24 known coordinates: Q and K by direct fits."""
    rng = np.random.default_rng(1)
    t = target("tanh(1.5*h1) + 0.6*h2", noise=0.3)
    d_eff, n, transforms = 12, 300, ("identity", "y**3")
    moments = branch_links.branch_moments(t, transforms)
    count = 24 * 25 // 2
    state = branch_stages.leading_features(
        t, moments, SecondStage(ridge=0.2, weights="flat"), (2,), np.ones((2, 3)), np.array([count / n]),
        np.array([float(count)]),
    )  # fmt: skip
    rows, columns = np.triu_indices(24, 1)

    def draw(size):
        z = rng.standard_normal((size, 24))
        phi = np.concatenate([(z**2 - 1) / math.sqrt(2), z[:, rows] * z[:, columns]], axis=1)
        u = phi[:, :24].reshape(size, 2, d_eff) @ np.where(np.arange(d_eff) % 2, 1.0, -1.0) / math.sqrt(d_eff)
        return phi, u, np.tanh(1.5 * u[:, 0]) + 0.6 * u[:, 1] + 0.3 * rng.standard_normal(size)

    test, u, _ = draw(20_000)
    found_q, found_k = [], []
    for _ in range(16):
        phi, _, y = draw(n)
        labels = np.stack([y, y**3], axis=1)
        labels -= labels.mean(axis=0)
        made = test @ np.linalg.solve(phi.T @ phi / n + 0.2 * np.eye(count), phi.T @ labels / n)
        found_q.append(np.cov(made.T))
        found_k.append(made.T @ u / len(u))
    for found, predicted in ((found_q, state.covariance), (found_k, state.with_features)):
        se = np.std(found, axis=0, ddof=1) / 4
        off = np.abs(np.mean(found, axis=0) - predicted)
        # Leading order at d_eff = 12.
        assert np.all(off < 4 * se + 0.12 * np.abs(predicted)), (found, predicted)
    alone = np.einsum("tm,sm->ts", state.with_features, state.with_features)
    assert alone[0, 1] < 0.75 * state.covariance[0, 1]


def test_run_file_meets_the_experiment():
    """Three branches with unequal slopes, d = 121: overlap, correlation and error."""
    problem = dl.load(BRANCHES, {
        "target.branches": 3, "target.link": "tanh(2*h1) - 0.7*h2 + 0.5*tanh(h3)",
        "target.readout": [1.0, -1.0],
        "algorithm.first": {"order": "refined", "label_transform": "tanh(y)"}, "limit.d": 121,
        "algorithm.second": {"label_transforms": ["identity", "exp(-y**2)"]},
        "grid": {"first_ratio": [8.0], "second_samples": [1500.0]}, "simulation": {"sizes": [121], "replicas": 3},
    })  # fmt: skip
    curve, measured = dl.solve(problem), simulate(problem, dtype="float32")
    for name, slack in (("subspace_overlap", 0.03), ("feature_correlation", 0.03), ("mse", 0.02)):
        found, se = (np.asarray(measured[f"{name}{s}"].values).ravel() for s in ("", "_se"))
        predicted = np.asarray(curve[name].values).ravel()
        assert (np.abs(found - predicted) < 4 * se + slack).all(), (name, found, predicted, se)


def test_readout_of_several_features_from_few_labels():
    """The median error of fits on 60 labels, twice that on all inputs, and its band."""
    problem = dl.load(BRANCHES, {
        "target.link": "tanh(2*h1) - 0.6*h2", "target.noise": 0.3, "algorithm.first.order": "refined", "limit.d": 225,
        "algorithm.second.label_transforms": ["identity", "y**3"],
        "algorithm.third": {"degree": 3, "samples": 60.0},
        "grid": {"first_ratio": [math.inf], "second_samples": [3000.0]},
    })  # fmt: skip
    curve, measured = dl.solve(problem), simulate(problem, d=[225], replicas=6, dtype="float32", seed=5)
    found, se = (float(measured[f"mse{s}"].values.ravel()[0]) for s in ("", "_se"))
    predicted, low, high = (float(curve[f"mse{s}"].values.ravel()[0]) for s in ("", "_low", "_high"))
    everything = dl.solve(dl.replace(problem, {"algorithm.third.samples": math.inf}))
    best = float(everything["mse"].values.ravel()[0])
    assert low < predicted < high
    assert found > best + 5 * se
    assert abs(found - predicted) < 3 * se + 0.15 * (predicted - best)


def test_fits_of_jointly_normal_features_by_drawing_them():
    """Leading order of stage 3: fits on 40 labels of two features of which a rotation of the true ones is known."""
    t = Hierarchical(
        hermite="orthonormal", exponents=(0.5,), features=(Coefficients({2: 1.0}),), branches=2,
        link="tanh(h1) + 0.5*h1*h2", noise=0.2,
    )  # fmt: skip
    explained = np.array([[0.7, 0.2], [0.2, 0.5]])
    best = branch_links.null_error(t) - branch_links.captured(t, explained, 2)
    fit = branch_stages.leading_fit(t, explained, ThirdStage(degree=2, samples=40.0), best)
    rng = np.random.default_rng(4)
    root = np.linalg.cholesky(explained)
    left = np.linalg.cholesky(np.eye(2) - explained)
    errors = []

    def draw(n):
        known = rng.standard_normal((n, 2))
        u = known @ root.T + rng.standard_normal((n, 2)) @ left.T
        a, b = known.T
        basis = np.stack([np.ones(n), a, b, a * b, a**2 - 1, b**2 - 1], axis=1)
        return basis, np.tanh(u[:, 0]) + 0.5 * u[:, 0] * u[:, 1]

    test, wanted = draw(100_000)
    for _ in range(400):
        basis, f = draw(40)
        theta = np.linalg.lstsq(basis, f + 0.2 * rng.standard_normal(40), rcond=None)[0]
        errors.append(np.mean((test @ theta - wanted) ** 2))
    low, middle, high = np.quantile(errors, [0.1, 0.5, 0.9])
    assert fit.median == pytest.approx(middle, rel=0.03)
    assert fit.low == pytest.approx(low, rel=0.03)
    assert fit.high == pytest.approx(high, rel=0.15)
    assert middle > 1.1 * best


def test_parities_are_learned_by_no_first_moment():
    curve = dl.solve(dl.load(BRANCHES, {"target.link": "sign(h1*h2)", "target.noise": 0.0}))
    assert np.isinf(curve["weak_recovery_ratio"].values).all()
    assert float(curve["feature_correlation"].max()) == 0.0
    np.testing.assert_allclose(curve["mse"], 1.0, rtol=1e-12)


def test_a_parity_is_seen_at_second_order():
    """sign(h1 h2), both stages by quadratics: E[T u u^T] = 2/pi off the diagonal, eigenvectors (h1 +- h2)/sqrt2."""
    t = target("sign(h1*h2)", noise=0.1)
    law = branch_flattening.joint_law(t, "identity")
    first = branch_flattening.flattening_ratios(t, "identity")
    assert first[0] == pytest.approx(first[1])
    assert branch_flattening.spikes(law, 0.98 * first[0], np.ones(2))[0].max() == 0.0
    assert branch_flattening.spikes(law, 1.02 * first[0], np.ones(2))[0].min() > 0.005
    q, e = branch_flattening.spikes(law, 8.0, np.ones(2))
    assert np.abs(e) == pytest.approx(np.full((2, 2), 2**-0.5), abs=1e-6)
    assert q[0] == pytest.approx(q[1], rel=1e-6)
    # The feature of one branch alone, by the theory of one.
    one = target("cos(1.5*h1) + 0*h2", noise=0.1)
    alone = Hierarchical(
        hermite="orthonormal", exponents=(0.5,), features=(Coefficients({2: 1.0}),), link="cos(1.5*h)", noise=0.1
    )  # fmt: skip
    found, _ = branch_flattening.spikes(branch_flattening.joint_law(one, "identity"), 4.0, np.ones(2))
    assert found.max() == pytest.approx(flattening.flattened(alone, 4.0).overlap, abs=1e-5)
    assert found.min() == 0.0


@pytest.mark.slow
def test_a_parity_by_simulation():
    """d = 64, 8 directions a branch, n = d^2.5 a stage: the leading order within its O(1/d_eff)."""
    problem = dl.load(BRANCHES, {
        "target.link": "sign(h1*h2)", "algorithm.first": {"estimator": "flattened"}, "algorithm.third.degree": 4,
        "algorithm.second": {"estimator": "flattened"}, "grid": {"kappa": [2.5]}, "limit.d": 64,
    })  # fmt: skip
    curve, measured = dl.solve(problem), simulate(problem, d=[64], replicas=3, dtype="float32", seed=7)
    for name, slack in (("subspace_overlap", 0.03), ("feature_correlation", 0.1)):
        gap = np.abs(curve[name].values - measured[name].values[0])
        assert np.all(gap < 4 * measured[f"{name}_se"].values[0] + slack), (name, gap)
    assert float(measured["mse"].max()) < 0.75
    blind = dl.replace(problem, {"algorithm.first.estimator": "covariance"})
    assert float(simulate(blind, d=[64], replicas=2, dtype="float32")["subspace_overlap"].max()) < 0.5


def test_what_several_branches_cannot_have_is_refused():
    for wrong, message in (
        ({"algorithm.first.label_transform": "optimal"}, "no single function"),
        ({"algorithm.second": {"weights": "units", "units": 5}}, "one branch"),
        ({"algorithm.third.basis": "rank"}, "Hermite"),
        ({"algorithm.third.ridge": 0.1}, "Hermite"),
        ({"algorithm.first": {"estimator": "flattened", "order": "refined"}, "limit.d": 64}, "leading order only"),
        ({"algorithm.first": {"estimator": "flattened"}}, r"limit\.d"),
        ({"algorithm.second": {"estimator": "flattened", "ridge": 0.1}}, "belongs to"),
        ({"algorithm.second": {"estimator": "flattened"}, "target.features": [{"3": 1.0}]}, "quadratic part"),
        ({"algorithm.third.samples": 22.0}, "finite spread"),
        ({"target.features": [{"1": 0.8, "2": 0.6}], "target.link": "h1*h2 + h1"}, "second order"),
        ({"target.features": [{"1": 0.8, "3": 0.6}]}, "third order"),
        ({"algorithm.first.order": "refined"}, r"limit\.d"),
        ({"target.branches": 5, "target.link": "h1 + h5"}, "at most 4"),
    ):
        with pytest.raises(ConfigError, match=message):
            dl.load(BRANCHES, {"theory": "hierarchical-branches", **wrong})
    with pytest.raises(ConfigError, match="several branches"):
        dl.load(RUNS / "hierarchical-layerwise.toml",
                {"theory": "hierarchical-layerwise", "algorithm.second.label_transforms": ["y**3"]})  # fmt: skip
