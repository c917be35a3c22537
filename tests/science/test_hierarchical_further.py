"""Second levels, power-law cascades, quadratic-feature targets, compositional exponents."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import ConfigError, DomainError, SimulationError
from dimladder.numerics.quadrature import hermite_values
from dimladder.problem import Coefficients, Hierarchical
from dimladder.theories.hierarchical import flattening, further
from dimladder.theories.hierarchical.labels import label_moments
from dimladder_validation import simulate
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.hierarchical import compositional_exponent as cie
from dimladder_validation.simulate.hierarchical import quadratic_features as quadratic
from dimladder_validation.simulate.hierarchical import tree as hierarchical_tree
from dimladder_validation.simulate.hierarchical.first_stage import CentredLabel
from dimladder_validation.simulate.hierarchical.target import Realization

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"


def target(link="tanh(2*h)", features=None):
    return Hierarchical(
        hermite="orthonormal", exponents=(0.5,), features=(Coefficients(features or {2: 1.0}),), link=link
    )


def test_second_level_threshold():
    moments = label_moments(target("h"), "identity")
    level = further.next_level(moments, 0.9)
    assert level.critical == pytest.approx(1 / (2 * 0.9**4), rel=1e-12)
    assert level.overlap(4 * level.critical) == pytest.approx(0.75)
    assert level.overlap(0.5 * level.critical) == 0.0
    assert math.isinf(further.next_level(moments, 0.0).critical)
    cubic = further.cubic_unfolding(moments)
    assert cubic.overlap(3 * cubic.critical) == pytest.approx(1 - 1 / 9)


@pytest.mark.slow
def test_second_level_by_simulation():
    """36 learned features in 6 blocks, normalised quadratics above, tanh on top: leading overlap to 15 % at 8
    critical.
    """
    rng = np.random.default_rng(0)
    d1, d2, block = 36, 6, 6
    count = d1 * (d1 + 1) // 2
    level = further.next_level(label_moments(target("tanh(2*h)"), "identity"), 1.0)
    n = round(8 * level.critical * count * d2)
    rows, columns = np.triu_indices(d1, 1)
    matrix = np.zeros((count, count))
    a = rng.choice([-1.0, 1.0], (d2, block)) / math.sqrt(block)
    truth = np.zeros((d2, count))
    for m in range(d2):
        truth[m, m * block : (m + 1) * block] = a[m]
    weights = rng.choice([-1.0, 1.0], d2) / math.sqrt(d2)
    done = 0
    while done < n:
        size = min(4000, n - done)
        z = rng.standard_normal((size, d1))
        phi = np.concatenate([(z**2 - 1) / math.sqrt(2), z[:, rows] * z[:, columns]], axis=1)
        h2 = phi @ truth.T
        y = np.tanh(2 * ((h2**2 - 1) / math.sqrt(2)) @ weights)
        matrix += (phi.T * y) @ phi - y.sum() * np.eye(count)
        done += size
    values, vectors = np.linalg.eigh(matrix / n)
    top = vectors[:, np.argsort(-np.abs(values))[:d2]]
    measured = float(np.sum((truth @ top) ** 2)) / d2
    # Heavy tails at blocks of 6 and d2 = 6: simulation lies below the leading order.
    assert 0.6 < measured < level.overlap(8 * level.critical) + 0.02


@pytest.mark.parametrize(
    ("ratio", "overlap"), [(1.0, 0.0), (1.5, 0.0), (2.0, 0.329306), (4.0, 0.609647), (8.0, 0.797756), (16.0, 0.899426)]
)
def test_flattened_quadratic_features(ratio, overlap):
    """Values for cos(1.5 u), noise variance .01, worked out independently."""
    even = Hierarchical(
        hermite="orthonormal", exponents=(0.5,), features=(Coefficients({2: 1.0}),), link="cos(1.5*h)", noise=0.1
    )
    assert flattening.flattened(even, ratio).overlap == pytest.approx(overlap, abs=2e-6)
    with pytest.raises(DomainError, match="h_2"):
        flattening.flattened(target("cos(h)", {3: 1.0}), ratio)


def test_flattened_features_by_simulation():
    """An even link at d = 20, n = 6 D_2: the leading direction of the weighted covariance of quadratic features."""
    even = Hierarchical(
        hermite="orthonormal", exponents=(0.8,), features=(Coefficients({2: 1.0}),), link="abs(h) - 0.2*h**2", noise=0.1
    )
    rng = np.random.default_rng(9)
    d, d1 = 20, 10
    rows, columns = np.triu_indices(d, 1)
    count = d * (d + 1) // 2
    direction = np.zeros(count)
    direction[:d1] = 1 / math.sqrt(d1)
    overlaps = []
    for _ in range(12):
        x = rng.standard_normal((6 * count, d))
        phi = np.concatenate([(x**2 - 1) / math.sqrt(2), x[:, rows] * x[:, columns]], axis=1)
        h = phi @ direction
        y = np.abs(h) - 0.2 * h**2 + 0.1 * rng.standard_normal(len(h))
        y = (y - y.mean()) / (np.sum(phi**2, axis=1) / count)
        values, vectors = np.linalg.eigh((phi.T * y) @ phi / len(y) - y.mean() * np.eye(count))
        overlaps.append(float(direction @ vectors[:, np.argmax(np.abs(values))]) ** 2)
    se = np.std(overlaps, ddof=1) / math.sqrt(12)
    # h of ten directions is not normal yet: O(1/d1).
    assert abs(np.mean(overlaps) - flattening.flattened(even, 6.0).overlap) < 4 * se + 0.1
    assert np.mean(overlaps) > 0.3


def test_composition_of_levels():
    """d1 = 24 coordinates known to q1 = .85, d2 = 3 blocks of 8: R^2 of the true features on the learned ones is
    q1^2 times the overlap of the spectral estimate in its own coordinates.
    """
    rng = np.random.default_rng(6)
    d1, d2, q1, n = 24, 3, 0.85, 30_000
    block = d1 // d2
    rows, columns = np.triu_indices(d1, 1)
    truth = np.zeros((d2, d1 * (d1 + 1) // 2))
    for m in range(d2):
        truth[m, m * block : (m + 1) * block] = rng.choice([-1.0, 1.0], block) / math.sqrt(block)
    weights = rng.choice([-1.0, 1.0], d2) / math.sqrt(d2)

    def draw(count):
        true, other = rng.standard_normal((2, count, d1))
        z = math.sqrt(q1) * true + math.sqrt(1 - q1) * other
        phi, exact = (np.concatenate([(v**2 - 1) / 2**0.5, v[:, rows] * v[:, columns]], axis=1) for v in (z, true))
        return phi, exact @ truth.T

    phi, h2 = draw(n)
    y = np.tanh(1.5 * ((h2**2 - 1) / math.sqrt(2)) @ weights)
    y = (y - y.mean()) / (np.sum(phi**2, axis=1) / phi.shape[1])
    values, vectors = np.linalg.eigh((phi.T * y) @ phi - y.sum() * np.eye(phi.shape[1]))
    top = vectors[:, np.argsort(-np.abs(values))[:d2]]
    own = float(np.sum((truth @ top) ** 2)) / d2
    phi, h2 = draw(20_000)
    learned = phi @ top
    residual = h2 - learned @ np.linalg.lstsq(learned, h2, rcond=None)[0]
    explained = 1 - float(np.mean(residual**2)) / float(np.mean(h2**2))
    assert own > 0.5
    assert explained == pytest.approx(q1**2 * own, rel=0.03)


def test_ascent_of_a_deep_tree():
    deep = Hierarchical(
        hermite="orthonormal",
        exponents=(0.6, 0.3),
        features=(Coefficients({2: 1.0}), Coefficients({1: 0.6, 2: 0.8})),
        link="tanh(1.5*h)",
    )
    d, d1, d2 = 1024, 64, 8
    moments = label_moments(deep, "identity")
    first = moments.variance / (2 * moments.tau[1] ** 2 * 0.36)
    pairs = d1 * (d1 + 1) // 2
    found = further.ascend(deep, d, [10 * first * d * d1, 1e3 * pairs * d2, 1e9])
    assert found.overlaps[0] == pytest.approx(0.9)
    second = further.next_level(moments, 0.9).critical / 0.64
    assert found.overlaps[1] == pytest.approx(0.81 * (1 - second / 1e3))
    # Where everything is known the error vanishes; where the linear level is not, nothing else is.
    assert further.ascend(deep, d, [1e12, 1e12, 1e12]).mse < 1e-6
    lost = further.ascend(deep, d, [0.9 * first * d * d1, 1e12, 1e12])
    assert lost.overlaps == (0.0, 0.0)
    assert lost.correlation == 0.0
    # One hidden level: the leading-order theory of the run files.
    flat = target("tanh(2*h)")
    one = further.ascend(flat, 400, [5 * 400 * 20, 900])
    curve = dl.solve(
        dl.load(
            RUNS / "hierarchical-layerwise.toml",
            {"target.readout": "ones", "target.noise": 0.0, "algorithm.second.ridge": "optimal", "limit.d": 400,
             "algorithm.third": {"basis": "rank", "degree": 20},
             "grid": {"first_ratio": [5.0], "second_samples": [900.0]}},
        )
    )  # fmt: skip
    assert one.correlation == pytest.approx(float(curve["feature_correlation"][0, 0]), rel=1e-12)
    assert one.mse == pytest.approx(float(curve["mse"][0, 0]), rel=1e-6)
    with pytest.raises(DomainError, match="sample numbers"):
        further.ascend(deep, d, [1.0, 1.0])


def test_power_law_cascade():
    cascade = further.PowerLawCascade(gamma=1.0, eps=0.7, d=1000)
    assert cascade.exponent(4) - cascade.exponent(2) == pytest.approx(2 * math.log(2) / math.log(1000))
    for j in (1, 3, 20):
        n = 1000 ** cascade.exponent(j)
        assert cascade.recovered(n * 1.0001) == j
        assert cascade.recovered(n * 0.999) == j - 1
    wide = further.PowerLawCascade(gamma=1.0, eps=1.2, d=10_000)
    n = 1e4 ** (2 + np.array([0.9, 1.3]))
    slope = math.log(wide.residual(n[1]) / wide.residual(n[0])) / math.log(n[1] / n[0])
    assert slope == pytest.approx(-wide.rate, abs=0.03)
    flat = further.PowerLawCascade(gamma=0.0, eps=0.5, d=10_000)
    assert flat.exponent(1) == flat.exponent(100) == pytest.approx(2.5)
    with pytest.raises(DomainError, match="no power law"):
        _ = flat.rate


def test_quadratic_features_are_orthonormal_and_normalised():
    rng = np.random.default_rng(1)
    for rank_one in (False, True):
        setup = quadratic.QuadraticFeatureTarget(features=6, gamma=0.5, rank_one=rank_one)
        a = quadratic.draw_features(setup, 20, rng)
        np.testing.assert_allclose(np.einsum("ide,jde->ij", a, a), np.eye(6), atol=1e-12)
        h = quadratic.features_of(a, rng.standard_normal((100_000, 20)))
        np.testing.assert_allclose(h.T @ h / len(h), np.eye(6), atol=0.05)
        np.testing.assert_allclose(h.mean(axis=0), 0, atol=0.02)
    with pytest.raises(SimulationError, match="do not fit"):
        quadratic.draw_features(quadratic.QuadraticFeatureTarget(features=30, rank_one=True), 20, rng)


@pytest.mark.slow
def test_hierarchical_spectral_estimator_recovers_with_samples():
    """d = 16, p = 2, equal weights: the overlap rises from chance to above 0.8 between n ~ d^2 and n ~ 40 d^2 p."""
    rng = np.random.default_rng(2)
    setup = quadratic.QuadraticFeatureTarget(features=2, gamma=0.0, link="tanh(s)")
    overlaps, correlations = [], []
    for n in (300, 20_000):
        a = quadratic.draw_features(setup, 16, rng)
        x = rng.standard_normal((n, 16))
        y = quadratic.labels(setup, quadratic.features_of(a, x), rng)
        found = quadratic.hierarchical_spectral(x, y, 2, rng, iterations=12)
        overlaps.append(quadratic.subspace_overlap(found.features, a))
        test = rng.standard_normal((5000, 16))
        inner = (quadratic.features_of(a, test) ** 2 - 1) @ setup.outer
        correlations.append(np.corrcoef(quadratic.predict(found, test), inner)[0, 1])
    assert overlaps[0] < 0.3
    assert overlaps[1] > 0.8
    assert correlations[1] > 0.8 > correlations[0]


def tensor(h, order):
    """He_k(h) in full: one entry for each multi-index, orthonormal, written out for the test."""
    n, d = h.shape
    hermite = hermite_values(h, order)
    columns = []
    for chosen in itertools.combinations_with_replacement(range(d), order):
        value = np.ones(n)
        for i in set(chosen):
            value = value * hermite[chosen.count(i)][:, i]
        columns.append(value)
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_hermite_tensor_products(order):
    rng = np.random.default_rng(3)
    h, other = rng.standard_normal((6, 4)), rng.standard_normal((5, 4))
    expected = tensor(h, order) @ tensor(other, order).T
    np.testing.assert_allclose(cie.tensor_product(h, other, order), expected, atol=1e-9)


def test_compositional_exponents_of_a_three_level_target():
    rng = np.random.default_rng(4)

    def draw(link, level):
        def sample(n):
            z = rng.standard_normal((n, 12))
            h = ((z**2 - 1) / math.sqrt(2)).sum(axis=1) / math.sqrt(12)
            return (z if level == 1 else h[:, None]), link(h)

        return sample

    def odd(h):
        return np.tanh(2 * h)

    def even(h):
        # Without a linear part even at this size, where h is skewed.
        return h**2 - np.mean(h**2) - np.mean(h**3) * h

    assert cie.compositional_exponent(draw(odd, 1), largest=3)[0] == 2
    assert cie.compositional_exponent(draw(odd, 2), largest=3)[0] == 1
    assert cie.compositional_exponent(draw(even, 2), largest=3, floor=0.05)[0] == 2
    exponent, estimates = cie.compositional_exponent(draw(odd, 1), largest=2)
    assert exponent == 2
    # E[y He_2] = b 1/sqrt(12): squared Frobenius norm E[tanh(2h) h]^2 up to 1/d_eff.
    assert estimates[-1].value == pytest.approx(0.53, abs=0.15)


def test_generative_exponent_sees_through_a_transform():
    rng = np.random.default_rng(5)

    def draw(n):
        h = rng.standard_normal((n, 1))
        return h, h[:, 0] ** 2 * np.sign(h[:, 0]) - 2 * math.sqrt(2 / math.pi) * h[:, 0]

    plain, _ = cie.compositional_exponent(draw, largest=2, floor=0.02)
    assert plain is None  # an odd label without linear part: order 3
    lifted, _ = cie.compositional_exponent(draw, largest=2, floor=0.02, transforms=(lambda y: y, np.sign, np.tanh))
    assert lifted == 1


def test_a_tree_of_a_run_file():
    """d = 64 with 14 and 2 features, n = d^2.3: the linear level to .06, the blocks of 7 below their leading order but
    far above chance; refusals.
    """
    path = RUNS / "hierarchical-tree.toml"
    problem = dl.load(path, {"limit.d": 64, "grid.kappa": [2.3]})
    curve, measured = dl.solve(problem), simulate(problem, d=[64], replicas=3, dtype="float32")
    found = further.ascend(problem.target, 64, [round(64**2.3)] * 3)
    np.testing.assert_allclose(curve["level_overlap"][0], found.overlaps, rtol=1e-12)
    assert float(curve["mse"][0]) == pytest.approx(found.mse, rel=1e-12)
    first, second = measured["level_overlap"].values[0, 0]
    assert first == pytest.approx(found.overlaps[0], abs=0.06)
    assert 0.5 * found.overlaps[1] < second < found.overlaps[1] + 0.05
    rho = float(measured["feature_correlation"][0, 0])
    assert 0.6 * found.correlation < rho < found.correlation + 0.05
    assert float(measured["mse"][0, 0]) < 0.8 * float(measured["null_mse"][0])
    for wrong, message in (
        ({"target.exponents": [0.5], "target.features": [{"2": 1.0}]}, "two hidden levels"),
        ({"limit": {}}, r"limit\.d"), ({"algorithm.first.order": "refined"}, "leading order only"),
        ({"target.readout": "gaussian"}, "modulus one"), ({"limit.d": 5}, "do not shrink"),
        ({"target.features": [{"3": 1.0}, {"1": 0.8, "2": 0.6}]}, "quadratic"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            dl.load(path, {"theory": "hierarchical-tree", **wrong})


def test_a_tree_of_three_hidden_levels_is_climbed():
    """d = 64 -> 24 -> 6 -> 2 -> 1, 50 000 samples a level: leading order to .12 on the first two levels; the third, of
    blocks of 3, well above chance (2/27) and below leading order.
    """
    deep = Hierarchical(
        hermite="orthonormal", exponents=(0.77, 0.44, 0.2), link="tanh(1.5*h)",
        features=(Coefficients({2: 1.0}), Coefficients({1: 0.8, 2: 0.6}), Coefficients({1: 0.8, 2: 0.6})),
    )  # fmt: skip
    cpu, rng = backend_for("cpu", "float32"), np.random.default_rng(3)
    truth = Realization.draw(deep, 64, rng, cpu)
    assert [len(r) for r in truth.readouts] == [6, 2, 1]
    predicted = further.ascend(deep, 64, [50_000] * 4)
    overlap, correlation, error = hierarchical_tree.climb(truth, CentredLabel(np.asarray, 0.0), 50_000, rng)
    np.testing.assert_allclose(overlap[:2], predicted.overlaps[:2], atol=0.12)
    assert 0.4 < overlap[2] < predicted.overlaps[2]
    assert 0.4 < correlation < predicted.correlation
    assert error < 0.35
