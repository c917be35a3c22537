"""Formulas in the time for task weights, variances, dropout, noise and batch, in theory and experiment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dimladder
from dimladder.errors import ConfigError
from dimladder.numerics.ode import integrate
from dimladder.optimise import _scheduled, _Search
from dimladder_validation import simulate
from dimladder_validation.simulate.one_pass.sgd import whole_batches

# Two clusters, one teacher, two blocks; every section that may change in time.
CLUSTERS = """
schema = 2
target = { kind = "committee", activation = "erf", readout = [1.0, -0.6], noise = 0.3 }
student = { kind = "two-layer", width = 2, activation = "erf", readout = [1.0, 0.9], train_readout = true }
algorithm = { kind = "one-pass", learning_rate = 0.5 }
[data]
kind = "mixture"
weights = [0.4, 0.6]
means = [[0.7], [-0.4]]
variances = [[1.0, 0.5], [0.8, 1.2]]
spectrum = { fractions = [0.5, 0.5] }
[initial]
kind = "explicit"
Q = [[0.5, 0.02], [0.02, 0.4]]
M = [[0.1, 0.05], [0.02, 0.2]]
means = [[0.1], [-0.05]]
[grid]
time = [0.0, 1.0, 2.5, 4.0]
"""
INF = float("inf")
NUMBERS = {
    "data.tasks": [{"until": INF, "weights": [0.3, 0.7]}], "data.variances": [[1.0, 0.7], [0.8, 1.2]],
    "target.noise": 0.2, "algorithm.batch_size": 3, "student.dropout": 0.6,
}  # fmt: skip
CONSTANTS = {
    "data.tasks": [{"until": INF, "weights": ["0.3 + 0*t", "rest"]}],
    "data.variances": [[1.0, "0.7"], [0.8, "1.2 + 0*t"]],
    "target.noise": "0.2 + 0*t", "algorithm.batch_size": "3", "student.dropout": ["0.6", "0.6 + 0*t"],
}  # fmt: skip
MOVING = {
    "data.tasks": [{"until": 2.0, "weights": ["0.1 + 0.4*t", "rest"]}, {"until": INF, "weights": ["exp(-t)", "rest"]}],
    "data.variances": [[1.0, "0.5 + 0.4*t"], ["1.2*exp(-t/3)", 1.2]],
    "target.noise": "0.8*exp(-t/2)", "algorithm.batch_size": "1 + t/2", "student.dropout": ["1 - 0.6*step(t - 1)", 0.8],
}  # fmt: skip
NAMES = ("Q", "M", "Q_block", "mean_overlap", "a", "generalization_error")


def test_constant_formulas_are_their_numbers() -> None:
    numbers, formulas = (dimladder.solve(dimladder.loads(CLUSTERS, changed)) for changed in (NUMBERS, CONSTANTS))
    for name in NAMES:
        assert abs(numbers[name] - formulas[name]).max() < 1e-12, name


def test_a_formula_that_jumps_is_one_problem_after_another() -> None:
    first = {"target.noise": 0.7, "algorithm.batch_size": 1, "data.variances": [[0.4, 0.5], [0.8, 1.2]]}
    second = {"target.noise": 0.1, "algorithm.batch_size": 4, "data.variances": [[1.3, 0.5], [0.8, 1.2]]}
    jump = {
        "target.noise": "0.7 - 0.6*step(t - 1.5)", "algorithm.batch_size": "1 + 3*step(t - 1.5)",
        "data.variances": [["0.4 + 0.9*step(t - 1.5)", 0.5], [0.8, 1.2]],
    }  # fmt: skip
    first["data.tasks"] = [{"until": INF, "weights": [0.3, 0.7]}]
    second["data.tasks"] = [{"until": INF, "weights": [0.9, 0.1]}]
    jump["data.tasks"] = [{"until": INF, "weights": ["0.3 + 0.6*step(t - 1.5)", "rest"]}]
    tight = {"solver.rtol": 1e-11, "solver.atol": 1e-13}

    def states(changed: dict[str, Any], times: list[float], y0: Any = None) -> Any:
        flow: Any = dimladder.derive(dimladder.loads(CLUSTERS, {**changed, **tight, "grid.time": times}))
        begin = flow.initial_state() if y0 is None else y0
        return integrate(y0=begin, p=flow.parameters(), **flow.integration()).y

    whole = states(jump, [0.0, 1.5, 4.0])
    middle = states(first, [0.0, 1.5])[-1]
    assert abs(whole[1] - middle).max() < 1e-10
    assert abs(whole[2] - states(second, [0.0, 2.5], middle)[-1]).max() < 1e-10
    assert abs(whole[2] - states(first, [0.0, 2.5], middle)[-1]).max() > 1e-2


@pytest.mark.slow
def test_theory_and_experiments_follow_the_same_formulas() -> None:
    problem = dimladder.loads(CLUSTERS, MOVING)
    curve = dimladder.solve(problem)
    gaps = {}
    for method, d, replicas in (("gram", 128, 200), ("weights", 64, 200)):
        run = dimladder.loads(CLUSTERS, {**MOVING, "simulation.method": method})
        found = {k: v.isel(d=0) for k, v in simulate(run, d=[d], replicas=replicas, seed=5).dataset.items()}
        for name in NAMES:
            z = ((found[name] - curve[name]) / found[f"{name}_se"]).isel(time=slice(1, None))
            # The entries are strongly correlated; the 1/d corrections are a tenth of a standard error here.
            assert float(abs(z).max()) < 4.5, (method, d, name)
        gaps[method, d] = found
    # Each formula matters: replaced by a number, the prediction is refused by many standard errors.
    for key, value in (
        ("data.tasks", [{"until": INF, "weights": [1.0, 0.0]}]), ("data.variances", [[1.0, 0.5], [1.2, 1.2]]),
        ("target.noise", 0.8), ("algorithm.batch_size", 1), ("student.dropout", [1.0, 0.8]),
    ):  # fmt: skip
        frozen = dimladder.solve(dimladder.loads(CLUSTERS, {**MOVING, key: value}))
        found = gaps["gram", 128]
        worst = max(
            float((abs(found[n] - frozen[n]) / found[f"{n}_se"]).isel(time=slice(1, None)).max()) for n in NAMES
        )
        assert worst > 6, key


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"target.noise": "0.2 - t"}, "target.noise: it is"),
        ({"target.noise": "1/t"}, "target.noise: .*is not finite at t = 0"),
        ({"algorithm.batch_size": "t"}, "algorithm.batch_size: it is"),
        ({"student.dropout": "1 + t"}, "student.dropout: it is"),
        ({"data.variances": [[1.0, "1 - t"], [1.0, 1.0]]}, "data.variances: it is"),
        ({"data.tasks": [{"until": INF, "weights": ["t", "rest"]}]}, "data.tasks.0.weights: it is"),
        ({"data.tasks": [{"until": INF, "weights": ["0.5", "0.4"]}]}, "data.tasks.0.weights: 0.9"),
        ({"data.tasks": [{"until": INF, "weights": ["rest", "rest"]}]}, "weights: one of them may be"),
        ({"target.noise": "x"}, "noise: "),
        ({"algorithm.momentum": {"decay": 1.0}, "algorithm.uses": 2, "target.noise": "t"}, "uses"),
    ],
)  # fmt: skip
def test_what_no_number_is_at_some_time_is_refused_by_its_key(changed: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match="(?s)" + where.replace("t.n", r"t\.n")):
        dimladder.loads(CLUSTERS, changed)


def test_other_theories_refuse_formulas_in_time() -> None:
    ridge = {
        "theory": "estimation", "data": {"sample_ratio": 2.0}, "student": {"kind": "linear"}, "loss": {"ridge": 0.1},
        "target": {"kind": "index", "formula": "z", "noise": "0.3*t"}, "algorithm": {"kind": "minimise"},
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"target\.noise.*a formula in the time"):
        dimladder.problem(**ridge)


def test_whole_batches_have_the_mean_inverse_of_the_formula() -> None:
    t = np.linspace(0.0, 5.0, 1001)
    wanted = 1.0 + 0.7 * t
    found = whole_batches(wanted, np.ones(len(t), dtype=int))
    assert set(np.unique(found - np.floor(wanted))) <= {0.0, 1.0}
    assert abs(np.cumsum(1.0 / wanted) - np.cumsum(1.0 / found)).max() < 1.0


@pytest.mark.parametrize(
    ("control", "values"),
    [
        ("data.tasks.0.weights.0", [0.2, 0.5, 0.35]),
        ("data.variances.0.1", [0.6, 0.9, 1.3]),
        ("target.noise", [0.5, 0.1, 0.3]),
        ("student.dropout", [0.7, 0.9, 0.8]),
        ("algorithm.batch_size", [1.5, 3.0, 2.2]),
    ],
)
@pytest.mark.slow
def test_every_number_in_time_is_a_control(control: str, values: list[float]) -> None:
    """The gradient of an optimal schedule is the difference of runs whose formula has these steps."""
    problem = dimladder.loads(
        CLUSTERS,
        {
            "data.tasks": [{"until": INF, "weights": [0.3, "rest"]}], "student.dropout": 0.8, "algorithm.batch_size": 2,
            "solver.rtol": 1e-11, "solver.atol": 1e-13, "grid.time": [0.0, 3.0],
        },
    )  # fmt: skip
    search = _Search(problem, control, "generalization_error", (), 3, {})
    u = np.array(values)
    objective, gradient = search.objective(u)
    whole = dimladder.solve(_scheduled(problem, control, search.times, u))["generalization_error"].values[-1]
    assert objective == pytest.approx(whole, rel=1e-9)
    h = 1e-4 * u
    for k, step in enumerate(np.diag(h)):
        up, down = (search.objective(u + s * step)[0] for s in (1.0, -1.0))
        assert (up - down) / (2 * h[k]) == pytest.approx(gradient[k], rel=2e-6, abs=1e-9)


@pytest.mark.slow
def test_optimal_task_weights_beat_every_constant_and_hold_in_a_run_of_their_own() -> None:
    problem = dimladder.loads(CLUSTERS, {"data.tasks": [{"until": INF, "weights": [0.5, "rest"]}]})
    # The error of the second source alone: samples of the first still teach it.
    found = dimladder.optimise(problem, "data.tasks.0.weights.0", variable="error", index=(1,), intervals=4)
    assert found.objective < found.constant_objective
    assert abs(found.values - 0.5).max() <= 0.5
    again = dimladder.solve(found.problem, rtol=1e-10)["error"].values[-1, 1]
    assert again == pytest.approx(found.objective, rel=1e-7)
