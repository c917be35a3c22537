"""The verbs that speak of numerical accuracy: ``check``, and ``solve`` with its integrator chosen and explained."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import dimladder as dl
import dimladder.accuracy
from dimladder.accuracy import check
from dimladder.cli import main
from dimladder.results import LearningCurve
from dimladder.symbolic.systems import Flow
from run_files import arguments

RUN = arguments("online-erf")


def test_solve_says_which_method_it_took_and_why(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["solve", *RUN, "--method", "auto", "--rtol", "1e-3", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["parameters"]["solver"]["method"] == "auto"
    assert answer["parameters"]["solver"]["rtol"] == 1e-3
    (record,) = [r for r in caplog.records if r.name == "dimladder.solve"]
    assert "starts with" in record.getMessage()
    assert main(["solve", *RUN, "--method", "euler"]) == 2
    assert "known: auto, bdf" in capsys.readouterr().err


def test_check_reports_digits_that_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    """A loose tolerance costs digits, and it is named as the setting that matters."""
    assert main(["check", *RUN, "--json"]) == 0
    tight = json.loads(capsys.readouterr().out)
    assert main(["check", *RUN, "--set=solver.rtol=1e-3", "--set=solver.atol=1e-4", "--json"]) == 0
    loose = json.loads(capsys.readouterr().out)
    for variable in ("Q", "M", "a", "generalization_error"):
        assert tight["digits"][variable] > 9.5
        assert 3.0 < loose["digits"][variable] < tight["digits"][variable] - 2


def test_check_sees_what_a_sum_of_erfs_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Three erfs for tanh: no tolerance of the integrator shows that; the other route does."""
    tanh = [*RUN, "--set=student.activation=tanh", "--set=target.activation=tanh", "--set=grid.time=[0.0, 2.0]"]
    assert main(["check", *tanh, "--set=solver.quadrature_rtol=1e-3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert max(report["knobs"], key=lambda k: report["knobs"][k]) in ("averages", "quadrature_rtol")
    assert 3.0 < report["digits"]["Q"] < 6.5


PULSE = """
schema = 2
target = { kind = "committee", activation = "erf", readout = [1.0] }
student = { kind = "two-layer", width = 1, activation = "erf" }
algorithm = { kind = "one-pass", learning_rate = 1.0, schedule = "step(t - 50) - step(t - 50.5)" }
initial = { Q = [[0.5]], M = [[0.1]] }
grid = { time = [0.0, 25.0, 50.0, 75.0, 100.0] }
"""


def test_check_does_not_step_over_a_pulse() -> None:
    """The overlap after one pulse of length 0.5, from times so dense that no integrator misses it."""
    problem = dl.loads(PULSE)
    report = check(problem)
    reached = float(dl.solve(problem)["M"][-1, 0, 0])
    missed = abs(reached - 0.25396)
    assert report.absolute["M"] >= missed - 1e-5
    assert report.digits["M"] <= max(1.0, -math.log10(max(missed, 1e-5) / 0.25396)) or missed < 1e-5


def test_check_and_solve_say_what_the_quadrature_could_not_reach(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stored error bounds the digits of every variable, however little boosting changes."""
    problem = dl.loads(PULSE, {"algorithm.schedule": "1"})
    plain = check(problem)
    assert min(plain.digits.values()) > 8.0
    solved = Flow.solve

    def rough(self: Flow, *args: Any, **keys: Any) -> Any:
        solution = solved(self, *args, **keys)
        solution.stats["quadrature_error"] = 4e-5
        return solution

    monkeypatch.setattr(Flow, "solve", rough)
    report = check(problem)
    assert report.stored == {"quadrature_error": 4e-5}
    assert max(report.digits.values()) <= -math.log10(4e-5)
    assert "it limits the digits" in report.text()
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "quadrature_error = 4e-05 exceeds solver.quadrature_rtol = 1e-07" in warning


def test_digits_of_small_entries_are_their_own() -> None:
    """What decays to a millionth of its start has six digits less than the start, and the report says where."""
    times = np.linspace(0.0, 1.0, 3)
    curve = LearningCurve.build(
        dl.loads(PULSE), {"time": times}, {"q": (("time",), np.array([1.0, 1e-3, 1e-6]), "", "", None)}
    )
    report = dimladder.accuracy._report(curve, {"q": np.full(3, 1e-9)}, {}, {}, {})
    assert abs(report.digits["q"] - 9.0) < 1e-9
    assert abs(report.entry_digits["q"] - 3.0) < 1e-9
    assert report.worst["q"] == "time = 1.0"
