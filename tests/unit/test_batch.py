"""Many problems at once give what each gives alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import dimladder as dl

RUN = Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "online-erf.toml"


def test_a_batch_is_bitwise_the_single_solves_and_keeps_failures() -> None:
    base = dl.load(RUN, {"grid.time": [1.0, 10.0], "solver.rtol": 1e-8})
    changes = [
        {},
        {"algorithm.learning_rate": 0.7},
        {"target.noise": 0.0},
        {"student.activation": "quadratic", "algorithm.learning_rate": 30.0, "algorithm.readout_learning_rate": 30.0},
        {"initial.Q.0.0": 0.9},
    ]
    problems = [dl.replace(base, c) for c in changes]
    answers = dl.solve_many(problems)
    assert len(answers) == len(problems)
    for k in (0, 1, 2, 4):
        alone = dl.solve(problems[k])
        for name in alone:
            np.testing.assert_array_equal(answers[k][name].values, alone[name].values)
    failed = answers[3]
    assert isinstance(failed, dl.SolveError)
    assert failed.status in ("blow_up", "nan", "step_underflow")
    assert failed.partial.theory == "one-pass"
