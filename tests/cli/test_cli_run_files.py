"""Every run file through the command line: derived, solved, simulated small, with the JSON contract checked."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dimladder import theories
from dimladder.cli import main

RUNS = Path(__file__).resolve().parents[2] / "docs" / "gallery" / "runs"
# Statistical theories at fewer samples: here the contract is tested, not the accuracy.
SMALL = {
    "mup-tanh": ["solver.samples=256", "solver.scrambles=2", "algorithm.steps=4"],
    "mup-linear": ["algorithm.steps=6"],
    "giant-step-mixture": ["limit.n=60", "limit.draws=2", "grid.sample_ratio=[0.5, 2.0]"],
    "online-multi-index": ["student.width=3", "grid.time=[0.1, 1.0, 5.0]"],
    "online-erf": ["grid.time=[0.0, 0.5, 2.0]"],
    "hierarchical-flow": ["grid.time=[0.0, 1.0, 2.0]"],
    "hierarchical-layerwise": ["grid.first_ratio=[1.0, 2.0]", "grid.second_ratio=[1.0]"],
    "hierarchical-plateaus": ["grid.kappa=[1.0, 1.5]"],
    "staircase": ["student.particles=20", "grid.time=[0.0, 1.0]", "simulation.width=20", "simulation.batch=50"],
    "mixture-erm": ["grid.sample_ratio=[0.5, 2.0]"],
    "random-features": ["grid.sample_ratio=[0.5, 2.0]"],
    "data-repetition": ["grid.time=[0.0, 1.0]"],
    "batch-reuse": ["grid.time=[0.0, 1.0]"],
    "graph-convolution": ["grid.train_fraction=[0.3, 0.6]"],
    "triple-descent": ["grid.width_ratio=[0.3, 2.0]"],
    "truncation-flow": ["grid.time=[0.0, 1.0, 2.0]"],
}
SIZE = {"hierarchical-plateaus": 16, "graph-convolution": 200, "triple-descent": 60}


def _theory(path: Path) -> str:
    found = re.search(r'^theory = "([^"]+)"', path.read_text(), re.MULTILINE)
    assert found is not None, path
    return found.group(1)


FILES = [p for p in sorted(RUNS.glob("*.toml")) if _theory(p) in theories.names()]


def _arguments(path: Path) -> list[str]:
    return [str(path), *(f"--set={text}" for text in SMALL.get(path.stem, []))]


def _shape(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list):
        return ()
    assert len({_shape(v) for v in values}) <= 1, "ragged"
    return (len(values), *(_shape(values[0]) if values else ()))


def check_contract(text: str, theory: str) -> dict[str, Any]:
    """Check the JSON that solve, simulate and sweep print."""
    assert text.count("\n") == 1, "one object on one line"

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    answer = json.loads(text, parse_constant=refuse)
    assert {"schema", "theory", "status", "coords", "variables", "parameters", "provenance"} <= set(answer)
    assert answer["schema"] == 1
    assert answer["theory"] == theory
    assert answer["status"] == "success"
    assert answer["parameters"]["theory"] == theory
    assert answer["variables"]
    for name, variable in answer["variables"].items():
        assert set(variable) == {"dims", "values", "units", "latex"}, name
        assert variable["units"] is None or isinstance(variable["units"], str)
        shape = _shape(variable["values"])
        assert len(shape) == len(variable["dims"]), name
        for dim, length in zip(variable["dims"], shape, strict=True):
            assert len(answer["coords"][dim]) == length, (name, dim)
        if name.endswith("_se"):
            assert answer["variables"][name[:-3]]["dims"] == variable["dims"]
            assert all(v is None or v >= 0 for v in _flat(variable["values"])), name
    numbers = [v for variable in answer["variables"].values() for v in _flat(variable["values"])]
    assert any(isinstance(v, int | float) and math.isfinite(v) for v in numbers)
    return answer


def _flat(values: Any) -> list[Any]:
    return [v for part in values for v in _flat(part)] if isinstance(values, list) else [values]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_derive_prints_every_format(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # One call, every format: a derivation may take seconds.
    assert main(["derive", *_arguments(path), "--format", "text,latex,sympy,python", "--explain"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("1. ")
    printed = out[out.index(r"\begin{align") : out.rindex(r"\end{align")]
    assert printed.count(r"\begin{") == printed.count(r"\end{") + 1
    assert printed.count("{") - printed.count(r"\{") == printed.count("}") - printed.count(r"\}")
    assert "def " in out or "class " in out, "the source of what is computed"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_solve_keeps_the_contract(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", *_arguments(path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    answer = check_contract(out, _theory(path))
    # Variables promised in the head of the run file are there, with their axes.
    for name, dims in _promised(path).items():
        assert name in answer["variables"], name
        assert [d.rstrip("'") for d in answer["variables"][name]["dims"]] == [d.rstrip("'") for d in dims], name


def _promised(path: Path) -> dict[str, list[str]]:
    head = "\n".join(line[1:] for line in path.read_text().splitlines() if line.startswith("#"))
    _, _, listed = head.partition("Variables:")
    # Until the first sentence that is no list; names such as `Q(time, student, student)`.
    found = re.findall(r"\b([A-Za-z_]\w*)\(([a-z_, ']*)\)", listed)
    return {name: [d.strip() for d in dims.split(",") if d.strip()] for name, dims in found if name != "Var"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_simulate_keeps_the_contract(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import entry_points

    if not entry_points(group="dimladder.experiments", name=_theory(path)):
        pytest.skip("no experiment for this theory")
    if "simulation" not in tomllib.loads(path.read_text()):
        pytest.skip("the run file has no [simulation]")
    size = SIZE.get(path.stem, 36)
    arguments = [*_arguments(path), "--d", str(size), "--replicas", "2", "--json", "-q"]
    assert main(["simulate", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    answer = check_contract(out, _theory(path))
    measured = [n for n in answer["variables"] if not n.endswith("_se")]
    assert measured
    assert all(f"{n}_se" in answer["variables"] for n in measured)
    assert any(coordinate == [size] for coordinate in answer["coords"].values())
    # Measured under the theory's names.
    assert main(["solve", *_arguments(path), "--json"]) == 0
    theory = json.loads(capsys.readouterr().out)
    assert set(measured) & set(theory["variables"])


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
    ("arguments", "status", "said"),
    [
        (["slove"], 2, "solve"),
        (["solve", "nowhere.toml"], 2, "nowhere.toml"),
        (["export", "nowhere", "--to", "x"], 2, "no result"),
        (["cite", "nowhere.toml"], 2, "nowhere.toml"),
        (["sweep", str(RUNS / "truncation-flow.toml"), "--grid", "data.target"], 2, "lo:hi:n"),
        (["sweep", str(RUNS / "truncation-flow.toml"), "--grid", "data.tarjet=1,2"], 2, "tarjet"),
        (["solve", str(RUNS / "truncation-flow.toml"), "--set", "data.tarjet=2"], 2, "target"),
    ],
)
def test_mistakes_are_explained(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in err
