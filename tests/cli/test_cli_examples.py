"""A start after installation: the run files that come with the package, and a new one for any theory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dimladder as dl
from dimladder import theories
from dimladder.cli import main
from run_files import RUNS


def test_the_run_files_of_the_gallery_come_with_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "--json"]) == 0
    titles = json.loads(capsys.readouterr().out)
    assert set(titles) == {path.stem for path in RUNS.glob("*.toml")}
    assert all(titles.values())
    name = sorted(titles)[0]
    assert main(["examples", name]) == 0
    assert capsys.readouterr().out == (RUNS / f"{name}.toml").read_text()
    assert main(["examples", "--to", str(tmp_path / "runs")]) == 0
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {p.name for p in RUNS.glob("*.toml")}


@pytest.mark.parametrize("words", [["examples", "onlin-erf"], ["new", "no-such-theory"]])
def test_unknown_names_are_explained(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("error: there is no")


def test_a_new_run_file_works_and_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "truncation-flow"]) == 0
    assert capsys.readouterr().out == "truncation-flow.toml\n"
    assert dl.load(tmp_path / "truncation-flow.toml").theory == "truncation-flow"
    before = Path("truncation-flow.toml").read_bytes()
    assert main(["new", "truncation-flow"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert Path("truncation-flow.toml").read_bytes() == before


def test_every_theory_has_a_run_file_to_begin_from() -> None:
    answered = {dl.load(path).theory for path in RUNS.glob("*.toml")}
    assert set(theories.names()) <= answered
