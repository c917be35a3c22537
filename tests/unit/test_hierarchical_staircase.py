"""Plateau heights: constants, brute force over component trees, limits."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import DomainError
from dimladder.problem import Coefficients, Hierarchical
from dimladder.theories.hierarchical.staircase import Staircase

RUN = Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "hierarchical-plateaus.toml"
PAPER = {2: 1 / math.sqrt(2), 3: 1 / math.sqrt(6)}


def staircase(link="tanh(3*h)", features=(PAPER,), exponents=(0.5,), **more):
    return Staircase.of(
        Hierarchical(
            exponents=exponents,
            features=tuple(Coefficients(f) for f in features),
            link=link,
            **{"hermite": "orthonormal", **more},
        )
    )


# Values worked out independently from F_l = sum_m mu_m^2 [t^l] A(t)^m, four digits.
@pytest.mark.parametrize(
    ("link", "null", "residuals"),
    [
        (
            "tanh(3*h)",
            0.6939,
            {2: 0.2723, 3: 0.1318, 4: 0.1318, 6: 0.1008, 7: 0.0697, 8: 0.0594, 9: 0.0583, 10: 0.0520},
        ),
        ("tanh(h)", 0.3220, {2: 0.0922, 3: 0.0156, 6: 0.0100, 7: 0.0043, 8: 0.0025, 9: 0.0023}),
    ],
)
def test_published_normalisation(link, null, residuals):
    stairs = staircase(link)
    assert stairs.null_error == pytest.approx(null, abs=5e-5)
    for degree, value in residuals.items():
        assert stairs.error("kernel", float(degree)) == pytest.approx(value, abs=5e-5)


def test_three_layers_with_half_a_feature():
    # eps = 0.7: degree 2 is learned with the subspace at 1.7, degree 3 at 2.1.
    stairs = staircase(exponents=(0.7,))
    assert stairs.error("deep", 1.699) == pytest.approx(stairs.null_error)
    assert stairs.error("deep", 1.7) == pytest.approx(0.2326, abs=1e-4)
    assert stairs.error("deep", 2.1) == 0.0
    assert stairs.thresholds == (1.7, 2.1)


def brute_force(stairs, depth, kappa, orders):
    """Enumerate every tree of node degrees explicitly and add up the captured masses, independently of the profiles."""
    eps = [1.0, *(level.exponent for level in stairs.levels)]
    needs = [(level.exponent, level.output_exponent) for level in stairs.levels]
    top = len(stairs.levels) + 1

    def trees(l):
        """Yield (counts of nodes at levels 1..l, lowest level at which a node is not learned or l + 1, mass)."""
        if l == 1:
            yield (1,), (2 if kappa + 1e-9 >= 1 + eps[1] else 1), 1.0
            return
        below = list(trees(l - 1))
        level = stairs.levels[l - 2]
        for j in range(1, level.degree + 1):
            if level.fractions[j] == 0:
                continue
            cost = j * needs[l - 2][0] + needs[l - 2][1]
            for children in itertools.product(below, repeat=j):
                counts = tuple(sum(c) for c in zip(*(child[0] for child in children), strict=True))
                fails = min(child[1] for child in children)
                if fails == l:
                    fails = l + 1 if kappa + 1e-9 >= cost else l
                mass = level.fractions[j] * math.prod(child[2] for child in children)
                yield (*counts, 1), fails, mass

    total = stairs.link.masses[0]
    whole = list(trees(top))
    for m in range(1, orders + 1):
        for children in itertools.product(whole, repeat=m):
            counts = [sum(c) for c in zip(*(child[0] for child in children), strict=True)]
            learned_to = min(child[1] for child in children) - 1
            fits = counts[0] <= kappa + 1e-9
            for l in range(1, min(depth, top) + 1):
                cap = math.inf if l == top else (kappa + 1e-9) / eps[l]
                fits = fits or (learned_to >= l and counts[l - 1] <= cap)
            if fits:
                total += stairs.link.masses[m] * math.prod(child[2] for child in children)
    return stairs.null_error - total


@pytest.mark.parametrize("kappa", [0.9, 1.0, 1.7, 1.8, 2.0, 2.5, 3.5, 4.2])
def test_deep_tree_against_enumeration(kappa):
    # A polynomial link of degree 3, so that the enumeration is complete.
    stairs = staircase(
        "h + 0.4*He2(h) + 0.3*He3(h)", ({2: 0.8, 3: 0.6}, {1: 0.3, 2: math.sqrt(1 - 0.09 - 0.16), 3: 0.4}), (0.7, 0.4)
    )
    for depth in (0, 1, 2, 3):
        assert stairs.error_at_depth(depth, kappa) == pytest.approx(brute_force(stairs, depth, kappa, 3), abs=1e-10)


def test_deeper_networks_are_never_worse_and_errors_never_rise():
    stairs = staircase("relu(h) + 0.2")
    grid = np.arange(0.0, 5.0, 0.05)
    curves = np.array([[stairs.error_at_depth(depth, k) for k in grid] for depth in range(3)])
    assert np.all(np.diff(curves, axis=1) <= 1e-12)
    assert np.all(np.diff(curves, axis=0) <= 1e-12)
    assert curves[0, 0] == pytest.approx(stairs.null_error - stairs.link.coefficients[0] ** 2)


def test_branches_of_a_separable_link_add_up():
    # g = (h1 + h2)/sqrt 2 learned like one feature; a product h1 h2 has degrees added.
    one = staircase("h", (PAPER,))
    two = staircase("(h1 + h2)/sqrt(2)", (PAPER,), branches=2)
    for kappa in (1.0, 2.0, 3.0):
        assert two.error("kernel", kappa) == pytest.approx(one.error("kernel", kappa), abs=1e-12)
    product = staircase("h1*h2", ({2: 1.0},), branches=2)
    assert product.null_error == pytest.approx(1.0)
    assert product.error("kernel", 3.9) == pytest.approx(1.0)
    assert product.error("kernel", 4.0) == pytest.approx(0.0, abs=1e-12)


def test_parity_of_three_branches():
    # E[sign(h1 h2 h3) h_1 h_1 h_1] = (2/pi)^(3/2): total degree 3 in h is the lowest, degree 6 in x.
    stairs = staircase("sign(h1*h2*h3)", ({2: 1.0},), branches=3)
    assert stairs.link.masses[3] == pytest.approx((2 / math.pi) ** 3, rel=1e-6)
    assert stairs.error("kernel", 5.9) == pytest.approx(1.0, abs=1e-9)
    assert stairs.error("kernel", 6.0) == pytest.approx(1 - (2 / math.pi) ** 3, rel=1e-6)


def test_run_file_and_generating_functions():
    problem = dl.load(RUN)
    system = dl.derive(problem)
    curve = dl.solve(problem)
    assert curve["mse"].dims == ("learner", "kappa")
    assert float(curve["null_mse"]) == pytest.approx(0.69392, abs=1e-5)
    np.testing.assert_allclose(curve["threshold"], [1.5, 1.5])
    kernel = curve["mse"].sel(learner="kernel")
    # The printed generating function is what is computed.
    _, masses = system.degree_generating_functions(4)
    for kappa in (1.0, 2.0, 3.0, 4.0):
        expected = system.staircase.null_error - float(sum(masses[: int(kappa) + 1]))
        assert float(kernel.sel(kappa=kappa)) == pytest.approx(expected, abs=1e-12)
    assert r"A(t) &= \frac{t^{3}}{4} + \frac{3t^{2}}{4}" in system.latex()
    assert "κ₂" in system.explain()


def test_generating_functions_of_a_deep_tree():
    problem = dl.load(
        RUN,
        {
            "target.exponents": [0.7, 0.4],
            "target.features": [{"2": 0.8, "3": 0.6}, {"1": 0.6, "2": 0.8}],
            "target.link": "tanh(h) + 0.1*h**2",
            "grid.kappa": [0.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        },
    )
    system = dl.derive(problem)
    _, masses = system.degree_generating_functions(6)
    kernel = dl.solve(problem)["mse"].sel(learner="kernel").values
    expected = [system.staircase.null_error - float(sum(masses[: k + 1])) for k in (0, 2, 3, 4, 5, 6)]
    np.testing.assert_allclose(kernel, expected, atol=1e-9)


def test_bad_targets_say_why():
    with pytest.raises(ValueError, match="decrease strictly"):
        staircase(exponents=(0.5, 0.6), features=(PAPER, PAPER))
    with pytest.raises(DomainError, match="at most 4"):
        staircase("h1*h5", (PAPER,), branches=5)
    with pytest.raises(dl.ConfigError, match="must increase"):
        dl.load(RUN, {"grid.kappa": [2.0, 1.0]})
