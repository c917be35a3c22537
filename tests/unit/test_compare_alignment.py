"""How `compare` lines up theory and simulation: grids, missing values, imposed values, errors of usage."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import UsageError
from dimladder.results import LearningCurve, Measurement
from dimladder_validation import compare
from dimladder_validation.simulate import experiment
from run_files import TANH_UNIT

PROBLEM = dl.loads(TANH_UNIT)
TIMES = np.array([0.0, 1.0, 2.0, 3.0])
Q = 1.0 + 0.5 * TIMES
SIZES = [100, 200, 400]


def curve(values: np.ndarray = Q, times: np.ndarray = TIMES, **more: Any) -> LearningCurve:
    variables = {"q": (("time",), values, "", "", None), **more}
    return LearningCurve.build(PROBLEM, {"time": times}, variables)


def measurement(
    gap: float = 0.0, se: float = 0.01, times: np.ndarray = TIMES, sizes: list[int] = SIZES, seed: int = 0, **more: Any
) -> Measurement:
    rng = np.random.default_rng(seed)
    base = np.broadcast_to(1.0 + 0.5 * times, (len(sizes), len(times)))
    mean = base + gap + se * rng.standard_normal(base.shape)
    errors = np.full(base.shape, se)
    mean[:, times == 0], errors[:, times == 0] = 1.0, 0.0
    variables = {"q": (("d", "time"), mean, "", "", None), "q_se": (("d", "time"), errors, "", "", None), **more}
    return Measurement.build(PROBLEM, {"d": sizes, "time": times}, variables, stats={"size": "d", "replicas": 20})


def test_agreement_and_json() -> None:
    comparison = compare(curve(), measurement())
    assert comparison.verdict == "agree"
    assert comparison.residuals["q"].dims == ("d", "time")
    assert (comparison.residuals["q"].values[:, 0] == 0).all()
    answer = json.loads(comparison.to_json())
    assert answer["verdict"] == "agree"
    assert answer["finite_size"]["exponent"] is None
    assert answer["by_variable"]["q"]["exponent"] is None
    # The start has no scatter and is the same number on both sides: no evidence.
    assert answer["n_comparisons"] == 3
    assert answer["by_variable"]["q"]["entries"] == 3
    assert 0.01 < answer["p_value"] <= 1.0
    assert 0.0 < answer["visible_deviation"] < 0.1
    assert answer["different_problems"] == []


def test_sizes_in_any_order() -> None:
    up, down = measurement(), measurement(sizes=SIZES)
    shuffled = Measurement(down.dataset.isel(d=[2, 0, 1]))
    assert compare(curve(), up).max_z == compare(curve(), shuffled).max_z


def test_finer_theory_grid_is_read_at_the_measured_points() -> None:
    fine = np.linspace(0, 3, 31)
    comparison = compare(curve(1.0 + 0.5 * fine, fine), measurement())
    assert comparison.verdict == "agree"
    assert comparison.residuals["q"].sizes["time"] == 4


def test_measured_points_the_theory_lacks_are_an_error() -> None:
    with pytest.raises(UsageError, match="no time = 3"):
        compare(curve(Q[:3], TIMES[:3]), measurement())


def test_other_axes_are_an_error() -> None:
    with pytest.raises(UsageError, match="other axes"):
        compare(curve(q=(("unit",), Q, "", "", None)), measurement())


def test_imposed_value_off_is_a_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declared by the experiment, never inferred: replicas that happen to be equal have an unknown scatter."""
    wrong = Q.copy()
    wrong[0] += 1e-3
    comparison = compare(curve(wrong), measurement())
    assert comparison.verdict == "inconclusive"
    assert any("scatter is unknown" in reason for reason in comparison.reasons)
    found = experiment("one-pass")
    monkeypatch.setattr(type(found), "imposed", lambda self, problem: {"q": {"time": 0.0}})
    comparison = compare(curve(wrong), measurement())
    assert comparison.verdict == "disagree"
    assert "time = 0" in comparison.reasons[0]
    monkeypatch.setattr(type(found), "imposed", lambda self, problem: {"q": {}})
    everywhere = compare(curve(), measurement(se=0.0))
    assert everywhere.verdict == "inconclusive"
    assert any("nothing was measured" in reason for reason in everywhere.reasons)


def test_single_precision_is_not_held_to_the_rounding_of_double() -> None:
    single = Q.copy()
    single[0] += 1e-6
    measured = measurement()
    assert compare(curve(single), measured).verdict != "agree"
    measured.dataset.attrs["stats"] = json.dumps({**measured.stats, "dtype": "float32"})
    assert compare(curve(single), measured).verdict == "agree"


def test_value_missing_on_one_side_is_inconclusive_and_on_both_is_not() -> None:
    holed = Q.copy()
    holed[2] = np.nan
    comparison = compare(curve(holed), measurement())
    assert comparison.verdict == "inconclusive"
    assert any("one side only" in r for r in comparison.reasons)
    both = measurement()
    both.dataset["q"][:, 2] = np.nan
    assert compare(curve(holed), both).verdict == "agree"


def test_standard_error_of_the_theory_counts() -> None:
    off = Q + np.array([0.0, 0.1, 0.1, 0.1])
    assert compare(curve(off), measurement()).verdict == "disagree"
    blurred = curve(off, q_se=(("time",), np.array([0.0, 0.05, 0.05, 0.05]), "", "", None))
    assert compare(blurred, measurement()).verdict != "disagree"


def test_one_replica_decides_nothing() -> None:
    single = measurement()
    single.dataset["q_se"][:] = np.nan
    comparison = compare(curve(), single)
    assert comparison.verdict == "inconclusive"


def test_variables_on_one_side_are_named() -> None:
    extra = {"z": (("time",), Q, "", "", None)}
    comparison = compare(curve(**extra), measurement())
    assert any("not compared: z (theory only)" in r for r in comparison.reasons)
    with pytest.raises(UsageError, match="not both measured"):
        compare(curve(**extra), measurement(), variables=["z"])


def test_curve_and_measurement_of_different_problems_are_said_to_be() -> None:
    other = Measurement(measurement().dataset)
    other.dataset.attrs["problem"] = dl.replace(PROBLEM, {"algorithm.learning_rate": 0.123, "title": "x"}).to_toml()
    comparison = compare(curve(), other)
    (said,) = comparison.differences
    assert said.startswith("algorithm.learning_rate: ")
    assert "0.123 in simulation" in comparison.reasons[0]
    assert not compare(curve(), measurement()).differences


def test_usage_errors() -> None:
    with pytest.raises(UsageError, match="options of simulate"):
        compare(curve(), measurement(), replicas=4)
    with pytest.raises(UsageError, match="alpha"):
        compare(curve(), measurement(), alpha=0.0)
    other = measurement()
    other.dataset.attrs["theory"] = "mup"
    with pytest.raises(UsageError, match="belongs to 'mup'"):
        compare(curve(), other)


@pytest.mark.parametrize("gap", [0.2, -0.2])
def test_a_constant_gap_is_a_disagreement(gap: float) -> None:
    comparison = compare(curve(), measurement(gap))
    assert comparison.verdict == "disagree"
    assert comparison.finite_size["variable"] == "q"
    assert abs(comparison.finite_size["exponent"]) < 4 * comparison.finite_size["exponent_se"]


def test_curve_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A theory that keeps a finite size is solved at each size; a curve that belongs to none of them is not ignored."""
    found = experiment("one-pass")
    monkeypatch.setattr(
        type(found), "at_size", lambda self, problem, size: dl.replace(problem, {"algorithm.learning_rate": 1.0 / size})
    )
    with pytest.raises(UsageError, match="none of the measured sizes"):
        compare(curve(), measurement())
