"""Named update rules on any width and data law: flows against the finite-d experiment, and limits of each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy as sp
from scipy.stats import ks_2samp

import dimladder as dl
from dimladder.problem import apply_overrides
from dimladder.problem.update_table import table
from dimladder.theories.one_pass.displaced import DisplacedFlow
from dimladder.theories.one_pass.general.symbols import symbols
from dimladder.theories.one_pass.general.table_flow import GeneralFlow
from dimladder_validation import simulate
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.one_pass import sgd
from dimladder_validation.simulate.one_pass.sgd_array import weight_sgd_array

TWO: dict[str, Any] = {
    "target": {"kind": "committee", "readout": [1.0]},
    "student": {"kind": "two-layer", "width": 2},
    "algorithm": {"kind": "one-pass", "learning_rate": 0.5},
    "initial": {"Q": [[0.8, 0.1], [0.1, 0.6]], "M": [[0.2], [0.05]]},
    "grid": {"time": [0.0, 1.0, 2.0, 3.0]},
}
CLUSTERS: dict[str, Any] = {
    "data": {"kind": "mixture", "weights": [0.3, 0.7], "means": [[1.0], [-0.5]], "variances": [[0.5, 1.4], [1.2, 0.3]],
             "spectrum": {"fractions": [0.5, 0.5]}},
    "target": {"kind": "cluster-labels"},
    "student": {"kind": "two-layer", "width": 2, "bias": True},
    "algorithm": {"kind": "one-pass", "learning_rate": 0.5},
    "initial": {"Q": [[0.8, 0.1], [0.1, 0.6]], "means": [[0.2], [0.1]], "bias": [0.3, -0.2]},
    "grid": {"time": [0.0, 1.0, 2.0]},
}  # fmt: skip


def stated(base: dict[str, Any], changes: dict[str, Any]) -> dl.Problem:
    return dl.problem(**apply_overrides(base, changes))


def deviations(curve: Any, runs: Any) -> tuple[float, float]:
    """Return max and r.m.s. of theory - 2 x(2d) + x(d) in standard errors, over all variables but the start."""
    found = []
    for name in curve.dataset.data_vars:
        if f"{name}_se" not in runs.dataset or name == "T":
            continue
        (one, two), (at, there) = runs[name].values, runs[f"{name}_se"].values
        se = np.sqrt(4 * there**2 + at**2)
        seen = se > 1e-9
        found.append((np.abs(curve[name].values - 2 * two + one)[seen] / se[seen]).ravel())
    z = np.concatenate(found)
    return float(z.max()), float(np.sqrt(np.mean(z**2)))


def agree(problem: dl.Problem, wrong: dl.Problem, replicas: int = 48) -> None:
    """The chain at d = 100 and 200, extrapolated, meets the flow; the flow of another problem is excluded."""
    runs = simulate(problem, d=[100, 200], replicas=replicas, seed=3)
    worst, typical = deviations(dl.solve(problem), runs)
    assert worst < 4.5, (worst, typical)
    assert typical < 1.6, (worst, typical)
    assert deviations(dl.solve(wrong), runs)[0] > 6


@pytest.mark.parametrize(
    "rule",
    [
        {"displacement": -0.5, "weight_decay": 0.3},
        pytest.param({"uses": 2, "spherical": True}, marks=pytest.mark.nightly),
    ],
)
def test_one_unit_is_averaged_as_by_split_quadrature(rule: dict[str, Any]) -> None:
    """Two programs for the same flow: over all fields, and over one of each kind with labels tabulated; 2e-6."""
    problem = stated(TWO, {
        "target": {"kind": "index", "formula": "tanh(2*z)"}, "student.width": 1,
        "student.activation": "tanh", "algorithm": TWO["algorithm"] | rule, "initial.Q": [[0.8]], "initial.M": [[0.3]],
        "grid.time": [0.0, 1.0], "solver": {"rtol": 1e-7},
    })  # fmt: skip
    narrow = dl.derive(problem)
    assert isinstance(narrow, DisplacedFlow)
    wide = GeneralFlow(problem).solve().variables
    for name, variable in narrow.solve().variables.items():
        np.testing.assert_allclose(wide[name].values, variable.values, atol=2e-6, err_msg=name)


def test_displaced_gradients_of_two_units() -> None:
    """A look-ahead against its order: the reference state of another program at t = 3 (2e-3), and the chain."""
    problem = stated(TWO, {"algorithm.displacement": -1.0})
    curve = dl.solve(problem)
    np.testing.assert_allclose(curve["Q"].values[-1].ravel(), [0.8132, -0.1826, -0.1826, 0.6036], atol=3e-3)
    np.testing.assert_allclose(curve["M"].values[-1].ravel(), [0.5081, 0.3477], atol=3e-3)
    agree(problem, stated(TWO, {"algorithm.displacement": 1.0}))


@pytest.mark.parametrize(
    "rule", [pytest.param({"displacement": 0.6}, marks=pytest.mark.nightly), {"uses": 2, "batch_size": 2}]
)
def test_displaced_gradients_of_clusters_with_biases(rule: dict[str, Any]) -> None:
    """Blocks, means and biases: each source moves the fields by its own |x|^2/d."""
    problem = stated(CLUSTERS, {"algorithm": CLUSTERS["algorithm"] | rule})
    agree(problem, stated(CLUSTERS, {}))


ONE = {"student.width": 1, "initial": {"Q": [[1.0]], "M": [[0.1]]}, "algorithm.learning_rate": 0.8}
TEACHERS = {
    "student.train_readout": True, "target.readout": [1.0, 0.5], "target.overlap": [[1.0, 0.3], [0.3, 1.5]],
    "initial": {"Q": [[0.8, 0.1], [0.1, 0.6]], "M": [[0.4, 0.1], [0.1, -0.4]]}, "algorithm.learning_rate": 0.8,
}  # fmt: skip
PRESETS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "running average": (ONE | {"algorithm.average": 0.7}, {"algorithm.average": 1.4}, {}),
    "feedback": ({"student.train_readout": True}, {}, {"algorithm.feedback": [1.0, -0.5]}),
    "noise on inputs": ({}, {}, {"algorithm.input_noise": 0.8}),
    "noise on weights": ({"algorithm.learning_rate": 1.2}, {}, {"algorithm.weight_noise": 1.2}),
    "both, batches": ({"algorithm.batch_size": 3}, {}, {"algorithm.input_noise": 0.7, "algorithm.weight_noise": 0.9}),
    "drift": (ONE | {"target.drift": {"rate": 0.4}}, {"target.drift": {"rate": 0.8}}, {}),
    "rotation": (
        TEACHERS, {"target.drift": {"rate": 0.2, "noise": 0.5, "mixing": [[0.0, -0.7], [0.3, 0.0]]}},
        {"target.drift": {"rate": 0.2, "noise": 0.5, "mixing": [[0.0, 0.7], [-0.3, 0.0]]}},
    ),
}  # fmt: skip


GAME: dict[str, Any] = {
    "target": {"kind": "index", "formula": "sign(z)"}, "student": {"kind": "linear"},
    "algorithm": {"kind": "one-pass", "learning_rate": 1.0, "episodes": {"length": 3}},
    "initial": {"Q": [[1.0]], "M": [[0.2]]}, "grid": {"time": [0.0, 1.0, 2.0, 3.0]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, {"algorithm.episodes": {"length": 2}}),
        ({"algorithm.episodes": {"length": 5, "right": 3, "reward": 1.2, "penalty": 0.4}, "algorithm.weight_decay": 0.3,
          "data": {"spectrum": {"variances": [0.5, 1.5], "fractions": [0.5, 0.5]}}},
         {"algorithm.episodes": {"length": 5, "right": 4, "reward": 1.2, "penalty": 0.4}}),
    ],
)  # fmt: skip
def test_episodes(changes: dict[str, Any], wrong: dict[str, Any]) -> None:
    agree(stated(GAME, changes), stated(GAME, changes | wrong), replicas=200)


def test_episodes_against_monte_carlo_of_the_update() -> None:
    """The velocity at one state: E[r mean s lambda_q] and E[|sum r s x|^2]/d of 2e6 drawn episodes."""
    game = {"length": 4, "right": 3, "reward": 0.8, "penalty": 0.5}
    problem = stated(GAME, {"algorithm.episodes": game, "initial": {"Q": [[0.7]], "M": [[0.3]]}})
    flow: Any = dl.derive(problem)
    found = flow.velocity(flow.initial_state(), flow.rule)
    z, u = np.random.default_rng(5).standard_normal((2, 2_000_000, 4))
    field = 0.3 * z + np.sqrt(0.7 - 0.09) * u
    decision = np.sign(field)
    earned = np.where((decision * z > 0).sum(axis=1) >= 3, 0.8, -0.5)
    q = 2 * earned * (decision * field).mean(axis=1) + earned**2 / 4
    m = earned * (decision * z).mean(axis=1)
    for value, draws in zip(found, (q, m), strict=True):
        assert abs(value - draws.mean()) < 4 * draws.std() / np.sqrt(len(draws))


def test_the_first_reference_of_the_rl_perceptron() -> None:
    """A state of another program at t = 3, known to about 0.4 %; one decision an episode is a perceptron's rule."""
    curve = dl.solve(stated(GAME, {}))
    assert curve["Q"].values[-1, 0, 0] == pytest.approx(2.890, rel=6e-3)
    assert curve["M"].values[-1, 0, 0] == pytest.approx(0.811, rel=8e-3)
    share = np.arccos(curve["M"].values / np.sqrt(curve["Q"].values))[:, 0, 0] / np.pi
    np.testing.assert_allclose(curve["classification_error"].values, share, rtol=1e-9)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"student": {"kind": "two-layer"}}, "student.kind"),
        ({"student.bias": True}, "student.bias"),
        ({"target.formula": "z"}, "target.formula"),
        ({"target.noise": 0.1}, "target.noise"),
        ({"algorithm.batch_size": 2}, "algorithm.batch_size"),
        ({"algorithm.displacement": 0.1}, "algorithm.displacement"),
        ({"algorithm.input_noise": 0.1}, "algorithm.input_noise"),
        ({"algorithm.episodes": {"length": 3, "right": 4}}, "right"),
        ({"loss": {"function": "logistic"}}, "loss.function"),
    ],
)
def test_what_no_episode_has_is_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(dl.DimladderError, match=key):
        dl.derive(stated(GAME, changes))


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    base, wrong, right = PRESETS[name]
    problem = stated(TWO, base)
    agree(stated(TWO, base | right) if right else problem, stated(TWO, base | wrong) if wrong else problem)


def test_every_noise_on_clusters_with_blocks_and_biases() -> None:
    """Inputs and weights with noise, feedback and drift together, with means: one flow, one chain."""
    changes = {
        "target": {"kind": "committee", "readout": [[1.0], [-0.6]], "drift": {"rate": 0.6}},
        "initial.M": [[0.3], [0.2]],
        "algorithm.input_noise": 0.6, "algorithm.weight_noise": 0.5, "algorithm.feedback": [0.7, -0.9],
        "student.train_readout": True,
    }  # fmt: skip
    agree(stated(CLUSTERS, changes), stated(CLUSTERS, changes | {"algorithm.input_noise": 0.0}))


def test_noise_on_weights_drawn_as_it_is_and_as_fields() -> None:
    """The chain draws fields of the noise given a batch's inputs, the weights have noise on each entry: one law."""
    what, d, count = table(stated(TWO, PRESETS["both, batches"][0] | PRESETS["both, batches"][2])), 12, 250
    times = np.array([0.75])
    chain = sgd.gram_chain(what, times, d, [np.random.default_rng([1, k]) for k in range(count)])
    streams = [np.random.default_rng([2, k]) for k in range(count)]
    weights = weight_sgd_array(what, times, d, streams, backend_for())
    one, two = (runs.gram.reshape(count, -1).T for runs in (chain, weights))
    assert min(ks_2samp(a, b).pvalue for a, b in zip(one, two, strict=True)) > 1e-3
    still = sgd.gram_chain(
        replace(what, weight_noise=0.0), times, d, [np.random.default_rng([3, k]) for k in range(count)]
    )
    other = still.gram.reshape(count, -1).T
    assert min(ks_2samp(a, b).pvalue for a, b in zip(other, two, strict=True)) < 1e-4


@pytest.mark.nightly
def test_noise_and_drift_with_several_outputs() -> None:
    changes = {
        "target": {"kind": "committee", "readout": [[1.0, 0.2], [-0.3, 0.8]], "outputs": 2, "drift": {"rate": 0.5}},
        "student.readout": [[0.6, -0.4], [0.5, 0.7]], "student.train_readout": True, "grid.time": [0.0, 1.0, 2.0],
        "initial.M": [[0.2, 0.0], [0.05, 0.3]], "algorithm.input_noise": 0.7, "algorithm.weight_noise": 0.6,
    }  # fmt: skip
    agree(stated(TWO, changes), stated(TWO, changes | {"algorithm.input_noise": 0.0}))


@pytest.mark.parametrize(
    "problem",
    [
        stated(GAME, {}), stated(TWO, {"algorithm.displacement": 0.4}),
        stated(TWO, {"algorithm.uses": 2, "student.train_readout": True, "student.bias": True}),
        stated(TWO, {"algorithm.input_noise": 0.4, "algorithm.weight_noise": 0.3, "algorithm.feedback": [1.0, -1.0],
                     "target.drift": {"rate": 0.3}, "algorithm.average": 0.5}),
    ],
)  # fmt: skip
def test_every_symbol_of_the_printed_equations_is_defined(problem: dl.Problem) -> None:
    rows = GeneralFlow(problem).equations()
    formal = [e for e in rows if e.sympy]
    defined = {e.label.removeprefix("symbol ") for e in rows}
    defined |= {str(e.sympy[0].base) for e in formal if e.sympy and isinstance(e.sympy[0], sp.Indexed)}
    free = {s for s in symbols(formal) if not s.startswith(r"\mathbb{E}")}
    assert not free - defined - {"beta"}


def test_drifting_teachers_that_a_student_does_not_follow() -> None:
    """Nothing is learned: T relaxes to noise/rate |w*(0)|^2, a rotation turns M; both in closed form."""
    rotation = {"mixing": [[0.0, 2.0], [-2.0, 0.0]]}
    still = TEACHERS | {"algorithm.learning_rate": 0.0, "target.overlap": [], "student.train_readout": False}
    curve = dl.solve(stated(TWO, still | {"target.drift": rotation}))
    t = curve["M"].coords["time"].values
    expected = 0.4 * np.cos(2 * t) + 0.1 * np.sin(2 * t)
    np.testing.assert_allclose(curve["M"].values[:, 0, 0], expected, atol=1e-8)
    np.testing.assert_allclose(curve["T"].values, np.broadcast_to(np.eye(2), (len(t), 2, 2)), atol=1e-8)
    walk = {"rate": 0.5, "noise": 1.5}
    curve = dl.solve(stated(TWO, still | {"target.drift": walk}))
    np.testing.assert_allclose(curve["T"].values[:, 1, 1], 3 - 2 * np.exp(-0.5 * t), atol=1e-8)
    np.testing.assert_allclose(curve["M"].values[:, 1, 1], -0.4 * np.exp(-0.25 * t), atol=1e-8)


def test_feedback_of_the_readouts_is_sgd() -> None:
    plain, same = (
        dl.solve(stated(TWO, {"student.readout": [0.7, -1.2], **changes}))
        for changes in ({}, {"algorithm.feedback": [0.7, -1.2]})
    )
    np.testing.assert_allclose(same["Q"].values, plain["Q"].values, atol=1e-8)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"algorithm.feedback": [1.0]}, "algorithm.feedback"),
        ({"algorithm.feedback": [1.0, 1.0], "algorithm.displacement": 0.3}, "algorithm.feedback"),
        ({"algorithm.weight_noise": 0.1, "algorithm.uses": 2}, "algorithm.weight_noise"),
        ({"algorithm.average": 0.1, "algorithm.momentum": {"beta": 0.5}}, "algorithm.average"),
        ({"algorithm.average": 0.1, "algorithm.spherical": True}, "algorithm.average"),
        ({"algorithm.input_noise": 0.1, "algorithm.regime": "gradient-flow"}, "algorithm.input_noise"),
        ({"algorithm.feedback": [1.0, 1.0], "algorithm.update": {"w": "w - a*dg(lambda_w)*error*x/sqrt(d)"}},
         "algorithm.feedback"),
        ({"target.drift": {"mixing": [[0.0, 1.0], [1.0, 0.0]]}}, "target.drift.mixing"),
        ({"target.drift": {"rate": 1.0}, "data": {"spectrum": {"variances": [1.0, 3.0], "fractions": [1.0, 0.0]}}},
         "target.drift"),
        ({"algorithm.input_noise": -0.1}, "input_noise"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(dl.DimladderError, match=key):
        dl.derive(stated(TWO, changes))
