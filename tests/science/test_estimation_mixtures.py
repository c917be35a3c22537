"""Mixtures in the estimation engine: earlier values, the plain engine as a limit, formulas a cluster, thresholds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad

from dimladder.errors import ConfigError, SolveError
from dimladder.solve import derive, load, loads, replace, solve
from dimladder.theories.estimation.mixture_question import MixtureQuestion
from dimladder.theories.estimation.mixture_separability import separability_threshold
from dimladder_validation import compare, simulate

ROOT = Path(__file__).parents[2]
MIXTURE = load(ROOT / "docs" / "gallery" / "runs" / "estimation-mixture.toml")
# Values of the code that the engine replaced: other quadratures, closed forms of the hinge loss.
REFERENCE = json.loads((Path(__file__).parent / "mixture_reference.json").read_text())
LINK = {
    "kind": "mixture", "weights": [0.7, 0.3], "means": [[0.0, 1.0], [1.0, -0.5]], "variances": [0.8, 1.4],
}  # fmt: skip


# Every shape of the equations is compiled once: those that others cover are left to the night.
_NIGHTLY = ("unequal", "overlap", "xor", "aligned", "window")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.nightly] if n.startswith(_NIGHTLY) else []) for n in REFERENCE]
)
def test_values_of_the_special_theory(name: str) -> None:
    row = REFERENCE[name]
    common = {"solver.rtol": 1e-12, "solver.max_iterations": 5000, "loss.ridge": 0.07, "grid.sample_ratio": [0.6, 2.7]}
    curve = solve(replace(MIXTURE, {**common, **row["set"]}))
    # Its moments of a link were computed to 1e-9 only.
    tolerance = 1e-9 if name.startswith("link") else 1e-10
    for variable, values in row["values"].items():
        np.testing.assert_allclose(curve[variable], values, rtol=tolerance, atol=1e-3 * tolerance, err_msg=variable)


def test_loss_of_fresh_samples_by_adaptive_quadrature() -> None:
    """Two unequal clusters and large fields: E log(1 + exp(-y u)) over the stated overlaps."""
    problem = replace(
        MIXTURE, {"data.variances": [0.5, 1.4], "student.bias": False, "loss.ridge": 0.01, "grid.sample_ratio": [1.0]}
    )
    curve = solve(problem)
    q, m, expected = np.asarray(curve["q"])[0], float(curve["m"][0]), 0.0
    for c, (weight, y) in enumerate(((0.3, 1.0), (0.7, -1.0))):
        mean, s = y * m, np.sqrt(q[c])
        expected += weight * quad(
            lambda x, y=y, mean=mean, s=s: np.logaddexp(0, -y * (mean + s * x)) * np.exp(-x * x / 2), -12, 12,
            epsabs=1e-13, epsrel=1e-13, limit=200,
        )[0] / np.sqrt(2 * np.pi)  # fmt: skip
    assert float(curve["test_loss"][0]) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        ("logistic", {"formula": "sign(z + 0.3*n1)", "flip": 0.05}),
        ("hinge", {"formula": "logit(3*z)"}),
        ("huber(y - f, 0.7)", {"formula": "tanh(2*z)", "noise": 0.3}),
        ("quantile(y - f, 0.3)", {"formula": "z", "noise": 0.3, "outliers": {"probability": 0.2, "formula": "2*n1"}}),
        ("0.7*(y - f)**2", {"formula": "z**2", "noise": 0.3}),
    ],
)
def test_one_cluster_is_the_plain_engine(loss: str, target: dict[str, Any]) -> None:
    """Gaussian inputs of two variances: another map, another solver, the same overlaps."""
    spectrum = {"variances": [0.4, 1.6], "fractions": [0.5, 0.5]}
    change: dict[str, Any] = {
        "target": {"kind": "index", **target}, "loss": {"function": loss, "ridge": 0.2}, "student.bias": True,
        "grid.sample_ratio": [0.7, 3.0], "solver.rtol": 1e-11,
    }  # fmt: skip
    plain = solve(replace(MIXTURE, {**change, "data": {"kind": "gaussian", "spectrum": spectrum}}))
    data = {"kind": "mixture", "weights": [1.0], "means": "zero", "spectrum": spectrum}
    one = solve(replace(MIXTURE, {**change, "data": data}))
    shared = set(plain.dataset.data_vars) & set(one.dataset.data_vars)
    assert {"V", "q", "m", "bias", "test_loss", "train_loss"} <= shared
    for name in shared - {"separability_threshold"}:
        # The error of clusters goes by other panels than the plain engine's.
        rtol = 1e-9 if name == "classification_error" else 1e-10
        np.testing.assert_allclose(one[name], plain[name], rtol=rtol, atol=1e-11, err_msg=name)


def _clusters(labels: list[Any], **change: Any) -> Any:
    target = {"kind": "cluster-labels", "labels": labels, "direction": [1.0, 0.5]}
    return replace(MIXTURE, {"data": LINK, "target": target, "grid.sample_ratio": [0.8, 2.5], **change})


def test_equal_formulas_of_all_clusters_are_one_formula() -> None:
    same = _clusters(["sign(z - 0.2)", "sign(z - 0.2)"])
    index = replace(same, {"target": {"kind": "index", "formula": "sign(z - 0.2)", "direction": [1.0, 0.5]}})
    a, b = solve(same), solve(index)
    for name in a.dataset.data_vars:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-12, err_msg=name)


LABELS: dict[str, tuple[list[Any], str]] = {
    "opposite signs": (["sign(z)", "-sign(z + 0.3*n1)"], "relu(1 - y*f)**2"),
    "a formula and a number": (["tanh(2*z) + 0.2*n1", 0.5], "huber(y - f, 0.7)"),
    "noise alone": (["sign(n1 + 1)", "sign(z)"], "logistic"),
}


@pytest.mark.parametrize("case", LABELS)
def test_a_formula_a_cluster_against_simulation(case: str) -> None:
    labels, loss = LABELS[case]
    problem = _clusters(labels, **{"loss.function": loss})
    measured = simulate(problem, d=[80, 160], replicas=24)
    verdict = compare(solve(problem), measured)
    by_name = {v.name: v.verdict for v in verdict.variables}
    assert "disagree" not in by_name.values(), verdict.reasons
    assert by_name["test_loss"] == by_name["train_loss"] == "agree", verdict.reasons
    wrong = compare(solve(_clusters(labels, **{"loss.function": loss, "data.weights": [0.4, 0.6]})), measured)
    assert wrong.verdict == "disagree", wrong.reasons


def test_the_best_ridge_is_a_stationary_point() -> None:
    change = {"loss.function": "huber(y - f, 1.0)", "grid.sample_ratio": [1.5]}
    labels = ["z + 0.3*n1", "0.5*z - 1"]
    best = solve(_clusters(labels, **change, **{"loss.ridge": "optimal", "loss.optimise": "mse"}))
    ridge, least = float(best["ridge"][0]), float(best["mse"][0])
    around = [
        float(solve(_clusters(labels, **change, **{"loss.ridge": r * ridge}))["mse"][0]) for r in (0.98, 1.0, 1.02)
    ]
    assert around[1] == pytest.approx(least, rel=1e-10)
    assert min(around[0], around[2]) > least
    # The vertex of the parabola through the three, whose own error is of the order of the step's square, 4e-4.
    shift = (around[0] - around[2]) / (around[0] + around[2] - 2 * around[1])
    assert abs(0.01 * shift) < 1e-3


def test_a_best_ridge_that_no_sample_ratio_moves() -> None:
    """A start at the root itself, where the sign of the slope is rounding."""
    change = {
        "data": {"kind": "mixture", "weights": [0.3, 0.7], "means": [[1.2, -0.6], [0.1, 0.5]]},
        "target": {"kind": "index", "formula": "relu(z) + 0.2*n1"},
        "loss": {"function": "square", "ridge": "optimal", "optimise": "test_loss"},
    }
    curve = solve(replace(MIXTURE, {**change, "grid.sample_ratio": [0.5, 1.5, 3.0, 6.0, 9.0]}))
    assert np.ptp(curve["ridge"].values) < 1e-8


def test_a_best_ridge_that_is_not_unique_is_refused() -> None:
    """Where the loss is linear for all samples, larger ridges only shrink a Huber fit of signs."""
    change = {
        "data": {"kind": "mixture", "weights": [0.2, 0.3, 0.5], "means": [[-1.3, -1.3], [-0.2, -1.1], [0.6, 0.4]]},
        "target.labels": [1.0, -1.0, -1.0],
        "loss": {"function": "huber(y - f, 0.5)", "ridge": "optimal", "optimise": "classification_error"},
    }
    with pytest.raises(SolveError, match=r"the observable is the same at (all|larger) ridges near"):
        solve(replace(MIXTURE, {**change, "student.bias": False, "grid.sample_ratio": [1.25]}))


def test_ridge_per_sample_is_a_ridge() -> None:
    loss = {"function": "logistic", "ridge_per_sample": 0.05}
    per = solve(replace(MIXTURE, {"loss": loss, "grid.sample_ratio": [2.0]}))
    plain = solve(replace(MIXTURE, {"loss.ridge": 0.1, "grid.sample_ratio": [2.0]}))
    np.testing.assert_allclose(per["q"], plain["q"], rtol=1e-12)


def test_separability_with_covariances_that_differ() -> None:
    """The hinge loss changes sides there: with a vanishing penalty its training loss is zero below only."""

    def edge(change: dict[str, Any]) -> float:
        return separability_threshold(MixtureQuestion(replace(MIXTURE, change)))

    # Covariances that hardly differ: the common formula.
    assert edge({"data.variances": [1.0, 1.0 + 1e-7]}) == pytest.approx(edge({}), rel=1e-5)
    for change in (
        {"data.variances": [0.5, 2.0]},
        {"data": {**LINK, "variances": [[0.7, 1.9], [1.1, 0.4]], "spectrum": {"fractions": [0.35, 0.65]}}},
    ):
        threshold = edge(change)
        ratios = [0.97 * threshold, 1.05 * threshold]
        curve = solve(
            replace(MIXTURE, {**change, "loss.function": "hinge", "loss.ridge": 1e-6, "grid.sample_ratio": ratios})
        )
        below, above = np.asarray(curve["train_loss"])
        assert float(curve["separability_threshold"]) == threshold
        assert below < 1e-4 < 1e-3 < above


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": {"kind": "cluster-labels", "labels": ["sign(z)", 2.0]}}, "labels -1 and"),
        ({"target": {"kind": "cluster-labels", "labels": ["sign(z1*z2)", 1.0]}}, "one field z"),
        ({"target": {"kind": "cluster-labels", "labels": ["sign(q)", 1.0]}}, "q"),
        ({"target": {"kind": "cluster-labels", "labels": [1.0, -1.0], "direction": [1.0]}}, "no label is a formula"),
        ({"target": {"kind": "index", "formula": "sign(z)", "prior": "rademacher"}}, "not read beside a mixture"),
        ({"loss.penalty": "l1"}, "l2"),
        ({"loss.function": "f**4 - f**2 - y*f"}, "convex"),
        ({"algorithm": {"kind": "bayes"}}, "a mixture is fitted"),
        ({"data.spikes": [[1.0], [0.0]], "data.spectrum": {"fractions": [0.5, 0.5]}}, "spikes need a bulk"),
    ],
)
def test_what_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(MIXTURE, change)
    assert words in str(caught.value)


def test_the_equations_print_the_problem_at_hand() -> None:
    system = derive(_clusters(["sign(z + 0.5*n1)", 1.0], **{"loss.function": "huber(y - f, 0.7)"}))
    labels = [e.label for e in system.equations()]
    text = system.latex()
    assert {"slope", "prox", "force", "V_0", "q_1", "M_0"} <= set(labels), labels
    assert r"\operatorname{sign}" in text
    again = loads(system.problem.to_toml())
    assert again == system.problem
