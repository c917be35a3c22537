"""Lines of theory through a finer solve: exact at the points asked for, and only where finer points cost little."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.cli import main
from dimladder.errors import SolveError
from dimladder.paper.plan import make
from dimladder.publish import refined
from dimladder.results import LearningCurve

TIMES = [0.0, 0.5, 1.0, 4.0, 20.0]


@pytest.fixture(scope="module")
def curve(runs: Path) -> LearningCurve:
    return dl.solve(dl.load(runs / "truncation-flow.toml", {"grid.time": TIMES}))


def test_the_finer_curve_passes_through_the_points_asked_for(curve: LearningCurve) -> None:
    finer = refined(curve)
    assert finer is not None
    times = finer.dataset.coords["time"].values
    assert set(TIMES) <= set(times.tolist())
    assert 200 < len(times) < 300
    # Far apart in ratio: between 4 and 20 the points lie geometrically, from 0 to 0.5 evenly.
    late = times[times >= 4.0]
    assert np.ptp(np.diff(np.log(late))) < 1e-12
    np.testing.assert_allclose(np.diff(times[times <= 0.5]), times[1] - times[0], rtol=1e-9)
    for name in curve:
        at = finer[name].sel(time=TIMES).values
        np.testing.assert_allclose(at, curve[name].values, rtol=1e-6, atol=1e-9)


def test_what_is_fine_already_or_cannot_be_stated_again_is_left_alone(curve: LearningCurve, runs: Path) -> None:
    assert refined(dl.solve(dl.load(runs / "truncation-flow.toml", {"grid.time": np.linspace(0, 9, 150)}))) is None
    unknown = {"problem": curve.problem_toml.replace("truncation-flow", "no-such-theory")}
    assert refined(LearningCurve(curve.dataset.assign_attrs(unknown))) is None
    assert refined(LearningCurve(curve.dataset.assign_attrs(problem=""))) is None
    assert refined(LearningCurve(curve.dataset.assign_attrs(status="step-size-underflow"))) is None


def test_a_result_that_is_not_reproduced_keeps_its_own_points(
    curve: LearningCurve, caplog: pytest.LogCaptureFixture
) -> None:
    (name, *_) = curve
    assert refined(LearningCurve(curve.dataset.assign({name: curve[name] * 1.01}))) is None
    assert "not what is computed today" in caplog.text


def test_an_expensive_theory_is_not_solved_again(curve: LearningCurve, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_: object) -> None:
        raise SolveError("solved again")

    monkeypatch.setattr("dimladder.publish.solve", no)
    assert refined(curve) is None  # a solve that fails leaves the points asked for
    monkeypatch.undo()
    monkeypatch.setattr("dimladder.publish._CHEAP", ())
    monkeypatch.setattr("dimladder.publish.SECONDS", 0.0)
    assert refined(curve) is None
    monkeypatch.setattr("dimladder.publish.SECONDS", 1e9)
    assert refined(curve) is not None


def test_labels_and_axes_of_the_command_line(
    curve: LearningCurve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve.save(tmp_path / "run" / "result.nc")
    (name, *_) = curve
    words = ["export", str(tmp_path / "run"), "--to", str(tmp_path / "x"), "--format", "pgf,tex"]
    options = ["--label", f"{name}=\\mathcal{{W}}", "--axis", "time=$t/\\tau$"]
    assert main([*words, *options]) == 0
    for file in ("figure_body.tex", "table.tex"):
        text = (tmp_path / "x" / file).read_text()
        assert r"\mathcal{W}" in text
        assert r"$t/\tau$" in text
    assert len((tmp_path / "x" / "figure_a.csv").read_text().splitlines()) > 150
    assert main([*words, "--no-refine"]) == 0
    assert len((tmp_path / "x" / "figure_a.csv").read_text().splitlines()) <= 1 + len(TIMES)
    capsys.readouterr()
    for bad in ("--label", "--axis"):
        assert main([*words, bad, "nothing"]) == 2
        assert "NAME=" in capsys.readouterr().err


BROWSER = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")) if p), None)


@pytest.mark.skipif(BROWSER is None, reason="no browser at hand")
def test_a_report_is_drawn_by_a_browser_without_a_network(runs: Path, tmp_path: Path) -> None:
    curve = dl.solve(dl.load(runs / "online-erf.toml", {"student.activation": "tanh", "grid.time": [0.0, 1.0, 4.0]}))
    page = dl.report(curve, tmp_path / "report.html", refine=False)
    text = page.read_text(encoding="utf-8")
    measure = "document.title = [document.documentElement.scrollWidth, innerWidth, window.errors || 0].join(' ')"
    first, rest = text.split("<head>", 1)
    heard = "<script>window.errors = 0; addEventListener('error', () => window.errors++)</script>"
    page.write_text(f"{first}<head>{heard}{rest.replace('</body>', f'<script>{measure}</script></body>')}")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1100,900", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", done.stdout)
    assert found is not None, "the scripts of the page ran"
    wide, window, errors = map(int, found.groups())
    assert errors == 0
    assert wide <= window, "nothing sticks out of the page"
    # One line of theory a component: e_g, six Q, six M, three a at least; formulas are MathML.
    assert done.stdout.count("<path") + done.stdout.count("<polyline") >= 16
    assert done.stdout.count("<math") > 20


def test_sweeps_are_drawn_through_finer_lines_too(runs: Path) -> None:
    problem = dl.load(runs / "truncation-flow.toml", {"grid.time": TIMES})
    diagram = dl.sweep(problem, {"initial.threshold": [0.5, 0.75]})
    finer = refined(diagram)
    assert finer is not None
    assert finer.dataset.sizes["initial.threshold"] == 2
    plan = make([diagram], ["threshold"], lines={0: finer})
    lines = {s.run: s.line for panel in plan.panels for s in panel.series}
    assert len(lines) == 2
    for k, line in lines.items():
        assert line is not None
        x, y = line
        assert len(x) > 200
        np.testing.assert_allclose(y[np.isin(x, TIMES)], diagram["threshold"].values[k], rtol=1e-6)
    assert refined(dl.sweep(problem, {"initial.threshold": [0.5, 0.75], "data.mean": [1.0, 1.1]})) is None


def test_a_comparison_along_a_grid_is_one_source(runs: Path, tmp_path: Path) -> None:
    """The folder of ``compare --grid`` holds a run folder a point: exported and reported as they belong together."""
    for target, verdict in ((1.5, "agree"), (1.9, "inconclusive")):
        folder = tmp_path / "along" / f"target={target}"
        folder.mkdir(parents=True)
        dl.solve(dl.load(runs / "truncation-flow.toml", {"data.target": target})).save(folder / "theory.nc")
        judged = {"verdict": verdict, "max_z": 1.25, "p_value": 0.5, "reasons": []}
        (folder / "comparison.json").write_text(json.dumps(judged))
    dl.export(tmp_path / "along", tmp_path / "paper", ["csv"], refine=False)
    assert {f.name for f in (tmp_path / "paper").iterdir()} == {
        "theory_target_1.5_time.csv",
        "theory_target_1.9_time.csv",
    }
    text = dl.report(tmp_path / "along", tmp_path / "along.html", refine=False).read_text()
    assert "target=1.9</td><td>inconclusive</td><td>1.25</td><td>0.5</td>" in text
