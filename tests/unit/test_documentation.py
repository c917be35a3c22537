"""The code of the documentation runs and is right."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder import registry
from dimladder.cli import BUILT_IN


def _blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    """Write the how-to's file and its run file into a bare folder."""
    page = root / "docs" / "how-to" / "add-a-theory.md"
    (code,) = _blocks(page, "python")
    (tmp_path / "linear_sgd.py").write_text(code)
    (tmp_path / "linear.toml").write_text(_blocks(page, "toml")[0])
    return tmp_path


def test_the_added_theory_solves_its_equations(folder: Path) -> None:
    problem = dl.load(folder / "linear.toml")
    assert problem.theory == "linear-sgd"
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
    with pytest.raises(dl.ConfigError, match="batch_size"):
        dl.replace(problem, {"algorithm.batch_size": 2})
    with pytest.raises(dl.ConfigError, match="linear"):
        dl.replace(problem, {"target.formula": "z**2"})
    assert "Krogh" in dl.cite(problem).bibtex
    assert "Krogh" in dl.cite(folder / "linear.toml").bibtex


def test_the_added_theory_works_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dimladder.cli import main

    run = str(folder / "linear.toml")
    for words in (["show", run], ["derive", run], ["solve", run, "--json"], ["cite", run]):
        assert main(words) == 0, words
        assert capsys.readouterr().out.strip()


def test_the_added_theory_is_swept_in_other_processes_and_exported_from_a_fresh_one(folder: Path) -> None:
    import subprocess
    import sys

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dimladder", *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    grid = ["--grid", "algorithm.learning_rate=0.1,0.5", "--executor", "local:2"]
    swept = run("sweep", "linear.toml", *grid, "-o", "diagram")
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert run("solve", "linear.toml", "-o", "out").returncode == 0
    # A result never executes code: the file is named again.
    refused = run("cite", "out")
    assert refused.returncode == 2
    assert "--theory" in refused.stderr
    assert "Krogh" in run("cite", "out", "--theory", "linear_sgd.py").stdout


def test_the_added_experiment_agrees(folder: Path) -> None:
    from dimladder_validation.simulate import simulate

    problem, replicas = dl.load(folder / "linear.toml"), 24
    curve = dl.solve(problem)
    measured = simulate(problem, d=[200], replicas=replicas, seed=7)
    for name in curve:
        mean, se = measured[name].values[0], measured[f"{name}_se"].values[0]
        # 5 standard errors, and the O(1/d) correction of discrete steps.
        assert (np.abs(mean - curve[name].values) < 5 * se + 5 / 200).all(), name
    assert np.abs(measured["Q"].values[0, -1] - 1.0) < 0.2


def test_a_theory_given_in_python_answers(folder: Path) -> None:
    theory = registry.load_file(folder / "linear_sgd.py").THEORY
    stated = dl.problem(
        theory,
        target={"kind": "index", "formula": "z", "noise": 0.3},
        student={"kind": "linear"},
        algorithm={"kind": "one-pass", "learning_rate": 0.7},
        grid={"time": np.array([0.0, 0.5, 1.0, 2.0, 4.0])},
        simulation={"sizes": range(100, 300, 100)},
    )
    assert stated == dl.load(folder / "linear.toml")
    curve = dl.solve(stated, theory=theory)
    np.testing.assert_array_equal(curve["R"].values, dl.solve(stated)["R"].values)


def _commands(root: Path) -> list[tuple[str, list[str]]]:
    found = []
    for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        for block in _blocks(path, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                for command in re.split(r"&&|;|\|", line):
                    words = shlex.split(command, comments=True)
                    if words and words[0] == "dimladder":
                        found.append((path.name, words[1:]))
    return found


def test_commands_in_the_documentation_exist(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dimladder.cli import main

    commands = _commands(root)
    assert len(commands) > 10
    verbs = {*BUILT_IN, *registry.names("verbs")}
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


def test_files_that_the_architecture_names_exist(root: Path) -> None:
    text = (root / "docs" / "reference" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./-]*\w\.py|[\w./-]*\w/)`", text))
    known = {
        f"/{path.relative_to(root).as_posix()}/"
        for top in ("theory", "validation", "docs", "tests")
        for path in (root / top).rglob("*")
    }
    assert len(named) > 100
    assert not [name for name in named if not any(path.endswith(f"/{name.rstrip('/')}/") for path in known)]


def test_every_public_name_is_in_the_reference(root: Path) -> None:
    import dimladder_validation

    page = (root / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^   (\w+)$", page, re.MULTILINE))
    errors = {name for name in dl.__all__ if name.endswith("Error")} | {"errors", "__version__"}
    assert {*dl.__all__, *dimladder_validation.__all__} - errors <= listed


def test_every_parameter_of_a_public_function_is_explained() -> None:
    import inspect

    import dimladder_validation

    silent = []
    for module in (dl, dimladder_validation):
        for name in module.__all__:
            public = {name: getattr(module, name)}
            if inspect.isclass(public[name]):
                members = {key: member for key, member in vars(public[name]).items() if not key.startswith("_")}
                public |= {f"{name}.{key}": getattr(public[name], key) for key, m in members.items() if callable(m)}
            for path, thing in public.items():
                text = inspect.getdoc(thing) or ""
                wanted = list(inspect.signature(thing).parameters) if inspect.isfunction(thing) else []
                said = text and all(re.search(rf"\b{word}\b", text) for word in wanted if word != "self")
                silent += [] if said or not callable(thing) else [path]
    assert not silent


def test_every_gallery_script_has_its_picture(root: Path) -> None:
    gallery = root / "docs" / "gallery"
    shown = set()
    for script in gallery.glob("plot_*.py"):
        name = script.stem.removeprefix("plot_")
        assert (gallery / "figures" / f"{name}.png").exists(), f"python docs/gallery/make_figures.py {name}"
        text = script.read_text(encoding="utf-8")
        title, rule, _, image, *_ = (ast.get_docstring(ast.parse(text)) or "").splitlines()
        assert len(title) == len(rule), f"{script.name}: a title, underlined"
        assert image == f".. image:: /gallery/figures/{name}.png", f"{script.name} does not show its picture"
        assert f"# sphinx_gallery_thumbnail_path = 'gallery/figures/{name}.png'\n" in text, script.name
        shown |= set(re.findall(r"/gallery/figures/(\w+)\.png", text))
    assert {path.stem for path in (gallery / "figures").glob("*.png")} == shown, "pictures without a script"


def test_every_theory_has_a_picture(root: Path) -> None:
    """Some script of the gallery reads a run file that the theory answers."""
    gallery = root / "docs" / "gallery"
    scripts = "".join(path.read_text(encoding="utf-8") for path in gallery.glob("plot_*.py"))
    named = set(re.findall(r'"([\w-]+\.toml)"', scripts))
    found = {path.name: path for path in [*gallery.glob("*.toml"), *(gallery / "runs").glob("*.toml")]}
    drawn = {dl.load(found[name]).theory for name in named if name in found}
    assert set(registry.names("theories")) <= drawn


PAGES = (
    "first-curve", "one-pass", "multi-pass", "estimation", "hierarchical", "mup", "giant-step", "truncation",
    "derivatives",
)  # fmt: skip


def _execute(root: Path) -> dict:
    import runpy

    return runpy.run_path(str(root / "docs" / "tutorials" / "execute.py"))


def test_every_tutorial_shows_its_output_and_its_picture(root: Path) -> None:
    folder = root / "docs" / "tutorials"
    assert {path.stem for path in folder.glob("*.md")} == set(PAGES)
    shown = set()
    for path in folder.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        if path.stem != "first-curve":
            assert "```text\n" in text, f"python docs/tutorials/execute.py {path.stem}"
        for picture in re.findall(r"\]\(figures/(\w+\.png)\)", text):
            assert f'"{picture}"' in text, f"{path.name} does not make {picture}"
            shown.add(picture)
    assert {path.name for path in (folder / "figures").glob("*.png")} == shown


def test_blocks_are_executed_in_order_and_their_output_replaced(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = "a\n\n```python\nx = 2\n```\n\nb\n\n```python\nprint(x + 1)\n```\n\n```text\nold\n```\n"
    page += "\n```toml\nx = 1\n```\n"
    page += "\n```bash\ndimladder new online-erf -o run.toml\n```\n"
    new = _execute(root)["executed"](page)
    assert "```python\nx = 2\n```\n\nb" in new, "what prints nothing has no output"
    assert "```python\nprint(x + 1)\n```\n\n```text\n3\n```\n" in new
    assert "old" not in new
    assert "```text\nrun.toml\n```" in new
    assert "```toml\nx = 1\n```" in new
    with pytest.raises(SystemExit):
        _execute(root)["executed"]("```bash\ndimladder new nosuch\n```\n")


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in PAGES if name != "first-curve"])
def test_tutorials_run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Every page runs as it stands, and ends with the verdict that it prints."""
    monkeypatch.chdir(tmp_path)
    page = (root / "docs" / "tutorials" / f"{name}.md").read_text(encoding="utf-8")
    new = _execute(root)["executed"](page)
    verdicts = r"^(agree|disagree|inconclusive) p ="
    assert re.findall(verdicts, new, re.MULTILINE) == re.findall(verdicts, page, re.MULTILINE)
