"""tanh and sigmoid units as sums of erfs: the stated errors, and the flow against quadrature."""

from __future__ import annotations

from typing import Any

import mpmath as mp
import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import DerivationError
from dimladder.problem import Expression
from dimladder.theories.one_pass.erf_sums import TANH, erf_mixture

TEXT = """
schema = 2
[target]
kind = "committee"
activation = "tanh"
readout = [1.0, -0.8]
overlap = [[1.0, 0.2], [0.2, 0.9]]
noise = 0.1
[student]
kind = "two-layer"
width = 2
activation = "tanh"
train_readout = true
[algorithm]
kind = "one-pass"
learning_rate = 0.4
[initial]
Q = [[0.5, 0.1], [0.1, 0.6]]
M = [[0.2, 0.1], [-0.1, 0.3]]
a = [0.9, -0.7]
[grid]
time = [0.0, 5.0, 20.0]
"""


@pytest.mark.parametrize("terms", range(1, len(TANH) + 1))
def test_stated_errors_hold_everywhere(terms: int) -> None:
    """On a grid finer than any oscillation of the error, in twenty digits; beyond it both functions are constant."""
    scales, weights, error, slope = TANH[terms - 1]
    x = np.concatenate([np.linspace(0.0, 8.0, 1601), np.linspace(8.0, 40.0, 201)])
    worst = worst_slope = 0.0
    with mp.workdps(20):
        for point in map(mp.mpf, x):
            pairs = list(zip(weights, scales, strict=True))
            value = mp.fsum(v * mp.erf(b * point / mp.sqrt(2)) for v, b in pairs)
            rate = mp.fsum(v * b * mp.sqrt(2 / mp.pi) * mp.exp(-((b * point) ** 2) / 2) for v, b in pairs)
            worst = max(worst, float(abs(value - mp.tanh(point))))
            worst_slope = max(worst_slope, float(abs(rate - mp.sech(point) ** 2)))
    assert 0.9 * error < worst <= error
    assert 0.9 * slope < worst_slope <= slope


@pytest.mark.parametrize("text", ["tanh(x)", "sigmoid(2*x) - 1", "0.3 - 2*tanh(-x/2) + erf(3*x)/4", "-(tanh(x) + 1)*2"])
def test_functions_made_of_tanh_and_erf(text: str) -> None:
    function = Expression(text)
    for slope in (1e-2, 1e-6):
        mixture = erf_mixture(function, slope)
        assert mixture is not None
        x = np.linspace(-12, 12, 4001)
        exact = function.evaluate(np, x=x)
        assert abs(mixture(x) - exact).max() <= mixture.error * (1 + 1e-9)
        assert mixture.slope_error <= slope
        rates = np.gradient(mixture(x) - exact, x[1] - x[0])
        assert abs(rates).max() <= 1.01 * mixture.slope_error


@pytest.mark.parametrize("text", ["x", "tanh(x + 1)", "x*tanh(x)", "tanh(x)**2", "relu(x)", "1 + 2", "tanh(x**2)"])
def test_other_functions_are_not_sums_of_erfs(text: str) -> None:
    assert erf_mixture(Expression(text), 1e-6) is None


def velocity(p: dl.Problem) -> np.ndarray:
    flow = dl.derive(p)
    y = flow.initial_state()
    out = np.empty_like(y)
    flow.module().rhs(0.0, y, out, flow.parameters(), np.zeros(flow.work_size()))
    return np.append(out, flow.generalization_error(y[None]))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"student.activation": "sigmoid", "target.activation": "tanh(0.7*x)"},
        {"student.activation": "sigmoid", "target.activation": "2*sigmoid(x) - 0.5", "loss.function": "correlation"},
        {"target.activation": "erf", "algorithm.spherical": True},
        {"algorithm.regime": "gradient-flow", "algorithm.weight_decay": 0.1},
    ],
    ids=["tanh", "sigmoid", "correlation", "erf teacher", "gradient flow"],
)
def test_velocity_against_quadrature(changes: dict[str, Any]) -> None:
    """Two routes to one velocity: 40 times the stated error of the slope bounds every component here."""
    p = dl.replace(dl.loads(TEXT), changes)
    reference = velocity(dl.replace(p, {"solver.averages": "quadrature", "solver.quadrature_rtol": 1e-10}))
    for rtol in (1e-3, 1e-5, 1e-7):
        mixed = dl.replace(p, {"solver.averages": "mixture", "solver.quadrature_rtol": rtol})
        mixtures = dl.derive(mixed).mixtures
        assert mixtures is not None
        bound = 40 * max(m.slope_error for m in mixtures)
        assert abs(velocity(mixed) - reference).max() <= max(bound, 2e-8)


def test_whole_curves_agree() -> None:
    curve = dl.solve(dl.loads(TEXT))
    other = dl.solve(dl.replace(dl.loads(TEXT), {"solver.averages": "quadrature"}))
    for name in ("Q", "M", "a", "generalization_error"):
        assert curve[name].values == pytest.approx(other[name].values, abs=3e-7)
    assert curve.stats["activation_error"] < 1e-8


def test_a_polynomial_target_and_a_parity() -> None:
    text = TEXT[: TEXT.index("[target]")] + "[target]\n{}\nnoise = 0.1\n" + TEXT[TEXT.index("[student]") :]
    for target in ("z1 + z1*z2", "sign(z1)*sign(z2)"):
        p = dl.loads(text.format(f'kind = "index"\nformula = "{target}"'))
        assert dl.derive(p).mixtures is not None
        reference = velocity(dl.replace(p, {"solver.averages": "quadrature", "solver.quadrature_rtol": 1e-9}))
        assert velocity(p) == pytest.approx(reference, abs=3e-6)


def test_what_cannot_be_a_mixture_is_refused_with_the_reason() -> None:
    with pytest.raises(DerivationError, match="network of erfs"):
        dl.derive(dl.replace(dl.loads(TEXT), {"student.activation": "silu", "solver.averages": "mixture"})).module()


def test_the_equations_say_what_the_units_are_and_how_wrong() -> None:
    flow = dl.derive(dl.loads(TEXT))
    assert "error at most 7.3e-09" in flow.explain()
    assert r"D_{(ip)\beta}" in flow.latex()


BLOCKS = """
schema = 2
target = { kind = "committee", activation = "tanh", readout = [1.0], noise = 0.2 }
algorithm = { kind = "one-pass", learning_rate = 0.4 }
[student]
kind = "two-layer"
width = 2
activation = "tanh"
train_readout = true
[data]
kind = "mixture"
weights = [0.4, 0.6]
means = "zero"
variances = [[1.0, 0.5], [0.7, 1.4]]
spectrum = { fractions = [0.5, 0.5] }
[initial]
Q = [[0.5, 0.02], [0.02, 0.4]]
M = [[0.1], [0.2]]
a = [1.0, 0.9]
[grid]
time = [0.0, 2.0]
"""
SUMMED: dict[str, dict[str, Any]] = {
    "centred": {},
    "means, sigmoid, offsets": {
        "student.activation": "sigmoid(2*x)", "data.means": [[1.0], [-0.5]], "initial.means": [[0.1], [0.2]],
    },
    "bias, cluster labels": {
        "target": {"kind": "cluster-labels", "labels": [1.0, -0.5]}, "student.bias": True, "initial.M": None,
        "initial.bias": [0.3, -0.2],
    },
}  # fmt: skip


@pytest.mark.parametrize("case", SUMMED)
def test_sums_of_erfs_of_sources_are_their_quadrature(case: str) -> None:
    """Of sums to 2.5e-8 in the slope; the quadrature is refined to 1e-9 or better."""
    changed = SUMMED[case]
    flows = [
        dl.derive(dl.loads(BLOCKS, {**changed, "solver.averages": kind, "solver.quadrature_rtol": rtol}))
        for kind, rtol in (("mixture", 1e-7), ("quadrature", 1e-10))
    ]
    assert [flow.module().ROUTE for flow in flows] == ["closed", "fields"]
    y = flows[0].initial_state()
    one, two = (flow.averaged(y, flow.rule) for flow in flows)
    assert abs(one - two).max() < 3e-8
    assert abs(two).max() > 0.1


def test_a_tanh_committee_in_blocks_is_summed_unless_few_fields_have_means() -> None:
    assert dl.derive(dl.loads(BLOCKS)).module().ROUTE == "closed"
    assert dl.derive(dl.loads(BLOCKS, SUMMED["bias, cluster labels"])).module().ROUTE == "fields"
    text = dl.derive(dl.loads(BLOCKS)).text()
    assert "sums of erfs" in text
    assert "of the slope" in text
    with pytest.raises(DerivationError, match="network of erfs"):
        dl.derive(dl.loads(BLOCKS, {"student.activation": "relu", "solver.averages": "mixture"})).module()
