"""``escape``, ``thresholds``, ``report`` and a run file from standard input."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import pytest

import dimladder as dl
from dimladder.cli import main
from dimladder.problem import config

RUNS = Path(__file__).parents[2] / "docs/gallery/runs"
ERF = str(RUNS / "online-erf.toml")


def test_escape_times_over_a_grid(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--variable", "generalization_error", "--level", "0.1", "--grid", "algorithm.learning_rate=0.2,0.4"]
    assert main(["escape", ERF, *options, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    for row in rows:
        problem = dl.replace(dl.load(ERF), {"algorithm.learning_rate": row["algorithm.learning_rate"]})
        expected = dl.escape_time(problem, "generalization_error", 0.1, 5000.0)
        assert row["escape_time"] == pytest.approx(expected, rel=1e-9)
        # The curve is there at that time, and not before.
        curve = dl.solve(dl.replace(problem, {"grid.time": [0.0, 0.9 * expected, expected]}))
        assert curve["generalization_error"].values[1] > 0.1
        assert curve["generalization_error"].values[2] == pytest.approx(0.1, abs=1e-6)
    assert rows[0]["escape_time"] > rows[1]["escape_time"]
    assert main(["escape", ERF, *options, "--format", "tex"]) == 0
    assert r"\toprule" in capsys.readouterr().out
    assert main(["escape", ERF, "--variable", "Q[0,0]", "--level", "99", "--t-max", "1"]) == 0
    assert capsys.readouterr().out.split()[-1] == "inf"
    assert main(["escape", ERF, "--variable", "Q[0", "--level", "1"]) == 2
    assert "NAME[i,j]" in capsys.readouterr().err


def test_thresholds_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    run = str(RUNS / "hierarchical-plateaus.toml")
    assert main(["thresholds", run]) == 0
    assert re.search(r"thresholds\s+1.5, 1.5", capsys.readouterr().out)
    assert main(["thresholds", run, "--format", "csv"]) == 0
    assert capsys.readouterr().out.startswith("quantity,value\n")
    assert main(["thresholds", ERF, "--grid", "algorithm.learning_rate=0.1,0.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["algorithm.learning_rate", "information", "exponent"]
    assert [line.split() for line in lines[1:]] == [["0.1", "1"], ["0.2", "1"]]


def test_a_run_file_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(Path(ERF).read_text()))
    config._standard_input.cache_clear()
    assert main(["solve", "-", "-o", str(tmp_path / "run"), "--json"]) == 0
    config._standard_input.cache_clear()
    assert json.loads(capsys.readouterr().out)["theory"] == "one-pass"
    assert (tmp_path / "run" / "input.toml").read_text() == Path(ERF).read_text()


def test_a_report_is_one_page_without_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    arguments = ["compare", ERF, "--d", "40,80", "--replicas", "4", "--set", "grid.time=[0.0, 1.0, 2.0]"]
    assert main([*arguments, "-o", str(folder)]) in (0, 1, 3)
    verdict = json.loads((folder / "comparison.json").read_text())["verdict"]
    page = tmp_path / "page.html"
    assert main(["report", str(folder), "-o", str(page), "--no-refine"]) == 0
    capsys.readouterr()
    text = page.read_text()
    assert verdict.upper() in text
    assert not re.search(r"(src|href)=\"(?!data:)", text), "nothing is fetched"
    assert text.count("<math") > 15
    (data,) = re.findall(r"const PANELS = (.*);\n", text)
    panels = json.loads(data)
    theory = next(s for s in panels[0]["series"] if s["kind"] == "theory")
    assert theory["y"] == pytest.approx(dl.open_result(folder / "theory.nc")["generalization_error"].values)
    assert any(s["kind"] == "simulation" and s["se"] for s in panels[0]["series"])
    files = re.findall(r'download="(\S+\.csv)" href="data:text/csv;base64,(\S+)"', text)
    assert any(base64.b64decode(content).decode().startswith("time,") for _, content in files)
