"""Algorithm 1 with its ablations, and the practical recipes, at small size."""

import importlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import SimulationError
from dimladder.problem import Coefficients, Hierarchical
from dimladder_validation.simulate.base import Backend, backend_for
from dimladder_validation.simulate.hierarchical import algorithm_one as one
from dimladder_validation.simulate.hierarchical import training
from dimladder_validation.simulate.hierarchical.flow import neurons
from dimladder_validation.simulate.hierarchical.replicas import Realizations
from dimladder_validation.simulate.hierarchical.target import Realization, level_sizes

CPU32, CPU64 = backend_for("cpu", "float32"), backend_for("cpu", "float64")
SIGMA = "tanh(x - 0.3) - 0.7912*x"
RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"


def target(readout="rademacher", link="tanh(2*h)", exponents=(0.5,), features=({2: 1.0},), **more):
    return Hierarchical(
        hermite="orthonormal",
        exponents=exponents,
        features=tuple(Coefficients(f) for f in features),
        link=link,
        readout=readout,
        **more,
    )


def settings(**more):
    base = {
        "activation": SIGMA, "p1": 200, "p2": 100, "n1": 4000, "n2": 1500, "n3": 1500, "steps": 12, "step": 12.0,
        "second_step": 200.0, "second_ridge": 1e-4, "third_ridge": 1e-6, "both_signs": True,
    }  # fmt: skip
    return one.AlgorithmOne(**{**base, **more})


def test_realisations_of_every_depth_have_unit_features():
    deep = target("rademacher", "h", (0.8, 0.4), ({2: 0.6, 3: 0.8}, {1: 1.0}))
    assert level_sizes(deep, 400) == (120, 10, 1)
    rng = np.random.default_rng(0)
    values = []
    for _ in range(20):
        truth = Realization.draw(deep, 400, rng, CPU64)
        rows = truth.directions[0]
        np.testing.assert_allclose(rows @ rows.T, np.eye(120), atol=1e-12)
        values.append(truth(truth.inputs(1000, rng)))
    assert np.var(np.concatenate(values)) == pytest.approx(1.0, abs=0.05)
    branches = Realization.draw(target(link="h1*h2", branches=2), 100, rng, CPU64)
    z = branches.project(branches.inputs(5, rng))
    h = branches.features_of(z)
    assert z.shape == (5, 2, 10)
    np.testing.assert_allclose(branches.link(h), h[0] * h[1])
    with pytest.raises(SimulationError, match="larger d"):
        level_sizes(target("ones", "h", (0.5, 0.48), ({2: 1.0}, {2: 1.0})), 10)


def test_reduced_and_whole_inputs_give_the_same_neurons():
    """Stage 1 with inputs in R^d, and with (n, d_eff + 1) numbers a step: same law of the overlap after 8 steps."""
    problem = dl.load(
        RUNS / "hierarchical-flow.toml", {"algorithm.step": 6.0, "algorithm.batch_ratio": 4.0, "limit.d": 64}
    )
    rng = np.random.default_rng(1)
    reduced = neurons(problem, 64, rng.spawn(150), CPU64, 8, 1)[0][:, -1, 0]
    truth = Realization.draw(problem.target, 64, rng, CPU64)
    whole = []
    for _ in range(30):
        plan = one.AlgorithmOne(SIGMA, p1=10, p2=10, n1=4 * 64 * 8, n2=1, n3=1, steps=8, step=6.0, centre_labels=False)
        w, _, _ = one.first_layer(truth, plan, rng, CPU64)
        whole.append(np.sum((w @ truth.directions[0].T) ** 2, axis=1))
    whole = np.array(whole)
    se = math.hypot(reduced.std() / math.sqrt(150), whole.mean(axis=1).std() / math.sqrt(30))
    assert abs(reduced.mean() - whole.mean()) < 4 * se
    assert reduced.mean() > 3 * 8 / 64


@pytest.mark.slow
def test_algorithm_one_and_its_ablations():
    """Each ingredient earns its place: errors and overlaps with it against without it, two targets each."""
    found = {}
    plans = {
        "full": settings(),
        "plain step": settings(precondition=False, second_step=3.0),
        "one batch": settings(fresh_batches=False),
        "no sphere": settings(projection=False),
        "one sign": settings(both_signs=False),
    }
    for name, plan in plans.items():
        runs = []
        for seed in (0, 1):
            rng = np.random.default_rng(seed)
            truth = Realization.draw(target(), 81, rng, CPU32)
            runs.append(one.train(truth, plan, rng, CPU32))
        found[name] = (
            np.mean([r.history[-1][1][0] for r in runs]),
            np.mean([r.feature_overlap for r in runs]),
            np.mean([r.test_error for r in runs]),
        )
    weight, feature, error = found["full"]
    assert weight > 0.93
    assert feature > 0.6
    assert error < 0.42  # E[f*^2] = 0.6
    assert found["plain step"][2] > error + 0.05
    assert found["one batch"][0] < weight - 0.02
    assert found["no sphere"][0] < weight - 0.02
    # Readouts of one sign see half of the subspace: the feature they build misses the other half.
    assert found["one sign"][1] < feature - 0.1


def test_equal_readouts_need_centred_features():
    plan = settings(both_signs=False)
    errors = []
    for centre in (False, True):
        rng = np.random.default_rng(2)
        truth = Realization.draw(target("ones"), 81, rng, CPU32)
        errors.append(one.train(truth, replace(plan, centre_features=centre), rng, CPU32).feature_overlap)
    assert errors[0] < 0.3 < 0.6 < errors[1]


def test_single_and_double_precision_agree():
    results = []
    for backend in (CPU32, CPU64):
        truth = Realization.draw(target(), 36, np.random.default_rng(3), backend)
        # The same numbers in both precisions: drawn once, in double.
        plan = settings(p1=20, p2=10, n1=500, steps=3)
        x = np.random.default_rng(4).standard_normal((500, 36))
        w = np.random.default_rng(5).standard_normal((20, 36))
        overlap = one.weight_overlap(backend.asarray(w), truth, backend)
        results.append((overlap[0], float(backend.xp.mean(truth(backend.asarray(x)))), plan.p1))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)


def test_everything_runs_on_a_strict_array_namespace():
    """Only what the Array API guarantees: the same code runs on an accelerator."""
    xp = pytest.importorskip("array_api_strict")
    strict = Backend(xp, "cpu", "float64")
    results = []
    for backend in (CPU64, strict):
        rng = np.random.default_rng(8)
        truth = Realization.draw(target(), 36, rng, backend)
        plan = settings(p1=20, p2=10, n1=300, n2=60, n3=80, steps=2)
        done = one.train(truth, plan, rng, backend)
        recipe = replace(training.REPOSITORY, second_width=8)
        both = Realizations.of([truth, Realization.draw(target(), 36, rng, backend)])
        streams = [np.random.default_rng(seed) for seed in (9, 10)]
        layer = training.train_layerwise(both, 60, recipe, streams, steps=(3, 3), records=2)
        joint = training.train_joint(both, 60, recipe, streams, steps=3, records=2)
        two = training.train_two_layer(both, 60, recipe, streams, steps=3)
        kernel = training.polynomial_kernel_ridge(truth, 60, rng, backend)
        trained = [r.test_error[i] for r in (layer, joint, two) for i in range(2)]
        results.append([done.test_error, done.feature_overlap, kernel, *trained])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-8)


def test_gradients_of_the_practical_network():
    rng = np.random.default_rng(6)
    net = training.ThreeLayer(7, 9, 5, 0.2, [np.random.default_rng(seed) for seed in (1, 2)], CPU64)
    x, y = rng.standard_normal((2, 11, 7)), rng.standard_normal((2, 11))
    gradients = net.gradients(x, y)

    def loss():
        return 0.5 * float(np.sum((net(x) - y) ** 2))

    for layer, name in ((1, "w1"), (2, "w2"), (3, "w3")):
        weights = getattr(net, name)
        direction = rng.standard_normal(weights.shape)
        values = []
        for step in (1e-6, -1e-6):
            setattr(net, name, weights + step * direction)
            values.append(loss())
        setattr(net, name, weights)
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(float(np.sum(gradients[layer] * direction)), rel=1e-5)


def test_published_numbers_of_the_recipes():
    assert training.PAPER.steps(64) == (62, 2560)
    assert training.REPOSITORY.steps(64) == (88, 3657)
    assert training.first_width(training.REPOSITORY, int(64**2.2)) == 3769
    assert training.double_descent_exponent(64) == pytest.approx(math.log(2081) / math.log(64))


@pytest.mark.slow
def test_practical_recipes_find_the_subspace():
    """tanh(3h), d = 25, n = d^2.2, published rules of layer 1, with the same data throughout or fresh data for each
    layer.
    """
    errors = {"same": [], "fresh": [], "two-layer": [], "kernel": []}
    recipe = replace(training.REPOSITORY, second_width=60, width_exponent=0.75)
    for seed in (0,):
        rng = np.random.default_rng(seed)
        truth = Realization.draw(target(link="tanh(3*h)"), 25, rng, CPU32)
        n, one_truth = int(25**2.2), Realizations.of([truth])
        for name, more in (("same", {}), ("fresh", {"fresh": True, "reinitialize": True})):
            done = training.train_layerwise(one_truth, n, recipe, [rng], steps=(68, 300), records=2, **more)
            errors[name].append(done.test_error[0])
            assert done.weight_overlap[0, -1, 0] > 1.25 * done.weight_overlap[0, 0, 0]
        errors["two-layer"].append(training.train_two_layer(one_truth, n, training.REPOSITORY, [rng]).test_error[0])
        errors["kernel"].append(training.polynomial_kernel_ridge(truth, n, rng, CPU32))
    means = {name: np.mean(values) for name, values in errors.items()}
    assert max(means["same"], means["fresh"]) < 0.85 * float(np.mean(truth(truth.inputs(5000, rng)) ** 2))
    assert max(means["two-layer"], means["kernel"]) < 0.75 * float(np.mean(truth(truth.inputs(5000, rng)) ** 2))


def test_shallow_baselines_learn():
    rng = np.random.default_rng(7)
    truth = Realization.draw(target(link="h"), 36, rng, CPU64)
    kernel = training.polynomial_kernel_ridge(truth, 1500, rng, CPU64, ridge_strength=1e-3)
    assert kernel < 0.05  # h is quadratic in x
    known = training.random_feature_ridge(
        truth, 1000, 300, rng, CPU64, ridge_strength=1e-5, directions=truth.directions[0].T
    )
    blind = training.random_feature_ridge(truth, 1000, 300, rng, CPU64, ridge_strength=1e-5)
    assert known < 0.2 < 0.5 < blind


@pytest.mark.parametrize(
    ("run", "settings_", "size"),
    [
        ("hierarchical-flow", {"grid.time": [0.0, 2.0], "algorithm.batch_ratio": 2.0}, 49),
        ("hierarchical-layerwise", {"grid.first_ratio": [2.0, math.inf], "grid.second_ratio": [1.5]}, 49),
        ("hierarchical-plateaus", {"grid.kappa": [1.0, 2.0, 3.0]}, 49),
    ],
)
def test_experiments_on_a_strict_array_namespace(run, settings_, size):
    xp = pytest.importorskip("array_api_strict")
    module = importlib.import_module("dimladder_validation.simulate." + run.replace("-", "."))
    problem = dl.load(RUNS / f"{run}.toml", settings_)
    results = []
    for backend in (CPU64, Backend(xp, "cpu", "float64")):
        sample = module.EXPERIMENT.run(problem, size, [np.random.default_rng(9)], backend)
        results.append({name: values for name, (_, values, _) in sample.arrays().items()})
    for name, values in results[0].items():
        np.testing.assert_allclose(results[1][name], values, rtol=1e-6, atol=1e-9, err_msg=name)
