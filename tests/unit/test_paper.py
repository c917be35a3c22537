"""Figures, tables, macros, CSV and pgfplots of synthetic results whose every number is known."""

from __future__ import annotations

import csv
import itertools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dimladder.errors import ResultFileError, UsageError
from dimladder.paper import Names, equations_document, export, figure
from dimladder.paper.draw import inches_of
from dimladder.paper.labels import with_indices
from dimladder.paper.plan import COLOURS, make, sequential
from dimladder.paper.tex import macro_name, number, rounded, with_error
from dimladder.results import LearningCurve, Measurement, PhaseDiagram, Result
from dimladder.typeset import displayed
from dimladder.typeset.words import escape

TIMES = np.array([0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0])
SIZES = [100, 400]
latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")


def _values() -> dict[str, tuple[tuple[str, ...], np.ndarray, str]]:
    error = 0.5 / (1 + TIMES)
    overlap = np.einsum("t,ij->tij", np.tanh(TIMES / 10), np.array([[1.0, 0.2], [0.2, 0.8]]))
    return {
        "generalization_error": (("time",), error, r"\epsilon_g"),
        "Q": (("time", "student", "student"), overlap, "Q_{il}"),
    }


@pytest.fixture
def curve() -> LearningCurve:
    variables = {n: (d, v, tex, "", None) for n, (d, v, tex) in _values().items()}
    variables["null_error"] = ((), np.array(0.25), r"\epsilon_0", "", None)
    return LearningCurve.build(None, {"time": TIMES}, variables)


@pytest.fixture
def measured() -> Measurement:
    variables = {}
    for name, (dims, values, tex) in _values().items():
        shift = np.array([1 + 1 / d for d in SIZES]).reshape(-1, *[1] * values.ndim)
        variables[name] = (("d", *dims), values * shift, tex, "", None)
        variables[f"{name}_se"] = (("d", *dims), np.full((2, *values.shape), 0.0123), "", "", None)
    return Measurement.build(
        None, {"d": SIZES, "time": TIMES}, variables, stats={"size": "d", "replicas": 8, "seed": 3}
    )


def _read(path: Path) -> dict[str, list[str]]:
    with path.open() as file:
        rows = list(csv.reader(file))
    assert {len(r) for r in rows} == {len(rows[0])}
    return {name: [r[i] for r in rows[1:]] for i, name in enumerate(rows[0])}


def test_csv_reads_back_exactly(curve: LearningCurve, measured: Measurement, tmp_path: Path) -> None:
    export([curve, measured], tmp_path, ["csv"])
    theory = _read(tmp_path / "theory_time.csv")
    assert list(theory) == ["time", "generalization_error", "Q_0_0", "Q_0_1", "Q_1_0", "Q_1_1"]
    assert [float(v) for v in theory["generalization_error"]] == curve["generalization_error"].values.tolist()
    small = _read(tmp_path / "simulation_time_d100.csv")
    assert [float(v) for v in small["Q_0_1"]] == measured["Q"].values[0, :, 0, 1].tolist()
    assert set(small["Q_0_1_se"]) == {"0.0123"}
    assert _read(tmp_path / "theory.csv") == {"null_error": ["0.25"]}


def test_theory_is_a_line_and_simulation_markers_of_the_same_colour(
    curve: LearningCurve, measured: Measurement
) -> None:
    plan = make([curve, measured])
    assert [p.variable for p in plan.panels] == ["generalization_error", "Q"]
    assert plan.size_labels == ["$d = 100$", "$d = 400$"]
    overlap = plan.panels[1]
    # The symmetric matrix shows its upper triangle: 3 components, each a line and two sets of markers.
    by_column: dict[str, set[str]] = {}
    for s in overlap.series:
        by_column.setdefault(s.column, set()).add(s.colour)
    assert list(by_column) == ["Q_0_0", "Q_0_1", "Q_1_1"]
    assert all(len(colours) == 1 for colours in by_column.values())
    assert len({c for colours in by_column.values() for c in colours}) == 3
    assert [s.label for s in overlap.series if s.label] == ["$Q_{11}$", "$Q_{12}$", "$Q_{22}$"]
    assert overlap.x_log
    assert plan.panels[0].y_log
    assert not overlap.y_log


def test_no_legend_covers_data(curve: LearningCurve, measured: Measurement) -> None:
    for style in ("single", "double", "neurips", "slides"):
        fig = figure([curve, measured], style=style)
        renderer = fig.canvas.get_renderer()
        boxes = [
            legend.get_window_extent(renderer)
            for legend in [*fig.legends, *(a.get_legend() for a in fig.axes)]
            if legend
        ]
        assert boxes
        for box in boxes:
            for ax in fig.axes:
                inner = ax.get_window_extent(renderer)
                assert not box.overlaps(inner), style
        assert abs(fig.get_figwidth() - {"single": 3.375, "double": 7.0, "neurips": 5.5, "slides": 10.0}[style]) < 1e-9
        width, height = fig.canvas.get_width_height()
        for ax in fig.axes:
            tight = ax.get_tightbbox(renderer)
            assert tight.x0 > -1
            assert tight.y0 > -1
            assert tight.x1 < width + 1
            assert tight.y1 < height + 1


def test_figure_files_are_reproducible(curve: LearningCurve, tmp_path: Path) -> None:
    (first,) = export(curve, tmp_path / "a", ["pdf"])
    (second,) = export(curve, tmp_path / "b", ["pdf"])
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"%PDF")


def test_macros_have_letters_only_and_carry_the_uncertainty(
    curve: LearningCurve, measured: Measurement, tmp_path: Path
) -> None:
    (path,) = export([curve, measured], tmp_path, ["macros"], prefix="my")
    found = dict(re.findall(r"\\newcommand\{\\([^}]*)\}\{(.*)\}%", path.read_text()))
    assert all(name.isalpha() and name.isascii() for name in found)
    assert found["myNullError"] == "0.25"
    assert found["myGeneralizationErrorFinal"] == "0.0049505"
    assert found["myQZeroOneFinalSimulated"] == "0.200"
    assert found["myQZeroOneFinalSimulatedSe"] == "0.012"


def test_table_puts_theory_beside_the_largest_size(curve: LearningCurve, measured: Measurement, tmp_path: Path) -> None:
    whole, *parts = export([curve, measured], tmp_path, ["tex"])
    text = whole.read_text()
    assert r"10 & 0.0454545 & 0.046(12) \\" in text
    # One variable a file, for floats that fit a page.
    assert [path.name for path in parts] == ["table_numbers.tex", "table_generalization_error.tex", "table_Q.tex"]
    assert "0.046(12)" in parts[1].read_text()
    assert "0.046(12)" not in parts[2].read_text()
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 3


@pytest.mark.parametrize(
    ("value", "se", "shown"),
    [
        (0.123456, 0.00123, ("0.1235", "0.0012")),
        (-3.14159, 0.02, (r"\ensuremath{-3.142}", "0.020")),
        (12345.6, 234.0, ("12350", "230")),
        (1.23456e-7, 1.2e-9, (r"\ensuremath{1.235\times10^{-7}}", r"\ensuremath{0.012\times10^{-7}}")),
        (2.0, 0.0, ("2", "0")),
        (2.0, 0.0996, ("2.00", "0.10")),
    ],
)
def test_rounding_keeps_two_digits_of_the_uncertainty(value: float, se: float, shown: tuple[str, str]) -> None:
    assert rounded(value, se) == shown


@pytest.mark.parametrize(
    ("value", "se", "shown"),
    [
        (-3.14159, 0.02, r"\ensuremath{-3.142(20)}"),
        (12345.6, 234.0, "12350(230)"),
        (1.23456e-12, 1.2e-14, r"\ensuremath{1.235(12)\times10^{-12}}"),
        (2.0, 0.0, "2"),
        (2.0, 0.0996, "2.00(10)"),
        (2.0, float("nan"), "2"),
    ],
)
def test_uncertainties_stand_in_the_last_digits(value: float, se: float, shown: str) -> None:
    assert with_error(value, se) == shown


def test_numbers_and_names() -> None:
    assert number(float("inf")) == r"\ensuremath{\infty}"
    assert number(float("nan")) == "--"
    assert number(True) == "true"
    assert number(1e-9) == r"\ensuremath{1\times10^{-9}}"
    assert macro_name("algorithm", "learning_rate") == "AlgorithmLearningRate"
    assert macro_name("Q", "0", "12") == "QZeroOneTwo"
    assert macro_name("ratio", "0.5") == "RatioZeroPointFive"
    assert escape("50% of x_1 & {y} ~ #2 ^ $ \\") == (
        r"50\% of x\_1 \& \{y\} \textasciitilde{} \#2 \textasciicircum{} \$ \textbackslash{}"
    )


@pytest.mark.parametrize(
    ("symbol", "indices", "shown"),
    [
        ("Q_{il}", ["1", "2"], "Q_{12}"),
        ("a_i", ["3"], "a_{3}"),
        (r"\Phi^l_{\mu\nu}(t)", ["1", "2"], r"\Phi^l_{12}(t)"),
        (r"E_{\rm test}", ["1"], r"{E_{\rm test}}_{1}"),
        ("Q_{il}", ["10", "2"], "Q_{10,2}"),
        ("q", ["1"], "q_{1}"),
    ],
)
def test_indices_replace_their_letters(symbol: str, indices: list[str], shown: str) -> None:
    assert with_indices(symbol, "name", indices) == shown


def test_infinite_coordinate_is_a_limit_and_a_staircase_has_steps() -> None:
    ratios = np.array([1.0, 2.0, 4.0, 8.0, 16.0, np.inf])
    overlap = LearningCurve.build(None, {"ratio": ratios}, {"q": (("ratio",), 1 - 1 / (1 + ratios), "q", "", None)})
    plan = make([overlap])
    assert plan.limit_label == r"ratio $\to\infty$"
    assert plan.panels[0].x_log
    figure([overlap])
    kappa = np.linspace(0, 4, 41)
    stairs = LearningCurve.build(
        None,
        {"kappa": kappa},
        {"error": (("kappa",), np.where(kappa < 1.5, 1.0, np.where(kappa < 3, 0.4, 0.0)), "", "", None)},
    )
    assert make([stairs]).panels[0].series[0].stairs
    assert not make([overlap]).panels[0].series[0].stairs


def test_curves_of_different_parameters_are_told_apart() -> None:
    import dimladder as dl

    base = Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "truncation-flow.toml"
    problems = [dl.load(base, {"data.target": target}) for target in (1.9, 2.5)]
    curves = [
        LearningCurve.build(p, {"time": TIMES}, {"x": (("time",), TIMES + i, "x", "", None)})
        for i, p in enumerate(problems)
    ]
    plan = make(curves)
    # Colour tells parameters apart, the line theories of one problem.
    assert [label for _, label in plan.runs] == ["target = 1.9", "target = 2.5"]
    assert [s.colour for s in plan.panels[0].series] == [colour for colour, _ in plan.runs]
    assert [s.style for s in plan.panels[0].series] == [0, 0]
    assert plan.theory_labels == ["theory"]


def _diagram() -> PhaseDiagram:
    rates, noises = np.array([0.1, 0.2, 0.4]), np.array([0.0, 1.0])
    error = np.outer(rates, 1 + noises)
    error[2, 1] = np.nan
    status = np.where(np.isnan(error), "diverged", "success")
    dims = ("algorithm.rate", "target.noise")
    return PhaseDiagram.build(
        None, {"algorithm.rate": rates, "target.noise": noises},
        {"error": (dims, error, r"\epsilon", "", None), "status": (dims, status, "", "", None)},
        stats={"grid": list(dims)},
    )  # fmt: skip


def test_phase_diagram_keeps_its_failed_points(tmp_path: Path) -> None:
    diagram = _diagram()
    plan = make([diagram])
    assert [p.variable for p in plan.panels] == ["error"]
    assert np.isnan(plan.panels[0].map_z).sum() == 1  # type: ignore[arg-type]
    export(diagram, tmp_path, ["png", "csv", "macros", "tex", "pgf"])
    table = _read(tmp_path / "theory.csv")
    assert len(table["error"]) == 6
    assert table["error"][-1] == "nan"
    assert table["status"][-1] == "diverged"


def test_saved_results_export_like_those_in_memory(curve: LearningCurve, measured: Measurement, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    curve.save(folder / "theory.nc")
    measured.save(folder / "result.nc")
    export(folder, tmp_path / "a", ["csv", "macros"])
    export([curve, measured], tmp_path / "b", ["csv", "macros"])
    for path in (tmp_path / "b").iterdir():
        assert (tmp_path / "a" / path.name).read_text() == path.read_text()


def test_bad_requests_are_explained(curve: LearningCurve, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pgf"):
        export(curve, tmp_path, ["pfg"])
    with pytest.raises(UsageError, match="double"):
        export(curve, tmp_path, ["pdf"], "duoble")
    with pytest.raises(UsageError, match="generalization_error"):
        export(curve, tmp_path, ["pdf"], variables=["generalisation_error"])
    with pytest.raises(UsageError, match="letters"):
        export(curve, tmp_path, ["macros"], prefix="a1")
    with pytest.raises(ResultFileError):
        export(tmp_path / "nothing", tmp_path, ["csv"])
    scalar = LearningCurve.build(None, {}, {"x": ((), np.array(1.0), "x", "", None)})
    with pytest.raises(UsageError, match="nothing to draw"):
        export(scalar, tmp_path, ["pdf"])
    assert export(scalar, tmp_path, ["tex", "csv", "macros"])


def _compile(folder: Path, name: str) -> None:
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name], cwd=folder, capture_output=True, text=True,
        check=False, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1500:]
    assert "Missing character" not in done.stdout


@latex
@pytest.mark.parametrize("kind", ["pair", "diagram"])
def test_pgfplots_compiles_by_itself(curve: LearningCurve, measured: Measurement, tmp_path: Path, kind: str) -> None:
    source: Result | list[Result] = _diagram() if kind == "diagram" else [curve, measured]
    export(source, tmp_path, ["pgf"], "double")
    _compile(tmp_path, "figure_pgf.tex")


@latex
def test_table_macros_and_equations_compile(curve: LearningCurve, measured: Measurement, tmp_path: Path) -> None:
    export([curve, measured], tmp_path, ["tex", "macros"])
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,amsmath}\\input{macros}\\begin{document}\\input{table}"
        "$\\dlGeneralizationErrorFinalSimulated \\pm \\dlGeneralizationErrorFinalSimulatedSe$\\end{document}"
    )
    _compile(tmp_path, "paper.tex")
    body = displayed([r"\frac{dQ}{dt} = -Q", "x = " + " + ".join(["y^{2}"] * 80)], 2)
    document = equations_document(body, title="50% of d^eps & more", columns=2)
    (tmp_path / "equations.tex").write_text(document)
    _compile(tmp_path, "equations.tex")


def test_an_incomplete_result_says_so_wherever_it_is_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dimladder.cli import main

    stopped = LearningCurve.build(
        None, {"time": TIMES}, {"x": (("time",), TIMES, "x", "", None)}, status="step-size-underflow", message="at 100"
    )
    stopped.save(tmp_path / "r.nc")
    assert main(["export", str(tmp_path / "r.nc"), "--to", str(tmp_path / "x"), "--format", "macros,tex"]) == 0
    assert "step-size-underflow" in capsys.readouterr().err
    for name in ("macros.tex", "table.tex"):
        assert "INCOMPLETE (step-size-underflow)" in (tmp_path / "x" / name).read_text()


def test_theories_of_several_sizes_have_lines_and_numbers_of_their_own(runs: Path, tmp_path: Path) -> None:
    import dimladder as dl

    base = dl.load(runs / "hierarchical-flow.toml")
    curves = [
        LearningCurve.build(
            dl.replace(base, {"limit.d": d}), {"time": TIMES}, {"q": (("time",), TIMES / d, "q", "", None)}
        )
        for d in (400, 100)
    ]
    measured = Measurement.build(
        base, {"d": [100], "time": TIMES}, {"q": (("d", "time"), TIMES[None] / 100, "q", "", None)}, stats={"size": "d"}
    )
    assert make([*curves, measured]).theory_labels == ["theory, $d$ = 400", "theory, $d$ = 100"]
    # In two rows, the line of each size stands above its markers; legends fill column by column.
    values = np.stack([TIMES / 100, TIMES / 400])
    both = Measurement.build(
        base, {"d": [100, 400], "time": TIMES}, {"q": (("d", "time"), values, "q", "", None)}, stats={"size": "d"}
    )
    shown = [t.get_text() for t in figure([*curves, both], style="single").legends[0].get_texts()]
    assert [label.split()[-1].rstrip("$") for label in shown] == ["100", "100", "400", "400"]
    export([*curves, measured], tmp_path, ["macros", "csv"])
    text = (tmp_path / "macros.tex").read_text()
    assert r"\newcommand{\dlQFinalAtDFourZeroZero}{0.25}" in text
    assert r"\newcommand{\dlQFinalAtDOneZeroZero}{1}" in text
    assert {p.name for p in tmp_path.glob("theory*.csv")} == {"theory_d_400_time.csv", "theory_d_100_time.csv"}


def _three_runs(runs: Path) -> tuple[list[LearningCurve], list[Measurement]]:
    """Return theories x = rate t and measurements twice as large, at three learning rates: no two share a number."""
    import dimladder as dl

    base = dl.load(runs / "truncation-flow.toml", {"grid.time": TIMES.tolist()})
    problems = {target: dl.replace(base, {"data.target": target}) for target in (1.9, 1.5, 1.7)}
    dims = ("time", "student")
    curves = [
        LearningCurve.build(
            p, {"time": TIMES},
            {"w": (dims, np.outer(TIMES, [t, -t]), "w_i", "", None), "limit": ((), np.array(10 * t), "", "", None)},
        )
        for t, p in problems.items()
    ]  # fmt: skip
    measured = [
        Measurement.build(
            p, {"n": [10, 20], "time": TIMES},
            {
                "w": (("n", *dims), np.stack([np.outer(TIMES, [2 * t, -2 * t])] * 2), "w_i", "", None),
                "w_se": (("n", *dims), np.full((2, 8, 2), 1e-3), "", "", None),
            },
            stats={"size": "n", "seed": 1},
        )
        for t, p in problems.items()
    ]  # fmt: skip
    return curves, measured


@pytest.mark.parametrize("order", ["theories first", "mixed", "reversed"])
def test_every_exporter_pairs_theory_and_simulation_by_problem(runs: Path, tmp_path: Path, order: str) -> None:
    curves, measured = _three_runs(runs)
    results: list[Result] = [*curves, *measured]
    if order == "mixed":
        results = [measured[2], curves[0], measured[0], curves[2], curves[1], measured[1]]
    if order == "reversed":
        results = results[::-1]
    plan = make(results)
    # One panel a component; colour = parameter, in its order; marker = size; every series is drawn.
    assert [p.y_label for p in plan.panels] == ["$w_{1}$", "$w_{2}$"]
    assert [label for _, label in plan.runs] == ["target = 1.5", "target = 1.7", "target = 1.9"]
    assert len({colour for colour, _ in plan.runs}) == 3
    for panel, sign in zip(plan.panels, (1, -1), strict=True):
        assert len(panel.series) == 9
        for s in panel.series:
            target = float(s.run_label.rsplit(" ", 1)[1])
            factor = sign * target * (2 if s.kind == "simulation" else 1)
            np.testing.assert_allclose(s.y, factor * TIMES)
            assert s.colour == {label: colour for colour, label in plan.runs}[s.run_label]
    export(results, tmp_path, ["tex", "macros", "csv", "pgf", "bib"])
    table = (tmp_path / "table.tex").read_text()
    assert re.findall(r"limit, target = ([\d.]+) &", table) == ["1.5", "1.7", "1.9"], "in the order of the runs"
    seen = 0
    titles: list[str] = []
    for line in table.splitlines():
        cells = [c.strip(" \\") for c in line.split("&")]
        if "multicolumn" in line:
            titles = [title for title in cells[1:] for _ in range(2)]
            assert all(title.startswith("multicolumn{2}") for title in titles)
        elif cells[0].startswith("time") and titles:
            assert cells[1:] == ["theory", "simulation"] * (len(titles) // 2)
        elif cells[0] == "10":
            for position, (title, cell) in enumerate(zip(titles, cells[1:], strict=True)):
                target = float(title.split("target = ")[1][:3])
                value = float(re.sub(r"[^\d.\- ]", "", cell).split()[0])
                expected = (1 if "w_{1}" in title else -1) * 10 * target * (1 + position % 2)
                assert value == pytest.approx(expected, abs=0.01), title
                seen += 1
    assert seen == 12
    found = dict(re.findall(r"\\newcommand\{\\([^}]*)\}\{(.*)\}%", (tmp_path / "macros.tex").read_text()))
    assert found["dlWZeroFinalAtTargetOnePointSeven"] == "170"
    assert found["dlWZeroFinalSimulatedAtTargetOnePointNine"].startswith("380")
    assert found["dlLimitAtTargetOnePointFive"] == "15"
    assert not any(name.endswith("X") or name == "dlWZeroFinal" for name in found)
    assert float(_read(tmp_path / "theory_target_1.7_time.csv")["w_0"][-1]) == 170
    assert float(_read(tmp_path / "simulation_target_1.9_time_n20.csv")["w_1"][-1]) == -380
    # The picture of LaTeX shows the same numbers.
    body = (tmp_path / "figure_body.tex").read_text()
    assert body.count(r"\addplot") == 18
    drawn = _read(tmp_path / "figure_a.csv")
    assert sorted(float(v[-1]) for k, v in drawn.items() if k.startswith("y")) == [
        150,
        170,
        190,
        *[300] * 2,
        *[340] * 2,
        *[380] * 2,
    ]


def test_a_key_that_the_language_got_since_tells_nothing_apart(runs: Path, tmp_path: Path) -> None:
    curves, measured = _three_runs(runs)
    data = measured[0].dataset.copy()
    before = data.attrs["problem"]
    # As a version before would have stored it: no key of this name, whose default the theory's result has.
    data.attrs["problem"] = re.sub(r"^(smoothing|optimise|levels) = .*\n", "", before, flags=re.MULTILINE)
    assert data.attrs["problem"] != before
    plan = make([curves[0], Measurement(data)])
    assert not plan.runs
    assert {s.run_label for p in plan.panels for s in p.series} == {""}
    export([curves[0], Measurement(data)], tmp_path, ["macros"])
    assert "None" not in (tmp_path / "macros.tex").read_text()


def test_the_same_problem_twice_is_one_result_or_refused(runs: Path, tmp_path: Path) -> None:
    curves, _ = _three_runs(runs)
    export([curves[0], LearningCurve(curves[0].dataset.copy())], tmp_path, ["macros"])
    other = LearningCurve(curves[0].dataset.assign(w=curves[0]["w"] + 1))
    with pytest.raises(UsageError, match="cannot be told apart"):
        export([curves[0], other], tmp_path, ["macros"])


def test_a_sweep_and_runs_share_a_figure(runs: Path) -> None:
    curves, measured = _three_runs(runs)
    from dimladder.problem import to_builtins

    targets = np.array([1.5, 1.6, 1.7])
    swept = PhaseDiagram.build(
        _problem_of(curves[0]), {"data.target": targets, "time": TIMES, "student": [0, 1]},
        {"w": (("data.target", "time", "student"), np.einsum("a,t,i->ati", targets, TIMES, [1, -1]), "w_i", "", None)},
        stats={"grid": ["data.target"]}, extra={"grid": to_builtins({"data.target": targets.tolist()})},
    )  # fmt: skip
    plan = make([swept, measured[1], measured[0]])
    assert [label for _, label in plan.runs] == [f"target = {t}" for t in (1.5, 1.6, 1.7, 1.9)]
    kinds = [(s.kind, s.run) for s in plan.panels[0].series]
    assert kinds == [("theory", 0), ("theory", 1), ("theory", 2), *[("simulation", 0)] * 2, *[("simulation", 3)] * 2]
    # The theories of the same problems stand in the sweep already: they are drawn once, and named "theory" once.
    both = make([swept, *curves, *measured])
    assert both.theory_labels == ["theory"]
    same = swept.dataset.isel({"data.target": [0, 2]})
    assert len(make([PhaseDiagram(same), *curves]).panels[0].series) == 3
    kinds = [(s.kind, s.run) for s in both.panels[0].series]
    assert kinds.count(("theory", 0)) == kinds.count(("theory", 2)) == kinds.count(("theory", 3)) == 1
    scalar = PhaseDiagram.build(
        _problem_of(curves[0]), {"data.target": targets}, {"limit": (("data.target",), 10 * targets, "", "", None)},
        stats={"grid": ["data.target"]},
    )  # fmt: skip
    (panel,) = make([scalar, *curves], ["limit"]).panels
    # The runs are points on the axis of the sweep.
    assert [s.x.tolist() for s in panel.series] == [targets.tolist(), [1.9], [1.5], [1.7]]
    assert [s.y.tolist() for s in panel.series[1:]] == [[19.0], [15.0], [17.0]]
    figure([scalar, *curves], variables=["limit"])
    with pytest.raises(UsageError, match="no room for other results"):
        make([_diagram(), curves[0]])


def _problem_of(result: Result) -> Any:
    import dimladder as dl

    return dl.loads(result.problem_toml)


def test_symbols_of_a_file_are_mathematics_or_words(curve: LearningCurve, tmp_path: Path) -> None:
    for latex in (
        r"\input{/etc/passwd}",
        r"Q}\end{document}{",
        "x%",
        r"\write18{rm}",
        "a\n\nb",
        "^^5c",
        r"\\",
        "{",
        "a#1",
    ):
        curve.dataset["Q"].attrs["latex"] = latex
        export(curve, tmp_path, ["tex", "pgf", "macros"])
        for name in ("table.tex", "figure_body.tex", "macros.tex"):
            text = (tmp_path / name).read_text()
            assert latex not in text or latex in ("{", r"\\")
            assert r"\mathrm{Q}" in text or name == "macros.tex"
    curve.dataset["Q"].attrs["latex"] = r"\bar{Q}_{il}^{\mathrm{test}}"
    export(curve, tmp_path, ["tex"])
    assert r"\bar{Q}_{11}^{\mathrm{test}}" in (tmp_path / "table.tex").read_text()


def test_any_title_is_one_line_that_every_engine_reads() -> None:
    text = equations_document(
        displayed(["a = b"]), title="first line\n\nsecond \u4e2d\u6587 \u0007 na\u00efve \u03bc", note="x\n\u2028y"
    )
    (title,) = re.findall(r"\\textbf\{(.*)\}\\par", text)
    assert title.startswith("first line second ")
    assert r"\ifdefined\Umathcode \u4e2d\else ?\fi{}" in title.replace("\u4e2d", r"\u4e2d")
    assert "na\u00efve $\\mu$" in title
    assert text.splitlines()[0] == "% x y"


@pytest.mark.parametrize("counts", [[1, 2, 3], [1, 2, 4, 8, 16, 64], [0, 1, 2]])
def test_curves_over_whole_numbers_are_drawn(counts: list[int], tmp_path: Path) -> None:
    curve = LearningCurve.build(
        None, {"depth": counts}, {"x": (("depth",), np.arange(len(counts)) + 1.0, "x", "", None)}
    )
    export(curve, tmp_path, ["png", "pgf", "tex"])
    assert [float(v) for v in _read(tmp_path / "figure_a.csv")["x1"]] == [c for c in counts if c or counts == [0, 1, 2]]


def test_labels_are_the_users(curve: LearningCurve, measured: Measurement, tmp_path: Path) -> None:
    names = Names(labels={"generalization_error": r"\mathcal{E}", "Q": "q_{ij}"}, axes={"time": "samples over $d$"})
    plan = make([curve, measured], names=names)
    assert plan.panels[0].y_label == r"$\mathcal{E}$"
    assert plan.panels[0].x_label == "samples over $d$"
    export([curve, measured], tmp_path, ["tex", "pgf"], names=names)
    for name in ("table.tex", "figure_body.tex"):
        text = (tmp_path / name).read_text()
        assert r"$\mathcal{E}$" in text
        assert "samples over $d$" in text
        assert "$q_{12}$" in text


def test_lines_are_drawn_through_finer_points_and_tables_are_not(curve: LearningCurve, tmp_path: Path) -> None:
    fine = np.linspace(0, 100, 501)
    finer = LearningCurve.build(
        None, {"time": fine}, {"generalization_error": (("time",), 0.5 / (1 + fine), r"\epsilon_g", "", None)}
    )
    export(curve, tmp_path, ["pgf", "tex", "csv"], variables=["generalization_error"], refine=lambda _: finer)
    assert len(_read(tmp_path / "figure_a.csv")["x1"]) == 496  # from the first positive time asked for, 1, to 100
    assert len(_read(tmp_path / "theory_time.csv")["time"]) == len(TIMES)
    assert (tmp_path / "table.tex").read_text().count(r"\\") < 20


def test_a_theory_at_the_size_of_a_simulation_belongs_to_its_run(runs: Path) -> None:
    """Multiscale ridge rounds samples, dimension and shares to the size: one question, not one a size."""
    import dimladder as dl
    from dimladder_validation import compare

    problem = dl.load(runs / "multiscale.toml")
    comparison = compare(problem, d=[50, 100], replicas=3)
    results = [*comparison.curves.values(), comparison.measurement]
    plan = make(results, ["generalization_error"])
    assert plan.runs == []
    assert plan.theory_labels == ["theory, $d$ = 50", "theory, $d$ = 100"]
    assert plan.size_labels == ["$d = 50$", "$d = 100$"]
    slower = compare(dl.replace(problem, {"data.spectrum.variances": [0.25, 1e-3]}), d=[50, 100], replicas=3)
    both = make([*results, *slower.curves.values(), slower.measurement], ["generalization_error"])
    assert [label for _, label in both.runs] == [
        r"variances = [0.25, $2.5\times10^{-5}$]", "variances = [0.25, 0.001]",
    ]  # fmt: skip


def test_coordinates_say_what_they_are_and_a_user_has_the_last_word(runs: Path) -> None:
    import dimladder as dl

    curve = dl.solve(dl.load(runs / "truncation-flow.toml"))
    told = LearningCurve(curve.dataset.assign_coords(time=curve["time"].assign_attrs(long_name="time $t$", units="s")))
    assert make([told]).panels[0].x_label == "time $t$ (s)"
    assert make([told], names=Names(axes={"time": "my time"})).panels[0].x_label == "my time"
    # What may not stand in a paper loses its mathematics.
    wrong = LearningCurve(curve.dataset.assign_coords(time=curve["time"].assign_attrs(long_name=r"$\input{x}$")))
    assert "$" not in make([wrong]).panels[0].x_label
    committee = dl.solve(dl.load(runs / "online-erf.toml", {"grid.time": [0.0, 1.0]}))
    assert committee["time"].attrs == {"long_name": "time $t$", "units": "steps/$d$"}


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def _lab(colour: str, vision: str) -> np.ndarray:
    """Return CIE L*a*b* (D65) of a colour as an eye sees it."""
    rgb = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(VISION[vision]) @ linear, 0.0, 1.0)
    white = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = white @ seen / white.sum(axis=1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
def test_colours_are_told_apart_by_every_kind_of_colour_vision(vision: str) -> None:
    """Any two of a figure differ by many just noticeable differences (2.3 in L*a*b*); families grow lighter."""
    for palette, least in ((COLOURS[:6], 15.0), (COLOURS, 9.0), (sequential(5), 17.0)):
        seen = [_lab(colour, vision) for colour in palette]
        pairs = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
        assert min(pairs) > least, (vision, palette, min(pairs))
    lightness = [_lab(colour, vision)[0] for colour in sequential(8)]
    assert np.all(np.diff(lightness) > 7.0)


def test_widths_are_read_with_their_units() -> None:
    read = {"column": 3.17, "text": 4.77, "2.5": 2.5, 6.6: 6.6, "8.6cm": 3.386, "86 mm": 3.386, "246pt": 3.404}
    assert {width: inches_of(width) for width in read} == pytest.approx(read, abs=1e-3)


@pytest.mark.parametrize(("width", "inches", "across"), [("column", 3.17, 1), (6.6, 6.6, 2)])
def test_a_figure_has_the_width_that_is_asked_for(
    curve: LearningCurve, measured: Measurement, tmp_path: Path, width: str | float, inches: float, across: int
) -> None:
    export([curve, measured], tmp_path, ["pdf", "pgf"], width=width)
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", (tmp_path / "figure.pdf").read_bytes())
    assert box is not None
    assert float(box[1]) / 72 == pytest.approx(inches, abs=2e-3)
    assert f"group size={across} by" in (tmp_path / "figure_body.tex").read_text()
    if shutil.which("pdflatex"):
        # A border of 3 pt on each side.
        assert _typeset_width(tmp_path) / 72.27 == pytest.approx(inches + 6 / 72.27, abs=0.01)


def _typeset_width(folder: Path) -> float:
    """The width of the document of a picture, in points of TeX."""
    plain = r"\pdfcompresslevel0\pdfobjcompresslevel0"
    source = (folder / "figure_pgf.tex").read_text().replace(r"\begin{document}", plain + r"\begin{document}")
    (folder / "plain.tex").write_text(source)
    _compile(folder, "plain.tex")
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", (folder / "plain.pdf").read_bytes())
    assert box is not None
    return float(box[1]) * 72.27 / 72


@pytest.mark.parametrize("width", ["wide", "0.2", "3 furlongs", "-3", "1e9", "nan"])
def test_widths_that_no_page_has_are_refused(width: str) -> None:
    with pytest.raises(UsageError, match=r"width|figure"):
        inches_of(width)
