"""The verbs simulate, compare and validate as a user meets them: stdout, exit status, run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dimladder.cli import main

RUN = """
schema = 2
[target]
kind = "committee"
activation = "erf"
readout = [1.0]
noise = 0.2
[student]
kind = "two-layer"
width = 2
activation = "erf"
[algorithm]
kind = "one-pass"
learning_rate = 0.8
[initial]
Q = [[0.6, 0.1], [0.1, 0.5]]
M = [[0.3], [0.1]]
[grid]
time = [0.0, 1.0, 2.0]
[simulation]
sizes = [60, 120, 240]
replicas = 20
"""


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return str(path)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


def test_simulate_json_contract(run_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "simulate", run_file, "--d", "50,100", "--replicas", "4", "--seed", "3", "--json")
    assert status == 0
    assert err == ""
    answer = json.loads(out)
    assert answer["schema"] == 1
    assert answer["coords"]["d"] == [50, 100]
    q, se = answer["variables"]["Q"], answer["variables"]["Q_se"]
    assert q["dims"] == se["dims"] == ["d", "time", "student", "student"]
    assert se["values"][0][0] == [[0.0, 0.0], [0.0, 0.0]]
    assert answer["provenance"]["simulation"]["seed"] == 3


def test_simulate_text(run_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "simulate", run_file, "--d", "50", "--replicas", "2")
    assert status == 0
    assert "generalization_error" in out


def test_compare_agrees_and_keeps_everything(run_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    status, out, _ = call(capsys, "compare", run_file, "-o", str(folder), "--json")
    answer = json.loads(out)
    assert (status, answer["verdict"]) == (0, "agree"), answer["reasons"]
    assert {"max_z", "finite_size", "reasons", "n_comparisons", "threshold", "variables"} <= set(answer)
    assert set(answer["finite_size"]) >= {"exponent", "exponent_se"}
    names = {p.name for p in folder.iterdir()}
    assert names == {"batches", "comparison.json", "input.toml", "report.md", "resolved.toml", "result.nc", "theory.nc"}
    # Again from the stored measurement: nothing is simulated, the answer is the same; and a wrong theory is caught.
    status, out, _ = call(capsys, "compare", run_file, "--measurement", str(folder), "--json")
    assert (status, json.loads(out)["max_z"]) == (0, answer["max_z"])
    wrong = ("--set", "algorithm.learning_rate=1.0")
    status, out, _ = call(capsys, "compare", run_file, *wrong, "--measurement", str(folder))
    assert status == 1
    assert "DISAGREE" in out


def test_compare_inconclusive_exit(run_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "compare", run_file, "--d", "20", "--replicas", "2")
    assert status == 3
    assert "INCONCLUSIVE" in out


def test_resume_extends_a_folder(run_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "out")
    call(capsys, "simulate", run_file, "--d", "50", "--replicas", "3", "-o", folder)
    status, _, err = call(capsys, "simulate", run_file, "--d", "50", "--replicas", "5", "-o", folder)
    assert status == 2
    assert "--resume" in err
    status, out, _ = call(
        capsys, "simulate", run_file, "--d", "50,60", "--replicas", "5", "-o", folder, "--resume", "--json"
    )
    whole = call(capsys, "simulate", run_file, "--d", "50,60", "--replicas", "5", "--json")[1]
    assert status == 0
    assert json.loads(out)["variables"] == json.loads(whole)["variables"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--d", "ten"], "cannot read the sizes"),
        (["--resume"], "need a run folder"),
        (["--device", "abacus"], "unknown device"),
        (["--d", "2"], "too small"),
        (["--set", "simulation.methud=weights"], "method"),
    ],
)
def test_bad_usage(run_file: str, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "simulate", run_file, *arguments)
    assert status in (1, 2)
    assert out == ""
    assert text in err


CAMPAIGN = """
title = "small"
[[case]]
name = "right"
run = "run.toml"
[[case]]
name = "wrong"
run = "run.toml"
expect = "disagree"
theory_set = { "algorithm.learning_rate" = 1.0 }
"""


def campaign(tmp_path: Path, text: str = CAMPAIGN) -> str:
    path = tmp_path / "campaign.toml"
    path.write_text(text)
    return str(path)


def test_validate(run_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = campaign(tmp_path), str(tmp_path / "results")
    status, out, _ = call(capsys, "validate", file, "-o", folder)
    assert status == 0, out
    assert "2 of 2 cases as expected" in out
    stored = (Path(folder) / "right" / "outcome.json").stat().st_mtime_ns
    status, out, _ = call(capsys, "validate", file, "-o", folder, "--resume", "--json")
    answer = json.loads(out)
    assert (status, [c["verdict"] for c in answer["cases"]]) == (0, ["agree", "disagree"])
    assert (Path(folder) / "right" / "outcome.json").stat().st_mtime_ns == stored


def test_validate_reports_what_was_not_expected(
    run_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = '[[case]]\nname = "broken"\nrun = "run.toml"\nsizes = [2]\n'
    file = campaign(tmp_path, CAMPAIGN.replace('expect = "disagree"', 'expect = "agree"') + broken)
    status, out, _ = call(capsys, "validate", file)
    assert status == 1
    assert "1 of 3 cases as expected" in out
    assert "too small" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[case]]\nname = "a"\n', "either run"),
        ('[[case]]\nname = "a"\nrun = "x"\nexpected = "agree"\n', "expect"),
        ("title = 'x'\ncase = []\n", "at least one"),
        ('[[case]]\nname = "a"\nrun = "x"\n[[case]]\nname = "a"\nrun = "x"\n', "repeated"),
    ],
)
def test_bad_campaigns(tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "validate", campaign(tmp_path, text))
    assert status == 2
    assert message in err


def test_packaged_campaigns_are_readable(capsys: pytest.CaptureFixture[str]) -> None:
    from dimladder_validation.campaign import load_campaign, problem_of

    status, out, _ = call(capsys, "validate", "--list")
    assert status == 0
    for name in out.split():
        loaded, folder = load_campaign(name)
        for case in loaded.case:
            theories: Any = {problem_of(case, folder, extra).theory for extra in ({}, case.theory_set)}
            assert len(theories) == 1


def test_impossible_levels_are_refused_before_anything_is_simulated(
    run_file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dimladder_validation.cli._simulate", lambda *_: pytest.fail("simulated"))
    status, _, err = call(capsys, "compare", run_file, "--alpha", "2")
    assert status == 2
    assert "alpha must lie in (0, 1)" in err
