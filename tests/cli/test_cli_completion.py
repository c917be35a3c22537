"""The tab key of a shell, and what `show` says was read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dimladder import load, loads
from dimladder.cli import BUILT_IN, main
from dimladder.cli.completion import SCRIPTS, candidates


def test_verbs_options_values_and_theories_are_completed() -> None:
    assert set(candidates([""])) >= {*BUILT_IN, "compare", "simulate"}
    assert candidates(["sol"]) == ["solve"]
    assert "--rtol" in candidates(["solve", "run.toml", "--"])
    assert candidates(["escape", "run.toml", "--format", "te"]) == ["tex", "text"]
    assert candidates(["compare", "run.toml", "--dtype", ""]) == ["float32", "float64"]
    assert candidates(["show", "multi"]) == ["multi-pass", "multiscale-ridge"]
    assert "online-erf" in candidates(["new", "onl"])
    assert set(candidates(["completion", ""])) >= set(SCRIPTS)


def test_run_files_and_their_keys_are_completed(runs: Path) -> None:
    assert candidates(["solve", f"{runs}/online-er"]) == [f"{runs}/online-erf.toml"]
    for option in ("--set", "--grid"):
        found = candidates(["solve", f"{runs}/online-erf.toml", option, "algorithm.le"])
        assert found == ["algorithm.learning_rate="]
    # Keys at their default too; and once a run file is there, no second one.
    assert "target.noise=" in candidates(["solve", f"{runs}/online-erf.toml", "--set", "target."])
    assert candidates(["solve", f"{runs}/online-erf.toml", f"{runs}/online"]) == []


def test_what_completes_nothing_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["nosuch", "x"], ["solve", "nosuch.toml", "--set", "a"]):
        assert main(["completion", "words", "--", *words]) == 0
    out = capsys.readouterr()
    assert out.out == out.err == ""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_asks_the_command(runs: Path, tmp_path: Path) -> None:
    command = tmp_path / "dimladder"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m dimladder "$@"\n')
    command.chmod(0o755)
    script = (
        'eval "$(dimladder completion bash)"\n'
        f"COMP_WORDS=(dimladder sweep {runs}/online-erf.toml --grid algorithm.learn); COMP_CWORD=4\n"
        '_dimladder 2>/dev/null; echo "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "algorithm.learning_rate="


def test_show_prints_what_was_read(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = runs / "online-multi-index.toml"
    assert main(["show", str(path), "--set", "algorithm.learning_rate=0.25"]) == 0
    text = capsys.readouterr().out.split("As it was read")[1].split("\n", 1)[1]
    read = tomllib.loads(text)
    assert read["algorithm"]["learning_rate"] == 0.25
    assert "batch_size" not in read["algorithm"], "a default"
    # Nothing is lost: it loads back to the same problem.
    assert loads(f"schema = 2\n{text}") == load(path, {"algorithm.learning_rate": 0.25})
