"""A start after installation: the run files that come with the package, and a new one for any theory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dimladder as dl
from dimladder import theories
from dimladder.cli import main
from dimladder.cli.examples import run_files
from dimladder.cli.skeleton import compose
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


@pytest.mark.parametrize("name", sorted(theories.names()))
def test_a_run_file_is_composed_from_what_a_theory_reads(name: str) -> None:
    text = compose(theories.find(name), name, run_files())
    assert dl.loads(text).theory == name
    # Every key that is read is there, if only as a comment.
    reads = theories.find(name).read_table()
    sections = dict(part.split("]\n", 1) for part in text.split("\n[")[1:])
    for section, body in sections.items():
        kind = next((k for k in reads.get(section, {}) if k and f'kind = "{k.partition("/")[0]}"' in body), "")
        for key in reads.get(section, {}).get(kind, "").replace("*", "").split():
            assert f"{key} = " in body


def test_a_run_file_for_a_theory_in_a_local_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (RUNS.parents[1] / "how-to" / "add-a-theory.md").read_text()
    monkeypatch.chdir(tmp_path)
    Path("linear_sgd.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    Path("runs").mkdir()
    assert main(["new", "./linear_sgd.py", "-o", "runs/first.toml"]) == 0
    assert 'theory = "../linear_sgd.py"' in Path("runs/first.toml").read_text()
    assert dl.load("runs/first.toml").theory == "linear-sgd"
    capsys.readouterr()
    assert main(["new", "./missing.py"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_what_no_run_file_can_be_composed_for_is_told() -> None:
    class Never(type(theories.find("truncation-flow"))):  # type: ignore[misc]
        name = "never"

        def checks(self, problem: Any) -> Any:
            yield dl.theories.Refusal("algorithm.kind", "nothing is good enough")

    with pytest.raises(dl.DimladderError, match="nothing is good enough"):
        compose(Never(), "never", run_files())
