"""The article of the gallery: one command from a run file to a PDF in which nothing sticks out of its column."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "docs/gallery/paper/build.py"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX at hand")
def test_the_article_builds(tmp_path: Path) -> None:
    article = runpy.run_path(str(BUILD))["build"](tmp_path, replicas=4)
    assert article is not None
    assert article.stat().st_size > 30_000
    log = (tmp_path / "paper.log").read_text(errors="replace")
    assert not [size for size in re.findall(r"Overfull \\[hv]box \(([\d.]+)pt", log) if float(size) > 5.0]
    assert "undefined" not in log
    times = [float(t) for t in re.findall(r"0\.\d+ & ([\d.]+) ", (tmp_path / "escape.tex").read_text())]
    assert len(times) == 3
    assert times == sorted(times, reverse=True), "a larger rate is faster here"
