"""Campaigns outlive what goes wrong in a case, damaged outcomes, and being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dimladder_validation import campaign
from run_files import TANH_UNIT

CASES = """
title = "three"
[[case]]
name = "first"
run = "run.toml"
[[case]]
name = "second"
run = "run.toml"
seed = 2
[[case]]
name = "third"
run = "run.toml"
expect = "disagree"
theory_set = { "algorithm.learning_rate" = 1.0 }
"""
SIMULATION = "[simulation]\nsizes = [50, 100]\nreplicas = 12\nseed = 3\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(TANH_UNIT + SIMULATION)
    path = tmp_path / "campaign.toml"
    path.write_text(CASES)
    return path


@pytest.mark.parametrize("error", [ZeroDivisionError("1/0"), MemoryError(), RuntimeError("a bug")])
def test_whatever_a_case_raises_the_others_run(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run_case = campaign.run_case

    def sometimes(case: Any, *rest: Any) -> Any:
        if case.name == "second":
            raise error
        return run_case(case, *rest)

    monkeypatch.setattr(campaign, "run_case", sometimes)
    outcomes = campaign.validate(file, tmp_path / "out")
    assert [o.verdict == "error" for o in outcomes] == [False, True, False]
    assert outcomes[1].reasons[0].startswith(type(error).__name__)
    assert not (tmp_path / "out" / "second" / "outcome.json").exists()
    assert campaign.exit_status(outcomes) == 1


@pytest.mark.parametrize("formula", ["(1/0)*h", "0**-1*z", "2**10000*z", "nothing(z)"])
def test_a_case_that_is_no_problem_is_an_error_of_its_own(file: Path, formula: str) -> None:
    file.write_text(CASES.replace("seed = 2", f'set = {{ "target.formula" = "{formula}" }}'))
    outcomes = campaign.validate(file)
    assert [o.verdict == "error" for o in outcomes] == [False, True, False]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"key": 1, "outcome": 2}', None])
def test_a_damaged_outcome_is_made_again(file: Path, tmp_path: Path, damage: bytes | None) -> None:
    out = tmp_path / "out"
    before = campaign.validate(file, out)
    stored = out / "first" / "outcome.json"
    if damage is None:  # the right key, another content
        whole = json.loads(stored.read_text())
        stored.write_text(json.dumps({**whole, "outcome": {"name": "first", "verdict": "agree"}}))
    else:
        stored.write_bytes(damage)
    after = campaign.validate(file, out, resume=True)
    assert [(o.name, o.verdict, o.reasons) for o in after] == [(o.name, o.verdict, o.reasons) for o in before]
    assert json.loads(stored.read_text())["outcome"]["verdict"] == before[0].verdict


@pytest.mark.slow
def test_a_killed_campaign_goes_on_where_it_was(file: Path, tmp_path: Path) -> None:
    whole = campaign.validate(file, tmp_path / "whole")
    out = tmp_path / "out"
    program = f"from dimladder_validation.campaign import validate; validate({str(file)!r}, {str(out)!r})"
    process = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 300
    while not (out / "first" / "outcome.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = (out / "first" / "outcome.json").stat().st_mtime_ns
    rest = campaign.validate(file, out, resume=True)
    assert (out / "first" / "outcome.json").stat().st_mtime_ns == kept
    assert [(o.name, o.verdict, o.max_z) for o in rest] == [(o.name, o.verdict, o.max_z) for o in whole]
