"""Averages over all fields at once: against closed forms, and on targets whose kinks lie across their fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.problem.targets import Index
from dimladder.symbolic import store
from dimladder.theories.one_pass import derivation
from dimladder.theories.one_pass import quadrature_rules as rules
from dimladder.theories.one_pass.kink_axes import target_kinks

TEXT = """
schema = 2
[target]
{target}
noise = 0.2
[student]
kind = "two-layer"
width = 2
activation = "{student}"
train_readout = true
[algorithm]
kind = "one-pass"
learning_rate = 0.5
{algorithm}
[initial]
Q = [[0.8, 0.1], [0.1, 0.6]]
M = {M}
a = [0.9, -0.7]
[grid]
time = [0.0, 1.0]
"""


def problem(student: str, target: str, algorithm: str = "", M: Any = ((0.2, 0.1), (-0.1, 0.3))) -> dl.Problem:
    return dl.loads(TEXT.format(student=student, target=target, algorithm=algorithm, M=[list(row) for row in M]))


def velocity(flow: Any, rule: np.ndarray | None = None) -> np.ndarray:
    y = flow.initial_state()
    out = np.empty_like(y)
    p = flow.parameters() if rule is None else np.concatenate([flow.plain_parameters(), rule])
    work = np.zeros(flow.work_size())
    flow.module().rhs(0.0, y, out, p, work)
    return np.append(out, flow.module().generalization_error(y, p, work))


@pytest.mark.parametrize(
    ("student", "target", "algorithm", "accuracy"),
    [
        (
            "erf", 'kind = "committee"\nactivation = "erf"\nreadout = [1.0, 0.7]\noverlap = [[1.0, 0.2], [0.2, 0.8]]',
            "", 2e-9,
        ),
        ("erf", 'kind = "index"\nformula = "sign(z1)*sign(z2) + 0.5*z1"', "spherical = true", 1e-6),
        ("relu", 'kind = "index"\nformula = "relu(z)"', "", 1e-8),
        ("relu", 'kind = "index"\nformula = "He2(z)"', '[loss]\nfunction = "correlation"', 1e-8),
    ],
    ids=["erf committee", "parity", "ReLU", "correlation"],
)  # fmt: skip
def test_against_closed_forms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, student: str, target: str, algorithm: str, accuracy: float
) -> None:
    """Nested rules to the accuracy of their order, Sobol' points to 3e-3, of averages that have closed forms."""
    M = [[0.2], [-0.1]] if "(z)" in target else [[0.2, 0.1], [-0.1, 0.3]]
    p = problem(student, target, algorithm, M)
    flow = dl.derive(p)
    assert flow.module().ROUTE == "closed"
    exact = velocity(flow)
    monkeypatch.setattr(derivation, "needs_all_fields", lambda setting: True)
    monkeypatch.setenv("DIMLADDER_CACHE", str(tmp_path))
    monkeypatch.setattr(store, "_MODULES", {})
    other = dl.derive(p)
    assert other.module().ROUTE == "fields"
    nested, points = rules.levels(other)
    assert abs(velocity(other, nested[-1]) - exact).max() < accuracy
    assert abs(velocity(other, points[-1]) - exact).max() < 3e-3


@pytest.mark.parametrize(
    ("expression", "axes", "kinks"),
    [
        ("sign(z1)*tanh(z2)", [[1, 0], [0, 1]], [[0], []]),
        ("relu(z2 - 0.5) + abs(z2 + 1)*z1", [[0, 1], [1, 0]], [[-1, 0.5], []]),
        ("max(z1, z2)", [[0.5**0.5, -(0.5**0.5)], [0.5**0.5, 0.5**0.5]], [[0], []]),
        ("abs(z1 - z2) + step(z1 + z2 - 1)", [[0.5**0.5, -(0.5**0.5)], [0.5**0.5, 0.5**0.5]], [[0], [0.5**0.5]]),
        ("sign(z1*z2) + z2", [[1, 0], [0, 1]], [[], []]),
    ],
)
def test_axes_are_normal_to_the_planes_of_the_kinks(expression: str, axes: Any, kinks: Any) -> None:
    found, where = target_kinks(Index(formula=expression), 2)
    assert abs(np.array(found) @ np.array(found).T - np.eye(2)).max() < 1e-14
    for axis, own, expected, at in zip(found, where, axes, kinks, strict=True):
        sign = np.sign(np.dot(axis, expected))
        assert np.array(axis) * sign == pytest.approx(np.array(expected), abs=1e-14)
        assert sorted(np.array(own) * sign) == pytest.approx(at, abs=1e-14)


@pytest.mark.parametrize("expression", ["max(z1, z2)", "abs(z1 - z2) - step(z1 + z2 - 1)"])
def test_kinks_across_fields_are_resolved(expression: str) -> None:
    """Split along the right axes the nested rule converges; the points, which know nothing of kinks, agree with it."""
    flow = dl.derive(problem("erf", f'kind = "index"\nformula = "{expression}"'))
    nested, points = rules.levels(flow)
    fine, finest = velocity(flow, nested[-2]), velocity(flow, nested[-1])
    assert abs(fine - finest).max() < 1e-6
    assert abs(finest - velocity(flow, points[-1])).max() < 2e-3


def test_two_oblique_kinks_take_points_and_say_how_well() -> None:
    """Planes at 45 degrees cannot both be split at: the rule with the smaller change is taken, its error is told."""
    p = problem("erf", 'kind = "index"\nformula = "sign(z1) + sign(z1 + z2)"')
    curve = dl.solve(p)
    assert 1e-7 < curve.stats["quadrature_error"] < 5e-3


def test_accuracy_asked_is_accuracy_got() -> None:
    text = 'kind = "index"\nformula = "sign(z)"'
    base = problem("tanh", text, '[loss]\nfunction = "logistic"', [[0.2], [-0.1]])
    best = velocity(dl.derive(dl.replace(base, {"solver.quadrature_rtol": 1e-11})))
    for rtol in (1e-3, 1e-5, 1e-7):
        assert abs(velocity(dl.derive(dl.replace(base, {"solver.quadrature_rtol": rtol}))) - best).max() < rtol
