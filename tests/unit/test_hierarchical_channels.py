"""When each level is learned: connected moments, the rule of the orders, and what every curve makes of it."""

import itertools
import logging
import math
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.problem import Coefficients, Hierarchical
from dimladder.theories import find
from dimladder.theories.hierarchical import channels
from dimladder.theories.hierarchical.analysis import levels
from dimladder.theories.hierarchical.assumptions import check_assumptions
from dimladder.theories.hierarchical.staircase import Staircase

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"
PAPER = {2: 1 / math.sqrt(2), 3: 1 / math.sqrt(6)}


def target(link="tanh(h)", features=({2: 1.0},), exponents=(0.5,), **more):
    given = {"hermite": "orthonormal", **more}
    return Hierarchical(exponents=exponents, features=tuple(Coefficients(f) for f in features), link=link, **given)


def learned(*args, **more):
    made = channels.thresholds(target(*args, **more))
    return [t.kappa for t in made], [t.status for t in made]


@pytest.mark.parametrize(
    ("features", "order", "hermite", "expected"),
    [
        ({2: 1.0}, 1, 2, 1.0),
        ({2: 1.0}, 2, 2, 2 * math.sqrt(2)),
        ({2: 1.0}, 3, 2, 12.0),
        ({3: 1.0}, 2, 2, 3 * math.sqrt(2)),
        ({2: 0.6, 3: 0.8}, 2, 1, 1.6627687752661223),
        ({2: 0.6, 3: 0.8}, 3, 3, 72.0),
    ],
)
def test_connected_moments(features, order, hermite, expected):
    level = levels(target(features=(features,)))[0]
    assert channels.connected_moments(level, hermite)[order] == pytest.approx(expected, rel=1e-10)


def test_connected_moments_are_cumulants():
    """K_3 = E[P^3 h_q] - 3 E[P^2] E[P h_q] for a polynomial of unit variance with a skewed third moment."""
    level = levels(target(features=({1: 0.5, 2: math.sqrt(0.75)},)))[0]
    x, w = np.polynomial.hermite_e.hermegauss(30)
    w = w / w.sum()
    p, h2 = 0.5 * x + math.sqrt(0.75) * (x**2 - 1) / math.sqrt(2), (x**2 - 1) / math.sqrt(2)
    third = w @ (p**3 * h2) - 3 * (w @ (p * h2)) * (w @ p**2) - (w @ p**3) * (w @ h2)
    assert channels.connected_moments(level, 2)[3] == pytest.approx(third, rel=1e-10)


@pytest.mark.parametrize(
    ("arguments", "kappa", "status"),
    [
        (("tanh(3*h)", (PAPER,)), [1.5, 1.5], ["theorem", "theorem"]),
        (("cos(h)",), [2.0, 2.0], ["second order"] * 2),
        # An even link at eps = 0.7: the d x d matrix needs 1 + 2 eps = 2.4, flattened quadratic features 2.
        (("h**2", ({2: 1.0},), (0.7,)), [2.0, 2.0], ["second order"] * 2),
        (("tanh(h)", ({3: 1.0},), (0.4,)), [1.8, 1.8], ["second order", "counting"]),
        (("tanh(h)", ({12: 1.0},)), [2.0, 6.0], ["second order", "counting"]),
        (("He3(h)",), [1.5, 1.5], ["transform"] * 2),
        (("h**2*exp(-h**2)",), [math.nan] * 2, ["refused"] * 2),
        # Merged jumps of the paper's count: 1 + eps_1, k eps_1 + eps_2, k' eps_2.
        (("tanh(h)", ({2: 1.0}, {1: 0.8, 2: 0.4, 6: 0.2**0.5}), (0.6, 0.4)), [1.6, 1.6, 2.4], ["counting"] * 3),
        # Without a linear part above, the linear level is seen through the square of its features only.
        (("tanh(h)", ({2: 1.0}, {2: 1.0}), (0.6, 0.3)), [1.9, 1.9, 1.9], ["second order", "counting", "counting"]),
        (("tanh(h)", ({3: 1.0}, {1: 0.6, 2: 0.8}), (0.6, 0.3)), [1.9, 2.1, 2.1], ["second order"] + ["counting"] * 2),
    ],
)
def test_thresholds(arguments, kappa, status):
    found = learned(*arguments)
    np.testing.assert_allclose(found[0], kappa, atol=1e-12)
    assert found[1] == status


def test_thresholds_of_several_branches():
    assert learned("(h1 + h2)/sqrt(2)", branches=2)[0] == [1.5, 1.5]
    # The parity of two features: E[h_m | y] = 0, E[h_1 h_2 | y] = 2/pi: flattening, not the d x d matrix.
    assert learned("sign(h1*h2)", branches=2) == ([2.0, 2.0], ["second order"] * 2)
    assert np.all(np.isnan(learned("sign(h1*h2*h3)", branches=3)[0]))


def test_signal_of_a_level_by_sampling():
    """h_2 over h_2, identity link: E[y h_2(z_i)] = 2 b/(B sqrt d2), the second-order path; B = 6, d2 = 4."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((400_000, 4, 6))
    inner = ((z**2 - 1) / math.sqrt(2)).sum(axis=2) / math.sqrt(6)
    y = ((inner**2 - 1) / math.sqrt(2)).sum(axis=1) / 2
    seen = y[:, None] * (z[:, 0] ** 2 - 1) / math.sqrt(2)
    se = seen.std() / math.sqrt(seen.size)
    below, above = levels(target("h", ({2: 1.0}, {2: 1.0}), (0.6, 0.3)))
    predicted = channels.connected_moments(above, 2)[1] * channels.connected_moments(below, 2)[2] / math.sqrt(2) / 6 / 2
    assert abs(seen.mean() - predicted) < 4 * se


def test_compositional_exponents():
    assert channels.compositional_exponents(target("tanh(h)")) == (2, 1)
    assert channels.compositional_exponents(target("He3(h)")) == (6, 3)
    assert channels.compositional_exponents(target("tanh(h)", ({2: 1.0}, {2: 1.0}), (0.6, 0.3))) == (4, 2, 1)


@pytest.mark.parametrize("link", ["h**2*exp(-h**2)", "sign(h1*h2*h3)"])
def test_curves_without_a_threshold_stay_at_the_kernel(link):
    stairs = Staircase.of(target(link, branches=3 if "h3" in link else 1))
    for kappa, learner in itertools.product((1.0, 1.7, 3.0, 6.0), ("two-layer", "deep")):
        assert stairs.error(learner, kappa) == stairs.error("kernel", kappa)


def test_a_missing_threshold_says_why():
    settings = {"target.link": "h**2*exp(-h**2)", "target.features": [{"2": 1.0}]}
    problem = dl.load(RUNS / "hierarchical-plateaus.toml", settings)
    curve = dl.solve(problem)
    assert np.all(np.isnan(curve["threshold"]))
    assert "e_1 =" in curve.message
    text = dl.derive(problem).explain()
    assert "unknown" in text
    shown = find("hierarchical-plateaus").describe(problem)
    assert "refused" in shown["level 1"]
    assert any(key.startswith("assumption A1.link") and value.startswith("fails") for key, value in shown.items())


@pytest.mark.parametrize("link", ["cos(h)", "He3(h)", "h**2"])
def test_flow_and_staircase_agree(link, caplog):
    """Where the label's first order vanishes the one-pass flow does not grow, and the staircase is not at 1 + eps as a
    theorem.
    """
    settings = {"target.link": link, "target.features": [{"2": 1.0}]}
    with caplog.at_level(logging.WARNING):
        curve = dl.solve(dl.load(RUNS / "hierarchical-flow.toml", settings))
    assert float(curve["rate"]) == 0.0
    assert math.isinf(float(curve["escape_time"]))
    assert "does not grow" in caplog.text
    assert learned(link)[1][0] in ("second order", "transform")


def test_a_very_low_effective_dimension_is_no_work():
    """eps = 0.001: thousands of degrees at kappa = 4, few of which the link reaches."""
    curve = dl.solve(dl.load(RUNS / "hierarchical-plateaus.toml", {"target.exponents": [0.001]}))
    two = curve["mse"].sel(learner="two-layer").sel(kappa=2.0, method="nearest")
    assert float(two) < 1e-9
    sign = Staircase.of(target("sign(h)", exponents=(0.001,)), 4.0)
    # Orders of a jump beyond 400 count as unlearned: sum_{m > 400} mu_m^2, about sqrt(8/pi^3)/sqrt(400).
    assert sign.error("two-layer", 4.0) == pytest.approx(math.sqrt(8 / math.pi**3 / 400), rel=0.05)


def test_assumptions_of_several_branches():
    """A1 needs a slope in every feature; a product of two has none, and an order two that reaches degree four."""
    easy = {c.name: c for c in check_assumptions(target("tanh(2*h1) + 0.5*h2", branches=2))}
    assert easy["A1.link"].holds
    assert easy["A3"].holds
    assert not easy["features"].holds
    hard = {c.name: c for c in check_assumptions(target("h1*h2 + 0.3*h1", ({2: 0.8, 4: 0.6},), branches=2))}
    assert not hard["A1.link"].holds
    assert hard["A1.link"].detail.count("mu_1") == 2
    assert not hard["A3"].holds
    assert "|mu|_2 = 1.0000" in hard["A3"].detail
