"""Every theory's references exist, and the bibliography is well-formed."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from dimladder import load, theories
from dimladder.errors import DimladderError
from dimladder.paper import cite
from dimladder.paper.bibliography import parse
from dimladder.problem import Problem


def _bib() -> str:
    return files("dimladder.theories").joinpath("references.bib").read_text(encoding="utf-8")


def test_bibliography_parses_and_keys_follow_the_convention() -> None:
    entries = parse(_bib())
    assert len(entries) > 30
    for key, entry in entries.items():
        assert re.fullmatch(r"[a-z]+\d{4}[a-z]+", key), key
        assert re.fullmatch(r"(19|20)\d\d", entry.fields["year"]), key
        assert key[-1].isalpha()
        assert re.search(r"\d{4}", key).group() == entry.fields["year"], f"the year in {key} is not the entry's"  # type: ignore[union-attr]
        if "eprint" in entry.fields:
            assert re.fullmatch(r"\d{4}\.\d{4,5}", entry.fields["eprint"]), key
            assert int(entry.fields["eprint"][:2]) + 2000 <= int(entry.fields["year"]), key


@pytest.mark.parametrize("name", theories.names())
def test_references_of_a_theory_exist(name: str) -> None:
    theory = theories.find(name)
    known = parse(_bib())
    assert theory.references, "a theory owes something to somebody"
    assert set(theory.references) <= set(known)


def test_cite_gives_exactly_what_a_run_file_uses(runs: Path) -> None:
    found = cite(load(runs / "hierarchical-flow.toml"))
    entries = parse(found.bibtex)
    assert tuple(entries) == found.keys
    assert found.keys[-1] == "dimladder"
    assert "dandi2025depth" in found.keys
    assert r"\cite{" in found.methods_latex
    assert r"\cite{" not in found.methods


def test_every_run_file_can_be_cited(runs: Path) -> None:
    for path in sorted(runs.glob("*.toml")):
        assert len(cite(load(path)).keys) >= 2, path.name


def test_damaged_bibliographies_are_refused() -> None:
    good = "@article{a2020b, author = {A}, title = {T}, journal = {J}, year = {2020}}"
    assert parse(good)["a2020b"].fields["title"] == "T"
    for bad in (good[:-1], good + good, good.replace("journal", "jurnal"), good.replace("@article", "@artikel")):
        with pytest.raises(DimladderError):
            parse(bad)


def test_unknown_key_names_the_nearest(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    theory = theories.find("hierarchical-flow")

    def wrong(problem: Problem) -> tuple[str, ...]:
        return ("dandi2025dept",)

    monkeypatch.setattr(theory, "references_for", wrong)
    with pytest.raises(DimladderError, match="dandi2025depth"):
        cite(load(runs / "hierarchical-flow.toml"))


@pytest.mark.skipif(shutil.which("bibtex") is None or shutil.which("pdflatex") is None, reason="needs LaTeX")
def test_bibtex_accepts_every_entry(tmp_path: Path) -> None:
    (tmp_path / "references.bib").write_text(_bib())
    (tmp_path / "p.tex").write_text(
        "\\documentclass{article}\\usepackage{amssymb}\\begin{document}\\nocite{*}\\bibliographystyle{plain}"
        "\\bibliography{references}\\end{document}"
    )
    for command in (
        ["pdflatex", "-interaction=nonstopmode", "p"],
        ["bibtex", "p"],
        ["pdflatex", "-interaction=nonstopmode", "p"],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]
    assert "Warning--" not in (tmp_path / "p.blg").read_text()
