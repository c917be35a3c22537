"""Campaigns outlive what goes wrong in a case, damaged outcomes, and being killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from dimladder_validation import campaign, campaign_report
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


def write(folder: Path) -> Path:
    (folder / "run.toml").write_text(TANH_UNIT + SIMULATION)
    path = folder / "campaign.toml"
    path.write_text(CASES)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[campaign.Outcome]]:
    """A campaign that was run: the folder of its file, with the results in ``out``."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, campaign.validate(write(folder), folder / "out")


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
    monkeypatch.setattr(campaign_report, "draw", lambda *_: None)
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
def test_a_damaged_outcome_is_made_again(
    finished: Any, tmp_path: Path, damage: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder, before), out = finished, tmp_path / "out"
    # Figures take nine tenths of a small case.
    monkeypatch.setattr(campaign_report, "draw", lambda *_: None)
    shutil.copytree(folder / "out", out)
    stored = out / "first" / "outcome.json"
    if damage is None:  # the right key, another content
        whole = json.loads(stored.read_text())
        stored.write_text(json.dumps({**whole, "outcome": {"name": "first", "verdict": "agree"}}))
    else:
        stored.write_bytes(damage)
    after = campaign.validate(folder / "campaign.toml", out, resume=True)
    assert [(o.name, o.verdict, o.reasons) for o in after] == [(o.name, o.verdict, o.reasons) for o in before]
    assert json.loads(stored.read_text())["outcome"]["verdict"] == before[0].verdict


def test_the_quick_campaign_covers_every_theory_and_catches_errors() -> None:
    quick, folder = campaign.load_campaign("quick")
    covered = {campaign.problem_of(case, folder).theory for case in quick.case if case.expect == "agree"}
    # Of this installation; a test may have registered theories of its own.
    installed = {entry.name for entry in entry_points(group="dimladder.theories")}
    assert covered == installed
    assert sum(case.expect == "disagree" for case in quick.case) >= 4


def test_the_report_has_figures_verdicts_and_provenance(finished: Any, file: Path, tmp_path: Path) -> None:
    """One page, one Markdown file and one document for LaTeX, also of a case that failed."""
    file.write_text(CASES + '[[case]]\nname = "no_problem"\nrun = "absent.toml"\n')
    out = tmp_path / "out"
    shutil.copytree(finished[0] / "out", out)
    outcomes = campaign.validate(file, out, resume=True)
    assert [o.verdict for o in outcomes][2:] == ["disagree", "error"]
    html, markdown, latex = ((out / f"report.{kind}").read_text() for kind in ("html", "md", "tex"))
    for case in ("first", "second", "third"):
        assert f"![{case}]({case}/figure.png)" in markdown
        assert f"{{{case}/figure.pdf}}" in latex
        assert (out / case / "figure.pdf").stat().st_size > 1000
        assert (out / case / "comparison.json").exists()
    assert "no_problem/figure" not in markdown
    for text in (html, markdown, latex):
        for said in ("DISAGREE", "ERROR", "family-wise p", "seed 2" if text is not html else "&#34;", "absent.toml"):
            assert said in text, said
    assert html.count('<figure class="panel">') == html.count('"id":') >= 3
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1998/Math", "")
    # Resumed, the report is made from what is stored.
    again = campaign.validate(file, out, resume=True)
    assert [o.verdict for o in again] == [o.verdict for o in outcomes]
    assert (out / "report.md").read_text() == markdown


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


def test_a_campaign_runs_on_the_device_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    module = sys.modules["dimladder_validation.simulate"]
    plain = module.simulate

    def seen(problem: Any, d: Any, replicas: Any, device: str, dtype: str, seed: Any, **options: Any) -> Any:
        asked.append((device, dtype))
        return plain(problem, d, replicas, "cpu", dtype, seed, **options)

    monkeypatch.setattr(module, "simulate", seen)
    file = write(tmp_path)
    file.write_text(CASES.replace("seed = 2", 'seed = 2\ndevice = "mps"'))
    campaign.validate(file)
    assert asked == [("cpu", "float64"), ("mps", "float64"), ("cpu", "float64")]
    asked.clear()
    campaign.validate(file, device="cuda", dtype="float32")
    assert asked == [("cuda", "float32")] * 3
