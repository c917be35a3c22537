"""Hermite analysis of hierarchical targets: coefficients, assumptions, thresholds, label transforms."""

import math

import numpy as np
import pytest

from dimladder.errors import DomainError
from dimladder.problem import Coefficients, Expression, Hierarchical
from dimladder.problem.hierarchy import draw_readout
from dimladder.theories.hierarchical import analysis, assumptions
from dimladder.theories.hierarchical.labels import label_moments, posterior
from dimladder.theories.hierarchical.readouts import readout_classes

PAPER = ({2: 1 / math.sqrt(2), 3: 1 / math.sqrt(6)},)


def target(link="tanh(3*h)", features=PAPER, exponents=(0.5,), **more):
    given = {"hermite": "orthonormal", **more}
    return Hierarchical(exponents=exponents, features=tuple(Coefficients(f) for f in features), link=link, **given)


def test_hermite_conventions_describe_the_same_polynomial():
    # (x^2 - 1)/2 + (x^3 - 3x)/6 in the three conventions.
    forms = [
        target(),
        target(features=({2: 1 / 2, 3: 1 / 6},), hermite="probabilists"),
        target(features=({2: 1.0, 3: 1.0},), hermite="factorial"),
    ]
    for form in forms:
        level = analysis.levels(form)[0]
        np.testing.assert_allclose(level.coefficients, [0, 0, 2**-0.5, 6**-0.5], atol=1e-15)
        assert level.variance == pytest.approx(2 / 3, rel=1e-14)
        np.testing.assert_allclose(level.fractions, [0, 0, 0.75, 0.25], atol=1e-14)


def test_link_coefficients_of_polynomials_are_exact():
    # g(h) = h^3 + 2 h at variance s^2 = 2/3: mu_1 = 3 s^3 + 2 s, mu_3 = sqrt(6) s^3.
    link = analysis.link_of(target("h**3 + 2*h"))
    s = math.sqrt(2 / 3)
    np.testing.assert_allclose(link.coefficients[:5], [0, 3 * s**3 + 2 * s, 0, math.sqrt(6) * s**3, 0], atol=1e-12)
    assert link.slope == pytest.approx(3 * s**2 + 2, rel=1e-12)


@pytest.mark.parametrize("correlation", [0.3, 0.75, 0.97])
def test_captured_power_of_a_sign_is_the_arcsine_law(correlation):
    # Coefficients of a jump decay like m^(-3/2): the series alone would miss a part near correlation one.
    link = analysis.link_of(target("sign(h)"))
    assert link.captured(correlation) == pytest.approx(2 / math.pi * math.asin(correlation), rel=1e-9)


def test_kinks_with_curved_arguments_are_found():
    # E relu(x^2 - 1) = 2 phi(1) for a standard normal x.
    link = analysis.link_of(target("relu(h**2 - 1)", features=({2: 1.0},)))
    assert link.coefficients[0] == pytest.approx(2 * math.exp(-0.5) / math.sqrt(2 * math.pi), rel=1e-11)


def test_information_exponents():
    assert assumptions.information_exponent(np.array([1.0, 0.0, 0.0, 0.2])) == 3
    assert assumptions.information_exponent(np.array([1.0, 0.0])) is None
    assert assumptions.information_exponent(analysis.levels(target())[0].coefficients) == 2


def test_assumption_checker_says_which_fails():
    sigma = Expression("tanh(x - 0.3) - 0.7912*x")
    checks = {c.name: c for c in assumptions.check_assumptions(target(), sigma)}
    # The paper's own numerical example: mu_3 = -0.2712 is outside the published A3, and order 3 of the link starts at
    # degree 6: harmless for k = 3.
    assert all(c.holds for c in checks.values())
    assert "mu_3 = -0.2712; the published range is 1 < j <= k" in checks["A3"].detail
    quartic = {c.name: c for c in assumptions.check_assumptions(target("tanh(h) + 0.1*h**2", ({2: 0.8, 4: 0.6},)))}
    assert not quartic["A3"].holds  # order 2 starts at degree 4 = k
    relu = {c.name: c.holds for c in assumptions.check_assumptions(target(), Expression("relu(x)"))}
    assert not relu["A2.analytic"]
    assert not relu["A2.a"]  # He_3 coefficient of ReLU vanishes
    assert not relu["A2.c"]
    parity = {c.name: c.holds for c in assumptions.check_assumptions(target("cos(h)"), sigma)}
    assert not parity["A1.link"]
    signs = {c.name: c.holds for c in assumptions.check_assumptions(target(readout="rademacher"), sigma)}
    assert not signs["readout"]


@pytest.mark.parametrize("sign", [1, -1])
def test_admissible_activation_is_admissible(sign):
    if sign == -1:
        with pytest.raises(DomainError, match="no admissible activation"):
            assumptions.admissible_activation(2, sign, shifts=(-0.3,))
        return
    text, second = assumptions.admissible_activation(3, sign)
    features = ({2: sign * 0.8, 4: 0.6},)
    checks = assumptions.check_assumptions(target("h", features=features), Expression(text))
    assert {c.name for c in checks if not c.holds} <= {"A2.a"}
    c = assumptions.activation_coefficients(Expression(text), 2, compositions=2)
    assert abs(c[1]) < 1e-9
    assert c[2] == pytest.approx(second)


def test_composed_activation_by_monte_carlo():
    sigma = Expression("relu(x - 0.2) - 0.4")
    z = np.random.default_rng(0).standard_normal(2_000_000)
    once = np.maximum(z - 0.2, 0) - 0.4
    twice = np.maximum(once - 0.2, 0) - 0.4
    c = assumptions.activation_coefficients(sigma, 3, compositions=2)
    for j, h in enumerate((np.ones_like(z), z, (z**2 - 1) / 2**0.5, (z**3 - 3 * z) / 6**0.5)):
        se = np.std(twice * h) / math.sqrt(z.size)
        assert abs(np.mean(twice * h) - c[j]) < 4 * se


def test_a_feature_with_a_mean_is_refused():
    with pytest.raises(DomainError, match="non-zero mean") as caught:
        analysis.levels(target(features=({0: 0.3, 2: 1.0},)))
    assert "target.features[0]" in str(caught.value)
    # He_2 of a variable of variance 2/3 has a mean as well.
    with pytest.raises(DomainError, match=r"non-zero mean"):
        analysis.levels(target(features=(PAPER[0], {2: 1.0}), exponents=(0.6, 0.3)))


def test_deeper_levels_are_expanded_at_the_true_variance():
    # P_2 = He_3 of a feature with variance s^2: s^3 He_3(u) + 3 (s^3 - s) u.
    levels = analysis.levels(target(features=(PAPER[0], {3: math.sqrt(6)}), exponents=(0.6, 0.3)))
    s = math.sqrt(2 / 3)
    np.testing.assert_allclose(levels[1].coefficients, [0, 3 * (s**3 - s), 0, math.sqrt(6) * s**3], atol=1e-12)


def test_link_that_is_not_square_integrable_is_refused():
    with pytest.raises(DomainError, match="square-integrable"):
        analysis.link_of(target("exp(h**2)"))


def test_readouts_have_mean_square_one():
    for readout in ("ones", "rademacher", "gaussian", (3.0, -1.0, 0.5)):
        a, fractions = readout_classes(target(readout=readout))
        assert fractions.sum() == pytest.approx(1.0)
        assert fractions @ a**2 == pytest.approx(1.0, rel=1e-12)
    drawn = draw_readout(target(readout=(1.0, 2.0)), 6, np.random.default_rng(0))
    np.testing.assert_allclose(drawn, np.tile([1, 2], 3) / math.sqrt(2.5))
    with pytest.raises(DomainError, match="3 entries"):
        draw_readout(target(readout=(1.0, 2.0, 3.0)), 2, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("link", "noise", "transform"),
    [
        ("tanh(2*h)", 0.1, "identity"),
        ("tanh(2*h)", 0.3, "clip(y, -0.5, 0.5)"),
        ("h**2 + h", 0.0, "optimal"),
        ("h**2 + h", 0.2, "optimal"),
        ("cos(3*h) + h", 0.02, "optimal"),
        ("sign(h)", 0.4, "y**3"),
        ("relu(h)", 0.0, "optimal"),
    ],
)
def test_label_moments_by_monte_carlo(link, noise, transform):
    t = target(link, noise=noise)
    moments = label_moments(t, transform)
    rng = np.random.default_rng(3)
    u = rng.standard_normal(400_000)
    y = t.expression.evaluate(np, h=math.sqrt(2 / 3) * u) + noise * rng.standard_normal(u.size)
    value = moments.transform(y)
    for j, h in enumerate((np.ones_like(u), u, (u**2 - 1) / 2**0.5)):
        assert abs(np.mean(value * h) - moments.tau[j]) < 4.5 * np.std(value * h) / math.sqrt(u.size) + 1e-9
    spread = (value - value.mean()) ** 2
    assert abs(spread.mean() - moments.variance) < 4.5 * np.std(spread) / math.sqrt(u.size)


def test_the_optimal_transform_is_the_best():
    # tau_1^2 / Var T is maximal at E[u | y]: every other transform has a higher threshold.
    t = target("tanh(2*h) + 0.3*h**2", noise=0.2)

    def ratio(transform):
        moments = label_moments(t, transform)
        return moments.tau[1] ** 2 / moments.variance

    best = ratio("optimal")
    assert all(ratio(other) < best for other in ("identity", "tanh(y)", "clip(y, -1, 1)", "y**3"))
    assert ratio("identity") > 0.5 * best


@pytest.mark.parametrize("noise", [0.003, 0.05, 0.7])
def test_optimal_transform_of_a_linear_link(noise):
    # y = s u + noise xi: E[u | y] = s y/(s^2 + noise^2), with second moment s^2/(s^2 + noise^2).
    moments = label_moments(target("h", noise=noise), "optimal")
    s2 = 2 / 3
    assert moments.variance == pytest.approx(s2 / (s2 + noise**2), rel=1e-6)
    y = np.array([-0.8, 0.1, 1.3])
    np.testing.assert_allclose(moments.transform(y), math.sqrt(s2) * y / (s2 + noise**2), rtol=1e-4)


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("link", ["h**2", "cos(2*h)", "He4(h)", "abs(h)"])
def test_even_links_have_no_optimal_transform(link, noise):
    with pytest.raises(DomainError, match="no optimal label transform"):
        label_moments(target(link, noise=noise), "optimal")


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        # Known exactly: one label, one feature; |u| alone; the sign alone.
        ("h", [1, 1, 1]),
        ("abs(h)", [0, 1, 0]),
        ("sign(h)", [2 / math.pi, 0, 1 / (3 * math.pi)]),
        # Preimages u and 1/u' of u^2 exp(-u^2) cancel up to the third order: generative exponent 4.
        ("h**2*exp(-h**2)", [0, 0, 0]),
    ],
)
def test_what_the_label_knows_of_the_feature(link, expected):
    powers = posterior(target(link, features=({2: 1.0},))).powers
    np.testing.assert_allclose(powers[1:4], expected, atol=2e-6)


def test_what_a_cubic_label_knows_by_sampling():
    """E[u | He_3(u)] from bins of the label, an unbiased estimate of its second moment."""
    t = target("He3(h)", features=({2: 1.0},))
    u = np.random.default_rng(5).standard_normal(2_000_000)
    binned = u[np.argsort(u**3 - 3 * u)].reshape(4000, 500)
    estimate = binned.mean(axis=1) ** 2 - binned.var(axis=1, ddof=1) / 500
    se = estimate.std() / math.sqrt(4000)
    assert abs(posterior(t).powers[1] - estimate.mean()) < 4 * se
    assert abs(posterior(target("He3(h)", features=({2: 1.0},), noise=0.01)).powers[1] - estimate.mean()) < 0.02


def test_noise_to_zero_is_the_noiseless_transform():
    exact = label_moments(target("h**2 + h"), "optimal").variance
    assert label_moments(target("h**2 + h", noise=1e-3), "optimal").variance == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize(("link", "branches"), [("1/h", 1), ("tan(h)", 1), ("exp(h**2/2)", 1), ("1/(h1 - h2)", 2)])
def test_a_link_without_a_second_moment_is_refused(link, branches):
    with pytest.raises(DomainError, match="square-integrable"):
        analysis.any_link_of(target(link, branches=branches))
