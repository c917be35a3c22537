"""The verbs that speak of numerical accuracy: ``check``, and ``solve`` with its integrator chosen and explained."""

from __future__ import annotations

import json

import pytest

from dimladder.cli import main
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
