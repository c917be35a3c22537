"""Every run file through the command line: derived, solved, simulated small, with the JSON contract checked."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder import theories
from dimladder.cli import main
from dimladder_validation import replicate
from dimladder_validation.simulate import experiment
from run_files import FILES, RUNS, SIMULATED, SMALL, THEORY_OF, arguments, check_contract, path_of, promised, size_of


@pytest.mark.parametrize("name", FILES)
def test_derive_prints_every_format(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    # One call, every format: a derivation may take seconds.
    assert main(["derive", *arguments(name), "--format", "text,latex,sympy,python", "--explain"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("1. ")
    printed = out[out.index(r"{\allowdisplaybreaks") : out.rindex("}}\n") + 2]
    assert printed.count(r"\begin{") == printed.count(r"\end{")
    assert printed.count("{") - printed.count(r"\{") == printed.count("}") - printed.count(r"\}")
    assert "def " in out or "class " in out, "the source of what is computed"


@pytest.mark.parametrize("name", FILES)
def test_solve_keeps_the_contract(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", *arguments(name), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    answer = check_contract(out, THEORY_OF[name])
    # Variables promised in the head of the run file are there, with their axes.
    for variable, dims in promised(name).items():
        assert variable in answer["variables"]
        assert [d.rstrip("'") for d in answer["variables"][variable]["dims"]] == [d.rstrip("'") for d in dims], variable


@pytest.mark.parametrize("name", SIMULATED)
def test_simulate_keeps_the_contract(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    size, out_folder = size_of(name), ["-o", str(tmp_path)]
    assert main(["simulate", *arguments(name), "--d", str(size), "--replicas", "2", "--json", "-q", *out_folder]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    answer = check_contract(out, THEORY_OF[name])
    measured = [n for n in answer["variables"] if not n.endswith("_se")]
    assert measured
    assert all(f"{n}_se" in answer["variables"] for n in measured)
    assert any(coordinate == [size] for coordinate in answer["coords"].values())
    # Measured under the theory's names.
    assert main(["solve", *arguments(name), "--json"]) == 0
    theory = json.loads(capsys.readouterr().out)
    assert set(measured) & set(theory["variables"])
    if experiment(THEORY_OF[name]).batch_size > 1:
        # A replica is the same to the last bit whoever is in its batch: executors cut batches into smaller ones.
        alone = replicate(dl.load(path_of(name), SMALL.get(name, {})), size, 1)
        with np.load(tmp_path / "batches" / f"{size}-0-2.npz") as two:
            for variable, (_, values, _) in alone.variables.items():
                np.testing.assert_array_equal(two[f"v:{variable}"][:1], values[0], err_msg=variable)


@pytest.mark.parametrize("name", sorted(set(THEORY_OF.values()) & set(theories.names())))
def test_the_card_lists_every_key_in_words(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 0
    card = capsys.readouterr().out
    for word in ("tuple", "Literal", "Union", "None", "Range", "(default <", "True", "False", "dimladder."):
        assert word not in card.split("Sections of a run file")[1]
    # Every key that a run file of the gallery sets is on the card; those of an axis are inside its braces.
    for run in (r for r, theory in THEORY_OF.items() if theory == name):
        for key in _keys(tomllib.loads(path_of(run).read_text())) - {"start", "stop", "points", "spacing"}:
            assert re.search(rf"^    {key}:|\.{key}\]", card, re.MULTILINE), key


# Tables whose keys are names that the user chooses.
CHOSEN = {"update", "vectors", "constants"}


def _keys(document: dict[str, Any], depth: int = 0) -> set[str]:
    own = {k for k in document if depth and k != "kind" and not k.isdigit()}
    tables = (v for k, v in document.items() if isinstance(v, dict) and k not in CHOSEN)
    return own.union(*(_keys(v, depth + 1) for v in tables), set())


def test_solve_export_and_cite_from_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(RUNS / "truncation-flow.toml")
    assert main(["solve", run, "-o", str(tmp_path / "run")]) == 0
    assert {"input.toml", "resolved.toml", "result.nc", "equations.tex", "log.txt"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }
    capsys.readouterr()
    formats = "pdf,png,svg,pgf,csv,tex,macros,bib,equations"
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "paper"), "--format", formats]) == 0
    written = capsys.readouterr().out.split()
    assert all(Path(p).stat().st_size > 0 for p in written)
    assert {Path(p).name for p in written} >= {
        "figure.pdf",
        "figure_pgf.tex",
        "table.tex",
        "macros.tex",
        "references.bib",
    }
    assert main(["cite", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "@article{chen2025derivation" in out
    assert main(["cite", run, "--json"]) == 0
    assert "chen2025derivation" in json.loads(capsys.readouterr().out)["keys"]


def test_sweep_prints_a_row_for_each_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(RUNS / "truncation-flow.toml")
    grid = ["--grid", "data.std=0.25,-1.0", "--grid", "data.target=1.5:1.9:2"]
    assert main(["sweep", run, *grid, "-q", "-o", str(tmp_path / "d")]) == 1
    out, err = capsys.readouterr()
    lines = out.strip().splitlines()
    assert len(lines) == 5
    assert [line.split()[2] for line in lines[1:]] == ["success", "success", "invalid", "invalid"]
    assert "2 of 4 points failed" in err
    assert main(["sweep", run, "--grid", "data.target=1.5,1.9", "--json", "-q"]) == 0
    answer = check_contract(capsys.readouterr().out, "truncation-flow")
    assert answer["coords"]["data.target"] == [1.5, 1.9]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["slove"], 2, "solve"),
        (["solve", "nowhere.toml"], 2, "nowhere.toml"),
        (["export", "nowhere", "--to", "x"], 2, "no result"),
        (["cite", "nowhere.toml"], 2, "nowhere.toml"),
        (["sweep", str(RUNS / "truncation-flow.toml"), "--grid", "data.target"], 2, "lo:hi:n"),
        (["sweep", str(RUNS / "truncation-flow.toml"), "--grid", "data.target=0.1:1"], 2, "--grid"),
        (["simulate", str(RUNS / "online-reuse.toml"), "--d", "1"], 2, "d >= 2"),
        (["simulate", str(RUNS / "online-erf.toml"), "--d", "3"], 2, "d >= 5"),
        (["simulate", str(RUNS / "online-erf.toml"), "--replicas", "0"], 2, "at least 1"),
        (["simulate", str(RUNS / "online-erf.toml"), "--device", "abacus"], 2, "unknown device"),
        (["sweep", str(RUNS / "truncation-flow.toml"), "--grid", "data.tarjet=1,2"], 2, "tarjet"),
        (["solve", str(RUNS / "truncation-flow.toml"), "--set", "data.tarjet=2"], 2, "target"),
    ],
)
def test_mistakes_are_explained(words: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in err
