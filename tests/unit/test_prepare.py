"""A prepared problem gives what `solve` gives, from any thread, for every kind of theory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import ConfigError, SolveError, UsageError
from dimladder.symbolic.systems import Flow

# A flow, a fixed point, a recursion through layers, a closed form, and keys of each with two values.
CASES = {
    "online-erf": ({"grid.time": [1.0, 10.0], "solver.rtol": 1e-8}, {
        "algorithm.learning_rate": (0.2, 0.5), "initial.M": ([[0.3, 0.0], [0.0, 0.2], [0.1, 0.1]], [[0.0, 0.1]] * 3),
        "target.noise": (0.0, 0.3), "initial.Q.0.0": (0.9, 1.0),
    }),
    "estimation-mixture": ({}, {"loss.ridge": (0.3, 0.7)}),
    "truncation-flow": ({"grid.time": [0.0, 1.0, 4.0]}, {"data.target": (1.5, 1.9), "initial.threshold": (0.6, 0.9)}),
    "hierarchical-layerwise": ({}, {"target.noise": (0.1, 0.2), "algorithm.second.ridge": (0.3, 0.5)}),
    "multiscale": ({}, {"data.spectrum.variances": ([0.25, 2.5e-5], [0.3, 1e-4])}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_call_is_bitwise_the_solve_of_that_problem(name: str, runs: Path) -> None:
    overrides, vary = CASES[name]
    problem = dl.load(runs / f"{name}.toml", overrides)
    keys = list(vary)
    solver = dl.prepare(problem, keys)
    for pick in (0, 1):
        values = {key: vary[key][pick] for key in keys}
        alone = dl.solve(dl.replace(problem, values))
        assert solver.at(values) == dl.replace(problem, values)
        for given in (values, list(values.values())):
            found = solver(given)
            for variable in alone:
                np.testing.assert_array_equal(found[variable], alone[variable].values)
            for axis in set(found) - set(alone):
                np.testing.assert_array_equal(found[axis], alone.dataset.coords[axis])


def test_threads_share_a_prepared_problem(runs: Path) -> None:
    solver = dl.prepare(dl.load(runs / "online-erf.toml"), ["algorithm.learning_rate"], rtol=1e-6)
    rates = np.linspace(0.05, 0.6, 24)
    alone = [solver([rate])["Q"] for rate in rates]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda rate: solver([rate])["Q"], rates))
    np.testing.assert_array_equal(together, alone)
    many = solver.many(rates[:, None])
    np.testing.assert_array_equal([m["Q"] for m in many if isinstance(m, dict)], alone)
    # So many that they are made, integrated and read on threads, a chunk at a time.
    more = solver.many(np.tile(rates, 6)[:, None], workers=3)
    np.testing.assert_array_equal([m["Q"] for m in more if isinstance(m, dict)], 6 * alone)


def test_failures_are_those_of_solve(runs: Path) -> None:
    problem = dl.load(
        runs / "online-erf.toml", {"student.activation": "quadratic", "grid.time": [1.0, 10.0], "solver.rtol": 1e-8}
    )
    solver = dl.prepare(problem, ["algorithm.learning_rate"])
    with pytest.raises(SolveError) as caught:
        solver([30.0])
    assert caught.value.partial is not None
    fine, failed = solver.many([[0.01], [30.0]])
    assert isinstance(fine, dict)
    assert isinstance(failed, SolveError)
    with pytest.raises(ConfigError, match="learning_rate"):
        solver([-1.0])
    with pytest.raises(ConfigError, match="learning_rate"):
        solver(["fast"])


@pytest.mark.parametrize(
    ("keys", "error", "match"),
    [
        ([], UsageError, "nothing to vary"),
        ("algorithm.learning_rate", UsageError, "nothing to vary"),
        (["algorithm.learning_rat"], ConfigError, "learning_rate"),
        (["initial.Q.7.0"], ConfigError, "no entry"),
        (["student.kind"], UsageError, "cannot vary"),
        (["theory"], UsageError, "cannot vary"),
        (["target.noise", "target.noise"], UsageError, "twice"),
    ],
)
def test_what_cannot_vary_is_refused_by_name(keys: list[str], error: type, match: str, runs: Path) -> None:
    with pytest.raises(error, match=match):
        dl.prepare(dl.load(runs / "online-erf.toml"), keys)


def test_the_number_of_values_must_fit(runs: Path) -> None:
    solver = dl.prepare(dl.load(runs / "online-erf.toml"), ["target.noise", "algorithm.learning_rate"])
    with pytest.raises(UsageError, match="1 values for 2 keys"):
        solver([0.1])
    with pytest.raises(UsageError, match="keys"):
        solver({"target.noise": 0.1, "loss.ridge": 0.1})


@pytest.mark.parametrize(
    "vary",
    [
        {"algorithm.learning_rate": [0.2, 0.5, 0.2], "algorithm.weight_decay": [0.0, 0.0, 0.1]},
        {"algorithm.batch_size": [1, 3, 2], "algorithm.readout_learning_rate": [0.1, 0.2, 0.3]},
        {"algorithm.learning_rate": [0.2, 0.3, 0.4], "algorithm.schedule": ["1", "1/(1+t)", "1"]},
        {"algorithm.learning_rate": [0.2, 0.3, 0.4], "algorithm.spherical": [False, True, False]},
        {"algorithm.learning_rate": [0.2, 0.3, 0.4], "algorithm.regime": ["classical", "gradient-flow", "classical"]},
        {"algorithm.learning_rate": [0.2, 0.3, 0.4], "student.activation": ["erf", "tanh", "erf"]},
        {"algorithm.learning_rate": [0.2, 0.3, 0.4], "solver.rtol": [1e-8, 1e-5, 1e-8]},
        {"algorithm.learning_rate": [0.2, 0.3, 0.4], "grid.time": [[1.0, 10.0], [2.0, 3.0, 4.0], [1.0, 10.0]]},
        {"algorithm.learning_rate": [0.2, 0.3, 0.4], "solver.method": ["auto", "bdf", "tsit5"]},
    ],
    ids=lambda vary: list(vary)[1],
)
def test_what_one_call_leaves_to_the_next_is_what_is_the_same(vary: dict[str, list[Any]], runs: Path) -> None:
    problem = dl.load(runs / "online-erf.toml", {"grid.time": [1.0, 10.0], "student.train_readout": True})
    solver = dl.prepare(problem, list(vary))
    rows = list(zip(*vary.values(), strict=True))
    alone = [dl.solve(dl.replace(problem, dict(zip(vary, row, strict=True)))) for row in rows]
    for _ in range(2):
        for row, curve, many in zip(rows, alone, solver.many(rows), strict=True):
            for found in (solver(row), many):
                assert isinstance(found, dict)
                for name in curve:
                    np.testing.assert_array_equal(found[name], curve[name].values)


def test_a_jacobian_has_the_scratch_array_it_needs(runs: Path) -> None:
    """Asked for before or after the integration's own arguments, of a flow that inherits and of one that does not."""
    problem = dl.load(runs / "online-erf.toml")
    prepared = dl.prepare(problem, ["algorithm.learning_rate"])
    for system in (prepared.system([0.3]), prepared.system([0.4]), dl.derive(problem)):
        assert isinstance(system, Flow)
        small = system.integration()["work_size"]
        assert system.jacobian() is not None
        assert system.integration()["work_size"] == system.work_size() > small
