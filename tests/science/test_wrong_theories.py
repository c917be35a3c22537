"""A right theory is not called wrong by its experiment, and slightly wrong ones are: signs, constants of 5 %."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.results import LearningCurve, Measurement
from dimladder_validation import compare, simulate
from run_files import path_of

# Run file, overrides, sizes, replicas, and a wrong constant: by 5 %, or more where the curve hardly moves with it.
CASES: dict[str, tuple[dict[str, Any], list[int], int, dict[str, Any]]] = {
    "online-erf": (
        {"grid.time": [0.0, 1.0, 3.0], "target.noise": 0.3, "algorithm.learning_rate": 0.8}, [1000, 4000], 48,
        {"algorithm.learning_rate": 0.84},
    ),
    "online-look-ahead": (
        {"grid.time": [0.0, 1.0, 2.0], "target.formula": "tanh(z)", "student.activation": "erf", "initial.M": [[0.3]],
         "algorithm.learning_rate": 0.5}, [1000, 4000], 96, {"algorithm.learning_rate": 0.525},
    ),
    "multiscale": (
        {"grid.time_ridge": [1.0, 10.0]}, [60, 120], 400, {"data.spectrum.variances": [0.225, 2.5e-5]},
    ),
    "implicit-bias": ({"grid.time": [0.0, 0.5, 2.0]}, [4], 8, {"student.initial_norm": 1.05}),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[dl.problem.Problem, LearningCurve, Measurement, dict[str, Any]]:
    overrides, sizes, replicas, wrong = CASES[request.param]
    problem = dl.load(path_of(request.param), overrides)
    return problem, dl.solve(problem), simulate(problem, d=sizes, replicas=replicas, seed=11), wrong


def test_the_right_theory_is_not_called_wrong(case: Any) -> None:
    problem, _, measured, _ = case
    comparison = compare(problem, measured)
    assert comparison.verdict != "disagree", comparison.reasons
    assert not comparison.differences
    assert comparison.p_value > 0.01


def test_a_wrong_constant_is_called_wrong(case: Any) -> None:
    problem, _, measured, wrong = case
    comparison = compare(dl.replace(problem, wrong), measured)
    assert comparison.verdict == "disagree", comparison.reasons
    assert len(comparison.differences) >= 1


def test_a_curve_off_by_a_tenth_or_a_sign_is_called_wrong(case: Any) -> None:
    """Every measured variable in turn, as a whole."""
    problem, curve, measured, _ = case
    right = compare(problem, measured)
    for judged in right.variables:
        if judged.visible > 0.03 or right.curves[min(right.curves)] is not right.curve:
            continue  # too much noise for a tenth, or a theory that is solved anew at every size
        for factor in (-1.0, 0.9, 1.1):
            dataset = curve.dataset.copy(deep=True)
            dataset[judged.name].values[...] *= factor
            # From the start on: there the experiment imposes what the theory says.
            later = Measurement(measured.dataset.isel({"time": slice(1, None)}, missing_dims="ignore"))
            comparison = compare(LearningCurve(dataset), later, variables=[judged.name])
            assert comparison.verdict == "disagree", (judged.name, factor, comparison.reasons)
    assert np.isfinite([v.max_z for v in right.variables]).all()


@pytest.mark.nightly
def test_constants_of_the_hierarchical_example_are_seen_to_five_per_cent() -> None:
    """tanh(3h), P = He_2/2 + He_3/6, three stages on n = d^1.6 samples each at d = 64..576: some ten minutes.

    E f*^2 is exact at every d, and sees every constant of the target. The learning curves alone see the link, degree 3
    of the polynomial and the exponent; 5 % of degree 2 moves them by 1 to 3 %, which is what the theory leaves out at
    d_eff = 24.
    """
    sizes = [64, 144, 256, 576]
    problem = dl.load(path_of("hierarchical-paper"), {"limit.d": sizes, "grid.kappa": [1.6], "target.noise": 0.2})
    problem = dl.replace(problem, {"target.readout": "rademacher"})
    measured = simulate(problem, d=sizes, replicas=16, dtype="float32")
    assert compare(problem, measured).verdict == "agree"
    two, three = 2**-0.5, 6**-0.5
    for factor in (1.05, 0.95):
        for wrong in (
            {"target.link": f"tanh({3 * factor}*h)"}, {"target.link": f"{factor}*tanh(3*h)"},
            {"target.noise": 0.2 * factor}, {"target.features": [{"2": factor * two, "3": three}]},
            {"target.features": [{"2": two, "3": factor * three}]}, {"target.exponents": [0.5 * factor]},
        ):  # fmt: skip
            comparison = compare(dl.replace(problem, wrong), measured)
            assert comparison.verdict == "disagree", (wrong, comparison.reasons)
