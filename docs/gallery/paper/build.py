"""A two-page article from one run file: figure, table, equations, methods, references.

``python docs/gallery/paper/build.py -o paper`` writes the sources into ``paper`` and, where a TeX is at hand,
``paper/paper.pdf``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import dimladder as dl
from dimladder.cli import main as dimladder
from dimladder_validation import compare

HERE = Path(__file__).parent
RATES = (0.03, 0.1, 0.3)
LEVEL = 1.6


def build(folder: Path, replicas: int = 12) -> Path | None:
    """Solve, simulate, compare and export; return the article, or None where there is no TeX."""
    problem = dl.load(HERE / "run.toml")
    results: list[dl.LearningCurve | dl.Measurement] = []
    verdicts = []
    for rate in RATES:
        changed = dl.replace(problem, {"algorithm.learning_rate": rate})
        comparison = compare(changed, replicas=replicas, variables=["generalization_error"])
        results += [comparison.curve, comparison.measurement]
        verdicts.append(f"$\\eta = {rate:g}$: {comparison.verdict} ($p = {comparison.p_value:.2g}$)")
    dl.export(results, folder, style="single", variables=["generalization_error", "M"])
    (folder / "verdicts.tex").write_text("; ".join(verdicts) + ".\n")
    (folder / "escape.tex").write_text(_escape_times())
    shutil.copy(HERE / "paper.tex", folder)
    if shutil.which("pdflatex") is None:
        return None
    for command in (["pdflatex"], ["bibtex"], ["pdflatex"], ["pdflatex"]):
        options = [] if command == ["bibtex"] else ["-interaction=nonstopmode", "-halt-on-error"]
        run = [*command, *options, "paper"]
        done = subprocess.run(run, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise SystemExit(f"{command[0]} failed:\n{done.stdout[-3000:]}")
    return folder / "paper.pdf"


def _escape_times() -> str:
    import contextlib
    import io

    out = io.StringIO()
    options = ["--variable", "generalization_error", "--level", f"{LEVEL}", "--format", "tex"]
    with contextlib.redirect_stdout(out):
        rates = ",".join(map(str, RATES))
        dimladder(["escape", str(HERE / "run.toml"), *options, "--grid", f"algorithm.learning_rate={rates}"])
    return out.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("paper"))
    parser.add_argument("--replicas", type=int, default=12)
    arguments = parser.parse_args()
    print(build(arguments.output, arguments.replicas) or f"no TeX: the sources are in {arguments.output}")
