"""The code of the documentation runs and is right."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import dimladder as dl
from dimladder import theories
from dimladder.cli import BUILT_IN

RUN = """
theory = "linear-sgd"
[target]
noise = 0.3
[algorithm]
learning_rate = 0.7
[grid]
time = [0.0, 0.5, 1.0, 2.0, 4.0]
"""


def _blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def example(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Install the how-to's theory and experiment as a package of their own."""
    theory, experiment = _blocks(root / "docs" / "how-to" / "add-a-theory.md", "python")
    (tmp_path / "linear_sgd_theory.py").write_text(theory)
    (tmp_path / "linear_sgd_experiment.py").write_text(experiment)
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("linear-sgd", "linear_sgd_theory:THEORY", "dimladder.theories")
    known = dict(sys.modules["dimladder.theories.base"]._entries())
    monkeypatch.setattr("dimladder.theories.base._entries", lambda: {**known, entry.name: entry})
    return importlib.import_module("linear_sgd_experiment")


def test_the_added_theory_solves_its_equations(example: ModuleType) -> None:
    assert "linear-sgd" in theories.names()
    problem = dl.loads(RUN)
    curve = dl.solve(problem, rtol=1e-11, atol=1e-13)
    eta, sigma, t = 0.7, 0.3, curve["R"].coords["time"].values
    overlap = 1 - np.exp(-eta * t)
    np.testing.assert_allclose(curve["R"], overlap, rtol=0, atol=1e-9)
    # With e = 1 - 2R + Q the two equations give de/dt = -(2 eta - eta^2) e + eta^2 sigma^2.
    rate, rest = 2 * eta - eta**2, eta * sigma**2 / (2 - eta)
    excess = rest + (2.0 - rest) * np.exp(-rate * t)
    np.testing.assert_allclose(curve["generalization_error"], excess / 2, rtol=0, atol=1e-9)
    assert r"\eta" in dl.derive(problem).latex()
    assert "def rhs" in dl.derive(problem).python()
    with pytest.raises(dl.ConfigError, match="noise"):
        dl.replace(problem, {"target.noise": -1.0})


def test_the_added_experiment_agrees(example: ModuleType) -> None:
    from dimladder_validation.simulate import backend_for

    problem, replicas = dl.loads(RUN), 24
    curve = dl.solve(problem)
    streams = [np.random.default_rng([7, r]) for r in range(replicas)]
    sample = example.EXPERIMENT.run(problem, 200, streams, backend_for())
    for name, (_, values) in sample.variables.items():
        mean, se = values.mean(0), values.std(0, ddof=1) / np.sqrt(replicas)
        # 5 standard errors, and the O(1/d) correction of discrete steps.
        assert (np.abs(mean - curve[name].values) < 5 * se + 5 / 200).all(), name
    assert np.abs(sample.variables["Q"][1].mean(0)[-1] - 1.0) < 0.2


def _commands(root: Path) -> list[tuple[str, list[str]]]:
    found = []
    for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        for block in _blocks(path, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                for command in re.split(r"&&|;", line):
                    words = shlex.split(command, comments=True)
                    if words and words[0] == "dimladder":
                        found.append((path.name, words[1:]))
    return found


def test_commands_in_the_documentation_exist(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import entry_points

    from dimladder.cli import main

    commands = _commands(root)
    assert len(commands) > 10
    verbs = {*BUILT_IN, *(e.name for e in entry_points(group="dimladder.verbs"))}
    for where, words in commands:
        if words[0].startswith("-"):
            continue
        assert words[0] in verbs, (where, words)
        with pytest.raises(SystemExit) as stopped:
            main([words[0], "--help"])
        assert stopped.value.code == 0
        usage = capsys.readouterr().out
        for word in words[1:]:
            if word.startswith("-") and word != "-h":
                assert word.split("=")[0] in usage, (where, words)
            if word.startswith("docs/"):
                assert (root / word).exists(), (where, word)


def test_links_between_pages_lead_somewhere(root: Path) -> None:
    broken = []
    for path in [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]:
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)", text):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.name}: {target}")
        if path.parent in (root, root / "docs"):
            for target in re.findall(r"`(docs/[^`*]+|\.ci/run|[A-Z]+\.(?:md|cff))`", text):
                if not (root / target).exists():
                    broken.append(f"{path.name}: {target}")
    assert not broken


def test_every_public_name_is_in_the_reference(root: Path) -> None:
    import dimladder_validation

    page = (root / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"auto(?:function|class):: (\w+)", page))
    errors = {name for name in dl.__all__ if name.endswith("Error")} | {"errors", "__version__"}
    assert {*dl.__all__, *dimladder_validation.__all__} - errors <= listed


def test_every_gallery_script_has_its_picture(root: Path) -> None:
    gallery = root / "docs" / "gallery"
    listed = (gallery / "README.md").read_text(encoding="utf-8")
    for script in gallery.glob("plot_*.py"):
        name = script.stem.removeprefix("plot_")
        assert (gallery / "figures" / f"{name}.png").exists(), f"python docs/gallery/make_figures.py {name}"
        assert f"(figures/{name}.png)" in listed, f"docs/gallery/README.md does not show {name}"
        assert ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))), script.name
