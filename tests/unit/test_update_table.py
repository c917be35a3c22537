"""A one-pass problem as one table: sources, blocks, species, update rules, and the start block by block."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dimladder.errors import ConfigError, DomainError
from dimladder.problem import Problem, apply_overrides, state, update_check
from dimladder.problem.geometry import start
from dimladder.problem.update_check import update_error
from dimladder.problem.update_table import table

COMMITTEE: dict[str, Any] = {
    "target": {"kind": "committee", "readout": [1.0, 0.5], "overlap": [[1.0, 0.2], [0.2, 1.0]], "noise": 0.1},
    "student": {"kind": "two-layer", "width": 2},
    "algorithm": {"kind": "one-pass", "learning_rate": 0.4},
    "initial": {"Q": [[0.5, 0.1], [0.1, 0.6]], "M": [[0.1, 0.2], [0.0, -0.1]]},
}
XOR: dict[str, Any] = {
    "data": {
        "kind": "mixture", "weights": [0.1, 0.2, 0.3, 0.4], "means": [[1, 0], [-1, 0], [0, 1], [0, -1]],
        "mean_overlap": [[4.0, 0.5], [0.5, 3.0]], "variances": [0.5, 0.5, 0.8, 0.8],
    },
    "target": {"kind": "cluster-labels", "labels": [1.0, 1.0, -1.0, -1.0]},
    "student": {"kind": "two-layer", "width": 2, "bias": True},
    "algorithm": {"kind": "one-pass", "learning_rate": 0.4, "bias_learning_rate": 0.2},
    "initial": {"Q": [[0.5, 0.1], [0.1, 0.6]], "means": [[0.1, 0.2], [0.0, -0.1]], "bias": [0.3, -0.1]},
}  # fmt: skip


def problem(base: dict[str, Any], changes: dict[str, Any] | None = None) -> Problem:
    floats = {"target": base["target"], **base}
    return state(_floats(apply_overrides(floats, changes or {})), None)


def _floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _floats(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_floats(v) for v in value]
    return value


def test_a_plain_problem_is_one_block_one_source_one_species() -> None:
    what = problem(COMMITTEE)
    found, begin = table(what), start(what)
    assert found.plain
    assert (found.K, found.M, found.D, found.n, found.sources) == (2, 2, 0, 4, 1)
    joint = np.block([[begin.Q, begin.M], [begin.M.T, begin.T]])
    assert np.array_equal(found.gram[0], joint)
    assert found.drift.tolist() == [[0.0]]
    assert found.gain.tolist() == [0.4]
    drawn = problem(COMMITTEE, {"initial": {"kind": "random", "overlap": 0.1, "norm": 0.7, "seed": 3}})
    begin = start(drawn)
    assert np.allclose(table(drawn).gram[0, :2], np.hstack([begin.Q, begin.M]), rtol=0, atol=1e-15)


def test_power_shares_the_teachers_and_fractions_the_students() -> None:
    spectrum = {"exponent": 0.5, "levels": 4}
    found = table(problem(COMMITTEE, {"data": {"spectrum": spectrum}, "target.power": {"exponent": 1.0}}))
    tau = np.array([1, 1 / 2, 1 / 3, 1 / 4])
    tau /= tau.sum()
    s = np.arange(1, 5.0) ** -1.5
    assert np.allclose(found.variances, [s / s.mean()])
    assert np.allclose(found.gram[:, 2, 3], 0.2 * tau)
    assert np.allclose(found.gram[:, 0, 3], 0.2 * tau)
    assert np.allclose(found.gram[:, 0, 1], 0.1 / 4)


def test_index_fields_keep_their_covariance_whatever_the_spectrum() -> None:
    base = {**COMMITTEE, "target": {"kind": "index", "formula": "z1*z2"}}
    for power in ([0.2, 0.8], "latent", None):
        change = {"data": {"spectrum": {"variances": [0.5, 3.0], "fractions": [0.4, 0.6]}}}
        found = table(problem(base, change | ({"target.power": power} if power else {})))
        fields = np.einsum("b,bpq->pq", found.variances[0], found.gram)
        assert np.allclose(fields[2:, 2:], np.eye(2), rtol=1e-14)


def test_a_single_direction_takes_what_lies_along_the_teacher() -> None:
    base = {**COMMITTEE, "target": {"kind": "committee", "readout": [1.0], "power": [0.6, 0.4]}}
    change = {"data.spectrum": {"variances": [1.0, 4.0], "fractions": [1.0, 0.0]}, "initial.M": [[0.1], [0.3]]}
    found = table(problem(base, change))
    m = np.array([0.1, 0.3])
    assert np.allclose(found.gram[1, :2, :2], 0.4 * np.outer(m, m))
    assert np.allclose(found.gram.sum(axis=0)[:2, :2], COMMITTEE["initial"]["Q"])
    two = problem(COMMITTEE, {"data": change["data.spectrum"] and {"spectrum": change["data.spectrum"]},
                              "target.power": [0.6, 0.4]})  # fmt: skip
    with pytest.raises(DomainError, match="single direction"):
        table(two)


def test_sources_of_a_mixture() -> None:
    found = table(problem(XOR))
    assert found.probabilities(0.0).tolist() == [0.1, 0.2, 0.3, 0.4]
    assert found.labels.ravel().tolist() == [1, 1, -1, -1]
    assert found.signs
    assert found.M == 0
    assert found.gram[0, 2:, 2:].tolist() == [[4.0, 0.5], [0.5, 3.0]]
    assert found.gram[0, 0, 2:].tolist() == [0.1, 0.2]
    assert found.bias_rate == 0.5
    assert found.bias.tolist() == [[0.3, -0.1]]
    assert found.variances.tolist() == [[0.5], [0.5], [0.8], [0.8]]


def test_tasks_switch_sources_and_heads() -> None:
    base = {**COMMITTEE, "target": {"kind": "committee", "readout": [[1.0, 0.0], [0.0, 1.0]]}}
    tasks = [{"until": 2.0, "weights": [1.0, 0.0]}, {"until": 5.0, "weights": [0.3, 0.7]}]
    found = table(problem(base, {"data": {"tasks": tasks}, "student.heads": 2}))
    assert found.switches == (2.0,)
    assert [found.probabilities(t).tolist() for t in (1.9, 2.0, 9.0)] == [[1.0, 0.0], [0.3, 0.7], [0.3, 0.7]]
    assert found.head.tolist() == [0, 1]
    assert found.teacher_rows.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert found.a.tolist() == [[1.0, 1.0]] * 2


def test_masks_are_sources() -> None:
    found = table(problem(XOR, {"student.dropout": 0.7}))
    assert found.sources == 4
    assert len(found.head) == 16
    p = found.probabilities(0.0)
    assert np.isclose(p @ (found.masks[:, 0] * found.masks[:, 1]), 0.49)
    assert np.allclose(found.source_weights(np.zeros(1)), [0.1, 0.2, 0.3, 0.4])


def test_momentum_in_both_scalings() -> None:
    change = {"algorithm.momentum": {"decay": 2.0, "coupling": 0.3, "direct": 0.5}, "algorithm.weight_decay": 0.1}
    ball = table(problem(COMMITTEE, change))
    assert ball.species == ("w", "u")
    assert ball.drift.tolist() == [[-0.1, 0.3], [0.0, -2.0]]
    assert ball.gain.tolist() == [0.2, 0.4]
    assert not ball.gram[0, 2:4].any()
    fast = table(problem(COMMITTEE, {"algorithm.momentum": {"beta": 0.9}}))
    assert np.isclose(fast.gain[0], 4.0)
    assert fast.beta == 0.9


def update(changes: dict[str, Any] | None = None, **rows: str) -> Problem:
    algorithm = {
        "update": rows, "vectors": {name: "w" for name in rows if name != "w"},
        "constants": {"gamma": 0.7} if any("gamma" in row for row in rows.values()) else {},
    }  # fmt: skip
    overrides = {f"algorithm.{key}": value for key, value in algorithm.items()}
    return problem(COMMITTEE, overrides | (changes or {}))


SGD = "w - learning_rate*a*dg(lambda_w)*error*x/sqrt(d)"


def test_update_rules_are_read() -> None:
    average = table(update(w=SGD, wbar="wbar + gamma*(w - wbar)/d"))
    assert average.species == ("w", "wbar") == ("w", *average.outputs)
    assert average.drift.tolist() == [[0.0, 0.0], [0.7, -0.7]]
    assert average.gain.tolist() == [0.4, 0.0]
    assert average.coefficients is None
    assert np.array_equal(average.gram[0, :2, :2], average.gram[0, 2:4, :2])
    ball = table(update(w="w + learning_rate*v/d - 0.1*w/d", v="v*(1 - gamma/d) - x*error*dg(lambda_w)*a*d^(-1/2)"))
    assert ball.drift.tolist() == [[-0.1, 0.0], [0.0, -0.7]]
    assert ball.scheduled_drift.tolist() == [[0.0, 0.4], [0.0, 0.0]]
    assert ball.gain.tolist() == [0.0, 0.0]
    assert ball.fixed_gain.tolist() == [0.0, 1.0]
    other = table(update(w="w - 0.1*g(lambda_w)*(error + 0.2*lambda_w)*x/sqrt(d) - gamma/d*w"))
    assert other.coefficients is not None
    (b,) = other.coefficients
    assert b is not None
    assert np.isclose(b.evaluate(np, g_w=2.0, error=3.0, lambda_w=5.0), -0.8)
    turned = table(update(w="w - error*w/d - gamma*w/d + learning_rate*zeta/sqrt(d)"))
    assert turned.drift.tolist() == [[0.0]]
    assert turned.coefficients == (None,)
    assert turned.sampled_drift is not None
    (part,) = turned.sampled_drift[0]
    assert part is not None
    assert np.isclose(part.evaluate(np, error=3.0), -3.7)
    assert turned.kick.tolist() == [0.4]
    assert turned.fixed_kick.tolist() == [0.0]


@pytest.mark.parametrize(
    ("rows", "term"),
    [
        ({"w": "w - w*w/d"}, "multiplies two vectors"),
        ({"w": "w - error*x"}, "'error \\* x'|error \\* x|neither a drift"),
        ({"w": "w - tanh(w)/d"}, "tanh\\(w\\)"),
        ({"w": "0.9*w - error*x/sqrt(d)"}, "momentum = "),
        ({"w": "w + 1"}, "neither a drift"),
        ({"w": "w - eror*w/d"}, "unknown name 'eror'"),
        ({"w": "w - error*zeta/sqrt(d)"}, "unknown name 'error'"),
        ({"w": "w - eror*x/sqrt(d)"}, "unknown name 'eror'"),
        ({"w": "w - dg(lambda_w + 1)*x/sqrt(d)"}, "taken at a field"),
        ({"w": SGD, "v": "v + learning_rate**2*w/d"}, "affine in learning_rate"),
        ({"v": "v - v/d"}, "no row for the trained weights"),
        ({"w": "w + x/(d*w)"}, "divides by"),
    ],
)
def test_what_is_not_linear_is_refused_with_the_term(rows: dict[str, str], term: str) -> None:
    with pytest.raises(ConfigError) as caught:
        table(update(**rows))
    assert re.search(term, caught.value.why or "")


def test_overlaps_of_all_vectors_can_be_given() -> None:
    q = [[1.0, 0.9], [0.9, 0.9]]
    start = {"student.width": 1, "initial.Q": q, "initial.M": [[0.1, 0.0], [0.2, 0.0]]}
    what = update(start | {"algorithm.vectors.wbar": "overlaps"}, w=SGD, wbar="wbar + (w - wbar)/d")
    assert table(what).gram[0, :2, :2].tolist() == q


@pytest.mark.parametrize(
    ("base", "change", "where"),
    [
        (COMMITTEE, {"student.heads": 2}, "student.heads"),
        (COMMITTEE, {"target.readout": [[1.0, 0.0], [0.0, 1.0]]}, "target.readout"),
        (COMMITTEE, {"data": {"spectrum": {"exponent": 1.0, "levels": 3}}, "target.power": [0.5, 0.5]}, "target.power"),
        (COMMITTEE, {"initial": {"block_Q": [[[1.0, 0.0], [0.0, 1.0]]] * 2, "M": [[0.0, 0.0]] * 2}}, "initial.block_Q"),
        (COMMITTEE, {"initial.bias": [0.1, 0.2]}, "initial.bias"),
        (XOR, {"initial.means": [[0.0, 0.0]]}, "initial.means"),
        (XOR, {"target.labels": [1.0, -1.0]}, "target.labels"),
        (XOR, {"student.width": 9, "student.dropout": 0.5}, "student.dropout"),
        (COMMITTEE, {"target": {"kind": "cluster-labels"}}, "target.kind"),
    ],
)
def test_sections_that_do_not_fit_are_refused(base: dict[str, Any], change: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        table(problem(base, change))
    assert caught.value.where == where


def test_a_gauss_rule_keeps_the_moments_of_spectrum_and_power() -> None:
    full = {"spectrum": {"exponent": 0.5, "levels": 60}}
    few = {"spectrum": {"exponent": 0.5, "levels": 60, "nodes": 6}}
    power = {"target.power": {"exponent": 0.7}}
    every, nodes = (table(problem(COMMITTEE, {"data": data, **power})) for data in (full, few))
    assert nodes.nodes
    assert len(nodes.shares) == 6
    for k in range(8):
        exact = every.shares @ every.variances[0] ** k
        assert abs(nodes.shares @ nodes.variances[0] ** k - exact) < 1e-10 * exact
        exact = every.gram[:, 2, 2] @ every.variances[0] ** k
        assert abs(nodes.gram[:, 2, 2] @ nodes.variances[0] ** k - exact) < 2e-2 * exact


RULES = [
    {"w": SGD, "wbar": "wbar + gamma*(w - wbar)/d"},
    {"w": "w + learning_rate*v/d - 0.1*w/d", "v": "v*(1 - gamma/d) - x*error*dg(lambda_w)*a*d^(-1/2)"},
    {
        "w": "w - (error*a*dg(lambda_w) + 0.2*tanh(lambda_s)*f)*learning_rate*x/sqrt(d) - (w - s)/(2*d)",
        "s": "s + y*g(lambda_s)*x/sqrt(d)/3",
    },
]


@pytest.mark.parametrize("rows", RULES)
def test_a_step_of_the_text_is_a_step_of_the_table(rows: dict[str, str]) -> None:
    assert update_error(update(**rows)) < 1e-12


@pytest.mark.parametrize(
    "fault", [("drift", -1.0), ("gain", 1.1), ("scheduled_drift", 0.0), ("fixed_gain", 2.0), ("coefficients", None)]
)
def test_a_rule_that_was_read_wrongly_is_seen(fault: tuple[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    name, factor = fault
    caught = []
    for rows in RULES:
        right = table(update(**rows))
        value = getattr(right, name)
        wrong = replace(right, **{name: value if factor is None or value is None else factor * value})
        if name == "coefficients" and value is not None:
            wrong = replace(right, coefficients=value[::-1])
        monkeypatch.setattr(update_check, "table", lambda problem, wrong=wrong: wrong)
        caught.append(update_error(update(**rows)) > 1e-3)
    assert any(caught)


def test_a_linear_student_is_one_unit_without_activation() -> None:
    start = {"initial.Q": [[0.5]], "initial.M": [[0.1, 0.2]], "initial.bias": [0.3]}
    found = table(problem(COMMITTEE, {"student": {"kind": "linear", "bias": True}, **start}))
    assert found.activation.text == "x"
    assert found.a.tolist() == [[1.0]]
    assert (found.readout_rate, found.bias_rate) == (0.0, 1.0)
    assert found.bias.tolist() == [[0.3]]
