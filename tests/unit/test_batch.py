"""Many problems at once give what each gives alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.batch import LEAST_TOGETHER, in_chunks

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


@pytest.mark.parametrize(
    ("count", "workers", "most"), [(1000, 2, 64), (1000, 16, 64), (7, 2, 64), (100, 3, 1), (1, 4, 9)]
)
def test_chunks_hold_every_item_once_and_shrink(count: int, workers: int, most: int) -> None:
    items = list(range(count))
    chunks = sorted(in_chunks(list, items, workers, most))
    assert [item for chunk in chunks for item in chunk] == items
    sizes = [len(chunk) for chunk in chunks]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] <= most
    # What is left for the last of them is little.
    assert sizes[-1] <= max(LEAST_TOGETHER, count // (4 * workers))
